//! What pulses and leases need of every host there is, in memory whatever their number: where it stands, on which
//! revision, and until when. The rest of a host's record is in the store.

use std::hash::{BuildHasher as _, RandomState};

use countersign_attestation::UnixMillis;
use countersign_attestation::lineage::entry::HostRevision;
use countersign_attestation::protocol::HostId;
use hashbrown::HashTable;

use super::grounds::Numbered;
use super::leases::Leases;
use super::state::{HostTrust, Standing};

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The host.
    pub id: HostId,
    /// Where it stands.
    pub standing: Standing,
    /// Its generation.
    pub generation: u64,
    /// Counts its transitions.
    pub revision: u64,
    /// End of its lease, once there was a grant.
    pub lease_until: UnixMillis,
    /// Its newest entry in the log.
    pub last_entry: u64,
    /// The entry that led to this revision.
    pub since: u64,
}

impl Row {
    fn of(id: HostId, host: &HostTrust) -> Self {
        let HostTrust { standing, generation, revision, lease_until, last_entry, since, .. } = *host;
        Self { id, standing, generation, revision, lease_until, last_entry, since }
    }

    /// The host's place in the log, for the entry of the next decision on it.
    #[must_use]
    pub fn revision_of(&self) -> HostRevision {
        let Self { generation, revision, last_entry: parent, .. } = *self;
        HostRevision { host: self.id.clone(), generation, revision, parent }
    }

    fn lease(&self) -> Option<UnixMillis> {
        (self.standing == Standing::Trusted).then_some(self.lease_until)
    }
}

/// A host's place among the rows. Rows are never removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u32);

/// Every host that has an entry in the log.
#[derive(Clone, Debug, Default)]
pub struct Standings {
    rows: Vec<Row>,
    /// Slots by the hash of their host's id. Whoever names hosts does not know the hasher's key.
    slots: HashTable<Slot>,
    hasher: RandomState,
    leases: Leases,
    grounds: Numbered,
    /// How many hosts stand there, by standing.
    counts: [usize; Standing::ALL.len()],
}

impl Standings {
    /// One host's row.
    #[must_use]
    pub fn get(&self, id: &HostId) -> Option<&Row> {
        self.row(self.slot(id)?)
    }

    /// A row by its place.
    #[must_use]
    pub fn row(&self, slot: Slot) -> Option<&Row> {
        self.rows.get(usize::try_from(slot.0).ok()?)
    }

    /// All rows, in the order in which their hosts were first heard of.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    /// A host's place.
    #[must_use]
    pub fn slot(&self, id: &HostId) -> Option<Slot> {
        let named = |slot: &Slot| self.row(*slot).is_some_and(|row| row.id == *id);
        self.slots.find(self.hasher.hash_one(id), named).copied()
    }

    /// Takes over where a host's record stands.
    ///
    /// # Panics
    /// Beyond 2^32 hosts.
    #[expect(clippy::expect_used, reason = "four billion hosts do not fit into memory")]
    pub fn set(&mut self, id: &HostId, host: &HostTrust) {
        self.counted(host.standing, 1);
        let Some(slot) = self.slot(id) else {
            self.grounds.set(self.rows.len(), host.grounds.as_ref());
            let slot = Slot(u32::try_from(self.rows.len()).expect("fewer than 2^32 hosts"));
            let row = Row::of(id.clone(), host);
            if let Some(until) = row.lease() {
                self.leases.insert(until, slot);
            }
            self.rows.push(row);
            let (rows, hasher) = (&self.rows, &self.hasher);
            let hash = |slot: &Slot| {
                rows.get(usize::try_from(slot.0).unwrap_or(usize::MAX)).map_or(0, |row| hasher.hash_one(&row.id))
            };
            self.slots.insert_unique(self.hasher.hash_one(id), slot, hash);
            return;
        };
        let Some(row) = usize::try_from(slot.0).ok().and_then(|slot| self.rows.get_mut(slot)) else { return };
        self.grounds.set(usize::try_from(slot.0).unwrap_or(usize::MAX), host.grounds.as_ref());
        let (before, stood) = (row.lease(), row.standing);
        // One copy of each id, however many entries name it.
        *row = Row::of(row.id.clone(), host);
        let after = row.lease();
        if before != after {
            if let Some(until) = before {
                self.leases.remove(until, slot);
            }
            if let Some(until) = after {
                self.leases.insert(until, slot);
            }
        }
        self.counted(stood, -1);
    }

    pub(super) const fn grounds(&self) -> &Numbered {
        &self.grounds
    }

    fn counted(&mut self, standing: Standing, change: isize) {
        if let Some(count) = self.counts.get_mut(standing as usize) {
            *count = count.saturating_add_signed(change);
        }
    }

    /// Trusted hosts whose lease has ended at `now`, and those whose lease ends after `longest`.
    #[must_use]
    pub fn due(&self, now: UnixMillis, longest: UnixMillis) -> Vec<Slot> {
        self.leases.due(now, longest, |slot| self.row(slot).map(|row| row.lease_until))
    }

    /// How many hosts stand there.
    #[must_use]
    pub fn count(&self, standing: Standing) -> usize {
        self.counts.get(standing as usize).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use countersign_attestation::UnixMillis;
    use countersign_attestation::protocol::HostId;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{Row, Standings};
    use crate::trust::state::{HostTrust, Standing};

    #[test]
    fn a_row_takes_what_a_million_hosts_have_room_for() {
        assert_eq!(size_of::<Row>(), 64);
    }

    proptest! {
        /// Against a list that is searched from end to end.
        #[test]
        fn rows_and_due_hosts_are_those_of_a_plain_list(steps in proptest::collection::vec(any::<[u8; 3]>(), 0..300)) {
            let mut standings = Standings::default();
            let mut plain: Vec<(HostId, HostTrust)> = Vec::new();
            for [name, until, standing] in steps {
                let id = HostId::parse(&format!("host-{}", name % 40)).unwrap();
                let standing = if standing % 3 == 0 { Standing::Lapsed } else { Standing::Trusted };
                let host = HostTrust { standing, lease_until: UnixMillis(until.into()), ..HostTrust::new() };
                standings.set(&id, &host);
                match plain.iter_mut().find(|(known, _)| *known == id) {
                    Some((_, known)) => *known = host,
                    None => plain.push((id, host)),
                }
            }
            prop_assert_eq!(standings.rows().count(), plain.len());
            for (id, host) in &plain {
                prop_assert_eq!(standings.get(id), Some(&Row::of(id.clone(), host)));
            }
            prop_assert_eq!(standings.get(&HostId::parse("another").unwrap()), None);
            let ends = [(0, 255), (100, 200), (100, 104), (100, 100), (200, 100), (255, 255), (16, 31), (15, 32)];
            for (now, longest) in ends {
                let due = standings.due(UnixMillis(now), UnixMillis(longest)).into_iter();
                let mut due: Vec<HostId> = due.map(|slot| standings.row(slot).unwrap().id.clone()).collect();
                let ended = |host: &HostTrust| host.lease_until.0 <= now || longest < host.lease_until.0;
                let mut expected: Vec<HostId> = plain
                    .iter()
                    .filter(|(_, host)| host.standing == Standing::Trusted && ended(host))
                    .map(|(id, _)| id.clone())
                    .collect();
                due.sort();
                expected.sort();
                prop_assert_eq!(due, expected);
            }
            for standing in Standing::ALL {
                let there = plain.iter().filter(|(_, host)| host.standing == standing).count();
                prop_assert_eq!(standings.count(standing), there);
            }
        }
    }
}
