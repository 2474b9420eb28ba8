//! `countersign broker`: the process that serves until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, PublicKeyData as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::api::federation::{self, Endpoint};
use crate::api::listener::CONNECTIONS_MAX;
use crate::api::{listener, router};
use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::{Config, DataDir};
use crate::keys::{Keys, LeafProfile, random};

/// The broker's own certificate is made at each start and outlives any sensible time between two.
const SERVER_LIFE_MS: u64 = 365 * 86_400_000;

/// Run the broker.
#[derive(Debug, clap::Args)]
pub struct BrokerArgs {
    /// The data directory that `countersign init` made.
    #[arg(long, env = "COUNTERSIGN_DATA_DIR", default_value = "countersign-data")]
    pub data_dir: PathBuf,
    /// Listen here instead of where the settings say; port 0 takes a free one and prints it.
    #[arg(long)]
    pub listen: Option<SocketAddr>,
}

/// What the broker prints once it answers.
#[derive(Debug, Serialize)]
struct Listening {
    listening: SocketAddr,
    /// The SPIFFE bundle endpoint, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    federation: Option<SocketAddr>,
}

/// Serves until SIGTERM or SIGINT, or until it can sign no more pulses: whoever supervises it starts it again.
///
/// # Errors
/// Anything that keeps the broker from starting.
pub async fn broker(args: &BrokerArgs) -> anyhow::Result<()> {
    let data = DataDir::at(&args.data_dir);
    let mut config = Config::load(&data.config())?;
    let listener = listener::bind(args.listen.unwrap_or(config.listen)).await.context("listen")?;
    config.listen = listener.local_addr()?;
    let clock = Clock::system(config.keeper());
    tracing::info!(error_max_ms = config.clock_error_max_ms, "{}", config.keeper().posture());
    let (broker, config) = {
        let (data, config, clock) = (data, config.clone(), clock.clone());
        // Opening and folding the log is file I/O.
        tokio::task::spawn_blocking(move || Broker::start(data, config.clone(), clock).map(|broker| (broker, config)))
            .await??
    };
    let tls = server_tls(&broker.keys, &config, &clock)?;
    let (stop, stopped) = watch::channel(false);
    let federation = federate(&broker, stopped.clone()).await?;
    let serving = tokio::spawn(listener::serve(listener, tls, router(Arc::clone(&broker)), CONNECTIONS_MAX, stopped));
    println!("{}", serde_json::to_string(&Listening { listening: config.listen, federation })?);
    tracing::info!(listening = %config.listen, trust_domain = config.trust_domain, "broker ready");
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let asked = tokio::select! {
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
        // It cannot mend itself: what is durable is read by the process that comes after it.
        () = broker.pulse.ended() => false,
    };
    stop.send_replace(true);
    serving.await?;
    // What waits is recorded, and the log's public copy is complete.
    tokio::task::block_in_place(|| broker.lineage.stop());
    anyhow::ensure!(asked, "no more pulses could be signed; start again");
    Ok(())
}

/// Serves the SPIFFE bundle endpoint, where the settings name an address.
async fn federate(broker: &Arc<Broker>, stopped: watch::Receiver<bool>) -> anyhow::Result<Option<SocketAddr>> {
    let Some(address) = broker.config.federation_listen else { return Ok(None) };
    let listener = listener::bind(address).await.context("listen for federation")?;
    let address = listener.local_addr()?;
    let endpoint = Endpoint::new(Arc::clone(broker)).context("sign the federation endpoint's SVID")?;
    let tls = federation::tls_config(Arc::clone(&endpoint))?;
    tokio::spawn(endpoint.keep());
    let router = federation::router(Arc::clone(broker));
    tokio::spawn(listener::serve(listener, tls, router, federation::CONNECTIONS_MAX, stopped));
    Ok(Some(address))
}

fn server_tls(keys: &Keys, config: &Config, clock: &Clock) -> anyhow::Result<rustls::ServerConfig> {
    let key = KeyPair::generate()?;
    let now = clock.now();
    let profile = LeafProfile {
        uri: None,
        names: config.server_names.clone(),
        usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
        extensions: vec![],
        serial: random::<16>()?.to_vec(),
        not_after: now.plus(SERVER_LIFE_MS),
    };
    let certificate = keys.control.sign(&key.subject_public_key_info(), profile, now)?;
    let chain = vec![CertificateDer::from(certificate.der)];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(listener::tls_config(keys.control.root_der(), chain, key)?)
}
