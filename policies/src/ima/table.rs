//! Paths and the digests they may have, laid out for one look-up per measurement: open addressing over keys hashed once
//! at load. The keys are the operator's, so what a host asks for cannot make a look-up long.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

use countersign_attestation::evidence::ima::{DigestKind, FileDigest, HashAlgorithm};

/// A digest that a file may have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listed {
    pub(super) kind: DigestKind,
    pub(super) algorithm: HashAlgorithm,
    pub(super) digest: Vec<u8>,
}

impl Listed {
    fn is(&self, digest: &FileDigest<'_>) -> bool {
        self.digest == digest.digest && self.algorithm == digest.algorithm && self.kind == digest.kind
    }
}

/// What the table knows of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// With this digest.
    Listed,
    /// With other digests.
    OtherDigests,
    /// Not at all.
    Unknown,
}

#[derive(Clone, Debug, Default)]
struct Row {
    name: Range<usize>,
    digests: Range<usize>,
}

/// A fixed map.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    names: Vec<u8>,
    digests: Vec<Listed>,
    rows: Vec<Row>,
    /// By hash: high half of the hash, and row number plus one; zero is free. A power of two, at least twice the rows.
    slots: Vec<(u32, u32)>,
    /// Most slashes in a name that ends with one.
    directory_depth: usize,
}

