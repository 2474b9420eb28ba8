//! X.509 certificates: of EKs and AKs (also as a TPM's NV index holds them), of AMD's VEKs, of CAs, and our own SVIDs.
//!
//! Shown leniently, because genuine EK certificates bend DER; whether a verifier reads the certificate is said beside.

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::result::svid::CredentialExtension;
use countersign_attestation::x509::Certificate;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::{Oid, Tag};
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{AlgorithmIdentifier, AttributeTypeAndValue, SubjectPublicKeyInfo, X509Name};

use super::Unreadable;
use super::document::{Fields, Part, Standing, Text, Value};

/// Certificates of one file: more than all TPM vendors' roots and intermediates together.
const CERTIFICATES_MAX: usize = 1024;

/// Where a PEM certificate begins.
const PEM_BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Names of attributes, extensions, purposes and algorithms that evidence carries.
const OIDS: [(&str, &str); 59] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.46", "dnQualifier"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("2.23.133.2.1", "tpmManufacturer"),
    ("2.23.133.2.2", "tpmModel"),
    ("2.23.133.2.3", "tpmVersion"),
    ("2.23.133.2.4", "platformManufacturer"),
    ("2.23.133.2.5", "platformModel"),
    ("2.23.133.2.6", "platformVersion"),
    ("2.23.133.2.16", "tpmSpecification"),
    ("2.23.133.2.18", "tpmSecurityAssertions"),
    ("2.23.133.8.1", "tcg-kp-EKCertificate"),
    ("2.23.133.8.2", "tcg-kp-PlatformAttributeCertificate"),
    ("2.23.133.8.3", "tcg-kp-AIKCertificate"),
    ("1.3.6.1.5.5.7.3.1", "id-kp-serverAuth"),
    ("1.3.6.1.5.5.7.3.2", "id-kp-clientAuth"),
    ("1.2.840.113549.1.1.1", "rsaEncryption"),
    ("1.2.840.113549.1.1.5", "sha1WithRSAEncryption"),
    ("1.2.840.113549.1.1.7", "id-RSAES-OAEP"),
    ("1.2.840.113549.1.1.10", "id-RSASSA-PSS"),
    ("1.2.840.113549.1.1.11", "sha256WithRSAEncryption"),
    ("1.2.840.113549.1.1.12", "sha384WithRSAEncryption"),
    ("1.2.840.113549.1.1.13", "sha512WithRSAEncryption"),
    ("1.2.840.10045.2.1", "id-ecPublicKey"),
    ("1.2.840.10045.3.1.7", "secp256r1"),
    ("1.3.132.0.34", "secp384r1"),
    ("1.3.132.0.35", "secp521r1"),
    ("1.2.840.10045.4.3.2", "ecdsa-with-SHA256"),
    ("1.2.840.10045.4.3.3", "ecdsa-with-SHA384"),
    ("1.2.840.10045.4.3.4", "ecdsa-with-SHA512"),
    ("1.3.101.112", "Ed25519"),
    ("2.5.29.9", "subjectDirectoryAttributes"),
    ("2.5.29.14", "subjectKeyIdentifier"),
    ("2.5.29.15", "keyUsage"),
    ("2.5.29.17", "subjectAltName"),
    ("2.5.29.18", "issuerAltName"),
    ("2.5.29.19", "basicConstraints"),
    ("2.5.29.30", "nameConstraints"),
    ("2.5.29.31", "cRLDistributionPoints"),
    ("2.5.29.32", "certificatePolicies"),
    ("2.5.29.35", "authorityKeyIdentifier"),
    ("2.5.29.37", "extKeyUsage"),
    ("1.3.6.1.5.5.7.1.1", "authorityInfoAccess"),
    ("1.3.6.1.4.1.3704.1.1", "structVersion"),
    ("1.3.6.1.4.1.3704.1.2", "productName"),
    ("1.3.6.1.4.1.3704.1.3.1", "blSPL"),
    ("1.3.6.1.4.1.3704.1.3.2", "teeSPL"),
    ("1.3.6.1.4.1.3704.1.3.3", "snpSPL"),
    ("1.3.6.1.4.1.3704.1.3.8", "ucodeSPL"),
    ("1.3.6.1.4.1.3704.1.3.9", "fmcSPL"),
    ("1.3.6.1.4.1.3704.1.4", "hwID"),
    ("1.3.6.1.4.1.3704.1.5", "cspID"),
];

