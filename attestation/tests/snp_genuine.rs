//! SEV-SNP, with genuine evidence: what AMD's hardware signed is believed, and nothing that differs from it in one bit.
#![expect(clippy::expect_used, clippy::panic, reason = "test code")]

use std::path::{Path, PathBuf};

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::{AmdAnchor, AmdProduct, Assurance};
use countersign_attestation::claims::{SnpClaims, SnpSigningKey, SnpTcb};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::amd::{VerifiedVek, endorse, endorse_intermediate};
use countersign_attestation::evidence::bundle::SnpEvidence;
use countersign_attestation::evidence::snp::{ReportDataExpectation, verify, verify_report};
use countersign_attestation::x509::Certificate;
use proptest::prelude::*;
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser as _;

/// 2026-06-01T00:00:00Z.
const NOW: UnixMillis = UnixMillis(1_780_272_000_000);

const PRODUCTS: [(AmdProduct, &str); 3] =
    [(AmdProduct::Milan, "milan"), (AmdProduct::Genoa, "genoa"), (AmdProduct::Turin, "turin")];

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../firmware-refs").join(path)
}

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

fn anchors() -> Vec<AmdAnchor> {
    let file = |folder: &str, name: &str| read(shipped(&format!("anchors/amd/{folder}/{name}.der")));
    let anchor = |(product, folder): (AmdProduct, &str)| AmdAnchor {
        product,
        assurance: Assurance::Hardware,
        ark: file(folder, "ark"),
        intermediates: vec![file(folder, "ask")],
    };
    PRODUCTS.map(anchor).to_vec()
}

fn genuine() -> SnpEvidence {
    SnpEvidence {
        report: read(shipped("evidence/amd/milan/report.bin")),
        vek: read(shipped("evidence/amd/milan/vcek.der")),
    }
}

fn genuine_vek() -> VerifiedVek {
    endorse(&genuine().vek, &anchors(), &[], NOW).expect("a genuine VCEK")
}

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

#[test]
fn the_shipped_report_is_believed() {
    let claims = verify(&genuine(), &anchors(), &[], ReportDataExpectation::Recorded, NOW).expect("genuine evidence");
    assert_eq!((claims.product, claims.assurance), (AmdProduct::Milan, Assurance::Hardware));
    assert_eq!((claims.version, claims.signing_key, claims.vmpl), (2, SnpSigningKey::Vcek, 0));
    let tcb = SnpTcb { fmc: None, bootloader: 3, tee: 0, snp: 8, microcode: 0x73 };
    assert_eq!([claims.reported_tcb, claims.current_tcb, claims.committed_tcb, claims.launch_tcb], [tcb; 4]);
}

#[test]
fn the_shipped_roots_are_amds() {
    for (anchor, (product, folder)) in anchors().iter().zip(PRODUCTS) {
        let ark = Certificate::parse(&anchor.ark).expect("an ARK");
        ark.check_issued_by(&ark).expect("self-signed");
        let ask = endorse_intermediate(&anchor.intermediates[0], &anchors(), &[], NOW).expect("signed by its ARK");
        assert_eq!((ask.product(), ask.issues()), (product, SnpSigningKey::Vcek));
        let source = String::from_utf8(read(shipped(&format!("anchors/amd/{folder}/SOURCE.md")))).expect("text");
        for file in [&anchor.ark, &anchor.intermediates[0]] {
            let digest = Sha256Digest::of(&[file]).to_hex();
            assert!(source.contains(&digest), "{folder}/SOURCE.md names {digest}");
        }
        let Some(vectors) = vectors() else { continue };
        let root = vectors.join("snp/roots").join(folder);
        assert_eq!(read(root.join("ark.der")), anchor.ark, "{product}");
        assert_eq!(read(root.join("ask.der")), anchor.intermediates[0], "{product}");
    }
    let source = String::from_utf8(read(shipped("evidence/amd/milan/SOURCE.md"))).expect("text");
    for file in [genuine().report, genuine().vek] {
        assert!(source.contains(&Sha256Digest::of(&[&file]).to_hex()), "evidence/amd/milan/SOURCE.md");
    }
}

#[test]
fn no_bit_of_a_report_can_change() {
    let (vek, report) = (genuine_vek(), genuine().report);
    let judge = |report: &[u8]| verify_report(report, &vek, ReportDataExpectation::Recorded, NOW);
    judge(&report).expect("the report as it is");
    for byte in 0..report.len() {
        for bit in 0..8 {
            let mut flipped = report.clone();
            flipped[byte] ^= 1 << bit;
            let code = judge(&flipped).expect_err("a flipped bit").code();
            let expected = match byte {
                0..0x2d0 | 0x2e8..0x318 => "snp.signature.invalid",
                _ => "snp.signature.form",
            };
            assert_eq!(code, expected, "byte {byte:#x}, bit {bit}");
        }
    }
}

#[test]
fn no_length_but_one_is_a_report() {
    let (vek, report) = (genuine_vek(), genuine().report);
    for length in 0..report.len() {
        let verdict = verify_report(&report[..length], &vek, ReportDataExpectation::Recorded, NOW);
        assert_eq!(verdict.expect_err("truncated").code(), "snp.report.length");
    }
    for extra in [1, 16, 4096] {
        let extended = [&report[..], &vec![0; extra]].concat();
        let verdict = verify_report(&extended, &vek, ReportDataExpectation::Recorded, NOW);
        assert_eq!(verdict.expect_err("extended").code(), "snp.report.length");
    }
}

