//! A broker's public routes over TLS, on a runtime of its own so that a test can kill it with all its connections.
//! Include it with `#[path]`; it is in no binary.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared by several test crates, each uses a part"
)]

use core::convert::Infallible;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::StreamExt as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{broadcast, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How the broker delivers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// With an event stream.
    Stream,
    /// The stream's route is not there: gates have to ask.
    Poll,
}

struct Shared {
    delivery: Delivery,
    said: Mutex<Said>,
    events: broadcast::Sender<String>,
}

#[derive(Default)]
struct Said {
    pulse: Option<String>,
    lists: BTreeMap<u64, String>,
    /// Changes of list 0 by what a reader holds (the digest).
    changes: BTreeMap<String, String>,
}

/// A running broker.
pub(crate) struct SimBroker {
    runtime: Option<Runtime>,
    address: SocketAddr,
    shared: Arc<Shared>,
    refused: mpsc::UnboundedReceiver<()>,
}

impl SimBroker {
    /// Starts on `address` with this certificate and key (PEM).
    pub(crate) fn start(address: SocketAddr, certificate: &str, key: &str, delivery: Delivery) -> Self {
        let shared = Shared { delivery, said: Mutex::default(), events: broadcast::Sender::new(64) };
        let (shared, acceptor) = (Arc::new(shared), acceptor(certificate, key));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let socket = std::net::TcpListener::bind(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let (refusals, refused) = mpsc::unbounded_channel();
        let router = Router::new()
            .route("/v1/pulse/stream", get(stream))
            .route("/v1/pulse", get(pulse))
            .route("/v1/status-lists/{n}", get(list))
            .route("/v1/status-lists/{n}/since/{digest}", get(since))
            .with_state(Arc::clone(&shared));
        runtime.spawn(async move {
            let listener = TlsListener { socket: TcpListener::from_std(socket).unwrap(), acceptor, refusals };
            axum::serve(listener, router).await.unwrap();
        });
        Self { runtime: Some(runtime), address, shared, refused }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Says list 0 and then the pulse to all who follow, and to all who ask from now on.
    pub(crate) fn say(&self, list: &str, pulse: &str) {
        let mut said = self.shared.said.lock().unwrap();
        said.lists.insert(0, list.to_owned());
        said.pulse = Some(pulse.to_owned());
        // Without followers there is nobody to tell.
        drop(self.shared.events.send(format!("{}{}", event("status-list", list), event("pulse", pulse))));
    }

    /// Says the pulse alone; whoever lacks its list has to ask.
    pub(crate) fn say_without_list(&self, list: &str, pulse: &str) {
        let mut said = self.shared.said.lock().unwrap();
        said.lists.insert(0, list.to_owned());
        said.pulse = Some(pulse.to_owned());
        drop(self.shared.events.send(event("pulse", pulse)));
    }

    /// Says changes of list 0 and then the pulse to all who follow; who asks for the list gets what was said before.
    pub(crate) fn say_changes(&self, changes: &str, pulse: &str) {
        self.shared.said.lock().unwrap().pulse = Some(pulse.to_owned());
        drop(self.shared.events.send(format!("{}{}", event("status-delta", changes), event("pulse", pulse))));
    }

    /// Answers who holds `from` of list 0 with these changes from now on.
    pub(crate) fn answer_changes(&self, from: &str, changes: &str) {
        self.shared.said.lock().unwrap().changes.insert(from.to_owned(), changes.to_owned());
    }

    /// Sends text to all who follow, whatever it is.
    pub(crate) fn send_raw(&self, text: &str) {
        drop(self.shared.events.send(text.to_owned()));
    }

    /// Waits for a TLS handshake that failed.
    pub(crate) async fn refused(&mut self) {
        self.refused.recv().await.unwrap();
    }

    /// Ends it at once, connections and all, as `kill -9` does.
    pub(crate) fn kill(mut self) -> SocketAddr {
        let runtime = self.runtime.take().unwrap();
        // Waits until every task is dropped, so that the address is free; a runtime may not be waited for inside
        // another.
        std::thread::spawn(|| runtime.shutdown_timeout(Duration::from_secs(10))).join().unwrap();
        self.address
    }
}

impl Drop for SimBroker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn event(name: &str, data: &str) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

async fn stream(State(shared): State<Arc<Shared>>) -> Response {
    if shared.delivery == Delivery::Poll {
        return StatusCode::NOT_FOUND.into_response();
    }
    let (first, events) = {
        let said = shared.said.lock().unwrap();
        let lists = said.lists.values().map(|list| event("status-list", list));
        let pulse = said.pulse.iter().map(|pulse| event("pulse", pulse));
        (lists.chain(pulse).collect::<String>(), shared.events.subscribe())
    };
    let first = futures_util::stream::iter([format!(": hello\n\n{first}")]);
    let rest = futures_util::stream::unfold(events, async |mut events| Some((events.recv().await.ok()?, events)));
    let body = Body::from_stream(first.chain(rest).map(Ok::<_, Infallible>));
    ([("content-type", "text/event-stream")], body).into_response()
}

async fn pulse(State(shared): State<Arc<Shared>>) -> Response {
    shared.said.lock().unwrap().pulse.clone().ok_or(StatusCode::NOT_FOUND).into_response()
}

async fn list(State(shared): State<Arc<Shared>>, Path(number): Path<u64>) -> Response {
    shared.said.lock().unwrap().lists.get(&number).cloned().ok_or(StatusCode::NOT_FOUND).into_response()
}

async fn since(State(shared): State<Arc<Shared>>, Path((number, known)): Path<(u64, String)>) -> Response {
    let changes = shared.said.lock().unwrap().changes.get(&known).cloned();
    match changes {
        Some(changes) => changes.into_response(),
        None => list(State(shared), Path(number)).await,
    }
}

struct TlsListener {
    socket: TcpListener,
    acceptor: TlsAcceptor,
    refusals: mpsc::UnboundedSender<()>,
}

fn acceptor(certificate: &str, key: &str) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, peer) = self.socket.accept().await.unwrap();
            match self.acceptor.accept(stream).await {
                Ok(stream) => return (stream, peer),
                Err(_) => drop(self.refusals.send(())),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}
