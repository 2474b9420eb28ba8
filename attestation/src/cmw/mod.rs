//! CMW, the RATS conceptual message wrapper (RFC 9999): records and collections in JSON and CBOR, CBOR tags, the signed
//! form and the X.509 extension. What is read here is a wrapper, strictly; what its values mean is their type's to say.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::rejection::{Rejection, reasons};
use crate::result::svid::push;
use crate::x509::der::{Der, NotDer, tag};
use crate::x509::{Certificate, Oid};

mod cbor;
mod json;
mod signed;

pub use signed::verify_signed;

reasons! {
    /// Why a conceptual message wrapper is rejected.
    CmwReason {
        /// Bounded before anything is decoded.
        TooLarge = "cmw.too_large",
            "the wrapper is larger than is read here",
            "send at most the number of bytes named as expected";
        /// RFC 9999, 3: JSON or CBOR that is a record, a collection or a tag, each member and item once.
        Form = "cmw.form",
            "the bytes are not a conceptual message wrapper",
            "send a record [type, value, indicator], a collection of records by label, or a CBOR tag, and nothing after it";
        /// RFC 9999, 3.1: a media type or a CoAP content format.
        Type = "cmw.type",
            "a record's type is neither a media type nor a CoAP content format",
            "name the type as type/subtype with its parameters, or as a content format from 0 to 65535";
        /// RFC 9999, 3.1: bytes, in JSON as base64url without padding.
        Value = "cmw.value",
            "a record's value is not bytes in the encoding of its format",
            "write a byte string in CBOR, base64url without padding in JSON";
        /// RFC 9999, 3.1 and 11.
        Indicator = "cmw.indicator",
            "a record's indicator is not a set of the conceptual messages that are defined",
            "give an unsigned integer with bits 0 to 4 only, or leave it out";
        /// RFC 9999, 3.3: a collection has entries, each under its own label.
        Collection = "cmw.collection",
            "a collection is empty, names one label twice, or has a type that is neither URI nor OID",
            "send at least one entry, each label once, and __cmwc_t as an absolute URI or a dotted OID";
        /// Bounded before recursion.
        Depth = "cmw.depth",
            "collections are nested deeper than is read here",
            "send collections nested at most as deep as named as expected";
        /// RFC 9999, 5.1: COSE_Sign1 with alg and content type under the signature.
        Signed = "cmw.signed.form",
            "the bytes are not a signed CBOR wrapper",
            "send a tagged COSE_Sign1 with alg and content type application/cmw+cbor in its protected header";
        /// The verifier's key says which algorithm.
        SignedAlgorithm = "cmw.signed.algorithm",
            "the wrapper is signed with another algorithm than the key's",
            "sign with the algorithm named as expected";
        /// RFC 9052, 4.4.
        SignedSignature = "cmw.signed.signature",
            "the signature over the wrapper does not verify",
            "send the wrapper unchanged, signed by the key that the verifier was given";
        /// RFC 9999, 6.1.
        Extension = "cmw.x509_extension",
            "the certificate does not carry one conceptual message wrapper",
            "send a certificate with the extension id-pe-cmw: a UTF8String of JSON or an OCTET STRING of CBOR";
    }
}

/// Largest wrapper read: a bundle of evidence with all its logs.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Collections within collections. Genuine ones have two or three levels: platform, device, layer.
const DEPTH_MAX: usize = 8;

/// Entries of one collection.
const ENTRIES_MAX: usize = 256;

/// Longest label, type or media type.
const TEXT_BYTES_MAX: usize = 1024;

/// The conceptual messages with a bit of their own: reference values, endorsements, evidence, attestation results and
/// appraisal policy (RFC 9999, 3.1).
const INDICATOR_BITS: u32 = 0b1_1111;

/// The member that names a collection's type.
const COLLECTION_TYPE: &str = "__cmwc_t";

/// id-pe-cmw (RFC 9999, 6.1): 1.3.6.1.5.5.7.1.35.
const EXTENSION: Oid = Oid::new(&[0x2b, 6, 1, 5, 5, 7, 1, 35], "id-pe-cmw");

