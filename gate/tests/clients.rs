//! The gate's binary as a proxy, with clients that know nothing of it: curl and openssl.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use core::net::SocketAddr;
use core::time::Duration;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Output, Stdio};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::routing::get;
use countersign_attestation::status_list::{Status, StatusList};
use countersign_clock::{ClockSync, Keeper};
use countersign_gate::clock::{Clock as _, SystemClock};
use futures_util::StreamExt as _;
use futures_util::stream;

#[path = "../../tests/sim/broker.rs"]
mod broker;
#[path = "../../tests/sim/issuer.rs"]
mod issuer;
use broker::{Delivery, SimBroker};
use issuer::{Authority, AuthorityOrder, Issuer, Svid, Y_MS};

/// Nobody keeps the clock of a machine that tests run on.
fn clock() -> SystemClock {
    SystemClock::new(Keeper::new(ClockSync::Asserted, 50))
}

/// Ends its process with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Files of a relying party, a broker, and a gate before a service.
struct World {
    folder: tempfile::TempDir,
    issuer: Issuer,
    broker: SimBroker,
    seq: u64,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (issuer, control) = (Issuer::new("fleet.test"), Authority::root(AuthorityOrder::new("Control CA")));
        let write = |name: &str, content: &str| fs::write(folder.path().join(name), content).unwrap();
        write("jwks.json", &issuer.keys().to_json());
        write("trust-bundle.pem", &issuer.authority.pem());
        write("broker-ca.pem", &control.pem());
        let (_, certificate, key) = control.server();
        write("server.pem", &certificate);
        write("server.key", &key);
        write(
            "policy.cedar",
            r#"permit (principal, action, resource in Path::"/v1")
            when { principal.assurance == Assurance::"simulated" };"#,
        );
        let broker = SimBroker::start(SocketAddr::from(([127, 0, 0, 1], 0)), &certificate, &key, Delivery::Stream);
        Self { folder, issuer, broker, seq: 1 }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn say(&mut self, status: Status) {
        let mut list = StatusList::new();
        list.set(5, status).unwrap();
        let now = clock().now().wall;
        let pulse = self.issuer.pulse(self.seq, now, &list);
        self.broker.say(&self.issuer.list_token(&list, now), &self.issuer.pulse_token(&pulse));
        self.seq += 1;
    }

    fn command(&self) -> Command {
        let mut gate = Command::new(env!("CARGO_BIN_EXE_countersign-gate"));
        gate.args(["--clock-sync", "asserted"]).args([
            "--listen",
            "127.0.0.1:0",
            "--broker",
            &self.broker.url(),
            "--trust-domain",
            "fleet.test",
        ]);
        gate.args(["--trust-dir", &self.folder.path().display().to_string()]);
        gate
    }

    fn proxy_command(&self, upstream: &str) -> Command {
        let mut gate = self.command();
        gate.args(["--proxy-listen", "127.0.0.1:0", "--proxy-upstream", upstream]);
        gate.args(["--proxy-certificate", &self.path("server.pem"), "--proxy-key", &self.path("server.key")]);
        gate
    }

    /// Starts the binary before a service; the address of its proxy door.
    fn gate(&self, service: SocketAddr, more: &[&str]) -> (Process, SocketAddr) {
        let mut gate = self
            .proxy_command(&format!("http://{service}"))
            .args(more)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(self.path("gate.log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(gate.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let announced: serde_json::Value = serde_json::from_str(&line).unwrap();
        (Process(gate), announced["proxy"].as_str().unwrap().parse().unwrap())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("gate.log")).unwrap()
    }

    fn write(&self, svid: &Svid, name: &str) -> [String; 2] {
        let [certificate, key] = [self.path(&format!("{name}.pem")), self.path(&format!("{name}.key"))];
        fs::write(&certificate, &svid.pem).unwrap();
        fs::write(&key, &svid.key_pem).unwrap();
        [certificate, key]
    }

    fn curl(&self, credential: &[String; 2], url: &str, more: &[&str]) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--noproxy", "*", "--max-time", "20", "--cacert", &self.path("broker-ca.pem")]);
        curl.args(["--cert", &credential[0], "--key", &credential[1]]).args(more).arg(url);
        curl
    }

