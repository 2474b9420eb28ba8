//! The process at the other end of a connection.
//!
//! The kernel says who connected (SO_PEERCRED, unix(7)): process id, effective user and group. A process id may be
//! another process's by the time it is looked at, so the process is held by a pidfd from the moment the connection is
//! taken, and its start time must be the same before and after each look. What remains is the time between connect(2)
//! and that moment, in which the process would have to end, leave its socket to a child, and have its id given away.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use countersign_attestation::digest::Sha256Digest;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::net::UnixStream;

use super::selector::Facts;

const READ_BYTES: usize = 64 * 1024;
/// Largest program that is digested; the largest in use are some hundreds of megabytes.
const PROGRAM_BYTES_MAX: u64 = 4 << 30;

/// Why a caller is not known.
#[derive(Debug, thiserror::Error)]
pub enum CallerError {
    /// The kernel names no process that we could see, as of another PID namespace.
    #[error("the kernel does not say which process this is")]
    Nobody,
    /// It has ended, or another one has its id.
    #[error("process {0} has ended")]
    Ended(i32),
    /// A system call failed.
    #[error("{call}: {error}")]
    System {
        /// Which call.
        call: &'static str,
        /// The system's words.
        error: std::io::Error,
    },
}

/// A process, held.
#[derive(Clone, Debug)]
pub struct Caller {
    pid: i32,
    uid: u32,
    gid: u32,
    /// Field 22 of `/proc/PID/stat`.
    started: u64,
    pidfd: Arc<OwnedFd>,
}

impl Caller {
    /// Who connected.
    ///
    /// # Errors
    /// [`CallerError`].
    pub fn of(stream: &UnixStream) -> Result<Self, CallerError> {
        let peer = stream.peer_cred().map_err(|error| CallerError::System { call: "SO_PEERCRED", error })?;
        let pid = peer.pid().filter(|pid| 0 < *pid).ok_or(CallerError::Nobody)?;
        Self::hold(pid, peer.uid(), peer.gid())
    }

    fn hold(pid: i32, uid: u32, gid: u32) -> Result<Self, CallerError> {
        let id = Pid::from_raw(pid).ok_or(CallerError::Nobody)?;
        let pidfd = pidfd_open(id, PidfdFlags::empty());
        let pidfd = pidfd.map_err(|error| CallerError::System { call: "pidfd_open", error: error.into() })?;
        let started = start_time(pid).ok_or(CallerError::Ended(pid))?;
        let caller = Self { pid, uid, gid, started, pidfd: Arc::new(pidfd) };
        caller.is_alive()?;
        Ok(caller)
    }

    /// User id, by which connections are counted.
    #[must_use]
    pub const fn uid(&self) -> u32 {
        self.uid
    }

    /// Looks at the process now. Reading the whole program takes a while: not for threads that serve others.
    ///
    /// # Errors
    /// [`CallerError::Ended`] when it ended meanwhile: then nothing that was read is its.
    pub fn facts(&self, with_sha256: bool) -> Result<Facts, CallerError> {
        self.is_alive()?;
        // The open file is the program that runs, whatever is at its path now.
        let sha256 = if with_sha256 { program_digest(self.pid) } else { None };
        let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).ok();
        let cgroup = cgroup.as_deref().and_then(unified).map(str::to_owned);
        self.is_alive()?;
        Ok(Facts { pid: self.pid, uid: self.uid, gid: self.gid, sha256, cgroup })
    }

    /// The process that connected runs still, under its id.
    fn is_alive(&self) -> Result<(), CallerError> {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A pidfd is readable once the process has ended (pidfd_open(2)).
        let ended = poll(&mut [PollFd::new(&*self.pidfd, PollFlags::IN)], Some(&at_once));
        let ended = ended.map_err(|error| CallerError::System { call: "poll", error: error.into() })?;
        let same = start_time(self.pid) == Some(self.started);
        if ended == 0 && same { Ok(()) } else { Err(CallerError::Ended(self.pid)) }
    }
}

/// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)): the twentieth behind the name, which may hold anything but a later
/// parenthesis.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

fn program_digest(pid: i32) -> Option<Sha256Digest> {
    let mut program = File::open(format!("/proc/{pid}/exe")).ok()?.take(PROGRAM_BYTES_MAX);
    let mut context = Context::new(&SHA256);
    let mut space = vec![0; READ_BYTES];
    loop {
        match program.read(&mut space) {
            Ok(0) => break,
            Ok(read) => context.update(space.get(..read)?),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    if program.limit() == 0 {
        return None;
    }
    context.finish().as_ref().try_into().ok().map(Sha256Digest)
}

/// The path of the cgroup (v2) in `/proc/PID/cgroup` (cgroups(7)).
pub(crate) fn unified(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use countersign_attestation::digest::Sha256Digest;
    use tokio::net::UnixStream;

    use super::{Caller, CallerError, start_time, unified};

    fn own_ids() -> (u32, u32) {
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    }

    #[tokio::test]
    async fn the_other_end_is_this_program() {
        let (one, _other) = UnixStream::pair().unwrap();
        let caller = Caller::of(&one).unwrap();
        let facts = caller.facts(true).unwrap();
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(facts.sha256, Some(Sha256Digest::of(&[&own])));
        assert_eq!((facts.uid, facts.gid), own_ids());
        assert_eq!(facts.pid.unsigned_abs(), std::process::id());
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        assert_eq!(facts.cgroup.as_deref(), unified(&own));
        assert_eq!(caller.facts(false).unwrap().sha256, None);
    }

    #[test]
    fn a_process_that_ended_is_not_looked_at_and_neither_is_another_one_under_its_id() {
        let mut child = Command::new("sleep").arg("100").stdout(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let caller = Caller::hold(pid, 0, 0).unwrap();
        assert!(caller.facts(false).is_ok());
        // Another process under this id has another start time.
        let other = Caller { started: caller.started + 1, ..caller.clone() };
        assert!(matches!(other.facts(false), Err(CallerError::Ended(_))));
        child.kill().unwrap();
        // Not reaped yet: its entry and start time are still there, and the pidfd says that it ended.
        let exited = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        let id = rustix::process::WaitId::Pid(rustix::process::Pid::from_raw(pid).unwrap());
        rustix::process::waitid(id, exited).unwrap();
        assert_eq!(start_time(pid), Some(caller.started));
        assert!(matches!(caller.facts(false), Err(CallerError::Ended(ended)) if ended == pid));
        child.wait().unwrap();
        assert!(matches!(caller.facts(true), Err(CallerError::Ended(_))));
        assert!(matches!(Caller::hold(0, 0, 0), Err(CallerError::Nobody)));
    }

    #[test]
    fn the_unified_hierarchy_is_read() {
        let hybrid = "9:name=systemd:/x\n4:memory:/y\n0::/system.slice/a.service\n";
        assert_eq!(unified(hybrid), Some("/system.slice/a.service"));
        assert_eq!(unified("4:memory:/y\n"), None);
    }
}
