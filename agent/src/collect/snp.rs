//! The SEV-SNP report of the confidential VM this agent runs in, with the certificate of the key that signed it.
//!
//! configfs-tsm (Linux 6.7, Documentation/ABI/testing/configfs-tsm-report) is preferred; `/dev/sev-guest` is the way of
//! older kernels.

use std::fs;
use std::path::{Path, PathBuf};

use countersign_attestation::evidence::bundle::SnpEvidence;
use countersign_attestation::reader::Reader;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::collect::kds::{Kds, KdsError};
use crate::collect::snp_table::{Entry, Vek, certificate};
use crate::collect::tsm::{Answer, Auxblob, ReportEntry, TsmError};

/// Bytes of ATTESTATION_REPORT (SNP ABI 1.58, table 23).
const REPORT_SIZE: usize = 1184;

/// Why there is no report although this is, or seems to be, an SNP guest.
#[derive(Debug, thiserror::Error)]
pub enum SnpError {
    /// configfs-tsm could not be used.
    #[error(transparent)]
    Tsm(#[from] TsmError),
    /// The firmware's answer is not a report about this binder.
    #[error("the firmware's answer is not the report that was asked for: {0}")]
    Report(&'static str),
    /// The host's certificate table is malformed.
    #[error("the host's certificate table is malformed: {0}")]
    Table(&'static str),
    /// No certificate for the signing key.
    #[error(
        "the host gave no {0:?} certificate; let the agent fetch it with --kds URL, or name it with --snp-vek FILE"
    )]
    NoVek(Vek),
    /// The certificate cannot be fetched.
    #[error(transparent)]
    Kds(#[from] KdsError),
    /// `--snp-vek` names something else than one certificate.
    #[error("{} holds no certificate in PEM or DER", .0.display())]
    VekFile(PathBuf),
    /// The `/dev/sev-guest` request failed.
    #[error("{}: {error}", path.display())]
    Device {
        /// The device.
        path: PathBuf,
        /// The library's words.
        error: String,
    },
}

/// Where reports come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnpSource {
    /// `/dev/sev-guest`. The library opens exactly this path.
    pub device: PathBuf,
    /// Certificate of the signing key, for hosts that give none.
    pub vek: Option<PathBuf>,
    /// Where a VCEK's certificate is fetched from where there is neither.
    pub kds: Option<Kds>,
}

impl SnpSource {
    /// The kernel's paths.
    #[must_use]
    pub fn system(vek: Option<PathBuf>, kds: Option<Kds>) -> Self {
        Self { device: "/dev/sev-guest".into(), vek, kds }
    }

    /// The report over `report_data` that a configfs-tsm entry gives.
    pub(super) fn ask_configfs(
        &self,
        entry: &dyn ReportEntry,
        report_data: &[u8; 64],
    ) -> Result<SnpEvidence, SnpError> {
        let Answer { outblob, auxblob } = entry.answer(report_data, Auxblob::Read)?;
        self.evidence(outblob, &auxblob, report_data)
    }

    /// The report over `report_data` by the device of older kernels; `None` when this machine is not an SNP guest.
    pub(super) fn ask_device(&self, report_data: &[u8; 64]) -> Result<Option<SnpEvidence>, SnpError> {
        if !self.device.exists() {
            return Ok(None);
        }
        self.evidence(from_device(&self.device, report_data)?, &[], report_data).map(Some)
    }

    fn evidence(&self, report: Vec<u8>, table: &[u8], report_data: &[u8; 64]) -> Result<SnpEvidence, SnpError> {
        let kind = signing_key(&report, report_data)?;
        let vek = match (certificate(table, kind), &self.vek, &self.kds) {
            (Entry::Found(der), _, _) => der.to_vec(),
            (Entry::Malformed(fault), _, _) => return Err(SnpError::Table(fault)),
            (Entry::Absent, Some(path), _) => read_certificate(path)?,
            (Entry::Absent, None, Some(kds)) => kds.vcek(&report)?,
            (Entry::Absent, None, None) => return Err(SnpError::NoVek(kind)),
        };
        Ok(SnpEvidence { report, vek })
    }
}

/// The key that signed `report`, which must be about `report_data`. Offsets: SNP ABI 1.58, table 23.
fn signing_key(report: &[u8], report_data: &[u8; 64]) -> Result<Vek, SnpError> {
    if report.len() != REPORT_SIZE {
        return Err(SnpError::Report("not 1184 bytes"));
    }
    let mut reader = Reader::new(report);
    let short = |_| SnpError::Report("short");
    reader.bytes(0x48).map_err(short)?;
    let key_info = reader.u32_le().map_err(short)?;
    reader.u32_le().map_err(short)?;
    if reader.array::<64>().map_err(short)? != *report_data {
        return Err(SnpError::Report("REPORT_DATA is not the binder"));
    }
    // SIGNING_KEY, bits 4:2.
    match (key_info >> 2) & 7 {
        0 => Ok(Vek::Vcek),
        1 => Ok(Vek::Vlek),
        _ => Err(SnpError::Report("signed by neither VCEK nor VLEK")),
    }
}

pub(super) fn read_certificate(path: &Path) -> Result<Vec<u8>, SnpError> {
    let bytes = fs::read(path).map_err(|error| TsmError::Io { action: "read", path: path.to_path_buf(), error })?;
    if let Ok(certificate) = CertificateDer::from_pem_slice(&bytes) {
        return Ok(certificate.to_vec());
    }
    let whole = crate::der::first_value(&bytes).is_some_and(|value| value.len() == bytes.len());
    if whole { Ok(bytes) } else { Err(SnpError::VekFile(path.to_path_buf())) }
}

/// SNP_GET_REPORT. The extended request is not used: the library follows the host's certificate table by raw pointers,
/// and the host is not trusted; the certificate comes from `--snp-vek` instead.
fn from_device(path: &Path, report_data: &[u8; 64]) -> Result<Vec<u8>, SnpError> {
    let device = |error: String| SnpError::Device { path: path.to_path_buf(), error };
    let mut firmware = sev::firmware::guest::Firmware::open().map_err(|error| device(error.to_string()))?;
    firmware.get_report(None, Some(*report_data), Some(0)).map_err(|error| device(error.to_string()))
}

#[cfg(test)]
mod tests;
