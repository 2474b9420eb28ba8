//! The X.509-SVID of an execution credential: the SPIFFE profile, and the one extension that ties the certificate to
//! its decision, its status and its place in the log.

mod extension;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use self::extension::EXTENSION;
pub(crate) use self::extension::push;
pub use self::extension::{CredentialExtension, EXTENSION_OID, KeyProtection};
use crate::anchor::Assurance;
use crate::claims::HexBytes;
use crate::digest::Sha256Digest;
use crate::protocol::HostId;
use crate::rejection::{Reason, Rejection};
use crate::result::ResultReason;
use crate::time::UnixMillis;
use crate::x509::constraints::uris;
use crate::x509::der::{NotDer, tag};
use crate::x509::{BasicConstraints, Certificate, Oid, VerifiedPath, X509Reason, oid, verify_path};

/// A SPIFFE trust domain (SPIFFE-ID, 2.1): 1 to 255 of `a-z`, `0-9`, `-`, `.` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// The trust domain that `text` names, if it does.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_');
        ((1..=255).contains(&text.len()) && text.bytes().all(allowed)).then(|| Self(text.to_string()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom("expected a trust domain: 1 to 255 of a-z, 0-9, '-', '.' and '_'"))
    }
}

/// `spiffe://<trust domain>/host/<host id>`: the only shape of id the broker issues.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    host: HostId,
}

impl SpiffeId {
    /// The id of a host.
    #[must_use]
    pub const fn new(trust_domain: TrustDomain, host: HostId) -> Self {
        Self { trust_domain, host }
    }

    /// The id that `text` spells, if it does. Nothing is normalised: upper case, ports, queries, empty and dot
    /// segments are other texts and other ids.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (trust_domain, path) = text.strip_prefix("spiffe://")?.split_once('/')?;
        let host = path.strip_prefix("host/")?;
        Some(Self { trust_domain: TrustDomain::parse(trust_domain)?, host: HostId::parse(host)? })
    }

    /// The trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The host.
    #[must_use]
    pub const fn host(&self) -> &HostId {
        &self.host
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/host/{}", self.trust_domain, self.host)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("expected spiffe://<trust domain>/host/<host id>"))
    }
}

/// An X.509-SVID of the broker whose chain leads to a root of the trust bundle. Whether it is *trusted now*, the status
/// list in an unexpired pulse says. [`Self::verify`] is the only constructor:
///
/// ```compile_fail
/// let forged = countersign_attestation::result::svid::ExecutionCredential { ..todo!() };
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutionCredential {
    spiffe_id: SpiffeId,
    serial: HexBytes,
    extension: CredentialExtension,
    key: Sha256Digest,
    not_before: UnixMillis,
    not_after: UnixMillis,
    valid_from: UnixMillis,
    valid_until: UnixMillis,
}

impl ExecutionCredential {
    /// Checks a chain (leaf first, DER) to one of `roots` (DER), the X.509-SVID profile, the trust domain, and the
    /// dates at `now`.
    ///
    /// # Errors
    /// A [`ResultReason`] of the `result.svid` group.
    pub fn verify(
        chain: &[&[u8]],
        roots: &[Vec<u8>],
        trust_domain: &TrustDomain,
        now: UnixMillis,
    ) -> Result<Self, Rejection> {
        let certificates = read_chain(chain)?;
        let (leaf, intermediates) = certificates.split_first().ok_or_else(|| no_chain("no certificates"))?;
        // Before the path's own look at dates, so that the common end of a credential has the credential's code.
        check_dates(leaf.not_before(), leaf.not_after(), now)?;
        let mut closest = no_chain("no roots");
        for root in roots.iter().take(ROOTS_MAX) {
            let root = Certificate::parse(root)?;
            match verify_svid_path(leaf, intermediates, &root, now) {
                Ok(path) => return Self::read(leaf, &path, trust_domain, now),
                // Where a root of the right name failed, its reason says more.
                Err(rejection) if rejection.reason() != Reason::X509(X509Reason::NoPath) => closest = rejection,
                Err(rejection) if closest.reason() == Reason::Result(ResultReason::SvidChain) => {
                    closest = no_chain(rejection.expected());
                }
                Err(_) => {}
            }
        }
        Err(closest)
    }

    fn read(
        leaf: &Certificate<'_>,
        path: &VerifiedPath<'_>,
        trust_domain: &TrustDomain,
        now: UnixMillis,
    ) -> Result<Self, Rejection> {
        check_profile(leaf)?;
        let spiffe_id = read_id(leaf)?;
        if spiffe_id.trust_domain != *trust_domain {
            return Err(ResultReason::SvidTrustDomain.because(trust_domain, &spiffe_id.trust_domain));
        }
        let extension = leaf
            .extension(EXTENSION)
            .ok_or_else(|| ResultReason::SvidExtensionMissing.because("the credential extension", "none"))?;
        let credential = Self {
            spiffe_id,
            serial: HexBytes(leaf.serial().to_vec()),
            extension: CredentialExtension::decode(extension.value)?,
            key: Sha256Digest::of(&[leaf.spki()]),
            not_before: leaf.not_before(),
            not_after: leaf.not_after(),
            valid_from: path.not_before(),
            valid_until: path.not_after(),
        };
        credential.check_valid_at(now)?;
        Ok(credential)
    }

