//! The Ed25519 key an operator signs documents with: apart from the key of the operator's channel, so that it can lie
//! elsewhere, and what it signs can be checked by anyone who holds the document.

use std::path::Path;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use countersign_attestation::lineage::checkpoint::NoteKey;
use zeroize::Zeroizing;

use super::{KeyError, unusable};
use crate::config::{read_bounded, write_new};

const SEED: &str = "signing.key";
const VKEY: &str = "signing.vkey";
const SEED_BYTES: usize = 32;
/// A name of a trust domain and an operator, and 45 bytes of key.
const VKEY_BYTES_MAX: u64 = 512;

/// An operator's signing key.
pub struct OperatorKey {
    pair: Ed25519KeyPair,
    public: NoteKey,
}

impl std::fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperatorKey").field("public", &self.public.vkey()).finish_non_exhaustive()
    }
}

impl OperatorKey {
    /// Makes a key that signs as `name`, and writes its seed (0600) and its verifier key into a folder.
    ///
    /// # Errors
    /// [`KeyError`] when a file exists already or cannot be written.
    pub fn generate(folder: &Path, name: &str) -> Result<NoteKey, KeyError> {
        let mut seed = Zeroizing::new([0; SEED_BYTES]);
        aws_lc_rs::rand::fill(&mut *seed).map_err(unusable("make a signing key"))?;
        let Self { public, .. } = Self::from_seed(&*seed, name)?;
        write_new(&folder.join(SEED), &*seed)?;
        write_new(&folder.join(VKEY), public.vkey().as_bytes())?;
        Ok(public)
    }

    /// Reads the key in an operator's folder.
    ///
    /// # Errors
    /// [`KeyError`] when it is not there, or its two files are not of one key.
    pub fn load(folder: &Path) -> Result<Self, KeyError> {
        let seed = Zeroizing::new(read_bounded(&folder.join(SEED), SEED_BYTES as u64)?);
        let vkey = String::from_utf8(read_bounded(&folder.join(VKEY), VKEY_BYTES_MAX)?);
        let vkey = vkey.map_err(unusable("read a signing key"))?;
        let public = NoteKey::parse(vkey.trim()).map_err(unusable("read a signing key"))?;
        let key = Self::from_seed(&seed, public.name())?;
        if key.public != public {
            return Err(unusable("read a signing key")("signing.key and signing.vkey are of two keys"));
        }
        Ok(key)
    }

    fn from_seed(seed: &[u8], name: &str) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(unusable("read a signing key"))?;
        let public = pair.public_key().as_ref().try_into().map_err(unusable("read a signing key"))?;
        let public = NoteKey::ed25519(name, public).map_err(unusable("name a signing key"))?;
        Ok(Self { pair, public })
    }

    /// The signed note (C2SP signed-note) of a text.
    ///
    /// # Errors
    /// [`KeyError`] when the engine fails; nothing was signed.
    pub fn sign(&self, text: &str) -> Result<String, KeyError> {
        // A note's text ends with one newline; the signature is over all of it.
        let text = format!("{}\n", text.trim_end());
        Ok(format!("{text}\n{}", self.line(&text)?))
    }

    /// A signed note with this key's line as well: unchanged where it has it already.
    ///
    /// # Errors
    /// [`KeyError`] for what is no note, or has a line of this key that does not verify, and when the engine fails.
    pub fn cosign(&self, note: &str, bytes_max: usize) -> Result<String, KeyError> {
        if self.public.signed(note, bytes_max).map_err(unusable("read a signed note"))?.is_some() {
            return Ok(note.to_owned());
        }
        let text = unsigned(note).ok_or("text without signatures").map_err(unusable("read a signed note"))?;
        Ok(format!("{note}{}", self.line(text)?))
    }

    fn line(&self, text: &str) -> Result<String, KeyError> {
        let signature = self.pair.sign(text.as_bytes());
        let signature = signature.as_ref().try_into().map_err(unusable("sign a note"))?;
        Ok(self.public.signature_line(signature))
    }
}

/// The text of a signed note, with its last newline; `None` where there are no signature lines after it. Nothing is
/// verified.
#[must_use]
pub fn unsigned(note: &str) -> Option<&str> {
    let (text, _) = note.rsplit_once("\n\n\u{2014} ")?;
    note.get(..text.len().checked_add(1)?)
}

#[cfg(test)]
mod tests {
    use super::{OperatorKey, SEED, VKEY, unsigned};

    #[test]
    fn a_second_signature_stands_beside_the_first_and_the_same_one_only_once() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let publics = dirs.each_ref().map(|dir| OperatorKey::generate(dir.path(), "d/operator/a").unwrap());
        let [one, other] = dirs.each_ref().map(|dir| OperatorKey::load(dir.path()).unwrap());
        let note = one.sign("{}\n\n  {}").unwrap();
        assert_eq!(one.cosign(&note, 1024).unwrap(), note);
        let both = other.cosign(&note, 1024).unwrap();
        for public in publics {
            assert_eq!(public.open(&both).unwrap().bytes(), b"{}\n\n  {}\n");
        }
        assert_eq!(unsigned(&both), Some("{}\n\n  {}\n"));
        assert!(unsigned("{}\n").is_none() && other.cosign("{}\n", 1024).is_err());
        assert!(other.cosign(&note, note.len() - 1).is_err(), "longer than asked for");
    }

    #[test]
    fn a_key_signs_under_its_name_and_two_halves_of_two_keys_are_none() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [public, other] = dirs.each_ref().map(|dir| OperatorKey::generate(dir.path(), "d/operator/a").unwrap());
        let note = OperatorKey::load(dirs[0].path()).unwrap().sign("{\n  \"a\": 1\n}\n\n").unwrap();
        assert_eq!(public.open(&note).unwrap().bytes(), b"{\n  \"a\": 1\n}\n");
        assert!(other.open(&note).is_err());
        assert!(OperatorKey::generate(dirs[0].path(), "d/operator/a").is_err(), "keys are not replaced");
        std::fs::copy(dirs[1].path().join(VKEY), dirs[0].path().join(VKEY)).unwrap();
        assert!(OperatorKey::load(dirs[0].path()).is_err());
        std::fs::write(dirs[1].path().join(SEED), [1; 31]).unwrap();
        assert!(OperatorKey::load(dirs[1].path()).is_err());
    }
}
