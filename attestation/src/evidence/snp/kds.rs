//! What AMD's Key Distribution Service is asked for the certificate of the VCEK that signed a report (AMD 57230, 4.1).

use alloc::format;
use alloc::string::String;

use super::report::{REPORT_BYTES, Report, SIGNED_BYTES};
use super::{SnpReason, appraise};
use crate::anchor::AmdProduct;
use crate::endorsement::amd::hwid_size;
use crate::rejection::Rejection;

/// Path and query below the service's address. Nothing of the report is believed for it; what comes back is checked
/// like any other certificate. `product` is for reports before version 3, which do not say what they come from.
///
/// # Errors
/// An [`SnpReason`]: the report is none, its key is no VCEK, or it does not say which chip it is of.
pub fn vcek_path(report: &[u8], product: Option<AmdProduct>) -> Result<String, Rejection> {
    if report.len() != REPORT_BYTES {
        return Err(SnpReason::Length.because(REPORT_BYTES, report.len()));
    }
    let report = Report::read(report.get(..SIGNED_BYTES).unwrap_or_default())?;
    if !appraise::is_signed_by_vcek(&report) {
        return Err(SnpReason::VekKind
            .because("a report that a VCEK signed", "one of a VLEK, which its cloud provider hands out"));
    }
    let product = report.cpuid.and_then(appraise::product_of).or(product);
    let unknown = || SnpReason::Product.because("a report that says its product line, or the line by name", "neither");
    let product = product.ok_or_else(unknown)?;
    let hwid = report.chip_id.get(..hwid_size(product)).unwrap_or_default();
    if hwid.iter().all(|octet| *octet == 0) {
        return Err(SnpReason::ChipIdMasked.because("CHIP_ID", "zeros"));
    }
    // The key is derived for the reported TCB (ABI, 3.8): its certificate is for that and no other.
    let tcb = report.reported_tcb.decode(product)?;
    let fmc = tcb.fmc.map(|fmc| format!("fmcSPL={fmc:02}&")).unwrap_or_default();
    Ok(format!(
        "vcek/v1/{product}/{}?{fmc}blSPL={:02}&teeSPL={:02}&snpSPL={:02}&ucodeSPL={:02}",
        hex::encode(hwid),
        tcb.bootloader,
        tcb.tee,
        tcb.snp,
        tcb.microcode,
    ))
}
