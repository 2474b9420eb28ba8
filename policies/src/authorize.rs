//! What an operator lets a trusted host ask of a service: Cedar policies at a gate, over the caller's verified
//! credential, the method, the path and the circumstances of one request. A set is validated strictly against its own
//! [`SCHEMA`] when it is loaded; nothing is parsed while a caller waits.
//!
//! Whether the host is trusted is not asked here. The gate knows it before, and no policy can make up for it.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use cedar_policy::{
    Authorizer, Context, Decision, Effect, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicyId, Request,
    RestrictedExpression, Schema,
};
use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::Assurance;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::HostId;

use crate::finding::{Finding, PolicyReason};
use crate::policy::{affirms, digest_of, parse_texts, uses_like, validate};

/// The schema every policy of a gate is validated against.
pub const SCHEMA: &str = include_str!("../schema/authorize.cedarschema");

/// Longest path read: what common servers accept.
const PATH_BYTES_MAX: usize = 8 * 1024;
/// Segments in a path: each is one more entity that the path lies in.
const SEGMENTS_MAX: usize = 64;

/// What a request is to do: an HTTP method. CONNECT, TRACE and whatever else a client spells have no name here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// `http:DELETE`
    Delete,
    /// `http:GET`
    Get,
    /// `http:HEAD`
    Head,
    /// `http:OPTIONS`
    Options,
    /// `http:PATCH`
    Patch,
    /// `http:POST`
    Post,
    /// `http:PUT`
    Put,
}

impl Action {
    /// Every action there is.
    pub const ALL: [Self; 7] = [Self::Delete, Self::Get, Self::Head, Self::Options, Self::Patch, Self::Post, Self::Put];

    /// The action of an HTTP method, which is case-sensitive (RFC 9110, 9.1).
    ///
    /// # Errors
    /// [`PolicyReason::AuthorizeAction`] for any other method.
    pub fn parse(method: &str) -> Result<Self, Finding> {
        let named = |action: &Self| action.name().strip_prefix("http:") == Some(method);
        let found = || PolicyReason::AuthorizeAction.because("one of the closed list", format_args!("`{method}`"));
        Self::ALL.into_iter().find(named).ok_or_else(found)
    }

    /// The name that policies use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delete => "http:DELETE",
            Self::Get => "http:GET",
            Self::Head => "http:HEAD",
            Self::Options => "http:OPTIONS",
            Self::Patch => "http:PATCH",
            Self::Post => "http:POST",
            Self::Put => "http:PUT",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A path that every reader reads alike: decoded segments, none empty, none a dot segment. [`Resource::parse`] is the
/// only constructor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    /// A slash before each segment; one slash alone for the root.
    path: String,
}

impl Resource {
    /// Reads the path of a request target in origin form (RFC 9112, 3.2.1), with or without its query. A slash at the
    /// end says nothing. What servers are known to read differently is refused: empty and dot segments, parameters
    /// after a semicolon, backslashes, an encoded slash or percent sign, control characters, and needless encoding.
    ///
    /// # Errors
    /// [`PolicyReason::AuthorizeResource`].
    pub fn parse(target: &str) -> Result<Self, Finding> {
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        if PATH_BYTES_MAX < path.len() {
            return Err(ambiguous(format_args!("a path of {} bytes", path.len())));
        }
        let rest = path.strip_prefix('/').ok_or_else(|| ambiguous("no slash at the start"))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() {
            // `//` has an empty segment, `/` has none.
            return if path == "/" { Ok(Self { path: "/".to_owned() }) } else { Err(ambiguous("an empty segment")) };
        }
        let mut decoded = String::new();
        for (index, segment) in rest.split('/').enumerate() {
            if SEGMENTS_MAX <= index {
                return Err(ambiguous(format_args!("more than {SEGMENTS_MAX} segments")));
            }
            decoded.push('/');
            decoded.push_str(&segment_of(segment)?);
        }
        Ok(Self { path: decoded })
    }

