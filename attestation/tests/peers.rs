//! What other issuers sign: EARs of other verifiers, X.509-SVIDs and bundles of other trust domains.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use countersign_attestation::UnixMillis;
use countersign_attestation::result::ear::Tier;
use countersign_attestation::result::jws::{self, Jwk};
use countersign_attestation::result::peer_ear::{self, Asked, PeerEar};
use countersign_attestation::result::spiffe_bundle::SpiffeBundle;
use countersign_attestation::result::svid::TrustDomain;
use countersign_attestation::result::x509_svid::{WorkloadId, X509Svid, check_structure};
use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use serde_json::{Value, json};

#[path = "../../tests/sim/issuer.rs"]
mod issuer;
use issuer::{Authority, AuthorityOrder, Order, TokenKey, extension};

const NOW: UnixMillis = UnixMillis(1_795_408_496_007);
const SECONDS: u64 = NOW.0 / 1000;
const ASKED: Asked<'static> = Asked { nonce: None, now: NOW };

fn b64(bytes: impl AsRef<[u8]>) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// A sound result in the vocabulary of draft 04.
fn claims() -> Value {
    json!({
        "eat_profile": "tag:ietf.org,2026:rats/ear#04",
        "iat": SECONDS,
        "exp": SECONDS + 60,
        "eat_nonce": ["other", "nonce"],
        "ear_verifier_id": {"developer": "d", "build": "b"},
        "ear_status": "affirming",
        "submods": {"cpu0": {
            "ear_status": "affirming",
            "ear_trustworthiness_vector": {"hardware": 2, "executables": 0},
            "ear_appraisal_policy_ids": ["p"],
        }},
    })
}

fn signed(key: &TokenKey, header: &Value, payload: &Value) -> String {
    let input = format!("{}.{}", b64(header.to_string()), b64(payload.to_string()));
    jws::compact(&input, &key.sign(input.as_bytes()))
}

fn judge(payload: &Value) -> Result<Tier, &'static str> {
    let key = TokenKey::new();
    let token = signed(&key, &json!({"alg": "ES256", "typ": "JWT"}), payload);
    PeerEar::verify(&token, &key.jwk(), &Asked { nonce: Some("nonce"), now: NOW })
        .map(|ear| ear.submods["cpu0"].status)
        .map_err(|rejection| rejection.code())
}

#[test]
fn a_peers_result_is_accepted_where_all_of_it_affirms() {
    assert_eq!(judge(&claims()), Ok(Tier::Affirming));
    let dotted = json!({
        "eat_profile": "tag:github.com,2023:veraison/ear",
        "iat": SECONDS,
        "eat_nonce": "nonce",
        "ear.verifier-id": {"developer": "d", "build": "b"},
        "ear.raw-evidence": "3q2-7w",
        "submods": {"cpu0": {"ear.status": "affirming", "ear.appraisal-policy-id": "p", "ear.veraison.x": {}}},
    });
    assert_eq!(judge(&dotted), Ok(Tier::Affirming));
    let edits: [(&str, Value, &str); 22] = [
        ("/eat_profile", json!("tag:unknown"), "result.ear.profile"),
        ("/exp", json!(SECONDS), "result.ear.expired"),
        ("/iat", json!(SECONDS + 60), "result.ear.not_yet_issued"),
        ("/nbf", json!(SECONDS + 60), "result.ear.not_yet_issued"),
        ("/eat_nonce", json!("another"), "result.ear.nonce"),
        ("/ear_status", json!("none"), "result.ear.not_affirming"),
        ("/ear_status", json!("warning"), "result.ear.not_affirming"),
        ("/submods/cpu0/ear_status", json!("warning"), "result.ear.status"),
        ("/submods/cpu0/ear_status", json!("none"), "result.ear.not_affirming"),
        ("/submods/cpu0/ear_status", json!(2), "result.token.payload"),
        ("/submods/cpu0/ear_trustworthiness_vector/hardware", json!(33), "result.ear.status"),
        ("/submods/cpu0/ear_trustworthiness_vector/hardware", json!(128), "result.token.payload"),
        ("/submods/cpu0/ear_trustworthiness_vector/firmware", json!(2), "result.token.payload"),
        ("/submods/cpu0/ear_appraisal_policy_ids", json!("p"), "result.token.payload"),
        ("/submods/cpu0/ear.status", json!("contraindicated"), "result.token.payload"),
        ("/submods/gpu0", json!({"ear_status": "contraindicated"}), "result.ear.status"),
        ("/submods", json!({}), "result.token.payload"),
        ("/ear.status", json!("contraindicated"), "result.token.payload"),
        ("/ear_raw_evidence", json!(["x", "3q2-7w"]), "cmw.type"),
        ("/ear_raw_evidence", json!("3q2-7w"), "result.token.payload"),
        ("/iat", json!(1.5), "result.token.payload"),
        ("/eat_nonce", json!([]), "result.token.payload"),
    ];
    for (pointer, value, expected) in edits {
        let mut edited = claims();
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        edited.pointer_mut(parent).unwrap()[member] = value;
        assert_eq!(judge(&edited), Err(expected), "{pointer}");
    }
    for missing in ["eat_profile", "iat", "ear_verifier_id", "submods"] {
        let mut edited = claims();
        edited.as_object_mut().unwrap().remove(missing);
        assert_eq!(judge(&edited), Err("result.token.payload"), "{missing}");
    }
    let mut silent = claims();
    silent.as_object_mut().unwrap().remove("eat_nonce");
    assert_eq!(judge(&silent), Err("result.ear.nonce"), "a nonce was sent and none came back");
}

