//! How far off this machine's wall clock may be. What is signed speaks of wall time, so a clock that nobody keeps signs
//! and accepts nothing.
//!
//! The kernel knows: whoever keeps the clock (chrony, ntpd, systemd-timesyncd, linuxptp) tells it the error, and it
//! lets that grow by 500 ppm until it is told again, and calls the clock unsynchronised in the end. A container or a
//! guest whose clock the host keeps has nobody who tells its kernel: there the operator says so, with a bound.

mod kernel;

use countersign_attestation::time::ClockError;
use serde::{Deserialize, Serialize};

/// Longest bound that can be stated: more than this and no pulse would be left to believe.
pub const ERROR_MAX_MS: u64 = countersign_attestation::pulse::CLOCK_ERROR_MAX_MS;

/// Who vouches for the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ClockSync {
    /// The kernel, by what it was told of its clock (`adjtimex`).
    #[default]
    Kernel,
    /// The operator: something else keeps this clock, such as the hypervisor, within the stated bound.
    Asserted,
}

/// Who vouches for the clock, as flags and variables say.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct ClockArgs {
    /// Who vouches for this machine's clock: its kernel, or the operator, where something else keeps the clock.
    #[arg(long, env = "COUNTERSIGN_CLOCK_SYNC", value_enum, default_value = "kernel")]
    pub clock_sync: ClockSync,
    /// The clock error beyond which nothing is signed or believed, at most 1s; with `asserted`, the error that is
    /// vouched for.
    #[arg(
        long,
        env = "COUNTERSIGN_CLOCK_ERROR_MAX_MS",
        value_name = "MILLISECONDS",
        default_value_t = ERROR_MAX_MS,
        value_parser = clap::value_parser!(u64).range(1..=ERROR_MAX_MS)
    )]
    pub clock_error_max_ms: u64,
}

impl ClockArgs {
    /// Who vouches for the clock, and for how much.
    #[must_use]
    pub const fn keeper(self) -> Keeper {
        Keeper::new(self.clock_sync, self.clock_error_max_ms)
    }
}

/// Who vouches for the clock, and for how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeper {
    sync: ClockSync,
    max_ms: u64,
}

impl Default for Keeper {
    /// The kernel, and the error that pulses allow for.
    fn default() -> Self {
        Self::new(ClockSync::Kernel, ERROR_MAX_MS)
    }
}

impl Keeper {
    /// A clock that `sync` vouches for, of which an error of more than `max_ms` is too much. What an operator vouches
    /// for is `max_ms` itself.
    #[must_use]
    pub const fn new(sync: ClockSync, max_ms: u64) -> Self {
        Self { sync, max_ms }
    }

    /// The error now. Costs a system call where the kernel is asked.
    #[must_use]
    pub fn error(self) -> ClockError {
        match self.sync {
            ClockSync::Kernel => within(kernel::error(), self.max_ms),
            ClockSync::Asserted => ClockError::Within { error_ms: self.max_ms },
        }
    }

    /// One line for logs.
    #[must_use]
    pub const fn posture(self) -> &'static str {
        match self.sync {
            ClockSync::Kernel => "the kernel vouches for the clock",
            ClockSync::Asserted => "an operator vouches for the clock; the kernel is not asked",
        }
    }
}

const fn within(error: ClockError, max_ms: u64) -> ClockError {
    match error {
        ClockError::Within { error_ms } if max_ms < error_ms => ClockError::TooLarge { error_ms, max_ms },
        ClockError::Within { .. }
        | ClockError::TooLarge { .. }
        | ClockError::Unsynchronised
        | ClockError::Unreadable { .. } => error,
    }
}

#[cfg(test)]
mod tests {
    use countersign_attestation::time::ClockError;

    use super::{ClockSync, Keeper, within};

    #[test]
    fn an_error_beyond_the_maximum_is_too_large() {
        assert_eq!(within(ClockError::Within { error_ms: 1_000 }, 1_000), ClockError::Within { error_ms: 1_000 });
        let over = ClockError::TooLarge { error_ms: 1_001, max_ms: 1_000 };
        assert_eq!(within(ClockError::Within { error_ms: 1_001 }, 1_000), over);
        assert_eq!(within(ClockError::Unsynchronised, 1_000), ClockError::Unsynchronised);
    }

    #[test]
    fn whoever_vouches_states_the_bound() {
        let error = Keeper::new(ClockSync::Asserted, 70).error();
        assert_eq!(error, ClockError::Within { error_ms: 70 });
    }
}
