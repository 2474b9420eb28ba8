//! The X.509-SVID of an execution credential: the SPIFFE profile, and the one extension that ties the certificate to
//! its decision, its status and its place in the log.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};

use crate::anchor::Assurance;
use crate::claims::HexBytes;
use crate::digest::Sha256Digest;
use crate::protocol::HostId;
use crate::reader::{ReadError, Reader};
use crate::rejection::Rejection;
use crate::result::{ResultReason, chain};
use crate::time::UnixMillis;

/// A SPIFFE trust domain (SPIFFE-ID, 2.1): 1 to 255 of `a-z`, `0-9`, `-`, `.` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// The trust domain that `text` names, if it does.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_');
        ((1..=255).contains(&text.len()) && text.bytes().all(allowed)).then(|| Self(text.to_string()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom("expected a trust domain: 1 to 255 of a-z, 0-9, '-', '.' and '_'"))
    }
}

/// `spiffe://<trust domain>/host/<host id>`: the only shape of id the broker issues.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    host: HostId,
}

impl SpiffeId {
    /// The id of a host.
    #[must_use]
    pub const fn new(trust_domain: TrustDomain, host: HostId) -> Self {
        Self { trust_domain, host }
    }

    /// The id that `text` spells, if it does. Nothing is normalised: upper case, ports, queries, empty and dot
    /// segments are other texts and other ids.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (trust_domain, path) = text.strip_prefix("spiffe://")?.split_once('/')?;
        let host = path.strip_prefix("host/")?;
        Some(Self { trust_domain: TrustDomain::parse(trust_domain)?, host: HostId::parse(host)? })
    }

    /// The trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The host.
    #[must_use]
    pub const fn host(&self) -> &HostId {
        &self.host
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/host/{}", self.trust_domain, self.host)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("expected spiffe://<trust domain>/host/<host id>"))
    }
}

/// An X.509-SVID of the broker whose chain leads to a root of the trust bundle. Whether it is *trusted now*, the status
/// list in an unexpired pulse says. [`Self::verify`] is the only constructor:
///
/// ```compile_fail
/// let forged = countersign_attestation::result::svid::ExecutionCredential { ..todo!() };
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutionCredential {
    spiffe_id: SpiffeId,
    serial: HexBytes,
    extension: CredentialExtension,
    key: Sha256Digest,
    not_before: UnixMillis,
    not_after: UnixMillis,
    valid_from: UnixMillis,
    valid_until: UnixMillis,
}

impl ExecutionCredential {
    /// Checks a chain (leaf first, DER) to one of `roots` (DER), the X.509-SVID profile, the trust domain, and the
    /// dates at `now`.
    ///
    /// # Errors
    /// A [`ResultReason`] of the `result.svid` group.
    pub fn verify(
        chain: &[&[u8]],
        roots: &[Vec<u8>],
        trust_domain: &TrustDomain,
        now: UnixMillis,
    ) -> Result<Self, Rejection> {
        let path = chain::verify(chain, roots)?;
        check_profile(&path.leaf)?;
        let spiffe_id = read_id(&path.leaf)?;
        if spiffe_id.trust_domain != *trust_domain {
            return Err(ResultReason::SvidTrustDomain.because(trust_domain, &spiffe_id.trust_domain));
        }
        let (not_before, not_after) = chain::validity(&path.leaf)?;
        let credential = Self {
            spiffe_id,
            serial: HexBytes(path.leaf.raw_serial().to_vec()),
            extension: read_extension(&path.leaf)?,
            key: Sha256Digest::of(&[path.leaf.public_key().raw]),
            not_before,
            not_after,
            valid_from: path.not_before,
            valid_until: path.not_after,
        };
        credential.check_valid_at(now)?;
        Ok(credential)
    }

    /// Whether the credential and every certificate above it are within their dates. The end itself is outside: a
    /// credential of five minutes is not one of five minutes and a second.
    ///
    /// # Errors
    /// [`ResultReason::SvidExpired`] or [`ResultReason::SvidNotYetValid`].
    pub fn check_valid_at(&self, now: UnixMillis) -> Result<(), Rejection> {
        if self.valid_until <= now {
            return Err(ResultReason::SvidExpired.because(format!("before {}", self.valid_until), now));
        }
        if now < self.valid_from {
            return Err(ResultReason::SvidNotYetValid.because(format!("from {}", self.valid_from), now));
        }
        Ok(())
    }

