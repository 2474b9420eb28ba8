//! What the broker signs for relying parties, made with software keys and read back; every departure has its code.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use countersign_attestation::anchor::Assurance;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::pulse::{self, ListDigest, Pulse};
use countersign_attestation::result::ear::{
    self, Confirmation, Ear, StatusClaim, StatusReference, Submodule, Tier, TrustVector, VerifierId,
};
use countersign_attestation::result::jws::{self, JwkSet, Kind, Thumbprint};
use countersign_attestation::result::svid::{
    CredentialExtension, EXTENSION_OID, ExecutionCredential, KeyProtection, SpiffeId, TrustDomain,
};
use countersign_attestation::status_list::{self, Status, StatusList, StatusListClaim, StatusListToken};
use countersign_attestation::{Rejection, UnixMillis};
use proptest::prelude::*;
use serde_json::{Value, json};

#[path = "../../tests/sim/issuer.rs"]
mod issuer;
use issuer::{Authority, AuthorityOrder, Issuer, Order, TokenKey, Y_MS, extension};

const NOW: UnixMillis = UnixMillis(1_795_408_496_007);
const DOMAIN: &str = "fleet.test";

fn code<T>(result: Result<T, Rejection>) -> Result<T, &'static str> {
    result.map_err(|rejection| rejection.code())
}

fn domain() -> TrustDomain {
    TrustDomain::parse(DOMAIN).unwrap()
}

fn spki_thumbprint(spki: &[u8]) -> Thumbprint {
    Thumbprint::of_spki(spki).unwrap()
}

// ---------------------------------------------------------------- tokens

fn b64(bytes: impl AsRef<[u8]>) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn pulse_with_header(issuer: &Issuer, header: &str) -> Result<(), &'static str> {
    let payload = issuer.pulse(1, NOW, &StatusList::new()).to_payload();
    let input = format!("{}.{}", b64(header), b64(payload));
    let token = jws::compact(&input, &issuer.key.sign(input.as_bytes()));
    code(Pulse::verify(&token, &issuer.keys(), &domain(), NOW)).map(|_| ())
}

