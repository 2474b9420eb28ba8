//! What the TPM signs for one attestation: a quote of the requested PCRs and the certification of the credential key.

use core::fmt;

use countersign_attestation::binder::{ChannelBinding, Nonce};
use countersign_attestation::claims::PcrHash;
use countersign_attestation::protocol::PcrSelection;
use countersign_attestation::workload_key;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Attest, AttestInfo, Data, PcrSelectSize, PcrSelection as TpmsPcrSelection, PcrSelectionList, PcrSlot, Signature,
    SignatureScheme,
};
use tss_esapi::traits::Marshall as _;
use tss_esapi::tss2_esys::TPML_PCR_SELECTION;

use crate::collect::logs::Boot;
use crate::device::{Refused as _, Session, TpmError};
use crate::keys::{self, Ak, WrappedKey};

/// How often PCRs are read again when they changed between quote and reading. Boot-time extends come in bursts of
/// milliseconds; a host that extends without pause cannot be quoted consistently and says so.
const READ_ATTEMPTS: usize = 8;

/// PCR values in the order of a selection: banks as listed, PCRs ascending.
#[derive(Clone, PartialEq, Eq)]
pub struct PcrValues(pub Vec<Vec<u8>>);

impl fmt::Debug for PcrValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(hex::encode)).finish()
    }
}

impl PcrValues {
    /// TPM2B_DIGESTs, one after the other.
    #[must_use]
    pub fn to_tpm2bs(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for value in &self.0 {
            bytes.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend_from_slice(value);
        }
        bytes
    }
}

/// The TPM's part of a bundle, in the bundle's own layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmEvidence {
    /// The credential key that was certified: the given one, or a new one.
    pub credential_key: WrappedKey,
    /// TPM2B_ATTEST, TPMT_SIGNATURE.
    pub quote: Vec<u8>,
    /// See [`PcrValues`].
    pub pcrs: PcrValues,
    /// The boot that the quote is of.
    pub boot: Boot,
    /// TPM2B_ATTEST, TPMT_SIGNATURE, TPM2B_PUBLIC.
    pub certify: Vec<u8>,
    /// What the credential key signed for a workload's key, r || s, where one was given.
    pub endorsement: Option<[u8; 64]>,
}

/// Which credential key an attestation is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialKey {
    /// One made for this attestation.
    New,
    /// The one of the live credential.
    Current(WrappedKey),
}

/// What a workload's key is offered with: the challenge's nonce, and its `SubjectPublicKeyInfo`.
pub type Offered = ([u8; 32], Vec<u8>);

/// Quotes `selection` and certifies the credential key under `attestation_key`, both for a nonce and the
/// connection that the evidence is sent on.
///
/// Loads three transient objects at most, which every TPM has room for.
///
/// # Errors
/// The TPM's refusal; [`TpmError::Answer`] when PCRs do not hold still.
pub fn collect(
    session: &mut Session,
    attestation_key: &Ak,
    credential_key: CredentialKey,
    (nonce, channel): (&Nonce, &ChannelBinding),
    selection: &[PcrSelection],
    offered: Option<&Offered>,
) -> Result<TpmEvidence, TpmError> {
    let ak = attestation_key.load(session)?;
    let parent = keys::storage_primary(session)?;
    let credential_key = match credential_key {
        CredentialKey::New => keys::create_credential_key(session, parent)?,
        CredentialKey::Current(key) => key,
    };
    let key = credential_key.load(session, parent)?;
    session.flush(parent)?;
    let qualifying_data = credential_key.binder(nonce, channel)?.qualifying_data();
    let Quoted { quote, pcrs, boot } = quote(session, ak, &qualifying_data, selection)?;
    let certified = certify(session, key, ak, &qualifying_data)?;
    let certify = [certified, credential_key.tpm2b_public()].concat();
    let endorsement = match offered {
        Some((nonce, spki)) => {
            let message = workload_key::message(nonce, &credential_key.p256_spki()?, spki);
            Some(keys::sign(session, key, &message)?)
        }
        None => None,
    };
    session.flush(key)?;
    attestation_key.unload(session, ak)?;
    Ok(TpmEvidence { credential_key, quote, pcrs, boot, certify, endorsement })
}

/// A quote, the PCR values that its pcrDigest covers, and its boot.
#[derive(Debug, PartialEq, Eq)]
struct Quoted {
    quote: Vec<u8>,
    pcrs: PcrValues,
    boot: Boot,
}

