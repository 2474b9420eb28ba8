//! Intel cases: TDX and SGX quotes with collateral (`tdx-quote`, `sgx-quote`), and without (`…-unendorsed`).

use countersign_attestation::anchor::{Assurance, IntelAnchor};
use countersign_attestation::claims::{SgxClaims, TdxClaims};
use countersign_attestation::endorsement::intel::{IntelReason, VerifiedCollateral};
use countersign_attestation::evidence::snp::ReportDataExpectation;
use countersign_attestation::evidence::tdx::recorded::RecordedTdQuote;
use countersign_attestation::evidence::tdx::{self, Quote, TdxReason, sgx};
use countersign_attestation::{Rejection, UnixMillis};
use serde_json::{Value, json};

use crate::collateral::intel::IntelDocuments;

use super::{CaseError, CaseFiles, Judgement};

const ROOT: &[u8] = include_bytes!("../../../firmware-refs/anchors/intel/root.der");

/// The Intel root this release pins.
#[must_use]
pub fn pinned_anchor() -> IntelAnchor {
    IntelAnchor { name: "intel/root.der".to_owned(), assurance: Assurance::Hardware, root: ROOT.to_vec() }
}

/// Reads the collateral file of a case: the parts of DCAP's, version 3.
///
/// # Errors
/// [`IntelReason::Schema`] when it is none.
pub fn read_collateral(text: &[u8]) -> Result<IntelDocuments, Rejection> {
    serde_json::from_slice(text).map_err(|error| IntelReason::Schema.because("the parts of DCAP's collateral", error))
}

/// Judges a TDX quote with the collateral of its case, as strictly as a policy does that says nothing else.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_tdx(files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    judge(files, now, |quote, collateral| {
        let claims = tdx::verify(quote, collateral, ReportDataExpectation::Recorded, now)?;
        claims.check_strict()?;
        let details = tdx_details(&claims);
        Ok((serde_json::to_value(&claims), details))
    })
}

/// Judges an SGX quote with the collateral of its case.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_sgx(files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    judge(files, now, |quote, collateral| {
        let claims = sgx::verify(quote, collateral, ReportDataExpectation::Recorded, now)?;
        let details = sgx_details(&claims);
        Ok((serde_json::to_value(&claims), details))
    })
}

/// The roots a case is judged under: the pinned one; or, where the case says which root to trust, that one alone, as
/// simulated hardware.
pub(super) fn case_anchors(files: CaseFiles<'_>) -> Result<Vec<IntelAnchor>, CaseError> {
    Ok(match files.read("trust_root")? {
        Some(root) => vec![IntelAnchor { name: "trust_root".to_owned(), assurance: Assurance::Simulated, root }],
        None => vec![pinned_anchor()],
    })
}

/// A time as Intel and the manifest write it.
pub(super) fn seconds(time: UnixMillis) -> String {
    time.to_string().replace(".000Z", "Z")
}

type Claimed = (serde_json::Result<Value>, Value);

fn judge(
    files: CaseFiles<'_>,
    now: UnixMillis,
    verify: impl FnOnce(&[u8], &VerifiedCollateral) -> Result<Claimed, Rejection>,
) -> Result<Judgement, CaseError> {
    let quote = files.read("quote")?.unwrap_or_default();
    let collateral = files.read("collateral")?;
    let anchors = case_anchors(files)?;
    let judged = || -> Result<(Claimed, Value), Rejection> {
        let parsed = Quote::parse(&quote)?;
        let missing = || TdxReason::CollateralMissing.because("collateral", "a quote alone");
        let collateral = read_collateral(&collateral.ok_or_else(missing)?)?.endorse(&anchors, now)?;
        let pck = collateral.endorse_pck(parsed.pck_chain()?, now)?;
        let certified = json!({
            "cert_data_type": parsed.certification_types(),
            "pck_issuer": pck.issuer(),
            "pck_not_before": seconds(pck.not_before()),
        });
        Ok((verify(&quote, &collateral)?, certified))
    };
    match judged() {
        Ok(((claims, details), certified)) => {
            let mut claims = claims?;
            if let (Value::Object(claims), Value::Object(mut details), Value::Object(mut certified)) =
                (&mut claims, details, certified)
            {
                details.append(&mut certified);
                claims.insert("details".to_owned(), Value::Object(details));
            }
            Ok(Judgement::Accepted(claims))
        }
        Err(rejection) => Ok(Judgement::Rejected(rejection)),
    }
}

