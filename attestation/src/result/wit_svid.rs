//! WIT-SVID: the credential as a WIMSE workload identity token, and the proof that goes with each of its uses. Both are
//! drafts, and incubating in SPIFFE; a broker issues them only where its settings say so.
//!
//! The token alone is worth nothing: it has no audience, and whoever sees one request has it. [`WitSvid::verify`] is
//! the only way to its claims, and demands the proof.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::json;
use crate::pulse::CLOCK_ERROR_MAX_MS;
use crate::rejection::Rejection;
use crate::result::ResultReason;
use crate::result::ear::StatusClaim;
use crate::result::jws::{self, ALGORITHM, Jwk, JwkSet, Kind};
use crate::result::svid::{SpiffeId, TrustDomain};
use crate::time::UnixMillis;
use crate::verified::Verified;

/// Where the token is defined.
pub const WIT_DRAFT: &str = "draft-ietf-wimse-workload-creds-02";
/// Where the proof is.
pub const WPT_DRAFT: &str = "draft-ietf-wimse-wpt-02";

/// `typ` and size of the token. It travels in the header `Workload-Identity-Token`.
pub const KIND: Kind = Kind { typ: "wit+jwt", bytes_max: 4 * 1024 };
/// `typ` and size of the proof. It travels in `Authorization: WPT`.
pub const PROOF_KIND: Kind = Kind { typ: "wpt+jwt", bytes_max: 4 * 1024 };

/// A proof is for one request: longest time until its end, milliseconds.
pub const PROOF_LIFE_MAX_MS: u64 = 120_000;
/// Length of a proof's id: 128 random bits in base64url have 22 characters.
const PROOF_ID_BYTES: core::ops::RangeInclusive<usize> = 16..=128;

/// The claims (workload-creds-02, 3.1). Times are Unix time in seconds (RFC 7519). All are required, none other is
/// read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitSvid {
    /// The issuer, an https URL: where its keys are found.
    pub iss: String,
    /// The host, as its X.509-SVID names it.
    pub sub: SpiffeId,
    /// When the decision was made.
    pub iat: u64,
    /// Not to be used from this moment on: the end of the X.509-SVID.
    pub exp: u64,
    /// This token.
    pub jti: Sha256Digest,
    /// The credential key, which every use has to prove.
    pub cnf: ConfirmationKey,
    /// Reference into a status list (draft-ietf-oauth-status-list-21, 6.2).
    pub status: StatusClaim,
    /// The decision id, the same as in the X.509-SVID and the EAR.
    #[serde(rename = "countersign.decision")]
    pub decision: Sha256Digest,
}

/// `cnf` with the key itself (RFC 7800, 3.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfirmationKey {
    /// The key.
    pub jwk: ProofKey,
}

/// A P-256 key that proofs are signed with. `alg` is required in it (workload-creds-02, 3.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofKey {
    kty: String,
    crv: String,
    x: String,
    y: String,
    alg: String,
}

impl ProofKey {
    /// The key in a P-256 `SubjectPublicKeyInfo`, DER; `None` for any other key.
    #[must_use]
    pub fn of_spki(spki: &[u8]) -> Option<Self> {
        let (x, y) = jws::coordinates_of_spki(spki)?;
        Some(Self {
            kty: "EC".to_string(),
            crv: "P-256".to_string(),
            x: URL_SAFE_NO_PAD.encode(x),
            y: URL_SAFE_NO_PAD.encode(y),
            alg: ALGORITHM.to_string(),
        })
    }

    fn jwk(&self) -> Result<Jwk, Rejection> {
        if self.alg != ALGORITHM {
            return Err(ResultReason::Algorithm.because(ALGORITHM, &self.alg));
        }
        Jwk::of_peer(&serde_json::to_vec(self).unwrap_or_default())
    }
}

/// The claims of a proof (wpt-02, 2). Whatever else it binds, such as other tokens of the request, nobody here would
/// compare: it is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofClaims {
    /// The request's target URI, without query and fragment.
    pub aud: String,
    /// Not to be used from this moment on.
    pub exp: u64,
    /// This proof.
    pub jti: String,
    /// SHA-256 of the token, base64url.
    pub wth: String,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<u64>,
}

