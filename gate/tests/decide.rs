//! The decision: every denial has its code, and no sequence of messages and clocks makes the gate accept for longer
//! than the newest pulse that said VALID.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::Assurance;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::nonce_pulse::{self, NonceClaims, Outstanding};
use countersign_attestation::protocol::Base64Bytes;
use countersign_attestation::pulse::{Class, ListDigest, Pulse};
use countersign_attestation::result::svid::{CredentialExtension, KeyProtection};
use countersign_attestation::staple;
use countersign_attestation::status_list::{Status, StatusList};
use countersign_attestation::time::ClockError;
use countersign_gate::clock::{Clock as _, Moment, NonceClock};
use countersign_gate::decide::{Decision, Trust};
use countersign_gate::state::{GateState, Offer, PulseNumber, Source};
use proptest::prelude::*;

#[path = "../../tests/sim/issuer.rs"]
mod issuer;
use issuer::{Issuer, Order, Y_MS, extension};

const NOW: UnixMillis = UnixMillis(1_795_408_496_007);
const DOMAIN: &str = "fleet.test";
const INDEX: u64 = 5;

/// Both clocks, `milliseconds` after the start.
fn at(milliseconds: u64) -> Moment {
    Moment { wall: NOW.plus(milliseconds), steady_ms: 1_000 + milliseconds, error: ClockError::NONE }
}

struct World {
    issuer: Issuer,
    gate: GateState,
    chain: Vec<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let issuer = Issuer::new(DOMAIN);
        let chain = vec![issuer.svid("gpu-1", INDEX, NOW).der];
        let gate = gate(&issuer);
        Self { issuer, gate, chain }
    }

    /// A list and a pulse that say `status`, both offered at `milliseconds`.
    fn say(&self, seq: u64, milliseconds: u64, status: Status) -> Offer {
        let (list, pulse) = self.messages(seq, milliseconds, status);
        self.gate.offer_list(&list, at(milliseconds)).unwrap();
        self.gate.offer_pulse(&pulse, at(milliseconds)).unwrap()
    }

    fn messages(&self, seq: u64, basis: u64, status: Status) -> (String, String) {
        let list = list(status);
        let now = at(basis).wall;
        (self.issuer.list_token(&list, now), self.issuer.pulse_token(&self.issuer.pulse(seq, now, &list)))
    }

    fn code(&self, moment: Moment) -> Result<(), &'static str> {
        code(self.gate.decide(&self.chain, moment))
    }
}

fn gate(issuer: &Issuer) -> GateState {
    gate_for(issuer, KeyProtection::Tpm)
}

fn gate_for(issuer: &Issuer, keys: KeyProtection) -> GateState {
    let trust = Trust { trust_domain: issuer.trust_domain.clone(), roots: vec![issuer.authority.der()], keys };
    GateState::new(trust, issuer.keys())
}

fn list(status: Status) -> StatusList {
    let mut list = StatusList::new();
    list.set(INDEX, status).unwrap();
    list
}

fn code(decision: Decision) -> Result<(), &'static str> {
    match decision {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(denial) => {
            assert!(!denial.remedy().is_empty() && !denial.expected().is_empty() && !denial.found().is_empty());
            Err(denial.code())
        }
    }
}

#[test]
fn a_valid_credential_under_a_fresh_pulse_is_let_in_and_nothing_else() {
    let world = World::new();
    assert_eq!(world.code(at(0)), Err("gate.pulse.none"));
    assert_eq!(world.say(1, 0, Status::Valid), Offer::Installed);
    let Decision::Allow(allowed) = world.gate.decide(&world.chain, at(10)) else { panic!("denied") };
    assert_eq!(allowed.spiffe_id().to_string(), "spiffe://fleet.test/host/gpu-1");
    assert_eq!((allowed.decision(), allowed.generation()), (Sha256Digest([7; 32]), 1));
    assert_eq!((allowed.assurance(), allowed.until()), (Assurance::Simulated, at(Y_MS).wall));
    assert_eq!(world.say(2, 20, Status::Invalid), Offer::Installed);
    assert_eq!(world.code(at(20)), Err("gate.credential.invalid"));
    assert_eq!(world.say(3, 30, Status::Suspended), Offer::Installed);
    assert_eq!(world.code(at(30)), Err("gate.credential.suspended"));
    assert_eq!(world.say(4, 40, Status::Valid), Offer::Installed);
    assert_eq!(world.code(at(40)), Ok(()));
}

