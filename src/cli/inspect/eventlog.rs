//! Event logs of measured boot (PC Client PFP 1.06, 10): the story, the events, and the PCR values they replay to.

use std::borrow::Cow;
use std::collections::BTreeMap;

use countersign_attestation::evidence::tpm::algorithm::TpmHash;
use countersign_attestation::reader::{ReadError, Reader};

use super::document::{Part, Standing, Table, Text, Value};
use super::{Unreadable, algorithm, narrative, quote, uefi};

/// Events of one log. Real logs have some hundreds.
const EVENTS_MAX: usize = 16_384;

/// Bytes of event data that are shown where no text is in them.
const SHOWN_BYTES: usize = 24;

/// Event types (PFP 10.4.1).
pub(super) mod kind {
    pub(crate) const NO_ACTION: u32 = 3;
    pub(crate) const SEPARATOR: u32 = 4;
    pub(crate) const ACTION_BIOS: u32 = 5;
    pub(crate) const EVENT_TAG: u32 = 6;
    pub(crate) const S_CRTM_VERSION: u32 = 8;
    pub(crate) const IPL: u32 = 0xd;
    pub(crate) const VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
    pub(crate) const VARIABLE_BOOT: u32 = 0x8000_0002;
    pub(crate) const BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
    pub(crate) const BOOT_SERVICES_DRIVER: u32 = 0x8000_0004;
    pub(crate) const RUNTIME_SERVICES_DRIVER: u32 = 0x8000_0005;
    pub(crate) const GPT: u32 = 0x8000_0006;
    pub(crate) const ACTION: u32 = 0x8000_0007;
    pub(crate) const HCRTM: u32 = 0x8000_0010;
    pub(crate) const VARIABLE_AUTHORITY: u32 = 0x8000_00e0;
}

const NAMES: [(u32, &str); 37] = [
    (0, "EV_PREBOOT_CERT"),
    (1, "EV_POST_CODE"),
    (2, "EV_UNUSED"),
    (kind::NO_ACTION, "EV_NO_ACTION"),
    (kind::SEPARATOR, "EV_SEPARATOR"),
    (kind::ACTION_BIOS, "EV_ACTION"),
    (kind::EVENT_TAG, "EV_EVENT_TAG"),
    (7, "EV_S_CRTM_CONTENTS"),
    (kind::S_CRTM_VERSION, "EV_S_CRTM_VERSION"),
    (9, "EV_CPU_MICROCODE"),
    (0xa, "EV_PLATFORM_CONFIG_FLAGS"),
    (0xb, "EV_TABLE_OF_DEVICES"),
    (0xc, "EV_COMPACT_HASH"),
    (kind::IPL, "EV_IPL"),
    (0xe, "EV_IPL_PARTITION_DATA"),
    (0xf, "EV_NONHOST_CODE"),
    (0x10, "EV_NONHOST_CONFIG"),
    (0x11, "EV_NONHOST_INFO"),
    (0x12, "EV_OMIT_BOOT_DEVICE_EVENTS"),
    (0x13, "EV_POST_CODE2"),
    (kind::VARIABLE_DRIVER_CONFIG, "EV_EFI_VARIABLE_DRIVER_CONFIG"),
    (kind::VARIABLE_BOOT, "EV_EFI_VARIABLE_BOOT"),
    (kind::BOOT_SERVICES_APPLICATION, "EV_EFI_BOOT_SERVICES_APPLICATION"),
    (kind::BOOT_SERVICES_DRIVER, "EV_EFI_BOOT_SERVICES_DRIVER"),
    (kind::RUNTIME_SERVICES_DRIVER, "EV_EFI_RUNTIME_SERVICES_DRIVER"),
    (kind::GPT, "EV_EFI_GPT_EVENT"),
    (kind::ACTION, "EV_EFI_ACTION"),
    (0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB"),
    (0x8000_0009, "EV_EFI_HANDOFF_TABLES"),
    (0x8000_000a, "EV_EFI_PLATFORM_FIRMWARE_BLOB2"),
    (0x8000_000b, "EV_EFI_HANDOFF_TABLES2"),
    (0x8000_000c, "EV_EFI_VARIABLE_BOOT2"),
    (0x8000_000d, "EV_EFI_GPT_EVENT2"),
    (kind::HCRTM, "EV_EFI_HCRTM_EVENT"),
    (kind::VARIABLE_AUTHORITY, "EV_EFI_VARIABLE_AUTHORITY"),
    (0x8000_00e1, "EV_EFI_SPDM_FIRMWARE_BLOB"),
    (0x8000_00e2, "EV_EFI_SPDM_FIRMWARE_CONFIG"),
];

/// The name of an event type.
pub(super) fn kind_name(kind: u32) -> String {
    let known = NAMES.iter().find(|(known, _)| *known == kind);
    known.map_or_else(|| format!("{kind:#010x}"), |(_, name)| (*name).to_owned())
}

/// Whether an event's data is what its digests are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// It is.
    Yes,
    /// It is not: something else was measured, and the data only describes it.
    No,
    /// Nothing was measured.
    Nothing,
}

