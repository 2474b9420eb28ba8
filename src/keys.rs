//! The broker's private keys: two certificate authorities and the key that signs tokens.
//!
//! The *workload* authority signs execution credentials and nothing else; relying parties trust its root. The *control*
//! authority signs the broker's own certificate and the channel certificates of operators and hosts; it opens routes
//! and vouches for no workload. They never share a key.

pub mod listed;
pub mod offline;
pub mod operator;
pub mod pkcs11;
mod roots;
pub mod signing;
pub mod tokens;
pub mod workload;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use base64::Engine as _;
use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::Base64Bytes;
use countersign_attestation::result::authorities::{self, Authorities};
use countersign_attestation::result::jws::{Jwk, JwkSet};
use countersign_attestation::result::svid::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use serde::Serialize;
use zeroize::Zeroizing;

use self::pkcs11::Uri;
use self::signing::SigningKey;
use self::tokens::TokenKeys;
use self::workload::Workload;
use crate::config::{AuthoritySettings, ConfigError, DataDir, create_private_dir, read_bounded, write_new};

/// A key could not be made or used. Nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key or certificate file.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// Key material or a certificate is not usable.
    #[error("{doing}: {reason}")]
    Unusable {
        /// What was attempted.
        doing: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// A key in a token cannot be used now.
    #[error("use a key in a PKCS#11 token: {which}: {reason}")]
    Away {
        /// Token and object.
        which: String,
        /// What the module says.
        reason: String,
    },
    /// No issuing certificate is valid.
    #[error("no issuing certificate of the workload CA is valid at {now}")]
    NoIssuing {
        /// Now.
        now: UnixMillis,
    },
    /// A certificate never outlives the one above it.
    #[error("a certificate until {end} would outlive its issuer's, which ends at {issuer}")]
    Outlives {
        /// The end that was asked for.
        end: UnixMillis,
        /// The issuer's.
        issuer: UnixMillis,
    },
    /// The workload CA names workloads of its trust domain and nothing else.
    #[error("the workload CA does not issue for {found}: it is outside of the trust domain")]
    Outside {
        /// The name.
        found: String,
    },
}

fn unusable<E: ToString>(doing: &'static str) -> impl Fn(E) -> KeyError {
    move |error| KeyError::Unusable { doing, reason: error.to_string() }
}

/// A certificate was not signed.
fn not_signed(error: rcgen::Error) -> KeyError {
    if error == rcgen::Error::RemoteKeyError {
        return KeyError::Away { which: "the CA's key".to_owned(), reason: "see the message before".to_owned() };
    }
    unusable("sign a certificate")(error)
}

/// How often whoever follows the bundle asks for it (SPIFFE Trust Domain and Bundle, 4.1.2).
const REFRESH_HINT_SECONDS: u64 = 300;

const WORKLOAD: &str = "workload-ca";
const CONTROL: &str = "control-ca";

/// Ten years: roots are replaced by re-initialising, and relying parties pin them.
const ROOT_LIFE_MS: u64 = 3650 * 86_400_000;
/// Certificates start a little early, for verifiers whose clocks are behind.
const BACKDATE_MS: u64 = 10_000;

/// A certificate authority that signs with its root: an ECDSA P-256 key and its self-signed certificate.
pub struct Authority {
    issuer: Issuer<'static, SigningKey>,
    root_pem: String,
    root_der: Vec<u8>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("root", &Sha256Digest::of(&[&self.root_der])).finish_non_exhaustive()
    }
}

/// What a certificate is for.
#[derive(Clone, Debug)]
pub struct LeafProfile {
    /// SPIFFE id, for clients and workloads.
    pub uri: Option<String>,
    /// DNS names and addresses, for the broker itself.
    pub names: Vec<String>,
    /// `clientAuth`, `serverAuth`.
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    /// Non-critical extensions: object identifier and DER content.
    pub extensions: Vec<(Vec<u64>, Vec<u8>)>,
    /// Serial number.
    pub serial: Vec<u8>,
    /// Not valid from this moment.
    pub not_after: UnixMillis,
}

