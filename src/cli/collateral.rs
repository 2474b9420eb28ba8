//! `countersign collateral`: what vendors publish about hardware, what becomes of it, and how it gets to sites without
//! a way out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::checkpoint::NoteKey;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::api::collateral::IMPORT_BYTES_MAX;
use crate::cli::Output;
use crate::cli::client::{Client, Connection};
use crate::collateral::document::Document;
use crate::config::{read_bounded, write_new};
use crate::keys::operator::OperatorKey;

/// First line of an export's signed note.
const EXPORT: &str = "countersign/collateral/v1";

/// See, fetch and carry what vendors publish about hardware: revocation lists, TCB info, identities.
#[derive(Debug, clap::Args)]
pub struct CollateralArgs {
    #[command(flatten)]
    connection: Connection,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t, global = true)]
    output: Output,
    #[command(subcommand)]
    command: CollateralCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CollateralCommand {
    /// Lists what is in force, until when, and what became of asking each source.
    List,
    /// Reads the broker's files again and asks every source now.
    Refresh,
    /// Writes everything in force into a file for another site, signed by this operator.
    Export {
        /// New file.
        file: PathBuf,
    },
    /// Brings another site's export in. The vendors' signatures are checked again; older issues are refused.
    Import {
        /// The export.
        file: PathBuf,
        /// Verifier key of the operator who exported it, or the file that holds it (signing.vkey).
        #[arg(long)]
        signed_by: String,
    },
    /// Says what ends when if nothing newer comes, and which hosts it would take down.
    Forecast {
        /// How far to look.
        #[arg(long, default_value_t = 30)]
        days: u32,
    },
}

/// An export: documents, and a note with the digest of each, signed by the operator who made it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Export {
    note: String,
    documents: Vec<Document>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Documents {
    documents: Vec<Document>,
}

#[derive(Debug, Serialize)]
struct Nothing {}

// What this command line reads of the broker's answers; the broker may say more.

