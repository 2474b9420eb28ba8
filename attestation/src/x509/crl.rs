//! Certificate revocation lists (RFC 5280, 5).

use alloc::vec::Vec;

use super::der::{Der, NotDer, tag};
use super::{Certificate, Signed, X509Reason, check_signature, extensions, hex_text, mismatch, name_text, time};
use crate::rejection::Rejection;
use crate::time::UnixMillis;

/// The largest lists of hardware vendors are a few hundred kilobytes.
const CRL_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A list that was read, not yet believed: see [`Crl::check_signed_by`] and [`Crl::check_current`].
#[derive(Clone, Debug)]
pub struct Crl<'a> {
    tbs: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    issuer: &'a [u8],
    this_update: UnixMillis,
    next_update: Option<UnixMillis>,
    /// Content octets of the revoked serial numbers, without leading zeros, sorted.
    revoked: Vec<&'a [u8]>,
}

impl<'a> Crl<'a> {
    /// Reads one list: all of `der`, nothing after it.
    ///
    /// # Errors
    /// [`X509Reason::CrlMalformed`], [`X509Reason::TooLarge`], [`X509Reason::AlgorithmMismatch`], or
    /// [`X509Reason::CrlCritical`] for an extension that narrows what the list covers.
    pub fn parse(der: &'a [u8]) -> Result<Self, Rejection> {
        if CRL_BYTES_MAX < der.len() {
            return Err(X509Reason::TooLarge.because(CRL_BYTES_MAX, der.len()));
        }
        let malformed =
            |NotDer| X509Reason::CrlMalformed.because("CertificateList in DER (RFC 5280)", "bytes that are not");
        let signed = Signed::read(der).map_err(malformed)?;
        let (crl, critical) = Self::read_tbs(&signed).map_err(malformed)?;
        if crl.algorithm != signed.algorithm {
            return Err(mismatch(crl.algorithm, signed.algorithm));
        }
        match critical {
            // issuingDistributionPoint or deltaCRLIndicator: not all certificates are covered (RFC 5280, 5.2).
            Some(oid) => Err(X509Reason::CrlCritical.because("no critical extension", hex_text(oid))),
            None => Ok(crl),
        }
    }

    /// The list, and the first critical extension in it.
    fn read_tbs(signed: &Signed<'a>) -> Result<(Self, Option<&'a [u8]>), NotDer> {
        let mut fields = Der::new(signed.content);
        // Version, where it is there, is v2.
        if fields.peek() == Some(tag::INTEGER) && fields.u64()? != 1 {
            return Err(NotDer);
        }
        let algorithm = fields.element(tag::SEQUENCE)?.whole;
        let issuer = fields.element(tag::SEQUENCE)?.whole;
        let this_update = time(fields.any()?)?;
        let next_update = match fields.peek() {
            Some(tag::UTC_TIME | tag::GENERALIZED_TIME) => Some(time(fields.any()?)?),
            Some(_) | None => None,
        };
        let mut revoked = Vec::new();
        let mut critical = None;
        if let Some(mut entries) = fields.optional(tag::SEQUENCE)? {
            while !entries.is_empty() {
                let mut entry = entries.inner(tag::SEQUENCE)?;
                revoked.push(without_leading_zeros(entry.content(tag::INTEGER)?));
                time(entry.any()?)?;
                if !entry.is_empty() {
                    let found = extensions(entry)?;
                    critical = critical.or(found.iter().find(|found| found.critical).map(|found| found.oid));
                }
            }
        }
        if let Some(explicit) = fields.optional(tag::CONTEXT_0)? {
            let found = extensions(explicit)?;
            critical = critical.or(found.iter().find(|found| found.critical).map(|found| found.oid));
        }
        fields.finish()?;
        revoked.sort_unstable();
        let Signed { tbs, signature, .. } = *signed;
        Ok((Self { tbs, algorithm, signature, issuer, this_update, next_update, revoked }, critical))
    }

    /// The issuer's Name, DER.
    #[must_use]
    pub const fn issuer(&self) -> &'a [u8] {
        self.issuer
    }

    /// thisUpdate.
    #[must_use]
    pub const fn this_update(&self) -> UnixMillis {
        self.this_update
    }

    /// nextUpdate, where the list has one.
    #[must_use]
    pub const fn next_update(&self) -> Option<UnixMillis> {
        self.next_update
    }

    /// Checks that `issuer` signed this list: names byte for byte, key usage, signature.
    ///
    /// # Errors
    /// [`X509Reason::Issuer`], [`X509Reason::IssuerKeyUsage`], [`X509Reason::Signature`], or why the algorithm or
    /// key cannot be used.
    pub fn check_signed_by(&self, issuer: &Certificate<'_>) -> Result<(), Rejection> {
        if self.issuer != issuer.subject() {
            return Err(X509Reason::Issuer.because(name_text(issuer.subject()), name_text(self.issuer)));
        }
        if issuer.key_usage().is_some_and(|usage| !usage.crl_sign()) {
            return Err(X509Reason::IssuerKeyUsage.because("cRLSign", name_text(issuer.subject())));
        }
        check_signature(self.tbs, self.algorithm, self.signature, issuer)
    }

    /// Checks that the list is the one for `now`: thisUpdate <= now < nextUpdate. Returns nextUpdate.
    ///
    /// # Errors
    /// [`X509Reason::CrlNotYetValid`] or [`X509Reason::CrlExpired`].
    pub fn check_current(&self, now: UnixMillis) -> Result<UnixMillis, Rejection> {
        if now < self.this_update {
            return Err(X509Reason::CrlNotYetValid.because(format_args!("a time from {}", self.this_update), now));
        }
        match self.next_update {
            Some(next_update) if now < next_update => Ok(next_update),
            Some(next_update) => {
                Err(X509Reason::CrlExpired.because(format_args!("a time before nextUpdate {next_update}"), now))
            }
            None => Err(X509Reason::CrlExpired.because("a list with nextUpdate", "a list without")),
        }
    }

    /// The revoked serial numbers, without leading zeros, sorted.
    pub(crate) fn revoked(&self) -> impl Iterator<Item = &'a [u8]> {
        self.revoked.iter().copied()
    }

    /// Whether the list names this serial number. Numbers are compared without leading zeros, so that no encoding of a
    /// revoked one escapes.
    #[must_use]
    pub fn revokes(&self, serial: &[u8]) -> bool {
        self.revoked.binary_search(&without_leading_zeros(serial)).is_ok()
    }
}

/// A serial number as numbers are compared.
pub(crate) fn without_leading_zeros(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|octet| **octet == 0).count();
    serial.get(zeros..).unwrap_or(&[])
}
