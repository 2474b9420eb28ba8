//! The key that somebody vouches for, by which an operator knows this host: the manufacturer's EK, a cloud's AK, or a
//! device manufacturer's initial attestation key.

use std::path::{Path, PathBuf};

use countersign_attestation::protocol::{Base64Bytes, Endorsement};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use crate::certificate::KeyCertificate;
use crate::device::{Session, TpmError};
use crate::error::AgentError;
use crate::files::At as _;
use crate::keys::{self, EkKind, PersistentKey};

/// By which key this host is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endorser {
    /// The EK, with the certificate that the manufacturer left in NV memory. It opens a secret for a new AK.
    EndorsementKey(EkKind),
    /// An AK that is in the TPM already, as in the virtual TPMs of clouds. It signs itself, and it quotes.
    AttestationKey(CertifiedKey),
    /// The manufacturer's initial attestation key (TCG TPM 2.0 Keys for Device Identity and Attestation, 5.2). It
    /// certifies a new AK.
    InitialAttestationKey(CertifiedKey),
}

/// A persistent key and where its certificate is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertifiedKey {
    /// Persistent handle.
    pub handle: u32,
    /// The certificate.
    pub certificate: CertificateAt,
    /// NV index of the template that the key is made of and kept at the handle, where nothing is there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_nv: Option<u32>,
}

/// Where a certificate is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateAt {
    /// A DER or PEM file; the first certificate of several.
    File(PathBuf),
    /// An NV index of the TPM.
    Nv(u32),
}

/// The endorsed key, as it is in the TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndorsedKey {
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// TPMT_PUBLIC.
    pub public: Vec<u8>,
    /// What the certificate says.
    pub described: KeyCertificate,
}

impl Endorser {
    /// What the key is called.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::EndorsementKey(_) => "EK",
            Self::AttestationKey(_) => "AK",
            Self::InitialAttestationKey(_) => "IAK",
        }
    }

    /// Reads the key and its certificate.
    ///
    /// # Errors
    /// The TPM's refusal, an unreadable file, or a certificate of another key.
    pub fn read(&self, session: &mut Session) -> Result<EndorsedKey, TpmError> {
        let (certificate, public) = match self {
            Self::EndorsementKey(kind) => {
                let certificate = keys::endorsement_certificate(session, *kind)?;
                let ek = keys::endorsement_key(session, *kind)?;
                let public = keys::public_area(session, ek)?;
                session.flush(ek)?;
                (certificate, public)
            }
            Self::AttestationKey(key) | Self::InitialAttestationKey(key) => {
                if let Some(template_nv) = key.template_nv {
                    PersistentKey::make(session, key.handle, template_nv)?;
                }
                (key.certificate.read(session)?, PersistentKey::at(session, key.handle)?.public)
            }
        };
        let described = KeyCertificate::of(&certificate, &public)?;
        Ok(EndorsedKey { certificate, public, described })
    }

    /// What the broker is told of `key`, with the certificates of a file between it and its root.
    ///
    /// # Errors
    /// An unreadable file.
    pub fn endorsement(&self, key: EndorsedKey, intermediates: Option<&Path>) -> Result<Endorsement, AgentError> {
        let (certificate, public) = (Base64Bytes(key.certificate), Base64Bytes(key.public));
        let intermediates = intermediates.map(read_certificates).transpose()?.unwrap_or_default();
        Ok(match self {
            Self::EndorsementKey(_) => Endorsement::EndorsementKey { certificate, public, intermediates },
            Self::AttestationKey(_) => Endorsement::AkCertificate { certificate, intermediates },
            Self::InitialAttestationKey(_) => Endorsement::InitialAttestationKey { certificate, public, intermediates },
        })
    }
}

impl CertificateAt {
    fn read(&self, session: &mut Session) -> Result<Vec<u8>, TpmError> {
        match self {
            Self::Nv(index) => keys::certificate_in_nv(session, *index),
            Self::File(path) => {
                let wrong = |found: String| TpmError::Answer {
                    command: "read the certificate file",
                    found: format!("{}: {found}", path.display()),
                };
                let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
                if !bytes.starts_with(b"-----") {
                    return Ok(bytes);
                }
                let certificate = CertificateDer::from_pem_slice(&bytes);
                certificate.map(|certificate| certificate.to_vec()).map_err(|error| wrong(error.to_string()))
            }
        }
    }
}

fn read_certificates(path: &Path) -> Result<Vec<Base64Bytes>, AgentError> {
    let text = std::fs::read(path).at("read", path)?;
    let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error));
    let certificates = certificates.at("read certificates from", path)?;
    Ok(certificates.into_iter().map(|certificate| Base64Bytes(certificate.to_vec())).collect())
}
