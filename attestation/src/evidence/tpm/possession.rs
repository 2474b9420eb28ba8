//! Proof at enrolment that a TPM holds a certified AK: its signature over the broker's nonce.

use super::TpmReason;
use super::attest::{Attest, Attested};
use super::key::AttestationKey;
use super::read_signed;
use crate::binder::BindingReason;
use crate::reader::Reader;
use crate::rejection::Rejection;
use crate::verified::Verified;

/// Checks a quote (TPM2B_ATTEST, TPMT_SIGNATURE) that only shows possession of `ak`: over `qualifying_data`, of
/// whatever PCRs.
///
/// # Errors
/// A [`TpmReason`] or [`BindingReason`].
pub fn verify_quote(record: &[u8], ak: &AttestationKey, qualifying_data: &[u8]) -> Result<(), Rejection> {
    match read(record, ak, qualifying_data)?.into_inner().attested {
        Attested::Quote { .. } => Ok(()),
        other @ (Attested::Certify { .. } | Attested::Creation { .. }) => {
            Err(TpmReason::Type.because("a quote", other.kind()))
        }
    }
}

/// Checks that `iak` certified `ak` (TPM2_Certify: TPM2B_ATTEST, TPMT_SIGNATURE) over `qualifying_data`: both are in
/// one TPM, since a TPM certifies only what is loaded into it, and `ak` never leaves that.
///
/// # Errors
/// A [`TpmReason`] or [`BindingReason`].
pub fn verify_certified_ak(
    record: &[u8],
    iak: &AttestationKey,
    ak: &AttestationKey,
    qualifying_data: &[u8],
) -> Result<(), Rejection> {
    match read(record, iak, qualifying_data)?.into_inner().attested {
        // TPM 2.0 Part 2, 10.12.3: the Name covers the whole public area, attributes included.
        Attested::Certify { name, .. } if name == ak.name() => Ok(()),
        Attested::Certify { name, .. } => {
            Err(TpmReason::CertifiedName.because(hex::encode(ak.name()), hex::encode(name)))
        }
        other @ (Attested::Quote { .. } | Attested::Creation { .. }) => {
            Err(TpmReason::Type.because("a certification", other.kind()))
        }
    }
}

fn read<'a>(record: &'a [u8], key: &AttestationKey, qualifying_data: &[u8]) -> Result<Verified<Attest<'a>>, Rejection> {
    let mut reader = Reader::new(record);
    let (bytes, signature) = read_signed(&mut reader)?;
    reader.finish().map_err(super::malformed("proof of possession"))?;
    let attest = Verified::read(key.verifier().verify(bytes, &signature)?, Attest::read)?;
    if attest.extra_data != qualifying_data {
        return Err(BindingReason::QualifyingData.because(hex::encode(qualifying_data), hex::encode(attest.extra_data)));
    }
    Ok(attest)
}
