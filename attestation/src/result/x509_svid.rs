//! X.509-SVIDs of any SPIFFE trust domain: what another domain's workloads present. Our own execution credential is
//! [`super::svid`], which asks for more.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::rejection::{Reason, Rejection};
use crate::result::ResultReason;
use crate::result::svid::{
    CLIENT_AUTH, ROOTS_MAX, SERVER_AUTH, TrustDomain, check_dates, no_chain, read_chain, verify_svid_path,
};
use crate::time::UnixMillis;
use crate::x509::constraints::uris;
use crate::x509::der::NotDer;
use crate::x509::{BasicConstraints, Certificate, X509Reason, oid};

/// Longest SPIFFE id (SPIFFE-ID, 2.3).
const ID_BYTES_MAX: usize = 2048;

/// A SPIFFE id of a workload (SPIFFE-ID, 2): `spiffe://`, a trust domain, and a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkloadId {
    trust_domain: TrustDomain,
    path: String,
}

impl WorkloadId {
    /// The id that `text` spells, if it does. Nothing is normalised: another spelling is no id.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if ID_BYTES_MAX < text.len() {
            return None;
        }
        let (trust_domain, path) = text.strip_prefix("spiffe://")?.split_once('/')?;
        // SPIFFE-ID, 2.2: segments of letters, digits, dots, dashes and underscores; none empty, none a dot segment.
        let segment = |segment: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            !matches!(segment, "" | "." | "..") && segment.bytes().all(allowed)
        };
        let trust_domain = TrustDomain::parse(trust_domain)?;
        path.split('/').all(segment).then(|| Self { trust_domain, path: path.to_string() })
    }

    /// The trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path, without the slash before it.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}", self.trust_domain, self.path)
    }
}

/// An X.509-SVID whose chain leads to an authority of the bundle. [`Self::verify`] is the only constructor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Svid {
    id: WorkloadId,
    valid_until: UnixMillis,
}

impl X509Svid {
    /// Checks a chain (leaf first, DER) to one of the bundle's `authorities` (DER), the profile, the trust domain that
    /// the bundle is of, and the dates at `now`. Without an authority nothing verifies.
    ///
    /// # Errors
    /// A [`ResultReason`] of the `result.svid` group, or an [`X509Reason`] of the chain.
    pub fn verify(
        chain: &[&[u8]],
        authorities: &[Vec<u8>],
        trust_domain: &TrustDomain,
        now: UnixMillis,
    ) -> Result<Self, Rejection> {
        let certificates = read_chain(chain)?;
        let (leaf, intermediates) = certificates.split_first().ok_or_else(|| no_chain("no certificates"))?;
        let id = check_leaf(leaf, now)?;
        if id.trust_domain != *trust_domain {
            return Err(ResultReason::SvidTrustDomain.because(trust_domain, &id.trust_domain));
        }
        let mut closest = no_chain("no authorities");
        for authority in authorities.iter().take(ROOTS_MAX) {
            let authority = Certificate::parse(authority)?;
            match verify_svid_path(leaf, intermediates, &authority, now) {
                Ok(path) => return Ok(Self { id, valid_until: path.not_after() }),
                Err(rejection) if rejection.reason() != Reason::X509(X509Reason::NoPath) => closest = rejection,
                Err(_) if closest.reason() == Reason::Result(ResultReason::SvidChain) => {
                    closest = no_chain("no authority that issued it");
                }
                Err(_) => {}
            }
        }
        Err(closest)
    }

    /// The SPIFFE id.
    #[must_use]
    pub const fn id(&self) -> &WorkloadId {
        &self.id
    }

    /// The earliest notAfter on the path.
    #[must_use]
    pub const fn valid_until(&self) -> UnixMillis {
        self.valid_until
    }
}

/// Checks what a chain (leaf first, DER) says of itself: profile, dates, and that each certificate issued the one
/// before. Without a bundle that is no proof: what comes back is an id that somebody claims.
///
/// # Errors
/// As [`X509Svid::verify`].
pub fn check_structure(chain: &[&[u8]], now: UnixMillis) -> Result<WorkloadId, Rejection> {
    let certificates = read_chain(chain)?;
    let (leaf, intermediates) = certificates.split_first().ok_or_else(|| no_chain("no certificates"))?;
    let id = check_leaf(leaf, now)?;
    for issuer in intermediates {
        issuer.check_may_issue()?;
        issuer.check_valid_at(now)?;
    }
    for (subject, issuer) in certificates.iter().zip(intermediates) {
        subject.check_issued_by(issuer)?;
    }
    Ok(id)
}

/// SPIFFE X.509-SVID, 2 to 4 and appendix A.
fn check_leaf(leaf: &Certificate<'_>, now: UnixMillis) -> Result<WorkloadId, Rejection> {
    let refused = |expected: &str, found: &str| Err(ResultReason::SvidProfile.because(expected, found));
    let id = read_id(leaf)?;
    if leaf.basic_constraints() != BasicConstraints::EndEntity {
        return refused("CA false", "CA true");
    }
    let critical = leaf.extension(oid::KEY_USAGE).is_some_and(|extension| extension.critical);
    let Some(usage) = leaf.key_usage().filter(|_| critical) else {
        return refused("keyUsage, critical", "none that is");
    };
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return refused("keyUsage digitalSignature without keyCertSign and cRLSign", "another keyUsage");
    }
    // May be left out; where it is there, both roles of mutual TLS are.
    let named = leaf.extension(oid::EXTENDED_KEY_USAGE).is_some();
    if named && !(leaf.has_extended_key_usage(CLIENT_AUTH)? && leaf.has_extended_key_usage(SERVER_AUTH)?) {
        return refused("extKeyUsage clientAuth and serverAuth", "not both");
    }
    check_dates(leaf.not_before(), leaf.not_after(), now)?;
    Ok(id)
}

fn read_id(leaf: &Certificate<'_>) -> Result<WorkloadId, Rejection> {
    let refused = |found: &str| ResultReason::SvidId.because("one URI SAN spiffe://<trust domain>/<path>", found);
    let names = leaf.extension(oid::SUBJECT_ALT_NAME).ok_or_else(|| refused("no subjectAltName"))?;
    let uris = uris(names.value).map_err(|NotDer| refused("a subjectAltName that cannot be read"))?;
    match uris.as_slice() {
        [uri] => {
            let text = str::from_utf8(uri).map_err(|_| refused("a URI that is not text"))?;
            WorkloadId::parse(text).ok_or_else(|| refused(text))
        }
        others => Err(refused(&format!("{} URIs", others.len()))),
    }
}
