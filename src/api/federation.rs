//! The SPIFFE bundle endpoint (SPIFFE Federation, 5): its own listener, authenticated with an X.509-SVID of this trust
//! domain (profile `https_spiffe`), so that a foreign domain needs nothing but the bundle it already has.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::routing::get;
use countersign_attestation::UnixMillis;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, PublicKeyData as _};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::api::public;
use crate::broker::Broker;
use crate::keys::{LeafProfile, certificates_der, random};

/// Connections at a time: peers ask every few minutes.
pub const CONNECTIONS_MAX: usize = 256;
/// How long the endpoint's SVID is valid; it is renewed at half.
const SVID_LIFE_MS: u64 = 3_600_000;
/// How soon a failed renewal is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The endpoint's own SVID. It names no host and carries no status, so no gate takes it for a credential; like the
/// certificate of the broker's listener it is no decision and in no log.
#[derive(Debug)]
pub struct Endpoint {
    broker: Arc<Broker>,
    svid: ArcSwapOption<Svid>,
}

#[derive(Debug)]
struct Svid {
    key: Arc<CertifiedKey>,
    renew_at: UnixMillis,
    not_after: UnixMillis,
}

/// The endpoint's SPIFFE id.
#[must_use]
pub fn spiffe_id(trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}/countersign/federation")
}

impl Endpoint {
    /// The endpoint with its first SVID.
    ///
    /// # Errors
    /// Why none could be signed.
    pub fn new(broker: Arc<Broker>) -> anyhow::Result<Arc<Self>> {
        let endpoint = Self { broker, svid: ArcSwapOption::empty() };
        endpoint.renew()?;
        Ok(Arc::new(endpoint))
    }

    /// Signs the next SVID, with a new key, when it is due.
    fn renew(&self) -> anyhow::Result<()> {
        let (keys, now) = (&self.broker.keys, self.broker.clock.now());
        if self.svid.load().as_ref().is_some_and(|svid| now < svid.renew_at) {
            return Ok(());
        }
        let not_after = now.plus(SVID_LIFE_MS).min(keys.workload.active(now)?.not_after());
        let key = KeyPair::generate()?;
        let profile = LeafProfile {
            uri: Some(spiffe_id(&self.broker.config.trust_domain)),
            names: vec![],
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
            extensions: vec![],
            serial: random::<16>()?.to_vec(),
            not_after,
        };
        let leaf = keys.workload.sign(&key.subject_public_key_info(), profile, now)?;
        let chain = certificates_der(&leaf.pem).map_err(anyhow::Error::msg)?;
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        let key = any_supported_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))?;
        let renew_at = now.plus(not_after.since(now) / 2);
        self.svid.store(Some(Arc::new(Svid { key: Arc::new(CertifiedKey::new(chain, key)), renew_at, not_after })));
        Ok(())
    }

    /// Renews for as long as the endpoint is served.
    pub async fn keep(self: Arc<Self>) {
        loop {
            crate::clock::sleep(LOOK_EVERY).await;
            let endpoint = Arc::clone(&self);
            // The issuing key may be in a token that is slow.
            let renewed = tokio::task::spawn_blocking(move || endpoint.renew()).await;
            match renewed {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the federation endpoint's SVID was not renewed"),
                Err(error) => tracing::error!(%error, "the federation endpoint's SVID was not looked after"),
            }
        }
    }
}

impl ResolvesServerCert for Endpoint {
    /// An SVID that is over is none: the handshake fails.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let svid = self.svid.load_full()?;
        (self.broker.clock.now() < svid.not_after).then(|| Arc::clone(&svid.key))
    }
}

/// TLS 1.3 with the endpoint's SVID; nobody is asked who they are, since the bundle is public.
///
/// # Errors
/// [`rustls::Error`] when the provider has no TLS 1.3.
pub fn tls_config(endpoint: Arc<Endpoint>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(endpoint);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The bundle, and nothing else.
pub fn router(broker: Arc<Broker>) -> Router {
    Router::new().route("/", get(public::bundle)).route("/v1/bundle", get(public::bundle)).with_state(broker)
}
