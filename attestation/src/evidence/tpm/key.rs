//! Which keys may attest. The scheme comes from the enrolled public area, never from a signature.

use alloc::vec::Vec;

use super::TpmReason;
use super::algorithm::TpmHash;
use super::attest::TpmSignature;
use super::public::{Curve, Key, KeyScheme, Public, Symmetric};
use crate::rejection::Rejection;
use crate::signature::{PreparedKey, PublicKey, Scheme, SignedBytes};
use crate::x509;

/// Longest r || s in DER: two INTEGERs of P-521, whose top octet is a single bit.
const ECDSA_DER_BYTES_MAX: usize = 139;

/// An attestation key whose public area was checked: it signs only what its TPM made, and never leaves that TPM.
/// [`AttestationKey::from_public`] is the only constructor.
#[derive(Clone, Debug)]
pub struct AttestationKey {
    public: Vec<u8>,
    name: Vec<u8>,
    verifier: Verifier,
}

impl AttestationKey {
    /// The attestation key with this TPMT_PUBLIC, if it can be one.
    ///
    /// # Errors
    /// [`TpmReason::AkAttributes`], [`TpmReason::Scheme`], [`TpmReason::Sha1`], [`TpmReason::Algorithm`] or
    /// [`TpmReason::Malformed`].
    pub fn from_public(tpmt_public: &[u8]) -> Result<Self, Rejection> {
        let public = Public::read(tpmt_public)?;
        let attributes = public.attributes();
        // Part 1, 25.1: only a restricted key refuses to sign a structure that starts with TPM_GENERATED_VALUE and
        // comes from outside; fixedTPM, fixedParent and sensitiveDataOrigin keep it in the TPM that was enrolled.
        let sound = attributes.restricted()
            && attributes.fixed_tpm()
            && attributes.fixed_parent()
            && attributes.sensitive_data_origin()
            && attributes.sign()
            && !attributes.decrypt();
        if !sound {
            let expected = "restricted, fixedTPM, fixedParent, sensitiveDataOrigin, sign, not decrypt";
            return Err(TpmReason::AkAttributes.because(expected, format_args!("{:#010x}", attributes.bits())));
        }
        // Part 2, 12.2.3.5: only a storage key has a symmetric algorithm.
        if public.symmetric() != Symmetric::Null {
            return Err(TpmReason::AkAttributes.because("no symmetric algorithm", "AES"));
        }
        if public.name_alg() == TpmHash::Sha1 {
            return Err(TpmReason::Sha1.because("a Name of SHA-256 or stronger", "sha1"));
        }
        let scheme = engine_scheme(public.key(), public.scheme())?;
        let verifier = Verifier::new(public.scheme(), &PublicKey::new(scheme, public.engine_key()))?;
        Ok(Self { public: tpmt_public.to_vec(), name: public.name(), verifier })
    }

    /// The TPMT_PUBLIC.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The Name: nameAlg || H(TPMT_PUBLIC).
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    pub(super) const fn verifier(&self) -> &Verifier {
        &self.verifier
    }
}

/// A key and the one scheme it verifies.
#[derive(Clone, Debug)]
pub(super) struct Verifier {
    scheme: KeyScheme,
    key: PreparedKey,
}

impl Verifier {
    fn new(scheme: KeyScheme, key: &PublicKey) -> Result<Self, Rejection> {
        let key = key.prepare().map_err(|_| TpmReason::Malformed.because("a public key on its curve", "none"))?;
        Ok(Self { scheme, key })
    }

    /// For recorded evidence alone: a bare `SubjectPublicKeyInfo` fixes no scheme, so the signature's is taken, from
    /// the allowed ones, and nothing is known about where the key lives.
    pub(super) fn recorded(spki: &[u8], signature: &TpmSignature<'_>) -> Result<Self, Rejection> {
        let scheme = match signature {
            TpmSignature::RsaSsa { hash, .. } => KeyScheme::RsaSsa(*hash),
            TpmSignature::RsaPss { hash, .. } => KeyScheme::RsaPss(*hash),
            TpmSignature::Ecdsa { hash, .. } => KeyScheme::Ecdsa(*hash),
        };
        let kinds = [
            Key::Ecc { curve: Curve::P521, x: &[], y: &[] },
            Key::Rsa { modulus: &[] },
            Key::Ecc { curve: Curve::P256, x: &[], y: &[] },
            Key::Ecc { curve: Curve::P384, x: &[], y: &[] },
        ];
        let mut refused = TpmReason::Scheme.because("a scheme of this key", "none");
        for kind in kinds {
            match engine_scheme(kind, scheme).and_then(|scheme| x509::public_key(scheme, spki)) {
                Ok(key) => return Self::new(scheme, &key),
                Err(rejection) => refused = rejection,
            }
        }
        Err(refused)
    }

