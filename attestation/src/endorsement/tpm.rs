//! Endorsement key certificates: from the manufacturer's pinned root to one TPM (TCG EK Credential Profile 2.6).

use alloc::vec::Vec;

use crate::anchor::{Assurance, TpmAnchor};
use crate::digest::Sha256Digest;
use crate::evidence::tpm::TpmReason;
use crate::evidence::tpm::credential::EndorsementKey;
use crate::evidence::tpm::public::{Curve, Key, Public};
use crate::rejection::Rejection;
use crate::time::UnixMillis;
use crate::x509::der::{Der, NotDer, tag};
use crate::x509::oid::{self, Oid};
use crate::x509::{self, BasicConstraints, Certificate, SubjectKey, VerifiedPath, X509Reason};

pub use self::attestation_key::{
    CertifiedAk, VerifiedAkCertificate, verify_ak_certificate, verify_ak_certificate_alone,
};
pub use self::denials::{FirmwareVersion, MinimumFirmware, TpmDenials};
pub use self::identity::{TpmIdentity, TpmKind};
pub use self::name::TpmAttributes;
pub use self::path::EndorsementPath;

mod attestation_key;
mod denials;
mod identity;
mod name;
mod path;

/// tcg-kp-EKCertificate, 2.23.133.8.1.
const EK_CERTIFICATE: Oid = Oid::new(&[0x67, 0x81, 0x05, 8, 1], "tcg-kp-EKCertificate");
/// Critical extensions that are processed here. Policies are the manufacturer's statement about itself; none narrows
/// what a certificate is used for.
const UNDERSTOOD: [Oid; 3] = [oid::SUBJECT_ALT_NAME, oid::EXTENDED_KEY_USAGE, oid::CERTIFICATE_POLICIES];

/// A TPM whose EK certificate led to a pinned anchor. [`verify_ek`] is the only constructor.
#[derive(Clone, Debug)]
pub struct EndorsedTpm<'a> {
    key: EndorsementKey<'a>,
    certificate: VerifiedEkCertificate,
}

impl<'a> EndorsedTpm<'a> {
    /// The endorsement key, for [`make_credential`](crate::evidence::tpm::credential::make_credential).
    #[must_use]
    pub const fn key(&self) -> &EndorsementKey<'a> {
        &self.key
    }

    /// SHA-256 of the EK's SubjectPublicKeyInfo: the identity of the TPM.
    #[must_use]
    pub fn ek(&self) -> Sha256Digest {
        self.key.id()
    }

    /// What the anchor is worth.
    #[must_use]
    pub const fn assurance(&self) -> Assurance {
        self.certificate.assurance
    }

    /// The earliest notAfter of the chain.
    #[must_use]
    pub const fn valid_until(&self) -> UnixMillis {
        self.certificate.valid_until
    }

    /// What the certificate says the TPM is.
    #[must_use]
    pub const fn identity(&self) -> &TpmIdentity {
        &self.certificate.identity
    }

    /// The certificates that led to the anchor.
    #[must_use]
    pub const fn path(&self) -> &EndorsementPath {
        &self.certificate.path
    }
}

/// Checks an EK certificate (DER) to one of `anchors`, over their own and the presented `intermediates`, and that
/// `ek_public` (TPMT_PUBLIC) is the key it speaks for.
///
/// # Errors
/// A [`TpmReason`] or [`X509Reason`].
pub fn verify_ek<'a>(
    certificate: &[u8],
    ek_public: &'a [u8],
    intermediates: &[&[u8]],
    anchors: &[TpmAnchor],
    now: UnixMillis,
) -> Result<EndorsedTpm<'a>, Rejection> {
    let key = EndorsementKey::from_public(ek_public)?;
    let verified = verify_certificate(certificate, intermediates, anchors, now)?;
    check_key(&Certificate::parse(certificate)?, key.public(), TpmReason::EkKey)?;
    Ok(EndorsedTpm { key, certificate: verified })
}

/// An EK certificate that fits its profile and led to a pinned anchor. [`verify_certificate`] is the only constructor.
#[derive(Clone, Debug)]
pub struct VerifiedEkCertificate {
    assurance: Assurance,
    valid_until: UnixMillis,
    identity: TpmIdentity,
    path: EndorsementPath,
}

impl VerifiedEkCertificate {
    /// What the anchor is worth.
    #[must_use]
    pub const fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// The earliest notAfter of the chain.
    #[must_use]
    pub const fn valid_until(&self) -> UnixMillis {
        self.valid_until
    }

    /// What the certificate says the TPM is.
    #[must_use]
    pub const fn identity(&self) -> &TpmIdentity {
        &self.identity
    }
}

/// Checks an EK certificate alone: its profile, and its chain over the anchors' own and the presented `intermediates`
/// (never fetched).
///
/// # Errors
/// [`TpmReason::EkCertificate`], or the [`X509Reason`] of the anchor that came closest.
pub fn verify_certificate(
    certificate: &[u8],
    intermediates: &[&[u8]],
    anchors: &[TpmAnchor],
    now: UnixMillis,
) -> Result<VerifiedEkCertificate, Rejection> {
    let leaf = Certificate::parse(certificate)?;
    let identity = check_profile(&leaf)?;
    let (assurance, valid_until, path) = closest_path(&leaf, intermediates, anchors, now)?;
    Ok(VerifiedEkCertificate { assurance, valid_until, identity, path })
}

