//! Documents of Intel's signer of TCBs by themselves: TCB info (`collateral-tcbinfo`), identities of quoting enclaves
//! (`collateral-qeidentity`), and the form of either alone (`collateral-parse`).

use countersign_attestation::endorsement::intel::{IntelReason, QeIdentity, TcbInfo, TcbKind, Validity, read_recorded};
use countersign_attestation::{Rejection, UnixMillis};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::tdx::case_anchors;
use super::{CaseError, CaseFiles, Judgement};

/// A document as Intel serves it: the signature is over exactly the octets of the member.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Served<'a> {
    #[serde(borrow, default, rename = "tcbInfo")]
    tcb_info: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "enclaveIdentity")]
    enclave_identity: Option<&'a RawValue>,
    signature: String,
}

/// What the document says of its platforms, spelt as it spells it.
#[derive(Debug, Default, Deserialize)]
struct Spelt {
    #[serde(default)]
    fmspc: Option<String>,
}

impl<'a> Served<'a> {
    fn read(body: &'a [u8]) -> Result<(Document<'a>, Vec<u8>), Rejection> {
        let schema = |found: String| IntelReason::Schema.because("tcbInfo or enclaveIdentity, and signature", found);
        let served: Self = serde_json::from_slice(body).map_err(|error| schema(error.to_string()))?;
        let signature = hex::decode(&served.signature).map_err(|error| schema(error.to_string()))?;
        match (served.tcb_info, served.enclave_identity) {
            (Some(text), None) => Ok((Document::TcbInfo(text.get()), signature)),
            (None, Some(text)) => Ok((Document::EnclaveIdentity(text.get()), signature)),
            (Some(_), Some(_)) => Err(schema("both documents".to_owned())),
            (None, None) => Err(schema("neither document".to_owned())),
        }
    }
}

/// The signed text.
#[derive(Clone, Copy, Debug)]
enum Document<'a> {
    TcbInfo(&'a str),
    EnclaveIdentity(&'a str),
}

impl<'a> Document<'a> {
    const fn text(self) -> &'a str {
        match self {
            Self::TcbInfo(text) | Self::EnclaveIdentity(text) => text,
        }
    }

    /// What it says, and when.
    fn details(self, text: &str) -> Result<(Value, Validity), Rejection> {
        let second = |time: UnixMillis| time.to_string().replace(".000Z", "Z");
        Ok(match self {
            Self::TcbInfo(_) => {
                let info = TcbInfo::read(text)?;
                let spelt: Spelt = serde_json::from_str(text).unwrap_or_default();
                // Version 2 has no id.
                let id = match (info.version, info.kind) {
                    (2, _) => None,
                    (_, TcbKind::Sgx) => Some("SGX"),
                    (_, TcbKind::Tdx) => Some("TDX"),
                };
                let details = json!({
                    "id": id,
                    "fmspc": spelt.fmspc,
                    "issue_date": second(info.issue_date),
                    "next_update": second(info.next_update),
                    "tcb_evaluation_data_number": info.evaluation_data_number,
                    "levels": info.levels(),
                });
                (details, Validity { from: info.issue_date, until: info.next_update })
            }
            Self::EnclaveIdentity(_) => {
                let identity = QeIdentity::read(text)?;
                let details = json!({
                    "id": identity.id.name(),
                    "fmspc": Value::Null,
                    "issue_date": second(identity.issue_date),
                    "next_update": second(identity.next_update),
                    "tcb_evaluation_data_number": identity.evaluation_data_number,
                    "levels": identity.levels(),
                });
                (details, Validity { from: identity.issue_date, until: identity.next_update })
            }
        })
    }
}

/// Judges the form of a document: nothing of it is believed.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_form(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let body = files.read("body")?.unwrap_or_default();
    let read = Served::read(&body).and_then(|(document, _)| document.details(document.text()));
    Ok(match read {
        Ok((details, _)) => Judgement::Accepted(json!({ "details": details })),
        Err(rejection) => Judgement::Rejected(rejection),
    })
}

/// Judges a document with the certificates of its signer: signature, chain, form and time.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_signed(files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    let body = files.read("body")?.unwrap_or_default();
    let chain = files.read("issuer_chain")?.unwrap_or_default();
    let anchors = case_anchors(files)?;
    let judged = || -> Result<Value, Rejection> {
        let chain = str::from_utf8(&chain).map_err(|error| IntelReason::Schema.because("PEM", error))?;
        let (document, signature) = Served::read(&body)?;
        read_recorded(document.text(), &signature, chain, &anchors, now, |text| document.details(text))
    };
    Ok(match judged() {
        Ok(details) => Judgement::Accepted(json!({ "details": details })),
        Err(rejection) => Judgement::Rejected(rejection),
    })
}