    /// The decoded path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// Every shorter path, up to the root.
    fn ancestors(&self) -> impl Iterator<Item = &str> {
        let shorter = self.path.match_indices('/').filter_map(|(at, _)| match at {
            0 => (self.path != "/").then_some("/"),
            at => self.path.get(..at),
        });
        shorter.collect::<Vec<_>>().into_iter()
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

fn ambiguous(found: impl fmt::Display) -> Finding {
    PolicyReason::AuthorizeResource.because("a path that every server reads alike", found)
}

/// One segment, decoded once (RFC 3986, 2.1). Never the caller's text in a finding: a path may hold a secret.
fn segment_of(segment: &str) -> Result<String, Finding> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let digits = [bytes.next(), bytes.next()].map(|digit| digit.unwrap_or_default());
            let mut value = [0];
            hex::decode_to_slice(digits, &mut value).map_err(|_| ambiguous("a broken percent-encoding"))?;
            let [byte] = value;
            // RFC 3986, 2.3: these are the same written out, and not every server knows it.
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                return Err(ambiguous("a character encoded that need not be"));
            }
            byte
        } else {
            byte
        };
        if byte.is_ascii_control() || matches!(byte, b'/' | b'\\' | b'%' | b';' | b'#') {
            return Err(ambiguous("a control character, or an encoded slash, backslash, semicolon, hash or percent"));
        }
        decoded.push(byte);
    }
    let decoded = String::from_utf8(decoded).map_err(|_| ambiguous("bytes that are not UTF-8"))?;
    match decoded.as_str() {
        "" => Err(ambiguous("an empty segment")),
        "." | ".." => Err(ambiguous("a dot segment")),
        _ => Ok(decoded),
    }
}

/// Who asks: what a credential says that was verified, and whose host is trusted now.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The host.
    pub host: &'a HostId,
    /// What the weakest trust anchor is worth.
    pub assurance: Assurance,
    /// The host's generation.
    pub generation: u64,
    /// Ids of the waivers it would have been denied without.
    pub waivers: &'a [String],
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The method.
    pub action: Action,
    /// The path.
    pub resource: Resource,
    /// The Host header's name, in lower case and without a port, where there is one.
    pub host: Option<String>,
    /// The caller's address, where the door learns it.
    pub peer: Option<IpAddr>,
}

/// The policies that permit a request. [`AuthorizationSet::authorize`] is the only constructor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit(Vec<String>);

impl Permit {
    /// Their ids, in order; never empty.
    #[must_use]
    pub fn policies(&self) -> &[String] {
        &self.0
    }
}

/// A validated set of an operator's policies. [`AuthorizationSet::parse`] is the only constructor.
#[derive(Clone, Debug)]
pub struct AuthorizationSet {
    policies: cedar_policy::PolicySet,
    /// Permits that name the simulated class.
    admit_simulated: BTreeSet<PolicyId>,
    authorizer: Authorizer,
    vocabulary: Vocabulary,
    digest: Sha256Digest,
}

impl AuthorizationSet {
    /// Parses and validates `(name, text)` pairs, in any order. A policy's id is `name/` and its `@id`, or its
    /// position.
    ///
    /// # Errors
    /// A finding that says what is not acceptable: anything the strict validator warns of, an empty set or text, a set
    /// that permits nothing, a template, a pattern, a host or path that no request can have.
    pub fn parse(texts: &[(&str, &str)]) -> Result<Self, Finding> {
        let vocabulary = Vocabulary::new()?;
        let (kept, policies) = parse_texts(texts)?;
        let mut admit_simulated = BTreeSet::new();
        for policy in &policies {
            let json = check_policy(policy)?;
            if policy.effect() == Effect::Permit && affirms(&json, &vocabulary.simulated, true) {
                admit_simulated.insert(policy.id().clone());
            }
        }
        let policies = cedar_policy::PolicySet::from_policies(policies)
            .map_err(|error| PolicyReason::PolicyName.because("each policy id once", error))?;
        validate(&policies, schema()?)?;
        let digest = digest_of(b"countersign/v1/authorize\0", &kept);
        Ok(Self { policies, admit_simulated, authorizer: Authorizer::new(), vocabulary, digest })
    }

