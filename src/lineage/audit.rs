//! Offline check of a log directory: what the log published, what its decisions were durable in, and whether both tell
//! one story. It reads only, and may run while a broker appends: the checkpoint is read first, and everything it covers
//! was there before it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use countersign_attestation::Rejection;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::checkpoint::{Checkpoint, NoteKey};
use countersign_attestation::lineage::entry::{Entry, Event};
use countersign_attestation::lineage::history::History;
use countersign_attestation::lineage::tile::{Tile, TileBuilder, TileBytes, TileKind, WIDTH, decode_bundle};
use countersign_attestation::lineage::tree::{TreeHead, leaf_hash};

use crate::lineage::LineageError;
use crate::lineage::segment::{is_torn_tail, scan, segment_paths};

/// What a whole log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The published head: everything below it is covered by the log's signature.
    pub head: TreeHead,
    /// Entries in the segments that no checkpoint covers yet.
    pub uncovered: u64,
    /// Entries by event, covered or not.
    pub events: BTreeMap<Event, u64>,
    /// Hosts with entries.
    pub hosts: usize,
    /// Grants and lapses that came too late and changed nothing.
    pub superseded: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "whole: {} entries, root {}, signature verified", self.head.size, self.head.root)?;
        let events: Vec<_> = self.events.iter().map(|(event, count)| format!("{count} {event}")).collect();
        writeln!(f, "{} hosts; {}", self.hosts, events.join(", "))?;
        write!(f, "{} entries not under a checkpoint yet; {} superseded", self.uncovered, self.superseded)
    }
}

/// The entries in a log's segments as they are now, whether a broker is appending or not.
///
/// # Errors
/// [`LineageError`] for unreadable files. Damage ends the reading: [`audit`] says whether it is damage.
pub fn entries(dir: &Path) -> Result<Vec<Vec<u8>>, LineageError> {
    let mut entries = Vec::new();
    for path in segment_paths(dir)? {
        let content = fs::read(&path).map_err(LineageError::file(&path))?;
        let first = entries.len() as u64;
        let scanned = scan(&content, first, |_, _, bytes| {
            entries.push(bytes);
            Ok(())
        });
        if scanned.is_err() {
            break;
        }
    }
    Ok(entries)
}

/// The first thing that is wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The verifier key or a checkpoint is refused.
    #[error(transparent)]
    Checkpoint(#[from] Rejection),
    /// A bundle of entries is refused.
    #[error("{path}: {rejection}")]
    Bundle {
        /// Which.
        path: PathBuf,
        /// Why.
        rejection: Rejection,
    },
    /// An entry does not decode, or contradicts its host's entries before it.
    #[error("entry {index}: {rejection}")]
    Entry {
        /// Which.
        index: u64,
        /// Why.
        rejection: Rejection,
    },
    /// A tile of hashes is not what the entries amount to.
    #[error("{path}: the tile does not hold the hashes of the entries")]
    Tile {
        /// Which.
        path: PathBuf,
    },
    /// The entries do not have the root that was signed.
    #[error("the first {size} entries have the root {found}, and {expected} was signed")]
    Root {
        /// Entries.
        size: u64,
        /// The signed root.
        expected: Sha256Digest,
        /// Their root.
        found: Sha256Digest,
    },
    /// The older checkpoint covers more than the published one: the log was cut.
    #[error("an older checkpoint covers {older} entries, the published one {published}")]
    Shrunk {
        /// Entries of the older checkpoint.
        older: u64,
        /// Entries of the published one.
        published: u64,
    },
    /// An entry in the segments is not the published one.
    #[error("entry {index}: the segments and the published copy differ")]
    Differs {
        /// Which.
        index: u64,
    },
    /// The segments end before the published entries do, or within.
    #[error("the segments hold {found} entries, {published} were published")]
    Short {
        /// Entries in the segments.
        found: u64,
        /// Published entries.
        published: u64,
    },
    /// The segments cannot be read to their end.
    #[error(transparent)]
    Segments(LineageError),
}

impl Fault {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    /// The entry that is wrong, where it is one.
    #[must_use]
    pub const fn index(&self) -> Option<u64> {
        match self {
            Self::Entry { index, .. } | Self::Differs { index } => Some(*index),
            Self::Segments(LineageError::Damaged { index, .. }) => Some(*index),
            Self::Short { found, .. } => Some(*found),
            Self::File { .. }
            | Self::Checkpoint(_)
            | Self::Bundle { .. }
            | Self::Tile { .. }
            | Self::Root { .. }
            | Self::Shrunk { .. }
            | Self::Segments(_) => None,
        }
    }
}

/// Checks the log in `dir` against its verifier key, and against an older checkpoint of it if there is one.
///
/// # Errors
/// The first [`Fault`].
pub fn audit(dir: &Path, vkey: &str, older: Option<&str>) -> Result<Report, Fault> {
    let key = NoteKey::parse(vkey)?;
    let path = dir.join("checkpoint");
    let note = fs::read_to_string(&path).map_err(Fault::file(&path))?;
    let head = Checkpoint::verify(&note, &key, key.name())?.head();
    let older = match older {
        Some(note) => Some(Checkpoint::verify(note, &key, key.name())?.head()),
        None => None,
    };
    if let Some(older) = older.filter(|older| head.size < older.size) {
        return Err(Fault::Shrunk { older: older.size, published: head.size });
    }
    let mut reading = Reading { dir, head, older, tally: Tally::default(), leaves: Vec::new() };
    reading.published()?;
    let uncovered = reading.segments()?;
    let Tally { events, history } = reading.tally;
    Ok(Report { head, uncovered, events, hosts: history.hosts(), superseded: history.superseded() })
}

