//! Paths from a leaf to a pinned anchor (RFC 5280, 6), under a budget: a hostile chain must not buy signatures.

use alloc::vec::Vec;

use super::{BasicConstraints, Certificate, Oid, X509Reason, name, name_text};
use crate::rejection::Rejection;
use crate::time::UnixMillis;

/// Certificates between leaf and anchor. The longest genuine chains of TPM vendors have three.
const INTERMEDIATES_IN_PATH_MAX: usize = 6;

/// Candidates a caller may offer. A vendor's whole collection of intermediates is smaller.
const CANDIDATES_MAX: usize = 256;

/// Signatures one path may cost: each depth with a few candidates of the same name.
const SIGNATURES_MAX: usize = 32;

/// A path that was checked: leaf first, anchor last. [`verify_path`] is the only constructor.
#[derive(Clone, Debug)]
pub struct VerifiedPath<'a> {
    certificates: Vec<Certificate<'a>>,
}

impl<'a> VerifiedPath<'a> {
    /// The certificates, leaf first, anchor last.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate<'a>] {
        &self.certificates
    }

    /// The latest notBefore: no certificate of the path is believed earlier.
    #[must_use]
    pub fn not_before(&self) -> UnixMillis {
        self.certificates.iter().map(Certificate::not_before).max().unwrap_or(UnixMillis(u64::MAX))
    }

    /// The earliest notAfter: no certificate of the path is believed later.
    #[must_use]
    pub fn not_after(&self) -> UnixMillis {
        self.certificates.iter().map(Certificate::not_after).min().unwrap_or(UnixMillis(0))
    }
}

/// Finds and checks a path from `leaf` over `intermediates` to `anchor`, whose bytes the caller pinned: issuer names,
/// authority, path length, key usage, signatures, validity of every certificate at `now` including the anchor's, and
/// critical extensions. `understood` lists the extensions that the caller processes itself.
///
/// # Errors
/// The [`X509Reason`] of the candidate that came closest, or [`X509Reason::NoPath`].
pub fn verify_path<'a>(
    leaf: &Certificate<'a>,
    intermediates: &[Certificate<'a>],
    anchor: &Certificate<'a>,
    now: UnixMillis,
    understood: &[Oid],
) -> Result<VerifiedPath<'a>, Rejection> {
    if CANDIDATES_MAX < intermediates.len() {
        return Err(X509Reason::PathBudget.because(CANDIDATES_MAX, intermediates.len()));
    }
    let mut search = Search { intermediates, anchor, now, understood, signatures_left: SIGNATURES_MAX };
    search.check_alone(leaf)?;
    let mut certificates = Vec::from([leaf.clone()]);
    search.extend(&mut certificates)?;
    Ok(VerifiedPath { certificates })
}

struct Search<'s, 'a> {
    intermediates: &'s [Certificate<'a>],
    anchor: &'s Certificate<'a>,
    now: UnixMillis,
    understood: &'s [Oid],
    signatures_left: usize,
}

impl<'a> Search<'_, 'a> {
    /// Extends `path`, whose last certificate still lacks its issuer, to the anchor. Depth is bounded by
    /// [`INTERMEDIATES_IN_PATH_MAX`], work by [`SIGNATURES_MAX`].
    fn extend(&mut self, path: &mut Vec<Certificate<'a>>) -> Result<(), Rejection> {
        let Some(last) = path.last().cloned() else {
            return Err(X509Reason::NoPath.because("a leaf", "none"));
        };
        let mut closest = X509Reason::NoPath
            .because(format_args!("the issuer {}", name_text(last.issuer())), "no certificate of that name");
        let anchor = self.anchor;
        if name::same(last.issuer(), anchor.subject()) {
            match self.check_step(path, &last, anchor) {
                Ok(()) => {
                    path.push(anchor.clone());
                    return Ok(());
                }
                Err(rejection) => closest = rejection,
            }
        }
        // The leaf is in the path too.
        if INTERMEDIATES_IN_PATH_MAX < path.len() {
            return Err(closest);
        }
        for candidate in self.intermediates {
            // A certificate twice in a path makes it longer, never valid.
            let repeated = path.iter().any(|above| above.der() == candidate.der());
            if repeated || !name::same(candidate.subject(), last.issuer()) {
                continue;
            }
            let step = self.check_step(path, &last, candidate).and_then(|()| {
                path.push(candidate.clone());
                self.extend(path).inspect_err(|_| drop(path.pop()))
            });
            match step {
                Ok(()) => return Ok(()),
                Err(rejection) => closest = rejection,
            }
        }
        Err(closest)
    }

    fn check_step(
        &mut self,
        path: &[Certificate<'a>],
        subject: &Certificate<'a>,
        issuer: &Certificate<'a>,
    ) -> Result<(), Rejection> {
        self.signatures_left = self
            .signatures_left
            .checked_sub(1)
            .ok_or_else(|| X509Reason::PathBudget.because(format_args!("{SIGNATURES_MAX} signatures"), "more"))?;
        self.check_alone(issuer)?;
        // RFC 5280, 4.2.1.9: the leaf does not count, nor do authorities that issued themselves a new key.
        let below = path.iter().skip(1).filter(|certificate| certificate.subject() != certificate.issuer()).count();
        if let BasicConstraints::Authority { path_length: Some(allowed) } = issuer.basic_constraints()
            && usize::try_from(allowed).is_ok_and(|allowed| allowed < below)
        {
            return Err(X509Reason::PathLength.because(allowed, below));
        }
        subject.check_issued_by(issuer)
    }

    /// What must hold for each certificate by itself.
    fn check_alone(&self, certificate: &Certificate<'a>) -> Result<(), Rejection> {
        certificate.check_valid_at(self.now)?;
        certificate.check_critical_extensions(self.understood)
    }
}
