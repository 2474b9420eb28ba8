//! The demo's story: one host, from enrolment to denial.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use countersign_attestation::digest::Sha256Digest;
use serde::Deserialize;

use crate::cli::demo::Narrator;
use crate::cli::demo::firmware::{Boot, PCRS};
use crate::cli::demo::stage::{self, BrokerListening, GateListening, Process, run, run_ok, sibling, vouch, wait_until};
use crate::cli::demo::swtpm::{Swtpm, pinned_anchor};
use crate::clock::monotonic;

const HOST: &str = "gpu-host-17";
const TRUST_DOMAIN: &str = "demo.countersign.localhost";
/// What drifts: a system extension is merged while the machine runs.
const DRIFT: (u8, &str) = (13, "a system extension nobody registered");
/// The log that the machine's firmware leaves.
const EVENT_LOG: &str = "event-log";
/// The agent's exit code for a denial.
const DENIED: i32 = 3;

/// Everything that runs. Fields are dropped in this order: who asks first, whom they ask last.
#[derive(Debug)]
pub(super) struct Stage {
    agent: Option<Process>,
    nginx: Process,
    gate: Process,
    broker: Process,
    swtpm: Swtpm,
    dir: PathBuf,
    broker_url: String,
    front: u16,
}

impl Stage {
    /// Leaves everything running.
    pub(super) fn keep(&mut self) {
        for process in [&mut self.nginx, &mut self.gate, &mut self.broker, &mut self.swtpm.process] {
            process.keep();
        }
        let dir = self.dir.display();
        println!("\nLeft running in {dir}; try:");
        println!("  export COUNTERSIGN_BROKER={} COUNTERSIGN_OPERATOR={dir}/data/operator", self.broker_url);
        println!("  countersign hosts list; countersign hosts show {HOST}; countersign hosts readmit {HOST}");
        let ids = [&self.nginx, &self.gate, &self.broker, &self.swtpm.process].map(|process| process.id().to_string());
        println!("  kill {}", ids.join(" "));
    }
}

/// Tells the story; the stage that is left is the one after the denial.
pub(super) fn tell(dir: &Path, narrator: &mut Narrator) -> anyhow::Result<Stage> {
    let (mut stage, cli) = open(dir, narrator)?;
    enroll(&stage, &cli, narrator)?;
    capture(&stage, &cli, narrator)?;
    trust(&mut stage, narrator)?;
    allow(&stage, narrator)?;
    drift(&mut stage, narrator)?;
    explain(&stage, &cli, narrator)?;
    Ok(stage)
}

/// The operator's command line, with the broker and credential of the demo.
struct Operator {
    binary: PathBuf,
    broker: String,
    credential: PathBuf,
}

impl Operator {
    fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.binary);
        command.args(args).env("COUNTERSIGN_BROKER", &self.broker).env("COUNTERSIGN_OPERATOR", &self.credential);
        run_ok(&format!("countersign {}", args.join(" ")), &mut command)
    }
}

