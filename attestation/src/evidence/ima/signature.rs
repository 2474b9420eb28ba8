//! File signatures (`security.ima`, `struct signature_v2_hdr` of `integrity.h`):
//!
//! ```text
//! u8 type | u8 version | u8 hash | u32 key id, big-endian | u16 size, big-endian | signature
//! ```
//!
//! Accepted: type 3 version 2, over the file's digest (`evmctl ima_sign`), and type 6 version 3, over a
//! `struct ima_file_id` with the file's fs-verity digest. Refused: version 1; type 5 (portable EVM: it covers metadata
//! that the list only shows with `evm-sig`, and the inode's digest by way of a hash that is not in the list); SHA-1 and
//! every hash but SHA-256, SHA-384 and SHA-512.

use alloc::vec::Vec;

use super::ImaReason;
use super::list::Digest;
use super::template::{DigestKind, FileDigest};
use crate::evidence::tpm::algorithm::TpmHash;
use crate::reader::Reader;
use crate::rejection::Rejection;
use crate::signature::prehashed::PrehashedKey;
use crate::x509::Certificate;
use crate::x509::oid::Oid;

/// RFC 5280, 4.2.1.2.
const SUBJECT_KEY_IDENTIFIER: Oid = Oid::new(&[0x55, 0x1d, 0x0e], "subjectKeyIdentifier");
/// `EVM_IMA_XATTR_DIGSIG`.
const DIGSIG: u8 = 3;
/// `IMA_VERITY_DIGSIG`.
const VERITY_DIGSIG: u8 = 6;

/// A signature as the list shows it, nothing checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSignature<'a> {
    kind: DigestKind,
    hash: TpmHash,
    hash_id: u8,
    key_id: [u8; 4],
    signature: &'a [u8],
}

impl<'a> FileSignature<'a> {
    /// Reads a `sig` field.
    ///
    /// # Errors
    /// [`ImaReason::SignatureForm`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, Rejection> {
        let short = |error| ImaReason::SignatureForm.because("a signature_v2_hdr", error);
        let mut reader = Reader::new(bytes);
        let [kind, version, hash_id] = reader.array::<3>().map_err(short)?;
        let kind = match (kind, version) {
            (DIGSIG, 2) => DigestKind::File,
            (VERITY_DIGSIG, 3) => DigestKind::Verity,
            _ => {
                let found = format_args!("type {kind} version {version}");
                return Err(ImaReason::SignatureForm.because("type 3 version 2, or type 6 version 3", found));
            }
        };
        // include/uapi/linux/hash_info.h.
        let hash = match hash_id {
            4 => TpmHash::Sha256,
            5 => TpmHash::Sha384,
            6 => TpmHash::Sha512,
            _ => {
                let found = format_args!("hash {hash_id}");
                return Err(ImaReason::SignatureForm.because("sha256 (4), sha384 (5) or sha512 (6)", found));
            }
        };
        let key_id = reader.array().map_err(short)?;
        let signature = reader.tpm2b().map_err(short)?;
        reader.finish().map_err(short)?;
        Ok(Self { kind, hash, hash_id, key_id, signature })
    }

    /// The last four bytes of the signing key's identifier.
    #[must_use]
    pub const fn key_id(&self) -> [u8; 4] {
        self.key_id
    }

    /// Checks the signature over the measured digest with the one of `keys` that it names.
    ///
    /// # Errors
    /// [`ImaReason::Signature`].
    pub fn verify(&self, digest: &FileDigest<'_>, keys: &[ImaKey]) -> Result<(), Rejection> {
        let fits = digest.kind == self.kind && digest.algorithm.bank() == Some(self.hash);
        if !fits {
            return Err(ImaReason::Signature.because("a digest of the signature's kind and hash", "another"));
        }
        let file_id;
        let signed = match self.kind {
            DigestKind::File => digest.digest,
            // `calc_file_id_hash`: hash of type, hash id and digest.
            DigestKind::Verity => {
                let mut id: Vec<u8> = [VERITY_DIGSIG, self.hash_id].into();
                id.extend_from_slice(digest.digest);
                file_id = Digest::of(self.hash, &id);
                file_id.as_slice()
            }
        };
        let shown = || hex::encode(self.key_id);
        // Sorted by id, and a key is registered once under each of its ids, so that few share one.
        let first = keys.partition_point(|key| key.id < self.key_id);
        let mut named = keys.iter().skip(first).take_while(|key| key.id == self.key_id).peekable();
        if named.peek().is_none() {
            return Err(ImaReason::Signature.because("a registered key", format_args!("key id {}", shown())));
        }
        if named.any(|key| key.key.verify(self.hash, signed, self.signature).is_ok()) {
            return Ok(());
        }
        Err(ImaReason::Signature.because("a signature over the measured digest", format_args!("key id {}", shown())))
    }
}

/// A registered key for file signatures.
#[derive(Clone, Debug)]
pub struct ImaKey {
    id: [u8; 4],
    key: PrehashedKey,
}

impl ImaKey {
    /// The key of a DER `SubjectPublicKeyInfo`, or of a DER certificate. Of a certificate only key and key identifier
    /// count: who registers it vouches for it, as an operator does who loads it into the kernel's keyring.
    ///
    /// # Errors
    /// [`ImaReason::Key`].
    pub fn from_der(der: &[u8]) -> Result<Self, Rejection> {
        let unsupported = |_| ImaReason::Key.because("RSA or ECDSA, as SubjectPublicKeyInfo or certificate", "another");
        if let Ok(key) = PrehashedKey::from_spki(der) {
            return Ok(Self { id: key.key_id(), key });
        }
        let certificate = Certificate::parse(der)?;
        let key = PrehashedKey::from_spki(certificate.spki()).map_err(unsupported)?;
        // The kernel names a key by the end of its certificate's subjectKeyIdentifier, where it has one.
        let extension = certificate.extension(SUBJECT_KEY_IDENTIFIER);
        let id = extension.and_then(|extension| extension.value.last_chunk::<4>().copied());
        Ok(Self { id: id.unwrap_or_else(|| key.key_id()), key })
    }

    /// The same key under another id.
    #[must_use]
    pub fn with_id(self, id: [u8; 4]) -> Self {
        Self { id, ..self }
    }

    /// The id that signatures name it by.
    #[must_use]
    pub const fn id(&self) -> [u8; 4] {
        self.id
    }

    /// Keys in the order that [`FileSignature::verify`] needs.
    #[must_use]
    pub fn sorted(mut keys: Vec<Self>) -> Vec<Self> {
        keys.sort_by_key(Self::id);
        keys
    }
}
