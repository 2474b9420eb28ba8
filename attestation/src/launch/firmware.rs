//! The table of GUIDs at the end of an OVMF image (edk2, OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm): how firmware
//! says where its parts are.

use alloc::format;
use alloc::vec::Vec;

use super::LaunchReason;
use crate::reader::Reader;
use crate::rejection::Rejection;

/// What the guest's firmware may end with: images are mapped so that they end at 4 GiB.
const FOUR_GIB: u64 = 1 << 32;

/// Far larger than any OVMF, far smaller than what takes long to hash.
const IMAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Page of memory that SEV-SNP and TDX add at a time.
pub(super) const PAGE_BYTES: usize = 4096;

/// The table ends this long before the image does.
const AFTER_TABLE: usize = 32;

/// Size (2) and GUID (16) of an entry, behind its data.
const ENTRY_HEAD: usize = 18;

/// A GUID as it is stored: its first three fields little-endian.
pub(super) type Guid = [u8; 16];

/// 96b582de-1fb2-45f7-baea-a366c55a082d.
const FOOTER: Guid = [0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d];

/// A firmware image whose table of GUIDs was read.
#[derive(Clone, Debug)]
pub struct Firmware<'a> {
    image: &'a [u8],
    gpa: u64,
    entries: Vec<(Guid, &'a [u8])>,
}

impl<'a> Firmware<'a> {
    /// Reads the table of an image.
    ///
    /// # Errors
    /// [`LaunchReason::FirmwareSize`] and [`LaunchReason::FirmwareTable`].
    pub fn parse(image: &'a [u8]) -> Result<Self, Rejection> {
        let size = image.len();
        if size == 0 || IMAGE_BYTES_MAX < size || !size.is_multiple_of(PAGE_BYTES) {
            return Err(LaunchReason::FirmwareSize.because("1 to 16384 pages of 4096 bytes", size));
        }
        let size = u64::try_from(size).unwrap_or(FOUR_GIB);
        Ok(Self { image, gpa: FOUR_GIB.saturating_sub(size), entries: entries(image)? })
    }

    /// Every byte of the image.
    #[must_use]
    pub const fn image(&self) -> &'a [u8] {
        self.image
    }

    /// Guest physical address of its first byte.
    #[must_use]
    pub const fn gpa(&self) -> u64 {
        self.gpa
    }

    /// The data of an entry.
    pub(super) fn entry(&self, guid: Guid) -> Option<&'a [u8]> {
        self.entries.iter().find(|(known, _)| *known == guid).map(|(_, data)| *data)
    }

    /// The number that an entry's data begins with.
    pub(super) fn entry_u32(&self, guid: Guid) -> Option<u32> {
        self.entry(guid)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// What begins where an entry says, counted from the image's end.
    pub(super) fn behind(&self, guid: Guid) -> Option<&'a [u8]> {
        let from_end = usize::try_from(self.entry_u32(guid)?).ok()?;
        self.image.get(self.image.len().checked_sub(from_end)?..)
    }
}

/// The entries in front of the footer, last one first. A GUID that stands there twice means two things.
fn entries(image: &[u8]) -> Result<Vec<(Guid, &[u8])>, Rejection> {
    let malformed = |found: &str| LaunchReason::FirmwareTable.because("entries of data, size and GUID", found);
    let end = image.len().saturating_sub(AFTER_TABLE);
    let upper = image.get(..end).unwrap_or(&[]);
    let (before, guid, size) = last_entry(upper).ok_or_else(|| malformed("no room for it"))?;
    if guid != FOOTER {
        let expected = format!("GUID {} at the table's end", hex::encode(FOOTER));
        return Err(LaunchReason::FirmwareTable.because(expected, hex::encode(guid)));
    }
    let start = usize::from(size).checked_sub(ENTRY_HEAD).and_then(|size| before.len().checked_sub(size));
    let mut left = start.and_then(|start| before.get(start..)).ok_or_else(|| malformed("a size beyond the image"))?;
    let mut entries: Vec<(Guid, &[u8])> = Vec::new();
    while !left.is_empty() {
        let (before, guid, size) = last_entry(left).ok_or_else(|| malformed("a part of an entry"))?;
        let data = usize::from(size).checked_sub(ENTRY_HEAD).and_then(|size| before.len().checked_sub(size));
        let split = data.and_then(|data| before.split_at_checked(data));
        let (rest, data) = split.ok_or_else(|| malformed("an entry with a size beyond the table"))?;
        if entries.iter().any(|(known, _)| *known == guid) {
            return Err(malformed(&format!("{} twice", hex::encode(guid))));
        }
        entries.push((guid, data));
        left = rest;
    }
    Ok(entries)
}

/// What is in front of the last entry's head, its GUID, and its size with data and head.
fn last_entry(table: &[u8]) -> Option<(&[u8], Guid, u16)> {
    let (before, head) = table.split_at_checked(table.len().checked_sub(ENTRY_HEAD)?)?;
    let mut reader = Reader::new(head);
    let size = reader.array().map(u16::from_le_bytes).ok()?;
    Some((before, reader.array().ok()?, size))
}