/// One event.
pub(super) struct LoggedEvent<'a> {
    /// Its place in the log, from 0.
    pub(super) number: usize,
    pub(super) pcr_index: u32,
    pub(super) event_type: u32,
    /// By algorithm identifier, in the log's order.
    pub(super) digests: Vec<(u16, &'a [u8])>,
    pub(super) data: &'a [u8],
    pub(super) bound: Bound,
}

impl LoggedEvent<'_> {
    /// The digest that says most, with its algorithm's name.
    pub(super) fn best_digest(&self) -> Option<(&'static str, String)> {
        let of = |hash: &TpmHash| {
            let (_, digest) = self.digests.iter().find(|(id, _)| *id == hash.id())?;
            Some((hash.name(), hex::encode(digest)))
        };
        [TpmHash::Sha256, TpmHash::Sha384, TpmHash::Sha512, TpmHash::Sha1].iter().find_map(of)
    }

    /// Whether the data of an event of this type is what must be measured (PFP 10.4.1).
    pub(super) const fn data_is_measured(&self) -> bool {
        matches!(
            self.event_type,
            kind::SEPARATOR
                | kind::ACTION_BIOS
                | kind::S_CRTM_VERSION
                | kind::VARIABLE_DRIVER_CONFIG
                | kind::GPT
                | kind::ACTION
                | kind::VARIABLE_AUTHORITY
        )
    }
}

/// The Spec ID of a crypto-agile log, or events from the first byte to the last.
pub(super) fn recognise(bytes: &[u8]) -> bool {
    sha1_event(&mut Reader::new(bytes), 0).is_ok_and(|event| spec_id(event.data).is_some()) || read(bytes).is_ok()
}

/// The log's header, story, events and replayed PCRs.
pub(super) fn event_log(bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    let log = read(bytes)?;
    let because = "it counts where it replays to PCR values that a TPM quoted";
    let mut part = Part::new("TCG event log", Standing::Claimed, because)
        .with("format", log.format)
        .with("specID", log.spec_id.clone())
        .with("banks", Value::list(log.banks.iter().map(|id| algorithm::name(*id))))
        .with("events", log.events.len())
        .with("startupLocality", log.locality)
        .with("padding", log.padding);
    part.story = narrative::tell(&log.events);
    let rows = log.events.iter().map(row).collect();
    let columns = &["event", "pcr", "type", "digest matches data", "digest", "data"];
    part.tables.push(Table { name: "events", columns, rows });
    Ok(vec![part, replayed(&log)])
}

fn row(event: &LoggedEvent<'_>) -> Vec<Value> {
    let bound = match event.bound {
        Bound::Yes => true.into(),
        Bound::No => false.into(),
        Bound::Nothing => Value::Absent,
    };
    let digest = event.best_digest().map(|(hash, digest)| format!("{hash}:{digest}"));
    vec![
        event.number.into(),
        event.pcr_index.into(),
        kind_name(event.event_type).into(),
        bound,
        digest.into(),
        summary(event).into(),
    ]
}

/// What the data says, short.
fn summary(event: &LoggedEvent<'_>) -> Text {
    match event.event_type {
        kind::VARIABLE_DRIVER_CONFIG | kind::VARIABLE_BOOT | kind::VARIABLE_AUTHORITY => {
            if let Some(variable) = uefi::Variable::read(event.data) {
                return Text::new(&format!("{} ({} bytes)", variable.name.as_str(), variable.value.len()));
            }
        }
        kind::BOOT_SERVICES_APPLICATION | kind::BOOT_SERVICES_DRIVER | kind::RUNTIME_SERVICES_DRIVER => {
            if let Some(path) = uefi::image_path(event.data) {
                return path;
            }
        }
        _ => {}
    }
    uefi::text(event.data).unwrap_or_else(|| {
        let shown = hex::encode(event.data.get(..SHOWN_BYTES).unwrap_or(event.data));
        let more = if SHOWN_BYTES < event.data.len() { "..." } else { "" };
        Text::new(&format!("{shown}{more} ({} bytes)", event.data.len()))
    })
}

