//! Algorithm identifiers (TPM 2.0 Part 2, 6.3, TPM_ALG_ID) and what we do with them.

use aws_lc_rs::{digest, hmac};

use super::TpmReason;
use crate::claims::PcrHash;
use crate::rejection::Rejection;

/// TPM_ALG_ID values that are read here.
pub(super) mod id {
    pub(crate) const RSA: u16 = 0x0001;
    pub(crate) const SHA1: u16 = 0x0004;
    pub(crate) const AES: u16 = 0x0006;
    pub(crate) const MGF1: u16 = 0x0007;
    pub(crate) const SHA256: u16 = 0x000b;
    pub(crate) const SHA384: u16 = 0x000c;
    pub(crate) const SHA512: u16 = 0x000d;
    pub(crate) const NULL: u16 = 0x0010;
    pub(crate) const RSASSA: u16 = 0x0014;
    pub(crate) const RSAES: u16 = 0x0015;
    pub(crate) const RSAPSS: u16 = 0x0016;
    pub(crate) const OAEP: u16 = 0x0017;
    pub(crate) const ECDSA: u16 = 0x0018;
    pub(crate) const ECDH: u16 = 0x0019;
    pub(crate) const ECMQV: u16 = 0x001d;
    pub(crate) const KDF1_SP800_56A: u16 = 0x0020;
    pub(crate) const KDF2: u16 = 0x0021;
    pub(crate) const KDF1_SP800_108: u16 = 0x0022;
    pub(crate) const ECC: u16 = 0x0023;
    pub(crate) const CFB: u16 = 0x0043;
}

/// A hash algorithm a TPM names. SHA-1 can be read; nothing signed, named or claimed with it is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TpmHash {
    /// TPM_ALG_SHA1.
    Sha1,
    /// TPM_ALG_SHA256.
    Sha256,
    /// TPM_ALG_SHA384.
    Sha384,
    /// TPM_ALG_SHA512.
    Sha512,
}

impl TpmHash {
    /// The hash with this identifier.
    ///
    /// # Errors
    /// [`TpmReason::Algorithm`] for every other one, SM3 and SHA-3 among them.
    pub fn from_id(id: u16) -> Result<Self, Rejection> {
        match id {
            id::SHA1 => Ok(Self::Sha1),
            id::SHA256 => Ok(Self::Sha256),
            id::SHA384 => Ok(Self::Sha384),
            id::SHA512 => Ok(Self::Sha512),
            other => Err(TpmReason::Algorithm.because("sha1, sha256, sha384 or sha512", Alg(other))),
        }
    }

    /// TPM_ALG_ID.
    #[must_use]
    pub const fn id(self) -> u16 {
        match self {
            Self::Sha1 => id::SHA1,
            Self::Sha256 => id::SHA256,
            Self::Sha384 => id::SHA384,
            Self::Sha512 => id::SHA512,
        }
    }

    /// Bytes in a digest.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The name people and tpm2-tools write.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The PCR bank of this hash, where claims can name it.
    #[must_use]
    pub const fn bank(self) -> Option<PcrHash> {
        match self {
            Self::Sha1 => None,
            Self::Sha256 => Some(PcrHash::Sha256),
            Self::Sha384 => Some(PcrHash::Sha384),
            Self::Sha512 => Some(PcrHash::Sha512),
        }
    }

    pub(in crate::evidence) fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    pub(super) const fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }
}

impl From<PcrHash> for TpmHash {
    fn from(bank: PcrHash) -> Self {
        match bank {
            PcrHash::Sha256 => Self::Sha256,
            PcrHash::Sha384 => Self::Sha384,
            PcrHash::Sha512 => Self::Sha512,
        }
    }
}

/// An identifier for explanations.
pub(super) struct Alg(pub(super) u16);

impl core::fmt::Display for Alg {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "TPM_ALG_ID {:#06x}", self.0)
    }
}