impl Table {
    /// The table of these names. `None`: more than 2^31 of them.
    pub(super) fn new(listed: BTreeMap<Vec<u8>, Vec<Listed>>) -> Option<Self> {
        let capacity = listed.len().checked_mul(2)?.max(2).checked_next_power_of_two()?;
        let mut table = Self { slots: alloc::vec![(0, 0); capacity], ..Self::default() };
        for (name, mut digests) in listed {
            digests.sort();
            digests.dedup();
            if name.last() == Some(&b'/') {
                let slashes = name.iter().filter(|byte| **byte == b'/').count();
                table.directory_depth = table.directory_depth.max(slashes);
            }
            let (hash, start, first) = (hash(&name), table.names.len(), table.digests.len());
            table.names.extend_from_slice(&name);
            table.digests.append(&mut digests);
            table.rows.push(Row { name: start..table.names.len(), digests: first..table.digests.len() });
            let number = u32::try_from(table.rows.len()).ok()?;
            let free = probe(hash, capacity).find(|at| matches!(table.slots.get(*at), Some((_, 0))))?;
            *table.slots.get_mut(free)? = (tag(hash), number);
        }
        Some(table)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn row(&self, name: &[u8]) -> Option<&Row> {
        let hash = hash(name);
        for at in probe(hash, self.slots.len()) {
            let (found, number) = *self.slots.get(at)?;
            let index = usize::try_from(number).ok()?.checked_sub(1)?;
            if found == tag(hash) {
                let row = self.rows.get(index)?;
                if self.names.get(row.name.clone())? == name {
                    return Some(row);
                }
            }
        }
        None
    }

    fn lists(&self, row: &Row, digest: &FileDigest<'_>) -> bool {
        self.digests.get(row.digests.clone()).unwrap_or_default().iter().any(|listed| listed.is(digest))
    }

    /// Looks a name up: itself, then the directories above it.
    pub(super) fn look_up(&self, name: &[u8], digest: &FileDigest<'_>) -> Known {
        let mut known = Known::Unknown;
        if let Some(row) = self.row(name) {
            if self.lists(row, digest) {
                return Known::Listed;
            }
            known = Known::OtherDigests;
        }
        let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').take(self.directory_depth);
        for (at, _) in slashes {
            let directory = name.get(..=at).unwrap_or_default();
            if self.row(directory).is_some_and(|row| self.lists(row, digest)) {
                return Known::Listed;
            }
        }
        known
    }
}

fn tag(hash: u64) -> u32 {
    u32::try_from(hash >> 32).unwrap_or_default()
}

/// Slots to look at, one after the other.
fn probe(hash: u64, capacity: usize) -> impl Iterator<Item = usize> {
    let mask = capacity.wrapping_sub(1);
    let low = usize::try_from(hash & 0xffff_ffff).unwrap_or_default();
    (0..capacity).map(move |step| low.wrapping_add(step) & mask)
}

/// Multiplies and folds eight bytes at a time.
fn hash(name: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |state: u64, word: u64| {
        let product = (state ^ word).wrapping_mul(FACTOR);
        product ^ (product >> 29)
    };
    let (words, rest) = name.as_chunks::<8>();
    let state = words.iter().fold(FACTOR, |state, word| mix(state, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let length = u64::try_from(name.len()).unwrap_or_default();
    let state = mix(mix(state, u64::from_le_bytes(last)), length);
    state ^ (state >> 32)
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::format;
    use alloc::vec;
    use alloc::vec::Vec;

    use countersign_attestation::evidence::ima::{DigestKind, FileDigest, HashAlgorithm};

    use super::{Known, Listed, Table};

    fn listed(byte: u8) -> Listed {
        Listed { kind: DigestKind::File, algorithm: HashAlgorithm::Sha256, digest: vec![byte; 32] }
    }

    #[test]
    fn every_name_is_found_and_no_other() {
        let names = |from: u32| (from..from + 5000).map(|n| format!("/usr/lib/x86_64/{n}/lib{n}.so").into_bytes());
        let table: BTreeMap<Vec<u8>, Vec<Listed>> = names(0).map(|name| (name, vec![listed(7)])).collect();
        let table = Table::new(table).unwrap();
        let seven = FileDigest { kind: DigestKind::File, algorithm: HashAlgorithm::Sha256, digest: &[7; 32] };
        for name in names(0) {
            assert_eq!(table.look_up(&name, &seven), Known::Listed);
            assert_eq!(table.look_up(&name, &FileDigest { digest: &[8; 32], ..seven }), Known::OtherDigests);
            let sm3 = FileDigest { algorithm: HashAlgorithm::Sm3, ..seven };
            assert_eq!(table.look_up(&name, &sm3), Known::OtherDigests, "same bytes, another hash");
            let verity = FileDigest { kind: DigestKind::Verity, ..seven };
            assert_eq!(table.look_up(&name, &verity), Known::OtherDigests, "same bytes, of something else");
        }
        for name in names(5000) {
            assert_eq!(table.look_up(&name, &seven), Known::Unknown);
        }
        assert_eq!(table.look_up(b"", &seven), Known::Unknown);
        assert_eq!(Table::new(BTreeMap::new()).unwrap().look_up(b"/a", &seven), Known::Unknown);
    }

    #[test]
    fn a_directory_lists_its_digests_for_every_file_below_it_only() {
        let rows = BTreeMap::from([
            (b"/opt/engine/".to_vec(), vec![listed(1), listed(2)]),
            (b"/opt/engine/run".to_vec(), vec![listed(3)]),
        ]);
        let table = Table::new(rows).unwrap();
        let look_up = |name: &[u8], byte: u8| {
            let digest = [byte; 32];
            let digest = FileDigest { kind: DigestKind::File, algorithm: HashAlgorithm::Sha256, digest: &digest };
            table.look_up(name, &digest)
        };
        assert_eq!(look_up(b"/opt/engine/a/b/c", 2), Known::Listed);
        assert_eq!(look_up(b"/opt/engine/run", 1), Known::Listed);
        assert_eq!(look_up(b"/opt/engine/run", 3), Known::Listed);
        assert_eq!(look_up(b"/opt/engine/run", 4), Known::OtherDigests);
        assert_eq!(look_up(b"/opt/engine/walk", 3), Known::Unknown, "a file's digest is not its directory's");
        assert_eq!(look_up(b"/opt/engines/a", 1), Known::Unknown);
        assert_eq!(look_up(b"/opt/engine", 1), Known::Unknown);
        assert_eq!(look_up(b"/srv/opt/engine/a", 1), Known::Unknown);
    }
}
