//! Results.
use crate::rejection::reasons;
reasons! {
    /// Why.
    ResultReason {
        /// x
        Malformed = "result.malformed", "the token cannot be read", "x";
    }
}
