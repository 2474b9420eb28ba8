//! The command line. Every option can come from the environment, as containers prefer.

use core::time::Duration;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::ArgPredicate;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::protocol::HostId;
use countersign_attestation::result::jwt_svid::{AUDIENCE_BYTES_MAX, JwtSvid};
use countersign_clock::ClockArgs;

use crate::collect::{logs, tdx};
use crate::endorser::{CertificateAt, CertifiedKey, Endorser};
use crate::enforce::ladder::Ladder;
use crate::enforce::target::Named;
use crate::keys::{AkKind, EkKind};
use crate::workload_api::selector::Rule;

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
    /// Print what an operator needs to register this host: the fingerprint of its EK, or of another certified key.
    Identity(IdentityArgs),
    /// Enrol this host with a broker: prove that one TPM holds the registered key and the Attestation Key.
    Enroll(EnrollArgs),
    /// Attest for ever, keep the credential, and run a workload only while this host is trusted.
    Run(Box<RunArgs>),
    /// Become the workload, tied to the agent's life (used by `run`).
    #[command(hide = true)]
    ExecGuard(ExecGuardArgs),
    /// Kill the workload's process group when the agent dies (used by `run`).
    #[command(hide = true)]
    GroupSentinel(GroupSentinelArgs),
}

/// Whose paravisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ParavisorKind {
    /// Azure's: report in NV index 0x01400001, attestation key at 0x81000003.
    Azure,
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
    /// The key that this host is known by.
    #[command(flatten)]
    pub by: EndorserArgs,
    /// How to print.
    #[arg(long, short, value_enum, default_value = "text")]
    pub output: Output,
    /// Write the key's certificate (DER) to this file.
    #[arg(long, value_name = "FILE", alias = "ek-certificate")]
    pub write_certificate: Option<PathBuf>,
}

/// The key that an operator knows this host by: its EK, unless another one is named.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("ak_certified").args(["ak_certificate", "ak_certificate_nv"])))]
#[command(group(ArgGroup::new("iak_certified").args(["iak_certificate", "iak_certificate_nv"])))]
pub struct EndorserArgs {
    /// Which Endorsement Key.
    #[arg(long, value_enum, default_value = "rsa2048", conflicts_with_all = ["ak_handle", "iak_handle"])]
    pub ek: EkKind,
    /// Persistent handle of an Attestation Key that a cloud certified (Azure: 0x81000003).
    #[arg(long, value_name = "HANDLE", value_parser = hex_number, requires = "ak_certified")]
    #[arg(conflicts_with = "iak_handle")]
    pub ak_handle: Option<u32>,
    /// Its certificate.
    #[arg(long, value_name = "FILE", requires = "ak_handle")]
    pub ak_certificate: Option<PathBuf>,
    /// NV index of its certificate (Azure: 0x01c101d0, GCE: 0x01c10000).
    #[arg(long, value_name = "INDEX", value_parser = hex_number, requires = "ak_handle")]
    pub ak_certificate_nv: Option<u32>,
    /// NV index of its template, of which it is made and kept at the handle when nothing is there (GCE: 0x01c10001).
    #[arg(long, value_name = "INDEX", value_parser = hex_number, requires = "ak_handle")]
    pub ak_template_nv: Option<u32>,
    /// Persistent handle of the manufacturer's initial attestation key (IAK), which certifies a new Attestation Key.
    #[arg(long, value_name = "HANDLE", value_parser = hex_number, requires = "iak_certified")]
    pub iak_handle: Option<u32>,
    /// Its certificate.
    #[arg(long, value_name = "FILE", requires = "iak_handle")]
    pub iak_certificate: Option<PathBuf>,
    /// NV index of its certificate.
    #[arg(long, value_name = "INDEX", value_parser = hex_number, requires = "iak_handle")]
    pub iak_certificate_nv: Option<u32>,
}

impl EndorserArgs {
    /// The key that is named.
    #[must_use]
    pub fn endorser(&self) -> Endorser {
        let at = |file: &Option<PathBuf>, nv: Option<u32>| {
            nv.map(CertificateAt::Nv).or_else(|| file.clone().map(CertificateAt::File))
        };
        // A handle comes with a certificate, and only one of them is there.
        if let (Some(handle), Some(certificate)) = (self.ak_handle, at(&self.ak_certificate, self.ak_certificate_nv)) {
            return Endorser::AttestationKey(CertifiedKey { handle, certificate, template_nv: self.ak_template_nv });
        }
        if let (Some(handle), Some(certificate)) = (self.iak_handle, at(&self.iak_certificate, self.iak_certificate_nv))
        {
            return Endorser::InitialAttestationKey(CertifiedKey { handle, certificate, template_nv: None });
        }
        Endorser::EndorsementKey(self.ek)
    }
}

