//! The log over HTTP, as any reader of C2SP tlog-tiles has it: the hashes, and for operators the entries.

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::checkpoint::{Checkpoint, NoteKey};
use countersign_attestation::lineage::cosignature::{Signer, WitnessPolicy};
use countersign_attestation::lineage::proof::Proof;
use countersign_attestation::lineage::tile::{Tile, TileKind, WIDTH, decode_bundle};
use countersign_attestation::lineage::tree::{Frontier, TreeHead, inclusion_proof, leaf_hash};

use crate::fleet::{Fleet, wait_until};

/// The published head, by the log's key.
fn head(fleet: &Fleet, key: &NoteKey) -> (TreeHead, String) {
    let answer = fleet.as_anyone().send("GET", "/log/checkpoint", None);
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-cache")));
    let note = answer.text();
    (Checkpoint::verify(&note, key, key.name()).unwrap().head(), note)
}

fn path(kind: TileKind, head: TreeHead, index: u64) -> String {
    let left = usize::try_from(head.size).unwrap() - usize::try_from(index).unwrap() * WIDTH;
    format!("/log/{}", Tile::new(kind, index, left.min(WIDTH)).unwrap().path())
}

#[test]
fn anyone_follows_the_tree_and_operators_read_the_entries() {
    let fleet = Fleet::start(&[]);
    let vkey = std::fs::read_to_string(fleet.data().join("public/log.vkey")).unwrap();
    let key = NoteKey::parse(vkey.trim()).unwrap();
    for number in 0..300 {
        let body = serde_json::json!({ "id": format!("host-{number}"), "ek_sha256": Sha256Digest([0; 32]) });
        assert_eq!(fleet.as_operator().send("POST", "/v1/hosts", Some(&body)).status, 201);
    }
    wait_until("300 entries are published", || 300 <= head(&fleet, &key).0.size);
    let (head, note) = head(&fleet, &key);

    let (mut leaves, mut entries, mut tree) = (Vec::new(), Vec::new(), Frontier::new());
    for index in 0..head.size.div_ceil(WIDTH as u64) {
        let hashes = fleet.as_anyone().send("GET", &path(TileKind::Hashes(0), head, index), None);
        assert_eq!(hashes.status, 200, "{}", hashes.text());
        assert_eq!(hashes.header("cache-control"), Some("public, max-age=31536000, immutable"));
        let bundle = fleet.as_operator().send("GET", &path(TileKind::Entries, head, index), None);
        let width = hashes.body.len() / 32;
        for entry in decode_bundle(&bundle.body, width).unwrap() {
            leaves.push(leaf_hash(entry));
            tree.push(leaf_hash(entry));
            entries.push(entry.to_vec());
        }
        let row: Vec<u8> = leaves[leaves.len() - width..].iter().flat_map(|leaf| leaf.0).collect();
        assert_eq!(row, hashes.body);
    }
    assert_eq!(tree.head(), head);
    let full = fleet.as_anyone().send("GET", "/log/tile/1/000.p/1", None);
    assert_eq!(full.body.len(), 32);

    // From the hashes anyone makes a proof of an entry that travels by itself.
    let policy = WitnessPolicy::new(Signer::parse(vkey.trim()).unwrap(), Vec::new(), 0).unwrap();
    let hashes = inclusion_proof(leaves.as_slice(), 270, head.size).unwrap();
    let proof = Proof { extra: None, index: 270, hashes, checkpoint: note };
    let read = Proof::parse(&proof.encode()).unwrap();
    assert_eq!(read.verify(&entries[270], &policy).unwrap().head(), head);
    assert!(read.verify(&entries[271], &policy).is_err());

    let printed = Proof::parse(&fleet.operator_ok(&["log", "prove", "--entry", "270"])).unwrap();
    assert!(printed.verify(&entries[270], &policy).is_ok() && printed.verify(&entries[269], &policy).is_err());
    assert!(!fleet.operator(&["log", "prove", "--entry", "100000"]).status.success());

    let nobody = fleet.as_anyone().send("GET", &path(TileKind::Entries, head, 0), None).problem();
    assert_eq!((nobody.status, nobody.code.as_str()), (401, "channel.unauthenticated"));
    for nothing in
        ["0/001", "0/x000/000", "0/000.p/256", "0/000.p/0", "entries", "0/../../keys", "9/000", "0/000.p/300"]
    {
        let answer = fleet.as_anyone().send("GET", &format!("/log/tile/{nothing}"), None).problem();
        assert_eq!((answer.status, answer.code.as_str()), (404, "lineage.tile.unknown"), "{nothing}");
    }
}
