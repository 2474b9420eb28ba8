//! What if: the whole fleet judged under a change that nobody has made yet, from the archive. Nobody is asked, nothing
//! is recorded, nobody loses or gains anything.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::TryLockError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::HostId;
use countersign_policies::finding::Finding;
use serde::Serialize;

use crate::broker::Broker;
use crate::broker::judge::{Inputs, judge_warm};
use crate::broker::warm::Warm;
use crate::problem::{Problem, Refusal};
use crate::references::{Governance, Proposal, Proposed};
use crate::trust::grounds::Touches;
use crate::trust::state::HostTrust;

/// Hosts named for each cause; the count says how many there are.
const NAMED_MAX: usize = 20;
/// Hosts between two reports of progress.
const REPORT_EVERY: u64 = 1_000;

/// What a change would do to the fleet.
#[derive(Clone, Debug, Serialize)]
pub struct Preview {
    /// Names the change; committing it asks for this.
    pub change: Sha256Digest,
    /// When hosts were judged.
    pub at: UnixMillis,
    /// Trusted or lapsed hosts that the change would take down, by cause, the most first.
    pub losses: Vec<Group>,
    /// Hosts that are not trusted and would pass, by what they fail on now. A revoked one is re-admitted first.
    pub gains: Vec<Group>,
    /// Trusted or lapsed hosts that fail as things are, with the change or without. Of a manifest that is retired:
    /// those that stand on it.
    pub failing: u64,
    /// Hosts that stay as they are.
    pub unaffected: u64,
}

/// Hosts that one thing decides.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// The thing.
    pub finding: Finding,
    /// How many.
    pub count: u64,
    /// Some of them, in the order of their ids.
    pub hosts: Vec<HostId>,
}

/// What became of one host.
enum Effect {
    Loses(Finding),
    Gains(Finding),
    Fails,
    Stays,
}

