//! What a TPM attests (TPM 2.0 Part 2, 10.12), how it signs it (11.3) and public areas of its keys (12.2).
//!
//! The readers here show more than a verifier believes: other kinds of attestation, algorithms that nothing is trusted
//! with. Whether a verifier takes the form is said beside the fields.

use aws_lc_rs::digest;
use countersign_attestation::Rejection;
use countersign_attestation::evidence::tpm::algorithm::TpmHash;
use countersign_attestation::evidence::tpm::attest::{Attest, TpmSignature};
use countersign_attestation::evidence::tpm::public::Public;
use countersign_attestation::reader::{ReadError, Reader};

use super::document::{Fields, Part, Standing, Value};
use super::{Unreadable, algorithm};

/// TPM_GENERATED_VALUE.
const TPM_GENERATED: [u8; 4] = *b"\xffTCG";

/// More banks than a TPM has algorithms for (HASH_COUNT is 16 in the reference code).
const BANKS_MAX: u32 = 16;

/// TPM_ST (Part 2, 6.9) of attestations.
const ATTESTATIONS: [(u16, &str); 8] = [
    (0x8014, "TPM_ST_ATTEST_NV"),
    (0x8015, "TPM_ST_ATTEST_COMMAND_AUDIT"),
    (0x8016, "TPM_ST_ATTEST_SESSION_AUDIT"),
    (0x8017, "TPM_ST_ATTEST_CERTIFY"),
    (0x8018, "TPM_ST_ATTEST_QUOTE"),
    (0x8019, "TPM_ST_ATTEST_TIME"),
    (0x801a, "TPM_ST_ATTEST_CREATION"),
    (0x801c, "TPM_ST_ATTEST_NV_DIGEST"),
];

/// TPMA_OBJECT (Part 2, 8.3.2).
const OBJECT_ATTRIBUTES: [(u32, &str); 12] = [
    (1, "fixedTPM"),
    (2, "stClear"),
    (4, "fixedParent"),
    (5, "sensitiveDataOrigin"),
    (6, "userWithAuth"),
    (7, "adminWithPolicy"),
    (8, "firmwareLimited"),
    (10, "noDA"),
    (11, "encryptedDuplication"),
    (16, "restricted"),
    (17, "decrypt"),
    (18, "sign"),
];

/// TPM_GENERATED_VALUE at the start, or after a TPM2B size.
pub(super) fn recognise_attest(bytes: &[u8]) -> bool {
    bytes.starts_with(&TPM_GENERATED) || bytes.get(2..6) == Some(&TPM_GENERATED[..])
}

/// A TPMT_PUBLIC or TPM2B_PUBLIC to the last byte.
pub(super) fn recognise_public(bytes: &[u8]) -> bool {
    public(bytes).is_ok()
}

/// A TPMT_SIGNATURE to the last byte.
pub(super) fn recognise_signature(bytes: &[u8]) -> bool {
    signature(bytes).is_ok()
}

/// TPMS_ATTEST or TPM2B_ATTEST; then TPMT_SIGNATURE and TPM2B_PUBLIC where they follow.
pub(super) fn attest(bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    let sized = bytes.get(2..6) == Some(&TPM_GENERATED[..]);
    let mut reader = Reader::new(bytes);
    let body = if sized {
        reader.tpm2b().map_err(in_structure("TPM2B_ATTEST"))?
    } else {
        // A bare TPMS_ATTEST does not say where it ends: its own fields do.
        let mut ahead = reader;
        attest_fields(&mut ahead).map_err(in_structure("TPMS_ATTEST"))?;
        reader.bytes(ahead.offset()).map_err(in_structure("TPMS_ATTEST"))?
    };
    let mut parts = vec![attest_part(body)?];
    if let Some(left) = rest(reader).filter(|left| !left.is_empty()) {
        parts.push(signature_part(&mut reader).map_err(|why| format!("{why}, in the {} bytes after it", left.len()))?);
    } else if let Some(attest) = parts.first_mut() {
        attest.standing = Standing::SignedElsewhere;
    }
    if rest(reader).is_some_and(|left| !left.is_empty()) {
        let area = reader.tpm2b().map_err(in_structure("TPM2B_PUBLIC"))?;
        let mut part = public_part(area)?;
        part.because = "only its Name is signed, in a certification's name or a creation's objectName";
        parts.push(part);
    }
    reader.finish().map_err(in_structure("the file"))?;
    Ok(parts)
}

