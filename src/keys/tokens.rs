//! The keys that sign pulses, status lists and attestation results as JWS (ES256). One signs; the next one is published
//! before it does, and the one before stays published until all that it signed has ended.
//!
//! ```text
//! keys/token/1795400000000.key.pem     made under another name, and renamed when it is whole
//! ```
//!
//! A key's name is when it was made, in milliseconds. What each key is for at a moment follows from the names alone: a
//! crash leaves nothing to decide.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use countersign_attestation::UnixMillis;
use countersign_attestation::result::jws::{self, Jwk, JwkSet, Kind};

use super::pkcs11::Uri;
use super::signing::SigningKey;
use super::{KeyError, unusable};
use crate::config::{AuthoritySettings, ConfigError, DataDir, list_dir, replace, sync_dir};

const SUFFIX: &str = ".key.pem";
const UNFINISHED: &str = ".key.new";

/// How long a key stays published after the next one signs: the longest life of a credential, and an hour for clocks
/// and for relying parties that start with a key set of before.
const RETIRED_MS: u64 = 86_400_000 + 3_600_000;

/// The token keys of a broker.
#[derive(Debug)]
pub struct TokenKeys {
    dir: PathBuf,
    jwks: PathBuf,
    settings: AuthoritySettings,
    held: ArcSwap<Held>,
    /// Whoever changes the directory holds it.
    changing: Mutex<()>,
}

/// The keys, oldest first, and which of them signs.
#[derive(Debug)]
struct Held {
    keys: Vec<Arc<TokenKey>>,
    signing: Arc<TokenKey>,
}

struct TokenKey {
    made: UnixMillis,
    key: SigningKey,
    jwk: Jwk,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").field("kid", &self.jwk.kid()).finish_non_exhaustive()
    }
}

impl TokenKey {
    fn sign(&self, kind: Kind, payload: &[u8]) -> Result<String, KeyError> {
        let input = jws::signing_input(kind, self.jwk.kid(), payload);
        Ok(jws::compact(&input, &self.key.sign_fixed(input.as_bytes())?))
    }
}

/// Makes a key.
pub(super) fn create(dir: &Path, place: Option<&Uri>, made: u64) -> Result<(), KeyError> {
    let (unfinished, path) = (dir.join(format!("{made}{UNFINISHED}")), dir.join(format!("{made}{SUFFIX}")));
    SigningKey::create(&unfinished, place.map(|uri| uri.with_suffix(&made.to_string())).as_ref())?;
    std::fs::rename(&unfinished, &path).map_err(ConfigError::file(&path))?;
    Ok(sync_dir(dir)?)
}

impl TokenKeys {
    /// Opens the keys.
    ///
    /// # Errors
    /// [`KeyError`] when there is none, or one cannot be used.
    pub(super) fn load(data: &DataDir, settings: &AuthoritySettings, now: UnixMillis) -> Result<Self, KeyError> {
        let dir = data.keys().join("token");
        let keys = read(&dir, &[])?;
        let signing = signing(&keys, settings.overlap_ms, now)?;
        let jwks = data.public().join("jwks.json");
        let held = ArcSwap::from_pointee(Held { keys, signing });
        Ok(Self { dir, jwks, settings: settings.clone(), held, changing: Mutex::new(()) })
    }

    /// Signs `payload` as a compact JWS of `kind`.
    ///
    /// # Errors
    /// [`KeyError`] when the key cannot be used; nothing was signed.
    pub fn sign(&self, kind: Kind, payload: &[u8]) -> Result<String, KeyError> {
        self.held.load().signing.sign(kind, payload)
    }

    /// The same with the oldest key that is published: relying parties that know it alone learn of the others so.
    ///
    /// # Errors
    /// As [`TokenKeys::sign`].
    pub fn sign_with_oldest(&self, kind: Kind, payload: &[u8]) -> Result<String, KeyError> {
        let held = self.held.load();
        held.keys.first().unwrap_or(&held.signing).sign(kind, payload)
    }

