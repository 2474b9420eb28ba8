//! What evidence is judged by: reference manifests, Cedar policies, anchors and collateral, waivers and denied
//! hardware, always as one consistent set that is archived before it is used, so that a decision made under it can be
//! replayed.

pub mod exceptions;
mod manifests;
mod proposal;
mod published;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_policies::decision::Standards;
use countersign_policies::finding::Finding;
use countersign_policies::instance::{Denial, DenialSet};
use countersign_policies::policy::{PolicySet, SHIPPED};
use countersign_policies::reference::{ReferenceManifest, ReferenceSet};
use countersign_policies::signed::{SignedManifest, Signers};
use countersign_policies::waiver::{Waiver, WaiverSet};

use crate::collateral::Collateral;
use crate::collateral::items::Items;
use crate::config::{Config, ConfigError, DataDir, create_private_dir, list_dir, read_bounded, write_new};
use crate::lineage::LineageError;
use crate::lineage::archive::{Archive, Blobs};
use crate::problem::{Problem, Refusal};
use crate::store::{Store, Write};

pub use self::manifests::Registered;
use self::manifests::Roster;
pub use self::proposal::{Proposal, Proposed};
pub use self::published::{Offer, Offered, Outcome};

/// Policies are a few hundred lines at most.
const POLICY_BYTES_MAX: u64 = 256 * 1024;

/// One consistent set of everything an appraisal is made with.
#[derive(Debug)]
pub struct Governance {
    /// Reference manifests.
    pub references: ReferenceSet,
    /// The same, as they were signed.
    pub manifests: Vec<SignedManifest>,
    /// Who may sign them, and how many must.
    pub signers: Signers,
    /// Policies.
    pub policy: PolicySet,
    /// Anchors, and what vendors publish about hardware.
    pub collateral: Collateral,
    /// The documents in it, one by one; none where the set comes from the archive.
    pub items: Items,
    /// What is accepted for now all the same.
    pub waivers: WaiverSet,
    /// Hardware that is no longer believed.
    pub denials: DenialSet,
    /// Digests of the archived forms.
    pub digests: Digests,
}

/// Archive digests of a [`Governance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digests {
    /// Of the list of the signed manifests' own digests.
    pub references: Sha256Digest,
    /// Of who may sign manifests, and how many must.
    pub signers: Sha256Digest,
    /// Of the policies.
    pub policy: Sha256Digest,
    /// Of anchors and lists.
    pub collateral: Sha256Digest,
    /// Of the list of the waivers' own digests. Absent in what was archived before there were any.
    #[serde(default = "nothing")]
    pub waivers: Sha256Digest,
    /// Of the list of the denials' own digests.
    #[serde(default = "nothing")]
    pub denials: Sha256Digest,
}

/// Digest of an empty list of digests.
fn nothing() -> Sha256Digest {
    Sha256Digest::of(&[b"[]"])
}

/// The parts of a [`Governance`], to be put together anew when one of them changes.
#[derive(Clone, Debug)]
struct Parts {
    manifests: Vec<SignedManifest>,
    /// One that nobody signed: to look at what it would do, never to put it in force.
    proposed: Option<Arc<ReferenceManifest>>,
    signers: Signers,
    policy: PolicySet,
    collateral: Collateral,
    items: Items,
    waivers: Vec<Waiver>,
    denials: Vec<Denial>,
}

