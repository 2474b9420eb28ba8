//! The story of an enrolment: prove to the broker that one TPM holds the EK an operator registered and the AK.

use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use countersign_attestation::evidence::tpm::MadeCredential;
use countersign_attestation::protocol::{
    ActivationRequest, Base64Bytes, Endorsement, EnrollmentRequest, EnrollmentTask, HostId, activation_proof,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{AuthHandle, KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{EncryptedSecret, IdObject, SymmetricDefinition};
use zeroize::Zeroizing;

use crate::broker_client::{BrokerClient, BrokerError};
use crate::certificate::EkCertificate;
use crate::der;
use crate::device::{Refused as _, Session, Tpm, TpmError};
use crate::error::AgentError;
use crate::files::At as _;
use crate::keys::{self, AkKind, EkKind, WrappedKey};
use crate::state::{Enrollment, StateDirectory};

/// What to enrol.
#[derive(Clone, Debug)]
pub struct Order {
    /// Base URL of the broker.
    pub broker: String,
    /// The control CA, PEM file.
    pub broker_ca: PathBuf,
    /// Id an operator registered.
    pub host: HostId,
    /// Where to remember the enrolment.
    pub state_directory: PathBuf,
    /// TPM transport.
    pub tcti: String,
    /// Which EK.
    pub ek: EkKind,
    /// Certificates between the EK certificate and its root, PEM file.
    pub ek_intermediates: Option<PathBuf>,
    /// Algorithm of the AK.
    pub ak: AkKind,
}

/// How an enrolment ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enrolled {
    /// Now.
    New(Enrollment),
    /// It was already there; nothing was done.
    Already(Enrollment),
}

/// A TPM's EK, and the AK that is to be bound to it.
#[derive(Clone, Debug)]
pub struct TpmIdentity {
    /// EK certificate, DER.
    pub ek_certificate: Vec<u8>,
    /// TPMT_PUBLIC of the EK.
    pub ek_public: Vec<u8>,
    /// What the certificate says.
    pub described: EkCertificate,
}

/// Reads EK and EK certificate.
///
/// # Errors
/// The TPM's refusal, or a certificate of another key.
pub fn read_identity(session: &mut Session, kind: EkKind) -> Result<TpmIdentity, TpmError> {
    let ek_certificate = keys::endorsement_certificate(session, kind)?;
    let ek = keys::endorsement_key(session, kind)?;
    let ek_public = keys::public_area(session, ek)?;
    session.flush(ek)?;
    let described = EkCertificate::of(&ek_certificate, &ek_public)?;
    Ok(TpmIdentity { ek_certificate, ek_public, described })
}

/// Enrols this host, once.
///
/// # Errors
/// [`AgentError`]; a refusal carries the broker's problem document.
pub async fn enroll(order: &Order) -> Result<Enrolled, AgentError> {
    // 1. A host has one enrolment.
    let state = StateDirectory::open(&order.state_directory)?;
    let earlier = state.enrollment()?;
    if let Some(enrollment) = earlier.clone().filter(|enrollment| enrollment.channel_certificate.is_some()) {
        let same = enrollment.host == order.host && enrollment.broker == order.broker;
        let elsewhere =
            || AgentError::EnrolledElsewhere { host: enrollment.host.clone(), broker: enrollment.broker.clone() };
        return if same { Ok(Enrolled::Already(enrollment.clone())) } else { Err(elsewhere()) };
    }
    let broker_ca = std::fs::read_to_string(&order.broker_ca).at("read", &order.broker_ca)?;
    let broker = BrokerClient::anonymous(&order.broker, &broker_ca)?;
    // 2. Keys, stored before the broker hears of them: an interrupted enrolment goes on with the same ones.
    let channel_key = match state.channel_key()? {
        Some(key) => key,
        None => {
            let key = new_channel_key()?;
            state.store_channel_key(&key)?;
            key
        }
    };
    let tpm = Tpm::new(&order.tcti)?;
    let (ek, ak) = (order.ek, order.ak);
    let kept =
        earlier.filter(|begun| begun.ak == ak && begun.ek == ek).map(|begun| (begun.ek_fingerprint, begun.ak_key));
    let (identity, ak_key) = tpm
        .run(move |session| {
            let identity = read_identity(session, ek)?;
            let kept = kept.filter(|(fingerprint, _)| *fingerprint == identity.described.ek_fingerprint);
            let ak_key = kept.map_or_else(|| new_attestation_key(session, ak), |(_, key)| Ok(key))?;
            Ok((identity, ak_key))
        })
        .await?;
    let mut enrollment = Enrollment {
        host: order.host.clone(),
        broker: order.broker.clone(),
        tcti: order.tcti.clone(),
        ek,
        ek_fingerprint: identity.described.ek_fingerprint,
        ak,
        ak_key: ak_key.clone(),
        broker_ca,
        channel_certificate: None,
        token_keys: None,
    };
    state.store(&enrollment)?;
    let endorsement = by_ek(identity, order.ek_intermediates.as_deref())?;
    // 3. Name EK, AK and channel key; the broker makes a credential that only this EK with this AK activates.
    let channel_spki = channel_spki(&channel_key)?;
    let request = EnrollmentRequest {
        host: order.host.clone(),
        endorsement,
        ak_public: Base64Bytes(ak_key.public.clone()),
        channel_key: Base64Bytes(channel_spki.clone()),
    };
    let challenge = broker.enroll(&request).await?;
    // 4. Activate it and prove so.
    let id = challenge.enrollment.clone();
    let made = made_credential(challenge.task)?;
    let secret = tpm.run(move |session| activate(session, ek, &ak_key, &made)).await?;
    let proof = Base64Bytes(activation_proof(&secret, &id, &channel_spki).to_vec());
    let activated = broker.activate(&id, &ActivationRequest { proof }).await?;
    // 5. The certificate completes the enrolment. A crash before this line: the broker knows the host and this state
    //    does not; an operator re-admits it, as after a new TPM.
    enrollment.channel_certificate = Some(activated.channel_certificate);
    // Not worth a failed enrolment: `run` asks again.
    enrollment.token_keys = broker.token_keys().await.ok();
    state.store(&enrollment)?;
    Ok(Enrolled::New(enrollment))
}

/// The endorsement by an EK, with the certificates of a file between it and its root.
fn by_ek(identity: TpmIdentity, intermediates: Option<&Path>) -> Result<Endorsement, AgentError> {
    Ok(Endorsement::EndorsementKey {
        certificate: Base64Bytes(identity.ek_certificate),
        public: Base64Bytes(identity.ek_public),
        intermediates: intermediates.map(read_intermediates).transpose()?.unwrap_or_default(),
    })
}

/// The task that belongs to an EK.
fn made_credential(task: EnrollmentTask) -> Result<MadeCredential, BrokerError> {
    match task {
        EnrollmentTask::ActivateCredential { credential_blob, encrypted_secret } => {
            Ok(MadeCredential { credential_blob: credential_blob.0, encrypted_secret: encrypted_secret.0 })
        }
        EnrollmentTask::Quote { .. } | EnrollmentTask::CertifyAk { .. } => {
            let found = "a task for another endorsement than an EK".to_owned();
            Err(BrokerError::Answer { request: "enrolment", status: 201, found })
        }
    }
}

fn read_intermediates(path: &Path) -> Result<Vec<Base64Bytes>, AgentError> {
    let text = std::fs::read(path).at("read", path)?;
    let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error));
    let certificates = certificates.at("read certificates from", path)?;
    Ok(certificates.into_iter().map(|certificate| Base64Bytes(certificate.to_vec())).collect())
}

