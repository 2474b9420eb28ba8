//! Intel: PCK certificates of platforms, and the collateral that says what a TCB is worth: TCB info, identities of
//! quoting enclaves and revocation lists, each signed under the pinned Intel SGX Root CA.
//!
//! Everything is verified from the exact bytes that were signed, before they are read. What is verified is kept parsed,
//! so that a quote is judged without JSON and without a certificate chain.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

pub use self::identity::{EnclaveId, QeIdentity, VerifiedQeIdentity};
pub use self::pck::{PckExtensions, VerifiedPck};
pub use self::status::{TcbEvaluation, TcbStatus};
pub use self::tcb_info::{ModuleIdentity, TcbInfo, TcbKind, VerifiedTcbInfo};
pub(crate) use self::tcb_info::{module_major, module_name};
use crate::anchor::{Assurance, IntelAnchor};
use crate::digest::Sha256Digest;
use crate::evidence::tdx::EnclaveReport;
use crate::rejection::{Rejection, reasons};
use crate::signature::Scheme;
use crate::time::UnixMillis;
use crate::x509::{Certificate, Crl, verify_path};

mod date;
mod identity;
mod pck;
pub(crate) mod pem;
mod status;
mod tcb_info;

reasons! {
    /// Why something that Intel should have signed is not believed, or says what is not to be believed.
    IntelReason {
        /// PEM, three certificates at most, the root among them.
        Chain = "intel.chain",
            "a certificate chain does not have the form of Intel's",
            "send the chain as Intel's provisioning service returned it, with the root";
        /// Key and certificate.
        Root = "intel.root",
            "a certificate chain does not end in the pinned root",
            "send the chain with Intel's current SGX root certificate, and pin that";
        /// By name.
        Signer = "intel.signer",
            "a certificate is not one for this purpose",
            "send the certificate that Intel issued for this";
        /// Over the exact bytes.
        Signature = "intel.signature",
            "the signature over collateral does not verify",
            "send collateral byte for byte as Intel signed it";
        /// Strictly.
        Schema = "intel.schema",
            "collateral is not as Intel specifies it",
            "fetch the collateral again; update Countersign if Intel extended it";
        /// Closed.
        Status = "intel.tcb_status",
            "a TCB status is none that is known",
            "fetch the collateral again; update Countersign if Intel added a status";
        /// issueDate, thisUpdate, notBefore.
        NotYetValid = "intel.not_yet_valid",
            "collateral or a certificate is from the future",
            "check the clock";
        /// nextUpdate, notAfter.
        Expired = "intel.expired",
            "collateral or a certificate is out of date",
            "fetch current collateral from Intel's provisioning service or a cache of it";
        /// 1.3.5 of the profile.
        PckExtensions = "intel.pck.extensions",
            "the PCK certificate does not say which platform it is of",
            "provision the platform again";
        /// On a list.
        PckRevoked = "intel.pck.revoked",
            "Intel revoked the platform's PCK certificate",
            "take the platform out of service, or provision it again after its recovery";
        /// On a list.
        CaRevoked = "intel.ca.revoked",
            "Intel revoked a certification authority or signer in a chain",
            "fetch chains and collateral again";
        /// The list covers another CA's certificates.
        CrlIssuer = "intel.crl.issuer",
            "the revocation list is not of the CA that issued the PCK certificate",
            "fetch the list of the CA that issued it: platform or processor";
        /// FMSPC and PCEID.
        Platform = "intel.platform",
            "the TCB info is of other platforms",
            "fetch the TCB info of this platform's FMSPC";
        /// SGX or TDX.
        Kind = "intel.kind",
            "the collateral is for another technology than the quote",
            "fetch the TCB info and QE identity for the quote's kind of TEE";
        /// Below all.
        NoLevel = "intel.tcb.none",
            "the TCB is below every level that Intel knows",
            "update the platform: its firmware, microcode or TDX module is too old";
        /// Of the platform, the QE or the TDX module.
        Revoked = "intel.tcb.revoked",
            "Intel revoked this TCB: keys may have been extracted",
            "update the platform and provision it again";
        /// By major version.
        Module = "intel.module.unknown",
            "the TCB info does not know the TDX module",
            "fetch current TCB info; do not run a TDX module that Intel does not list";
        /// Masked.
        QeMiscSelect = "intel.qe.misc_select",
            "the quoting enclave runs with another MISCSELECT than Intel's",
            "use Intel's quoting enclave";
        /// Masked.
        QeAttributes = "intel.qe.attributes",
            "the quoting enclave runs with other attributes than Intel's",
            "use Intel's production quoting enclave";
        /// Exactly.
        QeMrSigner = "intel.qe.mr_signer",
            "the quoting enclave is not signed by Intel",
            "use Intel's quoting enclave";
        /// Exactly.
        QeProduct = "intel.qe.isv_prod_id",
            "the quoting enclave is another product of Intel",
            "use the quoting enclave of this kind of TEE";
    }
}

