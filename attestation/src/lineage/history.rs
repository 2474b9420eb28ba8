//! What a host's entries may say one after the other: the rules by which the log amounts to trust, checked from
//! outside.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use crate::lineage::LineageReason;
use crate::lineage::entry::{Entry, Event};
use crate::protocol::HostId;
use crate::rejection::Rejection;

/// The hosts of a log after some of its entries.
#[derive(Clone, Debug, Default)]
pub struct History {
    hosts: BTreeMap<HostId, Host>,
    superseded: u64,
}

#[derive(Clone, Debug, Default)]
struct Host {
    /// Indexes of its entries, ascending.
    entries: Vec<u64>,
    generation: u64,
    revision: u64,
    /// Index of the entry that led to this revision.
    since: u64,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Untrusted,
    Trusted,
    Revoked,
}

impl History {
    /// Before the first entry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Hosts seen.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// Transitions other than revocations that came too late and changed nothing: of two decisions made on one
    /// revision, the first in the log holds.
    #[must_use]
    pub const fn superseded(&self) -> u64 {
        self.superseded
    }

    /// Adds the log's next entry.
    ///
    /// # Errors
    /// A `lineage.history` reason.
    pub fn add(&mut self, index: u64, entry: &Entry) -> Result<(), Rejection> {
        let Some(id) = entry.host() else { return Ok(()) };
        let host = self.hosts.entry(id.clone()).or_default();
        let current = entry.revision() == Some(host.revision);
        host.check(entry, current)?;
        host.entries.push(index);
        let holds = match entry.event() {
            Event::Granted | Event::Renewed => current,
            Event::Lapsed => current && host.standing == Standing::Trusted,
            // Revocation is never too late.
            Event::Revoked => true,
            // What ends a revocation was meant for that one, and not for another that came between.
            Event::Enrolled | Event::Readmitted => current,
            Event::Denied
            | Event::BrokerStarted
            | Event::HostRegistered
            | Event::ReferenceRegistered
            | Event::ReferenceWithdrawn
            | Event::PolicyActivated
            | Event::WaiverRegistered
            | Event::WaiverEnded
            | Event::InstanceDenied
            | Event::DenialWithdrawn
            | Event::CollateralChanged
            | Event::RevocationOrdered => return Ok(()),
        };
        if !holds {
            self.superseded = self.superseded.saturating_add(1);
            return Ok(());
        }
        host.standing = match entry.event() {
            Event::Granted | Event::Renewed => Standing::Trusted,
            Event::Revoked => Standing::Revoked,
            Event::Enrolled
            | Event::Readmitted
            | Event::Lapsed
            | Event::Denied
            | Event::BrokerStarted
            | Event::HostRegistered
            | Event::ReferenceRegistered
            | Event::ReferenceWithdrawn
            | Event::PolicyActivated
            | Event::WaiverRegistered
            | Event::WaiverEnded
            | Event::InstanceDenied
            | Event::DenialWithdrawn
            | Event::CollateralChanged
            | Event::RevocationOrdered => Standing::Untrusted,
        };
        host.revision = host.revision.saturating_add(1);
        host.since = index;
        host.generation = host.generation.max(entry.generation().unwrap_or(0));
        Ok(())
    }
}

