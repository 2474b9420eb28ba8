//! A service behind real Envoy, which asks the gate about each request.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::fleet::{Fleet, Process, TRUST_DOMAIN, succeed, wait_until};
use crate::sim_host::{SimHost, anchor, register_golden};
use crate::tpm::SimManufacturer;

/// The Envoy of `make clients`; none where no package index was reached.
fn envoy() -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/venv");
    if tools.join("installed").exists() {
        return Some(tools.join("bin/envoy"));
    }
    println!("no Envoy in {}, run `make clients`: skipped", tools.display());
    None
}

/// Envoy before a service that answers everything with 200.
struct Front {
    _envoy: Process,
    folder: TempDir,
    port: u64,
}

/// What a caller sees.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: String,
    /// The caller, as the service was told.
    caller: String,
    reason: String,
    body: String,
}

impl Front {
    fn start(envoy: &Path, fleet: &Fleet) -> Self {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        fs::write(path("front.pem"), certificate.pem()).unwrap();
        fs::write(path("front.key"), key.serialize_pem()).unwrap();
        let gate = fleet.gate_address.rsplit(':').next().unwrap();
        let bundle = fleet.data().join("public/trust-bundle.pem");
        let settings = include_str!("envoy.yaml")
            .replace("FOLDER", folder.path().to_str().unwrap())
            .replace("TRUST_BUNDLE", bundle.to_str().unwrap())
            .replace("GATE_PORT", gate);
        fs::write(path("envoy.yaml"), settings).unwrap();
        let mut command = Command::new(envoy);
        command.arg("-c").arg(path("envoy.yaml")).arg("--admin-address-path").arg(path("admin"));
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]);
        let log = fs::File::create(path("log")).unwrap();
        let envoy = Process(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let mut port = 0;
        wait_until("Envoy listens", || {
            let Some(admin) = fs::read_to_string(path("admin")).ok().filter(|admin| !admin.is_empty()) else {
                return false;
            };
            let listeners = Command::new("curl")
                .args(["-sS", "--noproxy", "*", "--max-time", "5", &format!("http://{admin}/listeners?format=json")])
                .output()
                .unwrap();
            let listeners: Value = serde_json::from_slice(&listeners.stdout).unwrap_or_default();
            port = listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"]
                .as_u64()
                .unwrap_or(0);
            port != 0
        });
        Self { _envoy: envoy, folder, port }
    }

    /// What a caller with this credential sees, who says of itself that it is somebody else.
    fn ask(&self, caller: &Caller) -> Seen {
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--noproxy",
            "*",
            "--max-time",
            "20",
            "--write-out",
            "\n%{http_code}\n%header{x-seen}\n%header{x-countersign-reason}",
        ]);
        curl.args(["--header", "x-countersign-spiffe-id: spiffe://somebody/else"]);
        curl.arg("--cacert").arg(self.folder.path().join("front.pem"));
        curl.arg("--cert").arg(&caller.certificate).arg("--key").arg(&caller.key);
        curl.arg(format!("https://localhost:{}/", self.port));
        let said = succeed(&mut curl);
        let mut lines = said.rsplitn(4, '\n').map(str::to_owned);
        let (reason, caller, status) = (lines.next().unwrap(), lines.next().unwrap(), lines.next().unwrap());
        Seen { status, caller, reason, body: lines.next().unwrap_or_default() }
    }
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
fn e_envoy_asks_about_each_request_and_denies_where_nobody_answers() {
    let Some(envoy) = envoy() else { return };
    let (folder, maker) = (TempDir::new().unwrap(), SimManufacturer::new());
    let mut fleet = Fleet::start(&[anchor(&maker, folder.path())]);
    register_golden(&fleet, "golden");
    let [(a, chain_a), (b, chain_b)] = ["host-a", "host-b"].map(|id| SimHost::trusted(&fleet, &maker, id));
    let (first, second) = (Caller::of(&fleet, &a, &chain_a), Caller::of(&fleet, &b, &chain_b));
    fleet.gate_until(&chain_a, 200);
    fleet.gate_until(&chain_b, 200);
    let front = Front::start(&envoy, &fleet);
    for (host, caller) in [(&a, &first), (&b, &second)] {
        let seen = front.ask(caller);
        assert_eq!((seen.status.as_str(), seen.body.as_str()), ("200", "served"), "{seen:?}");
        assert_eq!(seen.caller, format!("spiffe://{TRUST_DOMAIN}/host/{}", host.id), "not whom it says it is");
    }
    // The other host's key does not go with this certificate: TLS itself refuses.
    let stolen = Caller { certificate: first.certificate.clone(), key: second.key.clone() };
    let refused = Command::new("curl")
        .args(["-sS", "--noproxy", "*", "--insecure", "--cert"])
        .arg(&stolen.certificate)
        .arg("--key")
        .arg(&stolen.key)
        .arg(format!("https://localhost:{}/", front.port))
        .output()
        .unwrap();
    assert!(!refused.status.success());
    // Nor does a certificate that Envoy believes and the broker never issued say anything: see the forward-auth door.
    fleet.operator_ok(&["hosts", "revoke", "host-a"]);
    let mut seen = front.ask(&first);
    wait_until("Envoy denies the revoked host", || {
        seen = front.ask(&first);
        seen.status == "403"
    });
    assert_eq!((seen.reason.as_str(), seen.caller.as_str()), ("gate.credential.invalid", ""));
    let problem: Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(problem["code"], "gate.credential.invalid");
    assert!(problem.get("expected").is_none() && problem.get("found").is_none(), "{problem}");
    assert_eq!(front.ask(&second).status, "200");
    // Without the gate nobody is let in.
    fleet.kill_gate();
    assert_eq!(front.ask(&second).status, "503");
}
