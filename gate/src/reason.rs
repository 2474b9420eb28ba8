//! Why the gate denies: its own closed set of codes, and those of what it verifies.

use core::fmt;
use std::borrow::Cow;

use countersign_attestation::Rejection;
use countersign_attestation::protocol::Problem;
use countersign_policies::Finding;

macro_rules! gate_reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $sentence:literal, $remedy:literal;)+) => {
        /// A reason of the gate itself. Codes are API: never renamed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum GateReason { $($(#[$doc])* #[doc = concat!("Code `", $code, "`: ", $sentence, ".")] $variant,)+ }

        impl GateReason {
            /// Every reason, in the order of its definition.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable code.
            #[must_use]
            pub const fn code(self) -> &'static str { match self { $(Self::$variant => $code,)+ } }

            /// What is wrong, as one sentence without a full stop.
            #[must_use]
            pub const fn sentence(self) -> &'static str { match self { $(Self::$variant => $sentence,)+ } }

            /// What to do about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str { match self { $(Self::$variant => $remedy,)+ } }
        }
    };
}

gate_reasons! {
    /// Right after a start, or when no broker was ever reached.
    NoPulse = "gate.pulse.none",
        "the gate has not received a pulse yet",
        "see why the gate does not reach the broker: address, pinned CA, pinned keys, trust domain";
    /// The one reason behind a dead broker, a partition and a suspended machine.
    PulseExpired = "gate.pulse.expired",
        "the newest pulse has expired, so nobody is known to be trusted",
        "see why no fresh pulse arrives: broker, network, or the clocks of broker and gate";
    /// The pulse names every list there is.
    ListMissing = "gate.list.missing",
        "the newest pulse names no status list that covers this credential",
        "present a credential of this broker; a credential of another cell has other lists";
    /// A gate without a feed knows what it is shown.
    StapleMissing = "gate.staple.missing",
        "no staple has shown the status list that covers this credential",
        "send the agent's file `staple` as the header Countersign-Staple with each request";
    /// Token Status List, 0x01.
    Invalid = "gate.credential.invalid",
        "the credential was revoked or never issued",
        "see the broker's decision on this host: countersign explain; a revoked host needs a new admission";
    /// Token Status List, 0x02.
    Suspended = "gate.credential.suspended",
        "the host is not trusted at present",
        "attest again; see the broker's decision on this host: countersign explain";
    /// What the operator of this gate did not allow.
    KeyInMemory = "gate.credential.key_in_memory",
        "the credential's key is in the host's memory and not in its TPM",
        "call with the key in the TPM, or let this gate accept workloads' keys: --keys memory";
    /// The proxy did not say who called.
    NoCertificate = "gate.certificate.missing",
        "the request names no client certificate",
        "call with the execution credential as client certificate, and let the proxy pass it on in a known header";
    /// Two answers to one question are none.
    Ambiguous = "gate.certificate.ambiguous",
        "the request names a client certificate more than once",
        "let the proxy set one header once and drop the same header of clients";
    /// Not what the header's definition says.
    Unreadable = "gate.certificate.malformed",
        "the certificate header cannot be read",
        "let the proxy write the header as its definition says: $ssl_client_escaped_cert, XFCC Cert, or RFC 9440";
    /// A tunnel to anywhere, or an echo of what the service is told.
    ProxyMethod = "gate.proxy.method",
        "the proxy does not forward this method",
        "send requests to the service itself; CONNECT and TRACE go nowhere";
    /// Nothing is lost: nobody was let in.
    ProxyIdle = "gate.proxy.idle",
        "nobody was let in on this connection for a minute",
        "connect when there is something to ask, with a credential that is trusted";
    /// The service.
    UpstreamUnreachable = "gate.proxy.upstream_unreachable",
        "the service behind the gate cannot be reached",
        "see whether the service runs and listens where the gate is told";
    /// The service.
    UpstreamTimeout = "gate.proxy.upstream_timeout",
        "the service behind the gate did not answer in time",
        "see what keeps the service, or give it more time";
    /// The service.
    UpstreamAnswer = "gate.proxy.upstream_answer",
        "the answer of the service behind the gate cannot be passed on",
        "see what the service answers: it must be HTTP/1.1, with one length, and switch to a WebSocket only when asked";
    /// Policies can only permit what they know.
    RequestMissing = "gate.request.missing",
        "the proxy does not say which request is to be judged",
        "let the proxy set X-Original-Method and X-Original-URI, or X-Forwarded-Method and X-Forwarded-Uri";
    /// Two answers to one question are none.
    RequestAmbiguous = "gate.request.ambiguous",
        "what the request is about can be read in more than one way",
        "send one Host; let the proxy set one family of request headers once and drop the same headers of clients";
}

/// A denial, explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    code: &'static str,
    sentence: &'static str,
    remedy: Cow<'static, str>,
    expected: String,
    found: String,
}

impl Denial {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.code
    }

    /// What is wrong, as one sentence without a full stop.
    #[must_use]
    pub const fn sentence(&self) -> &'static str {
        self.sentence
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// What would have been accepted.
    #[must_use]
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// What was found.
    #[must_use]
    pub fn found(&self) -> &str {
        &self.found
    }

    /// A problem document (RFC 9457) for the caller: which rule, and what to do; not what would have been accepted.
    #[must_use]
    pub fn for_caller(&self) -> Problem {
        Problem {
            problem_type: format!("urn:countersign:reason:{}", self.code),
            title: self.sentence.to_owned(),
            status: 403,
            code: self.code.to_owned(),
            expected: None,
            found: None,
            remedy: self.remedy.clone().into_owned(),
            decision: None,
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; expected {}, found {}", self.code, self.sentence, self.expected, self.found)
    }
}

impl GateReason {
    /// The denial for this reason. `expected` and `found` are the gate's own words and numbers, never a caller's text.
    #[must_use]
    pub fn because(self, expected: impl fmt::Display, found: impl fmt::Display) -> Denial {
        Denial {
            code: self.code(),
            sentence: self.sentence(),
            remedy: Cow::Borrowed(self.remedy()),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}

impl From<Rejection> for Denial {
    fn from(rejection: Rejection) -> Self {
        Self {
            code: rejection.code(),
            sentence: rejection.reason().sentence(),
            remedy: Cow::Borrowed(rejection.reason().remedy()),
            expected: rejection.expected().to_owned(),
            found: rejection.found().to_owned(),
        }
    }
}

impl From<Finding> for Denial {
    fn from(finding: Finding) -> Self {
        let Finding { code, sentence, expected, found, remedy, .. } = finding;
        Self { code, sentence, remedy, expected, found }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use countersign_attestation::Reason;
    use countersign_policies::PolicyReason;

    use super::GateReason;

    #[test]
    fn codes_are_unique_and_of_this_room() {
        let mut codes: BTreeSet<_> = Reason::all().map(Reason::code).collect();
        codes.extend(PolicyReason::ALL.iter().map(|reason| reason.code()));
        for reason in GateReason::ALL {
            assert!(codes.insert(reason.code()), "{} is used twice", reason.code());
            assert!(reason.code().starts_with("gate."), "{}", reason.code());
            assert!(!reason.sentence().ends_with('.') && !reason.remedy().is_empty(), "{}", reason.code());
        }
    }
}
