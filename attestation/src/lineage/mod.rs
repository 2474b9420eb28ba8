//! The lineage log, as anyone can read and check it: entries, the Merkle tree over them, checkpoints, tiles, and what
//! the entries of a host may say one after the other.

pub mod checkpoint;
pub mod cosignature;
pub mod entry;
pub mod history;
pub mod proof;
pub mod subtree;
pub mod tile;
pub mod tree;
pub mod witness;

use crate::rejection::reasons;

reasons! {
    /// Why something in or about the log is rejected.
    LineageReason {
        /// RFC 8949, 4.2.1.
        EntryEncoding = "lineage.entry.encoding",
            "the entry is not in its one deterministic encoding",
            "read the entry from the log unchanged";
        /// A version this code does not know.
        EntryVersion = "lineage.entry.version",
            "the entry is of another version",
            "use the version of Countersign that wrote the log, or a later one";
        /// Mandatory members of each event, and limits.
        EntryMembers = "lineage.entry.members",
            "the entry does not have the members of its event",
            "record the event with the members the entry format names";
        /// RFC 9162, 2.1.3.2.
        ProofInclusion = "lineage.proof.inclusion",
            "the proof does not lead from the entry to the root",
            "ask the log for a proof for this entry and this checkpoint";
        /// RFC 9162, 2.1.4.2.
        ProofConsistency = "lineage.proof.consistency",
            "the proof does not show that the newer tree begins with the older one",
            "keep both checkpoints: if no proof exists, the log was rewritten";
        /// C2SP signed-note, verifier keys.
        KeyForm = "lineage.key.form",
            "the text is not the verifier key of an Ed25519 signer",
            "copy the key as the log's operator published it";
        /// C2SP signed-note, format.
        NoteForm = "lineage.note.form",
            "the text is not a signed note",
            "read the note unchanged";
        /// C2SP signed-note, signatures.
        NoteSignature = "lineage.note.signature",
            "the note is not signed by the key",
            "check with the operator of the log which key it signs with";
        /// C2SP tlog-checkpoint, note text.
        CheckpointForm = "lineage.checkpoint.form",
            "the note's text is not a checkpoint",
            "read the log's checkpoint, not another note";
        /// C2SP tlog-checkpoint: one origin for each log.
        CheckpointOrigin = "lineage.checkpoint.origin",
            "the checkpoint is that of another log",
            "read the checkpoint of the log that was asked for";
        /// C2SP tlog-cosignature: enough different witnesses.
        Cosignatures = "lineage.checkpoint.cosignatures",
            "fewer witnesses than the policy asks for have cosigned the checkpoint",
            "ask for a checkpoint that more witnesses have seen; a log that shows nobody the same tree gets none";
        /// C2SP tlog-proof, format.
        ProofForm = "lineage.proof.form",
            "the text is not a proof",
            "read the proof unchanged";
        /// draft-ietf-plants-merkle-tree-certs, subtrees.
        Subtree = "lineage.subtree",
            "the range is not a subtree",
            "name a range that starts at a multiple of the next power of two of its size";
        /// C2SP tlog-tiles: what a log serves is one tree.
        TileHashes = "lineage.tile.hashes",
            "the tiles do not hold the hashes of the entries",
            "read the tiles from the log again: if they stay so, the log is wrong";
        /// C2SP tlog-tiles, log entries.
        BundleForm = "lineage.bundle.form",
            "the bytes are not a bundle of this many entries",
            "read the bundle unchanged";
        /// A host's entries form one chain.
        HistoryParent = "lineage.history.parent",
            "the entry does not follow the host's entries before it",
            "treat the log as wrong: it does not tell one story about this host";
        /// Generations and revisions only grow.
        HistoryRevision = "lineage.history.revision",
            "the entry was made on a state that the host was not in",
            "treat the log as wrong: it does not tell one story about this host";
        /// Revocation ends with an operator's or an enrolment's entry.
        HistoryRevoked = "lineage.history.revoked",
            "a host was granted trust while it was revoked",
            "treat credentials of this host as not trusted from its revocation on";
    }
}

#[cfg(test)]
pub(crate) mod vectors {
    //! Conformance vectors, where they are.
    extern crate std;

    use alloc::string::String;
    use alloc::vec::Vec;
    use std::path::PathBuf;

    /// The folder of vectors, unless there is none.
    pub(crate) fn folder() -> Option<PathBuf> {
        #[expect(clippy::disallowed_methods, reason = "tests find their vectors by it")]
        let named = std::env::var("COUNTERSIGN_VECTORS").map(PathBuf::from);
        let folder = named.unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors").into());
        if !folder.is_dir() {
            std::eprintln!("skipped: no vectors in {}", folder.display());
            return None;
        }
        Some(folder)
    }

    /// The vectors of one kind: `(id, accepted, row)`.
    pub(crate) fn of_kind(kind: &str) -> Vec<(String, bool, serde_json::Value)> {
        let Some(folder) = folder() else { return Vec::new() };
        let manifest = std::fs::read(folder.join("MANIFEST-tpm-nv.json")).unwrap();
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&manifest).unwrap();
        let rows = rows.into_iter().filter(|row| row["kind"] == kind);
        let rows: Vec<_> =
            rows.map(|row| (row["id"].as_str().unwrap().into(), row["expect"] == "accept", row)).collect();
        assert!(!rows.is_empty(), "{kind}");
        rows
    }

    /// The text of a vector's file.
    pub(crate) fn text(row: &serde_json::Value, file: &str) -> String {
        String::from_utf8(bytes(row, file)).unwrap()
    }

    /// A vector's file.
    pub(crate) fn bytes(row: &serde_json::Value, file: &str) -> Vec<u8> {
        let path = row["files"][file].as_str().unwrap();
        std::fs::read(folder().unwrap().join(path)).unwrap()
    }
}