    /// The SPIFFE id.
    #[must_use]
    pub const fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// The trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        self.spiffe_id.trust_domain()
    }

    /// The host.
    #[must_use]
    pub const fn host(&self) -> &HostId {
        self.spiffe_id.host()
    }

    /// The serial number, as the certificate has it.
    #[must_use]
    pub const fn serial(&self) -> &HexBytes {
        &self.serial
    }

    /// Number of the status list.
    #[must_use]
    pub const fn status_list(&self) -> u64 {
        self.extension.status_list
    }

    /// Index in that list.
    #[must_use]
    pub const fn status_index(&self) -> u64 {
        self.extension.status_index
    }

    /// The host's generation.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.extension.generation
    }

    /// The decision behind the credential.
    #[must_use]
    pub const fn decision(&self) -> Sha256Digest {
        self.extension.decision
    }

    /// Index of the decision's leaf in the log.
    #[must_use]
    pub const fn log_index(&self) -> u64 {
        self.extension.log_index
    }

    /// What the weakest trust anchor is worth.
    #[must_use]
    pub const fn assurance(&self) -> Assurance {
        self.extension.assurance
    }

    /// SHA-256 of the credential key's `SubjectPublicKeyInfo`.
    #[must_use]
    pub const fn key(&self) -> Sha256Digest {
        self.key
    }

    /// `notBefore` of the leaf.
    #[must_use]
    pub const fn not_before(&self) -> UnixMillis {
        self.not_before
    }

    /// `notAfter` of the leaf.
    #[must_use]
    pub const fn not_after(&self) -> UnixMillis {
        self.not_after
    }

    /// Earliest `notAfter` on the path to the root.
    #[must_use]
    pub const fn valid_until(&self) -> UnixMillis {
        self.valid_until
    }
}

/// SPIFFE X.509-SVID, 4 and appendix A: a leaf signs and authenticates, and issues nothing. Each right must be written:
/// what is absent is not granted.
fn check_profile(leaf: &X509Certificate<'_>) -> Result<(), Rejection> {
    let refused = |expected: &str, found: &str| Err(ResultReason::SvidProfile.because(expected, found));
    let (mut signs, mut authenticates) = (false, false);
    for extension in leaf.extensions() {
        let parsed = extension.parsed_extension();
        if let ParsedExtension::BasicConstraints(constraints) = parsed
            && constraints.ca
        {
            return refused("CA false", "CA true");
        }
        if let ParsedExtension::KeyUsage(usage) = parsed {
            if usage.key_cert_sign() || usage.crl_sign() {
                return refused("keyUsage without keyCertSign and cRLSign", "one of them");
            }
            signs = usage.digital_signature();
        }
        if let ParsedExtension::ExtendedKeyUsage(usage) = parsed {
            authenticates = usage.client_auth && usage.server_auth;
        }
    }
    if !signs {
        return refused("keyUsage digitalSignature", "none");
    }
    if !authenticates {
        return refused("extKeyUsage clientAuth and serverAuth", "not both");
    }
    Ok(())
}

/// SPIFFE X.509-SVID, 2: exactly one URI SAN. Names of other kinds may stand beside it and mean nothing here.
fn read_id(leaf: &X509Certificate<'_>) -> Result<SpiffeId, Rejection> {
    let refused = |found: &str| ResultReason::SvidId.because("one URI SAN spiffe://<trust domain>/host/<id>", found);
    let mut uris = Vec::new();
    for extension in leaf.extensions() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
            for name in &names.general_names {
                if let GeneralName::URI(uri) = name {
                    uris.push(*uri);
                }
            }
        }
    }
    match uris.as_slice() {
        [uri] => SpiffeId::parse(uri).ok_or_else(|| refused(uri)),
        others => Err(refused(&format!("{} URIs", others.len()))),
    }
}

fn read_extension(leaf: &X509Certificate<'_>) -> Result<CredentialExtension, Rejection> {
    // That it is there at most once, the path's check of all extensions has seen to.
    let ours = leaf.extensions().iter().find(|extension| extension.oid.to_id_string() == EXTENSION_OID_TEXT);
    let ours = ours.ok_or_else(|| ResultReason::SvidExtensionMissing.because("the extension once", "none"))?;
    CredentialExtension::decode(ours.value)
}

/// OID of the credential extension, non-critical: 2.25 (UUID-derived) and our number.
pub const EXTENSION_OID: [u64; 3] = [2, 25, 7_014_083_229_441_153_027];

/// The same in dotted form.
pub(super) const EXTENSION_OID_TEXT: &str = "2.25.7014083229441153027";

/// Version of the extension's content.
const EXTENSION_VERSION: u64 = 1;

/// The content of the credential extension:
///
/// ```text
/// SEQUENCE { version INTEGER (1), statusList INTEGER, statusIndex INTEGER, generation INTEGER,
///            decision OCTET STRING (32), logIndex INTEGER, assurance UTF8String }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CredentialExtension {
    /// Number of the status list.
    pub status_list: u64,
    /// Index in that list.
    pub status_index: u64,
    /// The host's generation.
    pub generation: u64,
    /// The decision id: hash of its leaf in the log.
    pub decision: Sha256Digest,
    /// Index of that leaf.
    pub log_index: u64,
    /// What the weakest trust anchor is worth.
    pub assurance: Assurance,
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;

/// Longest content: 3 bytes of SEQUENCE, 5 integers of at most 11, 34 and 11 bytes.
const EXTENSION_BYTES_MAX: usize = 127;

