//! The only place where the gate reads time.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use countersign_attestation::time::ClockError;
use countersign_attestation::{Rejection, UnixMillis};
use countersign_clock::Keeper;
use rustix::time::{ClockId, clock_gettime};

/// One reading of both clocks. What is signed speaks of wall time; the steady clock keeps a wall clock that is set back
/// from extending trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Unix time, as the kernel's clock has it.
    pub wall: UnixMillis,
    /// Milliseconds on a clock that nobody sets and that runs on while the machine sleeps.
    pub steady_ms: u64,
    /// How far off the wall clock may be.
    pub error: ClockError,
}

impl Moment {
    /// The latest that it may be now.
    ///
    /// # Errors
    /// A reason of the clock, where nobody knows.
    pub fn latest(&self) -> Result<UnixMillis, Rejection> {
        Ok(self.wall.plus(self.error.bounded()?))
    }
}

/// A source of moments, and the wait between attempts.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Moment;
}

/// How old an answer of the kernel about its clock may be: a decision does not wait for a system call, and an error
/// that grows by 500 ppm is the same a quarter of a second later.
const ERROR_AGE_MAX_MS: u64 = 250;

/// The machine's clocks: `CLOCK_REALTIME` and `CLOCK_BOOTTIME`, and who vouches for the first.
#[derive(Debug)]
pub struct SystemClock {
    keeper: Keeper,
    /// When the kernel was asked, and what it said.
    error: ArcSwap<(u64, ClockError)>,
}

impl SystemClock {
    /// The machine's clocks, of which `keeper` vouches for the one that says what time it is.
    #[must_use]
    pub fn new(keeper: Keeper) -> Self {
        Self { keeper, error: ArcSwap::from_pointee((steady_ms(), keeper.error())) }
    }

    fn error(&self, steady_ms: u64) -> ClockError {
        let (asked, error) = **self.error.load();
        if steady_ms.saturating_sub(asked) < ERROR_AGE_MAX_MS {
            return error;
        }
        let error = self.keeper.error();
        self.error.store(Arc::new((steady_ms, error)));
        error
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock module")]
    fn now(&self) -> Moment {
        // A clock before its epoch reads as the end of time: everything has expired.
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::MAX);
        let wall = UnixMillis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
        let steady_ms = steady_ms();
        Moment { wall, steady_ms, error: self.error(steady_ms) }
    }
}

/// For a machine whose wall clock nobody believes: the time is the broker's, as it signed it into the newest answer to
/// a nonce, and the steady clock's from when that was asked for. The wall clock is never read.
#[derive(Debug)]
pub struct NonceClock {
    steady_ms: fn() -> u64,
    /// When the broker signed, and when that was asked for.
    learnt: ArcSwapOption<(UnixMillis, u64)>,
}

impl Default for NonceClock {
    fn default() -> Self {
        Self::over(steady_ms)
    }
}

impl NonceClock {
    /// A clock that has learnt nothing yet, beside this steady one.
    #[must_use]
    pub fn over(steady_ms: fn() -> u64) -> Self {
        Self { steady_ms, learnt: ArcSwapOption::empty() }
    }

    /// The steady clock alone.
    #[must_use]
    pub fn steady_ms(&self) -> u64 {
        (self.steady_ms)()
    }

    /// The broker signed at `signed_at` what was asked for at `sent_at_ms`. It signed later than that, so this clock is
    /// ahead rather than behind.
    pub fn learn(&self, signed_at: UnixMillis, sent_at_ms: u64) {
        self.learnt.store(Some(Arc::new((signed_at, sent_at_ms))));
    }
}

impl Clock for NonceClock {
    fn now(&self) -> Moment {
        let steady_ms = self.steady_ms();
        // Before the first answer it is the end of time: everything has expired.
        let learnt = self.learnt.load();
        let wall = learnt.as_ref().map_or(UnixMillis(u64::MAX), |learnt| {
            let (signed_at, sent_at_ms) = **learnt;
            signed_at.plus(steady_ms.saturating_sub(sent_at_ms))
        });
        Moment { wall, steady_ms, error: ClockError::NONE }
    }
}

/// `CLOCK_BOOTTIME`, which nobody sets and which runs on while the machine sleeps.
fn steady_ms() -> u64 {
    let steady = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(steady.tv_sec).unwrap_or(u64::MAX);
    let rest = u64::try_from(steady.tv_nsec / 1_000_000).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(rest)
}

/// Waits. Only for pacing: nothing is decided by how long a wait took.
#[expect(clippy::disallowed_methods, reason = "this is the clock module")]
pub async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// The outcome of a future, or nothing when it takes longer. Only for pacing, like [`pause`].
pub async fn within<F: Future>(longest: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(longest, future).await.ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use countersign_attestation::time::ClockError;
    use countersign_clock::{ClockSync, Keeper};

    use super::{Clock, ERROR_AGE_MAX_MS, SystemClock};

    #[test]
    fn the_system_clocks_go_forward() {
        let clock = SystemClock::new(Keeper::new(ClockSync::Asserted, 5));
        let (first, second) = (clock.now(), clock.now());
        assert!(first.steady_ms <= second.steady_ms);
        // 2026-01-01: a machine whose clock was never set would fail here, and could not decide anything.
        assert!(1_767_225_600_000 < first.wall.0);
    }

    #[test]
    fn who_keeps_the_clock_is_asked_again() {
        let clock = SystemClock::new(Keeper::new(ClockSync::Asserted, 5));
        let now = clock.now().steady_ms;
        clock.error.store(Arc::new((now, ClockError::Unsynchronised)));
        assert_eq!(clock.error(now + ERROR_AGE_MAX_MS - 1), ClockError::Unsynchronised);
        assert_eq!(clock.error(now + ERROR_AGE_MAX_MS), ClockError::Within { error_ms: 5 });
    }
}
