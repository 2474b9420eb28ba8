//! What an enrolled host remembers: the AK, the channel key and certificate, and whom it talks to.

use std::path::{Path, PathBuf};

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::HostId;
use serde::{Deserialize, Serialize};

use crate::endorser::Endorser;
use crate::files::{self, FileError};
use crate::keys::{Ak, AkKind};

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file's content cannot be read.
    #[error("{} is damaged: {error}; remove it and enrol again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        error: String,
    },
    /// There is no enrolment yet.
    #[error("{} holds no enrolment; run `countersign-agent enroll` first", .0.display())]
    NotEnrolled(PathBuf),
}

/// An enrolment: begun when the keys exist, complete when the channel certificate is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrollment {
    /// Id an operator registered.
    pub host: HostId,
    /// Base URL of the broker.
    pub broker: String,
    /// TPM transport.
    pub tcti: String,
    /// The key that the host is known by.
    pub by: Endorser,
    /// SHA-256 of that key's `SubjectPublicKeyInfo`.
    pub endorsed_key: Sha256Digest,
    /// Algorithm of the AK.
    pub ak: AkKind,
    /// The AK.
    pub ak_key: Ak,
    /// The control CA the broker's certificate must lead to, PEM.
    pub broker_ca: String,
    /// Channel certificate, PEM; absent until the enrolment is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_certificate: Option<String>,
    /// The broker's token keys, a JWKS document; absent when they could not be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_keys: Option<String>,
}

/// The state directory.
#[derive(Clone, Debug)]
pub struct StateDirectory {
    path: PathBuf,
}

impl StateDirectory {
    /// Opens or makes the directory, mode 0700.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        files::private_directory(path)?;
        Ok(Self { path: path.to_path_buf() })
    }

    /// Where credentials go unless told otherwise.
    #[must_use]
    pub fn credential_directory(&self) -> PathBuf {
        self.path.join("credential")
    }

    /// The enrolment, begun or complete.
    ///
    /// # Errors
    /// [`StateError::File`], [`StateError::Damaged`].
    pub fn enrollment(&self) -> Result<Option<Enrollment>, StateError> {
        let path = self.path.join("enrollment.json");
        let Some(content) = files::read_if_there(&path)? else { return Ok(None) };
        let damaged = |error: serde_json::Error| StateError::Damaged { path, error: error.to_string() };
        serde_json::from_slice(&content).map(Some).map_err(damaged)
    }

    /// The complete enrolment with its channel key (PKCS#8 PEM).
    ///
    /// # Errors
    /// [`StateError::NotEnrolled`] besides the errors of reading.
    pub fn enrolled(&self) -> Result<(Enrollment, String), StateError> {
        let complete = self.enrollment()?.filter(|enrollment| enrollment.channel_certificate.is_some());
        let channel_key = self.channel_key()?;
        complete.zip(channel_key).ok_or_else(|| StateError::NotEnrolled(self.path.clone()))
    }

    /// The channel key, PKCS#8 PEM.
    ///
    /// # Errors
    /// [`StateError::File`], [`StateError::Damaged`].
    pub fn channel_key(&self) -> Result<Option<String>, StateError> {
        let path = self.path.join("channel-key.pem");
        let Some(content) = files::read_if_there(&path)? else { return Ok(None) };
        let damaged = |error: std::string::FromUtf8Error| StateError::Damaged { path, error: error.to_string() };
        String::from_utf8(content).map(Some).map_err(damaged)
    }

    /// Stores the channel key. It comes before the enrolment, so that no enrolment lacks it.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn store_channel_key(&self, pem: &str) -> Result<(), StateError> {
        files::replace_private(&self.path.join("channel-key.pem"), pem.as_bytes()).map_err(StateError::from)
    }

    /// Stores the enrolment.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn store(&self, enrollment: &Enrollment) -> Result<(), StateError> {
        let path = self.path.join("enrollment.json");
        let damaged = |error: serde_json::Error| StateError::Damaged { path: path.clone(), error: error.to_string() };
        let content = serde_json::to_vec_pretty(enrollment).map_err(damaged)?;
        files::replace_private(&path, &content).map_err(StateError::from)
    }
}
