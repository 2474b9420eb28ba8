//! Genuine logs of trust domains against their quotes, and quotes whose signatures alone are checked.
#![expect(clippy::expect_used, reason = "test code")]

use std::path::{Path, PathBuf};

use countersign_attestation::anchor::{Assurance, IntelAnchor};
use countersign_attestation::claims::{HexBytes, TdxClaims};
use countersign_attestation::endorsement::intel::{IntelCollateral, VerifiedCollateral};
use countersign_attestation::evidence::eventlog::SecureBoot;
use countersign_attestation::evidence::paravisor::{Hardware, HardwareKind, HclReport, azure};
use countersign_attestation::evidence::snp::ReportDataExpectation;
use countersign_attestation::evidence::tdx::recorded::RecordedTdQuote;
use countersign_attestation::evidence::tdx::rtmr::{self, LogForm, RegisterLog, RuntimeEvent, verify_recorded};
use countersign_attestation::evidence::tdx::{self, claims::TdxExtendedClaims};
use countersign_attestation::{Rejection, UnixMillis};

/// Intel's root of SGX and TDX.
const ROOT: &[u8] = include_bytes!("../../firmware-refs/anchors/intel/root.der");

/// 2026-01-01T00:00:00Z.
const NOW: UnixMillis = UnixMillis(1_767_225_600_000);

/// The folder of the vectors, where there is one.
#[expect(clippy::disallowed_methods, reason = "a test reads its environment")]
fn vectors() -> Option<PathBuf> {
    let folder = std::env::var("COUNTERSIGN_VECTORS")
        .map_or_else(|_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors")), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("no vectors at {}: skipped", folder.display());
    None
}

fn read(folder: &Path, path: &str) -> Vec<u8> {
    std::fs::read(folder.join(path)).expect(path)
}

fn quote(bytes: &[u8]) -> Result<RecordedTdQuote, Rejection> {
    RecordedTdQuote::verify(bytes, &[root()], NOW)
}

fn root() -> IntelAnchor {
    IntelAnchor { name: "intel".to_owned(), assurance: Assurance::Hardware, root: ROOT.to_vec() }
}

fn code<T>(verdict: Result<T, Rejection>) -> &'static str {
    verdict.map_or_else(|rejection| rejection.code(), |_| "accepted")
}

#[test]
fn every_signed_octet_of_a_recorded_quote_counts() {
    let Some(folder) = vectors() else { return };
    let genuine = read(&folder, "azure/aztdx-trustee-v1/td_quote.bin");
    let verified = quote(&genuine).expect("a genuine quote");
    assert_eq!(verified.assurance(), Assurance::Hardware);
    // Header and body, signature, attestation key, QE report, its signature, authenticated data.
    let signed = 48 + 584;
    let certification = signed + 4 + 64 + 64 + 6;
    for at in (0..signed).chain(signed + 4..signed + 132).chain(certification..certification + 384 + 64 + 2 + 32) {
        let mut changed = genuine.clone();
        changed[at] ^= 0x10;
        assert!(quote(&changed).is_err(), "octet {at}");
    }
    // Certificates: a changed one is another, or none.
    let pem = certification + 384 + 64 + 2 + 32 + 6;
    for at in (pem + 100..pem + 1500).step_by(97) {
        let mut changed = genuine.clone();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert!(quote(&changed).is_err(), "octet {at} of the chain");
    }
    let nobody = RecordedTdQuote::verify(&genuine, &[], NOW);
    assert_eq!(code(nobody), "x509.path.none");
    let early = RecordedTdQuote::verify(&genuine, &[root()], UnixMillis(0));
    assert_eq!(code(early), "x509.not_yet_valid");
}

#[test]
fn quotes_of_other_intel_processors_lead_to_the_same_root() {
    let Some(folder) = vectors() else { return };
    for path in [
        "tdx/tdx-v4-gotdxguest-00b252/quote.bin",
        "ccel/dstack-eventlog-dstack/quote.bin",
        "ccel/dstack-eventlog-nearai/quote.bin",
    ] {
        quote(&read(&folder, path)).expect(path);
    }
}

#[test]
fn a_genuine_log_of_googles_firmware_tells_its_boot() {
    let Some(folder) = vectors() else { return };
    let log = read(&folder, "ccel/ccel-gcp-cos113/ccel.bin");
    let quote = quote(&read(&folder, "tdx/tdx-v4-gotdxguest-00b252/quote.bin")).expect("a genuine quote");
    let claims = verify_recorded(&log, &quote).expect("a log that replays");
    claims.check_whole().expect("RTMR3 is zero");
    assert_eq!((claims.form, claims.replayed.len()), (LogForm::Ccel, 3));
    assert!(!claims.replayed.contains(&3), "RTMR3 is zero, and no event says so");
    assert_eq!(claims.boot.secure_boot, SecureBoot::Off);
    assert!(claims.command_lines.iter().any(|line| line.contains("dm_verity.error_behavior=3")));
    // 0xff to the end, and 0x00 as well as nothing.
    let log_end = RegisterLog::read(&log).expect("a log").end();
    assert!(log[log_end..].iter().all(|byte| *byte == 0xff) && log_end < log.len());
    assert_eq!(code(verify_recorded(&log[..log_end], &quote)), "accepted");
    assert_eq!(code(verify_recorded(&[&log[..log_end], &[0; 512]].concat(), &quote)), "accepted");
}

