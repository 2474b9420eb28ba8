//! Execution credentials: an X.509-SVID and an EAR for one key, one decision, one lease. Both arguments can only be
//! had from a durable entry: issuing before recording does not compile.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::Assurance;
use countersign_attestation::claims::{Claims, Presented};
use countersign_attestation::endorsement::intel::TcbStatus;
use countersign_attestation::protocol::IssuedCredential;
use countersign_attestation::result::ear::{
    self, Confirmation, Ear, StatusClaim, StatusReference, Submodule, TrustVector, VerifierId,
};
use countersign_attestation::result::jws::Thumbprint;
use countersign_attestation::result::svid::{CredentialExtension, EXTENSION_OID, SpiffeId, TrustDomain};
use countersign_policies::waiver::WaiverUse;
use rcgen::ExtendedKeyUsagePurpose;

use crate::keys::{KeyError, Keys, LeafProfile};
use crate::lineage::Recorded;
use crate::trust::Lease;
use crate::trust::state::split_index;

/// AR4SI, 2.3.3: recognized and affirmed.
const AFFIRMING: i8 = 2;
/// AR4SI, 2.3.3: a warning; here, hardware that is a stand-in, stands on a waiver, or is not up to date.
const WARNING: i8 = 32;

/// What a grant was made on.
#[derive(Clone, Copy, Debug)]
pub struct Proven<'a> {
    /// The claims.
    pub claims: &'a Claims,
    /// The waivers it stands on: every credential under it names them.
    pub waivers: &'a [WaiverUse],
}

/// Issues execution credentials.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// The broker's keys.
    pub keys: Arc<Keys>,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Where status lists are served: the URI's part before the number.
    pub list_uri: String,
    /// This build, as the EAR names it.
    pub build: String,
}

impl Issuer {
    /// The credential that `recorded` decided on, for the key in `spki`; `None` when it decided on none.
    ///
    /// # Errors
    /// [`KeyError`] when the key cannot be certified.
    pub fn issue(
        &self,
        recorded: &Recorded,
        lease: &Lease,
        spki: &[u8],
        proven: Proven<'_>,
        now: UnixMillis,
    ) -> Result<Option<IssuedCredential>, KeyError> {
        let Proven { claims, .. } = proven;
        let waivers: Vec<String> = proven.waivers.iter().map(|waiver| waiver.id.clone()).collect();
        let Some(credential) = recorded.entry().credential() else { return Ok(None) };
        let (status_list, status_index) = split_index(credential.status_index);
        let subject = SpiffeId::new(self.trust_domain.clone(), lease.host().clone());
        let extension = CredentialExtension {
            status_list,
            status_index,
            generation: lease.generation(),
            decision: recorded.leaf_hash(),
            log_index: recorded.index(),
            assurance: claims.assurance,
            waivers: waivers.clone(),
        };
        let profile = LeafProfile {
            uri: Some(subject.to_string()),
            names: vec![],
            usages: vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
            extensions: vec![(EXTENSION_OID.to_vec(), extension.encode())],
            serial: credential.serial.clone(),
            not_after: credential.not_after,
        };
        let certificate = self.keys.workload.sign(spki, profile, now)?;
        let thumbprint = Thumbprint::of_spki(spki)
            .ok_or_else(|| KeyError::Unusable { doing: "name a key", reason: "it is not a P-256 key".to_owned() })?;
        let ear = Ear {
            eat_profile: ear::PROFILE.to_owned(),
            iss: self.trust_domain.clone(),
            sub: subject,
            iat: now.seconds(),
            exp: credential.not_after.seconds(),
            jti: recorded.leaf_hash(),
            cnf: Confirmation { jkt: thumbprint.to_string() },
            ear_verifier_id: VerifierId { developer: "countersign".to_owned(), build: self.build.clone() },
            submods: submodules(proven),
            status: StatusClaim {
                status_list: StatusReference { idx: status_index, uri: format!("{}{status_list}", self.list_uri) },
            },
            assurance: claims.assurance,
            generation: lease.generation(),
            log_index: recorded.index(),
            waivers,
        };
        Ok(Some(IssuedCredential {
            certificate_chain: certificate.pem,
            ear: self.keys.token.sign(ear::KIND, &ear.to_payload())?,
            trust_bundle: self.keys.workload.root_pem().to_owned(),
            serial: hex::encode(&credential.serial),
            not_after: credential.not_after,
            renew_at: now.plus(credential.not_after.since(now) / 2),
        }))
    }
}

fn submodules(proven: Proven<'_>) -> BTreeMap<String, Submodule> {
    let Proven { claims, waivers } = proven;
    let vector = |hardware| TrustVector {
        instance_identity: Some(AFFIRMING),
        executables: Some(AFFIRMING),
        hardware: Some(hardware),
        ..TrustVector::default()
    };
    let tpm = match claims.tpm.assurance {
        Assurance::Hardware => AFFIRMING,
        Assurance::Simulated => WARNING,
    };
    // What is waived is the processor's: its TCB, its generation.
    let processor = |assurance| match assurance {
        Assurance::Hardware if waivers.is_empty() => AFFIRMING,
        Assurance::Hardware | Assurance::Simulated => WARNING,
    };
    let mut submodules = BTreeMap::from([("tpm".to_owned(), Submodule::new(vector(tpm)))]);
    match &claims.snp {
        Presented::NotPresented => {}
        Presented::Verified(snp) => {
            submodules.insert("snp".to_owned(), Submodule::new(vector(processor(snp.assurance))));
        }
    }
    match &claims.tdx {
        Presented::NotPresented => {}
        Presented::Verified(tdx) => {
            let current = tdx.tcb.status == TcbStatus::UpToDate;
            let hardware = if current { processor(tdx.assurance) } else { WARNING };
            submodules.insert("tdx".to_owned(), Submodule::new(vector(hardware)));
        }
    }
    match &claims.paravisor {
        Presented::NotPresented => {}
        Presented::Verified(paravisor) => {
            submodules.insert("paravisor".to_owned(), Submodule::new(vector(processor(paravisor.assurance))));
        }
    }
    submodules
}