/// Ours (see [`CredentialExtension`]).
const CREDENTIAL: &str = "2.25.7014083229441153027";

/// PEM with a certificate, or DER of one with nothing but padding behind it.
pub(super) fn recognise(bytes: &[u8]) -> bool {
    bytes.windows(PEM_BEGIN.len()).take(4096).any(|window| window == PEM_BEGIN)
        || X509Certificate::from_der(bytes).is_ok_and(|(rest, _)| padding(rest))
}

/// What stands behind a certificate in an NV index that is larger: one octet, repeated.
fn padding(rest: &[u8]) -> bool {
    rest.first().is_none_or(|first| rest.iter().all(|octet| octet == first))
}

/// The certificates of a file, in its order.
pub(super) fn certificates(bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    if bytes.windows(PEM_BEGIN.len()).any(|window| window == PEM_BEGIN) {
        let mut parts = Vec::new();
        for (read, number) in CertificateDer::pem_slice_iter(bytes).zip(1_usize..) {
            let der = read.map_err(|error| format!("PEM: {error}"))?;
            if CERTIFICATES_MAX < number {
                return Err(format!("at most {CERTIFICATES_MAX} certificates in one file"));
            }
            parts.push(certificate(&format!("Certificate {number}"), &der)?);
        }
        return Ok(parts);
    }
    certificate("Certificate", bytes).map(|part| vec![part])
}

/// One certificate, DER.
pub(super) fn certificate(name: &str, der: &[u8]) -> Result<Part, Unreadable> {
    let (rest, read) = X509Certificate::from_der(der).map_err(|error| format!("Certificate: {error}"))?;
    let alone = der.get(..der.len().saturating_sub(rest.len())).unwrap_or_default();
    let tbs = &read.tbs_certificate;
    let mut fields = Fields::default()
        .with("is", purpose(&read))
        .with("version", u64::from(tbs.version.0).saturating_add(1))
        .with("serialNumber", Value::hex(tbs.raw_serial()))
        .with("signature", algorithm(&tbs.signature))
        .with("issuer", name_text(&tbs.issuer))
        .with("notBefore", time(tbs.validity.not_before))
        .with("notAfter", time(tbs.validity.not_after))
        .with("subject", name_text(&tbs.subject))
        .with("subjectPublicKeyInfo", key(&tbs.subject_pki));
    let extensions = tbs.extensions().iter().map(extension);
    fields.add("extensions", Value::list(extensions));
    fields.add("SHA-256 of the certificate (computed)", Sha256Digest::of(&[alone]).to_hex());
    if !rest.is_empty() {
        let what = if padding(rest) { "bytes of padding" } else { "other bytes" };
        fields.add("after the certificate", format!("{} {what}", rest.len()));
    }
    let form = match Certificate::parse(alone) {
        Ok(_) => "as a verifier takes it".to_owned(),
        Err(rejection) => format!("a verifier refuses it: {rejection}"),
    };
    fields.add("form", form);
    let because = if tbs.issuer == tbs.subject {
        "it names itself as its issuer: a root is trusted for being pinned, never for what it says"
    } else {
        "the issuer signs it"
    };
    Ok(Part { fields, ..Part::new(name, Standing::SignedNotChecked, because) })
}