#[test]
fn altered_event_data_keeps_the_replay_valid_and_is_refused() {
    let Some(folder) = vectors() else { return };
    let folder = folder.join("ccel/ccel-neg-a-eventdata");
    let log = read(&folder, "ccel.bin");
    let quote = quote(&read(&folder, "quote.bin")).expect("a genuine quote");
    let replayed = *RegisterLog::read(&log).expect("a log").values();
    assert_eq!(replayed, quote.report().rtmrs, "digests alone show nothing");
    assert_eq!(code(verify_recorded(&log, &quote)), "eventlog.data_edited");
}

#[test]
fn azures_zero_registers_are_proven_by_no_log() {
    let Some(folder) = vectors() else { return };
    let quote = quote(&read(&folder, "azure/aztdx-trustee-v1/td_quote.bin")).expect("a genuine quote");
    assert_eq!(quote.report().rtmrs, [[0; 48]; 4]);
    let log = read(&folder, "ccel/ccel-gcp-cos113/ccel.bin");
    // The header alone, with padding: it replays to exactly these registers, as any would.
    let empty = [&log[..65], &[0xff; 100]].concat();
    assert_eq!(RegisterLog::read(&empty).expect("a log").values(), &quote.report().rtmrs);
    assert_eq!(code(verify_recorded(&empty, &quote)), "rtmr.log.empty");
    assert_eq!(code(verify_recorded(b"[]", &quote)), "rtmr.log.empty");
    assert_eq!(code(verify_recorded(&log, &quote)), "rtmr.replay");
}

#[test]
fn dstack_and_attestation_agents_extend_rtmr3_with_what_they_say() {
    let Some(folder) = vectors() else { return };
    for (name, count) in [("dstack", 8), ("nearai", 9)] {
        let folder = folder.join(format!("ccel/dstack-eventlog-{name}"));
        let quote = quote(&read(&folder, "quote.bin")).expect("a genuine quote");
        let claims = verify_recorded(&read(&folder, "event_log.json"), &quote).expect(name);
        assert_eq!((claims.form, claims.runtime.len()), (LogForm::Dstack, count), "{name}");
        let named =
            |event: &RuntimeEvent| matches!(event, RuntimeEvent::Dstack { event, .. } if event == "compose-hash");
        assert!(claims.runtime.iter().any(named), "{name}");
    }
}

#[test]
fn a_genuine_azure_td_vouches_for_its_virtual_tpm_and_another_tds_quote_does_not() {
    let Some(folder) = vectors() else { return };
    let nv = read(&folder, "azure/aztdx-trustee-v1/hcl_report.bin");
    let hcl = HclReport::parse(&nv).expect("a report");
    let own = quote(&read(&folder, "azure/aztdx-trustee-v1/td_quote.bin")).expect("a genuine quote");
    let paravisor = azure::verify(&hcl, Hardware::RecordedTdx(&own), NOW).expect("its own quote");
    assert_eq!(paravisor.claims().hardware, HardwareKind::Tdx);
    let other = quote(&read(&folder, "azure/aztdx-neg-a-othertdquote/td_quote.bin")).expect("a genuine quote");
    assert_eq!(code(azure::verify(&hcl, Hardware::RecordedTdx(&other), NOW)), "hcl.tdreport.quote");
    let snp = read(&folder, "azure/azsnp-milan-trustee-v1/hcl_report.bin");
    let snp = HclReport::parse(&snp).expect("a report");
    assert_eq!(code(azure::verify(&snp, Hardware::RecordedTdx(&own), NOW)), "hcl.hardware");
}

/// Claims of a quote under the collateral of a manifest's case.
fn endorsed(folder: &Path, quote: &str, collateral: &str, now: UnixMillis) -> Result<TdxClaims, Rejection> {
    let parts: serde_json::Value = serde_json::from_slice(&read(folder, collateral)).expect("JSON");
    let text = |name: &str| parts.get(name).and_then(serde_json::Value::as_str).expect(name);
    let bytes = |name: &str| hex::decode(text(name)).expect(name);
    let collateral = IntelCollateral {
        pck_crl_issuer_chain: text("pck_crl_issuer_chain"),
        root_ca_crl: &bytes("root_ca_crl"),
        pck_crl: &bytes("pck_crl"),
        tcb_info_issuer_chain: text("tcb_info_issuer_chain"),
        tcb_info: text("tcb_info"),
        tcb_info_signature: &bytes("tcb_info_signature"),
        qe_identity_issuer_chain: text("qe_identity_issuer_chain"),
        qe_identity: text("qe_identity"),
        qe_identity_signature: &bytes("qe_identity_signature"),
    };
    let collateral = VerifiedCollateral::endorse(&collateral, &[root()], now)?;
    tdx::verify(&read(folder, quote), &collateral, ReportDataExpectation::Recorded, now)
}

