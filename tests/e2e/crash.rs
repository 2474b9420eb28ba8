//! The broker dies, or falls silent, at any moment: nobody is trusted who should not be, and nothing recorded is lost.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::tree::{Frontier, leaf_hash};
use countersign_attestation::protocol::AttestationResponse;
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::fleet::{Fleet, ask_gate, checkpoint_size, now, succeed, wait_until};
use crate::sim_host::{SimHost, anchor, register_golden};
use crate::tpm::SimManufacturer;

const ROUNDS: usize = 10;
const VALIDITY_MS: u64 = 1000;

/// Delays are drawn from a fixed seed (xorshift), so that a failure can be repeated.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn a13_kill_9_of_the_broker_never_brings_trust_back_and_loses_no_decision() {
    let folder = TempDir::new().unwrap();
    let maker = SimManufacturer::new();
    let mut fleet = Fleet::start_with(&[anchor(&maker, folder.path())], |config| {
        config.pulse_period_ms = 100;
        config.pulse_validity_ms = VALIDITY_MS;
        config.attest_interval_ms = 200;
        // Short enough that leases end in every round.
        config.lease_ms = 1500;
        config.credential_ttl_ms = 60_000;
    });
    register_golden(&fleet, "golden");
    let older = fleet.checkpoint();
    // One host attests all the time; it renews its key often, so that all kinds of entries are being written.
    let (mut steady, steady_certificate) = SimHost::trusted(&fleet, &maker, "steady");
    let mut victims: Vec<_> = (0..ROUNDS).map(|n| SimHost::enrolled(&fleet, &maker, &format!("victim-{n}"))).collect();
    let decisions = Mutex::new(BTreeSet::new());
    let mut revoked: Vec<(String, String)> = Vec::new();
    let (mut draw, mut acknowledged) = (Draw(0x5eed), 0);

    for victim in &mut victims {
        let granted = victim.attest_ok(&fleet);
        decisions.lock().unwrap().insert(granted.decision);
        let certificate = granted.credential.unwrap().certificate_chain;
        fleet.gate_until(&certificate, 200);
        let delay = Duration::from_micros(draw.below(40_000));
        let answered = crash(&mut fleet, &mut steady, victim, delay, &decisions);
        fleet.restart_broker();

        let standing = fleet.host(&victim.id).trust.standing;
        if answered {
            acknowledged += 1;
            assert_eq!(standing, "revoked", "an acknowledged revocation of {} was lost", victim.id);
        }
        if standing == "revoked" {
            revoked.push((victim.id.clone(), certificate));
        }
        // The host that nobody revoked goes on, by what it holds and by what it proves.
        let granted = steady.attest_ok(&fleet);
        decisions.lock().unwrap().insert(granted.decision);
        fleet.gate_until(&steady_certificate, 200);
        for (id, certificate) in &revoked {
            assert_eq!(fleet.host(id).trust.standing, "revoked", "{id}");
            assert_eq!(fleet.gate(certificate).status, 403, "{id}");
        }
    }
    println!("{ROUNDS} kills: {acknowledged} revocations answered before, {} recorded", revoked.len());
    assert!(0 < acknowledged && !revoked.is_empty(), "no kill came after a revocation: the delays prove nothing");
    for victim in victims.iter_mut().filter(|victim| revoked.iter().any(|(id, _)| *id == victim.id)) {
        assert_eq!(victim.attest(&fleet).problem().code, "trust.revoked");
    }
    check_log(&fleet, &decisions.into_inner().unwrap(), &older);
}

/// A host attests and an operator revokes `victim`, when the broker is killed. Tells whether the revocation was
/// answered.
fn crash(
    fleet: &mut Fleet,
    steady: &mut SimHost,
    victim: &SimHost,
    delay: Duration,
    decisions: &Mutex<BTreeSet<Sha256Digest>>,
) -> bool {
    let (killed, start) = (AtomicBool::new(false), Barrier::new(3));
    let (client, mut operator) = (steady.client(fleet), fleet.as_operator().connect().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            start.wait();
            while !killed.load(Ordering::Relaxed) {
                let Ok(answer) = steady.try_attest(&client) else { continue };
                assert_eq!(answer.status, 200, "{}", answer.text());
                decisions.lock().unwrap().insert(answer.json::<AttestationResponse>().decision);
                steady.renew();
            }
        });
        let revoking = scope.spawn(|| {
            start.wait();
            let path = format!("/v1/hosts/{}/revocation", victim.id);
            operator.send("POST", &path, Some(&json!({}))).is_ok_and(|answer| answer.status == 200)
        });
        start.wait();
        std::thread::sleep(delay);
        fleet.kill_broker();
        killed.store(true, Ordering::Relaxed);
        revoking.join().unwrap()
    })
}