fn open(dir: &Path, narrator: &mut Narrator) -> anyhow::Result<(Stage, Operator)> {
    let data = dir.join("data");
    let countersign = std::env::current_exe()?;
    narrator.step("A machine boots: its TPM (a software one here) measures firmware, boot loader and image");
    let started = monotonic();
    let swtpm = Swtpm::start(&dir.join("tpm"))?;
    let boot = Boot::new();
    swtpm.extend(&boot.extended)?;
    narrator.measured("TPM manufactured and PCRs measured", started.elapsed());
    let log = dir.join(EVENT_LOG);
    fs::write(&log, &boot.log)?;
    let told = run_ok("countersign inspect", Command::new(&countersign).arg("inspect").arg(&log))?;
    told.lines().filter(|line| line.trim_start().starts_with("* ")).for_each(|line| narrator.show(line.trim_start()));

    narrator.step("The broker starts on its embedded store");
    let started = monotonic();
    let anchor = pinned_anchor(&dir.join("tpm"))?;
    let mut init = Command::new(&countersign);
    vouch(&mut init);
    init.args(["init", "--trust-domain", TRUST_DOMAIN, "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data);
    run_ok("countersign init", init.arg("--simulated-tpm-anchor").arg(&anchor))?;
    let mut broker = Command::new(&countersign);
    broker.args(["broker", "--data-dir"]).arg(&data);
    let (broker, BrokerListening { listening }) = Process::announced("broker", &mut broker, &dir.join("broker.log"))?;
    let broker_url = format!("https://localhost:{}", listening.port());
    narrator.measured(&format!("initialised, and serving on {broker_url}"), started.elapsed());
    narrator.show("clock_sync = asserted: all run by one clock here, so the kernel is not asked how far off it is");

    narrator.step("A relying party: nginx asks the gate about every client certificate");
    let mut gate = Command::new(sibling("countersign-gate")?);
    vouch(&mut gate);
    gate.args(["--listen", "127.0.0.1:0", "--trust-domain", TRUST_DOMAIN, "--broker", &broker_url, "--trust-dir"]);
    gate.arg(data.join("public"));
    let (gate, GateListening { listen }) = Process::announced("gate", &mut gate, &dir.join("gate.log"))?;
    let (nginx, front) = start_nginx(dir, &listen)?;
    narrator.show(&format!("gate on {listen}, following the broker's pulses; nginx on https://localhost:{front}"));
    fs::write(dir.join("gate"), &listen)?;
    let operator = Operator { binary: countersign, broker: broker_url.clone(), credential: data.join("operator") };
    let stage = Stage { agent: None, nginx, gate, broker, swtpm, dir: dir.to_owned(), broker_url, front };
    Ok((stage, operator))
}

#[derive(Deserialize)]
struct Identity {
    fingerprint: String,
    issuer: String,
}

fn enroll(stage: &Stage, operator: &Operator, narrator: &mut Narrator) -> anyhow::Result<()> {
    narrator.step("The operator registers the host with the EK that must be found in it; the host enrols");
    let mut identity = agent(stage, &["identity", "--output", "json"])?;
    let identity: Identity = serde_json::from_str(&run_ok("countersign-agent identity", &mut identity)?)?;
    narrator.show(&format!("EK {}\nissued by {}", identity.fingerprint, identity.issuer));
    operator.run(&["hosts", "add", HOST, "--ek-sha256", &identity.fingerprint, "--label", "rack=4"])?;
    let started = monotonic();
    let mut enroll = agent(stage, &["enroll", "--host", HOST, "--broker", &stage.broker_url])?;
    enroll.arg("--broker-ca").arg(stage.dir.join("data/public/broker-ca.pem"));
    run_ok("countersign-agent enroll", enroll.arg("--state-dir").arg(stage.dir.join("agent")))?;
    narrator.measured("EK certificate checked, AK created, credential activated in the TPM", started.elapsed());
    Ok(())
}

fn capture(stage: &Stage, operator: &Operator, narrator: &mut Narrator) -> anyhow::Result<()> {
    narrator
        .step("Without references nobody is trusted; the operator registers the golden state that the quote showed");
    let mut once = agent(stage, &["run", "--once"])?;
    let output = run("countersign-agent run --once", once.arg("--state-dir").arg(stage.dir.join("agent")))?;
    ensure!(output.status.code() == Some(DENIED), "expected a denial, found {}", output.status);
    narrator.show("denied, as it must be: no reference manifest matches");
    operator.run(&["refs", "capture", HOST, "--id", "inference-image-42", "--pcrs", PCRS, "--register"])?;
    narrator.show(&format!("registered: manifest inference-image-42, SHA-256 PCRs {PCRS}"));
    Ok(())
}

fn trust(stage: &mut Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    narrator.step("The host attests, gets its execution credential, and only then starts the workload");
    let started = monotonic();
    let mut daemon = agent(stage, &["run"])?;
    daemon.arg("--state-dir").arg(stage.dir.join("agent")).arg("--events").arg(stage.dir.join("events.jsonl"));
    daemon.args(["--", "sleep", "infinity"]);
    stage.agent = Some(Process::start("countersign-agent", &mut daemon)?);
    let started_workload = event(stage, "workload_started")?;
    narrator.measured("challenged, quoted, certified, verified, appraised, recorded, issued", started.elapsed());
    let certificate = credential(stage, "credential.pem");
    let mut show = Command::new("openssl");
    show.args(["x509", "-noout", "-serial", "-enddate", "-ext", "subjectAltName", "-in"]).arg(&certificate);
    narrator.show(&run_ok("openssl x509", &mut show)?);
    let mut verify = Command::new("openssl");
    verify.arg("verify").arg("-CAfile").arg(credential(stage, "bundle.pem"));
    // The issuing certificate follows the leaf in the same file.
    verify.arg("-untrusted").arg(&certificate).arg(&certificate);
    narrator.show(&format!("openssl verify: {}", run_ok("openssl verify", &mut verify)?.trim()));
    narrator.show(&format!("workload running, pid {}", started_workload.pid.context("no pid")?));
    Ok(())
}

fn allow(stage: &Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    narrator.step("A request with the credential, signed by the key inside the TPM, passes nginx and the gate");
    wait_until("the gate knows the credential", || Ok(ask_gate(stage)? == 200))?;
    let started = monotonic();
    let (status, body) = curl(stage)?;
    ensure!(status == 200, "expected 200, found {status}: {body}");
    narrator.measured("curl --cert credential.pem --key key.pem: 200", started.elapsed());
    narrator.show(&body);
    Ok(())
}

fn drift(stage: &mut Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    let (pcr, what) = DRIFT;
    narrator.step(&format!("Drift: {what} is measured into PCR {pcr}"));
    let certificate = fs::read_to_string(credential(stage, "credential.pem"))?;
    let started = monotonic();
    stage.swtpm.extend(&[(pcr, Sha256Digest::of(&[what.as_bytes()]))])?;
    let extended = started.elapsed();
    wait_until("the gate denies", || Ok(ask_gate_about(stage, &certificate)? == 403))?;
    let denied = started.elapsed();
    narrator.measured("PCR extended", extended);
    narrator.measured("from the extend's start to the gate's first 403", denied);
    ensure!(denied < Duration::from_secs(1), "expected a denial within 1 s, found {denied:?}");

    narrator.step("The credential is revoked, the workload is stopped, the request is denied");
    let frozen = event(stage, "workload_frozen")?;
    let killed = event(stage, "workload_killed")?;
    let lost = event(stage, "trust_lost")?;
    narrator.show(&format!("trust lost: {}", lost.code.unwrap_or_default()));
    let micros = Duration::from_micros(frozen.took_us.unwrap_or_default());
    narrator.measured("freezing the workload", micros);
    narrator.measured(
        "from frozen to killed (the grace)",
        Duration::from_millis(killed.at_ms.saturating_sub(frozen.at_ms)),
    );
    let mut agent = stage.agent.take().context("the agent runs")?;
    ensure!(agent.wait()? == Some(DENIED), "expected the agent to end with {DENIED}");
    let left = credential(stage, "credential.pem");
    ensure!(!left.exists(), "expected the credential to be gone, found {}", left.display());
    let status = ask_gate_about(stage, &certificate)?;
    ensure!(status == 403, "expected 403, found {status}");
    narrator.show("the host's old certificate at the gate: 403");
    Ok(())
}

#[derive(Deserialize)]
struct HostShown {
    trust: TrustShown,
}

#[derive(Deserialize)]
struct TrustShown {
    standing: String,
    last_entry: u64,
}

fn explain(stage: &Stage, operator: &Operator, narrator: &mut Narrator) -> anyhow::Result<()> {
    narrator.step("Why: the operator sees it all, and the decision replays bit for bit from the log");
    narrator.show(&operator.run(&["hosts", "show", HOST])?);
    let host: HostShown = serde_json::from_str(&operator.run(&["hosts", "show", HOST, "--output", "json"])?)?;
    ensure!(host.trust.standing == "revoked", "expected revoked, found {}", host.trust.standing);
    let data = stage.dir.join("data");
    let data = data.to_str().context("a path in UTF-8")?;
    let started = monotonic();
    let entry = host.trust.last_entry.to_string();
    narrator.show(&operator.run(&["replay", "--data-dir", data, "--entry", &entry])?);
    narrator.measured("decision replayed from its archived inputs", started.elapsed());
    let started = monotonic();
    narrator.show(&operator.run(&["log", "verify", "--data-dir", data])?);
    narrator.measured("whole log verified offline", started.elapsed());
    Ok(())
}

fn agent(stage: &Stage, args: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(sibling("countersign-agent")?);
    vouch(&mut command).args(args).env("COUNTERSIGN_TCTI", stage.swtpm.tcti());
    // The software TPM has not this machine's firmware and kernel behind it.
    command.env("COUNTERSIGN_EVENT_LOG", stage.dir.join(EVENT_LOG));
    command.env("COUNTERSIGN_IMA_LIST", stage.dir.join("ima-list"));
    Ok(command)
}

/// A file of the credential that the agent keeps.
fn credential(stage: &Stage, file: &str) -> PathBuf {
    stage.dir.join("agent/credential").join(file)
}

#[derive(Debug, Deserialize)]
struct AgentEvent {
    event: String,
    at_ms: u64,
    code: Option<String>,
    took_us: Option<u64>,
    pid: Option<u32>,
}

/// The agent's first event of a kind, waited for.
fn event(stage: &Stage, kind: &str) -> anyhow::Result<AgentEvent> {
    let path = stage.dir.join("events.jsonl");
    let mut found = None;
    wait_until(&format!("the agent tells of {kind}"), || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        // A line that is being written does not parse yet.
        let mut events = text.lines().filter_map(|line| serde_json::from_str::<AgentEvent>(line).ok());
        found = events.find(|event| event.event == kind);
        Ok(found.is_some())
    })?;
    found.context("found above")
}

fn ask_gate(stage: &Stage) -> anyhow::Result<u16> {
    ask_gate_about(stage, &fs::read_to_string(credential(stage, "credential.pem"))?)
}

/// What the gate says of a certificate, asked as nginx asks: status of `GET /authorize`.
fn ask_gate_about(stage: &Stage, certificate_pem: &str) -> anyhow::Result<u16> {
    stage::ask_gate(&fs::read_to_string(stage.dir.join("gate"))?, certificate_pem)
}

/// A request through nginx with the key that lives in the TPM: OpenSSL's tpm2 provider signs the TLS handshake.
fn curl(stage: &Stage) -> anyhow::Result<(u16, String)> {
    let conf = stage.dir.join("openssl.cnf");
    fs::write(&conf, OPENSSL_CONF)?;
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--write-out", "\n%{http_code}", "--max-time", "10", "--cacert"]);
    curl.arg(stage.dir.join("front.pem")).arg("--cert").arg(credential(stage, "credential.pem"));
    curl.arg("--key").arg(credential(stage, "key.pem")).arg(format!("https://localhost:{}/", stage.front));
    curl.env("OPENSSL_CONF", conf).env("TPM2OPENSSL_TCTI", stage.swtpm.tcti());
    let answer = run_ok("curl", &mut curl)?;
    let (body, status) = answer.rsplit_once('\n').context("curl writes the status last")?;
    Ok((status.parse()?, body.trim().to_owned()))
}

/// OpenSSL with the TPM's provider for the key, and its own randomness.
const OPENSSL_CONF: &str = "openssl_conf = init
[init]
providers = providers
random = random
alg_section = algorithms
[providers]
default = default_provider
tpm2 = tpm2_provider
[default_provider]
activate = 1
[tpm2_provider]
activate = 1
[algorithms]
default_properties = ?tpm2.signature=yes
[random]
properties = provider=default
";

/// nginx with a throw-away server certificate: client certificates of the workload CA, each asked of the gate.
fn start_nginx(dir: &Path, gate: &str) -> anyhow::Result<(Process, u16)> {
    let root = dir.join("nginx");
    fs::create_dir_all(&root)?;
    let (key, certificate) = (root.join("server.key"), dir.join("front.pem"));
    let mut openssl = Command::new("openssl");
    // Ed25519: the tpm2 provider would verify an ECDSA server's signature inside the TPM, and run out of its slots.
    openssl.args(["req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout"]).arg(&key);
    run_ok("openssl req", openssl.arg("-out").arg(&certificate))?;
    for _ in 0..20 {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let conf = nginx_conf(dir, &root, gate, port);
        fs::write(root.join("nginx.conf"), conf)?;
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(&root).arg("-c").arg(root.join("nginx.conf")).arg("-e").arg(root.join("error.log"));
        let process = Process::start("nginx", &mut nginx)?;
        let up = wait_until("nginx listens", || Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()));
        if up.is_ok() {
            return Ok((process, port));
        }
    }
    bail!("nginx did not come up; see {}", root.join("error.log").display())
}

