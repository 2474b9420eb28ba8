//! X.509 chains to a pinned anchor.
use crate::rejection::reasons;
reasons! {
    /// Why a certificate chain is rejected.
    X509Reason {
        /// RFC 5280.
        Malformed = "x509.malformed", "the certificate cannot be read", "send the vendor's certificate, DER";
    }
}
