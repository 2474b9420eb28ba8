//! Trust domains, paravisors, and what policies may ask of them.

use countersign_attestation::claims::{
    Claims, HexBytes, KeyAuthorization, Presented, RtmrClaims, TdxClaims, TpmIdentity, TpmKind,
};
use countersign_attestation::evidence::paravisor::{HardwareKind, Setting};
use countersign_policies::policy::PolicySet;
use countersign_policies::reference::{ReferenceManifest, ReferenceSet};
use serde_json::{Value, json};

use crate::common::*;

const STRICT: [&str; 2] = ["baseline", "hardware-strict"];

fn domain_manifest(change: impl FnOnce(&mut Value)) -> ReferenceSet {
    let mut tdx = golden_tdx();
    change(&mut tdx);
    ReferenceSet::new([manifest(&json!({ "id": "domain", "tdx": tdx }))])
}

type Change = Box<dyn Fn(&mut TdxClaims)>;

fn first(claims: &Claims, references: &ReferenceSet) -> (String, String, String) {
    let decision = judge(claims, references, &policies(&STRICT, &[]));
    let finding = decision
        .findings()
        .first()
        .map(|finding| (finding.code.to_owned(), finding.expected.clone(), finding.found.clone()));
    finding.unwrap_or_default()
}

fn code(value: &Value) -> &'static str {
    ReferenceManifest::parse(value.to_string().as_bytes())
        .map(|manifest| {
            assert_eq!(ReferenceManifest::parse(&manifest.to_json()), Ok(manifest));
            "accepted"
        })
        .unwrap_or_else(|finding| finding.code)
}

#[test]
fn every_field_of_a_domain_that_a_manifest_names_counts() {
    let hash = |of: &str| json!([of.repeat(48)]);
    let whole = |tdx: &mut Value| {
        for (name, of) in [
            ("mr_seam", "5e"),
            ("mr_signer_seam", "00"),
            ("mr_config_id", "00"),
            ("mr_owner", "00"),
            ("mr_owner_config", "00"),
            ("mr_service_td", "00"),
        ] {
            tdx[name] = hash(of);
        }
        tdx["td_attributes"] = json!(["0000001000000000"]);
        tdx["xfam"] = json!(["e702060000000000"]);
    };
    let references = domain_manifest(whole);
    assert_eq!(first(&domain_claims(), &references).0, "");
    let other = || HexBytes(vec![0xaa; 48]);
    let changes: [(&str, Change); 13] = [
        ("reference.tdx.mr_td", Box::new(move |tdx| tdx.mr_td = other())),
        ("reference.tdx.rtmr", Box::new(move |tdx| tdx.rtmrs[0] = other())),
        ("reference.tdx.rtmr", Box::new(move |tdx| tdx.rtmrs[3] = other())),
        ("reference.tdx.module", Box::new(move |tdx| tdx.mr_seam = other())),
        ("reference.tdx.module", Box::new(move |tdx| tdx.mr_signer_seam = other())),
        ("reference.tdx.configuration", Box::new(move |tdx| tdx.mr_config_id = other())),
        ("reference.tdx.configuration", Box::new(move |tdx| tdx.mr_owner = other())),
        ("reference.tdx.configuration", Box::new(move |tdx| tdx.mr_owner_config = other())),
        ("reference.tdx.service_td", Box::new(move |tdx| tdx.mr_service_td = Some(other()))),
        ("reference.tdx.service_td", Box::new(|tdx| tdx.mr_service_td = None)),
        ("reference.tdx.attributes", Box::new(|tdx| tdx.td_attributes.0[0] = 2)),
        ("reference.tdx.attributes", Box::new(|tdx| tdx.xfam.0[0] = 3)),
        ("reference.tdx.module", Box::new(|tdx| tdx.module.id = "TDX_02".into())),
    ];
    for (code, change) in changes {
        let (found, expected, _) = first(&with_tdx(|tdx| change(tdx)), &references);
        assert_eq!(found, code);
        assert!(expected.contains("(manifest domain)"), "{expected}");
    }
    let (code, _, found) = first(&tpm_claims(), &references);
    assert_eq!((code.as_str(), found.as_str()), ("reference.tdx.not_presented", "not presented"));
    let (_, expected, found) = first(&with_tdx(|tdx| tdx.mr_service_td = None), &references);
    assert!(expected.starts_with("MR_SERVICETD 00") && found == "MR_SERVICETD not reported", "{expected} {found}");
}

