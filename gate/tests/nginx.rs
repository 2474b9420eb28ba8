//! The shipped nginx configuration, the gate's binary and curl, as an operator runs them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use core::net::SocketAddr;
use core::time::Duration;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::HeaderMap;
use countersign_attestation::status_list::{Status, StatusList};
use countersign_clock::{ClockSync, Keeper};
use countersign_gate::clock::{Clock as _, SystemClock};

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

/// Longest wait for a process to do what it is about to do. Reached only by a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ends its process with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

struct World {
    folder: tempfile::TempDir,
    issuer: Issuer,
    control: Authority,
    /// The next sequence, and what the broker says of index 5.
    says: Arc<Mutex<(u64, Status)>>,
}

struct Answer {
    status: u16,
    reason: Option<String>,
    body: String,
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
        Self { folder, issuer, control, says: Arc::new(Mutex::new((1, Status::Valid))) }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn broker(&self, address: SocketAddr) -> SimBroker {
        let (_, certificate, key) = self.control.server();
        let broker = SimBroker::start(address, &certificate, &key, Delivery::Stream);
        self.beat(&broker);
        broker
    }

    /// Signs the next pulse, with a basis of now.
    fn beat(&self, broker: &SimBroker) {
        let mut says = self.says.lock().unwrap();
        let mut list = StatusList::new();
        list.set(5, says.1).unwrap();
        let now = clock().now().wall;
        let pulse = self.issuer.pulse(says.0, now, &list);
        broker.say(&self.issuer.list_token(&list, now), &self.issuer.pulse_token(&pulse));
        says.0 += 1;
    }

    fn say(&self, broker: &SimBroker, status: Status) {
        self.says.lock().unwrap().1 = status;
        self.beat(broker);
    }

    /// Starts the gate's binary and waits until it says where it answers.
    fn gate(&self, broker: &SimBroker) -> Process {
        self.gate_with(broker, &[])
    }

    fn gate_with(&self, broker: &SimBroker, more: &[&str]) -> Process {
        let mut gate = Command::new(env!("CARGO_BIN_EXE_countersign-gate"))
            .args(["--clock-sync", "asserted"])
            .args(["--listen", &format!("unix:{}", self.path("gate.sock"))])
            .args(["--broker", &broker.url(), "--trust-domain", "fleet.test"])
            .args(["--trust-dir", &self.folder.path().display().to_string()])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(self.path("gate.log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(gate.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let announced: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(announced["listen"], format!("unix:{}", self.path("gate.sock")).as_str());
        Process(gate)
    }

    /// Starts nginx with the shipped configuration, its addresses and files replaced.
    fn nginx(&self, service: SocketAddr) -> Process {
        self.nginx_with(service, &[])
    }

    /// The same, with changes an operator might make.
    fn nginx_with(&self, service: SocketAddr, changes: &[(&str, &str)]) -> Process {
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/nginx/countersign-gate.conf");
        let mut server = fs::read_to_string(shipped).unwrap();
        for (from, to) in [
            ("server 127.0.0.1:8444;", format!("server unix:{};", self.path("gate.sock"))),
            ("server 127.0.0.1:8000;", format!("server {service};")),
            ("listen 443 ssl;", format!("listen unix:{} ssl;", self.path("nginx.sock"))),
            ("/etc/countersign/", format!("{}/", self.folder.path().display())),
        ]
        .into_iter()
        .chain(changes.iter().map(|(from, to)| (*from, (*to).to_owned())))
        {
            assert!(server.contains(from), "the shipped configuration has no {from}");
            server = server.replace(from, &to);
        }
        fs::write(self.path("server.conf"), server).unwrap();
        let mut main = format!(
            "daemon off;\nmaster_process off;\npid {pid};\nerror_log {log};\nevents {{}}\nhttp {{\naccess_log off;\n",
            pid = self.path("nginx.pid"),
            log = self.path("nginx.log"),
        );
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            main.push_str(&format!("{kind}_temp_path {};\n", self.path(kind)));
        }
        main.push_str(&format!("include {};\n}}\n", self.path("server.conf")));
        fs::write(self.path("nginx.conf"), main).unwrap();
        let nginx = Command::new("nginx")
            .args(["-p", &self.path(""), "-c", &self.path("nginx.conf"), "-e", &self.path("nginx.log")])
            .spawn()
            .expect("nginx is installed: make setup");
        Process(nginx)
    }

    /// Calls the service with a client certificate, through nginx.
    fn call(&self, svid: &Svid) -> Answer {
        self.call_with(Some(svid), "/", &[])
    }

    fn call_with(&self, svid: Option<&Svid>, path: &str, more: &[&str]) -> Answer {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "10", "--unix-socket", &self.path("nginx.sock")]);
        curl.args(["--cacert", &self.path("broker-ca.pem"), "--path-as-is"]);
        if let Some(svid) = svid {
            fs::write(self.path("svid.pem"), &svid.pem).unwrap();
            fs::write(self.path("svid.key"), &svid.key_pem).unwrap();
            curl.args(["--cert", &self.path("svid.pem"), "--key", &self.path("svid.key")]);
        }
        let output = curl
            .args(["--header", "X-Countersign-Spiffe-Id: spiffe://fleet.test/host/forged"])
            .args(["--header", "X-SSL-Client-Cert: forged"])
            .args(["--write-out", "\n%header{x-countersign-reason}\n%{http_code}"])
            .args(more)
            .arg(format!("https://localhost{path}"))
            .output()
            .expect("curl is installed");
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines = text.rsplitn(3, '\n');
        let status = lines.next().unwrap().parse().unwrap();
        let reason = lines.next().map(str::to_owned).filter(|reason| !reason.is_empty());
        Answer { status, reason, body: lines.next().unwrap_or_default().to_owned() }
    }

    /// A whole request through nginx by `openssl s_client`, with the credential of the last call of curl.
    fn openssl(&self, more: &[&str]) -> String {
        let mut openssl = Command::new("openssl")
            .args(["s_client", "-unix", &self.path("nginx.sock"), "-servername", "localhost", "-ign_eof"])
            .args(["-cert", &self.path("svid.pem"), "-key", &self.path("svid.key")])
            .args(["-CAfile", &self.path("broker-ca.pem")])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed");
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        openssl.stdin.take().unwrap().write_all(request).unwrap();
        String::from_utf8_lossy(&openssl.wait_with_output().unwrap().stdout).into_owned()
    }

    /// Calls until the answer is as wanted; the broker beats on meanwhile, where there is one.
    async fn until(&self, svid: &Svid, broker: Option<&SimBroker>, wanted: impl Fn(&Answer) -> bool) -> (Answer, u64) {
        let start = clock().now().steady_ms;
        let mut pace = tokio::time::interval(Duration::from_millis(25));
        loop {
            pace.tick().await;
            let answer = self.call(svid);
            let passed = clock().now().steady_ms - start;
            if wanted(&answer) {
                return (answer, passed);
            }
            let log = fs::read_to_string(self.path("gate.log")).unwrap_or_default();
            assert!(passed < 20_000, "{} {:?} {}\n{log}", answer.status, answer.reason, answer.body);
            if let Some(broker) = broker {
                self.beat(broker);
            }
        }
    }
}

