//! Entries of the lineage log: one for each decision and each transition, in deterministic CBOR (RFC 8949, 4.2.1).
//!
//! An entry is a map from small integers to values; members that say nothing are left out, so a renewal that changes
//! nothing takes about a hundred bytes. Its leaf hash is the decision id that credentials carry.

mod event;

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use minicbor::{Decode, Encode};

use crate::digest::Sha256Digest;
use crate::lineage::LineageReason;
use crate::protocol::HostId;
use crate::rejection::Rejection;
use crate::time::UnixMillis;

pub use event::Event;

/// The version of this encoding.
pub const VERSION: u8 = 1;
/// An entry bundle counts bytes in 16 bits (C2SP tlog-tiles); ours stay far below.
pub const BYTES_MAX: usize = 8192;
/// More reasons than there are checks in one appraisal explain nothing.
const REASONS_MAX: usize = 32;
const TEXT_BYTES_MAX: usize = 128;

/// The credential that a grant issues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialRecord {
    /// Serial number of the X.509-SVID, at most 20 bytes.
    pub serial: Vec<u8>,
    /// SHA-256 of the credential key's `SubjectPublicKeyInfo`.
    pub key: Sha256Digest,
    /// Index in the status lists.
    pub status_index: u64,
    /// Not valid from this moment.
    pub not_after: UnixMillis,
    /// The certificate for a workload's key that was issued with it: of the same index and end.
    pub workload: Option<WorkloadRecord>,
}

/// A certificate for a workload's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadRecord {
    /// Serial number, at most 20 bytes.
    pub serial: Vec<u8>,
    /// SHA-256 of the key's `SubjectPublicKeyInfo`.
    pub key: Sha256Digest,
}

/// The trust record a host's entry was made on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRevision {
    /// The host.
    pub host: HostId,
    /// Its generation.
    pub generation: u64,
    /// Its revision: a transition holds only on the revision it names.
    pub revision: u64,
    /// Index of the host's newest entry.
    pub parent: u64,
}

/// What a decision was made from and came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionRecord {
    /// Archived inputs, for replay.
    pub inputs: Option<Sha256Digest>,
    /// The claims, where verification got that far.
    pub claims: Option<Sha256Digest>,
    /// Canonical bytes of the decision.
    pub decision: Sha256Digest,
    /// Why it was denied; empty when it was granted.
    pub reasons: Vec<String>,
}

/// One entry. Made by the constructors of its events, or decoded with the same demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    wire: Wire,
    host: Option<HostId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Wire {
    #[n(0)]
    version: u8,
    #[n(1)]
    at: u64,
    #[n(2)]
    event: Event,
    #[n(3)]
    host: Option<String>,
    #[n(4)]
    generation: Option<u64>,
    #[n(5)]
    revision: Option<u64>,
    #[n(6)]
    lease_until: Option<u64>,
    #[n(7)]
    reasons: Option<Vec<String>>,
    #[cbor(n(8), with = "minicbor::bytes")]
    inputs: Option<[u8; 32]>,
    #[cbor(n(9), with = "minicbor::bytes")]
    claims: Option<[u8; 32]>,
    #[n(10)]
    credential: Option<WireCredential>,
    #[n(11)]
    parent: Option<u64>,
    #[n(12)]
    actor: Option<String>,
    #[cbor(n(13), with = "minicbor::bytes")]
    subject: Option<[u8; 32]>,
    #[n(14)]
    code_version: Option<String>,
}

// Members that some events have, as a set.
const HOST: u16 = 1;
const GENERATION: u16 = 1 << 1;
const REVISION: u16 = 1 << 2;
const PARENT: u16 = 1 << 3;
const ON_HOST: u16 = HOST | GENERATION | REVISION | PARENT;
const LEASE: u16 = 1 << 4;
const REASONS: u16 = 1 << 5;
const INPUTS: u16 = 1 << 6;
const CLAIMS: u16 = 1 << 7;
const CREDENTIAL: u16 = 1 << 8;
const ACTOR: u16 = 1 << 9;
const SUBJECT: u16 = 1 << 10;
const CODE_VERSION: u16 = 1 << 11;