/// TPMT_SIGNATURE.
pub(super) fn signature(bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    let mut reader = Reader::new(bytes);
    let part = signature_part(&mut reader)?;
    reader.finish().map_err(in_structure("TPMT_SIGNATURE"))?;
    Ok(vec![part])
}

/// TPMT_PUBLIC or TPM2B_PUBLIC.
pub(super) fn public(bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    let mut reader = Reader::new(bytes);
    let area = match reader.tpm2b() {
        Ok(area) if reader.finish().is_ok() => area,
        Ok(_) | Err(_) => bytes,
    };
    public_part(area).map(|part| vec![part])
}

/// The bytes that are left.
fn rest(mut reader: Reader<'_>) -> Option<&[u8]> {
    let left = match reader.finish() {
        Ok(()) => 0,
        Err(ReadError::Trailing { left, .. } | ReadError::Short { left, .. }) => left,
    };
    reader.bytes(left).ok()
}

fn in_structure(structure: &'static str) -> impl Fn(ReadError) -> Unreadable {
    move |error| format!("{structure}: {error}")
}

/// Whether a verifier takes the form, which says nothing about who signed.
fn form<T>(read: Result<T, Rejection>) -> Value {
    match read {
        Ok(_) => "as a verifier takes it".into(),
        Err(rejection) => format!("a verifier refuses it: {rejection}").into(),
    }
}

fn attest_part(body: &[u8]) -> Result<Part, Unreadable> {
    let mut reader = Reader::new(body);
    let mut fields = attest_fields(&mut reader).map_err(in_structure("TPMS_ATTEST"))?;
    if let Err(error) = reader.finish() {
        fields.add("trailing", error.to_string());
    }
    fields.add("form", form(Attest::read(body)));
    let because = "the attestation key signs these bytes";
    Ok(Part { fields, ..Part::new("TPMS_ATTEST", Standing::SignedNotChecked, because) })
}

/// TPMS_ATTEST (Part 2, 10.12.12), field by field.
fn attest_fields(reader: &mut Reader<'_>) -> Result<Fields, ReadError> {
    let mut fields = Fields::default();
    let magic: [u8; 4] = reader.array()?;
    let generated = if magic == TPM_GENERATED { "TPM_GENERATED_VALUE" } else { "NOT TPM_GENERATED_VALUE" };
    fields.add("magic", format!("0x{} ({generated})", hex::encode(magic)));
    let kind = reader.u16_be()?;
    let name = ATTESTATIONS.iter().find(|(known, _)| *known == kind).map(|(_, name)| *name);
    fields.add("type", format!("{kind:#06x} ({})", name.unwrap_or("unknown")));
    fields.add("qualifiedSigner", Value::hex(reader.tpm2b()?));
    fields.add("extraData", Value::hex(reader.tpm2b()?));
    fields.add("clockInfo", clock_info(reader)?);
    fields.add("firmwareVersion", format!("{:#018x}", reader.u64_be()?));
    fields.add("attested", attested(kind, reader)?);
    Ok(fields)
}

/// TPMS_CLOCK_INFO (Part 2, 10.11.1).
fn clock_info(reader: &mut Reader<'_>) -> Result<Fields, ReadError> {
    let fields = Fields::default().with("clock", reader.u64_be()?);
    let fields = fields.with("resetCount", reader.u32_be()?).with("restartCount", reader.u32_be()?);
    Ok(match reader.u8()? {
        0 => fields.with("safe", false),
        1 => fields.with("safe", true),
        other => fields.with("safe", format!("neither 0 nor 1: {other}")),
    })
}

