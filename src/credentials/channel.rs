//! Channel credentials: client certificates of the control authority for operators and hosts. They open routes and
//! vouch for no workload; what they open is checked on every request.

use std::path::PathBuf;

use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::checkpoint::NoteKey;
use countersign_attestation::protocol::HostId;
use countersign_policies::waiver::signer_name;
use rcgen::ExtendedKeyUsagePurpose;

use crate::config::DataDir;
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

/// The file that puts an operator on the broker's list: a line with the SHA-256 of the public key of the operator's
/// channel, and one with the verifier key of what the operator signs.
#[must_use]
pub fn operator_file(data: &DataDir, name: &HostId) -> PathBuf {
    data.operators().join(name.as_str())
}

/// Whether an operator with this key is on the list now. Any doubt is a no.
#[must_use]
pub fn is_listed(data: &DataDir, name: &HostId, key: Sha256Digest) -> bool {
    listed(data, name).and_then(|(channel, _)| Sha256Digest::from_hex(&channel)).is_some_and(|listed| listed == key)
}

/// The key that a listed operator signs documents with, under the operator's own name; `None` for one who was listed
/// without.
#[must_use]
pub fn signing_key(data: &DataDir, trust_domain: &str, name: &HostId) -> Option<NoteKey> {
    let (_, signing) = listed(data, name)?;
    let key = NoteKey::parse(&signing?).ok()?;
    (key.name() == signer_name(trust_domain, name)).then_some(key)
}

/// What the list says of an operator.
#[must_use]
pub fn listing(channel: Sha256Digest, signing: &NoteKey) -> String {
    format!("{}\n{}\n", channel.to_hex(), signing.vkey())
}

fn listed(data: &DataDir, name: &HostId) -> Option<(String, Option<String>)> {
    let text = std::fs::read_to_string(operator_file(data, name)).ok()?;
    let mut lines = text.lines().map(str::to_owned);
    let listed = (lines.next()?, lines.next());
    lines.next().is_none().then_some(listed)
}

#[cfg(test)]
mod tests {
    use countersign_attestation::digest::Sha256Digest;
    use countersign_attestation::protocol::HostId;

    use super::{Holder, is_listed, listing, operator_file, signing_key};
    use crate::config::DataDir;
    use crate::keys::operator::OperatorKey;

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

    #[test]
    fn a_removed_operator_or_another_key_is_not_listed() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(dir.path());
        let name = HostId::parse("admin").unwrap();
        assert!(!is_listed(&data, &name, Sha256Digest([1; 32])));
        std::fs::create_dir(data.operators()).unwrap();
        std::fs::write(operator_file(&data, &name), Sha256Digest([1; 32]).to_hex()).unwrap();
        assert!(is_listed(&data, &name, Sha256Digest([1; 32])));
        assert!(!is_listed(&data, &name, Sha256Digest([2; 32])));
        assert!(signing_key(&data, "d", &name).is_none(), "listed without one");
        let key = OperatorKey::generate(dir.path(), "d/countersign/operator/admin").unwrap();
        let whole = listing(Sha256Digest([1; 32]), &key);
        std::fs::write(operator_file(&data, &name), &whole).unwrap();
        assert!(is_listed(&data, &name, Sha256Digest([1; 32])));
        assert_eq!(signing_key(&data, "d", &name), Some(key));
        assert!(signing_key(&data, "e", &name).is_none(), "under another trust domain's name");
        std::fs::write(operator_file(&data, &name), whole + "more").unwrap();
        assert!(!is_listed(&data, &name, Sha256Digest([1; 32])));
        std::fs::write(operator_file(&data, &name), "").unwrap();
        assert!(!is_listed(&data, &name, Sha256Digest([1; 32])));
    }
}
