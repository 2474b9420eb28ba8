//! A manifest's `paravisor` section: what a cloud's paravisor says about the virtual machine it is in.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use countersign_attestation::claims::{ParavisorClaims, Presented};
use countersign_attestation::evidence::paravisor::{HardwareKind, Setting};
use serde::{Deserialize, Serialize};

use crate::finding::{Finding, PolicyReason};
use crate::json::Members;
use crate::reference::{VALUES_MAX, not_null};

/// What a manifest says about the paravisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ParavisorReference {
    hardware: Hardware,
    #[serde(skip_serializing_if = "Option::is_none")]
    vm_ids: Option<BTreeSet<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vm_configuration: Option<BTreeMap<String, Value>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Hardware {
    Snp,
    Tdx,
}

/// A value of vm-configuration that a manifest can demand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Value {
    Flag(bool),
    Number(i64),
    Text(String),
}

/// The section as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenParavisor {
    hardware: Hardware,
    #[serde(default, deserialize_with = "not_null")]
    vm_ids: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    vm_configuration: Option<Members<Value>>,
}

impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Snp => "SEV-SNP",
            Self::Tdx => "TDX",
        })
    }
}

impl From<HardwareKind> for Hardware {
    fn from(kind: HardwareKind) -> Self {
        match kind {
            HardwareKind::Snp => Self::Snp,
            HardwareKind::Tdx => Self::Tdx,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Value {
    /// The value of a setting; an unset one has none.
    pub(crate) fn of(setting: &Setting) -> Option<Self> {
        match setting {
            Setting::Unset => None,
            Setting::Flag(flag) => Some(Self::Flag(*flag)),
            Setting::Number(number) => Some(Self::Number(*number)),
            Setting::Text(text) => Some(Self::Text(text.clone())),
        }
    }
}

/// One thing that differs between a paravisor's word and a manifest.
pub(crate) enum ParavisorDifference<'a> {
    NoReport,
    Hardware { accepted: String, found: String },
    Vm { accepted: &'a BTreeSet<String>, found: Option<&'a str> },
    Setting { name: &'a str, accepted: &'a Value, found: Option<Value> },
}

impl ParavisorDifference<'_> {
    pub(crate) fn explain(&self, manifest: &str) -> Finding {
        match self {
            Self::NoReport => {
                let expected = format!("a paravisor's report (manifest {manifest})");
                PolicyReason::ParavisorNotPresented.because(expected, "not presented")
            }
            Self::Hardware { accepted, found } => {
                PolicyReason::ParavisorHardware.because(format_args!("{accepted} (manifest {manifest})"), found)
            }
            Self::Vm { accepted, found } => {
                let expected = format!("one of {} vmUniqueIds (manifest {manifest})", accepted.len());
                PolicyReason::ParavisorVm.because(expected, found.unwrap_or("none"))
            }
            Self::Setting { name, accepted, found } => {
                let expected = format!("{name} {accepted} (manifest {manifest})");
                match found {
                    Some(found) => PolicyReason::ParavisorSetting.because(expected, format_args!("{name} {found}")),
                    None => PolicyReason::ParavisorSetting.because(expected, format_args!("{name} not set")),
                }
            }
        }
    }
}

impl ParavisorReference {
    pub(crate) fn read(written: WrittenParavisor) -> Result<Self, Finding> {
        let WrittenParavisor { hardware, vm_ids, vm_configuration } = written;
        let empty = |name: &str| {
            let expected = format_args!("1 to {VALUES_MAX} values in `paravisor.{name}`");
            PolicyReason::ValueListEmpty.because(expected, "none, or more")
        };
        if vm_ids.as_ref().is_some_and(|ids| !(1..=VALUES_MAX).contains(&ids.len()) || ids.iter().any(String::is_empty))
        {
            return Err(empty("vm_ids"));
        }
        let vm_configuration = vm_configuration.map(|Members(settings)| settings);
        if vm_configuration.as_ref().is_some_and(|settings| !(1..=VALUES_MAX).contains(&settings.len())) {
            return Err(empty("vm_configuration"));
        }
        Ok(Self { hardware, vm_ids: vm_ids.map(|ids| ids.into_iter().collect()), vm_configuration })
    }

    /// Compares a paravisor's word; tells how many values are the same, and what differs.
    pub(crate) fn compare<'a>(
        &'a self,
        claims: &'a Presented<ParavisorClaims>,
    ) -> (usize, Vec<ParavisorDifference<'a>>) {
        let Presented::Verified(claims) = claims else { return (0, Vec::from([ParavisorDifference::NoReport])) };
        let mut same: usize = 0;
        let mut differences = Vec::new();
        let mut judge = |same_value: bool, difference: ParavisorDifference<'a>| {
            if same_value {
                same = same.saturating_add(1);
            } else {
                differences.push(difference);
            }
        };
        let found = Hardware::from(claims.hardware);
        let (accepted, shown) = (self.hardware.to_string(), found.to_string());
        judge(found == self.hardware, ParavisorDifference::Hardware { accepted, found: shown });
        if let Some(accepted) = &self.vm_ids {
            let found = match &claims.vm_id {
                Presented::Verified(id) => Some(id.as_str()),
                Presented::NotPresented => None,
            };
            judge(found.is_some_and(|id| accepted.contains(id)), ParavisorDifference::Vm { accepted, found });
        }
        for (name, accepted) in self.vm_configuration.iter().flatten() {
            let found = claims.vm_configuration.get(name).and_then(Value::of);
            let difference = ParavisorDifference::Setting { name, accepted, found: found.clone() };
            judge(found.as_ref() == Some(accepted), difference);
        }
        (same, differences)
    }
}
