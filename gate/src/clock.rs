//! The only place where the gate reads time.

use core::fmt;
use core::time::Duration;
use std::time::SystemTime;

use countersign_attestation::UnixMillis;
use rustix::time::{ClockId, clock_gettime};

/// One reading of both clocks. What is signed speaks of wall time; the steady clock keeps a wall clock that is set back
/// from extending trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Unix time, as the kernel's clock has it.
    pub wall: UnixMillis,
    /// Milliseconds on a clock that nobody sets and that runs on while the machine sleeps.
    pub steady_ms: u64,
}

/// A source of moments, and the wait between attempts.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Moment;
}

/// The machine's clocks: `CLOCK_REALTIME` and `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock module")]
    fn now(&self) -> Moment {
        // A clock before its epoch reads as the end of time: everything has expired.
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::MAX);
        let wall = UnixMillis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX));
        let steady = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(steady.tv_sec).unwrap_or(u64::MAX);
        let rest = u64::try_from(steady.tv_nsec / 1_000_000).unwrap_or(0);
        Moment { wall, steady_ms: seconds.saturating_mul(1000).saturating_add(rest) }
    }
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
    use super::{Clock, SystemClock};

    #[test]
    fn the_system_clocks_go_forward() {
        let (first, second) = (SystemClock.now(), SystemClock.now());
        assert!(first.steady_ms <= second.steady_ms);
        // 2026-01-01: a machine whose clock was never set would fail here, and could not decide anything.
        assert!(1_767_225_600_000 < first.wall.0);
    }
}
