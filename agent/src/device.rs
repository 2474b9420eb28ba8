//! The TPM as a resource: one command sequence at a time, each with a deadline.
//!
//! A TPM without a resource manager serves one client; a second connection waits until the first closes, possibly for
//! ever. So every sequence opens the TPM, does its work, closes it, and is given up after a deadline. A sequence that
//! is given up keeps its place in the queue until the library returns: callers behind it time out too, and trust ends
//! by itself when the lease does.

use core::str::FromStr as _;
use core::time::Duration;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tss_esapi::handles::{KeyHandle, ObjectHandle};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::{Context, TctiNameConf};

/// How long one sequence may wait for the TPM and then use it. Discrete TPMs need up to two seconds to make a primary
/// key; a quarter of the default lease is left for retries.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Why the TPM did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TpmError {
    /// The TCTI string names no transport this agent has.
    #[error("TCTI \"{0}\" is not device:PATH, swtpm:host=HOST,port=PORT, mssim:… or tabrmd:…")]
    Tcti(String),
    /// Nothing within the deadline.
    #[error("the TPM did not answer within {0:?}; is another client holding it?")]
    Deadline(Duration),
    /// The TPM or its library refused a command.
    #[error("{command}: {error}")]
    Refused {
        /// What was asked.
        command: &'static str,
        /// The library's words.
        error: String,
    },
    /// The TPM answered, but not what the command promises.
    #[error("{command}: unexpected answer: {found}")]
    Answer {
        /// What was asked.
        command: &'static str,
        /// What came.
        found: String,
    },
    /// The sequence panicked in the library.
    #[error("the TPM library stopped unexpectedly")]
    Stopped,
}

/// Names the command that failed.
pub(crate) trait Refused<T> {
    /// The value, or the refusal of `command`.
    fn refused(self, command: &'static str) -> Result<T, TpmError>;
}

impl<T> Refused<T> for tss_esapi::Result<T> {
    fn refused(self, command: &'static str) -> Result<T, TpmError> {
        self.map_err(|error| TpmError::Refused { command, error: error.to_string() })
    }
}

/// A TPM, by its transport.
#[derive(Clone, Debug)]
pub struct Tpm {
    tcti: TctiNameConf,
    name: String,
    turn: Arc<Semaphore>,
    deadline: Duration,
}

impl Tpm {
    /// The TPM behind `tcti`, for example `device:/dev/tpmrm0` or `swtpm:host=127.0.0.1,port=2321`.
    ///
    /// # Errors
    /// [`TpmError::Tcti`].
    pub fn new(tcti: &str) -> Result<Self, TpmError> {
        Self::with_deadline(tcti, DEADLINE)
    }

    /// Likewise with another deadline.
    ///
    /// # Errors
    /// [`TpmError::Tcti`].
    pub fn with_deadline(tcti: &str, deadline: Duration) -> Result<Self, TpmError> {
        let parsed = TctiNameConf::from_str(tcti).map_err(|_| TpmError::Tcti(tcti.to_owned()))?;
        Ok(Self { tcti: parsed, name: tcti.to_owned(), turn: Arc::new(Semaphore::new(1)), deadline })
    }

    /// The TCTI string.
    #[must_use]
    pub fn tcti(&self) -> &str {
        &self.name
    }

    /// Keeps this process from opening the TPM while the value lives; `None` while the TPM is open. Never waits.
    ///
    /// The TPM library's descriptors are inherited by processes that start meanwhile. Such a process would hold the
    /// TPM for itself, where it has one client at a time, and a workload must not get at it at all.
    #[must_use]
    pub fn closed(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turn).try_acquire_owned().ok()
    }

    /// Opens the TPM, runs `sequence` on a thread of its own and closes it.
    ///
    /// # Errors
    /// The sequence's, or [`TpmError::Deadline`].
    pub async fn run<T: Send + 'static>(
        &self,
        sequence: impl FnOnce(&mut Session) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, TpmError> {
        let turn = Arc::clone(&self.turn);
        let tcti = self.tcti.clone();
        let work = async move {
            let Ok(turn) = turn.acquire_owned().await else { return Err(TpmError::Stopped) };
            let job = tokio::task::spawn_blocking(move || {
                // The turn ends with the library's work, not with the caller's patience.
                let _turn = turn;
                let mut session = Session::open(tcti)?;
                sequence(&mut session)
            });
            job.await.unwrap_or(Err(TpmError::Stopped))
        };
        tokio::time::timeout(self.deadline, work).await.unwrap_or(Err(TpmError::Deadline(self.deadline)))
    }
}

/// An open TPM. Objects loaded through it are flushed when it closes.
#[derive(Debug)]
pub struct Session {
    context: Context,
}

impl Session {
    fn open(tcti: TctiNameConf) -> Result<Self, TpmError> {
        Context::new(tcti).refused("open the TPM").map(|context| Self { context })
    }

    /// The library's context, without sessions.
    pub fn plain(&mut self) -> &mut Context {
        self.context.clear_sessions();
        &mut self.context
    }

    /// Runs `command` with empty-password authorisation for its first handle.
    ///
    /// # Errors
    /// The refusal of `command`, named `name`.
    pub fn authorized<T>(
        &mut self,
        name: &'static str,
        command: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, TpmError> {
        self.context.execute_with_session(Some(AuthSession::Password), command).refused(name)
    }

    /// Frees a transient slot; small TPMs have three.
    ///
    /// # Errors
    /// The TPM's refusal.
    pub fn flush(&mut self, key: KeyHandle) -> Result<(), TpmError> {
        self.plain().flush_context(ObjectHandle::from(key)).refused("TPM2_FlushContext")
    }
}
