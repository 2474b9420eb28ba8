//! The certificates of callers in the handshake: paths to the pinned roots, under name constraints of URIs, which the
//! verifier that comes with rustls refuses altogether. The handshake's signature is checked by rustls.

use std::sync::Arc;

use countersign_attestation::result::svid::check_client_chain;
use countersign_attestation::x509::{Certificate, X509Reason};
use countersign_attestation::{Reason, Rejection, UnixMillis};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};

use super::SetUpError;

/// Verifies callers; there is none without a certificate.
#[derive(Debug)]
pub(super) struct Clients {
    roots: Vec<Vec<u8>>,
    names: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl Clients {
    /// Callers whose chains lead to one of `roots`.
    pub(super) fn new(roots: &[Vec<u8>], provider: Arc<CryptoProvider>) -> Result<Self, SetUpError> {
        let name =
            |root: &Vec<u8>| Certificate::parse(root).map(|root| DistinguishedName::from(root.subject().to_vec()));
        let names = roots.iter().map(name).collect::<Result<Vec<_>, _>>().map_err(SetUpError::Roots)?;
        if names.is_empty() {
            return Err(SetUpError::NoRoots);
        }
        Ok(Self { roots: roots.to_vec(), names, provider })
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<&[u8]> = core::iter::once(leaf).chain(intermediates).map(AsRef::as_ref).collect();
        check_client_chain(&chain, &self.roots, UnixMillis(now.as_secs().saturating_mul(1000))).map_err(alert)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The alert that fits (RFC 8446, 6.2).
fn alert(rejection: Rejection) -> Error {
    let alerts = [
        (X509Reason::Expired, CertificateError::Expired),
        (X509Reason::NotYetValid, CertificateError::NotValidYet),
        (X509Reason::NoPath, CertificateError::UnknownIssuer),
        (X509Reason::Malformed, CertificateError::BadEncoding),
        (X509Reason::Signature, CertificateError::BadSignature),
    ];
    let fitting = alerts.into_iter().find(|(reason, _)| rejection.reason() == Reason::X509(*reason));
    let reason = match fitting {
        Some((_, reason)) => reason,
        None => CertificateError::Other(OtherError(Arc::new(rejection))),
    };
    Error::InvalidCertificate(reason)
}
