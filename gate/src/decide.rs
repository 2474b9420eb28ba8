//! The decision: a pure function of the credential, what the gate holds, and the present moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_attestation::anchor::Assurance;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::pulse::{Class, ListDigest, Pulse};
use countersign_attestation::result::svid::{ExecutionCredential, KeyProtection, SpiffeId, TrustDomain};
use countersign_attestation::status_list::{Status, StatusList};
use countersign_attestation::x509::Certificate;
use countersign_attestation::{UnixMillis, Verified};

use crate::clock::Moment;
use crate::reason::{Denial, GateReason};

/// What an operator pinned: whose credentials this gate judges, and the roots they lead to.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Workload CA roots, DER.
    pub roots: Vec<Vec<u8>>,
    /// The weakest place for a key that is accepted.
    pub keys: KeyProtection,
}

/// A pulse with every list it names. It is made by [`HeldPulse::complete`], or with
/// some of its lists by [`HeldPulse::partial`]: what is not there denies.
#[derive(Debug)]
pub struct HeldPulse {
    pulse: Verified<Pulse>,
    lists: BTreeMap<u64, Arc<StatusList>>,
    received: Moment,
    /// Nobody is let in by it from then on: its end in the class of this gate.
    until: UnixMillis,
}

/// A pulse that waits for lists.
#[derive(Debug)]
pub struct Incomplete {
    /// The pulse.
    pub pulse: Box<Verified<Pulse>>,
    /// Numbers of the lists that are missing.
    pub missing: Vec<u64>,
}

impl HeldPulse {
    /// The pulse together with its lists, taken from `held` by digest; the numbers of the missing ones otherwise.
    ///
    /// # Errors
    /// [`Incomplete`] when lists are not in `held`.
    pub fn complete(
        pulse: Verified<Pulse>,
        received: Moment,
        class: Class,
        held: impl Fn(&Sha256Digest) -> Option<Arc<StatusList>>,
    ) -> Result<Self, Incomplete> {
        let mut lists = BTreeMap::new();
        let mut missing = Vec::new();
        for named in &pulse.lists {
            // The digest covers the bytes, and so the size; a pulse that contradicts itself is never complete.
            match held(&named.sha256).filter(|list| u64::try_from(list.size()) == Ok(named.size)) {
                Some(list) => drop(lists.insert(named.n, list)),
                None => missing.push(named.n),
            }
        }
        if missing.is_empty() {
            let until = pulse.end_for(class);
            Ok(Self { pulse, lists, received, until })
        } else {
            Err(Incomplete { pulse: Box::new(pulse), missing })
        }
    }

    /// The pulse with those of its lists that are in `held`: for who has no feed, and is shown one list at a time.
    #[must_use]
    pub fn partial(
        pulse: Verified<Pulse>,
        received: Moment,
        class: Class,
        held: impl Fn(&Sha256Digest) -> Option<Arc<StatusList>>,
    ) -> Self {
        let found = |named: &ListDigest| Some((named.n, held(&named.sha256)?));
        let lists = pulse.lists.iter().filter_map(found).collect();
        let until = pulse.end_for(class);
        Self { pulse, lists, received, until }
    }

    /// The pulse.
    #[must_use]
    pub const fn pulse(&self) -> &Verified<Pulse> {
        &self.pulse
    }

    /// The moment from which it is not believed, in the class of this gate.
    #[must_use]
    pub const fn until(&self) -> UnixMillis {
        self.until
    }

    /// When it was received.
    #[must_use]
    pub const fn received(&self) -> Moment {
        self.received
    }

    /// The moment from which the pulse is not believed, on the steady clock: what it had left for sure when it was
    /// received, and nothing by a clock that nobody kept then.
    #[must_use]
    pub fn steady_deadline_ms(&self) -> u64 {
        let left = self.received.latest().map_or(0, |latest| self.until.since(latest));
        self.received.steady_ms.saturating_add(left)
    }

    /// Whether the pulse is believed at `now`: both clocks must say so. A wall clock that was set back keeps `exp` in
    /// the future, but not the steady deadline; a machine that slept has passed both.
    ///
    /// # Errors
    /// [`GateReason::PulseExpired`], or a reason of the clock.
    pub fn check_fresh(&self, now: Moment) -> Result<(), Denial> {
        let expired = |found: String| Err(GateReason::PulseExpired.because(format!("before {}", self.until), found));
        // The clock may be late by its error: the pulse ends when it may have ended.
        if self.until <= now.latest()? {
            return expired(now.wall.to_string());
        }
        if self.steady_deadline_ms() <= now.steady_ms {
            let since = now.steady_ms.saturating_sub(self.received.steady_ms);
            return expired(format!("{} by a clock that was set back, {since} ms after receipt", now.wall));
        }
        Ok(())
    }

