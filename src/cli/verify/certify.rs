//! Structures that a TPM signed, beside quotes: one to be read (`tpm-attest-parse`), the certification of a key
//! (`tpm-certify`, as WebAuthn carries it), and both by one key (`tpm-certify-and-quote`).
//!
//! Recordings are judged by what they are: WebAuthn's are signed with SHA-1 by many authenticators, and its published
//! samples put any octet where TPMI_YES_NO stands. Nothing live is ever read or verified by what is in this file.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use countersign_attestation::evidence::bundle::{BundleReason, TPM_CERTIFY};
use countersign_attestation::evidence::tpm::TpmReason;
use countersign_attestation::evidence::tpm::algorithm::TpmHash;
use countersign_attestation::evidence::tpm::attest::{Attest, Attested};
use countersign_attestation::evidence::tpm::public::Public;
use countersign_attestation::evidence::tpm::quote::{RecordedKey, RecordedSignature, verify_recorded_attest};
use countersign_attestation::reader::{ReadError, Reader};
use countersign_attestation::x509::oid::Oid;
use countersign_attestation::x509::{BasicConstraints, Certificate, SubjectKey};
use countersign_attestation::{Rejection, UnixMillis};
use serde_json::{Value, json};

use super::tpm::read_spki;
use super::{CaseError, CaseFiles, Judgement};

/// TPM_GENERATED_VALUE.
const TPM_GENERATED: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_CERTIFY.
const CERTIFY: u16 = 0x8017;
/// TPM_ST_ATTEST_CREATION.
const CREATION: u16 = 0x801a;
/// TPM_ST_ATTEST_QUOTE.
const QUOTE: u16 = 0x8018;
/// tcg-kp-AIKCertificate, 2.23.133.8.3.
const AK_CERTIFICATE: Oid = Oid::new(&[0x67, 0x81, 0x05, 8, 3], "tcg-kp-AIKCertificate");

/// Judges whether a TPMS_ATTEST can be read.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_parse(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(bytes) = files.read("quote")? else { return Ok(missing("a structure")) };
    Ok(match Attest::read(&bytes) {
        Ok(attest) => Judgement::Accepted(json!({ "details": { "parsed": parsed(&attest) } })),
        Err(rejection) => Judgement::Rejected(rejection),
    })
}

fn parsed(attest: &Attest<'_>) -> Value {
    let mut fields = fields(attest);
    let own = match &attest.attested {
        Attested::Quote { selection, pcr_digest } => {
            let selected: Vec<_> =
                selection.iter().map(|bank| json!([bank.bank.name(), bank.indexes().collect::<Vec<_>>()])).collect();
            json!({ "type": QUOTE, "pcrSelect": selected, "pcrDigest": hex::encode(pcr_digest), "rest": 0 })
        }
        Attested::Certify { .. } => json!({ "type": CERTIFY, "rest": 0 }),
        Attested::Creation { .. } => json!({ "type": CREATION, "rest": 0 }),
    };
    if let (Some(fields), Value::Object(own)) = (fields.as_object_mut(), own) {
        fields.extend(own);
    }
    fields
}

/// A structure's fields under their names in the specification.
fn fields(attest: &Attest<'_>) -> Value {
    let mut fields = json!({
        "magic": format!("{TPM_GENERATED:08x}"),
        "qualifiedSigner": hex::encode(attest.qualified_signer),
        "extraData": hex::encode(attest.extra_data),
        "clock": attest.clock.clock,
        "resetCount": attest.clock.reset_count,
        "restartCount": attest.clock.restart_count,
        "safe": u8::from(attest.clock.safe),
        "firmwareVersion": format!("{:016x}", attest.firmware_version),
        "trailing": 0,
    });
    let own = match &attest.attested {
        Attested::Certify { name, qualified_name } => json!({
            "type": format!("{CERTIFY:#06x}"),
            "name": hex::encode(name),
            "qualifiedName": hex::encode(qualified_name),
        }),
        Attested::Creation { name, creation_hash } => json!({
            "type": format!("{CREATION:#06x}"),
            "name": hex::encode(name),
            "creationHash": hex::encode(creation_hash),
        }),
        Attested::Quote { selection, pcr_digest } => {
            let bitmap = |pcrs: u32| match pcrs.to_le_bytes() {
                [a, b, c, 0] => hex::encode([a, b, c]),
                all => hex::encode(all),
            };
            let selections: Vec<_> =
                selection.iter().map(|bank| json!([format!("{:#x}", bank.bank.id()), bitmap(bank.pcrs)])).collect();
            json!({
                "type": format!("{QUOTE:#06x}"),
                "selections": selections,
                "pcrDigest": hex::encode(pcr_digest),
            })
        }
    };
    if let (Some(fields), Value::Object(own)) = (fields.as_object_mut(), own) {
        fields.extend(own);
    }
    fields
}

