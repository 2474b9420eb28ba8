//! TPM2_Certify or TPM2_CertifyCreation of the credential key: it lives in the TPM of the enrolled AK, and it is the
//! key a credential was asked for.

use alloc::vec::Vec;

use aws_lc_rs::digest;

use super::algorithm::TpmHash;
use super::attest::{Attest, Attested};
use super::creation::CreationData;
use super::key::AttestationKey;
use super::public::{Curve, Key, Public, read_tpm2b_public};
use super::{TpmReason, malformed, read_signed};
use crate::binder::BindingReason;
use crate::claims::{CreationClaims, HexBytes, KeyAuthorization, Presented, TpmKeyClaims};
use crate::digest::Sha256Digest;
use crate::reader::Reader;
use crate::rejection::Rejection;
use crate::verified::Verified;

/// Checks a [`TPM_CERTIFY`](crate::evidence::bundle::TPM_CERTIFY) record, and says who may use the key and what was
/// noted when it was made.
///
/// # Errors
/// A [`TpmReason`] or [`BindingReason`].
pub fn verify(
    record: &[u8],
    ak: &AttestationKey,
    qualifying_data: &[u8],
    credential_key_spki: &[u8],
) -> Result<TpmKeyClaims, Rejection> {
    let mut reader = Reader::new(record);
    let (bytes, signature) = read_signed(&mut reader)?;
    let public = read_tpm2b_public(&mut reader)?;

    let attest = Verified::read(ak.verifier().verify(bytes, &signature)?, Attest::read)?;
    if attest.extra_data != qualifying_data {
        return Err(BindingReason::QualifyingData.because(hex::encode(qualifying_data), hex::encode(attest.extra_data)));
    }
    let (name, creation) = match attest.attested {
        Attested::Certify { name, .. } => (name, Presented::NotPresented),
        Attested::Creation { name, creation_hash } => {
            let data = reader.tpm2b().map_err(malformed("TPM2B_CREATION_DATA"))?;
            (name, Presented::Verified(created(data, creation_hash, public.name_alg())?))
        }
        ref other @ Attested::Quote { .. } => return Err(TpmReason::Type.because("a certification", other.kind())),
    };
    reader.finish().map_err(malformed("certification"))?;
    // Part 2, 10.12.3: the Name covers the whole public area, attributes included; with SHA-1, another may share it.
    if public.name_alg() == TpmHash::Sha1 {
        return Err(TpmReason::Sha1.because("a Name of SHA-256 or stronger", "sha1"));
    }
    let computed = public.name();
    if computed != name {
        return Err(TpmReason::CertifiedName.because(hex::encode(name), hex::encode(computed)));
    }
    let authorization = check_key(&public)?;
    let spki = public.spki();
    if spki != credential_key_spki {
        let expected = Sha256Digest::of(&[credential_key_spki]);
        return Err(BindingReason::CredentialKey.because(expected, Sha256Digest::of(&[&spki])));
    }
    Ok(TpmKeyClaims { authorization, creation })
}

/// A signing key that only this TPM can use, and who may have it used.
fn check_key(public: &Public<'_>) -> Result<KeyAuthorization, Rejection> {
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
    // Part 2, 8.3.3.7: with userWithAuth, the password alone suffices whatever the policy says.
    if attributes.user_with_auth() {
        return Ok(KeyAuthorization::Password);
    }
    match public.auth_policy() {
        [] => Err(TpmReason::CertifiedAttributes.because("userWithAuth or an authPolicy", "neither")),
        policy => Ok(KeyAuthorization::Policy(HexBytes(policy.to_vec()))),
    }
}

/// Part 2, 10.12.7: creationHash is over the creation data with nameAlg of the key.
fn created(data: &[u8], creation_hash: &[u8], name_alg: TpmHash) -> Result<CreationClaims, Rejection> {
    let computed = digest::digest(name_alg.digest(), data);
    if computed.as_ref() != creation_hash {
        return Err(TpmReason::CreationData.because(hex::encode(creation_hash), hex::encode(computed)));
    }
    let data = CreationData::read(data, name_alg)?;
    // A SHA-1 bank was hashed into the digest and is not claimed.
    let banks = data.pcr_select.iter().filter_map(|entry| {
        let pcrs: Vec<u8> = entry.indexes().collect();
        Some((entry.bank.bank()?, pcrs))
    });
    Ok(CreationClaims {
        pcr_select: banks.collect(),
        pcr_digest: HexBytes(data.pcr_digest.to_vec()),
        locality: data.locality,
        parent_name: HexBytes(data.parent_name.to_vec()),
        outside_info: HexBytes(data.outside_info.to_vec()),
    })
}