/// A path from `leaf` to the first of `anchors` that one leads to: the anchor's class, the path's earliest notAfter,
/// and the path.
fn closest_path(
    leaf: &Certificate<'_>,
    intermediates: &[&[u8]],
    anchors: &[TpmAnchor],
    now: UnixMillis,
) -> Result<(Assurance, UnixMillis, EndorsementPath), Rejection> {
    let mut closest = X509Reason::NoPath.because("a pinned TPM manufacturer root", "no anchor leads here");
    for anchor in anchors {
        match path_to(leaf, intermediates, anchor, now) {
            Ok(path) => return Ok((anchor.assurance, path.not_after(), (&path).into())),
            // "No path" says least: another anchor's rejection explains more.
            Err(rejection) if rejection.reason() != X509Reason::NoPath.into() => closest = rejection,
            Err(_) => {}
        }
    }
    Err(closest)
}

/// The certificate at the start of an NV index, whose rest is padding: one octet repeated (TCG EK Credential Profile
/// 2.6,
/// 2.2.1.4 lets an index be larger than its certificate).
///
/// # Errors
/// [`TpmReason::EkCertificate`] when no certificate starts there, or something else than padding follows it.
pub fn certificate_of_nv(index: &[u8]) -> Result<&[u8], Rejection> {
    let reason = TpmReason::EkCertificate;
    let certificate = Der::new(index).element(tag::SEQUENCE);
    let certificate = certificate.map_err(|NotDer| reason.because("a DER certificate", "something else"))?.whole;
    let rest = index.get(certificate.len()..).unwrap_or_default();
    let padding = rest.first().is_none_or(|first| rest.iter().all(|octet| octet == first));
    if padding { Ok(certificate) } else { Err(reason.because("padding behind the certificate", "other bytes")) }
}

fn path_to<'a>(
    leaf: &Certificate<'a>,
    intermediates: &[&'a [u8]],
    anchor: &'a TpmAnchor,
    now: UnixMillis,
) -> Result<VerifiedPath<'a>, Rejection> {
    let root = Certificate::parse(&anchor.root)?;
    let own = anchor.intermediates.iter().map(Vec::as_slice);
    let candidates: Result<Vec<_>, _> = own.chain(intermediates.iter().copied()).map(Certificate::parse).collect();
    x509::verify_path(leaf, &candidates?, &root, now, &UNDERSTOOD)
}

/// TCG EK Credential Profile 2.6, 3.2: what makes a certificate one of an endorsement key.
fn check_profile(leaf: &Certificate<'_>) -> Result<TpmIdentity, Rejection> {
    let reason = TpmReason::EkCertificate;
    if leaf.basic_constraints() != BasicConstraints::EndEntity {
        return Err(reason.because("an end entity", "a certification authority"));
    }
    // An AK certificate has tcg-kp-AIKCertificate in its place.
    if !leaf.has_extended_key_usage(EK_CERTIFICATE)? {
        return Err(reason.because(EK_CERTIFICATE, "another extKeyUsage or none"));
    }
    // RSA EKs encipher the seed, ECC EKs agree on it; neither ever signs.
    let usage = leaf.key_usage().is_some_and(|usage| {
        (usage.key_encipherment() || usage.key_agreement()) && !usage.key_cert_sign() && !usage.digital_signature()
    });
    if !usage {
        return Err(reason.because("keyUsage of keyEncipherment or keyAgreement", "another or none"));
    }
    check_ek_key(leaf)?;
    TpmAttributes::of(leaf)?.identity()
}

/// TCG EK Credential Profile 2.6, 3.2.7: RSA of 2048 bits or more, or a curve of the templates. A certificate may say
/// that its RSA key is for OAEP only, as it was the rule for TPM 1.2; an EK does nothing else.
fn check_ek_key(leaf: &Certificate<'_>) -> Result<(), Rejection> {
    let expected = "an RSA key of 2048 bits or more, or one on P-256, P-384 or P-521";
    let reason = TpmReason::EkCertificate;
    match leaf.subject_key()? {
        SubjectKey::Rsa(key) | SubjectKey::RsaOaep(key) if 256 <= key.modulus.len() => Ok(()),
        SubjectKey::Rsa(key) | SubjectKey::RsaOaep(key) => {
            Err(reason.because(expected, format_args!("RSA of {} bytes", key.modulus.len())))
        }
        SubjectKey::P256(_) | SubjectKey::P384(_) | SubjectKey::P521(_) => Ok(()),
        SubjectKey::RsaPss(_) | SubjectKey::Ed25519(_) => Err(reason.because(expected, "a key that only signs")),
    }
}

/// Whether the certificate is about the key of this public area.
fn check_key(leaf: &Certificate<'_>, public: &Public<'_>, reason: TpmReason) -> Result<(), Rejection> {
    let ours = public.engine_key();
    let same = match (leaf.subject_key()?, public.key()) {
        (SubjectKey::Rsa(key) | SubjectKey::RsaOaep(key) | SubjectKey::RsaPss(key), Key::Rsa { .. }) => key.der == ours,
        (SubjectKey::P256(point), Key::Ecc { curve: Curve::P256, .. })
        | (SubjectKey::P384(point), Key::Ecc { curve: Curve::P384, .. })
        | (SubjectKey::P521(point), Key::Ecc { curve: Curve::P521, .. }) => point == ours,
        (
            SubjectKey::Rsa(_)
            | SubjectKey::RsaPss(_)
            | SubjectKey::RsaOaep(_)
            | SubjectKey::P256(_)
            | SubjectKey::P384(_)
            | SubjectKey::P521(_)
            | SubjectKey::Ed25519(_),
            Key::Rsa { .. } | Key::Ecc { .. },
        ) => false,
    };
    if same {
        return Ok(());
    }
    Err(reason.because(Sha256Digest::of(&[leaf.spki()]), Sha256Digest::of(&[&public.spki()])))
}
