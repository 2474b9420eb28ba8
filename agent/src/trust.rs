//! Trust on the host: a function of the last proof and the clock. Events go in, changes come out; no I/O.

use countersign_attestation::UnixMillis;

use crate::clock::Now;

/// Longest lease that is believed. A wall clock far behind the broker's would make any lease look endless.
const LEASE_MAX_MS: u64 = 60 * 60 * 1000;

/// Until when trust lasts, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    wall_until: UnixMillis,
    boot_until_ms: u64,
}

impl Lease {
    /// The lease that ends at the broker's `until`, seen at `now` by a clock that is right.
    #[must_use]
    pub fn new(until: UnixMillis, now: Now) -> Self {
        Self::seen_within(until, now, 0)
    }

    /// The same, seen by a wall clock that may be late by `error_ms`: what is left for sure.
    #[must_use]
    pub fn seen_within(until: UnixMillis, now: Now, error_ms: u64) -> Self {
        let until = UnixMillis(until.0.saturating_sub(error_ms));
        let left = until.since(now.wall).min(LEASE_MAX_MS);
        Self { wall_until: now.wall.plus(left), boot_until_ms: now.boot_ms.saturating_add(left) }
    }

    /// Milliseconds until the first of both clocks says that it is over.
    #[must_use]
    pub const fn left_ms(self, now: Now) -> u64 {
        let (wall, boot) =
            (self.wall_until.0.saturating_sub(now.wall.0), self.boot_until_ms.saturating_sub(now.boot_ms));
        if wall < boot { wall } else { boot }
    }

    /// Whether either clock says that it is over.
    #[must_use]
    pub const fn expired(self, now: Now) -> bool {
        self.wall_until.0 <= now.wall.0 || self.boot_until_ms <= now.boot_ms
    }
}

/// Why trust was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Stable code: the broker's reason, or `agent.lease.expired`.
    pub code: String,
    /// One sentence.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl Cause {
    fn revoked() -> Self {
        Self {
            code: "trust.revoked".to_owned(),
            reason: "the broker's pulse says that this host's credential is revoked".to_owned(),
            remedy: "see the host's status at the broker; the agent asks for the decision".to_owned(),
        }
    }

    fn silence() -> Self {
        Self {
            code: "agent.lease.expired".to_owned(),
            reason: "no attestation succeeded before the lease ended".to_owned(),
            remedy: "restore the way to the broker and the TPM; the agent keeps trying".to_owned(),
        }
    }
}

/// Whether a grant brings a credential or prolongs the one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// A new credential.
    Credential,
    /// The live credential goes on.
    Prolonged,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The broker granted.
    Granted(Grant, Lease),
    /// The broker decided against this host.
    Denied(Cause),
    /// A pulse says that the live credential is revoked.
    Revoked,
    /// Time passed.
    Tick,
}

/// What follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Trust began, or came back.
    Gained,
    /// Trust goes on.
    Prolonged,
    /// Trust ended. Freeze the workload and take the credential away, now.
    Lost(Cause),
    /// A grant that came too late or prolongs what is no longer there: trust needs a new credential key.
    Unusable,
}

/// The state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// No grant yet.
    Never,
    /// Trusted for this lease.
    Live(Lease),
    /// Trust was lost.
    Lost,
}

impl Trust {
    /// Takes an event at `now`. A lease that is over ends trust whatever the event says, before the event counts.
    pub fn on(&mut self, event: Event, now: Now) -> Change {
        if let Self::Live(lease) = *self
            && lease.expired(now)
        {
            *self = Self::Lost;
            // A denial at the same moment is the better explanation; a grant comes too late for this credential.
            return Change::Lost(if let Event::Denied(cause) = event { cause } else { Cause::silence() });
        }
        match (event, *self) {
            (Event::Tick, _) | (Event::Revoked, Self::Never | Self::Lost) => Change::None,
            (Event::Revoked, Self::Live(_)) => {
                *self = Self::Lost;
                Change::Lost(Cause::revoked())
            }
            (Event::Denied(cause), _) => {
                *self = Self::Lost;
                Change::Lost(cause)
            }
            (Event::Granted(_, lease), _) if lease.expired(now) => Change::Unusable,
            (Event::Granted(Grant::Prolonged, _), Self::Never | Self::Lost) => Change::Unusable,
            (Event::Granted(_, lease), Self::Live(_)) => {
                *self = Self::Live(lease);
                Change::Prolonged
            }
            (Event::Granted(Grant::Credential, lease), Self::Never | Self::Lost) => {
                *self = Self::Live(lease);
                Change::Gained
            }
        }
    }

    /// Whether trust is live.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Live(_))
    }
}

#[cfg(test)]
mod tests {
    use countersign_attestation::UnixMillis;

    use super::{Cause, Change, Event, Grant, Lease, Trust};
    use crate::clock::Now;

    const fn at(wall: u64, boot_ms: u64) -> Now {
        Now { wall: UnixMillis(wall), boot_ms }
    }

