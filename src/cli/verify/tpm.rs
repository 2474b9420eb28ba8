//! TPM cases: a recorded quote (`tpm-quote`) with its key, PCR values and the nonce it was asked for with.

use std::collections::BTreeMap;

use countersign_attestation::Rejection;
use countersign_attestation::evidence::bundle::{BundleReason, TPM_PCRS, TPM_QUOTE};
use countersign_attestation::evidence::tpm::algorithm::TpmHash;
use countersign_attestation::evidence::tpm::attest::{Attested, BankSelection, TpmSignature};
use countersign_attestation::evidence::tpm::public::{Key, Public};
use countersign_attestation::evidence::tpm::quote::{
    RecordedKey, RecordedSignature, RecordedValues, VerifiedQuote, check_same_key, verify_recorded,
};
use countersign_attestation::evidence::tpm::{AttestationKey, TpmReason};
use countersign_attestation::protocol::Base64Bytes;
use countersign_attestation::reader::{ReadError, Reader};
use countersign_attestation::signature::Scheme;
use countersign_attestation::x509::public_key;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::eventlog::quote_replays;
use super::{CaseError, CaseFiles, Judgement};

/// Banks in tpm2-tools' own form of a selection (`TPML_PCR_SELECTION` as C lays it out).
const TOOLS_BANKS: usize = 16;

/// Bytes of a `TPM2B_DIGEST` as C lays it out: size, then room for SHA-512.
const TOOLS_DIGEST_ROOM: usize = 64;

/// The boot logs of a case: one, or one for each resume.
const LOG_ROLES: [&str; 9] = [
    "eventlog",
    "eventlog_1",
    "eventlog_2",
    "eventlog_3",
    "eventlog_4",
    "eventlog_5",
    "eventlog_6",
    "eventlog_7",
    "eventlog_8",
];

/// Judges a recorded quote. Without a nonce in the case, none was sent: the quote must carry none.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read, or its nonce is not hex.
pub fn judge_quote(files: CaseFiles<'_>, nonce: Option<&str>) -> Result<Judgement, CaseError> {
    let nonce = hex::decode(nonce.unwrap_or_default()).map_err(|_| CaseError::Nonce)?;
    let recorded = Recorded {
        quote: files.read("quote")?,
        signature: files.read("signature")?,
        signature_raw: files.read("signature_raw")?,
        ak_pub: files.read("ak_pub")?,
        ak_public: files.read("ak_tpmt_public")?,
        pcrs: files.read("pcrs")?,
        pcrs_tools: files.read("pcrs_tpm2tools")?,
        hcl_runtime: files.read("hcl_runtime_json")?,
        event_logs: LOG_ROLES.iter().filter_map(|role| files.read(role).transpose()).collect::<Result<_, _>>()?,
    };
    match recorded.judge(&nonce) {
        Ok(claims) => Ok(Judgement::Accepted(claims?)),
        Err(rejection) => Ok(Judgement::Rejected(rejection)),
    }
}

/// The files of a case, as they are.
struct Recorded {
    quote: Option<Vec<u8>>,
    signature: Option<Vec<u8>>,
    signature_raw: Option<Vec<u8>>,
    ak_pub: Option<Vec<u8>>,
    ak_public: Option<Vec<u8>>,
    pcrs: Option<Vec<u8>>,
    pcrs_tools: Option<Vec<u8>>,
    hcl_runtime: Option<Vec<u8>>,
    event_logs: Vec<Vec<u8>>,
}

impl Recorded {
    fn judge(&self, nonce: &[u8]) -> Result<serde_json::Result<serde_json::Value>, Rejection> {
        let quote = self.quote.as_deref().ok_or_else(|| missing("a quote"))?;
        let values = self.values()?;
        let spki = self.ak_pub.as_deref().map(read_spki).transpose()?;
        let ak = self.ak_public.as_deref().map(AttestationKey::from_public).transpose()?;
        let key = match (&ak, &spki) {
            (Some(ak), Some(spki)) => {
                check_same_key(ak, spki)?;
                RecordedKey::Enrolled(ak)
            }
            (Some(ak), None) => RecordedKey::Enrolled(ak),
            (None, Some(spki)) => RecordedKey::Spki(spki),
            (None, None) => return Err(missing("an attestation key")),
        };
        // Where the signature was recorded in two forms, both must hold.
        let tpmt = self.signature.iter().map(|bytes| match TpmSignature::read(bytes) {
            Err(_) if bytes.len() % 32 == 0 => RecordedSignature::Raw(bytes),
            Ok(_) | Err(_) => RecordedSignature::Tpmt(bytes),
        });
        let raw = self.signature_raw.iter().map(|bytes| RecordedSignature::Raw(bytes));
        let mut verified = None;
        for signature in tpmt.chain(raw) {
            verified = Some(verify_recorded(quote, signature, key, &values, nonce)?);
        }
        let verified = verified.ok_or_else(|| missing("a signature"))?;
        if let Some(runtime) = &self.hcl_runtime {
            check_hcl_key(runtime, ak.as_ref(), spki.as_deref())?;
        }
        let mut details = details(&verified);
        self.describe_signature(&mut details);
        // What the logs explain is only said: a quote is genuine whatever they do. `eventlog-replay` judges them.
        if !self.event_logs.is_empty() {
            details.insert("eventlog_replay".to_owned(), quote_replays(&self.event_logs, &values));
        }
        if let Some(ak) = &ak {
            let attributes = Public::read(ak.public())?.attributes();
            details.insert("ak_name".to_owned(), hex::encode(ak.name()).into());
            details.insert("ak_attributes".to_owned(), format!("{:08x}", attributes.bits()).into());
        }
        Ok(claims(&verified, ak.as_ref(), details))
    }

