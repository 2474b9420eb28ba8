//! `collateral.toml`: where collateral is fetched from, and how long it may be late. Without the file nothing is
//! fetched, and nothing is late.

use std::path::PathBuf;

use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::{JudgedAt, UnixMillis};
use reqwest::Url;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::collateral::FILE_BYTES_MAX;
use crate::config::{ConfigError, DataDir, read_bounded};

/// The settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How long past its nextUpdate a list, TCB info or identity counts; not at all where this is absent.
    pub grace: Option<Grace>,
    /// AMD's Key Distribution Service, or a mirror of it.
    #[serde(default)]
    pub amd_kds: Vec<AmdKds>,
    /// Intel's Provisioning Certification Service, or a PCCS.
    #[serde(default)]
    pub intel_pcs: Vec<IntelPcs>,
    /// Single lists: those of authorities of EK and AK certificates.
    #[serde(default)]
    pub tpm_crl: Vec<TpmCrl>,
}

/// A grace, and the operator's policy that states it. It is part of every archived decision, and claims that rest on it
/// say so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grace {
    /// The policy's name.
    pub policy: String,
    /// Milliseconds after nextUpdate.
    pub milliseconds: u64,
}

impl Grace {
    /// `now`, judged with this grace or none.
    #[must_use]
    pub fn at(grace: Option<&Self>, now: UnixMillis) -> JudgedAt {
        JudgedAt { now, grace_ms: grace.map_or(0, |grace| grace.milliseconds) }
    }
}

/// How a source is reached, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reach {
    /// Where: https, or http, since everything fetched is signed.
    #[serde(deserialize_with = "url")]
    pub url: Url,
    /// PEM file of the authorities that https is believed from.
    #[serde(default)]
    pub tls_roots: Option<PathBuf>,
    /// Longest time between two fetches that succeed, milliseconds.
    pub refresh_ms: u64,
    /// Time to the next try after a failure, milliseconds; doubled with each, up to `refresh_ms`.
    pub retry_ms: u64,
}

/// AMD's Key Distribution Service (AMD 57230, 4.3).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmdKds {
    /// Its name in logs and metrics.
    pub name: String,
    /// How it is reached.
    pub reach: Reach,
    /// Product lines whose lists are fetched.
    pub products: Vec<AmdProduct>,
}

/// Intel's Provisioning Certification Service, API version 4, or a PCCS with the same routes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntelPcs {
    /// Its name in logs and metrics.
    pub name: String,
    /// How it is reached.
    pub reach: Reach,
    /// The root's list where it is not at the PCCS' own route: Intel serves it from another host.
    #[serde(default, deserialize_with = "some_url")]
    pub root_crl: Option<Url>,
    /// Technologies whose TCB info and identities are fetched.
    pub technologies: Vec<Technology>,
    /// CAs of PCKs whose lists are fetched.
    pub authorities: Vec<PckAuthority>,
    /// Families of platforms, six bytes in hex each.
    pub fmspc: Vec<String>,
}

/// A list at an address of its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmCrl {
    /// Its name in logs and metrics.
    pub name: String,
    /// How it is reached.
    pub reach: Reach,
}

/// SGX or TDX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Technology {
    /// Enclaves.
    Sgx,
    /// Trust domains.
    Tdx,
}

/// A CA of PCKs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PckAuthority {
    /// Of one package.
    Processor,
    /// Of one or more.
    Platform,
}

fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    let text = String::deserialize(deserializer)?;
    Url::parse(&text).map_err(|error| D::Error::custom(format!("{text}: {error}")))
}

fn some_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    url(deserializer).map(Some)
}

impl Settings {
    /// Reads `collateral.toml`; nothing where there is no such file.
    ///
    /// # Errors
    /// [`ConfigError`] for what cannot be read, is unknown, or contradicts itself.
    pub fn load(data: &DataDir) -> Result<Self, ConfigError> {
        let path = data.collateral_settings();
        if !path.exists() {
            return Ok(Self::default());
        }
        let bytes = read_bounded(&path, FILE_BYTES_MAX)?;
        let text = String::from_utf8(bytes).map_err(|_| ConfigError::content(&path, "UTF-8", "something else"))?;
        let settings: Self =
            toml::from_str(&text).map_err(|error| ConfigError::content(&path, "the documented settings", error))?;
        settings.check().map_err(|(expected, found)| ConfigError::content(&path, expected, found))?;
        Ok(settings)
    }

    /// Every source's name and how it is reached.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &Reach)> {
        let amd = self.amd_kds.iter().map(|source| (source.name.as_str(), &source.reach));
        let intel = self.intel_pcs.iter().map(|source| (source.name.as_str(), &source.reach));
        let lists = self.tpm_crl.iter().map(|source| (source.name.as_str(), &source.reach));
        amd.chain(intel).chain(lists)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        if let Some(grace) = &self.grace
            && (grace.policy.trim().is_empty() || grace.milliseconds == 0)
        {
            return Err(("grace: a policy's name and more than 0 milliseconds", format!("{grace:?}")));
        }
        let mut names = std::collections::BTreeSet::new();
        for (name, reach) in self.sources() {
            if name.is_empty() || !names.insert(name) {
                return Err(("sources with names of their own", format!("{name:?}")));
            }
            match (reach.url.scheme(), &reach.tls_roots) {
                ("https", Some(_)) | ("http", None) => {}
                ("https", None) => return Err(("https with tls_roots", format!("{name} without"))),
                _ => return Err(("an https URL with tls_roots, or an http URL", format!("{name}: {}", reach.url))),
            }
            if reach.retry_ms == 0 || reach.refresh_ms < reach.retry_ms {
                let found = format!("{name}: retry_ms {}, refresh_ms {}", reach.retry_ms, reach.refresh_ms);
                return Err(("0 < retry_ms <= refresh_ms", found));
            }
        }
        if let Some(source) = self.amd_kds.iter().find(|source| source.products.is_empty()) {
            return Err(("amd_kds with at least one product", source.name.clone()));
        }
        for source in &self.intel_pcs {
            let is_fmspc = |text: &String| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if let Some(wrong) = source.fmspc.iter().find(|text| !is_fmspc(text)) {
                return Err(("fmspc of 12 hexadecimal digits", format!("{}: {wrong}", source.name)));
            }
            if source.technologies.is_empty() || source.authorities.is_empty() {
                return Err(("intel_pcs with technologies and authorities", source.name.clone()));
            }
            if source.root_crl.as_ref().is_some_and(|url| url.scheme() != source.reach.url.scheme()) {
                return Err(("root_crl with the scheme of url", source.name.clone()));
            }
        }
        Ok(())
    }
}
