//! `countersign-gate`: reads its trust material, follows its brokers, answers its proxy.

use core::net::SocketAddr;
use std::io::Write as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser as _;
use countersign_gate::authorize::Authorize;
use countersign_gate::clock::{Clock, NonceClock, SystemClock};
use countersign_gate::door::Door;
use countersign_gate::ext_authz;
use countersign_gate::feed::Feed;
use countersign_gate::forward_auth;
use countersign_gate::metrics::Metrics;
use countersign_gate::proxy::{Proxy, ProxySettings};
use countersign_gate::reread::Files;
use countersign_gate::settings::{Listen, Settings, TimeSource};
use countersign_gate::state::GateState;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let filter = EnvFilter::builder().with_env_var("COUNTERSIGN_LOG").try_from_env();
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).with_env_filter(filter).init();

    let authorize = settings.authorize()?;
    let material = settings.trust_material()?;
    let asking = Arc::new(NonceClock::default());
    let clock: Arc<dyn Clock> = match settings.clock {
        TimeSource::System => Arc::new(SystemClock::new(settings.keeper())),
        TimeSource::None => Arc::clone(&asking) as Arc<dyn Clock>,
    };
    let metrics = Arc::new(Metrics::default());
    let state = Arc::new(
        GateState::new(material.trust, material.keys).in_class(settings.class.into()).fed_by(settings.source()),
    );
    for broker in &settings.broker {
        let (state, clock, metrics) = (Arc::clone(&state), Arc::clone(&clock), Arc::clone(&metrics));
        let feed = Feed::new(broker, &material.broker_ca, state, clock, metrics)?;
        match settings.clock {
            TimeSource::System => tokio::spawn(feed.follow()),
            TimeSource::None => tokio::spawn(feed.ask(Arc::clone(&asking))),
        };
    }

    let door = Door { state, authorize, clock, metrics };
    let proxy = match settings.proxy()? {
        Some((listen, proxy)) => Some(open_proxy(&door, listen, &proxy).await?),
        None => None,
    };
    if let Authorize::ByPolicies(policies) = &door.authorize {
        tokio::spawn(Files::Policies(Arc::clone(policies)).follow(Arc::clone(&door.metrics)));
    }
    tell_posture(&settings, &door.authorize);
    let router = forward_auth::router(door.clone()).merge(ext_authz::router(door));
    let end = end_of_service()?;
    match settings.listen {
        Listen::Loopback(address) => {
            let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
            announce(&listener.local_addr()?.to_string(), proxy)?;
            axum::serve(listener, router).with_graceful_shutdown(end).await?;
        }
        Listen::Unix(path) => {
            clear(&path)?;
            let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
            announce(&format!("unix:{}", path.display()), proxy)?;
            axum::serve(listener, router).with_graceful_shutdown(end).await?;
        }
    }
    Ok(())
}

/// Opens the proxy door; where it answers.
async fn open_proxy(door: &Door, listen: SocketAddr, settings: &ProxySettings) -> anyhow::Result<SocketAddr> {
    let proxy = Arc::new(Proxy::new(door.clone(), settings)?);
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    tokio::spawn(Files::Identity(Arc::clone(&proxy)).follow(Arc::clone(&door.metrics)));
    tokio::spawn(proxy.serve(listener));
    Ok(address)
}

/// One line that says what this gate demands, and what it does not.
fn tell_posture(settings: &Settings, authorize: &Authorize) {
    let trust_domain = settings.trust_domain.as_str();
    let proxy = settings.proxy_upstream.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    tracing::info!(error_max_ms = settings.keeping.clock_error_max_ms, "{}", settings.keeper().posture());
    match authorize {
        Authorize::CoreAlone => {
            let asks = "no operator policies: whoever the broker trusts now may ask for anything";
            tracing::info!(trust_domain, proxy, authorize = asks, "posture");
        }
        Authorize::ByPolicies(policies) => {
            let current = policies.current();
            let asks = "operator policies must permit each request";
            let digest = current.digest().to_hex();
            tracing::info!(trust_domain, proxy, authorize = asks, policies = current.size(), digest, "posture");
        }
    }
}

/// Prints where the gate answers, for whoever started it.
fn announce(address: &str, proxy: Option<SocketAddr>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let announced = match proxy {
        None => serde_json::json!({ "listen": address }),
        Some(proxy) => serde_json::json!({ "listen": address, "proxy": proxy.to_string() }),
    };
    writeln!(out, "{announced}")?;
    out.flush()?;
    Ok(())
}

/// Removes the socket that a killed gate left behind. One that answers belongs to a running gate and stays.
fn clear(path: &Path) -> anyhow::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    anyhow::ensure!(StdUnixStream::connect(path).is_err(), "another gate answers on {}", path.display());
    std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

fn end_of_service() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