/// What the manifest expects of TDX claims, under its names.
fn tdx_details(claims: &TdxClaims) -> Value {
    let [rtmr0, rtmr1, rtmr2, rtmr3] = &claims.rtmrs;
    let mut details = json!({
        "body": claims.body,
        "tee_tcb_svn": claims.tee_tcb_svn,
        "mr_seam": claims.mr_seam,
        "td_attributes": claims.td_attributes,
        "td_attr_bits": claims.attributes,
        "xfam": claims.xfam,
        "mr_td": claims.mr_td,
        "mr_config_id": claims.mr_config_id,
        "mr_owner": claims.mr_owner,
        "mr_owner_config": claims.mr_owner_config,
        "rtmr0": rtmr0,
        "rtmr1": rtmr1,
        "rtmr2": rtmr2,
        "rtmr3": rtmr3,
        "report_data": claims.report_data,
        "qe_isvsvn": claims.qe.isv_svn,
        "qe_auth_data_len": claims.qe.auth_data_bytes,
        "tcb_status": claims.tcb.status,
        "platform_tcb_status": claims.tcb.platform,
        "qe_tcb_status": claims.tcb.qe,
        "advisory_ids": claims.tcb.advisory_ids,
    });
    if let Value::Object(details) = &mut details {
        let td15 = [("tee_tcb_svn2", &claims.tee_tcb_svn2), ("mr_service_td", &claims.mr_service_td)];
        for (name, value) in td15.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
            details.insert(name.to_owned(), Value::String(value.to_string()));
        }
    }
    details
}

/// What the manifest expects of SGX claims, under its names.
fn sgx_details(claims: &SgxClaims) -> Value {
    json!({
        "body": "sgx",
        "mrenclave": claims.mr_enclave,
        "mrsigner": claims.mr_signer,
        "isvprodid": claims.isv_prod_id,
        "isvsvn": claims.isv_svn,
        "report_data": claims.report_data,
        "attributes": claims.attributes,
        "cpusvn": claims.cpu_svn,
        "qe_isvsvn": claims.qe.isv_svn,
        "qe_auth_data_len": claims.qe.auth_data_bytes,
        "tcb_status": claims.tcb.status,
        "platform_tcb_status": claims.tcb.platform,
        "qe_tcb_status": claims.tcb.qe,
        "advisory_ids": claims.tcb.advisory_ids,
    })
}

/// The TD quote that another kind of case is judged with.
#[derive(Debug)]
pub(super) struct CaseQuote {
    quote: Vec<u8>,
    collateral: Option<Vec<u8>>,
    anchors: Vec<IntelAnchor>,
}

/// What such a quote comes to.
#[derive(Debug)]
pub(super) enum TdEvidence {
    /// With collateral: all that is said of a platform.
    Endorsed(Box<TdxClaims>),
    /// Without: its signatures alone.
    Recorded(Box<RecordedTdQuote>),
}

impl CaseQuote {
    /// The quote in this role, with the collateral of its case if there is any.
    pub(super) fn read(role: &str, files: CaseFiles<'_>) -> Result<Option<Self>, CaseError> {
        let Some(quote) = files.read(role)? else { return Ok(None) };
        Ok(Some(Self { quote, collateral: files.read("collateral")?, anchors: case_anchors(files)? }))
    }

    /// Verifies it, as far as the case goes.
    pub(super) fn verify(&self, now: UnixMillis) -> Result<TdEvidence, Rejection> {
        let Some(collateral) = &self.collateral else {
            return RecordedTdQuote::verify(&self.quote, &self.anchors, now).map(Box::new).map(TdEvidence::Recorded);
        };
        let collateral = read_collateral(collateral)?.endorse(&self.anchors, now)?;
        let claims = tdx::verify(&self.quote, &collateral, ReportDataExpectation::Recorded, now)?;
        claims.check_strict()?;
        Ok(TdEvidence::Endorsed(Box::new(claims)))
    }
}
