//! Hosts as operators registered them and as they enrolled: an identity is one immutable record.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::Assurance;
use countersign_attestation::claims::{TpmIdentity, TpmKind};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::{Base64Bytes, HostId};
use serde::{Deserialize, Serialize};

use crate::problem::{Problem, Refusal};
use crate::store::{Store, StoreError, Table, Write};

/// A registered host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its id in the trust domain.
    pub id: HostId,
    /// SHA-256 of the `SubjectPublicKeyInfo` of the EK an operator expects there; of the AK or IAK, where that is the
    /// key that the manufacturer certified.
    pub ek_sha256: Sha256Digest,
    /// Facts an operator states about the host, for policies.
    pub labels: BTreeMap<String, String>,
    /// When it was registered.
    pub registered_at: UnixMillis,
    /// By which operator.
    pub registered_by: String,
    /// How it enrolled, once it has.
    pub enrolled: Option<Enrolled>,
}

/// What a host proved at enrolment. Never changed: another TPM or AK is another registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolled {
    /// The AK, TPMT_PUBLIC.
    pub ak_public: Base64Bytes,
    /// What the EK certificate's anchor is worth.
    pub assurance: Assurance,
    /// What the EK certificate says the TPM is. A record of a version that did not keep it says unknown.
    #[serde(default = "unknown_tpm")]
    pub identity: TpmIdentity,
    /// The certificates that endorsed the TPM, an [`EndorsementPath`] in the archive. Absent in a record of a version
    /// that did not keep them: no list is then compared with them.
    ///
    /// [`EndorsementPath`]: countersign_attestation::endorsement::tpm::EndorsementPath
    #[serde(default)]
    pub path: Option<Sha256Digest>,
    /// Which of the TPM's keys the manufacturer certified: [`Host::ek_sha256`] is its digest.
    #[serde(default)]
    pub endorsed_by: EndorsedBy,
    /// SHA-256 of the `SubjectPublicKeyInfo` of the key the host's channel certificate carries.
    pub channel_key: Sha256Digest,
    /// When.
    pub at: UnixMillis,
}

/// How a TPM was shown to be one. A record of a version that knew one way only does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndorsedBy {
    /// By its EK, which opened a secret for the AK.
    #[default]
    EndorsementKey,
    /// By the AK's own certificate, of a cloud or a manufacturer.
    AkCertificate,
    /// By its initial attestation key, which certified the AK.
    InitialAttestationKey,
}

/// The TPM of a record that does not say.
#[must_use]
pub fn unknown_tpm() -> TpmIdentity {
    TpmIdentity::unnamed(TpmKind::Unknown)
}

/// All registered hosts, in the store. What is returned is durable.
#[derive(Debug)]
pub struct Hosts {
    store: Store,
    /// Held by whoever changes a host, from reading it on.
    changing: Mutex<()>,
}

