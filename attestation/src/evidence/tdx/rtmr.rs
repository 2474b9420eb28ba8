//! Event logs of trust domains: CCEL as firmware writes it (UEFI 2.10, 38.2.4: TCG_PCR_EVENT2 with SHA-384 alone), and
//! dstack's JSON of the same events. A log proves nothing: it is worth what its replay to the registers of a verified
//! quote makes it worth, register by register, and then only digests are attested.

use alloc::borrow::Cow;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::claims::HexBytes;
use crate::evidence::eventlog::{BankReplay, BootClaims, Event, EventLog, EventType, check_data, is_digest_of};
use crate::evidence::eventlog::{data::Variable, registers};
use crate::evidence::tpm::algorithm::TpmHash;
use crate::rejection::{Rejection, reasons};

use super::body::Measurement;
use super::claims::TdxClaims;
use super::recorded::RecordedTdQuote;

reasons! {
    /// Why the event log of a trust domain is not believed.
    RtmrReason {
        /// UEFI 2.10, 38.2.4.
        Format = "rtmr.log.format",
            "the log is not the crypto-agile log of a trust domain, with SHA-384 alone",
            "send /sys/firmware/acpi/tables/data/CCEL unchanged";
        /// 0 is MRTD, 1 to 4 are RTMR0 to RTMR3.
        Register = "rtmr.log.register",
            "an event was extended into a register that a trust domain does not have",
            "send /sys/firmware/acpi/tables/data/CCEL unchanged";
        /// Nothing could be replayed.
        Digest = "rtmr.log.digest",
            "an event was extended without a SHA-384 digest",
            "send /sys/firmware/acpi/tables/data/CCEL unchanged";
        /// dstack.
        Json = "rtmr.log.json",
            "the JSON log does not have the form of dstack's",
            "send the event log as dstack's guest agent returns it";
        /// A register at zero is what any log without events gives.
        Empty = "rtmr.log.empty",
            "the log extends none of the registers, and proves nothing of those that are zero",
            "send the log of this boot; where the firmware measures into no register, rely on the virtual TPM's PCRs";
        /// Register by register.
        Replay = "rtmr.replay",
            "the log does not give the quoted value of a register",
            "send the log of this boot with all its events; if it is, find out what extended the register without one";
        /// The digest was measured, the words are another's.
        DataEdited = "rtmr.data_edited",
            "an event's data is not what was measured",
            "send the log as it was recorded; if it is, treat the host as tampered with";
    }
}

/// Registers that are extended while a trust domain runs.
pub const RTMRS: usize = 4;

/// Type of the events that dstack extends RTMR3 with.
const DSTACK_RUNTIME: EventType = EventType(0x0800_0001);

/// How a log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogForm {
    /// The firmware's own, binary.
    Ccel,
    /// dstack's JSON.
    Dstack,
}

/// A log whose form was checked to its end.
#[derive(Clone, Debug)]
pub struct RegisterLog<'a> {
    form: LogForm,
    /// The log as firmware writes it, where it came as something else too.
    bytes: Cow<'a, [u8]>,
    values: [Measurement; RTMRS],
    /// One bit for each register index, MRTD's 0 among them.
    extended: u8,
    events: usize,
    padding: usize,
}

