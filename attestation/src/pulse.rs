//! The pulse: a signed, numbered, expiring statement of who is trusted now. A relying party without an unexpired one
//! denies, so that silence, a crash and a partition all end in the same denial.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::rejection::{Rejection, reasons};
use crate::result::jws::{self, JwkSet, Kind};
use crate::result::svid::TrustDomain;
use crate::time::UnixMillis;
use crate::verified::Verified;

reasons! {
    /// Why a pulse is rejected.
    PulseReason {
        /// One gate, one trust domain.
        Issuer = "pulse.issuer",
            "the pulse is of another trust domain",
            "follow a broker of the trust domain this gate serves";
        /// `basis < exp <= basis + 10 s`.
        Window = "pulse.window",
            "the pulse does not end within the longest time a pulse may live after its basis",
            "sign exp = basis + Y with Y of at most 10 seconds; exp counts from the basis, never from now";
        /// No grace: the clock error is part of W, not of the check.
        Expired = "pulse.expired",
            "the pulse has expired",
            "see why the broker does not reach this gate: broker, network, or the clocks of both";
        /// A basis is the start of a committed write, so it lies in the past.
        BasisInFuture = "pulse.basis_in_future",
            "the pulse's basis lies in the future",
            "synchronise the clocks of broker and gate";
        /// In order, each once, not empty.
        Lists = "pulse.lists",
            "the status lists are not numbered in ascending order, each once",
            "sign the digests of all status lists in the order of their numbers";
    }
}

/// `typ` and size of a pulse: 512 lists (32 million hosts) need about 60 KiB.
pub const KIND: Kind = Kind { typ: "countersign-pulse+jwt", bytes_max: 128 * 1024 };

/// Longest life of a pulse after its basis. Whatever a broker signs, a revocation is in force everywhere this long
/// after it committed, plus the clock error.
pub const Y_MAX_MS: u64 = 10_000;

/// How soon a relying party wants to know: what it believes a pulse for, and how often it needs one. A class is chosen
/// by who relies, never by who is judged, and can only shorten what was signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// As long as it was signed for: Y of the broker, 5 s unless an operator says otherwise.
    #[default]
    Default,
    /// Two seconds after its basis.
    Critical,
}

impl Class {
    /// Time between pulses.
    #[must_use]
    pub const fn period_ms(self) -> u64 {
        match self {
            Self::Default => 1_000,
            Self::Critical => 250,
        }
    }

    /// Silence after which a connection is given up.
    #[must_use]
    pub const fn silence_ms(self) -> u64 {
        match self {
            Self::Default => 3_000,
            Self::Critical => 1_000,
        }
    }

    /// Where the pulses of the class are streamed, below a broker's or relay's address.
    #[must_use]
    pub const fn stream(self) -> &'static str {
        match self {
            Self::Default => "v1/pulse/stream",
            Self::Critical => "v1/pulse/stream/critical",
        }
    }

    /// Y of the class, at most.
    #[must_use]
    pub const fn validity_max_ms(self) -> u64 {
        match self {
            Self::Default => Y_MAX_MS,
            Self::Critical => 2_000,
        }
    }
}

/// How far a basis may seem to lie in the future: the clock error of broker and gate together.
pub const CLOCK_ERROR_MAX_MS: u64 = 1_000;

/// The claims of a pulse. Times are Unix time in **milliseconds**, unlike the seconds of RFC 7519: a pulse lives for
/// seconds. What is trusted is a [`Verified<Pulse>`] alone, and [`Pulse::verify`] makes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pulse {
    /// The trust domain.
    pub iss: TrustDomain,
    /// Counts restores of the broker's state; higher is newer whatever `seq` says.
    pub epoch: u64,
    /// Counts the pulses of an epoch.
    pub seq: u64,
    /// Start of the committed write that the lists contain: milliseconds.
    pub basis: UnixMillis,
    /// When it was signed: milliseconds. Informative, nothing is decided by it.
    pub iat: UnixMillis,
    /// `basis + Y`: milliseconds. Nobody trusts this pulse from this moment on.
    pub exp: UnixMillis,
    /// Every status list there is, by ascending number.
    pub lists: Vec<ListDigest>,
    /// The newest checkpoint of the lineage log.
    pub checkpoint: PulseCheckpoint,
}

/// The state of one status list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListDigest {
    /// Number of the list: it covers the indexes from `n * 65,536` on.
    pub n: u64,
    /// Entries in the list.
    pub size: u64,
    /// SHA-256 of the uncompressed list.
    pub sha256: Sha256Digest,
}

/// A checkpoint of the lineage log, so that a forked log shows at the gates too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PulseCheckpoint {
    /// The log's origin line.
    pub origin: String,
    /// Leaves in the log.
    pub size: u64,
    /// Root of the tree of that size, hex.
    pub root: Sha256Digest,
}

impl Pulse {
    /// The payload to sign for this pulse.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        // Strings and integers only: writing them cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Checks a pulse of `trust_domain` under the broker's `keys` at `now`.
    ///
    /// # Errors
    /// A `result.token` reason or a [`PulseReason`].
    pub fn verify(
        token: &str,
        keys: &JwkSet,
        trust_domain: &TrustDomain,
        now: UnixMillis,
    ) -> Result<Verified<Self>, Rejection> {
        let pulse = jws::verify::<Self>(KIND, token, keys)?;
        pulse.check_claims(trust_domain)?;
        if now.plus(CLOCK_ERROR_MAX_MS) < pulse.basis {
            return Err(PulseReason::BasisInFuture.because(format!("at most {now}"), pulse.basis));
        }
        pulse.check_unexpired(now)?;
        Ok(pulse)
    }

    /// What holds of a pulse whatever the time is.
    pub(crate) fn check_claims(&self, trust_domain: &TrustDomain) -> Result<(), Rejection> {
        if self.iss != *trust_domain {
            return Err(PulseReason::Issuer.because(trust_domain, &self.iss));
        }
        // Saturating differences alone would call an exp before its basis a window of zero.
        if self.exp <= self.basis || Y_MAX_MS < self.exp.since(self.basis) {
            let expected = format!("after {} by at most {Y_MAX_MS} ms", self.basis);
            return Err(PulseReason::Window.because(expected, self.exp));
        }
        if !self.lists.is_sorted_by(|before, after| before.n < after.n) {
            return Err(PulseReason::Lists.because("ascending numbers", "another order"));
        }
        Ok(())
    }

    /// Whether the pulse may still be believed at `now`.
    ///
    /// # Errors
    /// [`PulseReason::Expired`] from `exp` on.
    pub fn check_unexpired(&self, now: UnixMillis) -> Result<(), Rejection> {
        if self.exp <= now {
            return Err(PulseReason::Expired.because(format!("before {}", self.exp), now));
        }
        Ok(())
    }

    /// When who relies in this class believes it no more: its end, or Y of the class after its basis. It counts from
    /// the basis in every class.
    #[must_use]
    pub fn end_for(&self, class: Class) -> UnixMillis {
        self.exp.min(self.basis.plus(class.validity_max_ms()))
    }

    /// Whether this pulse is newer than `other`: by epoch, then by sequence. Equal is not newer, so a replay changes
    /// nothing.
    #[must_use]
    pub fn supersedes(&self, other: &Self) -> bool {
        (other.epoch, other.seq) < (self.epoch, self.seq)
    }

    /// The digest of list `n`, if there is such a list.
    #[must_use]
    pub fn list(&self, n: u64) -> Option<&ListDigest> {
        self.lists.binary_search_by_key(&n, |list| list.n).ok().and_then(|at| self.lists.get(at))
    }
}
