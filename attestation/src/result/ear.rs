//! EAR, the attestation result (draft-ietf-rats-ear-04) as a JWT: what the broker found, in the terms of AR4SI, bound
//! to the credential key.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::anchor::Assurance;
use crate::digest::Sha256Digest;
use crate::pulse::CLOCK_ERROR_MAX_MS;
use crate::rejection::Rejection;
use crate::result::ResultReason;
use crate::result::jws::{self, JwkSet, Kind, Thumbprint};
use crate::result::svid::{SpiffeId, TrustDomain};
use crate::time::UnixMillis;
use crate::verified::Verified;

/// `typ` and size of an EAR. It travels in HTTP headers, which servers commonly cut at 8 KiB.
pub const KIND: Kind = Kind { typ: "JWT", bytes_max: 8 * 1024 };

/// `eat_profile` (draft 04, 3.1).
pub const PROFILE: &str = "tag:ietf.org,2026:rats/ear#04";

/// The type of an EAR in a conceptual message wrapper (RFC 9711, 10.3).
pub const MEDIA_TYPE: &str = "application/eat+jwt; eat_profile=\"tag:ietf.org,2026:rats/ear#04\"";

/// The claims of an EAR. Times are Unix time in seconds (RFC 7519). Every claim but the waivers is
/// required, none other is read.
/// What is trusted is a [`Verified<Ear>`] alone, and [`Ear::verify`] makes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ear {
    /// [`PROFILE`].
    pub eat_profile: String,
    /// The trust domain that vouches.
    pub iss: TrustDomain,
    /// The host, as its X.509-SVID names it.
    pub sub: SpiffeId,
    /// When the decision was made.
    pub iat: u64,
    /// Not to be used from this moment on.
    pub exp: u64,
    /// The decision id, the same as in the X.509-SVID.
    pub jti: Sha256Digest,
    /// The credential key: without it the token proves nothing.
    pub cnf: Confirmation,
    /// Which verifier appraised.
    pub ear_verifier_id: VerifierId,
    /// One appraisal for each technology: `tpm`, `snp`, `tdx`, `paravisor`.
    pub submods: BTreeMap<String, Submodule>,
    /// Reference into a status list (draft-ietf-oauth-status-list-21, 6.2).
    pub status: StatusClaim,
    /// What the weakest trust anchor is worth.
    #[serde(rename = "countersign.assurance")]
    pub assurance: Assurance,
    /// The host's generation: a revocation ends all credentials of the generations before.
    #[serde(rename = "countersign.generation")]
    pub generation: u64,
    /// Index of the decision's leaf in the lineage log.
    #[serde(rename = "countersign.log_index")]
    pub log_index: u64,
    /// Ids of the signed waivers that the host would have been denied without; left out where it stands by itself.
    #[serde(rename = "countersign.waivers", default, skip_serializing_if = "Vec::is_empty")]
    pub waivers: Vec<String>,
}

/// `cnf` (RFC 7800, 3.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// RFC 7638 thumbprint of the credential key, base64url (RFC 9449, 6.1).
    pub jkt: String,
}

/// `ear_verifier_id` (AR4SI, 3.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifierId {
    /// Who makes the verifier.
    pub developer: String,
    /// Its build.
    pub build: String,
}

/// `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusClaim {
    /// Which list, and where in it.
    pub status_list: StatusReference,
}

/// `status_list` in a referenced token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusReference {
    /// Index in the list.
    pub idx: u64,
    /// URI of the list: the `sub` of its token.
    pub uri: String,
}

/// The appraisal of one submodule (draft 04, 3.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submodule {
    /// The worst tier of the vector.
    pub ear_status: Tier,
    /// The vector.
    pub ear_trustworthiness_vector: TrustVector,
}

impl Submodule {
    /// The appraisal with this vector, and the status that follows from it.
    #[must_use]
    pub fn new(vector: TrustVector) -> Self {
        Self { ear_status: vector.tier(), ear_trustworthiness_vector: vector }
    }
}

