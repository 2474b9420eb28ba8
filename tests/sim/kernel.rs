//! A kernel that measures (Linux IMA, template `ima-ng`): each entry goes to the list and then to PCR 10 of all banks,
//! in the kernel's order, so that a list is never behind its PCR.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "a test aid: each test that includes it uses its own part, and one that cannot go on fails"
)]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384};

/// A booted kernel's measurement list.
pub(crate) struct Kernel {
    list: PathBuf,
}

/// What an entry extends PCR 10 with, as tpm2_pcrextend reads it.
#[must_use]
pub(crate) struct Extend(pub(crate) String);

impl Kernel {
    /// A kernel that has just started with these PCRs 0 to 9: its list has one entry, the boot aggregate
    /// (ima_crypto.c, `ima_calc_boot_aggregate`).
    pub(crate) fn boot(list: &Path, pcrs: &[[u8; 32]; 10]) -> (Self, Extend) {
        let _earlier_boot = fs::remove_file(list);
        let kernel = Self { list: list.to_owned() };
        let first = kernel.add("boot_aggregate", digest::digest(&SHA256, pcrs.as_flattened()).as_ref());
        (kernel, first)
    }

    /// A file is opened for the first time since it changed.
    pub(crate) fn measure(&self, path: &str, content: &[u8]) -> Extend {
        self.add(path, digest::digest(&SHA256, content).as_ref())
    }

    /// A file was opened for reading while it was open for writing, or the other way round: the entry is all zero, and
    /// the PCR is extended with all ones (ima_template.c, `ima_add_violation`; ima_queue.c).
    pub(crate) fn violation(&self, path: &str) -> Extend {
        self.append(&[0; 20], &data(path, &[0; 32]));
        Extend(format!("10:sha256={},sha384={}", "ff".repeat(32), "ff".repeat(48)))
    }

    /// Where the list is.
    pub(crate) fn list(&self) -> &Path {
        &self.list
    }

    fn add(&self, path: &str, file: &[u8]) -> Extend {
        let data = data(path, file);
        self.append(digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, &data).as_ref(), &data);
        let hex = |digest: digest::Digest| digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let of = |algorithm| hex(digest::digest(algorithm, &data));
        Extend(format!("10:sha256={},sha384={}", of(&SHA256), of(&SHA384)))
    }

    /// One write, so that a reader sees an entry whole.
    fn append(&self, template_digest: &[u8], data: &[u8]) {
        let name = b"ima-ng";
        let pcr = 10_u32.to_le_bytes();
        let entry = [&pcr[..], template_digest, &length(name), name, &length(data), data].concat();
        let mut list = File::options().create(true).append(true).open(&self.list).unwrap();
        list.write_all(&entry).unwrap();
    }
}

/// The fields d-ng and n-ng, each with its length before it.
fn data(path: &str, file: &[u8]) -> Vec<u8> {
    let digest = [b"sha256:\0", file].concat();
    let name = [path.as_bytes(), b"\0"].concat();
    [&length(&digest)[..], &digest, &length(&name), &name].concat()
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap().to_le_bytes()
}
