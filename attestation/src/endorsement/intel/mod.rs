//! Intel: PCK certificates of platforms, and the collateral that says what a TCB is worth: TCB info, identities of
//! quoting enclaves and revocation lists, each signed under the pinned Intel SGX Root CA.
//!
//! Everything is verified from the exact bytes that were signed, before they are read. What is verified is kept parsed,
//! so that a quote is judged without JSON and without a certificate chain.

pub use self::answer::Answer;
pub(crate) use self::chain::check_pck_crl_alone;
pub use self::chain::{Validity, VerifiedPckCrl, VerifiedRootCrl, endorse_pck_crl};
use self::chain::{check_signed, check_signed_without_list};
pub use self::collateral::{IntelCollateral, VerifiedCollateral};
pub use self::identity::{EnclaveId, QeIdentity, VerifiedQeIdentity};
pub use self::pck::{PckExtensions, UnverifiedPlatform, VerifiedPck};
pub use self::status::{TcbEvaluation, TcbStatus};
pub use self::tcb_info::{ModuleIdentity, TcbInfo, TcbKind, VerifiedTcbInfo};
pub(crate) use self::tcb_info::{module_major, module_name};
use crate::anchor::IntelAnchor;
use crate::rejection::{Rejection, reasons};
use crate::time::{JudgedAt, UnixMillis};

mod answer;
mod chain;
mod collateral;
mod date;
mod identity;
mod pck;
pub(crate) mod pem;
mod status;
mod tcb_info;

reasons! {
    /// Why something that Intel should have signed is not believed, or says what is not to be believed.
    IntelReason {
        /// PEM, three certificates at most, the root among them.
        Chain = "intel.chain",
            "a certificate chain does not have the form of Intel's",
            "send the chain as Intel's provisioning service returned it, with the root";
        /// Key and certificate.
        Root = "intel.root",
            "a certificate chain does not end in the pinned root",
            "send the chain with Intel's current SGX root certificate, and pin that";
        /// By name.
        Signer = "intel.signer",
            "a certificate is not one for this purpose",
            "send the certificate that Intel issued for this";
        /// Over the exact bytes.
        Signature = "intel.signature",
            "the signature over collateral does not verify",
            "send collateral byte for byte as Intel signed it";
        /// Strictly.
        Schema = "intel.schema",
            "collateral is not as Intel specifies it",
            "fetch the collateral again; update Countersign if Intel extended it";
        /// Closed.
        Status = "intel.tcb_status",
            "a TCB status is none that is known",
            "fetch the collateral again; update Countersign if Intel added a status";
        /// issueDate, thisUpdate, notBefore.
        NotYetValid = "intel.not_yet_valid",
            "collateral or a certificate is from the future",
            "check the clock";
        /// nextUpdate, notAfter.
        Expired = "intel.expired",
            "collateral or a certificate is out of date",
            "fetch current collateral from Intel's provisioning service or a cache of it";
        /// 1.3.5 of the profile.
        PckExtensions = "intel.pck.extensions",
            "the PCK certificate does not say which platform it is of",
            "provision the platform again";
        /// On a list.
        PckRevoked = "intel.pck.revoked",
            "Intel revoked the platform's PCK certificate",
            "take the platform out of service, or provision it again after its recovery";
        /// On a list.
        CaRevoked = "intel.ca.revoked",
            "Intel revoked a certification authority or signer in a chain",
            "fetch chains and collateral again";
        /// The list covers another CA's certificates.
        CrlIssuer = "intel.crl.issuer",
            "the revocation list is not of the CA that issued the PCK certificate",
            "fetch the list of the CA that issued it: platform or processor";
        /// FMSPC and PCEID.
        Platform = "intel.platform",
            "the TCB info is of other platforms",
            "fetch the TCB info of this platform's FMSPC";
        /// SGX or TDX.
        Kind = "intel.kind",
            "the collateral is for another technology than the quote",
            "fetch the TCB info and QE identity for the quote's kind of TEE";
        /// Below all.
        NoLevel = "intel.tcb.none",
            "the TCB is below every level that Intel knows",
            "update the platform: its firmware, microcode or TDX module is too old";
        /// Of the platform, the QE or the TDX module.
        Revoked = "intel.tcb.revoked",
            "Intel revoked this TCB: keys may have been extracted",
            "update the platform and provision it again";
        /// By major version.
        Module = "intel.module.unknown",
            "the TCB info does not know the TDX module",
            "fetch current TCB info; do not run a TDX module that Intel does not list";
        /// Masked.
        QeMiscSelect = "intel.qe.misc_select",
            "the quoting enclave runs with another MISCSELECT than Intel's",
            "use Intel's quoting enclave";
        /// Masked.
        QeAttributes = "intel.qe.attributes",
            "the quoting enclave runs with other attributes than Intel's",
            "use Intel's production quoting enclave";
        /// Exactly.
        QeMrSigner = "intel.qe.mr_signer",
            "the quoting enclave is not signed by Intel",
            "use Intel's quoting enclave";
        /// Exactly.
        QeProduct = "intel.qe.isv_prod_id",
            "the quoting enclave is another product of Intel",
            "use the quoting enclave of this kind of TEE";
    }
}

