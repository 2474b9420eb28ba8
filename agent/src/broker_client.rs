//! The broker, over TLS 1.3 to the pinned control CA: all that is asked of it but attestations, which have a channel of
//! their own ([`crate::channel`]). System roots, proxies and redirects play no part.

use core::time::Duration;
use std::sync::Arc;

use countersign_attestation::protocol::{
    ActivationRequest, ActivationResponse, EnrollmentChallenge, EnrollmentRequest, Problem,
};
use countersign_attestation::result::jws::JwkSet;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long a connection may take to come up.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one request may take. A third of the default lease is spent before the third attempt.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one stream may last: it is opened again then. Silence ends it long before.
const STREAM_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// Largest answer that is read; credentials are a few kilobytes.
pub(crate) const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Who asks.
pub(crate) const USER_AGENT: &str = concat!("countersign-agent/", env!("CARGO_PKG_VERSION"));

/// Why the broker did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// URL, CA, certificate or key cannot be used.
    #[error("the broker's {part} cannot be used: {found}")]
    Setup {
        /// Which part.
        part: &'static str,
        /// Why.
        found: String,
    },
    /// No answer: connection, TLS or time.
    #[error("the broker cannot be reached: {0}")]
    Transport(String),
    /// The broker refused and said why.
    #[error("{0}")]
    Refused(Refusal),
    /// The answer is not of this protocol.
    #[error("the broker's answer to {request} cannot be read (status {status}): {found}")]
    Answer {
        /// What was asked.
        request: &'static str,
        /// HTTP status.
        status: u16,
        /// What came.
        found: String,
    },
}

impl From<reqwest::Error> for BrokerError {
    fn from(error: reqwest::Error) -> Self {
        Self::Transport(causes(&error))
    }
}

/// A problem document, told in full.
#[derive(Debug)]
pub struct Refusal(pub Box<Problem>);

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let problem = &self.0;
        write!(f, "{}: {}", problem.code, problem.title)?;
        for (label, value) in [("expected", &problem.expected), ("found", &problem.found)] {
            if let Some(value) = value {
                write!(f, "\n  {label}: {value}")?;
            }
        }
        write!(f, "\n  remedy: {}", problem.remedy)
    }
}

/// A client of one broker.
#[derive(Clone, Debug)]
pub struct BrokerClient {
    http: reqwest::Client,
    base: String,
}

impl BrokerClient {
    /// A client that does not say who it is: for enrolment.
    ///
    /// # Errors
    /// [`BrokerError::Setup`].
    pub fn anonymous(base: &str, broker_ca: &str) -> Result<Self, BrokerError> {
        Self::build(base, pinned(broker_ca)?.with_no_client_auth())
    }

    /// A client that authenticates with the channel certificate.
    ///
    /// # Errors
    /// [`BrokerError::Setup`].
    pub fn with_channel(base: &str, broker_ca: &str, certificate: &str, key: &str) -> Result<Self, BrokerError> {
        let chain = certificates("channel certificate", certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(setup("channel key"))?;
        Self::build(base, pinned(broker_ca)?.with_client_auth_cert(chain, key).map_err(setup("channel key"))?)
    }

    fn build(base: &str, mut tls: ClientConfig) -> Result<Self, BrokerError> {
        let base = https_base(base)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .user_agent(USER_AGENT)
            .build()
            .map_err(setup("TLS configuration"))?;
        Ok(Self { http, base })
    }

    /// `POST /v1/enrollments`.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn enroll(&self, request: &EnrollmentRequest) -> Result<EnrollmentChallenge, BrokerError> {
        self.post("enrolment", "/v1/enrollments", request).await
    }

