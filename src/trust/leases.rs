//! Which leases end when.

use std::collections::BTreeMap;

use countersign_attestation::UnixMillis;

use super::standings::Slot;

/// Leases that end within so many milliseconds are kept together: as few as are quickly searched, as many as take
/// little room.
const TOGETHER_MS: u64 = 16;

/// The trusted hosts by the end of their lease.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases(BTreeMap<u64, Vec<Slot>>);

impl Leases {
    pub(super) fn insert(&mut self, until: UnixMillis, slot: Slot) {
        self.0.entry(until.0 / TOGETHER_MS).or_default().push(slot);
    }

    pub(super) fn remove(&mut self, until: UnixMillis, slot: Slot) {
        let key = until.0 / TOGETHER_MS;
        let Some(together) = self.0.get_mut(&key) else { return };
        if let Some(at) = together.iter().position(|other| *other == slot) {
            together.swap_remove(at);
        }
        if together.is_empty() {
            self.0.remove(&key);
        }
    }

    /// Those that have ended at `now`, and those that end after `longest`. `until` tells when one ends: it is asked of
    /// those few that the order leaves open.
    pub(super) fn due(
        &self,
        now: UnixMillis,
        longest: UnixMillis,
        until: impl Fn(Slot) -> Option<UnixMillis>,
    ) -> Vec<Slot> {
        let longest = longest.max(now);
        let (low, high) = (now.0 / TOGETHER_MS, longest.0 / TOGETHER_MS);
        let mut due: Vec<Slot> = Vec::new();
        self.0.range(..low).for_each(|(_, together)| due.extend(together));
        for edge in std::iter::once(low).chain((low < high).then_some(high)) {
            let is_due = |slot: &Slot| until(*slot).is_none_or(|until| until <= now || longest < until);
            due.extend(self.0.get(&edge).into_iter().flatten().copied().filter(is_due));
        }
        self.0.range(high.saturating_add(1)..).for_each(|(_, together)| due.extend(together));
        due
    }
}
