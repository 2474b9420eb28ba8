//! `countersign verify`: judges recorded evidence offline, case by case, as a manifest lists it.
//!
//! A manifest is a JSON array of cases: `id`, `kind`, `files` (role to path, relative to the manifest),
//! `evaluation_time` (RFC 3339), `expect` (`accept` or `reject`) and `policy_dependent`. Each case is judged with its
//! own files, at its own time, by the verifier the broker uses. A kind this version does not know is reported as
//! unsupported, never as passed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write};
use std::path::{Component, Path, PathBuf};

use clap::{Args, ValueEnum};
use countersign_attestation::evidence::bundle::BundleReason;
use countersign_attestation::{Rejection, UnixMillis};
use countersign_policies::Finding;
use serde::{Deserialize, Serialize};

pub mod azure;
pub mod ccel;
pub mod certify;
pub mod cmw;
pub mod ear;
pub mod ek;
pub mod eventlog;
pub mod ima;
pub mod intel;
pub mod kat;
pub mod snp;
pub mod spiffe;
pub mod tdx;
pub mod tlog;
pub mod tpm;
pub mod witnessed;

/// Bytes of a manifest. The largest one known is about a megabyte.
const MANIFEST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Bytes of one file of a case: reports, certificates and quotes are far smaller, event logs can be this large.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Judge recorded evidence offline, as a manifest lists it.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// The manifest: a JSON array of cases whose paths are relative to it.
    #[arg(long, value_name = "FILE")]
    pub manifest: PathBuf,
    /// Judge cases of this kind only; may be given more than once.
    #[arg(long = "kind", value_name = "KIND")]
    pub kinds: Vec<String>,
    /// Judge the case with this id only; may be given more than once.
    #[arg(long = "id", value_name = "ID")]
    pub ids: Vec<String>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = VerifyOutput::Table)]
    pub output: VerifyOutput,
}

/// How verdicts are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VerifyOutput {
    /// One row per case, for people.
    Table,
    /// One JSON object per line and case.
    Json,
}

/// What the whole run means for the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitOutcome {
    /// Every judged case met its expectation, and at least one was judged.
    AsExpected,
    /// A case did not, or could not be judged for lack of its files, or there was nothing to judge.
    Unexpected,
}

/// Why a manifest cannot be worked through.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The manifest cannot be read.
    #[error("cannot read {}: {source}; name a readable manifest of at most 16 MiB", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The manifest is not a list of cases.
    #[error("{} is not a manifest: {source}; expected a JSON array of cases", path.display())]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The result cannot be printed.
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
    /// A verdict cannot be written as JSON.
    #[error("cannot write a verdict as JSON: {0}")]
    Encode(#[from] serde_json::Error),
}

/// One case of a manifest; what it says beyond this is for people.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// Name of the case.
    pub id: String,
    /// What kind of evidence it holds.
    pub kind: String,
    /// Files by role.
    pub files: BTreeMap<String, String>,
    /// The time to judge at, RFC 3339.
    pub evaluation_time: String,
    /// The verdict of a fail-closed verifier.
    pub expect: Expectation,
    /// Whether a stricter verifier may refuse what is expected to be accepted.
    #[serde(default)]
    pub policy_dependent: bool,
    /// What the case says beside its verdict. `nonce` is what the verifier sent (hex; absent: none was sent). A member
    /// that `details` of an accepted case's claims has too must be equal there; the rest is for people.
    #[serde(default)]
    pub expect_detail: serde_json::Map<String, serde_json::Value>,
}

impl Case {
    /// The nonce the verifier sent, hex.
    fn nonce(&self) -> Option<&str> {
        self.expect_detail.get("nonce").and_then(serde_json::Value::as_str)
    }
}

/// The verdict a manifest expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expectation {
    /// Valid and current.
    Accept,
    /// Anything else.
    Reject,
}

/// The verdict on one case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every check passed.
    Accept,
    /// One did not; the reasons say which.
    Reject,
    /// This version judges no cases of this kind.
    Unsupported,
    /// The case itself is broken: a file or its time cannot be read. It meets no expectation.
    Error,
}

/// One case, judged.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// Name of the case.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Codes of the reasons, most important first; what is broken where the verdict is an error.
    pub reasons: Vec<String>,
    /// Whether the verdict is the expected one, or stricter where that is the policy's to decide, and every expected
    /// detail that the claims name is equal there.
    pub matches_expectation: bool,
    /// Expected details that the claims say otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differing: Vec<String>,
    /// The rejection in words, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<String>,
    /// What the evidence says, where it was accepted.
    pub claims: serde_json::Value,
}

