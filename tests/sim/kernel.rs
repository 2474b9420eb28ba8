//! A kernel that measures (Linux IMA, template `ima-ng`): each entry goes to the list and then to PCR 10 of all banks,
//! in the kernel's order, so that a list is never behind its PCR. Include `ima.rs` beside it.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "a test aid: each test that includes it uses its own part, and one that cannot go on fails"
)]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{self, SHA256, SHA384};

use crate::ima::{KernelExtends, Measured};

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
        fs::write(list, []).unwrap();
        let kernel = Self { list: list.to_owned() };
        let first = kernel.measure("boot_aggregate", pcrs.as_flattened());
        (kernel, first)
    }

    /// A file is opened for the first time since it changed.
    pub(crate) fn measure(&self, path: &str, content: &[u8]) -> Extend {
        let digest = digest::digest(&SHA256, content);
        self.append(&Measured::ng(path, digest.as_ref().try_into().unwrap()))
    }

    /// A file was opened for reading while it was open for writing, or the other way round.
    pub(crate) fn violation(&self, path: &str) -> Extend {
        self.append(&Measured::violation(path))
    }

    /// The bytes of the list.
    pub(crate) fn read(&self) -> Vec<u8> {
        fs::read(&self.list).unwrap()
    }

    /// Replaces the list, as no kernel does.
    pub(crate) fn replace(&self, list: &[u8]) {
        fs::write(&self.list, list).unwrap();
    }

    /// One write, so that a reader sees an entry whole.
    fn append(&self, entry: &Measured) -> Extend {
        let mut list = File::options().append(true).open(&self.list).unwrap();
        list.write_all(&entry.bytes()).unwrap();
        let of = |bank| {
            let bytes = entry.extended(bank, KernelExtends::Own);
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        Extend(format!("{}:sha256={},sha384={}", entry.pcr, of(&SHA256), of(&SHA384)))
    }
}
