//! What firmware writes into events: variables, signature lists, device paths (UEFI 2.11; PC Client PFP 1.06, 10).
//!
//! For people alone: what is cut short is shown as far as it goes.

use countersign_attestation::reader::{ReadError, Reader};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::certificate::name_text;
use super::document::Text;

/// EFI_CERT_X509_GUID, as it lies in memory.
const CERT_X509: [u8; 16] =
    [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];

/// Signature lists in one variable, and signatures in one list: dbx holds hundreds of hashes.
const SIGNATURES_MAX: usize = 4096;

/// Nodes of a device path.
const NODES_MAX: usize = 32;

/// UEFI_VARIABLE_DATA (PFP 10.4.2).
pub(super) struct Variable<'a> {
    pub(super) name: Text,
    pub(super) value: &'a [u8],
}

impl<'a> Variable<'a> {
    /// Reads it: VariableName (a GUID), UnicodeNameLength, VariableDataLength, UnicodeName, VariableData.
    pub(super) fn read(data: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        let _guid = reader.bytes(16).ok()?;
        let name_length = usize::try_from(reader.u64_le().ok()?).ok()?;
        let value_length = usize::try_from(reader.u64_le().ok()?).ok()?;
        let name = utf16(reader.bytes(name_length.checked_mul(2)?).ok()?);
        let value = reader.bytes(value_length).ok()?;
        Some(Self { name, value })
    }
}

/// What the EFI_SIGNATURE_LISTs of a variable hold (UEFI 2.11, 32.4.1).
#[derive(Default)]
pub(super) struct Signatures {
    /// Subjects of certificates.
    pub(super) subjects: Vec<Text>,
    /// Everything else: hashes of images, mostly.
    pub(super) others: usize,
    /// Whether the lists end where the variable does.
    pub(super) whole: bool,
}

impl Signatures {
    /// Reads them, as far as they go.
    pub(super) fn read(value: &[u8]) -> Self {
        let mut found = Self::default();
        let mut reader = Reader::new(value);
        while reader.finish().is_err() {
            if found.list(&mut reader).is_err() || SIGNATURES_MAX < found.subjects.len() {
                return found;
            }
        }
        Self { whole: true, ..found }
    }

    fn list(&mut self, reader: &mut Reader<'_>) -> Result<(), ReadError> {
        let kind: [u8; 16] = reader.array()?;
        let size = |reader: &mut Reader<'_>| reader.u32_le().map(|size| usize::try_from(size).unwrap_or(usize::MAX));
        let (list, header, signature) = (size(reader)?, size(reader)?, size(reader)?);
        let _header = reader.bytes(header)?;
        // 28 bytes stand before the header.
        let body = reader.bytes(list.saturating_sub(28).saturating_sub(header))?;
        // Each: the owner's GUID, then the certificate or hash.
        for entry in body.chunks_exact(signature.max(16)) {
            let (_owner, entry) = entry.split_at_checked(16).unwrap_or_default();
            if kind == CERT_X509 {
                self.subjects.push(subject(entry));
            } else {
                self.others = self.others.saturating_add(1);
            }
        }
        Ok(())
    }
}

/// The subject of a certificate, DER.
pub(super) fn subject(der: &[u8]) -> Text {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Text::new(&name_text(&certificate.tbs_certificate.subject)),
        Err(_) => Text::new("(unreadable certificate)"),
    }
}

/// UEFI_IMAGE_LOAD_EVENT (PFP 10.4.3): where the image came from, as its device path says.
pub(super) fn image_path(data: &[u8]) -> Option<Text> {
    let mut reader = Reader::new(data);
    let _location_length_link = reader.bytes(24).ok()?;
    let length = usize::try_from(reader.u64_le().ok()?).ok()?;
    Some(device_path(reader.bytes(length).ok()?))
}

