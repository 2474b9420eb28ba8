//! A change to what hosts are judged by, before it is one: what is in force beside what would be, and a digest that
//! names the change, so that nobody commits another one than was looked at.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_policies::reference::ReferenceManifest;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Governance, Parts, References, not_changed, parse_policies};
use crate::collateral::document::Document;
use crate::collateral::items::Judged;
use crate::config::{ConfigError, create_private_dir, sync_dir, write_new};
use crate::problem::{Problem, Refusal};

/// Policies of one set; each is a file.
const POLICIES_MAX: usize = 64;

/// What an operator thinks of changing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proposal {
    /// One more manifest.
    RegisterReference(Box<RawValue>),
    /// One manifest less, by its id.
    WithdrawReference(String),
    /// These policies, by name and text, and no others.
    ActivatePolicies(Vec<(String, String)>),
    /// What vendors published since.
    ImportCollateral(Vec<Document>),
}

/// What is in force, and what would be.
#[derive(Debug)]
pub struct Proposed {
    /// In force.
    pub before: Arc<Governance>,
    /// With the change.
    pub after: Governance,
}

impl Proposed {
    /// Names the change, whatever else has changed meanwhile.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        change_digest(&self.before, &self.after)
    }
}

/// SHA-256 of `countersign/v1/change`, a zero byte, and for each of references, policy, collateral, waivers and denials
/// that differs: its number in this order, what it was and what it is. Of references, what they say: a manifest is
/// looked at before it is signed.
fn change_digest(before: &Governance, after: &Governance) -> Sha256Digest {
    let parts = |governance: &Governance| {
        let Governance { references, digests, .. } = governance;
        [references.digest(), digests.policy, digests.collateral, digests.waivers, digests.denials]
    };
    let mut text = b"countersign/v1/change\0".to_vec();
    for (number, (before, after)) in (0_u8..).zip(parts(before).iter().zip(parts(after))) {
        if *before != after {
            text.push(number);
            text.extend_from_slice(&before.0);
            text.extend_from_slice(&after.0);
        }
    }
    Sha256Digest::of(&[&text])
}

impl References {
    /// What would be in force with a proposal. Nothing changes.
    ///
    /// # Errors
    /// Why the proposal itself is not acceptable, or a failure to archive.
    pub fn propose(&self, proposal: Proposal, now: UnixMillis) -> Result<Proposed, Problem> {
        let _one = self.changing.lock().map_err(|_| Refusal::Internal.plain())?;
        let after = match proposal {
            Proposal::RegisterReference(json) => {
                let manifest = ReferenceManifest::parse(json.get().as_bytes());
                let manifest = manifest.map_err(|finding| Problem::unacceptable(&finding))?;
                manifest.check_term(now).map_err(|finding| Problem::unacceptable(&finding))?;
                self.check_newer(&manifest)?;
                // In the place of a lower version of it, if there is one: the later of two counts.
                self.proposed(|parts| parts.proposed = Some(Arc::new(manifest)))?
            }
            Proposal::WithdrawReference(id) => {
                self.current().references.get(&id).ok_or_else(|| Refusal::ReferenceUnknown.plain())?;
                self.proposed(|parts| parts.manifests.retain(|signed| signed.manifest().id() != id))?
            }
            Proposal::ActivatePolicies(texts) => {
                let policy = acceptable(&texts)?;
                self.proposed(|parts| parts.policy = policy)?
            }
            Proposal::ImportCollateral(documents) => self.with_collateral(documents, now)?,
        };
        Ok(Proposed { before: self.current(), after })
    }

    /// A changed set that nobody committed: nothing of it is kept.
    fn proposed(&self, change: impl FnOnce(&mut Parts)) -> Result<Governance, Problem> {
        self.with(change, &|bytes| Ok(Sha256Digest::of(&[bytes])))
    }

    fn with_collateral(&self, documents: Vec<Document>, now: UnixMillis) -> Result<Governance, Problem> {
        let current = self.current();
        let mut items = current.items.clone();
        for document in documents {
            match items.judge(document, &current.collateral.anchors, "what-if", now) {
                Ok(Judged::Newer(item)) => items.put(item),
                Ok(Judged::Known(_)) => {}
                Err(rejection) => return Err(rejection.into()),
            }
        }
        let collateral = current.collateral.clone().with(&mut items);
        self.proposed(|parts| (parts.collateral, parts.items) = (collateral, items))
    }

    /// Puts other policies in force, in place of all that are: the very change that was previewed.
    ///
    /// # Errors
    /// Why they cannot be loaded, [`Refusal::PreviewStale`], what `record` refuses, or a failure to write.
    pub fn activate_policies(
        &self,
        texts: &[(String, String)],
        previewed: Sha256Digest,
        record: impl FnOnce(Sha256Digest) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let policy = acceptable(texts)?;
        let _one = self.changing.lock().map_err(|_| Refusal::Internal.plain())?;
        let governance = self.changed(|parts| parts.policy = policy)?;
        self.check_previewed(previewed, &governance)?;
        record(governance.digests.policy)?;
        replace_policies(&self.policies, texts).map_err(|error| not_changed(&error))?;
        self.put_in_force(&[], governance)
    }

    /// Refuses a change that is not the one its committer looked at.
    pub(super) fn check_previewed(&self, previewed: Sha256Digest, after: &Governance) -> Result<(), Problem> {
        let change = change_digest(&self.current(), after);
        if change == previewed { Ok(()) } else { Err(Refusal::PreviewStale.because(change, previewed)) }
    }
}

/// Policies that can be loaded, under names that can be files.
fn acceptable(texts: &[(String, String)]) -> Result<countersign_policies::policy::PolicySet, Problem> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let named = |name: &str| (1..=64).contains(&name.len()) && name.bytes().all(plain);
    let names: BTreeSet<&str> = texts.iter().map(|(name, _)| name.as_str()).collect();
    if POLICIES_MAX < texts.len() || names.len() != texts.len() || !names.iter().all(|name| named(name)) {
        let expected = format!("at most {POLICIES_MAX} policies, each under its own name of letters, digits, - and _");
        return Err(Refusal::Malformed.because(expected, texts.len()));
    }
    parse_policies(texts).map_err(|finding| Problem::unacceptable(&finding))
}

/// A whole directory takes the other's place at once: a crash leaves the old policies or the new ones.
fn replace_policies(dir: &Path, texts: &[(String, String)]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let next = dir.with_extension("next");
    remove(&next)?;
    create_private_dir(&next)?;
    for (name, text) in texts {
        write_new(&next.join(format!("{name}.cedar")), text.as_bytes())?;
    }
    sync_dir(&next)?;
    renameat_with(CWD, &next, CWD, dir, RenameFlags::EXCHANGE)?;
    if let Some(parent) = dir.parent() {
        sync_dir(parent)?;
    }
    Ok(remove(&next)?)
}

fn remove(dir: &Path) -> Result<(), ConfigError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ConfigError::file(dir)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
