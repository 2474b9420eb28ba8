//! Paravisors: Azure's report around simulated SEV-SNP hardware, every part of it in turn; genuine ones as recorded;
//! Google's certificates.
#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "test code: offsets are the format's")]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use countersign_attestation::anchor::{AmdProduct, Assurance, TpmAnchor};
use countersign_attestation::claims::{PcrHash, Presented};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::amd::{self, VerifiedVek};
use countersign_attestation::endorsement::tpm::{certificate_of_nv, verify_ak_certificate_alone};
use countersign_attestation::evidence::paravisor::{
    HCL_REPORT_BYTES_MAX, Hardware, HardwareKind, HardwareReport, HclReport, Setting, VerifiedParavisor, azure, gce,
};
use countersign_attestation::evidence::tpm::AttestationKey;
use countersign_attestation::evidence::tpm::algorithm::TpmHash;
use countersign_attestation::evidence::tpm::attest::Attest;
use countersign_attestation::evidence::tpm::public::Public;
use countersign_attestation::evidence::tpm::quote::{RecordedKey, RecordedSignature, RecordedValues, verify_recorded};
use countersign_attestation::protocol::PcrSelection;
use countersign_attestation::x509::Certificate;
use countersign_attestation::{Rejection, UnixMillis};

#[path = "../../tests/sim/amd.rs"]
mod amd_sim;
#[path = "../../tests/sim/hcl.rs"]
mod hcl;
#[path = "../../tests/sim/tpm.rs"]
mod tpm;

use amd_sim::AmdSimulator;
use hcl::{RUNTIME, jwk, report_data, runtime, runtime_of, snp_nv, tdx_nv};
use tpm::{AkKind, SimManufacturer, SimTpm};

/// 2026-06-01T00:00:00Z.
const NOW: UnixMillis = UnixMillis(1_780_272_000_000);
const NONCE: &[u8] = b"challenge";

static MILAN: LazyLock<AmdSimulator> = LazyLock::new(|| AmdSimulator::new(AmdProduct::Milan));
static TPM: LazyLock<SimTpm> = LazyLock::new(|| SimTpm::new(AkKind::Rsa2048));

fn vek() -> VerifiedVek {
    amd::endorse(&MILAN.vcek.der, &[MILAN.anchor()], &[], NOW).expect("an endorsed VCEK")
}

fn good_runtime() -> Vec<u8> {
    runtime(TPM.ak_public(), TPM.ek_public())
}

/// What the NV index holds when the chip was asked to report `runtime`.
fn snp(runtime: &[u8]) -> Vec<u8> {
    snp_nv(&MILAN.evidence(&report_data(runtime)).report, runtime)
}

fn judge(nv: &[u8]) -> Result<VerifiedParavisor, Rejection> {
    azure::verify(&HclReport::parse(nv)?, Hardware::Snp(&vek()), NOW)
}

/// The code, or "accepted".
fn code(nv: &[u8]) -> &'static str {
    judge(nv).map_or_else(|rejection| rejection.code(), |_| "accepted")
}

/// The verdict on runtime data that the chip did sign the hash of.
fn signed(runtime: &str) -> &'static str {
    code(&snp(runtime.as_bytes()))
}

fn text() -> String {
    String::from_utf8(good_runtime()).expect("text")
}

