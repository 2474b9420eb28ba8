//! Reference manifests come and go: signed by enough operators when they are registered, when they are loaded, and for
//! as long as they are in force; each version of an id once.

use std::collections::BTreeSet;
use std::num::NonZero;

use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_policies::reference::ReferenceManifest;
use countersign_policies::signed::{SignedManifest, Signers};
use serde::{Deserialize, Serialize};

use super::{LoadError, Parts, References, not_changed};
use crate::config::{Config, ConfigError, DataDir};
use crate::keys::listed::signing_keys;
use crate::problem::{Problem, Refusal};
use crate::store::{Store, Table, Write};

/// What is stored under a manifest's id. It stays when the manifest is retired: no older version comes after it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredManifest {
    version: u32,
    /// Absent once it is retired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl StoredManifest {
    fn write(id: &str, version: u32, note: Option<String>) -> Result<Write, Problem> {
        let json = serde_json::to_vec(&Self { version, note }).map_err(|_| Refusal::Internal.plain())?;
        Ok(Write::put(Table::References, id, json))
    }
}

/// Where the broker's settings say whose signatures count: the operators on its list, and how many of them.
#[derive(Debug)]
pub(super) struct Roster {
    data: DataDir,
    trust_domain: String,
    required: NonZero<u8>,
}

impl Roster {
    pub(super) fn new(data: &DataDir, config: &Config) -> Self {
        Self { data: data.clone(), trust_domain: config.trust_domain.clone(), required: config.reference_signatures }
    }

    /// As the list is now.
    pub(super) fn signers(&self) -> Result<Signers, ConfigError> {
        Ok(Signers::new(self.required, signing_keys(&self.data, &self.trust_domain)?))
    }
}

/// Manifests that enough of `signers` signed and that are `registered` by the log. One that is not is left out: its
/// hosts fail, and an operator who looks finds why in what the broker says of itself.
pub(super) fn load(
    store: &Store,
    signers: &Signers,
    registered: &BTreeSet<Sha256Digest>,
) -> Result<Vec<SignedManifest>, LoadError> {
    let mut manifests = Vec::new();
    for (id, json) in store.scan(Table::References).map_err(|error| LoadError::Storage(error.to_string()))? {
        let id = String::from_utf8_lossy(&id).into_owned();
        let stored: StoredManifest = serde_json::from_slice(&json)
            .map_err(|error| LoadError::Storage(format!("reference manifest {id}: {error}")))?;
        let Some(note) = stored.note else { continue };
        match signers.open(&note) {
            Err(finding) => {
                tracing::error!(
                    manifest = id,
                    code = finding.code,
                    found = finding.found,
                    "a stored manifest is not used"
                );
            }
            Ok(signed) if signed.manifest().id() != id || signed.manifest().version() != stored.version => {
                tracing::error!(manifest = id, "a stored manifest is not the one it is stored as, and is not used");
            }
            Ok(signed) if !registered.contains(&signed.digest()) => {
                tracing::error!(manifest = id, "a stored manifest is not registered by the log, and is not used");
            }
            Ok(signed) => manifests.push(signed),
        }
    }
    Ok(manifests)
}

impl Parts {
    /// Puts a manifest in the place of the one with its id, if there is one; tells that one's digest.
    fn put(&mut self, signed: SignedManifest) -> Option<Sha256Digest> {
        let same = |other: &&SignedManifest| other.manifest().id() == signed.manifest().id();
        let replaced = self.manifests.iter().find(same).map(SignedManifest::digest);
        self.manifests.retain(|other| !same(&other));
        self.manifests.push(signed);
        self.manifests.sort_by(|one, other| one.manifest().id().cmp(other.manifest().id()));
        replaced
    }
}

/// What became of a manifest that was brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its id.
    pub id: String,
    /// Whether it took another version's place: hosts may fail that passed.
    pub replaces: bool,
}

