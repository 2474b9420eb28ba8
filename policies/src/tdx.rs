//! A manifest's `tdx` section: the launch of a trust domain and the module that runs it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use countersign_attestation::claims::{HexBytes, Presented, RtmrClaims, TdxClaims};
use serde::{Deserialize, Serialize};

use crate::boot::{BootDifference, BootReference, WrittenBoot};
use crate::finding::{Finding, PolicyReason};
use crate::json::Members;
use crate::matching::one_of;
use crate::reference::{Values, not_null, read_values};

/// What a manifest says about a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TdxReference {
    #[serde(flatten)]
    values: BTreeMap<Field, Values>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) min_module_svn: Option<BTreeMap<String, u8>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) boot: Option<BootReference>,
}

/// A field of the quote by the name that manifests have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Field {
    MrTd,
    Rtmr0,
    Rtmr1,
    Rtmr2,
    Rtmr3,
    MrSeam,
    MrSignerSeam,
    MrConfigId,
    MrOwner,
    MrOwnerConfig,
    MrServiceTd,
    TdAttributes,
    Xfam,
}

/// The section as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenTdx {
    mr_td: Vec<String>,
    #[serde(default, deserialize_with = "not_null")]
    rtmr0: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    rtmr1: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    rtmr2: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    rtmr3: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    mr_seam: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    mr_signer_seam: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    mr_config_id: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    mr_owner: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    mr_owner_config: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    mr_service_td: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    td_attributes: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    xfam: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    min_module_svn: Option<Members<u8>>,
    #[serde(default, deserialize_with = "not_null")]
    boot: Option<WrittenBoot>,
}

impl Field {
    /// The manifest's name, and how Intel's specification and our findings write it.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::MrTd => ("mr_td", "MRTD"),
            Self::Rtmr0 => ("rtmr0", "RTMR0"),
            Self::Rtmr1 => ("rtmr1", "RTMR1"),
            Self::Rtmr2 => ("rtmr2", "RTMR2"),
            Self::Rtmr3 => ("rtmr3", "RTMR3"),
            Self::MrSeam => ("mr_seam", "MRSEAM"),
            Self::MrSignerSeam => ("mr_signer_seam", "MRSIGNERSEAM"),
            Self::MrConfigId => ("mr_config_id", "MRCONFIGID"),
            Self::MrOwner => ("mr_owner", "MROWNER"),
            Self::MrOwnerConfig => ("mr_owner_config", "MROWNERCONFIG"),
            Self::MrServiceTd => ("mr_service_td", "MR_SERVICETD"),
            Self::TdAttributes => ("td_attributes", "TDATTRIBUTES"),
            Self::Xfam => ("xfam", "XFAM"),
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Self::TdAttributes | Self::Xfam => 8,
            Self::MrTd
            | Self::Rtmr0
            | Self::Rtmr1
            | Self::Rtmr2
            | Self::Rtmr3
            | Self::MrSeam
            | Self::MrSignerSeam
            | Self::MrConfigId
            | Self::MrOwner
            | Self::MrOwnerConfig
            | Self::MrServiceTd => 48,
        }
    }

    /// What is measured at every launch: zero there is the mark of something never measured. (Nothing need ever be
    /// measured into RTMR2 and RTMR3, MRSIGNERSEAM of Intel's modules is zero, and the rest is zero where nobody set
    /// it.)
    const fn is_measured(self) -> bool {
        match self {
            Self::MrTd | Self::Rtmr0 | Self::Rtmr1 | Self::MrSeam => true,
            Self::Rtmr2
            | Self::Rtmr3
            | Self::MrSignerSeam
            | Self::MrConfigId
            | Self::MrOwner
            | Self::MrOwnerConfig
            | Self::MrServiceTd
            | Self::TdAttributes
            | Self::Xfam => false,
        }
    }

    const fn reason(self) -> PolicyReason {
        match self {
            Self::MrTd => PolicyReason::TdxMeasurement,
            Self::Rtmr0 | Self::Rtmr1 | Self::Rtmr2 | Self::Rtmr3 => PolicyReason::TdxRtmr,
            Self::MrSeam | Self::MrSignerSeam => PolicyReason::TdxModule,
            Self::MrConfigId | Self::MrOwner | Self::MrOwnerConfig => PolicyReason::TdxConfiguration,
            Self::MrServiceTd => PolicyReason::TdxServiceTd,
            Self::TdAttributes | Self::Xfam => PolicyReason::TdxAttributes,
        }
    }

    fn found(self, claims: &TdxClaims) -> Option<&HexBytes> {
        let [rtmr0, rtmr1, rtmr2, rtmr3] = &claims.rtmrs;
        match self {
            Self::MrTd => Some(&claims.mr_td),
            Self::Rtmr0 => Some(rtmr0),
            Self::Rtmr1 => Some(rtmr1),
            Self::Rtmr2 => Some(rtmr2),
            Self::Rtmr3 => Some(rtmr3),
            Self::MrSeam => Some(&claims.mr_seam),
            Self::MrSignerSeam => Some(&claims.mr_signer_seam),
            Self::MrConfigId => Some(&claims.mr_config_id),
            Self::MrOwner => Some(&claims.mr_owner),
            Self::MrOwnerConfig => Some(&claims.mr_owner_config),
            // TDX 1.0 does not report it: not reported is not zero.
            Self::MrServiceTd => claims.mr_service_td.as_ref(),
            Self::TdAttributes => Some(&claims.td_attributes),
            Self::Xfam => Some(&claims.xfam),
        }
    }
}

