//! Who is trusted now: the state that the lineage log amounts to, leases for what was just recorded, and the pulse.

pub mod hosts;
pub mod pulse;
pub mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use countersign_attestation::UnixMillis;
use countersign_attestation::claims::ClockInfo;
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::protocol::HostId;
use countersign_attestation::status_list::StatusList;

use crate::lineage::Recorded;
use crate::problem::{Problem, Refusal};
use crate::store::{Store, Table, Write};
use state::{HostTrust, Standing, TrustState};

const APPLIED: &str = "trust/applied";
const NEXT_INDEX: &str = "trust/next_index";

/// How long a host is trusted after the decision that was just recorded. Only [`Trust::grant`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    host: HostId,
    generation: u64,
    until: UnixMillis,
}

impl Lease {
    /// The host.
    #[must_use]
    pub const fn host(&self) -> &HostId {
        &self.host
    }

    /// The host's generation.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// End of the lease.
    #[must_use]
    pub const fn until(&self) -> UnixMillis {
        self.until
    }
}

/// Trust could not be restored; the broker must not start.
#[derive(Debug, thiserror::Error)]
#[error("trust cannot be restored: {0}")]
pub struct RestoreError(String);

/// The trust of all hosts. Clones share it.
#[derive(Clone, Debug)]
pub struct Trust {
    state: Arc<Mutex<TrustState>>,
}

/// What a pulse says, taken at one moment: everything applied before is in it.
#[derive(Debug)]
pub struct Snapshot {
    /// The status lists.
    pub lists: Vec<StatusList>,
    /// Records and counters that changed since the last snapshot, to be committed.
    pub writes: Vec<Write>,
}

impl Trust {
    /// Restores the last snapshot and folds the entries that `log` holds after it.
    ///
    /// # Errors
    /// [`RestoreError`] when a record does not decode or an entry is missing.
    pub fn restore(
        store: &Store,
        mut log: impl FnMut(u64) -> Result<Option<Entry>, String>,
    ) -> Result<Self, RestoreError> {
        let counter = |key: &str| -> Result<u64, RestoreError> {
            let value = store.get(Table::Meta, key).map_err(|error| RestoreError(error.to_string()))?;
            let Some(value) = value else { return Ok(0) };
            let value = value.try_into().map_err(|_| RestoreError(format!("{key} is no number")))?;
            Ok(u64::from_be_bytes(value))
        };
        let mut hosts = BTreeMap::new();
        for (key, value) in store.scan(Table::Trust).map_err(|error| RestoreError(error.to_string()))? {
            let id = std::str::from_utf8(&key).ok().and_then(HostId::parse);
            let id = id.ok_or_else(|| RestoreError("a record's key is no host id".to_owned()))?;
            let host: HostTrust =
                serde_json::from_slice(&value).map_err(|error| RestoreError(format!("record of {id}: {error}")))?;
            hosts.insert(id, host);
        }
        let mut state = TrustState::restore(hosts, counter(NEXT_INDEX)?, counter(APPLIED)?);
        while let Some(entry) = log(state.applied()).map_err(RestoreError)? {
            state.apply(state.applied(), &entry);
        }
        Ok(Self { state: Arc::new(Mutex::new(state)) })
    }

    /// Applies an entry that has just become durable. Called by the log in the order of its entries, before anyone who
    /// waits for the entry goes on.
    ///
    /// # Panics
    /// When a panic left the state half changed: the log then stops, and with it everything that needs to be recorded.
    #[expect(clippy::expect_used, reason = "see Panics; going on with an unknown trust state would fail open")]
    pub fn apply(&self, index: u64, entry: &Entry) {
        self.state.lock().expect("trust state is whole").apply(index, entry);
    }

    /// One host's record.
    ///
    /// # Errors
    /// [`Refusal::Internal`] after a panic in the state.
    pub fn host(&self, id: &HostId) -> Result<Option<HostTrust>, Problem> {
        Ok(self.lock()?.host(id).cloned())
    }

    /// All records.
    ///
    /// # Errors
    /// [`Refusal::Internal`] after a panic in the state.
    pub fn hosts(&self) -> Result<BTreeMap<HostId, HostTrust>, Problem> {
        Ok(self.lock()?.hosts())
    }

    /// Keeps the TPM clock of a host's verified quote; durable with the next pulse.
    ///
    /// # Errors
    /// [`Refusal::Internal`] after a panic in the state.
    pub fn saw(&self, id: &HostId, clock: ClockInfo) -> Result<(), Problem> {
        self.lock()?.saw(id, clock);
        Ok(())
    }

    /// A fresh status index.
    ///
    /// # Errors
    /// [`Refusal::Internal`] after a panic in the state.
    pub fn reserve_index(&self) -> Result<u64, Problem> {
        Ok(self.lock()?.reserve_index())
    }

