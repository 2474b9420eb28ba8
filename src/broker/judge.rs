//! The judgement: verification and appraisal as one pure function of archived inputs. Live decisions, replay and
//! re-appraisal all run it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_attestation::anchor::Assurance;
use countersign_attestation::binder::{Binder, ChannelBinding, Role};
use countersign_attestation::claims::{BootClaims, Claims, ClockInfo, Presented, TpmIdentity};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::intel::{UnverifiedPlatform, VerifiedCollateral};
use countersign_attestation::endorsement::tpm::EndorsementPath;
use countersign_attestation::evidence::bundle::{Bundle, BundleReason, Collection};
use countersign_attestation::evidence::ima::ImaState;
use countersign_attestation::evidence::logs::{self, BootCounts, LogReason};
use countersign_attestation::evidence::tdx::{Quote, TdxReason, VerifiedQe, rtmr};
use countersign_attestation::evidence::tpm::TpmReason;
use countersign_attestation::evidence::{self, Endorsements};
use countersign_attestation::protocol::{Base64Bytes, HostId, PcrSelection};
use countersign_attestation::x509::ListValidity;
use countersign_attestation::{Rejection, UnixMillis};
use countersign_policies::decision::{Decision, Grant, HostFacts, Terms, appraise, claims_digest};
use countersign_policies::ima::ImaTally;
use countersign_policies::matching::ImaTallies;
use countersign_policies::waiver::WaiverUse;
use serde::{Deserialize, Serialize};

use crate::broker::known::{Known, KnownIma, Piece};
use crate::broker::warm::{self, Warm};
use crate::collateral::intel::PlatformCollateral;
use crate::lineage::archive::Blobs;
use crate::references::{Digests, Governance};
use crate::trust::hosts::unknown_tpm;

/// Longest IMA list that is kept: rules that change judge all of it again, in memory.
const LIST_BYTES_MAX: u64 = 64 * 1024 * 1024;

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
    /// The certificates that endorsed the TPM, an [`EndorsementPath`]. Absent in what was archived before they were.
    #[serde(default)]
    pub endorsement: Option<Sha256Digest>,
    /// The challenge's nonce.
    pub nonce: Base64Bytes,
    /// The connection that the evidence came on.
    pub channel: ChannelBinding,
    /// The PCR selection that was asked for.
    pub pcr_selection: Vec<PcrSelection>,
    /// The credential key, `SubjectPublicKeyInfo`.
    pub credential_key: Base64Bytes,
    /// The bundle as it was sent, but for its logs.
    pub evidence: Collection,
    /// The event log of the bundle.
    pub event_log: Option<Sha256Digest>,
    /// The IMA entries of the bundle.
    pub ima: Option<NewEntries>,
    /// The log behind a TD quote's RTMRs, of the bundle. Absent in what was archived before TDX was.
    #[serde(default)]
    pub ccel: Option<Sha256Digest>,
    /// The TPM's clock in the host's last verified quote, if there was one.
    pub last_clock: Option<ClockInfo>,
    /// What was known of the boot that quote was of.
    pub known: Option<Known>,
    /// References, policy and collateral in force.
    pub governance: Digests,
}

/// Entries of an IMA list as a bundle brings them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEntries {
    /// Index of the first.
    pub from: u64,
    /// Their bytes.
    pub list: Piece,
}

/// A decision, and the claims it was made on.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The claims, where every signature, chain and binding held.
    pub claims: Option<Arc<Claims>>,
    /// Granted or denied, with its reasons.
    pub decision: Decision,
    /// What is known of the host's boot now; nothing new where the claims say nothing.
    pub known: Option<Known>,
    /// The new IMA entries that the quote covers.
    pub attested: Option<NewEntries>,
    /// Whether the quote verified and the logs beside it did not.
    pub logs: LogsVerdict,
}

/// What became of a bundle's logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogsVerdict {
    /// They explain the quote, or there were none to read.
    Explained,
    /// The quote verified, and they do not explain it.
    Unexplained,
}

impl Judgement {
    /// Digest of what was appraised and what it was appraised against, without the moment: equal for a renewal that
    /// changes nothing.
    #[must_use]
    pub fn digest(&self, governance: &Governance) -> Option<Sha256Digest> {
        // Who may sign manifests decides nothing beside the manifests themselves.
        let Digests { references, signers: _, policy, collateral, waivers, denials } = governance.digests;
        let claims = claims_digest(&self.claims.as_ref()?.without_moment());
        let parts = [claims, references, policy, collateral, waivers, denials];
        Some(Sha256Digest::of(&parts.each_ref().map(|part| part.0.as_slice())))
    }

    /// Waivers that a grant stands on.
    #[must_use]
    pub fn waivers(&self) -> &[WaiverUse] {
        self.decision.grant().map_or(&[], Grant::waivers)
    }

