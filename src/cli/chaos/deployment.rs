//! The deployment under test: broker, gate and agent as processes, a software TPM below, and wires between them. It
//! runs faster than a real one, so that an hour of faults takes minutes; the rules are the same.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use super::POLL;
use super::wire::Wire;
use crate::cli::demo::firmware::{Boot, PCRS};
use crate::cli::demo::stage::{BrokerListening, GateListening, Process, ask_gate, run, run_ok, sibling, vouch};
use crate::cli::demo::swtpm::{Swtpm, pinned_anchor};
use crate::clock::monotonic;
use crate::config::{Config, DataDir};

const HOST: &str = "chaos-host";
const TRUST_DOMAIN: &str = "chaos.countersign.localhost";
const EVENT_LOG: &str = "event-log";
const DENIED: i32 = 3;

/// Y, and what else bounds trust here.
pub(super) const VALIDITY: Duration = Duration::from_millis(2000);
pub(super) const PERIOD: Duration = Duration::from_millis(250);
pub(super) const LEASE: Duration = Duration::from_millis(6000);
pub(super) const INTERVAL: Duration = Duration::from_millis(1500);

/// Whose clock is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Broker,
    Gate,
    Agent,
}

impl Who {
    const fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Gate => "gate",
            Self::Agent => "agent",
        }
    }
}

/// Everything that runs. Fields are dropped in this order.
#[derive(Debug)]
pub(super) struct Deployment {
    agent: Option<Process>,
    gate: Process,
    gate_address: String,
    broker: Option<Process>,
    pub(super) swtpm: Swtpm,
    pub(super) boot: Boot,
    /// From the gate, and from the agent, to the broker.
    pub(super) gate_wire: Wire,
    pub(super) agent_wire: Wire,
    dir: PathBuf,
    broker_address: SocketAddr,
    faketime: Option<PathBuf>,
    mounted: Option<Mounted>,
}

/// A file system of its own under the data directory, gone with the value.
#[derive(Debug)]
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _unmounted = run("umount", Command::new("umount").arg("-l").arg(&self.0));
    }
}

#[derive(Deserialize)]
struct Identity {
    fingerprint: String,
}

