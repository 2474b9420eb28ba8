//! A machine's firmware and boot loader, as far as their measurements go: the event log they leave behind, and the
//! digests they extend. Written from the specification alone, so that it does not repeat a parser's mistakes.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test aid: each test that includes it uses its own part, and one that cannot go on fails"
)]

use aws_lc_rs::digest::{self, Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384};

/// TCG PC Client Platform Firmware Profile 1.06, 10.4.1: event types.
const EV_NO_ACTION: u32 = 3;
const EV_SEPARATOR: u32 = 4;
const EV_S_CRTM_VERSION: u32 = 8;
const EV_IPL: u32 = 13;
const EV_EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
const EV_EFI_BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
const EV_EFI_ACTION: u32 = 0x8000_0007;
/// TCG Algorithm Registry, of the banks that are extended.
const BANKS: [(u16, &Algorithm, &str); 3] =
    [(0x0004, &SHA1_FOR_LEGACY_USE_ONLY, "sha1"), (0x000b, &SHA256, "sha256"), (0x000c, &SHA384, "sha384")];

/// EFI_GLOBAL_VARIABLE and EFI_IMAGE_SECURITY_DATABASE_GUID, as they lie in memory.
const GLOBAL: [u8; 16] = *b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";
const SECURITY: [u8; 16] = *b"\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f";
/// EFI_CERT_SHA256_GUID.
const CERT_SHA256: [u8; 16] = *b"\x26\x16\xc4\xc1\x4c\x50\x92\x40\xac\xa9\x41\xf9\x36\x93\x43\x28";

/// One measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pcr: u8,
    kind: u32,
    /// What the log tells.
    data: Vec<u8>,
    /// What is hashed: often the data, sometimes what it describes.
    measured: Vec<u8>,
}

/// A boot from power-on to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Boot {
    events: Vec<Event>,
}

