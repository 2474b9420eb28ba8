//! Tiles (C2SP tlog-tiles): the tree's hashes and entries in files that never change once they are full.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::digest::Sha256Digest;
use crate::lineage::LineageReason;
use crate::lineage::tree::Frontier;
use crate::reader::Reader;
use crate::rejection::Rejection;

/// Hashes or entries in a full tile.
pub const WIDTH: usize = 256;
/// A tree of 2^64 leaves has eight levels of tiles.
const LEVELS: u8 = 8;

/// What a tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TileKind {
    /// Hashes at this level of tiles; level 0 are leaf hashes.
    Hashes(u8),
    /// Entries: a bundle.
    Entries,
}

/// Where a tile is, and how many hashes or entries it has: 1 to 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
    kind: TileKind,
    index: u64,
    width: u16,
}

impl Tile {
    /// A tile, if there can be such a tile.
    #[must_use]
    pub fn new(kind: TileKind, index: u64, width: usize) -> Option<Self> {
        let level = match kind {
            TileKind::Hashes(level) => level,
            TileKind::Entries => 0,
        };
        let fits = level < LEVELS && (1..=WIDTH).contains(&width);
        fits.then_some(())?;
        Some(Self { kind, index, width: u16::try_from(width).ok()? })
    }

    /// What it holds.
    #[must_use]
    pub const fn kind(self) -> TileKind {
        self.kind
    }

    /// Its number within its level.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.index
    }

    /// Hashes or entries in it.
    #[must_use]
    pub fn width(self) -> usize {
        usize::from(self.width)
    }

    /// Whether nothing can be added.
    #[must_use]
    pub fn is_full(self) -> bool {
        self.width() == WIDTH
    }

    /// The path of the full tile; partial tiles are in a folder beside it.
    #[must_use]
    pub fn full_path(self) -> String {
        let kind = match self.kind {
            TileKind::Hashes(level) => level.to_string(),
            TileKind::Entries => "entries".to_string(),
        };
        // Groups of three digits, all but the last with an x.
        let mut number = format!("{:03}", self.index % 1000);
        let mut rest = self.index / 1000;
        while rest != 0 {
            number = format!("x{:03}/{number}", rest % 1000);
            rest /= 1000;
        }
        format!("tile/{kind}/{number}")
    }

    /// The folder of the tile's partial versions.
    #[must_use]
    pub fn partial_dir(self) -> String {
        format!("{}.p", self.full_path())
    }

    /// The path below the log's prefix.
    #[must_use]
    pub fn path(self) -> String {
        if self.is_full() { self.full_path() } else { format!("{}/{}", self.partial_dir(), self.width) }
    }

    /// Reads a path. Exactly the paths that [`Tile::path`] writes, so no path leads anywhere else.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let kind = if kind == "entries" { TileKind::Entries } else { TileKind::Hashes(kind.parse().ok()?) };
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, width.parse().ok()?),
            None => (rest, WIDTH),
        };
        let mut index = 0_u64;
        for group in number.split('/') {
            let group: u64 = group.strip_prefix('x').unwrap_or(group).parse().ok()?;
            index = index.checked_mul(1000)?.checked_add(group)?;
        }
        Self::new(kind, index, width).filter(|tile| tile.path() == path)
    }
}

/// The bytes of a bundle: each entry after its length in 16 bits.
///
/// # Errors
/// [`LineageReason::BundleForm`] when an entry's length does not fit.
pub fn encode_bundle<B: AsRef<[u8]>>(entries: &[B]) -> Result<Vec<u8>, Rejection> {
    let mut bytes = Vec::new();
    for entry in entries {
        push_entry(&mut bytes, entry.as_ref())?;
    }
    Ok(bytes)
}

fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), Rejection> {
    let refused = |_| LineageReason::BundleForm.because(u16::MAX, entry.len());
    bundle.extend_from_slice(&u16::try_from(entry.len()).map_err(refused)?.to_be_bytes());
    bundle.extend_from_slice(entry);
    Ok(())
}

/// The entries of a bundle of `width`.
///
/// # Errors
/// [`LineageReason::BundleForm`] when it has more or fewer, or ends within one.
pub fn decode_bundle(bytes: &[u8], width: usize) -> Result<Vec<&[u8]>, Rejection> {
    let refused = |error| LineageReason::BundleForm.because(format!("{width} entries"), error);
    let mut reader = Reader::new(bytes);
    let mut entries = Vec::new();
    for _ in 0..width {
        let length = reader.u16_be().map_err(refused)?;
        entries.push(reader.bytes(usize::from(length)).map_err(refused)?);
    }
    reader.finish().map_err(refused)?;
    Ok(entries)
}

