//! One decision in one file, for whoever has neither the log nor the archive: the entry, its proof of inclusion under a
//! signed checkpoint, and every byte that the decision was made of. Each byte counts: what is not referenced, not in
//! order or not written as it would be here is refused.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use countersign_attestation::Rejection;
use countersign_attestation::anchor::TrustAnchors;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::checkpoint::{Checkpoint, NoteKey};
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::lineage::tree::{TreeHead, inclusion_proof, leaf_hash, verify_inclusion};
use countersign_attestation::protocol::Base64Bytes;
use countersign_policies::decision::Decision;
use serde::{Deserialize, Serialize};

use crate::broker::judge::{Inputs, judge};
use crate::lineage::archive::Blobs;
use crate::references::Governance;

/// Logs at their limits, written in base64, and room for the rest.
pub const BUNDLE_BYTES_MAX: u64 = 128 * 1024 * 1024;
const FORMAT: &str = "countersign/decision-bundle/v1";

/// The file: this JSON without any space, and a newline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionBundle {
    format: String,
    index: u64,
    entry: Base64Bytes,
    /// RFC 6962, 2.1.1.
    inclusion: Vec<Sha256Digest>,
    /// C2SP tlog-checkpoint, with its signatures.
    checkpoint: String,
    /// What the decision was made of, in the order of the digests.
    blobs: Vec<Base64Bytes>,
}

/// Why a bundle proves nothing, or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Not the one way to write it.
    #[error("not a bundle as it is written: {0}")]
    Form(String),
    /// The checkpoint, the entry or its inclusion.
    #[error(transparent)]
    Log(#[from] Rejection),
    /// The entry is a renewal, a lapse or an operator's word: nothing was judged for it.
    #[error("entry {index} is of event {event}, which keeps no inputs")]
    NothingJudged {
        /// Its index.
        index: u64,
        /// What it says.
        event: &'static str,
    },
    /// Newer than the checkpoint.
    #[error("entry {index} is not under the checkpoint of {size} entries; a running broker publishes one each second")]
    NotCovered {
        /// Its index.
        index: u64,
        /// Entries that are.
        size: u64,
    },
    /// A part is missing or is not what its digest says.
    #[error("what the decision was made of cannot be read: {0}")]
    Inputs(String),
    /// A part that the decision was not made of.
    #[error("{0} has nothing to do with the decision")]
    Unused(Sha256Digest),
    /// A root that neither the vendors' nor the reader's word covers.
    #[error("the decision rests on the root {digest} ({name}), which is no vendor's and was not named as trusted")]
    Root {
        /// SHA-256 of the certificate.
        digest: Sha256Digest,
        /// What the broker calls it.
        name: String,
    },
    /// Judged again, it comes to something else.
    #[error("the inputs come to the decision {found}, and {recorded} was recorded")]
    Differs {
        /// In the entry.
        recorded: Sha256Digest,
        /// Judged again.
        found: Sha256Digest,
    },
}

/// A decision that was proven: in the log, and made again from its inputs.
#[derive(Debug)]
pub struct Proven {
    /// Index of the entry.
    pub index: u64,
    /// The entry.
    pub entry: Entry,
    /// The log's head that covers it.
    pub head: TreeHead,
    /// The inputs.
    pub inputs: Inputs,
    /// The decision.
    pub decision: Decision,
}

/// Remembers what was read.
struct Recording<'a> {
    blobs: &'a dyn Blobs,
    read: RefCell<BTreeMap<Sha256Digest, Vec<u8>>>,
}

impl Blobs for Recording<'_> {
    fn blob(&self, digest: Sha256Digest) -> Option<Cow<'_, [u8]>> {
        let bytes = self.blobs.blob(digest)?.into_owned();
        self.read.borrow_mut().insert(digest, bytes.clone());
        Some(Cow::Owned(bytes))
    }
}

impl Blobs for BTreeMap<Sha256Digest, Vec<u8>> {
    fn blob(&self, digest: Sha256Digest) -> Option<Cow<'_, [u8]>> {
        self.get(&digest).map(|bytes| Cow::Borrowed(bytes.as_slice()))
    }
}

