//! `countersign-gate`: reads its trust material, follows its brokers, answers its proxy.

use std::io::Write as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser as _;
use countersign_gate::clock::{Clock, SystemClock};
use countersign_gate::door::Door;
use countersign_gate::ext_authz;
use countersign_gate::feed::Feed;
use countersign_gate::forward_auth;
use countersign_gate::metrics::Metrics;
use countersign_gate::settings::{Listen, Settings};
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
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Arc::new(Metrics::default());
    let state = Arc::new(GateState::new(material.trust, material.keys));
    for broker in &settings.broker {
        let (state, clock, metrics) = (Arc::clone(&state), Arc::clone(&clock), Arc::clone(&metrics));
        tokio::spawn(Feed::new(broker, &material.broker_ca, state, clock, metrics)?.follow());
    }

    let door = Door { state, authorize, clock, metrics };
    let router = forward_auth::router(door.clone()).merge(ext_authz::router(door));
    let end = end_of_service()?;
    match settings.listen {
        Listen::Loopback(address) => {
            let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
            announce(&listener.local_addr()?.to_string())?;
            axum::serve(listener, router).with_graceful_shutdown(end).await?;
        }
        Listen::Unix(path) => {
            clear(&path)?;
            let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
            announce(&format!("unix:{}", path.display()))?;
            axum::serve(listener, router).with_graceful_shutdown(end).await?;
        }
    }
    Ok(())
}

/// Prints where the gate answers, for whoever started it.
fn announce(address: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::json!({ "listen": address }))?;
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
