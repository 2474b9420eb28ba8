//! The log's public copy: the static files of C2SP tlog-tiles. Files are written under another name and renamed, so
//! a reader sees whole ones only. None is synced but the checkpoint: every start compares all of them with the log and
//! writes what differs, so a copy that a crash left behind heals.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_attestation::lineage::tile::{Tile, TileBuilder, TileBytes};
use countersign_attestation::lineage::tree::{TreeHead, leaf_hash};

use crate::config::create_private_dir;
use crate::lineage::LineageError;
use crate::lineage::segment::Segments;

/// Builds and writes the copy.
#[derive(Debug)]
pub(super) struct Publisher {
    dir: PathBuf,
    tiles: TileBuilder,
    /// Full tiles that are not written yet.
    full: VecDeque<TileBytes>,
    published: Option<TreeHead>,
}

impl Publisher {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), tiles: TileBuilder::new(), full: VecDeque::new(), published: None }
    }

    /// Writes the copy of the log up to `head`; the checkpoint comes last, so everything it covers is there.
    pub(super) fn publish(
        &mut self,
        segments: &Segments,
        head: TreeHead,
        checkpoint: impl FnOnce() -> String,
    ) -> Result<(), LineageError> {
        if self.published == Some(head) {
            return Ok(());
        }
        self.write_full()?;
        segments.walk(self.tiles.frontier().size(), head.size, |index, bytes| {
            let full = self.tiles.push(bytes, leaf_hash(bytes));
            self.full.extend(full.map_err(|rejection| LineageError::Entry { index, rejection })?);
            self.write_full()
        })?;
        if self.tiles.frontier().head() != head {
            let found = self.tiles.frontier().head().root;
            return Err(LineageError::Rewritten { size: head.size, expected: head.root, found });
        }
        for (tile, bytes) in self.tiles.partial() {
            self.write(&tile.path(), &bytes, false)?;
        }
        self.write("checkpoint", checkpoint().as_bytes(), true)?;
        self.published = Some(head);
        Ok(())
    }

    fn write_full(&mut self) -> Result<(), LineageError> {
        while let Some((tile, bytes)) = self.full.front() {
            self.write_once(*tile, bytes)?;
            self.full.pop_front();
        }
        Ok(())
    }

    /// Full tiles never change; partial versions of them are of no more use.
    fn write_once(&self, tile: Tile, bytes: &[u8]) -> Result<(), LineageError> {
        let path = self.dir.join(tile.path());
        match fs::read(&path) {
            Ok(found) if found == bytes => {}
            Ok(_) => {
                tracing::warn!(path = %path.display(), "a published tile differs from the log and is written anew");
                self.write(&tile.path(), bytes, false)?;
            }
            Err(_) => self.write(&tile.path(), bytes, false)?,
        }
        let partial = self.dir.join(tile.partial_dir());
        match fs::remove_dir_all(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(LineageError::file(&partial)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn write(&self, path: &str, bytes: &[u8], sync: bool) -> Result<(), LineageError> {
        let path = self.dir.join(path);
        write_renamed(&path, bytes, sync)
    }
}

static WRITES: AtomicU64 = AtomicU64::new(0);

/// Writes a file's bytes under a name beside its own, not durably.
pub(super) fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<(PathBuf, File)> {
    // Two writers of one file do not meet, and a restart uses the names again.
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("new{number}"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    Ok((temporary, file))
}

/// Writes a file whole or not at all, and durably if asked.
pub(super) fn write_renamed(path: &Path, bytes: &[u8], sync: bool) -> Result<(), LineageError> {
    let dir = path.parent().unwrap_or(path);
    create_private_dir(dir)?;
    let write = || -> io::Result<()> {
        let (temporary, file) = write_beside(path, bytes)?;
        if sync {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if sync {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(LineageError::file(path))
}
