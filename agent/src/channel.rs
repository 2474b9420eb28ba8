//! The one connection that evidence is sent on. A challenge, its evidence and the credential cross the same TLS
//! connection, whose exporter is part of the binder: on any other connection this host's evidence is worth nothing.

use std::sync::Arc;

use countersign_attestation::binder::{ChannelBinding, Role};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::{AttestationRequest, AttestationResponse, Challenge};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::broker_client::{
    ANSWER_BYTES_MAX, BrokerError, CONNECT_TIMEOUT, REQUEST_TIMEOUT, USER_AGENT as AGENT, certificates, decode,
    https_base, pinned, setup,
};

/// The enrolled host's connection to its broker: opened when it is needed, kept while it lasts.
pub struct Channel {
    tls: Arc<ClientConfig>,
    /// Path before the routes, and what the Host header says.
    at: (String, String),
    server: ServerName<'static>,
    address: (String, u16),
    /// SHA-256 of the channel certificate's `SubjectPublicKeyInfo`.
    own_leaf: Sha256Digest,
    open: Option<Open>,
}

/// An open connection, and what it is to evidence.
struct Open {
    sender: SendRequest<Full<Bytes>>,
    binding: ChannelBinding,
}

impl core::fmt::Debug for Channel {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Channel")
            .field("address", &self.address)
            .field("open", &self.open.is_some())
            .finish_non_exhaustive()
    }
}

impl Channel {
    /// The channel to the broker at `base`, which authenticates with certificate and key, PEM. Connects nowhere yet.
    ///
    /// # Errors
    /// [`BrokerError::Setup`].
    pub fn new(base: &str, broker_ca: &str, certificate: &str, key: &str) -> Result<Self, BrokerError> {
        let base = https_base(base)?;
        let url = Url::parse(&base).map_err(setup("URL"))?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let server = ServerName::try_from(host.clone()).map_err(setup("URL"))?;
        let chain = certificates("channel certificate", certificate)?;
        let own_leaf = match chain.first().map(|leaf| X509Certificate::from_der(leaf)) {
            Some(Ok((_, leaf))) => Sha256Digest::of(&[leaf.public_key().raw]),
            Some(Err(error)) => return Err(setup("channel certificate")(error)),
            None => return Err(setup("channel certificate")("no certificate in the PEM")),
        };
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(setup("channel key"))?;
        let mut tls = pinned(broker_ca)?.with_client_auth_cert(chain, key).map_err(setup("channel key"))?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let address = (host, url.port_or_known_default().unwrap_or(443));
        let at = (url.path().trim_end_matches('/').to_owned(), url.authority().to_owned());
        Ok(Self { tls: Arc::new(tls), at, server, address, own_leaf, open: None })
    }

    /// `POST /v1/challenges`: the challenge, and the connection that evidence for it has to be made for.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn challenge(&mut self) -> Result<(Challenge, ChannelBinding), BrokerError> {
        let open = match self.open.take().filter(|open| !open.sender.is_closed()) {
            Some(open) => open,
            None => timeout(CONNECT_TIMEOUT, self.connect())
                .await
                .map_err(|_| BrokerError::Transport(format!("no connection within {CONNECT_TIMEOUT:?}")))??,
        };
        let binding = open.binding;
        let challenge = self.post(open, "challenge", "/v1/challenges", &serde_json::json!({})).await?;
        Ok((challenge, binding))
    }

    /// `POST /v1/attestations`, on the connection of the last challenge and on no other.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn attest(&mut self, request: &AttestationRequest) -> Result<AttestationResponse, BrokerError> {
        let gone = || BrokerError::Transport("the connection that the evidence was made for is closed".to_owned());
        let open = self.open.take().filter(|open| !open.sender.is_closed()).ok_or_else(gone)?;
        self.post(open, "attestation", "/v1/attestations", request).await
    }

    async fn connect(&self) -> Result<Open, BrokerError> {
        let failed = |error: &dyn core::fmt::Display| BrokerError::Transport(error.to_string());
        let (host, port) = &self.address;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(self.server.clone(), stream).await.map_err(|error| failed(&error))?;
        let context = ChannelBinding::context(Role::Host, &self.own_leaf);
        let (_, tls) = stream.get_ref();
        let exported = tls.export_keying_material([0; ChannelBinding::LENGTH], ChannelBinding::LABEL, Some(&context));
        let binding = ChannelBinding(exported.map_err(|error| failed(&error))?);
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        // It ends when the sender is dropped, or with the connection.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the channel to the broker ended");
            }
        });
        Ok(Open { sender, binding })
    }

    /// One request and its answer. A connection that did not bring an answer in time is not used again.
    async fn post<A: DeserializeOwned>(
        &mut self,
        mut open: Open,
        request: &'static str,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<A, BrokerError> {
        let unsendable = |error: &dyn core::fmt::Display| BrokerError::Transport(error.to_string());
        let body = serde_json::to_vec(body).map_err(|error| unsendable(&error))?;
        let (prefix, authority) = &self.at;
        let sent = Request::post(format!("{prefix}{path}"))
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, AGENT)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unsendable(&error))?;
        let exchange = async {
            open.sender.ready().await.map_err(|error| unsendable(&error))?;
            let response = open.sender.send_request(sent).await.map_err(|error| unsendable(&error))?;
            let status = response.status().as_u16();
            let wrong = |found: String| BrokerError::Answer { request, status, found };
            let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let answer = answer.map_err(|error| wrong(error.to_string()))?.to_bytes();
            Ok::<_, BrokerError>((status, answer))
        };
        let (status, answer) = timeout(REQUEST_TIMEOUT, exchange)
            .await
            .map_err(|_| BrokerError::Transport(format!("no answer to the {request} within {REQUEST_TIMEOUT:?}")))??;
        self.open = Some(open);
        decode(request, status, &answer)
    }
}

#[cfg(test)]
mod tests;
