//! Event logs as firmware writes them: a builder of crypto-agile logs that knows the PCR values they give.

use std::collections::BTreeMap;

use aws_lc_rs::digest;

/// A bank: TPM_ALG_ID and how it hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogBank {
    /// TPM_ALG_SHA1.
    Sha1,
    /// TPM_ALG_SHA256.
    Sha256,
    /// TPM_ALG_SHA384.
    Sha384,
    /// TPM_ALG_SHA512.
    Sha512,
}

impl LogBank {
    /// TPM_ALG_ID.
    pub fn id(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
        }
    }

    /// The digest of these parts.
    pub fn hash(self, parts: &[&[u8]]) -> Vec<u8> {
        let mut context = digest::Context::new(match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        });
        parts.iter().for_each(|part| context.update(part));
        context.finish().as_ref().to_vec()
    }
}

/// One event to log: what is hashed, and what is written beside it.
#[derive(Clone, Debug)]
pub struct LogEvent {
    /// PCR.
    pub pcr: u32,
    /// TCG_EVENTTYPE.
    pub kind: u32,
    /// What the digests are of.
    pub measured: Vec<u8>,
    /// What the log says.
    pub data: Vec<u8>,
}

impl LogEvent {
    /// An event whose digests are of its data.
    pub fn of(pcr: u32, kind: u32, data: &[u8]) -> Self {
        Self { pcr, kind, measured: data.to_vec(), data: data.to_vec() }
    }

    /// An event whose digests are of something else than its data.
    pub fn labelled(pcr: u32, kind: u32, measured: &[u8], label: &[u8]) -> Self {
        Self { pcr, kind, measured: measured.to_vec(), data: label.to_vec() }
    }

    /// A variable of Secure Boot, EV_EFI_VARIABLE_DRIVER_CONFIG in PCR 7.
    pub fn variable(guid: &[u8; 16], name: &str, value: &[u8]) -> Self {
        Self::of(7, 0x8000_0001, &variable_data(guid, name, value))
    }
}

/// UEFI_VARIABLE_DATA.
pub fn variable_data(guid: &[u8; 16], name: &str, value: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut data = guid.to_vec();
    data.extend((name.len() as u64 / 2).to_le_bytes());
    data.extend((value.len() as u64).to_le_bytes());
    data.extend(name);
    data.extend(value);
    data
}

/// A log in the making.
#[derive(Clone, Debug)]
pub struct LogBuilder {
    banks: Vec<LogBank>,
    bytes: Vec<u8>,
    pcrs: BTreeMap<LogBank, BTreeMap<u8, Vec<u8>>>,
}

impl LogBuilder {
    /// A log that begins with a Spec ID header of these banks.
    pub fn new(banks: &[LogBank]) -> Self {
        let mut header = b"Spec ID Event03\0".to_vec();
        header.extend([0, 0, 0, 0, 0, 2, 0, 2]); // Platform class, version 2.0, errata, 64 bits.
        header.extend((banks.len() as u32).to_le_bytes());
        for bank in banks {
            header.extend(bank.id().to_le_bytes());
            header.extend((bank.hash(&[]).len() as u16).to_le_bytes());
        }
        header.push(0);
        let mut bytes = vec![0; 4];
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend([0; 20]);
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend(header);
        let pcrs = banks.iter().map(|bank| (*bank, BTreeMap::new())).collect();
        Self { banks: banks.to_vec(), bytes, pcrs }
    }

    /// Says which locality started the TPM; before anything else.
    pub fn startup_locality(&mut self, locality: u8) {
        let mut data = b"StartupLocality\0".to_vec();
        data.push(locality);
        self.write(0, 3, &self.banks.clone(), &data, |bank| vec![0; bank.hash(&[]).len()]);
        for (bank, pcrs) in &mut self.pcrs {
            let mut value = vec![0; bank.hash(&[]).len()];
            *value.last_mut().unwrap() = locality;
            pcrs.insert(0, value);
        }
    }

    /// Logs and extends an event in every bank.
    pub fn event(&mut self, event: &LogEvent) {
        self.event_in(event, &self.banks.clone());
    }

    /// Logs and extends an event in some banks only.
    pub fn event_in(&mut self, event: &LogEvent, banks: &[LogBank]) {
        self.write(event.pcr, event.kind, banks, &event.data, |bank| bank.hash(&[&event.measured]));
        for bank in banks.iter().filter(|_| event.kind != 3) {
            let value = self.pcrs.entry(*bank).or_default().entry(u8::try_from(event.pcr).unwrap());
            let value = value.or_insert_with(|| vec![0; bank.hash(&[]).len()]);
            *value = bank.hash(&[value, &bank.hash(&[&event.measured])]);
        }
    }

    fn write(&mut self, pcr: u32, kind: u32, banks: &[LogBank], data: &[u8], digest: impl Fn(LogBank) -> Vec<u8>) {
        self.bytes.extend(pcr.to_le_bytes());
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((banks.len() as u32).to_le_bytes());
        for bank in banks {
            self.bytes.extend(bank.id().to_le_bytes());
            self.bytes.extend(digest(*bank));
        }
        self.bytes.extend((data.len() as u32).to_le_bytes());
        self.bytes.extend(data);
    }

