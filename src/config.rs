//! The broker's settings (`config.toml`, read once) and the data directory they live in.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::num::NonZero;
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
    /// Address of the SPIFFE bundle endpoint for other trust domains; without it there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub federation_listen: Option<SocketAddr>,
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
    /// Whether credentials come with a WIT-SVID, which is a draft.
    #[serde(default)]
    pub wit_svid: bool,
    /// How many operators must sign a reference manifest: more than one, and none of them can admit a host alone.
    #[serde(default = "one")]
    pub reference_signatures: NonZero<u8>,
    /// How the workload authority's keys come and go.
    #[serde(default)]
    pub authority: AuthoritySettings,
}

const fn one() -> NonZero<u8> {
    NonZero::<u8>::MIN
}

const fn clock_error_max_ms() -> u64 {
    ERROR_MAX_MS
}

/// How the workload authority's keys come and go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthoritySettings {
    /// Life of an issuing certificate, milliseconds. The next one is made when two thirds are over.
    pub issuing_life_ms: u64,
    /// How long what is new is published before it is used, milliseconds.
    pub overlap_ms: u64,
    /// Whether issuing certificates name the trust domain as the only one they are for.
    pub name_constraints: NameConstraints,
    /// Where issuing keys are made: a `pkcs11:` URI, to whose object name each adds a number. Without it, in files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuing_key: Option<String>,
    /// How long a new root is in the bundle before it signs, milliseconds: relying parties are given it meanwhile.
    pub root_overlap_ms: u64,
    /// When the next token key is made, after the one before, milliseconds.
    pub token_life_ms: u64,
    /// Where token keys are made, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_key: Option<String>,
}

impl Default for AuthoritySettings {
    fn default() -> Self {
        Self {
            issuing_life_ms: 7 * 86_400_000,
            overlap_ms: 60_000,
            name_constraints: NameConstraints::Uri,
            issuing_key: None,
            root_overlap_ms: 7 * 86_400_000,
            token_life_ms: 30 * 86_400_000,
            token_key: None,
        }
    }
}

/// What issuing certificates are constrained to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NameConstraints {
    /// URIs of the trust domain (RFC 5280, 4.2.1.10), critical.
    #[default]
    Uri,
    /// Nothing, for relying parties that refuse every constraint of URIs, as rustls-webpki 0.103 does.
    None,
}

impl AuthoritySettings {
    /// Longest and shortest life of an issuing certificate.
    const LIFE_MS: std::ops::RangeInclusive<u64> = 3_600_000..=90 * 86_400_000;
    /// Bundles are carried by hand in some places.
    const ROOT_OVERLAP_MS: std::ops::RangeInclusive<u64> = 3_600_000..=365 * 86_400_000;
    /// A retired key stays published for a day: shorter lives would only pile up keys.
    const TOKEN_LIFE_MS: std::ops::RangeInclusive<u64> = 2 * 86_400_000..=365 * 86_400_000;
    /// A pulse takes five seconds at most to reach a gate, and nobody waits longer than a day.
    const OVERLAP_MS: std::ops::RangeInclusive<u64> = 10_000..=86_400_000;

    fn check(&self, credential_ttl_ms: u64) -> Result<(), (&'static str, String)> {
        if !Self::LIFE_MS.contains(&self.issuing_life_ms) {
            return Err(("authority.issuing_life_ms: an hour to 90 days", self.issuing_life_ms.to_string()));
        }
        if !Self::ROOT_OVERLAP_MS.contains(&self.root_overlap_ms) {
            return Err(("authority.root_overlap_ms: an hour to a year", self.root_overlap_ms.to_string()));
        }
        if !Self::TOKEN_LIFE_MS.contains(&self.token_life_ms) {
            return Err(("authority.token_life_ms: two days to a year", self.token_life_ms.to_string()));
        }
        if !Self::OVERLAP_MS.contains(&self.overlap_ms) {
            return Err(("authority.overlap_ms: 10 seconds to a day", self.overlap_ms.to_string()));
        }
        // In the last third of the old key's life the new one is published and takes over, and the old leaves end.
        let needed = self.overlap_ms.saturating_add(credential_ttl_ms);
        if self.issuing_life_ms / 3 <= needed {
            let expected = "authority.issuing_life_ms: more than thrice overlap_ms and credential_ttl_ms together";
            return Err((expected, self.issuing_life_ms.to_string()));
        }
        Ok(())
    }
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
            federation_listen: None,
            server_names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            credential_ttl_ms: 300_000,
            lease_ms: 45_000,
            attest_interval_ms: 15_000,
            pulse_period_ms: 1000,
            pulse_validity_ms: 5000,
            workload_keys: WorkloadKeys::Refuse,
            clock_sync: ClockSync::Kernel,
            clock_error_max_ms: ERROR_MAX_MS,
            wit_svid: false,
            reference_signatures: one(),
            authority: AuthoritySettings::default(),
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
        self.authority.check(self.credential_ttl_ms)
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

/// Puts a file (0600) in the place of another, or of none: whole and durable when this returns, and never seen in part.
///
/// # Errors
/// [`ConfigError::File`]; what was there before is there still.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), ConfigError> {
    let next = path.with_added_extension("new");
    let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next);
    let written = written.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(ConfigError::file(&next))?;
    fs::rename(&next, path).map_err(ConfigError::file(path))?;
    sync_dir(path.parent().unwrap_or(path))
}

/// Makes the names in a directory durable.
///
/// # Errors
/// [`ConfigError::File`].
pub fn sync_dir(dir: &Path) -> Result<(), ConfigError> {
    fs::File::open(dir).and_then(|opened| opened.sync_all()).map_err(ConfigError::file(dir))
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
    use super::{AuthoritySettings, Config, replace};

    fn config() -> Config {
        Config::for_domain("example.org", "127.0.0.1:8443".parse().unwrap())
    }

    fn authority(change: impl FnOnce(&mut AuthoritySettings)) -> Config {
        let mut config = config();
        change(&mut config.authority);
        config
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pem");
        // What a crash left.
        std::fs::write(dir.path().join("a.pem.new"), "half of something longer").unwrap();
        for text in ["first", "second"] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
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
            authority(|settings| settings.issuing_life_ms = 3_599_999),
            authority(|settings| settings.issuing_life_ms = 90 * 86_400_000 + 1),
            authority(|settings| settings.token_life_ms = 2 * 86_400_000 - 1),
            authority(|settings| settings.token_life_ms = 365 * 86_400_000 + 1),
            authority(|settings| settings.root_overlap_ms = 3_599_999),
            authority(|settings| settings.root_overlap_ms = 365 * 86_400_000 + 1),
            authority(|settings| settings.overlap_ms = 9_999),
            authority(|settings| settings.overlap_ms = 86_400_001),
            Config { credential_ttl_ms: 1_140_000, ..authority(|settings| settings.issuing_life_ms = 3_600_000) },
        ];
        for config in bad {
            assert!(config.check().is_err(), "{config:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let text = toml::to_string(&config()).unwrap();
        for text in [format!("insecure = true\n{text}"), text.replace("lease_ms = 45000\n", "")] {
            std::fs::write(&path, text).unwrap();
            assert!(Config::load(&path).is_err());
        }
    }
}
