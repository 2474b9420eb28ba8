//! TCG event logs: what firmware and boot loaders say they measured. A log proves nothing by itself. It is worth what
//! its replay to signed PCR values makes it worth, and even then only digests are attested: an event's type and data
//! are the host's word, except for data that hashes to its digest.
//!
//! * [`event_type`]: event types
//! * [`EventLog`]: a log, read to its end
//! * [`Replay`]: the PCR values that its events give
//! * [`verify`]: a log that replays to signed values, and what it says of the boot: [`BootClaims`]
//! * [`data`]: what event data says, where it hashes to its digest

use crate::rejection::reasons;

mod boot;
pub mod claims;
pub mod data;
pub mod event_type;
mod log;
pub(super) mod registers;
mod replay;
mod verify;

pub use claims::{BootClaims, Measured, SecureBoot};
pub use event_type::EventType;
pub use log::{BANKS_MAX, Bank, Digests, Event, EventLog, LogFormat, PCRS, SpecId};
pub use replay::{BankReplay, REPLAYABLE, Replay, is_digest_of, must_hash_to_digest};
pub use verify::{VerifiedLog, check_data, verify};

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
        /// SHA-1 collisions are affordable.
        Sha1Only = "eventlog.sha1_only",
            "the log has SHA-1 digests alone",
            "let the firmware write the crypto-agile log, with a SHA-256 or SHA-384 bank";
        /// Nothing else could be replayed.
        BankMissing = "eventlog.bank.missing",
            "the log has no digests of a quoted bank",
            "quote banks that the firmware logs";
        /// CVE-2021-42299.
        BankUnused = "eventlog.bank.unused",
            "the log extends none of the quoted PCR 0 to 7 of this bank",
            "quote a bank that the firmware measures into";
        /// PC Client PFP 1.06, 10.3.
        Replay = "eventlog.replay",
            "the log does not give the signed PCR values",
            "send the log of this boot; if it is, find out what extended the PCR without an event";
        /// PC Client PFP 1.06, 10.4.1.
        DataEdited = "eventlog.data_edited",
            "an event's data is not what was measured",
            "send the log as the firmware recorded it; if it is, treat the host as tampered with";
        /// UEFI 2.10, 32.4.1.
        SignatureList = "eventlog.signature_list",
            "a signature database's lists do not fit into their sizes",
            "write the variable anew, with whole signature lists";
    }
}