/// TPM2_Quote, and the PCR values that its pcrDigest covers.
fn quote(
    session: &mut Session,
    ak: KeyHandle,
    qualifying_data: &[u8],
    selection: &[PcrSelection],
) -> Result<Quoted, TpmError> {
    let list = selection_list(selection)?;
    settle(|| {
        let data = Data::try_from(qualifying_data).refused("qualifyingData")?;
        // The key's own scheme: a signature in another one would not be the AK's.
        let (attest, signature) =
            session.authorized("TPM2_Quote", |context| context.quote(ak, data, SignatureScheme::Null, list.clone()))?;
        let clock = attest.clock_info();
        let boot = Boot { reset_count: clock.reset_count(), restart_count: clock.restart_count() };
        let quote = signed(&attest, &signature)?;
        Ok((pcr_digest(&attest)?, Quoted { quote, pcrs: read_pcrs(session, selection)?, boot }))
    })
}

/// Repeats `attempt` (quoted digest, quote with the values read) until the values are the ones that were quoted.
fn settle(mut attempt: impl FnMut() -> Result<(Vec<u8>, Quoted), TpmError>) -> Result<Quoted, TpmError> {
    for _ in 0..READ_ATTEMPTS {
        let (digest, quoted) = attempt()?;
        if digest == digest_of(&quoted.pcrs, digest.len()) {
            return Ok(quoted);
        }
    }
    Err(TpmError::Answer { command: "TPM2_PCR_Read", found: "PCRs that change faster than they are read".to_owned() })
}

/// TPM2_Quote of one PCR, whatever it holds, to show that the TPM holds the key: TPM2B_ATTEST, TPMT_SIGNATURE.
pub(crate) fn show_possession(
    session: &mut Session,
    ak: KeyHandle,
    qualifying_data: &[u8],
) -> Result<Vec<u8>, TpmError> {
    let data = Data::try_from(qualifying_data).refused("qualifyingData")?;
    let list = selection_list(&[PcrSelection { bank: PcrHash::Sha256, pcrs: vec![0] }])?;
    let (attest, signature) =
        session.authorized("TPM2_Quote", |context| context.quote(ak, data, SignatureScheme::Null, list))?;
    signed(&attest, &signature)
}

/// TPM2_Certify of `key` by `by`: TPM2B_ATTEST, TPMT_SIGNATURE.
pub(crate) fn certify(
    session: &mut Session,
    key: KeyHandle,
    by: KeyHandle,
    qualifying_data: &[u8],
) -> Result<Vec<u8>, TpmError> {
    let data = Data::try_from(qualifying_data).refused("qualifyingData")?;
    // Both handles need authorisation (TPM 2.0 Part 3, 18.2): ADMIN of the key, USER of the one that signs.
    let sessions = (Some(AuthSession::Password), Some(AuthSession::Password), None);
    let (attest, signature) = session
        .plain()
        .execute_with_sessions(sessions, |context| context.certify(key.into(), by, data, SignatureScheme::Null))
        .refused("TPM2_Certify")?;
    signed(&attest, &signature)
}

/// TPM2B_ATTEST and TPMT_SIGNATURE.
fn signed(attest: &Attest, signature: &Signature) -> Result<Vec<u8>, TpmError> {
    let attest = attest.marshall().refused("write TPMS_ATTEST")?;
    let size = u16::try_from(attest.len()).unwrap_or(u16::MAX).to_be_bytes();
    let signature = signature.marshall().refused("write TPMT_SIGNATURE")?;
    Ok([&size, attest.as_slice(), &signature].concat())
}

fn pcr_digest(attest: &Attest) -> Result<Vec<u8>, TpmError> {
    if let AttestInfo::Quote { info } = attest.attested() {
        Ok(info.pcr_digest().value().to_vec())
    } else {
        Err(TpmError::Answer { command: "TPM2_Quote", found: format!("{:?}", attest.attestation_type()) })
    }
}

/// The composite digest of so many bytes (TPM 2.0 Part 1, 16.9.2), by the hash that the AK signs with.
fn digest_of(values: &PcrValues, size: usize) -> Vec<u8> {
    let hash = match size {
        48 => &aws_lc_rs::digest::SHA384,
        64 => &aws_lc_rs::digest::SHA512,
        // Another size is no digest of these, and differs.
        _ => &aws_lc_rs::digest::SHA256,
    };
    aws_lc_rs::digest::digest(hash, &values.0.concat()).as_ref().to_vec()
}

/// `pcrUpdateCounter`, without reading a PCR: the cheapest question whether something was extended. Some PCRs (16 and
/// 21 to 23 on PCs) do not count.
///
/// # Errors
/// The TPM's refusal.
pub fn pcr_update_counter(session: &mut Session) -> Result<u32, TpmError> {
    let (counter, _, _) = session.plain().pcr_read(PcrSelectionList::default()).refused("TPM2_PCR_Read")?;
    Ok(counter)
}