#[test]
fn e19_silence_ends_in_denial_at_exp() {
    let world = World::new();
    world.say(1, 0, Status::Valid);
    assert_eq!(world.code(at(Y_MS - 1)), Ok(()));
    assert_eq!(world.code(at(Y_MS)), Err("gate.pulse.expired"));
    assert_eq!(world.code(at(Y_MS + 3_600_000)), Err("result.svid.expired"));
}

#[test]
fn the_clock_error_is_taken_off_the_end_and_a_clock_that_nobody_keeps_lets_nobody_in() {
    let off = |milliseconds: u64, error: ClockError| Moment { error, ..at(milliseconds) };
    let within = |error_ms| ClockError::Within { error_ms };
    let world = World::new();
    world.say(1, 0, Status::Valid);
    for (after, error, expected) in [
        (10, within(300), Ok(())),
        (Y_MS - 301, within(300), Ok(())),
        (Y_MS - 300, within(300), Err("gate.pulse.expired")),
        (10, ClockError::Unsynchronised, Err("clock.unsynchronised")),
        (10, ClockError::Unreadable { errno: 1 }, Err("clock.unreadable")),
        (10, ClockError::TooLarge { error_ms: 1_001, max_ms: 1_000 }, Err("clock.error_too_large")),
        (10, within(0), Ok(())),
    ] {
        assert_eq!(world.code(off(after, error)), expected, "{error:?}, {after} ms later");
    }
    let Decision::Allow(allowed) = world.gate.decide(&world.chain, off(10, within(300))) else { panic!("denied") };
    assert_eq!(allowed.until(), at(Y_MS - 300).wall, "by this gate's own clock");
    // What was received by an error counts by it for ever: the wall clock may have been put right meanwhile, or wrong.
    let world = World::new();
    let (list, pulse) = world.messages(1, 0, Status::Valid);
    world.gate.offer_list(&list, at(0)).unwrap();
    let refused = world.gate.offer_pulse(&pulse, off(0, ClockError::Unsynchronised)).unwrap_err();
    assert_eq!(refused.code(), "clock.unsynchronised");
    let refused = world.gate.offer_pulse(&pulse, off(Y_MS - 300, within(300))).unwrap_err();
    assert_eq!(refused.code(), "pulse.expired");
    assert_eq!(world.gate.offer_pulse(&pulse, off(0, within(300))), Ok(Offer::Installed));
    let set_back = |after: u64| Moment { wall: at(0).wall, ..at(after) };
    assert_eq!(world.code(set_back(Y_MS - 301)), Ok(()));
    assert_eq!(world.code(set_back(Y_MS - 300)), Err("gate.pulse.expired"));
}

#[test]
fn a_gate_without_a_feed_decides_by_the_newest_staple_that_anybody_showed() {
    let world = World::new();
    let gate = gate(&world.issuer).fed_by(Source::Staples);
    let asked = |after: u64| code(gate.decide(&world.chain, at(after)));
    let staple = |seq: u64, basis: u64, status: Status| {
        staple::encode(&world.messages(seq, basis, status).1, &list(status).encode(), "").unwrap()
    };
    let refused = |text: &str, after: u64| gate.offer_staple(text, at(after)).unwrap_err().code();
    assert_eq!(asked(0), Err("gate.pulse.none"));
    let first = staple(1, 0, Status::Valid);
    gate.offer_staple(&first, at(0)).unwrap();
    assert_eq!(asked(0), Ok(()));
    // A list that the pulse does not name, a stranger's pulse, and one that has ended.
    let other = staple::encode(&world.messages(2, 5, Status::Valid).1, &list(Status::Suspended).encode(), "").unwrap();
    assert_eq!(refused(&other, 10), "staple.superseded");
    let (_, strange) = World::new().messages(9, 10, Status::Valid);
    let strange = staple::encode(&strange, &list(Status::Valid).encode(), "").unwrap();
    assert_eq!(refused(&strange, 10), "result.token.unknown_key");
    assert_eq!(refused(&first, Y_MS), "pulse.expired");
    assert_eq!(
        gate.offer_staple(&first, Moment { error: ClockError::Unsynchronised, ..at(10) }).unwrap_err().code(),
        "clock.unsynchronised"
    );
    // Somebody shows a newer one: nobody comes back with an older one, not even while that has not ended.
    gate.offer_staple(&staple(2, 20, Status::Invalid), at(20)).unwrap();
    assert_eq!(asked(20), Err("gate.credential.invalid"));
    assert_eq!(refused(&first, 30), "staple.superseded");
    assert_eq!(asked(30), Err("gate.credential.invalid"));
    // Shown again and again it does not live longer.
    gate.offer_staple(&staple(3, 40, Status::Valid), at(50)).unwrap();
    gate.offer_staple(&staple(3, 40, Status::Valid), Moment { wall: at(40).wall, ..at(2_000) }).unwrap();
    let set_back = |after: u64| Moment { wall: at(40).wall, ..at(after) };
    assert_eq!(code(gate.decide(&world.chain, set_back(39 + Y_MS))), Ok(()));
    assert_eq!(code(gate.decide(&world.chain, set_back(40 + Y_MS))), Err("gate.pulse.expired"));
    assert_eq!(asked(40 + Y_MS), Err("gate.pulse.expired"));
}

