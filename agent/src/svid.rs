//! The X.509-SVID as workloads get it: certificates and roots in DER, and the key where it can be handed over.

use core::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use countersign_attestation::UnixMillis;
use countersign_attestation::protocol::IssuedToken;
use countersign_attestation::result::svid::SpiffeId;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::clock::Now;
use crate::trust::Lease;

/// Why a credential is no SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// Chain, roots or key cannot be read.
    #[error("the credential's {0} cannot be read")]
    Unreadable(&'static str),
    /// The leaf names no SPIFFE id.
    #[error("the credential's certificate names no SPIFFE id")]
    NoId,
    /// Certificate and key are of different credentials.
    #[error("the credential's certificate is for another key")]
    OtherKey,
}

/// Where the key of an SVID is.
#[derive(Clone, PartialEq, Eq)]
pub enum SvidKey {
    /// In memory: PKCS#8, DER. It is overwritten when the last holder lets go.
    Pkcs8(Zeroizing<Vec<u8>>),
    /// In the TPM, which never gives it out.
    InTpm,
}

impl fmt::Debug for SvidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pkcs8(_) => "Pkcs8(..)",
            Self::InTpm => "InTpm",
        })
    }
}

impl SvidKey {
    /// Reads a key file: PKCS#8, or the handle of a key in the TPM (`TSS2 PRIVATE KEY`).
    ///
    /// # Errors
    /// [`SvidError::Unreadable`].
    pub fn from_pem(pem: &str) -> Result<Self, SvidError> {
        if pem.starts_with("-----BEGIN TSS2 PRIVATE KEY-----") {
            return Ok(Self::InTpm);
        }
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| SvidError::Unreadable("key"))?;
        Ok(Self::Pkcs8(Zeroizing::new(key.secret_pkcs8_der().to_vec())))
    }
}

/// A JWT-SVID for one audience.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    audience: String,
    token: Zeroizing<String>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("audience", &self.audience).finish_non_exhaustive()
    }
}

/// One X.509-SVID. [`Self::new`] is the only constructor: certificate and key belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Svid {
    id: SpiffeId,
    chain: Vec<Vec<u8>>,
    roots: Vec<Vec<u8>>,
    key: SvidKey,
    serial: String,
    not_after: UnixMillis,
    tokens: Vec<Token>,
}

impl Svid {
    /// Reads a chain (leaf first) and the roots of the trust bundle, both PEM. The end of validity is the broker's,
    /// or the certificate's where that is earlier.
    ///
    /// # Errors
    /// [`SvidError`].
    pub fn new(chain: &str, roots: &str, key: SvidKey, not_after: UnixMillis) -> Result<Self, SvidError> {
        let chain = certificates(chain).ok_or(SvidError::Unreadable("certificate chain"))?;
        let roots = certificates(roots).ok_or(SvidError::Unreadable("trust bundle"))?;
        let first = chain.first().ok_or(SvidError::Unreadable("certificate chain"))?;
        let (_, leaf) = X509Certificate::from_der(first).map_err(|_| SvidError::Unreadable("certificate"))?;
        let id = spiffe_id(&leaf).ok_or(SvidError::NoId)?;
        if let SvidKey::Pkcs8(pkcs8) = &key {
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8);
            let pair = pair.map_err(|_| SvidError::Unreadable("key"))?;
            if *pair.public_key().as_ref() != *leaf.public_key().subject_public_key.data {
                return Err(SvidError::OtherKey);
            }
        }
        let serial = hex::encode(leaf.raw_serial());
        let ends = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0).saturating_mul(1000);
        let not_after = UnixMillis(not_after.0.min(ends));
        Ok(Self { id, chain, roots, key, serial, not_after, tokens: Vec::new() })
    }

    /// With the JWT-SVIDs that came with it.
    #[must_use]
    pub fn with_tokens(mut self, tokens: &[IssuedToken]) -> Self {
        let token = |issued: &IssuedToken| Token {
            audience: issued.audience.clone(),
            token: Zeroizing::new(issued.token.clone()),
        };
        self.tokens = tokens.iter().map(token).collect();
        self
    }

    /// The JWT-SVID for an audience.
    #[must_use]
    pub fn token(&self, audience: &str) -> Option<&str> {
        self.tokens.iter().find(|token| token.audience == audience).map(|token| token.token.as_str())
    }

    /// The SPIFFE id.
    #[must_use]
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The trust domain's id, `spiffe://<trust domain>`.
    #[must_use]
    pub fn trust_domain_id(&self) -> String {
        format!("spiffe://{}", self.id.trust_domain())
    }

    /// Certificates, leaf first, DER.
    #[must_use]
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// Roots of the trust bundle, DER.
    #[must_use]
    pub fn roots(&self) -> &[Vec<u8>] {
        &self.roots
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> &SvidKey {
        &self.key
    }

    /// Serial number of the leaf, hex; no two SVIDs of a broker share one.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }
}

