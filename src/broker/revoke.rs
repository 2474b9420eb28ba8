//! An operator registers, revokes, re-admits and removes hosts.

use std::collections::BTreeMap;

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::protocol::HostId;

use crate::broker::Broker;
use crate::lineage::Recorded;
use crate::problem::{Problem, Refusal};
use crate::trust::hosts::Host;
use crate::trust::state::{HostTrust, Standing};

/// Reason of a revocation by an operator.
pub(super) const BY_OPERATOR: &str = "operator.revoked";
/// The actor of a revocation that evidence alone brought about.
const BY_EVIDENCE: &str = "broker";
/// Reason of the revocation that comes with removing a host.
const REMOVED: &str = "operator.removed";

impl Broker {
    /// Registers a host with the EK that an operator expects in it.
    ///
    /// # Errors
    /// [`Refusal::HostExists`], or a failure to record or store.
    pub async fn register(
        &self,
        operator: &HostId,
        id: HostId,
        ek_sha256: Sha256Digest,
        labels: BTreeMap<String, String>,
    ) -> Result<Host, Problem> {
        let now = self.clock.now();
        let registered_by = operator.to_string();
        let host = Host { id: id.clone(), ek_sha256, labels, registered_at: now, registered_by, enrolled: None };
        match self.hosts.find(&id) {
            Err(problem) if problem.code() == Refusal::HostUnknown.code() => {}
            Err(problem) => return Err(problem),
            Ok(_) => return Err(Refusal::HostExists.because("an unused id", id)),
        }
        let record = serde_json::to_vec(&host).map_err(|_| Refusal::Internal.plain())?;
        // A crash after this leaves an entry without a host: the operator registers it again.
        self.record(Entry::host_registered(now, id, operator.as_str(), Sha256Digest::of(&[&record]))).await?;
        self.hosts.register(host.clone())?;
        Ok(host)
    }

    /// Takes a host's trust away, now.
    ///
    /// # Errors
    /// [`Refusal::HostUnknown`], [`Refusal::HostNotEnrolled`], or a failure to record.
    pub async fn revoke(&self, operator: &HostId, id: &HostId) -> Result<Recorded, Problem> {
        self.hosts.find(id)?;
        self.revoke_because(operator, id, BY_OPERATOR).await
    }

    /// Revokes two hosts that are one machine by their evidence: nobody can tell which is the copy.
    pub(super) async fn revoke_clones(&self, host: &HostId, other: &HostId) -> Problem {
        tracing::error!(%host, %other, "one TPM or guest under two names: both are revoked");
        let reason = Refusal::Cloned;
        for id in [other, host] {
            if let Err(problem) = self.revoke_by(BY_EVIDENCE, id, reason.code()).await {
                return problem;
            }
        }
        reason.because("an instance of its own", "one that is trusted under another name")
    }

    async fn revoke_because(&self, operator: &HostId, id: &HostId, reason: &str) -> Result<Recorded, Problem> {
        self.revoke_by(operator.as_str(), id, reason).await
    }

    pub(super) async fn revoke_by(&self, actor: &str, id: &HostId, reason: &str) -> Result<Recorded, Problem> {
        let trust = self.trust.host(id)?.filter(|trust| trust.standing != Standing::Registered);
        let trust = trust.ok_or_else(|| Refusal::HostNotEnrolled.plain())?;
        let on = trust.revision_of(id.clone());
        let entry = Entry::revoked_by_operator(self.clock.now(), on, actor, reason);
        // Durable and applied when this returns; the next pulse, asked for here, says INVALID.
        let recorded = self.record(entry).await?;
        self.pulse.wake();
        Ok(recorded)
    }

    /// Lets a revoked host prove itself again, in a new generation.
    ///
    /// # Errors
    /// [`Refusal::HostUnknown`], [`Refusal::HostNotRevoked`], or a failure to record.
    pub async fn readmit(&self, operator: &HostId, id: &HostId) -> Result<Recorded, Problem> {
        self.hosts.find(id)?;
        let trust = self.trust.host(id)?.filter(|trust| trust.standing == Standing::Revoked);
        let trust: HostTrust = trust.ok_or_else(|| Refusal::HostNotRevoked.plain())?;
        let entry = Entry::readmitted(self.clock.now(), trust.revision_of(id.clone()), operator.as_str());
        // Another revocation may have come before it; the operator has not seen that one.
        self.record_change(entry).await
    }

    /// Revokes a host and forgets its identity, so that another machine can be registered under the id.
    ///
    /// # Errors
    /// [`Refusal::HostUnknown`], or a failure to record or store.
    pub async fn remove(&self, operator: &HostId, id: &HostId) -> Result<(), Problem> {
        self.hosts.find(id)?;
        // Revoke first: a crash between the two leaves a revoked host.
        match self.revoke_because(operator, id, REMOVED).await {
            Ok(_) => {}
            Err(problem) if problem.code() == Refusal::HostNotEnrolled.code() => {}
            Err(problem) => return Err(problem),
        }
        self.hosts.remove(id)?;
        self.boots.forget(id);
        self.warm.forget(id);
        Ok(())
    }
}
