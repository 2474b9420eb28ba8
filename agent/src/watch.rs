//! The watch on what is measured: a PCR that changed after the last quote means drift, a longer IMA list means news;
//! both mean to attest at once. inotify sees no change of the kernel's files, so they are looked at again and again.

use core::time::Duration;

use countersign_attestation::protocol::PcrSelection;
use tokio::sync::{mpsc, watch};

use crate::collect::ima::ImaList;
use crate::collect::tpm::{self, PcrValues};
use crate::device::{Tpm, TpmError};
use crate::events::{Details, EventKind, Events};
use crate::{attester, clock};

/// Every this many polls the PCRs are read even when the update counter stands still: some PCRs do not count, and after
/// a reset of the TPM the counter may come by the same number again.
const FULL_READ_EVERY: u32 = 10;
/// Least time between two attestations that the watch asks for. The first change is told at once; a host that measures
/// a thousand files in a row attests a few times, not a thousand. With a poll and an attestation it is below a second.
const PAUSE_MS: u64 = 500;

/// What the last quote covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// Which PCRs.
    pub selection: Vec<PcrSelection>,
    /// Their values.
    pub values: PcrValues,
    /// How long the IMA list was just before the quote, where the quote covers it.
    pub ima_length: Option<u64>,
}

/// What a poll found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// Nothing, or nothing yet.
    None,
    /// A PCR has another value.
    Drift,
    /// The IMA list has another length.
    Ima,
}

/// Decides what to read and what is news; no I/O.
#[derive(Debug, Default)]
struct Watch {
    counter: Option<u32>,
    polls: u32,
    /// What was already told, so that one change is told once.
    told: Option<(PcrValues, Option<u64>)>,
    /// Boot clock milliseconds before which nothing is told.
    quiet_until: u64,
}

impl Watch {
    /// Whether the PCRs must be read, given the counter of this poll.
    fn must_read(&mut self, counter: u32) -> bool {
        self.polls = self.polls.wrapping_add(1);
        let moved = self.counter.replace(counter) != Some(counter);
        moved || self.polls.is_multiple_of(FULL_READ_EVERY)
    }

    /// What is new against `baseline`, given the PCRs and the list's length of now.
    fn news(&mut self, baseline: &Baseline, values: PcrValues, ima_length: Option<u64>, now_ms: u64) -> News {
        let news = if ima_length != baseline.ima_length {
            News::Ima
        } else if values != baseline.values {
            News::Drift
        } else {
            self.told = None;
            return News::None;
        };
        let found = Some((values, ima_length));
        if self.told == found {
            return News::None;
        }
        if now_ms < self.quiet_until {
            // Looked at again when the pause is over, whatever the counter says then.
            self.counter = None;
            return News::None;
        }
        self.told = found;
        self.quiet_until = now_ms.saturating_add(PAUSE_MS);
        news
    }
}

/// Polls until the receiver of `commands` is gone.
pub async fn run(
    tpm: Tpm,
    ima: ImaList,
    interval: Duration,
    mut baseline: watch::Receiver<Option<Baseline>>,
    commands: mpsc::Sender<attester::Command>,
    events: Events,
) {
    let mut state = Watch::default();
    let mut ima_length = None;
    let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    loop {
        clock::sleep(interval_ms).await;
        let fresh = baseline.has_changed().unwrap_or(false);
        let Some(current) = baseline.borrow_and_update().clone() else { continue };
        // A list that no quote covers is not watched: attesting would not show it.
        let length = current.ima_length.and_then(|_| ima.length());
        if fresh || length != ima_length {
            // The counter may have moved between that quote and the last poll, and with a new entry it does: read once
            // for sure, so that entry and PCR are one piece of news.
            state.counter = None;
        }
        ima_length = length;
        let event = match poll(&tpm, &mut state, &current, length).await {
            Ok(News::None) => continue,
            Ok(News::Drift) => EventKind::DriftSeen,
            Ok(News::Ima) => EventKind::ImaGrown,
            Err(error) => {
                // Not trusted on this account: the attester meets the same TPM, and the lease ends without it.
                tracing::warn!(%error, "the PCRs could not be read");
                continue;
            }
        };
        events.record(event, &Details::default());
        if commands.send(attester::Command::AttestNow).await.is_err() {
            return;
        }
    }
}

async fn poll(tpm: &Tpm, state: &mut Watch, baseline: &Baseline, ima_length: Option<u64>) -> Result<News, TpmError> {
    let selection = baseline.selection.clone();
    let mut decide = Watch { counter: state.counter, polls: state.polls, ..Watch::default() };
    let (counter, polls, values) = tpm
        .run(move |session| {
            let must_read = decide.must_read(tpm::pcr_update_counter(session)?);
            let values = if must_read { Some(tpm::read_pcrs(session, &selection)?) } else { None };
            Ok((decide.counter, decide.polls, values))
        })
        .await?;
    state.counter = counter;
    state.polls = polls;
    Ok(values.map_or(News::None, |values| state.news(baseline, values, ima_length, clock::boot_ms())))
}

#[cfg(test)]
mod tests {
    use super::{Baseline, FULL_READ_EVERY, News, PAUSE_MS, Watch};
    use crate::collect::tpm::PcrValues;

    fn values(byte: u8) -> PcrValues {
        PcrValues(vec![vec![byte; 32]])
    }

    fn baseline(ima_length: Option<u64>) -> Baseline {
        Baseline { selection: Vec::new(), values: values(0), ima_length }
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
        let baseline = baseline(None);
        let mut watch = Watch::default();
        let mut now = 0;
        let mut news = |byte| {
            now += PAUSE_MS;
            watch.news(&baseline, values(byte), None, now)
        };
        assert_eq!(news(0), News::None);
        assert_eq!(news(1), News::Drift);
        assert_eq!(news(1), News::None);
        assert_eq!(news(2), News::Drift);
        assert_eq!(news(0), News::None);
        assert_eq!(news(2), News::Drift, "back and forth is news again");
    }

    #[test]
    fn a_longer_list_is_news_and_with_its_pcr_one_piece_of_it() {
        let baseline = baseline(Some(80));
        let mut watch = Watch::default();
        assert_eq!(watch.news(&baseline, values(0), Some(80), 1000), News::None);
        assert_eq!(watch.news(&baseline, values(1), Some(120), 1100), News::Ima);
        assert_eq!(watch.news(&baseline, values(1), Some(120), 2000), News::None);
        assert_eq!(watch.news(&baseline, values(1), Some(40), 3000), News::Ima, "shorter is not the same either");
        assert_eq!(watch.news(&baseline, values(1), None, 4000), News::Ima, "gone is not the same either");
        assert_eq!(watch.news(&baseline, values(2), Some(80), 5000), News::Drift, "a PCR without an entry");
    }

    #[test]
    fn a_burst_of_changes_is_told_at_once_and_again_after_a_pause() {
        let baseline = baseline(Some(0));
        let mut watch = Watch::default();
        let mut told = Vec::new();
        for step in 1..=100_u64 {
            let now = 10_000 + step * 10;
            let byte = u8::try_from(step).unwrap();
            if watch.news(&baseline, values(byte), Some(step), now) != News::None {
                told.push(now);
            } else {
                assert_eq!(watch.counter, None, "what was not told is read again");
            }
        }
        assert_eq!(told, [10_010, 10_510]);
        assert_eq!(watch.news(&baseline, values(100), Some(100), 11_010), News::Ima, "the last change is not lost");
    }
}
