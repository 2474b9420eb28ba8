//! What an operator must know of a certificate of a TPM's key to register a host.

use countersign_attestation::digest::Sha256Digest;
use tss_esapi::structures::Public;
use tss_esapi::traits::UnMarshall as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use crate::device::{Refused as _, TpmError};

/// A certificate whose key is the key in the TPM.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct KeyCertificate {
    /// SHA-256 of the `SubjectPublicKeyInfo`: what a host is registered by.
    pub fingerprint: Sha256Digest,
    /// Subject; often empty, with the TPM's model in the subject alternative name.
    pub subject: String,
    /// Issuer: the CA of a manufacturer or a cloud.
    pub issuer: String,
    /// End of validity as the certificate writes it.
    pub not_after: String,
    /// Serial number, hex.
    pub serial: String,
}

impl KeyCertificate {
    /// Reads the certificate and compares its key with the public area (TPMT_PUBLIC). A certificate left over from
    /// another seed would fail at the broker with less to go by.
    ///
    /// # Errors
    /// [`TpmError::Answer`].
    pub fn of(der: &[u8], public_area: &[u8]) -> Result<Self, TpmError> {
        let wrong = |found: String| TpmError::Answer { command: "read the certificate", found };
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| wrong(error.to_string()))?;
        let spki = certificate.public_key();
        let public = Public::unmarshall(public_area).refused("read a public area")?;
        if !same_key(&spki.parsed().map_err(|error| wrong(error.to_string()))?, &public) {
            return Err(wrong("a certificate of another key than the TPM's".to_owned()));
        }
        Ok(Self {
            fingerprint: Sha256Digest::of(&[spki.raw]),
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            not_after: certificate.validity().not_after.to_string(),
            serial: hex::encode(certificate.raw_serial()),
        })
    }
}

fn same_key(certified: &PublicKey<'_>, public: &Public) -> bool {
    let significant = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
    match (certified, public) {
        (PublicKey::RSA(certified), Public::Rsa { unique, .. }) => {
            significant(certified.modulus) == significant(unique.value())
        }
        (PublicKey::EC(certified), Public::Ecc { unique, .. }) => {
            let Some((4, coordinates)) = certified.data().split_first().map(|(form, rest)| (*form, rest)) else {
                return false;
            };
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            significant(x) == significant(unique.x().value()) && significant(y) == significant(unique.y().value())
        }
        _ => false,
    }
}
