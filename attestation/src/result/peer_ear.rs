//! EARs of other verifiers: both vocabularies that are in use (draft-ietf-rats-ear-04, and the dotted names of the
//! drafts before it), as JWT, as claims without a signature, and in CBOR. Our own EAR is [`super::ear`]; it is read
//! more strictly, since we know all of it.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::cmw::Cmw;
use crate::json;
use crate::pulse::CLOCK_ERROR_MAX_MS;
use crate::rejection::Rejection;
use crate::result::ResultReason;
use crate::result::ear::{PROFILE, Tier, TrustVector, VerifierId};
use crate::result::jws::{self, Jwk};
use crate::time::UnixMillis;
use crate::verified::Verified;

mod cbor;

/// Longest token: annotated evidence makes peers' results long.
const TOKEN_BYTES_MAX: usize = 256 * 1024;

/// Submodules of one result.
const SUBMODS_MAX: usize = 64;

/// Which names a profile gives its claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vocabulary {
    /// `ear.status`: profiles before draft 04.
    Dotted,
    /// `ear_status`: draft 04.
    Underscored,
}

/// The profiles that are read (EAT, RFC 9711, 6), each with its vocabulary.
const PROFILES: [(&str, Vocabulary); 3] = [
    (PROFILE, Vocabulary::Underscored),
    ("tag:github.com,2023:veraison/ear", Vocabulary::Dotted),
    ("tag:github.com,2024:confidential-containers/Trustee", Vocabulary::Dotted),
];

impl Vocabulary {
    fn of_profile(profile: &str) -> Result<Self, Rejection> {
        let known = PROFILES.iter().find(|(name, _)| *name == profile).map(|(_, vocabulary)| *vocabulary);
        known.ok_or_else(|| {
            let names: Vec<_> = PROFILES.iter().map(|(name, _)| *name).collect();
            ResultReason::EarProfile.because(names.join(" or "), profile)
        })
    }

    const fn status(self) -> &'static str {
        match self {
            Self::Dotted => "ear.status",
            Self::Underscored => "ear_status",
        }
    }

    const fn vector(self) -> &'static str {
        match self {
            Self::Dotted => "ear.trustworthiness-vector",
            Self::Underscored => "ear_trustworthiness_vector",
        }
    }

    const fn verifier_id(self) -> &'static str {
        match self {
            Self::Dotted => "ear.verifier-id",
            Self::Underscored => "ear_verifier_id",
        }
    }

    const fn raw_evidence(self) -> &'static str {
        match self {
            Self::Dotted => "ear.raw-evidence",
            Self::Underscored => "ear_raw_evidence",
        }
    }

    const fn policy(self) -> &'static str {
        match self {
            Self::Dotted => "ear.appraisal-policy-id",
            Self::Underscored => "ear_appraisal_policy_ids",
        }
    }

    /// How the other vocabulary's names begin: a reader of that one would take another status from the same claims.
    const fn foreign_prefix(self) -> &'static str {
        match self {
            Self::Dotted => "ear_",
            Self::Underscored => "ear.",
        }
    }

    fn check_members(self, members: &Map<String, Value>) -> Result<(), Rejection> {
        match members.keys().find(|name| name.starts_with(self.foreign_prefix())) {
            Some(name) => Err(malformed("names of one vocabulary", &format!("{name} too"))),
            None => Ok(()),
        }
    }
}

/// The appraisal of one submodule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appraisal {
    /// The verifier's summary. It is never better than the worst claim of the vector; [`PeerEar`] checks that.
    pub status: Tier,
    /// What it rests on, where the verifier says.
    pub vector: Option<TrustVector>,
}

/// An attestation result of another verifier. [`Self::verify`] is the only way to a [`Verified`] one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEar {
    /// `eat_profile`.
    pub profile: String,
    /// `iat`, seconds.
    pub iat: u64,
    /// `exp`, seconds; peers may leave it out.
    pub exp: Option<u64>,
    /// `nbf`, seconds.
    pub nbf: Option<u64>,
    /// `eat_nonce`.
    pub nonces: Vec<String>,
    /// Who appraised.
    pub verifier: VerifierId,
    /// The overall status, where there is one.
    pub status: Option<Tier>,
    /// The appraisals, at least one.
    pub submods: BTreeMap<String, Appraisal>,
}

/// What a relying party asks of a result beside its signature.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The nonce that the result must answer; `None` where none was sent.
    pub nonce: Option<&'a str>,
    /// The time of the reading.
    pub now: UnixMillis,
}

impl PeerEar {
    /// Checks a signed result under the one `key` of its verifier and accepts it only where every submodule affirms. A
    /// key in the token's header is not read.
    ///
    /// # Errors
    /// A [`ResultReason`] of the `result.token` or `result.ear` group.
    pub fn verify(token: &str, key: &Jwk, asked: &Asked<'_>) -> Result<Verified<Self>, Rejection> {
        let ear = jws::verify_peer(token, TOKEN_BYTES_MAX, key, Self::read)?;
        ear.check(asked)?;
        ear.check_affirming()?;
        Ok(ear)
    }

