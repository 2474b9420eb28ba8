//! An operator revokes every host that has something in common: what its evidence said when it was last granted, or
//! what it was granted by. The order is archived and recorded, and the revocations follow it in the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::claims::{Claims, HexBytes};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::protocol::HostId;
use serde::{Deserialize, Serialize};

use crate::broker::Broker;
use crate::broker::judge::{Inputs, Judgement, judge};
use crate::broker::revoke::BY_OPERATOR;
use crate::problem::{Problem, Refusal};
use crate::references::{Digests, Governance};
use crate::trust::pulse::unrecorded;
use crate::trust::state::HostTrust;

/// Revocations that are recorded together. Each names the revision that the host was seen on; none is ever too late.
const TOGETHER_MAX: usize = 256;
/// Hosts that an answer names; it says how many there are.
const NAMED_MAX: usize = 100;
const REASON_BYTES_MAX: usize = 512;

/// An order to revoke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Which hosts.
    pub select: Selector,
    /// Why, for whoever reads the log.
    pub reason: String,
    /// Tell which hosts it would be, and change nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What hosts have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// CHIP_ID of their SNP report.
    ChipId(HexBytes),
    /// PPID of their PCK certificate.
    Ppid(HexBytes),
    /// Name of their attestation key.
    AkName(HexBytes),
    /// Processor generation, AMD.
    AmdProduct(AmdProduct),
    /// Family of platforms, Intel.
    Fmspc(HexBytes),
    /// The reference manifest they were granted by.
    Reference(String),
    /// A policy that permitted them.
    Policy(String),
}

/// What came of an order.
#[derive(Clone, Debug, Serialize)]
pub struct Ordered {
    /// SHA-256 of the order in the archive, which its entry in the log names.
    pub order: Sha256Digest,
    /// How many hosts were revoked, or would be.
    pub hosts: u64,
    /// At most a hundred of them.
    pub named: Vec<HostId>,
    /// Whether nothing was changed.
    pub dry_run: bool,
}

impl Selector {
    fn selects(&self, judged: &Judgement) -> bool {
        let Some(claims) = judged.claims.as_deref() else { return false };
        let Claims { snp, tdx, tpm, .. } = claims;
        let (snp, tdx, grant) = (snp.verified(), tdx.verified(), judged.decision.grant());
        match self {
            Self::ChipId(id) => snp.is_some_and(|snp| snp.chip_id.verified() == Some(id)),
            Self::Ppid(ppid) => tdx.is_some_and(|tdx| tdx.platform.ppid == *ppid),
            Self::AkName(name) => tpm.ak_name == *name,
            Self::AmdProduct(product) => snp.is_some_and(|snp| snp.product == *product),
            Self::Fmspc(fmspc) => tdx.is_some_and(|tdx| tdx.platform.fmspc == *fmspc),
            Self::Reference(id) => grant.is_some_and(|grant| grant.manifest() == id),
            Self::Policy(id) => grant.is_some_and(|grant| grant.policies().contains(id)),
        }
    }
}

impl Broker {
    /// Revokes every trusted or lapsed host that the order selects, or tells which these are. A host whose grant cannot
    /// be made again from the archive may be one of them, and is treated as such.
    ///
    /// # Errors
    /// A reason that is none, or a failure to archive or record; hosts revoked so far stay so.
    pub async fn revoke_selected(&self, operator: &HostId, order: Order) -> Result<Ordered, Problem> {
        let reason = order.reason.trim();
        if reason.is_empty() || REASON_BYTES_MAX < reason.len() || reason.chars().any(char::is_control) {
            return Err(Refusal::Malformed.because(format!("a reason of 1 to {REASON_BYTES_MAX} bytes"), reason.len()));
        }
        let text = serde_json::to_vec(&order).map_err(|_| Refusal::Internal.plain())?;
        let digest = Sha256Digest::of(&[&text]);
        if !order.dry_run {
            self.archive.put(&text).map_err(|_| Refusal::StoreFailed.plain())?;
            self.record(Entry::revocation_ordered(self.clock.now(), operator.as_str(), digest)).await?;
        }
        let (mut governances, mut revocations) = (BTreeMap::new(), Vec::new());
        let mut ordered = Ordered { order: digest, hosts: 0, named: Vec::new(), dry_run: order.dry_run };
        for proven in self.trust.proven()? {
            let (id, trust) = proven?;
            let again = self.granted_by(&trust, &mut governances);
            if again.is_some_and(|judged| !order.select.selects(&judged)) {
                continue;
            }
            let on = trust.revision_of(id.clone());
            revocations.push(Entry::revoked_by_operator(self.clock.now(), on, operator.as_str(), BY_OPERATOR));
            if TOGETHER_MAX <= revocations.len() {
                self.revoke_all(std::mem::take(&mut revocations), order.dry_run)?;
            }
            ordered.hosts = ordered.hosts.saturating_add(1);
            if ordered.named.len() < NAMED_MAX {
                ordered.named.push(id);
            }
        }
        self.revoke_all(revocations, order.dry_run)?;
        Ok(ordered)
    }

    /// Records revocations, which wait for the disk together; with `dry_run`, none.
    fn revoke_all(&self, revocations: Vec<Entry>, dry_run: bool) -> Result<(), Problem> {
        if dry_run || revocations.is_empty() {
            return Ok(());
        }
        let record = || self.lineage.append_all_blocking(revocations);
        tokio::task::block_in_place(record).map_err(|error| unrecorded(&error))?;
        self.pulse.wake();
        Ok(())
    }

    /// The host's last grant with a full record, made again as it was made.
    fn granted_by(
        &self,
        trust: &HostTrust,
        governances: &mut BTreeMap<Sha256Digest, Arc<Governance>>,
    ) -> Option<Judgement> {
        let inputs = self.archive.get(trust.inputs?).ok()?;
        let inputs: Inputs = serde_json::from_slice(&inputs).ok()?;
        let current = self.references.current();
        let governance = if inputs.governance == current.digests {
            current
        } else {
            let key = key_of(&inputs.governance)?;
            match governances.get(&key) {
                Some(known) => Arc::clone(known),
                None => {
                    let restored = Arc::new(Governance::from_archive(&self.archive, inputs.governance).ok()?);
                    governances.insert(key, Arc::clone(&restored));
                    restored
                }
            }
        };
        let judged = judge(&inputs, &governance, &self.archive);
        judged.claims.is_some().then_some(judged)
    }
}

fn key_of(digests: &Digests) -> Option<Sha256Digest> {
    Some(Sha256Digest::of(&[&serde_json::to_vec(digests).ok()?]))
}
