//! What the gate holds: the newest pulse with its lists. Feeds offer, the state judges what they offer, and decisions
//! read one snapshot.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::nonce_pulse::{Answered, Outstanding};
use countersign_attestation::pulse::{Class, Pulse};
use countersign_attestation::result::authorities::Authorities;
use countersign_attestation::result::jws::JwkSet;
use countersign_attestation::result::svid::{ExecutionCredential, check_issuing};
use countersign_attestation::staple::{Staple, StapleReason};
use countersign_attestation::status_delta::{StatusDelta, StatusDeltaReason};
use countersign_attestation::status_list::{StatusList, StatusListToken};
use countersign_attestation::time::ClockError;
use countersign_attestation::{Rejection, UnixMillis, Verified};
use tokio::sync::watch;

use crate::clock::{Moment, NonceClock};
use crate::decide::{self, Decision, HeldPulse, Incomplete, Snapshot, Trust};

/// Lists held beyond those the newest pulse names, at most (16 KiB each): a start with a thousand lists fits.
const SPARE_LISTS_MAX: usize = 1024;

/// Spare lists kept once a pulse is complete: those that overtook their pulse.
const SPARE_LISTS_KEPT: usize = 64;

/// Chains remembered as checked: a large fleet's credentials, and those they replace. About half a KiB each.
const CHAINS_MAX: usize = 131_072;

/// What became of an offered pulse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is the newest one now; decisions follow it.
    Installed,
    /// It is not newer than what is known. Nothing changed.
    NotNewer,
    /// It is the newest one known, and takes over once these lists are there.
    WaitsForLists(Vec<u64>),
}

/// What became of an offered list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListOffer {
    /// It is held until a pulse names it.
    Held,
    /// It was the last one that the newest pulse waited for: that pulse decides now.
    CompletedPulse,
}

/// Number of an installed pulse, for those who judge open sessions again at each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PulseNumber {
    /// [`Pulse::epoch`].
    pub epoch: u64,
    /// [`Pulse::seq`].
    pub seq: u64,
}

/// Where pulses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Brokers and relays that are followed.
    Feeds,
    /// Those who are judged, each with the list of its own.
    Staples,
}

/// The gate's state. Cheap to share: `Arc<GateState>`.
#[derive(Debug)]
pub struct GateState {
    trust: Trust,
    authorities: ArcSwap<Learnt>,
    class: Class,
    source: Source,
    snapshot: ArcSwap<Snapshot>,
    inbox: Mutex<Inbox>,
    chains: Mutex<Chains>,
    installed: watch::Sender<Option<PulseNumber>>,
}

/// What the broker says of its keys, from the pinned ones on.
#[derive(Debug)]
struct Learnt {
    /// The token keys that are believed.
    keys: JwkSet,
    /// Issuing certificates under a pinned root, for leaves that come alone.
    issuing: Vec<Vec<u8>>,
    /// When the statement was made; none before the first.
    made: Option<UnixMillis>,
    /// The statement as it was signed.
    token: String,
}

/// What has arrived and may still be needed. Decisions never touch it.
#[derive(Debug, Default)]
struct Inbox {
    lists: BTreeMap<Sha256Digest, Arc<StatusList>>,
    /// Digests in the order of their arrival.
    arrivals: VecDeque<Sha256Digest>,
    /// The newest pulse, while lists of it are missing.
    waiting: Option<(Verified<Pulse>, Moment)>,
}

/// Chains whose signatures were checked, by their digest: what it cost to check them, not what they are worth now.
#[derive(Debug, Default)]
struct Chains {
    checked: BTreeMap<Sha256Digest, Arc<ExecutionCredential>>,
    arrivals: VecDeque<Sha256Digest>,
}

