//! A wrapper under a signature: COSE_Sign1 over CBOR (RFC 9999, 5.1; RFC 9052, 4.2).

use alloc::format;
use alloc::vec::Vec;

use minicbor::data::Type;
use minicbor::decode::{Decoder, Error};

use super::{BYTES_MAX, Cmw, CmwReason, cbor};
use crate::rejection::Rejection;
use crate::signature::{PublicKey, Scheme};
use crate::verified::Verified;

/// COSE_Sign1 (RFC 9052, 2).
const COSE_SIGN1: u64 = 18;

/// The one content type of a signed CBOR wrapper.
const CONTENT_TYPE: &str = "application/cmw+cbor";

/// Longest protected header: two parameters, and a key id or a chain of certificates.
const PROTECTED_BYTES_MAX: usize = 16 * 1024;

/// Header parameters (RFC 9052, 3.1).
const ALG: i64 = 1;
const CRIT: i64 = 2;
const CONTENT: i64 = 3;

/// A COSE_Sign1 taken apart.
struct Sign1<'b> {
    protected: &'b [u8],
    payload: &'b [u8],
    signature: &'b [u8],
}

/// Checks a signed CBOR wrapper under `key` and reads it. The message names neither key nor algorithm: it is compared
/// with the key's.
///
/// # Errors
/// A [`CmwReason`].
pub fn verify_signed(bytes: &[u8], key: &PublicKey) -> Result<Verified<Cmw>, Rejection> {
    if BYTES_MAX < bytes.len() {
        return Err(CmwReason::TooLarge.because(format!("at most {BYTES_MAX} bytes"), bytes.len()));
    }
    let message = read(bytes).map_err(|error| refused(&error))?;
    check_protected(message.protected, key.scheme())?;
    let to_be_signed = structure(&message);
    let signed = key
        .verify(&to_be_signed, message.signature)
        .map_err(|_| CmwReason::SignedSignature.because("a signature of the given key", "one that does not verify"))?;
    // Read from what was signed, not from what came beside it.
    Verified::read(signed, |signed| cbor::decode(payload(signed).map_err(|error| refused(&error))?))
}

fn refused(found: &Error) -> Rejection {
    CmwReason::Signed.because("18([protected, {}, payload, signature])", found)
}

fn read(bytes: &[u8]) -> Result<Sign1<'_>, Error> {
    let mut decoder = Decoder::new(bytes);
    if decoder.tag()?.as_u64() != COSE_SIGN1 || decoder.array()? != Some(4) {
        return Err(Error::message("not a tagged COSE_Sign1"));
    }
    let protected = decoder.bytes()?;
    if decoder.datatype()? != Type::Map {
        return Err(Error::message("no unprotected header"));
    }
    // Not under the signature: skipped, never read.
    decoder.skip()?;
    let (payload, signature) = (decoder.bytes()?, decoder.bytes()?);
    if decoder.position() != bytes.len() {
        return Err(Error::message("bytes after the message"));
    }
    Ok(Sign1 { protected, payload, signature })
}

fn check_protected(protected: &[u8], scheme: Scheme) -> Result<(), Rejection> {
    let (mut algorithm, mut content, mut seen) = (None, None, Vec::new());
    let mut parse = || -> Result<(), Error> {
        let mut decoder = Decoder::new(protected);
        if PROTECTED_BYTES_MAX < protected.len() {
            return Err(Error::message("a longer protected header"));
        }
        let members = decoder.map()?.ok_or_else(|| Error::message("a map of indefinite length"))?;
        for _ in 0..members {
            // Parameters of our own making have texts for names; none is known here.
            let name = decoder.i64()?;
            if seen.contains(&name) {
                return Err(Error::message("a header parameter twice"));
            }
            seen.push(name);
            match name {
                ALG => algorithm = Some(decoder.i64()?),
                CONTENT => content = Some(decoder.str()?),
                // RFC 9052, 3.1: what must be understood and is not.
                CRIT => return Err(Error::message("critical header parameters")),
                _ => decoder.skip()?,
            }
        }
        if decoder.position() == protected.len() { Ok(()) } else { Err(Error::message("bytes after the header")) }
    };
    parse().map_err(|error| refused(&error))?;
    if content != Some(CONTENT_TYPE) {
        let found = content.unwrap_or("none");
        return Err(CmwReason::Signed.because(format!("content type {CONTENT_TYPE}"), found));
    }
    let expected = identifier(scheme);
    match (algorithm, expected) {
        (None, _) => Err(CmwReason::Signed.because("alg in the protected header", "none")),
        (Some(found), Some(expected)) if found == expected => Ok(()),
        (Some(found), Some(expected)) => Err(CmwReason::SignedAlgorithm.because(expected, found)),
        (Some(found), None) => Err(CmwReason::SignedAlgorithm.because("a key for ES256, ES384 or EdDSA", found)),
    }
}

/// The COSE algorithm of a key (RFC 9053, 2).
const fn identifier(scheme: Scheme) -> Option<i64> {
    match scheme {
        Scheme::EcdsaP256Sha256 => Some(-7),
        Scheme::EcdsaP384Sha384 => Some(-35),
        Scheme::Ed25519 => Some(-8),
        Scheme::RsaPkcs1Sha256
        | Scheme::RsaPkcs1Sha384
        | Scheme::RsaPkcs1Sha512
        | Scheme::RsaPssSha256
        | Scheme::RsaPssSha384
        | Scheme::RsaPssSha512
        | Scheme::EcdsaP384Sha256Der
        | Scheme::EcdsaP256Sha256Der
        | Scheme::EcdsaP256Sha384Der
        | Scheme::EcdsaP384Sha384Der
        | Scheme::EcdsaP521Sha384Der
        | Scheme::EcdsaP521Sha512Der => None,
    }
}

const CONTEXT: &str = "Signature1";

/// Sig_structure (RFC 9052, 4.4), without external data.
fn structure(message: &Sign1<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = minicbor::Encoder::new(&mut bytes);
    // Writing to memory cannot fail; if it did, the signature would not verify.
    let written = encoder
        .array(4)
        .and_then(|encoder| encoder.str(CONTEXT))
        .and_then(|encoder| encoder.bytes(message.protected))
        .and_then(|encoder| encoder.bytes(&[]))
        .and_then(|encoder| encoder.bytes(message.payload))
        .map(|_| ());
    if written.is_err() { Vec::new() } else { bytes }
}

/// The payload of a Sig_structure.
fn payload(structure: &[u8]) -> Result<&[u8], Error> {
    let mut decoder = Decoder::new(structure);
    decoder.array()?;
    decoder.str()?;
    decoder.bytes()?;
    decoder.bytes()?;
    decoder.bytes()
}
