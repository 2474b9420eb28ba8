//! Who signs checkpoints: logs, and the witnesses that have seen them (C2SP signed-note, tlog-cosignature).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::LineageReason;
use super::checkpoint::{Checkpoint, ED25519, ID_BYTES, SIGNATURE_START, is_name, read_signature, split_note};
use super::tree::TreeHead;
use crate::digest::Sha256Digest;
use crate::rejection::Rejection;
use crate::signature::{PublicKey, Scheme};

/// Algorithm bytes of C2SP signed-note; ECDSA's is in use and not registered.
const ECDSA_P256: u8 = 0x02;
const COSIGNATURE: u8 = 0x04;
const TREE_HEAD: u8 = 0x05;
/// DER of a P-256 `SubjectPublicKeyInfo` before its point.
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// What a signature line says, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureKind {
    /// Ed25519 over the note's text.
    Note,
    /// ECDSA on P-256 over the note's text.
    EcdsaNote,
    /// cosignature/v1: Ed25519 over a time and the note's text (C2SP tlog-cosignature).
    Cosignature,
    /// A TreeHeadSignature (RFC 6962, 3.5), which covers time, size and root, and not the origin.
    TreeHead,
}

/// A signer of checkpoints, by its verifier key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    name: String,
    id: [u8; ID_BYTES],
    kind: SignatureKind,
    key: PublicKey,
}

impl Signer {
    /// Reads a verifier key, `<name>+<id>+<base64 of algorithm and key>`.
    ///
    /// # Errors
    /// [`LineageReason::KeyForm`].
    pub fn parse(vkey: &str) -> Result<Self, Rejection> {
        let refused = |found: &str| LineageReason::KeyForm.because("name+id+base64 of a key of a known kind", found);
        let (name, rest) = vkey.split_once('+').ok_or_else(|| refused(vkey))?;
        let (id, encoded) = rest.split_once('+').ok_or_else(|| refused(vkey))?;
        let bytes = STANDARD.decode(encoded).map_err(|_| refused("other characters"))?;
        let (algorithm, key) = bytes.split_first().ok_or_else(|| refused("no key"))?;
        let named = |rest: &[u8]| Sha256Digest::of(&[name.as_bytes(), b"\n", &[*algorithm], rest]);
        let point =
            || key.strip_prefix(&P256_SPKI).filter(|point| point.len() == 65).ok_or_else(|| refused("no P-256"));
        let ed25519 = || if key.len() == 32 { Ok(key) } else { Err(refused("a key of another length")) };
        let (kind, scheme, key, hash) = match *algorithm {
            ED25519 => (SignatureKind::Note, Scheme::Ed25519, ed25519()?, named(key)),
            COSIGNATURE => (SignatureKind::Cosignature, Scheme::Ed25519, ed25519()?, named(key)),
            // The id that Rekor gives its keys.
            ECDSA_P256 => (SignatureKind::EcdsaNote, Scheme::EcdsaP256Sha256Der, point()?, Sha256Digest::of(&[key])),
            // The log id of RFC 6962, 3.2, in place of the key.
            TREE_HEAD => {
                let log_id = Sha256Digest::of(&[key]);
                (SignatureKind::TreeHead, Scheme::EcdsaP256Sha256Der, point()?, named(&log_id.0))
            }
            _ => return Err(refused("another algorithm")),
        };
        let [a, b, c, d, ..] = hash.0;
        let computed = [a, b, c, d];
        if !is_name(name) || id != hex::encode(computed) {
            return Err(LineageReason::KeyForm.because(format!("{name}+{}+…", hex::encode(computed)), vkey));
        }
        let key = PublicKey::new(scheme, key.to_vec());
        Ok(Self { name: name.to_owned(), id: computed, kind, key })
    }

    /// The signer's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its signatures say.
    #[must_use]
    pub const fn kind(&self) -> SignatureKind {
        self.kind
    }

    /// The checkpoint that this signer signed, and when it says it did, in milliseconds of Unix time. Lines of other
    /// signers are ignored if they are well-formed; a line of this signer that does not verify refuses the note.
    ///
    /// # Errors
    /// [`LineageReason::NoteForm`], [`LineageReason::NoteSignature`], [`LineageReason::CheckpointForm`], and
    /// [`LineageReason::CheckpointOrigin`] where the signature does not cover the origin and it is not the signer's.
    pub fn check(&self, note: &str) -> Result<(Checkpoint, Option<u64>), Rejection> {
        let (text, lines) = split_note(note)?;
        let checkpoint = Checkpoint::parse(text.as_bytes())?;
        let mut signed = None;
        for line in lines {
            let (name, id, signature) = read_signature(line)?;
            if name == self.name && id == self.id {
                let refused = || LineageReason::NoteSignature.because(&self.name, "a signature that does not verify");
                signed = Some(self.verify(text, checkpoint.head(), &signature).ok_or_else(refused)?);
            }
        }
        let time =
            signed.ok_or_else(|| LineageReason::NoteSignature.because(&self.name, "no signature of this key"))?;
        if self.kind == SignatureKind::TreeHead && checkpoint.origin() != self.name {
            return Err(LineageReason::CheckpointOrigin.because(&self.name, checkpoint.origin()));
        }
        Ok((checkpoint, time))
    }

