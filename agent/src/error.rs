//! What ends a command, and with which exit code.

use countersign_attestation::Rejection;
use countersign_attestation::protocol::HostId;

use crate::broker_client::BrokerError;
use crate::collect::hardware::HardwareError;
use crate::device::TpmError;
use crate::enforce::EnforceError;
use crate::files::FileError;
use crate::state::StateError;
use crate::workload_api::SocketError;

/// Everything is as asked.
pub const EXIT_OK: u8 = 0;
/// Wrong usage, or something on this machine.
pub const EXIT_LOCAL: u8 = 1;
/// The broker could not be reached or did not understand.
pub const EXIT_BROKER: u8 = 2;
/// The host is not trusted: denied, or the workload was stopped because trust was lost.
pub const EXIT_DENIED: u8 = 3;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The TPM.
    #[error("TPM: {0}")]
    Tpm(#[from] TpmError),
    /// The confidential VM's report.
    #[error("confidential VM: {0}")]
    Hardware(#[from] HardwareError),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The workload.
    #[error("workload: {0}")]
    Enforce(#[from] EnforceError),
    /// The workload API's socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Options that do not fit together.
    #[error("{0}")]
    Options(&'static str),
    /// The channel key.
    #[error("channel key: {0}")]
    ChannelKey(&'static str),
    /// The state directory belongs to another enrolment.
    #[error("this state directory is enrolled as {host} with {broker}; use another --state-dir or remove it")]
    EnrolledElsewhere {
        /// As whom.
        host: HostId,
        /// With whom.
        broker: String,
    },
    /// The broker answered a grant that cannot be used.
    #[error("the broker granted, but {0}")]
    Grant(&'static str),
    /// No key for workloads can be made.
    #[error("no key for workloads: this machine gives no randomness")]
    WorkloadKey,
    /// Nobody keeps this machine's clock.
    #[error("{0}")]
    Clock(Rejection),
    /// Signals cannot be received.
    #[error("signals: {0}")]
    Signals(std::io::Error),
}

impl AgentError {
    /// The broker's decision against this host, if this is one: a 403 with the id of a recorded decision.
    #[must_use]
    pub fn denial(&self) -> Option<&countersign_attestation::protocol::Problem> {
        if let Self::Broker(BrokerError::Refused(refusal)) = self {
            Some(&*refusal.0).filter(|problem| problem.status == 403 && problem.decision.is_some())
        } else {
            None
        }
    }

    /// A stable code for events and status.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Tpm(TpmError::Deadline(_)) => "agent.tpm.deadline",
            Self::Tpm(_) => "agent.tpm.refused",
            Self::Hardware(_) => "agent.hardware.collect",
            Self::Broker(BrokerError::Setup { .. }) => "agent.broker.setup",
            Self::Broker(BrokerError::Transport(_)) => "agent.broker.unreachable",
            Self::Broker(BrokerError::Answer { .. }) => "agent.broker.answer",
            Self::Broker(BrokerError::Refused(refusal)) => &refusal.0.code,
            Self::State(_) => "agent.state",
            Self::File(_) => "agent.file",
            Self::Enforce(_) => "agent.workload",
            Self::Socket(_) => "agent.socket",
            Self::Options(_) => "agent.options",
            Self::ChannelKey(_) => "agent.channel_key",
            Self::EnrolledElsewhere { .. } => "agent.enrolled_elsewhere",
            Self::Grant(_) => "agent.grant",
            Self::WorkloadKey => "agent.workload_key",
            Self::Clock(rejection) => rejection.code(),
            Self::Signals(_) => "agent.signals",
        }
    }

    /// Exit code of a command that ends so.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Broker(BrokerError::Refused(refusal)) if refusal.0.status == 403 => EXIT_DENIED,
            Self::Broker(BrokerError::Setup { .. }) => EXIT_LOCAL,
            Self::Broker(_) | Self::Grant(_) => EXIT_BROKER,
            Self::Tpm(_)
            | Self::WorkloadKey
            | Self::Hardware(_)
            | Self::State(_)
            | Self::File(_)
            | Self::Enforce(_)
            | Self::Socket(_)
            | Self::Options(_)
            | Self::ChannelKey(_)
            | Self::EnrolledElsewhere { .. }
            | Self::Clock(_)
            | Self::Signals(_) => EXIT_LOCAL,
        }
    }
}
