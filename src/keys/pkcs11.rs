//! Keys in a PKCS#11 token: an HSM, or a TPM behind the `tpm2-pkcs11` module. The private key never leaves it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use countersign_attestation::digest::Sha256Digest;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use super::{KeyError, unusable};
use crate::config::read_bounded;

/// What a file starts with that names a key instead of holding it.
pub(super) const SCHEME: &str = "pkcs11:";
/// namedCurve prime256v1 (RFC 5480, 2.1.1.1).
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// OCTET STRING of an uncompressed point (PKCS#11 3.1, 6.3.3).
const POINT_HEADER: [u8; 3] = [0x04, 0x41, 0x04];
const PIN_BYTES_MAX: u64 = 256;

/// Which key (RFC 7512): the token and the object by their labels, the module, and the file with the PIN. The PIN
/// itself is no part of it: URIs are printed, kept in settings, and seen on command lines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uri {
    module: PathBuf,
    token: String,
    object: String,
    pin_source: PathBuf,
}

impl Uri {
    /// Reads a URI. An attribute that is not one of `token`, `object`, `type=private`, `module-path` and `pin-source`
    /// is an error: it might have been meant to choose.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let refused = unusable::<String>("read a pkcs11: URI");
        let rest = text.trim_ascii().strip_prefix(SCHEME).ok_or_else(|| refused("it starts otherwise".to_owned()))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut found = BTreeMap::new();
        for part in path.split(';').chain(query.split('&')).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| refused(format!("{part} has no value")))?;
            let value = percent_encoding::percent_decode_str(value).decode_utf8();
            let value = value.map_err(|_| refused(format!("{name} is not text")))?.into_owned();
            match name {
                "token" | "object" | "module-path" | "pin-source" => {}
                "type" if value == "private" => continue,
                "pin-value" => {
                    return Err(refused("pin-value is for nobody to see: use pin-source=file:PATH".to_owned()));
                }
                _ => return Err(refused(format!("{name} is not read here"))),
            }
            if value.is_empty() || found.insert(name.to_owned(), value).is_some() {
                return Err(refused(format!("{name} is empty, or there twice")));
            }
        }
        let mut take = |name: &str| found.remove(name).ok_or_else(|| refused(format!("{name} is missing")));
        let (module, token, object) = (take("module-path")?, take("token")?, take("object")?);
        let pin_source = take("pin-source")?;
        let pin_source = pin_source.strip_prefix("file:").unwrap_or(&pin_source);
        let pin_source = PathBuf::from(pin_source.strip_prefix("//").unwrap_or(pin_source));
        let module = PathBuf::from(module);
        if !module.is_absolute() || !pin_source.is_absolute() {
            return Err(refused("module-path and pin-source are absolute paths".to_owned()));
        }
        Ok(Self { module, token, object, pin_source })
    }

    /// The same place, for an object with more in its label.
    #[must_use]
    pub fn with_suffix(&self, suffix: &str) -> Self {
        Self { object: format!("{}-{suffix}", self.object), ..self.clone() }
    }
}

impl std::fmt::Display for Uri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let encode =
            |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let (module, pin) = (self.module.display().to_string(), self.pin_source.display().to_string());
        write!(f, "{SCHEME}token={};object={};type=private", encode(&self.token), encode(&self.object))?;
        write!(f, "?module-path={}&pin-source=file:{}", encode(&module), encode(&pin))
    }
}

/// A P-256 key in a token.
pub(super) struct TokenKey {
    uri: Uri,
    point: Vec<u8>,
    /// None after a failure: the next signature opens it again.
    open: Mutex<Option<(Session, ObjectHandle)>>,
}

impl TokenKey {
    /// Opens the key that is there.
    pub(super) fn load(uri: Uri) -> Result<Self, KeyError> {
        Self::load_with(&mut lock(&MODULES), uri)
    }

    fn load_with(modules: &mut Modules, uri: Uri) -> Result<Self, KeyError> {
        let session = modules.open(&uri)?;
        let point = public_point(&session, &uri)?;
        let key = private(&session, &uri)?;
        Ok(Self { uri, point, open: Mutex::new(Some((session, key))) })
    }

