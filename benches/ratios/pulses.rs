//! How soon a revocation is everywhere: a hundred gates that follow the broker, and thousands of subscribers of one
//! relay, over TLS on this machine. Counted from before the operator's request, so that the commit is in it.

use core::time::Duration;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use countersign::clock::monotonic;
use countersign_attestation::result::jws::JwkSet;
use countersign_attestation::result::svid::{KeyProtection, TrustDomain};
use countersign_clock::{ClockSync, Keeper};
use countersign_gate::clock::{Clock as _, SystemClock};
use countersign_gate::decide::{Decision, Trust};
use countersign_gate::feed::Feed;
use countersign_gate::metrics::Metrics;
use countersign_gate::state::GateState;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::fleet::{Fleet, quantile};

/// All run on one machine.
fn clock() -> SystemClock {
    SystemClock::new(Keeper::new(ClockSync::Asserted, 50))
}

/// Gates, and revocations that each of them hears of.
const GATES: usize = 100;
const ROUNDS: usize = 60;
/// Subscribers of the relay, and revocations.
pub(crate) const SUBSCRIBERS: usize = 8_000;
const RELAYED: usize = 10;
/// Handshakes at a time.
const CONNECTING: usize = 64;

/// Times to the last of all, sorted.
pub(crate) struct Last(Vec<Duration>);

impl Last {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    pub(crate) fn quantile(&self, percent: usize) -> Duration {
        quantile(&self.0, percent)
    }
}

/// From the operator's request until the last of the gates denies.
pub(crate) async fn gates(fleet: &mut Fleet) -> anyhow::Result<Last> {
    let public = fleet.public();
    let der = |file: &str| -> anyhow::Result<Vec<Vec<u8>>> {
        let read = CertificateDer::pem_file_iter(public.join(file))?;
        Ok(read.collect::<Result<Vec<_>, _>>()?.into_iter().map(|der| der.to_vec()).collect())
    };
    let keys = JwkSet::parse(&std::fs::read(public.join("jwks.json"))?).map_err(|error| anyhow::anyhow!("{error}"))?;
    let trust_domain = TrustDomain::parse("bench.example").context("a trust domain")?;
    let trust = Trust { trust_domain, roots: der("trust-bundle.pem")?, keys: KeyProtection::Tpm };
    let ca = der("broker-ca.pem")?;
    let mut gates = Vec::new();
    for _ in 0..GATES {
        let state = Arc::new(GateState::new(trust.clone(), keys.clone()));
        let metrics = Arc::new(Metrics::default());
        let feed = Feed::new(&fleet.url(), &ca, Arc::clone(&state), Arc::new(clock()), metrics)?;
        gates.push((state, tokio::spawn(feed.follow())));
    }
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let chain = fleet.trusted().await?;
        for (gate, _) in &gates {
            answers(gate, &chain, true).await?;
        }
        let (said, mut denied) = mpsc::channel(GATES);
        for (gate, _) in &gates {
            let (gate, chain, said) = (Arc::clone(gate), chain.clone(), said.clone());
            tokio::spawn(async move {
                let heard = answers(&gate, &chain, false).await;
                // Nobody listens any more when the measurement failed.
                let _sent = said.send(heard.map(|()| monotonic())).await;
            });
        }
        let asked = monotonic();
        fleet.revoke().await?;
        let mut last = asked;
        for _ in 0..GATES {
            last = last.max(denied.recv().await.context("every gate answers")??);
        }
        times.push(last.duration_since(asked));
        fleet.readmit().await?;
    }
    gates.into_iter().for_each(|(_, following)| following.abort());
    Ok(Last::of(times))
}

/// Waits until the gate lets the chain in, or does not.
async fn answers(gate: &GateState, chain: &[Vec<u8>], allowed: bool) -> anyhow::Result<()> {
    let mut installed = gate.subscribe();
    while matches!(gate.decide(chain, clock().now()), Decision::Allow(_)) != allowed {
        installed.changed().await?;
    }
    Ok(())
}

/// What a relay prints.
#[derive(serde::Deserialize)]
struct Listening {
    listening: core::net::SocketAddr,
}

