//! The gate follows what a broker says of its keys: leaves that come alone, and token keys that follow one another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use countersign_attestation::UnixMillis;
use countersign_attestation::result::jws::JwkSet;
use countersign_attestation::result::svid::{KeyProtection, name_constraints};
use countersign_attestation::staple;
use countersign_attestation::status_list::{Status, StatusList};
use countersign_attestation::time::ClockError;
use countersign_gate::clock::Moment;
use countersign_gate::decide::{Decision, Trust};
use countersign_gate::state::{GateState, Offer, Source};
use rcgen::{BasicConstraints, IsCa};

#[path = "../../tests/sim/issuer.rs"]
mod issuer;
use issuer::{Authority, AuthorityOrder, Issuer, Order, TokenKey, extension};

const NOW: UnixMillis = UnixMillis(1_795_408_496_007);

fn at(passed: u64) -> Moment {
    Moment { wall: NOW.plus(passed), steady_ms: passed, error: ClockError::NONE }
}

fn gate(issuer: &Issuer) -> GateState {
    let trust = Trust {
        trust_domain: issuer.trust_domain.clone(),
        roots: vec![issuer.authority.der()],
        keys: KeyProtection::Tpm,
    };
    GateState::new(trust, issuer.keys())
}

fn issuing(issuer: &Issuer, name: &'static str) -> Authority {
    issuer.authority.intermediate(AuthorityOrder {
        is_ca: IsCa::Ca(BasicConstraints::Constrained(0)),
        name_constraints: Some((name_constraints(&issuer.trust_domain), true)),
        ..AuthorityOrder::new(name)
    })
}

fn list() -> StatusList {
    let mut list = StatusList::new();
    list.set(5, Status::Valid).unwrap();
    list
}

fn pulse(gate: &GateState, issuer: &Issuer, seq: u64, passed: u64) -> Result<Offer, &'static str> {
    let pulse = issuer.pulse_token(&issuer.pulse(seq, NOW.plus(passed), &list()));
    gate.offer_pulse(&pulse, at(passed)).map_err(|rejection| rejection.code())
}

fn denied(gate: &GateState, chain: &[Vec<u8>], passed: u64) -> Option<&'static str> {
    match gate.decide(chain, at(passed)) {
        Decision::Allow(_) => None,
        Decision::Deny(denial) => Some(denial.code()),
    }
}

#[test]
fn a_leaf_that_comes_alone_is_completed_with_what_the_broker_published() {
    let issuer = Issuer::new("fleet.test");
    let (gate, first, second) = (gate(&issuer), issuing(&issuer, "First"), issuing(&issuer, "Second"));
    gate.offer_list(&issuer.list_token(&list(), NOW), at(0)).unwrap();
    pulse(&gate, &issuer, 1, 0).unwrap();
    let leaf = |by: &Authority| by.issue(&Order::new("fleet.test", "gpu-1", &extension(5), NOW)).der;
    let (by_first, by_second) = (leaf(&first), leaf(&second));
    assert_eq!(denied(&gate, &[by_first.clone(), first.der()], 0), None, "a whole chain needs no help");
    assert_eq!(denied(&gate, std::slice::from_ref(&by_first), 0), Some("result.svid.chain"));
    let said = issuer.authorities(issuer.keys(), &[first.der()], NOW);
    assert_eq!(gate.offer_authorities(&issuer.authorities_token(&said), at(0)), Ok(true));
    assert_eq!(denied(&gate, std::slice::from_ref(&by_first), 0), None);
    assert_eq!(denied(&gate, std::slice::from_ref(&by_second), 0), Some("result.svid.chain"));
    // What is under no pinned root is not taken up: whoever signs tokens certifies nobody.
    let forged = issuing(&Issuer::new("fleet.test"), "Second");
    let said = issuer.authorities(issuer.keys(), &[forged.der(), second.der()], NOW.plus(1));
    assert_eq!(gate.offer_authorities(&issuer.authorities_token(&said), at(1)), Ok(true));
    assert_eq!(denied(&gate, &[leaf(&forged)], 1), Some("x509.signature"));
    assert_eq!(denied(&gate, &[by_second], 1), None);
}

