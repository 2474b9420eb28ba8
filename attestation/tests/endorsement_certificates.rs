//! EK and AK certificates as manufacturers and clouds really write them, and as none may: each is made here octet by
//! octet, since no library makes the odd ones.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../tests/sim/tpm.rs"]
mod sim;

use std::sync::LazyLock;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair as _};
use countersign_attestation::anchor::{Assurance, TpmAnchor};
use countersign_attestation::claims::{TpmIdentity, TpmKind};
use countersign_attestation::endorsement::tpm::{
    certificate_of_nv, verify_ak_certificate, verify_ak_certificate_alone, verify_certificate,
};
use countersign_attestation::evidence::tpm::public::Public;
use countersign_attestation::evidence::tpm::{AttestationKey, possession};
use countersign_attestation::time::UnixMillis;
use sim::{AkKind, CredentialKey, SimManufacturer, SimTpm};

const NOW: UnixMillis = UnixMillis(1_780_000_000_000);

static TPM: LazyLock<SimTpm> = LazyLock::new(|| SimTpm::new(AkKind::P256));

/// A DER element.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut element = vec![tag];
    match content.len() {
        short @ ..0x80 => element.push(u8::try_from(short).unwrap()),
        long => {
            element.push(0x82);
            element.extend(u16::try_from(long).unwrap().to_be_bytes());
            if long < 0x100 {
                element.splice(1..3, [0x81]);
            }
        }
    }
    element.extend(content);
    element
}

const ECDSA_SHA256: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

fn attribute(oid: &[u8], string: u8, text: &[u8]) -> Vec<u8> {
    der(0x30, &[&der(6, &[oid]), &der(string, &[text])])
}

fn common_name(string: u8, text: &str) -> Vec<u8> {
    der(0x30, &[&der(0x31, &[&attribute(&[0x55, 4, 3], string, text.as_bytes())])])
}

/// An extension, with what stands where `critical` does.
fn extension(oid: &[u8], critical: &[u8], value: &[u8]) -> Vec<u8> {
    der(0x30, &[&der(6, &[oid]), critical, &der(4, &[value])])
}

const CRITICAL: &[u8] = &[1, 1, 0xff];
const CRITICAL_FALSE: &[u8] = &[1, 1, 0];

const MANUFACTURER: &[u8] = &[0x67, 0x81, 0x05, 2, 1];
const MODEL: &[u8] = &[0x67, 0x81, 0x05, 2, 2];
const VERSION: &[u8] = &[0x67, 0x81, 0x05, 2, 3];

fn san(rdns: &[Vec<u8>]) -> Vec<u8> {
    let names = rdns.iter().map(Vec::as_slice).collect::<Vec<_>>();
    let general = der(0x30, &[&der(0xa4, &[&der(0x30, &names)])]);
    extension(&[0x55, 0x1d, 17], CRITICAL, &general)
}

