//! A root that is never on the broker's machine: the broker asks with a request, whoever holds the root answers with an
//! issuing certificate on a machine of its own, and the broker takes that after checking it.

use std::path::Path;

use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::result::svid::{TrustDomain, check_issuing};
use countersign_attestation::x509::{Certificate, oid};
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, SubjectPublicKeyInfo};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use super::pkcs11::Uri;
use super::signing::SigningKey;
use super::workload::{Workload, certify};
use super::{KeyError, certificate_der, not_signed, root_params, unusable};
use crate::config::{AuthoritySettings, NameConstraints, write_new};

/// Our requests have some 300 bytes.
const REQUEST_BYTES_MAX: usize = 4096;

/// Makes a root in a folder of the machine that keeps it: `root.key.pem`, which holds the key or names one in a token,
/// and `root.pem`.
///
/// # Errors
/// [`KeyError`] when a file exists already or cannot be written.
pub fn create_root(
    folder: &Path,
    trust_domain: &TrustDomain,
    key: Option<&Uri>,
    now: UnixMillis,
) -> Result<(), KeyError> {
    let key = SigningKey::create(&folder.join("root.key.pem"), key)?;
    let root = root_params(&format!("{trust_domain} workloads"), 1, now)?.self_signed(&key).map_err(not_signed)?;
    Ok(write_new(&folder.join("root.pem"), root.pem().as_bytes())?)
}

/// Whether a certificate can be the root of a workload authority.
///
/// # Errors
/// [`KeyError`] names what is wrong.
pub fn check_root(pem: &str, now: UnixMillis) -> Result<(), KeyError> {
    let der = certificate_der(pem).map_err(unusable("read a CA root"))?;
    let check = || {
        let root = Certificate::parse(&der)?;
        root.check_valid_at(now)?;
        root.check_issued_by(&root)
    };
    check().map_err(unusable("read a CA root"))
}

/// A request that was checked: what whoever signs it should see.
#[derive(Clone, Debug)]
pub struct Request {
    /// SHA-256 of the key, `SubjectPublicKeyInfo`.
    pub key: Sha256Digest,
    spki: Vec<u8>,
}

impl Request {
    /// The request for a key, PEM.
    pub(super) fn write(trust_domain: &TrustDomain, key: &SigningKey) -> Result<String, KeyError> {
        let request = request_params(trust_domain).serialize_request(key).map_err(not_signed)?;
        request.pem().map_err(unusable("write a request"))
    }

    /// Reads a request for the next issuing key of a trust domain. One with another name, or with anything that is
    /// asked for beside, is refused: what a certificate says is decided by whoever signs it.
    ///
    /// # Errors
    /// [`KeyError`] names what is wrong.
    pub fn read(pem: &str, trust_domain: &TrustDomain) -> Result<Self, KeyError> {
        use rustls_pki_types::pem::PemObject as _;
        let refused = unusable::<String>("read a request");
        let der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes());
        let der = der.map_err(|error| refused(error.to_string()))?;
        if REQUEST_BYTES_MAX < der.len() {
            return Err(refused(format!("it has {} bytes", der.len())));
        }
        let (rest, request) = X509CertificationRequest::from_der(&der)
            .map_err(|error| refused(format!("no PKCS#10 request: {error}")))?;
        let info = &request.certification_request_info;
        // As this program writes it, and so without any attribute.
        let subject = request_subject(trust_domain)?;
        if !rest.is_empty() || info.subject.as_raw() != subject || info.iter_attributes().next().is_some() {
            let found = format!("it is of {} and asks for more than {trust_domain} issuing", info.subject);
            return Err(refused(found));
        }
        let spki = info.subject_pki.raw.to_vec();
        // Whoever asks holds the key.
        let key = SubjectPublicKeyInfo::from_der(&spki).map_err(|error| refused(error.to_string()))?;
        if rcgen::PublicKeyData::algorithm(&key) != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(refused("its key is not a P-256 key".to_owned()));
        }
        request.verify_signature().map_err(|error| refused(format!("its signature does not verify: {error}")))?;
        Ok(Self { key: Sha256Digest::of(&[&spki]), spki })
    }

    /// The issuing certificate for the request, PEM. It ends with the root at the latest.
    ///
    /// # Errors
    /// [`KeyError`] when the root's certificate and key do not belong together, or nothing could be signed.
    pub fn sign(
        &self,
        trust_domain: &TrustDomain,
        root_pem: &str,
        root_key: SigningKey,
        settings: &AuthoritySettings,
        now: UnixMillis,
    ) -> Result<String, KeyError> {
        check_root(root_pem, now)?;
        let der = certificate_der(root_pem).map_err(unusable("read a CA root"))?;
        let root = Certificate::parse(&der).map_err(unusable("read a CA root"))?;
        if root.spki() != rcgen::PublicKeyData::subject_public_key_info(&root_key) {
            return Err(unusable("sign a request")("the root's certificate is for another key"));
        }
        let issuer = Issuer::from_ca_cert_pem(root_pem, root_key).map_err(unusable("read a CA root"))?;
        certify(trust_domain, settings, &self.spki, (&issuer, root.not_after()), now)
    }
}