#[test]
fn c9_a_module_below_the_minimum_and_service_tds_are_denied() {
    let references = golden_domain();
    let svn = |id: &'static str, isv_svn: u8| {
        with_tdx(|tdx| {
            tdx.module.id = id.into();
            tdx.module.isv_svn = isv_svn;
        })
    };
    assert_eq!(first(&svn("TDX_01", 5), &references).0, "");
    assert_eq!(first(&svn("TDX_03", 3), &references).0, "");
    let (code, expected, found) = first(&svn("TDX_01", 4), &references);
    assert_eq!(code, "reference.tdx.module_svn");
    assert_eq!((expected.as_str(), found.as_str()), ("TDX_01 SVN at least 5 (manifest domain)", "TDX_01 SVN 4"));
    assert_eq!(first(&svn("TDX_03", 2), &references).0, "reference.tdx.module_svn", "each module has its own");
    assert_eq!(first(&svn("tdxModule", 9), &references).0, "reference.tdx.module", "no minimum is no permission");
    let bound = with_tdx(|tdx| tdx.mr_service_td = Some(HexBytes(vec![1; 48])));
    let migratable = with_tdx(|tdx| *tdx.attributes.get_mut("migratable").unwrap() = true);
    for claims in [&bound, &migratable] {
        assert_eq!(first(claims, &references).0, "policy.forbidden");
        // Where a policy names it: that of the fleet that migrates its TDs, in place of the strict one.
        let own = r#"@id("own") forbid (principal, action, resource) when { context has tdx }
            unless { context.tdx.attributes.migratable || context.tdx.service_td == ServiceTd::"bound" };"#;
        assert_eq!(codes(&judge(claims, &references, &policies(&["baseline"], &[("own", own)]))), [] as [&str; 0]);
    }
}

#[test]
fn c5_what_the_host_could_do_to_a_domain_is_denied_by_default() {
    for (attribute, value) in [
        ("migratable", true),
        ("servtd_ext", true),
        ("sept_ve_disable", false),
        ("hgs_plus_prof", true),
        ("perf_prof", true),
        ("pmt_prof", true),
        ("reserved", true),
    ] {
        let claims = with_tdx(|tdx| *tdx.attributes.get_mut(attribute).unwrap() = value);
        let decision = judge(&claims, &golden_domain(), &policies(&STRICT, &[]));
        assert_eq!(codes(&decision), ["policy.forbidden"], "{attribute}");
        assert!(decision.findings()[0].found.starts_with("forbidden by hardware-strict/tdx-"), "{attribute}");
    }
    // An attribute that claims lack cannot be judged, and what cannot be judged is denied.
    let unnamed = with_tdx(|tdx| {
        tdx.attributes.remove("migratable");
    });
    assert_eq!(codes(&judge(&unnamed, &golden_domain(), &policies(&STRICT, &[])))[0], "policy.evaluation_error");
}

