//! The broker's stories, one file each: [`enrol`], [`attest`], [`revoke`], [`reappraise`], [`exceptions`],
//! [`collateral`], [`forecast`], [`what_if`], [`explain`], [`authority`]. Each is the whole path of one request in
//! numbered steps; the rooms below do the work.

pub mod attest;
pub mod authority;
pub mod challenge;
pub mod collateral;
pub mod decision_bundle;
pub mod enrol;
pub mod exceptions;
pub mod explain;
pub mod forecast;
pub mod instances;
pub mod judge;
pub mod known;
pub mod nonce;
pub mod order;
pub mod reappraise;
mod recent;
pub mod revoke;
pub mod start;
pub mod warm;
pub mod what_if;

use std::sync::{Arc, Mutex};

use countersign_attestation::claims::Claims;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::protocol::HostId;
use countersign_policies::finding::Finding;
use countersign_policies::waiver::WaiverUse;

use crate::clock::Clock;
use crate::config::{Config, DataDir};
use crate::credentials::execution::Issuer;
use crate::keys::Keys;
use crate::lineage::archive::Archive;
use crate::lineage::{Effect, Lineage, Recorded};
use crate::metrics::Metrics;
use crate::problem::{Problem, Refusal};
use crate::references::References;
use crate::store::Store;
use crate::trust::Trust;
use crate::trust::hosts::Hosts;
use crate::trust::pulse::{PulseHandle, unrecorded};

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    /// Settings.
    pub config: Config,
    /// Data directory, for the operators' list.
    pub data: DataDir,
    /// Time.
    pub clock: Clock,
    /// Keys.
    pub keys: Arc<Keys>,
    /// Registered hosts.
    pub hosts: Hosts,
    /// Trust.
    pub trust: Trust,
    /// The log.
    pub lineage: Lineage,
    /// What is kept of one run for the next.
    pub store: Store,
    /// References, policy, collateral.
    pub references: References,
    /// The pulse.
    pub pulse: PulseHandle,
    /// Counters.
    pub metrics: Metrics,
    /// Where collateral is fetched from.
    pub sources: collateral::Sources,
    /// Turns for requests that need much memory.
    pub long_bodies: tokio::sync::Semaphore,
    archive: Archive,
    issuer: Issuer,
    challenges: challenge::Challenges,
    enrollments: enrol::Pending,
    latest: Mutex<recent::Recent<Latest>>,
    boots: known::Boots,
    instances: instances::Instances,
    warm: warm::Warm,
    nonces: nonce::Allowance,
    /// One at a time sees the dates of waivers pass: whoever waited finds them ended and the hosts judged.
    ending: tokio::sync::Mutex<()>,
    /// One at a time sees manifests end, or lose a signer.
    reviewed: tokio::sync::Mutex<reappraise::Reviewed>,
    /// One fleet at a time is judged for a preview.
    previewing: Mutex<()>,
    /// Why the workload authority did not renew itself when it last tried.
    authority_fault: Mutex<Option<String>>,
}

/// What a host's newest appraisal saw, for operators: kept in memory of the hosts that came by most recently, since the
/// log and the archive hold the proof.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Latest {
    /// The claims, where verification got that far.
    pub claims: Option<Arc<Claims>>,
    /// Why it was denied; empty when it was granted.
    pub findings: Vec<Finding>,
    /// Waivers that it would have been denied without.
    pub waivers: Vec<WaiverUse>,
    /// The decision id.
    pub decision: Sha256Digest,
    /// Index in the log.
    pub log_index: u64,
}

impl Broker {
    /// The newest appraisal of a host, where it came by recently.
    ///
    /// # Errors
    /// [`Refusal::Internal`].
    pub fn latest(&self, host: &HostId) -> Result<Option<Latest>, Problem> {
        Ok(self.latest.lock().map_err(|_| Refusal::Internal.plain())?.get(host).cloned())
    }

    /// Makes an entry durable and applied.
    async fn record(&self, entry: Entry) -> Result<Recorded, Problem> {
        self.lineage.append(entry).await.map_err(|error| unrecorded(&error))
    }

    /// Makes an entry durable that means nothing unless the host's state was still the one it was made on.
    ///
    /// # Errors
    /// [`Refusal::Superseded`], or a failure to record.
    async fn record_change(&self, entry: Entry) -> Result<Recorded, Problem> {
        let recorded = self.record(entry).await?;
        match recorded.effect() {
            Effect::Changed => Ok(recorded),
            Effect::Nothing => Err(Refusal::Superseded.plain()),
        }
    }
}
