//! A host falls silent: its lease ends, and a new proof leads back.

use tempfile::TempDir;

use crate::fleet::{Fleet, wait_until};
use crate::machine::{Machine, open_connections, runs};

#[test]
fn a_silent_host_is_suspended_and_a_new_proof_leads_back() {
    let folder = TempDir::new().unwrap();
    let machine = Machine::boot(folder.path());
    let fleet = Fleet::start_with(&[machine.anchor()], |config| {
        config.pulse_period_ms = 200;
        config.pulse_validity_ms = 2000;
        config.attest_interval_ms = 1000;
        config.lease_ms = 4000;
        config.credential_ttl_ms = 60_000;
    });
    machine.enroll(&fleet, "host-a");
    assert_eq!(machine.attest_once().0, Some(3));
    machine.capture(&fleet, "host-a", "golden");

    let mut agent = machine.run();
    let workload = machine.event("workload_started").pid.unwrap();
    wait_until("the workload has no connection of the agent", || open_connections(workload).is_empty());
    let certificate = machine.certificate();
    fleet.gate_until(&certificate, 200);

    agent.kill();
    wait_until("the workload ends with its agent", || !runs(workload));
    let said = fleet.gate_until(&certificate, 403);
    assert_eq!(said.reason, "gate.credential.suspended");
    let lapsed = fleet.host_until("host-a", "lapsed");
    assert_eq!(lapsed.trust.generation, 1);

    let mut agent = machine.run();
    let workload = machine.event("workload_started").pid.unwrap();
    fleet.gate_until(&machine.certificate(), 200);
    let host = fleet.host("host-a");
    assert_eq!((host.trust.standing.as_str(), host.trust.generation), ("trusted", 1), "no operator was needed");

    // An operator's revocation ends the workload too, and the agent with it.
    fleet.operator_ok(&["hosts", "revoke", "host-a"]);
    wait_until("the workload ends with its host's trust", || !runs(workload));
    assert_eq!(agent.code(), Some(3));
    assert!(!machine.credential("credential.pem").exists());
}