/// Checks TCB info: chain, list, time and signature over its exact bytes, and only then what it says.
///
/// # Errors
/// An [`IntelReason`] or [`crate::x509::X509Reason`] for what does not hold.
pub fn endorse_tcb_info(
    tcb_info: &str,
    signature: &[u8],
    chain: &str,
    root_crl: &VerifiedRootCrl,
    at: impl Into<JudgedAt>,
) -> Result<VerifiedTcbInfo, Rejection> {
    let at = at.into();
    let validity = check_signed(tcb_info, signature, chain, root_crl, at.now)?;
    let info = TcbInfo::read(tcb_info)?;
    let validity = validity.and(Validity::of_issue(info.issue_date, info.next_update, at.grace_ms));
    validity.check(at.now)?;
    Ok(VerifiedTcbInfo::new(info, validity))
}

/// Checks an enclave identity, likewise.
///
/// # Errors
/// An [`IntelReason`] or [`crate::x509::X509Reason`] for what does not hold.
pub fn endorse_qe_identity(
    qe_identity: &str,
    signature: &[u8],
    chain: &str,
    root_crl: &VerifiedRootCrl,
    at: impl Into<JudgedAt>,
) -> Result<VerifiedQeIdentity, Rejection> {
    let at = at.into();
    let validity = check_signed(qe_identity, signature, chain, root_crl, at.now)?;
    let identity = QeIdentity::read(qe_identity)?;
    let validity = validity.and(Validity::of_issue(identity.issue_date, identity.next_update, at.grace_ms));
    validity.check(at.now)?;
    Ok(VerifiedQeIdentity::new(identity, validity))
}

/// Checks TCB info alone, without the root's list: nothing is known of its signer's revocation, so what it says is no
/// [`VerifiedTcbInfo`]. Tells the anchor it leads to.
///
/// # Errors
/// An [`IntelReason`] or [`crate::x509::X509Reason`] for what does not hold.
pub fn check_tcb_info_alone<'a>(
    tcb_info: &str,
    signature: &[u8],
    chain: &str,
    anchors: &'a [IntelAnchor],
    now: UnixMillis,
) -> Result<(TcbInfo, &'a IntelAnchor), Rejection> {
    let anchor = check_signed_without_list(tcb_info, signature, chain, anchors, now)?;
    let info = TcbInfo::read(tcb_info)?;
    Validity::of_issue(info.issue_date, info.next_update, 0).check(now)?;
    Ok((info, anchor))
}

/// Checks an enclave identity alone, likewise.
///
/// # Errors
/// An [`IntelReason`] or [`crate::x509::X509Reason`] for what does not hold.
pub fn check_qe_identity_alone<'a>(
    qe_identity: &str,
    signature: &[u8],
    chain: &str,
    anchors: &'a [IntelAnchor],
    now: UnixMillis,
) -> Result<(QeIdentity, &'a IntelAnchor), Rejection> {
    let anchor = check_signed_without_list(qe_identity, signature, chain, anchors, now)?;
    let identity = QeIdentity::read(qe_identity)?;
    Validity::of_issue(identity.issue_date, identity.next_update, 0).check(now)?;
    Ok((identity, anchor))
}

/// A field of fixed size, written in hex of either case.
fn fixed_hex<const N: usize>(name: &str, text: &str) -> Result<[u8; N], Rejection> {
    let mut value = [0; N];
    hex::decode_to_slice(text, &mut value)
        .map(|()| value)
        .map_err(|_| IntelReason::Schema.because(format_args!("{name} of {N} bytes in hex"), text))
}
