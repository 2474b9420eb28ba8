//! Endorsement key certificates: one with its chain (`tpm-ek-cert`), the content of its NV index
//! (`tpm-ek-cert-nv-raw`), the AK certificate of a cloud (`vtpm-ak-chain`), and manufacturers' collections
//! (`tpm-vendor-roots`, `tpm-vendor-ca-collection`).

use countersign_attestation::anchor::{Assurance, TpmAnchor};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::tpm::{
    TpmAttributes, certificate_of_nv, verify_ak_certificate_alone, verify_certificate,
};
use countersign_attestation::evidence::tpm::TpmReason;
use countersign_attestation::x509::{Certificate, SubjectKey};
use countersign_attestation::{Rejection, UnixMillis};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Map, Value, json};
use x509_parser::prelude::FromDer as _;

use super::{CaseError, CaseFiles, Judgement};
use crate::collateral::anchors::shipped_tpm_anchors;

/// Judges an EK certificate: under the root of its case, as simulated hardware, or, where the case names none, under
/// the manufacturers' roots that this release pins. Intermediates are those of the case; none is ever fetched.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_certificate(files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    let Some(certificate) = files.read("ek_cert")? else { return Ok(missing()) };
    let anchors = match files.read("root")? {
        Some(roots) => certificates(&roots).into_iter().map(case_anchor).collect(),
        None => shipped_tpm_anchors(),
    };
    let intermediates = files.read("intermediates")?.map(|text| certificates(&text)).unwrap_or_default();
    let intermediates: Vec<_> = intermediates.iter().map(Vec::as_slice).collect();
    Ok(match verify_certificate(&certificate, &intermediates, &anchors, now) {
        Ok(verified) => Judgement::Accepted(json!({
            "assurance": verified.assurance(),
            "identity": verified.identity(),
            "valid_until": verified.valid_until(),
            "details": describe(&certificate),
        })),
        Err(rejection) => Judgement::Rejected(rejection),
    })
}

/// Judges the certificate of a cloud's AK under the root its case trusts, as simulated hardware.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_ak_certificate(files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    let (Some(certificate), Some(root)) = (files.read("ak_cert")?, files.read("trust_root")?) else {
        return Ok(missing());
    };
    let intermediate = files.read("intermediate")?;
    let intermediates: Vec<_> = intermediate.iter().map(Vec::as_slice).collect();
    Ok(match verify_ak_certificate_alone(&certificate, &intermediates, &[case_anchor(root)], now) {
        Ok(verified) => Judgement::Accepted(json!({
            "assurance": verified.assurance(),
            "identity": verified.identity(),
            "valid_until": verified.valid_until(),
            "details": { "not_before": describe(&certificate).remove("not_before") },
        })),
        Err(rejection) => Judgement::Rejected(rejection),
    })
}

/// Judges what an NV index holds: a certificate, then nothing but padding. Its chain is not a part of the case.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_nv(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(index) = files.read("ek_nv")? else { return Ok(missing()) };
    let read = || -> Result<Value, Rejection> {
        let certificate = certificate_of_nv(&index)?;
        Certificate::parse(certificate)?;
        let mut details = describe(certificate);
        details.insert("der_len".to_owned(), json!(certificate.len()));
        details.insert("total_len".to_owned(), json!(index.len()));
        details.insert("der_sha256".to_owned(), json!(Sha256Digest::of(&[certificate])));
        Ok(json!({ "details": details }))
    };
    Ok(read().map_or_else(Judgement::Rejected, Judgement::Accepted))
}

/// Judges a collection of roots and their intermediates: every certificate in it can be read.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_roots(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let mut details = Map::new();
    for role in ["roots", "intermediates"] {
        let Some(text) = files.read(role)? else { continue };
        let all = certificates(&text);
        for certificate in &all {
            if let Err(rejection) = Certificate::parse(certificate) {
                return Ok(Judgement::Rejected(rejection));
            }
        }
        details.insert(role.to_owned(), json!(all.len()));
    }
    let accepted = details.get("roots").is_some_and(|roots| *roots != json!(0));
    Ok(if accepted { Judgement::Accepted(json!({ "details": details })) } else { missing() })
}

