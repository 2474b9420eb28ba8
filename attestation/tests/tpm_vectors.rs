//! Recorded TPM evidence against its expected verdicts. Skips when the vectors are not there.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that cannot go on fails"
)]

use std::path::{Path, PathBuf};

use base64::Engine as _;
use countersign_attestation::Rejection;
use countersign_attestation::anchor::{Assurance, TpmAnchor};
use countersign_attestation::endorsement;
use countersign_attestation::time::UnixMillis;
use countersign_attestation::x509::{Certificate, SubjectKey};
use serde_json::Value;

#[expect(clippy::disallowed_methods, reason = "a test reads its environment")]
fn vectors() -> Option<PathBuf> {
    let folder = std::env::var("COUNTERSIGN_VECTORS")
        .map_or_else(|_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors")), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no vectors at {}", folder.display());
    None
}

fn cases(folder: &Path, kind: &str) -> Vec<Value> {
    let text = std::fs::read(folder.join("MANIFEST-tpm-nv.json")).unwrap();
    let all: Vec<Value> = serde_json::from_slice(&text).unwrap();
    all.into_iter().filter(|case| case["kind"] == kind).collect()
}

fn pem(text: &[u8]) -> Vec<Vec<u8>> {
    let text = core::str::from_utf8(text).unwrap();
    let blocks = text.split("-----BEGIN").skip(1).map(|block| {
        let body = block.split("-----").nth(1).unwrap();
        let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
        base64::engine::general_purpose::STANDARD.decode(body).unwrap()
    });
    blocks.collect()
}

fn evaluation_time(case: &Value) -> UnixMillis {
    let text = case["evaluation_time"].as_str().unwrap();
    let number = |range: core::ops::Range<usize>| text[range].parse::<i64>().unwrap();
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, yoe) = (y / 400, y % 400);
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + (153 * m + 2) / 5 + day - 1 - 719_468;
    UnixMillis::from_seconds(days * 86_400 + number(11..13) * 3600 + number(14..16) * 60 + number(17..19)).unwrap()
}

fn judge_ek(folder: &Path, case: &Value) -> Result<(), Rejection> {
    let file = |role: &str| case["files"][role].as_str().map(|path| std::fs::read(folder.join(path)).unwrap());
    let anchors: Vec<_> = file("root")
        .map(|root| pem(&root))
        .into_iter()
        .flatten()
        .map(|root| TpmAnchor { name: "root".into(), assurance: Assurance::Hardware, root, intermediates: Vec::new() })
        .collect();
    let intermediates = file("intermediates").map(|text| pem(&text)).unwrap_or_default();
    let intermediates: Vec<_> = intermediates.iter().map(Vec::as_slice).collect();
    let certificate = file("ek_cert").unwrap();
    endorsement::tpm::verify_certificate(&certificate, &intermediates, &anchors, evaluation_time(case)).map(drop)
}

#[test]
fn ek_certificates_get_their_verdict() {
    let Some(folder) = vectors() else { return };
    let mut wrong = Vec::new();
    for case in cases(&folder, "tpm-ek-cert") {
        let verdict = judge_ek(&folder, &case);
        if verdict.is_ok() != (case["expect"] == "accept") {
            wrong.push(format!("{}: expected {}, {verdict:?}", case["id"], case["expect"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Manufacturers' own authorities: whoever is among them and says that another of them issued it, was issued by it.
#[test]
fn manufacturers_authorities_issue_one_another() {
    let Some(folder) = vectors() else { return };
    let text = std::fs::read(folder.join("tpm/vendor-ca-collection/vendor-ca-all.pem")).unwrap();
    let all = pem(&text);
    let all: Vec<_> = all.iter().filter_map(|der| Certificate::parse(der).ok()).collect();
    let (mut issued, mut by_p521, mut refused) = (0, 0, Vec::new());
    for certificate in &all {
        let verdicts: Vec<_> = all
            .iter()
            .map(|issuer| (issuer, certificate.check_issued_by(issuer)))
            .filter(|(_, verdict)| verdict.as_ref().err().map(Rejection::code) != Some("x509.issuer.name"))
            .collect();
        if let Some((issuer, _)) = verdicts.iter().find(|(_, verdict)| verdict.is_ok()) {
            issued += 1;
            by_p521 += u32::from(matches!(issuer.subject_key(), Ok(SubjectKey::P521(_))));
        } else if let Some((_, Err(rejection))) = verdicts.first() {
            refused.push(rejection.code());
        }
    }
    println!("{issued} issued, {by_p521} of them by P-521 keys; refused: {refused:?}");
    assert!(350 <= issued && 40 <= by_p521, "{issued}, {by_p521}");
    // What is left is SHA-1 and authorities whose issuer of that name is another key of it.
    let known = ["x509.algorithm.unsupported", "x509.signature"];
    assert!(refused.iter().all(|code| known.contains(code)), "{refused:?}");
}
