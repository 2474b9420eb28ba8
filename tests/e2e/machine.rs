//! A machine with a TPM (swtpm), booted into a known state, with its logs and our agent on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use countersign_attestation::digest::Sha256Digest;
use serde::Deserialize;

use crate::firmware::Boot;
use crate::fleet::{Fleet, Process, product, succeed, wait_until};
use crate::kernel::{Extend, Kernel};
use crate::swtpm::Swtpm;

/// The kernel that machines boot.
pub(crate) const KERNEL: &str = "/boot/vmlinuz-6.12";
/// What firmware and boot loader measure, with a log, and what the system measures later, without one.
pub(crate) const PCRS: &str = "0,4,7,11";

pub(crate) struct Machine {
    pub(crate) tpm: Swtpm,
    /// The kernel's measurement list, on machines whose kernel keeps one.
    pub(crate) kernel: Option<Kernel>,
    folder: PathBuf,
    /// How much the agent logs.
    pub(crate) log: &'static str,
    told: Told,
}

#[derive(Debug, Deserialize)]
pub(crate) struct AgentEvent {
    pub(crate) event: String,
    pub(crate) code: Option<String>,
    pub(crate) pid: Option<u32>,
}

/// Of the logs, what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) event_log_bytes: Option<u64>,
    pub(crate) ima_from: Option<u64>,
    pub(crate) ima_bytes: Option<u64>,
}

#[derive(Deserialize)]
struct Identity {
    fingerprint: String,
}

impl Machine {
    /// Manufactures and boots a machine in a folder of its own.
    pub(crate) fn boot(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let machine = Self {
            tpm: Swtpm::start(&folder.join("tpm")),
            kernel: None,
            folder: folder.to_owned(),
            log: "info",
            told: Told(folder.to_owned()),
        };
        machine.measure();
        machine
    }

    /// Power off, power on, and the same boot again.
    pub(crate) fn reboot(self) -> Self {
        let Self { tpm, folder, log, told, .. } = self;
        // TPM2_Shutdown, as an operating system does; without it the TPM counts a failure.
        assert!(tpm.tool("tpm2_shutdown", &["--clear"]).status.success());
        drop(tpm);
        let machine = Self { tpm: Swtpm::resume(&folder.join("tpm")), kernel: None, folder, log, told };
        machine.measure();
        machine
    }

    fn measure(&self) {
        let boot = Boot::of(KERNEL);
        self.tpm.extend_all(&boot.extends());
        fs::write(self.event_log(), boot.log()).unwrap();
        self.extend(11, "system extensions");
    }

    pub(crate) fn event_log(&self) -> PathBuf {
        self.folder.join("binary_bios_measurements")
    }

    /// The kernel begins its measurement list.
    pub(crate) fn start_ima(&mut self) {
        let list = self.folder.join("binary_runtime_measurements");
        let (kernel, first) = Kernel::boot(&list, &Boot::of(KERNEL).pcrs());
        self.kernel = Some(kernel);
        self.extend_with(first);
    }

    /// What the kernel has put on its list goes to the PCR.
    pub(crate) fn extend_with(&self, Extend(digests): Extend) {
        self.tpm.extend_all(&[digests]);
    }

    pub(crate) fn extend(&self, pcr: u8, what: &str) {
        self.tpm.extend(pcr, &Sha256Digest::of(&[what.as_bytes()]).to_hex());
    }

    /// Root, then issuer of the EK certificate: what an operator pins.
    pub(crate) fn anchor(&self) -> PathBuf {
        let [issuer, root] = self.tpm.ca_certificates().map(|path| fs::read_to_string(path).unwrap());
        let path = self.folder.join("anchor.pem");
        fs::write(&path, root + &issuer).unwrap();
        path
    }

