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

    /// Grants and lapses that came too late and changed nothing: of two decisions made on one revision, the first in
    /// the log holds.
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
            // Revocation is never too late; enrolment and re-admission start a generation.
            Event::Revoked | Event::Enrolled | Event::Readmitted => true,
            Event::Denied
            | Event::BrokerStarted
            | Event::HostRegistered
            | Event::ReferenceRegistered
            | Event::ReferenceWithdrawn
            | Event::PolicyActivated => return Ok(()),
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
            | Event::PolicyActivated => Standing::Untrusted,
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