#[test]
fn a_list_counts_where_the_newest_pulse_names_it_whoever_showed_that() {
    let world = World::new();
    let gate = gate(&world.issuer).fed_by(Source::Staples);
    let (ours, theirs) = (list(Status::Valid), StatusList::new());
    let digest = |n: u64, list: &StatusList| ListDigest { n, size: 65_536, sha256: list.sha256() };
    let pulse = |seq: u64| {
        let lists = vec![digest(0, &ours), digest(1, &theirs)];
        world.issuer.pulse_token(&Pulse { lists, ..world.issuer.pulse(seq, at(seq).wall, &ours) })
    };
    gate.offer_staple(&staple::encode(&pulse(2), &theirs.encode(), "").unwrap(), at(10)).unwrap();
    assert_eq!(code(gate.decide(&world.chain, at(10))), Err("gate.staple.missing"));
    gate.offer_staple(&staple::encode(&pulse(1), &ours.encode(), "").unwrap(), at(10)).unwrap();
    assert_eq!(code(gate.decide(&world.chain, at(10))), Ok(()), "an older pulse with a list that is in the newest");
    assert_eq!(gate.snapshot().held.as_ref().unwrap().pulse().seq, 2);
    // A gate with feeds takes no staples.
    world.gate.offer_staple(&staple::encode(&pulse(3), &ours.encode(), "").unwrap(), at(10)).unwrap();
    assert_eq!(world.code(at(10)), Err("gate.pulse.none"));
}

static STEADY: AtomicU64 = AtomicU64::new(0);

