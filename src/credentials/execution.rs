//! Execution credentials: an X.509-SVID, an EAR and JWT-SVIDs for one key, one decision, one lease. Both arguments
//! can only be had from a durable entry: issuing before recording does not compile.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::Assurance;
use countersign_attestation::claims::{Claims, Presented};
use countersign_attestation::cmw;
use countersign_attestation::endorsement::intel::TcbStatus;
use countersign_attestation::lineage::entry::CredentialRecord;
use countersign_attestation::protocol::{IssuedCredential, IssuedToken};
use countersign_attestation::result::ear::{
    self, Confirmation, Ear, StatusClaim, StatusReference, Submodule, TrustVector, VerifierId,
};
use countersign_attestation::result::jws::Thumbprint;
use countersign_attestation::result::jwt_svid::{self, JwtSvid};
use countersign_attestation::result::svid::{CredentialExtension, EXTENSION_OID, KeyProtection, SpiffeId, TrustDomain};
use countersign_attestation::result::wit_svid::{self, ConfirmationKey, ProofKey, WitSvid};
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

/// Whom a credential is for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The credential key, `SubjectPublicKeyInfo`.
    pub spki: &'a [u8],
    /// The workload's key that is certified too, `SubjectPublicKeyInfo`.
    pub workload_key: Option<&'a [u8]>,
    /// Audiences of JWT-SVIDs.
    pub audiences: &'a [String],
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
    /// The issuer of JWT-SVIDs: where OpenID Connect Discovery finds the keys.
    pub issuer: String,
    /// This build, as the EAR names it.
    pub build: String,
    /// Whether credentials come with a WIT-SVID.
    pub wit_svid: bool,
}

impl Issuer {
    /// The credential that `recorded` decided on, for the key that is `wanted`; `None` when it decided on none.
    ///
    /// # Errors
    /// [`KeyError`] when the key cannot be certified.
    pub fn issue(
        &self,
        recorded: &Recorded,
        lease: &Lease,
        wanted: Wanted<'_>,
        proven: Proven<'_>,
        now: UnixMillis,
    ) -> Result<Option<IssuedCredential>, KeyError> {
        let (Proven { claims, .. }, Wanted { spki, .. }) = (proven, wanted);
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
            key_protection: KeyProtection::Tpm,
        };
        let thumbprint = Thumbprint::of_spki(spki)
            .ok_or_else(|| KeyError::Unusable { doing: "name a key", reason: "it is not a P-256 key".to_owned() })?;
        let cnf = Confirmation { jkt: thumbprint.to_string() };
        let status = StatusClaim {
            status_list: StatusReference { idx: status_index, uri: format!("{}{status_list}", self.list_uri) },
        };
        let face =
            Face { recorded, lease, credential: &credential, subject: &subject, cnf: &cnf, status: &status, now };
        let jwt_svids = wanted.audiences.iter().map(|audience| self.token(face, audience)).collect::<Result<_, _>>()?;
        let wit_svid = self.wit_svid.then(|| self.wit_svid(face, spki)).transpose()?;
        let memory = CredentialExtension { key_protection: KeyProtection::Memory, ..extension.clone() };
        let workload = wanted.workload_key.zip(credential.workload.as_ref()).map(|(spki, workload)| {
            self.keys.workload.sign(spki, profile(&subject, &workload.serial, credential.not_after, &memory), now)
        });
        let workload_chain = workload.transpose()?.map(|certificate| certificate.pem);
        let ear = Ear {
            eat_profile: ear::PROFILE.to_owned(),
            iss: self.trust_domain.clone(),
            sub: subject.clone(),
            iat: now.seconds(),
            exp: credential.not_after.seconds(),
            jti: recorded.leaf_hash(),
            cnf,
            ear_verifier_id: VerifierId { developer: "countersign".to_owned(), build: self.build.clone() },
            submods: submodules(proven),
            status,
            assurance: claims.assurance,
            generation: lease.generation(),
            log_index: recorded.index(),
            waivers,
        };
        let ear = self.keys.token.sign(ear::KIND, &ear.to_payload())?;
        let mut profile = profile(&subject, &credential.serial, credential.not_after, &extension);
        profile.extensions.push((cmw::EXTENSION_OID.to_vec(), cmw::certificate_extension(ear::MEDIA_TYPE, &ear)));
        let certificate = self.keys.workload.sign(spki, profile, now)?;
        Ok(Some(IssuedCredential {
            certificate_chain: certificate.pem,
            ear,
            jwt_svids,
            workload_chain,
            wit_svid,
            trust_bundle: self.keys.workload.roots_pem(),
            serial: hex::encode(&credential.serial),
            not_after: credential.not_after,
            renew_at: now.plus(credential.not_after.since(now) / 2),
        }))
    }
}

