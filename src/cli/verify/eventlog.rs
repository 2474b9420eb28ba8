//! Event log cases: recorded logs that must be read (`eventlog-parse`), and logs with the PCR values of their machine
//! (`eventlog-replay`). Recorded logs may have SHA-1 alone; a live one with nothing else is denied.

use std::collections::BTreeMap;

use countersign_attestation::Rejection;
use countersign_attestation::evidence::bundle::BundleReason;
use countersign_attestation::evidence::eventlog::{
    BankReplay, EventLog, EventLogReason, check_data, is_digest_of, must_hash_to_digest,
};
use countersign_attestation::evidence::tpm::algorithm::TpmHash;
use countersign_attestation::evidence::tpm::quote::RecordedValues;
use serde_json::{Value, json};

use super::tpm::read_json_values;
use super::{CaseError, CaseFiles, Judgement};

/// PCRs that firmware and boot loaders alone extend: a log that leaves one out is not the whole log.
fn is_firmware_pcr(index: u8) -> bool {
    matches!(index, 0..=9 | 14)
}

/// Judges a log alone: it is read to its end.
///
/// # Errors
/// [`CaseError`] when the file cannot be read.
pub fn judge_parse(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(bytes) = files.read("eventlog")? else { return Ok(Judgement::Rejected(missing("event log"))) };
    Ok(match EventLog::parse(&bytes) {
        Ok(log) => Judgement::Accepted(json!({ "details": Value::Object(details(&log)) })),
        Err(rejection) => Judgement::Rejected(rejection),
    })
}

/// Judges a log with recorded PCR values: it replays to every one that it extends and to every one of firmware's, and
/// data that must hash to its digest does, in every bank there are values of.
///
/// # Errors
/// [`CaseError`] when a file cannot be read.
pub fn judge_replay(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(bytes) = files.read("eventlog")? else { return Ok(Judgement::Rejected(missing("event log"))) };
    let Some(pcrs) = files.read("pcrs")? else { return Ok(Judgement::Rejected(missing("PCR values"))) };
    Ok(match judge_recorded(&bytes, &pcrs) {
        Ok(details) => Judgement::Accepted(json!({ "details": Value::Object(details) })),
        Err(rejection) => Judgement::Rejected(rejection),
    })
}

fn missing(what: &str) -> Rejection {
    BundleReason::Missing.because(what, "no file for it")
}

fn judge_recorded(bytes: &[u8], pcrs: &[u8]) -> Result<serde_json::Map<String, Value>, Rejection> {
    let log = EventLog::parse(bytes)?;
    let given = read_json_values(pcrs)?;
    let given: RecordedValues = given.into_iter().filter(|(_, values)| !values.is_empty()).collect();
    if given.is_empty() {
        return Err(EventLogReason::Replay.because("PCR values", "none"));
    }
    for (hash, values) in &given {
        if !log.has_bank(*hash) {
            return Err(EventLogReason::BankMissing.because(hash.name(), "no digests of it"));
        }
        let replay = log.replay_bank(*hash);
        let differs = |(index, value): &(&u8, &Vec<u8>)| replay.value(**index) != Some(value.as_slice());
        let judged = |(index, _): &(&u8, &Vec<u8>)| replay.is_extended(**index) || is_firmware_pcr(**index);
        if let Some((index, value)) = values.iter().filter(judged).find(differs) {
            let found = hex::encode(replay.value(*index).unwrap_or_default());
            let expected = format!("PCR {index} of {}, {}", hash.name(), hex::encode(value));
            return Err(EventLogReason::Replay.because(expected, found));
        }
        for event in log.events().filter(|event| event.is_extended()) {
            check_data(&event, *hash)?;
        }
    }
    let mut details = details(&log);
    details.insert("replay_vs_given_pcrs".to_owned(), replay_against(&log, &given));
    Ok(details)
}