/// A signed certificate.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// PEM.
    pub pem: String,
    /// DER.
    pub der: Vec<u8>,
}

impl Authority {
    fn load(data: &DataDir, name: &str) -> Result<Self, KeyError> {
        let key = SigningKey::load(&private_path(data, name))?;
        let path = root_path(data, name);
        let root_pem = String::from_utf8(read_bounded(&path, 16_384)?).map_err(unusable("read a CA root"))?;
        let root_der = certificate_der(&root_pem).map_err(unusable("read a CA root"))?;
        let issuer = Issuer::from_ca_cert_pem(&root_pem, key).map_err(unusable("read a CA root"))?;
        Ok(Self { issuer, root_pem, root_der })
    }

    /// The root certificate, PEM.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The root certificate, DER.
    #[must_use]
    pub fn root_der(&self) -> &[u8] {
        &self.root_der
    }

    /// Signs a certificate for the key in `spki` (DER `SubjectPublicKeyInfo`).
    ///
    /// # Errors
    /// [`KeyError`] when the key is not one certificates can carry.
    pub fn sign(&self, spki: &[u8], profile: LeafProfile, now: UnixMillis) -> Result<Leaf, KeyError> {
        let key = SubjectPublicKeyInfo::from_der(spki).map_err(unusable("read a public key"))?;
        let params = leaf_params(profile, now)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(not_signed)?;
        Ok(Leaf { pem: certificate.pem(), der: certificate.der().to_vec() })
    }
}

/// Makes a key and its self-signed root, above `path_length` authorities.
fn create_root(
    data: &DataDir,
    name: &str,
    subject: &str,
    path_length: u8,
    uri: Option<&Uri>,
    now: UnixMillis,
) -> Result<(), KeyError> {
    let key = SigningKey::create(&private_path(data, name), uri)?;
    let root = root_params(subject, path_length, now)?.self_signed(&key).map_err(not_signed)?;
    write_new(&root_path(data, name), root.pem().as_bytes())?;
    Ok(())
}

/// What a root says of itself.
fn root_params(subject: &str, path_length: u8, now: UnixMillis) -> Result<CertificateParams, KeyError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Countersign");
    params.distinguished_name.push(DnType::CommonName, subject);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = moment(UnixMillis(now.0.saturating_sub(BACKDATE_MS)))?;
    params.not_after = moment(now.plus(ROOT_LIFE_MS))?;
    params.serial_number = Some(SerialNumber::from_slice(&random::<16>()?));
    Ok(params)
}

/// What the certificate of an end entity says.
fn leaf_params(profile: LeafProfile, now: UnixMillis) -> Result<CertificateParams, KeyError> {
    let mut params = CertificateParams::new(profile.names).map_err(unusable("name a certificate"))?;
    params.distinguished_name = DistinguishedName::new();
    if let Some(uri) = profile.uri {
        let uri = uri.try_into().map_err(unusable("name a certificate"))?;
        params.subject_alt_names.push(SanType::URI(uri));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = profile.usages;
    let custom = |(oid, content): (Vec<u64>, Vec<u8>)| CustomExtension::from_oid_content(&oid, content);
    params.custom_extensions = profile.extensions.into_iter().map(custom).collect();
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(&profile.serial));
    params.not_before = moment(UnixMillis(now.0.saturating_sub(BACKDATE_MS)))?;
    params.not_after = moment(profile.not_after)?;
    Ok(params)
}

/// Where the workload authority's root is.
#[derive(Clone, Debug, Default)]
pub enum Root {
    /// Its key is a file of the data directory.
    #[default]
    File,
    /// Its key is in a token.
    Token(Uri),
    /// Its key is on another machine; this is its certificate, PEM.
    Elsewhere(String),
}

/// Where keys are made that are not made in files.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The workload authority's root.
    pub root: Root,
    /// The key that signs tokens.
    pub token: Option<Uri>,
}

