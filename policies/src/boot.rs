//! Reference values for a boot: what an event log must show to have been measured, by name rather than by PCR.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use countersign_attestation::claims::{BootClaims, HexBytes, PcrHash};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::eventlog::claims::{Labelled, Measured, SecureBoot, SignatureDatabase};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::finding::{Finding, PolicyReason};
use crate::json::Members;
use crate::matching::one_of;
use crate::reference::{VALUES_MAX, Values, not_null, read_values};

/// Longest accepted command line: COMMAND_LINE_SIZE of x86 Linux.
const COMMAND_LINE_BYTES_MAX: usize = 2048;
/// Differences of one kind that an explanation lists.
const DIFFERENCES_MAX: usize = 4;

/// What a manifest says about the boot: at least one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BootReference {
    #[serde(skip_serializing_if = "Option::is_none")]
    secure_boot: Option<SecureBootState>,
    #[serde(flatten)]
    digests: BTreeMap<Kind, Values>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uki: Option<BTreeMap<String, Values>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command_lines: Option<BTreeSet<String>>,
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
pub(crate) enum Kind {
    Pk,
    Kek,
    Db,
    Dbx,
    Authorities,
    Mok,
    Images,
    Files,
    Initrds,
}

impl SecureBootState {
    const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }

    const fn is(self, found: SecureBoot) -> bool {
        match (self, found) {
            (Self::On, SecureBoot::On) | (Self::Off, SecureBoot::Off) => true,
            (Self::On | Self::Off, SecureBoot::On | SecureBoot::Off | SecureBoot::Unmeasured | SecureBoot::Unknown) => {
                false
            }
        }
    }
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Pk,
        Self::Kek,
        Self::Db,
        Self::Dbx,
        Self::Authorities,
        Self::Mok,
        Self::Images,
        Self::Files,
        Self::Initrds,
    ];

    /// The member of a manifest, which is also that of the claims.
    const fn name(self) -> &'static str {
        match self {
            Self::Pk => "pk",
            Self::Kek => "kek",
            Self::Db => "db",
            Self::Dbx => "dbx",
            Self::Authorities => "authorities",
            Self::Mok => "mok",
            Self::Images => "images",
            Self::Files => "files",
            Self::Initrds => "initrds",
        }
    }

    /// PCRs that it is measured into: variables into 7, shim's keys into 14, images into 4 and those of devices into 2
    /// (PC Client Platform Firmware Profile 1.06, 3.3.4), what GRUB and the kernel's EFI stub read into 9.
    const fn pcrs(self) -> &'static [u8] {
        match self {
            Self::Pk | Self::Kek | Self::Db | Self::Dbx | Self::Authorities => &[7],
            Self::Mok => &[14],
            Self::Images => &[2, 4],
            Self::Files | Self::Initrds => &[9],
        }
    }

    /// What the boot shows of it.
    fn found(self, boot: &BootClaims) -> Measured<Vec<Digests>> {
        let database = |database: &Measured<SignatureDatabase>| {
            measured(database, |database| Vec::from([Digests::of_value(database.digest)]))
        };
        let labelled = |list: &Measured<Vec<Labelled>>| {
            measured(list, |list| list.iter().map(|item| Digests::by_bank(&item.digest)).collect())
        };
        match self {
            Self::Pk => database(&boot.pk),
            Self::Kek => database(&boot.kek),
            Self::Db => database(&boot.db),
            Self::Dbx => database(&boot.dbx),
            Self::Authorities => measured(&boot.authorities, |list| {
                list.iter().map(|authority| Digests::of_value(authority.digest)).collect()
            }),
            Self::Mok => labelled(&boot.mok),
            Self::Images => {
                measured(&boot.images, |list| list.iter().map(|image| Digests::by_bank(&image.digest)).collect())
            }
            Self::Files => labelled(&boot.files),
            Self::Initrds => labelled(&boot.initrds),
        }
    }
}

/// Command lines: GRUB's into 8, the kernel's EFI stub's into 9, systemd-stub's into 12.
const COMMAND_LINE_PCRS: [u8; 3] = [8, 9, 12];
/// Sections of a unified kernel image (systemd-stub).
const UKI_PCR: u8 = 11;

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
    authorities: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    mok: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    images: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    files: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    initrds: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    uki: Option<Members<Vec<String>>>,
    #[serde(default, deserialize_with = "not_null")]
    command_lines: Option<Vec<String>>,
}