    /// What a TPMT_SIGNATURE says of itself.
    fn describe_signature(&self, details: &mut Map<String, Value>) {
        let Some(Ok(signature)) = self.signature.as_deref().map(TpmSignature::read) else { return };
        let (scheme, hash) = match signature {
            TpmSignature::RsaSsa { hash, .. } => ("rsassa", hash),
            TpmSignature::RsaPss { hash, .. } => ("rsapss", hash),
            TpmSignature::Ecdsa { hash, .. } => ("ecdsa", hash),
        };
        details.insert("sig_alg".to_owned(), scheme.into());
        details.insert("sig_hash".to_owned(), hash.name().into());
    }

    fn values(&self) -> Result<RecordedValues, Rejection> {
        match (&self.pcrs, &self.pcrs_tools) {
            (Some(json), None) => read_json_values(json),
            (None, Some(tools)) => read_tools_values(tools)
                .map_err(|error| TpmReason::PcrValues.because("values as tpm2_quote writes them", error))?
                .ok_or_else(|| TpmReason::PcrValues.because("a value for each selected PCR", "another number")),
            (None, None) => Err(BundleReason::Missing.because(TPM_PCRS, "no PCR values")),
            (Some(_), Some(_)) => Err(TpmReason::PcrValues.because("one set of values", "two")),
        }
    }
}

fn missing(what: &str) -> Rejection {
    BundleReason::Missing.because(TPM_QUOTE, format_args!("no file for {what}"))
}

/// A paravisor's runtime data (Azure's HCL report): members that are named twice are refused.
#[derive(Deserialize)]
struct HclRuntime {
    keys: Vec<HclKey>,
}

#[derive(Deserialize)]
struct HclKey {
    kid: String,
    kty: String,
    n: Base64Bytes,
    e: Base64Bytes,
}

/// The paravisor names the AK by its key, so keys are compared, not names.
fn check_hcl_key(runtime: &[u8], ak: Option<&AttestationKey>, spki: Option<&[u8]>) -> Result<(), Rejection> {
    let expected = "the AK as the one HCLAkPub of the runtime data";
    let other = |found: &str| TpmReason::AkCertificate.because(expected, found);
    let runtime: HclRuntime = serde_json::from_slice(runtime).map_err(|error| other(&error.to_string()))?;
    let mut named = runtime.keys.iter().filter(|key| key.kid == "HCLAkPub");
    let (Some(key), None) = (named.next(), named.next()) else { return Err(other("none, or several")) };
    if key.kty != "RSA" || key.e.0 != [1, 0, 1] {
        return Err(other("a key of another type"));
    }
    let same = match (ak, spki) {
        (Some(ak), _) => matches!(Public::read(ak.public())?.key(), Key::Rsa { modulus } if modulus == key.n.0),
        (None, Some(spki)) => {
            let numbers = [&[0], key.n.0.as_slice()].concat();
            public_key(Scheme::RsaPkcs1Sha256, spki)?.key().windows(numbers.len()).any(|window| window == numbers)
        }
        (None, None) => false,
    };
    if same { Ok(()) } else { Err(other("another key")) }
}

