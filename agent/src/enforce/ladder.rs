//! What happens to a workload when trust ends, one rung after the other, until trust comes back. No I/O.
//!
//! Taking the credential and its key away is no rung: that happens at once, whatever is configured.

use core::fmt;
use core::str::FromStr;

use crate::config::duration;

/// One rung, in order of severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Say so, in log and events.
    Warn,
    /// Run the operator's hook, which tells the workload to finish.
    Drain,
    /// Stop every process; they go on when trust comes back.
    Freeze,
    /// End every process.
    Kill,
}

impl Verb {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Warn, "warn"), (Self::Drain, "drain"), (Self::Freeze, "freeze"), (Self::Kill, "kill")];
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(verb, _)| verb == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// A verb, and how long it may take until the next one comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rung {
    verb: Verb,
    deadline_ms: u64,
}

/// Why a ladder cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not one or more of warn, drain, freeze and kill, in this order, each with a deadline, as in \
     warn:5s,drain:10s,freeze:2s,kill:1s (the credential and its key are taken away at once in any case)"
)]
pub struct NoLadder(String);

/// Rungs of growing severity; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder(Vec<Rung>);

impl FromStr for Ladder {
    type Err = NoLadder;

    fn from_str(text: &str) -> Result<Self, NoLadder> {
        let rung = |text: &str| {
            let (name, deadline) = text.split_once(':')?;
            let (verb, _) = Verb::ALL.into_iter().find(|(_, known)| *known == name)?;
            let deadline_ms = u64::try_from(duration(deadline).ok()?.as_millis()).ok()?;
            Some(Rung { verb, deadline_ms })
        };
        let rungs: Option<Vec<_>> = text.split(',').map(rung).collect();
        let rungs = rungs.filter(|rungs| rungs.is_sorted_by(|one, next| one.verb < next.verb));
        rungs.map(Self).ok_or_else(|| NoLadder(text.to_owned()))
    }
}

impl Ladder {
    /// Freeze for `grace_ms`, then kill.
    #[must_use]
    pub fn freeze_then_kill(grace_ms: u64) -> Self {
        let rung = |verb, deadline_ms| Rung { verb, deadline_ms };
        Self(vec![rung(Verb::Freeze, grace_ms), rung(Verb::Kill, 1_000)])
    }

    /// Whether it ever stops anything.
    #[must_use]
    pub fn stops(&self) -> bool {
        self.0.iter().any(|rung| Verb::Freeze <= rung.verb)
    }

    /// Whether a rung runs the hook.
    #[must_use]
    pub fn drains(&self) -> bool {
        self.0.iter().any(|rung| rung.verb == Verb::Drain)
    }
}

/// Where on the ladder a workload without trust is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Index of the rung.
    rung: usize,
    /// Boot clock milliseconds at which the next one comes.
    until_ms: u64,
}

/// The climb.
#[derive(Clone, Debug)]
pub struct Climb {
    ladder: Ladder,
    place: Option<Place>,
}

impl Climb {
    /// Below the first rung: trusted.
    #[must_use]
    pub const fn new(ladder: Ladder) -> Self {
        Self { ladder, place: None }
    }

    /// Trust ended: the first verb. Once is enough.
    pub fn lost(&mut self, now_ms: u64) -> Option<Verb> {
        if self.place.is_some() { None } else { self.step_to(0, now_ms) }
    }

    /// Time passed: the next verb, when the present one's deadline is over.
    pub fn tick(&mut self, now_ms: u64) -> Option<Verb> {
        let place = self.place.filter(|place| place.until_ms <= now_ms)?;
        self.step_to(place.rung.saturating_add(1), now_ms)
    }

    /// The present verb, if it is `verb`, has done what it can: the next one.
    pub fn done(&mut self, verb: Verb, now_ms: u64) -> Option<Verb> {
        let place = self.place.filter(|_| self.verb() == Some(verb))?;
        self.step_to(place.rung.saturating_add(1), now_ms)
    }

    /// Trust came back: whether there was a climb.
    pub fn regained(&mut self) -> bool {
        self.place.take().is_some()
    }

    /// The present verb; `None` with trust.
    #[must_use]
    pub fn verb(&self) -> Option<Verb> {
        let place = self.place?;
        self.ladder.0.get(place.rung).map(|rung| rung.verb)
    }

    /// The ladder.
    #[must_use]
    pub const fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// The last rung is never left but by trust.
    fn step_to(&mut self, rung: usize, now_ms: u64) -> Option<Verb> {
        let next = *self.ladder.0.get(rung)?;
        self.place = Some(Place { rung, until_ms: now_ms.saturating_add(next.deadline_ms) });
        Some(next.verb)
    }
}

#[cfg(test)]
mod tests {
    use super::{Climb, Ladder, Verb};

    fn climb(ladder: &str) -> Climb {
        Climb::new(ladder.parse().unwrap())
    }

    #[test]
    fn every_rung_has_its_time_and_the_last_one_stays() {
        let mut climb = climb("warn:100ms,drain:10s,freeze:2s,kill:1s");
        assert_eq!((climb.tick(0), climb.verb()), (None, None));
        assert_eq!(climb.lost(1_000), Some(Verb::Warn));
        assert_eq!(climb.lost(1_050), None, "lost once");
        assert_eq!((climb.tick(1_099), climb.tick(1_100)), (None, Some(Verb::Drain)));
        assert_eq!((climb.tick(11_099), climb.tick(11_100)), (None, Some(Verb::Freeze)));
        assert_eq!((climb.tick(13_099), climb.tick(13_100)), (None, Some(Verb::Kill)));
        assert_eq!((climb.tick(99_999), climb.verb()), (None, Some(Verb::Kill)));
    }

    #[test]
    fn a_verb_that_is_done_makes_way_and_trust_starts_over() {
        let mut climb = climb("drain:10s,freeze:2s,kill:1s");
        assert_eq!(climb.lost(0), Some(Verb::Drain));
        assert_eq!(climb.done(Verb::Freeze, 1), None, "not its turn");
        assert_eq!(climb.done(Verb::Drain, 5), Some(Verb::Freeze));
        assert_eq!((climb.tick(2_004), climb.verb()), (None, Some(Verb::Freeze)));
        assert!(climb.regained() && !climb.regained());
        assert_eq!((climb.tick(9_999), climb.done(Verb::Freeze, 9_999)), (None, None));
        assert_eq!(climb.lost(10_000), Some(Verb::Drain));
    }

    #[test]
    fn ladders_grow_in_severity_and_say_how_long() {
        for bad in
            ["", "kill", "kill:", "kill:0s", "kill:1s,freeze:1s", "kill:1s,kill:1s", "deny:1s", "warn:1s,", "Warn:1s"]
        {
            assert!(bad.parse::<Ladder>().is_err(), "{bad}");
        }
        assert!(!"warn:1s,drain:1s".parse::<Ladder>().unwrap().stops());
        assert!("freeze:1s".parse::<Ladder>().unwrap().stops());
        assert!("drain:1s,kill:1s".parse::<Ladder>().unwrap().drains());
        assert_eq!(Ladder::freeze_then_kill(2_000), "freeze:2s,kill:1s".parse().unwrap());
        assert_eq!(Verb::Freeze.to_string(), "freeze");
    }
}
