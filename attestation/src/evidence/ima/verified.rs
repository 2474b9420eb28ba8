//! A list against the PCR values that a quote signed.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::ImaReason;
use super::list::{Digest, Frame, ImaEntry, ImaList, ListEntries};
use super::replay::{Extension, Lane};
use crate::claims::{HexBytes, PcrBank, PcrHash};
use crate::evidence::tpm::algorithm::TpmHash;
use crate::evidence::tpm::quote::RecordedValues;
use crate::rejection::Rejection;

/// Bytes of an ordinary entry: a guess that saves growing.
const ENTRY_BYTES: usize = 128;

/// The PCR that IMA extends unless a rule of its policy says otherwise (`CONFIG_IMA_MEASURE_PCR_IDX`).
const IMA_PCR: u8 = 10;

/// How far a host's list was verified: the running PCR values after so many entries. Whoever keeps it binds it to the
/// boot it was made in; within one boot the list only grows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImaState {
    /// Entries so far.
    pub entries: u64,
    /// Values by PCR and bank, of every PCR that an entry went to.
    pub pcrs: BTreeMap<u8, BTreeMap<PcrHash, HexBytes>>,
    /// What the host's kernel extends, by bank. Empty before the first entry: the first quote decides.
    pub extensions: BTreeMap<PcrHash, Extension>,
}

impl ImaState {
    /// Before the first entry of a boot.
    #[must_use]
    pub const fn start() -> Self {
        Self { entries: 0, pcrs: BTreeMap::new(), extensions: BTreeMap::new() }
    }
}

/// Whether a `boot_aggregate` is that of the quoted PCRs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BootAggregate {
    /// It is the hash of the quoted PCRs 0 to 9, or 0 to 7 as Linux 5.8 took them.
    OfThisBoot,
    /// It is another value.
    Differs,
    /// The quote lacks the PCRs or the bank to tell (SHA-1 is never quoted).
    NotQuoted,
}

/// Entries that a quote covers. [`verify`] is the only constructor:
///
/// ```compile_fail
/// fn forge(state: countersign_attestation::evidence::ima::ImaState) {
///     let _ = countersign_attestation::evidence::ima::VerifiedIma { state };
/// }
/// ```
#[derive(Clone, Debug)]
pub struct VerifiedIma<'a> {
    /// The covered part.
    list: ImaList<'a>,
    first: u64,
    state: ImaState,
    violations: u64,
    unattested: u64,
    /// PCRs that are quoted and that entries of this boot went to.
    attested_pcrs: u32,
    extends_sha1: bool,
    boot_aggregates: BTreeMap<TpmHash, Aggregates>,
    /// Of the attested entries, where SHA-256 of the template data was extended; else none.
    marks: Vec<Mark>,
}

/// An attested entry, by what was extended for it.
#[derive(Clone, Copy, Debug)]
struct Mark {
    extended: [u8; 32],
    /// Where it begins, and its index, in this list.
    offset: u32,
    index: u32,
}

impl<'a> VerifiedIma<'a> {
    /// The covered entries, with the index of each since boot. Entries of PCRs that were not quoted are left out:
    /// nothing covers them.
    #[must_use]
    pub const fn entries(&self) -> Entries<'a> {
        Entries { entries: self.list.entries(), next: self.first, attested_pcrs: self.attested_pcrs }
    }

    /// Goes through the covered entries. `is_known` is asked first, with what the kernel extended: SHA-256 of the
    /// template data, or ones for a violation. Only those it does not know are read and handed on, and all of them
    /// where the quote has no such bank. It is what makes judging cost next to nothing beside hashing.
    pub fn visit(&self, mut is_known: impl FnMut(&[u8; 32]) -> bool, mut unknown: impl FnMut(u64, &ImaEntry<'a>)) {
        if self.marks.is_empty() {
            self.entries().for_each(|(index, entry)| unknown(index, &entry));
            return;
        }
        for mark in &self.marks {
            if is_known(&mark.extended) {
                continue;
            }
            let offset = usize::try_from(mark.offset).unwrap_or(usize::MAX);
            // It was read before, so that it is there.
            if let Some(entry) = self.list.entry_at(offset) {
                unknown(self.first.saturating_add(u64::from(mark.index)), &entry);
            }
        }
    }

    /// How far the list is verified now.
    #[must_use]
    pub const fn state(&self) -> &ImaState {
        &self.state
    }

    /// The bytes of the covered entries: a prefix of the list that was verified.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.list.bytes()
    }

    /// Index of the first of these entries.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// How many of the covered entries are violations.
    #[must_use]
    pub const fn violations(&self) -> u64 {
        self.violations
    }

    /// How many entries the list has beyond the quote. They were measured after it and are not attested yet.
    #[must_use]
    pub const fn unattested(&self) -> u64 {
        self.unattested
    }

    /// Whether a quoted PCR was extended with entries of this boot.
    #[must_use]
    pub fn attests_pcr(&self, pcr: u8) -> bool {
        bit(pcr) & self.attested_pcrs != 0
    }

    /// Whether any bank holds SHA-1 digests ([`Extension::PaddedSha1`]): the list is then as weak as SHA-1.
    #[must_use]
    pub const fn extends_sha1(&self) -> bool {
        self.extends_sha1
    }

    /// Compares the digest of a `boot_aggregate` entry with the quoted PCRs (`ima_calc_boot_aggregate`).
    #[must_use]
    pub fn boot_aggregate(&self, entry: &ImaEntry<'_>) -> BootAggregate {
        let Some(digest) = entry.data().digest.filter(|_| !entry.is_violation()) else {
            return BootAggregate::Differs;
        };
        let Some(hash) = digest.algorithm.bank() else { return BootAggregate::NotQuoted };
        let Some(Aggregates { known }) = self.boot_aggregates.get(&hash) else { return BootAggregate::NotQuoted };
        if known.iter().flatten().any(|known| known.as_slice() == digest.digest) {
            BootAggregate::OfThisBoot
        } else if known.iter().all(Option::is_some) {
            BootAggregate::Differs
        } else {
            BootAggregate::NotQuoted
        }
    }
}