/// One thing that differs between a trust domain and a manifest.
pub(crate) enum TdxDifference<'a> {
    NoQuote,
    Value { field: Field, accepted: &'a Values, found: Option<&'a HexBytes> },
    ModuleUnknown { named: &'a BTreeMap<String, u8>, found: &'a str },
    ModuleSvn { id: &'a str, least: u8, found: u8 },
    NoLog,
    Boot(BootDifference<'a>),
}

impl TdxDifference<'_> {
    pub(crate) fn explain(&self, manifest: &str) -> Finding {
        match self {
            Self::NoQuote => {
                let expected = format!("a TDX quote (manifest {manifest})");
                PolicyReason::TdxNotPresented.because(expected, "not presented")
            }
            Self::Value { field, accepted, found } => {
                let (_, name) = field.names();
                let expected = format!("{name} {} (manifest {manifest})", one_of(accepted));
                match found {
                    Some(found) => field.reason().because(expected, format_args!("{name} {found}")),
                    None => field.reason().because(expected, format_args!("{name} not reported")),
                }
            }
            Self::ModuleUnknown { named, found } => {
                let named: Vec<&str> = named.keys().map(String::as_str).collect();
                let expected = format!("TDX module {} (manifest {manifest})", named.join(" or "));
                PolicyReason::TdxModule.because(expected, found)
            }
            Self::ModuleSvn { id, least, found } => {
                let expected = format!("{id} SVN at least {least} (manifest {manifest})");
                PolicyReason::TdxModuleSvn.because(expected, format_args!("{id} SVN {found}"))
            }
            Self::NoLog => {
                let expected = format!("the trust domain's event log (manifest {manifest})");
                PolicyReason::TdxLogNotPresented.because(expected, "not presented")
            }
            Self::Boot(difference) => difference.explain(manifest),
        }
    }
}