/// Effects, counted. Two tallies of two parts of a fleet make one.
#[derive(Default)]
struct Tally {
    losses: BTreeMap<(&'static str, String), Group>,
    gains: BTreeMap<(&'static str, String), Group>,
    failing: u64,
    unaffected: u64,
}

impl Broker {
    /// Judges every host that ever proved itself under `proposal` as well. `progress` is told how many of how many are
    /// done, from several threads.
    ///
    /// # Errors
    /// Why the proposal is not acceptable; [`Refusal::Busy`] while another is judged; [`Refusal::Internal`] when trust
    /// cannot be read.
    pub fn what_if(&self, proposal: Proposal, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Preview, Problem> {
        let now = self.clock.now();
        // Nobody loses by less who does not stand on it. Whom less would help is not asked.
        let touched = match &proposal {
            Proposal::WithdrawReference(id) => Some(id.clone()),
            Proposal::RegisterReference(_) | Proposal::ActivatePolicies(_) | Proposal::ImportCollateral(_) => None,
        };
        let proposed = self.references.propose(proposal, now)?;
        let hosts = match &touched {
            Some(manifest) => self.trust.standings(|standings| standings.touched(Touches::Manifest(manifest)))?,
            None => self.trust.ids()?,
        };
        let others = self.trust.standings(|standings| standings.rows().count())?.saturating_sub(hosts.len());
        let _one = match self.previewing.try_lock() {
            Ok(one) => one,
            // It guards nothing but the processors.
            Err(TryLockError::Poisoned(one)) => one.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Refusal::Busy.plain()),
        };
        let (done, total) = (AtomicU64::new(0), hosts.len() as u64);
        progress(0, total);
        let warm = (Warm::default(), Warm::default());
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let part = |hosts: &[HostId]| -> Result<Tally, Problem> {
            let mut tally = Tally::default();
            for id in hosts {
                if let Some(trust) = self.trust.host(id)? {
                    tally.add(id, self.effect(&trust, &proposed, (&warm.0, &warm.1), now));
                }
                let done = done.fetch_add(1, Ordering::Relaxed).saturating_add(1);
                if done % REPORT_EVERY == 0 {
                    progress(done, total);
                }
            }
            Ok(tally)
        };
        let tallies: Vec<Result<Tally, Problem>> = thread::scope(|scope| {
            let parts = hosts.chunks(hosts.len().div_ceil(threads).max(1));
            let judging: Vec<_> = parts.map(|hosts| scope.spawn(move || part(hosts))).collect();
            let joined = judging.into_iter().map(|thread| thread.join());
            joined.map(|tally| tally.unwrap_or_else(|_| Err(Refusal::Internal.plain()))).collect()
        });
        progress(total, total);
        let mut whole = Tally { unaffected: others as u64, ..Tally::default() };
        for tally in tallies {
            whole.join(tally?);
        }
        Ok(whole.preview(proposed.digest(), now))
    }

    fn effect(&self, trust: &HostTrust, proposed: &Proposed, warm: (&Warm, &Warm), now: UnixMillis) -> Effect {
        let proven = trust.standing.is_proven();
        let named = if proven { trust.inputs } else { trust.seen };
        let Some(inputs) = named else { return Effect::Stays };
        let inputs = self.archive.get(inputs).ok().and_then(|bytes| serde_json::from_slice::<Inputs>(&bytes).ok());
        // What is not there cannot be judged, now or then.
        let Some(inputs) = inputs else { return if proven { Effect::Fails } else { Effect::Stays } };
        let fails_on = |governance: &Governance, warm: &Warm| {
            let inputs = Inputs { at: now, governance: governance.digests, ..inputs.clone() };
            let judged = judge_warm(&inputs, governance, &self.archive, Some(warm));
            judged.decision.findings().first().cloned()
        };
        let then = fails_on(&proposed.after, warm.1);
        match (proven, then) {
            (true, None) => Effect::Stays,
            (true, Some(finding)) => match fails_on(&proposed.before, warm.0) {
                None => Effect::Loses(finding),
                Some(_) => Effect::Fails,
            },
            (false, Some(_)) => Effect::Stays,
            (false, None) => fails_on(&proposed.before, warm.0).map_or(Effect::Stays, Effect::Gains),
        }
    }
}

impl Tally {
    fn add(&mut self, id: &HostId, effect: Effect) {
        let (groups, finding) = match effect {
            Effect::Loses(finding) => (&mut self.losses, finding),
            Effect::Gains(finding) => (&mut self.gains, finding),
            Effect::Fails => return self.failing = self.failing.saturating_add(1),
            Effect::Stays => return self.unaffected = self.unaffected.saturating_add(1),
        };
        put(groups, Group { finding, count: 1, hosts: vec![id.clone()] });
    }

    fn join(&mut self, other: Self) {
        other.losses.into_values().for_each(|group| put(&mut self.losses, group));
        other.gains.into_values().for_each(|group| put(&mut self.gains, group));
        self.failing = self.failing.saturating_add(other.failing);
        self.unaffected = self.unaffected.saturating_add(other.unaffected);
    }

    fn preview(self, change: Sha256Digest, at: UnixMillis) -> Preview {
        let sorted = |groups: BTreeMap<_, Group>| {
            let mut groups: Vec<Group> = groups.into_values().collect();
            groups.sort_by_key(|group| std::cmp::Reverse(group.count));
            groups
        };
        let Self { losses, gains, failing, unaffected } = self;
        Preview { change, at, losses: sorted(losses), gains: sorted(gains), failing, unaffected }
    }
}

/// Parts come in the order of their hosts' ids, so the first ones named are the first there are.
fn put(groups: &mut BTreeMap<(&'static str, String), Group>, group: Group) {
    let key = (group.finding.code, group.finding.expected.clone());
    match groups.get_mut(&key) {
        None => drop(groups.insert(key, group)),
        Some(known) => {
            known.count = known.count.saturating_add(group.count);
            known.hosts.extend(group.hosts);
            known.hosts.truncate(NAMED_MAX);
        }
    }
}
