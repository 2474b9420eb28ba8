//! Services to put behind a proxy.

use core::net::SocketAddr;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use futures_util::StreamExt as _;
use futures_util::stream;
use hyper::body::Body as _;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};

/// A request as the service got it, headers in order of their names.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// What a service says that reads no HTTP.
#[derive(Clone, Copy)]
pub(crate) enum Canned {
    Says(&'static str),
    SaysNothing,
    HangsUp,
    /// Answers and reads on.
    SaysAndReads(&'static str),
}

#[derive(Clone)]
struct Shared {
    seen: Arc<Mutex<Vec<Seen>>>,
    words: broadcast::Sender<&'static str>,
    hung_up: mpsc::UnboundedSender<()>,
}

/// Tells that whatever held it is gone.
struct Line(mpsc::UnboundedSender<()>);

impl Drop for Line {
    fn drop(&mut self) {
        let _nobody_waits = self.0.send(());
    }
}

pub(crate) struct Service {
    pub(crate) upstream: String,
    shared: Shared,
    hung_up: tokio::sync::Mutex<mpsc::UnboundedReceiver<()>>,
}

impl Service {
    fn new(upstream: String) -> Self {
        let (line, hung_up) = mpsc::unbounded_channel();
        let shared = Shared { seen: Arc::default(), words: broadcast::Sender::new(8), hung_up: line };
        Self { upstream, shared, hung_up: tokio::sync::Mutex::new(hung_up) }
    }

    /// A service that notes what it is asked.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = Self::new(format!("http://{}", listener.local_addr().unwrap()));
        let router = service.router();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        service
    }

    /// The same at an address of https, behind whatever accepts TLS there.
    pub(crate) fn at(address: SocketAddr) -> (Self, Router) {
        let service = Self::new(format!("https://localhost:{}", address.port()));
        let router = service.router();
        (service, router)
    }

    /// Nothing is there.
    pub(crate) fn nobody() -> Self {
        Self::new("unix:/nowhere/service.sock".to_owned())
    }

    /// A service that says one thing to whoever connects.
    pub(crate) async fn canned(canned: Canned) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = Self::new(format!("http://{}", listener.local_addr().unwrap()));
        let hung_up = service.shared.hung_up.clone();
        tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 4096];
                let read = stream.read(&mut head).await.unwrap();
                assert!(0 < read);
                match canned {
                    Canned::Says(text) => {
                        stream.write_all(text.as_bytes()).await.unwrap();
                        open.push(stream);
                    }
                    Canned::SaysAndReads(text) => {
                        stream.write_all(text.as_bytes()).await.unwrap();
                        while let Ok(1..) = stream.read(&mut head).await {}
                        hung_up.send(()).unwrap();
                    }
                    Canned::SaysNothing => open.push(stream),
                    Canned::HangsUp => {}
                }
            }
        });
        service
    }

    fn router(&self) -> Router {
        Router::new()
            .route("/endless", get(endless))
            .route("/never", get(never))
            .route("/collect", any(collect))
            .route("/echo", any(echo))
            .route("/ws", get(websocket))
            .fallback(async || "served")
            .layer(axum::middleware::from_fn_with_state(self.shared.clone(), note))
            .with_state(self.shared.clone())
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Waits until so many requests have come.
    pub(crate) async fn is_asked(&self, times: usize) {
        let asked = async {
            let mut pace = tokio::time::interval(core::time::Duration::from_millis(5));
            while self.seen().len() < times {
                pace.tick().await;
            }
        };
        tokio::time::timeout(super::world::PATIENCE, asked).await.expect("the service is asked");
    }

    /// Words for whoever listens to the endless answer.
    pub(crate) fn speak(&self, words: &'static str) {
        self.shared.words.send(words).unwrap();
    }

    /// Waits until the proxy has ended a connection that something was open on.
    pub(crate) async fn hung_up(&self) {
        let gone = async { self.hung_up.lock().await.recv().await.unwrap() };
        tokio::time::timeout(super::world::PATIENCE, gone).await.expect("the proxy ends its connection to the service");
    }
}

async fn note(State(shared): State<Shared>, request: Request, next: axum::middleware::Next) -> Response {
    let mut headers: Vec<(String, String)> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    headers.sort_unstable();
    shared.seen.lock().unwrap().push(Seen { line: format!("{} {}", request.method(), request.uri()), headers });
    next.run(request).await
}

/// Some words, then whatever is spoken, without an end.
async fn endless(State(shared): State<Shared>) -> Body {
    let state = (shared.words.subscribe(), Line(shared.hung_up));
    let spoken = stream::unfold(state, async |(mut words, line)| {
        let word = words.recv().await.ok()?;
        Some((Ok::<_, io::Error>(Bytes::from(word)), (words, line)))
    });
    Body::from_stream(stream::iter([Ok(Bytes::from("first words"))]).chain(spoken))
}

/// Reads to the end, and says what there was.
async fn collect(request: Request) -> String {
    let mut body = request.into_body();
    let (mut bytes, mut trailers) = (0, 0);
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        match frame.unwrap().into_data() {
            Ok(data) => bytes += data.len(),
            Err(frame) => trailers += frame.into_trailers().unwrap().len(),
        }
    }
    format!("{bytes} bytes, {trailers} trailers")
}

/// Notes that it was asked, and says nothing.
async fn never(State(shared): State<Shared>) {
    let _line = Line(shared.hung_up);
    std::future::pending::<()>().await;
}

async fn echo(State(shared): State<Shared>, request: Request) -> Body {
    let line = Line(shared.hung_up);
    let mut body = request.into_body().into_data_stream();
    let echoed = stream::poll_fn(move |context| {
        let _held = &line;
        body.poll_next_unpin(context)
    });
    Body::from_stream(echoed)
}

async fn websocket(State(shared): State<Shared>, mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    let line = Line(shared.hung_up);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        let mut buffer = [0; 1024];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..read]).await.unwrap();
        }
        drop(line);
    });
    let headers =
        [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "websocket"), (header::SEC_WEBSOCKET_ACCEPT, "a")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}
