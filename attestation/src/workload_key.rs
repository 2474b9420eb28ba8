//! A key of a workload that the credential key vouches for: for workloads that need the key itself, as the SPIFFE
//! Workload API hands it out. It lives in memory; what is issued for it says so, and relying parties choose.
//!
//! Both keys sign the same message for one challenge: the credential key, which the TPM certifies for that challenge,
//! to say that this host made the other, and the other to show that it is held.

use alloc::vec::Vec;

use crate::digest::Sha256Digest;
use crate::protocol::WorkloadKey;
use crate::rejection::{Rejection, reasons};
use crate::result::jws::{SIGNATURE_BYTES, Thumbprint};
use crate::signature::{PublicKey, Scheme};
use crate::x509::public_key;

reasons! {
    /// Why nothing is issued for a workload's key.
    WorkloadKeyReason {
        /// Another type or curve, or the credential key again.
        Unusable = "workload_key.unusable",
            "the workload's key is not a P-256 key of its own",
            "send the SubjectPublicKeyInfo of a new P-256 key, another than the credential key";
        /// By the credential key.
        Endorsement = "workload_key.endorsement",
            "the credential key does not vouch for the workload's key",
            "sign the message of this challenge and key with the credential key: ECDSA with SHA-256, r || s";
        /// By the workload's key.
        Possession = "workload_key.possession",
            "the workload's key is not shown to be held",
            "sign the message of this challenge and key with the workload's key: ECDSA with SHA-256, r || s";
    }
}

const DOMAIN: &[u8] = b"countersign/v1/workload-key\0";

/// What both keys sign: `"countersign/v1/workload-key" || 0x00 || nonce || SHA-256(credential key) || SHA-256(workload's
/// key)`, keys as `SubjectPublicKeyInfo`.
#[must_use]
pub fn message(nonce: &[u8; 32], credential_key: &[u8], workload_key: &[u8]) -> Vec<u8> {
    let digests = [Sha256Digest::of(&[credential_key]).0, Sha256Digest::of(&[workload_key]).0];
    [DOMAIN, nonce, digests.as_flattened()].concat()
}

/// Checks that the `credential_key` of this attestation vouches for `offered` and that its holder has it, both for the
/// challenge with `nonce`.
///
/// # Errors
/// A [`WorkloadKeyReason`].
pub fn verify(offered: &WorkloadKey, credential_key: &[u8], nonce: &[u8; 32]) -> Result<(), Rejection> {
    let spki = &offered.key.0;
    if Thumbprint::of_spki(spki).is_none() {
        return Err(WorkloadKeyReason::Unusable.because("a P-256 key", "another"));
    }
    if spki == credential_key {
        return Err(WorkloadKeyReason::Unusable.because("a key of the workload's own", "the credential key"));
    }
    let message = message(nonce, credential_key, spki);
    let check = |reason: WorkloadKeyReason, spki: &[u8], signature: &[u8]| -> Result<(), Rejection> {
        let refused = || reason.because("a signature of r || s, 64 bytes", "one that does not verify");
        let key: PublicKey = public_key(Scheme::EcdsaP256Sha256, spki).map_err(|_| refused())?;
        let right_size = signature.len() == SIGNATURE_BYTES;
        if !right_size || key.verify(&message, signature).is_err() { Err(refused()) } else { Ok(()) }
    };
    check(WorkloadKeyReason::Endorsement, credential_key, &offered.endorsement.0)?;
    check(WorkloadKeyReason::Possession, spki, &offered.possession.0)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::{message, verify};
    use crate::protocol::{Base64Bytes, WorkloadKey};

    struct Key(EcdsaKeyPair);

    impl Key {
        fn new() -> Self {
            Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
        }

        fn spki(&self) -> Vec<u8> {
            let prefix = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
            [hex::decode(prefix).unwrap(), self.0.public_key().as_ref().to_vec()].concat()
        }

        fn sign(&self, message: &[u8]) -> Base64Bytes {
            Base64Bytes(self.0.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec())
        }
    }

    #[test]
    fn a_key_is_vouched_for_and_held_for_this_challenge() {
        let (credential, workload, other) = (Key::new(), Key::new(), Key::new());
        let nonce = [7; 32];
        let said = message(&nonce, &credential.spki(), &workload.spki());
        let good = WorkloadKey {
            key: Base64Bytes(workload.spki()),
            endorsement: credential.sign(&said),
            possession: workload.sign(&said),
        };
        let judge = |offered: &WorkloadKey, credential: &Key, nonce: &[u8; 32]| {
            verify(offered, &credential.spki(), nonce).map_err(|rejection| rejection.code())
        };
        assert_eq!(judge(&good, &credential, &nonce), Ok(()));
        assert_eq!(judge(&good, &credential, &[8; 32]), Err("workload_key.endorsement"), "another challenge");
        assert_eq!(judge(&good, &other, &nonce), Err("workload_key.endorsement"), "another host's key");
        let unvouched = WorkloadKey { endorsement: workload.sign(&said), ..good.clone() };
        assert_eq!(judge(&unvouched, &credential, &nonce), Err("workload_key.endorsement"));
        let not_held = WorkloadKey { possession: credential.sign(&said), ..good.clone() };
        assert_eq!(judge(&not_held, &credential, &nonce), Err("workload_key.possession"));
        let swapped = WorkloadKey { key: Base64Bytes(other.spki()), ..good.clone() };
        assert_eq!(judge(&swapped, &credential, &nonce), Err("workload_key.endorsement"));
        let same = WorkloadKey { key: Base64Bytes(credential.spki()), ..good.clone() };
        assert_eq!(judge(&same, &credential, &nonce), Err("workload_key.unusable"));
        let none = WorkloadKey { key: Base64Bytes(Vec::new()), ..good };
        assert_eq!(judge(&none, &credential, &nonce), Err("workload_key.unusable"));
    }
}
