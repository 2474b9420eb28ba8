//! MEASUREMENT of an SEV-SNP guest (SEV-SNP Firmware ABI, AMD 56860 rev. 1.58, 8.17.2 "PAGE_INFO"): every page that
//! SNP_LAUNCH_UPDATE adds is hashed into the launch digest, in the order in which the VMM adds them.

use alloc::format;
use alloc::vec::Vec;

use aws_lc_rs::digest::{self, SHA384};

use super::LaunchReason;
use super::firmware::{Firmware, Guid, PAGE_BYTES};
use crate::digest::Sha256Digest;
use crate::reader::{ReadError, Reader};
use crate::rejection::Rejection;

/// 7255371f-3a3b-4b04-927b-1da6efa8d454: where the VMM puts the hashes of a kernel that it loads.
const HASH_TABLE: Guid =
    [0x1f, 0x37, 0x55, 0x72, 0x3b, 0x3a, 0x04, 0x4b, 0x92, 0x7b, 0x1d, 0xa6, 0xef, 0xa8, 0xd4, 0x54];

/// 00f771de-1a7e-4fcb-890e-68c77e2fb44e: CS:IP at which all CPUs but the first begin.
const RESET_BLOCK: Guid =
    [0xde, 0x71, 0xf7, 0x00, 0x7e, 0x1a, 0xcb, 0x4f, 0x89, 0x0e, 0x68, 0xc7, 0x7e, 0x2f, 0xb4, 0x4e];

/// dc886566-984a-4798-a75e-5585a7bf67cc: the SEV metadata, from the image's end.
const SEV_METADATA: Guid =
    [0x66, 0x65, 0x88, 0xdc, 0x4a, 0x98, 0x98, 0x47, 0xa7, 0x5e, 0x55, 0x85, 0xa7, 0xbf, 0x67, 0xcc];

/// Sections a metadata table may have. OVMF's have five or six.
const SECTIONS_MAX: u32 = 64;

/// Bytes of memory a section may cover: OVMF's largest has less than a megabyte.
const SECTION_BYTES_MAX: usize = 16 * 1024 * 1024;

/// More than any host of the product lines has threads.
const VCPUS_MAX: u32 = 4096;

/// VMSAs are entered in the RMP under this address (ABI, 8.17: the highest page).
const VMSA_GPA: u64 = 0xffff_ffff_f000;

/// What the first CPU begins at.
const RESET_VECTOR: u32 = 0xffff_fff0;

/// SEV_FEATURES with SNP_ACTIVE alone (APM Volume 2, table B-4, offset 3B0h).
pub const GUEST_FEATURES: u64 = 1;

/// Who launches the guest: the initial state of its CPUs differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vmm {
    /// QEMU with KVM.
    Qemu,
    /// Amazon EC2.
    Ec2,
    /// Google Compute Engine.
    Gce,
}

/// A kernel that the VMM loads beside the firmware, which then compares it with the measured hashes.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    /// The kernel as the VMM gets it.
    pub image: &'a [u8],
    /// The initial file system; empty where there is none.
    pub initrd: &'a [u8],
    /// The command line; empty where there is none.
    pub append: &'a str,
}

/// What is booted.
#[derive(Clone, Copy, Debug)]
pub enum Boot<'a> {
    /// Whatever the firmware finds. It is not measured at launch.
    Firmware,
    /// This kernel.
    Kernel(Kernel<'a>),
}

/// A launch of an SEV-SNP guest.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Who launches it.
    pub vmm: Vmm,
    /// How many virtual CPUs.
    pub vcpus: u32,
    /// CPUID Fn0000_0001_EAX of the virtual CPUs: see [`vcpu_signature`] and [`signature`].
    pub vcpu_signature: u32,
    /// SEV_FEATURES.
    pub guest_features: u64,
    /// What is booted.
    pub boot: Boot<'a>,
}

/// CPU models of QEMU (target/i386/cpu.c): family, model, stepping. All versions of a model have the same.
const VCPU_TYPES: [(&str, u8, u8, u8); 5] = [
    ("EPYC-Rome", 23, 49, 0),
    ("EPYC-Milan", 25, 1, 1),
    ("EPYC-Genoa", 25, 17, 0),
    ("EPYC-Turin", 26, 0, 0),
    ("EPYC", 23, 1, 2),
];