#[derive(Default)]
struct Tally {
    events: BTreeMap<Event, u64>,
    history: History,
}

impl Tally {
    fn add(&mut self, index: u64, bytes: &[u8]) -> Result<(), Rejection> {
        let entry = Entry::decode(bytes)?;
        self.history.add(index, &entry)?;
        let count = self.events.entry(entry.event()).or_default();
        *count = count.saturating_add(1);
        Ok(())
    }
}

struct Reading<'a> {
    dir: &'a Path,
    head: TreeHead,
    older: Option<TreeHead>,
    tally: Tally,
    leaves: Vec<Sha256Digest>,
}

impl Reading<'_> {
    /// The published copy, bundle by bundle, with the tiles that each fills.
    fn published(&mut self) -> Result<(), Fault> {
        let mut tiles = TileBuilder::new();
        self.check_root(tiles.frontier().head())?;
        while tiles.frontier().size() < self.head.size {
            let done = tiles.frontier().size();
            let width = usize::try_from(self.head.size.saturating_sub(done)).unwrap_or(WIDTH).min(WIDTH);
            let Some(tile) = Tile::new(TileKind::Entries, done >> 8, width) else { break };
            let (path, bytes, found) = self.read(tile)?;
            let refused = |rejection| Fault::Bundle { path: path.clone(), rejection };
            for entry in decode_bundle(&bytes, found.width()).map_err(refused)?.into_iter().take(width) {
                let index = tiles.frontier().size();
                self.tally.add(index, entry).map_err(|rejection| Fault::Entry { index, rejection })?;
                let leaf = leaf_hash(entry);
                self.leaves.push(leaf);
                for full in tiles.push(entry, leaf).map_err(refused)? {
                    self.check_tile(&full)?;
                }
                self.check_root(tiles.frontier().head())?;
            }
        }
        tiles.partial().iter().try_for_each(|partial| self.check_tile(partial))
    }

    fn check_root(&self, found: TreeHead) -> Result<(), Fault> {
        for signed in [Some(self.head), self.older].into_iter().flatten() {
            if signed.size == found.size && signed.root != found.root {
                return Err(Fault::Root { size: found.size, expected: signed.root, found: found.root });
            }
        }
        Ok(())
    }

    /// The bundles were read already; what they hold is in the root.
    fn check_tile(&self, (tile, expected): &TileBytes) -> Result<(), Fault> {
        if tile.kind() == TileKind::Entries {
            return Ok(());
        }
        let (path, bytes, found) = self.read(*tile)?;
        let whole = bytes.len() == found.width().saturating_mul(expected.len()) / tile.width();
        if !whole || !bytes.starts_with(expected) {
            return Err(Fault::Tile { path });
        }
        Ok(())
    }

    /// A tile, or the full one that has replaced it meanwhile (C2SP tlog-tiles, partial tiles).
    fn read(&self, tile: Tile) -> Result<(PathBuf, Vec<u8>, Tile), Fault> {
        let path = self.dir.join(tile.path());
        let error = match fs::read(&path) {
            Ok(bytes) => return Ok((path, bytes, tile)),
            Err(error) => error,
        };
        let full = Tile::new(tile.kind(), tile.index(), WIDTH).filter(|_| error.kind() == io::ErrorKind::NotFound);
        let found = full.and_then(|full| Some((full, fs::read(self.dir.join(full.path())).ok()?)));
        match found {
            Some((full, bytes)) => Ok((self.dir.join(full.path()), bytes, full)),
            None => Err(Fault::file(&path)(error)),
        }
    }

    /// The segments: the same entries, and how many more.
    fn segments(&mut self) -> Result<u64, Fault> {
        let paths = segment_paths(self.dir).map_err(Fault::Segments)?;
        let published = self.head.size;
        let mut next = 0;
        for (number, path) in paths.iter().enumerate() {
            let content = fs::read(path).map_err(Fault::file(path))?;
            let mut fault = None;
            let scanned = scan(&content, next, |index, _, bytes| {
                self.compare(index, &bytes).map_err(|found| {
                    fault = Some(found);
                    LineageError::Damaged { path: path.clone(), index }
                })
            });
            if let Some(fault) = fault {
                return Err(fault);
            }
            let last = number.saturating_add(1) == paths.len();
            let (index, offset, damaged) = match scanned {
                Ok((index, offset)) => (index, offset, false),
                Err((index, offset, _)) => (index, offset, true),
            };
            let left = content.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
            // Behind the published entries at the very end, a broker may be writing right now: at most one batch, and
            // no whole entry of a later one.
            let writing = last && published <= index && is_torn_tail(left, index);
            if (damaged || left.iter().any(|byte| *byte != 0)) && !writing {
                return Err(Fault::Segments(LineageError::Damaged { path: path.clone(), index }));
            }
            next = index;
        }
        if next < published {
            return Err(Fault::Short { found: next, published });
        }
        Ok(next.saturating_sub(published))
    }

    fn compare(&mut self, index: u64, bytes: &[u8]) -> Result<(), Fault> {
        match usize::try_from(index).ok().and_then(|index| self.leaves.get(index)) {
            Some(leaf) if *leaf == leaf_hash(bytes) => Ok(()),
            Some(_) => Err(Fault::Differs { index }),
            None => self.tally.add(index, bytes).map_err(|rejection| Fault::Entry { index, rejection }),
        }
    }
}
