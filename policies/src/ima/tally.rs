//! What a host's list amounts to under the rules, counted on and on: each renewal judges its new entries only.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::ima::{
    BootAggregate, FileDigest, FileSignature, HashAlgorithm, ImaEntry, VerifiedIma,
};
use serde::{Deserialize, Serialize};

use super::rules::{ImaRules, Weaker};
use super::table::Known;
use crate::finding::{Finding, PolicyReason};

/// Offending entries that are kept as a sample: the first ones.
const SAMPLE_MAX: usize = 16;

/// Bytes of a name in the sample.
const NAME_BYTES_MAX: usize = 256;

/// What is wrong with an entry, or with the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffenceKind {
    /// The file is not listed, not signed and not excluded.
    Unlisted,
    /// The file is listed with other digests.
    Digest,
    /// The file has a signature that no registered key verifies, and is not listed otherwise.
    Signature,
    /// A measured buffer is not listed.
    Buffer,
    /// The template has no digest or no name.
    Unjudged,
    /// A violation, where the rules refuse them.
    Violation,
    /// The kernel extends SHA-1 digests, where the rules refuse it.
    PaddedSha1,
    /// A PCR that the rules name was not quoted.
    PcrUnattested,
    /// This count does not go on where the one before it ended, or that one was under other rules.
    Gap,
}

impl OffenceKind {
    const fn reason(self) -> PolicyReason {
        match self {
            Self::Unlisted => PolicyReason::ImaFileUnlisted,
            Self::Digest => PolicyReason::ImaFileDigest,
            Self::Signature => PolicyReason::ImaFileSignature,
            Self::Buffer => PolicyReason::ImaBufferUnlisted,
            Self::Unjudged => PolicyReason::ImaEntryUnjudged,
            Self::Violation => PolicyReason::ImaViolation,
            Self::PaddedSha1 => PolicyReason::ImaPaddedSha1,
            Self::PcrUnattested => PolicyReason::ImaPcrUnattested,
            Self::Gap => PolicyReason::ImaTallyGap,
        }
    }

    const fn expected(self) -> &'static str {
        match self {
            Self::Unlisted => "only listed, signed or excluded files",
            Self::Digest => "a listed digest",
            Self::Signature => "a signature by a registered key, or a listed digest",
            Self::Buffer => "only listed buffers",
            Self::Unjudged => "a digest and a name in every entry",
            Self::Violation => "no violations",
            Self::PaddedSha1 => "each bank extended with its own hash",
            Self::PcrUnattested => "measurements in every PCR that the rules name",
            Self::Gap => "a count that goes on where the last one ended, under the same rules",
        }
    }
}

/// One of the first offending entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offence {
    /// What is wrong.
    pub kind: OffenceKind,
    /// Its index since boot.
    pub index: u64,
    /// Its PCR.
    pub pcr: u8,
    /// Its name, cut to 256 bytes. Of a violation, nothing covers it.
    pub name: String,
    /// Its digest, `hash:hex`.
    pub digest: String,
}

/// Counts over a boot's entries under one set of rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImaTally {
    /// Digest of the rules; none before the first count.
    pub rules: Option<Sha256Digest>,
    /// Entries since boot that the list has up to here: where the next count goes on.
    pub next: u64,
    /// Judged entries. Those of PCRs that were not quoted are not.
    pub entries: u64,
    /// Files with a listed digest, and boot aggregates of the quoted boot.
    pub listed: u64,
    /// Those of `listed` whose digest is SHA-1.
    pub listed_sha1: u64,
    /// Files with a valid signature of a registered key.
    pub signed: u64,
    /// Buffers that are listed or whose keyring is ignored.
    pub buffers: u64,
    /// Entries left aside.
    pub excluded: u64,
    /// Files that are none of these.
    pub unlisted: u64,
    /// Violations, whether refused or not. The list does not say of which kind: see
    /// [`ImaEntry::is_violation`].
    pub violations: u64,
    /// How many offences of each kind.
    pub offences: BTreeMap<OffenceKind, u64>,
    /// The first offending entries.
    pub sample: Vec<Offence>,
}

impl ImaTally {
    /// Before the first entry of a boot.
    #[must_use]
    pub const fn start() -> Self {
        Self {
            rules: None,
            next: 0,
            entries: 0,
            listed: 0,
            listed_sha1: 0,
            signed: 0,
            buffers: 0,
            excluded: 0,
            unlisted: 0,
            violations: 0,
            offences: BTreeMap::new(),
            sample: Vec::new(),
        }
    }

    /// Why the host is denied: one finding for each kind of offence, with the first entry of its kind. Empty: nothing
    /// speaks against it.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.entries == 0 {
            findings.push(PolicyReason::ImaNothingMeasured.because("a boot aggregate at least", "no measurement"));
        }
        for (kind, count) in &self.offences {
            let first = self.sample.iter().find(|offence| offence.kind == *kind);
            let found = match first {
                Some(Offence { index, pcr, name, digest, .. }) => {
                    format!("{count}, the first at entry {index} of PCR {pcr}: {name} {digest}")
                }
                None => format!("{count}"),
            };
            findings.push(kind.reason().because(kind.expected(), found));
        }
        findings
    }

    fn offend(&mut self, kind: OffenceKind) {
        let count = self.offences.entry(kind).or_default();
        *count = count.saturating_add(1);
    }

    /// Of the list as a whole: there or not, however often it was counted.
    fn offend_once(&mut self, kind: OffenceKind) {
        self.offences.insert(kind, 1);
    }
}

/// What the rules make of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Listed(HashAlgorithm),
    Signed,
    Buffer,
    Excluded,
    Violation,
    Offence(OffenceKind),
}

