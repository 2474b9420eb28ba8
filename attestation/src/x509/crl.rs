//! Certificate revocation lists (RFC 5280, 5).

use alloc::format;
use alloc::vec::Vec;

use super::der::{Der, NotDer, tag};
use super::{Certificate, Signed, X509Reason, check_signature, extensions, hex_text, mismatch, name_text, oid, time};
use crate::claims::Revocation;
use crate::rejection::Rejection;
use crate::time::{JudgedAt, UnixMillis};

/// The largest lists of hardware vendors are a few hundred kilobytes.
const CRL_BYTES_MAX: usize = 2 * 1024 * 1024;

/// RFC 5280, 5.2.3: 20 octets, and one before them that says they are not negative.
const CRL_NUMBER_BYTES_MAX: usize = 21;

/// A list that was read, not yet believed: see [`Crl::check_signed_by`] and [`Crl::check_current`].
#[derive(Clone, Debug)]
pub struct Crl<'a> {
    tbs: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    issuer: &'a [u8],
    this_update: UnixMillis,
    next_update: Option<UnixMillis>,
    number: Option<&'a [u8]>,
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
        let mut number = None;
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
            number = found.iter().find(|found| found.oid == oid::CRL_NUMBER.octets()).map(|found| found.value);
        }
        fields.finish()?;
        let number = number.map(crl_number).transpose()?;
        revoked.sort_unstable();
        let Signed { tbs, signature, .. } = *signed;
        Ok((Self { tbs, algorithm, signature, issuer, this_update, next_update, number, revoked }, critical))
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

    /// cRLNumber without leading zeros, where the list has one (RFC 5280, 5.2.3): each list of an issuer has a higher
    /// one than those before.
    #[must_use]
    pub const fn number(&self) -> Option<&'a [u8]> {
        self.number
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

    /// Checks that the list is the one for now: thisUpdate <= now < nextUpdate and the grace there is. Returns
    /// nextUpdate.
    ///
    /// # Errors
    /// [`X509Reason::CrlNotYetValid`] or [`X509Reason::CrlExpired`].
    pub fn check_current(&self, at: impl Into<JudgedAt>) -> Result<UnixMillis, Rejection> {
        let JudgedAt { now, grace_ms } = at.into();
        if now < self.this_update {
            return Err(X509Reason::CrlNotYetValid.because(format_args!("a time from {}", self.this_update), now));
        }
        match self.next_update {
            Some(next_update) if now < next_update.plus(grace_ms) => Ok(next_update),
            Some(next_update) => Err(expired(next_update, grace_ms, now)),
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

/// The time in which a list counts whose signature was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListValidity {
    this_update: UnixMillis,
    next_update: UnixMillis,
    grace_ms: u64,
}

impl ListValidity {
    /// Of a list that is the one for now: see [`Crl::check_current`].
    ///
    /// # Errors
    /// [`X509Reason::CrlNotYetValid`] or [`X509Reason::CrlExpired`].
    pub fn of(list: &Crl<'_>, at: JudgedAt) -> Result<Self, Rejection> {
        let next_update = list.check_current(at)?;
        Ok(Self { this_update: list.this_update(), next_update, grace_ms: at.grace_ms })
    }

    /// nextUpdate.
    #[must_use]
    pub const fn next_update(self) -> UnixMillis {
        self.next_update
    }

    /// When it ends: nextUpdate and the grace.
    #[must_use]
    pub const fn until(self) -> UnixMillis {
        self.next_update.plus(self.grace_ms)
    }

    /// Checks at a use that it still counts.
    ///
    /// # Errors
    /// As [`ListValidity::of`].
    pub fn check(self, now: UnixMillis) -> Result<(), Rejection> {
        if self.until() <= now {
            return Err(expired(self.next_update, self.grace_ms, now));
        }
        if now < self.this_update {
            return Err(X509Reason::CrlNotYetValid.because(format_args!("a time from {}", self.this_update), now));
        }
        Ok(())
    }

    /// What claims say of it.
    #[must_use]
    pub fn revocation(self, now: UnixMillis) -> Revocation {
        let Self { next_update, .. } = self;
        if now < next_update {
            Revocation::NotRevoked { next_update }
        } else {
            Revocation::Overdue { next_update, until: self.until() }
        }
    }
}

fn expired(next_update: UnixMillis, grace_ms: u64, now: UnixMillis) -> Rejection {
    let expected = match grace_ms {
        0 => format!("a time before nextUpdate {next_update}"),
        grace => format!("a time before nextUpdate {next_update} and {grace} ms of grace"),
    };
    X509Reason::CrlExpired.because(expected, now)
}

/// RFC 5280, 5.2.3: an INTEGER of at most 20 octets, which is never negative.
fn crl_number(value: &[u8]) -> Result<&[u8], NotDer> {
    let mut fields = Der::new(value);
    let number = fields.content(tag::INTEGER)?;
    fields.finish()?;
    let negative = number.first().is_none_or(|first| 0x80 <= *first);
    if negative || CRL_NUMBER_BYTES_MAX < number.len() { Err(NotDer) } else { Ok(without_leading_zeros(number)) }
}

/// A serial number as numbers are compared.
pub(crate) fn without_leading_zeros(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|octet| **octet == 0).count();
    serial.get(zeros..).unwrap_or(&[])
}
