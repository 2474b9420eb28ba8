//! Event logs of measured boot (PC Client PFP 1.06, 10): the story, the events, and the PCR values they replay to.

use std::borrow::Cow;

use countersign_attestation::evidence::eventlog::{Digests, Event, EventLog, EventType, is_digest_of};
use countersign_attestation::evidence::tpm::algorithm::TpmHash;

use super::document::{Part, Standing, Table, Text, Value};
use super::{Unreadable, narrative, uefi};

/// Bytes of event data that are shown where no text is in them.
const SHOWN_BYTES: usize = 24;

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
    pub(super) event_type: EventType,
    pub(super) digests: Digests<'a>,
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
}

/// The Spec ID of a crypto-agile log, or SHA-1 events from the first byte to the last; the first one says something.
pub(super) fn recognise(bytes: &[u8]) -> bool {
    let spec_id = bytes.get(32..).is_some_and(|data| data.starts_with(b"Spec ID Event"));
    let says = |log: EventLog<'_>| log.events().next().is_some_and(|event| !event.data.is_empty());
    spec_id || EventLog::parse(bytes).is_ok_and(says)
}

/// The log's header, story, events and replayed PCRs.
pub(super) fn event_log(bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    let log = EventLog::parse(bytes).map_err(|rejection| rejection.to_string())?;
    let events = events(&log);
    if events.is_empty() {
        return Err("no event, only padding".to_owned());
    }
    let because = "it counts where it replays to PCR values that a TPM quoted";
    let mut part = Part::new("TCG event log", Standing::Claimed, because)
        .with("format", log.format().name())
        .with("specID", log.spec_id().map(|spec_id| spec_id.to_string()))
        .with("banks", Value::list(log.banks().iter().map(|bank| bank.name())))
        .with("events", log.event_count())
        .with("startupLocality", log.startup_locality())
        .with("padding", log.trailing_padding());
    part.story = narrative::tell(&events, "PCR");
    let rows = events.iter().map(|event| row(event, event.pcr_index.into())).collect();
    let columns = &["event", "pcr", "type", "digest matches data", "digest", "data"];
    part.tables.push(Table { name: "events", columns, rows });
    Ok(vec![part, replayed(&log)])
}

/// An event as a row of a table, with its register.
pub(super) fn row(event: &LoggedEvent<'_>, register: Value) -> Vec<Value> {
    let bound = match event.bound {
        Bound::Yes => true.into(),
        Bound::No => false.into(),
        Bound::Nothing => Value::Absent,
    };
    let digest = event.best_digest().map(|(hash, digest)| format!("{hash}:{digest}"));
    vec![
        event.number.into(),
        register,
        event.event_type.to_string().into(),
        bound,
        digest.into(),
        summary(event).into(),
    ]
}

/// What the data says, short.
fn summary(event: &LoggedEvent<'_>) -> Text {
    match event.event_type {
        EventType::EV_EFI_VARIABLE_DRIVER_CONFIG
        | EventType::EV_EFI_VARIABLE_BOOT
        | EventType::EV_EFI_VARIABLE_AUTHORITY => {
            if let Some(variable) = uefi::Variable::read(event.data) {
                return Text::new(&format!("{} ({} bytes)", variable.name.as_str(), variable.value.len()));
            }
        }
        EventType::EV_EFI_BOOT_SERVICES_APPLICATION
        | EventType::EV_EFI_BOOT_SERVICES_DRIVER
        | EventType::EV_EFI_RUNTIME_SERVICES_DRIVER => {
            if let Some(path) = uefi::image_path(event.data) {
                return path;
            }
        }
        DSTACK_RUNTIME => {
            if let Some(said) = dstack_event(event.data) {
                return said;
            }
        }
        _ => {}
    }
    text_or_hex(event.data)
}

