//! TCB info: what Intel says of each level of one family of platforms (Intel PCS API version 4, "Get SGX TCB Info" and
//! "Get TDX TCB Info"; version 2 of the structure is what version 3 of that interface serves for SGX).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;

use super::answer::{check_length, not_null};
use super::status::TcbStatus;
use super::{IntelReason, Validity, date, fixed_hex};
use crate::rejection::Rejection;
use crate::time::UnixMillis;

/// More levels than any TCB info has.
const LEVELS_MAX: usize = 128;
/// A TDX module identity for each major version.
const MODULES_MAX: usize = 32;
/// Longest advisory id, and most of them at one level.
const ADVISORY_BYTES_MAX: usize = 64;
const ADVISORIES_MAX: usize = 128;

/// One component for each byte of a TCB.
const COMPONENTS: usize = 16;

/// Which technology a TCB info is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TcbKind {
    /// SGX.
    Sgx,
    /// TDX.
    Tdx,
}

/// TCB info whose signature was checked. [`super::endorse_tcb_info`] is the only constructor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedTcbInfo {
    info: TcbInfo,
    validity: Validity,
}

impl VerifiedTcbInfo {
    pub(super) const fn new(info: TcbInfo, validity: Validity) -> Self {
        Self { info, validity }
    }

    /// What it says.
    #[must_use]
    pub const fn info(&self) -> &TcbInfo {
        &self.info
    }

    /// The time in which it and its chain hold.
    #[must_use]
    pub const fn validity(&self) -> Validity {
        self.validity
    }
}

/// TCB info, read strictly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcbInfo {
    /// Version of the structure: 2, which is of SGX alone, or 3.
    pub version: u32,
    /// SGX or TDX.
    pub kind: TcbKind,
    /// issueDate.
    pub issue_date: UnixMillis,
    /// nextUpdate.
    pub next_update: UnixMillis,
    /// FMSPC of the platforms.
    pub fmspc: [u8; 6],
    /// FMSPC as it is written there: in upper or lower case.
    pub fmspc_text: String,
    /// PCEID of the platforms. The first TCB infos of version 2 had none, and are of no platform here.
    pub pce_id: Option<[u8; 2]>,
    /// tcbEvaluationDataNumber: grows with each recovery of a TCB.
    pub evaluation_data_number: u32,
    /// The TDX module of major version 0.
    module: Option<ModuleIdentity>,
    /// TDX modules of later major versions.
    modules: Vec<(u8, ModuleIdentity, Vec<ModuleLevel>)>,
    levels: Vec<Level>,
}

/// Who signed a TDX module, and its attributes under a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModuleIdentity {
    /// MRSIGNERSEAM.
    pub mr_signer: [u8; 48],
    /// SEAMATTRIBUTES where the mask is set.
    pub attributes: [u8; 8],
    /// The mask.
    pub attributes_mask: [u8; 8],
}

