//! A private key that signs, wherever it is.

use std::path::Path;

use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm};
use x509_parser::der_parser::ber::BerObjectContent;
use zeroize::Zeroizing;

use super::pkcs11::{self, SCHEME, TokenKey, Uri};
use super::{KeyError, read_key, unusable};
use crate::config::write_new;

/// An ECDSA P-256 key. Certificates are signed with it through [`rcgen::SigningKey`], tokens through
/// [`SigningKey::sign_fixed`].
pub struct SigningKey(Place);

enum Place {
    /// In a file, and so in this process.
    File(KeyPair),
    /// In a token.
    Token(TokenKey),
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = match &self.0 {
            Place::File(_) => "file",
            Place::Token(_) => "token",
        };
        f.debug_struct("SigningKey").field("place", &place).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Makes a key for a new file (0600), durable when this returns: in the file, or in the token that `uri` names, and
    /// then its URI is in the file. That is written first: what a crash leaves is known by its file.
    ///
    /// # Errors
    /// [`KeyError`] when the file exists or cannot be written, or the token does not make the key.
    pub fn create(path: &Path, uri: Option<&Uri>) -> Result<Self, KeyError> {
        if let Some(uri) = uri {
            // Not a file for each try while the token is away.
            pkcs11::check(uri)?;
            write_new(path, format!("{uri}\n").as_bytes())?;
            return Ok(Self(Place::Token(TokenKey::create(uri.clone())?)));
        }
        let key = KeyPair::generate().map_err(unusable("make a key"))?;
        write_new(path, Zeroizing::new(key.serialize_pem()).as_bytes())?;
        Ok(Self(Place::File(key)))
    }

    /// The key that a file holds or names.
    ///
    /// # Errors
    /// [`KeyError`] when there is none, or one of another kind.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let text = read_key(path)?;
        if text.starts_with(SCHEME) {
            return Ok(Self(Place::Token(TokenKey::load(Uri::parse(&text)?)?)));
        }
        let key = KeyPair::from_pem(&text).map_err(unusable("read a key"))?;
        if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(unusable("read a key")("it is not a P-256 key"));
        }
        Ok(Self(Place::File(key)))
    }

    /// Destroys the key that a file holds or names, and then the file. What is gone already is gone.
    ///
    /// # Errors
    /// [`KeyError`] when a token is not there to destroy it; the file stays.
    pub fn destroy(path: &Path) -> Result<(), KeyError> {
        if !path.exists() {
            return Ok(());
        }
        let text = read_key(path)?;
        // Without its end of line the URI was not durable yet, and so no key was made.
        if text.starts_with(SCHEME) && text.ends_with('\n') {
            pkcs11::destroy(&Uri::parse(&text)?)?;
        }
        Ok(std::fs::remove_file(path).map_err(crate::config::ConfigError::file(path))?)
    }

    /// The public key, an uncompressed SEC1 point.
    #[must_use]
    pub fn point(&self) -> &[u8] {
        self.der_bytes()
    }

    /// ECDSA over SHA-256 as r || s (RFC 7518, 3.4).
    ///
    /// # Errors
    /// [`KeyError`]; nothing was signed.
    pub fn sign_fixed(&self, message: &[u8]) -> Result<[u8; 64], KeyError> {
        match &self.0 {
            Place::File(key) => {
                let der = rcgen::SigningKey::sign(key, message).map_err(unusable("sign"))?;
                fixed(&der).ok_or_else(|| unusable("sign")("the engine made no ECDSA signature"))
            }
            Place::Token(key) => key.sign(message),
        }
    }
}

impl PublicKeyData for SigningKey {
    fn der_bytes(&self) -> &[u8] {
        match &self.0 {
            Place::File(key) => key.der_bytes(),
            Place::Token(key) => key.point(),
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for SigningKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match &self.0 {
            Place::File(key) => rcgen::SigningKey::sign(key, message),
            Place::Token(key) => match key.sign(message) {
                Ok(signature) => Ok(sequence(&signature)),
                Err(error) => {
                    tracing::error!(%error, "not signed");
                    Err(rcgen::Error::RemoteKeyError)
                }
            },
        }
    }
}

/// `SEQUENCE { r INTEGER, s INTEGER }` of r || s.
fn sequence(signature: &[u8; 64]) -> Vec<u8> {
    let mut content = Vec::with_capacity(72);
    for half in signature.as_chunks::<32>().0 {
        let zeros = half.iter().take(31).take_while(|byte| **byte == 0).count();
        let significant = half.get(zeros..).unwrap_or(half);
        // A set top bit would be a sign (X.690, 8.3).
        let sign: &[u8] = if significant.first().is_some_and(|byte| 0x80 <= *byte) { &[0] } else { &[] };
        let length = u8::try_from(sign.len().saturating_add(significant.len())).unwrap_or(u8::MAX);
        content.extend_from_slice(&[0x02, length]);
        content.extend_from_slice(sign);
        content.extend_from_slice(significant);
    }
    // At most 70 bytes: one octet of length.
    let length = u8::try_from(content.len()).unwrap_or(u8::MAX);
    [&[0x30, length], content.as_slice()].concat()
}

/// r || s of `SEQUENCE { r INTEGER, s INTEGER }` (RFC 3279, 2.2.3).
fn fixed(der: &[u8]) -> Option<[u8; 64]> {
    let (_, sequence) = x509_parser::der_parser::parse_der(der).ok()?;
    let [r, s] = sequence.as_sequence().ok()?.as_slice() else { return None };
    let mut signature = [0; 64];
    let (left, right) = signature.split_at_mut(32);
    for (number, half) in [(r, left), (s, right)] {
        let BerObjectContent::Integer(bytes) = number.content else { return None };
        let significant = bytes.strip_prefix(&[0]).unwrap_or(bytes);
        let padding = half.len().checked_sub(significant.len())?;
        half.get_mut(padding..)?.copy_from_slice(significant);
    }
    Some(signature)
}

#[cfg(test)]
mod tests {
    use super::{SigningKey, fixed, sequence};

    #[test]
    fn both_forms_of_a_signature_are_of_one_key() {
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let made = SigningKey::create(&path, None).unwrap();
        assert!(SigningKey::create(&path, None).is_err(), "keys are not replaced");
        let key = SigningKey::load(&path).unwrap();
        assert_eq!(made.point(), key.point());
        // Often enough for numbers with a leading zero, and for some shorter than 32 bytes.
        for message in 0..600_u16 {
            let message = message.to_be_bytes();
            let signature = key.sign_fixed(&message).unwrap();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.point()).verify(&message, &signature).unwrap();
            let der = sequence(&signature);
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.point()).verify(&message, &der).unwrap();
            assert_eq!(fixed(&der), Some(signature));
        }
        let der = rcgen::SigningKey::sign(&key, b"x").unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.point()).verify(b"x", &der).unwrap();
        assert_eq!(fixed(&der[1..]), None);
        assert_eq!(fixed(&[0x30, 3, 2, 1, 1]), None, "one number");
        assert_eq!(fixed(&[&[0x30, 38, 2, 33][..], &[1; 33], &[2, 1, 1]].concat()), None, "longer than the curve");
        assert_eq!(fixed(&[0x30, 6, 2, 1, 1, 2, 1, 2]).map(|made| (made[31], made[63])), Some((1, 2)));
        std::fs::write(&path, rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem())
            .unwrap();
        assert!(SigningKey::load(&path).is_err());
    }
}
