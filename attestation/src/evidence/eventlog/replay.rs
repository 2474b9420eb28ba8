//! Replay: what the PCRs hold after exactly the events of a log were extended, bank by bank.

use alloc::collections::BTreeMap;

use aws_lc_rs::digest::{self, Context};

use super::event_type::EventType;
use super::log::{Event, EventLog, PCRS};
use crate::claims::HexBytes;
use crate::evidence::tpm::algorithm::TpmHash;

/// Banks that can be replayed.
pub const REPLAYABLE: [TpmHash; 4] = [TpmHash::Sha1, TpmHash::Sha256, TpmHash::Sha384, TpmHash::Sha512];

/// The values one bank holds after the log.
#[derive(Clone, Debug)]
pub struct BankReplay {
    hash: TpmHash,
    values: [[u8; 64]; 24],
    /// One bit for each PCR that an event extended.
    extended: u32,
}

impl BankReplay {
    /// PCR values at the start (PC Client PTP 1.06, 4.6.2): zero; PCR 0 in its last byte the locality of TPM2_Startup,
    /// or 4 after an H-CRTM (TPM 2.0 Part 1, 34.3). Events of PCR 17 to 22 follow a D-RTM, which starts them at zero.
    fn start(log: &EventLog<'_>, hash: TpmHash) -> Self {
        let mut bank = Self { hash, values: [[0; 64]; 24], extended: 0 };
        let locality = if log.has_hcrtm_event() { 4 } else { log.startup_locality().unwrap_or(0) };
        let last = hash.size().saturating_sub(1);
        if let Some(byte) = bank.values.first_mut().and_then(|value| value.get_mut(last)) {
            *byte = locality;
        }
        bank
    }

    fn extend(&mut self, event: &Event<'_>) {
        let Some(measured) = event.digest(self.hash).filter(|_| event.is_extended()) else { return };
        let index = usize::try_from(event.pcr_index).unwrap_or(usize::MAX);
        let size = self.hash.size();
        let Some(value) = self.values.get_mut(index).and_then(|value| value.get_mut(..size)) else { return };
        // One-shot over the two: a context would be allocated, which costs as much as the hashing.
        let mut both = [0; 128];
        for (to, from) in both.iter_mut().zip(value.iter().chain(measured)) {
            *to = *from;
        }
        let whole = both.get(..size.saturating_add(measured.len())).unwrap_or_default();
        value.copy_from_slice(digest::digest(self.hash.digest(), whole).as_ref());
        self.extended |= 1_u32.checked_shl(event.pcr_index).unwrap_or_default();
    }

    /// The hash of the bank.
    #[must_use]
    pub const fn hash(&self) -> TpmHash {
        self.hash
    }

    /// Whether the log extends this PCR.
    #[must_use]
    pub fn is_extended(&self, index: u8) -> bool {
        1_u32.checked_shl(u32::from(index)).is_some_and(|bit| self.extended & bit != 0)
    }

    /// The value after the log, for PCR 0 to 23.
    #[must_use]
    pub fn value(&self, index: u8) -> Option<&[u8]> {
        self.values.get(usize::from(index)).and_then(|value| value.get(..self.hash.size()))
    }

    /// Index and value of every PCR that the log extends.
    pub fn extended(&self) -> impl Iterator<Item = (u8, &[u8])> {
        (0..PCRS).filter(|index| self.is_extended(*index)).filter_map(|index| Some((index, self.value(index)?)))
    }
}

/// The values of all replayed banks.
#[derive(Clone, Debug)]
pub struct Replay {
    banks: BTreeMap<TpmHash, BankReplay>,
}

impl Replay {
    /// One bank.
    #[must_use]
    pub fn bank(&self, hash: TpmHash) -> Option<&BankReplay> {
        self.banks.get(&hash)
    }

    /// The replayed banks.
    pub fn banks(&self) -> impl Iterator<Item = &BankReplay> {
        self.banks.values()
    }

    /// Every extended PCR's value, by bank and index.
    #[must_use]
    pub fn values(&self) -> BTreeMap<TpmHash, BTreeMap<u8, HexBytes>> {
        let values =
            |bank: &BankReplay| bank.extended().map(|(index, value)| (index, HexBytes(value.to_vec()))).collect();
        self.banks.iter().map(|(hash, bank)| (*hash, values(bank))).collect()
    }
}

impl EventLog<'_> {
    /// Replays every bank of the log that we can hash.
    #[must_use]
    pub fn replay(&self) -> Replay {
        let banks = REPLAYABLE.into_iter().filter(|hash| self.has_bank(*hash));
        Replay { banks: banks.map(|hash| (hash, self.replay_bank(hash))).collect() }
    }

    /// Replays one bank. A bank that the log does not have stays at its start values.
    #[must_use]
    pub fn replay_bank(&self, hash: TpmHash) -> BankReplay {
        let mut bank = BankReplay::start(self, hash);
        self.events().for_each(|event| bank.extend(&event));
        bank
    }
}

/// Whether `expected` is the hash of `data`.
#[must_use]
pub fn is_digest_of(hash: TpmHash, expected: &[u8], data: &[&[u8]]) -> bool {
    if let [whole] = data {
        return digest::digest(hash.digest(), whole).as_ref() == expected;
    }
    let mut context = Context::new(hash.digest());
    data.iter().for_each(|part| context.update(part));
    context.finish().as_ref() == expected
}

/// Whether an event's type makes its data the digest's preimage, without exception in the profile (PC Client PFP 1.06,
/// 10.4.1): separators, Secure Boot's variables, partition tables and firmware's own strings.
#[must_use]
pub const fn must_hash_to_digest(event_type: EventType) -> bool {
    matches!(
        event_type,
        EventType::EV_SEPARATOR
            | EventType::EV_EFI_VARIABLE_DRIVER_CONFIG
            | EventType::EV_EFI_GPT_EVENT
            | EventType::EV_EFI_ACTION
    )
}
