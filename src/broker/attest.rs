//! A host attests: the way of one piece of evidence, from challenge to credential.

use std::sync::Arc;

use countersign_attestation::UnixMillis;
use countersign_attestation::binder::{ChannelBinding, Nonce};
use countersign_attestation::claims::Claims;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::{CredentialRecord, DecisionRecord, Entry, WorkloadRecord};
use countersign_attestation::lineage::tree::leaf_hash;
use countersign_attestation::protocol::{AttestationRequest, AttestationResponse, Base64Bytes, Challenge, HostId};
use countersign_attestation::result::jws::Thumbprint;
use countersign_attestation::result::jwt_svid::{AUDIENCE_BYTES_MAX, AUDIENCES_MAX, JwtSvid};
use countersign_attestation::workload_key;
use countersign_policies::decision::Outcome;

use crate::broker::judge::{Inputs, Judgement, LogsVerdict, judge, judge_warm};
use crate::broker::known::{Fresh, Known, joined};
use crate::broker::{Broker, Latest, authority, instances};
use crate::config::WorkloadKeys;
use crate::credentials::execution::{Proven, Wanted};
use crate::keys::random;
use crate::lineage::Recorded;
use crate::problem::{Problem, Refusal};
use crate::references::Governance;
use crate::trust::hosts::{Enrolled, Host};
use crate::trust::state::{HostTrust, Standing};

/// An event log of a server fits, and so do the IMA entries of an hour.
const LONG_LOGS_BYTES: usize = 64 * 1024;

/// Until when a grant reaches.
#[derive(Clone, Copy, Debug)]
struct Until {
    not_after: UnixMillis,
    lease_until: UnixMillis,
}

/// One attestation: what is judged, and what it is judged on.
#[derive(Clone, Copy)]
struct Case<'a> {
    inputs: &'a Inputs,
    fresh: &'a Fresh<'a>,
    trust: &'a HostTrust,
    governance: &'a Governance,
    /// Whom JWT-SVIDs are wanted for: nothing that a decision depends on.
    audiences: &'a [String],
    /// The workload's key that is certified with the credential key, likewise.
    workload_key: Option<&'a [u8]>,
}

impl<'a> Case<'a> {
    /// Logs that a decision rests on. Long ones that explain nothing are not kept: any host could fill the disk with
    /// them. Replay then says that they are not there.
    fn logs_to_keep(&self, judged: &Judgement) -> impl Iterator<Item = &'a [u8]> {
        let rest_on = judged.claims.is_some() && judged.logs == LogsVerdict::Explained;
        let ima = self.inputs.ima.map_or(0, |ima| usize::try_from(ima.list.bytes).unwrap_or(usize::MAX));
        self.fresh.logs(ima).filter(move |log| rest_on || log.len() <= LONG_LOGS_BYTES)
    }
}

impl Broker {
    /// A challenge for an enrolled host, with the PCR selection that the references in force need.
    ///
    /// # Errors
    /// [`Refusal::Internal`] when there is no randomness.
    pub fn challenge(&self, host: &HostId) -> Result<Challenge, Problem> {
        Refusal::check_clock(self.clock.error())?;
        let made = self.challenges.make(host, self.clock.now()).map_err(|_| Refusal::Internal.plain())?;
        // What cannot be restored is asked for again; the attestation then says what is wrong.
        let trust = self.trust.host(host)?.filter(|_| !self.boots.wants_everything(host));
        let references = &self.references.current().references;
        let known = trust.and_then(|trust| self.known(host, &trust).ok().flatten());
        // A boot without a log is not known well enough where a log may be needed.
        let known =
            known.filter(|known| known.event_log.is_some() || (known.ima.is_some() && !references.names_boot()));
        Ok(Challenge {
            challenge: made.token,
            nonce: Base64Bytes(made.nonce.to_vec()),
            expires_at: made.expires_at,
            pcr_selection: references.pcr_selection().to_vec(),
            known_boot: known.as_ref().map(Known::to_challenge),
        })
    }

