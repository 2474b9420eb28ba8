//! What a host started, and what it started since: event logs across reboots, and an IMA list that grows.

use std::fs;
use std::time::Duration;

use countersign_attestation::digest::Sha256Digest;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::firmware::Boot;
use crate::fleet::{Fleet, now};
use crate::machine::{KERNEL, Machine, Sent};

const HOST: &str = "host-a";
/// The agent's exit codes.
const GRANTED: Option<i32> = Some(0);
const DENIED: Option<i32> = Some(3);

/// A machine whose agent says what it sends.
fn machine(folder: &TempDir) -> Machine {
    let mut machine = Machine::boot(folder.path());
    machine.log = "info,countersign_agent::attester=debug,tss_esapi=off";
    machine
}

fn register(fleet: &Fleet, manifest: &Value) {
    fleet.register(manifest);
}

/// What these PCRs hold after the boot.
fn booted(pcrs: &[u8]) -> Value {
    let values = Boot::of(KERNEL).pcrs();
    let value = |pcr: &u8| (pcr.to_string(), json!([hex::encode(values[usize::from(*pcr)])]));
    json!({"id": "golden", "tpm": {"pcrs": {"sha256": pcrs.iter().map(value).collect::<Map<_, _>>()}}})
}

#[test]
fn a6_one_tpm_enrols_by_its_rsa_ek_and_by_its_ecc_ek() {
    let folder = TempDir::new().unwrap();
    let machine = machine(&folder);
    let fleet = Fleet::start(&[machine.anchor()]);
    register(&fleet, &booted(&[0, 4, 7]));
    let mut fingerprints = Vec::new();
    for (id, ek) in [("by-rsa", "rsa2048"), ("by-ecc", "ecc-p384")] {
        fingerprints.push(machine.enroll_by(&fleet, id, ek));
        let (code, said) = machine.attest_once();
        assert_eq!(code, GRANTED, "{said}");
        assert_eq!(fleet.host(id).trust.standing, "trusted");
        fs::remove_dir_all(machine.state()).unwrap();
    }
    assert_ne!(fingerprints[0], fingerprints[1]);
}

#[test]
fn a16_a_reboot_demands_the_new_boots_log() {
    let folder = TempDir::new().unwrap();
    let machine = machine(&folder);
    let fleet = Fleet::start(&[machine.anchor()]);
    register(&fleet, &booted(&[0, 4, 7]));
    machine.enroll(&fleet, HOST);
    let log = fs::read(machine.event_log()).unwrap();
    let whole_log = Some(log.len() as u64);
    let once = |machine: &Machine| {
        let (code, said) = machine.attest_once();
        assert_eq!(code, GRANTED, "{said}");
        Machine::sent(&said).event_log_bytes
    };
    assert_eq!(once(&machine), whole_log, "a broker that knows nothing");
    assert_eq!(once(&machine), None, "the same boot");
    let boot = &shown(&fleet)["latest"]["claims"]["boot"];
    assert_eq!(boot["evidence"], "verified", "{boot}");
    assert_eq!(boot["claims"]["secure_boot"], "on", "{boot}");

    // The next boot, with its log.
    let machine = machine.reboot();
    assert_eq!(once(&machine), whole_log, "another boot");
    assert_eq!(once(&machine), None);
    assert_eq!(fleet.host(HOST).trust.generation, 1, "no operator was needed");

    // And one that nobody can tell of: the right PCR values alone could have been extended by anything.
    let machine = machine.reboot();
    fs::remove_file(machine.event_log()).unwrap();
    let (code, said) = machine.attest_once();
    assert_eq!(code, DENIED, "{said}");
    assert!(said.contains("tpm.boot.log_missing"), "{said}");
    assert_eq!(fleet.host(HOST).trust.standing, "revoked");
    assert_eq!(fleet.host(HOST).trust.reasons, ["tpm.boot.log_missing"]);

    // Another boot's log does not help, and its own does.
    fleet.operator_ok(&["hosts", "readmit", HOST]);
    fs::write(machine.event_log(), Boot::of("/boot/vmlinuz-evil").log()).unwrap();
    let (code, said) = machine.attest_once();
    assert_eq!(code, GRANTED, "PCR 8 and 9 tell the kernels apart, and no manifest asks for them: {said}");
    let mut whole = Boot::of(KERNEL);
    whole.told(7, 0x8000_0007, b"an action that never was".to_vec());
    let machine = machine.reboot();
    fs::write(machine.event_log(), whole.log()).unwrap();
    let (code, said) = machine.attest_once();
    assert_eq!(code, DENIED, "{said}");
    fs::write(machine.event_log(), &log).unwrap();
    assert_eq!(once(&machine), whole_log);
}

fn shown(fleet: &Fleet) -> Value {
    fleet.as_operator().get(&format!("/v1/hosts/{HOST}"))
}