#[test]
fn malformed_sections_of_domains_and_paravisors_do_not_load() {
    let tdx = |change: fn(&mut Value)| {
        let mut tdx = golden_tdx();
        change(&mut tdx);
        code(&json!({ "id": "d", "tdx": tdx }))
    };
    assert_eq!(tdx(|_| {}), "accepted");
    assert_eq!(tdx(|tdx| tdx["boot"] = json!({ "secure_boot": "on" })), "accepted");
    assert_eq!(tdx(|tdx| drop(tdx.as_object_mut().unwrap().remove("mr_td"))), "reference.manifest.syntax");
    assert_eq!(tdx(|tdx| tdx["mrtd"] = json!([])), "reference.manifest.syntax");
    assert_eq!(tdx(|tdx| tdx["xfam"] = json!(null)), "reference.manifest.syntax");
    assert_eq!(tdx(|tdx| tdx["xfam"] = json!([])), "reference.values.empty");
    assert_eq!(tdx(|tdx| tdx["xfam"] = json!(["e7"])), "reference.value.malformed");
    assert_eq!(tdx(|tdx| tdx["rtmr2"] = json!(["zz".repeat(48)])), "reference.value.malformed");
    for measured in ["mr_td", "rtmr0", "rtmr1", "mr_seam"] {
        let mut tdx = golden_tdx();
        tdx[measured] = json!(["00".repeat(48)]);
        assert_eq!(code(&json!({ "id": "d", "tdx": tdx })), "reference.value.zero", "{measured}");
    }
    assert_eq!(tdx(|tdx| tdx["min_module_svn"] = json!({})), "reference.manifest.empty");
    assert_eq!(tdx(|tdx| tdx["min_module_svn"] = json!({ "TDX_1": 5 })), "reference.manifest.syntax");
    assert_eq!(tdx(|tdx| tdx["min_module_svn"] = json!({ "tdx_01": 5 })), "reference.manifest.syntax");
    assert_eq!(tdx(|tdx| tdx["boot"] = json!({})), "reference.manifest.empty");
    let paravisor = |paravisor: Value| code(&json!({ "id": "p", "tpm": golden_tpm(), "paravisor": paravisor }));
    assert_eq!(paravisor(json!({ "hardware": "snp" })), "accepted");
    assert_eq!(
        paravisor(json!({ "hardware": "snp", "vm_configuration": { "a": true, "b": 4, "c": "d" } })),
        "accepted"
    );
    assert_eq!(paravisor(json!({ "hardware": "any" })), "reference.manifest.syntax");
    assert_eq!(paravisor(json!({})), "reference.manifest.syntax");
    assert_eq!(paravisor(json!({ "hardware": "snp", "vm_ids": [] })), "reference.values.empty");
    assert_eq!(paravisor(json!({ "hardware": "snp", "vm_ids": [""] })), "reference.values.empty");
    assert_eq!(paravisor(json!({ "hardware": "snp", "vm_configuration": {} })), "reference.values.empty");
    assert_eq!(paravisor(json!({ "hardware": "snp", "vm_configuration": { "a": null } })), "reference.manifest.syntax");
    let alone = json!({ "id": "p", "paravisor": { "hardware": "snp" } });
    assert_eq!(code(&alone), "reference.manifest.empty", "it says nothing of what runs");
    let acpi = |acpi: Value| code(&json!({ "id": "p", "tpm": golden_tpm(), "acpi": acpi }));
    assert_eq!((acpi(json!("measured")), acpi(json!("trusted"))), ("accepted", "reference.acpi"));
    assert_eq!(code(&json!({ "id": "p", "acpi": "measured" })), "reference.manifest.empty", "it compares nothing");
}

#[test]
fn a_domains_own_log_is_compared_with_its_own_values() {
    let references = domain_manifest(|tdx| {
        tdx["boot"] = json!({ "secure_boot": "on", "command_lines": ["ro quiet"] });
    });
    let (code, _, found) = first(&domain_claims(), &references);
    assert_eq!((code.as_str(), found.as_str()), ("reference.tdx.log_not_presented", "not presented"));
    // The TPM's log is another one.
    let other = Claims { boot: Presented::Verified(boot_claims()), ..domain_claims() };
    assert_eq!(first(&other, &references).0, "reference.tdx.log_not_presented");
    let logged = |change: fn(&mut RtmrClaims)| {
        let mut rtmr = rtmr_claims();
        change(&mut rtmr);
        Claims { rtmr: Presented::Verified(rtmr), ..domain_claims() }
    };
    assert_eq!(first(&logged(|_| {}), &references).0, "");
    let off = logged(|rtmr| {
        rtmr.boot.secure_boot = countersign_attestation::evidence::eventlog::claims::SecureBoot::Off;
    });
    assert_eq!(first(&off, &references).0, "reference.boot.secure_boot");
    let unexplained = r#"@id("own") forbid (principal, action, resource)
        unless { context has rtmr && context.rtmr.unexplained.isEmpty() && context.rtmr.replayed.contains(2) };"#;
    let policy = policies(&STRICT, &[("own", unexplained)]);
    assert_eq!(codes(&judge(&logged(|_| {}), &references, &policy)), [] as [&str; 0]);
    let gap = logged(|rtmr| {
        rtmr.unexplained.insert(2);
    });
    assert_eq!(codes(&judge(&gap, &references, &policy)), ["policy.forbidden"]);
    assert_eq!(codes(&judge(&domain_claims(), &golden_domain(), &policy)), ["policy.forbidden"]);
}

