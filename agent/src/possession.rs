//! What a TPM does at enrolment to show that it holds the endorsed key and the AK.

use countersign_attestation::evidence::tpm::MadeCredential;
use countersign_attestation::protocol::{EnrollmentTask, activation_proof, possession_data};
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{AuthHandle, KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{EncryptedSecret, IdObject, SymmetricDefinition};
use zeroize::Zeroizing;

use crate::collect::tpm;
use crate::device::{Refused as _, Session, TpmError};
use crate::endorser::Endorser;
use crate::keys::{self, Ak, EkKind, PersistentKey};

/// Does `task` and gives the proof of it, for an enrolment with this channel key.
///
/// # Errors
/// The TPM's refusal; [`TpmError::Answer`] for a task that does not belong to the endorsed key.
pub fn prove(
    session: &mut Session,
    endorser: &Endorser,
    attestation_key: &Ak,
    task: &EnrollmentTask,
    (enrollment, channel_spki): (&str, &[u8]),
) -> Result<Vec<u8>, TpmError> {
    let data = |nonce: &[u8]| match <&[u8; 32]>::try_from(nonce) {
        Ok(nonce) => Ok(possession_data(nonce, enrollment, channel_spki)),
        Err(_) => Err(TpmError::Answer { command: "enrolment", found: format!("a nonce of {} bytes", nonce.len()) }),
    };
    match (endorser, task) {
        (Endorser::EndorsementKey(kind), EnrollmentTask::ActivateCredential { credential_blob, encrypted_secret }) => {
            let made = MadeCredential {
                credential_blob: credential_blob.0.clone(),
                encrypted_secret: encrypted_secret.0.clone(),
            };
            let secret = activate(session, *kind, attestation_key, &made)?;
            Ok(activation_proof(&secret, enrollment, channel_spki).to_vec())
        }
        (Endorser::AttestationKey(_), EnrollmentTask::Quote { nonce }) => {
            let ak = attestation_key.load(session)?;
            let quote = tpm::show_possession(session, ak, &data(&nonce.0)?)?;
            attestation_key.unload(session, ak)?;
            Ok(quote)
        }
        (Endorser::InitialAttestationKey(iak), EnrollmentTask::CertifyAk { nonce }) => {
            let ak = attestation_key.load(session)?;
            let iak = PersistentKey::open(session, iak.handle)?;
            let certified = tpm::certify(session, ak, iak, &data(&nonce.0)?)?;
            PersistentKey::close(session, iak)?;
            attestation_key.unload(session, ak)?;
            Ok(certified)
        }
        (
            Endorser::EndorsementKey(_) | Endorser::AttestationKey(_) | Endorser::InitialAttestationKey(_),
            EnrollmentTask::ActivateCredential { .. } | EnrollmentTask::Quote { .. } | EnrollmentTask::CertifyAk { .. },
        ) => Err(TpmError::Answer { command: "enrolment", found: "a task for another kind of key".to_owned() }),
    }
}

/// TPM2_ActivateCredential: the secret, if this TPM holds both the EK and the AK that it was made for.
///
/// # Errors
/// The TPM's refusal: `TPM_RC_INTEGRITY` for a credential made for another AK, for example.
pub fn activate(
    session: &mut Session,
    kind: EkKind,
    attestation_key: &Ak,
    made: &MadeCredential,
) -> Result<Zeroizing<Vec<u8>>, TpmError> {
    let blob = IdObject::try_from(made.credential_blob.clone()).refused("read the credential blob")?;
    let seed = EncryptedSecret::try_from(made.encrypted_secret.clone()).refused("read the encrypted secret")?;
    let ak = attestation_key.load(session)?;
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
    attestation_key.unload(session, ak)?;
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
