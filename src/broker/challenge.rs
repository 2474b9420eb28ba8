//! Challenges: authenticated, bound to one host, valid for thirty seconds, redeemed once.
//!
//! Making one keeps no state, so asking for challenges costs the broker nothing. Redeeming one does, and only enrolled
//! hosts can. The key lives as long as the process: a restart voids every outstanding challenge, which is what keeps
//! "once" true without a durable write.

use std::collections::BTreeMap;
use std::sync::Mutex;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_attestation::UnixMillis;
use countersign_attestation::binder::Nonce;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::HostId;
use countersign_attestation::reader::Reader;

use crate::keys::{KeyError, random};
use crate::problem::{Problem, Refusal};

/// How long a challenge can be redeemed.
pub const LIFE_MS: u64 = 30_000;

/// Makes and redeems challenges.
pub struct Challenges {
    key: hmac::Key,
    redeemed: Mutex<BTreeMap<(UnixMillis, Nonce), ()>>,
}

impl std::fmt::Debug for Challenges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Challenges").finish_non_exhaustive()
    }
}

/// A challenge as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// What the host sends back, opaque to it.
    pub token: String,
    /// What the binder is made with.
    pub nonce: Nonce,
    /// Void from this moment.
    pub expires_at: UnixMillis,
}

impl Challenges {
    /// A maker with a fresh key.
    ///
    /// # Errors
    /// [`KeyError`] when the operating system has no randomness.
    pub fn new() -> Result<Self, KeyError> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?);
        Ok(Self { key, redeemed: Mutex::new(BTreeMap::new()) })
    }

    /// A challenge for `host`: nonce || expiry || SHA-256(host), then its MAC.
    ///
    /// # Errors
    /// [`KeyError`] when the operating system has no randomness.
    pub fn make(&self, host: &HostId, now: UnixMillis) -> Result<Made, KeyError> {
        let nonce: Nonce = random()?;
        let expires_at = now.plus(LIFE_MS);
        let mut token = nonce.to_vec();
        token.extend_from_slice(&expires_at.0.to_be_bytes());
        token.extend_from_slice(&host_digest(host));
        let tag = hmac::sign(&self.key, &token);
        token.extend_from_slice(tag.as_ref());
        Ok(Made { token: URL_SAFE_NO_PAD.encode(token), nonce, expires_at })
    }

    /// The nonce of a challenge that this process made for `host`, not yet expired and not redeemed before.
    ///
    /// # Errors
    /// A `challenge.*` refusal.
    pub fn redeem(&self, token: &str, host: &HostId, now: UnixMillis) -> Result<Nonce, Problem> {
        let invalid = |_| Refusal::ChallengeInvalid.plain();
        let token = URL_SAFE_NO_PAD.decode(token).map_err(|_| Refusal::ChallengeInvalid.plain())?;
        let mut reader = Reader::new(&token);
        let payload = reader.bytes(32 + 8 + 32).map_err(invalid)?;
        let tag = reader.bytes(32).map_err(invalid)?;
        reader.finish().map_err(invalid)?;
        hmac::verify(&self.key, payload, tag).map_err(|_| Refusal::ChallengeInvalid.plain())?;
        let mut reader = Reader::new(payload);
        let nonce: Nonce = reader.array().map_err(invalid)?;
        let expires_at = UnixMillis(reader.u64_be().map_err(invalid)?);
        if reader.array() != Ok(host_digest(host)) {
            return Err(Refusal::ChallengeOtherHost.plain());
        }
        if expires_at <= now {
            return Err(Refusal::ChallengeExpired.because(format!("before {expires_at}"), now));
        }
        // A poisoned lock means a panic while redeeming: nothing can be known to be unredeemed, so nothing is.
        let mut redeemed = self.redeemed.lock().map_err(|_| Refusal::Internal.plain())?;
        // Bounded: what has expired is refused above and can be forgotten.
        *redeemed = redeemed.split_off(&(now, [0; 32]));
        match redeemed.insert((expires_at, nonce), ()) {
            None => Ok(nonce),
            Some(()) => Err(Refusal::ChallengeReplayed.plain()),
        }
    }
}

fn host_digest(host: &HostId) -> [u8; 32] {
    Sha256Digest::of(&[host.as_str().as_bytes()]).0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use countersign_attestation::UnixMillis;
    use countersign_attestation::protocol::HostId;

    use super::{Challenges, LIFE_MS};

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn host(id: &str) -> HostId {
        HostId::parse(id).unwrap()
    }

    #[test]
    fn a12_nonces_are_unique_and_a_challenge_is_redeemed_once_by_its_host_in_time() {
        let challenges = Challenges::new().unwrap();
        let nonces: BTreeSet<_> = (0..10_000).map(|_| challenges.make(&host("a"), NOW).unwrap().nonce).collect();
        assert_eq!(nonces.len(), 10_000);

        let made = challenges.make(&host("a"), NOW).unwrap();
        let code = |token: &str, id: &str, at| challenges.redeem(token, &host(id), at).map_err(|p| p.0.code);
        assert_eq!(code(&made.token, "b", NOW), Err("challenge.other_host".into()));
        assert_eq!(code(&made.token, "a", NOW.plus(LIFE_MS)), Err("challenge.expired".into()));
        assert_eq!(code(&made.token, "a", NOW.plus(LIFE_MS - 1)), Ok(made.nonce));
        assert_eq!(code(&made.token, "a", NOW.plus(LIFE_MS - 1)), Err("challenge.replayed".into()));
        assert_eq!(code(&made.token, "a", NOW), Err("challenge.replayed".into()));
    }

    /// However many ask at once, one wins.
    #[test]
    fn e9_of_a_hundred_that_redeem_at_once_one_wins() {
        let challenges = Challenges::new().unwrap();
        let made = challenges.make(&host("a"), NOW).unwrap();
        let (start, id) = (std::sync::Barrier::new(100), host("a"));
        let redeem = || {
            start.wait();
            challenges.redeem(&made.token, &id, NOW).is_ok()
        };
        let won = std::thread::scope(|scope| {
            let all: Vec<_> = (0..100).map(|_| scope.spawn(redeem)).collect();
            all.into_iter().map(|one| one.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(won, 1);
    }

    #[test]
    fn a12_a_challenge_of_another_process_or_with_any_bit_changed_is_invalid() {
        let challenges = Challenges::new().unwrap();
        let made = Challenges::new().unwrap().make(&host("a"), NOW).unwrap();
        let code = |token: &str| challenges.redeem(token, &host("a"), NOW).unwrap_err().0.code;
        assert_eq!(code(&made.token), "challenge.invalid");
        let own = challenges.make(&host("a"), NOW).unwrap().token;
        for at in 0..own.len() {
            let mut changed = own.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(code(&String::from_utf8(changed).unwrap()), "challenge.invalid", "character {at}");
        }
        assert_eq!(code(""), "challenge.invalid");
        assert_eq!(code(&format!("{own}AAAA")), "challenge.invalid");
    }
}
