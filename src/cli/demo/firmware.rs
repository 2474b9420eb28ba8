//! What the demo's machine measures when it boots, into the TPM and into the event log beside it, as firmware, boot
//! loader and stub of a unified kernel image do (TCG PC Client Platform Firmware Profile 1.06, 10; UAPI Group, Linux
//! TPM PCR Registry). The images behind the digests are names only: nothing here boots.

use countersign_attestation::digest::Sha256Digest;

/// TPM_ALG_SHA256, and the bytes of its digests.
const SHA256: (u16, u16) = (0x000b, 32);

// TCG_EVENTTYPE.
const NO_ACTION: u32 = 0x3;
const SEPARATOR: u32 = 0x4;
const S_CRTM_VERSION: u32 = 0x8;
const IPL: u32 = 0xd;
const ACTION: u32 = 0x8000_0007;
const VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
const BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;

/// EFI_GLOBAL_VARIABLE.
const GLOBAL: [u8; 16] = *b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";

/// PCRs that the demo's manifest names: those of the events below.
pub(in crate::cli) const PCRS: &str = "0,2,4,5,7,11,12,13";

/// A boot: its event log, and what was extended on the way.
#[derive(Debug)]
pub(in crate::cli) struct Boot {
    pub(in crate::cli) log: Vec<u8>,
    pub(in crate::cli) extended: Vec<(u8, Sha256Digest)>,
}

impl Boot {
    /// The boot before the host is called good.
    pub(in crate::cli) fn new() -> Self {
        let mut boot = Self { log: Vec::new(), extended: Vec::new() };
        boot.header();
        boot.event(0, S_CRTM_VERSION, &utf16("firmware 1.4.2"));
        boot.event(7, VARIABLE_DRIVER_CONFIG, &variable("SecureBoot", &[1]));
        for pcr in 0..8 {
            boot.event(pcr, SEPARATOR, &[0; 4]);
        }
        boot.image("\\EFI\\Linux\\inference-42.efi", "unified kernel image 42");
        for (name, content) in
            [(".linux", "kernel 6.12 of image 42"), (".initrd", "initrd of image 42"), (".osrel", "image 42")]
        {
            // systemd-stub measures a section's name in ASCII, then its content, and logs the name for both in UTF-16.
            let name = format!("{name}\0");
            boot.extend(11, IPL, name.as_bytes(), &utf16(&name));
            boot.extend(11, IPL, content.as_bytes(), &utf16(&name));
        }
        boot.event(12, IPL, &utf16("root=/dev/mapper/root ro lockdown=confidentiality\0"));
        boot.event(13, IPL, &utf16("inference-server-7.sysext\0"));
        for action in ["Exit Boot Services Invocation", "Exit Boot Services Returned with Success"] {
            boot.event(5, ACTION, action.as_bytes());
        }
        boot
    }

    /// TCG_EfiSpecIdEvent: SHA-256 only.
    fn header(&mut self) {
        let mut header = b"Spec ID Event03\0".to_vec();
        // Client platform, specification 2.0 without errata, 64-bit UINTN.
        header.extend([0, 0, 0, 0, 0, 2, 0, 2]);
        header.extend(1_u32.to_le_bytes());
        header.extend(SHA256.0.to_le_bytes());
        header.extend(SHA256.1.to_le_bytes());
        header.push(0);
        // TCG_PCClientPCREvent with an empty SHA-1 digest.
        self.log.extend(0_u32.to_le_bytes());
        self.log.extend(NO_ACTION.to_le_bytes());
        self.log.extend([0; 20]);
        self.log.extend(length(&header));
        self.log.extend(header);
    }

    /// An event whose digest is that of its data.
    fn event(&mut self, pcr: u8, event_type: u32, data: &[u8]) {
        self.extend(pcr, event_type, data, data);
    }

    /// TCG_PCR_EVENT2: `measured` is extended, and `data` says what it was.
    fn extend(&mut self, pcr: u8, event_type: u32, measured: &[u8], data: &[u8]) {
        let digest = Sha256Digest::of(&[measured]);
        self.log.extend(u32::from(pcr).to_le_bytes());
        self.log.extend(event_type.to_le_bytes());
        self.log.extend(1_u32.to_le_bytes());
        self.log.extend(SHA256.0.to_le_bytes());
        self.log.extend(digest.0);
        self.log.extend(length(data));
        self.log.extend(data);
        self.extended.push((pcr, digest));
    }

    /// UEFI_IMAGE_LOAD_EVENT of a file.
    fn image(&mut self, path: &str, image: &str) {
        let path = utf16(&format!("{path}\0"));
        // EFI_FILE_PATH_DEVICE_PATH and the end of the path (UEFI 2.10, 10.3.5.4, 10.3.1).
        let mut device_path = vec![0x04, 0x04];
        device_path.extend(u16::try_from(path.len().saturating_add(4)).unwrap_or_default().to_le_bytes());
        device_path.extend(path);
        device_path.extend([0x7f, 0xff, 0x04, 0x00]);
        let mut data = 0x7000_0000_u64.to_le_bytes().to_vec();
        data.extend(0x0200_0000_u64.to_le_bytes());
        data.extend(0_u64.to_le_bytes());
        data.extend(u64::try_from(device_path.len()).unwrap_or_default().to_le_bytes());
        data.extend(device_path);
        self.extend(4, BOOT_SERVICES_APPLICATION, image.as_bytes(), &data);
    }
}

/// UEFI_VARIABLE_DATA.
fn variable(name: &str, value: &[u8]) -> Vec<u8> {
    let unicode = utf16(name);
    let mut data = GLOBAL.to_vec();
    data.extend(u64::try_from(name.len()).unwrap_or_default().to_le_bytes());
    data.extend(u64::try_from(value.len()).unwrap_or_default().to_le_bytes());
    data.extend(unicode);
    data.extend(value);
    data
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn length(data: &[u8]) -> [u8; 4] {
    u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes()
}
