//! IMA lists: gone on with from the broker's own record of this boot, judged by the rules of the matching manifest.

use countersign_attestation::claims::PcrHash;
use countersign_attestation::evidence::bundle::ImaEntries;
use serde_json::{Value, json};

use crate::house::{Host, House, manifest};
use crate::measured::{Boot, List, sha256};
use crate::tpm::{AkKind, SimTpm};

const TOOL: (&str, &[u8]) = ("/usr/bin/tool", b"tool 1");
const SHELL: (&str, &[u8]) = ("/bin/sh", b"shell 1");
const OTHER: (&str, &[u8]) = ("/tmp/other", b"whatever");

/// An allow-list of these files.
fn rules(files: &[(&str, &[u8])]) -> Value {
    let allowed: serde_json::Map<_, _> = files
        .iter()
        .map(|(path, content)| ((*path).to_owned(), json!([format!("sha256:{}", sha256(content))])))
        .collect();
    json!({ "files": allowed })
}

fn reference(host: &Host, id: &str, files: &[(&str, &[u8])]) -> Value {
    manifest(host, &json!({ "id": id, "ima": { "rules": rules(files) } }))
}

/// A trusted host that has run the tool, where tool and shell are allowed.
async fn trusted(house: &House) -> Host {
    let mut host = Host::enrolled(house, "gpu-1").await;
    house.register_reference(&reference(&host, "image-1", &[TOOL, SHELL])).await.unwrap();
    host.measure(TOOL.0, TOOL.1);
    host.attest(house).await.unwrap();
    host
}

