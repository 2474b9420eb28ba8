//! Fetching one document from where the settings say. What comes back is bytes: whether it counts is judged elsewhere.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::claims::HexBytes;
use countersign_attestation::endorsement::intel::Answer;
use percent_encoding::percent_decode_str;
use reqwest::header::HeaderMap;
use reqwest::{Client, Url};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::collateral::document::Document;
use crate::collateral::settings::{PckAuthority, Reach, Settings, Technology};
use crate::config::ConfigError;

/// A whole request; vendors answer within a second, or not at all.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Longest answer: the largest lists of hardware vendors are a few hundred kilobytes.
const ANSWER_BYTES_MAX: usize = 2 * 1024 * 1024;

/// One document that one source has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// The source's name.
    pub source: String,
    /// What is asked for.
    pub request: Request,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// The list of a product line's ARK.
    AmdCrl(AmdProduct),
    /// The list of Intel's root.
    IntelRootCrl,
    /// The list of a CA of PCKs.
    IntelPckCrl(PckAuthority),
    /// TCB info of a family of platforms, FMSPC in lower-case hex.
    IntelTcbInfo(Technology, String),
    /// Identity of a technology's quoting enclave.
    IntelQeIdentity(Technology),
    /// A list at the source's address itself.
    TpmCrl,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        match &self.request {
            Request::AmdCrl(product) => write!(f, "CRL of {product}"),
            Request::IntelRootCrl => f.write_str("CRL of Intel's root"),
            Request::IntelPckCrl(authority) => write!(f, "CRL of the {} CA", authority.name()),
            Request::IntelTcbInfo(technology, fmspc) => write!(f, "TCB info of {} {fmspc}", technology.name()),
            Request::IntelQeIdentity(technology) => write!(f, "QE identity of {}", technology.name()),
            Request::TpmCrl => f.write_str("CRL"),
        }
    }
}

/// Why nothing came.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer.
    #[error("not reached: {0}")]
    Unreached(String),
    /// An answer without the document.
    #[error("answered {0}")]
    Status(u16),
    /// Too much of an answer.
    #[error("answered more than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    /// Not the document.
    #[error("answered something else: {0}")]
    Content(String),
}

impl FetchError {
    /// For metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreached(_) => "unreached",
            Self::Status(_) => "status",
            Self::TooLong => "too_long",
            Self::Content(_) => "content",
        }
    }
}

impl Technology {
    const fn name(self) -> &'static str {
        match self {
            Self::Sgx => "sgx",
            Self::Tdx => "tdx",
        }
    }
}

impl PckAuthority {
    const fn name(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Platform => "platform",
        }
    }
}

impl Settings {
    /// Everything that the sources are asked for.
    #[must_use]
    pub fn wanted(&self) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        let mut want = |source: &str, request| wanted.push(Wanted { source: source.to_owned(), request });
        for source in &self.amd_kds {
            source.products.iter().for_each(|product| want(&source.name, Request::AmdCrl(*product)));
        }
        for source in &self.intel_pcs {
            want(&source.name, Request::IntelRootCrl);
            source.authorities.iter().for_each(|authority| want(&source.name, Request::IntelPckCrl(*authority)));
            for technology in &source.technologies {
                want(&source.name, Request::IntelQeIdentity(*technology));
                for fmspc in &source.fmspc {
                    want(&source.name, Request::IntelTcbInfo(*technology, fmspc.to_lowercase()));
                }
            }
        }
        self.tpm_crl.iter().for_each(|source| want(&source.name, Request::TpmCrl));
        wanted
    }

    /// Where it is.
    fn url(&self, wanted: &Wanted) -> Option<Url> {
        let (_, reach) = self.sources().find(|(name, _)| *name == wanted.source)?;
        let below = |path: &str| Url::parse(&format!("{}/{path}", reach.url.as_str().trim_end_matches('/'))).ok();
        match &wanted.request {
            // AMD 57230, 4.3: one list a product line, by the name of its chain.
            Request::AmdCrl(product) => below(&format!("vcek/v1/{product}/crl")),
            Request::IntelRootCrl => {
                let elsewhere = self.intel_pcs.iter().find(|source| source.name == wanted.source)?.root_crl.clone();
                elsewhere.or_else(|| below("sgx/certification/v4/rootcacrl"))
            }
            Request::IntelPckCrl(authority) => {
                below(&format!("sgx/certification/v4/pckcrl?ca={}&encoding=der", authority.name()))
            }
            Request::IntelTcbInfo(technology, fmspc) => {
                below(&format!("{}/certification/v4/tcb?fmspc={fmspc}", technology.name()))
            }
            Request::IntelQeIdentity(technology) => {
                below(&format!("{}/certification/v4/qe/identity", technology.name()))
            }
            Request::TpmCrl => Some(reach.url.clone()),
        }
    }

    /// Fetches a document.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch(&self, wanted: &Wanted, client: &Client) -> Result<Document, FetchError> {
        let url = self.url(wanted).ok_or_else(|| FetchError::Content("no address".to_owned()))?;
        let response = client.get(url).send().await.map_err(unreached)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let headers = response.headers().clone();
        document(&wanted.request, &headers, bounded(response).await?)
    }
}

