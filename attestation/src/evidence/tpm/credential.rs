//! TPM2_MakeCredential without a TPM (TPM 2.0 Part 1, 24 and annexes B.10.4 and C.6.4): a secret that only the TPM with
//! this EK opens, and only if it also holds the object of this Name.

use alloc::vec::Vec;
use core::fmt;

use aws_lc_rs::agreement;
use aws_lc_rs::cipher::{self, EncryptionContext, StreamingEncryptingKey, UnboundCipherKey};
use aws_lc_rs::{hmac, rsa};
use zeroize::Zeroizing;

use super::TpmReason;
use super::algorithm::TpmHash;
use super::kdf::{Secret, bits, kdfa, kdfe};
use super::public::{Curve, Key, KeyScheme, Public, Symmetric};
use crate::digest::Sha256Digest;
use crate::rejection::Rejection;

/// Label of the seed, with the zero that terminates it (Part 1, 24.4).
const IDENTITY: &[u8] = b"IDENTITY\0";

/// Tries before a source of ephemeral keys is called broken: a random scalar is out of range once in 2^32 tries.
const EPHEMERAL_TRIES: usize = 4;

/// The caller's randomness: fills the slice. This crate draws none of its own.
pub type Randomness<'r> = &'r mut dyn FnMut(&mut [u8]);

/// What credential activation proves knowledge of. It has no `Display`, its `Debug` says nothing, and dropping it
/// clears it.
#[derive(Clone)]
pub struct ActivationSecret(Zeroizing<[u8; 32]>);

impl ActivationSecret {
    /// A secret of these random bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for [`activation_proof`](crate::protocol::activation_proof).
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ActivationSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ActivationSecret")
    }
}

/// What travels to the TPM, each without its outer TPM2B size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeCredential {
    /// TPMS_ID_OBJECT: integrity HMAC as TPM2B_DIGEST, then the encrypted credential.
    pub credential_blob: Vec<u8>,
    /// The encrypted seed: OAEP ciphertext, or an ephemeral TPMS_ECC_POINT.
    pub encrypted_secret: Vec<u8>,
}

/// An endorsement key whose public area was checked: a restricted decryption key that never leaves its TPM.
#[derive(Clone, Debug)]
pub struct EndorsementKey<'a> {
    public: Public<'a>,
}

impl<'a> EndorsementKey<'a> {
    /// The endorsement key with this TPMT_PUBLIC, if it can be one.
    ///
    /// # Errors
    /// [`TpmReason::EkAttributes`], [`TpmReason::Sha1`], [`TpmReason::Malformed`] or [`TpmReason::Algorithm`].
    pub fn from_public(tpmt_public: &'a [u8]) -> Result<Self, Rejection> {
        let public = Public::read(tpmt_public)?;
        let attributes = public.attributes();
        // TCG EK Credential Profile 2.6, annex B: the templates' attributes. Only a restricted decryption key refuses
        // to decrypt anything but the structures of the TPM's own protocols.
        let sound = attributes.restricted()
            && attributes.decrypt()
            && attributes.fixed_tpm()
            && attributes.fixed_parent()
            && attributes.sensitive_data_origin()
            && !attributes.sign();
        if !sound || public.symmetric() == Symmetric::Null || public.scheme() != KeyScheme::Null {
            let expected = "restricted, decrypt, fixedTPM, fixedParent, sensitiveDataOrigin, not sign; AES, no scheme";
            return Err(TpmReason::EkAttributes.because(expected, format_args!("{:#010x}", attributes.bits())));
        }
        if public.name_alg() == TpmHash::Sha1 {
            return Err(TpmReason::Sha1.because("a Name of SHA-256 or stronger", "sha1"));
        }
        Ok(Self { public })
    }

    /// The public area.
    #[must_use]
    pub const fn public(&self) -> &Public<'a> {
        &self.public
    }

    /// SHA-256 of the key's SubjectPublicKeyInfo: the identity of the TPM.
    #[must_use]
    pub fn id(&self) -> Sha256Digest {
        Sha256Digest::of(&[&self.public.spki()])
    }
}

/// TPM2_MakeCredential for the object named `ak_name` in the TPM that holds `ek`.
///
/// The seed (RSA) or the ephemeral key (ECC) comes from `random`. For RSA, the engine draws the OAEP padding itself:
/// the one randomness in this crate that is not the caller's, and nothing decided depends on it.
///
/// # Errors
/// [`TpmReason::Credential`] when the engine refuses the key.
pub fn make_credential(
    ek: &EndorsementKey<'_>,
    ak_name: &[u8],
    secret: &ActivationSecret,
    random: Randomness<'_>,
) -> Result<MadeCredential, Rejection> {
    let (seed, encrypted_secret) = share_seed(&ek.public, IDENTITY, random).ok_or_else(refused)?;
    let credential_blob = protect(&ek.public, &seed, ak_name, secret.expose()).ok_or_else(refused)?;
    Ok(MadeCredential { credential_blob, encrypted_secret })
}

fn refused() -> Rejection {
    TpmReason::Credential.because("an EK that can receive a seed", "a key the engine refuses")
}