#[test]
fn hardware_vouches_for_runtime_data_and_that_for_the_key_of_the_quote() {
    let paravisor = judge(&snp(&good_runtime())).expect("a good report");
    let claims = paravisor.claims();
    assert_eq!((claims.assurance, claims.hardware, claims.hcl_version), (Assurance::Simulated, HardwareKind::Snp, 1));
    assert_eq!(claims.vm_id, Presented::Verified(hcl::VM_ID.to_owned()));
    assert_eq!(claims.vm_configuration.get("secure-boot"), Some(&Setting::Flag(true)));
    assert_eq!(claims.user_data.0, [0; 64]);
    let spki = |public: &[u8]| Public::read(public).expect("a public area").spki();
    assert_eq!(claims.ak, Sha256Digest::of(&[&spki(TPM.ak_public())]));
    assert_eq!(claims.ek, Presented::Verified(Sha256Digest::of(&[&spki(TPM.ek_public())])));
    assert_eq!(paravisor.ak_spki(), spki(TPM.ak_public()));
    assert!(matches!(paravisor.snp(), Presented::Verified(snp) if snp.report_data.0 == report_data(&good_runtime())));
    paravisor.check_ak(&AttestationKey::from_public(TPM.ak_public()).expect("an AK")).expect("this key");

    // The quote in both forms of its signature, and no quote of another virtual TPM.
    let selection = [PcrSelection { bank: PcrHash::Sha256, pcrs: vec![0, 4, 7] }];
    let judged = |tpm: &SimTpm, nonce: &[u8]| {
        let message = tpm.quote_attest(&selection, NONCE);
        let values = [0, 4, 7].map(|index| (index, tpm.pcr(PcrHash::Sha256, index).to_vec()));
        let values = RecordedValues::from([(TpmHash::Sha256, values.into())]);
        let tpmt = tpm.sign(&message);
        let raw = &tpmt[6..];
        [RecordedSignature::Tpmt(&tpmt), RecordedSignature::Raw(raw)].map(|signature| {
            let key = RecordedKey::Spki(paravisor.ak_spki());
            verify_recorded(&message, signature, key, &values, nonce).map_or_else(|r| r.code(), |_| "accepted")
        })
    };
    assert_eq!(judged(&TPM, NONCE), ["accepted"; 2]);
    assert_eq!(judged(&TPM, b"other"), ["binding.qualifying_data"; 2]);
    assert_eq!(judged(&SimTpm::new(AkKind::Rsa2048), NONCE), ["tpm.signature.invalid"; 2]);
}

#[test]
fn keys_are_compared_and_never_names() {
    let paravisor = judge(&snp(&good_runtime())).expect("a good report");
    // The EK of the same virtual TPM is another key; so is any AK with the same name and attributes.
    let other = SimTpm::new(AkKind::Rsa2048);
    let ak = AttestationKey::from_public(other.ak_public()).expect("an AK");
    assert_eq!(paravisor.check_ak(&ak).map_err(|r| r.code()), Err("hcl.ak.key"));
    let ek = Public::read(TPM.ek_public()).expect("a public area").spki();
    assert_eq!(paravisor.check_ak_spki(&ek).map_err(|r| r.code()), Err("hcl.ak.key"));
    // A key under the wrong name vouches for nothing.
    let swapped = runtime_of(&[jwk("HCLEkPub", "encrypt", TPM.ak_public()), jwk("HCLAkPub", "sign", TPM.ek_public())]);
    let paravisor = judge(&snp(&swapped)).expect("a report of swapped keys");
    let ak = AttestationKey::from_public(TPM.ak_public()).expect("an AK");
    assert_eq!(paravisor.check_ak(&ak).map_err(|r| r.code()), Err("hcl.ak.key"));
}

