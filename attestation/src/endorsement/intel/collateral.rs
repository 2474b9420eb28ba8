//! DCAP's quote collateral as a whole, and what it says of a platform.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::chain::{Validity, VerifiedPckCrl, VerifiedRootCrl, check_authority, endorse_pck_crl, path, validity_of};
use super::identity::{EnclaveId, VerifiedQeIdentity};
use super::pck::{self, PckExtensions, VerifiedPck};
use super::status::{TcbEvaluation, TcbStatus};
use super::tcb_info::{TcbInfo, TcbKind, Verdict, VerifiedTcbInfo};
use super::{IntelReason, endorse_qe_identity, endorse_tcb_info, pem};
use crate::anchor::{Assurance, IntelAnchor};
use crate::digest::Sha256Digest;
use crate::evidence::tdx::EnclaveReport;
use crate::rejection::Rejection;
use crate::time::{JudgedAt, UnixMillis};
use crate::x509::Certificate;

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
        at: impl Into<JudgedAt>,
    ) -> Result<Self, Rejection> {
        let at = at.into();
        let root_crl = VerifiedRootCrl::endorse(collateral.root_ca_crl, collateral.pck_crl_issuer_chain, anchors, at)?;
        let pck_crl = endorse_pck_crl(collateral.pck_crl, collateral.pck_crl_issuer_chain, &root_crl, at)?;
        let tcb_info = endorse_tcb_info(
            collateral.tcb_info,
            collateral.tcb_info_signature,
            collateral.tcb_info_issuer_chain,
            &root_crl,
            at,
        )?;
        let qe_identity = endorse_qe_identity(
            collateral.qe_identity,
            collateral.qe_identity_signature,
            collateral.qe_identity_issuer_chain,
            &root_crl,
            at,
        )?;
        let validity = pck_crl.validity.and(tcb_info.validity()).and(qe_identity.validity());
        Ok(Self { digest: collateral.digest(), root_crl, pck_crl, tcb_info, qe_identity, validity })
    }

    /// SHA-256 of the collateral: see [`IntelCollateral::digest`].
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// The root that it leads to.
    #[must_use]
    pub const fn anchor(&self) -> &IntelAnchor {
        &self.root_crl.anchor
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

    /// The earliest end of all of it, with the grace that it was endorsed with.
    #[must_use]
    pub const fn valid_until(&self) -> UnixMillis {
        self.validity.until
    }

    /// The earliest nextUpdate of all of it, where that has passed and grace lasts.
    #[must_use]
    pub fn overdue(&self, now: UnixMillis) -> Option<UnixMillis> {
        (self.validity.due < now).then_some(self.validity.due)
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
        let sent = chain;
        let chain = pem::certificates(sent)?;
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
            chain: sent.to_vec(),
            digest: Sha256Digest::of(&[sent]),
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
    /// `tee_tcb_svn` is the TDX module's TCB when the TD was launched. Where it can be another now, TEE_TCB_SVN2, that
    /// is evaluated too: see [`TcbStatus::beside_current`].
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
            let pce_id = info.pce_id.as_ref().map_or(&[][..], |pce_id| &pce_id[..]);
            return Err(IntelReason::Platform.because(expected, of(&info.fmspc, pce_id)));
        }
        Ok(info)
    }

    /// The verdicts together (Intel QVL, 4.1.2.5.1.3 to 6).
    fn converge(
        &self,
        platform: &Verdict,
        module: Option<&Verdict>,
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
