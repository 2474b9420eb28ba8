//! Why: what a recorded decision was made of, judged again from the archive, so that the explanation is of that moment
//! and not of what is in force now.

use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::{Entry, Event};
use countersign_attestation::lineage::tree::leaf_hash;
use countersign_attestation::protocol::HostId;
use countersign_policies::decision::{Decision, Grant, Outcome};
use countersign_policies::finding::Finding;
use countersign_policies::learn::learn;
use countersign_policies::reference::ReferenceManifest;
use countersign_policies::waiver::WaiverUse;
use serde::Serialize;

use crate::broker::Broker;
use crate::broker::judge::{Inputs, Judgement, judge};
use crate::problem::{Problem, Refusal};
use crate::references::{Digests, Governance};

/// Entries that are searched for a decision id, newest first. An older one is named by its index.
const SEARCHED_MAX: u64 = 100_000;

/// A log entry, told with what it was decided on.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// Leaf hash of the entry: the decision's id.
    pub decision: Sha256Digest,
    /// Index of the entry.
    pub log_index: u64,
    /// When.
    pub at: UnixMillis,
    /// What happened.
    pub event: &'static str,
    /// To whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// The operator who did it, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The recorded reasons: codes, or an operator's own words.
    pub reasons: Vec<String>,
    /// What was judged; none where nothing was: a lapse, an operator's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
}

/// A judgement, made again from its archived inputs.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// Whether it came to the recorded decision, byte for byte. Where it did not, the rest is not what was decided.
    pub identical: bool,
    /// SHA-256 of the archived inputs.
    pub inputs: Sha256Digest,
    /// What it was judged by.
    pub judged_by: Digests,
    /// What was granted; none for a denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<Granted>,
    /// Every reason of a denial, the most telling first; none for a grant.
    pub findings: Vec<Finding>,
}

/// What a grant stands on, and what bounds it.
#[derive(Clone, Debug, Serialize)]
pub struct Granted {
    /// A credential ends here at the latest.
    pub not_after: UnixMillis,
    /// Trust ends here without another grant.
    pub lease_until: UnixMillis,
    /// The manifest that matched.
    pub manifest: String,
    /// The policies that permitted.
    pub policies: Vec<String>,
    /// The waivers it would be denied without.
    pub waivers: Vec<WaiverUse>,
    /// What an operator may want to know; none of it speaks against the host.
    pub notes: Vec<Finding>,
}

impl Broker {
    /// Explains the newest decision about a host.
    ///
    /// # Errors
    /// [`Refusal::HostUnknown`], [`Refusal::HostNotEnrolled`], or as [`Broker::explain`].
    pub fn explain_host(&self, id: &HostId) -> Result<Explanation, Problem> {
        self.hosts.find(id)?;
        let trust = self.trust.host(id)?.ok_or_else(|| Refusal::HostNotEnrolled.plain())?;
        let (index, entry, decision) = self.entry(trust.last_entry)?;
        let judged = match (entry.event(), entry.inputs().or(trust.inputs)) {
            // What a renewal renews was judged before, and nothing has changed since.
            (Event::Renewed, Some(inputs)) => Some(self.judged(inputs, None)?),
            _ => self.judged_in(&entry)?,
        };
        Ok(explanation(index, &entry, decision, judged))
    }

    /// Proposes a manifest `name` from what a host's newest verified evidence shows.
    ///
    /// # Errors
    /// [`Refusal::HostUnknown`]; [`Refusal::NothingShown`] for a host that has shown nothing in this generation; why
    /// the manifest cannot be one; [`Refusal::LineageFailed`] when the archive cannot be read.
    pub fn learn(&self, id: &HostId, name: &str) -> Result<ReferenceManifest, Problem> {
        self.hosts.find(id)?;
        let seen = self.trust.host(id)?.and_then(|trust| trust.seen).ok_or_else(|| Refusal::NothingShown.plain())?;
        let (_, judgement) = self.judge_again(seen)?;
        let claims = judgement.claims.ok_or_else(|| Refusal::NothingShown.plain())?;
        learn(name, &claims).map_err(|finding| Problem::unacceptable(&finding))
    }

