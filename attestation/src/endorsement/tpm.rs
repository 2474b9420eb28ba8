//! Endorsement key certificates: from the manufacturer's pinned root to one TPM (TCG EK Credential Profile 2.6).

use alloc::vec::Vec;

use crate::anchor::{Assurance, TpmAnchor};
use crate::digest::Sha256Digest;
use crate::evidence::tpm::TpmReason;
use crate::evidence::tpm::credential::EndorsementKey;
use crate::evidence::tpm::public::{Curve, Key};
use crate::rejection::Rejection;
use crate::signature::Scheme;
use crate::time::UnixMillis;
use crate::x509::oid::{self, Oid};
use crate::x509::{self, BasicConstraints, Certificate, VerifiedPath, X509Reason};

pub use self::identity::{TpmIdentity, TpmKind};
use self::name::TpmName;

mod identity;
mod name;

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
    let leaf = Certificate::parse(certificate)?;
    let scheme = match key.public().key() {
        // The scheme only selects the kind of key; an EK signs nothing.
        Key::Rsa { .. } => Scheme::RsaPkcs1Sha256,
        Key::Ecc { curve: Curve::P256, .. } => Scheme::EcdsaP256Sha256,
        Key::Ecc { curve: Curve::P384, .. } => Scheme::EcdsaP384Sha384,
    };
    let certified = leaf.public_key(scheme)?;
    if certified.key() != key.public().engine_key() {
        let found = Sha256Digest::of(&[&key.public().spki()]);
        return Err(TpmReason::EkKey.because(Sha256Digest::of(&[leaf.spki()]), found));
    }
    Ok(EndorsedTpm { key, certificate: verified })
}

/// An EK certificate that fits its profile and led to a pinned anchor. [`verify_certificate`] is the only constructor.
#[derive(Clone, Debug)]
pub struct VerifiedEkCertificate {
    assurance: Assurance,
    valid_until: UnixMillis,
    identity: TpmIdentity,
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
    let mut closest = X509Reason::NoPath.because("a pinned TPM manufacturer root", "no anchor leads here");
    for anchor in anchors {
        match path_to(&leaf, intermediates, anchor, now) {
            Ok(path) => {
                return Ok(VerifiedEkCertificate {
                    assurance: anchor.assurance,
                    valid_until: path.not_after(),
                    identity,
                });
            }
            // "No path" says least: another anchor's rejection explains more.
            Err(rejection) if rejection.reason() != X509Reason::NoPath.into() => closest = rejection,
            Err(_) => {}
        }
    }
    Err(closest)
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
    TpmName::of(leaf)?.identity()
}
