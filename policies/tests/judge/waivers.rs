//! Waivers, denied hardware and generations.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::{AmdProduct, Assurance};
use countersign_attestation::claims::{Claims, HexBytes, Presented, TdxClaims, TpmIdentity, TpmKind};
use countersign_attestation::endorsement::intel::TcbStatus;
use countersign_attestation::lineage::checkpoint::NoteKey;
use countersign_attestation::protocol::HostId;
use countersign_policies::decision::{Decision, HostFacts, Outcome, Standards, appraise};
use countersign_policies::instance::{Denial, DenialSet};
use countersign_policies::matching::ImaTallies;
use countersign_policies::policy::PolicySet;
use countersign_policies::reference::ReferenceSet;
use countersign_policies::waiver::{WAIVER_BYTES_MAX, Waiver, WaiverSet, signer_name};
use serde_json::{Value, json};

use crate::common::*;

const DOMAIN: &str = "fleet.example";

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn key_of(operator: &str, seed: u8) -> NoteKey {
    let name = signer_name(DOMAIN, &HostId::parse(operator).unwrap());
    NoteKey::ed25519(&name, pair(seed).public_key().as_ref().try_into().unwrap()).unwrap()
}

fn sign(text: &str) -> String {
    let text = format!("{text}\n");
    let signature = pair(1).sign(text.as_bytes());
    format!("{text}\n{}", key_of("alice", 1).signature_line(signature.as_ref().try_into().unwrap()))
}

/// A waiver of a Genoa's SNP firmware one below the manifest's minimum, for the host that is judged.
pub(crate) fn lower_snp() -> Value {
    json!({
        "id": "psp", "trust_domain": DOMAIN,
        "scope": { "hosts": ["gpu-17"] },
        "accepts": [{ "snp_min_tcb": { "genoa": { "bootloader": 9, "tee": 0, "snp": 20, "microcode": 72 } } }],
        "until": "2026-11-23T04:35:56Z",
        "reason": "firmware comes on Thursday",
    })
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut waiver = lower_snp();
    change(&mut waiver);
    waiver
}

pub(crate) fn open(waiver: &Value) -> Result<Waiver, &'static str> {
    Waiver::open(&sign(&waiver.to_string()), &key_of("alice", 1)).map_err(|finding| finding.code)
}

pub(crate) fn waivers(waivers: &[Value]) -> WaiverSet {
    WaiverSet::new(waivers.iter().map(|waiver| open(waiver).unwrap()))
}

fn below() -> Claims {
    with_snp(|snp| {
        (snp.committed_tcb.snp, snp.launch_tcb.snp, snp.reported_tcb.snp) = (20, 20, 20);
    })
}

fn judge_under(claims: &Claims, policy: &PolicySet, waivers: &WaiverSet, denials: &DenialSet) -> Decision {
    judge_under_at(claims, &golden_both(), policy, waivers, denials, NOW)
}

pub(crate) fn judge_under_at(
    claims: &Claims,
    references: &ReferenceSet,
    policy: &PolicySet,
    waivers: &WaiverSet,
    denials: &DenialSet,
    now: UnixMillis,
) -> Decision {
    let id = HostId::parse("gpu-17").unwrap();
    let labels = BTreeMap::from([("pool".to_owned(), "confidential".to_owned())]);
    let host = HostFacts { id: &id, trust_domain: DOMAIN, labels: &labels, generation: 2 };
    let standards = Standards { references, policy, waivers, denials };
    appraise(claims, &ImaTallies::new(), &host, standards, TERMS, now)
}

pub(crate) fn used(decision: &Decision) -> Vec<&str> {
    let grant = decision.grant().unwrap_or_else(|| panic!("{:?}", decision.findings()));
    grant.waivers().iter().map(|waiver| waiver.id.as_str()).collect()
}

