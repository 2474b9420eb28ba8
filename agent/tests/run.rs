//! The whole agent against a real software TPM and a broker that grants and denies on command.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod broker;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "../../tests/sim/swtpm.rs"]
mod swtpm;

use core::time::Duration;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output};

use broker::{Answer, Broker, IMA_ENTRY_BYTES};
use countersign_attestation::protocol::{Base64Bytes, Endorsement};
use rustls_pki_types::pem::PemObject as _;
use swtpm::Swtpm;

/// A host: TPM, broker and state directory.
struct Host {
    directory: tempfile::TempDir,
    tpm: Swtpm,
    broker: Broker,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tpm = Swtpm::start(&directory.path().join("tpm"));
        let broker = Broker::start(directory.path());
        Self { directory, tpm, broker }
    }

    fn enrolled() -> Self {
        let host = Self::new();
        let output = host.enroll("host-1");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn agent(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersign-agent"));
        command.env("COUNTERSIGN_STATE_DIR", self.path("state"));
        // Nobody keeps the clock of a machine that builds.
        command.env("COUNTERSIGN_CLOCK_SYNC", "asserted").env("COUNTERSIGN_CLOCK_ERROR_MAX_MS", "50");
        command.env("COUNTERSIGN_EVENT_LOG", self.path("event-log")).env("COUNTERSIGN_IMA_LIST", self.path("ima-list"));
        command
    }

    fn enroll(&self, id: &str) -> Output {
        let mut agent = self.agent();
        agent.args(["enroll", "--host", id, "--broker", &self.broker.url(), "--tcti", &self.tpm.tcti()]);
        agent.arg("--intermediates").arg(&self.tpm.ca_certificates()[0]);
        agent.arg("--broker-ca").arg(self.broker.ca()).output().unwrap()
    }

    fn once(&self) -> Output {
        self.agent().args(["run", "--once"]).output().unwrap()
    }

    /// `run -- sh -c SCRIPT` with events.
    fn run(&self, options: &[&str], script: &str) -> Running {
        let events = self.path("events");
        let mut agent = self.agent();
        agent.arg("run").arg("--events").arg(&events).args(options).args(["--", "sh", "-c", script]);
        Running { child: agent.spawn().unwrap(), events }
    }

    /// What the broker says to a curl that presents the credential, with the TPM signing the handshake.
    fn curl_with_the_credential(&self) -> String {
        let configuration = self.path("openssl.cnf");
        let text = "openssl_conf = init\n[init]\nproviders = providers\nrandom = random\nalg_section = algorithms\n\
                    [providers]\ndefault = default_section\ntpm2 = tpm2_section\n[default_section]\nactivate = 1\n\
                    [tpm2_section]\nactivate = 1\n[algorithms]\ndefault_properties = ?tpm2.signature=yes\n\
                    [random]\nproperties = provider=default\n";
        fs::write(&configuration, text).unwrap();
        let mut curl = Command::new("curl");
        curl.env("OPENSSL_CONF", configuration).env("TPM2OPENSSL_TCTI", self.tpm.tcti()).args([
            "-sS",
            "--noproxy",
            "*",
        ]);
        curl.arg("--cacert").arg(self.broker.ca()).arg("--cert").arg(self.credential("credential.pem"));
        curl.arg("--key").arg(self.credential("key.pem")).arg(format!("{}/v1/whoami", self.broker.url()));
        let output = curl.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The kernel measures something: first the list, then the PCR.
    fn measure(&self, what: u8) {
        let mut list = fs::File::options().create(true).append(true).open(self.path("ima-list")).unwrap();
        list.write_all(&ima_entry(what)).unwrap();
        self.tpm.extend(10, &hex::encode([what; 32]));
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path("state/credential/status.json")).unwrap()).unwrap()
    }

    fn credential(&self, name: &str) -> PathBuf {
        self.path("state/credential").join(name)
    }
}

