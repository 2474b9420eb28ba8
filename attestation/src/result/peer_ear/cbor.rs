//! The CBOR claims of an EAR (draft-ietf-rats-ear-04, 3.3): integer labels, tiers as numbers. Writers use maps of
//! indefinite length here.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use minicbor::data::Type;
use minicbor::decode::{Decoder, Error};

use super::{Appraisal, PeerEar, SUBMODS_MAX, TOKEN_BYTES_MAX, malformed};
use crate::rejection::Rejection;
use crate::result::ResultReason;
use crate::result::ear::{Tier, TrustVector, VerifierId};

/// Claims: RFC 8392 (exp, nbf, iat), RFC 9711 (nonce, profile, submods) and draft 04.
const EXP: i64 = 4;
const NBF: i64 = 5;
const IAT: i64 = 6;
const EAT_NONCE: i64 = 10;
const EAT_PROFILE: i64 = 265;
const SUBMODS: i64 = 266;
const STATUS: i64 = 1000;
const TRUSTWORTHINESS_VECTOR: i64 = 1001;
const VERIFIER_ID: i64 = 1004;

#[derive(Default)]
struct Claims {
    profile: Option<String>,
    iat: Option<u64>,
    exp: Option<u64>,
    nbf: Option<u64>,
    nonces: Vec<String>,
    verifier: Option<VerifierId>,
    status: Option<Tier>,
    submods: BTreeMap<String, Appraisal>,
}

pub(super) fn read(bytes: &[u8]) -> Result<PeerEar, Rejection> {
    if TOKEN_BYTES_MAX < bytes.len() {
        return Err(ResultReason::TooLarge.because(format!("at most {TOKEN_BYTES_MAX} bytes"), bytes.len()));
    }
    let claims = read_claims(bytes).map_err(|error| malformed("the claims of an EAR in CBOR", &error.to_string()))?;
    let missing = |name: &str| malformed(name, "none");
    if claims.submods.is_empty() {
        return Err(missing("submods"));
    }
    Ok(PeerEar {
        profile: claims.profile.ok_or_else(|| missing("eat_profile"))?,
        iat: claims.iat.ok_or_else(|| missing("iat"))?,
        exp: claims.exp,
        nbf: claims.nbf,
        nonces: claims.nonces,
        verifier: claims.verifier.ok_or_else(|| missing("ear_verifier_id"))?,
        status: claims.status,
        submods: claims.submods,
    })
}

fn read_claims(bytes: &[u8]) -> Result<Claims, Error> {
    let mut decoder = Decoder::new(bytes);
    let mut claims = Claims::default();
    members(&mut decoder, Decoder::i64, |decoder, label| {
        match *label {
            EXP => claims.exp = Some(decoder.u64()?),
            NBF => claims.nbf = Some(decoder.u64()?),
            IAT => claims.iat = Some(decoder.u64()?),
            EAT_NONCE => claims.nonces = Vec::from([hex::encode(decoder.bytes()?)]),
            EAT_PROFILE => claims.profile = Some(decoder.str()?.to_string()),
            STATUS => claims.status = Some(tier(decoder)?),
            VERIFIER_ID => claims.verifier = Some(verifier(decoder)?),
            SUBMODS => claims.submods = submods(decoder)?,
            _ => decoder.skip()?,
        }
        Ok(())
    })?;
    if decoder.position() == bytes.len() { Ok(claims) } else { Err(Error::message("bytes after the claims")) }
}

fn verifier(decoder: &mut Decoder<'_>) -> Result<VerifierId, Error> {
    let (mut developer, mut build) = (None, None);
    members(decoder, Decoder::i64, |decoder, label| {
        match *label {
            0 => developer = Some(decoder.str()?.to_string()),
            1 => build = Some(decoder.str()?.to_string()),
            _ => return Err(Error::message("a member of the verifier's id that is not defined")),
        }
        Ok(())
    })?;
    match (developer, build) {
        (Some(developer), Some(build)) => Ok(VerifierId { developer, build }),
        _ => Err(Error::message("a verifier's id without developer or build")),
    }
}

fn submods(decoder: &mut Decoder<'_>) -> Result<BTreeMap<String, Appraisal>, Error> {
    let mut submods = BTreeMap::new();
    members(
        decoder,
        |decoder| decoder.str().map(ToString::to_string),
        |decoder, name| {
            if SUBMODS_MAX <= submods.len() {
                return Err(Error::message("more submodules than are read"));
            }
            submods.insert(name.clone(), appraisal(decoder)?);
            Ok(())
        },
    )?;
    Ok(submods)
}

fn appraisal(decoder: &mut Decoder<'_>) -> Result<Appraisal, Error> {
    let (mut status, mut vector) = (None, None);
    members(decoder, Decoder::i64, |decoder, label| {
        match *label {
            STATUS => status = Some(tier(decoder)?),
            TRUSTWORTHINESS_VECTOR => vector = Some(read_vector(decoder)?),
            _ => decoder.skip()?,
        }
        Ok(())
    })?;
    status.map(|status| Appraisal { status, vector }).ok_or_else(|| Error::message("a submodule without its status"))
}

fn read_vector(decoder: &mut Decoder<'_>) -> Result<TrustVector, Error> {
    let mut vector = TrustVector::default();
    members(decoder, Decoder::i64, |decoder, label| {
        let claim = Some(decoder.i8()?);
        match *label {
            0 => vector.instance_identity = claim,
            1 => vector.configuration = claim,
            2 => vector.executables = claim,
            3 => vector.file_system = claim,
            4 => vector.hardware = claim,
            5 => vector.runtime_opaque = claim,
            6 => vector.storage_opaque = claim,
            7 => vector.sourced_data = claim,
            _ => return Err(Error::message("a trustworthiness claim that is not defined")),
        }
        Ok(())
    })?;
    Ok(vector)
}

/// AR4SI, 2.3.2: a tier is named by the first of its values.
fn tier(decoder: &mut Decoder<'_>) -> Result<Tier, Error> {
    match decoder.i8()? {
        0 => Ok(Tier::None),
        2 => Ok(Tier::Affirming),
        32 => Ok(Tier::Warning),
        96 => Ok(Tier::Contraindicated),
        _ => Err(Error::message("a status that is not a tier of AR4SI")),
    }
}

/// Reads a map, each label once, of definite or indefinite length.
fn members<'b, K: PartialEq>(
    decoder: &mut Decoder<'b>,
    label: impl Fn(&mut Decoder<'b>) -> Result<K, Error>,
    mut member: impl FnMut(&mut Decoder<'b>, &K) -> Result<(), Error>,
) -> Result<(), Error> {
    let length = decoder.map()?;
    let mut seen = Vec::new();
    loop {
        let count = u64::try_from(seen.len()).unwrap_or(u64::MAX);
        match length {
            Some(length) if length <= count => return Ok(()),
            None if decoder.datatype()? == Type::Break => return decoder.skip(),
            Some(_) | None => {}
        }
        let name = label(decoder)?;
        if seen.contains(&name) {
            return Err(Error::message("a label twice"));
        }
        member(decoder, &name)?;
        seen.push(name);
    }
}