/// What a certificate of the credential says.
fn profile(subject: &SpiffeId, serial: &[u8], not_after: UnixMillis, extension: &CredentialExtension) -> LeafProfile {
    LeafProfile {
        uri: Some(subject.to_string()),
        names: vec![],
        usages: vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
        extensions: vec![(EXTENSION_OID.to_vec(), extension.encode())],
        serial: serial.to_vec(),
        not_after,
    }
}

/// What all faces of one credential have in common.
#[derive(Clone, Copy)]
struct Face<'a> {
    recorded: &'a Recorded,
    lease: &'a Lease,
    credential: &'a CredentialRecord,
    subject: &'a SpiffeId,
    cnf: &'a Confirmation,
    status: &'a StatusClaim,
    now: UnixMillis,
}

impl Issuer {
    /// The JWT-SVID for an audience.
    fn token(&self, face: Face<'_>, audience: &str) -> Result<IssuedToken, KeyError> {
        let Face { recorded, lease, credential, subject, cnf, status, now } = face;
        let svid = JwtSvid {
            iss: self.issuer.clone(),
            sub: subject.clone(),
            aud: [audience.to_owned()],
            iat: now.seconds(),
            exp: credential.not_after.seconds(),
            jti: JwtSvid::id(recorded.leaf_hash(), audience),
            cnf: cnf.clone(),
            status: status.clone(),
            decision: recorded.leaf_hash(),
            generation: lease.generation(),
        };
        let token = self.keys.token.sign(jwt_svid::KIND, &svid.to_payload())?;
        Ok(IssuedToken { audience: audience.to_owned(), token })
    }
}

impl Issuer {
    /// The WIT-SVID of the credential key.
    fn wit_svid(&self, face: Face<'_>, spki: &[u8]) -> Result<String, KeyError> {
        let Face { recorded, credential, subject, status, now, .. } = face;
        let jwk = ProofKey::of_spki(spki)
            .ok_or_else(|| KeyError::Unusable { doing: "name a key", reason: "it is not a P-256 key".to_owned() })?;
        let svid = WitSvid {
            iss: self.issuer.clone(),
            sub: subject.clone(),
            iat: now.seconds(),
            exp: credential.not_after.seconds(),
            jti: WitSvid::id(recorded.leaf_hash()),
            cnf: ConfirmationKey { jwk },
            status: status.clone(),
            decision: recorded.leaf_hash(),
        };
        self.keys.token.sign(wit_svid::KIND, &svid.to_payload())
    }
}

fn submodules(proven: Proven<'_>) -> BTreeMap<String, Submodule> {
    let Proven { claims, waivers } = proven;
    let tpm = match claims.tpm.assurance {
        Assurance::Hardware => AFFIRMING,
        Assurance::Simulated => WARNING,
    };
    let mut submodules = BTreeMap::from([("tpm", tpm)]);
    match &claims.snp {
        Presented::NotPresented => {}
        Presented::Verified(snp) => drop(submodules.insert("snp", processor(snp.assurance, waivers))),
    }
    match &claims.tdx {
        Presented::NotPresented => {}
        Presented::Verified(tdx) => drop(submodules.insert("tdx", platform(tdx.assurance, tdx.tcb.status, waivers))),
    }
    match &claims.paravisor {
        Presented::NotPresented => {}
        Presented::Verified(paravisor) => {
            submodules.insert("paravisor", processor(paravisor.assurance, waivers));
        }
    }
    let vector = |hardware| TrustVector {
        instance_identity: Some(AFFIRMING),
        executables: Some(AFFIRMING),
        hardware: Some(hardware),
        ..TrustVector::default()
    };
    submodules.into_iter().map(|(name, hardware)| (name.to_owned(), Submodule::new(vector(hardware)))).collect()
}

/// What is waived is the processor's: its TCB, its generation.
fn processor(assurance: Assurance, waivers: &[WaiverUse]) -> i8 {
    match assurance {
        Assurance::Hardware if waivers.is_empty() => AFFIRMING,
        Assurance::Hardware | Assurance::Simulated => WARNING,
    }
}

/// A processor of which Intel says this.
fn platform(assurance: Assurance, status: TcbStatus, waivers: &[WaiverUse]) -> i8 {
    if status == TcbStatus::UpToDate { processor(assurance, waivers) } else { WARNING }
}

#[cfg(test)]
mod tests {
    use countersign_attestation::anchor::Assurance;
    use countersign_attestation::endorsement::intel::TcbStatus;

    use super::{AFFIRMING, WARNING, platform, processor};

    #[test]
    fn only_hardware_that_is_up_to_date_is_affirmed() {
        assert_eq!(processor(Assurance::Hardware, &[]), AFFIRMING);
        assert_eq!(processor(Assurance::Simulated, &[]), WARNING);
        for status in TcbStatus::ALL {
            let expected = if status == TcbStatus::UpToDate { AFFIRMING } else { WARNING };
            assert_eq!(platform(Assurance::Hardware, status, &[]), expected, "{status:?}");
            assert_eq!(platform(Assurance::Simulated, status, &[]), WARNING, "{status:?}");
        }
    }
}
