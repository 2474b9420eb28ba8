//! Azure's confidential VMs: the paravisor runs in the VM's most privileged layer and keeps a virtual TPM there. The
//! chip signs the hash of runtime data, which names the key that the virtual TPM attests with.

use crate::claims::{Presented, SnpClaims, TdxClaims};
use crate::digest::Sha256Digest;
use crate::endorsement::amd::VerifiedVek;
use crate::evidence::snp::{self, ReportDataExpectation};
use crate::evidence::tpm::AttestationKey;
use crate::evidence::tpm::public::Public;
use crate::rejection::Rejection;
use crate::time::UnixMillis;

use crate::evidence::tdx::TdReport;
use crate::evidence::tdx::recorded::RecordedTdQuote;

use super::hcl::{HardwareReport, HclReport};
use super::tdreport::TdReportStruct;
use super::{HardwareKind, ParavisorClaims, ParavisorReason};

/// What vouches for the hardware report.
#[derive(Clone, Copy, Debug)]
pub enum Hardware<'a> {
    /// The VEK of the SNP report, endorsed.
    Snp(&'a VerifiedVek),
    /// What a verified quote of the TD says.
    Tdx(&'a TdxClaims),
    /// A quote of the TD that came without collateral, for recorded evidence alone.
    RecordedTdx(&'a RecordedTdQuote),
}

/// A paravisor whose hardware report was verified, and found to be about its runtime data. [`verify`] is the only
/// constructor:
///
/// ```compile_fail
/// use countersign_attestation::evidence::paravisor::{ParavisorClaims, VerifiedParavisor};
/// fn forged(claims: ParavisorClaims) -> VerifiedParavisor {
///     VerifiedParavisor { ak_spki: Vec::new(), claims, snp: todo!() }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct VerifiedParavisor {
    ak_spki: alloc::vec::Vec<u8>,
    claims: ParavisorClaims,
    snp: Presented<SnpClaims>,
}

impl VerifiedParavisor {
    /// HCLAkPub as `SubjectPublicKeyInfo`, DER: a quote of the virtual TPM must verify under this key and no other.
    #[must_use]
    pub fn ak_spki(&self) -> &[u8] {
        &self.ak_spki
    }

    /// Whether `ak` is that key.
    ///
    /// # Errors
    /// [`ParavisorReason::AkKey`].
    pub fn check_ak(&self, ak: &AttestationKey) -> Result<(), Rejection> {
        self.check_ak_spki(&Public::read(ak.public())?.spki())
    }

    /// Whether the key with this `SubjectPublicKeyInfo` is that key.
    ///
    /// # Errors
    /// [`ParavisorReason::AkKey`].
    pub fn check_ak_spki(&self, spki: &[u8]) -> Result<(), Rejection> {
        if spki == self.ak_spki {
            Ok(())
        } else {
            Err(ParavisorReason::AkKey.because(self.claims.ak, Sha256Digest::of(&[spki])))
        }
    }

    /// What is known of the paravisor.
    #[must_use]
    pub const fn claims(&self) -> &ParavisorClaims {
        &self.claims
    }

    /// What its SNP report says, where it is one.
    #[must_use]
    pub const fn snp(&self) -> &Presented<SnpClaims> {
        &self.snp
    }
}

/// Verifies the hardware report in `hcl`, that it is about the runtime data, and then reads that.
///
/// # Errors
/// The first reason why the report is not believed.
pub fn verify(hcl: &HclReport<'_>, hardware: Hardware<'_>, now: UnixMillis) -> Result<VerifiedParavisor, Rejection> {
    let (assurance, kind, snp) = match (hcl.hardware(), hardware) {
        (HardwareReport::Snp(report), Hardware::Snp(vek)) => {
            // The report was made when the VM started: only the virtual TPM's quote is fresh.
            let claims = snp::verify_report(report, vek, ReportDataExpectation::Recorded, now)?;
            // The guest above the paravisor may have reports made too, with whatever REPORT_DATA it likes.
            if claims.vmpl != 0 {
                return Err(ParavisorReason::Layer.because("VMPL 0", claims.vmpl));
            }
            hcl.check_binding(&claims.report_data.0)?;
            (claims.assurance, HardwareKind::Snp, Presented::Verified(claims))
        }
        (HardwareReport::Tdx(report), Hardware::RecordedTdx(quote)) => {
            check_quoted(&report, &Quoted::of_report(quote.report()))?;
            check_first_vm(quote.report().td15_ex.map_or(0, |extended| extended.vm_id))?;
            hcl.check_binding(&quote.report().report_data)?;
            (quote.assurance(), HardwareKind::Tdx, Presented::NotPresented)
        }
        (HardwareReport::Tdx(report), Hardware::Tdx(claims)) => {
            check_quoted(&report, &Quoted::of_claims(claims))?;
            check_first_vm(claims.extended.as_ref().map_or(0, |extended| extended.vm_id))?;
            hcl.check_binding(&claims.report_data.0)?;
            (claims.assurance, HardwareKind::Tdx, Presented::NotPresented)
        }
        (report @ HardwareReport::Tdx(_), Hardware::Snp(_)) => {
            return Err(ParavisorReason::Hardware.because("a report of SEV-SNP", report.name()));
        }
        (report @ HardwareReport::Snp(_), Hardware::Tdx(_) | Hardware::RecordedTdx(_)) => {
            return Err(ParavisorReason::Hardware.because("a report of TDX", report.name()));
        }
    };
    let runtime = hcl.runtime_data()?;
    let ak_spki = runtime.ak().spki().to_vec();
    let ek = match runtime.ek() {
        Presented::Verified(ek) => Presented::Verified(Sha256Digest::of(&[ek.spki()])),
        Presented::NotPresented => Presented::NotPresented,
    };
    let claims = ParavisorClaims {
        assurance,
        hardware: kind,
        hcl_version: hcl.version(),
        ak: Sha256Digest::of(&[&ak_spki]),
        ek,
        vm_id: runtime.vm_id().map_or(Presented::NotPresented, |id| Presented::Verified(id.into())),
        vm_configuration: runtime.vm_configuration().clone(),
        user_data: runtime.user_data().clone(),
    };
    Ok(VerifiedParavisor { ak_spki, claims, snp })
}

/// The paravisor is the first VM of a partitioned TD; quotes that name no VM are of a TD that is not partitioned, or of
/// its first VM.
fn check_first_vm(vm_id: u8) -> Result<(), Rejection> {
    if vm_id == 0 { Ok(()) } else { Err(ParavisorReason::Layer.because("VM 0 of the TD", vm_id)) }
}

/// What a verified quote says of a TD, field by field.
struct Quoted<'a> {
    fields: [&'a [u8]; 15],
    /// MR_SERVICETD, of quotes that have it.
    mr_service_td: Option<&'a [u8]>,
}

/// Names of the fields that a TDREPORT and its quote share.
const SHARED: [&str; 15] = [
    "REPORTDATA",
    "TEE_TCB_SVN",
    "MRSEAM",
    "MRSIGNERSEAM",
    "SEAMATTRIBUTES",
    "TDATTRIBUTES",
    "XFAM",
    "MRTD",
    "MRCONFIGID",
    "MROWNER",
    "MROWNERCONFIG",
    "RTMR0",
    "RTMR1",
    "RTMR2",
    "RTMR3",
];

impl<'a> Quoted<'a> {
    fn of_claims(claims: &'a TdxClaims) -> Self {
        let [rtmr0, rtmr1, rtmr2, rtmr3] = &claims.rtmrs;
        let fields = [
            &claims.report_data,
            &claims.tee_tcb_svn,
            &claims.mr_seam,
            &claims.mr_signer_seam,
            &claims.seam_attributes,
            &claims.td_attributes,
            &claims.xfam,
            &claims.mr_td,
            &claims.mr_config_id,
            &claims.mr_owner,
            &claims.mr_owner_config,
            rtmr0,
            rtmr1,
            rtmr2,
            rtmr3,
        ];
        let mr_service_td = claims.mr_service_td.as_ref().map(|digest| digest.0.as_slice());
        Self { fields: fields.map(|field| field.0.as_slice()), mr_service_td }
    }

    fn of_report(report: &'a TdReport) -> Self {
        let [rtmr0, rtmr1, rtmr2, rtmr3] = &report.rtmrs;
        Self {
            fields: [
                &report.report_data,
                &report.tee_tcb_svn,
                &report.mr_seam,
                &report.mr_signer_seam,
                &report.seam_attributes,
                &report.td_attributes,
                &report.xfam,
                &report.mr_td,
                &report.mr_config_id,
                &report.mr_owner,
                &report.mr_owner_config,
                rtmr0,
                rtmr1,
                rtmr2,
                rtmr3,
            ],
            mr_service_td: report.td15.as_ref().map(|td15| td15.mr_service_td.as_slice()),
        }
    }
}

/// The quote is of this TDREPORT: whatever both say, they say alike.
fn check_quoted(report: &TdReportStruct<'_>, quoted: &Quoted<'_>) -> Result<(), Rejection> {
    let [rtmr0, rtmr1, rtmr2, rtmr3] = report.rtmrs;
    let reported: [&[u8]; 15] = [
        report.report_data,
        report.tee_tcb_svn,
        report.mr_seam,
        report.mr_signer_seam,
        report.seam_attributes,
        report.attributes,
        report.xfam,
        report.mr_td,
        report.mr_config_id,
        report.mr_owner,
        report.mr_owner_config,
        rtmr0,
        rtmr1,
        rtmr2,
        rtmr3,
    ];
    let service = quoted.mr_service_td.map(|quoted| ("MR_SERVICETD", report.service_td_hash.as_slice(), quoted));
    let shared = SHARED.iter().zip(reported).zip(quoted.fields).map(|((name, ours), quoted)| (*name, ours, quoted));
    for (name, ours, quoted) in shared.chain(service) {
        if ours != quoted {
            let expected = alloc::format!("{name} of {}", hex::encode(ours));
            return Err(ParavisorReason::TdReportQuote.because(expected, hex::encode(quoted)));
        }
    }
    Ok(())
}