    /// The codes of a denial's findings; none for a grant.
    #[must_use]
    pub fn codes(&self) -> Vec<String> {
        self.decision.findings().iter().map(|finding| finding.code.to_owned()).collect()
    }
}

/// Judges `inputs` with the references, policy and collateral they name.
#[must_use]
pub fn judge(inputs: &Inputs, governance: &Governance, blobs: &dyn Blobs) -> Judgement {
    judge_warm(inputs, governance, blobs, None)
}

/// As [`judge`], and saves what `warm` computed before: it says the same with and without.
#[must_use]
pub fn judge_warm(inputs: &Inputs, governance: &Governance, blobs: &dyn Blobs, warm: Option<&Warm>) -> Judgement {
    let case = Case { inputs, governance, blobs, warm };
    let mut signed = match case.verify() {
        Ok(signed) => signed,
        Err(rejection) => return case.rejected(None, &rejection),
    };
    match case.endorsement() {
        Ok(list) => signed.tpm = signed.tpm.compared(list, inputs.at),
        // Named by a list: that takes trust away. A list that ended does not: nothing is then known.
        Err(rejection) => {
            let revoked = rejection.reason() == TpmReason::EndorsementRevoked.into();
            return case.rejected(revoked.then_some(signed), &rejection);
        }
    }
    // A TPM that is genuine and no longer believed (A17), that went back, or that was restarted by nobody knows what,
    // takes trust away: the quote is verified.
    let clock = &signed.tpm.clock;
    let last_boot = inputs.known.as_ref().map(|known| known.boot);
    let believed = governance.collateral.tpm_denials.check(&signed.tpm);
    let follows = || inputs.last_clock.as_ref().map_or(Ok(()), |last| clock.check_follows(last));
    let explained = || logs::check_boot_explained(clock, last_boot, (&inputs.event_log).into());
    if let Err(rejection) = believed.and_then(|()| follows()).and_then(|()| explained()) {
        return case.rejected(Some(signed), &rejection);
    }
    let read = match case.read_logs(&signed) {
        Ok(read) => read,
        Err(rejection) => return case.unexplained(signed, &rejection),
    };
    let decision = case.appraise(&read.claims, &read.tallies);
    Judgement {
        claims: Some(Arc::new(read.claims)),
        decision,
        known: Some(read.known),
        attested: read.attested,
        logs: LogsVerdict::Explained,
    }
}

/// One judgement's arguments.
struct Case<'a> {
    inputs: &'a Inputs,
    governance: &'a Governance,
    blobs: &'a dyn Blobs,
    warm: Option<&'a Warm>,
}

/// What Intel says of a quote's platform.
struct Intel {
    collateral: Arc<VerifiedCollateral>,
    quoting_enclave: Option<Arc<VerifiedQe>>,
}

/// What the logs came to.
struct ReadLogs {
    claims: Claims,
    tallies: ImaTallies,
    known: Known,
    attested: Option<NewEntries>,
}

