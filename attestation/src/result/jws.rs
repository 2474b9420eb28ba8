//! Compact JWS (RFC 7515) with ES256, the one form of every token the broker signs. The verifier names the algorithm,
//! the kind and the keys; the token names only which pinned key to use.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::json;
use crate::rejection::Rejection;
use crate::result::ResultReason;
use crate::signature::{PublicKey, Scheme, SignedBytes};
use crate::verified::Verified;

/// The only algorithm (RFC 7518, 3.4).
pub const ALGORITHM: &str = "ES256";

/// Bytes in a signature: r || s.
pub const SIGNATURE_BYTES: usize = 64;

/// Longest header. Ours is about 120 bytes encoded.
const HEADER_BYTES_MAX: usize = 512;

/// Longest header of another issuer: it may carry a chain of certificates.
const PEER_HEADER_BYTES_MAX: usize = 16 * 1024;

/// Longest key id: a SHA-256 thumbprint has 43 characters; other sets name keys more freely.
const KID_BYTES_MAX: usize = 128;

/// Keys in a set: current, next and a few retired ones.
const KEYS_MAX: usize = 32;

/// Longest JWKS document read.
const JWKS_BYTES_MAX: usize = 32 * 1024;

/// A kind of token: its `typ` and how long it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The `typ` header member.
    pub typ: &'static str,
    /// Longest compact form, in bytes.
    pub bytes_max: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

/// What is signed for `payload`: the encoded header, a dot, the encoded payload (RFC 7515, 5.1).
#[must_use]
pub fn signing_input(kind: Kind, kid: &str, payload: &[u8]) -> String {
    // Written member by member in a fixed order; `kid` is escaped by the JSON writer.
    let kid = serde_json::Value::from(kid);
    let header = format!(r#"{{"alg":"{ALGORITHM}","kid":{kid},"typ":"{}"}}"#, kind.typ);
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
}

/// The compact form of a signing input and its signature (r || s).
#[must_use]
pub fn compact(signing_input: &str, signature: &[u8; SIGNATURE_BYTES]) -> String {
    format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Checks a token of `kind` under one of `keys` and reads its claims. Claims are reachable only through this.
///
/// # Errors
/// A [`ResultReason`] of the `result.token` group.
pub fn verify<T: DeserializeOwned>(kind: Kind, token: &str, keys: &JwkSet) -> Result<Verified<T>, Rejection> {
    verify_with(kind, token, keys, |payload| {
        serde_json::from_slice(payload)
            .map_err(|error| ResultReason::Payload.because("the claims of this kind of token", error.to_string()))
    })
}

/// The same, with a reader of one's own.
pub(crate) fn verify_with<T>(
    kind: Kind,
    token: &str,
    keys: &JwkSet,
    read: impl FnOnce(&[u8]) -> Result<T, Rejection>,
) -> Result<Verified<T>, Rejection> {
    let parts = Parts::of(token, kind.bytes_max)?;
    let header = read_header(kind, parts.header)?;
    let key = keys.keys.get(&header.kid).ok_or_else(|| {
        ResultReason::UnknownKey.because(format!("one of {} pinned keys", keys.keys.len()), header.kid)
    })?;
    Verified::read(parts.verify(key, "named by kid")?, |signed| read(&payload(signed)?))
}

/// A compact JWS, taken apart.
struct Parts<'t> {
    /// header.payload: what is signed.
    input: &'t str,
    header: &'t str,
    signature: &'t str,
}

impl<'t> Parts<'t> {
    fn of(token: &'t str, bytes_max: usize) -> Result<Self, Rejection> {
        if bytes_max < token.len() {
            return Err(ResultReason::TooLarge.because(format!("at most {bytes_max} bytes"), token.len()));
        }
        let (input, signature) = token.rsplit_once('.').ok_or_else(|| form("no dot"))?;
        let (header, payload) = input.split_once('.').ok_or_else(|| form("one dot"))?;
        if payload.contains('.') {
            return Err(form("more than two dots"));
        }
        Ok(Self { input, header, signature })
    }

    fn verify(&self, key: &Jwk, which: &str) -> Result<SignedBytes<'t>, Rejection> {
        // The engine's decoder refuses padding, foreign characters and non-zero trailing bits: one text per value.
        let signature = URL_SAFE_NO_PAD.decode(self.signature).map_err(|error| form(&error.to_string()))?;
        key.verifier().verify(self.input.as_bytes(), &signature).map_err(|_| {
            ResultReason::Signature.because(format!("a signature of the key {which}"), "one that does not verify")
        })
    }
}

