//! Why the broker refuses a request, as problem documents (RFC 9457). The codes are API and never renamed.

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol;
use countersign_attestation::rejection::Rejection;
use countersign_attestation::time::ClockError;
use countersign_policies::finding::Finding;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $status:literal, $code:literal, $sentence:literal, $remedy:literal;)+) => {
        /// Why a request is refused before, or instead of, an appraisal.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Refusal { $($(#[$doc])* #[doc = concat!("Code `", $code, "`: ", $sentence, ".")] $variant,)+ }

        impl Refusal {
            /// Every refusal there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The stable code.
            #[must_use]
            pub const fn code(self) -> &'static str { match self { $(Self::$variant => $code,)+ } }
            const fn status(self) -> u16 { match self { $(Self::$variant => $status,)+ } }
            const fn sentence(self) -> &'static str { match self { $(Self::$variant => $sentence,)+ } }
            const fn remedy(self) -> &'static str { match self { $(Self::$variant => $remedy,)+ } }
        }
    };
}

reasons! {
    /// The port speaks TLS only.
    PlainHttp = 400, "transport.plain_http", "this port speaks HTTPS only", "use https:// and the broker's control CA";
    /// Deny by default: what is not a route is nothing.
    UnknownRoute = 404, "route.unknown", "there is no such route", "see /openapi.json";
    /// A route with another method.
    Method = 405, "route.method", "the route does not take this method", "see /openapi.json";
    /// Operator and host routes need a client certificate.
    Unauthenticated = 401, "channel.unauthenticated", "the route needs a client certificate",
        "present the certificate that `countersign operator add` or enrolment issued";
    /// A valid certificate of the wrong kind, or of someone who was removed.
    Forbidden = 403, "channel.forbidden", "the client certificate does not open this route",
        "use a credential of the audience the route is for; ask an operator whether yours was removed";
    /// Bodies are JSON with exactly the documented members.
    Malformed = 400, "request.malformed", "the request body is not what the route reads", "see /openapi.json";
    /// Bodies are JSON.
    MediaType = 415, "request.media_type", "the request body is not JSON", "send content-type: application/json";
    /// Bodies are bounded before they are read.
    TooLarge = 413, "request.too_large", "the request body is too large", "send the documented members only";
    /// Requests end within a bound.
    Timeout = 408, "request.timeout", "the request was not complete in time", "try again";
    /// Hosts are registered by an operator before they enrol.
    HostUnknown = 404, "host.unknown", "no such host is registered",
        "register it: countersign hosts add ID --ek-sha256 DIGEST";
    /// Registering twice is not an update.
    HostExists = 409, "host.exists", "a host with this id is already registered",
        "remove it first if it is another machine";
    /// Only a revoked host can be re-admitted.
    HostNotRevoked = 409, "host.not_revoked", "the host is not revoked", "nothing to do";
    /// Revocation needs something to revoke.
    HostNotEnrolled = 409, "host.not_enrolled", "the host is registered but never enrolled",
        "run `countersign-agent enroll` on it";
    /// An identity is immutable.
    AlreadyEnrolled = 409, "enrollment.host.already_enrolled", "the host is enrolled already",
        "an operator removes and registers the host again before it can enrol with another TPM or AK";
    /// The EK an operator registered is the one that enrols.
    EkMismatch = 403, "enrollment.ek.not_registered", "the EK is not the one registered for this host",
        "compare `countersign-agent identity` with the registered digest";
    /// Pending enrolments are bounded and expire.
    EnrollmentUnknown = 404, "enrollment.unknown", "there is no such pending enrolment",
        "start over: an enrolment expires after a minute and allows one attempt";
    /// One attempt; the enrolment is void.
    ActivationFailed = 403, "enrollment.activation.failed", "the credential was not activated by this TPM",
        "start over; the EK and AK must live in the same TPM";
    /// Pending enrolments are bounded.
    Busy = 503, "broker.busy", "too much is pending", "try again in a minute";
    /// Challenges are authenticated by the broker that made them.
    ChallengeInvalid = 403, "challenge.invalid", "the challenge is not one of this broker's",
        "request a fresh challenge; a broker's restart voids the old ones";
    /// A challenge is for one host.
    ChallengeOtherHost = 403, "challenge.other_host", "the challenge was made for another host",
        "request a challenge over the host's own channel";
    /// Thirty seconds.
    ChallengeExpired = 403, "challenge.expired", "the challenge has expired", "request a fresh challenge";
    /// Once.
    ChallengeReplayed = 403, "challenge.replayed", "the challenge was redeemed before", "request a fresh challenge";
    /// A revoked host stays revoked until an operator says otherwise.
    HostRevoked = 403, "trust.revoked", "the host's trust was revoked",
        "mend the cause, then an operator runs `countersign hosts readmit ID`";
    /// One TPM or guest, two names.
    Cloned = 403, "instance.cloned", "the same TPM or guest is trusted under another name: one of the two is a copy",
        "find the copy and take it out; then an operator runs `countersign hosts readmit ID`";
    /// The host's state changed while its evidence was judged.
    Superseded = 409, "trust.superseded", "the host's state changed meanwhile", "attest again";
    /// Credential keys are not used again.
    KeyReused = 403, "credential.key.reused", "the credential key was replaced by a newer one before",
        "make a new credential key for each renewal";
    /// JWT-SVIDs are for named services.
    Audience = 400, "credential.audience", "an audience of a JWT-SVID cannot be one", "see expected and found";
    /// P-256 only.
    KeyUnusable = 400, "credential.key.unusable", "the key is not a P-256 SubjectPublicKeyInfo",
        "send the DER SubjectPublicKeyInfo of an ECDSA P-256 key";
    /// Issuing keys live for days; without one that lives, nothing is issued.
    NoIssuing = 503, "ca.issuing.none", "the workload CA has no valid issuing certificate, so nothing was issued",
        "an operator looks at /readyz, and sees to the root's key, or brings a new certificate (`countersign ca`)";
    /// An HSM or TPM.
    KeyAway = 503, "ca.key.unavailable", "the token that holds the CA's key cannot be used now, so nothing was issued",
        "an operator sees to the token and its PIN file; nothing has to be done at the broker once it is back";
    /// RFC 5280, 6.1: a path ends with the first of its certificates.
    Outlives = 503, "ca.issuing.outlived", "the credential would outlive the certificate that issues it",
        "attest again";
    /// What the name constraints say, before anything is signed.
    OutsideName = 403, "ca.issuing.name", "the workload CA does not issue for this name",
        "workloads are named spiffe://TRUST-DOMAIN/...";
    /// Manifests are parsed strictly.
    ReferenceMalformed = 400, "reference.malformed", "the reference manifest is not acceptable",
        "see expected and found";
    /// A manifest is learnt of what a host showed.
    NothingShown = 409, "reference.learn.nothing", "the host has shown no verified evidence in this generation",
        "let it attest once; a denial is enough";
    /// Registering twice is not an update.
    ReferenceExists = 409, "reference.exists", "this version of the reference manifest is registered, with other content or the same",
        "give the manifest a higher version, or another id";
    /// A manifest that was replaced or retired never comes back, whoever signed it.
    ReferenceOlder = 409, "reference.older", "a higher version of this reference manifest was registered before",
        "write and sign a version above it";
    /// No such manifest.
    ReferenceUnknown = 404, "reference.unknown", "no such reference manifest is registered",
        "see `countersign refs list`";
    /// What takes trust away is looked at before it is done (RFC 6585, 3).
    PreviewMissing = 428, "preview.missing", "the change was not previewed",
        "run `countersign what-if` with the same change, and commit it with the digest that it prints";
    /// Only the change that was looked at.
    PreviewStale = 409, "preview.stale", "the change is not the one that was previewed",
        "look at the change as it would be now: `countersign what-if`, then commit with its digest";
    /// An id is used once: an ended waiver never comes back under its name.
    WaiverExists = 409, "waiver.exists", "a waiver with this id is registered, or was",
        "write and sign a new one under another id";
    /// No such waiver.
    WaiverUnknown = 404, "waiver.unknown", "no such waiver is in force", "see `countersign waiver list`";
    /// Documents are signed with a key that is listed with the operator.
    SigningKeyUnknown = 403, "operator.signing_key", "the operator is listed without a signing key",
        "remove the operator and add it again: that makes one";
    /// No such denial.
    DenialUnknown = 404, "instance.denial.unknown", "no such piece of hardware is denied",
        "see `countersign deny list`";
    /// An operator's files are read again on request.
    CollateralUnreadable = 409, "collateral.unreadable", "anchors or collateral on the broker's disk cannot be used",
        "mend the file that `found` names; until then nothing changes";
    /// An export carries one line for each of its documents.
    CollateralCount = 400, "collateral.count", "too many documents at once", "send them in several requests";
    /// No such status list.
    StatusListUnknown = 404, "status_list.unknown", "there is no such status list", "take the numbers in the pulse";
    /// No such log entry.
    EntryUnknown = 404, "lineage.entry.unknown", "there is no such entry", "the checkpoint says how many there are";
    /// C2SP tlog-tiles.
    TileUnknown = 404, "lineage.tile.unknown", "there is no such tile",
        "ask for tiles of the tree in /log/checkpoint; a partial tile goes when its full one is there";
    /// The log cannot be written: nothing is issued.
    LineageFailed = 503, "lineage.unavailable", "the decision could not be recorded, so nothing was issued",
        "the broker's disk failed; an operator looks at /readyz and the broker's log";
    /// The store cannot be written: nothing is issued.
    StoreFailed = 503, "store.unavailable", "the change could not be made durable, so nothing was changed",
        "the broker's disk failed; an operator looks at /readyz and the broker's log";
    /// A defect of ours; the request was denied.
    Internal = 500, "broker.internal", "the broker failed and denied the request",
        "report it with the broker's log of this moment";
    /// Each answer costs a signature.
    NonceRate = 429, "pulse.nonce.rate", "too many ask for a pulse over a nonce", "ask again in a second";
    /// Not ready: no pulse was signed lately.
    NotReady = 503, "broker.not_ready", "the broker signs no pulses", "an operator looks at the broker's log";
    /// What is signed speaks of wall time.
    Clock = 503, "broker.clock", "the broker's clock is not known to be right, so nothing is signed or issued",
        "let chrony or the like keep its clock, or say who does: clock_sync in config.toml; it goes on by itself";
}

