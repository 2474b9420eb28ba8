//! A simulated kernel's IMA: the bytes of `binary_runtime_measurements` and the values it extends. Included by path
//! where a test needs it; nothing shipped knows it.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::std_instead_of_core,
    reason = "a test aid: each test that includes it uses its own part, and one that cannot go on fails"
)]

use std::collections::BTreeMap;

use aws_lc_rs::digest;

/// What a kernel extends into a bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KernelExtends {
    /// The bank's own hash of the template data (Linux 5.8 and later).
    Own,
    /// The SHA-1 template hash and zeros (before).
    PaddedSha1,
    /// The same, and ones to the end for violations.
    PaddedSha1FullViolation,
}

/// One entry as the kernel writes it, and what of it is hashed.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) pcr: u32,
    pub(crate) template: Vec<u8>,
    /// All that the template hash covers.
    pub(crate) hashed: Vec<u8>,
    /// What follows the template's name in the list.
    pub(crate) written: Vec<u8>,
    pub(crate) violation: bool,
}

impl Measured {
    /// An entry of a template whose fields are these.
    pub(crate) fn of(pcr: u32, template: &str, fields: &[Vec<u8>]) -> Self {
        let mut data = Vec::new();
        for field in fields {
            data.extend_from_slice(&u32::try_from(field.len()).unwrap().to_le_bytes());
            data.extend_from_slice(field);
        }
        let mut written = u32::try_from(data.len()).unwrap().to_le_bytes().to_vec();
        written.extend_from_slice(&data);
        Self { pcr, template: template.into(), hashed: data, written, violation: false }
    }

    /// `ima-ng`.
    pub(crate) fn ng(path: &str, file_digest: &[u8; 32]) -> Self {
        Self::of(10, "ima-ng", &[d_ng("sha256", file_digest), n_ng(path)])
    }

    /// `ima-sig`; without a signature the field is empty.
    pub(crate) fn sig(path: &str, file_digest: &[u8; 32], signature: &[u8]) -> Self {
        Self::of(10, "ima-sig", &[d_ng("sha256", file_digest), n_ng(path), signature.to_vec()])
    }

    /// `ima-buf`: a buffer by its name, for instance a key by its keyring.
    pub(crate) fn buf(name: &str, buffer: &[u8]) -> Self {
        let of_buffer = digest::digest(&digest::SHA256, buffer);
        Self::of(10, "ima-buf", &[d_ng("sha256", of_buffer.as_ref()), n_ng(name), buffer.to_vec()])
    }

    /// The legacy template.
    pub(crate) fn legacy(path: &str, file_digest: &[u8; 20]) -> Self {
        let mut hashed = file_digest.to_vec();
        hashed.extend_from_slice(path.as_bytes());
        hashed.resize(20 + 256, 0);
        let mut written = file_digest.to_vec();
        written.extend_from_slice(&u32::try_from(path.len()).unwrap().to_le_bytes());
        written.extend_from_slice(path.as_bytes());
        Self { pcr: 10, template: b"ima".to_vec(), hashed, written, violation: false }
    }

    /// A violation at `path`: ToMToU or open writers.
    pub(crate) fn violation(path: &str) -> Self {
        Self { violation: true, ..Self::ng(path, &[0; 32]) }
    }

    /// In another PCR.
    pub(crate) fn in_pcr(self, pcr: u32) -> Self {
        Self { pcr, ..self }
    }

    /// The bytes in the list, with template hashes of SHA-1.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &self.hashed);
        let template_hash = if self.violation { vec![0; 20] } else { sha1.as_ref().to_vec() };
        let mut bytes = self.pcr.to_le_bytes().to_vec();
        bytes.extend_from_slice(&template_hash);
        bytes.extend_from_slice(&u32::try_from(self.template.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(&self.template);
        bytes.extend_from_slice(&self.written);
        bytes
    }

    /// What is extended into the bank of `hash` (`sha256`, `sha384`, `sha512`, `sha1`).
    pub(crate) fn extended(&self, hash: &'static digest::Algorithm, extends: KernelExtends) -> Vec<u8> {
        let size = hash.output_len();
        let mut value = match (extends, self.violation) {
            (KernelExtends::Own | KernelExtends::PaddedSha1FullViolation, true) => vec![0xff; size],
            (KernelExtends::PaddedSha1, true) => vec![0xff; 20],
            (KernelExtends::Own, false) => digest::digest(hash, &self.hashed).as_ref().to_vec(),
            (KernelExtends::PaddedSha1 | KernelExtends::PaddedSha1FullViolation, false) => {
                digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &self.hashed).as_ref().to_vec()
            }
        };
        value.resize(size, 0);
        value
    }
}

/// A `d-ng` field.
pub(crate) fn d_ng(algorithm: &str, file_digest: &[u8]) -> Vec<u8> {
    [algorithm.as_bytes(), b":\0", file_digest].concat()
}

/// A `d-ngv2` field.
pub(crate) fn d_ngv2(kind: &str, algorithm: &str, file_digest: &[u8]) -> Vec<u8> {
    [kind.as_bytes(), b":", &d_ng(algorithm, file_digest)].concat()
}

/// An `n-ng` or `n` field.
pub(crate) fn n_ng(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

/// The list of `entries`.
pub(crate) fn list(entries: &[Measured]) -> Vec<u8> {
    entries.iter().flat_map(Measured::bytes).collect()
}

/// Values of one bank by PCR after `entries`.
pub(crate) fn replay(
    entries: &[Measured],
    hash: &'static digest::Algorithm,
    extends: KernelExtends,
) -> BTreeMap<u32, Vec<u8>> {
    let mut values: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for entry in entries {
        let value = values.entry(entry.pcr).or_insert_with(|| vec![0; hash.output_len()]);
        value.extend_from_slice(&entry.extended(hash, extends));
        *value = digest::digest(hash, value).as_ref().to_vec();
    }
    values
}
