//! Quotes of Intel's DCAP: version 3 (SGX), 4 and 5 (SGX and TDX). Appendix A of the Intel TDX DCAP Quoting Library
//! API, and of the Intel SGX ECDSA QuoteLib Reference for version 3.

use super::TdxReason;
use super::body::{Body, BodyKind, ENCLAVE_REPORT_BYTES};
use crate::digest::Sha256Digest;
use crate::reader::{ReadError, Reader};
use crate::rejection::Rejection;

/// Longest quote that is read. Genuine ones have less than 5,000 bytes and are sent in buffers of 8,000.
pub const QUOTE_BYTES_MAX: usize = 32 * 1024;

/// Attestation key type 2: ECDSA P-256. Type 3, P-384, is named by the specification and used by no quoting enclave.
const ECDSA_P256: u16 = 2;

const TEE_SGX: u32 = 0;
const TEE_TDX: u32 = 0x81;

/// Intel's QE: 939a7233-f79c-4ca9-940a-0db3957f0607.
const INTEL_VENDOR_ID: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];

/// Certification data that holds the QE's report and its own certification data.
const QE_REPORT_CERTIFICATION: u16 = 6;

/// Version of a quote's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// SGX alone; the QE's certification follows the attestation key.
    V3,
    /// SGX and TDX 1.0; the QE's certification is wrapped.
    V4,
    /// As version 4, with a body that says its type and size.
    V5,
}

impl Version {
    /// The number in the header.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::V3 => 3,
            Self::V4 => 4,
            Self::V5 => 5,
        }
    }
}

/// What was quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tee {
    /// An enclave.
    Sgx,
    /// A trust domain.
    Tdx,
}

/// The signed part of a quote: header and body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Version of the layout.
    pub version: Version,
    /// What was quoted.
    pub tee: Tee,
    /// QE_SVN of version 3; reserved since.
    pub qe_svn: u16,
    /// PCE_SVN of version 3; reserved since.
    pub pce_svn: u16,
    /// USER_DATA; its first 16 bytes name the platform to Intel's QE.
    pub user_data: [u8; 20],
    /// Which body it is.
    pub kind: BodyKind,
    /// The body.
    pub body: Body,
}

impl Signed {
    /// Reads header and body, all of `bytes`.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Rejection> {
        let mut reader = Reader::new(bytes);
        let signed = Self::read_from(&mut reader)?;
        reader.finish().map_err(short)?;
        Ok(signed)
    }

    fn read_from(reader: &mut Reader<'_>) -> Result<Self, Rejection> {
        let number = reader.u16_le().map_err(short)?;
        let version = match number {
            3 => Version::V3,
            4 => Version::V4,
            5 => Version::V5,
            _ => return Err(TdxReason::Version.because("3, 4 or 5", number)),
        };
        let key_type = reader.u16_le().map_err(short)?;
        if key_type != ECDSA_P256 {
            return Err(TdxReason::KeyType.because("ECDSA P-256 (2)", key_type));
        }
        let tee = match (reader.u32_le().map_err(short)?, version) {
            (TEE_SGX, _) => Tee::Sgx,
            (TEE_TDX, Version::V4 | Version::V5) => Tee::Tdx,
            (other, _) => return Err(TdxReason::TeeType.because("SGX (0), or TDX (81h) since version 4", other)),
        };
        let qe_svn = reader.u16_le().map_err(short)?;
        let pce_svn = reader.u16_le().map_err(short)?;
        let vendor_id: [u8; 16] = reader.array().map_err(short)?;
        if vendor_id != INTEL_VENDOR_ID {
            return Err(TdxReason::Vendor.because(hex::encode(INTEL_VENDOR_ID), hex::encode(vendor_id)));
        }
        let user_data = reader.array().map_err(short)?;
        let kind = read_kind(version, tee, reader)?;
        let body = Body::read(kind, reader.bytes(kind.size()).map_err(short)?).map_err(short)?;
        Ok(Self { version, tee, qe_svn, pce_svn, user_data, kind, body })
    }
}

