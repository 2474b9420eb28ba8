//! Machine-readable events: one JSON object a line, for tests, demos and whoever supervises the agent.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::clock;
use crate::files::{At as _, FileError};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The broker granted.
    Granted,
    /// The broker decided against this host.
    Denied,
    /// An attestation failed without a decision.
    AttestFailed,
    /// A PCR changed.
    DriftSeen,
    /// The IMA list has new entries.
    ImaGrown,
    /// Trust ended.
    TrustLost,
    /// The workload was started.
    WorkloadStarted,
    /// Trust ended, and the workload goes on for now.
    WorkloadWarned,
    /// The hook that drains the workload was started.
    WorkloadDraining,
    /// The workload was frozen.
    WorkloadFrozen,
    /// The workload goes on after a freeze.
    WorkloadThawed,
    /// The workload was killed.
    WorkloadKilled,
    /// The workload ended by itself.
    WorkloadEnded,
}

/// What an event says beside its kind and time.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Details {
    /// Stable reason code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Id of the decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Serial number of a new credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// How long it took, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
    /// Process id of the workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

impl Details {
    /// Details with a reason code.
    #[must_use]
    pub fn code(code: &str) -> Self {
        Self { code: Some(code.to_owned()), ..Self::default() }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    event: EventKind,
    at_ms: u64,
    #[serde(flatten)]
    details: &'a Details,
}

/// Where events go: the log always, a file when one is named.
#[derive(Clone, Debug)]
pub struct Events {
    file: Option<Arc<Mutex<File>>>,
}

impl Events {
    /// Appends to `path`, mode 0600 when it is new.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn to(path: Option<&Path>) -> Result<Self, FileError> {
        let open = |path: &Path| {
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).at("open", path)?;
            Ok(Arc::new(Mutex::new(file)))
        };
        path.map(open).transpose().map(|file| Self { file })
    }

    /// Records an event. A full disk must not stop enforcement, so a failed write is only logged.
    pub fn record(&self, event: EventKind, details: &Details) {
        let line = Line { event, at_ms: clock::wall().0, details };
        let Ok(mut text) = serde_json::to_string(&line) else { return };
        tracing::info!(event = %text, "event");
        let Some(file) = &self.file else { return };
        text.push('\n');
        // One write per line: with O_APPEND, lines of several writers do not mix.
        let written = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(text.as_bytes());
        if let Err(error) = written {
            tracing::error!(%error, "an event could not be written");
        }
    }
}
