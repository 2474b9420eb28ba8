//! A schedule: what happens, drawn from its seed; and the return of calm at its end.

use std::path::PathBuf;

use countersign::trust::state::Standing;
use countersign_attestation::pulse::CLOCK_ERROR_MAX_MS;
use countersign_attestation::time::ClockError;

use crate::disk::{Fault, Room};
use crate::gate::Part;
use crate::world::{ERROR_MS, Tally, Told, World};

const STEPS: u64 = 70;
pub(crate) const HOUR_MS: u64 = 3_600_000;

/// Runs a schedule to its end.
pub(crate) fn run(seed: u64, told: Told) -> (Vec<String>, Tally) {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(seed, PathBuf::from(folder.path()), told);
    for step in 1..=STEPS {
        world.step = step;
        world.tally.events += 1;
        let pause = match world.dice.below(10) {
            0 => 0,
            1..8 => world.dice.below(600),
            _ => world.dice.below(2_500),
        };
        world.pass(pause);
        event(&mut world);
        world.check();
    }
    world.step = STEPS + 1;
    calm(&mut world);
    world.kill(false);
    (world.trace, world.tally)
}

fn event(world: &mut World) {
    let host = world.dice.index(world.hosts.len());
    let kind = world.dice.below(100);
    if !world.is_well() && !world.broker_asleep && kind < 25 {
        return restart(world);
    }
    match kind {
        0..30 => world.attest(host),
        30..33 => {
            world.note(format!("host {host} is overtaken by an operator"));
            world.overtake(host);
        }
        33..36 => finish_slow(world),
        36..39 => {
            world.hosts[host].drifted = !world.hosts[host].drifted;
            world.note(format!("host {host} drifted: {}", world.hosts[host].drifted));
            world.attest(host);
        }
        39..46 => {
            world.note(format!("an operator revokes host {host}"));
            world.revoke(host);
        }
        46..54 => {
            world.note(format!("an operator readmits host {host}"));
            world.readmit(host);
        }
        54..58 => {
            let (before, after) = (world.dice.below(300), world.dice.below(4_000));
            if !world.platter.is_stalled() && !world.broker_asleep {
                world.note(format!("host {host} is revoked while the store commits for {before} and {after} ms"));
                world.revoke_while_committing(host, before, after);
            }
        }
        58..70 => broker_fault(world),
        70..78 => clock_fault(world),
        78..84 => sleep(world, host),
        _ => network_fault(world),
    }
}

fn restart(world: &mut World) {
    world.kill(false);
    world.start();
}

fn finish_slow(world: &mut World) {
    if !world.slow.is_empty() && !world.broker_asleep {
        let which = world.dice.index(world.slow.len());
        let case = world.slow.remove(which);
        world.finish(case);
    }
}

fn broker_fault(world: &mut World) {
    let faults = [Fault::Lost(world.dice.number()), Fault::DoneButReportedLost, Fault::PowerFails];
    match world.dice.below(12) {
        0 | 1 => {
            world.note("the broker is killed".to_owned());
            world.kill(false);
        }
        2 | 3 => {
            world.note("power fails".to_owned());
            world.kill(true);
        }
        4 | 5 => {
            let fault = world.dice.pick(&faults);
            world.note(format!("the log's next sync: {fault:?}"));
            world.platter.fault(Room::Log, fault);
        }
        6 => {
            let fault = world.dice.pick(&faults);
            world.note(format!("the store's next sync: {fault:?}"));
            world.platter.fault(Room::Store, fault);
        }
        7 => {
            let full = world.dice.one_in(2);
            world.note(format!("the disk is full: {full}"));
            world.platter.set_full(full);
        }
        _ if world.platter.is_stalled() => {
            world.note("the disk goes on".to_owned());
            world.resume();
        }
        _ if world.process.is_some() => {
            world.note("the disk stalls".to_owned());
            world.platter.stall();
        }
        _ => {}
    }
}

/// What kernels say of their clocks: the truth or more, too much, that nobody keeps them, or (as by default) nothing of
/// an error that is there.
fn kernel_fault(world: &mut World) {
    let gate = world.dice.index(world.gates.len());
    let limit = CLOCK_ERROR_MAX_MS;
    let said = match world.dice.below(6) {
        0..3 => ClockError::Within { error_ms: world.dice.below(limit + 1) },
        3 => ClockError::TooLarge { error_ms: limit + 1 + world.dice.below(9_000), max_ms: limit },
        4 => ClockError::Unsynchronised,
        _ => ClockError::NONE,
    };
    if world.dice.one_in(3) {
        world.note(format!("the broker's kernel says: {said:?}"));
        world.time.say(said);
        return;
    }
    world.note(format!("the kernel of gate {gate} says: {said:?}"));
    world.gates[gate].said = said;
    // A kernel that says so much knows: the error is within it.
    if let Ok(error_ms) = said.bounded() {
        let error_ms = i64::try_from(error_ms).unwrap();
        world.gates[gate].error = world.dice.between(-error_ms, error_ms);
    }
}

