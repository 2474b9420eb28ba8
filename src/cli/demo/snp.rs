//! The demo's last scene: genuine SEV-SNP evidence, recorded on a Milan machine, judged by the code that judges live
//! evidence; then the same report with one bit changed.

use anyhow::{Context as _, bail};
use countersign_attestation::anchor::{AmdAnchor, AmdProduct, Assurance};
use countersign_attestation::evidence::bundle::SnpEvidence;
use countersign_attestation::evidence::snp::{self, ReportDataExpectation};

use crate::cli::demo::Narrator;
use crate::clock::{Clock, monotonic};

const REPORT: &[u8] = include_bytes!("../../../firmware-refs/evidence/amd/milan/report.bin");
const VCEK: &[u8] = include_bytes!("../../../firmware-refs/evidence/amd/milan/vcek.der");
const ARK: &[u8] = include_bytes!("../../../firmware-refs/anchors/amd/milan/ark.der");
const ASK: &[u8] = include_bytes!("../../../firmware-refs/anchors/amd/milan/ask.der");

/// First byte of MEASUREMENT (SNP ABI, ATTESTATION_REPORT).
const MEASUREMENT: usize = 0x90;

pub(super) fn tell(narrator: &mut Narrator) -> anyhow::Result<()> {
    let ark = AmdAnchor {
        product: AmdProduct::Milan,
        assurance: Assurance::Hardware,
        ark: ARK.to_vec(),
        intermediates: vec![ASK.to_vec()],
    };
    let now = Clock::dating().now();
    let judge = |report: Vec<u8>| {
        let evidence = SnpEvidence { report, vek: VCEK.to_vec() };
        snp::verify(&evidence, std::slice::from_ref(&ark), &[], ReportDataExpectation::Recorded, now)
    };

    narrator.step("A confidential VM: genuine AMD SEV-SNP evidence, recorded on a Milan machine");
    let started = monotonic();
    let claims = judge(REPORT.to_vec()).context("genuine evidence was refused")?;
    narrator.measured("verified to AMD's root: VCEK, ASK, ARK, TCB, chip", started.elapsed());
    narrator.show(&format!(
        "accepted: {} report v{}, {:?}, measurement {}…",
        claims.product,
        claims.version,
        claims.signing_key,
        claims.measurement.to_string().get(..24).unwrap_or_default(),
    ));

    narrator.step("The same report with one bit of its measurement changed");
    let mut changed = REPORT.to_vec();
    let byte = changed.get_mut(MEASUREMENT).context("a report holds a measurement")?;
    *byte ^= 1;
    match judge(changed) {
        Ok(_) => bail!("a changed report was accepted"),
        Err(rejection) => {
            narrator.show(&format!("refused: {rejection}"));
            narrator.show(&format!("remedy:  {}", rejection.reason().remedy()));
        }
    }
    Ok(())
}