impl<'a> RegisterLog<'a> {
    /// Reads a log of either form.
    ///
    /// # Errors
    /// An [`RtmrReason`], or an [`EventLogReason`](crate::evidence::eventlog::EventLogReason) for a form that ends
    /// where it may not.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Rejection> {
        // A binary log begins with a register's index, and there is no register 0x5b nor one of white space.
        let (form, bytes) = match bytes.trim_ascii_start().first() {
            Some(b'[') => (LogForm::Dstack, Cow::Owned(dstack_as_ccel(bytes)?)),
            Some(_) | None => (LogForm::Ccel, Cow::Borrowed(bytes)),
        };
        let log = EventLog::parse(&bytes)?;
        let (values, extended) = replay(&log)?;
        let (events, padding) = (log.event_count().saturating_sub(1), log.trailing_padding());
        Ok(Self { form, bytes, values, extended, events, padding })
    }

    /// How the log is written.
    #[must_use]
    pub const fn form(&self) -> LogForm {
        self.form
    }

    /// The values of RTMR0 to RTMR3 after exactly these events.
    #[must_use]
    pub const fn values(&self) -> &[Measurement; RTMRS] {
        &self.values
    }

    /// The log as firmware writes it: the bytes that were read, or what dstack's JSON says in that form.
    #[must_use]
    pub fn binary(&self) -> &[u8] {
        &self.bytes
    }

    /// Indexes that events were extended into: 0 is MRTD, 1 to 4 are RTMR0 to RTMR3.
    pub fn register_indexes(&self) -> impl Iterator<Item = u8> {
        let extended = self.extended;
        (0..=4).filter(move |index| extended >> index & 1 == 1)
    }

    /// Number of events, the header not among them.
    #[must_use]
    pub const fn events(&self) -> usize {
        self.events
    }

    /// Offset of the first byte after the last event of a binary log.
    #[must_use]
    pub fn end(&self) -> usize {
        self.bytes.len().saturating_sub(self.padding)
    }

    /// Refuses a log that extends none of RTMR0 to RTMR3.
    ///
    /// # Errors
    /// [`RtmrReason::Empty`].
    pub fn check_extends(&self) -> Result<(), Rejection> {
        if self.extended >> 1 == 0 {
            return Err(RtmrReason::Empty.because("events of at least one register", "none"));
        }
        Ok(())
    }

    /// Refuses data that its digest says was edited.
    ///
    /// # Errors
    /// [`RtmrReason::DataEdited`] or [`EventLogReason::DataEdited`](crate::evidence::eventlog::EventLogReason).
    pub fn check_data(&self) -> Result<(), Rejection> {
        for event in EventLog::parse(&self.bytes)?.events().filter(Event::is_extended) {
            // dstack leaves out what firmware measured; there is nothing to be misled by.
            if self.form == LogForm::Dstack && event.data.is_empty() {
                continue;
            }
            check_data(&event, TpmHash::Sha384)?;
            check_strict(&event)?;
        }
        Ok(())
    }
}

/// What hashes to its digest in trust domains beyond what does everywhere: their firmware is younger than the
/// exceptions, but for shim, which hashes a byte less than it logs.
fn check_strict(event: &Event<'_>) -> Result<(), Rejection> {
    let digest = event.digest(TpmHash::Sha384).unwrap_or_default();
    let bound = |data: &[u8]| is_digest_of(TpmHash::Sha384, digest, &[data]);
    let fine = match event.event_type {
        EventType::EV_EFI_VARIABLE_AUTHORITY => {
            let shorter = event.data.split_last().map_or(event.data, |(_, rest)| rest);
            let value = Variable::read(event.data).map_or(event.data, |variable| variable.value);
            [event.data, shorter, value].into_iter().any(bound)
        }
        DSTACK_RUNTIME => bound(event.data),
        EventType(_) => true,
    };
    if fine {
        return Ok(());
    }
    let what = format!("{} of register {}: data that hashes to its digest", event.event_type, event.pcr_index);
    Err(RtmrReason::DataEdited.because(what, "other data"))
}

/// The registers after the log. The start value of each is zero.
fn replay(log: &EventLog<'_>) -> Result<([Measurement; RTMRS], u8), Rejection> {
    let banks = log.banks();
    if log.spec_id().is_none() || !matches!(banks, [bank] if bank.algorithm == TpmHash::Sha384.id()) {
        let found: Vec<_> = banks.iter().map(|bank| bank.name()).collect();
        return Err(RtmrReason::Format.because("a Spec ID header with sha384 alone", found.join(", ")));
    }
    let mut extended = 0_u8;
    for event in log.events().filter(Event::is_extended) {
        if 4 < event.pcr_index {
            return Err(RtmrReason::Register.because("an index from 0 (MRTD) to 4 (RTMR3)", event.pcr_index));
        }
        if event.digest(TpmHash::Sha384).is_none() {
            return Err(RtmrReason::Digest.because("a digest", format!("none in a {}", event.event_type)));
        }
        extended |= 1_u8.checked_shl(event.pcr_index).unwrap_or_default();
    }
    let replayed = log.replay_bank(TpmHash::Sha384);
    Ok(([1, 2, 3, 4].map(|index| value(&replayed, index)), extended))
}

fn value(replayed: &BankReplay, index: u8) -> Measurement {
    let value = replayed.value(index).and_then(<[u8]>::first_chunk);
    value.copied().unwrap_or([0; 48])
}

