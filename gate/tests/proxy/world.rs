//! A proxy, its clock, and its callers.

use core::net::SocketAddr;
use core::time::Duration;
use std::fs;
use std::sync::{Arc, Mutex};

use axum::serve::Listener;
use countersign_attestation::UnixMillis;
use countersign_attestation::result::svid::KeyProtection;
use countersign_attestation::status_list::{Status, StatusList};
use countersign_attestation::time::ClockError;
use countersign_gate::authorize::{Authorize, OperatorPolicies};
use countersign_gate::clock::{Clock, Moment};
use countersign_gate::decide::Trust;
use countersign_gate::door::Door;
use countersign_gate::metrics::Metrics;
use countersign_gate::proxy::{Proxy, ProxySettings};
use countersign_gate::state::{GateState, Offer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::issuer::{Authority, AuthorityOrder, Issuer, Svid};
use crate::service::Service;

/// Longest wait for what is about to happen. Reached only by a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const NOW: UnixMillis = UnixMillis(1_795_408_496_007);

#[derive(Debug)]
pub(crate) struct ManualClock(Mutex<u64>);

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        let passed = *self.0.lock().unwrap();
        Moment { wall: NOW.plus(passed), steady_ms: 1_000 + passed, error: ClockError::NONE }
    }
}

pub(crate) struct World {
    folder: tempfile::TempDir,
    issuer: Issuer,
    pub(crate) control: Authority,
    pub(crate) svid: Svid,
    pub(crate) clock: Arc<ManualClock>,
    door: Door,
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) address: SocketAddr,
    pub(crate) service: Service,
    seq: Mutex<u64>,
}