impl Deployment {
    /// Starts everything; the host is enrolled and trusted.
    pub(super) fn start(dir: &Path) -> anyhow::Result<Self> {
        let (data, boot) = (dir.join("data"), Boot::new());
        authority(&dir.join("tpm/ca"))?;
        let swtpm = Swtpm::start(&dir.join("tpm"))?;
        swtpm.extend(&boot.extended)?;
        fs::write(dir.join(EVENT_LOG), &boot.log)?;
        let mounted = mount(&data);
        let mut init = Command::new(std::env::current_exe()?);
        vouch(&mut init);
        init.args(["init", "--trust-domain", TRUST_DOMAIN, "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data);
        run_ok("countersign init", init.arg("--simulated-tpm-anchor").arg(pinned_anchor(&dir.join("tpm"))?))?;
        hasten(&data)?;
        let faketime = faketime();
        for who in [Who::Broker, Who::Gate, Who::Agent] {
            fs::write(dir.join(format!("{}.clock", who.name())), "+0")?;
        }
        let (broker, broker_address) = start_broker(dir, faketime.as_deref())?;
        let (gate_wire, agent_wire) = (Wire::to(broker_address)?, Wire::to(broker_address)?);
        let mut gate = with_clock(&sibling("countersign-gate")?, Who::Gate, dir, faketime.as_deref());
        let url = format!("https://localhost:{}", gate_wire.port());
        gate.args(["--listen", "127.0.0.1:0", "--trust-domain", TRUST_DOMAIN, "--broker", &url, "--trust-dir"]);
        gate.arg(data.join("public"));
        let (gate, GateListening { listen }) = Process::announced("gate", &mut gate, &dir.join("gate.log"))?;
        let mut deployment = Self {
            agent: None,
            gate,
            gate_address: listen,
            broker: Some(broker),
            swtpm,
            boot,
            gate_wire,
            agent_wire,
            dir: dir.to_owned(),
            broker_address,
            faketime,
            mounted,
        };
        deployment.enroll()?;
        deployment.start_agent()?;
        Ok(deployment)
    }

    fn enroll(&self) -> anyhow::Result<()> {
        let mut identity = self.agent_command(&["identity", "--output", "json"])?;
        let identity: Identity = serde_json::from_str(&run_ok("countersign-agent identity", &mut identity)?)?;
        self.operator(&["hosts", "add", HOST, "--ek-sha256", &identity.fingerprint])?;
        let broker = format!("https://localhost:{}", self.agent_wire.port());
        let mut enroll = self.agent_command(&["enroll", "--host", HOST, "--broker", &broker, "--broker-ca"])?;
        enroll.arg(self.dir.join("data/public/broker-ca.pem"));
        run_ok("countersign-agent enroll", enroll.arg("--state-dir").arg(self.dir.join("agent")))?;
        let mut once = self.agent_command(&["run", "--once"])?;
        let output = run("countersign-agent run --once", once.arg("--state-dir").arg(self.dir.join("agent")))?;
        anyhow::ensure!(output.status.code() == Some(DENIED), "expected a denial, found {}", output.status);
        self.operator(&["refs", "capture", HOST, "--id", "golden", "--pcrs", PCRS, "--register"])?;
        Ok(())
    }

    /// Starts the agent, without a workload: it then outlives every loss of trust.
    pub(super) fn start_agent(&mut self) -> anyhow::Result<()> {
        let mut daemon = self.agent_command(&["run"])?;
        daemon.arg("--state-dir").arg(self.dir.join("agent"));
        self.agent = Some(Process::logging("countersign-agent", &mut daemon, &self.dir.join("agent.log"))?);
        Ok(())
    }

    fn agent_command(&self, args: &[&str]) -> anyhow::Result<Command> {
        let agent = sibling("countersign-agent")?;
        let mut command = with_clock(&agent, Who::Agent, &self.dir, self.faketime.as_deref());
        command.args(args).env("COUNTERSIGN_TCTI", self.swtpm.tcti());
        // The software TPM has not this machine's firmware and kernel behind it.
        command.env("COUNTERSIGN_EVENT_LOG", self.dir.join(EVENT_LOG));
        command.env("COUNTERSIGN_IMA_LIST", self.dir.join("ima-list"));
        Ok(command)
    }

    /// Runs an operator's command.
    pub(super) fn operator(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = with_clock(&std::env::current_exe()?, Who::Broker, &self.dir, self.faketime.as_deref());
        command.args(args).env("COUNTERSIGN_BROKER", format!("https://localhost:{}", self.broker_address.port()));
        command.env("COUNTERSIGN_OPERATOR", self.dir.join("data/operator"));
        run_ok(&format!("countersign {}", args.join(" ")), &mut command)
    }

    pub(super) fn revoke(&self) -> anyhow::Result<()> {
        self.operator(&["hosts", "revoke", HOST]).map(drop)
    }

    pub(super) fn readmit(&self) -> anyhow::Result<()> {
        self.operator(&["hosts", "readmit", HOST]).map(drop)
    }

    /// The live credential's chain.
    pub(super) fn certificate(&self) -> anyhow::Result<String> {
        fs::read_to_string(self.dir.join("agent/credential/credential.pem")).context("the host holds a credential")
    }

    /// Whether the gate lets this certificate in now. A gate that does not answer lets nobody in.
    pub(super) fn accepts(&self, certificate: &str) -> anyhow::Result<bool> {
        Ok(ask_gate(&self.gate_address, certificate)? == 200)
    }

    /// Waits until the gate lets the live credential in.
    pub(super) fn wait_until_accepted(&self, patience: Duration) -> anyhow::Result<()> {
        let started = monotonic();
        loop {
            if let Ok(certificate) = self.certificate()
                && self.accepts(&certificate)?
            {
                return Ok(());
            }
            if patience < started.elapsed() {
                bail!("not trusted again within {} s; the logs are in {}", patience.as_secs(), self.dir.display());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Kills the broker as a crash does.
    pub(super) fn kill_broker(&mut self) {
        drop(self.broker.take());
    }

    /// Starts it again on what it left.
    pub(super) fn restart_broker(&mut self) -> anyhow::Result<()> {
        self.kill_broker();
        let (broker, address) = start_broker(&self.dir, self.faketime.as_deref())?;
        self.broker = Some(broker);
        self.broker_address = address;
        self.gate_wire.lead_to(address);
        self.agent_wire.lead_to(address);
        Ok(())
    }

    /// Stops or continues a process, as a debugger, a freezer or a hypervisor does.
    pub(super) fn pause(&self, who: Who, paused: bool) -> anyhow::Result<()> {
        let signal = if paused { Signal::STOP } else { Signal::CONT };
        kill_process(self.pid(who)?, signal).context("signal a process")
    }

    fn pid(&self, who: Who) -> anyhow::Result<Pid> {
        let process = match who {
            Who::Broker => self.broker.as_ref(),
            Who::Gate => Some(&self.gate),
            Who::Agent => self.agent.as_ref(),
        };
        let id = process.map(Process::id).and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        id.with_context(|| format!("the {} runs", who.name()))
    }

    /// Lets every write of the broker to a file fail, or none.
    pub(super) fn fail_writes(&self, fail: bool) -> anyhow::Result<()> {
        let limit = if fail { "--fsize=0:" } else { "--fsize=unlimited:" };
        let pid = self.pid(Who::Broker)?.as_raw_nonzero().to_string();
        run_ok("prlimit", Command::new("prlimit").args(["--pid", &pid, limit])).map(drop)
    }

    /// Fills the data directory's file system, or frees it; false where it is not one of its own.
    pub(super) fn fill_disk(&self, fill: bool) -> anyhow::Result<bool> {
        let filler = self.dir.join("data/filler");
        if self.mounted.is_none() {
            return Ok(false);
        }
        if fill {
            // It ends with "no space left", which is what it is for.
            let _full =
                run("dd", Command::new("dd").args(["if=/dev/zero", "bs=4096"]).arg(format!("of={}", filler.display())));
        } else {
            fs::remove_file(&filler)?;
        }
        Ok(true)
    }

    /// Has the TPM's maker publish a revocation list that ends after so long, and the broker fetch it.
    pub(super) fn publish_list(&self, number: u32, valid: Duration) -> anyhow::Result<()> {
        let ca = self.dir.join("tpm/ca");
        fs::write(ca.join("crlnumber"), format!("{number:02x}\n"))?;
        let mut openssl = Command::new("openssl");
        openssl.args(["ca", "-gencrl", "-crlsec", &valid.as_secs().to_string(), "-config"]).arg(ca.join("openssl.cnf"));
        let pem = ca.join("list.pem");
        run_ok("openssl ca", openssl.arg("-out").arg(&pem))?;
        let lists = self.dir.join("data/collateral/tpm");
        fs::create_dir_all(&lists)?;
        let mut convert = Command::new("openssl");
        convert.args(["crl", "-outform", "DER", "-in"]).arg(&pem).arg("-out");
        run_ok("openssl crl", convert.arg(lists.join("maker.crl")))?;
        self.operator(&["collateral", "refresh"]).map(drop)
    }

    /// Sets a process's wall clock so many seconds off; false where clocks cannot be set for a process.
    pub(super) fn set_clock(&self, who: Who, seconds: i64) -> anyhow::Result<bool> {
        if self.faketime.is_none() {
            return Ok(false);
        }
        let path = self.dir.join(format!("{}.clock", who.name()));
        let new = path.with_extension("new");
        fs::write(&new, format!("{seconds:+}"))?;
        fs::rename(new, path)?;
        Ok(true)
    }
}

/// A tmpfs small enough to be filled, where this user may mount one.
fn mount(data: &Path) -> Option<Mounted> {
    crate::config::create_private_dir(data).ok()?;
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=96m,mode=0700", "countersign-chaos"]).arg(data);
    run_ok("mount", &mut mount).ok().map(|_| Mounted(data.to_owned()))
}

/// A maker of TPMs that may sign revocation lists, which the one that swtpm makes by itself may not.
fn authority(ca: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(ca)?;
    let (key, certificate) = (ca.join("signkey.pem"), ca.join("issuercert.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=chaos TPM maker"]);
    openssl.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout"]).arg(&key);
    run_ok("openssl req", openssl.arg("-out").arg(&certificate))?;
    fs::copy(&certificate, ca.join("swtpm-localca-rootca-cert.pem"))?;
    fs::write(ca.join("index.txt"), "")?;
    let settings = format!(
        "[ca]\ndefault_ca = maker\n[maker]\ndatabase = {ca}/index.txt\ncrlnumber = {ca}/crlnumber\n\
         private_key = {ca}/signkey.pem\ncertificate = {ca}/issuercert.pem\ndefault_md = sha256\n\
         crl_extensions = list\n[list]\nauthorityKeyIdentifier = keyid\n",
        ca = ca.display()
    );
    Ok(fs::write(ca.join("openssl.cnf"), settings)?)
}

/// The deployment's own times.
fn hasten(data: &Path) -> anyhow::Result<()> {
    let path = DataDir::at(data).config();
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis());
    let config = Config {
        pulse_period_ms: milliseconds(PERIOD)?,
        pulse_validity_ms: milliseconds(VALIDITY)?,
        lease_ms: milliseconds(LEASE)?,
        attest_interval_ms: milliseconds(INTERVAL)?,
        credential_ttl_ms: 3_600_000,
        ..Config::load(&path)?
    };
    fs::write(&path, toml::to_string(&config)?)?;
    Ok(())
}

fn start_broker(dir: &Path, faketime: Option<&Path>) -> anyhow::Result<(Process, SocketAddr)> {
    let mut broker = with_clock(Path::new("env"), Who::Broker, dir, faketime);
    // A file that may not grow is an error to the broker, as a failing disk is, and not a signal.
    broker.arg("--ignore-signal=XFSZ").arg(std::env::current_exe()?).args(["broker", "--data-dir"]);
    broker.arg(dir.join("data"));
    let (broker, BrokerListening { listening }) = Process::announced("broker", &mut broker, &dir.join("broker.log"))?;
    Ok((broker, SocketAddr::from((Ipv4Addr::LOCALHOST, listening.port()))))
}

/// libfaketime, which gives one process another wall clock.
fn faketime() -> Option<PathBuf> {
    let libraries = fs::read_dir("/usr/lib").ok()?.flatten();
    libraries.map(|entry| entry.path().join("faketime/libfaketime.so.1")).find(|path| path.exists())
}

fn with_clock(program: &Path, who: Who, dir: &Path, faketime: Option<&Path>) -> Command {
    let mut command = Command::new(program);
    vouch(&mut command);
    if let Some(library) = faketime {
        command.env("LD_PRELOAD", library).env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command.env("FAKETIME_TIMESTAMP_FILE", dir.join(format!("{}.clock", who.name())));
    }
    command
}