impl BootReference {
    /// Every list of digests.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Values> {
        self.digests.values_mut().chain(self.uki.iter_mut().flat_map(BTreeMap::values_mut))
    }

    pub(crate) fn read(written: WrittenBoot) -> Result<Self, Finding> {
        let lists = [
            (Kind::Pk, written.pk),
            (Kind::Kek, written.kek),
            (Kind::Db, written.db),
            (Kind::Dbx, written.dbx),
            (Kind::Authorities, written.authorities),
            (Kind::Mok, written.mok),
            (Kind::Images, written.images),
            (Kind::Files, written.files),
            (Kind::Initrds, written.initrds),
        ];
        let mut digests = BTreeMap::new();
        for (kind, texts) in lists {
            let Some(texts) = texts else { continue };
            digests.insert(kind, read_digests(&format!("boot.{}", kind.name()), &texts)?);
        }
        let uki = written.uki.map(read_uki).transpose()?;
        let command_lines = written.command_lines.map(read_command_lines).transpose()?;
        if written.secure_boot.is_none() && digests.is_empty() && uki.is_none() && command_lines.is_none() {
            return Err(PolicyReason::ManifestEmpty.because("at least one value in `boot`", "none"));
        }
        Ok(Self { secure_boot: written.secure_boot, digests, uki, command_lines })
    }

    /// What this boot shows, as a manifest's `boot` demands it: of everything that was measured, all that was measured.
    pub(crate) fn learned(boot: &BootClaims) -> Option<Value> {
        let mut learned = Map::new();
        let state = [SecureBootState::On, SecureBootState::Off].into_iter().find(|state| state.is(boot.secure_boot));
        learned.extend(state.map(|state| ("secure_boot".to_string(), state.name().into())));
        for kind in Kind::ALL {
            if let Measured::Measured(found) = kind.found(boot) {
                let values: BTreeSet<String> = found.iter().filter_map(Digests::first).collect();
                if !values.is_empty() {
                    learned.insert(kind.name().to_string(), values.into_iter().collect());
                }
            }
        }
        if let Measured::Measured(sections) = &boot.uki {
            let mut uki: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for section in sections {
                uki.entry(section.name.clone()).or_default().extend(Digests::by_bank(&section.digest).first());
            }
            let uki = uki.into_iter().map(|(name, values)| (name, values.into_iter().collect()));
            learned.insert("uki".to_string(), Value::Object(uki.collect()));
        }
        if let Measured::Measured(lines) = &boot.command_lines {
            let lines: BTreeSet<&String> = lines.iter().collect();
            if !lines.is_empty() {
                learned.insert("command_lines".to_string(), lines.into_iter().cloned().collect());
            }
        }
        (!learned.is_empty()).then_some(Value::Object(learned))
    }

    /// What must be quoted for these values to be claims.
    pub(crate) fn pcrs(&self) -> impl Iterator<Item = u8> {
        let secure_boot = self.secure_boot.iter().map(|_| 7);
        let digests = self.digests.keys().flat_map(|kind| kind.pcrs()).copied();
        let uki = self.uki.iter().map(|_| UKI_PCR);
        let command_lines = self.command_lines.iter().flat_map(|_| COMMAND_LINE_PCRS);
        // 0 with them: a bank that the firmware does not extend shows in it.
        core::iter::once(0).chain(secure_boot).chain(digests).chain(uki).chain(command_lines)
    }

    /// Compares a verified boot thing by thing; tells how many are the same, and what differs.
    pub(crate) fn compare(&self, boot: &BootClaims) -> (usize, Vec<BootDifference<'_>>) {
        let mut compared: Vec<Vec<BootDifference<'_>>> = Vec::new();
        if let Some(accepted) = self.secure_boot {
            let found = boot.secure_boot;
            let differs = !accepted.is(found);
            compared.push(differs.then_some(BootDifference::SecureBoot { accepted, found }).into_iter().collect());
        }
        for (kind, accepted) in &self.digests {
            let accepts = |found: &Digests| found.0.iter().any(|digest| accepted.contains(digest));
            compared.push(differing(&kind.found(boot), Accepted::Digests(kind.name(), accepted), accepts));
        }
        for (section, accepted) in self.uki.iter().flatten() {
            let found = measured(&boot.uki, |sections| {
                let named = sections.iter().filter(|found| found.name == *section);
                named.map(|found| Digests::by_bank(&found.digest)).collect()
            });
            let accepts = |found: &Digests| found.0.iter().any(|digest| accepted.contains(digest));
            compared.push(differing(&found, Accepted::Digests(section, accepted), accepts));
        }
        if let Some(accepted) = &self.command_lines {
            let accepts = |found: &String| accepted.contains(found);
            compared.push(differing(&boot.command_lines, Accepted::CommandLines(accepted), accepts));
        }
        let same = compared.iter().filter(|differences| differences.is_empty()).count();
        (same, compared.into_iter().flatten().collect())
    }
}

/// One measured thing: the same bytes, hashed for each bank.
#[derive(Clone)]
struct Digests(Vec<HexBytes>);

impl Digests {
    fn of_value(digest: Sha256Digest) -> Self {
        Self(Vec::from([HexBytes(digest.0.to_vec())]))
    }

    fn by_bank(digests: &BTreeMap<PcrHash, HexBytes>) -> Self {
        Self(digests.values().cloned().collect())
    }

    /// Of the first bank: one is enough to know it by.
    fn first(&self) -> Option<String> {
        self.0.first().map(ToString::to_string)
    }
}

impl fmt::Display for Digests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digests: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&digests.join("/"))
    }
}

