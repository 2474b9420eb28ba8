//! Cedar policies: what must hold beside matching measurements. A set is validated strictly against one schema when it
//! is loaded, and any error while it is evaluated denies.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cedar_policy::{
    Authorizer, Decision, Effect, PolicyId, PrincipalConstraint, ResourceConstraint, Schema, ValidationMode, Validator,
};
use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::Assurance;
use countersign_attestation::claims::{
    Claims, ClockInfo, HexBytes, KeyAuthorization, Presented, Revocation, TpmClaims, TpmIdentity, TpmKeyClaims, TpmKind,
};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::HostId;

use crate::context::Vocabulary;
use crate::decision::HostFacts;
use crate::finding::{Finding, PolicyReason};
use crate::matching::ImaTallies;
use crate::nesting::nesting;
use crate::reference::{NAME_RULE, RESETTABLE, ReferenceManifest, is_name};
use crate::waiver::Accepted;

/// The schema every policy is validated against.
pub const SCHEMA: &str = include_str!("../schema/countersign.cedarschema");

/// The policies we ship, by name. A new trust domain starts with `baseline` and `hardware-strict`.
pub const SHIPPED: &[(&str, &str)] = &[
    ("baseline", include_str!("../shipped/baseline.cedar")),
    ("confidential-tdx", include_str!("../shipped/confidential-tdx.cedar")),
    ("confidential-vm", include_str!("../shipped/confidential-vm.cedar")),
    ("hardware-balanced", include_str!("../shipped/hardware-balanced.cedar")),
    ("hardware-strict", include_str!("../shipped/hardware-strict.cedar")),
    ("measured-boot", include_str!("../shipped/measured-boot.cedar")),
    ("milan-co-root", include_str!("../shipped/milan-co-root.cedar")),
    ("runtime-integrity", include_str!("../shipped/runtime-integrity.cedar")),
    ("simulated", include_str!("../shipped/simulated.cedar")),
];

/// All texts of a set together: a few thousand lines. Parsing is superlinear in hostile text.
const TEXT_BYTES_MAX: usize = 256 * 1024;
/// Texts in a set.
const TEXTS_MAX: usize = 64;
/// Policies in a set: each is evaluated for every appraisal.
const POLICIES_MAX: usize = 512;

/// Levels of brackets, clauses, chained operators and member paths in a policy, together. Cedar's evaluator needs some
/// 60 KiB of stack for each in a debug build, and a thread has 2 MiB: this leaves a quarter of it.
pub(crate) const NESTING_MAX: usize = 25;

/// A validated policy set. [`PolicySet::parse`] is the only constructor.
#[derive(Clone, Debug)]
pub struct PolicySet {
    texts: BTreeMap<String, String>,
    policies: cedar_policy::PolicySet,
    /// Permits that name the simulated class.
    admit_simulated: BTreeSet<PolicyId>,
    authorizer: Authorizer,
    vocabulary: Vocabulary,
    digest: Sha256Digest,
}

/// Texts of this name lie over the others and can only tighten: they hold no permit, and Cedar's forbid always wins.
/// Whoever writes them, for a cell or a tenant, admits nobody.
const OVERLAY: &str = "overlay-";

/// What the policies say, before anything else is weighed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// These policies permit; no policy forbids, none failed. Ids in order, never empty.
    Permitted(Vec<String>),
    /// Why not. Never empty.
    Refused(Finding, Vec<Finding>),
}

impl PolicySet {
    /// Parses and validates `(name, text)` pairs, in any order. A policy's id is `name/` and its `@id`, or its
    /// position.
    ///
    /// # Errors
    /// A finding that says what is not acceptable: anything the strict validator warns of, an empty set or text, a set
    /// that permits nothing, an unconditional permit, a template, a wildcard.
    pub fn parse(texts: &[(&str, &str)]) -> Result<Self, Finding> {
        let vocabulary = Vocabulary::new()?;
        let (kept, policies) = parse_texts(texts)?;
        for policy in &policies {
            check_policy(policy)?;
            check_permit(policy, &vocabulary)?;
        }
        let names_simulated = |policy: &&cedar_policy::Policy| {
            let affirms = |json| affirms(&json, vocabulary.simulated(), true);
            policy.effect() == Effect::Permit && policy.to_json().is_ok_and(affirms)
        };
        let admit_simulated = policies.iter().filter(names_simulated).map(|policy| policy.id().clone()).collect();
        let policies = cedar_policy::PolicySet::from_policies(policies)
            .map_err(|error| PolicyReason::PolicyName.because("each policy id once", error))?;
        validate(&policies, schema()?)?;
        let digest = digest_of(b"countersign/v1/policies\0", &kept);
        Ok(Self { texts: kept, policies, admit_simulated, authorizer: Authorizer::new(), vocabulary, digest })
    }

