//! A host enrols: an operator named its EK (or AK, or IAK), and the TPM proves that the AK lives beside that key.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::Assurance;
use countersign_attestation::claims::TpmIdentity;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement;
use countersign_attestation::endorsement::tpm::{EndorsementPath, verify_ak_certificate};
use countersign_attestation::evidence::tpm::credential::{ActivationSecret, make_credential};
use countersign_attestation::evidence::tpm::key::AttestationKey;
use countersign_attestation::evidence::tpm::possession;
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::protocol::{
    ActivationRequest, ActivationResponse, Base64Bytes, Endorsement, EnrollmentChallenge, EnrollmentRequest,
    EnrollmentTask, HostId, INTERMEDIATES_MAX, activation_proof, possession_data,
};
use countersign_attestation::result::jws::Thumbprint;

use crate::broker::Broker;
use crate::collateral::Collateral;
use crate::credentials::channel::{self, Holder};
use crate::keys::random;
use crate::problem::{Problem, Refusal};
use crate::trust::hosts::{EndorsedBy, Enrolled, Host};
use crate::trust::state::HostTrust;

/// How long a TPM has to activate the credential.
const LIFE_MS: u64 = 60_000;
/// Enrolments wait in memory and cost the broker an RSA or ECDH operation each.
const PENDING_MAX: usize = 1024;

/// Enrolments that wait for their activation. Forgotten at a restart: the host starts over.
#[derive(Debug, Default)]
pub struct Pending(Mutex<BTreeMap<String, Enrollment>>);

struct Enrollment {
    host: HostId,
    ak_public: Vec<u8>,
    assurance: Assurance,
    identity: TpmIdentity,
    path: EndorsementPath,
    awaited: Awaited,
    channel_key: Vec<u8>,
    expires_at: UnixMillis,
}

/// What the activation must prove.
enum Awaited {
    /// The EK opened this secret for the AK.
    Secret(ActivationSecret),
    /// The certified AK signed this nonce.
    Quote { ak: AttestationKey, nonce: [u8; 32] },
    /// The IAK certified the AK with this nonce.
    Certification { iak: AttestationKey, ak: AttestationKey, nonce: [u8; 32] },
}

/// A key whose certificate led to a pinned root, and what its TPM must do to show that it holds it.
struct Endorsed {
    key: Sha256Digest,
    assurance: Assurance,
    identity: TpmIdentity,
    path: EndorsementPath,
    task: EnrollmentTask,
    awaited: Awaited,
}

impl std::fmt::Debug for Enrollment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrollment").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Pending {
    fn add(&self, id: String, enrollment: Enrollment, now: UnixMillis) -> Result<(), Problem> {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pending.retain(|_, waiting| now < waiting.expires_at);
        if PENDING_MAX <= pending.len() {
            return Err(Refusal::Busy.because(format!("fewer than {PENDING_MAX} pending enrolments"), pending.len()));
        }
        pending.insert(id, enrollment);
        Ok(())
    }

    /// Takes it out: whatever comes of it, there is no second attempt.
    fn take(&self, id: &str, now: UnixMillis) -> Result<Enrollment, Problem> {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let enrollment = pending.remove(id).filter(|enrollment| now < enrollment.expires_at);
        enrollment.ok_or_else(|| Refusal::EnrollmentUnknown.plain())
    }
}

impl Awaited {
    /// Whether `proof` is what only the TPM that was asked can know or sign.
    fn check(&self, id: &str, channel_key: &[u8], proof: &[u8]) -> Result<EndorsedBy, Problem> {
        match self {
            Self::Secret(secret) => {
                // In constant time.
                let expected = activation_proof(secret.expose(), id, channel_key);
                aws_lc_rs::constant_time::verify_slices_are_equal(&expected, proof)
                    .map_err(|_| Refusal::ActivationFailed.plain())?;
                Ok(EndorsedBy::EndorsementKey)
            }
            Self::Quote { ak, nonce } => {
                possession::verify_quote(proof, ak, &possession_data(nonce, id, channel_key))?;
                Ok(EndorsedBy::AkCertificate)
            }
            Self::Certification { iak, ak, nonce } => {
                possession::verify_certified_ak(proof, iak, ak, &possession_data(nonce, id, channel_key))?;
                Ok(EndorsedBy::InitialAttestationKey)
            }
        }
    }
}

