//! The SEV-SNP report of the confidential VM this agent runs in, with the certificate of the key that signed it.
//!
//! configfs-tsm (Linux 6.7, Documentation/ABI/testing/configfs-tsm-report) is preferred; `/dev/sev-guest` is the way of
//! older kernels.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use countersign_attestation::evidence::bundle::SnpEvidence;
use countersign_attestation::reader::Reader;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::collect::snp_table::{Entry, Vek, certificate};

/// Bytes of ATTESTATION_REPORT (SNP ABI 1.58, table 23).
const REPORT_SIZE: usize = 1184;
/// Attempts while another process uses the same report entry.
const GENERATION_ATTEMPTS: usize = 3;

/// Why there is no report although this is, or seems to be, an SNP guest.
#[derive(Debug, thiserror::Error)]
pub enum SnpError {
    /// A file or device could not be used.
    #[error("{action} {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// Another process wrote the report entry between our request and its answer.
    #[error("{} was used by another process: generation {found}, expected {expected}", path.display())]
    Generation {
        /// The entry.
        path: PathBuf,
        /// Generation after our one write.
        expected: u64,
        /// What the kernel says.
        found: String,
    },
    /// The firmware's answer is not a report about this binder.
    #[error("the firmware's answer is not the report that was asked for: {0}")]
    Report(&'static str),
    /// The host's certificate table is malformed.
    #[error("the host's certificate table is malformed: {0}")]
    Table(&'static str),
    /// No certificate for the signing key.
    #[error("the host gave no {0:?} certificate; fetch it from AMD's KDS and name it with --snp-vek FILE")]
    NoVek(Vek),
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
    /// `/sys/kernel/config/tsm/report`.
    pub configfs: PathBuf,
    /// `/dev/sev-guest`. The library opens exactly this path.
    pub device: PathBuf,
    /// Certificate of the signing key, for hosts that give none.
    pub vek: Option<PathBuf>,
}

impl SnpSource {
    /// The kernel's paths.
    #[must_use]
    pub fn system(vek: Option<PathBuf>) -> Self {
        Self { configfs: "/sys/kernel/config/tsm/report".into(), device: "/dev/sev-guest".into(), vek }
    }

    /// The report over `report_data`; `None` when this machine is not an SNP guest. Whether a host may attest without
    /// is for the broker's policy to say.
    ///
    /// # Errors
    /// [`SnpError`]: an SNP guest whose report cannot be had does not attest as if it were none.
    pub fn collect(&self, report_data: &[u8; 64]) -> Result<Option<SnpEvidence>, SnpError> {
        if self.configfs.is_dir() {
            let entry = ConfigfsEntry::create(&self.configfs)?;
            let Some((report, table)) = from_configfs(&entry, report_data)? else { return Ok(None) };
            return self.evidence(report, &table, report_data).map(Some);
        }
        if self.device.exists() {
            return self.evidence(from_device(&self.device, report_data)?, &[], report_data).map(Some);
        }
        Ok(None)
    }

    fn evidence(&self, report: Vec<u8>, table: &[u8], report_data: &[u8; 64]) -> Result<SnpEvidence, SnpError> {
        let kind = signing_key(&report, report_data)?;
        let vek = match (certificate(table, kind), &self.vek) {
            (Entry::Found(der), _) => der.to_vec(),
            (Entry::Malformed(fault), _) => return Err(SnpError::Table(fault)),
            (Entry::Absent, Some(path)) => read_certificate(path)?,
            (Entry::Absent, None) => return Err(SnpError::NoVek(kind)),
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

fn read_certificate(path: &Path) -> Result<Vec<u8>, SnpError> {
    let bytes = fs::read(path).map_err(|error| SnpError::Io { action: "read", path: path.to_path_buf(), error })?;
    if let Ok(certificate) = CertificateDer::from_pem_slice(&bytes) {
        return Ok(certificate.to_vec());
    }
    let whole = crate::der::first_value(&bytes).is_some_and(|value| value.len() == bytes.len());
    if whole { Ok(bytes) } else { Err(SnpError::VekFile(path.to_path_buf())) }
}

/// One configfs-tsm report entry: attributes that the kernel computes when they are read.
trait ReportEntry {
    fn path(&self) -> &Path;
    fn read(&self, attribute: &'static str) -> Result<Vec<u8>, SnpError>;
    fn write(&self, attribute: &'static str, value: &[u8]) -> Result<(), SnpError>;

    fn text(&self, attribute: &'static str) -> Result<String, SnpError> {
        self.read(attribute).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
    }
}

/// Report and certificate table.
type Answer = (Vec<u8>, Vec<u8>);

/// The answer over `report_data`; `None` when another technology answers here.
fn from_configfs(entry: &dyn ReportEntry, report_data: &[u8; 64]) -> Result<Option<Answer>, SnpError> {
    let provider = entry.text("provider")?;
    if provider != "sev_guest" {
        tracing::warn!(provider, "configfs-tsm speaks for another technology; no SNP report is collected");
        return Ok(None);
    }
    let mut conflict = None;
    for _ in 0..GENERATION_ATTEMPTS {
        let before = entry.text("generation")?;
        let expected = before.parse::<u64>().unwrap_or(0).saturating_add(1);
        entry.write("inblob", report_data)?;
        let report = entry.read("outblob")?;
        let table = entry.read("auxblob")?;
        // Every write counts. One more than ours, and the answer may be another's.
        let found = entry.text("generation")?;
        if found == expected.to_string() {
            return Ok(Some((report, table)));
        }
        conflict = Some(SnpError::Generation { path: entry.path().to_path_buf(), expected, found });
    }
    Err(conflict.unwrap_or(SnpError::Report("no attempt was made")))
}

/// An entry made for one report and removed with it.
struct ConfigfsEntry {
    path: PathBuf,
}

impl ConfigfsEntry {
    fn create(root: &Path) -> Result<Self, SnpError> {
        let path = root.join(format!("countersign-{}", std::process::id()));
        match fs::create_dir(&path) {
            // Left behind by an agent that was killed and had our process id.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Self { path }),
            Err(error) => Err(SnpError::Io { action: "create", path, error }),
            Ok(()) => Ok(Self { path }),
        }
    }
}

impl Drop for ConfigfsEntry {
    fn drop(&mut self) {
        // rmdir removes a configfs entry with its attributes.
        if let Err(error) = fs::remove_dir(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the report entry could not be removed");
        }
    }
}

impl ReportEntry for ConfigfsEntry {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, attribute: &'static str) -> Result<Vec<u8>, SnpError> {
        let path = self.path.join(attribute);
        fs::read(&path).map_err(|error| SnpError::Io { action: "read", path, error })
    }

    fn write(&self, attribute: &'static str, value: &[u8]) -> Result<(), SnpError> {
        let path = self.path.join(attribute);
        let file = fs::OpenOptions::new().write(true).open(&path);
        // One write(2): configfs takes a binary attribute whole.
        let written = file.and_then(|mut file| io::Write::write_all(&mut file, value));
        written.map_err(|error| SnpError::Io { action: "write", path, error })
    }
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