fn new_attestation_key(session: &mut Session, kind: AkKind) -> Result<WrappedKey, TpmError> {
    let parent = keys::attestation_primary(session)?;
    let key = keys::create_attestation_key(session, parent, kind)?;
    session.flush(parent)?;
    Ok(key)
}

/// TPM2_ActivateCredential: the secret, if this TPM holds both the EK and the AK that it was made for.
///
/// # Errors
/// The TPM's refusal: `TPM_RC_INTEGRITY` for a credential made for another AK, for example.
pub fn activate(
    session: &mut Session,
    kind: EkKind,
    attestation_key: &WrappedKey,
    made: &MadeCredential,
) -> Result<Zeroizing<Vec<u8>>, TpmError> {
    let blob = IdObject::try_from(made.credential_blob.clone()).refused("read the credential blob")?;
    let seed = EncryptedSecret::try_from(made.encrypted_secret.clone()).refused("read the encrypted secret")?;
    let parent = keys::attestation_primary(session)?;
    let ak = attestation_key.load(session, parent)?;
    session.flush(parent)?;
    let ek = keys::endorsement_key(session, kind)?;
    let secret = if kind.user_with_auth() {
        activate_with(session, ak, ek, AuthSession::Password, blob, seed)
    } else {
        let policy = endorsement_policy(session)?;
        let secret = activate_with(session, ak, ek, policy, blob, seed);
        session.plain().flush_context(SessionHandle::from(policy).into()).refused("TPM2_FlushContext")?;
        secret
    };
    session.flush(ek)?;
    session.flush(ak)?;
    secret
}