/// What differs between worlds.
struct Order<'a> {
    service: Service,
    policy: Option<&'a str>,
    connections_max: usize,
    upstream_ca: Vec<Vec<u8>>,
    answer_max: Duration,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::before(Service::start().await).await
    }

    /// With operator policies.
    pub(crate) async fn under(policy: &str) -> Self {
        let service = Service::start().await;
        Self::make(Order {
            service,
            policy: Some(policy),
            connections_max: 16,
            upstream_ca: vec![],
            answer_max: PATIENCE,
        })
        .await
    }

    pub(crate) async fn before(service: Service) -> Self {
        Self::make(Order { service, policy: None, connections_max: 16, upstream_ca: vec![], answer_max: PATIENCE })
            .await
    }

    /// With little patience for the service.
    pub(crate) async fn impatient_before(service: Service, answer_max: Duration) -> Self {
        Self::make(Order { service, policy: None, connections_max: 16, upstream_ca: vec![], answer_max }).await
    }

    pub(crate) async fn with_connections(connections_max: usize) -> Self {
        let service = Service::start().await;
        Self::make(Order { service, policy: None, connections_max, upstream_ca: vec![], answer_max: PATIENCE }).await
    }

    /// Before a service with a certificate: once with its CA pinned, once with another one.
    pub(crate) async fn before_https() -> (Self, Self) {
        let authority = Authority::root(AuthorityOrder::new("Service CA"));
        let other = Authority::root(AuthorityOrder::new("Service CA"));
        let mut worlds = Vec::new();
        for pinned in [&authority, &other] {
            let (_, certificate, key) = authority.server();
            let listener = Https::bind(&certificate, &key).await;
            let (service, router) = Service::at(listener.socket.local_addr().unwrap());
            tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
            let order = Order {
                service,
                policy: None,
                connections_max: 16,
                upstream_ca: vec![pinned.der()],
                answer_max: PATIENCE,
            };
            worlds.push(Self::make(order).await);
        }
        let unpinned = worlds.pop().unwrap();
        (worlds.pop().unwrap(), unpinned)
    }

    async fn make(order: Order<'_>) -> Self {
        let Order { service, policy, connections_max, upstream_ca, answer_max } = order;
        let folder = tempfile::tempdir().unwrap();
        let (issuer, control) = (Issuer::new("fleet.test"), Authority::root(AuthorityOrder::new("Control CA")));
        let (_, certificate, key) = control.server();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("server.pem"), &certificate).unwrap();
        fs::write(path("server.key"), &key).unwrap();
        let authorize = match policy {
            None => Authorize::CoreAlone,
            Some(policy) => {
                fs::write(path("operator.cedar"), policy).unwrap();
                Authorize::ByPolicies(Arc::new(OperatorPolicies::load(&path("operator.cedar")).unwrap()))
            }
        };
        let trust = Trust {
            trust_domain: issuer.trust_domain.clone(),
            roots: vec![issuer.authority.der()],
            keys: KeyProtection::Tpm,
        };
        let clock = Arc::new(ManualClock(Mutex::new(0)));
        let state = Arc::new(GateState::new(trust, issuer.keys()));
        let metrics = Arc::new(Metrics::default());
        let door = Door { state, authorize, clock: Arc::clone(&clock) as Arc<dyn Clock>, metrics };
        let settings = ProxySettings {
            certificate: path("server.pem"),
            key: path("server.key"),
            upstream: service.upstream.parse().unwrap(),
            upstream_ca,
            answer_max,
            connections_max,
        };
        let proxy = Arc::new(Proxy::new(door.clone(), &settings).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(Arc::clone(&proxy).serve(listener));
        let svid = issuer.svid("gpu-1", 5, NOW);
        Self { folder, issuer, control, svid, clock, door, proxy, address, service, seq: Mutex::new(1) }
    }

    /// A proxy with the same certificate that believes another CA.
    pub(crate) async fn under_another_ca(&self) -> SocketAddr {
        let other = Issuer::new("fleet.test");
        let trust = Trust {
            trust_domain: other.trust_domain.clone(),
            roots: vec![other.authority.der()],
            keys: KeyProtection::Tpm,
        };
        let door = Door { state: Arc::new(GateState::new(trust, other.keys())), ..self.door.clone() };
        let settings = ProxySettings {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            upstream: self.service.upstream.parse().unwrap(),
            upstream_ca: vec![],
            answer_max: PATIENCE,
            connections_max: 4,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(Arc::new(Proxy::new(door, &settings).unwrap()).serve(listener));
        address
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write_policy(&self, text: &str) {
        fs::write(self.path("operator.cedar"), text).unwrap();
    }

    pub(crate) fn policies(&self) -> &OperatorPolicies {
        match &self.door.authorize {
            Authorize::ByPolicies(policies) => policies,
            Authorize::CoreAlone => panic!("no policies"),
        }
    }

    /// The broker's next pulse, on this status of the caller.
    pub(crate) fn say(&self, status: Status) {
        let mut list = StatusList::new();
        list.set(5, status).unwrap();
        let now = self.clock.now();
        let mut seq = self.seq.lock().unwrap();
        self.door.state.offer_list(&self.issuer.list_token(&list, now.wall), now).unwrap();
        let pulse = self.issuer.pulse_token(&self.issuer.pulse(*seq, now.wall, &list));
        assert_eq!(self.door.state.offer_pulse(&pulse, now), Ok(Offer::Installed));
        *seq += 1;
    }

    /// Time passes.
    pub(crate) fn pass(&self, milliseconds: u64) {
        *self.clock.0.lock().unwrap() += milliseconds;
    }

    pub(crate) fn metrics(&self) -> String {
        self.door.metrics.render(&self.door.state, self.clock.now())
    }

    /// What a stranger gets who connects and says nothing.
    pub(crate) async fn silence(&self) -> usize {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.read(&mut [0; 64]).await.unwrap_or(0)
    }

    pub(crate) async fn connections_are(&self, number: u32) {
        let line = format!("countersign_gate_proxy_connections {number}\n");
        let wait = async {
            let mut pace = tokio::time::interval(Duration::from_millis(5));
            while !self.metrics().contains(&line) {
                pace.tick().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("connections end");
    }

    /// A client that shows this credential, or none.
    pub(crate) fn client(&self, svid: Option<&Svid>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.control.der().into()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match svid {
            None => builder.with_no_client_auth(),
            Some(svid) => {
                let key = PrivateKeyDer::from_pem_slice(svid.key_pem.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![CertificateDer::from(svid.der.clone())], key).unwrap()
            }
        })
    }

    pub(crate) fn http_2(&self) -> reqwest::Client {
        let mut tls = ClientConfig::clone(&self.client(Some(&self.svid)));
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().timeout(PATIENCE);
        client.http2_prior_knowledge().build().unwrap()
    }

    pub(crate) async fn caller(&self) -> Caller {
        self.connect(self.client(Some(&self.svid))).await.unwrap()
    }

    pub(crate) async fn connect(&self, config: Arc<ClientConfig>) -> std::io::Result<Caller> {
        self.connect_to(self.address, config).await
    }

    pub(crate) async fn connect_to(&self, to: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<Caller> {
        let stream = TcpStream::connect(to).await?;
        let name = ServerName::try_from("localhost").unwrap();
        Ok(Caller { stream: TlsConnector::from(config).connect(name, stream).await?, read: String::new() })
    }
}

/// A request line and what must go with it.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// A TLS client that writes and reads as it likes.
pub(crate) struct Caller {
    stream: TlsStream<TcpStream>,
    /// Read and not yet looked at.
    read: String,
}

impl Caller {
    pub(crate) fn handshake(&self) -> Option<HandshakeKind> {
        self.stream.get_ref().1.handshake_kind()
    }

    pub(crate) fn tickets(&self) -> u32 {
        self.stream.get_ref().1.tls13_tickets_received()
    }

    pub(crate) fn server_certificate(&self) -> Vec<u8> {
        self.stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// More text, or nothing when the connection has ended.
    async fn more(&mut self) -> Option<()> {
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("something to read");
        match read {
            Ok(0) | Err(_) => None,
            Ok(read) => {
                self.read.push_str(str::from_utf8(&buffer[..read]).unwrap());
                Some(())
            }
        }
    }

    /// Reads up to and with this text.
    pub(crate) async fn reads(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.read.find(text) {
                let rest = self.read.split_off(at + text.len());
                return core::mem::replace(&mut self.read, rest);
            }
            assert!(self.more().await.is_some(), "ended before {text:?}, after {:?}", self.read);
        }
    }

    /// The connection ends without a word, however long it takes.
    pub(crate) async fn ends_silently(&mut self) {
        let read = self.stream.read(&mut [0; 64]).await.unwrap_or(0);
        assert_eq!(read, 0);
    }

    /// The connection ends, and what was being said with it.
    pub(crate) async fn is_cut(&mut self) {
        while self.more().await.is_some() {}
        assert!(!self.read.contains("\r\n0\r\n\r\n"), "an end that was cut is not told as a whole one: {}", self.read);
    }

    pub(crate) async fn ask(&mut self, request: &str) -> Reply {
        self.try_ask(request).await.expect("an answer")
    }

    /// Nothing where the connection ends instead.
    pub(crate) async fn try_ask(&mut self, request: &str) -> Option<Reply> {
        self.stream.write_all(request.as_bytes()).await.ok()?;
        self.stream.flush().await.ok()?;
        while !self.read.contains("\r\n\r\n") {
            self.more().await?;
        }
        let head = self.reads("\r\n\r\n").await;
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header =
            |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
        let headers: Vec<_> = lines.filter_map(header).collect();
        let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, n)| n.parse().unwrap());
        while self.read.len() < length {
            self.more().await?;
        }
        let rest = self.read.split_off(length);
        let body = core::mem::replace(&mut self.read, rest);
        Some(Reply { status, headers, body })
    }
}

/// A listener with a certificate.
struct Https {
    socket: TcpListener,
    acceptor: TlsAcceptor,
}

impl Https {
    async fn bind(certificate: &str, key: &str) -> Self {
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { socket, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }
}

impl Listener for Https {
    type Io = tokio_rustls::server::TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, from) = self.socket.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}