/// Judges a certification and a quote by one key; both name the same signer and carry the same data.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_certify_and_quote(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let (Some(certify), Some(certify_signature)) = (files.read("certify_info")?, files.read("certify_sig")?) else {
        return Ok(missing("a certification"));
    };
    let (Some(quote), Some(quote_signature)) = (files.read("quote")?, files.read("quote_sig")?) else {
        return Ok(missing("a quote"));
    };
    let (Some(public), Some(ak)) = (files.read("certified_pub_area")?, files.read("ak_public")?) else {
        return Ok(missing("the keys"));
    };
    let judge = || -> Result<Value, Rejection> {
        let (spki, certified) = (read_spki(&ak)?, Public::read(&public)?);
        let verify = |attest, signature, key| {
            verify_recorded_attest(attest, RecordedSignature::Tpmt(signature), RecordedKey::Spki(key))
        };
        let certification = verify(&certify, &certify_signature, &spki)?;
        let quoted = verify(&quote, &quote_signature, &spki)?;
        let Attested::Certify { name, .. } = certification.attested else {
            return Err(TpmReason::Type.because("a certification", "a quote"));
        };
        let Attested::Quote { .. } = quoted.attested else {
            return Err(TpmReason::Type.because("a quote", "a certification"));
        };
        if certified.name() != name {
            return Err(TpmReason::CertifiedName.because(hex::encode(name), hex::encode(certified.name())));
        }
        let signer = |attest: &Attest<'_>| hex::encode([attest.qualified_signer, attest.extra_data].concat());
        if signer(&certification) != signer(&quoted) {
            return Err(TpmReason::Signature.because(signer(&certification), signer(&quoted)));
        }
        let own = certified.spki();
        Ok(json!({ "details": {
            "certify": fields(&certification),
            "quote": fields(&quoted),
            "checks": {
                "certify_by_akpub": true,
                "quote_by_akpub": true,
                "name_matches": true,
                "certify_by_certified_key": verify(&certify, &certify_signature, &own).is_ok(),
                "quote_by_certified_key": verify(&quote, &quote_signature, &own).is_ok(),
            },
        } }))
    };
    Ok(judge().map_or_else(Judgement::Rejected, Judgement::Accepted))
}

/// Judges a WebAuthn TPM attestation statement (Web Authentication Level 3, 8.3) as far as its files go.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_certify(files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    let (Some(info), Some(signature)) = (files.read("certify_info")?, files.read("signature")?) else {
        return Ok(missing("a signed certification"));
    };
    let (Some(public), Some(certificate)) = (files.read("pub_area")?, files.read("cert_0")?) else {
        return Ok(missing("the certified key and the signer's certificate"));
    };
    let statement = Statement { info: &info, signature: &signature, public: &public };
    let (issuer, auth_data, client_data) =
        (files.read("cert_1")?, files.read("auth_data")?, files.read("client_data")?);
    let judge = || -> Result<Value, Rejection> {
        let leaf = Certificate::parse(&certificate)?;
        check_certificate(&leaf, issuer.as_deref(), now)?;
        let (cose_alg, hash) = statement.check_signature(&leaf)?;
        let certification = Certification::read(statement.info)
            .map_err(|error| TpmReason::Malformed.because("TPMS_ATTEST", error))??;
        statement.check_name(certification.name)?;
        let bound = match (auth_data.as_deref(), client_data.as_deref()) {
            (Some(auth_data), Some(client_data)) => {
                certification.check_extra_data(hash, auth_data, client_data)?;
                Value::Bool(true)
            }
            (None, _) | (_, None) => Value::Null,
        };
        Ok(json!({ "details": {
            "cose_alg": cose_alg,
            "attest": certification.fields(),
            "signature_valid": true,
            "certified_name_matches_pub_area": true,
            "extra_data_is_hash_of_authdata_clientdata": bound,
        } }))
    };
    Ok(judge().map_or_else(Judgement::Rejected, Judgement::Accepted))
}