    /// Whether the credential and every certificate above it are within their dates. The end itself is outside: a
    /// credential of five minutes is not one of five minutes and a second.
    ///
    /// # Errors
    /// [`ResultReason::SvidExpired`] or [`ResultReason::SvidNotYetValid`].
    pub fn check_valid_at(&self, now: UnixMillis) -> Result<(), Rejection> {
        check_dates(self.valid_from, self.valid_until, now)
    }

    /// The SPIFFE id.
    #[must_use]
    pub const fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// The trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        self.spiffe_id.trust_domain()
    }

    /// The host.
    #[must_use]
    pub const fn host(&self) -> &HostId {
        self.spiffe_id.host()
    }

    /// The serial number, as the certificate has it.
    #[must_use]
    pub const fn serial(&self) -> &HexBytes {
        &self.serial
    }

    /// Number of the status list.
    #[must_use]
    pub const fn status_list(&self) -> u64 {
        self.extension.status_list
    }

    /// Index in that list.
    #[must_use]
    pub const fn status_index(&self) -> u64 {
        self.extension.status_index
    }

    /// The host's generation.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.extension.generation
    }

    /// The decision behind the credential.
    #[must_use]
    pub const fn decision(&self) -> Sha256Digest {
        self.extension.decision
    }

    /// Index of the decision's leaf in the log.
    #[must_use]
    pub const fn log_index(&self) -> u64 {
        self.extension.log_index
    }

    /// What the weakest trust anchor is worth.
    #[must_use]
    pub const fn assurance(&self) -> Assurance {
        self.extension.assurance
    }

    /// Ids of the signed waivers that the host would have been denied without; none where it stands by itself.
    #[must_use]
    pub fn waivers(&self) -> &[String] {
        &self.extension.waivers
    }

    /// Where the credential's key is.
    #[must_use]
    pub const fn key_protection(&self) -> KeyProtection {
        self.extension.key_protection
    }

    /// SHA-256 of the credential key's `SubjectPublicKeyInfo`.
    #[must_use]
    pub const fn key(&self) -> Sha256Digest {
        self.key
    }

    /// `notBefore` of the leaf.
    #[must_use]
    pub const fn not_before(&self) -> UnixMillis {
        self.not_before
    }

    /// `notAfter` of the leaf.
    #[must_use]
    pub const fn not_after(&self) -> UnixMillis {
        self.not_after
    }

    /// Earliest `notAfter` on the path to the root.
    #[must_use]
    pub const fn valid_until(&self) -> UnixMillis {
        self.valid_until
    }
}

/// What TLS asks of a client's chain (leaf first, DER): that it leads to one of `roots` and may authenticate a client.
/// Who the client is, and whether it is trusted now, is asked afterwards.
///
/// # Errors
/// An [`X509Reason`], or [`ResultReason::SvidProfile`] for a leaf that is for something else.
pub fn check_client_chain(chain: &[&[u8]], roots: &[Vec<u8>], now: UnixMillis) -> Result<(), Rejection> {
    let certificates = read_chain(chain)?;
    let (leaf, intermediates) = certificates.split_first().ok_or_else(|| no_chain("no certificates"))?;
    if leaf.extension(oid::EXTENDED_KEY_USAGE).is_some() && !leaf.has_extended_key_usage(CLIENT_AUTH)? {
        return Err(ResultReason::SvidProfile.because("extKeyUsage clientAuth", "others alone"));
    }
    let mut closest = no_chain("no roots");
    for root in roots.iter().take(ROOTS_MAX) {
        match verify_svid_path(leaf, intermediates, &Certificate::parse(root)?, now) {
            Ok(_) => return Ok(()),
            Err(rejection) => closest = rejection,
        }
    }
    Err(closest)
}

/// A path whose every name is within the constraints above it.
pub(super) fn verify_svid_path<'a>(
    leaf: &Certificate<'a>,
    intermediates: &[Certificate<'a>],
    root: &Certificate<'a>,
    now: UnixMillis,
) -> Result<VerifiedPath<'a>, Rejection> {
    let understood = [oid::SUBJECT_ALT_NAME, oid::EXTENDED_KEY_USAGE, oid::NAME_CONSTRAINTS];
    let path = verify_path(leaf, intermediates, root, now, &understood)?;
    path.check_uri_constraints()?;
    Ok(path)
}

/// The content of a nameConstraints extension (RFC 5280, 4.2.1.10) that permits the URIs of one trust domain and no
/// other. It goes critical into the certificate of an authority that issues for that domain alone.
#[must_use]
pub fn name_constraints(trust_domain: &TrustDomain) -> Vec<u8> {
    [tag::SEQUENCE, tag::CONTEXT_0, tag::SEQUENCE, URI].into_iter().rev().fold(
        trust_domain.as_str().as_bytes().to_vec(),
        |content, tag| {
            let mut element = Vec::new();
            push(&mut element, tag, &content);
            element
        },
    )
}