/// Judges a collection for what can be read of it: one certificate that cannot be does not hide the others.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_collection(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(text) = files.read("cas")? else { return Ok(missing()) };
    let all = certificates(&text);
    let parsed: Vec<_> = all.iter().filter_map(|certificate| Certificate::parse(certificate).ok()).collect();
    if parsed.is_empty() {
        return Ok(missing());
    }
    let negative = parsed.iter().filter(|certificate| certificate.serial().first().is_some_and(|first| 0x80 <= *first));
    let details = json!({ "count": all.len(), "negative_serial": negative.count() });
    Ok(Judgement::Accepted(json!({ "details": details, "unreadable": all.len().saturating_sub(parsed.len()) })))
}

fn missing() -> Judgement {
    Judgement::Rejected(TpmReason::EkCertificate.because("a certificate", "none"))
}

fn case_anchor(root: Vec<u8>) -> TpmAnchor {
    TpmAnchor { name: "case".to_owned(), assurance: Assurance::Simulated, root, intermediates: Vec::new() }
}

/// The certificates of a PEM text; DER is one. What cannot be decoded is left out.
fn certificates(bytes: &[u8]) -> Vec<Vec<u8>> {
    if bytes.first() == Some(&0x30) {
        return vec![bytes.to_vec()];
    }
    CertificateDer::pem_slice_iter(bytes).flatten().map(|certificate| certificate.to_vec()).collect()
}

/// What an EK certificate says, in the words of its profile. Nothing of it is verified here; what cannot be read is
/// absent.
#[must_use]
pub fn describe(certificate: &[u8]) -> Map<String, Value> {
    let mut details = Map::new();
    let Ok(strict) = Certificate::parse(certificate) else { return details };
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            details.insert(name.to_owned(), value);
        }
    };
    put("issuer", name_text(strict.issuer()).map(Value::from));
    put("subject", name_text(strict.subject()).map(Value::from));
    put("serial_hex", Some(serial_hex(strict.serial()).into()));
    put("not_before", time_text(strict.not_before()).map(Value::from));
    put("not_after", time_text(strict.not_after()).map(Value::from));
    if let Ok(key) = strict.subject_key() {
        let (algorithm, curve) = key_text(&key);
        put("spki_alg", Some(algorithm.into()));
        put("curve", Some(curve.map_or(Value::Null, Value::from)));
    }
    if let Ok(attributes) = TpmAttributes::of(&strict) {
        let names =
            [("tpmMfr", attributes.manufacturer()), ("tpmModel", attributes.model()), ("tpmVer", attributes.version())];
        let named: Map<_, _> =
            names.into_iter().filter_map(|(name, text)| text.map(|text| (name.to_owned(), text.into()))).collect();
        put("tpm_san", Some(named.into()));
        put("san_single_rdn", Some(attributes.single_rdn().into()));
    }
    if let Ok((_, loose)) = x509_parser::certificate::X509Certificate::from_der(certificate) {
        let critical = loose.extensions().iter().filter(|extension| extension.critical);
        let critical: Vec<_> = critical.map(|extension| extension.oid.to_id_string()).collect();
        put("critical_extensions", Some(json!(critical)));
        put("signature_alg", Some(signature_text(loose.signature_algorithm.algorithm.to_id_string()).into()));
        put("eku", Some(purposes(&loose).into()));
    }
    details
}

/// The purposes of extKeyUsage, as identifiers; none where it is absent.
fn purposes(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(usage)) = certificate.extended_key_usage() else { return Vec::new() };
    let usage = usage.value;
    let known = [
        (usage.any, "2.5.29.37.0"),
        (usage.server_auth, "1.3.6.1.5.5.7.3.1"),
        (usage.client_auth, "1.3.6.1.5.5.7.3.2"),
        (usage.code_signing, "1.3.6.1.5.5.7.3.3"),
        (usage.email_protection, "1.3.6.1.5.5.7.3.4"),
        (usage.time_stamping, "1.3.6.1.5.5.7.3.8"),
        (usage.ocsp_signing, "1.3.6.1.5.5.7.3.9"),
    ];
    let known = known.into_iter().filter(|(there, _)| *there).map(|(_, oid)| oid.to_owned());
    known.chain(usage.other.iter().map(|oid| oid.to_id_string())).collect()
}

