//! Trust as a fold over the lineage log: the same entries in the same order always give the same state. Recovery runs
//! this code over the entries that the last snapshot does not hold, so it is the code that every decision runs.

use std::collections::{BTreeMap, BTreeSet};

use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::{Entry, Event, HostRevision};
use countersign_attestation::protocol::HostId;
use countersign_attestation::status_list::{ENTRIES, Status, StatusList};
use serde::{Deserialize, Serialize};

/// Keys of earlier credentials that a host may not use again. A host renews every few minutes and a credential lives
/// that long, so these outlast every credential by far.
const RETIRED_KEYS_MAX: usize = 32;

/// Where a host stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// An operator named it; it has not enrolled.
    Registered,
    /// Its identity is known; it has proved nothing since.
    Enrolled,
    /// Its last proof holds until the lease ends.
    Trusted,
    /// The lease ended without another proof. A new proof leads back.
    Lapsed,
    /// It drifted, or an operator said so. Only an operator leads back.
    Revoked,
}

/// A host's trust record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::new_without_default, reason = "a record nobody asked for by name would be one nobody made")]
pub struct HostTrust {
    /// Where the host stands.
    pub standing: Standing,
    /// Raised at every enrolment and re-admission; credentials of an older one never come back to life.
    pub generation: u64,
    /// Counts the transitions; a decision names the one it was made on.
    pub revision: u64,
    /// End of the lease, once there was a grant.
    pub lease_until: UnixMillis,
    /// Index of this generation's credentials in the status lists.
    pub status_index: Option<u64>,
    /// The live credential.
    pub credential: Option<LiveCredential>,
    /// SHA-256 of keys of earlier credentials.
    pub retired_keys: Vec<Sha256Digest>,
    /// Archived inputs of the last full record that was granted.
    pub inputs: Option<Sha256Digest>,
    /// Claims of the last full record.
    pub claims: Option<Sha256Digest>,
    /// The host's newest entry in the log.
    pub last_entry: u64,
    /// Why it is not trusted, where it was.
    pub reasons: Vec<String>,
}

impl HostTrust {
    /// The record's place in the log, for the entry of the next decision on it.
    #[must_use]
    pub const fn revision_of(&self, host: HostId) -> HostRevision {
        HostRevision { host, generation: self.generation, revision: self.revision, parent: self.last_entry }
    }

    /// Whether a proof can lead to trust from here.
    #[must_use]
    pub const fn can_be_granted(&self) -> bool {
        match self.standing {
            Standing::Enrolled | Standing::Trusted | Standing::Lapsed => true,
            Standing::Registered | Standing::Revoked => false,
        }
    }

    /// The record of a host that is registered and has done nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            standing: Standing::Registered,
            generation: 0,
            revision: 0,
            lease_until: UnixMillis(0),
            status_index: None,
            credential: None,
            retired_keys: Vec::new(),
            inputs: None,
            claims: None,
            last_entry: 0,
            reasons: Vec::new(),
        }
    }
}

/// The credential that a host holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveCredential {
    /// SHA-256 of its key.
    pub key: Sha256Digest,
    /// Not valid from this moment.
    pub not_after: UnixMillis,
}

/// Trust in every host, after the first `applied` entries of the log.
#[derive(Clone, Debug, Default)]
pub struct TrustState {
    hosts: BTreeMap<HostId, HostTrust>,
    lists: Vec<StatusList>,
    next_index: u64,
    /// Trusted hosts by the end of their lease.
    leases: BTreeSet<(UnixMillis, HostId)>,
    changed: BTreeSet<HostId>,
    applied: u64,
}

impl TrustState {
    /// The state of a snapshot: host records as they were after `applied` entries.
    #[must_use]
    pub fn restore(hosts: BTreeMap<HostId, HostTrust>, next_index: u64, applied: u64) -> Self {
        let mut state = Self { next_index, applied, ..Self::default() };
        for (id, host) in hosts {
            if let Some(index) = host.status_index {
                state.set_status(index, status_of(host.standing));
            }
            if host.standing == Standing::Trusted {
                state.leases.insert((host.lease_until, id.clone()));
            }
            state.hosts.insert(id, host);
        }
        state
    }

    /// One host's record.
    #[must_use]
    pub fn host(&self, id: &HostId) -> Option<&HostTrust> {
        self.hosts.get(id)
    }

    /// All records.
    #[must_use]
    pub const fn hosts(&self) -> &BTreeMap<HostId, HostTrust> {
        &self.hosts
    }

    /// The status lists, by number.
    #[must_use]
    pub fn lists(&self) -> &[StatusList] {
        &self.lists
    }

    /// Entries applied so far.
    #[must_use]
    pub const fn applied(&self) -> u64 {
        self.applied
    }

    /// The first status index never used.
    #[must_use]
    pub const fn next_index(&self) -> u64 {
        self.next_index
    }

