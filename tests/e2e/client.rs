//! A small HTTP/1.1 client over TLS that sends exactly the bytes it is given, good or bad, and keeps its connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_attestation::binder::ChannelBinding;
use countersign_attestation::protocol::{Challenge, Problem};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde::de::DeserializeOwned;

/// Who asks, and whom.
#[derive(Clone)]
pub(crate) struct Client {
    tls: Arc<ClientConfig>,
    port: u16,
}

impl Client {
    /// A client that trusts `control_ca` and, with an identity, presents certificate and key.
    pub(crate) fn new(port: u16, control_ca: &Path, identity: Option<(PathBuf, PathBuf)>) -> Self {
        let identity = identity.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
        let tls = countersign::cli::client::tls(control_ca, identity).unwrap();
        Self { tls: Arc::new(tls), port }
    }

    pub(crate) fn connect(&self) -> std::io::Result<Connection> {
        let tcp = TcpStream::connect(("127.0.0.1", self.port))?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
        let name = "localhost".try_into().unwrap();
        let tls = ClientConnection::new(Arc::clone(&self.tls), name).map_err(std::io::Error::other)?;
        Ok(Connection { stream: StreamOwned::new(tls, tcp) })
    }

    /// One request on a connection of its own; the broker is there.
    pub(crate) fn send(&self, method: &str, path: &str, body: Option<&serde_json::Value>) -> Answer {
        self.try_send(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// One request on a connection of its own; the broker may be gone.
    pub(crate) fn try_send(
        &self,
        method: &str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> std::io::Result<Answer> {
        self.connect()?.send(method, path, body)
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let answer = self.send("GET", path, None);
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.text());
        answer.json()
    }
}

/// An open connection.
pub(crate) struct Connection {
    stream: StreamOwned<ClientConnection, TcpStream>,
}

impl Connection {
    /// A challenge for the host that this connection is of.
    pub(crate) fn challenge(&mut self) -> Challenge {
        let answer = self.send("POST", "/v1/challenges", Some(&serde_json::json!({}))).unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()
    }

    /// What the connection's exporter gives for a context.
    pub(crate) fn exported(&mut self, context: &[u8]) -> [u8; ChannelBinding::LENGTH] {
        let StreamOwned { conn, sock } = &mut self.stream;
        if conn.is_handshaking() {
            conn.complete_io(sock).unwrap();
        }
        let output = [0; ChannelBinding::LENGTH];
        conn.export_keying_material(output, ChannelBinding::LABEL, Some(context)).unwrap()
    }

    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> std::io::Result<Answer> {
        let body = body.map(|body| serde_json::to_vec(body).unwrap());
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
        if let Some(body) = &body {
            request.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        self.raw(&[request.as_bytes(), &body.unwrap_or_default()].concat())
    }

    /// Sends bytes as they are and reads one answer. A stream without a length is read to its head only.
    pub(crate) fn raw(&mut self, request: &[u8]) -> std::io::Result<Answer> {
        // A server that refuses early may close before everything is sent; its answer counts.
        let sent = self.stream.write_all(request).and_then(|()| self.stream.flush());
        Answer::read(&mut self.stream).map_err(|error| sent.err().unwrap_or(error))
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn read(stream: &mut impl Read) -> std::io::Result<Self> {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).map_err(std::io::Error::other)?.to_ascii_lowercase();
        let status = head.get(9..12).and_then(|digits| digits.parse().ok());
        let status = status.ok_or_else(|| std::io::Error::other(head.clone()))?;
        let mut answer = Self { status, head, body: Vec::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        answer.body.resize(length, 0);
        stream.read_exact(&mut answer.body)?;
        Ok(answer)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The problem document: media type, status and type agree with the code.
    pub(crate) fn problem(&self) -> Problem {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}\n{}", self.head, self.text());
        let problem: Problem = self.json();
        assert_eq!(problem.status, self.status, "{problem:?}");
        assert_eq!(problem.problem_type, format!("urn:countersign:reason:{}", problem.code));
        assert!(!problem.title.is_empty() && !problem.remedy.is_empty(), "{problem:?}");
        problem
    }
}
