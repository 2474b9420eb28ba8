//! SGX quotes: what the machinery for TDX verifies as well.

use super::appraise::{self, Grounds};
use super::body::Body;
use super::claims::SgxClaims;
use super::qe::Qe;
use super::quote::{Quote, Signed};
use super::{TdxReason, check_report_data};
use crate::endorsement::intel::VerifiedCollateral;
use crate::evidence::snp::ReportDataExpectation;
use crate::rejection::Rejection;
use crate::time::UnixMillis;
use crate::verified::Verified;

/// Verifies an SGX quote of version 3, 4 or 5, as [`super::verify`] does a TDX quote.
///
/// # Errors
/// The first reason why the quote is not believed.
pub fn verify(
    quote: &[u8],
    collateral: &VerifiedCollateral,
    report_data: ReportDataExpectation<'_>,
    now: UnixMillis,
) -> Result<SgxClaims, Rejection> {
    let quote = Quote::parse(quote)?;
    let pck = collateral.endorse_pck(quote.pck_chain()?, now)?;
    let qe = Qe::check(&quote, &pck)?;
    let signed = Verified::read(qe.verify(&quote)?, Signed::read)?;
    let Body::Sgx(report) = &signed.body else {
        return Err(TdxReason::OtherTee.because("an enclave report", signed.kind));
    };
    check_report_data(&report.report_data, report_data)?;
    let grounds = Grounds { pck: &pck, collateral, qe: &qe.report, auth_data_bytes: qe.auth_data_bytes, now };
    appraise::enclave(&signed, report, grounds)
}
