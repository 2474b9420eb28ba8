//! The broker's settings (`config.toml`, read once) and the data directory they live in.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use countersign_clock::{ClockSync, ERROR_MAX_MS, Keeper};
use serde::{Deserialize, Serialize};

/// Settings of one broker. Every member is required: a forgotten one is an error at start, not a default at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// SPIFFE trust domain this broker speaks for.
    pub trust_domain: String,
    /// Address of the HTTPS listener.
    pub listen: SocketAddr,
    /// DNS names and IP addresses in the broker's own certificate.
    pub server_names: Vec<String>,
    /// Longest life of a credential, milliseconds.
    pub credential_ttl_ms: u64,
    /// Longest time between two successful appraisals, milliseconds.
    pub lease_ms: u64,
    /// When a host is told to attest again, milliseconds.
    pub attest_interval_ms: u64,
    /// Time between pulses, milliseconds.
    pub pulse_period_ms: u64,
    /// Y: how long after its basis a pulse is valid, milliseconds.
    pub pulse_validity_ms: u64,
    /// Whether keys of workloads, which live in memory, are certified beside the credential key. Settings of before it
    /// could be chosen say no.
    #[serde(default)]
    pub workload_keys: WorkloadKeys,
    /// Who vouches for this machine's clock: the kernel, where settings say nothing.
    #[serde(default)]
    pub clock_sync: ClockSync,
    /// The clock error beyond which nothing is signed; with `asserted`, the error that is vouched for. Milliseconds.
    #[serde(default = "clock_error_max_ms")]
    pub clock_error_max_ms: u64,
}

const fn clock_error_max_ms() -> u64 {
    ERROR_MAX_MS
}

/// Whether keys in a host's memory are certified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKeys {
    /// Only keys that live in the TPM.
    #[default]
    Refuse,
    /// Also those that the credential key vouches for; their certificates say so.
    Issue,
}

/// The settings or the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file's content is not what it has to be.
    #[error("{path}: expected {expected}, found {found}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What would be accepted.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl ConfigError {
    /// The content of `path` is not acceptable.
    pub fn content(path: &Path, expected: impl ToString, found: impl ToString) -> Self {
        Self::Content { path: path.to_owned(), expected: expected.to_string(), found: found.to_string() }
    }

    /// Attaches a path to an I/O error.
    pub fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

impl Config {
    /// The settings `countersign init` writes: the defaults of the design for one trust domain.
    #[must_use]
    pub fn for_domain(trust_domain: &str, listen: SocketAddr) -> Self {
        Self {
            trust_domain: trust_domain.to_owned(),
            listen,
            server_names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            credential_ttl_ms: 300_000,
            lease_ms: 45_000,
            attest_interval_ms: 15_000,
            pulse_period_ms: 1000,
            pulse_validity_ms: 5000,
            workload_keys: WorkloadKeys::Refuse,
            clock_sync: ClockSync::Kernel,
            clock_error_max_ms: ERROR_MAX_MS,
        }
    }

    /// Who vouches for the clock, and for how much.
    #[must_use]
    pub const fn keeper(&self) -> Keeper {
        Keeper::new(self.clock_sync, self.clock_error_max_ms)
    }

    /// Reads and checks `config.toml`.
    ///
    /// # Errors
    /// [`ConfigError`] for unreadable files, unknown or missing members, and values that contradict each other.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(ConfigError::file(path))?;
        let config: Self =
            toml::from_str(&text).map_err(|error| ConfigError::content(path, "the documented settings", error))?;
        config.check().map_err(|(expected, found)| ConfigError::content(path, expected, found))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let domain_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
        if self.trust_domain.is_empty() || 255 < self.trust_domain.len() || !self.trust_domain.bytes().all(domain_byte)
        {
            return Err(("trust_domain: a SPIFFE trust domain (a-z, 0-9, '-', '.', '_')", self.trust_domain.clone()));
        }
        if self.server_names.is_empty() {
            return Err(("server_names: at least one name", "none".to_owned()));
        }
        let ascending = [self.pulse_period_ms, self.pulse_validity_ms, self.lease_ms, self.credential_ttl_ms];
        if self.pulse_period_ms == 0 || !ascending.is_sorted_by(|low, high| low < high) {
            let expected = "0 < pulse_period_ms < pulse_validity_ms < lease_ms < credential_ttl_ms";
            return Err((expected, format!("{ascending:?}")));
        }
        if countersign_attestation::pulse::Y_MAX_MS < self.pulse_validity_ms {
            return Err(("pulse_validity_ms: at most what gates accept", self.pulse_validity_ms.to_string()));
        }
        if self.attest_interval_ms == 0 || self.lease_ms <= self.attest_interval_ms {
            return Err(("0 < attest_interval_ms < lease_ms", self.attest_interval_ms.to_string()));
        }
        if self.clock_error_max_ms == 0 || ERROR_MAX_MS < self.clock_error_max_ms {
            return Err(("0 < clock_error_max_ms <= 1000", self.clock_error_max_ms.to_string()));
        }
        if 86_400_000 < self.credential_ttl_ms {
            return Err(("credential_ttl_ms: at most a day", self.credential_ttl_ms.to_string()));
        }
        Ok(())
    }
}