impl CredentialExtension {
    /// The extension's value, DER.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut content = Vec::new();
        for integer in [EXTENSION_VERSION, self.status_list, self.status_index, self.generation] {
            push_integer(&mut content, integer);
        }
        push(&mut content, OCTET_STRING, &self.decision.0);
        push_integer(&mut content, self.log_index);
        push(&mut content, UTF8_STRING, self.assurance.to_string().as_bytes());
        let mut sequence = Vec::new();
        push(&mut sequence, SEQUENCE, &content);
        sequence
    }

    /// Reads the extension's value: the exact inverse of [`Self::encode`], one encoding for one content.
    ///
    /// # Errors
    /// [`ResultReason::SvidExtensionMalformed`].
    pub fn decode(der: &[u8]) -> Result<Self, Rejection> {
        let refused =
            |found: &str| ResultReason::SvidExtensionMalformed.because("the credential extension, DER", found);
        if EXTENSION_BYTES_MAX < der.len() {
            return Err(refused(&format!("{} bytes", der.len())));
        }
        let mut outer = Reader::new(der);
        let content = element(&mut outer, SEQUENCE).map_err(|error| refused(&error.to_string()))?;
        outer.finish().map_err(|error| refused(&error.to_string()))?;
        let mut reader = Reader::new(content);
        let read = |reader: &mut Reader<'_>| integer(reader).map_err(|error| refused(&error.to_string()));
        let version = read(&mut reader)?;
        if version != EXTENSION_VERSION {
            return Err(refused(&format!("version {version}")));
        }
        let (status_list, status_index, generation) = (read(&mut reader)?, read(&mut reader)?, read(&mut reader)?);
        let decision = element(&mut reader, OCTET_STRING).map_err(|error| refused(&error.to_string()))?;
        let decision = <[u8; 32]>::try_from(decision).map_err(|_| refused("a decision id of another size"))?;
        let log_index = read(&mut reader)?;
        let assurance = match element(&mut reader, UTF8_STRING).map_err(|error| refused(&error.to_string()))? {
            b"hardware" => Assurance::Hardware,
            b"simulated" => Assurance::Simulated,
            _ => return Err(refused("an unknown assurance class")),
        };
        reader.finish().map_err(|error| refused(&error.to_string()))?;
        Ok(Self { status_list, status_index, generation, decision: Sha256Digest(decision), log_index, assurance })
    }
}

/// Appends an element. Contents here are shorter than 128 bytes, so a length is one byte.
fn push(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    // The longest content is bounded by its type (see EXTENSION_BYTES_MAX): the conversion cannot fail, and if it did
    // the decoder would refuse what came out.
    out.push(u8::try_from(content.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(content);
}

/// Appends a non-negative INTEGER: shortest form, a zero byte before a set top bit (X.690, 8.3).
fn push_integer(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_be_bytes();
    let significant = bytes.iter().position(|byte| *byte != 0).unwrap_or(7);
    let (_, shortest) = bytes.split_at_checked(significant).unwrap_or((&[], &bytes));
    let mut content = Vec::new();
    if shortest.first().is_some_and(|byte| 0x80 <= *byte) {
        content.push(0);
    }
    content.extend_from_slice(shortest);
    push(out, INTEGER, &content);
}

/// Why an element cannot be read.
enum DerError {
    Read(ReadError),
    Tag { expected: u8, found: u8 },
    Length,
    Integer,
}

impl fmt::Display for DerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::Tag { expected, found } => write!(f, "tag {found:#04x} where {expected:#04x} is needed"),
            Self::Length => f.write_str("a length of 128 bytes or more, or not in its shortest form"),
            Self::Integer => f.write_str("an integer that is negative, above 64 bits or not in its shortest form"),
        }
    }
}

/// The content of the next element, which has `tag`.
fn element<'a>(reader: &mut Reader<'a>, tag: u8) -> Result<&'a [u8], DerError> {
    let found = reader.u8().map_err(DerError::Read)?;
    if found != tag {
        return Err(DerError::Tag { expected: tag, found });
    }
    let length = reader.u8().map_err(DerError::Read)?;
    if 0x80 <= length {
        return Err(DerError::Length);
    }
    reader.bytes(usize::from(length)).map_err(DerError::Read)
}

fn integer(reader: &mut Reader<'_>) -> Result<u64, DerError> {
    let content = element(reader, INTEGER)?;
    let magnitude = match content {
        [] => return Err(DerError::Integer),
        [0, rest @ ..] if rest.first().is_some_and(|byte| 0x80 <= *byte) => rest,
        [0, _, ..] | [0x80..=0xff, ..] => return Err(DerError::Integer),
        shortest => shortest,
    };
    if 8 < magnitude.len() {
        return Err(DerError::Integer);
    }
    Ok(magnitude.iter().fold(0_u64, |value, byte| value.wrapping_shl(8) | u64::from(*byte)))
}