/// The set in force, and the door through which manifests change.
#[derive(Debug)]
pub struct References {
    store: Store,
    archive: Archive,
    /// Where the policies' files are.
    policies: PathBuf,
    /// Whose signatures count.
    roster: Roster,
    current: ArcSwap<Governance>,
    /// One change at a time. Digests of the manifests that are registered by the log.
    changing: std::sync::Mutex<BTreeSet<Sha256Digest>>,
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
            "baseline" | "hardware-strict" => true,
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
    /// Loads policies, collateral and registered manifests, and archives them. `registered` is what the log says of
    /// manifests: a row of another one is not believed.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(
        data: &DataDir,
        config: &Config,
        store: Store,
        archive: Archive,
        registered: BTreeSet<Sha256Digest>,
        now: UnixMillis,
    ) -> Result<Self, LoadError> {
        let roster = Roster::new(data, config);
        let signers = roster.signers()?;
        let manifests = manifests::load(&store, &signers, &registered)?;
        let policy = load_policies(&data.policies())?;
        let (collateral, items) = published::load(data, &store, &archive, now)?;
        let (waivers, denials) = (exceptions::load_waivers(&store)?, exceptions::load_denials(&store)?);
        let parts = Parts { manifests, proposed: None, signers, policy, collateral, items, waivers, denials };
        let archived = parts.assemble(&|bytes| archive.put(bytes));
        let governance = archived.map_err(|error| LoadError::Storage(error.to_string()))?;
        let (current, policies) = (ArcSwap::from_pointee(governance), data.policies());
        Ok(Self { store, archive, policies, roster, current, changing: std::sync::Mutex::new(registered) })
    }

    /// The set in force.
    #[must_use]
    pub fn current(&self) -> Arc<Governance> {
        self.current.load_full()
    }

    /// Puts a changed set in force: archived, then stored, then used. Callers hold `changing`.
    fn replace(&self, write: &Write, change: impl FnOnce(&mut Parts)) -> Result<(), Problem> {
        let governance = self.changed(change)?;
        self.put_in_force(std::slice::from_ref(write), governance)
    }

    /// A changed set, archived and not in force.
    fn changed(&self, change: impl FnOnce(&mut Parts)) -> Result<Governance, Problem> {
        self.with(change, &|bytes| self.archive.put(bytes))
    }

    /// A changed set, whose documents `keep` keeps or only looks at.
    fn with(&self, change: impl FnOnce(&mut Parts), keep: &Keep<'_>) -> Result<Governance, Problem> {
        let mut parts = self.current().parts();
        change(&mut parts);
        parts.assemble(keep).map_err(|error| not_changed(&error))
    }

    /// Stores what changed, then uses it.
    fn put_in_force(&self, writes: &[Write], governance: Governance) -> Result<(), Problem> {
        self.store.commit(writes).map_err(|error| not_changed(&error))?;
        self.current.store(Arc::new(governance));
        Ok(())
    }
}

fn not_changed(error: &dyn std::fmt::Display) -> Problem {
    tracing::error!(%error, "what hosts are judged by is not changed");
    Refusal::StoreFailed.plain()
}

/// Names and texts of a directory's `.cedar` files.
///
/// # Errors
/// [`ConfigError`].
pub fn policy_texts(dir: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let mut texts = Vec::new();
    for path in list_dir(dir)? {
        if path.extension().is_some_and(|extension| extension == "cedar") {
            let bytes = read_bounded(&path, POLICY_BYTES_MAX)?;
            let text = String::from_utf8(bytes).map_err(|_| ConfigError::content(&path, "UTF-8", "something else"))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            texts.push((name, text));
        }
    }
    Ok(texts)
}

/// The policies of a directory's `.cedar` files.
///
/// # Errors
/// [`LoadError`].
pub fn load_policies(dir: &Path) -> Result<PolicySet, LoadError> {
    let texts = policy_texts(dir)?;
    parse_policies(&texts)
        .map_err(|finding| LoadError::Refused { name: dir.display().to_string(), finding: Box::new(finding) })
}

fn parse_policies(texts: &[(String, String)]) -> Result<PolicySet, Finding> {
    let texts: Vec<_> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    PolicySet::parse(&texts)
}

/// Keeps a document, or only tells its digest.
type Keep<'a> = dyn Fn(&[u8]) -> Result<Sha256Digest, LineageError> + 'a;

