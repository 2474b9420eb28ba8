//! A broker and a gate, started as an operator starts them.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use countersign::config::Config;
use countersign::keys::operator::OperatorKey;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Answer, Client};

pub(crate) const TRUST_DOMAIN: &str = "e2e.countersign.test";
/// Nothing on one machine takes this long, however loaded it is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A process that is killed with the value.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// `kill -9`, and gone.
    pub(crate) fn kill(&mut self) {
        let _ended_already = self.0.kill();
        self.0.wait().unwrap();
    }

    /// Waits for the end and gives the exit code.
    pub(crate) fn code(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until("the process ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Broker, gate, and the operator's credential.
pub(crate) struct Fleet {
    pub(crate) broker: Option<Process>,
    gate: Process,
    pub(crate) gate_address: String,
    pub(crate) port: u16,
    /// The SPIFFE bundle endpoint, where the settings have one.
    pub(crate) federation: Option<std::net::SocketAddr>,
    root: TempDir,
    log: &'static str,
}

impl Fleet {
    /// A fleet with the shipped settings.
    pub(crate) fn start(anchors: &[PathBuf]) -> Self {
        Self::start_with(anchors, |_| {})
    }

    /// A fleet with other settings.
    pub(crate) fn start_with(anchors: &[PathBuf], change: impl FnOnce(&mut Config)) -> Self {
        Self::start_logging(anchors, "info", change)
    }

    /// A fleet that logs as much as it is told to.
    pub(crate) fn start_logging(anchors: &[PathBuf], log: &'static str, change: impl FnOnce(&mut Config)) -> Self {
        let root = TempDir::with_prefix("countersign-e2e-").unwrap();
        let data = root.path().join("data");
        let mut init = countersign();
        init.args(["init", "--trust-domain", TRUST_DOMAIN, "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data);
        for anchor in anchors {
            init.arg("--simulated-tpm-anchor").arg(anchor);
        }
        succeed(&mut init);
        let mut config = Config::load(&data.join("config.toml")).unwrap();
        change(&mut config);
        fs::write(data.join("config.toml"), toml::to_string(&config).unwrap()).unwrap();
        let (broker, BrokerListening { listening, federation }) = start_broker(root.path(), 0, log);
        let port = listening.port();
        let (gate, gate_address) = start_gate(root.path(), port, log);
        Self { broker: Some(broker), gate, gate_address, port, federation, root, log }
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    pub(crate) fn broker_ca(&self) -> PathBuf {
        self.data().join("public/broker-ca.pem")
    }

    /// `kill -9` of the broker.
    pub(crate) fn kill_broker(&mut self) {
        self.broker.take().unwrap().kill();
    }

    /// The broker again, on the same data and port.
    pub(crate) fn restart_broker(&mut self) {
        let (broker, BrokerListening { listening, .. }) = start_broker(self.path(), self.port, self.log);
        assert_eq!(listening.port(), self.port);
        self.broker = Some(broker);
    }

    /// The operator's command line.
    pub(crate) fn operator(&self, args: &[&str]) -> Output {
        let mut command = countersign();
        command.args(args).env("COUNTERSIGN_BROKER", self.url());
        command.env("COUNTERSIGN_OPERATOR", self.data().join("operator"));
        command.env("COUNTERSIGN_DATA_DIR", self.data());
        command.output().unwrap()
    }

    /// Retires a manifest as previewed; what that printed.
    pub(crate) fn retire(&self, id: &str) -> String {
        let preview = self.operator_ok(&["what-if", "--retire", id, "--output", "json"]);
        let preview: serde_json::Value = serde_json::from_str(&preview).unwrap();
        self.operator_ok(&["refs", "retire", id, "--preview", preview["change"].as_str().unwrap()])
    }

    /// The operator's command line, which has to succeed; what it printed.
    pub(crate) fn operator_ok(&self, args: &[&str]) -> String {
        let output = self.operator(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "countersign {}: {} {errors}", args.join(" "), output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// A manifest as the operator signs and submits it.
    pub(crate) fn signed(&self, manifest: &Value) -> Value {
        let key = OperatorKey::load(&self.data().join("operator")).unwrap();
        json!({ "note": key.sign(&serde_json::to_string_pretty(manifest).unwrap()).unwrap() })
    }

    /// Registers what is good.
    pub(crate) fn register(&self, manifest: &Value) {
        let answer = self.as_operator().send("POST", "/v1/references", Some(&self.signed(manifest)));
        assert_eq!(answer.status, 201, "{}", answer.text());
    }

    /// A client with the operator's certificate.
    pub(crate) fn as_operator(&self) -> Client {
        self.as_holder(&self.data().join("operator"))
    }

    /// A client with the certificate in a folder: certificate.pem and key.pem.
    pub(crate) fn as_holder(&self, folder: &Path) -> Client {
        Client::new(self.port, &self.broker_ca(), Some((folder.join("certificate.pem"), folder.join("key.pem"))))
    }

    /// A client without a certificate.
    pub(crate) fn as_anyone(&self) -> Client {
        Client::new(self.port, &self.broker_ca(), None)
    }

    /// What the gate says of a certificate, asked as a proxy asks.
    pub(crate) fn gate(&self, certificate_pem: &str) -> Said {
        ask_gate(&self.gate_address, certificate_pem)
    }

    /// Waits until the gate answers so, and gives the last answer.
    pub(crate) fn gate_until(&self, certificate_pem: &str, status: u16) -> Said {
        let mut said = self.gate(certificate_pem);
        wait_until(&format!("the gate says {status}"), || {
            said = self.gate(certificate_pem);
            said.status == status
        });
        said
    }

    /// What an operator sees of a host.
    pub(crate) fn host(&self, id: &str) -> HostShown {
        self.as_operator().get(&format!("/v1/hosts/{id}"))
    }

    /// Waits until the host stands so.
    pub(crate) fn host_until(&self, id: &str, standing: &str) -> HostShown {
        let mut host = self.host(id);
        wait_until(&format!("{id} is {standing}"), || {
            host = self.host(id);
            host.trust.standing == standing
        });
        host
    }

    /// The newest signed checkpoint, a C2SP note.
    pub(crate) fn checkpoint(&self) -> String {
        self.as_anyone().send("GET", "/v1/log/checkpoint", None).text()
    }

    /// Entries in the log, as the newest checkpoint says.
    pub(crate) fn log_size(&self) -> u64 {
        checkpoint_size(&self.checkpoint())
    }

    /// Every entry of the log.
    pub(crate) fn entries(&self) -> Vec<EntryShown> {
        self.entries_below(self.log_size())
    }

    pub(crate) fn entries_below(&self, size: u64) -> Vec<EntryShown> {
        let mut connection = self.as_operator().connect().unwrap();
        let read = |index| {
            let answer = connection.send("GET", &format!("/v1/log/entries/{index}"), None).unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.json()
        };
        (0..size).map(read).collect()
    }

    /// `kill -9` of the gate.
    pub(crate) fn kill_gate(&mut self) {
        self.gate.kill();
    }

    /// Everything that broker and gate logged.
    pub(crate) fn logs(&self) -> String {
        ["broker.log", "gate.log"].map(|log| fs::read_to_string(self.path().join(log)).unwrap()).concat()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.logs();
            let from = logs.len().saturating_sub(6000);
            eprintln!("…{}", logs.get(from..).unwrap_or(&logs));
        }
        self.gate.kill();
    }
}

pub(crate) fn checkpoint_size(note: &str) -> u64 {
    note.lines().nth(1).and_then(|size| size.parse().ok()).unwrap_or_else(|| panic!("a checkpoint: {note}"))
}

/// An answer of the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct HostShown {
    pub(crate) trust: TrustShown,
    pub(crate) enrolled: Option<serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct TrustShown {
    pub(crate) standing: String,
    pub(crate) generation: u64,
    pub(crate) last_entry: u64,
    pub(crate) reasons: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct EntryShown {
    pub(crate) index: u64,
    pub(crate) leaf_hash: String,
    pub(crate) bytes: String,
    pub(crate) event: String,
    pub(crate) host: Option<String>,
}

/// `GET /authorize` with the certificate in the header that nginx sets.
pub(crate) fn ask_gate(address: &str, certificate_pem: &str) -> Said {
    // nginx hands over the leaf alone.
    let leaf = certificate_pem.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap_or_default();
    let escaped: String = leaf.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head =
        format!("GET /authorize HTTP/1.1\r\nhost: gate\r\nconnection: close\r\nx-ssl-client-cert: {escaped}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let answer = Answer::read(&mut stream).unwrap();
    Said { status: answer.status, reason: answer.header("x-countersign-reason").unwrap_or_default().to_owned() }
}

#[derive(Deserialize)]
struct BrokerListening {
    listening: std::net::SocketAddr,
    federation: Option<std::net::SocketAddr>,
}

#[derive(Deserialize)]
struct GateListening {
    listen: String,
}

fn start_broker(root: &Path, port: u16, log: &str) -> (Process, BrokerListening) {
    // A write that the limits refuse is an error to the broker, as a failing disk is, and not a signal.
    let mut broker = Command::new("env");
    broker
        .args(["--ignore-signal=XFSZ", env!("CARGO_BIN_EXE_countersign")])
        .args(["broker", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
        .arg(root.join("data"))
        .env("COUNTERSIGN_LOG", log);
    announced(&mut broker, &root.join("broker.log"))
}

fn start_gate(root: &Path, broker: u16, log: &str) -> (Process, String) {
    let mut gate = product("countersign-gate");
    gate.args(["--listen", "127.0.0.1:0", "--trust-domain", TRUST_DOMAIN, "--trust-dir"]).arg(root.join("data/public"));
    gate.args(["--broker", &format!("https://localhost:{broker}")]).env("COUNTERSIGN_LOG", log);
    let (process, GateListening { listen }) = announced(&mut gate, &root.join("gate.log"));
    (process, listen)
}

/// Starts a server that says on standard output where it listens; its log grows in a file.
pub(crate) fn announced<T: for<'de> Deserialize<'de>>(command: &mut Command, log: &Path) -> (Process, T) {
    let log_file = File::options().create(true).append(true).open(log).unwrap();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file).spawn().unwrap();
    let mut process = Process(child);
    let mut line = String::new();
    BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said = serde_json::from_str(&line);
    (process, said.unwrap_or_else(|_| panic!("{command:?}: {}", fs::read_to_string(log).unwrap())))
}

/// The product's command line.
pub(crate) fn countersign() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    vouched(&mut command).stdin(Stdio::null());
    command
}

/// The gate or the agent.
pub(crate) fn product(name: &str) -> Command {
    let mut command = Command::new(sibling(name));
    vouched(&mut command);
    command
}

/// All run on one machine, so that no clock errs against another: we vouch for it, whatever its kernel knows.
fn vouched(command: &mut Command) -> &mut Command {
    command.env("COUNTERSIGN_CLOCK_SYNC", "asserted").env("COUNTERSIGN_CLOCK_ERROR_MAX_MS", "50")
}

/// A binary of another package, built from the present sources: `cargo test` of one package does not build it.
pub(crate) fn sibling(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    let folder = Path::new(env!("CARGO_BIN_EXE_countersign")).parent().unwrap();
    BUILT.get_or_init(|| {
        let sources = ["agent/src", "gate/src", "clock/src", "attestation/src", "policies/src"]
            .map(|sources| newest(&root().join(sources)));
        let newest = sources.into_iter().max().unwrap();
        let binaries = ["countersign-agent", "countersign-gate"].map(|name| folder.join(name));
        let built = |path: &PathBuf| fs::metadata(path).is_ok_and(|file| newest <= file.modified().unwrap());
        if !binaries.iter().all(built) {
            let profile = folder.file_name().unwrap().to_str().unwrap().replace("debug", "dev");
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "-p", "countersign-agent", "-p", "countersign-gate", "--profile", &profile]);
            succeed(cargo.current_dir(root()));
        }
    });
    folder.join(name)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn newest(folder: &Path) -> std::time::SystemTime {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let times =
        entries.map(|path| if path.is_dir() { newest(&path) } else { path.metadata().unwrap().modified().unwrap() });
    times.max().unwrap_or(std::time::UNIX_EPOCH)
}

/// Runs a command that has to succeed; what it printed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Looks again and again until `done`.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
