//! The directory a workload reads its credential from.
//!
//! ```text
//! DIR/generations/7/{credential.pem,key.pem,ear.jwt,bundle.pem}
//! DIR/current -> generations/7          replaced by rename(2): the switch from one generation to the next
//! DIR/credential.pem -> current/credential.pem, likewise key.pem, ear.jwt, bundle.pem
//! DIR/status.json
//! DIR/current/wit.jwt                   only where the broker issues WIT-SVIDs
//! ```
//!
//! A reader that wants certificate and key of one generation for sure resolves `current` once and reads both below it:
//! the generation before the current one stays until the next switch.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use countersign_attestation::UnixMillis;
use countersign_attestation::protocol::{AttestationResponse, IssuedCredential};
use serde::Serialize;

use crate::files::{self, At as _, FileError};

const FILES: [&str; 4] = ["credential.pem", "key.pem", "ear.jwt", "bundle.pem"];
/// Only below `current`, and only where the broker issues it.
const WIT_SVID: &str = "wit.jwt";

/// What `status.json` says. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Status {
    /// No attestation has succeeded yet.
    Starting {
        /// Since when.
        since: UnixMillis,
    },
    /// A live credential is here.
    Trusted {
        /// Serial number of the certificate, hex.
        serial: String,
        /// Id of the last decision.
        decision: String,
        /// Trust ends then without another proof.
        lease_until: UnixMillis,
        /// The certificate ends then.
        not_after: UnixMillis,
    },
    /// Trust was lost and the credential removed.
    Lost {
        /// Since when.
        since: UnixMillis,
        /// Stable reason code.
        code: String,
        /// One sentence.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
    /// The agent ended and nothing is enforced any more.
    Stopped {
        /// Since when.
        since: UnixMillis,
    },
}

/// The credential directory; this agent is its only writer.
#[derive(Debug)]
pub struct CredentialDirectory {
    path: PathBuf,
    generation: u64,
    /// Serial and end of the live certificate.
    live: Option<(String, UnixMillis)>,
}

impl CredentialDirectory {
    /// Opens or makes the directory, mode 0700, and removes what an earlier run left: its trust ended with it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(path: &Path, since: UnixMillis) -> Result<Self, FileError> {
        files::private_directory(path)?;
        let path = fs::canonicalize(path).at("resolve", path)?;
        let mut directory = Self { path, generation: 0, live: None };
        directory.remove(&Status::Starting { since })?;
        files::private_directory(&directory.path.join("generations"))?;
        for name in FILES {
            let link = directory.path.join(name);
            files::remove(&link)?;
            symlink(Path::new("current").join(name), &link).at("link", &link)?;
        }
        Ok(directory)
    }

    /// The directory's absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a new generation and switches to it.
    ///
    /// # Errors
    /// [`FileError`]; the generation before stays current.
    pub fn publish(&mut self, credential: &IssuedCredential, key_pem: &str, status: &Status) -> Result<(), FileError> {
        self.generation = self.generation.saturating_add(1);
        self.live = Some((credential.serial.clone(), credential.not_after));
        let target = self.generation_path(self.generation);
        files::private_directory(&target)?;
        let contents = [&credential.certificate_chain, key_pem, &credential.ear, &credential.trust_bundle];
        for (name, content) in FILES.iter().zip(contents) {
            files::create_private(&target.join(name), content.as_bytes())?;
        }
        if let Some(wit_svid) = &credential.wit_svid {
            files::create_private(&target.join(WIT_SVID), wit_svid.as_bytes())?;
        }
        files::sync_directory(&target)?;
        let switch = self.path.join("current.new");
        files::remove(&switch)?;
        symlink(Path::new("generations").join(self.generation.to_string()), &switch).at("link", &switch)?;
        fs::rename(&switch, self.path.join("current")).at("switch", &switch)?;
        files::sync_directory(&self.path)?;
        self.tell(status)?;
        // The one before stays for readers that resolved it; the one before that has had a renewal's time.
        match self.generation.checked_sub(2) {
            Some(old @ 1..) => remove_directory(&self.generation_path(old)),
            Some(0) | None => Ok(()),
        }
    }

    /// Replaces the staple, or takes it away. It is old in seconds, so that nothing is lost with it in a crash.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn staple(&self, staple: Option<&str>) -> Result<(), FileError> {
        let path = self.path.join("staple");
        match staple {
            Some(staple) => files::swap_private(&path, staple.as_bytes()),
            None => files::remove(&path),
        }
    }

    /// Replaces `status.json`.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn tell(&self, status: &Status) -> Result<(), FileError> {
        let path = self.path.join("status.json");
        let text = serde_json::to_vec_pretty(status).map_err(std::io::Error::other).at("write", &path)?;
        files::replace_private(&path, &text)
    }

    /// Notes that the live credential goes on.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn prolong(&self, response: &AttestationResponse) -> Result<(), FileError> {
        let Some((serial, not_after)) = self.live.clone() else { return Ok(()) };
        let (decision, lease_until) = (response.decision.to_hex(), response.lease_until);
        self.tell(&Status::Trusted { serial, decision, lease_until, not_after })
    }

    /// Takes the credential away: first the one link all paths go through, then every generation.
    ///
    /// # Errors
    /// [`FileError`], after everything that could be removed was.
    pub fn remove(&mut self, status: &Status) -> Result<(), FileError> {
        self.live = None;
        let unlinked = files::remove(&self.path.join("current")).and(self.staple(None));
        let generations = self.path.join("generations");
        let zeroised = zeroise_keys(&generations);
        let emptied = remove_directory(&generations);
        let remade = files::private_directory(&generations);
        self.tell(status)?;
        unlinked.and(zeroised).and(emptied).and(remade)
    }

    fn generation_path(&self, generation: u64) -> PathBuf {
        self.path.join("generations").join(generation.to_string())
    }
}