/// Which body follows. Version 5 says so itself; before, the TEE type did.
fn read_kind(version: Version, tee: Tee, reader: &mut Reader<'_>) -> Result<BodyKind, Rejection> {
    let implied = match tee {
        Tee::Sgx => BodyKind::Sgx,
        Tee::Tdx => BodyKind::Td10,
    };
    match version {
        Version::V3 | Version::V4 => return Ok(implied),
        Version::V5 => {}
    }
    let number = reader.u16_le().map_err(short)?;
    let size = reader.u32_le().map_err(short)?;
    let kind = BodyKind::of(number).ok_or_else(|| TdxReason::BodyType.because("1 to 4", number))?;
    let of_tee = match kind {
        BodyKind::Sgx => Tee::Sgx,
        BodyKind::Td10 | BodyKind::Td15 | BodyKind::Td15Ex => Tee::Tdx,
    };
    if of_tee != tee {
        return Err(TdxReason::BodyType.because(format_args!("a body of {tee:?}"), kind));
    }
    if usize::try_from(size) != Ok(kind.size()) {
        return Err(TdxReason::BodySize.because(format_args!("{} bytes for {kind}", kind.size()), size));
    }
    Ok(kind)
}

/// How the QE's key is certified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CertificationType {
    /// 1: PPID in clear, CPUSVN, PCESVN, PCEID.
    Ppid,
    /// 2: PPID encrypted with RSA-2048, CPUSVN, PCESVN, PCEID.
    PpidRsa2048,
    /// 3: PPID encrypted with RSA-3072, CPUSVN, PCESVN, PCEID.
    PpidRsa3072,
    /// 4: the PCK certificate alone, PEM.
    PckCertificate,
    /// 5: the PCK certificate with its chain, PEM.
    PckChain,
}

impl CertificationType {
    /// The number in the quote.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Ppid => 1,
            Self::PpidRsa2048 => 2,
            Self::PpidRsa3072 => 3,
            Self::PckCertificate => 4,
            Self::PckChain => 5,
        }
    }

    fn of(number: u16) -> Result<Self, Rejection> {
        match number {
            1 => Ok(Self::Ppid),
            2 => Ok(Self::PpidRsa2048),
            3 => Ok(Self::PpidRsa3072),
            4 => Ok(Self::PckCertificate),
            5 => Ok(Self::PckChain),
            // Among them 6 inside 6, and in version 3.
            other => Err(TdxReason::CertificationType.because("1 to 5", other)),
        }
    }
}

/// How the attestation key came to be believed: the quoting enclave's report over it, signed by the PCK.
#[derive(Clone, Copy, Debug)]
pub struct QeCertification<'a> {
    /// The QE's enclave report, as it was signed.
    pub report: &'a [u8; ENCLAVE_REPORT_BYTES],
    /// Signature over it by the PCK, r || s.
    pub signature: &'a [u8; 64],
    /// What the QE had authenticated along with its key.
    pub auth_data: &'a [u8],
    /// Form of `data`.
    pub kind: CertificationType,
    /// Where the PCK is from: for a chain, PEM.
    pub data: &'a [u8],
}

/// A quote that was read. Nothing in it is believed.
#[derive(Clone, Copy, Debug)]
pub struct Quote<'a> {
    pub(super) signed_bytes: &'a [u8],
    pub(super) signature: &'a [u8; 64],
    pub(super) attestation_key: &'a [u8; 64],
    /// From the attestation key to the end: everything that is the same in each quote of one QE.
    pub(super) qe_bytes: &'a [u8],
    signed: Signed,
    qe: QeCertification<'a>,
}

