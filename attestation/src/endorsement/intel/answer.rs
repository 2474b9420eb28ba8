//! What Intel's provisioning service answers: an object and the signature over its exact bytes.

use alloc::vec::Vec;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::IntelReason;
use super::tcb_info::schema;
use crate::rejection::Rejection;

/// Longest answer that is read. TCB info has some ten kilobytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// A signed object, as it was sent: not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The object, exactly as signed.
    pub body: &'a str,
    /// r || s.
    pub signature: Vec<u8>,
}

impl<'a> Answer<'a> {
    /// The answer to "Get TCB Info".
    ///
    /// # Errors
    /// [`IntelReason::Schema`] when it is another one.
    pub fn tcb_info(text: &'a [u8]) -> Result<Self, Rejection> {
        let raw: RawTcbInfo<'_> = read(text)?;
        Self::new(raw.tcb_info, raw.signature)
    }

    /// The answer to "Get QE Identity".
    ///
    /// # Errors
    /// [`IntelReason::Schema`] when it is another one.
    pub fn enclave_identity(text: &'a [u8]) -> Result<Self, Rejection> {
        let raw: RawIdentity<'_> = read(text)?;
        Self::new(raw.enclave_identity, raw.signature)
    }

    fn new(body: &'a RawValue, signature: &str) -> Result<Self, Rejection> {
        let signature = hex::decode(signature).map_err(|error| IntelReason::Schema.because("r || s in hex", error))?;
        Ok(Self { body: body.get(), signature })
    }
}

/// Reads a member that may be absent, and is never null: Intel leaves out what there is none of.
pub(super) fn not_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Checks that an answer, or a document of one, is no longer than any is, before anything of it is read.
pub(super) fn check_length(text: &[u8]) -> Result<(), Rejection> {
    if ANSWER_BYTES_MAX < text.len() {
        return Err(IntelReason::Schema.because(format_args!("at most {ANSWER_BYTES_MAX} bytes"), text.len()));
    }
    Ok(())
}

fn read<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Rejection> {
    check_length(text)?;
    serde_json::from_slice(text).map_err(|error| schema("an object and its signature", error))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTcbInfo<'a> {
    #[serde(borrow, rename = "tcbInfo")]
    tcb_info: &'a RawValue,
    signature: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIdentity<'a> {
    #[serde(borrow, rename = "enclaveIdentity")]
    enclave_identity: &'a RawValue,
    signature: &'a str,
}