#[derive(Debug, Deserialize)]
struct Listed {
    items: Vec<ItemRow>,
    sources: Vec<SourceRow>,
    warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct ItemRow {
    subject: String,
    number: String,
    issued: UnixMillis,
    next_update: UnixMillis,
    ends: UnixMillis,
    state: String,
    source: String,
}

#[derive(Debug, Deserialize)]
struct SourceRow {
    wanted: String,
    next: UnixMillis,
    succeeded_at: Option<UnixMillis>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Change {
    documents: Vec<ReportRow>,
    revoked_hosts: u64,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum ReportRow {
    Accepted { source: String, issue: IssueRow },
    Known { source: String },
    Refused { source: String, finding: FindingRow },
    Failed { source: String, error: String },
}

#[derive(Debug, Deserialize)]
struct IssueRow {
    subject: String,
    next_update: UnixMillis,
}

#[derive(Debug, Deserialize)]
struct FindingRow {
    code: String,
    expected: String,
    found: String,
}

#[derive(Debug, Deserialize)]
struct Forecast {
    items: Vec<ItemRow>,
    losses: Vec<LossRow>,
    lasting_hosts: u64,
}

#[derive(Debug, Deserialize)]
struct LossRow {
    at: UnixMillis,
    finding: FindingRow,
    count: u64,
    hosts: Vec<String>,
}

/// How an answer is shown to people.
type Shown = fn(&str) -> anyhow::Result<String>;

/// Runs `countersign collateral`.
///
/// # Errors
/// What the broker refuses, an export that is not what its operator signed, and failures on the way to the broker.
pub async fn run(args: &CollateralArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.connection)?;
    let (answer, table): (Box<RawValue>, Shown) = match &args.command {
        CollateralCommand::List => (client.get("/v1/collateral").await?, listed),
        CollateralCommand::Refresh => (client.post("/v1/collateral/refresh", &Nothing {}).await?, changed),
        CollateralCommand::Import { file, signed_by } => {
            let documents = opened(file, signed_by)?;
            (client.post("/v1/collateral", &Documents { documents }).await?, changed)
        }
        CollateralCommand::Forecast { days } => {
            (client.get(&format!("/v1/collateral/forecast?days={days}")).await?, forecast)
        }
        CollateralCommand::Export { file } => {
            let Documents { documents } = client.get("/v1/collateral/documents").await?;
            let count = documents.len();
            let note = OperatorKey::load(&args.connection.operator)?.sign(&text(&documents))?;
            write_new(file, &serde_json::to_vec_pretty(&Export { note, documents })?)?;
            println!("{}", serde_json::json!({ "exported": count, "file": file }));
            return Ok(());
        }
    };
    match args.output {
        Output::Json => println!("{answer}"),
        Output::Table => print!("{}", table(answer.get())?),
    }
    Ok(())
}

/// What the operator signs of an export: the digest of each document.
fn text(documents: &[Document]) -> String {
    let digests = documents.iter().map(|document| document.digest().to_hex());
    std::iter::once(EXPORT.to_owned()).chain(digests).collect::<Vec<_>>().join("\n")
}

/// The documents of an export, if `signed_by` signed these and no others.
pub(super) fn opened(file: &Path, signed_by: &str) -> anyhow::Result<Vec<Document>> {
    let vkey = match NoteKey::parse(signed_by) {
        Ok(_) => signed_by.to_owned(),
        Err(_) => std::fs::read_to_string(signed_by)
            .with_context(|| format!("--signed-by {signed_by} is neither a verifier key nor a file"))?,
    };
    let key = NoteKey::parse(vkey.trim()).map_err(|rejection| anyhow::anyhow!("--signed-by: {rejection}"))?;
    let bytes = read_bounded(file, IMPORT_BYTES_MAX as u64)?;
    let Export { note, documents } = serde_json::from_slice(&bytes).context("not an export of collateral")?;
    let signed = key.open(&note).map_err(|rejection| anyhow::anyhow!("{}: {rejection}", file.display()))?;
    let signed = std::str::from_utf8(signed.bytes())?;
    let Some((EXPORT, digests)) = signed.split_once('\n') else { bail!("{} is another document", file.display()) };
    let digests: BTreeSet<&str> = digests.lines().collect();
    let there: BTreeSet<String> = documents.iter().map(Document::digest).map(Sha256Digest::to_hex).collect();
    ensure!(
        digests.len() == documents.len() && there.iter().map(String::as_str).eq(digests.iter().copied()),
        "{} holds other documents than its operator signed",
        file.display()
    );
    Ok(documents)
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(header);
    table
}

/// To the second: nobody reads milliseconds of a month.
fn shown(at: UnixMillis) -> String {
    at.to_string().replace(".000Z", "Z")
}

fn items(items: Vec<ItemRow>) -> Table {
    let mut table = table(&["what", "number", "issued", "nextUpdate", "ends", "state", "from"]);
    for ItemRow { subject, number, issued, next_update, ends, state, source } in items {
        let number = u64::from_str_radix(&number, 16).map_or(number, |number| number.to_string());
        table.add_row([subject, number, shown(issued), shown(next_update), shown(ends), state, source]);
    }
    table
}

fn listed(answer: &str) -> anyhow::Result<String> {
    let Listed { items: rows, sources, warnings } = serde_json::from_str(answer)?;
    let mut said = format!("{}\n", items(rows));
    if !sources.is_empty() {
        let mut asked = table(&["asked for", "last came", "next", "what is wrong"]);
        for SourceRow { wanted, next, succeeded_at, error } in sources {
            let last = succeeded_at.map_or_else(|| "never".to_owned(), shown);
            asked.add_row([wanted, last, shown(next), error.unwrap_or_default()]);
        }
        said.push_str(&format!("{asked}\n"));
    }
    for warning in warnings {
        said.push_str(&format!("warning: {warning}\n"));
    }
    Ok(said)
}

fn changed(answer: &str) -> anyhow::Result<String> {
    let Change { documents, revoked_hosts } = serde_json::from_str(answer)?;
    let mut rows = table(&["from", "outcome", ""]);
    for document in documents {
        rows.add_row(match document {
            ReportRow::Accepted { source, issue: IssueRow { subject, next_update } } => {
                [source, "accepted".to_owned(), format!("{subject}, nextUpdate {}", shown(next_update))]
            }
            ReportRow::Known { source } => [source, "known".to_owned(), String::new()],
            ReportRow::Refused { source, finding: FindingRow { code, expected, found } } => {
                [source, code, format!("expected {expected}, found {found}")]
            }
            ReportRow::Failed { source, error } => [source, "failed".to_owned(), error],
        });
    }
    Ok(format!("{rows}\n{revoked_hosts} hosts revoked\n"))
}

fn forecast(answer: &str) -> anyhow::Result<String> {
    let Forecast { items: rows, losses, lasting_hosts } = serde_json::from_str(answer)?;
    let mut falls = table(&["when", "hosts", "why", "which"]);
    for LossRow { at, finding: FindingRow { code, expected, .. }, count, hosts } in losses {
        let more = if hosts.len() as u64 == count { "" } else { ", …" };
        falls.add_row([
            shown(at),
            count.to_string(),
            format!("{code}: needs {expected}"),
            format!("{}{more}", hosts.join(", ")),
        ]);
    }
    Ok(format!("{}\n{falls}\n{lasting_hosts} hosts rest on nothing that ends\n", items(rows)))
}
