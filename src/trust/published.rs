//! What a broker publishes, and a relay after it: the newest pulse with its lists, what changed in them lately, and who
//! follows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::pulse::Pulse;
use countersign_attestation::result::authorities::Authorities;
use countersign_attestation::status_delta::StatusDelta;
use countersign_attestation::status_list::StatusList;

use crate::problem::{Problem, Refusal};

/// A status list token is for verifiers without a pulse; it lives this long and is signed anew at half of it.
pub const LIST_LIFE_MS: u64 = 60_000;

/// The newest pulse with its lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The pulse.
    pub pulse: Pulse,
    /// It as it was signed, compact JWS.
    pub token: String,
    /// The status lists by number.
    pub lists: Vec<Arc<PublishedList>>,
    /// Whether it says nothing new and came for the critical class alone.
    pub extra: bool,
    /// What the broker says of its keys.
    pub authorities: Arc<PublishedAuthorities>,
}

impl Published {
    /// Whether the pulse has not ended at `now`.
    ///
    /// # Errors
    /// [`Refusal::NotReady`].
    pub fn check_unexpired(&self, now: UnixMillis) -> Result<(), Problem> {
        let exp = self.pulse.exp;
        if now < exp { Ok(()) } else { Err(Refusal::NotReady.because(format!("a pulse valid after {now}"), exp)) }
    }
}

/// Whether these are the same states of the same lists.
#[must_use]
pub fn same_lists(one: &[Arc<PublishedList>], other: &[Arc<PublishedList>]) -> bool {
    one.iter().map(|list| list.sha256).eq(other.iter().map(|list| list.sha256))
}

/// Finds the pulses that came for the critical class alone: those that say nothing new before a period has passed since
/// one that did not.
#[derive(Debug)]
pub struct Pacing {
    period_ms: u64,
    regular: UnixMillis,
}

impl Pacing {
    /// A pulse each `period_ms` is for everybody.
    #[must_use]
    pub const fn of(period_ms: u64) -> Self {
        Self { period_ms, regular: UnixMillis(0) }
    }

    /// Whether the next pulse, of this basis, is an extra one.
    pub fn is_extra(&mut self, basis: UnixMillis, says_new: bool) -> bool {
        // A tenth less than a period, since no two are exactly one apart.
        let extra = !says_new && basis.since(self.regular) < self.period_ms.saturating_mul(9) / 10;
        if !extra {
            self.regular = basis;
        }
        extra
    }
}

/// A statement of keys with its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedAuthorities {
    /// What it says.
    pub authorities: Authorities,
    /// Compact JWS.
    pub token: String,
}

/// One status list with its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedList {
    /// The list.
    pub list: StatusList,
    /// Its digest.
    pub sha256: Sha256Digest,
    /// The token, compact JWS; a relay that was told of changes alone has none.
    pub token: Option<String>,
    /// When the token was signed.
    pub signed_at: UnixMillis,
    /// What led here from the states before, oldest first.
    recent: Vec<Arc<Change>>,
}

/// What changed from one state of a list to the next, and its text.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    delta: StatusDelta,
    text: String,
}

/// States that a reader may be behind and still be told the changes alone.
const CHANGES_KEPT: usize = 32;

impl PublishedList {
    /// List `n` as it is now, after what it was `before`.
    #[must_use]
    pub fn new(n: u64, list: StatusList, token: Option<String>, signed_at: UnixMillis, before: Option<&Self>) -> Self {
        let sha256 = list.sha256();
        let mut recent = before.map(|before| before.recent.clone()).unwrap_or_default();
        if let Some(before) = before.filter(|before| before.sha256 != sha256) {
            match StatusDelta::between(n, &before.list, &list) {
                Some(delta) => recent.push(Arc::new(Change { text: delta.encode(), delta })),
                None => recent.clear(),
            }
        }
        let spare = recent.len().saturating_sub(CHANGES_KEPT);
        recent.drain(..spare);
        Self { list, sha256, token, signed_at, recent }
    }

    /// What leads from the list with this digest to this one, as text; none where the whole list has to be told.
    #[must_use]
    pub fn since(&self, known: Sha256Digest) -> Option<String> {
        let first = self.recent.iter().rposition(|change| change.delta.from() == known)?;
        let mut changes = self.recent.get(first..)?.iter();
        let only = changes.next()?;
        let Some(second) = changes.next() else { return Some(only.text.clone()) };
        let joined = only.delta.then(&second.delta);
        changes.try_fold(joined?, |sum, change| sum.then(&change.delta)).map(|delta| delta.encode())
    }
}

/// How many follow in a class; the pace is theirs while there are any.
#[derive(Clone, Debug, Default)]
pub struct Followers(Arc<AtomicUsize>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Following(Followers);

impl Followers {
    /// One more.
    #[must_use]
    pub fn join(&self) -> Following {
        self.0.fetch_add(1, Ordering::SeqCst);
        Following(self.clone())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// Whether there are any.
    #[must_use]
    pub fn any(&self) -> bool {
        self.count() != 0
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}
