//! Mitigation vectors: bits that the SEV firmware sets once it has verified that a fix which no TCB component counts is
//! in force (SNP ABI 1.58, SNP_VERIFY_MITIGATION; ATTESTATION_REPORT, LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR).
//!
//! What a bit means, and whether a product needs it, differs from product to product: a Turin has none set where a
//! Genoa has one. So a minimum names its product, and bits are demanded one by one: as one number, a high bit would
//! stand for a low one.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::claims::SnpClaims;

use crate::finding::{Finding, PolicyReason};
use crate::json::Members;
use crate::waiver::Accepted;

/// Bits of a vector, by number.
pub(crate) type Bits = BTreeSet<u8>;

/// Bits by product.
pub(crate) type Mitigations = BTreeMap<AmdProduct, Bits>;

/// The last bit of a vector.
const BIT_MAX: u8 = 63;

/// A guest that was launched before the fix may have been read then, and one launched with it may have lost it since.
const VECTORS: [(&str, &str); 2] = [("launch", "LAUNCH_MIT_VECTOR"), ("current", "CURRENT_MIT_VECTOR")];

/// Reads bits by product: `{ "genoa": [0], "turin": [] }`.
pub(crate) fn read_mitigations(at: &str, written: Members<Vec<u8>>) -> Result<Mitigations, Finding> {
    if written.0.is_empty() {
        return Err(PolicyReason::ManifestEmpty.because(format_args!("at least one product in `{at}`"), "none"));
    }
    let mut mitigations = Mitigations::new();
    for (name, numbers) in written.0 {
        let product = match name.as_str() {
            "milan" => AmdProduct::Milan,
            "genoa" => AmdProduct::Genoa,
            "turin" => AmdProduct::Turin,
            _ => {
                let expected = format_args!("milan, genoa or turin in `{at}`");
                return Err(PolicyReason::ManifestSyntax.because(expected, format_args!("`{name}`")));
            }
        };
        let mut bits = Bits::new();
        for bit in numbers {
            if BIT_MAX < bit || !bits.insert(bit) {
                let expected = format_args!("bits 0 to {BIT_MAX}, each once, in `{at}.{name}`");
                return Err(PolicyReason::MitigationBit.because(expected, bit));
            }
        }
        mitigations.insert(product, bits);
    }
    Ok(mitigations)
}

/// What of a minimum a report does not show.
pub(crate) enum MitigationDifference<'a> {
    /// The minimum is of other products.
    Product { named: &'a Mitigations, found: AmdProduct },
    /// Before version 5, reports say nothing of mitigations: that is not zero, and not all.
    NotPresented { vector: &'static str, demanded: Bits },
    /// Bits that are not set.
    Missing { vector: &'static str, missing: Bits, found: u64 },
}

/// How many of the two vectors show what is demanded and not waived, and what is wrong with the others.
pub(crate) fn compare<'a>(
    minimum: &'a Mitigations,
    claims: &SnpClaims,
    accepted: &Accepted<'_>,
) -> (usize, Vec<MitigationDifference<'a>>) {
    let Some(demanded) = minimum.get(&claims.product) else {
        return (0, Vec::from([MitigationDifference::Product { named: minimum, found: claims.product }]));
    };
    let demanded: Bits = demanded.iter().copied().filter(|bit| !accepted.mitigation(claims.product, *bit)).collect();
    let differences = VECTORS.into_iter().filter_map(|(claim, vector)| match claims.mitigation_vectors.get(claim) {
        None if demanded.is_empty() => None,
        None => Some(MitigationDifference::NotPresented { vector, demanded: demanded.clone() }),
        Some(found) => {
            let missing: Bits = demanded.iter().copied().filter(|bit| !is_set(*found, *bit)).collect();
            (!missing.is_empty()).then_some(MitigationDifference::Missing { vector, missing, found: *found })
        }
    });
    let differences: Vec<_> = differences.collect();
    (VECTORS.len().saturating_sub(differences.len()), differences)
}

fn is_set(vector: u64, bit: u8) -> bool {
    vector.checked_shr(u32::from(bit)).is_some_and(|shifted| shifted & 1 == 1)
}

impl MitigationDifference<'_> {
    pub(crate) fn explain(&self, manifest: &str) -> Finding {
        match self {
            Self::Product { named, found } => {
                let named: Vec<String> = named.keys().map(ToString::to_string).collect();
                let expected = format!("{} in min_mitigations (manifest {manifest})", named.join(" or "));
                PolicyReason::SnpProduct.because(expected, found)
            }
            Self::NotPresented { vector, demanded } => {
                let expected = format!("{vector} with {} (manifest {manifest})", listed(demanded));
                PolicyReason::MitigationNotPresented.because(expected, format_args!("a report without {vector}"))
            }
            Self::Missing { vector, missing, found } => {
                let expected = format!("{vector} with {} (manifest {manifest})", listed(missing));
                PolicyReason::MitigationMissing.because(expected, format_args!("{vector} {found:#x}"))
            }
        }
    }
}

/// Bits for people.
pub(crate) fn listed(bits: &Bits) -> String {
    let numbers: Vec<String> = bits.iter().map(ToString::to_string).collect();
    format!("{} {}", if bits.len() == 1 { "bit" } else { "bits" }, numbers.join(" and "))
}
