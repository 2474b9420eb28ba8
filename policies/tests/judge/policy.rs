//! Policies that load, policies that do not, what the shipped ones decide, and how decisions read.

use std::collections::BTreeMap;

use crate::common::{
    NOW, TERMS, both_claims, codes, domain_claims, golden_both, golden_snp, golden_tdx, golden_tpm, golden_tpm_only,
    judge, judge_at, judge_host, manifest, policies, tpm_claims, with_snp,
};
use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::{AmdProduct, Assurance};
use countersign_attestation::binder::BindingReason;
use countersign_attestation::claims::{Claims, HexBytes, PcrHash, Presented, Revocation, TpmIdentity, TpmKind};
use countersign_attestation::endorsement::intel::TcbStatus;
use countersign_policies::decision::{Decision, HostFacts, Outcome, Standards, Terms, claims_digest};
use countersign_policies::instance::DenialSet;
use countersign_policies::policy::{PolicySet, SHIPPED};
use countersign_policies::reference::ReferenceSet;
use countersign_policies::waiver::WaiverSet;
use proptest::prelude::*;
use serde_json::json;

const PERMIT: &str = r#"@id("p") permit (principal, action, resource) when { context.reference.matched };"#;

fn refused(texts: &[(&str, &str)]) -> &'static str {
    PolicySet::parse(texts).map(|set| set.digest()).unwrap_err().code
}

fn granted(decision: &Decision) -> bool {
    matches!(decision.outcome(), Outcome::Granted { .. })
}

