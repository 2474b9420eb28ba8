//! An operator's exceptions by the command line: a waiver that is signed on the operator's machine, and hardware that
//! is no longer believed.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fleet::{Fleet, TRUST_DOMAIN};
use crate::sim_host::{SimHost, anchor, register_golden};
use crate::tpm::SimManufacturer;

fn fleet() -> (TempDir, SimManufacturer, Fleet) {
    let folder = TempDir::new().unwrap();
    let maker = SimManufacturer::new();
    let fleet = Fleet::start(&[anchor(&maker, folder.path())]);
    (folder, maker, fleet)
}

fn write(fleet: &Fleet, waiver: &Value) -> String {
    let path = fleet.path().join(format!("{}.json", waiver["id"].as_str().unwrap()));
    fs::write(&path, serde_json::to_string_pretty(waiver).unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_waiver_is_signed_listed_shown_and_ended() {
    let (_folder, _maker, fleet) = fleet();
    let tomorrow = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_hours(24)).unwrap();
    let waiver = json!({
        "id": "psp", "trust_domain": TRUST_DOMAIN, "scope": { "labels": { "pool": "a" } },
        "accepts": [{ "tcb_status": "OutOfDate" }, { "advisory": "INTEL-SA-00960" }],
        "until": tomorrow.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), "reason": "the maintenance of Thursday",
    });
    let file = write(&fleet, &waiver);
    assert!(fleet.operator_ok(&["waiver", "add", &file]).contains(r#""id":"psp""#));
    let list = fleet.operator_ok(&["waiver", "list"]);
    for shown in ["psp", "TCB status OutOfDate", "advisory INTEL-SA-00960", "admin", "the maintenance of Thursday"] {
        assert!(list.contains(shown), "{shown} in {list}");
    }
    let note = fleet.operator_ok(&["waiver", "show", "psp"]);
    assert!(note.starts_with(&fs::read_to_string(&file).unwrap()), "the text as it was written: {note}");
    assert!(note.contains(&format!("\n\n\u{2014} {TRUST_DOMAIN}/countersign/operator/admin ")), "{note}");
    let again = fleet.operator(&["waiver", "add", &file]);
    assert_eq!(again.status.code(), Some(5), "its id is used");
    // Another operator's key is another operator's name.
    let bob = fleet.path().join("bob");
    fleet.operator_ok(&["operator", "add", "bob", "--out", bob.to_str().unwrap()]);
    for key in ["signing.key", "signing.vkey"] {
        fs::copy(fleet.data().join("operator").join(key), bob.join(key)).unwrap();
    }
    let refused = |args: &[&str], code: &str, exit: i32| {
        let output = fleet.operator(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(code), "{code} in {errors}");
        assert_eq!(output.status.code(), Some(exit), "{errors}");
    };
    let mut changed = waiver.clone();
    changed["id"] = "other".into();
    let other = write(&fleet, &changed);
    refused(&["waiver", "--operator", bob.to_str().unwrap(), "add", &other], "waiver.signature", 2);
    for (member, value, code) in [
        ("scope", json!({ "hosts": ["*"] }), "waiver.scope.wildcard"),
        ("scope", json!({}), "waiver.scope"),
        ("until", json!("2020-01-01T00:00:00Z"), "waiver.until"),
        ("until", json!("2999-01-01T00:00:00Z"), "waiver.until"),
        ("accepts", json!([{ "tcb_status": "Revoked" }]), "waiver.syntax"),
        ("reason", json!(""), "waiver.reason"),
        ("trust_domain", json!("elsewhere.test"), "waiver.trust_domain"),
    ] {
        let mut changed = changed.clone();
        changed[member] = value;
        refused(&["waiver", "add", &write(&fleet, &changed)], code, 2);
    }
    assert_eq!(fleet.operator_ok(&["waiver", "end", "psp"]).trim(), r#"{"id":"psp","revoked_hosts":0}"#);
    refused(&["waiver", "show", "psp"], "waiver.unknown", 4);
    refused(&["waiver", "add", &file], "waiver.exists", 5);
    let events: Vec<String> = fleet.entries().into_iter().map(|entry| entry.event).collect();
    let of_waivers: Vec<&String> = events.iter().filter(|event| event.starts_with("waiver")).collect();
    assert_eq!(of_waivers, ["waiver_registered", "waiver_ended"], "what was refused is no event");
}

#[test]
fn b7_denied_hardware_is_refused_at_the_gate() {
    let (_folder, maker, fleet) = fleet();
    register_golden(&fleet, "golden");
    let (host, certificate) = SimHost::trusted(&fleet, &maker, "host-a");
    let (_bystander, other) = SimHost::trusted(&fleet, &maker, "host-b");
    fleet.gate_until(&certificate, 200);
    let ek = host.ek_sha256().to_hex();
    let said = fleet.operator_ok(&["deny", "add", "--ek", &ek, "--reason", "its key was published"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["revoked_hosts"], 1);
    assert_eq!(fleet.gate_until(&certificate, 403).reason, "gate.credential.invalid");
    assert_eq!(fleet.host("host-a").trust.reasons, ["instance.denied"]);
    assert_eq!(fleet.gate(&other).status, 200, "other hardware is not touched");
    let list = fleet.operator_ok(&["deny", "list"]);
    assert!(list.contains(&ek) && list.contains("its key was published"), "{list}");
    let both = fleet.operator(&["deny", "add", "--ek", &ek, "--ppid", "00", "--reason", "x"]);
    assert_eq!(both.status.code(), Some(1), "one id at a time");
    let masked = fleet.operator(&["deny", "add", "--chip-id", &"00".repeat(64), "--reason", "x"]);
    assert!(String::from_utf8_lossy(&masked.stderr).contains("instance.id"));
    let id = said["id"].as_str().unwrap();
    fleet.operator_ok(&["deny", "withdraw", id]);
    assert_eq!(fleet.operator(&["deny", "withdraw", id]).status.code(), Some(4));
    assert_eq!(fleet.host("host-a").trust.standing, "revoked", "an operator re-admits it, or nobody");
}
