//! The pulse: what turns trust into something that expires. One thread signs it every period and whenever someone
//! loses trust; its basis is the start of the commit that holds everything it says.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use countersign_attestation::UnixMillis;
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::pulse::{self, CLOCK_ERROR_MAX_MS, Class, ListDigest, Pulse, PulseCheckpoint};
use countersign_attestation::result::authorities;
use countersign_attestation::result::svid::TrustDomain;
use countersign_attestation::status_list::{self, StatusList, StatusListToken};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::keys::Keys;
use crate::lineage::{Lineage, LineageError};
use crate::problem::{Problem, Refusal};
use crate::store::{Basis, Store, Table, Write};
use crate::trust::Trust;
use crate::trust::published::{
    Followers, Following, LIST_LIFE_MS, Pacing, Published, PublishedAuthorities, PublishedList, same_lists,
};

/// Key of the newest tree head that is known durable, size then root: the log may never be shorter or another one.
pub const TREE_HEAD: &str = "lineage/head";
const EPOCH: &str = "pulse/epoch";

/// What the pulse is made from.
#[derive(Debug)]
pub struct Pulser {
    /// Trust.
    pub trust: Trust,
    /// The log, for lapses and the checkpoint.
    pub lineage: Lineage,
    /// The store whose commits are the bases.
    pub store: Store,
    /// The token key.
    pub keys: Arc<Keys>,
    /// Time.
    pub clock: Clock,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The log's origin.
    pub origin: String,
    /// Where status lists are served: the URI's part before the number.
    pub list_uri: String,
    /// Y.
    pub validity_ms: u64,
    /// The longest lease.
    pub lease_ms: u64,
}

/// The running pulse: wake it when trust was lost, watch what it publishes.
#[derive(Clone, Debug)]
pub struct PulseHandle {
    wake: SyncSender<()>,
    published: watch::Receiver<Option<Arc<Published>>>,
    ended: watch::Receiver<bool>,
    critical: Followers,
}

impl PulseHandle {
    /// Asks for a pulse now.
    pub fn wake(&self) {
        // Full means one is asked for already; disconnected means none will ever come, and all gates deny within Y.
        let _asked = self.wake.try_send(());
    }

    /// Somebody follows in the critical class: pulses come at its pace until the answer is dropped.
    #[must_use]
    pub fn follow_critical(&self) -> Following {
        let following = self.critical.join();
        self.wake();
        following
    }

    /// The newest pulse, as it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Published>>> {
        self.published.clone()
    }

    /// Returns when no more pulses will come from this process.
    pub async fn ended(&self) {
        // An error means that the thread is gone, and says the same.
        let mut ended = self.ended.clone();
        let _ended = ended.wait_for(|ended| *ended).await;
    }

    /// The newest pulse.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<Published>> {
        self.published.borrow().clone()
    }
}

/// Signs pulses in order.
#[derive(Debug)]
pub struct Signer {
    pulser: Pulser,
    epoch: u64,
    seq: u64,
    lists: Vec<Arc<PublishedList>>,
    pacing: Pacing,
    authorities: Option<Arc<PublishedAuthorities>>,
}

impl Pulser {
    /// Starts the thread that signs every `period`. A failure to record, commit or sign ends it: without pulses every
    /// relying party denies within Y, which is what an unknown state must lead to.
    ///
    /// # Errors
    /// [`Problem`] when the epoch cannot be raised or the first pulse fails.
    pub fn start(self, period: Duration) -> Result<PulseHandle, Problem> {
        let mut signer = self.ready()?;
        signer.pacing = Pacing::of(u64::try_from(period.as_millis()).unwrap_or(u64::MAX));
        let first = match signer.sign() {
            Ok(first) => Some(Arc::new(first)),
            // Without a pulse everybody denies; the doors say why, and the first one comes when the clock is kept.
            Err(problem) if passes(&problem) => {
                tracing::warn!(%problem, "no pulse yet");
                None
            }
            Err(problem) => return Err(problem),
        };
        let (publish, published) = watch::channel(first);
        let (end, ended) = watch::channel(false);
        let (wake, woken) = sync_channel(1);
        let critical = Followers::default();
        let followed = critical.clone();
        let run = move || {
            signer.run(&woken, &publish, || pace(period, &followed));
            end.send_replace(true);
        };
        std::thread::Builder::new().name("pulse".to_owned()).spawn(run).map_err(|_| Refusal::Internal.plain())?;
        Ok(PulseHandle { wake, published, ended, critical })
    }

