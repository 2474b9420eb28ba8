//! Paths and the digests they may have, laid out for one look-up per measurement: open addressing over keys hashed once
//! at load. The keys are the operator's, so what a host asks for cannot make a look-up long.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::ima::{DigestKind, FileDigest, HashAlgorithm};

/// A digest that a file may have, of SHA-1, SHA-256, SHA-384 or SHA-512.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listed {
    pub(super) kind: DigestKind,
    pub(super) algorithm: HashAlgorithm,
    pub(super) digest: Vec<u8>,
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

/// A fixed map. Each name lies beside its digests, so that a look-up touches one slot and one place more.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// For each name `u32 length of the name, u32 number of digests, (u8 kind and hash, digest)*, name`.
    rows: Vec<u8>,
    /// By hash: high half of the hash, and where the row begins plus one; zero is free. A power of two, at least twice
    /// as many as names.
    slots: Vec<(u32, u32)>,
    /// Most slashes in a name that ends with one.
    directory_depth: usize,
}

impl Table {
    /// The table of these names. `None`: more than fit into 4 GiB.
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
            let start = u32::try_from(table.rows.len()).ok()?.checked_add(1)?;
            table.rows.extend_from_slice(&u32::try_from(name.len()).ok()?.to_le_bytes());
            table.rows.extend_from_slice(&u32::try_from(digests.len()).ok()?.to_le_bytes());
            for listed in digests {
                let (mark, size) = mark(listed.kind, listed.algorithm);
                table.rows.push(mark);
                table.rows.extend_from_slice(listed.digest.get(..size)?);
            }
            table.rows.extend_from_slice(&name);
            let hash = hash(&name);
            let free = probe(hash, capacity).find(|at| matches!(table.slots.get(*at), Some((_, 0))))?;
            *table.slots.get_mut(free)? = (tag(hash), start);
        }
        Some(table)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The digests of a name, as they lie in its row.
    fn digests(&self, name: &[u8]) -> Option<Digests<'_>> {
        let hash = hash(name);
        for at in probe(hash, self.slots.len()) {
            let (found, start) = *self.slots.get(at)?;
            let start = usize::try_from(start.checked_sub(1)?).ok()?;
            if found != tag(hash) {
                continue;
            }
            let (length, rest) = self.rows.get(start..)?.split_first_chunk::<4>()?;
            if usize::try_from(u32::from_le_bytes(*length)).ok()? != name.len() {
                continue;
            }
            let (count, rest) = rest.split_first_chunk::<4>()?;
            let digests = Digests { count: u32::from_le_bytes(*count), rest };
            if digests.clone().past().starts_with(name) {
                return Some(digests);
            }
        }
        None
    }

    /// Looks a name up: itself, then the directories above it.
    pub(super) fn look_up(&self, name: &[u8], digest: &FileDigest<'_>) -> Known {
        let mut known = Known::Unknown;
        if let Some(mut digests) = self.digests(name) {
            if digests.any(|listed| listed.is(digest)) {
                return Known::Listed;
            }
            known = Known::OtherDigests;
        }
        let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').take(self.directory_depth);
        for (at, _) in slashes {
            let directory = name.get(..=at).unwrap_or_default();
            if self.digests(directory).is_some_and(|mut digests| digests.any(|listed| listed.is(digest))) {
                return Known::Listed;
            }
        }
        known
    }
}

/// The template hashes that listed files have in the commonest template (`ima-ng`): an entry whose extended hash is one
/// of these says exactly a listed name and digest. They are whole SHA-256 hashes, so that nothing else is compared.
#[derive(Clone, Debug, Default)]
pub(super) struct Templates {
    /// Zero is free. A power of two, at least twice as many as hashes.
    slots: Vec<Slot>,
}

/// A hash that lies in one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(32))]
struct Slot([u8; 32]);

const FREE: Slot = Slot([0; 32]);

impl Templates {
    /// Those of `listed`: files by path, not directories, and not what is admitted for its SHA-1 only.
    pub(super) fn new(listed: &BTreeMap<Vec<u8>, Vec<Listed>>) -> Option<Self> {
        let mut hashes = Vec::new();
        for (name, digests) in listed.iter().filter(|(name, _)| name.last() != Some(&b'/')) {
            hashes.extend(digests.iter().filter_map(|listed| template_hash(name, listed)));
        }
        let capacity = hashes.len().checked_mul(2)?.max(2).checked_next_power_of_two()?;
        let mut slots = alloc::vec![FREE; capacity];
        for hash in hashes {
            let place = probe(low(&hash), capacity).find(|at| slots.get(*at) == Some(&FREE));
            *slots.get_mut(place?)? = Slot(hash);
        }
        Some(Self { slots })
    }

