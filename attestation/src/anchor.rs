//! Trust anchors: the vendor roots an operator pinned, each with the assurance class that everything under it inherits.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

/// How much a pinned root is worth. The weakest class among a host's anchors is the class of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assurance {
    /// A software stand-in for hardware. Every credential issued under it says so, and only a policy that names the
    /// class admits it.
    Simulated,
    /// A vendor's root for hardware.
    Hardware,
}

impl fmt::Display for Assurance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Simulated => "simulated",
            Self::Hardware => "hardware",
        })
    }
}

/// An AMD EPYC product line. Each has its own root, and a report is judged under the root of its own line only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AmdProduct {
    /// EPYC 7003 (family 19h, models 00h-0Fh).
    Milan,
    /// EPYC 9004 and 8004 (family 19h, models 10h-1Fh and A0h-AFh).
    Genoa,
    /// EPYC 9005 (family 1Ah).
    Turin,
}

impl fmt::Display for AmdProduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        })
    }
}

/// A pinned AMD root and the intermediates AMD ships beside it, all DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmdAnchor {
    /// The product line this root speaks for.
    pub product: AmdProduct,
    /// What the root is worth.
    pub assurance: Assurance,
    /// AMD Root Key certificate, self-signed, RSA-4096.
    pub ark: Vec<u8>,
    /// Intermediates signed by the ARK: ASK (for VCEKs) and ASVK (for VLEKs), in any order and number.
    pub intermediates: Vec<Vec<u8>>,
}

/// A pinned TPM manufacturer root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmAnchor {
    /// Name of the file the root came from, for explanations.
    pub name: String,
    /// What the root is worth.
    pub assurance: Assurance,
    /// The root certificate, DER.
    pub root: Vec<u8>,
    /// Intermediates known beside the root, DER, in any order and number.
    pub intermediates: Vec<Vec<u8>>,
}

/// A pinned root of Intel's SGX and TDX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntelAnchor {
    /// Name of the file the root came from, for explanations.
    pub name: String,
    /// What the root is worth.
    pub assurance: Assurance,
    /// Intel SGX Root CA, DER. Pinned by its bytes: another certificate of the same key is another root.
    pub root: Vec<u8>,
}

/// Everything the verifier trusts to begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustAnchors {
    /// AMD roots; more than one may speak for a product (hardware and simulated).
    pub amd: Vec<AmdAnchor>,
    /// Intel roots.
    pub intel: Vec<IntelAnchor>,
    /// TPM manufacturer roots, for EK certificates.
    pub tpm: Vec<TpmAnchor>,
    /// Roots for certificates of attestation keys: device manufacturers' and clouds'. Apart from the others, so that an
    /// authority for EKs never vouches for an AK.
    pub ak: Vec<TpmAnchor>,
}
