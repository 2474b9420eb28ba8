//! What hosts are judged by changed: judge every trusted host again, on archived evidence, without asking it.

use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::{DecisionRecord, Entry, HostRevision};
use countersign_attestation::protocol::HostId;

use crate::broker::Broker;
use crate::broker::judge::{Inputs, judge_warm};
use crate::broker::warm::Warm;
use crate::lineage::BY_BROKER;
use crate::problem::{Problem, Refusal};
use crate::references::{Governance, Registered};
use crate::store::{Table, Write};
use crate::trust::grounds::{Grounds, Touches};
use crate::trust::pulse::unrecorded;
use crate::trust::state::HostTrust;

/// What hosts were last judged by as a whole, in [`Table::Meta`].
pub const JUDGED_BY: &str = "reappraise/judged-by";
/// Denials that wait to be recorded, and are recorded together.
const DENIALS_MAX: usize = 4096;
/// Fewer hosts are not worth another thread.
const HOSTS_A_THREAD: usize = 16;

/// A host that no longer passes.
struct Denied {
    decision: DecisionRecord,
    /// What it was judged by, to be archived before it is recorded.
    inputs: Option<Vec<u8>>,
}

/// A denial of a host that cannot be judged again.
fn unjudged() -> DecisionRecord {
    let reason = "reappraisal.inputs_missing";
    DecisionRecord {
        inputs: None,
        claims: None,
        decision: Sha256Digest::of(&[reason.as_bytes()]),
        reasons: vec![reason.to_owned()],
    }
}

/// What the last review of manifests saw.
#[derive(Debug)]
pub(super) struct Reviewed {
    /// When it was.
    at: UnixMillis,
    /// Whether hosts are still to be judged by what it found.
    owed: bool,
}

impl Reviewed {
    /// As of a start: leases end with what they stand on, so nobody is trusted by what ended before.
    pub(super) const fn start(at: UnixMillis) -> Self {
        Self { at, owed: false }
    }
}

impl Broker {
    /// Judges every trusted host again where policies, collateral or anything else that was read at start-up is not
    /// what hosts were judged by before: a list or a TCB info that came while the broker was down takes trust without
    /// the host's help. Until it is done, and after a failure, hosts keep their leases and the next start tries again.
    pub(super) async fn reappraise_where_changed(&self) -> Result<(), Problem> {
        let failed = |error: &dyn std::fmt::Display| {
            tracing::error!(%error, "what hosts were judged by cannot be compared");
            Refusal::Internal.plain()
        };
        let digests = serde_json::to_vec(&self.references.current().digests).map_err(|error| failed(&error))?;
        let before = self.store.get(Table::Meta, JUDGED_BY).map_err(|error| failed(&error))?;
        if before.as_deref() == Some(digests.as_slice()) {
            return Ok(());
        }
        let revoked = self.reappraise().await?;
        tracing::info!(revoked, "hosts were judged again by what has changed");
        let written = self.store.commit(&[Write::put(Table::Meta, JUDGED_BY, digests)]);
        written.map(drop).map_err(|error| failed(&error))
    }

    /// Registers a signed reference manifest. Hosts that pass now may be granted from their next attestation on; where
    /// it takes another version's place, those that do not pass any more are revoked. Tells its id, and how many.
    ///
    /// # Errors
    /// A refusal of the manifest, or a failure to record or store.
    pub async fn register_reference(
        &self,
        operator: &HostId,
        note: &str,
        previewed: Option<Sha256Digest>,
    ) -> Result<(String, u64), Problem> {
        // An operator who was listed a moment ago counts, and one who was removed does not.
        self.review_references().await?;
        let now = self.clock.now();
        let actor = operator.as_str();
        let Registered { id, replaces } = tokio::task::block_in_place(|| {
            let record = |registered, digest| {
                let entry = if registered { Entry::reference_registered } else { Entry::reference_withdrawn };
                self.record_blocking(entry(now, actor, digest))
            };
            self.references.register(note, previewed, now, record)
        })?;
        let revoked = if replaces { self.reappraise_touched(Touches::Manifest(&id)).await? } else { 0 };
        Ok((id, revoked))
    }

