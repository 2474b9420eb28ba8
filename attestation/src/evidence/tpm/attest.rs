//! What a TPM attests (TPM 2.0 Part 2, 10.12, TPMS_ATTEST) and how it signs it (11.3.4, TPMT_SIGNATURE).

use alloc::vec::Vec;

use super::algorithm::{Alg, TpmHash, id};
use super::{TpmReason, malformed};
use crate::claims::ClockInfo;
use crate::reader::Reader;
use crate::rejection::Rejection;

/// TPM_GENERATED_VALUE: "\xffTCG". A restricted key signs nothing from outside that starts with it.
const TPM_GENERATED: u32 = 0xff54_4347;
const TPM_ST_ATTEST_CERTIFY: u16 = 0x8017;
const TPM_ST_ATTEST_QUOTE: u16 = 0x8018;
const TPM_ST_ATTEST_CREATION: u16 = 0x801a;

/// The largest TPM2B_NAME: nameAlg and a SHA-512 digest. TPM2B_DATA is as large (Part 2, 10.5.3 and 10.4.3).
const TPMT_HA_BYTES_MAX: usize = 66;

/// Banks that are known; a list of more repeats one or names an unknown one.
const BANKS_MAX: u32 = 4;

/// TPMS_ATTEST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attest<'a> {
    /// Qualified Name of the key that signed.
    pub qualified_signer: &'a [u8],
    /// What the caller of the TPM had signed along.
    pub extra_data: &'a [u8],
    /// TPMS_CLOCK_INFO.
    pub clock: ClockInfo,
    /// firmwareVersion.
    pub firmware_version: u64,
    /// What is attested.
    pub attested: Attested<'a>,
}

/// TPMU_ATTEST: the kinds that are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attested<'a> {
    /// TPMS_QUOTE_INFO.
    Quote {
        /// Which PCRs were hashed: canonical, in the order of hashing.
        selection: Vec<BankSelection>,
        /// Their digest with the hash of the signing scheme.
        pcr_digest: &'a [u8],
    },
    /// TPMS_CERTIFY_INFO.
    Certify {
        /// Name of the certified object.
        name: &'a [u8],
        /// Its qualified Name.
        qualified_name: &'a [u8],
    },
    /// TPMS_CREATION_INFO.
    Creation {
        /// Name of the created object.
        name: &'a [u8],
        /// Digest of its TPMS_CREATION_DATA with its nameAlg.
        creation_hash: &'a [u8],
    },
}

impl Attested<'_> {
    /// What it is, for explanations.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Quote { .. } => "a quote",
            Self::Certify { .. } => "a certification",
            Self::Creation { .. } => "a certification of a creation",
        }
    }
}

/// TPMS_PCR_SELECTION of a known bank, at least one PCR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BankSelection {
    /// The bank.
    pub bank: TpmHash,
    /// Bit n is PCR n.
    pub pcrs: u32,
}

impl BankSelection {
    /// The selected indexes, ascending.
    pub fn indexes(self) -> impl Iterator<Item = u8> {
        (0..32_u8).filter(move |index| self.pcrs >> index & 1 == 1)
    }
}

impl<'a> Attest<'a> {
    /// Reads a TPMS_ATTEST: all of `bytes`.
    ///
    /// # Errors
    /// [`TpmReason::Magic`], [`TpmReason::Type`], [`TpmReason::Malformed`], or a reason for the PCR selection.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Rejection> {
        let short = malformed("TPMS_ATTEST");
        let mut reader = Reader::new(bytes);
        let magic = reader.u32_be().map_err(short)?;
        // Part 2, 10.12.12: without the magic, the bytes may come from anyone.
        if magic != TPM_GENERATED {
            return Err(TpmReason::Magic.because(format_args!("{TPM_GENERATED:#010x}"), format_args!("{magic:#010x}")));
        }
        let kind = reader.u16_be().map_err(short)?;
        if ![TPM_ST_ATTEST_QUOTE, TPM_ST_ATTEST_CERTIFY, TPM_ST_ATTEST_CREATION].contains(&kind) {
            return Err(TpmReason::Type.because("a quote or a certification", format_args!("{kind:#06x}")));
        }
        let qualified_signer = bounded_tpm2b(&mut reader)?;
        let extra_data = bounded_tpm2b(&mut reader)?;
        let clock = ClockInfo {
            clock: reader.u64_be().map_err(short)?,
            reset_count: reader.u32_be().map_err(short)?,
            restart_count: reader.u32_be().map_err(short)?,
            safe: yes_no(reader.u8().map_err(short)?)?,
        };
        let firmware_version = reader.u64_be().map_err(short)?;
        let attested = match kind {
            TPM_ST_ATTEST_QUOTE => {
                let selection = read_selection(&mut reader)?;
                Attested::Quote { selection, pcr_digest: reader.tpm2b().map_err(short)? }
            }
            TPM_ST_ATTEST_CERTIFY => {
                Attested::Certify { name: bounded_tpm2b(&mut reader)?, qualified_name: bounded_tpm2b(&mut reader)? }
            }
            _ => Attested::Creation { name: bounded_tpm2b(&mut reader)?, creation_hash: bounded_tpm2b(&mut reader)? },
        };
        reader.finish().map_err(short)?;
        Ok(Self { qualified_signer, extra_data, clock, firmware_version, attested })
    }
}

