//! `countersign what-if`: what a change would do to the fleet, before anybody makes it.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use countersign_attestation::UnixMillis;
use countersign_attestation::protocol::Problem;
use countersign_policies::signed::SIGNED_BYTES_MAX;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cli::Output;
use crate::cli::client::{Client, Connection, Refused};
use crate::cli::collateral::opened;
use crate::cli::explain::Finding;
use crate::collateral::document::Document;
use crate::config::read_bounded;
use crate::keys::operator::unsigned;
use crate::references::policy_texts;

/// Preview a change: how many hosts would lose or gain trust, and why. Nothing is changed.
#[derive(Debug, clap::Args)]
pub struct WhatIfArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    change: Change,
    /// Verifier key of the operator who exported the collateral, or the file that holds it (signing.vkey).
    #[arg(long, requires = "collateral")]
    signed_by: Option<String>,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// One change.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Change {
    /// These policies in place of all that are in force: a folder of .cedar files.
    #[arg(long, value_name = "DIR")]
    policy: Option<PathBuf>,
    /// This manifest registered.
    #[arg(long, value_name = "FILE")]
    refs: Option<PathBuf>,
    /// This manifest retired.
    #[arg(long, value_name = "ID")]
    retire: Option<String>,
    /// This export of collateral imported.
    #[arg(long, value_name = "FILE", requires = "signed_by")]
    collateral: Option<PathBuf>,
}

/// A change, as the broker is asked about it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Proposal {
    RegisterReference(Box<RawValue>),
    WithdrawReference(String),
    ActivatePolicies(Vec<(String, String)>),
    ImportCollateral(Vec<Document>),
}

/// A line of the broker's answer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Progress { judged: u64, of: u64 },
    Preview(Box<RawValue>),
    Problem(Box<Problem>),
}

/// What this command line reads of a preview; the broker may say more.
#[derive(Debug, Deserialize)]
pub(super) struct Preview {
    change: String,
    at: UnixMillis,
    losses: Vec<Group>,
    gains: Vec<Group>,
    failing: u64,
    unaffected: u64,
}

#[derive(Debug, Deserialize)]
struct Group {
    finding: Finding,
    count: u64,
    hosts: Vec<String>,
}

/// Runs `countersign what-if`.
///
/// # Errors
/// What the broker refuses, and failures on the way to it.
pub async fn run(args: &WhatIfArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.connection)?;
    let Change { policy, refs, retire, collateral } = &args.change;
    let proposal = match (policy, refs, retire, collateral, &args.signed_by) {
        (Some(dir), ..) => Proposal::ActivatePolicies(policy_texts(dir)?),
        (_, Some(file), ..) => Proposal::RegisterReference(manifest(file)?),
        (_, _, Some(id), ..) => Proposal::WithdrawReference(id.clone()),
        (_, _, _, Some(file), Some(signed_by)) => Proposal::ImportCollateral(opened(file, signed_by)?),
        _ => bail!("name one change: --policy, --refs, --retire, or --collateral with --signed-by"),
    };
    let preview = ask(&client, &proposal).await?;
    match args.output {
        Output::Json => println!("{preview}"),
        Output::Table => print!("{}", serde_json::from_str::<Preview>(preview.get())?),
    }
    Ok(())
}

/// Commits a change where its preview's digest is given; otherwise previews it and says how to go on.
///
/// # Errors
/// As [`run`]; and without a digest always, since nothing was changed.
pub(super) async fn must_preview(client: &Client, proposal: &Proposal) -> anyhow::Error {
    match ask(client, proposal).await.and_then(|preview| Ok(serde_json::from_str::<Preview>(preview.get())?)) {
        Err(error) => error,
        Ok(preview) => {
            print!("{preview}");
            anyhow::anyhow!("nothing is changed yet: commit this change with --preview {}", preview.change)
        }
    }
}

/// What is in a file of a manifest, signed or not.
pub(super) fn text(file: &Path) -> anyhow::Result<String> {
    String::from_utf8(read_bounded(file, SIGNED_BYTES_MAX as u64)?).context("a manifest is UTF-8")
}

/// A file's manifest, as it is and without signatures.
pub(super) fn manifest(file: &Path) -> anyhow::Result<Box<RawValue>> {
    let text = text(file)?;
    let text = unsigned(&text).unwrap_or(&text).trim().to_owned();
    RawValue::from_string(text).with_context(|| format!("{} is no JSON", file.display()))
}

async fn ask(client: &Client, proposal: &Proposal) -> anyhow::Result<Box<RawValue>> {
    let mut answer = client.post_lines("/v1/what-if", proposal).await?;
    let watched = std::io::stderr().is_terminal();
    let mut read = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        read.extend_from_slice(&chunk);
        while let Some(end) = read.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = read.drain(..=end).collect();
            match serde_json::from_slice(&line).context("the broker's answer")? {
                Line::Progress { judged, of } if watched => {
                    let mut to = std::io::stderr().lock();
                    write!(to, "\r{judged} of {of} hosts judged")?;
                    to.flush()?;
                }
                Line::Progress { .. } => {}
                Line::Problem(problem) => return Err(Refused(*problem).into()),
                Line::Preview(preview) => {
                    if watched {
                        eprintln!();
                    }
                    return Ok(preview);
                }
            }
        }
    }
    bail!("the broker went away before every host was judged")
}

impl std::fmt::Display for Preview {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { change, at, losses, gains, failing, unaffected } = self;
        let count = |groups: &[Group]| groups.iter().map(|group| group.count).sum::<u64>();
        writeln!(f, "as of {at}: {} hosts would lose trust, {} would pass", count(losses), count(gains))?;
        writeln!(f, "{unaffected} stay as they are; {failing} fail with the change or without")?;
        for (what, groups) in [("lost", losses), ("passing, which now fail on", gains)] {
            for Group { finding, count, hosts } in groups {
                let more = if hosts.len() as u64 == *count { "" } else { ", …" };
                writeln!(f, "{count} {what}: {}{more}\n{finding}", hosts.join(", "))?;
            }
        }
        writeln!(f, "change {change}")
    }
}
