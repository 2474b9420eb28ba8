//! A broker's signing side with software keys, for tests: a workload CA, X.509-SVIDs with the credential extension,
//! pulses and status lists. Include it with `#[path]`; it is in no binary.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared by several test crates, each uses a part"
)]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::Assurance;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::Base64Bytes;
use countersign_attestation::pulse::{self, ListDigest, Pulse, PulseCheckpoint};
use countersign_attestation::result::authorities::{self, Authorities};
use countersign_attestation::result::jws::{self, Jwk, JwkSet, Kind};
use countersign_attestation::result::svid::{CredentialExtension, EXTENSION_OID, KeyProtection, TrustDomain};
use countersign_attestation::status_list::{self, StatusList, StatusListToken};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

/// Y of the pulses made here.
pub(crate) const Y_MS: u64 = 5_000;

/// A signing key for tokens.
pub(crate) struct TokenKey {
    pair: EcdsaKeyPair,
}

impl TokenKey {
    /// A fresh key.
    pub(crate) fn new() -> Self {
        Self { pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap() }
    }

    /// Its public half.
    pub(crate) fn jwk(&self) -> Jwk {
        Jwk::from_point(self.pair.public_key().as_ref()).unwrap()
    }

    /// A compact JWS over `payload`.
    pub(crate) fn token(&self, kind: Kind, payload: &[u8]) -> String {
        let input = jws::signing_input(kind, self.jwk().kid(), payload);
        jws::compact(&input, &self.sign(input.as_bytes()))
    }

    /// r || s.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.pair.sign(&SystemRandom::new(), message).unwrap().as_ref().try_into().unwrap()
    }
}

/// What a credential is to say. [`Order::new`] makes a sound one; tests change one thing.
#[derive(Clone)]
pub(crate) struct Order {
    pub(crate) uris: Vec<String>,
    pub(crate) is_ca: IsCa,
    pub(crate) key_usages: Vec<KeyUsagePurpose>,
    pub(crate) extended_key_usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) extensions: Vec<Vec<u8>>,
    pub(crate) critical: bool,
    pub(crate) not_before: UnixMillis,
    pub(crate) not_after: UnixMillis,
}

impl Order {
    /// A sound credential for `host`, five minutes from a minute before `now`.
    pub(crate) fn new(trust_domain: &str, host: &str, extension: &CredentialExtension, now: UnixMillis) -> Self {
        Self {
            uris: vec![format!("spiffe://{trust_domain}/host/{host}")],
            is_ca: IsCa::ExplicitNoCa,
            key_usages: vec![KeyUsagePurpose::DigitalSignature],
            extended_key_usages: vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
            extensions: vec![extension.encode()],
            critical: false,
            not_before: UnixMillis(now.0 - 60_000),
            not_after: now.plus(300_000),
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = self.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap())).collect();
        params.is_ca = self.is_ca;
        params.key_usages.clone_from(&self.key_usages);
        params.extended_key_usages.clone_from(&self.extended_key_usages);
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (date(self.not_before), date(self.not_after));
        for content in &self.extensions {
            let mut extension = CustomExtension::from_oid_content(&EXTENSION_OID, content.clone());
            extension.set_criticality(self.critical);
            params.custom_extensions.push(extension);
        }
        params
    }
}

fn date(moment: UnixMillis) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(moment.seconds()).unwrap()).unwrap()
}

/// The extension of a credential at `index` of list 0.
pub(crate) fn extension(index: u64) -> CredentialExtension {
    CredentialExtension {
        status_list: 0,
        status_index: index,
        generation: 1,
        decision: Sha256Digest([7; 32]),
        log_index: 41,
        assurance: Assurance::Simulated,
        waivers: Vec::new(),
        key_protection: KeyProtection::Tpm,
    }
}

/// A credential with its key.
pub(crate) struct Svid {
    pub(crate) der: Vec<u8>,
    pub(crate) pem: String,
    pub(crate) key_pem: String,
    /// The key's `SubjectPublicKeyInfo`, DER.
    pub(crate) spki: Vec<u8>,
}

/// A workload CA.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What an authority's own certificate is to say.
pub(crate) struct AuthorityOrder {
    pub(crate) name: &'static str,
    pub(crate) is_ca: IsCa,
    pub(crate) key_usages: Vec<KeyUsagePurpose>,
    pub(crate) not_after: UnixMillis,
    /// The content of nameConstraints, and whether it is critical.
    pub(crate) name_constraints: Option<(Vec<u8>, bool)>,
}

