//! X.509 certificates and revocation lists (RFC 5280), read strictly and borrowed, and paths to a pinned anchor.
//!
//! A certificate that only parsed is a [`Certificate`]; one whose way to an anchor was checked is in a
//! [`VerifiedPath`], and [`verify_path`] is the only way to that.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

pub use self::algorithm::{RsaKey, SubjectKey};
pub use self::crl::{Crl, ListValidity};
use self::der::{Der, Element, NotDer, tag};
pub use self::oid::Oid;
pub use self::path::{VerifiedPath, verify_path};
use crate::rejection::{Rejection, reasons};
use crate::signature::{PublicKey, Scheme};
use crate::time::UnixMillis;

mod algorithm;
pub(crate) mod constraints;
pub(crate) mod crl;
pub(crate) mod der;
pub(crate) mod name;
pub mod oid;
mod path;

reasons! {
    /// Why a certificate, a revocation list or a path is rejected.
    X509Reason {
        /// RFC 5280, 4.1, in DER.
        Malformed = "x509.malformed",
            "the certificate cannot be read",
            "send the issuer's certificate as it was issued: DER, one certificate, nothing after it";
        /// Bounded before anything is read.
        TooLarge = "x509.too_large",
            "the certificate or list is larger than any that is known",
            "send the certificate alone, without its chain";
        /// RFC 5280, 4.2: at most one instance of each extension.
        DuplicateExtension = "x509.extension.duplicate",
            "the certificate carries an extension twice",
            "ask the issuer for a certificate that follows RFC 5280, section 4.2";
        /// RFC 5280, 4.2: a critical extension that is not processed rejects.
        UnknownCritical = "x509.extension.critical",
            "the certificate carries a critical extension that is not understood",
            "ask the issuer for a certificate without it";
        /// RFC 5280, 4.1.1.2.
        AlgorithmMismatch = "x509.algorithm.mismatch",
            "the signature algorithm inside the signed part differs from the one outside",
            "send the issuer's certificate unchanged";
        /// SHA-1 among them.
        Algorithm = "x509.algorithm.unsupported",
            "the signature algorithm is not one that is trusted here",
            "ask the issuer for a certificate signed with SHA-256 or stronger";
        /// Of another type, curve or form.
        Key = "x509.key.unsupported",
            "the public key is not of a kind that is used here",
            "ask the issuer for a certificate with an RSA, P-256, P-384, P-521 or Ed25519 key as expected";
        /// Over the exact bytes that were sent.
        Signature = "x509.signature",
            "the issuer's key did not sign this",
            "send the issuer's certificate or list unchanged, with the intermediates that issued it";
        /// RFC 5280, 6.1.3 (a)(4).
        Issuer = "x509.issuer.name",
            "the certificate or list names another issuer",
            "send the intermediates that lead to the pinned root";
        /// RFC 5280, 6.1.4 (k).
        NotCa = "x509.issuer.not_ca",
            "the issuer is not a certification authority",
            "send a chain in which only certification authorities issue";
        /// RFC 5280, 6.1.4 (n) and 4.2.1.3.
        IssuerKeyUsage = "x509.issuer.key_usage",
            "the issuer's key may not be used to sign this",
            "send a chain whose issuers carry keyCertSign, and a list whose signer carries cRLSign";
        /// RFC 5280, 6.1.4 (l) and (m).
        PathLength = "x509.issuer.path_length",
            "an issuer allows fewer certification authorities below it",
            "send the chain as the vendor built it";
        /// RFC 5280, 4.1.2.5.
        NotYetValid = "x509.not_yet_valid",
            "the certificate is not valid yet",
            "check the clock; otherwise wait or use a certificate that is valid";
        /// RFC 5280, 4.1.2.5.
        Expired = "x509.expired",
            "the certificate has expired",
            "fetch the current certificate from the vendor";
        /// RFC 5280, 4.2.1.10.
        NameConstraints = "x509.path.name_constraints",
            "a name is outside of what an authority above it may name",
            "ask the authority that is responsible for the name; subtrees of URIs are the only ones processed here";
        /// No candidate issued it, and the anchor did not either.
        NoPath = "x509.path.none",
            "no path leads to the pinned root",
            "send the missing intermediates, or pin the vendor's root";
        /// Depth, number of candidates, or signatures to check.
        PathBudget = "x509.path.budget",
            "the chain takes more work than any genuine one",
            "send only the intermediates of this certificate";
        /// RFC 5280, 5.1, in DER.
        CrlMalformed = "x509.crl.malformed",
            "the revocation list cannot be read",
            "fetch the list from the vendor again";
        /// RFC 5280, 5.1.2.4.
        CrlNotYetValid = "x509.crl.not_yet_valid",
            "the revocation list is from the future",
            "check the clock";
        /// RFC 5280, 5.1.2.5. A list without nextUpdate never expires, and is refused like one that has.
        CrlExpired = "x509.crl.expired",
            "the revocation list is out of date",
            "fetch the current list from the vendor";
        /// RFC 5280, 5.2: a critical extension narrows what the list covers.
        CrlCritical = "x509.crl.critical",
            "the revocation list carries a critical extension that is not understood",
            "use the vendor's complete list";
    }
}