#[test]
fn a_paravisors_word_is_compared_name_by_name() {
    let references = |paravisor: Value| {
        ReferenceSet::new([manifest(&json!({ "id": "azure", "snp": golden_snp(), "paravisor": paravisor }))])
    };
    let claims = Claims { paravisor: Presented::Verified(paravisor_claims()), ..both_claims() };
    let settings = |settings: Value| references(json!({ "hardware": "snp", "vm_configuration": settings }));
    assert_eq!(first(&claims, &settings(json!({ "secure-boot": true, "cores": 4 }))).0, "");
    for (setting, found) in [
        (json!({ "secure-boot": false }), "secure-boot true"),
        (json!({ "secure-boot": "true" }), "secure-boot true"),
        (json!({ "tpm-enabled": true }), "tpm-enabled not set"),
        (json!({ "filtered-vpci-devices-allowed": false }), "filtered-vpci-devices-allowed not set"),
    ] {
        let (code, _, shown) = first(&claims, &settings(setting));
        assert_eq!((code.as_str(), shown.as_str()), ("reference.paravisor.setting", found));
    }
    assert_eq!(first(&claims, &references(json!({ "hardware": "tdx" }))).0, "reference.paravisor.hardware");
    assert_eq!(first(&claims, &references(json!({ "hardware": "snp", "vm_ids": ["8C2F0B1E"] }))).0, "");
    assert_eq!(first(&claims, &references(json!({ "hardware": "snp", "vm_ids": ["x"] }))).0, "reference.paravisor.vm");
    assert_eq!(first(&both_claims(), &settings(json!({ "cores": 4 }))).0, "reference.paravisor.not_presented");
    let own = r#"@id("own") forbid (principal, action, resource) unless {
        context has paravisor && context.paravisor.hardware == ParavisorHardware::"snp" &&
        context.paravisor.configuration.containsAll(["secure-boot=true", "console-enabled=false"]) };"#;
    let policy = policies(&STRICT, &[("own", own)]);
    assert_eq!(codes(&judge(&claims, &golden_both(), &policy)), [] as [&str; 0]);
    let mut console = paravisor_claims();
    console.vm_configuration.insert("console-enabled".into(), Setting::Flag(true));
    let console = Claims { paravisor: Presented::Verified(console), ..both_claims() };
    assert_eq!(codes(&judge(&console, &golden_both(), &policy)), ["policy.forbidden"]);
}