/// The values that the events extend PCRs to.
fn replayed(log: &Log<'_>) -> Part {
    let because = "what a TPM would hold after these events and no others; compare with a verified quote";
    let mut part = Part::new("Replayed PCRs", Standing::ComputedHere, because);
    let mut rows = Vec::new();
    for (bank, pcrs) in &log.replay {
        for (index, value) in pcrs {
            rows.push(vec![bank.name().into(), (*index).into(), Value::hex(value)]);
        }
    }
    part.tables.push(Table { name: "values", columns: &["bank", "pcr", "value"], rows });
    part
}

/// A log that was read.
struct Log<'a> {
    format: &'static str,
    spec_id: Option<String>,
    banks: Vec<u16>,
    events: Vec<LoggedEvent<'a>>,
    locality: Option<u8>,
    padding: usize,
    replay: BTreeMap<TpmHash, BTreeMap<u32, Vec<u8>>>,
}

/// The digests of a crypto-agile log: algorithm and size, as its header declares them.
type Declared = Vec<(u16, usize)>;

fn read(bytes: &[u8]) -> Result<Log<'_>, Unreadable> {
    let mut reader = Reader::new(bytes);
    let short = |error: ReadError| format!("event: {error}");
    let first = sha1_event(&mut reader, 0).map_err(short)?;
    let spec = if first.event_type == kind::NO_ACTION { spec_id(first.data) } else { None };
    let (format, spec_id, declared) = match spec {
        Some((spec_id, declared)) => ("crypto-agile", Some(spec_id), Some(declared)),
        None => ("sha1", None, None),
    };
    let mut events = vec![first];
    let mut padding = 0;
    while let Err(ReadError::Trailing { left, offset }) = reader.finish() {
        let rest = bytes.get(offset..).unwrap_or_default();
        // Firmware hands over its whole buffer: what it did not use is zero, or erased.
        if rest.iter().all(|byte| *byte == 0) || rest.iter().all(|byte| *byte == 0xff) {
            padding = left;
            break;
        }
        let number = events.len();
        let event = match &declared {
            Some(declared) => agile_event(&mut reader, number, declared),
            None => sha1_event(&mut reader, number).map_err(short),
        };
        events.push(event.map_err(|why| format!("event {number}: {why}"))?);
        if EVENTS_MAX < events.len() {
            return Err(format!("more than {EVENTS_MAX} events"));
        }
    }
    if events.iter().any(|event| 31 < event.pcr_index && event.pcr_index != u32::MAX) {
        return Err("an event of a PCR that no TPM has".to_owned());
    }
    let banks = declared.map_or_else(|| vec![TpmHash::Sha1.id()], |all| all.iter().map(|(id, _)| *id).collect());
    let locality = locality(&events);
    let replay = replay(&events, locality);
    Ok(Log { format, spec_id, banks, events, locality, padding, replay })
}

/// TCG_PCR_EVENT (PFP 10.2.1).
fn sha1_event<'a>(reader: &mut Reader<'a>, number: usize) -> Result<LoggedEvent<'a>, ReadError> {
    let (pcr_index, event_type) = (reader.u32_le()?, reader.u32_le()?);
    let digests = vec![(TpmHash::Sha1.id(), reader.bytes(20)?)];
    let data = event_data(reader)?;
    Ok(LoggedEvent::new(number, pcr_index, event_type, digests, data))
}

/// TCG_PCR_EVENT2 (PFP 10.2.2).
fn agile_event<'a>(reader: &mut Reader<'a>, number: usize, declared: &Declared) -> Result<LoggedEvent<'a>, Unreadable> {
    let short = |error: ReadError| error.to_string();
    let (pcr_index, event_type) = (reader.u32_le().map_err(short)?, reader.u32_le().map_err(short)?);
    let count = reader.u32_le().map_err(short)?;
    let mut digests = Vec::new();
    for _ in 0..count {
        let id = reader.array().map(u16::from_le_bytes).map_err(short)?;
        let size = declared.iter().find(|(declared, _)| *declared == id).map(|(_, size)| *size);
        let size =
            size.ok_or_else(|| format!("a digest of {}, which the header does not declare", algorithm::name(id)))?;
        digests.push((id, reader.bytes(size).map_err(short)?));
    }
    let data = event_data(reader).map_err(short)?;
    Ok(LoggedEvent::new(number, pcr_index, event_type, digests, data))
}

fn event_data<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], ReadError> {
    let size = reader.u32_le()?;
    reader.bytes(usize::try_from(size).unwrap_or(usize::MAX))
}

