//! Event logs and IMA lists as firmware, boot loaders and the kernel write them. Included by path where a test or
//! benchmark needs one; nothing shipped knows it.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::std_instead_of_core,
    reason = "a test aid: each test that includes it uses its own part, and one that cannot go on fails"
)]

use aws_lc_rs::digest;

/// Event types (PC Client PFP 1.06, 10.4.1).
pub(crate) mod event {
    pub(crate) const NO_ACTION: u32 = 3;
    pub(crate) const SEPARATOR: u32 = 4;
    pub(crate) const S_CRTM_VERSION: u32 = 8;
    pub(crate) const IPL: u32 = 0xd;
    pub(crate) const VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
    pub(crate) const VARIABLE_BOOT: u32 = 0x8000_0002;
    pub(crate) const BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
    pub(crate) const GPT: u32 = 0x8000_0006;
    pub(crate) const ACTION: u32 = 0x8000_0007;
    pub(crate) const PLATFORM_FIRMWARE_BLOB: u32 = 0x8000_0008;
    pub(crate) const VARIABLE_AUTHORITY: u32 = 0x8000_00e0;
}

/// EFI_GLOBAL_VARIABLE, EFI_IMAGE_SECURITY_DATABASE and shim's, as they lie in memory.
pub(crate) const GLOBAL: &str = "61dfe48bca93d211aa0d00e098032b8c";
pub(crate) const SECURITY_DATABASE: &str = "cbb219d73a3d9645a3bcdad00e67656f";
pub(crate) const SHIM: &str = "50ab5d6046e00043abb63dd810dd8b23";
/// EFI_CERT_X509_GUID and EFI_CERT_SHA256_GUID.
pub(crate) const CERT_X509: &str = "a159c0a5e494a74a87b5ab155c2bf072";
pub(crate) const CERT_SHA256: &str = "2616c4c14c509240aca941f936934328";

/// A crypto-agile log of SHA-1 and SHA-256 banks that grows event by event.
pub(crate) struct LogWriter {
    log: Vec<u8>,
}

impl LogWriter {
    /// A log with its Spec ID event.
    pub(crate) fn new() -> Self {
        let mut spec = b"Spec ID Event03\0".to_vec();
        // platformClass, specVersionMinor, specVersionMajor, specErrata, uintnSize, numberOfAlgorithms
        spec.extend_from_slice(&[0, 0, 0, 0, 0, 2, 0, 2, 2, 0, 0, 0]);
        spec.extend_from_slice(&[4, 0, 20, 0, 0x0b, 0, 32, 0, 0]);
        let mut log = Vec::new();
        log.extend_from_slice(&0_u32.to_le_bytes());
        log.extend_from_slice(&event::NO_ACTION.to_le_bytes());
        log.extend_from_slice(&[0; 20]);
        log.extend_from_slice(&u32::try_from(spec.len()).unwrap().to_le_bytes());
        log.extend_from_slice(&spec);
        Self { log }
    }

    /// The log.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.log
    }

    /// An event whose digests are of `measured`, beside which `data` is written down.
    pub(crate) fn event(&mut self, pcr: u32, kind: u32, measured: &[u8], data: &[u8]) -> &mut Self {
        let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, measured);
        let sha256 = digest::digest(&digest::SHA256, measured);
        self.digests(pcr, kind, sha1.as_ref(), sha256.as_ref(), data)
    }

    /// An event whose data is what was measured.
    pub(crate) fn data(&mut self, pcr: u32, kind: u32, data: &[u8]) -> &mut Self {
        self.event(pcr, kind, data, data)
    }

    /// EV_NO_ACTION: zero digests.
    pub(crate) fn no_action(&mut self, data: &[u8]) -> &mut Self {
        self.digests(0, event::NO_ACTION, &[0; 20], &[0; 32], data)
    }

    fn digests(&mut self, pcr: u32, kind: u32, sha1: &[u8], sha256: &[u8], data: &[u8]) -> &mut Self {
        self.log.extend_from_slice(&pcr.to_le_bytes());
        self.log.extend_from_slice(&kind.to_le_bytes());
        self.log.extend_from_slice(&2_u32.to_le_bytes());
        self.log.extend_from_slice(&[4, 0]);
        self.log.extend_from_slice(sha1);
        self.log.extend_from_slice(&[0x0b, 0]);
        self.log.extend_from_slice(sha256);
        self.log.extend_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
        self.log.extend_from_slice(data);
        self
    }

    /// A UEFI variable (UEFI_VARIABLE_DATA), wholly measured.
    pub(crate) fn variable(&mut self, pcr: u32, kind: u32, guid: &str, name: &str, value: &[u8]) -> &mut Self {
        self.data(pcr, kind, &variable(guid, name, value))
    }

    /// An image (UEFI_IMAGE_LOAD_EVENT): the digest is of the image, which is not in the log.
    pub(crate) fn image(&mut self, image: &[u8], path: &str) -> &mut Self {
        let device_path = file_path(path);
        let mut data = Vec::new();
        for number in [0x6000_0000_u64, 0x10_0000, 0, u64::try_from(device_path.len()).unwrap()] {
            data.extend_from_slice(&number.to_le_bytes());
        }
        data.extend_from_slice(&device_path);
        self.event(4, event::BOOT_SERVICES_APPLICATION, image, &data)
    }

    /// EV_SEPARATOR into PCR 0 to 7.
    pub(crate) fn separators(&mut self) -> &mut Self {
        for pcr in 0..8 {
            self.data(pcr, event::SEPARATOR, &[0; 4]);
        }
        self
    }
}

