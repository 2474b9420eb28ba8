//! `countersign verify`: what a manifest can and cannot make it do.
#![expect(clippy::expect_used, reason = "test code")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use countersign::cli::verify::{ExitOutcome, Judged, Verdict, VerifyArgs, VerifyError, VerifyOutput};
use countersign::cli::verify::{judge_manifest, run};
use countersign_attestation::anchor::{AmdProduct, Assurance};
use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "sim/amd.rs"]
mod sim;

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/firmware-refs");

/// A folder with these files and a manifest of these cases.
fn folder(files: &[(&str, &[u8])], cases: &Value) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).expect("a file");
    }
    fs::write(folder.path().join("manifest.json"), cases.to_string()).expect("a manifest");
    folder
}

fn args(folder: &Path, output: VerifyOutput) -> VerifyArgs {
    VerifyArgs { manifest: folder.join("manifest.json"), kinds: Vec::new(), ids: Vec::new(), output }
}

fn judged(folder: &TempDir) -> Vec<Judged> {
    judge_manifest(&args(folder.path(), VerifyOutput::Json)).expect("a manifest")
}

fn case(id: &str, kind: &str, files: &Value, expect: &str) -> Value {
    json!({"id": id, "kind": kind, "files": files, "evaluation_time": "2026-06-01T00:00:00Z", "expect": expect})
}

fn shipped(path: &str) -> Vec<u8> {
    fs::read(Path::new(SHIPPED).join(path)).expect("a shipped file")
}

/// The shipped report of a Milan machine, with its chain.
fn genuine() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("report.bin", shipped("evidence/amd/milan/report.bin")),
        ("vek.der", shipped("evidence/amd/milan/vcek.der")),
        ("ark.der", shipped("anchors/amd/milan/ark.der")),
        ("ask.der", shipped("anchors/amd/milan/ask.der")),
    ]
}

fn genuine_folder(cases: &Value) -> TempDir {
    let files = genuine();
    let files: Vec<_> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    folder(&files, cases)
}

fn roles() -> Value {
    json!({"report": "report.bin", "vek": "vek.der", "ark": "ark.der", "ask": "ask.der"})
}

#[test]
fn a_genuine_report_is_accepted_with_its_claims() {
    let folder = genuine_folder(&json!([case("milan", "snp-report", &roles(), "accept")]));
    let mut out = Vec::new();
    let outcome = run(&args(folder.path(), VerifyOutput::Json), &mut out).expect("a run");
    assert_eq!(outcome, ExitOutcome::AsExpected);
    let line: Value = serde_json::from_slice(&out).expect("one JSON line");
    assert_eq!(line.pointer("/verdict"), Some(&json!("accept")));
    assert_eq!(line.pointer("/reasons"), Some(&json!([])));
    assert_eq!(line.pointer("/matches_expectation"), Some(&json!(true)));
    assert_eq!(line.pointer("/claims/assurance"), Some(&json!("hardware")));
    assert_eq!(line.pointer("/claims/revocation/state"), Some(&json!("not_presented")));
    let mut table = Vec::new();
    run(&args(folder.path(), VerifyOutput::Table), &mut table).expect("a run");
    let table = String::from_utf8(table).expect("text");
    assert!(table.contains("1 accepted, 0 rejected, 0 unsupported, 0 broken; 0 not as expected"), "{table}");
}

#[test]
fn unexpected_unsupported_and_empty_runs_do_not_pass() {
    let outcome = |cases: Value| {
        let folder = genuine_folder(&cases);
        run(&args(folder.path(), VerifyOutput::Json), &mut Vec::new()).expect("a run")
    };
    let good = case("good", "snp-report", &roles(), "accept");
    let unknown = case("unknown", "of-a-kind-to-come", &json!({}), "reject");
    assert_eq!(outcome(json!([])), ExitOutcome::Unexpected);
    assert_eq!(outcome(json!([unknown])), ExitOutcome::Unexpected, "nothing was judged");
    assert_eq!(outcome(json!([unknown, good])), ExitOutcome::AsExpected);
    assert_eq!(outcome(json!([good, case("bad", "snp-report", &roles(), "reject")])), ExitOutcome::Unexpected);
    let folder = genuine_folder(&json!([unknown]));
    let cases = judged(&folder);
    assert!(cases.iter().all(|case| case.verdict == Verdict::Unsupported && !case.matches_expectation));
    let mut selected = args(folder.path(), VerifyOutput::Json);
    selected.kinds = vec!["snp-report".to_owned()];
    assert!(judge_manifest(&selected).expect("a manifest").is_empty());
    selected.kinds.clear();
    selected.ids = vec!["unknown".to_owned()];
    assert_eq!(judge_manifest(&selected).expect("a manifest").len(), 1);
}

#[test]
fn stricter_is_the_policys_laxer_is_nobodys() {
    let mut missing_vek = case("strict", "snp-report", &json!({"report": "report.bin"}), "accept");
    let mut accepted = case("lax", "snp-report", &roles(), "reject");
    for case in [&mut missing_vek, &mut accepted] {
        case.as_object_mut().expect("a case").insert("policy_dependent".to_owned(), json!(true));
    }
    let wrong = case("wrong", "snp-report", &json!({"report": "report.bin"}), "accept");
    let folder = genuine_folder(&json!([missing_vek, accepted, wrong]));
    let matches: Vec<_> = judged(&folder).iter().map(|case| (case.verdict, case.matches_expectation)).collect();
    assert_eq!(matches, [(Verdict::Reject, true), (Verdict::Accept, false), (Verdict::Reject, false)]);
}

