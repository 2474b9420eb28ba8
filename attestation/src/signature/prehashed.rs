//! Signatures over a digest that came without its message: the kernel measures a file's digest and its signature, and
//! the file stays where it is. Nothing is [`Verified`](crate::Verified) by one; it says that a key's owner signed
//! something with this digest.

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::signature as engine;
use aws_lc_rs::signature::{ParsedPublicKey, VerificationAlgorithm};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{BadKey, BadSignature};
use crate::evidence::tpm::algorithm::TpmHash;

const RSA_ENCRYPTION: &str = "1.2.840.113549.1.1.1";
const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const P521: &str = "1.3.132.0.35";
const SECP256K1: &str = "1.3.132.0.10";

/// Bytes of an RSA modulus of 2048 bits, with its leading zero.
type Algorithms = [Option<&'static dyn VerificationAlgorithm>; 3];

const RSA: Algorithms = [
    Some(&engine::RSA_PKCS1_2048_8192_SHA256),
    Some(&engine::RSA_PKCS1_2048_8192_SHA384),
    Some(&engine::RSA_PKCS1_2048_8192_SHA512),
];

/// A public key that verifies signatures over SHA-256, SHA-384 and SHA-512 digests, read once.
#[derive(Clone, Debug)]
pub struct PrehashedKey {
    sha256: Option<ParsedPublicKey>,
    sha384: Option<ParsedPublicKey>,
    sha512: Option<ParsedPublicKey>,
    key_id: [u8; 4],
}

impl PrehashedKey {
    /// The key in a DER `SubjectPublicKeyInfo`: RSA (PKCS #1 v1.5 signatures) of 2048 bits or more, or ECDSA on P-256,
    /// P-384, P-521 or secp256k1 (DER signatures).
    ///
    /// # Errors
    /// [`BadKey`] for every other one.
    pub fn from_spki(spki: &[u8]) -> Result<Self, BadKey> {
        let (rest, info) = SubjectPublicKeyInfo::from_der(spki).map_err(|_| BadKey)?;
        let key = info.subject_public_key.as_ref();
        if !rest.is_empty() || info.subject_public_key.unused_bits != 0 {
            return Err(BadKey);
        }
        let curve = || Some(info.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string());
        let algorithm = info.algorithm.algorithm.to_id_string();
        let [sha256, sha384, sha512] = match algorithm.as_str() {
            RSA_ENCRYPTION => RSA,
            EC_PUBLIC_KEY => ecdsa(&curve().ok_or(BadKey)?).ok_or(BadKey)?,
            _ => return Err(BadKey),
        };
        let parse = |algorithm: Option<&'static dyn VerificationAlgorithm>| {
            algorithm.map(|algorithm| ParsedPublicKey::new(algorithm, key).map_err(|_| BadKey)).transpose()
        };
        let identifier = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, key);
        let key_id = identifier.as_ref().last_chunk::<4>().ok_or(BadKey)?;
        Ok(Self { sha256: parse(sha256)?, sha384: parse(sha384)?, sha512: parse(sha512)?, key_id: *key_id })
    }

    /// The last four bytes of the SHA-1 of the key: how IMA names a key whose certificate says nothing else
    /// (RFC 5280, 4.2.1.2, method 1). It selects a key and proves nothing.
    #[must_use]
    pub const fn key_id(&self) -> [u8; 4] {
        self.key_id
    }

    /// Checks `signature` over a message whose `hash` is `value`.
    ///
    /// # Errors
    /// [`BadSignature`] when it does not verify, is malformed, or is of a hash that this key is not used with.
    pub fn verify(&self, hash: TpmHash, value: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        let (key, algorithm) = match hash {
            // Collisions of SHA-1 are affordable.
            TpmHash::Sha1 => (&None, &digest::SHA1_FOR_LEGACY_USE_ONLY),
            TpmHash::Sha256 => (&self.sha256, &digest::SHA256),
            TpmHash::Sha384 => (&self.sha384, &digest::SHA384),
            TpmHash::Sha512 => (&self.sha512, &digest::SHA512),
        };
        let digest = Digest::import_less_safe(value, algorithm).map_err(|_| BadSignature)?;
        key.as_ref().ok_or(BadSignature)?.verify_digest_sig(&digest, signature).map_err(|_| BadSignature)
    }
}

fn ecdsa(curve: &str) -> Option<Algorithms> {
    match curve {
        P256 => Some([
            Some(&engine::ECDSA_P256_SHA256_ASN1),
            Some(&engine::ECDSA_P256_SHA384_ASN1),
            Some(&engine::ECDSA_P256_SHA512_ASN1),
        ]),
        P384 => Some([
            Some(&engine::ECDSA_P384_SHA256_ASN1),
            Some(&engine::ECDSA_P384_SHA384_ASN1),
            Some(&engine::ECDSA_P384_SHA512_ASN1),
        ]),
        P521 => Some([
            Some(&engine::ECDSA_P521_SHA256_ASN1),
            Some(&engine::ECDSA_P521_SHA384_ASN1),
            Some(&engine::ECDSA_P521_SHA512_ASN1),
        ]),
        SECP256K1 => Some([Some(&engine::ECDSA_P256K1_SHA256_ASN1), None, None]),
        _ => None,
    }
}
