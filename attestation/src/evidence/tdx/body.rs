//! What a quote is about: a TD report or an enclave report, read field by field and judged elsewhere.
//!
//! Little-endian throughout, no padding between fields (Intel TDX DCAP Quoting Library API, appendix A.3; SGX REPORT
//! body as in the Intel SDM, volume 3D, table 40-21).

use core::fmt;

use crate::reader::{ReadError, Reader};

/// A measurement of TDX: SHA-384.
pub type Measurement = [u8; 48];

/// Which body a quote carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyKind {
    /// An SGX enclave report.
    Sgx,
    /// A TD report of TDX 1.0.
    Td10,
    /// A TD report of TDX 1.5: with TEE_TCB_SVN2 and MR_SERVICETD.
    Td15,
    /// A TD report of TDX 1.5 with the instance of the TD, its devices and its service TDs.
    Td15Ex,
}

impl BodyKind {
    /// The body of this type number in a quote of version 5.
    #[must_use]
    pub const fn of(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Sgx),
            2 => Some(Self::Td10),
            3 => Some(Self::Td15),
            4 => Some(Self::Td15Ex),
            _ => None,
        }
    }

    /// How many bytes such a body has.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Sgx => ENCLAVE_REPORT_BYTES,
            Self::Td10 => 584,
            Self::Td15 => 648,
            Self::Td15Ex => 885,
        }
    }

    /// Its name in claims: `sgx`, `td10`, `td15`, `td15ex`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sgx => "sgx",
            Self::Td10 => "td10",
            Self::Td15 => "td15",
            Self::Td15Ex => "td15ex",
        }
    }
}

impl fmt::Display for BodyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The body of an SGX REPORT.
pub(super) const ENCLAVE_REPORT_BYTES: usize = 384;

/// The body of a quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "it lives on the stack for one verification")]
pub enum Body {
    /// An enclave's.
    Sgx(EnclaveReport),
    /// A trust domain's.
    Td(TdReport),
}

impl Body {
    /// Reads a body of `kind`, all of `bytes`.
    pub(super) fn read(kind: BodyKind, bytes: &[u8]) -> Result<Self, ReadError> {
        let mut reader = Reader::new(bytes);
        let body = match kind {
            BodyKind::Sgx => Self::Sgx(EnclaveReport::read_from(&mut reader)?),
            BodyKind::Td10 => Self::Td(TdReport::read_from(&mut reader)?),
            BodyKind::Td15 => {
                let report = TdReport::read_from(&mut reader)?;
                Self::Td(TdReport { td15: Some(Td15::read_from(&mut reader)?), ..report })
            }
            BodyKind::Td15Ex => {
                let report = TdReport::read_from(&mut reader)?;
                let td15 = Some(Td15::read_from(&mut reader)?);
                Self::Td(TdReport { td15, td15_ex: Some(Td15Ex::read_from(&mut reader)?), ..report })
            }
        };
        reader.finish()?;
        Ok(body)
    }
}

/// An SGX enclave report: the quoting enclave's own, and the body of an SGX quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnclaveReport {
    /// CPUSVN.
    pub cpu_svn: [u8; 16],
    /// MISCSELECT.
    pub misc_select: u32,
    /// ISVEXTPRODID.
    pub isv_ext_prod_id: [u8; 16],
    /// ATTRIBUTES: flags and XFRM.
    pub attributes: [u8; 16],
    /// MRENCLAVE.
    pub mr_enclave: [u8; 32],
    /// MRSIGNER.
    pub mr_signer: [u8; 32],
    /// CONFIGID.
    pub config_id: [u8; 64],
    /// ISVPRODID.
    pub isv_prod_id: u16,
    /// ISVSVN.
    pub isv_svn: u16,
    /// CONFIGSVN.
    pub config_svn: u16,
    /// ISVFAMILYID.
    pub isv_family_id: [u8; 16],
    /// REPORTDATA.
    pub report_data: [u8; 64],
}

impl EnclaveReport {
    /// Reads a report, all of `bytes`.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ReadError> {
        let mut reader = Reader::new(bytes);
        let report = Self::read_from(&mut reader)?;
        reader.finish()?;
        Ok(report)
    }

    fn read_from(reader: &mut Reader<'_>) -> Result<Self, ReadError> {
        let cpu_svn = reader.array()?;
        let misc_select = reader.u32_le()?;
        reader.bytes(12)?;
        let isv_ext_prod_id = reader.array()?;
        let attributes = reader.array()?;
        let mr_enclave = reader.array()?;
        reader.bytes(32)?;
        let mr_signer = reader.array()?;
        reader.bytes(32)?;
        let config_id = reader.array()?;
        let isv_prod_id = reader.u16_le()?;
        let isv_svn = reader.u16_le()?;
        let config_svn = reader.u16_le()?;
        reader.bytes(42)?;
        let isv_family_id = reader.array()?;
        let report_data = reader.array()?;
        Ok(Self {
            cpu_svn,
            misc_select,
            isv_ext_prod_id,
            attributes,
            mr_enclave,
            mr_signer,
            config_id,
            isv_prod_id,
            isv_svn,
            config_svn,
            isv_family_id,
            report_data,
        })
    }

    /// ATTRIBUTES.DEBUG: whoever has the machine reads and writes the enclave's memory.
    #[must_use]
    pub const fn is_debug(&self) -> bool {
        self.attributes[0] & 0x02 != 0
    }
}

