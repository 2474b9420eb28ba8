//! Manifests that name what a boot measured, and policies that ask for it.

use countersign_attestation::claims::{BootClaims, Claims, PcrHash};
use countersign_attestation::evidence::eventlog::claims::{BootImage, ImageKind, Measured, SecureBoot, Separator};
use countersign_policies::decision::Outcome;
use countersign_policies::policy::PolicySet;
use countersign_policies::reference::ReferenceSet;
use serde_json::{Value, json};

use crate::common::{codes, digest, golden_tpm, judge, manifest, measured_claims, policies, tpm_claims, with_boot};

fn hex(of: u8) -> String {
    digest(of).to_string()
}

fn full() -> Value {
    json!({
        "secure_boot": "on", "pk": [hex(0x41)], "kek": [hex(0x42)], "db": [hex(0x43)], "dbx": [hex(0x44)],
        "authorities": [hex(0x45)], "mok": [hex(0x46)], "images": [hex(0x51), hex(0x61)], "files": [hex(0x52)],
        "initrds": [hex(0x53)], "uki": { ".linux": [hex(0x54)] }, "command_lines": ["ro", "ro quiet"],
    })
}

fn set(boot: &Value) -> ReferenceSet {
    ReferenceSet::new([manifest(&json!({ "id": "image", "tpm": golden_tpm(), "boot": boot }))])
}

fn denied(boot: &Value, change: impl FnOnce(&mut BootClaims)) -> Vec<&'static str> {
    let decision = judge(&with_boot(change), &set(boot), &policies(&["baseline"], &[]));
    assert_eq!(decision.outcome(), Outcome::Denied);
    codes(&decision).into_iter().filter(|code| code.starts_with("reference.")).collect()
}

#[test]
fn a_boot_that_shows_all_that_is_named_is_granted_and_one_without_a_log_is_not() {
    let policy = policies(&["baseline"], &[]);
    assert!(judge(&measured_claims(), &set(&full()), &policy).grant().is_some());
    let decision = judge(&tpm_claims(), &set(&full()), &policy);
    assert_eq!(codes(&decision)[0], "reference.boot.not_presented");
}

#[test]
fn every_named_value_counts() {
    let other = || digest(0xee);
    assert_eq!(denied(&full(), |boot| boot.secure_boot = SecureBoot::Off), ["reference.boot.secure_boot"]);
    assert_eq!(denied(&full(), |boot| boot.secure_boot = SecureBoot::Unmeasured), ["reference.boot.secure_boot"]);
    assert_eq!(denied(&full(), |boot| boot.secure_boot = SecureBoot::Unknown), ["reference.boot.secure_boot"]);
    let off = json!({ "secure_boot": "off" });
    assert_eq!(denied(&off, |_| {}), ["reference.boot.secure_boot"]);
    assert_eq!(denied(&off, |boot| boot.secure_boot = SecureBoot::Unknown), ["reference.boot.secure_boot"]);

    let database = |boot: &mut BootClaims, index: usize| {
        let BootClaims { pk, kek, db, dbx, .. } = boot;
        let Measured::Measured(database) = [pk, kek, db, dbx].into_iter().nth(index).unwrap() else {
            panic!("measured")
        };
        database.digest.0[0] ^= 1;
    };
    for index in 0..4 {
        assert_eq!(denied(&full(), |boot| database(boot, index)), ["reference.boot.mismatch"], "{index}");
    }
    for unknown in [Measured::Unmeasured, Measured::Unknown] {
        assert_eq!(denied(&full(), |boot| boot.dbx = unknown.clone()), ["reference.boot.not_measured"]);
    }
    assert_eq!(denied(&full(), |boot| boot.files = Measured::Measured(vec![])), ["reference.boot.not_measured"]);
    assert_eq!(denied(&full(), |boot| boot.initrds = Measured::Unmeasured), ["reference.boot.not_measured"]);
    assert_eq!(denied(&full(), |boot| boot.authorities = Measured::Unknown), ["reference.boot.not_measured"]);
    assert_eq!(denied(&full(), |boot| boot.mok = Measured::Unknown), ["reference.boot.not_measured"]);
    assert_eq!(denied(&full(), |boot| boot.uki = Measured::Measured(vec![])), ["reference.boot.not_measured"]);
    let lines = |lines: &[&str]| Measured::Measured(lines.iter().map(|line| (*line).to_owned()).collect());
    assert_eq!(denied(&full(), |boot| boot.command_lines = lines(&["ro quiet "])), ["reference.boot.mismatch"]);
    assert_eq!(denied(&full(), |boot| boot.command_lines = lines(&["ro", "rw"])), ["reference.boot.mismatch"]);
    let image = |of| BootImage { pcr: 4, kind: ImageKind::Application, digest: [(PcrHash::Sha256, of)].into() };
    // One image more that nobody listed.
    let more = |boot: &mut BootClaims| boot.images = Measured::Measured(vec![image(digest(0x51)), image(other())]);
    assert_eq!(denied(&full(), more), ["reference.boot.mismatch"]);
}

