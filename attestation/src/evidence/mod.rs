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

use crate::anchor::{Assurance, TrustAnchors};
use crate::binder::Binder;
use crate::claims::{Claims, ParavisorClaims, Presented, SnpClaims, TdxClaims};
use crate::digest::Sha256Digest;
use crate::endorsement::amd::{self, VerifiedVek};
use crate::endorsement::intel::VerifiedCollateral;
use crate::protocol::PcrSelection;
use crate::rejection::Rejection;
use crate::time::{JudgedAt, UnixMillis};
use bundle::{Bundle, BundleReason, ParavisorEvidence};
use paravisor::HclReport;
use snp::ReportDataExpectation;
use tdx::{Quote, TdxReason, VerifiedQe};
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
    /// Intel's collateral of the bundle's platform, verified; none where there is none.
    pub intel: Option<&'a VerifiedCollateral>,
    /// A quoting enclave that was endorsed before by exactly that collateral. It only saves work, as a VEK does.
    pub quoting_enclave: Option<&'a VerifiedQe>,
}

impl Endorsements<'_> {
    /// The VEK with this certificate: the one endorsed before where it is that and still holds, else endorsed now.
    fn vek(&self, vek: &[u8], at: JudgedAt) -> Result<Cow<'_, VerifiedVek>, Rejection> {
        let kept = self.endorsed.filter(|kept| kept.digest() == Sha256Digest::of(&[vek]));
        if let Some(vek) = kept.filter(|vek| vek.check_current(at.now).is_ok()) {
            return Ok(Cow::Borrowed(vek));
        }
        let crls: Vec<&[u8]> = self.crls.iter().map(Vec::as_slice).collect();
        amd::endorse(vek, &self.anchors.amd, &crls, at).map(Cow::Owned)
    }
}

impl Endorsements<'_> {
    /// Verifies a TD quote, with one signature where its quoting enclave was endorsed before.
    fn td_quote(
        &self,
        quote: &[u8],
        report_data: ReportDataExpectation<'_>,
        now: UnixMillis,
    ) -> Result<TdxClaims, Rejection> {
        let missing = || TdxReason::CollateralMissing.because("collateral of the quote's platform", "none");
        let collateral = self.intel.ok_or_else(missing)?;
        let digest = Quote::parse(quote)?.qe_digest();
        let kept = self.quoting_enclave.filter(|qe| qe.digest() == digest && qe.check_current(collateral, now).is_ok());
        match kept {
            Some(qe) => tdx::verify_hot(quote, qe, collateral, report_data, now),
            None => tdx::verify(quote, collateral, report_data, now),
        }
    }
}

/// The hardware that a bundle's reports are of. Evidence of one layer is never taken for another's: a report under a
/// paravisor speaks for the paravisor, and the binder is in the quote of the very TPM that it vouches for.
struct Hardware {
    snp: Presented<SnpClaims>,
    tdx: Presented<TdxClaims>,
    paravisor: Presented<ParavisorClaims>,
}

impl Hardware {
    fn verify(
        bundle: &Bundle,
        expected: &Expected<'_>,
        endorsements: &Endorsements<'_>,
        at: JudgedAt,
    ) -> Result<Self, Rejection> {
        let now = at.now;
        if let Some(evidence) = &bundle.paravisor {
            return Self::below_paravisor(bundle, evidence, expected, endorsements, at);
        }
        let binder = ReportDataExpectation::Binder(expected.binder.report_data());
        let snp = bundle.snp.as_ref().map(|evidence| {
            let vek = endorsements.vek(&evidence.vek, at)?;
            snp::verify_report(&evidence.report, &vek, binder, now)
        });
        let tdx = bundle.tdx.as_ref().map(|evidence| endorsements.td_quote(&evidence.quote, binder, now));
        Ok(Self { snp: snp.transpose()?.into(), tdx: tdx.transpose()?.into(), paravisor: Presented::NotPresented })
    }

    fn below_paravisor(
        bundle: &Bundle,
        evidence: &ParavisorEvidence,
        expected: &Expected<'_>,
        endorsements: &Endorsements<'_>,
        at: JudgedAt,
    ) -> Result<Self, Rejection> {
        let now = at.now;
        let hcl = HclReport::parse(&evidence.hcl_report)?;
        let (verified, tdx) = match (&evidence.vek, &bundle.tdx) {
            (Some(vek), None) => {
                let vek = endorsements.vek(vek, at)?;
                (paravisor::azure::verify(&hcl, paravisor::azure::Hardware::Snp(&vek), now)?, Presented::NotPresented)
            }
            (None, Some(tdx)) => {
                // REPORTDATA names the runtime data: azure::verify compares it.
                let claims = endorsements.td_quote(&tdx.quote, ReportDataExpectation::Recorded, now)?;
                let verified = paravisor::azure::verify(&hcl, paravisor::azure::Hardware::Tdx(&claims), now)?;
                (verified, Presented::Verified(claims))
            }
            (None, None) => return Err(BundleReason::Missing.because("snp.vek or tdx.quote", "azure.hcl_report alone")),
            (Some(_), Some(_)) => return Err(BundleReason::Conflict.because("snp.vek or tdx.quote", "both")),
        };
        // The key that the hardware vouches for is the very key that the host enrolled and that quotes now.
        verified.check_ak(expected.tpm.ak())?;
        Ok(Self { snp: verified.snp().clone(), tdx, paravisor: Presented::Verified(verified.claims().clone()) })
    }

    /// The weakest class among these.
    fn assurance(&self) -> Option<Assurance> {
        let snp = self.snp.verified().map(|claims| claims.assurance);
        let tdx = self.tdx.verified().map(|claims| claims.assurance);
        let paravisor = self.paravisor.verified().map(|claims| claims.assurance);
        [snp, tdx, paravisor].into_iter().flatten().min()
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
    at: impl Into<JudgedAt>,
) -> Result<Claims, Rejection> {
    let tpm = tpm::verify(bundle, expected.tpm, expected.pcr_selection, expected.binder, expected.credential_key)?;
    let hardware = Hardware::verify(bundle, expected, endorsements, at.into())?;
    let assurance = hardware.assurance().map_or(tpm.assurance, |hardware| hardware.min(tpm.assurance));
    let credential_key = Sha256Digest::of(&[expected.credential_key]);
    // The logs are read by themselves, gone on with from what is known: see [`logs`].
    Ok(Claims {
        assurance,
        tpm,
        credential_key,
        boot: Presented::NotPresented,
        ima: Presented::NotPresented,
        snp: hardware.snp,
        tdx: hardware.tdx,
        rtmr: Presented::NotPresented,
        paravisor: hardware.paravisor,
    })
}
