//! The extension that ties a certificate to its decision, its status and its place in the log.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::anchor::Assurance;
use crate::digest::Sha256Digest;
use crate::rejection::Rejection;
use crate::result::ResultReason;
use crate::x509::Oid;
use crate::x509::der::{Der, NotDer, tag};

/// OID of the credential extension, non-critical: 2.25 (UUID-derived) and our number.
pub const EXTENSION_OID: [u64; 3] = [2, 25, 7_014_083_229_441_153_027];

/// The same as content octets.
pub(super) const EXTENSION: Oid =
    Oid::new(&[0x69, 0xe1, 0xab, 0xc1, 0xf1, 0x8f, 0x9e, 0xf5, 0xb0, 0x03], "credential extension");

/// Version of the extension's content: without waivers, with some, and for a key in memory.
const EXTENSION_VERSION: u64 = 1;
const EXTENSION_VERSION_WAIVERS: u64 = 2;
const EXTENSION_VERSION_MEMORY: u64 = 3;

/// Where the certified key is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyProtection {
    /// In the TPM that was attested, which never gives it out.
    #[default]
    Tpm,
    /// In the memory of the attested host, for its workloads. Whoever reads that memory has the key until the
    /// credential ends.
    Memory,
}

impl fmt::Display for KeyProtection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tpm => "tpm",
            Self::Memory => "memory",
        })
    }
}

/// The content of the credential extension:
///
/// ```text
/// SEQUENCE { version INTEGER (1), statusList INTEGER, statusIndex INTEGER, generation INTEGER,
///            decision OCTET STRING (32), logIndex INTEGER, assurance UTF8String }
/// ```
///
/// Under waivers the version is 2, and their ids follow: `waivers SEQUENCE OF UTF8String`, never empty. For a key in
/// memory it is 3, and `keyProtection UTF8String ("memory")` and `waivers`, which may then be empty, follow. A reader that
/// does not know a version refuses the credential.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Ids of the signed waivers that the host would have been denied without.
    pub waivers: Vec<String>,
    /// Where the certified key is.
    pub key_protection: KeyProtection,
}

const UTF8_STRING: u8 = 0x0c;

/// More waivers than this are no exception.
const WAIVERS_MAX: usize = 8;
const WAIVER_ID_BYTES_MAX: usize = 128;
/// Longest content: 5 integers of at most 11 bytes, 34, 11 and 8 bytes; 8 waivers of 131; three headers of at most 4.
const EXTENSION_BYTES_MAX: usize = 55 + 45 + 8 + 8 * 131 + 3 * 4;

impl CredentialExtension {
    /// The extension's value, DER.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut content = Vec::new();
        let version = match self.key_protection {
            KeyProtection::Tpm if self.waivers.is_empty() => EXTENSION_VERSION,
            KeyProtection::Tpm => EXTENSION_VERSION_WAIVERS,
            KeyProtection::Memory => EXTENSION_VERSION_MEMORY,
        };
        for integer in [version, self.status_list, self.status_index, self.generation] {
            push_integer(&mut content, integer);
        }
        push(&mut content, tag::OCTET_STRING, &self.decision.0);
        push_integer(&mut content, self.log_index);
        push(&mut content, UTF8_STRING, self.assurance.to_string().as_bytes());
        if version == EXTENSION_VERSION_MEMORY {
            push(&mut content, UTF8_STRING, self.key_protection.to_string().as_bytes());
        }
        if version != EXTENSION_VERSION {
            let mut waivers = Vec::new();
            for waiver in &self.waivers {
                push(&mut waivers, UTF8_STRING, waiver.as_bytes());
            }
            push(&mut content, tag::SEQUENCE, &waivers);
        }
        let mut sequence = Vec::new();
        push(&mut sequence, tag::SEQUENCE, &content);
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
        Self::read_fields(der).map_err(|NotDer| refused("other fields"))
    }

    fn read_fields(der: &[u8]) -> Result<Self, NotDer> {
        let mut outer = Der::new(der);
        let mut fields = outer.inner(tag::SEQUENCE)?;
        outer.finish()?;
        let version = fields.u64()?;
        let (status_list, status_index, generation) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let decision = <[u8; 32]>::try_from(fields.content(tag::OCTET_STRING)?).map_err(|_| NotDer)?;
        let log_index = fields.u64()?;
        let assurance = match fields.content(UTF8_STRING)? {
            b"hardware" => Assurance::Hardware,
            b"simulated" => Assurance::Simulated,
            _ => return Err(NotDer),
        };
        let key_protection = match version {
            EXTENSION_VERSION | EXTENSION_VERSION_WAIVERS => KeyProtection::Tpm,
            EXTENSION_VERSION_MEMORY if fields.content(UTF8_STRING)? == b"memory" => KeyProtection::Memory,
            _ => return Err(NotDer),
        };
        let waivers = match version {
            EXTENSION_VERSION => Vec::new(),
            _ => Self::read_waivers(fields.inner(tag::SEQUENCE)?)?,
        };
        // Of no waivers and a key in the TPM there is one spelling: version 1.
        if version == EXTENSION_VERSION_WAIVERS && waivers.is_empty() {
            return Err(NotDer);
        }
        fields.finish()?;
        let decision = Sha256Digest(decision);
        Ok(Self { status_list, status_index, generation, decision, log_index, assurance, waivers, key_protection })
    }

    fn read_waivers(mut list: Der<'_>) -> Result<Vec<String>, NotDer> {
        let mut waivers = Vec::new();
        while !list.is_empty() {
            let id = str::from_utf8(list.content(UTF8_STRING)?).map_err(|_| NotDer)?;
            // They are printed where credentials are.
            let plain =
                !id.is_empty() && id.len() <= WAIVER_ID_BYTES_MAX && id.bytes().all(|byte| byte.is_ascii_graphic());
            if !plain {
                return Err(NotDer);
            }
            waivers.push(id.to_string());
        }
        if waivers.len() <= WAIVERS_MAX { Ok(waivers) } else { Err(NotDer) }
    }
}

/// Appends an element, its length in as few octets as possible (X.690, 10.1).
pub(crate) fn push(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    // Contents are bounded (see EXTENSION_BYTES_MAX): the conversion cannot fail, and if it did the decoder would
    // refuse what came out.
    let [high, low] = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    match (high, low) {
        (0, 0..=0x7f) => out.push(low),
        (0, 0x80..) => out.extend_from_slice(&[0x81, low]),
        (1.., _) => out.extend_from_slice(&[0x82, high, low]),
    }
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
    push(out, tag::INTEGER, &content);
}
