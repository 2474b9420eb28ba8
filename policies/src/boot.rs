//! Reference values for a boot: what an event log must show to have been measured, by name rather than by PCR.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use countersign_attestation::claims::{BootClaims, HexBytes};
use serde::{Deserialize, Serialize};

use crate::finding::{Finding, PolicyReason};
use crate::matching::one_of;
use crate::reference::{VALUES_MAX, Values, not_null, read_values};

/// Longest accepted command line: COMMAND_LINE_SIZE of x86 Linux.
const CMDLINE_BYTES_MAX: usize = 2048;
/// Differences of one kind that an explanation lists.
const DIFFERENCES_MAX: usize = 4;

/// What a manifest says about the boot: at least one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BootReference {
    #[serde(skip_serializing_if = "Option::is_none")]
    secure_boot: Option<SecureBootState>,
    #[serde(flatten)]
    measured: BTreeMap<Measured, Values>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmdline: Option<BTreeSet<String>>,
}

/// States of Secure Boot that a manifest can demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SecureBootState {
    On,
    Off,
}

/// What a boot measures by its digest. Of one kind there may be several; each must be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measured {
    Pk,
    Kek,
    Db,
    Dbx,
    Mok,
    Images,
    Kernel,
    Initrd,
}

impl SecureBootState {
    const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

impl Measured {
    /// The member of a manifest.
    const fn name(self) -> &'static str {
        match self {
            Self::Pk => "pk",
            Self::Kek => "kek",
            Self::Db => "db",
            Self::Dbx => "dbx",
            Self::Mok => "mok",
            Self::Images => "images",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
        }
    }

    /// PCRs that it can be measured into: variables into 7, the shim's list into 14, images into 4 and, when a device
    /// brings them, 2 (PC Client Platform Firmware Profile 1.06, 3.3.4); what GRUB loads into 9, what systemd-stub
    /// carries into 11, initrds that the kernel loads itself into 9, those added beside a UKI into 12.
    const fn pcrs(self) -> &'static [u8] {
        match self {
            Self::Pk | Self::Kek | Self::Db | Self::Dbx => &[7],
            Self::Mok => &[14],
            Self::Images => &[2, 4],
            Self::Kernel => &[4, 9, 11],
            Self::Initrd => &[9, 11, 12],
        }
    }
}

/// Command lines: GRUB's into 8, the kernel's EFI stub's into 9, systemd-stub's into 12, and the one in a UKI into 11.
const CMDLINE_PCRS: [u8; 4] = [8, 9, 11, 12];

/// The section as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenBoot {
    #[serde(default, deserialize_with = "not_null")]
    secure_boot: Option<SecureBootState>,
    #[serde(default, deserialize_with = "not_null")]
    pk: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    kek: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    db: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    dbx: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    mok: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    images: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    kernel: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    initrd: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    cmdline: Option<Vec<String>>,
}

impl BootReference {
    pub(crate) fn read(written: WrittenBoot) -> Result<Self, Finding> {
        let lists = [
            (Measured::Pk, written.pk),
            (Measured::Kek, written.kek),
            (Measured::Db, written.db),
            (Measured::Dbx, written.dbx),
            (Measured::Mok, written.mok),
            (Measured::Images, written.images),
            (Measured::Kernel, written.kernel),
            (Measured::Initrd, written.initrd),
        ];
        let mut measured = BTreeMap::new();
        for (what, texts) in lists {
            let Some(texts) = texts else { continue };
            measured.insert(what, read_values(&format!("boot.{}", what.name()), &texts, 32, true)?);
        }
        let cmdline = written.cmdline.map(read_cmdlines).transpose()?;
        if written.secure_boot.is_none() && measured.is_empty() && cmdline.is_none() {
            return Err(PolicyReason::ManifestEmpty.because("at least one value in `boot`", "none"));
        }
        Ok(Self { secure_boot: written.secure_boot, measured, cmdline })
    }

    /// What must be quoted for these values to be claims.
    pub(crate) fn pcrs(&self) -> impl Iterator<Item = u8> {
        let secure_boot = self.secure_boot.iter().map(|_| 7);
        let measured = self.measured.keys().flat_map(|what| what.pcrs()).copied();
        let cmdline = self.cmdline.iter().flat_map(|_| CMDLINE_PCRS);
        // 0 with them: a bank that the firmware does not extend shows in it.
        core::iter::once(0).chain(secure_boot).chain(measured).chain(cmdline)
    }