/// No genuine certificate of the vendors comes near this size.
const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

/// More extensions than any certificate carries.
const EXTENSIONS_MAX: usize = 64;

/// keyUsage (RFC 5280, 4.2.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUsage {
    bits: u16,
}

impl KeyUsage {
    /// digitalSignature, bit 0.
    #[must_use]
    pub const fn digital_signature(self) -> bool {
        self.bits & 0x8000 != 0
    }

    /// keyEncipherment, bit 2.
    #[must_use]
    pub const fn key_encipherment(self) -> bool {
        self.bits & 0x2000 != 0
    }

    /// keyAgreement, bit 4.
    #[must_use]
    pub const fn key_agreement(self) -> bool {
        self.bits & 0x0800 != 0
    }

    /// keyCertSign, bit 5.
    #[must_use]
    pub const fn key_cert_sign(self) -> bool {
        self.bits & 0x0400 != 0
    }

    /// cRLSign, bit 6.
    #[must_use]
    pub const fn crl_sign(self) -> bool {
        self.bits & 0x0200 != 0
    }
}

/// basicConstraints (RFC 5280, 4.2.1.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasicConstraints {
    /// The extension is absent, or says that the subject is no certification authority.
    EndEntity,
    /// A certification authority, with the number of authorities it allows below it where it limits them.
    Authority {
        /// pathLenConstraint.
        path_length: Option<u64>,
    },
}

/// One extension: its octets, and whether it must be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Content octets of extnID.
    oid: &'a [u8],
    /// critical.
    pub critical: bool,
    /// Content of extnValue.
    pub value: &'a [u8],
}

/// A certificate that was read, not yet believed.
#[derive(Clone)]
pub struct Certificate<'a> {
    der: &'a [u8],
    tbs: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    serial: &'a [u8],
    issuer: &'a [u8],
    subject: &'a [u8],
    spki: &'a [u8],
    not_before: UnixMillis,
    not_after: UnixMillis,
    extensions: Vec<Extension<'a>>,
    constraints: BasicConstraints,
    key_usage: Option<KeyUsage>,
}

impl<'a> Certificate<'a> {
    /// Reads one certificate: all of `der`, nothing after it.
    ///
    /// # Errors
    /// [`X509Reason::Malformed`], [`X509Reason::TooLarge`], [`X509Reason::AlgorithmMismatch`] or
    /// [`X509Reason::DuplicateExtension`].
    pub fn parse(der: &'a [u8]) -> Result<Self, Rejection> {
        if CERTIFICATE_BYTES_MAX < der.len() {
            return Err(X509Reason::TooLarge.because(CERTIFICATE_BYTES_MAX, der.len()));
        }
        let signed = Signed::read(der).map_err(|NotDer| malformed("Certificate"))?;
        let mut tbs = Der::new(signed.content);
        let certificate = Self::read_tbs(der, &signed, &mut tbs).map_err(|NotDer| malformed("TBSCertificate"))?;
        if certificate.algorithm != signed.algorithm {
            return Err(mismatch(certificate.algorithm, signed.algorithm));
        }
        let mut oids: Vec<_> = certificate.extensions.iter().map(|extension| extension.oid).collect();
        oids.sort_unstable();
        match oids.windows(2).find(|pair| pair.first() == pair.last()).and_then(<[_]>::first) {
            Some(twice) => Err(X509Reason::DuplicateExtension.because("each extension once", hex_text(twice))),
            None => Ok(certificate),
        }
    }

