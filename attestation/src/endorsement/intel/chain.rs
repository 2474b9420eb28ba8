//! Chains and revocation lists under the pinned root.

use alloc::vec::Vec;

use super::{IntelReason, pem};
use crate::anchor::IntelAnchor;
use crate::digest::Sha256Digest;
use crate::rejection::Rejection;
use crate::signature::Scheme;
use crate::time::{JudgedAt, UnixMillis};
use crate::x509::{Certificate, Crl, verify_path};

const TCB_SIGNING_NAME: &str = "Intel SGX TCB Signing";
const PLATFORM_CA_NAME: &str = "Intel SGX PCK Platform CA";
const CA_NAMES: [&str; 2] = [PLATFORM_CA_NAME, "Intel SGX PCK Processor CA"];

/// When something and all that it rests on holds: from the latest beginning through the earliest end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The latest issueDate, thisUpdate or notBefore.
    pub from: UnixMillis,
    /// The earliest nextUpdate or notAfter; a nextUpdate with the grace after it.
    pub until: UnixMillis,
    /// The earliest nextUpdate. What holds after it does so by grace.
    pub due: UnixMillis,
}

impl Validity {
    /// Of something that is issued anew: from thisUpdate or issueDate through `due`, and the grace there is.
    pub(super) fn of_issue(from: UnixMillis, due: UnixMillis, grace_ms: u64) -> Self {
        Self { from, until: due.plus(grace_ms), due }
    }

    /// Of a certificate, which gets no grace.
    fn of_certificate(certificate: &Certificate<'_>) -> Self {
        Self { from: certificate.not_before(), until: certificate.not_after(), due: UnixMillis(u64::MAX) }
    }

    pub(super) fn and(self, other: Self) -> Self {
        let (from, until) = (self.from.max(other.from), self.until.min(other.until));
        Self { from, until, due: self.due.min(other.due) }
    }

    /// Checks that `now` is in it.
    ///
    /// # Errors
    /// [`IntelReason::NotYetValid`] or [`IntelReason::Expired`].
    pub fn check(self, now: UnixMillis) -> Result<(), Rejection> {
        if now < self.from {
            Err(IntelReason::NotYetValid.because(format_args!("a time from {}", self.from), now))
        } else if self.until < now {
            Err(IntelReason::Expired.because(format_args!("a time up to {}", self.until), now))
        } else {
            Ok(())
        }
    }
}

/// A list whose signature was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VerifiedList {
    der: Vec<u8>,
    pub(super) validity: Validity,
}

impl VerifiedList {
    fn check(der: &[u8], issuer: &Certificate<'_>, at: JudgedAt) -> Result<Self, Rejection> {
        let crl = Crl::parse(der)?;
        crl.check_signed_by(issuer)?;
        // A list holds until just before its nextUpdate, a certificate through its notAfter.
        let due = UnixMillis(crl.check_current(at)?.0.saturating_sub(1));
        Ok(Self { der: der.to_vec(), validity: Validity::of_issue(crl.this_update(), due, at.grace_ms) })
    }

    pub(super) fn check_not_revoked(
        &self,
        certificate: &Certificate<'_>,
        reason: IntelReason,
    ) -> Result<(), Rejection> {
        if Crl::parse(&self.der)?.revokes(certificate.serial()) {
            let name = certificate.subject_common_name().unwrap_or("no common name");
            return Err(reason.because(format_args!("{name} not revoked"), hex::encode(certificate.serial())));
        }
        Ok(())
    }
}

/// The list of a pinned root, its signature and time checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRootCrl {
    pub(super) anchor: IntelAnchor,
    pub(super) list: VerifiedList,
}

