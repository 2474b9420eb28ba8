//! Of each subject the newest document that was ever seen: from a vendor, a mirror, a file or another site. The mark
//! it sets is durable, so that no source and no restart brings an older one back (C14).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use countersign_attestation::anchor::TrustAnchors;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::issue::{Follows, Issue};
use countersign_attestation::{Rejection, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::collateral::document::Document;
use crate::collateral::intel::{IntelDocuments, PlatformCollateral};
use crate::store::{Store, StoreError, Table, Write};

/// A document in force, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Which issue it is.
    pub issue: Issue,
    /// The document.
    pub document: Document,
    /// SHA-256 of it: its name in the archive.
    pub sha256: Sha256Digest,
    /// The source's name, `file:NAME` or `import:OPERATOR`.
    pub source: String,
    /// When it was accepted.
    pub accepted_at: UnixMillis,
}

impl Item {
    /// What is stored of it.
    #[must_use]
    pub fn write(&self) -> Write {
        // Strings and numbers always serialize.
        Write::put(Table::Collateral, &self.issue.subject, serde_json::to_vec(self).unwrap_or_default())
    }
}

/// What a document is beside what was seen.
#[derive(Clone, Debug)]
pub enum Judged {
    /// Newer, or the first of its subject.
    Newer(Item),
    /// The issue that is in force.
    Known(Issue),
}

/// The newest document of each subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Items {
    all: BTreeMap<String, Arc<Item>>,
    /// Subjects whose root is pinned. The others keep their marks and count for nothing.
    usable: BTreeSet<String>,
}

impl Items {
    /// The items of the store.
    ///
    /// # Errors
    /// When the store cannot be read, or a row is not what was written.
    pub fn load(store: &Store) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut items = Self::default();
        for (subject, json) in store.scan(Table::Collateral).map_err(|error: StoreError| Box::new(error))? {
            let item: Item = serde_json::from_slice(&json)
                .map_err(|error| format!("collateral {}: {error}", String::from_utf8_lossy(&subject)))?;
            items.put(item);
        }
        // What counts of them depends on the anchors: see `settle`.
        Ok(items)
    }

    /// The item of a subject.
    #[must_use]
    pub fn get(&self, subject: &str) -> Option<&Item> {
        self.all.get(subject).map(AsRef::as_ref)
    }

    /// Judges a document by its signature and by what was seen of its subject.
    ///
    /// # Errors
    /// Nobody who is pinned signed it, it is of the future, or older than what was seen.
    pub fn judge(
        &self,
        document: Document,
        anchors: &TrustAnchors,
        source: &str,
        now: UnixMillis,
    ) -> Result<Judged, Rejection> {
        let issue = document.issue(anchors, now)?;
        let follows = self.get(&issue.subject).map(|seen| issue.check_follows(&seen.issue)).transpose()?;
        Ok(match follows {
            Some(Follows::Same) => Judged::Known(issue),
            Some(Follows::Newer) | None => {
                let (sha256, source) = (document.digest(), source.to_owned());
                Judged::Newer(Item { issue, document, sha256, source, accepted_at: now })
            }
        })
    }

    /// Puts a judged item in the place of the one before.
    pub fn put(&mut self, item: Item) {
        self.all.insert(item.issue.subject.clone(), Arc::new(item));
    }

    /// Finds which items count under these anchors: by every signature again, so that nothing counts for being stored.
    pub fn settle(&mut self, anchors: &TrustAnchors) {
        // What its root is worth may have changed since; which root that is may not.
        let counts = |item: &&Arc<Item>| {
            let issue = item.document.issue(anchors, item.accepted_at);
            issue.is_ok_and(|issue| issue.subject == item.issue.subject)
        };
        self.usable = self.all.values().filter(counts).map(|item| item.issue.subject.clone()).collect();
    }

    /// The items that count.
    pub fn usable(&self) -> impl Iterator<Item = &Item> {
        self.usable.iter().filter_map(|subject| self.get(subject))
    }
}

