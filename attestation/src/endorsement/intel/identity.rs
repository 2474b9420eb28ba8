//! Identities of Intel's quoting enclaves (Intel PCS API version 4, "Get SGX QE Identity" and "Get TDX QE Identity").

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;

use super::answer::{check_length, not_null};
use super::status::TcbStatus;
use super::tcb_info::{Verdict, advisories, schema, time};
use super::{IntelReason, Validity, fixed_hex};
use crate::evidence::tdx::EnclaveReport;
use crate::rejection::Rejection;
use crate::time::UnixMillis;

/// More levels than any identity has.
const LEVELS_MAX: usize = 128;

/// Which enclave an identity is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EnclaveId {
    /// The quoting enclave of SGX.
    Qe,
    /// The quoting enclave of TDX.
    TdQe,
    /// The quote verification enclave.
    Qve,
    /// The quote appraisal enclave.
    Qae,
}

impl EnclaveId {
    /// As Intel writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qe => "QE",
            Self::TdQe => "TD_QE",
            Self::Qve => "QVE",
            Self::Qae => "QAE",
        }
    }
}

/// An identity whose signature was checked. [`super::endorse_qe_identity`] is the only constructor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedQeIdentity {
    identity: QeIdentity,
    validity: Validity,
}

impl VerifiedQeIdentity {
    pub(super) const fn new(identity: QeIdentity, validity: Validity) -> Self {
        Self { identity, validity }
    }

    /// What it says.
    #[must_use]
    pub const fn identity(&self) -> &QeIdentity {
        &self.identity
    }

    /// The time in which it and its chain hold.
    #[must_use]
    pub const fn validity(&self) -> Validity {
        self.validity
    }
}

/// An identity, read strictly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QeIdentity {
    /// Of which enclave.
    pub id: EnclaveId,
    /// issueDate.
    pub issue_date: UnixMillis,
    /// nextUpdate.
    pub next_update: UnixMillis,
    /// tcbEvaluationDataNumber.
    pub evaluation_data_number: u32,
    misc_select: [u8; 4],
    misc_select_mask: [u8; 4],
    attributes: [u8; 16],
    attributes_mask: [u8; 16],
    mr_signer: [u8; 32],
    isv_prod_id: u16,
    levels: Vec<(u16, Verdict)>,
}

impl QeIdentity {
    /// Reads an identity: members that are not known, missing, twice there or of another type refuse it.
    ///
    /// # Errors
    /// [`IntelReason::Schema`] or [`IntelReason::Status`].
    pub fn read(text: &str) -> Result<Self, Rejection> {
        check_length(text.as_bytes())?;
        let raw: RawIdentity = serde_json::from_str(text).map_err(|error| schema("an enclave identity", error))?;
        let ids = [EnclaveId::Qe, EnclaveId::TdQe, EnclaveId::Qve, EnclaveId::Qae];
        let id = ids.into_iter().find(|id| id.name() == raw.id);
        let id = id.ok_or_else(|| IntelReason::Schema.because("QE, TD_QE, QVE or QAE", &raw.id))?;
        if raw.version != 2 {
            return Err(IntelReason::Schema.because("version 2", raw.version));
        }
        if raw.tcb_levels.is_empty() || LEVELS_MAX < raw.tcb_levels.len() {
            return Err(IntelReason::Schema.because(format_args!("1 to {LEVELS_MAX} levels"), raw.tcb_levels.len()));
        }
        Ok(Self {
            id,
            issue_date: time(&raw.issue_date)?,
            next_update: time(&raw.next_update)?,
            evaluation_data_number: raw.tcb_evaluation_data_number,
            misc_select: fixed_hex("miscselect", &raw.miscselect)?,
            misc_select_mask: fixed_hex("miscselectMask", &raw.miscselect_mask)?,
            attributes: fixed_hex("attributes", &raw.attributes)?,
            attributes_mask: fixed_hex("attributesMask", &raw.attributes_mask)?,
            mr_signer: fixed_hex("mrsigner", &raw.mrsigner)?,
            isv_prod_id: raw.isvprodid,
            levels: raw.tcb_levels.into_iter().map(RawLevel::read).collect::<Result<_, _>>()?,
        })
    }

    /// How many levels there are.
    #[must_use]
    pub const fn levels(&self) -> usize {
        self.levels.len()
    }

    /// Checks that an enclave's report is one of this enclave, and says what is known of its ISVSVN (Intel QVL,
    /// 4.1.2.9).
    pub(super) fn evaluate(&self, report: &EnclaveReport) -> Result<&Verdict, Rejection> {
        let masked = |value: &[u8], mask: &[u8]| -> Vec<u8> { value.iter().zip(mask).map(|(v, m)| v & m).collect() };
        let matches = |value: &[u8], mask: &[u8], wanted: &[u8]| {
            value.iter().zip(mask).zip(wanted).all(|((value, mask), wanted)| value & mask == *wanted)
        };
        // In memory order, as everything in an identity.
        let misc_select = report.misc_select.to_le_bytes();
        if !matches(&misc_select, &self.misc_select_mask, &self.misc_select) {
            let found = hex::encode(masked(&misc_select, &self.misc_select_mask));
            return Err(IntelReason::QeMiscSelect.because(hex::encode(self.misc_select), found));
        }
        if !matches(&report.attributes, &self.attributes_mask, &self.attributes) {
            let found = hex::encode(masked(&report.attributes, &self.attributes_mask));
            return Err(IntelReason::QeAttributes.because(hex::encode(self.attributes), found));
        }
        if report.mr_signer != self.mr_signer {
            return Err(IntelReason::QeMrSigner.because(hex::encode(self.mr_signer), hex::encode(report.mr_signer)));
        }
        if report.isv_prod_id != self.isv_prod_id {
            return Err(IntelReason::QeProduct.because(self.isv_prod_id, report.isv_prod_id));
        }
        let level = self.levels.iter().find(|(isv_svn, _)| *isv_svn <= report.isv_svn);
        let found = || format!("{} with ISVSVN {}", self.id.name(), report.isv_svn);
        level
            .map(|(_, verdict)| verdict)
            .ok_or_else(|| IntelReason::NoLevel.because("a level of the quoting enclave that is reached", found()))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawIdentity {
    id: String,
    version: u32,
    issue_date: String,
    next_update: String,
    tcb_evaluation_data_number: u32,
    miscselect: String,
    miscselect_mask: String,
    attributes: String,
    attributes_mask: String,
    mrsigner: String,
    isvprodid: u16,
    tcb_levels: Vec<RawLevel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTcb {
    isvsvn: u16,
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

impl RawLevel {
    fn read(self) -> Result<(u16, Verdict), Rejection> {
        let verdict = Verdict {
            status: TcbStatus::of_component(&self.tcb_status)?,
            tcb_date: time(&self.tcb_date)?,
            advisory_ids: advisories(self.advisory_ids)?,
        };
        Ok((self.tcb.isvsvn, verdict))
    }
}