#[test]
fn an_answer_to_a_nonce_is_believed_once_and_by_the_steady_clock_alone() {
    let world = World::new();
    let clock = NonceClock::over(|| STEADY.load(Ordering::SeqCst));
    let asked = |at: u64| {
        code(world.gate.decide(&world.chain, {
            STEADY.store(at, Ordering::SeqCst);
            clock.now()
        }))
    };
    let answer = |nonce: [u8; 32], iat: u64, seq: u64, status: Status| {
        let pulse = Pulse { iat: at(iat).wall, ..world.issuer.pulse(seq, at(0).wall, &list(status)) };
        let claims = NonceClaims { nonce: Base64Bytes(nonce.to_vec()), pulse };
        world.issuer.key.token(nonce_pulse::KIND, &claims.to_payload())
    };
    let refused = |token: &str, nonce: [u8; 32]| {
        world.gate.offer_answer(token, Outstanding::new(nonce, 70), &clock).unwrap_err().code()
    };
    assert_eq!(asked(0), Err("result.svid.expired"), "before the first answer it is the end of time");
    // Another's nonce, a pulse without one, and signed before its basis or after its end.
    assert_eq!(refused(&answer([1; 32], 500, 1, Status::Valid), [2; 32]), "nonce_pulse.nonce");
    assert_eq!(refused(&world.messages(1, 0, Status::Valid).1, [1; 32]), "result.token.type");
    assert_eq!(refused(&answer([1; 32], Y_MS, 1, Status::Valid), [1; 32]), "nonce_pulse.signed");
    let early = Pulse { iat: UnixMillis(NOW.0 - 1), ..world.issuer.pulse(1, at(0).wall, &list(Status::Valid)) };
    let early = NonceClaims { nonce: Base64Bytes(vec![1; 32]), pulse: early };
    assert_eq!(refused(&world.issuer.key.token(nonce_pulse::KIND, &early.to_payload()), [1; 32]), "nonce_pulse.signed");
    assert_eq!(asked(100), Err("result.svid.expired"), "nothing was learnt of what was refused");
    // Sent at 70 by the steady clock, signed half a second after the basis: what was left then is left from 70 on.
    let token = answer([1; 32], 500, 1, Status::Valid);
    let offer = world.gate.offer_answer(&token, Outstanding::new([1; 32], 70), &clock);
    assert_eq!(offer, Ok(Offer::WaitsForLists(vec![0])));
    let first = world.messages(1, 0, Status::Valid).0;
    world
        .gate
        .offer_list(&first, {
            STEADY.store(900, Ordering::SeqCst);
            clock.now()
        })
        .unwrap();
    assert_eq!(asked(69 + Y_MS - 500), Ok(()));
    assert_eq!(asked(70 + Y_MS - 500), Err("gate.pulse.expired"));
    // The same pulse, signed over another nonce, ends when it ended.
    let again = answer([3; 32], 600, 1, Status::Valid);
    let offer = world.gate.offer_answer(&again, Outstanding::new([3; 32], 4_000), &clock);
    assert_eq!(offer, Ok(Offer::NotNewer));
    assert_eq!(asked(70 + Y_MS - 500), Err("gate.pulse.expired"));
}

#[test]
fn a_gate_of_the_critical_class_believes_a_pulse_for_two_seconds_after_its_basis() {
    let world = World::new();
    let gate = gate(&world.issuer).in_class(Class::Critical);
    let (list, pulse) = world.messages(1, 0, Status::Valid);
    // However late it comes.
    gate.offer_list(&list, at(500)).unwrap();
    assert_eq!(gate.offer_pulse(&pulse, at(500)), Ok(Offer::Installed));
    let Decision::Allow(allowed) = gate.decide(&world.chain, at(1_999)) else { panic!("denied") };
    assert_eq!(allowed.until(), at(2_000).wall);
    assert_eq!(code(gate.decide(&world.chain, at(2_000))), Err("gate.pulse.expired"));
    let set_back = Moment { wall: at(0).wall, ..at(2_000) };
    assert_eq!(code(gate.decide(&world.chain, set_back)), Err("gate.pulse.expired"));
    world.say(1, 0, Status::Valid);
    assert_eq!(world.code(at(2_000)), Ok(()), "another class, the same pulse");
}

#[test]
fn a_clock_that_is_set_back_extends_nothing() {
    let world = World::new();
    world.say(1, 0, Status::Valid);
    for (back, after, expected) in [
        (0, Y_MS - 1, Ok(())),
        (30_000, 100, Ok(())),
        (30_000, Y_MS - 1, Ok(())),
        (30_000, Y_MS, Err("gate.pulse.expired")),
    ] {
        let moment = Moment {
            wall: UnixMillis(at(after).wall.0 - back),
            steady_ms: at(after).steady_ms,
            error: ClockError::NONE,
        };
        assert_eq!(world.code(moment), expected, "{back} ms back, {after} ms later");
    }
    // Nor does a steady clock that stood still: the wall clock says it.
    let slept = Moment { wall: at(Y_MS).wall, steady_ms: at(1).steady_ms, error: ClockError::NONE };
    assert_eq!(world.code(slept), Err("gate.pulse.expired"));
}