#[test]
fn e10_only_es256_by_a_pinned_key_of_the_expected_kind_is_read() {
    let issuer = Issuer::new(DOMAIN);
    let kid = issuer.key.jwk().kid().to_owned();
    let header = |alg: &str, kid: &str, typ: &str| json!({"alg": alg, "kid": kid, "typ": typ}).to_string();
    let typ = pulse::KIND.typ;
    assert_eq!(pulse_with_header(&issuer, &header("ES256", &kid, typ)), Ok(()));
    for algorithm in ["none", "None", "HS256", "ES384", "RS256", "es256", ""] {
        assert_eq!(pulse_with_header(&issuer, &header(algorithm, &kid, typ)), Err("result.token.algorithm"));
    }
    for other in ["", "../../etc/passwd", "..%2f", "https://evil.test/key", &format!("{kid} "), &kid.to_uppercase()] {
        assert_eq!(pulse_with_header(&issuer, &header("ES256", other, typ)), Err("result.token.unknown_key"));
    }
    for other in ["JWT", "statuslist+jwt", "", "COUNTERSIGN-PULSE+JWT"] {
        assert_eq!(pulse_with_header(&issuer, &header("ES256", &kid, other)), Err("result.token.type"));
    }
    let jwk: Value = serde_json::from_str(&issuer.keys().to_json()).unwrap();
    for extra in [
        json!({"jwk": jwk["keys"][0]}),
        json!({"jku": "https://evil.test"}),
        json!({"x5c": []}),
        json!({"crit": ["exp"]}),
        json!({"b64": false}),
    ] {
        let mut header = json!({"alg": "ES256", "kid": kid, "typ": typ});
        header.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        assert_eq!(pulse_with_header(&issuer, &header.to_string()), Err("result.token.header"), "{extra}");
    }
    let twice = format!(r#"{{"alg":"ES256","alg":"ES256","kid":"{kid}","typ":"{typ}"}}"#);
    assert_eq!(pulse_with_header(&issuer, &twice), Err("result.token.header"));
    assert_eq!(pulse_with_header(&issuer, r#"{"alg":"ES256"}"#), Err("result.token.header"));
    let long = format!("{}{}", header("ES256", &kid, typ), " ".repeat(600));
    assert_eq!(pulse_with_header(&issuer, &long), Err("result.token.header"));
}

#[test]
fn a_token_has_one_form() {
    let issuer = Issuer::new(DOMAIN);
    let token = issuer.pulse_token(&issuer.pulse(1, NOW, &StatusList::new()));
    let read = |token: &str| code(Pulse::verify(token, &issuer.keys(), &domain(), NOW)).map(|_| ());
    assert_eq!(read(&token), Ok(()));
    let parts: Vec<&str> = token.split('.').collect();
    for bad in [
        String::new(),
        "a".to_owned(),
        "a.b".to_owned(),
        format!("{token}.x"),
        format!("{token}="),
        format!("{token} "),
        format!("{}.{}.{}+", parts[0], parts[1], parts[2]),
        format!("{}=.{}.{}", parts[0], parts[1], parts[2]),
        format!("{}.{}.{}", parts[0].replace('e', "\n"), parts[1], parts[2]),
    ] {
        assert_eq!(read(&bad), Err("result.token.form"), "{bad}");
    }
    // 64 bytes leave four bits in the last of 86 characters: set, they would be a second text of one signature.
    let last = token.chars().last().unwrap();
    let sibling = ALPHABET.chars().nth(ALPHABET.find(last).unwrap() + 1).unwrap();
    let sibling = format!("{}{sibling}", token.strip_suffix(last).unwrap());
    assert_eq!(read(&sibling), Err("result.token.form"));
    // Even if the broker signed four parts, three are the form.
    let four = format!("{}.{}.{}", parts[0], parts[1], parts[1]);
    assert_eq!(read(&jws::compact(&four, &issuer.key.sign(four.as_bytes()))), Err("result.token.form"));
    assert_eq!(read(&"a".repeat(pulse::KIND.bytes_max + 1)), Err("result.token.too_large"));
}

const THUMBPRINT: &str = "kOFKxjJdOqJD5G4Yuw-cxHe64VGyxKEO_hoV83QfGj0";
const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

#[test]
fn any_changed_byte_and_any_other_key_is_refused() {
    let issuer = Issuer::new(DOMAIN);
    let token = issuer.pulse_token(&issuer.pulse(1, NOW, &StatusList::new()));
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(Pulse::verify(&changed, &issuer.keys(), &domain(), NOW).is_err(), "byte {at}");
    }
    let other = Issuer::new(DOMAIN);
    let keys = other.keys();
    assert_eq!(code(Pulse::verify(&token, &keys, &domain(), NOW)).map(|_| ()), Err("result.token.unknown_key"));
    // The right id, another key: what a forged token names is not what verifies it.
    let mut document: Value = serde_json::from_str(&keys.to_json()).unwrap();
    document["keys"][0]["kid"] = issuer.key.jwk().kid().into();
    let keys = JwkSet::parse(document.to_string().as_bytes()).unwrap();
    assert_eq!(code(Pulse::verify(&token, &keys, &domain(), NOW)).map(|_| ()), Err("result.token.signature"));
}

#[test]
fn key_sets_are_read_whole_or_not_at_all() {
    let (one, two) = (TokenKey::new().jwk(), TokenKey::new().jwk());
    let set = JwkSet::new([one.clone(), two]);
    assert_eq!(JwkSet::parse(set.to_json().as_bytes()), Ok(set.clone()));
    assert_eq!(set.kids().count(), 2);
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut document: Value = serde_json::from_str(&set.to_json()).unwrap();
        change(&mut document);
        assert_eq!(code(JwkSet::parse(document.to_string().as_bytes())), Err("result.keys.malformed"), "{document}");
    };
    for (member, value) in [
        ("kty", "RSA"),
        ("crv", "P-384"),
        ("use", "enc"),
        ("use", "jwt-svid"),
        ("alg", "HS256"),
        ("x", "AAAA"),
        ("y", "="),
        ("kid", ""),
        ("d", "AAAA"),
        ("k", "AAAA"),
    ] {
        refused(&|document| document["keys"][1][member] = value.into());
    }
    refused(&|document| document["keys"][0]["kid"] = document["keys"][1]["kid"].clone());
    refused(&|document| drop(document["keys"][0].as_object_mut().unwrap().remove("kid")));
    refused(&|document| document["keys"] = json!([]));
    refused(&|document| document["extra"] = json!(1));
    refused(&|document| document["keys"] = Value::from(vec![document["keys"][0].clone(); 33]));
    assert_eq!(code(JwkSet::parse(&vec![b' '; 40_000])), Err("result.keys.malformed"));
}

#[test]
fn thumbprints_are_rfc_7638() {
    // Computed with Python's hashlib over the members in order, without white space.
    let point = [vec![4_u8], vec![1; 32], vec![2; 32]].concat();
    let thumbprint = Thumbprint::of_point(&point).unwrap();
    assert_eq!(thumbprint.to_string(), THUMBPRINT);
    let issuer = Issuer::new(DOMAIN);
    let svid = issuer.svid("gpu-1", 0, NOW);
    let point = &svid.spki[26..];
    assert_eq!(Thumbprint::of_spki(&svid.spki), Thumbprint::of_point(point));
    assert_eq!(Thumbprint::of_spki(&svid.spki[1..]), None);
    assert_eq!(Thumbprint::of_point(&[3; 33]), None);
    assert_eq!(Thumbprint::of_point(&[4; 64]), None);
}

// ---------------------------------------------------------------- EAR

fn sound_ear(holder: &Thumbprint) -> Ear {
    let vector = TrustVector {
        instance_identity: Some(2),
        configuration: Some(2),
        executables: Some(3),
        hardware: Some(2),
        ..TrustVector::default()
    };
    Ear {
        eat_profile: ear::PROFILE.to_owned(),
        iss: domain(),
        sub: SpiffeId::parse("spiffe://fleet.test/host/gpu-1").unwrap(),
        iat: NOW.seconds(),
        exp: NOW.seconds() + 300,
        jti: Sha256Digest([7; 32]),
        cnf: Confirmation { jkt: holder.to_string() },
        ear_verifier_id: VerifierId { developer: "https://countersign.dev".to_owned(), build: "0.1.0".to_owned() },
        submods: [("tpm".to_owned(), Submodule::new(vector))].into(),
        status: StatusClaim {
            status_list: StatusReference { idx: 5, uri: "https://broker.test/v1/status-lists/0".to_owned() },
        },
        assurance: Assurance::Hardware,
        generation: 1,
        log_index: 41,
        waivers: Vec::new(),
    }
}

struct EarCase {
    key: TokenKey,
    holder: Thumbprint,
}

impl EarCase {
    fn new() -> Self {
        let spki = Issuer::new(DOMAIN).svid("gpu-1", 0, NOW).spki;
        Self { key: TokenKey::new(), holder: spki_thumbprint(&spki) }
    }

    fn read(&self, payload: &[u8], now: UnixMillis) -> Result<Ear, &'static str> {
        let token = self.key.token(ear::KIND, payload);
        let keys = JwkSet::new([self.key.jwk()]);
        code(Ear::verify(&token, &keys, &domain(), &self.holder, now)).map(|ear| ear.into_inner())
    }

    fn changed(&self, change: impl Fn(&mut Ear)) -> Result<Ear, &'static str> {
        let mut ear = sound_ear(&self.holder);
        change(&mut ear);
        self.read(&ear.to_payload(), NOW)
    }
}

