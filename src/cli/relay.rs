//! `countersign relay`: fans a broker's pulses out to many gates, without a key.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use countersign_attestation::pulse::Class;
use countersign_attestation::result::jws::JwkSet;
use countersign_attestation::result::svid::TrustDomain;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::api::listener;
use crate::api::relay::{Relayed, Tokens, metrics_router, router};
use crate::cli::client::tls;
use crate::clock::Clock;
use crate::metrics::RelayMetrics;
use crate::relay::{Follower, Upstream, client};
use crate::trust::published::Followers;

/// Fan a broker's pulses out.
#[derive(Debug, clap::Args)]
pub struct RelayArgs {
    /// The broker, or another relay, to follow.
    #[arg(long, env = "COUNTERSIGN_BROKER", value_name = "URL")]
    broker: reqwest::Url,
    /// Folder with `jwks.json` and `broker-ca.pem`: the keys that sign pulses, and the CA of the broker's certificate.
    #[arg(long, value_name = "FOLDER")]
    trust_dir: PathBuf,
    /// The trust domain whose pulses are relayed.
    #[arg(long, value_name = "NAME", value_parser = trust_domain)]
    trust_domain: TrustDomain,
    /// Where to answer; port 0 takes a free one and prints it.
    #[arg(long, default_value = "127.0.0.1:8445", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// This relay's own TLS certificate and its intermediates, PEM.
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// How soon gates behind this relay want to know; `critical` asks the broker for four pulses a second.
    #[arg(long, value_enum, default_value_t = ClassName::Default)]
    class: ClassName,
    /// Where `/metrics` is answered, without TLS: a loopback address.
    #[arg(long, value_name = "ADDRESS", value_parser = loopback)]
    metrics: Option<SocketAddr>,
    /// Connections at a time; more wait.
    #[arg(long, default_value_t = 16_384, value_name = "NUMBER")]
    connections: usize,
}

/// How soon a revocation must be in force.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ClassName {
    /// The broker's Y.
    Default,
    /// Two seconds.
    Critical,
}

impl From<ClassName> for Class {
    fn from(class: ClassName) -> Self {
        match class {
            ClassName::Default => Self::Default,
            ClassName::Critical => Self::Critical,
        }
    }
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "expected an address such as 127.0.0.1:9445".to_owned())?;
    if address.ip().is_loopback() { Ok(address) } else { Err("expected a loopback address".to_owned()) }
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).ok_or_else(|| "expected 1 to 255 of a-z, 0-9, '-', '.' and '_'".to_owned())
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Files that cannot be used, or an address that is taken.
pub async fn run(args: &RelayArgs) -> anyhow::Result<()> {
    let jwks = args.trust_dir.join("jwks.json");
    let document = std::fs::read_to_string(&jwks).with_context(|| format!("cannot read {}", jwks.display()))?;
    let keys = JwkSet::parse(document.as_bytes()).with_context(|| format!("cannot use {}", jwks.display()))?;
    let client = client(tls(&args.trust_dir.join("broker-ca.pem"), None)?, args.class.into())?;
    let clock = Clock::dating();
    let (broker, trust_domain) = (args.broker.clone(), args.trust_domain.clone());
    let metrics = Arc::new(RelayMetrics::default());
    let upstream = Arc::new(Upstream {
        broker,
        client,
        keys: ArcSwap::from_pointee(keys),
        trust_domain,
        clock: clock.clone(),
        class: args.class.into(),
        metrics: Arc::clone(&metrics),
    });
    let (follower, published) = Follower::new(Arc::clone(&upstream));
    raise_file_limit(args.connections);
    let listener = listener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let listening = listener.local_addr()?;
    let server_tls = server_tls(&args.certificate, &args.key)?;
    let (stop, stopped) = watch::channel(false);
    let (tokens, subscribers) = (Tokens::of(upstream), Followers::default());
    let relayed = Relayed { published, jwks: Arc::from(document), clock, tokens, subscribers, metrics };
    let measured = match args.metrics {
        Some(address) => Some(serve_metrics(address, relayed.clone()).await?),
        None => None,
    };
    let following = tokio::spawn(follower.follow());
    let serving = tokio::spawn(listener::serve(listener, server_tls, router(relayed), args.connections, stopped));
    println!("{}", serde_json::to_string(&Listening { listening, metrics: measured })?);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    following.abort();
    stop.send_replace(true);
    Ok(serving.await?)
}

/// Answers `/metrics`; where.
async fn serve_metrics(address: SocketAddr, relayed: Relayed) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, metrics_router(relayed)).await });
    Ok(address)
}

/// What the relay prints once it answers.
#[derive(Debug, Serialize)]
struct Listening {
    listening: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<SocketAddr>,
}

fn server_tls(certificate: &Path, key: &Path) -> anyhow::Result<rustls::ServerConfig> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot use {}", certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("cannot use {}", key.display()))?;
    Ok(listener::relay_tls_config(chain, key)?)
}

/// One descriptor a connection, as far as this user may have them.
fn raise_file_limit(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(256);
    let current = limit.maximum.map_or(wanted, |maximum| wanted.min(maximum));
    if limit.current.is_some_and(|now| now < current) {
        let raised = Rlimit { current: Some(current), maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "fewer connections than asked for");
        }
    }
}