fn form(found: &str) -> Rejection {
    ResultReason::Form.because("header.payload.signature", found)
}

/// The payload, from the signed bytes themselves.
fn payload(signed: &[u8]) -> Result<Vec<u8>, Rejection> {
    let encoded = signed.split(|byte| *byte == b'.').nth(1).unwrap_or_default();
    URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|error| ResultReason::Form.because("canonical base64url", error.to_string()))
}

/// Checks a token of another issuer under the one `key` it may be signed with, and reads its payload. Its header may
/// say more than ours do, and chooses nothing.
///
/// # Errors
/// A [`ResultReason`] of the `result.token` group, or what `read` refuses.
pub fn verify_peer<T>(
    token: &str,
    bytes_max: usize,
    key: &Jwk,
    read: impl FnOnce(&[u8]) -> Result<T, Rejection>,
) -> Result<Verified<T>, Rejection> {
    let parts = Parts::of(token, bytes_max)?;
    check_peer_header(parts.header)?;
    Verified::read(parts.verify(key, "that was given")?, |signed| read(&payload(signed)?))
}

/// The same for a token that says what kind it is (RFC 8725, 3.11).
///
/// # Errors
/// As [`verify_peer`], and [`ResultReason::Type`].
pub fn verify_typed_peer<T>(
    kind: Kind,
    token: &str,
    key: &Jwk,
    read: impl FnOnce(&[u8]) -> Result<T, Rejection>,
) -> Result<Verified<T>, Rejection> {
    let parts = Parts::of(token, kind.bytes_max)?;
    match check_peer_header(parts.header)?.get("typ").and_then(serde_json::Value::as_str) {
        Some(typ) if typ == kind.typ => {}
        found => return Err(ResultReason::Type.because(kind.typ, found.unwrap_or("none"))),
    }
    Verified::read(parts.verify(key, "that the token confirms")?, |signed| read(&payload(signed)?))
}

fn check_peer_header(encoded: &str) -> Result<serde_json::Value, Rejection> {
    if PEER_HEADER_BYTES_MAX < encoded.len() {
        return Err(ResultReason::Header.because(format!("at most {PEER_HEADER_BYTES_MAX} bytes"), encoded.len()));
    }
    let bytes = URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|error| ResultReason::Form.because("canonical base64url", error.to_string()))?;
    let header = json::parse(&bytes)
        .map_err(|error| ResultReason::Header.because("an object with each member once", error.to_string()))?;
    match header.get("alg").and_then(serde_json::Value::as_str) {
        Some(ALGORITHM) => {}
        found => return Err(ResultReason::Algorithm.because(ALGORITHM, found.unwrap_or("none"))),
    }
    // RFC 7515, 4.1.11: what must be understood and is not.
    if header.get("crit").is_some() {
        return Err(ResultReason::Header.because("no critical members", "crit"));
    }
    Ok(header)
}

