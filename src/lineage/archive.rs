//! The archive: what decisions were made from, by digest. Whoever has an entry of the log finds its inputs here.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_attestation::digest::Sha256Digest;

/// The largest blob is a set of anchors and revocation lists.
const BLOB_BYTES_MAX: u64 = 4 << 20;

/// A directory of immutable files named by the SHA-256 of their content. Clones share it.
#[derive(Clone, Debug)]
pub struct Archive {
    dir: Arc<PathBuf>,
    temporary: Arc<AtomicU64>,
}

/// A blob is not there, not readable, or not what its name says.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file system failed.
    #[error("archive {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The content's digest is another one.
    #[error("archive blob {expected} has the digest {found}")]
    Damaged {
        /// The blob's name.
        expected: Sha256Digest,
        /// The digest of what is there.
        found: Sha256Digest,
    },
    /// Too large to be one of ours.
    #[error("archive blob of {0} bytes; at most {BLOB_BYTES_MAX} are kept")]
    TooLarge(u64),
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    move |source| ArchiveError::File { path: path.to_owned(), source }
}

impl Archive {
    /// Opens the archive, creating its directory.
    ///
    /// # Errors
    /// [`ArchiveError::File`].
    pub fn open(dir: &Path) -> Result<Self, ArchiveError> {
        crate::config::create_private_dir(dir)
            .map_err(|error| ArchiveError::File { path: dir.to_owned(), source: io::Error::other(error) })?;
        Ok(Self { dir: Arc::new(dir.to_owned()), temporary: Arc::new(AtomicU64::new(0)) })
    }

    /// Keeps a blob; it is durable when this returns. A blob that is there already costs one look.
    ///
    /// # Errors
    /// [`ArchiveError`]; nothing refers to what may be left of it.
    pub fn put(&self, bytes: &[u8]) -> Result<Sha256Digest, ArchiveError> {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if BLOB_BYTES_MAX < size {
            return Err(ArchiveError::TooLarge(size));
        }
        let digest = Sha256Digest::of(&[bytes]);
        let (dir, path) = self.place(digest);
        if fs::metadata(&path).is_ok_and(|found| found.len() == size) {
            return Ok(digest);
        }
        if !dir.exists() {
            fs::create_dir_all(&dir).map_err(file(&dir))?;
            sync_dir(&self.dir)?;
        }
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let partial = dir.join(format!(".{}-{number}", std::process::id()));
        let write = || {
            let mut file = File::create(&partial)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&partial, &path)
        };
        write().map_err(file(&path))?;
        sync_dir(&dir)?;
        Ok(digest)
    }

    /// A blob, checked against its name.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn get(&self, digest: Sha256Digest) -> Result<Vec<u8>, ArchiveError> {
        let (_, path) = self.place(digest);
        let size = fs::metadata(&path).map_err(file(&path))?.len();
        if BLOB_BYTES_MAX < size {
            return Err(ArchiveError::TooLarge(size));
        }
        let bytes = fs::read(&path).map_err(file(&path))?;
        let found = Sha256Digest::of(&[&bytes]);
        if found == digest { Ok(bytes) } else { Err(ArchiveError::Damaged { expected: digest, found }) }
    }

    fn place(&self, digest: Sha256Digest) -> (PathBuf, PathBuf) {
        let name = digest.to_hex();
        let dir = self.dir.join(name.get(..2).unwrap_or_default());
        let path = dir.join(name);
        (dir, path)
    }
}

fn sync_dir(dir: &Path) -> Result<(), ArchiveError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(file(dir))
}

#[cfg(test)]
mod tests {
    use super::{Archive, ArchiveError};

    #[test]
    fn blobs_are_named_by_their_content_and_checked_on_reading() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(dir.path()).unwrap();
        let digest = archive.put(b"inputs").unwrap();
        assert_eq!(archive.put(b"inputs").unwrap(), digest);
        assert_eq!(archive.get(digest).unwrap(), b"inputs");
        let (_, path) = archive.place(digest);
        std::fs::write(&path, b"inputz").unwrap();
        assert!(matches!(archive.get(digest), Err(ArchiveError::Damaged { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(archive.get(digest), Err(ArchiveError::File { .. })));
        assert!(matches!(archive.put(&vec![0; (4 << 20) + 1]), Err(ArchiveError::TooLarge(_))));
    }
}
