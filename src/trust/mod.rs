//! Who is trusted now: the state that the lineage log amounts to, leases for what was just recorded, and the pulse.

pub mod grounds;
pub mod hosts;
mod leases;
pub mod published;
pub mod pulse;
pub mod standings;
pub mod state;

use std::sync::{Arc, Mutex, MutexGuard};

use countersign_attestation::UnixMillis;
use countersign_attestation::claims::ClockInfo;
use countersign_attestation::lineage::entry::{Entry, HostRevision};
use countersign_attestation::protocol::HostId;
use countersign_attestation::status_list::StatusList;

use crate::lineage::{Effect, Recorded};
use crate::problem::{Problem, Refusal};
use crate::store::{Store, Table, Write};
use crate::trust::grounds::{Grounds, Touches};
use standings::{Row, Standings};
use state::{HostTrust, Place, Standing, TrustState};

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
///
/// In memory is what pulses and leases need, and what is not committed yet; the other records are in the store.
#[derive(Clone, Debug)]
pub struct Trust {
    state: Arc<Mutex<TrustState>>,
    store: Store,
    /// Held by whoever changes a record, from reading it on: what was read is still so when it is brought.
    changing: Arc<Mutex<()>>,
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
        let mut state = TrustState::after(counter(APPLIED)?, counter(NEXT_INDEX)?);
        let placed = store.each(Table::Trust, |key, value| {
            let id = std::str::from_utf8(key).ok().and_then(HostId::parse);
            let id = id.ok_or_else(|| RestoreError("a record's key is no host id".to_owned()))?;
            state.place(&id, &decode(&id, value)?);
            Ok(())
        });
        placed.map_err(|error| RestoreError(error.to_string()))??;
        let trust =
            Self { state: Arc::new(Mutex::new(state)), store: store.clone(), changing: Arc::new(Mutex::new(())) };
        loop {
            let applied = trust.state()?.applied();
            let Some(entry) = log(applied).map_err(RestoreError)? else { break };
            trust.try_apply(applied, &entry)?;
        }
        Ok(trust)
    }

    /// Applies an entry that has just become durable. Called by the log in the order of its entries, before anyone who
    /// waits for the entry goes on.
    ///
    /// # Panics
    /// When a panic left the state half changed, or the record cannot be read: the log then stops, and with it
    /// everything that needs to be recorded, and all pulses.
    #[expect(clippy::expect_used, reason = "see Panics; going on with an unknown trust state would fail open")]
    pub fn apply(&self, index: u64, entry: &Entry) -> Effect {
        self.try_apply(index, entry).expect("every recorded entry is applied")
    }

    fn try_apply(&self, index: u64, entry: &Entry) -> Result<Effect, RestoreError> {
        let broken = |_| RestoreError("a change of it was not finished".to_owned());
        let _changing = self.changing.lock().map_err(broken)?;
        if let Some(id) = entry.host() {
            self.bring(id)?;
        }
        self.state()?.apply(index, entry).map_err(|error| RestoreError(error.to_string()))
    }

    /// Brings a record that is about to change. The caller holds `changing`.
    fn bring(&self, id: &HostId) -> Result<(), RestoreError> {
        if !self.state()?.lacks(id) {
            return Ok(());
        }
        // Not under the lock that every request takes.
        let stored = self.stored(id)?;
        self.state()?.bring(id.clone(), stored);
        Ok(())
    }

    /// A record that the store has to hold.
    fn stored(&self, id: &HostId) -> Result<HostTrust, RestoreError> {
        let value = self.store.get(Table::Trust, id.as_str()).map_err(|error| RestoreError(error.to_string()))?;
        decode(id, &value.ok_or_else(|| RestoreError(format!("the record of {id} is gone")))?)
    }

    /// One host's record.
    ///
    /// # Errors
    /// [`Refusal::Internal`] after a panic in the state, [`Refusal::StoreFailed`].
    pub fn host(&self, id: &HostId) -> Result<Option<HostTrust>, Problem> {
        let place = self.lock()?.record(id);
        match place {
            Place::Here(host) => Ok(Some(*host)),
            Place::Nowhere => Ok(None),
            // The store holds what was so when it was looked for here, or what came later.
            Place::Stored => self.stored(id).map(Some).map_err(|error| unread(&error)),
        }
    }

    /// Asks where hosts stand: short questions, which everything else waits for.
    ///
    /// # Errors
    /// [`Refusal::Internal`] after a panic in the state.
    pub fn standings<A>(&self, ask: impl FnOnce(&Standings) -> A) -> Result<A, Problem> {
        Ok(ask(self.lock()?.standings()))
    }

    /// Every host there is a record of, in the order of their ids.
    ///
    /// # Errors
    /// [`Refusal::Internal`] after a panic in the state.
    pub fn ids(&self) -> Result<Vec<HostId>, Problem> {
        let mut ids: Vec<HostId> = self.standings(|standings| standings.rows().map(|row| row.id.clone()).collect())?;
        ids.sort();
        Ok(ids)
    }

    /// Every host whose last proof was not taken back: it is trusted, or its lease has ended. In the order of their
    /// ids; each record is read when its turn comes, and left out where that is no longer so.
    ///
    /// # Errors
    /// [`Refusal::Internal`] after a panic in the state; for each host, as [`Trust::host`].
    pub fn proven(&self) -> Result<impl Iterator<Item = Result<(HostId, HostTrust), Problem>>, Problem> {
        let ids = self.standings(|standings| standings.touched(Touches::Everyone))?;
        Ok(ids.into_iter().filter_map(|id| {
            let host = self.host(&id).map(|host| host.filter(|host| host.standing.is_proven())).transpose()?;
            Some(host.map(|host| (id, host)))
        }))
    }

    /// Keeps what a host stands on since the entry at an index of the log, as it was judged; durable with the next
    /// pulse. Only if `still` holds: whoever changes what hosts are judged by looks for those it touches afterwards,
    /// and either finds this or is seen by `still`. Tells whether it held.
    ///
    /// # Errors
    /// As [`Trust::host`].
    pub fn stands_on(
        &self,
        id: &HostId,
        since: u64,
        grounds: Grounds,
        still: impl FnOnce() -> bool,
    ) -> Result<bool, Problem> {
        let _changing = self.changing.lock().map_err(|_| Refusal::Internal.plain())?;
        self.bring(id).map_err(|error| unread(&error))?;
        let mut state = self.lock()?;
        if !still() {
            return Ok(false);
        }
        state.stands_on(id, since, grounds).map_err(|_| Refusal::Internal.plain())?;
        Ok(true)
    }

    /// Keeps the TPM clock of a host's verified quote; durable with the next pulse.
    ///
    /// # Errors
    /// As [`Trust::host`].
    pub fn saw(&self, id: &HostId, clock: ClockInfo) -> Result<(), Problem> {
        let _changing = self.changing.lock().map_err(|_| Refusal::Internal.plain())?;
        self.bring(id).map_err(|error| unread(&error))?;
        self.lock()?.saw(id, clock).map_err(|_| Refusal::Internal.plain())
    }

    /// A fresh status index.
    ///
    /// # Errors
    /// [`Refusal::Internal`] after a panic in the state.
    pub fn reserve_index(&self) -> Result<u64, Problem> {
        Ok(self.lock()?.reserve_index())
    }

    /// Hosts whose lease has ended or is longer than `lease_ms`, as they stand.
    ///
    /// # Errors
    /// [`Refusal::Internal`] after a panic in the state.
    pub fn due(&self, now: UnixMillis, lease_ms: u64) -> Result<Vec<HostRevision>, Problem> {
        let state = self.lock()?;
        Ok(state.due(now, lease_ms).into_iter().filter_map(|slot| state.row(slot)).map(Row::revision_of).collect())
    }

    /// The lease that a recorded grant amounts to: compare-and-swap, since a grant that was made on an older revision
    /// of the host than the one it met in the log changed nothing and yields nothing.
    ///
    /// # Errors
    /// [`Refusal::Superseded`].
    pub fn grant(&self, recorded: &Recorded) -> Result<Lease, Problem> {
        let state = self.lock()?;
        let id = recorded.entry().host().ok_or_else(|| Refusal::Internal.plain())?;
        let host = state.standings().get(id).ok_or_else(|| Refusal::Superseded.plain())?;
        if host.since != recorded.index() || host.standing != Standing::Trusted {
            return Err(Refusal::Superseded.plain());
        }
        Ok(Lease { host: id.clone(), generation: host.generation, until: host.lease_until })
    }

    /// Everything a pulse needs, at one moment.
    ///
    /// # Errors
    /// [`Refusal::Internal`] after a panic in the state.
    pub fn snapshot(&self) -> Result<Snapshot, Problem> {
        let mut state = self.lock()?;
        let mut writes = Vec::new();
        for (id, host) in state.take_changed() {
            let value = serde_json::to_vec(host).map_err(|_| Refusal::Internal.plain())?;
            writes.push(Write::put(Table::Trust, id.as_str(), value));
        }
        writes.push(Write::put(Table::Meta, NEXT_INDEX, state.next_index().to_be_bytes().to_vec()));
        writes.push(Write::put(Table::Meta, APPLIED, state.applied().to_be_bytes().to_vec()));
        Ok(Snapshot { lists: state.lists().to_vec(), writes })
    }

    /// The newest snapshot was committed, and no other was taken since.
    ///
    /// # Errors
    /// [`Refusal::Internal`] after a panic in the state.
    pub fn committed(&self) -> Result<(), Problem> {
        self.lock()?.committed();
        Ok(())
    }

    fn lock(&self) -> Result<MutexGuard<'_, TrustState>, Problem> {
        self.state().map_err(|_| Refusal::Internal.plain())
    }

    fn state(&self) -> Result<MutexGuard<'_, TrustState>, RestoreError> {
        self.state.lock().map_err(|_| RestoreError("it is half changed".to_owned()))
    }
}

fn decode(id: &HostId, value: &[u8]) -> Result<HostTrust, RestoreError> {
    serde_json::from_slice(value).map_err(|error| RestoreError(format!("record of {id}: {error}")))
}

fn unread(error: &RestoreError) -> Problem {
    tracing::error!(%error, "trust record not read");
    Refusal::StoreFailed.plain()
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
    use crate::lineage::{Effect, Lineage, LogKey};
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
        assert_eq!((first.effect(), late.effect()), (Effect::Changed, Effect::Nothing));
        // What came after a transition does not undo that it held: a readmission is one also for a host that attested
        // before the operator was told.
        let revoked = log.append_blocking(Entry::revoked_by_operator(at, on(), "alice", "test")).unwrap();
        assert_eq!(revoked.effect(), Effect::Changed);
        assert!(trust.grant(&first).is_err());
    }
}
