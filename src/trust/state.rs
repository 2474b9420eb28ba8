//! Trust as a fold over the lineage log: the same entries in the same order always give the same state. Recovery runs
//! this code over the entries that the last snapshot does not hold, so it is the code that every decision runs.

use std::collections::BTreeMap;

use countersign_attestation::UnixMillis;
use countersign_attestation::claims::ClockInfo;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::{Entry, Event, HostRevision};
use countersign_attestation::protocol::HostId;
use countersign_attestation::pulse::CLOCK_ERROR_MAX_MS;
use countersign_attestation::status_list::{ENTRIES, Status, StatusList};
use serde::{Deserialize, Serialize};

use super::grounds::Grounds;
use super::standings::{Row, Slot, Standings};
use crate::lineage::Effect;

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

impl Standing {
    /// Every standing, in order.
    pub const ALL: [Self; 5] = [Self::Registered, Self::Enrolled, Self::Trusted, Self::Lapsed, Self::Revoked];

    /// Whether the last proof was not taken back.
    #[must_use]
    pub const fn is_proven(self) -> bool {
        match self {
            Self::Trusted | Self::Lapsed => true,
            Self::Registered | Self::Enrolled | Self::Revoked => false,
        }
    }
}

/// A host's trust record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// Archived inputs of the last full record whose evidence verified, granted or not: what is known of the host's
    /// boot follows from them. None in a generation that has not attested.
    pub seen: Option<Sha256Digest>,
    /// The TPM clock of the newest verified quote, as of the last pulse: a clock never goes back. Unlike all else here
    /// it is in no entry of the log.
    pub clock: Option<ClockInfo>,
    /// What its last grant stands on, as of the last pulse. Not in the log either: where a crash lost it, it is not
    /// known, and every change is taken to touch the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grounds: Option<Grounds>,
    /// The host's newest entry in the log.
    pub last_entry: u64,
    /// The entry that led to this revision: unlike the newest, it held.
    pub since: u64,
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
    #[expect(clippy::new_without_default, reason = "a record nobody asked for by name would be one nobody made")]
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
            seen: None,
            clock: None,
            grounds: None,
            last_entry: 0,
            since: 0,
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
    /// SHA-256 of the workload's key that was certified with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Sha256Digest>,
}

impl LiveCredential {
    /// Its keys, which are not certified again.
    fn keys(&self) -> impl Iterator<Item = Sha256Digest> {
        [Some(self.key), self.workload].into_iter().flatten()
    }

    /// Whether the host needs no other credential for this key. One that ends later than one issued now would is of a
    /// clock that was wrong: relying parties do not take it yet.
    #[must_use]
    pub fn serves(&self, key: Sha256Digest, now: UnixMillis, ttl_ms: u64) -> bool {
        self.key == key && self.not_after <= now.plus(ttl_ms).plus(CLOCK_ERROR_MAX_MS)
    }
}

/// Where a host's record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is here: it changed, and that is not yet known to be committed.
    Here(Box<HostTrust>),
    /// In the store, as it is.
    Stored,
    /// No entry names the host.
    Nowhere,
}

/// An entry is about a host whose record is in the store: it has to be brought first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry was applied before the record that it changes was read")]
pub struct NotHere;

/// Trust in every host, after the first `applied` entries of the log.
///
/// Records that changed stay here until they are known to be committed. A state that is never committed is whole.
#[derive(Clone, Debug, Default)]
pub struct TrustState {
    standings: Standings,
    lists: Vec<StatusList>,
    next_index: u64,
    applied: u64,
    /// Since the last snapshot.
    changed: BTreeMap<HostId, HostTrust>,
    /// Of snapshots that are not known to be committed.
    leaving: BTreeMap<HostId, HostTrust>,
}

impl TrustState {
    /// The state after `applied` entries, before the records that a snapshot holds are [placed](Self::place) in it.
    #[must_use]
    pub fn after(applied: u64, next_index: u64) -> Self {
        Self { applied, next_index, ..Self::default() }
    }

    /// Takes note of a record that the store holds.
    pub fn place(&mut self, id: &HostId, host: &HostTrust) {
        if let Some(index) = host.status_index {
            self.set_status(index, status_of(host.standing));
        }
        self.standings.set(id, host);
    }

