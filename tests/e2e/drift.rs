//! What counts as good changes: hosts lose trust without saying a word.

use tempfile::TempDir;

use crate::fleet::{Fleet, countersign, wait_until};
use crate::sim_host::{SimHost, anchor, register_golden};
use crate::tpm::SimManufacturer;

#[test]
fn a_withdrawn_reference_revokes_its_hosts_without_asking_them() {
    let folder = TempDir::new().unwrap();
    let maker = SimManufacturer::new();
    let fleet = Fleet::start(&[anchor(&maker, folder.path())]);
    register_golden(&fleet, "image-41");
    let (mut host, certificate) = SimHost::trusted(&fleet, &maker, "host-a");
    fleet.gate_until(&certificate, 200);

    // Another manifest that the host passes keeps it trusted.
    register_golden(&fleet, "image-41-again");
    assert!(fleet.retire("image-41").contains("\"revoked_hosts\":0"));
    assert_eq!(fleet.host("host-a").trust.standing, "trusted");
    assert_eq!(fleet.gate(&certificate).status, 200);

    // Nothing is retired without a look at what that does.
    let unseen = fleet.operator(&["refs", "retire", "image-41-again"]);
    let shown = String::from_utf8_lossy(&unseen.stdout).into_owned();
    assert!(!unseen.status.success() && shown.contains("1 hosts would lose trust, 0 would pass"), "{shown}");
    assert!(shown.contains("1 lost: host-a\nreference.none"), "{shown}");
    let missing = fleet.as_operator().send("DELETE", "/v1/references/image-41-again", None).problem();
    assert_eq!((missing.status, missing.code.as_str()), (428, "preview.missing"));
    assert_eq!(fleet.host("host-a").trust.standing, "trusted");
    let said = fleet.retire("image-41-again");
    assert!(said.contains("\"revoked_hosts\":1"), "{said}");
    assert_eq!(fleet.host("host-a").trust.standing, "revoked");
    assert_eq!(fleet.gate_until(&certificate, 403).reason, "gate.credential.invalid");
    assert_eq!(host.attest(&fleet).problem().code, "trust.revoked");
    let replayed = fleet.host("host-a").trust.last_entry.to_string();
    fleet.operator_ok(&["replay", "--entry", &replayed]);
    // An outsider needs the log's key and the roots, and neither log nor archive.
    let bundle = fleet.path().join("decision.json");
    let (file, vkey) = (bundle.to_str().unwrap(), fleet.data().join("public/log.vkey"));
    wait_until("the entry is under a checkpoint", || {
        fleet.operator(&["log", "bundle", "--entry", &replayed, "--out", file]).status.success()
    });
    let root = folder.path().join("sim-root.der");
    let prove = |more: &[&str]| {
        let args = ["replay", "--bundle", file, "--vkey", vkey.to_str().unwrap()];
        let output = countersign().args(args).args(more).env("COUNTERSIGN_DATA_DIR", "/nowhere").output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(prove(&["--root", root.to_str().unwrap()]).0, Some(0));
    let (code, said) = prove(&[]);
    assert!(code == Some(1) && said.contains("which is no vendor's and was not named as trusted"), "{said}");
    for of in ["host-a", &replayed] {
        let why = fleet.operator_ok(&["explain", of]);
        assert!(why.starts_with("revoked of host-a at ") && why.contains("reference.none"), "{why}");
    }

    // The reference back in force does not bring the host back.
    register_golden(&fleet, "image-42");
    assert_eq!(host.attest(&fleet).problem().code, "trust.revoked");
    fleet.operator_ok(&["hosts", "readmit", "host-a"]);
    host.renew();
    let renewed = host.attest_ok(&fleet).credential.unwrap().certificate_chain;
    fleet.gate_until(&renewed, 200);
    assert_eq!(fleet.gate(&certificate).status, 403);
}
