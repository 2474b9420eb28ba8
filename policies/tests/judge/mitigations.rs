//! B12: minimums of the mitigation vectors in manifests, policies that demand them, and what waives them.

use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::claims::Claims;
use countersign_policies::instance::DenialSet;
use countersign_policies::policy::PolicySet;
use countersign_policies::reference::{ReferenceManifest, ReferenceSet};
use countersign_policies::waiver::WaiverSet;
use serde_json::{Value, json};

use crate::common::*;
use crate::waivers::{judge_under_at, lower_snp, open, used, waivers};

/// A manifest that demands bits 0 and 3 of a Genoa and none of a Turin.
fn demanding() -> Value {
    with_minimum(json!({ "genoa": [3, 0], "turin": [] }))
}

fn with_minimum(minimum: Value) -> Value {
    let mut snp = golden_snp();
    snp["min_mitigations"] = minimum;
    json!({ "id": "mitigated", "tpm": golden_tpm(), "snp": snp })
}

fn refused(minimum: Value) -> &'static str {
    ReferenceManifest::parse(with_minimum(minimum).to_string().as_bytes()).map(|_| ()).unwrap_err().code
}

/// A Genoa with these vectors.
fn vectors(vectors: &[(&'static str, u64)]) -> Claims {
    with_snp(|snp| snp.mitigation_vectors = vectors.iter().copied().collect())
}

fn both(launch: u64, current: u64) -> Claims {
    vectors(&[("launch", launch), ("current", current)])
}

fn decide_with(claims: &Claims, references: &Value, policy: &PolicySet, set: &WaiverSet) -> Vec<&'static str> {
    let references = ReferenceSet::new([manifest(references)]);
    codes(&judge_under_at(claims, &references, policy, set, &DenialSet::new([]), NOW))
}

fn decide(claims: &Claims) -> Vec<&'static str> {
    decide_with(claims, &demanding(), &policies(&["baseline"], &[]), &WaiverSet::new([]))
}

fn accepting(accepts: Value) -> Value {
    let mut waiver = lower_snp();
    waiver["accepts"] = accepts;
    waiver
}

#[test]
fn b12_a_manifest_demands_mitigations_bit_by_bit_in_both_vectors() {
    for enough in [both(0b1001, 0b1001), both(u64::MAX, 0b1_1001), both(0b1001 | 1 << 63, u64::MAX)] {
        assert_eq!(decide(&enough), [] as [&str; 0]);
    }
    let missing = |launch, current| {
        let codes = decide(&both(launch, current));
        assert_eq!(codes.last(), Some(&"policy.no_permit"));
        codes.iter().filter(|code| **code == "snp.mitigation.missing").count()
    };
    // As one number, 0b1010 would outweigh 0b1001; a vector of the wrong moment stands for none of the other.
    for (launch, current, vectors) in [
        (0b1001, 0b1000, 1),
        (0b1001, 0b0001, 1),
        (0b1001, 0b1010, 1),
        (0b1001, u64::MAX ^ 0b1000, 1),
        (0, 0b1001, 1),
        (0b1000, 0b1001, 1),
        (0, 0, 2),
        (0b1010, 0b0110, 2),
    ] {
        assert_eq!(missing(launch, current), vectors, "{launch:#b} {current:#b}");
    }
}

#[test]
fn b12_a_report_without_vectors_matches_no_minimum() {
    let absent = ["snp.mitigation.not_presented", "snp.mitigation.not_presented", "policy.no_permit"];
    assert_eq!(decide(&vectors(&[])), absent);
    let half = ["snp.mitigation.not_presented", "policy.no_permit"];
    assert_eq!(decide(&vectors(&[("current", u64::MAX)])), half);
    assert_eq!(decide(&vectors(&[("launch", u64::MAX)])), half);
}

#[test]
fn b12_a_minimum_is_of_its_product_alone() {
    let of = |product| {
        with_snp(|snp| {
            snp.product = product;
            snp.mitigation_vectors = [("launch", 0), ("current", 0)].into();
        })
    };
    let mut references = demanding();
    references["snp"].as_object_mut().unwrap().remove("min_tcb");
    let decide = |product| decide_with(&of(product), &references, &policies(&["baseline"], &[]), &WaiverSet::new([]));
    assert_eq!(decide(AmdProduct::Turin), [] as [&str; 0], "the manifest says that a Turin needs none");
    assert_eq!(decide(AmdProduct::Milan), ["reference.snp.product", "policy.no_permit"], "and nothing of a Milan");
    assert_eq!(decide(AmdProduct::Genoa).len(), 3);
}

#[test]
fn b12_a_denial_names_the_vector_its_value_and_the_lacking_bits() {
    let references = ReferenceSet::new([manifest(&demanding())]);
    let decision = judge(&both(0b1001, 0b10), &references, &policies(&["baseline"], &[]));
    let finding = &decision.findings()[0];
    assert_eq!(finding.code, "snp.mitigation.missing");
    assert_eq!(finding.expected, "CURRENT_MIT_VECTOR with bits 0 and 3 (manifest mitigated)");
    assert_eq!(finding.found, "CURRENT_MIT_VECTOR 0x2");
    assert!(finding.remedy.contains("launch the guest again"));
    assert_eq!(finding.for_host().found, Some("CURRENT_MIT_VECTOR 0x2"));
    let decision = judge(&vectors(&[]), &references, &policies(&["baseline"], &[]));
    assert_eq!(decision.findings()[0].found, "a report without LAUNCH_MIT_VECTOR");
}