#[test]
fn e10_every_claim_of_an_ear_is_required_and_none_other_is_read() {
    let case = EarCase::new();
    let ear = sound_ear(&case.holder);
    assert_eq!(case.read(&ear.to_payload(), NOW), Ok(ear.clone()));
    let document: Value = serde_json::from_slice(&ear.to_payload()).unwrap();
    for claim in document.as_object().unwrap().keys() {
        for value in [None, Some(Value::Null), Some(json!([]))] {
            let mut changed = document.clone();
            let members = changed.as_object_mut().unwrap();
            match &value {
                None => drop(members.remove(claim)),
                Some(value) => drop(members.insert(claim.clone(), value.clone())),
            }
            let read = case.read(changed.to_string().as_bytes(), NOW);
            assert_eq!(read, Err("result.token.payload"), "{claim} = {value:?}");
        }
    }
    for extra in ["aud", "nbf", "ear_status", "ear.status", "eat_nonce"] {
        let mut changed = document.clone();
        changed[extra] = json!("affirming");
        assert_eq!(case.read(changed.to_string().as_bytes(), NOW), Err("result.token.payload"), "{extra}");
    }
    let text = document.to_string();
    let twice = text.replacen('{', &format!(r#"{{"exp":{},"#, NOW.seconds() + 9000), 1);
    assert_eq!(case.read(twice.as_bytes(), NOW), Err("result.token.payload"));
}

#[test]
fn e5_an_ear_is_bound_to_its_key_and_its_time() {
    let case = EarCase::new();
    let payload = sound_ear(&case.holder).to_payload();
    let other = EarCase { key: TokenKey::new(), holder: spki_thumbprint(&Issuer::new(DOMAIN).svid("x", 0, NOW).spki) };
    assert_eq!(other.read(&payload, NOW), Err("result.ear.holder"));
    let issued = NOW.seconds() * 1000;
    for (now, expected) in [
        (issued - 60_000, Err("result.ear.not_yet_issued")),
        (issued - 1_001, Err("result.ear.not_yet_issued")),
        (issued - 1_000, Ok(())),
        (issued + 299_999, Ok(())),
        (issued + 300_000, Err("result.ear.expired")),
        (issued + 301_000, Err("result.ear.expired")),
        (issued + 360_000, Err("result.ear.expired")),
    ] {
        assert_eq!(case.read(&payload, UnixMillis(now)).map(|_| ()), expected, "at {}", now);
    }
}

#[test]
fn an_ear_of_another_profile_issuer_or_status_is_refused() {
    let case = EarCase::new();
    let changed = |change: &dyn Fn(&mut Ear)| case.changed(change).map(|_| ());
    let veraison = "tag:github.com,2023:veraison/ear";
    assert_eq!(changed(&|ear| ear.eat_profile = veraison.to_owned()), Err("result.ear.profile"));
    let other = TrustDomain::parse("other.test").unwrap();
    assert_eq!(changed(&|ear| ear.iss = other.clone()), Err("result.ear.issuer"));
    let foreign = SpiffeId::parse("spiffe://other.test/host/gpu-1").unwrap();
    assert_eq!(changed(&|ear| ear.sub = foreign.clone()), Err("result.ear.issuer"));
    assert_eq!(changed(&|ear| ear.submods.clear()), Err("result.ear.status"));
    let warning = TrustVector { executables: Some(33), ..TrustVector::default() };
    let status = |tier| {
        let warning = warning.clone();
        move |ear: &mut Ear| {
            let submodule = Submodule { ear_status: tier, ear_trustworthiness_vector: warning.clone() };
            ear.submods.insert("snp".to_owned(), submodule);
        }
    };
    assert_eq!(changed(&status(Tier::Warning)), Ok(()));
    for contradiction in [Tier::Affirming, Tier::None, Tier::Contraindicated] {
        assert_eq!(changed(&status(contradiction)), Err("result.ear.status"));
    }
}

#[test]
fn tiers_end_where_ar4si_ends_them() {
    let tier = |claim| TrustVector { hardware: Some(claim), ..TrustVector::default() }.tier();
    for (claims, expected) in [
        (&[0, 1, -1][..], Tier::None),
        (&[2, 31, -2, -32], Tier::Affirming),
        (&[32, 95, -33, -96], Tier::Warning),
        (&[96, 127, -97, -128], Tier::Contraindicated),
    ] {
        for claim in claims {
            assert_eq!(tier(*claim), expected, "{claim}");
        }
    }
    assert_eq!(TrustVector::default().tier(), Tier::None);
    let mixed = TrustVector { hardware: Some(2), executables: Some(99), ..TrustVector::default() };
    assert_eq!(mixed.tier(), Tier::Contraindicated);
}

// ---------------------------------------------------------------- X.509-SVID

fn verify(chain: &[&[u8]], root: &Authority) -> Result<ExecutionCredential, &'static str> {
    code(ExecutionCredential::verify(chain, &[root.der()], &domain(), NOW))
}

fn sound_order() -> Order {
    Order::new(DOMAIN, "gpu-1", &extension(5), NOW)
}

#[test]
fn a_credential_says_what_was_issued() {
    let issuer = Issuer::new(DOMAIN);
    let svid = issuer.svid("gpu-1", 5, NOW);
    let credential = verify(&[&svid.der], &issuer.authority).unwrap();
    assert_eq!(credential.spiffe_id().to_string(), "spiffe://fleet.test/host/gpu-1");
    assert_eq!((credential.host().as_str(), credential.trust_domain()), ("gpu-1", &domain()));
    assert_eq!((credential.status_list(), credential.status_index(), credential.generation()), (0, 5, 1));
    assert_eq!((credential.decision(), credential.log_index()), (Sha256Digest([7; 32]), 41));
    assert_eq!(credential.assurance(), Assurance::Simulated);
    assert_eq!(credential.key(), Sha256Digest::of(&[&svid.spki]));
    assert_eq!(credential.not_after().seconds(), NOW.seconds() + 300);
    assert_eq!(credential.not_before().seconds(), NOW.seconds() - 60);
    assert_eq!(credential.valid_until(), credential.not_after());
    assert!(!credential.serial().0.is_empty());
}

#[test]
fn a_leaf_outside_the_profile_is_refused() {
    use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose as Eku, IsCa, KeyUsagePurpose as Ku};
    let root = Authority::root(AuthorityOrder::new("Workload CA"));
    let issue = |change: &dyn Fn(&mut Order)| {
        let mut order = sound_order();
        change(&mut order);
        verify(&[&root.issue(&order).der], &root).map(|_| ())
    };
    assert_eq!(issue(&|_| ()), Ok(()));
    assert_eq!(issue(&|order| order.is_ca = IsCa::NoCa), Ok(()));
    let id = "result.svid.spiffe_id";
    for uri in [
        "spiffe://fleet.test/host/",
        "spiffe://fleet.test/host",
        "spiffe://fleet.test",
        "spiffe://fleet.test/workload/gpu-1",
        "spiffe://fleet.test/host/gpu-1/x",
        "spiffe://fleet.test//host/gpu-1",
        "spiffe://fleet.test/host/..",
        "spiffe://fleet.test/host/gpu-1?x",
        "spiffe://fleet.test:443/host/gpu-1",
        "spiffe://Fleet.test/host/gpu-1",
        "spiffe:///host/gpu-1",
        "SPIFFE://fleet.test/host/gpu-1",
        "https://fleet.test/host/gpu-1",
    ] {
        assert_eq!(issue(&|order| order.uris = vec![uri.to_owned()]), Err(id), "{uri}");
    }
    assert_eq!(issue(&|order| order.uris.clear()), Err(id));
    assert_eq!(issue(&|order| order.uris.push("spiffe://fleet.test/host/gpu-2".to_owned())), Err(id));
    let foreign = |order: &mut Order| order.uris = vec!["spiffe://other.test/host/gpu-1".to_owned()];
    assert_eq!(issue(&foreign), Err("result.svid.trust_domain"));
    let profile = Err("result.svid.profile");
    assert_eq!(issue(&|order| order.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), profile);
    assert_eq!(issue(&|order| order.key_usages.clear()), profile);
    assert_eq!(issue(&|order| order.key_usages = vec![Ku::KeyEncipherment]), profile);
    assert_eq!(issue(&|order| order.key_usages.push(Ku::KeyCertSign)), profile);
    assert_eq!(issue(&|order| order.key_usages.push(Ku::CrlSign)), profile);
    for usages in [vec![], vec![Eku::ClientAuth], vec![Eku::ServerAuth], vec![Eku::Any]] {
        assert_eq!(issue(&|order| order.extended_key_usages.clone_from(&usages)), profile, "{usages:?}");
    }
    assert_eq!(issue(&|order| order.extensions.clear()), Err("result.svid.extension.missing"));
    let twice = |order: &mut Order| order.extensions = vec![extension(5).encode(), extension(6).encode()];
    assert_eq!(issue(&twice), Err("x509.extension.duplicate"));
    let broken = |order: &mut Order| order.extensions = vec![vec![0x30, 0]];
    assert_eq!(issue(&broken), Err("result.svid.extension.malformed"));
    assert_eq!(issue(&|order| order.critical = true), Err("x509.extension.critical"));
}

