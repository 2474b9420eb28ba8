//! What must hold of a signed report before it becomes claims, and what a strict default demands of the claims.

use alloc::collections::BTreeMap;

use super::TdxReason;
use super::body::{EnclaveReport, TdReport};
use super::claims::{
    DEBUG, IntelPlatform, MIGRATABLE, PROFILING, QeClaims, SEPT_VE_DISABLE, SERVTD_EXT, SgxClaims, TD_ATTRIBUTES,
    TdxClaims, TdxExtendedClaims, TdxModuleClaims, reserved_attributes,
};
use super::quote::Signed;
use crate::claims::HexBytes;
use crate::endorsement::intel::{
    PckExtensions, TcbEvaluation, VerifiedCollateral, VerifiedPck, module_major, module_name,
};
use crate::rejection::Rejection;
use crate::time::UnixMillis;

/// What vouches for the signed part of a quote.
#[derive(Clone, Copy)]
pub(super) struct Grounds<'a> {
    pub(super) pck: &'a VerifiedPck,
    pub(super) collateral: &'a VerifiedCollateral,
    pub(super) qe: &'a EnclaveReport,
    pub(super) auth_data_bytes: u16,
    pub(super) now: UnixMillis,
}

impl Grounds<'_> {
    fn qe_claims(&self, tcb: &TcbEvaluation) -> QeClaims {
        QeClaims { isv_svn: self.qe.isv_svn, auth_data_bytes: self.auth_data_bytes, status: tcb.qe }
    }
}

/// Claims of a TD report. DEBUG rejects: whatever such a TD says, its host can make it say.
pub(super) fn td(signed: &Signed, report: &TdReport, grounds: Grounds<'_>) -> Result<TdxClaims, Rejection> {
    let Grounds { pck, collateral, qe, now, .. } = grounds;
    if report.attributes() & DEBUG != 0 {
        return Err(TdxReason::Debug.because("DEBUG clear", hex::encode(report.td_attributes)));
    }
    let tee_tcb_svn2 = report.td15.as_ref().map(|td15| &td15.tee_tcb_svn2);
    let tcb = collateral.evaluate_tdx(pck, qe, &report.tee_tcb_svn, tee_tcb_svn2)?;
    check_module(report, collateral)?;
    Ok(TdxClaims {
        assurance: pck.assurance(),
        version: signed.version.number(),
        body: signed.kind,
        tee_tcb_svn: hex_bytes(&report.tee_tcb_svn),
        mr_seam: hex_bytes(&report.mr_seam),
        mr_signer_seam: hex_bytes(&report.mr_signer_seam),
        seam_attributes: hex_bytes(&report.seam_attributes),
        td_attributes: hex_bytes(&report.td_attributes),
        attributes: named(report.attributes()),
        xfam: hex_bytes(&report.xfam),
        mr_td: hex_bytes(&report.mr_td),
        mr_config_id: hex_bytes(&report.mr_config_id),
        mr_owner: hex_bytes(&report.mr_owner),
        mr_owner_config: hex_bytes(&report.mr_owner_config),
        rtmrs: report.rtmrs.each_ref().map(|rtmr| hex_bytes(rtmr)),
        report_data: hex_bytes(&report.report_data),
        tee_tcb_svn2: tee_tcb_svn2.map(|svn| hex_bytes(svn)),
        mr_service_td: report.td15.as_ref().map(|td15| hex_bytes(&td15.mr_service_td)),
        extended: report.td15_ex.as_ref().map(|ex| TdxExtendedClaims {
            vm_id: ex.vm_id,
            td_id: hex_bytes(&ex.td_id),
            dev_info: hex_bytes(&ex.dev_info),
            init_service_td_hash: hex_bytes(&ex.init_service_td_hash),
            current_service_td_hash: hex_bytes(&ex.current_service_td_hash),
        }),
        platform: platform(pck.extensions()),
        qe: grounds.qe_claims(&tcb),
        tcb,
        module: TdxModuleClaims { id: module_name(module_major(&report.tee_tcb_svn)), isv_svn: report.tee_tcb_svn[0] },
        collateral: collateral.digest(),
        collateral_overdue: collateral.overdue(now),
        valid_until: pck.valid_until().min(collateral.valid_until()),
    })
}

/// The TDX module is signed by whom Intel says, and runs with the attributes it says (Intel QVL, 4.1.2.5.12).
fn check_module(report: &TdReport, collateral: &VerifiedCollateral) -> Result<(), Rejection> {
    let identity = collateral.tcb_info().info().module_identity(&report.tee_tcb_svn)?;
    if report.mr_signer_seam != identity.mr_signer {
        let found = hex::encode(report.mr_signer_seam);
        return Err(TdxReason::ModuleSigner.because(hex::encode(identity.mr_signer), found));
    }
    let masked = report.seam_attributes.iter().zip(&identity.attributes_mask).map(|(value, mask)| value & mask);
    // What the mask leaves open has no meaning yet.
    let open = report.seam_attributes.iter().zip(&identity.attributes_mask).map(|(value, mask)| value & !mask);
    if !masked.eq(identity.attributes) || open.into_iter().any(|bits| bits != 0) {
        let found = hex::encode(report.seam_attributes);
        return Err(TdxReason::ModuleAttributes.because(hex::encode(identity.attributes), found));
    }
    Ok(())
}

