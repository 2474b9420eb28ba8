//! Files and directories that only their owner reads, replaced whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}: {error}", path.display())]
pub struct FileError {
    /// What was tried.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// The system's words.
    #[source]
    pub error: io::Error,
}

/// Names the operation and the path of an I/O error.
pub(crate) trait At<T> {
    /// The value, or the error with its place.
    fn at(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|error| FileError { action, path: path.to_path_buf(), error })
    }
}

/// Makes `path` a directory that only its owner enters, parents included.
pub(crate) fn private_directory(path: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).at("create", path)?;
    // It may have been there with other permissions.
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).at("restrict", path)
}

/// Creates `path` with mode 0600; it must not exist.
pub(crate) fn create_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write_private(path, content)?.sync_all().at("write", path)
}

/// Replaces `path` by a file with `content` and mode 0600. A reader sees the old content or the new, and a crash leaves
/// one of them.
pub(crate) fn replace_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let temporary = vacant_beside(path)?;
    create_private(&temporary, content)?;
    fs::rename(&temporary, path).at("replace", path)?;
    sync_directory(path.parent().unwrap_or(path))
}

/// Likewise for readers that run; nothing is made durable.
pub(crate) fn swap_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let temporary = vacant_beside(path)?;
    write_private(&temporary, content)?;
    fs::rename(&temporary, path).at("replace", path)
}

fn write_private(path: &Path, content: &[u8]) -> Result<File, FileError> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).at("create", path)?;
    file.write_all(content).at("write", path)?;
    Ok(file)
}

/// Where the next content of `path` is written; what a crash left there is gone.
fn vacant_beside(path: &Path) -> Result<PathBuf, FileError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    remove(&temporary)?;
    Ok(temporary)
}

/// Makes renames in `path` durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|directory| directory.sync_all()).at("sync", path)
}

/// Removes a file or symlink if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

/// Reads a file, or `None` when there is none.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("read", path),
    }
}

/// Overwrites a file with zeros, if it is there, before it is removed. Whoever holds it open reads zeros.
pub(crate) fn zeroise(path: &Path) -> Result<(), FileError> {
    let opened = match fs::OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.at("open", path)?,
    };
    let length = opened.metadata().at("measure", path)?.len();
    let zeros = vec![0; usize::try_from(length).unwrap_or(0)];
    (&opened).write_all(&zeros).and_then(|()| opened.sync_data()).at("overwrite", path)
}