    /// Where every host stands.
    #[must_use]
    pub const fn standings(&self) -> &Standings {
        &self.standings
    }

    /// One host's record, or where it is.
    #[must_use]
    pub fn record(&self, id: &HostId) -> Place {
        match self.changed.get(id).or_else(|| self.leaving.get(id)) {
            Some(host) => Place::Here(Box::new(host.clone())),
            None if self.standings.get(id).is_some() => Place::Stored,
            None => Place::Nowhere,
        }
    }

    /// Whether a host's record has to be brought before it changes.
    #[must_use]
    pub fn lacks(&self, id: &HostId) -> bool {
        !self.changed.contains_key(id) && !self.leaving.contains_key(id) && self.standings.get(id).is_some()
    }

    /// Takes a record as the store holds it.
    pub fn bring(&mut self, id: HostId, host: HostTrust) {
        self.changed.entry(id).or_insert(host);
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

    /// Hosts whose lease has ended at `now`, and those whose lease ends later than one of `lease_ms` that began now
    /// would: it was granted by a clock that was wrong, and nobody knows when its proof was.
    #[must_use]
    pub fn due(&self, now: UnixMillis, lease_ms: u64) -> Vec<Slot> {
        self.standings.due(now, now.plus(lease_ms).plus(CLOCK_ERROR_MAX_MS))
    }

    /// A host by what [`TrustState::due`] names it.
    #[must_use]
    pub fn row(&self, slot: Slot) -> Option<&Row> {
        self.standings.row(slot)
    }

    /// Keeps what a host stands on, if the entry at index `since` is what led to where it is.
    ///
    /// # Errors
    /// [`NotHere`].
    pub fn stands_on(&mut self, id: &HostId, since: u64, grounds: Grounds) -> Result<(), NotHere> {
        let Some(mut host) = self.take(id)? else { return Ok(()) };
        if host.since == since {
            host.grounds = Some(grounds);
            self.standings.set(id, &host);
        }
        self.changed.insert(id.clone(), host);
        Ok(())
    }

    /// Keeps the TPM clock of a host's verified quote, unless a newer one was kept.
    ///
    /// # Errors
    /// [`NotHere`].
    pub fn saw(&mut self, id: &HostId, clock: ClockInfo) -> Result<(), NotHere> {
        let Some(mut host) = self.take(id)? else { return Ok(()) };
        if host.clock.is_none_or(|last| clock.check_follows(&last).is_ok()) {
            host.clock = Some(clock);
        }
        self.changed.insert(id.clone(), host);
        Ok(())
    }

    /// The records to be committed: those that changed since the last call, and those whose commit is not known.
    pub fn take_changed(&mut self) -> &BTreeMap<HostId, HostTrust> {
        self.leaving.append(&mut self.changed);
        &self.leaving
    }

    /// What was taken is in the store.
    pub fn committed(&mut self) {
        self.leaving.clear();
    }

    /// Applies the log's next entry.
    ///
    /// # Errors
    /// [`NotHere`]: nothing was applied.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Result<Effect, NotHere> {
        let mut effect = Effect::Nothing;
        if let Some(id) = entry.host() {
            let mut host = self.take(id)?.unwrap_or_else(HostTrust::new);
            let index_before = host.status_index;
            if entry.claims().is_some() {
                // Whatever became of the decision: its evidence verified.
                host.seen = entry.inputs();
            }
            if transition(&mut host, entry) {
                host.since = index;
                effect = Effect::Changed;
            }
            host.last_entry = index;
            let (standing, status_index) = (host.standing, host.status_index);
            self.standings.set(id, &host);
            self.changed.insert(id.clone(), host);
            if let Some(left) = index_before.filter(|left| status_index != Some(*left)) {
                self.set_status(left, Status::Invalid);
            }
            if let Some(index) = status_index {
                self.next_index = self.next_index.max(index.saturating_add(1));
                self.set_status(index, status_of(standing));
            }
        }
        self.applied = index.saturating_add(1);
        Ok(effect)
    }

