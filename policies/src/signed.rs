//! Signed manifests: k of n operators vouch for reference values, and whoever writes the database cannot add one.
//!
//! A manifest travels as a signed note (C2SP signed-note, Ed25519) whose text is the manifest as its author wrote it:
//! the signatures are over these very bytes, so that no two programs have to agree on a canonical form of JSON. How
//! many must sign, and who may, comes from the settings of whoever verifies. A number in the text, or in a record that
//! the text was read from, means nothing.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::num::NonZero;

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::checkpoint::NoteKey;
use serde::{Deserialize, Serialize};

use crate::finding::{Finding, PolicyReason};
use crate::reference::{MANIFEST_BYTES_MAX, ReferenceManifest};

/// Bytes of a signed manifest: the manifest, and the lines of as many signatures as a note may have.
pub const SIGNED_BYTES_MAX: usize = MANIFEST_BYTES_MAX + 64 * 1024;
/// Operators of one broker: each manifest is compared with the keys of all.
pub const SIGNERS_MAX: usize = 256;

/// Who may sign reference manifests, and how many of them must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signers {
    required: NonZero<u8>,
    keys: Vec<NoteKey>,
}

/// As it is archived, so that a decision can be made again by what held then.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSigners {
    required: NonZero<u8>,
    keys: Vec<String>,
}

/// A manifest that enough operators signed: [`Signers::open`] is the only constructor.
///
/// ```compile_fail
/// let forged: countersign_policies::signed::SignedManifest = serde_json::from_str("{}").unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedManifest {
    manifest: Arc<ReferenceManifest>,
    signers: Vec<String>,
    note: Arc<str>,
}

impl Signers {
    /// Any `required` of these, in the order of their names. Keys beyond [`SIGNERS_MAX`] do not count.
    #[must_use]
    pub fn new(required: NonZero<u8>, keys: impl IntoIterator<Item = NoteKey>) -> Self {
        let mut keys: Vec<NoteKey> = keys.into_iter().collect();
        keys.sort_by(|one, other| one.name().cmp(other.name()));
        keys.truncate(SIGNERS_MAX);
        Self { required, keys }
    }

    /// Opens a manifest that enough of them signed.
    ///
    /// # Errors
    /// [`PolicyReason::ManifestSignatures`] where the note is none, a line of a signer does not verify, or signatures
    /// of fewer distinct keys are there than required; else as [`ReferenceManifest::parse`].
    pub fn open(&self, note: &str) -> Result<SignedManifest, Finding> {
        let required = self.required;
        let refused = |found: &dyn core::fmt::Display| {
            let expected = format_args!("signatures of {required} of {} operators", self.keys.len());
            PolicyReason::ManifestSignatures.because(expected, found)
        };
        // By key: one who is listed twice is one.
        let mut by: BTreeMap<&[u8], &str> = BTreeMap::new();
        let mut text = None;
        for key in &self.keys {
            if let Some(signed) = key.signed(note, SIGNED_BYTES_MAX).map_err(|rejection| refused(&rejection))? {
                by.insert(key.public(), key.name());
                text = Some(signed);
            }
        }
        let enough = usize::from(required.get()) <= by.len();
        let text = text.filter(|_| enough).ok_or_else(|| refused(&format_args!("of {}", by.len())))?;
        let manifest = Arc::new(ReferenceManifest::parse(text.bytes())?);
        let mut signers: Vec<String> = by.into_values().map(ToString::to_string).collect();
        signers.sort();
        Ok(SignedManifest { manifest, signers, note: note.into() })
    }

    /// The one form that is hashed and archived.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let keys = self.keys.iter().map(NoteKey::vkey).collect();
        crate::decision::canonical(&WrittenSigners { required: self.required, keys })
    }

    /// Reads what was archived; `None` for anything else.
    #[must_use]
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let WrittenSigners { required, keys } = serde_json::from_slice(json).ok()?;
        let keys: Option<Vec<NoteKey>> = keys.iter().map(|key| NoteKey::parse(key).ok()).collect();
        let signers = Self::new(required, keys?);
        (signers.to_json() == json).then_some(signers)
    }
}

impl SignedManifest {
    /// What was signed.
    #[must_use]
    pub const fn manifest(&self) -> &Arc<ReferenceManifest> {
        &self.manifest
    }

    /// Names of those whose signatures counted, as [`signer_name`](crate::waiver::signer_name) writes them.
    #[must_use]
    pub fn signers(&self) -> &[String] {
        &self.signers
    }

    /// Text and signatures.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }

    /// SHA-256 of [`SignedManifest::note`].
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&[self.note.as_bytes()])
    }
}