/// An event that a trust domain extended into RTMR3 while it ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "form")]
pub enum RuntimeEvent {
    /// dstack's: name and payload are what the digest is of.
    Dstack {
        /// Name of the event.
        event: String,
        /// Its payload.
        payload: HexBytes,
    },
    /// Data that is what the digest is of.
    Data {
        /// The data.
        data: HexBytes,
    },
    /// Something else was measured than what the log says of it.
    Digest {
        /// The digest.
        digest: HexBytes,
    },
}

/// What a log says, as far as the registers of a quote explain it. [`verify`] is what makes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RtmrClaims {
    /// How the log is written.
    pub form: LogForm,
    /// Registers that the log extends and gives the quoted value of.
    pub replayed: BTreeSet<u8>,
    /// Registers with a value of which the log says nothing; nothing is claimed of them.
    pub unexplained: BTreeSet<u8>,
    /// What the boot was. PCR numbers stand for the register that holds what a TPM would there; a list that cannot be
    /// known to be whole is unknown.
    pub boot: BootClaims,
    /// Kernel command lines that were measured. Where [`BootClaims::command_lines`] is unknown there may be more of
    /// them, among the digests of [`BootClaims::files`].
    pub command_lines: Vec<String>,
    /// What was extended into RTMR3, in its order.
    pub runtime: Vec<RuntimeEvent>,
}

impl RtmrClaims {
    /// Refuses registers that hold something the log does not tell of.
    ///
    /// # Errors
    /// [`RtmrReason::Replay`].
    pub fn check_whole(&self) -> Result<(), Rejection> {
        match self.unexplained.first() {
            None => Ok(()),
            Some(register) => {
                Err(RtmrReason::Replay.because(format!("events of RTMR{register}, which is not zero"), "none"))
            }
        }
    }
}

/// Holds a log against the registers of a verified quote. What it extends must give exactly what was quoted; RTMR0 and
/// RTMR1, which firmware alone extends, must be told of where they are not zero; of RTMR2 and RTMR3 nothing is claimed
/// where the log says nothing of them.
///
/// What the boot was is the firmware's word: it is worth what MRTD, the firmware's measurement, is worth.
///
/// # Errors
/// See [`RegisterLog::read`], and the reasons of a replay.
pub fn verify(log: &[u8], quote: &TdxClaims) -> Result<RtmrClaims, Rejection> {
    let mut quoted = [[0; 48]; RTMRS];
    for (to, from) in quoted.iter_mut().zip(&quote.rtmrs) {
        let value = from.0.as_slice().try_into();
        *to = value.map_err(|_| RtmrReason::Replay.because("registers of 48 bytes", from.0.len()))?;
    }
    verify_registers(log, &quoted)
}

/// Holds a log against the registers of a recorded quote that came without collateral.
///
/// # Errors
/// See [`RegisterLog::read`], and the reasons of a replay.
pub fn verify_recorded(log: &[u8], quote: &RecordedTdQuote) -> Result<RtmrClaims, Rejection> {
    verify_registers(log, &quote.report().rtmrs)
}

/// As [`verify`]; the caller has verified where `quoted` is from.
///
/// # Errors
/// As there.
pub fn verify_registers(log: &[u8], quoted: &[Measurement; RTMRS]) -> Result<RtmrClaims, Rejection> {
    let log = RegisterLog::read(log)?;
    log.check_extends()?;
    let (mut replayed, mut unexplained) = (BTreeSet::new(), BTreeSet::new());
    for (register, (value, signed)) in (0_u8..).zip(log.values.iter().zip(quoted)) {
        let is_extended = log.extended >> register.saturating_add(1) & 1 == 1;
        match (is_extended, value == signed) {
            (true, true) => drop(replayed.insert(register)),
            // Zero, and no event: any log gives that, and so it proves nothing.
            (false, true) => {}
            (false, false) if 2 <= register => drop(unexplained.insert(register)),
            (true | false, false) => {
                let expected = format!("RTMR{register} as quoted, {}", hex::encode(signed));
                return Err(RtmrReason::Replay.because(expected, hex::encode(value)));
            }
        }
    }
    log.check_data()?;
    let parsed = EventLog::parse(&log.bytes)?;
    let mask = replayed.iter().filter_map(|register| 1_u32.checked_shl(u32::from(*register))).sum();
    let (boot, command_lines) = registers::tell(parsed, mask);
    // A register with events was replayed, or there are no claims.
    let runtime = runtime_events(&parsed);
    Ok(RtmrClaims { form: log.form, replayed, unexplained, boot, command_lines, runtime })
}

