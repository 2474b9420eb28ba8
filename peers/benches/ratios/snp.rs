//! A genuine SNP report, beside bare P-384 and beside sev with OpenSSL and its chain.

use anyhow::{Context as _, anyhow};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, ParsedPublicKey};
use countersign_attestation::anchor::{AmdAnchor, AmdProduct, Assurance};
use countersign_attestation::endorsement::amd;
use countersign_attestation::evidence::bundle::SnpEvidence;
use countersign_attestation::evidence::snp::{ReportDataExpectation::Recorded, verify, verify_report};
use countersign_attestation::{Rejection, UnixMillis};
use countersign_peers::ratio::compare;
use sev::certs::snp::{Certificate, Chain, Verifiable as _, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser as _;

use crate::{faster, row};

/// 2026-06-01T00:00:00Z.
const NOW: UnixMillis = UnixMillis(1_780_272_000_000);

macro_rules! shipped {
    ($path:literal) => {
        include_bytes!(concat!("../../../firmware-refs/", $path))
    };
}

const ARK: &[u8] = shipped!("anchors/amd/milan/ark.der");
const ASK: &[u8] = shipped!("anchors/amd/milan/ask.der");
const REPORT: &[u8] = shipped!("evidence/amd/milan/report.bin");
const VCEK: &[u8] = shipped!("evidence/amd/milan/vcek.der");

pub(crate) fn measure() -> anyhow::Result<()> {
    let anchors = [AmdAnchor {
        product: AmdProduct::Milan,
        assurance: Assurance::Hardware,
        ark: ARK.to_vec(),
        intermediates: vec![ASK.to_vec()],
    }];
    let ask = amd::endorse_intermediate(ASK, &anchors, &[], NOW).map_err(rejected)?;
    let vek = amd::endorse_issued(VCEK, &ask, NOW).map_err(rejected)?;
    let evidence = SnpEvidence { report: REPORT.to_vec(), vek: VCEK.to_vec() };
    let cold = || verify(&evidence, &anchors, &[], Recorded, NOW).map(drop).map_err(rejected);
    let new_vek = || {
        let vek = amd::endorse_issued(VCEK, &ask, NOW).map_err(rejected)?;
        verify_report(REPORT, &vek, Recorded, NOW).map(drop).map_err(rejected)
    };
    let warm = || verify_report(REPORT, &vek, Recorded, NOW).map(drop).map_err(rejected);

    let (signed, rest) = REPORT.split_at_checked(0x2a0).context("a report")?;
    let scalar = |at: usize| rest.get(at..at + 48).context("a scalar").map(|field| field.iter().rev().copied());
    let signature: Vec<u8> = scalar(0)?.chain(scalar(72)?).collect();
    let key = ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point()?).map_err(|error| anyhow!("{error}"))?;
    let one = || key.verify_sig(signed, &signature).map_err(|error| anyhow!("{error}"));
    row("SNP report warm / one P-384", compare(300, 8, &warm, &one)?, "<= 1.05");

    let chain = Chain {
        ca: ca::Chain { ark: Certificate::from_der(ARK)?, ask: Certificate::from_der(ASK)? },
        vek: Certificate::from_der(VCEK)?,
    };
    let sev = || {
        let report = AttestationReport::from_bytes(REPORT)?;
        Ok((&chain, &report).verify()?)
    };
    sev()?;
    faster("SNP report cold / sev, OpenSSL", compare(60, 2, &cold, &sev)?, "");
    faster("SNP report, new VCEK / sev, OpenSSL", compare(60, 2, &new_vek, &sev)?, "");
    faster("SNP report warm / sev, OpenSSL", compare(60, 2, &warm, &sev)?, ">= 4");
    Ok(())
}

/// The VCEK's public key: what follows the curve's identifier and the BIT STRING's head.
fn point() -> anyhow::Result<&'static [u8]> {
    let head = [0x2b, 0x81, 4, 0, 0x22, 3, 0x62, 0];
    let start = VCEK.windows(head.len()).position(|window| window == head).context("a key on P-384")?;
    VCEK.get(start + head.len()..).and_then(|rest| rest.get(..97)).context("a point")
}

fn rejected(rejection: Rejection) -> anyhow::Error {
    anyhow!("{rejection}")
}