    /// Whether `hash` is one of them.
    pub(super) fn contains(&self, hash: &[u8; 32]) -> bool {
        for at in probe(low(hash), self.slots.len()) {
            match self.slots.get(at) {
                Some(&FREE) => return false,
                Some(Slot(slot)) if slot == hash => return true,
                Some(_) => {}
                None => return false,
            }
        }
        false
    }
}

/// SHA-256 of `u32 length, algorithm:\0digest, u32 length, name\0` (IMA-templates.rst).
fn template_hash(name: &[u8], listed: &Listed) -> Option<[u8; 32]> {
    if listed.kind != DigestKind::File || listed.algorithm.bank().is_none() {
        return None;
    }
    let algorithm = listed.algorithm.name().as_bytes();
    let digest_length = algorithm.len().checked_add(listed.digest.len())?.checked_add(2)?;
    let digest_length = u32::try_from(digest_length).ok()?.to_le_bytes();
    let name_length = u32::try_from(name.len().checked_add(1)?).ok()?.to_le_bytes();
    let parts = [&digest_length[..], algorithm, b":\0", &listed.digest, &name_length, name, b"\0"];
    Some(Sha256Digest::of(&parts).0)
}

fn low(hash: &[u8; 32]) -> u64 {
    hash.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// A digest in its row.
struct Row<'a> {
    mark: u8,
    digest: &'a [u8],
}

impl Row<'_> {
    fn is(&self, digest: &FileDigest<'_>) -> bool {
        self.digest == digest.digest && self.mark == mark(digest.kind, digest.algorithm).0
    }
}

/// The digests of a row, one after the other.
#[derive(Clone)]
struct Digests<'a> {
    count: u32,
    rest: &'a [u8],
}

impl<'a> Digests<'a> {
    /// What follows them: the name.
    fn past(mut self) -> &'a [u8] {
        while self.next().is_some() {}
        self.rest
    }
}

impl<'a> Iterator for Digests<'a> {
    type Item = Row<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        let (mark, rest) = self.rest.split_first()?;
        let (digest, rest) = rest.split_at_checked(size(*mark))?;
        self.rest = rest;
        Some(Row { mark: *mark, digest })
    }
}

/// Kind and hash in one byte, and the digest's size. What is never listed is zero.
const fn mark(kind: DigestKind, algorithm: HashAlgorithm) -> (u8, usize) {
    let (low, size) = match algorithm {
        HashAlgorithm::Sha1 => (1, 20),
        HashAlgorithm::Sha256 => (2, 32),
        HashAlgorithm::Sha384 => (3, 48),
        HashAlgorithm::Sha512 => (4, 64),
        HashAlgorithm::Md5 | HashAlgorithm::Sha224 | HashAlgorithm::Sm3 | HashAlgorithm::Other => return (0, 0),
    };
    match kind {
        DigestKind::File => (low, size),
        DigestKind::Verity => (low | 0x80, size),
    }
}

const fn size(mark: u8) -> usize {
    match mark & 0x7f {
        1 => 20,
        2 => 32,
        3 => 48,
        4 => 64,
        _ => 0,
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

    use super::{Known, Listed, Sha256Digest, Table, Templates};

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
    fn template_hashes_are_of_listed_files_alone() {
        let verity = Listed { kind: DigestKind::Verity, ..listed(2) };
        let sha1 = Listed { algorithm: HashAlgorithm::Sha1, digest: vec![3; 20], ..listed(3) };
        let rows = BTreeMap::from([
            (b"/a".to_vec(), vec![listed(1), verity, sha1]),
            (b"/directory/".to_vec(), vec![listed(1)]),
        ]);
        let templates = Templates::new(&rows).unwrap();
        // `40 "sha256:" 0 digest 3 "/a" 0`.
        let hash = |byte: u8, name: &[u8]| {
            let length = u8::try_from(name.len() + 1).unwrap();
            let parts = [&[40, 0, 0, 0][..], b"sha256:\0", &[byte; 32], &[length, 0, 0, 0], name, b"\0"];
            Sha256Digest::of(&parts).0
        };
        assert!(templates.contains(&hash(1, b"/a")));
        for other in [hash(2, b"/a"), hash(1, b"/b"), hash(1, b"/directory/"), [0; 32], [0xff; 32]] {
            assert!(!templates.contains(&other));
        }
        assert_eq!(templates.slots.iter().filter(|slot| **slot != super::FREE).count(), 1);
        assert!(!Templates::new(&BTreeMap::new()).unwrap().contains(&[0; 32]));
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