impl Case<'_> {
    fn rejected(&self, claims: Option<Claims>, rejection: &Rejection) -> Judgement {
        self.judgement(claims, Decision::rejected(rejection, self.governance.standards(), self.inputs.at))
    }

    /// The logs do not explain the quote. What they would have explained is not known; but PCR values that no manifest
    /// lists are drift, whatever log came beside them.
    fn unexplained(&self, signed: Claims, rejection: &Rejection) -> Judgement {
        let accepted = self.governance.waivers.accepted(&signed, &self.facts(), self.inputs.at);
        let judged = if self.governance.references.matches_quote(&signed, &accepted, self.inputs.at) {
            self.rejected(None, rejection)
        } else {
            let decision = self.appraise(&signed, &ImaTallies::new());
            self.judgement(Some(signed), decision)
        };
        Judgement { logs: LogsVerdict::Unexplained, ..judged }
    }

    /// A decision that adds nothing to what is known.
    fn judgement(&self, claims: Option<Claims>, decision: Decision) -> Judgement {
        let known = claims.as_ref().and_then(|_| self.inputs.known.clone());
        Judgement { claims: claims.map(Arc::new), decision, known, attested: None, logs: LogsVerdict::Explained }
    }

    fn appraise(&self, claims: &Claims, tallies: &ImaTallies) -> Decision {
        let Inputs { credential_ttl_ms, lease_ms, at, .. } = self.inputs;
        let terms = Terms { credential_ttl_ms: *credential_ttl_ms, lease_ms: *lease_ms };
        appraise(claims, tallies, &self.facts(), self.governance.standards(), terms, *at)
    }

    fn facts(&self) -> HostFacts<'_> {
        let Inputs { host, trust_domain, labels, generation, .. } = self.inputs;
        HostFacts { id: host, trust_domain, labels, generation: *generation }
    }

    /// Hops 1 and 3: decode the bundle, then check every signature, chain and binding in it.
    fn verify(&self) -> Result<Claims, Rejection> {
        let Self { inputs, governance, warm, .. } = self;
        let bundle = Bundle::decode(&inputs.evidence)?;
        let nonce = inputs.nonce.0.as_slice().try_into();
        let nonce = nonce.map_err(|_| BundleReason::Encoding.because("a nonce of 32 bytes", inputs.nonce.0.len()))?;
        let binder = Binder::new(Role::Host, nonce, &inputs.credential_key.0, &inputs.channel);
        let tpm = match warm {
            Some(warm) => warm.tpm(inputs)?,
            None => Arc::new(warm::enrolled(inputs)?),
        };
        let below_paravisor = bundle.paravisor.as_ref().and_then(|paravisor| paravisor.vek.as_deref());
        let keeps = warm.zip(bundle.snp.as_ref().map(|snp| snp.vek.as_slice()).or(below_paravisor));
        let vek = keeps.and_then(|(warm, vek)| warm.vek(vek, governance, inputs.at));
        let intel = bundle.tdx.as_ref().map(|tdx| self.intel(&tdx.quote)).transpose()?;
        let quoting_enclave = intel.as_ref().and_then(|intel| intel.quoting_enclave.as_deref());
        let collateral = &governance.collateral;
        let endorsements = Endorsements {
            anchors: &collateral.anchors,
            crls: &collateral.crls,
            endorsed: vek.as_deref(),
            intel: intel.as_ref().map(|intel| &*intel.collateral),
            quoting_enclave,
        };
        let expected = evidence::Expected {
            binder: &binder,
            credential_key: &inputs.credential_key.0,
            tpm: &tpm,
            pcr_selection: &inputs.pcr_selection,
        };
        let claims = evidence::verify(&bundle, &expected, &endorsements, collateral.at(inputs.at))?;
        if let (Some((warm, certificate)), None) = (keeps, &vek) {
            warm.keep(certificate, governance, inputs.at);
        }
        if let (Some(warm), Some(tdx), Some(Intel { collateral, quoting_enclave: None })) = (warm, &bundle.tdx, &intel)
        {
            warm.keep_quoting_enclave(&tdx.quote, collateral, inputs.at);
        }
        Ok(claims)
    }

    /// The lists of who endorsed the TPM; none where there is no list of theirs.
    fn endorsement(&self) -> Result<Option<ListValidity>, Rejection> {
        let Self { inputs, governance, warm, blobs } = self;
        let collateral = &governance.collateral;
        let Some(path) = inputs.endorsement.filter(|_| !collateral.tpm_crls.is_empty()) else { return Ok(None) };
        let key = (path, governance.digests.collateral);
        if let Some(kept) = warm.and_then(|warm| warm.endorsement(key, inputs.at)) {
            return Ok(kept);
        }
        let unavailable = || LogReason::Unavailable.because(path, "nothing");
        let bytes = blobs.blob(path).ok_or_else(unavailable)?;
        let path: EndorsementPath = serde_json::from_slice(&bytes).map_err(|_| unavailable())?;
        let list = path.check_not_revoked(&collateral.tpm_crls, collateral.at(inputs.at))?;
        if let Some(warm) = warm {
            warm.keep_endorsement(key, list);
        }
        Ok(list)
    }

    /// Intel's newest collateral of the platform that `quote` says it is of, and its quoting enclave where it is kept.
    fn intel(&self, quote: &[u8]) -> Result<Intel, Rejection> {
        let (governance, now) = (self.governance, self.inputs.at);
        let parsed = Quote::parse(quote)?;
        let platform = UnverifiedPlatform::of(parsed.pck_chain()?)?;
        let found = PlatformCollateral::newest(&governance.collateral.intel, &platform);
        let found = found.ok_or_else(|| {
            let expected = format!("collateral of FMSPC {} and its PCK CA", hex::encode(platform.fmspc));
            TdxReason::CollateralMissing.because(expected, "none")
        })?;
        let (anchors, at) = (&governance.collateral.anchors.intel, governance.collateral.at(now));
        let collateral = match self.warm {
            Some(warm) => warm.intel(found, anchors, at)?,
            None => Arc::new(found.documents.endorse(anchors, at)?),
        };
        let quoting_enclave = self.warm.and_then(|warm| warm.quoting_enclave(parsed.qe_digest(), &collateral, now));
        Ok(Intel { collateral, quoting_enclave })
    }

    /// The event log to the quoted PCRs, then the IMA list: both gone on with from what is known of this very boot.
    fn read_logs(&self, signed: &Claims) -> Result<ReadLogs, Rejection> {
        let boot = BootCounts::from(&signed.tpm.clock);
        let known = self.inputs.known.as_ref().filter(|known| known.boot == boot);
        let event_log = self.inputs.event_log.or_else(|| known.and_then(|known| known.event_log));
        let mut claims = signed.clone();
        if let Some(log) = event_log {
            claims.boot = Presented::Verified(self.boot(log, signed)?);
        }
        let ccel = self.inputs.ccel.or_else(|| known.and_then(|known| known.ccel));
        if let (Some(log), Presented::Verified(tdx)) = (ccel, &signed.tdx) {
            claims.rtmr = Presented::Verified(rtmr::verify(&self.blob(log)?, tdx)?);
        }
        let list = match known.and_then(|known| known.ima.as_ref()) {
            // All of the list again, or the first of it.
            None => KnownIma::start(),
            Some(_) if self.inputs.ima.is_some_and(|new| new.from == 0) => KnownIma::start(),
            Some(known) => known.clone(),
        };
        let nothing = self.inputs.ima.is_none() && list.state.entries == 0;
        if nothing || !logs::quotes_ima(&signed.tpm) {
            let known = Known { boot, event_log, ima: None, ccel };
            return Ok(ReadLogs { claims, tallies: ImaTallies::new(), known, attested: None });
        }
        let (list, attested) = self.ima(&mut claims, list)?;
        let tallies = list.tallies.clone();
        Ok(ReadLogs { claims, tallies, known: Known { boot, event_log, ima: Some(list), ccel }, attested })
    }

    fn boot(&self, log: Sha256Digest, signed: &Claims) -> Result<BootClaims, Rejection> {
        if let Some(kept) = self.warm.and_then(|warm| warm.boot(&self.inputs.host, log, &signed.tpm)) {
            return Ok(kept);
        }
        let boot = logs::verify_boot(&self.blob(log)?, &signed.tpm)?;
        if let Some(warm) = self.warm {
            warm.keep_boot(&self.inputs.host, log, &signed.tpm, &boot);
        }
        Ok(boot)
    }

    /// New entries are tallied by every rules that the host may be held to; rules that have not judged the older ones
    /// judge the whole list, from the archive.
    fn ima(&self, claims: &mut Claims, known: KnownIma) -> Result<(KnownIma, Option<NewEntries>), Rejection> {
        let KnownIma { state, tallies: mut prior, mut pieces } = known;
        let list = match self.inputs.ima {
            Some(new) if new.list.bytes != 0 => self.blob(new.list.sha256)?,
            Some(_) | None => Cow::Borrowed(&[][..]),
        };
        let from = self.inputs.ima.map_or(state.entries, |new| new.from);
        let (verified, ima) = logs::verify_ima(from, &list, &state, &claims.tpm)?;
        let attested = NewEntries { from, list: Piece::of(verified.bytes()) };
        if attested.list.bytes != 0 {
            pieces.push(attested.list);
            check_length(&pieces)?;
        }
        claims.ima = Presented::Verified(ima);
        let mut tallies = ImaTallies::new();
        let accepted = self.governance.waivers.accepted(claims, &self.facts(), self.inputs.at);
        for rules in self.governance.references.ima_rules(claims, &accepted, self.inputs.at) {
            let tally = match prior.remove(&rules.digest()) {
                Some(prior) => rules.tally(&verified, &prior),
                None if state.entries == 0 => rules.tally(&verified, &ImaTally::start()),
                None => {
                    let whole = self.whole(&pieces, verified.bytes())?;
                    let (verified, _) = logs::verify_ima(0, &whole, &ImaState::start(), &claims.tpm)?;
                    rules.tally(&verified, &ImaTally::start())
                }
            };
            tallies.insert(rules.digest(), tally);
        }
        let list = KnownIma { state: verified.state().clone(), tallies, pieces };
        Ok((list, self.inputs.ima.is_some().then_some(attested)))
    }

    /// The whole list: what is in the archive, and what has just come.
    fn whole(&self, pieces: &[Piece], new: &[u8]) -> Result<Vec<u8>, Rejection> {
        let (mut whole, fresh) = (Vec::new(), Piece::of(new));
        for piece in pieces {
            if *piece == fresh {
                whole.extend_from_slice(new);
            } else {
                whole.extend_from_slice(&self.blob(piece.sha256)?);
            }
        }
        Ok(whole)
    }

    fn blob(&self, digest: Sha256Digest) -> Result<Cow<'_, [u8]>, Rejection> {
        self.blobs.blob(digest).ok_or_else(|| LogReason::Unavailable.because(digest, "nothing"))
    }
}

fn check_length(pieces: &[Piece]) -> Result<(), Rejection> {
    let bytes = pieces.iter().fold(0_u64, |sum, piece| sum.saturating_add(piece.bytes));
    if LIST_BYTES_MAX < bytes {
        return Err(LogReason::ImaLength.because(format_args!("at most {LIST_BYTES_MAX} bytes"), bytes));
    }
    Ok(())
}
