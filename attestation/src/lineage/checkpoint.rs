//! Checkpoints (C2SP tlog-checkpoint) in signed notes (C2SP signed-note) with Ed25519 keys.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::digest::Sha256Digest;
use crate::lineage::LineageReason;
use crate::lineage::tree::TreeHead;
use crate::rejection::Rejection;
use crate::signature::{PublicKey, Scheme, SignedBytes};
use crate::verified::Verified;

/// A checkpoint with the cosignatures of many witnesses stays far below.
pub const NOTE_BYTES_MAX: usize = 65_536;
/// The limit that readers of notes in the field have.
const SIGNATURES_MAX: usize = 100;
/// C2SP signed-note: the algorithm byte of Ed25519.
pub(super) const ED25519: u8 = 0x01;
pub(super) const ID_BYTES: usize = 4;
/// U+2014 and a space start a signature line.
pub(super) const SIGNATURE_START: &str = "\u{2014} ";

/// The public key of a note's signer, with the name it signs under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteKey {
    name: String,
    id: [u8; ID_BYTES],
    key: PublicKey,
}

impl NoteKey {
    /// The Ed25519 key of a signer named `name`.
    ///
    /// # Errors
    /// [`LineageReason::KeyForm`] when the name cannot be one.
    pub fn ed25519(name: &str, public: &[u8; 32]) -> Result<Self, Rejection> {
        if !is_name(name) {
            return Err(LineageReason::KeyForm.because("a name without spaces or plus signs", name));
        }
        let hash = Sha256Digest::of(&[name.as_bytes(), b"\n", &[ED25519], public]);
        let [a, b, c, d, ..] = hash.0;
        let key = PublicKey::new(Scheme::Ed25519, public.to_vec());
        Ok(Self { name: name.to_owned(), id: [a, b, c, d], key })
    }

    /// Reads a verifier key, `<name>+<id>+<base64 of algorithm and key>`.
    ///
    /// # Errors
    /// [`LineageReason::KeyForm`], also for algorithms other than Ed25519.
    pub fn parse(vkey: &str) -> Result<Self, Rejection> {
        let refused = |found: &str| LineageReason::KeyForm.because("name+id+base64 of an Ed25519 key", found);
        let (name, rest) = vkey.split_once('+').ok_or_else(|| refused(vkey))?;
        let (_, encoded) = rest.split_once('+').ok_or_else(|| refused(vkey))?;
        let bytes = STANDARD.decode(encoded).map_err(|_| refused("other characters"))?;
        let Some((&ED25519, public)) = bytes.split_first() else { return Err(refused("another algorithm")) };
        let public = public.try_into().map_err(|_| refused("a key of another length"))?;
        let key = Self::ed25519(name, public)?;
        // The id is a function of name and key, and a key has one spelling.
        if key.vkey() != vkey {
            return Err(LineageReason::KeyForm.because(key.vkey(), vkey));
        }
        Ok(key)
    }

    /// The key as others write it down.
    #[must_use]
    pub fn vkey(&self) -> String {
        let bytes = [&[ED25519], self.key.key()].concat();
        format!("{}+{}+{}", self.name, hex::encode(self.id), STANDARD.encode(bytes))
    }

