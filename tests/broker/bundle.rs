//! A decision in one file proves itself to whoever has the log's key and the vendors' roots, and nothing that is not
//! exactly it does.

use std::collections::BTreeSet;

use countersign::broker::decision_bundle::{BundleError, DecisionBundle, Proven};
use countersign::collateral::anchors::shipped_digests;
use countersign::lineage::archive::Archive;
use countersign::lineage::audit;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::checkpoint::NoteKey;
use countersign_attestation::lineage::entry::Entry;
use serde_json::{Value, json};

use crate::house::{Host, House, manifest};
use crate::measured::Boot;

/// What an auditor has, and what the broker has.
struct Audit {
    key: NoteKey,
    roots: BTreeSet<Sha256Digest>,
    entries: Vec<Vec<u8>>,
    checkpoint: String,
    archive: Archive,
}

impl Audit {
    fn of(house: &House) -> Self {
        let data = house.data();
        let vkey = std::fs::read_to_string(data.public().join("log.vkey")).unwrap();
        Self {
            key: NoteKey::parse(vkey.trim()).unwrap(),
            roots: BTreeSet::from([Sha256Digest::of(&[&house.maker.anchor().root])]),
            checkpoint: std::fs::read_to_string(data.log().join("checkpoint")).unwrap(),
            entries: audit::entries(&data.log()).unwrap(),
            archive: Archive::open(&data.archive()).unwrap(),
        }
    }

    fn bundle(&self, index: u64) -> Result<Vec<u8>, BundleError> {
        DecisionBundle::make(index, &self.entries, &self.checkpoint, &self.key, &self.archive)?.encode()
    }

    fn prove(&self, bytes: &[u8]) -> Result<Proven, BundleError> {
        DecisionBundle::prove(bytes, &self.key, &shipped_digests(), &self.roots)
    }

    /// Indices of everything that was judged.
    fn judged(&self) -> Vec<u64> {
        let entries = (0..).zip(&self.entries).map(|(index, bytes)| (index, Entry::decode(bytes).unwrap()));
        entries.filter(|(_, entry)| entry.inputs().is_some()).map(|(index, _)| index).collect()
    }
}

/// Grants, a denial and a revocation, with logs and without.
async fn story() -> (House, Audit) {
    let mut house = House::new();
    let mut host = Host::enrolled(&house, "gpu-1").await;
    house.register_reference(&manifest(&host, &json!({}))).await.unwrap();
    host.attest(&house).await.unwrap();
    host.reboot(Boot::secure(true));
    host.attest_with(&house, |logs| logs.event_log = Some(vec![1; 40])).await.unwrap_err();
    host.attest(&house).await.unwrap();
    house.withdraw("image-1").await;
    // A start publishes what the log holds.
    house.restart();
    tokio::task::block_in_place(|| house.broker().lineage.stop());
    let audit = Audit::of(&house);
    (house, audit)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_decision_is_proven_from_its_bundle_alone() {
    let (_house, audit) = story().await;
    let judged = audit.judged();
    assert_eq!(judged.len(), 4);
    for index in judged {
        let bytes = audit.bundle(index).unwrap();
        let Proven { index: proven, entry, head, decision, .. } = audit.prove(&bytes).unwrap();
        assert_eq!((proven, head.size), (index, audit.entries.len() as u64));
        assert_eq!(entry, Entry::decode(&audit.entries[usize::try_from(index).unwrap()]).unwrap());
        assert_eq!(Some(Sha256Digest::of(&[&decision.canonical_bytes()])), entry.subject());
        assert_eq!(audit.bundle(index).unwrap(), bytes, "made again, it is the same file");
    }
    assert!(matches!(audit.bundle(0), Err(BundleError::NothingJudged { index: 0, .. })));
    assert!(matches!(audit.bundle(1000), Err(BundleError::NotCovered { index: 1000, .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn e25_a_bundle_with_any_byte_changed_proves_nothing() {
    let (_house, audit) = story().await;
    for index in audit.judged() {
        let good = audit.bundle(index).unwrap();
        let step = (good.len() / 150).max(1);
        for at in (0..good.len()).step_by(step).chain(good.len() - 60..good.len()).chain(0..60) {
            let mut bad = good.clone();
            bad[at] ^= if at % 2 == 0 { 1 } else { 0x20 };
            assert!(audit.prove(&bad).is_err(), "entry {index}, byte {at}");
        }
        for bad in [&good[..good.len() - 1], &[&good[..], b"\n"].concat(), b"", b"{}"] {
            assert!(matches!(audit.prove(bad), Err(BundleError::Form(_))));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e25_each_part_of_a_bundle_is_needed_and_in_its_place() {
    let (_house, audit) = story().await;
    let index = *audit.judged().last().unwrap();
    let good: Value = serde_json::from_slice(&audit.bundle(index).unwrap()).unwrap();
    let other: Value = serde_json::from_slice(&audit.bundle(audit.judged()[0]).unwrap()).unwrap();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut bundle: DecisionBundle = serde_json::from_value(good.clone()).unwrap();
        let mut value = good.clone();
        change(&mut value);
        if let Ok(changed) = serde_json::from_value(value) {
            bundle = changed;
        }
        audit.prove(&bundle.encode().unwrap()).unwrap_err().to_string()
    };
    let count = good["blobs"].as_array().unwrap().len();
    for at in 0..count {
        let without = changed(&|value| drop(value["blobs"].as_array_mut().unwrap().remove(at)));
        assert!(!without.is_empty());
    }
    let unused = changed(&|value| {
        let mut blobs: Vec<(Sha256Digest, Value)> = Vec::new();
        let extra = json!("bm90aGluZw");
        for blob in value["blobs"].as_array().unwrap().iter().chain([&extra]) {
            let bytes: countersign_attestation::protocol::Base64Bytes = serde_json::from_value(blob.clone()).unwrap();
            blobs.push((Sha256Digest::of(&[&bytes.0]), blob.clone()));
        }
        blobs.sort_by_key(|(digest, _)| *digest);
        value["blobs"] = blobs.into_iter().map(|(_, blob)| blob).collect();
    });
    assert!(unused.contains("has nothing to do with the decision"), "{unused}");
    let reversed = changed(&|value| value["blobs"].as_array_mut().unwrap().reverse());
    assert!(reversed.contains("in the order of their digests"), "{reversed}");
    for member in ["index", "entry", "inclusion", "blobs"] {
        let said = changed(&|value| value[member] = other[member].clone());
        assert!(!said.is_empty(), "{member}");
    }
    let said = changed(&|value| value["format"] = "countersign/decision-bundle/v2".into());
    assert!(said.contains("countersign/decision-bundle/v1"), "{said}");

    // Another log's key, and a root that nobody named.
    let bytes = audit.bundle(index).unwrap();
    let stranger = NoteKey::ed25519(audit.key.name(), &[7; 32]);
    let shipped = shipped_digests();
    if let Ok(stranger) = stranger {
        assert!(matches!(DecisionBundle::prove(&bytes, &stranger, &shipped, &audit.roots), Err(BundleError::Log(_))));
    }
    assert!(matches!(
        DecisionBundle::prove(&bytes, &audit.key, &shipped, &BTreeSet::new()),
        Err(BundleError::Root { .. })
    ));
}