#[test]
fn e21_what_no_list_covers_is_denied() {
    let world = World::new();
    world.say(1, 0, Status::Valid);
    let denied = |extension: CredentialExtension| {
        let order = Order::new(DOMAIN, "gpu-1", &extension, NOW);
        code(world.gate.decide(&[world.issuer.authority.issue(&order).der], at(0)))
    };
    assert_eq!(denied(extension(INDEX)), Ok(()));
    assert_eq!(denied(CredentialExtension { status_list: 1, ..extension(INDEX) }), Err("gate.list.missing"));
    assert_eq!(denied(extension(INDEX + 1)), Err("gate.credential.invalid"));
    assert_eq!(denied(extension(65_536)), Err("status_list.index"));
    assert_eq!(denied(extension(u64::MAX)), Err("status_list.index"));
    // A pulse that names no lists trusts nobody.
    let none = Pulse { lists: vec![], ..world.issuer.pulse(2, NOW, &list(Status::Valid)) };
    assert_eq!(world.gate.offer_pulse(&world.issuer.pulse_token(&none), at(0)), Ok(Offer::Installed));
    assert_eq!(world.code(at(0)), Err("gate.list.missing"));
}

#[test]
fn e1_a_key_that_can_be_exported_is_denied_unless_the_operator_says_so() {
    let world = World::new();
    let order = |key_protection| {
        let extension = CredentialExtension { key_protection, ..extension(INDEX) };
        [world.issuer.authority.issue(&Order::new(DOMAIN, "gpu-1", &extension, NOW)).der]
    };
    let (tpm, memory) = (order(KeyProtection::Tpm), order(KeyProtection::Memory));
    let judge = |keys| {
        let gate = gate_for(&world.issuer, keys);
        let list = list(Status::Valid);
        gate.offer_list(&world.issuer.list_token(&list, NOW), at(0)).unwrap();
        let pulse = world.issuer.pulse_token(&world.issuer.pulse(1, NOW, &list));
        assert_eq!(gate.offer_pulse(&pulse, at(0)), Ok(Offer::Installed));
        (code(gate.decide(&tpm, at(0))), code(gate.decide(&memory, at(0))))
    };
    assert_eq!(judge(KeyProtection::Tpm), (Ok(()), Err("gate.credential.key_in_memory")));
    assert_eq!(judge(KeyProtection::Memory), (Ok(()), Ok(())));
}

#[test]
fn credentials_of_others_are_denied() {
    let world = World::new();
    world.say(1, 0, Status::Valid);
    let denied = |der: Vec<u8>| code(world.gate.decide(&[der], at(0)));
    let other = Issuer::new(DOMAIN);
    assert_eq!(denied(other.svid("gpu-1", INDEX, NOW).der), Err("x509.signature"));
    let foreign = Order::new("other.test", "gpu-1", &extension(INDEX), NOW);
    assert_eq!(denied(world.issuer.authority.issue(&foreign).der), Err("result.svid.trust_domain"));
    let bare = Order { extensions: vec![], ..Order::new(DOMAIN, "gpu-1", &extension(INDEX), NOW) };
    assert_eq!(denied(world.issuer.authority.issue(&bare).der), Err("result.svid.extension.missing"));
    let old = Order { not_after: NOW, ..Order::new(DOMAIN, "gpu-1", &extension(INDEX), NOW) };
    assert_eq!(denied(world.issuer.authority.issue(&old).der), Err("result.svid.expired"));
    assert_eq!(code(world.gate.decide(&[], at(0))), Err("result.svid.chain"));
    assert_eq!(denied(b"no certificate".to_vec()), Err("x509.malformed"));
}

#[test]
fn a_remembered_chain_is_judged_again_each_time() {
    let world = World::new();
    world.say(1, 0, Status::Valid);
    assert_eq!(world.code(at(0)), Ok(()), "checked and remembered");
    world.say(2, 1, Status::Invalid);
    assert_eq!(world.code(at(1)), Err("gate.credential.invalid"), "status");
    world.say(3, 299_000, Status::Valid);
    assert_eq!(world.code(at(299_000)), Ok(()));
    assert_eq!(world.code(at(300_000)), Err("result.svid.expired"), "dates");
    let before = Moment { wall: UnixMillis(NOW.0 - 61_000), ..at(299_001) };
    assert_eq!(world.code(before), Err("result.svid.not_yet_valid"), "dates go both ways");
}