#[test]
fn a_waiver_lets_a_host_pass_and_the_grant_names_it_and_ends_with_it() {
    let (policy, none) = (policies(&["baseline", "confidential-vm"], &[]), DenialSet::new([]));
    let denied = judge_under(&below(), &policy, &WaiverSet::new([]), &none);
    assert_eq!(codes(&denied)[0], "snp.tcb.below_reference");
    let set = waivers(&[lower_snp()]);
    let decision = judge_under(&below(), &policy, &set, &none);
    assert_eq!(used(&decision), ["psp"]);
    let end = UnixMillis(1_795_408_556_000);
    assert_eq!(set.get("psp").unwrap().until(), end);
    let lease_until = NOW.plus(TERMS.lease_ms);
    assert_eq!(decision.outcome(), Outcome::Granted { not_after: end, lease_until });
    // Nearer to the end the lease is cut as well, and at the end there is none.
    let at = |now| judge_under_at(&below(), &golden_both(), &policy, &set, &none, now);
    let near = UnixMillis(end.0 - 1);
    assert_eq!(at(near).outcome(), Outcome::Granted { not_after: end, lease_until: end });
    assert_eq!(at(end).outcome(), Outcome::Denied);
    assert_eq!(codes(&at(end)), codes(&denied));
    // What stands by itself names no waiver and does not end with it.
    let sound = judge_under(&both_claims(), &policy, &set, &none);
    assert_eq!(used(&sound), [] as [&str; 0]);
    assert_eq!(sound.outcome(), Outcome::Granted { not_after: NOW.plus(TERMS.credential_ttl_ms), lease_until });
}

