//! MRTD and, as far as they follow from artifacts, RTMRs of a TDX guest.
//!
//! MRTD is determined by the firmware alone: its metadata says which pages the VMM adds and which it measures (TDX
//! Virtual Firmware Design Guide, 11; TDX Module ABI, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND). An RTMR is what the guest
//! extends it with while it boots. That is determined where every event is known: see [`Rtmrs`].

use alloc::format;
use alloc::vec::Vec;

use aws_lc_rs::digest::{Context, SHA384};

use super::LaunchReason;
use super::firmware::{Firmware, Guid, PAGE_BYTES};
use crate::reader::{ReadError, Reader};
use crate::rejection::Rejection;

/// e47a6535-984a-4798-865e-4685a7bf8ec2: the TDX metadata, from the image's end.
const TDX_METADATA: Guid =
    [0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2];

/// OVMF has six sections, td-shim about ten.
const SECTIONS_MAX: u32 = 64;

/// Memory all sections may cover. OVMF's cover about 10 MB.
const MEMORY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What TDH.MR.EXTEND takes at once.
const CHUNK_BYTES: usize = 256;

/// A section whose contents are measured (attribute bit 0).
const EXTEND_MR: u32 = 1;
/// A section that is added while the guest runs, and so is not measured (attribute bit 1).
const PAGE_AUG: u32 = 1 << 1;

/// In which order the VMM adds and measures pages. The specification leaves it open, and MRTD depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOrder {
    /// Each page is measured as soon as it is added: Linux (KVM_TDX_INIT_MEM_REGION) since 6.16, and td-shim's tools.
    PageByPage,
    /// All pages of a section are added, then all are measured: KVM patches before those in Linux.
    SectionBySection,
}

/// MRTD of a guest launched with `firmware`.
///
/// # Errors
/// A [`LaunchReason`] for what cannot be measured.
pub fn mr_td(firmware: &Firmware<'_>, order: PageOrder) -> Result<[u8; 48], Rejection> {
    let mut register = MrTd(Context::new(&SHA384));
    for section in sections(firmware)? {
        register.section(&section, order);
    }
    Ok(finish(register.0))
}

fn finish(context: Context) -> [u8; 48] {
    let mut digest = [0; 48];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// The hash that TDH.MR.FINALIZE ends.
struct MrTd(Context);

impl MrTd {
    fn section(&mut self, section: &Section<'_>, order: PageOrder) {
        if section.attributes & PAGE_AUG != 0 {
            return;
        }
        let measured = section.attributes & EXTEND_MR != 0;
        for (index, gpa) in pages(section.gpa).take(section.pages).enumerate() {
            self.operation(b"MEM.PAGE.ADD", gpa);
            if measured && order == PageOrder::PageByPage {
                self.page(gpa, section.page(index));
            }
        }
        if measured && order == PageOrder::SectionBySection {
            for (index, gpa) in pages(section.gpa).take(section.pages).enumerate() {
                self.page(gpa, section.page(index));
            }
        }
    }

    /// A block of 128 bytes: the operation's name, and the address at offset 16.
    fn operation(&mut self, name: &[u8], gpa: u64) {
        let mut block = [0; 128];
        let (named, addressed) = block.split_at_mut(16);
        for (place, byte) in named.iter_mut().zip(name) {
            *place = *byte;
        }
        for (place, byte) in addressed.iter_mut().zip(gpa.to_le_bytes()) {
            *place = byte;
        }
        self.0.update(&block);
    }

    /// One TDH.MR.EXTEND for each chunk: a block that names it, and the chunk. What the image does not fill is zero.
    fn page(&mut self, gpa: u64, contents: &[u8]) {
        let mut page = [0; PAGE_BYTES];
        for (place, byte) in page.iter_mut().zip(contents) {
            *place = *byte;
        }
        for (gpa, chunk) in (gpa..=u64::MAX).step_by(CHUNK_BYTES).zip(page.chunks(CHUNK_BYTES)) {
            self.operation(b"MR.EXTEND", gpa);
            self.0.update(chunk);
        }
    }
}

fn pages(gpa: u64) -> impl Iterator<Item = u64> {
    (gpa..=u64::MAX).step_by(PAGE_BYTES)
}

#[derive(Clone, Copy, Debug)]
struct Section<'a> {
    data: &'a [u8],
    gpa: u64,
    pages: usize,
    attributes: u32,
}

impl<'a> Section<'a> {
    /// What the image has for a page; nothing behind its end.
    fn page(&self, index: usize) -> &'a [u8] {
        self.data.chunks(PAGE_BYTES).nth(index).unwrap_or(&[])
    }
}