#[test]
fn a_pulse_waits_for_its_lists_and_the_old_one_ends_on_its_own() {
    let world = World::new();
    world.say(1, 0, Status::Valid);
    let (revoked, pulse) = world.messages(2, 1_000, Status::Invalid);
    assert_eq!(world.gate.offer_pulse(&pulse, at(1_000)), Ok(Offer::WaitsForLists(vec![0])));
    assert_eq!(world.code(at(1_000)), Ok(()), "the old pulse goes on");
    assert_eq!(world.code(at(Y_MS)), Err("gate.pulse.expired"), "until its own end");
    let (_, older) = world.messages(1, 900, Status::Valid);
    assert_eq!(world.gate.offer_pulse(&older, at(1_000)), Ok(Offer::NotNewer));
    assert_eq!(world.gate.offer_pulse(&pulse, at(1_000)), Ok(Offer::NotNewer), "the same again");
    world.gate.offer_list(&revoked, at(1_100)).unwrap();
    assert_eq!(world.code(at(1_100)), Err("gate.credential.invalid"));
    assert_eq!(world.code(at(Y_MS)), Err("gate.credential.invalid"));
    assert_eq!(world.code(at(1_000 + Y_MS)), Err("gate.pulse.expired"));
}

#[test]
fn a_list_of_another_size_than_the_pulse_says_is_not_its_list() {
    let world = World::new();
    let list = list(Status::Valid);
    world.gate.offer_list(&world.issuer.list_token(&list, NOW), at(0)).unwrap();
    let sound = world.issuer.pulse(1, NOW, &list);
    let size = Pulse { lists: vec![ListDigest { size: 65_532, ..sound.lists[0] }], ..sound };
    let offer = world.gate.offer_pulse(&world.issuer.pulse_token(&size), at(0));
    assert_eq!(offer, Ok(Offer::WaitsForLists(vec![0])));
}

#[test]
fn older_and_repeated_pulses_change_nothing_even_after_the_end() {
    let world = World::new();
    let valid = world.messages(1, 0, Status::Valid);
    world.say(1, 0, Status::Valid);
    world.say(2, 10, Status::Invalid);
    assert_eq!(world.gate.offer_pulse(&valid.1, at(20)), Ok(Offer::NotNewer));
    assert_eq!(world.code(at(20)), Err("gate.credential.invalid"));
    // An old sequence with a new basis, after the newest has ended: still old.
    let (_, late) = world.messages(1, 20_000, Status::Valid);
    assert_eq!(world.gate.offer_pulse(&late, at(20_000)), Ok(Offer::NotNewer));
    assert_eq!(world.code(at(20_000)), Err("gate.pulse.expired"));
    // A new epoch is newer whatever its sequence.
    let reborn = Pulse { epoch: 2, ..world.issuer.pulse(0, at(20_000).wall, &list(Status::Valid)) };
    world.gate.offer_list(&world.issuer.list_token(&list(Status::Valid), at(20_000).wall), at(20_000)).unwrap();
    assert_eq!(world.gate.offer_pulse(&world.issuer.pulse_token(&reborn), at(20_000)), Ok(Offer::Installed));
    assert_eq!(world.code(at(20_000)), Ok(()));
    let (_, before) = world.messages(99, 20_000, Status::Invalid);
    assert_eq!(world.gate.offer_pulse(&before, at(20_000)), Ok(Offer::NotNewer));
}

#[test]
fn what_others_signed_is_refused_and_changes_nothing() {
    let world = World::new();
    world.say(1, 0, Status::Valid);
    let other = Issuer::new(DOMAIN);
    let forged = other.pulse_token(&other.pulse(9, NOW, &list(Status::Invalid)));
    assert_eq!(world.gate.offer_pulse(&forged, at(0)).map_err(|r| r.code()), Err("result.token.unknown_key"));
    let forged = other.list_token(&list(Status::Valid), NOW);
    assert_eq!(world.gate.offer_list(&forged, at(0)).map_err(|r| r.code()), Err("result.token.unknown_key"));
    let (list, pulse) = world.messages(2, 0, Status::Invalid);
    assert_eq!(world.gate.offer_pulse(&list, at(0)).map_err(|r| r.code()), Err("result.token.type"));
    assert_eq!(world.gate.offer_list(&pulse, at(0)).map_err(|r| r.code()), Err("result.token.type"));
    assert_eq!(world.gate.offer_pulse(&pulse, at(Y_MS)).map_err(|r| r.code()), Err("pulse.expired"));
    assert_eq!(world.code(at(0)), Ok(()));
}

