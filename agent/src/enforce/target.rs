//! Workloads that somebody else started: a systemd unit or another cgroup (v2), a process group, a plain process. The
//! agent stops and ends them as its own; it does not start them, and they do not end with it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

use super::EnforceError;
use crate::cgroup;
use crate::files::FileError;
use crate::workload_api::caller::start_time;

/// Whom to stop, as the operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A unit of the system's systemd, in `system.slice`.
    Unit(String),
    /// A cgroup (v2), by its path below the mount point.
    Cgroup(PathBuf),
    /// A process group, by its leader.
    Group(i32),
    /// A process.
    Process(i32),
}

/// Why a target cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not unit:NAME.service, cgroup:/PATH (not the root), group:PID or pid:PID")]
pub struct NoTarget(String);

impl FromStr for Named {
    type Err = NoTarget;

    fn from_str(text: &str) -> Result<Self, NoTarget> {
        let no_target = || NoTarget(text.to_owned());
        let (kind, value) = text.split_once(':').ok_or_else(no_target)?;
        // Process 1 is init, and 0 and below mean others than one process (kill(2)).
        let pid = || value.parse().ok().filter(|pid| 1 < *pid);
        let named = match kind {
            "unit" => {
                let (name, suffix) = value.rsplit_once('.').ok_or_else(no_target)?;
                let plain = !name.is_empty() && !value.contains('/') && matches!(suffix, "service" | "scope");
                plain.then(|| Self::Unit(value.to_owned()))
            }
            "cgroup" => {
                let below = value.strip_prefix('/').unwrap_or_default();
                let plain = below.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
                plain.then(|| Self::Cgroup(below.into()))
            }
            "group" => pid().map(Self::Group),
            "pid" => pid().map(Self::Process),
            _ => None,
        };
        named.ok_or_else(no_target)
    }
}

/// A target, held.
#[derive(Clone, Debug)]
pub enum Target {
    /// A cgroup's directory; processes may come and go.
    Cgroup(PathBuf),
    /// A process group.
    Group(Held),
    /// A process.
    Process(Held),
}

/// A process that cannot be mistaken for a later one under its id.
#[derive(Clone, Debug)]
pub struct Held {
    pid: Pid,
    started: u64,
    pidfd: Arc<OwnedFd>,
}

impl Held {
    fn new(pid: i32) -> Result<Self, EnforceError> {
        let gone = EnforceError::Gone(pid);
        let Some(id) = Pid::from_raw(pid) else { return Err(gone) };
        let pidfd = pidfd_open(id, PidfdFlags::empty()).map_err(|_| EnforceError::Gone(pid))?;
        let Some(started) = start_time(pid) else { return Err(gone) };
        Ok(Self { pid: id, started, pidfd: Arc::new(pidfd) })
    }

    /// Whether another process has the id by now.
    fn was_replaced(&self) -> bool {
        start_time(self.pid.as_raw_nonzero().get()).is_some_and(|started| started != self.started)
    }
}

impl Target {
    /// Takes hold of what the operator named; `mount` is where cgroup2 is mounted. A unit need not run yet, a process
    /// must.
    ///
    /// # Errors
    /// [`EnforceError::Gone`], [`EnforceError::NoCgroups`].
    pub fn hold(named: &Named, mount: Option<&Path>) -> Result<Self, EnforceError> {
        let mount = || mount.ok_or(EnforceError::NoCgroups);
        Ok(match named {
            Named::Unit(name) => Self::Cgroup(mount()?.join("system.slice").join(name)),
            Named::Cgroup(below) => Self::Cgroup(mount()?.join(below)),
            Named::Group(leader) => Self::Group(Held::new(*leader)?),
            Named::Process(pid) => Self::Process(Held::new(*pid)?),
        })
    }