/// Reads all of `selection`. One command returns at most eight values and may return fewer.
///
/// # Errors
/// The TPM's refusal; [`TpmError::Answer`] when a bank or PCR is not there.
pub fn read_pcrs(session: &mut Session, selection: &[PcrSelection]) -> Result<PcrValues, TpmError> {
    let mut values = Vec::new();
    for bank in selection {
        let mut left = bank.pcrs.as_slice();
        while !left.is_empty() {
            let wanted = left.get(..8.min(left.len())).unwrap_or(left);
            let asked = selection_list(&[PcrSelection { bank: bank.bank, pcrs: wanted.to_vec() }])?;
            let (_, answered, digests) = session.plain().pcr_read(asked.clone()).refused("TPM2_PCR_Read")?;
            let read = digests.value();
            // A PCR the TPM does not have is left out silently; then the values would be taken for others.
            let complete = answered == asked && read.len() == wanted.len();
            if !complete || read.iter().any(|value| value.value().len() != bank.bank.size()) {
                let found = format!("{} of {wanted:?} of bank {}", read.len(), bank.bank.name());
                return Err(TpmError::Answer { command: "TPM2_PCR_Read", found });
            }
            values.extend(read.iter().map(|value| value.value().to_vec()));
            left = left.get(wanted.len()..).unwrap_or_default();
        }
    }
    Ok(PcrValues(values))
}

/// TPML_PCR_SELECTION with the banks in the requested order and three octets each. The library's own builder keeps
/// banks in a hash map, so their order would differ from run to run.
fn selection_list(selection: &[PcrSelection]) -> Result<PcrSelectionList, TpmError> {
    let wrong = |found: String| TpmError::Answer { command: "PCR selection", found };
    let mut list = TPML_PCR_SELECTION::default();
    for (index, bank) in selection.iter().enumerate() {
        let algorithm = match bank.bank {
            PcrHash::Sha256 => HashingAlgorithm::Sha256,
            PcrHash::Sha384 => HashingAlgorithm::Sha384,
            PcrHash::Sha512 => HashingAlgorithm::Sha512,
        };
        let mut slots = Vec::new();
        for pcr in &bank.pcrs {
            let bit = 1_u32.checked_shl(u32::from(*pcr)).filter(|_| *pcr < 24);
            let slot = bit.and_then(|bit| PcrSlot::try_from(bit).ok());
            slots.push(slot.ok_or_else(|| wrong(format!("PCR {pcr}")))?);
        }
        let entry = TpmsPcrSelection::create(algorithm, PcrSelectSize::ThreeOctets, &slots).refused("PCR selection")?;
        let place = list.pcrSelections.get_mut(index).ok_or_else(|| wrong(format!("{} banks", selection.len())))?;
        *place = entry.into();
        list.count = list.count.saturating_add(1);
    }
    PcrSelectionList::try_from(list).refused("PCR selection")
}

#[cfg(test)]
mod tests {
    use super::{PcrValues, Quoted, READ_ATTEMPTS, digest_of, settle};
    use crate::collect::logs::Boot;

    const BOOT: Boot = Boot { reset_count: 1, restart_count: 0 };

    #[test]
    fn values_that_were_not_quoted_are_read_again_and_never_returned() {
        let values = |byte: u8| PcrValues(vec![vec![byte; 32], vec![byte; 48]]);
        // The third reading falls together with its quote; before, an extend came in between.
        let mut attempts = 0_u8;
        let settled = settle(|| {
            attempts += 1;
            let read = if attempts == 3 { 3 } else { attempts + 1 };
            Ok((digest_of(&values(attempts), 32), Quoted { quote: vec![attempts], pcrs: values(read), boot: BOOT }))
        });
        assert_eq!(settled, Ok(Quoted { quote: vec![3], pcrs: values(3), boot: BOOT }));
        let mut tries = 0;
        let restless = settle(|| {
            tries += 1;
            Ok((digest_of(&values(1), 48), Quoted { quote: vec![1], pcrs: values(2), boot: BOOT }))
        });
        assert!(restless.is_err());
        assert_eq!(tries, READ_ATTEMPTS);
    }

    #[test]
    fn values_travel_as_tpm2b_digests() {
        assert_eq!(PcrValues(vec![vec![1; 2], vec![2]]).to_tpm2bs(), [0, 2, 1, 1, 0, 1, 2]);
    }
}
