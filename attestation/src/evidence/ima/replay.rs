//! PCR values that a list leads to.
//!
//! What the kernel extends for an entry depends on the kernel and the bank ([`Extension`]). The list does not say
//! which; the quoted value does.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::list::{Frame, ImaList, PCRS, are_equal, copy, hashed};
use crate::claims::HexBytes;
use crate::evidence::tpm::algorithm::TpmHash;
use crate::rejection::Rejection;

/// What a kernel extends into one bank for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extension {
    /// The bank's own hash of the template data: Linux 5.8 and later.
    TemplateHash,
    /// SHA-1 of the template data, filled up with zeros: kernels before 5.8, whatever the bank. Then the whole list is
    /// only as strong as SHA-1: who prepares two colliding entries can show one for the other. Policies can refuse it.
    PaddedSha1,
    /// The same, but ones to the full length for a violation: later kernels, for a bank whose hash they lack.
    PaddedSha1FullViolation,
}

impl Extension {
    /// What to try next.
    pub(super) const fn next(self) -> Option<Self> {
        match self {
            Self::TemplateHash => Some(Self::PaddedSha1),
            Self::PaddedSha1 => Some(Self::PaddedSha1FullViolation),
            Self::PaddedSha1FullViolation => None,
        }
    }

    /// Whether what was extended is a SHA-1 digest.
    #[must_use]
    pub const fn is_sha1(self) -> bool {
        match self {
            Self::TemplateHash => false,
            Self::PaddedSha1 | Self::PaddedSha1FullViolation => true,
        }
    }
}

/// One bank's running values.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) bank: TpmHash,
    pub(super) extension: Extension,
    /// By PCR.
    slots: [Slot; PCRS_COUNT],
}

/// A PCR: its value, and behind it what was extended last, as both are hashed.
#[derive(Clone, Copy, Debug)]
struct Slot {
    bytes: [u8; 128],
    is_extended: bool,
}

const PCRS_COUNT: usize = 24;

impl Lane {
    pub(super) const fn new(bank: TpmHash, extension: Extension) -> Self {
        Self { bank, extension, slots: [Slot { bytes: [0; 128], is_extended: false }; PCRS_COUNT] }
    }

    /// Sets a value to go on from, which is of the bank's size.
    pub(super) fn set(&mut self, pcr: u8, value: &[u8]) {
        if let Some(slot) = self.slots.get_mut(usize::from(pcr)) {
            copy(&mut slot.bytes, value);
            slot.is_extended = true;
        }
    }

    /// Whether the PCR has this value; zero where it was never extended.
    #[inline]
    pub(super) fn holds(&self, pcr: u8, value: &[u8]) -> bool {
        let slot = self.slots.get(usize::from(pcr));
        let held = slot.and_then(|slot| slot.bytes.get(..self.bank.size()));
        held.is_some_and(|held| are_equal(held, value))
    }

    /// The PCRs that were extended, with their values.
    pub(super) fn values(&self) -> impl Iterator<Item = (u8, HexBytes)> {
        let extended = (0..PCRS).zip(&self.slots).filter(|(_, slot)| slot.is_extended);
        extended.filter_map(|(pcr, slot)| Some((pcr, HexBytes(slot.bytes.get(..self.bank.size())?.to_vec()))))
    }

    /// What was extended into the PCR last.
    pub(super) fn last(&self, pcr: u8) -> &[u8] {
        let size = self.bank.size();
        let slot = self.slots.get(usize::from(pcr));
        slot.and_then(|slot| slot.bytes.get(size..)?.get(..size)).unwrap_or_default()
    }

    /// Extends what the kernel did for `entry` of a list with template hashes of `list`.
    #[inline]
    pub(super) fn extend(&mut self, entry: &Frame<'_>, list: TpmHash) {
        let size = self.bank.size();
        let Some(slot) = self.slots.get_mut(usize::from(entry.pcr)) else { return };
        let both = size.saturating_mul(2);
        let Some(extended) = slot.bytes.get_mut(size..both) else { return };
        match (self.extension, entry.is_violation) {
            (Extension::TemplateHash | Extension::PaddedSha1FullViolation, true) => extended.fill(0xff),
            (Extension::PaddedSha1, true) => {
                extended.fill(0);
                copy(extended, &[0xff; 20]);
            }
            // The list's own template hash was checked to be this digest.
            (Extension::TemplateHash, false) if self.bank == list => copy(extended, entry.template_hash),
            (Extension::TemplateHash, false) => copy(extended, entry.digest(self.bank).as_ref()),
            (Extension::PaddedSha1 | Extension::PaddedSha1FullViolation, false) => {
                extended.fill(0);
                if list == TpmHash::Sha1 {
                    copy(extended, entry.template_hash);
                } else {
                    copy(extended, entry.digest(TpmHash::Sha1).as_ref());
                }
            }
        }
        let next = hashed(self.bank, slot.bytes.get(..both).unwrap_or_default());
        copy(&mut slot.bytes, next.as_ref());
        slot.is_extended = true;
    }
}

/// What a whole list leads to, nothing of it being attested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// How many entries.
    pub entries: u64,
    /// How many entries of each PCR and template.
    pub templates: BTreeMap<(u8, Vec<u8>), u64>,
    /// How many violations by PCR; a PCR with entries and none has zero.
    pub violations: BTreeMap<u8, u64>,
    /// Values by PCR and bank.
    pub values: BTreeMap<u8, BTreeMap<&'static str, HexBytes>>,
}

impl Replay {
    /// Replays every entry into `banks`, each with its template hash checked.
    ///
    /// # Errors
    /// An [`ImaReason`](super::ImaReason): the list is malformed, or a template hash is not that of its entry.
    pub fn of(list: ImaList<'_>, banks: &[TpmHash], extension: Extension) -> Result<Self, Rejection> {
        let mut lanes: Vec<Lane> = banks.iter().map(|bank| Lane::new(*bank, extension)).collect();
        let (mut entries, mut templates, mut violations) = (0_u64, BTreeMap::new(), BTreeMap::new());
        for entry in list.entries() {
            let entry = entry?;
            entry.check_template_hash(list.hash())?;
            entries = entries.saturating_add(1);
            count(&mut templates, (entry.pcr(), entry.template().to_vec()), 1);
            count(&mut violations, entry.pcr(), u64::from(entry.is_violation()));
            lanes.iter_mut().for_each(|lane| lane.extend(entry.frame(), list.hash()));
        }
        let mut values: BTreeMap<u8, BTreeMap<_, _>> = BTreeMap::new();
        for lane in &lanes {
            for (pcr, value) in lane.values() {
                values.entry(pcr).or_default().insert(lane.bank.name(), value);
            }
        }
        Ok(Self { entries, templates, violations, values })
    }
}

fn count<K: Ord>(counts: &mut BTreeMap<K, u64>, of: K, more: u64) {
    let count = counts.entry(of).or_default();
    *count = count.saturating_add(more);
}