/// A relay, as a process.
struct Relay {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
    certificate: CertificateDer<'static>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

impl Relay {
    fn start(fleet: &Fleet) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
        let (certificate_file, key_file) = (folder.path().join("relay.pem"), folder.path().join("relay.key"));
        std::fs::write(&certificate_file, certificate.pem())?;
        std::fs::write(&key_file, key.serialize_pem())?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
        command.args(["relay", "--listen", "127.0.0.1:0", "--trust-domain", "bench.example", "--broker"]);
        command.arg(fleet.url()).arg("--trust-dir").arg(fleet.public());
        command.arg("--certificate").arg(certificate_file).arg("--key").arg(key_file);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no standard output")?).read_line(&mut line)?;
        let Listening { listening } = serde_json::from_str(&line).context("the relay did not come up")?;
        Ok(Self { child, port: listening.port(), _folder: folder, certificate: certificate.der().clone() })
    }
}

/// From the operator's request until the last subscriber has the pulse that says so.
pub(crate) async fn subscribers(fleet: &mut Fleet) -> anyhow::Result<Last> {
    let relay = Relay::start(fleet)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(relay.certificate.clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = Arc::new(tls);
    let (said, mut heard) = mpsc::unbounded_channel();
    let connecting = Arc::new(tokio::sync::Semaphore::new(CONNECTING));
    for _ in 0..SUBSCRIBERS {
        let place = Arc::clone(&connecting).acquire_owned().await?;
        let (tls, said, port) = (Arc::clone(&tls), said.clone(), relay.port);
        tokio::spawn(async move {
            let failed = subscribe(port, tls, place, &said).await;
            // The end of a subscription is the end of the measurement.
            let _sent = said.send(Heard::Ended(failed.err().map_or_else(String::new, |error| format!("{error:#}"))));
        });
    }
    let mut times = Vec::new();
    for round in 0..=RELAYED {
        fleet.trusted().await?;
        settle(&mut heard).await?;
        let asked = monotonic();
        fleet.revoke().await?;
        let mut last = asked;
        for _ in 0..SUBSCRIBERS {
            match heard.recv().await.context("subscribers")? {
                Heard::List(at) => last = last.max(at),
                Heard::Ended(why) => bail!("a subscription ended: {why}"),
            }
        }
        // The first round finds some still connecting.
        if 0 < round {
            times.push(last.duration_since(asked));
        }
        fleet.readmit().await?;
    }
    Ok(Last::of(times))
}

/// What a subscriber says.
enum Heard {
    /// A changed list, and the pulse that names it, are here.
    List(std::time::Instant),
    /// The subscription ended.
    Ended(String),
}

/// Waits until nothing is on its way any more.
async fn settle(heard: &mut mpsc::UnboundedReceiver<Heard>) -> anyhow::Result<()> {
    loop {
        match tokio::time::timeout(Duration::from_secs(2), heard.recv()).await {
            Ok(Some(Heard::List(_))) => {}
            Ok(Some(Heard::Ended(why))) => bail!("a subscription ended: {why}"),
            Ok(None) => bail!("no subscribers"),
            Err(_) => return Ok(()),
        }
    }
}

async fn subscribe(
    port: u16,
    tls: Arc<rustls::ClientConfig>,
    place: tokio::sync::OwnedSemaphorePermit,
    said: &mpsc::UnboundedSender<Heard>,
) -> anyhow::Result<()> {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let mut stream = tokio_rustls::TlsConnector::from(tls).connect(ServerName::try_from("localhost")?, stream).await?;
    stream.write_all(b"GET /v1/pulse/stream HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
    drop(place);
    let (mut space, mut tail, mut list) = (vec![0; 4096], Vec::new(), false);
    loop {
        let read = stream.read(&mut space).await?;
        if read == 0 {
            bail!("closed");
        }
        tail.extend_from_slice(space.get(..read).unwrap_or_default());
        let holds = |text: &[u8], what: &[u8]| text.windows(what.len()).any(|window| window == what);
        list |= holds(&tail, b"event: status-delta");
        // The pulse comes after its lists.
        if list && holds(&tail, b"event: pulse") {
            list = false;
            tail.clear();
            said.send(Heard::List(monotonic())).ok().context("nobody listens")?;
        }
        let keep = tail.len().saturating_sub(32);
        tail.drain(..keep);
    }
}