/// Claims of an enclave report. DEBUG rejects.
pub(super) fn enclave(signed: &Signed, report: &EnclaveReport, grounds: Grounds<'_>) -> Result<SgxClaims, Rejection> {
    let Grounds { pck, collateral, qe, now, .. } = grounds;
    if report.is_debug() {
        return Err(TdxReason::Debug.because("DEBUG clear", hex::encode(report.attributes)));
    }
    let tcb = collateral.evaluate_sgx(pck, qe)?;
    Ok(SgxClaims {
        assurance: pck.assurance(),
        version: signed.version.number(),
        cpu_svn: hex_bytes(&report.cpu_svn),
        misc_select: report.misc_select,
        attributes: hex_bytes(&report.attributes),
        mr_enclave: hex_bytes(&report.mr_enclave),
        mr_signer: hex_bytes(&report.mr_signer),
        isv_prod_id: report.isv_prod_id,
        isv_svn: report.isv_svn,
        config_id: hex_bytes(&report.config_id),
        config_svn: report.config_svn,
        isv_ext_prod_id: hex_bytes(&report.isv_ext_prod_id),
        isv_family_id: hex_bytes(&report.isv_family_id),
        report_data: hex_bytes(&report.report_data),
        platform: platform(pck.extensions()),
        qe: grounds.qe_claims(&tcb),
        tcb,
        collateral: collateral.digest(),
        collateral_overdue: collateral.overdue(now),
        valid_until: pck.valid_until().min(collateral.valid_until()),
    })
}

fn hex_bytes(bytes: &[u8]) -> HexBytes {
    HexBytes(bytes.to_vec())
}

fn named(attributes: u64) -> BTreeMap<&'static str, bool> {
    // Filled one by one: collecting makes a sorted list first, and nothing but the claims is allocated here.
    let mut named = BTreeMap::new();
    for (bit, name) in TD_ATTRIBUTES {
        named.insert(name, attributes & bit != 0);
    }
    named.insert(super::claims::RESERVED, reserved_attributes(attributes) != 0);
    named
}

fn platform(extensions: &PckExtensions) -> IntelPlatform {
    IntelPlatform {
        fmspc: hex_bytes(&extensions.fmspc),
        ppid: hex_bytes(&extensions.ppid),
        pce_id: hex_bytes(&extensions.pce_id),
        cpu_svn: hex_bytes(&extensions.cpu_svn),
        pce_svn: extensions.pce_svn,
        platform_instance_id: extensions.platform_instance_id.as_ref().map(|id| hex_bytes(id)),
    }
}

impl TdxClaims {
    /// What a policy that says nothing else demands: nobody watches the TD run or moves it, no service TD looks into
    /// it, the host cannot raise #VE on its pages, and no attribute is set whose meaning is not known.
    ///
    /// # Errors
    /// A [`TdxReason`] for the first of these that does not hold.
    pub fn check_strict(&self) -> Result<(), Rejection> {
        let attributes = self.attribute_bits();
        let found = &self.td_attributes;
        if attributes & PROFILING != 0 {
            return Err(TdxReason::Profiling.because("HGS_PLUS_PROF, PERF_PROF and PMT_PROF clear", found));
        }
        if reserved_attributes(attributes) != 0 {
            return Err(TdxReason::AttributesReserved.because("bits with a known meaning alone", found));
        }
        if attributes & MIGRATABLE != 0 {
            return Err(TdxReason::Migratable.because("MIGRATABLE clear", found));
        }
        if attributes & SERVTD_EXT != 0 {
            return Err(TdxReason::ServiceTd.because("SERVTD_EXT clear", found));
        }
        if attributes & SEPT_VE_DISABLE == 0 {
            return Err(TdxReason::SeptVe.because("SEPT_VE_DISABLE set", found));
        }
        let bound = |hash: &&HexBytes| hash.0.iter().any(|byte| *byte != 0);
        let extended = self.extended.as_ref();
        let hashes = [
            self.mr_service_td.as_ref(),
            extended.map(|ex| &ex.init_service_td_hash),
            extended.map(|ex| &ex.current_service_td_hash),
        ];
        match hashes.into_iter().flatten().find(bound) {
            Some(hash) => Err(TdxReason::ServiceTd.because("no service TD", hash)),
            None => Ok(()),
        }
    }

    fn attribute_bits(&self) -> u64 {
        self.td_attributes.0.first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
    }
}
