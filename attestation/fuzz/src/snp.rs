//! SEV-SNP reports under a simulated chain: any bytes as the report that the VEK did sign.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::{AmdAnchor, AmdProduct, Assurance};
use countersign_attestation::endorsement::amd::{self, VerifiedVek};
use countersign_attestation::evidence::snp::{ReportDataExpectation, verify_report};

/// 2026-11-23.
pub(crate) const NOW: UnixMillis = UnixMillis(1_795_392_000_000);
const SIGNED_BYTES: usize = 0x2a0;

/// A simulated chain whose VEK is the point G of P-384, and its private key, 1.
pub(crate) static VEK: LazyLock<(VerifiedVek, EcdsaKeyPair)> = LazyLock::new(|| {
    let anchor = AmdAnchor {
        product: AmdProduct::Milan,
        assurance: Assurance::Simulated,
        ark: include_bytes!("../material/ark.der").to_vec(),
        intermediates: vec![include_bytes!("../material/ask.der").to_vec()],
    };
    let der = include_bytes!("../material/vek.der");
    let vek = amd::endorse(der, &[anchor], &[], NOW).expect("a simulated chain");
    let mut one = [0; 48];
    one[47] = 1;
    // The point ends the SubjectPublicKeyInfo, which an uncompressed P-384 key starts so.
    let head = [0x2b, 0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00];
    let at = der.windows(head.len()).position(|window| window == head).expect("a P-384 key") + head.len();
    let point = &der[at..at + 97];
    let pair = EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P384_SHA384_FIXED_SIGNING, &one, point);
    (vek, pair.expect("a key"))
});

/// An attestation report: as it comes, and its first bytes signed.
pub fn snp_report(bytes: &[u8]) {
    let (vek, pair) = &*VEK;
    let data = ReportDataExpectation::Recorded;
    assert!(verify_report(bytes, vek, data, NOW).is_err(), "nobody has the key");
    let mut report = [bytes, &[0; SIGNED_BYTES]].concat();
    report.truncate(SIGNED_BYTES);
    let report = sign(report, pair);
    if let Ok(claims) = verify_report(&report, vek, data, NOW) {
        assert_eq!(claims.report_data.0, report[0x50..0x90]);
        assert_eq!(claims.measurement.0, report[0x90..0xc0]);
        let other = ReportDataExpectation::Binder(&[0x5a; 64]);
        assert_eq!(verify_report(&report, vek, other, NOW).is_ok(), report[0x50..0x90] == [0x5a; 64]);
    }
}

/// The report with the signature of this key.
pub(crate) fn sign(mut report: Vec<u8>, pair: &EcdsaKeyPair) -> Vec<u8> {
    let signature = pair.sign(&SystemRandom::new(), &report).expect("a signature");
    let (r, s) = signature.as_ref().split_at(48);
    for scalar in [r, s] {
        report.extend(scalar.iter().rev());
        report.extend([0; 24]);
    }
    report.resize(0x4a0, 0);
    report
}
