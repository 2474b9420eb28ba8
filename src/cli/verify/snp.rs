//! SEV-SNP cases: a report with its chain (`snp-report`), a report without (`snp-report-unendorsed`), and an
//! intermediate alone (`snp-chain`).

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::{AmdAnchor, AmdProduct, Assurance};
use countersign_attestation::endorsement::amd;
use countersign_attestation::evidence::bundle::{BundleReason, SNP_REPORT, SNP_VEK, SnpEvidence};
use countersign_attestation::evidence::snp::{self, ReportDataExpectation};

use super::{CaseError, CaseFiles, Judgement};

/// A product line's ARK and ASK.
type Shipped = (AmdProduct, &'static [u8], &'static [u8]);

macro_rules! shipped {
    ($product:expr, $folder:literal) => {
        (
            $product,
            include_bytes!(concat!("../../../firmware-refs/anchors/amd/", $folder, "/ark.der")),
            include_bytes!(concat!("../../../firmware-refs/anchors/amd/", $folder, "/ask.der")),
        )
    };
}

const PINNED: [Shipped; 3] =
    [shipped!(AmdProduct::Milan, "milan"), shipped!(AmdProduct::Genoa, "genoa"), shipped!(AmdProduct::Turin, "turin")];

/// The AMD roots this release pins, with their intermediates.
#[must_use]
pub fn pinned_anchors() -> Vec<AmdAnchor> {
    let anchor = |(product, ark, ask): Shipped| AmdAnchor {
        product,
        assurance: Assurance::Hardware,
        ark: ark.to_vec(),
        intermediates: vec![ask.to_vec()],
    };
    PINNED.into_iter().map(anchor).collect()
}

/// Judges a report with the certificates and the revocation list of its case.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_report(files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    let Some(report) = files.read("report")? else {
        return Ok(Judgement::Rejected(BundleReason::Missing.because(SNP_REPORT, "no report")));
    };
    let Some(vek) = files.read("vek")? else {
        return Ok(Judgement::Rejected(BundleReason::Missing.because(SNP_VEK, "snp.report alone")));
    };
    let anchors = case_anchors(files)?;
    let crl = files.read("crl")?;
    let crls: Vec<_> = crl.iter().map(Vec::as_slice).collect();
    let evidence = SnpEvidence { report, vek };
    Ok(match snp::verify(&evidence, &anchors, &crls, ReportDataExpectation::Recorded, now) {
        Ok(claims) => Judgement::Accepted(serde_json::to_value(&claims)?),
        Err(rejection) => Judgement::Rejected(rejection),
    })
}

/// Judges an ASK or ASVK, or both, under the root of its case.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read.
pub fn judge_chain(files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    let anchors = case_anchors(files)?;
    let crl = files.read("crl")?;
    let crls: Vec<_> = crl.iter().map(Vec::as_slice).collect();
    let mut claims = serde_json::Map::new();
    for role in ["ask", "asvk"] {
        let Some(intermediate) = files.read(role)? else { continue };
        match amd::endorse_intermediate(&intermediate, &anchors, &crls, now) {
            Ok(verified) => {
                let claim = serde_json::json!({
                    "product": verified.product(),
                    "issues": verified.issues(),
                    "assurance": verified.assurance(),
                    "revocation": verified.revocation(),
                    "valid_until": verified.valid_until(),
                });
                claims.insert(role.to_owned(), claim);
            }
            Err(rejection) => return Ok(Judgement::Rejected(rejection)),
        }
    }
    if claims.is_empty() {
        return Ok(Judgement::Rejected(BundleReason::Missing.because("ask or asvk", "neither")));
    }
    Ok(Judgement::Accepted(serde_json::Value::Object(claims)))
}

/// The roots a case is judged under, with the case's own ASK and ASVK below them.
///
/// The pinned roots; or, where the case says which root to trust, that one alone, as simulated hardware. A case's `ark`
/// is what its host sent along: it must be the root that is trusted, and is never trusted for being there.
pub(super) fn case_anchors(files: CaseFiles<'_>) -> Result<Vec<AmdAnchor>, CaseError> {
    let intermediates: Vec<_> = [files.read("ask")?, files.read("asvk")?].into_iter().flatten().collect();
    let trusted: Vec<AmdAnchor> = match files.read("trust_root")? {
        // Its name says for which product: endorsing checks that name.
        Some(root) => [AmdProduct::Milan, AmdProduct::Genoa, AmdProduct::Turin]
            .map(|product| AmdAnchor {
                product,
                assurance: Assurance::Simulated,
                ark: root.clone(),
                intermediates: Vec::new(),
            })
            .to_vec(),
        None => pinned_anchors(),
    };
    let sent = files.read("ark")?;
    let agrees = |anchor: &AmdAnchor| sent.as_ref().is_none_or(|ark| *ark == anchor.ark);
    let with_case = |anchor: AmdAnchor| AmdAnchor { intermediates: intermediates.clone(), ..anchor };
    Ok(trusted.into_iter().filter(agrees).map(with_case).collect())
}