    /// The lists by number.
    #[must_use]
    pub const fn lists(&self) -> &BTreeMap<u64, Arc<StatusList>> {
        &self.lists
    }
}

/// What the gate holds at one moment: the newest complete pulse, or none.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The newest complete pulse. It stays after its end, so that an older one never takes its place.
    pub held: Option<Arc<HeldPulse>>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The host is trusted now.
    Allow(Allowed),
    /// It is not known to be.
    Deny(Denial),
}

/// Who is let in, by which decision, and until when at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    spiffe_id: SpiffeId,
    decision: Sha256Digest,
    assurance: Assurance,
    generation: u64,
    waivers: Vec<String>,
    until: UnixMillis,
}

impl Allowed {
    /// The host.
    #[must_use]
    pub const fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// The broker's decision behind the credential.
    #[must_use]
    pub const fn decision(&self) -> Sha256Digest {
        self.decision
    }

    /// What the weakest trust anchor is worth.
    #[must_use]
    pub const fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// The host's generation.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Ids of the signed waivers that the host would have been denied without.
    #[must_use]
    pub fn waivers(&self) -> &[String] {
        &self.waivers
    }

    /// The earlier end of pulse and credential. An open session is judged again at every pulse, and closed at this
    /// moment if none came.
    #[must_use]
    pub const fn until(&self) -> UnixMillis {
        self.until
    }
}

/// Decides about a caller that proved possession of the key in `chain` (leaf first, DER).
#[must_use]
pub fn decide(chain: &[Vec<u8>], trust: &Trust, snapshot: &Snapshot, now: Moment) -> Decision {
    match verify(chain, &[], trust, now.wall) {
        Ok(credential) => judge(&credential, snapshot, now),
        Err(denial) => Decision::Deny(denial),
    }
}

/// Checks a chain to the pinned roots: the costly part, one signature for each certificate. A leaf that comes alone, as
/// proxies hand it over, is completed with one of the `issuing` certificates.
///
/// # Errors
/// A `result.svid` denial.
pub fn verify(
    chain: &[Vec<u8>],
    issuing: &[Vec<u8>],
    trust: &Trust,
    now: UnixMillis,
) -> Result<ExecutionCredential, Denial> {
    let issuer = completing(chain, issuing);
    let chain: Vec<&[u8]> = chain.iter().chain(issuer).map(Vec::as_slice).collect();
    let credential = ExecutionCredential::verify(&chain, &trust.roots, &trust.trust_domain, now)?;
    if trust.keys < credential.key_protection() {
        return Err(GateReason::KeyInMemory.because(trust.keys, credential.key_protection()));
    }
    Ok(credential)
}

/// The certificate that a lone leaf lacks, by its name.
fn completing<'a>(chain: &[Vec<u8>], issuing: &'a [Vec<u8>]) -> Option<&'a Vec<u8>> {
    let [leaf] = chain else { return None };
    let leaf = Certificate::parse(leaf).ok()?;
    issuing.iter().find(|issuing| Certificate::parse(issuing).is_ok_and(|parsed| parsed.subject() == leaf.issuer()))
}

/// Decides about a credential whose chain was checked, now or before. Dates, pulse and status are checked every time.
#[must_use]
pub fn judge(credential: &ExecutionCredential, snapshot: &Snapshot, now: Moment) -> Decision {
    match admit(credential, snapshot, now) {
        Ok(allowed) => Decision::Allow(allowed),
        Err(denial) => Decision::Deny(denial),
    }
}

fn admit(credential: &ExecutionCredential, snapshot: &Snapshot, now: Moment) -> Result<Allowed, Denial> {
    let latest = now.latest()?;
    credential.check_valid_at(latest)?;
    let held = snapshot.held.as_ref().ok_or_else(|| GateReason::NoPulse.because("a pulse", "none since the start"))?;
    held.check_fresh(now)?;
    let number = credential.status_list();
    let list = held.lists.get(&number).ok_or_else(|| {
        let reason =
            if held.pulse.list(number).is_some() { GateReason::StapleMissing } else { GateReason::ListMissing };
        reason.because(format!("one of {} lists", held.lists.len()), format!("list {number}"))
    })?;
    match list.get(credential.status_index())? {
        Status::Valid => Ok(Allowed {
            spiffe_id: credential.spiffe_id().clone(),
            decision: credential.decision(),
            assurance: credential.assurance(),
            generation: credential.generation(),
            waivers: credential.waivers().to_vec(),
            // By this machine's clock, which may be late.
            until: UnixMillis(held.until.min(credential.valid_until()).0.saturating_sub(latest.since(now.wall))),
        }),
        Status::Invalid => Err(GateReason::Invalid.because(Status::Valid, Status::Invalid)),
        Status::Suspended => Err(GateReason::Suspended.because(Status::Valid, Status::Suspended)),
    }
}
