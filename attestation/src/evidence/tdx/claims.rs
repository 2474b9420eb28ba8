//! What a verified quote says.

use alloc::collections::BTreeMap;
use alloc::string::String;

use serde::Serialize;

use super::body::BodyKind;
use crate::anchor::Assurance;
use crate::claims::HexBytes;
use crate::digest::Sha256Digest;
use crate::endorsement::intel::{TcbEvaluation, TcbStatus};
use crate::time::UnixMillis;

/// TDATTRIBUTES by name (Intel TDX Module ABI Specification, "ATTRIBUTES"). The lowest eight are the TD-under-debug
/// group: with any of them the TD is not to be trusted.
pub(super) const TD_ATTRIBUTES: [(u64, &str); 13] = [
    (DEBUG, "debug"),
    (1 << 4, "hgs_plus_prof"),
    (1 << 5, "perf_prof"),
    (1 << 6, "pmt_prof"),
    (1 << 16, "icssd"),
    (SERVTD_EXT, "servtd_ext"),
    (1 << 27, "lass"),
    (SEPT_VE_DISABLE, "sept_ve_disable"),
    (MIGRATABLE, "migratable"),
    (1 << 30, "pks"),
    (1 << 31, "kl"),
    (1 << 62, "tpa"),
    (1 << 63, "perfmon"),
];
/// The host reads and writes the TD's memory and registers.
pub(super) const DEBUG: u64 = 1;
/// HGS_PLUS_PROF, PERF_PROF and PMT_PROF: the host watches the TD run.
pub(super) const PROFILING: u64 = 0x70;
pub(super) const SERVTD_EXT: u64 = 1 << 17;
pub(super) const SEPT_VE_DISABLE: u64 = 1 << 28;
pub(super) const MIGRATABLE: u64 = 1 << 29;

/// Name of everything in TDATTRIBUTES that has no name yet.
pub(super) const RESERVED: &str = "reserved";

/// The bits of TDATTRIBUTES that have no name here.
pub(super) fn reserved_attributes(attributes: u64) -> u64 {
    attributes & !TD_ATTRIBUTES.iter().fold(0, |known, (bit, _)| known | bit)
}

/// What a TDX quote says. Field names are the specification's; measurements are SHA-384.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TdxClaims {
    /// What Intel's root, as pinned, is worth.
    pub assurance: Assurance,
    /// Version of the quote: 4 or 5.
    pub version: u16,
    /// Which TD report it is: `td10`, `td15`, `td15ex`.
    pub body: BodyKind,
    /// TEE_TCB_SVN: of the TDX module when the TD was launched.
    pub tee_tcb_svn: HexBytes,
    /// MRSEAM: the TDX module.
    pub mr_seam: HexBytes,
    /// MRSIGNERSEAM: zero for Intel's modules.
    pub mr_signer_seam: HexBytes,
    /// SEAMATTRIBUTES.
    pub seam_attributes: HexBytes,
    /// TDATTRIBUTES, raw, in the report's byte order.
    pub td_attributes: HexBytes,
    /// TDATTRIBUTES by name: `debug` (false, or there were no claims), `hgs_plus_prof`, `perf_prof`, `pmt_prof`,
    /// `icssd`, `servtd_ext`, `lass`, `sept_ve_disable`, `migratable`, `pks`, `kl`, `tpa`, `perfmon`; and `reserved`,
    /// whether any other bit is set.
    pub attributes: BTreeMap<&'static str, bool>,
    /// XFAM, in the report's byte order.
    pub xfam: HexBytes,
    /// MRTD: the TD's initial memory.
    pub mr_td: HexBytes,
    /// MRCONFIGID.
    pub mr_config_id: HexBytes,
    /// MROWNER.
    pub mr_owner: HexBytes,
    /// MROWNERCONFIG.
    pub mr_owner_config: HexBytes,
    /// RTMR0 to RTMR3. A register of zeros may be one that nothing was ever measured into.
    pub rtmrs: [HexBytes; 4],
    /// REPORTDATA.
    pub report_data: HexBytes,
    /// TEE_TCB_SVN2: of the TDX module now. TDX 1.5.
    pub tee_tcb_svn2: Option<HexBytes>,
    /// MR_SERVICETD: which service TDs may look into this one; zero for none. TDX 1.5.
    pub mr_service_td: Option<HexBytes>,
    /// What the extended report of TDX 1.5 adds.
    pub extended: Option<TdxExtendedClaims>,
    /// The platform that quoted.
    pub platform: IntelPlatform,
    /// The quoting enclave.
    pub qe: QeClaims,
    /// What Intel says about platform, QE and TDX module together.
    pub tcb: TcbEvaluation,
    /// The TDX module by its identity.
    pub module: TdxModuleClaims,
    /// Digest of the collateral that said so.
    pub collateral: Sha256Digest,
    /// nextUpdate of that collateral where it has passed: what is said here holds by an operator's grace, and no longer
    /// than `valid_until`.
    pub collateral_overdue: Option<UnixMillis>,
    /// The earliest end of the certificates, lists and collateral that this rests on.
    pub valid_until: UnixMillis,
}