    fn verify(&self, text: &str, head: TreeHead, signature: &[u8]) -> Option<Option<u64>> {
        let timed = || signature.split_first_chunk::<8>().map(|(time, rest)| (u64::from_be_bytes(*time), rest));
        let checked = |message: &[u8], signature: &[u8]| self.key.verify(message, signature).ok().map(drop);
        match self.kind {
            SignatureKind::Note | SignatureKind::EcdsaNote => checked(text.as_bytes(), signature).map(|()| None),
            SignatureKind::Cosignature => {
                let (seconds, signature) = timed()?;
                checked(cosigned(seconds, text).as_bytes(), signature)?;
                Some(Some(seconds.checked_mul(1000)?))
            }
            SignatureKind::TreeHead => {
                let (time, signature) = timed()?;
                // DigitallySigned (RFC 5246, 4.7): sha256, ecdsa, and a length.
                let (algorithm, signature) = signature.split_first_chunk::<2>()?;
                let (length, signature) = signature.split_first_chunk::<2>()?;
                if *algorithm != [4, 3] || usize::from(u16::from_be_bytes(*length)) != signature.len() {
                    return None;
                }
                // Version v1 and SignatureType tree_hash.
                let message = [&[0, 1][..], &time.to_be_bytes(), &head.size.to_be_bytes(), &head.root.0].concat();
                checked(&message, signature).map(|()| Some(time))
            }
        }
    }
}

/// What a witness signs at `seconds` of Unix time (C2SP tlog-cosignature, format).
#[must_use]
pub fn cosigned(seconds: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {seconds}\n{text}")
}

/// The verifier key of a witness.
///
/// # Errors
/// [`LineageReason::KeyForm`] when the name cannot be one.
pub fn witness_vkey(name: &str, public: &[u8; 32]) -> Result<String, Rejection> {
    let hash = Sha256Digest::of(&[name.as_bytes(), b"\n", &[COSIGNATURE], public]);
    let [a, b, c, d, ..] = hash.0;
    let vkey =
        format!("{name}+{}+{}", hex::encode([a, b, c, d]), STANDARD.encode([&[COSIGNATURE], &public[..]].concat()));
    Signer::parse(&vkey).map(|_| vkey)
}

/// The line of a cosignature.
#[must_use]
pub fn cosignature_line(witness: &Signer, seconds: u64, signature: &[u8; 64]) -> String {
    let bytes = [&witness.id[..], &seconds.to_be_bytes(), signature].concat();
    format!("{SIGNATURE_START}{} {}\n", witness.name, STANDARD.encode(bytes))
}

/// Whose word makes a checkpoint one to rely on: the log's, and that of so many of the witnesses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessPolicy {
    log: Signer,
    witnesses: Vec<Signer>,
    threshold: usize,
}

impl WitnessPolicy {
    /// The policy.
    ///
    /// # Errors
    /// [`LineageReason::Cosignatures`] for a threshold that no set of these witnesses reaches, and a witness that is
    /// named twice: it would count twice.
    pub fn new(log: Signer, witnesses: Vec<Signer>, threshold: usize) -> Result<Self, Rejection> {
        let twice = witnesses.iter().enumerate().any(|(at, one)| {
            one.key == log.key || witnesses.iter().skip(at.saturating_add(1)).any(|other| other.key == one.key)
        });
        if twice || witnesses.len() < threshold {
            let expected = format!("{threshold} of different witnesses");
            return Err(LineageReason::Cosignatures.because(expected, witnesses.len().to_string()));
        }
        Ok(Self { log, witnesses, threshold })
    }

    /// The checkpoint that the log signed and enough witnesses cosigned.
    ///
    /// # Errors
    /// As [`Signer::check`] for the log; [`LineageReason::Cosignatures`]. A line of a known witness that does not
    /// verify refuses the note.
    pub fn check(&self, note: &str) -> Result<Checkpoint, Rejection> {
        let (checkpoint, _) = self.log.check(note)?;
        let (_, lines) = split_note(note)?;
        let mut cosigned = 0_usize;
        for witness in &self.witnesses {
            let signs =
                |line: &&str| read_signature(line).is_ok_and(|(name, id, _)| name == witness.name && id == witness.id);
            if lines.iter().any(signs) {
                witness.check(note)?;
                cosigned = cosigned.saturating_add(1);
            }
        }
        if cosigned < self.threshold {
            return Err(LineageReason::Cosignatures.because(self.threshold, cosigned));
        }
        Ok(checkpoint)
    }
}
