//! A relying party whose clock is worth nothing asks with nonces.

use serde_json::Value;
use tempfile::TempDir;

use crate::fleet::{Fleet, TRUST_DOMAIN, announced, ask_gate, product, wait_until};
use crate::sim_host::{SimHost, anchor, register_golden};
use crate::tpm::SimManufacturer;

#[test]
fn a_gate_without_a_clock_lets_in_who_is_trusted_and_follows_a_revocation() {
    let folder = TempDir::new().unwrap();
    let maker = SimManufacturer::new();
    let fleet = Fleet::start(&[anchor(&maker, folder.path())]);
    register_golden(&fleet, "golden");
    let (_host, held) = SimHost::trusted(&fleet, &maker, "host-a");
    let mut command = product("countersign-gate");
    command.args(["--listen", "127.0.0.1:0", "--trust-domain", TRUST_DOMAIN, "--clock", "none"]);
    command.args(["--broker", &fleet.url(), "--trust-dir"]).arg(fleet.data().join("public"));
    // It is not asked: its own kernel may say of its clock what it likes.
    command.env("COUNTERSIGN_CLOCK_SYNC", "kernel");
    let (_gate, said): (_, Value) = announced(&mut command, &folder.path().join("gate.log"));
    let gate = said["listen"].as_str().unwrap().to_owned();
    wait_until("the gate lets the host in", || ask_gate(&gate, &held).status == 200);
    fleet.operator_ok(&["hosts", "revoke", "host-a"]);
    wait_until("the revocation comes through", || ask_gate(&gate, &held).status == 403);
    assert_eq!(ask_gate(&gate, &held).reason, "gate.credential.invalid");
}
