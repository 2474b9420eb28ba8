//! A pulse for a relying party without a clock: signed over a nonce of its own, so that it was signed after that was
//! sent, and believed by a steady clock alone from then on.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::protocol::Base64Bytes;
use crate::pulse::{Class, Pulse};
use crate::rejection::{Rejection, reasons};
use crate::result::ResultReason;
use crate::result::jws::{self, JwkSet, Kind};
use crate::result::svid::TrustDomain;
use crate::time::UnixMillis;
use crate::verified::Verified;

reasons! {
    /// Why an answer to a nonce is refused.
    NoncePulseReason {
        /// Another asker's, or one's own of before.
        Nonce = "nonce_pulse.nonce",
            "the answer is not to the nonce that was sent",
            "ask again; each nonce is for one answer";
        /// `iat` is when it was signed: what is left of the pulse counts from then.
        Signed = "nonce_pulse.signed",
            "the answer was not signed between the basis and the end of its pulse",
            "see the broker's clock";
    }
}

/// `typ` and size: a pulse and a nonce.
pub const KIND: Kind = Kind { typ: "countersign-nonce-pulse+jwt", bytes_max: 128 * 1024 };

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 32;

/// What is asked: `POST /v1/pulses/nonce`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NonceRequest {
    /// Random bytes, never used before.
    pub nonce: Base64Bytes,
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NonceClaims {
    /// The nonce that was sent.
    pub nonce: Base64Bytes,
    /// The newest pulse; its `iat` is when this was signed.
    pub pulse: Pulse,
}

impl NonceClaims {
    /// The payload to sign.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        // Strings and integers only: writing them cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// A nonce that was sent and not answered yet. It is used up by the answer, and cannot be copied.
#[derive(Debug)]
pub struct Outstanding {
    nonce: [u8; NONCE_BYTES],
    sent_at_ms: u64,
}

impl Outstanding {
    /// A nonce, sent no earlier than at `sent_at_ms` of the asker's steady clock.
    #[must_use]
    pub const fn new(nonce: [u8; NONCE_BYTES], sent_at_ms: u64) -> Self {
        Self { nonce, sent_at_ms }
    }

    /// The request.
    #[must_use]
    pub fn request(&self) -> NonceRequest {
        NonceRequest { nonce: Base64Bytes(self.nonce.to_vec()) }
    }
}

/// An answer: a pulse, and when it was asked for.
#[derive(Debug)]
pub struct Answered {
    pulse: Verified<Pulse>,
    sent_at_ms: u64,
}

impl Answered {
    /// Checks an answer, once, whatever a wall clock says.
    ///
    /// # Errors
    /// A `result.token` reason, one of the pulse, or a [`NoncePulseReason`]. The nonce is used up.
    pub fn verify(
        token: &str,
        keys: &JwkSet,
        trust_domain: &TrustDomain,
        asked: Outstanding,
    ) -> Result<Self, Rejection> {
        let Outstanding { nonce, sent_at_ms } = asked;
        let pulse = jws::verify_with(KIND, token, keys, |payload| {
            let claims: NonceClaims = serde_json::from_slice(payload)
                .map_err(|error| ResultReason::Payload.because("a nonce and a pulse", error))?;
            if claims.nonce.0 != nonce {
                return Err(NoncePulseReason::Nonce.because("the nonce that was sent", "another"));
            }
            Ok(claims.pulse)
        })?;
        pulse.check_claims(trust_domain)?;
        if pulse.iat < pulse.basis || pulse.exp <= pulse.iat {
            let expected = alloc::format!("from {} to before {}", pulse.basis, pulse.exp);
            return Err(NoncePulseReason::Signed.because(expected, pulse.iat));
        }
        Ok(Self { pulse, sent_at_ms })
    }

    /// When the broker signed it, by the broker's clock: after the nonce was sent.
    #[must_use]
    pub fn signed_at(&self) -> UnixMillis {
        self.pulse.iat
    }

    /// When it was asked for, by the asker's steady clock.
    #[must_use]
    pub const fn sent_at_ms(&self) -> u64 {
        self.sent_at_ms
    }

    /// The moment of the asker's steady clock from which the pulse is not believed: what was left of it when it was
    /// signed, counted from when that was asked for, which was before.
    #[must_use]
    pub fn until_ms(&self, class: Class) -> u64 {
        self.sent_at_ms.saturating_add(self.pulse.end_for(class).since(self.pulse.iat))
    }

    /// The pulse.
    #[must_use]
    pub fn into_pulse(self) -> Verified<Pulse> {
        self.pulse
    }
}