    /// Makes the key in the token, where it cannot be read from. A label that is taken is an error.
    pub(super) fn create(uri: Uri) -> Result<Self, KeyError> {
        let mut modules = lock(&MODULES);
        let session = modules.open(&uri)?;
        if exists(&session, &uri)? {
            return Err(failed(&uri)("an object with this label exists"));
        }
        let label = || Attribute::Label(uri.object.clone().into_bytes());
        // The same id on both, which is how modules find one by the other.
        let id = || Attribute::Id(Sha256Digest::of(&[uri.object.as_bytes()]).0.to_vec());
        let public = [
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Verify(true),
            Attribute::EcParams(P256.to_vec()),
            label(),
            id(),
        ];
        let private = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            label(),
            id(),
        ];
        session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).map_err(failed(&uri))?;
        drop(session);
        Self::load_with(&mut modules, uri)
    }

    pub(super) fn point(&self) -> &[u8] {
        &self.point
    }

    /// ECDSA over SHA-256, r || s. A session that was lost is opened again, once; a token that is away is an error
    /// until it is back.
    pub(super) fn sign(&self, message: &[u8]) -> Result<[u8; 64], KeyError> {
        let mut modules = lock(&MODULES);
        let mut open = lock(&self.open);
        if let Some((session, key)) = open.take()
            && let Ok(signature) = self.sign_in(&session, key, message)
        {
            *open = Some((session, key));
            return Ok(signature);
        }
        let session = modules.open(&self.uri)?;
        let key = private(&session, &self.uri)?;
        let signature = self.sign_in(&session, key, message)?;
        *open = Some((session, key));
        Ok(signature)
    }

    fn sign_in(&self, session: &Session, key: ObjectHandle, message: &[u8]) -> Result<[u8; 64], KeyError> {
        let digest = Sha256Digest::of(&[message]);
        let signature = session.sign(&Mechanism::Ecdsa, key, &digest.0).map_err(failed(&self.uri))?;
        // A token that signs wrongly, or with another key, is found out here and not by relying parties.
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.point);
        public.verify(message, &signature).map_err(|_| failed(&self.uri)("the token made a wrong signature"))?;
        signature.try_into().map_err(|_| failed(&self.uri)("the token made no ECDSA signature"))
    }
}

/// Whether the token is there, and opens.
pub(super) fn check(uri: &Uri) -> Result<(), KeyError> {
    lock(&MODULES).open(uri).map(drop)
}

/// Destroys the key, where it is there.
pub(super) fn destroy(uri: &Uri) -> Result<(), KeyError> {
    let mut modules = lock(&MODULES);
    let session = modules.open(uri)?;
    let objects = session.find_objects(&[Attribute::Label(uri.object.clone().into_bytes())]).map_err(failed(uri))?;
    objects.into_iter().try_for_each(|object| session.destroy_object(object).map_err(failed(uri)))
}

/// Modules that were loaded, each initialised once in a process (PKCS#11 3.1, 5.4). Whoever calls into one holds the
/// lock: a module that is initialised anew under another call has no defined behaviour, and a token is slow anyway.
static MODULES: Mutex<Modules> = Mutex::new(Modules { loaded: BTreeMap::new(), refused: BTreeMap::new() });

struct Modules {
    loaded: BTreeMap<PathBuf, Pkcs11>,
    /// PINs that a token refused, by module and label: tried again, they would lock it.
    refused: BTreeMap<(PathBuf, String), Sha256Digest>,
}

impl Modules {
    fn load(&mut self, path: &Path) -> Result<Pkcs11, Error> {
        if let Some(module) = self.loaded.get(path) {
            return Ok(module.clone());
        }
        let module = Pkcs11::new(path)?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(error),
        }
        self.loaded.insert(path.to_owned(), module.clone());
        Ok(module)
    }

    /// A session with the token that has the label, logged in.
    fn open(&mut self, uri: &Uri) -> Result<Session, KeyError> {
        let pin = Zeroizing::new(read_bounded(&uri.pin_source, PIN_BYTES_MAX)?);
        let pin = str::from_utf8(&pin).map_err(|_| failed(uri)("the PIN is not text"))?.trim_end_matches(['\r', '\n']);
        let (token, digest) = ((uri.module.clone(), uri.token.clone()), Sha256Digest::of(&[pin.as_bytes()]));
        if self.refused.get(&token) == Some(&digest) {
            return Err(failed(uri)("the token refused this PIN before, and is not asked again until it is another"));
        }
        let session = self.session(uri)?;
        match session.login(UserType::User, Some(&AuthPin::new(pin.into()))) {
            // All sessions of a process share one login (PKCS#11 3.1, 5.6.8).
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(error) => {
                if matches!(error, Error::Pkcs11(RvError::PinIncorrect | RvError::PinLocked | RvError::PinLenRange, _))
                {
                    self.refused.insert(token, digest);
                }
                Err(failed(uri)(error))
            }
        }
    }

    /// A module may see tokens that come back only when it is initialised anew. Sessions of other keys are lost with
    /// that, and opened again when they are used.
    fn session(&mut self, uri: &Uri) -> Result<Session, KeyError> {
        let module = self.load(&uri.module).map_err(failed(uri))?;
        if let Ok(session) = session(&module, uri) {
            return Ok(session);
        }
        drop(module);
        if let Some(module) = self.loaded.remove(&uri.module) {
            // One that cannot even end is tried again all the same.
            let _ended = module.finalize();
        }
        session(&self.load(&uri.module).map_err(failed(uri))?, uri)
    }
}