const TCB_SIGNING_NAME: &str = "Intel SGX TCB Signing";
const CA_NAMES: [&str; 2] = ["Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"];

/// Collateral of DCAP, version 3, as it came.
#[derive(Clone, Copy, Debug)]
pub struct IntelCollateral<'a> {
    /// CA that issued the PCK and its list, and the root; PEM.
    pub pck_crl_issuer_chain: &'a str,
    /// List of the root; DER.
    pub root_ca_crl: &'a [u8],
    /// List of the CA; DER.
    pub pck_crl: &'a [u8],
    /// Signer of the TCB info, and the root; PEM.
    pub tcb_info_issuer_chain: &'a str,
    /// TCB info, exactly as signed.
    pub tcb_info: &'a str,
    /// r || s.
    pub tcb_info_signature: &'a [u8],
    /// Signer of the QE identity, and the root; PEM.
    pub qe_identity_issuer_chain: &'a str,
    /// QE identity, exactly as signed.
    pub qe_identity: &'a str,
    /// r || s.
    pub qe_identity_signature: &'a [u8],
}

impl IntelCollateral<'_> {
    /// SHA-256 of all of it, each part with its length.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        let parts: [&[u8]; 9] = [
            self.pck_crl_issuer_chain.as_bytes(),
            self.root_ca_crl,
            self.pck_crl,
            self.tcb_info_issuer_chain.as_bytes(),
            self.tcb_info.as_bytes(),
            self.tcb_info_signature,
            self.qe_identity_issuer_chain.as_bytes(),
            self.qe_identity.as_bytes(),
            self.qe_identity_signature,
        ];
        let lengths = parts.map(|part| u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        let framed: Vec<&[u8]> = lengths.iter().zip(parts).flat_map(|(length, part)| [&length[..], part]).collect();
        Sha256Digest::of(&framed)
    }
}

/// When something and all that it rests on holds: from the latest beginning through the earliest end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The latest issueDate, thisUpdate or notBefore.
    pub from: UnixMillis,
    /// The earliest nextUpdate or notAfter.
    pub until: UnixMillis,
}

impl Validity {
    fn and(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), until: self.until.min(other.until) }
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
struct VerifiedList {
    der: Vec<u8>,
    validity: Validity,
}

impl VerifiedList {
    fn check(der: &[u8], issuer: &Certificate<'_>, now: UnixMillis) -> Result<Self, Rejection> {
        let crl = Crl::parse(der)?;
        crl.check_signed_by(issuer)?;
        let until = crl.check_current(now)?;
        Ok(Self { der: der.to_vec(), validity: Validity { from: crl.this_update(), until } })
    }

    fn check_not_revoked(&self, certificate: &Certificate<'_>, reason: IntelReason) -> Result<(), Rejection> {
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
    anchor: IntelAnchor,
    list: VerifiedList,
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
        now: UnixMillis,
    ) -> Result<Self, Rejection> {
        let chain = pem::certificates(chain.as_bytes())?;
        let anchor = anchor_of(&chain, anchors)?;
        let root = Certificate::parse(&anchor.root)?;
        root.check_valid_at(now)?;
        let list = VerifiedList::check(root_ca_crl, &root, now)?;
        list.check_not_revoked(&root, IntelReason::CaRevoked)?;
        Ok(Self { anchor: anchor.clone(), list })
    }
}