    /// SHA-256 over every name and text, in the order of the names.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// How many policies there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.policies.num_of_policies()
    }

    /// Asks the policies about one request of a caller that is trusted now.
    ///
    /// # Errors
    /// Why not: a policy forbids it, none permits it, or one could not be evaluated.
    pub fn authorize(&self, caller: &Caller<'_>, asked: &Asked, now: UnixMillis) -> Result<Permit, Finding> {
        let (request, entities) = self.vocabulary.request(caller, asked, now, None)?;
        let response = self.authorizer.is_authorized(&request, &self.policies, &entities);
        // Cedar skips a policy whose evaluation fails. A skipped forbid would be a check turned off, so any error
        // denies, whatever the others say. Sorted: Cedar's order is that of a hash table.
        let mut errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
        errors.sort_unstable();
        if !errors.is_empty() {
            let found = errors.join("; ");
            return Err(PolicyReason::AuthorizeError.because("every policy to be evaluated without error", found));
        }
        let determining: BTreeSet<&PolicyId> = response.diagnostics().reason().collect();
        match response.decision() {
            Decision::Allow => self.permitted(caller.assurance, &determining),
            Decision::Deny => Err(self.denied(caller, asked, &determining)),
        }
    }

    fn permitted(&self, assurance: Assurance, permits: &BTreeSet<&PolicyId>) -> Result<Permit, Finding> {
        let admits = |id: &&&PolicyId| match assurance {
            Assurance::Hardware => true,
            Assurance::Simulated => self.admit_simulated.contains(**id),
        };
        let policies: Vec<String> = permits.iter().filter(admits).map(ToString::to_string).collect();
        if policies.is_empty() {
            let permits: Vec<String> = permits.iter().map(ToString::to_string).collect();
            let found = format_args!("simulated, permitted only by {}", permits.join(", "));
            let expected = "hardware, or a permit that names Assurance::\"simulated\"";
            return Err(PolicyReason::AuthorizeSimulated.because(expected, found));
        }
        Ok(Permit(policies))
    }

    /// Without a determining policy, nothing permitted; otherwise each of them forbids, and the first one speaks.
    fn denied(&self, caller: &Caller<'_>, asked: &Asked, forbids: &BTreeSet<&PolicyId>) -> Finding {
        let what = format!("{} on {} by {}", asked.action, asked.resource, caller.host.as_str());
        let Some(first) = forbids.first() else {
            return PolicyReason::AuthorizeNoPermit.because("a permit whose conditions hold", what);
        };
        let reason = self.policies.annotation(first, "reason").unwrap_or("what the policy demands").to_owned();
        let ids: Vec<String> = forbids.iter().map(ToString::to_string).collect();
        PolicyReason::AuthorizeForbidden
            .because(reason, format_args!("{what}, forbidden by {}", ids.join(", ")))
            .with_remedy(self.policies.annotation(first, "remedy"))
    }
}

fn schema() -> Result<Schema, Finding> {
    let (schema, warnings) = Schema::from_cedarschema_str(SCHEMA)
        .map_err(|error| PolicyReason::PolicyInvalid.because("the built-in schema to parse", error))?;
    drop(warnings);
    Ok(schema)
}

/// Identities and paths in full; the policy's JSON form.
fn check_policy(policy: &cedar_policy::Policy) -> Result<serde_json::Value, Finding> {
    let id = policy.id();
    for literal in policy.entity_literals() {
        let name = literal.id().unescaped();
        match literal.type_name().to_string().as_str() {
            "Host" if HostId::parse(name).is_none() => {
                let found = format_args!("{literal} in {id}");
                return Err(PolicyReason::PolicyWildcard.because("the full name of one host", found));
            }
            "Path" if !is_decoded_path(name) => {
                return Err(PolicyReason::PolicyPath.because("a decoded path", format_args!("{literal} in {id}")));
            }
            // Closed sets: the validator knows their members.
            _ => {}
        }
    }
    let json = policy.to_json().map_err(|error| PolicyReason::PolicySyntax.because("a Cedar policy", error))?;
    if uses_like(&json) {
        let found = format_args!("`like` in {id}");
        return Err(PolicyReason::PolicyWildcard.because("comparison with ==, contains or in", found));
    }
    Ok(json)
}

/// Whether some request has this path: what is not reserved and every byte that must be is written out.
fn is_decoded_path(path: &str) -> bool {
    let target: String = path
        .chars()
        .map(|character| match character {
            // These stand in a decoded path and not in a request target.
            '?' | ' ' | '"' => format!("%{:02X}", u32::from(character)),
            _ => character.to_string(),
        })
        .collect();
    Resource::parse(&target).is_ok_and(|resource| resource.path == path)
}

/// The names that are the same in every request.
#[derive(Clone, Debug)]
struct Vocabulary {
    host: EntityTypeName,
    path: EntityTypeName,
    action: EntityTypeName,
    hardware: EntityUid,
    simulated: EntityUid,
}

impl Vocabulary {
    /// Fails only if the names below are not Cedar identifiers, which every test would notice.
    fn new() -> Result<Self, Finding> {
        let assurance = type_name("Assurance")?;
        let member = |id: &str| EntityUid::from_type_name_and_id(assurance.clone(), EntityId::new(id));
        Ok(Self {
            host: type_name("Host")?,
            path: type_name("Path")?,
            action: type_name("Action")?,
            hardware: member("hardware"),
            simulated: member("simulated"),
        })
    }