    /// The log's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    /// The values of the PCRs that were extended, in one bank.
    pub fn pcrs(&self, bank: LogBank) -> BTreeMap<u8, Vec<u8>> {
        self.pcrs.get(&bank).cloned().unwrap_or_default()
    }
}

/// EFI_GLOBAL_VARIABLE.
pub const GLOBAL: [u8; 16] = *b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";

/// EFI_IMAGE_SECURITY_DATABASE_GUID.
pub const SECURITY_DATABASE: [u8; 16] = *b"\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f";

/// An EFI_SIGNATURE_LIST of type `kind`.
pub fn signature_list(kind: &[u8; 16], vendor_header: &[u8], signatures: &[&[u8]]) -> Vec<u8> {
    let size = signatures.first().map_or(17, |signature| signature.len() + 16) as u32;
    let body = size * signatures.len() as u32;
    let mut list = kind.to_vec();
    list.extend((28 + vendor_header.len() as u32 + body).to_le_bytes());
    list.extend((vendor_header.len() as u32).to_le_bytes());
    list.extend(size.to_le_bytes());
    list.extend(vendor_header);
    for signature in signatures {
        list.extend([7; 16]);
        list.extend(*signature);
    }
    list
}

/// EFI_CERT_X509_GUID.
pub const CERT_X509: [u8; 16] = *b"\xa1\x59\xc0\xa5\xe4\x94\xa7\x4a\x87\xb5\xab\x15\x5c\x2b\xf0\x72";

/// EFI_CERT_SHA256_GUID.
pub const CERT_SHA256: [u8; 16] = *b"\x26\x16\xc4\xc1\x4c\x50\x92\x40\xac\xa9\x41\xf9\x36\x93\x43\x28";

/// The events of an ordinary boot: Secure Boot as said, separators, shim, GRUB, kernel, initrd, command line.
pub fn boot_events(secure_boot: bool, command_line: &str) -> Vec<LogEvent> {
    let mut events = vec![LogEvent::of(0, 0x8, b"1\0.\x000\0\0\0")];
    events.push(LogEvent::variable(&GLOBAL, "SecureBoot", &[u8::from(secure_boot)]));
    for (guid, name, der) in [(&GLOBAL, "PK", b"pk "), (&GLOBAL, "KEK", b"kek"), (&SECURITY_DATABASE, "db", b"db ")] {
        events.push(LogEvent::variable(guid, name, &signature_list(&CERT_X509, &[], &[der])));
    }
    events.push(LogEvent::variable(
        &SECURITY_DATABASE,
        "dbx",
        &signature_list(&CERT_SHA256, &[], &[&[9; 32], &[8; 32]]),
    ));
    events.push(LogEvent::of(4, 0x8000_0007, b"Calling EFI Application from Boot Option"));
    events.extend((0..8).map(|pcr| LogEvent::of(pcr, 0x4, &[0; 4])));
    events.push(LogEvent::of(5, 0x8000_0006, b"EFI PART and so on"));
    let shim = *b"\x50\xab\x5d\x60\x46\xe0\x00\x43\xab\xb6\x3d\xd8\x10\xdd\x8b\x23";
    events.push(LogEvent::of(7, 0x8000_00e0, &variable_data(&shim, "SbatLevel", b"sbat,1,2021030218\n")));
    events.push(LogEvent::labelled(4, 0x8000_0003, b"shim", b"a device path"));
    events.push(LogEvent::labelled(14, 0xd, b"no keys", b"MokList\0"));
    events.push(LogEvent::labelled(4, 0x8000_0003, b"kernel", b"a device path"));
    let linux = format!("linux {command_line}");
    events.push(LogEvent::labelled(8, 0xd, linux.as_bytes(), format!("grub_cmd: {linux}\0").as_bytes()));
    events.push(LogEvent::labelled(9, 0xd, b"vmlinuz", b"(hd0,gpt1)/vmlinuz\0"));
    let line = format!("kernel_cmdline: {command_line}\0");
    events.push(LogEvent::labelled(8, 0xd, command_line.as_bytes(), line.as_bytes()));
    let tag = [&0x8f3b_22ec_u32.to_le_bytes()[..], &13_u32.to_le_bytes(), b"Linux initrd\0"].concat();
    events.push(LogEvent::labelled(9, 0x6, b"initrd", &tag));
    events.push(LogEvent::of(5, 0x8000_0007, b"Exit Boot Services Invocation"));
    events.push(LogEvent::of(5, 0x8000_0007, b"Exit Boot Services Returned with Success"));
    events
}

/// The log of an ordinary boot.
pub fn boot_log(banks: &[LogBank], secure_boot: bool, command_line: &str) -> LogBuilder {
    let mut log = LogBuilder::new(banks);
    boot_events(secure_boot, command_line).iter().for_each(|event| log.event(event));
    log
}
