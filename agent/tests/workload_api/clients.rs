//! Clients that nobody here wrote, unmodified.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use countersign_agent::clock;
use futures_util::StreamExt as _;
use rustls_pki_types::pem::PemObject as _;
use spiffe::{WorkloadApiClient, X509Source};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::{ID, Served, soon};

/// A program of the Python environment that `make clients` makes; none where no package index was reached.
fn tool(name: &str) -> Option<PathBuf> {
    let tools = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/venv"));
    if tools.join("installed").exists() {
        return Some(tools.join("bin").join(name));
    }
    println!("no {name} in {}, run `make clients`: skipped", tools.display());
    None
}

#[tokio::test]
async fn the_spiffe_crate_follows_rotation_and_hears_of_the_end() {
    let served = Served::by(&["uid:OWN"]);
    let first = served.offer(60_000);
    let endpoint = format!("unix:{}", served.path().display());
    let client = WorkloadApiClient::connect_to(&endpoint).await.unwrap();
    let mut contexts = client.stream_x509_contexts().await.unwrap();
    let source = soon("the source", X509Source::builder().endpoint(&endpoint).build()).await.unwrap();
    let serial = |svid: &spiffe::X509Svid| {
        let (_, leaf) = x509_parser::parse_x509_certificate(svid.leaf().as_bytes()).unwrap();
        hex::encode(leaf.raw_serial())
    };
    assert_eq!(source.svid().unwrap().spiffe_id().to_string(), ID);
    assert_eq!(serial(&source.svid().unwrap()), first);
    let context = soon("the first context", contexts.next()).await.unwrap().unwrap();
    assert_eq!(serial(context.default_svid().unwrap()), first);

    let mut updated = source.updated();
    let second = served.offer(60_000);
    let context = soon("the second context", contexts.next()).await.unwrap().unwrap();
    assert_eq!(serial(context.default_svid().unwrap()), second);
    soon("the source's update", updated.changed()).await.unwrap();
    assert_eq!(serial(&source.svid().unwrap()), second);
    let bundles = client.fetch_x509_bundles().await.unwrap();
    assert_eq!(bundles.len(), 1);

    served.lose();
    let ended = soon("the end", contexts.next()).await.unwrap().unwrap_err();
    assert_eq!(ended.to_string(), "no identity issued");
    assert_eq!(client.fetch_x509_svid().await.unwrap_err().to_string(), "no identity issued");
}

#[tokio::test]
async fn the_python_client_follows_rotation_and_hears_of_the_end() {
    let Some(python) = tool("python") else { return };
    let served = Served::by(&["uid:OWN"]);
    let first = served.offer(60_000);
    let mut python = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/workload_api/x509_contexts.py"))
        .arg(format!("unix:{}", served.path().display()))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(python.stdout.take().unwrap()).lines();
    let mut line = async || soon("a line of the Python client", lines.next_line()).await.unwrap().unwrap();
    let said = |serial: &str| format!("{ID} {}", serial.trim_start_matches('0'));
    assert_eq!(line().await, said(&first));
    let second = served.offer(60_000);
    assert_eq!(line().await, said(&second));
    served.lose();
    assert_eq!(line().await, "error gRPC error: StatusCode.PERMISSION_DENIED");
    assert!(soon("its end", python.wait()).await.unwrap().success());
}

/// Envoy with its certificate and roots from the socket.
struct Envoy {
    _process: Child,
    admin: String,
    directory: tempfile::TempDir,
}