impl<'a> Quote<'a> {
    /// Reads a quote. Zeros may follow it, for it comes in buffers of fixed size; anything else there is nobody's.
    ///
    /// # Errors
    /// [`TdxReason`] says which part is not as specified.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Rejection> {
        if QUOTE_BYTES_MAX < bytes.len() {
            return Err(TdxReason::TooLarge.because(format_args!("at most {QUOTE_BYTES_MAX} bytes"), bytes.len()));
        }
        let mut reader = Reader::new(bytes);
        let signed = Signed::read_from(&mut reader)?;
        let signed_bytes = bytes.get(..reader.offset()).unwrap_or_default();
        let size = size(reader.u32_le().map_err(short)?)?;
        let data = reader.bytes(size).map_err(short)?;
        let padding = bytes.get(reader.offset()..).unwrap_or_default();
        if padding.iter().any(|byte| *byte != 0) {
            let expected = format_args!("zeros after the {} bytes of the quote", reader.offset());
            return Err(TdxReason::Trailing.because(expected, format_args!("{} other bytes", padding.len())));
        }
        let mut reader = Reader::new(data);
        let signature = chunk(&mut reader)?;
        let qe_bytes = data.get(reader.offset()..).unwrap_or_default();
        let attestation_key = chunk(&mut reader)?;
        let qe = match signed.version {
            Version::V3 => read_qe(&mut reader)?,
            Version::V4 | Version::V5 => read_wrapped_qe(&mut reader)?,
        };
        reader.finish().map_err(short)?;
        Ok(Self { signed_bytes, signature, attestation_key, qe_bytes, signed, qe })
    }

    /// Header and body, as they stand there.
    #[must_use]
    pub const fn unverified(&self) -> &Signed {
        &self.signed
    }

    /// How the attestation key is certified, as it stands there.
    #[must_use]
    pub const fn qe(&self) -> &QeCertification<'a> {
        &self.qe
    }

    /// SHA-256 of the attestation key and everything after it: what is the same in each quote that one QE makes.
    #[must_use]
    pub fn qe_digest(&self) -> Sha256Digest {
        Sha256Digest::of(&[self.qe_bytes])
    }

    /// The certification data types from outside to inside: `[5]` in version 3, `[6, 5]` since.
    #[must_use]
    pub fn certification_types(&self) -> alloc::vec::Vec<u16> {
        let inner = self.qe.kind.number();
        match self.signed.version {
            Version::V3 => alloc::vec![inner],
            Version::V4 | Version::V5 => alloc::vec![QE_REPORT_CERTIFICATION, inner],
        }
    }

    /// The PCK certificate chain of certification data type 5, PEM. In most quotes a NUL byte ends it, in some none.
    ///
    /// # Errors
    /// [`TdxReason::CertificationType`] for every other type: its PCK is named and not shown, and what would fetch it
    /// can be named by whoever sends the quote.
    pub fn pck_chain(&self) -> Result<&'a [u8], Rejection> {
        match self.qe.kind {
            CertificationType::PckChain => Ok(self.qe.data.strip_suffix(&[0]).unwrap_or(self.qe.data)),
            CertificationType::Ppid
            | CertificationType::PpidRsa2048
            | CertificationType::PpidRsa3072
            | CertificationType::PckCertificate => {
                Err(TdxReason::CertificationType.because("the PCK chain (5)", self.qe.kind.number()))
            }
        }
    }
}

/// Since version 4 the QE's report and certification are certification data of type 6.
fn read_wrapped_qe<'a>(reader: &mut Reader<'a>) -> Result<QeCertification<'a>, Rejection> {
    let kind = reader.u16_le().map_err(short)?;
    if kind != QE_REPORT_CERTIFICATION {
        return Err(TdxReason::CertificationType.because("the QE's report (6)", kind));
    }
    let size = size(reader.u32_le().map_err(short)?)?;
    let mut inner = Reader::new(reader.bytes(size).map_err(short)?);
    let qe = read_qe(&mut inner)?;
    inner.finish().map_err(short)?;
    Ok(qe)
}

fn read_qe<'a>(reader: &mut Reader<'a>) -> Result<QeCertification<'a>, Rejection> {
    let report = chunk(reader)?;
    let signature = chunk(reader)?;
    let auth_size = reader.u16_le().map_err(short)?;
    let auth_data = reader.bytes(usize::from(auth_size)).map_err(short)?;
    let kind = CertificationType::of(reader.u16_le().map_err(short)?)?;
    let size = size(reader.u32_le().map_err(short)?)?;
    let data = reader.bytes(size).map_err(short)?;
    Ok(QeCertification { report, signature, auth_data, kind, data })
}

fn chunk<'a, const N: usize>(reader: &mut Reader<'a>) -> Result<&'a [u8; N], Rejection> {
    let bytes = reader.bytes(N).map_err(short)?;
    bytes.first_chunk().ok_or_else(|| TdxReason::Length.because(N, bytes.len()))
}

/// A size of a part, which is of course at most that of the whole.
fn size(stated: u32) -> Result<usize, Rejection> {
    usize::try_from(stated)
        .ok()
        .filter(|size| *size <= QUOTE_BYTES_MAX)
        .ok_or_else(|| TdxReason::Length.because(format_args!("at most {QUOTE_BYTES_MAX} bytes"), stated))
}

fn short(error: ReadError) -> Rejection {
    TdxReason::Length.because("every part as long as it says, and nothing between them", error)
}

#[cfg(test)]
mod tests;