#[test]
fn token_keys_follow_one_another_and_a_retired_one_is_believed_no_more() {
    let mut issuer = Issuer::new("fleet.test");
    let gate = gate(&issuer);
    gate.offer_list(&issuer.list_token(&list(), NOW), at(0)).unwrap();
    let next = TokenKey::new();
    let both = issuer.authorities(JwkSet::new([issuer.key.jwk(), next.jwk()]), &[], NOW);
    let first = issuer.authorities_token(&both);
    // A key that nobody announced says nothing, about itself or otherwise.
    let mut stranger = Issuer::new("fleet.test");
    let alone = stranger.authorities(stranger.keys(), &[], NOW);
    let refused = gate.offer_authorities(&stranger.authorities_token(&alone), at(0)).unwrap_err();
    assert_eq!(refused.code(), "result.token.unknown_key");
    stranger.key = TokenKey::new();
    let old_key = std::mem::replace(&mut issuer.key, next);
    assert_eq!(pulse(&gate, &issuer, 1, 0), Err("result.token.unknown_key"), "the next key, unannounced");
    assert_eq!(gate.offer_authorities(&first, at(0)), Ok(true));
    assert_eq!(gate.offer_authorities(&first, at(0)), Ok(false), "the same again");
    assert_eq!(pulse(&gate, &issuer, 1, 0), Ok(Offer::Installed));
    let only_new = issuer.authorities(issuer.keys(), &[], NOW.plus(2_000));
    assert_eq!(gate.offer_authorities(&issuer.authorities_token(&only_new), at(2_000)), Ok(true));
    let old = Issuer { key: old_key, ..Issuer::new("fleet.test") };
    assert_eq!(pulse(&gate, &old, 2, 2_000), Err("result.token.unknown_key"));
    // An older statement, by a key that is believed, brings nothing back.
    let older = issuer.authorities(JwkSet::new([issuer.key.jwk(), old.key.jwk()]), &[], NOW.plus(1_000));
    assert_eq!(gate.offer_authorities(&issuer.authorities_token(&older), at(2_000)), Ok(false));
    assert_eq!(pulse(&gate, &old, 2, 2_000), Err("result.token.unknown_key"));
    assert_eq!(pulse(&gate, &issuer, 2, 2_000), Ok(Offer::Installed));
}

#[test]
fn a_gate_without_a_feed_learns_of_issuing_certificates_and_keys_from_staples() {
    let mut issuer = Issuer::new("fleet.test");
    let gate = gate(&issuer).fed_by(Source::Staples);
    let by = issuing(&issuer, "First");
    let leaf = by.issue(&Order::new("fleet.test", "gpu-1", &extension(5), NOW)).der;
    let staple = |issuer: &Issuer, seq: u64, said: &str| {
        let pulse = issuer.pulse_token(&issuer.pulse(seq, NOW, &list()));
        staple::encode(&pulse, &list().encode(), said).unwrap()
    };
    gate.offer_staple(&staple(&issuer, 1, ""), at(0)).unwrap();
    assert_eq!(denied(&gate, std::slice::from_ref(&leaf), 0), Some("result.svid.chain"));
    let next = TokenKey::new();
    let said = issuer.authorities(JwkSet::new([issuer.key.jwk(), next.jwk()]), &[by.der()], NOW);
    let said = issuer.authorities_token(&said);
    gate.offer_staple(&staple(&issuer, 2, &said), at(0)).unwrap();
    assert_eq!(denied(&gate, std::slice::from_ref(&leaf), 0), None);
    issuer.key = next;
    gate.offer_staple(&staple(&issuer, 3, &said), at(0)).unwrap();
    // A statement that nobody believes is no harm beside a pulse that is believed.
    let stranger = Issuer::new("fleet.test");
    let strange = stranger.authorities_token(&stranger.authorities(stranger.keys(), &[], NOW));
    gate.offer_staple(&staple(&issuer, 4, &strange), at(0)).unwrap();
    assert_eq!(denied(&gate, &[leaf], 0), None);
    assert_eq!(
        gate.offer_staple(&staple(&stranger, 5, &strange), at(0)).unwrap_err().code(),
        "result.token.unknown_key"
    );
}
