//! The judgement: verification and appraisal as one pure function of archived inputs. Live decisions, replay and
//! re-appraisal all run it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_attestation::anchor::Assurance;
use countersign_attestation::binder::{Binder, Role};
use countersign_attestation::claims::{Claims, ClockInfo, TpmIdentity};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::bundle::{Bundle, BundleReason, Collection};
use countersign_attestation::evidence::{self, Endorsements};
use countersign_attestation::protocol::{Base64Bytes, HostId, PcrSelection};
use countersign_attestation::{Rejection, UnixMillis};
use countersign_policies::decision::{Decision, HostFacts, Terms, appraise, claims_digest};
use serde::{Deserialize, Serialize};

use crate::broker::warm::{self, Warm};
use crate::references::{Digests, Governance};
use crate::trust::hosts::unknown_tpm;

/// Everything a decision about a host's evidence depends on. What it names by digest is in the archive too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// The moment the decision was made at.
    pub at: UnixMillis,
    /// The host.
    pub host: HostId,
    /// The trust domain that would issue the credential.
    pub trust_domain: String,
    /// Facts an operator states about the host.
    pub labels: BTreeMap<String, String>,
    /// The host's generation.
    pub generation: u64,
    /// Longest life of a credential.
    pub credential_ttl_ms: u64,
    /// Longest time between successful appraisals.
    pub lease_ms: u64,
    /// The enrolled AK, TPMT_PUBLIC.
    pub ak_public: Base64Bytes,
    /// SHA-256 of the enrolled EK's `SubjectPublicKeyInfo`.
    pub ek: Sha256Digest,
    /// What the EK certificate's anchor is worth.
    pub assurance: Assurance,
    /// What the EK certificate says the TPM is.
    #[serde(default = "unknown_tpm")]
    pub tpm: TpmIdentity,
    /// The challenge's nonce.
    pub nonce: Base64Bytes,
    /// The PCR selection that was asked for.
    pub pcr_selection: Vec<PcrSelection>,
    /// The credential key, `SubjectPublicKeyInfo`.
    pub credential_key: Base64Bytes,
    /// The bundle as it was sent.
    pub evidence: Collection,
    /// The TPM's clock in the host's last verified quote, if there was one.
    pub last_clock: Option<ClockInfo>,
    /// References, policy and collateral in force.
    pub governance: Digests,
}

/// The TPM clock of each host's newest verified quote: clock, resetCount and restartCount never go back (TPM 2.0
/// Part 1, 36). Kept in memory; a quote from before a broker's restart is already refused by its nonce.
#[derive(Debug, Default)]
pub struct Clocks(Mutex<BTreeMap<HostId, ClockInfo>>);

impl Clocks {
    /// The clock of the host's newest verified quote.
    #[must_use]
    pub fn last(&self, host: &HostId) -> Option<ClockInfo> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied()
    }

    /// Keeps the clock of a verified quote, unless a newer one was seen.
    pub fn saw(&self, host: &HostId, clock: ClockInfo) {
        let mut clocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let older = clocks.get(host).is_some_and(|last| clock.check_follows(last).is_err());
        if !older {
            clocks.insert(host.clone(), clock);
        }
    }

    /// Forgets a removed host.
    pub fn forget(&self, host: &HostId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }
}

/// A decision, and the claims it was made on.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The claims, where every signature, chain and binding held.
    pub claims: Option<Arc<Claims>>,
    /// Granted or denied, with its reasons.
    pub decision: Decision,
}

impl Judgement {
    /// Digest of what was appraised and what it was appraised against, without the moment: equal for a renewal that
    /// changes nothing.
    #[must_use]
    pub fn digest(&self, governance: &Governance) -> Option<Sha256Digest> {
        let Digests { references, policy, collateral } = governance.digests;
        let claims = claims_digest(&self.claims.as_ref()?.without_moment());
        Some(Sha256Digest::of(&[&claims.0, &references.0, &policy.0, &collateral.0]))
    }

    /// The codes of a denial's findings; none for a grant.
    #[must_use]
    pub fn codes(&self) -> Vec<String> {
        self.decision.findings().iter().map(|finding| finding.code.to_owned()).collect()
    }
}

/// Judges `inputs` with the references, policy and collateral they name.
#[must_use]
pub fn judge(inputs: &Inputs, governance: &Governance) -> Judgement {
    judge_warm(inputs, governance, None)
}

/// As [`judge`], and saves what `warm` computed before: it says the same with and without.
#[must_use]
pub fn judge_warm(inputs: &Inputs, governance: &Governance, warm: Option<&Warm>) -> Judgement {
    let claims = match verify(inputs, governance, warm) {
        Ok(claims) => claims,
        Err(rejection) => return rejected(inputs, governance, None, &rejection),
    };
    // A17: genuine, and no longer believed.
    if let Err(rejection) = governance.collateral.tpm_denials.check(&claims.tpm) {
        return rejected(inputs, governance, Some(claims), &rejection);
    }
    if let Some(last) = &inputs.last_clock
        && let Err(rejection) = claims.tpm.clock.check_follows(last)
    {
        return rejected(inputs, governance, Some(claims), &rejection);
    }
    let host = HostFacts {
        id: &inputs.host,
        trust_domain: &inputs.trust_domain,
        labels: &inputs.labels,
        generation: inputs.generation,
    };
    let terms = Terms { credential_ttl_ms: inputs.credential_ttl_ms, lease_ms: inputs.lease_ms };
    let decision = appraise(&claims, &host, &governance.references, &governance.policy, terms, inputs.at);
    Judgement { claims: Some(Arc::new(claims)), decision }
}

fn rejected(inputs: &Inputs, governance: &Governance, claims: Option<Claims>, rejection: &Rejection) -> Judgement {
    let decision = Decision::rejected(rejection, &governance.references, &governance.policy, inputs.at);
    Judgement { claims: claims.map(Arc::new), decision }
}

/// Hops 1 and 3: decode the bundle, then check every signature, chain and binding in it.
fn verify(inputs: &Inputs, governance: &Governance, warm: Option<&Warm>) -> Result<Claims, Rejection> {
    let bundle = Bundle::decode(&inputs.evidence)?;
    let nonce = inputs.nonce.0.as_slice().try_into();
    let nonce = nonce.map_err(|_| BundleReason::Encoding.because("a nonce of 32 bytes", inputs.nonce.0.len()))?;
    let binder = Binder::new(Role::Host, nonce, &inputs.credential_key.0);
    let tpm = match warm {
        Some(warm) => warm.tpm(inputs)?,
        None => Arc::new(warm::enrolled(inputs)?),
    };
    let keeps = warm.zip(bundle.snp.as_ref());
    let vek = keeps.and_then(|(warm, snp)| warm.vek(snp, governance, inputs.at));
    let collateral = &governance.collateral;
    let endorsements = Endorsements { anchors: &collateral.anchors, crls: &collateral.crls, endorsed: vek.as_deref() };
    let expected = evidence::Expected {
        binder: &binder,
        credential_key: &inputs.credential_key.0,
        tpm: &tpm,
        pcr_selection: &inputs.pcr_selection,
    };
    let claims = evidence::verify(&bundle, &expected, &endorsements, inputs.at)?;
    if let (Some((warm, snp)), None) = (keeps, &vek) {
        warm.keep(snp, governance, inputs.at);
    }
    Ok(claims)
}
