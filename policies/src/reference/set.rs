//! All manifests that hosts are compared with, and what each of them lists at a moment.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use countersign_attestation::UnixMillis;
use countersign_attestation::claims::PcrHash;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::PcrSelection;

use super::{FIRST_SELECTION, ReferenceManifest};
use crate::boot::BootReference;

/// Every registered manifest, by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceSet {
    manifests: BTreeMap<String, Kept>,
    digest: Sha256Digest,
    pcr_selection: Vec<PcrSelection>,
}

/// A manifest, and what is left of it from each end of an artifact on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    whole: Arc<ReferenceManifest>,
    /// In the order of time.
    left: Vec<(UnixMillis, Arc<ReferenceManifest>)>,
}

/// A manifest at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InForce<'a> {
    /// What it lists still.
    pub(crate) manifest: &'a ReferenceManifest,
    /// What it listed at first, where artifacts have ended since.
    pub(crate) before: Option<&'a ReferenceManifest>,
    /// When the whole of it ended, if it has.
    pub(crate) ended: Option<UnixMillis>,
}

impl Kept {
    fn new(whole: Arc<ReferenceManifest>) -> Self {
        let ends = whole.lifecycle.ends().into_iter();
        let left = ends.map(|end| (end, Arc::new(whole.without(&whole.lifecycle.ended(end))))).collect();
        Self { whole, left }
    }

    fn at(&self, now: UnixMillis) -> InForce<'_> {
        let left = self.left.iter().rev().find(|(from, _)| *from <= now);
        let (manifest, before) = left.map_or((&self.whole, None), |(_, left)| (left, Some(&*self.whole)));
        InForce { manifest, before, ended: self.whole.until().filter(|until| *until <= now) }
    }
}

impl ReferenceSet {
    /// The set of these manifests; of two with one id the later counts. The empty set matches no host.
    #[must_use]
    pub fn new(manifests: impl IntoIterator<Item = ReferenceManifest>) -> Self {
        Self::of(manifests.into_iter().map(Arc::new))
    }

    /// As [`ReferenceSet::new`], of manifests that others hold too.
    #[must_use]
    pub fn of(manifests: impl IntoIterator<Item = Arc<ReferenceManifest>>) -> Self {
        let manifests: BTreeMap<_, _> =
            manifests.into_iter().map(|manifest| (manifest.id.clone(), Kept::new(manifest))).collect();
        let digest = digest_of(manifests.values().map(|kept| &*kept.whole));
        let pcr_selection = pcr_selection(manifests.values().map(|kept| &*kept.whole));
        Self { manifests, digest, pcr_selection }
    }

    /// The manifest with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&ReferenceManifest> {
        self.manifests.get(id).map(|kept| &*kept.whole)
    }

    /// Every manifest, by id, with all that it ever lists.
    pub fn manifests(&self) -> impl Iterator<Item = &ReferenceManifest> {
        self.manifests.values().map(|kept| &*kept.whole)
    }

    /// Every manifest as it is at `now`.
    pub(crate) fn at(&self, now: UnixMillis) -> impl Iterator<Item = InForce<'_>> {
        self.manifests.values().map(move |kept| kept.at(now))
    }

    /// Whether some manifest, or an artifact of one, ended after `since` and has at `now`.
    #[must_use]
    pub fn ended_between(&self, since: UnixMillis, now: UnixMillis) -> bool {
        self.manifests().filter_map(|manifest| manifest.next_end(since)).any(|end| end <= now)
    }

    /// Whether some manifest asks for an event log.
    #[must_use]
    pub fn names_boot(&self) -> bool {
        self.manifests().any(|manifest| manifest.boot.is_some())
    }

    /// SHA-256 over the digests of the manifests in the order of their ids.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// What a challenge must ask a host to quote: every PCR that some manifest names or needs, banks and indexes
    /// ascending.
    ///
    /// When no manifest names a PCR (nothing is registered yet, or launch measurements only), a fixed selection of the
    /// `sha256` bank: nothing is admitted by it, but a quote is needed for the key, and its values are what an operator
    /// registers first.
    #[must_use]
    pub fn pcr_selection(&self) -> &[PcrSelection] {
        &self.pcr_selection
    }
}

fn pcr_selection<'a>(manifests: impl Iterator<Item = &'a ReferenceManifest>) -> Vec<PcrSelection> {
    let mut union: BTreeMap<PcrHash, BTreeSet<u8>> = BTreeMap::new();
    for manifest in manifests {
        let named = manifest.tpm.iter().flat_map(|tpm| &tpm.pcrs);
        for (bank, pcrs) in named {
            union.entry(*bank).or_default().extend(pcrs.keys().copied());
        }
        // One bank is enough for a log: one that the manifest names values of, or else the one that every TPM has.
        let bank = manifest.tpm.as_ref().and_then(|tpm| tpm.pcrs.keys().next().copied()).unwrap_or(PcrHash::Sha256);
        let boot = manifest.boot.iter().flat_map(BootReference::pcrs);
        // The list begins with the aggregate of PCR 0 to 9: quoted with it, it is bound to this boot.
        let ima = manifest.ima.iter().flat_map(|ima| (0..=9).chain(ima.rules.pcrs().iter().copied()));
        let mut of_logs = boot.chain(ima).peekable();
        if of_logs.peek().is_some() {
            union.entry(bank).or_default().extend(of_logs);
        }
    }
    if union.is_empty() {
        union.insert(PcrHash::Sha256, FIRST_SELECTION.into());
    }
    union.into_iter().map(|(bank, pcrs)| PcrSelection { bank, pcrs: pcrs.into_iter().collect() }).collect()
}

fn digest_of<'a>(manifests: impl Iterator<Item = &'a ReferenceManifest>) -> Sha256Digest {
    // Digests have one length, so their sequence is unambiguous; each covers its manifest's id.
    let mut input = b"countersign/v1/references\0".to_vec();
    for manifest in manifests {
        input.extend_from_slice(&manifest.digest().0);
    }
    Sha256Digest::of(&[&input])
}