/// id-pe-cmw, as arcs.
pub const EXTENSION_OID: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 1, 35];

const UTF8_STRING: u8 = 0x0c;

/// Bit 3: an attestation result.
const ATTESTATION_RESULTS: u32 = 1 << 3;

/// A wrapper that was read. Nothing in it is believed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cmw {
    /// One message.
    Record(Record),
    /// Messages by label.
    Collection(Collection),
}

/// One conceptual message with its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What `value` is.
    pub content: ContentType,
    /// The message, in its own format.
    pub value: Vec<u8>,
    /// Which conceptual messages the value holds, one bit each; `None` where the record does not say.
    pub indicator: Option<u32>,
}

/// The type of a record's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// A media type with its parameters.
    MediaType(String),
    /// A CoAP content format.
    ContentFormat(u16),
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MediaType(name) => f.write_str(name),
            Self::ContentFormat(number) => write!(f, "{number}"),
        }
    }
}

/// Messages by label, at least one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    /// `__cmwc_t`: an absolute URI or a dotted OID; `None` where the collection has none.
    pub collection_type: Option<String>,
    /// The messages.
    pub entries: BTreeMap<Label, Cmw>,
}

/// The label of an entry. JSON has texts alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    /// An integer.
    Integer(i64),
    /// A text.
    Text(String),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Cmw {
    /// Reads a wrapper, all of `bytes`. JSON begins with a bracket or a brace, and no CBOR wrapper does.
    ///
    /// # Errors
    /// A [`CmwReason`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Rejection> {
        if BYTES_MAX < bytes.len() {
            return Err(CmwReason::TooLarge.because(format!("at most {BYTES_MAX} bytes"), bytes.len()));
        }
        match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'[' | b'{') => json::decode(bytes),
            Some(_) => cbor::decode(bytes),
            None => Err(CmwReason::Form.because("a record, a collection or a tag", "nothing")),
        }
    }

    /// The wrapper in a certificate's extension id-pe-cmw (RFC 9999, 6.1):
    /// `CMW ::= CHOICE { json UTF8String, cbor OCTET STRING }`. The certificate itself is not judged.
    ///
    /// # Errors
    /// [`CmwReason::Extension`], or what [`Self::decode`] refuses.
    pub fn of_certificate(certificate: &Certificate<'_>) -> Result<Self, Rejection> {
        let refused = |found: &str| CmwReason::Extension.because("the extension id-pe-cmw, once", found);
        let extension = certificate.extension(EXTENSION).ok_or_else(|| refused("none"))?;
        let read = || -> Result<_, NotDer> {
            let mut outer = Der::new(extension.value);
            let choice = outer.any()?;
            outer.finish()?;
            Ok(choice)
        };
        let choice = read().map_err(|NotDer| refused("an extension that cannot be read"))?;
        match choice.tag {
            UTF8_STRING => json::decode(choice.content),
            tag::OCTET_STRING => cbor::decode(choice.content),
            other => Err(refused(&format!("an element with tag {other:#04x}"))),
        }
    }
}

/// The content of a certificate's extension id-pe-cmw with one attestation result in it: a CBOR record in an OCTET
/// STRING. [`Cmw::of_certificate`] reads it.
#[must_use]
pub fn certificate_extension(media_type: &str, result: &str) -> Vec<u8> {
    let mut record = Vec::new();
    let mut encoder = minicbor::Encoder::new(&mut record);
    // Writing to memory cannot fail; were it to, the reader would find no record.
    let _written = encoder
        .array(3)
        .and_then(|encoder| encoder.str(media_type))
        .and_then(|encoder| encoder.bytes(result.as_bytes()))
        .and_then(|encoder| encoder.u32(ATTESTATION_RESULTS))
        .map(|_| ());
    let mut content = Vec::new();
    push(&mut content, tag::OCTET_STRING, &record);
    content
}