/// The broker's data directory and the names of what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The data directory at `path`.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `config.toml`.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// Private keys, 0600.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// What relying parties, hosts and auditors pin: CA certificates, signing keys, the log's key.
    #[must_use]
    pub fn public(&self) -> PathBuf {
        self.0.join("public")
    }

    /// One file for each operator who may use the operator routes.
    #[must_use]
    pub fn operators(&self) -> PathBuf {
        self.0.join("operators")
    }

    /// Pinned vendor roots.
    #[must_use]
    pub fn anchors(&self) -> PathBuf {
        self.0.join("anchors")
    }

    /// Revocation lists that vendors sign.
    #[must_use]
    pub fn collateral(&self) -> PathBuf {
        self.0.join("collateral")
    }

    /// Where collateral is fetched from, and how long it may be late; may be absent.
    #[must_use]
    pub fn collateral_settings(&self) -> PathBuf {
        self.0.join("collateral.toml")
    }

    /// Cedar policies.
    #[must_use]
    pub fn policies(&self) -> PathBuf {
        self.0.join("policies")
    }

    /// The embedded store's file.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.0.join("store.redb")
    }

    /// The lineage log: segments, tiles, checkpoint.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Archived inputs of decisions, by digest.
    #[must_use]
    pub fn archive(&self) -> PathBuf {
        self.0.join("archive")
    }
}

/// Creates a directory (0700) and its parents.
///
/// # Errors
/// [`ConfigError::File`].
pub fn create_private_dir(path: &Path) -> Result<(), ConfigError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(ConfigError::file(path))
}

/// Writes a file that is not there yet (0600) and makes it durable. An existing file is an error: keys are not
/// replaced.
///
/// # Errors
/// [`ConfigError::File`].
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), ConfigError> {
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(ConfigError::file(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(ConfigError::file(path))
}

/// Reads a file of at most `size_max` bytes.
///
/// # Errors
/// [`ConfigError`] when it cannot be read or is larger.
pub fn read_bounded(path: &Path, size_max: u64) -> Result<Vec<u8>, ConfigError> {
    let size = fs::metadata(path).map_err(ConfigError::file(path))?.len();
    if size_max < size {
        return Err(ConfigError::content(path, format!("at most {size_max} bytes"), format!("{size} bytes")));
    }
    fs::read(path).map_err(ConfigError::file(path))
}

/// The entries of a directory in name order; none when it is not there.
///
/// # Errors
/// [`ConfigError::File`] when it is there and cannot be read.
pub fn list_dir(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ConfigError::file(path)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        found.push(entry.map_err(ConfigError::file(path))?.path());
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::Config;

    fn config() -> Config {
        Config::for_domain("example.org", "127.0.0.1:8443".parse().unwrap())
    }

    #[test]
    fn defaults_are_consistent_and_survive_the_file() {
        assert_eq!(config().check(), Ok(()));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, toml::to_string(&config()).unwrap()).unwrap();
        assert_eq!(Config::load(&path).unwrap(), config());
    }

    #[test]
    fn contradictions_unknown_and_missing_members_refuse_to_start() {
        let bad = [
            Config { trust_domain: "Ünsafe".into(), ..config() },
            Config { trust_domain: String::new(), ..config() },
            Config { server_names: vec![], ..config() },
            Config { pulse_period_ms: 0, ..config() },
            Config { pulse_validity_ms: 60_000, ..config() },
            Config { pulse_validity_ms: 11_000, ..config() },
            Config { lease_ms: 300_000, ..config() },
            Config { attest_interval_ms: 45_000, ..config() },
            Config { credential_ttl_ms: 100_000_000, ..config() },
            Config { clock_error_max_ms: 0, ..config() },
            Config { clock_error_max_ms: 1_001, ..config() },
        ];
        for config in bad {
            assert!(config.check().is_err(), "{config:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let text = toml::to_string(&config()).unwrap();
        for text in [format!("{text}insecure = true\n"), text.replace("lease_ms = 45000\n", "")] {
            std::fs::write(&path, text).unwrap();
            assert!(Config::load(&path).is_err());
        }
    }
}