/// A running agent, killed when dropped.
struct Running {
    child: Child,
    events: PathBuf,
}

impl Running {
    fn events(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(&self.events).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn count(&self, kind: &str) -> usize {
        self.events().iter().filter(|event| event["event"] == kind).count()
    }

    /// Looks until an event is there.
    fn until(&self, kind: &str, count: usize) -> serde_json::Value {
        eventually(kind, || count <= self.count(kind));
        self.events().into_iter().filter(|event| event["event"] == kind).nth(count - 1).unwrap()
    }

    fn code(&mut self) -> i32 {
        eventually("the agent ends", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not within thirty seconds: {what}");
}

fn state_of(pid: u64) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

/// Gone, or waiting for whoever adopted it.
fn is_dead(pid: u64) -> bool {
    state_of(pid).is_none_or(|state| matches!(state, 'Z' | 'X'))
}

/// An entry as the kernel exports it: PCR, digest, the template's name and data with their lengths before them.
fn ima_entry(what: u8) -> [u8; IMA_ENTRY_BYTES] {
    let (pcr, digest, name) = (10_u32.to_le_bytes(), [what; 20], *b"ima-ng");
    let data = vec![what; IMA_ENTRY_BYTES - 4 - 20 - 4 - 6 - 4];
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
    let entry = [&pcr[..], &digest, &length(&name), &name, &length(&data), &data].concat();
    entry.try_into().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_host_enrols_once_and_says_so() {
    let host = Host::new();
    let before = host.once();
    assert_eq!(before.status.code(), Some(1));
    assert!(stderr(&before).contains("run `countersign-agent enroll` first"), "{}", stderr(&before));
    // A refusal is told in full, and the next attempt goes on with the same keys.
    host.broker.refuse_next_enrollment();
    let refused = host.enroll("host-1");
    assert_eq!(refused.status.code(), Some(3));
    for part in ["enrollment.host.unknown", "expected: a registered host", "found: host-1", "remedy: register it"] {
        assert!(stderr(&refused).contains(part), "{part}: {}", stderr(&refused));
    }
    let enrolled = host.enroll("host-1");
    assert_eq!(String::from_utf8_lossy(&enrolled.stdout), format!("enrolled as host-1 with {}\n", host.broker.url()));
    let requests = host.broker.enrollments();
    assert_eq!((requests.len(), &requests[0].ak_public), (2, &requests[1].ak_public));
    assert_eq!(requests[0].channel_key, requests[1].channel_key);
    let Endorsement::EndorsementKey { intermediates, .. } = &requests[0].endorsement else { panic!("an EK") };
    let issuer = rustls_pki_types::CertificateDer::from_pem_file(&host.tpm.ca_certificates()[0]).unwrap();
    assert_eq!(*intermediates, [Base64Bytes(issuer.to_vec())]);
    let again = host.enroll("host-1");
    assert_eq!(again.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&again.stdout).starts_with("already enrolled as host-1"));
    assert_eq!(host.enroll("host-2").status.code(), Some(1));
    assert_eq!(host.broker.enrollments().len(), 2, "the broker was not asked again");
    for file in ["enrollment.json", "channel-key.pem"] {
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(host.path("state").join(file)).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn another_brokers_certificate_is_refused() {
    let host = Host::new();
    let other = tempfile::tempdir().unwrap();
    let impostor = Broker::start(other.path());
    let mut agent = host.agent();
    agent.args(["enroll", "--host", "host-1", "--broker", &impostor.url(), "--tcti", &host.tpm.tcti()]);
    let output = agent.arg("--broker-ca").arg(host.broker.ca()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("certificate"), "{}", stderr(&output));
    assert_eq!(impostor.enrollments().len(), 0);
}

#[test]
fn once_ends_with_the_verdict_and_the_credential_serves_openssl() {
    let host = Host::enrolled();
    let granted = host.once();
    assert_eq!(granted.status.code(), Some(0), "{}", stderr(&granted));
    assert_eq!(host.status()["state"], "trusted");
    let body = host.curl_with_the_credential();
    assert_eq!(body, "authenticated: true");
    let mut verified = Command::new("openssl");
    verified.arg("verify").arg("-CAfile").arg(host.credential("bundle.pem")).arg(host.credential("credential.pem"));
    assert!(verified.output().unwrap().status.success());
    host.broker.answer(Answer::Deny);
    assert_eq!(host.once().status.code(), Some(3));
    assert_eq!(host.status()["code"], "tpm.pcr.mismatch");
    assert!(!host.credential("key.pem").exists());
    host.broker.answer(Answer::Silence);
    assert_eq!(host.once().status.code(), Some(2));
}

/// A workload that says who it is and goes on.
const WORKLOAD: &str = "exec sleep 100";

#[test]
fn a_denial_freezes_the_workload_takes_the_credential_and_kills_after_the_grace() {
    let host = Host::enrolled();
    let mut agent =
        host.run(&["--grace", "400ms"], "test -s \"$COUNTERSIGN_CREDENTIAL_DIR/key.pem\" && exec sleep 100");
    let pid = agent.until("workload_started", 1)["pid"].as_u64().unwrap();
    host.broker.answer(Answer::Deny);
    // Drift makes the agent attest at once, long before its 15 seconds are over.
    host.tpm.extend(14, &"cd".repeat(32));
    let seen = agent.until("drift_seen", 1)["at_ms"].as_u64().unwrap();
    let frozen = agent.until("workload_frozen", 1);
    assert!(frozen["at_ms"].as_u64().unwrap() - seen < 5_000, "{frozen}");
    assert!(frozen["took_us"].as_u64().unwrap() < 1_000_000, "{frozen}");
    assert_eq!(agent.until("trust_lost", 1)["code"], "tpm.pcr.mismatch");
    assert!(!host.credential("key.pem").exists() && !host.credential("credential.pem").exists());
    assert_eq!(host.status()["remedy"], "register it");
    assert_eq!(agent.code(), 3);
    assert_eq!(agent.count("workload_killed"), 1);
    eventually("the workload is dead", || is_dead(pid));
    let quotes = host.broker.attestations();
    assert_ne!(quotes[0].tpm_pcrs, quotes[quotes.len() - 1].tpm_pcrs, "the drift was quoted");
}

#[test]
fn an_operators_revocation_freezes_the_workload_with_the_next_pulse() {
    let host = Host::enrolled();
    let mut agent = host.run(&["--grace", "2s"], WORKLOAD);
    let pid = agent.until("workload_started", 1)["pid"].as_u64().unwrap();
    // A fresh credential is left alone: its index becomes VALID, and pulses go by.
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(agent.count("trust_lost"), 0);
    let revoked_at = countersign_agent::clock::wall().0;
    host.broker.revoke();
    let frozen = agent.until("workload_frozen", 1);
    let latency = frozen["at_ms"].as_u64().unwrap() - revoked_at;
    assert!(latency < 1_000, "{latency} ms");
    assert_eq!(agent.until("trust_lost", 1)["code"], "trust.revoked");
    assert!(!host.credential("key.pem").exists());
    // It asks at once why.
    let denied = agent.until("denied", 1)["at_ms"].as_u64().unwrap();
    assert!(denied - revoked_at < 5_000, "{denied}");
    assert_eq!(agent.code(), 3);
    eventually("the workload is dead", || is_dead(pid));
}

#[test]
fn a_denied_host_with_a_workload_asks_again_at_its_own_pace() {
    let host = Host::enrolled();
    let agent = host.run(&["--grace", "20s"], WORKLOAD);
    agent.until("workload_started", 1);
    host.broker.answer(Answer::Deny);
    host.tpm.extend(14, &"cd".repeat(32));
    let at = |count| agent.until("denied", count)["at_ms"].as_u64().unwrap();
    // A quarter of 250 ms at least, then of 500, 1,000 and 2,000: every denial is recorded by the broker.
    let took = at(5) - at(1);
    assert!(937 <= took, "four pauses within {took} ms");
}

#[test]
fn a_readmitted_host_goes_on_with_a_new_credential() {
    let host = Host::enrolled();
    let mut agent = host.run(&["--grace", "20s"], WORKLOAD);
    let pid = agent.until("workload_started", 1)["pid"].as_u64().unwrap();
    let serial = agent.until("granted", 1)["serial"].clone();
    host.broker.answer(Answer::Deny);
    host.tpm.extend(14, &"cd".repeat(32));
    agent.until("workload_frozen", 1);
    assert_eq!(state_of(pid), Some('T'));
    host.broker.answer(Answer::Grant(45_000));
    agent.until("workload_thawed", 1);
    eventually("the workload goes on", || state_of(pid) == Some('S'));
    let renewed = agent.until("granted", 2)["serial"].clone();
    assert!(renewed.is_string() && renewed != serial, "{renewed}");
    assert_eq!(host.status()["serial"], renewed);
    assert!(host.credential("key.pem").exists());
    // And a signal ends it well.
    assert!(Command::new("kill").args(["-TERM", &agent.child.id().to_string()]).status().unwrap().success());
    assert_eq!(agent.code(), 0);
    eventually("the workload is dead", || is_dead(pid));
    assert!(!host.credential("key.pem").exists());
    assert_eq!(host.status()["state"], "stopped");
}

#[test]
fn a13_silence_ends_trust_when_the_lease_does_and_not_before() {
    let host = Host::enrolled();
    host.broker.answer(Answer::Grant(3_000));
    let mut agent = host.run(&["--grace", "100ms"], WORKLOAD);
    agent.until("workload_started", 1);
    // A refusal without a decision is no denial, and no proof either.
    host.broker.answer(Answer::Refuse);
    agent.until("attest_failed", 1);
    assert_eq!(agent.count("trust_lost"), 0);
    host.broker.answer(Answer::Silence);
    let lost = agent.until("trust_lost", 1);
    assert_eq!(lost["code"], "agent.lease.expired");
    let granted = agent.events().into_iter().rfind(|event| event["event"] == "granted").unwrap();
    let lasted = lost["at_ms"].as_u64().unwrap() - granted["at_ms"].as_u64().unwrap();
    assert!((2_900..4_500).contains(&lasted), "{lasted} ms");
    assert_eq!(agent.code(), 3);
}

#[test]
fn the_workloads_own_end_is_the_agents_and_nothing_starts_without_trust() {
    let host = Host::enrolled();
    let mut agent = host.run(&[], "exit 42");
    assert_eq!(agent.code(), 42);
    assert!(!host.credential("key.pem").exists());
    host.broker.answer(Answer::Deny);
    let proof = host.path("started");
    let denied = host.run(&["--grace", "100ms"], &format!("touch {}", proof.display()));
    denied.until("denied", 2);
    assert!(!proof.exists());
    assert_eq!(denied.count("workload_started"), 1, "the one of the first run");
}

#[test]
fn a_workload_dies_with_an_agent_that_is_killed() {
    let host = Host::enrolled();
    let mut agent = host.run(&[], WORKLOAD);
    let pid = agent.until("workload_started", 1)["pid"].as_u64().unwrap();
    agent.child.kill().unwrap();
    agent.child.wait().unwrap();
    eventually("the workload is dead", || is_dead(pid));
}

#[test]
fn logs_travel_once_and_a_new_ima_entry_at_once() {
    let host = Host::enrolled();
    fs::write(host.path("event-log"), b"what the firmware measured").unwrap();
    host.measure(1);
    host.measure(2);
    let mut agent = host.run(&[], WORKLOAD);
    agent.until("workload_started", 1);
    let new = |at: usize| host.broker.attestations()[at].ima.clone().map(|ima| (ima.from, ima.list));
    assert_eq!(host.broker.attestations()[0].event_log.as_deref(), Some(b"what the firmware measured".as_slice()));
    assert_eq!(new(0), Some((0, [ima_entry(1), ima_entry(2)].concat())));

    // Long before its fifteen seconds are over.
    let before = countersign_agent::clock::wall().0;
    host.measure(3);
    agent.until("ima_grown", 1);
    let granted = agent.until("granted", 2)["at_ms"].as_u64().unwrap();
    assert!(granted - before < 10_000, "{} ms", granted - before);
    eventually("the entry was sent", || {
        host.broker
            .attestations()
            .iter()
            .skip(1)
            .any(|sent| sent.ima.as_ref().is_some_and(|ima| ima.list == ima_entry(3)))
    });
    assert!(host.broker.attestations()[1..].iter().all(|sent| sent.event_log.is_none()), "the boot is known");

    // Another run of the agent in the same boot goes on; another boot starts over.
    agent.child.kill().unwrap();
    agent.child.wait().unwrap();
    assert_eq!(host.once().status.code(), Some(0));
    let last = |host: &Host| host.broker.attestations().pop().unwrap();
    assert_eq!((last(&host).event_log, last(&host).ima.map(|ima| (ima.from, ima.list))), (None, Some((3, Vec::new()))));
    host.tpm.reset();
    assert_eq!(host.once().status.code(), Some(0));
    let ima = last(&host).ima.unwrap();
    assert!(last(&host).event_log.is_some(), "another boot");
    assert_eq!((ima.from, ima.list.len()), (0, 3 * IMA_ENTRY_BYTES));
}

#[test]
fn a_log_that_cannot_be_read_is_no_absent_log() {
    let host = Host::enrolled();
    fs::create_dir(host.path("event-log")).unwrap();
    let once = host.once();
    assert_eq!(once.status.code(), Some(1));
    assert!(stderr(&once).contains("event-log"), "{}", stderr(&once));
    assert_eq!(host.broker.attestations().len(), 0);
}

#[test]
fn the_workload_api_says_that_the_key_is_in_the_tpm_and_ends_with_trust() {
    let host = Host::enrolled();
    let socket = host.path("agent.sock").display().to_string();
    let own = format!("uid:{}", rustix::process::geteuid().as_raw());
    let agent = host.run(&["--grace", "20s", "--workload-socket", &socket, "--admit", &own], WORKLOAD);
    agent.until("workload_started", 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = spiffe::WorkloadApiClient::connect_to(format!("unix:{socket}")).await.unwrap();
        assert_eq!(client.fetch_x509_bundles().await.unwrap().len(), 1);
        let refused = client.fetch_x509_svid().await.unwrap_err().to_string();
        assert!(refused.contains("lives in its TPM"), "{refused}");
        host.broker.answer(Answer::Deny);
        host.tpm.extend(14, &"cd".repeat(32));
        agent.until("trust_lost", 1);
        let ended = client.fetch_x509_bundles().await.unwrap_err().to_string();
        assert_eq!(ended, "no identity issued");
    });
    drop(agent);
}

#[test]
fn every_rung_of_the_ladder_comes_in_its_time() {
    let host = Host::enrolled();
    let (hook, proof) = (host.path("hook"), host.path("drained"));
    fs::write(&hook, format!("#!/bin/sh\necho $COUNTERSIGN_WORKLOAD_PID > {}\n", proof.display())).unwrap();
    fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let hook = hook.display().to_string();
    let ladder = "warn:300ms,drain:20s,freeze:300ms,kill:1s";
    let mut agent = host.run(&["--on-loss", ladder, "--drain-hook", &hook], WORKLOAD);
    let pid = agent.until("workload_started", 1)["pid"].as_u64().unwrap();
    host.broker.answer(Answer::Deny);
    host.tpm.extend(14, &"cd".repeat(32));
    assert_eq!(agent.code(), 3);
    let at = |kind: &str| agent.until(kind, 1)["at_ms"].as_u64().unwrap();
    let times = ["workload_warned", "workload_draining", "workload_frozen", "workload_killed"].map(at);
    assert!(times.is_sorted(), "{times:?}");
    // An event is written a little after its verb began.
    assert!(250 <= times[1] - times[0] && 250 <= times[3] - times[2], "{times:?}");
    assert!(times[2] - times[1] < 10_000, "the hook's end brings the next verb: {times:?}");
    assert_eq!(fs::read_to_string(proof).unwrap().trim(), pid.to_string());
    eventually("the workload is dead", || is_dead(pid));
    // The credential went with trust, and not with the last rung.
    let lost = agent.until("trust_lost", 1)["at_ms"].as_u64().unwrap();
    assert!(lost - times[0] < 300, "{lost} {times:?}");
    let unfit = host.agent().args(["run", "--on-loss", "drain:1s"]).output().unwrap();
    assert_eq!(unfit.status.code(), Some(1));
    assert!(stderr(&unfit).contains("--drain-hook"), "{}", stderr(&unfit));
}

/// Killed when dropped.
struct Other(Child);

impl Other {
    fn start(script: &str) -> Self {
        let mut command = Command::new("sh");
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Self(command.args(["-c", script]).spawn().unwrap())
    }

    fn pid(&self) -> u64 {
        self.0.id().into()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn workloads_of_others_run_only_with_trust() {
    let host = Host::enrolled();
    host.broker.answer(Answer::Silence);
    let process = Other::start("exec sleep 100");
    let member = host.path("member");
    let group = Other::start(&format!("sleep 100 & echo $! > {0}.new; mv {0}.new {0}; wait", member.display()));
    eventually("the group has its member", || member.exists());
    let member: u64 = fs::read_to_string(&member).unwrap().trim().parse().unwrap();
    let all = [process.pid(), group.pid(), member];
    let (by_pid, by_group) = (format!("pid:{}", process.pid()), format!("group:{}", group.pid()));
    let mut agent = host.agent();
    agent.arg("run").arg("--events").arg(host.path("events"));
    agent.args(["--on-loss", "freeze:1s,kill:1s", "--enforce", &by_pid, "--enforce", &by_group]);
    let mut agent = Running { child: agent.spawn().unwrap(), events: host.path("events") };
    eventually("they wait for trust", || all.iter().all(|pid| state_of(*pid) == Some('T')));
    // Whoever lets one go on does so in vain.
    assert!(Command::new("kill").args(["-CONT", &process.pid().to_string()]).status().unwrap().success());
    eventually("it waits again", || state_of(process.pid()) == Some('T'));
    host.broker.answer(Answer::Grant(45_000));
    eventually("they go on", || all.iter().all(|pid| state_of(*pid) == Some('S')));

    // When the agent ends, nobody watches them: they wait for the next one.
    assert!(Command::new("kill").args(["-TERM", &agent.child.id().to_string()]).status().unwrap().success());
    assert_eq!(agent.code(), 0);
    assert!(all.iter().all(|pid| state_of(*pid) == Some('T')));
    let mut again = host.agent();
    again.args(["run", "--on-loss", "freeze:1s,kill:1s", "--enforce", &by_pid, "--enforce", &by_group]);
    let again = Running {
        child: again.arg("--events").arg(host.path("events")).spawn().unwrap(),
        events: agent.events.clone(),
    };
    eventually("they go on", || all.iter().all(|pid| state_of(*pid) == Some('S')));
    host.broker.answer(Answer::Deny);
    host.tpm.extend(14, &"cd".repeat(32));
    again.until("workload_frozen", 1);
    assert!(all.iter().all(|pid| matches!(state_of(*pid), Some('T'))));
    again.until("workload_killed", 1);
    eventually("they are dead", || all.iter().all(|pid| is_dead(*pid)));
    // The agent goes on: it has a host to attest.
    again.until("denied", 2);
}
