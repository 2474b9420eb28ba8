//! Waivers and denied hardware: an operator accepts something for a while, or no longer believes a piece of hardware.
//! What ends trust goes the way of every revocation: record, change what is in force, judge every host again.

use std::sync::{Arc, Weak};
use std::time::Duration;

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::protocol::HostId;

use crate::broker::Broker;
use crate::keys::listed;
use crate::lineage::BY_BROKER;
use crate::problem::{Problem, Refusal};
use crate::trust::grounds::Touches;

/// Leases under a waiver end with it by themselves; this is how soon after it hosts are revoked as well.
const WATCH_EVERY: Duration = Duration::from_secs(1);

impl Broker {
    /// Registers a waiver, signed by the operator who brings it. Hosts that pass with it may be granted from their next
    /// attestation on.
    ///
    /// # Errors
    /// A refusal of the waiver, or a failure to record or store.
    pub async fn add_waiver(&self, operator: &HostId, note: &str) -> Result<String, Problem> {
        let now = self.clock.now();
        let key = listed::signing_key(&self.data, &self.config.trust_domain, operator)
            .ok_or_else(|| Refusal::SigningKeyUnknown.plain())?;
        tokio::task::block_in_place(|| {
            let record = |digest| self.record_blocking(Entry::waiver_registered(now, operator.as_str(), digest));
            self.references.add_waiver(note, &key, now, record)
        })
    }

    /// Ends a waiver for good and revokes every host that does not pass without it; tells how many.
    ///
    /// # Errors
    /// [`Refusal::WaiverUnknown`], or a failure to record or store.
    pub async fn end_waiver(&self, operator: &HostId, id: &str) -> Result<u64, Problem> {
        self.end(operator.as_str(), id)?;
        // A crash here leaves leases that run out by themselves; the next attestation is judged without the waiver.
        self.reappraise_touched(Touches::Waiver(id)).await
    }

    fn end(&self, actor: &str, id: &str) -> Result<(), Problem> {
        let now = self.clock.now();
        tokio::task::block_in_place(|| {
            let record = |digest| self.record_blocking(Entry::waiver_ended(now, actor, digest));
            self.references.end_waiver(id, now, record)
        })
    }

    /// Ends every waiver whose date has passed, and revokes the hosts that do not pass without; tells how many. Nothing
    /// stands on such a waiver any more: no appraisal asks it, and leases and credentials ended with it.
    ///
    /// # Errors
    /// A failure to record or store; what was not ended is tried again.
    pub async fn end_past_waivers(&self) -> Result<u64, Problem> {
        let _one = self.ending.lock().await;
        let past = self.references.waivers_past(self.clock.now());
        if past.is_empty() {
            return Ok(0);
        }
        for id in past {
            tracing::warn!(waiver = %id, "the waiver's date has passed");
            match self.end(BY_BROKER, &id) {
                Ok(()) => {}
                // An operator was faster.
                Err(problem) if problem.code() == Refusal::WaiverUnknown.code() => {}
                Err(problem) => return Err(problem),
            }
        }
        self.reappraise().await
    }

    /// No longer believes a piece of hardware, and revokes every host that stands on it; tells the denial's id and how
    /// many.
    ///
    /// # Errors
    /// A refusal of the denial, or a failure to record or store.
    pub async fn deny_instance(&self, operator: &HostId, json: &[u8]) -> Result<(Sha256Digest, u64), Problem> {
        let now = self.clock.now();
        let id = tokio::task::block_in_place(|| {
            let record = |digest| self.record_blocking(Entry::instance_denied(now, operator.as_str(), digest));
            self.references.deny(json, record)
        })?;
        Ok((id, self.reappraise().await?))
    }

    /// Believes a piece of hardware again. Hosts that were revoked for it stay so until an operator re-admits them.
    ///
    /// # Errors
    /// [`Refusal::DenialUnknown`], or a failure to record or store.
    pub async fn withdraw_denial(&self, operator: &HostId, id: Sha256Digest) -> Result<(), Problem> {
        let now = self.clock.now();
        tokio::task::block_in_place(|| {
            let record = |digest| self.record_blocking(Entry::denial_withdrawn(now, operator.as_str(), digest));
            self.references.withdraw_denial(id, record)
        })
    }
}

/// Ends waivers, manifests and artifacts by their date, and what removed operators signed, for as long as the broker
/// lives.
pub(super) async fn watch(broker: Weak<Broker>) {
    let mut ticks = tokio::time::interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(broker): Option<Arc<Broker>> = broker.upgrade() else { return };
        if let Err(problem) = broker.end_past_waivers().await {
            tracing::error!(%problem, "waivers that are past are not ended yet");
        }
        if let Err(problem) = broker.review_references().await {
            tracing::error!(%problem, "reference manifests are not reviewed yet");
        }
    }
}