/// How a log compares with PCR values, bank by bank: `match`, `mismatch` and `not_given` PCRs.
#[must_use]
pub fn replay_against(log: &EventLog<'_>, given: &RecordedValues) -> Value {
    let compared = |hash: &TpmHash, values: &BTreeMap<u8, Vec<u8>>| {
        let replay = log.replay_bank(*hash);
        let (mut matching, mut mismatching, mut not_given) = (Vec::new(), Vec::new(), Vec::new());
        for (index, replayed) in replay.extended() {
            match values.get(&index) {
                Some(value) if value == replayed => matching.push(index),
                Some(_) => mismatching.push(index),
                None => not_given.push(index),
            }
        }
        json!({ "match": matching, "mismatch": mismatching, "not_given": not_given })
    };
    given.iter().map(|(hash, values)| (hash.name().to_owned(), compared(hash, values))).collect()
}

/// What a recorded quote's log says, in the names of a manifest: one comparison with the quoted values for each log.
/// A log that cannot be read compares with nothing.
#[must_use]
pub fn quote_replays(logs: &[Vec<u8>], given: &RecordedValues) -> Value {
    let replay = |bytes: &Vec<u8>| {
        let Ok(log) = EventLog::parse(bytes) else { return Value::Null };
        let compared = |hash: &TpmHash, values: &BTreeMap<u8, Vec<u8>>| {
            let bank = log.replay_bank(*hash);
            let (matching, mismatch): (Vec<u8>, Vec<u8>) = values
                .iter()
                .filter(|(index, _)| bank.is_extended(**index))
                .map(|(index, _)| *index)
                .partition(|index| values.get(index).map(Vec::as_slice) == bank.value(*index));
            json!({ "match": matching, "mismatch": mismatch })
        };
        given.iter().map(|(hash, values)| (hash.name().to_owned(), compared(hash, values))).collect()
    };
    Value::Array(logs.iter().map(replay).collect())
}

/// What a log says of itself, in the names of a manifest's details.
fn details(log: &EventLog<'_>) -> serde_json::Map<String, Value> {
    let replayed = |bank: &BankReplay| -> Value {
        bank.extended().map(|(index, value)| (index.to_string(), Value::from(hex::encode(value)))).collect()
    };
    let replay = log.replay();
    let replayed: serde_json::Map<String, Value> = replay
        .banks()
        .filter(|bank| bank.extended().next().is_some())
        .map(|bank| (bank.hash().name().to_owned(), replayed(bank)))
        .collect();
    let banks: Vec<String> = log.banks().iter().map(|bank| bank.name()).collect();
    let (ok, bad) = digests_of_data(log);
    let mut details = serde_json::Map::new();
    details.insert("format".to_owned(), log.format().name().into());
    details.insert("spec_id".to_owned(), log.spec_id().map(|spec_id| spec_id.to_string()).into());
    details.insert("banks".to_owned(), banks.into());
    details.insert("events".to_owned(), log.event_count().into());
    details.insert("startup_locality".to_owned(), log.startup_locality().into());
    details.insert("hcrtm_event".to_owned(), log.has_hcrtm_event().into());
    details.insert("trailing_padding".to_owned(), log.trailing_padding().into());
    details.insert("digest_matches_event_data".to_owned(), json!({ "ok": ok, "bad_in_checked_types": bad }));
    details.insert("replayed_pcrs".to_owned(), Value::Object(replayed));
    details
}

/// How many digests are of their event's data as it is, and how many are not although their type says so.
fn digests_of_data(log: &EventLog<'_>) -> (u64, u64) {
    let (mut ok, mut bad) = (0_u64, 0_u64);
    for event in log.events().filter(|event| event.is_extended()) {
        for (algorithm, digest) in event.digests.iter() {
            let Ok(hash) = TpmHash::from_id(algorithm) else { continue };
            match is_digest_of(hash, digest, &[event.data]) {
                true => ok = ok.saturating_add(1),
                false if must_hash_to_digest(event.event_type) => bad = bad.saturating_add(1),
                false => {}
            }
        }
    }
    (ok, bad)
}