    /// A signer in an epoch of its own, for whoever sets the pace.
    ///
    /// # Errors
    /// [`Problem`] when the epoch cannot be raised.
    pub fn ready(self) -> Result<Signer, Problem> {
        Ok(Signer {
            epoch: self.raise_epoch()?,
            pulser: self,
            seq: 0,
            lists: Vec::new(),
            authorities: None,
            pacing: Pacing::of(0),
        })
    }

    /// Sequence numbers start anew with each process, so each process has an epoch of its own, durable before use.
    fn raise_epoch(&self) -> Result<u64, Problem> {
        let failed = |_| Refusal::StoreFailed.plain();
        let stored = self.store.get(Table::Meta, EPOCH).map_err(failed)?;
        let last = match stored.map(TryInto::try_into) {
            None => 0,
            Some(Ok(bytes)) => u64::from_be_bytes(bytes),
            Some(Err(_)) => return Err(Refusal::Internal.plain()),
        };
        let epoch = last.checked_add(1).ok_or_else(|| Refusal::Internal.plain())?;
        self.store.commit(&[Write::put(Table::Meta, EPOCH, epoch.to_be_bytes().to_vec())]).map_err(failed)?;
        Ok(epoch)
    }
}

impl Signer {
    fn run(
        mut self,
        woken: &Receiver<()>,
        publish: &watch::Sender<Option<Arc<Published>>>,
        pace: impl Fn() -> Duration,
    ) {
        loop {
            match woken.recv_timeout(pace()) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                // Every handle is gone: the broker has stopped.
                Err(RecvTimeoutError::Disconnected) => return,
            }
            match self.sign() {
                Ok(pulse) => drop(publish.send_replace(Some(Arc::new(pulse)))),
                // This pulse is left out, and the last one runs on to its end.
                Err(problem) if passes(&problem) => tracing::warn!(%problem, "no pulse"),
                Err(problem) => {
                    tracing::error!(%problem, "no more pulses: every relying party denies from here on");
                    publish.send_replace(None);
                    return;
                }
            }
        }
    }

    /// Records lapses, commits what changed, and signs what was committed.
    ///
    /// # Errors
    /// [`Refusal::Busy`] and [`Refusal::Clock`] when the next may succeed; after any other the signer is of no use.
    pub fn sign(&mut self) -> Result<Published, Problem> {
        self.check_able()?;
        self.record_lapses()?;
        // The basis is earlier than the snapshot: no revocation that came before it is missing.
        let started = self.pulser.store.start();
        let snapshot = self.pulser.trust.snapshot()?;
        // After the snapshot, so that the head covers every entry in it.
        let head = self.pulser.lineage.head();
        let mut writes = snapshot.writes;
        writes.push(Write::put(Table::Meta, TREE_HEAD, [&head.size.to_be_bytes()[..], &head.root.0].concat()));
        let basis = self.pulser.store.commit_started(started, &writes).map_err(|error| {
            tracing::error!(%error, "basis not committed");
            Refusal::StoreFailed.plain()
        })?;
        self.pulser.trust.committed()?;
        self.seq = self.seq.saturating_add(1);
        let before = self.lists.clone();
        self.sign_lists(snapshot.lists, basis)?;
        let extra = self.pacing.is_extra(basis.at(), !same_lists(&before, &self.lists));
        let now = self.pulser.clock.now();
        let digest = |(n, list): (usize, &Arc<PublishedList>)| ListDigest {
            n: n as u64,
            size: list.list.size() as u64,
            sha256: list.sha256,
        };
        let pulse = Pulse {
            iss: self.pulser.trust_domain.clone(),
            epoch: self.epoch,
            seq: self.seq,
            basis: basis.at(),
            iat: now,
            exp: basis.at().plus(self.pulser.validity_ms),
            lists: self.lists.iter().enumerate().map(digest).collect(),
            checkpoint: PulseCheckpoint { origin: self.pulser.origin.clone(), size: head.size, root: head.root },
        };
        let authorities = self.sign_authorities(now)?;
        let token = self.pulser.keys.token.sign(pulse::KIND, &pulse.to_payload()).map_err(internal)?;
        Ok(Published { pulse, token, lists: self.lists.clone(), authorities, extra })
    }

    /// Signs what the broker says of its keys, when that changed or is half through its life.
    fn sign_authorities(&mut self, now: UnixMillis) -> Result<Arc<PublishedAuthorities>, Problem> {
        let authorities = self.pulser.keys.authorities(&self.pulser.trust_domain, now);
        let same = |old: &&Arc<PublishedAuthorities>| {
            let old = &old.authorities;
            let half = old.iat.plus(authorities::LIFE_MS / 2);
            now < half
                && (&old.keys, &old.roots, &old.issuing)
                    == (&authorities.keys, &authorities.roots, &authorities.issuing)
        };
        if let Some(old) = self.authorities.as_ref().filter(same) {
            return Ok(Arc::clone(old));
        }
        let token =
            self.pulser.keys.token.sign_with_oldest(authorities::KIND, &authorities.to_payload()).map_err(internal)?;
        let signed = Arc::new(PublishedAuthorities { authorities, token });
        self.authorities = Some(Arc::clone(&signed));
        Ok(signed)
    }

    /// A pulse says that nobody else was revoked: it takes a log that could have recorded that, and a clock that
    /// relying parties agree with. A failed log and a clock that was set back are mended by starting anew.
    fn check_able(&self) -> Result<(), Problem> {
        if self.pulser.lineage.is_poisoned() {
            return Err(Refusal::LineageFailed.plain());
        }
        Refusal::check_clock(self.pulser.clock.error())?;
        let ahead = self.pulser.clock.ahead_of_wall_ms();
        if CLOCK_ERROR_MAX_MS < ahead {
            let found = format!("one that was set back {ahead} ms");
            return Err(Refusal::NotReady.because("a wall clock that goes forward", found));
        }
        Ok(())
    }

    fn record_lapses(&self) -> Result<(), Problem> {
        let now = self.pulser.clock.now();
        let lapsed = self.pulser.trust.due(now, self.pulser.lease_ms)?.into_iter();
        let lapsed = lapsed.map(|host| Entry::lapsed(now, host));
        self.pulser.lineage.append_all_blocking(lapsed).map(drop).map_err(|error| unrecorded(&error))
    }

    /// Signs the lists that changed, and those whose token is half through its life.
    fn sign_lists(&mut self, lists: Vec<StatusList>, basis: Basis) -> Result<(), Problem> {
        let mut signed = Vec::with_capacity(lists.len());
        for (n, list) in lists.into_iter().enumerate() {
            let fresh =
                |old: &&Arc<PublishedList>| old.list == list && basis.at().since(old.signed_at) < LIST_LIFE_MS / 2;
            if let Some(old) = self.lists.get(n).filter(fresh) {
                signed.push(Arc::clone(old));
                continue;
            }
            let token = StatusListToken {
                sub: format!("{}{n}", self.pulser.list_uri),
                iat: basis.at().seconds(),
                exp: basis.at().plus(LIST_LIFE_MS).seconds(),
                ttl: self.pulser.validity_ms / 1000,
                status_list: list.encode(),
            };
            let token = self.pulser.keys.token.sign(status_list::KIND, &token.to_payload()).map_err(internal)?;
            let before = self.lists.get(n).map(AsRef::as_ref);
            signed.push(Arc::new(PublishedList::new(n as u64, list, Some(token), basis.at(), before)));
        }
        self.lists = signed;
        Ok(())
    }
}