impl Envoy {
    async fn start(envoy: PathBuf, served: &Served) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let template = include_str!("envoy.yaml");
        fs::write(path("envoy.yaml"), template.replace("SOCKET", served.path().to_str().unwrap())).unwrap();
        let log = fs::File::create(path("log")).unwrap();
        let process = Command::new(envoy)
            .arg("-c")
            .arg(path("envoy.yaml"))
            .arg("--admin-address-path")
            .arg(path("admin"))
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"])
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let written = || fs::read_to_string(path("admin")).ok().filter(|admin| !admin.is_empty());
        let admin = eventually("Envoy's admin address", async || written()).await;
        Self { _process: process, admin, directory }
    }

    async fn admin(&self, path: &str) -> String {
        curl(&[&format!("http://{}/{path}", self.admin)]).await.0
    }

    /// Where it listens, once it has its secrets: without them its listener does not exist.
    async fn listener(&self) -> String {
        eventually("Envoy's listener", async || {
            let text = self.admin("listeners?format=json").await;
            let listeners: serde_json::Value = serde_json::from_str(&text).ok()?;
            let address = listeners.pointer("/listener_statuses/0/local_address/socket_address")?;
            Some(format!("{}:{}", address.get("address")?.as_str()?, address.get("port_value")?.as_u64()?))
        })
        .await
    }
}

/// Output and errors.
async fn curl(arguments: &[&str]) -> (String, String) {
    let output = Command::new("curl").args(["-sS", "--noproxy", "*", "--max-time", "5"]).args(arguments).output();
    let output = output.await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    soon(what, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            clock::sleep(20).await;
        }
    })
    .await
}

#[tokio::test]
async fn envoy_takes_its_certificate_and_roots_and_follows_rotation() {
    let Some(envoy) = tool("envoy") else { return };
    let served = Served::by(&["uid:OWN"]);
    let first = served.offer(60_000);
    let envoy = Envoy::start(envoy, &served).await;
    let address = envoy.listener().await;
    let path = |name: &str| envoy.directory.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key) = served.authority.issue();
    for (name, content) in [("cert.pem", &certificate), ("key.pem", &key), ("ca.pem", &served.authority.certificate)] {
        fs::write(path(name), content).unwrap();
    }
    let (cert, key, ca, url) = (path("cert.pem"), path("key.pem"), path("ca.pem"), format!("https://{address}/"));
    // An SVID has no DNS name: curl looks at the chain, and the serial number says which certificate it was.
    let serial = async || {
        let connect = ["s_client", "-connect", &address, "-CAfile", &ca, "-cert", &cert, "-key", &key];
        let mut openssl = Command::new("openssl");
        // Nothing on its standard input: it ends after the handshake.
        openssl.args(connect).args(["-verify_return_error", "-showcerts"]).stdin(Stdio::null());
        let output = soon("a handshake with Envoy", openssl.output()).await.unwrap();
        let der = rustls_pki_types::CertificateDer::pem_slice_iter(&output.stdout).next()?.ok()?;
        let (_, leaf) = x509_parser::parse_x509_certificate(&der).ok()?;
        Some(hex::encode(leaf.raw_serial()))
    };
    assert_eq!(serial().await, Some(first));
    let (body, errors) = curl(&["-k", "--cert", &cert, "--key", &key, &url]).await;
    assert_eq!(body, "served", "{errors}");
    // The roots are in force: nobody, and nobody's certificate, is refused.
    let (body, _) = curl(&["-k", &url]).await;
    assert_eq!(body, "");
    let (stranger, stranger_key) = crate::Authority::new().issue();
    fs::write(path("stranger.pem"), stranger).unwrap();
    fs::write(path("stranger.key"), stranger_key).unwrap();
    let (body, _) = curl(&["-k", "--cert", &path("stranger.pem"), "--key", &path("stranger.key"), &url]).await;
    assert_eq!(body, "");

    let second = served.offer(60_000);
    eventually("Envoy serves the next certificate", async || serial().await.filter(|found| *found == second)).await;
    let (body, errors) = curl(&["-k", "--cert", &cert, "--key", &key, &url]).await;
    assert_eq!(body, "served", "{errors}");
    let (dump, _) = curl(&[&format!("http://{}/config_dump?include_eds=false", envoy.admin)]).await;
    assert!(dump.contains(&second), "the version is the serial number");
}
