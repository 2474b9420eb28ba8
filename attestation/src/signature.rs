//! The only place that checks a signature. What passes becomes [`SignedBytes`], and those are the only way to a
//! [`Verified`](crate::Verified) value: bytes that were not checked cannot be read as if they had been.

use alloc::vec::Vec;

use aws_lc_rs::signature as engine;

pub mod prehashed;

/// Bytes under a signature that was checked. The field is private and [`PublicKey::verify`] is the only constructor.
#[derive(Clone, Copy, Debug)]
pub struct SignedBytes<'a> {
    bytes: &'a [u8],
}

impl<'a> SignedBytes<'a> {
    /// Exactly the bytes that the signature covers.
    #[must_use]
    pub const fn bytes(self) -> &'a [u8] {
        self.bytes
    }
}

/// The signature does not verify over the message with this key and scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSignature;

/// A signature scheme with its hash, named by the verifier and never by the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5 with SHA-256, keys of 2048 to 8192 bits.
    RsaPkcs1Sha256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RsaPkcs1Sha384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RsaPkcs1Sha512,
    /// RSASSA-PSS with SHA-256, MGF1 with the same hash, salt as long as the hash.
    RsaPssSha256,
    /// RSASSA-PSS with SHA-384, likewise.
    RsaPssSha384,
    /// RSASSA-PSS with SHA-512, likewise.
    RsaPssSha512,
    /// ECDSA on P-256 with SHA-256; the signature is r || s, 64 bytes.
    EcdsaP256Sha256,
    /// ECDSA on P-384 with SHA-384; the signature is r || s, 96 bytes.
    EcdsaP384Sha384,
    /// ECDSA on P-384 with SHA-256; the signature is a DER SEQUENCE of two INTEGERs.
    EcdsaP384Sha256Der,
    /// ECDSA on P-256 with SHA-256; the signature is a DER SEQUENCE of two INTEGERs, as X.509 writes it.
    EcdsaP256Sha256Der,
    /// ECDSA on P-256 with SHA-384, DER.
    EcdsaP256Sha384Der,
    /// ECDSA on P-384 with SHA-384, DER.
    EcdsaP384Sha384Der,
    /// ECDSA on P-521 with SHA-384, DER.
    EcdsaP521Sha384Der,
    /// ECDSA on P-521 with SHA-512, DER.
    EcdsaP521Sha512Der,
    /// Ed25519.
    Ed25519,
}

impl Scheme {
    fn algorithm(self) -> &'static dyn engine::VerificationAlgorithm {
        match self {
            Self::RsaPkcs1Sha256 => &engine::RSA_PKCS1_2048_8192_SHA256,
            Self::RsaPkcs1Sha384 => &engine::RSA_PKCS1_2048_8192_SHA384,
            Self::RsaPkcs1Sha512 => &engine::RSA_PKCS1_2048_8192_SHA512,
            Self::RsaPssSha256 => &engine::RSA_PSS_2048_8192_SHA256,
            Self::RsaPssSha384 => &engine::RSA_PSS_2048_8192_SHA384,
            Self::RsaPssSha512 => &engine::RSA_PSS_2048_8192_SHA512,
            Self::EcdsaP256Sha256 => &engine::ECDSA_P256_SHA256_FIXED,
            Self::EcdsaP384Sha384 => &engine::ECDSA_P384_SHA384_FIXED,
            Self::EcdsaP384Sha256Der => &engine::ECDSA_P384_SHA256_ASN1,
            Self::EcdsaP256Sha256Der => &engine::ECDSA_P256_SHA256_ASN1,
            Self::EcdsaP256Sha384Der => &engine::ECDSA_P256_SHA384_ASN1,
            Self::EcdsaP384Sha384Der => &engine::ECDSA_P384_SHA384_ASN1,
            Self::EcdsaP521Sha384Der => &engine::ECDSA_P521_SHA384_ASN1,
            Self::EcdsaP521Sha512Der => &engine::ECDSA_P521_SHA512_ASN1,
            Self::Ed25519 => &engine::ED25519,
        }
    }
}

/// A public key as its scheme's engine takes it, with the scheme it is used with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    scheme: Scheme,
    /// RSA: DER `RSAPublicKey` (RFC 8017, A.1.1). ECDSA: uncompressed SEC1 point. Ed25519: 32 bytes.
    key: Vec<u8>,
}

