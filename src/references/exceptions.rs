//! Waivers and denied hardware: what an operator accepts although the standards refuse it, and what an operator refuses
//! although its vendor vouches for it.

use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::checkpoint::NoteKey;
use countersign_policies::finding::{Finding, PolicyReason};
use countersign_policies::instance::{DENIALS_MAX, Denial};
use countersign_policies::waiver::{SignedWaiver, WAIVERS_MAX, Waiver};
use serde::{Deserialize, Serialize};

use crate::problem::{Problem, Refusal};
use crate::references::{LoadError, References};
use crate::store::{Store, Table, Write};

/// A waiver as it is stored. An ended one stays: its id and its signature are never good again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredWaiver {
    signed: SignedWaiver,
    /// When it was ended; absent while it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended_at: Option<UnixMillis>,
}

impl StoredWaiver {
    fn write(id: &str, waiver: &Waiver, ended_at: Option<UnixMillis>) -> Result<Write, Problem> {
        let stored = Self { signed: waiver.signed().clone(), ended_at };
        Ok(Write::put(Table::Waivers, id, serde_json::to_vec(&stored).map_err(|_| Refusal::Internal.plain())?))
    }
}

/// The waivers that have not been ended. One whose date has passed while the broker was down is among them: it counts
/// for nothing, and is ended like any other.
pub(super) fn load_waivers(store: &Store) -> Result<Vec<Waiver>, LoadError> {
    let mut waivers = Vec::new();
    for (id, json) in store.scan(Table::Waivers).map_err(|error| LoadError::Storage(error.to_string()))? {
        let name = || format!("waiver {}", String::from_utf8_lossy(&id));
        let stored: StoredWaiver =
            serde_json::from_slice(&json).map_err(|error| LoadError::Storage(format!("{}: {error}", name())))?;
        if stored.ended_at.is_none() {
            let refused = |finding| LoadError::Refused { name: name(), finding: Box::new(finding) };
            waivers.push(Waiver::from_json(&stored.signed.to_json()).map_err(refused)?);
        }
    }
    Ok(waivers)
}

pub(super) fn load_denials(store: &Store) -> Result<Vec<Denial>, LoadError> {
    let rows = store.scan(Table::Denials).map_err(|error| LoadError::Storage(error.to_string()))?;
    let denial = |(id, json): (Vec<u8>, Vec<u8>)| {
        let name = format!("denial {}", String::from_utf8_lossy(&id));
        Denial::parse(&json).map_err(|finding| LoadError::Refused { name, finding: Box::new(finding) })
    };
    rows.into_iter().map(denial).collect()
}

fn unacceptable(finding: &Finding) -> Problem {
    Problem::unacceptable(finding)
}

impl References {
    /// Registers a waiver that an operator signed with `key`; `record` is called when it is certain to be acceptable
    /// and before it is in force.
    ///
    /// # Errors
    /// What is not acceptable of the waiver, [`Refusal::WaiverExists`], or what `record` refuses.
    pub fn add_waiver(
        &self,
        note: &str,
        key: &NoteKey,
        now: UnixMillis,
        record: impl FnOnce(Sha256Digest) -> Result<(), Problem>,
    ) -> Result<String, Problem> {
        let waiver = Waiver::open(note, key).map_err(|finding| unacceptable(&finding))?;
        waiver.check_term(now).map_err(|finding| unacceptable(&finding))?;
        let id = waiver.id().to_owned();
        let _one = self.changing.lock().map_err(|_| Refusal::Internal.plain())?;
        if self.store.get(Table::Waivers, &id).map_err(|_| Refusal::StoreFailed.plain())?.is_some() {
            return Err(Refusal::WaiverExists.because("an unused id", id));
        }
        let in_force = self.current().waivers.waivers().count();
        if WAIVERS_MAX <= in_force {
            let expected = format_args!("at most {WAIVERS_MAX} waivers in force");
            return Err(unacceptable(&PolicyReason::WaiverCount.because(expected, in_force)));
        }
        // Whoever reads the entry finds the text: it is archived first.
        self.archive.put(&waiver.signed().to_json()).map_err(|_| Refusal::StoreFailed.plain())?;
        record(waiver.digest())?;
        let write = StoredWaiver::write(&id, &waiver, None)?;
        // A crash after `record` leaves an entry about a waiver that is not in force: the operator signs another.
        self.replace(&write, |parts| parts.waivers.push(waiver))?;
        Ok(id)
    }

    /// Ends a waiver for good.
    ///
    /// # Errors
    /// [`Refusal::WaiverUnknown`], or what `record` refuses.
    pub fn end_waiver(
        &self,
        id: &str,
        now: UnixMillis,
        record: impl FnOnce(Sha256Digest) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let _one = self.changing.lock().map_err(|_| Refusal::Internal.plain())?;
        let current = self.current();
        let waiver = current.waivers.get(id).ok_or_else(|| Refusal::WaiverUnknown.plain())?;
        record(waiver.digest())?;
        let write = StoredWaiver::write(id, waiver, Some(now))?;
        self.replace(&write, |parts| parts.waivers.retain(|waiver| waiver.id() != id))
    }

    /// Waivers whose date has passed, still to be ended.
    #[must_use]
    pub fn waivers_past(&self, now: UnixMillis) -> Vec<String> {
        let current = self.current();
        current.waivers.waivers().filter(|waiver| waiver.until() <= now).map(|waiver| waiver.id().to_owned()).collect()
    }

    /// Denies a piece of hardware; `record` is called before it is in force. Denied again, only the reason changes.
    ///
    /// # Errors
    /// What is not acceptable of the denial, or what `record` refuses.
    pub fn deny(
        &self,
        json: &[u8],
        record: impl FnOnce(Sha256Digest) -> Result<(), Problem>,
    ) -> Result<Sha256Digest, Problem> {
        let denial = Denial::parse(json).map_err(|finding| unacceptable(&finding))?;
        let _one = self.changing.lock().map_err(|_| Refusal::Internal.plain())?;
        let denied = self.current().denials.denials().count();
        if DENIALS_MAX <= denied {
            let expected = format_args!("at most {DENIALS_MAX} denied pieces of hardware");
            return Err(unacceptable(&PolicyReason::DenialCount.because(expected, denied)));
        }
        self.archive.put(&denial.to_json()).map_err(|_| Refusal::StoreFailed.plain())?;
        record(denial.digest())?;
        let id = denial.id();
        let write = Write::put(Table::Denials, id.to_hex(), denial.to_json());
        self.replace(&write, |parts| parts.denials.push(denial))?;
        Ok(id)
    }

    /// Believes a piece of hardware again.
    ///
    /// # Errors
    /// [`Refusal::DenialUnknown`], or what `record` refuses.
    pub fn withdraw_denial(
        &self,
        id: Sha256Digest,
        record: impl FnOnce(Sha256Digest) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let _one = self.changing.lock().map_err(|_| Refusal::Internal.plain())?;
        let current = self.current();
        let denial = current.denials.get(id).ok_or_else(|| Refusal::DenialUnknown.plain())?;
        record(denial.digest())?;
        let write = Write::Delete(Table::Denials, id.to_hex().into_bytes());
        self.replace(&write, |parts| parts.denials.retain(|denial| denial.id() != id))
    }
}