    /// Reads claims that no signature covers, as JSON: what they say, not whether it is so.
    ///
    /// # Errors
    /// A [`ResultReason`] of the `result.token` or `result.ear` group.
    pub fn read(payload: &[u8]) -> Result<Self, Rejection> {
        let claims = object(payload)?;
        let profile = text(&claims, "eat_profile")?;
        let vocabulary = Vocabulary::of_profile(&profile)?;
        vocabulary.check_members(&claims)?;
        let verifier = serde_json::from_value(required(&claims, vocabulary.verifier_id())?.clone())
            .map_err(|error| malformed(vocabulary.verifier_id(), &error.to_string()))?;
        let status = claims.get(vocabulary.status()).map(read_tier).transpose()?;
        if let Some(evidence) = claims.get(vocabulary.raw_evidence()) {
            check_raw_evidence(vocabulary, evidence)?;
        }
        let submods = required(&claims, "submods")?.as_object();
        let submods = submods.ok_or_else(|| malformed("submods, an object", "another value"))?;
        let submods = read_submods_of(vocabulary, submods)?;
        let (iat, exp, nbf) =
            (seconds(required(&claims, "iat")?)?, optional_seconds(&claims, "exp")?, optional_seconds(&claims, "nbf")?);
        let nonces = read_nonces(&claims)?;
        let ear = Self { profile, iat, exp, nbf, nonces, verifier, status, submods };
        ear.check_consistent()?;
        Ok(ear)
    }

    /// Reads claims in CBOR (draft 04, 3.3), likewise.
    ///
    /// # Errors
    /// A [`ResultReason`] of the `result.token` or `result.ear` group.
    pub fn read_cbor(payload: &[u8]) -> Result<Self, Rejection> {
        let ear = cbor::read(payload)?;
        Vocabulary::of_profile(&ear.profile)?;
        ear.check_consistent()?;
        Ok(ear)
    }

