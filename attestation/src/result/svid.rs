//! The X.509-SVID of an execution credential: the SPIFFE profile, and the one extension that ties the certificate to
//! its decision, its status and its place in the log.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::anchor::Assurance;
use crate::digest::Sha256Digest;
use crate::protocol::HostId;
use crate::reader::{ReadError, Reader};
use crate::rejection::Rejection;
use crate::result::ResultReason;

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

/// OID of the credential extension, non-critical: 2.25 (UUID-derived) and our number.
pub const EXTENSION_OID: [u64; 3] = [2, 25, 7_014_083_229_441_153_027];

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
