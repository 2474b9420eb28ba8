//! What Intel says of a TCB, as closed sets.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Serialize, Serializer};

use super::IntelReason;
use crate::rejection::Rejection;
use crate::time::UnixMillis;

/// Status of a TCB (Intel PCS API version 4, `tcbStatus`; the last two come from comparing a TD's two TCBs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TcbStatus {
    /// Nothing is known to be wrong.
    UpToDate,
    /// Software in the TEE has to mitigate something itself.
    SWHardeningNeeded,
    /// The platform has to be configured otherwise.
    ConfigurationNeeded,
    /// Both.
    ConfigurationAndSWHardeningNeeded,
    /// There is an update that repairs something.
    OutOfDate,
    /// And the platform has to be configured otherwise.
    OutOfDateConfigurationNeeded,
    /// The TDX module was updated while the TD ran: launched anew it would be up to date.
    TDRelaunchAdvised,
    /// And the platform has to be configured otherwise.
    TDRelaunchAdvisedConfigurationNeeded,
    /// Keys of this TCB are not to be believed. Evidence with it is rejected before there are claims.
    Revoked,
}

impl TcbStatus {
    /// Every status.
    pub const ALL: [Self; 9] = [
        Self::UpToDate,
        Self::SWHardeningNeeded,
        Self::ConfigurationNeeded,
        Self::ConfigurationAndSWHardeningNeeded,
        Self::OutOfDate,
        Self::OutOfDateConfigurationNeeded,
        Self::TDRelaunchAdvised,
        Self::TDRelaunchAdvisedConfigurationNeeded,
        Self::Revoked,
    ];

    /// As Intel writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UpToDate => "UpToDate",
            Self::SWHardeningNeeded => "SWHardeningNeeded",
            Self::ConfigurationNeeded => "ConfigurationNeeded",
            Self::ConfigurationAndSWHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            Self::OutOfDate => "OutOfDate",
            Self::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            Self::TDRelaunchAdvised => "TDRelaunchAdvised",
            Self::TDRelaunchAdvisedConfigurationNeeded => "TDRelaunchAdvisedConfigurationNeeded",
            Self::Revoked => "Revoked",
        }
    }

    /// The status of this name, exactly.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// What a platform's level of a TCB info may say. A relaunch is found by comparing, never stated.
    pub(super) fn of_platform(name: &str) -> Result<Self, Rejection> {
        let status = Self::of(name)
            .filter(|status| !matches!(status, Self::TDRelaunchAdvised | Self::TDRelaunchAdvisedConfigurationNeeded));
        status.ok_or_else(|| IntelReason::Status.because("a tcbStatus of TCB info", name))
    }

    /// What a level of a QE or of a TDX module may say.
    pub(super) fn of_component(name: &str) -> Result<Self, Rejection> {
        let status = Self::of(name).filter(|status| matches!(status, Self::UpToDate | Self::OutOfDate | Self::Revoked));
        status.ok_or_else(|| IntelReason::Status.because("UpToDate, OutOfDate or Revoked", name))
    }

    const fn is_configuration_needed(self) -> bool {
        match self {
            Self::ConfigurationNeeded
            | Self::ConfigurationAndSWHardeningNeeded
            | Self::OutOfDateConfigurationNeeded
            | Self::TDRelaunchAdvisedConfigurationNeeded => true,
            Self::UpToDate | Self::SWHardeningNeeded | Self::OutOfDate | Self::TDRelaunchAdvised | Self::Revoked => {
                false
            }
        }
    }

    /// This status of a platform together with that of one of its components (Intel QVL, 4.1.2.5.1.4).
    #[must_use]
    pub const fn with_component(self, component: Self) -> Self {
        match (component, self) {
            (Self::Revoked, _) => Self::Revoked,
            (Self::OutOfDate, Self::UpToDate | Self::SWHardeningNeeded) => Self::OutOfDate,
            (Self::OutOfDate, Self::ConfigurationNeeded | Self::ConfigurationAndSWHardeningNeeded) => {
                Self::OutOfDateConfigurationNeeded
            }
            // A component's status is one of three: see `of_component`.
            (_, platform) => platform,
        }
    }

    /// This status of a TD's launch beside that of the platform now (Intel QVL, 4.1.2.5.1.20).
    #[must_use]
    pub const fn beside_current(self, current: Self) -> Self {
        let was_out = matches!(self, Self::OutOfDate | Self::OutOfDateConfigurationNeeded);
        let is_not = matches!(
            current,
            Self::UpToDate
                | Self::SWHardeningNeeded
                | Self::ConfigurationNeeded
                | Self::ConfigurationAndSWHardeningNeeded
        );
        if !was_out || !is_not {
            self
        } else if self.is_configuration_needed() || current.is_configuration_needed() {
            Self::TDRelaunchAdvisedConfigurationNeeded
        } else {
            Self::TDRelaunchAdvised
        }
    }
}

impl fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for TcbStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for TcbStatus {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::of(&name).ok_or_else(|| serde::de::Error::custom("expected a TCB status as Intel writes it"))
    }
}

/// What a platform's, a QE's and a TDX module's levels say together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TcbEvaluation {
    /// All of them together; never `Revoked`.
    pub status: TcbStatus,
    /// Of the platform and its TDX module.
    pub platform: TcbStatus,
    /// Of the quoting enclave.
    pub qe: TcbStatus,
    /// Advisories that are not mitigated: the platform's, its TDX module's, the QE's, each once.
    pub advisory_ids: Vec<String>,
    /// The earliest tcbDate among the levels: all that was known of by then is repaired.
    pub tcb_date: UnixMillis,
    /// tcbEvaluationDataNumber of the TCB info.
    pub evaluation_data_number: u32,
    /// tcbEvaluationDataNumber of the QE identity; another one, quite often.
    pub qe_evaluation_data_number: u32,
}