/// TPMU_ATTEST (Part 2, 10.12.11).
fn attested(kind: u16, reader: &mut Reader<'_>) -> Result<Fields, ReadError> {
    let fields = Fields::default();
    match kind {
        0x8014 => {
            let fields =
                fields.with("indexName", Value::hex(reader.tpm2b()?)).with("offset", u64::from(reader.u16_be()?));
            Ok(fields.with("nvContents", Value::hex(reader.tpm2b()?)))
        }
        0x8015 => {
            let fields = fields.with("auditCounter", reader.u64_be()?);
            let fields = fields.with("digestAlg", algorithm::name(reader.u16_be()?));
            let fields = fields.with("auditDigest", Value::hex(reader.tpm2b()?));
            Ok(fields.with("commandDigest", Value::hex(reader.tpm2b()?)))
        }
        0x8016 => {
            let fields = fields.with("exclusiveSession", reader.u8()?);
            Ok(fields.with("sessionDigest", Value::hex(reader.tpm2b()?)))
        }
        0x8017 => {
            let fields = fields.with("name", Value::hex(reader.tpm2b()?));
            Ok(fields.with("qualifiedName", Value::hex(reader.tpm2b()?)))
        }
        0x8018 => {
            let fields = fields.with("pcrSelect", Value::list(selection(reader)?.into_iter().map(SelectedBank::shown)));
            Ok(fields.with("pcrDigest", Value::hex(reader.tpm2b()?)))
        }
        0x8019 => {
            let fields = fields.with("time", reader.u64_be()?).with("clockInfo", clock_info(reader)?);
            Ok(fields.with("firmwareVersion", format!("{:#018x}", reader.u64_be()?)))
        }
        0x801a => {
            let fields = fields.with("objectName", Value::hex(reader.tpm2b()?));
            Ok(fields.with("creationHash", Value::hex(reader.tpm2b()?)))
        }
        0x801c => {
            let fields = fields.with("indexName", Value::hex(reader.tpm2b()?));
            Ok(fields.with("nvDigest", Value::hex(reader.tpm2b()?)))
        }
        _ => {
            let left = rest(*reader).unwrap_or_default();
            reader.bytes(left.len()).map(|unknown| fields.with("unknown", Value::hex(unknown)))
        }
    }
}

/// TPMS_PCR_SELECTION: of whichever algorithm and size.
pub(super) struct SelectedBank {
    pub(super) hash: u16,
    pub(super) pcrs: Vec<u64>,
}

impl SelectedBank {
    fn shown(self) -> Fields {
        Fields::default().with("hash", algorithm::name(self.hash)).with("pcrSelect", Value::list(self.pcrs))
    }
}

/// TPML_PCR_SELECTION (Part 2, 10.9.7), in the order of the list.
fn selection(reader: &mut Reader<'_>) -> Result<Vec<SelectedBank>, ReadError> {
    let count = reader.u32_be()?;
    let mut banks = Vec::new();
    // A longer list fails at what follows it.
    for _ in 0..count.min(BANKS_MAX) {
        let hash = reader.u16_be()?;
        let size = usize::from(reader.u8()?);
        let mut pcrs = Vec::new();
        for (byte, base) in reader.bytes(size)?.iter().zip((0_u64..).step_by(8)) {
            pcrs.extend((0..8).filter(|bit| byte >> bit & 1 == 1).map(|bit| base.saturating_add(bit)));
        }
        banks.push(SelectedBank { hash, pcrs });
    }
    Ok(banks)
}

/// The selection and digest of a TPM2B_ATTEST that is a quote.
pub(super) fn quoted(record: &[u8]) -> Option<(Vec<SelectedBank>, Vec<u8>)> {
    let body = Reader::new(record).tpm2b().ok()?;
    let mut reader = Reader::new(body);
    let head: [u8; 6] = reader.array().ok()?;
    let (_signer, _extra) = (reader.tpm2b().ok()?, reader.tpm2b().ok()?);
    let _clock_and_firmware = reader.bytes(25).ok()?;
    let banks = selection(&mut reader).ok().filter(|_| head == *b"\xffTCG\x80\x18")?;
    Some((banks, reader.tpm2b().ok()?.to_vec()))
}

/// TPMT_SIGNATURE (Part 2, 11.3.4).
fn signature_part(reader: &mut Reader<'_>) -> Result<Part, Unreadable> {
    let whole = rest(*reader).unwrap_or_default();
    let start = reader.offset();
    let short = in_structure("TPMT_SIGNATURE");
    let scheme = reader.u16_be().map_err(&short)?;
    let hash = reader.u16_be().map_err(&short)?;
    let part = Part::new(
        "TPMT_SIGNATURE",
        Standing::Claimed,
        "it is the signature; with which key it verifies, and whether, is open",
    )
    .with("sigAlg", algorithm::name(scheme))
    .with("hash", algorithm::name(hash));
    let part = match scheme {
        // RSASSA, RSAPSS
        0x14 | 0x16 => part.with("sig", Value::hex(reader.tpm2b().map_err(&short)?)),
        // ECDSA, ECDAA, SM2, ECSCHNORR
        0x18 | 0x1a..=0x1c => {
            let part = part.with("signatureR", Value::hex(reader.tpm2b().map_err(&short)?));
            part.with("signatureS", Value::hex(reader.tpm2b().map_err(&short)?))
        }
        other => return Err(format!("TPMT_SIGNATURE: {} signs nothing", algorithm::name(other))),
    };
    let read = reader.offset().saturating_sub(start);
    Ok(part.with("form", form(TpmSignature::read(whole.get(..read).unwrap_or_default()))))
}