#[test]
fn b7_a_vtpm_that_hangs_on_the_same_report_is_no_second_root() {
    let references = ReferenceSet::new([manifest(&json!({ "id": "m", "tpm": golden_tpm(), "snp": {
        "measurement": ["4d".repeat(48)],
    }}))]);
    let policy = policies(&["baseline", "milan-co-root"], &[]);
    let milan = |identity: TpmIdentity, hardware: Option<HardwareKind>| {
        let mut claims = with_snp(|snp| snp.product = countersign_attestation::anchor::AmdProduct::Milan);
        claims.tpm.identity = identity;
        if let Some(hardware) = hardware {
            let mut paravisor = paravisor_claims();
            paravisor.hardware = hardware;
            claims.paravisor = Presented::Verified(paravisor);
        }
        codes(&judge(&claims, &references, &policy))
    };
    let named = |vendor: &str, model: &str| TpmIdentity::from_attributes(vendor, model, "id:1");
    assert_eq!(milan(named("GOOG", "vTPM"), None), [] as [&str; 0], "a cloud's own root");
    assert_eq!(milan(named("MSFT", "vTPM"), None), ["policy.forbidden"], "it may be a paravisor's: not said is not no");
    assert_eq!(milan(named("VMW", "VMware TPM2"), None), ["policy.forbidden"]);
    for kind in TpmKind::ALL {
        assert_eq!(
            milan(TpmIdentity::unnamed(kind), Some(HardwareKind::Snp)),
            ["policy.forbidden"],
            "{kind}: the report vouches for its key"
        );
    }
    // On another generation such a host is granted: the processor's root is a hardware vendor's.
    let mut genoa = both_claims();
    genoa.paravisor = Presented::Verified(paravisor_claims());
    assert_eq!(codes(&judge(&genoa, &golden_both(), &policy)), [] as [&str; 0]);
    let own = r#"@id("own") forbid (principal, action, resource) unless { context.roots.contains(Root::"tpm") };"#;
    let policy = policies(&["baseline"], &[("own", own)]);
    assert_eq!(codes(&judge(&genoa, &golden_both(), &policy)), ["policy.forbidden"], "and not the TPM's");
}

#[test]
fn b9_a_manifest_that_says_nothing_of_acpi_is_denied_under_a_strict_policy() {
    let vm = |acpi: Option<&str>| {
        let mut value = json!({ "id": "vm", "snp": golden_snp() });
        if let Some(acpi) = acpi {
            value["acpi"] = acpi.into();
        }
        let policy = policies(&["baseline", "confidential-vm"], &[]);
        judge(&both_claims(), &ReferenceSet::new([manifest(&value)]), &policy)
    };
    for acpi in ["measured", "igvm", "sandboxed"] {
        assert_eq!(codes(&vm(Some(acpi))), [] as [&str; 0], "{acpi}");
    }
    let denied = vm(None);
    assert_eq!(codes(&denied), ["policy.forbidden"]);
    assert_eq!(denied.findings()[0].found, "forbidden by confidential-vm/acpi-accounted-for");
    let policy = policies(&["baseline", "hardware-strict", "confidential-tdx"], &[]);
    assert_eq!(codes(&judge(&domain_claims(), &golden_domain(), &policy)), [] as [&str; 0]);
    let unsaid = ReferenceSet::new([manifest(&json!({ "id": "domain", "tdx": golden_tdx() }))]);
    let denied = judge(&domain_claims(), &unsaid, &policy);
    assert_eq!(denied.findings()[0].found, "forbidden by confidential-tdx/acpi-accounted-for");
    let only_igvm = r#"@id("own") forbid (principal, action, resource)
        unless { context.reference has acpi && context.reference.acpi == Acpi::"igvm" };"#;
    let policy = policies(&["baseline"], &[("own", only_igvm)]);
    assert_eq!(codes(&judge(&both_claims(), &golden_both(), &policy)), ["policy.forbidden"]);
}

