//! AMD: VCEK or VLEK, issued by ASK or ASVK, issued by the pinned ARK of the product line (AMD 57230, "Versioned Chip
//! Endorsement Key Certificate and KDS Interface Specification", chapters 2 and 3).

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use crate::anchor::{AmdAnchor, AmdProduct, Assurance};
use crate::claims::{HexBytes, Presented, Revocation, SnpSigningKey, SnpTcb};
use crate::digest::Sha256Digest;
use crate::evidence::snp::SnpReason;
use crate::rejection::Rejection;
use crate::signature::{PreparedKey, Scheme};
use crate::time::{JudgedAt, UnixMillis};
use crate::x509::{Certificate, Crl, ListValidity, VerifiedPath, X509Reason, crl, verify_path};

mod extensions;

pub(crate) use self::extensions::hwid_size;
use self::extensions::{certificate_tcb, check_product_name, identity};

/// Anchors tried for one certificate: three products, hardware and simulated, and room for a root's successor.
const ANCHORS_MAX: usize = 16;

/// Lists looked at for one certificate, likewise.
const CRLS_MAX: usize = 32;

/// VEK, intermediate, root.
const PATH_CERTIFICATES: usize = 3;

/// A VCEK or VLEK whose chain led to a pinned ARK. [`endorse`] is the only constructor.
///
/// It may be kept for as long as [`VerifiedVek::check_current`] holds, under [`VerifiedVek::digest`], the digest of the
/// revocation lists and the generation of the anchors it was checked with: a report is then judged with one signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedVek {
    digest: Sha256Digest,
    key: PreparedKey,
    kind: SnpSigningKey,
    product: AmdProduct,
    product_name: String,
    assurance: Assurance,
    tcb: SnpTcb,
    hwid: Presented<HexBytes>,
    csp_id: Presented<String>,
    validity: ChainValidity,
}

impl VerifiedVek {
    /// SHA-256 of the certificate, DER.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// The key: P-384, for the report's r || s.
    pub(crate) const fn key(&self) -> &PreparedKey {
        &self.key
    }

    /// Which kind of key this is.
    #[must_use]
    pub const fn kind(&self) -> SnpSigningKey {
        self.kind
    }

    /// The product line of the chain.
    #[must_use]
    pub const fn product(&self) -> AmdProduct {
        self.product
    }

    /// productName: the product line, on Milan's VCEKs with the stepping.
    #[must_use]
    pub fn product_name(&self) -> &str {
        &self.product_name
    }

    /// What the ARK is worth.
    #[must_use]
    pub const fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// The TCB the key was derived for.
    #[must_use]
    pub const fn tcb(&self) -> SnpTcb {
        self.tcb
    }

    /// hwID: 8 bytes on Turin, 64 elsewhere. A VLEK has none.
    #[must_use]
    pub const fn hwid(&self) -> &Presented<HexBytes> {
        &self.hwid
    }

    /// cspID: the cloud provider a VLEK belongs to. A VCEK has none.
    #[must_use]
    pub const fn csp_id(&self) -> &Presented<String> {
        &self.csp_id
    }

    /// Whether the chain was checked against a revocation list, and how that list stands now.
    #[must_use]
    pub fn revocation(&self, now: UnixMillis) -> Revocation {
        self.validity.revocation(now)
    }

    /// Earliest notAfter of the chain, and nextUpdate of the revocation list, with its grace, where there was one.
    #[must_use]
    pub fn valid_until(&self) -> UnixMillis {
        self.validity.valid_until()
    }

    /// Checks at every use that no certificate of the chain and no list it was checked against is out of date.
    ///
    /// # Errors
    /// [`X509Reason::NotYetValid`], [`X509Reason::Expired`], [`X509Reason::CrlNotYetValid`] or
    /// [`X509Reason::CrlExpired`].
    pub fn check_current(&self, now: UnixMillis) -> Result<(), Rejection> {
        self.validity.check(now)
    }
}

/// An ASK or ASVK whose issuer is a pinned ARK. [`endorse_intermediate`] is the only constructor.
///
/// It may be kept like a [`VerifiedVek`]: what it issued is then endorsed with one signature, by [`endorse_issued`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedIntermediate {
    digest: Sha256Digest,
    der: Vec<u8>,
    serial: String,
    kind: SnpSigningKey,
    product: AmdProduct,
    assurance: Assurance,
    validity: ChainValidity,
    /// Serial numbers on the ARK's lists, without leading zeros, sorted: they count for the VEKs below too.
    revoked: Vec<Vec<u8>>,
}