impl Hosts {
    /// Reads every host record once.
    ///
    /// # Errors
    /// [`StoreError`], or a record that does not decode: a broker that has forgotten a host must not start.
    pub fn load(store: Store) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        store.each(Table::Hosts, |_, value| serde_json::from_slice::<Host>(value).map(drop))??;
        Ok(Self { store, changing: Mutex::new(()) })
    }

    /// One host.
    ///
    /// # Errors
    /// [`Refusal::HostUnknown`], [`Refusal::StoreFailed`].
    pub fn find(&self, id: &HostId) -> Result<Host, Problem> {
        self.get(id)?.ok_or_else(|| Refusal::HostUnknown.because("a registered host", id))
    }

    /// SHA-256 of the channel key that a host enrolled with; none for a host that is unknown or has not enrolled.
    ///
    /// # Errors
    /// [`Refusal::StoreFailed`].
    pub fn channel_key(&self, id: &HostId) -> Result<Option<Sha256Digest>, Problem> {
        Ok(self.get(id)?.and_then(|host| host.enrolled).map(|enrolled| enrolled.channel_key))
    }

    /// All hosts in the order of their ids.
    ///
    /// # Errors
    /// [`Refusal::StoreFailed`].
    pub fn list(&self) -> Result<Vec<Host>, Problem> {
        let mut hosts = Vec::new();
        let read = self.store.each(Table::Hosts, |_, value| {
            hosts.push(serde_json::from_slice(value)?);
            Ok(())
        });
        read.map_err(|error| unread(&error))?.map_err(|error: serde_json::Error| unread(&error))?;
        Ok(hosts)
    }

    /// Adds a host.
    ///
    /// # Errors
    /// [`Refusal::HostExists`], [`Refusal::StoreFailed`].
    pub fn register(&self, host: Host) -> Result<(), Problem> {
        let _changing = self.changing()?;
        if self.get(&host.id)?.is_some() {
            return Err(Refusal::HostExists.because("an unused id", &host.id));
        }
        self.write(&host)
    }

    /// Attaches an enrolment to a host that has none: compare-and-swap, so that of two concurrent enrolments one wins.
    ///
    /// # Errors
    /// [`Refusal::HostUnknown`], [`Refusal::AlreadyEnrolled`], [`Refusal::StoreFailed`].
    pub fn enroll(&self, id: &HostId, enrolled: Enrolled) -> Result<(), Problem> {
        let _changing = self.changing()?;
        let host = self.find(id)?;
        if host.enrolled.is_some() {
            return Err(Refusal::AlreadyEnrolled.plain());
        }
        self.write(&Host { enrolled: Some(enrolled), ..host })
    }

    /// Removes a host.
    ///
    /// # Errors
    /// [`Refusal::HostUnknown`], [`Refusal::StoreFailed`].
    pub fn remove(&self, id: &HostId) -> Result<(), Problem> {
        let _changing = self.changing()?;
        self.find(id)?;
        self.commit(&[Write::Delete(Table::Hosts, id.as_str().into())])
    }

    fn get(&self, id: &HostId) -> Result<Option<Host>, Problem> {
        let value = self.store.get(Table::Hosts, id.as_str()).map_err(|error| unread(&error))?;
        value.map(|value| serde_json::from_slice(&value)).transpose().map_err(|error| unread(&error))
    }

    fn write(&self, host: &Host) -> Result<(), Problem> {
        let value = serde_json::to_vec(host).map_err(|_| Refusal::Internal.plain())?;
        self.commit(&[Write::put(Table::Hosts, host.id.as_str(), value)])
    }

    fn commit(&self, writes: &[Write]) -> Result<(), Problem> {
        self.store.commit(writes).map(drop).map_err(|error: StoreError| {
            tracing::error!(%error, "host record not written");
            Refusal::StoreFailed.plain()
        })
    }

    fn changing(&self) -> Result<MutexGuard<'_, ()>, Problem> {
        // Poisoned: a panic while a host was changed. Nothing can be said about hosts any more.
        self.changing.lock().map_err(|_| Refusal::Internal.plain())
    }
}

fn unread(error: &dyn std::fmt::Display) -> Problem {
    tracing::error!(%error, "host record not read");
    Refusal::StoreFailed.plain()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use countersign_attestation::UnixMillis;
    use countersign_attestation::anchor::Assurance;
    use countersign_attestation::digest::Sha256Digest;
    use countersign_attestation::protocol::{Base64Bytes, HostId};

    use super::{Enrolled, Host, Hosts};
    use crate::clock::Clock;
    use crate::store::Store;

    fn host(id: &str) -> Host {
        Host {
            id: HostId::parse(id).unwrap(),
            ek_sha256: Sha256Digest([1; 32]),
            labels: [].into(),
            registered_at: UnixMillis(1),
            registered_by: "admin".into(),
            enrolled: None,
        }
    }

    fn enrolled(ak: u8) -> Enrolled {
        Enrolled {
            ak_public: Base64Bytes(vec![ak]),
            assurance: Assurance::Simulated,
            identity: super::unknown_tpm(),
            endorsed_by: super::EndorsedBy::EndorsementKey,
            channel_key: Sha256Digest([ak; 32]),
            path: None,
            at: UnixMillis(2),
        }
    }

    #[test]
    fn a8_a10_an_identity_is_immutable_and_of_two_concurrent_enrolments_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(&dir.path().join("store"), Clock::manual(UnixMillis(0))).unwrap();
        let hosts = Arc::new(Hosts::load(open()).unwrap());
        hosts.register(host("a")).unwrap();
        assert_eq!(hosts.register(host("a")).unwrap_err().code(), "host.exists");
        let attempts: Vec<_> = (0..8)
            .map(|ak| {
                let hosts = Arc::clone(&hosts);
                std::thread::spawn(move || {
                    hosts.enroll(&HostId::parse("a").unwrap(), enrolled(ak)).is_ok().then_some(ak)
                })
            })
            .collect();
        let winners: Vec<u8> = attempts.into_iter().filter_map(|attempt| attempt.join().unwrap()).collect();
        assert_eq!(winners.len(), 1);
        let kept = hosts.find(&HostId::parse("a").unwrap()).unwrap();
        assert_eq!(kept.enrolled, Some(enrolled(winners[0])));
        drop(hosts);
        let reopened = Hosts::load(open()).unwrap();
        assert_eq!(reopened.list().unwrap(), [kept]);
        assert_eq!(reopened.enroll(&HostId::parse("b").unwrap(), enrolled(0)).unwrap_err().code(), "host.unknown");
        reopened.remove(&HostId::parse("a").unwrap()).unwrap();
        assert_eq!(reopened.find(&HostId::parse("a").unwrap()).unwrap_err().code(), "host.unknown");
    }
}
