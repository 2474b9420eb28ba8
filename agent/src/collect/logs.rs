//! The logs behind the PCRs: what the firmware measured, and what the kernel measured since. They are evidence only
//! with the quote that they replay to, and they are read after it: the kernel writes an entry before it extends the
//! PCR, so a list that is read later is never behind what was quoted.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use countersign_attestation::evidence::bundle::{EVENT_LOG_BYTES_MAX, ImaEntries};
use countersign_attestation::protocol::{KnownBoot, PcrSelection};

use crate::collect::ima::ImaList;
use crate::files::{At as _, FileError};

/// Where Linux exports the firmware's event log.
pub const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// Where Linux exports its measurement list.
pub const IMA_LIST: &str = "/sys/kernel/security/ima/binary_runtime_measurements";

/// Which boot a quote is of, in the quote's own numbers, which are the ones that the broker knows. TPM2_ReadClock may
/// say others: it answers at another moment, and in what a key outside the endorsement and platform hierarchies signs,
/// both counts are offset by a secret of the TPM and that key (TPM 2.0 Part 1, 36.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// TPMS_CLOCK_INFO.resetCount.
    pub reset_count: u32,
    /// TPMS_CLOCK_INFO.restartCount.
    pub restart_count: u32,
}

/// What the broker has not seen yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewLogs {
    /// The event log, when the boot is another than the broker knows.
    pub event_log: Option<Vec<u8>>,
    /// New entries of the IMA list, when the PCR that it extends was asked for.
    pub ima: Option<ImaEntries>,
    /// The log behind the RTMRs, when the boot is another than the broker knows.
    pub ccel: Option<Vec<u8>>,
}

/// The logs of this host. Either may be absent; one that is there must be readable.
#[derive(Clone, Debug)]
pub struct Logs {
    event_log: PathBuf,
    ccel: Option<PathBuf>,
    /// The kernel's list.
    pub ima: ImaList,
}

impl Logs {
    /// The logs at these paths.
    #[must_use]
    pub fn at(event_log: &Path, ima: &Path) -> Self {
        Self { event_log: event_log.to_path_buf(), ccel: None, ima: ImaList::at(ima) }
    }

    /// With the log of a trust domain's registers.
    #[must_use]
    pub fn with_ccel(self, ccel: Option<&Path>) -> Self {
        Self { ccel: ccel.map(Path::to_path_buf), ..self }
    }

    /// What is new to a broker that knows `known`, for a quote of `boot` over `selection`.
    ///
    /// # Errors
    /// [`FileError`] when a log is there and cannot be read, or is larger than any is.
    pub fn collect(
        &mut self,
        known: Option<KnownBoot>,
        boot: Boot,
        selection: &[PcrSelection],
    ) -> Result<NewLogs, FileError> {
        let known = known.filter(|known| boot == Boot::from(known));
        let (mut event_log, mut ccel) = (None, None);
        if known.is_none() {
            event_log = boot_log(&self.event_log)?;
            ccel = self.ccel.as_deref().map(boot_log).transpose()?.flatten();
        }
        let from = known.map_or(0, |known| known.ima_entries);
        let ima = if self.is_quoted(selection)? { self.ima.read(from)? } else { None };
        Ok(NewLogs { event_log, ima, ccel })
    }

    /// How long the IMA list is, where one is there and `selection` covers it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn ima_length(&self, selection: &[PcrSelection]) -> Result<Option<u64>, FileError> {
        Ok(if self.is_quoted(selection)? { self.ima.length() } else { None })
    }

    /// Whether `selection` covers the PCR that the list extends.
    fn is_quoted(&self, selection: &[PcrSelection]) -> Result<bool, FileError> {
        let pcr = self.ima.pcr()?.and_then(|pcr| u8::try_from(pcr).ok());
        Ok(pcr.is_some_and(|pcr| selection.iter().any(|bank| bank.pcrs.contains(&pcr))))
    }
}

/// A log of the firmware, where there is one.
fn boot_log(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.at("open", path)?,
    };
    // Files of the kernel do not tell their size: read, but not without end.
    let mut log = Vec::new();
    file.take(EVENT_LOG_BYTES_MAX as u64 + 1).read_to_end(&mut log).at("read", path)?;
    if EVENT_LOG_BYTES_MAX < log.len() {
        let found = format!("more than {EVENT_LOG_BYTES_MAX} bytes, which no event log has");
        return Err(io::Error::new(ErrorKind::InvalidData, found)).at("read", path);
    }
    Ok(Some(log))
}

