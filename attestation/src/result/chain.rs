//! The chain of an X.509-SVID to a root of the trust bundle: certificates that the broker itself issues, so one narrow
//! profile of RFC 5280 and nothing beyond it.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer as _, X509Version};

use crate::rejection::Rejection;
use crate::result::ResultReason;
use crate::signature::{PublicKey, Scheme};
use crate::time::UnixMillis;

/// Longest chain without its root: leaf and three intermediates. Also the number of signatures a caller can cost us,
/// times the roots of one name.
const CHAIN_MAX: usize = 4;

/// Largest certificate read.
const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;

/// Roots tried for one chain: the domain's current, next and previous ones.
const ROOTS_MAX: usize = 16;

/// Critical extensions that are understood (RFC 5280, 4.2): basicConstraints, keyUsage, extKeyUsage, subjectAltName.
const UNDERSTOOD: [&str; 4] = ["2.5.29.19", "2.5.29.15", "2.5.29.37", "2.5.29.17"];

/// The leaf of a chain that leads to a root, and when the whole path is valid.
pub(super) struct Path<'a> {
    pub(super) leaf: X509Certificate<'a>,
    pub(super) not_before: UnixMillis,
    pub(super) not_after: UnixMillis,
}

fn refused(found: &str) -> Rejection {
    ResultReason::SvidChain.because("a chain of at most four certificates to a root of the trust bundle", found)
}

/// Checks signatures, names and CA rights from the leaf to one of `roots`; dates are returned, not judged.
pub(super) fn verify<'a>(chain: &[&'a [u8]], roots: &[Vec<u8>]) -> Result<Path<'a>, Rejection> {
    if chain.is_empty() || CHAIN_MAX < chain.len() {
        return Err(refused(&format!("{} certificates", chain.len())));
    }
    // A peer may send the root as well; what it sent proves nothing about it.
    let sent = match chain.split_last() {
        Some((last, rest)) if !rest.is_empty() && roots.iter().any(|root| root == last) => rest,
        _ => chain,
    };
    let mut path = Vec::new();
    for der in sent {
        path.push(parse(der)?);
    }
    let last = path.last().ok_or_else(|| refused("no certificates"))?;
    let mut authorities: Vec<&X509Certificate<'_>> = path.iter().skip(1).collect();
    let parsed_roots: Vec<_> = roots.iter().take(ROOTS_MAX).filter_map(|root| parse(root).ok()).collect();
    let below = authorities.len();
    let root = parsed_roots
        .iter()
        .find(|root| is_authority(root, below).is_ok() && is_issued_by(last, root).is_ok())
        .ok_or_else(|| refused(&format!("issuer {}", last.issuer())))?;
    for (below, (subject, issuer)) in path.iter().zip(&authorities).enumerate() {
        is_authority(issuer, below)?;
        is_issued_by(subject, issuer)?;
    }
    authorities.push(root);
    let leaf = path.first().ok_or_else(|| refused("no certificates"))?;
    let (mut not_before, mut not_after) = validity(leaf)?;
    for authority in authorities {
        let (from, to) = validity(authority)?;
        not_before = not_before.max(from);
        not_after = not_after.min(to);
    }
    Ok(Path { leaf: leaf.clone(), not_before, not_after })
}

/// One X.509 v3 certificate, whole, whose extensions are there once each and understood where they must be.
fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Rejection> {
    if CERTIFICATE_BYTES_MAX < der.len() {
        return Err(refused(&format!("a certificate of {} bytes", der.len())));
    }
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| refused(&error.to_string()))?;
    if !rest.is_empty() {
        return Err(refused("bytes after a certificate"));
    }
    if certificate.version() != X509Version::V3 {
        return Err(refused("a certificate of another version than 3"));
    }
    let mut seen = BTreeSet::new();
    for extension in certificate.extensions() {
        let oid = extension.oid.to_id_string();
        if let ParsedExtension::ParseError { .. } = extension.parsed_extension() {
            return Err(refused(&format!("extension {oid} that cannot be read")));
        }
        // RFC 5280, 4.2: a critical extension that is not understood, or one that is there twice, refuses the whole.
        if extension.critical && !UNDERSTOOD.contains(&oid.as_str()) {
            return Err(refused(&format!("critical extension {oid}")));
        }
        if !seen.insert(oid.clone()) {
            let reason = if oid == super::svid::EXTENSION_OID_TEXT {
                ResultReason::SvidExtensionMissing.because("the extension once", "twice")
            } else {
                refused(&format!("extension {oid} twice"))
            };
            return Err(reason);
        }
    }
    Ok(certificate)
}

/// RFC 5280, 6.1.4 (k) to (n): CA, path length, certificate signing.
fn is_authority(certificate: &X509Certificate<'_>, below: usize) -> Result<(), Rejection> {
    let (mut is_ca, mut may_sign) = (false, false);
    for extension in certificate.extensions() {
        let parsed = extension.parsed_extension();
        if let ParsedExtension::BasicConstraints(constraints) = parsed {
            let deep_enough = constraints
                .path_len_constraint
                .is_none_or(|longest| usize::try_from(longest).is_ok_and(|longest| below <= longest));
            is_ca = constraints.ca && deep_enough;
        }
        if let ParsedExtension::KeyUsage(usage) = parsed {
            may_sign = usage.key_cert_sign();
        }
    }
    if is_ca && may_sign { Ok(()) } else { Err(refused("an issuer that may not issue certificates here")) }
}

/// RFC 5280, 6.1.3 (a)(1) and (4): the name chains byte for byte and the signature verifies.
fn is_issued_by(subject: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> Result<(), Rejection> {
    if subject.issuer().as_raw() != issuer.subject().as_raw() {
        return Err(refused("an issuer of another name"));
    }
    // RFC 5280, 4.1.1.2: the algorithm inside the signature is the one outside.
    if subject.tbs_certificate.signature != subject.signature_algorithm {
        return Err(refused("two signature algorithms"));
    }
    issuer_key(subject, issuer)?
        .verify(subject.tbs_certificate.as_ref(), &subject.signature_value.data)
        .map(|_| ())
        .map_err(|_| refused("a signature that does not verify"))
}

/// ECDSA with P-256 and SHA-256 or P-384 and SHA-384: what our workload CAs use.
fn issuer_key(subject: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> Result<PublicKey, Rejection> {
    let spki = issuer.public_key();
    let curve = spki.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let curve = curve.map(|oid| oid.to_id_string());
    let algorithm = subject.signature_algorithm.algorithm.to_id_string();
    let scheme = match (spki.algorithm.algorithm.to_id_string().as_str(), curve.as_deref(), algorithm.as_str()) {
        ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7"), "1.2.840.10045.4.3.2") => Scheme::EcdsaP256Sha256Der,
        ("1.2.840.10045.2.1", Some("1.3.132.0.34"), "1.2.840.10045.4.3.3") => Scheme::EcdsaP384Sha384Der,
        _ => return Err(refused("a signature other than ECDSA with P-256 and SHA-256 or P-384 and SHA-384")),
    };
    Ok(PublicKey::new(scheme, spki.subject_public_key.data.to_vec()))
}

pub(super) fn validity(certificate: &X509Certificate<'_>) -> Result<(UnixMillis, UnixMillis), Rejection> {
    let validity = certificate.validity();
    let moment = |seconds| UnixMillis::from_seconds(seconds).ok_or_else(|| refused("a date before 1970"));
    Ok((moment(validity.not_before.timestamp())?, moment(validity.not_after.timestamp())?))
}
