//! Quotes of Intel's DCAP: of trust domains (TDX) and of enclaves (SGX), with the report of the quoting enclave.

use countersign_attestation::evidence::tdx::quote::{CertificationType, Quote};
use countersign_attestation::evidence::tdx::{Body, EnclaveReport, TdReport};

use super::document::{Fields, Part, Standing, Value};
use super::{Unreadable, certificate};

/// Vendor id of Intel's QE, at offset 12 of every header.
const INTEL: [u8; 16] = *b"\x93\x9a\x72\x33\xf7\x9c\x4c\xa9\x94\x0a\x0d\xb3\x95\x7f\x06\x07";

/// TDATTRIBUTES (Intel TDX Module ABI, "ATTRIBUTES").
const TD_ATTRIBUTES: [(u32, &str); 6] =
    [(0, "DEBUG"), (28, "SEPT_VE_DISABLE"), (29, "MIGRATABLE"), (30, "PKS"), (31, "KL"), (63, "PERFMON")];

/// A known version, and the vendor id.
pub(super) fn recognise(bytes: &[u8]) -> bool {
    matches!(bytes, [3..=5, 0, ..]) && bytes.get(12..28) == Some(&INTEL)
}

/// Header, report, the quoting enclave's report, and the chain of the PCK.
pub(super) fn quote(bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    let quote = Quote::parse(bytes).map_err(|rejection| rejection.to_string())?;
    let signed = quote.unverified();
    let by_key = "the attestation key signs header and report";
    let header = Part::new("quote header", Standing::SignedNotChecked, by_key)
        .with("version", u64::from(signed.version.number()))
        .with("body", signed.kind.name())
        .with("user data", Value::hex(&signed.user_data));
    let body = match &signed.body {
        Body::Td(report) => Part { fields: td(report), ..Part::new("TD report", Standing::SignedNotChecked, by_key) },
        Body::Sgx(report) => {
            Part { fields: enclave(report), ..Part::new("enclave report", Standing::SignedNotChecked, by_key) }
        }
    };
    let qe = quote.qe();
    let by_pck = "the platform's PCK signs it; its REPORTDATA must be the hash of the attestation key";
    let report = qe.unverified_report().map_err(|rejection| rejection.to_string())?;
    let qe_report = Part { fields: enclave(&report), ..Part::new("QE report", Standing::SignedNotChecked, by_pck) };
    let types = quote.certification_types();
    let because = "the certificates decide what it is worth";
    let certification = Part::new("certification data", Standing::Claimed, because)
        .with("types, from outside to inside", Value::list(types.iter().map(|kind| u64::from(*kind))))
        .with("what it is", certification_name(qe.kind))
        .with("authenticated along with the key", Value::hex(qe.auth_data));
    let mut parts = vec![header, body, qe_report, certification];
    if let Ok(chain) = quote.pck_chain() {
        parts.extend(certificate::certificates(chain)?);
    }
    Ok(parts)
}

const fn certification_name(kind: CertificationType) -> &'static str {
    match kind {
        CertificationType::Ppid => "PPID in clear: the PCK certificate is elsewhere",
        CertificationType::PpidRsa2048 | CertificationType::PpidRsa3072 => {
            "PPID encrypted: the PCK certificate is elsewhere"
        }
        CertificationType::PckCertificate => "PCK certificate",
        CertificationType::PckChain => "PCK certificate chain",
    }
}

fn td(report: &TdReport) -> Fields {
    let mut fields = Fields::default();
    let attributes = report.attributes();
    let set: Vec<&str> =
        TD_ATTRIBUTES.iter().filter(|(bit, _)| attributes >> bit & 1 == 1).map(|(_, name)| *name).collect();
    let set = if set.is_empty() { "none of the known ones".to_owned() } else { set.join(", ") };
    fields.add("TEE_TCB_SVN", Value::hex(&report.tee_tcb_svn));
    fields.add("MRSEAM", Value::hex(&report.mr_seam));
    fields.add("MRSIGNERSEAM", Value::hex(&report.mr_signer_seam));
    fields.add("SEAMATTRIBUTES", Value::hex(&report.seam_attributes));
    fields.add("TDATTRIBUTES", format!("{attributes:#x} ({set})"));
    fields.add("XFAM", Value::hex(&report.xfam));
    fields.add("MRTD", Value::hex(&report.mr_td));
    fields.add("MRCONFIGID", Value::hex(&report.mr_config_id));
    fields.add("MROWNER", Value::hex(&report.mr_owner));
    fields.add("MROWNERCONFIG", Value::hex(&report.mr_owner_config));
    for (name, value) in ["RTMR0", "RTMR1", "RTMR2", "RTMR3"].into_iter().zip(&report.rtmrs) {
        fields.add(name, Value::hex(value));
    }
    fields.add("REPORTDATA", Value::hex(&report.report_data));
    if let Some(td15) = &report.td15 {
        fields.add("TEE_TCB_SVN2", Value::hex(&td15.tee_tcb_svn2));
        fields.add("MR_SERVICETD", Value::hex(&td15.mr_service_td));
    }
    if let Some(extended) = &report.td15_ex {
        fields.add("VM_ID", extended.vm_id);
        fields.add("TD_ID", Value::hex(&extended.td_id));
        fields.add("DEV_INFO", Value::hex(&extended.dev_info));
        fields.add("CURRENT_SERVTD_HASH", Value::hex(&extended.current_service_td_hash));
    }
    fields
}

fn enclave(report: &EnclaveReport) -> Fields {
    Fields::default()
        .with("CPUSVN", Value::hex(&report.cpu_svn))
        .with("ATTRIBUTES", Value::hex(&report.attributes))
        .with("DEBUG", report.is_debug())
        .with("MRENCLAVE", Value::hex(&report.mr_enclave))
        .with("MRSIGNER", Value::hex(&report.mr_signer))
        .with("ISVPRODID", u64::from(report.isv_prod_id))
        .with("ISVSVN", u64::from(report.isv_svn))
        .with("REPORTDATA", Value::hex(&report.report_data))
}
