//! SEV-SNP reports under a simulated chain: any bytes as the report that the VEK did sign.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::{AmdAnchor, AmdProduct, Assurance};
use countersign_attestation::endorsement::amd::{self, VerifiedVek};
use countersign_attestation::evidence::snp::id_block::{ID_AUTH_BYTES, ID_BLOCK_BYTES, verify_id_block};
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

/// An ID block with its authentication information: as they come, and the first bytes signed, with one byte changed.
pub fn id_block(bytes: &[u8]) {
    let (block, rest) = bytes.split_at(bytes.len().min(ID_BLOCK_BYTES));
    if let Ok(verified) = verify_id_block(block, rest) {
        assert_eq!(verified.launch_digest(), block[..48]);
    }
    let mut signed = [0; ID_BLOCK_BYTES];
    signed[..block.len()].copy_from_slice(block);
    let (_, pair) = &*VEK;
    let mut auth = vec![0; ID_AUTH_BYTES];
    auth[0] = 1;
    let signature = pair.sign(&SystemRandom::new(), &signed).expect("a signature");
    let point = &pair.public_key().as_ref()[1..];
    auth[0x240] = 2;
    for (at, number) in [(0x40, signature.as_ref()), (0x244, point)] {
        for (at, half) in [at, at + 72].into_iter().zip([&number[..48], &number[48..]]) {
            for (place, byte) in auth[at..].iter_mut().zip(half.iter().rev()) {
                *place = *byte;
            }
        }
    }
    let change = rest.first_chunk().map_or((0, 0), |[low, high, mask]| {
        (usize::from(u16::from_le_bytes([*low, *high])) % ID_AUTH_BYTES, *mask)
    });
    auth[change.0] ^= change.1;
    let verdict = verify_id_block(&signed, &auth);
    assert_eq!(verdict.is_ok(), change.1 == 0 && signed[0x50..0x54] == [1, 0, 0, 0], "byte {change:?}");
}
