//! `countersign deny`: pieces of hardware that are no longer believed.

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use countersign_attestation::claims::HexBytes;
use countersign_policies::instance::Instance;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::cli::Output;
use crate::cli::client::{Client, Connection};

/// Deny a piece of hardware whose keys leaked: every host on it is revoked at once.
#[derive(Debug, clap::Args)]
pub struct DenyArgs {
    #[command(flatten)]
    connection: Connection,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t, global = true)]
    output: Output,
    #[command(subcommand)]
    command: DenyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DenyCommand {
    /// Denies one piece of hardware, now.
    Add {
        #[command(flatten)]
        instance: InstanceArgs,
        /// Why, for whoever finds the workload elsewhere.
        #[arg(long)]
        reason: String,
    },
    /// Lists what is denied.
    List,
    /// Believes a piece of hardware again; what was revoked for it waits for `countersign hosts readmit`.
    Withdraw {
        /// The denial's id, as `list` prints it.
        id: String,
    },
}

/// One id, in hexadecimal.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct InstanceArgs {
    /// CHIP_ID of an SNP report or hwID of its VCEK.
    #[arg(long, value_parser = hexadecimal)]
    chip_id: Option<HexBytes>,
    /// SHA-256 of a TPM's EK.
    #[arg(long, value_parser = hexadecimal)]
    ek: Option<HexBytes>,
    /// PPID of a PCK certificate.
    #[arg(long, value_parser = hexadecimal)]
    ppid: Option<HexBytes>,
    /// Platform instance id of a PCK certificate.
    #[arg(long, value_parser = hexadecimal)]
    platform_instance: Option<HexBytes>,
}

impl InstanceArgs {
    fn instance(&self) -> Option<Instance> {
        let Self { chip_id, ek, ppid, platform_instance } = self;
        let chip_id = chip_id.clone().map(Instance::ChipId);
        let ek = ek.clone().map(Instance::Ek);
        let ppid = ppid.clone().map(Instance::Ppid);
        chip_id.or(ek).or(ppid).or_else(|| platform_instance.clone().map(Instance::PlatformInstance))
    }
}

fn hexadecimal(text: &str) -> Result<HexBytes, String> {
    hex::decode(text).map(HexBytes).map_err(|error| error.to_string())
}

#[derive(Debug, Serialize)]
struct Denial<'a> {
    instance: Instance,
    reason: &'a str,
}

#[derive(Debug, Deserialize)]
struct DenialRow {
    id: String,
    instance: Instance,
    reason: String,
}

/// Runs `countersign deny`.
///
/// # Errors
/// What the broker refuses, and failures on the way to it.
pub async fn run(args: &DenyArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.connection)?;
    let answer: Box<RawValue> = match &args.command {
        DenyCommand::Add { instance, reason } => {
            let instance = instance.instance().ok_or_else(|| anyhow::anyhow!("one of the ids"))?;
            client.post("/v1/denials", &Denial { instance, reason }).await?
        }
        DenyCommand::List => client.get("/v1/denials").await?,
        DenyCommand::Withdraw { id } => client.delete(&format!("/v1/denials/{id}")).await?,
    };
    match (&args.command, args.output) {
        (DenyCommand::List, Output::Table) => println!("{}", table(serde_json::from_str(answer.get())?)),
        (DenyCommand::List | DenyCommand::Add { .. } | DenyCommand::Withdraw { .. }, _) => println!("{answer}"),
    }
    Ok(())
}

fn table(denials: Vec<DenialRow>) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["denial", "instance", "reason"]);
    for DenialRow { id, instance, reason } in denials {
        table.add_row([id, instance.to_string(), reason]);
    }
    table
}
