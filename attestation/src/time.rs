//! Time as a value. Nothing here reads a clock; the caller passes `now`.

use alloc::format;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::rejection::{Rejection, reasons};

reasons! {
    /// Why a clock is not believed.
    ClockReason {
        /// adjtimex(2): STA_UNSYNC or TIME_ERROR.
        Unsynchronised = "clock.unsynchronised",
            "nobody keeps this machine's clock, so what it says of now is worth nothing",
            "run chrony or another keeper of time; where a hypervisor keeps the clock, say so: clock_sync = asserted";
        /// adjtimex(2): maxerror.
        ErrorTooLarge = "clock.error_too_large",
            "this machine's clock may be off by more than is allowed",
            "let what keeps the clock ask its sources more often, or see why it does not reach them";
        /// A seccomp filter, usually.
        Unreadable = "clock.unreadable",
            "the kernel does not say how far off its clock may be",
            "allow the system call adjtimex (systemd: no ProtectClock=), or say who keeps the clock";
    }
}

/// How far off a machine's wall clock may be, as whoever keeps it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockError {
    /// By at most this much, in either direction.
    Within {
        /// Milliseconds.
        error_ms: u64,
    },
    /// By more than is allowed.
    TooLarge {
        /// Milliseconds.
        error_ms: u64,
        /// What is allowed.
        max_ms: u64,
    },
    /// Nobody keeps it.
    Unsynchronised,
    /// Nobody knows.
    Unreadable {
        /// Why the kernel did not answer.
        errno: i32,
    },
}

impl ClockError {
    /// Not at all: for simulated clocks, and where the error is somebody else's.
    pub const NONE: Self = Self::Within { error_ms: 0 };

    /// The error of a clock that may be used, milliseconds.
    ///
    /// # Errors
    /// A [`ClockReason`] where it may not.
    pub fn bounded(self) -> Result<u64, Rejection> {
        let demand = "a clock that is kept, and an error that is known";
        match self {
            Self::Within { error_ms } => Ok(error_ms),
            Self::TooLarge { error_ms, max_ms } => {
                Err(ClockReason::ErrorTooLarge.because(format!("at most {max_ms} ms"), format!("{error_ms} ms")))
            }
            Self::Unsynchronised => Err(ClockReason::Unsynchronised.because(demand, "an unsynchronised clock")),
            Self::Unreadable { errno } => Err(ClockReason::Unreadable.because(demand, format!("errno {errno}"))),
        }
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z, without leap seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The moment `milliseconds` later; saturates at the end of time, which is later than any expiry we sign.
    #[must_use]
    pub const fn plus(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// Milliseconds from `earlier` to this moment; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole seconds, rounded down, as X.509 and JWT write them.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// The moment of a whole number of seconds, as X.509 and JWT write it; `None` before 1970.
    #[must_use]
    pub fn from_seconds(seconds: i64) -> Option<Self> {
        u64::try_from(seconds).ok().and_then(|seconds| seconds.checked_mul(1000)).map(Self)
    }
}

/// The moment that something is judged at, and the grace it is judged with. A bare [`UnixMillis`] is one without grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgedAt {
    /// Now.
    pub now: UnixMillis,
    /// How long after its nextUpdate a revocation list, TCB info or enclave identity still counts, milliseconds: what
    /// an operator states for the time that a vendor does not answer. Certificates never get any.
    pub grace_ms: u64,
}

impl From<UnixMillis> for JudgedAt {
    fn from(now: UnixMillis) -> Self {
        Self { now, grace_ms: 0 }
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0 % 1000;
        let days = self.seconds() / 86_400;
        let second_of_day = self.seconds() % 86_400;
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// The proleptic Gregorian date of a day number counted from 1970-01-01 (Hinnant, `civil_from_days`).
#[expect(clippy::arithmetic_side_effects, reason = "days is at most 2^64 / 86,400,000: no step comes near the limit")]
const fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::ClockError;
    use alloc::string::ToString;

    use super::UnixMillis;

    #[test]
    fn displays_as_rfc_3339() {
        assert_eq!(UnixMillis(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(UnixMillis(951_782_400_123).to_string(), "2000-02-29T00:00:00.123Z");
        assert_eq!(UnixMillis(1_795_408_496_007).to_string(), "2026-11-23T04:34:56.007Z");
    }

    #[test]
    fn only_a_clock_that_is_kept_has_an_error_to_count_with() {
        assert_eq!(ClockError::Within { error_ms: 7 }.bounded(), Ok(7));
        let code = |error: ClockError| error.bounded().unwrap_err().code();
        assert_eq!(code(ClockError::TooLarge { error_ms: 8, max_ms: 7 }), "clock.error_too_large");
        assert_eq!(code(ClockError::Unsynchronised), "clock.unsynchronised");
        assert_eq!(code(ClockError::Unreadable { errno: 1 }), "clock.unreadable");
    }
}