impl AuthorityOrder {
    /// A sound CA, for ten years from 2026.
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            is_ca: IsCa::Ca(BasicConstraints::Unconstrained),
            key_usages: vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
            not_after: UnixMillis(2_082_758_400_000),
            name_constraints: None,
        }
    }

    fn params(self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.name);
        params.is_ca = self.is_ca;
        params.key_usages = self.key_usages;
        if let Some((content, critical)) = self.name_constraints {
            let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
            extension.set_criticality(critical);
            params.custom_extensions.push(extension);
        }
        (params.not_before, params.not_after) = (date(UnixMillis(1_577_836_800_000)), date(self.not_after));
        params
    }
}

impl Authority {
    /// A root.
    pub(crate) fn root(order: AuthorityOrder) -> Self {
        Self { issuer: CertifiedIssuer::self_signed(order.params(), KeyPair::generate().unwrap()).unwrap() }
    }

    /// An intermediate under this CA.
    pub(crate) fn intermediate(&self, order: AuthorityOrder) -> Self {
        let issuer = CertifiedIssuer::signed_by(order.params(), KeyPair::generate().unwrap(), &self.issuer).unwrap();
        Self { issuer }
    }

    /// Its certificate, DER.
    pub(crate) fn der(&self) -> Vec<u8> {
        self.issuer.der().to_vec()
    }

    /// Its certificate, PEM.
    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A credential.
    pub(crate) fn issue(&self, order: &Order) -> Svid {
        let key = KeyPair::generate().unwrap();
        let certificate = order.params().signed_by(&key, &self.issuer).unwrap();
        Svid {
            der: certificate.der().to_vec(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            spki: rcgen::PublicKeyData::subject_public_key_info(&key),
        }
    }

    /// A TLS server's certificate for 127.0.0.1 and localhost, and its key, PEM.
    pub(crate) fn server(&self) -> (Vec<u8>, String, String) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().to_vec(), certificate.pem(), key.serialize_pem())
    }
}

/// A broker of one trust domain.
pub(crate) struct Issuer {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) key: TokenKey,
    pub(crate) authority: Authority,
}

impl Issuer {
    /// A broker with fresh keys.
    pub(crate) fn new(trust_domain: &str) -> Self {
        Self {
            trust_domain: TrustDomain::parse(trust_domain).unwrap(),
            key: TokenKey::new(),
            authority: Authority::root(AuthorityOrder::new("Workload CA")),
        }
    }

    /// The pinned key set.
    pub(crate) fn keys(&self) -> JwkSet {
        JwkSet::new([self.key.jwk()])
    }

    /// A sound credential for `host` at `index` of list 0.
    pub(crate) fn svid(&self, host: &str, index: u64, now: UnixMillis) -> Svid {
        self.authority.issue(&Order::new(self.trust_domain.as_str(), host, &extension(index), now))
    }

    /// A pulse over one list, number 0.
    pub(crate) fn pulse(&self, seq: u64, basis: UnixMillis, list: &StatusList) -> Pulse {
        let size = u64::try_from(list.size()).unwrap();
        Pulse {
            iss: self.trust_domain.clone(),
            epoch: 1,
            seq,
            basis,
            iat: basis,
            exp: basis.plus(Y_MS),
            lists: vec![ListDigest { n: 0, size, sha256: list.sha256() }],
            checkpoint: PulseCheckpoint { origin: "log".to_owned(), size: 42, root: Sha256Digest([9; 32]) },
        }
    }

    /// What it says of these keys and issuing certificates.
    pub(crate) fn authorities(&self, keys: JwkSet, issuing: &[Vec<u8>], now: UnixMillis) -> Authorities {
        let issuing = issuing.iter().cloned().map(Base64Bytes).collect();
        let roots = vec![Base64Bytes(self.authority.der())];
        Authorities { iss: self.trust_domain.clone(), iat: now, exp: now.plus(600_000), keys, roots, issuing }
    }

    /// The token of such a statement.
    pub(crate) fn authorities_token(&self, authorities: &Authorities) -> String {
        self.key.token(authorities::KIND, &authorities.to_payload())
    }

    /// The token of a pulse.
    pub(crate) fn pulse_token(&self, pulse: &Pulse) -> String {
        self.key.token(pulse::KIND, &pulse.to_payload())
    }

    /// The token of a list.
    pub(crate) fn list_token(&self, list: &StatusList, now: UnixMillis) -> String {
        let claims = StatusListToken {
            sub: "https://broker.test/v1/status-lists/0".to_owned(),
            iat: now.seconds(),
            exp: now.seconds() + 300,
            ttl: 1,
            status_list: list.encode(),
        };
        self.key.token(status_list::KIND, &claims.to_payload())
    }
}
