//! The two guards that tie a workload's life to the agent's, as subcommands of this program: safe code cannot run
//! between fork and exec, but it can run in a program that then becomes the workload.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, getppid, kill_process_group, pidfd_open, set_parent_process_death_signal,
};

use crate::cgroup;

/// Exit code of a guard that could not do its work, as `env` and `timeout` have it; the workload was not started.
pub const EXIT_GUARD: u8 = 125;

/// Why a guard gave up.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The agent died before the guard was ready.
    #[error("the agent (process {0}) is gone")]
    Orphaned(i32),
    /// A system call failed.
    #[error("{call}: {error}")]
    System {
        /// Which call.
        call: &'static str,
        /// The system's words.
        error: io::Error,
    },
}

fn system<E: Into<io::Error>>(call: &'static str) -> impl FnOnce(E) -> GuardError {
    move |error| GuardError::System { call, error: error.into() }
}

/// Becomes `command`, which the kernel kills when the agent (`parent`) dies. Returns only with an error.
#[must_use]
pub fn exec(parent: i32, cgroup: Option<&Path>, command: &[OsString]) -> GuardError {
    let Err(error) = prepare(parent, cgroup) else {
        let Some((program, arguments)) = command.split_first() else {
            return GuardError::System { call: "exec", error: io::Error::from(io::ErrorKind::InvalidInput) };
        };
        // The death signal survives execve(2), unless the program is set-user-ID or has file capabilities.
        let error = std::process::Command::new(program).args(arguments).exec();
        return GuardError::System { call: "exec", error };
    };
    error
}

fn prepare(parent: i32, cgroup: Option<&Path>) -> Result<(), GuardError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(system("PR_SET_PDEATHSIG"))?;
    // The agent may have died before the line above; then no signal comes.
    same_parent(parent)?;
    if let Some(path) = cgroup {
        cgroup::enter(path).map_err(|error| GuardError::System { call: "enter the cgroup", error: error.error })?;
    }
    Ok(())
}

/// Waits until the agent (`parent`) dies, then kills the process group and the cgroup: the kernel's death signal
/// reaches only the workload's first process.
///
/// # Errors
/// [`GuardError`].
pub fn sentinel(parent: i32, group: i32, cgroup: Option<&Path>) -> Result<(), GuardError> {
    let pid = Pid::from_raw(parent).ok_or(GuardError::Orphaned(parent))?;
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(agent) => {
            // Were it another process under the same number, our parent would be another one too.
            if same_parent(parent).is_ok() {
                loop {
                    match poll(&mut [PollFd::new(&agent, PollFlags::IN)], None) {
                        Ok(_) => break,
                        Err(Errno::INTR) => {}
                        // Without a watch there is no guard: end the workload rather than leave it alone.
                        Err(_) => break,
                    }
                }
            }
        }
        Err(Errno::SRCH) => {}
        Err(error) => return Err(system("pidfd_open")(error)),
    }
    let in_cgroup = cgroup.map_or(Ok(()), cgroup::kill);
    let group = Pid::from_raw(group).ok_or(GuardError::Orphaned(group))?;
    match kill_process_group(group, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => return Err(system("kill")(error)),
    }
    in_cgroup.map_err(|error| GuardError::System { call: "cgroup.kill", error: error.error })
}

fn same_parent(parent: i32) -> Result<(), GuardError> {
    let found = getppid().map(|pid| pid.as_raw_nonzero().get());
    if found == Some(parent) { Ok(()) } else { Err(GuardError::Orphaned(parent)) }
}
