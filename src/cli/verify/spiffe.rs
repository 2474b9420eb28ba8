//! Cases about X.509-SVIDs and trust bundles of any trust domain.

use countersign_attestation::result::ResultReason;
use countersign_attestation::result::spiffe_bundle::SpiffeBundle;
use countersign_attestation::result::svid::TrustDomain;
use countersign_attestation::result::x509_svid::{X509Svid, check_structure};
use countersign_attestation::x509::Certificate;
use countersign_attestation::{Rejection, UnixMillis};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::{Case, CaseError, CaseFiles, Judgement, missing_file};

/// Judges the structure of an X.509-SVID with its intermediates.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_svid(files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    let Some(svid) = files.read("svid")? else { return Ok(missing_file("svid")) };
    let judge = || -> Result<Value, Rejection> {
        let chain = certificates(&svid)?;
        let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
        let id = check_structure(&chain, now)?;
        Ok(json!({ "details": { "spiffe_id": [id.to_string()], "certificates": chain.len() } }))
    };
    Ok(judge().map_or_else(Judgement::Rejected, Judgement::Accepted))
}

/// Judges an X.509-SVID against the bundle of the trust domain that the case names.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_chain(case: &Case, files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    let (Some(svid), Some(bundle)) = (files.read("svid")?, files.read("trust_bundle")?) else {
        return Ok(missing_file("svid and trust_bundle"));
    };
    let named = case.expect_detail.get("trust_domain").and_then(Value::as_str).and_then(TrustDomain::parse);
    let Some(trust_domain) = named else { return Ok(missing_file("trust_domain")) };
    let judge = || -> Result<Value, Rejection> {
        let chain = certificates(&svid)?;
        let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
        let svid = X509Svid::verify(&chain, &certificates(&bundle)?, &trust_domain, now)?;
        Ok(json!({ "details": { "spiffe_id": svid.id().to_string() }, "valid_until": svid.valid_until() }))
    };
    Ok(judge().map_or_else(Judgement::Rejected, Judgement::Accepted))
}

/// Judges a bundle in the form of a JWKS.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_bundle(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(document) = files.read("bundle")? else { return Ok(missing_file("bundle")) };
    let judge = || -> Result<Value, Rejection> {
        let bundle = SpiffeBundle::parse(&document)?;
        let (x509, jwt) = (bundle.x509_authorities.len(), &bundle.jwt_authorities);
        Ok(json!({ "x509_authorities": x509, "jwt_authorities": jwt, "sequence": bundle.sequence }))
    };
    Ok(judge().map_or_else(Judgement::Rejected, Judgement::Accepted))
}

/// Judges a bundle of certificates in PEM. An empty one is a bundle that nothing chains to.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_x509_bundle(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(bundle) = files.read("bundle")? else { return Ok(missing_file("bundle")) };
    let judge = || -> Result<Value, Rejection> {
        let all = certificates(&bundle)?;
        for certificate in &all {
            Certificate::parse(certificate)?;
        }
        Ok(json!({ "certificates": all.len() }))
    };
    Ok(judge().map_or_else(Judgement::Rejected, Judgement::Accepted))
}

/// The certificates of a PEM text. Nothing is left out: what is there and is no certificate refuses all.
fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, Rejection> {
    let refused = |found: &str| ResultReason::BundleMalformed.because("certificates in PEM", found);
    let read: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(pem).map(|read| read.map(|der| der.as_ref().to_vec())).collect();
    let all = read.map_err(|error| refused(&error.to_string()))?;
    let marks = String::from_utf8_lossy(pem).lines().filter(|line| line.trim().starts_with("-----BEGIN")).count();
    if marks != all.len() {
        return Err(refused("blocks of another kind"));
    }
    if all.is_empty() && !pem.trim_ascii().is_empty() {
        return Err(refused("no PEM block"));
    }
    Ok(all)
}