/// Names of the CPU models that [`vcpu_signature`] knows; a version may follow (`EPYC-Milan-v2`).
pub fn vcpu_types() -> impl Iterator<Item = &'static str> {
    VCPU_TYPES.iter().map(|(name, ..)| *name)
}

/// CPUID Fn0000_0001_EAX of a CPU model of QEMU, by its name and whatever its version.
#[must_use]
pub fn vcpu_signature(name: &str) -> Option<u32> {
    let version = |rest: &str| {
        let number = rest.strip_prefix("-v").is_some_and(|number| {
            (1..=2).contains(&number.len()) && number.bytes().all(|digit| digit.is_ascii_digit())
        });
        rest.is_empty() || number
    };
    let named = |(model, ..): &&(&str, u8, u8, u8)| {
        name.strip_prefix(model).is_some_and(|rest| version(rest) || (*model == "EPYC" && rest == "-IBPB"))
    };
    VCPU_TYPES.iter().find(named).map(|(_, family, model, stepping)| signature(*family, *model, *stepping))
}

/// CPUID Fn0000_0001_EAX (AMD 25481): a family above 0Fh has its part above in the extended family.
#[must_use]
pub fn signature(family: u8, model: u8, stepping: u8) -> u32 {
    let (base, extended) = (family.min(0x0f), family.saturating_sub(0x0f));
    let (model_low, model_high) = (model & 0x0f, model >> 4);
    u32::from(extended) << 20
        | u32::from(model_high) << 16
        | u32::from(base) << 8
        | u32::from(model_low) << 4
        | u32::from(stepping & 0x0f)
}

/// MEASUREMENT of a guest launched with `firmware`.
///
/// # Errors
/// A [`LaunchReason`] for what cannot be measured.
pub fn measurement(firmware: &Firmware<'_>, launch: &Launch<'_>) -> Result<[u8; 48], Rejection> {
    if launch.vcpus == 0 || VCPUS_MAX < launch.vcpus {
        return Err(LaunchReason::Vcpus.because(format_args!("1 to {VCPUS_MAX}"), launch.vcpus));
    }
    let sections = sections(firmware)?;
    let mut digest = LaunchDigest([0; 48]);
    digest.data(firmware.gpa(), firmware.image());
    let hashes = kernel_hashes(firmware, &sections, launch.boot)?;
    for section in &sections {
        digest.section(section, launch.vmm, &hashes);
    }
    if launch.vmm == Vmm::Ec2 {
        // EC2 adds the CPUID page last.
        for section in sections.iter().filter(|section| section.kind == SectionKind::Cpuid) {
            digest.page(PageType::Cpuid, section.gpa, [0; 48]);
        }
    }
    let first = vmsa(RESET_VECTOR, launch);
    digest.page(PageType::Vmsa, VMSA_GPA, sha384(&first));
    if 1 < launch.vcpus {
        let entry = firmware.entry_u32(RESET_BLOCK).filter(|entry| *entry != 0);
        let entry =
            entry.ok_or_else(|| LaunchReason::FirmwareEntry.because("a reset block for further CPUs", "none"))?;
        let contents = sha384(&vmsa(entry, launch));
        for _further in 1..launch.vcpus {
            digest.page(PageType::Vmsa, VMSA_GPA, contents);
        }
    }
    Ok(digest.0)
}

fn sha384(bytes: &[u8]) -> [u8; 48] {
    let mut digest = [0; 48];
    digest.copy_from_slice(digest::digest(&SHA384, bytes).as_ref());
    digest
}

/// PAGE_TYPE (ABI, table "Encodings for the PAGE_TYPE Field").
#[derive(Clone, Copy)]
enum PageType {
    Normal,
    Vmsa,
    Zero,
    Unmeasured,
    Secrets,
    Cpuid,
}

impl PageType {
    const fn number(self) -> u8 {
        match self {
            Self::Normal => 1,
            Self::Vmsa => 2,
            Self::Zero => 3,
            Self::Unmeasured => 4,
            Self::Secrets => 5,
            Self::Cpuid => 6,
        }
    }
}

/// DIGEST_CUR.
struct LaunchDigest([u8; 48]);