/// Text as it is; the beginning of anything else.
fn text_or_hex(data: &[u8]) -> Text {
    uefi::text(data).unwrap_or_else(|| {
        let shown = hex::encode(data.get(..SHOWN_BYTES).unwrap_or(data));
        let more = if SHOWN_BYTES < data.len() { "..." } else { "" };
        Text::new(&format!("{shown}{more} ({} bytes)", data.len()))
    })
}

/// Type of the events that dstack extends while a trust domain runs.
const DSTACK_RUNTIME: EventType = EventType(0x0800_0001);

/// What dstack hashes: the type, the event's name and its payload, with colons between them.
fn dstack_event(data: &[u8]) -> Option<Text> {
    let rest = data.strip_prefix(&DSTACK_RUNTIME.0.to_le_bytes())?.strip_prefix(b":")?;
    let at = rest.iter().position(|byte| *byte == b':')?;
    let (name, payload) = rest.split_at_checked(at)?;
    let (name, payload) = (Text::of_bytes(name), payload.get(1..)?);
    // Both were escaped already.
    Some(if payload.is_empty() { name } else { name.then(": ").then(text_or_hex(payload).as_str()) })
}

/// The values that the events extend PCRs to.
fn replayed(log: &EventLog<'_>) -> Part {
    let because = "what a TPM would hold after these events and no others; compare with a verified quote";
    let mut part = Part::new("Replayed PCRs", Standing::ComputedHere, because);
    let mut rows = Vec::new();
    for bank in log.replay().banks() {
        for (index, value) in bank.extended() {
            rows.push(vec![bank.hash().name().into(), index.into(), Value::hex(value)]);
        }
    }
    part.tables.push(Table { name: "values", columns: &["bank", "pcr", "value"], rows });
    part
}

/// The events of a log, each with whether its data was measured.
pub(super) fn events<'a>(log: &EventLog<'a>) -> Vec<LoggedEvent<'a>> {
    log.events().zip(0..).map(|(event, number)| LoggedEvent::new(number, event)).collect()
}

impl<'a> LoggedEvent<'a> {
    fn new(number: usize, event: Event<'a>) -> Self {
        let Event { pcr_index, event_type, digests, data } = event;
        let known = digests.iter().filter_map(|(id, value)| Some((TpmHash::from_id(id).ok()?, value)));
        let mut known: Vec<_> = known.collect();
        // The strongest one decides: who can collide SHA-1 cannot make the other fit.
        known.sort_by_key(|(hash, _)| hash.size());
        let bound = match known.last() {
            Some((hash, value)) if event.is_extended() => {
                if measured_forms(event_type, data).iter().any(|form| is_digest_of(*hash, value, &[form])) {
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
fn measured_forms(event_type: EventType, data: &[u8]) -> Vec<Cow<'_, [u8]>> {
    let mut forms = vec![Cow::Borrowed(data)];
    match event_type {
        EventType::EV_EFI_VARIABLE_DRIVER_CONFIG
        | EventType::EV_EFI_VARIABLE_BOOT
        | EventType::EV_EFI_VARIABLE_AUTHORITY => {
            forms.extend(uefi::Variable::read(data).map(|variable| Cow::Borrowed(variable.value)));
        }
        EventType::EV_IPL => {
            let prefixes = GRUB_COMMAND.iter().chain(&GRUB_CMDLINE);
            if let Some(command) = prefixes.into_iter().find_map(|prefix| data.strip_prefix(prefix.as_bytes())) {
                forms.push(Cow::Borrowed(command));
                // Red Hat's logs a byte of what lies behind the NUL, and may have hashed that NUL.
                let until_nul = command.split(|byte| *byte == 0).next().unwrap_or(command);
                forms.push(Cow::Borrowed(until_nul));
                forms.extend(command.get(..until_nul.len().saturating_add(1)).map(Cow::Borrowed));
            } else if data.get(1) == Some(&0) {
                forms.push(Cow::Owned(data.iter().step_by(2).copied().collect()));
                forms.push(Cow::Owned([data, &[0]].concat()));
            }
        }
        _ => {}
    }
    forms
}