#[test]
fn dates_are_strict_on_the_whole_path() {
    let root = Authority::root(AuthorityOrder::new("Workload CA"));
    let svid = root.issue(&sound_order());
    let at = |now| code(ExecutionCredential::verify(&[&svid.der], &[root.der()], &domain(), now)).map(|_| ());
    let (from, to) = ((NOW.seconds() - 60) * 1000, (NOW.seconds() + 300) * 1000);
    assert_eq!(at(UnixMillis(from)), Ok(()));
    assert_eq!(at(UnixMillis(from - 1)), Err("result.svid.not_yet_valid"));
    assert_eq!(at(UnixMillis(to - 1)), Ok(()));
    assert_eq!(at(UnixMillis(to)), Err("result.svid.expired"));
    let credential = verify(&[&svid.der], &root).unwrap();
    assert_eq!(code(credential.check_valid_at(UnixMillis(to - 1))), Ok(()));
    assert_eq!(code(credential.check_valid_at(UnixMillis(to))), Err("result.svid.expired"));
    assert_eq!(code(credential.check_valid_at(UnixMillis(from - 1))), Err("result.svid.not_yet_valid"));
    // An authority that ends before its leaf ends the leaf.
    let short = Authority::root(AuthorityOrder { not_after: NOW.plus(10_000), ..AuthorityOrder::new("Short CA") });
    let svid = short.issue(&sound_order());
    let credential = verify(&[&svid.der], &short).unwrap();
    assert_eq!(credential.valid_until().seconds(), NOW.seconds() + 10);
    assert_eq!(code(credential.check_valid_at(NOW.plus(11_000))), Err("result.svid.expired"));
    let late = ExecutionCredential::verify(&[&svid.der], &[short.der()], &domain(), NOW.plus(11_000));
    assert_eq!(code(late).map(|_| ()), Err("x509.expired"));
}

