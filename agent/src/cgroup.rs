//! The workload's cgroup, where the agent's own cgroup (v2) is delegated to it: a freezer that also holds processes
//! that left the process group.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::files::{At as _, FileError};

/// How often `cgroup.events` is read until it says frozen; freezing takes well below a millisecond.
const FROZEN_LOOKS: u32 = 10_000;

/// A cgroup made for one workload.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes the workload's cgroup in `parent`.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn create(parent: &Path) -> Result<Self, FileError> {
        let path = parent.join(format!("countersign-workload-{}", std::process::id()));
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error).at("create", &path),
            // Left behind by an agent that had our process id; it is empty, or `cgroup.kill` empties it.
            Err(_) | Ok(()) => Ok(Self { path }),
        }
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Freezes every process in it and waits until the kernel says so.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn freeze(&self) -> Result<(), FileError> {
        freeze(&self.path)
    }

    /// Lets every process in it go on.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn thaw(&self) -> Result<(), FileError> {
        thaw(&self.path)
    }

    /// Kills every process in it (Linux 5.14).
    ///
    /// # Errors
    /// [`FileError`].
    pub fn kill(&self) -> Result<(), FileError> {
        kill(&self.path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It can be removed only when every process in it is reaped; an empty directory left behind does no harm.
        if let Err(error) = fs::remove_dir(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the workload's cgroup stays for now");
        }
    }
}

/// Freezes every process in the cgroup at `path` and waits until the kernel says so.
pub(crate) fn freeze(path: &Path) -> Result<(), FileError> {
    write(path, "cgroup.freeze", "1")?;
    let events = path.join("cgroup.events");
    for _ in 0..FROZEN_LOOKS {
        if fs::read_to_string(&events).at("read", &events)?.lines().any(|line| line == "frozen 1") {
            return Ok(());
        }
        std::thread::yield_now();
    }
    Err(io::Error::from(io::ErrorKind::TimedOut)).at("freeze", path)
}

/// Lets every process in the cgroup at `path` go on.
pub(crate) fn thaw(path: &Path) -> Result<(), FileError> {
    write(path, "cgroup.freeze", "0")
}

/// Kills every process in the cgroup at `path`.
pub(crate) fn kill(path: &Path) -> Result<(), FileError> {
    write(path, "cgroup.kill", "1")
}

/// Never makes a file: in a directory that is no cgroup, or on an older kernel, that would look like success.
fn write(path: &Path, name: &str, value: &str) -> Result<(), FileError> {
    let file = path.join(name);
    let opened = OpenOptions::new().write(true).open(&file).at("open", &file)?;
    (&opened).write_all(value.as_bytes()).at("write", &file)
}

/// Moves this process into the cgroup at `path`.
pub(crate) fn enter(path: &Path) -> Result<(), FileError> {
    let file = path.join("cgroup.procs");
    fs::write(&file, "0").at("write", &file)
}

/// The agent's own cgroup, if it is delegated: a v2 cgroup below the root in which this process may make others.
#[must_use]
pub fn delegated() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own_cgroup(&mounts, &own)?;
    let probe = path.join(format!("countersign-probe-{}", std::process::id()));
    fs::create_dir(&probe).ok()?;
    fs::remove_dir(&probe).ok()?;
    Some(path)
}

/// The directory of the cgroup that `own` (`/proc/self/cgroup`) names on the cgroup2 mount of `mounts`.
fn own_cgroup(mounts: &str, own: &str) -> Option<PathBuf> {
    let unified = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    // The root is the machine's, never ours to add to.
    let relative = unified.strip_prefix('/').filter(|relative| !relative.is_empty())?;
    Some(mount_point(mounts)?.join(relative))
}

/// The cgroup2 mount of `mounts` (`/proc/self/mountinfo`).
pub(crate) fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        // Root of the mount is the root of the hierarchy, or the paths do not match.
        let mut fields = head.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (tail.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::own_cgroup;

    const MOUNTS: &str = "29 22 0:25 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                          30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_cgroup_is_found_and_the_root_is_left_alone() {
        let path = own_cgroup(MOUNTS, "9:name=systemd:/x\n0::/system.slice/countersign-agent.service\n");
        assert_eq!(path.as_deref(), Some(Path::new("/sys/fs/cgroup/system.slice/countersign-agent.service")));
        assert_eq!(own_cgroup(MOUNTS, "0::/\n"), None);
        assert_eq!(own_cgroup(MOUNTS, "9:name=systemd:/x\n"), None);
        assert_eq!(own_cgroup("", "0::/x\n"), None);
    }
}
