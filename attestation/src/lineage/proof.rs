//! A proof that travels with its entry: index, inclusion, checkpoint in one text (C2SP tlog-proof, v1).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::LineageReason;
use super::checkpoint::{Checkpoint, NOTE_BYTES_MAX};
use super::cosignature::WitnessPolicy;
use super::tree::{leaf_hash, verify_inclusion};
use crate::digest::Sha256Digest;
use crate::rejection::Rejection;

const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// A tree of 2^64 leaves is no higher.
const HASHES_MAX: usize = 64;
const EXTRA_BYTES_MAX: usize = 4096;
/// A note, the hashes, and the extra data in base64.
const PROOF_BYTES_MAX: usize = NOTE_BYTES_MAX + HASHES_MAX * 45 + 2 * EXTRA_BYTES_MAX;

/// A proof as it is written; nothing in it is checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// What the log's own application says beside it. It is not signed.
    pub extra: Option<Vec<u8>>,
    /// Index of the entry.
    pub index: u64,
    /// Audit path (RFC 6962, 2.1.1).
    pub hashes: Vec<Sha256Digest>,
    /// The signed checkpoint.
    pub checkpoint: String,
}

impl Proof {
    /// Reads a proof.
    ///
    /// # Errors
    /// [`LineageReason::ProofForm`].
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let refused = |expected: &str, found: &str| LineageReason::ProofForm.because(expected, found);
        if PROOF_BYTES_MAX < text.len() {
            return Err(LineageReason::ProofForm.because(PROOF_BYTES_MAX, text.len()));
        }
        let (head, checkpoint) = text.split_once("\n\n").ok_or_else(|| refused("a blank line", "none"))?;
        let mut lines = head.split('\n').peekable();
        match lines.next() {
            Some(HEADER) => {}
            other => return Err(refused(HEADER, other.unwrap_or_default())),
        }
        let extra = match lines.next_if(|line| line.starts_with("extra ")) {
            None => None,
            Some(line) => Some(base64(line.trim_start_matches("extra ")).ok_or_else(|| refused("base64", line))?),
        };
        let line = lines.next().unwrap_or_default();
        let decimal = line.strip_prefix("index ").ok_or_else(|| refused("an index line", line))?;
        // One spelling: no sign, no leading zeros.
        let index = decimal.parse::<u64>().ok().filter(|index| format!("{index}") == decimal);
        let index = index.ok_or_else(|| refused("a decimal index", decimal))?;
        let mut hashes = Vec::new();
        for line in lines {
            let hash = base64(line).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            hashes.push(Sha256Digest(hash.ok_or_else(|| refused("base64 of 32 bytes", line))?));
        }
        if HASHES_MAX < hashes.len() {
            return Err(LineageReason::ProofForm.because(HASHES_MAX, hashes.len()));
        }
        Ok(Self { extra, index, hashes, checkpoint: checkpoint.to_owned() })
    }

    /// The proof's text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = format!("{HEADER}\n");
        if let Some(extra) = &self.extra {
            text.push_str(&format!("extra {}\n", STANDARD.encode(extra)));
        }
        text.push_str(&format!("index {}\n", self.index));
        for hash in &self.hashes {
            text.push_str(&STANDARD.encode(hash.0));
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&self.checkpoint);
        text
    }

    /// Proves that `entry` is in the log, by a checkpoint that the policy relies on.
    ///
    /// # Errors
    /// As [`WitnessPolicy::check`]; [`LineageReason::ProofInclusion`].
    pub fn verify(&self, entry: &[u8], policy: &WitnessPolicy) -> Result<Checkpoint, Rejection> {
        let checkpoint = policy.check(&self.checkpoint)?;
        verify_inclusion(checkpoint.head(), self.index, leaf_hash(entry), &self.hashes)?;
        Ok(checkpoint)
    }
}

