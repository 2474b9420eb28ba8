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
    Fields, IMA_NG, LEGACY, LEGACY_DIGEST_BYTES, LEGACY_NAME_BYTES_MAX, NAME_BYTES_MAX, TemplateData, is_ng_sha256,
    shown,
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
        Self::from_bytes(hashed(hash, data).as_ref(), hash.size())
    }

    /// `bytes` filled up with zeros to `size`.
    pub(super) fn from_bytes(bytes: &[u8], size: usize) -> Self {
        let mut digest = Self { bytes: [0; DIGEST_BYTES_MAX], size: size.min(DIGEST_BYTES_MAX) };
        copy(&mut digest.bytes, bytes);
        digest
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.size).unwrap_or_default()
    }
}

/// The engine's digest of `data`.
pub(super) fn hashed(hash: TpmHash, data: &[u8]) -> digest::Digest {
    let algorithm = match hash {
        TpmHash::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        TpmHash::Sha256 => &digest::SHA256,
        TpmHash::Sha384 => &digest::SHA384,
        TpmHash::Sha512 => &digest::SHA512,
    };
    digest::digest(algorithm, data)
}

/// Compares digests, those of one known size in registers.
#[inline]
pub(super) fn are_equal(one: &[u8], other: &[u8]) -> bool {
    if let (Ok(one), Ok(other)) = (<&[u8; 20]>::try_from(one), <&[u8; 20]>::try_from(other)) {
        return one == other;
    }
    if let (Ok(one), Ok(other)) = (<&[u8; 32]>::try_from(one), <&[u8; 32]>::try_from(other)) {
        return one == other;
    }
    one == other
}

/// Copies as much as there is room for.
#[inline]
pub(super) fn copy(to: &mut [u8], from: &[u8]) {
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

    /// What follows its first `bytes`.
    pub(super) fn after(self, bytes: usize) -> Self {
        Self { bytes: self.bytes.get(bytes..).unwrap_or_default(), hash: self.hash }
    }

    /// The entry that begins at `offset`.
    pub(super) fn entry_at(&self, offset: usize) -> Option<ImaEntry<'a>> {
        ImaEntry::read(&mut Reader::new(self.bytes.get(offset..)?), self.hash).ok()
    }

    pub(super) const fn reader(&self) -> Reader<'a> {
        Reader::new(self.bytes)
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
            pcrs |= 1_u32.checked_shl(u32::from(Frame::read(&mut reader, self.hash)?.pcr)).unwrap_or_default();
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

    #[inline]
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
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) pcr: u8,
    pub(super) template_hash: &'a [u8],
    template: &'a [u8],
    data: FrameData<'a>,
    pub(super) is_violation: bool,
}

#[derive(Clone, Copy, Debug)]
enum FrameData<'a> {
    Fields(&'a [u8]),
    Legacy { digest: &'a [u8], name: &'a [u8] },
}

impl<'a> Frame<'a> {
    #[inline]
    pub(super) fn read(reader: &mut Reader<'a>, hash: TpmHash) -> Result<Self, Rejection> {
        let failed = malformed("a whole entry");
        // PCR, template hash and the length of the template's name at once.
        let head = reader.bytes(hash.size().saturating_add(8)).map_err(failed)?;
        let parts = head.split_first_chunk::<4>().and_then(|(pcr, rest)| Some((pcr, rest.split_last_chunk::<4>()?)));
        let Some((pcr, (template_hash, length))) = parts else {
            return Err(ImaReason::Malformed.because("a whole entry", "less"));
        };
        let (pcr, length) = (u32::from_le_bytes(*pcr), u32::from_le_bytes(*length));
        let pcr = u8::try_from(pcr)
            .ok()
            .filter(|pcr| *pcr < PCRS)
            .ok_or_else(|| ImaReason::Pcr.because("a PCR below 24", format_args!("PCR {pcr}")))?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
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
        let is_violation = template_hash.iter().all(|byte| *byte == 0);
        Ok(Self { pcr, template_hash, template, data, is_violation })
    }

    /// What it says.
    #[inline]
    pub(super) fn said(&self) -> Result<TemplateData<'a>, Rejection> {
        match self.data {
            FrameData::Fields(bytes) => TemplateData::read(&Fields::of(self.template)?, bytes),
            FrameData::Legacy { digest, name } => TemplateData::legacy(digest, name),
        }
    }

    /// Checks that [`Frame::said`] can say it. Most entries of most lists are of one form, which is known at a glance.
    #[inline]
    pub(super) fn check_said(&self) -> Result<(), Rejection> {
        match self.data {
            FrameData::Fields(bytes) if self.template == IMA_NG && is_ng_sha256(bytes) => Ok(()),
            FrameData::Fields(_) | FrameData::Legacy { .. } => self.said().map(drop),
        }
    }

    /// Hands the bytes under the template hash to `read`.
    #[inline]
    fn hashed<T>(&self, read: impl FnOnce(&[u8]) -> T) -> T {
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
    #[inline]
    pub(super) fn digest(&self, hash: TpmHash) -> digest::Digest {
        self.hashed(|bytes| hashed(hash, bytes))
    }

    /// Checks the template hash in the list, of `hash`, against the template data. A violation has none.
    #[inline]
    pub(super) fn check_template_hash(&self, hash: TpmHash) -> Result<(), Rejection> {
        if self.is_violation || are_equal(self.digest(hash).as_ref(), self.template_hash) {
            return Ok(());
        }
        let name = self.said().map(|said| shown(said.name.unwrap_or_default())).unwrap_or_default();
        let found = alloc::format!("{} for {name}", hex::encode(self.template_hash));
        Err(ImaReason::TemplateHash.because(hex::encode(self.digest(hash)), found))
    }
}

#[inline]
fn length(reader: &mut Reader<'_>) -> Result<usize, Rejection> {
    let length = reader.u32_le().map_err(malformed("a length"))?;
    Ok(usize::try_from(length).unwrap_or(usize::MAX))
}

/// One measurement. What it says is only its own: [`super::verify`] ties it to a quote.
#[derive(Clone, Copy, Debug)]
pub struct ImaEntry<'a> {
    frame: Frame<'a>,
    said: TemplateData<'a>,
}

impl<'a> ImaEntry<'a> {
    fn read(reader: &mut Reader<'a>, hash: TpmHash) -> Result<Self, Rejection> {
        let frame = Frame::read(reader, hash)?;
        Ok(Self { frame, said: frame.said()? })
    }

    /// The PCR it was extended into.
    #[must_use]
    pub const fn pcr(&self) -> u8 {
        self.frame.pcr
    }

    /// The template hash in the list.
    #[must_use]
    pub const fn template_hash(&self) -> &'a [u8] {
        self.frame.template_hash
    }

    /// The template's name: a named one or field ids.
    #[must_use]
    pub const fn template(&self) -> &'a [u8] {
        self.frame.template
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
        self.frame.is_violation
    }

    pub(super) const fn frame(&self) -> &Frame<'a> {
        &self.frame
    }

    /// Checks the template hash in the list, of `hash`, against the template data. A violation has none.
    ///
    /// # Errors
    /// [`ImaReason::TemplateHash`].
    pub fn check_template_hash(&self, hash: TpmHash) -> Result<(), Rejection> {
        self.frame.check_template_hash(hash)
    }
}