/// What a judge of one kind says.
#[derive(Debug)]
pub enum Judgement {
    /// Accepted, with its claims.
    Accepted(serde_json::Value),
    /// Rejected.
    Rejected(Rejection),
    /// Verified, and denied by the policy of the case.
    Denied(Vec<Finding>),
    /// No judge for this kind.
    Unsupported,
}

/// A case whose files or time cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// A path that leads out of the manifest's folder.
    #[error("{role}: {path} leads out of the manifest's folder")]
    Outside {
        /// The file's role.
        role: String,
        /// Its path in the manifest.
        path: String,
    },
    /// A file that cannot be read.
    #[error("{role}: {path}: {source}")]
    Read {
        /// The file's role.
        role: String,
        /// Its path in the manifest.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file beyond the limit.
    #[error("{role}: {path} is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// The file's role.
        role: String,
        /// Its path in the manifest.
        path: String,
    },
    /// A time that is not RFC 3339, or before 1970.
    #[error("evaluation_time {0} is not a time of RFC 3339 since 1970")]
    Time(String),
    /// A nonce that is not hex.
    #[error("expect_detail.nonce is not hex")]
    Nonce,
    /// Claims that cannot be written as JSON.
    #[error("claims cannot be written as JSON: {0}")]
    Claims(#[from] serde_json::Error),
}

/// The files of one case, under the manifest's folder and nowhere else.
#[derive(Clone, Copy, Debug)]
pub struct CaseFiles<'a> {
    folder: &'a Path,
    files: &'a BTreeMap<String, String>,
}

impl<'a> CaseFiles<'a> {
    /// The files of `case` in the manifest's `folder`, which is canonical.
    #[must_use]
    pub const fn new(folder: &'a Path, case: &'a Case) -> Self {
        Self { folder, files: &case.files }
    }

    /// The file with this role, `None` when the case has none.
    ///
    /// # Errors
    /// [`CaseError`] when the file cannot be read or is not in the folder.
    pub fn read(&self, role: &str) -> Result<Option<Vec<u8>>, CaseError> {
        let Some(path) = self.files.get(role) else { return Ok(None) };
        let outside = || CaseError::Outside { role: role.to_owned(), path: path.clone() };
        let failed = |source| CaseError::Read { role: role.to_owned(), path: path.clone(), source };
        if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(outside());
        }
        // Links are followed first: one that leads out is outside too.
        let full = self.folder.join(path).canonicalize().map_err(failed)?;
        if !full.starts_with(self.folder) {
            return Err(outside());
        }
        let mut bytes = Vec::new();
        let limit = FILE_BYTES_MAX.saturating_add(1);
        File::open(&full).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(failed)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length <= FILE_BYTES_MAX) {
            Ok(Some(bytes))
        } else {
            Err(CaseError::TooLarge { role: role.to_owned(), path: path.clone() })
        }
    }
}

/// Judges the cases of a manifest and prints each verdict.
///
/// # Errors
/// [`VerifyError`] when the manifest cannot be read or the verdicts not printed.
pub fn run(args: &VerifyArgs, out: &mut dyn Write) -> Result<ExitOutcome, VerifyError> {
    let judged = judge_manifest(args)?;
    match args.output {
        VerifyOutput::Json => {
            for case in &judged {
                writeln!(out, "{}", serde_json::to_string(case)?)?;
            }
        }
        VerifyOutput::Table => print_table(&judged, out)?,
    }
    let counted = || judged.iter().filter(|case| case.verdict != Verdict::Unsupported);
    if counted().next().is_some() && counted().all(|case| case.matches_expectation) {
        Ok(ExitOutcome::AsExpected)
    } else {
        Ok(ExitOutcome::Unexpected)
    }
}