pub(super) fn bounded_tpm2b<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Rejection> {
    let bytes = reader.tpm2b().map_err(malformed("TPMS_ATTEST"))?;
    if TPMT_HA_BYTES_MAX < bytes.len() {
        return Err(TpmReason::Malformed.because(format_args!("up to {TPMT_HA_BYTES_MAX} bytes"), bytes.len()));
    }
    Ok(bytes)
}

/// TPMI_YES_NO (Part 2, 9.2): 0 and 1 only.
fn yes_no(byte: u8) -> Result<bool, Rejection> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(TpmReason::Malformed.because("clockInfo.safe of 0 or 1", other)),
    }
}

/// TPML_PCR_SELECTION (Part 2, 10.9.7) in canonical form: each bank once, at least one PCR in each.
fn read_selection(reader: &mut Reader<'_>) -> Result<Vec<BankSelection>, Rejection> {
    let selection = read_any_selection(reader)?;
    if selection.is_empty() {
        return Err(TpmReason::SelectionEmpty.because("at least one bank", "an empty list"));
    }
    Ok(selection)
}

/// The same, or no bank at all.
pub(super) fn read_any_selection(reader: &mut Reader<'_>) -> Result<Vec<BankSelection>, Rejection> {
    let short = malformed("TPML_PCR_SELECTION");
    let count = reader.u32_be().map_err(short)?;
    if BANKS_MAX < count {
        return Err(TpmReason::SelectionForm.because(format_args!("up to {BANKS_MAX} banks, each once"), count));
    }
    let mut selection: Vec<BankSelection> = Vec::with_capacity(4);
    for _ in 0..count {
        let bank_id = reader.u16_be().map_err(short)?;
        let bank = TpmHash::from_id(bank_id)
            .map_err(|_| TpmReason::Bank.because("sha1, sha256, sha384 or sha512", Alg(bank_id)))?;
        // PC Client PTP: 24 PCRs, so PCR_SELECT_MIN is 3. TPMs with up to 32 PCRs write 4.
        let pcrs = match reader.u8().map_err(short)? {
            3 => reader.array::<3>().map(|[a, b, c]| u32::from_le_bytes([a, b, c, 0])),
            4 => reader.array::<4>().map(u32::from_le_bytes),
            other => return Err(TpmReason::SelectionForm.because("sizeofSelect of 3 or 4", other)),
        };
        let pcrs = pcrs.map_err(short)?;
        if pcrs == 0 {
            return Err(TpmReason::SelectionEmpty.because("at least one PCR in each bank", bank.name()));
        }
        if selection.iter().any(|earlier| earlier.bank == bank) {
            return Err(TpmReason::SelectionForm.because("each bank once", bank.name()));
        }
        selection.push(BankSelection { bank, pcrs });
    }
    Ok(selection)
}

/// TPMT_SIGNATURE of the three schemes that attest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TpmSignature<'a> {
    /// TPM_ALG_RSASSA.
    RsaSsa {
        /// Hash of the message.
        hash: TpmHash,
        /// As long as the modulus.
        signature: &'a [u8],
    },
    /// TPM_ALG_RSAPSS.
    RsaPss {
        /// Hash of the message.
        hash: TpmHash,
        /// As long as the modulus.
        signature: &'a [u8],
    },
    /// TPM_ALG_ECDSA.
    Ecdsa {
        /// Hash of the message.
        hash: TpmHash,
        /// Big-endian, any number of leading zeros.
        r: &'a [u8],
        /// Likewise.
        s: &'a [u8],
    },
}

impl<'a> TpmSignature<'a> {
    /// Reads a TPMT_SIGNATURE: all of `bytes`.
    ///
    /// # Errors
    /// [`TpmReason::Malformed`] or [`TpmReason::Algorithm`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, Rejection> {
        let mut reader = Reader::new(bytes);
        let signature = Self::read_from(&mut reader)?;
        reader.finish().map_err(malformed("TPMT_SIGNATURE"))?;
        Ok(signature)
    }

    pub(super) fn read_from(reader: &mut Reader<'a>) -> Result<Self, Rejection> {
        let short = malformed("TPMT_SIGNATURE");
        let scheme = reader.u16_be().map_err(short)?;
        if ![id::RSASSA, id::RSAPSS, id::ECDSA].contains(&scheme) {
            return Err(TpmReason::Algorithm.because("RSASSA, RSAPSS or ECDSA", Alg(scheme)));
        }
        let hash = TpmHash::from_id(reader.u16_be().map_err(short)?)?;
        let first = reader.tpm2b().map_err(short)?;
        Ok(match scheme {
            id::RSASSA => Self::RsaSsa { hash, signature: first },
            id::RSAPSS => Self::RsaPss { hash, signature: first },
            _ => Self::Ecdsa { hash, r: first, s: reader.tpm2b().map_err(short)? },
        })
    }
}
