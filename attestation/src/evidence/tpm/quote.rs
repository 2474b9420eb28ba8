//! Quotes: the selection is the requested one, and the PCR values are the ones that were hashed under the signature.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use aws_lc_rs::digest;

use super::algorithm::TpmHash;
use super::attest::{Attest, Attested, BankSelection, TpmSignature};
use super::key::{AttestationKey, Verifier};
use super::{Pcrs, TpmReason, malformed, read_signed};
use crate::binder::BindingReason;
use crate::claims::{ClockInfo, HexBytes};
use crate::protocol::PcrSelection;
use crate::reader::Reader;
use crate::rejection::Rejection;
use crate::verified::Verified;
use crate::x509;

/// PCR 0 to 7 hold the firmware's measurements (PC Client PFP, 3.3.4).
const FIRMWARE_PCRS: u32 = 0xff;

/// A quote whose signature, form, selection and PCR values were checked; it borrows what it was read from.
#[derive(Clone, Debug)]
pub struct VerifiedQuote<'a> {
    attest: Verified<Attest<'a>>,
    /// In the order of hashing.
    values: Vec<(TpmHash, u8, &'a [u8])>,
}

impl VerifiedQuote<'_> {
    /// The values of the trusted banks. A SHA-1 bank was hashed into the digest and is not claimed.
    #[must_use]
    pub fn pcrs(&self) -> Pcrs {
        let mut pcrs = Pcrs::new();
        for (bank, index, value) in &self.values {
            if let Some(bank) = bank.bank() {
                pcrs.entry(bank).or_default().insert(*index, HexBytes(value.to_vec()));
            }
        }
        pcrs
    }

    /// TPMS_CLOCK_INFO.
    #[must_use]
    pub fn clock(&self) -> ClockInfo {
        self.attest.clock
    }

    /// firmwareVersion.
    #[must_use]
    pub fn firmware_version(&self) -> u64 {
        self.attest.firmware_version
    }

    /// Qualified Name of the key that signed.
    #[must_use]
    pub fn qualified_signer(&self) -> &[u8] {
        self.attest.qualified_signer
    }

    /// The structure that was signed.
    #[must_use]
    pub fn attest(&self) -> &Attest<'_> {
        &self.attest
    }

    /// Refuses a bank that the firmware left unextended: whoever controls the host may extend it to any value
    /// (CVE-2021-42299). Firmware measures at least a separator into each of PCR 0 to 7 (PC Client PFP, 2.3.4), so
    /// those that were quoted are never all zero. A live quote must pass; a recorded one only says so in its claims,
    /// because genuine recordings of software TPMs without firmware exist.
    ///
    /// # Errors
    /// [`TpmReason::BankUnused`].
    pub fn check_banks_used(&self) -> Result<(), Rejection> {
        let Attested::Quote { selection, .. } = &self.attest.attested else { return Ok(()) };
        for entry in selection.iter().filter(|entry| entry.pcrs & FIRMWARE_PCRS != 0) {
            let mut firmware = self.values.iter().filter(|(bank, index, _)| *bank == entry.bank && *index < 8);
            if firmware.all(|(_, _, value)| value.iter().all(|byte| *byte == 0)) {
                return Err(TpmReason::BankUnused.because("firmware measurements in PCR 0 to 7", entry.bank.name()));
            }
        }
        Ok(())
    }
}

