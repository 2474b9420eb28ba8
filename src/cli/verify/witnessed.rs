//! Cases about what logs and their witnesses publish: checkpoints, proofs, tiles, and what a witness answers.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_attestation::Rejection;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::LineageReason;
use countersign_attestation::lineage::checkpoint::{Checkpoint, NoteKey};
use countersign_attestation::lineage::cosignature::{Signer, WitnessPolicy, cosignature_line, cosigned, witness_vkey};
use countersign_attestation::lineage::proof::Proof;
use countersign_attestation::lineage::subtree::Subtree;
use countersign_attestation::lineage::tile::{WIDTH, decode_bundle};
use countersign_attestation::lineage::tree::{Frontier, TreeHead, leaf_hash, verify_consistency};
use countersign_attestation::lineage::witness::{Answer, Witness};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::tlog::{digest, digests, judge_set, root};
use super::{CaseError, CaseFiles, Judgement, missing_file};

/// One proof of a set about subtrees, and whether it has to be refused.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SubtreeInclusion {
    id: String,
    leaf_idx: u64,
    start: u64,
    end: u64,
    root: String,
    leaf_hash: String,
    proof: Option<Vec<String>>,
    want_err: bool,
}

/// Likewise.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SubtreeConsistency {
    id: String,
    start: u64,
    end: u64,
    size: u64,
    root1: String,
    root2: String,
    proof: Option<Vec<String>>,
    want_err: bool,
}

/// Judges a set of subtree inclusion proofs: each as it says of itself.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_subtree_inclusion(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(set) = files.read("vectors")? else { return Ok(missing_file("vectors")) };
    let Ok(set) = serde_json::from_slice::<Vec<SubtreeInclusion>>(&set) else {
        return Ok(missing_file("a set of proofs"));
    };
    let verdicts = set.iter().map(|one| {
        let judge = || -> Option<bool> {
            let subtree = Subtree::new(one.start, one.end, digest(&one.root)?).ok()?;
            let (leaf, proof) = (digest(&one.leaf_hash)?, digests(one.proof.as_deref())?);
            Some(subtree.verify_inclusion(one.leaf_idx, leaf, &proof).is_ok())
        };
        (one.id.as_str(), one.want_err, judge().unwrap_or(false))
    });
    Ok(judge_set(verdicts))
}

/// Judges a set of subtree consistency proofs, likewise.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_subtree_consistency(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(set) = files.read("vectors")? else { return Ok(missing_file("vectors")) };
    let Ok(set) = serde_json::from_slice::<Vec<SubtreeConsistency>>(&set) else {
        return Ok(missing_file("a set of proofs"));
    };
    let verdicts = set.iter().map(|one| {
        let judge = || -> Option<bool> {
            let subtree = Subtree::new(one.start, one.end, root(&one.root1)?).ok()?;
            let head = TreeHead { size: one.size, root: root(&one.root2)? };
            Some(subtree.verify_consistency(head, &digests(one.proof.as_deref())?).is_ok())
        };
        (one.id.as_str(), one.want_err, judge().unwrap_or(false))
    });
    Ok(judge_set(verdicts))
}

fn utf8(bytes: &[u8]) -> Result<&str, Rejection> {
    std::str::from_utf8(bytes).map_err(|_| LineageReason::NoteForm.because("UTF-8", "other bytes"))
}

fn signers(vkeys: &[u8]) -> Result<Vec<Signer>, Rejection> {
    utf8(vkeys)?.lines().map(Signer::parse).collect()
}

/// The log is the first of the keys, the others are witnesses; more than half of them have to cosign.
fn policy(vkeys: &[u8]) -> Result<WitnessPolicy, Rejection> {
    let mut signers = signers(vkeys)?.into_iter();
    let log = signers.next().ok_or_else(|| LineageReason::KeyForm.because("the log's key", "none"))?;
    let witnesses: Vec<Signer> = signers.collect();
    let majority = if witnesses.is_empty() { 0 } else { (witnesses.len() / 2).saturating_add(1) };
    WitnessPolicy::new(log, witnesses, majority)
}

fn judged<T, D: Serialize>(judged: Result<T, Rejection>, told: impl FnOnce(T) -> D) -> Judgement {
    match judged {
        Ok(value) => Judgement::Accepted(json!({ "details": told(value) })),
        Err(rejection) => Judgement::Rejected(rejection),
    }
}

/// What a checkpoint says, as manifests write it.
#[derive(Serialize)]
struct Told {
    origin: String,
    size: u64,
    root: String,
}

fn told(checkpoint: &Checkpoint) -> Told {
    let TreeHead { size, root } = checkpoint.head();
    Told { origin: checkpoint.origin().to_owned(), size, root: STANDARD.encode(root.0) }
}

