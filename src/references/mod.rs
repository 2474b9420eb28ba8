//! What evidence is judged by: reference manifests, Cedar policies, anchors and collateral, always as one consistent
//! set that is archived before it is used, so that a decision made under it can be replayed.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use countersign_attestation::digest::Sha256Digest;
use countersign_policies::finding::Finding;
use countersign_policies::policy::{PolicySet, SHIPPED};
use countersign_policies::reference::{ReferenceManifest, ReferenceSet};

use crate::collateral::{self, Collateral};
use crate::config::{ConfigError, DataDir, create_private_dir, list_dir, read_bounded, write_new};
use crate::lineage::archive::Archive;
use crate::problem::{Problem, Refusal};
use crate::store::{Store, Table, Write};

/// Policies are a few hundred lines at most.
const POLICY_BYTES_MAX: u64 = 256 * 1024;

/// One consistent set of everything an appraisal is made with.
#[derive(Debug)]
pub struct Governance {
    /// Reference manifests.
    pub references: ReferenceSet,
    /// Policies.
    pub policy: PolicySet,
    /// Anchors and revocation lists.
    pub collateral: Collateral,
    /// Digests of the archived forms.
    pub digests: Digests,
}

/// Archive digests of a [`Governance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digests {
    /// Of the list of the manifests' own digests.
    pub references: Sha256Digest,
    /// Of the policies.
    pub policy: Sha256Digest,
    /// Of anchors and lists.
    pub collateral: Sha256Digest,
}

/// The set in force, and the door through which manifests change.
#[derive(Debug)]
pub struct References {
    store: Store,
    archive: Archive,
    current: ArcSwap<Governance>,
    /// One change at a time.
    changing: std::sync::Mutex<()>,
}

/// The set cannot be loaded; the broker must not start.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A manifest or policy is not acceptable.
    #[error("{name}: {} ({}; expected {}, found {})", .finding.sentence, .finding.code, .finding.expected, .finding.found)]
    Refused {
        /// Which.
        name: String,
        /// Why.
        finding: Box<Finding>,
    },
    /// Store or archive.
    #[error("{0}")]
    Storage(String),
}

/// Writes the shipped policies into a new data directory. The policy that admits the simulated class is installed only
/// where someone pinned a simulated root.
///
/// # Errors
/// [`ConfigError`].
pub fn install_policies(data: &DataDir, simulated: bool) -> Result<(), ConfigError> {
    create_private_dir(&data.policies())?;
    for (name, text) in SHIPPED {
        let wanted = match *name {
            "baseline" => true,
            "simulated" => simulated,
            // Fleets of confidential VMs copy it in.
            _ => false,
        };
        if wanted {
            write_new(&data.policies().join(format!("{name}.cedar")), text.as_bytes())?;
        }
    }
    Ok(())
}