/// Documents by what the verifier does with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sorted {
    /// AMD's lists, DER.
    pub amd: Vec<Vec<u8>>,
    /// Lists of authorities of EKs and AKs, DER.
    pub tpm: Vec<Vec<u8>>,
    /// What Intel says of each family of platforms: TCB info with the lists and the identity that go with it.
    pub intel: Vec<PlatformCollateral>,
}

impl Sorted {
    /// The usable ones of `items`.
    #[must_use]
    pub fn of(items: &Items) -> Self {
        let (mut sorted, mut intel) = (Self::default(), BTreeMap::<_, IntelParts<'_>>::new());
        for item in items.usable() {
            // Behind the #: the root.
            let root = item.issue.subject.rsplit('#').next().unwrap_or_default();
            match &item.document {
                Document::AmdCrl { list } => sorted.amd.push(list.0.clone()),
                Document::TpmCrl { list } => sorted.tpm.push(list.0.clone()),
                Document::IntelRootCrl { .. } => intel.entry(root).or_default().root.push(item),
                Document::IntelPckCrl { .. } => intel.entry(root).or_default().authorities.push(item),
                Document::IntelTcbInfo { .. } => intel.entry(root).or_default().infos.push(item),
                Document::IntelQeIdentity { .. } => intel.entry(root).or_default().identities.push(item),
            }
        }
        sorted.intel = intel.values().flat_map(IntelParts::whole).collect();
        sorted
    }
}

/// Intel's documents under one root.
#[derive(Default)]
struct IntelParts<'a> {
    root: Vec<&'a Item>,
    authorities: Vec<&'a Item>,
    infos: Vec<&'a Item>,
    identities: Vec<&'a Item>,
}

impl IntelParts<'_> {
    /// Every TCB info with every CA's list, and the identity of its technology. Where a part is missing there is
    /// nothing: a quote of such a platform is denied for it.
    fn whole(&self) -> Vec<PlatformCollateral> {
        let mut whole = Vec::new();
        for (root, authority, info) in self.root.iter().flat_map(|root| {
            self.authorities
                .iter()
                .flat_map(move |authority| self.infos.iter().map(move |info| (root, authority, info)))
        }) {
            let is_tdx = info.issue.subject.starts_with("intel.tcb/tdx/");
            let wanted = if is_tdx { "intel.qe_identity/td_qe#" } else { "intel.qe_identity/qe#" };
            let identity = self.identities.iter().find(|identity| identity.issue.subject.starts_with(wanted));
            let documents = identity.and_then(|identity| {
                documents(&root.document, &authority.document, &info.document, &identity.document)
            });
            whole.extend(documents.and_then(|documents| PlatformCollateral::new(documents).ok()));
        }
        whole
    }
}

fn documents(root: &Document, authority: &Document, info: &Document, identity: &Document) -> Option<IntelDocuments> {
    let Document::IntelRootCrl { list: root_ca_crl } = root.clone() else { return None };
    let Document::IntelPckCrl { list: pck_crl, issuer_chain: pck_crl_issuer_chain } = authority.clone() else {
        return None;
    };
    let Document::IntelTcbInfo { tcb_info, signature: tcb_info_signature, issuer_chain: tcb_info_issuer_chain } =
        info.clone()
    else {
        return None;
    };
    let Document::IntelQeIdentity {
        qe_identity,
        signature: qe_identity_signature,
        issuer_chain: qe_identity_issuer_chain,
    } = identity.clone()
    else {
        return None;
    };
    Some(IntelDocuments {
        pck_crl_issuer_chain,
        root_ca_crl,
        pck_crl,
        tcb_info_issuer_chain,
        tcb_info,
        tcb_info_signature,
        qe_identity_issuer_chain,
        qe_identity,
        qe_identity_signature,
    })
}
