//! The broker's list of operators: one file each, in the data directory, read whenever it matters.

use std::path::PathBuf;

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::checkpoint::NoteKey;
use countersign_attestation::protocol::HostId;
use countersign_policies::waiver::signer_name;

use crate::config::{ConfigError, DataDir, list_dir};

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

/// The keys of all who are on the list with one.
///
/// # Errors
/// A list that cannot be read: nobody can tell then who is not on it.
pub fn signing_keys(data: &DataDir, trust_domain: &str) -> Result<Vec<NoteKey>, ConfigError> {
    let files = list_dir(&data.operators())?;
    let names = files.iter().filter_map(|file| HostId::parse(file.file_name()?.to_str()?));
    Ok(names.filter_map(|name| signing_key(data, trust_domain, &name)).collect())
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

    use super::{is_listed, listing, operator_file, signing_key, signing_keys};
    use crate::config::DataDir;
    use crate::keys::operator::OperatorKey;

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
        assert_eq!(signing_key(&data, "d", &name), Some(key.clone()));
        assert_eq!(signing_keys(&data, "d").unwrap(), [key]);
        assert!(signing_keys(&data, "e").unwrap().is_empty());
        assert!(signing_key(&data, "e", &name).is_none(), "under another trust domain's name");
        std::fs::write(operator_file(&data, &name), whole + "more").unwrap();
        assert!(!is_listed(&data, &name, Sha256Digest([1; 32])));
        std::fs::write(operator_file(&data, &name), "").unwrap();
        assert!(!is_listed(&data, &name, Sha256Digest([1; 32])));
    }
}
