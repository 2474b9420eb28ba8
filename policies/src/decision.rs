//! Appraisal: Claims + Reference Values + Policy + time -> [`Decision`]. Granted and denied are both values; both are
//! recorded, and whoever holds the inputs can make the same decision again, byte for byte.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use countersign_attestation::claims::Claims;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::HostId;
use countersign_attestation::{Rejection, UnixMillis};
use serde::Serialize;

use crate::finding::{Finding, PolicyReason};
use crate::instance::DenialSet;
use crate::matching::{ImaTallies, ReferenceMatch, unextended_banks};
use crate::policy::{PolicySet, Verdict};
use crate::reference::{ReferenceManifest, ReferenceSet};
use crate::waiver::{Accepted, WAIVERS_PER_GRANT_MAX, WaiverSet, WaiverUse};

/// What the broker knows of a host beside its evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HostFacts<'a> {
    /// The host.
    pub id: &'a HostId,
    /// The trust domain that would issue the credential.
    pub trust_domain: &'a str,
    /// Labels an operator gave the host.
    pub labels: &'a BTreeMap<String, String>,
    /// How often the host was granted trust again after a revocation.
    pub generation: u64,
}

/// All that a host is judged by, beside the verifier's own checks.
#[derive(Clone, Copy, Debug)]
pub struct Standards<'a> {
    /// Known-good measurements.
    pub references: &'a ReferenceSet,
    /// What else must hold.
    pub policy: &'a PolicySet,
    /// What is accepted for now all the same.
    pub waivers: &'a WaiverSet,
    /// Hardware that is no longer believed.
    pub denials: &'a DenialSet,
}

/// How long trust lasts, by the broker's settings. Claims can only shorten it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Terms {
    /// Longest life of a credential.
    pub credential_ttl_ms: u64,
    /// Longest time between successful appraisals.
    pub lease_ms: u64,
}

/// Granted or denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The host may have a credential.
    Granted {
        /// A credential under this grant expires here at the latest.
        not_after: UnixMillis,
        /// Without another grant, trust ends here.
        lease_until: UnixMillis,
    },
    /// It may not; [`Decision::findings`] say why.
    Denied,
}

/// The result of an appraisal. Only [`appraise`] and [`Decision::rejected`] make one, and only the first can grant. It
/// is written down and never read back:
///
/// ```compile_fail
/// let forged: countersign_policies::Decision = serde_json::from_str("{}").unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    at: UnixMillis,
    judged: Judged,
    subject: Subject,
    references: Sha256Digest,
    policy: Sha256Digest,
    waivers: Sha256Digest,
    denials: Sha256Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Judged {
    Granted(Grant),
    Denied(Reasons),
}

/// What was granted, and by what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Grant {
    not_after: UnixMillis,
    lease_until: UnixMillis,
    manifest: String,
    policies: Vec<String>,
    waivers: Vec<WaiverUse>,
    notes: Vec<Finding>,
}

/// At least one finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Reasons(Vec<Finding>);

/// What was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Subject {
    /// Claims, and the facts and terms they were judged with.
    Verified { claims: Sha256Digest, facts: Sha256Digest },
    /// Evidence that did not verify.
    Rejected,
}

/// Judges a host. Every check is made even when one has failed, so that a denial names all that must change.
///
/// Waivers are asked only where a host is denied without them, and only those that it is denied without are named in
/// the grant: of several ways to do with fewer, the one that leaves out those that end first.
#[must_use]
pub fn appraise(
    claims: &Claims,
    tallies: &ImaTallies,
    host: &HostFacts<'_>,
    standards: Standards<'_>,
    terms: Terms,
    now: UnixMillis,
) -> Decision {
    let case = Case { claims, tallies, host, standards, terms, now };
    let facts = Sha256Digest::of(&[&canonical(&(host, terms, tallies))]);
    let subject = Subject::Verified { claims: claims_digest(claims), facts };
    standards.decision(now, case.judge(), subject)
}