fn rdn(attributes: &[Vec<u8>]) -> Vec<u8> {
    der(0x31, &attributes.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn three(string: u8) -> [Vec<u8>; 3] {
    [
        attribute(MANUFACTURER, string, b"id:49465800"),
        attribute(MODEL, string, b"SLB 9672"),
        attribute(VERSION, string, b"id:0f14"),
    ]
}

/// A certificate before it is signed, every part of which a test may change.
struct Draft {
    version: Vec<u8>,
    serial: Vec<u8>,
    inner: Vec<u8>,
    outer: Vec<u8>,
    issuer: Vec<u8>,
    not_after: Vec<u8>,
    spki: Vec<u8>,
    extensions: Vec<Vec<u8>>,
}

const USAGE: usize = 0;
const CONSTRAINTS: usize = 1;
const PURPOSES: usize = 2;
const NAME: usize = 3;

impl Draft {
    fn ek() -> Self {
        let spki = Public::read(TPM.ek_public()).unwrap().spki();
        Self {
            version: vec![0xa0, 3, 2, 1, 2],
            serial: vec![0x2a, 0xa9],
            inner: ECDSA_SHA256.to_vec(),
            outer: ECDSA_SHA256.to_vec(),
            issuer: common_name(0x13, "Odd TPM Root"),
            not_after: der(0x17, &[b"491231235959Z"]),
            spki,
            extensions: vec![
                extension(&[0x55, 0x1d, 15], CRITICAL, &[3, 2, 5, 0x20]),
                extension(&[0x55, 0x1d, 19], CRITICAL, &[0x30, 0]),
                extension(&[0x55, 0x1d, 37], &[], &der(0x30, &[&der(6, &[&[0x67, 0x81, 5, 8, 1]])])),
                san(&three(0x0c).map(|attribute| rdn(&[attribute]))),
            ],
        }
    }

    fn sign(&self, key: &EcdsaKeyPair, subject: &[u8]) -> Vec<u8> {
        let validity = der(0x30, &[&der(0x17, &[b"200101000000Z"]), &self.not_after]);
        let list = self.extensions.iter().map(Vec::as_slice).collect::<Vec<_>>();
        let extensions = if list.is_empty() { Vec::new() } else { der(0xa3, &[&der(0x30, &list)]) };
        let serial = der(2, &[&self.serial]);
        let tbs = der(
            0x30,
            &[&self.version, &serial, &self.inner, &self.issuer, &validity, subject, &self.spki, &extensions],
        );
        let signature = key.sign(&SystemRandom::new(), &tbs).unwrap();
        der(0x30, &[&tbs, &self.outer, &der(3, &[&[0], signature.as_ref()])])
    }
}

struct Manufacturer {
    key: EcdsaKeyPair,
    anchor: TpmAnchor,
}

impl Manufacturer {
    fn new() -> Self {
        let key = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let spki: aws_lc_rs::encoding::PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
        let root = Draft {
            spki: spki.as_ref().to_vec(),
            extensions: vec![extension(&[0x55, 0x1d, 19], CRITICAL, &[0x30, 3, 1, 1, 0xff])],
            ..Draft::ek()
        };
        let root = root.sign(&key, &common_name(0x13, "Odd TPM Root"));
        let anchor = TpmAnchor { name: "odd".into(), assurance: Assurance::Hardware, root, intermediates: Vec::new() };
        Self { key, anchor }
    }

    fn judge_bytes(&self, certificate: &[u8]) -> Result<TpmIdentity, &'static str> {
        verify_certificate(certificate, &[], core::slice::from_ref(&self.anchor), NOW)
            .map(|verified| verified.identity().clone())
            .map_err(|rejection| rejection.code())
    }

    /// What becomes of an EK certificate with this change.
    fn judge(&self, change: impl FnOnce(&mut Draft)) -> Result<TpmIdentity, &'static str> {
        let mut draft = Draft::ek();
        change(&mut draft);
        self.judge_bytes(&draft.sign(&self.key, &[0x30, 0]))
    }
}

#[test]
fn what_genuine_ek_certificates_do_is_accepted() {
    let maker = Manufacturer::new();
    let infineon = TpmIdentity::from_attributes("id:49465800", "SLB 9672", "id:0f14");
    assert_eq!(infineon.kind, TpmKind::Discrete);
    let accepted = |name: &str, change: &dyn Fn(&mut Draft)| {
        assert_eq!(maker.judge(change), Ok(infineon.clone()), "{name}");
    };
    accepted("critical subjectAltName, empty subject", &|_| {});
    accepted("a negative serial", &|draft| draft.serial = vec![0xa1; 8]);
    accepted("a serial of 21 octets", &|draft| draft.serial = vec![0x1a; 21]);
    accepted("an unknown extension", &|draft| draft.extensions.push(extension(&[0x2a, 3], &[], &[5, 0])));
    accepted("an encoded default of critical", &|draft| {
        draft.extensions.push(extension(&[0x2a, 3], CRITICAL_FALSE, &[5, 0]));
    });
    accepted("an encoded default of cA", &|draft| {
        draft.extensions[CONSTRAINTS] = extension(&[0x55, 0x1d, 19], CRITICAL, &[0x30, 3, 1, 1, 0]);
    });
    accepted("no basicConstraints", &|draft| drop(draft.extensions.remove(CONSTRAINTS)));
    accepted("one RDN, its SET OF not sorted", &|draft| {
        let [manufacturer, model, version] = three(0x0c);
        draft.extensions[NAME] = san(&[rdn(&[version, manufacturer, model])]);
    });
    for string in [0x13, 0x14, 0x16] {
        accepted("other string types", &|draft| {
            draft.extensions[NAME] = san(&three(string).map(|attribute| rdn(&[attribute])));
        });
    }
    accepted("other attributes beside the three", &|draft| {
        let mut rdns = three(0x0c).map(|attribute| rdn(&[attribute])).to_vec();
        rdns.insert(1, rdn(&[attribute(&[0x55, 4, 5], 0x13, b"serial")]));
        draft.extensions[NAME] = san(&rdns);
    });
    accepted("critical extKeyUsage with several purposes", &|draft| {
        let purposes = der(0x30, &[&der(6, &[&[0x55, 0x1d, 0x25, 0]]), &der(6, &[&[0x67, 0x81, 5, 8, 1]])]);
        draft.extensions[PURPOSES] = extension(&[0x55, 0x1d, 37], CRITICAL, &purposes);
    });
    accepted("the issuer in another string type", &|draft| draft.issuer = common_name(0x0c, "Odd TPM Root"));
    accepted("no end", &|draft| draft.not_after = der(0x18, &[b"99991231235959Z"]));
    accepted("parameters of ECDSA that are NULL", &|draft| {
        draft.inner = [&[0x30, 12], &ECDSA_SHA256[2..], &[5, 0]].concat();
        draft.outer = draft.inner.clone();
    });
    accepted("an RSA key for OAEP only", &|draft| {
        let at = draft.spki.windows(9).position(|w| w == [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]).unwrap();
        draft.spki[at + 8] = 7;
    });
}

