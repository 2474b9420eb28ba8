//! A relying party without a clock asks for the newest pulse, signed over its nonce.

use std::sync::Mutex;

use countersign_attestation::UnixMillis;
use countersign_attestation::nonce_pulse::{KIND, NONCE_BYTES, NonceClaims, NonceRequest};
use countersign_attestation::pulse::Pulse;

use crate::broker::Broker;
use crate::problem::{Problem, Refusal};

/// Answers in a second, and at once: each costs a signature, and anyone may ask.
const PER_SECOND: u64 = 500;

/// How many may be answered now: as many as were not lately.
#[derive(Debug)]
pub(super) struct Allowance(Mutex<(u64, UnixMillis)>);

impl Default for Allowance {
    fn default() -> Self {
        Self(Mutex::new((PER_SECOND * 1000, UnixMillis(0))))
    }
}

impl Allowance {
    /// Takes one, where there is one.
    fn take(&self, now: UnixMillis) -> bool {
        let Ok(mut state) = self.0.lock() else { return false };
        let (left, since) = *state;
        // In thousandths, so that a millisecond brings a part of one.
        let left = left.saturating_add(now.since(since).saturating_mul(PER_SECOND)).min(PER_SECOND * 1000);
        let (left, taken) = left.checked_sub(1000).map_or((left, false), |left| (left, true));
        *state = (left, now);
        taken
    }
}

impl Broker {
    /// The newest pulse, signed over a nonce. Its basis and end are those of the pulse: nothing is known anew.
    ///
    /// # Errors
    /// A [`Problem`] where nothing can be said, or too many ask.
    pub fn answer_nonce(&self, request: NonceRequest) -> Result<String, Problem> {
        if request.nonce.0.len() != NONCE_BYTES {
            return Err(Refusal::Malformed.because(format!("a nonce of {NONCE_BYTES} bytes"), request.nonce.0.len()));
        }
        Refusal::check_clock(self.clock.error())?;
        let now = self.clock.now();
        if !self.nonces.take(now) {
            return Err(Refusal::NonceRate.plain());
        }
        let newest = self.pulse.newest().ok_or_else(|| Refusal::NotReady.plain())?;
        newest.check_unexpired(now)?;
        let claims = NonceClaims { nonce: request.nonce, pulse: Pulse { iat: now, ..newest.pulse.clone() } };
        self.keys.token.sign(KIND, &claims.to_payload()).map_err(|_| Refusal::Internal.plain())
    }
}

#[cfg(test)]
mod tests {
    use countersign_attestation::UnixMillis;

    use super::{Allowance, PER_SECOND};

    #[test]
    fn so_many_in_a_second_and_no_more() {
        let (allowance, now) = (Allowance::default(), UnixMillis(1_800_000_000_000));
        let taken = |now| (0..2 * PER_SECOND).filter(|_| allowance.take(now)).count();
        assert_eq!(taken(now), 500);
        assert_eq!(taken(now.plus(10)), 5);
        assert_eq!(taken(now.plus(60_000)), 500, "nobody saves up");
        assert_eq!(taken(now), 0, "nor does a clock that goes back bring any");
    }
}
