//! `countersign chaos` as an operator runs it: the faults that take seconds, each denied within its bound.

use std::process::Command;

use tempfile::TempDir;

use crate::fleet::succeed;

#[test]
fn faults_end_in_denial_within_the_bound_and_nothing_is_accepted_after() {
    let folder = TempDir::new().unwrap();
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_countersign"));
    chaos.args(["chaos", "--output", "json", "--dir"]).arg(folder.path().join("chaos"));
    let faults = ["revoke", "revoke-cut-off", "broker-kill", "store-fault", "drift", "suspended"];
    chaos.args(faults.iter().flat_map(|fault| ["--fault", fault]));
    let measured: serde_json::Value = serde_json::from_str(&succeed(&mut chaos)).unwrap();
    let measured = measured.as_array().unwrap();
    assert_eq!(measured.iter().map(|fault| fault["fault"].as_str().unwrap()).collect::<Vec<_>>(), faults);
    for fault in measured.iter().filter(|fault| fault.get("skipped").is_none()) {
        assert!(fault["denied_ms"].as_u64().unwrap() <= fault["bound_ms"].as_u64().unwrap(), "{fault}");
        assert_eq!(fault["wrongly_accepted"], 0, "{fault}");
        assert!(fault["recovered_ms"].is_u64(), "{fault}");
    }
}

#[test]
fn a_fault_that_is_not_there_is_named() {
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_countersign"));
    let output = chaos.args(["chaos", "--fault", "earthquake"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("no fault earthquake") && said.contains("broker-kill"), "{said}");
}
