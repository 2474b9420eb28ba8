//! Firmware images with the tables that OVMF has for confidential guests, and nothing to run in them.
//!
//! Included by `#[path]` where it is needed.
#![allow(
    clippy::allow_attributes,
    dead_code,
    unreachable_pub,
    reason = "files that include it differ in what they use"
)]
#![allow(
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    reason = "test code"
)]
#![allow(missing_docs, missing_debug_implementations, reason = "likewise")]

pub const FOOTER: &str = "de82b596b21ff745baeaa366c55a082d";
pub const HASH_TABLE: &str = "1f3755723b3a044b927b1da6efa8d454";
pub const RESET_BLOCK: &str = "de71f7007e1acb4f890e68c77e2fb44e";
pub const SEV_METADATA: &str = "666588dc4a989847a75e5585a7bf67cc";
pub const TDX_METADATA: &str = "35657ae44a989847865e4685a7bf8ec2";

/// One section of SEV metadata: address, size, type.
pub type SevSection = (u32, u32, u32);

/// One section of TDX metadata: offset and size in the image, address and size in memory, type, attributes.
pub type TdxSection = (u32, u32, u64, u64, u32, u32);

/// What AmdSev's OVMF has: memory, secrets, CPUID, a page for a caller of an SVSM, kernel hashes.
pub const SEV_SECTIONS: [SevSection; 6] = [
    (0x80_0000, 0x9000, 1),
    (0x80_d000, 0x1000, 2),
    (0x80_e000, 0x1000, 3),
    (0x80_f000, 0x1000, 4),
    (0x81_0000, 0x1000, 0x10),
    (0x81_1000, 0xf000, 1),
];

/// An image of 16 pages.
pub struct Image {
    pub pages: usize,
    /// GUID and data, first to last.
    pub entries: Vec<(&'static str, Vec<u8>)>,
    pub sev: Vec<SevSection>,
    pub tdx: Vec<TdxSection>,
}

impl Image {
    /// An image for SEV-SNP that measures a kernel beside it.
    pub fn sev() -> Self {
        Self {
            pages: 16,
            entries: vec![
                (HASH_TABLE, 0x81_0c00_u32.to_le_bytes().iter().chain(&0x400_u32.to_le_bytes()).copied().collect()),
                (RESET_BLOCK, 0x80_b004_u32.to_le_bytes().to_vec()),
            ],
            sev: SEV_SECTIONS.to_vec(),
            tdx: Vec::new(),
        }
    }

    /// An image for TDX: a code volume, a volume of variables, and memory that is added or comes later.
    pub fn tdx() -> Self {
        Self {
            pages: 16,
            entries: Vec::new(),
            sev: Vec::new(),
            tdx: vec![
                (0x2000, 0xe000, 0xffff_2000, 0xe000, 0, 1),
                (0, 0x2000, 0xffff_0000, 0x2000, 1, 0),
                (0, 0, 0x81_0000, 0x2000, 3, 0),
                (0, 0, 0x80_b000, 0x1000, 3, 0),
                (0, 0, 0x80_9000, 0x2000, 2, 0),
                (0x100, 0x80, 0x80_0000, 0x2000, 5, 1),
                (0, 0, 0x10_0000, 0x4000, 4, 2),
            ],
        }
    }

    /// The image: bytes that tell its pages apart, the metadata, and the table at its end.
    pub fn build(&self) -> Vec<u8> {
        let size = self.pages * 4096;
        let mut image: Vec<u8> = (0..size).map(|at| (at / 4096 * 7 + at % 251) as u8).collect();
        let sev_at = size - 0x800;
        let tdx_at = size - 0x600;
        let mut entries = self.entries.clone();
        if !self.sev.is_empty() {
            let mut metadata = b"ASEV".to_vec();
            for word in [16 + 12 * self.sev.len() as u32, 1, self.sev.len() as u32] {
                metadata.extend(word.to_le_bytes());
            }
            for (gpa, bytes, kind) in &self.sev {
                metadata.extend([gpa, bytes, kind].into_iter().flat_map(|word| word.to_le_bytes()));
            }
            image[sev_at..sev_at + metadata.len()].copy_from_slice(&metadata);
            entries.push((SEV_METADATA, 0x800_u32.to_le_bytes().to_vec()));
        }
        if !self.tdx.is_empty() {
            let mut metadata = b"TDVF".to_vec();
            for word in [16 + 32 * self.tdx.len() as u32, 1, self.tdx.len() as u32] {
                metadata.extend(word.to_le_bytes());
            }
            for (offset, bytes, gpa, memory, kind, attributes) in &self.tdx {
                metadata.extend([offset, bytes].into_iter().flat_map(|word| word.to_le_bytes()));
                metadata.extend([gpa, memory].into_iter().flat_map(|word| word.to_le_bytes()));
                metadata.extend([kind, attributes].into_iter().flat_map(|word| word.to_le_bytes()));
            }
            image[tdx_at..tdx_at + metadata.len()].copy_from_slice(&metadata);
            entries.push((TDX_METADATA, 0x600_u32.to_le_bytes().to_vec()));
        }
        let table = table(&entries);
        let end = size - 32;
        image[end - table.len()..end].copy_from_slice(&table);
        image
    }
}

/// Entries and footer as they stand in front of the last 32 bytes.
pub fn table(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut table = Vec::new();
    for (guid, data) in entries {
        table.extend(data);
        table.extend((data.len() as u16 + 18).to_le_bytes());
        table.extend(guid_bytes(guid));
    }
    let size = table.len() as u16 + 18;
    table.extend(size.to_le_bytes());
    table.extend(guid_bytes(FOOTER));
    table
}

fn guid_bytes(guid: &str) -> Vec<u8> {
    (0..32).step_by(2).map(|at| u8::from_str_radix(&guid[at..at + 2], 16).unwrap_or_default()).collect()
}