    /// The texts the set was parsed from, by name.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// SHA-256 over every name and text, in the order of the names.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Asks the policies. References are the caller's to insist on; here they are one fact among others.
    pub(crate) fn authorize(
        &self,
        claims: &Claims,
        tallies: &ImaTallies,
        host: &HostFacts<'_>,
        matched: Option<&ReferenceManifest>,
        accepted: &Accepted<'_>,
        now: UnixMillis,
    ) -> Verdict {
        let (request, entities) = match self.vocabulary.request(claims, tallies, host, matched, accepted, now) {
            Ok(request) => request,
            Err(finding) => return Verdict::Refused(finding, Vec::new()),
        };
        let response = self.authorizer.is_authorized(&request, &self.policies, &entities);
        // Cedar skips a policy whose evaluation fails. A skipped forbid would be a check turned off, so any error
        // denies, whatever the others say. Sorted: Cedar's order is that of a hash table.
        let mut errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
        errors.sort_unstable();
        let mut errors = errors
            .into_iter()
            .map(|error| PolicyReason::EvaluationError.because("every policy to be evaluated without error", error));
        if let Some(first) = errors.next() {
            return Verdict::Refused(first, errors.collect());
        }
        let determining: BTreeSet<&PolicyId> = response.diagnostics().reason().collect();
        match response.decision() {
            Decision::Allow => self.permitted(claims.assurance, &determining),
            Decision::Deny => self.forbidden(&determining),
        }
    }

    fn permitted(&self, assurance: Assurance, permits: &BTreeSet<&PolicyId>) -> Verdict {
        let admits = |id: &&&PolicyId| match assurance {
            Assurance::Hardware => true,
            Assurance::Simulated => self.admit_simulated.contains(**id),
        };
        let names: Vec<String> = permits.iter().filter(admits).map(ToString::to_string).collect();
        if names.is_empty() {
            let permits: Vec<String> = permits.iter().map(ToString::to_string).collect();
            let found = format_args!("simulated, permitted only by {}", permits.join(", "));
            let expected = "hardware, or a permit that names Assurance::\"simulated\"";
            return Verdict::Refused(PolicyReason::SimulatedNotNamed.because(expected, found), Vec::new());
        }
        Verdict::Permitted(names)
    }

    /// Without a determining policy, nothing permitted; otherwise each of them forbids.
    fn forbidden(&self, forbids: &BTreeSet<&PolicyId>) -> Verdict {
        let explain = |id: &&PolicyId| {
            let reason = self.policies.annotation(id, "reason").unwrap_or("what the policy demands").to_owned();
            PolicyReason::Forbidden
                .because(reason, format_args!("forbidden by {id}"))
                .with_remedy(self.policies.annotation(id, "remedy"))
        };
        let mut findings = forbids.iter().map(explain);
        match findings.next() {
            Some(first) => Verdict::Refused(first, findings.collect()),
            None => Verdict::Refused(self.no_permit(), Vec::new()),
        }
    }

    /// What each permit would have asked for.
    fn no_permit(&self) -> Finding {
        let permits: BTreeMap<&PolicyId, &str> = self
            .policies
            .policies()
            .filter(|policy| policy.effect() == Effect::Permit)
            .map(|policy| (policy.id(), policy.annotation("reason").unwrap_or("its conditions")))
            .collect();
        let expected: Vec<String> = permits.iter().map(|(id, reason)| format!("{id}: {reason}")).collect();
        PolicyReason::NoPermit.because(expected.join("; "), "no permit whose conditions hold")
    }
}