/// A Name as `C=DE,O=…`, in its own order; none where an attribute has no short name or no text.
fn name_text(name: &[u8]) -> Option<String> {
    let (_, name) = x509_parser::x509::X509Name::from_der(name).ok()?;
    let attribute = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        let short = match attribute.attr_type().to_id_string().as_str() {
            "2.5.4.3" => "CN",
            "2.5.4.6" => "C",
            "2.5.4.7" => "L",
            "2.5.4.8" => "ST",
            "2.5.4.10" => "O",
            "2.5.4.11" => "OU",
            "0.9.2342.19200300.100.1.25" => "DC",
            _ => return None,
        };
        attribute.as_str().ok().map(|text| format!("{short}={text}"))
    };
    name.iter_attributes().map(attribute).collect::<Option<Vec<_>>>().map(|attributes| attributes.join(","))
}

/// An INTEGER as hexadecimal digits without leading zeros, with its sign.
fn serial_hex(serial: &[u8]) -> String {
    let negative = serial.first().is_some_and(|first| 0x80 <= *first);
    let mut magnitude = serial.to_vec();
    if negative {
        // Two's complement: invert, then add one from the last octet up.
        let mut carry = true;
        for octet in magnitude.iter_mut().rev() {
            (*octet, carry) = (!*octet).overflowing_add(u8::from(carry));
        }
    }
    let digits = hex::encode(magnitude);
    let digits = digits.trim_start_matches('0');
    let digits = if digits.is_empty() { "0" } else { digits };
    format!("{}{digits}", if negative { "-" } else { "" })
}

fn time_text(time: UnixMillis) -> Option<String> {
    let seconds = i64::try_from(time.seconds()).ok()?;
    jiff::Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

/// The key's algorithm and its curve.
const fn key_text(key: &SubjectKey<'_>) -> (&'static str, Option<&'static str>) {
    match key {
        SubjectKey::Rsa(_) => ("rsaEncryption", None),
        SubjectKey::RsaPss(_) => ("id-RSASSA-PSS", None),
        SubjectKey::RsaOaep(_) => ("id-RSAES-OAEP", None),
        SubjectKey::P256(_) => ("ecPublicKey", Some("P-256")),
        SubjectKey::P384(_) => ("ecPublicKey", Some("P-384")),
        SubjectKey::P521(_) => ("ecPublicKey", Some("P-521")),
        SubjectKey::Ed25519(_) => ("Ed25519", None),
    }
}

/// The algorithm's usual name; its identifier where it has none.
fn signature_text(oid: String) -> String {
    let name = match oid.as_str() {
        "1.2.840.113549.1.1.5" => "sha1WithRSA",
        "1.2.840.113549.1.1.11" => "sha256WithRSA",
        "1.2.840.113549.1.1.12" => "sha384WithRSA",
        "1.2.840.113549.1.1.13" => "sha512WithRSA",
        "1.2.840.10045.4.3.2" => "ecdsa-sha256",
        "1.2.840.10045.4.3.3" => "ecdsa-sha384",
        _ => return oid,
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::serial_hex;

    #[test]
    fn serials_are_signed_numbers() {
        assert_eq!(serial_hex(&[0]), "0");
        assert_eq!(serial_hex(&[0x00, 0xb7, 0xd4]), "b7d4");
        assert_eq!(serial_hex(&[0x04, 0xe1]), "4e1");
        assert_eq!(serial_hex(&[0xff]), "-1");
        assert_eq!(serial_hex(&[0xa1, 0x00]), "-5f00");
        assert_eq!(serial_hex(&[0x80]), "-80");
    }
}