    fn read_tbs(der: &'a [u8], signed: &Signed<'a>, fields: &mut Der<'a>) -> Result<Self, NotDer> {
        // Version ::= INTEGER { v1(0), v2(1), v3(2) }, v1 by default.
        let version = match fields.optional(tag::CONTEXT_0)? {
            Some(mut explicit) => {
                let version = explicit.u64()?;
                explicit.finish()?;
                version
            }
            None => 0,
        };
        // Negative serials and ones longer than 20 octets exist in genuine certificates; they are compared, not used.
        let serial = fields.content(tag::INTEGER)?;
        let algorithm = fields.element(tag::SEQUENCE)?.whole;
        let issuer = fields.element(tag::SEQUENCE)?.whole;
        let mut validity = fields.inner(tag::SEQUENCE)?;
        let not_before = time(validity.any()?)?;
        let not_after = time(validity.any()?)?;
        validity.finish()?;
        let subject = fields.element(tag::SEQUENCE)?.whole;
        let spki = fields.element(tag::SEQUENCE)?.whole;
        // issuerUniqueID and subjectUniqueID say nothing that is used here.
        fields.optional(tag::PRIMITIVE_1)?;
        fields.optional(tag::PRIMITIVE_2)?;
        let extensions = match fields.optional(tag::CONTEXT_3)? {
            // RFC 5280, 4.1.2.9: version 3 alone has extensions.
            Some(_) if version != 2 => return Err(NotDer),
            Some(explicit) => extensions(explicit)?,
            None => Vec::new(),
        };
        fields.finish()?;
        if 2 < version || serial.is_empty() {
            return Err(NotDer);
        }
        let find = |oid: Oid| extensions.iter().find(|extension| extension.oid == oid.octets());
        let constraints = find(oid::BASIC_CONSTRAINTS)
            .map_or(Ok(BasicConstraints::EndEntity), |extension| basic_constraints(extension.value))?;
        let key_usage = find(oid::KEY_USAGE).map(|extension| key_usage(extension.value)).transpose()?;
        let Signed { tbs, signature, .. } = *signed;
        Ok(Self {
            der,
            tbs,
            algorithm,
            signature,
            serial,
            issuer,
            subject,
            spki,
            not_before,
            not_after,
            extensions,
            constraints,
            key_usage,
        })
    }

