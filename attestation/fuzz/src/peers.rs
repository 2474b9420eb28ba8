//! What other issuers send: wrappers, results and bundles of theirs.

use countersign_attestation::cmw::{Cmw, verify_signed};
use countersign_attestation::result::ear::Tier;
use countersign_attestation::result::peer_ear::{self, PeerEar};
use countersign_attestation::result::spiffe_bundle::SpiffeBundle;
use countersign_attestation::result::x509_svid::WorkloadId;
use countersign_attestation::signature::{PublicKey, Scheme};

/// A wrapper, plain or signed.
pub fn cmw(bytes: &[u8]) {
    if let Ok(Cmw::Collection(collection)) = Cmw::decode(bytes) {
        assert!(!collection.entries.is_empty());
    }
    let key = PublicKey::new(Scheme::EcdsaP256Sha256, vec![4; 65]);
    assert!(verify_signed(bytes, &key).is_err(), "nobody has the key");
}

/// Claims of a result, in JSON and CBOR.
pub fn ear(bytes: &[u8]) {
    for ear in [PeerEar::read(bytes), PeerEar::read_cbor(bytes)].into_iter().flatten() {
        let affirms = ear.submods.values().all(|appraisal| appraisal.status == Tier::Affirming);
        assert!(affirms || ear.check_affirming().is_err());
    }
    if let Ok(submods) = peer_ear::read_submods(bytes) {
        assert!(!submods.is_empty());
    }
}

/// A bundle, and names in one.
pub fn bundle(bytes: &[u8]) {
    if let Ok(bundle) = SpiffeBundle::parse(bytes) {
        assert!(bundle.x509_authorities.iter().all(|der| der.first() == Some(&0x30)));
    }
    if let Some(id) = core::str::from_utf8(bytes).ok().and_then(WorkloadId::parse) {
        assert_eq!(id.to_string().as_bytes(), bytes);
    }
}
