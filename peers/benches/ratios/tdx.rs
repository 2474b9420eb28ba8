//! TDX quotes of version 4 with their PCK chain, beside bare P-256 and beside dcap-qvl with ring on the same quote.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_attestation::anchor::{Assurance, IntelAnchor};
use countersign_attestation::endorsement::intel::VerifiedCollateral;
use countersign_attestation::evidence::snp::ReportDataExpectation::Recorded;
use countersign_attestation::evidence::tdx::{self, Quote, VerifiedQe};
use countersign_attestation::{Rejection, UnixMillis};
use countersign_peers::cases;
use countersign_peers::ratio::compare;
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::configs::RingConfig;
use dcap_qvl::verify::QuoteVerifier;

use crate::sim_intel::{Collateral, IntelSimulator, QuoteKind};
use crate::{faster, row};

const INTEL_ROOT: &[u8] = include_bytes!("../../../firmware-refs/anchors/intel/root.der");

/// Bytes of header and body under the signature of a quote of version 4.
const SIGNED: usize = 48 + 584;

/// A quote with all that verifying it takes.
struct Sample {
    name: &'static str,
    quote: Vec<u8>,
    collateral: Collateral,
    root: Vec<u8>,
    now: UnixMillis,
}

pub(crate) fn measure() -> anyhow::Result<()> {
    let intel = IntelSimulator::new();
    let simulated = Sample {
        name: "simulated",
        quote: intel.quote(QuoteKind::Td4, &[0x42; 64]),
        collateral: intel.collateral(),
        root: intel.root_der.clone(),
        now: UnixMillis(1_795_392_000_000),
    };
    for sample in [Some(simulated), genuine()].into_iter().flatten() {
        measure_one(&sample)?;
    }
    Ok(())
}

/// A recorded quote of genuine hardware, where there is one.
fn genuine() -> Option<Sample> {
    let mut cases = cases::of_kinds(&["tdx-quote"]).into_iter();
    let case = cases.find(|case| case.id == "tdx-v4-dcapqvl-f1c850-at-20250704")?;
    Some(Sample {
        name: "genuine",
        quote: case.read("quote")?,
        collateral: recorded(&case.read("collateral")?)?,
        root: INTEL_ROOT.to_vec(),
        now: case.now(),
    })
}

fn measure_one(sample: &Sample) -> anyhow::Result<()> {
    let Sample { name, quote, collateral, root, now } = sample;
    let anchor = IntelAnchor { name: (*name).to_owned(), assurance: Assurance::Simulated, root: root.clone() };
    let verified = VerifiedCollateral::endorse(&collateral.parts(), &[anchor], *now).map_err(rejected)?;
    let parsed = Quote::parse(quote).map_err(rejected)?;
    let chain = parsed.pck_chain().map_err(rejected)?;
    let pck = verified.endorse_pck(chain, *now).map_err(rejected)?;
    let qe = VerifiedQe::endorse(&parsed, &pck, &verified, *now).map_err(rejected)?;

    let cold = || tdx::verify(quote, &verified, Recorded, *now).map(drop).map_err(rejected);
    let warm = || tdx::verify_warm(quote, &pck, &verified, Recorded, *now).map(drop).map_err(rejected);
    let hot = || tdx::verify_hot(quote, &qe, &verified, Recorded, *now).map(drop).map_err(rejected);

    // Size, signature, attestation key; outer certification data; the QE's report and its signature.
    let at = |from: usize, length: usize| quote.get(from..from + length).context("a quote of version 4");
    let signature = at(SIGNED + 4, 64)?;
    let key = parsed_key(&[&[4], at(SIGNED + 4 + 64, 64)?].concat())?;
    let report = SIGNED + 4 + 128 + 6;
    let (qe_report, qe_signature) = (at(report, 384)?, at(report + 384, 64)?);
    let pck_key = parsed_key(&point_of(chain)?)?;
    let signed = at(0, SIGNED)?;
    let one = || key.verify_sig(signed, signature).map_err(|error| anyhow!("{error}"));
    let two = || {
        pck_key.verify_sig(qe_report, qe_signature).map_err(|error| anyhow!("{error}"))?;
        one()
    };
    let named = |what: &str| format!("{name} TDX quote {what}");
    row(&named("warm / two P-256"), compare(300, 4, &warm, &two)?, "<= 1.05");
    row(&named("hot / one P-256"), compare(300, 8, &hot, &one)?, "<= 1.10");

    let peer = QuoteVerifier::new(root.clone()).with_config::<RingConfig>();
    let theirs = peers_form(collateral);
    let dcap = || peer.verify(quote, &theirs, now.seconds()).map(drop);
    dcap()?;
    faster(&named("cold / dcap-qvl"), compare(100, 4, &cold, &dcap)?, "");
    faster(&named("warm / dcap-qvl"), compare(100, 4, &warm, &dcap)?, ">= 5");
    faster(&named("hot / dcap-qvl"), compare(100, 4, &hot, &dcap)?, ">= 10");
    Ok(())
}

/// Collateral as the cases keep it: what is bytes is in hex.
fn recorded(text: &[u8]) -> Option<Collateral> {
    let parts: BTreeMap<String, String> = serde_json::from_slice(text).ok()?;
    let text = |name: &str| parts.get(name).cloned();
    let bytes = |name: &str| hex::decode(parts.get(name)?).ok();
    Some(Collateral {
        pck_crl_issuer_chain: text("pck_crl_issuer_chain")?,
        root_ca_crl: bytes("root_ca_crl")?,
        pck_crl: bytes("pck_crl")?,
        tcb_info_issuer_chain: text("tcb_info_issuer_chain")?,
        tcb_info: text("tcb_info")?,
        tcb_info_signature: bytes("tcb_info_signature")?,
        qe_identity_issuer_chain: text("qe_identity_issuer_chain")?,
        qe_identity: text("qe_identity")?,
        qe_identity_signature: bytes("qe_identity_signature")?,
    })
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

/// The point in the first certificate of a chain, a key on P-256: what follows the curve's identifier and the BIT
/// STRING's head.
fn point_of(chain: &[u8]) -> anyhow::Result<Vec<u8>> {
    let text = core::str::from_utf8(chain)?;
    let body = text.split("-----").nth(2).context("a certificate")?;
    let digits: Vec<u8> = body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let certificate = STANDARD.decode(digits).map_err(|error| anyhow!("{error}"))?;
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