impl<'a> LoggedEvent<'a> {
    fn new(number: usize, pcr_index: u32, event_type: u32, digests: Vec<(u16, &'a [u8])>, data: &'a [u8]) -> Self {
        let known = digests.iter().filter_map(|(id, value)| Some((TpmHash::from_id(*id).ok()?, *value)));
        let mut known: Vec<_> = known.collect();
        // The strongest one decides: who can collide SHA-1 cannot make the other fit.
        known.sort_by_key(|(hash, _)| hash.size());
        let bound = match known.last() {
            Some((hash, value)) if event_type != kind::NO_ACTION => {
                if measured_forms(event_type, data).iter().any(|form| quote::digest(*hash, form) == *value) {
                    Bound::Yes
                } else {
                    Bound::No
                }
            }
            Some(_) | None => Bound::Nothing,
        };
        Self { number, pcr_index, event_type, digests, data, bound }
    }
}

/// Before what GRUB measures, in the event that tells of it: upstream's, then Red Hat's.
pub(super) const GRUB_COMMAND: [&str; 2] = ["grub_cmd: ", "grub_cmd "];
/// Likewise for what it gives to kernels and their modules.
pub(super) const GRUB_CMDLINE: [&str; 3] = ["kernel_cmdline: ", "grub_kernel_cmdline ", "module_cmdline: "];

/// What may have been measured where the data tells of it: all of it; the variable's value alone, as older firmware
/// does; the text behind GRUB's prefix; the name of a section, which systemd-stub measures as ASCII and logs as UTF-16;
/// the command line, whose last NUL older systemd-boot logs by half.
fn measured_forms(event_type: u32, data: &[u8]) -> Vec<Cow<'_, [u8]>> {
    let mut forms = vec![Cow::Borrowed(data)];
    match event_type {
        kind::VARIABLE_DRIVER_CONFIG | kind::VARIABLE_BOOT | kind::VARIABLE_AUTHORITY => {
            forms.extend(uefi::Variable::read(data).map(|variable| Cow::Borrowed(variable.value)));
        }
        kind::IPL => {
            let prefixes = GRUB_COMMAND.iter().chain(&GRUB_CMDLINE);
            if let Some(command) = prefixes.into_iter().find_map(|prefix| data.strip_prefix(prefix.as_bytes())) {
                forms.push(Cow::Borrowed(command));
                forms.extend(command.strip_suffix(&[0]).map(Cow::Borrowed));
            } else if data.get(1) == Some(&0) {
                forms.push(Cow::Owned(data.iter().step_by(2).copied().collect()));
                forms.push(Cow::Owned([data, &[0]].concat()));
            }
        }
        _ => {}
    }
    forms
}

/// TCG_EfiSpecIDEvent (PFP 10.4.5.1).
fn spec_id(data: &[u8]) -> Option<(String, Declared)> {
    let mut reader = Reader::new(data.strip_prefix(b"Spec ID Event03\0")?);
    let _platform_class = reader.u32_le().ok()?;
    let [minor, major, errata, uintn] = reader.array().ok()?;
    let mut declared = Vec::new();
    for _ in 0..reader.u32_le().ok()? {
        let id = reader.array().map(u16::from_le_bytes).ok()?;
        declared.push((id, usize::from(reader.array().map(u16::from_le_bytes).ok()?)));
    }
    Some((format!("{major}.{minor} errata {errata} uintn {uintn}"), declared))
}

/// Where PCR 0 starts: as StartupLocality says, or 4 where an H-CRTM measured before the TPM was started.
fn locality(events: &[LoggedEvent<'_>]) -> Option<u8> {
    let said = events.iter().find_map(|event| match event.data.strip_prefix(b"StartupLocality\0") {
        Some([locality]) if event.event_type == kind::NO_ACTION => Some(*locality),
        Some(_) | None => None,
    });
    said.or_else(|| events.iter().any(|event| event.event_type == kind::HCRTM && event.pcr_index == 0).then_some(4))
}

fn replay(events: &[LoggedEvent<'_>], locality: Option<u8>) -> BTreeMap<TpmHash, BTreeMap<u32, Vec<u8>>> {
    let mut banks: BTreeMap<TpmHash, BTreeMap<u32, Vec<u8>>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.event_type != kind::NO_ACTION && event.pcr_index < 24) {
        for (id, digest) in &event.digests {
            let Ok(hash) = TpmHash::from_id(*id) else { continue };
            let value = banks.entry(hash).or_default().entry(event.pcr_index).or_insert_with(|| {
                let mut start = vec![0; hash.size()];
                if let (0, Some(last), Some(locality)) = (event.pcr_index, start.last_mut(), locality) {
                    *last = locality;
                }
                start
            });
            let extended = [value.as_slice(), digest].concat();
            *value = quote::digest(hash, &extended);
        }
    }
    banks
}
