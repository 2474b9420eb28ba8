//! Recorded TD quotes that came without collateral: their signatures, up to Intel's root, and nothing of what Intel
//! says about platform, QE or TDX module. Nothing live is ever judged by it.

use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::anchor::Assurance;
use crate::digest::Sha256Digest;
use crate::evidence::paravisor::ParavisorReason;
use crate::rejection::Rejection;
use crate::signature::{PublicKey, Scheme};
use crate::time::UnixMillis;
use crate::verified::Verified;
use crate::x509::{Certificate, Oid, verify_path};

use super::body::{Body, EnclaveReport, TdReport};
use super::quote::{QeCertification, Quote, Signed};

/// Certificates in a quote. A chain has three.
const CERTIFICATES_MAX: usize = 8;

/// 1.2.840.113741.1.13.1: what a PCK certificate says of its platform. Without collateral there is nothing to hold it
/// against.
const SGX_EXTENSIONS: Oid =
    Oid::new(&[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01], "SGX extensions of a PCK certificate");

/// TDATTRIBUTES.DEBUG and the rest of its group.
const DEBUG_GROUP: u64 = 0xff;

/// A TD quote whose signatures lead to a pinned root. [`RecordedTdQuote::verify`] is the only constructor. It says
/// nothing about the platform's TCB: nothing was there to say it.
#[derive(Clone, Debug)]
pub struct RecordedTdQuote {
    report: TdReport,
    assurance: Assurance,
    valid_until: UnixMillis,
}

impl RecordedTdQuote {
    /// Checks the signatures of a quote: by its attestation key over the TD report, by the PCK over the QE's report that
    /// names this key, and up to one of `roots` (DER, each with what it is worth) over the PCK.
    ///
    /// # Errors
    /// A [`TdxReason`](super::TdxReason) for a quote that cannot be read, [`ParavisorReason::TdQuote`], or a reason of
    /// the certificates.
    pub fn verify(quote: &[u8], roots: &[(Assurance, &[u8])], now: UnixMillis) -> Result<Self, Rejection> {
        let reason = ParavisorReason::TdQuote;
        let quote = Quote::parse(quote)?;
        let chain = certificates(quote.pck_chain()?)?;
        let (pck, assurance, valid_until) = verify_pck(&chain, roots, now)?;
        let qe = quote.qe();
        let pck = pck.public_key(Scheme::EcdsaP256Sha256)?;
        let signed = pck
            .verify(qe.report, qe.signature)
            .map_err(|_| reason.because("a signature of the PCK over the QE's report", "another"))?;
        let enclave =
            Verified::read(signed, EnclaveReport::read).map_err(|error| reason.because("an enclave report", error))?;
        // The QE reports the digest of the key that it signs with, and of what it authenticates along.
        let Sha256Digest(expected) = Sha256Digest::of(&[quote.attestation_key, qe.auth_data]);
        if enclave.report_data.first_chunk() != Some(&expected) {
            return Err(reason.because("the QE's report over this attestation key", "one over another"));
        }
        let point = [&[4][..], quote.attestation_key].concat();
        let signed = PublicKey::new(Scheme::EcdsaP256Sha256, point)
            .verify(quote.signed_bytes, quote.signature)
            .map_err(|_| reason.because("a signature of the attestation key", "another"))?;
        let signed = Verified::read(signed, Signed::read)?;
        let Body::Td(report) = signed.body else { return Err(reason.because("the report of a TD", signed.kind)) };
        if report.attributes() & DEBUG_GROUP != 0 {
            return Err(reason.because("a TD whose host cannot debug it", hex::encode(report.td_attributes)));
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
    /// [`ParavisorReason::TdQuote`] when it has another length.
    pub fn unverified_report(&self) -> Result<EnclaveReport, Rejection> {
        EnclaveReport::read(self.report).map_err(|error| ParavisorReason::TdQuote.because("an enclave report", error))
    }
}

/// The one certificate of a chain, in any order, that issues none of the others, with a path to a root.
fn verify_pck<'c>(
    chain: &'c [Vec<u8>],
    roots: &[(Assurance, &[u8])],
    now: UnixMillis,
) -> Result<(Certificate<'c>, Assurance, UnixMillis), Rejection> {
    let reason = ParavisorReason::TdQuote;
    let chain = chain.iter().map(|der| Certificate::parse(der)).collect::<Result<Vec<_>, _>>()?;
    let mut leaves = chain.iter().filter(|one| chain.iter().all(|other| other.issuer() != one.subject()));
    let (Some(pck), None) = (leaves.next(), leaves.next()) else {
        return Err(reason.because("one PCK certificate", "none, or several"));
    };
    let mut closest = reason.because("a pinned root of Intel", "none");
    for (assurance, root) in roots {
        let root = Certificate::parse(root)?;
        match verify_path(pck, &chain, &root, now, &[SGX_EXTENSIONS]) {
            Ok(path) => return Ok((pck.clone(), *assurance, path.not_after())),
            Err(rejection) => closest = rejection,
        }
    }
    Err(closest)
}

/// The certificates of a PEM text (RFC 7468, 5), and nothing else.
fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, Rejection> {
    let refused = |found: &str| ParavisorReason::TdQuote.because("a chain of PEM certificates", found);
    let mut rest = core::str::from_utf8(pem).map_err(|_| refused("bytes that are no text"))?.trim();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let body = rest.strip_prefix("-----BEGIN CERTIFICATE-----").ok_or_else(|| refused("other text"))?;
        let (body, after) = body.split_once("-----END CERTIFICATE-----").ok_or_else(|| refused("half of one"))?;
        let digits: Vec<u8> = body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        found.push(STANDARD.decode(digits).map_err(|_| refused("bytes that are no base64"))?);
        if CERTIFICATES_MAX < found.len() {
            return Err(refused("too many"));
        }
        rest = after.trim_start();
    }
    Ok(found)
}
