//! configfs-tsm (Linux 6.7, Documentation/ABI/testing/configfs-tsm-report): one way to the reports of every kind of
//! confidential VM.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Attempts while another process uses the same report entry.
const GENERATION_ATTEMPTS: usize = 3;
/// ENXIO.
const NO_PROVIDER: i32 = 6;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum TsmError {
    /// A file or device could not be used.
    #[error("{action} {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// Another process wrote the report entry between our request and its answer.
    #[error("{} was used by another process: generation {found}, expected {expected}", path.display())]
    Generation {
        /// The entry.
        path: PathBuf,
        /// Generation after our one write.
        expected: u64,
        /// What the kernel says.
        found: String,
    },
    /// Never: there is at least one attempt.
    #[error("no attempt was made")]
    NoAttempt,
}

/// What the hardware answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Report or quote.
    pub(super) outblob: Vec<u8>,
    /// Certificate table, where it was read.
    pub(super) auxblob: Vec<u8>,
}

/// Whether the provider has an `auxblob`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Auxblob {
    Read,
    Leave,
}

/// One configfs-tsm report entry: attributes that the kernel computes when they are read.
pub(super) trait ReportEntry {
    fn path(&self) -> &Path;
    fn read(&self, attribute: &'static str) -> Result<Vec<u8>, TsmError>;
    fn write(&self, attribute: &'static str, value: &[u8]) -> Result<(), TsmError>;

    fn text(&self, attribute: &'static str) -> Result<String, TsmError> {
        self.read(attribute).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The answer over `report_data`, which is nobody else's.
    fn answer(&self, report_data: &[u8; 64], auxblob: Auxblob) -> Result<Answer, TsmError> {
        let mut conflict = None;
        for _ in 0..GENERATION_ATTEMPTS {
            let before = self.text("generation")?;
            let expected = before.parse::<u64>().unwrap_or(0).saturating_add(1);
            self.write("inblob", report_data)?;
            let outblob = self.read("outblob")?;
            let auxblob = match auxblob {
                Auxblob::Read => self.read("auxblob")?,
                Auxblob::Leave => Vec::new(),
            };
            // Every write counts. One more than ours, and the answer may be another's.
            let found = self.text("generation")?;
            if found == expected.to_string() {
                return Ok(Answer { outblob, auxblob });
            }
            conflict = Some(TsmError::Generation { path: self.path().to_path_buf(), expected, found });
        }
        Err(conflict.unwrap_or(TsmError::NoAttempt))
    }
}

/// An entry made for one report and removed with it.
pub(super) struct ConfigfsEntry {
    path: PathBuf,
}

impl ConfigfsEntry {
    /// A new entry; `None` where the kernel could hand out reports and no confidential VM is around it.
    pub(super) fn create(root: &Path) -> Result<Option<Self>, TsmError> {
        let path = root.join(format!("countersign-{}", std::process::id()));
        let made = fs::create_dir(&path);
        Self::made(path, made)
    }

    fn made(path: PathBuf, made: io::Result<()>) -> Result<Option<Self>, TsmError> {
        match made {
            Err(error) if error.raw_os_error() == Some(NO_PROVIDER) => Ok(None),
            // Left behind by an agent that was killed and had our process id.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Some(Self { path })),
            Err(error) => Err(TsmError::Io { action: "create", path, error }),
            Ok(()) => Ok(Some(Self { path })),
        }
    }
}

impl Drop for ConfigfsEntry {
    fn drop(&mut self) {
        // rmdir removes a configfs entry with its attributes.
        if let Err(error) = fs::remove_dir(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the report entry could not be removed");
        }
    }
}

impl ReportEntry for ConfigfsEntry {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, attribute: &'static str) -> Result<Vec<u8>, TsmError> {
        let path = self.path.join(attribute);
        fs::read(&path).map_err(|error| TsmError::Io { action: "read", path, error })
    }

    fn write(&self, attribute: &'static str, value: &[u8]) -> Result<(), TsmError> {
        let path = self.path.join(attribute);
        let file = fs::OpenOptions::new().write(true).open(&path);
        // One write(2): configfs takes a binary attribute whole.
        let written = file.and_then(|mut file| io::Write::write_all(&mut file, value));
        written.map_err(|error| TsmError::Io { action: "write", path, error })
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{ConfigfsEntry, TsmError};

    #[test]
    fn only_a_kernel_without_a_confidential_vm_has_no_entries() {
        let folder = tempfile::tempdir().unwrap();
        let made = |result| ConfigfsEntry::made(folder.path().join("entry"), result);
        let failed = |number| made(Err(io::Error::from_raw_os_error(number)));
        assert!(failed(6).unwrap().is_none(), "ENXIO");
        for number in [1, 2, 12, 13, 19, 30] {
            assert!(matches!(failed(number), Err(TsmError::Io { action: "create", .. })), "{number}");
        }
        assert!(failed(17).unwrap().is_some(), "EEXIST");
        assert!(made(Ok(())).unwrap().is_some());
    }
}
