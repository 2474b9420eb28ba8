//! The operator's command line. Data goes to standard output, logs and progress to standard error.
//!
//! Exit codes: 0 done, 1 usage or local failure, 2 the broker or the way to it failed, 3 denied or not as expected,
//! 4 not found, 5 conflict.

pub mod ca;
pub mod chaos;
pub mod client;
pub mod collateral;
pub mod demo;
pub mod deny;
pub mod explain;
pub mod hosts;
pub mod init;
pub mod inspect;
pub mod log;
pub mod log_search;
pub mod policy;
pub mod refs;
pub mod relay;
pub mod revoke;
pub mod serve;
pub mod verify;
pub mod waiver;
pub mod what_if;

use std::io::stdout;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use countersign_attestation::digest::Sha256Digest;
use tracing_subscriber::EnvFilter;

use client::Refused;
use verify::ExitOutcome;

/// Hardware-attested trust broker: verifies TPM and confidential-computing evidence from inference hosts, issues
/// short-lived execution credentials, and revokes them within a measured bound when anything drifts.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a broker's data directory and the first operator's credential.
    Init(init::InitArgs),
    /// Run the broker.
    Broker(serve::BrokerArgs),
    /// Fan a broker's pulses out to many gates, without a key.
    Relay(relay::RelayArgs),
    /// Issue, list and remove operator credentials, on the broker's machine.
    #[command(subcommand)]
    Operator(init::OperatorCommand),
    /// The workload CA: its root and issuing certificates, on the broker's machine and where the root is kept.
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Register, inspect, revoke, re-admit and remove hosts.
    Hosts(hosts::HostsArgs),
    /// Tell why: the newest decision about a host, or any recorded one.
    Explain(explain::ExplainArgs),
    /// Revoke every host that has something in common: a chip, a generation, a manifest, a policy.
    Revoke(revoke::RevokeArgs),
    /// Register, capture and retire reference manifests.
    Refs(refs::RefsArgs),
    /// Show the policies in force, or put others in their place.
    Policy(policy::PolicyArgs),
    /// Preview a change: how many hosts would lose or gain trust, and why. Nothing is changed.
    WhatIf(what_if::WhatIfArgs),
    /// Accept for a while what a policy or manifest refuses: signed, scoped, ending, visible.
    Waiver(waiver::WaiverArgs),
    /// Deny pieces of hardware whose keys leaked.
    Deny(deny::DenyArgs),
    /// See, fetch and carry what vendors publish about hardware: revocation lists, TCB info, identities.
    Collateral(collateral::CollateralArgs),
    /// Check the lineage log offline, or show an entry.
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Make a recorded decision again from its archived inputs, offline, and compare it bit for bit.
    Replay(log::ReplayArgs),
    /// Judge recorded evidence offline, as a manifest lists it.
    Verify(verify::VerifyArgs),
    /// Show what a file of evidence says, and what of it is signed.
    Inspect(inspect::InspectArgs),
    /// Break a test deployment on this machine in every way that is promised to end in denial, and measure how soon.
    Chaos(chaos::ChaosArgs),
    /// Show the main job end to end on this machine: attest, drift, deny.
    Demo(demo::DemoArgs),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For machines.
    Json,
}

/// Exit code of a denied or unexpected verdict.
const DENIED: u8 = 3;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; neither is a pipe that was closed while printing them.
            let _printed = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    log_to_stderr();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("countersign: {error:#}");
            ExitCode::from(error.downcast_ref::<Refused>().map_or(1, Refused::exit_code))
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Init(args) => init::init(&args)?,
        Command::Operator(command) => init::operator(&command)?,
        Command::Broker(args) => runtime()?.block_on(serve::broker(&args))?,
        Command::Relay(args) => runtime()?.block_on(relay::run(&args))?,
        Command::Ca(command) => ca::run(&command, &mut stdout())?,
        Command::Hosts(args) => runtime()?.block_on(hosts::run(&args))?,
        Command::Explain(args) => runtime()?.block_on(explain::run(&args))?,
        Command::Revoke(args) => runtime()?.block_on(revoke::run(&args))?,
        Command::Refs(args) => runtime()?.block_on(refs::run(&args))?,
        Command::Policy(args) => runtime()?.block_on(policy::run(&args))?,
        Command::WhatIf(args) => runtime()?.block_on(what_if::run(&args))?,
        Command::Waiver(args) => runtime()?.block_on(waiver::run(&args))?,
        Command::Deny(args) => runtime()?.block_on(deny::run(&args))?,
        Command::Collateral(args) => runtime()?.block_on(collateral::run(&args))?,
        Command::Log(command) => return log::run(&command).map(as_told),
        Command::Replay(args) => return log::replay(&args, &mut stdout()).map(as_told),
        Command::Verify(args) => {
            return Ok(as_told(verify::run(&args, &mut stdout())? == ExitOutcome::AsExpected));
        }
        Command::Inspect(args) => inspect::run(&args, &mut stdout())?,
        Command::Chaos(args) => return chaos::run(&args).map(as_told),
        Command::Demo(args) => return demo::run(&args).map(as_told),
    }
    Ok(ExitCode::SUCCESS)
}

/// A digest on the command line.
fn digest(text: &str) -> Result<Sha256Digest, String> {
    Sha256Digest::from_hex(text).ok_or_else(|| "expected 64 hex digits".to_owned())
}

fn as_told(as_expected: bool) -> ExitCode {
    if as_expected { ExitCode::SUCCESS } else { ExitCode::from(DENIED) }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("COUNTERSIGN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Set already in tests that run commands in one process: the first one stays.
    let _set = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