    /// The public key set, for JWT libraries and gates (`use: sig`): the next key before it signs, and those before.
    #[must_use]
    pub fn jwks(&self) -> JwkSet {
        JwkSet::new(self.held.load().keys.iter().map(|key| key.jwk.clone()))
    }

    /// Makes the next key when it is due, lets the one that is published for long enough sign, and forgets those whose
    /// tokens have all ended.
    ///
    /// # Errors
    /// [`KeyError`]; what signed before goes on.
    pub fn tick(&self, now: UnixMillis) -> Result<(), KeyError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.held.load_full();
        let newest = held.keys.last().map_or(UnixMillis(0), |key| key.made);
        if newest.plus(self.settings.token_life_ms) <= now {
            self.make(newest, now)?;
        }
        let mut keys = read(&self.dir, &held.keys)?;
        while let [oldest, next, ..] = keys.as_slice() {
            if now < next.made.plus(self.settings.overlap_ms).plus(RETIRED_MS) {
                break;
            }
            SigningKey::destroy(&self.dir.join(format!("{}{SUFFIX}", oldest.made.0)))?;
            keys.remove(0);
        }
        let signing = signing(&keys, self.settings.overlap_ms, now)?;
        self.held.store(Arc::new(Held { keys, signing }));
        self.publish()
    }

    fn make(&self, newest: UnixMillis, now: UnixMillis) -> Result<(), KeyError> {
        // What a crash left unfinished never signed anything.
        for path in list_dir(&self.dir)? {
            if path.to_str().is_some_and(|name| name.ends_with(UNFINISHED)) {
                SigningKey::destroy(&path)?;
            }
        }
        let made = now.0.max(newest.0.saturating_add(1));
        let place = self.settings.token_key.as_deref().map(Uri::parse).transpose()?;
        create(&self.dir, place.as_ref(), made)?;
        tracing::info!(made, "a new token key signs after the overlap");
        Ok(())
    }

    /// The file that gates and relays start with.
    pub(super) fn publish(&self) -> Result<(), KeyError> {
        let document = self.jwks().to_json();
        if std::fs::read(&self.jwks).is_ok_and(|written| written == document.as_bytes()) {
            return Ok(());
        }
        Ok(replace(&self.jwks, document.as_bytes())?)
    }
}

/// The newest key that has been published for the overlap; before any was, the oldest.
fn signing(keys: &[Arc<TokenKey>], overlap_ms: u64, now: UnixMillis) -> Result<Arc<TokenKey>, KeyError> {
    let known = keys.iter().rev().find(|key| key.made.plus(overlap_ms) <= now);
    known.or(keys.first()).cloned().ok_or_else(|| unusable("read the token keys")("there is none"))
}