fn measured<T, U>(found: &Measured<T>, read: impl FnOnce(&T) -> U) -> Measured<U> {
    match found {
        Measured::Measured(value) => Measured::Measured(read(value)),
        Measured::Unmeasured => Measured::Unmeasured,
        Measured::Unknown => Measured::Unknown,
    }
}

/// Every one that was measured must be accepted, and one at least was measured.
fn differing<'a, T: fmt::Display>(
    found: &Measured<Vec<T>>,
    accepted: Accepted<'a>,
    accepts: impl Fn(&T) -> bool,
) -> Vec<BootDifference<'a>> {
    let found = match found {
        Measured::Measured(found) if !found.is_empty() => found,
        Measured::Measured(_) | Measured::Unmeasured => {
            return Vec::from([BootDifference::NotMeasured { accepted, found: "not measured" }]);
        }
        Measured::Unknown => return Vec::from([BootDifference::NotMeasured { accepted, found: "unknown" }]),
    };
    let differing = found.iter().filter(|found| !accepts(found)).take(DIFFERENCES_MAX);
    differing.map(|found| BootDifference::Other { accepted, found: found.to_string() }).collect()
}

/// What a manifest lists.
#[derive(Clone, Copy)]
pub(crate) enum Accepted<'a> {
    Digests(&'a str, &'a Values),
    CommandLines(&'a BTreeSet<String>),
}

impl fmt::Display for Accepted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digests(name, values) => write!(f, "{name} {}", one_of(values)),
            Self::CommandLines(lines) => {
                let lines: Vec<String> = lines.iter().map(|line| format!("`{line}`")).collect();
                write!(f, "command_lines {}", lines.join(" or "))
            }
        }
    }
}

impl<'a> Accepted<'a> {
    const fn name(&self) -> &'a str {
        match self {
            Self::Digests(name, _) => name,
            Self::CommandLines(_) => "command_lines",
        }
    }
}

/// One thing of a boot that differs from a manifest.
pub(crate) enum BootDifference<'a> {
    SecureBoot { accepted: SecureBootState, found: SecureBoot },
    NotMeasured { accepted: Accepted<'a>, found: &'static str },
    Other { accepted: Accepted<'a>, found: String },
}

impl BootDifference<'_> {
    pub(crate) fn explain(&self, manifest: &str) -> Finding {
        match self {
            Self::SecureBoot { accepted, found } => {
                let found = match found {
                    SecureBoot::On => "on",
                    SecureBoot::Off => "off",
                    SecureBoot::Unmeasured => "not measured",
                    SecureBoot::Unknown => "unknown",
                };
                let expected = format_args!("secure boot {} (manifest {manifest})", accepted.name());
                PolicyReason::SecureBoot.because(expected, format_args!("secure boot {found}"))
            }
            Self::NotMeasured { accepted, found } => {
                let expected = format_args!("{accepted} (manifest {manifest})");
                PolicyReason::BootNotMeasured.because(expected, format_args!("{} {found}", accepted.name()))
            }
            Self::Other { accepted, found } => {
                let expected = format_args!("{accepted} (manifest {manifest})");
                PolicyReason::BootMismatch.because(expected, format_args!("{} {found}", accepted.name()))
            }
        }
    }
}

/// Of one size each: that of the bank they were measured into, where a list holds values of several.
fn read_digests(at: &str, texts: &[String]) -> Result<Values, Finding> {
    let size = match texts.first().map(String::len) {
        Some(96) => 48,
        Some(128) => 64,
        Some(_) | None => 32,
    };
    read_values(at, texts, size, true)
}

fn read_uki(written: Members<Vec<String>>) -> Result<BTreeMap<String, Values>, Finding> {
    if written.0.is_empty() {
        return Err(PolicyReason::ManifestEmpty.because("at least one section in `boot.uki`", "none"));
    }
    let read = |(name, texts): (String, Vec<String>)| {
        let values = read_digests(&format!("boot.uki.{name}"), &texts)?;
        Ok((name, values))
    };
    written.0.into_iter().map(read).collect()
}

fn read_command_lines(texts: Vec<String>) -> Result<BTreeSet<String>, Finding> {
    if texts.is_empty() {
        return Err(PolicyReason::ValueListEmpty.because("at least one value in `boot.command_lines`", "none"));
    }
    if VALUES_MAX < texts.len() {
        let expected = format_args!("at most {VALUES_MAX} values in `boot.command_lines`");
        return Err(PolicyReason::ValueListSize.because(expected, format_args!("{} values", texts.len())));
    }
    for text in &texts {
        if text.is_empty() || COMMAND_LINE_BYTES_MAX < text.len() || text.chars().any(char::is_control) {
            let expected =
                format_args!("1 to {COMMAND_LINE_BYTES_MAX} bytes without control characters in `boot.command_lines`");
            return Err(PolicyReason::BootCommandLine.because(expected, format_args!("`{text}`")));
        }
    }
    Ok(texts.into_iter().collect())
}