/// Judges the cases of a manifest.
///
/// # Errors
/// [`VerifyError`] when the manifest cannot be read.
pub fn judge_manifest(args: &VerifyArgs) -> Result<Vec<Judged>, VerifyError> {
    let path = &args.manifest;
    let failed = |source| VerifyError::Read { path: path.clone(), source };
    let canonical = path.canonicalize().map_err(failed)?;
    let mut text = Vec::new();
    let file = File::open(&canonical).map_err(failed)?;
    file.take(MANIFEST_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
    let cases: Vec<Case> =
        serde_json::from_slice(&text).map_err(|source| VerifyError::Manifest { path: path.clone(), source })?;
    let folder = canonical.parent().unwrap_or(Path::new("/"));
    let wanted = |case: &&Case| {
        (args.kinds.is_empty() || args.kinds.contains(&case.kind))
            && (args.ids.is_empty() || args.ids.contains(&case.id))
    };
    Ok(cases.iter().filter(wanted).map(|case| judge(case, folder)).collect())
}

/// Judges one case whose files are in `folder`, which is canonical.
#[must_use]
pub fn judge(case: &Case, folder: &Path) -> Judged {
    let (verdict, reasons, explanation, claims) = match judge_kind(case, CaseFiles::new(folder, case)) {
        Ok(Judgement::Accepted(claims)) => (Verdict::Accept, Vec::new(), None, claims),
        Ok(Judgement::Rejected(rejection)) => {
            let reasons = vec![rejection.code().to_owned()];
            (Verdict::Reject, reasons, Some(rejection.to_string()), serde_json::Value::Null)
        }
        Ok(Judgement::Denied(findings)) => {
            let reasons = findings.iter().map(|finding| finding.code.to_owned()).collect();
            let explanation = findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            (Verdict::Reject, reasons, Some(explanation), serde_json::Value::Null)
        }
        Ok(Judgement::Unsupported) => (Verdict::Unsupported, Vec::new(), None, serde_json::Value::Null),
        Err(error) => {
            (Verdict::Error, vec!["manifest.case".to_owned()], Some(error.to_string()), serde_json::Value::Null)
        }
    };
    let differing = differing(&case.expect_detail, &claims);
    let matches_expectation = match (verdict, case.expect) {
        (Verdict::Accept, Expectation::Accept) => differing.is_empty(),
        (Verdict::Reject, Expectation::Reject) => true,
        // Stricter than a configurable verifier may be; never laxer.
        (Verdict::Reject, Expectation::Accept) => case.policy_dependent,
        (Verdict::Accept, Expectation::Reject)
        | (Verdict::Unsupported | Verdict::Error, Expectation::Accept | Expectation::Reject) => false,
    };
    let (id, kind) = (case.id.clone(), case.kind.clone());
    Judged { id, kind, verdict, reasons, matches_expectation, differing, explanation, claims }
}

/// Names of the expected details that `details` of the claims has too, with another value. Where both are objects the
/// claims may say more than was expected, not less.
fn differing(expected: &serde_json::Map<String, serde_json::Value>, claims: &serde_json::Value) -> Vec<String> {
    let Some(details) = claims.get("details") else { return Vec::new() };
    let differs = |name: &str, value: &serde_json::Value| details.get(name).is_some_and(|said| !says(said, value));
    expected.iter().filter(|(name, value)| differs(name, value)).map(|(name, _)| name.clone()).collect()
}

/// Whether `claimed` says all that `expected` does.
fn says(claimed: &serde_json::Value, expected: &serde_json::Value) -> bool {
    match (claimed, expected) {
        (serde_json::Value::Object(claimed), serde_json::Value::Object(expected)) => {
            expected.iter().all(|(name, value)| claimed.get(name).is_some_and(|claimed| says(claimed, value)))
        }
        _ => claimed == expected,
    }
}

/// The judge of each kind.
fn judge_kind(case: &Case, files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let now = evaluation_time(&case.evaluation_time)?;
    match case.kind.as_str() {
        "snp-report" | "snp-report-unendorsed" => snp::judge_report(files, now),
        "snp-chain" => snp::judge_chain(files, now),
        "azure-hcl" | "azure-snp" | "azure-tdx" => azure::judge_report(case, files, now),
        "azure-vtpm" => azure::judge_vtpm(case, files),
        "ccel" => ccel::judge_log(files, now),
        "tdx-quote" | "tdx-quote-unendorsed" => tdx::judge_tdx(files, now),
        "collateral-tcbinfo" => intel::judge_tcb_info(files, now),
        "collateral-qeidentity" => intel::judge_qe_identity(files, now),
        "collateral-parse" => intel::judge_parse(files),
        "sgx-quote" | "sgx-quote-unendorsed" => tdx::judge_sgx(files, now),
        "tpm-ek-cert" => ek::judge_certificate(files, now),
        "tpm-ek-cert-nv-raw" => ek::judge_nv(files),
        "vtpm-ak-chain" => ek::judge_ak_certificate(files, now),
        "tpm-vendor-roots" => ek::judge_roots(files),
        "tpm-vendor-ca-collection" => ek::judge_collection(files),
        "tpm-attest-parse" => certify::judge_parse(files),
        "tpm-certify" => certify::judge_certify(files, now),
        "tpm-certify-and-quote" => certify::judge_certify_and_quote(files),
        "tpm-make-credential" => kat::judge_make_credential(files),
        "tpm-kat" => kat::judge(files),
        "eventlog-parse" => eventlog::judge_parse(files),
        "eventlog-replay" => eventlog::judge_replay(files),
        "ima-ascii" => ima::judge_ascii(files),
        "ima-binary" => ima::judge_binary(files),
        "ima-ascii-binary" => ima::judge_both(files),
        "ima-policy" => ima::judge_policy(files),
        "tpm-quote" => tpm::judge_quote(files, case.nonce()),
        "cmw" => cmw::judge(files),
        "cmw-signed" => cmw::judge_signed(files),
        "cmw-x509" => cmw::judge_certificate(files, now),
        "ear-jwt" => ear::judge_jwt(case, files, now),
        "ear-claims" => ear::judge_claims(files, now),
        "ear-submods" => ear::judge_submods(files),
        "ear-cbor" => ear::judge_cbor(files, now),
        "x509-svid" => spiffe::judge_svid(files, now),
        "x509-svid-chain" => spiffe::judge_chain(case, files, now),
        "rfc6962-inclusion" => tlog::judge_inclusion(files),
        "rfc6962-consistency" => tlog::judge_consistency(files),
        "rfc6962-subtreeinclusion" => witnessed::judge_subtree_inclusion(files),
        "rfc6962-subtreeconsistency" => witnessed::judge_subtree_consistency(files),
        "signed-note" => tlog::judge_note(files),
        "tlog-checkpoint" => witnessed::judge_checkpoint(files),
        "tlog-checkpoint-parse" => witnessed::judge_parse(files),
        "tlog-consistency" => witnessed::judge_continuation(files),
        "tlog-proof" => witnessed::judge_proof(files),
        "tlog-tiles" => witnessed::judge_tiles(files),
        "tlog-witness-protocol" => witnessed::judge_witness(files),
        "spiffe-bundle" => spiffe::judge_bundle(files),
        "x509-bundle" => spiffe::judge_x509_bundle(files),
        _ => Ok(Judgement::Unsupported),
    }
}

/// The verdict on a case that lacks a file its kind cannot do without.
fn missing_file(role: &str) -> Judgement {
    Judgement::Rejected(BundleReason::Missing.because(role, "none"))
}

fn evaluation_time(text: &str) -> Result<UnixMillis, CaseError> {
    let wrong = || CaseError::Time(text.to_owned());
    let time: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    u64::try_from(time.as_millisecond()).map(UnixMillis).map_err(|_| wrong())
}

fn print_table(judged: &[Judged], out: &mut dyn Write) -> std::io::Result<()> {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["CASE", "KIND", "VERDICT", "EXPECTED", "REASON"]);
    for case in judged {
        let verdict = match case.verdict {
            Verdict::Accept => "accept",
            Verdict::Reject => "reject",
            Verdict::Unsupported => "unsupported",
            Verdict::Error => "error",
        };
        let expected = match (case.verdict, case.matches_expectation) {
            (Verdict::Unsupported, _) => "-",
            (_, true) => "yes",
            (_, false) => "NO",
        };
        let other = || format!("other than expected: {}", case.differing.join(", "));
        let differs = || if case.differing.is_empty() { String::new() } else { other() };
        let reason = case.explanation.clone().unwrap_or_else(differs);
        table.add_row([case.id.as_str(), case.kind.as_str(), verdict, expected, &reason]);
    }
    writeln!(out, "{table}")?;
    let count = |verdict: Verdict| judged.iter().filter(|case| case.verdict == verdict).count();
    let unexpected = judged.iter().filter(|case| case.verdict != Verdict::Unsupported && !case.matches_expectation);
    writeln!(
        out,
        "{} accepted, {} rejected, {} unsupported, {} broken; {} not as expected",
        count(Verdict::Accept),
        count(Verdict::Reject),
        count(Verdict::Unsupported),
        count(Verdict::Error),
        unexpected.count()
    )
}
