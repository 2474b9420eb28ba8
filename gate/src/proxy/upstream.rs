//! The service behind the proxy: one address that the operator names, and nothing that a caller says changes it. Each
//! request has a connection of its own, so that no two callers ever share one and cutting a caller off cuts it there
//! too.

use core::fmt;
use core::net::SocketAddr;
use core::pin::Pin;
use core::str::FromStr;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll};
use core::time::Duration;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{Request, Response, uri::Uri};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::{HEADERS_BYTES_MAX, HEADERS_MAX, SetUpError};
use crate::clock::within;
use crate::reason::{Denial, GateReason};

/// Longest wait for a connection to the service, TLS included.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Where the service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// Plain HTTP on this machine.
    Loopback(SocketAddr),
    /// Plain HTTP on a Unix socket.
    Unix(PathBuf),
    /// HTTPS, whose certificate leads to a pinned CA.
    Https {
        /// The name or address that the certificate must be for.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamAddressError {
    /// No form that is known.
    #[error("expected http://127.0.0.1:8000, unix:/run/service.sock or https://service.example:8443, without a path")]
    Form,
    /// Anyone on the way could read and change what goes there.
    #[error("plain http goes to a loopback address only; use https with a pinned CA")]
    NotLoopback,
}

impl FromStr for UpstreamAddress {
    type Err = UpstreamAddressError;

    fn from_str(text: &str) -> Result<Self, UpstreamAddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let form = path.starts_with('/');
            return if form { Ok(Self::Unix(PathBuf::from(path))) } else { Err(UpstreamAddressError::Form) };
        }
        if let Some(address) = text.strip_prefix("http://") {
            let address: SocketAddr = address.parse().map_err(|_| UpstreamAddressError::Form)?;
            return if address.ip().is_loopback() {
                Ok(Self::Loopback(address))
            } else {
                Err(UpstreamAddressError::NotLoopback)
            };
        }
        let uri: Uri = text.parse().map_err(|_| UpstreamAddressError::Form)?;
        let bare = text.strip_prefix("https://").is_some_and(|rest| !rest.contains(['/', '?', '#', '@']));
        match uri.host() {
            Some(host) if bare && !host.is_empty() => {
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                Ok(Self::Https { host, port: uri.port_u16().unwrap_or(443) })
            }
            Some(_) | None => Err(UpstreamAddressError::Form),
        }
    }
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Https { host, port } => write!(f, "https://{host}:{port}"),
        }
    }
}

/// The service.
#[derive(Debug)]
pub(super) struct Upstream {
    address: UpstreamAddress,
    /// For [`UpstreamAddress::Https`] alone.
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    answer_max: Duration,
}

/// What moves the bytes of one connection to the service; the connection ends with it.
#[derive(Debug)]
pub(super) struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Upstream {
    /// The service at `address`; `ca` (DER) is what an https certificate must lead to.
    pub(super) fn new(address: UpstreamAddress, ca: &[Vec<u8>], answer_max: Duration) -> Result<Self, SetUpError> {
        let tls = match &address {
            UpstreamAddress::Loopback(_) | UpstreamAddress::Unix(_) => None,
            UpstreamAddress::Https { host, .. } => {
                if ca.is_empty() {
                    return Err(SetUpError::UpstreamCa);
                }
                let mut roots = RootCertStore::empty();
                for certificate in ca {
                    roots.add(CertificateDer::from_slice(certificate).into_owned())?;
                }
                let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
                let config = ClientConfig::builder_with_provider(provider)
                    .with_protocol_versions(&[&rustls::version::TLS13])?
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                let name = ServerName::try_from(host.clone()).map_err(|_| SetUpError::UpstreamName)?;
                Some((Arc::new(config), name))
            }
        };
        Ok(Self { address, tls, answer_max })
    }

    pub(super) const fn address(&self) -> &UpstreamAddress {
        &self.address
    }

    /// Sends one request, and waits for the head of its answer: for as long as the body goes on, and then no longer
    /// than the operator says.
    pub(super) async fn send(&self, request: Request<Outgoing>) -> Result<(Response<Incoming>, Driver), Denial> {
        let progress = request.body().progress();
        let connect = within(CONNECT_MAX, self.connect()).await;
        let stream = connect.ok_or_else(|| GateReason::UpstreamTimeout.because("a connection", "none in time"))?;
        let unreachable = |error: &dyn fmt::Display| GateReason::UpstreamUnreachable.because("a connection", error);
        let stream = stream.map_err(|error| unreachable(&error))?;
        let handshake = http1::Builder::new()
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEADERS_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await;
        let (mut sender, connection) = handshake.map_err(|error| unreachable(&error))?;
        let driver = Driver(tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "the connection to the service ended");
            }
        }));
        let answer = sender.send_request(request);
        tokio::pin!(answer);
        let mut seen = progress.load(Ordering::Relaxed);
        loop {
            match within(self.answer_max, &mut answer).await {
                Some(Ok(response)) => return Ok((response, driver)),
                Some(Err(error)) => return Err(GateReason::UpstreamAnswer.because("an HTTP answer", error)),
                None => {
                    let now = progress.load(Ordering::Relaxed);
                    if now == seen {
                        return Err(GateReason::UpstreamTimeout.because("the head of an answer", "none in time"));
                    }
                    seen = now;
                }
            }
        }
    }

    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match &self.address {
            UpstreamAddress::Loopback(address) => Box::new(tcp(TcpStream::connect(address).await?)?),
            UpstreamAddress::Unix(path) => Box::new(UnixStream::connect(path).await?),
            UpstreamAddress::Https { host, port } => {
                let stream = tcp(TcpStream::connect((host.as_str(), *port)).await?)?;
                let (config, name) = self.tls.as_ref().ok_or(std::io::ErrorKind::Unsupported)?;
                Box::new(TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream).await?)
            }
        })
    }
}

fn tcp(stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A caller's body on its way, counted. Its trailers stay behind, since none are declared: some services take them for
/// headers.
#[derive(Debug)]
pub(super) struct Outgoing {
    body: Incoming,
    frames: Arc<AtomicU64>,
}

impl Outgoing {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, frames: Arc::default() }
    }

    /// How many frames went on so far.
    fn progress(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.frames)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_ready() {
            self.frames.fetch_add(1, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::{UpstreamAddress, UpstreamAddressError};

    #[test]
    fn a_service_is_on_this_machine_or_behind_a_pinned_ca() {
        for good in ["http://127.0.0.1:8000", "http://[::1]:8000", "unix:/run/s.sock", "https://s.example:8443"] {
            assert_eq!(good.parse::<UpstreamAddress>().unwrap().to_string(), good);
        }
        let https = "https://[2001:db8::1]".parse::<UpstreamAddress>().unwrap();
        assert_eq!(https, UpstreamAddress::Https { host: "2001:db8::1".to_owned(), port: 443 });
        for far in ["http://192.0.2.1:80", "http://0.0.0.0:80", "http://169.254.169.254:80"] {
            assert_eq!(far.parse::<UpstreamAddress>(), Err(UpstreamAddressError::NotLoopback), "{far}");
        }
        for bad in
            ["", "unix:", "unix:s.sock", "http://localhost:80", "https://", "https://a/b", "https://u@a", "ftp://a"]
        {
            assert_eq!(bad.parse::<UpstreamAddress>(), Err(UpstreamAddressError::Form), "{bad}");
        }
    }
}