/// The members an event must have, and those it may have beside them.
const fn members_of(event: Event) -> (u16, u16) {
    match event {
        Event::BrokerStarted => (CODE_VERSION, 0),
        Event::HostRegistered => (HOST | ACTOR | SUBJECT, 0),
        Event::Enrolled => (ON_HOST | SUBJECT, 0),
        Event::Granted => (ON_HOST | LEASE | INPUTS | SUBJECT, CLAIMS | CREDENTIAL),
        Event::Renewed => (ON_HOST | LEASE, CREDENTIAL),
        Event::Denied => (ON_HOST | REASONS | SUBJECT, INPUTS | CLAIMS),
        Event::Lapsed => (ON_HOST | REASONS, 0),
        Event::Revoked => (ON_HOST | REASONS, ACTOR | SUBJECT | INPUTS | CLAIMS),
        Event::Readmitted => (ON_HOST | ACTOR, 0),
        Event::ReferenceRegistered
        | Event::ReferenceWithdrawn
        | Event::PolicyActivated
        | Event::WaiverRegistered
        | Event::WaiverEnded
        | Event::InstanceDenied
        | Event::DenialWithdrawn
        | Event::CollateralChanged
        | Event::RevocationOrdered => (ACTOR | SUBJECT, 0),
    }
}

