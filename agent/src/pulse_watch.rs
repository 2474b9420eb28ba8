//! What a pulse says about this host's own credential. No I/O and no clock.
//!
//! Only INVALID ends trust here. SUSPENDED is a lapse that the next attestation heals, and a pulse that is missing or
//! expired says nothing: in both cases the lease decides, or every hiccup of the network would stop every workload.

use std::collections::BTreeMap;

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::pulse::{CLOCK_ERROR_MAX_MS, Pulse};
use countersign_attestation::result::jws::JwkSet;
use countersign_attestation::result::svid::{CredentialExtension, EXTENSION_OID, SpiffeId, TrustDomain};
use countersign_attestation::staple;
use countersign_attestation::status_delta::StatusDelta;
use countersign_attestation::status_list::{Status, StatusList, StatusListClaim, StatusListToken};
use countersign_attestation::{Rejection, UnixMillis, Verified};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Lists that may arrive before the pulse that names them.
const ARRIVED_MAX: usize = 1024;

/// The credential that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    trust_domain: TrustDomain,
    list: u64,
    index: u64,
    /// When the grant arrived, on this host's clock.
    received: UnixMillis,
}

impl Subject {
    /// Reads the leaf of a chain (PEM) that the broker sent over the pinned channel at `received`.
    #[must_use]
    pub fn of(chain_pem: &str, received: UnixMillis) -> Option<Self> {
        let der = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).next()?.ok()?;
        let (_, leaf) = X509Certificate::from_der(&der).ok()?;
        let ours = |oid: &x509_parser::der_parser::Oid<'_>| oid.iter().is_some_and(|arcs| arcs.eq(EXTENSION_OID));
        let extension = leaf.extensions().iter().find(|extension| ours(&extension.oid))?;
        let extension = CredentialExtension::decode(extension.value).ok()?;
        let names = leaf.subject_alternative_name().ok()??;
        let id = names
            .value
            .general_names
            .iter()
            .find_map(|name| if let GeneralName::URI(uri) = name { SpiffeId::parse(uri) } else { None })?;
        let trust_domain = id.trust_domain().clone();
        Some(Self { trust_domain, list: extension.status_list, index: extension.status_index, received })
    }

    fn same_entry(&self, other: &Self) -> bool {
        (self.list, self.index) == (other.list, other.index)
    }
}

/// What follows from a pulse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing.
    Nothing,
    /// The credential is INVALID: trust ends now.
    Revoked,
    /// The pulse waits for this list.
    NeedsList(u64),
}

/// The newest pulse, the one list of it that matters, and the credential.
#[derive(Debug)]
pub struct PulseWatch {
    keys: JwkSet,
    subject: Option<Subject>,
    seen_valid: bool,
    newest: Option<Verified<Pulse>>,
    /// The newest pulse as it was signed, and the list as a staple carries it, by its digest.
    token: String,
    encoded: Option<(Sha256Digest, StatusListClaim)>,
    /// What the broker said of its keys, for staples.
    authorities: String,
    list: Option<StatusList>,
    arrived: BTreeMap<Sha256Digest, StatusList>,
}

impl PulseWatch {
    /// Watches under the broker's keys.
    #[must_use]
    pub const fn new(keys: JwkSet) -> Self {
        Self {
            keys,
            subject: None,
            seen_valid: false,
            newest: None,
            token: String::new(),
            encoded: None,
            authorities: String::new(),
            list: None,
            arrived: BTreeMap::new(),
        }
    }

    /// The broker's keys are these now.
    pub fn trust(&mut self, keys: JwkSet) {
        self.keys = keys;
    }

    /// What the broker says of its keys, as it signed it: whoever is shown a staple checks it.
    pub fn hear(&mut self, authorities: &str) {
        authorities.clone_into(&mut self.authorities);
    }

    /// A new credential is live, or none is. INVALID is for ever: an index that was VALID once stays known.
    pub fn watch(&mut self, subject: Option<Subject>) {
        let same = self.subject.as_ref().zip(subject.as_ref()).is_some_and(|(old, new)| old.same_entry(new));
        if subject.is_some() && !same {
            (self.seen_valid, self.list) = (false, None);
        }
        self.subject = subject.or(self.subject.take());
    }