#[test]
fn b13_runtime_data_with_a_member_twice_is_refused_although_it_is_signed() {
    let good = text();
    assert_eq!(signed(&good), "accepted");
    let attacker = SimTpm::new(AkKind::Rsa2048);
    let keys = format!(r#"{{"keys":[{}],"#, jwk("HCLAkPub", "sign", attacker.ak_public()));
    for twice in [
        good.replacen('{', &keys, 1),
        good.replacen('{', &keys.replace("keys", "\\u006beys"), 1),
        good.replacen(r#""kty":"RSA""#, r#""kty":"RSA","kty":"RSA""#, 1),
        good.replacen(r#""secure-boot":true"#, r#""secure-boot":false,"secure-boot":true"#, 1),
        good.replacen(r#""user-data""#, r#""user-data":"","user-data""#, 1),
    ] {
        assert_ne!(twice, good);
        assert_eq!(signed(&twice), "hcl.runtime.malformed", "{twice}");
    }
}

#[test]
fn b13_exactly_one_attestation_key_counts() {
    let [ak, ek] = [jwk("HCLAkPub", "sign", TPM.ak_public()), jwk("HCLEkPub", "encrypt", TPM.ek_public())];
    let judged = |keys: &[String]| code(&snp(&runtime_of(keys)));
    assert_eq!(judged(&[ak.clone(), ek.clone()]), "accepted");
    assert_eq!(judged(&[ek.clone(), ak.clone()]), "accepted");
    assert_eq!(judged(std::slice::from_ref(&ak)), "accepted");
    assert_eq!(judged(&[]), "hcl.runtime.key");
    assert_eq!(judged(std::slice::from_ref(&ek)), "hcl.runtime.key");
    assert_eq!(judged(&[ak.clone(), ak.clone()]), "hcl.runtime.key");
    assert_eq!(judged(&[ak.clone(), ek.clone(), ek]), "hcl.runtime.key");
    for (from, to) in [
        ("HCLAkPub", "HCLAkpub"),
        ("HCLAkPub", "HCLAkPub "),
        (r#"["sign"]"#, r#"["encrypt"]"#),
        (r#"["sign"]"#, r#"["sign","encrypt"]"#),
        (r#""key_ops":["sign"],"#, ""),
        ("RSA", "EC"),
        ("AQAB", "AQ"),
        ("AQAB", "AAEAAQ"),
        (r#""kty""#, r#""x5c":"","kty""#),
        (r#""n":""#, r#""n":"AA"#),
        (r#""n":""#, r#""n":"="#),
    ] {
        let changed = ak.replacen(from, to, 1);
        assert_ne!(changed, ak);
        assert_eq!(judged(&[changed]), "hcl.runtime.key", "{from} -> {to}");
    }
}

#[test]
fn runtime_data_is_read_strictly() {
    let good = text();
    for (from, to) in [
        (r#"{"keys""#, r#"{"key""#),
        (r#"{"keys""#, r#"{"more":1,"keys""#),
        (r#""vm-configuration":{"#, r#""vm-configuration":{"nested":{},"#),
        (r#""vm-configuration""#, r#""configuration""#),
        (r#""user-data":"00"#, r#""user-data":""#),
        (r#""user-data":"00"#, r#""user-data":"0x"#),
        (r#""console-enabled":true"#, r#""console-enabled":1.5"#),
    ] {
        let changed = good.replacen(from, to, 1);
        assert_ne!(changed, good);
        assert_eq!(signed(&changed), "hcl.runtime.malformed", "{from} -> {to}");
    }
    for whole in ["", "[]", "null", &format!("{good} x"), &format!("{good}\u{0}"), &format!("\u{feff}{good}")] {
        assert_eq!(signed(whole), "hcl.runtime.malformed", "{whole}");
    }
    let unset = good.replacen(r#""console-enabled":true"#, r#""console-enabled":null,"current-time":17"#, 1);
    assert_eq!(signed(&unset), "accepted");
}

#[test]
fn the_hardware_report_is_about_these_runtime_data_and_no_others() {
    let runtime = good_runtime();
    let mut upper = report_data(&runtime);
    assert!(upper[32..].iter().all(|byte| *byte == 0));
    upper[63] = 1;
    assert_eq!(
        code(&snp_nv(&MILAN.evidence(&upper).report, &runtime)),
        "hcl.runtime.binding",
        "the upper half is zero"
    );
    let other = report_data(b"{}");
    assert_eq!(code(&snp_nv(&MILAN.evidence(&other).report, &runtime)), "hcl.runtime.binding");
    assert_eq!(code(&snp_nv(&MILAN.evidence(&[0; 64]).report, &runtime)), "hcl.runtime.binding");
    // Swapped halves: the digest is there, in the wrong place.
    let digest = report_data(&runtime);
    let swapped: [u8; 64] = std::array::from_fn(|index| digest[(index + 32) % 64]);
    assert_eq!(code(&snp_nv(&MILAN.evidence(&swapped).report, &runtime)), "hcl.runtime.binding");
}

#[test]
fn a_report_of_another_layer_than_the_paravisors_is_refused() {
    let runtime = good_runtime();
    let of_layer = |vmpl: u32| {
        let evidence = MILAN.evidence_with(|signed| {
            signed[0x30..0x34].copy_from_slice(&vmpl.to_le_bytes());
            signed[0x50..0x90].copy_from_slice(&report_data(&runtime));
        });
        code(&snp_nv(&evidence.report, &runtime))
    };
    // Bare SNP guests may report from VMPL 1; above a paravisor that is the guest.
    assert_eq!(
        [0, 1, 2, 3].map(of_layer),
        ["accepted", "hcl.hardware.layer", "snp.vmpl.unprivileged", "snp.vmpl.unprivileged"]
    );
}

#[test]
fn every_octet_of_the_nv_index_counts() {
    let nv = snp(&good_runtime());
    assert_eq!(nv.len(), hcl::NV_BYTES);
    let vek = vek();
    for at in 0..nv.len() {
        let mut changed = nv.clone();
        changed[at] ^= 0x01;
        let verdict = HclReport::parse(&changed).and_then(|hcl| azure::verify(&hcl, Hardware::Snp(&vek), NOW));
        // Version 2 in place of 1 and so on are other headers, yet the same report: 1 ^ 1 is 0, which is none.
        assert!(verdict.is_err(), "octet {at}");
    }
    for length in (0..nv.len()).step_by(7) {
        let cut = HclReport::parse(&nv[..length]).and_then(|hcl| azure::verify(&hcl, Hardware::Snp(&vek), NOW));
        let whole = RUNTIME + good_runtime().len() <= length;
        assert_eq!(cut.is_ok(), whole, "{length}: padding alone may be missing");
    }
}

#[test]
fn headers_are_of_version_1_or_2_and_nothing_in_them_is_open() {
    let runtime = good_runtime();
    let nv = snp(&runtime);
    let with = |at: usize, value: u32| {
        let mut changed = nv.clone();
        changed[at..at + 4].copy_from_slice(&value.to_le_bytes());
        code(&changed)
    };
    let size = u32::try_from(RUNTIME + runtime.len()).expect("small");
    let request = 32 + 1184;
    assert_eq!(with(4, 1), "accepted");
    assert_eq!(with(4, 2), "accepted");
    assert_eq!([0, 3].map(|version| with(4, version)), ["hcl.header"; 2]);
    assert_eq!(with(0, u32::from_le_bytes(*b"HCLB")), "hcl.header");
    assert_eq!([size - 1, size + 1, 0, u32::MAX].map(|size| with(8, size)), ["hcl.header"; 4]);
    assert_eq!([0, 1, 3].map(|kind| with(12, kind)), ["hcl.header"; 3]);
    assert_eq!([16, 20, 24, 28].map(|reserved| with(reserved, 1)), ["hcl.header"; 4]);
    assert_eq!(with(request, 20), "hcl.header");
    assert_eq!(with(request + 4, 2), "hcl.header");
    assert_eq!([0, 1, 3, 5].map(|kind| with(request + 8, kind)), ["hcl.report_type"; 4]);
    assert_eq!([0, 2, 3].map(|hash| with(request + 12, hash)), ["hcl.hash_type"; 3]);
    assert_eq!(with(request + 16, u32::MAX), "hcl.header");
    let mut long = nv.clone();
    long.resize(HCL_REPORT_BYTES_MAX, 0);
    assert_eq!(code(&long), "accepted");
    long.push(0);
    assert_eq!(code(&long), "hcl.malformed");
    let mut padded = nv;
    *padded.last_mut().expect("padding") = 0xff;
    assert_eq!(code(&padded), "hcl.padding");
}

/// A TD report of TDX 1.0 as a quote has it, for a TDREPORT of it.
fn td_body(report_data: &[u8; 64]) -> Vec<u8> {
    let mut body: Vec<u8> = (0..584_u32).map(|index| index.to_le_bytes()[0]).collect();
    body[120..128].fill(0);
    body[520..].copy_from_slice(report_data);
    body
}

#[test]
fn c8_a_tdreport_is_read_and_nothing_alone_verifies_it() {
    let runtime = good_runtime();
    let nv = tdx_nv(&hcl::tdreport(&td_body(&report_data(&runtime))), &runtime);
    let report = HclReport::parse(&nv).expect("a report");
    let HardwareReport::Tdx(td) = report.hardware() else { panic!("a TDREPORT") };
    assert_eq!(td.report_data, &report_data(&runtime));
    assert_eq!(report.check_binding(td.report_data), Ok(()), "it is about these runtime data, says nobody");
    // Every way to a verified paravisor takes something that was signed, and of the same technology.
    assert_eq!(judge(&nv).map_or_else(|r| r.code(), |_| "accepted"), "hcl.hardware");
    // Its own two hashes show at least that it is whole.
    for (at, what) in [(300, "TEE_TCB_INFO"), (600, "TDINFO"), (40, "a hash"), (100, "a hash"), (0, "its type")] {
        let mut changed = nv.clone();
        changed[32 + at] ^= 1;
        assert_eq!(HclReport::parse(&changed).map_err(|r| r.code()).err(), Some("hcl.tdreport.malformed"), "{what}");
    }
    let mut changed = nv;
    changed[32 + 1024] = 1;
    assert_eq!(HclReport::parse(&changed).map_err(|r| r.code()).err(), Some("hcl.padding"));
}

/// The folder of the vectors, where there is one.
#[expect(clippy::disallowed_methods, reason = "a test reads its environment")]
fn vectors() -> Option<PathBuf> {
    let folder = std::env::var("COUNTERSIGN_VECTORS")
        .map_or_else(|_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors")), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("no vectors at {}: skipped", folder.display());
    None
}

fn read(folder: &Path, path: &str) -> Vec<u8> {
    std::fs::read(folder.join(path)).expect(path)
}

#[test]
fn genuine_azure_reports_have_two_header_versions_zero_upper_halves_and_padding_after_their_json() {
    let Some(folder) = vectors() else { return };
    for (name, version, technology) in [
        ("azsnp-milan-trustee-v0", 1, "SNP"),
        ("azsnp-milan-trustee-v2", 1, "SNP"),
        ("azsnp-genoa-trustee", 2, "SNP"),
        ("azsnp-redacted-agentmanifest", 1, "SNP"),
        ("aztdx-trustee-v1", 2, "TDX"),
        ("aztdx-hcl-kinvolk", 2, "TDX"),
    ] {
        let nv = read(&folder, &format!("azure/{name}/hcl_report.bin"));
        let hcl = HclReport::parse(&nv).expect(name);
        assert_eq!((hcl.version(), hcl.hardware().name(), nv.len()), (version, technology, 2600), "{name}");
        let report_data = match hcl.hardware() {
            HardwareReport::Snp(report) => &report[0x50..0x90],
            HardwareReport::Tdx(report) => report.report_data,
        };
        assert!(report_data[32..].iter().all(|byte| *byte == 0), "{name}");
        assert_eq!(hcl.check_binding(report_data), Ok(()), "{name}");
        assert!(100 < hcl.padding(), "{name}: the JSON ends before the index does");
        let runtime = hcl.runtime_data().expect(name);
        assert_eq!(runtime.kids(), ["HCLAkPub", "HCLEkPub"], "{name}");
        assert_eq!(runtime.user_data().0.len(), 64, "{name}");
        assert!(runtime.vm_id().is_some(), "{name}");
    }
}

#[test]
fn genuine_azure_td_reports_have_zero_registers() {
    let Some(folder) = vectors() else { return };
    for name in ["aztdx-trustee-v1", "aztdx-hcl-kinvolk"] {
        let nv = read(&folder, &format!("azure/{name}/hcl_report.bin"));
        let HardwareReport::Tdx(report) = HclReport::parse(&nv).expect(name).hardware() else { panic!("a TDREPORT") };
        assert_eq!(report.rtmrs.map(|rtmr| rtmr.iter().all(|byte| *byte == 0)), [true; 4], "{name}");
    }
}

#[test]
fn a_genuine_certificate_of_another_key_is_refused() {
    let Some(folder) = vectors() else { return };
    let certificate = read(&folder, "azure/vtpm-cmcp-otherak/ak_cert.der");
    let certificate = Certificate::parse(&certificate).expect("a certificate");
    let message = read(&folder, "azure/vtpm-cmcp-otherak/quote.msg");
    let signature = read(&folder, "azure/vtpm-cmcp-otherak/quote.sig");
    let (key, values) = (RecordedKey::Spki(certificate.spki()), RecordedValues::new());
    let verdict = verify_recorded(&message, RecordedSignature::Raw(&signature), key, &values, &[]);
    assert_eq!(verdict.map_or_else(|r| r.code(), |_| "accepted"), "tpm.signature.invalid");
}

#[test]
fn genuine_nonces_are_of_any_length_and_user_data_is_the_guests() {
    let Some(folder) = vectors() else { return };
    for (name, length) in [("azsnp-milan-trustee-v0", 9), ("azsnp-milan-trustee-v2", 48), ("vtpm-cmcp", 32)] {
        let file = if length == 32 { "quote.msg" } else { "tpm_quote.msg" };
        let message = read(&folder, &format!("azure/{name}/{file}"));
        let attest = Attest::read(&message).expect(name);
        assert_eq!(attest.extra_data.len(), length, "{name}");
        if name == "azsnp-milan-trustee-v2" {
            // What the guest had the paravisor report is what it was asked with; zeros fill it up.
            let nv = read(&folder, &format!("azure/{name}/hcl_report.bin"));
            let runtime = HclReport::parse(&nv).and_then(|hcl| hcl.runtime_data()).expect(name);
            let (said, rest) = runtime.user_data().0.split_at(length);
            assert_eq!((said, rest), (attest.extra_data, &[0; 16][..]));
        }
    }
}

#[test]
fn genuine_intermediates_of_azure_share_a_name_and_the_key_decides() {
    let Some(folder) = vectors() else { return };
    // 2026-04-30T00:00:00Z.
    let then = UnixMillis(1_777_507_200_000);
    let certificate = read(&folder, "vtpm-ak/akchain-azure-01/ak.der");
    let own = read(&folder, "vtpm-ak/akchain-azure-01/intermediate.der");
    let other = read(&folder, "vtpm-ak/akchain-neg-azure-wrongint/intermediate.der");
    let anchor = TpmAnchor {
        name: "azure".to_owned(),
        assurance: Assurance::Hardware,
        root: read(&folder, "vtpm-ak/akchain-azure-01/root.der"),
        intermediates: Vec::new(),
    };
    let judged = |certificate: &[u8], intermediates: &[&[u8]]| {
        verify_ak_certificate_alone(certificate, intermediates, std::slice::from_ref(&anchor), then).is_ok()
    };
    assert!(judged(&certificate, &[&own]));
    assert!(judged(&certificate, &[&other, &own]), "one that does not fit hides none that does");
    assert!(!judged(&certificate, &[&other]) && !judged(&certificate, &[]));
    // As the NV index holds it: zeros to 3087 bytes.
    let mut nv = certificate.clone();
    nv.resize(3087, 0);
    assert_eq!(certificate_of_nv(&nv).expect("a certificate and padding"), certificate);
    nv[3000] = 7;
    assert!(certificate_of_nv(&nv).is_err());
}

#[test]
fn a_genuine_google_certificate_names_its_instance() {
    let Some(folder) = vectors() else { return };
    let certificate = read(&folder, "vtpm-ak/akchain-gce/ak.der");
    let instance = gce::instance_of(&Certificate::parse(&certificate).expect("a certificate")).expect("an instance");
    assert_eq!((instance.zone.as_str(), instance.project_id.as_str()), ("us-west1-b", "nonvolatile-dev"));
    assert_eq!((instance.project_number, instance.instance_id), (0x34_efdf_fed3, 8_033_817_256_003_918_212));
    assert_eq!(instance.instance_name, "jfquinn-tdx-tpm-ubuntu-test-us-west1-b");
    let azure = read(&folder, "vtpm-ak/akchain-azure-01/ak.der");
    let verdict = gce::instance_of(&Certificate::parse(&azure).expect("a certificate"));
    assert_eq!(verdict.map_err(|r| r.code()).err(), Some("gce.instance"));
}

/// GCE's extension, DER, for a name of up to 60 octets.
fn gce_extension(name: &str) -> rcgen::CustomExtension {
    let element = |tag: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).expect("short");
        [&[tag, length], content].concat()
    };
    let fields = [
        element(0x0c, b"europe-west4-a"),
        element(0x02, &[0x01, 0x00]),
        element(0x0c, b"fleet"),
        element(0x02, &[0x00, 0x80]),
        element(0x0c, name.as_bytes()),
    ];
    rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 11129, 2, 1, 21], element(0x30, &fields.concat()))
}

#[test]
fn a_google_ak_is_certified_with_its_instance_and_no_other_key() {
    let google = SimManufacturer::new();
    let ak_spki = Public::read(TPM.ak_public()).expect("a public area").spki();
    let issue = |extension: rcgen::CustomExtension| {
        google.certificate(&ak_spki, |params| {
            params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = Vec::new();
            params.distinguished_name.push(rcgen::DnType::CommonName, "instance");
            params.custom_extensions = vec![extension];
        })
    };
    let anchors = [google.anchor()];
    let verify = |certificate: &[u8], public: &[u8]| gce::verify_ak(certificate, public, &[], &anchors, NOW);
    let good = issue(gce_extension("vm-1"));
    let verified = verify(&good, TPM.ak_public()).expect("a certified AK");
    assert_eq!(verified.instance().instance_name, "vm-1");
    assert_eq!((verified.instance().project_number, verified.instance().instance_id), (256, 128));
    assert_eq!(verified.ak().id(), Sha256Digest::of(&[&ak_spki]));
    let other = SimTpm::new(AkKind::Rsa2048);
    assert_eq!(verify(&good, other.ak_public()).map_err(|r| r.code()).err(), Some("tpm.ak.key"));
    let short = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 11129, 2, 1, 21], vec![0x30, 0]);
    assert_eq!(verify(&issue(short), TPM.ak_public()).map_err(|r| r.code()).err(), Some("gce.instance"));
    let elsewhere = [SimManufacturer::new().anchor()];
    assert!(gce::verify_ak(&good, TPM.ak_public(), &[], &elsewhere, NOW).is_err());
}