    /// The request and its entities, checked against `schema` where one is given.
    fn request(
        &self,
        caller: &Caller<'_>,
        asked: &Asked,
        now: UnixMillis,
        schema: Option<&Schema>,
    ) -> Result<(Request, Entities), Finding> {
        let uid = |kind: &EntityTypeName, id: &str| EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id));
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let assurance = match caller.assurance {
            Assurance::Hardware => &self.hardware,
            Assurance::Simulated => &self.simulated,
        };
        let principal = uid(&self.host, caller.host.as_str());
        let attributes = [
            ("assurance".to_owned(), RestrictedExpression::new_entity_uid(assurance.clone())),
            ("generation".to_owned(), number(caller.generation)),
            ("waivers".to_owned(), RestrictedExpression::new_set(caller.waivers.iter().map(|waiver| text(waiver)))),
        ];
        let host = Entity::new(principal.clone(), attributes.into_iter().collect(), [].into_iter().collect());
        let host = host.map_err(unbuildable)?;
        let resource = uid(&self.path, asked.resource.as_str());
        let ancestors = asked.resource.ancestors().map(|path| uid(&self.path, path)).collect();
        let path = Entity::new(resource.clone(), [].into_iter().collect(), ancestors).map_err(unbuildable)?;
        let entities = Entities::from_entities([host, path], schema).map_err(unbuildable)?;
        let mut context = Vec::from([("now".to_owned(), number(now.seconds()))]);
        context.extend(asked.host.as_deref().map(|name| ("host".to_owned(), text(name))));
        context.extend(asked.peer.map(|peer| ("peer".to_owned(), text(&peer.to_string()))));
        let context = Context::from_pairs(context).map_err(unbuildable)?;
        let action = uid(&self.action, asked.action.name());
        let request = Request::new(principal, action, resource, context, schema).map_err(unbuildable)?;
        Ok((request, entities))
    }
}

fn type_name(name: &str) -> Result<EntityTypeName, Finding> {
    name.parse().map_err(|error| PolicyReason::AuthorizeError.because("a Cedar type name", error))
}

/// A request that cannot be built cannot be permitted.
fn unbuildable(error: impl fmt::Display) -> Finding {
    PolicyReason::AuthorizeError.because("a request that Cedar can evaluate", error)
}

/// Values beyond Cedar's range read as the largest number.
fn number(value: u64) -> RestrictedExpression {
    RestrictedExpression::new_long(i64::try_from(value).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use alloc::borrow::ToOwned;
    use alloc::string::String;
    use alloc::vec::Vec;
    use std::collections::BTreeSet;

    use cedar_policy::Entities;
    use countersign_attestation::UnixMillis;
    use countersign_attestation::anchor::Assurance;
    use countersign_attestation::protocol::HostId;

    use super::{Action, Asked, Caller, Resource, Vocabulary, schema};

    /// What is asked is what the schema says: every attribute is there and of its type, every action is an action.
    #[test]
    fn every_request_agrees_with_the_schema() {
        let (vocabulary, schema) = (Vocabulary::new().unwrap(), schema().unwrap());
        let (host, waivers) = (HostId::parse("gpu-1").unwrap(), ["w-1".to_owned()]);
        for action in Action::ALL {
            for assurance in [Assurance::Hardware, Assurance::Simulated] {
                for told in [false, true] {
                    let caller = Caller { host: &host, assurance, generation: u64::MAX, waivers: &waivers };
                    let asked = Asked {
                        action,
                        resource: Resource::parse("/v1/models/x?y").unwrap(),
                        host: told.then(|| "api.test".to_owned()),
                        peer: told.then(|| "10.0.0.1".parse().unwrap()),
                    };
                    let request = vocabulary.request(&caller, &asked, UnixMillis(1), Some(&schema));
                    let (_, entities): (_, Entities) = request.unwrap();
                    assert!(2 <= entities.len());
                }
            }
        }
        let actions: BTreeSet<String> = schema.actions().map(|action| action.id().unescaped().to_owned()).collect();
        assert_eq!(actions, Action::ALL.iter().map(|action| action.name().to_owned()).collect());
    }

    #[test]
    fn a_path_lies_in_every_shorter_one() {
        let shorter = |path: &str| {
            Resource::parse(path).unwrap().ancestors().map(ToOwned::to_owned).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shorter("/"), "");
        assert_eq!(shorter("/v1"), "/");
        assert_eq!(shorter("/v1/models/x"), "/ /v1 /v1/models");
    }
}