fn nginx_conf(dir: &Path, root: &Path, gate: &str, port: u16) -> String {
    let (root, dir) = (root.display(), dir.display());
    format!(
        r#"daemon off;
master_process off;
worker_processes 1;
pid {root}/nginx.pid;
error_log {root}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {root}/body;
  proxy_temp_path {root}/proxy;
  fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi;
  scgi_temp_path {root}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {dir}/front.pem;
    ssl_certificate_key {root}/server.key;
    ssl_protocols TLSv1.3;
    ssl_client_certificate {dir}/data/public/trust-bundle.pem;
    ssl_verify_client on;
    location = /gate {{
      internal;
      proxy_pass http://{gate}/authorize;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header X-SSL-Client-Cert $ssl_client_escaped_cert;
    }}
    location / {{
      auth_request /gate;
      auth_request_set $who $upstream_http_x_countersign_spiffe_id;
      auth_request_set $assurance $upstream_http_x_countersign_assurance;
      return_if_allowed;
    }}
  }}
}}
"#
    )
    // `return` runs before auth_request; an upstream that is only reached when allowed answers instead.
    .replace("return_if_allowed;", "try_files /nothing @allowed;")
    .replace(
        "    location = /gate",
        "    location @allowed {\n      default_type text/plain;\n      return 200 \"allowed: $who ($assurance)\\n\";\n    }\n    location = /gate",
    )
}
