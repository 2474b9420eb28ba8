//! Genuine logs: what is read, replayed and told of them.

#![expect(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use countersign_attestation::claims::{HexBytes, PcrBank, PcrHash};
use countersign_attestation::evidence::eventlog::claims::ExitBootServices;
use countersign_attestation::evidence::eventlog::{BootClaims, EventLog, SecureBoot, verify};
use countersign_attestation::evidence::tpm::algorithm::TpmHash;
use serde_json::Value;

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

fn cases(manifest: &str) -> Vec<(PathBuf, Value)> {
    let Some(folder) = vectors() else { return Vec::new() };
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(folder.join(manifest)).unwrap()).unwrap();
    cases.into_iter().map(|case| (folder.clone(), case)).collect()
}

/// The file of a role, or nothing.
fn file(folder: &std::path::Path, case: &Value, role: &str) -> Option<Vec<u8>> {
    Some(std::fs::read(folder.join(case["files"].get(role)?.as_str()?)).unwrap())
}

/// The values of the banks that can be trusted, of PCR 0 to 15.
fn signed(json: &[u8]) -> BTreeMap<PcrHash, PcrBank> {
    let banks: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_slice(json).unwrap();
    let mut signed = BTreeMap::new();
    for hash in [PcrHash::Sha256, PcrHash::Sha384, PcrHash::Sha512] {
        let Some(values) = banks.get(hash.name()).filter(|values| !values.is_empty()) else { continue };
        let values =
            values.iter().map(|(index, value)| (index.parse().unwrap(), HexBytes(hex::decode(value).unwrap())));
        signed.insert(hash, values.collect());
    }
    signed
}

fn told(id: &str) -> Option<BootClaims> {
    let (folder, case) = cases("MANIFEST-tpm-nv.json").into_iter().find(|(_, case)| case["id"] == id)?;
    let log = file(&folder, &case, "eventlog").unwrap();
    let pcrs = signed(&file(&folder, &case, "pcrs").unwrap());
    Some(verify(&log, &pcrs).unwrap().claims())
}

#[test]
fn genuine_logs_verify_against_their_values_in_every_trusted_bank() {
    let mut verified = 0;
    for (folder, case) in cases("MANIFEST-tpm-nv.json").iter().filter(|(_, case)| case["kind"] == "eventlog-replay") {
        let pcrs = signed(&file(folder, case, "pcrs").unwrap());
        let log = file(folder, case, "eventlog").unwrap();
        let accept = case["expect"] == "accept";
        let sha1_only = pcrs.is_empty();
        // One bit of the SHA-1 bank alone was flipped: that bank is not quoted here.
        let sha1_flipped = case["id"] == "el-neg-digest-flip";
        let outcome = verify(&log, &pcrs).map_err(|rejection| rejection.to_string());
        assert_eq!(outcome.is_ok(), (accept && !sha1_only) || sha1_flipped, "{}: {outcome:?}", case["id"]);
        verified += usize::from(outcome.is_ok());
    }
    assert!(vectors().is_none() || 13 <= verified, "{verified}");
}

#[test]
fn genuine_boots_are_told() {
    let Some(rhel) = told("el-gce-rhel8") else { return };
    assert_eq!((rhel.secure_boot, rhel.exit_boot_services), (SecureBoot::On, ExitBootServices::Reached));
    assert_eq!(rhel.images.measured().unwrap().len(), 3);
    assert_eq!(rhel.pk.measured().unwrap().contents.measured().unwrap().certificates.len(), 1);
    assert!(rhel.command_lines.measured().unwrap().iter().all(|line| line.contains("root=")), "{rhel:?}");
    assert_eq!(told("el-gce-ubuntu2104-nosb").unwrap().secure_boot, SecureBoot::Off);
    assert_eq!(told("el-arch-workstation").unwrap().secure_boot, SecureBoot::Off);
    let hp = told("el-hp-after-update").unwrap();
    assert_eq!(hp.secure_boot, SecureBoot::On);
    assert_eq!(hp.sbat_level.measured().unwrap(), "sbat,1,2021030218\n");
    assert!(hp.dbx.measured().unwrap().contents.measured().unwrap().hashes > 50);
    let [before, after] = ["el-hp-elitebook-mokx-baseline", "el-hp-elitebook-mokx-add"].map(|id| told(id).unwrap());
    assert_ne!(before.mok, after.mok);
    assert_eq!(before.dbx, after.dbx);
    // PCR 14 was not given: nothing is known of the keys shim measured there.
    assert_eq!(told("el-hp-partial-pcrs").unwrap().mok.measured(), None);
}

#[test]
fn logs_of_confidential_vms_are_read_and_replayed() {
    for (folder, case) in cases("MANIFEST-cc.json").iter().filter(|(_, case)| case["kind"] == "ccel") {
        let Some(bytes) = file(folder, case, "event_log").filter(|bytes| !bytes.starts_with(b"[")) else { continue };
        let detail = &case["expect_detail"];
        let log = EventLog::parse(&bytes);
        let replay = log.as_ref().map(|log| log.replay_bank(TpmHash::Sha384));
        let rtmrs = |replay: &countersign_attestation::evidence::eventlog::BankReplay| {
            (0..4_u8).all(|rtmr| {
                let value = hex::encode(replay.value(rtmr.saturating_add(1)).unwrap());
                detail[format!("rtmr{rtmr}")] == value
            })
        };
        // Data that was edited beneath its digest replays all the same.
        let replays = case["expect"] == "accept" || case["id"] == "ccel-neg-a-eventdata";
        assert_eq!(replay.as_ref().is_ok_and(rtmrs), replays, "{}: {:?}", case["id"], log.err());
    }
}

#[test]
fn logs_of_quotes_compare_with_quoted_values_as_recorded() {
    let mut compared = 0;
    for (folder, case) in cases("MANIFEST-tpm-nv.json").iter().filter(|(_, case)| case["kind"] == "tpm-quote") {
        let expected = case["expect_detail"]["eventlog_replay"].as_array().cloned().unwrap_or_default();
        for (position, expected) in expected.iter().enumerate() {
            let numbered = format!("eventlog_{position}");
            let role = if position == 0 { "eventlog" } else { &numbered };
            let bytes = file(folder, case, role).unwrap();
            let log = EventLog::parse(&bytes).unwrap();
            let given: BTreeMap<String, BTreeMap<String, String>> =
                serde_json::from_slice(&file(folder, case, "pcrs").unwrap()).unwrap();
            for hash in [TpmHash::Sha1, TpmHash::Sha256] {
                let Some(matching) = expected[hash.name()]["match"].as_array() else { continue };
                let replay = log.replay_bank(hash);
                let equal = |index: &u8| {
                    replay.is_extended(*index)
                        && given[hash.name()].get(&index.to_string()) == replay.value(*index).map(hex::encode).as_ref()
                };
                let found: Vec<u8> = (0..24).filter(equal).collect();
                assert_eq!(serde_json::to_value(found).unwrap(), Value::from(matching.clone()), "{}", case["id"]);
                compared += 1;
            }
        }
    }
    assert!(vectors().is_none() || 12 <= compared, "{compared}");
}