#[test]
fn b7_policies_name_platforms_of_intel_by_fmspc_ppid_and_collateral() {
    let decide = |condition: &str| {
        let text =
            format!(r#"@id("own") forbid (principal, action, resource) unless {{ context has tdx && {condition} }};"#);
        codes(&judge(&domain_claims(), &golden_domain(), &policies(&STRICT, &[("own", &text)])))
    };
    let ppid = "99".repeat(16);
    for holds in [
        r#"["00806f050000", "90c06f000000"].contains(context.tdx.fmspc)"#.to_owned(),
        format!(r#"["{ppid}"].contains(context.tdx.ppid)"#),
        format!(r#"context.tdx has platform_instance_id && context.tdx.platform_instance_id == "{}""#, "98".repeat(16)),
        "context.tdx.evaluation_data_number >= 18 && context.tdx.qe_evaluation_data_number >= 17".to_owned(),
        "context.now - context.tdx.tcb_date < 31536000".to_owned(),
        r#"context.tdx.qe_tcb_status == TcbStatus::"UpToDate" && context.tdx.advisories.isEmpty()"#.to_owned(),
        r#"context.tdx.body == TdxBody::"td15" && context.tdx.module.isv_svn >= 5"#.to_owned(),
        r#"context.roots.containsAll([Root::"tpm", Root::"intel"])"#.to_owned(),
    ] {
        assert_eq!(decide(&holds), [] as [&str; 0], "{holds}");
    }
    for fails in [
        r#"["90c06f000000"].contains(context.tdx.fmspc)"#,
        "context.tdx.evaluation_data_number >= 19",
        r#"context.tdx.body == TdxBody::"td10""#,
    ] {
        assert_eq!(decide(fails), ["policy.forbidden"], "{fails}");
    }
    let misspelt = r#"forbid (principal, action, resource)
        when { context has tdx && context.tdx.tcb_status == TcbStatus::"upToDate" };"#;
    let permit = r"permit (principal, action, resource) when { context.reference.matched };";
    let refused = PolicySet::parse(&[("a", permit), ("p", misspelt)]).unwrap_err();
    assert_eq!(refused.code, "policy.load.invalid", "C6: statuses are a closed set");
}

#[test]
fn a_policy_may_ask_how_the_credential_key_was_made() {
    let sealed = r#"@id("own") forbid (principal, action, resource) unless {
        context.tpm.credential_key.authorization == KeyAuthorization::"policy" &&
        context.tpm.credential_key has creation &&
        context.tpm.credential_key.creation.pcrs.containsAll([0, 4, 7]) };"#;
    let policy = policies(&["baseline"], &[("own", sealed)]);
    let mut claims = tpm_claims();
    assert_eq!(codes(&judge(&claims, &golden_tpm_only(), &policy)), ["policy.forbidden"], "whoever has the password");
    claims.tpm.credential_key.authorization = KeyAuthorization::Policy(digest(3));
    assert_eq!(codes(&judge(&claims, &golden_tpm_only(), &policy)), ["policy.forbidden"], "made nobody knows when");
    claims.tpm.credential_key.creation = Presented::Verified(creation_claims());
    assert_eq!(codes(&judge(&claims, &golden_tpm_only(), &policy)), [] as [&str; 0]);
    let digest = format!(
        r#"@id("own") forbid (principal, action, resource) unless {{ context.tpm.credential_key has auth_policy &&
            context.tpm.credential_key.auth_policy == "{}" }};"#,
        "04".repeat(32)
    );
    let policy = policies(&["baseline"], &[("own", &digest)]);
    assert_eq!(codes(&judge(&claims, &golden_tpm_only(), &policy)), ["policy.forbidden"]);
}

#[test]
fn neither_credential_nor_lease_outlives_intels_collateral() {
    let claims = with_tdx(|tdx| tdx.valid_until = NOW.plus(1000));
    let decision = judge(&claims, &golden_domain(), &policies(&STRICT, &[]));
    let until = NOW.plus(1000);
    let granted = countersign_policies::decision::Outcome::Granted { not_after: until, lease_until: until };
    assert_eq!(decision.outcome(), granted);
    let ended = with_tdx(|tdx| tdx.valid_until = NOW);
    assert_eq!(codes(&judge(&ended, &golden_domain(), &policies(&STRICT, &[]))), ["policy.claims_expired"]);
    // Of several collaterals the one that ends first counts.
    let both = |snp: u64, tdx: u64| {
        let mut claims = with_tdx(|claims| claims.valid_until = NOW.plus(tdx));
        claims.snp = with_snp(|claims| claims.valid_until = NOW.plus(snp)).snp;
        judge(&claims, &golden_domain(), &policies(&STRICT, &[])).outcome()
    };
    assert_eq!((both(1000, 2000), both(2000, 1000)), (granted, granted));
}