/// UEFI_VARIABLE_DATA.
pub(crate) fn variable(guid: &str, name: &str, value: &[u8]) -> Vec<u8> {
    let mut data = hex::decode(guid).unwrap();
    data.extend_from_slice(&u64::try_from(name.encode_utf16().count()).unwrap().to_le_bytes());
    data.extend_from_slice(&u64::try_from(value.len()).unwrap().to_le_bytes());
    data.extend(utf16(name));
    data.extend_from_slice(value);
    data
}

/// EFI_SIGNATURE_LIST with one owner.
pub(crate) fn signature_list(kind: &str, signatures: &[&[u8]]) -> Vec<u8> {
    let size = 16 + signatures.first().map_or(0, |first| first.len());
    let mut list = hex::decode(kind).unwrap();
    for number in [28 + size * signatures.len(), 0, size] {
        list.extend_from_slice(&u32::try_from(number).unwrap().to_le_bytes());
    }
    for signature in signatures {
        list.extend_from_slice(&[7; 16]);
        list.extend_from_slice(signature);
    }
    list
}

/// A device path of one file on a hard disk's partition.
pub(crate) fn file_path(path: &str) -> Vec<u8> {
    let mut name = utf16(path);
    name.extend_from_slice(&[0, 0]);
    let mut node = vec![4, 4];
    node.extend_from_slice(&u16::try_from(4 + name.len()).unwrap().to_le_bytes());
    node.extend(name);
    node.extend_from_slice(&[0x7f, 0xff, 4, 0]);
    node
}

/// UTF-16, little-endian.
pub(crate) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// One entry of a binary runtime measurement list: ima-ng with SHA-256, into PCR 10.
pub(crate) fn ima_ng(path: &str, file: &[u8]) -> Vec<u8> {
    let digest_field = [b"sha256:\0", digest::digest(&digest::SHA256, file).as_ref()].concat();
    let name = [path.as_bytes(), &[0]].concat();
    ima_entry(10, "ima-ng", &[&digest_field, &name])
}

/// An entry of any template: each field with its size.
pub(crate) fn ima_entry(pcr: u32, template: &str, fields: &[&[u8]]) -> Vec<u8> {
    let mut data = Vec::new();
    for field in fields {
        data.extend_from_slice(&u32::try_from(field.len()).unwrap().to_le_bytes());
        data.extend_from_slice(field);
    }
    let template_hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &data);
    ima_raw(pcr, template_hash.as_ref(), template, &data)
}

/// A violation: zeros in the list, ones in the PCR.
pub(crate) fn ima_violation(path: &str) -> Vec<u8> {
    let mut data = Vec::new();
    for field in [&[b"sha256:\0".as_slice(), &[0; 32]].concat(), &[path.as_bytes(), &[0]].concat()] {
        data.extend_from_slice(&u32::try_from(field.len()).unwrap().to_le_bytes());
        data.extend_from_slice(field);
    }
    ima_raw(10, &[0; 20], "ima-ng", &data)
}

fn ima_raw(pcr: u32, template_hash: &[u8], template: &str, data: &[u8]) -> Vec<u8> {
    let mut entry = pcr.to_le_bytes().to_vec();
    entry.extend_from_slice(template_hash);
    entry.extend_from_slice(&u32::try_from(template.len()).unwrap().to_le_bytes());
    entry.extend_from_slice(template.as_bytes());
    entry.extend_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
    entry.extend_from_slice(data);
    entry
}
