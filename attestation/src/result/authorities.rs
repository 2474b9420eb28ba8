//! What a broker says of its own keys: token keys, roots and issuing certificates, the next ones before they are used.
//! Relying parties learn of the next token key from the one they hold; a key that they hold says who comes after it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::protocol::Base64Bytes;
use crate::pulse::CLOCK_ERROR_MAX_MS;
use crate::rejection::Rejection;
use crate::result::ResultReason;
use crate::result::jws::{self, JwkSet, Kind};
use crate::result::svid::TrustDomain;
use crate::time::UnixMillis;
use crate::verified::Verified;

/// `typ` and size: 32 keys, and as many certificates of 2 KiB in base64.
pub const KIND: Kind = Kind { typ: "countersign-authorities+jwt", bytes_max: 128 * 1024 };

/// The certificates of a kind that are named at most.
const CERTIFICATES_MAX: usize = 16;

/// How long a statement is believed, milliseconds. It is signed anew at half of that.
pub const LIFE_MS: u64 = 600_000;

/// The statement. What is trusted is a [`Verified<Authorities>`] alone, and [`Authorities::verify`] makes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorities {
    /// The trust domain.
    pub iss: TrustDomain,
    /// When it was made. A later statement replaces an earlier one, whole.
    pub iat: UnixMillis,
    /// Not to be learnt from any more from this moment on.
    pub exp: UnixMillis,
    /// The token keys: whose tokens are believed, the next one among them before it signs.
    pub keys: JwkSet,
    /// The workload CA's roots, DER. They are no news to whoever pinned them, and prove nothing to whoever did not.
    pub roots: Vec<Base64Bytes>,
    /// Certificates that complete the path of a leaf which came alone, DER. Each is checked under a root like others.
    pub issuing: Vec<Base64Bytes>,
}

impl Authorities {
    /// The payload to sign.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        // Strings, integers and string keys only: writing them cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Checks a statement under the `keys` that are held at `now`.
    ///
    /// # Errors
    /// A [`ResultReason`] of the `result.token` or `result.authorities` group.
    pub fn verify(
        token: &str,
        keys: &JwkSet,
        trust_domain: &TrustDomain,
        now: UnixMillis,
    ) -> Result<Verified<Self>, Rejection> {
        let authorities = jws::verify::<Self>(KIND, token, keys)?;
        if authorities.iss != *trust_domain {
            return Err(ResultReason::AuthoritiesIssuer.because(trust_domain, &authorities.iss));
        }
        let (iat, exp) = (authorities.iat, authorities.exp);
        if now.plus(CLOCK_ERROR_MAX_MS) < iat || exp <= now || iat.plus(LIFE_MS) < exp {
            let expected = format!("a time from {iat} until {exp}, {LIFE_MS} ms later at most");
            return Err(ResultReason::AuthoritiesDates.because(expected, now));
        }
        if [&authorities.roots, &authorities.issuing].iter().any(|list| CERTIFICATES_MAX < list.len()) {
            let found = format!("{} roots, {} issuing", authorities.roots.len(), authorities.issuing.len());
            return Err(
                ResultReason::Payload.because(format!("at most {CERTIFICATES_MAX} certificates of a kind"), found)
            );
        }
        Ok(authorities)
    }

    /// The issuing certificates, DER.
    pub fn issuing(&self) -> impl Iterator<Item = &[u8]> {
        self.issuing.iter().map(|certificate| certificate.0.as_slice())
    }
}

/// As JSON: the JWKS document.
impl Serialize for JwkSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.document().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JwkSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let document = jws::JwkSetDocument::deserialize(deserializer)?;
        Self::from_document(document).map_err(|rejection| serde::de::Error::custom(String::from(rejection.found())))
    }
}
