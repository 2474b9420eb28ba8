//! Every recorded case that this version judges gets the verdict its manifest expects.

#![expect(clippy::expect_used, reason = "a test that cannot read its cases fails")]

use std::path::PathBuf;

use countersign::cli::verify::{Case, Expectation, Judged, Verdict, VerifyArgs, VerifyOutput, judge, judge_manifest};

/// The folder of the vectors, where there is one.
#[expect(clippy::disallowed_methods, reason = "a test reads its environment")]
fn vectors() -> Option<PathBuf> {
    let folder = std::env::var("COUNTERSIGN_VECTORS")
        .map_or_else(|_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors")), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("no vectors at {}: skipped", folder.display());
    None
}

fn judged(manifest: &str) -> Option<Vec<Judged>> {
    let manifest = vectors()?.join(manifest);
    let args = VerifyArgs { manifest, kinds: Vec::new(), ids: Vec::new(), output: VerifyOutput::Json };
    Some(judge_manifest(&args).expect("a readable manifest"))
}

/// Asserts that all judged cases are as expected, and that at least `minimum` of the kind were judged.
fn assert_as_expected(cases: &[Judged], minimum: &[(&str, usize)]) {
    for case in cases.iter().filter(|case| case.verdict != Verdict::Unsupported) {
        assert!(case.matches_expectation, "{}: {:?} {:?}", case.id, case.verdict, case.explanation);
        assert_eq!(case.verdict == Verdict::Accept, case.reasons.is_empty(), "{}: reasons", case.id);
    }
    for (kind, minimum) in minimum {
        let supported = |case: &&Judged| case.kind == *kind && case.verdict != Verdict::Unsupported;
        let found = cases.iter().filter(supported).count();
        assert!(*minimum <= found, "{found} cases of {kind} judged, at least {minimum} are known");
    }
}

#[test]
fn confidential_computing_cases_are_judged_as_expected() {
    let Some(cases) = judged("MANIFEST-cc.json") else { return };
    assert_as_expected(
        &cases,
        &[("snp-report", 76), ("snp-chain", 4), ("snp-report-unendorsed", 5), ("vtpm-ak-chain", 3)],
    );
    assert_as_expected(
        &cases,
        &[("azure-hcl", 1), ("azure-snp", 12), ("azure-tdx", 5), ("azure-vtpm", 2), ("ccel", 14)],
    );
    let unendorsed = [("tdx-quote-unendorsed", 4), ("sgx-quote-unendorsed", 5)];
    assert_as_expected(&cases, &[&[("tdx-quote", 160), ("sgx-quote", 45)][..], &unendorsed].concat());
    let collateral = [("collateral-tcbinfo", 22), ("collateral-qeidentity", 9), ("collateral-parse", 27)];
    assert_as_expected(&cases, &collateral);
    // What an expectation names is compared only where claims name it too: so they must.
    for (id, names) in [
        ("snp-milan-v3-vlek-trustee-decdab", &["vek", "chip_id_masked", "key_info", "cpuid", "platform_info"][..]),
        ("snp-turin-v5-oak-3f44a0", &["vek", "reported_tcb", "launch_mit_vector", "chip_id_prefix", "report_id"]),
        ("snp-milan-v2-virtee-120d77", &["policy", "policy_bits", "current_version", "author_key_en", "host_data"]),
        ("snp-chain-ok-ask-genoa-genoa", &["ask_serial"]),
        ("tdx-v5-oe-d21a11-at-20250306", &["tcb_status", "platform_tcb_status", "mr_service_td", "pck_not_before"]),
        ("tdx-v4-nearai-afb2d8-at-20250306", &["advisory_ids", "td_attr_bits", "rtmr3", "cert_data_type", "body"]),
        ("tcbinfo-00906ed50000-sgx-v2-ev10-2021-03-31", &["id", "fmspc", "issue_date", "levels"]),
        ("sgx-v3-mobilecoin-0b5bc7-at-20250611", &["advisory_ids", "mrenclave", "cpusvn", "pck_issuer", "qe_isvsvn"]),
    ] {
        let case = cases.iter().find(|case| case.id == id).expect(id);
        for name in names {
            assert!(case.claims["details"].get(name).is_some(), "{id}: {name}");
        }
    }
    assert!(cases.iter().all(|case| case.verdict != Verdict::Unsupported), "every kind has a judge");
}

/// Where other verifiers err, these cases are refused, and for their own reason: quotes that end in an older issue of
/// Intel's root, which has another certificate for the same key; a TCB info of another signer, or of one that expired;
/// no level at all, which some call out of date; bytes behind a quote.
#[test]
fn quotes_on_which_verifiers_disagree_are_refused_for_their_own_reason() {
    let Some(cases) = judged("MANIFEST-cc.json") else { return };
    for (id, code) in [
        ("sgx-v3-fortanix-6dc779-at-20230202", "intel.root"),
        ("sgx-v3-fortanix-7d6335-at-20230202", "intel.root"),
        ("sgx-v3-fortanix-e9794f-at-20230202", "intel.root"),
        ("syn-tdx-v-tcb-foreignsigner", "intel.signature"),
        ("syn-tdx-v-signer-expired", "x509.expired"),
        ("tdx-v5-trustee-586c2b-at-20250104", "intel.tcb.none"),
        ("tdx-v5-trustee-586c2b-at-20260402", "intel.tcb.none"),
        ("neg-tdx4-v-trailing-ff", "tdx.trailing"),
        ("sgx-v3-oasis-ecd2fa-at-20260811", "tdx.debug"),
    ] {
        let case = cases.iter().find(|case| case.id == id).expect(id);
        assert_eq!(case.reasons, [code], "{id}");
    }
}

/// Names in `details` of these cases, and codes of those: an expectation is compared only where claims name it too.
#[test]
fn paravisors_and_registers_are_told_in_detail_and_refused_for_their_own_reason() {
    let Some(cases) = judged("MANIFEST-cc.json") else { return };
    let find = |id: &str| cases.iter().find(|case| case.id == id).expect("a case");
    let quote = ["nonce", "pcr_selection", "pcr_digest", "firmware_version"];
    let paravisor = ["hcl_version", "hcl_report_type", "hash_type", "var_data_len", "runtime_data_keys", "user_data"];
    let registers = ["rtmr0", "rtmr1", "rtmr2", "rtmr3", "events", "format"];
    for (id, names) in [
        (
            "azsnp-genoa-trustee",
            &[&quote[..], &paravisor, &["clock", "reset_count", "vm_configuration", "snp"]].concat()[..],
        ),
        ("aztdx-trustee-v1", &[&quote[..], &paravisor, &["restart_count", "tdreport"]].concat()),
        ("azvtpm-cmcp-quote", &quote),
        ("ccel-gcp-cos113", &[&registers[..], &["terminated_at"]].concat()),
        ("ccel-replay-trustee-alibaba-aael", &[&registers[..], &["register_indices"]].concat()),
        ("dstack-eventlog-nearai", &[&registers[..], &["rtmr3_events"]].concat()),
    ] {
        for name in names {
            assert!(find(id).claims["details"].get(name).is_some(), "{id}: {name}");
        }
    }
    for (id, code) in [
        ("aztdx-hcl-kinvolk", "hcl.tdreport.unsigned"),
        ("azsnp-redacted-agentmanifest", "snp.signature.invalid"),
        ("azsnp-neg-a-pcr", "tpm.quote.pcr_digest"),
        ("azsnp-neg-a-otherhcl", "tpm.signature.invalid"),
        ("azsnp-neg-a-runtimedata", "hcl.runtime.binding"),
        ("aztdx-neg-a-othertdquote", "hcl.tdreport.quote"),
        ("aztdx-neg-a-runtimedata", "hcl.runtime.binding"),
        ("azvtpm-neg-cmcp-otherak", "tpm.signature.invalid"),
        ("ccel-neg-a-dropped", "rtmr.replay"),
        ("ccel-neg-a-truncated", "eventlog.truncated"),
        ("ccel-neg-a-eventdata", "eventlog.data_edited"),
        ("dstack-eventlog-neg-dropped-nearai", "rtmr.replay"),
    ] {
        assert_eq!(find(id).reasons, [code], "{id}");
    }
}

#[test]
fn tpm_cases_are_judged_as_expected() {
    let Some(cases) = judged("MANIFEST-tpm-nv.json") else { return };
    assert_as_expected(
        &cases,
        &[
            ("tpm-quote", 46),
            ("tpm-attest-parse", 1),
            ("tpm-certify", 4),
            ("tpm-certify-and-quote", 1),
            ("tpm-make-credential", 1),
            ("tpm-kat", 4),
            ("tpm-ek-cert", 28),
            ("tpm-ek-cert-nv-raw", 1),
            ("tpm-vendor-roots", 2),
            ("tpm-vendor-ca-collection", 1),
            ("eventlog-replay", 22),
            ("eventlog-parse", 30),
        ],
    );
    assert_as_expected(&cases, &[("ima-ascii", 12), ("ima-binary", 12), ("ima-ascii-binary", 1), ("ima-policy", 4)]);
    // What an expectation names is compared only where claims name it too: so they must.
    for (id, names) in [
        ("ima-pcr-lags-log", &["entries", "templates", "replay", "violations_pcr10", "matches_after_entries"][..]),
        ("ima-h12ssl-ascii-and-binary", &["ascii", "binary", "binary_is_prefix_of_ascii"]),
        ("ima-kl-allowlist-ok", &["entries", "templates", "template_hash_mismatches", "replay"]),
    ] {
        let case = cases.iter().find(|case| case.id == id).expect(id);
        for name in names {
            assert!(case.claims["details"].get(name).is_some(), "{id}: {name}");
        }
    }
}

#[test]
fn results_wrappers_and_svids_are_judged_as_expected() {
    let Some(cases) = judged("MANIFEST-tpm-nv.json") else { return };
    assert_as_expected(
        &cases,
        &[("ear-jwt", 24), ("ear-claims", 5), ("ear-submods", 7), ("ear-cbor", 1), ("cmw", 20), ("cmw-signed", 5)],
    );
    assert_as_expected(
        &cases,
        &[("cmw-x509", 1), ("x509-svid", 7), ("x509-svid-chain", 13), ("spiffe-bundle", 5), ("x509-bundle", 3)],
    );
}

#[test]
fn proofs_and_notes_are_judged_as_expected() {
    let Some(cases) = judged("MANIFEST-tpm-nv.json") else { return };
    assert_as_expected(&cases, &[("rfc6962-inclusion", 1), ("rfc6962-consistency", 1), ("signed-note", 5)]);
    assert_as_expected(&cases, &[("rfc6962-subtreeinclusion", 1), ("rfc6962-subtreeconsistency", 1)]);
    let of_logs = [("tlog-checkpoint", 16), ("tlog-checkpoint-parse", 1), ("tlog-consistency", 5)];
    assert_as_expected(&cases, &of_logs);
    assert_as_expected(&cases, &[("tlog-proof", 12), ("tlog-tiles", 1), ("tlog-witness-protocol", 1)]);
    for (id, code) in [
        ("neg-sumdb-size", "lineage.note.signature"),
        ("neg-ct-rome-origin", "lineage.checkpoint.origin"),
        ("tessera-neg-consistency-3-8", "lineage.proof.consistency"),
        ("synlog1-neg-split-view", "lineage.proof.consistency"),
        ("synlog1-neg-equivocation", "lineage.proof.consistency"),
        ("synlog1-neg-wrong-index", "lineage.proof.inclusion"),
        ("synlog1-neg-extra-hash", "lineage.proof.inclusion"),
        ("synlog1-neg-one-witness", "lineage.checkpoint.cosignatures"),
        ("synlog1-neg-same-witness-twice", "lineage.checkpoint.cosignatures"),
        ("synlog1-neg-leading-zero-index", "lineage.proof.form"),
        ("tlog-proof-format-errors", "lineage.proof.form"),
    ] {
        let case = cases.iter().find(|case| case.id == id).expect(id);
        assert_eq!(case.reasons, [code], "{id}");
    }
}

#[test]
fn selection_cases_are_judged_as_expected() {
    let Some(cases) = judged("MANIFEST-selection.json") else { return };
    assert_as_expected(&cases, &[("tpm-quote", 2)]);
}

/// The middle of a file is changed: in JSON a digit of the last value, elsewhere a bit.
fn changed(mut bytes: Vec<u8>) -> Vec<u8> {
    let hex_digit = |byte: &u8| byte.is_ascii_digit();
    let last_digit = bytes.iter().rposition(hex_digit).filter(|_| bytes.starts_with(b"[") || bytes.starts_with(b"{"));
    let at = last_digit.unwrap_or(bytes.len() / 2);
    *bytes.get_mut(at).expect("a file that is not empty") ^= 1;
    bytes
}

#[test]
fn every_file_of_a_recorded_certification_and_every_known_answer_counts() {
    let Some(folder) = vectors() else { return };
    let text = std::fs::read(folder.join("MANIFEST-tpm-nv.json")).expect("a manifest");
    let cases: Vec<Case> = serde_json::from_slice(&text).expect("cases");
    let counts = [
        ("tpm-certify", &["certify_info", "signature", "pub_area", "cert_0", "client_data"][..]),
        (
            "tpm-certify-and-quote",
            &["certify_info", "certify_sig", "certified_pub_area", "quote", "quote_sig", "ak_public"],
        ),
        ("tpm-make-credential", &["vector"]),
        ("tpm-kat", &["vectors"]),
    ];
    let mut judged = 0;
    for (kind, roles) in counts {
        for case in cases.iter().filter(|case| case.kind == kind && case.expect == Expectation::Accept) {
            for role in roles.iter().filter(|role| case.files.contains_key(**role)) {
                let own = tempfile::tempdir().expect("a folder");
                let mut copied = case.clone();
                for (name, path) in &mut copied.files {
                    let bytes = std::fs::read(folder.join(&*path)).expect("a file");
                    let bytes = if name == role { changed(bytes) } else { bytes };
                    *path = name.clone();
                    std::fs::write(own.path().join(name), bytes).expect("a file");
                }
                let own = own.path().canonicalize().expect("a folder");
                let verdict = judge(&copied, &own);
                assert_eq!(verdict.verdict, Verdict::Reject, "{}: {role} was changed", case.id);
                judged += 1;
            }
        }
    }
    assert!(20 <= judged, "{judged} changes");
}
