//! TDREPORT_STRUCT (Intel TDX Module ABI, "TDREPORT_STRUCT"). Its MAC can be checked by the processor that made it and
//! by nobody else: away from there it is an unsigned note, whatever it says.

use aws_lc_rs::digest::{SHA384, digest};

use super::ParavisorReason;
use crate::reader::{ReadError, Reader};
use crate::rejection::Rejection;

/// The whole structure.
pub const TDREPORT_BYTES: usize = 1024;

/// TEE_TCB_INFO, without the reserved bytes that follow.
const TEE_TCB_INFO_BYTES: usize = 239;

/// TDINFO_STRUCT.
const TDINFO_BYTES: usize = 512;

/// REPORTTYPE: TEE type 81h, subtype 0; version 0 or, since service TDs can be bound, 1.
const REPORT_TYPES: [[u8; 4]; 2] = [[0x81, 0, 0, 0], [0x81, 0, 1, 0]];

/// A TDREPORT, taken apart. Nothing of it is verified, and nothing alone can make it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TdReportStruct<'a> {
    /// REPORTDATA.
    pub report_data: &'a [u8; 64],
    /// TEE_TCB_SVN.
    pub tee_tcb_svn: &'a [u8; 16],
    /// MRSEAM.
    pub mr_seam: &'a [u8; 48],
    /// MRSIGNERSEAM.
    pub mr_signer_seam: &'a [u8; 48],
    /// SEAM ATTRIBUTES.
    pub seam_attributes: &'a [u8; 8],
    /// ATTRIBUTES of the TD.
    pub attributes: &'a [u8; 8],
    /// XFAM.
    pub xfam: &'a [u8; 8],
    /// MRTD.
    pub mr_td: &'a [u8; 48],
    /// MRCONFIGID.
    pub mr_config_id: &'a [u8; 48],
    /// MROWNER.
    pub mr_owner: &'a [u8; 48],
    /// MROWNERCONFIG.
    pub mr_owner_config: &'a [u8; 48],
    /// RTMR0 to RTMR3.
    pub rtmrs: [&'a [u8; 48]; 4],
    /// SERVTD_HASH.
    pub service_td_hash: &'a [u8; 48],
}

impl<'a> TdReportStruct<'a> {
    /// Takes apart a TDREPORT_STRUCT: all of `bytes`. Its two inner hashes must be of its own parts.
    ///
    /// # Errors
    /// [`ParavisorReason::TdReport`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Rejection> {
        let short = |error: ReadError| ParavisorReason::TdReport.because("a TDREPORT_STRUCT of 1024 bytes", error);
        let refused = |expected: &str, found: &str| ParavisorReason::TdReport.because(expected, found);
        let mut reader = Reader::new(bytes);
        // REPORTMACSTRUCT.
        let kind: [u8; 4] = reader.array().map_err(short)?;
        if !REPORT_TYPES.contains(&kind) {
            return Err(refused("the report of a TD", &hex::encode(kind)));
        }
        reader.bytes(12 + 16).map_err(short)?;
        let tcb_hash = reader.bytes(48).map_err(short)?;
        let info_hash = reader.bytes(48).map_err(short)?;
        let report_data = field(&mut reader)?;
        reader.bytes(32 + 32).map_err(short)?;
        let tcb = reader.bytes(TEE_TCB_INFO_BYTES).map_err(short)?;
        reader.bytes(17).map_err(short)?;
        let info = reader.bytes(TDINFO_BYTES).map_err(short)?;
        reader.finish().map_err(short)?;
        if digest(&SHA384, tcb).as_ref() != tcb_hash {
            return Err(refused("TEE_TCB_INFO_HASH of TEE_TCB_INFO", "another hash"));
        }
        if digest(&SHA384, info).as_ref() != info_hash {
            return Err(refused("TEE_INFO_HASH of TDINFO_STRUCT", "another hash"));
        }
        let mut tcb = Reader::new(tcb);
        tcb.bytes(8).map_err(short)?;
        let mut info = Reader::new(info);
        Ok(Self {
            report_data,
            tee_tcb_svn: field(&mut tcb)?,
            mr_seam: field(&mut tcb)?,
            mr_signer_seam: field(&mut tcb)?,
            seam_attributes: field(&mut tcb)?,
            attributes: field(&mut info)?,
            xfam: field(&mut info)?,
            mr_td: field(&mut info)?,
            mr_config_id: field(&mut info)?,
            mr_owner: field(&mut info)?,
            mr_owner_config: field(&mut info)?,
            rtmrs: [field(&mut info)?, field(&mut info)?, field(&mut info)?, field(&mut info)?],
            service_td_hash: field(&mut info)?,
        })
    }
}

/// The next `N` bytes, borrowed.
fn field<'a, const N: usize>(reader: &mut Reader<'a>) -> Result<&'a [u8; N], Rejection> {
    let short = |error: ReadError| ParavisorReason::TdReport.because("a TDREPORT_STRUCT of 1024 bytes", error);
    let bytes = reader.bytes(N).map_err(short)?;
    bytes.first_chunk().ok_or_else(|| ParavisorReason::TdReport.because(N, bytes.len()))
}
