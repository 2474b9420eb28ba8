//! ATTESTATION_REPORT (SEV-SNP Firmware ABI, AMD 56860 rev. 1.58, table "ATTESTATION_REPORT Structure").

use super::SnpReason;
use crate::anchor::AmdProduct;
use crate::claims::{SnpCpuid, SnpFirmware, SnpTcb};
use crate::reader::{ReadError, Reader};
use crate::rejection::Rejection;

/// All of the report.
pub(super) const REPORT_BYTES: usize = 0x4a0;

/// The bytes under the signature.
pub(super) const SIGNED_BYTES: usize = 0x2a0;

/// r and s each have a field of this size, little-endian (ABI, table "Signature Format for ECDSA P-384").
pub(super) const SCALAR_FIELD_BYTES: usize = 72;

/// A number modulo the order of P-384.
pub(super) const SCALAR_BYTES: usize = 48;

/// Versions whose layout is known. What a later one means is not known, so it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// ABI 1.51 to 1.55.
    V2,
    /// Adds CPUID.
    V3,
    /// The fields of version 3.
    V4,
    /// Adds the mitigation vectors.
    V5,
}

impl Version {
    fn read(number: u32) -> Result<Self, Rejection> {
        match number {
            2 => Ok(Self::V2),
            3 => Ok(Self::V3),
            4 => Ok(Self::V4),
            5 => Ok(Self::V5),
            _ => Err(SnpReason::Version.because("2 to 5", number)),
        }
    }

    pub(super) const fn number(self) -> u32 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
            Self::V4 => 4,
            Self::V5 => 5,
        }
    }
}

/// LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MitigationVectors {
    pub(super) launch: u64,
    pub(super) current: u64,
}

/// TCB_VERSION as it stands in the report: what its bytes mean depends on the product line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RawTcb(pub(super) [u8; 8]);

impl RawTcb {
    /// ABI, section 2.2 "TCB Version": Turin put the FMC in front.
    pub(super) fn decode(self, product: AmdProduct) -> Result<SnpTcb, Rejection> {
        let (tcb, reserved) = match (product, self.0) {
            (AmdProduct::Milan | AmdProduct::Genoa, [bootloader, tee, a, b, c, d, snp, microcode]) => {
                (SnpTcb { fmc: None, bootloader, tee, snp, microcode }, [a, b, c, d])
            }
            (AmdProduct::Turin, [fmc, bootloader, tee, snp, a, b, c, microcode]) => {
                (SnpTcb { fmc: Some(fmc), bootloader, tee, snp, microcode }, [a, b, c, 0])
            }
        };
        if reserved == [0; 4] {
            Ok(tcb)
        } else {
            Err(SnpReason::TcbReserved.because("reserved bytes of TCB_VERSION zero", hex::encode(self.0)))
        }
    }
}

/// The signed part of a report. Only signed bytes are read into one: see [`super::verify_report`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) version: Version,
    pub(super) guest_svn: u32,
    pub(super) policy: u64,
    pub(super) family_id: [u8; 16],
    pub(super) image_id: [u8; 16],
    pub(super) vmpl: u32,
    pub(super) signature_algo: u32,
    pub(super) current_tcb: RawTcb,
    pub(super) platform_info: u64,
    pub(super) key_info: u32,
    pub(super) report_data: [u8; 64],
    pub(super) measurement: [u8; 48],
    pub(super) host_data: [u8; 32],
    pub(super) id_key_digest: [u8; 48],
    pub(super) author_key_digest: [u8; 48],
    pub(super) report_id: [u8; 32],
    pub(super) reported_tcb: RawTcb,
    pub(super) cpuid: Option<SnpCpuid>,
    pub(super) chip_id: [u8; 64],
    pub(super) committed_tcb: RawTcb,
    pub(super) current_firmware: SnpFirmware,
    pub(super) committed_firmware: SnpFirmware,
    pub(super) launch_tcb: RawTcb,
    pub(super) mitigation_vectors: Option<MitigationVectors>,
}

impl Report {
    /// Reads bytes 0 to 2A0h, all of them.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Rejection> {
        let mut reader = Reader::new(bytes);
        let version = Version::read(reader.u32_le().map_err(short)?)?;
        let report = Self::read_fields(version, &mut reader)?;
        reader.finish().map_err(short)?;
        Ok(report)
    }

    fn read_fields(version: Version, reader: &mut Reader<'_>) -> Result<Self, Rejection> {
        let guest_svn = reader.u32_le().map_err(short)?;
        let policy = reader.u64_le().map_err(short)?;
        let family_id = reader.array().map_err(short)?;
        let image_id = reader.array().map_err(short)?;
        let vmpl = reader.u32_le().map_err(short)?;
        let signature_algo = reader.u32_le().map_err(short)?;
        let current_tcb = RawTcb(reader.array().map_err(short)?);
        let platform_info = reader.u64_le().map_err(short)?;
        let key_info = reader.u32_le().map_err(short)?;
        zero(reader, 4)?;
        let report_data = reader.array().map_err(short)?;
        let measurement = reader.array().map_err(short)?;
        let host_data = reader.array().map_err(short)?;
        let id_key_digest = reader.array().map_err(short)?;
        let author_key_digest = reader.array().map_err(short)?;
        let report_id = reader.array().map_err(short)?;
        // REPORT_ID_MA: POLICY.MIGRATE_MA decides about migration agents.
        reader.bytes(32).map_err(short)?;
        let reported_tcb = RawTcb(reader.array().map_err(short)?);
        let cpuid = read_cpuid(version, reader)?;
        let chip_id = reader.array().map_err(short)?;
        let committed_tcb = RawTcb(reader.array().map_err(short)?);
        let current_firmware = read_firmware(reader)?;
        let committed_firmware = read_firmware(reader)?;
        let launch_tcb = RawTcb(reader.array().map_err(short)?);
        let mitigation_vectors = read_mitigation_vectors(version, reader)?;
        zero(reader, 0x98)?;
        Ok(Self {
            version,
            guest_svn,
            policy,
            family_id,
            image_id,
            vmpl,
            signature_algo,
            current_tcb,
            platform_info,
            key_info,
            report_data,
            measurement,
            host_data,
            id_key_digest,
            author_key_digest,
            report_id,
            reported_tcb,
            cpuid,
            chip_id,
            committed_tcb,
            current_firmware,
            committed_firmware,
            launch_tcb,
            mitigation_vectors,
        })
    }
}

