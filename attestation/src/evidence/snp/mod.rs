//! SNP.
use crate::rejection::reasons;
reasons! {
    /// Why.
    SnpReason {
        /// x
        Malformed = "snp.report.malformed", "the report cannot be read", "x";
    }
}