#[test]
fn a_denial_shows_the_host_its_own_values_and_not_the_accepted_ones() {
    let claims = with_boot(|boot| boot.command_lines = Measured::Measured(vec!["rw".to_owned()]));
    let decision = judge(&claims, &set(&full()), &policies(&["baseline"], &[]));
    let first = &decision.findings()[0];
    assert_eq!(first.expected, "command_lines `ro` or `ro quiet` (manifest image)");
    assert_eq!(first.for_host().found, Some("command_lines rw"));
}

#[test]
fn the_shipped_policies_demand_boot_and_list_where_they_are_installed() {
    let boot = |claims: &Claims, references: &ReferenceSet| {
        codes(&judge(claims, references, &policies(&["baseline", "measured-boot"], &[])))
    };
    assert!(boot(&measured_claims(), &set(&full())).is_empty());
    let unnamed = ReferenceSet::new([manifest(&json!({ "id": "tpm", "tpm": golden_tpm() }))]);
    assert_eq!(boot(&measured_claims(), &unnamed), ["policy.forbidden"], "no manifest names the boot");
    assert_eq!(boot(&tpm_claims(), &unnamed), ["policy.forbidden"; 3]);
    let some = set(&json!({ "dbx": [hex(0x44)] }));
    assert_eq!(boot(&with_boot(|boot| boot.secure_boot = SecureBoot::Off), &some), ["policy.forbidden"]);
    assert_eq!(boot(&with_boot(|boot| boot.secure_boot = SecureBoot::Unknown), &some), ["policy.forbidden"]);
    let unseparated = with_boot(|boot| {
        boot.separators.insert(2, Separator::Missing);
    });
    assert_eq!(boot(&unseparated, &some), ["policy.forbidden"]);

    let runtime = |claims: &Claims| codes(&judge(claims, &unnamed, &policies(&["baseline", "runtime-integrity"], &[])));
    assert_eq!(runtime(&measured_claims()), ["policy.forbidden"], "no rules judged the list");
    assert_eq!(runtime(&tpm_claims()), ["policy.forbidden"]);
}

#[test]
fn a16_a_policy_can_name_a_clock_that_is_not_safe() {
    let own = r#"forbid (principal, action, resource) unless { context.tpm.safe };"#;
    let policy = policies(&["baseline"], &[("own", own)]);
    let references = ReferenceSet::new([manifest(&json!({ "id": "tpm", "tpm": golden_tpm() }))]);
    assert!(judge(&tpm_claims(), &references, &policy).grant().is_some());
    let mut unsafe_clock = tpm_claims();
    unsafe_clock.tpm.clock.safe = false;
    assert_eq!(codes(&judge(&unsafe_clock, &references, &policy)), ["policy.forbidden"]);
}

#[test]
fn a15_a_policy_that_references_a_resettable_pcr_does_not_load() {
    let load = |condition: &str| {
        let text = format!("forbid (principal, action, resource) when {{ context has boot && {condition} }};");
        let permit = "permit (principal, action, resource) when { context.reference.matched };";
        PolicySet::parse(&[("own", &text), ("permit", permit)]).map(drop).map_err(|finding| finding.code)
    };
    for pcr in [16, 23] {
        for condition in [
            format!("context.boot.unexplained.contains({pcr})"),
            format!("context.boot.replayed.containsAll([0, {pcr}])"),
            format!("!context.boot.replayed.containsAny([{pcr}, 7])"),
            format!("context.boot.unexplained == [{pcr}]"),
        ] {
            assert_eq!(load(&condition), Err("policy.load.pcr_resettable"), "{condition}");
        }
    }
    assert_eq!(load("context.boot.unexplained.contains(11)"), Ok(()));
    assert_eq!(load("context.tpm.reset_count == 16"), Ok(()));
    // PCR values themselves are for manifests; the schema has none.
    assert_eq!(load(r#"context.tpm.pcr16 == "00""#), Err("policy.load.invalid"));
}
