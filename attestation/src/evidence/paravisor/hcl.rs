//! The report that Azure's paravisor (HCL, OpenHCL) leaves in NV index 0x01400001 of its virtual TPM: a header, a
//! hardware report, and a request whose runtime data that report has the hash of. Only the hardware report is signed;
//! header and request are worth something because nothing in them is left open.

use alloc::format;

use super::ParavisorReason;
use super::runtime::RuntimeData;
use super::tdreport::{TDREPORT_BYTES, TdReportStruct};
use crate::digest::Sha256Digest;
use crate::reader::{ReadError, Reader};
use crate::rejection::Rejection;

/// Bytes of an NV index with a report. Real ones have 2600; room is left for longer runtime data.
pub const HCL_REPORT_BYTES_MAX: usize = 16 * 1024;

/// NV index of the report.
pub const HCL_REPORT_NV_INDEX: u32 = 0x0140_0001;

const SIGNATURE: [u8; 4] = *b"HCLA";

/// AK_CERT_REQUEST, the only request a paravisor leaves in NV.
const REQUEST_TYPE: u32 = 2;

/// Bytes of the header.
const HEADER_BYTES: usize = 32;

/// Room for the hardware report: an SNP report fills it, zeros follow a TDREPORT.
const HARDWARE_REPORT_BYTES: usize = 1184;

/// Bytes of the request before its runtime data.
const REQUEST_BYTES: usize = 20;

const REQUEST_VERSION: u32 = 1;
const REPORT_TYPE_SNP: u32 = 2;
const REPORT_TYPE_TDX: u32 = 4;
const HASH_TYPE_SHA256: u32 = 1;

/// The hardware report in an HCL report. Nothing of it is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HardwareReport<'a> {
    /// ATTESTATION_REPORT of SEV-SNP: signed by the chip.
    Snp(&'a [u8]),
    /// TDREPORT_STRUCT: authenticated by a MAC that only its own processor can check. It counts as far as a verified TD
    /// quote says the same.
    Tdx(TdReportStruct<'a>),
}

impl HardwareReport<'_> {
    /// `SNP` or `TDX`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Snp(_) => "SNP",
            Self::Tdx(_) => "TDX",
        }
    }
}

/// An HCL report, taken apart.
#[derive(Clone, Copy, Debug)]
pub struct HclReport<'a> {
    version: u32,
    hardware: HardwareReport<'a>,
    runtime_bytes: &'a [u8],
    padding: usize,
}

impl<'a> HclReport<'a> {
    /// Takes apart what the NV index holds: the report, then zeros.
    ///
    /// # Errors
    /// [`ParavisorReason::Malformed`], [`ParavisorReason::Header`], [`ParavisorReason::ReportType`],
    /// [`ParavisorReason::HashType`], [`ParavisorReason::Padding`] or [`ParavisorReason::TdReport`].
    pub fn parse(nv: &'a [u8]) -> Result<Self, Rejection> {
        if HCL_REPORT_BYTES_MAX < nv.len() {
            return Err(ParavisorReason::Malformed.because(format!("up to {HCL_REPORT_BYTES_MAX} bytes"), nv.len()));
        }
        let short = |error: ReadError| ParavisorReason::Malformed.because("an HCL report", error);
        let mut reader = Reader::new(nv);
        let (version, report_size) = read_header(&mut reader)?;
        let hardware_bytes = reader.bytes(HARDWARE_REPORT_BYTES).map_err(short)?;
        let request = Request::read(&mut reader)?;
        let runtime_bytes = reader.bytes(request.runtime_size).map_err(short)?;
        if report_size != reader.offset() {
            return Err(ParavisorReason::Header.because(format!("size {}", reader.offset()), report_size));
        }
        let hardware = match request.report_type {
            REPORT_TYPE_SNP => HardwareReport::Snp(hardware_bytes),
            REPORT_TYPE_TDX => {
                let (report, rest) = hardware_bytes.split_at_checked(TDREPORT_BYTES).unwrap_or((hardware_bytes, &[]));
                check_zero(rest, "after the TDREPORT")?;
                HardwareReport::Tdx(TdReportStruct::parse(report)?)
            }
            other => return Err(ParavisorReason::ReportType.because("2 (SNP) or 4 (TDX)", other)),
        };
        let padding = nv.get(reader.offset()..).unwrap_or_default();
        check_zero(padding, "after the runtime data")?;
        Ok(Self { version, hardware, runtime_bytes, padding: padding.len() })
    }