#[test]
fn what_no_ek_certificate_may_be_is_refused_with_its_reason() {
    let maker = Manufacturer::new();
    let refused = |name: &str, code: &'static str, change: &dyn Fn(&mut Draft)| {
        assert_eq!(maker.judge(change), Err(code), "{name}");
    };
    let profile = "tpm.ek.certificate";
    refused("version 1 with extensions", "x509.malformed", &|draft| draft.version.clear());
    refused("version 1", profile, &|draft| {
        draft.version.clear();
        draft.extensions.clear();
    });
    refused("two signature algorithms", "x509.algorithm.mismatch", &|draft| {
        draft.outer = [&[0x30, 12], &ECDSA_SHA256[2..], &[5, 0]].concat();
    });
    refused("an extension twice", "x509.extension.duplicate", &|draft| {
        let usage = draft.extensions[USAGE].clone();
        draft.extensions.push(usage);
    });
    refused("an unknown critical extension", "x509.extension.critical", &|draft| {
        draft.extensions.push(extension(&[0x2a, 3], CRITICAL, &[5, 0]));
    });
    refused("no serial", "x509.malformed", &|draft| draft.serial.clear());
    refused("two manufacturers", profile, &|draft| {
        let mut rdns = three(0x0c).map(|attribute| rdn(&[attribute])).to_vec();
        rdns.push(rdn(&[attribute(MANUFACTURER, 0x0c, b"id:414D4400")]));
        draft.extensions[NAME] = san(&rdns);
    });
    refused("a manufacturer that is no text", profile, &|draft| {
        let [_, model, version] = three(0x0c);
        draft.extensions[NAME] = san(&[rdn(&[attribute(MANUFACTURER, 0x04, b"id:49465800"), model, version])]);
    });
    refused("a model without end", profile, &|draft| {
        let [manufacturer, _, version] = three(0x0c);
        draft.extensions[NAME] = san(&[rdn(&[manufacturer, attribute(MODEL, 0x0c, &[b'm'; 257]), version])]);
    });
    refused("any purpose", profile, &|draft| {
        let any = der(0x30, &[&der(6, &[&[0x55, 0x1d, 0x25, 0]])]);
        draft.extensions[PURPOSES] = extension(&[0x55, 0x1d, 37], &[], &any);
    });
    refused("no purpose", profile, &|draft| drop(draft.extensions.remove(PURPOSES)));
    refused("a key of TPM 1.2's size", profile, &|draft| {
        let key = der(0x30, &[&der(2, &[&[0], &[0xc5; 128]]), &[2, 3, 1, 0, 1]]);
        let algorithm = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
        draft.spki = der(0x30, &[&algorithm, &der(3, &[&[0], &key])]);
    });
    refused("a key that only signs", profile, &|draft| {
        draft.spki = der(0x30, &[&[0x30, 5, 6, 3, 0x2b, 0x65, 0x70], &der(3, &[&[0], &[7; 32]])]);
    });
    refused("another issuer", "x509.path.none", &|draft| draft.issuer = common_name(0x13, "Odd TPM Root 2"));
    refused("past its end", "x509.expired", &|draft| draft.not_after = der(0x17, &[b"210101000000Z"]));
    let mut trailing = Draft::ek().sign(&maker.key, &[0x30, 0]);
    trailing.extend([0; 4]);
    assert_eq!(maker.judge_bytes(&trailing), Err("x509.malformed"), "padding belongs to the NV index alone");
    assert!(maker.judge_bytes(certificate_of_nv(&trailing).unwrap()).is_ok());
    let other = Manufacturer::new();
    assert_eq!(maker.judge_bytes(&Draft::ek().sign(&other.key, &[0x30, 0])), Err("x509.signature"));
}

