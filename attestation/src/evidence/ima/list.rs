//! `binary_runtime_measurements`, little-endian as on every platform that a host of ours runs on
//! (`ima_measurements_show` of `ima_fs.c`):
//!
//! ```text
//! u32 pcr | template hash | u32 length, template name | u32 length, template data
//! ```
//!
//! and for the legacy template `ima`, in place of the template data: `20-byte digest | u32 length, name`.

use aws_lc_rs::digest;

use super::template::{
    Fields, LEGACY, LEGACY_DIGEST_BYTES, LEGACY_NAME_BYTES_MAX, NAME_BYTES_MAX, TemplateData, shown,
};
use super::{ImaReason, malformed};
use crate::evidence::tpm::algorithm::TpmHash;
use crate::reader::Reader;
use crate::rejection::Rejection;

/// PCRs of a PC Client TPM.
pub(super) const PCRS: u8 = 24;

/// The longest digest.
const DIGEST_BYTES_MAX: usize = 64;

/// Bytes that the legacy template hash covers: digest, and the name filled up with zeros.
const LEGACY_HASHED_BYTES: usize = LEGACY_DIGEST_BYTES + LEGACY_NAME_BYTES_MAX + 1;

/// A digest of at most 64 bytes, without allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Digest {
    bytes: [u8; DIGEST_BYTES_MAX],
    size: usize,
}

impl Digest {
    pub(super) fn of(hash: TpmHash, data: &[u8]) -> Self {
        let algorithm = match hash {
            TpmHash::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            TpmHash::Sha256 => &digest::SHA256,
            TpmHash::Sha384 => &digest::SHA384,
            TpmHash::Sha512 => &digest::SHA512,
        };
        Self::from_bytes(digest::digest(algorithm, data).as_ref(), hash.size())
    }

    /// `bytes` filled up with zeros to `size`.
    pub(super) fn from_bytes(bytes: &[u8], size: usize) -> Self {
        let mut digest = Self { bytes: [0; DIGEST_BYTES_MAX], size: size.min(DIGEST_BYTES_MAX) };
        copy(&mut digest.bytes, bytes);
        digest
    }

    /// The digest of two values, one after the other.
    pub(super) fn of_both(hash: TpmHash, first: &Self, second: &Self) -> Self {
        let mut both = [0_u8; 2 * DIGEST_BYTES_MAX];
        copy(&mut both, first.as_slice());
        copy(both.get_mut(first.size..).unwrap_or_default(), second.as_slice());
        Self::of(hash, both.get(..first.size.saturating_add(second.size)).unwrap_or_default())
    }

    pub(super) fn filled(byte: u8, size: usize) -> Self {
        Self { bytes: [byte; DIGEST_BYTES_MAX], size: size.min(DIGEST_BYTES_MAX) }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.size).unwrap_or_default()
    }
}

/// Copies as much as there is room for.
fn copy(to: &mut [u8], from: &[u8]) {
    let length = to.len().min(from.len());
    if let (Some(to), Some(from)) = (to.get_mut(..length), from.get(..length)) {
        to.copy_from_slice(from);
    }
}

/// A measurement list in its binary form.
#[derive(Clone, Copy, Debug)]
pub struct ImaList<'a> {
    bytes: &'a [u8],
    hash: TpmHash,
}

impl<'a> ImaList<'a> {
    /// The list of `binary_runtime_measurements`, whose template hashes are SHA-1.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, hash: TpmHash::Sha1 }
    }

    /// The list of `binary_runtime_measurements_<hash>`, which newer kernels offer for each bank.
    #[must_use]
    pub const fn with_hash(bytes: &'a [u8], hash: TpmHash) -> Self {
        Self { bytes, hash }
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The hash of its template hashes.
    #[must_use]
    pub const fn hash(&self) -> TpmHash {
        self.hash
    }

    /// Its first `bytes`.
    pub(super) fn until(self, bytes: usize) -> Self {
        Self { bytes: self.bytes.get(..bytes).unwrap_or_default(), hash: self.hash }
    }

    /// Its entries, each with its offset. The first one that cannot be read ends them.
    #[must_use]
    pub const fn entries(&self) -> ListEntries<'a> {
        ListEntries { reader: Reader::new(self.bytes), hash: self.hash, failed: false }
    }

    /// Which PCRs the entries go to, bit by bit, and how many there are.
    pub(super) fn outline(&self) -> Result<(u32, u64), Rejection> {
        let mut reader = Reader::new(self.bytes);
        let (mut pcrs, mut count) = (0_u32, 0_u64);
        while reader.offset() < self.bytes.len() {
            let frame = Frame::read(&mut reader, self.hash)?;
            pcrs |= 1_u32.checked_shl(u32::from(frame.pcr)).unwrap_or_default();
            count = count.saturating_add(1);
        }
        Ok((pcrs, count))
    }
}

/// Iterates over the entries of a list.
#[derive(Clone, Debug)]
pub struct ListEntries<'a> {
    reader: Reader<'a>,
    hash: TpmHash,
    failed: bool,
}

impl ListEntries<'_> {
    /// Bytes read so far.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.reader.offset()
    }
}

impl<'a> Iterator for ListEntries<'a> {
    type Item = Result<ImaEntry<'a>, Rejection>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.reader.finish().is_ok() {
            return None;
        }
        let mut reader = self.reader;
        let entry = ImaEntry::read(&mut reader, self.hash);
        match entry {
            Ok(_) => self.reader = reader,
            Err(_) => self.failed = true,
        }
        Some(entry)
    }
}

