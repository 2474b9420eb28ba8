//! The workload authority renews itself: issuing keys are made before they are needed, and what is amiss is said.

use std::sync::Weak;
use std::time::Duration;

use countersign_attestation::UnixMillis;

use crate::broker::Broker;
use crate::keys::KeyError;
use crate::problem::{Problem, Refusal};

/// How soon a file that an operator puts there is taken up, and a clock that jumped is followed.
const WATCH_EVERY: Duration = Duration::from_secs(1);

impl Broker {
    /// Makes what is due, and takes up what operators put there.
    pub fn renew_authority(&self) {
        let now = self.clock.now();
        // Each for itself: one that fails does not hold up the other.
        let (issuing, token) = (self.keys.workload.tick(now), self.keys.token.tick(now));
        let failed = match issuing.and(token) {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(%error, "no new key; what signs now goes on until its end");
                Some(error.to_string())
            }
        };
        // Poisoned: the last thing that was said stands.
        if let Ok(mut last) = self.authority_fault.lock() {
            *last = failed;
        }
    }

    /// What an operator should know of the authority, if anything.
    pub fn authority_warnings(&self) -> Vec<String> {
        let now = self.clock.now();
        let workload = &self.keys.workload;
        let fault = self.authority_fault.lock().ok().and_then(|fault| fault.clone());
        let fault = fault.map_or_else(String::new, |fault| format!(": {fault}"));
        match workload.ends(now) {
            None => vec![format!("{}: nothing is issued until there is one{fault}", Refusal::NoIssuing.code())],
            Some(end) if workload.is_due(now) => {
                vec![format!("the issuing certificate ends {end} and the next one is due{fault}")]
            }
            Some(_) if !fault.is_empty() => vec![format!("the workload authority does not renew itself{fault}")],
            Some(_) => Vec::new(),
        }
    }

    /// The end of a credential that may be issued now: what was decided, or the issuing certificate's end before that.
    ///
    /// # Errors
    /// [`Refusal::NoIssuing`]. Asked before a grant is recorded, so that none is that cannot be issued.
    pub(super) fn issuable_until(&self, until: UnixMillis, now: UnixMillis) -> Result<UnixMillis, Problem> {
        let active = self.keys.workload.active(now).map_err(|error| refusal(&error))?;
        Ok(until.min(active.not_after()))
    }
}

/// What a host is told when its credential cannot be signed.
pub(super) fn refusal(error: &KeyError) -> Problem {
    tracing::error!(%error, "credential not issued");
    match error {
        KeyError::NoIssuing { .. } => Refusal::NoIssuing.plain(),
        KeyError::Away { .. } => Refusal::KeyAway.plain(),
        KeyError::Outlives { end, issuer } => Refusal::Outlives.because(format!("an end up to {issuer}"), end),
        KeyError::Outside { found } => Refusal::OutsideName.because("a name of the trust domain", found),
        KeyError::File(_) | KeyError::Unusable { .. } => Refusal::Internal.plain(),
    }
}

/// Renews for as long as the broker lives.
pub(super) async fn watch(broker: Weak<Broker>) {
    loop {
        crate::clock::sleep(WATCH_EVERY).await;
        let Some(broker) = broker.upgrade() else { return };
        // Files, and later a signature of a key that may be slow.
        let renewed = tokio::task::spawn_blocking(move || broker.renew_authority());
        if let Err(error) = renewed.await {
            tracing::error!(%error, "the workload authority was not looked after");
        }
    }
}