impl VerifiedRootCrl {
    /// Checks the list of one of `anchors`, by the root in `chain`.
    ///
    /// # Errors
    /// An [`IntelReason`] or [`crate::x509::X509Reason`] for what does not hold.
    pub fn endorse(
        root_ca_crl: &[u8],
        chain: &str,
        anchors: &[IntelAnchor],
        at: impl Into<JudgedAt>,
    ) -> Result<Self, Rejection> {
        let at = at.into();
        let chain = pem::certificates(chain.as_bytes())?;
        let anchor = anchor_of(&chain, anchors)?;
        let root = Certificate::parse(&anchor.root)?;
        root.check_valid_at(at.now)?;
        let list = VerifiedList::check(root_ca_crl, &root, at)?;
        list.check_not_revoked(&root, IntelReason::CaRevoked)?;
        Ok(Self { anchor: anchor.clone(), list })
    }
}

/// Nobody but the root itself says which certificate of a chain is the root: the chain's must be the pinned one,
/// key and certificate, and every other certificate in the chain leads to it.
pub(super) fn path<'a>(
    chain: &'a [Vec<u8>],
    root: &Certificate<'a>,
    now: UnixMillis,
) -> Result<Vec<Certificate<'a>>, Rejection> {
    let certificates = chain.iter().map(|der| Certificate::parse(der)).collect::<Result<Vec<_>, _>>()?;
    let (roots, others): (Vec<_>, Vec<_>) =
        certificates.into_iter().partition(|certificate| certificate.subject() == certificate.issuer());
    match roots.as_slice() {
        [sent] if sent.der() == root.der() => {}
        [sent] => {
            let digest = |der: &[u8]| Sha256Digest::of(&[der]);
            return Err(IntelReason::Root.because(digest(root.der()), digest(sent.der())));
        }
        _ => return Err(IntelReason::Chain.because("one root", roots.len())),
    }
    let is_leaf = |certificate: &&Certificate<'_>| {
        !others.iter().any(|other| other.der() != certificate.der() && other.issuer() == certificate.subject())
    };
    let leaf = others.iter().find(is_leaf).ok_or_else(|| IntelReason::Chain.because("a leaf", "none"))?;
    let path = verify_path(leaf, &others, root, now, &[])?;
    if path.certificates().len() != chain.len() {
        let expected = format_args!("{} certificates that are one path", chain.len());
        return Err(IntelReason::Chain.because(expected, path.certificates().len()));
    }
    Ok(path.certificates().to_vec())
}

/// The anchor whose root is in the chain.
fn anchor_of<'a>(chain: &[Vec<u8>], anchors: &'a [IntelAnchor]) -> Result<&'a IntelAnchor, Rejection> {
    let found = anchors.iter().find(|anchor| chain.contains(&anchor.root));
    found.ok_or_else(|| IntelReason::Root.because("a pinned root in the chain", "none"))
}

/// The list of a CA of PCKs, its chain, time and signature checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPckCrl {
    pub(super) issuer: Vec<u8>,
    pub(super) list: VerifiedList,
    pub(super) validity: Validity,
}

/// Checks the list of a CA of PCKs.
///
/// # Errors
/// An [`IntelReason`] or [`crate::x509::X509Reason`] for what does not hold.
pub fn endorse_pck_crl(
    pck_crl: &[u8],
    chain: &str,
    root_crl: &VerifiedRootCrl,
    at: impl Into<JudgedAt>,
) -> Result<VerifiedPckCrl, Rejection> {
    let at = at.into();
    let chain = pem::certificates(chain.as_bytes())?;
    let root = Certificate::parse(&root_crl.anchor.root)?;
    let path = path(&chain, &root, at.now)?;
    let [authority, _root] = path.as_slice() else {
        return Err(IntelReason::Chain.because("a CA and the root", path.len()));
    };
    check_authority(authority)?;
    root_crl.list.check_not_revoked(authority, IntelReason::CaRevoked)?;
    let list = VerifiedList::check(pck_crl, authority, at)?;
    let validity = list.validity.and(root_crl.list.validity).and(validity_of(&path));
    Ok(VerifiedPckCrl { issuer: authority.der().to_vec(), list, validity })
}

