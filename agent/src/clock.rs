//! The only place in the agent that reads time.

use core::time::Duration;
use std::time::SystemTime;

use countersign_attestation::UnixMillis;
use rustix::time::{ClockId, clock_gettime};

/// One reading of both clocks. A lease ends by whichever says so first: the wall clock may be set back, and the boot
/// clock alone says nothing about the broker's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Wall clock.
    pub wall: UnixMillis,
    /// Milliseconds since boot, suspended time included (`CLOCK_BOOTTIME`); never goes back.
    pub boot_ms: u64,
}

/// Reads both clocks.
#[must_use]
pub fn now() -> Now {
    Now { wall: wall(), boot_ms: boot_ms() }
}

/// Reads the wall clock. A clock before 1970 reads as 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the clock module")]
pub fn wall() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Milliseconds since boot, suspended time included.
#[must_use]
pub fn boot_ms() -> u64 {
    boot_us() / 1000
}

/// Microseconds since boot, suspended time included; for measured latencies.
#[must_use]
pub fn boot_us() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(nanos / 1000)
}

/// Waits.
#[expect(clippy::disallowed_methods, reason = "this is the clock module")]
pub async fn sleep(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[cfg(test)]
mod tests {
    use super::now;

    #[test]
    fn the_boot_clock_never_goes_back_and_the_wall_clock_is_set() {
        let first = now();
        let second = now();
        assert!(first.boot_ms <= second.boot_ms);
        assert!(first.wall.0 > 1_600_000_000_000);
    }
}
