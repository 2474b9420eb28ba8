//! Lineage.
use crate::rejection::reasons;
reasons! {
    /// Why.
    LineageReason {
        /// x
        Malformed = "lineage.malformed", "the entry cannot be read", "x";
    }
}