impl From<&KnownBoot> for Boot {
    fn from(known: &KnownBoot) -> Self {
        Self { reset_count: known.reset_count, restart_count: known.restart_count }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use countersign_attestation::claims::PcrHash;
    use countersign_attestation::evidence::bundle::EVENT_LOG_BYTES_MAX;
    use countersign_attestation::protocol::{KnownBoot, PcrSelection};

    use super::{Boot, Logs};

    const BOOT: Boot = Boot { reset_count: 7, restart_count: 2 };

    fn quoting(pcrs: &[u8]) -> Vec<PcrSelection> {
        vec![PcrSelection { bank: PcrHash::Sha256, pcrs: pcrs.to_vec() }]
    }

    /// A list of two entries of 40 bytes, on PCR 10.
    fn two_entries() -> Vec<u8> {
        let mut one = vec![10, 0, 0, 0];
        one.extend_from_slice(&[1; 20]);
        one.extend_from_slice(&[6, 0, 0, 0]);
        one.extend_from_slice(b"ima-ng");
        one.extend_from_slice(&[2, 0, 0, 0, 9, 9]);
        one.repeat(2)
    }

    #[test]
    fn what_the_broker_knows_of_this_boot_is_not_sent_again() {
        let folder = tempfile::tempdir().unwrap();
        let (log, list) = (folder.path().join("log"), folder.path().join("list"));
        fs::write(&log, b"the event log").unwrap();
        fs::write(&list, two_entries()).unwrap();
        let mut logs = Logs::at(&log, &list);
        let mut collect = |known: Option<KnownBoot>| logs.collect(known, BOOT, &quoting(&[0, 10])).unwrap();
        let known = KnownBoot { reset_count: 7, restart_count: 2, ima_entries: 1 };
        let new = collect(Some(known));
        let ima = new.ima.unwrap();
        assert_eq!((new.event_log, ima.from, ima.list.len()), (None, 1, 40));
        let others = [
            None,
            Some(KnownBoot { reset_count: 6, ..known }),
            Some(KnownBoot { restart_count: 1, ..known }),
            Some(KnownBoot { restart_count: 3, ..known }),
        ];
        for other in others {
            let new = collect(other);
            let ima = new.ima.unwrap();
            assert_eq!(new.event_log.as_deref(), Some(b"the event log".as_slice()), "{other:?}");
            assert_eq!((ima.from, ima.list), (0, two_entries()), "{other:?}");
        }
    }

    #[test]
    fn a_list_travels_only_with_a_quote_of_its_pcr() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list");
        fs::write(&list, two_entries()).unwrap();
        let mut logs = Logs::at(&folder.path().join("none"), &list);
        assert_eq!(logs.collect(None, BOOT, &quoting(&[0, 7])).unwrap().ima, None);
        assert_eq!(logs.ima_length(&quoting(&[0, 7])).unwrap(), None);
        assert_eq!(logs.ima_length(&quoting(&[10])).unwrap(), Some(80));
        assert!(logs.collect(None, BOOT, &quoting(&[10])).unwrap().ima.is_some());
    }

    #[test]
    fn absent_logs_are_none_and_unreadable_ones_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (log, list) = (folder.path().join("log"), folder.path().join("list"));
        let collect = || Logs::at(&log, &list).collect(None, BOOT, &quoting(&[10]));
        let none = collect().unwrap();
        assert_eq!((none.event_log, none.ima), (None, None));
        fs::write(&log, vec![0; EVENT_LOG_BYTES_MAX]).unwrap();
        assert_eq!(collect().unwrap().event_log.unwrap().len(), EVENT_LOG_BYTES_MAX);
        fs::write(&log, vec![0; EVENT_LOG_BYTES_MAX + 1]).unwrap();
        assert!(collect().is_err(), "too long");
        fs::remove_file(&log).unwrap();
        fs::create_dir(&log).unwrap();
        assert!(collect().is_err(), "a folder");
        fs::remove_dir(&log).unwrap();
        fs::create_dir(&list).unwrap();
        assert!(collect().is_err(), "a folder");
    }
}