#[test]
fn an_nv_index_holds_one_certificate_and_padding() {
    let certificate = Draft::ek().sign(&Manufacturer::new().key, &[0x30, 0]);
    let with = |tail: &[u8]| [certificate.as_slice(), tail].concat();
    for tail in [&[][..], &[0; 40], &[0xff; 400], &[0x11; 3], &[7]] {
        assert_eq!(certificate_of_nv(&with(tail)), Ok(certificate.as_slice()));
    }
    for wrong in [with(&[0, 0, 1]), with(&certificate), certificate[..certificate.len() - 1].to_vec(), vec![0; 9]] {
        assert_eq!(certificate_of_nv(&wrong).unwrap_err().code(), "tpm.ek.certificate");
    }
}

const AIK: &[u64] = &[2, 23, 133, 8, 3];

fn ak_certificate(
    maker: &SimManufacturer,
    ak_public: &[u8],
    change: impl FnOnce(&mut rcgen::CertificateParams),
) -> Vec<u8> {
    let spki = Public::read(ak_public).unwrap().spki();
    maker.certificate(&spki, |params| {
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Other(AIK.to_vec())];
        params.custom_extensions.clear();
        change(params);
    })
}

fn custom(oid: &[u64], value: &[u8]) -> rcgen::CustomExtension {
    rcgen::CustomExtension::from_oid_content(oid, value.to_vec())
}

#[test]
fn an_ak_certificate_leads_to_a_root_for_aks_and_speaks_for_the_ak() {
    let maker = SimManufacturer::new();
    let anchors = [maker.anchor()];
    let judge = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let certificate = ak_certificate(&maker, TPM.ak_public(), change);
        verify_ak_certificate(&certificate, TPM.ak_public(), &[], &anchors, NOW)
            .map(|certified| certified.identity().clone())
            .map_err(|rejection| rejection.code())
    };
    let profile = Err("tpm.ak.certificate");
    let unknown = TpmIdentity::unnamed(TpmKind::Unknown);
    assert_eq!(judge(&|_| {}), Ok(unknown.clone()));
    let named = TpmIdentity::from_attributes("id:00001014", "sim", "id:00010001");
    assert_eq!(judge(&|params| params.custom_extensions = vec![sim::subject_alt_name("sim")]), Ok(named));
    let ek = rcgen::ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1]);
    assert_eq!(judge(&|params| params.extended_key_usages = vec![ek.clone()]), profile, "an EK's");
    assert_eq!(judge(&|params| params.extended_key_usages.clear()), profile, "nobody's");
    assert_eq!(judge(&|params| params.key_usages = vec![rcgen::KeyUsagePurpose::KeyEncipherment]), profile);
    assert_eq!(judge(&|params| params.key_usages.push(rcgen::KeyUsagePurpose::KeyCertSign)), profile);
    let authority = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    assert_eq!(judge(&|params| params.is_ca = authority), profile);
    // Google's: an extension of its own instead of a purpose; with another purpose it is for that.
    let instance = || custom(&[1, 3, 6, 1, 4, 1, 11129, 2, 1, 21], &[0x30, 0]);
    let google = judge(&|params| {
        params.extended_key_usages.clear();
        params.custom_extensions = vec![instance()];
    });
    assert_eq!(google.map(|identity| (identity.manufacturer, identity.kind)), Ok(("GOOG".into(), TpmKind::Virtual)));
    let other = judge(&|params| {
        params.extended_key_usages = vec![ek.clone()];
        params.custom_extensions = vec![instance()];
    });
    assert_eq!(other, profile);
    // A manufacturer that says by policy that the key is a restricted one of the TPM.
    let policy = der(0x30, &[&der(0x30, &[&der(6, &[&[0x67, 0x81, 5, 11, 1, 3]])])]);
    let by_policy = judge(&|params| {
        params.extended_key_usages.clear();
        params.custom_extensions = vec![custom(&[2, 5, 29, 32], &policy)];
    });
    assert_eq!(by_policy, Ok(unknown));

    let certificate = ak_certificate(&maker, TPM.ak_public(), |_| {});
    let code = |public: &[u8], anchors: &[TpmAnchor], now: UnixMillis| {
        verify_ak_certificate(&certificate, public, &[], anchors, now).map_or_else(|rejection| rejection.code(), |_| "")
    };
    let stranger = SimTpm::new(AkKind::P256);
    assert_eq!(code(stranger.ak_public(), &anchors, NOW), "tpm.ak.key", "a7: a self-made AK beside a good certificate");
    assert_eq!(code(&CredentialKey::new().public, &anchors, NOW), "tpm.ak.attributes", "an unrestricted key");
    assert_eq!(code(TPM.ak_public(), &[], NOW), "x509.path.none");
    assert_eq!(code(TPM.ak_public(), &[SimManufacturer::new().anchor()], NOW), "x509.signature");
    assert_eq!(code(TPM.ak_public(), &anchors, UnixMillis(0)), "x509.not_yet_valid");
    let alone = verify_ak_certificate_alone(&certificate, &[], &anchors, NOW).unwrap();
    assert_eq!((alone.assurance(), alone.valid_until()), (Assurance::Simulated, UnixMillis(2_524_608_000_000)));
}