/// Judges a checkpoint that every one of the keys has to have signed, and the entries it covers where they are there.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_checkpoint(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let (Some(note), Some(vkeys)) = (files.read("note")?, files.read("vkeys")?) else {
        return Ok(missing_file("note and vkeys"));
    };
    let (entries, hashes) = (files.read("entries")?, files.read("hashes")?);
    let judge = || -> Result<Checkpoint, Rejection> {
        let note = utf8(&note)?;
        let mut checkpoint = None;
        for signer in signers(&vkeys)? {
            checkpoint = Some(signer.check(note)?.0);
        }
        let none = || LineageReason::NoteSignature.because("a verifier key", "none");
        let checkpoint = checkpoint.ok_or_else(none)?;
        if let (Some(entries), Some(hashes)) = (&entries, &hashes) {
            let width = usize::try_from(checkpoint.head().size).unwrap_or(usize::MAX);
            check_tree(checkpoint.head(), &[(entries, hashes, width)], &[])?;
        }
        Ok(checkpoint)
    };
    Ok(judged(judge(), |checkpoint| told(&checkpoint)))
}

/// Judges whether a text can be read as a checkpoint with signatures, which are not checked.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_parse(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(note) = files.read("note")? else { return Ok(missing_file("note")) };
    let read = utf8(&note).and_then(Checkpoint::read_unverified);
    Ok(judged(read, |(_, lines)| json!({ "signatures": lines })))
}

/// Judges whether one checkpoint continues another, both signed as the policy asks.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_continuation(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let (Some(old), Some(new), Some(proof), Some(vkeys)) =
        (files.read("old")?, files.read("new")?, files.read("proof")?, files.read("vkeys")?)
    else {
        return Ok(missing_file("old, new, proof and vkeys"));
    };
    let judge = || -> Result<(u64, u64), Rejection> {
        let policy = policy(&vkeys)?;
        let (old, new) = (policy.check(utf8(&old)?)?, policy.check(utf8(&new)?)?);
        if old.origin() != new.origin() {
            return Err(LineageReason::CheckpointOrigin.because(old.origin(), new.origin()));
        }
        let refused = || LineageReason::ProofConsistency.because("base64 of hashes", "something else");
        let lines: Vec<String> = utf8(&proof)?.lines().map(ToOwned::to_owned).collect();
        let hashes = digests(Some(&lines)).ok_or_else(refused)?;
        verify_consistency(old.head(), new.head(), &hashes)?;
        Ok((old.head().size, new.head().size))
    };
    Ok(judged(judge(), |(old, new)| json!({ "old_size": old, "new_size": new })))
}

/// A proof that must be refused.
#[derive(Deserialize)]
struct Malformed {
    proof: String,
}

/// Judges a proof that travels with its entry; of a set, each has to be one.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_proof(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    if let Some(set) = files.read("vectors")? {
        let Ok(set) = serde_json::from_slice::<Vec<Malformed>>(&set) else {
            return Ok(missing_file("a set of proofs"));
        };
        let read: Vec<Result<Proof, Rejection>> = set.iter().map(|one| Proof::parse(&one.proof)).collect();
        // Refused as a set when all are; one that can be read is no format error.
        let first = read.iter().find_map(|one| one.as_ref().err().cloned());
        return Ok(match first {
            Some(rejection) if read.iter().all(Result::is_err) => Judgement::Rejected(rejection),
            Some(_) | None => Judgement::Accepted(json!({ "vectors": read.len() })),
        });
    }
    let (Some(proof), Some(entry), Some(vkeys)) = (files.read("proof")?, files.read("entry")?, files.read("vkeys")?)
    else {
        return Ok(missing_file("proof, entry and vkeys"));
    };
    let judge = || -> Result<Checkpoint, Rejection> { Proof::parse(utf8(&proof)?)?.verify(&entry, &policy(&vkeys)?) };
    Ok(judged(judge(), |checkpoint| told(&checkpoint)))
}