    /// Whether the result is current and answers the nonce.
    ///
    /// # Errors
    /// A [`ResultReason`] of the `result.ear` group.
    pub fn check(&self, asked: &Asked<'_>) -> Result<(), Rejection> {
        let (now, soon) = (asked.now, asked.now.plus(CLOCK_ERROR_MAX_MS));
        if let Some(exp) = self.exp.filter(|exp| exp.saturating_mul(1000) <= now.0) {
            return Err(ResultReason::EarExpired.because(format!("before {exp}"), now));
        }
        let from = self.nbf.unwrap_or(self.iat).max(self.iat);
        if soon.0 < from.saturating_mul(1000) {
            return Err(ResultReason::EarNotYetIssued.because(format!("at most {}", now.seconds()), from));
        }
        match asked.nonce {
            Some(nonce) if !self.nonces.iter().any(|answered| answered == nonce) => {
                Err(ResultReason::EarNonce.because(nonce, self.nonces.join(", ")))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether every submodule affirms, and the whole where it has a status: none is not affirming.
    ///
    /// # Errors
    /// [`ResultReason::EarNotAffirming`].
    pub fn check_affirming(&self) -> Result<(), Rejection> {
        check_affirming(&self.submods)?;
        match self.status {
            Some(Tier::Affirming) | None => Ok(()),
            Some(status) => Err(ResultReason::EarNotAffirming.because(Tier::Affirming, format!("{status} overall"))),
        }
    }

    /// AR4SI, 2.3: a summary is never better than what it sums up.
    fn check_consistent(&self) -> Result<(), Rejection> {
        for (name, appraisal) in &self.submods {
            let worst = appraisal.vector.as_ref().map_or(Tier::None, TrustVector::tier);
            if understates(appraisal.status, worst) {
                return Err(ResultReason::EarStatus.because(format!("{name}: {worst} at best"), appraisal.status));
            }
        }
        let worst = self.submods.values().map(|appraisal| appraisal.status).max().unwrap_or(Tier::None);
        match self.status {
            Some(status) if understates(status, worst) => {
                Err(ResultReason::EarStatus.because(format!("{worst} overall at best"), status))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether `status` hides that something beneath is a warning or worse. None hides nothing: it does not affirm.
fn understates(status: Tier, worst: Tier) -> bool {
    Tier::Affirming < worst && status < worst
}

/// Reads appraisals alone: the value of `submods`, in whichever vocabulary all of them are.
///
/// # Errors
/// [`ResultReason::Payload`] or [`ResultReason::EarStatus`].
pub fn read_submods(submods: &[u8]) -> Result<BTreeMap<String, Appraisal>, Rejection> {
    let submods = object(submods)?;
    let underscored = Vocabulary::Underscored;
    let is = |submod: &Value| submod.get(underscored.status()).is_some();
    let vocabulary = if submods.values().any(is) { underscored } else { Vocabulary::Dotted };
    let submods = read_submods_of(vocabulary, &submods)?;
    for (name, appraisal) in &submods {
        let worst = appraisal.vector.as_ref().map_or(Tier::None, TrustVector::tier);
        if understates(appraisal.status, worst) {
            return Err(ResultReason::EarStatus.because(format!("{name}: {worst} at best"), appraisal.status));
        }
    }
    Ok(submods)
}

/// Whether there is a submodule and every one of them affirms.
///
/// # Errors
/// [`ResultReason::EarNotAffirming`].
pub fn check_affirming(submods: &BTreeMap<String, Appraisal>) -> Result<(), Rejection> {
    if submods.is_empty() {
        return Err(ResultReason::EarNotAffirming.because("at least one submodule", "none"));
    }
    match submods.iter().find(|(_, appraisal)| appraisal.status != Tier::Affirming) {
        Some((name, appraisal)) => {
            Err(ResultReason::EarNotAffirming.because(format!("{name}: {}", Tier::Affirming), appraisal.status))
        }
        None => Ok(()),
    }
}

fn read_submods_of(
    vocabulary: Vocabulary,
    submods: &Map<String, Value>,
) -> Result<BTreeMap<String, Appraisal>, Rejection> {
    if submods.is_empty() || SUBMODS_MAX < submods.len() {
        return Err(malformed("1 to 64 submodules", &submods.len().to_string()));
    }
    submods.iter().map(|(name, submod)| Ok((name.clone(), read_appraisal(vocabulary, submod)?))).collect()
}

fn read_appraisal(vocabulary: Vocabulary, submod: &Value) -> Result<Appraisal, Rejection> {
    let Value::Object(members) = submod else { return Err(malformed("a submodule, an object", "another value")) };
    vocabulary.check_members(members)?;
    let status = read_tier(required(members, vocabulary.status())?)?;
    let vector = match members.get(vocabulary.vector()) {
        Some(vector) => Some(
            serde_json::from_value(vector.clone())
                .map_err(|error| malformed(vocabulary.vector(), &error.to_string()))?,
        ),
        None => None,
    };
    match (vocabulary, members.get(vocabulary.policy())) {
        (_, None) | (Vocabulary::Dotted, Some(Value::String(_))) => {}
        (Vocabulary::Underscored, Some(Value::Array(ids))) if !ids.is_empty() && ids.iter().all(Value::is_string) => {}
        (_, Some(other)) => return Err(malformed(vocabulary.policy(), &other.to_string())),
    }
    Ok(Appraisal { status, vector })
}

fn read_tier(status: &Value) -> Result<Tier, Rejection> {
    serde_json::from_value(status.clone()).map_err(|error| malformed("a tier of AR4SI", &error.to_string()))
}

/// Draft 04 carries a CMW record, the drafts before it base64url.
fn check_raw_evidence(vocabulary: Vocabulary, evidence: &Value) -> Result<(), Rejection> {
    match (vocabulary, evidence) {
        (Vocabulary::Dotted, Value::String(text)) => URL_SAFE_NO_PAD
            .decode(text)
            .map(|_| ())
            .map_err(|error| malformed("raw evidence in base64url", &error.to_string())),
        (Vocabulary::Underscored, Value::Array(_)) => Cmw::decode(evidence.to_string().as_bytes()).map(|_| ()),
        (_, other) => Err(malformed(vocabulary.raw_evidence(), &other.to_string())),
    }
}

/// RFC 9711, 4.1: one text or several.
fn read_nonces(claims: &Map<String, Value>) -> Result<Vec<String>, Rejection> {
    let read = |nonce: &Value| {
        let text = nonce.as_str().map(ToString::to_string);
        text.ok_or_else(|| malformed("eat_nonce, a text", &nonce.to_string()))
    };
    match claims.get("eat_nonce") {
        None => Ok(Vec::new()),
        Some(Value::Array(nonces)) if !nonces.is_empty() => nonces.iter().map(read).collect(),
        Some(nonce) => Ok(Vec::from([read(nonce)?])),
    }
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, Rejection> {
    if TOKEN_BYTES_MAX < bytes.len() {
        return Err(ResultReason::TooLarge.because(format!("at most {TOKEN_BYTES_MAX} bytes"), bytes.len()));
    }
    let value = json::parse(bytes).map_err(|error| malformed("JSON with each member once", &error.to_string()))?;
    if let Value::Object(members) = value { Ok(members) } else { Err(malformed("an object", "another value")) }
}

fn required<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<&'a Value, Rejection> {
    claims.get(name).ok_or_else(|| malformed(name, "none"))
}

fn text(claims: &Map<String, Value>, name: &str) -> Result<String, Rejection> {
    let value = required(claims, name)?;
    let text = value.as_str().filter(|text| !text.is_empty()).map(ToString::to_string);
    text.ok_or_else(|| malformed(&format!("{name}, a text"), &value.to_string()))
}

/// NumericDate in whole seconds (RFC 7519, 2).
fn seconds(value: &Value) -> Result<u64, Rejection> {
    value.as_u64().ok_or_else(|| malformed("whole seconds since 1970", &value.to_string()))
}

fn optional_seconds(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, Rejection> {
    claims.get(name).map(seconds).transpose()
}

fn malformed(expected: &str, found: &str) -> Rejection {
    ResultReason::Payload.because(expected, found)
}
