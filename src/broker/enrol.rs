//! A host enrols: an operator named its EK, and the TPM proves that the AK lives beside that EK.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::Assurance;
use countersign_attestation::claims::TpmIdentity;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement;
use countersign_attestation::evidence::tpm::credential::{ActivationSecret, make_credential};
use countersign_attestation::evidence::tpm::key::AttestationKey;
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::protocol::{
    ActivationRequest, ActivationResponse, Base64Bytes, EnrollmentChallenge, EnrollmentRequest, HostId,
    activation_proof,
};
use countersign_attestation::result::jws::Thumbprint;

use crate::broker::Broker;
use crate::credentials::channel::{self, Holder};
use crate::keys::random;
use crate::problem::{Problem, Refusal};
use crate::trust::hosts::{Enrolled, Host};
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
    channel_key: Vec<u8>,
    secret: ActivationSecret,
    expires_at: UnixMillis,
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

impl Broker {
    /// First half: check the EK and AK, and wrap a secret that only their TPM can open.
    ///
    /// # Errors
    /// A [`Problem`]; no state is changed.
    pub fn begin_enrollment(&self, request: EnrollmentRequest) -> Result<EnrollmentChallenge, Problem> {
        let now = self.clock.now();
        // 1. An operator registered the host, and it has not enrolled.
        let host = self.hosts.find(&request.host)?;
        if host.enrolled.is_some() {
            return Err(Refusal::AlreadyEnrolled.plain());
        }
        // 2. The EK is genuine: its certificate leads to a pinned root and certifies this public area.
        let governance = self.references.current();
        let collateral = &governance.collateral;
        let anchors = &collateral.anchors.tpm;
        let ek = endorsement::tpm::verify_ek(&request.ek_certificate.0, &request.ek_public.0, &[], anchors, now)?;
        collateral.tpm_denials.check_ek(ek.ek())?;
        // 3. It is the EK that the operator registered.
        if ek.ek() != host.ek_sha256 {
            return Err(Refusal::EkMismatch.because(host.ek_sha256, ek.ek()));
        }
        // 4. The AK is one that can only sign what the TPM made.
        let ak = AttestationKey::from_public(&request.ak_public.0)?;
        // 5. The channel key is usable.
        if Thumbprint::of_spki(&request.channel_key.0).is_none() {
            return Err(Refusal::KeyUnusable.plain());
        }
        // 6. A secret for this EK and AK together (TPM2_MakeCredential).
        let internal = |_| Refusal::Internal.plain();
        let secret = ActivationSecret::new(random().map_err(internal)?);
        let mut drawn = Ok(());
        let mut draw = |bytes: &mut [u8]| drawn = drawn.and(aws_lc_rs::rand::fill(bytes));
        let wrapped = make_credential(ek.key(), ak.name(), &secret, &mut draw)?;
        drawn.map_err(|_| Refusal::Internal.plain())?;
        let id = hex::encode(random::<16>().map_err(internal)?);
        let expires_at = now.plus(LIFE_MS);
        let enrollment = Enrollment {
            host: request.host,
            ak_public: request.ak_public.0,
            assurance: ek.assurance(),
            identity: ek.identity().clone(),
            channel_key: request.channel_key.0,
            secret,
            expires_at,
        };
        self.enrollments.add(id.clone(), enrollment, now)?;
        Ok(EnrollmentChallenge {
            enrollment: id,
            credential_blob: Base64Bytes(wrapped.credential_blob),
            encrypted_secret: Base64Bytes(wrapped.encrypted_secret),
            expires_at,
        })
    }

    /// Second half: the TPM opened the secret. One attempt.
    ///
    /// # Errors
    /// A [`Problem`]; the enrolment is void.
    pub async fn activate_enrollment(
        &self,
        id: &str,
        request: ActivationRequest,
    ) -> Result<ActivationResponse, Problem> {
        let now = self.clock.now();
        // 1. The enrolment is taken out before anything can fail.
        let enrollment = self.enrollments.take(id, now)?;
        // 2. The proof, in constant time. The answer never says what it should have been.
        let proof = activation_proof(enrollment.secret.expose(), id, &enrollment.channel_key);
        aws_lc_rs::constant_time::verify_slices_are_equal(&proof, &request.proof.0)
            .map_err(|_| Refusal::ActivationFailed.plain())?;
        let host = self.hosts.find(&enrollment.host)?;
        let enrolled = Enrolled {
            ak_public: Base64Bytes(enrollment.ak_public),
            assurance: enrollment.assurance,
            identity: enrollment.identity,
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
        let recorded = self.record(Entry::enrolled(now, on, Sha256Digest::of(&[&record]))).await?;
        self.trust.holds(&recorded)?;
        // 5. The channel certificate.
        let holder = Holder::Host(enrollment.host.clone());
        let certificate = channel::issue(&self.keys, &self.config.trust_domain, &holder, &enrollment.channel_key, now)
            .map_err(|error| {
                tracing::error!(%error, "channel certificate not issued");
                Refusal::Internal.plain()
            })?;
        Ok(ActivationResponse { host: enrollment.host, channel_certificate: certificate.pem })
    }
}