#[test]
fn no_byte_of_a_certificate_can_change() {
    let evidence = genuine();
    for byte in 0..evidence.vek.len() {
        let mut vek = evidence.vek.clone();
        vek[byte] ^= 1;
        let verdict = endorse(&vek, &anchors(), &[], NOW);
        assert!(verdict.is_err(), "byte {byte:#x}");
    }
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic_and_never_pass(
        report in proptest::collection::vec(any::<u8>(), 1184),
        vek in proptest::collection::vec(any::<u8>(), 0..1500),
        crl in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let refused = |report: &[u8], vek: &[u8], crls: &[&[u8]]| {
            let evidence = SnpEvidence { report: report.to_vec(), vek: vek.to_vec() };
            verify(&evidence, &anchors(), crls, ReportDataExpectation::Recorded, NOW).is_err()
        };
        let good = genuine();
        prop_assert!(refused(&report, &good.vek, &[]));
        prop_assert!(refused(&good.report, &vek, &[]));
        prop_assert!(refused(&good.report, &good.vek, &[&crl]));
    }
}

/// Every field that `sev` 8.0.0 reads is the one in the claims.
fn assert_same_fields(report: &[u8], claims: &SnpClaims, case: &str) {
    let peer = AttestationReport::from_bytes(report).unwrap_or_else(|error| panic!("{case}: {error}"));
    let tcb = |tcb: sev::firmware::host::TcbVersion| SnpTcb {
        fmc: tcb.fmc,
        bootloader: tcb.bootloader,
        tee: tcb.tee,
        snp: tcb.snp,
        microcode: tcb.microcode,
    };
    assert_eq!((claims.version, claims.guest_svn, claims.vmpl), (peer.version, peer.guest_svn, peer.vmpl), "{case}");
    assert_eq!(claims.policy.0, u64::from(peer.policy).to_be_bytes(), "{case}");
    assert_eq!(claims.family_id.0, peer.family_id, "{case}");
    assert_eq!(claims.image_id.0, peer.image_id, "{case}");
    assert_eq!(claims.measurement.0, peer.measurement, "{case}");
    assert_eq!(claims.host_data.0, peer.host_data, "{case}");
    assert_eq!(claims.id_key_digest.0, peer.id_key_digest, "{case}");
    assert_eq!(claims.author_key_digest.0, peer.author_key_digest, "{case}");
    assert_eq!(claims.report_data.0, peer.report_data, "{case}");
    assert_eq!(claims.report_id.0, peer.report_id, "{case}");
    assert_eq!(claims.current_tcb, tcb(peer.current_tcb), "{case}");
    assert_eq!(claims.reported_tcb, tcb(peer.reported_tcb), "{case}");
    assert_eq!(claims.committed_tcb, tcb(peer.committed_tcb), "{case}");
    assert_eq!(claims.launch_tcb, tcb(peer.launch_tcb), "{case}");
    assert_eq!(claims.mitigation_vectors.get("launch"), peer.launch_mit_vector.as_ref(), "{case}");
    assert_eq!(claims.mitigation_vectors.get("current"), peer.current_mit_vector.as_ref(), "{case}");
    let platform = |name| claims.platform_info.get(name).copied().expect("a known bit");
    assert_eq!(platform("smt_en"), peer.plat_info.smt_enabled(), "{case}");
    assert_eq!(platform("tsme_en"), peer.plat_info.tsme_enabled(), "{case}");
    assert_eq!(platform("ecc_en"), peer.plat_info.ecc_enabled(), "{case}");
    assert_eq!(platform("alias_check_complete"), peer.plat_info.alias_check_complete(), "{case}");
    assert_eq!(claims.policy_bits.get("smt"), Some(&peer.policy.smt_allowed()), "{case}");
}

#[test]
fn claims_are_what_another_parser_reads() {
    let evidence = genuine();
    let claims = verify(&evidence, &anchors(), &[], ReportDataExpectation::Recorded, NOW).expect("genuine evidence");
    assert_same_fields(&evidence.report, &claims, "shipped");
    let Some(folder) = vectors() else { return };
    let manifest: serde_json::Value =
        serde_json::from_slice(&read(folder.join("MANIFEST-cc.json"))).expect("a manifest");
    let mut compared = 0;
    for case in manifest.as_array().expect("cases") {
        let text = |pointer: &str| case.pointer(pointer).and_then(serde_json::Value::as_str);
        let genuine = text("/kind") == Some("snp-report") && text("/files/trust_root").is_none();
        if !genuine || text("/expect") != Some("accept") {
            continue;
        }
        let file = |pointer: &str| read(folder.join(text(pointer).expect("a path")));
        let evidence = SnpEvidence { report: file("/files/report"), vek: file("/files/vek") };
        // The case's own intermediate: under a VLEK it is the ASVK, which is not shipped.
        let mut anchors = anchors();
        if text("/files/asvk").is_some() {
            anchors.iter_mut().for_each(|anchor| anchor.intermediates.push(file("/files/asvk")));
        }
        // 2025-11-10 or 2026-12-01: one of them is within the certificates of each case.
        let claims = [1_762_732_800_000, 1_796_083_200_000]
            .into_iter()
            .find_map(|now| verify(&evidence, &anchors, &[], ReportDataExpectation::Recorded, UnixMillis(now)).ok());
        let claims = claims.expect("an accepted case");
        assert_same_fields(&evidence.report, &claims, text("/id").expect("an id"));
        compared += 1;
    }
    assert!(16 <= compared, "{compared} cases compared");
}