/// Tier of a trustworthiness claim (AR4SI, 2.3.2), best last for none: no claim is no statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Nothing is claimed.
    None,
    /// The claim affirms.
    Affirming,
    /// Worth a warning.
    Warning,
    /// Contradicts trust.
    Contraindicated,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Affirming => "affirming",
            Self::Warning => "warning",
            Self::Contraindicated => "contraindicated",
        })
    }
}

/// A trustworthiness vector (AR4SI, 2.3.5): claims that were made, absent where none was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrustVector {
    /// The attester is the one it says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_identity: Option<i8>,
    /// Its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<i8>,
    /// What it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executables: Option<i8>,
    /// Its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_system: Option<i8>,
    /// Its hardware and firmware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<i8>,
    /// Whether others can see into it as it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_opaque: Option<i8>,
    /// Whether others can see what it stores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_opaque: Option<i8>,
    /// Data from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sourced_data: Option<i8>,
}

impl TrustVector {
    /// The worst tier among the claims.
    #[must_use]
    pub fn tier(&self) -> Tier {
        let claims = [
            self.instance_identity,
            self.configuration,
            self.executables,
            self.file_system,
            self.hardware,
            self.runtime_opaque,
            self.storage_opaque,
            self.sourced_data,
        ];
        claims.into_iter().flatten().map(tier).max().unwrap_or(Tier::None)
    }
}

/// AR4SI, 2.3.2: -1 to 1 say nothing; from there the tiers end at 31, 95 and 127, and mirror below zero one further.
const fn tier(claim: i8) -> Tier {
    match claim {
        -1..=1 => Tier::None,
        2..=31 | -32..=-2 => Tier::Affirming,
        32..=95 | -96..=-33 => Tier::Warning,
        96..=127 | -128..=-97 => Tier::Contraindicated,
    }
}

impl Ear {
    /// The payload to sign.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        // Strings, integers and string keys only: writing them cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Checks an EAR of `trust_domain` under the broker's `keys` at `now`, presented by whoever proved possession of
    /// the key `holder`. There is no way to read one without naming the holder: an EAR is not a bearer token.
    ///
    /// # Errors
    /// A [`ResultReason`] of the `result.token` or `result.ear` group.
    pub fn verify(
        token: &str,
        keys: &JwkSet,
        trust_domain: &TrustDomain,
        holder: &Thumbprint,
        now: UnixMillis,
    ) -> Result<Verified<Self>, Rejection> {
        let ear = jws::verify::<Self>(KIND, token, keys)?;
        if ear.eat_profile != PROFILE {
            return Err(ResultReason::EarProfile.because(PROFILE, &ear.eat_profile));
        }
        if ear.iss != *trust_domain || *ear.sub.trust_domain() != *trust_domain {
            return Err(ResultReason::EarIssuer.because(trust_domain, format!("{} for {}", ear.iss, ear.sub)));
        }
        // Compared in milliseconds, so that the last second is not given twice.
        if ear.exp.saturating_mul(1000) <= now.0 {
            return Err(ResultReason::EarExpired.because(format!("before {}", ear.exp), now));
        }
        if now.plus(CLOCK_ERROR_MAX_MS).0 < ear.iat.saturating_mul(1000) {
            return Err(ResultReason::EarNotYetIssued.because(format!("at most {}", now.seconds()), ear.iat));
        }
        let holder = holder.to_string();
        if ear.cnf.jkt != holder {
            return Err(ResultReason::EarHolder.because(holder, &ear.cnf.jkt));
        }
        ear.check_status()?;
        Ok(ear)
    }

    /// A status better than its vector would hide a warning; one worse would cry wolf. Both contradict.
    fn check_status(&self) -> Result<(), Rejection> {
        if self.submods.is_empty() {
            return Err(ResultReason::EarStatus.because("at least one submodule", "none"));
        }
        for (name, submodule) in &self.submods {
            let tier = submodule.ear_trustworthiness_vector.tier();
            if submodule.ear_status != tier {
                let (expected, found) = (format!("{name}: {tier}"), submodule.ear_status);
                return Err(ResultReason::EarStatus.because(expected, found));
            }
        }
        Ok(())
    }
}