fn clock_fault(world: &mut World) {
    if world.dice.one_in(3) {
        return kernel_fault(world);
    }
    let gate = world.dice.index(world.gates.len());
    let error = match world.dice.below(8) {
        0..5 => world.dice.between(-ERROR_MS, ERROR_MS),
        5 => world.dice.between(-20_000, 20_000),
        _ => world.dice.pick(&[-2, -1, 1, 2]) * i64::try_from(HOUR_MS).unwrap(),
    };
    match world.dice.below(4) {
        0 => {
            world.note(format!("the broker's clock is off by {error} ms"));
            world.time.set_error(error);
        }
        1 => {
            let host = world.dice.index(world.hosts.len());
            world.note(format!("the clock of host {host} is off by {error} ms"));
            world.hosts[host].error = error;
        }
        _ => {
            world.note(format!("the clock of gate {gate} is off by {error} ms"));
            world.gates[gate].error = error;
        }
    }
}

/// A machine sleeps for a while, or for hours.
fn sleep(world: &mut World, host: usize) {
    let gate = world.dice.index(world.gates.len());
    let long = world.dice.one_in(3);
    let for_ms = if long { HOUR_MS * (1 + world.dice.below(12)) } else { 500 + world.dice.below(20_000) };
    let who = world.dice.below(4);
    world.note(format!("sleep of {} for {for_ms} ms", ["broker", "a gate", "a host", "all"][who as usize]));
    let (broker, gates, hosts) = match who {
        0 => (true, vec![], vec![]),
        1 => (false, vec![gate], vec![]),
        2 => (false, vec![], vec![host]),
        _ => (true, vec![0, 1, 2], vec![0, 1, 2]),
    };
    world.broker_asleep = broker;
    gates.iter().for_each(|gate| world.gates[*gate].asleep = true);
    hosts.iter().for_each(|host| world.hosts[*host].asleep = true);
    world.pass(for_ms);
    world.broker_asleep = false;
    hosts.iter().for_each(|host| world.hosts[*host].asleep = false);
    gates.iter().for_each(|gate| world.wake_gate(*gate));
}

fn network_fault(world: &mut World) {
    let gate = world.dice.index(world.gates.len());
    match world.dice.below(8) {
        0..3 => {
            let cut = !world.gates[gate].cut_off;
            world.note(format!("gate {gate} is cut off: {cut}"));
            world.gates[gate].cut_off = cut;
            if !cut {
                world.gates[gate].lists_sent.clear();
                world.send_newest(gate);
            }
        }
        3 => {
            world.note(format!("gate {gate} is restarted"));
            world.gates[gate].restart();
        }
        // Someone kept what was said, and says it again.
        _ => {
            let newest = world.sent.len();
            let message = newest - 1 - world.dice.index(newest.min(12));
            let part = world.dice.pick(&[Part::Whole, Part::Pulse, Part::Lists]);
            world.note(format!("message {message} again to gate {gate}: {part:?}"));
            world.send(gate, message, part, 0);
        }
    }
}

/// Faults end. Nobody lends a hand but the supervisor, who starts a broker that has given up, and the operator, who
/// readmits whom somebody revoked. Then every host is trusted by every gate again.
fn calm(world: &mut World) {
    world.note("calm".to_owned());
    world.platter.no_faults();
    if world.platter.is_stalled() {
        world.resume();
    }
    world.time.set_error(0);
    world.time.say(ClockError::NONE);
    world.gates.iter_mut().for_each(|gate| (gate.error, gate.said, gate.cut_off) = (0, ClockError::NONE, false));
    world.hosts.iter_mut().for_each(|host| (host.error, host.drifted) = (0, false));
    world.slow.clear();
    for _ in 0..2 {
        if !world.is_well() {
            restart(world);
        }
        assert!(world.is_well(), "the broker does not come back: {}", world.place());
        // A clock that is right again shows in the next pulse.
        world.pass(1_500);
    }
    for gate in 0..world.gates.len() {
        world.gates[gate].lists_sent.clear();
        world.send_newest(gate);
    }
    let mut trusted = [false; 3];
    for _ in 0..5 {
        if !world.is_well() {
            restart(world);
        }
        for host in 0..trusted.len() {
            let standing = world.process.as_ref().unwrap().host(&world.hosts[host].id).standing;
            if standing == Standing::Revoked {
                world.readmit(host);
            }
            world.attest(host);
        }
        while let Some(case) = world.slow.pop() {
            world.finish(case);
        }
        world.pass(1_500);
        for (host, trusted) in trusted.iter_mut().enumerate() {
            let now = world.now();
            let newest = world.credentials.iter().rev().find(|credential| credential.host == host);
            let accepts = |gate: &crate::gate::Gate| newest.map(|newest| gate.decide(&newest.left, now));
            let answers: Vec<_> = world.gates.iter().map(accepts).collect();
            *trusted |= answers.iter().all(|answer| *answer == Some(Ok(())));
            world.note(format!("host {host}: {answers:?}"));
        }
        if trusted == [true; 3] {
            return;
        }
    }
    panic!("not every host is trusted again, {trusted:?}: {}", world.place());
}