struct Case<'a> {
    claims: &'a Claims,
    tallies: &'a ImaTallies,
    host: &'a HostFacts<'a>,
    standards: Standards<'a>,
    terms: Terms,
    now: UnixMillis,
}

impl Case<'_> {
    fn judge(&self) -> Judged {
        let strict = self.judge_accepting(&Accepted::nothing());
        let mut accepted = self.standards.waivers.accepted(self.claims, self.host, self.now);
        if strict.is_granted() || accepted.is_nothing() {
            return strict;
        }
        let mut judged = self.judge_accepting(&accepted);
        if !judged.is_granted() {
            return judged;
        }
        for waiver in accepted.clone().waivers() {
            let fewer = accepted.without(waiver);
            let without = self.judge_accepting(&fewer);
            if without.is_granted() {
                (accepted, judged) = (fewer, without);
            }
        }
        let needed = accepted.waivers().len();
        if WAIVERS_PER_GRANT_MAX < needed {
            let expected = format_args!("at most {WAIVERS_PER_GRANT_MAX} waivers under one credential");
            return Judged::Denied(Reasons(Vec::from([PolicyReason::WaiverTooMany.because(expected, needed)])));
        }
        judged
    }

    fn judge_accepting(&self, accepted: &Accepted<'_>) -> Judged {
        let Self { claims, tallies, host, standards, now, .. } = *self;
        let mut findings: Vec<Finding> = standards.denials.findings(claims).collect();
        findings.extend(expiry(claims, now));
        findings.extend(unextended(claims));
        let matched = match standards.references.match_claims(claims, tallies, accepted, now) {
            ReferenceMatch::Matched(manifest) => Some(manifest),
            ReferenceMatch::NotMatched(mismatch) => {
                findings.extend(mismatch.into_findings());
                None
            }
        };
        let permits = match standards.policy.authorize(claims, tallies, host, matched, accepted, now) {
            Verdict::Permitted(permits) => permits,
            Verdict::Refused(first, more) => {
                findings.push(first);
                findings.extend(more);
                Vec::new()
            }
        };
        match (Reasons::of(findings), matched) {
            (Some(reasons), _) => Judged::Denied(reasons),
            (None, Some(manifest)) => Judged::Granted(self.grant(manifest, permits, accepted)),
            // Impossible: what does not match leaves a finding. Without either, nothing was proven.
            (None, None) => {
                let none = PolicyReason::ReferencesNone.because("a matching manifest", "none");
                Judged::Denied(Reasons(Vec::from([none])))
            }
        }
    }

    fn grant(&self, manifest: &ReferenceManifest, policies: Vec<String>, accepted: &Accepted<'_>) -> Grant {
        let Self { claims, terms, now, .. } = *self;
        // No credential and no lease outlives the collateral that the claims were verified with, a waiver that the
        // grant stands on, or the next moment at which the manifest lists less.
        let waivers: Vec<WaiverUse> = accepted.waivers().iter().copied().map(WaiverUse::from).collect();
        let ends = waivers.iter().map(|waiver| waiver.until).chain(claims.valid_until());
        let ends = ends.chain(manifest.next_end(now)).min();
        let until = |milliseconds: u64| ends.map_or(now.plus(milliseconds), |end| end.min(now.plus(milliseconds)));
        let not_after = until(terms.credential_ttl_ms);
        let unjudged = manifest.unjudged_pcrs(&claims.tpm);
        let note = (!unjudged.is_empty())
            .then(|| PolicyReason::PcrUnjudged.because("PCRs the manifest names", unjudged.join(" ")));
        Grant {
            not_after,
            // Trust without a live credential is trust nobody can show.
            lease_until: until(terms.lease_ms).min(not_after),
            manifest: manifest.id().to_string(),
            policies,
            waivers,
            notes: note.into_iter().collect(),
        }
    }
}

impl Judged {
    const fn is_granted(&self) -> bool {
        match self {
            Self::Granted(_) => true,
            Self::Denied(_) => false,
        }
    }
}