pub(super) fn check_authority(certificate: &Certificate<'_>) -> Result<(), Rejection> {
    let name = certificate.subject_common_name();
    if name.is_some_and(|name| CA_NAMES.contains(&name)) {
        return certificate.check_may_issue();
    }
    Err(IntelReason::Signer.because(CA_NAMES.join(" or "), name.unwrap_or("no common name")))
}

pub(super) fn validity_of(path: &[Certificate<'_>]) -> Validity {
    let end = UnixMillis(u64::MAX);
    let whole = Validity { from: UnixMillis(0), until: end, due: end };
    path.iter().fold(whole, |validity, certificate| validity.and(Validity::of_certificate(certificate)))
}

/// Checks a signature of Intel's signer of TCBs over exactly these bytes, and that the root's list does not name it.
pub(super) fn check_signed(
    text: &str,
    signature: &[u8],
    chain: &str,
    root_crl: &VerifiedRootCrl,
    now: UnixMillis,
) -> Result<Validity, Rejection> {
    let root = Certificate::parse(&root_crl.anchor.root)?;
    let not_revoked = |signer: &Certificate<'_>| root_crl.list.check_not_revoked(signer, IntelReason::CaRevoked);
    let validity = check_signature(text, signature, &pem::certificates(chain.as_bytes())?, &root, now, not_revoked)?;
    Ok(root_crl.list.validity.and(validity))
}

/// The same without the root's list: nothing is known of the signer's revocation.
pub(super) fn check_signed_without_list<'a>(
    text: &str,
    signature: &[u8],
    chain: &str,
    anchors: &'a [IntelAnchor],
    now: UnixMillis,
) -> Result<&'a IntelAnchor, Rejection> {
    let chain = pem::certificates(chain.as_bytes())?;
    let anchor = anchor_of(&chain, anchors)?;
    check_signature(text, signature, &chain, &Certificate::parse(&anchor.root)?, now, |_| Ok(()))?;
    Ok(anchor)
}

/// Checks who signed the list of a CA of PCKs, without the root's list: tells the anchor, and which CA it is.
pub(crate) fn check_pck_crl_alone<'a>(
    list: &Crl<'_>,
    chain: &str,
    anchors: &'a [IntelAnchor],
    now: UnixMillis,
) -> Result<(&'a IntelAnchor, &'static str), Rejection> {
    let chain = pem::certificates(chain.as_bytes())?;
    let anchor = anchor_of(&chain, anchors)?;
    let path = path(&chain, &Certificate::parse(&anchor.root)?, now)?;
    let [authority, _root] = path.as_slice() else {
        return Err(IntelReason::Chain.because("a CA and the root", path.len()));
    };
    check_authority(authority)?;
    list.check_signed_by(authority)?;
    let is_platform = authority.subject_common_name() == Some(PLATFORM_CA_NAME);
    Ok((anchor, if is_platform { "platform" } else { "processor" }))
}

fn check_signature(
    text: &str,
    signature: &[u8],
    chain: &[Vec<u8>],
    root: &Certificate<'_>,
    now: UnixMillis,
    not_revoked: impl FnOnce(&Certificate<'_>) -> Result<(), Rejection>,
) -> Result<Validity, Rejection> {
    let path = path(chain, root, now)?;
    let [signer, _root] = path.as_slice() else {
        return Err(IntelReason::Chain.because("a signer and the root", path.len()));
    };
    let name = signer.subject_common_name();
    if name != Some(TCB_SIGNING_NAME) {
        return Err(IntelReason::Signer.because(TCB_SIGNING_NAME, name.unwrap_or("no common name")));
    }
    not_revoked(signer)?;
    let key = signer.public_key(Scheme::EcdsaP256Sha256)?;
    key.verify(text.as_bytes(), signature)
        .map_err(|_| IntelReason::Signature.because("a signature by Intel's signer of TCBs", "another"))?;
    Ok(validity_of(&path))
}