/// An entry's bytes, cut at its lengths.
struct Frame<'a> {
    pcr: u8,
    template_hash: &'a [u8],
    template: &'a [u8],
    data: FrameData<'a>,
}

#[derive(Clone, Copy, Debug)]
enum FrameData<'a> {
    Fields(&'a [u8]),
    Legacy { digest: &'a [u8], name: &'a [u8] },
}

impl<'a> Frame<'a> {
    fn read(reader: &mut Reader<'a>, hash: TpmHash) -> Result<Self, Rejection> {
        let failed = malformed("a whole entry");
        let pcr = reader.u32_le().map_err(failed)?;
        let pcr = u8::try_from(pcr)
            .ok()
            .filter(|pcr| *pcr < PCRS)
            .ok_or_else(|| ImaReason::Pcr.because("a PCR below 24", format_args!("PCR {pcr}")))?;
        let template_hash = reader.bytes(hash.size()).map_err(failed)?;
        let length = length(reader)?;
        if NAME_BYTES_MAX < length {
            return Err(
                ImaReason::Template.because("a template name of at most 255 bytes", format_args!("{length} bytes"))
            );
        }
        let template = reader.bytes(length).map_err(failed)?;
        let data = if template == LEGACY {
            let digest = reader.bytes(LEGACY_DIGEST_BYTES).map_err(failed)?;
            let length = self::length(reader)?;
            FrameData::Legacy { digest, name: reader.bytes(length).map_err(failed)? }
        } else {
            let length = self::length(reader)?;
            FrameData::Fields(reader.bytes(length).map_err(failed)?)
        };
        Ok(Self { pcr, template_hash, template, data })
    }
}

fn length(reader: &mut Reader<'_>) -> Result<usize, Rejection> {
    let length = reader.u32_le().map_err(malformed("a length"))?;
    Ok(usize::try_from(length).unwrap_or(usize::MAX))
}

/// One measurement. What it says is only its own: [`super::verify`] ties it to a quote.
#[derive(Clone, Copy, Debug)]
pub struct ImaEntry<'a> {
    pcr: u8,
    template_hash: &'a [u8],
    template: &'a [u8],
    data: FrameData<'a>,
    said: TemplateData<'a>,
    is_violation: bool,
}

impl<'a> ImaEntry<'a> {
    fn read(reader: &mut Reader<'a>, hash: TpmHash) -> Result<Self, Rejection> {
        let Frame { pcr, template_hash, template, data } = Frame::read(reader, hash)?;
        let said = match data {
            FrameData::Fields(bytes) => TemplateData::read(&Fields::of(template)?, bytes)?,
            FrameData::Legacy { digest, name } => TemplateData::legacy(digest, name)?,
        };
        let is_violation = template_hash.iter().all(|byte| *byte == 0);
        Ok(Self { pcr, template_hash, template, data, said, is_violation })
    }

    /// The PCR it was extended into.
    #[must_use]
    pub const fn pcr(&self) -> u8 {
        self.pcr
    }

    /// The template hash in the list.
    #[must_use]
    pub const fn template_hash(&self) -> &'a [u8] {
        self.template_hash
    }

    /// The template's name: a named one or field ids.
    #[must_use]
    pub const fn template(&self) -> &'a [u8] {
        self.template
    }

    /// What it says.
    #[must_use]
    pub const fn data(&self) -> &TemplateData<'a> {
        &self.said
    }

    /// The name: a path, or the kernel's name of what it measured (`boot_aggregate`, a keyring).
    #[must_use]
    pub fn name(&self) -> &'a [u8] {
        self.said.name.unwrap_or_default()
    }

    /// Whether this is a violation: its template hash is all zero, and ones were extended (`ima_add_violation`). The
    /// file was open for writing when it was measured, or was opened for writing while in use (ToMToU). Which of both
    /// the kernel tells the audit log only; and nothing covers what the entry says, its name among it.
    #[must_use]
    pub const fn is_violation(&self) -> bool {
        self.is_violation
    }

    /// Hands the bytes under the template hash to `read`.
    pub(super) fn hashed<T>(&self, read: impl FnOnce(&[u8]) -> T) -> T {
        match self.data {
            FrameData::Fields(bytes) => read(bytes),
            FrameData::Legacy { digest, name } => {
                let mut padded = [0; LEGACY_HASHED_BYTES];
                copy(&mut padded, digest);
                copy(padded.get_mut(LEGACY_DIGEST_BYTES..).unwrap_or_default(), name);
                read(&padded)
            }
        }
    }

    /// The digest of its template data.
    pub(super) fn digest(&self, hash: TpmHash) -> Digest {
        self.hashed(|bytes| Digest::of(hash, bytes))
    }

    /// Checks the template hash in the list, of `hash`, against the template data. A violation has none.
    ///
    /// # Errors
    /// [`ImaReason::TemplateHash`].
    pub fn check_template_hash(&self, hash: TpmHash) -> Result<(), Rejection> {
        if self.is_violation() || self.digest(hash).as_slice() == self.template_hash {
            return Ok(());
        }
        let found = alloc::format!("{} for {}", hex::encode(self.template_hash), shown(self.name()));
        Err(ImaReason::TemplateHash.because(hex::encode(self.digest(hash).as_slice()), found))
    }
}
