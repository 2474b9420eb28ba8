//! Token Status List (draft-ietf-oauth-status-list-21): two bits per credential index. What is not known to be VALID
//! is INVALID.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use miniz_oxide::deflate::compress_to_vec_zlib;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_PARSE_ZLIB_HEADER, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::rejection::{Rejection, reasons};
use crate::result::jws::{self, JwkSet, Kind};
use crate::time::UnixMillis;
use crate::verified::Verified;

reasons! {
    /// Why a status list is rejected, or has no answer.
    StatusListReason {
        /// draft 21, 4.1: `bits` says how to read the rest.
        Bits = "status_list.bits",
            "the list has another number of bits per entry",
            "sign status lists with two bits per entry";
        /// draft 21, 4.1: one complete zlib stream (RFC 1950), nothing after it.
        Encoding = "status_list.encoding",
            "the list cannot be decoded",
            "encode the list as one zlib stream in base64url without padding";
        /// A stream that grows without end is refused before it has grown.
        TooLarge = "status_list.too_large",
            "the list holds more entries than a list can",
            "split the indexes into lists of 65,536 entries";
        /// No entry, no trust.
        Index = "status_list.index",
            "the list has no entry for this index",
            "present a credential whose status index its list covers";
        /// RFC 7519, 4.1.4.
        Expired = "status_list.expired",
            "the list has expired",
            "fetch the broker's current list";
        /// RFC 7519, 4.1.6, within the clock error that pulses allow.
        NotYetIssued = "status_list.not_yet_issued",
            "the list was issued in the future",
            "synchronise the clocks of broker and verifier";
        /// draft 21, 8.3: `sub` is the URI of the list.
        Subject = "status_list.subject",
            "the token is another list than the one asked for",
            "fetch the list from the URI that the credential names";
    }
}

/// The draft this follows.
pub const DRAFT: u32 = 21;

/// `typ` and size of a status list token: 16 KiB that do not compress, twice in base64url.
pub const KIND: Kind = Kind { typ: "statuslist+jwt", bytes_max: 64 * 1024 };

/// Bits per entry.
pub const BITS: u8 = 2;

/// Entries in a full list; list `n` covers the credential indexes from `n * 65,536` on.
pub const ENTRIES: usize = 65_536;

const BYTES_MAX: usize = ENTRIES / ENTRIES_PER_BYTE;
const ENTRIES_PER_BYTE: usize = 4;

/// Four times INVALID.
const ALL_INVALID: u8 = 0b01_01_01_01;

/// zlib's strongest level: a list is compressed once and read by every gate.
const COMPRESSION_LEVEL: u8 = 9;

/// The status of one credential (draft 21, 7.1). The application-specific value 0x03 reads as INVALID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// 0x00: trusted.
    Valid,
    /// 0x01: not trusted, and never again under this index.
    Invalid,
    /// 0x02: not trusted now: lapsed, or held until an operator decides.
    Suspended,
}

impl Status {
    const fn bits(self) -> u8 {
        match self {
            Self::Valid => 0,
            Self::Invalid => 1,
            Self::Suspended => 2,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "VALID",
            Self::Invalid => "INVALID",
            Self::Suspended => "SUSPENDED",
        })
    }
}

/// One list, uncompressed.
#[derive(Clone, PartialEq, Eq)]
pub struct StatusList {
    bytes: Vec<u8>,
}

impl fmt::Debug for StatusList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StatusList({} entries, {})", self.size(), self.sha256())
    }
}

