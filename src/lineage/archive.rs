//! The archive: inputs of decisions under their digests, so that a decision can be replayed.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::bundle::IMA_ENTRIES_BYTES_MAX;

use crate::config::create_private_dir;
use crate::lineage::LineageError;
use crate::lineage::publish::{write_beside, write_renamed};

/// The largest is a piece of an IMA list.
pub const BLOB_BYTES_MAX: u64 = IMA_ENTRIES_BYTES_MAX as u64;

/// Fewer blobs are written one by one: to have the whole file system written out costs more.
const TOGETHER_MIN: usize = 8;

/// The archive in one directory.
#[derive(Clone, Debug)]
pub struct Archive {
    dir: PathBuf,
    writing: Arc<Writing>,
}

/// The blobs on their way to the disk. A file is there before its directory says so durably, so whoever wants the same
/// blob kept waits for the one who writes it.
#[derive(Debug, Default)]
struct Writing {
    digests: Mutex<BTreeSet<Sha256Digest>>,
    ended: Condvar,
}

impl Writing {
    /// Returns when nobody else writes this blob any more.
    fn begin(&self, digest: Sha256Digest) -> Turn<'_> {
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        while !digests.insert(digest) {
            digests = self.ended.wait(digests).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { writing: self, digest }
    }
}

/// The right to write one blob, until dropped.
struct Turn<'a> {
    writing: &'a Writing,
    digest: Sha256Digest,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.writing.digests.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
        self.writing.ended.notify_all();
    }
}

impl Archive {
    /// Opens the archive in `dir`, creating it if there is none.
    ///
    /// # Errors
    /// [`LineageError`] when the directory cannot be made.
    pub fn open(dir: &Path) -> Result<Self, LineageError> {
        let sync = |dir: &Path| {
            let synced = fs::File::open(dir).and_then(|dir| dir.sync_all());
            synced.map_err(LineageError::file(dir))
        };
        for first in 0..=u8::MAX {
            let dir = dir.join(format!("{first:02x}"));
            create_private_dir(&dir)?;
            // A process that ended between renaming a blob and syncing its directory left a name that may yet vanish.
            sync(&dir)?;
        }
        sync(dir)?;
        Ok(Self { dir: dir.to_owned(), writing: Arc::default() })
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
        let _turn = self.writing.begin(digest);
        if let Some(path) = self.lacks(digest, bytes)? {
            write_renamed(&path, bytes, true)?;
        }
        Ok(digest)
    }

    /// Where to write a blob; `None` where it is. Its writer has the turn.
    fn lacks(&self, digest: Sha256Digest, bytes: &[u8]) -> Result<Option<PathBuf>, LineageError> {
        let (path, size) = (self.path(digest), bytes.len() as u64);
        if BLOB_BYTES_MAX < size {
            return Err(blob(&path, format!("at most {BLOB_BYTES_MAX} bytes"), format!("{size} bytes")));
        }
        // A file is renamed into place when it is durable, so one of this size is the whole of it.
        let there = fs::metadata(&path).is_ok_and(|found| found.len() == size);
        Ok((!there).then_some(path))
    }

    /// Keeps many blobs that wait for the disk together; all are durable when this returns, and some where it fails.
    ///
    /// # Errors
    /// As [`Archive::put`].
    pub fn put_all(&self, blobs: &[Vec<u8>]) -> Result<(), LineageError> {
        if blobs.len() < TOGETHER_MIN {
            return blobs.iter().try_for_each(|blob| self.put(blob).map(drop));
        }
        // In one order, so that of two who write the same blobs none waits for the other in a circle; each once.
        let by_digest: BTreeMap<Sha256Digest, &[u8]> =
            blobs.iter().map(|bytes| (Sha256Digest::of(&[bytes]), bytes.as_slice())).collect();
        let _turns: Vec<Turn<'_>> = by_digest.keys().map(|digest| self.writing.begin(*digest)).collect();
        let mut written = Vec::new();
        for (digest, bytes) in by_digest {
            if let Some(path) = self.lacks(digest, bytes)? {
                let (beside, _) = write_beside(&path, bytes).map_err(LineageError::file(&path))?;
                written.push((beside, path));
            }
        }
        if written.is_empty() {
            return Ok(());
        }
        let sync = || -> Result<(), LineageError> {
            let synced = fs::File::open(&self.dir).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
            synced.map_err(LineageError::file(&self.dir))
        };
        // A name that is there has its bytes behind it.
        sync()?;
        for (beside, path) in &written {
            fs::rename(beside, path).map_err(LineageError::file(path))?;
        }
        sync()
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

/// Bytes by their digest: the archive, or the archive and what has just come. A decision names them by digest, so
/// where they are read does not change it.
pub trait Blobs {
    /// The bytes with this digest, if they are there and undamaged.
    fn blob(&self, digest: Sha256Digest) -> Option<Cow<'_, [u8]>>;
}

impl Blobs for Archive {
    fn blob(&self, digest: Sha256Digest) -> Option<Cow<'_, [u8]>> {
        match self.get(digest) {
            Ok(bytes) => Some(Cow::Owned(bytes)),
            Err(error) => {
                tracing::error!(%error, "not in the archive");
                None
            }
        }
    }
}

fn blob(path: &Path, expected: String, found: String) -> LineageError {
    LineageError::Blob { path: path.to_owned(), expected, found }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use countersign_attestation::digest::Sha256Digest;

    use super::Archive;

    #[test]
    fn what_another_writes_is_kept_only_when_the_other_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(dir.path()).unwrap();
        let digest = archive.put(b"evidence").unwrap();
        let turn = archive.writing.begin(digest);
        let (done, kept) = mpsc::channel();
        let second = archive.clone();
        let writer = std::thread::spawn(move || done.send(second.put(b"evidence").unwrap()));
        assert_eq!(archive.put(b"other").unwrap(), Sha256Digest::of(&[b"other"]), "others do not wait");
        assert_eq!(kept.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Timeout));
        drop(turn);
        assert_eq!(kept.recv(), Ok(digest));
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn many_at_once_are_there_and_whole_and_one_too_many_bytes_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(dir.path()).unwrap();
        let mut blobs: Vec<Vec<u8>> = (0..20_u8).map(|number| vec![number; 100]).collect();
        blobs.push(blobs[3].clone());
        for _again in 0..2 {
            archive.put_all(&blobs).unwrap();
            for blob in &blobs {
                assert_eq!(archive.get(Sha256Digest::of(&[blob])).unwrap(), *blob);
            }
        }
        let left = std::fs::read_dir(dir.path()).unwrap().flat_map(|folder| {
            std::fs::read_dir(folder.unwrap().path()).unwrap().map(|file| file.unwrap().file_name())
        });
        assert_eq!(left.count(), 20, "nothing lies beside them");
        blobs.push(vec![0; usize::try_from(super::BLOB_BYTES_MAX).unwrap() + 1]);
        assert!(archive.put_all(&blobs).is_err());
        archive.put_all(&[]).unwrap();
    }
}
