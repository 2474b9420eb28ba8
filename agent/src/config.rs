//! The command line. Every option can come from the environment, as containers prefer.

use core::time::Duration;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use countersign_attestation::protocol::HostId;

use crate::collect::logs;
use crate::keys::{AkKind, EkKind};

/// Countersign's attester: proves what this host is, keeps its execution credential, and stops the workload when trust
/// is lost.
#[derive(Debug, Parser)]
#[command(name = "countersign-agent", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print what an operator needs to register this host: EK fingerprint and EK certificate.
    Identity(IdentityArgs),
    /// Enrol this host with a broker by credential activation.
    Enroll(EnrollArgs),
    /// Attest for ever, keep the credential, and run a workload only while this host is trusted.
    Run(RunArgs),
    /// Become the workload, tied to the agent's life (used by `run`).
    #[command(hide = true)]
    ExecGuard(ExecGuardArgs),
    /// Kill the workload's process group when the agent dies (used by `run`).
    #[command(hide = true)]
    GroupSentinel(GroupSentinelArgs),
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `identity`.
#[derive(Debug, Args)]
pub struct IdentityArgs {
    /// TPM: device:/dev/tpmrm0, or swtpm:host=HOST,port=PORT.
    #[arg(long, env = "COUNTERSIGN_TCTI", default_value = "device:/dev/tpmrm0")]
    pub tcti: String,
    /// Which Endorsement Key.
    #[arg(long, value_enum, default_value = "rsa2048")]
    pub ek: EkKind,
    /// How to print.
    #[arg(long, short, value_enum, default_value = "text")]
    pub output: Output,
    /// Write the EK certificate (DER) to this file.
    #[arg(long, value_name = "FILE")]
    pub ek_certificate: Option<PathBuf>,
}

/// `enroll`.
#[derive(Debug, Args)]
pub struct EnrollArgs {
    /// Base URL of the broker, https.
    #[arg(long, env = "COUNTERSIGN_BROKER", value_name = "URL")]
    pub broker: String,
    /// The broker's control CA, PEM. System roots are not used.
    #[arg(long, env = "COUNTERSIGN_BROKER_CA", value_name = "FILE")]
    pub broker_ca: PathBuf,
    /// Id under which an operator registered this host.
    #[arg(long, env = "COUNTERSIGN_HOST", value_name = "ID", value_parser = host_id)]
    pub host: HostId,
    /// Where to remember the enrolment.
    #[arg(long, env = "COUNTERSIGN_STATE_DIR", value_name = "DIR", default_value = "/var/lib/countersign-agent")]
    pub state_dir: PathBuf,
    /// TPM: device:/dev/tpmrm0, or swtpm:host=HOST,port=PORT.
    #[arg(long, env = "COUNTERSIGN_TCTI", default_value = "device:/dev/tpmrm0")]
    pub tcti: String,
    /// Which Endorsement Key.
    #[arg(long, value_enum, default_value = "rsa2048")]
    pub ek: EkKind,
    /// The manufacturer's certificates between the EK certificate and its root, PEM, where the broker pins the root
    /// alone. Nothing is ever fetched from the addresses that certificates name.
    #[arg(long, value_name = "FILE")]
    pub ek_intermediates: Option<PathBuf>,
    /// Algorithm of the Attestation Key.
    #[arg(long, value_enum, default_value = "ecc-p256")]
    pub ak: AkKind,
}

/// `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Where the enrolment is remembered.
    #[arg(long, env = "COUNTERSIGN_STATE_DIR", value_name = "DIR", default_value = "/var/lib/countersign-agent")]
    pub state_dir: PathBuf,
    /// Where to keep the credential [default: STATE_DIR/credential].
    #[arg(long, env = "COUNTERSIGN_CREDENTIAL_DIR", value_name = "DIR")]
    pub credential_dir: Option<PathBuf>,
    /// TPM, when it is another than at enrolment.
    #[arg(long, env = "COUNTERSIGN_TCTI")]
    pub tcti: Option<String>,
    /// How long a frozen workload may wait for trust to come back before it is killed.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub grace: Duration,
    /// How often PCRs and the IMA list are looked at.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = duration)]
    pub watch_interval: Duration,
    /// The firmware's event log, where there is one.
    #[arg(long, env = "COUNTERSIGN_EVENT_LOG", value_name = "FILE", default_value = logs::EVENT_LOG)]
    pub event_log: PathBuf,
    /// The kernel's measurement list (IMA), where there is one.
    #[arg(long, env = "COUNTERSIGN_IMA_LIST", value_name = "FILE", default_value = logs::IMA_LIST)]
    pub ima_list: PathBuf,
    /// Certificate of the key that signs this machine's SNP reports, when the host hands over none.
    #[arg(long, value_name = "FILE")]
    pub snp_vek: Option<PathBuf>,
    /// cgroup v2 directory to make the workload's cgroup in [default: the agent's own, where it is delegated].
    #[arg(long, value_name = "DIR")]
    pub workload_cgroup: Option<PathBuf>,
    /// Append events to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// Attest once, write the credential, and end: 0 granted, 3 denied.
    #[arg(long, conflicts_with = "workload")]
    pub once: bool,
    /// The workload: started with a live credential, frozen and killed when trust is lost.
    #[arg(last = true, value_name = "COMMAND")]
    pub workload: Vec<OsString>,
}

/// `exec-guard`.
#[derive(Debug, Args)]
pub struct ExecGuardArgs {
    /// Process id of the agent.
    #[arg(long)]
    pub parent: i32,
    /// cgroup to enter.
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    /// Command to become.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// `group-sentinel`.
#[derive(Debug, Args)]
pub struct GroupSentinelArgs {
    /// Process id of the agent.
    #[arg(long)]
    pub parent: i32,
    /// Process group to kill.
    #[arg(long)]
    pub group: i32,
    /// cgroup to kill.
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
}

fn host_id(text: &str) -> Result<HostId, String> {
    let demand = "1 to 63 of a-z, 0-9, '-' and '.', starting and ending with a letter or digit";
    HostId::parse(text).ok_or_else(|| demand.to_owned())
}

/// Milliseconds or seconds: `250ms`, `2s`. At least one millisecond.
fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len());
    let factor = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let milliseconds = digits.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    let positive = milliseconds.filter(|milliseconds| 0 < *milliseconds);
    positive.map(Duration::from_millis).ok_or_else(|| "a positive number with ms, s or m, as in 250ms".to_owned())
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use clap::CommandFactory as _;

    use super::{Cli, duration};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        for bad in ["", "2", "0s", "-1s", "s", "2h", "1.5s", "99999999999999999999s", "18446744073709551615m"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