/// Whom a verifier believes, and what it was asked.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The issuer.
    pub issuer: &'a str,
    /// The trust domain of the issuer's hosts.
    pub trust_domain: &'a TrustDomain,
    /// The request's target URI, without query and fragment.
    pub audience: &'a str,
}

impl WitSvid {
    /// Names the token of a decision.
    #[must_use]
    pub fn id(decision: Sha256Digest) -> Sha256Digest {
        Sha256Digest::of(&[b"countersign/v1/wit-svid\0", &decision.0])
    }

    /// The payload to sign.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        // Strings, integers and string keys only: writing them cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Checks a token under the broker's `keys`, and the proof that came with it, at `now`. `is_new` is asked last,
    /// with the proof's id and end: whether it was not seen before. Whoever answers remembers it until that end.
    ///
    /// # Errors
    /// A [`ResultReason`] of the `result.token` or `result.wit` group.
    pub fn verify(
        token: &str,
        proof: &str,
        keys: &JwkSet,
        expected: Expected<'_>,
        now: UnixMillis,
        is_new: impl FnOnce(&str, UnixMillis) -> bool,
    ) -> Result<Verified<Self>, Rejection> {
        let svid = jws::verify::<Self>(KIND, token, keys)?;
        let Expected { issuer, trust_domain, .. } = expected;
        if svid.iss != issuer || *svid.sub.trust_domain() != *trust_domain {
            let expected = format!("{issuer} for {trust_domain}");
            return Err(ResultReason::WitIssuer.because(expected, format!("{} for {}", svid.iss, svid.sub)));
        }
        // Compared in milliseconds, so that the last second is not given twice.
        if svid.exp.saturating_mul(1000) <= now.0 {
            return Err(ResultReason::WitExpired.because(format!("before {}", svid.exp), now));
        }
        if now.plus(CLOCK_ERROR_MAX_MS).0 < svid.iat.saturating_mul(1000) {
            return Err(ResultReason::WitNotYetIssued.because(format!("at most {}", now.seconds()), svid.iat));
        }
        let key = svid.cnf.jwk.jwk()?;
        let proof = jws::verify_typed_peer::<ProofClaims>(PROOF_KIND, proof, &key, |payload| {
            json::parse(payload)
                .and_then(|_| serde_json::from_slice(payload))
                .map_err(|error| ResultReason::Payload.because("aud, exp, jti and wth, each once", error.to_string()))
        })?;
        check_proof(&proof, token, expected.audience, now, is_new)?;
        Ok(svid)
    }
}

/// wpt-02, 2: what is left to check of a proof that the key signed.
fn check_proof(
    proof: &ProofClaims,
    token: &str,
    audience: &str,
    now: UnixMillis,
    is_new: impl FnOnce(&str, UnixMillis) -> bool,
) -> Result<(), Rejection> {
    let hash = URL_SAFE_NO_PAD.encode(Sha256Digest::of(&[token.as_bytes()]).0);
    if proof.wth != hash {
        return Err(ResultReason::WitProofToken.because(hash, &proof.wth));
    }
    if proof.aud != audience {
        return Err(ResultReason::WitProofAudience.because(audience, &proof.aud));
    }
    let end = UnixMillis(proof.exp.saturating_mul(1000));
    let latest = now.plus(PROOF_LIFE_MAX_MS);
    let early = proof.iat.is_some_and(|iat| now.plus(CLOCK_ERROR_MAX_MS).0 < iat.saturating_mul(1000));
    if end <= now || latest < end || early {
        return Err(ResultReason::WitProofDates.because(format!("an end after {now} and up to {latest}"), end));
    }
    let plain = PROOF_ID_BYTES.contains(&proof.jti.len()) && proof.jti.bytes().all(|byte| byte.is_ascii_graphic());
    if !plain || !is_new(&proof.jti, end) {
        let expected = "an id of 16 to 128 characters that was not used before";
        return Err(ResultReason::WitProofReplayed.because(expected, proof.jti.escape_debug()));
    }
    Ok(())
}