fn activate_with(
    session: &mut Session,
    ak: KeyHandle,
    ek: KeyHandle,
    ek_session: AuthSession,
    blob: IdObject,
    seed: EncryptedSecret,
) -> Result<Zeroizing<Vec<u8>>, TpmError> {
    // ADMIN of the AK by password, USER of the EK by its policy (TPM 2.0 Part 3, 12.5).
    let sessions = (Some(AuthSession::Password), Some(ek_session), None);
    let secret = session
        .plain()
        .execute_with_sessions(sessions, |context| context.activate_credential(ak, ek, blob, seed))
        .refused("TPM2_ActivateCredential")?;
    Ok(Zeroizing::new(secret.value().to_vec()))
}

/// A session that satisfies PolicyA: TPM2_PolicySecret(TPM_RH_ENDORSEMENT) (TCG EK Credential Profile 2.5, B.6.2).
fn endorsement_policy(session: &mut Session) -> Result<AuthSession, TpmError> {
    let started = session.plain().start_auth_session(
        None,
        None,
        None,
        SessionType::Policy,
        SymmetricDefinition::AES_128_CFB,
        HashingAlgorithm::Sha256,
    );
    let policy = started
        .refused("TPM2_StartAuthSession")?
        .ok_or_else(|| TpmError::Answer { command: "TPM2_StartAuthSession", found: "no session".to_owned() })?;
    let (attributes, mask) = SessionAttributesBuilder::new().with_decrypt(true).with_encrypt(true).build();
    session.plain().tr_sess_set_attributes(policy, attributes, mask).refused("session attributes")?;
    let policy_session = PolicySession::try_from(policy).refused("policy session")?;
    session.authorized("TPM2_PolicySecret", |context| {
        let empty = (Default::default(), Default::default(), Default::default());
        context.policy_secret(policy_session, AuthHandle::Endorsement, empty.0, empty.1, empty.2, None)
    })?;
    Ok(policy)
}

/// A new P-256 key for the channel, PKCS#8 PEM. It lives in software: it says who speaks, and grants no trust.
pub(crate) fn new_channel_key() -> Result<String, AgentError> {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
    let document = document.map_err(|_| AgentError::ChannelKey("it could not be made"))?;
    Ok(der::pem("PRIVATE KEY", document.as_ref()))
}

fn channel_spki(pem: &str) -> Result<Vec<u8>, AgentError> {
    let pkcs8 =
        PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| AgentError::ChannelKey("no PKCS#8 PEM"))?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.secret_pkcs8_der());
    let pair = pair.map_err(|_| AgentError::ChannelKey("no P-256 key"))?;
    Ok(der::p256_spki(pair.public_key().as_ref()))
}
