//! The quote of the trust domain this agent runs in, and the log behind its registers.

use std::path::PathBuf;

use countersign_attestation::reader::Reader;

use crate::collect::tsm::{Auxblob, ReportEntry, TsmError};

/// Where Linux exports the CC event log of the firmware (UEFI 2.10, 38.4.1).
pub const CCEL: &str = "/sys/firmware/acpi/tables/data/CCEL";

/// Where REPORTDATA is in a quote of version 4: behind header and the fields of TDREPORT before it; in version 5,
/// behind body type and size too.
const REPORT_DATA: [(u16, usize); 2] = [(4, 48 + 520), (5, 48 + 6 + 520)];

/// Why there is no quote although this is a trust domain.
#[derive(Debug, thiserror::Error)]
pub enum TdxError {
    /// configfs-tsm could not be used.
    #[error(transparent)]
    Tsm(#[from] TsmError),
    /// The quoting service's answer is not a quote about this binder.
    #[error("the quoting service's answer is not the quote that was asked for: {0}")]
    Quote(&'static str),
}

/// Where the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdxSource {
    /// See [`CCEL`].
    pub ccel: PathBuf,
}

impl TdxSource {
    /// The quote over `report_data` that a configfs-tsm entry gives.
    pub(super) fn quote(entry: &dyn ReportEntry, report_data: &[u8; 64]) -> Result<Vec<u8>, TdxError> {
        let quote = entry.answer(report_data, Auxblob::Leave)?.outblob;
        if reported(&quote) == Some(*report_data) {
            return Ok(quote);
        }
        Err(TdxError::Quote("REPORTDATA is not the binder, or the version is none of 4 and 5"))
    }
}

fn reported(quote: &[u8]) -> Option<[u8; 64]> {
    let version = Reader::new(quote).array().map(u16::from_le_bytes).ok()?;
    let (_, offset) = REPORT_DATA.into_iter().find(|(known, _)| *known == version)?;
    quote.get(offset..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests;