impl VerifiedIntermediate {
    /// SHA-256 of the certificate, DER.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Serial number, hex.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Checks at every use that neither the certificates nor the list it was checked against are out of date.
    ///
    /// # Errors
    /// As [`VerifiedVek::check_current`].
    pub fn check_current(&self, now: UnixMillis) -> Result<(), Rejection> {
        self.validity.check(now)
    }

    /// The kind of key it issues.
    #[must_use]
    pub const fn issues(&self) -> SnpSigningKey {
        self.kind
    }

    /// The product line of the root.
    #[must_use]
    pub const fn product(&self) -> AmdProduct {
        self.product
    }

    /// What the ARK is worth.
    #[must_use]
    pub const fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// Whether it was checked against a revocation list, and how that list stands now.
    #[must_use]
    pub fn revocation(&self, now: UnixMillis) -> Revocation {
        self.validity.revocation(now)
    }

    /// Earliest notAfter, and nextUpdate of the revocation list, with its grace, where there was one.
    #[must_use]
    pub fn valid_until(&self) -> UnixMillis {
        self.validity.valid_until()
    }
}

/// The time in which a chain and its revocation list hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ChainValidity {
    not_before: UnixMillis,
    not_after: UnixMillis,
    list: Option<ListValidity>,
}

impl ChainValidity {
    fn check(&self, now: UnixMillis) -> Result<(), Rejection> {
        if now < self.not_before {
            return Err(X509Reason::NotYetValid.because(format_args!("a time from {}", self.not_before), now));
        }
        if self.not_after < now {
            return Err(X509Reason::Expired.because(format_args!("a time up to {}", self.not_after), now));
        }
        self.list.map_or(Ok(()), |list| list.check(now))
    }

    fn revocation(&self, now: UnixMillis) -> Revocation {
        self.list.map_or(Revocation::NotPresented, |list| list.revocation(now))
    }

    fn valid_until(&self) -> UnixMillis {
        self.list.map_or(self.not_after, |list| self.not_after.min(list.until()))
    }
}

/// Checks a VCEK or VLEK: chain to one of `anchors`, validity at `now`, revocation, and the extensions that say which
/// chip and TCB it stands for.
///
/// `crls` holds the revocation lists there are, DER. None at all leaves [`Revocation::NotPresented`] in the claims,
/// for the policy to judge; otherwise one must be the current list of the chain's own ARK, or one whose grace lasts.
///
/// # Errors
/// An [`SnpReason`] or [`X509Reason`] for what does not hold.
pub fn endorse(
    vek: &[u8],
    anchors: &[AmdAnchor],
    crls: &[&[u8]],
    at: impl Into<JudgedAt>,
) -> Result<VerifiedVek, Rejection> {
    let at = at.into();
    let certificate = Certificate::parse(vek)?;
    let kind = vek_kind(&certificate)?;
    let issuer = certificate.issuer_common_name().unwrap_or("no common name");
    let (anchor, (validity, _)) = first_anchor(anchors, issuer, kind, |anchor, ark| {
        let intermediates = anchor.intermediates.iter().map(|der| Certificate::parse(der));
        let intermediates = intermediates.collect::<Result<Vec<_>, _>>()?;
        let path = verify_path(&certificate, &intermediates, ark, at.now, &[])?;
        check_shape(&path)?;
        chain_validity(&path, ark, crls, at)
    })?;
    read_vek(&certificate, kind, anchor.product, anchor.assurance, validity)
}

/// Checks a VCEK or VLEK as [`endorse`] does, under an intermediate that was endorsed before and still holds at `now`:
/// one signature. The revocation lists are those the intermediate was endorsed with.
///
/// # Errors
/// An [`SnpReason`] or [`X509Reason`] for what does not hold.
pub fn endorse_issued(
    vek: &[u8],
    intermediate: &VerifiedIntermediate,
    now: UnixMillis,
) -> Result<VerifiedVek, Rejection> {
    intermediate.check_current(now)?;
    let certificate = Certificate::parse(vek)?;
    let kind = vek_kind(&certificate)?;
    let (product, issuer) = (intermediate.product, Certificate::parse(&intermediate.der)?);
    let named = certificate.issuer_common_name().unwrap_or("no common name");
    let expected = intermediate_name(kind, product);
    if kind != intermediate.kind || named != expected {
        return Err(SnpReason::VekIssuer.because(expected, named));
    }
    let path = verify_path(&certificate, &[], &issuer, now, &[])?;
    let listed = |serial: &[u8]| {
        let serial = crl::without_leading_zeros(serial);
        intermediate.revoked.binary_search_by(|known| known.as_slice().cmp(serial)).is_ok()
    };
    if listed(certificate.serial()) {
        return Err(revoked(SnpReason::VekRevoked, &certificate));
    }
    let validity = ChainValidity {
        not_before: intermediate.validity.not_before.max(path.not_before()),
        not_after: intermediate.validity.not_after.min(path.not_after()),
        ..intermediate.validity
    };
    read_vek(&certificate, kind, product, intermediate.assurance, validity)
}