/// What was known at a level, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) status: TcbStatus,
    pub(super) tcb_date: UnixMillis,
    pub(super) advisory_ids: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ModuleLevel {
    isv_svn: u8,
    verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Level {
    sgx: [u8; COMPONENTS],
    pce_svn: u16,
    tdx: Option<[u8; COMPONENTS]>,
    verdict: Verdict,
}

impl TcbInfo {
    /// Reads TCB info: members that are not known, missing, twice there or of another type refuse it.
    ///
    /// # Errors
    /// [`IntelReason::Schema`] or [`IntelReason::Status`].
    pub fn read(text: &str) -> Result<Self, Rejection> {
        check_length(text.as_bytes())?;
        let raw: RawTcbInfo = serde_json::from_str(text).map_err(|error| schema("TCB info", error))?;
        let kind = match (raw.version, raw.id.as_deref()) {
            (2, None) | (3, Some("SGX")) => TcbKind::Sgx,
            (3, Some("TDX")) => TcbKind::Tdx,
            (version, id) => {
                let found = format!("version {version}, id {}", id.unwrap_or("none"));
                return Err(IntelReason::Schema.because("version 2, or 3 with id SGX or TDX", found));
            }
        };
        if raw.version != 2 && raw.pce_id.is_none() {
            return Err(IntelReason::Schema.because("pceId", "none"));
        }
        if raw.tcb_type != 0 {
            return Err(IntelReason::Schema.because("tcbType 0", raw.tcb_type));
        }
        let module = raw.tdx_module.map(|module| module.read()).transpose()?;
        let identities = raw.tdx_module_identities.unwrap_or_default();
        if (kind == TcbKind::Tdx) != module.is_some() || (kind == TcbKind::Sgx && !identities.is_empty()) {
            return Err(IntelReason::Schema.because("tdxModule for TDX and nowhere else", format!("{kind:?}")));
        }
        if MODULES_MAX < identities.len() || LEVELS_MAX < raw.tcb_levels.len() || raw.tcb_levels.is_empty() {
            return Err(IntelReason::Schema.because(format_args!("1 to {LEVELS_MAX} levels"), raw.tcb_levels.len()));
        }
        let mut modules: Vec<(u8, ModuleIdentity, Vec<ModuleLevel>)> = Vec::new();
        for identity in identities {
            let read = identity.read()?;
            if modules.iter().any(|(major, ..)| *major == read.0) {
                return Err(IntelReason::Schema.because("each TDX module identity once", read.0));
            }
            modules.push(read);
        }
        let levels = raw.tcb_levels.into_iter().map(|level| level.read(raw.version, kind)).collect::<Result<_, _>>()?;
        Ok(Self {
            version: raw.version,
            kind,
            issue_date: time(&raw.issue_date)?,
            next_update: time(&raw.next_update)?,
            fmspc: fixed_hex("fmspc", &raw.fmspc)?,
            fmspc_text: raw.fmspc,
            pce_id: raw.pce_id.map(|pce_id| fixed_hex("pceId", &pce_id)).transpose()?,
            evaluation_data_number: raw.tcb_evaluation_data_number,
            module,
            modules,
            levels,
        })
    }

    /// How many levels there are.
    #[must_use]
    pub const fn levels(&self) -> usize {
        self.levels.len()
    }

    /// The identity of the TDX module with this TEE_TCB_SVN: by its major version, byte 1.
    ///
    /// # Errors
    /// [`IntelReason::Module`] when there is none.
    pub fn module_identity(&self, tee_tcb_svn: &[u8; COMPONENTS]) -> Result<&ModuleIdentity, Rejection> {
        match (module_major(tee_tcb_svn), &self.module) {
            (0, Some(module)) => Ok(module),
            (major, _) => self.module_of(major).map(|(_, identity, _)| identity),
        }
    }

    fn module_of(&self, major: u8) -> Result<&(u8, ModuleIdentity, Vec<ModuleLevel>), Rejection> {
        let found = self.modules.iter().find(|(known, ..)| *known == major);
        found.ok_or_else(|| IntelReason::Module.because("a TDX module that the TCB info knows", module_name(major)))
    }

    /// What is said of a platform with these components, PCESVN and, in TDX, TEE_TCB_SVN: the first level that all of
    /// them reach (Intel QVL, 4.1.2.5.1.1 and 4.1.2.5.2.1).
    pub(super) fn platform(
        &self,
        components: &[u8; COMPONENTS],
        pce_svn: u16,
        tee_tcb_svn: Option<&[u8; COMPONENTS]>,
    ) -> Result<&Verdict, Rejection> {
        let reaches = |level: &&Level| {
            at_least(components, &level.sgx, 0)
                && level.pce_svn <= pce_svn
                && match (tee_tcb_svn, &level.tdx) {
                    // With a module identity, its ISVSVN and version are compared there.
                    (Some(svn), Some(tdx)) => at_least(svn, tdx, if 0 < module_major(svn) { 2 } else { 0 }),
                    (None, None) => true,
                    (Some(_), None) | (None, Some(_)) => false,
                }
        };
        let found = || format!("components {}, PCESVN {pce_svn}", hex::encode(components));
        let level = self.levels.iter().find(reaches);
        level
            .map(|level| &level.verdict)
            .ok_or_else(|| IntelReason::NoLevel.because("a level that is reached", found()))
    }

    /// What is said of a TDX module, where it has an identity of its own (Intel QVL, 4.1.2.5.2.2).
    pub(super) fn module(&self, tee_tcb_svn: &[u8; COMPONENTS]) -> Result<Option<&Verdict>, Rejection> {
        let (major, isv_svn) = (module_major(tee_tcb_svn), tee_tcb_svn[0]);
        if major == 0 {
            return Ok(None);
        }
        let (.., levels) = self.module_of(major)?;
        let level = levels.iter().find(|level| level.isv_svn <= isv_svn);
        let found = || format!("{} with ISVSVN {isv_svn}", module_name(major));
        level
            .map(|level| Some(&level.verdict))
            .ok_or_else(|| IntelReason::NoLevel.because("a level of the TDX module that is reached", found()))
    }
}

/// Major version of the TDX module.
pub(crate) const fn module_major(tee_tcb_svn: &[u8; COMPONENTS]) -> u8 {
    tee_tcb_svn[1]
}

/// The id of the TDX module of this major version.
pub(crate) fn module_name(major: u8) -> String {
    if major == 0 { String::from("tdxModule") } else { format!("TDX_{major:02X}") }
}

fn at_least(have: &[u8; COMPONENTS], need: &[u8; COMPONENTS], from: usize) -> bool {
    have.iter().zip(need).skip(from).all(|(have, need)| need <= have)
}

pub(super) fn time(text: &str) -> Result<UnixMillis, Rejection> {
    date::parse(text).ok_or_else(|| IntelReason::Schema.because("YYYY-MM-DDTHH:MM:SSZ", text))
}

pub(super) fn schema(what: &str, error: impl core::fmt::Display) -> Rejection {
    IntelReason::Schema.because(format_args!("{what} as Intel specifies it"), error)
}

pub(super) fn advisories(ids: Option<Vec<String>>) -> Result<Vec<String>, Rejection> {
    let ids = ids.unwrap_or_default();
    let plain = |id: &String| id.len() <= ADVISORY_BYTES_MAX && id.bytes().all(|byte| byte.is_ascii_graphic());
    if ADVISORIES_MAX < ids.len() || !ids.iter().all(plain) {
        return Err(IntelReason::Schema.because("advisory ids", "longer or other text"));
    }
    Ok(ids)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawTcbInfo {
    #[serde(default, deserialize_with = "not_null")]
    id: Option<String>,
    version: u32,
    issue_date: String,
    next_update: String,
    fmspc: String,
    #[serde(default, deserialize_with = "not_null")]
    pce_id: Option<String>,
    tcb_type: u32,
    tcb_evaluation_data_number: u32,
    #[serde(default, deserialize_with = "not_null")]
    tdx_module: Option<RawModule>,
    #[serde(default, deserialize_with = "not_null")]
    tdx_module_identities: Option<Vec<RawModuleIdentity>>,
    tcb_levels: Vec<RawLevel>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawModule {
    mrsigner: String,
    attributes: String,
    attributes_mask: String,
}

impl RawModule {
    fn read(self) -> Result<ModuleIdentity, Rejection> {
        Ok(ModuleIdentity {
            mr_signer: fixed_hex("mrsigner", &self.mrsigner)?,
            attributes: fixed_hex("attributes", &self.attributes)?,
            attributes_mask: fixed_hex("attributesMask", &self.attributes_mask)?,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawModuleIdentity {
    id: String,
    mrsigner: String,
    attributes: String,
    attributes_mask: String,
    tcb_levels: Vec<RawModuleLevel>,
}

impl RawModuleIdentity {
    fn read(self) -> Result<(u8, ModuleIdentity, Vec<ModuleLevel>), Rejection> {
        let Self { id, mrsigner, attributes, attributes_mask, tcb_levels } = self;
        let major = (1..=u8::MAX).find(|major| module_name(*major).eq_ignore_ascii_case(&id));
        let major = major.ok_or_else(|| IntelReason::Schema.because("TDX_ and a version of two hex digits", &id))?;
        if tcb_levels.is_empty() || LEVELS_MAX < tcb_levels.len() {
            return Err(IntelReason::Schema.because(format_args!("1 to {LEVELS_MAX} levels"), tcb_levels.len()));
        }
        let identity = RawModule { mrsigner, attributes, attributes_mask }.read()?;
        let levels = tcb_levels.into_iter().map(RawModuleLevel::read).collect::<Result<_, _>>()?;
        Ok((major, identity, levels))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModuleTcb {
    isvsvn: u8,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawModuleLevel {
    tcb: RawModuleTcb,
    tcb_date: String,
    tcb_status: String,
    #[serde(default, deserialize_with = "not_null", rename = "advisoryIDs")]
    advisory_ids: Option<Vec<String>>,
}

impl RawModuleLevel {
    fn read(self) -> Result<ModuleLevel, Rejection> {
        let verdict = Verdict {
            status: TcbStatus::of_component(&self.tcb_status)?,
            tcb_date: time(&self.tcb_date)?,
            advisory_ids: advisories(self.advisory_ids)?,
        };
        Ok(ModuleLevel { isv_svn: self.tcb.isvsvn, verdict })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawLevel {
    tcb: RawTcb,
    tcb_date: String,
    tcb_status: String,
    #[serde(default, deserialize_with = "not_null", rename = "advisoryIDs")]
    advisory_ids: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawComponent {
    svn: u8,
    #[expect(dead_code, reason = "what the component is, for people")]
    #[serde(default, deserialize_with = "not_null")]
    category: Option<String>,
    #[expect(dead_code, reason = "likewise")]
    #[serde(default, deserialize_with = "not_null")]
    r#type: Option<String>,
}

macro_rules! raw_tcb {
    ($($component:ident),+) => {
        /// Both forms: version 2 names each component, version 3 lists them.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct RawTcb {
            $(#[serde(default, deserialize_with = "not_null")] $component: Option<u8>,)+
            pcesvn: u16,
            #[serde(default, deserialize_with = "not_null")]
            sgxtcbcomponents: Option<[RawComponent; COMPONENTS]>,
            #[serde(default, deserialize_with = "not_null")]
            tdxtcbcomponents: Option<[RawComponent; COMPONENTS]>,
        }

        impl RawTcb {
            fn named(&self) -> [Option<u8>; COMPONENTS] {
                [$(self.$component,)+]
            }
        }
    };
}
raw_tcb!(
    sgxtcbcomp01svn,
    sgxtcbcomp02svn,
    sgxtcbcomp03svn,
    sgxtcbcomp04svn,
    sgxtcbcomp05svn,
    sgxtcbcomp06svn,
    sgxtcbcomp07svn,
    sgxtcbcomp08svn,
    sgxtcbcomp09svn,
    sgxtcbcomp10svn,
    sgxtcbcomp11svn,
    sgxtcbcomp12svn,
    sgxtcbcomp13svn,
    sgxtcbcomp14svn,
    sgxtcbcomp15svn,
    sgxtcbcomp16svn
);

impl RawLevel {
    fn read(self, version: u32, kind: TcbKind) -> Result<Level, Rejection> {
        let named = self.tcb.named();
        let tdx = self.tcb.tdxtcbcomponents.map(|listed| listed.map(|component| component.svn));
        let sgx = match (version, self.tcb.sgxtcbcomponents) {
            (2, None) if named.iter().all(Option::is_some) => named.map(Option::unwrap_or_default),
            (3, Some(listed)) if named.iter().all(Option::is_none) => listed.map(|component| component.svn),
            _ => return Err(IntelReason::Schema.because("16 SGX components in the form of the version", version)),
        };
        if (kind == TcbKind::Tdx) != tdx.is_some() {
            return Err(IntelReason::Schema.because("TDX components for TDX and nowhere else", format!("{kind:?}")));
        }
        let verdict = Verdict {
            status: TcbStatus::of_platform(&self.tcb_status)?,
            tcb_date: time(&self.tcb_date)?,
            advisory_ids: advisories(self.advisory_ids)?,
        };
        Ok(Level { sgx, pce_svn: self.tcb.pcesvn, tdx, verdict })
    }
}
