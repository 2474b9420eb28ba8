//! The log: entries, checkpoints and tiles.

use std::sync::LazyLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use countersign_attestation::lineage::checkpoint::{Checkpoint, NoteKey};
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::lineage::tile::{Tile, decode_bundle, encode_bundle};

const ORIGIN: &str = "log.example/fuzz";

static LOG: LazyLock<(Ed25519KeyPair, NoteKey)> = LazyLock::new(|| {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).expect("a key");
    let public = pair.public_key().as_ref().try_into().expect("32 bytes");
    let key = NoteKey::ed25519(ORIGIN, public).expect("a name");
    (pair, key)
});

/// An entry: one encoding for one content.
pub fn entry(bytes: &[u8]) {
    if let Ok(entry) = Entry::decode(bytes) {
        assert_eq!(entry.encode().as_deref(), Ok(bytes));
    }
}

/// A note as it comes, and the same bytes as the text that the log signed.
pub fn checkpoint(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    let (pair, key) = &*LOG;
    drop(NoteKey::parse(text));
    assert!(Checkpoint::verify(text, key, ORIGIN).is_err(), "nobody has the key");
    let signature = pair.sign(bytes);
    let Ok(signature) = signature.as_ref().try_into() else { return };
    let note = format!("{text}\n{}", key.signature_line(signature));
    if let Ok(checkpoint) = Checkpoint::verify(&note, key, ORIGIN) {
        assert!(text.starts_with(&format!("{ORIGIN}\n{}\n", checkpoint.head().size)));
    }
}

/// A path and an entry bundle.
pub fn tile(bytes: &[u8]) {
    if let Some(tile) = core::str::from_utf8(bytes).ok().and_then(Tile::parse) {
        assert_eq!(tile.path().as_bytes(), bytes);
    }
    for width in [1, 2, 256] {
        if let Ok(entries) = decode_bundle(bytes, width) {
            assert_eq!(entries.len(), width);
            assert_eq!(encode_bundle(&entries).as_deref(), Ok(bytes));
        }
    }
}
