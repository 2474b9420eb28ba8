//! A key in this process's memory for workloads that need the key itself. Another with each credential; the credential
//! key in the TPM vouches for it, and its certificate says where it lives.

use core::fmt;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use countersign_attestation::protocol::{Base64Bytes, WorkloadKey};
use countersign_attestation::workload_key::message;
use zeroize::Zeroizing;

use crate::error::AgentError;

/// A key that was made and not yet certified, or that is.
pub struct MemoryKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    spki: Vec<u8>,
}

impl fmt::Debug for MemoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key.
        f.debug_struct("MemoryKey").field("spki", &hex::encode(&self.spki)).finish_non_exhaustive()
    }
}

impl MemoryKey {
    /// A new key.
    ///
    /// # Errors
    /// [`AgentError::WorkloadKey`] when there is no randomness.
    pub fn generate() -> Result<Self, AgentError> {
        let failed = |_| AgentError::WorkloadKey;
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
        let pkcs8 = Zeroizing::new(pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec());
        let spki = pair.public_key().as_der().map_err(failed)?.as_ref().to_vec();
        Ok(Self { pair, pkcs8, spki })
    }

    /// `SubjectPublicKeyInfo`, DER.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// PKCS#8, DER.
    #[must_use]
    pub const fn pkcs8(&self) -> &Zeroizing<Vec<u8>> {
        &self.pkcs8
    }

    /// What the broker is sent: the key, the `endorsement` of the credential key, and proof that the key is held.
    ///
    /// # Errors
    /// [`AgentError::WorkloadKey`] when there is no randomness.
    pub fn offer(
        &self,
        nonce: &[u8; 32],
        credential_key: &[u8],
        endorsement: [u8; 64],
    ) -> Result<WorkloadKey, AgentError> {
        let message = message(nonce, credential_key, &self.spki);
        let possession = self.pair.sign(&SystemRandom::new(), &message).map_err(|_| AgentError::WorkloadKey)?;
        Ok(WorkloadKey {
            key: Base64Bytes(self.spki.clone()),
            endorsement: Base64Bytes(endorsement.to_vec()),
            possession: Base64Bytes(possession.as_ref().to_vec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use countersign_attestation::workload_key::{WorkloadKeyReason, verify};

    use super::MemoryKey;

    #[test]
    fn a_key_shows_that_it_is_held_and_nothing_of_itself() {
        let (credential, key) = (MemoryKey::generate().unwrap(), MemoryKey::generate().unwrap());
        let said = countersign_attestation::workload_key::message(&[7; 32], credential.spki(), key.spki());
        let random = aws_lc_rs::rand::SystemRandom::new();
        let endorsement: [u8; 64] = credential.pair.sign(&random, &said).unwrap().as_ref().try_into().unwrap();
        let offered = key.offer(&[7; 32], credential.spki(), endorsement).unwrap();
        assert_eq!(verify(&offered, credential.spki(), &[7; 32]), Ok(()));
        let other = key.offer(&[8; 32], credential.spki(), endorsement).unwrap();
        let refused = verify(&other, credential.spki(), &[7; 32]).unwrap_err();
        assert_eq!(refused.reason(), WorkloadKeyReason::Possession.into());
        let printed = format!("{key:?}");
        assert!(!printed.contains(&hex::encode(&key.pkcs8()[40..60])), "{printed}");
    }
}