    /// Body, status and reason.
    fn call(&self, credential: &[String; 2], url: &str, more: &[&str]) -> (String, String, String) {
        let format = ["--write-out", "\n%{http_code} %{http_version}\n%header{x-countersign-reason}"];
        let output = self.curl(credential, url, &[&format, more].concat()).output().expect("curl is installed");
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines = text.rsplitn(3, '\n').map(str::to_owned);
        let (reason, status) = (lines.next().unwrap(), lines.next().unwrap());
        (lines.next().unwrap_or_default(), status, reason)
    }

    /// Calls until the status is this one.
    async fn until(&self, credential: &[String; 2], url: &str, status: &str) -> (String, String, String) {
        let start = clock().now().steady_ms;
        let mut pace = tokio::time::interval(Duration::from_millis(25));
        loop {
            pace.tick().await;
            let seen = self.call(credential, url, &[]);
            if seen.1.starts_with(status) {
                return seen;
            }
            assert!(clock().now().steady_ms - start < 20_000, "{seen:?}\n{}", self.log());
        }
    }
}

/// Answers with the identity it was told, and at `/v1/endless` without an end.
async fn service() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let told = async |headers: HeaderMap| headers["x-countersign-spiffe-id"].to_str().unwrap().to_owned();
    let endless = async || {
        let words = stream::iter([Ok::<_, std::io::Error>(Bytes::from("words\n"))]);
        Body::from_stream(words.chain(stream::pending()))
    };
    let router = Router::new().route("/v1/endless", get(endless)).fallback(told);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// A whole request by `openssl s_client`.