/// Builds the tiles of a growing tree. Nothing is written here: full tiles are handed out as they fill, partial ones
/// when asked for.
#[derive(Clone, Debug, Default)]
pub struct TileBuilder {
    frontier: Frontier,
    bundle: Vec<u8>,
    /// The hashes of the last, partial tile of each level.
    levels: Vec<Vec<Sha256Digest>>,
}

/// A tile with its content.
pub type TileBytes = (Tile, Vec<u8>);

impl TileBuilder {
    /// The tiles of the empty tree: none.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Size and root so far.
    #[must_use]
    pub const fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// Appends an entry and returns the tiles it filled.
    ///
    /// # Errors
    /// [`LineageReason::BundleForm`] for an entry that no bundle can hold; nothing has changed then.
    pub fn push(&mut self, entry: &[u8], leaf: Sha256Digest) -> Result<Vec<TileBytes>, Rejection> {
        push_entry(&mut self.bundle, entry)?;
        self.frontier.push(leaf);
        let mut full = Vec::new();
        let mut hash = leaf;
        for level in 0..LEVELS {
            if self.levels.len() <= usize::from(level) {
                self.levels.push(Vec::with_capacity(WIDTH));
            }
            let Some(hashes) = self.levels.get_mut(usize::from(level)) else { break };
            hashes.push(hash);
            if hashes.len() < WIDTH {
                break;
            }
            let mut subtree = Frontier::new();
            hashes.iter().for_each(|hash| subtree.push(*hash));
            hash = subtree.head().root;
            let bytes = concat(hashes);
            hashes.clear();
            let last = last_index(self.frontier.size(), level);
            full.extend(Tile::new(TileKind::Hashes(level), last, WIDTH).map(|tile| (tile, bytes)));
            if level == 0 {
                let bundle = core::mem::take(&mut self.bundle);
                full.extend(Tile::new(TileKind::Entries, last, WIDTH).map(|tile| (tile, bundle)));
            }
        }
        Ok(full)
    }

    /// The partial tiles at the right edge.
    #[must_use]
    pub fn partial(&self) -> Vec<TileBytes> {
        let mut tiles = Vec::new();
        for (level, hashes) in (0..LEVELS).zip(&self.levels) {
            let last = last_index(self.frontier.size(), level);
            tiles.extend(Tile::new(TileKind::Hashes(level), last, hashes.len()).map(|tile| (tile, concat(hashes))));
            if level == 0 {
                let tile = Tile::new(TileKind::Entries, last, hashes.len());
                tiles.extend(tile.map(|tile| (tile, self.bundle.clone())));
            }
        }
        tiles
    }
}