#[test]
fn broken_cases_meet_no_expectation_and_files_stay_in_the_folder() {
    let outside = tempfile::tempdir().expect("a folder");
    fs::write(outside.path().join("report.bin"), shipped("evidence/amd/milan/report.bin")).expect("a file");
    let with_report = |path: &str| {
        let mut roles = roles();
        roles.as_object_mut().expect("roles").insert("report".to_owned(), json!(path));
        case(path, "snp-report", &roles, "reject")
    };
    let absolute = outside.path().join("report.bin");
    let absolute = absolute.to_str().expect("text");
    let mut late = case("late", "snp-report", &roles(), "reject");
    late.as_object_mut().expect("a case").insert("evaluation_time".to_owned(), json!("yesterday"));
    let cases = json!([
        with_report("absent.bin"),
        with_report("../report.bin"),
        with_report(absolute),
        with_report("link.bin"),
        with_report("large.bin"),
        late
    ]);
    let folder = genuine_folder(&cases);
    std::os::unix::fs::symlink(absolute, folder.path().join("link.bin")).expect("a link");
    let large = fs::File::create(folder.path().join("large.bin")).expect("a file");
    large.set_len(16 * 1024 * 1024 + 1).expect("a size");
    let cases = judged(&folder);
    assert_eq!(cases.len(), 6);
    for case in cases {
        assert_eq!((case.verdict, case.matches_expectation), (Verdict::Error, false), "{}", case.id);
    }
    fs::write(folder.path().join("manifest.json"), "{}").expect("a manifest");
    let error = judge_manifest(&args(folder.path(), VerifyOutput::Json)).expect_err("no list of cases");
    assert!(matches!(error, VerifyError::Manifest { .. }), "{error}");
    let error = judge_manifest(&args(outside.path(), VerifyOutput::Json)).expect_err("no manifest");
    assert!(matches!(error, VerifyError::Read { .. }), "{error}");
}

#[test]
fn b5_a_root_is_trusted_for_being_pinned_or_named_never_for_being_sent() {
    let simulator = sim::AmdSimulator::new(AmdProduct::Milan);
    let evidence = simulator.evidence(&[7; 64]);
    let files = [
        ("report.bin", evidence.report.as_slice()),
        ("vek.der", &evidence.vek),
        ("ark.der", &simulator.ark_der),
        ("ask.der", &simulator.ask_der),
        ("other.der", &simulator.asvk_der),
    ];
    let with = |role: &str, path: &str| {
        let mut roles = roles();
        roles.as_object_mut().expect("roles").insert(role.to_owned(), json!(path));
        case(&format!("{role} {path}"), "snp-report", &roles, "reject")
    };
    let mut disagreeing = with("trust_root", "ark.der");
    disagreeing.pointer_mut("/files/ark").map(|ark| *ark = json!("other.der")).expect("an ark");
    let cases = json!([case("sent", "snp-report", &roles(), "reject"), with("trust_root", "ark.der"), disagreeing]);
    let folder = folder(&files, &cases);
    let judged = judged(&folder);
    let verdicts: Vec<_> = judged.iter().map(|case| (case.verdict, case.reasons.clone())).collect();
    let anchor = vec!["snp.vek.anchor".to_owned()];
    assert_eq!(verdicts, [(Verdict::Reject, anchor.clone()), (Verdict::Accept, Vec::new()), (Verdict::Reject, anchor)]);
    let assurance = judged.get(1).and_then(|case| case.claims.get("assurance"));
    assert_eq!(assurance, Some(&json!(Assurance::Simulated)), "a named root is simulated hardware");
}

#[test]
fn b6_the_command_line_refuses_what_the_library_refuses() {
    let simulator = sim::AmdSimulator::new(AmdProduct::Milan);
    let policy = |bit: u32| {
        move |bytes: &mut [u8; sim::SIGNED_BYTES]| {
            if let Some(policy) = bytes.get_mut(8..16) {
                policy.copy_from_slice(&(0x3_0000_u64 | 1 << bit).to_le_bytes());
            }
        }
    };
    let vmpl = |vmpl: u32| {
        move |bytes: &mut [u8; sim::SIGNED_BYTES]| {
            if let Some(field) = bytes.get_mut(0x30..0x34) {
                field.copy_from_slice(&vmpl.to_le_bytes());
            }
        }
    };
    let reports = BTreeMap::from([
        ("debug", (simulator.evidence_with(policy(19)).report, "snp.policy.debug")),
        ("migrate", (simulator.evidence_with(policy(18)).report, "snp.policy.migrate_ma")),
        ("vmpl2", (simulator.evidence_with(vmpl(2)).report, "snp.vmpl.unprivileged")),
        ("vmpl3", (simulator.evidence_with(vmpl(3)).report, "snp.vmpl.unprivileged")),
        ("host", (simulator.evidence_with(vmpl(u32::MAX)).report, "snp.vmpl.host")),
    ]);
    let cases: Vec<_> = reports
        .keys()
        .map(|name| {
            let roles = json!({"report": name, "vek": "vek.der", "ask": "ask.der", "trust_root": "ark.der"});
            case(name, "snp-report", &roles, "reject")
        })
        .collect();
    let mut files: Vec<_> = reports.iter().map(|(name, (report, _))| (*name, report.as_slice())).collect();
    files.extend([
        ("vek.der", simulator.vcek.der.as_slice()),
        ("ask.der", &simulator.ask_der),
        ("ark.der", &simulator.ark_der),
    ]);
    let folder = folder(&files, &json!(cases));
    for case in judged(&folder) {
        let (_, code) = reports.get(case.id.as_str()).expect("a report");
        assert_eq!((case.verdict, case.reasons), (Verdict::Reject, vec![(*code).to_owned()]), "{}", case.id);
    }
}
