//! The workload: its own process group, frozen when trust is lost, killed when trust does not come back.
//!
//! A workload never outlives the agent: its first process asks the kernel for SIGKILL when the agent dies
//! ([`crate::guard::exec`]), and a sentinel process kills the rest of the group then ([`crate::guard::sentinel`]).

pub mod enforcer;
pub mod ladder;
pub mod target;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use crate::cgroup::Cgroup;
use crate::clock;
use crate::files::FileError;

/// How often the first process is looked at until it is seen stopped; the signal was delivered before the first look.
const STOPPED_LOOKS: u32 = 10_000;

/// Why the workload cannot be run or controlled.
#[derive(Debug, thiserror::Error)]
pub enum EnforceError {
    /// It could not be started.
    #[error("{program} could not be started: {error}")]
    Start {
        /// Which program.
        program: String,
        /// The system's words.
        error: io::Error,
    },
    /// A signal could not be sent.
    #[error("signal {signal}: {error}")]
    Signal {
        /// Which signal.
        signal: &'static str,
        /// The system's words.
        error: Errno,
    },
    /// The group got the signal, but its first process was not seen stopped.
    #[error("the workload was not seen stopped")]
    NotStopped,
    /// A process to be stopped has ended before it was taken hold of.
    #[error("process {0} is not there")]
    Gone(i32),
    /// A unit or cgroup is to be stopped, and this machine has no cgroup2 mount.
    #[error("there is no cgroup2 mount, so units and cgroups cannot be stopped")]
    NoCgroups,
    /// The cgroup.
    #[error(transparent)]
    Cgroup(#[from] FileError),
    /// Waiting for it failed.
    #[error("wait: {0}")]
    Wait(io::Error),
}

/// How to start a workload.
#[derive(Clone, Debug)]
pub struct Launch {
    /// This program, which is its own guard.
    pub agent: PathBuf,
    /// Command and arguments.
    pub command: Vec<OsString>,
    /// `COUNTERSIGN_CREDENTIAL_DIR` of the workload.
    pub credential_directory: PathBuf,
    /// A cgroup v2 directory to make the workload's cgroup in, where one is delegated.
    pub cgroup_parent: Option<PathBuf>,
}

/// A running workload.
#[derive(Debug)]
pub struct Workload {
    child: Child,
    sentinel: Child,
    group: Pid,
    cgroup: Option<Cgroup>,
}

/// What happened to a workload while it was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It ended by itself, with this exit code (128 + signal when a signal ended it).
    Exited(u8),
    /// Its sentinel ended, so that nothing would kill it after the agent: it must not go on.
    Unguarded,
}

impl Workload {
    /// Starts it. Must be called on a thread that lives as long as the agent: the kernel takes the death of the
    /// starting thread for the death of the parent (PR_SET_PDEATHSIG(2const)).
    ///
    /// # Errors
    /// [`EnforceError`].
    pub fn start(launch: &Launch) -> Result<Self, EnforceError> {
        let parent = std::process::id().to_string();
        let cgroup = launch.cgroup_parent.as_deref().map(Cgroup::create).transpose()?;
        let cgroup_path = cgroup.as_ref().map(Cgroup::path);
        let start_error = |error| EnforceError::Start { program: launch.agent.display().to_string(), error };
        let mut exec = guard_command(&launch.agent, "exec-guard", &parent, cgroup_path);
        exec.arg("--").args(&launch.command);
        exec.env("COUNTERSIGN_CREDENTIAL_DIR", &launch.credential_directory);
        if io::stdin().is_terminal() {
            // A background group that reads the terminal would be stopped by it.
            exec.stdin(Stdio::null());
        }
        let child = exec.spawn().map_err(start_error)?;
        let id = child.id().unwrap_or_default();
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
        let group = pid.ok_or_else(|| start_error(io::Error::other("it ended at once")))?;
        // From here on, dropping `child` kills it.
        let mut sentinel = guard_command(&launch.agent, "group-sentinel", &parent, cgroup_path);
        sentinel.arg("--group").arg(id.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
        let sentinel = sentinel.spawn().map_err(start_error)?;
        Ok(Self { child, sentinel, group, cgroup })
    }

    /// Process id of the workload's first process, which is its process group too.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.group.as_raw_nonzero().get().unsigned_abs()
    }

    /// Stops every process of the workload, and says how many microseconds that took.
    ///
    /// # Errors
    /// [`EnforceError`]: then it must be killed instead.
    pub fn freeze(&self) -> Result<u64, EnforceError> {
        let start = clock::boot_us();
        if let Some(cgroup) = &self.cgroup
            && cgroup.freeze().is_ok()
        {
            return Ok(clock::boot_us().saturating_sub(start));
        }
        self.signal("SIGSTOP", Signal::STOP)?;
        // Signals are delivered when a process next returns to user space: look until it has.
        let stat = PathBuf::from(format!("/proc/{}/stat", self.pid()));
        for _ in 0..STOPPED_LOOKS {
            match state_of(&stat) {
                Some('T' | 't' | 'Z' | 'X') | None => return Ok(clock::boot_us().saturating_sub(start)),
                Some(_) => std::thread::yield_now(),
            }
        }
        Err(EnforceError::NotStopped)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// [`EnforceError`].
    pub fn thaw(&self) -> Result<(), EnforceError> {
        if let Some(cgroup) = &self.cgroup {
            cgroup.thaw()?;
        }
        self.signal("SIGCONT", Signal::CONT)
    }

    /// Asks it to end.
    ///
    /// # Errors
    /// [`EnforceError`].
    pub fn terminate(&self) -> Result<(), EnforceError> {
        self.signal("SIGTERM", Signal::TERM)
    }

    /// Ends every process of it. SIGKILL works on stopped and frozen processes too.
    ///
    /// # Errors
    /// [`EnforceError`].
    pub fn kill(&self) -> Result<(), EnforceError> {
        let killed = self.cgroup.as_ref().map_or(Ok(()), Cgroup::kill);
        self.signal("SIGKILL", Signal::KILL)?;
        killed.map_err(EnforceError::from)
    }

    /// Waits until it ends, or until nothing guards it.
    ///
    /// # Errors
    /// [`EnforceError::Wait`].
    pub async fn ended(&mut self) -> Result<Ended, EnforceError> {
        tokio::select! {
            status = self.child.wait() => status.map(|status| Ended::Exited(exit_code(status))),
            sentinel = self.sentinel.wait() => sentinel.map(|_| Ended::Unguarded),
        }
        .map_err(EnforceError::Wait)
    }

    fn signal(&self, name: &'static str, signal: Signal) -> Result<(), EnforceError> {
        match kill_process_group(self.group, signal) {
            // Nobody is left.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(EnforceError::Signal { signal: name, error }),
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // Whatever way this ends, no process of the workload goes on. The sentinel is killed by `kill_on_drop`.
        if let Err(error) = self.kill() {
            tracing::error!(%error, "the workload could not be killed");
        }
    }
}

/// This program as a guard, in a process group of its own.
fn guard_command(agent: &Path, guard: &str, parent: &str, cgroup: Option<&Path>) -> Command {
    let mut command = Command::new(agent);
    command.args([guard, "--parent", parent]).process_group(0).kill_on_drop(true);
    if let Some(path) = cgroup {
        command.arg("--cgroup").arg(path);
    }
    command
}

/// State letter of `/proc/PID/stat`: the first field behind the name, which may hold anything but a later parenthesis.
fn state_of(stat: &Path) -> Option<char> {
    let text = std::fs::read_to_string(stat).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| signal.saturating_add(128)));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
