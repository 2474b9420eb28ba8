//! The HTTPS listener: TLS 1.3, one task for each connection, and who is at the other end as a request extension.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use countersign_attestation::binder::{ChannelBinding, Role};
use countersign_attestation::digest::Sha256Digest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::problem::Refusal;

/// Handshakes and first requests end in time; a slow peer holds one of the connections below.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection costs about 50 KiB; 4,096 of them stay far below the memory of the smallest broker machine.
pub const CONNECTIONS_MAX: usize = 4096;
/// First byte of every TLS record that starts a connection (RFC 8446, 5.1: handshake).
const TLS_HANDSHAKE: u8 = 0x16;

/// The certificate a client proved it holds the key of. What it may do is decided on every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// No client certificate.
    Anonymous,
    /// A certificate of the control authority.
    Certified {
        /// URI subject alternative name.
        uri: String,
        /// SHA-256 of the `SubjectPublicKeyInfo`.
        key: Sha256Digest,
        /// What this connection is to a host's evidence.
        channel: ChannelBinding,
    },
}

/// The TLS configuration: TLS 1.3 only, client certificates of the control authority or none, and no resumption,
/// because a resumed session would carry an identity nobody checked again.
///
/// # Errors
/// [`rustls::Error`] when the certificate and key do not fit.
pub fn tls_config(
    control_root: &[u8],
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(control_root.to_vec()))?;
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The TLS configuration of a relay: TLS 1.3 only, no client certificates, since nothing here is for one client alone.
///
/// # Errors
/// [`rustls::Error`] when the certificate and key do not fit.
pub fn relay_tls_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts connections, so many at a time, until `stop` turns true, then lets running requests end.
pub async fn serve(
    listener: TcpListener,
    tls: ServerConfig,
    router: Router,
    connections: usize,
    mut stop: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let places = Arc::new(Semaphore::new(connections));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            // Out of file descriptors, or the peer left already: the next one may do better.
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                crate::clock::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = connection(stream, acceptor, router, stop).await {
                tracing::debug!(%peer, %error, "connection ended");
            }
            drop(place);
        });
    }
}

/// Binds the listener.
///
/// # Errors
/// [`io::Error`] when the address is taken or not this machine's.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    let handshake = async {
        if stream.peek(&mut first).await? == 1 && first != [TLS_HANDSHAKE] {
            refuse_plain_http(stream).await?;
            return Err(io::Error::other("plain HTTP"));
        }
        acceptor.accept(stream).await
    };
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await??;
    let peer = peer_of(stream.get_ref().1)?;
    let router = router.layer(axum::Extension(peer));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Some(Duration::from_secs(30)));
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(64).keep_alive_interval(Duration::from_secs(20));
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        _ = stop.wait_for(|stop| *stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// Says in plain HTTP that this port does not speak it, instead of an unreadable TLS alert.
async fn refuse_plain_http(mut stream: TcpStream) -> io::Result<()> {
    let problem = Refusal::PlainHttp.plain();
    let body = serde_json::to_vec(&problem.0)?;
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    // Read what was sent, bounded, so that closing does not reset the answer away.
    let mut request = [0; 4096];
    let _read = stream.read(&mut request).await?;
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await
}

/// Who is at the other end. A connection whose exporter gives nothing ends here: no binding, no evidence.
fn peer_of(tls: &ServerConnection) -> Result<Peer, Box<dyn std::error::Error + Send + Sync>> {
    let Some(leaf) = tls.peer_certificates().and_then(<[_]>::first) else { return Ok(Peer::Anonymous) };
    let (_, certificate) = X509Certificate::from_der(leaf)?;
    let names = certificate.subject_alternative_name()?;
    let mut uris = names.iter().flat_map(|names| &names.value.general_names);
    let (Some(GeneralName::URI(uri)), None) = (uris.next(), uris.next()) else {
        return Err("a client certificate carries exactly one name, a URI".into());
    };
    let key = Sha256Digest::of(&[certificate.public_key().raw]);
    let context = ChannelBinding::context(Role::Host, &key);
    let exported = tls.export_keying_material([0; ChannelBinding::LENGTH], ChannelBinding::LABEL, Some(&context))?;
    Ok(Peer::Certified { uri: (*uri).to_owned(), key, channel: ChannelBinding(exported) })
}