/// A TD report. Fields that TDX 1.5 added are a part of their own, absent from earlier bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TdReport {
    /// TEE_TCB_SVN: of the TDX module at the TD's launch, component by component.
    pub tee_tcb_svn: [u8; 16],
    /// MRSEAM: measurement of the TDX module.
    pub mr_seam: Measurement,
    /// MRSIGNERSEAM: zero for Intel's module.
    pub mr_signer_seam: Measurement,
    /// SEAMATTRIBUTES.
    pub seam_attributes: [u8; 8],
    /// TDATTRIBUTES, little-endian as in the report.
    pub td_attributes: [u8; 8],
    /// XFAM, little-endian as in the report.
    pub xfam: [u8; 8],
    /// MRTD: measurement of the TD's initial memory.
    pub mr_td: Measurement,
    /// MRCONFIGID.
    pub mr_config_id: Measurement,
    /// MROWNER.
    pub mr_owner: Measurement,
    /// MROWNERCONFIG.
    pub mr_owner_config: Measurement,
    /// RTMR0 to RTMR3.
    pub rtmrs: [Measurement; 4],
    /// REPORTDATA.
    pub report_data: [u8; 64],
    /// What TDX 1.5 added.
    pub td15: Option<Td15>,
    /// What the extended body of TDX 1.5 added.
    pub td15_ex: Option<Td15Ex>,
}

impl TdReport {
    fn read_from(reader: &mut Reader<'_>) -> Result<Self, ReadError> {
        let tee_tcb_svn = reader.array()?;
        let mr_seam = reader.array()?;
        let mr_signer_seam = reader.array()?;
        let seam_attributes = reader.array()?;
        let td_attributes = reader.array()?;
        let xfam = reader.array()?;
        let mr_td = reader.array()?;
        let mr_config_id = reader.array()?;
        let mr_owner = reader.array()?;
        let mr_owner_config = reader.array()?;
        let rtmrs = [reader.array()?, reader.array()?, reader.array()?, reader.array()?];
        let report_data = reader.array()?;
        Ok(Self {
            tee_tcb_svn,
            mr_seam,
            mr_signer_seam,
            seam_attributes,
            td_attributes,
            xfam,
            mr_td,
            mr_config_id,
            mr_owner,
            mr_owner_config,
            rtmrs,
            report_data,
            td15: None,
            td15_ex: None,
        })
    }

    /// TDATTRIBUTES as the number its bits are counted in.
    #[must_use]
    pub const fn attributes(&self) -> u64 {
        u64::from_le_bytes(self.td_attributes)
    }
}

/// What a TD report of TDX 1.5 has beyond one of 1.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Td15 {
    /// TEE_TCB_SVN2: of the TDX module now; another than at launch after an update that kept TDs running.
    pub tee_tcb_svn2: [u8; 16],
    /// MR_SERVICETD: of the service TDs bound to the TD.
    pub mr_service_td: Measurement,
}

impl Td15 {
    fn read_from(reader: &mut Reader<'_>) -> Result<Self, ReadError> {
        Ok(Self { tee_tcb_svn2: reader.array()?, mr_service_td: reader.array()? })
    }
}

/// What the extended TD report of TDX 1.5 adds (quote version 5, body type 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Td15Ex {
    /// Which VM of a partitioned TD the report is about; 0 for a TD that is not.
    pub vm_id: u8,
    /// Instance of the TD.
    pub td_id: [u8; 32],
    /// Hash of the information about the TD's devices.
    pub dev_info: Measurement,
    /// SERVTD_HASH when the TD was made.
    pub init_service_td_hash: Measurement,
    /// Attributes of that service TD.
    pub init_service_td_attributes: [u8; 8],
    /// CPUSVN when the TD was made.
    pub init_cpu_svn: [u8; 16],
    /// TEE_TCB_SVN when the TD was made.
    pub init_tee_tcb_svn: [u8; 16],
    /// FMSPC of the platform it was made on, padded.
    pub init_tee_fmspc: [u8; 12],
    /// SERVTD_HASH now: changes with later bindings, where MR_SERVICETD does not.
    pub current_service_td_hash: Measurement,
    /// Attributes of the service TD bound now.
    pub current_service_td_attributes: [u8; 8],
}

impl Td15Ex {
    fn read_from(reader: &mut Reader<'_>) -> Result<Self, ReadError> {
        Ok(Self {
            vm_id: reader.u8()?,
            td_id: reader.array()?,
            dev_info: reader.array()?,
            init_service_td_hash: reader.array()?,
            init_service_td_attributes: reader.array()?,
            init_cpu_svn: reader.array()?,
            init_tee_tcb_svn: reader.array()?,
            init_tee_fmspc: reader.array()?,
            current_service_td_hash: reader.array()?,
            current_service_td_attributes: reader.array()?,
        })
    }
}