    /// Version of the header: 1 or 2.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The hardware report. Nothing of it is verified.
    #[must_use]
    pub const fn hardware(&self) -> HardwareReport<'a> {
        self.hardware
    }

    /// The runtime data, exactly the bytes that were hashed.
    #[must_use]
    pub const fn runtime_bytes(&self) -> &'a [u8] {
        self.runtime_bytes
    }

    /// The runtime data, read. Whether a hardware report has its hash is for [`azure`](super::azure) to say.
    ///
    /// # Errors
    /// See [`RuntimeData::read`].
    pub fn runtime_data(&self) -> Result<RuntimeData, Rejection> {
        RuntimeData::read(self.runtime_bytes)
    }

    /// Zeros after the report.
    #[must_use]
    pub const fn padding(&self) -> usize {
        self.padding
    }

    /// What the hardware report's REPORT_DATA must be for this runtime data to be its: SHA-256, then zeros.
    #[must_use]
    pub fn expected_report_data(&self) -> [u8; 64] {
        let mut expected = [0; 64];
        let Sha256Digest(digest) = Sha256Digest::of(&[self.runtime_bytes]);
        expected.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        expected
    }

    /// Whether `report_data` is that, in all its 64 bytes.
    ///
    /// # Errors
    /// [`ParavisorReason::Binding`].
    pub fn check_binding(&self, report_data: &[u8]) -> Result<(), Rejection> {
        let expected = self.expected_report_data();
        if report_data == expected {
            Ok(())
        } else {
            Err(ParavisorReason::Binding.because(hex::encode(expected), hex::encode(report_data)))
        }
    }
}

/// Signature, version, size, request type, and 16 bytes that are reserved.
fn read_header(reader: &mut Reader<'_>) -> Result<(u32, usize), Rejection> {
    let short = |error: ReadError| ParavisorReason::Malformed.because("a header of 32 bytes", error);
    let refused = |expected: &str, found: &dyn core::fmt::Display| ParavisorReason::Header.because(expected, found);
    let signature: [u8; 4] = reader.array().map_err(short)?;
    if signature != SIGNATURE {
        return Err(refused("HCLA", &hex::encode(signature)));
    }
    let version = reader.u32_le().map_err(short)?;
    if ![1, 2].contains(&version) {
        return Err(refused("version 1 or 2", &version));
    }
    let size = usize::try_from(reader.u32_le().map_err(short)?).unwrap_or(usize::MAX);
    let request_type = reader.u32_le().map_err(short)?;
    if request_type != REQUEST_TYPE {
        return Err(refused("request type 2", &request_type));
    }
    let reserved: [u8; 16] = reader.array().map_err(short)?;
    if reserved != [0; 16] {
        return Err(refused("reserved bytes of zero", &hex::encode(reserved)));
    }
    debug_assert_eq!(reader.offset(), HEADER_BYTES, "the header's fields fill it");
    Ok((version, size))
}

/// IGVM_REQUEST_DATA before its runtime data.
struct Request {
    report_type: u32,
    runtime_size: usize,
}

impl Request {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Rejection> {
        let short = |error: ReadError| ParavisorReason::Malformed.because("a request of 20 bytes", error);
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let data_size = size(reader.u32_le().map_err(short)?);
        let version = reader.u32_le().map_err(short)?;
        let report_type = reader.u32_le().map_err(short)?;
        let hash_type = reader.u32_le().map_err(short)?;
        let runtime_size = size(reader.u32_le().map_err(short)?);
        if version != REQUEST_VERSION {
            return Err(ParavisorReason::Header.because("request version 1", version));
        }
        if hash_type != HASH_TYPE_SHA256 {
            return Err(ParavisorReason::HashType.because("1 (SHA-256)", hash_type));
        }
        let expected = runtime_size.saturating_add(REQUEST_BYTES);
        if data_size != expected {
            return Err(ParavisorReason::Header.because(format!("a request of {expected} bytes"), data_size));
        }
        Ok(Self { report_type, runtime_size })
    }
}

fn check_zero(bytes: &[u8], whence: &'static str) -> Result<(), Rejection> {
    match bytes.iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(at) => Err(ParavisorReason::Padding.because(format!("zeros {whence}"), format!("another byte at {at}"))),
    }
}