fn openssl(address: SocketAddr, arguments: &[&str]) -> Output {
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &address.to_string(), "-servername", "localhost"]).args(arguments);
    let mut openssl = openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // It may have been refused before it reads.
    drop(openssl.stdin.take().unwrap().write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    openssl.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn e23_clients_that_know_nothing_of_it_are_let_in_and_cut_off() {
    let mut world = World::new();
    let now = clock().now().wall;
    world.say(Status::Valid);
    let (_gate, address) = world.gate(service().await, &[]);
    let trusted = world.write(&world.issuer.svid("gpu-1", 5, now), "trusted");
    let other = world.write(&world.issuer.svid("gpu-2", 6, now), "other");
    let url = format!("https://localhost:{}/v1/models", address.port());

    let (body, status, _) = world.until(&trusted, &url, "200").await;
    assert_eq!(
        (body.as_str(), status.as_str()),
        ("spiffe://fleet.test/host/gpu-1", "200 2"),
        "HTTP/2 where it is known"
    );
    let (body, status, _) = world.call(&trusted, &url, &["--http1.1"]);
    assert_eq!((body.as_str(), status.as_str()), ("spiffe://fleet.test/host/gpu-1", "200 1.1"));
    let (body, status, reason) = world.call(&other, &url, &[]);
    assert_eq!((status.as_str(), reason.as_str()), ("403 2", "gate.credential.invalid"), "{body}");
    assert!(body.contains(r#""code":"gate.credential.invalid""#), "{body}");
    // Another's key, or none: TLS itself refuses.
    let stolen = [trusted[0].clone(), other[1].clone()];
    assert!(!world.curl(&stolen, &url, &[]).output().unwrap().status.success());
    let anonymous = ["--silent", "--noproxy", "*", "--max-time", "20", "--insecure", &url];
    assert!(!Command::new("curl").args(anonymous).output().unwrap().status.success());

    // The posture is said once, at the start.
    let log = world.log();
    let posture: Vec<&str> = log.lines().filter(|line| line.contains(r#""message":"posture""#)).collect();
    assert_eq!(posture.len(), 1, "{log}");
    assert!(posture[0].contains("no operator policies"), "{log}");

    // What is open when trust ends does not go on.
    let endless = format!("https://localhost:{}/v1/endless", address.port());
    for version in ["--http1.1", "--http2"] {
        world.say(Status::Valid);
        world.until(&trusted, &url, "200").await;
        let mut curl =
            world.curl(&trusted, &endless, &["--no-buffer", version]).stdout(Stdio::piped()).spawn().unwrap();
        let mut answer = BufReader::new(curl.stdout.take().unwrap());
        let mut words = String::new();
        answer.read_line(&mut words).unwrap();
        assert_eq!(words, "words\n");
        let start = clock().now().steady_ms;
        world.say(Status::Invalid);
        answer.read_to_string(&mut words).unwrap();
        assert!(!curl.wait().unwrap().success(), "curl knows that the answer is not whole");
        let passed = clock().now().steady_ms - start;
        assert!(passed < Y_MS, "{version}: {passed} ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e7_openssl_resumes_nothing_and_speaks_nothing_older() {
    let mut world = World::new();
    world.say(Status::Valid);
    let (_gate, address) = world.gate(service().await, &[]);
    let [certificate, key] = world.write(&world.issuer.svid("gpu-1", 5, clock().now().wall), "trusted");
    let (ca, session) = (world.path("broker-ca.pem"), world.path("session.pem"));
    let credential = ["-cert", &certificate, "-key", &key, "-CAfile", &ca, "-verify_return_error"];
    let with = |more: &[&str]| openssl(address, &[&credential[..], more].concat());
    let fresh = with(&["-tls1_3", "-ign_eof", "-sess_out", &session]);
    let said = String::from_utf8_lossy(&fresh.stdout).into_owned();
    assert!(fresh.status.success() && said.contains("New, TLSv1.3") && said.contains("HTTP/1.1 "), "{said}");
    assert!(!said.contains("Post-Handshake New Session Ticket"), "{said}");
    assert!(fs::metadata(&session).is_err(), "there is nothing to resume with");
    let old = with(&["-tls1_2"]);
    assert!(!old.status.success(), "{}", String::from_utf8_lossy(&old.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn e15_operator_policies_are_in_force_from_the_start_and_the_log_says_so() {
    let mut world = World::new();
    world.say(Status::Valid);
    let (_gate, address) = world.gate(service().await, &["--authorize", &world.path("policy.cedar")]);
    let trusted = world.write(&world.issuer.svid("gpu-1", 5, clock().now().wall), "trusted");
    let url = |path: &str| format!("https://localhost:{}{path}", address.port());
    world.until(&trusted, &url("/v1/models"), "200").await;
    let (_, status, reason) = world.call(&trusted, &url("/v2"), &[]);
    assert_eq!((status.as_str(), reason.as_str()), ("403 2", "authorize.no_permit"));
    let (_, status, reason) = world.call(&trusted, &url("/v1/../v2"), &["--path-as-is"]);
    assert_eq!((status.as_str(), reason.as_str()), ("403 2", "authorize.resource"));
    assert!(world.log().contains("operator policies must permit each request"), "{}", world.log());
}

#[test]
fn e15_the_binary_refuses_settings_that_check_nothing() {
    let world = World::new();
    let refused = |mut gate: Command, more: &[&str]| {
        let output = gate.args(more).output().unwrap();
        assert!(!output.status.success(), "{more:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let http = "http://127.0.0.1:1";
    assert!(refused(world.command(), &["--proxy-listen", "127.0.0.1:0"]).contains("--proxy-certificate"));
    assert!(refused(world.command(), &["--proxy-upstream", http]).contains("--proxy-listen"));
    assert!(refused(world.proxy_command("http://192.0.2.1:80"), &[]).contains("loopback"));
    assert!(refused(world.proxy_command("https://service.test"), &[]).contains("--proxy-upstream-ca"));
    let ca = world.path("broker-ca.pem");
    assert!(refused(world.proxy_command(http), &["--proxy-upstream-ca", &ca]).contains("shows no certificate"));
    for number in ["0", "65537", "-1"] {
        let flag = format!("--proxy-connections={number}");
        assert!(refused(world.proxy_command(http), &[&flag]).contains("invalid value"), "{number}");
    }
    fs::write(world.path("server.key"), "").unwrap();
    assert!(refused(world.proxy_command(http), &[]).contains("no private key"));
    assert!(refused(world.command(), &["--authorize", "/nowhere"]).contains("cannot read /nowhere"));
    for (policy, code) in
        [("", "policy.load.empty"), ("permit (principal, action, resource) when { x };", "policy.load")]
    {
        fs::write(world.path("policy.cedar"), policy).unwrap();
        assert!(refused(world.command(), &["--authorize", &world.path("policy.cedar")]).contains(code), "{policy}");
    }
}
