//! The story of an enrolment: prove to the broker that one TPM holds the key that an operator registered
//! and the AK.

use std::path::PathBuf;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use countersign_attestation::protocol::{ActivationRequest, Base64Bytes, EnrollmentRequest, HostId};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;

use crate::broker_client::BrokerClient;
use crate::der;
use crate::device::{Session, Tpm, TpmError};
use crate::endorser::Endorser;
use crate::error::AgentError;
use crate::files::At as _;
use crate::keys::{self, Ak, AkKind, PersistentKey};
use crate::possession::prove;
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
    /// The key that the host is known by.
    pub by: Endorser,
    /// Certificates between that key's certificate and its root, PEM file.
    pub intermediates: Option<PathBuf>,
    /// Algorithm of the AK, where a new one is made.
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
    let (by, ak) = (order.by.clone(), order.ak);
    let kept = earlier.filter(|begun| begun.ak == ak && begun.by == by).map(|begun| (begun.endorsed_key, begun.ak_key));
    let (endorsed, ak_key) = tpm
        .run(move |session| {
            let endorsed = by.read(session)?;
            let kept = kept.filter(|(fingerprint, _)| *fingerprint == endorsed.described.fingerprint);
            let ak_key = kept.map_or_else(|| attestation_key(session, &by, ak), |(_, key)| Ok(key))?;
            Ok((endorsed, ak_key))
        })
        .await?;
    let mut enrollment = Enrollment {
        host: order.host.clone(),
        broker: order.broker.clone(),
        tcti: order.tcti.clone(),
        by: order.by.clone(),
        endorsed_key: endorsed.described.fingerprint,
        ak,
        ak_key: ak_key.clone(),
        broker_ca,
        channel_certificate: None,
        token_keys: None,
    };
    state.store(&enrollment)?;
    let endorsement = order.by.endorsement(endorsed, order.intermediates.as_deref())?;
    // 3. Name the endorsed key, AK and channel key; the broker sets a task that only the TPM with both can do.
    let channel_spki = channel_spki(&channel_key)?;
    let request = EnrollmentRequest {
        host: order.host.clone(),
        endorsement,
        ak_public: Base64Bytes(ak_key.public().to_vec()),
        channel_key: Base64Bytes(channel_spki.clone()),
    };
    let challenge = broker.enroll(&request).await?;
    // 4. Do it and prove so.
    let (id, by, task) = (challenge.enrollment.clone(), order.by.clone(), challenge.task);
    let proof =
        tpm.run(move |session| prove(session, &by, &ak_key, &task, (&challenge.enrollment, &channel_spki))).await?;
    let activated = broker.activate(&id, &ActivationRequest { proof: Base64Bytes(proof) }).await?;
    // 5. The certificate completes the enrolment. A crash before this line: the broker knows the host and this state
    //    does not; an operator re-admits it, as after a new TPM.
    enrollment.channel_certificate = Some(activated.channel_certificate);
    // Not worth a failed enrolment: `run` asks again.
    enrollment.token_keys = broker.token_keys().await.ok();
    state.store(&enrollment)?;
    Ok(Enrolled::New(enrollment))
}

/// The AK that is there already where that is what is endorsed, else a new one.
fn attestation_key(session: &mut Session, by: &Endorser, kind: AkKind) -> Result<Ak, TpmError> {
    if let Endorser::AttestationKey(key) = by {
        return PersistentKey::at(session, key.handle).map(Ak::Persistent);
    }
    let parent = keys::attestation_primary(session)?;
    let key = keys::create_attestation_key(session, parent, kind)?;
    session.flush(parent)?;
    Ok(Ak::Wrapped(key))
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