    /// Explains a log entry, by its index or its leaf hash.
    ///
    /// # Errors
    /// [`Refusal::EntryUnknown`]; [`Refusal::LineageFailed`] when log or archive cannot be read.
    pub fn explain(&self, of: &str) -> Result<Explanation, Problem> {
        let (index, entry, decision) = match Sha256Digest::from_hex(of) {
            Some(id) => self.entry_of(id)?,
            None => self.entry(of.parse().map_err(|_| self.no_entry(of))?)?,
        };
        let judged = self.judged_in(&entry)?;
        Ok(explanation(index, &entry, decision, judged))
    }

    fn no_entry(&self, of: impl std::fmt::Display) -> Problem {
        Refusal::EntryUnknown.because(format!("below {}", self.lineage.head().size), of)
    }

    fn entry(&self, index: u64) -> Result<(u64, Entry, Sha256Digest), Problem> {
        let bytes = self.lineage.read(index).map_err(|error| unreadable(&error))?;
        let bytes = bytes.ok_or_else(|| self.no_entry(index))?;
        Ok((index, Entry::decode(&bytes)?, leaf_hash(&bytes)))
    }

    fn entry_of(&self, id: Sha256Digest) -> Result<(u64, Entry, Sha256Digest), Problem> {
        let size = self.lineage.head().size;
        for index in (size.saturating_sub(SEARCHED_MAX)..size).rev() {
            let bytes = self.lineage.read(index).map_err(|error| unreadable(&error))?;
            if let Some(bytes) = bytes.filter(|bytes| leaf_hash(bytes) == id) {
                return Ok((index, Entry::decode(&bytes)?, id));
            }
        }
        Err(Refusal::EntryUnknown.because(format!("one of the newest {SEARCHED_MAX}, or an index"), id))
    }

    fn judged_in(&self, entry: &Entry) -> Result<Option<Judged>, Problem> {
        let Some(inputs) = entry.inputs() else { return Ok(None) };
        self.judged(inputs, entry.subject()).map(Some)
    }

    /// Judges archived inputs by what they were judged by. Without a recorded digest the grant that holds is its own.
    fn judged(&self, inputs: Sha256Digest, recorded: Option<Sha256Digest>) -> Result<Judged, Problem> {
        let (read, judgement) = self.judge_again(inputs)?;
        let decision = judgement.decision;
        let digest = Sha256Digest::of(&[&decision.canonical_bytes()]);
        Ok(Judged {
            identical: recorded.is_none_or(|recorded| recorded == digest),
            inputs,
            judged_by: read.governance,
            grant: granted(&decision),
            findings: decision.findings().to_vec(),
        })
    }
}

impl Broker {
    fn judge_again(&self, inputs: Sha256Digest) -> Result<(Inputs, Judgement), Problem> {
        let archived = self.archive.get(inputs).map_err(|error| unreadable(&error))?;
        let inputs: Inputs = serde_json::from_slice(&archived).map_err(|error| unreadable(&error))?;
        let governance = Governance::from_archive(&self.archive, inputs.governance);
        let judgement = judge(&inputs, &governance.map_err(|error| unreadable(&error))?, &self.archive);
        Ok((inputs, judgement))
    }
}

fn granted(decision: &Decision) -> Option<Granted> {
    let (Outcome::Granted { not_after, lease_until }, Some(grant)) = (decision.outcome(), decision.grant()) else {
        return None;
    };
    Some(Granted {
        not_after,
        lease_until,
        manifest: Grant::manifest(grant).to_owned(),
        policies: grant.policies().to_vec(),
        waivers: grant.waivers().to_vec(),
        notes: grant.notes().to_vec(),
    })
}

fn explanation(log_index: u64, entry: &Entry, decision: Sha256Digest, judged: Option<Judged>) -> Explanation {
    Explanation {
        decision,
        log_index,
        at: entry.at(),
        event: entry.event().name(),
        host: entry.host().cloned(),
        actor: entry.actor().map(ToOwned::to_owned),
        reasons: entry.reasons().to_vec(),
        judged,
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Problem {
    tracing::error!(%error, "a decision cannot be explained");
    Refusal::LineageFailed.plain()
}
