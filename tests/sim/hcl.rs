//! Azure's paravisor, simulated: runtime data that names the keys of a virtual TPM, and the report in NV index
//! 0x01400001 around a hardware report that has the data's hash. It makes bytes and signs nothing: the hardware report
//! comes from a simulated chip (`amd.rs`, `intel.rs`), the keys from a simulated TPM (`tpm.rs`).
//!
//! Included by `#[path]` where it is needed; nothing that is shipped can reach it.
#![allow(
    clippy::allow_attributes,
    dead_code,
    unreachable_pub,
    reason = "files that include it differ in what they use"
)]
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs, reason = "test code")]

use aws_lc_rs::digest::{SHA256, SHA384, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_attestation::evidence::tpm::public::{Key, Public};

/// Bytes of a real NV index.
pub const NV_BYTES: usize = 2600;

/// Where the hardware report is, and how much room it has.
pub const HARDWARE_REPORT: core::ops::Range<usize> = 32..32 + 1184;

/// Where the runtime data begins.
pub const RUNTIME: usize = 32 + 1184 + 20;

/// vmUniqueId of the simulated machine.
pub const VM_ID: &str = "6332533D-5649-4D02-8AA7-8F64B7C3EE21";

/// `report_type` of a request.
pub const SNP: u32 = 2;
pub const TDX: u32 = 4;

/// A JWK as the paravisor writes it, of an RSA key's TPMT_PUBLIC.
#[must_use]
pub fn jwk(kid: &str, operation: &str, tpmt_public: &[u8]) -> String {
    let public = Public::read(tpmt_public).expect("a public area");
    let Key::Rsa { modulus } = public.key() else { panic!("an RSA key") };
    let n = URL_SAFE_NO_PAD.encode(modulus);
    format!(r#"{{"kid":"{kid}","key_ops":["{operation}"],"kty":"RSA","e":"AQAB","n":"{n}"}}"#)
}

/// Runtime data with these two keys.
#[must_use]
pub fn runtime(ak_public: &[u8], ek_public: &[u8]) -> Vec<u8> {
    runtime_of(&[jwk("HCLAkPub", "sign", ak_public), jwk("HCLEkPub", "encrypt", ek_public)])
}

/// Runtime data with these JWKs.
#[must_use]
pub fn runtime_of(keys: &[String]) -> Vec<u8> {
    let keys = keys.join(",");
    let settings =
        format!(r#"{{"console-enabled":true,"secure-boot":true,"tpm-enabled":true,"vmUniqueId":"{VM_ID}"}}"#);
    let user_data = "0".repeat(128);
    format!(r#"{{"keys":[{keys}],"vm-configuration":{settings},"user-data":"{user_data}"}}"#).into_bytes()
}

/// What the hardware report must have as REPORT_DATA: SHA-256 of the runtime data, then zeros.
#[must_use]
pub fn report_data(runtime: &[u8]) -> [u8; 64] {
    let mut data = [0; 64];
    data[..32].copy_from_slice(digest(&SHA256, runtime).as_ref());
    data
}

/// The NV index around an SNP report of 1184 bytes.
#[must_use]
pub fn snp_nv(report: &[u8], runtime: &[u8]) -> Vec<u8> {
    nv(1, SNP, report, runtime)
}

/// The NV index around a TDREPORT of 1024 bytes.
#[must_use]
pub fn tdx_nv(tdreport: &[u8], runtime: &[u8]) -> Vec<u8> {
    nv(2, TDX, tdreport, runtime)
}

/// The NV index, padded as real ones are.
#[must_use]
pub fn nv(version: u32, report_type: u32, hardware_report: &[u8], runtime: &[u8]) -> Vec<u8> {
    let number = |value: usize| u32::try_from(value).expect("a small number").to_le_bytes();
    let mut nv = b"HCLA".to_vec();
    nv.extend(version.to_le_bytes());
    nv.extend(number(RUNTIME + runtime.len()));
    nv.extend(2_u32.to_le_bytes());
    nv.extend([0; 16]);
    nv.extend(hardware_report);
    nv.resize(HARDWARE_REPORT.end, 0);
    nv.extend(number(20 + runtime.len()));
    nv.extend(1_u32.to_le_bytes());
    nv.extend(report_type.to_le_bytes());
    nv.extend(1_u32.to_le_bytes());
    nv.extend(number(runtime.len()));
    nv.extend(runtime);
    let padded = nv.len().max(NV_BYTES);
    nv.resize(padded, 0);
    nv
}

/// The TDREPORT_STRUCT that a TD quote with this body (TD report of TDX 1.0, 584 bytes, or of 1.5, 648) was made of.
#[must_use]
pub fn tdreport(body: &[u8]) -> Vec<u8> {
    let field = |from: usize, size: usize| &body[from..from + size];
    let mut tcb = vec![0xff, 0x01, 0x03, 0, 0, 0, 0, 0];
    tcb.extend(field(0, 120));
    // TEE_TCB_SVN2, as at launch where the body does not say.
    tcb.extend(if body.len() < 648 { field(0, 16) } else { field(584, 16) });
    tcb.resize(239, 0);
    let mut info = field(120, 400).to_vec();
    info.extend(if body.len() < 648 { &[0; 48] } else { field(600, 48) });
    info.resize(512, 0);
    let mut report = vec![0x81];
    report.resize(32, 0);
    report.extend(digest(&SHA384, &tcb).as_ref());
    report.extend(digest(&SHA384, &info).as_ref());
    report.extend(field(520, 64));
    report.resize(224, 0);
    // The MAC: nobody outside the processor can tell a right one from a wrong one.
    report.extend([0x4d; 32]);
    report.extend(tcb);
    report.resize(512, 0);
    report.extend(info);
    report
}
