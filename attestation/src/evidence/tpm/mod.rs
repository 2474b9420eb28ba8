//! TPM 2.0 evidence: a quote over PCRs and the certification of the credential key, both by one enrolled AK.
//!
//! * [`public`]: public areas (TPMT_PUBLIC) and their Names
//! * [`attest`]: what a TPM attests and how it signs it (TPMS_ATTEST, TPMT_SIGNATURE)
//! * [`key`]: which keys may attest: an [`AttestationKey`](key) is one whose public area was checked
//! * [`quote`]: quotes, of a bundle and recorded ones
//! * [`certify`]: the certification of the credential key, and [`creation`], what was noted when it was made
//! * [`possession`]: at enrolment, that a certified AK is in the host's TPM
//! * [`credential`]: TPM2_MakeCredential, which proves that an AK lives beside an EK
//! * [`kdf`]: the key derivation that it stands on

use alloc::collections::BTreeMap;

use crate::anchor::Assurance;
use crate::binder::Binder;
use crate::claims::{HexBytes, PcrBank, PcrHash, Revocation, TpmClaims};
use crate::digest::Sha256Digest;
use crate::endorsement::tpm::TpmIdentity;
use crate::protocol::PcrSelection;
use crate::reader::{ReadError, Reader};
use crate::rejection::{Rejection, reasons};

use super::bundle::Bundle;

pub mod algorithm;
pub mod attest;
pub mod certify;
pub mod creation;
pub mod credential;
pub mod kdf;
pub mod key;
pub mod possession;
pub mod public;
pub mod quote;

pub use credential::{ActivationSecret, EndorsementKey, MadeCredential, make_credential};
pub use key::AttestationKey;

reasons! {
    /// Why evidence of a TPM is rejected.
    TpmReason {
        /// Short, long, or not in the form the specification gives it.
        Malformed = "tpm.malformed",
            "a TPM structure cannot be read",
            "send the TPM's own bytes, unchanged and without anything after them";
        /// TPM 2.0 Part 2, 6.3.
        Algorithm = "tpm.algorithm.unsupported",
            "a TPM structure names an algorithm, curve or size that is not used here",
            "use RSA of 2048 bits or more or ECC P-256 or P-384, with SHA-256, SHA-384 or SHA-512";
        /// TPM 2.0 Part 2, 10.12.12.
        Magic = "tpm.attest.magic",
            "the signed structure was not made by a TPM",
            "attest with TPM2_Quote and TPM2_Certify";
        /// TPM 2.0 Part 2, 10.12.9.
        Type = "tpm.attest.type",
            "the signed structure attests something else",
            "send a quote as the quote and a certification as the certification";
        /// Over the exact bytes that were sent.
        Signature = "tpm.signature.invalid",
            "the attestation key did not sign this",
            "attest with the enrolled key, and send the signed bytes unchanged";
        /// The public area fixes scheme and hash; the signature only repeats them.
        Scheme = "tpm.signature.scheme",
            "the signature is of another scheme or hash than its key is for",
            "let the key's own scheme sign: pass TPM_ALG_NULL to the TPM";
        /// SHA-1 collisions are affordable.
        Sha1 = "tpm.signature.sha1",
            "the key signs with SHA-1",
            "enrol an attestation key whose scheme uses SHA-256 or stronger";
        /// TPM 2.0 Part 1, 25 and Part 2, 8.3.
        AkAttributes = "tpm.ak.attributes",
            "the key may sign what no TPM made, or may live outside this TPM",
            "enrol a key that is restricted, fixedTPM, fixedParent, sensitiveDataOrigin, sign and not decrypt";
        /// TPM 2.0 Part 2, 8.3.
        EkAttributes = "tpm.ek.attributes",
            "the key is not an endorsement key of one TPM",
            "use the TCG default template: restricted, decrypt, fixedTPM, fixedParent, not sign";
        /// The certificate speaks for another key.
        EkKey = "tpm.ek.key",
            "the endorsement key certificate is about another key",
            "send the public area of the key that the certificate was issued for";
        /// TCG EK Credential Profile 2.6, 3.5.
        EkCertificate = "tpm.ek.certificate",
            "the certificate is not that of an endorsement key",
            "send the manufacturer's EK certificate, not an AK certificate or a CA";
        /// The certificate speaks for another key.
        AkKey = "tpm.ak.key",
            "the attestation key certificate is about another key",
            "send the public area of the key that the certificate was issued for";
        /// TCG TPM 2.0 Keys for Device Identity and Attestation 1.0, 8.
        AkCertificate = "tpm.ak.certificate",
            "the certificate is not that of an attestation key",
            "send the manufacturer's IAK certificate or the cloud's AK certificate, not that of an EK or a CA";
        /// An operator's word against a genuine certificate: the key leaked.
        EkDenied = "tpm.ek.denied",
            "the endorsement key is on the operator's deny list",
            "replace the TPM or the board it is on; an operator registers the host again with the new key";
        /// An operator's word against the running firmware.
        FirmwareBelowMinimum = "tpm.firmware.below_minimum",
            "the TPM's firmware is older than the operator believes",
            "update the TPM's firmware";
        /// On the list of an authority that led to its root.
        EndorsementRevoked = "tpm.endorsement.revoked",
            "an authority revoked the certificate of the TPM's key, or of who issued it",
            "take the TPM out of service, or have its manufacturer certify it again and enrol it anew";
        /// TPM 2.0 Part 2, 10.9.7: empty says nothing.
        SelectionEmpty = "tpm.quote.selection.empty",
            "the quote selects no PCR",
            "quote the requested selection";
        /// One entry for each bank, each once.
        SelectionForm = "tpm.quote.selection.form",
            "the PCR selection is not in canonical form",
            "quote each bank once, with PCRs in one bitmap";
        /// Compared whole: banks, order and PCRs.
        Selection = "tpm.quote.selection",
            "the quote is over other PCRs than were requested",
            "quote exactly the selection of the challenge, banks in its order";
        /// SM3 and SHA-3 among them.
        Bank = "tpm.quote.bank",
            "the quote is over a PCR bank that is not used here",
            "quote a SHA-256, SHA-384 or SHA-512 bank";
        /// Each selected PCR has one value of its bank's size, and there are no others.
        PcrValues = "tpm.quote.pcr_values",
            "the PCR values are not those of the selected PCRs",
            "send one value for each selected PCR, of its bank's size, and nothing else";
        /// TPM 2.0 Part 2, 10.12.1.
        PcrDigest = "tpm.quote.pcr_digest",
            "the PCR values are not the ones that were quoted",
            "read the PCRs and quote again until none changes in between";
        /// A bank that firmware never extended proves nothing about the boot: anyone may extend it later.
        BankUnused = "tpm.quote.bank_unused",
            "the firmware did not extend this PCR bank: the quoted ones of PCR 0 to 7 are all zero",
            "quote a bank that the firmware measures into";
        /// TPM 2.0 Part 2, 10.12.3.
        CertifiedName = "tpm.certify.name",
            "the TPM certified another object",
            "certify the credential key itself, and send its public area unchanged";
        /// TPM 2.0 Part 2, 10.12.7 and 15.1.
        CreationData = "tpm.certify.creation_data",
            "the creation data is not what the TPM certified",
            "send the TPM2B_CREATION_DATA that TPM2_Create returned for the credential key, unchanged";
        /// The credential key must live in this TPM alone.
        CertifiedAttributes = "tpm.certify.attributes",
            "the certified key is not a signing key that only this TPM can use",
            "make the credential key P-256, fixedTPM, fixedParent, sensitiveDataOrigin, sign, neither restricted nor decrypt";
        /// TPM 2.0 Part 1, 36: resetCount, restartCount and clock only ever grow.
        ClockBackwards = "tpm.clock.backwards",
            "the TPM's clock went back since the host's last attestation",
            "find out whether the TPM was cleared, swapped or cloned; an operator removes and registers the host again";
        /// TPM 2.0 Part 1, 24.
        Credential = "tpm.credential",
            "no credential can be made for this key",
            "use an EK and an AK of the TCG templates";
    }
}

