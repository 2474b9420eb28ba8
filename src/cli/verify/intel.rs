//! Intel's collateral by itself: TCB info (`collateral-tcbinfo`) and enclave identities (`collateral-qeidentity`) as
//! Intel's provisioning service answered, with the chain of their signer; and either, read alone (`collateral-parse`).

use countersign_attestation::endorsement::intel::{
    Answer, IntelReason, QeIdentity, TcbInfo, TcbKind, check_qe_identity_alone, check_tcb_info_alone,
};
use countersign_attestation::{Rejection, UnixMillis};
use serde_json::{Value, json};

use super::{CaseError, CaseFiles, Judgement, tdx};

/// Judges TCB info with the chain of its signer.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_tcb_info(files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    let (body, chain) = (files.read("body")?.unwrap_or_default(), files.read("issuer_chain")?.unwrap_or_default());
    let anchors = tdx::case_anchors(files)?;
    Ok(judgement(|| {
        let answer = Answer::tcb_info(&body)?;
        let (info, _) = check_tcb_info_alone(answer.body, &answer.signature, text(&chain)?, &anchors, now)?;
        Ok(tcb_info_claims(&info))
    }))
}

/// Judges an enclave identity with the chain of its signer.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_qe_identity(files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    let (body, chain) = (files.read("body")?.unwrap_or_default(), files.read("issuer_chain")?.unwrap_or_default());
    let anchors = tdx::case_anchors(files)?;
    Ok(judgement(|| {
        let answer = Answer::enclave_identity(&body)?;
        let (identity, _) = check_qe_identity_alone(answer.body, &answer.signature, text(&chain)?, &anchors, now)?;
        Ok(identity_claims(&identity))
    }))
}

/// Judges whether TCB info or an enclave identity can be read; nothing is said of its signature or time.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_parse(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let body = files.read("body")?.unwrap_or_default();
    Ok(judgement(|| match Answer::tcb_info(&body) {
        Ok(answer) => TcbInfo::read(answer.body).map(|info| tcb_info_claims(&info)),
        Err(_) => QeIdentity::read(Answer::enclave_identity(&body)?.body).map(|identity| identity_claims(&identity)),
    }))
}

fn judgement(judge: impl FnOnce() -> Result<Value, Rejection>) -> Judgement {
    match judge() {
        Ok(claims) => Judgement::Accepted(claims),
        Err(rejection) => Judgement::Rejected(rejection),
    }
}

fn text(chain: &[u8]) -> Result<&str, Rejection> {
    core::str::from_utf8(chain).map_err(|error| IntelReason::Chain.because("certificates in PEM", error))
}

fn tcb_info_claims(info: &TcbInfo) -> Value {
    // Version 2 of the structure names no technology: it is of SGX.
    let id = match (info.kind, info.version) {
        (TcbKind::Sgx, 2) => Value::Null,
        (TcbKind::Sgx, _) => json!("SGX"),
        (TcbKind::Tdx, _) => json!("TDX"),
    };
    json!({ "details": {
        "id": id,
        "fmspc": info.fmspc_text,
        "issue_date": tdx::seconds(info.issue_date),
        "next_update": tdx::seconds(info.next_update),
        "tcb_evaluation_data_number": info.evaluation_data_number,
        "levels": info.levels(),
    }})
}

fn identity_claims(identity: &QeIdentity) -> Value {
    json!({ "details": {
        "id": identity.id.name(),
        "fmspc": Value::Null,
        "issue_date": tdx::seconds(identity.issue_date),
        "next_update": tdx::seconds(identity.next_update),
        "tcb_evaluation_data_number": identity.evaluation_data_number,
        "levels": identity.levels(),
    }})
}