impl TdxReference {
    /// Every list of values, its boot's too.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Values> {
        self.values.values_mut().chain(self.boot.iter_mut().flat_map(BootReference::values_mut))
    }

    pub(crate) fn read(written: WrittenTdx) -> Result<Self, Finding> {
        let lists = [
            (Field::MrTd, Some(written.mr_td)),
            (Field::Rtmr0, written.rtmr0),
            (Field::Rtmr1, written.rtmr1),
            (Field::Rtmr2, written.rtmr2),
            (Field::Rtmr3, written.rtmr3),
            (Field::MrSeam, written.mr_seam),
            (Field::MrSignerSeam, written.mr_signer_seam),
            (Field::MrConfigId, written.mr_config_id),
            (Field::MrOwner, written.mr_owner),
            (Field::MrOwnerConfig, written.mr_owner_config),
            (Field::MrServiceTd, written.mr_service_td),
            (Field::TdAttributes, written.td_attributes),
            (Field::Xfam, written.xfam),
        ];
        let mut values = BTreeMap::new();
        for (field, texts) in lists {
            let Some(texts) = texts else { continue };
            let (name, _) = field.names();
            values.insert(field, read_values(&format!("tdx.{name}"), &texts, field.bytes(), field.is_measured())?);
        }
        let min_module_svn = written.min_module_svn.map(read_module_svns).transpose()?;
        Ok(Self { values, min_module_svn, boot: written.boot.map(BootReference::read).transpose()? })
    }

    /// Whether the manifest names what this field may be.
    pub(crate) fn names(&self, field: Field) -> bool {
        self.values.contains_key(&field)
    }

    /// Compares a trust domain's quote; tells how many values are the same, and what differs.
    pub(crate) fn compare<'a>(&'a self, claims: &'a Presented<TdxClaims>) -> (usize, Vec<TdxDifference<'a>>) {
        let Presented::Verified(claims) = claims else { return (0, Vec::from([TdxDifference::NoQuote])) };
        let mut same: usize = 0;
        let mut differences = Vec::new();
        for (field, accepted) in &self.values {
            match field.found(claims) {
                Some(found) if accepted.contains(found) => same = same.saturating_add(1),
                found => differences.push(TdxDifference::Value { field: *field, accepted, found }),
            }
        }
        if let Some(minimums) = &self.min_module_svn {
            let (id, found) = (claims.module.id.as_str(), claims.module.isv_svn);
            match minimums.get(id) {
                Some(least) if *least <= found => same = same.saturating_add(1),
                Some(least) => differences.push(TdxDifference::ModuleSvn { id, least: *least, found }),
                None => differences.push(TdxDifference::ModuleUnknown { named: minimums, found: id }),
            }
        }
        (same, differences)
    }

    /// Compares what the trust domain's firmware measured.
    pub(crate) fn compare_log<'a>(&'a self, claims: &'a Presented<RtmrClaims>) -> (usize, Vec<TdxDifference<'a>>) {
        let Some(boot) = &self.boot else { return (0, Vec::new()) };
        match claims {
            Presented::NotPresented => (0, Vec::from([TdxDifference::NoLog])),
            Presented::Verified(rtmr) => {
                let (same, differences) = boot.compare(&rtmr.boot);
                (same, differences.into_iter().map(TdxDifference::Boot).collect())
            }
        }
    }
}

fn read_module_svns(Members(written): Members<u8>) -> Result<BTreeMap<String, u8>, Finding> {
    if written.is_empty() {
        return Err(PolicyReason::ManifestEmpty.because("at least one module in `tdx.min_module_svn`", "none"));
    }
    // Intel PCS API, tdxModuleIdentities: an id is `TDX_` and two hexadecimal digits; the first module has none.
    let digits: BTreeSet<u8> = b"0123456789ABCDEF".iter().copied().collect();
    for id in written.keys() {
        let numbered = id
            .strip_prefix("TDX_")
            .is_some_and(|number| number.len() == 2 && number.bytes().all(|digit| digits.contains(&digit)));
        if !numbered && id != "tdxModule" {
            let expected = "TDX_01 and the like, or tdxModule, in `tdx.min_module_svn`";
            return Err(PolicyReason::ManifestSyntax.because(expected, format_args!("`{id}`")));
        }
    }
    Ok(written)
}
