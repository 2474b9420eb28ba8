//! The proxy door, for services that have no proxy: terminates mutual TLS, judges every request, and hands what is let
//! in to one service. What is open is judged again at every pulse and cut when its caller is trusted no more: an
//! authorization lives no longer than the attestation behind it.

mod clients;
mod headers;
mod session;
mod tls;
mod upstream;

use core::convert::Infallible;
use core::net::SocketAddr;
use core::time::Duration;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::http::uri::PathAndQuery;
use axum::http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::headers::{Heading, asks_websocket, heading, switch_to_websocket, switches_to_websocket};
use self::session::{Answer, Open, Session};
use self::tls::Identity;
use self::upstream::{Driver, Outgoing, Upstream};
pub use self::upstream::{UpstreamAddress, UpstreamAddressError};
use crate::authorize::Reread;
use crate::clock::{pause, within};
use crate::decide::Decision;
use crate::door::{Door, refusal, staple_of};
use crate::reason::{Denial, GateReason};

/// Longest time for a handshake, and for the head of a request; the latter bounds an idle connection too.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
const HEAD_MAX: Duration = Duration::from_secs(30);
/// Handshakes under way at once: strangers cost no more than this.
const HANDSHAKES_MAX: usize = 256;
/// Headers of a request or an answer: how many, and their bytes together.
const HEADERS_MAX: usize = 100;
const HEADERS_BYTES_MAX: usize = 64 * 1024;
/// Requests open at once on one connection of HTTP/2.
const STREAMS_MAX: u32 = 32;
/// Pause after an accept that failed: out of descriptors, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What an operator says of the proxy.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// The server's certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The service.
    pub upstream: UpstreamAddress,
    /// What an https service's certificate leads to, DER.
    pub upstream_ca: Vec<Vec<u8>>,
    /// Longest wait for the head of the service's answer.
    pub answer_max: Duration,
    /// Connections open at once.
    pub connections_max: usize,
}

/// Why the proxy cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// A file.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// Certificate or key.
    #[error("cannot use {0}: {1}")]
    Identity(PathBuf, String),
    /// Roots that TLS cannot use.
    #[error("the trust material cannot be used for TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Likewise.
    #[error("the trust bundle cannot be used for TLS: {0}")]
    Roots(countersign_attestation::Rejection),
    /// Nobody could ever be let in.
    #[error("the trust bundle holds no root")]
    NoRoots,
    /// An https service without a pinned CA.
    #[error("an https service needs the CA that its certificate leads to")]
    UpstreamCa,
    /// An https service without a name that a certificate could have.
    #[error("the name of the https service is none that a certificate has")]
    UpstreamName,
}

/// The proxy. Cheap to share: `Arc<Proxy>`.
#[derive(Debug)]
pub struct Proxy {
    door: Door,
    identity: Arc<Identity>,
    tls: Arc<ServerConfig>,
    upstream: Upstream,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Proxy {
    /// A proxy that judges by this door.
    ///
    /// # Errors
    /// [`SetUpError`]: files, roots or an address that cannot be used.
    pub fn new(door: Door, settings: &ProxySettings) -> Result<Self, SetUpError> {
        let identity = Arc::new(Identity::load(&settings.certificate, &settings.key)?);
        let tls = tls::config(&door.state.trust().roots, Arc::clone(&identity), Arc::clone(&door.clock))?;
        let upstream = Upstream::new(settings.upstream.clone(), &settings.upstream_ca, settings.answer_max)?;
        Ok(Self {
            door,
            identity,
            tls,
            upstream,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            connections: Arc::new(Semaphore::new(settings.connections_max)),
        })
    }

    /// Where requests go.
    #[must_use]
    pub const fn upstream(&self) -> &UpstreamAddress {
        self.upstream.address()
    }

    /// Reads certificate and key again; new connections see what they say, where both fit.
    ///
    /// # Errors
    /// [`SetUpError`]; what was in use stays so.
    pub fn reread(&self) -> Result<Reread, SetUpError> {
        self.identity.reread()
    }

    /// Accepts connections until the future is dropped. Connections end with their own tasks.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            // Whoever waits here waits in the kernel's queue.
            let Ok(handshaking) = Arc::clone(&self.handshakes).acquire_owned().await else { return };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    pause(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let proxy = Arc::clone(&self);
            tokio::spawn(async move {
                let handshake = proxy.handshake(stream).await;
                drop(handshaking);
                if let Some((stream, chain)) = handshake {
                    proxy.connection(stream, chain, peer).await;
                }
            });
        }
    }

    async fn handshake(&self, stream: TcpStream) -> Option<(TlsStream<TcpStream>, Vec<Vec<u8>>)> {
        drop(stream.set_nodelay(true));
        let outcome = within(HANDSHAKE_MAX, TlsAcceptor::from(Arc::clone(&self.tls)).accept(stream)).await;
        let (outcome, stream) = match outcome {
            Some(Ok(stream)) => ("done", Some(stream)),
            Some(Err(error)) => {
                tracing::debug!(%error, "handshake");
                ("refused", None)
            }
            None => ("timeout", None),
        };
        self.door.metrics.handshake(outcome);
        let stream = stream?;
        // The verifier demands one; without any, nobody is there to be judged.
        let chain = stream.get_ref().1.peer_certificates()?.iter().map(|der| der.to_vec()).collect();
        Some((stream, chain))
    }