impl References {
    /// Loads policies, collateral and registered manifests, and archives them.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(data: &DataDir, store: Store, archive: Archive) -> Result<Self, LoadError> {
        let storage = |error: &dyn std::fmt::Display| LoadError::Storage(error.to_string());
        let mut manifests = Vec::new();
        for (id, json) in store.scan(Table::References).map_err(|error| storage(&error))? {
            let name = || String::from_utf8_lossy(&id).into_owned();
            let refused = |finding| LoadError::Refused { name: name(), finding: Box::new(finding) };
            manifests.push(ReferenceManifest::parse(&json).map_err(refused)?);
        }
        let policy = load_policies(&data.policies())?;
        let collateral = collateral::load(data)?;
        let governance =
            assemble(&archive, manifests, policy, collateral).map_err(|error| LoadError::Storage(error.to_string()))?;
        Ok(Self { store, archive, current: ArcSwap::from_pointee(governance), changing: std::sync::Mutex::new(()) })
    }

    /// The set in force.
    #[must_use]
    pub fn current(&self) -> Arc<Governance> {
        self.current.load_full()
    }

    /// Registers a manifest; `record` is called when it is certain to be acceptable and before it is in force.
    ///
    /// # Errors
    /// [`Refusal::ReferenceMalformed`], [`Refusal::ReferenceExists`], or what `record` refuses.
    pub fn register(
        &self,
        json: &[u8],
        record: impl FnOnce(Sha256Digest) -> Result<(), Problem>,
    ) -> Result<String, Problem> {
        let manifest = ReferenceManifest::parse(json).map_err(|finding| Problem::unacceptable(&finding))?;
        let id = manifest.id().to_owned();
        let _one = self.changing.lock().map_err(|_| Refusal::Internal.plain())?;
        if self.current().references.get(&id).is_some() {
            return Err(Refusal::ReferenceExists.because("an unused id", id));
        }
        record(manifest.digest())?;
        let mut manifests: Vec<_> = self.current().references.manifests().cloned().collect();
        let write = Write::put(Table::References, &id, manifest.to_json());
        manifests.push(manifest);
        self.replace(manifests, &write)?;
        Ok(id)
    }

    /// Withdraws a manifest.
    ///
    /// # Errors
    /// [`Refusal::ReferenceUnknown`], or what `record` refuses.
    pub fn withdraw(&self, id: &str, record: impl FnOnce(Sha256Digest) -> Result<(), Problem>) -> Result<(), Problem> {
        let _one = self.changing.lock().map_err(|_| Refusal::Internal.plain())?;
        let current = self.current();
        let manifest = current.references.get(id).ok_or_else(|| Refusal::ReferenceUnknown.plain())?;
        record(manifest.digest())?;
        let manifests = current.references.manifests().filter(|manifest| manifest.id() != id).cloned().collect();
        self.replace(manifests, &Write::Delete(Table::References, id.as_bytes().to_vec()))
    }

    fn replace(&self, manifests: Vec<ReferenceManifest>, write: &Write) -> Result<(), Problem> {
        let current = self.current();
        let failed = |error: &dyn std::fmt::Display| {
            tracing::error!(%error, "references not changed");
            Refusal::StoreFailed.plain()
        };
        let governance = assemble(&self.archive, manifests, current.policy.clone(), current.collateral.clone())
            .map_err(|error| failed(&error))?;
        self.store.commit(std::slice::from_ref(write)).map_err(|error| failed(&error))?;
        self.current.store(Arc::new(governance));
        Ok(())
    }
}

/// The policies of a directory's `.cedar` files.
///
/// # Errors
/// [`LoadError`].
pub fn load_policies(dir: &Path) -> Result<PolicySet, LoadError> {
    let mut texts = Vec::new();
    for path in list_dir(dir)? {
        if path.extension().is_some_and(|extension| extension == "cedar") {
            let bytes = read_bounded(&path, POLICY_BYTES_MAX)?;
            let text = String::from_utf8(bytes).map_err(|_| ConfigError::content(&path, "UTF-8", "something else"))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            texts.push((name, text));
        }
    }
    parse_policies(&texts)
        .map_err(|finding| LoadError::Refused { name: dir.display().to_string(), finding: Box::new(finding) })
}

fn parse_policies(texts: &[(String, String)]) -> Result<PolicySet, Finding> {
    let texts: Vec<_> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    PolicySet::parse(&texts)
}

fn assemble(
    archive: &Archive,
    manifests: Vec<ReferenceManifest>,
    policy: PolicySet,
    collateral: Collateral,
) -> Result<Governance, Box<dyn std::error::Error + Send + Sync>> {
    // Each by itself: what one change writes does not grow with what is there.
    let manifest_digests: Vec<Sha256Digest> =
        manifests.iter().map(|manifest| archive.put(&manifest.to_json())).collect::<Result<_, _>>()?;
    let digests = Digests {
        references: archive.put(&serde_json::to_vec(&manifest_digests)?)?,
        policy: archive.put(&serde_json::to_vec(&policy.texts().collect::<Vec<_>>())?)?,
        collateral: archive.put(&collateral.to_archive())?,
    };
    Ok(Governance { references: ReferenceSet::new(manifests), policy, collateral, digests })
}

impl Governance {
    /// The set that was archived under `digests`.
    ///
    /// # Errors
    /// What is missing or damaged.
    pub fn from_archive(archive: &Archive, digests: Digests) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let manifest_digests: Vec<Sha256Digest> = serde_json::from_slice(&archive.get(digests.references)?)?;
        let mut manifests = Vec::new();
        for digest in manifest_digests {
            manifests.push(ReferenceManifest::parse(&archive.get(digest)?).map_err(|finding| finding.code)?);
        }
        let texts: Vec<(String, String)> = serde_json::from_slice(&archive.get(digests.policy)?)?;
        let policy = parse_policies(&texts).map_err(|finding| finding.code)?;
        let collateral = Collateral::from_archive(&archive.get(digests.collateral)?).ok_or("collateral is damaged")?;
        Ok(Self { references: ReferenceSet::new(manifests), policy, collateral, digests })
    }
}