    /// A record that is to change; none for a host of whom nothing is known.
    fn take(&mut self, id: &HostId) -> Result<Option<HostTrust>, NotHere> {
        if self.lacks(id) {
            return Err(NotHere);
        }
        Ok(self.changed.remove(id).or_else(|| self.leaving.get(id).cloned()))
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
/// on the same revision, the first in the log wins. Revocation is never too late, and what ends one was meant for that
/// one: another that came between stays. Tells whether the entry held.
fn transition(host: &mut HostTrust, entry: &Entry) -> bool {
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
        Event::Readmitted if on_this_revision => start_generation(host),
        Event::Enrolled if on_this_revision => {
            start_generation(host);
            // Another TPM has another clock. A readmitted host still has the one it had.
            host.clock = None;
        }
        Event::Readmitted
        | Event::Enrolled
        | Event::Granted
        | Event::Renewed
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
        | Event::RevocationOrdered => return false,
    }
    host.revision = host.revision.saturating_add(1);
    true
}

fn grant(host: &mut HostTrust, entry: &Entry) {
    host.standing = Standing::Trusted;
    host.reasons.clear();
    // Whoever judged says what it stands on, once this is recorded.
    host.grounds = None;
    host.lease_until = entry.lease_until().unwrap_or(UnixMillis(0));
    if let Some(inputs) = entry.inputs() {
        host.inputs = Some(inputs);
        host.claims = entry.claims();
    }
    if let Some(credential) = entry.credential() {
        host.status_index = Some(credential.status_index);
        let workload = credential.workload.map(|workload| workload.key);
        let live = LiveCredential { key: credential.key, not_after: credential.not_after, workload };
        let held: Vec<Sha256Digest> = live.keys().collect();
        if let Some(retired) = host.credential.replace(live) {
            host.retired_keys.extend(retired.keys().filter(|key| !held.contains(key)));
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
        host.retired_keys.extend(retired.keys());
    }
    host.inputs = None;
    host.claims = None;
    host.seen = None;
    host.grounds = None;
    host.reasons.clear();
}

#[cfg(test)]
mod tests {
    use countersign_attestation::UnixMillis;
    use countersign_attestation::digest::Sha256Digest;
    use countersign_attestation::lineage::entry::{CredentialRecord, DecisionRecord, Entry};
    use countersign_attestation::protocol::HostId;
    use countersign_attestation::status_list::Status;
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

    use super::{CLOCK_ERROR_MAX_MS, HostTrust, LiveCredential, NotHere, Place, Standing, TrustState, split_index};

    const DIGEST: Sha256Digest = Sha256Digest([7; 32]);

    fn id(text: &str) -> HostId {
        HostId::parse(text).unwrap()
    }

    /// The log of a test: entries are made on the state they meet, as the broker's are.
    struct Log {
        state: TrustState,
        entries: Vec<Entry>,
    }

    impl Log {
        fn new() -> Self {
            Self { state: TrustState::default(), entries: Vec::new() }
        }

        fn host(&self) -> HostTrust {
            match self.state.record(&id("a")) {
                Place::Here(host) => *host,
                Place::Stored | Place::Nowhere => HostTrust::new(),
            }
        }

        fn add(&mut self, entry: Entry) {
            self.state.apply(self.entries.len() as u64, &entry).unwrap();
            self.entries.push(entry);
        }

        fn grant_on(&self, host: &HostTrust, key: u8, index: u64) -> Entry {
            let credential = CredentialRecord {
                serial: vec![1],
                key: Sha256Digest([key; 32]),
                status_index: host.status_index.unwrap_or(index),
                not_after: UnixMillis(1000),
                workload: None,
            };
            let decision = DecisionRecord { inputs: Some(DIGEST), claims: None, decision: DIGEST, reasons: vec![] };
            let on = host.revision_of(id("a"));
            Entry::granted(UnixMillis(0), on, decision, UnixMillis(100), Some(credential))
        }

        fn step(&mut self, step: Step) {
            let host = self.host();
            let on = host.revision_of(id("a"));
            let at = UnixMillis(0);
            let entry = match step {
                Step::Enroll => Entry::enrolled(at, on, DIGEST),
                Step::Grant { key } => {
                    let index = self.state.reserve_index();
                    self.grant_on(&host, key, index)
                }
                Step::GrantOnOldRevision => {
                    let old = HostTrust { revision: host.revision.wrapping_sub(1), ..host };
                    self.grant_on(&old, 9, 77)
                }
                Step::Renew => Entry::renewed(at, on, UnixMillis(200), None),
                Step::Lapse => Entry::lapsed(at, on),
                Step::Revoke => Entry::revoked_by_operator(at, on, "admin", "operator.revoked"),
                Step::Readmit => Entry::readmitted(at, on, "admin"),
            };
            self.add(entry);
        }

        fn due(&self, now: u64, lease_ms: u64) -> Vec<HostId> {
            let due = self.state.due(UnixMillis(now), lease_ms).into_iter();
            due.map(|slot| self.state.row(slot).unwrap().id.clone()).collect()
        }

        fn status(&self, index: u64) -> Status {
            let (list, within) = split_index(index);
            self.state.lists()[list as usize].get(within).unwrap()
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Enroll,
        Grant { key: u8 },
        GrantOnOldRevision,
        Renew,
        Lapse,
        Revoke,
        Readmit,
    }

    #[test]
    fn a_revocation_is_not_undone_by_what_was_made_before_it() {
        let mut log = Log::new();
        log.add(Entry::enrolled(UnixMillis(1), log.host().revision_of(id("a")), DIGEST));
        log.add(Entry::revoked_by_operator(
            UnixMillis(1),
            log.host().revision_of(id("a")),
            "alice",
            "operator.revoked",
        ));
        let seen = log.host();
        log.add(Entry::revoked_by_operator(UnixMillis(1), seen.revision_of(id("a")), "bob", "operator.revoked"));
        let before = log.host();
        log.add(Entry::readmitted(UnixMillis(1), seen.revision_of(id("a")), "alice"));
        log.add(Entry::enrolled(UnixMillis(1), seen.revision_of(id("a")), DIGEST));
        let after = log.host();
        assert_eq!(after.standing, Standing::Revoked);
        assert_eq!((after.generation, after.revision, after.since), (before.generation, before.revision, before.since));
        log.add(Entry::readmitted(UnixMillis(1), after.revision_of(id("a")), "alice"));
        assert_eq!(log.host().standing, Standing::Enrolled, "who has seen it can end it");
    }

    #[test]
    fn a_credential_of_an_older_generation_never_comes_back_to_life() {
        let mut log = Log::new();
        log.step(Step::Enroll);
        log.step(Step::Grant { key: 1 });
        let first = log.host().status_index.unwrap();
        assert_eq!(log.status(first), Status::Valid);
        log.step(Step::Lapse);
        assert_eq!(log.status(first), Status::Suspended);
        log.step(Step::Renew);
        assert_eq!(log.status(first), Status::Valid);
        log.step(Step::Revoke);
        assert_eq!(log.status(first), Status::Invalid);
        log.step(Step::Grant { key: 2 });
        assert_eq!(log.host().standing, Standing::Revoked, "only a re-admission leads back");
        log.step(Step::Readmit);
        log.step(Step::Grant { key: 3 });
        let second = log.host().status_index.unwrap();
        assert_ne!(first, second);
        assert_eq!((log.status(first), log.status(second)), (Status::Invalid, Status::Valid));
        log.step(Step::Enroll);
        assert_eq!((log.status(first), log.status(second)), (Status::Invalid, Status::Invalid), "a new identity");
    }

    #[test]
    fn of_two_decisions_on_one_revision_the_first_in_the_log_wins() {
        let mut log = Log::new();
        log.step(Step::Enroll);
        let before = log.host();
        log.step(Step::Grant { key: 1 });
        log.add(log.grant_on(&before, 2, 5));
        assert_eq!(log.host().credential.unwrap().key, Sha256Digest([1; 32]));
        assert_ne!(log.host().status_index, Some(5));
        log.step(Step::Revoke);
        log.add(log.grant_on(&before, 3, 6));
        assert_eq!(log.host().standing, Standing::Revoked);
    }

    #[test]
    fn e6_keys_of_earlier_credentials_are_remembered() {
        let mut log = Log::new();
        log.step(Step::Enroll);
        for key in 0..40 {
            log.step(Step::Grant { key });
        }
        let retired = log.host().retired_keys;
        assert_eq!(retired.len(), 32);
        assert_eq!(retired.last(), Some(&Sha256Digest([38; 32])));
    }

    #[test]
    fn due_are_the_trusted_whose_lease_has_ended() {
        let mut log = Log::new();
        log.step(Step::Enroll);
        log.step(Step::Grant { key: 1 });
        assert_eq!(log.due(99, 45), []);
        assert_eq!(log.due(100, 200), [id("a")]);
        log.step(Step::Renew);
        assert_eq!(log.due(100, 200), []);
        log.step(Step::Lapse);
        assert_eq!(log.due(1000, 45), []);
    }

    #[test]
    fn a_lease_that_is_longer_than_any_is_due() {
        let mut log = Log::new();
        log.step(Step::Enroll);
        log.step(Step::Grant { key: 1 });
        // It ends at 100: granted at 55 by a lease of 45, or by a clock that was wrong.
        assert_eq!(log.due(55, 45), []);
        let granted = UnixMillis(100 + 7_200_000);
        log.add(Entry::renewed(UnixMillis(0), log.host().revision_of(id("a")), granted, None));
        assert_eq!(log.due(60, 45), [id("a")], "the clock is right again");
        assert_eq!(log.due(granted.0 - 45 - CLOCK_ERROR_MAX_MS, 45), []);
        assert_eq!(log.due(granted.0 - 46 - CLOCK_ERROR_MAX_MS, 45), [id("a")]);
    }

    #[test]
    fn a_credential_from_the_future_serves_nobody_and_its_key_may_be_certified_again() {
        let mut log = Log::new();
        log.step(Step::Enroll);
        log.step(Step::Grant { key: 1 });
        let live = log.host().credential.unwrap();
        let (key, now) = (Sha256Digest([1; 32]), UnixMillis(700));
        assert!(live.serves(key, now, 300));
        assert!(!live.serves(Sha256Digest([2; 32]), now, 300), "another key");
        let future = LiveCredential { not_after: UnixMillis(1_001 + CLOCK_ERROR_MAX_MS), ..live };
        assert!(!future.serves(key, now, 300));
        log.step(Step::Grant { key: 1 });
        assert_eq!(log.host().retired_keys, [], "the key is still the live one's");
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = any::<u8>().prop_map(|byte| match byte % 10 {
            0 => Step::Enroll,
            1..4 => Step::Grant { key: byte },
            4 => Step::GrantOnOldRevision,
            5 => Step::Renew,
            6 => Step::Lapse,
            7 => Step::Revoke,
            _ => Step::Readmit,
        });
        proptest::collection::vec(step, 0..40)
    }

    proptest! {
        /// Recovery: a snapshot after any entry, and the entries after it, come to the same state as all entries.
        #[test]
        fn a13_a_snapshot_and_the_rest_of_the_log_are_the_whole_log(steps in steps(), cut in any::<usize>()) {
            let mut log = Log::new();
            steps.into_iter().for_each(|step| log.step(step));
            let cut = cut % (log.entries.len() + 1);
            let mut early = TrustState::default();
            for (index, entry) in log.entries[..cut].iter().enumerate() {
                early.apply(index as u64, entry).unwrap();
            }
            let mut stored = early.take_changed().clone();
            let mut restored = TrustState::after(early.applied(), early.next_index());
            stored.iter().for_each(|(id, host)| restored.place(id, host));
            for (index, entry) in log.entries.iter().enumerate().skip(cut) {
                if let Some(host) = entry.host().filter(|id| restored.lacks(id)) {
                    prop_assert_eq!(restored.apply(index as u64, entry), Err(NotHere));
                    restored.bring(host.clone(), stored[host].clone());
                }
                restored.apply(index as u64, entry).unwrap();
                // A commit now and then, and one that is not heard of.
                if index % 3 == 0 {
                    stored.extend(restored.take_changed().clone());
                }
                if index % 6 == 0 {
                    restored.committed();
                }
            }
            stored.extend(restored.take_changed().clone());
            prop_assert_eq!(&stored, log.state.take_changed());
            prop_assert!(restored.standings().rows().eq(log.state.standings().rows()));
            let all = |state: &TrustState| state.due(UnixMillis(u64::MAX), 0);
            prop_assert_eq!(all(&restored), all(&log.state));
            for entry in &log.entries {
                // Whatever was once given out reads the same; a list that is not there reads INVALID.
                let Some(credential) = entry.credential() else { continue };
                let (list, within) = split_index(credential.status_index);
                let read = |state: &TrustState| {
                    state.lists.get(list as usize).map_or(Status::Invalid, |list| list.get(within).unwrap())
                };
                prop_assert_eq!(read(&restored), read(&log.state));
            }
        }
    }
}