impl LaunchDigest {
    /// PAGE_INFO: DIGEST_CUR, CONTENTS, LENGTH 70h, PAGE_TYPE, IMI_PAGE 0, the permissions of VMPL 3 to 1 (none),
    /// reserved, GPA.
    fn page(&mut self, kind: PageType, gpa: u64, contents: [u8; 48]) {
        let mut hashed = digest::Context::new(&SHA384);
        hashed.update(&self.0);
        hashed.update(&contents);
        hashed.update(&[0x70, 0, kind.number(), 0, 0, 0, 0, 0]);
        hashed.update(&gpa.to_le_bytes());
        self.0.copy_from_slice(hashed.finish().as_ref());
    }

    fn data(&mut self, gpa: u64, bytes: &[u8]) {
        for (gpa, page) in pages(gpa).zip(bytes.chunks(PAGE_BYTES)) {
            self.page(PageType::Normal, gpa, sha384(page));
        }
    }

    /// Pages without contents that count.
    fn blank(&mut self, kind: PageType, section: &Section) {
        for gpa in pages(section.gpa).take(section.pages) {
            self.page(kind, gpa, [0; 48]);
        }
    }

    fn section(&mut self, section: &Section, vmm: Vmm, hashes: &Hashes) {
        match (section.kind, vmm, hashes) {
            (SectionKind::Memory, Vmm::Gce, _) => self.blank(PageType::Unmeasured, section),
            (SectionKind::Memory, Vmm::Qemu | Vmm::Ec2, _) | (SectionKind::SvsmCaa, _, _) => {
                self.blank(PageType::Zero, section);
            }
            (SectionKind::Secrets, _, _) => self.page(PageType::Secrets, section.gpa, [0; 48]),
            (SectionKind::Cpuid, Vmm::Qemu | Vmm::Gce, _) => self.page(PageType::Cpuid, section.gpa, [0; 48]),
            (SectionKind::Cpuid, Vmm::Ec2, _) => {}
            (SectionKind::KernelHashes, _, Hashes::None) => self.blank(PageType::Zero, section),
            (SectionKind::KernelHashes, _, Hashes::Page(page)) => self.data(section.gpa, page),
        }
    }
}

/// Addresses of pages, up to the end of what can be addressed.
fn pages(gpa: u64) -> impl Iterator<Item = u64> {
    (gpa..=u64::MAX).step_by(PAGE_BYTES)
}

/// What the firmware has the VMM prepare (OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SectionKind {
    Memory,
    Secrets,
    Cpuid,
    SvsmCaa,
    KernelHashes,
}

#[derive(Clone, Copy, Debug)]
struct Section {
    gpa: u64,
    pages: usize,
    kind: SectionKind,
}

/// The sections of the SEV metadata, in its order: that of the launch.
fn sections(firmware: &Firmware<'_>) -> Result<Vec<Section>, Rejection> {
    let metadata = firmware.behind(SEV_METADATA);
    let metadata = metadata.ok_or_else(|| LaunchReason::FirmwareMetadata.because("SEV metadata", "none"))?;
    let short = |error: ReadError| LaunchReason::FirmwareMetadata.because("the whole SEV metadata", error);
    let mut reader = Reader::new(metadata);
    let signature: [u8; 4] = reader.array().map_err(short)?;
    let (size, version, count) =
        (reader.u32_le().map_err(short)?, reader.u32_le().map_err(short)?, reader.u32_le().map_err(short)?);
    if signature != *b"ASEV" || version != 1 {
        let found = format!("{} version {version}", signature.escape_ascii());
        return Err(LaunchReason::FirmwareMetadata.because("ASEV version 1", found));
    }
    if SECTIONS_MAX < count || count.checked_mul(12).and_then(|bytes| bytes.checked_add(16)) != Some(size) {
        let expected = format!("16 bytes, and 12 for each of at most {SECTIONS_MAX} sections");
        return Err(LaunchReason::FirmwareMetadata.because(expected, format_args!("{size} for {count}")));
    }
    let mut sections = Vec::new();
    for _section in 0..count {
        let gpa = u64::from(reader.u32_le().map_err(short)?);
        let (bytes, kind) = (reader.u32_le().map_err(short)?, reader.u32_le().map_err(short)?);
        sections.push(section(gpa, bytes, kind)?);
    }
    Ok(sections)
}