/// RFC 8725, 3.1 and 3.11: algorithm and type are compared with what the verifier wants, before any key is looked up.
fn read_header(kind: Kind, encoded: &str) -> Result<Header, Rejection> {
    let refused = |found: &str| ResultReason::Header.because(r#"{"alg","kid","typ"}"#, found);
    if HEADER_BYTES_MAX < encoded.len() {
        return Err(refused("a longer header"));
    }
    let bytes = URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|error| ResultReason::Form.because("canonical base64url", error.to_string()))?;
    let header: Header = serde_json::from_slice(&bytes).map_err(|error| refused(&error.to_string()))?;
    if header.alg != ALGORITHM {
        return Err(ResultReason::Algorithm.because(ALGORITHM, header.alg));
    }
    if header.typ != kind.typ {
        return Err(ResultReason::Type.because(kind.typ, header.typ));
    }
    Ok(header)
}

/// A P-256 public key for ES256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwk {
    kid: String,
    /// Uncompressed SEC1 point.
    point: Vec<u8>,
}

impl Jwk {
    /// The key whose id is its RFC 7638 thumbprint, from an uncompressed SEC1 point (65 bytes, first 0x04).
    #[must_use]
    pub fn from_point(point: &[u8]) -> Option<Self> {
        let kid = Thumbprint::of_point(point)?.to_string();
        Some(Self { kid, point: point.to_vec() })
    }

    /// The ES256 key of another issuer (RFC 7518, 6.2.1), whatever its JWK says beside. Its id here is its thumbprint.
    ///
    /// # Errors
    /// [`ResultReason::Keys`] for another type, curve or use, and for a private key.
    pub fn of_peer(json: &[u8]) -> Result<Self, Rejection> {
        let refused = |found: &str| ResultReason::Keys.because("a public JWK of a P-256 signing key", found);
        if JWKS_BYTES_MAX < json.len() {
            return Err(refused("a longer document"));
        }
        let key = json::parse(json).map_err(|error| refused(&error.to_string()))?;
        let is = |name: &str, value: &str| key.get(name).and_then(serde_json::Value::as_str) == Some(value);
        let may_be = |name: &str, value: &str| key.get(name).is_none() || is(name, value);
        if !is("kty", "EC") || !is("crv", "P-256") || !may_be("alg", ALGORITHM) || !may_be("use", "sig") {
            return Err(refused("another type, curve, algorithm or use"));
        }
        if key.get("d").is_some() {
            return Err(refused("a private key"));
        }
        let coordinate = |name: &str| {
            let text = key.get(name).and_then(serde_json::Value::as_str)?;
            URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == 32)
        };
        let (x, y) = coordinate("x").zip(coordinate("y")).ok_or_else(|| refused("no x and y of 32 bytes"))?;
        Self::from_point(&[&[4][..], &x, &y].concat()).ok_or_else(|| refused("no point"))
    }

    /// The key id.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The key as signatures are checked with it.
    #[must_use]
    pub fn verifier(&self) -> PublicKey {
        PublicKey::new(Scheme::EcdsaP256Sha256, self.point.clone())
    }
}

/// RFC 7638 thumbprint (SHA-256) of a P-256 key; writes itself as base64url, as `cnf.jkt` and our key ids do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thumbprint(Sha256Digest);

impl Thumbprint {
    /// The thumbprint of an uncompressed SEC1 point (65 bytes, first 0x04).
    #[must_use]
    pub fn of_point(point: &[u8]) -> Option<Self> {
        let (x, y) = coordinates(point)?;
        // RFC 7638, 3.2: the required members in lexicographic order, no white space.
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        Some(Self(Sha256Digest::of(&[members.as_bytes()])))
    }

    /// The thumbprint of a P-256 `SubjectPublicKeyInfo`, DER; `None` for any other key.
    #[must_use]
    pub fn of_spki(spki: &[u8]) -> Option<Self> {
        spki.strip_prefix(&P256_SPKI_PREFIX).and_then(Self::of_point)
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0.0))
    }
}

/// RFC 5480: SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING of 65 bytes }, up to the point.
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// X and Y of a P-256 `SubjectPublicKeyInfo`, DER.
pub(super) fn coordinates_of_spki(spki: &[u8]) -> Option<(&[u8], &[u8])> {
    spki.strip_prefix(&P256_SPKI_PREFIX).and_then(coordinates)
}