/// 8.3.1: an end entity's certificate for an AK, current, and signed by the next one where that is there.
fn check_certificate(leaf: &Certificate<'_>, issuer: Option<&[u8]>, now: UnixMillis) -> Result<(), Rejection> {
    leaf.check_valid_at(now)?;
    if leaf.basic_constraints() != BasicConstraints::EndEntity {
        return Err(TpmReason::AkCertificate.because("an end entity", "a certification authority"));
    }
    if !leaf.has_extended_key_usage(AK_CERTIFICATE)? {
        return Err(TpmReason::AkCertificate.because(AK_CERTIFICATE, "another extKeyUsage or none"));
    }
    let Some(issuer) = issuer else { return Ok(()) };
    let issuer = Certificate::parse(issuer)?;
    issuer.check_valid_at(now)?;
    issuer.check_may_issue()?;
    leaf.check_issued_by(&issuer)
}

/// What an authenticator sends.
struct Statement<'a> {
    info: &'a [u8],
    signature: &'a [u8],
    public: &'a [u8],
}

/// A COSE algorithm, how it is verified, and its hash.
type CoseAlgorithm = (i32, &'static dyn VerificationAlgorithm, TpmHash);

const RSA: [CoseAlgorithm; 7] = [
    (-65_535, &signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, TpmHash::Sha1),
    (-257, &signature::RSA_PKCS1_2048_8192_SHA256, TpmHash::Sha256),
    (-258, &signature::RSA_PKCS1_2048_8192_SHA384, TpmHash::Sha384),
    (-259, &signature::RSA_PKCS1_2048_8192_SHA512, TpmHash::Sha512),
    (-37, &signature::RSA_PSS_2048_8192_SHA256, TpmHash::Sha256),
    (-38, &signature::RSA_PSS_2048_8192_SHA384, TpmHash::Sha384),
    (-39, &signature::RSA_PSS_2048_8192_SHA512, TpmHash::Sha512),
];

impl Statement<'_> {
    /// The algorithm under which the certificate's key signed, of those of its kind.
    fn check_signature(&self, leaf: &Certificate<'_>) -> Result<(i32, TpmHash), Rejection> {
        let (key, algorithms): (&[u8], &[CoseAlgorithm]) = match leaf.subject_key()? {
            SubjectKey::Rsa(key) => (key.der, &RSA),
            SubjectKey::P256(point) => (point, &[(-7, &signature::ECDSA_P256_SHA256_ASN1, TpmHash::Sha256)]),
            SubjectKey::P384(point) => (point, &[(-35, &signature::ECDSA_P384_SHA384_ASN1, TpmHash::Sha384)]),
            SubjectKey::P521(point) => (point, &[(-36, &signature::ECDSA_P521_SHA512_ASN1, TpmHash::Sha512)]),
            SubjectKey::RsaPss(_) | SubjectKey::RsaOaep(_) | SubjectKey::Ed25519(_) => {
                return Err(TpmReason::Scheme.because("an RSA or ECDSA key", "another"));
            }
        };
        let signed = |(_, algorithm, _): &&CoseAlgorithm| {
            UnparsedPublicKey::new(*algorithm, key).verify(self.info, self.signature).is_ok()
        };
        let found = algorithms.iter().find(signed).map(|(cose, _, hash)| (*cose, *hash));
        found.ok_or_else(|| TpmReason::Signature.because("a signature of the certificate's key", "one that is not"))
    }

    /// Part 1, 16: nameAlg || H(TPMT_PUBLIC). Only the two fields in front are read, so that a key of any kind is.
    fn check_name(&self, name: &[u8]) -> Result<(), Rejection> {
        let mut reader = Reader::new(self.public);
        let name_alg = reader.u16_be().and_then(|_kind| reader.u16_be());
        let name_alg = name_alg.map_err(|error| TpmReason::Malformed.because("TPMT_PUBLIC", error))?;
        let hash = TpmHash::from_id(name_alg)?;
        let digest = digest::digest(engine(hash), self.public);
        let computed = [&name_alg.to_be_bytes(), digest.as_ref()].concat();
        if computed == name {
            return Ok(());
        }
        Err(TpmReason::CertifiedName.because(hex::encode(name), hex::encode(computed)))
    }
}

