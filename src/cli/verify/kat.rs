//! Known answers of the TPM's key derivation and of TPM2_MakeCredential (`tpm-kat`, `tpm-make-credential`): not
//! evidence, but what the library computes with.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use countersign_attestation::Rejection;
use countersign_attestation::evidence::tpm::TpmReason;
use countersign_attestation::evidence::tpm::algorithm::TpmHash;
use countersign_attestation::evidence::tpm::credential::{
    ActivationSecret, EndorsementKey, make_credential, share_seed,
};
use countersign_attestation::evidence::tpm::kdf::{kdfa, kdfe};
use countersign_attestation::evidence::tpm::public::{Key, KeyScheme, Public};
use countersign_attestation::reader::Reader;
use num_bigint::BigUint;
use serde::Deserialize;
use serde_json::json;

use super::certify::engine;
use super::{CaseError, CaseFiles, Judgement};

/// Public exponent of every key that is read.
const RSA_EXPONENT: u32 = 65_537;

/// Magic and version of the file `tpm2_makecredential` writes.
const MAKE_CREDENTIAL_HEADER: [u8; 8] = [0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];

/// A list of known answers of one function; which, its members say.
#[derive(Deserialize)]
#[serde(untagged)]
enum KnownAnswers {
    Kdfa(Vec<Kdfa>),
    Kdfe(Vec<Kdfe>),
    Rsa(Vec<RsaEncapsulation>),
    Ecc(Vec<EccEncapsulation>),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kdfa {
    name: String,
    hash_alg: u16,
    key: String,
    label: String,
    context_u: String,
    context_v: String,
    bits: u32,
    result: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kdfe {
    name: String,
    hash_alg: u16,
    z: String,
    label: String,
    context_u: String,
    context_v: String,
    bits: u32,
    result: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RsaEncapsulation {
    name: String,
    label: String,
    #[serde(rename = "OAEPSalt")]
    oaep_salt: String,
    public_key: String,
    secret: String,
    ciphertext: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EccEncapsulation {
    name: String,
    label: String,
    ephemeral_private: String,
    public_key: String,
    secret: String,
    ciphertext: String,
}

/// Judges a list of known answers: every one must be what is computed here.
///
/// # Errors
/// [`CaseError`] when the file cannot be read.
pub fn judge(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(text) = files.read("vectors")? else { return Ok(Judgement::Rejected(unreadable("no file"))) };
    let answers: KnownAnswers = match serde_json::from_slice(&text) {
        Ok(answers) => answers,
        Err(error) => return Ok(Judgement::Rejected(unreadable(error))),
    };
    let counted = match &answers {
        KnownAnswers::Kdfa(answers) => check_all(answers, Kdfa::check),
        KnownAnswers::Kdfe(answers) => check_all(answers, Kdfe::check),
        KnownAnswers::Rsa(answers) => check_all(answers, RsaEncapsulation::check),
        KnownAnswers::Ecc(answers) => check_all(answers, EccEncapsulation::check),
    };
    Ok(match counted {
        Ok(count) => Judgement::Accepted(json!({ "details": { "vectors": count } })),
        Err(rejection) => Judgement::Rejected(rejection),
    })
}

fn check_all<T>(answers: &[T], check: impl Fn(&T) -> Result<(), Rejection>) -> Result<usize, Rejection> {
    if answers.is_empty() {
        return Err(unreadable("an empty list"));
    }
    answers.iter().try_for_each(check).map(|()| answers.len())
}

impl Kdfa {
    fn check(&self) -> Result<(), Rejection> {
        let (key, u, v) = (bytes(&self.key)?, bytes(&self.context_u)?, bytes(&self.context_v)?);
        let derived = kdfa(TpmHash::from_id(self.hash_alg)?, &key, self.label.as_bytes(), &u, &v, self.bits);
        same(&self.name, &self.result, &derived)
    }
}

impl Kdfe {
    fn check(&self) -> Result<(), Rejection> {
        let (z, u, v) = (bytes(&self.z)?, bytes(&self.context_u)?, bytes(&self.context_v)?);
        let derived = kdfe(TpmHash::from_id(self.hash_alg)?, &z, &terminated(&self.label), &u, &v, self.bits);
        same(&self.name, &self.result, &derived)
    }
}

impl EccEncapsulation {
    fn check(&self) -> Result<(), Rejection> {
        let (public, ephemeral) = (bytes(&self.public_key)?, bytes(&self.ephemeral_private)?);
        let mut draw = |scalar: &mut [u8]| {
            scalar.fill(0);
            let at = scalar.len().saturating_sub(ephemeral.len());
            // A scalar longer than the field leaves zeros, which no curve takes.
            if let Some(place) = scalar.get_mut(at..).filter(|place| place.len() == ephemeral.len()) {
                place.copy_from_slice(&ephemeral);
            }
        };
        let shared = share_seed(&Public::read(&public)?, &terminated(&self.label), &mut draw);
        let (seed, point) = shared.ok_or_else(|| unreadable("a key the engine refuses"))?;
        same(&self.name, &self.secret, &seed)?;
        same(&self.name, &self.ciphertext, &point)
    }
}

impl RsaEncapsulation {
    /// The engine draws OAEP's padding itself, so an answer with a known one is computed beside it (RFC 8017, 7.1.1).
    fn check(&self) -> Result<(), Rejection> {
        let public = bytes(&self.public_key)?;
        let public = Public::read(&public)?;
        let Key::Rsa { modulus } = public.key() else { return Err(unreadable("no RSA key")) };
        // TPM 2.0 Part 1, B.4: a key with a scheme uses its hash, a storage key its nameAlg.
        let hash = match public.scheme() {
            KeyScheme::Oaep(hash) => hash,
            KeyScheme::Null
            | KeyScheme::RsaSsa(_)
            | KeyScheme::RsaPss(_)
            | KeyScheme::RsaEs
            | KeyScheme::Ecdsa(_)
            | KeyScheme::Ecdh(_)
            | KeyScheme::EcMqv(_) => public.name_alg(),
        };
        let padded =
            oaep(hash, modulus.len(), &terminated(&self.label), &bytes(&self.oaep_salt)?, &bytes(&self.secret)?)
                .ok_or_else(|| unreadable("a secret longer than its key"))?;
        let number = BigUint::from_bytes_be(&padded);
        let encrypted = number.modpow(&RSA_EXPONENT.into(), &BigUint::from_bytes_be(modulus)).to_bytes_be();
        let zeros = vec![0; modulus.len().saturating_sub(encrypted.len())];
        same(&self.name, &self.ciphertext, &[zeros, encrypted].concat())
    }
}

/// EME-OAEP encoding with MGF1 of the same hash.
fn oaep(hash: TpmHash, size: usize, label: &[u8], salt: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    let algorithm = engine(hash);
    let block_size = size.checked_sub(hash.size())?.checked_sub(1)?;
    let padding = block_size.checked_sub(hash.size())?.checked_sub(message.len())?.checked_sub(1)?;
    let mut block = digest::digest(algorithm, label).as_ref().to_vec();
    block.resize(block.len().checked_add(padding)?, 0);
    block.push(1);
    block.extend_from_slice(message);
    let mut seed = salt.to_vec();
    mask(algorithm, &mut block, &seed);
    mask(algorithm, &mut seed, &block);
    Some([&[0], seed.as_slice(), block.as_slice()].concat())
}

/// MGF1 (RFC 8017, B.2.1), over `target`.
fn mask(algorithm: &'static digest::Algorithm, target: &mut [u8], seed: &[u8]) {
    for (counter, chunk) in (0_u32..).zip(target.chunks_mut(algorithm.output_len())) {
        let block = digest::digest(algorithm, &[seed, &counter.to_be_bytes()].concat());
        chunk.iter_mut().zip(block.as_ref()).for_each(|(byte, mask)| *byte ^= mask);
    }
}

/// A recorded TPM2_MakeCredential: its inputs, the randomness it drew, and what it made.
#[derive(Deserialize)]
struct Made {
    /// TPM2B_PUBLIC of the EK.
    ek_tpm2b_public: String,
    ak_name: String,
    /// What is wrapped: bytes, hex.
    secret: String,
    /// The seed of an RSA EK.
    #[serde(default)]
    seed_hex: Option<String>,
    /// The ephemeral key of an ECC EK, decimal.
    #[serde(default)]
    ephemeral_private_decimal: Option<String>,
    /// Every other member; `credential_blob*` are (beginnings of) what was made.
    #[serde(flatten)]
    rest: BTreeMap<String, Member>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Member {
    Text(String),
    Other(serde::de::IgnoredAny),
}

/// Judges a recorded TPM2_MakeCredential.
///
/// # Errors
/// [`CaseError`] when the file cannot be read.
pub fn judge_make_credential(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(text) = files.read("vector")? else { return Ok(Judgement::Rejected(unreadable("no file"))) };
    let made: Made = match serde_json::from_slice(&text) {
        Ok(made) => made,
        Err(error) => return Ok(Judgement::Rejected(unreadable(error))),
    };
    Ok(match made.check() {
        Ok(bytes) => Judgement::Accepted(json!({ "bytes_compared": bytes })),
        Err(rejection) => Judgement::Rejected(rejection),
    })
}

impl Made {
    /// Compares what is made here with what was recorded, and says how many bytes were.
    fn check(&self) -> Result<usize, Rejection> {
        let public = bytes(&self.ek_tpm2b_public)?;
        let mut reader = Reader::new(&public);
        let area = reader.tpm2b().and_then(|area| reader.finish().map(|()| area)).map_err(unreadable)?;
        let ek = EndorsementKey::from_public(area)?;
        let secret = bytes(&self.secret)?.try_into().map_err(|_| unreadable("a secret of another size than 32"))?;
        let drawn = match (&self.seed_hex, &self.ephemeral_private_decimal) {
            (Some(seed), None) => bytes(seed)?,
            (_, Some(scalar)) => {
                BigUint::parse_bytes(scalar.as_bytes(), 10).ok_or_else(|| unreadable("no number"))?.to_bytes_be()
            }
            (None, None) => return Err(unreadable("neither a seed nor an ephemeral key")),
        };
        let mut draw = |place: &mut [u8]| {
            place.fill(0);
            let at = place.len().saturating_sub(drawn.len());
            if let Some(place) = place.get_mut(at..).filter(|place| place.len() == drawn.len()) {
                place.copy_from_slice(&drawn);
            }
        };
        let made = make_credential(&ek, &bytes(&self.ak_name)?, &ActivationSecret::new(secret), &mut draw)?;
        let sized = |part: &[u8]| u16::try_from(part.len()).map(u16::to_be_bytes).map_err(unreadable);
        let file = [
            &MAKE_CREDENTIAL_HEADER[..],
            &sized(&made.credential_blob)?,
            &made.credential_blob,
            &sized(&made.encrypted_secret)?,
            &made.encrypted_secret,
        ]
        .concat();
        let mut compared = 0;
        for (name, value) in self.rest.iter().filter(|(name, _)| name.starts_with("credential_blob")) {
            let Member::Text(recorded) = value else { return Err(unreadable("no text")) };
            let recorded = bytes(recorded)?;
            // Under an RSA EK the padding is random: only what comes before it can be equal.
            same(name, &hex::encode(&recorded), file.get(..recorded.len()).unwrap_or(&file))?;
            compared = compared.max(recorded.len());
        }
        if compared == 0 { Err(unreadable("nothing to compare with")) } else { Ok(compared) }
    }
}

/// A label with the zero that KDFe and OAEP want at its end.
fn terminated(label: &str) -> Vec<u8> {
    [label.as_bytes(), &[0]].concat()
}

fn bytes(text: &str) -> Result<Vec<u8>, Rejection> {
    hex::decode(text).map_err(unreadable)
}

fn same(name: &str, known: &str, computed: &[u8]) -> Result<(), Rejection> {
    let computed = hex::encode(computed);
    if computed == known.to_ascii_lowercase() {
        return Ok(());
    }
    Err(TpmReason::Credential.because(format_args!("{name}: {known}"), computed))
}

fn unreadable(found: impl std::fmt::Display) -> Rejection {
    TpmReason::Malformed.because("known answers with their inputs", found)
}
