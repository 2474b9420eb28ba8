//! Reports of Azure's paravisor, as NV index 0x01400001 holds them: header, hardware report, runtime data.

use countersign_attestation::claims::Presented;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::paravisor::{HardwareReport, HclReport, RuntimeData, Setting, TdReportStruct};

use super::document::{Fields, Part, Standing, Value};
use super::{Unreadable, snp};

/// The header's signature.
pub(super) fn recognise(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HCLA")
}

/// Header, hardware report, runtime data.
pub(super) fn report(bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    let hcl = HclReport::parse(bytes).map_err(|rejection| rejection.to_string())?;
    let hardware = hcl.hardware();
    let because = "nothing signs it; a verifier leaves nothing in it open";
    let header = Part::new("HCL report", Standing::Claimed, because)
        .with("version", hcl.version())
        .with("hardware report", hardware.name())
        .with("runtime data", format!("{} bytes", hcl.runtime_bytes().len()))
        .with("padding", hcl.padding());
    let mut parts = vec![header];
    let report_data = match hardware {
        HardwareReport::Snp(report) => {
            parts.extend(snp::report(report)?);
            report.get(0x50..0x90).unwrap_or_default()
        }
        HardwareReport::Tdx(report) => {
            parts.push(td_report(&report));
            report.report_data.as_slice()
        }
    };
    parts.push(runtime(&hcl, report_data));
    Ok(parts)
}

/// TDREPORT_STRUCT.
fn td_report(report: &TdReportStruct<'_>) -> Part {
    let because =
        "only the processor that made it can check its MAC: it counts as far as a verified TD quote says the same";
    let mut part = Part::new("TDREPORT_STRUCT", Standing::Claimed, because);
    let fields: [(&str, &[u8]); 11] = [
        ("REPORTDATA", report.report_data),
        ("TEE_TCB_SVN", report.tee_tcb_svn),
        ("MRSEAM", report.mr_seam),
        ("MRSIGNERSEAM", report.mr_signer_seam),
        ("TDATTRIBUTES", report.attributes),
        ("XFAM", report.xfam),
        ("MRTD", report.mr_td),
        ("MRCONFIGID", report.mr_config_id),
        ("MROWNER", report.mr_owner),
        ("MROWNERCONFIG", report.mr_owner_config),
        ("SERVTD_HASH", report.service_td_hash),
    ];
    for (name, value) in fields {
        part.fields.add(name, Value::hex(value));
    }
    for (name, value) in ["RTMR0", "RTMR1", "RTMR2", "RTMR3"].into_iter().zip(report.rtmrs) {
        part.fields.add(name, Value::hex(value));
    }
    part
}

/// The runtime data, and whether the hardware report has its hash.
fn runtime(hcl: &HclReport<'_>, report_data: &[u8]) -> Part {
    let bound = hcl.check_binding(report_data).is_ok();
    let (standing, because) = match (hcl.hardware(), bound) {
        (HardwareReport::Snp(_), true) => {
            (Standing::SignedNotChecked, "REPORT_DATA, which the chip signs, is its SHA-256")
        }
        (HardwareReport::Tdx(_), true) => {
            (Standing::Claimed, "REPORTDATA of the TDREPORT is its SHA-256; a verified TD quote must say so too")
        }
        (HardwareReport::Snp(_) | HardwareReport::Tdx(_), false) => {
            (Standing::Claimed, "the hardware report was made for OTHER data")
        }
    };
    let mut part = Part::new("runtime data", standing, because);
    part.fields.add("hash is the hardware report's (computed)", bound);
    match hcl.runtime_data() {
        Ok(runtime) => add_runtime(&mut part, &runtime),
        Err(rejection) => part.fields.add("a verifier refuses it", rejection.to_string()),
    }
    part
}

fn add_runtime(part: &mut Part, runtime: &RuntimeData) {
    let digest = |spki: &[u8]| Sha256Digest::of(&[spki]).to_hex();
    part.fields.add("keys", Value::list(runtime.kids().iter().map(String::as_str)));
    part.fields.add("HCLAkPub (SHA-256 of the public key)", digest(runtime.ak().spki()));
    if let Presented::Verified(ek) = runtime.ek() {
        part.fields.add("HCLEkPub (SHA-256 of the public key)", digest(ek.spki()));
    }
    let mut settings = Fields::default();
    for (name, setting) in runtime.vm_configuration() {
        let value = match setting {
            Setting::Unset => Value::Absent,
            Setting::Flag(flag) => (*flag).into(),
            Setting::Number(number) => number.to_string().into(),
            Setting::Text(text) => text.as_str().into(),
        };
        settings.add(name, value);
    }
    part.fields.add("vm-configuration", settings);
    part.fields.add("user-data", Value::hex(&runtime.user_data().0));
    let story = "a quote of the virtual TPM counts if it verifies under HCLAkPub, whatever certificate comes with it";
    part.story.push(super::document::Text::new(story));
}
