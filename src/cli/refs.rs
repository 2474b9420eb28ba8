//! `countersign refs`: the reference values hosts are compared with.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use countersign_attestation::digest::Sha256Digest;
use countersign_policies::reference::ReferenceManifest;
use countersign_policies::signed::SIGNED_BYTES_MAX;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use crate::cli::client::{Client, Connection};
use crate::cli::digest;
use crate::cli::what_if::{Proposal, manifest, must_preview, text};
use crate::keys::operator::{OperatorKey, unsigned};

mod compute;
mod diff;

/// Register, capture, compute and retire reference values.
#[derive(Debug, clap::Args)]
#[command(subcommand_negates_reqs = true)]
pub struct RefsArgs {
    // Computing needs none.
    #[command(flatten)]
    connection: Option<Connection>,
    #[command(subcommand)]
    command: RefsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum RefsCommand {
    /// Lists the registered manifests.
    List,
    /// Prints one manifest.
    Show {
        /// The manifest's id.
        id: String,
    },
    /// Signs a manifest with the operator's signing key and prints it with the signature, beside those it has. Offline.
    Sign {
        /// JSON, or what another operator signed.
        file: PathBuf,
    },
    /// Registers a manifest, signed with the operator's signing key where it is not yet.
    #[command(alias = "add")]
    Register {
        /// JSON, or what operators signed.
        file: PathBuf,
        /// Digest of the previewed change, for a version that takes another one's place.
        #[arg(long, value_parser = digest)]
        preview: Option<Sha256Digest>,
    },
    /// Prints a manifest of what a host's newest verified evidence shows, for review; with --register, registers it.
    Capture {
        /// The host in its known-good state.
        host: String,
        /// Id of the new manifest.
        #[arg(long)]
        id: String,
        /// PCRs of the SHA-256 bank to pin.
        #[arg(long, value_delimiter = ',')]
        pcrs: Vec<u8>,
        /// Registers the manifest at once.
        #[arg(long)]
        register: bool,
    },
    /// Prints a manifest of all that a host's newest verified evidence shows, its event log with it, for review.
    Learn {
        /// The host in its known-good state.
        host: String,
        /// Id of the new manifest.
        #[arg(long)]
        id: String,
        /// Registers the manifest at once.
        #[arg(long)]
        register: bool,
    },
    /// Says what one manifest has and another has not. Each is a file, or the id of a registered one.
    Diff {
        /// Before.
        before: String,
        /// After.
        after: String,
    },
    /// Computes what a confidential guest will measure at launch, offline.
    #[command(subcommand)]
    Compute(compute::ComputeCommand),
    /// Retires a manifest; hosts that do not pass without it are revoked.
    #[command(alias = "withdraw")]
    Retire {
        /// The manifest's id.
        id: String,
        /// Digest of the previewed change; without it, the change is previewed and not made.
        #[arg(long, value_parser = digest)]
        preview: Option<Sha256Digest>,
    },
}

#[derive(Debug, Deserialize)]
struct Host {
    latest: Option<Latest>,
}

#[derive(Debug, Deserialize)]
struct Latest {
    claims: Option<Claims>,
}

#[derive(Debug, Deserialize)]
struct Claims {
    tpm: Tpm,
}

#[derive(Debug, Deserialize)]
struct Tpm {
    pcrs: BTreeMap<String, BTreeMap<u8, String>>,
}

#[derive(Debug, Serialize)]
struct Manifest {
    id: String,
    tpm: ManifestTpm,
}

#[derive(Debug, Serialize)]
struct ManifestTpm {
    pcrs: BTreeMap<String, BTreeMap<u8, [String; 1]>>,
}

/// Runs `countersign refs`.
///
/// # Errors
/// What the broker refuses, and failures on the way to it.
pub async fn run(args: &RefsArgs) -> anyhow::Result<()> {
    if let RefsCommand::Compute(command) = &args.command {
        println!("{}", compute::run(command)?);
        return Ok(());
    }
    let Some(connection) = &args.connection else {
        bail!("name the folder that `countersign operator add` wrote: --operator, or COUNTERSIGN_OPERATOR")
    };
    if let RefsCommand::Sign { file } = &args.command {
        print!("{}", signed(connection, &text(file)?)?);
        return Ok(());
    }
    let client = Client::new(connection)?;
    match &args.command {
        // Offline: done above, without a client.
        RefsCommand::Compute(_) | RefsCommand::Sign { .. } => {}
        RefsCommand::List => println!("{}", client.get_text("/v1/references").await?),
        RefsCommand::Show { id } => println!("{}", client.get_text(&format!("/v1/references/{id}")).await?),
        RefsCommand::Register { file, preview } => {
            let note = signed(connection, &text(file)?)?;
            let answer: Box<RawValue> = client.post("/v1/references", &Submission { note, preview: *preview }).await?;
            println!("{answer}");
        }
        RefsCommand::Capture { host, id, pcrs, register } => {
            let manifest = capture(&client, host, id, pcrs).await?;
            print_or_register(&client, connection, &manifest, *register).await?;
        }
        RefsCommand::Learn { host, id, register } => {
            let manifest: diff::Written = client.get(&format!("/v1/hosts/{host}/manifest/{id}")).await?;
            print_or_register(&client, connection, &manifest, *register).await?;
        }
        RefsCommand::Diff { before, after } => {
            for line in diff::diff(&either(&client, before).await?, &either(&client, after).await?) {
                println!("{line}");
            }
        }
        RefsCommand::Retire { id, preview: None } => {
            return Err(must_preview(&client, &Proposal::WithdrawReference(id.clone())).await);
        }
        RefsCommand::Retire { id, preview: Some(preview) } => {
            let answer: Box<RawValue> = client.delete(&format!("/v1/references/{id}?preview={preview}")).await?;
            println!("{answer}");
        }
    }
    Ok(())
}

/// A signed manifest, as it is registered.
#[derive(Debug, Serialize)]
struct Submission {
    note: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    preview: Option<Sha256Digest>,
}

/// A manifest with this operator's signature, which stands beside those that it has.
fn signed(connection: &Connection, text: &str) -> anyhow::Result<String> {
    let key = OperatorKey::load(&connection.operator)?;
    if unsigned(text).is_some() {
        return Ok(key.cosign(text, SIGNED_BYTES_MAX)?);
    }
    ReferenceManifest::parse(text.as_bytes()).map_err(|finding| {
        anyhow!("{} ({}): expected {}, found {}", finding.sentence, finding.code, finding.expected, finding.found)
    })?;
    // C2SP signed-note has no control characters but newlines.
    if text.contains(|character: char| character.is_ascii_control() && character != '\n') {
        bail!("a signed text has neither tabs nor carriage returns: indent with spaces, end lines with a newline")
    }
    Ok(key.sign(text)?)
}

/// For review; or at once, signed by this operator alone.
async fn print_or_register<T: Serialize + Sync>(
    client: &Client,
    connection: &Connection,
    manifest: &T,
    register: bool,
) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(manifest)?;
    println!("{text}");
    if register {
        let submission = Submission { note: signed(connection, &text)?, preview: None };
        let _registered: Box<RawValue> = client.post("/v1/references", &submission).await?;
    }
    Ok(())
}

