//! Certificates of attestation keys: a manufacturer's for an initial attestation key (TCG TPM 2.0 Keys for Device
//! Identity and Attestation 1.0) and a cloud's for the AK of a virtual TPM.

use crate::anchor::{Assurance, TpmAnchor};
use crate::digest::Sha256Digest;
use crate::evidence::tpm::public::Public;
use crate::evidence::tpm::{AttestationKey, TpmReason};
use crate::rejection::Rejection;
use crate::time::UnixMillis;
use crate::x509::der::{Der, NotDer, tag};
use crate::x509::oid::{self, Oid};
use crate::x509::{BasicConstraints, Certificate};

use super::identity::{TpmIdentity, TpmKind};
use super::name::TpmAttributes;
use super::{EndorsementPath, check_key, closest_path};

/// tcg-kp-AIKCertificate, 2.23.133.8.3.
const AIK_CERTIFICATE: Oid = Oid::new(&[0x67, 0x81, 0x05, 8, 3], "tcg-kp-AIKCertificate");
/// tcg-cap-verifiedTPMRestricted, 2.23.133.11.1.3: the issuer saw that the key is a restricted one of the TPM.
const VERIFIED_RESTRICTED: Oid = Oid::new(&[0x67, 0x81, 0x05, 11, 1, 3], "tcg-cap-verifiedTPMRestricted");
/// 1.3.6.1.4.1.11129.2.1.21: the instance of Compute Engine. Google's AK certificates carry it and no extKeyUsage.
const GOOGLE_INSTANCE: Oid =
    Oid::new(&[0x2b, 0x06, 0x01, 0x04, 0x01, 0xd6, 0x79, 0x02, 0x01, 0x15], "Google Compute Engine instance");
/// 1.3.6.1.4.1.311.108.200.1: the policy of Azure's virtual TPMs.
const AZURE_VIRTUAL_TPM: Oid =
    Oid::new(&[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x6c, 0x81, 0x48, 0x01], "Azure virtual TPM");

/// An attestation key whose certificate led to a pinned anchor. [`verify_ak_certificate`] is the only constructor.
#[derive(Clone, Debug)]
pub struct CertifiedAk {
    ak: AttestationKey,
    id: Sha256Digest,
    assurance: Assurance,
    valid_until: UnixMillis,
    identity: TpmIdentity,
    path: EndorsementPath,
}

impl CertifiedAk {
    /// The certificates that led to the anchor.
    #[must_use]
    pub const fn path(&self) -> &EndorsementPath {
        &self.path
    }

    /// The attestation key. The certificate does not show that the sender has it: a signature over a nonce does.
    #[must_use]
    pub const fn ak(&self) -> &AttestationKey {
        &self.ak
    }

