//! Whom a waiver is about.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::claims::{Claims, HexBytes, Presented};
use countersign_attestation::protocol::HostId;
use serde::Deserialize;

use crate::decision::HostFacts;
use crate::finding::{Finding, PolicyReason};
use crate::instance::{Instance, Instances};
use crate::json::Members;
use crate::reference::not_null;

use super::LIST_MAX;

/// Whom a waiver is about: a host for which every limit holds. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope(Vec<Limit>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Limit {
    Hosts(BTreeSet<HostId>),
    Labels(BTreeMap<String, String>),
    Instances(BTreeSet<Instance>),
    AmdProducts(BTreeSet<AmdProduct>),
    Fmspcs(BTreeSet<HexBytes>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenScope {
    #[serde(default, deserialize_with = "not_null")]
    hosts: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    labels: Option<Members<String>>,
    #[serde(default, deserialize_with = "not_null")]
    instances: Option<Vec<Instance>>,
    #[serde(default, deserialize_with = "not_null")]
    amd_products: Option<Vec<AmdProduct>>,
    #[serde(default, deserialize_with = "not_null")]
    fmspcs: Option<Vec<HexBytes>>,
}

impl Limit {
    fn holds(&self, claims: &Claims, host: &HostFacts<'_>) -> bool {
        match self {
            Self::Hosts(hosts) => hosts.contains(host.id),
            Self::Labels(labels) => labels.iter().all(|(name, value)| host.labels.get(name) == Some(value)),
            Self::Instances(named) => Instances::of(claims).any(|instance| named.contains(&instance)),
            Self::AmdProducts(products) => match &claims.snp {
                Presented::Verified(snp) => products.contains(&snp.product),
                Presented::NotPresented => false,
            },
            Self::Fmspcs(fmspcs) => match &claims.tdx {
                Presented::Verified(tdx) => fmspcs.contains(&tdx.platform.fmspc),
                Presented::NotPresented => false,
            },
        }
    }
}

impl Scope {
    /// Whether every limit holds for a host.
    pub(super) fn covers(&self, claims: &Claims, host: &HostFacts<'_>) -> bool {
        let Self(limits) = self;
        !limits.is_empty() && limits.iter().all(|limit| limit.holds(claims, host))
    }

    pub(super) fn read(written: WrittenScope) -> Result<Self, Finding> {
        let WrittenScope { hosts, labels, instances, amd_products, fmspcs } = written;
        let mut limits = Vec::new();
        if let Some(hosts) = hosts {
            let id = |text: &String| {
                check_exact("hosts", text)?;
                HostId::parse(text)
                    .ok_or_else(|| PolicyReason::WaiverScope.because("the id of a host", format!("`{text}`")))
            };
            limits.push(Limit::Hosts(filled("hosts", hosts.iter().map(id).collect::<Result<Vec<_>, _>>()?)?));
        }
        if let Some(Members(labels)) = labels {
            for text in labels.iter().flat_map(|(name, value)| [name, value]) {
                check_exact("labels", text)?;
            }
            filled("labels", labels.keys().collect())?;
            limits.push(Limit::Labels(labels));
        }
        if let Some(instances) = instances {
            for instance in &instances {
                instance.check()?;
            }
            let instances = instances.into_iter().map(Instance::canonical).collect();
            limits.push(Limit::Instances(filled("instances", instances)?));
        }
        if let Some(products) = amd_products {
            let products = filled("amd_products", products)?;
            // All there are is a star by another name.
            if products.len() == PRODUCTS {
                return Err(PolicyReason::WaiverWildcard.because("some AMD products", "every one there is"));
            }
            limits.push(Limit::AmdProducts(products));
        }
        if let Some(fmspcs) = fmspcs {
            for fmspc in &fmspcs {
                check_fmspc(fmspc)?;
            }
            limits.push(Limit::Fmspcs(filled("fmspcs", fmspcs)?));
        }
        if limits.is_empty() {
            let expected = "hosts, labels, instances, amd_products or fmspcs";
            return Err(PolicyReason::WaiverScope.because(expected, "an empty scope"));
        }
        Ok(Self(limits))
    }
}

/// [`AmdProduct`]s that there are.
const PRODUCTS: usize = 3;

/// A list of the scope that names something.
fn filled<T: Ord>(name: &str, values: Vec<T>) -> Result<BTreeSet<T>, Finding> {
    if values.is_empty() || LIST_MAX < values.len() {
        let expected = format_args!("1 to {LIST_MAX} values in `scope.{name}`");
        return Err(PolicyReason::WaiverScope.because(expected, values.len()));
    }
    Ok(values.into_iter().collect())
}

/// An identity by a pattern is how an exception ends up with a stranger whose name begins alike.
fn check_exact(name: &str, text: &str) -> Result<(), Finding> {
    if text.is_empty() || text.contains(['*', '?']) {
        let expected = format_args!("full names in `scope.{name}`");
        return Err(PolicyReason::WaiverWildcard.because(expected, format_args!("`{text}`")));
    }
    Ok(())
}

/// PCK certificate extension FMSPC: six bytes.
pub(super) fn check_fmspc(fmspc: &HexBytes) -> Result<(), Finding> {
    if fmspc.0.len() == 6 {
        return Ok(());
    }
    Err(PolicyReason::WaiverScope.because("an FMSPC of 12 hex digits", format_args!("`{fmspc}`")))
}