/// A service that answers with the identity it was told.
async fn service() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let told = async |headers: HeaderMap| {
        let told = headers.get_all("x-countersign-spiffe-id").iter().map(|id| id.to_str().unwrap().to_owned());
        told.collect::<Vec<_>>().join(",")
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(told)).await.unwrap() });
    address
}

async fn exists(path: &Path) {
    let wait = async {
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        while !path.exists() {
            pace.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the socket appears");
}

#[tokio::test(flavor = "multi_thread")]
async fn e19_nginx_lets_in_denies_and_recovers_as_the_pulse_says() {
    let world = World::new();
    let now = clock().now().wall;
    let (trusted, unknown) = (world.issuer.svid("gpu-1", 5, now), world.issuer.svid("gpu-2", 6, now));
    let stranger = Issuer::new("fleet.test").svid("gpu-1", 5, now);
    let broker = world.broker(SocketAddr::from(([127, 0, 0, 1], 0)));
    let gate = world.gate(&broker);
    let _nginx = world.nginx(service().await);
    exists(Path::new(&world.path("nginx.sock"))).await;

    let (answer, _) = world.until(&trusted, Some(&broker), |answer| answer.status == 200).await;
    assert_eq!(answer.body, "spiffe://fleet.test/host/gpu-1", "what the caller claimed is gone");
    let answer = world.call(&unknown);
    assert_eq!((answer.status, answer.reason.as_deref()), (403, Some("gate.credential.invalid")));
    assert!(answer.body.contains(r#""code":"gate.credential.invalid""#), "{}", answer.body);
    assert_eq!(world.call(&stranger).status, 400, "nginx itself refuses another CA's certificate");

    // Revoked: pushed, so it takes milliseconds; no further pulse is signed while we look.
    world.say(&broker, Status::Invalid);
    let (answer, passed) = world.until(&trusted, None, |answer| answer.status == 403).await;
    assert_eq!(answer.reason.as_deref(), Some("gate.credential.invalid"));
    assert!(passed < Y_MS, "{passed} ms");

    // The broker dies: silence becomes a denial when the last pulse ends, and not much later.
    world.say(&broker, Status::Valid);
    world.until(&trusted, None, |answer| answer.status == 200).await;
    let address = broker.kill();
    let (answer, passed) = world.until(&trusted, None, |answer| answer.status == 403).await;
    assert_eq!(answer.reason.as_deref(), Some("gate.pulse.expired"));
    assert!(passed < Y_MS + 1_000, "{passed} ms");

    // Back: the gate finds it by itself.
    let broker = world.broker(address);
    world.until(&trusted, Some(&broker), |answer| answer.status == 200).await;

    // Without a gate nobody is let in.
    drop(gate);
    let answer = world.call(&trusted);
    assert_eq!((answer.status, answer.reason), (403, None));
    // And a new one starts where the killed one left its socket.
    let _gate = world.gate(&broker);
    world.until(&trusted, Some(&broker), |answer| answer.status == 200).await;
}

/// A service that answers with the names and values of all it was told, and counts.
async fn frank_service() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let told = async |headers: HeaderMap| {
        let mut told: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        told.sort_unstable();
        told.join("\n")
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(told)).await.unwrap() });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn e15_what_callers_claim_and_what_operators_add_opens_nothing() {
    let world = World::new();
    let now = clock().now().wall;
    let (trusted, unknown) = (world.issuer.svid("gpu-1", 5, now), world.issuer.svid("gpu-2", 6, now));
    let broker = world.broker(SocketAddr::from(([127, 0, 0, 1], 0)));
    let _gate = world.gate(&broker);
    // A location of an operator's own, without a word about the gate; certificates are asked for and not demanded.
    let location = "location /added {\n proxy_pass http://inference;\n }\n location / {";
    let changes = [("location / {", location), ("ssl_verify_client on;", "ssl_verify_client optional;")];
    let _nginx = world.nginx_with(frank_service().await, &changes);
    exists(Path::new(&world.path("nginx.sock"))).await;
    world.until(&trusted, Some(&broker), |answer| answer.status == 200).await;

    let forged = [
        "X-Countersign-Reason",
        "X-Countersign-Decision",
        "X_Countersign_Spiffe_Id",
        "X-SSL-Client-Cert",
        "Forwarded",
        "X-Forwarded-Client-Cert",
        "Client-Cert",
        "Client-Cert-Chain",
        "X-Real-IP",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-HTTP-Method-Override",
        "X-Original-URL",
        "X-Rewrite-URL",
    ];
    let forged = forged.map(|name| format!("{name}: forged"));
    let forged: Vec<&str> = forged.iter().flat_map(|header| ["--header", header.as_str()]).collect();
    for path in ["/", "/added"] {
        let answer = world.call_with(Some(&trusted), path, &forged);
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains("forged"), "{path}: {}", answer.body);
        assert!(answer.body.contains("x-countersign-spiffe-id: spiffe://fleet.test/host/gpu-1"), "{}", answer.body);
        let answer = world.call_with(Some(&unknown), path, &[]);
        assert_eq!((answer.status, answer.reason.as_deref()), (403, Some("gate.credential.invalid")), "{path}");
        let answer = world.call_with(None, path, &[]);
        assert_eq!((answer.status, answer.reason.as_deref()), (403, Some("gate.certificate.missing")), "{path}");
    }
    // The gate's own address is nobody's to ask.
    for svid in [&unknown, &trusted] {
        assert_eq!(world.call_with(Some(svid), "/_countersign/authorize", &[]).status, 404);
    }

    // Whatever nginx handed out to resume with is worth nothing.
    let session = world.path("session.pem");
    let first = world.openssl(&["-sess_out", &session]);
    assert!(first.contains("New, TLSv1.3") && first.contains("HTTP/1.1 200"), "{first}");
    if Path::new(&session).exists() {
        let second = world.openssl(&["-sess_in", &session]);
        assert!(second.contains("New, TLSv1.3") && !second.contains("Reused"), "{second}");
    }
}

/// Whatever stands where the gate should be: nothing but 200 lets in.
#[tokio::test(flavor = "multi_thread")]
async fn e15_a_gate_that_fails_denies() {
    let world = World::new();
    let svid = world.issuer.svid("gpu-1", 5, clock().now().wall);
    let status = Arc::new(Mutex::new(200));
    let told = Arc::clone(&status);
    let answer = async move || axum::http::StatusCode::from_u16(*told.lock().unwrap()).unwrap();
    let listener = tokio::net::UnixListener::bind(world.path("gate.sock")).unwrap();
    let gate = tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
    let _nginx = world.nginx(service().await);
    exists(Path::new(&world.path("nginx.sock"))).await;
    assert_eq!(world.call(&svid).status, 200);
    for failure in [301, 302, 400, 401, 403, 404, 418, 429, 500, 502, 503, 504] {
        *status.lock().unwrap() = failure;
        assert_eq!(world.call(&svid).status, 403, "the gate answers {failure}");
    }
    *status.lock().unwrap() = 200;
    assert_eq!(world.call(&svid).status, 200);
    gate.abort();
    assert!(gate.await.unwrap_err().is_cancelled());
    fs::remove_file(world.path("gate.sock")).unwrap();
    assert_eq!(world.call(&svid).status, 403, "nobody there");
}

#[tokio::test(flavor = "multi_thread")]
async fn e21_operator_policies_judge_what_the_service_will_read() {
    let world = World::new();
    let policy = r#"permit (principal, action in [Action::"http:GET", Action::"http:HEAD"], resource in Path::"/v1")
        when { principal.assurance == Assurance::"simulated" && context has host && context.host == "localhost" };"#;
    fs::write(world.path("operator.cedar"), policy).unwrap();
    let svid = world.issuer.svid("gpu-1", 5, clock().now().wall);
    let broker = world.broker(SocketAddr::from(([127, 0, 0, 1], 0)));
    let _gate = world.gate_with(&broker, &["--authorize", &world.path("operator.cedar")]);
    let _nginx = world.nginx(service().await);
    exists(Path::new(&world.path("nginx.sock"))).await;
    let (answer, _) =
        world.until(&svid, Some(&broker), |answer| answer.reason.as_deref() != Some("gate.pulse.none")).await;
    assert_eq!((answer.status, answer.reason.as_deref()), (403, Some("authorize.no_permit")));
    for (path, more, reason) in [
        ("/v1/models?a=b", &[][..], None),
        ("/v1", &["--head"], None),
        ("/v1", &["--request", "POST"], Some("authorize.no_permit")),
        ("/v1", &["--header", "X-Original-URI: /v1", "--request", "DELETE"], Some("authorize.no_permit")),
        (
            "/v2",
            &["--header", "X-Original-URI: /v1", "--header", "X-Original-Method: GET"],
            Some("authorize.no_permit"),
        ),
        ("/v1", &["--header", "Host: other.test"], Some("authorize.no_permit")),
        ("/v1", &["--header", "X-Original-Host: localhost", "--header", "Host: b"], Some("authorize.no_permit")),
        ("/v1/../v2", &[], Some("authorize.resource")),
        ("/v1//x", &[], Some("authorize.resource")),
        ("/v1%2f..%2fv2", &[], Some("authorize.resource")),
    ] {
        world.beat(&broker);
        let answer = world.call_with(Some(&svid), path, more);
        assert_eq!(answer.reason.as_deref(), reason, "{path} {more:?} {}", answer.status);
        assert_eq!(answer.status, if reason.is_none() { 200 } else { 403 }, "{path} {more:?}");
    }
}

#[test]
fn the_binary_refuses_to_start_without_sound_trust_material() {
    let world = World::new();
    let start = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_countersign-gate")).args(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let folder = world.folder.path().display().to_string();
    let base = ["--broker", "https://127.0.0.1:9", "--trust-domain", "fleet.test", "--trust-dir", &folder];
    let with = |more: &[&str]| start(&[&base[..], more].concat());
    assert!(with(&["--listen", "0.0.0.0:0"]).contains("not a loopback address"));
    assert!(with(&["--jwks", "/nowhere"]).contains("cannot read /nowhere"));
    let empty = world.path("empty");
    fs::write(&empty, "").unwrap();
    assert!(with(&["--jwks", &empty]).contains("result.keys.malformed"));
    assert!(with(&["--trust-bundle", &empty]).contains("holds no certificate"));
    assert!(with(&["--broker-ca", &empty]).contains("holds no certificate"));
    let broken = world.path("broken");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n").unwrap();
    assert!(with(&["--trust-bundle", &broken]).contains("x509.malformed"));
    assert!(with(&["--broker", "http://127.0.0.1:9"]).contains("https URL"));
    assert!(start(&["--broker", "https://a", "--trust-domain", "Fleet", "--trust-dir", &folder]).contains("a-z"));
    assert!(start(&["--trust-domain", "fleet.test", "--trust-dir", &folder]).contains("--broker"));
    assert!(start(&["--broker", "https://a", "--trust-domain", "fleet.test"]).contains("--jwks"));
}
