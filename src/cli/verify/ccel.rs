//! Event logs of trust domains (`ccel`): firmware's own and dstack's, with the TD quote whose registers they must give,
//! or alone.

use countersign_attestation::evidence::bundle::BundleReason;
use countersign_attestation::evidence::tdx::rtmr::{self, LogForm, RegisterLog, RtmrClaims, RuntimeEvent};
use countersign_attestation::{Rejection, UnixMillis};
use serde_json::{Map, Value, json};

use super::tdx::{CaseQuote, TdEvidence};
use super::{CaseError, CaseFiles, Judgement};

/// Judges a log: with a quote, it gives every register that was quoted; alone, it is read to its end and its data is
/// what was measured. Alone it attests nothing, and its claims say so.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_log(files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    let Some(log) = files.read("event_log")? else {
        return Ok(Judgement::Rejected(BundleReason::Missing.because("an event log", "no file for it")));
    };
    let quote = CaseQuote::read("quote", files)?;
    Ok(judge(&log, quote.as_ref(), now).map_or_else(Judgement::Rejected, Judgement::Accepted))
}

fn judge(log: &[u8], quote: Option<&CaseQuote>, now: UnixMillis) -> Result<Value, Rejection> {
    let Some(quote) = quote else {
        let log = RegisterLog::read(log)?;
        log.check_extends()?;
        log.check_data()?;
        return Ok(json!({ "attested": false, "details": details(&log, None) }));
    };
    let (claims, quote) = match quote.verify(now)? {
        TdEvidence::Endorsed(tdx) => (rtmr::verify(log, &tdx)?, json!(tdx)),
        TdEvidence::Recorded(quote) => {
            (rtmr::verify_recorded(log, &quote)?, json!({ "assurance": quote.assurance(), "collateral": "none" }))
        }
    };
    // A recorded log is judged whole: a register that it does not tell of is one that it leaves out.
    claims.check_whole()?;
    let details = details(&RegisterLog::read(log)?, Some(&claims));
    Ok(json!({ "attested": true, "tdx": quote, "rtmr": claims, "details": details }))
}

/// The log, under the names of a manifest's details.
fn details(log: &RegisterLog<'_>, claims: Option<&RtmrClaims>) -> Map<String, Value> {
    let mut details = Map::new();
    let mut say = |name: &str, value: Value| details.insert(name.to_owned(), value);
    for (name, value) in ["rtmr0", "rtmr1", "rtmr2", "rtmr3"].into_iter().zip(log.values()) {
        say(name, hex::encode(value).into());
    }
    say("events", log.events().into());
    say("register_indices", log.register_indexes().collect());
    match log.form() {
        LogForm::Ccel => {
            say("format", "ccel".into());
            say("terminated_at", log.end().into());
        }
        LogForm::Dstack => {
            say("format", "dstack-json (imr 0-3, digest sha384)".into());
            if let Some(claims) = claims {
                say("rtmr3_events", claims.runtime.iter().filter_map(runtime_event).collect());
            }
        }
    }
    details
}

fn runtime_event(event: &RuntimeEvent) -> Option<Value> {
    match event {
        RuntimeEvent::Dstack { event, payload } => Some(json!({ "event": event, "payload": payload })),
        RuntimeEvent::Data { .. } | RuntimeEvent::Digest { .. } => None,
    }
}
