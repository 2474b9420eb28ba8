//! What a verified log says about a boot.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::claims::{HexBytes, PcrHash};
use crate::digest::Sha256Digest;

/// Something a boot may have measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "value")]
pub enum Measured<T> {
    /// It was: a signed PCR value says so.
    Measured(T),
    /// The PCR it belongs to was signed and is explained by the log, and nothing in it is that.
    Unmeasured,
    /// Nothing is known: the PCR was not quoted, the log does not explain it, or the log's words do not hash to what
    /// was measured.
    Unknown,
}

impl<T> Measured<T> {
    /// What was measured, if anything.
    pub const fn measured(&self) -> Option<&T> {
        match self {
            Self::Measured(value) => Some(value),
            Self::Unmeasured | Self::Unknown => None,
        }
    }
}

/// Whether UEFI Secure Boot was on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecureBoot {
    /// The firmware measured SecureBoot = 1 before it let anything else run.
    On,
    /// It measured 0, or a variable without a value.
    Off,
    /// PCR 7 is explained and says nothing about it.
    Unmeasured,
    /// PCR 7 was not quoted, or what it holds cannot be told.
    Unknown,
}

/// Whether firmware handed over to the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitBootServices {
    /// It was called, and returned with success.
    Reached,
    /// It was called, and no success was measured.
    Called,
    /// PCR 5 is explained and says nothing about it.
    Unmeasured,
    /// PCR 5 was not quoted.
    Unknown,
}

/// The event between the firmware's own measurements of a PCR and those of what it loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Separator {
    /// It is there.
    Present,
    /// It says that the firmware failed to measure.
    Error,
    /// There is none: whatever ran later could speak as if it were the firmware.
    Missing,
}

/// A database of UEFI Secure Boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureDatabase {
    /// SHA-256 of the variable's value.
    pub digest: Sha256Digest,
    /// What it holds; `unknown` when its lists do not fit into each other.
    pub contents: Measured<DatabaseContents>,
}

/// The entries of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseContents {
    /// SHA-256 of each X.509 certificate.
    pub certificates: Vec<Sha256Digest>,
    /// How many image hashes it holds.
    pub hashes: u32,
    /// How many entries of other types.
    pub others: u32,
}

/// What ran an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageKind {
    /// EV_EFI_BOOT_SERVICES_APPLICATION: boot loaders and kernels.
    Application,
    /// EV_EFI_BOOT_SERVICES_DRIVER.
    BootDriver,
    /// EV_EFI_RUNTIME_SERVICES_DRIVER.
    RuntimeDriver,
}

/// An image that was loaded. Its name is not attested, so there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootImage {
    /// PCR it was extended into.
    pub pcr: u8,
    /// What the log calls it.
    pub kind: ImageKind,
    /// Authenticode digest, by bank.
    pub digest: BTreeMap<PcrHash, HexBytes>,
}

/// Something measured whose label is the log's word; the digest is attested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labelled {
    /// PCR it was extended into.
    pub pcr: u8,
    /// What the log calls it. The host could have written anything here.
    pub label: String,
    /// What was measured, by bank.
    pub digest: BTreeMap<PcrHash, HexBytes>,
}

/// A section of a unified kernel image. systemd's stub measures the name, then the contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UkiSection {
    /// Name, bound to its own digest.
    pub name: String,
    /// Digest of the contents, by bank.
    pub digest: BTreeMap<PcrHash, HexBytes>,
}

/// What a boot measured, as far as signed PCR values explain it. Lists say what was measured, in the order of their
/// PCR: whoever controls the running system can extend further entries, and can never take one away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootClaims {
    /// The quoted banks, each replayed.
    pub banks: BTreeSet<PcrHash>,
    /// PCRs that the log replays to in every quoted bank.
    pub replayed: BTreeSet<u8>,
    /// Quoted PCRs that something extended beyond the log; nothing is claimed of them.
    pub unexplained: BTreeSet<u8>,
    /// Whether UEFI Secure Boot was on.
    pub secure_boot: SecureBoot,
    /// Platform key.
    pub pk: Measured<SignatureDatabase>,
    /// Key exchange keys.
    pub kek: Measured<SignatureDatabase>,
    /// What may be loaded.
    pub db: Measured<SignatureDatabase>,
    /// What may not.
    pub dbx: Measured<SignatureDatabase>,
    /// Variables that let images be loaded (EV_EFI_VARIABLE_AUTHORITY), by name and SHA-256 of the value.
    pub authorities: Measured<Vec<Authority>>,
    /// shim's SbatLevel, as it measured it.
    pub sbat_level: Measured<String>,
    /// shim's machine owner keys: MokList, MokListX and the like.
    pub mok: Measured<Vec<Labelled>>,
    /// Images that firmware loaded: drivers in PCR 2, boot loaders and kernels in PCR 4.
    pub images: Measured<Vec<BootImage>>,
    /// Files that a boot loader or the EFI stub read: kernels, initrds, configurations.
    pub files: Measured<Vec<Labelled>>,
    /// Initrds as Linux' EFI stub measured them.
    pub initrds: Measured<Vec<Labelled>>,
    /// Kernel command lines. Every one that was measured.
    pub command_lines: Measured<Vec<String>>,
    /// Sections of a unified kernel image.
    pub uki: Measured<Vec<UkiSection>>,
    /// Whether firmware handed over.
    pub exit_boot_services: ExitBootServices,
    /// Separators of PCR 0 to 7, of those that were replayed.
    pub separators: BTreeMap<u8, Separator>,
    /// PCRs among 0 to 3 and 6 that were extended after their separator.
    pub extended_after_separator: BTreeSet<u8>,
    /// Whether an H-CRTM measured before TPM2_Startup.
    pub hcrtm: bool,
    /// Whether the log has events of a D-RTM (PCR 17 to 22). Those PCRs are not trusted here.
    pub drtm_logged: bool,
}

/// A variable that let an image be loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// Name of the variable: `db`, `Shim`, `MokList`.
    pub variable: String,
    /// SHA-256 of the value: of an EFI_SIGNATURE_DATA from firmware, of a certificate from shim.
    pub digest: Sha256Digest,
}