/// Every decision that a client was told of is in the log, the log's bytes have the hashes that it says, their tree has
/// the root of the signed checkpoint, and the auditor's command agrees.
fn check_log(fleet: &Fleet, decisions: &BTreeSet<Sha256Digest>, older: &str) {
    let note = fleet.checkpoint();
    let entries = fleet.entries_below(checkpoint_size(&note));
    let mut tree = Frontier::default();
    let mut known = BTreeSet::new();
    for entry in &entries {
        let leaf = leaf_hash(&URL_SAFE_NO_PAD.decode(&entry.bytes).unwrap());
        assert_eq!(leaf.to_hex(), entry.leaf_hash, "entry {}", entry.index);
        tree.push(leaf);
        known.insert(leaf);
    }
    assert_eq!(note.lines().nth(2), Some(STANDARD.encode(tree.head().root.0).as_str()), "{note}");
    let lost: Vec<_> = decisions.difference(&known).collect();
    assert!(lost.is_empty(), "{} of {} decisions are not in the log: {lost:?}", lost.len(), decisions.len());
    println!("{} decisions given out, all in a log of {} entries", decisions.len(), entries.len());
    let starts = entries.iter().filter(|entry| entry.event == "broker_started").count();
    assert_eq!(starts, ROUNDS + 1);

    let old_note = fleet.path().join("older-checkpoint");
    fs::write(&old_note, older).unwrap();
    let report = fleet.operator_ok(&["log", "verify", "--older", old_note.to_str().unwrap()]);
    assert!(report.starts_with("whole: "), "{report}");
    // One bit of one entry changed in a copy: the auditor sees it, once a checkpoint on disk covers the entry.
    let published = fleet.data().join("log/checkpoint");
    wait_until("the checkpoint is published", || {
        entries.len() as u64 <= checkpoint_size(&fs::read_to_string(&published).unwrap())
    });
    let copy = fleet.path().join("copy");
    succeed(Command::new("cp").arg("-r").arg(fleet.data()).arg(&copy));
    let needle = URL_SAFE_NO_PAD.decode(&entries[entries.len() / 2].bytes).unwrap();
    assert!(change_one_bit(&copy.join("log"), &needle), "the entry is in the log's files");
    let audited = fleet.operator(&["log", "verify", "--data-dir", copy.to_str().unwrap()]);
    assert!(!audited.status.success(), "{}", String::from_utf8_lossy(&audited.stdout));
}

/// Changes one bit of every copy of an entry; tells whether there was one.
fn change_one_bit(folder: &Path, needle: &[u8]) -> bool {
    let mut changed = false;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            changed |= change_one_bit(&path, needle);
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            bytes[at + needle.len() / 2] ^= 1;
            fs::write(&path, bytes).unwrap();
            changed = true;
        }
    }
    changed
}

#[test]
fn a13_when_the_broker_is_silent_or_dead_the_gate_denies_within_the_pulse_validity() {
    /// What is shipped: a pulse is valid for 5 s; one more for a loaded machine.
    const BOUND: Duration = Duration::from_secs(6);
    let folder = TempDir::new().unwrap();
    let maker = SimManufacturer::new();
    let mut fleet = Fleet::start(&[anchor(&maker, folder.path())]);
    register_golden(&fleet, "golden");
    let (_host, certificate) = SimHost::trusted(&fleet, &maker, "host-a");
    fleet.gate_until(&certificate, 200);

    // Silent: connections stay open, nothing comes.
    let stopped = now();
    fleet.broker.as_ref().unwrap().signal(Signal::STOP);
    let said = fleet.gate_until(&certificate, 403);
    let silent = stopped.elapsed();
    assert_eq!(said.reason, "gate.pulse.expired");
    assert!(silent <= BOUND, "{silent:?}");
    fleet.broker.as_ref().unwrap().signal(Signal::CONT);
    fleet.gate_until(&certificate, 200);

    // Dead.
    let killed = now();
    fleet.kill_broker();
    let said = fleet.gate_until(&certificate, 403);
    let dead = killed.elapsed();
    assert_eq!(said.reason, "gate.pulse.expired");
    assert!(dead <= BOUND, "{dead:?}");
    println!("from the last sign of life to the gate's first 403: stopped {silent:?}, killed {dead:?}");

    // Back: the host is trusted again only as long as its lease, which went on.
    fleet.restart_broker();
    fleet.gate_until(&certificate, 200);
    assert_eq!(ask_gate(&fleet.gate_address, "no certificate").status, 403);
}

#[test]
fn a_broker_whose_disk_fails_ends_by_itself_and_the_next_one_goes_on() {
    let mut fleet = Fleet::start_with(&[], |config| config.pulse_period_ms = 100);
    let before = checkpoint_size(&fleet.checkpoint());
    let mut broker = fleet.broker.take().unwrap();
    let pid = broker.0.id().to_string();
    // Pages of the store are beyond it; what the broker says about that is not.
    succeed(Command::new("prlimit").args(["--pid", &pid, "--fsize=16384:"]));
    assert_eq!(broker.code(), Some(1), "its supervisor sees a failure");
    assert!(fleet.logs().contains("no more pulses could be signed"), "{}", fleet.logs());
    fleet.restart_broker();
    assert!(before < checkpoint_size(&fleet.checkpoint()), "all of before, and that it started again");
}
