//! The workload authority in a running broker: what is issued while keys change, and when none may sign. And the
//! WIT-SVID, where the operator wants it.

use std::cell::Cell;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::config::Config;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::IssuedCredential;
use countersign_attestation::result::svid::{ExecutionCredential, TrustDomain};
use countersign_attestation::result::wit_svid::{Expected, WitSvid};
use countersign_attestation::x509::Certificate;
use countersign_attestation::{Rejection, UnixMillis};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;

use crate::house::{Host, House, manifest};
use crate::tpm::CredentialKey;

const DAY_MS: u64 = 86_400_000;

fn domain() -> TrustDomain {
    TrustDomain::parse("fleet.example").unwrap()
}

fn certificates(pem: &str) -> Vec<Vec<u8>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| der.unwrap().to_vec()).collect()
}

fn check(credential: &IssuedCredential, now: UnixMillis) -> Result<ExecutionCredential, Rejection> {
    let chain = certificates(&credential.certificate_chain);
    let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
    ExecutionCredential::verify(&chain, &certificates(&credential.trust_bundle), &domain(), now)
}

fn issuer(credential: &IssuedCredential) -> Vec<u8> {
    certificates(&credential.certificate_chain).remove(1)
}

async fn renewed(house: &House, host: &mut Host) -> Result<IssuedCredential, String> {
    loop {
        host.renew();
        match host.attest(house).await {
            // The lease that ended when the clock moved was recorded meanwhile: an agent attests again.
            Err(code) if code == "trust.superseded" => {}
            result => return result.map(|granted| granted.credential.unwrap()),
        }
    }
}