impl PublicKey {
    /// A key in its engine's form: RSA as DER `RSAPublicKey`, ECDSA as an uncompressed point, Ed25519 as 32 bytes.
    /// A malformed key verifies nothing.
    #[must_use]
    pub const fn new(scheme: Scheme, key: Vec<u8>) -> Self {
        Self { scheme, key }
    }

    /// The scheme this key verifies.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The key's bytes, in its engine's form.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The key, read by its engine once and for all.
    ///
    /// # Errors
    /// [`BadKey`] when the engine does not take it.
    pub fn prepare(&self) -> Result<PreparedKey, BadKey> {
        let key = engine::ParsedPublicKey::new(self.scheme.algorithm(), &self.key).map_err(|_| BadKey)?;
        Ok(PreparedKey { scheme: self.scheme, key })
    }

    /// Checks `signature` over `message`.
    ///
    /// # Errors
    /// [`BadSignature`] when it does not verify, or when key or signature are malformed.
    pub fn verify<'a>(&self, message: &'a [u8], signature: &[u8]) -> Result<SignedBytes<'a>, BadSignature> {
        verify_once(self.scheme, &self.key, message, signature)
    }
}

/// Checks `signature` over `message` with a key that is used this once: [`PublicKey::verify`] without keeping the key.
///
/// # Errors
/// [`BadSignature`] when it does not verify, or when key or signature are malformed.
pub fn verify_once<'a>(
    scheme: Scheme,
    key: &[u8],
    message: &'a [u8],
    signature: &[u8],
) -> Result<SignedBytes<'a>, BadSignature> {
    #[cfg(test)]
    count::note(scheme);
    engine::UnparsedPublicKey::new(scheme.algorithm(), key)
        .verify(message, signature)
        .map(|()| SignedBytes { bytes: message })
        .map_err(|_| BadSignature)
}

/// A public key that its engine has read and checked once, for keys that verify many messages.
#[derive(Clone, Debug)]
pub struct PreparedKey {
    scheme: Scheme,
    key: engine::ParsedPublicKey,
}

/// Equal when scheme and key bytes are.
impl PartialEq for PreparedKey {
    fn eq(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.key.as_ref() == other.key.as_ref()
    }
}

impl Eq for PreparedKey {}

impl PreparedKey {
    /// The scheme this key verifies.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Checks `signature` over `message`.
    ///
    /// # Errors
    /// [`BadSignature`] when it does not verify or is malformed.
    pub fn verify<'a>(&self, message: &'a [u8], signature: &[u8]) -> Result<SignedBytes<'a>, BadSignature> {
        #[cfg(test)]
        count::note(self.scheme);
        self.key.verify_sig(message, signature).map(|()| SignedBytes { bytes: message }).map_err(|_| BadSignature)
    }
}

/// The key is not one of its scheme: wrong encoding, size, or not on the curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadKey;

/// Which signatures a verification checks: what tests count instead of time.
#[cfg(test)]
pub(crate) mod count {
    extern crate std;

    use alloc::vec::Vec;
    use core::cell::RefCell;

    use super::Scheme;

    std::thread_local! {
        static CHECKED: RefCell<Vec<Scheme>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note(scheme: Scheme) {
        CHECKED.with_borrow_mut(|checked| checked.push(scheme));
    }

    /// What `work` makes, and the scheme of each signature that this thread checked for it, in order.
    pub(crate) fn during<T>(work: impl FnOnce() -> T) -> (T, Vec<Scheme>) {
        CHECKED.with_borrow_mut(Vec::clear);
        let made = work();
        (made, CHECKED.take())
    }

    #[test]
    fn every_check_is_counted_whether_it_passes_or_not() {
        let key = super::PublicKey::new(Scheme::Ed25519, alloc::vec![1; 32]);
        let ((), checked) = during(|| {
            assert!(key.verify(b"message", &[0; 64]).is_err());
            assert!(key.prepare().unwrap().verify(b"message", &[0; 64]).is_err());
        });
        assert_eq!(checked, [Scheme::Ed25519, Scheme::Ed25519]);
    }
}
