//! A relay between broker and gate: as fast, as fail-closed, and believed by nobody for what it says itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::fleet::{Fleet, Process, TRUST_DOMAIN, announced, ask_gate, countersign, product, succeed, wait_until};
use crate::sim_host::{SimHost, anchor, register_golden};
use crate::tpm::SimManufacturer;

/// A relay's own certificate, in the folder; its root is itself.
fn certificate(folder: &Path) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    fs::write(folder.join("relay.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(folder.join("relay.key"), key.serialize_pem()).unwrap();
}

fn relay(fleet: &Fleet, folder: &Path, listen: &str) -> (Process, u16, String) {
    let mut command = countersign();
    command.args([
        "relay",
        "--metrics",
        "127.0.0.1:0",
        "--broker",
        &fleet.url(),
        "--trust-domain",
        TRUST_DOMAIN,
        "--listen",
        listen,
    ]);
    command.arg("--trust-dir").arg(fleet.data().join("public"));
    command.arg("--certificate").arg(folder.join("relay.pem")).arg("--key").arg(folder.join("relay.key"));
    let (process, said): (_, Value) = announced(&mut command, &folder.join("relay.log"));
    let port = said["listening"].as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
    (process, port, said["metrics"].as_str().unwrap().to_owned())
}

/// A counter or gauge of the relay.
fn measured(metrics: &str, name: &str) -> f64 {
    let page = succeed(Command::new("curl").args(["-sS", "--noproxy", "*", &format!("http://{metrics}/metrics")]));
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("countersign_relay_{name} ")));
    line.unwrap_or_else(|| panic!("{name}: {page}")).parse().unwrap()
}

/// A gate that follows the relay; where it answers.
fn gate(fleet: &Fleet, folder: &Path, relay: u16) -> (Process, String) {
    let mut command = product("countersign-gate");
    let relay = format!("https://localhost:{relay}");
    command.args(["--listen", "127.0.0.1:0", "--trust-domain", TRUST_DOMAIN, "--broker", &relay]);
    let public = fleet.data().join("public");
    command.arg("--jwks").arg(public.join("jwks.json")).arg("--trust-bundle").arg(public.join("trust-bundle.pem"));
    command.arg("--broker-ca").arg(folder.join("relay.pem"));
    let (process, said): (_, Value) = announced(&mut command, &folder.join("gate.log"));
    (process, said["listen"].as_str().unwrap().to_owned())
}

#[test]
fn e19_a_gate_behind_a_relay_follows_and_its_silence_is_a_denial() {
    let folder = TempDir::new().unwrap();
    let maker = SimManufacturer::new();
    let mut fleet = Fleet::start_with(&[anchor(&maker, folder.path())], |config| {
        config.pulse_period_ms = 200;
        config.pulse_validity_ms = 1500;
    });
    register_golden(&fleet, "golden");
    certificate(folder.path());
    let (mut first, port, metrics) = relay(&fleet, folder.path(), "127.0.0.1:0");
    let (_gate, gate) = gate(&fleet, folder.path(), port);
    let (_host, held) = SimHost::trusted(&fleet, &maker, "host-a");
    let status = |certificate: &str| ask_gate(&gate, certificate).status;
    wait_until("the gate behind the relay lets the host in", || status(&held) == 200);

    assert!(measured(&metrics, "subscribers") == 1.0 && 0.0 < measured(&metrics, "pulse_sequence"));
    let (age, bytes) = (measured(&metrics, "pulse_age_seconds"), measured(&metrics, "bytes_total"));
    assert!((0.0..1.5).contains(&age) && 500.0 < bytes && 500.0 < measured(&metrics, "upstream_bytes_total"));
    assert!(0.0 < measured(&metrics, "lag_seconds_count") && measured(&metrics, "upstream_failures_total") < 1.0);

    // Without the relay the gate hears nothing, and denies when the pulse ends; the gate beside it goes on.
    first.kill();
    wait_until("silence denies", || status(&held) == 403);
    assert_eq!(ask_gate(&gate, &held).reason, "gate.pulse.expired");
    fleet.gate_until(&held, 200);

    // Another relay in its place, and nothing has to be done at the gate.
    let (_second, again, counted) = relay(&fleet, folder.path(), &format!("127.0.0.1:{port}"));
    assert_eq!(again, port);
    wait_until("the gate recovers by itself", || status(&held) == 200);

    let revoked = fleet.operator_ok(&["hosts", "revoke", "host-a"]);
    assert!(!revoked.is_empty());
    wait_until("the revocation comes through", || status(&held) == 403);
    assert_eq!(ask_gate(&gate, &held).reason, "gate.credential.invalid");

    // The relay heard of that as a change alone; who comes new gets the whole list from it all the same.
    let (_late, late) = self::gate(&fleet, folder.path(), port);
    wait_until("a new gate knows it too", || ask_gate(&late, &held).reason == "gate.credential.invalid");
    wait_until("both gates follow", || measured(&counted, "subscribers") == 2.0);
    fleet.kill_broker();
    wait_until("the relay counts what fails", || 0.0 < measured(&counted, "upstream_failures_total"));
}
