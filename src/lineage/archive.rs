//! The archive: inputs of decisions under their digests, so that a decision can be replayed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::bundle::IMA_ENTRIES_BYTES_MAX;

use crate::config::create_private_dir;
use crate::lineage::LineageError;
use crate::lineage::publish::write_renamed;

/// The largest is a piece of an IMA list.
pub const BLOB_BYTES_MAX: u64 = IMA_ENTRIES_BYTES_MAX as u64;

/// The archive in one directory.
#[derive(Clone, Debug)]
pub struct Archive {
    dir: PathBuf,
}

impl Archive {
    /// Opens the archive in `dir`, creating it if there is none.
    ///
    /// # Errors
    /// [`LineageError`] when the directory cannot be made.
    pub fn open(dir: &Path) -> Result<Self, LineageError> {
        for first in 0..=u8::MAX {
            create_private_dir(&dir.join(format!("{first:02x}")))?;
        }
        let sync = || fs::File::open(dir)?.sync_all();
        sync().map_err(LineageError::file(dir))?;
        Ok(Self { dir: dir.to_owned() })
    }

    fn path(&self, digest: Sha256Digest) -> PathBuf {
        let name = digest.to_hex();
        let (first, _) = name.split_at_checked(2).unwrap_or_default();
        self.dir.join(first).join(&name)
    }

    /// Keeps `bytes`; durable when this returns. What is there already costs one look.
    ///
    /// # Errors
    /// [`LineageError`] when they are too many or cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Sha256Digest, LineageError> {
        let digest = Sha256Digest::of(&[bytes]);
        let path = self.path(digest);
        let size = bytes.len() as u64;
        if BLOB_BYTES_MAX < size {
            return Err(blob(&path, format!("at most {BLOB_BYTES_MAX} bytes"), format!("{size} bytes")));
        }
        // A file is renamed into place when it is durable, so one of this size is the whole of it.
        if fs::metadata(&path).is_ok_and(|found| found.len() == size) {
            return Ok(digest);
        }
        write_renamed(&path, bytes, true)?;
        Ok(digest)
    }

    /// The bytes with this digest, hashed again.
    ///
    /// # Errors
    /// [`LineageError::Absent`], [`LineageError::Blob`] when the file is not what its name says.
    pub fn get(&self, digest: Sha256Digest) -> Result<Vec<u8>, LineageError> {
        let path = self.path(digest);
        let size = match fs::metadata(&path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LineageError::Absent(digest)),
            Err(error) => return Err(LineageError::file(&path)(error)),
        };
        if BLOB_BYTES_MAX < size {
            return Err(blob(&path, format!("at most {BLOB_BYTES_MAX} bytes"), format!("{size} bytes")));
        }
        let bytes = fs::read(&path).map_err(LineageError::file(&path))?;
        let found = Sha256Digest::of(&[&bytes]);
        if found != digest {
            return Err(blob(&path, digest.to_hex(), found.to_hex()));
        }
        Ok(bytes)
    }
}

fn blob(path: &Path, expected: String, found: String) -> LineageError {
    LineageError::Blob { path: path.to_owned(), expected, found }
}