/// The verifier names algorithm and key; what a header says about either is not read, what it demands is refused.
#[test]
fn e10_a_peers_header_chooses_nothing() {
    let (key, other) = (TokenKey::new(), TokenKey::new());
    let judge = |key: &TokenKey, header: Value| {
        let token = signed(key, &header, &claims());
        PeerEar::verify(&token, &other.jwk(), &ASKED).map(|_| ()).map_err(|rejection| rejection.code())
    };
    let kid = "../../etc/passwd";
    assert_eq!(judge(&other, json!({"alg": "ES256", "kid": kid, "jku": "https://attacker.test"})), Ok(()));
    let own: Value = serde_json::from_str(&jws::JwkSet::new([key.jwk()]).to_json()).unwrap();
    assert_eq!(judge(&key, json!({"alg": "ES256", "jwk": own["keys"][0]})), Err("result.token.signature"));
    for algorithm in ["none", "HS256", "ES384", ""] {
        assert_eq!(judge(&other, json!({"alg": algorithm})), Err("result.token.algorithm"), "{algorithm}");
    }
    assert_eq!(judge(&other, json!({})), Err("result.token.algorithm"));
    assert_eq!(judge(&other, json!({"alg": "ES256", "crit": ["b64"], "b64": false})), Err("result.token.header"));
    assert_eq!(judge(&other, json!({"alg": "ES256", "x5c": ["x".repeat(20_000)]})), Err("result.token.header"));
    for token in ["", "a.b", "a.b.c.d"] {
        assert_eq!(PeerEar::verify(token, &other.jwk(), &ASKED).unwrap_err().code(), "result.token.form", "{token}");
    }
    let long = "a".repeat(256 * 1024 + 1);
    assert_eq!(PeerEar::verify(&long, &other.jwk(), &ASKED).unwrap_err().code(), "result.token.too_large");
}

#[test]
fn two_members_of_one_name_are_no_claims() {
    let text = claims().to_string().replacen("\"iat\"", "\"exp\":1,\"iat\"", 1);
    assert_eq!(PeerEar::read(text.as_bytes()).unwrap_err().code(), "result.token.payload");
}

#[test]
fn a_key_of_another_issuer_is_public_and_for_es256() {
    let set = jws::JwkSet::new([TokenKey::new().jwk()]).to_json();
    let key = serde_json::from_str::<Value>(&set).unwrap()["keys"][0].clone();
    assert!(Jwk::of_peer(key.to_string().as_bytes()).is_ok());
    let short = b64([1; 31]);
    for (member, value) in
        [("kty", "RSA"), ("crv", "P-384"), ("alg", "HS256"), ("use", "enc"), ("d", "AA"), ("x", &short)]
    {
        let mut edited = key.clone();
        edited[member] = json!(value);
        let refused = Jwk::of_peer(edited.to_string().as_bytes()).unwrap_err();
        assert_eq!(refused.code(), "result.keys.malformed", "{member}");
    }
}

#[test]
fn appraisals_alone_are_read_in_one_vocabulary() {
    let read = |submods: Value| {
        peer_ear::read_submods(submods.to_string().as_bytes())
            .and_then(|submods| peer_ear::check_affirming(&submods))
            .map_err(|rejection| rejection.code())
    };
    assert_eq!(read(json!({"a": {"ear.status": "affirming"}})), Ok(()));
    assert_eq!(read(json!({"a": {"ear_status": "affirming"}})), Ok(()));
    assert_eq!(
        read(json!({"a": {"ear_status": "affirming"}, "b": {"ear.status": "affirming"}})),
        Err("result.token.payload")
    );
    assert_eq!(
        read(json!({"a": {"ear.status": "affirming", "ear.trustworthiness-vector": {"hardware": 97}}})),
        Err("result.ear.status")
    );
    assert_eq!(read(json!({})), Err("result.token.payload"));
    assert_eq!(
        peer_ear::check_affirming(&std::collections::BTreeMap::new()).unwrap_err().code(),
        "result.ear.not_affirming"
    );
}