fn section(gpa: u64, bytes: u32, kind: u32) -> Result<Section, Rejection> {
    let kind = match kind {
        1 => SectionKind::Memory,
        2 => SectionKind::Secrets,
        3 => SectionKind::Cpuid,
        4 => SectionKind::SvsmCaa,
        0x10 => SectionKind::KernelHashes,
        _ => return Err(LaunchReason::FirmwareSection.because("type 1, 2, 3, 4 or 10h", format_args!("{kind:#x}"))),
    };
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let pages = bytes.checked_div(PAGE_BYTES).unwrap_or(0);
    let aligned = gpa.is_multiple_of(0x1000) && bytes.is_multiple_of(PAGE_BYTES) && bytes <= SECTION_BYTES_MAX;
    let single = match kind {
        SectionKind::Secrets | SectionKind::Cpuid | SectionKind::KernelHashes => pages == 1,
        SectionKind::Memory | SectionKind::SvsmCaa => 1 <= pages,
    };
    if aligned && single {
        Ok(Section { gpa, pages, kind })
    } else {
        let found = format!("{kind:?}: {bytes} bytes at {gpa:#x}");
        Err(LaunchReason::FirmwareSection.because("whole pages, one where the firmware has room for one", found))
    }
}

/// The page of kernel hashes, where a kernel is loaded beside the firmware.
enum Hashes {
    None,
    Page(Vec<u8>),
}

/// 9438d606-4f22-4cc9-b479-a793d411fd21: the table itself (QEMU, target/i386/sev.c).
const HASHES_TABLE: Guid =
    [0x06, 0xd6, 0x38, 0x94, 0x22, 0x4f, 0xc9, 0x4c, 0xb4, 0x79, 0xa7, 0x93, 0xd4, 0x11, 0xfd, 0x21];
/// 97d02dd8-bd20-4c94-aa78-e7714d36ab2a: the command line.
const HASHES_CMDLINE: Guid =
    [0xd8, 0x2d, 0xd0, 0x97, 0x20, 0xbd, 0x94, 0x4c, 0xaa, 0x78, 0xe7, 0x71, 0x4d, 0x36, 0xab, 0x2a];
/// 44baf731-3a2f-4bd7-9af1-41e29169781d: the initial file system.
const HASHES_INITRD: Guid =
    [0x31, 0xf7, 0xba, 0x44, 0x2f, 0x3a, 0xd7, 0x4b, 0x9a, 0xf1, 0x41, 0xe2, 0x91, 0x69, 0x78, 0x1d];
/// 4de79437-abd2-427f-b835-d5b172d2045b: the kernel.
const HASHES_KERNEL: Guid =
    [0x37, 0x94, 0xe7, 0x4d, 0xd2, 0xab, 0x7f, 0x42, 0xb8, 0x35, 0xd5, 0xb1, 0x72, 0xd2, 0x04, 0x5b];

/// GUID and size of an entry, and a SHA-256 digest.
const HASHES_ENTRY_BYTES: u16 = 50;
/// GUID and size of the table, and three entries.
const HASHES_TABLE_BYTES: u16 = 168;

fn kernel_hashes(firmware: &Firmware<'_>, sections: &[Section], boot: Boot<'_>) -> Result<Hashes, Rejection> {
    let kernel = match boot {
        Boot::Firmware => return Ok(Hashes::None),
        Boot::Kernel(kernel) => kernel,
    };
    if kernel.append.contains('\0') {
        return Err(LaunchReason::Append.because("no NUL character", "one"));
    }
    let section = sections.iter().find(|section| section.kind == SectionKind::KernelHashes);
    let table = firmware.entry_u32(HASH_TABLE).filter(|gpa| *gpa != 0);
    let (Some(section), Some(table)) = (section, table) else {
        let found = if section.is_none() { "no section for them" } else { "no place for them" };
        return Err(LaunchReason::FirmwareEntry.because("a firmware that compares a kernel's hashes", found));
    };
    let offset = u64::from(table).checked_sub(section.gpa).and_then(|offset| usize::try_from(offset).ok());
    let fits = |offset: &usize| offset.saturating_add(usize::from(HASHES_TABLE_BYTES)) <= PAGE_BYTES;
    let Some(offset) = offset.filter(fits) else {
        let expected = format!("{HASHES_TABLE_BYTES} bytes in the page at {:#x}", section.gpa);
        return Err(LaunchReason::FirmwareSection.because(expected, format_args!("{table:#x}")));
    };
    let mut page = alloc::vec![0; offset];
    page.extend(HASHES_TABLE);
    page.extend(HASHES_TABLE_BYTES.to_le_bytes());
    let entries = [
        // The command line is hashed with the NUL that ends it.
        (HASHES_CMDLINE, Sha256Digest::of(&[kernel.append.as_bytes(), &[0]])),
        (HASHES_INITRD, Sha256Digest::of(&[kernel.initrd])),
        (HASHES_KERNEL, Sha256Digest::of(&[kernel.image])),
    ];
    for (guid, digest) in entries {
        page.extend(guid);
        page.extend(HASHES_ENTRY_BYTES.to_le_bytes());
        page.extend(digest.0);
    }
    page.resize(PAGE_BYTES, 0);
    Ok(Hashes::Page(page))
}

