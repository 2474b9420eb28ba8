//! Appraisal: Claims + Reference Values + Policy + time -> [`Decision`]. Granted and denied are both values; both are
//! recorded, and whoever holds the inputs can make the same decision again, byte for byte.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use countersign_attestation::claims::{Claims, Presented};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::HostId;
use countersign_attestation::{Rejection, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::finding::{Finding, PolicyReason};
use crate::matching::{ReferenceMatch, unextended_banks};
use crate::policy::{PolicySet, Verdict};
use crate::reference::ReferenceSet;

/// How long trust lasts, by the broker's settings. Claims can only shorten it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Longest life of a credential.
    pub credential_ttl_ms: u64,
    /// Longest time between successful appraisals.
    pub lease_ms: u64,
}

/// What the broker knows of a host beside its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFacts {
    /// The host.
    pub id: HostId,
    /// The trust domain that would issue the credential.
    pub trust_domain: String,
    /// Labels an operator gave the host.
    pub labels: BTreeMap<String, String>,
    /// How often the host was granted trust again after a revocation.
    pub generation: u64,
    /// How long trust lasts.
    pub terms: Terms,
}

/// What was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Claims, by the digest of their canonical form.
    Claims(Sha256Digest),
    /// Evidence that did not verify, by the digest of the bytes received.
    Evidence(Sha256Digest),
}

/// Digests of everything a decision was made from, beside its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Inputs {
    subject: Subject,
    host: Sha256Digest,
    references: Sha256Digest,
    policy: Sha256Digest,
}

/// A grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Grant {
    manifest: String,
    policies: Vec<String>,
    not_after: UnixMillis,
    lease_until: UnixMillis,
    notes: Vec<Finding>,
}

/// A denial: at least one finding, the most telling first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Denial {
    first: Finding,
    more: Vec<Finding>,
}

/// Granted or denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The host may have a credential.
    Granted(Grant),
    /// It may not.
    Denied(Denial),
}

/// The result of an appraisal. Only [`appraise`] and [`Decision::rejected`] make one, and only the first can grant:
///
/// ```compile_fail
/// let forged: countersign_policies::Decision = serde_json::from_str("{}").unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    host: HostId,
    at: UnixMillis,
    outcome: Outcome,
    inputs: Inputs,
}

/// Judges a host. Every check is made even when one has failed, so that a denial names all that must change.
#[must_use]
pub fn appraise(
    claims: &Claims,
    host: &HostFacts,
    references: &ReferenceSet,
    policy: &PolicySet,
    now: UnixMillis,
) -> Decision {
    let mut findings = Vec::new();
    let valid_until = valid_until(claims);
    if valid_until.is_some_and(|valid_until| valid_until <= now) {
        let found = valid_until.unwrap_or(now);
        findings.push(PolicyReason::ClaimsExpired.because(format_args!("valid after {now}"), found));
    }
    for bank in unextended_banks(&claims.tpm.pcrs) {
        let expected = "a measurement in at least one of the firmware's PCRs";
        let found = format_args!("{}: every quoted PCR of 0 to 7 is zero", bank.name());
        findings.push(PolicyReason::PcrBankUnextended.because(expected, found));
    }
    let matched = match references.match_claims(claims) {
        ReferenceMatch::Matched(manifest) => Some(manifest),
        ReferenceMatch::NotMatched(mismatch) => {
            findings.push(mismatch.first);
            findings.extend(mismatch.more);
            None
        }
    };
    let permits = match policy.authorize(claims, host, matched, now) {
        Verdict::Permitted(permits) => permits,
        Verdict::Refused(first, more) => {
            findings.push(first);
            findings.extend(more);
            Vec::new()
        }
    };
    let outcome = match (Denial::of(findings), matched) {
        (Some(denial), _) => Outcome::Denied(denial),
        // Not reachable: no match always leaves a finding. If it did not, nothing would have been proven.
        (None, None) => Outcome::Denied(Denial {
            first: PolicyReason::ReferencesNone.because("a matching manifest", "none"),
            more: Vec::new(),
        }),
        (None, Some(manifest)) => {
            let until = |ms| valid_until.map_or(now.plus(ms), |valid_until| valid_until.min(now.plus(ms)));
            let unjudged = manifest.unjudged_pcrs(&claims.tpm);
            let note = (!unjudged.is_empty())
                .then(|| PolicyReason::PcrUnjudged.because("PCRs the manifest names", unjudged.join(" ")));
            Outcome::Granted(Grant {
                manifest: manifest.id().to_string(),
                policies: permits,
                not_after: until(host.terms.credential_ttl_ms),
                lease_until: until(host.terms.lease_ms),
                notes: note.into_iter().collect(),
            })
        }
    };
    let inputs = Inputs {
        subject: Subject::Claims(claims_digest(claims)),
        host: Sha256Digest::of(&[&canonical(host)]),
        references: references.digest(),
        policy: policy.digest(),
    };
    Decision { host: host.id.clone(), at: now, outcome, inputs }
}