/// Handles and indices are written in hexadecimal.
fn hex_number(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0x").ok_or_else(|| "expected hexadecimal digits after 0x".to_owned())?;
    u32::from_str_radix(digits, 16).map_err(|error| error.to_string())
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
    /// The key that this host is known by.
    #[command(flatten)]
    pub by: EndorserArgs,
    /// The manufacturer's certificates between the key's certificate and its root, PEM, where the broker pins the root
    /// alone. Nothing is ever fetched from the addresses that certificates name.
    #[arg(long, value_name = "FILE", alias = "ek-intermediates")]
    pub intermediates: Option<PathBuf>,
    /// Algorithm of the Attestation Key that is made.
    #[arg(long, value_enum, default_value = "ecc-p256", conflicts_with = "ak_handle")]
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
    /// AMD's Key Distribution Service or a mirror of it, https or http: where the certificate of the key that signs
    /// this machine's SNP reports is fetched from, when the host hands over none.
    #[arg(long, value_name = "URL", conflicts_with = "snp_vek", value_parser = kds_url)]
    pub kds: Option<String>,
    /// PEM file of the authorities that --kds is believed from over https.
    #[arg(
        long,
        value_name = "FILE",
        requires = "kds",
        default_value_if("kds", ArgPredicate::IsPresent, "/etc/ssl/certs/ca-certificates.crt")
    )]
    pub kds_roots: Option<PathBuf>,
    /// Product line of this machine, for SNP firmware whose reports do not say it.
    #[arg(long, value_enum, value_name = "LINE", requires = "kds")]
    pub kds_product: Option<AmdLine>,
    /// Log of the trust domain's firmware (CCEL), on TDX.
    #[arg(long, env = "COUNTERSIGN_CCEL", value_name = "FILE", default_value = tdx::CCEL)]
    pub ccel: PathBuf,
    /// The TPM is a paravisor's, which vouches for it with a report of the hardware: --snp-vek on SEV-SNP, --td-quote
    /// on TDX.
    #[arg(long, value_enum, value_name = "KIND")]
    pub paravisor: Option<ParavisorKind>,
    /// Quote of the TDREPORT in the paravisor's report; it does not change while the VM runs.
    #[arg(long, value_name = "FILE", requires = "paravisor", conflicts_with = "snp_vek")]
    pub td_quote: Option<PathBuf>,
    /// cgroup v2 directory to make the workload's cgroup in [default: the agent's own, where it is delegated].
    #[arg(long, value_name = "DIR")]
    pub workload_cgroup: Option<PathBuf>,
    /// What happens to workloads when trust ends, each verb with the time until the next: warn, drain, freeze, kill.
    /// The credential is taken away at once in any case [default: freeze for --grace, then kill].
    #[arg(long, value_name = "VERB:TIME,...")]
    pub on_loss: Option<Ladder>,
    /// Program of the verb `drain`: it tells the workload to finish. Its end brings the next verb.
    #[arg(long, value_name = "PROGRAM", requires = "on_loss")]
    pub drain_hook: Option<PathBuf>,
    /// A workload that somebody else starts: unit:NAME.service, cgroup:/PATH, group:PID or pid:PID. Stopped until this
    /// host is trusted, and when the agent ends.
    #[arg(long, value_name = "TARGET", conflicts_with = "once")]
    pub enforce: Vec<Named>,
    /// Serve the SPIFFE Workload API and Envoy SDS on this Unix socket.
    #[arg(long, env = "COUNTERSIGN_WORKLOAD_SOCKET", value_name = "PATH", conflicts_with = "once")]
    pub workload_socket: Option<PathBuf>,
    /// Who gets the SVID: uid:N, gid:N, sha256:DIGEST of the program, cgroup:/PATH, joined by commas where all must
    /// hold. Repeat for alternatives; without any, nobody does.
    #[arg(long, value_name = "SELECTOR,...", requires = "workload_socket")]
    pub admit: Vec<Rule>,
    /// A service that gets JWT-SVIDs of this host, which workloads fetch from the socket. Repeat for more, eight at
    /// most.
    #[arg(long, value_name = "AUDIENCE", value_parser = audience, requires = "workload_socket")]
    pub audience: Vec<String>,
    /// Keep a key for workloads in memory, another with each credential, certified beside the key in the TPM: for
    /// clients that need the key itself, such as Envoy. The broker has to allow it, and relying parties see it.
    #[arg(long, requires = "workload_socket")]
    pub workload_key: bool,
    /// Whether this machine's clock is believed.
    #[command(flatten)]
    pub clock: ClockArgs,
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

/// A product line of AMD's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AmdLine {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004 and 8004.
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl From<AmdLine> for AmdProduct {
    fn from(line: AmdLine) -> Self {
        match line {
            AmdLine::Milan => Self::Milan,
            AmdLine::Genoa => Self::Genoa,
            AmdLine::Turin => Self::Turin,
        }
    }
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

fn kds_url(text: &str) -> Result<String, String> {
    let known = text.starts_with("https://") || text.starts_with("http://");
    if known { Ok(text.to_owned()) } else { Err("an https:// or http:// address".to_owned()) }
}

fn host_id(text: &str) -> Result<HostId, String> {
    let demand = "1 to 63 of a-z, 0-9, '-' and '.', starting and ending with a letter or digit";
    HostId::parse(text).ok_or_else(|| demand.to_owned())
}

fn audience(text: &str) -> Result<String, String> {
    let demand = || format!("1 to {AUDIENCE_BYTES_MAX} printable ASCII characters without spaces");
    JwtSvid::is_audience(text).then(|| text.to_owned()).ok_or_else(demand)
}

/// Milliseconds or seconds: `250ms`, `2s`. At least one millisecond.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
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
