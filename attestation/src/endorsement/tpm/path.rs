//! The certificates that endorse a TPM's key. They are kept with the enrolment: a list that comes later may name them.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::claims::HexBytes;
use crate::evidence::tpm::TpmReason;
use crate::rejection::Rejection;
use crate::time::JudgedAt;
use crate::x509::{Certificate, Crl, ListValidity, VerifiedPath};

/// A path that was verified at an enrolment: the key's certificate first, the pinned root last. It deserializes only
/// because the archive holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndorsementPath(Vec<HexBytes>);

impl From<&VerifiedPath<'_>> for EndorsementPath {
    fn from(path: &VerifiedPath<'_>) -> Self {
        Self(path.certificates().iter().map(|certificate| HexBytes(certificate.der().to_vec())).collect())
    }
}

impl EndorsementPath {
    /// Checks that no list names a certificate of the path, and that each list an authority of the path signed is the
    /// one for now. `None` where nothing is known: no list is of the authority that issued the key's certificate.
    ///
    /// # Errors
    /// [`TpmReason::EndorsementRevoked`], or [`X509Reason`](crate::x509::X509Reason) of a list that does not count.
    pub fn check_not_revoked(&self, lists: &[Vec<u8>], at: JudgedAt) -> Result<Option<ListValidity>, Rejection> {
        let path = self.0.iter().map(|der| Certificate::parse(&der.0)).collect::<Result<Vec<_>, _>>()?;
        let lists = lists.iter().map(|der| Crl::parse(der)).collect::<Result<Vec<_>, _>>()?;
        let mut earliest: Option<ListValidity> = None;
        let mut leaf_is_covered = false;
        for (index, (certificate, issuer)) in path.iter().zip(path.iter().skip(1)).enumerate() {
            let of_issuer = |list: &&Crl<'_>| list.issuer() == issuer.subject() && list.check_signed_by(issuer).is_ok();
            for list in lists.iter().filter(of_issuer) {
                if list.revokes(certificate.serial()) {
                    let name = certificate.subject_common_name().unwrap_or("no common name");
                    let found = format_args!("{name} {}", hex::encode(certificate.serial()));
                    let expected = "a serial number the list does not name";
                    return Err(TpmReason::EndorsementRevoked.because(expected, found));
                }
                let list = ListValidity::of(list, at)?;
                leaf_is_covered |= index == 0;
                if earliest.is_none_or(|known| list.until() < known.until()) {
                    earliest = Some(list);
                }
            }
        }
        Ok(earliest.filter(|_| leaf_is_covered))
    }
}