/// Nobody but the root itself says which certificate of a chain is the root: the chain's must be the pinned one,
/// key and certificate, and every other certificate in the chain leads to it.
fn path<'a>(chain: &'a [Vec<u8>], root: &Certificate<'a>, now: UnixMillis) -> Result<Vec<Certificate<'a>>, Rejection> {
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

/// Checks TCB info: chain, list, time and signature over its exact bytes, and only then what it says.
///
/// # Errors
/// An [`IntelReason`] or [`crate::x509::X509Reason`] for what does not hold.
pub fn endorse_tcb_info(
    tcb_info: &str,
    signature: &[u8],
    chain: &str,
    root_crl: &VerifiedRootCrl,
    now: UnixMillis,
) -> Result<VerifiedTcbInfo, Rejection> {
    let validity = check_signed(tcb_info, signature, chain, root_crl, now)?;
    let info = TcbInfo::read(tcb_info)?;
    let validity = validity.and(Validity { from: info.issue_date, until: info.next_update });
    validity.check(now)?;
    Ok(VerifiedTcbInfo::new(info, validity))
}

/// Checks an enclave identity, likewise.
///
/// # Errors
/// An [`IntelReason`] or [`crate::x509::X509Reason`] for what does not hold.
pub fn endorse_qe_identity(
    qe_identity: &str,
    signature: &[u8],
    chain: &str,
    root_crl: &VerifiedRootCrl,
    now: UnixMillis,
) -> Result<VerifiedQeIdentity, Rejection> {
    let validity = check_signed(qe_identity, signature, chain, root_crl, now)?;
    let identity = QeIdentity::read(qe_identity)?;
    let validity = validity.and(Validity { from: identity.issue_date, until: identity.next_update });
    validity.check(now)?;
    Ok(VerifiedQeIdentity::new(identity, validity))
}

/// The list of a CA of PCKs, its chain, time and signature checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPckCrl {
    issuer: Vec<u8>,
    list: VerifiedList,
    validity: Validity,
}

/// Checks the list of a CA of PCKs.
///
/// # Errors
/// An [`IntelReason`] or [`crate::x509::X509Reason`] for what does not hold.
pub fn endorse_pck_crl(
    pck_crl: &[u8],
    chain: &str,
    root_crl: &VerifiedRootCrl,
    now: UnixMillis,
) -> Result<VerifiedPckCrl, Rejection> {
    let chain = pem::certificates(chain.as_bytes())?;
    let root = Certificate::parse(&root_crl.anchor.root)?;
    let path = path(&chain, &root, now)?;
    let [authority, _root] = path.as_slice() else {
        return Err(IntelReason::Chain.because("a CA and the root", path.len()));
    };
    check_authority(authority)?;
    root_crl.list.check_not_revoked(authority, IntelReason::CaRevoked)?;
    let list = VerifiedList::check(pck_crl, authority, now)?;
    let validity = list.validity.and(root_crl.list.validity).and(validity_of(&path));
    Ok(VerifiedPckCrl { issuer: authority.der().to_vec(), list, validity })
}

fn check_authority(certificate: &Certificate<'_>) -> Result<(), Rejection> {
    let name = certificate.subject_common_name();
    if name.is_some_and(|name| CA_NAMES.contains(&name)) {
        return certificate.check_may_issue();
    }
    Err(IntelReason::Signer.because(CA_NAMES.join(" or "), name.unwrap_or("no common name")))
}