    /// The signer's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text of a signed note, if this key signed it. Lines of other signers are ignored if they are well-formed;
    /// a line of this signer that does not verify refuses the note.
    ///
    /// # Errors
    /// [`LineageReason::NoteForm`], [`LineageReason::NoteSignature`].
    pub fn open<'a>(&self, note: &'a str) -> Result<SignedBytes<'a>, Rejection> {
        let opened = self.signed(note, NOTE_BYTES_MAX)?;
        opened.ok_or_else(|| LineageReason::NoteSignature.because(self.vkey(), "no signature of this key"))
    }

    /// As [`NoteKey::open`], of a note of up to `bytes_max` bytes that others may have signed instead: `None` where no
    /// line is of this key.
    ///
    /// # Errors
    /// [`LineageReason::NoteForm`], and [`LineageReason::NoteSignature`] for a line of this key that does not verify.
    pub fn signed<'a>(&self, note: &'a str, bytes_max: usize) -> Result<Option<SignedBytes<'a>>, Rejection> {
        let (text, signatures) = split_note_within(note, bytes_max)?;
        let mut opened = None;
        for line in signatures {
            let (name, id, signature) = read_signature(line)?;
            if name != self.name || id != self.id {
                continue;
            }
            let checked = self.key.verify(text.as_bytes(), &signature);
            opened =
                Some(checked.map_err(|_| {
                    LineageReason::NoteSignature.because(self.vkey(), "a signature that does not verify")
                })?);
        }
        Ok(opened)
    }

    /// The key itself, without the name.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        self.key.key()
    }

    /// The line that carries this key's signature over a note's text.
    #[must_use]
    pub fn signature_line(&self, signature: &[u8; 64]) -> String {
        let bytes = [&self.id[..], signature].concat();
        format!("{SIGNATURE_START}{} {}\n", self.name, STANDARD.encode(bytes))
    }
}

/// C2SP signed-note: not empty, no Unicode spaces, no plus signs.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |character: char| !character.is_whitespace() && !character.is_control() && character != '+';
    !name.is_empty() && name.chars().all(plain)
}

/// Text with its last newline, and signature lines.
pub(super) fn split_note(note: &str) -> Result<(&str, Vec<&str>), Rejection> {
    split_note_within(note, NOTE_BYTES_MAX)
}

fn split_note_within(note: &str, bytes_max: usize) -> Result<(&str, Vec<&str>), Rejection> {
    let refused = |found: &str| LineageReason::NoteForm.because("text, a blank line, signature lines", found);
    if bytes_max < note.len() {
        return Err(LineageReason::NoteForm.because(bytes_max, note.len()));
    }
    // C2SP signed-note: no ASCII control characters but newlines.
    if note.chars().any(|character| character.is_ascii_control() && character != '\n') {
        return Err(refused("a control character"));
    }
    let (body, signatures) = note.rsplit_once("\n\n").ok_or_else(|| refused("no blank line"))?;
    let end = body.len().checked_add(1).ok_or_else(|| refused("too much"))?;
    let text = note.get(..end).ok_or_else(|| refused("no text"))?;
    let signatures = signatures.strip_suffix('\n').ok_or_else(|| refused("no newline at the end"))?;
    let lines: Vec<&str> = signatures.split('\n').collect();
    if SIGNATURES_MAX < lines.len() {
        return Err(LineageReason::NoteForm.because(SIGNATURES_MAX, lines.len()));
    }
    Ok((text, lines))
}

/// Name, key id and signature of one line.
pub(super) fn read_signature(line: &str) -> Result<(&str, [u8; ID_BYTES], Vec<u8>), Rejection> {
    let refused = || LineageReason::NoteForm.because("an em dash, a name, base64 of an id and a signature", line);
    let (name, encoded) =
        line.strip_prefix(SIGNATURE_START).and_then(|rest| rest.split_once(' ')).ok_or_else(refused)?;
    if !is_name(name) {
        return Err(refused());
    }
    let bytes = STANDARD.decode(encoded).map_err(|_| refused())?;
    let (id, signature) = bytes.split_first_chunk().ok_or_else(refused)?;
    if signature.is_empty() {
        return Err(refused());
    }
    Ok((name, *id, signature.to_vec()))
}

/// A log's statement that its tree has this size and root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    head: TreeHead,
    extensions: Vec<String>,
}

impl Checkpoint {
    /// Reads a checkpoint of the log `origin`, signed by `key`. The origin is compared even though the signature
    /// covers it: one key may sign for several logs.
    ///
    /// # Errors
    /// [`LineageReason::NoteForm`], [`LineageReason::NoteSignature`], [`LineageReason::CheckpointForm`],
    /// [`LineageReason::CheckpointOrigin`].
    pub fn verify(note: &str, key: &NoteKey, origin: &str) -> Result<Verified<Self>, Rejection> {
        let verified = Verified::read(key.open(note)?, Self::parse)?;
        if verified.origin != origin {
            return Err(LineageReason::CheckpointOrigin.because(origin, &verified.origin));
        }
        Ok(verified)
    }