    /// A status index for a generation's first credential. Never given twice, also when no grant follows.
    pub const fn reserve_index(&mut self) -> u64 {
        let index = self.next_index;
        self.next_index = self.next_index.saturating_add(1);
        index
    }

    /// Hosts whose lease has ended at `now`.
    #[must_use]
    pub fn due(&self, now: UnixMillis) -> Vec<HostId> {
        self.leases.iter().take_while(|(until, _)| *until <= now).map(|(_, id)| id.clone()).collect()
    }

    /// The records changed since the last call.
    pub fn take_changed(&mut self) -> BTreeMap<HostId, HostTrust> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().filter_map(|id| self.hosts.get(&id).map(|host| (id.clone(), host.clone()))).collect()
    }

    /// Applies the log's next entry.
    pub fn apply(&mut self, index: u64, entry: &Entry) {
        self.applied = index.saturating_add(1);
        let Some(id) = entry.host() else { return };
        let mut host = self.hosts.remove(id).unwrap_or_else(HostTrust::new);
        self.leases.remove(&(host.lease_until, id.clone()));
        let index_before = host.status_index;
        transition(&mut host, entry);
        if let Some(left) = index_before.filter(|left| host.status_index != Some(*left)) {
            self.set_status(left, Status::Invalid);
        }
        host.last_entry = index;
        if host.standing == Standing::Trusted {
            self.leases.insert((host.lease_until, id.clone()));
        }
        if let Some(index) = host.status_index {
            self.next_index = self.next_index.max(index.saturating_add(1));
            self.set_status(index, status_of(host.standing));
        }
        self.changed.insert(id.clone());
        self.hosts.insert(id.clone(), host);
    }

    fn set_status(&mut self, index: u64, status: Status) {
        let (list, within) = split_index(index);
        let Ok(number) = usize::try_from(list) else { return };
        while self.lists.len() <= number {
            self.lists.push(StatusList::new());
        }
        // An index within the list by construction; were it not, the entry stays INVALID.
        let set = self.lists.get_mut(number).map(|list| list.set(within, status));
        debug_assert!(matches!(set, Some(Ok(()))));
    }
}

/// Number of the list and index in it.
#[must_use]
pub fn split_index(index: u64) -> (u64, u64) {
    let entries = u64::try_from(ENTRIES).unwrap_or(u64::MAX);
    (index / entries, index % entries)
}

const fn status_of(standing: Standing) -> Status {
    match standing {
        Standing::Trusted => Status::Valid,
        Standing::Lapsed => Status::Suspended,
        // A host that is enrolled has no index of this generation yet.
        Standing::Revoked | Standing::Enrolled | Standing::Registered => Status::Invalid,
    }
}

/// One host's transition. An entry made on another revision than the host is at changes nothing: of two decisions made
/// on the same revision, the first in the log wins. Revocation is never too late.
fn transition(host: &mut HostTrust, entry: &Entry) {
    let on_this_revision = entry.revision() == Some(host.revision);
    match entry.event() {
        Event::Granted | Event::Renewed if on_this_revision && host.can_be_granted() => grant(host, entry),
        Event::Lapsed if on_this_revision && host.standing == Standing::Trusted => {
            host.standing = Standing::Lapsed;
            host.reasons = entry.reasons().to_vec();
        }
        Event::Revoked => {
            host.standing = Standing::Revoked;
            host.reasons = entry.reasons().to_vec();
        }
        Event::Readmitted | Event::Enrolled => start_generation(host),
        Event::Granted
        | Event::Renewed
        | Event::Lapsed
        | Event::Denied
        | Event::BrokerStarted
        | Event::HostRegistered
        | Event::ReferenceRegistered
        | Event::ReferenceWithdrawn
        | Event::PolicyActivated => return,
    }
    host.revision = host.revision.saturating_add(1);
}

fn grant(host: &mut HostTrust, entry: &Entry) {
    host.standing = Standing::Trusted;
    host.reasons.clear();
    host.lease_until = entry.lease_until().unwrap_or(UnixMillis(0));
    if let Some(inputs) = entry.inputs() {
        host.inputs = Some(inputs);
        host.claims = entry.claims();
    }
    if let Some(credential) = entry.credential() {
        host.status_index = Some(credential.status_index);
        let live = LiveCredential { key: credential.key, not_after: credential.not_after };
        if let Some(retired) = host.credential.replace(live) {
            host.retired_keys.push(retired.key);
            let surplus = host.retired_keys.len().saturating_sub(RETIRED_KEYS_MAX);
            host.retired_keys.drain(..surplus);
        }
    }
}

/// The index of the generation before stays INVALID for good.
fn start_generation(host: &mut HostTrust) {
    host.standing = Standing::Enrolled;
    host.generation = host.generation.saturating_add(1);
    host.status_index = None;
    if let Some(retired) = host.credential.take() {
        host.retired_keys.push(retired.key);
    }
    host.inputs = None;
    host.claims = None;
    host.reasons.clear();
}