#[test]
fn claims_in_cbor_are_read_with_their_numbers() {
    let text = |text: &str| [&[0x78, u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
    let claims = |profile: &str, status: &[u8], vector: &[u8]| {
        let profile = text(profile);
        let parts: [&[u8]; 8] = [
            b"\xa4\x19\x01\x09",
            &profile,
            b"\x06\x01\x19\x03\xec\xa2\x00\x61d\x01\x61b\x19\x01\x0a\xbf\x61a\xa2\x19\x03\xe8",
            status,
            b"\x19\x03\xe9\xa1",
            vector,
            b"\xff",
            b"",
        ];
        parts.concat()
    };
    let read = |bytes: &[u8]| PeerEar::read_cbor(bytes).map_err(|rejection| rejection.code());
    let profile = "tag:ietf.org,2026:rats/ear#04";
    let ear = read(&claims(profile, b"\x02", b"\x04\x02")).unwrap();
    assert_eq!((ear.submods["a"].status, ear.iat), (Tier::Affirming, 1));
    assert_eq!(read(&claims(profile, b"\x02", b"\x04\x18\x61")), Err("result.ear.status"));
    assert_eq!(read(&claims(profile, b"\x03", b"\x04\x02")), Err("result.token.payload"));
    assert_eq!(read(&claims(profile, b"\x02", b"\x08\x02")), Err("result.token.payload"));
    assert_eq!(read(&claims("tag:other", b"\x02", b"\x04\x02")), Err("result.ear.profile"));
    let whole = claims(profile, b"\x02", b"\x04\x02");
    assert_eq!(read(&[&whole[..], &[0]].concat()), Err("result.token.payload"));
    for end in 0..whole.len() {
        assert_eq!(read(&whole[..end]), Err("result.token.payload"), "{end}");
    }
    assert_eq!(read(b"\xa2\x06\x01\x06\x01"), Err("result.token.payload"), "a label twice");
}

// ---------------------------------------------------------------- SPIFFE

type Edit = Box<dyn Fn(&mut Order)>;

#[test]
fn workload_ids_are_spelt_one_way() {
    for text in ["spiffe://td.example/a", "spiffe://td/ns/x_1/sa/A-b.c", "spiffe://t/..."] {
        assert_eq!(WorkloadId::parse(text).unwrap().to_string(), text);
    }
    let long = format!("spiffe://td/{}", "a".repeat(2048));
    for text in [
        "spiffe://td",
        "spiffe://td/",
        "spiffe://td/a/",
        "spiffe://td//a",
        "spiffe://td/./a",
        "spiffe://td/a/..",
        "spiffe://TD/a",
        "spiffe://td:1/a",
        "spiffe://u@td/a",
        "spiffe://td/a?b",
        "spiffe://td/a#b",
        "spiffe://td/%61",
        "SPIFFE://td/a",
        "https://td/a",
        "spiffe:///a",
        "spiffe://td/\u{e4}",
        &long,
    ] {
        assert_eq!(WorkloadId::parse(text), None, "{text}");
    }
}

#[test]
fn another_domains_svid_chains_to_its_bundle_and_to_no_other() {
    let authority = Authority::root(AuthorityOrder::new("peer.example"));
    let order = Order::new("peer.example", "w", &extension(1), NOW);
    let td = TrustDomain::parse("peer.example").unwrap();
    let judge = |order: &Order, roots: &[Vec<u8>], td: &TrustDomain, now: UnixMillis| {
        let leaf = authority.issue(order).der;
        check_structure(&[&leaf], now).map_err(|rejection| rejection.code())?;
        X509Svid::verify(&[&leaf], roots, td, now)
            .map(|svid| svid.id().to_string())
            .map_err(|rejection| rejection.code())
    };
    let roots = vec![authority.der()];
    assert_eq!(judge(&order, &roots, &td, NOW).as_deref(), Ok("spiffe://peer.example/host/w"));
    assert_eq!(judge(&order, &[], &td, NOW), Err("result.svid.chain"), "an empty bundle trusts nobody");
    let other = Authority::root(AuthorityOrder::new("other.example")).der();
    assert_eq!(judge(&order, &[other], &td, NOW), Err("result.svid.chain"));
    let here = TrustDomain::parse("fleet.test").unwrap();
    assert_eq!(judge(&order, &roots, &here, NOW), Err("result.svid.trust_domain"));
    assert_eq!(judge(&order, &roots, &td, order.not_after), Err("result.svid.expired"));
    let edits: [(&str, Edit, &str); 6] = [
        ("CA", Box::new(|order| order.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)), "result.svid.profile"),
        ("no usage", Box::new(|order| order.key_usages.clear()), "result.svid.profile"),
        ("cRLSign", Box::new(|order| order.key_usages.push(KeyUsagePurpose::CrlSign)), "result.svid.profile"),
        (
            "one role",
            Box::new(|order| order.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            "result.svid.profile",
        ),
        ("two ids", Box::new(|order| order.uris.push("spiffe://peer.example/x".to_owned())), "result.svid.spiffe_id"),
        ("no path", Box::new(|order| order.uris = vec!["spiffe://peer.example".to_owned()]), "result.svid.spiffe_id"),
    ];
    for (name, edit, expected) in edits {
        let mut order = order.clone();
        edit(&mut order);
        assert_eq!(judge(&order, &roots, &td, NOW), Err(expected), "{name}");
    }
    let mut without_roles = order.clone();
    without_roles.extended_key_usages.clear();
    assert!(judge(&without_roles, &roots, &td, NOW).is_ok(), "extKeyUsage may be left out");
}

/// What is read is what was verified: a genuine certificate beside another does not vouch for it.
#[test]
fn e8_only_the_certificate_whose_path_was_checked_is_read() {
    let (authority, other) =
        (Authority::root(AuthorityOrder::new("peer.example")), Authority::root(AuthorityOrder::new("peer.example")));
    let td = TrustDomain::parse("peer.example").unwrap();
    let (genuine, forged) = (
        authority.issue(&Order::new("peer.example", "genuine", &extension(1), NOW)).der,
        other.issue(&Order::new("peer.example", "forged", &extension(1), NOW)).der,
    );
    let roots = [authority.der()];
    let read = |chain: &[&[u8]]| X509Svid::verify(chain, &roots, &td, NOW).map(|svid| svid.id().path().to_owned());
    assert_eq!(read(&[&genuine, &forged]).as_deref(), Ok("host/genuine"), "what is not on the path is not read");
    assert!(read(&[&forged, &genuine]).is_err());
    assert!(read(&[&forged, &other.der(), &genuine]).is_err());
}

#[test]
fn a_bundle_is_read_whole_or_not_at_all() {
    let authority = Authority::root(AuthorityOrder::new("peer.example"));
    let spki = countersign_attestation::x509::Certificate::parse(&authority.der()).unwrap().spki().to_vec();
    let (x, y) = (b64(&spki[27..59]), b64(&spki[59..]));
    let x5c = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(authority.der())
    };
    let bundle = json!({
        "spiffe_sequence": 7, "spiffe_refresh_hint": 300,
        "keys": [
            {"use": "x509-svid", "kty": "EC", "crv": "P-256", "x": x, "y": y, "x5c": [x5c]},
            {"use": "jwt-svid", "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "k"},
            {"use": "wit-svid", "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "w"},
            {"use": "x509-svid", "kty": "AKP"},
        ],
    });
    let read =
        |bundle: &Value| SpiffeBundle::parse(bundle.to_string().as_bytes()).map_err(|rejection| rejection.code());
    let parsed = read(&bundle).unwrap();
    assert_eq!(parsed.x509_authorities, [authority.der()]);
    assert_eq!(parsed.jwt_authorities.into_iter().collect::<Vec<_>>(), ["k"]);
    assert_eq!((parsed.sequence, parsed.refresh_hint), (Some(7), Some(300)));
    assert_eq!(read(&json!({"keys": []})).unwrap(), SpiffeBundle::default());
    for (pointer, value) in [
        ("/keys", json!({})),
        ("/keys/0/x5c", json!([])),
        ("/keys/0/x5c", json!([x5c, x5c])),
        ("/keys/0/x5c", json!(["MAA="])),
        ("/keys/0/x", json!(b64([1; 32]))),
        ("/keys/0/y", json!(b64([1; 31]))),
        ("/keys/0/crv", json!("P-192")),
        ("/keys/0/use", json!(1)),
        ("/keys/1/kid", json!("")),
        ("/keys/2/use", json!("jwt-svid")),
        ("/keys/1", json!({"use": "jwt-svid", "kty": "RSA", "n": b64([1; 128]), "e": "AQAB", "kid": "r"})),
        ("/keys/3", json!(1)),
        ("/spiffe_sequence", json!(-1)),
    ] {
        let mut edited = bundle.clone();
        *edited.pointer_mut(pointer).unwrap() = value;
        if pointer == "/keys/2/use" {
            edited["keys"][2]["kid"] = json!("k");
        }
        assert_eq!(read(&edited), Err("result.bundle.malformed"), "{pointer}");
    }
    assert_eq!(read(&json!({"spiffe_sequence": 1})), Err("result.bundle.malformed"));
    let mut other_key = bundle;
    let other = Authority::root(AuthorityOrder::new("peer.example")).der();
    use base64::Engine as _;
    other_key["keys"][0]["x5c"] = json!([base64::engine::general_purpose::STANDARD.encode(other)]);
    assert_eq!(read(&other_key), Err("result.bundle.malformed"), "the certificate of another key");
}