    fn cause(code: &str) -> Cause {
        Cause { code: code.to_owned(), reason: "r".to_owned(), remedy: "m".to_owned() }
    }

    fn granted(until: u64, now: Now) -> Event {
        Event::Granted(Grant::Credential, Lease::new(UnixMillis(until), now))
    }

    #[test]
    fn a_lease_ends_by_whichever_clock_says_so_first() {
        let lease = Lease::new(UnixMillis(10_045), at(10_000, 500));
        assert!(!lease.expired(at(10_044, 544)));
        assert!(lease.expired(at(10_045, 544)), "wall clock");
        assert!(lease.expired(at(9_000, 545)), "boot clock, the wall clock was set back");
    }

    #[test]
    fn a_clock_that_may_be_late_leaves_less() {
        let lease = Lease::seen_within(UnixMillis(10_045), at(10_000, 500), 20);
        assert_eq!(lease.left_ms(at(10_000, 500)), 25);
        assert!(lease.expired(at(10_000, 525)) && lease.expired(at(10_025, 500)) && !lease.expired(at(10_024, 524)));
    }

    #[test]
    fn a_lease_from_the_far_future_is_cut() {
        let lease = Lease::new(UnixMillis(1_800_000_000_000), at(0, 0));
        assert!(lease.expired(at(0, 3_600_000)) && !lease.expired(at(0, 3_599_999)));
    }

    #[test]
    fn a13_silence_ends_trust_and_only_a_new_credential_brings_it_back() {
        let mut trust = Trust::Never;
        assert_eq!(trust.on(granted(145, at(100, 0)), at(100, 0)), Change::Gained);
        assert_eq!(trust.on(Event::Tick, at(144, 44)), Change::None);
        let Change::Lost(cause) = trust.on(Event::Tick, at(144, 45)) else { panic!("{trust:?}") };
        assert_eq!(cause.code, "agent.lease.expired");
        assert_eq!(trust.on(Event::Tick, at(144, 46)), Change::None, "lost once");
        let prolonged = Event::Granted(Grant::Prolonged, Lease::new(UnixMillis(900), at(150, 50)));
        assert_eq!(trust.on(prolonged, at(150, 50)), Change::Unusable);
        assert!(!trust.is_live());
        assert_eq!(trust.on(granted(900, at(150, 50)), at(150, 50)), Change::Gained);
    }

    #[test]
    fn a_denial_ends_trust_at_once_and_is_the_better_explanation() {
        let mut trust = Trust::Never;
        assert_eq!(trust.on(granted(145, at(100, 0)), at(100, 0)), Change::Gained);
        assert_eq!(trust.on(Event::Denied(cause("tpm.pcr")), at(101, 1)), Change::Lost(cause("tpm.pcr")));
        let mut late = Trust::Never;
        let _ = late.on(granted(145, at(100, 0)), at(100, 0));
        assert_eq!(late.on(Event::Denied(cause("tpm.pcr")), at(999, 999)), Change::Lost(cause("tpm.pcr")));
        assert_eq!(Trust::Never.on(Event::Denied(cause("x")), at(1, 1)), Change::Lost(cause("x")));
    }

    #[test]
    fn a_grant_after_the_lease_does_not_revive_the_credential() {
        let mut trust = Trust::Never;
        let _ = trust.on(granted(145, at(100, 0)), at(100, 0));
        let late = Event::Granted(Grant::Prolonged, Lease::new(UnixMillis(900), at(200, 100)));
        assert!(matches!(trust.on(late, at(200, 100)), Change::Lost(_)));
        assert!(!trust.is_live());
    }

    #[test]
    fn a_grant_that_is_over_on_arrival_changes_nothing() {
        let mut trust = Trust::Never;
        assert_eq!(trust.on(granted(99, at(100, 0)), at(100, 0)), Change::Unusable);
        assert_eq!(trust, Trust::Never);
    }

    #[test]
    fn grants_prolong() {
        let mut trust = Trust::Never;
        let _ = trust.on(granted(145, at(100, 0)), at(100, 0));
        let more = Event::Granted(Grant::Prolonged, Lease::new(UnixMillis(190), at(140, 40)));
        assert_eq!(trust.on(more, at(140, 40)), Change::Prolonged);
        assert_eq!(trust.on(Event::Tick, at(189, 89)), Change::None);
        assert!(matches!(trust.on(Event::Tick, at(190, 90)), Change::Lost(_)));
    }

    #[test]
    fn a_revocation_ends_live_trust_once() {
        let now = at(1_000, 10);
        let mut trust = Trust::Never;
        assert_eq!(trust.on(Event::Revoked, now), Change::None);
        assert_eq!(trust.on(granted(50_000, now), now), Change::Gained);
        assert_eq!(trust.on(Event::Revoked, now), Change::Lost(Cause::revoked()));
        assert_eq!(trust.on(Event::Revoked, now), Change::None);
        assert!(!trust.is_live());
    }
}
