//! TPM.
use crate::rejection::reasons;
reasons! {
    /// Why.
    TpmReason {
        /// x
        Malformed = "tpm.malformed", "the structure cannot be read", "x";
    }
}
