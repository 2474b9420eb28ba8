//! Manifests that load, manifests that do not, and what matching means.

use crate::common::{
    NOW, both_claims, codes, digest, golden_both, golden_snp, golden_tpm, golden_tpm_only, judge, manifest, policies,
    snp_claims, tcb, tpm_claims, with_snp,
};
use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::claims::{Claims, PcrHash, Presented};
use countersign_attestation::digest::Sha256Digest;
use countersign_policies::decision::Outcome;
use countersign_policies::matching::{ImaTallies, ReferenceMatch};
use countersign_policies::reference::{ReferenceManifest, ReferenceSet};
use countersign_policies::waiver::Accepted;
use proptest::prelude::*;
use serde_json::{Value, json};

fn refused(text: &str) -> &'static str {
    ReferenceManifest::parse(text.as_bytes()).map(|manifest| manifest.id().to_owned()).unwrap_err().code
}

fn code(manifest: &Value) -> &'static str {
    refused(&manifest.to_string())
}

/// Rules that any list of the test passes.
fn ima_rules() -> Value {
    json!({ "files": { "/usr/bin/tool": [format!("sha256:{HEX}")] } })
}

fn matches(references: &ReferenceSet, claims: &Claims) -> bool {
    matches!(references.match_claims(claims, &ImaTallies::new(), &Accepted::nothing(), NOW), ReferenceMatch::Matched(_))
}

fn tpm_manifest(pcrs: &Value) -> String {
    json!({ "id": "m", "tpm": { "pcrs": pcrs } }).to_string()
}

const HEX: &str = "1111111111111111111111111111111111111111111111111111111111111111";

