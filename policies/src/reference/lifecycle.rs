//! How a manifest comes and goes: its version, its end, the artifacts whose values it lists, and where they came from.
//!
//! An update lists the old artifact's values beside the new one's, so that a fleet passes before, while and after it
//! changes, in any mixture; `until` retires the old artifact by itself. A value goes with the last artifact that has
//! it.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use serde::{Deserialize, Serialize, Serializer};

use super::{NAME_RULE, Values, is_name, not_null, read_values_of};
use crate::finding::{Finding, PolicyReason};
use crate::json::Members;
use crate::moment;

/// Artifacts of one manifest: a boot chain has a dozen, twice while it changes.
const ARTIFACTS_MAX: usize = 64;
/// Artifacts that values were computed from.
const SOURCES_MAX: usize = 256;
const BUILD_BYTES_MAX: usize = 512;

/// Version, end, artifacts and origin of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Lifecycle {
    #[serde(skip_serializing_if = "is_first")]
    pub(super) version: u32,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "moment")]
    pub(super) until: Option<UnixMillis>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) artifacts: BTreeMap<String, Artifact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provenance: Option<Provenance>,
}

/// What hosts run, by the values that it measures as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Artifact {
    kind: ArtifactKind,
    values: Values,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "moment")]
    until: Option<UnixMillis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_by: Option<String>,
}

/// What an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ArtifactKind {
    Firmware,
    OptionRom,
    Shim,
    BootLoader,
    Kernel,
    Initrd,
    Driver,
    Vbios,
    Image,
}

/// Where the values came from. Who says so is in the signatures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Provenance {
    #[serde(skip_serializing_if = "Option::is_none")]
    build: Option<String>,
    sources: BTreeMap<String, Sha256Digest>,
}

