//! What a change would do is what it does; nobody commits another one; and every decision says why.

use countersign::broker::what_if::{Group, Preview};
use countersign::problem::Problem;
use countersign::references::Proposal;
use countersign::trust::grounds::Touches;
use countersign_attestation::claims::PcrHash;
use countersign_attestation::digest::Sha256Digest;
use countersign_policies::policy::SHIPPED;
use serde_json::json;
use serde_json::value::to_raw_value;

use crate::house::{Host, House, manifest, operator};
use crate::measured::Boot;

fn preview(house: &House, proposal: Proposal) -> Result<Preview, Problem> {
    tokio::task::block_in_place(|| house.broker().what_if(proposal, &|_, _| {}))
}

fn retired(id: &str) -> Proposal {
    Proposal::WithdrawReference(id.to_owned())
}

fn shipped(names: &[&str]) -> Vec<(String, String)> {
    let wanted = SHIPPED.iter().filter(|(name, _)| names.contains(name));
    wanted.map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn named(groups: &[Group]) -> Vec<(&'static str, u64, String)> {
    let hosts = |group: &Group| group.hosts.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(" ");
    groups.iter().map(|group| (group.finding.code, group.count, hosts(group))).collect()
}

/// Two hosts on image-1 and one on image-2, which boots without Secure Boot; a fourth that nobody has registered.
async fn fleet(house: &House) -> Vec<Host> {
    let mut hosts = Vec::new();
    for (id, secure) in [("gpu-1", true), ("gpu-2", true), ("gpu-3", false)] {
        let mut host = Host::enrolled(house, id).await;
        host.reboot(Boot::secure(secure));
        let image = if secure { "image-1" } else { "image-2" };
        let pcr_7 = json!({ "pcrs": { "sha256": { "7": [host.pcr(7)] } } });
        // Registered once; the second host of an image finds it there.
        let _there = house.register_reference(&manifest(&host, &json!({ "id": image, "tpm": pcr_7 }))).await;
        host.attest(house).await.unwrap();
        hosts.push(host);
    }
    hosts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_reference_takes_down_whom_the_preview_named_and_only_if_it_was_previewed() {
    let house = House::new();
    let hosts = fleet(&house).await;
    let size = house.broker().lineage.head().size;
    let of = preview(&house, retired("image-1")).unwrap();
    assert_eq!(named(&of.losses), [("reference.pcr_mismatch", 2, "gpu-1 gpu-2".to_owned())]);
    assert!(of.gains.is_empty());
    assert_eq!((of.failing, of.unaffected), (0, 1));
    // Nothing happened.
    assert_eq!(house.broker().lineage.head().size, size);
    assert!(hosts.iter().all(|host| house.standing(host) == "trusted"));

    // Another change than the one that was looked at.
    let other = preview(&house, retired("image-2")).unwrap();
    assert_ne!(of.change, other.change);
    let refused = house.broker().withdraw_reference(&operator(), "image-1", other.change).await.unwrap_err();
    assert_eq!(refused.code(), "preview.stale");
    assert_eq!(house.broker().lineage.head().size, size, "and nothing is recorded");
    // What was looked at stays what it is while other things change.
    house.broker().readmit(&operator(), &hosts[0].id).await.unwrap_err();
    let revoked = house.broker().withdraw_reference(&operator(), "image-1", of.change).await.unwrap();
    assert_eq!(revoked, 2);
    let standings: Vec<_> = hosts.iter().map(|host| house.standing(host)).collect();
    assert_eq!(standings, ["revoked", "revoked", "trusted"]);
    assert_eq!(preview(&house, retired("image-1")).unwrap_err().code(), "reference.unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_reference_lets_those_pass_who_fail_for_want_of_it() {
    let house = House::new();
    fleet(&house).await;
    let mut late = Host::enrolled(&house, "gpu-4").await;
    late.tpm.extend(PcrHash::Sha256, 7, b"keys that nobody registered");
    let denied = late.attest_with(&house, |logs| logs.event_log = None).await.unwrap_err();
    assert_eq!(denied, "reference.pcr_mismatch");
    let pcr_7 = json!({ "pcrs": { "sha256": { "7": [late.pcr(7)] } } });
    let manifest = manifest(&late, &json!({ "id": "image-3", "tpm": pcr_7 }));
    let proposal = Proposal::RegisterReference(to_raw_value(&manifest).unwrap());
    let of = preview(&house, proposal).unwrap();
    assert_eq!(named(&of.gains), [("reference.pcr_mismatch", 1, "gpu-4".to_owned())]);
    assert!(of.losses.is_empty());
    assert_eq!((of.failing, of.unaffected), (0, 3));
    // And so it is.
    house.register_reference(&manifest).await.unwrap();
    late.attest_with(&house, |logs| logs.event_log = None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_several_threads_judge_loses_those_and_only_those_who_fail() {
    let house = House::new();
    let mut hosts = Vec::new();
    for number in 0..40 {
        let mut host = Host::enrolled(&house, &format!("gpu-{number:02}")).await;
        let image = if number % 2 == 0 { "image-1" } else { "image-2" };
        if number % 2 == 1 {
            host.reboot(Boot::secure(false));
        }
        let pcr_7 = json!({ "pcrs": { "sha256": { "7": [host.pcr(7)] } } });
        let _there = house.register_reference(&manifest(&host, &json!({ "id": image, "tpm": pcr_7 }))).await;
        host.attest_with(&house, |logs| logs.event_log = None).await.unwrap();
        hosts.push(host);
    }
    let size = house.broker().lineage.head().size;
    assert_eq!(house.withdraw("image-1").await, 20);
    for (number, host) in hosts.iter().enumerate() {
        assert_eq!(house.standing(host), if number % 2 == 0 { "revoked" } else { "trusted" }, "{}", host.id);
    }
    assert_eq!(house.broker().lineage.head().size, size + 21, "the manifest, and each host once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_learnt_of_a_host_and_matches_it_and_its_like_alone() {
    let mut house = House::new();
    let mut hosts = Vec::new();
    for (id, secure) in [("gpu-1", true), ("gpu-2", true), ("gpu-3", false)] {
        let mut host = Host::enrolled(&house, id).await;
        assert_eq!(house.broker().learn(&host.id, "x").unwrap_err().code(), "reference.learn.nothing");
        host.reboot(Boot::secure(secure));
        assert_eq!(host.attest(&house).await.unwrap_err(), "reference.none", "a denial is enough");
        hosts.push(host);
    }
    house.restart();
    let learnt = tokio::task::block_in_place(|| house.broker().learn(&hosts[0].id, "image-1")).unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&learnt.to_json()).unwrap();
    assert_eq!(shown["boot"]["secure_boot"], "on");
    assert!(shown["tpm"]["pcrs"]["sha256"]["0"].is_array(), "{shown}");
    house.register_reference(&shown).await.unwrap();
    for (host, expected) in hosts.iter_mut().zip([true, true, false]) {
        assert_eq!(host.attest(&house).await.is_ok(), expected, "{}", host.id);
    }
    let refused = tokio::task::block_in_place(|| house.broker().learn(&hosts[0].id, "../x")).unwrap_err();
    assert_eq!(refused.code(), "reference.manifest.id");
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_replaced_as_previewed_and_stay_so_over_a_restart() {
    let mut house = House::new();
    let hosts = fleet(&house).await;
    let activate = |texts: &[(String, String)]| Proposal::ActivatePolicies(texts.to_vec());
    // Without the policy that admits simulated hardware, nobody here stays.
    let strict = shipped(&["baseline", "hardware-strict"]);
    let of = preview(&house, activate(&strict)).unwrap();
    assert_eq!(named(&of.losses), [("policy.no_permit", 3, "gpu-1 gpu-2 gpu-3".to_owned())]);
    let same = shipped(&["baseline", "hardware-strict", "simulated"]);
    assert_eq!(preview(&house, activate(&same)).unwrap().losses.len(), 0);
    for (wrong, code) in [
        (vec![], "policy.load.empty"),
        (vec![("../x".to_owned(), String::new())], "request.malformed"),
        (
            vec![("x".to_owned(), "permit(principal, action, resource) when { context.nothing };".to_owned())],
            "policy.load.invalid",
        ),
    ] {
        assert_eq!(preview(&house, activate(&wrong)).unwrap_err().code(), code);
    }
    let broker = house.broker();
    let nobody = Sha256Digest([0; 32]);
    assert_eq!(broker.activate_policies(&operator(), &strict, nobody).await.unwrap_err().code(), "preview.stale");
    // One more policy, and the host that it is about falls.
    let text = r#"forbid (principal == Host::"gpu-3", action, resource);"#;
    let more: Vec<_> = same.into_iter().chain([("no-gpu-3".to_owned(), text.to_owned())]).collect();
    let of = preview(&house, activate(&more)).unwrap();
    assert_eq!(named(&of.losses), [("policy.forbidden", 1, "gpu-3".to_owned())]);
    assert_eq!(broker.activate_policies(&operator(), &more, of.change).await.unwrap(), 1);
    assert_eq!(house.standing(&hosts[2]), "revoked");
    house.restart();
    let names: Vec<_> = house.broker().references.current().policy.texts().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names, ["baseline", "hardware-strict", "no-gpu-3", "simulated"]);
    let left: Vec<_> =
        std::fs::read_dir(house.data().path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name == "policies.next"), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_decision_says_why() {
    let mut house = House::new();
    let mut hosts = fleet(&house).await;
    let explained =
        |house: &House, host: &Host| tokio::task::block_in_place(|| house.broker().explain_host(&host.id)).unwrap();
    let why = explained(&house, &hosts[0]);
    let judged = why.judged.unwrap();
    assert!(judged.identical && judged.findings.is_empty());
    let grant = judged.grant.unwrap();
    assert_eq!((why.event, grant.manifest.as_str()), ("granted", "image-1"));
    assert!(grant.policies.iter().any(|policy| policy.contains("simulated")), "{:?}", grant.policies);
    // A renewal stands on what was judged before it, also after a restart.
    hosts[0].attest(&house).await.unwrap();
    hosts[0].attest(&house).await.unwrap();
    house.restart();
    let why = explained(&house, &hosts[0]);
    assert_eq!((why.event, why.judged.unwrap().grant.unwrap().manifest.as_str()), ("renewed", "image-1"));
    // A drift: what was expected, where that comes from, what was found, and what to do.
    hosts[1].tpm.extend(PcrHash::Sha256, 7, b"other keys");
    assert_eq!(hosts[1].attest(&house).await.unwrap_err(), "reference.pcr_mismatch");
    let why = explained(&house, &hosts[1]);
    let judged = why.judged.unwrap();
    assert!(judged.identical && judged.grant.is_none());
    let first = &judged.findings[0];
    assert!(first.expected.contains("(manifest image-1)") && first.found.contains("PCR 7"), "{first:?}");
    assert!(!first.remedy.is_empty());
    // By its index and its id, as the host was told it.
    for of in [why.log_index.to_string(), why.decision.to_hex()] {
        let same = tokio::task::block_in_place(|| house.broker().explain(&of)).unwrap();
        assert_eq!((same.decision, same.log_index), (why.decision, why.log_index));
    }
    // An operator's word is explained by the operator.
    house.broker().revoke(&operator(), &hosts[2].id).await.unwrap();
    let why = explained(&house, &hosts[2]);
    assert_eq!((why.event, why.actor.as_deref()), ("revoked", Some(operator().as_str())));
    assert!(why.judged.is_none());
    for nothing in ["1000000", "x", &"ab".repeat(32)] {
        let refused = tokio::task::block_in_place(|| house.broker().explain(nothing)).unwrap_err();
        assert_eq!(refused.code(), "lineage.entry.unknown");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_judged_for_those_who_stand_on_it_and_after_a_restart_too() {
    let mut house = House::new();
    let mut hosts = fleet(&house).await;
    let touched = |house: &House, change: Touches<'_>| -> Vec<String> {
        let ids = house.broker().trust.standings(|standings| standings.touched(change)).unwrap();
        ids.iter().map(|id| id.as_str().to_owned()).collect()
    };
    let on = |house: &House, id: &str| touched(house, Touches::Manifest(id));
    assert_eq!(
        (on(&house, "image-1"), on(&house, "image-2")),
        (vec!["gpu-1".into(), "gpu-2".into()], vec!["gpu-3".into()])
    );
    assert_eq!(touched(&house, Touches::Everyone).len(), 3);
    // A renewal stands on the same, and a boot of the other image on the other.
    hosts[1].reboot(Boot::secure(false));
    for host in &mut hosts {
        host.renew();
        host.attest(&house).await.unwrap();
    }
    assert_eq!((on(&house, "image-1"), on(&house, "image-2").len()), (vec!["gpu-1".into()], 2));
    house.restart();
    for change in [Touches::Manifest("image-1"), Touches::Manifest("image-2"), Touches::Waiver("none")] {
        // What the last pulse did not keep is not known, and never missed.
        let of = touched(&house, change);
        let stand = |host: &&Host| matches!(change, Touches::Manifest(id) if (id == "image-1") == (host.id.as_str() == "gpu-1"));
        assert!(
            hosts.iter().filter(stand).all(|host| of.iter().any(|id| id == host.id.as_str())),
            "{change:?}: {of:?}"
        );
    }
    // One that stands on another after a change is found by that: it passes by image-3 once image-1 is gone.
    let pcr_7 = json!({ "pcrs": { "sha256": { "7": [hosts[0].pcr(7)] } } });
    house.register_reference(&manifest(&hosts[0], &json!({ "id": "image-3", "tpm": pcr_7 }))).await.unwrap();
    assert_eq!(house.withdraw("image-1").await, 0);
    assert!(on(&house, "image-3").contains(&"gpu-1".to_owned()));
    assert_eq!(house.withdraw("image-3").await, 1);
    house.broker().readmit(&operator(), &hosts[0].id).await.unwrap();
    house.register_reference(&manifest(&hosts[0], &json!({ "id": "image-4", "tpm": pcr_7 }))).await.unwrap();
    hosts[0].renew();
    hosts[0].attest(&house).await.unwrap();
    assert_eq!(house.withdraw("image-2").await, 2);
    assert_eq!(hosts.iter().map(|host| house.standing(host)).collect::<Vec<_>>(), ["trusted", "revoked", "revoked"]);
}
