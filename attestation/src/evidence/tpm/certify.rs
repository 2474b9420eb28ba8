//! TPM2_Certify of the credential key: it lives in the TPM of the enrolled AK, and it is the key a credential was asked
//! for.

use super::attest::{Attest, Attested};
use super::key::AttestationKey;
use super::public::{Curve, Key, read_tpm2b_public};
use super::{TpmReason, malformed, read_signed};
use crate::binder::BindingReason;
use crate::digest::Sha256Digest;
use crate::reader::Reader;
use crate::rejection::Rejection;
use crate::verified::Verified;

/// Checks a [`TPM_CERTIFY`](crate::evidence::bundle::TPM_CERTIFY) record.
///
/// # Errors
/// A [`TpmReason`] or [`BindingReason`].
pub fn verify(
    record: &[u8],
    ak: &AttestationKey,
    qualifying_data: &[u8],
    credential_key_spki: &[u8],
) -> Result<(), Rejection> {
    let mut reader = Reader::new(record);
    let (bytes, signature) = read_signed(&mut reader)?;
    let public = read_tpm2b_public(&mut reader)?;
    reader.finish().map_err(malformed("certification"))?;

    let attest = Verified::read(ak.verifier().verify(bytes, &signature)?, Attest::read)?;
    if attest.extra_data != qualifying_data {
        return Err(BindingReason::QualifyingData.because(hex::encode(qualifying_data), hex::encode(attest.extra_data)));
    }
    let Attested::Certify { name, .. } = attest.attested else {
        return Err(TpmReason::Type.because("a certification", "a quote"));
    };
    // Part 2, 10.12.3: the Name covers the whole public area, attributes included.
    let computed = public.name();
    if computed != name {
        return Err(TpmReason::CertifiedName.because(hex::encode(name), hex::encode(computed)));
    }
    let attributes = public.attributes();
    let sound = attributes.fixed_tpm()
        && attributes.fixed_parent()
        && attributes.sensitive_data_origin()
        && attributes.sign()
        && !attributes.restricted()
        && !attributes.decrypt();
    if !sound {
        let expected = "fixedTPM, fixedParent, sensitiveDataOrigin, sign, neither restricted nor decrypt";
        return Err(TpmReason::CertifiedAttributes.because(expected, format_args!("{:#010x}", attributes.bits())));
    }
    if !matches!(public.key(), Key::Ecc { curve: Curve::P256, .. }) {
        return Err(TpmReason::CertifiedAttributes.because("a P-256 key", "another"));
    }
    let spki = public.spki();
    if spki != credential_key_spki {
        let expected = Sha256Digest::of(&[credential_key_spki]);
        return Err(BindingReason::CredentialKey.because(expected, Sha256Digest::of(&[&spki])));
    }
    Ok(())
}