impl Boot {
    /// A server with Secure Boot that starts GRUB and this kernel.
    pub(crate) fn of(kernel: &str) -> Self {
        let mut boot = Self { events: Vec::new() };
        boot.told(0, EV_S_CRTM_VERSION, utf16("firmware 1.42\0"));
        boot.told(7, EV_EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL, "SecureBoot", &[1]));
        for (guid, name) in [(GLOBAL, "PK"), (GLOBAL, "KEK"), (SECURITY, "db"), (SECURITY, "dbx")] {
            boot.told(7, EV_EFI_VARIABLE_DRIVER_CONFIG, variable(guid, name, &signature_list(name)));
        }
        boot.told(4, EV_EFI_ACTION, b"Calling EFI Application from Boot Option".to_vec());
        for pcr in 0..8 {
            boot.told(pcr, EV_SEPARATOR, vec![0; 4]);
        }
        let loader = image_load("\\EFI\\BOOT\\GRUBX64.EFI");
        boot.push(4, EV_EFI_BOOT_SERVICES_APPLICATION, loader, b"boot loader".to_vec());
        // GRUB measures what comes after the prefix, without the terminator.
        let command_line = format!("{kernel} root=/dev/vda1 ima_policy=tcb");
        let told = format!("kernel_cmdline: {command_line}\0").into_bytes();
        boot.push(8, EV_IPL, told, command_line.into_bytes());
        boot.push(9, EV_IPL, format!("{kernel}\0").into_bytes(), format!("the content of {kernel}").into_bytes());
        boot.told(5, EV_EFI_ACTION, b"Exit Boot Services Invocation".to_vec());
        boot.told(5, EV_EFI_ACTION, b"Exit Boot Services Returned with Success".to_vec());
        boot
    }

    /// An event whose data is what is measured.
    pub(crate) fn told(&mut self, pcr: u8, kind: u32, data: Vec<u8>) {
        self.push(pcr, kind, data.clone(), data);
    }

    fn push(&mut self, pcr: u8, kind: u32, data: Vec<u8>, measured: Vec<u8>) {
        self.events.push(Event { pcr, kind, data, measured });
    }

    /// The event log, crypto-agile (clause 10.4.5): SHA-1, SHA-256 and SHA-384.
    pub(crate) fn log(&self) -> Vec<u8> {
        let mut spec_id = b"Spec ID Event03\0".to_vec();
        // platformClass; minor, major, errata of the specification; uintnSize of 64 bits; number of algorithms
        spec_id.extend_from_slice(&[0, 0, 0, 0, 0, 2, 0, 2, 3, 0, 0, 0]);
        for (id, algorithm, _) in BANKS {
            spec_id.extend_from_slice(&id.to_le_bytes());
            spec_id.extend_from_slice(&u16::try_from(algorithm.output_len()).unwrap().to_le_bytes());
        }
        spec_id.push(0);
        let mut log = [&0_u32.to_le_bytes()[..], &EV_NO_ACTION.to_le_bytes(), &[0; 20], &length(&spec_id)].concat();
        log.extend_from_slice(&spec_id);
        for event in &self.events {
            log.extend_from_slice(&u32::from(event.pcr).to_le_bytes());
            log.extend_from_slice(&event.kind.to_le_bytes());
            log.extend_from_slice(&3_u32.to_le_bytes());
            for (id, algorithm, _) in BANKS {
                log.extend_from_slice(&id.to_le_bytes());
                log.extend_from_slice(digest::digest(algorithm, &event.measured).as_ref());
            }
            log.extend_from_slice(&length(&event.data));
            log.extend_from_slice(&event.data);
        }
        log
    }

    /// What is extended, as tpm2_pcrextend reads it: `PCR:sha256=DIGEST,sha384=DIGEST`.
    pub(crate) fn extends(&self) -> Vec<String> {
        let one = |event: &Event| {
            let digest = |(_, algorithm, name): &(u16, &'static Algorithm, &str)| {
                format!("{name}={}", hex(digest::digest(algorithm, &event.measured)))
            };
            let digests: Vec<_> = BANKS.iter().skip(1).map(digest).collect();
            format!("{}:{}", event.pcr, digests.join(","))
        };
        self.events.iter().map(one).collect()
    }

    /// The same boot in a trust domain: the log behind its registers (UEFI 2.10, 38.4.1), SHA-384 alone.
    pub(crate) fn ccel(&self) -> Vec<u8> {
        let mut spec_id = b"Spec ID Event03\0".to_vec();
        spec_id.extend_from_slice(&[0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0c, 0, 48, 0, 0]);
        let mut log = [&1_u32.to_le_bytes()[..], &EV_NO_ACTION.to_le_bytes(), &[0; 20], &length(&spec_id)].concat();
        log.extend_from_slice(&spec_id);
        for (register, event) in self.registers() {
            let head = [register, event.kind, 1].map(u32::to_le_bytes).concat();
            let digest = digest::digest(&SHA384, &event.measured);
            log.extend([&head, &[0x0c, 0][..], digest.as_ref(), &length(&event.data), &event.data].concat());
        }
        log
    }

    /// RTMR0 to RTMR3 after this boot.
    pub(crate) fn rtmrs(&self) -> [[u8; 48]; 4] {
        let mut rtmrs = [[0; 48]; 4];
        for (register, event) in self.registers() {
            let rtmr = &mut rtmrs[register as usize - 1];
            let extended = [rtmr.as_slice(), digest::digest(&SHA384, &event.measured).as_ref()].concat();
            rtmr.copy_from_slice(digest::digest(&SHA384, &extended).as_ref());
        }
        rtmrs
    }

    /// Events with the index of their register, 1 for RTMR0 (UEFI 2.10, 38.4.1). A TPM's PCR 0 is MRTD here.
    fn registers(&self) -> impl Iterator<Item = (u32, &Event)> {
        self.events.iter().filter(|event| event.pcr != 0).map(|event| match event.pcr {
            1 | 7 => (1, event),
            2..=6 => (2, event),
            _ => (3, event),
        })
    }

    /// The SHA-256 bank after this boot, PCR 0 to 9.
    pub(crate) fn pcrs(&self) -> [[u8; 32]; 10] {
        let mut pcrs = [[0; 32]; 10];
        for event in &self.events {
            if let Some(pcr) = pcrs.get_mut(usize::from(event.pcr)) {
                let extended = [pcr.as_slice(), digest::digest(&SHA256, &event.measured).as_ref()].concat();
                pcr.copy_from_slice(digest::digest(&SHA256, &extended).as_ref());
            }
        }
        pcrs
    }
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap().to_le_bytes()
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// UEFI_VARIABLE_DATA (clause 10.4.2.6).
fn variable(guid: [u8; 16], name: &str, data: &[u8]) -> Vec<u8> {
    let size = |length: usize| (length as u64).to_le_bytes();
    [&guid[..], &size(name.len()), &size(data.len()), &utf16(name), data].concat()
}

/// An EFI_SIGNATURE_LIST with one hash (UEFI 2.10, 32.4.1).
fn signature_list(of: &str) -> Vec<u8> {
    let hash = digest::digest(&SHA256, of.as_bytes());
    let owner = [0x77; 16];
    let sizes = [76_u32, 0, 48].map(u32::to_le_bytes).concat();
    [&CERT_SHA256[..], &sizes, &owner, hash.as_ref()].concat()
}

/// UEFI_IMAGE_LOAD_EVENT (clause 10.4.2.3) of a file on the boot medium.
fn image_load(path: &str) -> Vec<u8> {
    let name = utf16(&format!("{path}\0"));
    let node = [&[4, 4][..], &u16::try_from(name.len() + 4).unwrap().to_le_bytes(), &name].concat();
    let device_path = [node, vec![0x7f, 0xff, 4, 0]].concat();
    let head = [0x7f00_0000, 0x0010_0000, 0, device_path.len() as u64].map(u64::to_le_bytes).concat();
    [head, device_path].concat()
}