/// The events of RTMR3.
fn runtime_events(log: &EventLog<'_>) -> Vec<RuntimeEvent> {
    let events = log.events().filter(|event| event.is_extended() && event.pcr_index == 4);
    events.map(|event| runtime_event(&event)).collect()
}

fn runtime_event(event: &Event<'_>) -> RuntimeEvent {
    let digest = event.digest(TpmHash::Sha384).unwrap_or_default();
    if !is_digest_of(TpmHash::Sha384, digest, &[event.data]) {
        return RuntimeEvent::Digest { digest: HexBytes(digest.to_vec()) };
    }
    let dstack = (event.event_type == DSTACK_RUNTIME).then(|| dstack_parts(event.data)).flatten();
    dstack.unwrap_or_else(|| RuntimeEvent::Data { data: HexBytes(event.data.to_vec()) })
}

/// What dstack hashes: the type, the name and the payload, with colons between them.
fn dstack_preimage(event: &str, payload: &[u8]) -> Vec<u8> {
    [&DSTACK_RUNTIME.0.to_le_bytes()[..], b":", event.as_bytes(), b":", payload].concat()
}

fn dstack_parts(preimage: &[u8]) -> Option<RuntimeEvent> {
    let rest = preimage.strip_prefix(&DSTACK_RUNTIME.0.to_le_bytes())?.strip_prefix(b":")?;
    // A name has no colon: it was refused otherwise, for two events would have one digest.
    let at = rest.iter().position(|byte| *byte == b':')?;
    let (event, payload) = rest.split_at_checked(at)?;
    let event = core::str::from_utf8(event).ok()?.into();
    Some(RuntimeEvent::Dstack { event, payload: HexBytes(payload.get(1..)?.to_vec()) })
}

/// An event of dstack's log. Members that are named twice are refused, and so is any other.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DstackEvent {
    imr: u32,
    event_type: u32,
    digest: HexBytes,
    event: String,
    event_payload: HexBytes,
}

/// The header of a log with SHA-384 alone, as TDX firmware writes it.
const CCEL_HEADER: &[u8; 65] = b"\x01\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x21\0\0\0\
    Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0c\0\x30\0\0";

/// dstack's log as firmware would have written it, so that there is one replay and one reader of events.
fn dstack_as_ccel(json: &[u8]) -> Result<Vec<u8>, Rejection> {
    let refused = |expected: &str, found: &dyn core::fmt::Display| RtmrReason::Json.because(expected, found);
    let events: Vec<DstackEvent> =
        serde_json::from_slice(json).map_err(|error| refused("a list of dstack's events", &error))?;
    let mut log = CCEL_HEADER.to_vec();
    for DstackEvent { imr, event_type, digest, event, event_payload } in events {
        if 3 < imr {
            return Err(RtmrReason::Register.because("imr 0 to 3", imr));
        }
        if digest.0.len() != TpmHash::Sha384.size() {
            return Err(refused("a SHA-384 digest", &format!("{} bytes", digest.0.len())));
        }
        if EventType(event_type) == EventType::EV_NO_ACTION {
            return Err(refused("events that were extended", &"EV_NO_ACTION"));
        }
        let data = match EventType(event_type) {
            DSTACK_RUNTIME if event.contains(':') => return Err(refused("a name without colon", &event)),
            DSTACK_RUNTIME => dstack_preimage(&event, &event_payload.0),
            EventType(_) => event_payload.0,
        };
        let size = u32::try_from(data.len()).map_err(|_| refused("a payload of less than 4 GiB", &"more"))?;
        log.extend(imr.saturating_add(1).to_le_bytes());
        log.extend(event_type.to_le_bytes());
        log.extend(1_u32.to_le_bytes());
        log.extend(TpmHash::Sha384.id().to_le_bytes());
        log.extend(digest.0);
        log.extend(size.to_le_bytes());
        log.extend(data);
    }
    Ok(log)
}

#[cfg(test)]
mod tests;
