//! What expires when, and whom it would take down: every host is judged again, as it will be judged then if nothing
//! newer comes.

use std::collections::BTreeMap;

use countersign_attestation::UnixMillis;
use countersign_attestation::protocol::HostId;
use countersign_policies::finding::Finding;
use serde::Serialize;

use crate::broker::Broker;
use crate::broker::collateral::ItemView;
use crate::broker::judge::{Inputs, judge};
use crate::problem::Problem;
use crate::references::Governance;
use crate::trust::state::HostTrust;

/// Hosts named for each cause; the count says how many there are.
const NAMED_MAX: usize = 20;

/// What will happen if nothing newer comes.
#[derive(Clone, Debug, Serialize)]
pub struct Forecast {
    /// What expires, soonest first.
    pub items: Vec<ItemView>,
    /// Who falls, soonest first.
    pub losses: Vec<Loss>,
    /// Trusted or lapsed hosts that rest on nothing that expires.
    pub lasting_hosts: u64,
}

/// Hosts that lose trust at one moment for one cause.
#[derive(Clone, Debug, Serialize)]
pub struct Loss {
    /// When.
    pub at: UnixMillis,
    /// Why.
    pub finding: Finding,
    /// How many.
    pub count: u64,
    /// Some of them.
    pub hosts: Vec<HostId>,
}

impl Broker {
    /// What expires up to `until`, and which hosts it would take down.
    ///
    /// # Errors
    /// When trust cannot be read.
    pub fn forecast(&self, until: UnixMillis) -> Result<Forecast, Problem> {
        let (now, governance) = (self.clock.now(), self.references.current());
        let mut items = self.collateral_items(now);
        items.retain(|item| item.ends <= until);
        items.sort_by_key(|item| item.ends);
        let mut losses: BTreeMap<(UnixMillis, &'static str, String), Loss> = BTreeMap::new();
        let mut lasting_hosts: u64 = 0;
        for proven in self.trust.proven()? {
            let (id, trust) = proven?;
            let Some((at, finding)) = self.falls(&trust, &governance, now) else {
                lasting_hosts = lasting_hosts.saturating_add(1);
                continue;
            };
            if until < at {
                continue;
            }
            let key = (at, finding.code, finding.expected.clone());
            let loss = losses.entry(key).or_insert_with(|| Loss { at, finding, count: 0, hosts: Vec::new() });
            loss.count = loss.count.saturating_add(1);
            if loss.hosts.len() < NAMED_MAX {
                loss.hosts.push(id);
            }
        }
        Ok(Forecast { items, losses: losses.into_values().collect(), lasting_hosts })
    }

    /// When the host falls, and why; `None` when it rests on nothing that ends.
    fn falls(&self, trust: &HostTrust, governance: &Governance, now: UnixMillis) -> Option<(UnixMillis, Finding)> {
        let inputs = self.archive.get(trust.inputs?).ok()?;
        let inputs: Inputs = serde_json::from_slice(&inputs).ok()?;
        let at = |at: UnixMillis| {
            judge(&Inputs { at, governance: governance.digests, ..inputs.clone() }, governance, &self.archive)
        };
        let today = at(now);
        if let Some(finding) = today.decision.findings().first() {
            return Some((now, finding.clone()));
        }
        let end = today.claims?.valid_until()?;
        let then = at(end.plus(1));
        then.decision.findings().first().map(|finding| (end, finding.clone()))
    }
}