    /// Judges a host's evidence, records the decision, and grants or denies by it.
    ///
    /// `channel` is the connection that the request came on, by this end's own reckoning. The caller runs this to its
    /// end even when the host hangs up: a decision that is recorded also takes effect.
    ///
    /// # Errors
    /// A [`Problem`] for every way in which there is no credential.
    pub async fn attest(
        &self,
        id: &HostId,
        channel: ChannelBinding,
        mut request: AttestationRequest,
    ) -> Result<AttestationResponse, Problem> {
        // 1. Redeem the challenge, once. Logs that are none are no evidence to judge.
        Refusal::check_clock(self.clock.error())?;
        let now = self.clock.now();
        let nonce = self.challenges.redeem(&request.challenge, id, now)?;
        let logs = request.evidence.take_logs()?;
        let audiences = std::mem::take(&mut request.audiences);
        check_audiences(&audiences)?;
        let workload_key = request.workload_key.take().filter(|_| self.config.workload_keys == WorkloadKeys::Issue);
        if let Some(offered) = &workload_key {
            workload_key::verify(offered, &request.credential_key.0, &nonce)?;
        }
        let workload_key = workload_key.map(|offered| offered.key.0);

        // 2. One snapshot of the host, its trust, and what it is judged by.
        let host = self.hosts.find(id)?;
        let enrolled = host.enrolled.as_ref().ok_or_else(|| Refusal::HostNotEnrolled.plain())?;
        let trust = self.trust.host(id)?.ok_or_else(|| Refusal::HostNotEnrolled.plain())?;
        let governance = self.references.current();
        let key = Sha256Digest::of(&[&request.credential_key.0]);
        check_may_attest(&trust, key, &request.credential_key.0, now)
            .map_err(|problem| self.with_cause(problem, &trust))?;
        check_new(&trust, workload_key.as_deref())?;

        let fresh = Fresh::new(&self.archive, &logs);
        let mut inputs = self.inputs(&host, enrolled, &trust, &governance, (nonce, channel), request, now)?;
        (inputs.event_log, inputs.ima, inputs.ccel) = (fresh.event_log(), fresh.ima(), fresh.ccel());

        // 3 and 4. Verify and appraise: pure. Long logs take milliseconds, off the threads that answer others.
        let judge = || judge_warm(&inputs, &governance, &fresh, Some(&self.warm));
        let judged = if LONG_LOGS_BYTES < fresh.bytes() { tokio::task::block_in_place(judge) } else { judge() };
        self.metrics.decision(&judged.codes());
        if judged.claims.is_some() && judged.logs == LogsVerdict::Explained {
            // Of a list that went on after the quote, only what the quote covers is kept.
            inputs.ima = judged.attested;
        }

        // 5. Record. 6. Grant or revoke. 7. Issue.
        let case = Case {
            inputs: &inputs,
            fresh: &fresh,
            trust: &trust,
            governance: &governance,
            audiences: &audiences,
            workload_key: workload_key.as_deref(),
        };
        match (judged.decision.outcome(), &judged.claims) {
            (Outcome::Granted { not_after, lease_until }, Some(claims)) => {
                let until = Until { not_after, lease_until };
                self.grant(&case, &judged, claims, until).await
            }
            (Outcome::Granted { .. } | Outcome::Denied, _) => Err(self.deny(&case, &judged).await),
        }
    }

    /// A revoked host is told of the decision that took its trust, so that its agent knows it is no passing refusal.
    fn with_cause(&self, mut problem: Problem, trust: &HostTrust) -> Problem {
        if trust.standing == Standing::Revoked {
            let entry = self.lineage.read(trust.since).ok().flatten();
            problem.0.decision = entry.map(|bytes| leaf_hash(&bytes));
        }
        problem
    }