impl References {
    /// Registers a signed manifest; `record` is called when it is certain to be acceptable and before it is in force,
    /// for it and for the one whose place it takes, with whether that one is registered. One that takes the place of a
    /// lower version of its id must be the very change that was previewed.
    ///
    /// # Errors
    /// What is not acceptable of it, [`Refusal::ReferenceExists`], [`Refusal::ReferenceOlder`],
    /// [`Refusal::PreviewMissing`], [`Refusal::PreviewStale`], or what `record` refuses.
    pub fn register(
        &self,
        note: &str,
        previewed: Option<Sha256Digest>,
        now: UnixMillis,
        record: impl Fn(bool, Sha256Digest) -> Result<(), Problem>,
    ) -> Result<Registered, Problem> {
        let mut registered = self.changing.lock().map_err(|_| Refusal::Internal.plain())?;
        let signed = self.current().signers.open(note).map_err(|finding| Problem::unacceptable(&finding))?;
        let manifest = signed.manifest();
        manifest.check_term(now).map_err(|finding| Problem::unacceptable(&finding))?;
        self.check_newer(manifest)?;
        let (id, version, digest) = (manifest.id().to_owned(), manifest.version(), signed.digest());
        let mut replaced = None;
        let governance = self.changed(|parts| replaced = parts.put(signed))?;
        if replaced.is_some() {
            self.check_previewed(previewed.ok_or_else(|| Refusal::PreviewMissing.plain())?, &governance)?;
        }
        record(true, digest)?;
        registered.insert(digest);
        if let Some(replaced) = replaced {
            record(false, replaced)?;
            registered.remove(&replaced);
        }
        let write = StoredManifest::write(&id, version, Some(note.to_owned()))?;
        self.put_in_force(&[write], governance)?;
        Ok(Registered { id, replaces: replaced.is_some() })
    }

    /// Withdraws a manifest: the very change that was previewed.
    ///
    /// # Errors
    /// [`Refusal::ReferenceUnknown`], [`Refusal::PreviewStale`], or what `record` refuses.
    pub fn withdraw(
        &self,
        id: &str,
        previewed: Sha256Digest,
        record: impl FnOnce(Sha256Digest) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let mut registered = self.changing.lock().map_err(|_| Refusal::Internal.plain())?;
        let current = self.current();
        let signed = current.manifests.iter().find(|signed| signed.manifest().id() == id);
        let signed = signed.ok_or_else(|| Refusal::ReferenceUnknown.plain())?;
        let governance = self.changed(|parts| parts.manifests.retain(|signed| signed.manifest().id() != id))?;
        self.check_previewed(previewed, &governance)?;
        record(signed.digest())?;
        registered.remove(&signed.digest());
        self.put_in_force(&[StoredManifest::write(id, signed.manifest().version(), None)?], governance)
    }

    /// Judges every registered manifest by the list of operators as it is now: one whose signatures no longer suffice
    /// is out of force, and back where they do again. `record` is called for each, with whether it is in force. Tells
    /// whether hosts are judged by something else than before.
    ///
    /// # Errors
    /// An unreadable list or store, or what `record` refuses: nothing is then changed.
    pub fn review_signatures(
        &self,
        record: impl Fn(bool, Sha256Digest) -> Result<(), Problem>,
    ) -> Result<bool, Problem> {
        let signers = self.roster.signers().map_err(|error| not_changed(&error))?;
        if signers == self.current().signers {
            return Ok(false);
        }
        let registered = self.changing.lock().map_err(|_| Refusal::Internal.plain())?;
        let manifests = load(&self.store, &signers, &registered).map_err(|error| not_changed(&error))?;
        let before = self.current();
        let ids = |manifests: &[SignedManifest]| manifests.iter().map(SignedManifest::digest).collect::<Vec<_>>();
        let (was, is) = (ids(&before.manifests), ids(&manifests));
        let governance = self.changed(|parts| (parts.manifests, parts.signers) = (manifests, signers))?;
        for gone in was.iter().filter(|digest| !is.contains(digest)) {
            record(false, *gone)?;
        }
        for back in is.iter().filter(|digest| !was.contains(digest)) {
            record(true, *back)?;
        }
        self.put_in_force(&[], governance)?;
        Ok(was != is)
    }

    /// Refuses a manifest that is not above every version of its id that was ever registered.
    pub(super) fn check_newer(&self, manifest: &ReferenceManifest) -> Result<(), Problem> {
        let (id, version) = (manifest.id(), manifest.version());
        let stored = self.store.get(Table::References, id).map_err(|_| Refusal::StoreFailed.plain())?;
        let Some(stored) = stored else { return Ok(()) };
        let stored: StoredManifest = serde_json::from_slice(&stored).map_err(|_| Refusal::StoreFailed.plain())?;
        let refusal = match version.cmp(&stored.version) {
            std::cmp::Ordering::Greater => return Ok(()),
            std::cmp::Ordering::Equal if stored.note.is_some() => Refusal::ReferenceExists,
            std::cmp::Ordering::Equal | std::cmp::Ordering::Less => Refusal::ReferenceOlder,
        };
        Err(refusal.because(format_args!("a version of {id} above {}", stored.version), version))
    }
}