/// A manifest in a file, or a registered one.
async fn either(client: &Client, of: &str) -> anyhow::Result<diff::Written> {
    let file = std::path::Path::new(of);
    if file.is_file() {
        return Ok(serde_json::from_str(manifest(file)?.get())?);
    }
    client.get(&format!("/v1/references/{of}")).await
}

async fn capture(client: &Client, host: &str, id: &str, pcrs: &[u8]) -> anyhow::Result<Manifest> {
    let found: Host = client.get(&format!("/v1/hosts/{host}")).await?;
    let claims = found.latest.and_then(|latest| latest.claims);
    let Some(claims) = claims else {
        bail!("host {host} has shown no verified evidence since the broker started; let it attest once");
    };
    let Some(bank) = claims.tpm.pcrs.get("sha256") else { bail!("host {host} quoted no SHA-256 bank") };
    let mut pinned = BTreeMap::new();
    for pcr in pcrs {
        let value = bank.get(pcr).with_context(|| format!("PCR {pcr} was not quoted; quoted: {:?}", bank.keys()))?;
        pinned.insert(*pcr, [value.clone()]);
    }
    let pcrs = BTreeMap::from([("sha256".to_owned(), pinned)]);
    Ok(Manifest { id: id.to_owned(), tpm: ManifestTpm { pcrs } })
}
