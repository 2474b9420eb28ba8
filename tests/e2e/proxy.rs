//! The gate as a proxy, with credentials of a real broker and a client that knows nothing of either.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;
use tempfile::TempDir;

use crate::fleet::{Fleet, Process, TRUST_DOMAIN, announced, product, wait_until};
use crate::sim_host::{SimHost, anchor, register_golden};
use crate::tpm::SimManufacturer;

#[derive(Deserialize)]
struct Listening {
    proxy: String,
}

/// A gate before a service, whose policies keep `/admin` to itself.
struct Front {
    gate: Process,
    folder: TempDir,
    port: String,
}

impl Front {
    fn start(fleet: &Fleet) -> Self {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        fs::write(path("front.pem"), certificate.pem()).unwrap();
        fs::write(path("front.key"), key.serialize_pem()).unwrap();
        let policies = r#"permit (principal, action, resource)
            when { [Assurance::"hardware", Assurance::"simulated"].contains(principal.assurance) };
            @reason("the bastion administers") forbid (principal, action, resource in Path::"/admin");"#;
        fs::write(path("policies.cedar"), policies).unwrap();
        let mut gate = product("countersign-gate");
        gate.args(["--listen", "127.0.0.1:0", "--trust-domain", TRUST_DOMAIN, "--broker", &fleet.url()]);
        gate.arg("--trust-dir").arg(fleet.data().join("public")).arg("--authorize").arg(path("policies.cedar"));
        gate.args(["--proxy-listen", "127.0.0.1:0", "--proxy-upstream", &format!("http://{}", service())]);
        gate.arg("--proxy-certificate").arg(path("front.pem")).arg("--proxy-key").arg(path("front.key"));
        let (gate, Listening { proxy }) = announced(&mut gate, &path("gate.log"));
        let port = proxy.rsplit(':').next().unwrap().to_owned();
        Self { gate, folder, port }
    }

    fn curl(&self, caller: &Caller, path: &str) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--noproxy", "*", "--max-time", "20", "--no-buffer"]);
        curl.args(["--header", "x-countersign-spiffe-id: spiffe://somebody/else", "--cacert"]);
        curl.arg(self.folder.path().join("front.pem"));
        curl.arg("--cert").arg(&caller.certificate).arg("--key").arg(&caller.key);
        curl.args(["--write-out", "\n%{http_code}\n%header{x-countersign-reason}"]);
        curl.arg(format!("https://localhost:{}{path}", self.port));
        curl
    }

    /// Status, reason and body.
    fn ask(&self, caller: &Caller, path: &str) -> (String, String, String) {
        let output = self.curl(caller, path).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let mut lines = said.rsplitn(3, '\n').map(str::to_owned);
        let (reason, status) = (lines.next().unwrap(), lines.next().unwrap());
        (status, reason, lines.next().unwrap_or_default())
    }
}

/// A service that answers whom it was told, and at `/endless` without an end.
fn service() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || answer(stream.unwrap()));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    let mut head = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() != 0 {}
    if head.starts_with("GET /endless ") {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nwords\n\r\n").unwrap();
        // Until the proxy hangs up.
        let _ended = reader.read_to_string(&mut head);
        return;
    }
    let told: Vec<&str> = head.lines().filter_map(|line| line.strip_prefix("x-countersign-spiffe-id: ")).collect();
    let told = told.join(",");
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{told}", told.len()).unwrap();
}

/// A credential in files.
struct Caller {
    certificate: PathBuf,
    key: PathBuf,
}

impl Caller {
    fn of(fleet: &Fleet, host: &SimHost, chain: &str) -> Self {
        let file = |name: &str| fleet.path().join(format!("{}-{name}.pem", host.id));
        fs::write(file("chain"), chain).unwrap();
        fs::write(file("key"), host.key_pem()).unwrap();
        Self { certificate: file("chain"), key: file("key") }
    }
}

#[test]
fn e23_a_revoked_host_loses_the_answer_it_is_reading() {
    let (folder, maker) = (TempDir::new().unwrap(), SimManufacturer::new());
    let fleet = Fleet::start(&[anchor(&maker, folder.path())]);
    register_golden(&fleet, "golden");
    let [(a, chain_a), (b, chain_b)] = ["host-a", "host-b"].map(|id| SimHost::trusted(&fleet, &maker, id));
    let (first, second) = (Caller::of(&fleet, &a, &chain_a), Caller::of(&fleet, &b, &chain_b));
    let mut front = Front::start(&fleet);
    for (host, caller) in [(&a, &first), (&b, &second)] {
        let mut seen = front.ask(caller, "/");
        wait_until("the proxy lets the host in", || {
            seen = front.ask(caller, "/");
            seen.0 == "200"
        });
        assert_eq!(seen.2, format!("spiffe://{TRUST_DOMAIN}/host/{}", host.id), "not whom it says it is");
    }
    let (status, reason, body) = front.ask(&first, "/admin/users");
    assert_eq!((status.as_str(), reason.as_str()), ("403", "authorize.forbidden"));
    assert!(!body.contains("bastion"), "a caller is not told what policies say: {body}");
    // The other host's key does not go with this certificate: TLS itself refuses.
    let stolen = Caller { certificate: first.certificate.clone(), key: second.key.clone() };
    assert!(!front.curl(&stolen, "/").output().unwrap().status.success());

    let mut reading = front.curl(&first, "/endless").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut answer = BufReader::new(reading.stdout.take().unwrap());
    let mut words = String::new();
    answer.read_line(&mut words).unwrap();
    assert_eq!(words, "words\n");
    fleet.operator_ok(&["hosts", "revoke", "host-a"]);
    answer.read_to_string(&mut words).unwrap();
    assert!(!reading.wait().unwrap().success(), "curl knows that the answer is not whole");
    assert_eq!(front.ask(&first, "/").1, "gate.credential.invalid");
    assert_eq!(front.ask(&second, "/").0, "200", "and nobody else loses anything");
    front.gate.kill();
    assert_ne!(front.ask(&second, "/").0, "200");
}
