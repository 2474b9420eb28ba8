//! A host attests: the way of one piece of evidence, from challenge to credential.

use countersign_attestation::UnixMillis;
use countersign_attestation::claims::Claims;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::{CredentialRecord, DecisionRecord, Entry};
use countersign_attestation::lineage::tree::leaf_hash;
use countersign_attestation::protocol::{AttestationRequest, AttestationResponse, Base64Bytes, Challenge, HostId};
use countersign_attestation::result::jws::Thumbprint;
use countersign_policies::decision::Outcome;

use crate::broker::judge::{Inputs, Judgement, judge_warm};
use crate::broker::{Broker, Latest};
use crate::keys::random;
use crate::lineage::Recorded;
use crate::problem::{Problem, Refusal};
use crate::references::Governance;
use crate::trust::hosts::{Enrolled, Host};
use crate::trust::state::{HostTrust, Standing};

/// Until when a grant reaches.
#[derive(Clone, Copy, Debug)]
struct Until {
    not_after: UnixMillis,
    lease_until: UnixMillis,
}

impl Broker {
    /// A challenge for an enrolled host, with the PCR selection that the references in force need.
    ///
    /// # Errors
    /// [`Refusal::Internal`] when there is no randomness.
    pub fn challenge(&self, host: &HostId) -> Result<Challenge, Problem> {
        let made = self.challenges.make(host, self.clock.now()).map_err(|_| Refusal::Internal.plain())?;
        Ok(Challenge {
            challenge: made.token,
            nonce: Base64Bytes(made.nonce.to_vec()),
            expires_at: made.expires_at,
            pcr_selection: self.references.current().references.pcr_selection(),
            known_boot: None,
        })
    }