/// All keys of a broker.
#[derive(Debug)]
pub struct Keys {
    /// Signs execution credentials.
    pub workload: Workload,
    /// Signs the broker's own, operators' and hosts' channel certificates.
    pub control: Authority,
    /// Signs tokens.
    pub token: TokenKeys,
    /// The members of the SPIFFE bundle as they were last written, and their sequence number.
    bundle: Mutex<(String, u64)>,
}

impl Keys {
    /// Makes all keys of a new data directory.
    ///
    /// # Errors
    /// [`KeyError`] when a file exists already or cannot be written.
    pub fn create(data: &DataDir, trust_domain: &str, places: &Places, now: UnixMillis) -> Result<(), KeyError> {
        create_private_dir(&data.keys())?;
        create_private_dir(&data.public())?;
        let name = format!("{trust_domain} workloads");
        match &places.root {
            Root::File => create_root(data, WORKLOAD, &name, 1, None, now)?,
            Root::Token(uri) => create_root(data, WORKLOAD, &name, 1, Some(uri), now)?,
            Root::Elsewhere(pem) => {
                offline::check_root(pem, now)?;
                write_new(&root_path(data, WORKLOAD), pem.as_bytes())?;
            }
        }
        create_root(data, CONTROL, &format!("{trust_domain} control"), 0, None, now)?;
        workload::create(data)?;
        create_private_dir(&data.keys().join("token"))?;
        tokens::create(&data.keys().join("token"), places.token.as_ref(), now.0)?;
        TokenKeys::load(data, &AuthoritySettings::default(), now)?.publish()
    }

    /// Loads the keys of a data directory, and makes an issuing key where one is due.
    ///
    /// # Errors
    /// [`KeyError`] when one is missing or damaged.
    pub fn load(
        data: &DataDir,
        trust_domain: &TrustDomain,
        settings: &AuthoritySettings,
        now: UnixMillis,
    ) -> Result<Self, KeyError> {
        let workload = Workload::load(data, trust_domain, settings)?;
        // Without an issuing key nothing is issued, and pulses are signed all the same: who is trusted stays so.
        if let Err(error) = workload.tick(now) {
            tracing::error!(%error, "no new issuing key");
        }
        let token = TokenKeys::load(data, settings, now)?;
        if let Err(error) = token.tick(now) {
            tracing::error!(%error, "no new token key");
        }
        Ok(Self { workload, control: Self::control(data)?, token, bundle: Mutex::default() })
    }

    /// The control authority alone.
    ///
    /// # Errors
    /// [`KeyError`] when it is missing or damaged.
    pub fn control(data: &DataDir) -> Result<Authority, KeyError> {
        Authority::load(data, CONTROL)
    }

    /// What the broker says of its keys at `now`.
    #[must_use]
    pub fn authorities(&self, trust_domain: &TrustDomain, now: UnixMillis) -> Authorities {
        Authorities {
            iss: trust_domain.clone(),
            iat: now,
            exp: now.plus(authorities::LIFE_MS),
            keys: self.token.jwks(),
            roots: self.workload.roots().into_iter().map(Base64Bytes).collect(),
            issuing: self.workload.issuing(now).into_iter().map(Base64Bytes).collect(),
        }
    }