    /// The whole certificate.
    #[must_use]
    pub const fn der(&self) -> &'a [u8] {
        self.der
    }

    /// Content octets of serialNumber.
    #[must_use]
    pub const fn serial(&self) -> &'a [u8] {
        self.serial
    }

    /// The issuer's Name, DER.
    #[must_use]
    pub const fn issuer(&self) -> &'a [u8] {
        self.issuer
    }

    /// The subject's Name, DER.
    #[must_use]
    pub const fn subject(&self) -> &'a [u8] {
        self.subject
    }

    /// SubjectPublicKeyInfo, DER.
    #[must_use]
    pub const fn spki(&self) -> &'a [u8] {
        self.spki
    }

    /// notBefore; 1970 where it is earlier.
    #[must_use]
    pub const fn not_before(&self) -> UnixMillis {
        self.not_before
    }

    /// notAfter; 1970 where it is earlier.
    #[must_use]
    pub const fn not_after(&self) -> UnixMillis {
        self.not_after
    }

    /// The extension with this identifier.
    #[must_use]
    pub fn extension(&self, oid: Oid) -> Option<Extension<'a>> {
        self.extensions.iter().find(|extension| extension.oid == oid.octets()).copied()
    }

    /// basicConstraints.
    #[must_use]
    pub const fn basic_constraints(&self) -> BasicConstraints {
        self.constraints
    }

    /// keyUsage, where the extension is there.
    #[must_use]
    pub const fn key_usage(&self) -> Option<KeyUsage> {
        self.key_usage
    }

    /// Whether extKeyUsage is there and lists `purpose` itself (anyExtendedKeyUsage is not it).
    ///
    /// # Errors
    /// [`X509Reason::Malformed`] when the extension cannot be read.
    pub fn has_extended_key_usage(&self, purpose: Oid) -> Result<bool, Rejection> {
        let Some(extension) = self.extension(oid::EXTENDED_KEY_USAGE) else { return Ok(false) };
        let read = || -> Result<bool, NotDer> {
            let mut outer = Der::new(extension.value);
            let mut purposes = outer.inner(tag::SEQUENCE)?;
            outer.finish()?;
            let mut found = false;
            while !purposes.is_empty() {
                found |= purposes.content(tag::OID)? == purpose.octets();
            }
            Ok(found)
        };
        read().map_err(|NotDer| malformed("extKeyUsage"))
    }

    /// The subject's only commonName, as text.
    #[must_use]
    pub fn subject_common_name(&self) -> Option<&'a str> {
        common_name(self.subject)
    }

    /// The issuer's only commonName, as text.
    #[must_use]
    pub fn issuer_common_name(&self) -> Option<&'a str> {
        common_name(self.issuer)
    }

    /// The subject's key for `scheme`.
    ///
    /// # Errors
    /// [`X509Reason::Key`] when the key is of another kind or curve.
    pub fn public_key(&self, scheme: Scheme) -> Result<PublicKey, Rejection> {
        algorithm::public_key(scheme, self.spki)
    }

    /// The subject's key, whatever it is for.
    ///
    /// # Errors
    /// [`X509Reason::Key`] when the key is of a kind or on a curve that is not known here.
    pub fn subject_key(&self) -> Result<SubjectKey<'a>, Rejection> {
        algorithm::subject_key(self.spki)
    }

    /// RFC 5280, 4.1.2.5: from notBefore through notAfter, inclusive.
    ///
    /// # Errors
    /// [`X509Reason::NotYetValid`] or [`X509Reason::Expired`].
    pub fn check_valid_at(&self, now: UnixMillis) -> Result<(), Rejection> {
        if now < self.not_before {
            Err(X509Reason::NotYetValid.because(format_args!("a time from {}", self.not_before), now))
        } else if self.not_after < now {
            Err(X509Reason::Expired.because(format_args!("a time up to {}", self.not_after), now))
        } else {
            Ok(())
        }
    }

    /// Checks that `issuer` issued this certificate: names, authority, key usage, signature.
    ///
    /// # Errors
    /// A [`X509Reason`] for the first of these that does not hold.
    pub fn check_issued_by(&self, issuer: &Certificate<'_>) -> Result<(), Rejection> {
        if !name::same(self.issuer, issuer.subject) {
            return Err(X509Reason::Issuer.because(name_text(self.issuer), name_text(issuer.subject)));
        }
        issuer.check_may_issue()?;
        check_signature(self.tbs, self.algorithm, self.signature, issuer)
    }

    /// RFC 5280, 6.1.4 (k) and (n): a certification authority whose key, where its usage is limited, may sign
    /// certificates.
    ///
    /// # Errors
    /// [`X509Reason::NotCa`] or [`X509Reason::IssuerKeyUsage`].
    pub fn check_may_issue(&self) -> Result<(), Rejection> {
        if self.constraints == BasicConstraints::EndEntity {
            return Err(X509Reason::NotCa.because("basicConstraints with cA TRUE", name_text(self.subject)));
        }
        if self.key_usage.is_some_and(|usage| !usage.key_cert_sign()) {
            return Err(X509Reason::IssuerKeyUsage.because("keyCertSign", name_text(self.subject)));
        }
        Ok(())
    }

    /// RFC 5280, 4.2: every critical extension is one that is processed here, or that the caller says it processes.
    /// A nameConstraints that nobody processes rejects whether it is marked or not.
    ///
    /// # Errors
    /// [`X509Reason::UnknownCritical`].
    pub fn check_critical_extensions(&self, understood: &[Oid]) -> Result<(), Rejection> {
        let processed = |extension: &Extension<'_>| {
            [oid::BASIC_CONSTRAINTS, oid::KEY_USAGE].iter().chain(understood).any(|oid| oid.octets() == extension.oid)
        };
        let demands = |extension: &Extension<'_>| extension.critical || extension.oid == oid::NAME_CONSTRAINTS.octets();
        match self.extensions.iter().find(|extension| demands(extension) && !processed(extension)) {
            Some(unknown) => Err(X509Reason::UnknownCritical
                .because("known critical extensions", format_args!("OID octets {}", hex_text(unknown.oid)))),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Certificate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("subject", &name_text(self.subject))
            .field("issuer", &name_text(self.issuer))
            .finish_non_exhaustive()
    }
}

/// What certificates and lists have in common: `SEQUENCE { toBeSigned, AlgorithmIdentifier, BIT STRING }`.
struct Signed<'a> {
    /// The exact bytes under the signature.
    tbs: &'a [u8],
    /// The content of these.
    content: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    fn read(der: &'a [u8]) -> Result<Self, NotDer> {
        let mut whole = Der::new(der);
        let mut parts = whole.inner(tag::SEQUENCE)?;
        whole.finish()?;
        let Element { whole: tbs, content, .. } = parts.element(tag::SEQUENCE)?;
        let algorithm = parts.element(tag::SEQUENCE)?.whole;
        let signature = parts.octet_bits()?;
        parts.finish()?;
        Ok(Self { tbs, content, algorithm, signature })
    }
}

/// The key in a `SubjectPublicKeyInfo` (DER), for `scheme`.
///
/// # Errors
/// [`X509Reason::Key`] when the key is of another kind or curve.
pub fn public_key(scheme: Scheme, spki: &[u8]) -> Result<PublicKey, Rejection> {
    algorithm::public_key(scheme, spki)
}