/// The texts by name, and all their policies. At least one permits.
pub(crate) fn parse_texts(
    texts: &[(&str, &str)],
) -> Result<(BTreeMap<String, String>, Vec<cedar_policy::Policy>), Finding> {
    check_sizes(texts)?;
    let mut kept = BTreeMap::new();
    let mut policies = Vec::new();
    for (name, text) in texts {
        if !is_name(name) || kept.insert((*name).to_owned(), (*text).to_owned()).is_some() {
            let found = format_args!("`{name}`");
            return Err(PolicyReason::PolicyName.because(format_args!("once: {NAME_RULE}"), found));
        }
        policies.extend(parse_text(name, text)?);
    }
    if POLICIES_MAX < policies.len() {
        let expected = format_args!("at most {POLICIES_MAX} policies");
        return Err(PolicyReason::PolicySize.because(expected, policies.len()));
    }
    if !policies.iter().any(|policy| policy.effect() == Effect::Permit) {
        let found = format_args!("{} policies, none a permit", policies.len());
        return Err(PolicyReason::PolicyNoPermit.because("at least one permit", found));
    }
    Ok((kept, policies))
}

fn check_sizes(texts: &[(&str, &str)]) -> Result<(), Finding> {
    if texts.is_empty() {
        return Err(PolicyReason::PolicyEmpty.because("at least one policy text", "none"));
    }
    if TEXTS_MAX < texts.len() {
        return Err(PolicyReason::PolicySize.because(format_args!("at most {TEXTS_MAX} texts"), texts.len()));
    }
    let bytes: usize = texts.iter().map(|(_, text)| text.len()).fold(0, usize::saturating_add);
    if TEXT_BYTES_MAX < bytes {
        let expected = format_args!("at most {TEXT_BYTES_MAX} bytes of text");
        return Err(PolicyReason::PolicySize.because(expected, format_args!("{bytes} bytes")));
    }
    Ok(())
}

pub(crate) fn schema() -> Result<Schema, Finding> {
    let (schema, warnings) = Schema::from_cedarschema_str(SCHEMA)
        .map_err(|error| PolicyReason::PolicyInvalid.because("the built-in schema to parse", error))?;
    drop(warnings);
    Ok(schema)
}

fn parse_text(name: &str, text: &str) -> Result<Vec<cedar_policy::Policy>, Finding> {
    let levels = nesting(text);
    if NESTING_MAX < levels {
        let expected = format_args!("at most {NESTING_MAX} levels");
        return Err(PolicyReason::PolicyNesting.because(expected, format_args!("{levels} in `{name}`")));
    }
    let set: cedar_policy::PolicySet = text.parse().map_err(|error: cedar_policy::ParseErrors| {
        let causes: Vec<String> = error.iter().map(ToString::to_string).collect();
        PolicyReason::PolicySyntax.because("Cedar policies", format_args!("`{name}`: {}", causes.join("; ")))
    })?;
    if let Some(template) = set.templates().next() {
        return Err(PolicyReason::PolicyTemplate.because("no slots", format_args!("{} in `{name}`", template.id())));
    }
    if set.is_empty() {
        return Err(PolicyReason::PolicyEmpty.because("at least one policy", format_args!("none in `{name}`")));
    }
    if name.starts_with(OVERLAY)
        && let Some(permit) = set.policies().find(|policy| policy.effect() == Effect::Permit)
    {
        return Err(PolicyReason::PolicyOverlay.because("forbid", format_args!("{} of `{name}` permits", permit.id())));
    }
    let renamed = set.policies().map(|policy| {
        // Without an `@id`, Cedar's own name tells the position: policy0, policy1.
        let id = policy.annotation("id").map_or_else(|| policy.id().to_string(), ToOwned::to_owned);
        if !is_name(&id) {
            return Err(PolicyReason::PolicyName.because(NAME_RULE, format_args!("@id(\"{id}\") in `{name}`")));
        }
        Ok(policy.new_id(PolicyId::new(format!("{name}/{id}"))))
    });
    renamed.collect()
}