#[test]
fn the_set_is_among_the_decisions_inputs() {
    let (policy, none) = (policies(&["baseline"], &[]), DenialSet::new([]));
    let set = waivers(&[lower_snp()]);
    let bytes = |waivers: &WaiverSet, denials: &DenialSet| {
        judge_under(&both_claims(), &policy, waivers, denials).canonical_bytes()
    };
    assert_ne!(bytes(&set, &none), bytes(&WaiverSet::new([]), &none), "also where no waiver was needed");
    let other = waivers(&[with(|waiver| waiver["reason"] = "another".into())]);
    assert_ne!(bytes(&set, &none), bytes(&other, &none));
    let denial = Denial::parse(format!(r#"{{"instance":{{"ek":"{}"}},"reason":"x"}}"#, "11".repeat(32)).as_bytes());
    assert_ne!(bytes(&set, &none), bytes(&set, &DenialSet::new([denial.unwrap()])));
}

#[test]
fn a_waiver_is_for_its_scope_alone() {
    let (policy, none) = (policies(&["baseline"], &[]), DenialSet::new([]));
    let granted = |scope: Value| {
        let set = waivers(&[with(|waiver| waiver["scope"] = scope)]);
        judge_under(&below(), &policy, &set, &none).grant().is_some()
    };
    let (chip, other_chip, ek) = ("c1".repeat(64), "c2".repeat(64), "e0".repeat(32));
    for scope in [
        json!({ "hosts": ["gpu-16", "gpu-17"] }),
        json!({ "labels": { "pool": "confidential" } }),
        json!({ "instances": [{ "chip_id": chip }] }),
        json!({ "instances": [{ "chip_id": other_chip }, { "ek": ek }] }),
        json!({ "amd_products": ["genoa", "milan"] }),
        json!({ "amd_products": ["genoa"], "labels": { "pool": "confidential" } }),
    ] {
        assert!(granted(scope.clone()), "{scope}");
    }
    for scope in [
        json!({ "hosts": ["gpu-1"] }),
        json!({ "hosts": ["gpu-170"] }),
        json!({ "labels": { "pool": "confidential", "site": "a" } }),
        json!({ "labels": { "pool": "other" } }),
        json!({ "instances": [{ "chip_id": other_chip }] }),
        json!({ "amd_products": ["milan"] }),
        json!({ "fmspcs": ["00806f050000"] }),
        json!({ "hosts": ["gpu-17"], "amd_products": ["milan"] }),
    ] {
        assert!(!granted(scope.clone()), "{scope}");
    }
}

#[test]
fn a_masked_chip_is_in_no_scope_of_chips() {
    let set = waivers(&[with(|waiver| waiver["scope"] = json!({ "instances": [{ "chip_id": "c1".repeat(64) }] }))]);
    let claims = with_snp(|snp| (snp.committed_tcb.snp, snp.chip_id) = (20, Presented::NotPresented));
    let decision = judge_under(&claims, &policies(&["baseline"], &[]), &set, &DenialSet::new([]));
    assert_eq!(decision.outcome(), Outcome::Denied);
}

#[test]
fn a_floor_is_component_by_component_and_nothing_else_is_waived() {
    let (policy, none) = (policies(&["baseline"], &[]), DenialSet::new([]));
    let set = waivers(&[lower_snp()]);
    let code = |claims: &Claims| codes(&judge_under(claims, &policy, &set, &none));
    let lower = |change: fn(&mut countersign_attestation::claims::SnpTcb)| {
        with_snp(|snp| {
            snp.committed_tcb.snp = 20;
            change(&mut snp.committed_tcb);
        })
    };
    assert_eq!(code(&lower(|_| {})), [] as [&str; 0]);
    assert!(code(&lower(|tcb| tcb.snp = 19)).contains(&"snp.tcb.below_reference"), "below the waiver's floor too");
    assert!(code(&lower(|tcb| tcb.microcode = 71)).contains(&"snp.tcb.below_reference"), "another component");
    let mut drifted = below();
    drifted.tpm.pcrs.values_mut().next().unwrap().insert(4, digest(9));
    assert_eq!(code(&drifted), ["reference.pcr_mismatch", "policy.no_permit"]);
    let elsewhere = with_snp(|snp| (snp.committed_tcb.snp, snp.measurement) = (20, HexBytes(vec![1; 48])));
    assert_eq!(code(&elsewhere), ["reference.snp.measurement", "policy.no_permit"]);
    let vmpl = with_snp(|snp| (snp.committed_tcb.snp, snp.vmpl) = (20, 3));
    assert_eq!(code(&vmpl), ["policy.forbidden"]);
    let until = with_snp(|snp| (snp.committed_tcb.snp, snp.valid_until) = (20, NOW));
    assert_eq!(code(&until), ["policy.claims_expired"]);
}

#[test]
fn an_unlisted_generation_needs_a_floor_of_its_own() {
    let (policy, none) = (policies(&["baseline"], &[]), DenialSet::new([]));
    let turin = with_snp(|snp| {
        snp.product = AmdProduct::Turin;
        for tcb in [&mut snp.reported_tcb, &mut snp.committed_tcb, &mut snp.launch_tcb] {
            tcb.fmc = Some(3);
        }
    });
    let code = |accepts: Value| {
        let set = waivers(&[with(|waiver| waiver["accepts"] = accepts)]);
        codes(&judge_under(&turin, &policy, &set, &none))
    };
    assert_eq!(code(json!([{ "generation": { "amd_product": "turin" } }]))[0], "reference.snp.product");
    let floor = |fmc: u8| json!([{ "snp_min_tcb": { "turin": { "fmc": fmc, "bootloader": 9, "tee": 0, "snp": 21, "microcode": 72 } } }]);
    assert_eq!(code(floor(3)), [] as [&str; 0]);
    assert_eq!(code(floor(4))[0], "snp.tcb.below_reference");
}

#[test]
fn of_several_waivers_only_the_needed_are_named_and_those_that_end_last() {
    let (policy, none) = (policies(&["baseline"], &[]), DenialSet::new([]));
    let named = |id: &str, until: &str| {
        with(|waiver| {
            waiver["id"] = id.into();
            waiver["until"] = until.into();
        })
    };
    let late = named("late", "2026-11-24T00:00:00Z");
    let set = waivers(&[named("a-early", "2026-11-23T04:35:56Z"), late, named("z-ended", "2026-11-23T04:34:56Z")]);
    let decision = judge_under(&below(), &policy, &set, &none);
    assert_eq!(used(&decision), ["late"]);
    let not_after = NOW.plus(TERMS.credential_ttl_ms);
    assert_eq!(decision.outcome(), Outcome::Granted { not_after, lease_until: NOW.plus(TERMS.lease_ms) });
}

#[test]
fn b14_no_scope_is_a_pattern_or_empty() {
    let code = |scope: Value| open(&with(|waiver| waiver["scope"] = scope)).unwrap_err();
    for wildcard in [
        json!({ "hosts": ["*"] }),
        json!({ "hosts": ["gpu-*"] }),
        json!({ "hosts": ["gpu-17", "gpu-?"] }),
        json!({ "labels": { "pool": "*" } }),
        json!({ "labels": { "*": "confidential" } }),
        json!({ "labels": { "pool": "" } }),
        json!({ "amd_products": ["milan", "genoa", "turin"] }),
    ] {
        assert_eq!(code(wildcard.clone()), "waiver.scope.wildcard", "{wildcard}");
    }
    for empty in [
        json!({}),
        json!({ "hosts": [] }),
        json!({ "labels": {} }),
        json!({ "instances": [] }),
        json!({ "amd_products": [] }),
        json!({ "fmspcs": [] }),
        json!({ "fmspcs": ["00"] }),
        json!({ "hosts": ["GPU 17"] }),
        json!({ "hosts": vec!["a"; 257] }),
    ] {
        assert_eq!(code(empty.clone()), "waiver.scope", "{empty}");
    }
    for malformed in [json!({ "hosts": null }), json!({ "host": ["a"] }), json!("*"), json!(["*"]), json!(null)] {
        assert_eq!(code(malformed.clone()), "waiver.syntax", "{malformed}");
    }
    for id in [json!({ "chip_id": "00".repeat(64) }), json!({ "chip_id": "c1" }), json!({ "ppid": "11".repeat(15) })] {
        assert_eq!(code(json!({ "instances": [id] })), "instance.id");
    }
    // Policies: an identity is one host or one domain.
    for text in [
        r#"permit (principal == Host::"*", action, resource) when { context.reference.matched };"#,
        r#"permit (principal, action, resource == TrustDomain::"*") when { context.reference.matched };"#,
        r#"permit (principal, action, resource) when { context.tpm.ek like "*" };"#,
    ] {
        assert_eq!(PolicySet::parse(&[("p", text)]).unwrap_err().code, "policy.load.wildcard", "{text}");
    }
}

#[test]
fn what_is_waived_is_a_closed_set() {
    let code = |accepts: Value| open(&with(|waiver| waiver["accepts"] = accepts)).map(drop);
    for good in [
        json!([{ "tcb_status": "OutOfDate" }, { "tcb_status": "TDRelaunchAdvisedConfigurationNeeded" }]),
        json!([{ "advisory": "INTEL-SA-00960" }, { "generation": { "fmspc": "00806f050000" } }]),
    ] {
        assert_eq!(code(good), Ok(()));
    }
    for closed in [
        json!([{ "tcb_status": "Revoked" }]),
        json!([{ "tcb_status": "UpToDate" }]),
        json!([{ "tcb_status": "outofdate" }]),
        json!([{ "tcb_status": "*" }]),
        json!([{ "signature": "any" }]),
        json!([{ "measurement": "any" }]),
        json!(["tcb_status"]),
        json!([{ "tcb_status": "OutOfDate", "advisory": "INTEL-SA-1" }]),
        json!([{ "generation": { "amd_product": "naples" } }]),
        json!({ "tcb_status": "OutOfDate" }),
    ] {
        assert_eq!(code(closed.clone()), Err("waiver.syntax"), "{closed}");
    }
    for empty in [json!([]), json!([{ "advisory": "" }]), json!([{ "advisory": "*" }]), json!([{ "advisory": "a b" }])]
    {
        assert_eq!(code(empty.clone()), Err("waiver.accepts"), "{empty}");
    }
    let milan = json!({ "bootloader": 1, "tee": 0, "snp": 1, "microcode": 1, "fmc": 1 });
    assert_eq!(code(json!([{ "snp_min_tcb": { "milan": milan } }])), Err("reference.min_tcb.fmc"));
    assert_eq!(code(json!([{ "snp_min_tcb": {} }])), Err("reference.manifest.empty"));
}

#[test]
fn an_end_and_a_reason_are_mandatory() {
    let code = |change: fn(&mut Value)| open(&with(change)).map(drop).unwrap_err();
    assert_eq!(code(|waiver| drop(waiver.as_object_mut().unwrap().remove("until"))), "waiver.syntax");
    assert_eq!(code(|waiver| drop(waiver.as_object_mut().unwrap().remove("reason"))), "waiver.syntax");
    assert_eq!(code(|waiver| waiver["until"] = "never".into()), "waiver.until");
    assert_eq!(code(|waiver| waiver["until"] = "2026-02-30T00:00:00Z".into()), "waiver.until");
    assert_eq!(code(|waiver| waiver["until"] = json!(null)), "waiver.syntax");
    assert_eq!(code(|waiver| waiver["reason"] = " ".into()), "waiver.reason");
    assert_eq!(code(|waiver| waiver["reason"] = "a\nb".into()), "waiver.reason");
    assert_eq!(code(|waiver| waiver["reason"] = "x".repeat(513).into()), "waiver.reason");
    assert_eq!(code(|waiver| waiver["id"] = "../x".into()), "waiver.id");
    assert_eq!(code(|waiver| waiver["more"] = 1.into()), "waiver.syntax");
    let term = |until: &str, now: UnixMillis| {
        let waiver = open(&with(|waiver| waiver["until"] = until.into())).unwrap();
        waiver.check_term(now).map_err(|finding| finding.code)
    };
    assert_eq!(term("2026-11-23T04:34:57Z", NOW), Ok(()));
    assert_eq!(term("2026-11-23T04:34:56Z", NOW), Err("waiver.until"), "past");
    assert_eq!(term("2027-02-23T04:34:56Z", NOW), Ok(()), "a quarter");
    assert_eq!(term("2027-02-23T04:34:57Z", NOW), Err("waiver.until"), "too far");
}

#[test]
fn a_waiver_is_its_signers_in_every_byte() {
    let text = lower_snp().to_string();
    let note = sign(&text);
    let code = |note: &str, key: &NoteKey| Waiver::open(note, key).map_err(|finding| finding.code);
    let (key, signature) = (key_of("alice", 1), Err("waiver.signature"));
    let waiver = code(&note, &key).unwrap();
    assert_eq!(Waiver::from_json(&waiver.signed().to_json()), Ok(waiver.clone()));
    assert_eq!(waiver.signer(), "fleet.example/countersign/operator/alice");
    assert_eq!(code(&note, &key_of("alice", 2)), signature, "another key under the name");
    assert_eq!(code(&note, &key_of("bob", 1)), signature, "the key under another name");
    assert_eq!(code(&note.replace("gpu-17", "gpu-18"), &key), signature);
    assert_eq!(code(&note.replace("Thursday", "Thursdax"), &key), signature);
    assert_eq!(code(&text, &key), signature, "unsigned");
    assert_eq!(code(&sign("{}"), &key), Err("waiver.syntax"));
    assert_eq!(code(&sign(&text.replacen('{', r#"{"id":"other","#, 1)), &key), Err("waiver.syntax"));
    let elsewhere = with(|waiver| waiver["trust_domain"] = "other.example".into());
    assert_eq!(open(&elsewhere).unwrap_err(), "waiver.trust_domain");
    assert_eq!(code(&" ".repeat(WAIVER_BYTES_MAX + 1), &key), Err("waiver.size"));
    let mut forged = waiver.signed().clone();
    forged.key = key_of("alice", 2).vkey();
    assert_eq!(Waiver::from_json(&forged.to_json()).unwrap_err().code, "waiver.signature");
}

#[test]
fn more_waivers_than_a_credential_names_deny() {
    let of_advisory = |number: usize| {
        with(|waiver| {
            waiver["id"] = format!("w{number}").into();
            waiver["accepts"] = json!([{ "advisory": format!("INTEL-SA-{number:05}") }]);
        })
    };
    let many: Vec<Value> = (0..20).map(of_advisory).chain([lower_snp()]).collect();
    let set = waivers(&many);
    // None of the twenty touches this host: they are left aside, however many there are.
    let decision = judge_under(&below(), &policies(&["baseline"], &[]), &set, &DenialSet::new([]));
    assert_eq!(used(&decision), ["psp"]);
    let policy = policies(&["baseline", "hardware-strict"], &[]);
    let advised = |count: usize| {
        let ids = (0..count).map(|number| format!("INTEL-SA-{number:05}")).collect();
        let claims = with_tdx(|tdx| tdx.tcb.advisory_ids = ids);
        judge_under_at(&claims, &golden_domain(), &policy, &set, &DenialSet::new([]), NOW)
    };
    assert_eq!(used(&advised(0)).len(), 0);
    assert_eq!(used(&advised(8)).len(), 8);
    assert_eq!(codes(&advised(9)), ["waiver.too_many"]);
}

fn change_tdx(claims: &mut Claims, change: impl FnOnce(&mut TdxClaims)) {
    let Presented::Verified(tdx) = &mut claims.tdx else { panic!("a trust domain") };
    change(tdx);
}

#[test]
fn a_tcb_status_and_its_advisories_are_waived_by_name() {
    let policy = policies(&["baseline", "hardware-strict"], &[]);
    let old = with_tdx(|tdx| {
        tdx.tcb.status = TcbStatus::OutOfDate;
        tdx.tcb.advisory_ids = vec!["INTEL-SA-00960".into(), "INTEL-SA-00982".into()];
    });
    let judged = |claims: &Claims, set: &[Value]| {
        judge_under_at(claims, &golden_domain(), &policy, &waivers(set), &DenialSet::new([]), NOW)
    };
    let named = |id: &str, accepts: Value| {
        with(|waiver| {
            waiver["id"] = id.into();
            waiver["scope"] = json!({ "fmspcs": ["00806f050000"] });
            waiver["accepts"] = accepts;
        })
    };
    let status = named("status", json!([{ "tcb_status": "OutOfDate" }]));
    let both = named("both", json!([{ "advisory": "INTEL-SA-00960" }, { "advisory": "INTEL-SA-00982" }]));
    let one = named("one", json!([{ "advisory": "INTEL-SA-00960" }]));
    assert_eq!(codes(&judged(&old, &[])), ["policy.forbidden"; 2]);
    assert_eq!(
        codes(&judged(&old, std::slice::from_ref(&status))),
        ["policy.forbidden"],
        "its advisories are still open"
    );
    assert_eq!(codes(&judged(&old, &[status.clone(), one.clone()])), ["policy.forbidden"], "and so is one of them");
    let decision = judged(&old, &[status.clone(), both.clone(), one]);
    assert_eq!(used(&decision), ["both", "status"]);
    assert_eq!(
        decision.outcome(),
        Outcome::Granted { not_after: UnixMillis(1_795_408_556_000), lease_until: NOW.plus(TERMS.lease_ms) }
    );
    // Another status and a new advisory are not what was accepted.
    for worse in [TcbStatus::OutOfDateConfigurationNeeded, TcbStatus::SWHardeningNeeded, TcbStatus::Revoked] {
        let mut claims = old.clone();
        change_tdx(&mut claims, |tdx| tdx.tcb.status = worse);
        assert_eq!(codes(&judged(&claims, &[status.clone(), both.clone()])), ["policy.forbidden"], "{worse:?}");
    }
    let mut more = old.clone();
    change_tdx(&mut more, |tdx| tdx.tcb.advisory_ids.push("INTEL-SA-01036".into()));
    assert_eq!(codes(&judged(&more, &[status.clone(), both.clone()])), ["policy.forbidden"]);
    let mut elsewhere = old;
    change_tdx(&mut elsewhere, |tdx| tdx.platform.fmspc = HexBytes(vec![1; 6]));
    assert_eq!(codes(&judged(&elsewhere, &[status, both])), ["policy.forbidden"; 2], "out of its scope");
}

#[test]
fn every_status_but_revoked_can_be_waived_and_each_by_its_own_name() {
    let policy = policies(&["baseline", "hardware-strict"], &[]);
    for status in TcbStatus::ALL {
        let claims = with_tdx(|tdx| tdx.tcb.status = status);
        for waived in TcbStatus::ALL {
            let accepts = json!([{ "tcb_status": waived.name() }]);
            let waiver = open(&with(|waiver| waiver["accepts"] = accepts));
            let waivable = !matches!(waived, TcbStatus::UpToDate | TcbStatus::Revoked);
            assert_eq!(waiver.is_ok(), waivable, "{}", waived.name());
            let Ok(waiver) = waiver else { continue };
            let set = WaiverSet::new([waiver]);
            let decision = judge_under_at(&claims, &golden_domain(), &policy, &set, &DenialSet::new([]), NOW);
            let granted = status == TcbStatus::UpToDate || status == waived;
            assert_eq!(decision.grant().is_some(), granted, "{} under {}", status.name(), waived.name());
        }
    }
}

#[test]
fn b7_a_platform_of_intel_is_refused_accepted_and_denied() {
    let listed = r#"@id("platforms") forbid (principal, action, resource) when { context has tdx }
        unless { ["90c06f000000"].contains(context.tdx.fmspc) || context.waived.contains(Waived::"generation") };"#;
    let policy = policies(&["baseline", "hardware-strict"], &[("own", listed)]);
    let accepting =
        |fmspc: &str| waivers(&[with(|waiver| waiver["accepts"] = json!([{ "generation": { "fmspc": fmspc } }]))]);
    let judged = |set: &WaiverSet, denials: &DenialSet| {
        judge_under_at(&domain_claims(), &golden_domain(), &policy, set, denials, NOW)
    };
    let none = DenialSet::new([]);
    assert_eq!(codes(&judged(&WaiverSet::new([]), &none)), ["policy.forbidden"]);
    assert_eq!(codes(&judged(&accepting("00906ed50000"), &none)), ["policy.forbidden"]);
    let set = accepting("00806f050000");
    assert_eq!(used(&judged(&set, &none)), ["psp"]);
    for leaked in [json!({ "ppid": "99".repeat(16) }), json!({ "platform_instance": "98".repeat(16) })] {
        let text = json!({ "instance": leaked, "reason": "TEE.fail" }).to_string();
        let denials = DenialSet::new([Denial::parse(text.as_bytes()).unwrap()]);
        assert_eq!(codes(&judged(&set, &denials)), ["instance.denied"]);
        let scoped = waivers(&[with(|waiver| {
            waiver["scope"] = json!({ "instances": [leaked] });
            waiver["accepts"] = json!([{ "generation": { "fmspc": "00806f050000" } }]);
        })]);
        assert_eq!(used(&judged(&scoped, &none)), ["psp"]);
    }
}

#[test]
fn b7_a_valid_milan_report_needs_a_root_of_its_own_beside_it() {
    let policy = policies(&["baseline", "milan-co-root"], &[]);
    let references = ReferenceSet::new([manifest(&json!({
        "id": "both", "tpm": golden_tpm(), "snp": golden_milan(),
    }))]);
    let milan = |tpm: TpmIdentity| {
        let mut claims = with_snp(|snp| snp.product = AmdProduct::Milan);
        claims.tpm.identity = tpm;
        claims
    };
    let decide = |claims: &Claims| codes(&judge(claims, &references, &policy));
    let discrete = milan(tpm_claims().tpm.identity);
    assert_eq!(discrete.tpm.identity.kind, TpmKind::Discrete);
    assert_eq!(decide(&discrete), [] as [&str; 0]);
    let intel = milan(TpmIdentity::from_attributes("id:494E5443", "Intel", "id:0258"));
    assert_eq!((intel.tpm.identity.kind, decide(&intel)), (TpmKind::Firmware, vec![]));
    let amd = milan(TpmIdentity::from_attributes("id:414D4400", "AMD", "id:0003"));
    assert_eq!((amd.tpm.identity.kind, decide(&amd)), (TpmKind::Firmware, vec!["policy.forbidden"]));
    for kind in [TpmKind::Unknown, TpmKind::Simulated] {
        assert_eq!(decide(&milan(TpmIdentity::unnamed(kind))), ["policy.forbidden"]);
    }
    let mut simulated = discrete.clone();
    simulated.tpm.assurance = Assurance::Simulated;
    assert_eq!(decide(&simulated)[0], "policy.forbidden", "its root is nobody's");
    // The report alone, with nothing of the TPM compared.
    let alone = ReferenceSet::new([manifest(&json!({ "id": "alone", "snp": golden_milan() }))]);
    assert_eq!(codes(&judge(&discrete, &alone, &policy)), ["policy.forbidden"]);
    // Other generations need none.
    assert_eq!(codes(&judge(&both_claims(), &golden_both(), &policy)), [] as [&str; 0]);
}

fn golden_milan() -> Value {
    let mut snp = golden_snp();
    snp["min_tcb"] = json!({ "milan": { "bootloader": 4, "tee": 0, "snp": 20, "microcode": 70 } });
    snp
}

#[test]
fn b7_policy_refuses_a_generation_and_a_waiver_accepts_it() {
    let listed = r#"@id("generations") forbid (principal, action, resource) when { context has snp }
        unless {
            [AmdProduct::"genoa", AmdProduct::"turin"].contains(context.snp.product) ||
            context.waived.contains(Waived::"generation")
        };"#;
    let policy = policies(&["baseline"], &[("own", listed)]);
    let references =
        ReferenceSet::new([manifest(&json!({ "id": "both", "tpm": golden_tpm(), "snp": golden_milan() }))]);
    let milan = with_snp(|snp| snp.product = AmdProduct::Milan);
    let decide = |waivers: &WaiverSet| judge_under_at(&milan, &references, &policy, waivers, &DenialSet::new([]), NOW);
    assert_eq!(codes(&decide(&WaiverSet::new([]))), ["policy.forbidden"]);
    let accepting = |product: &str| {
        waivers(&[with(|waiver| waiver["accepts"] = json!([{ "generation": { "amd_product": product } }]))])
    };
    assert_eq!(used(&decide(&accepting("milan"))), ["psp"]);
    assert_eq!(codes(&decide(&accepting("turin"))), ["policy.forbidden"]);
}

#[test]
fn b12_a_policy_demands_mitigations_bit_by_bit() {
    let demands = r#"@id("mitigated") forbid (principal, action, resource) when { context has snp }
        unless {
            context.snp has launch_mitigations && context.snp.launch_mitigations.containsAll([0, 2]) &&
            context.snp has current_mitigations && context.snp.current_mitigations.contains(2)
        };"#;
    let policy = policies(&["baseline"], &[("own", demands)]);
    let decide = |vectors: &[(&'static str, u64)]| {
        let claims = with_snp(|snp| snp.mitigation_vectors = vectors.iter().copied().collect());
        codes(&judge(&claims, &golden_both(), &policy))
    };
    assert_eq!(decide(&[("launch", 0b101), ("current", 0b100)]), [] as [&str; 0]);
    for lacking in [
        &[("launch", 0b100), ("current", 0b100)][..],
        &[("launch", 0b1000), ("current", u64::MAX)],
        &[("launch", u64::MAX), ("current", 0b1011)],
        &[("current", u64::MAX)],
        &[],
    ] {
        assert_eq!(decide(lacking), ["policy.forbidden"], "{lacking:?}");
    }
}

#[test]
fn b7_b11_a_chip_allow_list_admits_no_masked_chip() {
    let allow = format!(
        r#"@id("chips") forbid (principal, action, resource)
        unless {{ context has snp && context.snp has chip_id && ["{}"].contains(context.snp.chip_id) }};"#,
        "c1".repeat(64)
    );
    let policy = policies(&["baseline"], &[("own", &allow)]);
    let decide =
        |chip_id: Presented<HexBytes>| codes(&judge(&with_snp(|snp| snp.chip_id = chip_id), &golden_both(), &policy));
    assert_eq!(decide(Presented::Verified(HexBytes(vec![0xc1; 64]))), [] as [&str; 0]);
    for other in [
        Presented::Verified(HexBytes(vec![0xc2; 64])),
        Presented::Verified(HexBytes(vec![0; 64])),
        Presented::NotPresented,
    ] {
        assert_eq!(decide(other), ["policy.forbidden"]);
    }
}

#[test]
fn denied_hardware_is_denied_whatever_a_policy_or_waiver_says() {
    let policy = policies(&["baseline"], &[]);
    let decide = |instance: Value| {
        let text = json!({ "instance": instance, "reason": "TEE.fail, ticket 7" }).to_string();
        let denial = Denial::parse(text.as_bytes()).map_err(|finding| finding.code)?;
        assert_eq!(Denial::parse(&denial.to_json()), Ok(denial.clone()));
        let set = waivers(&[with(|waiver| {
            waiver["accepts"] = json!([{ "generation": { "amd_product": "genoa" } }]);
        })]);
        Ok::<_, &str>(codes(&judge_under(&both_claims(), &policy, &set, &DenialSet::new([denial]))))
    };
    assert_eq!(decide(json!({ "chip_id": "c1".repeat(64) })), Ok(vec!["instance.denied"]));
    assert_eq!(decide(json!({ "ek": "e0".repeat(32) })), Ok(vec!["instance.denied"]));
    assert_eq!(decide(json!({ "chip_id": "c2".repeat(64) })), Ok(vec![]));
    assert_eq!(decide(json!({ "ppid": "c1".repeat(16) })), Ok(vec![]));
    for malformed in [
        json!({ "chip_id": "c1".repeat(63) }),
        json!({ "chip_id": "00".repeat(64) }),
        json!({ "ek": "00".repeat(32) }),
        json!({ "platform_instance": "" }),
    ] {
        assert_eq!(decide(malformed), Err("instance.id"));
    }
    assert_eq!(decide(json!({ "serial": "1" })), Err("instance.denial.syntax"));
    let unexplained = json!({ "instance": { "ek": "e0".repeat(32) }, "reason": " " }).to_string();
    assert_eq!(Denial::parse(unexplained.as_bytes()).unwrap_err().code, "instance.denial.syntax");
    // A Turin's hwID is the beginning of its chip id.
    let text = json!({ "instance": { "chip_id": "ab".repeat(8) }, "reason": "x" }).to_string();
    let denials = DenialSet::new([Denial::parse(text.as_bytes()).unwrap()]);
    let turin = with_snp(|snp| {
        let mut id = vec![0xab; 8];
        id.resize(64, 0);
        snp.chip_id = Presented::Verified(HexBytes(id));
    });
    assert_eq!(codes(&judge_under(&turin, &policy, &WaiverSet::new([]), &denials)), ["instance.denied"]);
    let id = denials.denials().next().unwrap().id();
    assert!(denials.get(id).is_some());
}

proptest::proptest! {
    /// Hostile text of an operator who can sign, and of one who cannot.
    #[test]
    fn hostile_waivers_never_panic(text in "\\PC{0,200}", member in 0usize..6, value in "[\\[\\]{}\":,a-z0-9*]{0,40}") {
        let members = ["id", "trust_domain", "scope", "accepts", "until", "reason"];
        let whole = lower_snp().to_string();
        let changed = with(|waiver| waiver[members[member]] = value.as_str().into()).to_string();
        let spliced = whole.replacen('"', &value, member + 1);
        for text in [text, changed, spliced] {
            let note = sign(&text);
            let _ = Waiver::open(&note, &key_of("alice", 1)).is_ok();
            proptest::prop_assert!(Waiver::open(&text, &key_of("alice", 1)).is_err(), "unsigned");
            let _ = Waiver::from_json(text.as_bytes()).is_ok();
            let _ = Denial::parse(text.as_bytes()).is_ok();
        }
    }
}