/// Checks the quote of a bundle ([`TPM_QUOTE`](crate::evidence::bundle::TPM_QUOTE) and
/// [`TPM_PCRS`](crate::evidence::bundle::TPM_PCRS)) under the enrolled AK.
///
/// # Errors
/// A [`TpmReason`], or [`BindingReason::QualifyingData`].
pub fn verify<'a>(
    quote: &'a [u8],
    pcr_values: &'a [u8],
    ak: &AttestationKey,
    requested: &[PcrSelection],
    qualifying_data: &[u8],
) -> Result<VerifiedQuote<'a>, Rejection> {
    let mut reader = Reader::new(quote);
    let (bytes, signature) = read_signed(&mut reader)?;
    reader.finish().map_err(malformed("quote"))?;
    let attest = verify_attest(bytes, &signature, ak.verifier(), qualifying_data)?;
    let Attested::Quote { selection, .. } = &attest.attested else { return Err(not_a_quote(&attest)) };
    check_requested(selection, requested)?;
    let mut reader = Reader::new(pcr_values);
    let mut values = Vec::with_capacity(24);
    for entry in selection {
        for index in entry.indexes() {
            let value = reader.tpm2b().map_err(|error| TpmReason::PcrValues.because("a value for each PCR", error))?;
            values.push((entry.bank, index, value));
        }
    }
    reader.finish().map_err(|error| TpmReason::PcrValues.because("no more values than PCRs", error))?;
    let quote = finish(attest, values, ak.verifier().hash())?;
    quote.check_banks_used()?;
    Ok(quote)
}

/// PCR values that came with recorded evidence, by bank and index.
pub type RecordedValues = BTreeMap<TpmHash, BTreeMap<u8, Vec<u8>>>;

/// The key that recorded evidence came with.
#[derive(Clone, Copy, Debug)]
pub enum RecordedKey<'a> {
    /// The public area, held to everything an enrolled AK is.
    Enrolled(&'a AttestationKey),
    /// A bare `SubjectPublicKeyInfo`, DER. It fixes no scheme and says nothing about where the key lives, so nothing
    /// live is ever judged with one.
    Spki(&'a [u8]),
}

/// The signature that recorded evidence came with.
#[derive(Clone, Copy, Debug)]
pub enum RecordedSignature<'a> {
    /// TPMT_SIGNATURE.
    Tpmt(&'a [u8]),
    /// The signature alone, as some clouds hand it out: of the public area's scheme, or RSASSA or ECDSA with SHA-256
    /// where there is only a bare key. ECDSA is r || s.
    Raw(&'a [u8]),
}

impl<'a> RecordedSignature<'a> {
    fn read(self, key: RecordedKey<'_>) -> Result<TpmSignature<'a>, Rejection> {
        match (self, key) {
            (Self::Tpmt(bytes), _) => TpmSignature::read(bytes),
            (Self::Raw(bytes), RecordedKey::Enrolled(ak)) => ak.verifier().raw(bytes),
            (Self::Raw(bytes), RecordedKey::Spki(spki)) => Verifier::recorded_raw(spki, bytes),
        }
    }
}

/// Checks a recorded quote, whose selection is its own choice: everything else holds as for a live one, except that
/// zero PCRs are only said, not refused.
///
/// # Errors
/// A [`TpmReason`], or [`BindingReason::QualifyingData`].
pub fn verify_recorded<'a>(
    attest: &'a [u8],
    signature: RecordedSignature<'_>,
    key: RecordedKey<'_>,
    recorded: &'a RecordedValues,
    qualifying_data: &[u8],
) -> Result<VerifiedQuote<'a>, Rejection> {
    let signature = signature.read(key)?;
    let from_spki;
    let verifier = match key {
        RecordedKey::Enrolled(ak) => ak.verifier(),
        RecordedKey::Spki(spki) => {
            from_spki = Verifier::recorded(spki, &signature)?;
            &from_spki
        }
    };
    let attest = verify_attest(attest, &signature, verifier, qualifying_data)?;
    let Attested::Quote { selection, .. } = &attest.attested else { return Err(not_a_quote(&attest)) };
    let mut values = Vec::with_capacity(24);
    for entry in selection {
        for index in entry.indexes() {
            let value = recorded.get(&entry.bank).and_then(|bank| bank.get(&index)).ok_or_else(|| {
                TpmReason::PcrValues.because(format_args!("{}:{index}", entry.bank.name()), "no value")
            })?;
            values.push((entry.bank, index, value.as_slice()));
        }
    }
    let presented = recorded.values().fold(0_usize, |sum, bank| sum.saturating_add(bank.len()));
    if presented != values.len() {
        return Err(TpmReason::PcrValues.because(values.len(), presented));
    }
    finish(attest, values, verifier.hash())
}

/// Checks the signature of a recorded structure of either kind, and nothing else about it.
///
/// # Errors
/// A [`TpmReason`].
pub fn verify_recorded_attest<'a>(
    attest: &'a [u8],
    signature: RecordedSignature<'_>,
    key: RecordedKey<'_>,
) -> Result<Attest<'a>, Rejection> {
    let signature = signature.read(key)?;
    let signed = match key {
        RecordedKey::Enrolled(ak) => ak.verifier().verify(attest, &signature)?,
        RecordedKey::Spki(spki) => Verifier::recorded(spki, &signature)?.verify(attest, &signature)?,
    };
    Attest::read(signed.bytes())
}