/// Iterates over covered entries, each with its index since boot.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    entries: ListEntries<'a>,
    next: u64,
    attested_pcrs: u32,
}

impl<'a> Iterator for Entries<'a> {
    type Item = (u64, ImaEntry<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // Every entry was read before, so that none fails here.
            let entry = self.entries.next()?.ok()?;
            let index = self.next;
            self.next = index.saturating_add(1);
            if bit(entry.pcr()) & self.attested_pcrs != 0 {
                return Some((index, entry));
            }
        }
    }
}

/// Replays `list`, the bytes of `binary_runtime_measurements` from entry `from.entries` on, until every quoted value of
/// every PCR it extends is reached.
///
/// The list may go on beyond the quote: that part is not attested and not looked at, but for its form. It may not end
/// before: then entries are withheld.
///
/// # Errors
/// An [`ImaReason`].
pub fn verify<'a>(
    list: &'a [u8],
    from: &ImaState,
    pcrs: &BTreeMap<PcrHash, PcrBank>,
) -> Result<VerifiedIma<'a>, Rejection> {
    let quoted = pcrs.iter().map(|(bank, values)| {
        let values = values.iter().map(|(pcr, value)| (*pcr, value.0.clone())).collect();
        (TpmHash::from(*bank), values)
    });
    attest(ImaList::new(list), from, &quoted.collect())
}

/// [`verify`] for recorded PCR values, from the first entry of a boot on. SHA-1 banks count here: they are read, and
/// nothing live is judged with them.
///
/// # Errors
/// An [`ImaReason`].
pub fn verify_recorded<'a>(list: ImaList<'a>, recorded: &RecordedValues) -> Result<VerifiedIma<'a>, Rejection> {
    attest(list, &ImaState::start(), recorded)
}

fn attest<'a>(list: ImaList<'a>, from: &ImaState, quoted: &RecordedValues) -> Result<VerifiedIma<'a>, Rejection> {
    let before = from.pcrs.keys().fold(0, |pcrs, pcr| pcrs | bit(*pcr));
    let mut extended = before | bit(IMA_PCR);
    // Nearly every list extends one PCR. Where entries go to others, the values of those must be reached too.
    let (targets, pass, end, beyond) = loop {
        let targets = Targets::new(quoted, extended)?;
        if let Some((pass, end)) = attest_pcrs(list, from, &targets)? {
            let (named, beyond) = list.after(end.bytes).outline()?;
            if named & !extended == 0 {
                break (targets, pass, end, beyond);
            }
        }
        extended |= list.outline()?.0;
    };
    let mut state = ImaState { entries: from.entries.saturating_add(end.entries), ..ImaState::start() };
    for lane in &pass.lanes {
        let Some(bank) = lane.bank.bank() else { continue };
        state.extensions.insert(bank, lane.extension);
        for (pcr, value) in lane.values() {
            state.pcrs.entry(pcr).or_default().insert(bank, value);
        }
    }
    let extends_sha1 = pass.lanes.iter().any(|lane| lane.bank == TpmHash::Sha1 || lane.extension.is_sha1());
    Ok(VerifiedIma {
        list: list.until(end.bytes),
        first: from.entries,
        state,
        violations: pass.violations,
        unattested: beyond,
        attested_pcrs: targets.pcrs,
        extends_sha1,
        boot_aggregates: boot_aggregates(quoted),
        marks: pass.marks,
    })
}

