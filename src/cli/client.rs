//! The operator's side of the API: one TLS connection with an operator credential, problems as errors.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use countersign_attestation::protocol::Problem;
use reqwest::{Method, Response, StatusCode, Url};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// And one that comes line by line.
const LINES_TIMEOUT: Duration = Duration::from_secs(3600);

/// How to reach the broker, and as whom.
#[derive(Clone, Debug, clap::Args)]
pub struct Connection {
    /// The broker's address, https://…
    #[arg(long, env = "COUNTERSIGN_BROKER", default_value = "https://localhost:8443")]
    pub broker: Url,
    /// Folder that `countersign operator add` wrote: certificate.pem, key.pem, control-ca.pem.
    #[arg(long, env = "COUNTERSIGN_OPERATOR")]
    pub operator: PathBuf,
}

/// An operator's connection to the broker.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    broker: Url,
}

/// A TLS client configuration that trusts one control CA and, with `identity`, presents a client certificate.
///
/// # Errors
/// Unreadable or unusable files.
pub fn tls(control_ca: &Path, identity: Option<(&Path, &Path)>) -> anyhow::Result<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(control_ca).with_context(|| shown(control_ca))? {
        roots.add(certificate.with_context(|| shown(control_ca))?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    Ok(match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .with_context(|| shown(certificate))?;
            let key = PrivateKeyDer::from_pem_file(key).with_context(|| shown(key))?;
            builder.with_client_auth_cert(chain, key)?
        }
    })
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

impl Client {
    /// Prepares a connection; nothing is sent yet.
    ///
    /// # Errors
    /// Unreadable or unusable credential files.
    pub fn new(connection: &Connection) -> anyhow::Result<Self> {
        let file = |name: &str| connection.operator.join(name);
        let identity = (file("certificate.pem"), file("key.pem"));
        let tls = tls(&file("control-ca.pem"), Some((&identity.0, &identity.1)))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { http, broker: connection.broker.clone() })
    }

    /// `GET path`.
    ///
    /// # Errors
    /// [`Refused`] for a problem document, or a transport error.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        Ok(self.send(Method::GET, path, None::<&()>).await?.json().await?)
    }

    /// `GET path` as text.
    ///
    /// # Errors
    /// [`Refused`] for a problem document, or a transport error.
    pub async fn get_text(&self, path: &str) -> anyhow::Result<String> {
        Ok(self.send(Method::GET, path, None::<&()>).await?.text().await?)
    }

    /// `POST path` with a JSON body; the answer's body is JSON.
    ///
    /// # Errors
    /// [`Refused`] for a problem document, or a transport error.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        Ok(self.send(Method::POST, path, Some(body)).await?.json().await?)
    }

    /// `POST path` with a JSON body, for an answer that comes line by line and may take minutes.
    ///
    /// # Errors
    /// [`Refused`] for a problem document, or a transport error.
    pub async fn post_lines(&self, path: &str, body: &impl Serialize) -> anyhow::Result<Response> {
        self.send_within(LINES_TIMEOUT, Method::POST, path, Some(body)).await
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// [`Refused`] for a problem document, or a transport error.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        Ok(self.send(Method::DELETE, path, None::<&()>).await?.json().await?)
    }

    async fn send(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> anyhow::Result<Response> {
        self.send_within(TIMEOUT, method, path, body).await
    }

    async fn send_within(
        &self,
        timeout: Duration,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<Response> {
        let url = self.broker.join(path).with_context(|| format!("{path} is no path"))?;
        let mut request = self.http.request(method, url).timeout(timeout);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| format!("broker {} not reached", self.broker))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = response.text().await?;
        match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => Err(Refused(problem).into()),
            Err(_) => bail!("broker {} answered {status}: {text}", self.broker),
        }
    }
}

/// The broker refused, and said why.
#[derive(Debug)]
pub struct Refused(pub Problem);

impl Refused {
    /// The process exit code: 3 denied, 4 not found, 5 conflict, 2 anything else a server says.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match StatusCode::from_u16(self.0.status) {
            Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => 3,
            Ok(StatusCode::NOT_FOUND) => 4,
            Ok(StatusCode::CONFLICT) => 5,
            _ => 2,
        }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", crate::problem::Problem(Box::new(self.0.clone())))
    }
}

impl std::error::Error for Refused {}