fn validity_of(path: &[Certificate<'_>]) -> Validity {
    let whole = Validity { from: UnixMillis(0), until: UnixMillis(u64::MAX) };
    path.iter().fold(whole, |validity, certificate| {
        validity.and(Validity { from: certificate.not_before(), until: certificate.not_after() })
    })
}

/// Checks a signature of Intel's signer of TCBs over exactly these bytes, and that the signer is not revoked.
fn check_signed(
    text: &str,
    signature: &[u8],
    chain: &str,
    root_crl: &VerifiedRootCrl,
    now: UnixMillis,
) -> Result<Validity, Rejection> {
    let chain = pem::certificates(chain.as_bytes())?;
    let path = signer_path(text, signature, &chain, &root_crl.anchor, now)?;
    if let Some(signer) = path.first() {
        root_crl.list.check_not_revoked(signer, IntelReason::CaRevoked)?;
    }
    Ok(root_crl.list.validity.and(validity_of(&path)))
}

/// The path of the signer, whose signature is over exactly these bytes. Nothing is known of revocation.
fn signer_path<'a>(
    text: &str,
    signature: &[u8],
    chain: &'a [Vec<u8>],
    anchor: &'a IntelAnchor,
    now: UnixMillis,
) -> Result<Vec<Certificate<'a>>, Rejection> {
    let root = Certificate::parse(&anchor.root)?;
    let path = path(chain, &root, now)?;
    let [signer, _root] = path.as_slice() else {
        return Err(IntelReason::Chain.because("a signer and the root", path.len()));
    };
    let name = signer.subject_common_name();
    if name != Some(TCB_SIGNING_NAME) {
        return Err(IntelReason::Signer.because(TCB_SIGNING_NAME, name.unwrap_or("no common name")));
    }
    let key = signer.public_key(Scheme::EcdsaP256Sha256)?;
    key.verify(text.as_bytes(), signature)
        .map_err(|_| IntelReason::Signature.because("a signature by Intel's signer of TCBs", "another"))?;
    Ok(path)
}

/// Checks a document of Intel's signer of TCBs alone: signature over its exact bytes, chain to one of `anchors`, and
/// time. For recorded documents that are looked at by themselves: without the root's list nobody knows whether the
/// signer was revoked, so nothing is endorsed by what this reads.
///
/// # Errors
/// An [`IntelReason`] or [`crate::x509::X509Reason`] for what does not hold.
pub fn read_recorded<T>(
    text: &str,
    signature: &[u8],
    chain: &str,
    anchors: &[IntelAnchor],
    now: UnixMillis,
    read: impl FnOnce(&str) -> Result<(T, Validity), Rejection>,
) -> Result<T, Rejection> {
    let chain = pem::certificates(chain.as_bytes())?;
    let path = signer_path(text, signature, &chain, anchor_of(&chain, anchors)?, now)?;
    let (document, validity) = read(text)?;
    validity.and(validity_of(&path)).check(now)?;
    Ok(document)
}

/// Collateral of which everything was checked, kept parsed. [`VerifiedCollateral::endorse`] is the only constructor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCollateral {
    digest: Sha256Digest,
    root_crl: VerifiedRootCrl,
    pck_crl: VerifiedPckCrl,
    tcb_info: VerifiedTcbInfo,
    qe_identity: VerifiedQeIdentity,
    validity: Validity,
}

impl VerifiedCollateral {
    /// Checks collateral under one of `anchors`: chains, lists, times and signatures, of each part.
    ///
    /// # Errors
    /// An [`IntelReason`] or [`crate::x509::X509Reason`] for what does not hold.
    pub fn endorse(
        collateral: &IntelCollateral<'_>,
        anchors: &[IntelAnchor],
        now: UnixMillis,
    ) -> Result<Self, Rejection> {
        let root_crl = VerifiedRootCrl::endorse(collateral.root_ca_crl, collateral.pck_crl_issuer_chain, anchors, now)?;
        let pck_crl = endorse_pck_crl(collateral.pck_crl, collateral.pck_crl_issuer_chain, &root_crl, now)?;
        let tcb_info = endorse_tcb_info(
            collateral.tcb_info,
            collateral.tcb_info_signature,
            collateral.tcb_info_issuer_chain,
            &root_crl,
            now,
        )?;
        let qe_identity = endorse_qe_identity(
            collateral.qe_identity,
            collateral.qe_identity_signature,
            collateral.qe_identity_issuer_chain,
            &root_crl,
            now,
        )?;
        let validity = pck_crl.validity.and(tcb_info.validity()).and(qe_identity.validity());
        Ok(Self { digest: collateral.digest(), root_crl, pck_crl, tcb_info, qe_identity, validity })
    }