    /// A bare signature under a bare key: of the key's kind, with SHA-256.
    pub(super) fn recorded_raw<'s>(spki: &[u8], signature: &'s [u8]) -> Result<TpmSignature<'s>, Rejection> {
        let scheme = match x509::public_key(Scheme::RsaPkcs1Sha256, spki) {
            Ok(_) => KeyScheme::RsaSsa(TpmHash::Sha256),
            Err(_) => KeyScheme::Ecdsa(TpmHash::Sha256),
        };
        raw(scheme, signature)
    }

    /// A bare signature of this key's scheme.
    pub(super) fn raw<'s>(&self, signature: &'s [u8]) -> Result<TpmSignature<'s>, Rejection> {
        raw(self.scheme, signature)
    }

    pub(super) const fn hash(&self) -> TpmHash {
        match self.scheme {
            KeyScheme::RsaSsa(hash) | KeyScheme::RsaPss(hash) | KeyScheme::Ecdsa(hash) => hash,
            // engine_scheme admits none of these.
            KeyScheme::Null | KeyScheme::RsaEs | KeyScheme::Oaep(_) | KeyScheme::Ecdh(_) | KeyScheme::EcMqv(_) => {
                TpmHash::Sha256
            }
        }
    }

    /// Checks `signature` over `message`: of this key, in its scheme.
    pub(super) fn verify<'m>(
        &self,
        message: &'m [u8],
        signature: &TpmSignature<'_>,
    ) -> Result<SignedBytes<'m>, Rejection> {
        let verified = match (self.scheme, *signature) {
            (KeyScheme::RsaSsa(ours), TpmSignature::RsaSsa { hash, signature })
            | (KeyScheme::RsaPss(ours), TpmSignature::RsaPss { hash, signature })
                if ours == hash =>
            {
                self.key.verify(message, signature)
            }
            (KeyScheme::Ecdsa(ours), TpmSignature::Ecdsa { hash, r, s }) if ours == hash => {
                let mut buffer = [0; ECDSA_DER_BYTES_MAX];
                let encoded = encode_ecdsa(self.key.scheme(), r, s, &mut buffer).ok_or_else(|| {
                    TpmReason::Signature.because("r and s within the field", format_args!("{}, {}", r.len(), s.len()))
                })?;
                self.key.verify(message, encoded)
            }
            (scheme, found) => {
                return Err(TpmReason::Scheme.because(format_args!("{scheme:?}"), Named(found)));
            }
        };
        verified.map_err(|_| TpmReason::Signature.because("a signature of the attestation key", "one that is not"))
    }
}

fn raw(scheme: KeyScheme, signature: &[u8]) -> Result<TpmSignature<'_>, Rejection> {
    match scheme {
        KeyScheme::RsaSsa(hash) => Ok(TpmSignature::RsaSsa { hash, signature }),
        KeyScheme::RsaPss(hash) => Ok(TpmSignature::RsaPss { hash, signature }),
        KeyScheme::Ecdsa(hash) if signature.len().is_multiple_of(2) => {
            let (r, s) = signature.split_at(signature.len() / 2);
            Ok(TpmSignature::Ecdsa { hash, r, s })
        }
        KeyScheme::Ecdsa(_)
        | KeyScheme::Null
        | KeyScheme::RsaEs
        | KeyScheme::Oaep(_)
        | KeyScheme::Ecdh(_)
        | KeyScheme::EcMqv(_) => Err(TpmReason::Signature.because("r and s of one length", signature.len())),
    }
}

/// The scheme's name without the signature's bytes.
struct Named<'a>(TpmSignature<'a>);

impl core::fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (scheme, hash) = match self.0 {
            TpmSignature::RsaSsa { hash, .. } => ("RsaSsa", hash),
            TpmSignature::RsaPss { hash, .. } => ("RsaPss", hash),
            TpmSignature::Ecdsa { hash, .. } => ("Ecdsa", hash),
        };
        write!(f, "{scheme}({hash:?})")
    }
}