    /// Takes a list. It counts once a pulse names its digest.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn offer_list(&mut self, token: &str, now: UnixMillis) -> Result<Finding, Rejection> {
        let (_, list) = StatusListToken::verify(token, &self.keys, now)?;
        Ok(self.arrive(list, now))
    }

    /// Takes changes of the one list that matters. What they come to counts once a pulse names its digest.
    ///
    /// # Errors
    /// Why they were refused; the list is asked for when a pulse names it.
    pub fn offer_delta(&mut self, text: &str, now: UnixMillis) -> Result<Finding, Rejection> {
        let delta = StatusDelta::parse(text)?;
        let Some(list) = self.list.as_ref().filter(|list| list.sha256() == delta.from()) else {
            return Ok(Finding::Nothing);
        };
        let list = delta.apply(list)?;
        Ok(self.arrive(list, now))
    }

    fn arrive(&mut self, list: StatusList, now: UnixMillis) -> Finding {
        if self.arrived.len() < ARRIVED_MAX {
            self.arrived.insert(list.sha256(), list);
        }
        // A pulse that waited for it may end trust only while it lives.
        let lives = self.newest.as_ref().is_some_and(|pulse| pulse.check_unexpired(now).is_ok());
        match if lives { self.judge() } else { Finding::Nothing } {
            Finding::NeedsList(_) => Finding::Nothing,
            found @ (Finding::Nothing | Finding::Revoked) => found,
        }
    }

    /// Takes a pulse. What is not newer than the newest one changes nothing.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn offer_pulse(&mut self, token: &str, now: UnixMillis) -> Result<Finding, Rejection> {
        let Some(subject) = &self.subject else { return Ok(Finding::Nothing) };
        let pulse = Pulse::verify(token, &self.keys, &subject.trust_domain, now)?;
        if self.newest.as_ref().is_some_and(|newest| !pulse.supersedes(newest)) {
            return Ok(Finding::Nothing);
        }
        self.newest = Some(pulse);
        token.clone_into(&mut self.token);
        let found = self.judge();
        self.arrived.clear();
        Ok(found)
    }

    /// What shows a relying party without a feed that the credential is trusted now: the newest pulse and the list of
    /// the credential, once both are here.
    pub fn staple(&mut self) -> Option<String> {
        let (subject, pulse, list) = (self.subject.as_ref()?, self.newest.as_ref()?, self.list.as_ref()?);
        let named = pulse.list(subject.list)?.sha256;
        if self.encoded.as_ref().is_none_or(|(digest, _)| *digest != named) {
            // A list is compressed when it changed, and not with each pulse.
            self.encoded = (list.sha256() == named).then(|| (named, list.encode()));
        }
        let (_, list) = self.encoded.as_ref()?;
        staple::encode(&self.token, list, &self.authorities)
    }

    fn judge(&mut self) -> Finding {
        let (Some(subject), Some(pulse)) = (&self.subject, &self.newest) else { return Finding::Nothing };
        let Some(named) = pulse.lists.iter().find(|list| list.n == subject.list) else { return Finding::Nothing };
        if let Some(list) = self.arrived.remove(&named.sha256) {
            self.list = Some(list);
        }
        let Some(list) = self.list.as_ref().filter(|list| list.sha256() == named.sha256) else {
            return Finding::NeedsList(named.n);
        };
        match list.get(subject.index) {
            Ok(Status::Valid) => {
                self.seen_valid = true;
                Finding::Nothing
            }
            Ok(Status::Suspended) | Err(_) => Finding::Nothing,
            // Before its issue an index is INVALID too. VALID was seen, or the basis is later than the grant by more
            // than both clocks may differ: then this is no pulse from before the issue. Without a VALID in between, a
            // revocation is so noticed after that margin.
            Ok(Status::Invalid) => {
                let after_issue = subject.received.plus(CLOCK_ERROR_MAX_MS) < pulse.basis;
                if self.seen_valid || after_issue { Finding::Revoked } else { Finding::Nothing }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use countersign_attestation::UnixMillis;
    use countersign_attestation::digest::Sha256Digest;
    use countersign_attestation::pulse::{self, ListDigest, Pulse, PulseCheckpoint};
    use countersign_attestation::result::jws::{self, Jwk, JwkSet, Kind};
    use countersign_attestation::result::svid::TrustDomain;
    use countersign_attestation::staple::Staple;
    use countersign_attestation::status_delta::StatusDelta;
    use countersign_attestation::status_list::{self, Status, StatusList, StatusListToken};

    use super::{Finding, PulseWatch, Subject};

    const ISSUED: UnixMillis = UnixMillis(1_800_000_000_000);

    struct Bench {
        key: EcdsaKeyPair,
        watch: PulseWatch,
        seq: u64,
    }

    fn subject(index: u64, received: UnixMillis) -> Subject {
        Subject { trust_domain: TrustDomain::parse("a.example").unwrap(), list: 0, index, received }
    }

    impl Bench {
        fn new() -> Self {
            let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
            let keys = JwkSet::new(Jwk::from_point(key.public_key().as_ref()));
            let mut watch = PulseWatch::new(keys);
            watch.watch(Some(subject(7, ISSUED)));
            Self { key, watch, seq: 0 }
        }

        fn sign(&self, kind: Kind, payload: &[u8]) -> String {
            let kid = Jwk::from_point(self.key.public_key().as_ref()).unwrap().kid().to_owned();
            let input = jws::signing_input(kind, &kid, payload);
            let signature = self.key.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
            jws::compact(&input, signature.as_ref().try_into().unwrap())
        }

        fn tokens(&self, status: Status, basis: UnixMillis, seq: u64) -> (String, String) {
            let mut list = StatusList::new();
            list.set(7, status).unwrap();
            let (iat, exp) = (basis.seconds(), basis.seconds() + 60);
            let claims = StatusListToken { sub: "x".to_owned(), iat, exp, ttl: 1, status_list: list.encode() };
            let checkpoint = PulseCheckpoint { origin: "o".to_owned(), size: 0, root: Sha256Digest([0; 32]) };
            let pulse = Pulse {
                iss: TrustDomain::parse("a.example").unwrap(),
                epoch: 1,
                seq,
                basis,
                iat: basis,
                exp: basis.plus(5_000),
                lists: vec![ListDigest { n: 0, size: 65_536, sha256: list.sha256() }],
                checkpoint,
            };
            (self.sign(status_list::KIND, &claims.to_payload()), self.sign(pulse::KIND, &pulse.to_payload()))
        }

        /// A list and then its pulse, received at its basis.
        fn pulse(&mut self, status: Status, after_issue: i64) -> Finding {
            self.seq += 1;
            let basis = UnixMillis(ISSUED.0.checked_add_signed(after_issue).unwrap());
            let (list, pulse) = self.tokens(status, basis, self.seq);
            self.watch.offer_list(&list, basis).unwrap();
            self.watch.offer_pulse(&pulse, basis).unwrap()
        }
    }

    #[test]
    fn valid_then_invalid_is_a_revocation_and_suspended_is_none() {
        let mut bench = Bench::new();
        assert_eq!(bench.pulse(Status::Valid, 10), Finding::Nothing);
        assert_eq!(bench.pulse(Status::Suspended, 20), Finding::Nothing);
        assert_eq!(bench.pulse(Status::Invalid, 30), Finding::Revoked);
        // The same index never comes back, whatever grant names it; another one begins anew.
        bench.watch.watch(Some(subject(7, ISSUED.plus(100))));
        assert_eq!(bench.pulse(Status::Invalid, 110), Finding::Revoked);
        bench.watch.watch(Some(subject(8, ISSUED.plus(200))));
        assert_eq!(bench.pulse(Status::Valid, 210), Finding::Nothing);
    }

    #[test]
    fn changes_alone_end_trust_and_others_nothing() {
        let mut bench = Bench::new();
        assert_eq!(bench.pulse(Status::Valid, 10), Finding::Nothing);
        let state = |status| {
            let mut list = StatusList::new();
            list.set(7, status).unwrap();
            list
        };
        let (valid, invalid) = (state(Status::Valid), state(Status::Invalid));
        let delta = StatusDelta::between(0, &valid, &invalid).unwrap().encode();
        let foreign = StatusDelta::between(0, &state(Status::Suspended), &invalid).unwrap().encode();
        let now = ISSUED.plus(20);
        let (_, pulse) = bench.tokens(Status::Invalid, now, 9);
        assert_eq!(bench.watch.offer_delta(&foreign, now), Ok(Finding::Nothing));
        let forged = delta.replace("[7,1]", "[7,2]");
        assert_eq!(bench.watch.offer_delta(&forged, now).unwrap_err().code(), "status_delta.digest");
        assert_eq!(bench.watch.offer_pulse(&pulse, now), Ok(Finding::NeedsList(0)), "neither led there");
        assert_eq!(bench.watch.staple(), None, "the list is not here");
        assert_eq!(bench.watch.offer_delta(&delta, now), Ok(Finding::Revoked));
    }

    #[test]
    fn the_staple_is_the_newest_pulse_with_the_list_it_names() {
        let mut bench = Bench::new();
        assert_eq!(bench.watch.staple(), None);
        bench.watch.hear("a.b.c");
        for (seq, status) in [(1, Status::Valid), (2, Status::Valid), (3, Status::Suspended)] {
            bench.pulse(status, 10);
            let text = bench.watch.staple().unwrap();
            let staple = Staple::parse(&text).unwrap();
            assert_eq!(staple.authorities(), "a.b.c");
            let pulse =
                Pulse::verify(staple.pulse(), &bench.watch.keys, &TrustDomain::parse("a.example").unwrap(), ISSUED)
                    .unwrap();
            assert_eq!((pulse.seq, staple.into_list().get(7)), (seq, Ok(status)));
        }
    }

    #[test]
    fn keys_that_follow_are_believed_and_those_before_are_not() {
        let (mut bench, next) = (Bench::new(), Bench::new());
        assert_eq!(bench.pulse(Status::Valid, 10), Finding::Nothing);
        let now = ISSUED.plus(20);
        let (list, pulse) = next.tokens(Status::Invalid, now, 2);
        assert_eq!(bench.watch.offer_pulse(&pulse, now).unwrap_err().code(), "result.token.unknown_key");
        bench.watch.trust(JwkSet::new(Jwk::from_point(next.key.public_key().as_ref())));
        bench.watch.offer_list(&list, now).unwrap();
        assert_eq!(bench.watch.offer_pulse(&pulse, now), Ok(Finding::Revoked));
        let (_, old) = bench.tokens(Status::Valid, now, 3);
        assert_eq!(bench.watch.offer_pulse(&old, now).unwrap_err().code(), "result.token.unknown_key");
    }

    #[test]
    fn a_fresh_index_is_spared_until_the_basis_is_surely_later_than_the_grant() {
        let mut bench = Bench::new();
        for after_issue in [-500, 0, 900, 1_000] {
            assert_eq!(bench.pulse(Status::Invalid, after_issue), Finding::Nothing, "{after_issue}");
        }
        assert_eq!(bench.pulse(Status::Invalid, 1_001), Finding::Revoked);
    }

    #[test]
    fn old_foreign_expired_and_incomplete_pulses_end_nothing() {
        let mut bench = Bench::new();
        assert_eq!(bench.pulse(Status::Valid, 10), Finding::Nothing);
        let (list, replayed) = bench.tokens(Status::Invalid, ISSUED.plus(20), 1);
        let now = ISSUED.plus(20);
        assert_eq!(bench.watch.offer_list(&list, now), Ok(Finding::Nothing));
        assert_eq!(bench.watch.offer_pulse(&replayed, now), Ok(Finding::Nothing));
        let (_, foreign) = Bench::new().tokens(Status::Invalid, now, 9);
        assert_eq!(bench.watch.offer_pulse(&foreign, now).unwrap_err().code(), "result.token.unknown_key");
        let (list, pulse) = bench.tokens(Status::Invalid, now, 9);
        let late = now.plus(5_000);
        assert_eq!(bench.watch.offer_pulse(&pulse, late).unwrap_err().code(), "pulse.expired");
        bench.watch.arrived.clear();
        assert_eq!(bench.watch.offer_pulse(&pulse, now), Ok(Finding::NeedsList(0)));
        let (other, _) = bench.tokens(Status::Suspended, now, 9);
        assert_eq!(bench.watch.offer_list(&other, now), Ok(Finding::Nothing), "a list of another digest");
        assert_eq!(bench.watch.offer_list(&list, late), Ok(Finding::Nothing), "the pulse expired meanwhile");
        assert_eq!(bench.watch.offer_list(&list, now), Ok(Finding::Revoked));
    }
}