fn check_signature(tbs: &[u8], algorithm: &[u8], signature: &[u8], issuer: &Certificate<'_>) -> Result<(), Rejection> {
    let key = algorithm::signature_key(algorithm, issuer.spki)?;
    match key.verify(tbs, signature) {
        Ok(_) => Ok(()),
        Err(_) => {
            let signer = name_text(issuer.subject);
            Err(X509Reason::Signature.because(format_args!("a signature by {signer}"), "one that does not verify"))
        }
    }
}

fn malformed(part: &str) -> Rejection {
    X509Reason::Malformed.because(format_args!("{part} in DER (RFC 5280)"), "bytes that are not")
}

fn mismatch(inner: &[u8], outer: &[u8]) -> Rejection {
    X509Reason::AlgorithmMismatch.because(hex_text(inner), hex_text(outer))
}

/// A time of RFC 5280, 4.1.2.5: UTCTime or GeneralizedTime.
fn time(element: Element<'_>) -> Result<UnixMillis, NotDer> {
    match element.tag {
        // RFC 5280, 4.1.2.5.1 and .2: seconds are there, the zone is Z, and there are no fractions.
        tag::UTC_TIME if element.content.len() == 13 && element.content.ends_with(b"Z") => {}
        tag::GENERALIZED_TIME if element.content.len() == 15 && element.content.ends_with(b"Z") => {}
        _ => return Err(NotDer),
    }
    match ASN1Time::from_der(element.whole) {
        Ok(([], time)) => Ok(UnixMillis::from_seconds(time.timestamp()).unwrap_or(UnixMillis(0))),
        Ok(_) | Err(_) => Err(NotDer),
    }
}

/// Extensions ::= SEQUENCE SIZE (1..MAX) OF Extension, in their explicit tag.
fn extensions(mut explicit: Der<'_>) -> Result<Vec<Extension<'_>>, NotDer> {
    let mut list = explicit.inner(tag::SEQUENCE)?;
    explicit.finish()?;
    let mut found = Vec::new();
    while !list.is_empty() {
        let mut fields = list.inner(tag::SEQUENCE)?;
        let oid = fields.content(tag::OID)?;
        // DER omits the default FALSE; genuine certificates of TPM vendors do not.
        let critical = if fields.peek() == Some(tag::BOOLEAN) { fields.boolean()? } else { false };
        let value = fields.content(tag::OCTET_STRING)?;
        fields.finish()?;
        if EXTENSIONS_MAX <= found.len() {
            return Err(NotDer);
        }
        found.push(Extension { oid, critical, value });
    }
    Ok(found)
}

fn basic_constraints(value: &[u8]) -> Result<BasicConstraints, NotDer> {
    let mut outer = Der::new(value);
    let mut fields = outer.inner(tag::SEQUENCE)?;
    outer.finish()?;
    let authority = if fields.peek() == Some(tag::BOOLEAN) { fields.boolean()? } else { false };
    let path_length = if fields.is_empty() { None } else { Some(fields.u64()?) };
    fields.finish()?;
    match (authority, path_length) {
        (true, path_length) => Ok(BasicConstraints::Authority { path_length }),
        // RFC 5280, 4.2.1.9 forbids a length without cA, yet end entities carry it; it limits nothing.
        (false, _) => Ok(BasicConstraints::EndEntity),
    }
}

fn key_usage(value: &[u8]) -> Result<KeyUsage, NotDer> {
    let mut outer = Der::new(value);
    let content = outer.content(tag::BIT_STRING)?;
    outer.finish()?;
    match content {
        [unused, first] if *unused < 8 => Ok(KeyUsage { bits: u16::from(*first) << 8 }),
        [unused, first, second] if *unused < 8 => Ok(KeyUsage { bits: u16::from(*first) << 8 | u16::from(*second) }),
        _ => Err(NotDer),
    }
}

/// The only commonName in a Name, if it has exactly one and that is text.
fn common_name(name: &[u8]) -> Option<&str> {
    let (_, name) = x509_parser::x509::X509Name::from_der(name).ok()?;
    let mut found = None;
    for attribute in name.iter_common_name() {
        if found.is_some() {
            return None;
        }
        found = Some(attribute.as_str().ok()?);
    }
    found
}

/// A Name as people write it, for explanations.
fn name_text(name: &[u8]) -> String {
    match x509_parser::x509::X509Name::from_der(name) {
        Ok((_, name)) => name.to_string(),
        Err(_) => hex_text(name),
    }
}

fn hex_text(bytes: &[u8]) -> String {
    hex::encode(bytes.get(..64).unwrap_or(bytes))
}
