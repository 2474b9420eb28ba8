//! Quotes: any bytes as one, and any header and body under the signature of a quoting enclave that is believed.

use std::sync::LazyLock;

use countersign_attestation::UnixMillis;
use countersign_attestation::endorsement::intel::VerifiedCollateral;
use countersign_attestation::evidence::snp::ReportDataExpectation::Recorded;
use countersign_attestation::evidence::tdx::quote::QUOTE_BYTES_MAX;
use countersign_attestation::evidence::tdx::{self, Body, BodyKind, Quote};

use crate::sim_intel::{IntelSimulator, QuoteKind};

/// 2026-11-23.
const NOW: UnixMillis = UnixMillis(1_795_392_000_000);

/// A simulated platform and its collateral. Its keys are fresh, so no signature in a corpus is ever good.
static INTEL: LazyLock<(IntelSimulator, VerifiedCollateral)> = LazyLock::new(|| {
    let intel = IntelSimulator::new();
    let collateral = VerifiedCollateral::endorse(&intel.collateral().parts(), &[intel.anchor()], NOW);
    (intel, collateral.expect("simulated collateral"))
});

/// A quote: as it comes, and its first bytes as header and body that the attestation key did sign.
pub fn tdx_quote(bytes: &[u8]) {
    let (intel, collateral) = &*INTEL;
    assert!(tdx::verify(bytes, collateral, Recorded, NOW).is_err(), "nobody has the key");
    if let Ok(quote) = Quote::parse(bytes) {
        assert!(bytes.len() <= QUOTE_BYTES_MAX);
        let mut padded = bytes.to_vec();
        padded.push(0);
        assert_eq!(Quote::parse(&padded).is_ok(), padded.len() <= QUOTE_BYTES_MAX, "zeros may follow");
        padded.pop();
        padded.push(1);
        assert!(Quote::parse(&padded).is_err(), "and nothing else");
        let types = quote.certification_types();
        assert!(types.len() <= 2 && types.last().is_some_and(|inner| (1..=5).contains(inner)));
    }
    let kinds = [QuoteKind::Td4, QuoteKind::Td10In5, QuoteKind::Td15In5, QuoteKind::Td15ExIn5];
    let kind = kinds[usize::from(bytes.first().copied().unwrap_or_default()) % kinds.len()];
    let signed = intel.quote_with(kind, |profile| {
        let places = profile.header.iter_mut().skip(8).take(4).chain(&mut profile.body);
        for (place, byte) in places.zip(bytes.iter().skip(1)) {
            *place ^= *byte;
        }
    });
    let Ok(claims) = tdx::verify(&signed, collateral, Recorded, NOW) else { return };
    let quote = Quote::parse(&signed).expect("a quote");
    let Body::Td(report) = quote.unverified().body else { panic!("a TD report") };
    assert_eq!(claims.report_data.0, report.report_data);
    assert_eq!(claims.mr_td.0, report.mr_td);
    assert_eq!(report.attributes() & 1, 0, "DEBUG is never believed");
    assert_eq!(claims.mr_service_td.is_some(), BodyKind::Td15 <= claims.body);
    if claims.check_strict().is_ok() {
        assert!(claims.attributes["sept_ve_disable"] && !claims.attributes["migratable"]);
        assert!(report.td15.is_none_or(|td15| td15.mr_service_td == [0; 48]));
    }
}
