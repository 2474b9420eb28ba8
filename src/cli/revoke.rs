//! `countersign revoke`: takes trust from every host that has something in common.

use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::claims::HexBytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::broker::order::{Order, Selector};
use crate::cli::Output;
use crate::cli::client::{Client, Connection};

/// Revoke every host that has something in common, now. One host is revoked by `countersign hosts revoke`; hardware
/// that is not to come back is denied by `countersign deny`.
#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    #[command(flatten)]
    connection: Connection,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    select: SelectArgs,
    /// Why, for whoever reads the log.
    #[arg(long)]
    reason: String,
    /// Only tell which hosts it would be.
    #[arg(long)]
    dry_run: bool,
}

/// One of them.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct SelectArgs {
    /// CHIP_ID of their SNP report.
    #[arg(long, value_parser = hexadecimal)]
    chip_id: Option<HexBytes>,
    /// PPID of their PCK certificate.
    #[arg(long, value_parser = hexadecimal)]
    ppid: Option<HexBytes>,
    /// Name of their attestation key.
    #[arg(long, value_parser = hexadecimal)]
    ak_name: Option<HexBytes>,
    /// Processor generation: milan, genoa or turin.
    #[arg(long, value_parser = product)]
    amd_product: Option<AmdProduct>,
    /// Family of Intel's platforms.
    #[arg(long, value_parser = hexadecimal)]
    fmspc: Option<HexBytes>,
    /// The reference manifest they were granted by.
    #[arg(long)]
    reference: Option<String>,
    /// A policy that permitted them, as `countersign hosts show` names it.
    #[arg(long)]
    policy: Option<String>,
}

impl SelectArgs {
    fn selector(&self) -> Option<Selector> {
        let Self { chip_id, ppid, ak_name, amd_product, fmspc, reference, policy } = self;
        let hardware = chip_id.clone().map(Selector::ChipId).or_else(|| ppid.clone().map(Selector::Ppid));
        hardware
            .or_else(|| ak_name.clone().map(Selector::AkName))
            .or_else(|| amd_product.map(Selector::AmdProduct))
            .or_else(|| fmspc.clone().map(Selector::Fmspc))
            .or_else(|| reference.clone().map(Selector::Reference))
            .or_else(|| policy.clone().map(Selector::Policy))
    }
}

fn hexadecimal(text: &str) -> Result<HexBytes, String> {
    hex::decode(text).map(HexBytes).map_err(|error| error.to_string())
}

fn product(text: &str) -> Result<AmdProduct, String> {
    serde_json::from_value(text.into()).map_err(|_| "milan, genoa or turin".to_owned())
}

#[derive(Debug, Deserialize)]
struct Ordered {
    order: String,
    hosts: u64,
    named: Vec<String>,
}

/// Runs `countersign revoke`.
///
/// # Errors
/// What the broker refuses, and failures on the way to it.
pub async fn run(args: &RevokeArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.connection)?;
    let select = args.select.selector().ok_or_else(|| anyhow::anyhow!("one of the selectors"))?;
    let order = Order { select, reason: args.reason.clone(), dry_run: args.dry_run };
    let answer: Box<RawValue> = client.post("/v1/revocations", &order).await?;
    match args.output {
        Output::Json => println!("{answer}"),
        Output::Table => {
            let Ordered { order, hosts, named } = serde_json::from_str(answer.get())?;
            let done = if args.dry_run { "would be revoked" } else { "revoked" };
            println!("{hosts} hosts {done}, order {order}");
            for host in named {
                println!("{host}");
            }
        }
    }
    Ok(())
}