/// The keys of the directory, oldest first; those that are held are not read again.
fn read(dir: &Path, held: &[Arc<TokenKey>]) -> Result<Vec<Arc<TokenKey>>, KeyError> {
    let number = |path: &PathBuf| path.file_name()?.to_str()?.strip_suffix(SUFFIX)?.parse().ok().map(UnixMillis);
    let mut keys = Vec::new();
    for path in list_dir(dir)? {
        let Some(made) = number(&path) else { continue };
        if let Some(known) = held.iter().find(|key| key.made == made) {
            keys.push(Arc::clone(known));
            continue;
        }
        let key = SigningKey::load(&path)?;
        let jwk = Jwk::from_point(key.point()).ok_or_else(|| unusable("read a token key")("it is no P-256 key"))?;
        keys.push(Arc::new(TokenKey { made, key, jwk }));
    }
    keys.sort_by_key(|key| key.made);
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use countersign_attestation::UnixMillis;
    use countersign_attestation::result::jws::JwkSet;

    use super::{RETIRED_MS, TokenKeys};
    use crate::config::{AuthoritySettings, DataDir};
    use crate::keys::{Keys, Places};

    const START: UnixMillis = UnixMillis(1_800_000_000_000);
    const LIFE_MS: u64 = 30 * 86_400_000;
    const OVERLAP_MS: u64 = 60_000;

    fn open(dir: &Path, now: UnixMillis) -> TokenKeys {
        TokenKeys::load(&DataDir::at(dir), &AuthoritySettings::default(), now).unwrap()
    }

    fn new() -> (tempfile::TempDir, TokenKeys) {
        let dir = tempfile::tempdir().unwrap();
        Keys::create(&DataDir::at(dir.path()), "fleet.example", &Places::default(), START).unwrap();
        let keys = open(dir.path(), START);
        (dir, keys)
    }

    fn kid(keys: &TokenKeys) -> String {
        keys.held.load().signing.jwk.kid().to_owned()
    }

    fn published(dir: &Path) -> JwkSet {
        JwkSet::parse(&std::fs::read(dir.join("public/jwks.json")).unwrap()).unwrap()
    }

    #[test]
    fn the_next_key_is_published_before_it_signs_and_the_old_one_until_its_tokens_have_ended() {
        let (dir, keys) = new();
        let first = kid(&keys);
        keys.tick(UnixMillis(START.0 + LIFE_MS - 1)).unwrap();
        assert_eq!(keys.jwks().kids().count(), 1);
        let due = START.plus(LIFE_MS);
        keys.tick(due).unwrap();
        assert_eq!((keys.jwks().kids().count(), kid(&keys)), (2, first.clone()));
        assert_eq!(published(dir.path()), keys.jwks(), "in the file that gates start with");
        keys.tick(due.plus(OVERLAP_MS - 1)).unwrap();
        assert_eq!(kid(&keys), first);
        keys.tick(due.plus(OVERLAP_MS)).unwrap();
        let second = kid(&keys);
        assert_ne!(second, first);
        assert_eq!(keys.held.load().keys[0].jwk.kid(), first, "which tells of the others");
        keys.tick(due.plus(OVERLAP_MS + RETIRED_MS - 1)).unwrap();
        assert_eq!(keys.jwks().kids().count(), 2);
        keys.tick(due.plus(OVERLAP_MS + RETIRED_MS)).unwrap();
        assert_eq!(keys.jwks().kids().collect::<Vec<_>>(), [second.as_str()]);
        assert_eq!(published(dir.path()), keys.jwks());
        assert_eq!(std::fs::read_dir(dir.path().join("keys/token")).unwrap().count(), 1, "the old key is gone");
    }

    #[test]
    fn every_state_that_a_crash_leaves_restarts_to_the_same() {
        let (dir, keys) = new();
        let folder = dir.path().join("keys/token");
        let first = kid(&keys);
        let due = START.plus(LIFE_MS);
        let whole = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for unfinished in ["", "-----BEGIN", whole.as_str()] {
            std::fs::write(folder.join("1802592000000.key.new"), unfinished).unwrap();
            let again = open(dir.path(), due);
            assert_eq!((kid(&again), again.jwks().kids().count()), (first.clone(), 1));
        }
        let again = open(dir.path(), due);
        again.tick(due).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "no unfinished key is left");
        // The file for gates was not written any more.
        std::fs::write(dir.path().join("public/jwks.json"), "{}").unwrap();
        let again = open(dir.path(), due.plus(1));
        again.tick(due.plus(1)).unwrap();
        assert_eq!(published(dir.path()), again.jwks());
        assert_eq!(kid(&again), first);
        assert_ne!(kid(&open(dir.path(), due.plus(OVERLAP_MS))), first);
    }

    #[test]
    fn a_clock_that_steps_back_lets_the_key_before_sign() {
        let (dir, keys) = new();
        let first = kid(&keys);
        let ahead = START.plus(10 * LIFE_MS);
        keys.tick(ahead).unwrap();
        keys.tick(ahead.plus(OVERLAP_MS)).unwrap();
        assert_ne!(kid(&keys), first);
        let back = open(dir.path(), START.plus(1));
        back.tick(START.plus(1)).unwrap();
        assert_eq!((kid(&back), back.jwks().kids().count()), (first, 2));
        std::fs::remove_dir_all(dir.path().join("keys/token")).unwrap();
        assert!(TokenKeys::load(&DataDir::at(dir.path()), &AuthoritySettings::default(), START).is_err());
    }
}
