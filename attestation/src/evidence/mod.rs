//! What the hardware signed: one module per technology, and [`bundle`], in which a host sends them together.

pub mod bundle;
pub mod snp;
pub mod tpm;

use alloc::vec::Vec;

use crate::anchor::TrustAnchors;
use crate::binder::Binder;
use crate::claims::{Claims, Presented};
use crate::digest::Sha256Digest;
use crate::protocol::PcrSelection;
use crate::rejection::Rejection;
use crate::time::UnixMillis;
use bundle::Bundle;
use snp::ReportDataExpectation;
use tpm::EnrolledTpm;

/// What a bundle must be about.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The binder of the redeemed challenge and the credential key.
    pub binder: &'a Binder,
    /// The credential key, DER `SubjectPublicKeyInfo`.
    pub credential_key: &'a [u8],
    /// The TPM that the host enrolled with.
    pub tpm: &'a EnrolledTpm,
    /// The PCR selection that was asked for.
    pub pcr_selection: &'a [PcrSelection],
}

/// What vendors say, and which vendors are believed.
#[derive(Clone, Copy, Debug)]
pub struct Endorsements<'a> {
    /// Pinned roots.
    pub anchors: &'a TrustAnchors,
    /// Revocation lists, DER.
    pub crls: &'a [Vec<u8>],
}

/// Checks every part of a bundle: its signatures, chains, freshness, and that all parts are about the same challenge
/// and credential key.
///
/// # Errors
/// The first reason why the bundle is not believed; nothing of it is then a claim.
pub fn verify(
    bundle: &Bundle,
    expected: &Expected<'_>,
    endorsements: &Endorsements<'_>,
    now: UnixMillis,
) -> Result<Claims, Rejection> {
    let tpm = tpm::verify(bundle, expected.tpm, expected.pcr_selection, expected.binder, expected.credential_key)?;
    let mut assurance = tpm.assurance;
    let snp = match &bundle.snp {
        None => Presented::NotPresented,
        Some(evidence) => {
            let crls: Vec<&[u8]> = endorsements.crls.iter().map(Vec::as_slice).collect();
            let binder = ReportDataExpectation::Binder(expected.binder.report_data());
            let claims = snp::verify(evidence, &endorsements.anchors.amd, &crls, binder, now)?;
            assurance = assurance.min(claims.assurance);
            Presented::Verified(claims)
        }
    };
    let credential_key = Sha256Digest::of(&[expected.credential_key]);
    Ok(Claims { assurance, tpm, credential_key, snp })
}
