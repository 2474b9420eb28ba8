//! What event data says, where it hashes to its digest: UEFI variables, signature lists, strings.

use alloc::string::String;
use alloc::vec::Vec;

use super::EventLogReason;
use crate::digest::Sha256Digest;
use crate::reader::{ReadError, Reader};
use crate::rejection::Rejection;

/// EFI_GUID, as it is stored.
pub type Guid = [u8; 16];

/// EFI_GLOBAL_VARIABLE, 8be4df61-93ca-11d2-aa0d-00e098032b8c: SecureBoot, PK, KEK.
pub const GLOBAL_VARIABLE: Guid = *b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";

/// EFI_IMAGE_SECURITY_DATABASE_GUID, d719b2cb-3d3a-4596-a3bc-dad00e67656f: db, dbx.
pub const IMAGE_SECURITY_DATABASE: Guid = *b"\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f";

/// SHIM_LOCK_GUID, 605dab50-e046-4300-abb6-3dd810dd8b23: shim's own variables.
pub const SHIM_LOCK: Guid = *b"\x50\xab\x5d\x60\x46\xe0\x00\x43\xab\xb6\x3d\xd8\x10\xdd\x8b\x23";

/// EFI_CERT_X509_GUID, a5c059a1-94e4-4aa7-87b5-ab155c2bf072.
const CERT_X509: Guid = *b"\xa1\x59\xc0\xa5\xe4\x94\xa7\x4a\x87\xb5\xab\x15\x5c\x2b\xf0\x72";

/// EFI_CERT_SHA256_GUID, c1c41626-504c-4092-aca9-41f936934328.
const CERT_SHA256: Guid = *b"\x26\x16\xc4\xc1\x4c\x50\x92\x40\xac\xa9\x41\xf9\x36\x93\x43\x28";

/// UEFI_VARIABLE_DATA (PC Client PFP 1.06, 10.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable<'a> {
    /// VariableName: whose namespace.
    pub guid: Guid,
    /// UnicodeName, UTF-16LE without a terminator.
    name: &'a [u8],
    /// VariableData.
    pub value: &'a [u8],
}

impl<'a> Variable<'a> {
    /// Reads the whole of `data`. Shim writes one byte more than the structure has, so bytes may follow; they are not
    /// part of it.
    ///
    /// # Errors
    /// [`ReadError`] when lengths lead out of `data`.
    pub fn read(data: &'a [u8]) -> Result<Self, ReadError> {
        let mut reader = Reader::new(data);
        let guid = reader.array()?;
        let name_length = usize::try_from(reader.u64_le()?).unwrap_or(usize::MAX);
        let value_length = usize::try_from(reader.u64_le()?).unwrap_or(usize::MAX);
        let name = reader.bytes(name_length.saturating_mul(2))?;
        Ok(Self { guid, name, value: reader.bytes(value_length)? })
    }

    /// Whether the variable has this name.
    #[must_use]
    pub fn is(&self, guid: &Guid, name: &str) -> bool {
        self.guid == *guid && utf16_equals(self.name, name)
    }

    /// The name as text.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        utf16(self.name)
    }
}

fn utf16_equals(bytes: &[u8], text: &str) -> bool {
    let units = bytes.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
    bytes.len().is_multiple_of(2) && units.eq(text.encode_utf16())
}

/// Text of UTF-16LE, without the NULs that end it.
#[must_use]
pub fn utf16(bytes: &[u8]) -> Option<String> {
    let (units, []) = bytes.as_chunks::<2>() else { return None };
    let text = char::decode_utf16(units.iter().map(|unit| u16::from_le_bytes(*unit)));
    let text = text.collect::<Result<String, _>>().ok()?;
    Some(text.trim_end_matches('\0').into())
}

/// What an EFI_SIGNATURE_LIST database holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signatures {
    /// SHA-256 of each X.509 certificate, DER.
    pub certificates: Vec<Sha256Digest>,
    /// SHA-256 hashes of images (EFI_CERT_SHA256_GUID).
    pub hashes: Vec<Sha256Digest>,
    /// Entries of other types.
    pub others: u32,
}

/// Bytes of an EFI_SIGNATURE_LIST before its vendor header: type, list size, header size, signature size.
const SIGNATURE_LIST_HEADER: u32 = 28;

/// SignatureOwner before each signature.
const SIGNATURE_OWNER: u32 = 16;

/// Reads EFI_SIGNATURE_LISTs one after the other (UEFI 2.10, 32.4.1). The vendor header is stepped over and what is
/// left must be whole signatures, so no byte of one thing is ever read as another.
///
/// # Errors
/// [`EventLogReason::SignatureList`] for sizes that do not fit into each other.
pub fn read_signatures(bytes: &[u8]) -> Result<Signatures, Rejection> {
    let mut found = Signatures::default();
    let mut reader = Reader::new(bytes);
    while reader.offset() < bytes.len() {
        read_signature_list(&mut reader, &mut found)?;
    }
    Ok(found)
}

fn read_signature_list(reader: &mut Reader<'_>, found: &mut Signatures) -> Result<(), Rejection> {
    let short = |error: ReadError| EventLogReason::SignatureList.because("EFI_SIGNATURE_LIST", error);
    let kind: Guid = reader.array().map_err(short)?;
    let list_size = reader.u32_le().map_err(short)?;
    let header_size = reader.u32_le().map_err(short)?;
    let signature_size = reader.u32_le().map_err(short)?;
    let wrong = || {
        let found =
            alloc::format!("list of {list_size}, header of {header_size}, signatures of {signature_size} bytes");
        EventLogReason::SignatureList.because("a vendor header and whole signatures that fill the list", found)
    };
    let body = list_size.checked_sub(SIGNATURE_LIST_HEADER).and_then(|rest| rest.checked_sub(header_size));
    let body = body.ok_or_else(wrong)?;
    if signature_size <= SIGNATURE_OWNER || body.checked_rem(signature_size) != Some(0) {
        return Err(wrong());
    }
    if kind == CERT_SHA256 && signature_size != SIGNATURE_OWNER.saturating_add(32) {
        return Err(wrong());
    }
    reader.bytes(usize::try_from(header_size).unwrap_or(usize::MAX)).map_err(short)?;
    let body = reader.bytes(usize::try_from(body).unwrap_or(usize::MAX)).map_err(short)?;
    for signature in body.chunks(usize::try_from(signature_size).unwrap_or(usize::MAX)) {
        let Some((_owner, signature)) = signature.split_first_chunk::<16>() else { return Err(wrong()) };
        match (kind, <[u8; 32]>::try_from(signature)) {
            (CERT_X509, _) => found.certificates.push(Sha256Digest::of(&[signature])),
            (CERT_SHA256, Ok(hash)) => found.hashes.push(Sha256Digest(hash)),
            (_, Ok(_) | Err(_)) => found.others = found.others.saturating_add(1),
        }
    }
    Ok(())
}