impl Host {
    fn check(&self, entry: &Entry, current: bool) -> Result<(), Rejection> {
        let (Some(generation), Some(revision), Some(parent)) = (entry.generation(), entry.revision(), entry.parent())
        else {
            return Ok(());
        };
        if self.revision < revision {
            return Err(LineageReason::HistoryRevision.because(format!("at most {}", self.revision), revision));
        }
        if current && generation < self.generation {
            let expected = format!("at least generation {}", self.generation);
            return Err(LineageReason::HistoryRevision.because(expected, generation));
        }
        // Decisions on one revision may meet in the log, so the parent need not be the newest entry; but it is one of
        // the host's, and whoever names the current revision has seen the entry that led to it.
        let known = if self.entries.is_empty() { parent == 0 } else { self.entries.binary_search(&parent).is_ok() };
        if !known || (current && parent < self.since) {
            return Err(LineageReason::HistoryParent.because(format!("{:?}", self.entries.last()), parent));
        }
        let grants = matches!(entry.event(), Event::Granted | Event::Renewed);
        if current && grants && self.standing == Standing::Revoked {
            return Err(LineageReason::HistoryRevoked.because("re-admission or enrolment", entry.event().name()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use super::History;
    use crate::digest::Sha256Digest;
    use crate::lineage::entry::{DecisionRecord, Entry, HostRevision};
    use crate::protocol::HostId;
    use crate::time::UnixMillis;

    const AT: UnixMillis = UnixMillis(1_795_408_496_007);
    const DIGEST: Sha256Digest = Sha256Digest([1; 32]);

    fn on(generation: u64, revision: u64, parent: u64) -> HostRevision {
        HostRevision { host: HostId::parse("gpu-17").unwrap(), generation, revision, parent }
    }

    fn renewed(on: HostRevision) -> Entry {
        Entry::renewed(AT, on, AT.plus(1), None)
    }

    fn denied(on: HostRevision) -> Entry {
        let reasons = vec!["tpm.quote.magic".to_string()];
        Entry::denied(AT, on, DecisionRecord { inputs: None, claims: None, decision: DIGEST, reasons })
    }

    /// Registered at 0, enrolled at 1, renewed at 2.
    fn history() -> History {
        let mut history = History::new();
        let host = HostId::parse("gpu-17").unwrap();
        history.add(0, &Entry::host_registered(AT, host, "admin", DIGEST)).unwrap();
        history.add(1, &Entry::enrolled(AT, on(0, 0, 0), DIGEST)).unwrap();
        history.add(2, &renewed(on(1, 1, 1))).unwrap();
        history
    }

    fn code(history: &mut History, index: u64, entry: &Entry) -> Result<(), &'static str> {
        history.add(index, entry).map_err(|rejection| rejection.code())
    }

    #[test]
    fn one_story_is_accepted() {
        let mut history = history();
        assert_eq!(code(&mut history, 3, &denied(on(1, 2, 2))), Ok(()));
        assert_eq!(code(&mut history, 5, &renewed(on(1, 2, 3))), Ok(()));
        assert_eq!(
            code(&mut history, 6, &Entry::revoked_by_operator(AT, on(1, 3, 5), "a", "operator.revoked")),
            Ok(())
        );
        assert_eq!(code(&mut history, 7, &Entry::readmitted(AT, on(1, 4, 6), "a")), Ok(()));
        assert_eq!(code(&mut history, 8, &renewed(on(2, 5, 7))), Ok(()));
        assert_eq!((history.hosts(), history.superseded()), (1, 0));
    }

    #[test]
    fn of_two_decisions_on_one_revision_the_first_holds() {
        let mut history = history();
        assert_eq!(code(&mut history, 3, &renewed(on(1, 2, 2))), Ok(()));
        assert_eq!(code(&mut history, 4, &renewed(on(1, 2, 2))), Ok(()));
        assert_eq!(code(&mut history, 5, &Entry::lapsed(AT, on(1, 2, 2))), Ok(()));
        assert_eq!(history.superseded(), 2);
        assert_eq!(code(&mut history, 6, &renewed(on(1, 3, 5))), Ok(()), "superseded entries are no transitions");
    }

    #[test]
    fn a_decision_on_a_state_that_was_not_is_found() {
        for on in [on(1, 3, 2), on(0, 2, 2)] {
            // Generation 1 has been named; naming 0 on the current revision goes back.
            assert_eq!(code(&mut history(), 3, &renewed(on)), Err("lineage.history.revision"));
        }
    }

    #[test]
    fn a_broken_chain_is_found() {
        let parent = Err("lineage.history.parent");
        assert_eq!(code(&mut History::new(), 4, &renewed(on(0, 0, 3))), parent, "the first has none");
        assert_eq!(code(&mut history(), 4, &renewed(on(1, 2, 3))), parent, "not an entry of the host");
        assert_eq!(code(&mut history(), 4, &renewed(on(1, 2, 1))), parent, "it has not seen what it was made on");
    }

    #[test]
    fn trust_while_revoked_is_found() {
        let mut history = history();
        history.add(3, &Entry::revoked_by_operator(AT, on(1, 2, 2), "a", "operator.revoked")).unwrap();
        assert_eq!(code(&mut history.clone(), 4, &renewed(on(1, 3, 3))), Err("lineage.history.revoked"));
        assert_eq!(code(&mut history.clone(), 4, &renewed(on(1, 2, 2))), Ok(()), "too late, and nothing came of it");
        let mut stale = history.clone();
        assert_eq!(code(&mut stale, 4, &Entry::readmitted(AT, on(1, 2, 2), "a")), Ok(()), "too late as well");
        assert_eq!(code(&mut stale, 5, &renewed(on(1, 3, 4))), Err("lineage.history.revoked"));
        history.add(4, &Entry::enrolled(AT, on(1, 3, 3), DIGEST)).unwrap();
        assert_eq!(code(&mut history, 5, &renewed(on(2, 4, 4))), Ok(()));
    }
}
