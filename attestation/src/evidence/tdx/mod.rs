//! Intel TDX quotes, and the SGX quotes that the same machinery verifies (Intel TDX DCAP Quoting Library API,
//! appendix A; the checks are those of clause 4.1.2.5 of Intel's quote verification library, and a few more).
//!
//! A quote is signed by an attestation key; the report of the quoting enclave (QE) says whose key that is; the
//! platform's PCK signed that report; Intel certified the PCK. What Intel says about the platform's, the QE's and the
//! TDX module's TCB comes as collateral: [`crate::endorsement::intel`].

mod appraise;
pub mod body;
pub mod claims;
mod qe;
pub mod quote;
pub mod recorded;
pub mod rtmr;
pub mod sgx;

use self::appraise::Grounds;
use self::qe::{Qe, check_pck};
use self::quote::Signed;
use crate::binder::BindingReason;
use crate::endorsement::intel::{VerifiedCollateral, VerifiedPck};
use crate::evidence::snp::ReportDataExpectation;
use crate::rejection::{Rejection, reasons};
use crate::time::UnixMillis;
use crate::verified::Verified;
pub use body::{Body, BodyKind, EnclaveReport, TdReport};
pub use claims::{SgxClaims, TdxClaims};
pub use qe::VerifiedQe;
pub use quote::Quote;

reasons! {
    /// Why a TDX or SGX quote is not believed.
    TdxReason {
        /// Bounded before anything is read.
        TooLarge = "tdx.too_large",
            "the quote is longer than any genuine one",
            "send the quote as the quoting service returned it";
        /// Quoting Library API, appendix A.3.
        Length = "tdx.length",
            "a part of the quote does not have the length it says",
            "send the quote as the quoting service returned it, all of it";
        /// Of the header.
        Version = "tdx.header.version",
            "the quote has a version that is not known here",
            "use a quoting service that makes quotes of version 4 or 5";
        /// Of the header.
        KeyType = "tdx.header.key_type",
            "the attestation key is not of the type that Intel's quoting enclaves use",
            "use Intel's quoting enclave with ECDSA P-256";
        /// Of the header.
        TeeType = "tdx.header.tee_type",
            "the quote is of an unknown kind of TEE",
            "quote a trust domain, or an enclave";
        /// Of the header.
        Vendor = "tdx.header.vendor",
            "the quote is not of Intel's quoting enclave",
            "use Intel's quoting enclave";
        /// Version 5.
        BodyType = "tdx.body.type",
            "the quote's body is of an unknown type, or not of the kind of TEE that the header names",
            "update Countersign if the body is of a newer TDX";
        /// Version 5.
        BodySize = "tdx.body.size",
            "the quote's body does not have the size of its type",
            "send the quote as the quoting service returned it";
        /// Anyone can add bytes there.
        Trailing = "tdx.trailing",
            "something other than zeros follows the quote",
            "send the quote alone, or padded with zeros";
        /// 6 since version 4, and 5 inside.
        CertificationType = "tdx.certification.type",
            "the quote does not carry the PCK's certificate chain",
            "provision the platform so that its quoting service has the PCK certificate chain";
        /// 4.1.2.5.13 of Intel's library.
        QeSignature = "tdx.qe.signature",
            "the platform's PCK did not sign the quoting enclave's report",
            "send the quote with the PCK certificate chain of the platform that made it";
        /// Of the QE.
        QeDebug = "tdx.qe.debug",
            "the quoting enclave can be debugged, so its key is everybody's",
            "use Intel's production quoting enclave";
        /// 4.1.2.5.14.
        QeReportData = "tdx.qe.report_data",
            "the quoting enclave's report is of another attestation key",
            "send the quote as the quoting service returned it";
        /// Of 64 bytes the first 32 are the hash.
        QeReportDataUpper = "tdx.qe.report_data_upper",
            "the quoting enclave's report says more than which key it has",
            "use Intel's quoting enclave";
        /// A kept one counts for what it was made from.
        QeOther = "tdx.qe.other",
            "the quote is of another quoting enclave, or judged by other collateral, than the one kept",
            "endorse the quoting enclave of this quote";
        /// A kept one counts for what it was made from.
        PckOther = "tdx.pck.other",
            "the quote carries another PCK certificate chain, or is judged by other collateral, than the one kept",
            "endorse the PCK certificate chain of this quote";
        /// 4.1.2.5.17.
        Signature = "tdx.signature",
            "the attestation key did not sign the quote",
            "send the quote as the quoting service returned it";
        /// The other kind has its own verifier.
        OtherTee = "tdx.tee",
            "the quote is of the other kind of TEE",
            "send a TDX quote for a trust domain, an SGX quote for an enclave";
        /// TDATTRIBUTES, or ATTRIBUTES of an enclave.
        Debug = "tdx.debug",
            "the host can read and write what runs there",
            "launch without DEBUG";
        /// 4.1.2.5.12.1.
        ModuleSigner = "tdx.module.signer",
            "the TDX module is not signed by whom Intel says",
            "run Intel's TDX module";
        /// 4.1.2.5.12.2.
        ModuleAttributes = "tdx.module.attributes",
            "the TDX module runs with other attributes than Intel says",
            "run Intel's production TDX module";
        /// TDATTRIBUTES.
        Profiling = "tdx.attributes.profiling",
            "the host can watch the trust domain run",
            "launch without HGS_PLUS_PROF, PERF_PROF and PMT_PROF";
        /// TDATTRIBUTES.
        AttributesReserved = "tdx.attributes.reserved",
            "the trust domain has attributes whose meaning is not known",
            "launch with attributes of the TDX module specification; update Countersign if they are newer";
        /// TDATTRIBUTES.
        Migratable = "tdx.attributes.migratable",
            "the trust domain can be moved to another platform",
            "launch without MIGRATABLE, or have the policy name it";
        /// TDATTRIBUTES.
        SeptVe = "tdx.attributes.sept_ve",
            "the host can raise exceptions on the trust domain's pages",
            "launch with SEPT_VE_DISABLE, or have the policy name it";
        /// MR_SERVICETD, SERVTD_EXT.
        ServiceTd = "tdx.service_td",
            "a service TD can look into the trust domain",
            "launch without a service TD, or have the policy name it";
        /// Fail closed.
        CollateralMissing = "tdx.collateral.missing",
            "there is no collateral for the platform",
            "fetch the collateral of the platform's FMSPC from Intel's provisioning service";
    }
}

