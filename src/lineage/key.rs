//! The log's key: Ed25519, and the checkpoints it signs (C2SP signed-note and tlog-checkpoint).

use std::path::Path;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::tree::TreeHead;
use zeroize::Zeroizing;

use super::LineageError;
use crate::config::{read_bounded, write_new};
use crate::keys::random;

/// Algorithm byte of Ed25519 notes (C2SP signed-note).
const ED25519: u8 = 1;

/// Signs checkpoints under the log's origin.
pub struct LogKey {
    origin: String,
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for LogKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogKey").field("vkey", &self.vkey()).finish_non_exhaustive()
    }
}

impl LogKey {
    /// Makes a key and writes its seed (0600, 32 bytes). An existing file is an error.
    ///
    /// # Errors
    /// [`LineageError::Key`].
    pub fn generate(path: &Path, origin: &str) -> Result<Self, LineageError> {
        let key = |error: &dyn std::fmt::Display| LineageError::Key(error.to_string());
        let seed = Zeroizing::new(random::<32>().map_err(|error| key(&error))?);
        write_new(path, &*seed).map_err(|error| key(&error))?;
        Self::load(path, origin)
    }

    /// Loads a key.
    ///
    /// # Errors
    /// [`LineageError::Key`].
    pub fn load(path: &Path, origin: &str) -> Result<Self, LineageError> {
        let seed = Zeroizing::new(read_bounded(path, 32).map_err(|error| LineageError::Key(error.to_string()))?);
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed);
        let pair = pair.map_err(|_| LineageError::Key("expected a seed of 32 bytes".to_owned()))?;
        Ok(Self { origin: origin.to_owned(), pair })
    }

    /// The log's origin line.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The verifier key: `name+hash+base64(algorithm || key)`.
    #[must_use]
    pub fn vkey(&self) -> String {
        let key = [&[ED25519], self.pair.public_key().as_ref()].concat();
        format!("{}+{}+{}", self.origin, hex::encode(self.key_hash()), STANDARD.encode(key))
    }

    /// The first four bytes of SHA-256(name || 0x0A || algorithm || key).
    fn key_hash(&self) -> [u8; 4] {
        let digest = Sha256Digest::of(&[self.origin.as_bytes(), b"\n", &[ED25519], self.pair.public_key().as_ref()]);
        digest.0.first_chunk().copied().unwrap_or_default()
    }

    /// The signed checkpoint of a head.
    ///
    /// # Errors
    /// None today; an HSM may have some.
    pub fn sign_checkpoint(&self, head: TreeHead) -> Result<String, LineageError> {
        let body = format!("{}\n{}\n{}\n", self.origin, head.size, STANDARD.encode(head.root.0));
        let signature = [&self.key_hash()[..], self.pair.sign(body.as_bytes()).as_ref()].concat();
        Ok(format!("{body}\n\u{2014} {} {}\n", self.origin, STANDARD.encode(signature)))
    }
}
