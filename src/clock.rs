//! The only place that reads time. Everything else takes `now` as an argument or asks a [`Clock`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use countersign_attestation::UnixMillis;
use countersign_attestation::time::ClockError;
use countersign_clock::Keeper;
use rustix::time::{ClockId, clock_gettime};

/// Wall-clock time that never goes back while the process lives.
///
/// A step backwards would extend every lease, so time is the later of the wall clock and the start time plus steady
/// time, which runs on while the machine sleeps. A step forwards is followed at once: it can only shorten trust.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Hands { hands: Arc<dyn Hands>, anchor_steady_ms: u64, anchor_wall_ms: u64 },
    Manual(Arc<AtomicU64>),
}

/// What a clock reads: the machine's two clocks, or those of a simulated machine under the same rule.
pub trait Hands: std::fmt::Debug + Send + Sync {
    /// Unix time. Anyone may set it.
    fn wall_ms(&self) -> u64;
    /// Milliseconds on a clock that nobody sets and that runs on while the machine sleeps.
    fn steady_ms(&self) -> u64;
    /// How far off the wall clock may be.
    fn error(&self) -> ClockError;
}

/// `CLOCK_REALTIME` and `CLOCK_BOOTTIME`, and who vouches for the first.
#[derive(Debug)]
struct Machine(Keeper);

impl Hands for Machine {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn wall_ms(&self) -> u64 {
        // A clock before 1970 reads as 1970: every certificate is then not yet valid, so nothing is trusted.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    fn steady_ms(&self) -> u64 {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        seconds.saturating_mul(1000).saturating_add(u64::try_from(time.tv_nsec / 1_000_000).unwrap_or(0))
    }

    fn error(&self) -> ClockError {
        self.0.error()
    }
}

impl Clock {
    /// The machine's clock, for which `keeper` vouches.
    #[must_use]
    pub fn system(keeper: Keeper) -> Self {
        Self::over(Arc::new(Machine(keeper)))
    }

    /// The machine's clock, for what is dated and decides nothing: no one vouches for it.
    #[must_use]
    pub fn dating() -> Self {
        Self::system(Keeper::default())
    }

    /// A clock over these hands, from now on.
    #[must_use]
    pub fn over(hands: Arc<dyn Hands>) -> Self {
        let (anchor_steady_ms, anchor_wall_ms) = (hands.steady_ms(), hands.wall_ms());
        Self(Source::Hands { hands, anchor_steady_ms, anchor_wall_ms })
    }

    /// A clock that stands at `now` until [`Clock::advance`] moves it, for simulation and replay.
    #[must_use]
    pub fn manual(now: UnixMillis) -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(now.0))))
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        match &self.0 {
            Source::Hands { hands, anchor_steady_ms, anchor_wall_ms } => {
                let elapsed = hands.steady_ms().saturating_sub(*anchor_steady_ms);
                UnixMillis(hands.wall_ms().max(anchor_wall_ms.saturating_add(elapsed)))
            }
            Source::Manual(now) => UnixMillis(now.load(Ordering::SeqCst)),
        }
    }

    /// How far the wall clock was set back behind this one.
    #[must_use]
    pub fn ahead_of_wall_ms(&self) -> u64 {
        match &self.0 {
            Source::Hands { hands, .. } => self.now().0.saturating_sub(hands.wall_ms()),
            Source::Manual(_) => 0,
        }
    }

    /// How far off the wall clock may be now.
    #[must_use]
    pub fn error(&self) -> ClockError {
        match &self.0 {
            Source::Hands { hands, .. } => hands.error(),
            Source::Manual(_) => ClockError::NONE,
        }
    }

    /// Moves a manual clock; the machine's clock moves by itself.
    pub fn advance(&self, milliseconds: u64) {
        match &self.0 {
            Source::Hands { .. } => {}
            Source::Manual(now) => drop(now.fetch_add(milliseconds, Ordering::SeqCst)),
        }
    }
}

/// A moment for measuring durations.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// Waits on the runtime's timer.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[cfg(test)]
mod tests {
    use countersign_attestation::UnixMillis;

    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use countersign_attestation::time::ClockError;

    use super::{Clock, Hands};

    #[derive(Debug, Default)]
    struct Set {
        wall: AtomicU64,
        steady: AtomicU64,
    }

    impl Hands for Set {
        fn wall_ms(&self) -> u64 {
            self.wall.load(Ordering::SeqCst)
        }

        fn steady_ms(&self) -> u64 {
            self.steady.load(Ordering::SeqCst)
        }

        fn error(&self) -> ClockError {
            ClockError::Unsynchronised
        }
    }

    #[test]
    fn time_goes_on_whatever_is_done_to_the_wall_clock() {
        let hands = Arc::new(Set::default());
        hands.wall.store(1_000, Ordering::SeqCst);
        let clock = Clock::over(Arc::clone(&hands) as Arc<dyn Hands>);
        let at = |wall: u64, steady: u64| {
            hands.wall.store(wall, Ordering::SeqCst);
            hands.steady.store(steady, Ordering::SeqCst);
            clock.now().0
        };
        assert_eq!(at(1_010, 10), 1_010);
        assert_eq!(clock.ahead_of_wall_ms(), 0);
        assert_eq!(clock.error(), ClockError::Unsynchronised, "what the hands say");
        assert_eq!(at(400, 20), 1_020, "set back");
        assert_eq!(clock.ahead_of_wall_ms(), 620);
        assert_eq!(at(400, 3_600_020), 3_601_020, "set back, and slept for an hour");
        assert_eq!(at(9_000_000, 3_600_030), 9_000_000, "set forwards");
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(UnixMillis(5));
        let same = clock.clone();
        clock.advance(7);
        assert_eq!(same.now(), UnixMillis(12));
    }

    #[test]
    fn the_system_clock_is_later_than_this_code() {
        assert!(UnixMillis(1_795_000_000_000) < Clock::dating().now());
    }
}
