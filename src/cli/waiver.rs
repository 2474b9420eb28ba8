//! `countersign waiver`: what an operator accepts for a while, signed on the operator's machine.

use std::path::PathBuf;

use anyhow::Context as _;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use countersign_attestation::UnixMillis;
use countersign_policies::waiver::WAIVER_BYTES_MAX;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cli::Output;
use crate::cli::client::{Client, Connection};
use crate::config::read_bounded;
use crate::keys::operator::OperatorKey;

/// Accept for a while what a policy or manifest refuses: signed, scoped, ending, and shown in every credential under
/// it.
#[derive(Debug, clap::Args)]
pub struct WaiverArgs {
    #[command(flatten)]
    connection: Connection,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t, global = true)]
    output: Output,
    #[command(subcommand)]
    command: WaiverCommand,
}

#[derive(Debug, clap::Subcommand)]
enum WaiverCommand {
    /// Signs a waiver with the operator's signing key and registers it.
    Add {
        /// JSON: id, trust_domain, scope, accepts, until, reason.
        file: PathBuf,
    },
    /// Lists the waivers in force.
    List,
    /// Prints a waiver as it was signed.
    Show {
        /// The waiver's id.
        id: String,
    },
    /// Ends a waiver for good; hosts that do not pass without it are revoked.
    End {
        /// The waiver's id.
        id: String,
    },
}

#[derive(Debug, Serialize)]
struct Submission {
    note: String,
}

/// What this command line reads of a waiver; the broker may say more.
#[derive(Debug, Deserialize)]
struct WaiverRow {
    id: String,
    signer: String,
    accepts: Vec<String>,
    until: UnixMillis,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct SignedRow {
    note: String,
}

/// Runs `countersign waiver`.
///
/// # Errors
/// What the broker refuses, an unusable signing key, and failures on the way to the broker.
pub async fn run(args: &WaiverArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.connection)?;
    match &args.command {
        WaiverCommand::Add { file } => {
            let text = String::from_utf8(read_bounded(file, WAIVER_BYTES_MAX as u64)?).context("a waiver is UTF-8")?;
            let note = OperatorKey::load(&args.connection.operator)?.sign(&text)?;
            let answer: Box<RawValue> = client.post("/v1/waivers", &Submission { note }).await?;
            println!("{answer}");
        }
        WaiverCommand::List => {
            let answer: Box<RawValue> = client.get("/v1/waivers").await?;
            match args.output {
                Output::Json => println!("{answer}"),
                Output::Table => println!("{}", table(serde_json::from_str(answer.get())?)),
            }
        }
        WaiverCommand::Show { id } => {
            let answer: Box<RawValue> = client.get(&format!("/v1/waivers/{id}")).await?;
            match args.output {
                Output::Json => println!("{answer}"),
                Output::Table => print!("{}", serde_json::from_str::<SignedRow>(answer.get())?.note),
            }
        }
        WaiverCommand::End { id } => {
            let answer: Box<RawValue> = client.delete(&format!("/v1/waivers/{id}")).await?;
            println!("{answer}");
        }
    }
    Ok(())
}

fn table(waivers: Vec<WaiverRow>) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["waiver", "accepts", "until", "signed by", "reason"]);
    for WaiverRow { id, signer, accepts, until, reason } in waivers {
        let operator = signer.rsplit('/').next().unwrap_or_default().to_owned();
        table.add_row([id, accepts.join("\n"), until.to_string(), operator, reason]);
    }
    table
}