    /// Stops every process of it. Nobody there is nobody to stop.
    ///
    /// # Errors
    /// [`EnforceError`].
    pub fn freeze(&self) -> Result<(), EnforceError> {
        match self {
            Self::Cgroup(path) => if_there(cgroup::freeze(path)),
            Self::Group(_) | Self::Process(_) => self.signal("SIGSTOP", Signal::STOP),
        }
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// [`EnforceError`].
    pub fn thaw(&self) -> Result<(), EnforceError> {
        match self {
            Self::Cgroup(path) => if_there(cgroup::thaw(path)),
            Self::Group(_) | Self::Process(_) => self.signal("SIGCONT", Signal::CONT),
        }
    }

    /// Ends every process of it.
    ///
    /// # Errors
    /// [`EnforceError`].
    pub fn kill(&self) -> Result<(), EnforceError> {
        match self {
            Self::Cgroup(path) => if_there(cgroup::kill(path)),
            Self::Group(_) | Self::Process(_) => self.signal("SIGKILL", Signal::KILL),
        }
    }

    fn signal(&self, name: &'static str, signal: Signal) -> Result<(), EnforceError> {
        let sent = match self {
            Self::Cgroup(_) => Ok(()),
            // While a member lives, no other process gets the number (setpgid(2)); once none does, one may.
            Self::Group(leader) if leader.was_replaced() => Ok(()),
            Self::Group(leader) => kill_process_group(leader.pid, signal),
            Self::Process(process) => pidfd_send_signal(&*process.pidfd, signal),
        };
        match sent {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(EnforceError::Signal { signal: name, error }),
        }
    }
}

/// A unit that does not run has no cgroup.
fn if_there(done: Result<(), FileError>) -> Result<(), EnforceError> {
    match done {
        Err(error) if matches!(error.error.kind(), io::ErrorKind::NotFound) => Ok(()),
        // The cgroup was removed between opening the file and writing it.
        Err(error) if error.error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(()),
        result => result.map_err(EnforceError::from),
    }
}

/// Where cgroup2 is mounted whole.
#[must_use]
pub fn cgroup_mount() -> Option<PathBuf> {
    cgroup::mount_point(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{EnforceError, Named, Target};

    #[test]
    fn targets_are_named_exactly() {
        let parse = |text: &str| text.parse::<Named>().ok();
        assert_eq!(parse("unit:inference.service"), Some(Named::Unit("inference.service".to_owned())));
        assert_eq!(parse("cgroup:/a/b"), Some(Named::Cgroup("a/b".into())));
        assert_eq!((parse("group:7"), parse("pid:7")), (Some(Named::Group(7)), Some(Named::Process(7))));
        for bad in
            ["", "unit:", "unit:.service", "unit:a", "unit:../a.service", "unit:a.socket", "cgroup:/", "cgroup:a"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
        for bad in ["cgroup:/a/../b", "pid:0", "pid:1", "pid:-7", "group:1", "group:", "pid:x", "host:7"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        let unit = Target::hold(&Named::Unit("a.service".to_owned()), Some(Path::new("/m"))).unwrap();
        assert!(matches!(unit, Target::Cgroup(path) if path == Path::new("/m/system.slice/a.service")));
        let nowhere = Target::hold(&Named::Cgroup("a".into()), None);
        assert!(matches!(nowhere, Err(EnforceError::NoCgroups)));
        assert!(matches!(Target::hold(&Named::Process(i32::MAX), None), Err(EnforceError::Gone(i32::MAX))));
    }

    #[test]
    fn a_cgroup_is_written_to_and_one_that_is_not_there_is_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        // As the kernel has them, but frozen already.
        for (name, content) in
            [("cgroup.freeze", ""), ("cgroup.kill", ""), ("cgroup.events", "populated 1\nfrozen 1\n")]
        {
            std::fs::write(path(name), content).unwrap();
        }
        let target = Target::Cgroup(directory.path().to_owned());
        let read = |name: &str| std::fs::read_to_string(path(name)).unwrap();
        target.freeze().unwrap();
        assert_eq!(read("cgroup.freeze"), "1");
        target.thaw().unwrap();
        assert_eq!(read("cgroup.freeze"), "0");
        target.kill().unwrap();
        assert_eq!(read("cgroup.kill"), "1");
        // Never seen frozen: an error, so that it is killed instead.
        std::fs::write(path("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        assert!(target.freeze().is_err());
        let absent = Target::Cgroup(path("absent"));
        absent.freeze().and_then(|()| absent.thaw()).and_then(|()| absent.kill()).unwrap();
        assert!(!path("absent").exists());
    }
}