impl GateState {
    /// A gate that has heard nothing yet, and so denies.
    #[must_use]
    pub fn new(trust: Trust, keys: JwkSet) -> Self {
        Self {
            trust,
            authorities: ArcSwap::from_pointee(Learnt { keys, issuing: Vec::new(), made: None, token: String::new() }),
            class: Class::Default,
            source: Source::Feeds,
            snapshot: ArcSwap::default(),
            inbox: Mutex::default(),
            chains: Mutex::default(),
            installed: watch::Sender::new(None),
        }
    }

    /// The same, in another class.
    #[must_use]
    pub const fn in_class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// The same, with pulses from elsewhere.
    #[must_use]
    pub const fn fed_by(mut self, source: Source) -> Self {
        self.source = source;
        self
    }

    /// How soon this gate wants to know.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }

    /// The trust domain and roots this gate judges by.
    #[must_use]
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// What decisions are made from at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Decides about a caller that proved possession of the key in `chain` (leaf first, DER).
    ///
    /// A chain that was checked before costs no signature; dates, pulse and status are checked every time.
    #[must_use]
    pub fn decide(&self, chain: &[Vec<u8>], now: Moment) -> Decision {
        let digest = chain_digest(chain);
        if let Some(credential) = lock(&self.chains).checked.get(&digest).cloned() {
            return decide::judge(&credential, &self.snapshot.load(), now);
        }
        match decide::verify(chain, &self.authorities.load().issuing, &self.trust, now.wall) {
            Ok(credential) => {
                let decision = decide::judge(&credential, &self.snapshot.load(), now);
                lock(&self.chains).remember(digest, credential);
                decision
            }
            Err(denial) => Decision::Deny(denial),
        }
    }

