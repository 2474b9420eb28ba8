//! The quoting enclave: how an attestation key came to be believed.

use super::TdxReason;
use super::body::EnclaveReport;
use super::quote::{Quote, Tee};
use crate::digest::Sha256Digest;
use crate::endorsement::intel::{VerifiedCollateral, VerifiedPck};
use crate::rejection::Rejection;
use crate::signature::{PreparedKey, PublicKey, Scheme, verify_once};
use crate::time::UnixMillis;
use crate::verified::Verified;

/// What the QE's report says, after the PCK's signature over it and its hash of the attestation key were checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Qe {
    pub(super) report: EnclaveReport,
    pub(super) auth_data_bytes: u16,
    /// The attestation key: an uncompressed point on P-256.
    point: [u8; 65],
}

impl Qe {
    /// Checks the report of the quote's QE under the PCK: one signature.
    pub(super) fn check(quote: &Quote<'_>, pck: &VerifiedPck) -> Result<Self, Rejection> {
        let qe = quote.qe();
        let signed = pck
            .key()
            .verify(qe.report, qe.signature)
            .map_err(|_| TdxReason::QeSignature.because("a signature by the PCK over the QE's report", "another"))?;
        let report = Verified::read(signed, EnclaveReport::read)
            .map_err(|error| TdxReason::Length.because("an enclave report", error))?
            .into_inner();
        if report.is_debug() {
            return Err(TdxReason::QeDebug.because("DEBUG clear", hex::encode(report.attributes)));
        }
        // Quoting Library API, appendix A.4: SHA-256(attestation key || authentication data) || 32 zero bytes.
        let (bound, rest) = report.report_data.split_at(32);
        let expected = Sha256Digest::of(&[quote.attestation_key, qe.auth_data]);
        if bound != expected.0 {
            return Err(TdxReason::QeReportData.because(expected, hex::encode(bound)));
        }
        if rest.iter().any(|byte| *byte != 0) {
            return Err(TdxReason::QeReportDataUpper.because("32 zero bytes", hex::encode(rest)));
        }
        let mut point = [4; 65];
        for (place, byte) in point.iter_mut().skip(1).zip(quote.attestation_key) {
            *place = *byte;
        }
        // The size is read from two bytes.
        let auth_data_bytes = u16::try_from(qe.auth_data.len()).unwrap_or(u16::MAX);
        Ok(Self { report, auth_data_bytes, point })
    }

    /// Checks the quote's signature by the attestation key, used this once.
    pub(super) fn verify<'a>(&self, quote: &Quote<'a>) -> Result<crate::signature::SignedBytes<'a>, Rejection> {
        verify_once(Scheme::EcdsaP256Sha256, &self.point, quote.signed_bytes, quote.signature).map_err(|_| other_key())
    }
}

fn other_key() -> Rejection {
    TdxReason::Signature.because("a signature by the attestation key over header and body", "another")
}

/// A quoting enclave and its attestation key, as one platform's PCK and one state of the collateral vouch for them.
/// [`VerifiedQe::endorse`] is the only constructor.
///
/// All quotes that a platform makes between two updates carry the same QE part. It may be kept under
/// [`VerifiedQe::digest`]: such a quote is then judged with one signature. It counts for the very bytes and the very
/// collateral it was made from, at times when both hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedQe {
    digest: Sha256Digest,
    tee: Tee,
    pck: VerifiedPck,
    report: EnclaveReport,
    auth_data_bytes: u16,
    key: PreparedKey,
    valid_until: UnixMillis,
}

impl VerifiedQe {
    /// Checks the QE of `quote` under its PCK, and that Intel's collateral knows it.
    ///
    /// # Errors
    /// The first reason why its key is not believed.
    pub fn endorse(
        quote: &Quote<'_>,
        pck: &VerifiedPck,
        collateral: &VerifiedCollateral,
        now: UnixMillis,
    ) -> Result<Self, Rejection> {
        check_pck(quote, pck, collateral, now)?;
        let qe = Qe::check(quote, pck)?;
        let key = PublicKey::new(Scheme::EcdsaP256Sha256, qe.point.to_vec()).prepare();
        let key = key.map_err(|_| TdxReason::Signature.because("an attestation key on P-256", "another point"))?;
        Ok(Self {
            digest: quote.qe_digest(),
            tee: quote.unverified().tee,
            pck: pck.clone(),
            report: qe.report,
            auth_data_bytes: qe.auth_data_bytes,
            key,
            valid_until: pck.valid_until().min(collateral.valid_until()),
        })
    }

    /// SHA-256 of the part of a quote that this was made from: see [`Quote::qe_digest`].
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// The PCK that vouches for the QE.
    #[must_use]
    pub const fn pck(&self) -> &VerifiedPck {
        &self.pck
    }

    /// The earliest end of what this rests on.
    #[must_use]
    pub const fn valid_until(&self) -> UnixMillis {
        self.valid_until
    }

    /// What the QE's report said.
    pub(super) const fn qe(&self) -> (EnclaveReport, u16) {
        (self.report, self.auth_data_bytes)
    }

    /// Checks that this is the QE of `quote`, under this collateral, at a time when both hold.
    pub(super) fn check_is_of(
        &self,
        quote: &Quote<'_>,
        collateral: &VerifiedCollateral,
        now: UnixMillis,
    ) -> Result<(), Rejection> {
        let digest = quote.qe_digest();
        if (digest, quote.unverified().tee) != (self.digest, self.tee) {
            return Err(TdxReason::QeOther.because(self.digest, digest));
        }
        self.check_current(collateral, now)
    }

    /// Checks that this was endorsed by `collateral`, and that both hold.
    ///
    /// # Errors
    /// [`TdxReason::QeOther`], or what is out of date.
    pub fn check_current(&self, collateral: &VerifiedCollateral, now: UnixMillis) -> Result<(), Rejection> {
        if collateral.digest() != self.pck.collateral() {
            return Err(TdxReason::QeOther.because(
                format_args!("collateral {}", self.pck.collateral()),
                format_args!("collateral {}", collateral.digest()),
            ));
        }
        collateral.check_current(now)?;
        self.pck.check_current(now)
    }

    /// Checks the quote's signature by the attestation key.
    pub(super) fn verify<'a>(&self, quote: &Quote<'a>) -> Result<crate::signature::SignedBytes<'a>, Rejection> {
        self.key.verify(quote.signed_bytes, quote.signature).map_err(|_| other_key())
    }
}

/// Checks that `pck` was made from the chain in `quote`, under this collateral, at a time when both hold.
pub(super) fn check_pck(
    quote: &Quote<'_>,
    pck: &VerifiedPck,
    collateral: &VerifiedCollateral,
    now: UnixMillis,
) -> Result<(), Rejection> {
    let digest = Sha256Digest::of(&[quote.pck_chain()?]);
    if digest != pck.digest() {
        return Err(TdxReason::PckOther.because(pck.digest(), digest));
    }
    if collateral.digest() != pck.collateral() {
        return Err(TdxReason::PckOther.because(
            format_args!("collateral {}", pck.collateral()),
            format_args!("collateral {}", collateral.digest()),
        ));
    }
    collateral.check_current(now)?;
    pck.check_current(now)
}
