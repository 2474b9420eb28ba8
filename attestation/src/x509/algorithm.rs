//! What an AlgorithmIdentifier and a SubjectPublicKeyInfo mean together: exactly one [`Scheme`] and one key, or a
//! rejection. SHA-1 and everything else that is not listed is refused.

use super::der::{Der, NotDer, tag};
use super::oid::{self, Oid};
use super::{X509Reason, hex_text};
use crate::rejection::Rejection;
use crate::signature::{PublicKey, Scheme};

/// Hashes a certificate may be signed with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// A signature algorithm before the key's type and curve are known.
#[derive(Clone, Copy)]
enum Algorithm {
    Pkcs1(Hash),
    Pss(Hash),
    Ecdsa(Hash),
}

/// A SubjectPublicKeyInfo, read.
enum Key<'a> {
    /// rsaEncryption: any RSA scheme.
    Rsa(&'a [u8]),
    /// id-RSASSA-PSS: for PSS alone (RFC 4055, 1.2).
    RsaPss(&'a [u8]),
    P256(&'a [u8]),
    P384(&'a [u8]),
    P521(&'a [u8]),
    /// id-RSAES-OAEP: encrypts, and signs nothing (RFC 4055, 4.1).
    RsaOaep(&'a [u8]),
    Ed25519(&'a [u8]),
}

/// What a SubjectPublicKeyInfo holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectKey<'a> {
    /// rsaEncryption.
    Rsa(RsaKey<'a>),
    /// id-RSASSA-PSS: signs only.
    RsaPss(RsaKey<'a>),
    /// id-RSAES-OAEP: encrypts only.
    RsaOaep(RsaKey<'a>),
    /// An uncompressed point on P-256.
    P256(&'a [u8]),
    /// On P-384.
    P384(&'a [u8]),
    /// On P-521.
    P521(&'a [u8]),
    /// Ed25519.
    Ed25519(&'a [u8]),
}

/// An RSA public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RsaKey<'a> {
    /// RSAPublicKey, DER (RFC 8017, A.1.1).
    pub der: &'a [u8],
    /// The modulus, without leading zeros.
    pub modulus: &'a [u8],
}

/// The key in `spki`, whatever it is for.
pub(super) fn subject_key(spki: &[u8]) -> Result<SubjectKey<'_>, Rejection> {
    let rsa = |der| {
        let modulus = || -> Result<_, NotDer> {
            let mut outer = Der::new(der);
            let mut fields = outer.inner(tag::SEQUENCE)?;
            outer.finish()?;
            let modulus = fields.content(tag::INTEGER)?;
            fields.content(tag::INTEGER)?;
            fields.finish()?;
            Ok(modulus.strip_prefix(&[0]).unwrap_or(modulus))
        };
        let modulus = modulus().map_err(|NotDer| X509Reason::Key.because("an RSAPublicKey", hex_text(der)))?;
        Ok(RsaKey { der, modulus })
    };
    Ok(match read_key(spki)? {
        Key::Rsa(key) => SubjectKey::Rsa(rsa(key)?),
        Key::RsaPss(key) => SubjectKey::RsaPss(rsa(key)?),
        Key::RsaOaep(key) => SubjectKey::RsaOaep(rsa(key)?),
        Key::P256(point) => SubjectKey::P256(point),
        Key::P384(point) => SubjectKey::P384(point),
        Key::P521(point) => SubjectKey::P521(point),
        Key::Ed25519(key) => SubjectKey::Ed25519(key),
    })
}

/// The key in `spki` for signatures that say they are made with `algorithm` (DER AlgorithmIdentifier).
pub(super) fn signature_key(algorithm: &[u8], spki: &[u8]) -> Result<PublicKey, Rejection> {
    let unsupported = || {
        X509Reason::Algorithm
            .because("RSA or ECDSA with SHA-256, SHA-384 or SHA-512, parameters explicit", hex_text(algorithm))
    };
    let scheme = match (read_algorithm(algorithm).ok_or_else(unsupported)?, read_key(spki)?) {
        (Algorithm::Pkcs1(hash), Key::Rsa(_)) => match hash {
            Hash::Sha256 => Scheme::RsaPkcs1Sha256,
            Hash::Sha384 => Scheme::RsaPkcs1Sha384,
            Hash::Sha512 => Scheme::RsaPkcs1Sha512,
        },
        (Algorithm::Pss(hash), Key::Rsa(_) | Key::RsaPss(_)) => match hash {
            Hash::Sha256 => Scheme::RsaPssSha256,
            Hash::Sha384 => Scheme::RsaPssSha384,
            Hash::Sha512 => Scheme::RsaPssSha512,
        },
        (Algorithm::Ecdsa(Hash::Sha256), Key::P256(_)) => Scheme::EcdsaP256Sha256Der,
        (Algorithm::Ecdsa(Hash::Sha384), Key::P256(_)) => Scheme::EcdsaP256Sha384Der,
        (Algorithm::Ecdsa(Hash::Sha256), Key::P384(_)) => Scheme::EcdsaP384Sha256Der,
        (Algorithm::Ecdsa(Hash::Sha384), Key::P384(_)) => Scheme::EcdsaP384Sha384Der,
        (Algorithm::Ecdsa(Hash::Sha384), Key::P521(_)) => Scheme::EcdsaP521Sha384Der,
        (Algorithm::Ecdsa(Hash::Sha512), Key::P521(_)) => Scheme::EcdsaP521Sha512Der,
        (Algorithm::Pkcs1(_), Key::RsaPss(_) | Key::P256(_) | Key::P384(_) | Key::P521(_) | Key::Ed25519(_))
        | (Algorithm::Pss(_), Key::P256(_) | Key::P384(_) | Key::P521(_) | Key::Ed25519(_))
        | (Algorithm::Ecdsa(_), Key::Rsa(_) | Key::RsaPss(_) | Key::Ed25519(_))
        | (Algorithm::Ecdsa(Hash::Sha512), Key::P256(_) | Key::P384(_))
        | (Algorithm::Ecdsa(Hash::Sha256), Key::P521(_))
        | (Algorithm::Pkcs1(_) | Algorithm::Pss(_) | Algorithm::Ecdsa(_), Key::RsaOaep(_)) => {
            return Err(unsupported());
        }
    };
    public_key(scheme, spki)
}

/// The key in `spki`, for `scheme`.
pub(super) fn public_key(scheme: Scheme, spki: &[u8]) -> Result<PublicKey, Rejection> {
    let key = match (scheme, read_key(spki)?) {
        (Scheme::RsaPkcs1Sha256 | Scheme::RsaPkcs1Sha384 | Scheme::RsaPkcs1Sha512, Key::Rsa(key))
        | (Scheme::RsaPssSha256 | Scheme::RsaPssSha384 | Scheme::RsaPssSha512, Key::Rsa(key) | Key::RsaPss(key))
        | (Scheme::EcdsaP256Sha256 | Scheme::EcdsaP256Sha256Der | Scheme::EcdsaP256Sha384Der, Key::P256(key))
        | (Scheme::EcdsaP384Sha384 | Scheme::EcdsaP384Sha256Der | Scheme::EcdsaP384Sha384Der, Key::P384(key))
        | (Scheme::EcdsaP521Sha384Der | Scheme::EcdsaP521Sha512Der, Key::P521(key))
        | (Scheme::Ed25519, Key::Ed25519(key)) => key,
        (
            scheme,
            Key::Rsa(_)
            | Key::RsaPss(_)
            | Key::RsaOaep(_)
            | Key::P256(_)
            | Key::P384(_)
            | Key::P521(_)
            | Key::Ed25519(_),
        ) => {
            return Err(X509Reason::Key.because(format_args!("a key for {scheme:?}"), "a key of another kind"));
        }
    };
    Ok(PublicKey::new(scheme, key.to_vec()))
}

fn read_algorithm(algorithm: &[u8]) -> Option<Algorithm> {
    let (oid, parameters) = identifier(algorithm).ok()?;
    let null_or_absent = parameters.is_empty() || parameters == [5, 0];
    // RFC 4055, 5: parameters are NULL. RFC 5758, 3.2: parameters are absent; Intel's on-die authority writes NULL.
    let found = [
        (oid::SHA256_WITH_RSA, Algorithm::Pkcs1(Hash::Sha256), null_or_absent),
        (oid::SHA384_WITH_RSA, Algorithm::Pkcs1(Hash::Sha384), null_or_absent),
        (oid::SHA512_WITH_RSA, Algorithm::Pkcs1(Hash::Sha512), null_or_absent),
        (oid::ECDSA_WITH_SHA256, Algorithm::Ecdsa(Hash::Sha256), null_or_absent),
        (oid::ECDSA_WITH_SHA384, Algorithm::Ecdsa(Hash::Sha384), null_or_absent),
        (oid::ECDSA_WITH_SHA512, Algorithm::Ecdsa(Hash::Sha512), null_or_absent),
    ];
    if oid == oid::RSASSA_PSS.octets() {
        return read_pss(parameters).ok().map(Algorithm::Pss);
    }
    let (_, algorithm, parameters_fit) = found.into_iter().find(|(known, _, _)| known.octets() == oid)?;
    parameters_fit.then_some(algorithm)
}

/// RSASSA-PSS-params (RFC 4055, 3.1). The defaults are SHA-1, so hash, MGF and salt length must all be explicit, name
/// one hash, and the salt must be as long as that hash: the one form our schemes verify.
fn read_pss(parameters: &[u8]) -> Result<Hash, NotDer> {
    let mut outer = Der::new(parameters);
    let mut fields = outer.inner(tag::SEQUENCE)?;
    outer.finish()?;
    let mut hash_field = fields.inner(tag::CONTEXT_0)?;
    let hash = hash_of(hash_field.element(tag::SEQUENCE)?.whole)?;
    hash_field.finish()?;
    let mut mgf_field = fields.inner(tag::CONTEXT_1)?;
    let mut mgf = mgf_field.inner(tag::SEQUENCE)?;
    mgf_field.finish()?;
    let is_mgf1 = mgf.content(tag::OID)? == oid::MGF1.octets();
    let mgf_hash = hash_of(mgf.element(tag::SEQUENCE)?.whole)?;
    mgf.finish()?;
    let mut salt_field = fields.inner(tag::CONTEXT_2)?;
    let salt_length = salt_field.u64()?;
    salt_field.finish()?;
    if let Some(mut trailer) = fields.optional(tag::CONTEXT_3)? {
        // The only trailer field there is; some signers encode the default.
        if trailer.u64()? != 1 {
            return Err(NotDer);
        }
        trailer.finish()?;
    }
    fields.finish()?;
    let hash_length = match hash {
        Hash::Sha256 => 32,
        Hash::Sha384 => 48,
        Hash::Sha512 => 64,
    };
    if is_mgf1 && mgf_hash == hash && salt_length == hash_length { Ok(hash) } else { Err(NotDer) }
}

fn hash_of(algorithm: &[u8]) -> Result<Hash, NotDer> {
    let (oid, parameters) = identifier(algorithm)?;
    if !parameters.is_empty() && parameters != [5, 0] {
        return Err(NotDer);
    }
    let known = [(oid::SHA256, Hash::Sha256), (oid::SHA384, Hash::Sha384), (oid::SHA512, Hash::Sha512)];
    known.into_iter().find(|(known, _)| known.octets() == oid).map(|(_, hash)| hash).ok_or(NotDer)
}

/// An AlgorithmIdentifier: the OID's content octets and the parameters, whole, empty when absent.
fn identifier(algorithm: &[u8]) -> Result<(&[u8], &[u8]), NotDer> {
    let mut outer = Der::new(algorithm);
    let mut fields = outer.inner(tag::SEQUENCE)?;
    outer.finish()?;
    let oid = fields.content(tag::OID)?;
    let parameters = if fields.is_empty() { &[][..] } else { fields.any()?.whole };
    fields.finish()?;
    Ok((oid, parameters))
}

fn read_key(spki: &[u8]) -> Result<Key<'_>, Rejection> {
    let parts = || -> Result<_, NotDer> {
        let mut outer = Der::new(spki);
        let mut fields = outer.inner(tag::SEQUENCE)?;
        outer.finish()?;
        let algorithm = identifier(fields.element(tag::SEQUENCE)?.whole)?;
        let key = fields.octet_bits()?;
        fields.finish()?;
        Ok((algorithm, key))
    };
    let unsupported = || X509Reason::Key.because("an RSA, P-256, P-384, P-521 or Ed25519 key", hex_text(spki));
    let ((algorithm, parameters), key) = parts().map_err(|NotDer| unsupported())?;
    let curve = |oid: Oid| {
        parameters
            .strip_prefix(&[tag::OID][..])
            .and_then(<[u8]>::split_first)
            .is_some_and(|(length, octets)| usize::from(*length) == octets.len() && octets == oid.octets())
    };
    // RFC 5480, 2.2: the uncompressed form is the one that must be supported, and the only one our engine reads.
    let point = |size: usize| key.len() == size && key.first() == Some(&4);
    if algorithm == oid::RSA_ENCRYPTION.octets() && (parameters == [5, 0] || parameters.is_empty()) {
        Ok(Key::Rsa(key))
    } else if algorithm == oid::RSASSA_PSS.octets() {
        Ok(Key::RsaPss(key))
    } else if algorithm == oid::EC_PUBLIC_KEY.octets() && curve(oid::P256) && point(65) {
        Ok(Key::P256(key))
    } else if algorithm == oid::EC_PUBLIC_KEY.octets() && curve(oid::P384) && point(97) {
        Ok(Key::P384(key))
    } else if algorithm == oid::EC_PUBLIC_KEY.octets() && curve(oid::P521) && point(133) {
        Ok(Key::P521(key))
    } else if algorithm == oid::RSAES_OAEP.octets() {
        Ok(Key::RsaOaep(key))
    } else if algorithm == oid::ED25519.octets() && parameters.is_empty() && key.len() == 32 {
        Ok(Key::Ed25519(key))
    } else {
        Err(unsupported())
    }
}
