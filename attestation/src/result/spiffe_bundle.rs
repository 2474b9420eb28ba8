//! SPIFFE trust bundles (SPIFFE Trust Domain and Bundle, 4): the authorities of a trust domain, as a JWKS.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use crate::json;
use crate::rejection::Rejection;
use crate::result::ResultReason;
use crate::signature::{PublicKey, Scheme};
use crate::x509::{Certificate, SubjectKey};

/// Longest document: some hundred keys.
const BYTES_MAX: usize = 1024 * 1024;

/// Keys of one bundle.
const KEYS_MAX: usize = 256;

/// Shortest and longest RSA modulus taken, in bytes: 2048 and 8192 bits.
const RSA_BYTES: core::ops::RangeInclusive<usize> = 256..=1024;

/// The authorities of a trust domain. An empty bundle is one: the domain has revoked all it had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpiffeBundle {
    /// Certificates that X.509-SVIDs chain to, DER.
    pub x509_authorities: Vec<Vec<u8>>,
    /// Ids of the keys that JWT-SVIDs are signed with.
    pub jwt_authorities: BTreeSet<String>,
    /// `spiffe_sequence`: grows with each change.
    pub sequence: Option<u64>,
    /// `spiffe_refresh_hint`: how often to ask again, in seconds.
    pub refresh_hint: Option<u64>,
}

impl SpiffeBundle {
    /// Reads a bundle. Keys for uses and of types that are not known are skipped, as the specification says; one that
    /// is known and cannot be read refuses the whole, so that no authority is lost in silence.
    ///
    /// # Errors
    /// [`ResultReason::BundleMalformed`].
    pub fn parse(document: &[u8]) -> Result<Self, Rejection> {
        if BYTES_MAX < document.len() {
            return Err(refused(&format!("at most {BYTES_MAX} bytes"), &document.len().to_string()));
        }
        let value = json::parse(document).map_err(|error| refused("a JSON object", &error.to_string()))?;
        let keys = match value.get("keys") {
            Some(Value::Array(keys)) if keys.len() <= KEYS_MAX => keys,
            Some(_) => return Err(refused("keys, a list of at most 256", "another value")),
            None => return Err(refused("keys", "none")),
        };
        let number = |name: &str| match value.get(name) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| refused(&format!("{name}, a number"), "another")),
        };
        let (sequence, refresh_hint) = (number("spiffe_sequence")?, number("spiffe_refresh_hint")?);
        let mut bundle = Self { sequence, refresh_hint, ..Self::default() };
        for key in keys {
            let Value::Object(key) = key else { return Err(refused("keys that are objects", "another value")) };
            bundle.add(key)?;
        }
        Ok(bundle)
    }

    fn add(&mut self, key: &Map<String, Value>) -> Result<(), Rejection> {
        let jwk = match member(key, "kty")? {
            "EC" => Jwk::elliptic(key)?,
            "RSA" => Jwk::rsa(key)?,
            // RFC 7517, 5: another type of key is another reader's.
            _ => return Ok(()),
        };
        match key.get("use").map(|usage| usage.as_str().ok_or_else(|| refused("use, a text", "another value"))) {
            Some(Ok("x509-svid")) => self.x509_authorities.push(certificate(key, &jwk)?),
            // A plain JWKS names no use: its keys sign tokens.
            Some(Ok("jwt-svid")) | None => {
                let kid = member(key, "kid")?;
                if kid.is_empty() || !self.jwt_authorities.insert(kid.to_string()) {
                    return Err(refused("a kid, each once", &format!("{kid:?}")));
                }
            }
            Some(Ok(_)) => {}
            Some(Err(rejection)) => return Err(rejection),
        }
        Ok(())
    }
}

/// A key as its JWK has it.
enum Jwk {
    /// Uncompressed point.
    Elliptic(Vec<u8>),
    /// Modulus, without leading zeros.
    Rsa(Vec<u8>),
}

impl Jwk {
    /// RFC 7518, 6.2.1: full-length coordinates of a point on the curve.
    fn elliptic(key: &Map<String, Value>) -> Result<Self, Rejection> {
        let (scheme, length) = match member(key, "crv")? {
            "P-256" => (Scheme::EcdsaP256Sha256, 32),
            "P-384" => (Scheme::EcdsaP384Sha384, 48),
            "P-521" => (Scheme::EcdsaP521Sha512Der, 66),
            other => return Err(refused("P-256, P-384 or P-521", other)),
        };
        let (x, y) = (number(key, "x")?, number(key, "y")?);
        if x.len() != length || y.len() != length {
            return Err(refused(&format!("coordinates of {length} bytes"), &format!("{} and {}", x.len(), y.len())));
        }
        let point = [&[4][..], &x, &y].concat();
        match PublicKey::new(scheme, point.clone()).prepare() {
            Ok(_) => Ok(Self::Elliptic(point)),
            Err(_) => Err(refused("a point on the curve", "another")),
        }
    }

    /// RFC 7518, 6.3.1.
    fn rsa(key: &Map<String, Value>) -> Result<Self, Rejection> {
        let (modulus, exponent) = (number(key, "n")?, number(key, "e")?);
        let odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
        if !RSA_BYTES.contains(&modulus.len()) || modulus.first() == Some(&0) || !odd(&modulus) || !odd(&exponent) {
            return Err(refused("an RSA key of 2048 to 8192 bits", &format!("{} bytes", modulus.len())));
        }
        Ok(Self::Rsa(modulus))
    }

    fn is(&self, key: &SubjectKey<'_>) -> bool {
        match (self, key) {
            (Self::Elliptic(point), SubjectKey::P256(other) | SubjectKey::P384(other) | SubjectKey::P521(other)) => {
                point == other
            }
            (Self::Rsa(modulus), SubjectKey::Rsa(other) | SubjectKey::RsaPss(other)) => modulus == other.modulus,
            (Self::Elliptic(_) | Self::Rsa(_), _) => false,
        }
    }
}

/// SPIFFE Trust Domain and Bundle, 4.2.1 and X.509-SVID, 6: `x5c` holds the one certificate of this key.
fn certificate(key: &Map<String, Value>, jwk: &Jwk) -> Result<Vec<u8>, Rejection> {
    let encoded = match key.get("x5c") {
        Some(Value::Array(chain)) => match chain.as_slice() {
            [Value::String(one)] => one,
            others => return Err(refused("x5c with one certificate", &others.len().to_string())),
        },
        Some(_) | None => return Err(refused("x5c with one certificate", "none")),
    };
    let der = STANDARD.decode(encoded).map_err(|error| refused("x5c in base64", &error.to_string()))?;
    let certificate = Certificate::parse(&der).map_err(|rejection| refused("a certificate", &rejection.to_string()))?;
    match certificate.subject_key() {
        Ok(subject) if jwk.is(&subject) => Ok(der),
        Ok(_) => Err(refused("the certificate of this key", "another key's")),
        Err(rejection) => Err(refused("the certificate of this key", &rejection.to_string())),
    }
}

fn member<'a>(key: &'a Map<String, Value>, name: &str) -> Result<&'a str, Rejection> {
    key.get(name).and_then(Value::as_str).ok_or_else(|| refused(&format!("{name}, a text"), "none"))
}

/// Base64urlUInt or a coordinate.
fn number(key: &Map<String, Value>, name: &str) -> Result<Vec<u8>, Rejection> {
    URL_SAFE_NO_PAD
        .decode(member(key, name)?)
        .map_err(|error| refused(&format!("{name} in base64url"), &error.to_string()))
}

fn refused(expected: &str, found: &str) -> Rejection {
    ResultReason::BundleMalformed.because(expected, found)
}
