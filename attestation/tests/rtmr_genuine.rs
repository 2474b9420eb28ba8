//! Genuine logs of trust domains against their quotes, and quotes whose signatures alone are checked.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "test code")]

use std::path::{Path, PathBuf};

use countersign_attestation::anchor::Assurance;
use countersign_attestation::evidence::eventlog::SecureBoot;
use countersign_attestation::evidence::paravisor::{Hardware, HardwareKind, HclReport, azure};
use countersign_attestation::evidence::tdx::recorded::RecordedTdQuote;
use countersign_attestation::evidence::tdx::rtmr::{LogForm, RegisterLog, RuntimeEvent, verify_recorded};
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
    RecordedTdQuote::verify(bytes, &[(Assurance::Hardware, ROOT)], NOW)
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
    assert_eq!(code(nobody), "hcl.td_quote.signature");
    let early = RecordedTdQuote::verify(&genuine, &[(Assurance::Hardware, ROOT)], UnixMillis(0));
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