#[test]
fn a7_possession_is_a_signature_over_the_nonce_of_the_certified_key() {
    let ak = AttestationKey::from_public(TPM.ak_public()).unwrap();
    let data = [0x5a; 32];
    let selection = [countersign_attestation::protocol::PcrSelection { bank: sim_bank(), pcrs: vec![0] }];
    let quote = TPM.signed(&TPM.quote_attest(&selection, &data));
    let code = |record: &[u8], ak: &AttestationKey, data: &[u8]| {
        possession::verify_quote(record, ak, data).map_or_else(|rejection| rejection.code(), |()| "held")
    };
    assert_eq!(code(&quote, &ak, &data), "held");
    assert_eq!(code(&quote, &ak, &[0; 32]), "binding.qualifying_data");
    let stranger = SimTpm::new(AkKind::P256);
    let other = AttestationKey::from_public(stranger.ak_public()).unwrap();
    assert_eq!(code(&quote, &other, &data), "tpm.signature.invalid");
    assert_eq!(code(&[quote.as_slice(), &[0]].concat(), &ak, &data), "tpm.malformed");
    assert_eq!(code(&quote[..quote.len() - 1], &ak, &data), "tpm.malformed");

    // Here TPM's AK is the IAK, and the stranger's the AK it certifies.
    let certified = TPM.signed(&TPM.certify_attest(other.name(), &data));
    let code = |record: &[u8], iak: &AttestationKey, certified: &AttestationKey| {
        possession::verify_certified_ak(record, iak, certified, &data)
            .map_or_else(|rejection| rejection.code(), |()| "certified")
    };
    assert_eq!(code(&certified, &ak, &other), "certified");
    assert_eq!(code(&certified, &ak, &ak), "tpm.certify.name");
    assert_eq!(code(&certified, &other, &other), "tpm.signature.invalid");
    assert_eq!(code(&quote, &ak, &other), "tpm.attest.type");
    assert_eq!(possession::verify_quote(&certified, &ak, &data).unwrap_err().code(), "tpm.attest.type");
    let late = possession::verify_certified_ak(&certified, &ak, &other, &[0; 32]);
    assert_eq!(late.unwrap_err().code(), "binding.qualifying_data");
}

const fn sim_bank() -> countersign_attestation::claims::PcrHash {
    countersign_attestation::claims::PcrHash::Sha256
}