/// The members as written.
#[derive(Default)]
pub(super) struct Written {
    pub(super) version: Option<u32>,
    pub(super) until: Option<String>,
    pub(super) artifacts: Option<Members<WrittenArtifact>>,
    pub(super) provenance: Option<WrittenProvenance>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenArtifact {
    kind: ArtifactKind,
    values: Vec<String>,
    #[serde(default, deserialize_with = "not_null")]
    until: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    replaced_by: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenProvenance {
    #[serde(default, deserialize_with = "not_null")]
    build: Option<String>,
    sources: Members<Sha256Digest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_first(version: &u32) -> bool {
    *version == 1
}

fn moment<S: Serializer>(at: &Option<UnixMillis>, serializer: S) -> Result<S::Ok, S::Error> {
    at.map(moment::write).serialize(serializer)
}

impl Lifecycle {
    pub(super) fn read(written: Written) -> Result<Self, Finding> {
        let Written { version, until, artifacts, provenance } = written;
        let version = version.unwrap_or(1);
        if version == 0 {
            return Err(PolicyReason::ManifestVersion.because("1 or more", version));
        }
        let artifacts = artifacts.map_or_else(BTreeMap::new, |Members(artifacts)| artifacts);
        if ARTIFACTS_MAX < artifacts.len() {
            let expected = format_args!("at most {ARTIFACTS_MAX} artifacts");
            return Err(PolicyReason::ManifestArtifact.because(expected, artifacts.len()));
        }
        let names: Vec<String> = artifacts.keys().cloned().collect();
        let artifacts = artifacts.into_iter().map(|(name, written)| {
            let artifact = Artifact::read(&name, written, &names)?;
            Ok((name, artifact))
        });
        Ok(Self {
            version,
            until: until.as_deref().map(read_moment).transpose()?,
            artifacts: artifacts.collect::<Result<_, Finding>>()?,
            provenance: provenance.map(Provenance::read).transpose()?,
        })
    }

    /// Every artifact is about the manifest: it has a value that the manifest lists.
    pub(super) fn check_listed(&self, listed: &Values) -> Result<(), Finding> {
        for (name, artifact) in &self.artifacts {
            if artifact.values.is_disjoint(listed) {
                let expected = format_args!("a value in artifact `{name}` that the manifest lists elsewhere");
                return Err(PolicyReason::ManifestArtifact.because(expected, "none"));
            }
        }
        Ok(())
    }

    /// Moments at which artifacts end, in order, each once.
    pub(super) fn ends(&self) -> alloc::collections::BTreeSet<UnixMillis> {
        self.artifacts.values().filter_map(|artifact| artifact.until).collect()
    }

    /// Values of artifacts that have ended at `at`, but for those that another artifact still has.
    pub(super) fn ended(&self, at: UnixMillis) -> Values {
        let (ended, live): (Vec<_>, Vec<_>) = self.artifacts.values().partition(|artifact| artifact.has_ended(at));
        let live: Values = live.into_iter().flat_map(|artifact| &artifact.values).cloned().collect();
        ended.into_iter().flat_map(|artifact| &artifact.values).filter(|value| !live.contains(value)).cloned().collect()
    }

    /// Artifacts that have ended at `at`, for people.
    pub(super) fn ended_artifacts(&self, at: UnixMillis) -> String {
        let ended = self.artifacts.iter().filter(|(_, artifact)| artifact.has_ended(at)).map(|(name, artifact)| {
            let until = artifact.until.map(moment::write).unwrap_or_default();
            match &artifact.replaced_by {
                Some(next) => format!("{name} (until {until}, replaced by {next})"),
                None => format!("{name} (until {until})"),
            }
        });
        ended.collect::<Vec<_>>().join(", ")
    }
}

impl Artifact {
    fn read(name: &str, written: WrittenArtifact, names: &[String]) -> Result<Self, Finding> {
        let WrittenArtifact { kind, values, until, replaced_by } = written;
        if !is_name(name) {
            return Err(PolicyReason::ManifestArtifact.because(NAME_RULE, format_args!("`{name}`")));
        }
        if let Some(next) = replaced_by.as_ref().filter(|next| *next == name || !names.contains(next)) {
            let expected = format_args!("another artifact of the manifest in `artifacts.{name}.replaced_by`");
            return Err(PolicyReason::ManifestArtifact.because(expected, format_args!("`{next}`")));
        }
        // 32 and 48 bytes and whatever else its kinds of evidence have: the manifest's own lists say which.
        let values = read_values_of(&format!("artifacts.{name}.values"), &values)?;
        Ok(Self { kind, values, until: until.as_deref().map(read_moment).transpose()?, replaced_by })
    }

    fn has_ended(&self, at: UnixMillis) -> bool {
        self.until.is_some_and(|until| until <= at)
    }
}

impl Provenance {
    fn read(written: WrittenProvenance) -> Result<Self, Finding> {
        let WrittenProvenance { build, sources: Members(sources) } = written;
        let plain = |text: &str| {
            (1..=BUILD_BYTES_MAX).contains(&text.len())
                && !text.trim().is_empty()
                && !text.chars().any(char::is_control)
        };
        if sources.is_empty() || SOURCES_MAX < sources.len() || !sources.keys().all(|name| plain(name)) {
            let expected = format_args!("1 to {SOURCES_MAX} named artifacts in `provenance.sources`");
            return Err(PolicyReason::ManifestProvenance.because(expected, sources.len()));
        }
        if let Some(build) = build.as_deref().filter(|build| !plain(build)) {
            let expected = format_args!("1 to {BUILD_BYTES_MAX} bytes of text in `provenance.build`");
            return Err(PolicyReason::ManifestProvenance.because(expected, format_args!("{} bytes", build.len())));
        }
        Ok(Self { build, sources })
    }
}

fn read_moment(text: &str) -> Result<UnixMillis, Finding> {
    moment::parse(text).ok_or_else(|| {
        PolicyReason::ManifestUntil.because("a moment such as 2026-12-24T00:00:00Z", format_args!("`{text}`"))
    })
}
