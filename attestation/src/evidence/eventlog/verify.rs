//! From a log and signed PCR values to what the boot was.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;

use super::claims::BootClaims;
use super::event_type::EventType;
use super::log::{Event, EventLog, LogFormat};
use super::replay::{BankReplay, is_digest_of, must_hash_to_digest};
use super::{EventLogReason, boot};
use crate::claims::{PcrBank, PcrHash};
use crate::evidence::tpm::algorithm::TpmHash;
use crate::rejection::Rejection;

/// PCRs of the firmware and the boot loader: nothing else ever extends them, so the log explains them whole.
const FIRMWARE_PCRS: u32 = 0b0100_0011_1111_1111;

/// PCRs that the operating system may extend after the log ended: 11 to 13 and 15.
const SYSTEM_PCRS: u32 = 0b1011_1000_0000_0000;

/// The eight PCRs into which firmware measures at least a separator (PC Client PFP 1.06, 2.3.4).
const SEPARATED_PCRS: u32 = 0xff;

/// A log that replays to signed PCR values. [`verify`] is the only way to get one:
///
/// ```compile_fail
/// use countersign_attestation::evidence::eventlog::{EventLog, VerifiedLog};
/// let log = EventLog::parse(&[]).unwrap();
/// let forged = VerifiedLog { log, pcrs: &Default::default(), replayed: 0, unexplained: 0 };
/// ```
#[derive(Clone, Debug)]
pub struct VerifiedLog<'a> {
    log: EventLog<'a>,
    pcrs: &'a BTreeMap<PcrHash, PcrBank>,
    replayed: u32,
    unexplained: u32,
}

impl<'a> VerifiedLog<'a> {
    /// A log whose measurement registers were replayed elsewhere: `pcrs` has the PCRs that they stand for.
    pub(super) const fn of_registers(log: EventLog<'a>, pcrs: &'a BTreeMap<PcrHash, PcrBank>, replayed: u32) -> Self {
        Self { log, pcrs, replayed, unexplained: 0 }
    }

    /// The log. Its words are the host's; only digests of replayed PCRs are attested.
    #[must_use]
    pub const fn log(&self) -> &EventLog<'a> {
        &self.log
    }

    /// What the boot was.
    #[must_use]
    pub fn claims(&self) -> BootClaims {
        boot::tell(self)
    }

    /// PCRs that the log replays to in every quoted bank.
    #[must_use]
    pub fn replayed(&self) -> BTreeSet<u8> {
        indexes(self.replayed)
    }

    /// Quoted PCRs that something extended beyond the log.
    #[must_use]
    pub fn unexplained(&self) -> BTreeSet<u8> {
        indexes(self.unexplained)
    }

    /// Whether this PCR was quoted and the log replays to it.
    pub(super) fn explains(&self, index: u32) -> bool {
        bit(index) & self.replayed != 0
    }

    /// The quoted banks that hold this PCR.
    pub(super) fn banks(&self, index: u32) -> impl Iterator<Item = PcrHash> + use<'_, 'a> {
        self.pcrs
            .iter()
            .filter(move |(_, values)| u8::try_from(index).is_ok_and(|index| values.contains_key(&index)))
            .map(|(bank, _)| *bank)
    }

    /// Every quoted bank.
    pub(super) fn quoted_banks(&self) -> impl Iterator<Item = PcrHash> + use<'_, 'a> {
        self.pcrs.keys().copied()
    }

    /// Whether the digests of an event in a replayed PCR are of `data`: in every quoted bank that the event was
    /// extended into, and in at least one.
    pub(super) fn binds(&self, event: &Event<'_>, data: &[u8]) -> bool {
        self.binds_parts(event, &[data])
    }

    pub(super) fn binds_parts(&self, event: &Event<'_>, data: &[&[u8]]) -> bool {
        let mut digests = self
            .banks(event.pcr_index)
            .map(TpmHash::from)
            .filter_map(|hash| Some((hash, event.digest(hash)?)))
            .peekable();
        digests.peek().is_some() && digests.all(|(hash, digest)| is_digest_of(hash, digest, data))
    }
}

const fn bit(index: u32) -> u32 {
    match 1_u32.checked_shl(index) {
        Some(bit) => bit,
        None => 0,
    }
}

fn indexes(mask: u32) -> BTreeSet<u8> {
    (0..24_u8).filter(|index| mask & bit(u32::from(*index)) != 0).collect()
}