fn base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok().filter(|bytes| bytes.len() <= EXTRA_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;
    use alloc::vec::Vec;

    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    use super::Proof;
    use crate::lineage::checkpoint::{NoteKey, note_text};
    use crate::lineage::cosignature::{Signer, WitnessPolicy, cosignature_line, cosigned, witness_vkey};
    use crate::lineage::tree::{Frontier, inclusion_proof, leaf_hash};
    use crate::lineage::witness::{Answer, Witness};

    const ENTRIES: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"e"];
    const LOG: &str = "log.example/x";

    fn pair(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn public(seed: u8) -> [u8; 32] {
        pair(seed).public_key().as_ref().try_into().unwrap()
    }

    fn log() -> Signer {
        Signer::parse(&NoteKey::ed25519(LOG, &public(1)).unwrap().vkey()).unwrap()
    }

    fn witness(seed: u8) -> Signer {
        Signer::parse(&witness_vkey(&format!("w{seed}.example"), &public(seed)).unwrap()).unwrap()
    }

    /// The checkpoint of the first entries, signed by the log and cosigned by these.
    fn checkpoint(size: usize, witnesses: &[u8]) -> String {
        let mut tree = Frontier::new();
        ENTRIES[..size].iter().for_each(|entry| tree.push(leaf_hash(entry)));
        let text = note_text(LOG, tree.head());
        let key = NoteKey::ed25519(LOG, &public(1)).unwrap();
        let mut note =
            format!("{text}\n{}", key.signature_line(pair(1).sign(text.as_bytes()).as_ref().try_into().unwrap()));
        for seed in witnesses {
            let signature = pair(*seed).sign(cosigned(77, &text).as_bytes());
            note.push_str(&cosignature_line(&witness(*seed), 77, signature.as_ref().try_into().unwrap()));
        }
        note
    }

    fn proof(index: u64, note: String) -> Proof {
        let leaves: Vec<_> = ENTRIES.iter().map(|entry| leaf_hash(entry)).collect();
        let hashes = inclusion_proof(leaves.as_slice(), index, 5).unwrap();
        Proof { extra: Some(b"beside".to_vec()), index, hashes, checkpoint: note }
    }

    #[test]
    fn a_proof_travels_and_proves_its_entry_alone() {
        let policy = WitnessPolicy::new(log(), [2, 3, 4].map(witness).to_vec(), 2).unwrap();
        for index in 0..5_u64 {
            let proof = proof(index, checkpoint(5, &[2, 4]));
            let read = Proof::parse(&proof.encode()).unwrap();
            assert_eq!(read, proof);
            for (at, entry) in ENTRIES.iter().enumerate() {
                assert_eq!(read.verify(entry, &policy).is_ok(), u64::try_from(at) == Ok(index));
            }
        }
        let of =
            |witnesses: &[u8]| proof(0, checkpoint(5, witnesses)).verify(ENTRIES[0], &policy).map_err(|r| r.code());
        for few in [&[][..], &[2], &[3, 3], &[9, 8]] {
            assert_eq!(of(few), Err("lineage.checkpoint.cosignatures"), "{few:?}");
        }
        // A known witness whose line does not verify is no absent one.
        let forged = checkpoint(5, &[2, 4]).replace("w3.example", "w2.example");
        assert!(proof(0, forged).verify(ENTRIES[0], &policy).is_ok());
        let text = checkpoint(5, &[2, 3, 4]);
        let (head, line) = text.trim_end().rsplit_once(' ').unwrap();
        let cut = format!("{head} {}A=\n", line.get(..line.len() - 2).unwrap());
        assert!(proof(0, cut).verify(ENTRIES[0], &policy).is_err());
        assert!(WitnessPolicy::new(log(), Vec::from([witness(2), witness(2)]), 2).is_err(), "one witness counts once");
        assert!(WitnessPolicy::new(log(), Vec::from([witness(2)]), 2).is_err());
    }

    #[test]
    fn a_text_that_is_nearly_a_proof_is_none() {
        let good = proof(3, checkpoint(5, &[])).encode();
        let changes: [(&str, &str); 7] = [
            ("c2sp.org/tlog-proof@v1", "c2sp.org/tlog-proof@v2"),
            ("index 3", "index 03"),
            ("index 3", "index +3"),
            ("index 3", "Index 3"),
            ("extra ", "extra  "),
            ("\nindex", "\nextra AA==\nindex"),
            ("=\n\n", "=\n"),
        ];
        for (from, to) in changes {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good);
            assert_eq!(Proof::parse(&bad).map_err(|r| r.code()), Err("lineage.proof.form"), "{to}");
        }
    }

    #[test]
    fn a_witness_cosigns_what_continues_and_never_a_fork() {
        let mut known = Witness::default();
        let empty = Frontier::new().head();
        known.add_log(LOG, NoteKey::ed25519(LOG, &public(1)).unwrap(), empty);
        let ask = |witness: &Witness, old: u64, size: usize| {
            witness.answer(&format!("old {old}\n\n{}", checkpoint(size, &[])))
        };
        let Answer::Cosign { origin, head, text } = ask(&known, 0, 3) else { panic!("the first one") };
        assert_eq!((origin.as_str(), head.size), (LOG, 3));
        assert!(checkpoint(3, &[]).starts_with(&text));
        assert!(matches!(ask(&known, 1, 3), Answer::Conflict(0)));
        known.cosigned(LOG, head);
        assert!(matches!(ask(&known, 3, 3), Answer::Cosign { .. }), "the same again");
        assert!(matches!(ask(&known, 0, 5), Answer::Conflict(3)));
        assert!(matches!(ask(&known, 3, 5), Answer::Unprocessable(_)), "without a proof");
        assert!(matches!(ask(&known, 9, 5), Answer::Malformed(_)));
        assert!(matches!(Witness::default().answer(&format!("old 0\n\n{}", checkpoint(1, &[]))), Answer::Forbidden(_)));
        for bad in ["", "old 0\n", "old 00\n\nx", "old 0\nAA==\n\nx"] {
            assert!(matches!(known.answer(bad), Answer::Malformed(_)), "{bad}");
        }
    }
}
