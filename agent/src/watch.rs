//! The watch on the PCRs: a change after the last quote means drift, and drift means to attest at once.

use core::time::Duration;

use countersign_attestation::protocol::PcrSelection;
use tokio::sync::{mpsc, watch};

use crate::collect::tpm::{self, PcrValues};
use crate::device::{Tpm, TpmError};
use crate::events::{Details, EventKind, Events};
use crate::{attester, clock};

/// Every this many polls the PCRs are read even when the update counter stands still: some PCRs do not count, and after
/// a reset of the TPM the counter may come by the same number again.
const FULL_READ_EVERY: u32 = 10;

/// What the last quote covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// Which PCRs.
    pub selection: Vec<PcrSelection>,
    /// Their values.
    pub values: PcrValues,
}

/// Decides what to read and what is news; no I/O.
#[derive(Debug, Default)]
struct Watch {
    counter: Option<u32>,
    polls: u32,
    /// Values already reported, so that one change is one report.
    reported: Option<PcrValues>,
}

impl Watch {
    /// Whether the PCRs must be read, given the counter of this poll.
    fn must_read(&mut self, counter: u32) -> bool {
        self.polls = self.polls.wrapping_add(1);
        let moved = self.counter.replace(counter) != Some(counter);
        moved || self.polls.is_multiple_of(FULL_READ_EVERY)
    }

    /// Whether `values` are news.
    fn is_drift(&mut self, baseline: &Baseline, values: PcrValues) -> bool {
        if values == baseline.values {
            self.reported = None;
            return false;
        }
        if self.reported.as_ref() == Some(&values) {
            return false;
        }
        self.reported = Some(values);
        true
    }
}

/// Polls until the receiver of `commands` is gone.
pub async fn run(
    tpm: Tpm,
    interval: Duration,
    mut baseline: watch::Receiver<Option<Baseline>>,
    commands: mpsc::Sender<attester::Command>,
    events: Events,
) {
    let mut state = Watch::default();
    let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    loop {
        clock::sleep(interval_ms).await;
        let fresh = baseline.has_changed().unwrap_or(false);
        let Some(current) = baseline.borrow_and_update().clone() else { continue };
        if fresh {
            // The counter may have moved between that quote and the last poll: read once for sure.
            state.counter = None;
        }
        match poll(&tpm, &mut state, &current).await {
            Ok(false) => {}
            Ok(true) => {
                events.record(EventKind::DriftSeen, &Details::default());
                if commands.send(attester::Command::AttestNow).await.is_err() {
                    return;
                }
            }
            // Not trusted on this account: the attester meets the same TPM, and the lease ends without it.
            Err(error) => tracing::warn!(%error, "the PCRs could not be read"),
        }
    }
}

async fn poll(tpm: &Tpm, state: &mut Watch, baseline: &Baseline) -> Result<bool, TpmError> {
    let selection = baseline.selection.clone();
    let (counter_before, polls_before) = (state.counter, state.polls);
    let mut decide = Watch { counter: counter_before, polls: polls_before, reported: None };
    let (counter, polls, values) = tpm
        .run(move |session| {
            let must_read = decide.must_read(tpm::pcr_update_counter(session)?);
            let values = if must_read { Some(tpm::read_pcrs(session, &selection)?) } else { None };
            Ok((decide.counter, decide.polls, values))
        })
        .await?;
    state.counter = counter;
    state.polls = polls;
    Ok(values.is_some_and(|values| state.is_drift(baseline, values)))
}

#[cfg(test)]
mod tests {
    use super::{Baseline, FULL_READ_EVERY, Watch};
    use crate::collect::tpm::PcrValues;

    fn values(byte: u8) -> PcrValues {
        PcrValues(vec![vec![byte; 32]])
    }

    #[test]
    fn pcrs_are_read_when_the_counter_moves_and_now_and_then() {
        let mut watch = Watch::default();
        assert!(watch.must_read(7), "the first poll knows nothing");
        for _ in 2..FULL_READ_EVERY {
            assert!(!watch.must_read(7));
        }
        assert!(watch.must_read(7), "resettable PCRs do not count");
        assert!(watch.must_read(8));
        assert!(!watch.must_read(8));
    }

    #[test]
    fn one_change_is_one_report() {
        let baseline = Baseline { selection: Vec::new(), values: values(0) };
        let mut watch = Watch::default();
        assert!(!watch.is_drift(&baseline, values(0)));
        assert!(watch.is_drift(&baseline, values(1)));
        assert!(!watch.is_drift(&baseline, values(1)));
        assert!(watch.is_drift(&baseline, values(2)));
        assert!(!watch.is_drift(&baseline, values(0)));
        assert!(watch.is_drift(&baseline, values(2)), "back and forth is news again");
    }
}
