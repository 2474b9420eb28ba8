//! What a TPM noted when it made a key (TPM 2.0 Part 2, 15.1, TPMS_CREATION_DATA), and the digest of a PCR policy.

use alloc::vec::Vec;

use aws_lc_rs::digest;

use super::algorithm::TpmHash;
use super::attest::{BankSelection, bounded_tpm2b, read_any_selection};
use super::{TpmReason, malformed};
use crate::reader::Reader;
use crate::rejection::Rejection;

/// TPM_CC_PolicyPCR (Part 2, 6.5.2).
const TPM_CC_POLICY_PCR: u32 = 0x0000_017f;

/// TPMS_CREATION_DATA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreationData<'a> {
    /// The PCRs whose state was noted, as the maker of the key chose them; may be none.
    pub pcr_select: Vec<BankSelection>,
    /// Their digest with nameAlg of the key; may be empty where none was chosen.
    pub pcr_digest: &'a [u8],
    /// TPMA_LOCALITY of the command.
    pub locality: u8,
    /// nameAlg of the parent.
    pub parent_name_alg: u16,
    /// Name of the parent, or its handle where the key is primary.
    pub parent_name: &'a [u8],
    /// Qualified Name of the parent.
    pub parent_qualified_name: &'a [u8],
    /// What the maker of the key had noted along.
    pub outside_info: &'a [u8],
}

impl<'a> CreationData<'a> {
    /// Reads a TPMS_CREATION_DATA: all of `bytes`, of a key whose Name is made with `name_alg`.
    ///
    /// # Errors
    /// [`TpmReason::Malformed`], or a reason for the PCR selection.
    pub fn read(bytes: &'a [u8], name_alg: TpmHash) -> Result<Self, Rejection> {
        let short = malformed("TPMS_CREATION_DATA");
        let mut reader = Reader::new(bytes);
        let pcr_select = read_any_selection(&mut reader)?;
        let pcr_digest = bounded_tpm2b(&mut reader)?;
        let may_be_empty = pcr_select.is_empty() && pcr_digest.is_empty();
        if !may_be_empty && pcr_digest.len() != name_alg.size() {
            return Err(TpmReason::Malformed.because("a pcrDigest of nameAlg's size", pcr_digest.len()));
        }
        let data = Self {
            pcr_select,
            pcr_digest,
            locality: reader.u8().map_err(short)?,
            parent_name_alg: reader.u16_be().map_err(short)?,
            parent_name: bounded_tpm2b(&mut reader)?,
            parent_qualified_name: bounded_tpm2b(&mut reader)?,
            outside_info: bounded_tpm2b(&mut reader)?,
        };
        reader.finish().map_err(short)?;
        Ok(data)
    }
}

/// The policy digest of TPM2_PolicyPCR alone (Part 3, 23.7): usable only while the selected PCRs have the values whose
/// digest with `hash` is `pcr_digest`.
#[must_use]
pub fn policy_pcr(hash: TpmHash, selection: &[BankSelection], pcr_digest: &[u8]) -> Vec<u8> {
    let mut context = digest::Context::new(hash.digest());
    let start = [0_u8; 64];
    // An empty policy is as many zeros as the digest has octets.
    context.update(start.get(..hash.size()).unwrap_or(&start));
    context.update(&TPM_CC_POLICY_PCR.to_be_bytes());
    context.update(&u32::try_from(selection.len()).unwrap_or(u32::MAX).to_be_bytes());
    for entry in selection {
        context.update(&entry.bank.id().to_be_bytes());
        let [a, b, c, d] = entry.pcrs.to_le_bytes();
        // PC Client PTP: PCR_SELECT_MIN is 3; a fourth octet only where it selects something.
        match d {
            0 => context.update(&[3, a, b, c]),
            _ => context.update(&[4, a, b, c, d]),
        }
    }
    context.update(pcr_digest);
    context.finish().as_ref().to_vec()
}