/// Checks the endorsement's certificate, and makes the task that only the TPM with the endorsed key and `ak` can do.
fn endorse(
    request: &EnrollmentRequest,
    ak: AttestationKey,
    collateral: &Collateral,
    now: UnixMillis,
) -> Result<Endorsed, Problem> {
    let internal = |_| Refusal::Internal.plain();
    match &request.endorsement {
        Endorsement::EndorsementKey { certificate, public, intermediates } => {
            let (intermediates, anchors) = (sent(intermediates)?, &collateral.anchors.tpm);
            let ek = endorsement::tpm::verify_ek(&certificate.0, &public.0, &intermediates, anchors, now)?;
            // TPM2_MakeCredential: a secret for this EK and AK together.
            let secret = ActivationSecret::new(random().map_err(internal)?);
            let mut drawn = Ok(());
            let mut draw = |bytes: &mut [u8]| drawn = drawn.and(aws_lc_rs::rand::fill(bytes));
            let made = make_credential(ek.key(), ak.name(), &secret, &mut draw)?;
            drawn.map_err(|_| Refusal::Internal.plain())?;
            let task = EnrollmentTask::ActivateCredential {
                credential_blob: Base64Bytes(made.credential_blob),
                encrypted_secret: Base64Bytes(made.encrypted_secret),
            };
            let (assurance, identity, path) = (ek.assurance(), ek.identity().clone(), ek.path().clone());
            Ok(Endorsed { key: ek.ek(), assurance, identity, path, task, awaited: Awaited::Secret(secret) })
        }
        Endorsement::AkCertificate { certificate, intermediates } => {
            let (intermediates, anchors) = (sent(intermediates)?, &collateral.anchors.ak);
            let public = &request.ak_public.0;
            let certified = verify_ak_certificate(&certificate.0, public, &intermediates, anchors, now)?;
            let nonce: [u8; 32] = random().map_err(internal)?;
            let task = EnrollmentTask::Quote { nonce: Base64Bytes(nonce.to_vec()) };
            let (assurance, identity) = (certified.assurance(), certified.identity().clone());
            let (path, awaited) = (certified.path().clone(), Awaited::Quote { ak, nonce });
            Ok(Endorsed { key: certified.id(), assurance, identity, path, task, awaited })
        }
        Endorsement::InitialAttestationKey { certificate, public, intermediates } => {
            let (intermediates, anchors) = (sent(intermediates)?, &collateral.anchors.ak);
            let certified = verify_ak_certificate(&certificate.0, &public.0, &intermediates, anchors, now)?;
            let nonce: [u8; 32] = random().map_err(internal)?;
            let task = EnrollmentTask::CertifyAk { nonce: Base64Bytes(nonce.to_vec()) };
            let (assurance, identity) = (certified.assurance(), certified.identity().clone());
            let (path, awaited) =
                (certified.path().clone(), Awaited::Certification { iak: certified.ak().clone(), ak, nonce });
            Ok(Endorsed { key: certified.id(), assurance, identity, path, task, awaited })
        }
    }
}

/// The intermediates a host sent: candidates for a path, each of which must still be signed from a pinned root.
fn sent(intermediates: &[Base64Bytes]) -> Result<Vec<&[u8]>, Problem> {
    if INTERMEDIATES_MAX < intermediates.len() {
        let expected = format!("at most {INTERMEDIATES_MAX} intermediates");
        return Err(Refusal::Malformed.because(expected, intermediates.len()));
    }
    Ok(intermediates.iter().map(|certificate| certificate.0.as_slice()).collect())
}

