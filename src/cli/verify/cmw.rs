//! Cases about conceptual message wrappers.

use countersign_attestation::cmw::{self, Cmw};
use countersign_attestation::result::jws::Jwk;
use countersign_attestation::x509::Certificate;
use countersign_attestation::{Rejection, UnixMillis};
use serde_json::{Value, json};

use super::{CaseError, CaseFiles, Judgement, missing_file};

/// Judges a wrapper: whether it is one.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(bytes) = files.read("cmw")? else { return Ok(missing_file("cmw")) };
    Ok(Cmw::decode(&bytes).map_or_else(Judgement::Rejected, |cmw| Judgement::Accepted(describe(&cmw))))
}

/// Judges a signed wrapper under its signer's key.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_signed(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let (Some(bytes), Some(key)) = (files.read("cmw")?, files.read("key")?) else {
        return Ok(missing_file("cmw and key"));
    };
    let judge = || -> Result<Value, Rejection> {
        let cmw = cmw::verify_signed(&bytes, &Jwk::of_peer(&key)?.verifier())?;
        Ok(describe(&cmw))
    };
    Ok(judge().map_or_else(Judgement::Rejected, Judgement::Accepted))
}

/// Judges the wrapper in a certificate that is within its dates.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_certificate(files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    let Some(der) = files.read("certificate")? else { return Ok(missing_file("certificate")) };
    let judge = || -> Result<Value, Rejection> {
        let certificate = Certificate::parse(&der)?;
        certificate.check_valid_at(now)?;
        Ok(describe(&Cmw::of_certificate(&certificate)?))
    };
    Ok(judge().map_or_else(Judgement::Rejected, Judgement::Accepted))
}

fn describe(cmw: &Cmw) -> Value {
    match cmw {
        Cmw::Record(record) => {
            json!({ "type": record.content.to_string(), "bytes": record.value.len(), "indicator": record.indicator })
        }
        Cmw::Collection(collection) => {
            let entries: Value =
                collection.entries.iter().map(|(label, entry)| (label.to_string(), describe(entry))).collect();
            json!({ "collection_type": collection.collection_type, "entries": entries })
        }
    }
}