fn verify_attest<'a>(
    bytes: &'a [u8],
    signature: &TpmSignature<'_>,
    verifier: &Verifier,
    qualifying_data: &[u8],
) -> Result<Verified<Attest<'a>>, Rejection> {
    let attest = Verified::read(verifier.verify(bytes, signature)?, Attest::read)?;
    // The whole of it: a prefix is not a match.
    if attest.extra_data != qualifying_data {
        return Err(BindingReason::QualifyingData.because(hex::encode(qualifying_data), hex::encode(attest.extra_data)));
    }
    Ok(attest)
}

/// Banks, their order and their PCRs as requested (A1, A2).
fn check_requested(selection: &[BankSelection], requested: &[PcrSelection]) -> Result<(), Rejection> {
    let bitmap =
        |pcrs: &[u8]| pcrs.iter().try_fold(0_u32, |map, index| Some(map | 1_u32.checked_shl(u32::from(*index))?));
    let equal = selection.len() == requested.len()
        && selection.iter().zip(requested).all(|(quoted, asked)| {
            quoted.bank == TpmHash::from(asked.bank) && Some(quoted.pcrs) == bitmap(&asked.pcrs)
        });
    if equal {
        Ok(())
    } else {
        Err(TpmReason::Selection.because(format_args!("{requested:?}"), format_args!("{selection:?}")))
    }
}

/// Part 2, 10.12.1: pcrDigest is over the values in the order of the selection, with the hash of the signing scheme.
fn finish<'a>(
    attest: Verified<Attest<'a>>,
    values: Vec<(TpmHash, u8, &'a [u8])>,
    hash: TpmHash,
) -> Result<VerifiedQuote<'a>, Rejection> {
    let Attested::Quote { pcr_digest, .. } = &attest.attested else { return Err(not_a_quote(&attest)) };
    let mut context = digest::Context::new(hash.digest());
    for (bank, index, value) in &values {
        if value.len() != bank.size() {
            let expected = format_args!("{} bytes for {}:{index}", bank.size(), bank.name());
            return Err(TpmReason::PcrValues.because(expected, value.len()));
        }
        context.update(value);
    }
    let computed = context.finish();
    if computed.as_ref() != *pcr_digest {
        return Err(TpmReason::PcrDigest.because(hex::encode(pcr_digest), hex::encode(computed)));
    }
    Ok(VerifiedQuote { attest, values })
}

fn not_a_quote(attest: &Attest<'_>) -> Rejection {
    TpmReason::Type.because("a quote", attest.attested.kind())
}

/// The DER `SubjectPublicKeyInfo` of an AK is the one its recorded public area spells.
///
/// # Errors
/// [`TpmReason::Malformed`] or [`X509Reason::Key`](x509::X509Reason::Key).
pub fn check_same_key(ak: &AttestationKey, spki: &[u8]) -> Result<(), Rejection> {
    let public = super::public::Public::read(ak.public())?;
    if public.spki() == spki {
        Ok(())
    } else {
        Err(x509::X509Reason::Key.because("the key of the public area", "another key"))
    }
}