/// CPUID_FAM_ID, CPUID_MOD_ID, CPUID_STEP at 188h since version 3; reserved before.
fn read_cpuid(version: Version, reader: &mut Reader<'_>) -> Result<Option<SnpCpuid>, Rejection> {
    match version {
        Version::V2 => zero(reader, 24).map(|()| None),
        Version::V3 | Version::V4 | Version::V5 => {
            let [family, model, stepping] = reader.array().map_err(short)?;
            zero(reader, 21)?;
            Ok(Some(SnpCpuid { family, model, stepping }))
        }
    }
}

/// BUILD, MINOR, MAJOR and a reserved byte.
fn read_firmware(reader: &mut Reader<'_>) -> Result<SnpFirmware, Rejection> {
    let [build, minor, major] = reader.array().map_err(short)?;
    zero(reader, 1)?;
    Ok(SnpFirmware { major, minor, build })
}

/// LAUNCH_MIT_VECTOR at 1F8h and CURRENT_MIT_VECTOR at 200h since version 5; reserved before.
fn read_mitigation_vectors(version: Version, reader: &mut Reader<'_>) -> Result<Option<MitigationVectors>, Rejection> {
    match version {
        Version::V2 | Version::V3 | Version::V4 => zero(reader, 16).map(|()| None),
        Version::V5 => {
            let launch = reader.u64_le().map_err(short)?;
            let current = reader.u64_le().map_err(short)?;
            Ok(Some(MitigationVectors { launch, current }))
        }
    }
}

/// Reserved bytes. The firmware writes zeros; anything else is a meaning we do not know.
fn zero(reader: &mut Reader<'_>, count: usize) -> Result<(), Rejection> {
    let offset = reader.offset();
    let reserved = reader.bytes(count).map_err(short)?;
    if reserved.iter().all(|byte| *byte == 0) {
        Ok(())
    } else {
        let expected = format_args!("{count} zero bytes at {offset:#x}");
        Err(SnpReason::Reserved.because(expected, hex::encode(reserved)))
    }
}

fn short(error: ReadError) -> Rejection {
    SnpReason::Length.because(format_args!("{SIGNED_BYTES} signed bytes"), error)
}

/// The signature field at 2A0h as r || s, big-endian: the form [`crate::signature`] verifies.
///
/// Everything in the field that a P-384 signature does not need is zero, up to the report's end: it is not under the
/// signature, so anybody could have put it there.
pub(super) fn read_signature(field: &[u8]) -> Result<[u8; 2 * SCALAR_BYTES], Rejection> {
    let form =
        || SnpReason::SignatureForm.because("zero above the 384 bits of r and of s, and after them", "other bytes");
    let mut reader = Reader::new(field);
    let scalars = reader.bytes(2 * SCALAR_FIELD_BYTES).map_err(short)?;
    let rest = reader.bytes(REPORT_BYTES - SIGNED_BYTES - 2 * SCALAR_FIELD_BYTES).map_err(short)?;
    reader.finish().map_err(short)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(form());
    }
    let signature = read_scalars(scalars).ok_or_else(form)?;
    if signature == [0; 2 * SCALAR_BYTES] {
        return Err(SnpReason::SignatureAbsent.because("a signature", "r = s = 0"));
    }
    Ok(signature)
}

/// Two numbers of 384 bits in little-endian fields of 72 bytes each, big-endian and one after the other. None when
/// a field holds anything above.
pub(super) fn read_scalars(fields: &[u8]) -> Option<[u8; 2 * SCALAR_BYTES]> {
    let (first, second) = fields.split_at_checked(SCALAR_FIELD_BYTES)?;
    let (first, first_above) = first.split_at_checked(SCALAR_BYTES)?;
    let (second, second_above) = second.split_at_checked(SCALAR_BYTES)?;
    if first_above.iter().chain(second_above).any(|byte| *byte != 0) {
        return None;
    }
    let mut scalars = [0; 2 * SCALAR_BYTES];
    let ordered = first.iter().rev().chain(second.iter().rev());
    for (place, byte) in scalars.iter_mut().zip(ordered) {
        *place = *byte;
    }
    Some(scalars)
}
