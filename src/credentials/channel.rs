//! Channel credentials: client certificates of the control authority for operators and hosts. They open routes and
//! vouch for no workload; what they open is checked on every request.

use countersign_attestation::UnixMillis;
use countersign_attestation::protocol::HostId;
use rcgen::ExtendedKeyUsagePurpose;

use crate::keys::{Authority, KeyError, Leaf, LeafProfile, random};

/// A year. Removing the operator, or the host, ends the credential at once.
const LIFE_MS: u64 = 365 * 86_400_000;

/// Whom a channel certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An operator, by name.
    Operator(HostId),
    /// An enrolled host.
    Host(HostId),
}

impl Holder {
    /// The URI in the certificate.
    #[must_use]
    pub fn uri(&self, trust_domain: &str) -> String {
        match self {
            Self::Operator(name) => format!("spiffe://{trust_domain}/countersign/operator/{name}"),
            Self::Host(id) => format!("spiffe://{trust_domain}/countersign/host/{id}"),
        }
    }

    /// The holder that `uri` names in this trust domain.
    #[must_use]
    pub fn from_uri(uri: &str, trust_domain: &str) -> Option<Self> {
        let path = uri.strip_prefix("spiffe://")?.strip_prefix(trust_domain)?.strip_prefix("/countersign/")?;
        match path.split_once('/')? {
            ("operator", name) => HostId::parse(name).map(Self::Operator),
            ("host", id) => HostId::parse(id).map(Self::Host),
            _ => None,
        }
    }
}

/// Signs a channel certificate for the key in `spki`.
///
/// # Errors
/// [`KeyError`] when the key cannot be certified.
pub fn issue(
    control: &Authority,
    trust_domain: &str,
    holder: &Holder,
    spki: &[u8],
    now: UnixMillis,
) -> Result<Leaf, KeyError> {
    let profile = LeafProfile {
        uri: Some(holder.uri(trust_domain)),
        names: vec![],
        usages: vec![ExtendedKeyUsagePurpose::ClientAuth],
        extensions: vec![],
        serial: random::<16>()?.to_vec(),
        not_after: now.plus(LIFE_MS),
    };
    control.sign(spki, profile, now)
}

#[cfg(test)]
mod tests {
    use countersign_attestation::protocol::HostId;

    use super::Holder;

    #[test]
    fn a_uri_names_its_holder_in_its_domain_only() {
        let id = |text: &str| HostId::parse(text).unwrap();
        for holder in [Holder::Operator(id("admin")), Holder::Host(id("gpu-1"))] {
            assert_eq!(Holder::from_uri(&holder.uri("a.example"), "a.example"), Some(holder.clone()));
            assert_eq!(Holder::from_uri(&holder.uri("a.example"), "b.example"), None);
            assert_eq!(Holder::from_uri(&holder.uri("a.example"), "a"), None);
        }
        for uri in ["spiffe://a/countersign/operator/../x", "spiffe://a/host/x", "https://a/countersign/host/x"] {
            assert_eq!(Holder::from_uri(uri, "a"), None);
        }
    }
}