impl StatusList {
    /// A list of 65,536 entries, all INVALID: an index is worth nothing before a credential was issued under it.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "a list that nobody asked for by name would be a list nobody filled"
    )]
    pub fn new() -> Self {
        Self { bytes: vec![ALL_INVALID; BYTES_MAX] }
    }

    /// The list that these uncompressed bytes are.
    ///
    /// # Errors
    /// [`StatusListReason::TooLarge`] for more than 65,536 entries, [`StatusListReason::Encoding`] for none.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, Rejection> {
        if bytes.is_empty() {
            return Err(StatusListReason::Encoding.because("at least one byte", "no entries"));
        }
        if BYTES_MAX < bytes.len() {
            return Err(StatusListReason::TooLarge.because(format!("at most {BYTES_MAX} bytes"), bytes.len()));
        }
        Ok(Self { bytes })
    }

    /// The uncompressed bytes: four entries each, the first in the lowest bits (draft 21, 4.1).
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Entries in the list.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.bytes.len().saturating_mul(ENTRIES_PER_BYTE)
    }

    /// SHA-256 of the uncompressed bytes: what a pulse names.
    #[must_use]
    pub fn sha256(&self) -> Sha256Digest {
        Sha256Digest::of(&[&self.bytes])
    }

    /// The status at `index`.
    ///
    /// # Errors
    /// [`StatusListReason::Index`] outside the list.
    pub fn get(&self, index: u64) -> Result<Status, Rejection> {
        let (at, shift) = place(index).ok_or_else(|| self.outside(index))?;
        let byte = self.bytes.get(at).ok_or_else(|| self.outside(index))?;
        Ok(match byte.checked_shr(shift).unwrap_or(ALL_INVALID) & 0b11 {
            0 => Status::Valid,
            2 => Status::Suspended,
            _ => Status::Invalid,
        })
    }

    /// Sets the status at `index`.
    ///
    /// # Errors
    /// [`StatusListReason::Index`] outside the list.
    pub fn set(&mut self, index: u64, status: Status) -> Result<(), Rejection> {
        let outside = self.outside(index);
        let Some((at, shift)) = place(index) else { return Err(outside) };
        let Some(byte) = self.bytes.get_mut(at) else { return Err(outside) };
        let (Some(mask), Some(bits)) = (0b11_u8.checked_shl(shift), status.bits().checked_shl(shift)) else {
            return Err(outside);
        };
        *byte = (*byte & !mask) | bits;
        Ok(())
    }

    fn outside(&self, index: u64) -> Rejection {
        StatusListReason::Index.because(format!("an index below {}", self.size()), index)
    }

    /// The `status_list` claim: zlib (RFC 1950) in base64url (draft 21, 4.2).
    #[must_use]
    pub fn encode(&self) -> StatusListClaim {
        StatusListClaim {
            bits: BITS,
            lst: URL_SAFE_NO_PAD.encode(compress_to_vec_zlib(&self.bytes, COMPRESSION_LEVEL)),
        }
    }

    /// Reads a `status_list` claim. The output buffer is the limit: nothing grows beyond one full list.
    ///
    /// # Errors
    /// A [`StatusListReason`].
    pub fn decode(claim: &StatusListClaim) -> Result<Self, Rejection> {
        if claim.bits != BITS {
            return Err(StatusListReason::Bits.because(BITS, claim.bits));
        }
        let refused = |found: &str| StatusListReason::Encoding.because("one zlib stream in base64url", found);
        let compressed = URL_SAFE_NO_PAD.decode(&claim.lst).map_err(|error| refused(&error.to_string()))?;
        let mut bytes = vec![0; BYTES_MAX];
        let flags = TINFL_FLAG_PARSE_ZLIB_HEADER | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let (status, read, written) = decompress(&mut DecompressorOxide::new(), &compressed, &mut bytes, 0, flags);
        if status == TINFLStatus::HasMoreOutput {
            return Err(StatusListReason::TooLarge.because(format!("at most {BYTES_MAX} bytes"), "more"));
        }
        if status != TINFLStatus::Done {
            return Err(refused(&format!("{status:?}")));
        }
        if read != compressed.len() {
            return Err(refused("bytes after the end of the stream"));
        }
        bytes.truncate(written);
        Self::from_bytes(bytes)
    }
}

/// Byte and shift of an entry.
fn place(index: u64) -> Option<(usize, u32)> {
    let shift = u32::try_from(index % 4).ok()?.checked_mul(2)?;
    Some((usize::try_from(index / 4).ok()?, shift))
}

/// The claims of a status list token (draft 21, 5.1). Times are Unix time in seconds (RFC 7519). A
/// [`Verified<StatusListToken>`] is what [`StatusListToken::verify`] makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusListToken {
    /// The URI of the list, as credentials name it.
    pub sub: String,
    /// When it was signed, seconds.
    pub iat: u64,
    /// Not to be used from this moment on, seconds.
    pub exp: u64,
    /// How long a copy may be served without asking again, seconds.
    pub ttl: u64,
    /// The list.
    pub status_list: StatusListClaim,
}

/// The `status_list` claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusListClaim {
    /// Bits per entry: 2.
    pub bits: u8,
    /// The compressed list, base64url.
    pub lst: String,
}

impl StatusListToken {
    /// The payload to sign.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        // Strings and integers only: writing them cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Checks a status list token under the broker's `keys` at `now` and decodes its list. Which list it is, a pulse
    /// says by digest, or the caller by [`Self::check_subject`].
    ///
    /// # Errors
    /// A `result.token` reason or a [`StatusListReason`].
    pub fn verify(token: &str, keys: &JwkSet, now: UnixMillis) -> Result<(Verified<Self>, StatusList), Rejection> {
        let claims = jws::verify::<Self>(KIND, token, keys)?;
        if claims.exp <= now.seconds() {
            return Err(StatusListReason::Expired.because(format!("before {}", claims.exp), now.seconds()));
        }
        if now.plus(crate::pulse::CLOCK_ERROR_MAX_MS).seconds() < claims.iat {
            return Err(StatusListReason::NotYetIssued.because(format!("at most {}", now.seconds()), claims.iat));
        }
        let list = StatusList::decode(&claims.status_list)?;
        Ok((claims, list))
    }

    /// Whether the token is the list at `uri`, for a verifier that follows a credential's own reference.
    ///
    /// # Errors
    /// [`StatusListReason::Subject`] when it is not.
    pub fn check_subject(&self, uri: &str) -> Result<(), Rejection> {
        if self.sub == uri { Ok(()) } else { Err(StatusListReason::Subject.because(uri, &self.sub)) }
    }
}
