//! TLS towards callers: 1.3 only, with a client certificate, without resumption.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use countersign_attestation::digest::Sha256Digest;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;

use super::SetUpError;
use super::clients::Clients;
use crate::authorize::Reread;
use crate::clock::Clock;

/// Certificate and key of the server, as files that an ACME client or an operator replaces.
#[derive(Debug)]
pub(super) struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<CertifiedKey>,
    /// Of both files' bytes, as they were when `current` was made.
    digest: Mutex<Sha256Digest>,
}

impl Identity {
    /// Reads both files.
    pub(super) fn load(certificate: &Path, key: &Path) -> Result<Self, SetUpError> {
        let (certified, digest) = read(certificate, key)?;
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current: ArcSwap::from_pointee(certified),
            digest: Mutex::new(digest),
        })
    }

    /// Reads them again. What does not fit together changes nothing: one file may have been replaced before the other.
    pub(super) fn reread(&self) -> Result<Reread, SetUpError> {
        let (certified, digest) = read(&self.certificate, &self.key)?;
        let mut held = self.digest.lock().unwrap_or_else(PoisonError::into_inner);
        if *held == digest {
            return Ok(Reread::Same);
        }
        self.current.store(Arc::new(certified));
        *held = digest;
        Ok(Reread::Changed)
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read(certificate: &Path, key: &Path) -> Result<(CertifiedKey, Sha256Digest), SetUpError> {
    let file = |path: &Path| std::fs::read(path).map_err(|error| SetUpError::Read(path.to_owned(), error));
    let (chain_pem, key_pem) = (file(certificate)?, file(key)?);
    let unusable = |path: &Path, what: String| SetUpError::Identity(path.to_owned(), what);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain_pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(unusable(certificate, "no certificate".to_owned()));
    }
    // The key's text is in no message.
    let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| unusable(key, "no private key".to_owned()))?;
    let certified = CertifiedKey::from_der(chain, private, &rustls::crypto::aws_lc_rs::default_provider())
        .map_err(|error| unusable(key, error.to_string()))?;
    let digest = Sha256Digest::of(&[&Sha256Digest::of(&[&chain_pem]).0, &Sha256Digest::of(&[&key_pem]).0]);
    Ok((certified, digest))
}

/// The gate's clock, for the dates of certificates.
#[derive(Debug)]
struct Time(Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(core::time::Duration::from_millis(self.0.now().wall.0)))
    }
}

/// The server's side of every connection.
pub(super) fn config(
    roots: &[Vec<u8>],
    identity: Arc<Identity>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, SetUpError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::new(Time(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Clients::new(roots, provider)?))
        .with_cert_resolver(identity);
    // A resumed session skips the check of the chain (RFC 8446, 2.2): none is offered and none is kept, and without one
    // there is no early data.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![HTTP_2.to_vec(), HTTP_1.to_vec()];
    Ok(Arc::new(config))
}

/// ALPN names (RFC 7301, RFC 9113).
pub(super) const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";