/// What enrolment established about a host's TPM: credential activation showed that the AK lives beside the EK, and the
/// EK certificate led to a pinned anchor.
#[derive(Clone, Debug)]
pub struct EnrolledTpm {
    ak: key::AttestationKey,
    ek: Sha256Digest,
    assurance: Assurance,
    identity: TpmIdentity,
}

impl EnrolledTpm {
    /// An enrolled TPM, from the one record that enrolment made.
    #[must_use]
    pub const fn new(ak: key::AttestationKey, ek: Sha256Digest, assurance: Assurance, identity: TpmIdentity) -> Self {
        Self { ak, ek, assurance, identity }
    }

    /// The enrolled AK.
    #[must_use]
    pub const fn ak(&self) -> &key::AttestationKey {
        &self.ak
    }

    /// SHA-256 of the EK's SubjectPublicKeyInfo.
    #[must_use]
    pub const fn ek(&self) -> Sha256Digest {
        self.ek
    }

    /// What the anchor of the EK certificate is worth.
    #[must_use]
    pub const fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// What the EK certificate says the TPM is.
    #[must_use]
    pub const fn identity(&self) -> &TpmIdentity {
        &self.identity
    }
}

/// Checks the TPM's part of a bundle: quote and certification by the enrolled AK, both with this binder, the quote over
/// exactly the requested selection, the certified key the one a credential was asked for.
///
/// # Errors
/// A [`TpmReason`] or [`BindingReason`](crate::binder::BindingReason) for the first check that does not hold.
pub fn verify(
    bundle: &Bundle,
    enrolled: &EnrolledTpm,
    selection: &[PcrSelection],
    binder: &Binder,
    credential_key_spki: &[u8],
) -> Result<TpmClaims, Rejection> {
    let qualifying_data = binder.qualifying_data();
    let quote = quote::verify(&bundle.tpm_quote, &bundle.tpm_pcrs, &enrolled.ak, selection, &qualifying_data)?;
    let credential_key = certify::verify(&bundle.tpm_certify, &enrolled.ak, &qualifying_data, credential_key_spki)?;
    Ok(TpmClaims {
        assurance: enrolled.assurance,
        ak_name: HexBytes(enrolled.ak.name().to_vec()),
        ek: enrolled.ek,
        identity: enrolled.identity.clone(),
        pcrs: quote.pcrs(),
        firmware_version: quote.firmware_version(),
        clock: quote.clock(),
        credential_key,
        revocation: Revocation::NotPresented,
        lists_until: None,
    })
}

/// Values by bank and index, as claims carry them.
pub(super) type Pcrs = BTreeMap<PcrHash, PcrBank>;

/// A TPM2B_ATTEST and its TPMT_SIGNATURE at the reader's position.
fn read_signed<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], attest::TpmSignature<'a>), Rejection> {
    let attest = reader.tpm2b().map_err(malformed("TPM2B_ATTEST"))?;
    Ok((attest, attest::TpmSignature::read_from(reader)?))
}

fn malformed(structure: &'static str) -> impl Fn(ReadError) -> Rejection + Copy {
    move |error| TpmReason::Malformed.because(structure, error)
}
