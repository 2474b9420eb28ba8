//! Certificates and revocation lists.

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::{AmdAnchor, AmdProduct, Assurance, TpmAnchor};
use countersign_attestation::endorsement::issue::Issue;
use countersign_attestation::endorsement::{amd, tpm};
use countersign_attestation::signature::Scheme;
use countersign_attestation::x509::{self, Certificate, Crl, oid};

/// 2026-11-23.
const NOW: UnixMillis = UnixMillis(1_795_392_000_000);

/// A certificate and everything that is asked of one.
pub fn x509_certificate(bytes: &[u8]) {
    let Ok(certificate) = Certificate::parse(bytes) else { return };
    assert_eq!(certificate.der(), bytes);
    drop(certificate.has_extended_key_usage(oid::EC_PUBLIC_KEY));
    let _ = (certificate.subject_common_name(), certificate.issuer_common_name(), certificate.key_usage());
    for scheme in [Scheme::RsaPkcs1Sha256, Scheme::RsaPssSha384, Scheme::EcdsaP256Sha256, Scheme::EcdsaP384Sha384] {
        drop(certificate.public_key(scheme));
        drop(x509::public_key(scheme, bytes));
    }
    drop(certificate.check_critical_extensions(&[]));
    drop(certificate.check_issued_by(&certificate));
    drop(certificate.check_may_issue());
    let anchor = AmdAnchor {
        product: AmdProduct::Milan,
        assurance: Assurance::Simulated,
        ark: bytes.to_vec(),
        intermediates: vec![bytes.to_vec()],
    };
    drop(amd::endorse(bytes, &[anchor], &[], NOW));
}

/// A revocation list.
pub fn x509_crl(bytes: &[u8]) {
    let Ok(list) = Crl::parse(bytes) else { return };
    let _ = (list.issuer(), list.this_update(), list.next_update(), list.revokes(&[1]));
    drop(list.check_current(NOW));
    assert!(list.number().is_none_or(|number| number.len() <= 20 && number.first() != Some(&0)));
    // A list of nobody's is no issue of anything.
    assert!(Issue::of_amd_crl(bytes, &[], NOW).is_err() && Issue::of_tpm_crl(bytes, &[], NOW).is_err());
}

/// An EK certificate under itself as the pinned root: never accepted, for an EK issues nothing.
pub fn ek_certificate(bytes: &[u8]) {
    let anchor = TpmAnchor {
        name: "itself".into(),
        assurance: Assurance::Simulated,
        root: bytes.to_vec(),
        intermediates: vec![bytes.to_vec()],
    };
    assert!(tpm::verify_certificate(bytes, &[bytes], &[anchor], NOW).is_err());
}