#[test]
fn a22_an_empty_reference_is_a_load_error() {
    assert_eq!(refused("{}"), "reference.manifest.syntax");
    assert_eq!(refused(r#"{"id":"m"}"#), "reference.manifest.empty");
    assert_eq!(refused(r#"{"id":"m","tpm":{"pcrs":{}}}"#), "reference.manifest.empty");
    assert_eq!(refused(r#"{"id":"m","tpm":{"pcrs":{"sha256":{}}}}"#), "reference.manifest.empty");
    assert_eq!(refused(r#"{"id":"m","tpm":{"pcrs":{"sha256":{"0":[]}}}}"#), "reference.values.empty");
    assert_eq!(refused(r#"{"id":"m","snp":{"measurement":[]}}"#), "reference.values.empty");
    let mut snp = golden_snp();
    snp["host_data"] = json!([]);
    assert_eq!(refused(&json!({ "id": "m", "snp": snp }).to_string()), "reference.values.empty");
    let mut snp = golden_snp();
    snp["min_tcb"] = json!({});
    assert_eq!(refused(&json!({ "id": "m", "snp": snp }).to_string()), "reference.manifest.empty");
    // Values of null are not "absent".
    assert_eq!(refused(&format!(r#"{{"id":"m","snp":null,"tpm":{}}}"#, golden_tpm())), "reference.manifest.syntax");
}

#[test]
fn a22_an_empty_reference_set_matches_nobody() {
    let empty = ReferenceSet::new([]);
    let decision = judge(&both_claims(), &empty, &policies(&["baseline"], &[]));
    assert_eq!(decision.outcome(), Outcome::Denied);
    assert_eq!(codes(&decision), ["reference.none", "policy.no_permit"]);
}

#[test]
fn a15_a_manifest_that_names_a_resettable_pcr_does_not_load() {
    for index in ["16", "23"] {
        assert_eq!(refused(&tpm_manifest(&json!({ "sha256": { index: [HEX] } }))), "reference.pcr.resettable");
    }
    for index in ["15", "17", "22"] {
        let text = tpm_manifest(&json!({ "sha256": { index: [HEX] } }));
        assert!(ReferenceManifest::parse(text.as_bytes()).is_ok(), "{index}");
    }
}

#[test]
fn a14_zero_golden_values_for_firmware_pcrs_do_not_load() {
    let zero = "0".repeat(64);
    for index in ["0", "7"] {
        let text = tpm_manifest(&json!({ "sha256": { index: [HEX, zero] } }));
        assert_eq!(refused(&text), "reference.value.zero");
    }
    let text = tpm_manifest(&json!({ "sha256": { "8": [zero] } }));
    assert!(ReferenceManifest::parse(text.as_bytes()).is_ok(), "nothing need be measured into PCR 8");
    let text = json!({ "id": "m", "snp": { "measurement": ["00".repeat(48)] } }).to_string();
    assert_eq!(refused(&text), "reference.value.zero");
}

#[test]
fn a14_a_quote_of_an_unextended_bank_is_denied() {
    let mut claims = tpm_claims();
    let zero = (0..8).map(|index| (index, countersign_attestation::claims::HexBytes(vec![0; 48]))).collect();
    claims.tpm.pcrs.insert(PcrHash::Sha384, zero);
    // The sha256 bank matches, and is not enough.
    let decision = judge(&claims, &golden_tpm_only(), &policies(&["baseline"], &[]));
    assert_eq!(codes(&decision), ["reference.pcr_bank_unextended"]);
    // One measured PCR, and the bank is only unjudged.
    claims.tpm.pcrs.get_mut(&PcrHash::Sha384).unwrap().get_mut(&7).unwrap().0[0] = 1;
    let decision = judge(&claims, &golden_tpm_only(), &policies(&["baseline"], &[]));
    let grant = decision.grant().unwrap();
    assert_eq!(grant.notes()[0].code, "reference.pcr_unjudged");
    assert!(grant.notes()[0].found.contains("sha384:7"), "{}", grant.notes()[0]);
}

#[test]
fn malformed_manifests_are_refused_with_their_reason() {
    let pcrs = |bank: &str, index: &str, value: &str| tpm_manifest(&json!({ bank: { index: [value] } }));
    for (text, code) in [
        (pcrs("sha1", "0", &"11".repeat(20)), "reference.bank.sha1"),
        (pcrs("sm3_256", "0", HEX), "reference.bank.unknown"),
        (pcrs("SHA256", "0", HEX), "reference.bank.unknown"),
        (pcrs("sha256", "24", HEX), "reference.pcr.index"),
        (pcrs("sha256", "00", HEX), "reference.pcr.index"),
        (pcrs("sha256", "+1", HEX), "reference.pcr.index"),
        (pcrs("sha256", "-1", HEX), "reference.pcr.index"),
        (pcrs("sha256", "0", &"11".repeat(31)), "reference.value.malformed"),
        (pcrs("sha256", "0", &format!("{HEX}11")), "reference.value.malformed"),
        (pcrs("sha384", "0", HEX), "reference.value.malformed"),
        (pcrs("sha256", "0", &format!("0x{}", "11".repeat(31))), "reference.value.malformed"),
        (pcrs("sha256", "0", "*"), "reference.value.malformed"),
        (pcrs("sha256", "0", ""), "reference.value.malformed"),
        (json!({ "id": "../etc", "tpm": golden_tpm() }).to_string(), "reference.manifest.id"),
        (json!({ "id": "", "tpm": golden_tpm() }).to_string(), "reference.manifest.id"),
        (json!({ "id": "*", "tpm": golden_tpm() }).to_string(), "reference.manifest.id"),
        (json!({ "id": "m", "tpm": golden_tpm(), "allow_all": true }).to_string(), "reference.manifest.syntax"),
        (format!(r#"{{"id":"m","tpm":{}}} x"#, golden_tpm()), "reference.manifest.syntax"),
        (tpm_manifest(&json!({ "sha256": { "0": vec![HEX; 257] } })), "reference.values.size"),
        (format!("{}{}", " ".repeat(8 * 1024 * 1024), tpm_manifest(&json!({}))), "reference.manifest.size"),
    ] {
        assert_eq!(refused(&text), code, "{}", text.chars().take(200).collect::<String>());
    }
}

#[test]
fn members_that_appear_twice_are_refused() {
    for text in [
        format!(r#"{{"id":"a","id":"b","tpm":{}}}"#, golden_tpm()),
        format!(r#"{{"id":"m","tpm":{{"pcrs":{{"sha256":{{"0":["{HEX}"],"0":["{HEX}"]}}}}}}}}"#),
        format!(r#"{{"id":"m","tpm":{{"pcrs":{{"sha256":{{"0":["{HEX}"]}},"sha256":{{"1":["{HEX}"]}}}}}}}}"#),
        format!(
            r#"{{"id":"m","snp":{{"measurement":["{}"],"min_tcb":{{"milan":{{"bootloader":1,"tee":1,"snp":1,
            "microcode":1}},"milan":{{"bootloader":0,"tee":0,"snp":0,"microcode":0}}}}}}}}"#,
            "11".repeat(48)
        ),
    ] {
        assert_eq!(refused(&text), "reference.manifest.syntax", "{text}");
    }
}

#[test]
fn min_tcb_names_the_components_its_product_has() {
    let with = |minimum: Value| {
        let mut snp = golden_snp();
        snp["min_tcb"] = minimum;
        json!({ "id": "m", "snp": snp }).to_string()
    };
    let four = json!({ "bootloader": 1, "tee": 0, "snp": 3, "microcode": 4 });
    let five = json!({ "bootloader": 1, "tee": 0, "snp": 3, "microcode": 4, "fmc": 1 });
    assert_eq!(refused(&with(json!({ "turin": four }))), "reference.min_tcb.fmc");
    assert_eq!(refused(&with(json!({ "genoa": five }))), "reference.min_tcb.fmc");
    assert_eq!(refused(&with(json!({ "venice": five }))), "reference.manifest.syntax");
    assert_eq!(refused(&with(json!({ "milan": { "bootloader": 1 } }))), "reference.manifest.syntax");
    assert_eq!(
        refused(&with(json!({ "milan": { "bootloader": 256, "tee": 0, "snp": 3, "microcode": 4 } }))),
        "reference.manifest.syntax"
    );
    assert!(ReferenceManifest::parse(with(json!({ "turin": five, "milan": four })).as_bytes()).is_ok());
}

#[test]
fn the_canonical_form_reads_back_and_digests_tell_sets_apart() {
    let upper = json!({ "snp": golden_snp(), "tpm": golden_tpm(), "description": "as written", "id": "both" });
    let first = manifest(&upper);
    let again = ReferenceManifest::parse(&first.to_json()).unwrap();
    assert_eq!((&again, again.digest(), again.to_json()), (&first, first.digest(), first.to_json()));
    assert_eq!(first.description(), "as written");
    let spelled = upper.to_string().replace("4d4d", "4D4D");
    assert_eq!(ReferenceManifest::parse(spelled.as_bytes()).unwrap().digest(), first.digest());

    let other = manifest(&json!({ "id": "other", "tpm": golden_tpm() }));
    let set = ReferenceSet::new([first.clone(), other.clone()]);
    assert_eq!(set.digest(), ReferenceSet::new([other.clone(), first.clone()]).digest(), "order does not matter");
    let digests = [set, ReferenceSet::new([first]), ReferenceSet::new([other]), ReferenceSet::new([])];
    let distinct: std::collections::BTreeSet<Sha256Digest> = digests.iter().map(ReferenceSet::digest).collect();
    assert_eq!(distinct.len(), 4);
}

#[test]
fn the_selection_is_the_union_in_canonical_order() {
    let select = |set: &ReferenceSet| {
        set.pcr_selection().iter().map(|one| (one.bank.name(), one.pcrs.clone())).collect::<Vec<_>>()
    };
    let set = ReferenceSet::new([
        manifest(
            &json!({ "id": "a", "tpm": { "pcrs": { "sha384": { "7": ["11".repeat(48)] }, "sha256": { "14": [HEX] } } } }),
        ),
        manifest(&json!({ "id": "b", "tpm": { "pcrs": { "sha256": { "2": [HEX], "10": [HEX] } } } })),
        manifest(&json!({ "id": "c", "snp": golden_snp() })),
    ]);
    assert_eq!(select(&set), [("sha256", vec![2, 10, 14]), ("sha384", vec![7])]);
    let first = [("sha256", vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14])];
    assert_eq!(select(&ReferenceSet::new([])), first);
    assert_eq!(select(&ReferenceSet::new([manifest(&json!({ "id": "c", "snp": golden_snp() }))])), first);
}

#[test]
fn the_selection_has_what_boot_values_and_ima_rules_need_and_no_more() {
    let pcrs = |text: &Value| {
        let set = ReferenceSet::new([manifest(text)]);
        set.pcr_selection().iter().map(|one| (one.bank.name(), one.pcrs.clone())).collect::<Vec<_>>()
    };
    let boot = |boot: Value| pcrs(&json!({ "id": "a", "boot": boot }));
    assert_eq!(boot(json!({ "secure_boot": "on" })), [("sha256", vec![0, 7])]);
    assert_eq!(boot(json!({ "dbx": [HEX] })), [("sha256", vec![0, 7])]);
    assert_eq!(boot(json!({ "mok": [HEX] })), [("sha256", vec![0, 14])]);
    assert_eq!(boot(json!({ "images": [HEX] })), [("sha256", vec![0, 2, 4])]);
    assert_eq!(boot(json!({ "files": [HEX] })), [("sha256", vec![0, 9])]);
    assert_eq!(boot(json!({ "uki": { ".linux": [HEX] } })), [("sha256", vec![0, 11])]);
    assert_eq!(boot(json!({ "command_lines": ["ro quiet"] })), [("sha256", vec![0, 8, 9, 12])]);
    // In a bank that the manifest names already.
    let tpm = json!({ "pcrs": { "sha384": { "4": ["11".repeat(48)] } } });
    assert_eq!(pcrs(&json!({ "id": "a", "tpm": tpm, "boot": { "secure_boot": "on" } })), [("sha384", vec![0, 4, 7])]);
    assert_eq!(
        pcrs(&json!({ "id": "a", "tpm": tpm, "ima": { "rules": ima_rules() } })),
        [("sha384", (0..=10).collect())]
    );
}

#[test]
fn a22_empty_boot_values_and_ima_rules_that_stand_alone_do_not_load() {
    let boot = |boot: Value| code(&json!({ "id": "a", "boot": boot }));
    assert_eq!(boot(json!({})), "reference.manifest.empty");
    for member in ["pk", "kek", "db", "dbx", "authorities", "mok", "images", "files", "initrds"] {
        assert_eq!(boot(json!({ member: [] })), "reference.values.empty", "{member}");
        assert_eq!(boot(json!({ member: ["11".repeat(31)] })), "reference.value.malformed", "{member}");
        assert_eq!(boot(json!({ member: ["00".repeat(32)] })), "reference.value.zero", "{member}");
        assert_eq!(boot(json!({ member: null })), "reference.manifest.syntax", "{member}");
    }
    assert_eq!(boot(json!({ "uki": {} })), "reference.manifest.empty");
    assert_eq!(boot(json!({ "uki": { ".linux": [] } })), "reference.values.empty");
    assert_eq!(boot(json!({ "secure_boot": "unknown" })), "reference.manifest.syntax");
    assert_eq!(boot(json!({ "secure_boot": true })), "reference.manifest.syntax");
    assert_eq!(boot(json!({ "secureboot": "on" })), "reference.manifest.syntax");
    assert_eq!(boot(json!({ "command_lines": [] })), "reference.values.empty");
    assert_eq!(boot(json!({ "command_lines": vec!["x"; 257] })), "reference.values.size");
    for line in ["", "ro\nquiet", &"x".repeat(2049)] {
        assert_eq!(boot(json!({ "command_lines": [line] })), "reference.boot.command_line", "{line:?}");
    }
    assert_eq!(code(&json!({ "id": "a", "ima": { "rules": ima_rules() } })), "reference.ima.unanchored");
    assert_eq!(
        code(&json!({ "id": "a", "snp": golden_snp(), "ima": { "rules": ima_rules() } })),
        "reference.ima.unanchored"
    );
    assert_eq!(code(&json!({ "id": "a", "tpm": golden_tpm(), "ima": {} })), "reference.manifest.syntax");
}

#[test]
fn what_a_manifest_names_must_be_presented_and_equal() {
    let set = golden_both();
    assert!(matches(&set, &both_claims()));
    let no_match = |claims: &Claims| match set.match_claims(claims, &ImaTallies::new(), &Accepted::nothing(), NOW) {
        ReferenceMatch::Matched(manifest) => panic!("matched {}", manifest.id()),
        ReferenceMatch::NotMatched(mismatch) => mismatch.findings().map(|finding| finding.code).collect::<Vec<_>>(),
    };
    let mut missing = both_claims();
    missing.tpm.pcrs.get_mut(&PcrHash::Sha256).unwrap().remove(&3);
    assert_eq!(no_match(&missing), ["reference.pcr_not_presented"]);
    missing.tpm.pcrs.clear();
    assert_eq!(no_match(&missing), ["reference.pcr_not_presented"; 8]);
    // A value of another bank does not stand in.
    let mut elsewhere = both_claims();
    let bank = elsewhere.tpm.pcrs.remove(&PcrHash::Sha256).unwrap();
    elsewhere.tpm.pcrs.insert(PcrHash::Sha512, bank);
    assert_eq!(no_match(&elsewhere), ["reference.pcr_not_presented"; 8]);
    assert_eq!(no_match(&tpm_claims()), ["reference.snp.not_presented"]);
    assert_eq!(no_match(&with_snp(|snp| snp.measurement.0[47] ^= 1)), ["reference.snp.measurement"]);
    assert_eq!(no_match(&with_snp(|snp| snp.host_data.0[0] ^= 1)), ["reference.snp.host_data"]);
    assert_eq!(no_match(&with_snp(|snp| snp.id_key_digest.0[0] ^= 1)), ["reference.snp.id_key_digest"]);
    assert_eq!(no_match(&with_snp(|snp| snp.measurement.0.clear())), ["reference.snp.measurement"]);
    assert_eq!(no_match(&with_snp(|snp| snp.product = AmdProduct::Turin)), ["reference.snp.product"]);
}

#[test]
fn b2_tcbs_are_compared_component_by_component() {
    let set = golden_both();
    // As one little-endian integer this is far above the minimum; the SNP firmware is below it.
    let claims = with_snp(|snp| {
        (snp.reported_tcb, snp.committed_tcb, snp.launch_tcb) =
            (tcb(9, 0, 20, 255), tcb(9, 0, 21, 72), tcb(9, 0, 21, 72));
    });
    let decision = judge(&claims, &set, &policies(&["baseline"], &[]));
    assert_eq!(decision.findings()[0].code, "snp.tcb.below_reference");
    assert!(decision.findings()[0].found.contains("REPORTED_TCB snp 20"), "{}", decision.findings()[0]);
    for lower in [tcb(8, 255, 255, 255), tcb(255, 255, 255, 71), tcb(255, 0, 20, 255)] {
        for which in 0..3 {
            let claims = with_snp(|snp| match which {
                0 => snp.reported_tcb = lower,
                1 => snp.committed_tcb = lower,
                _ => snp.launch_tcb = lower,
            });
            assert!(!matches(&set, &claims), "{lower:?} {which}");
        }
    }
    assert!(matches(&set, &with_snp(|snp| snp.reported_tcb = tcb(10, 1, 22, 73))));
}

#[test]
fn b8_committed_and_launch_tcb_count_and_current_does_not() {
    let set = golden_both();
    let rolled_back_later = with_snp(|snp| {
        snp.current_tcb = tcb(255, 255, 255, 255);
        snp.committed_tcb = tcb(9, 0, 20, 72);
    });
    let decision = judge(&rolled_back_later, &set, &policies(&["baseline"], &[]));
    assert_eq!(decision.findings()[0].code, "snp.tcb.below_reference");
    assert!(decision.findings()[0].found.contains("COMMITTED_TCB snp 20"));
    let launched_before = with_snp(|snp| snp.launch_tcb = tcb(9, 0, 21, 71));
    assert_eq!(judge(&launched_before, &set, &policies(&["baseline"], &[])).outcome(), Outcome::Denied);
    assert!(matches(&set, &with_snp(|snp| snp.current_tcb = tcb(0, 0, 0, 0))));
}

#[test]
fn a_component_that_a_minimum_names_and_the_report_lacks_denies() {
    let mut snp = golden_snp();
    snp["min_tcb"] = json!({ "turin": { "bootloader": 0, "tee": 0, "snp": 0, "microcode": 0, "fmc": 0 } });
    let set = ReferenceSet::new([manifest(&json!({ "id": "turin", "snp": snp }))]);
    let turin = |fmc| {
        with_snp(|snp| {
            snp.product = AmdProduct::Turin;
            for tcb in [&mut snp.reported_tcb, &mut snp.committed_tcb, &mut snp.launch_tcb] {
                tcb.fmc = fmc;
            }
        })
    };
    let decision = judge(&turin(None), &set, &policies(&["baseline"], &[]));
    assert_eq!(codes(&decision)[..3], ["snp.tcb.component_missing"; 3]);
    assert!(matches(&set, &turin(Some(0))));
}

#[test]
fn denials_explain_themselves_closest_manifest_first() {
    let mut far = golden_tpm();
    for index in 0..8u8 {
        far["pcrs"]["sha256"][index.to_string()] = json!([digest(0x90 + index).to_string()]);
    }
    let set = ReferenceSet::new([
        manifest(&json!({ "id": "a-far", "tpm": far })),
        manifest(&json!({ "id": "b-close", "tpm": golden_tpm() })),
    ]);
    let mut drifted = tpm_claims();
    drifted.tpm.pcrs.get_mut(&PcrHash::Sha256).unwrap().insert(4, digest(0xdd));
    let decision = judge(&drifted, &set, &policies(&["baseline"], &[]));
    assert_eq!(codes(&decision), ["reference.pcr_mismatch", "reference.no_match", "policy.no_permit"]);
    let first = &decision.findings()[0];
    assert_eq!(first.expected, format!("sha256 PCR 4 {} (manifest b-close)", digest(0x14)));
    assert_eq!(first.found, format!("sha256 PCR 4 {}", digest(0xdd)));
    assert_eq!(decision.findings()[1].expected, "all 8 values of manifest a-far");
    // The host learns its own value and not the golden one.
    assert_eq!(first.for_host().found, Some(first.found.as_str()));
    assert!(decision.findings()[1].for_host().found.is_none());
}

proptest! {
    #[test]
    fn any_change_of_any_named_pcr_denies(index in 0u8..8, byte in 0usize..32, flip in 1u8..) {
        let mut claims = both_claims();
        claims.tpm.pcrs.get_mut(&PcrHash::Sha256).unwrap().get_mut(&index).unwrap().0[byte] ^= flip;
        prop_assert!(!matches(&golden_both(), &claims));
    }

    #[test]
    fn only_a_tcb_with_no_component_below_the_minimum_matches(b: u8, t: u8, s: u8, m: u8) {
        let claims = with_snp(|snp| snp.committed_tcb = tcb(b, t, s, m));
        prop_assert_eq!(matches(&golden_both(), &claims), 9 <= b && 21 <= s && 72 <= m);
    }

    #[test]
    fn adding_a_manifest_never_takes_a_match_away_and_removing_the_matching_one_does(id in "[a-z]{1,8}", value: [u8; 32]) {
        prop_assume!(value != [0; 32]);
        let text = json!({ "id": id, "tpm": { "pcrs": { "sha256": { "0": [hex_of(&value)] } } } });
        let other = manifest(&text);
        let golden = golden_both().get("both").unwrap().clone();
        prop_assume!(id != "both" && value != [0x10; 32]);
        prop_assert!(matches(&ReferenceSet::new([golden, other.clone()]), &both_claims()));
        prop_assert!(!matches(&ReferenceSet::new([other]), &both_claims()));
    }

    #[test]
    fn hostile_text_never_panics(text in ".{0,200}") {
        let _ = ReferenceManifest::parse(text.as_bytes()).is_ok();
        let wrapped = format!(r#"{{"id":"m","tpm":{{"pcrs":{{"sha256":{{"{}":["{}"]}}}}}}}}"#, text, text);
        prop_assert!(ReferenceManifest::parse(wrapped.as_bytes()).is_err());
    }
}

fn hex_of(bytes: &[u8]) -> String {
    countersign_attestation::claims::HexBytes(bytes.to_vec()).to_string()
}

#[test]
fn absence_of_the_report_is_not_a_match_for_launch_measurements() {
    let set = ReferenceSet::new([manifest(&json!({ "id": "vm", "snp": golden_snp() }))]);
    assert!(!matches(&set, &tpm_claims()));
    let claims = Claims { snp: Presented::Verified(snp_claims()), ..tpm_claims() };
    assert!(matches(&set, &claims));
}
