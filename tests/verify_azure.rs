//! `countersign verify` on paravisors and logs of trust domains, all of it simulated: each file of a case in turn.
#![expect(clippy::expect_used, reason = "test code")]

use std::fs;
use std::sync::LazyLock;

use countersign::cli::verify::{Verdict, VerifyArgs, VerifyOutput, judge_manifest};
use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::claims::PcrHash;
use countersign_attestation::protocol::PcrSelection;
use serde_json::{Map, Value, json};

#[path = "sim/amd.rs"]
mod amd;
#[path = "sim/hcl.rs"]
mod hcl;
#[path = "sim/tpm.rs"]
mod tpm;

use tpm::{AkKind, SimManufacturer, SimTpm};

static MILAN: LazyLock<amd::AmdSimulator> = LazyLock::new(|| amd::AmdSimulator::new(AmdProduct::Milan));

const NONCE: &[u8] = b"challenge";

/// The files of a case by role.
#[derive(Clone)]
struct Files(Vec<(&'static str, Vec<u8>)>);

impl Files {
    fn with(&self, role: &'static str, bytes: Vec<u8>) -> Self {
        let mut files = self.without(role);
        files.0.push((role, bytes));
        files
    }

    fn without(&self, role: &str) -> Self {
        Self(self.0.iter().filter(|(name, _)| *name != role).cloned().collect())
    }

    /// The reason, or `accept`; with the claims.
    fn judge(&self, kind: &str) -> (String, Value) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = Map::new();
        for (role, bytes) in &self.0 {
            fs::write(folder.path().join(role), bytes).expect("a file");
            files.insert((*role).to_owned(), json!(role));
        }
        let case = json!([{"id": "case", "kind": kind, "files": files, "evaluation_time": "2026-06-01T00:00:00Z",
            "expect": "accept", "expect_detail": {"nonce": hex::encode(NONCE)}}]);
        let manifest = folder.path().join("manifest.json");
        fs::write(&manifest, case.to_string()).expect("a manifest");
        let args = VerifyArgs { manifest, kinds: Vec::new(), ids: Vec::new(), output: VerifyOutput::Json };
        let mut judged = judge_manifest(&args).expect("a manifest");
        let case = judged.pop().expect("a case");
        match case.verdict {
            Verdict::Accept => ("accept".to_owned(), case.claims),
            Verdict::Reject | Verdict::Unsupported | Verdict::Error => (case.reasons.join(" "), Value::Null),
        }
    }

    fn code(&self, kind: &str) -> String {
        self.judge(kind).0
    }
}

fn selection() -> Vec<PcrSelection> {
    vec![PcrSelection { bank: PcrHash::Sha256, pcrs: vec![0, 4, 7] }]
}

fn pem(spki: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(spki);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n")).into_bytes()
}

fn spki(tpm: &SimTpm) -> Vec<u8> {
    countersign_attestation::evidence::tpm::public::Public::read(tpm.ak_public()).expect("a public area").spki()
}

/// The virtual TPM's quote: all 24 values, of which it selects three.
fn quoted(tpm: &SimTpm) -> Files {
    let message = tpm.quote_attest(&selection(), NONCE);
    let signature = tpm.sign(&message);
    let values: Vec<String> = (0..24).map(|index| hex::encode(tpm.pcr(PcrHash::Sha256, index))).collect();
    Files(vec![
        ("tpm_quote_sig", signature.get(6..).expect("a signature").to_vec()),
        ("tpm_quote_sig_tpmt", signature),
        ("pcrs_sha256", json!(values).to_string().into_bytes()),
        ("tpm_quote_msg", message),
    ])
}

fn azure_snp(tpm: &SimTpm) -> Files {
    let runtime = hcl::runtime(tpm.ak_public(), tpm.ek_public());
    let evidence = MILAN.evidence(&hcl::report_data(&runtime));
    quoted(tpm)
        .with("hcl_report", hcl::snp_nv(&evidence.report, &runtime))
        .with("vek", evidence.vek)
        .with("ask", MILAN.ask_der.clone())
        .with("trust_root", MILAN.ark_der.clone())
}

#[test]
fn each_link_from_the_chip_to_the_virtual_tpms_quote_is_needed() {
    let (tpm, other) = (SimTpm::new(AkKind::Rsa2048), SimTpm::new(AkKind::Rsa2048));
    let good = azure_snp(&tpm);
    let (verdict, claims) = good.judge("azure-snp");
    assert_eq!(verdict, "accept");
    assert_eq!(claims.pointer("/paravisor/assurance"), Some(&json!("simulated")));
    assert_eq!(claims.pointer("/details/pcr_selection/0/pcrs"), Some(&json!([0, 4, 7])));
    assert_eq!(claims.pointer("/pcrs/sha256").and_then(Value::as_object).map(Map::len), Some(3), "what was quoted");
    // One form of the signature is enough, and two must agree.
    assert_eq!(good.without("tpm_quote_sig").code("azure-snp"), "accept");
    assert_eq!(good.without("tpm_quote_sig_tpmt").code("azure-snp"), "accept");
    let foreign = azure_snp(&other);
    let theirs = |role: &'static str| {
        let (_, bytes) = foreign.0.iter().find(|(name, _)| *name == role).expect("a file").clone();
        good.with(role, bytes)
    };
    for (role, code) in [
        ("tpm_quote_sig", "tpm.signature.invalid"),
        ("tpm_quote_sig_tpmt", "tpm.signature.invalid"),
        ("tpm_quote_msg", "tpm.signature.invalid"),
        ("hcl_report", "tpm.signature.invalid"),
    ] {
        assert_eq!(theirs(role).code("azure-snp"), code, "{role}");
    }
    for (role, code) in [
        ("hcl_report", "bundle.record.missing"),
        ("vek", "bundle.record.missing"),
        ("tpm_quote_msg", "bundle.record.missing"),
        ("pcrs_sha256", "bundle.record.missing"),
        ("trust_root", "snp.vek.anchor"),
    ] {
        let code_found = good.without(role).code("azure-snp");
        assert!(code_found == code || code_found.starts_with("x509"), "{role}: {code_found}");
    }
    assert_eq!(good.without("tpm_quote_sig").without("tpm_quote_sig_tpmt").code("azure-snp"), "bundle.record.missing");
    // PCR 4 is quoted; PCR 5 is not, and whatever is said of it is left out.
    let values = |index: u8| {
        let text = |at: u8| hex::encode(if at == index { &[9; 32] } else { tpm.pcr(PcrHash::Sha256, at) });
        good.with("pcrs_sha256", json!((0..24).map(text).collect::<Vec<_>>()).to_string().into_bytes())
    };
    assert_eq!(values(4).code("azure-snp"), "tpm.quote.pcr_digest");
    assert_eq!(values(5).code("azure-snp"), "accept");
}