    /// `POST /v1/enrollments/{id}/activation`.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn activate(&self, id: &str, request: &ActivationRequest) -> Result<ActivationResponse, BrokerError> {
        // The id goes into a path: only what cannot leave its segment.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if id.is_empty() || 128 < id.len() || !id.bytes().all(plain) {
            let found = "an enrolment id that is no path segment".to_owned();
            return Err(BrokerError::Answer { request: "enrolment", status: 201, found });
        }
        self.post("activation", &format!("/v1/enrollments/{id}/activation"), request).await
    }

    /// `GET /.well-known/jwks.json`: a document that [`JwkSet::parse`] reads.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn token_keys(&self) -> Result<String, BrokerError> {
        let text = self.text("token keys", "/.well-known/jwks.json").await?;
        match JwkSet::parse(text.as_bytes()) {
            Ok(_) => Ok(text),
            Err(error) => Err(BrokerError::Answer { request: "token keys", status: 200, found: error.to_string() }),
        }
    }

    /// `GET /v1/status-lists/{number}`.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn status_list(&self, number: u64) -> Result<String, BrokerError> {
        self.text("status list", &format!("/v1/status-lists/{number}")).await
    }

    /// `GET /v1/pulse/stream`: server-sent events without end. The caller bounds the silence.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn pulses(&self) -> Result<reqwest::Response, BrokerError> {
        let request = self.http.get(format!("{}/v1/pulse/stream", self.base)).timeout(STREAM_TIMEOUT);
        let response = request.header("accept", "text/event-stream").send().await?;
        let status = response.status().as_u16();
        if status == 200 {
            return Ok(response);
        }
        Err(BrokerError::Answer { request: "pulse stream", status, found: "no stream".to_owned() })
    }

    async fn text(&self, request: &'static str, path: &str) -> Result<String, BrokerError> {
        let mut response = self.http.get(format!("{}{path}", self.base)).send().await?;
        let status = response.status().as_u16();
        let wrong = |found: &str| BrokerError::Answer { request, status, found: found.to_owned() };
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if ANSWER_BYTES_MAX < answer.len().saturating_add(chunk.len()) {
                return Err(wrong("too long an answer"));
            }
            answer.extend_from_slice(&chunk);
        }
        if status != 200 {
            return Err(wrong("another status than 200"));
        }
        String::from_utf8(answer).map(|text| text.trim_ascii().to_owned()).map_err(|_| wrong("no text"))
    }

    async fn post<A: DeserializeOwned>(
        &self,
        request: &'static str,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<A, BrokerError> {
        let sent = self.http.post(format!("{}{path}", self.base)).json(body).send().await;
        let mut response = sent.map_err(|error| BrokerError::Transport(causes(&error)))?;
        let status = response.status();
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| BrokerError::Transport(causes(&error)))? {
            if ANSWER_BYTES_MAX < answer.len().saturating_add(chunk.len()) {
                let found = format!("more than {ANSWER_BYTES_MAX} bytes");
                return Err(BrokerError::Answer { request, status: status.as_u16(), found });
            }
            answer.extend_from_slice(&chunk);
        }
        decode(request, status.as_u16(), &answer)
    }
}

/// What the broker answered, or why it refused.
pub(crate) fn decode<A: DeserializeOwned>(request: &'static str, status: u16, answer: &[u8]) -> Result<A, BrokerError> {
    let unreadable = |error: serde_json::Error| BrokerError::Answer { request, status, found: error.to_string() };
    if (200..300).contains(&status) {
        return serde_json::from_slice(answer).map_err(unreadable);
    }
    let problem = serde_json::from_slice(answer).map_err(unreadable)?;
    Err(BrokerError::Refused(Refusal(Box::new(problem))))
}

/// The broker's URL without a slash at its end.
pub(crate) fn https_base(base: &str) -> Result<String, BrokerError> {
    if !base.starts_with("https://") {
        return Err(BrokerError::Setup { part: "URL", found: format!("{base} does not start with https://") });
    }
    Ok(base.trim_end_matches('/').to_owned())
}

pub(crate) fn setup<E: core::fmt::Display>(part: &'static str) -> impl FnOnce(E) -> BrokerError {
    move |error| BrokerError::Setup { part, found: error.to_string() }
}

pub(crate) fn certificates(part: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, BrokerError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let certificates = certificates.map_err(setup(part))?;
    if certificates.is_empty() {
        return Err(BrokerError::Setup { part, found: "no certificate in the PEM".to_owned() });
    }
    Ok(certificates)
}

pub(crate) fn pinned(
    broker_ca: &str,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, BrokerError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("CA", broker_ca)? {
        roots.add(certificate).map_err(setup("CA"))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup("TLS configuration"))?;
    Ok(builder.with_root_certificates(roots))
}

/// An error with all its causes: reqwest's own words alone do not tell a refused connection from a bad certificate.
fn causes(error: &dyn core::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{BrokerClient, BrokerError};

    #[test]
    fn plain_http_and_an_empty_ca_are_refused() {
        let part = |result: Result<BrokerClient, BrokerError>| match result {
            Err(BrokerError::Setup { part, .. }) => part,
            other => panic!("{other:?}"),
        };
        assert_eq!(part(BrokerClient::anonymous("https://broker", "")), "CA");
        let key = rcgen_free_key();
        assert_eq!(part(BrokerClient::with_channel("https://broker", "", "", &key)), "channel certificate");
        let plain = BrokerClient::build("http://broker", super::pinned(CA).unwrap().with_no_client_auth());
        assert_eq!(part(plain), "URL");
    }

    fn rcgen_free_key() -> String {
        crate::enroll::new_channel_key().unwrap()
    }

    /// A self-signed P-256 certificate, only ever parsed.
    const CA: &str = include_str!("../tests/data/ca.pem");
}