impl Standards<'_> {
    fn decision(&self, at: UnixMillis, judged: Judged, subject: Subject) -> Decision {
        let Self { references, policy, waivers, denials } = self;
        let (references, policy) = (references.digest(), policy.digest());
        let (waivers, denials) = (waivers.digest(), denials.digest());
        Decision { at, judged, subject, references, policy, waivers, denials }
    }
}

fn expiry(claims: &Claims, now: UnixMillis) -> Option<Finding> {
    let ended = claims.valid_until().filter(|until| *until <= now)?;
    let expected = format_args!("collateral valid after {now}");
    Some(PolicyReason::ClaimsExpired.because(expected, format_args!("until {ended}")))
}

fn unextended(claims: &Claims) -> impl Iterator<Item = Finding> {
    unextended_banks(&claims.tpm.pcrs).into_iter().map(|bank| {
        let expected = "a measurement in the firmware's PCRs, or the bank not quoted";
        let found = format_args!("{}: every quoted PCR of 0 to 7 is zero", bank.name());
        PolicyReason::PcrBankUnextended.because(expected, found)
    })
}

/// SHA-256 of the claims' canonical JSON form. Of [`Claims::without_moment`], it is equal for two proofs of the same
/// state.
#[must_use]
pub fn claims_digest(claims: &Claims) -> Sha256Digest {
    Sha256Digest::of(&[&canonical(claims)])
}

impl Reasons {
    fn of(findings: Vec<Finding>) -> Option<Self> {
        (!findings.is_empty()).then_some(Self(findings))
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

    /// Waivers that the host would be denied without, none where it stands by itself.
    #[must_use]
    pub fn waivers(&self) -> &[WaiverUse] {
        &self.waivers
    }

    /// What an operator may want to know; none of it speaks against the host.
    #[must_use]
    pub fn notes(&self) -> &[Finding] {
        &self.notes
    }
}

impl Decision {
    /// The decision on evidence that did not verify: denied, for the verifier's reason.
    #[must_use]
    pub fn rejected(rejection: &Rejection, standards: Standards<'_>, now: UnixMillis) -> Self {
        let judged = Judged::Denied(Reasons(Vec::from([Finding::from(rejection)])));
        standards.decision(now, judged, Subject::Rejected)
    }

    /// When it was made.
    #[must_use]
    pub const fn at(&self) -> UnixMillis {
        self.at
    }

    /// Granted or denied.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match &self.judged {
            Judged::Granted(grant) => Outcome::Granted { not_after: grant.not_after, lease_until: grant.lease_until },
            Judged::Denied(_) => Outcome::Denied,
        }
    }

    /// What was granted, and by what; `None` when denied.
    #[must_use]
    pub const fn grant(&self) -> Option<&Grant> {
        match &self.judged {
            Judged::Granted(grant) => Some(grant),
            Judged::Denied(_) => None,
        }
    }

    /// Why it was denied, the most telling finding first: never empty for a denial, always for a grant.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        match &self.judged {
            Judged::Granted(_) => &[],
            Judged::Denied(Reasons(findings)) => findings,
        }
    }

    /// Digest of the claims; `None` for evidence that did not verify.
    #[must_use]
    pub const fn claims_digest(&self) -> Option<Sha256Digest> {
        match self.subject {
            Subject::Verified { claims, .. } => Some(claims),
            Subject::Rejected => None,
        }
    }

    /// Digest of the [`ReferenceSet`].
    #[must_use]
    pub const fn references_digest(&self) -> Sha256Digest {
        self.references
    }

    /// Digest of the [`PolicySet`].
    #[must_use]
    pub const fn policy_digest(&self) -> Sha256Digest {
        self.policy
    }

    /// Digest of the [`WaiverSet`].
    #[must_use]
    pub const fn waivers_digest(&self) -> Sha256Digest {
        self.waivers
    }

    /// Digest of the [`DenialSet`].
    #[must_use]
    pub const fn denials_digest(&self) -> Sha256Digest {
        self.denials
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