    async fn connection(self: Arc<Self>, stream: TlsStream<TcpStream>, chain: Vec<Vec<u8>>, peer: SocketAddr) {
        let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
            self.door.metrics.handshake("full");
            return;
        };
        let http_2 = stream.get_ref().1.alpn_protocol() == Some(tls::HTTP_2);
        let session = Session::start(self.door.clone(), chain, peer.ip(), place);
        let held = Arc::clone(&session);
        let service = service_fn(move |request| {
            let (proxy, session) = (Arc::clone(&self), Arc::clone(&held));
            async move { Ok::<_, Infallible>(proxy.answer(&session, request).await) }
        });
        let io = TokioIo::new(stream);
        // Whichever ends first ends the other: a cut drops the connection with the answers it carries.
        if http_2 {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS_MAX)
                .max_header_list_size(u32::try_from(HEADERS_BYTES_MAX).unwrap_or(u32::MAX))
                .keep_alive_interval(HEAD_MAX)
                .serve_connection(io, service);
            tokio::select! { () = session.cut() => {}, end = connection => ended(end) }
        } else {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_MAX)
                .max_headers(HEADERS_MAX)
                .max_buf_size(HEADERS_BYTES_MAX)
                .serve_connection(io, service)
                .with_upgrades();
            tokio::select! { () = session.cut() => {}, end = connection => ended(end) }
        }
    }

    async fn answer(&self, session: &Arc<Session>, request: Request<Incoming>) -> Response<Body> {
        self.door.take_staple(staple_of(request.headers()));
        let heading = heading(&request);
        // Read whole before anything is asked; needed only where policies are.
        let asked = self.door.authorize.asks().then(|| heading.clone()?.asked(session.peer));
        let decision = self.door.judge(Ok(&session.chain), || match &asked {
            Some(asked) => asked.clone(),
            None => heading.clone()?.asked(session.peer),
        });
        let allowed = match decision {
            Decision::Allow(allowed) => allowed,
            Decision::Deny(denial) => return refusal(&denial, status_of(&denial)),
        };
        let outcome = match heading {
            Ok(heading) => {
                let open = session.open(asked.and_then(Result::ok));
                let switching = asks_websocket(&request);
                let (mut parts, body) = request.into_parts();
                headers::to_service(&mut parts.headers, &heading, &allowed, session.peer);
                self.forward(Request::from_parts(parts, body), &heading, switching, open).await
            }
            Err(denial) => Err(denial),
        };
        match outcome {
            Ok(response) => {
                self.door.metrics.proxied("forwarded");
                response
            }
            Err(denial) => {
                let (expected, found) = (denial.expected(), denial.found());
                tracing::warn!(code = denial.code(), expected, found, "not forwarded");
                self.door.metrics.proxied(denial.code());
                refusal(&denial, status_of(&denial))
            }
        }
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        heading: &Heading,
        switching: bool,
        open: Open,
    ) -> Result<Response<Body>, Denial> {
        let caller = switching.then(|| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        if switching {
            switch_to_websocket(&mut parts.headers);
        }
        parts.version = Version::HTTP_11;
        let target: PathAndQuery =
            heading.target.parse().map_err(|_| GateReason::RequestAmbiguous.because("a path", "none"))?;
        parts.uri = Uri::from(target);
        let (mut response, driver) = self.upstream.send(Request::from_parts(parts, Outgoing::new(body))).await?;
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let to_websocket = switched && switches_to_websocket(response.headers());
        headers::to_caller(response.headers_mut())?;
        match (caller, switched) {
            (_, false) => Ok(response.map(|body| Body::new(Answer::new(body, driver, open)))),
            (Some(caller), true) if to_websocket => {
                switch_to_websocket(response.headers_mut());
                let service = hyper::upgrade::on(&mut response);
                tokio::spawn(tunnel(caller, service, driver, open));
                Ok(response.map(|_| Body::empty()))
            }
            (_, true) => Err(GateReason::UpstreamAnswer.because("no switch of protocols", "101")),
        }
    }
}

/// Carries a WebSocket until either side ends it, or its caller is trusted no more.
async fn tunnel(caller: hyper::upgrade::OnUpgrade, service: hyper::upgrade::OnUpgrade, driver: Driver, open: Open) {
    let session = Arc::clone(&open.session);
    let both = async {
        let (caller, service) = (caller.await?, service.await?);
        let (mut caller, mut service) = (TokioIo::new(caller), TokioIo::new(service));
        if let Err(error) = tokio::io::copy_bidirectional(&mut caller, &mut service).await {
            tracing::debug!(%error, "a WebSocket ended");
        }
        Ok::<(), hyper::Error>(())
    };
    tokio::select! { () = session.cut() => {}, end = both => ended(end) }
    drop((driver, open));
}

fn ended(end: Result<(), hyper::Error>) {
    if let Err(error) = end {
        tracing::debug!(%error, "a connection ended");
    }
}

/// 503 where nobody at all is known to be trusted, so that callers come again; a denial otherwise.
fn status_of(denial: &Denial) -> StatusCode {
    let is = |reason: GateReason| denial.code() == reason.code();
    if is(GateReason::NoPulse) || is(GateReason::PulseExpired) {
        StatusCode::SERVICE_UNAVAILABLE
    } else if is(GateReason::ProxyMethod) {
        StatusCode::METHOD_NOT_ALLOWED
    } else if is(GateReason::RequestAmbiguous) {
        StatusCode::BAD_REQUEST
    } else if is(GateReason::UpstreamUnreachable) || is(GateReason::UpstreamAnswer) {
        StatusCode::BAD_GATEWAY
    } else if is(GateReason::UpstreamTimeout) {
        StatusCode::GATEWAY_TIMEOUT
    } else {
        StatusCode::FORBIDDEN
    }
}
