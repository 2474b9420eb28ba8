//! The lineage log, as anyone can read and check it: entries, the Merkle tree over them, checkpoints.

pub mod entry;
pub mod tree;

use crate::rejection::reasons;

reasons! {
    /// Why something in or about the log is rejected.
    LineageReason {
        /// RFC 8949, 4.2.1.
        EntryEncoding = "lineage.entry.encoding",
            "the entry is not in its one deterministic encoding",
            "read the entry from the log unchanged";
        /// A version this code does not know.
        EntryVersion = "lineage.entry.version",
            "the entry is of another version",
            "use the version of Countersign that wrote the log, or a later one";
        /// Mandatory members of each event, and limits.
        EntryMembers = "lineage.entry.members",
            "the entry does not have the members of its event",
            "record the event with the members the entry format names";
    }
}