fn session(module: &Pkcs11, uri: &Uri) -> Result<Session, KeyError> {
    let mut tokens = Vec::new();
    for slot in module.get_slots_with_token().map_err(failed(uri))? {
        // A slot whose token cannot be read is not the one.
        if module.get_token_info(slot).is_ok_and(|info| info.label().trim_end() == uri.token) {
            tokens.push(slot);
        }
    }
    let [slot] = tokens.as_slice() else {
        return Err(failed(uri)(format!("{} tokens have the label", tokens.len())));
    };
    module.open_rw_session(*slot).map_err(failed(uri))
}

fn exists(session: &Session, uri: &Uri) -> Result<bool, KeyError> {
    let objects = session.find_objects(&[Attribute::Label(uri.object.clone().into_bytes())]).map_err(failed(uri))?;
    Ok(!objects.is_empty())
}

/// The one object of a class with the label: of two, none is meant.
fn one(session: &Session, uri: &Uri, class: ObjectClass) -> Result<ObjectHandle, KeyError> {
    let label = Attribute::Label(uri.object.clone().into_bytes());
    let template = [Attribute::Class(class), Attribute::KeyType(KeyType::EC), label];
    let objects = session.find_objects(&template).map_err(failed(uri))?;
    let [object] = objects.as_slice() else {
        return Err(failed(uri)(format!("{} EC keys have the label", objects.len())));
    };
    Ok(*object)
}

fn private(session: &Session, uri: &Uri) -> Result<ObjectHandle, KeyError> {
    one(session, uri, ObjectClass::PRIVATE_KEY)
}

fn public_point(session: &Session, uri: &Uri) -> Result<Vec<u8>, KeyError> {
    let object = one(session, uri, ObjectClass::PUBLIC_KEY)?;
    let wanted = [AttributeType::EcParams, AttributeType::EcPoint];
    let mut point = None;
    let mut curve = false;
    for attribute in session.get_attributes(object, &wanted).map_err(failed(uri))? {
        if let Attribute::EcPoint(bytes) = attribute {
            point = bytes.strip_prefix(&POINT_HEADER).filter(|rest| rest.len() == 64).map(|rest| [&[4], rest].concat());
        } else if let Attribute::EcParams(params) = attribute {
            curve = params == P256;
        }
    }
    point.filter(|_| curve).ok_or_else(|| failed(uri)("it is not a P-256 key"))
}

fn failed<E: ToString>(uri: &Uri) -> impl Fn(E) -> KeyError {
    let which = format!("token {}, object {}", uri.token, uri.object);
    move |error| KeyError::Away { which: which.clone(), reason: error.to_string() }
}

