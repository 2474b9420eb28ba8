//! Long absences, without chance: of a host, of the broker, of every machine at once.

use countersign_attestation::UnixMillis;

use crate::schedule::HOUR_MS;
use crate::world::{Told, World};

/// A world in which all three gates accept all three hosts.
fn trusted(folder: &tempfile::TempDir) -> World {
    let mut world = World::new(1, folder.path().to_owned(), Told::Never);
    world.settled();
    assert_eq!(accepted(&world), [Ok(()); 9]);
    world
}

/// Every gate's answer to the newest credential of every host.
fn accepted(world: &World) -> [Result<(), &'static str>; 9] {
    let now = world.now();
    let newest = |host| world.credentials.iter().rev().find(|credential| credential.host == host).unwrap();
    std::array::from_fn(|pair| world.gates[pair / 3].decide(&newest(pair % 3).left, now))
}

fn allowed(world: &World) -> usize {
    accepted(world).iter().filter(|answer| answer.is_ok()).count()
}

/// The credential lives for minutes after the last proof; what it opens ends with the lease, W later at the latest.
#[test]
fn e23_access_ends_with_the_evidence_and_not_with_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = trusted(&folder);
    let last = world.now();
    world.hosts.iter_mut().for_each(|host| host.asleep = true);
    let bound = world.settings.lease_ms + world.settings.validity_ms + 1_000;
    while world.now() < last + bound {
        world.pass(50);
    }
    assert_eq!(accepted(&world), [Err("gate.credential.suspended"); 9]);
    let wall = UnixMillis(crate::broker::BASE.0 + world.now());
    for credential in &world.credentials {
        let (until, lease) = (credential.left.credential.not_after(), world.settings.lease_ms);
        assert!(wall.plus(4 * lease) < until, "the certificate alone would go on for long");
    }
    world.hosts.iter_mut().for_each(|host| host.asleep = false);
    world.settled();
    assert_eq!(accepted(&world), [Ok(()); 9], "a proof leads back, without anyone's hand");
}

/// Broker, gates and hosts all sleep, as machines of one rack that lost its power do, for twelve hours.
#[test]
fn e24_twelve_hours_asleep_nothing_is_accepted_and_all_recover_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = trusted(&folder);
    world.broker_asleep = true;
    world.hosts.iter_mut().for_each(|host| host.asleep = true);
    // Their gates are awake and ask themselves all the while; the last pulse ends.
    for _ in 0..200 {
        world.pass(100);
    }
    assert_eq!(accepted(&world), [Err("gate.pulse.expired"); 9]);
    world.gates.iter_mut().for_each(|gate| gate.asleep = true);
    world.pass(12 * HOUR_MS);
    for gate in 0..3 {
        world.wake_gate(gate);
    }
    assert_eq!(allowed(&world), 0, "awake, and not a millisecond of the old pulse is left");
    world.broker_asleep = false;
    world.pass(2_000);
    assert_eq!(accepted(&world), [Err("result.svid.expired"); 9], "a pulse alone brings nobody back");
    world.hosts.iter_mut().for_each(|host| host.asleep = false);
    world.settled();
    assert_eq!(accepted(&world), [Ok(()); 9]);
}

/// The wall clocks are wrong when the machines wake up: set back to when they fell asleep.
#[test]
fn e24_a_clock_that_stood_still_while_the_machine_slept_revives_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = trusted(&folder);
    world.broker_asleep = true;
    world.hosts.iter_mut().for_each(|host| host.asleep = true);
    world.pass(HOUR_MS);
    let back = -i64::try_from(HOUR_MS).unwrap();
    world.time.set_error(back);
    world.gates.iter_mut().for_each(|gate| gate.error = back);
    world.hosts.iter_mut().for_each(|host| host.error = back);
    world.check();
    assert_eq!(allowed(&world), 0);
    assert!(world.hosts.iter().all(|host| !host.is_live(&world)), "the leases at the agents are over as well");
    world.broker_asleep = false;
    world.pass(1_500);
    assert_eq!(allowed(&world), 0, "the broker's own clock counted the hour: it signs nothing that lives on");
    world.time.set_error(0);
    world.gates.iter_mut().for_each(|gate| gate.error = 0);
    world.hosts.iter_mut().for_each(|host| (host.error, host.asleep) = (0, false));
    world.settled();
    assert_eq!(accepted(&world), [Ok(()); 9]);
}

/// The broker is gone for an hour: every gate denies from the end of its pulse on, to the millisecond, and accepts
/// again at the first fresh pulse that finds its hosts trusted.
#[test]
fn an_hour_without_the_broker() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = trusted(&folder);
    world.kill(false);
    world.pass(0);
    let mut denied_from = None;
    for _ in 0..world.settings.validity_ms + 600 {
        world.pass(1);
        let held = world.gates[0].held().unwrap();
        // exp is Y after the basis, by the broker's clock.
        let end = (held.started + world.settings.validity_ms).saturating_add_signed(held.error());
        let expected = if world.now() < end { Ok(()) } else { Err("gate.pulse.expired") };
        assert_eq!(accepted(&world)[0], expected, "{} ms, exp at {end} ms", world.now());
        if expected.is_err() {
            denied_from.get_or_insert(world.now());
        }
    }
    assert!(denied_from.is_some());
    for _ in 0..60 {
        world.pass(60_000);
        assert_eq!(allowed(&world), 0);
    }
    world.start();
    world.settled();
    assert_eq!(accepted(&world), [Ok(()); 9], "nobody lent a hand");
}
