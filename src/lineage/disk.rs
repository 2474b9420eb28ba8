//! What the log is durable in: numbered files and their syncs, as any file system has them.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use crate::config::create_private_dir;
use crate::lineage::LineageError;
use crate::lineage::segment::{segment_path, segment_paths};

/// A disk with segments. What a file was told is durable when a sync of that file has returned, and not before.
pub trait Disk: Debug + Send + Sync {
    /// Bytes that a segment is preallocated with.
    fn segment_bytes(&self) -> u64;

    /// How many segments there are. They are numbered from 0.
    ///
    /// # Errors
    /// [`LineageError::Missing`] where there is a gap.
    fn count(&self) -> Result<u64, LineageError>;

    /// A new segment without content. Its name is durable once [`Disk::sync_names`] has returned.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn create(&self, number: u64) -> io::Result<Box<dyn SegmentFile>>;

    /// A segment that is there.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn open(&self, number: u64) -> io::Result<Box<dyn SegmentFile>>;

    /// Makes the names of new segments durable.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn sync_names(&self) -> io::Result<()>;
}

/// A segment's file.
pub trait SegmentFile: Debug + Send + Sync {
    /// Its size.
    ///
    /// # Errors
    /// Whatever the disk says; likewise below.
    fn size(&self) -> io::Result<u64>;

    /// Reads some bytes at `offset`; none at the end.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// Whatever the disk says. How much was written is then not known.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file, or adds zeros.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn set_size(&self, bytes: u64) -> io::Result<()>;

    /// Makes what was written durable, as long as the size has not changed.
    ///
    /// # Errors
    /// Whatever the disk says. What is durable is then not known.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes what was written and the size durable.
    ///
    /// # Errors
    /// As [`SegmentFile::sync_data`].
    fn sync_all(&self) -> io::Result<()>;
}

/// A directory of this machine.
#[derive(Debug)]
pub(super) struct Directory {
    dir: PathBuf,
    segment_bytes: u64,
}

impl Directory {
    /// The segments of the log in `dir`.
    pub(super) fn open(dir: PathBuf, segment_bytes: u64) -> Result<Self, LineageError> {
        create_private_dir(&dir.join("segments"))?;
        Ok(Self { dir, segment_bytes })
    }
}

impl Disk for Directory {
    fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    fn count(&self) -> Result<u64, LineageError> {
        Ok(segment_paths(&self.dir)?.len() as u64)
    }

    fn create(&self, number: u64) -> io::Result<Box<dyn SegmentFile>> {
        let path = segment_path(&self.dir, number);
        Ok(Box::new(OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?))
    }

    fn open(&self, number: u64) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(segment_path(&self.dir, number))?))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(self.dir.join("segments"))?.sync_all()
    }
}

impl SegmentFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, bytes, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, offset)
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        Self::sync_all(self)
    }
}

/// Reads until `bytes` are full or the file ends; how many were read.
pub(super) fn read_full(file: &dyn SegmentFile, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