/// X and Y of an uncompressed P-256 point (SEC1, 2.3.3).
fn coordinates(point: &[u8]) -> Option<(&[u8], &[u8])> {
    let (form, coordinates) = point.split_first()?;
    (*form == 4 && coordinates.len() == 64).then(|| coordinates.split_at_checked(32)).flatten()
}

/// Pinned public keys by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwkSet {
    keys: BTreeMap<String, Jwk>,
}

/// Exactly these members: a set with a private `d`, or with a key for another use, is refused whole.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JwkDocument {
    kty: String,
    crv: String,
    x: String,
    y: String,
    kid: String,
    #[serde(rename = "use")]
    usage: String,
    alg: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JwkSetDocument {
    keys: Vec<JwkDocument>,
}

impl JwkSet {
    /// A set of the given keys; the last of two keys with one id stays.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = Jwk>) -> Self {
        Self { keys: keys.into_iter().map(|key| (key.kid.clone(), key)).collect() }
    }

    /// Reads a JWKS document (RFC 7517, 5).
    ///
    /// # Errors
    /// [`ResultReason::Keys`] unless every key is a P-256 signing key and every id is there once; also for no keys.
    pub fn parse(json: &[u8]) -> Result<Self, Rejection> {
        let refused = |found: &str| ResultReason::Keys.because("a JWKS of P-256 signing keys", found);
        if JWKS_BYTES_MAX < json.len() {
            return Err(refused("a longer document"));
        }
        let document: JwkSetDocument = serde_json::from_slice(json).map_err(|error| refused(&error.to_string()))?;
        Self::from_document(document)
    }

    pub(super) fn from_document(document: JwkSetDocument) -> Result<Self, Rejection> {
        let refused = |found: &str| ResultReason::Keys.because("a JWKS of P-256 signing keys", found);
        if document.keys.is_empty() || KEYS_MAX < document.keys.len() {
            return Err(refused(&format!("{} keys", document.keys.len())));
        }
        let mut keys = BTreeMap::new();
        for entry in document.keys {
            let key = read_key(&entry).ok_or_else(|| refused(&format!("key {:?}", entry.kid)))?;
            if keys.insert(entry.kid.clone(), key).is_some() {
                return Err(refused(&format!("two keys {:?}", entry.kid)));
            }
        }
        Ok(Self { keys })
    }

    /// The JWKS document that [`Self::parse`] reads.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings and lists only: writing them cannot fail.
        serde_json::to_string(&self.document()).unwrap_or_default()
    }

    pub(super) fn document(&self) -> JwkSetDocument {
        let document = |key: &Jwk| {
            let (x, y) = coordinates(&key.point)?;
            Some(JwkDocument {
                kty: "EC".to_string(),
                crv: "P-256".to_string(),
                x: URL_SAFE_NO_PAD.encode(x),
                y: URL_SAFE_NO_PAD.encode(y),
                kid: key.kid.clone(),
                usage: "sig".to_string(),
                alg: ALGORITHM.to_string(),
            })
        };
        JwkSetDocument { keys: self.keys.values().filter_map(document).collect() }
    }

    /// The ids of the keys, in order.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }
}

fn read_key(entry: &JwkDocument) -> Option<Jwk> {
    let named = (1..=KID_BYTES_MAX).contains(&entry.kid.len()) && !entry.kid.chars().any(char::is_control);
    let for_es256 = entry.kty == "EC" && entry.crv == "P-256" && entry.usage == "sig" && entry.alg == ALGORITHM;
    let (x, y) = (URL_SAFE_NO_PAD.decode(&entry.x).ok()?, URL_SAFE_NO_PAD.decode(&entry.y).ok()?);
    // RFC 7518, 6.2.1.2: coordinates are full length, so one key has one spelling.
    let full = x.len() == 32 && y.len() == 32;
    (named && for_es256 && full).then(|| Jwk { kid: entry.kid.clone(), point: [&[4][..], &x, &y].concat() })
}