/// 2025-10-31T14:17:11Z, and the collateral of then.
const THEN: UnixMillis = UnixMillis(1_761_920_231_000);
const COLLATERAL: &str = "tdx/collateral/00806f050000-2025-10-19-bfb443035a.json";

#[test]
fn claims_of_a_quote_hold_a_log_to_its_registers() {
    let Some(folder) = vectors() else { return };
    let claims = endorsed(&folder, "tdx/tdx-v4-gotdxguest-00b252/quote.bin", COLLATERAL, THEN).expect("claims");
    let log = read(&folder, "ccel/ccel-gcp-cos113/ccel.bin");
    let rtmr = rtmr::verify(&log, &claims).expect("a log that replays");
    assert_eq!(rtmr.replayed, [0, 1, 2].into());
    for name in ["digest", "dropped", "reordered"] {
        let log = read(&folder, &format!("ccel/ccel-neg-a-{name}/ccel.bin"));
        assert_eq!(code(rtmr::verify(&log, &claims)), "rtmr.replay", "{name}");
    }
    let mut short = claims;
    short.rtmrs[3].0.pop();
    assert_eq!(code(rtmr::verify(&log, &short)), "rtmr.replay");
}

#[test]
fn c8_a_tdreport_counts_as_far_as_a_verified_quote_says_the_same() {
    let Some(folder) = vectors() else { return };
    let nv = read(&folder, "azure/aztdx-trustee-v1/hcl_report.bin");
    let hcl = HclReport::parse(&nv).expect("a report");
    let claims = endorsed(&folder, "azure/aztdx-trustee-v1/td_quote.bin", COLLATERAL, THEN).expect("claims");
    let paravisor = azure::verify(&hcl, Hardware::Tdx(&claims), THEN).expect("its own quote");
    assert_eq!(paravisor.claims().assurance, Assurance::Hardware);
    // Each field that both have.
    let changes: [fn(&mut TdxClaims); 15] = [
        |claims| claims.report_data.0[0] ^= 1,
        |claims| claims.tee_tcb_svn.0[0] ^= 1,
        |claims| claims.mr_seam.0[0] ^= 1,
        |claims| claims.mr_signer_seam.0[0] ^= 1,
        |claims| claims.seam_attributes.0[0] ^= 1,
        |claims| claims.td_attributes.0[0] ^= 1,
        |claims| claims.xfam.0[0] ^= 1,
        |claims| claims.mr_td.0[0] ^= 1,
        |claims| claims.mr_config_id.0[0] ^= 1,
        |claims| claims.mr_owner.0[0] ^= 1,
        |claims| claims.mr_owner_config.0[0] ^= 1,
        |claims| claims.rtmrs[0].0[0] ^= 1,
        |claims| claims.rtmrs[1].0[0] ^= 1,
        |claims| claims.rtmrs[2].0[0] ^= 1,
        |claims| claims.rtmrs[3].0[0] ^= 1,
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut other = claims.clone();
        change(&mut other);
        let verdict = azure::verify(&hcl, Hardware::Tdx(&other), THEN);
        assert_eq!(code(verdict), "hcl.tdreport.quote", "field {number}");
    }
    let mut serviced = claims;
    serviced.mr_service_td = Some(HexBytes(vec![1; 48]));
    assert_eq!(code(azure::verify(&hcl, Hardware::Tdx(&serviced), THEN)), "hcl.tdreport.quote");
    serviced.mr_service_td = None;
    serviced.extended = Some(TdxExtendedClaims {
        vm_id: 1,
        td_id: HexBytes(vec![0; 32]),
        dev_info: HexBytes(vec![0; 48]),
        init_service_td_hash: HexBytes(vec![0; 48]),
        current_service_td_hash: HexBytes(vec![0; 48]),
    });
    assert_eq!(code(azure::verify(&hcl, Hardware::Tdx(&serviced), THEN)), "hcl.hardware.layer");
    serviced.extended = None;
    // Runtime data that was edited beside a TDREPORT and a quote that were not.
    let edited = read(&folder, "azure/aztdx-neg-a-runtimedata/hcl_report.bin");
    let edited = HclReport::parse(&edited).expect("a report");
    assert_eq!(code(azure::verify(&edited, Hardware::Tdx(&serviced), THEN)), "hcl.runtime.binding");
}
