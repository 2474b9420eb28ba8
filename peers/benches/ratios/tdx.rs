//! A TDX quote of version 4 with its PCK chain, beside bare P-256 and beside dcap-qvl with ring.

use anyhow::{Context as _, anyhow};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use countersign_attestation::endorsement::intel::VerifiedCollateral;
use countersign_attestation::evidence::snp::ReportDataExpectation::Binder;
use countersign_attestation::evidence::tdx::{self, Quote, VerifiedQe};
use countersign_attestation::{Rejection, UnixMillis};
use countersign_peers::ratio::compare;
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::configs::RingConfig;
use dcap_qvl::verify::QuoteVerifier;

use crate::sim_intel::{Collateral, IntelSimulator, QuoteKind};
use crate::{faster, row};

/// 2026-11-23.
const NOW: UnixMillis = UnixMillis(1_795_392_000_000);

/// Bytes of header and body under the signature of a quote of version 4.
const SIGNED: usize = 48 + 584;

pub(crate) fn measure() -> anyhow::Result<()> {
    let intel = IntelSimulator::new();
    let binder = [0x42; 64];
    let quote = intel.quote(QuoteKind::Td4, &binder);
    let collateral = intel.collateral();
    let verified = VerifiedCollateral::endorse(&collateral.parts(), &[intel.anchor()], NOW).map_err(rejected)?;
    let parsed = Quote::parse(&quote).map_err(rejected)?;
    let pck = verified.endorse_pck(parsed.pck_chain().map_err(rejected)?, NOW).map_err(rejected)?;
    let qe = VerifiedQe::endorse(&parsed, &pck, &verified, NOW).map_err(rejected)?;

    let cold = || tdx::verify(&quote, &verified, Binder(&binder), NOW).map(drop).map_err(rejected);
    let warm = || tdx::verify_warm(&quote, &pck, &verified, Binder(&binder), NOW).map(drop).map_err(rejected);
    let hot = || tdx::verify_hot(&quote, &qe, &verified, Binder(&binder), NOW).map(drop).map_err(rejected);

    // Size, signature, attestation key; outer certification data; the QE's report and its signature.
    let at = |from: usize, length: usize| quote.get(from..from + length).context("a quote of version 4");
    let signature = at(SIGNED + 4, 64)?;
    let key = parsed_key(&[&[4], at(SIGNED + 4 + 64, 64)?].concat())?;
    let report = SIGNED + 4 + 128 + 6;
    let (qe_report, qe_signature) = (at(report, 384)?, at(report + 384, 64)?);
    let spki = &intel.pck.der;
    let pck_key = parsed_key(&point_of(spki)?)?;
    let signed = at(0, SIGNED)?;
    let one = || key.verify_sig(signed, signature).map_err(|error| anyhow!("{error}"));
    let two = || {
        pck_key.verify_sig(qe_report, qe_signature).map_err(|error| anyhow!("{error}"))?;
        one()
    };
    row("TDX quote warm / two P-256", compare(300, 4, &warm, &two)?, "<= 1.05");
    row("TDX quote hot / one P-256", compare(300, 8, &hot, &one)?, "<= 1.10");

    let peer = QuoteVerifier::new(intel.root_der.clone()).with_config::<RingConfig>();
    let theirs = peers_form(&collateral);
    let dcap = || peer.verify(&quote, &theirs, NOW.seconds()).map(drop);
    dcap()?;
    faster("TDX quote cold / dcap-qvl, ring", compare(60, 1, &cold, &dcap)?, "");
    faster("TDX quote warm / dcap-qvl, ring", compare(60, 1, &warm, &dcap)?, ">= 5");
    faster("TDX quote hot / dcap-qvl, ring", compare(60, 1, &hot, &dcap)?, ">= 10");
    Ok(())
}

fn peers_form(collateral: &Collateral) -> QuoteCollateralV3 {
    let collateral = collateral.clone();
    QuoteCollateralV3 {
        pck_crl_issuer_chain: collateral.pck_crl_issuer_chain,
        root_ca_crl: collateral.root_ca_crl,
        pck_crl: collateral.pck_crl,
        tcb_info_issuer_chain: collateral.tcb_info_issuer_chain,
        tcb_info: collateral.tcb_info,
        tcb_info_signature: collateral.tcb_info_signature,
        qe_identity_issuer_chain: collateral.qe_identity_issuer_chain,
        qe_identity: collateral.qe_identity,
        qe_identity_signature: collateral.qe_identity_signature,
        pck_certificate_chain: None,
    }
}

/// The point in a certificate with a key on P-256: what follows the curve's identifier and the BIT STRING's head.
fn point_of(certificate: &[u8]) -> anyhow::Result<Vec<u8>> {
    let head = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7, 3, 0x42, 0];
    let start = certificate.windows(head.len()).position(|window| window == head).context("a key on P-256")?;
    Ok(certificate.get(start + head.len()..).and_then(|rest| rest.get(..65)).context("a point")?.to_vec())
}

fn parsed_key(point: &[u8]) -> anyhow::Result<ParsedPublicKey> {
    ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map_err(|error| anyhow!("{error}"))
}

fn rejected(rejection: Rejection) -> anyhow::Error {
    anyhow!("{rejection}")
}