    /// Reads a checkpoint and counts its signature lines without checking one: for looking at, not for relying on.
    ///
    /// # Errors
    /// [`LineageReason::NoteForm`], [`LineageReason::CheckpointForm`].
    pub fn read_unverified(note: &str) -> Result<(Self, usize), Rejection> {
        let (text, lines) = split_note(note)?;
        lines.iter().try_for_each(|line| read_signature(line).map(drop))?;
        Ok((Self::parse(text.as_bytes())?, lines.len()))
    }

    pub(super) fn parse(text: &[u8]) -> Result<Self, Rejection> {
        let refused = |expected: &str, found: &str| LineageReason::CheckpointForm.because(expected, found);
        let text = core::str::from_utf8(text).map_err(|_| refused("UTF-8", "other bytes"))?;
        let text = text.strip_suffix('\n').ok_or_else(|| refused("a newline at the end", "none"))?;
        let mut lines = text.split('\n');
        let mut line = |what: &str| lines.next().filter(|line| !line.is_empty()).ok_or_else(|| refused(what, "none"));
        let origin = line("an origin line")?.to_owned();
        let decimal = line("a size line")?;
        // One spelling: no sign, no leading zeros.
        let size = decimal.parse::<u64>().ok().filter(|size| format!("{size}") == decimal);
        let size = size.ok_or_else(|| refused("a decimal size", decimal))?;
        let encoded = line("a root line")?;
        let root = STANDARD.decode(encoded).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let root = Sha256Digest(root.ok_or_else(|| refused("base64 of 32 bytes", encoded))?);
        // Extension lines are kept, and mean nothing here.
        let extensions: Vec<String> = lines.map(ToOwned::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(refused("extension lines that are not empty", "an empty one"));
        }
        Ok(Self { origin, head: TreeHead { size, root }, extensions })
    }

    /// The log.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Size and root of its tree.
    #[must_use]
    pub const fn head(&self) -> TreeHead {
        self.head
    }

    /// Lines after the root.
    #[must_use]
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }
}

