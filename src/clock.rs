//! The only place that reads time. Everything else takes `now` as an argument or asks a [`Clock`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use countersign_attestation::UnixMillis;

/// Wall-clock time that never goes back while the process lives.
///
/// A step backwards would extend every lease, so time is the later of the wall clock and the start time plus monotonic
/// time. A step forwards is followed at once: it can only shorten trust.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System { anchor: Instant, anchor_wall_ms: u64 },
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System { anchor: monotonic(), anchor_wall_ms: wall_ms() })
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
            Source::System { anchor, anchor_wall_ms } => {
                let elapsed = u64::try_from(monotonic().duration_since(*anchor).as_millis()).unwrap_or(u64::MAX);
                UnixMillis(wall_ms().max(anchor_wall_ms.saturating_add(elapsed)))
            }
            Source::Manual(now) => UnixMillis(now.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock; the machine's clock moves by itself.
    pub fn advance(&self, milliseconds: u64) {
        match &self.0 {
            Source::System { .. } => {}
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

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
fn wall_ms() -> u64 {
    // A clock before 1970 reads as 1970: every certificate is then not yet valid, so nothing is trusted.
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use countersign_attestation::UnixMillis;

    use super::Clock;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(UnixMillis(5));
        let same = clock.clone();
        clock.advance(7);
        assert_eq!(same.now(), UnixMillis(12));
    }

    #[test]
    fn the_system_clock_is_later_than_this_code() {
        assert!(UnixMillis(1_795_000_000_000) < Clock::system().now());
    }
}