/// A way through the list to the values of `targets`. None: an entry went to a PCR that is not among them.
fn attest_pcrs(list: ImaList<'_>, from: &ImaState, targets: &Targets<'_>) -> Result<Option<(Pass, End)>, Rejection> {
    let mut extensions = targets.first_extensions(from)?;
    loop {
        let pass = Pass::run(list, targets, targets.lanes(from, &extensions)?)?;
        match pass.stop {
            Stop::Reached(end) => return Ok(Some((pass, end))),
            Stop::OtherPcr => return Ok(None),
            // A bank whose values were never reached may be one that the kernel extends otherwise. Within a boot it
            // does not change its way.
            Stop::Missed { .. } if from.entries == 0 && pass.next_extensions(&mut extensions) => {}
            Stop::Missed { entries } => return Err(ImaReason::PcrMismatch.because(targets.show(), pass.show(entries))),
        }
    }
}

#[inline]
fn bit(pcr: u8) -> u32 {
    1_u32.checked_shl(u32::from(pcr)).unwrap_or_default()
}

/// PCRs with the values they must reach.
type Wanted<'q> = Vec<(u8, &'q [u8])>;

/// What must be reached: by bank, the quoted values of the PCRs that the list extends.
struct Targets<'q> {
    banks: Vec<(TpmHash, Wanted<'q>)>,
    /// Those of them that are quoted.
    pcrs: u32,
    /// Those that entries may go to.
    extended: u32,
}

impl<'q> Targets<'q> {
    fn new(quoted: &'q RecordedValues, extended: u32) -> Result<Self, Rejection> {
        let mut targets = Self { banks: Vec::new(), pcrs: 0, extended };
        let mut has_ima_pcr = false;
        for (bank, values) in quoted {
            let mut wanted = Vec::new();
            for (pcr, value) in values.iter().filter(|(pcr, _)| bit(**pcr) & extended != 0) {
                if *pcr == IMA_PCR && value.iter().all(|byte| *byte == 0) {
                    return Err(ImaReason::PcrUnextended
                        .because("measurements in PCR 10", format_args!("zero in the {} bank", bank.name())));
                }
                has_ima_pcr |= *pcr == IMA_PCR;
                targets.pcrs |= bit(*pcr);
                wanted.push((*pcr, value.as_slice()));
            }
            if !wanted.is_empty() {
                targets.banks.push((*bank, wanted));
            }
        }
        // Without it, whoever extends another PCR could present that PCR's history and withhold IMA's.
        if has_ima_pcr { Ok(targets) } else { Err(ImaReason::PcrNotQuoted.because("PCR 10", "not quoted")) }
    }

    fn first_extensions(&self, from: &ImaState) -> Result<Vec<Extension>, Rejection> {
        let extension = |bank: &TpmHash| match bank.bank().and_then(|bank| from.extensions.get(&bank)) {
            Some(extension) => Ok(*extension),
            None if from.entries == 0 => Ok(Extension::TemplateHash),
            None => Err(incomplete(*bank)),
        };
        self.banks.iter().map(|(bank, _)| extension(bank)).collect()
    }

    fn lanes(&self, from: &ImaState, extensions: &[Extension]) -> Result<Vec<Lane>, Rejection> {
        let mut lanes = Vec::with_capacity(extensions.len());
        for ((bank, _), extension) in self.banks.iter().zip(extensions) {
            let mut lane = Lane::new(*bank, *extension);
            for (pcr, values) in &from.pcrs {
                let value = bank.bank().and_then(|bank| values.get(&bank)).ok_or_else(|| incomplete(*bank))?;
                if value.0.len() != bank.size() {
                    return Err(incomplete(*bank));
                }
                lane.set(*pcr, &value.0);
            }
            lanes.push(lane);
        }
        Ok(lanes)
    }

    #[inline]
    fn reached(&self, lanes: &[Lane], ever: &mut [bool]) -> bool {
        let mut all = true;
        for (((_, wanted), lane), ever) in self.banks.iter().zip(lanes).zip(ever) {
            let now = wanted.iter().all(|(pcr, value)| lane.holds(*pcr, value));
            *ever |= now;
            all &= now;
        }
        all
    }