#[test]
fn chains_lead_to_a_pinned_root_or_nowhere() {
    let root = Authority::root(AuthorityOrder::new("Workload CA"));
    let intermediate = root.intermediate(AuthorityOrder::new("Intermediate"));
    let svid = intermediate.issue(&sound_order());
    assert!(verify(&[&svid.der, &intermediate.der()], &root).is_ok());
    assert!(verify(&[&svid.der, &intermediate.der(), &root.der()], &root).is_ok());
    assert_eq!(verify(&[&svid.der], &root).map(|_| ()), Err("result.svid.chain"));
    assert_eq!(verify(&[], &root).map(|_| ()), Err("result.svid.chain"));
    let (leaf, above) = (svid.der.as_slice(), intermediate.der());
    assert!(verify(&[leaf, &above, &above, &above], &root).is_ok());
    assert_eq!(verify(&[leaf, &above, &above, &above, &above], &root).map(|_| ()), Err("result.svid.chain"));
    let no_roots = ExecutionCredential::verify(&[&svid.der], &[], &domain(), NOW);
    assert_eq!(code(no_roots).map(|_| ()), Err("result.svid.chain"));
    // A root of the same name with another key.
    let impostor = Authority::root(AuthorityOrder::new("Workload CA"));
    let forged = impostor.issue(&sound_order());
    assert_eq!(verify(&[&forged.der], &root).map(|_| ()), Err("x509.signature"));
    assert_eq!(verify(&[&forged.der, &impostor.der()], &root).map(|_| ()), Err("x509.signature"));
    let roots = [root.der(), impostor.der()];
    assert!(ExecutionCredential::verify(&[&forged.der], &roots, &domain(), NOW).is_ok(), "both are pinned");
    // A leaf is no authority: neither by constraint nor by usage.
    let no_signer = AuthorityOrder { key_usages: vec![rcgen::KeyUsagePurpose::CrlSign], ..AuthorityOrder::new("No") };
    let no_signer = root.intermediate(no_signer);
    let below = no_signer.issue(&sound_order());
    assert_eq!(verify(&[&below.der, &no_signer.der()], &root).map(|_| ()), Err("x509.issuer.key_usage"));
    let no_ca = root.intermediate(AuthorityOrder { is_ca: rcgen::IsCa::ExplicitNoCa, ..AuthorityOrder::new("Leaf") });
    let below = no_ca.issue(&sound_order());
    assert_eq!(verify(&[&below.der, &no_ca.der()], &root).map(|_| ()), Err("x509.issuer.not_ca"));
    // Not a byte more or less.
    let longer = [svid.der.as_slice(), &[0]].concat();
    assert_eq!(verify(&[&longer, &intermediate.der()], &root).map(|_| ()), Err("x509.malformed"));
    assert_eq!(verify(&[&svid.der[1..], &intermediate.der()], &root).map(|_| ()), Err("x509.malformed"));
}