    /// Changes at each installed pulse. An embedder with open sessions judges them again whenever it does, and at
    /// [`Allowed::until`](crate::decide::Allowed::until) of the last answer, when it did not.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<PulseNumber>> {
        self.installed.subscribe()
    }

    /// Takes what the broker says of its keys. A statement that is not newer than the last changes nothing; whether it
    /// was.
    ///
    /// # Errors
    /// Why it was refused. Nothing changed then.
    pub fn offer_authorities(&self, token: &str, now: Moment) -> Result<bool, Rejection> {
        let _one = lock(&self.inbox);
        let held = self.authorities.load();
        let newer = Authorities::verify(token, &held.keys, &self.trust.trust_domain, now.wall)?;
        if held.made.is_some_and(|made| newer.iat <= made) {
            return Ok(false);
        }
        // What is under no pinned root completes no path here: it would only cost signatures.
        let is_ours =
            |issuing: &&[u8]| check_issuing(issuing, &self.trust.roots, &self.trust.trust_domain, now.wall).is_ok();
        let issuing = newer.issuing().filter(is_ours).map(<[u8]>::to_vec).collect();
        self.authorities.store(Arc::new(Learnt {
            keys: newer.keys.clone(),
            issuing,
            made: Some(newer.iat),
            token: token.to_owned(),
        }));
        Ok(true)
    }

    /// Takes a status list token. It takes effect only when a pulse names its digest.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn offer_list(&self, token: &str, now: Moment) -> Result<ListOffer, Rejection> {
        let (_, list) = StatusListToken::verify(token, &self.authorities.load().keys, now.wall)?;
        Ok(self.keep(&mut lock(&self.inbox), list))
    }

    /// Takes changes of a list that is held. Nobody signed them: what they come to takes effect only when a pulse names
    /// its digest.
    ///
    /// # Errors
    /// Why they were refused. The list is then to be offered whole.
    pub fn offer_delta(&self, text: &str) -> Result<ListOffer, Rejection> {
        let delta = StatusDelta::parse(text)?;
        let mut inbox = lock(&self.inbox);
        let base = inbox.lists.get(&delta.from()).cloned();
        let base = base.ok_or_else(|| StatusDeltaReason::Base.because("a list that is held", delta.from()))?;
        let list = delta.apply(&base)?;
        Ok(self.keep(&mut inbox, list))
    }

    /// Takes a staple, where there are no feeds. The newest pulse that anybody showed decides for all, also when an
    /// older one is shown later; a list counts where that pulse names it, whoever showed it.
    ///
    /// # Errors
    /// Why it was refused. Nothing changed.
    pub fn offer_staple(&self, text: &str, now: Moment) -> Result<(), Rejection> {
        if self.source == Source::Feeds {
            return Ok(());
        }
        let latest = now.latest()?;
        let staple = Staple::parse(text)?;
        // What is not believed of it is not needed, if the pulse is.
        if !staple.authorities().is_empty() && staple.authorities() != self.authorities.load().token {
            let _believed = self.offer_authorities(staple.authorities(), now);
        }
        let pulse = Pulse::verify(staple.pulse(), &self.authorities.load().keys, &self.trust.trust_domain, now.wall)?;
        pulse.check_unexpired(latest)?;
        let list = Arc::new(staple.into_list());
        let digest = list.sha256();
        let names = |pulse: &Pulse| pulse.lists.iter().any(|named| named.sha256 == digest);
        if !names(&pulse) {
            return Err(StapleReason::Superseded.because("a list that the pulse names", digest));
        }
        let mut inbox = lock(&self.inbox);
        let held = self.snapshot.load().held.clone();
        let (pulse, received) = match held {
            Some(held) if !pulse.supersedes(held.pulse()) => {
                if !names(held.pulse()) {
                    return Err(StapleReason::Superseded.because("a list that the newest pulse names", digest));
                }
                let mut named = held.pulse().lists.iter().filter(|named| named.sha256 == digest);
                if named.all(|named| held.lists().contains_key(&named.n)) {
                    return Ok(());
                }
                // It counts from when it was first seen.
                (held.pulse().clone(), held.received())
            }
            Some(_) | None => (pulse, now),
        };
        inbox.keep(list);
        let held = HeldPulse::partial(pulse, received, self.class, |digest| inbox.lists.get(digest).cloned());
        let number = PulseNumber { epoch: held.pulse().epoch, seq: held.pulse().seq };
        inbox.tidy(&held);
        self.snapshot.store(Arc::new(Snapshot { held: Some(Arc::new(held)) }));
        self.installed.send_replace(Some(number));
        Ok(())
    }

    /// The digest of list `n` as decisions have it now: what changes can begin at.
    #[must_use]
    pub fn known_list(&self, n: u64) -> Option<Sha256Digest> {
        self.snapshot.load().held.as_ref()?.pulse().list(n).map(|list| list.sha256)
    }

    /// Whether the newest pulse still waits for list `n`.
    #[must_use]
    pub fn waits_for(&self, n: u64) -> bool {
        let inbox = lock(&self.inbox);
        let named = inbox.waiting.as_ref().and_then(|(pulse, _)| pulse.list(n));
        named.is_some_and(|named| !inbox.lists.contains_key(&named.sha256))
    }

    fn keep(&self, inbox: &mut Inbox, list: StatusList) -> ListOffer {
        inbox.keep(Arc::new(list));
        let Some((pulse, received)) = inbox.waiting.take() else { return ListOffer::Held };
        // The pulse counts from when it was received, however late its lists came.
        match self.complete(inbox, pulse, received) {
            Offer::Installed => ListOffer::CompletedPulse,
            Offer::NotNewer | Offer::WaitsForLists(_) => ListOffer::Held,
        }
    }

    /// Takes a pulse. The newest pulse known, by epoch and sequence, is the one that counts, even after its end; an
    /// older or repeated one changes nothing.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn offer_pulse(&self, token: &str, now: Moment) -> Result<Offer, Rejection> {
        // By a clock that nobody keeps, no pulse is worth anything, now or later.
        let latest = now.latest()?;
        let pulse = Pulse::verify(token, &self.authorities.load().keys, &self.trust.trust_domain, now.wall)?;
        pulse.check_unexpired(latest)?;
        Ok(self.take_newer(pulse, now))
    }

    /// Takes the answer to a nonce, once, by the steady clock alone: the pulse counts from when it was asked for.
    ///
    /// # Errors
    /// Why it was refused. The nonce is used up.
    pub fn offer_answer(&self, token: &str, asked: Outstanding, clock: &NonceClock) -> Result<Offer, Rejection> {
        let answered = Answered::verify(token, &self.authorities.load().keys, &self.trust.trust_domain, asked)?;
        let received = Moment { wall: answered.signed_at(), steady_ms: answered.sent_at_ms(), error: ClockError::NONE };
        clock.learn(received.wall, received.steady_ms);
        Ok(self.take_newer(answered.into_pulse(), received))
    }

    fn take_newer(&self, pulse: Verified<Pulse>, now: Moment) -> Offer {
        let mut inbox = lock(&self.inbox);
        let snapshot = self.snapshot.load();
        let held = snapshot.held.as_ref().map(|held| held.pulse());
        let newest = inbox.waiting.as_ref().map(|(waiting, _)| waiting).or(held);
        if newest.is_some_and(|newest| !pulse.supersedes(newest)) {
            return Offer::NotNewer;
        }
        self.complete(&mut inbox, pulse, now)
    }

    /// Installs a pulse that is newer than the installed one, or keeps it until its lists are there.
    fn complete(&self, inbox: &mut Inbox, pulse: Verified<Pulse>, received: Moment) -> Offer {
        match HeldPulse::complete(pulse, received, self.class, |digest| inbox.lists.get(digest).cloned()) {
            Ok(held) => {
                let number = PulseNumber { epoch: held.pulse().epoch, seq: held.pulse().seq };
                inbox.waiting = None;
                inbox.tidy(&held);
                self.snapshot.store(Arc::new(Snapshot { held: Some(Arc::new(held)) }));
                self.installed.send_replace(Some(number));
                Offer::Installed
            }
            Err(Incomplete { pulse, missing }) => {
                inbox.waiting = Some((*pulse, received));
                Offer::WaitsForLists(missing)
            }
        }
    }
}

