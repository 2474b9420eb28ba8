//! The main job: attest, get a credential, be let in, drift, be denied, be re-admitted.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use countersign_attestation::UnixMillis;
use countersign_attestation::result::ear::{Ear, Tier};
use countersign_attestation::result::jws::{JwkSet, Thumbprint};
use countersign_attestation::result::svid::TrustDomain;
use tempfile::TempDir;

use crate::fleet::{Fleet, Process, TRUST_DOMAIN, now, succeed, wait_until};
use crate::machine::{Machine, open_connections, runs};

const HOST: &str = "gpu-host-17";
/// The agent's exit code for a denial.
const DENIED: Option<i32> = Some(3);

#[test]
fn a_host_attests_is_let_in_drifts_is_denied_and_comes_back_as_another_generation() {
    let folder = TempDir::new().unwrap();
    let mut machine = Machine::boot(folder.path());
    let fleet = Fleet::start(&[machine.anchor()]);
    machine.enroll(&fleet, HOST);

    // Without references nobody is trusted.
    let (code, said) = machine.attest_once();
    assert_eq!(code, DENIED, "{said}");
    assert!(!machine.credential("credential.pem").exists());
    let denied = fleet.host(HOST);
    assert_eq!(denied.trust.standing, "enrolled");
    replay(&fleet, "denied");
    machine.capture(&fleet, HOST, "image-42");

    // Trusted: the workload starts, and the credential stands before others' tools.
    let mut agent = machine.run();
    let workload = machine.event("workload_started").pid.unwrap();
    assert!(runs(workload));
    wait_until("the workload has no connection of the agent", || open_connections(workload).is_empty());
    let certificate = machine.certificate();
    check_certificate(&machine);
    check_ear(&fleet, &machine);
    fleet.gate_until(&certificate, 200);
    let (_nginx, front) = start_nginx(&fleet);
    let (status, body) = curl(&fleet, &machine, front);
    assert_eq!(status, 200, "{body}");
    assert!(body.contains(&format!("spiffe://{TRUST_DOMAIN}/host/{HOST}")), "{body}");

    // Drift: the gate denies within a second of the measurement.
    let started = now();
    machine.extend(11, "a kernel nobody registered");
    fleet.gate_until(&certificate, 403);
    let took = started.elapsed();
    println!("from the extend's start to the gate's first 403: {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");

    // The host enforces by itself.
    machine.event("workload_killed");
    assert!(machine.event("trust_lost").code.is_some());
    assert_eq!(agent.code(), DENIED);
    wait_until("the workload is gone", || !runs(workload));
    for file in ["credential.pem", "key.pem", "ear.jwt"] {
        assert!(!machine.credential(file).exists(), "{file} is left");
    }
    let drifted = fleet.host(HOST);
    assert_eq!((drifted.trust.standing.as_str(), drifted.trust.generation), ("revoked", 1));
    assert!(!drifted.trust.reasons.is_empty());
    replay(&fleet, "revoked");

    // Also after it was mended, only an operator leads back, and only a new credential is trusted.
    machine = machine.reboot();
    let (code, said) = machine.attest_once();
    assert_eq!(code, DENIED, "{said}");
    assert!(said.contains("trust.revoked"), "{said}");
    fleet.operator_ok(&["hosts", "readmit", HOST]);
    let _agent = machine.run();
    machine.event("workload_started");
    let renewed = machine.certificate();
    assert_ne!(renewed, certificate);
    fleet.gate_until(&renewed, 200);
    let old = fleet.gate(&certificate);
    assert_eq!((old.status, old.reason.as_str()), (403, "gate.credential.invalid"));
    assert_eq!(fleet.host(HOST).trust.generation, 2);

    let report = fleet.operator_ok(&["log", "verify"]);
    assert!(!report.trim().is_empty());
}

/// The host's newest decision, made again from its archived inputs, is the recorded one.
fn replay(fleet: &Fleet, event: &str) {
    let entry = fleet.entries().into_iter().rfind(|entry| entry.event == event).unwrap();
    assert_eq!(entry.host.as_deref(), Some(HOST));
    let index = entry.index.to_string();
    let replayed = fleet.operator_ok(&["replay", "--entry", &index, "--output", "json"]);
    let replayed: serde_json::Value = serde_json::from_str(&replayed).unwrap();
    assert_eq!(replayed["identical"], true, "{replayed}");
    assert_eq!(replayed["recorded"], replayed["replayed"], "{replayed}");
    assert_eq!(replayed["event"], event);
}

fn check_certificate(machine: &Machine) {
    let credential = machine.credential("credential.pem");
    let mut verify = Command::new("openssl");
    verify.args(["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile"]);
    let verified =
        succeed(verify.arg(machine.credential("bundle.pem")).arg("-untrusted").arg(&credential).arg(&credential));
    assert!(verified.trim_end().ends_with(": OK"), "{verified}");
    let mut show = Command::new("openssl");
    show.args(["x509", "-noout", "-ext", "subjectAltName", "-in"]).arg(&credential);
    let shown = succeed(&mut show);
    assert!(shown.contains(&format!("URI:spiffe://{TRUST_DOMAIN}/host/{HOST}")), "{shown}");
}