    /// SHA-256 of the key's SubjectPublicKeyInfo: the identity of the TPM, since nothing names its EK.
    #[must_use]
    pub const fn id(&self) -> Sha256Digest {
        self.id
    }

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

/// Checks an AK certificate (DER): its profile, its chain over the anchors' own and the presented `intermediates` to
/// one of `anchors`, which are those pinned for AKs, and that `ak_public` (TPMT_PUBLIC) is the key it speaks for.
///
/// # Errors
/// A [`TpmReason`] or [`X509Reason`](crate::x509::X509Reason).
pub fn verify_ak_certificate(
    certificate: &[u8],
    ak_public: &[u8],
    intermediates: &[&[u8]],
    anchors: &[TpmAnchor],
    now: UnixMillis,
) -> Result<CertifiedAk, Rejection> {
    // The public area says what the certificate cannot: restricted, fixedTPM, fixedParent, and the scheme.
    let ak = AttestationKey::from_public(ak_public)?;
    let verified = verify_ak_certificate_alone(certificate, intermediates, anchors, now)?;
    let public = Public::read(ak_public)?;
    check_key(&Certificate::parse(certificate)?, &public, TpmReason::AkKey)?;
    let VerifiedAkCertificate { assurance, valid_until, identity, path } = verified;
    Ok(CertifiedAk { ak, id: Sha256Digest::of(&[&public.spki()]), assurance, valid_until, identity, path })
}

/// An AK certificate that fits its profile and led to a pinned anchor; nothing is known of the key's public area.
#[derive(Clone, Debug)]
pub struct VerifiedAkCertificate {
    assurance: Assurance,
    valid_until: UnixMillis,
    identity: TpmIdentity,
    path: EndorsementPath,
}

impl VerifiedAkCertificate {
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

/// Checks an AK certificate without its key's public area, as recorded evidence has it. It enrols nothing.
///
/// # Errors
/// A [`TpmReason`] or [`X509Reason`](crate::x509::X509Reason).
pub fn verify_ak_certificate_alone(
    certificate: &[u8],
    intermediates: &[&[u8]],
    anchors: &[TpmAnchor],
    now: UnixMillis,
) -> Result<VerifiedAkCertificate, Rejection> {
    let leaf = Certificate::parse(certificate)?;
    let identity = check_profile(&leaf)?;
    let (assurance, valid_until, path) = closest_path(&leaf, intermediates, anchors, now)?;
    Ok(VerifiedAkCertificate { assurance, valid_until, identity, path })
}

/// What makes a certificate one of an attestation key, and what it says of its TPM.
fn check_profile(leaf: &Certificate<'_>) -> Result<TpmIdentity, Rejection> {
    let reason = TpmReason::AkCertificate;
    if leaf.basic_constraints() != BasicConstraints::EndEntity {
        return Err(reason.because("an end entity", "a certification authority"));
    }
    // An AK signs and does nothing else.
    let usage = leaf.key_usage().is_some_and(|usage| {
        usage.digital_signature() && !usage.key_cert_sign() && !usage.key_encipherment() && !usage.key_agreement()
    });
    if !usage {
        return Err(reason.because("keyUsage of digitalSignature", "another or none"));
    }
    let policies = policies(leaf).map_err(|NotDer| reason.because("readable certificatePolicies", "others"))?;
    let has_policy = |policy: Oid| policies.contains(&policy.octets());
    let google = leaf.extension(GOOGLE_INSTANCE).is_some();
    // Keys for Device Identity 1.0, 8: an IAK's says so by extKeyUsage, by policy or by both. One that lists other
    // purposes only is for these, whatever else it carries.
    let unlimited = leaf.extension(oid::EXTENDED_KEY_USAGE).is_none();
    let for_attestation =
        leaf.has_extended_key_usage(AIK_CERTIFICATE)? || unlimited && (google || has_policy(VERIFIED_RESTRICTED));
    if !for_attestation {
        return Err(reason.because(AIK_CERTIFICATE, "another extKeyUsage or none"));
    }
    let attributes = TpmAttributes::of(leaf)?;
    let named = attributes.manufacturer().is_some() || attributes.model().is_some() || attributes.version().is_some();
    Ok(if named {
        attributes.identity()?
    } else if google {
        TpmIdentity { manufacturer: "GOOG".into(), model: "vTPM".into(), ..TpmIdentity::unnamed(TpmKind::Virtual) }
    } else if has_policy(AZURE_VIRTUAL_TPM) {
        TpmIdentity { manufacturer: "MSFT".into(), model: "vTPM".into(), ..TpmIdentity::unnamed(TpmKind::Virtual) }
    } else {
        TpmIdentity::unnamed(TpmKind::Unknown)
    })
}

/// The identifiers in certificatePolicies; none where it is absent.
fn policies<'a>(leaf: &Certificate<'a>) -> Result<alloc::vec::Vec<&'a [u8]>, NotDer> {
    let mut found = alloc::vec::Vec::new();
    let Some(extension) = leaf.extension(oid::CERTIFICATE_POLICIES) else { return Ok(found) };
    let mut outer = Der::new(extension.value);
    let mut list = outer.inner(tag::SEQUENCE)?;
    outer.finish()?;
    while !list.is_empty() {
        found.push(list.inner(tag::SEQUENCE)?.content(tag::OID)?);
    }
    Ok(found)
}