    /// Takes manifests out of force whose signers are no longer on the list of operators, and revokes the hosts that do
    /// not pass without them, or without what else has ended since the last review; tells how many.
    ///
    /// # Errors
    /// A failure to read, record or store; the next review does what this one did not.
    pub async fn review_references(&self) -> Result<u64, Problem> {
        let mut reviewed = self.reviewed.lock().await;
        let now = self.clock.now();
        let changed = tokio::task::block_in_place(|| {
            self.references.review_signatures(|in_force, digest| {
                tracing::warn!(manifest = %digest, in_force, "the list of operators has changed");
                let entry = if in_force { Entry::reference_registered } else { Entry::reference_withdrawn };
                self.record_blocking(entry(now, BY_BROKER, digest))
            })
        })?;
        reviewed.owed |= changed || self.references.current().references.ended_between(reviewed.at, now);
        reviewed.at = now;
        if !reviewed.owed {
            return Ok(0);
        }
        let revoked = self.reappraise().await?;
        reviewed.owed = false;
        Ok(revoked)
    }

    /// Withdraws a reference manifest and revokes every host that does not pass without it; tells how many.
    ///
    /// # Errors
    /// [`Refusal::ReferenceUnknown`], [`Refusal::PreviewStale`], or a failure to record or store.
    pub async fn withdraw_reference(
        &self,
        operator: &HostId,
        id: &str,
        previewed: Sha256Digest,
    ) -> Result<u64, Problem> {
        let now = self.clock.now();
        let actor = operator.as_str();
        tokio::task::block_in_place(|| {
            let record = |digest| self.record_blocking(Entry::reference_withdrawn(now, actor, digest));
            self.references.withdraw(id, previewed, record)
        })?;
        self.reappraise_touched(Touches::Manifest(id)).await
    }

    /// Puts other policies in force, in place of all that are, and revokes every host that does not pass them; tells
    /// how many.
    ///
    /// # Errors
    /// Why they cannot be loaded, [`Refusal::PreviewStale`], or a failure to record or store.
    pub async fn activate_policies(
        &self,
        operator: &HostId,
        texts: &[(String, String)],
        previewed: Sha256Digest,
    ) -> Result<u64, Problem> {
        let now = self.clock.now();
        tokio::task::block_in_place(|| {
            let record = |digest| self.record_blocking(Entry::policy_activated(now, operator.as_str(), digest));
            self.references.activate_policies(texts, previewed, record)
        })?;
        self.reappraise().await
    }

    /// Judges every trusted or lapsed host by what is in force now. A host whose evidence cannot be judged again is
    /// revoked like one that fails. A large fleet is judged by all processors, and revocations wait for the disk
    /// together; none waits for a host that is still to be judged.
    ///
    /// # Errors
    /// A failure to record; hosts judged so far stay revoked, and the rest keep their leases.
    pub async fn reappraise(&self) -> Result<u64, Problem> {
        self.reappraise_touched(Touches::Everyone).await
    }

    /// As [`Broker::reappraise`], of the hosts that a change may touch: found by what their grants stand on.
    ///
    /// # Errors
    /// As [`Broker::reappraise`].
    #[expect(clippy::unused_async, reason = "callers are stories that wait")]
    pub(super) async fn reappraise_touched(&self, change: Touches<'_>) -> Result<u64, Problem> {
        let hosts = self.trust.standings(|standings| standings.touched(change))?;
        tokio::task::block_in_place(|| self.reappraise_hosts(&hosts))
    }

