//! Intel TDX quotes, and the SGX quotes that the same machinery verifies (Intel TDX DCAP Quoting Library API,
//! appendix A; the checks are those of clause 4.1.2.5 of Intel's quote verification library, and a few more).
//!
//! A quote is signed by an attestation key; the report of the quoting enclave (QE) says whose key that is; the platform's
//! PCK signed that report; Intel certified the PCK. What Intel says about the platform's, the QE's and the TDX module's
//! TCB comes as collateral: [`crate::endorsement::intel`].

pub mod body;
pub mod quote;
pub mod recorded;
pub mod rtmr;

use crate::rejection::reasons;
pub use body::{Body, BodyKind, EnclaveReport, TdReport};
pub use quote::Quote;

reasons! {
    /// Why a TDX or SGX quote is not believed.
    TdxReason {
        /// Bounded before anything is read.
        TooLarge = "tdx.too_large",
            "the quote is longer than any genuine one",
            "send the quote as the quoting service returned it";
        /// Quoting Library API, appendix A.3.
        Length = "tdx.length",
            "a part of the quote does not have the length it says",
            "send the quote as the quoting service returned it, all of it";
        /// Of the header.
        Version = "tdx.header.version",
            "the quote has a version that is not known here",
            "use a quoting service that makes quotes of version 4 or 5";
        /// Of the header.
        KeyType = "tdx.header.key_type",
            "the attestation key is not of the type that Intel's quoting enclaves use",
            "use Intel's quoting enclave with ECDSA P-256";
        /// Of the header.
        TeeType = "tdx.header.tee_type",
            "the quote is of an unknown kind of TEE",
            "quote a trust domain, or an enclave";
        /// Of the header.
        Vendor = "tdx.header.vendor",
            "the quote is not of Intel's quoting enclave",
            "use Intel's quoting enclave";
        /// Version 5.
        BodyType = "tdx.body.type",
            "the quote's body is of an unknown type, or not of the kind of TEE that the header names",
            "update Countersign if the body is of a newer TDX";
        /// Version 5.
        BodySize = "tdx.body.size",
            "the quote's body does not have the size of its type",
            "send the quote as the quoting service returned it";
        /// Anyone can add bytes there.
        Trailing = "tdx.trailing",
            "something other than zeros follows the quote",
            "send the quote alone, or padded with zeros";
        /// 6 since version 4, and 5 inside.
        CertificationType = "tdx.certification.type",
            "the quote does not carry the PCK's certificate chain",
            "provision the platform so that its quoting service has the PCK certificate chain";
    }
}
