//! Cases about attestation results of other verifiers.

use countersign_attestation::result::ear::Tier;
use countersign_attestation::result::jws::Jwk;
use countersign_attestation::result::peer_ear::{self, Appraisal, Asked, PeerEar};
use countersign_attestation::{Rejection, UnixMillis};
use serde_json::{Value, json};

use super::{Case, CaseError, CaseFiles, Judgement, missing_file};

/// Judges a signed result under its verifier's key; every submodule has to affirm.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_jwt(case: &Case, files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    let (Some(token), Some(key)) = (files.read("token")?, files.read("key")?) else {
        return Ok(missing_file("token and key"));
    };
    let nonce = case.expect_detail.get("expected_nonce").and_then(Value::as_str);
    let judge = || -> Result<Value, Rejection> {
        let token = String::from_utf8_lossy(&token);
        let ear = PeerEar::verify(token.trim_ascii_end(), &Jwk::of_peer(&key)?, &Asked { nonce, now })?;
        Ok(describe(&ear))
    };
    Ok(judge().map_or_else(Judgement::Rejected, Judgement::Accepted))
}

/// Judges claims without a signature: their form, their dates, and that every submodule affirms.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_claims(files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    let Some(claims) = files.read("claims")? else { return Ok(missing_file("claims")) };
    let judge = || -> Result<Value, Rejection> {
        let ear = PeerEar::read(&claims)?;
        ear.check(&Asked { nonce: None, now })?;
        ear.check_affirming()?;
        Ok(describe(&ear))
    };
    Ok(judge().map_or_else(Judgement::Rejected, Judgement::Accepted))
}

/// Judges appraisals alone.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_submods(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(submods) = files.read("submods")? else { return Ok(missing_file("submods")) };
    let judge = || -> Result<Value, Rejection> {
        let submods = peer_ear::read_submods(&submods)?;
        peer_ear::check_affirming(&submods)?;
        let statuses: Value = submods.iter().map(|(name, appraisal)| (name.clone(), status(appraisal))).collect();
        let vectors: Value = submods.iter().map(|(name, appraisal)| (name.clone(), json!(appraisal.vector))).collect();
        Ok(json!({ "details": { "statuses": statuses, "vectors": vectors } }))
    };
    Ok(judge().map_or_else(Judgement::Rejected, Judgement::Accepted))
}

/// Judges claims in CBOR for what can be read of them, and their dates.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_cbor(files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    let Some(claims) = files.read("ear")? else { return Ok(missing_file("ear")) };
    let judge = || -> Result<Value, Rejection> {
        let ear = PeerEar::read_cbor(&claims)?;
        ear.check(&Asked { nonce: None, now })?;
        let mut claims = describe(&ear);
        if let Some(details) = claims.get_mut("details").and_then(Value::as_object_mut) {
            details.insert("status_none_is".to_owned(), 0.into());
        }
        Ok(claims)
    };
    Ok(judge().map_or_else(Judgement::Rejected, Judgement::Accepted))
}

fn describe(ear: &PeerEar) -> Value {
    let submods: Value = ear.submods.iter().map(|(name, appraisal)| (name.clone(), status(appraisal))).collect();
    json!({ "details": { "profile": ear.profile, "iat": ear.iat, "submods": submods }, "verifier": ear.verifier })
}

fn status(appraisal: &Appraisal) -> Value {
    let status: Tier = appraisal.status;
    status.to_string().into()
}