/// Checks an ASK or ASVK alone against one of `anchors` and the revocation lists, as [`endorse`] does for a whole
/// chain.
///
/// # Errors
/// An [`SnpReason`] or [`X509Reason`] for what does not hold.
pub fn endorse_intermediate(
    intermediate: &[u8],
    anchors: &[AmdAnchor],
    crls: &[&[u8]],
    at: impl Into<JudgedAt>,
) -> Result<VerifiedIntermediate, Rejection> {
    let at = at.into();
    let certificate = Certificate::parse(intermediate)?;
    let name = certificate.subject_common_name().unwrap_or("no common name");
    let kind = if name.starts_with("SEV-VLEK-") { SnpSigningKey::Vlek } else { SnpSigningKey::Vcek };
    let (anchor, (validity, revoked)) = first_anchor(anchors, name, kind, |_, ark| {
        let path = verify_path(&certificate, &[], ark, at.now, &[])?;
        certificate.check_may_issue()?;
        chain_validity(&path, ark, crls, at)
    })?;
    let digest = Sha256Digest::of(&[intermediate]);
    let (product, assurance) = (anchor.product, anchor.assurance);
    let (der, serial) = (intermediate.to_vec(), hex::encode(certificate.serial()));
    Ok(VerifiedIntermediate { digest, der, serial, kind, product, assurance, validity, revoked })
}

/// VCEK or VLEK, by the subject (AMD 57230, 2.1).
fn vek_kind(certificate: &Certificate<'_>) -> Result<SnpSigningKey, Rejection> {
    match certificate.subject_common_name() {
        Some("SEV-VCEK") => Ok(SnpSigningKey::Vcek),
        Some("SEV-VLEK") => Ok(SnpSigningKey::Vlek),
        other => Err(SnpReason::VekKind.because("CN SEV-VCEK or SEV-VLEK", other.unwrap_or("no common name"))),
    }
}

/// What a certificate says whose chain was checked.
fn read_vek(
    certificate: &Certificate<'_>,
    kind: SnpSigningKey,
    product: AmdProduct,
    assurance: Assurance,
    validity: ChainValidity,
) -> Result<VerifiedVek, Rejection> {
    let product_name = check_product_name(certificate, product)?.to_string();
    let (hwid, csp_id) = identity(certificate, kind, product)?;
    let key = certificate.public_key(Scheme::EcdsaP384Sha384)?.prepare();
    let key = key.map_err(|_| SnpReason::Signature.because("a public key on P-384", "a point that is not"))?;
    let tcb = certificate_tcb(certificate, product)?;
    let digest = Sha256Digest::of(&[certificate.der()]);
    Ok(VerifiedVek { digest, key, kind, product, product_name, assurance, tcb, hwid, csp_id, validity })
}

/// AMD 57230, 2.1: SEV-<product> issues VCEKs, SEV-VLEK-<product> issues VLEKs.
fn intermediate_name(kind: SnpSigningKey, product: AmdProduct) -> String {
    match kind {
        SnpSigningKey::Vcek => format!("SEV-{product}"),
        SnpSigningKey::Vlek => format!("SEV-VLEK-{product}"),
    }
}

/// The first anchor under which `check` holds, of those whose intermediate for this kind of key has the name `issuer`.
/// The rejection is the one of the last such anchor.
fn first_anchor<'a, T>(
    anchors: &'a [AmdAnchor],
    issuer: &str,
    kind: SnpSigningKey,
    check: impl Fn(&'a AmdAnchor, &Certificate<'a>) -> Result<T, Rejection>,
) -> Result<(&'a AmdAnchor, T), Rejection> {
    let mut closest = None;
    for anchor in anchors.iter().take(ANCHORS_MAX) {
        if intermediate_name(kind, anchor.product) != issuer {
            continue;
        }
        let ark = Certificate::parse(&anchor.ark)?;
        let root = format!("ARK-{}", anchor.product);
        if ark.subject_common_name() != Some(&root) {
            let found = ark.subject_common_name().unwrap_or("no common name");
            closest = Some(SnpReason::VekAnchor.because(root, found));
            continue;
        }
        match check(anchor, &ark) {
            Ok(checked) => return Ok((anchor, checked)),
            Err(rejection) => closest = Some(rejection),
        }
    }
    Err(closest.unwrap_or_else(|| {
        let names = |anchor: &AmdAnchor| intermediate_name(kind, anchor.product);
        let expected: Vec<_> = anchors.iter().take(ANCHORS_MAX).map(names).collect();
        if expected.is_empty() {
            SnpReason::VekAnchor.because("a pinned AMD root", "none")
        } else {
            SnpReason::VekIssuer.because(expected.join(" or "), issuer)
        }
    }))
}

