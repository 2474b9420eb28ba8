//! `countersign hosts`: the fleet as an operator sees it.

use std::collections::BTreeMap;

use anyhow::Context as _;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use countersign_attestation::UnixMillis;
use countersign_attestation::claims::TpmIdentity;
use countersign_attestation::digest::Sha256Digest;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cli::Output;
use crate::cli::client::{Client, Connection};

/// Register, inspect, revoke, re-admit and remove hosts.
#[derive(Debug, clap::Args)]
pub struct HostsArgs {
    #[command(flatten)]
    connection: Connection,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t, global = true)]
    output: Output,
    #[command(subcommand)]
    command: HostsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum HostsCommand {
    /// Lists the registered hosts and where they stand.
    List,
    /// Shows one host: its identity, its trust, and what its newest appraisal saw.
    Show {
        /// The host.
        id: String,
    },
    /// Registers a host with the EK that must be found in it.
    Add {
        /// The host's id.
        id: String,
        /// SHA-256 of the EK's public key, as `countersign-agent identity` prints it on the host.
        #[arg(long)]
        ek_sha256: String,
        /// A fact for policies, KEY=VALUE; may be given more than once.
        #[arg(long = "label", value_parser = label)]
        labels: Vec<(String, String)>,
    },
    /// Takes a host's trust away, now.
    Revoke {
        /// The host.
        id: String,
    },
    /// Lets a revoked host prove itself again.
    Readmit {
        /// The host.
        id: String,
    },
    /// Revokes a host and forgets its identity.
    Remove {
        /// The host.
        id: String,
    },
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// What this command line reads of a host; the broker may say more.
#[derive(Debug, Deserialize)]
struct HostRow {
    id: String,
    enrolled: Option<EnrolledRow>,
    trust: TrustRow,
    latest: Option<LatestRow>,
}

#[derive(Debug, Deserialize)]
struct EnrolledRow {
    identity: TpmIdentity,
}

#[derive(Debug, Deserialize)]
struct LatestRow {
    claims: Option<ClaimsRow>,
    findings: Vec<FindingRow>,
    waivers: Vec<WaiverRow>,
}

#[derive(Debug, Deserialize)]
struct WaiverRow {
    id: String,
    until: UnixMillis,
}

#[derive(Debug, Deserialize)]
struct ClaimsRow {
    boot: Presented<BootRow>,
    ima: Presented<ImaRow>,
}

/// Evidence that is there or not, as the broker writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", tag = "evidence", content = "claims")]
enum Presented<T> {
    NotPresented,
    Verified(T),
}

impl<T> Presented<T> {
    fn said(&self, say: impl Fn(&T) -> String) -> String {
        match self {
            Self::NotPresented => "not presented".to_owned(),
            Self::Verified(claims) => say(claims),
        }
    }
}

#[derive(Debug, Deserialize)]
struct BootRow {
    secure_boot: String,
}

#[derive(Debug, Deserialize)]
struct ImaRow {
    entries: u64,
}

#[derive(Debug, Deserialize)]
struct FindingRow {
    code: String,
    sentence: String,
    expected: String,
    found: String,
    remedy: String,
}

#[derive(Debug, Deserialize)]
struct TrustRow {
    standing: String,
    generation: u64,
    lease_until: UnixMillis,
    reasons: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Registration<'a> {
    id: &'a str,
    ek_sha256: Sha256Digest,
    labels: BTreeMap<&'a str, &'a str>,
}

#[derive(Debug, Serialize)]
struct Nothing {}

/// Runs `countersign hosts`.
///
/// # Errors
/// What the broker refuses, and failures on the way to it.
pub async fn run(args: &HostsArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.connection)?;
    let answer: Box<RawValue> = match &args.command {
        HostsCommand::List => client.get("/v1/hosts").await?,
        HostsCommand::Show { id } => client.get(&format!("/v1/hosts/{id}")).await?,
        HostsCommand::Add { id, ek_sha256, labels } => {
            let ek_sha256 = Sha256Digest::from_hex(ek_sha256).context("--ek-sha256: 64 hex digits")?;
            let labels = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            client.post("/v1/hosts", &Registration { id, ek_sha256, labels }).await?
        }
        HostsCommand::Revoke { id } => client.post(&format!("/v1/hosts/{id}/revocation"), &Nothing {}).await?,
        HostsCommand::Readmit { id } => client.post(&format!("/v1/hosts/{id}/readmission"), &Nothing {}).await?,
        HostsCommand::Remove { id } => client.delete(&format!("/v1/hosts/{id}")).await?,
    };
    match (&args.command, args.output) {
        (HostsCommand::List, Output::Table) => {
            println!("{}", table(&serde_json::from_str::<Vec<HostRow>>(answer.get())?));
        }
        (HostsCommand::Show { .. } | HostsCommand::Add { .. }, Output::Table) => {
            let host: HostRow = serde_json::from_str(answer.get())?;
            for finding in host.latest.iter().flat_map(|latest| &latest.findings) {
                println!("denied by {}: {}", finding.code, finding.sentence);
                println!(
                    "  expected {}\n  found    {}\n  remedy   {}",
                    finding.expected, finding.found, finding.remedy
                );
            }
            for WaiverRow { id, until } in host.latest.iter().flat_map(|latest| &latest.waivers) {
                println!("stands on waiver {id} until {until}");
            }
            if let Some(claims) = host.latest.as_ref().and_then(|latest| latest.claims.as_ref()) {
                println!("boot: {}", claims.boot.said(|boot| format!("secure boot {}", boot.secure_boot)));
                println!("ima:  {}", claims.ima.said(|ima| format!("{} entries", ima.entries)));
            }
            println!("{}", table(&[host]));
        }
        (_, _) => println!("{answer}"),
    }
    Ok(())
}

fn table(hosts: &[HostRow]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header([
        "host",
        "TPM",
        "standing",
        "generation",
        "lease until",
        "reasons",
    ]);
    for host in hosts {
        let lease = if host.trust.lease_until.0 == 0 { String::new() } else { host.trust.lease_until.to_string() };
        let (generation, reasons) = (host.trust.generation.to_string(), host.trust.reasons.join(", "));
        let tpm = host.enrolled.as_ref().map(|enrolled| enrolled.identity.to_string()).unwrap_or_default();
        table.add_row([host.id.clone(), tpm, host.trust.standing.clone(), generation, lease, reasons]);
    }
    table
}
