//! Event logs of trust domains: firmware's (CCEL) and dstack's, the story, the events and the registers they give.

use countersign_attestation::evidence::eventlog::EventLog;
use countersign_attestation::evidence::tdx::rtmr::{LogForm, RegisterLog};

use super::document::{Part, Standing, Table, Value};
use super::{Unreadable, eventlog, narrative};

/// SHA-384 alone and no register beyond RTMR3, and some event that was extended; or dstack's JSON.
pub(super) fn recognise(bytes: &[u8]) -> bool {
    RegisterLog::read(bytes).is_ok_and(|log| log.register_indexes().next().is_some())
}

/// The log's story and events, and the registers that they give.
pub(super) fn register_log(bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    let registers = RegisterLog::read(bytes).map_err(|rejection| rejection.to_string())?;
    let log = EventLog::parse(registers.binary()).map_err(|rejection| rejection.to_string())?;
    let events = eventlog::events(&log);
    let form = match registers.form() {
        LogForm::Ccel => "CCEL",
        LogForm::Dstack => "dstack's JSON",
    };
    let edited = match registers.check_data() {
        Ok(()) => "yes".to_owned(),
        Err(rejection) => format!("NO: {rejection}"),
    };
    let because = "it counts where it gives the registers of a verified TD quote";
    let mut part = Part::new("event log of a trust domain", Standing::Claimed, because)
        .with("format", form)
        .with("events", registers.events())
        .with("data that must be what was measured is (computed)", edited);
    part.story = narrative::tell(&events, "register");
    let rows = events.iter().map(|event| eventlog::row(event, register_name(event.pcr_index).into())).collect();
    let columns = &["event", "register", "type", "digest matches data", "digest", "data"];
    part.tables.push(Table { name: "events", columns, rows });
    Ok(vec![part, replayed(&registers)])
}

/// The measurement register of an index (UEFI 2.10, 38.4.1).
fn register_name(index: u32) -> String {
    match index {
        0 => "MRTD".to_owned(),
        1..=4 => format!("RTMR{}", index.saturating_sub(1)),
        other => format!("register {other}"),
    }
}

/// The values that the events extend RTMRs to.
fn replayed(log: &RegisterLog<'_>) -> Part {
    let because = "what RTMRs hold after these events and no others; compare with a verified quote";
    let mut part = Part::new("Replayed RTMRs", Standing::ComputedHere, because);
    let extended: Vec<u8> = log.register_indexes().collect();
    let rows = (1_u8..).zip(log.values()).map(|(index, value)| {
        vec![register_name(index.into()).into(), extended.contains(&index).into(), Value::hex(value)]
    });
    part.tables.push(Table {
        name: "values",
        columns: &["register", "extended by this log", "value"],
        rows: rows.collect(),
    });
    part
}
