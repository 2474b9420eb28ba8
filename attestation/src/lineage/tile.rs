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