    async fn grant(
        &self,
        case: &Case<'_>,
        judged: &Judgement,
        claims: &Claims,
        until: Until,
    ) -> Result<AttestationResponse, Problem> {
        let Case { inputs, trust, governance, audiences, workload_key, .. } = *case;
        let instances = instances::of(claims);
        let claimed = self.trust.standings(|standings| {
            self.instances.claim(&instances, &inputs.host, until.lease_until, inputs.at, standings)
        })?;
        if let Err(other) = claimed {
            return Err(self.revoke_clones(&inputs.host, &other).await);
        }
        let key = Sha256Digest::of(&[&inputs.credential_key.0]);
        let ttl_ms = self.config.credential_ttl_ms;
        let has_key = trust.credential.as_ref().is_some_and(|live| live.serves(key, inputs.at, ttl_ms));
        let credential = if has_key {
            None
        } else {
            Some(self.credential_record(case, key, self.issuable_until(until.not_after, inputs.at)?)?)
        };
        let on = trust.revision_of(inputs.host.clone());
        // Other logs that say the same are kept all the same: what follows rests on them.
        let unchanged =
            trust.claims.is_some() && trust.claims == judged.digest(governance) && judged.known == inputs.known;
        let entry = if unchanged {
            Entry::renewed(inputs.at, on, until.lease_until, credential)
        } else {
            let decision = self.decision_record(case, judged)?;
            Entry::granted(inputs.at, on, decision, until.lease_until, credential)
        };
        // A crash after this leaves a grant that nobody holds a credential of; the host attests again.
        let recorded = self.record(entry).await?;
        let lease = self.trust.grant(&recorded)?;
        self.stand(case, judged, &recorded)?;
        let proven = Proven { claims, waivers: judged.waivers() };
        let wanted = Wanted { spki: &inputs.credential_key.0, workload_key, audiences };
        let issued = self.issuer.issue(&recorded, &lease, wanted, proven, inputs.at);
        let credential = issued.map_err(|error| authority::refusal(&error))?;
        self.remember(case, judged, &recorded);
        // The status list says VALID from the next pulse on; a gate that learns of it now accepts at once.
        if credential.is_some() || trust.standing != Standing::Trusted {
            self.pulse.wake();
        }
        Ok(AttestationResponse {
            decision: recorded.leaf_hash(),
            log_index: recorded.index(),
            lease_until: lease.until(),
            attest_again_in_ms: self.config.attest_interval_ms,
            credential,
        })
    }

    /// Keeps what a recorded grant stands on. Where something else came into force meanwhile, whoever changed it may
    /// not have seen this grant: the host is judged by that as well.
    fn stand(&self, case: &Case<'_>, judged: &Judgement, recorded: &Recorded) -> Result<(), Problem> {
        let Case { inputs, governance, .. } = *case;
        let Some(grant) = judged.decision.grant() else { return Ok(()) };
        let still = || self.references.current().digests == governance.digests;
        if self.trust.stands_on(&inputs.host, recorded.index(), grant.into(), still)? {
            return Ok(());
        }
        let revoked = tokio::task::block_in_place(|| self.reappraise_hosts(std::slice::from_ref(&inputs.host)))?;
        if revoked == 0 { Ok(()) } else { Err(Refusal::Superseded.plain()) }
    }