fn unreached(error: reqwest::Error) -> FetchError {
    // The cause, not the address: that is in the settings.
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    FetchError::Unreached(text)
}

async fn bounded(mut response: reqwest::Response) -> Result<Vec<u8>, FetchError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreached)? {
        if ANSWER_BYTES_MAX < bytes.len().saturating_add(chunk.len()) {
            return Err(FetchError::TooLong);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The document in an answer (Intel PCS API version 4: the chain of whoever signed is in a header, percent-encoded
/// PEM).
fn document(request: &Request, headers: &HeaderMap, body: Vec<u8>) -> Result<Document, FetchError> {
    let content = |error: &dyn fmt::Display| FetchError::Content(error.to_string());
    Ok(match request {
        Request::AmdCrl(_) => Document::AmdCrl { list: list(body) },
        Request::TpmCrl => Document::TpmCrl { list: list(body) },
        Request::IntelRootCrl => Document::IntelRootCrl { list: list(body) },
        Request::IntelPckCrl(_) => {
            Document::IntelPckCrl { list: list(body), issuer_chain: chain(headers, &["sgx-pck-crl-issuer-chain"])? }
        }
        Request::IntelTcbInfo(..) => {
            let answer = Answer::tcb_info(&body).map_err(|rejection| content(&rejection))?;
            Document::IntelTcbInfo {
                tcb_info: answer.body.to_owned(),
                signature: HexBytes(answer.signature),
                issuer_chain: chain(headers, &["tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain"])?,
            }
        }
        Request::IntelQeIdentity(_) => {
            let answer = Answer::enclave_identity(&body).map_err(|rejection| content(&rejection))?;
            Document::IntelQeIdentity {
                qe_identity: answer.body.to_owned(),
                signature: HexBytes(answer.signature),
                issuer_chain: chain(headers, &["sgx-enclave-identity-issuer-chain"])?,
            }
        }
    })
}

/// A list as vendors serve it, DER, or as caches do: PEM or hex.
fn list(body: Vec<u8>) -> HexBytes {
    let text = body.trim_ascii();
    if text.starts_with(b"-----BEGIN")
        && let Ok(list) = rustls_pki_types::CertificateRevocationListDer::from_pem_slice(text)
    {
        return HexBytes(list.to_vec());
    }
    HexBytes(hex::decode(text).unwrap_or(body))
}

fn chain(headers: &HeaderMap, names: &[&str]) -> Result<String, FetchError> {
    let missing = || FetchError::Content(format!("no header {}", names.join(" or ")));
    let header = names.iter().find_map(|name| headers.get(*name)).ok_or_else(missing)?;
    let text = header.to_str().map_err(|error| FetchError::Content(error.to_string()))?;
    let decoded = percent_decode_str(text).decode_utf8().map_err(|error| FetchError::Content(error.to_string()))?;
    Ok(decoded.into_owned())
}

/// A client for a source: no redirects, so that nobody but the settings says where it goes.
///
/// # Errors
/// [`ConfigError`] when the TLS roots cannot be used.
pub fn client(reach: &Reach) -> Result<Client, ConfigError> {
    let builder =
        Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(TIMEOUT).connect_timeout(TIMEOUT / 4);
    let unusable = |path: &std::path::Path, error: &dyn fmt::Display| {
        ConfigError::content(path, "PEM certificates of TLS authorities", error)
    };
    let path = reach.tls_roots.as_deref().unwrap_or_else(|| std::path::Path::new("collateral.toml"));
    let mut roots = RootCertStore::empty();
    if reach.tls_roots.is_some() {
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unusable(path, &error))?;
        // A system's bundle has roots that are not understood here; those that are must be some.
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(unusable(path, &"none that can be used"));
        }
    }
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(path, &error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    builder.tls_backend_preconfigured(tls).build().map_err(|error| unusable(path, &error))
}

#[cfg(test)]
mod tests {
    use countersign_attestation::anchor::AmdProduct;
    use reqwest::header::{HeaderMap, HeaderValue};

    use super::{Request, Wanted, document, list};
    use crate::collateral::document::Document;
    use crate::collateral::settings::{PckAuthority, Settings, Technology};

    fn settings(text: &str) -> Result<Settings, toml::de::Error> {
        toml::from_str(text)
    }

    const ALL: &str = r#"
        [grace]
        policy = "outage"
        milliseconds = 1000
        [[amd_kds]]
        name = "kds"
        reach = { url = "http://kds.example/", refresh_ms = 10, retry_ms = 1 }
        products = ["milan", "turin"]
        [[intel_pcs]]
        name = "pccs"
        reach = { url = "http://pccs.example/cache", refresh_ms = 10, retry_ms = 1 }
        technologies = ["tdx"]
        authorities = ["platform"]
        fmspc = ["00806F050000"]
        [[tpm_crl]]
        name = "maker"
        reach = { url = "http://maker.example/ek.crl", refresh_ms = 10, retry_ms = 1 }
    "#;

    #[test]
    fn each_document_has_one_address() {
        let settings = settings(ALL).unwrap();
        let urls: Vec<_> = settings.wanted().iter().map(|wanted| settings.url(wanted).unwrap().to_string()).collect();
        assert_eq!(
            urls,
            [
                "http://kds.example/vcek/v1/Milan/crl",
                "http://kds.example/vcek/v1/Turin/crl",
                "http://pccs.example/cache/sgx/certification/v4/rootcacrl",
                "http://pccs.example/cache/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
                "http://pccs.example/cache/tdx/certification/v4/qe/identity",
                "http://pccs.example/cache/tdx/certification/v4/tcb?fmspc=00806f050000",
                "http://maker.example/ek.crl",
            ]
        );
        let unknown = Wanted { source: "nobody".into(), request: Request::AmdCrl(AmdProduct::Milan) };
        assert_eq!(settings.url(&unknown), None);
    }

    #[test]
    fn a_list_is_read_as_der_pem_or_hex() {
        let der = vec![0x30, 3, 2, 1, 5];
        let pem = b"-----BEGIN X509 CRL-----\nMAMCAQU=\n-----END X509 CRL-----\n".to_vec();
        for served in [der.clone(), pem, b"3003020105\n".to_vec()] {
            assert_eq!(list(served).0, der);
        }
    }

    #[test]
    fn an_answer_without_its_chain_is_no_document() {
        let tcb = Request::IntelTcbInfo(Technology::Tdx, "00".into());
        let body = br#"{"tcbInfo":{"id":"TDX"},"signature":"0102"}"#.to_vec();
        let mut headers = HeaderMap::new();
        assert!(document(&tcb, &headers, body.clone()).is_err());
        headers.insert("TCB-Info-Issuer-Chain", HeaderValue::from_static("-----BEGIN%20A%0A"));
        let Ok(Document::IntelTcbInfo { tcb_info, signature, issuer_chain }) = document(&tcb, &headers, body) else {
            panic!("a document");
        };
        assert_eq!((&*tcb_info, &*signature.0, &*issuer_chain), (r#"{"id":"TDX"}"#, &[1, 2][..], "-----BEGIN A\n"));
        assert!(document(&tcb, &headers, b"<html>".to_vec()).is_err());
        let authority = Request::IntelPckCrl(PckAuthority::Platform);
        assert!(document(&authority, &headers, vec![0x30]).is_err());
    }
}
