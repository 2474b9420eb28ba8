//! Recorded TD quotes that came without collateral: their signatures, up to Intel's root, and nothing of what Intel
//! says about platform, QE or TDX module. Nothing live is ever judged by it.

use alloc::vec::Vec;

use crate::anchor::{Assurance, IntelAnchor};
use crate::digest::Sha256Digest;
use crate::endorsement::intel::pem;
use crate::rejection::Rejection;
use crate::signature::{PublicKey, Scheme};
use crate::time::UnixMillis;
use crate::verified::Verified;
use crate::x509::{Certificate, Oid, X509Reason, verify_path};

use super::TdxReason;
use super::body::{Body, EnclaveReport, TdReport};
use super::quote::{QeCertification, Quote, Signed};

/// 1.2.840.113741.1.13.1: what a PCK certificate says of its platform. Without collateral there is nothing to hold it
/// against.
const SGX_EXTENSIONS: Oid =
    Oid::new(&[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01], "SGX extensions of a PCK certificate");

/// TDATTRIBUTES, the TD-under-debug group.
const DEBUG_GROUP: u64 = 0xff;

/// A TD quote whose signatures lead to a pinned root. [`RecordedTdQuote::verify`] is the only constructor. It says
/// nothing about the platform's TCB, nor whether a certificate was revoked: nothing was there to say it.
#[derive(Clone, Debug)]
pub struct RecordedTdQuote {
    report: TdReport,
    assurance: Assurance,
    valid_until: UnixMillis,
}

impl RecordedTdQuote {
    /// Checks the signatures of a quote: by its attestation key over the TD report, by the PCK over the QE's report
    /// that names this key, and up to one of `anchors` over the PCK.
    ///
    /// # Errors
    /// A [`TdxReason`], or a reason of the certificates.
    pub fn verify(quote: &[u8], anchors: &[IntelAnchor], now: UnixMillis) -> Result<Self, Rejection> {
        let quote = Quote::parse(quote)?;
        let chain = pem::certificates(quote.pck_chain()?)?;
        let (pck, assurance, valid_until) = verify_pck(&chain, anchors, now)?;
        let qe = quote.qe();
        let signed = pck
            .public_key(Scheme::EcdsaP256Sha256)?
            .verify(qe.report, qe.signature)
            .map_err(|_| TdxReason::QeSignature.because("a signature by the PCK over the QE's report", "another"))?;
        let enclave = Verified::read(signed, read_enclave)?;
        if enclave.is_debug() {
            return Err(TdxReason::QeDebug.because("DEBUG clear", hex::encode(enclave.attributes)));
        }
        // The QE reports the digest of the key that it signs with, and of what it authenticates along.
        let Sha256Digest(expected) = Sha256Digest::of(&[quote.attestation_key, qe.auth_data]);
        if enclave.report_data.first_chunk() != Some(&expected) {
            return Err(TdxReason::QeReportData.because(hex::encode(expected), hex::encode(enclave.report_data)));
        }
        let point = [&[4][..], quote.attestation_key].concat();
        let signed = PublicKey::new(Scheme::EcdsaP256Sha256, point)
            .verify(quote.signed_bytes, quote.signature)
            .map_err(|_| TdxReason::Signature.because("a signature by the attestation key", "another"))?;
        let signed = Verified::read(signed, Signed::read)?;
        let Body::Td(report) = signed.body else { return Err(TdxReason::OtherTee.because("a TD report", signed.kind)) };
        if report.attributes() & DEBUG_GROUP != 0 {
            return Err(TdxReason::Debug.because("DEBUG clear", hex::encode(report.td_attributes)));
        }
        Ok(Self { report, assurance, valid_until })
    }

    /// The TD report.
    #[must_use]
    pub const fn report(&self) -> &TdReport {
        &self.report
    }

    /// What the root is worth.
    #[must_use]
    pub const fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// The earliest notAfter of the chain.
    #[must_use]
    pub const fn valid_until(&self) -> UnixMillis {
        self.valid_until
    }
}

impl QeCertification<'_> {
    /// The QE's report, as it stands there.
    ///
    /// # Errors
    /// [`TdxReason::Length`] when it has another length.
    pub fn unverified_report(&self) -> Result<EnclaveReport, Rejection> {
        read_enclave(self.report)
    }
}

fn read_enclave(bytes: &[u8]) -> Result<EnclaveReport, Rejection> {
    EnclaveReport::read(bytes).map_err(|error| TdxReason::Length.because("an enclave report", error))
}

/// The one certificate of a chain, in any order, that issues none of the others, with a path to an anchor.
fn verify_pck<'c>(
    chain: &'c [Vec<u8>],
    anchors: &[IntelAnchor],
    now: UnixMillis,
) -> Result<(Certificate<'c>, Assurance, UnixMillis), Rejection> {
    let chain = chain.iter().map(|der| Certificate::parse(der)).collect::<Result<Vec<_>, _>>()?;
    let mut leaves = chain.iter().filter(|one| chain.iter().all(|other| other.issuer() != one.subject()));
    let (Some(pck), None) = (leaves.next(), leaves.next()) else {
        return Err(X509Reason::NoPath.because("one PCK certificate", "none, or several"));
    };
    let mut closest = X509Reason::NoPath.because("a pinned root of Intel", "none");
    for anchor in anchors {
        let root = Certificate::parse(&anchor.root)?;
        match verify_path(pck, &chain, &root, now, &[SGX_EXTENSIONS]) {
            Ok(path) => return Ok((pck.clone(), anchor.assurance, path.not_after())),
            Err(rejection) => closest = rejection,
        }
    }
    Err(closest)
}
