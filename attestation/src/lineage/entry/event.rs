//! What an entry of the lineage log is about.

use core::fmt;

use minicbor::{Decode, Encode};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Event {
    /// A broker process took up its work.
    #[n(0)]
    BrokerStarted,
    /// An operator registered a host.
    #[n(1)]
    HostRegistered,
    /// A host proved its TPM and AK.
    #[n(2)]
    Enrolled,
    /// An appraisal that was granted: a full record with its inputs.
    #[n(3)]
    Granted,
    /// An appraisal that was granted and changed nothing.
    #[n(4)]
    Renewed,
    /// An appraisal, or a verification before it, that was denied and took no trust away.
    #[n(5)]
    Denied,
    /// A lease ended.
    #[n(6)]
    Lapsed,
    /// Trust was taken away.
    #[n(7)]
    Revoked,
    /// An operator let a revoked host prove itself again.
    #[n(8)]
    Readmitted,
    /// An operator registered a reference manifest.
    #[n(9)]
    ReferenceRegistered,
    /// An operator withdrew a reference manifest.
    #[n(10)]
    ReferenceWithdrawn,
    /// A policy set came into force.
    #[n(11)]
    PolicyActivated,
    /// An operator's signed waiver came into force.
    #[n(12)]
    WaiverRegistered,
    /// A waiver ended, by an operator or by its date.
    #[n(13)]
    WaiverEnded,
    /// An operator no longer believes a piece of hardware.
    #[n(14)]
    InstanceDenied,
    /// An operator believes it again.
    #[n(15)]
    DenialWithdrawn,
    /// Newer lists, TCB info or identities came into force, or other anchors, firmware floors or grace.
    #[n(16)]
    CollateralChanged,
    /// An operator ordered the revocation of all hosts of a kind.
    #[n(17)]
    RevocationOrdered,
}

impl Event {
    /// Every event, in the order of their numbers.
    pub const ALL: [Self; 18] = [
        Self::BrokerStarted,
        Self::HostRegistered,
        Self::Enrolled,
        Self::Granted,
        Self::Renewed,
        Self::Denied,
        Self::Lapsed,
        Self::Revoked,
        Self::Readmitted,
        Self::ReferenceRegistered,
        Self::ReferenceWithdrawn,
        Self::PolicyActivated,
        Self::WaiverRegistered,
        Self::WaiverEnded,
        Self::InstanceDenied,
        Self::DenialWithdrawn,
        Self::CollateralChanged,
        Self::RevocationOrdered,
    ];

    /// The event's name in logs and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BrokerStarted => "broker_started",
            Self::HostRegistered => "host_registered",
            Self::Enrolled => "enrolled",
            Self::Granted => "granted",
            Self::Renewed => "renewed",
            Self::Denied => "denied",
            Self::Lapsed => "lapsed",
            Self::Revoked => "revoked",
            Self::Readmitted => "readmitted",
            Self::ReferenceRegistered => "reference_registered",
            Self::ReferenceWithdrawn => "reference_withdrawn",
            Self::PolicyActivated => "policy_activated",
            Self::WaiverRegistered => "waiver_registered",
            Self::WaiverEnded => "waiver_ended",
            Self::InstanceDenied => "instance_denied",
            Self::DenialWithdrawn => "denial_withdrawn",
            Self::CollateralChanged => "collateral_changed",
            Self::RevocationOrdered => "revocation_ordered",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