fn concat(hashes: &[Sha256Digest]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// The number of the tile at `level` that holds the last whole hash of a tree of `size` leaves.
fn last_index(size: u64, level: u8) -> u64 {
    let hashes = size.checked_shr(u32::from(level).saturating_mul(8)).unwrap_or(0);
    hashes.saturating_sub(1) >> 8
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::string::String;
    use alloc::vec;
    use alloc::vec::Vec;

    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{Tile, TileBuilder, TileKind, WIDTH, decode_bundle, encode_bundle};
    use crate::lineage::checkpoint::{Checkpoint, NoteKey};
    use crate::lineage::tree::leaf_hash;
    use crate::lineage::vectors;

    #[test]
    fn paths_are_those_of_the_specification() {
        let path = |kind, index, width| Tile::new(kind, index, width).unwrap().path();
        assert_eq!(path(TileKind::Hashes(0), 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(path(TileKind::Hashes(1), 0, 8), "tile/1/000.p/8");
        assert_eq!(path(TileKind::Entries, 273, 112), "tile/entries/273.p/112");
        assert_eq!(path(TileKind::Entries, 1000, 256), "tile/entries/x001/000");
        for width in [0, 257] {
            assert_eq!(Tile::new(TileKind::Entries, 0, width), None);
        }
        assert_eq!(Tile::new(TileKind::Hashes(8), 0, 1), None);
    }

    #[test]
    fn no_other_path_is_read() {
        let bad = [
            "tile/0/1",
            "tile/0/0000",
            "tile/0/x000/001",
            "tile/0/001/002",
            "tile/0/x001",
            "tile/00/001",
            "tile/8/000",
            "tile/entries/000.p/0",
            "tile/entries/000.p/256",
            "tile/entries/000.p/01",
            "tile/entries/000/",
            "tile/0/../1",
            "tile/entries/+00",
            "tile//000",
            "/tile/0/000",
            "tile/0/x+01/000",
            "checkpoint",
            "tile/entries/000.p/1/2",
        ];
        for path in bad {
            assert_eq!(Tile::parse(path), None, "{path}");
        }
    }

    #[test]
    fn bundles_have_exactly_their_entries() {
        let bytes = encode_bundle(&[&b"one"[..], b"", b"three"]).unwrap();
        assert_eq!(decode_bundle(&bytes, 3).unwrap(), [&b"one"[..], b"", b"three"]);
        for width in [2, 4] {
            assert_eq!(decode_bundle(&bytes, width).unwrap_err().code(), "lineage.bundle.form");
        }
        for cut in 0..bytes.len() {
            assert!(decode_bundle(&bytes[..cut], 3).is_err());
        }
        assert_eq!(encode_bundle(&[vec![0; 65_536]]).unwrap_err().code(), "lineage.bundle.form");
        let mut tiles = TileBuilder::new();
        assert!(tiles.push(&vec![0; 65_536], leaf_hash(b"")).is_err());
        assert_eq!(tiles.frontier().size(), 0);
    }

    #[test]
    fn upper_tiles_fill() {
        let mut tiles = TileBuilder::new();
        let mut full = Vec::new();
        for index in 0..65_536_u32 {
            let entry = index.to_be_bytes();
            full.extend(tiles.push(&entry, leaf_hash(&entry)).unwrap());
        }
        assert_eq!(full.len(), 256 + 256 + 1);
        assert_eq!(full.last().map(|(tile, bytes)| (tile.path(), bytes.len())), Some(("tile/1/000".into(), 8192)));
        let partial: Vec<_> = tiles.partial().iter().map(|(tile, _)| tile.path()).collect();
        assert_eq!(partial, ["tile/2/000.p/1"]);
        assert_eq!(tiles.partial()[0].1, tiles.frontier().head().root.0, "a perfect tree's root is its top hash");
    }

    #[test]
    fn a_log_written_elsewhere_has_the_same_tiles() {
        for (_, _, row) in vectors::of_kind("tlog-tiles") {
            let vkeys = vectors::text(&row, "vkeys");
            let key = NoteKey::parse(vkeys.lines().next().unwrap()).unwrap();
            let head = Checkpoint::verify(&vectors::text(&row, "note"), &key, key.name()).unwrap().head();
            let mut expected: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            let mut bundles = BTreeMap::new();
            for (name, path) in row["files"].as_object().unwrap() {
                let path = path.as_str().unwrap();
                let Some((_, below)) = path.split_once("/tile/") else { continue };
                let tile = Tile::parse(&alloc::format!("tile/{below}")).unwrap();
                let bytes = vectors::bytes(&row, name);
                expected.insert(tile.path(), bytes.clone());
                if tile.kind() == TileKind::Entries {
                    bundles.insert(tile.index(), (tile.width(), bytes));
                }
            }
            let mut tiles = TileBuilder::new();
            let mut built = BTreeMap::new();
            for (width, bundle) in bundles.values() {
                for entry in decode_bundle(bundle, *width).unwrap() {
                    built.extend(tiles.push(entry, leaf_hash(entry)).unwrap());
                }
            }
            built.extend(tiles.partial());
            let built: BTreeMap<_, _> = built.into_iter().map(|(tile, bytes)| (tile.path(), bytes)).collect();
            assert_eq!(built, expected);
            assert_eq!(tiles.frontier().head(), head);
        }
    }

    proptest! {
        #[test]
        fn parse_inverts_path(level in 0_u8..8, entries in any::<bool>(), index in any::<u64>(), width in 1..=WIDTH) {
            let kind = if entries { TileKind::Entries } else { TileKind::Hashes(level) };
            let tile = Tile::new(kind, index, width).unwrap();
            prop_assert_eq!(Tile::parse(&tile.path()), Some(tile));
        }
    }
}