impl DecisionBundle {
    /// The bundle of the entry at `index`, under a checkpoint that covers the first of `entries`.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn make(
        index: u64,
        entries: &[Vec<u8>],
        checkpoint: &str,
        key: &NoteKey,
        archive: &dyn Blobs,
    ) -> Result<Self, BundleError> {
        let head = Checkpoint::verify(checkpoint, key, key.name())?.head();
        let covered = usize::try_from(head.size).ok().and_then(|size| entries.get(..size));
        let not_covered = || BundleError::NotCovered { index, size: head.size };
        let covered = covered.ok_or_else(not_covered)?;
        let entry = usize::try_from(index).ok().and_then(|at| covered.get(at)).ok_or_else(not_covered)?;
        let leaves: Vec<Sha256Digest> = covered.iter().map(|bytes| leaf_hash(bytes)).collect();
        let inclusion = inclusion_proof(leaves.as_slice(), index, head.size).ok_or_else(not_covered)?;
        let archive = Recording { blobs: archive, read: RefCell::default() };
        judged(index, &Entry::decode(entry)?, &archive)?;
        let blobs = archive.read.into_inner().into_values().map(Base64Bytes).collect();
        let (format, entry, checkpoint) = (FORMAT.to_owned(), Base64Bytes(entry.clone()), checkpoint.to_owned());
        Ok(Self { format, index, entry, inclusion, checkpoint, blobs })
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// [`BundleError::Form`] when it is too large.
    pub fn encode(&self) -> Result<Vec<u8>, BundleError> {
        let mut bytes = serde_json::to_vec(self).map_err(|error| BundleError::Form(error.to_string()))?;
        bytes.push(b'\n');
        if BUNDLE_BYTES_MAX < bytes.len() as u64 {
            return Err(BundleError::Form(format!("more than {BUNDLE_BYTES_MAX} bytes")));
        }
        Ok(bytes)
    }

    /// Proves a decision from a bundle alone: the log's key says that it was recorded, and the inputs that it was made
    /// of them. `roots` are those that the reader trusts beside the vendors' own.
    ///
    /// # Errors
    /// [`BundleError`], for the first byte that is not as it must be.
    pub fn prove(
        bytes: &[u8],
        key: &NoteKey,
        shipped: &BTreeSet<Sha256Digest>,
        roots: &BTreeSet<Sha256Digest>,
    ) -> Result<Proven, BundleError> {
        let bundle: Self = serde_json::from_slice(bytes).map_err(|error| BundleError::Form(error.to_string()))?;
        if bundle.format != FORMAT || bundle.encode()? != bytes {
            return Err(BundleError::Form(format!("expected {FORMAT}, written in the one way")));
        }
        let Self { index, entry, inclusion, checkpoint, blobs, .. } = bundle;
        let head = Checkpoint::verify(&checkpoint, key, key.name())?.head();
        verify_inclusion(head, index, leaf_hash(&entry.0), &inclusion)?;
        let entry = Entry::decode(&entry.0)?;
        let digests: Vec<Sha256Digest> = blobs.iter().map(|blob| Sha256Digest::of(&[&blob.0])).collect();
        if !digests.is_sorted_by(|before, after| before < after) {
            return Err(BundleError::Form("parts are in the order of their digests, each once".to_owned()));
        }
        let there: BTreeMap<_, _> = digests.iter().copied().zip(blobs.into_iter().map(|blob| blob.0)).collect();
        let archive = Recording { blobs: &there, read: RefCell::default() };
        let (inputs, governance, decision) = judged(index, &entry, &archive)?;
        let read = archive.read.into_inner();
        if let Some(unused) = digests.into_iter().find(|digest| !read.contains_key(digest)) {
            return Err(BundleError::Unused(unused));
        }
        check_roots(&governance.collateral.anchors, |root| shipped.contains(&root) || roots.contains(&root))?;
        Ok(Proven { index, entry, head, inputs, decision })
    }
}

/// Judges again what an entry records, and compares.
fn judged(index: u64, entry: &Entry, blobs: &dyn Blobs) -> Result<(Inputs, Governance, Decision), BundleError> {
    let nothing = || BundleError::NothingJudged { index, event: entry.event().name() };
    let (named, recorded) = entry.inputs().zip(entry.subject()).ok_or_else(nothing)?;
    let bytes = blobs.blob(named).ok_or_else(|| BundleError::Inputs(format!("{named} is not there")))?;
    let inputs: Inputs = serde_json::from_slice(&bytes).map_err(|error| BundleError::Inputs(error.to_string()))?;
    let governance = Governance::from_archive(blobs, inputs.governance);
    let governance = governance.map_err(|error| BundleError::Inputs(error.to_string()))?;
    let judged = judge(&inputs, &governance, blobs);
    let found = Sha256Digest::of(&[&judged.decision.canonical_bytes()]);
    if found != recorded || judged.codes() != entry.reasons() {
        return Err(BundleError::Differs { recorded, found });
    }
    Ok((inputs, governance, judged.decision))
}

fn check_roots(anchors: &TrustAnchors, trusted: impl Fn(Sha256Digest) -> bool) -> Result<(), BundleError> {
    let TrustAnchors { amd, intel, tpm, ak } = anchors;
    let amd = amd.iter().map(|anchor| (anchor.product.to_string(), &anchor.ark));
    let intel = intel.iter().map(|anchor| (anchor.name.clone(), &anchor.root));
    let tpm = tpm.iter().chain(ak).map(|anchor| (anchor.name.clone(), &anchor.root));
    for (name, root) in amd.chain(intel).chain(tpm) {
        let digest = Sha256Digest::of(&[root]);
        if !trusted(digest) {
            return Err(BundleError::Root { digest, name });
        }
    }
    Ok(())
}