impl Broker {
    /// First half: check the endorsed key and the AK, and set the task that only their TPM can do.
    ///
    /// # Errors
    /// A [`Problem`]; no state is changed.
    pub fn begin_enrollment(&self, request: EnrollmentRequest) -> Result<EnrollmentChallenge, Problem> {
        Refusal::check_clock(self.clock.error())?;
        let now = self.clock.now();
        // 1. An operator registered the host, and it has not enrolled.
        let host = self.hosts.find(&request.host)?;
        if host.enrolled.is_some() {
            return Err(Refusal::AlreadyEnrolled.plain());
        }
        // 2. The AK is one that can only sign what the TPM made.
        let ak = AttestationKey::from_public(&request.ak_public.0)?;
        // 3. The endorsed key is genuine: its certificate leads to a pinned root and certifies this public area.
        let governance = self.references.current();
        let endorsed = endorse(&request, ak, &governance.collateral, now)?;
        // Genuine, and taken back by who issued it.
        let collateral = &governance.collateral;
        endorsed.path.check_not_revoked(&collateral.tpm_crls, collateral.at(now))?;
        // A17: genuine, and no longer believed.
        governance.collateral.tpm_denials.check_ek(endorsed.key)?;
        // 4. It is the key that the operator registered.
        if endorsed.key != host.ek_sha256 {
            return Err(Refusal::EkMismatch.because(host.ek_sha256, endorsed.key));
        }
        // 5. The channel key is usable.
        if Thumbprint::of_spki(&request.channel_key.0).is_none() {
            return Err(Refusal::KeyUnusable.plain());
        }
        // 6. Remember what is awaited: one record of endorsed key, AK, channel key and host, used to the end.
        let id = hex::encode(random::<16>().map_err(|_| Refusal::Internal.plain())?);
        let expires_at = now.plus(LIFE_MS);
        let enrollment = Enrollment {
            host: request.host,
            ak_public: request.ak_public.0,
            assurance: endorsed.assurance,
            identity: endorsed.identity,
            path: endorsed.path,
            awaited: endorsed.awaited,
            channel_key: request.channel_key.0,
            expires_at,
        };
        self.enrollments.add(id.clone(), enrollment, now)?;
        Ok(EnrollmentChallenge { enrollment: id, task: endorsed.task, expires_at })
    }

    /// Second half: the TPM did its task. One attempt.
    ///
    /// # Errors
    /// A [`Problem`]; the enrolment is void.
    pub async fn activate_enrollment(
        &self,
        id: &str,
        request: ActivationRequest,
    ) -> Result<ActivationResponse, Problem> {
        Refusal::check_clock(self.clock.error())?;
        let now = self.clock.now();
        // 1. The enrolment is taken out before anything can fail.
        let enrollment = self.enrollments.take(id, now)?;
        // 2. The proof. The answer never says what it should have been.
        let endorsed_by = enrollment.awaited.check(id, &enrollment.channel_key, &request.proof.0)?;
        let host = self.hosts.find(&enrollment.host)?;
        let path = serde_json::to_vec(&enrollment.path).map_err(|_| Refusal::Internal.plain())?;
        let path = self.archive.put(&path).map_err(|_| Refusal::StoreFailed.plain())?;
        let enrolled = Enrolled {
            ak_public: Base64Bytes(enrollment.ak_public),
            assurance: enrollment.assurance,
            identity: enrollment.identity,
            path: Some(path),
            endorsed_by,
            channel_key: Sha256Digest::of(&[&enrollment.channel_key]),
            at: now,
        };
        // 3. Claim the host: of two concurrent enrolments one wins here. A crash after this leaves a host that is
        //    enrolled and has no channel certificate; an operator removes and registers it again.
        self.hosts.enroll(&enrollment.host, enrolled.clone())?;
        // 4. Record. Until this is durable the host's standing is what it was, and it can prove nothing.
        let record =
            serde_json::to_vec(&Host { enrolled: Some(enrolled), ..host }).map_err(|_| Refusal::Internal.plain())?;
        let on = self.trust.host(&enrollment.host)?.unwrap_or_else(HostTrust::new).revision_of(enrollment.host.clone());
        self.record_change(Entry::enrolled(now, on, Sha256Digest::of(&[&record]))).await?;
        // 5. The channel certificate.
        let holder = Holder::Host(enrollment.host.clone());
        let certificate =
            channel::issue(&self.keys.control, &self.config.trust_domain, &holder, &enrollment.channel_key, now)
                .map_err(|error| {
                    tracing::error!(%error, "channel certificate not issued");
                    Refusal::Internal.plain()
                })?;
        Ok(ActivationResponse { host: enrollment.host, channel_certificate: certificate.pem })
    }
}