/// When the first of the certificates and lists that the claims stand on expires.
fn valid_until(claims: &Claims) -> Option<UnixMillis> {
    match &claims.snp {
        Presented::Verified(snp) => Some(snp.valid_until),
        Presented::NotPresented => None,
    }
}

/// SHA-256 of the claims' canonical JSON form.
#[must_use]
pub fn claims_digest(claims: &Claims) -> Sha256Digest {
    Sha256Digest::of(&[&canonical(claims)])
}

impl Denial {
    fn of(findings: Vec<Finding>) -> Option<Self> {
        let mut findings = findings.into_iter();
        findings.next().map(|first| Self { first, more: findings.collect() })
    }

    /// The most telling finding.
    #[must_use]
    pub const fn first(&self) -> &Finding {
        &self.first
    }

    /// Every finding.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        core::iter::once(&self.first).chain(&self.more)
    }
}

impl Grant {
    /// Id of the manifest that matched.
    #[must_use]
    pub fn manifest(&self) -> &str {
        &self.manifest
    }

    /// Ids of the policies that permitted.
    #[must_use]
    pub fn policies(&self) -> &[String] {
        &self.policies
    }

    /// A credential under this grant expires here at the latest.
    #[must_use]
    pub const fn not_after(&self) -> UnixMillis {
        self.not_after
    }

    /// Without another grant, trust ends here.
    #[must_use]
    pub const fn lease_until(&self) -> UnixMillis {
        self.lease_until
    }

    /// What an operator may want to know; none of it speaks against the host.
    #[must_use]
    pub fn notes(&self) -> &[Finding] {
        &self.notes
    }
}

impl Inputs {
    /// What was judged.
    #[must_use]
    pub const fn subject(&self) -> Subject {
        self.subject
    }

    /// Digest of the [`HostFacts`].
    #[must_use]
    pub const fn host(&self) -> Sha256Digest {
        self.host
    }

    /// Digest of the [`ReferenceSet`].
    #[must_use]
    pub const fn references(&self) -> Sha256Digest {
        self.references
    }

    /// Digest of the [`PolicySet`].
    #[must_use]
    pub const fn policy(&self) -> Sha256Digest {
        self.policy
    }
}

impl Decision {
    /// The decision on evidence that did not verify: denied, for the verifier's reason. `evidence` is the digest of the
    /// bytes received.
    #[must_use]
    pub fn rejected(
        rejection: &Rejection,
        evidence: Sha256Digest,
        host: &HostFacts,
        references: &ReferenceSet,
        policy: &PolicySet,
        now: UnixMillis,
    ) -> Self {
        let inputs = Inputs {
            subject: Subject::Evidence(evidence),
            host: Sha256Digest::of(&[&canonical(host)]),
            references: references.digest(),
            policy: policy.digest(),
        };
        let outcome = Outcome::Denied(Denial { first: Finding::from(rejection), more: Vec::new() });
        Self { host: host.id.clone(), at: now, outcome, inputs }
    }

    /// The host that was judged.
    #[must_use]
    pub const fn host(&self) -> &HostId {
        &self.host
    }

    /// When.
    #[must_use]
    pub const fn at(&self) -> UnixMillis {
        self.at
    }

    /// Granted or denied.
    #[must_use]
    pub const fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// What it was made from.
    #[must_use]
    pub const fn inputs(&self) -> Inputs {
        self.inputs
    }

    /// Why it was denied, or the notes on a grant.
    #[must_use]
    pub fn findings(&self) -> Vec<&Finding> {
        match &self.outcome {
            Outcome::Granted(grant) => grant.notes.iter().collect(),
            Outcome::Denied(denial) => denial.findings().collect(),
        }
    }

    /// The one form that is hashed and archived: JSON, members in fixed order.
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        canonical(self)
    }
}

/// JSON with members in the order of definition and maps in the order of their keys. Writing structures with integer or
/// unit-variant keys to memory cannot fail; if it did, the error's text is nobody's canonical form and replays unequal.
pub(crate) fn canonical(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|error| error.to_string().into_bytes())
}
