//! Event logs: a reboot is explained or it ends trust, also across a restart of the broker.

use countersign_attestation::claims::PcrHash;
use serde_json::json;

use crate::house::{Host, House, manifest, operator};
use crate::measured::Boot;

/// A trusted host whose boot PCRs are registered.
async fn trusted(house: &House) -> Host {
    let mut host = Host::enrolled(house, "gpu-1").await;
    house.register_reference(&manifest(&host, &json!({}))).await.unwrap();
    host.attest(house).await.unwrap();
    host
}

async fn readmit(house: &House, host: &mut Host) {
    host.renew();
    house.broker().readmit(&operator(), &host.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a16_a_reset_or_resumed_tpm_without_a_new_log_takes_trust_away() {
    let house = House::new();
    for (reset, restart) in [(1, 0), (0, 1), (1, 1)] {
        let mut host = Host::enrolled(&house, &format!("gpu-{reset}{restart}")).await;
        let reference = manifest(&host, &json!({ "id": format!("image-{reset}{restart}") }));
        house.register_reference(&reference).await.unwrap();
        host.attest(&house).await.unwrap();
        // The very PCR values: what a reset TPM is filled with by whoever reset it.
        host.tpm.clock.reset_count += reset;
        host.tpm.clock.restart_count += restart;
        let denied = host.attest_with(&house, |logs| logs.event_log = None).await;
        assert_eq!(denied.unwrap_err(), "tpm.boot.log_missing");
        assert_eq!(house.standing(&host), "revoked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a16_a_reboot_with_its_log_goes_on() {
    let house = House::new();
    let mut host = trusted(&house).await;
    host.reboot(Boot::secure(true));
    let challenge = house.broker().challenge(&host.id).unwrap();
    assert_eq!(challenge.known_boot.map(|known| known.reset_count), Some(host.tpm.clock.reset_count - 1));
    host.attest(&house).await.unwrap();
    let challenge = house.broker().challenge(&host.id).unwrap();
    assert_eq!(challenge.known_boot.map(|known| known.reset_count), Some(host.tpm.clock.reset_count));
    host.attest_with(&house, |logs| assert_eq!(logs.event_log, None)).await.unwrap();
    assert_eq!(house.standing(&host), "trusted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a16_a_host_that_never_had_a_log_is_readmitted_after_each_restart() {
    let house = House::new();
    let mut host = Host::enrolled(&house, "gpu-1").await;
    house.register_reference(&manifest(&host, &json!({}))).await.unwrap();
    host.attest_with(&house, |logs| logs.event_log = None).await.unwrap();
    host.attest_with(&house, |logs| logs.event_log = None).await.unwrap();
    host.reboot(Boot::secure(true));
    let denied = host.attest_with(&house, |logs| logs.event_log = None).await;
    assert_eq!(denied.unwrap_err(), "tpm.boot.log_missing");
    assert_eq!(host.attest(&house).await.unwrap_err(), "trust.revoked");
    readmit(&house, &mut host).await;
    assert_eq!(house.broker().challenge(&host.id).unwrap().known_boot, None);
    host.attest_with(&house, |logs| logs.event_log = None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a13_a16_a_restarted_broker_knows_the_boot_and_the_clock_of_every_host() {
    let mut house = House::new();
    let mut host = trusted(&house).await;
    let known = house.broker().challenge(&host.id).unwrap().known_boot;
    assert!(known.is_some());
    house.restart();
    assert_eq!(house.broker().challenge(&host.id).unwrap().known_boot, known);
    // No log again, and the same claims: a renewal.
    let entries = house.archived();
    host.attest_with(&house, |logs| assert_eq!(logs.event_log, None)).await.unwrap();
    assert_eq!(house.archived(), entries);

    host.tpm.clock.reset_count += 1;
    house.restart();
    let denied = host.attest_with(&house, |logs| logs.event_log = None).await;
    assert_eq!(denied.unwrap_err(), "tpm.boot.log_missing");
    assert_eq!(house.standing(&host), "revoked");

    // Readmitted, it may be in any later boot; an earlier one it was never in.
    readmit(&house, &mut host).await;
    house.restart();
    host.tpm.clock.reset_count -= 2;
    assert_eq!(host.attest(&house).await.unwrap_err(), "tpm.clock.backwards");
}

#[tokio::test(flavor = "multi_thread")]
async fn a13_a16_a_denied_host_is_remembered_too() {
    let mut house = House::new();
    let mut host = Host::enrolled(&house, "gpu-1").await;
    // Nothing is registered: verified, denied, not revoked.
    assert_eq!(host.attest(&house).await.unwrap_err(), "reference.none");
    assert_eq!(house.standing(&host), "enrolled");
    house.register_reference(&manifest(&host, &json!({}))).await.unwrap();
    host.tpm.clock.reset_count += 1;
    for _ in 0..2 {
        let denied = host.attest_with(&house, |logs| logs.event_log = None).await;
        assert_eq!(denied.unwrap_err(), "tpm.boot.log_missing");
        house.restart();
    }
    host.attest(&house).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a13_a_log_that_does_not_verify_grants_nothing_and_the_lease_runs_out() {
    let mut house = House::new();
    let mut host = trusted(&house).await;
    let until = house.broker().trust.host(&host.id).unwrap().unwrap().lease_until;
    house.clock.advance(1_000);
    host.reboot(Boot::secure(true));
    for garbage in [vec![], vec![0xff; 300], Boot::of("firmware 2", true).log()] {
        let denied = host.attest_with(&house, |logs| logs.event_log = Some(garbage)).await.unwrap_err();
        assert!(denied.starts_with("eventlog."), "{denied}");
    }
    assert_eq!(house.broker().trust.host(&host.id).unwrap().unwrap().lease_until, until);
    house.clock.advance(until.since(house.clock.now()));
    house.restart();
    assert_eq!(house.standing(&host), "lapsed");
    host.renew();
    host.attest(&house).await.unwrap();
    assert_eq!(house.standing(&host), "trusted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a14_a_bank_that_the_firmware_left_alone_is_refused_whatever_log_comes_with_it() {
    let house = House::new();
    let mut host = trusted(&house).await;
    (0..8).for_each(|pcr| host.tpm.reset_pcr(PcrHash::Sha256, pcr));
    host.tpm.clock.reset_count += 1;
    assert_eq!(host.attest(&house).await.unwrap_err(), "tpm.quote.bank_unused");
}

#[tokio::test(flavor = "multi_thread")]
async fn drifted_pcrs_revoke_whatever_log_comes_beside_them() {
    let house = House::new();
    let mut host = trusted(&house).await;
    host.reboot(Boot::secure(false));
    host.tpm.extend(PcrHash::Sha256, 4, b"another loader");
    let denied = host.attest_with(&house, |logs| logs.event_log = Some(vec![0xff; 300])).await;
    assert_eq!(denied.unwrap_err(), "reference.pcr_mismatch");
    assert_eq!(house.standing(&host), "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_manifest_names_of_the_boot_is_asked_for_and_judged() {
    let mut house = House::new();
    let mut host = Host::enrolled(&house, "gpu-1").await;
    let reference = manifest(&host, &json!({ "boot": { "secure_boot": "on" } }));
    house.register_reference(&reference).await.unwrap();
    let selection = house.broker().challenge(&host.id).unwrap().pcr_selection;
    assert_eq!(selection[0].pcrs, [0, 4, 7]);
    let denied = host.attest_with(&house, |logs| logs.event_log = None).await;
    assert_eq!(denied.unwrap_err(), "reference.boot.not_presented");
    host.attest(&house).await.unwrap();
    house.restart();
    // The known log, replayed again.
    host.attest_with(&house, |logs| assert_eq!(logs.event_log, None)).await.unwrap();
    host.reboot(Boot::secure(false));
    assert_eq!(host.attest(&house).await.unwrap_err(), "reference.boot.secure_boot");
    assert_eq!(house.standing(&host), "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_log_counts_only_while_the_pcrs_it_explains_hold_its_values() {
    let house = House::new();
    let mut host = Host::enrolled(&house, "gpu-1").await;
    let reference = manifest(&host, &json!({ "boot": { "secure_boot": "on" } }));
    house.register_reference(&reference).await.unwrap();
    host.attest(&house).await.unwrap();
    // PCR 7 has no golden value here: only the log says what it must hold.
    host.tpm.extend(PcrHash::Sha256, 7, b"more");
    let denied = host.attest(&house).await.unwrap_err();
    assert!(denied.starts_with("eventlog."), "{denied}");
    assert_eq!(house.broker().challenge(&host.id).unwrap().known_boot, None);
    let denied = host.attest(&house).await.unwrap_err();
    assert!(denied.starts_with("eventlog."), "{denied}");
}