/// What the certificate says that it is for.
fn purpose(read: &X509Certificate<'_>) -> &'static str {
    let oids: Vec<String> = read
        .extensions()
        .iter()
        .flat_map(|extension| {
            let purposes: &[Oid<'_>] = if let ParsedExtension::ExtendedKeyUsage(usage) = extension.parsed_extension() {
                &usage.other
            } else {
                &[]
            };
            purposes.iter().chain([&extension.oid]).map(Oid::to_id_string).collect::<Vec<_>>()
        })
        .collect();
    let has = |oid: &str| oids.iter().any(|found| found == oid);
    if read.is_ca() {
        "a certification authority"
    } else if has("2.23.133.8.1") {
        "an endorsement key certificate"
    } else if has("2.23.133.8.3") {
        "an attestation key certificate"
    } else if has(CREDENTIAL) {
        "an execution credential (X.509-SVID)"
    } else if has("1.3.6.1.4.1.3704.1.1") {
        "an AMD VCEK or VLEK certificate"
    } else {
        "an end entity certificate"
    }
}

fn extension(extension: &X509Extension<'_>) -> Fields {
    Fields::default()
        .with("extnID", oid_text(&extension.oid))
        .with("critical", extension.critical)
        .with("extnValue", extension_value(extension))
}

fn extension_value(extension: &X509Extension<'_>) -> Value {
    match extension.parsed_extension() {
        ParsedExtension::KeyUsage(usage) => usage.to_string().into(),
        ParsedExtension::BasicConstraints(basic) => {
            let length = basic.path_len_constraint.map(|length| format!(", pathLenConstraint {length}"));
            format!("cA {}{}", basic.ca, length.unwrap_or_default()).into()
        }
        ParsedExtension::ExtendedKeyUsage(usage) => {
            let known = [(usage.any, "anyExtendedKeyUsage"), (usage.server_auth, "id-kp-serverAuth")];
            let known = known.into_iter().chain([(usage.client_auth, "id-kp-clientAuth")]);
            let known = known.filter(|(there, _)| *there).map(|(_, name)| name.to_owned());
            Value::list(known.chain(usage.other.iter().map(oid_text)))
        }
        ParsedExtension::SubjectAlternativeName(names) => Value::list(names.general_names.iter().map(general_name)),
        ParsedExtension::IssuerAlternativeName(names) => Value::list(names.general_names.iter().map(general_name)),
        ParsedExtension::SubjectKeyIdentifier(id) => Value::hex(id.0),
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| Value::hex(id.0)).into(),
        ParsedExtension::CertificatePolicies(policies) => {
            Value::list(policies.iter().map(|policy| oid_text(&policy.policy_id)))
        }
        ParsedExtension::AuthorityInfoAccess(access) => {
            Value::list(access.accessdescs.iter().map(|one| general_name(&one.access_location)))
        }
        ParsedExtension::CRLDistributionPoints(points) => {
            let names = points.iter().filter_map(|point| match &point.distribution_point {
                Some(DistributionPointName::FullName(names)) => Some(names.as_slice()),
                Some(DistributionPointName::NameRelativeToCRLIssuer(_)) | None => None,
            });
            Value::list(names.flatten().map(general_name))
        }
        ParsedExtension::UnsupportedExtension { .. }
        | ParsedExtension::ParseError { .. }
        | ParsedExtension::PolicyMappings(_)
        | ParsedExtension::NameConstraints(_)
        | ParsedExtension::PolicyConstraints(_)
        | ParsedExtension::InhibitAnyPolicy(_)
        | ParsedExtension::SubjectInfoAccess(_)
        | ParsedExtension::NSCertType(_)
        | ParsedExtension::NsCertComment(_)
        | ParsedExtension::IssuingDistributionPoint(_)
        | ParsedExtension::CRLNumber(_)
        | ParsedExtension::ReasonCode(_)
        | ParsedExtension::InvalidityDate(_)
        | ParsedExtension::SCT(_)
        | ParsedExtension::Unparsed => bare_value(extension),
    }
}

/// The value of an extension that has no form here: ours, a short integer or text, else its bytes.
fn bare_value(extension: &X509Extension<'_>) -> Value {
    if extension.oid.to_id_string() == CREDENTIAL {
        return match CredentialExtension::decode(extension.value) {
            Ok(credential) => Fields::default()
                .with("statusList", credential.status_list)
                .with("statusIndex", credential.status_index)
                .with("generation", credential.generation)
                .with("decision", credential.decision.to_hex())
                .with("logIndex", credential.log_index)
                .with("assurance", credential.assurance.to_string())
                .with("waivers", credential.waivers.join(", "))
                .into(),
            Err(rejection) => rejection.to_string().into(),
        };
    }
    match extension.value {
        // INTEGER
        [2, 1, value] => (*value).into(),
        [2, 2, 0, value] => (*value).into(),
        // UTF8String, PrintableString, IA5String
        [0x0c | 0x13 | 0x16, length, text @ ..] if usize::from(*length) == text.len() => Text::of_bytes(text).into(),
        bytes => Value::hex(bytes),
    }
}