    /// The SPIFFE bundle (SPIFFE Trust Domain and Bundle, 4): X.509 roots and token keys of the trust domain.
    ///
    /// # Errors
    /// [`KeyError`] when a key cannot be written as a JWK.
    pub fn spiffe_bundle(&self, now: UnixMillis) -> Result<String, KeyError> {
        let mut keys = Vec::new();
        for root in self.workload.roots() {
            let jwk = root_jwk(&root).ok_or_else(|| unusable("write the bundle")("a root is of no P-256 key"))?;
            let x5c = Some([base64::engine::general_purpose::STANDARD.encode(&root)]);
            for key in jwk_members(&JwkSet::new([jwk]))? {
                // 4.2.2: an X.509 authority is known by its certificate.
                let key = JwkMembers { kid: None, ..key };
                keys.push(SpiffeKey { key, usage: "x509-svid", x5c: x5c.clone() });
            }
        }
        let tokens = jwk_members(&self.token.jwks())?;
        keys.extend(tokens.into_iter().map(|key| SpiffeKey { key, usage: "jwt-svid", x5c: None }));
        let members = serde_json::to_string(&keys).map_err(unusable("write the bundle"))?;
        let mut last = self.bundle.lock().map_err(unusable("write the bundle"))?;
        if last.0 != members {
            // Rises with every change, and over restarts as the clock does.
            *last = (members, now.0.max(last.1.saturating_add(1)));
        }
        let bundle = SpiffeBundle { keys, spiffe_sequence: last.1, spiffe_refresh_hint: REFRESH_HINT_SECONDS };
        serde_json::to_string(&bundle).map_err(unusable("write the bundle"))
    }
}

fn root_jwk(der: &[u8]) -> Option<Jwk> {
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Jwk::from_point(&certificate.public_key().subject_public_key.data)
}

/// The key members of a JWK, as [`JwkSet::to_json`] writes them.
#[derive(serde::Deserialize, Serialize)]
struct JwkMembers {
    kty: String,
    crv: String,
    x: String,
    y: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
}

/// SPIFFE names its own uses, which plain JWT libraries refuse: hence a document of its own.
#[derive(Serialize)]
struct SpiffeKey {
    #[serde(flatten)]
    key: JwkMembers,
    #[serde(rename = "use")]
    usage: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    x5c: Option<[String; 1]>,
}

#[derive(Serialize)]
struct SpiffeBundle {
    keys: Vec<SpiffeKey>,
    spiffe_sequence: u64,
    spiffe_refresh_hint: u64,
}

#[derive(serde::Deserialize)]
struct JwksMembers {
    keys: Vec<JwkMembers>,
}

fn jwk_members(keys: &JwkSet) -> Result<Vec<JwkMembers>, KeyError> {
    let JwksMembers { keys } = serde_json::from_str(&keys.to_json()).map_err(unusable("write a JWK"))?;
    Ok(keys)
}

/// `N` bytes from the operating system.
///
/// # Errors
/// [`KeyError`] when it has none; nothing that needs them may go on.
pub fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(unusable("draw random bytes"))?;
    Ok(bytes)
}

/// The DER of the first certificate of a PEM text.
///
/// # Errors
/// What is wrong with the text.
pub fn certificate_der(pem: &str) -> Result<Vec<u8>, String> {
    use rustls_pki_types::pem::PemObject as _;
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes())
        .map(|certificate| certificate.to_vec())
        .map_err(|error| error.to_string())
}

/// The DER of every certificate of a PEM text, in its order.
///
/// # Errors
/// What is wrong with the text.
pub fn certificates_der(pem: &str) -> Result<Vec<Vec<u8>>, String> {
    use rustls_pki_types::pem::PemObject as _;
    let certificates = rustls_pki_types::CertificateDer::pem_slice_iter(pem.as_bytes());
    certificates.map(|read| read.map(|der| der.to_vec()).map_err(|error| error.to_string())).collect()
}

fn moment(at: UnixMillis) -> Result<time::OffsetDateTime, KeyError> {
    let seconds = i64::try_from(at.seconds()).map_err(unusable("write a time"))?;
    time::OffsetDateTime::from_unix_timestamp(seconds).map_err(unusable("write a time"))
}

fn read_key(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let bytes = Zeroizing::new(read_bounded(path, 16_384)?);
    let text = std::str::from_utf8(&bytes).map_err(unusable("read a key"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn private_path(data: &DataDir, name: &str) -> PathBuf {
    data.keys().join(format!("{name}.key.pem"))
}

/// Relying parties read `trust-bundle.pem` and `broker-ca.pem`; the names say what they are for there.
fn root_path(data: &DataDir, name: &str) -> PathBuf {
    data.public().join(if name == WORKLOAD { "trust-bundle.pem" } else { "broker-ca.pem" })
}