    /// Records a denial. Verified evidence that no longer passes takes trust away; evidence that does not verify says
    /// nothing about the host, and its lease just runs on to its end.
    async fn deny(&self, case: &Case<'_>, judged: &Judgement) -> Problem {
        let Case { inputs, trust, .. } = case;
        let drifted = judged.claims.is_some() && matches!(trust.standing, Standing::Trusted | Standing::Lapsed);
        let on = trust.revision_of(inputs.host.clone());
        let entry = match self.decision_record(case, judged) {
            Ok(decision) if drifted => Entry::revoked_by_decision(inputs.at, on, decision),
            Ok(decision) => Entry::denied(inputs.at, on, decision),
            Err(problem) => return problem,
        };
        let recorded = match self.record(entry).await {
            Ok(recorded) => recorded,
            Err(problem) => return problem,
        };
        if drifted {
            self.pulse.wake();
            tracing::warn!(host = %inputs.host, reasons = ?judged.codes(), "revoked");
        }
        self.remember(case, judged, &recorded);
        match judged.decision.findings().first() {
            Some(finding) => Problem::denied_to_host(finding, recorded.leaf_hash()),
            // A denial without a reason does not exist; were there one, it is still a denial.
            None => Refusal::Internal.plain(),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is one of the decision's inputs, named once here")]
    fn inputs(
        &self,
        host: &Host,
        enrolled: &Enrolled,
        trust: &HostTrust,
        governance: &Governance,
        (nonce, channel): (Nonce, ChannelBinding),
        request: AttestationRequest,
        at: UnixMillis,
    ) -> Result<Inputs, Problem> {
        Ok(Inputs {
            at,
            host: host.id.clone(),
            trust_domain: self.config.trust_domain.clone(),
            labels: host.labels.clone(),
            generation: trust.generation,
            credential_ttl_ms: self.config.credential_ttl_ms,
            lease_ms: self.config.lease_ms,
            ak_public: enrolled.ak_public.clone(),
            endorsement: enrolled.path,
            ek: host.ek_sha256,
            assurance: enrolled.assurance,
            tpm: enrolled.identity.clone(),
            nonce: Base64Bytes(nonce.to_vec()),
            channel,
            pcr_selection: governance.references.pcr_selection().to_vec(),
            credential_key: request.credential_key,
            evidence: request.evidence,
            event_log: None,
            ima: None,
            ccel: None,
            last_clock: trust.clock,
            known: self.known(&host.id, trust)?,
            governance: governance.digests,
        })
    }

    fn credential_record(
        &self,
        case: &Case<'_>,
        key: Sha256Digest,
        not_after: UnixMillis,
    ) -> Result<CredentialRecord, Problem> {
        let workload = match case.workload_key {
            Some(spki) => Some(WorkloadRecord { serial: new_serial()?, key: Sha256Digest::of(&[spki]) }),
            None => None,
        };
        let status_index = match case.trust.status_index {
            Some(index) => index,
            None => self.trust.reserve_index()?,
        };
        Ok(CredentialRecord { serial: new_serial()?, key, status_index, not_after, workload })
    }

    /// Archives the inputs, so that whoever has the entry can replay the decision.
    fn decision_record(&self, case: &Case<'_>, judged: &Judgement) -> Result<DecisionRecord, Problem> {
        let failed = |error: &dyn std::fmt::Display| {
            tracing::error!(%error, "inputs not archived");
            Refusal::LineageFailed.plain()
        };
        // Logs before the inputs that name them: a crash in between leaves logs that nobody names.
        for log in case.logs_to_keep(judged) {
            self.archive.put(log).map_err(|error| failed(&error))?;
        }
        let bytes = serde_json::to_vec(case.inputs).map_err(|_| Refusal::Internal.plain())?;
        let inputs = self.archive.put(&bytes).map_err(|error| failed(&error))?;
        Ok(DecisionRecord {
            inputs: Some(inputs),
            claims: judged.digest(case.governance),
            decision: Sha256Digest::of(&[&judged.decision.canonical_bytes()]),
            reasons: judged.codes(),
        })
    }

    /// What is known of the boot that the host's last verified quote was of: of this process, or else what the inputs
    /// of that decision come to.
    ///
    /// # Errors
    /// [`Refusal::LineageFailed`] when they are not in the archive: a host that was seen is not a new one.
    fn known(&self, host: &HostId, trust: &HostTrust) -> Result<Option<Known>, Problem> {
        if let Some(known) = self.boots.known(host, trust.generation) {
            return Ok(Some(Known::clone(&known)));
        }
        let Some(seen) = trust.seen else { return Ok(None) };
        let known = self.restore(seen).map_err(|error| {
            tracing::error!(%host, %error, "the host's last attestation cannot be restored");
            Refusal::LineageFailed.plain()
        })?;
        if let Some(known) = &known {
            self.boots.saw(host, trust.generation, Arc::new(known.clone()));
        }
        Ok(known)
    }

    fn restore(&self, seen: Sha256Digest) -> Result<Option<Known>, Box<dyn std::error::Error + Send + Sync>> {
        let inputs: Inputs = serde_json::from_slice(&self.archive.get(seen)?)?;
        let current = self.references.current();
        let judged = if inputs.governance == current.digests {
            judge(&inputs, &current, &self.archive)
        } else {
            judge(&inputs, &Governance::from_archive(&self.archive, inputs.governance)?, &self.archive)
        };
        if judged.claims.is_none() {
            return Err(format!("inputs {seen} no longer verify: {}", judged.codes().join(", ")).into());
        }
        Ok(judged.known)
    }

    fn remember(&self, case: &Case<'_>, judged: &Judgement, recorded: &Recorded) {
        let Case { inputs, trust, .. } = case;
        match judged.logs {
            LogsVerdict::Explained => {}
            LogsVerdict::Unexplained => self.boots.distrust(&inputs.host),
        }
        if let Some(claims) = &judged.claims {
            // A poisoned state has stopped the log; nothing was recorded then.
            let _kept = self.trust.saw(&inputs.host, claims.tpm.clock);
            if let Some(known) = &judged.known {
                let known = joined(known.clone(), &self.archive);
                self.boots.saw(&inputs.host, trust.generation, Arc::new(known));
            }
        }
        let latest = Latest {
            claims: judged.claims.clone(),
            findings: judged.decision.findings().to_vec(),
            waivers: judged.waivers().to_vec(),
            decision: recorded.leaf_hash(),
            log_index: recorded.index(),
        };
        // Poisoned: operators see no newest claims; no decision reads them.
        if let Ok(mut all) = self.latest.lock() {
            all.insert(inputs.host.clone(), latest);
        }
    }
}

/// A new serial number: positive, and never zero-led: one length, one spelling.
fn new_serial() -> Result<Vec<u8>, Problem> {
    let mut serial = random::<16>().map_err(|_| Refusal::Internal.plain())?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial.to_vec())
}

/// Workloads' keys are rotated as credential keys are.
fn check_new(trust: &HostTrust, workload_key: Option<&[u8]>) -> Result<(), Problem> {
    let Some(key) = workload_key.map(|spki| Sha256Digest::of(&[spki])) else { return Ok(()) };
    let live = trust.credential.as_ref().is_some_and(|live| live.key == key || live.workload == Some(key));
    if live || trust.retired_keys.contains(&key) { Err(Refusal::KeyReused.plain()) } else { Ok(()) }
}

/// Tokens are for services that are named, each by itself.
fn check_audiences(audiences: &[String]) -> Result<(), Problem> {
    let expected = || format!("at most {AUDIENCES_MAX} audiences of 1 to {AUDIENCE_BYTES_MAX} printable characters");
    if AUDIENCES_MAX < audiences.len() {
        return Err(Refusal::Audience.because(expected(), audiences.len()));
    }
    match audiences.iter().find(|audience| !JwtSvid::is_audience(audience)) {
        Some(audience) => Err(Refusal::Audience.because(expected(), audience.escape_debug())),
        None => Ok(()),
    }
}

/// Whether the host may be judged at all, and with this key.
fn check_may_attest(trust: &HostTrust, key: Sha256Digest, spki: &[u8], now: UnixMillis) -> Result<(), Problem> {
    if trust.standing == Standing::Revoked {
        return Err(Refusal::HostRevoked.because("a trusted host", trust.reasons.join(", ")));
    }
    if !trust.can_be_granted() {
        return Err(Refusal::HostNotEnrolled.plain());
    }
    if Thumbprint::of_spki(spki).is_none() {
        return Err(Refusal::KeyUnusable.plain());
    }
    let outlived = trust.credential.as_ref().is_some_and(|live| live.key == key && live.not_after <= now);
    if outlived || trust.retired_keys.contains(&key) {
        return Err(Refusal::KeyReused.plain());
    }
    Ok(())
}