impl Inbox {
    fn keep(&mut self, list: Arc<StatusList>) {
        let digest = list.sha256();
        if self.lists.insert(digest, list).is_none() {
            self.arrivals.push_back(digest);
        }
        while SPARE_LISTS_MAX < self.arrivals.len() {
            self.forget_oldest();
        }
    }

    /// Keeps the lists that the installed pulse names, because the next one names most of them again, and the newest
    /// of the others.
    fn tidy(&mut self, held: &HeldPulse) {
        let named: BTreeSet<Sha256Digest> = held.pulse().lists.iter().map(|list| list.sha256).collect();
        let queued: BTreeSet<Sha256Digest> = self.arrivals.iter().copied().collect();
        // What only an earlier pulse named is in neither set.
        self.lists.retain(|digest, _| named.contains(digest) || queued.contains(digest));
        self.arrivals.retain(|digest| !named.contains(digest));
        while SPARE_LISTS_KEPT < self.arrivals.len() {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.arrivals.pop_front() {
            self.lists.remove(&oldest);
        }
    }
}

impl Chains {
    fn remember(&mut self, digest: Sha256Digest, credential: ExecutionCredential) {
        if self.checked.insert(digest, Arc::new(credential)).is_none() {
            self.arrivals.push_back(digest);
        }
        while CHAINS_MAX < self.arrivals.len() {
            if let Some(oldest) = self.arrivals.pop_front() {
                self.checked.remove(&oldest);
            }
        }
    }
}

/// The certificates with their lengths, so that no two chains share a digest.
fn chain_digest(chain: &[Vec<u8>]) -> Sha256Digest {
    let lengths: Vec<[u8; 8]> =
        chain.iter().map(|der| u64::try_from(der.len()).unwrap_or(u64::MAX).to_be_bytes()).collect();
    let parts: Vec<&[u8]> =
        chain.iter().zip(&lengths).flat_map(|(der, length)| [length.as_slice(), der.as_slice()]).collect();
    Sha256Digest::of(&parts)
}

/// A panic elsewhere while the lock was held leaves whole values behind: each is replaced in one step.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