/// At least one certificate, and nothing that is none.
fn certificates(pem: &str) -> Option<Vec<Vec<u8>>> {
    let read: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| der.map(|der| der.to_vec())).collect();
    read.ok().filter(|certificates| !certificates.is_empty())
}

fn spiffe_id(leaf: &X509Certificate<'_>) -> Option<SpiffeId> {
    let names = &leaf.subject_alternative_name().ok()??.value.general_names;
    // X.509-SVID, 2: exactly one URI.
    let mut uris = names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
    uris.next().filter(|_| uris.next().is_none()).and_then(SpiffeId::parse)
}

/// An SVID and until when this host is trusted.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The SVID.
    pub svid: Arc<Svid>,
    /// The lease.
    pub lease: Lease,
}

impl Offer {
    /// Milliseconds for which the SVID may be handed out, none when it may not.
    #[must_use]
    pub fn left_ms(&self, now: Now) -> Option<u64> {
        let left = self.lease.left_ms(now).min(self.svid.not_after.since(now.wall));
        (0 < left).then_some(left)
    }
}

/// What may be handed out now; `None` without trust.
pub type Offers = watch::Receiver<Option<Offer>>;

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use countersign_attestation::UnixMillis;
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::{Offer, Svid, SvidError, SvidKey};
    use crate::clock::{self, Now};
    use crate::trust::Lease;

    /// Self-signed certificate with these URIs, and its key, both PEM.
    fn made(uris: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    pub(crate) const ID: &str = "spiffe://a.example/host/host-1";

    /// An SVID with its key, and a lease of `lease_ms` from now.
    pub(crate) fn offer(lease_ms: u64) -> Offer {
        let (certificate, key) = made(&[ID]);
        let (root, _) = made(&[]);
        let now = clock::now();
        let key = SvidKey::from_pem(&key).unwrap();
        let svid = Svid::new(&certificate, &root, key, now.wall.plus(3_600_000)).unwrap();
        Offer { svid: Arc::new(svid), lease: Lease::new(now.wall.plus(lease_ms), now) }
    }

    #[test]
    fn a_certificate_for_another_key_and_ids_that_are_none_are_refused() {
        let (certificate, key) = made(&[ID]);
        let (other, _) = made(&[ID]);
        let far = UnixMillis(u64::MAX);
        let new = |certificate: &str, key: &str| {
            Svid::new(certificate, &other, SvidKey::from_pem(key).unwrap(), far).map(|svid| svid.id().to_string())
        };
        assert_eq!(new(&certificate, &key).as_deref(), Ok(ID));
        assert_eq!(new(&other, &key), Err(SvidError::OtherKey));
        for uris in [&[] as &[&str], &["https://a.example/host/host-1"], &[ID, "spiffe://a.example/host/host-2"]] {
            let (certificate, key) = made(uris);
            assert_eq!(new(&certificate, &key), Err(SvidError::NoId), "{uris:?}");
        }
        assert_eq!(new("", &key), Err(SvidError::Unreadable("certificate chain")));
        assert_eq!(SvidKey::from_pem("no key"), Err(SvidError::Unreadable("key")));
        let tss2 = "-----BEGIN TSS2 PRIVATE KEY-----\nAA==\n-----END TSS2 PRIVATE KEY-----\n";
        assert_eq!(SvidKey::from_pem(tss2), Ok(SvidKey::InTpm));
    }

    #[test]
    fn an_offer_ends_with_the_lease_or_the_credential_whichever_is_first() {
        let now = Now { wall: UnixMillis(1_000), boot_ms: 10 };
        let at = |wall: u64, boot_ms: u64| Now { wall: UnixMillis(wall), boot_ms };
        let mut svid = Svid::clone(&offer(1).svid);
        svid.not_after = UnixMillis(5_000);
        let svid = Arc::new(svid);
        let long = Offer { svid: Arc::clone(&svid), lease: Lease::new(UnixMillis(9_000), now) };
        assert_eq!(long.left_ms(now), Some(4_000));
        assert_eq!((long.left_ms(at(4_999, 20)), long.left_ms(at(5_000, 20))), (Some(1), None));
        let short = Offer { svid, lease: Lease::new(UnixMillis(2_000), now) };
        assert_eq!((short.left_ms(now), short.left_ms(at(2_000, 20))), (Some(1_000), None));
        assert_eq!(short.left_ms(at(500, 1_010)), None, "the wall clock was set back");
    }

    #[test]
    fn keys_are_not_printed() {
        let offer = offer(1);
        let SvidKey::Pkcs8(key) = offer.svid.key() else { panic!("a file key") };
        let printed = format!("{offer:?}");
        assert!(!printed.contains(&format!("{:?}", &key[..8]).replace(['[', ']'], "")), "{printed}");
        assert!(printed.contains("Pkcs8(..)"), "{printed}");
    }
}
