//! What a host sends.

use countersign_attestation::evidence::bundle::{Bundle, Collection};
use countersign_attestation::protocol::{AttestationRequest, EnrollmentRequest};

/// A CMW collection as JSON: what is decoded encodes to the same records.
pub fn bundle(bytes: &[u8]) {
    drop(serde_json::from_slice::<AttestationRequest>(bytes));
    drop(serde_json::from_slice::<EnrollmentRequest>(bytes));
    let Ok(collection) = serde_json::from_slice::<Collection>(bytes) else { return };
    if let Ok(bundle) = Bundle::decode(&collection) {
        assert_eq!(bundle.encode(), collection);
    }
}