impl Parts {
    /// The whole of them; `keep` keeps its documents, each by itself, and tells their digests.
    fn assemble(self, keep: &Keep<'_>) -> Result<Governance, Box<dyn std::error::Error + Send + Sync>> {
        let Self { manifests, proposed, signers, policy, collateral, items, waivers, denials } = self;
        let list = |documents: Vec<Vec<u8>>| -> Result<Sha256Digest, Box<dyn std::error::Error + Send + Sync>> {
            // Each by itself: what one change writes does not grow with what is there.
            let digests = documents.iter().map(|document| keep(document)).collect::<Result<Vec<_>, _>>()?;
            Ok(keep(&serde_json::to_vec(&digests)?)?)
        };
        let digests = Digests {
            references: list(manifests.iter().map(|signed| signed.note().as_bytes().to_vec()).collect())?,
            signers: keep(&signers.to_json())?,
            policy: keep(&serde_json::to_vec(&policy.texts().collect::<Vec<_>>())?)?,
            collateral: keep(&collateral.to_archive())?,
            waivers: list(waivers.iter().map(|waiver| waiver.signed().to_json()).collect())?,
            denials: list(denials.iter().map(Denial::to_json).collect())?,
        };
        let references = ReferenceSet::of(manifests.iter().map(|signed| Arc::clone(signed.manifest())).chain(proposed));
        let (waivers, denials) = (WaiverSet::new(waivers), DenialSet::new(denials));
        Ok(Governance { references, manifests, signers, policy, collateral, items, waivers, denials, digests })
    }
}

impl Governance {
    /// What the judge judges by.
    #[must_use]
    pub const fn standards(&self) -> Standards<'_> {
        let Self { references, policy, waivers, denials, .. } = self;
        Standards { references, policy, waivers, denials }
    }

    fn parts(&self) -> Parts {
        Parts {
            manifests: self.manifests.clone(),
            proposed: None,
            signers: self.signers.clone(),
            policy: self.policy.clone(),
            collateral: self.collateral.clone(),
            items: self.items.clone(),
            waivers: self.waivers.waivers().cloned().collect(),
            denials: self.denials.denials().cloned().collect(),
        }
    }

    /// The set that was archived under `digests`.
    ///
    /// # Errors
    /// What is missing or damaged.
    pub fn from_archive(
        archive: &dyn Blobs,
        digests: Digests,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let blob = |of: Sha256Digest| archive.blob(of).ok_or_else(|| format!("{of} is not there, or damaged"));
        let list = |of: Sha256Digest| -> Result<Vec<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
            // What was archived before there were such lists names the empty one, which may not be there.
            let bytes = if of == nothing() { Cow::Borrowed(&b"[]"[..]) } else { blob(of)? };
            let digests: Vec<Sha256Digest> = serde_json::from_slice(&bytes)?;
            digests.into_iter().map(|digest| Ok(blob(digest)?.into_owned())).collect()
        };
        let signers = Signers::from_json(&blob(digests.signers)?).ok_or("the list of signers is damaged")?;
        let manifest = |note: Vec<u8>| -> Result<SignedManifest, Box<dyn std::error::Error + Send + Sync>> {
            Ok(signers.open(std::str::from_utf8(&note)?).map_err(|finding| finding.code)?)
        };
        let manifests: Vec<_> = list(digests.references)?.into_iter().map(manifest).collect::<Result<_, _>>()?;
        let texts: Vec<(String, String)> = serde_json::from_slice(&blob(digests.policy)?)?;
        let policy = parse_policies(&texts).map_err(|finding| finding.code)?;
        let collateral = Collateral::from_archive(&blob(digests.collateral)?).ok_or("collateral is damaged")?;
        let waiver = |json: Vec<u8>| Waiver::from_json(&json).map_err(|finding| finding.code);
        let waivers: Vec<_> = list(digests.waivers)?.into_iter().map(waiver).collect::<Result<_, _>>()?;
        let denial = |json: Vec<u8>| Denial::parse(&json).map_err(|finding| finding.code);
        let denials: Vec<_> = list(digests.denials)?.into_iter().map(denial).collect::<Result<_, _>>()?;
        let references = ReferenceSet::of(manifests.iter().map(|signed| Arc::clone(signed.manifest())));
        let (waivers, denials) = (WaiverSet::new(waivers), DenialSet::new(denials));
        let items = Items::default();
        Ok(Self { references, manifests, signers, policy, collateral, items, waivers, denials, digests })
    }
}
