//! Another trust domain follows this one's bundle, with nothing but the bundle it already has.

use std::process::Command;

use countersign_attestation::result::spiffe_bundle::SpiffeBundle;

use crate::fleet::{Fleet, TRUST_DOMAIN, succeed};

/// What `openssl s_client` says of the endpoint after one request; it fails unless the chain ends in the bundle.
fn ask(fleet: &Fleet, path: &str) -> String {
    let address = fleet.federation.unwrap();
    let mut ask = Command::new("sh");
    ask.args([
        "-c",
        "printf 'GET %s HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n' \"$0\" | \
        openssl s_client -quiet -verify_return_error -purpose sslserver -x509_strict \
        -CAfile \"$1\" -connect \"$2\" 2>&1; test $? -le 1",
    ]);
    ask.arg(path).arg(fleet.data().join("public/trust-bundle.pem")).arg(address.to_string());
    succeed(&mut ask)
}

#[test]
fn a_foreign_domain_follows_the_bundle_over_an_svid_of_this_one() {
    let fleet = Fleet::start_with(&[], |config| config.federation_listen = Some("127.0.0.1:0".parse().unwrap()));
    let answer = ask(&fleet, "/");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    assert!(head.contains("HTTP/1.1 200") && head.contains("content-type: application/json"), "{head}");
    assert!(!head.contains("verify error"), "{head}");
    let bundle = SpiffeBundle::parse(body.trim().as_bytes()).unwrap();
    assert_eq!((bundle.x509_authorities.len(), bundle.refresh_hint.is_some()), (1, true));
    assert!(!bundle.jwt_authorities.is_empty() && bundle.sequence.is_some());
    // Nothing else is served there.
    for path in ["/v1/hosts", "/v1/challenges", "/metrics"] {
        assert!(ask(&fleet, path).contains("HTTP/1.1 404"), "{path}");
    }
    // An X.509 authority is known by its certificate; a key id is for keys of tokens.
    let document: serde_json::Value = serde_json::from_str(body.trim()).unwrap();
    for key in document["keys"].as_array().unwrap() {
        let x509 = key["use"] == "x509-svid";
        assert_eq!((key.get("kid").is_some(), key.get("x5c").is_some()), (!x509, x509), "{key}");
    }

    // The endpoint is an SVID of the domain, and no credential: a gate denies it.
    let mut show = Command::new("sh");
    show.args(["-c", "openssl s_client -showcerts -connect \"$0\" </dev/null 2>/dev/null | openssl x509 -text"]);
    let shown = succeed(show.arg(fleet.federation.unwrap().to_string()));
    let id = format!("URI:spiffe://{TRUST_DOMAIN}/countersign/federation");
    assert!(shown.contains(&id), "{shown}");
    let (_, pem) = shown.split_once("-----BEGIN").unwrap();
    let said = fleet.gate(&format!("-----BEGIN{pem}"));
    assert_ne!(said.status, 200, "{said:?}");
}

#[test]
fn there_is_no_endpoint_that_nobody_asked_for() {
    assert_eq!(Fleet::start(&[]).federation, None);
}