#[test]
fn open_sessions_hear_of_every_pulse() {
    let world = World::new();
    let mut sessions = world.gate.subscribe();
    assert_eq!(*sessions.borrow_and_update(), None);
    world.say(1, 0, Status::Valid);
    assert!(sessions.has_changed().unwrap());
    assert_eq!(*sessions.borrow_and_update(), Some(PulseNumber { epoch: 1, seq: 1 }));
    assert_eq!(world.say(1, 1, Status::Valid), Offer::NotNewer);
    assert!(!sessions.has_changed().unwrap());
    world.say(2, 2, Status::Invalid);
    assert!(sessions.has_changed().unwrap());
    assert_eq!(world.code(at(2)), Err("gate.credential.invalid"));
}

// ---------------------------------------------------------------- model

/// One step of a hostile network and a hostile clock.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Both clocks go on.
    Wait(u64),
    /// The wall clock alone is set back.
    SetBack(u64),
    /// The broker signs; nothing is delivered yet.
    Sign(u8),
    /// A signed pulse is delivered, any of them, any number of times.
    Pulse(usize),
    /// A signed list is delivered.
    List(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1_u64..2_500).prop_map(Step::Wait),
        1 => (1_u64..4_000).prop_map(Step::SetBack),
        3 => (0_u8..3).prop_map(Step::Sign),
        4 => (0_usize..40).prop_map(Step::Pulse),
        3 => (0_usize..3).prop_map(Step::List),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// True time is the steady clock. The broker's clock is right; the gate's is set back now and then. Whatever is
    /// delivered in whatever order, an acceptance rests on the newest complete pulse, which says VALID, and ends Y
    /// after its basis, plus what the gate's clock was wrong by when the pulse came in. What the clock does later adds
    /// nothing.
    #[test]
    fn no_sequence_of_messages_extends_trust(steps in steps()) {
        let world = World::new();
        let (mut true_ms, mut back_ms) = (0_u64, 0_u64);
        let mut signed: Vec<(u64, Status)> = Vec::new();
        let mut delivered = BTreeMap::new();
        let mut newest = None;
        let statuses = [Status::Valid, Status::Invalid, Status::Suspended];
        for step in steps {
            let wall = UnixMillis(NOW.plus(true_ms).0 - back_ms);
            let moment = Moment { wall, steady_ms: 1_000 + true_ms, error: ClockError::NONE };
            match step {
                Step::Wait(milliseconds) => true_ms += milliseconds,
                Step::SetBack(milliseconds) => back_ms += milliseconds,
                Step::Sign(status) => signed.push((true_ms, statuses[usize::from(status)])),
                Step::Pulse(which) if which < signed.len() => {
                    let (basis, status) = signed[which];
                    let seq = u64::try_from(which).unwrap();
                    let pulse = world.issuer.pulse(seq, at(basis).wall, &list(status));
                    let offer = world.gate.offer_pulse(&world.issuer.pulse_token(&pulse), moment);
                    if let Ok(Offer::Installed | Offer::WaitsForLists(_)) = offer {
                        prop_assert!(newest.is_none_or(|newest| newest < seq), "{seq} after {newest:?}");
                        newest = Some(seq);
                        delivered.insert(seq, (basis, status, back_ms));
                    }
                }
                Step::List(which) => {
                    let token = world.issuer.list_token(&list(statuses[which]), wall);
                    prop_assert!(world.gate.offer_list(&token, moment).is_ok());
                }
                Step::Pulse(_) => {}
            }
            let wall = UnixMillis(NOW.plus(true_ms).0 - back_ms);
            let moment = Moment { wall, steady_ms: 1_000 + true_ms, error: ClockError::NONE };
            let allowed = matches!(world.gate.decide(&world.chain, moment), Decision::Allow(_));
            let snapshot = world.gate.snapshot();
            if let Some(held) = &snapshot.held {
                let (basis, status, error_ms) = delivered[&held.pulse().seq];
                let in_time = true_ms < basis + Y_MS + error_ms;
                prop_assert!(!allowed || (status == Status::Valid && in_time), "seq {}", held.pulse().seq);
            } else {
                prop_assert!(!allowed);
            }
        }
    }
}