#[test]
fn b12_a_minimum_that_cannot_be_meant_is_refused() {
    for no_bit in [json!({ "genoa": [64] }), json!({ "genoa": [255, 0] }), json!({ "genoa": [0, 0] })] {
        assert_eq!(refused(no_bit), "reference.mitigation.bit");
    }
    for nothing in [json!({}), json!({ "genoa": [] }), json!({ "genoa": [], "turin": [] })] {
        assert_eq!(refused(nothing), "reference.manifest.empty");
    }
    let unreadable = [
        json!(null),
        json!([0]),
        json!({ "naples": [0] }),
        json!({ "genoa": 1 }),
        json!({ "genoa": [-1] }),
        json!({ "genoa": [256] }),
        json!({ "genoa": ["0"] }),
        json!({ "genoa": null }),
    ];
    for form in unreadable {
        assert_eq!(refused(form.clone()), "reference.manifest.syntax", "{form}");
    }
    let twice = demanding().to_string().replace(r#""turin":[]"#, r#""turin":[],"turin":[1]"#);
    assert_eq!(ReferenceManifest::parse(twice.as_bytes()).unwrap_err().code, "reference.manifest.syntax");
}

#[test]
fn b12_the_canonical_form_of_a_minimum_reads_back() {
    let manifest = manifest(&demanding());
    let text = String::from_utf8(manifest.to_json()).unwrap();
    assert!(text.contains(r#""min_mitigations":{"genoa":[0,3],"turin":[]}"#), "{text}");
    assert_eq!(ReferenceManifest::parse(text.as_bytes()).unwrap(), manifest);
}

#[test]
fn b12_a_policy_demands_that_the_manifest_compared_mitigations() {
    let demand = r#"@id("mitigations") forbid (principal, action, resource)
        unless { context.reference.compared.contains(Compared::"snp_min_mitigations") };"#;
    let policy = policies(&["baseline"], &[("own", demand)]);
    let none = WaiverSet::new([]);
    assert_eq!(decide_with(&both(9, 9), &demanding(), &policy, &none), [] as [&str; 0]);
    let silent = json!({ "id": "silent", "tpm": golden_tpm(), "snp": golden_snp() });
    assert_eq!(decide_with(&both(9, 9), &silent, &policy, &none), ["policy.forbidden"]);
}

#[test]
fn b12_a_waiver_accepts_the_lack_of_the_bits_it_names_and_of_no_other() {
    let policy = policies(&["baseline"], &[]);
    let references = ReferenceSet::new([manifest(&demanding())]);
    let decide = |claims: &Claims, accepts: Value| {
        let set = waivers(&[accepting(accepts)]);
        let decision = judge_under_at(claims, &references, &policy, &set, &DenialSet::new([]), NOW);
        if decision.grant().is_some() { used(&decision).join(",") } else { codes(&decision)[0].to_owned() }
    };
    let bit_3 = || json!([{ "snp_mitigations": { "genoa": [3] } }]);
    assert_eq!(decide(&both(1, 1), bit_3()), "psp");
    assert_eq!(decide(&both(9, 1), bit_3()), "psp");
    assert_eq!(decide(&both(9, 9), bit_3()), "", "a host that needs no waiver stands on none");
    assert_eq!(decide(&both(8, 8), bit_3()), "snp.mitigation.missing", "bit 0 is not waived");
    assert_eq!(decide(&both(1, 1), json!([{ "snp_mitigations": { "milan": [3] } }])), "snp.mitigation.missing");
    // A report of version 3 shows no bit: each that is demanded must be waived.
    assert_eq!(decide(&vectors(&[]), bit_3()), "snp.mitigation.not_presented");
    assert_eq!(decide(&vectors(&[]), json!([{ "snp_mitigations": { "genoa": [0, 3] } }])), "psp");
    // Only hosts in its scope.
    let mut elsewhere = accepting(bit_3());
    elsewhere["scope"] = json!({ "hosts": ["gpu-18"] });
    let set = waivers(&[elsewhere]);
    assert_eq!(decide_with(&both(1, 1), &demanding(), &policy, &set)[0], "snp.mitigation.missing");
}

#[test]
fn b12_a_waiver_of_mitigations_is_shown_and_a_policy_may_refuse_it() {
    let refuse = r#"@id("no-exceptions") forbid (principal, action, resource)
        when { context.waived.contains(Waived::"snp_mitigations") };"#;
    let policy = policies(&["baseline"], &[("own", refuse)]);
    let waiver = accepting(json!([{ "snp_mitigations": { "genoa": [3, 0] } }]));
    let opened = open(&waiver).unwrap();
    assert_eq!(opened.accepts().collect::<Vec<_>>(), ["no mitigation bits 0 and 3 of Genoa"]);
    let set = waivers(&[waiver]);
    assert_eq!(decide_with(&both(1, 1), &demanding(), &policy, &set), ["policy.forbidden"]);
    assert_eq!(decide_with(&both(9, 9), &demanding(), &policy, &set), [] as [&str; 0]);
}

#[test]
fn b12_a_waiver_of_no_mitigation_is_refused() {
    let code = |accepts: Value| open(&accepting(accepts)).unwrap_err();
    assert_eq!(code(json!([{ "snp_mitigations": { "genoa": [] } }])), "waiver.accepts");
    assert_eq!(code(json!([{ "snp_mitigations": { "genoa": [0], "turin": [] } }])), "waiver.accepts");
    assert_eq!(code(json!([{ "snp_mitigations": {} }])), "reference.manifest.empty");
    assert_eq!(code(json!([{ "snp_mitigations": { "genoa": [64] } }])), "reference.mitigation.bit");
    assert_eq!(code(json!([{ "snp_mitigations": [0] }])), "waiver.syntax");
}