/// The one engine scheme of a key and the scheme its public area names.
fn engine_scheme(key: Key<'_>, scheme: KeyScheme) -> Result<Scheme, Rejection> {
    use TpmHash::{Sha1, Sha256, Sha384, Sha512};
    match (key, scheme) {
        (Key::Rsa { .. }, KeyScheme::RsaSsa(Sha256)) => Ok(Scheme::RsaPkcs1Sha256),
        (Key::Rsa { .. }, KeyScheme::RsaSsa(Sha384)) => Ok(Scheme::RsaPkcs1Sha384),
        (Key::Rsa { .. }, KeyScheme::RsaSsa(Sha512)) => Ok(Scheme::RsaPkcs1Sha512),
        (Key::Rsa { .. }, KeyScheme::RsaPss(Sha256)) => Ok(Scheme::RsaPssSha256),
        (Key::Rsa { .. }, KeyScheme::RsaPss(Sha384)) => Ok(Scheme::RsaPssSha384),
        (Key::Rsa { .. }, KeyScheme::RsaPss(Sha512)) => Ok(Scheme::RsaPssSha512),
        (Key::Ecc { curve: Curve::P256, .. }, KeyScheme::Ecdsa(Sha256)) => Ok(Scheme::EcdsaP256Sha256),
        (Key::Ecc { curve: Curve::P256, .. }, KeyScheme::Ecdsa(Sha384)) => Ok(Scheme::EcdsaP256Sha384Der),
        (Key::Ecc { curve: Curve::P384, .. }, KeyScheme::Ecdsa(Sha256)) => Ok(Scheme::EcdsaP384Sha256Der),
        (Key::Ecc { curve: Curve::P384, .. }, KeyScheme::Ecdsa(Sha384)) => Ok(Scheme::EcdsaP384Sha384),
        (Key::Ecc { curve: Curve::P521, .. }, KeyScheme::Ecdsa(Sha384)) => Ok(Scheme::EcdsaP521Sha384Der),
        (Key::Ecc { curve: Curve::P521, .. }, KeyScheme::Ecdsa(Sha512)) => Ok(Scheme::EcdsaP521Sha512Der),
        (_, KeyScheme::RsaSsa(Sha1) | KeyScheme::RsaPss(Sha1) | KeyScheme::Ecdsa(Sha1)) => {
            Err(TpmReason::Sha1.because("SHA-256 or stronger", "sha1"))
        }
        (Key::Rsa { .. } | Key::Ecc { .. }, found) => {
            Err(TpmReason::Scheme.because("RSASSA, RSAPSS or ECDSA of this key", format_args!("{found:?}")))
        }
    }
}

/// r and s as the engine takes them: fixed width, or DER. Leading zeros say nothing; a value wider than the field is no
/// signature (A23).
fn encode_ecdsa<'b>(scheme: Scheme, r: &[u8], s: &[u8], buffer: &'b mut [u8; ECDSA_DER_BYTES_MAX]) -> Option<&'b [u8]> {
    let (size, fixed) = match scheme {
        Scheme::EcdsaP256Sha256 => (32, true),
        Scheme::EcdsaP384Sha384 => (48, true),
        Scheme::EcdsaP256Sha256Der | Scheme::EcdsaP256Sha384Der => (32, false),
        Scheme::EcdsaP384Sha256Der | Scheme::EcdsaP384Sha384Der => (48, false),
        Scheme::EcdsaP521Sha384Der | Scheme::EcdsaP521Sha512Der => (66, false),
        Scheme::RsaPkcs1Sha256
        | Scheme::RsaPkcs1Sha384
        | Scheme::RsaPkcs1Sha512
        | Scheme::RsaPssSha256
        | Scheme::RsaPssSha384
        | Scheme::RsaPssSha512
        | Scheme::Ed25519 => return None,
    };
    let trim = |number: &'_ [u8]| number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    let (r, s) = (r.get(trim(r)..)?, s.get(trim(s)..)?);
    if size < r.len() || size < s.len() {
        return None;
    }
    if fixed {
        let (first, rest) = buffer.split_at_mut_checked(size)?;
        let second = rest.get_mut(..size)?;
        first.get_mut(size.checked_sub(r.len())?..)?.copy_from_slice(r);
        second.get_mut(size.checked_sub(s.len())?..)?.copy_from_slice(s);
        return buffer.get(..size.checked_mul(2)?);
    }
    // INTEGERs are signed: a zero before a set top bit.
    let integer_size = |number: &[u8]| {
        let sign = usize::from(number.first().is_none_or(|first| 0x80 <= *first));
        number.len().saturating_add(sign)
    };
    let content = integer_size(r).checked_add(integer_size(s))?.checked_add(4)?;
    let mut at = 0;
    let mut push = |bytes: &[u8]| -> Option<()> {
        let end = usize::checked_add(at, bytes.len())?;
        buffer.get_mut(at..end)?.copy_from_slice(bytes);
        at = end;
        Some(())
    };
    push(&[0x30])?;
    // Two of P-521 may need the long form of a length.
    if 0x80 <= content {
        push(&[0x81])?;
    }
    push(&[u8::try_from(content).ok()?])?;
    for number in [r, s] {
        push(&[0x02, u8::try_from(integer_size(number)).ok()?])?;
        if number.len() < integer_size(number) {
            push(&[0])?;
        }
        push(number)?;
    }
    let header = if 0x80 <= content { 3 } else { 2 };
    buffer.get(..content.checked_add(header)?)
}