/// Holds a log against the PCR values a quote signed. PCR 0 to 9 and 14 must be what the log says, in every quoted
/// bank; 11 to 13 and 15 may have been extended further, and then count for nothing. PCR 10 is IMA's. 16 to 23 can be
/// reset and are never trusted.
///
/// # Errors
/// An [`EventLogReason`] when the log is malformed, has only SHA-1, does not give the signed values, or carries data
/// that was edited.
pub fn verify<'a>(log: &'a [u8], pcrs: &'a BTreeMap<PcrHash, PcrBank>) -> Result<VerifiedLog<'a>, Rejection> {
    let log = EventLog::parse(log)?;
    if log.format() == LogFormat::Sha1 {
        return Err(EventLogReason::Sha1Only.because("a crypto-agile log", "SHA-1 digests alone"));
    }
    let (mut quoted, mut differing) = (0_u32, 0_u32);
    for (bank, values) in pcrs {
        let hash = TpmHash::from(*bank);
        if !log.has_bank(hash) {
            return Err(EventLogReason::BankMissing
                .because(format_args!("the quoted bank {}", bank.name()), "no digests of it"));
        }
        let replay = log.replay_bank(hash);
        check_used(&replay, values)?;
        for (index, value) in values {
            quoted |= bit(u32::from(*index));
            if replay.value(*index) != Some(value.0.as_slice()) {
                differing |= bit(u32::from(*index));
                check_may_differ(&replay, *index, value)?;
            }
        }
    }
    if quoted & FIRMWARE_PCRS == 0 {
        return Err(EventLogReason::Replay.because("signed values of PCR 0 to 9 or 14", "none"));
    }
    let counted = quoted & (FIRMWARE_PCRS | SYSTEM_PCRS);
    let verified = VerifiedLog { log, pcrs, replayed: counted & !differing, unexplained: counted & differing };
    for event in verified.log.events().filter(|event| event.is_extended() && verified.explains(event.pcr_index)) {
        for bank in verified.banks(event.pcr_index) {
            check_data(&event, bank.into())?;
        }
    }
    Ok(verified)
}

/// Refuses a bank that the log leaves unextended: whoever runs later may extend it to any value (CVE-2021-42299).
fn check_used(replay: &BankReplay, values: &PcrBank) -> Result<(), Rejection> {
    let mut firmware = values.keys().filter(|index| SEPARATED_PCRS & bit(u32::from(**index)) != 0).peekable();
    if firmware.peek().is_some() && !firmware.any(|index| replay.is_extended(*index)) {
        let found = format!("no event of them in {}", replay.hash().name());
        return Err(EventLogReason::BankUnused.because("measurements of the firmware in PCR 0 to 7", found));
    }
    Ok(())
}

fn check_may_differ(replay: &BankReplay, index: u8, signed: &crate::claims::HexBytes) -> Result<(), Rejection> {
    if bit(u32::from(index)) & FIRMWARE_PCRS == 0 {
        return Ok(());
    }
    let replayed = hex::encode(replay.value(index).unwrap_or_default());
    let name = replay.hash().name();
    Err(EventLogReason::Replay.because(format_args!("PCR {index} of {name} as signed, {signed}"), replayed))
}

/// Refuses an event whose data must hash to its digest and does not: the digest was measured, the words are another's.
/// Two mistakes of genuine firmware are no edits: a separator that reports an error has the digest of the number 1
/// whatever its data (PC Client PFP 1.06, 10.4.1), and old firmware hashes a variable's value alone.
///
/// # Errors
/// [`EventLogReason::DataEdited`].
pub fn check_data(event: &Event<'_>, hash: TpmHash) -> Result<(), Rejection> {
    let Some(digest) = event.digest(hash).filter(|_| must_hash_to_digest(event.event_type)) else { return Ok(()) };
    let excused = || match event.event_type {
        EventType::EV_SEPARATOR => is_digest_of(hash, digest, &[&boot::SEPARATOR_ERROR]),
        EventType::EV_EFI_VARIABLE_DRIVER_CONFIG => {
            super::data::Variable::read(event.data).is_ok_and(|variable| is_digest_of(hash, digest, &[variable.value]))
        }
        EventType(_) => false,
    };
    if is_digest_of(hash, digest, &[event.data]) || excused() {
        return Ok(());
    }
    let what = format!("{} of PCR {}", event.event_type, event.pcr_index);
    Err(EventLogReason::DataEdited.because(format_args!("{what}: data that hashes to its digest"), "other data"))
}