impl ImaRules {
    /// Judges the entries of `verified` and adds them to `prior`, the tally of the entries before them in this boot
    /// ([`ImaTally::start`] at the first).
    #[must_use]
    pub fn tally(&self, verified: &VerifiedIma<'_>, prior: &ImaTally) -> ImaTally {
        let mut tally = prior.clone();
        let goes_on = prior.next == verified.first() && (prior.rules == Some(self.digest()) || prior.next == 0);
        if !goes_on {
            tally.offend_once(OffenceKind::Gap);
        }
        tally.rules = Some(self.digest());
        tally.next = verified.state().entries;
        if verified.extends_sha1() && self.padded_sha1 == Weaker::Refused {
            tally.offend_once(OffenceKind::PaddedSha1);
        }
        if !self.pcrs.iter().all(|pcr| verified.attests_pcr(*pcr)) {
            tally.offend_once(OffenceKind::PcrUnattested);
        }
        let mut known = 0_u64;
        verified.visit(
            |extended| {
                let is_listed = self.templates.contains(extended);
                known = known.saturating_add(u64::from(is_listed));
                is_listed
            },
            |index, entry| {
                let class = self.class(entry, |entry| verified.boot_aggregate(entry));
                tally.add(index, entry, class, self.violations);
            },
        );
        tally.entries = tally.entries.saturating_add(known);
        tally.listed = tally.listed.saturating_add(known);
        tally
    }

    /// Judges the entries of a recorded list that no quote covers. Nothing live is judged so.
    #[must_use]
    pub fn tally_recorded<'a>(&self, entries: impl Iterator<Item = ImaEntry<'a>>) -> ImaTally {
        let mut tally = ImaTally { rules: Some(self.digest()), ..ImaTally::start() };
        for entry in entries {
            let class = self.class(&entry, |_| BootAggregate::NotQuoted);
            tally.add(tally.next, &entry, class, self.violations);
            tally.next = tally.next.saturating_add(1);
        }
        tally
    }

    fn class(&self, entry: &ImaEntry<'_>, boot_aggregate: impl Fn(&ImaEntry<'_>) -> BootAggregate) -> Class {
        if entry.is_violation() {
            return Class::Violation;
        }
        let data = entry.data();
        let (Some(digest), Some(name)) = (&data.digest, data.name) else {
            return Class::Offence(OffenceKind::Unjudged);
        };
        if data.buffer.is_some() {
            return self.class_of_buffer(name, digest);
        }
        if name == b"boot_aggregate" && boot_aggregate(entry) == BootAggregate::OfThisBoot {
            return Class::Listed(digest.algorithm);
        }
        let known = match self.files.look_up(name, digest) {
            Known::Listed => return Class::Listed(digest.algorithm),
            known @ (Known::OtherDigests | Known::Unknown) => known,
        };
        let signature = data.signature;
        if !signature.is_empty() && !self.keys.is_empty() {
            let read = FileSignature::read(signature);
            if read.and_then(|signature| signature.verify(digest, &self.keys)).is_ok() {
                return Class::Signed;
            }
        }
        if self.excludes.cover(name) {
            return Class::Excluded;
        }
        Class::Offence(match known {
            Known::OtherDigests | Known::Listed => OffenceKind::Digest,
            Known::Unknown if !signature.is_empty() && !self.keys.is_empty() => OffenceKind::Signature,
            Known::Unknown => OffenceKind::Unlisted,
        })
    }

    fn class_of_buffer(&self, name: &[u8], digest: &FileDigest<'_>) -> Class {
        let listed = self.buffers.look_up(name, digest) == Known::Listed;
        if listed || self.ignored_buffers.contains(name) {
            return Class::Buffer;
        }
        if self.excludes.cover(name) { Class::Excluded } else { Class::Offence(OffenceKind::Buffer) }
    }
}

impl ImaTally {
    fn add(&mut self, index: u64, entry: &ImaEntry<'_>, class: Class, violations: Weaker) {
        self.entries = self.entries.saturating_add(1);
        let count = match class {
            Class::Listed(algorithm) => {
                if algorithm == HashAlgorithm::Sha1 {
                    self.listed_sha1 = self.listed_sha1.saturating_add(1);
                }
                &mut self.listed
            }
            Class::Signed => &mut self.signed,
            Class::Buffer => &mut self.buffers,
            Class::Excluded => &mut self.excluded,
            Class::Violation => &mut self.violations,
            Class::Offence(_) => &mut self.unlisted,
        };
        *count = count.saturating_add(1);
        let kind = match (class, violations) {
            (Class::Offence(kind), _) => kind,
            (Class::Violation, Weaker::Refused) => OffenceKind::Violation,
            (Class::Violation, Weaker::Admitted)
            | (Class::Listed(_) | Class::Signed | Class::Buffer | Class::Excluded, _) => return,
        };
        self.offend(kind);
        // One of each kind has room, however many there are of another.
        let is_first = self.sample.iter().all(|offence| offence.kind != kind);
        if is_first || self.sample.len() < SAMPLE_MAX {
            self.sample.push(Offence { kind, index, pcr: entry.pcr(), name: name(entry), digest: digest(entry) });
        }
    }
}

fn name(entry: &ImaEntry<'_>) -> String {
    let name = entry.name();
    let cut = name.get(..name.len().min(NAME_BYTES_MAX)).unwrap_or_default();
    String::from_utf8_lossy(cut).into_owned()
}

fn digest(entry: &ImaEntry<'_>) -> String {
    entry
        .data()
        .digest
        .map_or_else(String::new, |digest| format!("{}:{}", digest.algorithm.name(), hex::encode(digest.digest)))
}
