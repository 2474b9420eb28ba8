//! What a machine measures: firmware into PCRs with an event log of it, and the kernel into PCR 10 with its list.

use aws_lc_rs::digest;
use countersign_attestation::claims::PcrHash;

use crate::tpm::SimTpm;

const BANKS: [PcrHash; 2] = [PcrHash::Sha256, PcrHash::Sha384];

// Event types of the PC Client Platform Firmware Profile, table 9.
const EV_SEPARATOR: u32 = 4;
const EV_S_CRTM_VERSION: u32 = 8;
const EV_EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;

/// EFI_GLOBAL_VARIABLE, as it is in memory.
const GLOBAL: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];

/// One boot: every event is data whose digest was extended.
#[derive(Clone)]
pub(crate) struct Boot(Vec<(u8, u32, Vec<u8>)>);

impl Boot {
    /// A firmware with Secure Boot on or off.
    pub(crate) fn secure(on: bool) -> Self {
        Self::of("firmware 1", on)
    }

    /// Another firmware.
    pub(crate) fn of(firmware: &str, on: bool) -> Self {
        let mut events = vec![(0, EV_S_CRTM_VERSION, utf16(firmware))];
        events.push((7, EV_EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", &[u8::from(on)])));
        for name in ["PK", "KEK", "db", "dbx"] {
            events.push((7, EV_EFI_VARIABLE_DRIVER_CONFIG, variable(name, &[])));
        }
        events.extend((0..8).map(|pcr| (pcr, EV_SEPARATOR, vec![0; 4])));
        Self(events)
    }

    /// Resets the TPM's PCRs and measures.
    pub(crate) fn measure(&self, tpm: &mut SimTpm) {
        for bank in BANKS {
            (0..16).for_each(|pcr| tpm.reset_pcr(bank, pcr));
            for (pcr, _, data) in &self.0 {
                tpm.extend(bank, *pcr, data);
            }
        }
    }

    /// The crypto-agile log (PC Client Platform Firmware Profile 1.06, 10.2).
    pub(crate) fn log(&self) -> Vec<u8> {
        let mut spec_id = b"Spec ID Event03\0".to_vec();
        spec_id.extend([0, 0, 0, 0, 0, 2, 0, 2]);
        spec_id.extend([2, 0, 0, 0, 0x0b, 0, 32, 0, 0x0c, 0, 48, 0, 0]);
        let mut log = [le(0), le(3), vec![0; 20], le(spec_id.len()), spec_id].concat();
        for (pcr, event_type, data) in &self.0 {
            log.extend([le(usize::from(*pcr)), event_type.to_le_bytes().to_vec(), le(2)].concat());
            log.extend([&[0x0b, 0], digest::digest(&digest::SHA256, data).as_ref()].concat());
            log.extend([&[0x0c, 0], digest::digest(&digest::SHA384, data).as_ref()].concat());
            log.extend([le(data.len()), data.clone()].concat());
        }
        log
    }
}

/// A kernel's measurement list.
#[derive(Clone, Default)]
pub(crate) struct List(Vec<Vec<u8>>);

impl List {
    /// A list that a kernel begins after this boot.
    pub(crate) fn begin(tpm: &mut SimTpm) -> Self {
        let boot: Vec<u8> = (0..10).flat_map(|pcr| tpm.pcr(PcrHash::Sha256, pcr).to_vec()).collect();
        let mut list = Self::default();
        list.entry(tpm, digest::digest(&digest::SHA256, &boot).as_ref(), "boot_aggregate");
        list
    }

    /// The kernel measures a file.
    pub(crate) fn measure(&mut self, tpm: &mut SimTpm, path: &str, content: &[u8]) {
        self.entry(tpm, digest::digest(&digest::SHA256, content).as_ref(), path);
    }

    fn entry(&mut self, tpm: &mut SimTpm, digest: &[u8], path: &str) {
        let field = |bytes: &[u8]| [le(bytes.len()), bytes.to_vec()].concat();
        let data = [field(&[b"sha256:\0", digest].concat()), field(&[path.as_bytes(), b"\0"].concat())].concat();
        for bank in BANKS {
            tpm.extend(bank, 10, &data);
        }
        let template = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &data);
        self.0.push([le(10), template.as_ref().to_vec(), field(b"ima-ng"), field(&data)].concat());
    }

    /// `binary_runtime_measurements` from an entry on.
    pub(crate) fn from(&self, entry: u64) -> Vec<u8> {
        self.0[usize::try_from(entry).unwrap()..].concat()
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

/// SHA-256 of a file's content, for allow-lists.
pub(crate) fn sha256(content: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, content))
}

/// UEFI_VARIABLE_DATA (PC Client Platform Firmware Profile 1.06, 10.2.6).
fn variable(name: &str, data: &[u8]) -> Vec<u8> {
    let (characters, size) = (name.len() as u64, data.len() as u64);
    [&GLOBAL[..], &characters.to_le_bytes(), &size.to_le_bytes(), &utf16(name), data].concat()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn le(number: usize) -> Vec<u8> {
    u32::try_from(number).unwrap().to_le_bytes().to_vec()
}