fn public_part(area: &[u8]) -> Result<Part, Unreadable> {
    let mut reader = Reader::new(area);
    let mut fields = public_fields(&mut reader).map_err(in_structure("TPMT_PUBLIC"))?.ok_or("no kind of TPM key")?;
    reader.finish().map_err(in_structure("TPMT_PUBLIC"))?;
    let read = Public::read(area);
    if let Ok(public) = &read {
        let spki = countersign_attestation::digest::Sha256Digest::of(&[&public.spki()]);
        fields.add("Name (computed)", Value::hex(&public.name()));
        fields.add("SHA-256 of SubjectPublicKeyInfo (computed)", spki.to_hex());
    }
    fields.add("form", form(read));
    Ok(Part { fields, ..Part::new("TPMT_PUBLIC", Standing::Claimed, "a public area alone is signed by nobody") })
}

/// TPMT_PUBLIC (Part 2, 12.2.4), field by field; `None` for what is no kind of key.
fn public_fields(reader: &mut Reader<'_>) -> Result<Option<Fields>, ReadError> {
    let kind = reader.u16_be()?;
    let fields =
        Fields::default().with("type", algorithm::name(kind)).with("nameAlg", algorithm::name(reader.u16_be()?));
    let attributes = reader.u32_be()?;
    let named = OBJECT_ATTRIBUTES.iter().filter(|(bit, _)| attributes >> bit & 1 == 1).map(|(_, name)| *name);
    let fields = fields
        .with("objectAttributes", format!("{attributes:#010x}"))
        .with("objectAttributes (names)", Value::list(named))
        .with("authPolicy", Value::hex(reader.tpm2b()?));
    match kind {
        0x0001 => rsa_fields(fields, reader).map(Some),
        0x0023 => ecc_fields(fields, reader).map(Some),
        _ => Ok(None),
    }
}

/// TPMS_RSA_PARMS and TPM2B_PUBLIC_KEY_RSA.
fn rsa_fields(fields: Fields, reader: &mut Reader<'_>) -> Result<Fields, ReadError> {
    let fields = fields.with("symmetric", symmetric(reader)?).with("scheme", scheme(reader)?);
    let fields = fields.with("keyBits", u64::from(reader.u16_be()?));
    let exponent = match reader.u32_be()? {
        0 => "0 (65537)".to_owned(),
        other => other.to_string(),
    };
    Ok(fields.with("exponent", exponent).with("unique", Value::hex(reader.tpm2b()?)))
}

/// TPMS_ECC_PARMS and TPMS_ECC_POINT.
fn ecc_fields(fields: Fields, reader: &mut Reader<'_>) -> Result<Fields, ReadError> {
    let fields = fields.with("symmetric", symmetric(reader)?).with("scheme", scheme(reader)?);
    let fields = fields.with("curveID", algorithm::curve(reader.u16_be()?)).with("kdf", scheme(reader)?);
    Ok(fields.with("unique.x", Value::hex(reader.tpm2b()?)).with("unique.y", Value::hex(reader.tpm2b()?)))
}

/// TPMT_SYM_DEF_OBJECT.
fn symmetric(reader: &mut Reader<'_>) -> Result<String, ReadError> {
    match reader.u16_be()? {
        0x10 => Ok("null".to_owned()),
        cipher => {
            let (bits, mode) = (reader.u16_be()?, reader.u16_be()?);
            Ok(format!("{}-{bits}-{}", algorithm::name(cipher), algorithm::name(mode)))
        }
    }
}

/// A scheme and its hash; some have none.
fn scheme(reader: &mut Reader<'_>) -> Result<String, ReadError> {
    match reader.u16_be()? {
        none @ (0x10 | 0x15) => Ok(algorithm::name(none)),
        scheme => Ok(format!("{} with {}", algorithm::name(scheme), algorithm::name(reader.u16_be()?))),
    }
}

/// The digest of `bytes` with a TPM's hash.
pub(super) fn digest(hash: TpmHash, bytes: &[u8]) -> Vec<u8> {
    let engine = match hash {
        TpmHash::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        TpmHash::Sha256 => &digest::SHA256,
        TpmHash::Sha384 => &digest::SHA384,
        TpmHash::Sha512 => &digest::SHA512,
    };
    digest::digest(engine, bytes).as_ref().to_vec()
}
