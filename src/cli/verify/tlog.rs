//! Cases about transparency logs: Merkle proofs and signed notes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_attestation::Rejection;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::LineageReason;
use countersign_attestation::lineage::checkpoint::NoteKey;
use countersign_attestation::lineage::tree::{TreeHead, verify_consistency, verify_inclusion};
use serde::Deserialize;
use serde_json::json;

use super::{CaseError, CaseFiles, Judgement, missing_file};

/// One proof of a set, and whether it has to be refused.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Inclusion {
    id: String,
    leaf_idx: u64,
    tree_size: u64,
    root: String,
    leaf_hash: String,
    proof: Option<Vec<String>>,
    want_err: bool,
}

/// Likewise.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Consistency {
    id: String,
    size1: u64,
    size2: u64,
    root1: String,
    root2: String,
    proof: Option<Vec<String>>,
    want_err: bool,
}

/// Judges a set of inclusion proofs (RFC 6962, 2.1.1): each as it says of itself.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_inclusion(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(set) = files.read("vectors")? else { return Ok(missing_file("vectors")) };
    let Ok(set) = serde_json::from_slice::<Vec<Inclusion>>(&set) else { return Ok(missing_file("a set of proofs")) };
    let verdicts = set.iter().map(|one| {
        let judge = || -> Option<bool> {
            let (root, leaf) = (digest(&one.root)?, digest(&one.leaf_hash)?);
            let proof = digests(one.proof.as_deref())?;
            let head = TreeHead { size: one.tree_size, root };
            Some(verify_inclusion(head, one.leaf_idx, leaf, &proof).is_ok())
        };
        (one.id.as_str(), one.want_err, judge().unwrap_or(false))
    });
    Ok(judge_set(verdicts))
}

/// Judges a set of consistency proofs (RFC 6962, 2.1.2), likewise.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_consistency(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(set) = files.read("vectors")? else { return Ok(missing_file("vectors")) };
    let Ok(set) = serde_json::from_slice::<Vec<Consistency>>(&set) else { return Ok(missing_file("a set of proofs")) };
    let verdicts = set.iter().map(|one| {
        let judge = || -> Option<bool> {
            let older = TreeHead { size: one.size1, root: root(&one.root1)? };
            let newer = TreeHead { size: one.size2, root: root(&one.root2)? };
            Some(verify_consistency(older, newer, &digests(one.proof.as_deref())?).is_ok())
        };
        (one.id.as_str(), one.want_err, judge().unwrap_or(false))
    });
    Ok(judge_set(verdicts))
}

/// Accepted when every proof is taken or refused as it says.
pub(super) fn judge_set<'a>(verdicts: impl Iterator<Item = (&'a str, bool, bool)>) -> Judgement {
    let (mut proofs, mut other) = (0_usize, Vec::new());
    for (id, refuse, taken) in verdicts {
        proofs = proofs.saturating_add(1);
        if taken == refuse {
            other.push(id);
        }
    }
    if other.is_empty() && 0 < proofs {
        return Judgement::Accepted(json!({ "details": { "vectors": proofs } }));
    }
    Judgement::Rejected(LineageReason::ProofInclusion.because("each proof as it says of itself", other.join(", ")))
}

/// A root that a set may give in any bytes: of trees of one size it is only compared, and no proof leads to what stands
/// for bytes that are no hash.
pub(super) fn root(text: &str) -> Option<Sha256Digest> {
    let bytes = STANDARD.decode(text).ok()?;
    Some(<[u8; 32]>::try_from(bytes.as_slice()).map_or_else(|_| Sha256Digest::of(&[&bytes]), Sha256Digest))
}

/// What is not 32 bytes is no hash.
pub(super) fn digest(text: &str) -> Option<Sha256Digest> {
    STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).map(Sha256Digest)
}

pub(super) fn digests(proof: Option<&[String]>) -> Option<Vec<Sha256Digest>> {
    proof.unwrap_or_default().iter().map(|hash| digest(hash)).collect()
}

/// Judges a note that every one of the given keys has to have signed (C2SP signed-note).
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_note(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let (Some(note), Some(keys)) = (files.read("note")?, files.read("vkeys")?) else {
        return Ok(missing_file("note and vkeys"));
    };
    let judge = || -> Result<usize, Rejection> {
        let refused = |_| LineageReason::NoteForm.because("UTF-8", "other bytes");
        let (note, keys) = (std::str::from_utf8(&note).map_err(refused)?, String::from_utf8_lossy(&keys));
        let keys: Vec<NoteKey> = keys.lines().map(NoteKey::parse).collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| key.open(note).map(drop))?;
        Ok(keys.len())
    };
    Ok(match judge() {
        Ok(0) => missing_file("vkeys"),
        Ok(signers) => Judgement::Accepted(json!({ "signers": signers })),
        Err(rejection) => Judgement::Rejected(rejection),
    })
}
