//! When each document is fetched next: early, spread by chance, again soon after a failure. Time and chance are
//! arguments.

use std::collections::BTreeMap;

use countersign_attestation::UnixMillis;
use serde::Serialize;

use crate::collateral::fetch::Wanted;
use crate::collateral::settings::Reach;

/// What became of fetching one document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempts {
    /// When it is fetched next.
    pub next: UnixMillis,
    /// When it was last fetched.
    pub succeeded_at: Option<UnixMillis>,
    /// Since when every try failed.
    pub failing_since: Option<UnixMillis>,
    /// Why the last try failed, or was refused.
    pub error: Option<String>,
    #[serde(skip)]
    failures: u32,
}

/// Every document's attempts.
#[derive(Clone, Debug, Default)]
pub struct Schedule(BTreeMap<Wanted, Attempts>);

impl Schedule {
    /// Everything at once: what a source has may have changed while nobody asked.
    #[must_use]
    pub fn start(wanted: Vec<Wanted>, now: UnixMillis) -> Self {
        let due = Attempts { next: now, succeeded_at: None, failing_since: None, error: None, failures: 0 };
        Self(wanted.into_iter().map(|wanted| (wanted, due.clone())).collect())
    }

    /// What is due at `now`.
    #[must_use]
    pub fn due(&self, now: UnixMillis) -> Vec<Wanted> {
        self.0.iter().filter(|(_, attempts)| attempts.next <= now).map(|(wanted, _)| wanted.clone()).collect()
    }

    /// Everything.
    #[must_use]
    pub fn all(&self) -> Vec<Wanted> {
        self.0.keys().cloned().collect()
    }

    /// What became of everything.
    pub fn attempts(&self) -> impl Iterator<Item = (&Wanted, &Attempts)> {
        self.0.iter()
    }

    /// It was fetched, and is good until `next_update`. `chance` is uniform.
    pub fn succeeded(&mut self, wanted: &Wanted, reach: &Reach, next_update: UnixMillis, now: UnixMillis, chance: u16) {
        // Half of what is left leaves time for as many failures; a source that serves what ends soon is asked no more
        // often than one that fails.
        let half = next_update.since(now) / 2;
        let wait = early(reach.refresh_ms.min(half.max(reach.retry_ms)), chance);
        if let Some(attempts) = self.0.get_mut(wanted) {
            let next = now.plus(wait);
            *attempts = Attempts { next, succeeded_at: Some(now), failing_since: None, error: None, failures: 0 };
        }
    }

    /// It was not fetched, or what came was refused.
    pub fn failed(&mut self, wanted: &Wanted, reach: &Reach, error: String, now: UnixMillis, chance: u16) {
        if let Some(attempts) = self.0.get_mut(wanted) {
            let doubled = reach.retry_ms.saturating_mul(1_u64.checked_shl(attempts.failures).unwrap_or(u64::MAX));
            attempts.next = now.plus(early(reach.refresh_ms.min(doubled), chance));
            attempts.failures = attempts.failures.saturating_add(1);
            attempts.failing_since.get_or_insert(now);
            attempts.error = Some(error);
        }
    }
}

/// Up to a quarter earlier: brokers that started together do not ask together for ever.
fn early(wait: u64, chance: u16) -> u64 {
    let quarter = wait / 4;
    wait.saturating_sub(quarter.saturating_mul(u64::from(chance)) / u64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use countersign_attestation::UnixMillis;

    use super::Schedule;
    use crate::collateral::fetch::{Request, Wanted};
    use crate::collateral::settings::Reach;

    fn rig() -> (Schedule, Wanted, Reach) {
        let wanted = Wanted { source: "s".into(), request: Request::TpmCrl };
        let url = "http://s.example/".parse().unwrap();
        let reach = Reach { url, tls_roots: None, refresh_ms: 6400, retry_ms: 100 };
        (Schedule::start(vec![wanted.clone()], UnixMillis(1000)), wanted, reach)
    }

    fn next(schedule: &Schedule) -> u64 {
        schedule.attempts().next().unwrap().1.next.0
    }

    #[test]
    fn what_was_fetched_is_fetched_again_early_and_spread() {
        let (mut schedule, wanted, reach) = rig();
        assert_eq!(schedule.due(UnixMillis(999)), []);
        assert_eq!(schedule.due(UnixMillis(1000)), std::slice::from_ref(&wanted));
        let now = UnixMillis(1000);
        for (next_update, chance, expected) in [
            (1_000_000, 0, 7400),
            (1_000_000, u16::MAX, 5800),
            (1_000_000, u16::MAX / 2, 6601),
            // Half of what is left.
            (5000, 0, 3000),
            // Not more often than after a failure, however soon it ends or has ended.
            (1010, 0, 1100),
            (0, 0, 1100),
        ] {
            schedule.succeeded(&wanted, &reach, UnixMillis(next_update), now, chance);
            assert_eq!(next(&schedule), expected, "{next_update} {chance}");
        }
    }

    #[test]
    fn failures_are_tried_again_less_and_less_often() {
        let (mut schedule, wanted, reach) = rig();
        let mut now = UnixMillis(1000);
        let mut waits = Vec::new();
        for _ in 0..70 {
            schedule.failed(&wanted, &reach, "unreached".into(), now, 0);
            waits.push(next(&schedule) - now.0);
            now = UnixMillis(next(&schedule));
        }
        assert_eq!(waits[..8], [100, 200, 400, 800, 1600, 3200, 6400, 6400]);
        assert_eq!(waits.last(), Some(&6400));
        let attempts = schedule.attempts().next().unwrap().1;
        assert_eq!((attempts.failing_since, attempts.error.as_deref()), (Some(UnixMillis(1000)), Some("unreached")));
        schedule.succeeded(&wanted, &reach, UnixMillis(u64::MAX), now, 0);
        let attempts = schedule.attempts().next().unwrap().1;
        assert_eq!((attempts.failing_since, attempts.succeeded_at), (None, Some(now)));
        schedule.failed(&wanted, &reach, "unreached".into(), now, 0);
        assert_eq!(next(&schedule) - now.0, 100, "the first failure again");
    }
}