async fn trusted(house: &House) -> Host {
    let host = Host::enrolled(house, "host-a").await;
    house.register_reference(&manifest(&host, &json!({}))).await.unwrap();
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_issued_through_a_rotation_and_old_ones_live_to_their_end() {
    let mut house = House::new();
    let mut host = trusted(&house).await;
    let first = renewed(&house, &mut host).await.unwrap();
    house.clock.advance(5 * DAY_MS);
    house.broker().renew_authority();
    let old = renewed(&house, &mut host).await.unwrap();
    assert_eq!(issuer(&old), issuer(&first), "published, and not used yet");
    house.clock.advance(60_000);
    house.broker().renew_authority();
    house.restart();
    let new = renewed(&house, &mut host).await.unwrap();
    assert_ne!(issuer(&new), issuer(&first));
    let now = house.clock.now();
    assert!(check(&old, now).is_ok() && check(&new, now).is_ok());
    let ended = check(&old, old.not_after).unwrap_err();
    assert_eq!(ended.code(), "result.svid.expired");
    assert_eq!(house.broker().authority_warnings(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_root_nothing_outlives_the_issuing_key_and_then_nothing_is_issued() {
    let mut house = House::new();
    let root = house.data().keys().join("workload-ca.key.pem");
    let away = house.folder.path().join("away.pem");
    std::fs::rename(&root, &away).unwrap();
    house.restart();
    let mut host = trusted(&house).await;
    let first = renewed(&house, &mut host).await.unwrap();
    let end = Certificate::parse(&issuer(&first)).unwrap().not_after();
    assert!(house.broker().authority_warnings().is_empty());
    house.clock.advance(5 * DAY_MS);
    house.broker().renew_authority();
    let warnings = house.broker().authority_warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("due"), "{warnings:?}");
    // Two minutes before the end, a credential of five is one of two.
    house.clock.advance(end.since(house.clock.now()) - 120_000);
    let last = renewed(&house, &mut host).await.unwrap();
    assert_eq!(last.not_after, end);
    assert_eq!(check(&last, house.clock.now()).unwrap().not_after(), end);
    house.clock.advance(120_000);
    house.broker().renew_authority();
    let entries = house.broker().lineage.head().size;
    assert_eq!(renewed(&house, &mut host).await.unwrap_err(), "ca.issuing.none");
    let granted = (entries..house.broker().lineage.head().size).any(|index| {
        let entry = house.broker().lineage.read(index).unwrap().unwrap();
        countersign_attestation::lineage::entry::Entry::decode(&entry).unwrap().credential().is_some()
    });
    assert!(!granted, "no grant is recorded that cannot be issued");
    let warnings = house.broker().authority_warnings();
    assert!(warnings.len() == 1 && warnings[0].starts_with("ca.issuing.none"), "{warnings:?}");
    // The root is back: the broker mends itself.
    std::fs::rename(&away, &root).unwrap();
    house.restart();
    assert!(renewed(&house, &mut host).await.is_ok());
    assert!(house.broker().authority_warnings().is_empty());
}

/// A proof as a workload makes it, with its credential key.
fn proof(key: &CredentialKey, header: &serde_json::Value, claims: &serde_json::Value) -> String {
    let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let input = format!("{}.{}", encode(header), encode(claims));
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(key.sign(input.as_bytes())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wit_svid_is_issued_where_wanted_and_nothing_without_its_proof() {
    const ISSUER: &str = "https://localhost:8443";
    const AUDIENCE: &str = "https://inference.example/v1/chat";
    let mut house = House::new();
    let mut host = trusted(&house).await;
    assert_eq!(renewed(&house, &mut host).await.unwrap().wit_svid, None, "off unless said otherwise");
    let path = house.data().config();
    let config = Config { wit_svid: true, ..Config::load(&path).unwrap() };
    std::fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
    house.restart();
    let credential = renewed(&house, &mut host).await.unwrap();
    let token = credential.wit_svid.clone().unwrap();
    let (keys, now) = (house.broker().keys.token.jwks(), house.clock.now());
    let svid = check(&credential, now).unwrap();

    let sound = json!({
        "aud": AUDIENCE, "exp": now.seconds() + 60, "jti": "0123456789abcdefghijkl",
        "wth": URL_SAFE_NO_PAD.encode(Sha256Digest::of(&[token.as_bytes()]).0),
    });
    let header = json!({ "alg": "ES256", "typ": "wpt+jwt" });
    let domain = domain();
    let expected = Expected { issuer: ISSUER, trust_domain: &domain, audience: AUDIENCE };
    let verify = |proof: &str, expected: Expected<'_>, now: UnixMillis| {
        WitSvid::verify(&token, proof, &keys, expected, now, |_, _| true).map_err(|rejection| rejection.code())
    };
    let made = proof(&host.key, &header, &sound);
    let seen = Cell::new(None);
    let verified = WitSvid::verify(&token, &made, &keys, expected, now, |jti, end| {
        seen.set(Some((jti.to_owned(), end.seconds())));
        true
    });
    let elsewhere = Expected { issuer: "https://other.example", ..expected };
    assert_eq!(verify(&made, elsewhere, now).map(drop), Err("result.wit.issuer"));
    assert_eq!(verify(&made, expected, credential.not_after).map(drop), Err("result.wit.expired"));
    assert_eq!(verify(&made, expected, UnixMillis(now.0 - 3_000)).map(drop), Err("result.wit.not_yet_issued"));
    let verified = verified.unwrap();
    assert_eq!(seen.take(), Some(("0123456789abcdefghijkl".to_owned(), now.seconds() + 60)));
    assert_eq!((verified.sub.clone(), verified.decision), (svid.spiffe_id().clone(), svid.decision()));
    assert_eq!(verified.exp, credential.not_after.seconds(), "no longer than the certificate");

    let replayed = WitSvid::verify(&token, &made, &keys, expected, now, |_, _| false).unwrap_err();
    assert_eq!(replayed.code(), "result.wit.proof.replayed");
    let with = |name: &str, value: serde_json::Value| {
        let mut claims = sound.clone();
        claims[name] = value;
        verify(&proof(&host.key, &header, &claims), expected, now).map(drop)
    };
    assert_eq!(with("aud", json!("https://other.example/")), Err("result.wit.proof.audience"));
    assert_eq!(with("aud", json!([AUDIENCE])), Err("result.token.payload"));
    assert_eq!(with("wth", json!(URL_SAFE_NO_PAD.encode([0; 32]))), Err("result.wit.proof.token"));
    assert_eq!(with("exp", json!(now.seconds())), Err("result.wit.proof.dates"));
    assert_eq!(with("exp", json!(now.seconds() + 121)), Err("result.wit.proof.dates"));
    assert_eq!(with("iat", json!(now.seconds() + 3)), Err("result.wit.proof.dates"));
    assert_eq!(with("iat", json!(now.seconds())), Ok(()));
    assert_eq!(with("jti", json!("short")), Err("result.wit.proof.replayed"));
    assert_eq!(with("jti", json!("with spaces in between")), Err("result.wit.proof.replayed"));
    assert_eq!(with("oth", json!({ "x-token": "AAAA" })), Err("result.token.payload"), "what nobody compares");
    for missing in ["aud", "exp", "jti", "wth"] {
        let mut claims = sound.clone();
        claims.as_object_mut().unwrap().remove(missing);
        let made = proof(&host.key, &header, &claims);
        assert_eq!(verify(&made, expected, now).map(drop), Err("result.token.payload"), "{missing}");
    }
    let other = proof(&CredentialKey::new(), &header, &sound);
    assert_eq!(verify(&other, expected, now).map(drop), Err("result.token.signature"));
    let typed = |header: serde_json::Value| verify(&proof(&host.key, &header, &sound), expected, now).map(drop);
    assert_eq!(typed(json!({ "alg": "ES256", "typ": "JWT" })), Err("result.token.type"));
    assert_eq!(typed(json!({ "alg": "ES256" })), Err("result.token.type"));
    assert_eq!(typed(json!({ "alg": "none", "typ": "wpt+jwt" })), Err("result.token.algorithm"));
    assert_eq!(verify(&token, expected, now).map(drop), Err("result.token.type"), "the token is no proof of itself");
}