/// The signed structure under the names of a manifest's details.
fn details(quote: &VerifiedQuote<'_>) -> Map<String, Value> {
    let mut details = Map::new();
    let clock = quote.clock();
    let mut say = |name: &str, value: Value| details.insert(name.to_owned(), value);
    say("signature_valid", true.into());
    say("qualified_signer", hex::encode(quote.qualified_signer()).into());
    say("clock", clock.clock.into());
    say("reset_count", clock.reset_count.into());
    say("restart_count", clock.restart_count.into());
    say("safe", u8::from(clock.safe).into());
    say("firmware_version", format!("{:016x}", quote.firmware_version()).into());
    if let Attested::Quote { selection, pcr_digest } = &quote.attest().attested {
        let entry = |bank: &BankSelection| serde_json::json!({ "bank": bank.bank.name(), "pcrs": bank.indexes().collect::<Vec<_>>() });
        say("pcr_select", selection.iter().map(entry).collect());
        say("pcr_digest", hex::encode(pcr_digest).into());
    }
    details
}

fn claims(
    quote: &VerifiedQuote<'_>,
    ak: Option<&AttestationKey>,
    details: Map<String, Value>,
) -> serde_json::Result<Value> {
    let bank_unused = quote.check_banks_used().is_err();
    Ok(serde_json::json!({
        "ak_name": ak.map(|ak| hex::encode(ak.name())),
        "qualified_signer": hex::encode(quote.qualified_signer()),
        "pcrs": serde_json::to_value(quote.pcrs())?,
        "firmware_bank_unused": bank_unused,
        "firmware_version": quote.firmware_version(),
        "clock": serde_json::to_value(quote.clock())?,
        "details": details,
    }))
}

pub(super) fn read_spki(pem: &[u8]) -> Result<Vec<u8>, Rejection> {
    SubjectPublicKeyInfoDer::from_pem_slice(pem)
        .map(|spki| spki.as_ref().to_vec())
        .map_err(|_| TpmReason::Malformed.because("a PEM public key", "none"))
}

/// `{"sha256": {"0": "hex", …}, …}`.
pub(super) fn read_json_values(json: &[u8]) -> Result<RecordedValues, Rejection> {
    let refused = |found: String| TpmReason::PcrValues.because("JSON of bank, index and hex value", found);
    let banks: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_slice(json).map_err(|error| refused(error.to_string()))?;
    let mut values = RecordedValues::new();
    for (bank_name, pcrs) in banks {
        let known = [TpmHash::Sha1, TpmHash::Sha256, TpmHash::Sha384, TpmHash::Sha512];
        let bank = known.into_iter().find(|bank| bank.name() == bank_name);
        let bank = bank.ok_or_else(|| TpmReason::Bank.because("sha1, sha256, sha384 or sha512", &bank_name))?;
        for (index_text, value) in pcrs {
            let index: u8 = index_text.parse().map_err(|_| refused(index_text.clone()))?;
            let value = hex::decode(&value).map_err(|_| refused(value.clone()))?;
            if values.entry(bank).or_default().insert(index, value).is_some() {
                return Err(refused(format!("{index_text} twice")));
            }
        }
    }
    Ok(values)
}

/// What `tpm2_quote -o` writes: the selection and the values in memory layout, little-endian. The selection here only
/// says which value is which; the signed one decides. `None` when the counts do not agree.
pub(super) fn read_tools_values(bytes: &[u8]) -> Result<Option<RecordedValues>, ReadError> {
    let mut reader = Reader::new(bytes);
    let u16_le = |reader: &mut Reader<'_>| reader.array::<2>().map(u16::from_le_bytes);
    let bank_count = reader.u32_le()?;
    let mut selected = Vec::new();
    for position in 0..TOOLS_BANKS {
        let bank = TpmHash::from_id(u16_le(&mut reader)?);
        let [size, a, b, c, d] = reader.array::<5>()?;
        reader.bytes(1)?;
        if u32::try_from(position).is_ok_and(|position| bank_count <= position) {
            continue;
        }
        let (Ok(bank), 3 | 4) = (bank, size) else { return Ok(None) };
        let pcrs = u32::from_le_bytes([a, b, c, d]);
        selected.extend((0..32_u8).filter(|index| pcrs >> index & 1 == 1).map(|index| (bank, index)));
    }
    let list_count = reader.u32_le()?;
    let mut listed = Vec::new();
    for _ in 0..list_count {
        let count = reader.u32_le()?;
        for position in 0..8 {
            let size = usize::from(u16_le(&mut reader)?);
            let value = reader.bytes(TOOLS_DIGEST_ROOM)?.get(..size);
            match (value, position < count) {
                (Some(value), true) => listed.push(value.to_vec()),
                (None, true) => return Ok(None),
                (_, false) => {}
            }
        }
    }
    reader.finish()?;
    if listed.len() != selected.len() {
        return Ok(None);
    }
    let mut values = RecordedValues::new();
    for ((bank, index), value) in selected.into_iter().zip(listed) {
        if values.entry(bank).or_default().insert(index, value).is_some() {
            return Ok(None);
        }
    }
    Ok(Some(values))
}