fn check_shape(path: &VerifiedPath<'_>) -> Result<(), Rejection> {
    let found = path.certificates().len();
    if found == PATH_CERTIFICATES {
        Ok(())
    } else {
        Err(SnpReason::VekChain.because("VEK, intermediate and root", format_args!("{found} certificates")))
    }
}

/// How long a chain holds, and the serial numbers on the lists of its root.
fn chain_validity(
    path: &VerifiedPath<'_>,
    ark: &Certificate<'_>,
    crls: &[&[u8]],
    at: JudgedAt,
) -> Result<(ChainValidity, Vec<Vec<u8>>), Rejection> {
    let Listed { list, serials } = check_revocation(path, ark, crls, at)?;
    let (not_before, not_after) = (path.not_before(), path.not_after());
    Ok((ChainValidity { not_before, not_after, list }, serials))
}

/// What the lists of one root say.
struct Listed {
    /// The current one; none where there are no lists at all.
    list: Option<ListValidity>,
    serials: Vec<Vec<u8>>,
}

/// AMD publishes one list per product line, signed by the ARK itself (AMD 57230, 4.3).
///
/// A list under another root's name is another product's and says nothing here. Every list that the ARK did sign
/// counts against the chain, current or not; one of them must be current.
fn check_revocation(
    path: &VerifiedPath<'_>,
    ark: &Certificate<'_>,
    crls: &[&[u8]],
    at: JudgedAt,
) -> Result<Listed, Rejection> {
    let mut serials = Vec::new();
    if crls.is_empty() {
        return Ok(Listed { list: None, serials });
    }
    if CRLS_MAX < crls.len() {
        return Err(SnpReason::CrlProduct.because(format_args!("at most {CRLS_MAX} lists"), crls.len()));
    }
    let mut current = None;
    let mut closest = None;
    for der in crls {
        let crl = Crl::parse(der)?;
        if crl.issuer() != ark.subject() {
            continue;
        }
        if let Err(rejection) = crl.check_signed_by(ark) {
            closest = Some(rejection);
            continue;
        }
        check_not_listed(path, &crl)?;
        serials.extend(crl.revoked().map(<[u8]>::to_vec));
        match ListValidity::of(&crl, at) {
            Ok(list) if current.is_none_or(|known: ListValidity| known.next_update() < list.next_update()) => {
                current = Some(list);
            }
            Ok(_) => {}
            Err(rejection) => closest = Some(rejection),
        }
    }
    serials.sort_unstable();
    match current {
        Some(list) => Ok(Listed { list: Some(list), serials }),
        None => Err(closest.unwrap_or_else(|| {
            let root = ark.subject_common_name().unwrap_or("the pinned root");
            SnpReason::CrlProduct.because(format_args!("a list of {root}"), "lists of other roots")
        })),
    }
}

/// Every VEK that AMD issued so far has the serial number 0, so an entry 0 would name all of them at once. It is taken
/// at its word: a root that lists 0 withdraws every VEK, and whether it meant to is not ours to guess.
fn check_not_listed(path: &VerifiedPath<'_>, crl: &Crl<'_>) -> Result<(), Rejection> {
    for (index, certificate) in path.certificates().iter().enumerate() {
        if crl.revokes(certificate.serial()) {
            // The leaf of a whole chain is the VEK; of an intermediate's it is the intermediate.
            let vek = index == 0 && path.certificates().len() == PATH_CERTIFICATES;
            let reason = if vek { SnpReason::VekRevoked } else { SnpReason::IntermediateRevoked };
            return Err(revoked(reason, certificate));
        }
    }
    Ok(())
}

fn revoked(reason: SnpReason, certificate: &Certificate<'_>) -> Rejection {
    let name = certificate.subject_common_name().unwrap_or("no common name");
    let serial = hex::encode(certificate.serial());
    let zero = if certificate.serial() == [0] { ", which every AMD VEK has" } else { "" };
    reason.because("a serial number the list does not name", format_args!("{name} {serial}{zero}"))
}
