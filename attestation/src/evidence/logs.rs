//! The logs of a bundle against its quote: which boot the host is in, what its firmware measured, and what its kernel
//! measured since. A log is claimed by nobody but the host; only what replays to signed PCR values says anything.

use alloc::string::ToString as _;

use crate::claims::{BootClaims, ClockInfo, ImaClaims, TpmClaims};
use crate::rejection::{Rejection, reasons};

use super::eventlog;
use super::ima::{self, BootAggregate, ImaState, VerifiedIma};

reasons! {
    /// Why the logs of a bundle do not explain its quote.
    LogReason {
        /// TPM 2.0 Part 1, 36: TPM2_Startup counts one of resetCount and restartCount up. Whoever can reset the TPM
        /// alone can fill its PCRs with the values of a boot that never was.
        BootLogMissing = "tpm.boot.log_missing",
            "the TPM was reset or resumed since the host's last attestation, and no event log says what started since",
            "send the firmware's event log; a host without one is readmitted by an operator after each restart";
        /// The broker keeps the running PCR value of one boot's list; entries from elsewhere do not go on from it.
        ImaOffset = "ima.entries.offset",
            "the IMA entries do not go on where the verified ones of this boot end",
            "send the entries from the index in the challenge on, or all of this boot from 0";
        /// Linux security/integrity/ima/ima_crypto.c, ima_calc_boot_aggregate.
        ImaBootAggregate = "ima.boot_aggregate.mismatch",
            "the IMA list was begun on other boot measurements than the quoted PCRs hold",
            "send this boot's list; if the firmware's PCRs were extended after the kernel started, find out by what";
        /// Rules that change judge the whole list again.
        ImaLength = "ima.list.length",
            "the IMA list of this boot is longer than is kept",
            "measure less: an IMA policy without files that every run creates anew, or a restart of the host";
        /// A decision rests on a log by its digest.
        Unavailable = "evidence.log.unavailable",
            "a log that the decision rests on is not in the archive",
            "attest again with whole logs; an operator looks at the broker's archive";
    }
}

/// The PCR that Linux extends with its measurement list, unless it was built with another
/// (CONFIG_IMA_MEASURE_PCR_IDX).
pub const IMA_PCR: u8 = 10;

/// Which boot a quote is of: TPM2_Startup counts one of the two up (TPM 2.0 Part 1, 36).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootCounts {
    /// resetCount.
    pub reset_count: u32,
    /// restartCount.
    pub restart_count: u32,
}

impl From<&ClockInfo> for BootCounts {
    fn from(clock: &ClockInfo) -> Self {
        Self { reset_count: clock.reset_count, restart_count: clock.restart_count }
    }
}

/// A host in another boot than it was last seen in says what it started, by an event log.
///
/// # Errors
/// [`LogReason::BootLogMissing`].
pub fn check_boot_explained(clock: &ClockInfo, last: Option<BootCounts>, log: Presence) -> Result<(), Rejection> {
    let now = BootCounts::from(clock);
    match (last, log) {
        (Some(last), Presence::Absent) if last != now => {
            let shown = |boot: BootCounts| alloc::format!("reset {}, restart {}", boot.reset_count, boot.restart_count);
            Err(LogReason::BootLogMissing.because(
                format_args!("an event log, or the boot of {}", shown(last)),
                format_args!("the boot of {} without a log", shown(now)),
            ))
        }
        (Some(_) | None, Presence::Absent | Presence::Presented) => Ok(()),
    }
}

/// Whether a record came with the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It did.
    Presented,
    /// It did not.
    Absent,
}

impl<T> From<&Option<T>> for Presence {
    fn from(record: &Option<T>) -> Self {
        if record.is_some() { Self::Presented } else { Self::Absent }
    }
}

/// What the firmware's log says, as far as it replays to the quoted PCRs.
///
/// # Errors
/// A reason of [`eventlog`].
pub fn verify_boot(log: &[u8], tpm: &TpmClaims) -> Result<BootClaims, Rejection> {
    Ok(eventlog::verify(log, &tpm.pcrs)?.claims())
}

/// Whether the quote covers the list that the kernel keeps.
#[must_use]
pub fn quotes_ima(tpm: &TpmClaims) -> bool {
    tpm.pcrs.values().any(|bank| bank.contains_key(&IMA_PCR))
}

/// New entries of the list, gone on with from what is `known` of this boot's: from nothing, or from where the verified
/// entries end.
///
/// # Errors
/// [`LogReason`], or a reason of [`ima`].
pub fn verify_ima<'a>(
    from: u64,
    list: &'a [u8],
    known: &ImaState,
    tpm: &TpmClaims,
) -> Result<(VerifiedIma<'a>, ImaClaims), Rejection> {
    if from != known.entries {
        let expected = format_args!("entries from {} on, or from 0", known.entries);
        return Err(LogReason::ImaOffset.because(expected, format_args!("entries from {from} on")));
    }
    let verified = ima::verify(list, known, &tpm.pcrs)?;
    if from == 0 {
        check_begins_with_boot(&verified)?;
    }
    let claims = ImaClaims { state: verified.state().clone() };
    Ok((verified, claims))
}

/// The kernel begins its list with the aggregate of the firmware's PCRs, before it loads a policy (`ima_init`). A list
/// that was carried over a kexec begins with that of the first kernel, which the same firmware booted.
fn check_begins_with_boot(list: &VerifiedIma<'_>) -> Result<(), Rejection> {
    let first = list.entries().next().filter(|(index, entry)| *index == 0 && entry.name() == BOOT_AGGREGATE);
    let Some((_, first)) = first else {
        return Err(LogReason::ImaBootAggregate.because("boot_aggregate as the first entry", "another entry"));
    };
    match list.boot_aggregate(&first) {
        // Not quoted: nothing to compare with, and nothing is claimed of it.
        BootAggregate::OfThisBoot | BootAggregate::NotQuoted => Ok(()),
        BootAggregate::Differs => {
            let found =
                first.data().digest.map_or_else(|| "no digest".to_string(), |digest| hex::encode(digest.digest));
            Err(LogReason::ImaBootAggregate.because("the aggregate of the quoted PCRs", found))
        }
    }
}

/// Name of the first entry.
const BOOT_AGGREGATE: &[u8] = b"boot_aggregate";

#[cfg(test)]
mod tests {
    use super::{BootCounts, Presence, check_boot_explained};
    use crate::claims::ClockInfo;

    #[test]
    fn a16_changed_counts_need_a_log_and_the_same_counts_need_none() {
        let clock = ClockInfo { clock: 1, reset_count: 7, restart_count: 2, safe: true };
        let last = |reset_count, restart_count| Some(BootCounts { reset_count, restart_count });
        let code = |last, log| check_boot_explained(&clock, last, log).map_err(|rejection| rejection.code());
        assert_eq!(code(None, Presence::Absent), Ok(()));
        assert_eq!(code(last(7, 2), Presence::Absent), Ok(()));
        for other in [last(6, 2), last(7, 1), last(8, 0), last(0, 0)] {
            assert_eq!(code(other, Presence::Absent), Err("tpm.boot.log_missing"));
            assert_eq!(code(other, Presence::Presented), Ok(()));
        }
    }
}
