//! One piece of hardware by the id its vendor gave it, and the list of those that are no longer believed.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use countersign_attestation::claims::{Claims, HexBytes, Presented};
use countersign_attestation::digest::Sha256Digest;
use serde::{Deserialize, Serialize};

use crate::finding::{Finding, PolicyReason};

/// Denied pieces of hardware: a fleet that has lost more has lost its vendor.
pub const DENIALS_MAX: usize = 4096;
const REASON_BYTES_MAX: usize = 512;
/// CHIP_ID of an SNP report (SNP ABI, table ATTESTATION_REPORT).
const CHIP_ID_BYTES: usize = 64;
/// hwID of a Turin VCEK: the first bytes of its CHIP_ID, whose others are zero.
const TURIN_HW_ID_BYTES: usize = 8;

/// An id of one piece of hardware, hexadecimal. None of them is a secret, and each is what a vendor's key vouches for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Instance {
    /// CHIP_ID of an SNP report, or the hwID of its VCEK: 64 bytes, or 8 on Turin.
    ChipId(HexBytes),
    /// SHA-256 of the key that a TPM's manufacturer certified: its EK, or an AK or IAK.
    Ek(HexBytes),
    /// PPID of a PCK certificate, 16 bytes.
    Ppid(HexBytes),
    /// Platform instance id of a PCK certificate, 16 bytes.
    PlatformInstance(HexBytes),
}

impl Instance {
    /// Whether the id can be one.
    ///
    /// # Errors
    /// [`PolicyReason::InstanceId`]: another length, or all zero, which is how a chip id is masked.
    pub fn check(&self) -> Result<(), Finding> {
        let (lengths, id): (&[usize], _) = match self {
            Self::ChipId(id) => (&[CHIP_ID_BYTES, TURIN_HW_ID_BYTES], id),
            Self::Ek(id) => (&[32], id),
            Self::Ppid(id) | Self::PlatformInstance(id) => (&[16], id),
        };
        let zero = id.0.iter().all(|byte| *byte == 0);
        if zero || !lengths.contains(&id.0.len()) {
            let expected = format_args!("{lengths:?} bytes in hexadecimal, not all zero");
            return Err(PolicyReason::InstanceId.because(expected, self));
        }
        Ok(())
    }

    /// The form that claims have: a hwID of Turin is a chip id without its zeros.
    #[must_use]
    pub fn canonical(self) -> Self {
        match self {
            Self::ChipId(HexBytes(mut id)) => {
                id.resize(CHIP_ID_BYTES, 0);
                Self::ChipId(HexBytes(id))
            }
            other @ (Self::Ek(_) | Self::Ppid(_) | Self::PlatformInstance(_)) => other,
        }
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChipId(id) => write!(f, "chip id {id}"),
            Self::Ek(id) => write!(f, "EK {id}"),
            Self::Ppid(id) => write!(f, "PPID {id}"),
            Self::PlatformInstance(id) => write!(f, "platform instance {id}"),
        }
    }
}

/// The pieces of hardware that claims name.
#[derive(Debug)]
pub struct Instances;

impl Instances {
    /// Each, in canonical form. What is masked or not presented is none.
    pub fn of(claims: &Claims) -> impl Iterator<Item = Instance> {
        let ek = Instance::Ek(HexBytes(claims.tpm.ek.0.to_vec()));
        let chip = match &claims.snp {
            Presented::Verified(snp) => match &snp.chip_id {
                Presented::Verified(id) => Some(Instance::ChipId(id.clone())),
                Presented::NotPresented => None,
            },
            Presented::NotPresented => None,
        };
        let (ppid, platform) = match &claims.tdx {
            Presented::Verified(tdx) => {
                (Some(Instance::Ppid(tdx.platform.ppid.clone())), tdx.platform.platform_instance_id.clone())
            }
            Presented::NotPresented => (None, None),
        };
        core::iter::once(ek).chain(chip).chain(ppid).chain(platform.map(Instance::PlatformInstance))
    }
}

/// A piece of hardware that an operator no longer believes, whatever its vendor still signs. Not waivable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denial {
    instance: Instance,
    reason: String,
}

impl Denial {
    /// Reads a denial: `{"instance": {"chip_id": "<hex>"}, "reason": "..."}`.
    ///
    /// # Errors
    /// A finding that says what is not acceptable.
    pub fn parse(json: &[u8]) -> Result<Self, Finding> {
        let Self { instance, reason } = serde_json::from_slice(json)
            .map_err(|error| PolicyReason::DenialSyntax.because("an instance and a reason in JSON", error))?;
        instance.check()?;
        let reason = reason.trim();
        if reason.is_empty() || REASON_BYTES_MAX < reason.len() || reason.chars().any(char::is_control) {
            let expected = format_args!("a reason of 1 to {REASON_BYTES_MAX} bytes");
            return Err(PolicyReason::DenialSyntax.because(expected, format_args!("{} bytes", reason.len())));
        }
        Ok(Self { instance: instance.canonical(), reason: reason.into() })
    }

    /// What is denied.
    #[must_use]
    pub const fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The one form that is hashed, stored and archived; [`Denial::parse`] reads it back.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        crate::decision::canonical(self)
    }

    /// SHA-256 of the instance: by which operators name a denial.
    #[must_use]
    pub fn id(&self) -> Sha256Digest {
        Sha256Digest::of(&[&crate::decision::canonical(&self.instance)])
    }

    /// SHA-256 of [`Denial::to_json`].
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&[&self.to_json()])
    }
}

/// Every denied piece of hardware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenialSet {
    denials: BTreeMap<Instance, Denial>,
    digest: Sha256Digest,
}

impl DenialSet {
    /// The set of these denials; of two of one instance the later counts.
    #[must_use]
    pub fn new(denials: impl IntoIterator<Item = Denial>) -> Self {
        let denials: BTreeMap<_, _> = denials.into_iter().map(|denial| (denial.instance.clone(), denial)).collect();
        let mut input = b"countersign/v1/denials\0".to_vec();
        for denial in denials.values() {
            input.extend_from_slice(&denial.digest().0);
        }
        Self { digest: Sha256Digest::of(&[&input]), denials }
    }

    /// Every denial, by instance.
    pub fn denials(&self) -> impl Iterator<Item = &Denial> {
        self.denials.values()
    }

    /// The denial with this id.
    #[must_use]
    pub fn get(&self, id: Sha256Digest) -> Option<&Denial> {
        self.denials().find(|denial| denial.id() == id)
    }

    /// SHA-256 over the digests of the denials in the order of their instances.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// A finding for every piece of hardware under the claims that is denied.
    pub(crate) fn findings(&self, claims: &Claims) -> impl Iterator<Item = Finding> {
        Instances::of(claims).filter_map(|instance| {
            let denial = self.denials.get(&instance)?;
            let expected = format_args!("hardware that is not on the deny list ({})", denial.reason);
            Some(PolicyReason::InstanceDenied.because(expected, instance))
        })
    }
}