/// Rules that list what the tests measure. PCR 0 to 9 show that the list begins with this boot.
fn with_ima(violations: &str) -> Value {
    let file = |content: &str| json!([format!("sha256:{}", Sha256Digest::of(&[content.as_bytes()]).to_hex())]);
    let mut manifest = booted(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    manifest["ima"] = json!({"rules": {
        "files": {"/usr/bin/server": file("server 1"), "/usr/lib/libmodel.so": file("model 1")},
        "violations": violations,
    }});
    manifest
}

/// A machine whose kernel measures, trusted.
fn measuring(folder: &TempDir, violations: &str) -> (Machine, Fleet) {
    let mut machine = machine(folder);
    machine.start_ima();
    let fleet = Fleet::start(&[machine.anchor()]);
    register(&fleet, &with_ima(violations));
    machine.enroll(&fleet, HOST);
    (machine, fleet)
}

#[test]
fn a21_only_new_entries_travel_and_one_that_is_not_listed_revokes_within_a_second() {
    let folder = TempDir::new().unwrap();
    let (machine, fleet) = measuring(&folder, "refused");
    let kernel = machine.kernel.as_ref().unwrap();
    machine.extend_with(kernel.measure("/usr/bin/server", b"server 1"));
    let (code, said) = machine.attest_once();
    assert_eq!(code, GRANTED, "{said}");
    let known = kernel.read().len();
    let sent = Machine::sent(&said);
    assert_eq!((sent.ima_from, sent.ima_bytes), (Some(0), Some(known as u64)));
    assert_eq!(attested(&fleet), 2);

    // A listed file: still trusted, and only its entry travels, with the agent's next start as well.
    machine.extend_with(kernel.measure("/usr/lib/libmodel.so", b"model 1"));
    let new = kernel.read().len() - known;
    let (code, said) = machine.attest_once();
    assert_eq!(code, GRANTED, "{said}");
    assert_eq!(Machine::sent(&said), Sent { event_log_bytes: None, ima_from: Some(2), ima_bytes: Some(new as u64) });
    assert_eq!(attested(&fleet), 3);

    let mut agent = machine.run();
    machine.event("workload_started");
    let certificate = machine.certificate();
    fleet.gate_until(&certificate, 200);
    let started = now();
    machine.extend_with(kernel.measure("/tmp/miner", b"a program nobody listed"));
    let said = fleet.gate_until(&certificate, 403);
    let took = started.elapsed();
    println!("from an unlisted entry to the gate's first 403: {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(said.reason, "gate.credential.invalid");
    let sent = Machine::sent(&machine.logs());
    assert_eq!((sent.event_log_bytes, sent.ima_from), (None, Some(3)));
    let host = fleet.host(HOST);
    assert_eq!((host.trust.standing.as_str(), host.trust.generation), ("revoked", 1));
    assert!(host.trust.reasons.iter().any(|reason| reason.starts_with("ima.")), "{:?}", host.trust.reasons);
    assert_eq!(agent.code(), DENIED);
    let replayed = host.trust.last_entry.to_string();
    fleet.operator_ok(&["replay", "--entry", &replayed]);
}

#[test]
fn a21_a_list_that_went_back_is_denied() {
    let folder = TempDir::new().unwrap();
    let (machine, fleet) = measuring(&folder, "refused");
    let kernel = machine.kernel.as_ref().unwrap();
    let first = kernel.read();
    machine.extend_with(kernel.measure("/usr/bin/server", b"server 1"));
    assert_eq!(machine.attest_once().0, GRANTED);
    // Something ran that the list is not to tell of.
    machine.extend_with(kernel.measure("/tmp/miner", b"a program nobody listed"));
    let whole = kernel.read();
    for list in [&first[..], &whole[first.len()..], &[]] {
        kernel.replace(list);
        let (code, said) = machine.attest_once();
        assert_eq!(code, DENIED, "{said}");
        assert!(said.contains("\"code\":\"ima."), "{said}");
    }
    // An entry that stands in for the other one.
    kernel.replace(&first);
    let _never_extended = kernel.measure("/usr/bin/server", b"server 1");
    let _never_extended = kernel.measure("/usr/lib/libmodel.so", b"model 1");
    let (code, said) = machine.attest_once();
    assert_eq!(code, DENIED, "{said}");
    // The whole list tells what ran.
    kernel.replace(&whole);
    let (code, said) = machine.attest_once();
    assert_eq!(code, DENIED, "{said}");
    assert_eq!(fleet.host(HOST).trust.standing, "revoked");
}

#[test]
fn a21_a_violation_counts_as_the_rules_say() {
    for (violations, expected) in [("refused", DENIED), ("admitted", GRANTED)] {
        let folder = TempDir::new().unwrap();
        let (machine, _fleet) = measuring(&folder, violations);
        let kernel = machine.kernel.as_ref().unwrap();
        assert_eq!(machine.attest_once().0, GRANTED);
        machine.extend_with(kernel.violation("/var/log/journal"));
        let (code, said) = machine.attest_once();
        assert_eq!(code, expected, "{violations}: {said}");
    }
}

/// Entries of the list that the broker has verified.
fn attested(fleet: &Fleet) -> u64 {
    let shown = shown(fleet);
    shown["latest"]["claims"]["ima"]["claims"]["entries"].as_u64().unwrap_or_else(|| panic!("{shown}"))
}