/// The EAR verifies under the published keys for the certificate's key, and for no other.
fn check_ear(fleet: &Fleet, machine: &Machine) {
    let mut public = Command::new("openssl");
    public.args(["x509", "-noout", "-pubkey", "-in"]).arg(machine.credential("credential.pem"));
    let public = succeed(&mut public);
    let key = x509_parser::pem::parse_x509_pem(public.as_bytes()).unwrap().1.contents;
    let holder = Thumbprint::of_spki(&key).unwrap();
    let jwks = fleet.as_anyone().send("GET", "/.well-known/jwks.json", None);
    let keys = JwkSet::parse(&jwks.body).unwrap();
    let token = fs::read_to_string(machine.credential("ear.jwt")).unwrap();
    let domain = TrustDomain::parse(TRUST_DOMAIN).unwrap();
    let ear = Ear::verify(token.trim(), &keys, &domain, &holder, wall()).unwrap();
    assert_eq!(ear.sub.to_string(), format!("spiffe://{TRUST_DOMAIN}/host/{HOST}"));
    assert_eq!(ear.generation, 1);
    assert!(ear.submods.contains_key("tpm"), "{ear:?}");
    assert!(ear.submods.values().all(|submodule| submodule.ear_status != Tier::Contraindicated), "{ear:?}");
    let decision = fleet.entries().into_iter().find(|entry| entry.index == ear.log_index).unwrap();
    assert_eq!((decision.leaf_hash, decision.event.as_str()), (ear.jti.to_hex(), "granted"));
    let other = Thumbprint::of_spki(&crate::tpm::CredentialKey::new().spki()).unwrap();
    assert!(Ear::verify(token.trim(), &keys, &domain, &other, wall()).is_err());
}

#[expect(clippy::disallowed_methods, reason = "a relying party reads its clock")]
fn wall() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    UnixMillis(since.as_millis().try_into().unwrap())
}

/// A request with the credential, whose key lives in the TPM: OpenSSL's tpm2 provider signs the handshake.
fn curl(fleet: &Fleet, machine: &Machine, front: u16) -> (u16, String) {
    let conf = fleet.path().join("openssl.cnf");
    fs::write(&conf, OPENSSL_CONF).unwrap();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--write-out", "\n%{http_code}", "--max-time", "20", "--cacert"]);
    curl.arg(fleet.path().join("front.pem")).arg("--cert").arg(machine.credential("credential.pem"));
    curl.arg("--key").arg(machine.credential("key.pem")).arg(format!("https://localhost:{front}/"));
    curl.env("OPENSSL_CONF", conf).env("TPM2OPENSSL_TCTI", machine.tpm.tcti());
    let answer = succeed(&mut curl);
    let (body, status) = answer.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.trim().to_owned())
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

/// nginx: client certificates of the workload CA, each asked of the gate.
fn start_nginx(fleet: &Fleet) -> (Process, u16) {
    let root = fleet.path().join("nginx");
    fs::create_dir_all(&root).unwrap();
    let mut openssl = Command::new("openssl");
    // Ed25519: the tpm2 provider would verify an ECDSA server's signature inside the TPM.
    openssl.args(["req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    openssl.args(["-addext", "subjectAltName=DNS:localhost", "-keyout"]).arg(root.join("server.key"));
    succeed(openssl.arg("-out").arg(fleet.path().join("front.pem")));
    // nginx takes no listening socket, so another process may take the port first: then it ends, and we try another.
    for _ in 0..20 {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        fs::write(root.join("nginx.conf"), nginx_conf(fleet, &root, port)).unwrap();
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(&root).arg("-c").arg(root.join("nginx.conf")).arg("-e").arg(root.join("error.log"));
        let mut process = Process(nginx.spawn().unwrap());
        let mut ended = false;
        wait_until("nginx listens", || {
            ended = process.0.try_wait().unwrap().is_some();
            ended || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        if !ended {
            return (process, port);
        }
    }
    panic!("nginx: {}", fs::read_to_string(root.join("error.log")).unwrap_or_default());
}

fn nginx_conf(fleet: &Fleet, root: &Path, port: u16) -> String {
    let (gate, dir, root) = (&fleet.gate_address, fleet.path().display(), root.display());
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
    location @allowed {{
      default_type text/plain;
      return 200 "allowed: $who\n";
    }}
    location / {{
      auth_request /gate;
      auth_request_set $who $upstream_http_x_countersign_spiffe_id;
      try_files /nothing @allowed;
    }}
  }}
}}
"#
    )
}