    /// Hosts whose lease has ended or is longer than `lease_ms`, with their records.
    ///
    /// # Errors
    /// [`Refusal::Internal`] after a panic in the state.
    pub fn due(&self, now: UnixMillis, lease_ms: u64) -> Result<Vec<(HostId, HostTrust)>, Problem> {
        let state = self.lock()?;
        let due = state.due(now, lease_ms).into_iter();
        Ok(due.filter_map(|id| state.host(id).cloned().map(|host| (id.clone(), host))).collect())
    }

    /// The lease that a recorded grant amounts to: compare-and-swap, since a grant that was made on an older revision
    /// of the host than the one it met in the log changed nothing and yields nothing.
    ///
    /// # Errors
    /// [`Refusal::Superseded`].
    pub fn grant(&self, recorded: &Recorded) -> Result<Lease, Problem> {
        let state = self.lock()?;
        let id = recorded.entry().host().ok_or_else(|| Refusal::Internal.plain())?;
        let host = state.host(id).ok_or_else(|| Refusal::Superseded.plain())?;
        if host.since != recorded.index() || host.standing != Standing::Trusted {
            return Err(Refusal::Superseded.plain());
        }
        Ok(Lease { host: id.clone(), generation: host.generation, until: host.lease_until })
    }

    /// Whether a recorded transition holds: the state it was made on was still the host's when it met it in the log,
    /// and nothing has come after it.
    ///
    /// # Errors
    /// [`Refusal::Superseded`].
    pub fn holds(&self, recorded: &Recorded) -> Result<(), Problem> {
        let state = self.lock()?;
        let host = recorded.entry().host().and_then(|id| state.host(id));
        match host.filter(|host| host.since == recorded.index()) {
            Some(_) => Ok(()),
            None => Err(Refusal::Superseded.plain()),
        }
    }

    /// Everything a pulse needs, at one moment.
    ///
    /// # Errors
    /// [`Refusal::Internal`] after a panic in the state.
    pub fn snapshot(&self) -> Result<Snapshot, Problem> {
        let mut state = self.lock()?;
        let mut writes = Vec::new();
        for (id, host) in state.take_changed() {
            let value = serde_json::to_vec(&host).map_err(|_| Refusal::Internal.plain())?;
            writes.push(Write::put(Table::Trust, id.as_str(), value));
        }
        writes.push(Write::put(Table::Meta, NEXT_INDEX, state.next_index().to_be_bytes().to_vec()));
        writes.push(Write::put(Table::Meta, APPLIED, state.applied().to_be_bytes().to_vec()));
        Ok(Snapshot { lists: state.lists().to_vec(), writes })
    }

    fn lock(&self) -> Result<MutexGuard<'_, TrustState>, Problem> {
        self.state.lock().map_err(|_| Refusal::Internal.plain())
    }
}

#[cfg(test)]
mod tests {
    use countersign_attestation::UnixMillis;
    use countersign_attestation::digest::Sha256Digest;
    use countersign_attestation::lineage::entry::{CredentialRecord, DecisionRecord, Entry};
    use countersign_attestation::protocol::HostId;

    use super::Trust;
    use super::state::HostTrust;
    use crate::clock::Clock;
    use crate::lineage::{Lineage, LogKey};
    use crate::store::Store;

    #[test]
    fn a_grant_that_came_too_late_yields_no_lease() {
        let tmp = tempfile::tempdir().unwrap();
        let at = UnixMillis(1_000);
        let id = HostId::parse("gpu-1").unwrap();
        let store = Store::open(&tmp.path().join("store"), Clock::dating()).unwrap();
        let key = LogKey::generate(&tmp.path().join("key"), "x/log").unwrap();
        std::fs::create_dir(tmp.path().join("log")).unwrap();
        let log = Lineage::open(&tmp.path().join("log"), "x/log", key, None).unwrap();
        let trust = Trust::restore(&store, |_| Ok(None)).unwrap();
        let sink = trust.clone();
        let log = log.start(move |index, entry: &Entry| sink.apply(index, entry)).unwrap();
        let on = || trust.host(&id).unwrap().unwrap_or_else(HostTrust::new).revision_of(id.clone());
        let d = Sha256Digest([1; 32]);
        log.append_blocking(Entry::host_registered(at, id.clone(), "alice", d)).unwrap();
        log.append_blocking(Entry::enrolled(at, on(), d)).unwrap();
        let stale = on();
        let grant = |on, n: u8| {
            let decision = DecisionRecord { inputs: Some(d), claims: Some(d), decision: d, reasons: vec![] };
            let credential = CredentialRecord {
                serial: vec![n; 16],
                key: Sha256Digest([n; 32]),
                status_index: u64::from(n),
                not_after: at.plus(9),
                workload: None,
            };
            Entry::granted(at, on, decision, at.plus(9), Some(credential))
        };
        let first = log.append_blocking(grant(on(), 1)).unwrap();
        let late = log.append_blocking(grant(stale, 2)).unwrap();
        assert!(trust.grant(&first).is_ok());
        assert!(trust.grant(&late).is_err());
        assert!(trust.holds(&first).is_ok());
        assert!(trust.holds(&late).is_err());
    }
}