impl Wire {
    fn members(&self) -> u16 {
        let member = |bit: u16, there: bool| if there { bit } else { 0 };
        member(HOST, self.host.is_some())
            | member(GENERATION, self.generation.is_some())
            | member(REVISION, self.revision.is_some())
            | member(PARENT, self.parent.is_some())
            | member(LEASE, self.lease_until.is_some())
            | member(REASONS, self.reasons.is_some())
            | member(INPUTS, self.inputs.is_some())
            | member(CLAIMS, self.claims.is_some())
            | member(CREDENTIAL, self.credential.is_some())
            | member(ACTOR, self.actor.is_some())
            | member(SUBJECT, self.subject.is_some())
            | member(CODE_VERSION, self.code_version.is_some())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct WireCredential {
    #[cbor(n(0), with = "minicbor::bytes")]
    serial: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    key: [u8; 32],
    #[n(2)]
    status_index: u64,
    #[n(3)]
    not_after: u64,
    #[n(4)]
    workload: Option<WireWorkload>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct WireWorkload {
    #[cbor(n(0), with = "minicbor::bytes")]
    serial: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    key: [u8; 32],
}

impl Entry {
    fn new(at: UnixMillis, event: Event) -> Self {
        let wire = Wire {
            version: VERSION,
            at: at.0,
            event,
            host: None,
            generation: None,
            revision: None,
            lease_until: None,
            reasons: None,
            inputs: None,
            claims: None,
            credential: None,
            parent: None,
            actor: None,
            subject: None,
            code_version: None,
        };
        Self { wire, host: None }
    }

    fn of_host(mut self, on: HostRevision) -> Self {
        self.wire.host = Some(on.host.to_string());
        self.wire.generation = Some(on.generation);
        self.wire.revision = Some(on.revision);
        self.wire.parent = Some(on.parent);
        self.host = Some(on.host);
        self
    }

    fn of_decision(mut self, decision: DecisionRecord) -> Self {
        self.wire.inputs = decision.inputs.map(|digest| digest.0);
        self.wire.claims = decision.claims.map(|digest| digest.0);
        self.wire.subject = Some(decision.decision.0);
        self.wire.reasons = (!decision.reasons.is_empty()).then_some(decision.reasons);
        self
    }

    /// A broker process took up its work with this version of the code.
    #[must_use]
    pub fn broker_started(at: UnixMillis, code_version: &str) -> Self {
        let mut entry = Self::new(at, Event::BrokerStarted);
        entry.wire.code_version = Some(code_version.to_string());
        entry
    }

    /// An operator registered a host; `subject` is the digest of its record.
    #[must_use]
    pub fn host_registered(at: UnixMillis, host: HostId, actor: &str, subject: Sha256Digest) -> Self {
        let mut entry = Self::new(at, Event::HostRegistered);
        entry.wire.host = Some(host.to_string());
        entry.wire.actor = Some(actor.to_string());
        entry.wire.subject = Some(subject.0);
        entry.host = Some(host);
        entry
    }

    /// A host proved its TPM and AK; `subject` is the digest of its record.
    #[must_use]
    pub fn enrolled(at: UnixMillis, on: HostRevision, subject: Sha256Digest) -> Self {
        let mut entry = Self::new(at, Event::Enrolled).of_host(on);
        entry.wire.subject = Some(subject.0);
        entry
    }

    /// A granted appraisal with its inputs, and with the credential it issues if the key is new.
    #[must_use]
    pub fn granted(
        at: UnixMillis,
        on: HostRevision,
        decision: DecisionRecord,
        lease_until: UnixMillis,
        credential: Option<CredentialRecord>,
    ) -> Self {
        Self::new(at, Event::Granted).of_host(on).of_decision(decision).lease(lease_until, credential)
    }

    /// A granted appraisal whose claims are those of the last full record: no inputs are kept.
    #[must_use]
    pub fn renewed(
        at: UnixMillis,
        on: HostRevision,
        lease_until: UnixMillis,
        credential: Option<CredentialRecord>,
    ) -> Self {
        Self::new(at, Event::Renewed).of_host(on).lease(lease_until, credential)
    }

    /// A denied decision that takes no trust away.
    #[must_use]
    pub fn denied(at: UnixMillis, on: HostRevision, decision: DecisionRecord) -> Self {
        Self::new(at, Event::Denied).of_host(on).of_decision(decision)
    }

    /// A lease ended.
    #[must_use]
    pub fn lapsed(at: UnixMillis, on: HostRevision) -> Self {
        let mut entry = Self::new(at, Event::Lapsed).of_host(on);
        entry.wire.reasons = Some(alloc::vec!["trust.lapsed".to_string()]);
        entry
    }

    /// A denied decision that takes the host's trust away.
    #[must_use]
    pub fn revoked_by_decision(at: UnixMillis, on: HostRevision, decision: DecisionRecord) -> Self {
        Self::new(at, Event::Revoked).of_host(on).of_decision(decision)
    }

    /// An operator took the host's trust away.
    #[must_use]
    pub fn revoked_by_operator(at: UnixMillis, on: HostRevision, actor: &str, reason: &str) -> Self {
        let mut entry = Self::new(at, Event::Revoked).of_host(on);
        entry.wire.actor = Some(actor.to_string());
        entry.wire.reasons = Some(alloc::vec![reason.to_string()]);
        entry
    }

    /// An operator lets a revoked host prove itself again.
    #[must_use]
    pub fn readmitted(at: UnixMillis, on: HostRevision, actor: &str) -> Self {
        let mut entry = Self::new(at, Event::Readmitted).of_host(on);
        entry.wire.actor = Some(actor.to_string());
        entry
    }

    /// An operator registered a reference manifest; `subject` is its digest.
    #[must_use]
    pub fn reference_registered(at: UnixMillis, actor: &str, subject: Sha256Digest) -> Self {
        Self::governed(at, Event::ReferenceRegistered, actor, subject)
    }

    /// An operator withdrew a reference manifest.
    #[must_use]
    pub fn reference_withdrawn(at: UnixMillis, actor: &str, subject: Sha256Digest) -> Self {
        Self::governed(at, Event::ReferenceWithdrawn, actor, subject)
    }

    /// A policy set came into force; the actor is who started the broker with it.
    #[must_use]
    pub fn policy_activated(at: UnixMillis, actor: &str, subject: Sha256Digest) -> Self {
        Self::governed(at, Event::PolicyActivated, actor, subject)
    }

    /// A waiver came into force; the actor is who registered it, `subject` the digest of its text and signature.
    #[must_use]
    pub fn waiver_registered(at: UnixMillis, actor: &str, subject: Sha256Digest) -> Self {
        Self::governed(at, Event::WaiverRegistered, actor, subject)
    }

    /// A waiver ended; the actor is an operator, or the broker that saw its date pass.
    #[must_use]
    pub fn waiver_ended(at: UnixMillis, actor: &str, subject: Sha256Digest) -> Self {
        Self::governed(at, Event::WaiverEnded, actor, subject)
    }

    /// An operator no longer believes a piece of hardware; `subject` is the denial's digest.
    #[must_use]
    pub fn instance_denied(at: UnixMillis, actor: &str, subject: Sha256Digest) -> Self {
        Self::governed(at, Event::InstanceDenied, actor, subject)
    }

    /// An operator believes it again.
    #[must_use]
    pub fn denial_withdrawn(at: UnixMillis, actor: &str, subject: Sha256Digest) -> Self {
        Self::governed(at, Event::DenialWithdrawn, actor, subject)
    }

    /// Collateral came into force; the actor is the operator who brought it, or the broker that fetched it, and
    /// `subject` the digest of all collateral in its archived form.
    #[must_use]
    pub fn collateral_changed(at: UnixMillis, actor: &str, subject: Sha256Digest) -> Self {
        Self::governed(at, Event::CollateralChanged, actor, subject)
    }

    /// An operator ordered the revocation of all hosts of a kind; `subject` is the digest of the order. The revocations
    /// follow it.
    #[must_use]
    pub fn revocation_ordered(at: UnixMillis, actor: &str, subject: Sha256Digest) -> Self {
        Self::governed(at, Event::RevocationOrdered, actor, subject)
    }

    fn governed(at: UnixMillis, event: Event, actor: &str, subject: Sha256Digest) -> Self {
        let mut entry = Self::new(at, event);
        entry.wire.actor = Some(actor.to_string());
        entry.wire.subject = Some(subject.0);
        entry
    }

    fn lease(mut self, until: UnixMillis, credential: Option<CredentialRecord>) -> Self {
        self.wire.lease_until = Some(until.0);
        self.wire.credential = credential.map(|credential| WireCredential {
            serial: credential.serial,
            key: credential.key.0,
            status_index: credential.status_index,
            not_after: credential.not_after.0,
            workload: credential.workload.map(|workload| WireWorkload { serial: workload.serial, key: workload.key.0 }),
        });
        self
    }

    /// The deterministic encoding.
    ///
    /// # Errors
    /// [`LineageReason::EntryMembers`] when a text, a list or the whole is over its limit.
    pub fn encode(&self) -> Result<Vec<u8>, Rejection> {
        self.check()?;
        // Writing to memory does not fail.
        let bytes = minicbor::to_vec(&self.wire)
            .map_err(|error| LineageReason::EntryMembers.because("an encodable entry", error.to_string()))?;
        if BYTES_MAX < bytes.len() {
            return Err(LineageReason::EntryMembers.because(BYTES_MAX, bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads an entry, with exactly one encoding for each.
    ///
    /// # Errors
    /// A `lineage.entry` reason.
    pub fn decode(bytes: &[u8]) -> Result<Self, Rejection> {
        if BYTES_MAX < bytes.len() {
            return Err(LineageReason::EntryEncoding.because(BYTES_MAX, bytes.len()));
        }
        let wire: Wire = minicbor::decode(bytes)
            .map_err(|error| LineageReason::EntryEncoding.because("deterministic CBOR", error.to_string()))?;
        let host = match &wire.host {
            None => None,
            Some(text) => {
                let refused = || LineageReason::EntryMembers.because("a host id", text);
                Some(HostId::parse(text).ok_or_else(refused)?)
            }
        };
        let entry = Self { wire, host };
        entry.check()?;
        // Unknown members, another order, longer integers, trailing bytes: all differ from what we would write.
        let canonical = minicbor::to_vec(&entry.wire).unwrap_or_default();
        if canonical != bytes {
            return Err(LineageReason::EntryEncoding.because("the one encoding of this entry", "another one"));
        }
        Ok(entry)
    }

    /// Each event's own members, no others, and each within its limit.
    fn check(&self) -> Result<(), Rejection> {
        let wire = &self.wire;
        let refused = |expected: &str| Err(LineageReason::EntryMembers.because(expected, wire.event.name()));
        if wire.version != VERSION {
            return Err(LineageReason::EntryVersion.because(VERSION, wire.version));
        }
        let members = wire.members();
        let (required, optional) = members_of(wire.event);
        if members & required != required {
            return refused("the members of this event");
        }
        if members & !(required | optional) != 0 {
            return refused("no members of other events");
        }
        // Somebody's, or some decision's, and not both.
        let by_decision = members & SUBJECT != 0;
        let by_actor = members & ACTOR != 0;
        let half = by_decision == by_actor || (by_actor && members & (INPUTS | CLAIMS) != 0);
        if wire.event == Event::Revoked && half {
            return refused("a decision or an actor");
        }
        if wire.reasons.as_ref().is_some_and(Vec::is_empty) {
            return refused("no empty list of reasons");
        }
        // An entry is printed on terminals.
        let short = |text: &String| text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control);
        let texts = wire.reasons.iter().flatten().chain(&wire.actor).chain(&wire.code_version).all(short);
        if !texts || wire.reasons.as_ref().is_some_and(|reasons| REASONS_MAX < reasons.len()) {
            return refused("short, printable texts and few reasons");
        }
        let serials = wire.credential.iter().flat_map(|credential| {
            [Some(&credential.serial), credential.workload.as_ref().map(|workload| &workload.serial)]
        });
        if serials.flatten().any(|serial| !(1..=20).contains(&serial.len())) {
            return refused("a serial number of 1 to 20 bytes");
        }
        Ok(())
    }

    /// What happened.
    #[must_use]
    pub const fn event(&self) -> Event {
        self.wire.event
    }

    /// When.
    #[must_use]
    pub const fn at(&self) -> UnixMillis {
        UnixMillis(self.wire.at)
    }

    /// To which host.
    #[must_use]
    pub const fn host(&self) -> Option<&HostId> {
        self.host.as_ref()
    }

    /// The host's generation.
    #[must_use]
    pub const fn generation(&self) -> Option<u64> {
        self.wire.generation
    }

    /// The host's revision that this was made on.
    #[must_use]
    pub const fn revision(&self) -> Option<u64> {
        self.wire.revision
    }

    /// End of the lease.
    #[must_use]
    pub fn lease_until(&self) -> Option<UnixMillis> {
        self.wire.lease_until.map(UnixMillis)
    }

    /// Why, as codes.
    #[must_use]
    pub fn reasons(&self) -> &[String] {
        self.wire.reasons.as_deref().unwrap_or_default()
    }

    /// Digest of the archived inputs.
    #[must_use]
    pub fn inputs(&self) -> Option<Sha256Digest> {
        self.wire.inputs.map(Sha256Digest)
    }

    /// Digest of the claims.
    #[must_use]
    pub fn claims(&self) -> Option<Sha256Digest> {
        self.wire.claims.map(Sha256Digest)
    }

    /// The credential that was issued.
    #[must_use]
    pub fn credential(&self) -> Option<CredentialRecord> {
        self.wire.credential.as_ref().map(|credential| CredentialRecord {
            serial: credential.serial.clone(),
            key: Sha256Digest(credential.key),
            status_index: credential.status_index,
            not_after: UnixMillis(credential.not_after),
            workload: credential
                .workload
                .as_ref()
                .map(|workload| WorkloadRecord { serial: workload.serial.clone(), key: Sha256Digest(workload.key) }),
        })
    }

    /// Index of the host's entry before this one.
    #[must_use]
    pub const fn parent(&self) -> Option<u64> {
        self.wire.parent
    }

    /// The operator who did it.
    #[must_use]
    pub fn actor(&self) -> Option<&str> {
        self.wire.actor.as_deref()
    }

    /// Digest of what the entry is about: a decision, a record, a manifest, a policy set.
    #[must_use]
    pub fn subject(&self) -> Option<Sha256Digest> {
        self.wire.subject.map(Sha256Digest)
    }

    /// The version of the code that was started.
    #[must_use]
    pub fn code_version(&self) -> Option<&str> {
        self.wire.code_version.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use super::{CredentialRecord, DecisionRecord, Entry, HostRevision, WorkloadRecord};
    use crate::digest::Sha256Digest;
    use crate::protocol::HostId;
    use crate::time::UnixMillis;

    const AT: UnixMillis = UnixMillis(1_795_408_496_007);

    fn on() -> HostRevision {
        HostRevision { host: HostId::parse("gpu-17").unwrap(), generation: 2, revision: 9, parent: 1_000_000 }
    }

    fn decision(reasons: &[&str]) -> DecisionRecord {
        DecisionRecord {
            inputs: Some(Sha256Digest([1; 32])),
            claims: Some(Sha256Digest([2; 32])),
            decision: Sha256Digest([3; 32]),
            reasons: reasons.iter().map(|reason| (*reason).to_string()).collect(),
        }
    }

    fn credential() -> CredentialRecord {
        CredentialRecord {
            serial: vec![7; 16],
            key: Sha256Digest([4; 32]),
            status_index: 5,
            not_after: AT.plus(1),
            workload: None,
        }
    }

    fn every_event() -> vec::Vec<Entry> {
        let digest = Sha256Digest([8; 32]);
        let host = on().host;
        let workload = Some(WorkloadRecord { serial: vec![9; 16], key: digest });
        vec![
            Entry::broker_started(AT, "0.1.0"),
            Entry::host_registered(AT, host, "admin", digest),
            Entry::enrolled(AT, on(), digest),
            Entry::granted(AT, on(), decision(&[]), AT.plus(45_000), Some(credential())),
            Entry::renewed(AT, on(), AT.plus(45_000), None),
            Entry::renewed(AT, on(), AT.plus(45_000), Some(CredentialRecord { workload, ..credential() })),
            Entry::denied(AT, on(), decision(&["tpm.quote.magic"])),
            Entry::lapsed(AT, on()),
            Entry::revoked_by_decision(AT, on(), decision(&["reference.pcr_mismatch"])),
            Entry::revoked_by_operator(AT, on(), "admin", "operator.revoked"),
            Entry::readmitted(AT, on(), "admin"),
            Entry::reference_registered(AT, "admin", digest),
            Entry::reference_withdrawn(AT, "admin", digest),
            Entry::policy_activated(AT, "admin", digest),
            Entry::waiver_registered(AT, "admin", digest),
            Entry::waiver_ended(AT, "broker", digest),
            Entry::instance_denied(AT, "admin", digest),
            Entry::denial_withdrawn(AT, "admin", digest),
            Entry::collateral_changed(AT, "broker", digest),
            Entry::revocation_ordered(AT, "admin", digest),
        ]
    }

    #[test]
    fn decode_inverts_encode_for_every_event() {
        for entry in every_event() {
            assert_eq!(Entry::decode(&entry.encode().unwrap()), Ok(entry));
        }
    }

    #[test]
    fn an_unchanged_renewal_is_small() {
        let size = Entry::renewed(AT, on(), AT.plus(45_000), None).encode().unwrap().len();
        assert!(size <= 100, "{size} bytes");
    }

    #[test]
    fn one_entry_has_one_encoding() {
        for entry in every_event() {
            let bytes = entry.encode().unwrap();
            let trailing = [&bytes[..], &[0]].concat();
            assert_eq!(Entry::decode(&trailing).unwrap_err().code(), "lineage.entry.encoding");
            for cut in 0..bytes.len() {
                assert!(Entry::decode(&bytes[..cut]).is_err(), "{:?} cut at {cut}", entry.event());
            }
            // One more pair in the map: an unknown member.
            let mut unknown = bytes.clone();
            assert!(unknown[0] < 0xb7, "a short map");
            unknown[0] += 1;
            unknown.extend_from_slice(&[0x18, 99, 1]);
            assert_eq!(Entry::decode(&unknown).unwrap_err().code(), "lineage.entry.encoding");
        }
    }

    #[test]
    fn each_member_belongs_to_its_events() {
        for entry in every_event() {
            entry.encode().unwrap();
            let mut stray = [(); 9].map(|()| entry.clone());
            stray[0].wire.lease_until = Some(1);
            stray[1].wire.reasons = Some(vec!["x".to_string()]);
            stray[2].wire.inputs = Some([1; 32]);
            stray[3].wire.claims = Some([1; 32]);
            stray[4].wire.actor = Some("x".to_string());
            stray[5].wire.subject = Some([1; 32]);
            stray[6].wire.code_version = Some("x".to_string());
            stray[7].wire.parent = Some(1);
            stray[8].wire.reasons = Some(vec![]);
            for (member, other) in stray.into_iter().enumerate() {
                let same = other.wire.members() == entry.wire.members() && member != 8;
                let optional = super::members_of(entry.event()).1 & other.wire.members() & !entry.wire.members();
                if !same && optional == 0 {
                    assert_eq!(
                        other.encode().unwrap_err().code(),
                        "lineage.entry.members",
                        "{} {member}",
                        entry.event()
                    );
                }
            }
        }
        let both = Entry { wire: super::Wire { actor: Some("a".to_string()), ..revoked().wire }, ..revoked() };
        assert_eq!(both.encode().unwrap_err().code(), "lineage.entry.members", "a decision or an actor");
        let neither = Entry { wire: super::Wire { subject: None, ..revoked().wire }, ..revoked() };
        assert_eq!(neither.encode().unwrap_err().code(), "lineage.entry.members", "a decision or an actor");
        let escape = Entry::revoked_by_operator(AT, on(), "a\u{1b}[2J", "x");
        assert_eq!(escape.encode().unwrap_err().code(), "lineage.entry.members", "it would be printed");
    }

    fn revoked() -> Entry {
        Entry::revoked_by_decision(AT, on(), decision(&["x"]))
    }

    #[test]
    fn members_are_those_of_the_event() {
        let code = |entry: Entry| entry.encode().map(drop).map_err(|rejection| rejection.code());
        let members = Err("lineage.entry.members");
        assert_eq!(code(Entry::denied(AT, on(), decision(&[]))), members, "a denial says why");
        assert_eq!(code(Entry::granted(AT, on(), decision(&["x"]), AT, None)), members, "a grant has no reasons");
        let without = DecisionRecord { inputs: None, ..decision(&[]) };
        assert_eq!(code(Entry::granted(AT, on(), without, AT, None)), members, "a grant can be replayed");
        assert_eq!(code(Entry::broker_started(AT, &"x".repeat(129))), members);
        let workload = WorkloadRecord { serial: vec![1; 21], key: Sha256Digest([5; 32]) };
        let long = CredentialRecord { workload: Some(workload), ..credential() };
        assert_eq!(code(Entry::renewed(AT, on(), AT, Some(long))), members);
        let long = CredentialRecord { serial: vec![1; 21], ..credential() };
        assert_eq!(code(Entry::renewed(AT, on(), AT, Some(long))), members);
        let mut wrong = Entry::broker_started(AT, "1");
        wrong.wire.version = 2;
        assert_eq!(code(wrong), Err("lineage.entry.version"));
    }
}