    /// Judges these hosts by what is in force now.
    ///
    /// # Errors
    /// As [`Broker::reappraise`].
    pub(super) fn reappraise_hosts(&self, hosts: &[HostId]) -> Result<u64, Problem> {
        let (found, denials) = sync_channel(DENIALS_MAX);
        let warm = Warm::default();
        let judge = |hosts: &[HostId], found: &SyncSender<(HostRevision, Denied)>| -> Result<(), Problem> {
            for id in hosts {
                let Some(trust) = self.trust.host(id)?.filter(|trust| trust.standing.is_proven()) else { continue };
                let Some(denied) = self.denied_now(id, &trust, &warm)? else { continue };
                tracing::warn!(host = %id, reasons = ?denied.decision.reasons, "revoked by re-appraisal");
                if found.send((trust.revision_of(id.clone()), denied)).is_err() {
                    // Recording failed, which the one who records tells.
                    break;
                }
            }
            Ok(())
        };
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let part = hosts.len().div_ceil(threads).max(HOSTS_A_THREAD);
        thread::scope(|scope| {
            let judging: Vec<_> = hosts
                .chunks(part)
                .map(|hosts| {
                    let (judge, found) = (&judge, found.clone());
                    scope.spawn(move || judge(hosts, &found))
                })
                .collect();
            drop(found);
            let revoked = self.revoke_denied(denials)?;
            for thread in judging {
                thread.join().unwrap_or_else(|_| Err(Refusal::Internal.plain()))?;
            }
            Ok(revoked)
        })
    }

    /// Why the host no longer passes by what is in force now. Where it does, what it stands on is kept; and where
    /// something else came into force meanwhile, it is judged by that.
    fn denied_now(&self, id: &HostId, trust: &HostTrust, warm: &Warm) -> Result<Option<Denied>, Problem> {
        loop {
            let governance = self.references.current();
            let grounds = match self.judged_again(trust, &governance, warm) {
                Err(denied) => return Ok(Some(*denied)),
                Ok(grounds) => grounds,
            };
            let still = || self.references.current().digests == governance.digests;
            // A change that touches what the host stood on before as well finds it by that.
            if trust.grounds.as_ref() == Some(&grounds) || self.trust.stands_on(id, trust.since, grounds, still)? {
                return Ok(None);
            }
        }
    }

    /// Records denials as they come, those together that are there together.
    fn revoke_denied(&self, denials: Receiver<(HostRevision, Denied)>) -> Result<u64, Problem> {
        let mut revoked: u64 = 0;
        while let Ok(first) = denials.recv() {
            let now = self.clock.now();
            let mut together: Vec<_> = std::iter::once(first).chain(denials.try_iter().take(DENIALS_MAX)).collect();
            let inputs: Vec<Vec<u8>> = together.iter_mut().filter_map(|(_, denied)| denied.inputs.take()).collect();
            let kept = self.archive.put_all(&inputs);
            if let Err(error) = &kept {
                tracing::error!(%error, "what hosts were judged by again is not archived; they are revoked all the same");
            }
            let entries = together.into_iter().map(|(on, Denied { decision, .. })| {
                let decision = if kept.is_ok() { decision } else { unjudged() };
                Entry::revoked_by_decision(now, on, decision)
            });
            let recorded = self.lineage.append_all_blocking(entries).map_err(|error| unrecorded(&error))?;
            revoked = revoked.saturating_add(recorded.len() as u64);
            self.pulse.wake();
        }
        Ok(revoked)
    }

    /// What the host stands on where it passes, or why it does not.
    fn judged_again(&self, trust: &HostTrust, governance: &Governance, warm: &Warm) -> Result<Grounds, Box<Denied>> {
        let archived = trust.inputs.and_then(|inputs| self.archive.get(inputs).ok());
        let inputs: Option<Inputs> = archived.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let missing = || Box::new(Denied { decision: unjudged(), inputs: None });
        let Some(inputs) = inputs else { return Err(missing()) };
        // The evidence as it was, under what is in force now and holds now: lists and TCB info are issued after it.
        let inputs = Inputs { at: self.clock.now(), governance: governance.digests, ..inputs };
        let judged = judge_warm(&inputs, governance, &self.archive, Some(warm));
        if let Some(grant) = judged.decision.grant() {
            return Ok(grant.into());
        }
        let Ok(bytes) = serde_json::to_vec(&inputs) else { return Err(missing()) };
        let decision = DecisionRecord {
            inputs: Some(Sha256Digest::of(&[&bytes])),
            claims: judged.digest(governance),
            decision: Sha256Digest::of(&[&judged.decision.canonical_bytes()]),
            reasons: judged.codes(),
        };
        Err(Box::new(Denied { decision, inputs: Some(bytes) }))
    }

    pub(super) fn record_blocking(&self, entry: Entry) -> Result<(), Problem> {
        self.lineage.append_blocking(entry).map(drop).map_err(|error| unrecorded(&error))
    }
}
