//! Pauses between attempts that fail: each longer than the one before up to a limit, and never in step with those of
//! other hosts, all of which lost the same broker at the same moment.

/// The shortest pause is this part of the longest: a quarter.
const SPREAD_DIVISOR: u64 = 4;

/// How many attempts have failed in a row.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first_ms: u64,
    failures: u32,
}

impl Backoff {
    /// No attempt has failed. The pause after the first that does is at most `first_ms`; each is twice the last.
    #[must_use]
    pub const fn new(first_ms: u64) -> Self {
        Self { first_ms, failures: 0 }
    }

    /// The pause after another failure: at most `max_ms`, and where in its range a random number says.
    pub fn pause_ms(&mut self, max_ms: u64, random: u64) -> u64 {
        let doubled = self.first_ms.saturating_mul(1_u64.checked_shl(self.failures).unwrap_or(u64::MAX));
        self.failures = self.failures.saturating_add(1);
        let longest = doubled.min(max_ms);
        let shortest = longest / SPREAD_DIVISOR;
        let range = longest.saturating_sub(shortest).saturating_add(1);
        shortest.saturating_add(random.checked_rem(range).unwrap_or(0))
    }

    /// An attempt succeeded; whether one before it had failed.
    pub const fn succeeded(&mut self) -> bool {
        let had_failed = self.failures != 0;
        self.failures = 0;
        had_failed
    }
}

/// A random number; jitter needs no more than that it differs between hosts.
#[must_use]
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => u64::from_be_bytes(bytes),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::Backoff;

    #[test]
    fn pauses_double_up_to_the_limit_and_spread_over_three_quarters() {
        let mut backoff = Backoff::new(250);
        for longest in [250, 500, 1000, 2000, 2000] {
            let (mut low, mut high) = (backoff, backoff);
            let range = longest - longest / 4 + 1;
            assert_eq!(low.pause_ms(2000, range), longest / 4);
            assert_eq!(high.pause_ms(2000, range - 1), longest);
            backoff.pause_ms(2000, 7);
        }
        for _ in 0..100 {
            assert!((500..=2000).contains(&backoff.pause_ms(2000, u64::MAX)));
        }
        assert!(backoff.succeeded() && !backoff.succeeded());
        assert!(backoff.pause_ms(2000, 12_345) <= 250);
    }
}