/// The state a CPU begins in (APM Volume 2, table B-4 "VMSA Layout, State Save Area for SEV-ES"), as the VMM and KVM
/// leave it after a reset, with CS:IP at `entry`.
fn vmsa(entry: u32, launch: &Launch<'_>) -> Vec<u8> {
    let first = entry == RESET_VECTOR;
    // (CS attributes, SS attributes, TR attributes, PAT, RDX, MXCSR, x87 control word)
    let (cs, ss, tr, pat, rdx, mxcsr, fcw) = match launch.vmm {
        Vmm::Qemu => (0x9b, 0x93, 0x8b, PAT, u64::from(launch.vcpu_signature), MXCSR, X87_FCW),
        Vmm::Ec2 => (if first { 0x9a } else { 0x9b }, 0x92, 0x83, PAT, RDX_RESET, 0, 0),
        Vmm::Gce => (0x9b, 0x93, 0x8b, PAT_GCE, RDX_RESET, 0, 0),
    };
    let mut page = alloc::vec![0; PAGE_BYTES];
    // ES, CS, SS, DS, FS, GS, GDTR, LDTR, IDTR, TR: selector, attributes, limit, base.
    let base = u64::from(entry & 0xffff_0000);
    let segments = [
        (0x00, 0, 0x93, 0),
        (0x10, 0xf000, cs, base),
        (0x20, 0, ss, 0),
        (0x30, 0, 0x93, 0),
        (0x40, 0, 0x93, 0),
        (0x50, 0, 0x93, 0),
        (0x60, 0, 0, 0),
        (0x70, 0, 0x82, 0),
        (0x80, 0, 0, 0),
        (0x90, 0, tr, 0),
    ];
    for (offset, selector, attributes, base) in segments {
        let low: u64 = selector | attributes << 16 | 0xffff << 32;
        put(&mut page, offset, low);
        put(&mut page, offset.saturating_add(8), base);
    }
    let registers = [
        // KVM sets SVME in EFER and MCE in CR4.
        (0x0d0, 0x1000),
        (0x148, 0x40),
        (0x158, 0x10),
        (0x160, 0x400),
        (0x168, 0xffff_0ff0),
        (0x170, 2),
        (0x178, u64::from(entry & 0xffff)),
        (0x268, pat),
        (0x310, rdx),
        (0x3b0, launch.guest_features),
        (0x3e8, 1),
        (0x408, mxcsr),
        (0x410, fcw),
    ];
    for (offset, value) in registers {
        put(&mut page, offset, value);
    }
    page
}

/// PA0 to PA7 after a reset (APM Volume 2, 7.8.1).
const PAT: u64 = 0x0007_0406_0007_0406;
/// Google's hypervisor puts its own.
const PAT_GCE: u64 = 0x0007_0106;
/// RDX after a reset where the VMM gave KVM no CPUID before.
const RDX_RESET: u64 = 0x600;
const MXCSR: u64 = 0x1f80;
const X87_FCW: u64 = 0x37f;

/// Eight bytes little-endian; every offset is in the page.
fn put(page: &mut [u8], offset: usize, value: u64) {
    for (place, byte) in page.iter_mut().skip(offset).zip(value.to_le_bytes()) {
        *place = byte;
    }
}
