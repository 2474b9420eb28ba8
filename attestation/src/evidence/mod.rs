//! What the hardware signed: one module per technology, and [`bundle`], in which a host sends them together.

pub mod bundle;
pub mod eventlog;
pub mod ima;
pub mod logs;
pub mod paravisor;
pub mod snp;
pub mod tdx;
pub mod tpm;

use alloc::borrow::Cow;
use alloc::vec::Vec;

use crate::anchor::TrustAnchors;
use crate::binder::Binder;
use crate::claims::{Claims, Presented};
use crate::digest::Sha256Digest;
use crate::endorsement::amd::{self, VerifiedVek};
use crate::protocol::PcrSelection;
use crate::rejection::Rejection;
use crate::time::UnixMillis;
use bundle::{Bundle, SnpEvidence};
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
    /// A VEK that [`amd::endorse`] endorsed before with exactly these anchors and lists. It only saves work: it counts
    /// for the very certificate it was made from, at times when its chain holds.
    pub endorsed: Option<&'a VerifiedVek>,
}

impl Endorsements<'_> {
    /// The VEK of `evidence`: the one endorsed before where it is that and still holds, else endorsed now.
    fn vek(&self, evidence: &SnpEvidence, now: UnixMillis) -> Result<Cow<'_, VerifiedVek>, Rejection> {
        let kept = self.endorsed.filter(|vek| vek.digest() == Sha256Digest::of(&[&evidence.vek]));
        if let Some(vek) = kept.filter(|vek| vek.check_current(now).is_ok()) {
            return Ok(Cow::Borrowed(vek));
        }
        let crls: Vec<&[u8]> = self.crls.iter().map(Vec::as_slice).collect();
        amd::endorse(&evidence.vek, &self.anchors.amd, &crls, now).map(Cow::Owned)
    }
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
            let vek = endorsements.vek(evidence, now)?;
            let binder = ReportDataExpectation::Binder(expected.binder.report_data());
            let claims = snp::verify_report(&evidence.report, &vek, binder, now)?;
            assurance = assurance.min(claims.assurance);
            Presented::Verified(claims)
        }
    };
    let credential_key = Sha256Digest::of(&[expected.credential_key]);
    // The logs are read by themselves, gone on with from what is known: see [`logs`].
    Ok(Claims {
        assurance,
        tpm,
        credential_key,
        boot: Presented::NotPresented,
        ima: Presented::NotPresented,
        snp,
        tdx: Presented::NotPresented,
        rtmr: Presented::NotPresented,
        paravisor: Presented::NotPresented,
    })
}
