//! TCG event logs: what firmware and boot loaders say they measured. A log proves nothing by itself. It is worth what
//! its replay to signed PCR values makes it worth, and even then only digests are attested: an event's type and data
//! are the host's word, except for data that hashes to its digest.
//!
//! * [`event_type`]: event types
//! * [`EventLog`]: a log, read to its end
//! * [`Replay`]: the PCR values that its events give

use crate::rejection::reasons;

pub mod event_type;
mod log;
mod replay;

pub use event_type::EventType;
pub use log::{BANKS_MAX, Bank, Digests, Event, EventLog, LogFormat, PCRS, SpecId};
pub use replay::{BankReplay, REPLAYABLE, Replay, is_digest_of, must_hash_to_digest};

reasons! {
    /// Why an event log is rejected.
    EventLogReason {
        /// PC Client PFP 1.06, 10.2.
        Truncated = "eventlog.truncated",
            "the event log ends within an event",
            "send the whole log as the firmware recorded it";
        /// PC Client PFP 1.06, 10.2.1.1.
        Header = "eventlog.header",
            "the log's Spec ID header cannot be read",
            "send the log unchanged, from its first event on";
        /// PC Client PFP 1.06, 10.2.2.
        Digests = "eventlog.digests",
            "an event carries digests that the log's header does not declare, or one twice",
            "send the log as the firmware recorded it";
        /// PC Client PTP 1.06, 4.6.2.
        PcrIndex = "eventlog.pcr_index",
            "an event was extended into a PCR that does not exist",
            "send the log as the firmware recorded it";
        /// PC Client PFP 1.06, 10.4.5.3.
        StartupLocality = "eventlog.startup_locality",
            "the log names an impossible startup locality, or two",
            "send the log as the firmware recorded it";
    }
}
