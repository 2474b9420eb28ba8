//! PCR values that a list leads to.
//!
//! What the kernel extends for an entry depends on the kernel and the bank ([`Extension`]). The list does not say
//! which; the quoted value does.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::list::{Digest, ImaEntry, ImaList, PCRS};
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
    /// By PCR; `None` was never extended.
    values: [Option<Digest>; PCRS_COUNT],
}

const PCRS_COUNT: usize = 24;

impl Lane {
    pub(super) const fn new(bank: TpmHash, extension: Extension) -> Self {
        Self { bank, extension, values: [None; PCRS_COUNT] }
    }

    /// Sets a value to go on from.
    pub(super) fn set(&mut self, pcr: u8, value: &[u8]) {
        if let Some(slot) = self.values.get_mut(usize::from(pcr)) {
            *slot = Some(Digest::from_bytes(value, self.bank.size()));
        }
    }

    /// The value of a PCR; zero where it was never extended.
    pub(super) fn holds(&self, pcr: u8, value: &[u8]) -> bool {
        match self.values.get(usize::from(pcr)) {
            Some(Some(digest)) => digest.as_slice() == value,
            Some(None) => value.iter().all(|byte| *byte == 0) && value.len() == self.bank.size(),
            None => false,
        }
    }

    /// The PCRs that were extended, with their values.
    pub(super) fn values(&self) -> impl Iterator<Item = (u8, HexBytes)> {
        let numbered = (0..PCRS).zip(&self.values);
        numbered.filter_map(|(pcr, value)| Some((pcr, HexBytes(value.as_ref()?.as_slice().to_vec()))))
    }

    /// Extends what the kernel did for `entry`. `sha1` is the SHA-1 template hash.
    pub(super) fn extend(&mut self, entry: &ImaEntry<'_>, list: TpmHash) {
        let size = self.bank.size();
        let violation = entry.is_violation();
        let digest = match (self.extension, violation) {
            (Extension::TemplateHash | Extension::PaddedSha1FullViolation, true) => Digest::filled(0xff, size),
            (Extension::PaddedSha1, true) => {
                Digest::from_bytes(Digest::filled(0xff, TpmHash::Sha1.size()).as_slice(), size)
            }
            // The list's own template hash was checked to be this digest.
            (Extension::TemplateHash, false) if self.bank == list => Digest::from_bytes(entry.template_hash(), size),
            (Extension::TemplateHash, false) => entry.digest(self.bank),
            (Extension::PaddedSha1 | Extension::PaddedSha1FullViolation, false) if list == TpmHash::Sha1 => {
                Digest::from_bytes(entry.template_hash(), size)
            }
            (Extension::PaddedSha1 | Extension::PaddedSha1FullViolation, false) => {
                Digest::from_bytes(entry.digest(TpmHash::Sha1).as_slice(), size)
            }
        };
        let Some(slot) = self.values.get_mut(usize::from(entry.pcr())) else { return };
        let old = slot.take().unwrap_or_else(|| Digest::filled(0, size));
        *slot = Some(Digest::of_both(self.bank, &old, &digest));
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
            lanes.iter_mut().for_each(|lane| lane.extend(&entry, list.hash()));
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