fn extensions() -> impl Strategy<Value = CredentialExtension> {
    let assurance = prop_oneof![Just(Assurance::Hardware), Just(Assurance::Simulated)];
    let waivers = proptest::collection::vec("[a-zA-Z0-9._-]{1,128}", 0..=8);
    (any::<[u64; 4]>(), any::<[u8; 32]>(), assurance, waivers).prop_map(|(numbers, decision, assurance, waivers)| {
        let [status_list, status_index, generation, log_index] = numbers;
        let decision = Sha256Digest(decision);
        let key_protection = if status_index % 2 == 0 { KeyProtection::Tpm } else { KeyProtection::Memory };
        CredentialExtension {
            status_list,
            status_index,
            generation,
            decision,
            log_index,
            assurance,
            waivers,
            key_protection,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn extension_codec_is_exact(extension in extensions(), at in 0_usize..1200, flip in 1_u8..) {
        let der = extension.encode();
        prop_assert_eq!(CredentialExtension::decode(&der), Ok(extension));
        // Whatever else decodes, encodes to itself again: there is one encoding for one content.
        let mut changed = der.clone();
        let at = at % changed.len();
        changed[at] ^= flip;
        if let Ok(read) = CredentialExtension::decode(&changed) {
            prop_assert_eq!(read.encode(), changed);
        }
        prop_assert!(CredentialExtension::decode(&der[..at]).is_err());
        prop_assert!(CredentialExtension::decode(&[&der[..], &[0]].concat()).is_err());
    }
}

#[test]
fn the_extension_is_the_documented_der() {
    let der = extension(0x80).encode();
    let expected = format!(
        "303d{}{}{}{}0420{}{}{}",
        "020101",
        "020100",
        "02020080",
        "020101",
        "07".repeat(32),
        "020129",
        "0c0973696d756c61746564"
    );
    assert_eq!(hex::encode(&der), expected);
    let mut version_2 = der;
    version_2[4] = 2;
    let refused = code(CredentialExtension::decode(&version_2));
    assert_eq!(refused, Err("result.svid.extension.malformed"), "no waivers");
    let memory = CredentialExtension { key_protection: KeyProtection::Memory, ..extension(0x80) }.encode();
    assert!(hex::encode(&memory).ends_with("0c066d656d6f72793000"), "{}", hex::encode(&memory));
    let mut unknown = memory;
    let at = unknown.len() - 3;
    unknown[at] = b'z';
    assert_eq!(code(CredentialExtension::decode(&unknown)), Err("result.svid.extension.malformed"), "memorz");
    let waivers = |waivers: &[&str]| {
        let waivers = waivers.iter().map(|id| (*id).to_owned()).collect();
        let der = CredentialExtension { waivers, ..extension(0x80) }.encode();
        code(CredentialExtension::decode(&der)).map(|read| (hex::encode(&der), read.waivers))
    };
    let (der, read) = waivers(&["psp", "b"]).unwrap();
    assert!(der.starts_with("3047020102") && der.ends_with("73696d756c6174656430080c037073700c0162"), "{der}");
    assert_eq!(read, ["psp", "b"]);
    assert!(waivers(&["w".repeat(128).as_str(); 8]).is_ok());
    for refused in [&[""][..], &["a b"], &["a\u{1b}"], &["w".repeat(129).as_str()], &["w"; 9]] {
        assert_eq!(waivers(refused), Err("result.svid.extension.malformed"), "{refused:?}");
    }
    assert_eq!(code(CredentialExtension::decode(&[0x30; 200])), Err("result.svid.extension.malformed"));
    assert_eq!(EXTENSION_OID, [2, 25, 7_014_083_229_441_153_027]);
}

// ---------------------------------------------------------------- status lists

#[test]
fn status_lists_read_the_drafts_own_example() {
    // draft-ietf-oauth-status-list-21, 4.1 and 4.2: twelve statuses in three bytes, compressed by someone else.
    let claim = StatusListClaim { bits: 2, lst: "eNo76fITAAPfAgc".to_owned() };
    let list = StatusList::decode(&claim).unwrap();
    assert_eq!(list.bytes(), [0xc9, 0x44, 0xf9]);
    use Status::{Invalid, Suspended, Valid};
    let third = Invalid; // 0x03, application specific: not a status we know
    let expected = [Invalid, Suspended, Valid, third, Valid, Invalid, Valid, Invalid, Invalid, Suspended, third, third];
    for (index, status) in (0..).zip(expected) {
        assert_eq!(code(list.get(index)), Ok(status), "index {index}");
    }
    assert_eq!(code(list.get(12)), Err("status_list.index"));
    assert_eq!(list.encode(), claim, "and our compressor agrees with theirs");
}

#[test]
fn e21_an_index_that_nobody_set_is_invalid() {
    let list = StatusList::new();
    assert_eq!(list.size(), status_list::ENTRIES);
    for index in [0, 1, 2, 3, 4, 65_535] {
        assert_eq!(code(list.get(index)), Ok(Status::Invalid));
    }
    for outside in [65_536, u64::MAX, 1 << 34] {
        assert_eq!(code(list.get(outside)), Err("status_list.index"));
        assert_eq!(code(list.clone().set(outside, Status::Valid)), Err("status_list.index"));
    }
}

#[test]
fn e13_a_list_that_inflates_beyond_its_size_is_refused() {
    let bomb = StatusListClaim { bits: 2, lst: b64(miniz_oxide::deflate::compress_to_vec_zlib(&[0; 10_000_000], 9)) };
    assert_eq!(code(StatusList::decode(&bomb)), Err("status_list.too_large"));
    let one_more = miniz_oxide::deflate::compress_to_vec_zlib(&[0; 16_385], 9);
    let one_more = StatusListClaim { bits: 2, lst: b64(one_more) };
    assert_eq!(code(StatusList::decode(&one_more)), Err("status_list.too_large"));
    assert_eq!(code(StatusList::from_bytes(vec![0; 16_385])), Err("status_list.too_large"));
    assert!(StatusList::from_bytes(vec![0; 16_384]).is_ok());
}

#[test]
fn a_list_is_one_complete_stream() {
    let sound = StatusList::new().encode();
    let encoding = Err("status_list.encoding");
    let compressed = miniz_oxide::deflate::compress_to_vec_zlib(&[0x55; 16_384], 9);
    let decode = |bytes: &[u8]| code(StatusList::decode(&StatusListClaim { bits: 2, lst: b64(bytes) })).map(|_| ());
    assert_eq!(decode(&compressed), Ok(()));
    assert_eq!(decode(&compressed[..compressed.len() - 1]), encoding, "without the end of its checksum");
    assert_eq!(decode(&[&compressed[..], &[0]].concat()), encoding, "and one byte");
    let mut damaged = compressed;
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(decode(&damaged), encoding, "another checksum");
    assert_eq!(decode(&[]), encoding);
    assert_eq!(decode(&miniz_oxide::deflate::compress_to_vec_zlib(&[], 9)), encoding, "no entries");
    let padded = StatusListClaim { lst: format!("{}=", sound.lst), ..sound.clone() };
    assert_eq!(code(StatusList::decode(&padded)).map(|_| ()), encoding);
    for bits in [0, 1, 4, 8] {
        let other = StatusListClaim { bits, ..sound.clone() };
        assert_eq!(code(StatusList::decode(&other)).map(|_| ()), Err("status_list.bits"));
    }
}

#[test]
fn status_list_tokens_have_an_end_and_a_subject() {
    let issuer = Issuer::new(DOMAIN);
    let mut list = StatusList::new();
    list.set(7, Status::Valid).unwrap();
    let token = issuer.list_token(&list, NOW);
    let at = |now| code(StatusListToken::verify(&token, &issuer.keys(), now)).map(|(_, list)| list);
    assert_eq!(at(NOW), Ok(list.clone()));
    assert_eq!(at(NOW.plus(299_000)), Ok(list));
    assert_eq!(at(NOW.plus(300_000)), Err("status_list.expired"));
    assert_eq!(at(UnixMillis(NOW.0 - 2_000)), Err("status_list.not_yet_issued"));
    let (claims, _) = StatusListToken::verify(&token, &issuer.keys(), NOW).unwrap();
    assert_eq!(code(claims.check_subject("https://broker.test/v1/status-lists/0")), Ok(()));
    let other = code(claims.check_subject("https://broker.test/v1/status-lists/1"));
    assert_eq!(other, Err("status_list.subject"));
    let pulse = issuer.pulse_token(&issuer.pulse(1, NOW, &StatusList::new()));
    let confused = code(StatusListToken::verify(&pulse, &issuer.keys(), NOW)).map(|_| ());
    assert_eq!(confused, Err("result.token.type"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_set_is_read_and_nothing_else_changes(
        writes in proptest::collection::vec((0_u64..65_536, 0_u8..3), 0..64),
    ) {
        let mut list = StatusList::new();
        let mut model = std::collections::BTreeMap::new();
        for (index, status) in writes {
            let status = [Status::Valid, Status::Invalid, Status::Suspended][usize::from(status)];
            list.set(index, status).unwrap();
            model.insert(index, status);
        }
        let read = StatusList::decode(&list.encode()).unwrap();
        prop_assert_eq!(read.sha256(), list.sha256());
        for index in 0..65_536 {
            prop_assert_eq!(read.get(index).unwrap(), model.get(&index).copied().unwrap_or(Status::Invalid));
        }
    }
}

// ---------------------------------------------------------------- pulses

fn pulse_at(change: impl Fn(&mut Pulse), now: UnixMillis) -> Result<(), &'static str> {
    let issuer = Issuer::new(DOMAIN);
    let mut pulse = issuer.pulse(1, NOW, &StatusList::new());
    change(&mut pulse);
    code(Pulse::verify(&issuer.pulse_token(&pulse), &issuer.keys(), &domain(), now)).map(|_| ())
}

#[test]
fn e19_a_pulse_ends_strictly_and_soon() {
    assert_eq!(pulse_at(|_| (), NOW), Ok(()));
    assert_eq!(pulse_at(|_| (), NOW.plus(Y_MS - 1)), Ok(()));
    assert_eq!(pulse_at(|_| (), NOW.plus(Y_MS)), Err("pulse.expired"));
    assert_eq!(pulse_at(|_| (), UnixMillis(NOW.0 - 1_000)), Ok(()));
    assert_eq!(pulse_at(|_| (), UnixMillis(NOW.0 - 1_001)), Err("pulse.basis_in_future"));
    assert_eq!(pulse_at(|pulse| pulse.exp = NOW.plus(pulse::Y_MAX_MS), NOW), Ok(()));
    assert_eq!(pulse_at(|pulse| pulse.exp = NOW.plus(pulse::Y_MAX_MS + 1), NOW), Err("pulse.window"));
    assert_eq!(pulse_at(|pulse| pulse.exp = NOW, UnixMillis(NOW.0 - 1)), Err("pulse.window"));
    assert_eq!(pulse_at(|pulse| pulse.exp = UnixMillis(NOW.0 - 5), UnixMillis(NOW.0 - 9)), Err("pulse.window"));
    assert_eq!(pulse_at(|pulse| pulse.exp = UnixMillis(u64::MAX), NOW), Err("pulse.window"));
    assert_eq!(pulse_at(|pulse| pulse.iss = TrustDomain::parse("other.test").unwrap(), NOW), Err("pulse.issuer"));
}

#[test]
fn the_lists_of_a_pulse_are_in_order_each_once() {
    let list = |n| ListDigest { n, size: 4, sha256: Sha256Digest([1; 32]) };
    let with = |lists: Vec<ListDigest>| pulse_at(|pulse| pulse.lists.clone_from(&lists), NOW);
    assert_eq!(with(vec![]), Ok(()));
    assert_eq!(with(vec![list(0), list(1), list(9)]), Ok(()));
    assert_eq!(with(vec![list(1), list(0)]), Err("pulse.lists"));
    assert_eq!(with(vec![list(1), list(1)]), Err("pulse.lists"));
}

#[test]
fn newer_is_by_epoch_then_by_sequence() {
    let issuer = Issuer::new(DOMAIN);
    let numbered = |epoch, seq| Pulse { epoch, ..issuer.pulse(seq, NOW, &StatusList::new()) };
    assert!(numbered(1, 2).supersedes(&numbered(1, 1)));
    assert!(numbered(2, 0).supersedes(&numbered(1, 9)));
    assert!(!numbered(1, 9).supersedes(&numbered(2, 0)));
    assert!(!numbered(1, 1).supersedes(&numbered(1, 1)), "a replay is not newer");
    assert!(!numbered(1, 1).supersedes(&numbered(1, 2)));
    let pulse = Pulse { lists: vec![ListDigest { n: 4, size: 8, sha256: Sha256Digest([1; 32]) }], ..numbered(1, 1) };
    assert_eq!(pulse.list(4).map(|list| list.size), Some(8));
    assert_eq!(pulse.list(0), None);
}

#[test]
fn every_claim_of_a_pulse_is_required_and_none_other_is_read() {
    let issuer = Issuer::new(DOMAIN);
    let payload = issuer.pulse(1, NOW, &StatusList::new()).to_payload();
    let document: Value = serde_json::from_slice(&payload).unwrap();
    let read = |document: &Value| {
        let kind: Kind = pulse::KIND;
        let token = issuer.key.token(kind, document.to_string().as_bytes());
        code(Pulse::verify(&token, &issuer.keys(), &domain(), NOW)).map(|_| ())
    };
    assert_eq!(read(&document), Ok(()));
    for claim in document.as_object().unwrap().keys() {
        let mut without = document.clone();
        without.as_object_mut().unwrap().remove(claim);
        assert_eq!(read(&without), Err("result.token.payload"), "{claim}");
    }
    let mut with = document;
    with["nbf"] = json!(1);
    assert_eq!(read(&with), Err("result.token.payload"));
}
