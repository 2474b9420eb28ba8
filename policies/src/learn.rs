//! A manifest proposed from what one host shows: for an operator who knows that the host is in its good state, and
//! reads what it says before it is registered.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use countersign_attestation::claims::{Claims, HexBytes, PcrHash, Presented, SnpClaims, SnpTcb, TdxClaims, TpmClaims};
use serde_json::{Map, Value, json};

use crate::boot::BootReference;
use crate::finding::Finding;
use crate::reference::ReferenceManifest;

/// PCRs that are pinned where no log tells what is in the others: firmware, option ROMs, boot loader, Secure Boot.
const WITHOUT_LOG: [u8; 4] = [0, 2, 4, 7];
/// PCRs that are pinned beside what a log names: the firmware's code, and its configuration of option ROMs' code.
const WITH_LOG: [u8; 2] = [0, 2];

/// The manifest of everything that a fleet's machines of this image have in common: firmware PCRs, what the event log
/// names (or the boot PCRs where there is none), launch measurements, and the TCB as a minimum. What differs between
/// machines (PCR 1, 3, 5) or grows while they run (PCR 10) is left out.
///
/// # Errors
/// Where nothing of it was presented, as a manifest that names nothing.
pub fn learn(id: &str, claims: &Claims) -> Result<ReferenceManifest, Finding> {
    let mut manifest = Map::new();
    manifest.insert("id".to_string(), id.into());
    let boot = match &claims.boot {
        Presented::Verified(boot) => BootReference::learned(boot),
        Presented::NotPresented => None,
    };
    let pcrs = pcrs(&claims.tpm, if boot.is_some() { &WITH_LOG } else { &WITHOUT_LOG });
    if let Some(pcrs) = pcrs {
        manifest.insert("tpm".to_string(), json!({ "pcrs": pcrs }));
    }
    manifest.extend(boot.map(|boot| ("boot".to_string(), boot)));
    if let Presented::Verified(found) = &claims.snp {
        manifest.insert("snp".to_string(), snp(found));
    }
    if let Presented::Verified(found) = &claims.tdx {
        manifest.insert("tdx".to_string(), tdx(found));
    }
    ReferenceManifest::parse(Value::Object(manifest).to_string().as_bytes())
}

/// Of one bank: SHA-256 where it was quoted, as it is what most tools print.
fn pcrs(tpm: &TpmClaims, wanted: &[u8]) -> Option<BTreeMap<String, BTreeMap<String, [String; 1]>>> {
    let banks = [PcrHash::Sha256, PcrHash::Sha384, PcrHash::Sha512];
    let (bank, quoted) = banks.iter().find_map(|bank| Some((bank, tpm.pcrs.get(bank)?)))?;
    let pinned: BTreeMap<_, _> =
        wanted.iter().filter_map(|pcr| Some((pcr.to_string(), [quoted.get(pcr)?.to_string()]))).collect();
    (!pinned.is_empty()).then(|| BTreeMap::from([(bank.name().to_string(), pinned)]))
}

fn snp(found: &SnpClaims) -> Value {
    let nonzero = |value: &HexBytes| value.0.iter().any(|byte| *byte != 0).then(|| Vec::from([value.to_string()]));
    let mut snp = Map::new();
    snp.insert("measurement".to_string(), json!([found.measurement.to_string()]));
    snp.extend(nonzero(&found.host_data).map(|value| ("host_data".to_string(), json!(value))));
    snp.extend(nonzero(&found.id_key_digest).map(|value| ("id_key_digest".to_string(), json!(value))));
    // All three are compared with it: the machine that it is learnt of passes, and others are no lower.
    let tcbs = [found.committed_tcb, found.launch_tcb, found.reported_tcb];
    let least = |component: fn(&SnpTcb) -> Option<u8>| tcbs.iter().map(component).min().flatten();
    let components = [
        ("bootloader", least(|tcb| Some(tcb.bootloader))),
        ("tee", least(|tcb| Some(tcb.tee))),
        ("snp", least(|tcb| Some(tcb.snp))),
        ("microcode", least(|tcb| Some(tcb.microcode))),
        ("fmc", least(|tcb| tcb.fmc)),
    ];
    let minimum = components.into_iter().filter_map(|(name, least)| Some((name.to_string(), least?.into())));
    let minimum = Value::Object(minimum.collect());
    let product = found.product.to_string().to_lowercase();
    snp.insert("min_tcb".to_string(), Value::Object(Map::from_iter([(product, minimum)])));
    Value::Object(snp)
}

fn tdx(found: &TdxClaims) -> Value {
    // RTMR 0 differs with the machine's memory and devices, and RTMR 3 grows while it runs.
    let [_, rtmr1, rtmr2, _] = found.rtmrs.each_ref().map(|rtmr| [rtmr.to_string()]);
    json!({ "mr_td": [found.mr_td.to_string()], "rtmr1": rtmr1, "rtmr2": rtmr2 })
}