#[test]
fn a22_an_empty_or_accept_all_policy_is_a_load_error() {
    assert_eq!(refused(&[]), "policy.load.empty");
    assert_eq!(refused(&[("p", "")]), "policy.load.empty");
    assert_eq!(refused(&[("p", "// nothing")]), "policy.load.empty");
    assert_eq!(refused(&[("p", PERMIT), ("q", " ")]), "policy.load.empty");
    assert_eq!(refused(&[("p", "{}")]), "policy.load.syntax");
    assert_eq!(refused(&[("p", "permit (principal, action, resource);")]), "policy.load.unconditional");
    for nothing in [
        "when { true }",
        "unless { false }",
        "when { context.generation >= 0 }",
        "when { context.reference.matched || !context.reference.matched }",
        "when { !context.reference.matched }",
        "when { !(context has snp) || context has snp }",
    ] {
        for scope in ["principal", r#"principal == Host::"gpu-17""#, r"principal is Host"] {
            let text = format!("permit ({scope}, action, resource) {nothing};");
            assert_eq!(refused(&[("p", &text)]), "policy.load.unconditional", "{text}");
        }
        let text = format!(r#"permit (principal, action, resource == TrustDomain::"fleet.example") {nothing};"#);
        assert_eq!(refused(&[("p", PERMIT), ("q", &text)]), "policy.load.unconditional", "{text}");
    }
    let forbid = r"forbid (principal, action, resource) when { context.generation > 3 };";
    assert_eq!(refused(&[("p", forbid)]), "policy.load.no_permit");
}

#[test]
fn an_overlay_that_permits_does_not_load() {
    let forbid = r#"@id("f") forbid (principal, action, resource) when { context.generation > 1 };"#;
    PolicySet::parse(&[("baseline", PERMIT), ("overlay-cell-7", forbid)]).unwrap();
    assert_eq!(refused(&[("baseline", PERMIT), ("overlay-cell-7", PERMIT)]), "policy.load.overlay");
    let both = format!("{forbid}\n{PERMIT}");
    assert_eq!(refused(&[("baseline", PERMIT), ("overlay-cell-7", &both)]), "policy.load.overlay");
    assert_eq!(refused(&[("overlay-cell-7", forbid)]), "policy.load.no_permit");
}

#[test]
fn whatever_an_overlay_says_nobody_passes_who_did_not_pass_without_it() {
    let conditions = [
        "context.generation > 1",
        "context.generation < 0",
        "context.reference.matched",
        "!context.reference.matched",
        "context has snp",
        "!(context has tdx)",
        r#"principal.hasTag("pool") && principal.getTag("pool") == "confidential""#,
    ];
    let fleet = [tpm_claims(), both_claims(), domain_claims()];
    let (references, shipped) = ([golden_both(), golden_tpm_only()], ["baseline", "simulated"]);
    let mut tightened = 0;
    for (claims, references) in fleet.iter().flat_map(|claims| references.iter().map(move |one| (claims, one))) {
        let without = judge(claims, references, &policies(&shipped, &[]));
        for clause in ["when", "unless"] {
            for condition in conditions {
                let text = format!("forbid (principal, action, resource) {clause} {{ {condition} }};");
                let with = judge(claims, references, &policies(&shipped, &[("overlay-cell-7", &text)]));
                assert!(granted(&without) || !granted(&with), "{text}");
                tightened += usize::from(granted(&without) && !granted(&with));
            }
        }
    }
    assert!(0 < tightened, "an overlay that forbids nothing shows nothing");
}

#[test]
fn a17_a_policy_may_name_manufacturer_model_and_kind_of_a_tpm() {
    let with =
        |tpm: &str| format!("permit (principal, action, resource) when {{ context.reference.matched && {tpm} }};");
    let grants =
        |tpm: &str, claims: &Claims| granted(&judge(claims, &golden_tpm_only(), &policies(&[], &[("p", &with(tpm))])));
    let claims = tpm_claims();
    let discrete = r#"context.tpm.kind == TpmKind::"discrete""#;
    let infineon = r#"context.tpm.manufacturer == "IFX" && context.tpm.model == "SLB 9672""#;
    assert!(grants(discrete, &claims) && grants(infineon, &claims));
    for kind in TpmKind::ALL {
        let mut claims = tpm_claims();
        claims.tpm.identity.kind = kind;
        assert_eq!(grants(discrete, &claims), kind == TpmKind::Discrete, "{kind}");
        assert!(grants(&format!(r#"context.tpm.kind == TpmKind::"{kind}""#), &claims), "{kind}");
    }
    let mut amd = tpm_claims();
    amd.tpm.identity = TpmIdentity::from_attributes("id:414D4400", "AMD", "id:1");
    assert!(!grants(discrete, &amd) && !grants(infineon, &amd));
    let misspelt = with(r#"context.tpm.kind == TpmKind::"discreet""#);
    assert_eq!(refused(&[("p", &misspelt)]), "policy.load.invalid");
}

#[test]
fn a_text_that_would_exhaust_the_stack_is_a_load_error() {
    let matched = "context.reference.matched";
    let nested = |levels: usize| {
        [
            format!("{}{matched}{}", "(".repeat(levels), ")".repeat(levels)),
            format!("{}{matched}{}", "!(".repeat(levels), ")".repeat(levels)),
            vec![matched; levels].join(" && "),
            vec![matched; levels].join(" || "),
            format!("{matched} && {} > 0", vec!["1"; levels].join(" + ")),
            format!("{}{matched}{}", format!("if {matched} then ").repeat(levels), " else false".repeat(levels)),
            format!("{}{} == []", "[".repeat(levels), "]".repeat(levels)),
            format!("context{}", ".reference".repeat(levels)),
            format!("context{}", "[\"reference\"]".repeat(levels)),
            // Cedar joins the clauses of a policy with &&.
            vec![matched; levels].join(" } when { "),
            vec![matched; levels].join(" } unless { "),
        ]
    };
    // The last is all 256 KiB that a set may hold.
    for condition in [25, 200, 4000].into_iter().flat_map(nested).chain(["(".repeat(250_000)]) {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        if text.len() <= 256 * 1024 {
            assert_eq!(
                refused(&[("p", &text)]),
                "policy.load.nesting",
                "{}",
                text.chars().take(120).collect::<String>()
            );
        }
    }
}

#[test]
fn what_is_nested_as_deep_as_accepted_is_evaluated_too() {
    let matched = "context.reference.matched";
    // The clause and its block are a level each, and an attribute of an attribute is a path of two.
    for condition in [
        format!("{}{matched}{}", "(".repeat(21), ")".repeat(21)),
        format!("{}{matched}{}", "!(".repeat(10), ")".repeat(10)),
        vec![matched; 22].join(" && "),
        vec![matched; 22].join(" } when { "),
        format!("{}{matched}{}", format!("if {matched} then ").repeat(21), " else false".repeat(21)),
    ] {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        assert!(granted(&judge(&both_claims(), &golden_both(), &policies(&[], &[("p", &text)]))), "{text}");
        let deeper = text.replacen("when { ", "when { ((", 1).replacen(" };", ")) };", 1);
        assert_eq!(refused(&[("p", &deeper)]), "policy.load.nesting", "{deeper}");
    }
}

#[test]
fn b14_wildcards_in_identities_are_a_load_error() {
    let identity = |scope: &str| {
        let text = format!("permit ({scope}) when {{ context.reference.matched }};");
        PolicySet::parse(&[("p", &text)]).map(|set| set.digest()).map_err(|finding| finding.code)
    };
    for host in ["*", "gpu-*", "", "GPU-1", "gpu/1", "spiffe://x/*"] {
        let got = identity(&format!(r#"principal == Host::"{host}", action, resource"#));
        assert_eq!(got, Err("policy.load.wildcard"), "{host}");
    }
    let domain = identity(r#"principal, action, resource == TrustDomain::"*.example""#);
    assert_eq!(domain, Err("policy.load.wildcard"));
    let like = r#"permit (principal, action, resource)
        when { context has snp && context.snp.chip_id like "*" || context.reference.manifest like "*" };"#;
    assert!(matches!(refused(&[("p", like)]), "policy.load.wildcard"));
    let tag = r#"permit (principal, action, resource)
        when { principal.hasTag("pool") && principal.getTag("pool") like "con*" };"#;
    assert_eq!(refused(&[("p", tag)]), "policy.load.wildcard");
    assert!(identity(r#"principal == Host::"gpu-17", action, resource == TrustDomain::"fleet.example""#).is_ok());
}

#[test]
fn policies_that_the_schema_does_not_validate_are_refused() {
    let condition = |condition: &str| {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        PolicySet::parse(&[("p", &text)]).map(|_| ()).map_err(|finding| finding.code)
    };
    let invalid = Err("policy.load.invalid");
    assert_eq!(condition("context.refrence.matched"), invalid, "misspelt attribute");
    assert_eq!(condition(r#"context.assurance == Assurance::"hardwear""#), invalid, "misspelt member");
    assert_eq!(condition("context.snp.vmpl == 0"), invalid, "unguarded optional attribute");
    assert_eq!(condition("context has snp && context.snp.policy.smt"), invalid, "unguarded optional bit");
    assert_eq!(condition("context.now == \"today\""), invalid, "types");
    assert_eq!(condition("context.reference.matched && false"), invalid, "an impossible policy is a warning, refused");
    assert_eq!(condition("context has snp && context.snp has chip_id && context.snp.chip_id == \"aa\""), Ok(()));
    let action = r#"permit (principal, action == Action::"issue", resource) when { context.reference.matched };"#;
    assert_eq!(refused(&[("p", action)]), "policy.load.invalid");
    let slot = r#"permit (principal == ?principal, action, resource) when { context.reference.matched };"#;
    assert_eq!(refused(&[("p", slot)]), "policy.load.template");
    assert_eq!(refused(&[("p", PERMIT), ("p", PERMIT)]), "policy.load.name");
    assert_eq!(refused(&[("../p", PERMIT)]), "policy.load.name");
    assert_eq!(refused(&[("p", &format!("{PERMIT}\n{PERMIT}"))]), "policy.load.name");
    assert_eq!(refused(&[("p", &PERMIT.replace("@id(\"p\")", "@id(\"a b\")"))]), "policy.load.name");
    let long = format!("{}{PERMIT}", " ".repeat(256 * 1024));
    assert_eq!(refused(&[("p", &long)]), "policy.load.size");
    let names: Vec<String> = (0..65).map(|index| format!("p{index}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), PERMIT)).collect();
    assert_eq!(refused(&many), "policy.load.size");
    let crowd = "permit (principal, action, resource) when { context.reference.matched };".repeat(513);
    assert_eq!(refused(&[("p", &crowd)]), "policy.load.size");
}

#[test]
fn every_shipped_policy_loads_and_explains_itself() {
    let set = PolicySet::parse(SHIPPED).unwrap_or_else(|finding| panic!("{finding}"));
    assert_eq!(set.texts().collect::<Vec<_>>(), SHIPPED.to_vec());
    for (name, text) in SHIPPED {
        let policies = text.matches("permit (").count() + text.matches("forbid (").count();
        for annotation in ["@id(", "@reason(", "@remedy("] {
            assert_eq!(text.matches(annotation).count(), policies, "{name}: {annotation}");
        }
    }
}

#[test]
fn the_digest_is_of_names_and_texts_in_any_order() {
    let digest = |texts: &[(&str, &str)]| PolicySet::parse(texts).unwrap().digest();
    let other = PERMIT.replace("\"p\"", "\"q\"");
    let both = digest(&[("a", PERMIT), ("b", &other)]);
    assert_eq!(both, digest(&[("b", &other), ("a", PERMIT)]));
    assert_ne!(both, digest(&[("b", PERMIT), ("a", &other)]));
    assert_ne!(digest(&[("a", PERMIT)]), digest(&[("a", &format!("{PERMIT} "))]));
}

#[test]
fn baseline_grants_known_hardware_and_names_what_granted() {
    let decision = judge(&both_claims(), &golden_both(), &policies(&["baseline"], &[]));
    let grant = decision.grant().unwrap();
    assert_eq!((grant.manifest(), grant.policies()), ("both", ["baseline/known-hardware".to_owned()].as_slice()));
    assert!(grant.notes().is_empty() && decision.findings().is_empty());
    let until = Outcome::Granted { not_after: NOW.plus(300_000), lease_until: NOW.plus(45_000) };
    assert_eq!(decision.outcome(), until);
    assert_eq!(decision.claims_digest(), Some(claims_digest(&both_claims())));
}

#[test]
fn neither_credential_nor_lease_outlives_the_collateral() {
    let policy = policies(&["baseline"], &[]);
    let until = |ms| with_snp(|snp| snp.valid_until = NOW.plus(ms));
    let decision = judge(&until(60_000), &golden_both(), &policy);
    let expected = Outcome::Granted { not_after: NOW.plus(60_000), lease_until: NOW.plus(45_000) };
    assert_eq!(decision.outcome(), expected);
    let decision = judge(&until(1), &golden_both(), &policy);
    assert_eq!(decision.outcome(), Outcome::Granted { not_after: NOW.plus(1), lease_until: NOW.plus(1) });
    assert_eq!(codes(&judge(&until(0), &golden_both(), &policy)), ["policy.claims_expired"]);
}

#[test]
fn a_lease_never_outlives_the_credential() {
    let id = countersign_attestation::protocol::HostId::parse("h").unwrap();
    let labels = BTreeMap::new();
    let host = HostFacts { id: &id, trust_domain: "d", labels: &labels, generation: 0 };
    let terms = Terms { credential_ttl_ms: 1000, lease_ms: 5000 };
    let decision = judge_host(&both_claims(), &host, &golden_both(), &policies(&["baseline"], &[]), terms, NOW);
    let until = NOW.plus(1000);
    assert_eq!(decision.outcome(), Outcome::Granted { not_after: until, lease_until: until });
}

#[test]
fn simulated_hosts_need_a_permit_that_names_the_class() {
    let mut claims = tpm_claims();
    (claims.assurance, claims.tpm.assurance) = (Assurance::Simulated, Assurance::Simulated);
    let references = golden_tpm_only();
    assert_eq!(codes(&judge(&claims, &references, &policies(&["baseline"], &[]))), ["policy.no_permit"]);
    // A permit that says nothing of classes does not admit it, even beside a forbid that names the class.
    let loose = policies(
        &[],
        &[
            ("loose", PERMIT),
            (
                "named",
                r#"forbid (principal, action, resource)
        when { context.tpm.assurance == Assurance::"simulated" && context.generation > 9 };"#,
            ),
        ],
    );
    assert_eq!(codes(&judge(&claims, &references, &loose)), ["policy.simulated_not_named"]);
    assert!(granted(&judge(&tpm_claims(), &references, &loose)));
    // To exclude a class in one place is not to admit it in another.
    let excluding = [
        r#"context.roots.isEmpty() && !(context has snp && context.snp.assurance == Assurance::"simulated")"#,
        r#"(if context has snp then context.snp.assurance != Assurance::"simulated" else true)"#,
        r#"context.reference.matched } unless { context has snp && context.snp.assurance == Assurance::"simulated""#,
    ];
    for condition in excluding {
        let text = format!("permit (principal, action, resource) when {{ context.reference.matched && {condition} }};");
        let excluding = policies(&[], &[("excluding", &text)]);
        assert_eq!(codes(&judge(&claims, &references, &excluding)), ["policy.simulated_not_named"], "{condition}");
    }
    let twice = r#"permit (principal, action, resource)
        when { context.reference.matched && !(context.tpm.assurance != Assurance::"simulated") };"#;
    assert!(granted(&judge(&claims, &references, &policies(&[], &[("twice", twice)]))));
    let decision = judge(&claims, &references, &policies(&["baseline", "simulated"], &[("loose", PERMIT)]));
    assert_eq!(decision.grant().unwrap().policies(), ["simulated/known-simulated"]);
}

#[test]
fn references_must_match_whatever_a_policy_permits() {
    let careless = "permit (principal, action, resource) when { context.tpm.safe };";
    let decision = judge(&tpm_claims(), &golden_both(), &policies(&[], &[("careless", careless)]));
    assert_eq!(codes(&decision), ["reference.snp.not_presented"]);
}

#[test]
fn an_error_while_evaluating_denies_even_when_a_permit_holds() {
    let overflow = r#"@id("overflow") forbid (principal, action, resource)
        when { context.reference.matched && context.now + 9223372036854775807 > 0 };"#;
    let decision = judge(&both_claims(), &golden_both(), &policies(&["baseline"], &[("own", overflow)]));
    assert_eq!(codes(&decision), ["policy.evaluation_error"]);
    assert!(decision.findings()[0].found.contains("own/overflow"), "{}", decision.findings()[0]);
    assert_eq!(decision.findings()[0].for_host().found, None);
    // The same in a permit: another permit holds, and still.
    let decision = judge(
        &both_claims(),
        &golden_both(),
        &policies(&["baseline"], &[("own", &overflow.replace("forbid", "permit"))]),
    );
    assert_eq!(codes(&decision), ["policy.evaluation_error"]);
}

#[test]
fn a_forbid_names_itself_with_its_reason_and_remedy() {
    let decision = judge(&with_snp(|snp| snp.vmpl = 2), &golden_both(), &policies(&["baseline"], &[]));
    assert_eq!(codes(&decision), ["policy.forbidden"]);
    let finding = &decision.findings()[0];
    assert_eq!(finding.found, "forbidden by baseline/guest-kernel-level");
    assert!(finding.expected.contains("VMPL 0") && finding.remedy.contains("guest's kernel"), "{finding:?}");
}

fn overdue() -> Revocation {
    Revocation::Overdue { next_update: UnixMillis(NOW.0 - 1), until: NOW.plus(1) }
}

/// The operator who states a grace admits what is overdue; a policy may refuse it all the same.
#[test]
fn a_policy_may_refuse_what_holds_by_grace_alone() {
    let refuse = r#"
        @id("no-grace") @reason("r") @remedy("m")
        forbid (principal, action == Action::"issueCredential", resource)
        when { (context has snp && context.snp.revocation == Revocation::"overdue")
            || (context has tdx && context.tdx.collateral_overdue) };"#;
    let strict = policies(&["baseline", "simulated"], &[("strict", refuse)]);
    let late = with_snp(|snp| snp.revocation = overdue());
    assert!(granted(&judge(&both_claims(), &golden_both(), &strict)));
    assert!(granted(&judge(&late, &golden_both(), &policies(&["baseline", "simulated"], &[]))));
    assert_eq!(codes(&judge(&late, &golden_both(), &strict)), ["policy.forbidden"]);
}

#[test]
fn confidential_vm_demands_every_proof() {
    let policy = policies(&["baseline", "confidential-vm"], &[]);
    let tpm_and_vm = ReferenceSet::new([
        manifest(&json!({ "id": "both", "tpm": golden_tpm(), "snp": golden_snp(), "acpi": "igvm" })),
        manifest(&json!({ "id": "tpm", "tpm": golden_tpm() })),
    ]);
    assert!(granted(&judge(&both_claims(), &tpm_and_vm, &policy)));
    // No report: the TPM's manifest matches, and the four forbids say what is missing.
    let decision = judge(&tpm_claims(), &tpm_and_vm, &policy);
    assert_eq!(codes(&decision), ["policy.forbidden"; 4]);
    let unchecked = with_snp(|snp| snp.revocation = Revocation::NotPresented);
    let decision = judge(&unchecked, &golden_both(), &policy);
    assert_eq!(decision.findings()[0].found, "forbidden by confidential-vm/revocation-list-checked");
    let no_minimum = ReferenceSet::new([manifest(
        &json!({ "id": "m", "snp": { "measurement": ["4d".repeat(48)] }, "tpm": golden_tpm() }),
    )]);
    let decision = judge(&both_claims(), &no_minimum, &policy);
    assert_eq!(decision.findings()[1].found, "forbidden by confidential-vm/launch-measured");
    assert!(!granted(&judge(&with_snp(|snp| snp.vmpl = 1), &golden_both(), &policy)));
}

#[test]
fn b7_a_milan_report_needs_an_independent_hardware_root() {
    let policy = policies(&["baseline", "simulated", "milan-co-root"], &[]);
    let milan = |change: fn(&mut Claims)| {
        let mut claims = with_snp(|snp| {
            snp.product = AmdProduct::Milan;
            (snp.reported_tcb.microcode, snp.committed_tcb.microcode, snp.launch_tcb.microcode) = (210, 210, 210);
        });
        change(&mut claims);
        claims
    };
    assert!(granted(&judge(&milan(|_| ()), &golden_both(), &policy)));
    // Its TPM is simulated: Milan's is the only hardware root.
    let alone = milan(|claims| {
        (claims.assurance, claims.tpm.assurance) = (Assurance::Simulated, Assurance::Simulated);
    });
    let decision = judge(&alone, &golden_both(), &policy);
    assert_eq!(decision.findings()[0].found, "forbidden by milan-co-root/milan-needs-co-root");
    // A hardware TPM that no reference looks at is no second measurement.
    let vm_only = ReferenceSet::new([manifest(&json!({ "id": "vm", "snp": golden_snp() }))]);
    let decision = judge(&milan(|_| ()), &vm_only, &policy);
    assert_eq!(decision.findings()[0].found, "forbidden by milan-co-root/milan-needs-co-root");
    // Genoa needs neither.
    assert!(granted(&judge(&both_claims(), &vm_only, &policy)));
}

#[test]
fn e21_what_was_not_presented_is_not_a_no() {
    // Written the negative way, as authors do: the strict schema makes them say what absence means.
    let negative = r#"permit (principal, action, resource)
        when { context.reference.matched && !(context has snp && context.snp.platform_info.smt_en) };"#;
    assert_eq!(refused(&[("p", negative)]), "policy.load.invalid");
    let off = policies(
        &[],
        &[(
            "p",
            r"permit (principal, action, resource)
        when { context has snp && context.snp.platform_info has smt_en && !context.snp.platform_info.smt_en };",
        )],
    );
    let smt = |state: Option<bool>| {
        with_snp(|snp| {
            snp.platform_info.remove("smt_en");
            snp.platform_info.extend(state.map(|on| ("smt_en", on)));
        })
    };
    assert!(granted(&judge(&smt(Some(false)), &golden_both(), &off)));
    for claims in [smt(Some(true)), smt(None), tpm_claims()] {
        assert!(!granted(&judge(&claims, &golden_tpm_only(), &off)));
    }
}

#[test]
fn policies_can_allow_listed_chips_labels_hosts_and_times() {
    let listed = |chip: &str| {
        format!(
            r#"permit (principal == Host::"gpu-17", action, resource == TrustDomain::"fleet.example") when {{
                context has snp && context.snp has chip_id && ["{chip}"].contains(context.snp.chip_id) &&
                principal.hasTag("pool") && principal.getTag("pool") == "confidential" && context.generation == 2 &&
                context.now >= 1795408496 && context.tpm.reset_count < 4 && context.tpm.safe &&
                context.tpm.firmware_version_1 == 4294967294 && context.tpm.firmware_version_2 == 7 &&
                context.tpm.pcr_banks.contains("sha256") && context.snp.guest_svn >= 4 &&
                context.snp.signing_key == SigningKey::"vcek" && context.snp.reported_tcb.microcode >= 72 &&
                context.reference has manifest && context.reference.manifest == "both" &&
                context.roots.contains(Root::"amd_genoa") }};"#
        )
    };
    let right = policies(&[], &[("p", &listed(&"c1".repeat(64)))]);
    assert!(granted(&judge(&both_claims(), &golden_both(), &right)));
    let wrong = policies(&[], &[("p", &listed(&"c2".repeat(64)))]);
    assert_eq!(codes(&judge(&both_claims(), &golden_both(), &wrong)), ["policy.no_permit"]);
    // A VLEK report names no chip, so it is on no list.
    let vlek = with_snp(|snp| snp.chip_id = Presented::NotPresented);
    assert!(!granted(&judge(&vlek, &golden_both(), &right)));
    assert!(!granted(&judge_at(&both_claims(), &golden_both(), &right, UnixMillis(1_795_408_495_999))));
}

#[test]
fn a_rejection_is_a_decision_too() {
    let rejection = BindingReason::ALL[0].because("this binder", "another");
    let policy = policies(&["baseline"], &[]);
    let (references, waivers, denials) = (golden_both(), WaiverSet::new([]), DenialSet::new([]));
    let standards = Standards { references: &references, policy: &policy, waivers: &waivers, denials: &denials };
    let decision = Decision::rejected(&rejection, standards, NOW);
    assert_eq!((decision.outcome(), decision.claims_digest(), decision.grant()), (Outcome::Denied, None, None));
    let finding = &decision.findings()[0];
    assert_eq!((finding.code, finding.found.as_str()), (rejection.code(), "another"));
    assert_eq!(decision.references_digest(), golden_both().digest());
    assert_eq!(decision.policy_digest(), policy.digest());
    assert_eq!((decision.waivers_digest(), decision.denials_digest()), (waivers.digest(), denials.digest()));
    assert_eq!(decision.at(), NOW);
}

#[test]
fn identical_inputs_give_identical_bytes_and_every_input_counts() {
    let own = r#"@id("a") forbid (principal, action, resource) when { context.now + 9223372036854775807 > 0 };
        @id("b") forbid (principal, action, resource) when { context.now * 9223372036854775807 > 0 };
        @id("c") forbid (principal, action, resource) when { context.generation > 1 };"#;
    for texts in [vec![], vec![("own", own)]] {
        // Parsed anew each time: the order of hash tables must not show.
        let bytes = || judge(&both_claims(), &golden_both(), &policies(&["baseline"], &texts)).canonical_bytes();
        let first = bytes();
        assert!((0..8).all(|_| bytes() == first));
    }
    let policy = policies(&["baseline"], &[]);
    let base = judge(&both_claims(), &golden_both(), &policy).canonical_bytes();
    let id = countersign_attestation::protocol::HostId::parse("gpu-17").unwrap();
    let labels = BTreeMap::new();
    let host = HostFacts { id: &id, trust_domain: "fleet.example", labels: &labels, generation: 2 };
    let others = [
        judge_at(&both_claims(), &golden_both(), &policy, NOW.plus(1)),
        judge(&with_snp(|snp| snp.guest_svn = 9), &golden_both(), &policy),
        judge(&both_claims(), &golden_tpm_only(), &policy),
        judge(&both_claims(), &golden_both(), &policies(&["baseline", "simulated"], &[])),
        judge_host(&both_claims(), &host, &golden_both(), &policy, TERMS, NOW),
        judge_host(&both_claims(), &host, &golden_both(), &policy, Terms { lease_ms: 1, ..TERMS }, NOW),
    ];
    let mut forms: Vec<_> = others.iter().map(Decision::canonical_bytes).collect();
    forms.push(base);
    forms.sort();
    forms.dedup();
    assert_eq!(forms.len(), 7);
}

#[test]
fn two_proofs_of_one_state_have_one_digest_without_their_moment() {
    let state_digest = |claims: &Claims| claims_digest(&claims.without_moment());
    let base = both_claims();
    let mut again = both_claims();
    again.tpm.clock.clock -= 1;
    let Presented::Verified(snp) = &mut again.snp else { panic!("presented") };
    snp.report_data = HexBytes(vec![9; 64]);
    assert_eq!(state_digest(&again), state_digest(&base));
    assert_ne!(claims_digest(&again), claims_digest(&base));
    let mut restarted = both_claims();
    restarted.tpm.clock.restart_count += 1;
    let mut drifted = both_claims();
    drifted.tpm.pcrs.get_mut(&PcrHash::Sha256).unwrap().get_mut(&0).unwrap().0[0] ^= 1;
    for changed in [restarted, drifted, with_snp(|snp| snp.committed_tcb.snp += 1), tpm_claims()] {
        assert_ne!(state_digest(&changed), state_digest(&base));
    }
}

#[test]
fn cases() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/cases/shipped.json");
    let cases: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    assert!(30 <= cases.len());
    for case in cases {
        let texts = |member: &str| {
            case[member].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect::<Vec<_>>()
        };
        let references = ReferenceSet::new(texts("references").into_iter().map(|name| {
            let mut value = json!({ "id": name });
            if name.contains("tpm") {
                value["tpm"] = golden_tpm();
            }
            if name.contains("snp") {
                value["snp"] = golden_snp();
            }
            if name.contains("tdx") {
                value["tdx"] = golden_tdx();
            }
            if name.contains("acpi") {
                value["acpi"] = "sandboxed".into();
            }
            manifest(&value)
        }));
        let decision = judge(&case_claims(&case["claims"]), &references, &policies(&texts("policies"), &[]));
        let outcome = if granted(&decision) { "granted" } else { "denied" };
        assert_eq!((outcome, codes(&decision)), (case["expect"].as_str().unwrap(), texts("codes")), "{}", case["name"]);
    }
}

/// The standard claims with a case's facts in place of theirs.
fn case_claims(facts: &serde_json::Value) -> Claims {
    let mut claims = both_claims();
    if facts.get("tdx").is_some() {
        claims = domain_claims();
    }
    for (name, value) in facts.as_object().unwrap() {
        let assurance = || serde_json::from_value::<Assurance>(value.clone()).unwrap();
        match name.as_str() {
            "assurance" => claims.assurance = assurance(),
            "tpm.assurance" => claims.tpm.assurance = assurance(),
            "tpm.pcr4" => {
                let bank = claims.tpm.pcrs.get_mut(&PcrHash::Sha256).unwrap();
                bank.insert(4, crate::common::digest(u8::try_from(value.as_u64().unwrap()).unwrap()));
            }
            "snp" if value == "not_presented" => claims.snp = Presented::NotPresented,
            "tdx" if value == "instead" => {}
            name if name.starts_with("tdx.") => tdx_fact(&mut claims, name, value),
            name => {
                let Presented::Verified(snp) = &mut claims.snp else { panic!("{name} without a report") };
                let number = || u8::try_from(value.as_u64().unwrap()).unwrap();
                match name {
                    "snp.product" => snp.product = serde_json::from_value(value.clone()).unwrap(),
                    "snp.vmpl" => snp.vmpl = number().into(),
                    "snp.committed.snp" => snp.committed_tcb.snp = number(),
                    "snp.revocation" if value == "not_presented" => snp.revocation = Revocation::NotPresented,
                    "snp.revocation" if value == "overdue" => snp.revocation = overdue(),
                    _ => panic!("unknown fact {name}"),
                }
            }
        }
    }
    claims
}

fn tdx_fact(claims: &mut Claims, name: &str, value: &serde_json::Value) {
    let Presented::Verified(tdx) = &mut claims.tdx else { panic!("{name} without a quote") };
    match name {
        "tdx.status" => {
            let named = |status: &TcbStatus| value.as_str() == Some(status.name());
            tdx.tcb.status = TcbStatus::ALL.into_iter().find(named).unwrap();
        }
        "tdx.advisories" => tdx.tcb.advisory_ids = serde_json::from_value(value.clone()).unwrap(),
        "tdx.module_svn" => tdx.module.isv_svn = serde_json::from_value(value.clone()).unwrap(),
        "tdx.rtmr2" => tdx.rtmrs[2] = HexBytes(vec![u8::try_from(value.as_u64().unwrap()).unwrap(); 48]),
        "tdx.mr_service_td" => tdx.mr_service_td = serde_json::from_value(value.clone()).unwrap(),
        attribute => {
            let (name, is_set) = (attribute.strip_prefix("tdx.attributes.").unwrap(), value.as_bool().unwrap());
            *tdx.attributes.get_mut(name).unwrap() = is_set;
        }
    }
}

proptest! {
    #[test]
    fn no_report_satisfies_a_policy_that_needs_one(generation in 0u64..=u64::MAX, seconds in 0u64..=u64::MAX / 1000) {
        let policy = policies(&["baseline", "simulated", "confidential-vm"], &[]);
        let id = countersign_attestation::protocol::HostId::parse("h").unwrap();
        let labels = BTreeMap::new();
        let host = HostFacts { id: &id, trust_domain: "d", labels: &labels, generation };
        let now = UnixMillis(seconds * 1000);
        let decision = judge_host(&tpm_claims(), &host, &golden_tpm_only(), &policy, TERMS, now);
        prop_assert_eq!(decision.outcome(), Outcome::Denied);
        prop_assert!(!decision.findings().is_empty());
    }

    #[test]
    fn hostile_policy_text_never_panics(text in "(permit|forbid|when|[(){};.,a-z \"@*]){0,40}") {
        let _ = PolicySet::parse(&[("p", &text)]).is_ok();
    }
}