#[test]
fn a_certificate_or_public_key_of_another_ak_is_refused() {
    let (tpm, other) = (SimTpm::new(AkKind::Rsa2048), SimTpm::new(AkKind::Rsa2048));
    let maker = SimManufacturer::new();
    let good = azure_snp(&tpm);
    let mut padded = maker.certificate(&spki(&tpm), |_| {});
    padded.resize(3087, 0);
    assert_eq!(good.with("ak_cert", padded.clone()).code("azure-snp"), "accept");
    assert_eq!(good.with("ak_cert", maker.certificate(&spki(&other), |_| {})).code("azure-snp"), "hcl.ak.key");
    assert_eq!(good.with("ak_pub", pem(&spki(&other))).code("azure-snp"), "hcl.ak.key");
    let alone = quoted(&tpm).with("ak_pub", pem(&spki(&tpm)));
    assert_eq!(alone.code("azure-vtpm"), "accept");
    assert_eq!(alone.with("ak_cert", padded).code("azure-vtpm"), "accept");
    assert_eq!(alone.with("ak_cert", maker.certificate(&spki(&other), |_| {})).code("azure-vtpm"), "hcl.ak.key");
    assert_eq!(alone.with("ak_pub", pem(&spki(&other))).code("azure-vtpm"), "tpm.signature.invalid");
    assert_eq!(alone.without("ak_pub").code("azure-vtpm"), "bundle.record.missing");
}

#[test]
fn c8_an_unsigned_tdreport_is_never_evidence() {
    let tpm = SimTpm::new(AkKind::Rsa2048);
    let runtime = hcl::runtime(tpm.ak_public(), tpm.ek_public());
    let mut body = vec![0; 584];
    body.splice(520.., hcl::report_data(&runtime));
    let tdreport = hcl::tdreport(&body);
    let alone = quoted(&tpm).with("hcl_report", hcl::tdx_nv(&tdreport, &runtime));
    for kind in ["azure-tdx", "azure-hcl", "azure-snp"] {
        assert_eq!(alone.code(kind), "hcl.tdreport.unsigned", "{kind}");
        assert_eq!(alone.with("vek", MILAN.vcek.der.clone()).code(kind), "hcl.tdreport.unsigned", "{kind}");
        assert_eq!(quoted(&tpm).with("tdreport", tdreport.clone()).code(kind), "hcl.tdreport.unsigned", "{kind}");
    }
    // Something else in the place of the quote.
    assert_eq!(alone.with("td_quote", tdreport).code("azure-tdx"), "tdx.header.version");
}

#[test]
fn a_log_alone_is_read_and_says_that_it_attests_nothing() {
    let mut log = b"\x01\0\0\0\x03\0\0\0".to_vec();
    log.extend([0; 20]);
    log.extend(b"\x21\0\0\0Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0c\0\x30\0\0");
    let header = Files(vec![("event_log", log.clone())]);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, &[0; 4]);
    log.extend(b"\x01\0\0\0\x04\0\0\0\x01\0\0\0\x0c\0");
    log.extend(digest.as_ref());
    log.extend(b"\x04\0\0\0\0\0\0\0");
    let alone = Files(vec![("event_log", log.clone())]);
    let (verdict, claims) = alone.judge("ccel");
    assert_eq!((verdict.as_str(), claims.pointer("/attested")), ("accept", Some(&json!(false))));
    assert_eq!(claims.pointer("/details/register_indices"), Some(&json!([1])));
    *log.last_mut().expect("data") = 1;
    assert_eq!(Files(vec![("event_log", log)]).code("ccel"), "eventlog.data_edited");
    assert_eq!(Files(Vec::new()).code("ccel"), "bundle.record.missing");
    assert_eq!(header.code("ccel"), "rtmr.log.empty");
    assert_eq!(alone.with("quote", vec![0; 700]).code("ccel"), "tdx.header.version");
}