    /// SHA-256 of the collateral: see [`IntelCollateral::digest`].
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// What the root is worth.
    #[must_use]
    pub const fn assurance(&self) -> Assurance {
        self.root_crl.anchor.assurance
    }

    /// The TCB info.
    #[must_use]
    pub const fn tcb_info(&self) -> &VerifiedTcbInfo {
        &self.tcb_info
    }

    /// The identity of the quoting enclave.
    #[must_use]
    pub const fn qe_identity(&self) -> &VerifiedQeIdentity {
        &self.qe_identity
    }

    /// The earliest end of all of it.
    #[must_use]
    pub const fn valid_until(&self) -> UnixMillis {
        self.validity.until
    }

    /// Checks at every use that no part is out of date.
    ///
    /// # Errors
    /// [`IntelReason::NotYetValid`] or [`IntelReason::Expired`].
    pub fn check_current(&self, now: UnixMillis) -> Result<(), Rejection> {
        self.validity.check(now)
    }

    /// Checks a PCK certificate with its chain, PEM in any order: path, root, both lists, and what platform it is of.
    ///
    /// # Errors
    /// An [`IntelReason`] or [`crate::x509::X509Reason`] for what does not hold.
    pub fn endorse_pck(&self, chain: &[u8], now: UnixMillis) -> Result<VerifiedPck, Rejection> {
        self.check_current(now)?;
        let digest = Sha256Digest::of(&[chain]);
        let chain = pem::certificates(chain)?;
        let root = Certificate::parse(&self.root_crl.anchor.root)?;
        let path = path(&chain, &root, now)?;
        let [leaf, authority, _root] = path.as_slice() else {
            return Err(IntelReason::Chain.because("PCK certificate, CA and root", path.len()));
        };
        let name = leaf.subject_common_name();
        if name != Some(pck::PCK_NAME) {
            return Err(IntelReason::Signer.because(pck::PCK_NAME, name.unwrap_or("no common name")));
        }
        check_authority(authority)?;
        // Two CAs issue PCKs, each with a list of its own. A list says nothing of another CA's certificates.
        let listed = Certificate::parse(&self.pck_crl.issuer)?;
        if (listed.subject(), listed.spki()) != (authority.subject(), authority.spki()) {
            return Err(IntelReason::CrlIssuer.because(pck::issuer_name(leaf), name_of(&listed)));
        }
        self.root_crl.list.check_not_revoked(authority, IntelReason::CaRevoked)?;
        self.pck_crl.list.check_not_revoked(leaf, IntelReason::PckRevoked)?;
        let extensions = PckExtensions::read(leaf)?;
        let lists = self.root_crl.list.validity.and(self.pck_crl.validity);
        Ok(VerifiedPck {
            digest,
            collateral: self.digest,
            assurance: self.assurance(),
            key: pck::key(leaf)?,
            issuer: pck::issuer_name(leaf),
            not_before: leaf.not_before(),
            extensions,
            validity: lists.and(validity_of(&path)),
        })
    }

    /// What Intel says of an SGX platform and its quoting enclave, whose report the PCK signed.
    ///
    /// # Errors
    /// An [`IntelReason`]: the collateral is of another platform or technology, no level is reached, or one is revoked.
    pub fn evaluate_sgx(&self, pck: &VerifiedPck, qe: &EnclaveReport) -> Result<TcbEvaluation, Rejection> {
        let info = self.info_for(TcbKind::Sgx, EnclaveId::Qe, pck)?;
        let platform = info.platform(&pck.extensions.components, pck.extensions.pce_svn, None)?;
        self.converge(platform, None, qe)
    }