fn request_params(trust_domain: &TrustDomain) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Countersign");
    params.distinguished_name.push(DnType::CommonName, format!("{trust_domain} issuing"));
    params
}

/// The subject as our own requests encode it, read from one.
fn request_subject(trust_domain: &TrustDomain) -> Result<Vec<u8>, KeyError> {
    let key = rcgen::KeyPair::generate().map_err(unusable("read a request"))?;
    let request = request_params(trust_domain).serialize_request(&key).map_err(unusable("read a request"))?;
    let (_, read) = X509CertificationRequest::from_der(request.der()).map_err(unusable("read a request"))?;
    Ok(read.certification_request_info.subject.as_raw().to_vec())
}

impl Workload {
    /// The request for the next issuing key, PEM. The key is made, unless one waits for its certificate already.
    ///
    /// # Errors
    /// [`KeyError`], also where the root is here and makes issuing keys by itself.
    pub fn request(&self, now: UnixMillis) -> Result<String, KeyError> {
        if self.has_root(now) {
            return Err(unusable("write a request")(
                "the root is on this machine, and renews the issuing key by itself",
            ));
        }
        let key = match self.waiting()?.pop() {
            Some((_, key)) => key,
            None => self.make_key(now)?.1,
        };
        Request::write(self.trust_domain(), &key)
    }