    /// Compares a verified boot thing by thing; tells how many are the same, and what differs.
    pub(crate) fn compare(&self, boot: &BootClaims) -> (usize, Vec<BootDifference<'_>>) {
        let mut compared: Vec<Vec<BootDifference<'_>>> = Vec::new();
        if let Some(accepted) = self.secure_boot {
            let found = secure_boot_of(boot);
            let differs = found != accepted.name();
            compared.push(differs.then_some(BootDifference::SecureBoot { accepted, found }).into_iter().collect());
        }
        for (what, accepted) in &self.measured {
            let found = digests_of(boot, *what);
            compared.push(differing(found, Accepted::Digests(what.name(), accepted), |found| accepted.contains(found)));
        }
        if let Some(accepted) = &self.cmdline {
            compared
                .push(differing(cmdlines_of(boot), Accepted::Cmdlines(accepted), |found| accepted.contains(*found)));
        }
        let same = compared.iter().filter(|differences| differences.is_empty()).count();
        (same, compared.into_iter().flatten().collect())
    }
}

/// Every one that was measured must be accepted, and one at least was measured.
fn differing<'a, T: fmt::Display>(
    found: Vec<T>,
    accepted: Accepted<'a>,
    accepts: impl Fn(&T) -> bool,
) -> Vec<BootDifference<'a>> {
    if found.is_empty() {
        return Vec::from([BootDifference::NotMeasured { accepted }]);
    }
    let differing = found.iter().filter(|found| !accepts(found)).take(DIFFERENCES_MAX);
    differing.map(|found| BootDifference::Other { accepted, found: found.to_string() }).collect()
}

/// What a manifest lists.
#[derive(Clone, Copy)]
pub(crate) enum Accepted<'a> {
    Digests(&'static str, &'a Values),
    Cmdlines(&'a BTreeSet<String>),
}

impl fmt::Display for Accepted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digests(name, values) => write!(f, "{name} {}", one_of(values)),
            Self::Cmdlines(lines) => {
                let lines: Vec<String> = lines.iter().map(|line| format!("`{line}`")).collect();
                write!(f, "cmdline {}", lines.join(" or "))
            }
        }
    }
}

impl Accepted<'_> {
    const fn name(&self) -> &'static str {
        match self {
            Self::Digests(name, _) => name,
            Self::Cmdlines(_) => "cmdline",
        }
    }
}

/// One thing of a boot that differs from a manifest.
pub(crate) enum BootDifference<'a> {
    SecureBoot { accepted: SecureBootState, found: &'static str },
    NotMeasured { accepted: Accepted<'a> },
    Other { accepted: Accepted<'a>, found: String },
}

impl BootDifference<'_> {
    pub(crate) fn explain(&self, manifest: &str) -> Finding {
        match self {
            Self::SecureBoot { accepted, found } => {
                let expected = format_args!("secure boot {} (manifest {manifest})", accepted.name());
                PolicyReason::SecureBoot.because(expected, format_args!("secure boot {found}"))
            }
            Self::NotMeasured { accepted } => {
                let expected = format_args!("{accepted} (manifest {manifest})");
                PolicyReason::BootNotMeasured.because(expected, format_args!("no {} measured", accepted.name()))
            }
            Self::Other { accepted, found } => {
                let expected = format_args!("{accepted} (manifest {manifest})");
                PolicyReason::BootMismatch.because(expected, format_args!("{} {found}", accepted.name()))
            }
        }
    }
}

fn read_cmdlines(texts: Vec<String>) -> Result<BTreeSet<String>, Finding> {
    if texts.is_empty() {
        return Err(PolicyReason::ValueListEmpty.because("at least one value in `boot.cmdline`", "none"));
    }
    if VALUES_MAX < texts.len() {
        let expected = format_args!("at most {VALUES_MAX} values in `boot.cmdline`");
        return Err(PolicyReason::ValueListSize.because(expected, format_args!("{} values", texts.len())));
    }
    for text in &texts {
        if text.is_empty() || CMDLINE_BYTES_MAX < text.len() || text.chars().any(char::is_control) {
            let expected = format_args!("1 to {CMDLINE_BYTES_MAX} bytes without control characters in `boot.cmdline`");
            return Err(PolicyReason::BootCmdline.because(expected, format_args!("`{text}`")));
        }
    }
    Ok(texts.into_iter().collect())
}

// TEMPORARY
fn secure_boot_of(boot: &BootClaims) -> &'static str {
    if boot.secure_boot == 1 { "on" } else { "unmeasured" }
}
fn digests_of(_boot: &BootClaims, _what: Measured) -> Vec<HexBytes> {
    Vec::new()
}
fn cmdlines_of(_boot: &BootClaims) -> Vec<&String> {
    Vec::new()
}