/// A seed and the form in which only the key's TPM reads it (Part 1, B.10.4 and C.6.4): an OAEP ciphertext, or an
/// ephemeral TPMS_ECC_POINT. `label` carries its terminating zero. `None` for a key the engine refuses.
pub fn share_seed(public: &Public<'_>, label: &[u8], random: Randomness<'_>) -> Option<(Secret, Vec<u8>)> {
    let hash = public.name_alg();
    match public.key() {
        Key::Rsa { .. } => {
            let mut seed = Secret::new(alloc::vec![0; hash.size()]);
            random(&mut seed);
            let key = rsa::PublicEncryptingKey::from_der(&public.spki()).ok()?;
            let key = rsa::OaepPublicEncryptingKey::new(key).ok()?;
            let mut ciphertext = alloc::vec![0; key.ciphertext_size()];
            let oaep = match hash {
                TpmHash::Sha1 => &rsa::OAEP_SHA1_MGF1SHA1,
                TpmHash::Sha256 => &rsa::OAEP_SHA256_MGF1SHA256,
                TpmHash::Sha384 => &rsa::OAEP_SHA384_MGF1SHA384,
                TpmHash::Sha512 => &rsa::OAEP_SHA512_MGF1SHA512,
            };
            let written = key.encrypt(oaep, &seed, &mut ciphertext, Some(label)).ok()?.len();
            (written == ciphertext.len()).then_some((seed, ciphertext))
        }
        Key::Ecc { curve, .. } => {
            let algorithm = match curve {
                Curve::P256 => &agreement::ECDH_P256,
                Curve::P384 => &agreement::ECDH_P384,
                Curve::P521 => &agreement::ECDH_P521,
            };
            let ephemeral = ephemeral_key(algorithm, curve, random)?;
            let ephemeral_public = ephemeral.compute_public_key().ok()?;
            let static_point = public.engine_key();
            let (ours, theirs) = (coordinates(ephemeral_public.as_ref(), curve)?, coordinates(&static_point, curve)?);
            let peer = agreement::UnparsedPublicKey::new(algorithm, &static_point);
            let seed = agreement::agree(&ephemeral, peer, (), |shared| {
                Ok(kdfe(hash, shared, label, ours.0, theirs.0, bits(hash.size())))
            });
            let mut point = Vec::new();
            push_tpm2b(&mut point, ours.0)?;
            push_tpm2b(&mut point, ours.1)?;
            Some((seed.ok()?, point))
        }
    }
}

fn ephemeral_key(
    algorithm: &'static agreement::Algorithm,
    curve: Curve,
    random: Randomness<'_>,
) -> Option<agreement::PrivateKey> {
    (0..EPHEMERAL_TRIES).find_map(|_| {
        let mut scalar = Secret::new(alloc::vec![0; curve.size()]);
        random(&mut scalar);
        agreement::PrivateKey::from_private_key(algorithm, &scalar).ok()
    })
}

/// x and y of an uncompressed point.
fn coordinates(point: &[u8], curve: Curve) -> Option<(&[u8], &[u8])> {
    let (x, y) = point.strip_prefix(&[4])?.split_at_checked(curve.size())?;
    (y.len() == curve.size()).then_some((x, y))
}

/// TPMS_ID_OBJECT (Part 1, 24.4 to 24.6).
fn protect(public: &Public<'_>, seed: &[u8], name: &[u8], secret: &[u8]) -> Option<Vec<u8>> {
    let hash = public.name_alg();
    let (algorithm, key_bits) = match public.symmetric() {
        Symmetric::Aes128Cfb => (&cipher::AES_128, 128),
        Symmetric::Aes256Cfb => (&cipher::AES_256, 256),
        Symmetric::Null => return None,
    };
    // Large enough that it never moves and leaves a copy behind.
    let mut plain = Secret::new(Vec::with_capacity(secret.len().checked_add(2)?));
    push_tpm2b(&mut plain, secret)?;
    // The key is used once, so the IV is zero (Part 1, 24.4).
    let key = UnboundCipherKey::new(algorithm, &kdfa(hash, seed, b"STORAGE", name, &[], key_bits)).ok()?;
    let context = EncryptionContext::Iv128([0; 16].into());
    let mut encryptor = StreamingEncryptingKey::less_safe_cfb128(key, context).ok()?;
    let mut encrypted = alloc::vec![0; plain.len().checked_add(16)?];
    let mut written = encryptor.update(&plain, &mut encrypted).ok()?.written().len();
    let (_, last) = encryptor.finish(encrypted.get_mut(written..)?).ok()?;
    written = written.checked_add(last.written().len())?;
    encrypted.truncate(written);

    let key = hmac::Key::new(hash.hmac(), &kdfa(hash, seed, b"INTEGRITY", &[], &[], bits(hash.size())));
    let mut context = hmac::Context::with_key(&key);
    context.update(&encrypted);
    context.update(name);
    let mut blob = Vec::new();
    push_tpm2b(&mut blob, context.sign().as_ref())?;
    blob.extend_from_slice(&encrypted);
    Some(blob)
}

fn push_tpm2b(out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    out.extend_from_slice(&u16::try_from(bytes.len()).ok()?.to_be_bytes());
    out.extend_from_slice(bytes);
    Some(())
}

#[cfg(test)]
mod tests;