/// The text that a log signs: origin, size and root, each on a line. A note is this text, an empty line, and
/// [`NoteKey::signature_line`].
#[must_use]
pub fn note_text(origin: &str, head: TreeHead) -> String {
    format!("{origin}\n{}\n{}\n", head.size, STANDARD.encode(head.root.0))
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;
    use alloc::vec::Vec;

    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::{Checkpoint, NoteKey, note_text};
    use crate::digest::Sha256Digest;
    use crate::lineage::tree::{TreeHead, consistency_proof, leaf_hash, verify_consistency};
    use crate::lineage::vectors;

    const HEAD: TreeHead = TreeHead { size: 7, root: Sha256Digest([9; 32]) };

    fn pair() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap()
    }

    fn key() -> NoteKey {
        NoteKey::ed25519("log.example", pair().public_key().as_ref().try_into().unwrap()).unwrap()
    }

    fn sign(text: &str) -> String {
        let signature = pair().sign(text.as_bytes());
        format!("{text}\n{}", key().signature_line(signature.as_ref().try_into().unwrap()))
    }

    fn code(note: &str) -> Result<TreeHead, &'static str> {
        Checkpoint::verify(note, &key(), "log.example").map(|checkpoint| checkpoint.head()).map_err(|r| r.code())
    }

    #[test]
    fn what_is_signed_is_read() {
        let note = sign(&note_text("log.example", HEAD));
        assert_eq!(code(&note), Ok(HEAD));
        let other = "\u{2014} witness.example AAAAAAEB\n";
        assert_eq!(code(&format!("{note}{other}")), Ok(HEAD), "other signers are ignored");
        let extended = sign(&format!("{}one\ntwo\n", note_text("log.example", HEAD)));
        let extended = Checkpoint::verify(&extended, &key(), "log.example").unwrap();
        assert_eq!(extended.extensions(), ["one", "two"]);
    }

    #[test]
    fn every_flipped_byte_is_refused() {
        let note = sign(&note_text("log.example", HEAD));
        for place in 0..note.len() {
            for bit in 0..8 {
                let mut bytes = note.clone().into_bytes();
                bytes[place] ^= 1 << bit;
                let Ok(text) = String::from_utf8(bytes) else { continue };
                assert!(code(&text).is_err(), "byte {place}, bit {bit}: {text}");
            }
            assert!(note.get(..place).is_none_or(|cut| code(cut).is_err()), "cut at {place}");
        }
    }

    #[test]
    fn a_line_of_this_signer_that_does_not_verify_refuses_the_note() {
        let note = sign(&note_text("log.example", HEAD));
        let wrong = key().signature_line(&[1; 64]);
        assert_eq!(code(&format!("{note}{wrong}")), Err("lineage.note.signature"));
        assert_eq!(code(&format!("{}\n\u{2014} x AAAAAAEB\n", note_text("a", HEAD))), Err("lineage.note.signature"));
    }

    #[test]
    fn notes_have_one_form() {
        let text = note_text("log.example", HEAD);
        let note = sign(&text);
        let line = note.strip_prefix(&text).unwrap().trim_start();
        let bad = [
            String::new(),
            text.clone(),
            format!("{text}{line}"),
            note.trim_end().into(),
            note.replace('\n', "\r\n"),
            note.replace('\u{2014}', "-"),
            note.replace("\u{2014} log.example", "\u{2014} log example"),
            note.replace("\u{2014} log.example", "\u{2014} log+example"),
            note.replace("\u{2014} log.example", "\u{2014} "),
            format!("{note}\u{2014} short AAAAAA==\n"),
            format!("{note}\u{2014} b64 AAAAAAE\n"),
            format!("{note}{}", line.repeat(100)),
            format!("{}{note}", "x".repeat(super::NOTE_BYTES_MAX)),
        ];
        for note in bad {
            assert_eq!(code(&note), Err("lineage.note.form"), "{}", note.get(..80.min(note.len())).unwrap_or(""));
        }
    }

    #[test]
    fn checkpoints_have_one_form() {
        let root = STANDARD.encode([9; 32]);
        let bad = [
            format!("log.example\n07\n{root}\n"),
            format!("log.example\n+7\n{root}\n"),
            format!("log.example\n18446744073709551616\n{root}\n"),
            format!("log.example\n\n{root}\n"),
            format!("\n7\n{root}\n"),
            "log.example\n7\n".into(),
            format!("log.example\n7\n{}\n", STANDARD.encode([9; 31])),
            format!("log.example\n7\n{}\n", root.trim_end_matches('=')),
        ];
        for text in bad {
            assert_eq!(code(&sign(&text)), Err("lineage.checkpoint.form"), "{text}");
        }
        assert_eq!(code(&sign(&note_text("other.example", HEAD))), Err("lineage.checkpoint.origin"));
    }

    #[test]
    fn keys_have_one_form() {
        let vkey = key().vkey();
        assert_eq!(NoteKey::parse(&vkey), Ok(key()));
        let (name, rest) = vkey.split_once('+').unwrap();
        let (id, encoded) = rest.split_once('+').unwrap();
        let mut ecdsa = STANDARD.decode(encoded).unwrap();
        ecdsa[0] = 2;
        let bad = [
            String::new(),
            name.into(),
            format!("{name}+{id}"),
            format!("other+{id}+{encoded}"),
            format!("{name}+00000000+{encoded}"),
            format!("{name}+{}+{encoded}", id.to_uppercase()),
            format!("{name}+{id}+{}", STANDARD.encode(ecdsa)),
            format!("{name}+{id}+{}", encoded.get(..40).unwrap()),
            format!(" {vkey}"),
        ];
        for vkey in bad {
            assert_eq!(NoteKey::parse(&vkey).map_err(|r| r.code()), Err("lineage.key.form"), "{vkey}");
        }
        assert!(NoteKey::ed25519("a b", &[0; 32]).is_err());
    }

    /// The verdict of every Ed25519 key of a vector's list.
    fn opened(note: &str, vkeys: &str) -> Vec<bool> {
        let keys = vkeys.lines().filter_map(|vkey| NoteKey::parse(vkey).ok());
        keys.map(|key| key.open(note).is_ok()).collect()
    }

    #[test]
    fn note_vectors() {
        for (id, accept, row) in vectors::of_kind("signed-note") {
            let verdicts = opened(&vectors::text(&row, "note"), &vectors::text(&row, "vkeys"));
            assert!(!verdicts.is_empty() && verdicts.iter().all(|verdict| *verdict == accept), "{id}");
        }
    }

    #[test]
    fn checkpoint_vectors() {
        let mut checked = 0;
        for (id, accept, row) in vectors::of_kind("tlog-checkpoint") {
            let note = vectors::text(&row, "note");
            let origin = row["expect_detail"]["origin"].as_str().unwrap_or_else(|| note.lines().next().unwrap());
            for key in vectors::text(&row, "vkeys").lines().filter_map(|vkey| NoteKey::parse(vkey).ok()) {
                let read = Checkpoint::verify(&note, &key, origin);
                assert_eq!(read.is_ok(), accept, "{id}: {read:?}");
                if let Ok(checkpoint) = read {
                    assert_eq!(row["expect_detail"]["size"], checkpoint.head().size, "{id}");
                    let root = STANDARD.encode(checkpoint.head().root.0);
                    assert_eq!(row["expect_detail"]["root"].as_str(), Some(root.as_str()), "{id}");
                }
                checked += 1;
            }
        }
        assert!(checked == 0 || 10 <= checked, "{checked}");
    }

    #[test]
    fn consistency_between_checkpoints() {
        for (id, accept, row) in vectors::of_kind("tlog-consistency") {
            let vkeys = vectors::text(&row, "vkeys");
            let key = NoteKey::parse(vkeys.lines().next().unwrap()).unwrap();
            let read = |file| Checkpoint::verify(&vectors::text(&row, file), &key, key.name()).unwrap().head();
            let text = vectors::text(&row, "proof");
            let hash = |line: &str| Sha256Digest(STANDARD.decode(line).unwrap().try_into().unwrap());
            let proof: Vec<_> = text.lines().map(hash).collect();
            assert_eq!(verify_consistency(read("old"), read("new"), &proof).is_ok(), accept, "{id}");
        }
    }

    #[test]
    fn a_log_written_elsewhere_gives_the_same_roots_and_proofs() {
        let rows = vectors::of_kind("tlog-checkpoint");
        let rows: Vec<_> = rows.into_iter().filter(|(id, ..)| id.starts_with("tessera-log-")).collect();
        let mut heads = Vec::new();
        let mut longest: Vec<Sha256Digest> = Vec::new();
        for (id, _, row) in &rows {
            let entries = row["expect_detail"]["entries"].as_array().unwrap();
            let leaves: Vec<_> = entries.iter().map(|entry| leaf_hash(entry.as_str().unwrap().as_bytes())).collect();
            let mut frontier = crate::lineage::tree::Frontier::new();
            leaves.iter().for_each(|leaf| frontier.push(*leaf));
            let root = STANDARD.encode(frontier.head().root.0);
            assert_eq!(row["expect_detail"]["root"].as_str(), Some(root.as_str()), "{id}");
            heads.push(frontier.head());
            longest = if longest.len() < leaves.len() { leaves } else { longest };
        }
        for older in heads.iter().filter(|head| 0 < head.size) {
            for newer in heads.iter().filter(|newer| older.size <= newer.size) {
                let proof = consistency_proof(&longest[..], older.size, newer.size).unwrap();
                assert!(verify_consistency(*older, *newer, &proof).is_ok(), "{} {}", older.size, newer.size);
            }
        }
    }
}