/// A device path (UEFI 2.11, 10.3), short: the parts that a person recognises.
fn device_path(bytes: &[u8]) -> Text {
    let mut reader = Reader::new(bytes);
    let mut shown: Vec<String> = Vec::new();
    for _ in 0..NODES_MAX {
        let Ok([kind, subtype, low, high]) = reader.array() else { break };
        let length = usize::from(u16::from_le_bytes([low, high])).saturating_sub(4);
        let Ok(body) = reader.bytes(length) else { break };
        match (kind, subtype) {
            (0x7f, 0xff) => break,
            (1, 1) => shown.extend(node(body, |body| body.array::<2>()).map(|[f, d]| format!("Pci({d:#x},{f:#x})"))),
            (1, 3) => shown.push("MemoryMapped".to_owned()),
            (2, 1) => shown.push("Acpi".to_owned()),
            (1, 4) | (3, 0x0a) | (4, 3) => shown.push(format!("Vendor({})", guid(body))),
            (3, 2) => shown.push("Scsi".to_owned()),
            (3, 0x0b) => shown.push("Network".to_owned()),
            (3, 0x18) => shown.push(format!("Uri({})", Text::of_bytes(body).as_str())),
            (3, 0x17) => shown.push("NVMe".to_owned()),
            (3, 0x12) => shown.push("Sata".to_owned()),
            (3, 5) => shown.push("Usb".to_owned()),
            (4, 1) => shown.extend(node(body, Reader::u32_le).map(|number| format!("HD({number})"))),
            (4, 2) => shown.push("CDROM".to_owned()),
            (4, 4) => shown.push(utf16(body).as_str().to_owned()),
            (4, 6) => shown.push(format!("FvFile({})", guid(body))),
            (4, 7) => shown.push(format!("Fv({})", guid(body))),
            (4, 8) => shown.push("Offset".to_owned()),
            (kind, subtype) => shown.push(format!("Node({kind},{subtype})")),
        }
    }
    Text::new(&shown.join("/"))
}

fn node<'a, T>(body: &'a [u8], read: impl Fn(&mut Reader<'a>) -> Result<T, ReadError>) -> Option<T> {
    read(&mut Reader::new(body)).ok()
}

/// A GUID as it is written: the first three fields are little-endian.
fn guid(bytes: &[u8]) -> String {
    match bytes.first_chunk::<16>() {
        Some([a, b, c, d, e, f, g, h, rest @ ..]) => {
            let (high, low) = rest.split_at(2);
            let first = u32::from_le_bytes([*a, *b, *c, *d]);
            let (second, third) = (u16::from_le_bytes([*e, *f]), u16::from_le_bytes([*g, *h]));
            format!("{first:08x}-{second:04x}-{third:04x}-{}-{}", hex::encode(high), hex::encode(low))
        }
        None => "?".to_owned(),
    }
}

/// UTF-16, little-endian, up to a NUL.
pub(super) fn utf16(bytes: &[u8]) -> Text {
    let units = bytes.chunks_exact(2).filter_map(|pair| pair.first_chunk().copied().map(u16::from_le_bytes));
    let units = units.take_while(|unit| *unit != 0);
    let text: String = char::decode_utf16(units).map(|read| read.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    Text::new(&text)
}

/// Text that may be UTF-16 or ASCII, up to a NUL; `None` for what is no text.
pub(super) fn text(bytes: &[u8]) -> Option<Text> {
    let wide = bytes.len().is_multiple_of(2)
        && 2 <= bytes.len()
        && bytes.iter().skip(1).step_by(2).take(8).all(|high| *high == 0);
    let shown =
        if wide { utf16(bytes) } else { Text::of_bytes(bytes.split(|byte| *byte == 0).next().unwrap_or_default()) };
    // Lines and tabs are text; other control characters say that it is none.
    let lines =
        [r"\u{a}", r"\u{d}", r"\u{9}"].iter().fold(shown.as_str().to_owned(), |text, one| text.replace(one, ""));
    let plain = !lines.is_empty() && !lines.contains(r"\x") && !lines.contains(r"\u{");
    plain.then_some(shown)
}