/// Judges a whole log in tiles: entries, the hashes of each level, and a checkpoint as the policy asks.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_tiles(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let (Some(note), Some(vkeys)) = (files.read("note")?, files.read("vkeys")?) else {
        return Ok(missing_file("note and vkeys"));
    };
    let checkpoint = match utf8(&note).and_then(|note| policy(&vkeys)?.check(note)) {
        Ok(checkpoint) => checkpoint,
        Err(rejection) => return Ok(Judgement::Rejected(rejection)),
    };
    let size = usize::try_from(checkpoint.head().size).unwrap_or(usize::MAX);
    let mut tiles = Vec::new();
    for number in 0..size.div_ceil(WIDTH).min(1 << 16) {
        let (entries, hashes) = (format!("tile_entries_{number}"), format!("tile_0_{number}"));
        let (Some(entries), Some(hashes)) = (files.read(&entries)?, files.read(&hashes)?) else {
            return Ok(missing_file("a tile of each level"));
        };
        tiles.push((entries, hashes, size.saturating_sub(number.saturating_mul(WIDTH)).min(WIDTH)));
    }
    let above = files.read("tile_1_0")?.unwrap_or_default();
    let tiles: Vec<_> = tiles.iter().map(|(entries, hashes, width)| (entries, hashes, *width)).collect();
    Ok(judged(check_tree(checkpoint.head(), &tiles, &above), |()| told(&checkpoint)))
}

/// Checks that bundles of entries have the hashes of their tiles, full tiles those of the level above, all the root.
fn check_tree(head: TreeHead, tiles: &[(&Vec<u8>, &Vec<u8>, usize)], above: &[u8]) -> Result<(), Rejection> {
    let differ = |what: &str| LineageReason::TileHashes.because("the hashes of the entries", what);
    let (mut all, mut level) = (Frontier::new(), Vec::new());
    for (entries, hashes, width) in tiles {
        let (mut tile, mut row) = (Frontier::new(), Vec::new());
        for entry in decode_bundle(entries, *width)? {
            let leaf = leaf_hash(entry);
            row.extend_from_slice(&leaf.0);
            tile.push(leaf);
            all.push(leaf);
        }
        if row != **hashes {
            return Err(differ("others in a tile of level 0"));
        }
        if *width == WIDTH {
            level.extend_from_slice(&tile.head().root.0);
        }
    }
    if level != above {
        return Err(differ("others in the tile of level 1"));
    }
    if all.head() != head {
        return Err(LineageReason::TileHashes.because(head.root, all.head().root));
    }
    Ok(())
}

/// What was said to a witness, and what it had to answer.
#[derive(Deserialize)]
struct Conversation {
    log_ed25519_public_key_hex: String,
    log_origin: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    body: String,
    status: u16,
}

/// Judges what our witness answers, step by step: each status as it has to be, each cosignature one that verifies.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_witness(files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let Some(text) = files.read("conversation")? else { return Ok(missing_file("conversation")) };
    let Ok(conversation) = serde_json::from_slice::<Conversation>(&text) else {
        return Ok(missing_file("a conversation"));
    };
    Ok(judged(converse(&conversation), |steps| json!({ "steps": steps })))
}

fn converse(conversation: &Conversation) -> Result<usize, Rejection> {
    let Conversation { log_ed25519_public_key_hex, log_origin, steps } = conversation;
    let mut key = [0; 32];
    let refused = |what: &str| LineageReason::KeyForm.because("an Ed25519 key", what);
    hex::decode_to_slice(log_ed25519_public_key_hex, &mut key).map_err(|_| refused("other text"))?;
    // The seed of a witness that cosigns nothing but this.
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).map_err(|_| refused("none of this machine's"))?;
    let public = pair.public_key().as_ref().try_into().map_err(|_| refused("a key of another length"))?;
    let signer = Signer::parse(&witness_vkey("example.com/witness", &public)?)?;
    let mut witness = Witness::default();
    let empty = TreeHead { size: 0, root: Sha256Digest::of(&[]) };
    witness.add_log(log_origin, NoteKey::ed25519(log_origin, &key)?, empty);
    for (number, step) in steps.iter().enumerate() {
        let status = match witness.answer(&step.body) {
            Answer::Cosign { origin, head, text } => {
                let moment = number as u64;
                let signature = pair.sign(cosigned(moment, &text).as_bytes());
                let signature = signature.as_ref().try_into().map_err(|_| refused("a signature of another length"))?;
                let note = format!("{text}\n{}", cosignature_line(&signer, moment, signature));
                let (checkpoint, time) = signer.check(&note)?;
                if time != Some(moment.saturating_mul(1000)) {
                    return Err(LineageReason::NoteSignature.because(moment, format!("{time:?}")));
                }
                if checkpoint.head() != head {
                    return Err(LineageReason::CheckpointForm.because(head.root, checkpoint.head().root));
                }
                witness.cosigned(&origin, head);
                200
            }
            Answer::Malformed(_) => 400,
            Answer::Forbidden(_) => 403,
            Answer::Conflict(_) => 409,
            Answer::Unprocessable(_) => 422,
        };
        if status != step.status {
            let found = format!("{status} to step {number}");
            return Err(LineageReason::ProofConsistency.because(step.status, found));
        }
    }
    Ok(steps.len())
}