fn general_name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DirectoryName(name) => format!("directoryName {}", name_text(name)),
        GeneralName::URI(uri) => format!("URI {uri}"),
        GeneralName::DNSName(name) => format!("dNSName {name}"),
        GeneralName::RFC822Name(name) => format!("rfc822Name {name}"),
        GeneralName::IPAddress(address) => format!("iPAddress {}", hex::encode(address)),
        GeneralName::OtherName(oid, value) => format!("otherName {} {}", oid_text(oid), hex::encode(value)),
        GeneralName::RegisteredID(oid) => format!("registeredID {}", oid_text(oid)),
        GeneralName::X400Address(any) => format!("x400Address {}", hex::encode(any.data)),
        GeneralName::EDIPartyName(any) => format!("ediPartyName {}", hex::encode(any.data)),
        GeneralName::Invalid(tag, value) => format!("unreadable name [{}] {}", tag.0, hex::encode(value)),
    }
}

/// The name as RFC 4514 writes it, but in the order of the certificate: `+` joins what is in one RDN.
pub(super) fn name_text(name: &X509Name<'_>) -> String {
    let rdn = |attributes: Vec<String>| attributes.join("+");
    let rdns = name.iter().map(|set| rdn(set.iter().map(attribute_text).collect()));
    let text = rdns.collect::<Vec<_>>().join(",");
    if text.is_empty() { "(empty)".to_owned() } else { text }
}

fn attribute_text(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type();
    let value = Text::of_bytes(attribute.as_slice());
    let mut escaped = String::new();
    for character in value.as_str().chars() {
        // RFC 4514, 2.4: so that a value cannot look like another attribute.
        if matches!(character, ',' | '+' | '"' | ';' | '<' | '>' | '=') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    let vendor = tpm_vendor(value.as_str()).filter(|_| oid.to_id_string() == "2.23.133.2.1");
    format!("{}={escaped}{}", oid_text(oid), vendor.map(|name| format!(" ({name})")).unwrap_or_default())
}

/// TCG Vendor ID Registry: `id:` and the hex of four characters.
fn tpm_vendor(value: &str) -> Option<String> {
    let bytes = hex::decode(value.strip_prefix("id:")?).ok()?;
    let text = std::str::from_utf8(&bytes).ok()?.trim_end_matches(['\0', ' ']);
    (!text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric())).then(|| text.to_owned())
}

fn key(spki: &SubjectPublicKeyInfo<'_>) -> Fields {
    let size = match spki.parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA, {} bits", key.key_size()),
        Ok(PublicKey::EC(point)) => format!("EC, {} bits", point.key_size()),
        Ok(_) | Err(_) => "another".to_owned(),
    };
    Fields::default()
        .with("algorithm", algorithm(&spki.algorithm))
        .with("key", size)
        .with("sha256", Sha256Digest::of(&[spki.raw]).to_hex())
}

fn algorithm(identifier: &AlgorithmIdentifier<'_>) -> String {
    let parameter = identifier.parameters.as_ref().filter(|parameters| parameters.tag() == Tag::Oid);
    let parameter = parameter.and_then(|parameters| parameters.as_oid().ok());
    let parameter = parameter.map(|oid| format!(" {}", oid_text(&oid)));
    format!("{}{}", oid_text(&identifier.algorithm), parameter.unwrap_or_default())
}

fn oid_text(oid: &Oid<'_>) -> String {
    let number = oid.to_id_string();
    let known = OIDS.iter().find(|(known, _)| *known == number);
    known.map_or(number, |(_, name)| (*name).to_owned())
}

fn time(time: ASN1Time) -> String {
    jiff::Timestamp::from_second(time.timestamp()).map_or_else(|error| error.to_string(), |time| time.to_string())
}