    pub(crate) fn agent(&self, args: &[&str]) -> Command {
        let mut command = product("countersign-agent");
        command.args(args).env("COUNTERSIGN_TCTI", self.tpm.tcti()).env("RUST_LOG", self.log).env("NO_COLOR", "1");
        command.env("COUNTERSIGN_STATE_DIR", self.state()).stdin(Stdio::null());
        command.env("COUNTERSIGN_EVENT_LOG", self.event_log());
        command.env("COUNTERSIGN_IMA_LIST", self.folder.join("binary_runtime_measurements"));
        command
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Registered by the operator, enrolled by the agent.
    pub(crate) fn enroll(&self, fleet: &Fleet, id: &str) -> String {
        self.enroll_by(fleet, id, "rsa2048")
    }

    /// Likewise, with this kind of EK.
    pub(crate) fn enroll_by(&self, fleet: &Fleet, id: &str, ek: &str) -> String {
        let identity = succeed(self.agent(&["identity", "--output", "json", "--ek", ek]).env("RUST_LOG", "error"));
        let identity: Identity = serde_json::from_str(&identity).unwrap();
        fleet.operator_ok(&["hosts", "add", id, "--ek-sha256", &identity.fingerprint, "--label", "rack=4"]);
        let mut enroll = self.agent(&["enroll", "--host", id, "--ek", ek, "--broker", &fleet.url(), "--broker-ca"]);
        let output = enroll.arg(fleet.broker_ca()).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}");
        fs::write(self.folder.join("enroll.log"), said).unwrap();
        identity.fingerprint
    }

    /// Attests once; the exit code and what was said.
    pub(crate) fn attest_once(&self) -> (Option<i32>, String) {
        let output = self.agent(&["run", "--once"]).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What the last attestation sent of the logs.
    pub(crate) fn sent(said: &str) -> Sent {
        let line = said.lines().rfind(|line| line.contains("evidence is collected"));
        let line = line.unwrap_or_else(|| panic!("what was sent: {said}"));
        let number = |name: &str| -> Option<u64> {
            let (_, rest) = line.split_once(&format!("{name}="))?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let [event_log_bytes, ima_from, ima_bytes] = ["event_log_bytes", "ima_from", "ima_bytes"].map(number);
        Sent { event_log_bytes, ima_from, ima_bytes }
    }

    /// The golden state that the newest evidence showed becomes a reference.
    pub(crate) fn capture(&self, fleet: &Fleet, id: &str, manifest: &str) {
        fleet.operator_ok(&["refs", "capture", id, "--id", manifest, "--pcrs", PCRS, "--register"]);
    }

    /// The daemon with a workload; its events start anew.
    pub(crate) fn run(&self) -> Process {
        let _none_yet = fs::remove_file(self.events_file());
        let log = fs::File::options().create(true).append(true).open(self.folder.join("agent.log")).unwrap();
        let mut daemon = self.agent(&["run", "--events"]);
        daemon.arg(self.events_file()).args(["--", "sleep", "infinity"]).stdout(Stdio::null()).stderr(log);
        Process(daemon.spawn().unwrap())
    }

    fn events_file(&self) -> PathBuf {
        self.folder.join("events.jsonl")
    }

    /// The first event of a kind, waited for.
    pub(crate) fn event(&self, kind: &str) -> AgentEvent {
        let mut found = None;
        wait_until(&format!("the agent tells of {kind}"), || {
            let text = fs::read_to_string(self.events_file()).unwrap_or_default();
            // A line that is being written does not parse yet.
            let mut events = text.lines().filter_map(|line| serde_json::from_str::<AgentEvent>(line).ok());
            found = events.find(|event| event.event == kind);
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn credential(&self, file: &str) -> PathBuf {
        self.state().join("credential").join(file)
    }

    pub(crate) fn certificate(&self) -> String {
        fs::read_to_string(self.credential("credential.pem")).unwrap()
    }

    /// Everything the agent said.
    pub(crate) fn logs(&self) -> String {
        let logs = ["enroll.log", "agent.log", "events.jsonl"].map(|log| self.folder.join(log));
        logs.map(|log| fs::read_to_string(log).unwrap_or_default()).concat()
    }
}

/// Shows what the agent said when a test fails.
struct Told(PathBuf);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let read = |name: &str| fs::read_to_string(self.0.join(name)).unwrap_or_default();
            let log = read("agent.log");
            let ours = log.lines().filter(|line| !line.contains("TRACE") && !line.contains("DEBUG"));
            eprintln!("{}\n{}", read("events.jsonl"), ours.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// Whether a process is there and no zombie.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Sockets and TPMs that a process has open. (Pipes come from whoever runs the tests.)
pub(crate) fn open_connections(pid: u32) -> Vec<PathBuf> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap().path());
    let targets = open.filter_map(|path| fs::read_link(path).ok());
    let ways = ["socket:", "/dev/tpm"];
    targets.filter(|target| ways.iter().any(|way| target.to_string_lossy().starts_with(way))).collect()
}