impl ContentType {
    fn media_type(name: &str) -> Result<Self, Rejection> {
        if is_media_type(name) {
            Ok(Self::MediaType(name.to_string()))
        } else {
            Err(CmwReason::Type.because("a media type", short(name)))
        }
    }

    fn content_format(number: u64) -> Result<Self, Rejection> {
        u16::try_from(number)
            .map(Self::ContentFormat)
            .map_err(|_| CmwReason::Type.because("a content format from 0 to 65535", number))
    }
}

/// RFC 6838, 4.2: two restricted names, and parameters in visible ASCII behind a semicolon.
fn is_media_type(name: &str) -> bool {
    let restricted = |part: &str| {
        let other = |byte: u8| matches!(byte, b'!' | b'#' | b'$' | b'&' | b'-' | b'^' | b'_' | b'.' | b'+');
        (1..=127).contains(&part.len())
            && part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || other(byte))
    };
    let (essence, parameters) = name.split_once(';').unwrap_or((name, ""));
    let Some((kind, subtype)) = essence.trim_end_matches(' ').split_once('/') else { return false };
    let visible = parameters.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    let complete = !name.contains(';') || parameters.contains('=');
    name.len() <= TEXT_BYTES_MAX && restricted(kind) && restricted(subtype) && visible && complete
}

fn check_indicator(indicator: u64) -> Result<u32, Rejection> {
    u32::try_from(indicator)
        .ok()
        .filter(|bits| bits & !INDICATOR_BITS == 0)
        .ok_or_else(|| CmwReason::Indicator.because("bits 0 to 4", indicator))
}

impl Collection {
    fn insert(&mut self, label: Label, entry: Cmw) -> Result<(), Rejection> {
        if ENTRIES_MAX <= self.entries.len() {
            return Err(CmwReason::Collection.because(format!("at most {ENTRIES_MAX} entries"), "more"));
        }
        let name = label.to_string();
        if name.is_empty() || TEXT_BYTES_MAX < name.len() {
            return Err(CmwReason::Collection.because("a label of 1 to 1024 bytes", name.len()));
        }
        match self.entries.insert(label, entry) {
            Some(_) => Err(CmwReason::Collection.because("each label once", format!("{name} twice"))),
            None => Ok(()),
        }
    }

    fn set_type(&mut self, text: &str) -> Result<(), Rejection> {
        if !(is_uri(text) || is_oid(text)) {
            return Err(CmwReason::Collection.because("an absolute URI or a dotted OID", short(text)));
        }
        match self.collection_type.replace(text.to_string()) {
            Some(_) => Err(CmwReason::Collection.because("__cmwc_t once", "twice")),
            None => Ok(()),
        }
    }

    fn complete(self) -> Result<Cmw, Rejection> {
        if self.entries.is_empty() {
            return Err(CmwReason::Collection.because("at least one entry", "none"));
        }
        Ok(Cmw::Collection(self))
    }
}

/// RFC 3986, 3: a scheme, a colon, and what follows in visible ASCII.
fn is_uri(text: &str) -> bool {
    let scheme = |scheme: &str| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    };
    let rest = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic());
    text.len() <= TEXT_BYTES_MAX && text.split_once(':').is_some_and(|(name, after)| scheme(name) && rest(after))
}

/// At least two arcs in decimal, without leading zeros, the first at most 2 (X.660).
fn is_oid(text: &str) -> bool {
    let arc = |arc: &str| {
        !arc.is_empty() && arc.bytes().all(|byte| byte.is_ascii_digit()) && (arc == "0" || !arc.starts_with('0'))
    };
    let first = text.split('.').next().is_some_and(|first| matches!(first, "0" | "1" | "2"));
    text.len() <= TEXT_BYTES_MAX && first && text.contains('.') && text.split('.').all(arc)
}

fn check_depth(depth: usize) -> Result<(), Rejection> {
    if DEPTH_MAX < depth { Err(CmwReason::Depth.because(DEPTH_MAX, depth)) } else { Ok(()) }
}

/// What a message shows of a text that somebody else wrote.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}
