//! Certificates in PEM (RFC 7468), as quotes and PCS answers carry them.

use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::IntelReason;
use crate::rejection::Rejection;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Chains of Intel have three certificates, of about a kilobyte each.
const CHAIN_BYTES_MAX: usize = 16 * 1024;
const CERTIFICATES_MAX: usize = 4;

/// The certificates of a chain, DER, in their order. Nothing but white space stands between them.
pub(crate) fn certificates(chain: &[u8]) -> Result<Vec<Vec<u8>>, Rejection> {
    let refused = |found: &str| IntelReason::Chain.because("certificates in PEM and nothing else", found);
    if CHAIN_BYTES_MAX < chain.len() {
        return Err(IntelReason::Chain.because(format_args!("at most {CHAIN_BYTES_MAX} bytes"), chain.len()));
    }
    let mut rest = core::str::from_utf8(chain).map_err(|_| refused("bytes that are not text"))?.trim();
    let mut certificates = Vec::new();
    while !rest.is_empty() {
        let (body, after) = rest
            .strip_prefix(BEGIN)
            .and_then(|rest| rest.split_once(END))
            .ok_or_else(|| refused("something without BEGIN and END CERTIFICATE"))?;
        let digits: Vec<u8> = body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        certificates.push(STANDARD.decode(digits).map_err(|_| refused("something that is not base64"))?);
        if CERTIFICATES_MAX < certificates.len() {
            return Err(IntelReason::Chain.because(format_args!("at most {CERTIFICATES_MAX} certificates"), "more"));
        }
        rest = after.trim_start();
    }
    Ok(certificates)
}