/// Verifies a TDX quote: PCK chain, quoting enclave, signature, TDX module and TCB, under collateral that was verified
/// before: two P-256 signatures, and those of the PCK's chain.
///
/// # Errors
/// The first reason why the quote is not believed.
pub fn verify(
    quote: &[u8],
    collateral: &VerifiedCollateral,
    report_data: ReportDataExpectation<'_>,
    now: UnixMillis,
) -> Result<TdxClaims, Rejection> {
    let quote = Quote::parse(quote)?;
    let pck = collateral.endorse_pck(quote.pck_chain()?, now)?;
    warm(&quote, &pck, collateral, report_data, now)
}

/// [`verify`] with the PCK of the very chain in the quote, endorsed before by the same collateral: two P-256
/// signatures.
///
/// # Errors
/// The first reason why the quote is not believed, [`TdxReason::PckOther`] among them.
pub fn verify_warm(
    quote: &[u8],
    pck: &VerifiedPck,
    collateral: &VerifiedCollateral,
    report_data: ReportDataExpectation<'_>,
    now: UnixMillis,
) -> Result<TdxClaims, Rejection> {
    let quote = Quote::parse(quote)?;
    check_pck(&quote, pck, collateral, now)?;
    warm(&quote, pck, collateral, report_data, now)
}

/// What is left when PCK and collateral were found to hold now.
fn warm(
    quote: &Quote<'_>,
    pck: &VerifiedPck,
    collateral: &VerifiedCollateral,
    report_data: ReportDataExpectation<'_>,
    now: UnixMillis,
) -> Result<TdxClaims, Rejection> {
    let qe = Qe::check(quote, pck)?;
    let signed = Verified::read(qe.verify(quote)?, Signed::read)?;
    let grounds = Grounds { pck, collateral, qe: &qe.report, auth_data_bytes: qe.auth_data_bytes, now };
    judge(&signed, grounds, report_data)
}

/// [`verify`] with the quoting enclave of the very bytes in the quote, endorsed before by the same collateral: one
/// P-256 signature.
///
/// # Errors
/// The first reason why the quote is not believed, [`TdxReason::QeOther`] among them.
pub fn verify_hot(
    quote: &[u8],
    qe: &VerifiedQe,
    collateral: &VerifiedCollateral,
    report_data: ReportDataExpectation<'_>,
    now: UnixMillis,
) -> Result<TdxClaims, Rejection> {
    let quote = Quote::parse(quote)?;
    qe.check_is_of(&quote, collateral, now)?;
    let signed = Verified::read(qe.verify(&quote)?, Signed::read)?;
    let (report, auth_data_bytes) = qe.qe();
    judge(&signed, Grounds { pck: qe.pck(), collateral, qe: &report, auth_data_bytes, now }, report_data)
}

fn judge(
    signed: &Verified<Signed>,
    grounds: Grounds<'_>,
    report_data: ReportDataExpectation<'_>,
) -> Result<TdxClaims, Rejection> {
    let Body::Td(report) = &signed.body else {
        return Err(TdxReason::OtherTee.because("a TD report", signed.kind));
    };
    check_report_data(&report.report_data, report_data)?;
    appraise::td(signed, report, grounds)
}

fn check_report_data(found: &[u8; 64], expected: ReportDataExpectation<'_>) -> Result<(), Rejection> {
    match expected {
        ReportDataExpectation::Binder(binder) if found != binder => {
            Err(BindingReason::ReportData.because(hex::encode(binder), hex::encode(found)))
        }
        ReportDataExpectation::Binder(_) | ReportDataExpectation::Recorded => Ok(()),
    }
}

#[cfg(test)]
mod tests;
