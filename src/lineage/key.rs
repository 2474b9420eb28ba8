//! The Ed25519 key that signs the log's checkpoints.

use std::path::Path;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use countersign_attestation::lineage::checkpoint::{NoteKey, note_text};
use countersign_attestation::lineage::tree::TreeHead;
use zeroize::Zeroizing;

use crate::config::{read_bounded, write_new};
use crate::lineage::LineageError;

const SEED_BYTES: usize = 32;

/// The log's key, bound to the log's origin, which is also the name it signs under.
pub struct LogKey {
    pair: Ed25519KeyPair,
    public: NoteKey,
}

impl std::fmt::Debug for LogKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogKey").field("public", &self.vkey()).finish_non_exhaustive()
    }
}

impl LogKey {
    /// Makes a key and writes its seed to a new file (0600).
    ///
    /// # Errors
    /// [`LineageError`] when the file exists or the origin cannot name a key.
    pub fn generate(path: &Path, origin: &str) -> Result<Self, LineageError> {
        let mut seed = Zeroizing::new([0; SEED_BYTES]);
        aws_lc_rs::rand::fill(&mut *seed).map_err(|_| LineageError::Key("no random bytes"))?;
        let key = Self::from_seed(&seed, origin)?;
        write_new(path, &*seed)?;
        Ok(key)
    }

    /// Reads a key's seed.
    ///
    /// # Errors
    /// [`LineageError`] when the file is not a seed or the origin cannot name a key.
    pub fn load(path: &Path, origin: &str) -> Result<Self, LineageError> {
        let bytes = Zeroizing::new(read_bounded(path, SEED_BYTES as u64)?);
        let seed: &[u8; SEED_BYTES] =
            bytes.as_slice().try_into().map_err(|_| LineageError::Key("the file is not a seed of 32 bytes"))?;
        Self::from_seed(seed, origin)
    }

    fn from_seed(seed: &[u8; SEED_BYTES], origin: &str) -> Result<Self, LineageError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| LineageError::Key("not an Ed25519 seed"))?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| LineageError::Key("not an Ed25519 key"))?;
        let public =
            NoteKey::ed25519(origin, public).map_err(|_| LineageError::Key("the origin cannot be a key's name"))?;
        Ok(Self { pair, public })
    }

    /// The verifier key: what auditors pin.
    #[must_use]
    pub fn vkey(&self) -> String {
        self.public.vkey()
    }

    /// The log this key signs for.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.public.name()
    }

    /// The public key.
    #[must_use]
    pub const fn public(&self) -> &NoteKey {
        &self.public
    }

    /// The signed checkpoint of a head. Only the log signs, and only what is durable.
    pub(super) fn checkpoint(&self, head: TreeHead) -> String {
        let text = note_text(self.origin(), head);
        let signature = self.pair.sign(text.as_bytes());
        let mut bytes = [0; 64];
        // An Ed25519 signature is 64 bytes; another length leaves zeros, which nobody accepts.
        if signature.as_ref().len() == bytes.len() {
            bytes.copy_from_slice(signature.as_ref());
        }
        format!("{text}\n{}", self.public.signature_line(&bytes))
    }
}
