//! What vendors publish anew from time to time comes into force: from the store and the disk at a start, and at any
//! time after it from a source, an operator, or files that changed.

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::issue::{Issue, IssueReason};
use countersign_attestation::{Rejection, UnixMillis};

use crate::collateral::document::Document;
use crate::collateral::items::{Item, Items, Judged};
use crate::collateral::{self, Collateral};
use crate::config::{ConfigError, DataDir};
use crate::lineage::archive::Archive;
use crate::problem::{Problem, Refusal};
use crate::references::{LoadError, References, not_changed};
use crate::store::Store;

/// A document, and where it came from.
#[derive(Clone, Debug)]
pub struct Offer {
    /// A source's name, `file:NAME` or `import:OPERATOR`.
    pub source: String,
    /// The document.
    pub document: Document,
}

/// What became of an offer.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is in force now.
    Accepted(Box<Item>),
    /// This very issue was in force.
    Known(Issue),
    /// It is not.
    Refused(Box<Rejection>),
}

/// What became of offers.
#[derive(Clone, Debug, Default)]
pub struct Offered {
    /// Of each, in order.
    pub outcomes: Vec<Outcome>,
    /// Whether hosts are judged by something else than before.
    pub changed: bool,
}

/// Everything at a start: what an operator decides, what was in force, and what an operator put on disk since.
pub(super) fn load(
    data: &DataDir,
    store: &Store,
    archive: &Archive,
    now: UnixMillis,
) -> Result<(Collateral, Items), LoadError> {
    let storage = |error: &dyn std::fmt::Display| LoadError::Storage(error.to_string());
    let collateral = collateral::load(data)?;
    let mut items = Items::load(store).map_err(|error| storage(&error))?;
    let mut writes = Vec::new();
    for (source, document) in collateral::filed(data)? {
        match items.judge(document, &collateral.anchors, &source, now) {
            Ok(Judged::Newer(item)) => {
                archive.put(&item.document.to_json()).map_err(|error| storage(&error))?;
                writes.push(item.write());
                items.put(item);
            }
            Ok(Judged::Known(_)) => {}
            // An old file beside a store that knows better.
            Err(rejection) if rejection.reason() == IssueReason::Older.into() => {
                tracing::warn!(source, %rejection, "collateral on disk is older than what was seen, and is not used");
            }
            // A file that is for nobody, or damaged, is a mistake that would be missed only when a host is denied.
            Err(rejection) => {
                let expected = "what a pinned vendor root signed";
                return Err(ConfigError::content(&data.collateral().join(&source), expected, rejection).into());
            }
        }
    }
    store.commit(&writes).map_err(|error| storage(&error))?;
    let collateral = collateral.with(&mut items);
    Ok((collateral, items))
}

impl References {
    /// Judges offered documents, and puts what is newer in force: archived, recorded by `record`, stored, used. With
    /// `decided`, what an operator decides ([`collateral::load`]) replaces what is in force of it.
    ///
    /// # Errors
    /// What `record` refuses, or a failure to archive or store: nothing is then changed.
    pub fn offer(
        &self,
        offers: Vec<Offer>,
        decided: Option<Collateral>,
        now: UnixMillis,
        record: impl FnOnce(Sha256Digest) -> Result<(), Problem>,
    ) -> Result<Offered, Problem> {
        let _one = self.changing.lock().map_err(|_| Refusal::Internal.plain())?;
        let current = self.current();
        let mut items = current.items.clone();
        let base = decided.unwrap_or_else(|| current.collateral.clone());
        let (mut writes, mut outcomes) = (Vec::new(), Vec::new());
        for Offer { source, document } in offers {
            outcomes.push(match items.judge(document, &base.anchors, &source, now) {
                Ok(Judged::Newer(item)) => {
                    self.archive.put(&item.document.to_json()).map_err(|error| not_changed(&error))?;
                    writes.push(item.write());
                    items.put(item.clone());
                    Outcome::Accepted(Box::new(item))
                }
                Ok(Judged::Known(issue)) => Outcome::Known(issue),
                Err(rejection) => Outcome::Refused(Box::new(rejection)),
            });
        }
        let collateral = base.with(&mut items);
        if collateral == current.collateral && writes.is_empty() {
            return Ok(Offered { outcomes, changed: false });
        }
        let governance = self.changed(|parts| (parts.collateral, parts.items) = (collateral, items))?;
        record(governance.digests.collateral)?;
        self.put_in_force(&writes, governance)?;
        Ok(Offered { outcomes, changed: true })
    }
}