/// Every key file below, also those that an earlier run left.
fn zeroise_keys(generations: &Path) -> Result<(), FileError> {
    let entries = match fs::read_dir(generations) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.at("list", generations)?,
    };
    let keys = entries.flatten().map(|entry| files::zeroise(&entry.path().join("key.pem")));
    keys.fold(Ok(()), Result::and)
}

fn remove_directory(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicBool, Ordering};
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use countersign_attestation::UnixMillis;
    use countersign_attestation::protocol::IssuedCredential;

    use super::{CredentialDirectory, FILES, Status};

    const STARTING: Status = Status::Starting { since: UnixMillis(1) };

    fn credential(generation: u32) -> IssuedCredential {
        IssuedCredential {
            workload_chain: None,
            wit_svid: None,
            jwt_svids: vec![],
            certificate_chain: format!("certificate {generation}"),
            ear: format!("ear {generation}"),
            trust_bundle: "bundle".to_owned(),
            serial: "01".to_owned(),
            not_after: UnixMillis(9),
            renew_at: UnixMillis(8),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn only_the_owner_reads_and_loss_leaves_the_reason_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("deep/credential");
        let mut directory = CredentialDirectory::open(&path, UnixMillis(1)).unwrap();
        directory.publish(&credential(1), "key 1", &STARTING).unwrap();
        assert_eq!(fs::read_to_string(path.join("key.pem")).unwrap(), "key 1");
        assert_eq!(fs::read_to_string(path.join("credential.pem")).unwrap(), "certificate 1");
        for name in FILES {
            assert_eq!(mode(&path.join(name)), 0o600, "{name}");
        }
        for directory in ["", "generations", "current"] {
            assert_eq!(mode(&path.join(directory)), 0o700, "{directory}");
        }
        assert!(!path.join("current/wit.jwt").exists());
        let with = IssuedCredential { wit_svid: Some("wit".to_owned()), ..credential(1) };
        directory.publish(&with, "key 1", &STARTING).unwrap();
        assert_eq!(fs::read_to_string(path.join("current/wit.jwt")).unwrap(), "wit");
        assert_eq!(mode(&path.join("current/wit.jwt")), 0o600);
        let lost = Status::Lost {
            since: UnixMillis(5),
            code: "lease.expired".to_owned(),
            reason: "r".to_owned(),
            remedy: "m".to_owned(),
        };
        directory.staple(Some("pulse~list")).unwrap();
        directory.staple(Some("newer~list")).unwrap();
        assert_eq!(fs::read_to_string(path.join("staple")).unwrap(), "newer~list");
        assert_eq!(mode(&path.join("staple")), 0o600);
        let held = fs::File::open(path.join("key.pem")).unwrap();
        directory.remove(&lost).unwrap();
        assert!(!path.join("staple").exists());
        assert_eq!(std::io::read_to_string(held).unwrap(), "\0\0\0\0\0", "the key is overwritten");
        for name in FILES {
            assert!(!path.join(name).exists(), "{name}");
        }
        assert_eq!(fs::read_dir(path.join("generations")).unwrap().count(), 0);
        let status = fs::read_to_string(path.join("status.json")).unwrap();
        assert!(status.contains("\"state\": \"lost\"") && status.contains("lease.expired"), "{status}");
        directory.publish(&credential(2), "key 2", &STARTING).unwrap();
        assert_eq!(fs::read_to_string(path.join("key.pem")).unwrap(), "key 2");
    }

    #[test]
    fn a_new_run_starts_without_the_credential_of_the_last() {
        let temporary = tempfile::tempdir().unwrap();
        let mut first = CredentialDirectory::open(temporary.path(), UnixMillis(1)).unwrap();
        first.publish(&credential(1), "key 1", &STARTING).unwrap();
        drop(first);
        let second = CredentialDirectory::open(temporary.path(), UnixMillis(2)).unwrap();
        assert!(!second.path().join("key.pem").exists());
    }

    #[test]
    fn a_reader_never_sees_certificate_and_key_of_different_generations() {
        let temporary = tempfile::tempdir().unwrap();
        let mut directory = CredentialDirectory::open(temporary.path(), UnixMillis(1)).unwrap();
        directory.publish(&credential(1), "key 1", &STARTING).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut pairs = 0_u32;
                while !done.load(Ordering::Relaxed) || pairs == 0 {
                    // Two switches while we looked away: then the generation is gone, whole.
                    let Ok(resolved) = fs::canonicalize(temporary.path().join("current")) else { continue };
                    let read = |name: &str| fs::read_to_string(resolved.join(name));
                    let (Ok(certificate), Ok(key)) = (read("credential.pem"), read("key.pem")) else { continue };
                    assert_eq!(certificate.split(' ').nth(1), key.split(' ').nth(1));
                    pairs += 1;
                }
                pairs
            });
            for generation in 2..200 {
                directory.publish(&credential(generation), &format!("key {generation}"), &STARTING).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            assert!(0 < reader.join().unwrap());
        });
        assert_eq!(fs::read_dir(temporary.path().join("generations")).unwrap().count(), 2);
    }
}
