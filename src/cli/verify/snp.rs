//! SEV-SNP cases: a report with its chain (`snp-report`), a report without (`snp-report-unendorsed`), and an
//! intermediate alone (`snp-chain`).

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::{AmdAnchor, AmdProduct, Assurance};
use countersign_attestation::claims::{HexBytes, Presented, SnpClaims, SnpCpuid, SnpSigningKey, SnpTcb};
use countersign_attestation::endorsement::amd::{self, VerifiedVek};
use countersign_attestation::evidence::bundle::{BundleReason, SNP_REPORT, SNP_VEK};
use countersign_attestation::evidence::snp::{self, ReportDataExpectation};
use serde_json::{Value, json};

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
    let judged = amd::endorse(&vek, &anchors, &crls, now).and_then(|vek| {
        let claims = snp::verify_report(&report, &vek, ReportDataExpectation::Recorded, now)?;
        Ok((vek, claims))
    });
    match judged {
        Ok((vek, claims)) => {
            let details = details(&report, &claims, &vek);
            Ok(Judgement::Accepted(with(serde_json::to_value(&claims)?, "details", details)))
        }
        Err(rejection) => Ok(Judgement::Rejected(rejection)),
    }
}

/// What manifests call the fields of an accepted report and of the certificate of its key.
pub(super) fn details(report: &[u8], claims: &SnpClaims, vek: &VerifiedVek) -> Value {
    let issuer = match claims.signing_key {
        SnpSigningKey::Vcek => format!("SEV-{}", claims.product),
        SnpSigningKey::Vlek => format!("SEV-VLEK-{}", claims.product),
    };
    let (signing_key, key_number) = match claims.signing_key {
        SnpSigningKey::Vcek => ("VCEK", 0),
        SnpSigningKey::Vlek => ("VLEK", 1 << 2),
    };
    let csp_id = match vek.csp_id() {
        Presented::Verified(csp_id) => Some(csp_id.as_str()),
        Presented::NotPresented => None,
    };
    let hwid_len = match vek.hwid() {
        Presented::Verified(hwid) => hwid.0.len(),
        Presented::NotPresented => 0,
    };
    // CHIP_ID, under a VLEK too, where it is no claim. Every byte of the report was verified.
    let chip_id = report.get(0x1a0..0x1e0).unwrap_or_default();
    let mut details = json!({
        "report_version": claims.version,
        "policy": word(&claims.policy),
        "policy_bits": policy_bits(claims),
        "vmpl": claims.vmpl,
        "guest_svn": claims.guest_svn,
        "platform_info": word(&claims.platform_info_raw),
        "key_info": format!("{:#x}", key_number | u8::from(claims.author_key_en)),
        "signing_key": signing_key,
        // Set, it would have been rejected.
        "mask_chip_key": false,
        "author_key_en": claims.author_key_en,
        "measurement": claims.measurement,
        "report_data": claims.report_data,
        "host_data": claims.host_data,
        "id_key_digest": claims.id_key_digest,
        "author_key_digest": claims.author_key_digest,
        "report_id": claims.report_id,
        "family_id": claims.family_id,
        "image_id": claims.image_id,
        "chip_id_prefix": hex::encode(chip_id.get(..8).unwrap_or_default()),
        "chip_id_masked": chip_id.iter().all(|byte| *byte == 0),
        "reported_tcb": tcb(claims.reported_tcb),
        "current_tcb": tcb(claims.current_tcb),
        "committed_tcb": tcb(claims.committed_tcb),
        "launch_tcb": tcb(claims.launch_tcb),
        "current_version": claims.current_version.to_string(),
        "committed_version": claims.committed_version.to_string(),
        "vek": {
            "subject": format!("SEV-{signing_key}"),
            "issuer": issuer,
            "product_name": vek.product_name(),
            "csp_id": csp_id,
            "hwid_len": hwid_len,
            "tcb": tcb(vek.tcb()),
        },
    });
    if let Presented::Verified(cpuid) = claims.cpuid {
        let SnpCpuid { family, model, stepping } = cpuid;
        let hex = |number: u8| format!("{number:#x}");
        let cpuid = json!({ "family": hex(family), "model": hex(model), "stepping": hex(stepping) });
        details = with(details, "cpuid", cpuid);
    }
    for (name, vector) in &claims.mitigation_vectors {
        details = with(details, &format!("{name}_mit_vector"), json!(hex::encode(vector.to_le_bytes())));
    }
    details
}

/// The object with one member more.
fn with(mut object: Value, name: &str, member: Value) -> Value {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), member);
    }
    object
}

/// A big-endian word, as the specification writes it.
fn word(bytes: &HexBytes) -> String {
    format!("{:#x}", bytes.0.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte)))
}

fn policy_bits(claims: &SnpClaims) -> Value {
    let bit = |name| claims.policy_bits.get(name);
    json!({
        "abi": claims.policy_abi,
        "smt": bit("smt"),
        // Set, each of these would have been rejected.
        "migrate_ma": false,
        "debug": false,
        "single_socket": bit("single_socket"),
        "cxl": bit("cxl_allow"),
        "mem_aes_256_xts": bit("mem_aes_256_xts"),
        "rapl_dis": bit("rapl_dis"),
        "ciphertext_hiding": bit("ciphertext_hiding"),
        "page_swap_disable": bit("page_swap_disable"),
    })
}

fn tcb(tcb: SnpTcb) -> Value {
    let SnpTcb { fmc, bootloader, tee, snp, microcode } = tcb;
    let components = json!({ "bl": bootloader, "tee": tee, "snp": snp, "ucode": microcode });
    fmc.map_or(components.clone(), |fmc| with(components, "fmc", json!(fmc)))
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
    let mut details = serde_json::Map::new();
    for role in ["ask", "asvk"] {
        let Some(intermediate) = files.read(role)? else { continue };
        match amd::endorse_intermediate(&intermediate, &anchors, &crls, now) {
            Ok(verified) => {
                let claim = serde_json::json!({
                    "product": verified.product(),
                    "issues": verified.issues(),
                    "assurance": verified.assurance(),
                    "revocation": verified.revocation(now),
                    "valid_until": verified.valid_until(),
                });
                claims.insert(role.to_owned(), claim);
                let serial = verified.serial().trim_start_matches('0');
                details.insert(format!("{role}_serial"), json!(format!("0x{serial}")));
            }
            Err(rejection) => return Ok(Judgement::Rejected(rejection)),
        }
    }
    if claims.is_empty() {
        return Ok(Judgement::Rejected(BundleReason::Missing.because("ask or asvk", "neither")));
    }
    claims.insert("details".to_owned(), Value::Object(details));
    Ok(Judgement::Accepted(Value::Object(claims)))
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
