//! What the confidential VM below this agent proves, where it is one: by itself, or by the paravisor whose TPM it has.

use std::path::{Path, PathBuf};

use countersign_attestation::evidence::bundle::{ParavisorEvidence, SnpEvidence, TdxEvidence};

use crate::collect::kds::Kds;
use crate::collect::snp::{SnpError, SnpSource, read_certificate};
use crate::collect::tdx::{TdxError, TdxSource};
use crate::collect::tsm::{ConfigfsEntry, ReportEntry as _, TsmError};
use crate::device::{Session, TpmError};
use crate::keys;

/// Where Azure's paravisor keeps its report.
pub const AZURE_HCL_REPORT: u32 = 0x0140_0001;

/// Where the hardware's proofs come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HardwareSource {
    /// The VM asks for its own reports.
    Guest {
        /// `/sys/kernel/config/tsm/report`.
        configfs: PathBuf,
        /// SEV-SNP.
        snp: SnpSource,
        /// TDX.
        tdx: TdxSource,
    },
    /// The paravisor asked when the VM started; each quote of its TPM is fresh.
    Paravisor(Paravisor),
}

/// What a paravisor left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paravisor {
    /// Its report with the runtime data.
    pub hcl_report: Vec<u8>,
    /// Certificate of the key that signed the SNP report in it.
    pub vek: Option<Vec<u8>>,
    /// Quote of the TDREPORT in it.
    pub td_quote: Option<Vec<u8>>,
}

/// The hardware's part of a bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    /// SEV-SNP.
    pub snp: Option<SnpEvidence>,
    /// TDX.
    pub tdx: Option<TdxEvidence>,
    /// The paravisor's.
    pub paravisor: Option<ParavisorEvidence>,
}

/// Why there is no proof although there should be one.
#[derive(Debug, thiserror::Error)]
pub enum HardwareError {
    /// configfs-tsm could not be used.
    #[error(transparent)]
    Tsm(#[from] TsmError),
    /// SEV-SNP.
    #[error(transparent)]
    Snp(#[from] SnpError),
    /// TDX.
    #[error(transparent)]
    Tdx(#[from] TdxError),
}

impl HardwareSource {
    /// The kernel's paths.
    #[must_use]
    pub fn system(vek: Option<PathBuf>, kds: Option<Kds>, ccel: PathBuf) -> Self {
        let configfs = "/sys/kernel/config/tsm/report".into();
        Self::Guest { configfs, snp: SnpSource::system(vek, kds), tdx: TdxSource { ccel } }
    }

    /// Where the log behind RTMRs is.
    #[must_use]
    pub fn ccel(&self) -> Option<&Path> {
        match self {
            Self::Guest { tdx, .. } => Some(&tdx.ccel),
            Self::Paravisor(_) => None,
        }
    }

    /// The proofs over `report_data`; none when this machine is no confidential VM. Whether a host may attest without
    /// is for the broker's policy to say.
    ///
    /// # Errors
    /// [`HardwareError`]: a confidential VM whose report cannot be had does not attest as if it were none.
    pub fn collect(&self, report_data: &[u8; 64]) -> Result<Hardware, HardwareError> {
        match self {
            Self::Guest { configfs, snp, .. } => from_guest(configfs, snp, report_data),
            Self::Paravisor(Paravisor { hcl_report, vek, td_quote }) => {
                let paravisor = ParavisorEvidence { hcl_report: hcl_report.clone(), vek: vek.clone() };
                let tdx = td_quote.clone().map(|quote| TdxEvidence { quote, ccel: None });
                Ok(Hardware { snp: None, tdx, paravisor: Some(paravisor) })
            }
        }
    }
}

fn from_guest(configfs: &Path, snp: &SnpSource, report_data: &[u8; 64]) -> Result<Hardware, HardwareError> {
    if !configfs.is_dir() {
        return Ok(Hardware { snp: snp.ask_device(report_data)?, ..Hardware::default() });
    }
    let Some(entry) = ConfigfsEntry::create(configfs)? else { return Ok(Hardware::default()) };
    let provider = entry.text("provider")?;
    match provider.as_str() {
        "sev_guest" => Ok(Hardware { snp: Some(snp.ask_configfs(&entry, report_data)?), ..Hardware::default() }),
        "tdx_guest" => {
            let tdx = TdxEvidence { quote: TdxSource::quote(&entry, report_data)?, ccel: None };
            Ok(Hardware { tdx: Some(tdx), ..Hardware::default() })
        }
        _ => {
            tracing::warn!(provider, "configfs-tsm speaks for a technology that is not known; nothing is collected");
            Ok(Hardware::default())
        }
    }
}

impl Paravisor {
    /// Reads Azure's report from the TPM.
    ///
    /// # Errors
    /// The TPM's refusal, as where there is no such paravisor.
    pub fn read_hcl_report(session: &mut Session) -> Result<Vec<u8>, TpmError> {
        keys::nv_contents(session, "read the paravisor's report from NV memory", AZURE_HCL_REPORT)
    }

    /// With what vouches for its hardware report.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn new(hcl_report: Vec<u8>, vek: Option<&Path>, td_quote: Option<&Path>) -> Result<Self, HardwareError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| TsmError::Io { action: "read", path: path.to_path_buf(), error })
        };
        let vek = vek.map(read_certificate).transpose()?;
        Ok(Self { hcl_report, vek, td_quote: td_quote.map(read).transpose()? })
    }
}

#[cfg(test)]
mod tests;
