//! JWT-SVID (SPIFFE JWT-SVID): the credential for services that know tokens and no client certificates. It speaks for
//! one audience, and names the credential key that its sender has to prove.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::pulse::CLOCK_ERROR_MAX_MS;
use crate::rejection::Rejection;
use crate::result::ResultReason;
use crate::result::ear::{Confirmation, StatusClaim};
use crate::result::jws::{self, JwkSet, Kind, Thumbprint};
use crate::result::svid::{SpiffeId, TrustDomain};
use crate::time::UnixMillis;
use crate::verified::Verified;

/// `typ` and size. It travels in HTTP headers.
pub const KIND: Kind = Kind { typ: "JWT", bytes_max: 4 * 1024 };

/// Longest audience.
pub const AUDIENCE_BYTES_MAX: usize = 256;

/// Audiences of one request: each gets a token of its own, so that no service can use another's.
pub const AUDIENCES_MAX: usize = 8;

/// The claims. Times are Unix time in seconds (RFC 7519). All are required, none other is read.
/// What is trusted is a [`Verified<JwtSvid>`] alone, and [`JwtSvid::verify`] makes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtSvid {
    /// The issuer, an https URL: where its keys are found (OpenID Connect Discovery 1.0).
    pub iss: String,
    /// The host, as its X.509-SVID names it.
    pub sub: SpiffeId,
    /// For whom: one audience.
    pub aud: [String; 1],
    /// When the decision was made.
    pub iat: u64,
    /// Not to be used from this moment on.
    pub exp: u64,
    /// This token: another for each decision and audience.
    pub jti: Sha256Digest,
    /// The credential key: without it the token proves nothing to a service that asks.
    pub cnf: Confirmation,
    /// Reference into a status list (draft-ietf-oauth-status-list-21, 6.2).
    pub status: StatusClaim,
    /// The decision id, the same as in the X.509-SVID and the EAR.
    #[serde(rename = "countersign.decision")]
    pub decision: Sha256Digest,
    /// The host's generation.
    #[serde(rename = "countersign.generation")]
    pub generation: u64,
}

/// Whom a verifier believes, who it is, and who stands before it.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The issuer.
    pub issuer: &'a str,
    /// The trust domain of the issuer's hosts.
    pub trust_domain: &'a TrustDomain,
    /// The verifier's own name.
    pub audience: &'a str,
    /// The key that the sender proved.
    pub holder: &'a Thumbprint,
}

impl JwtSvid {
    /// Names the token of a decision for an audience.
    #[must_use]
    pub fn id(decision: Sha256Digest, audience: &str) -> Sha256Digest {
        Sha256Digest::of(&[b"countersign/v1/jwt-svid\0", &decision.0, audience.as_bytes()])
    }

    /// Whether this can be an audience: printable, without spaces, neither empty nor longer than
    /// [`AUDIENCE_BYTES_MAX`].
    #[must_use]
    pub fn is_audience(text: &str) -> bool {
        (1..=AUDIENCE_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    }

    /// The payload to sign.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        // Strings, integers and string keys only: writing them cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Checks a token under the broker's `keys` at `now`.
    ///
    /// # Errors
    /// A [`ResultReason`] of the `result.token` or `result.jwt_svid` group.
    pub fn verify(
        token: &str,
        keys: &JwkSet,
        expected: Expected<'_>,
        now: UnixMillis,
    ) -> Result<Verified<Self>, Rejection> {
        let Expected { issuer, trust_domain, audience, holder } = expected;
        let svid = jws::verify::<Self>(KIND, token, keys)?;
        if svid.iss != issuer || *svid.sub.trust_domain() != *trust_domain {
            let expected = format!("{issuer} for {trust_domain}");
            return Err(ResultReason::JwtSvidIssuer.because(expected, format!("{} for {}", svid.iss, svid.sub)));
        }
        if svid.aud != [audience] {
            return Err(ResultReason::JwtSvidAudience.because(audience, svid.aud.concat()));
        }
        // Compared in milliseconds, so that the last second is not given twice.
        if svid.exp.saturating_mul(1000) <= now.0 {
            return Err(ResultReason::JwtSvidExpired.because(format!("before {}", svid.exp), now));
        }
        if now.plus(CLOCK_ERROR_MAX_MS).0 < svid.iat.saturating_mul(1000) {
            return Err(ResultReason::JwtSvidNotYetIssued.because(format!("at most {}", now.seconds()), svid.iat));
        }
        let holder = holder.to_string();
        if svid.cnf.jkt != holder {
            return Err(ResultReason::JwtSvidHolder.because(holder, &svid.cnf.jkt));
        }
        Ok(svid)
    }
}