pub(super) fn engine(hash: TpmHash) -> &'static digest::Algorithm {
    match hash {
        TpmHash::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        TpmHash::Sha256 => &digest::SHA256,
        TpmHash::Sha384 => &digest::SHA384,
        TpmHash::Sha512 => &digest::SHA512,
    }
}

/// A certification as it was recorded.
struct Certification<'a> {
    qualified_signer: &'a [u8],
    extra_data: &'a [u8],
    clock: u64,
    reset_count: u32,
    restart_count: u32,
    safe: u8,
    firmware_version: u64,
    name: &'a [u8],
    qualified_name: &'a [u8],
}

impl<'a> Certification<'a> {
    fn read(bytes: &'a [u8]) -> Result<Result<Self, Rejection>, ReadError> {
        let mut reader = Reader::new(bytes);
        let magic = reader.u32_be()?;
        if magic != TPM_GENERATED {
            let expected = format_args!("{TPM_GENERATED:#010x}");
            return Ok(Err(TpmReason::Magic.because(expected, format_args!("{magic:#010x}"))));
        }
        let kind = reader.u16_be()?;
        if kind != CERTIFY {
            return Ok(Err(TpmReason::Type.because("a certification", format_args!("{kind:#06x}"))));
        }
        let certification = Self {
            qualified_signer: reader.tpm2b()?,
            extra_data: reader.tpm2b()?,
            clock: reader.u64_be()?,
            reset_count: reader.u32_be()?,
            restart_count: reader.u32_be()?,
            safe: reader.u8()?,
            firmware_version: reader.u64_be()?,
            name: reader.tpm2b()?,
            qualified_name: reader.tpm2b()?,
        };
        reader.finish()?;
        Ok(Ok(certification))
    }

    /// 8.3: the hash of the authenticator data and of the client data's hash.
    fn check_extra_data(&self, hash: TpmHash, auth_data: &[u8], client_data: &[u8]) -> Result<(), Rejection> {
        let client_data_hash = digest::digest(&digest::SHA256, client_data);
        let bound = digest::digest(engine(hash), &[auth_data, client_data_hash.as_ref()].concat());
        if bound.as_ref() == self.extra_data {
            return Ok(());
        }
        Err(TpmReason::Signature.because(hex::encode(bound), hex::encode(self.extra_data)))
    }

    fn fields(&self) -> Value {
        json!({
            "magic": format!("{TPM_GENERATED:08x}"),
            "type": format!("{CERTIFY:#06x}"),
            "qualifiedSigner": hex::encode(self.qualified_signer),
            "extraData": hex::encode(self.extra_data),
            "clock": self.clock,
            "resetCount": self.reset_count,
            "restartCount": self.restart_count,
            "safe": self.safe,
            "firmwareVersion": format!("{:016x}", self.firmware_version),
            "name": hex::encode(self.name),
            "qualifiedName": hex::encode(self.qualified_name),
            "trailing": 0,
        })
    }
}

fn missing(what: &str) -> Judgement {
    Judgement::Rejected(BundleReason::Missing.because(TPM_CERTIFY, format_args!("no file for {what}")))
}