impl Refusal {
    /// Whether a clock that may be off so far may date what is signed.
    ///
    /// # Errors
    /// [`Refusal::Clock`] where nobody keeps the clock, or its error is too large.
    pub fn check_clock(error: ClockError) -> Result<(), Problem> {
        match error.bounded() {
            Ok(_) => Ok(()),
            Err(rejection) => Err(Self::Clock.because(rejection.expected(), rejection.found())),
        }
    }

    /// The refusal with what was expected and found.
    #[must_use]
    pub fn because(self, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Problem {
        Problem(Box::new(protocol::Problem {
            problem_type: format!("urn:countersign:reason:{}", self.code()),
            title: self.sentence().to_owned(),
            status: self.status(),
            code: self.code().to_owned(),
            expected: Some(expected.to_string()),
            found: Some(found.to_string()),
            remedy: self.remedy().to_owned(),
            decision: None,
        }))
    }

    /// The refusal alone, where there is nothing to compare.
    #[must_use]
    pub fn plain(self) -> Problem {
        let Problem(mut problem) = self.because("", "");
        problem.expected = None;
        problem.found = None;
        Problem(problem)
    }
}

/// A refused request: a problem document with its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(pub Box<protocol::Problem>);

impl Problem {
    /// A recorded denial, as the host may know it: without what would have been accepted.
    #[must_use]
    pub fn denied_to_host(finding: &Finding, decision: Sha256Digest) -> Self {
        let shown = finding.for_host();
        let mut problem = Self::from_finding(finding, 403);
        problem.0.expected = None;
        problem.0.found = shown.found.map(ToOwned::to_owned);
        problem.0.decision = Some(decision);
        problem
    }

    /// A manifest or policy that cannot be loaded.
    #[must_use]
    pub fn unacceptable(finding: &Finding) -> Self {
        Self::from_finding(finding, 400)
    }

    fn from_finding(finding: &Finding, status: u16) -> Self {
        Self(Box::new(protocol::Problem {
            problem_type: format!("urn:countersign:reason:{}", finding.code),
            title: finding.sentence.to_string(),
            status,
            code: finding.code.to_string(),
            expected: Some(finding.expected.clone()),
            found: Some(finding.found.clone()),
            remedy: finding.remedy.to_string(),
            decision: None,
        }))
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.0.code
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        Self::from_finding(&Finding::from(&rejection), 403)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let problem = &self.0;
        write!(f, "{}: {}", problem.code, problem.title)?;
        if let (Some(expected), Some(found)) = (&problem.expected, &problem.found) {
            write!(f, "; expected {expected}, found {found}")?;
        }
        write!(f, "; {}", problem.remedy)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Refusal;

    #[test]
    fn codes_are_unique() {
        let codes: BTreeSet<_> = Refusal::ALL.iter().map(|refusal| refusal.code()).collect();
        assert_eq!(codes.len(), Refusal::ALL.len());
    }
}