    /// Judges a host's evidence, records the decision, and grants or denies by it.
    ///
    /// The caller runs this to its end even when the host hangs up: a decision that is recorded also takes effect.
    ///
    /// # Errors
    /// A [`Problem`] for every way in which there is no credential.
    pub async fn attest(&self, id: &HostId, request: AttestationRequest) -> Result<AttestationResponse, Problem> {
        // 1. Redeem the challenge, once.
        let now = self.clock.now();
        let nonce = self.challenges.redeem(&request.challenge, id, now)?;

        // 2. One snapshot of the host, its trust, and what it is judged by.
        let host = self.hosts.find(id)?;
        let enrolled = host.enrolled.as_ref().ok_or_else(|| Refusal::HostNotEnrolled.plain())?;
        let trust = self.trust.host(id)?.ok_or_else(|| Refusal::HostNotEnrolled.plain())?;
        let governance = self.references.current();
        let key = Sha256Digest::of(&[&request.credential_key.0]);
        check_may_attest(&trust, key, &request.credential_key.0, now)
            .map_err(|problem| self.with_cause(problem, &trust))?;

        // 3 and 4. Verify and appraise: pure.
        let inputs = self.inputs(&host, enrolled, &trust, &governance, nonce, request, now);
        let judged = judge_warm(&inputs, &governance, Some(&self.warm));
        self.metrics.decision(&judged.codes());

        // 5. Record. 6. Grant or revoke. 7. Issue.
        match (judged.decision.outcome(), &judged.claims) {
            (Outcome::Granted { not_after, lease_until }, Some(claims)) => {
                let until = Until { not_after, lease_until };
                self.grant(&inputs, &judged, claims, &trust, &governance, until).await
            }
            (Outcome::Granted { .. } | Outcome::Denied, _) => {
                Err(self.deny(&inputs, &judged, &trust, &governance).await)
            }
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
        inputs: &Inputs,
        judged: &Judgement,
        claims: &Claims,
        trust: &HostTrust,
        governance: &Governance,
        until: Until,
    ) -> Result<AttestationResponse, Problem> {
        let key = Sha256Digest::of(&[&inputs.credential_key.0]);
        let has_key = trust.credential.as_ref().is_some_and(|live| live.key == key);
        let credential = if has_key { None } else { Some(self.credential_record(trust, key, until.not_after)?) };
        let on = trust.revision_of(inputs.host.clone());
        let unchanged = trust.claims.is_some() && trust.claims == judged.digest(governance);
        let entry = if unchanged {
            Entry::renewed(inputs.at, on, until.lease_until, credential)
        } else {
            let decision = self.decision_record(inputs, judged, governance)?;
            Entry::granted(inputs.at, on, decision, until.lease_until, credential)
        };
        // A crash after this leaves a grant that nobody holds a credential of; the host attests again.
        let recorded = self.record(entry).await?;
        let lease = self.trust.grant(&recorded)?;
        let credential =
            self.issuer.issue(&recorded, &lease, &inputs.credential_key.0, claims, inputs.at).map_err(|error| {
                tracing::error!(%error, "credential not issued");
                Refusal::Internal.plain()
            })?;
        self.remember(inputs, judged, &recorded);
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

    /// Records a denial. Verified evidence that no longer passes takes trust away; evidence that does not verify says
    /// nothing about the host, and its lease just runs on to its end.
    async fn deny(&self, inputs: &Inputs, judged: &Judgement, trust: &HostTrust, governance: &Governance) -> Problem {
        let drifted = judged.claims.is_some() && matches!(trust.standing, Standing::Trusted | Standing::Lapsed);
        let on = trust.revision_of(inputs.host.clone());
        let entry = match self.decision_record(inputs, judged, governance) {
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
        self.remember(inputs, judged, &recorded);
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
        nonce: [u8; 32],
        request: AttestationRequest,
        at: UnixMillis,
    ) -> Inputs {
        Inputs {
            at,
            host: host.id.clone(),
            trust_domain: self.config.trust_domain.clone(),
            labels: host.labels.clone(),
            generation: trust.generation,
            credential_ttl_ms: self.config.credential_ttl_ms,
            lease_ms: self.config.lease_ms,
            ak_public: enrolled.ak_public.clone(),
            ek: host.ek_sha256,
            assurance: enrolled.assurance,
            tpm: enrolled.identity.clone(),
            nonce: Base64Bytes(nonce.to_vec()),
            pcr_selection: governance.references.pcr_selection(),
            credential_key: request.credential_key,
            evidence: request.evidence,
            last_clock: self.clocks.last(&host.id),
            governance: governance.digests,
        }
    }

    fn credential_record(
        &self,
        trust: &HostTrust,
        key: Sha256Digest,
        not_after: UnixMillis,
    ) -> Result<CredentialRecord, Problem> {
        let mut serial = random::<16>().map_err(|_| Refusal::Internal.plain())?;
        // Positive, and never zero-led: one length, one spelling.
        serial[0] = serial[0] & 0x7f | 0x40;
        let status_index = match trust.status_index {
            Some(index) => index,
            None => self.trust.reserve_index()?,
        };
        Ok(CredentialRecord { serial: serial.to_vec(), key, status_index, not_after })
    }

    /// Archives the inputs, so that whoever has the entry can replay the decision.
    fn decision_record(
        &self,
        inputs: &Inputs,
        judged: &Judgement,
        governance: &Governance,
    ) -> Result<DecisionRecord, Problem> {
        let bytes = serde_json::to_vec(inputs).map_err(|_| Refusal::Internal.plain())?;
        let inputs = self.archive.put(&bytes).map_err(|error| {
            tracing::error!(%error, "inputs not archived");
            Refusal::LineageFailed.plain()
        })?;
        Ok(DecisionRecord {
            inputs: Some(inputs),
            claims: judged.digest(governance),
            decision: Sha256Digest::of(&[&judged.decision.canonical_bytes()]),
            reasons: judged.codes(),
        })
    }

    fn remember(&self, inputs: &Inputs, judged: &Judgement, recorded: &Recorded) {
        if let Some(claims) = &judged.claims {
            self.clocks.saw(&inputs.host, claims.tpm.clock);
        }
        let latest = Latest {
            claims: judged.claims.clone(),
            findings: judged.decision.findings().to_vec(),
            decision: recorded.leaf_hash(),
            log_index: recorded.index(),
        };
        // Poisoned: operators see no newest claims; no decision reads them.
        if let Ok(mut all) = self.latest.lock() {
            all.insert(inputs.host.clone(), latest);
        }
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