/// The sections of the TDX metadata, in its order: that of the launch.
fn sections<'a>(firmware: &Firmware<'a>) -> Result<Vec<Section<'a>>, Rejection> {
    let metadata = firmware.behind(TDX_METADATA);
    let metadata = metadata.ok_or_else(|| LaunchReason::FirmwareMetadata.because("TDX metadata", "none"))?;
    let short = |error: ReadError| LaunchReason::FirmwareMetadata.because("the whole TDX metadata", error);
    let mut reader = Reader::new(metadata);
    let signature: [u8; 4] = reader.array().map_err(short)?;
    let (size, version, count) =
        (reader.u32_le().map_err(short)?, reader.u32_le().map_err(short)?, reader.u32_le().map_err(short)?);
    if signature != *b"TDVF" || version != 1 {
        let found = format!("{} version {version}", signature.escape_ascii());
        return Err(LaunchReason::FirmwareMetadata.because("TDVF version 1", found));
    }
    if SECTIONS_MAX < count || count.checked_mul(32).and_then(|bytes| bytes.checked_add(16)) != Some(size) {
        let expected = format!("16 bytes, and 32 for each of at most {SECTIONS_MAX} sections");
        return Err(LaunchReason::FirmwareMetadata.because(expected, format_args!("{size} for {count}")));
    }
    let mut sections = Vec::new();
    let mut memory_left = MEMORY_BYTES_MAX;
    for _section in 0..count {
        let fields = Fields::read(&mut reader).map_err(short)?;
        memory_left = memory_left.checked_sub(fields.memory_size).ok_or_else(|| fields.refused())?;
        sections.push(fields.section(firmware)?);
    }
    Ok(sections)
}

/// One section as it stands in the metadata.
#[derive(Clone, Copy, Debug)]
struct Fields {
    data_offset: u32,
    data_size: u32,
    memory_address: u64,
    memory_size: u64,
    kind: u32,
    attributes: u32,
}

impl Fields {
    fn read(reader: &mut Reader<'_>) -> Result<Self, ReadError> {
        Ok(Self {
            data_offset: reader.u32_le()?,
            data_size: reader.u32_le()?,
            memory_address: reader.u64_le()?,
            memory_size: reader.u64_le()?,
            kind: reader.u32_le()?,
            attributes: reader.u32_le()?,
        })
    }

    fn refused(&self) -> Rejection {
        LaunchReason::FirmwareSection.because("whole pages of memory, with data from the image or none", {
            let Self { data_offset, data_size, memory_address, memory_size, kind, attributes } = self;
            format!("type {kind}, attributes {attributes:#x}, {memory_size} bytes at {memory_address:#x}, {data_size} from {data_offset:#x}")
        })
    }

    /// Types 0 to 7: BFV, CFV, TD_HOB, TempMem, PermMem, Payload, PayloadParam, TD_INFO.
    fn section<'a>(&self, firmware: &Firmware<'a>) -> Result<Section<'a>, Rejection> {
        let whole = self.memory_address.is_multiple_of(0x1000)
            && self.memory_size.is_multiple_of(0x1000)
            && u64::from(self.data_size) <= self.memory_size
            && self.memory_address.checked_add(self.memory_size).is_some();
        let known = self.kind <= 7 && self.attributes & !(EXTEND_MR | PAGE_AUG) == 0;
        // What is added later cannot have been measured at launch.
        let launched = self.attributes != EXTEND_MR | PAGE_AUG;
        let data = || {
            let offset = usize::try_from(self.data_offset).ok()?;
            let end = offset.checked_add(usize::try_from(self.data_size).ok()?)?;
            firmware.image().get(offset..end)
        };
        let pages = usize::try_from(self.memory_size).ok().and_then(|size| size.checked_div(PAGE_BYTES));
        match (data(), pages) {
            (Some(data), Some(pages)) if whole && known && launched => {
                Ok(Section { data, gpa: self.memory_address, pages, attributes: self.attributes })
            }
            _ => Err(self.refused()),
        }
    }
}

/// What a guest extends an RTMR with: the SHA-384 digest of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventDigest(pub [u8; 48]);

impl EventDigest {
    /// Of bytes that are measured as they are: an initial file system, a text of the firmware.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(finish({
            let mut context = Context::new(&SHA384);
            context.update(bytes);
            context
        }))
    }

    /// Of a command line as the EFI stub of Linux measures it: UTF-16, little-endian, with the NUL that ends it.
    ///
    /// # Errors
    /// [`LaunchReason::Append`] when a NUL is in it.
    pub fn of_load_options(text: &str) -> Result<Self, Rejection> {
        if text.contains('\0') {
            return Err(LaunchReason::Append.because("no NUL character", "one"));
        }
        let units: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        Ok(Self::of_bytes(&units))
    }
}

/// The four registers, from the events that are known. A register without events is not determined: it is not zero
/// either, since firmware and kernel extend 0 to 2 with much that no artifact says (the VMM's ACPI tables, boot
/// variables, the disk's partitions).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rtmrs {
    registers: [Option<[u8; 48]>; 4],
}

impl Rtmrs {
    /// TDG.MR.RTMR.EXTEND: SHA-384 of the register and the digest.
    ///
    /// # Errors
    /// [`LaunchReason::Register`] for an index above 3.
    pub fn extend(&mut self, index: u8, event: EventDigest) -> Result<(), Rejection> {
        let register = self.registers.get_mut(usize::from(index));
        let register = register.ok_or_else(|| LaunchReason::Register.because("RTMR 0 to 3", index))?;
        let mut context = Context::new(&SHA384);
        context.update(&register.unwrap_or([0; 48]));
        context.update(&event.0);
        *register = Some(finish(context));
        Ok(())
    }

    /// The registers that events were given for, by index.
    pub fn determined(&self) -> impl Iterator<Item = (u8, [u8; 48])> + '_ {
        (0..).zip(self.registers.iter()).filter_map(|(index, register)| register.map(|register| (index, register)))
    }
}
