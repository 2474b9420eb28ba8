//! `countersign policy`: the Cedar policies that hosts are judged by.

use std::path::PathBuf;

use countersign_attestation::digest::Sha256Digest;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::cli::client::{Client, Connection};
use crate::cli::digest;
use crate::cli::what_if::{Proposal, must_preview};
use crate::references::policy_texts;

/// Show the policies in force, or put others in their place.
#[derive(Debug, clap::Args)]
pub struct PolicyArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PolicyCommand {
    /// Prints the policies in force.
    List,
    /// Puts a folder's policies in place of all that are; hosts that do not pass them are revoked.
    Activate {
        /// Folder of .cedar files.
        dir: PathBuf,
        /// Digest of the previewed change; without it, the change is previewed and not made.
        #[arg(long, value_parser = digest)]
        preview: Option<Sha256Digest>,
    },
}

#[derive(Debug, Serialize)]
struct Activation {
    policies: Vec<(String, String)>,
    preview: Sha256Digest,
}

/// Runs `countersign policy`.
///
/// # Errors
/// What the broker refuses, and failures on the way to it.
pub async fn run(args: &PolicyArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.connection)?;
    match &args.command {
        PolicyCommand::List => println!("{}", client.get_text("/v1/policies").await?),
        PolicyCommand::Activate { dir, preview } => {
            let policies = policy_texts(dir)?;
            let Some(preview) = *preview else {
                return Err(must_preview(&client, &Proposal::ActivatePolicies(policies)).await);
            };
            let answer: Box<RawValue> = client.post("/v1/policies", &Activation { policies, preview }).await?;
            println!("{answer}");
        }
    }
    Ok(())
}