fn check_policy(policy: &cedar_policy::Policy) -> Result<(), Finding> {
    let id = policy.id();
    // An identity is one host or one domain. Patterns over identities are how a fleet's trust ends up with a stranger
    // whose name begins alike.
    for literal in policy.entity_literals() {
        let name = literal.id().unescaped();
        let exact = match literal.type_name().to_string().as_str() {
            "Host" => HostId::parse(name).is_some(),
            "TrustDomain" => is_name(name),
            // Closed sets: the validator knows their members.
            _ => true,
        };
        if !exact {
            return Err(PolicyReason::PolicyWildcard
                .because("the full name of one host or trust domain", format_args!("{literal} in {id}")));
        }
    }
    let json = policy.to_json().map_err(|error| PolicyReason::PolicySyntax.because("a Cedar policy", error))?;
    if uses_like(&json) {
        let found = format_args!("`like` in {id}");
        return Err(PolicyReason::PolicyWildcard.because("comparison with ==, contains or in", found));
    }
    if let Some(index) = names_resettable(&json) {
        let found = format_args!("PCR {index} in {id}");
        return Err(PolicyReason::PolicyPcrResettable.because("PCRs that only a restart resets", found));
    }
    Ok(())
}

/// A PCR that any software resets, where a policy compares a set of PCRs with numbers.
fn names_resettable(json: &serde_json::Value) -> Option<u8> {
    let number = |json: &serde_json::Value| {
        RESETTABLE.into_iter().find(|index| contains(json, &|json: &serde_json::Value| *json == *index))
    };
    match json {
        serde_json::Value::Object(members) => members.iter().find_map(|(name, value)| {
            let of_pcrs = |attribute: &serde_json::Value| PCR_SETS.iter().any(|set| attribute == set);
            let compares = SET_OPERATORS.contains(&name.as_str()) && contains(value, &of_pcrs);
            compares.then(|| number(value)).flatten().or_else(|| names_resettable(value))
        }),
        serde_json::Value::Array(values) => values.iter().find_map(names_resettable),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => None,
    }
}

/// Attributes that are sets of PCR indexes.
const PCR_SETS: [&str; 2] = ["replayed", "unexplained"];
const SET_OPERATORS: [&str; 4] = ["contains", "containsAll", "containsAny", "=="];

/// Whether `is` holds somewhere in a policy's JSON form.
fn contains(json: &serde_json::Value, is: &dyn Fn(&serde_json::Value) -> bool) -> bool {
    is(json)
        || match json {
            serde_json::Value::Object(members) => members.iter().any(|(_, value)| contains(value, is)),
            serde_json::Value::Array(values) => values.iter().any(|value| contains(value, is)),
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::String(_) => false,
        }
}

/// Asks a permit about a host that proved nothing: no manifest matches, every anchor is simulated, nothing is
/// presented. A condition that such a host meets (`true`, `x || !x`, `!context.reference.matched`) is none.
fn check_permit(policy: &cedar_policy::Policy, vocabulary: &Vocabulary) -> Result<(), Finding> {
    if policy.effect() == Effect::Forbid {
        return Ok(());
    }
    let id = policy.id();
    let host = match policy.principal_constraint() {
        PrincipalConstraint::Eq(host) | PrincipalConstraint::In(host) | PrincipalConstraint::IsIn(_, host) => {
            host.id().unescaped().to_owned()
        }
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => "nobody".to_owned(),
    };
    let domain = match policy.resource_constraint() {
        ResourceConstraint::Eq(domain) | ResourceConstraint::In(domain) | ResourceConstraint::IsIn(_, domain) => {
            domain.id().unescaped().to_owned()
        }
        ResourceConstraint::Any | ResourceConstraint::Is(_) => "nowhere".to_owned(),
    };
    let Some(host) = HostId::parse(&host) else {
        let found = format_args!("`{host}` in {id}");
        return Err(PolicyReason::PolicyWildcard.because("the full name of one host", found));
    };
    let labels = BTreeMap::new();
    let facts = HostFacts { id: &host, trust_domain: &domain, labels: &labels, generation: 0 };
    let (claims, tallies, accepted) = (nothing_proven(), ImaTallies::new(), Accepted::nothing());
    let (request, entities) = vocabulary.request(&claims, &tallies, &facts, None, &accepted, UnixMillis(0))?;
    let alone = cedar_policy::PolicySet::from_policies([policy.clone()])
        .map_err(|error| PolicyReason::PolicyName.because("each policy id once", error))?;
    match Authorizer::new().is_authorized(&request, &alone, &entities).decision() {
        Decision::Deny => Ok(()),
        Decision::Allow => {
            let found = format_args!("{id} permits it");
            Err(PolicyReason::PolicyUnconditional.because("no permit for a host that proved nothing", found))
        }
    }
}