/// Time to the next pulse: the settings' period, or that of the critical class while somebody follows in it.
fn pace(period: Duration, critical: &Followers) -> Duration {
    if critical.any() { period.min(Duration::from_millis(Class::Critical.period_ms())) } else { period }
}

/// Whether the next pulse may be signed where this one was not: the log was full, or nobody kept the clock.
fn passes(problem: &Problem) -> bool {
    [Refusal::Busy.code(), Refusal::Clock.code()].contains(&problem.code())
}

/// The problem that an entry could not be recorded.
#[must_use]
pub fn unrecorded(error: &LineageError) -> Problem {
    tracing::error!(%error, "not recorded");
    if matches!(error, LineageError::Overloaded) { Refusal::Busy.plain() } else { Refusal::LineageFailed.plain() }
}

fn internal(error: crate::keys::KeyError) -> Problem {
    tracing::error!(%error, "not signed");
    Refusal::Internal.plain()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use countersign_attestation::UnixMillis;
    use countersign_attestation::digest::Sha256Digest;
    use countersign_attestation::lineage::entry::{CredentialRecord, DecisionRecord, Entry};
    use countersign_attestation::protocol::HostId;
    use countersign_attestation::pulse::{CLOCK_ERROR_MAX_MS, Pulse};
    use countersign_attestation::result::authorities::Authorities;
    use countersign_attestation::result::jws::JwkSet;
    use countersign_attestation::result::svid::TrustDomain;
    use countersign_attestation::status_delta::StatusDelta;
    use countersign_attestation::status_list::{Status, StatusList, StatusListToken};
    use countersign_attestation::time::ClockError;

    use super::{Pacing, Published, PublishedList, Pulser, Signer};
    use crate::clock::{Clock, Hands};
    use crate::config::{AuthoritySettings, DataDir};
    use crate::keys::{Keys, Places};
    use crate::lineage::{Lineage, LogKey};
    use crate::store::Store;
    use crate::trust::Trust;
    use crate::trust::state::HostTrust;

    const START: UnixMillis = UnixMillis(1_800_000_000_000);
    const DIGEST: Sha256Digest = Sha256Digest([7; 32]);

    struct Bench {
        signer: Signer,
        clock: Clock,
        jwks: JwkSet,
        domain: TrustDomain,
        dir: tempfile::TempDir,
    }

    fn open(dir: &std::path::Path, clock: &Clock) -> Pulser {
        let data = DataDir::at(dir);
        let domain = TrustDomain::parse("example.org").unwrap();
        if !data.keys().exists() {
            Keys::create(&data, domain.as_str(), &Places::default(), clock.now()).unwrap();
            LogKey::generate(&data.keys().join("log.key"), "example.org/log").unwrap();
        }
        let store = Store::open(&data.store(), clock.clone()).unwrap();
        let key = LogKey::load(&data.keys().join("log.key"), "example.org/log").unwrap();
        let log = Lineage::open(&data.log(), "example.org/log", key, None).unwrap();
        let trust = Trust::restore(&store, |index| log.entry(index).map_err(|error| error.to_string())).unwrap();
        let sink = trust.clone();
        Pulser {
            lineage: log.start(move |index, entry: &Entry| sink.apply(index, entry)).unwrap(),
            trust,
            store,
            keys: Arc::new(Keys::load(&data, &domain, &AuthoritySettings::default(), clock.now()).unwrap()),
            clock: clock.clone(),
            trust_domain: domain,
            origin: "example.org/log".to_owned(),
            list_uri: "https://localhost/v1/status-lists/".to_owned(),
            validity_ms: 5000,
            lease_ms: 45_000,
        }
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let clock = Clock::manual(START);
            let pulser = open(dir.path(), &clock);
            let (jwks, domain) = (pulser.keys.token.jwks(), pulser.trust_domain.clone());
            let epoch = pulser.raise_epoch().unwrap();
            Self {
                signer: Signer {
                    pulser,
                    epoch,
                    seq: 0,
                    lists: Vec::new(),
                    authorities: None,
                    pacing: Pacing::of(1_000),
                },
                clock,
                jwks,
                domain,
                dir,
            }
        }

        fn host(&self) -> HostTrust {
            self.signer.pulser.trust.host(&HostId::parse("a").unwrap()).unwrap().unwrap_or_else(HostTrust::new)
        }

        fn record(&self, entry: impl FnOnce(countersign_attestation::lineage::entry::HostRevision) -> Entry) {
            let on = self.host().revision_of(HostId::parse("a").unwrap());
            self.signer.pulser.lineage.append_blocking(entry(on)).unwrap();
        }

        fn trusted(self, lease_ms: u64) -> Self {
            self.record(|on| Entry::enrolled(START, on, DIGEST));
            let decision = DecisionRecord { inputs: Some(DIGEST), claims: None, decision: DIGEST, reasons: vec![] };
            let credential = CredentialRecord {
                serial: vec![1],
                key: DIGEST,
                status_index: 3,
                not_after: START.plus(60_000),
                workload: None,
            };
            self.record(|on| Entry::granted(START, on, decision, START.plus(lease_ms), Some(credential)));
            self
        }

        fn pulse(&mut self) -> (Published, Pulse) {
            let published = self.signer.sign().unwrap();
            let pulse = Pulse::verify(&published.token, &self.jwks, &self.domain, self.clock.now()).unwrap();
            (published, pulse.into_inner())
        }

        /// What a relying party reads from the tokens.
        fn status(&self, published: &Published) -> Status {
            let (_, list) =
                StatusListToken::verify(published.lists[0].token.as_ref().unwrap(), &self.jwks, self.clock.now())
                    .unwrap();
            assert_eq!(list, published.lists[0].list);
            list.get(3).unwrap()
        }
    }

    #[test]
    fn a_pulse_counts_up_expires_y_after_its_basis_and_names_the_lists_it_comes_with() {
        let mut bench = Bench::new().trusted(45_000);
        let (first, pulse) = bench.pulse();
        assert_eq!((pulse.basis, pulse.exp, pulse.seq), (START, START.plus(5000), 1));
        assert_eq!(pulse.lists[0].sha256, first.lists[0].list.sha256());
        assert_eq!(pulse.checkpoint.size, 2);
        assert_eq!(bench.status(&first), Status::Valid);
        bench.clock.advance(1000);
        let (second, pulse) = bench.pulse();
        assert_eq!((pulse.basis, pulse.seq), (START.plus(1000), 2));
        assert_eq!(second.lists, first.lists, "an unchanged list keeps its token");
        bench.clock.advance(40_000);
        let (third, _) = bench.pulse();
        assert_ne!(third.lists[0].token, first.lists[0].token, "a token is signed anew before it expires");
    }

    #[test]
    fn whoever_holds_the_first_token_key_learns_of_the_next_before_it_signs() {
        let mut bench = Bench::new().trusted(45_000);
        let (first, _) = bench.pulse();
        bench.clock.advance(1000);
        assert_eq!(bench.pulse().0.authorities, first.authorities, "what says the same is not signed again");
        let pinned = bench.jwks.clone();
        bench.clock.advance(30 * 86_400_000);
        let keys = Arc::clone(&bench.signer.pulser.keys);
        let step = |bench: &mut Bench, ms: u64| {
            bench.clock.advance(ms);
            keys.token.tick(bench.clock.now()).unwrap();
            keys.workload.tick(bench.clock.now()).unwrap();
            bench.signer.sign().unwrap()
        };
        let verify = |published: &Published, keys: &JwkSet, now| {
            Pulse::verify(&published.token, keys, &TrustDomain::parse("example.org").unwrap(), now).is_ok()
        };
        let announced = step(&mut bench, 0);
        let now = bench.clock.now();
        assert!(verify(&announced, &pinned, now), "the old key signs on");
        let said = Authorities::verify(&announced.authorities.token, &pinned, &bench.domain, now).unwrap();
        assert_eq!(said.keys.kids().count(), 2);
        assert!(!said.issuing.is_empty());
        let taken_over = step(&mut bench, 60_000);
        let now = bench.clock.now();
        assert!(!verify(&taken_over, &pinned, now) && verify(&taken_over, &said.keys, now));
        // A gate that starts now with the old file learns as well, until the old key is retired.
        let late = step(&mut bench, 301_000);
        assert_ne!(late.authorities.token, taken_over.authorities.token, "signed anew at half its life");
        let now = bench.clock.now();
        assert!(Authorities::verify(&late.authorities.token, &pinned, &bench.domain, now).is_ok());
        let retired = step(&mut bench, 26 * 3_600_000);
        let now = bench.clock.now();
        assert!(Authorities::verify(&retired.authorities.token, &pinned, &bench.domain, now).is_err());
        assert!(Authorities::verify(&retired.authorities.token, &said.keys, &bench.domain, now).is_ok());
    }

    #[test]
    fn a_revocation_is_in_the_next_pulse() {
        let mut bench = Bench::new().trusted(45_000);
        bench.pulse();
        bench.record(|on| Entry::revoked_by_operator(START, on, "admin", "operator.revoked"));
        let (published, _) = bench.pulse();
        assert_eq!(bench.status(&published), Status::Invalid);
    }

    #[test]
    fn a_reader_that_was_here_lately_is_told_the_changes_alone() {
        let mut list = StatusList::new();
        let mut published = PublishedList::new(0, list.clone(), None, START, None);
        let mut states = vec![list.clone()];
        for index in 0..40 {
            list.set(index, Status::Valid).unwrap();
            published = PublishedList::new(0, list.clone(), None, START, Some(&published));
            published = PublishedList::new(0, list.clone(), None, START, Some(&published));
            states.push(list.clone());
        }
        for (index, state) in states.iter().enumerate() {
            let told = published.since(state.sha256());
            assert_eq!(told.is_some(), (8..40).contains(&index), "{index}");
            if let Some(told) = told {
                assert_eq!(StatusDelta::parse(&told).unwrap().apply(state).unwrap(), list);
            }
        }
        for index in 0..2_000 {
            list.set(index, Status::Suspended).unwrap();
        }
        let all_new = PublishedList::new(0, list, None, START, Some(&published));
        assert_eq!(all_new.since(published.sha256), None, "the list is the shorter text");
    }

    #[test]
    fn a13_without_a_proof_by_the_deadline_there_is_no_trust_also_after_a_restart() {
        let mut bench = Bench::new().trusted(10_000);
        let (published, _) = bench.pulse();
        assert_eq!(bench.status(&published), Status::Valid);
        let Bench { signer, clock, dir, .. } = bench;
        let epoch = signer.epoch;
        signer.pulser.lineage.stop();
        drop(signer);
        clock.advance(10_000);
        let pulser = open(dir.path(), &clock);
        let (jwks, domain) = (pulser.keys.token.jwks(), pulser.trust_domain.clone());
        let next = pulser.raise_epoch().unwrap();
        assert_eq!(next, epoch + 1, "pulses of a restarted broker supersede all before");
        let mut bench = Bench {
            signer: Signer { pulser, epoch: next, seq: 0, lists: vec![], authorities: None, pacing: Pacing::of(1_000) },
            clock,
            jwks,
            domain,
            dir,
        };
        let (published, pulse) = bench.pulse();
        assert_eq!(bench.status(&published), Status::Suspended);
        assert_eq!(pulse.checkpoint.size, 3, "the lapse is recorded");
    }

    #[test]
    fn the_pace_is_that_of_the_critical_class_while_somebody_follows_in_it() {
        let (critical, second) = (super::Followers::default(), Duration::from_secs(1));
        assert_eq!(super::pace(second, &critical), second);
        let (one, two) = (critical.join(), critical.join());
        drop(one);
        assert_eq!(super::pace(second, &critical), Duration::from_millis(250));
        assert_eq!(super::pace(Duration::from_millis(200), &critical), Duration::from_millis(200));
        drop(two);
        assert_eq!(super::pace(second, &critical), second);
    }

    #[test]
    fn what_comes_for_the_critical_class_alone_is_known() {
        let mut bench = Bench::new().trusted(45_000);
        let mut extra = Vec::new();
        for step in 0..9 {
            if step == 6 {
                bench.record(|on| Entry::revoked_by_operator(START, on, "admin", "operator.revoked"));
            }
            extra.push(bench.pulse().0.extra);
            bench.clock.advance(240);
        }
        assert_eq!(extra, [false, true, true, true, false, true, false, true, true], "one in 900 ms, and what is new");
    }

    #[test]
    fn a_failed_log_signs_nothing_any_more() {
        let mut bench = Bench::new().trusted(10_000);
        bench.pulse();
        bench.signer.pulser.lineage.stop();
        // Nothing is due: the pulse would say nothing new, and that nobody was revoked.
        assert_eq!(bench.signer.sign().unwrap_err().code(), "lineage.unavailable");
    }

    #[test]
    fn the_end_of_the_pulses_is_told() {
        let bench = Bench::new();
        let lineage = bench.signer.pulser.lineage.clone();
        let handle = bench.signer.pulser.start(Duration::from_secs(3600)).unwrap();
        assert!(handle.newest().is_some());
        lineage.stop();
        handle.wake();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(handle.ended());
        assert_eq!(handle.newest(), None);
    }

    #[test]
    fn a_clock_that_was_set_back_signs_nothing_any_more() {
        let hands = Arc::new(Wall::default());
        let mut bench = Bench::new();
        bench.signer.pulser.clock = Clock::over(Arc::clone(&hands) as Arc<dyn Hands>);
        hands.wall.store(START.0 - CLOCK_ERROR_MAX_MS, Ordering::SeqCst);
        assert!(bench.signer.sign().is_ok());
        hands.wall.store(START.0 - CLOCK_ERROR_MAX_MS - 1, Ordering::SeqCst);
        let problem = bench.signer.sign().unwrap_err();
        assert_eq!(problem.code(), "broker.not_ready");
        assert_eq!(problem.0.found.as_deref(), Some("one that was set back 1001 ms"));
    }

    #[test]
    fn a_clock_that_nobody_keeps_signs_nothing_until_somebody_does() {
        let hands = Arc::new(Wall::default());
        let mut bench = Bench::new();
        bench.signer.pulser.clock = Clock::over(Arc::clone(&hands) as Arc<dyn Hands>);
        for (error, code) in [
            (ClockError::Within { error_ms: 3 }, None),
            (ClockError::Unsynchronised, Some("broker.clock")),
            (ClockError::TooLarge { error_ms: 1_001, max_ms: 1_000 }, Some("broker.clock")),
            (ClockError::Unreadable { errno: 1 }, Some("broker.clock")),
            (ClockError::Within { error_ms: 1_000 }, None),
        ] {
            *hands.error.lock().unwrap() = error;
            let signed = bench.signer.sign();
            assert_eq!(signed.as_ref().err().map(|problem| problem.code()), code, "{error:?}");
            assert!(signed.err().as_ref().is_none_or(super::passes), "the next may be signed");
        }
    }

    #[test]
    fn a_broker_whose_clock_nobody_keeps_starts_and_signs_when_somebody_does() {
        let hands = Arc::new(Wall::default());
        *hands.error.lock().unwrap() = ClockError::Unsynchronised;
        let mut bench = Bench::new();
        bench.signer.pulser.clock = Clock::over(Arc::clone(&hands) as Arc<dyn Hands>);
        let handle = bench.signer.pulser.start(Duration::from_millis(1)).unwrap();
        assert_eq!(handle.newest(), None);
        *hands.error.lock().unwrap() = ClockError::NONE;
        let mut published = handle.watch();
        let signed = published.wait_for(Option::is_some);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(runtime.block_on(signed).is_ok());
    }

    /// A wall clock that somebody sets, or that nobody keeps, beside a steady one that stands still.
    #[derive(Debug)]
    struct Wall {
        wall: AtomicU64,
        error: Mutex<ClockError>,
    }

    impl Default for Wall {
        fn default() -> Self {
            Self { wall: AtomicU64::new(START.0), error: Mutex::new(ClockError::NONE) }
        }
    }

    impl Hands for Wall {
        fn wall_ms(&self) -> u64 {
            self.wall.load(Ordering::SeqCst)
        }

        fn steady_ms(&self) -> u64 {
            0
        }

        fn error(&self) -> ClockError {
            *self.error.lock().unwrap()
        }
    }
}