    /// Takes the certificate for a key that was asked for. A running broker uses it within a second, after the overlap.
    ///
    /// # Errors
    /// [`KeyError`] when it is not for a key that waits, not under the root, not of the trust domain, or not of now.
    pub fn install(&self, pem: &str, now: UnixMillis) -> Result<(), KeyError> {
        let refused = unusable::<String>("install an issuing certificate");
        let der = certificate_der(pem).map_err(&refused)?;
        check_issuing(&der, &self.roots(), self.trust_domain(), now).map_err(|error| refused(error.to_string()))?;
        let certificate = Certificate::parse(&der).map_err(|error| refused(error.to_string()))?;
        let constrained = certificate.extension(oid::NAME_CONSTRAINTS).is_some();
        if !constrained && self.settings().name_constraints == NameConstraints::Uri {
            return Err(refused("it has no name constraints, and the settings demand them".to_owned()));
        }
        let spki = certificate.spki();
        let waiting = self.waiting()?.into_iter();
        let mut of_key = waiting.filter(|(_, key)| rcgen::PublicKeyData::subject_public_key_info(key) == spki);
        let (made, _) =
            of_key.next().ok_or_else(|| refused("no key waits for it: run `countersign ca request`".to_owned()))?;
        self.place_certificate(made, pem)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use countersign_attestation::UnixMillis;
    use countersign_attestation::result::svid::TrustDomain;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::{Request, create_root, request_params};
    use crate::config::{AuthoritySettings, DataDir, NameConstraints};
    use crate::keys::signing::SigningKey;
    use crate::keys::workload::Workload;
    use crate::keys::{KeyError, Keys, Places, Root};

    const START: UnixMillis = UnixMillis(1_800_000_000_000);

    fn domain() -> TrustDomain {
        TrustDomain::parse("fleet.example").unwrap()
    }

    fn root(folder: &Path) -> (String, SigningKey) {
        let pem = std::fs::read_to_string(folder.join("root.pem")).unwrap();
        (pem, SigningKey::load(&folder.join("root.key.pem")).unwrap())
    }

    /// The machine with the root, and the broker's.
    fn machines() -> (tempfile::TempDir, tempfile::TempDir, Workload) {
        let (offline, broker) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        create_root(offline.path(), &domain(), None, START).unwrap();
        let places = Places { root: Root::Elsewhere(root(offline.path()).0), token: None };
        Keys::create(&DataDir::at(broker.path()), "fleet.example", &places, START).unwrap();
        let workload = open(broker.path());
        (offline, broker, workload)
    }

    fn open(dir: &Path) -> Workload {
        Workload::load(&DataDir::at(dir), &domain(), &AuthoritySettings::default()).unwrap()
    }

    fn sign(folder: &Path, request: &str, settings: &AuthoritySettings) -> Result<String, KeyError> {
        let (pem, key) = root(folder);
        Request::read(request, &domain())?.sign(&domain(), &pem, key, settings, START)
    }

    #[test]
    fn the_broker_asks_the_root_answers_and_the_broker_takes_it() {
        let (offline, broker, workload) = machines();
        assert!(!broker.path().join("keys/workload-ca.key.pem").exists(), "the root's key was never here");
        assert!(!workload.tick(START).unwrap(), "nothing makes a key that nobody signs");
        assert!(workload.is_due(START) && workload.active(START).is_err());
        let request = workload.request(START).unwrap();
        let asked_again = workload.request(START.plus(1000)).unwrap();
        let key = |request: &str| Request::read(request, &domain()).unwrap().key;
        assert_eq!(key(&asked_again), key(&request), "one key, however often it is asked for");
        let settings = AuthoritySettings { issuing_life_ms: 30 * 86_400_000, ..AuthoritySettings::default() };
        let certificate = sign(offline.path(), &request, &settings).unwrap();
        // Another process installs it while the broker runs.
        open(broker.path()).install(&certificate, START).unwrap();
        assert!(workload.tick(START).unwrap());
        assert_eq!(workload.active(START).unwrap().not_after(), START.plus(30 * 86_400_000));
        assert!(!workload.is_due(START));
        assert!(workload.install(&certificate, START).is_err(), "no key waits for it any more");
        // The next one in its turn, while the first signs.
        let next = workload.request(START.plus(1)).unwrap();
        assert_ne!(key(&next), key(&request));
        workload.tick(START.plus(2)).unwrap();
        assert_eq!(key(&workload.request(START.plus(3)).unwrap()), key(&next), "it waits for its certificate");
    }

    #[test]
    fn only_an_issuing_request_of_the_trust_domain_is_signed() {
        let pem = |params: CertificateParams, key: &KeyPair| params.serialize_request(key).unwrap().pem().unwrap();
        let key = KeyPair::generate().unwrap();
        let read = |pem: &str| Request::read(pem, &domain()).map(drop).map_err(|error| error.to_string());
        let sound = pem(request_params(&domain()), &key);
        assert_eq!(read(&sound), Ok(()));
        let other = request_params(&TrustDomain::parse("other.example").unwrap());
        assert!(read(&pem(other, &key)).unwrap_err().contains("other.example"));
        let mut more = request_params(&domain());
        more.subject_alt_names.push(SanType::URI("spiffe://fleet.example/host/a".try_into().unwrap()));
        assert!(read(&pem(more, &key)).is_err(), "it asks for a name");
        let mut authority = request_params(&domain());
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        assert!(read(&pem(authority, &key)).is_err(), "it asks to be an authority");
        let mut longer = request_params(&domain());
        longer.distinguished_name.push(DnType::OrganizationalUnitName, "x");
        assert!(read(&pem(longer, &key)).is_err());
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert!(read(&pem(request_params(&domain()), &p384)).unwrap_err().contains("P-256"));
        // Somebody else's key in a request that another key signed.
        let mut der = request_params(&domain()).serialize_request(&key).unwrap().der().to_vec();
        let last = der.len() - 1;
        der[last] ^= 1;
        let forged = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
        let forged = format!("-----BEGIN CERTIFICATE REQUEST-----\n{forged}\n-----END CERTIFICATE REQUEST-----\n");
        assert!(read(&forged).unwrap_err().contains("signature"), "{:?}", read(&forged));
        assert!(read("").is_err() && read(&sound.replace("REQUEST", "CERTIFICATE")).is_err());
    }

    #[test]
    fn only_what_was_asked_for_under_the_root_is_installed() {
        let (offline, broker, workload) = machines();
        let (stranger, _folder, other) = machines();
        let request = workload.request(START).unwrap();
        let settings = AuthoritySettings::default();
        let install = |pem: &str| workload.install(pem, START).map_err(|error| error.to_string());
        let foreign = sign(stranger.path(), &request, &settings).unwrap();
        assert!(install(&foreign).unwrap_err().contains("x509."), "under another root");
        let others = sign(offline.path(), &other.request(START).unwrap(), &settings).unwrap();
        assert!(install(&others).unwrap_err().contains("no key waits"));
        let free = AuthoritySettings { name_constraints: NameConstraints::None, ..settings.clone() };
        let unconstrained = sign(offline.path(), &request, &free).unwrap();
        assert!(install(&unconstrained).unwrap_err().contains("name constraints"));
        let sound = sign(offline.path(), &request, &settings).unwrap();
        assert!(workload.install(&sound, START.plus(8 * 86_400_000)).is_err(), "it has ended");
        assert!(install(&root(offline.path()).0).is_err(), "the root itself");
        assert_eq!(install(&sound), Ok(()));
        // The root's certificate and another root's key.
        let (pem, key) = (root(offline.path()).0, root(stranger.path()).1);
        let mixed = Request::read(&request, &domain()).unwrap().sign(&domain(), &pem, key, &settings, START);
        assert!(mixed.unwrap_err().to_string().contains("another key"));
        // Where the root is here, nobody is asked.
        std::fs::copy(offline.path().join("root.key.pem"), broker.path().join("keys/workload-ca.key.pem")).unwrap();
        assert!(open(broker.path()).request(START).is_err());
    }
}