fn nothing_proven() -> Claims {
    let nothing = Sha256Digest([0; 32]);
    Claims {
        assurance: Assurance::Simulated,
        tpm: TpmClaims {
            assurance: Assurance::Simulated,
            ak_name: HexBytes(Vec::new()),
            ek: nothing,
            identity: TpmIdentity::unnamed(TpmKind::Unknown),
            pcrs: BTreeMap::new(),
            firmware_version: 0,
            clock: ClockInfo { clock: 0, reset_count: 0, restart_count: 0, safe: false },
            credential_key: TpmKeyClaims {
                authorization: KeyAuthorization::Password,
                creation: Presented::NotPresented,
            },
            revocation: Revocation::NotPresented,
            lists_until: None,
        },
        credential_key: nothing,
        boot: Presented::NotPresented,
        ima: Presented::NotPresented,
        snp: Presented::NotPresented,
        tdx: Presented::NotPresented,
        rtmr: Presented::NotPresented,
        paravisor: Presented::NotPresented,
    }
}

/// Whether a policy's JSON form compares with `member` somewhere to find it, not to exclude it: `x != member`, a
/// negation around it and an `unless` name what the author does not want. Nests as the text does: [`NESTING_MAX`].
pub(crate) fn affirms(json: &serde_json::Value, member: &cedar_policy::EntityUid, affirmed: bool) -> bool {
    match json {
        serde_json::Value::Object(members) => {
            if let Some(literal) = members.get("__entity") {
                let part = |name| literal.get(name).and_then(serde_json::Value::as_str);
                let named = part("id") == Some(member.id().unescaped());
                return affirmed && named && part("type") == Some(&member.type_name().to_string());
            }
            let unless = members.get("kind").and_then(serde_json::Value::as_str) == Some("unless");
            members.iter().any(|(name, value)| {
                let turned = unless || matches!(name.as_str(), "!" | "!=");
                affirms(value, member, affirmed != turned)
            })
        }
        serde_json::Value::Array(values) => values.iter().any(|value| affirms(value, member, affirmed)),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => false,
    }
}

/// Whether the `like` operator is somewhere in a policy's JSON form, which nests as the text does: [`NESTING_MAX`].
pub(crate) fn uses_like(json: &serde_json::Value) -> bool {
    match json {
        serde_json::Value::Object(members) => {
            members.contains_key("like") || members.iter().any(|(_, value)| uses_like(value))
        }
        serde_json::Value::Array(values) => values.iter().any(uses_like),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => false,
    }
}

/// A warning tells of a policy that can never apply or that reads unlike it acts: both mean that its author is
/// mistaken.
pub(crate) fn validate(policies: &cedar_policy::PolicySet, schema: Schema) -> Result<(), Finding> {
    let result = Validator::new(schema).validate(policies, ValidationMode::Strict);
    let errors = result.validation_errors().map(ToString::to_string);
    let mut faults: Vec<String> = errors.chain(result.validation_warnings().map(ToString::to_string)).collect();
    faults.sort_unstable();
    if faults.is_empty() {
        return Ok(());
    }
    Err(PolicyReason::PolicyInvalid.because("policies that the schema validates", faults.join("; ")))
}

/// `purpose` keeps sets of different kinds apart.
pub(crate) fn digest_of(purpose: &[u8], texts: &BTreeMap<String, String>) -> Sha256Digest {
    // Each part by its own digest: lengths are fixed, so no two sets share an encoding.
    let mut input = purpose.to_vec();
    for (name, text) in texts {
        input.extend_from_slice(&Sha256Digest::of(&[name.as_bytes()]).0);
        input.extend_from_slice(&Sha256Digest::of(&[text.as_bytes()]).0);
    }
    Sha256Digest::of(&[&input])
}