    /// What Intel says of a TDX platform, its TDX module and its quoting enclave, whose report the PCK signed.
    ///
    /// `tee_tcb_svn` is the TDX module's TCB when the TD was launched. Where it can be another now, TEE_TCB_SVN2, that is
    /// evaluated too: see [`TcbStatus::beside_current`].
    ///
    /// # Errors
    /// As [`VerifiedCollateral::evaluate_sgx`], and [`IntelReason::Module`].
    pub fn evaluate_tdx(
        &self,
        pck: &VerifiedPck,
        qe: &EnclaveReport,
        tee_tcb_svn: &[u8; 16],
        tee_tcb_svn2: Option<&[u8; 16]>,
    ) -> Result<TcbEvaluation, Rejection> {
        let info = self.info_for(TcbKind::Tdx, EnclaveId::TdQe, pck)?;
        let at = |svn: &[u8; 16]| {
            let platform = info.platform(&pck.extensions.components, pck.extensions.pce_svn, Some(svn))?;
            self.converge(platform, info.module(svn)?, qe)
        };
        let launch = at(tee_tcb_svn)?;
        let Some(svn2) = tee_tcb_svn2 else { return Ok(launch) };
        // A revoked current TCB rejects as well: then nothing that the module says now is to be believed.
        let current = at(svn2)?;
        Ok(TcbEvaluation { status: launch.status.beside_current(current.status), ..launch })
    }

    /// The TCB info, if it is of this technology and platform, and the identity of this enclave.
    fn info_for(&self, kind: TcbKind, id: EnclaveId, pck: &VerifiedPck) -> Result<&TcbInfo, Rejection> {
        let info = self.tcb_info.info();
        if info.kind != kind {
            let found = format_args!("{:?}", info.kind).to_string();
            return Err(IntelReason::Kind.because(format_args!("TCB info of {kind:?}"), found));
        }
        let identity = self.qe_identity.identity();
        if identity.id != id {
            return Err(IntelReason::Kind.because(format_args!("identity of {}", id.name()), identity.id.name()));
        }
        let of = |fmspc: &[u8], pce_id: &[u8]| [hex::encode(fmspc), hex::encode(pce_id)].join(" PCEID ");
        if (info.fmspc, info.pce_id) != (pck.extensions.fmspc, Some(pck.extensions.pce_id)) {
            let expected = of(&pck.extensions.fmspc, &pck.extensions.pce_id);
            return Err(
                IntelReason::Platform.because(expected, of(&info.fmspc, info.pce_id.as_ref().map_or(&[], |id| id)))
            );
        }
        Ok(info)
    }

    /// The verdicts together (Intel QVL, 4.1.2.5.1.3 to 6).
    fn converge(
        &self,
        platform: &tcb_info::Verdict,
        module: Option<&tcb_info::Verdict>,
        qe: &EnclaveReport,
    ) -> Result<TcbEvaluation, Rejection> {
        let qe = self.qe_identity.identity().evaluate(qe)?;
        let status = module.map_or(platform.status, |module| platform.status.with_component(module.status));
        let with_qe = status.with_component(qe.status);
        if with_qe == TcbStatus::Revoked {
            return Err(IntelReason::Revoked.because("no status Revoked", "platform, TDX module or QE"));
        }
        let mut advisory_ids: Vec<String> = Vec::new();
        let mut tcb_date = platform.tcb_date;
        for verdict in [Some(platform), module, Some(qe)].into_iter().flatten() {
            tcb_date = tcb_date.min(verdict.tcb_date);
            for id in &verdict.advisory_ids {
                if !advisory_ids.contains(id) {
                    advisory_ids.push(id.clone());
                }
            }
        }
        Ok(TcbEvaluation {
            status: with_qe,
            platform: status,
            qe: qe.status,
            advisory_ids,
            tcb_date,
            evaluation_data_number: self.tcb_info.info().evaluation_data_number,
            qe_evaluation_data_number: self.qe_identity.identity().evaluation_data_number,
        })
    }
}

fn name_of<'a>(certificate: &Certificate<'a>) -> &'a str {
    certificate.subject_common_name().unwrap_or("no common name")
}

/// A field of fixed size, written in hex of either case.
fn fixed_hex<const N: usize>(name: &str, text: &str) -> Result<[u8; N], Rejection> {
    let mut value = [0; N];
    hex::decode_to_slice(text, &mut value)
        .map(|()| value)
        .map_err(|_| IntelReason::Schema.because(format_args!("{name} of {N} bytes in hex"), text))
}