/// What the extended TD report of TDX 1.5 adds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TdxExtendedClaims {
    /// Which VM of a partitioned TD; 0 where it is not partitioned.
    pub vm_id: u8,
    /// Instance of the TD: another after each launch, the same after a migration.
    pub td_id: HexBytes,
    /// Hash of the information about the TD's devices.
    pub dev_info: HexBytes,
    /// Service TDs bound when the TD was made.
    pub init_service_td_hash: HexBytes,
    /// Service TDs bound now.
    pub current_service_td_hash: HexBytes,
}

/// The TDX module that runs the TD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TdxModuleClaims {
    /// `TDX_01` for major version 1 and so on; `tdxModule` for the first ones, which have none.
    pub id: String,
    /// ISVSVN: TEE_TCB_SVN\[0\].
    pub isv_svn: u8,
}

/// Which platform quoted: by its PCK certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IntelPlatform {
    /// FMSPC: family, model, stepping, platform type and custom SKU.
    pub fmspc: HexBytes,
    /// PPID: this very platform.
    pub ppid: HexBytes,
    /// PCEID.
    pub pce_id: HexBytes,
    /// CPUSVN of the PCK.
    pub cpu_svn: HexBytes,
    /// PCESVN of the PCK.
    pub pce_svn: u16,
    /// Platform instance, where the platform has more than one package.
    pub platform_instance_id: Option<HexBytes>,
}

/// The quoting enclave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct QeClaims {
    /// ISVSVN.
    pub isv_svn: u16,
    /// How much it had authenticated beside its key. Intel's QEs always do 32 bytes.
    pub auth_data_bytes: u16,
    /// What Intel says of it alone.
    pub status: TcbStatus,
}

/// What an SGX quote says about its enclave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SgxClaims {
    /// What Intel's root, as pinned, is worth.
    pub assurance: Assurance,
    /// Version of the quote: 3 to 5.
    pub version: u16,
    /// CPUSVN of the report.
    pub cpu_svn: HexBytes,
    /// MISCSELECT.
    pub misc_select: u32,
    /// ATTRIBUTES, in the report's byte order. DEBUG rejects before there are claims.
    pub attributes: HexBytes,
    /// MRENCLAVE.
    pub mr_enclave: HexBytes,
    /// MRSIGNER.
    pub mr_signer: HexBytes,
    /// ISVPRODID.
    pub isv_prod_id: u16,
    /// ISVSVN.
    pub isv_svn: u16,
    /// CONFIGID.
    pub config_id: HexBytes,
    /// CONFIGSVN.
    pub config_svn: u16,
    /// ISVEXTPRODID.
    pub isv_ext_prod_id: HexBytes,
    /// ISVFAMILYID.
    pub isv_family_id: HexBytes,
    /// REPORTDATA.
    pub report_data: HexBytes,
    /// The platform that quoted.
    pub platform: IntelPlatform,
    /// The quoting enclave.
    pub qe: QeClaims,
    /// What Intel says about platform and QE together.
    pub tcb: TcbEvaluation,
    /// Digest of the collateral that said so.
    pub collateral: Sha256Digest,
    /// nextUpdate of that collateral where it has passed: what is said here holds by an operator's grace, and no longer
    /// than `valid_until`.
    pub collateral_overdue: Option<UnixMillis>,
    /// The earliest end of the certificates, lists and collateral that this rests on.
    pub valid_until: UnixMillis,
}