    fn show(&self) -> String {
        let mut text = String::new();
        for (bank, wanted) in &self.banks {
            for (pcr, value) in wanted {
                let separator = if text.is_empty() { "" } else { ", " };
                text.push_str(&format!("{separator}{}:{pcr} {}", bank.name(), hex::encode(value)));
            }
        }
        text
    }
}

fn incomplete(bank: TpmHash) -> Rejection {
    ImaReason::State.because(format_args!("values of the {} bank", bank.name()), "none")
}

/// Where the quoted values were reached.
#[derive(Clone, Copy)]
struct End {
    entries: u64,
    bytes: usize,
}

/// Why a way through the list ended.
#[derive(Clone, Copy)]
enum Stop {
    Reached(End),
    /// At an entry of a PCR that is not among those that entries may go to.
    OtherPcr,
    /// At the end of so many entries.
    Missed {
        entries: u64,
    },
}

/// One way through the list.
struct Pass {
    lanes: Vec<Lane>,
    stop: Stop,
    /// By lane: whether it held its quoted values at some entry.
    reached: Vec<bool>,
    violations: u64,
    marks: Vec<Mark>,
}

impl Pass {
    fn run(list: ImaList<'_>, targets: &Targets<'_>, lanes: Vec<Lane>) -> Result<Self, Rejection> {
        let reached = alloc::vec![false; lanes.len()];
        let marks = Vec::with_capacity(list.bytes().len() / ENTRY_BYTES);
        let mut pass = Self { reached, lanes, stop: Stop::Missed { entries: 0 }, violations: 0, marks };
        let is_own = |lane: &Lane| lane.bank == TpmHash::Sha256 && lane.extension == Extension::TemplateHash;
        let own = pass.lanes.iter().position(is_own);
        let mut reader = list.reader();
        for count in 0_u32.. {
            let offset = reader.offset();
            if targets.reached(&pass.lanes, &mut pass.reached) {
                pass.stop = Stop::Reached(End { entries: u64::from(count), bytes: offset });
                break;
            }
            if reader.finish().is_ok() {
                pass.stop = Stop::Missed { entries: u64::from(count) };
                break;
            }
            let entry = Frame::read(&mut reader, list.hash())?;
            if bit(entry.pcr) & targets.extended == 0 {
                pass.stop = Stop::OtherPcr;
                break;
            }
            // Fields that cannot be read are refused here, so that none fails when it is judged.
            entry.check_said()?;
            entry.check_template_hash(list.hash())?;
            for lane in &mut pass.lanes {
                lane.extend(&entry, list.hash());
            }
            if bit(entry.pcr) & targets.pcrs == 0 {
                continue;
            }
            pass.violations = pass.violations.saturating_add(u64::from(entry.is_violation));
            let last = own.and_then(|own| pass.lanes.get(own)?.last(entry.pcr).first_chunk::<32>());
            if let (Some(extended), Ok(offset)) = (last, u32::try_from(offset)) {
                pass.marks.push(Mark { extended: *extended, offset, index: count });
            }
        }
        Ok(pass)
    }

    /// Moves banks that never held their values on; whether there was one.
    fn next_extensions(&self, extensions: &mut [Extension]) -> bool {
        let mut moved = false;
        for (extension, _) in extensions.iter_mut().zip(&self.reached).filter(|(_, reached)| !**reached) {
            if let Some(next) = extension.next() {
                *extension = next;
                moved = true;
            }
        }
        moved
    }

    fn show(&self, count: u64) -> String {
        let name = |(lane, reached): (&Lane, &bool)| (!reached).then_some(lane.bank.name());
        let missed: Vec<&str> = self.lanes.iter().zip(&self.reached).filter_map(name).collect();
        if missed.is_empty() {
            return format!("the banks agree after none of {count} entries");
        }
        format!("{} not reached after any of {count} entries", missed.join(", "))
    }
}

/// `ima_calc_boot_aggregate`: PCR 0 to 9, and 0 to 7 in Linux 5.8.
#[derive(Clone, Copy, Debug)]
struct Aggregates {
    known: [Option<Digest>; 2],
}

fn boot_aggregates(quoted: &RecordedValues) -> BTreeMap<TpmHash, Aggregates> {
    let of = |bank: TpmHash, values: &BTreeMap<u8, Vec<u8>>, end: u8| {
        let mut all = Vec::new();
        for pcr in 0..end {
            all.extend_from_slice(values.get(&pcr)?);
        }
        Some(Digest::of(bank, &all))
    };
    let known = |(bank, values)| Aggregates { known: [of(bank, values, 10), of(bank, values, 8)] };
    quoted.iter().map(|(bank, values)| (*bank, known((*bank, values)))).collect()
}