/// What is inside is replaced in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use countersign_attestation::UnixMillis;
    use countersign_attestation::result::jws::Kind;
    use countersign_attestation::result::svid::TrustDomain;

    use super::Uri;
    use crate::config::{AuthoritySettings, DataDir};
    use crate::keys::signing::SigningKey;
    use crate::keys::{KeyError, Keys, LeafProfile, Places, Root};

    const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
    const START: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn a_uri_names_one_key_and_never_a_pin() {
        let text =
            "pkcs11:token=My%20token;object=root;type=private?module-path=/usr/lib/p11.so&pin-source=file:/run/pin";
        let uri = Uri::parse(text).unwrap();
        assert_eq!((uri.token.as_str(), uri.object.as_str()), ("My token", "root"));
        assert_eq!(Uri::parse(&uri.to_string()).unwrap(), uri);
        assert_eq!(uri.with_suffix("7").object, "root-7");
        assert_eq!(Uri::parse(&text.replace("file:/run", "file:///run")).unwrap(), uri);
        assert_eq!(Uri::parse(&text.replace("file:/run", "/run")).unwrap(), uri);
        for (from, to, why) in [
            ("pkcs11:", "file:", "starts otherwise"),
            ("pin-source=file:/run/pin", "pin-value=1234", "pin-source"),
            ("token=My%20token;", "", "token is missing"),
            ("object=root;", "", "object is missing"),
            ("object=root", "object=", "empty"),
            ("object=root", "object=root;object=other", "twice"),
            ("object=root", "id=%01", "id is not read"),
            ("type=private", "type=cert", "type is not read"),
            ("module-path=/usr", "module-path=usr", "absolute"),
            ("file:/run", "file:run", "absolute"),
            ("&pin-source=file:/run/pin", "", "pin-source is missing"),
            ("object=root", "object", "no value"),
        ] {
            let error = Uri::parse(&text.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("1234"), "{to}: {error}");
        }
    }

    /// A SoftHSM token in a folder. Its module is configured by the environment of the process that loads it, so each
    /// test runs itself again in one of its own.
    #[expect(clippy::disallowed_methods, reason = "whether this is the process with the token")]
    fn with_token(name: &str, test: impl FnOnce(&Path)) {
        const FOLDER: &str = "COUNTERSIGN_TEST_TOKEN";
        if let Ok(folder) = std::env::var(FOLDER) {
            return test(Path::new(&folder));
        }
        let folder = tempfile::tempdir().unwrap();
        let conf = folder.path().join("softhsm2.conf");
        let tokens = folder.path().join("tokens");
        fs::create_dir(&tokens).unwrap();
        fs::write(&conf, format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display())).unwrap();
        fs::write(folder.path().join("pin"), "987654\n").unwrap();
        let run = |command: &mut Command| {
            let output = command.env("SOFTHSM2_CONF", &conf).output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
        };
        let init = ["--init-token", "--free", "--label", "ca", "--pin", "987654", "--so-pin", "1234"];
        run(Command::new("softhsm2-util").args(init));
        let mut again = Command::new(std::env::current_exe().unwrap());
        let exact = format!("keys::pkcs11::tests::{name}");
        run(again.args(["--exact", &exact, "--nocapture"]).env(FOLDER, folder.path()));
    }

    fn uri(folder: &Path, object: &str) -> Uri {
        let pin = folder.join("pin");
        let text = format!("pkcs11:token=ca;object={object}?module-path={MODULE}&pin-source=file:{}", pin.display());
        Uri::parse(&text).unwrap()
    }

    #[test]
    fn every_key_of_a_broker_can_be_in_a_token() {
        with_token("every_key_of_a_broker_can_be_in_a_token", |folder| {
            let data = DataDir::at(&folder.join("data"));
            let places = Places { root: Root::Token(uri(folder, "root")), token: Some(uri(folder, "tokens")) };
            Keys::create(&data, "fleet.example", &places, START).unwrap();
            let issuing_key = Some(uri(folder, "issuing").to_string());
            let settings = AuthoritySettings { issuing_key, ..AuthoritySettings::default() };
            let domain = TrustDomain::parse("fleet.example").unwrap();
            let keys = Keys::load(&data, &domain, &settings, START).unwrap();
            let active = keys.workload.active(START).unwrap();
            for file in
                ["keys/workload-ca.key.pem", "keys/token/1800000000000.key.pem", "keys/issuing/1800000000000.key.pem"]
            {
                let text = fs::read_to_string(data.path().join(file)).unwrap();
                assert!(text.starts_with("pkcs11:token=ca;object=") && !text.contains("987654"), "{file}: {text}");
            }
            let token = keys.token.sign(Kind { typ: "JWT", bytes_max: 4096 }, b"{}").unwrap();
            assert_eq!(token.split('.').count(), 3);
            // Rotated as in files; the old key is destroyed in the token when its certificate has ended.
            let due = START.plus(5 * 86_400_000);
            keys.workload.tick(due).unwrap();
            let later = due.plus(60_000);
            assert_ne!(keys.workload.active(later).unwrap().der(), active.der());
            let old = uri(folder, "issuing-1800000000000");
            super::TokenKey::load(old.clone()).unwrap();
            keys.workload.tick(START.plus(8 * 86_400_000)).unwrap();
            assert!(super::TokenKey::load(old).is_err());
            // A label that is taken is not used again, and nothing but P-256 is a key.
            assert!(SigningKey::create(&folder.join("again.pem"), Some(&uri(folder, "root"))).is_err());
            assert!(SigningKey::create(&folder.join("other.pem"), Some(&uri(folder, "other"))).is_ok());
            assert_eq!(Keys::load(&data, &domain, &settings, due).unwrap().token.jwks(), keys.token.jwks());
            // Without the token nothing is signed, and that is said by its name; with it everything is as before.
            fs::rename(folder.join("tokens"), folder.join("away")).unwrap();
            let profile = || LeafProfile {
                uri: Some("spiffe://fleet.example/host/a".to_owned()),
                names: vec![],
                usages: vec![],
                extensions: vec![],
                serial: vec![1],
                not_after: later.plus(1000),
            };
            let spki = rcgen::PublicKeyData::subject_public_key_info(&rcgen::KeyPair::generate().unwrap());
            let away = keys.workload.sign(&spki, profile(), later).unwrap_err();
            assert!(matches!(away, KeyError::Away { .. }), "{away}");
            let files = || fs::read_dir(data.path().join("keys/issuing")).unwrap().count();
            let (before, much_later) = (files(), START.plus(12 * 86_400_000));
            for _ in 0..3 {
                assert!(keys.workload.tick(much_later).is_err());
            }
            assert_eq!(files(), before, "nothing piles up while it is away");
            fs::rename(folder.join("away"), folder.join("tokens")).unwrap();
            assert!(keys.workload.tick(much_later).unwrap());
            keys.workload.sign(&spki, profile(), later).unwrap();
        });
    }

    #[test]
    fn a_token_that_is_away_signs_nothing_and_one_that_is_back_does() {
        with_token("a_token_that_is_away_signs_nothing_and_one_that_is_back_does", |folder| {
            let key = SigningKey::create(&folder.join("key.pem"), Some(&uri(folder, "key"))).unwrap();
            key.sign_fixed(b"before").unwrap();
            let (tokens, away) = (folder.join("tokens"), folder.join("away"));
            fs::rename(&tokens, &away).unwrap();
            for _ in 0..2 {
                let error = key.sign_fixed(b"while it is away").unwrap_err();
                assert!(matches!(error, KeyError::Away { .. }), "{error}");
                assert!(!error.to_string().contains("987654"));
            }
            fs::rename(&away, &tokens).unwrap();
            key.sign_fixed(b"after").unwrap();
            // The same of the PIN, once the session is lost with it.
            let other = SigningKey::load(&folder.join("key.pem")).unwrap();
            fs::rename(folder.join("pin"), folder.join("gone")).unwrap();
            assert!(SigningKey::load(&folder.join("key.pem")).is_err());
            other.sign_fixed(b"an open session goes on").unwrap();
            // A wrong PIN is tried once: a token would lock itself.
            drop((key, other));
            super::lock(&super::MODULES).loaded.clear();
            fs::write(folder.join("pin"), "wrong").unwrap();
            let load = || SigningKey::load(&folder.join("key.pem")).map(drop).map_err(|error| error.to_string());
            let (first, second) = (load().unwrap_err(), load().unwrap_err());
            assert!(!first.contains("before") && second.contains("refused this PIN before"), "{first}; {second}");
            fs::rename(folder.join("gone"), folder.join("pin")).unwrap();
            assert_eq!(load(), Ok(()));
        });
    }

    #[test]
    fn a_uri_whose_key_was_never_made_is_removed_and_one_elsewhere_is_not() {
        with_token("a_uri_whose_key_was_never_made_is_removed_and_one_elsewhere_is_not", |folder| {
            let path = folder.join("key.pem");
            let whole = format!("{}\n", uri(folder, "never"));
            for text in [whole.clone(), whole.get(..whole.len() / 2).unwrap().to_owned(), whole.trim().to_owned()] {
                fs::write(&path, text).unwrap();
                SigningKey::destroy(&path).unwrap();
                assert!(!path.exists());
            }
            fs::write(&path, whole.replace("token=ca", "token=elsewhere")).unwrap();
            assert!(SigningKey::destroy(&path).is_err() && path.exists());
        });
    }
}