fn known_entries(house: &House, host: &Host) -> Option<u64> {
    house.broker().challenge(&host.id).unwrap().known_boot.map(|known| known.ima_entries)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_new_entries_travel_and_a_renewal_without_any_writes_no_more() {
    let mut house = House::new();
    let mut host = trusted(&house).await;
    assert_eq!(known_entries(&house, &host), Some(2));
    let before = house.archived();
    for _ in 0..3 {
        host.attest_with(&house, |logs| assert_eq!(logs.ima, Some(ImaEntries { from: 2, list: vec![] })))
            .await
            .unwrap();
    }
    assert_eq!(house.archived(), before);

    host.measure(SHELL.0, SHELL.1);
    host.attest_with(&house, |logs| assert!(logs.ima.as_ref().unwrap().list.len() < 200)).await.unwrap();
    // The new entries, and the inputs of the decision on them.
    assert_eq!(house.archived(), before + 2);
    assert_eq!(known_entries(&house, &host), Some(3));

    house.restart();
    assert_eq!(known_entries(&house, &host), Some(3));
    host.attest(&house).await.unwrap();
    assert_eq!(house.archived(), before + 2);
    host.measure(TOOL.0, TOOL.1);
    host.attest_with(&house, |logs| assert_eq!(logs.ima.as_ref().unwrap().from, 3)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a21_an_offset_that_is_not_the_brokers_is_refused_and_the_whole_list_asked_for() {
    let house = House::new();
    let mut host = trusted(&house).await;
    for _ in 0..8 {
        host.measure(SHELL.0, SHELL.1);
    }
    for from in [1, 3, 9] {
        let list = host.list.from(from);
        let denied = host.attest_with(&house, |logs| logs.ima = Some(ImaEntries { from, list })).await;
        assert_eq!(denied.unwrap_err(), "ima.entries.offset", "{from}");
        assert_eq!(house.standing(&host), "trusted");
        assert_eq!(house.broker().challenge(&host.id).unwrap().known_boot, None);
    }
    // Entries of the right index at another's place, and entries left out.
    let entries = host.list.from(3);
    let denied = host.attest_with(&house, |logs| logs.ima = Some(ImaEntries { from: 2, list: entries })).await;
    assert!(denied.unwrap_err().starts_with("ima."));
    let denied = host.attest_with(&house, |logs| logs.ima = None).await;
    assert!(denied.unwrap_err().starts_with("ima."));
    host.attest_with(&house, |logs| assert_eq!(logs.ima.as_ref().unwrap().from, 0)).await.unwrap();
    assert_eq!(known_entries(&house, &host), Some(host.list.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a21_a_list_of_the_boot_before_is_refused() {
    let house = House::new();
    let mut host = trusted(&house).await;
    let old = host.list.clone();
    host.reboot(Boot::secure(true));
    host.measure(OTHER.0, OTHER.1);
    let whole = ImaEntries { from: 0, list: old.from(0) };
    let denied = host.attest_with(&house, |logs| logs.ima = Some(whole)).await;
    assert!(denied.unwrap_err().starts_with("ima."));
    for list in [old.from(2), host.list.from(2)] {
        let denied = host.attest_with(&house, |logs| logs.ima = Some(ImaEntries { from: 2, list })).await;
        assert_eq!(denied.unwrap_err(), "ima.entries.offset");
    }
    // Nor does the list of before count as this boot's when none is sent.
    let denied = host.attest_with(&house, |logs| logs.ima = None).await;
    assert_eq!(denied.unwrap_err(), "reference.ima.not_presented");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_listed_revokes() {
    let house = House::new();
    let mut host = trusted(&house).await;
    host.measure(OTHER.0, OTHER.1);
    let denied = host.attest(&house).await.unwrap_err();
    assert!(denied.starts_with("ima."), "{denied}");
    assert_eq!(house.standing(&host), "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_ahead_of_its_quote_is_read_on_from_there_and_one_behind_is_refused() {
    let mut house = House::new();
    let mut host = trusted(&house).await;
    host.measure(SHELL.0, SHELL.1);
    // The kernel goes on after the quote; whose TPM that extends is nothing to the list.
    let mut ahead = host.list.clone();
    let mut scratch = SimTpm::new(AkKind::P256);
    ahead.measure(&mut scratch, OTHER.0, OTHER.1);
    let list = ahead.from(2);
    host.attest_with(&house, |logs| logs.ima = Some(ImaEntries { from: 2, list })).await.unwrap();
    assert_eq!(known_entries(&house, &host), Some(3));
    house.restart();
    assert_eq!(known_entries(&house, &host), Some(3));
    let behind = host.list.from(3);
    host.measure(TOOL.0, TOOL.1);
    let denied = host.attest_with(&house, |logs| logs.ima = Some(ImaEntries { from: 3, list: behind })).await;
    assert!(denied.unwrap_err().starts_with("ima."));
    host.attest(&house).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_rules_judge_the_whole_list_again() {
    let mut house = House::new();
    let mut host = trusted(&house).await;
    // More pieces than are kept apart.
    for _ in 0..70 {
        host.measure(SHELL.0, SHELL.1);
        host.attest(&house).await.unwrap();
    }
    house.restart();
    // The same boot with rules that the oldest entry breaks, and none that it passes.
    house.register_reference(&reference(&host, "image-2", &[SHELL])).await.unwrap();
    host.attest(&house).await.unwrap();
    let revoked = house.withdraw("image-1").await;
    assert_eq!(revoked, 1);
    let trust = house.broker().trust.host(&host.id).unwrap().unwrap();
    assert!(trust.reasons[0].starts_with("ima."), "{:?}", trust.reasons);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_rules_that_the_list_passes_keep_the_host() {
    let house = House::new();
    let mut host = trusted(&house).await;
    house.register_reference(&reference(&host, "image-2", &[SHELL, TOOL, OTHER])).await.unwrap();
    let revoked = house.withdraw("image-1").await;
    assert_eq!(revoked, 0);
    host.measure(OTHER.0, OTHER.1);
    host.attest_with(&house, |logs| assert_eq!(logs.ima.as_ref().unwrap().from, 2)).await.unwrap();
    assert_eq!(house.standing(&host), "trusted");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_without_a_list_match_nobody() {
    let house = House::new();
    let mut host = Host::enrolled(&house, "gpu-1").await;
    house.register_reference(&reference(&host, "image-1", &[TOOL])).await.unwrap();
    let denied = host.attest_with(&house, |logs| logs.ima = None).await;
    assert_eq!(denied.unwrap_err(), "reference.ima.not_presented");
    // A kernel that measures nothing sends nothing.
    host.tpm.reset_pcr(PcrHash::Sha256, 10);
    host.list = List::default();
    let denied = host.attest_with(&house, |logs| logs.ima = Some(ImaEntries { from: 0, list: vec![] })).await;
    assert!(denied.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_decision_replays_to_the_same_bytes() {
    let mut house = House::new();
    let mut host = trusted(&house).await;
    host.measure(SHELL.0, SHELL.1);
    host.attest(&house).await.unwrap();
    host.reboot(Boot::secure(true));
    host.attest_with(&house, |logs| logs.event_log = Some(vec![1; 40])).await.unwrap_err();
    host.attest(&house).await.unwrap();
    house.restart();
    host.measure(OTHER.0, OTHER.1);
    host.attest(&house).await.unwrap_err();
    let replayed = house.replay_all();
    assert_eq!(replayed, ["granted", "granted", "denied", "granted", "revoked"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a21_a_list_that_begins_with_another_boot_is_refused() {
    let house = House::new();
    let mut host = trusted(&house).await;
    for first in ["boot_aggregate", SHELL.0] {
        host.reboot(Boot::secure(true));
        for bank in [PcrHash::Sha256, PcrHash::Sha384] {
            host.tpm.reset_pcr(bank, 10);
        }
        host.list = List::default();
        host.measure(first, SHELL.1);
        assert_eq!(host.attest(&house).await.unwrap_err(), "ima.boot_aggregate.mismatch", "{first}");
    }
}
