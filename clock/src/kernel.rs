//! `adjtimex(2)`, reading only. The one call in this package that the compiler cannot check.

use countersign_attestation::time::ClockError;

/// What the kernel says of its clock.
#[expect(unsafe_code, reason = "libc and rustix have no safe adjtimex")]
pub(crate) fn error() -> ClockError {
    // SAFETY: a `timex` is integers alone, for which zeroes are values; `modes` 0 asks to read.
    let mut timex: libc::timex = unsafe { core::mem::zeroed() };
    // SAFETY: the pointer is to a `timex` of ours that outlives the call; with `modes` 0 nothing is changed.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return ClockError::Unreadable { errno: std::io::Error::last_os_error().raw_os_error().unwrap_or(0) };
    }
    judge(state, timex.status, timex.maxerror)
}

/// `TIME_ERROR` says that the clock is not synchronised, or that what keeps it failed; STA_UNSYNC says the first alone.
fn judge(state: i32, status: i32, maxerror_us: i64) -> ClockError {
    match u64::try_from(maxerror_us) {
        Ok(error_us) if state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0 => {
            ClockError::Within { error_ms: error_us.div_ceil(1_000) }
        }
        Ok(_) | Err(_) => ClockError::Unsynchronised,
    }
}

#[cfg(test)]
mod tests {
    use countersign_attestation::time::ClockError;

    use super::{error, judge};

    #[test]
    fn a_clock_that_nobody_keeps_is_not_synchronised() {
        assert_eq!(judge(0, 0, 1_001), ClockError::Within { error_ms: 2 });
        assert_eq!(judge(1, libc::STA_PLL, 0), ClockError::Within { error_ms: 0 });
        assert_eq!(judge(libc::TIME_ERROR, 0, 5), ClockError::Unsynchronised);
        assert_eq!(judge(0, libc::STA_UNSYNC | libc::STA_PLL, 5), ClockError::Unsynchronised);
        assert_eq!(judge(0, 0, -1), ClockError::Unsynchronised);
    }

    #[test]
    fn the_kernel_is_asked_and_nothing_is_changed() {
        // What it says depends on the machine, but twice in a row it says the same kind of thing.
        assert_eq!(core::mem::discriminant(&error()), core::mem::discriminant(&error()));
        assert_ne!(error(), ClockError::Unreadable { errno: libc::EINVAL }, "EPERM is a seccomp filter, EINVAL we are");
    }
}