/// An issuing certificate under a root: what an authority needs that signs execution credentials of one trust domain.
/// Whoever builds paths for callers takes it as a candidate; it proves nothing by itself.
///
/// # Errors
/// An [`X509Reason`], also where its constraints name anything but the trust domain, or [`ResultReason::SvidChain`]
/// where there are no roots.
pub fn check_issuing(
    issuing: &[u8],
    roots: &[Vec<u8>],
    trust_domain: &TrustDomain,
    now: UnixMillis,
) -> Result<UnixMillis, Rejection> {
    let certificate = Certificate::parse(issuing)?;
    certificate.check_may_issue()?;
    // What may issue authorities is no issuing authority: its leaves would not say which one they are of.
    if certificate.basic_constraints() != (BasicConstraints::Authority { path_length: Some(0) }) {
        return Err(X509Reason::PathLength.because("pathLenConstraint 0", "another"));
    }
    let constraints = certificate.extension(oid::NAME_CONSTRAINTS);
    if constraints.is_some_and(|found| !found.critical || found.value != name_constraints(trust_domain)) {
        return Err(X509Reason::NameConstraints.because(trust_domain, "others, or some that are not critical"));
    }
    let mut closest = no_chain("no roots");
    for root in roots.iter().take(ROOTS_MAX) {
        match verify_svid_path(&certificate, &[], &Certificate::parse(root)?, now) {
            Ok(path) => return Ok(path.not_after()),
            Err(rejection) => closest = rejection,
        }
    }
    Err(closest)
}

pub(super) fn no_chain(found: &str) -> Rejection {
    ResultReason::SvidChain.because("a chain of at most four certificates to a root of the trust bundle", found)
}

pub(super) fn read_chain<'a>(chain: &[&'a [u8]]) -> Result<Vec<Certificate<'a>>, Rejection> {
    if CHAIN_MAX < chain.len() {
        return Err(no_chain(&format!("{} certificates", chain.len())));
    }
    chain.iter().map(|der| Certificate::parse(der)).collect()
}

pub(super) fn check_dates(from: UnixMillis, until: UnixMillis, now: UnixMillis) -> Result<(), Rejection> {
    if until <= now {
        return Err(ResultReason::SvidExpired.because(format!("before {until}"), now));
    }
    if now < from {
        return Err(ResultReason::SvidNotYetValid.because(format!("from {from}"), now));
    }
    Ok(())
}

/// SPIFFE X.509-SVID, 4 and appendix A: a leaf signs and authenticates, and issues nothing. Each right must be written:
/// what is absent is not granted.
fn check_profile(leaf: &Certificate<'_>) -> Result<(), Rejection> {
    let refused = |expected: &str, found: &str| Err(ResultReason::SvidProfile.because(expected, found));
    if leaf.basic_constraints() != BasicConstraints::EndEntity {
        return refused("CA false", "CA true");
    }
    let Some(usage) = leaf.key_usage() else { return refused("keyUsage digitalSignature", "no keyUsage") };
    if usage.key_cert_sign() || usage.crl_sign() {
        return refused("keyUsage without keyCertSign and cRLSign", "one of them");
    }
    if !usage.digital_signature() {
        return refused("keyUsage digitalSignature", "keyUsage without it");
    }
    if !leaf.has_extended_key_usage(CLIENT_AUTH)? || !leaf.has_extended_key_usage(SERVER_AUTH)? {
        return refused("extKeyUsage clientAuth and serverAuth", "not both");
    }
    Ok(())
}

/// SPIFFE X.509-SVID, 2: exactly one URI SAN. Names of other kinds may stand beside it and mean nothing here.
fn read_id(leaf: &Certificate<'_>) -> Result<SpiffeId, Rejection> {
    let refused = |found: &str| ResultReason::SvidId.because("one URI SAN spiffe://<trust domain>/host/<id>", found);
    let names = leaf.extension(oid::SUBJECT_ALT_NAME).ok_or_else(|| refused("no subjectAltName"))?;
    let uris = uris(names.value).map_err(|NotDer| refused("a subjectAltName that cannot be read"))?;
    match uris.as_slice() {
        [uri] => {
            let text = str::from_utf8(uri).map_err(|_| refused("a URI that is not text"))?;
            SpiffeId::parse(text).ok_or_else(|| refused(text))
        }
        others => Err(refused(&format!("{} URIs", others.len()))),
    }
}

/// Longest chain without its root: leaf and three intermediates.
const CHAIN_MAX: usize = 4;

/// `uniformResourceIdentifier [6]` (RFC 5280, 4.2.1.6).
const URI: u8 = 0x86;

/// Roots tried for one chain: the domain's current, next and previous ones.
pub(super) const ROOTS_MAX: usize = 16;

pub(super) const SERVER_AUTH: Oid = Oid::new(&[0x2b, 6, 1, 5, 5, 7, 3, 1], "id-kp-serverAuth");
pub(super) const CLIENT_AUTH: Oid = Oid::new(&[0x2b, 6, 1, 5, 5, 7, 3, 2], "id-kp-clientAuth");
