//! IMA cases: recorded measurement lists (`ima-ascii`, `ima-binary`, `ima-ascii-binary`), alone or with the PCR values
//! that they must lead to, and lists under a Keylime runtime policy (`ima-policy`).

use countersign_attestation::Rejection;
use countersign_attestation::evidence::ima::{
    Extension, ImaEntry, ImaList, ImaReason, Replay, VerifiedIma, ascii, verify_recorded,
};
use countersign_attestation::evidence::tpm::algorithm::TpmHash;
use countersign_policies::ima::ImaRules;
use serde_json::{Map, Value, json};

use super::tpm::read_json_values;
use super::{CaseError, CaseFiles, Judgement};

/// Banks that a recorded list is replayed into.
const BANKS: [TpmHash; 3] = [TpmHash::Sha1, TpmHash::Sha256, TpmHash::Sha384];

/// Keys of a case: `key_0`, `key_1` and so on.
const KEYS_MAX: usize = 16;

/// Judges an ASCII list.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_ascii(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let (text, pcrs) = (files.read("ima_ascii")?, files.read("pcrs")?);
    Ok(judgement(text.as_deref().ok_or_else(missing).and_then(|text| {
        let (binary, hash) = ascii::to_binary(text)?;
        details(ImaList::with_hash(&binary, hash), pcrs.as_deref())
    })))
}

/// Judges a binary list.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_binary(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let (list, pcrs) = (files.read("ima_binary")?, files.read("pcrs")?);
    Ok(judgement(list.as_deref().ok_or_else(missing).and_then(|list| details(binary_list(list), pcrs.as_deref()))))
}

/// Judges one boot's list read in both forms: one must be the beginning of the other.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_both(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let (text, list, pcrs) = (files.read("ima_ascii")?, files.read("ima_binary")?, files.read("pcrs")?);
    let judge = || {
        let (text, list) = (text.as_deref().ok_or_else(missing)?, list.as_deref().ok_or_else(missing)?);
        let (of_ascii, hash) = ascii::to_binary(text)?;
        let (binary_is_prefix, ascii_is_prefix) = (of_ascii.starts_with(list), list.starts_with(&of_ascii));
        if !binary_is_prefix && !ascii_is_prefix {
            return Err(ImaReason::Malformed.because("two readings of one list", "entries that differ"));
        }
        let mut both = Map::new();
        both.insert("ascii".to_owned(), details(ImaList::with_hash(&of_ascii, hash), pcrs.as_deref())?.into());
        both.insert("binary".to_owned(), details(binary_list(list), pcrs.as_deref())?.into());
        both.insert("binary_is_prefix_of_ascii".to_owned(), binary_is_prefix.into());
        Ok(both)
    };
    Ok(judgement(judge()))
}

/// Judges a list under a Keylime runtime policy, registered keys, or both.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_policy(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let (text, list, pcrs) = (files.read("ima_ascii")?, files.read("ima_binary")?, files.read("pcrs")?);
    let policy = files.read("policy")?;
    let mut keys = Vec::new();
    for index in 0..KEYS_MAX {
        keys.extend(files.read(&format!("key_{index}"))?);
    }
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let rules = match ImaRules::parse_keylime(policy.as_deref(), &keys) {
        Ok(rules) => rules,
        Err(finding) => return Ok(Judgement::Denied(vec![finding])),
    };
    let judge = || {
        let of_ascii;
        let list = match (&text, &list) {
            (Some(text), _) => {
                let (binary, hash) = ascii::to_binary(text)?;
                of_ascii = binary;
                ImaList::with_hash(&of_ascii, hash)
            }
            (None, Some(list)) => binary_list(list),
            (None, None) => return Err(missing()),
        };
        let details = details(list, pcrs.as_deref())?;
        let entries: Vec<ImaEntry<'_>> = list.entries().collect::<Result<_, _>>()?;
        Ok((details, rules.tally_recorded(entries.into_iter())))
    };
    let (details, tally) = match judge() {
        Ok(judged) => judged,
        Err(rejection) => return Ok(Judgement::Rejected(rejection)),
    };
    let findings = tally.findings();
    if !findings.is_empty() {
        return Ok(Judgement::Denied(findings));
    }
    Ok(Judgement::Accepted(json!({ "details": details, "tally": serde_json::to_value(&tally)? })))
}

fn judgement(details: Result<Map<String, Value>, Rejection>) -> Judgement {
    match details {
        Ok(details) => Judgement::Accepted(json!({ "details": details })),
        Err(rejection) => Judgement::Rejected(rejection),
    }
}

fn missing() -> Rejection {
    ImaReason::Malformed.because("a measurement list", "no file")
}

/// The list with the hash that its first template hash is of: the file does not name it.
fn binary_list(bytes: &[u8]) -> ImaList<'_> {
    let whole = |hash: &TpmHash| {
        let list = ImaList::with_hash(bytes, *hash);
        list.entries().next().is_some_and(|entry| entry.is_ok_and(|entry| entry.check_template_hash(*hash).is_ok()))
    };
    let hashes = [TpmHash::Sha1, TpmHash::Sha256, TpmHash::Sha384, TpmHash::Sha512];
    ImaList::with_hash(bytes, hashes.into_iter().find(whole).unwrap_or(TpmHash::Sha1))
}

fn details(list: ImaList<'_>, pcrs: Option<&[u8]>) -> Result<Map<String, Value>, Rejection> {
    let verified = match pcrs {
        Some(json) => Some(verify_recorded(list, &read_json_values(json)?)?),
        None => None,
    };
    let extension = if verified.as_ref().is_some_and(|verified| extends_sha1_alone(verified)) {
        Extension::PaddedSha1
    } else {
        Extension::TemplateHash
    };
    let replay = Replay::of(list, &BANKS, extension)?;
    if replay.entries == 0 {
        return Err(ImaReason::Malformed.because("an entry", "an empty list"));
    }
    let mut details = Map::new();
    let template = |((pcr, name), count): (&(u8, Vec<u8>), &u64)| {
        (format!("pcr{pcr}/{}", String::from_utf8_lossy(name)), Value::from(*count))
    };
    details.insert("entries".to_owned(), replay.entries.into());
    details.insert("templates".to_owned(), Map::from_iter(replay.templates.iter().map(template)).into());
    // One that does not match rejects.
    details.insert("template_hash_mismatches".to_owned(), 0.into());
    for (pcr, violations) in &replay.violations {
        details.insert(format!("violations_pcr{pcr}"), (*violations).into());
    }
    let values = replay.values.iter().map(|(pcr, banks)| {
        let banks = banks.iter().map(|(bank, value)| ((*bank).to_owned(), Value::from(value.to_string())));
        (pcr.to_string(), Value::from(Map::from_iter(banks)))
    });
    details.insert("replay".to_owned(), Map::from_iter(values).into());
    if let Some(verified) = verified {
        details.insert("matches_after_entries".to_owned(), verified.state().entries.into());
        details.insert("unattested_entries".to_owned(), verified.unattested().into());
    }
    Ok(details)
}

/// Whether a bank that is not SHA-1 was extended with SHA-1 digests.
fn extends_sha1_alone(verified: &VerifiedIma<'_>) -> bool {
    verified.state().extensions.values().any(|extension| extension.is_sha1())
}
