//! JWT-SVIDs as a service sees them that knows OpenID Connect and nothing of us: a JWT library, the discovery document,
//! the keys it points to.

use std::collections::BTreeMap;

use countersign_attestation::UnixMillis;
use countersign_attestation::protocol::{AttestationResponse, IssuedCredential};
use countersign_attestation::result::jws::{JwkSet, Thumbprint};
use countersign_attestation::result::jwt_svid::{Expected, JwtSvid};
use countersign_attestation::result::svid::TrustDomain;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::JwkSet as LibraryKeys;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fleet::{Fleet, TRUST_DOMAIN, succeed, wait_until};
use crate::sim_host::{SimHost, anchor, register_golden};
use crate::tpm::SimManufacturer;

const CLOUD: &str = "https://sts.cloud.example";
const MODEL: &str = "model-api";

/// What a service knows: the issuer's address, and its own name.
struct Service<'a> {
    fleet: &'a Fleet,
    issuer: String,
}

impl Service<'_> {
    /// Finds the keys as OpenID Connect Discovery says, and judges a token for an audience.
    fn judge(&self, token: &str, audience: &str) -> Result<BTreeMap<String, Value>, ErrorKind> {
        let found: Value = self.fleet.as_anyone().get("/.well-known/openid-configuration");
        assert_eq!(found["issuer"], self.issuer.as_str());
        let path = found["jwks_uri"].as_str().unwrap().strip_prefix(&self.issuer).unwrap();
        let keys: LibraryKeys = self.fleet.as_anyone().get(path);
        let kid = decode_header(token).map_err(|error| error.into_kind())?.kid.unwrap();
        let key = DecodingKey::from_jwk(keys.find(&kid).unwrap()).unwrap();
        assert_eq!(found["id_token_signing_alg_values_supported"], json!(["ES256"]));
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        validation.leeway = 0;
        let claims = decode::<BTreeMap<String, Value>>(token, &key, &validation);
        claims.map(|token| token.claims).map_err(|error| error.into_kind())
    }
}

fn credential(granted: AttestationResponse) -> IssuedCredential {
    granted.credential.unwrap()
}

#[test]
fn e_a_jwt_svid_is_for_one_service_one_key_and_one_decision() {
    let (folder, maker) = (TempDir::new().unwrap(), SimManufacturer::new());
    let fleet = Fleet::start(&[anchor(&maker, folder.path())]);
    register_golden(&fleet, "golden");
    let mut host = SimHost::enrolled(&fleet, &maker, "host-a");
    assert_eq!(credential(host.attest_ok(&fleet)).jwt_svids, [], "nobody asked for one");
    host.audiences = vec![CLOUD.to_owned(), MODEL.to_owned()];
    host.renew();
    let granted = host.attest_ok(&fleet);
    let (decision, issued) = (granted.decision, credential(granted));
    let [cloud, model] = issued.jwt_svids.as_slice() else { panic!("{issued:?}") };
    assert_eq!((cloud.audience.as_str(), model.audience.as_str()), (CLOUD, MODEL));

    // A service with a JWT library.
    let service = Service { fleet: &fleet, issuer: fleet.url() };
    let claims = service.judge(&cloud.token, CLOUD).unwrap();
    for name in ["iss", "iat", "exp", "aud", "sub", "jti", "cnf"] {
        assert!(claims.contains_key(name), "{name} in {claims:?}");
    }
    assert_eq!(claims["sub"], format!("spiffe://{TRUST_DOMAIN}/host/host-a"));
    assert_eq!(claims["exp"], issued.not_after.seconds());
    let holder = Thumbprint::of_spki(&host.spki()).unwrap();
    assert_eq!(claims["cnf"]["jkt"], holder.to_string());
    assert_eq!(claims["countersign.decision"], decision.to_hex());
    assert_eq!(service.judge(&model.token, MODEL).unwrap()["aud"], json!([MODEL]));
    assert_eq!(service.judge(&cloud.token, MODEL), Err(ErrorKind::InvalidAudience));
    let mut changed = cloud.token.clone();
    changed.pop();
    assert!(service.judge(&changed, CLOUD).is_err());

    // Our own reader says the same, and asks who stands before it.
    let keys = JwkSet::parse(fleet.as_anyone().send("GET", "/.well-known/jwks.json", None).text().as_bytes()).unwrap();
    let domain = TrustDomain::parse(TRUST_DOMAIN).unwrap();
    let expected = Expected { issuer: &service.issuer, trust_domain: &domain, audience: CLOUD, holder: &holder };
    let now = UnixMillis(u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap());
    let judge = |token: &str, expected: Expected<'_>, now| {
        JwtSvid::verify(token, &keys, expected, now).map(|_| "believed").unwrap_or_else(|rejection| rejection.code())
    };
    assert_eq!(judge(&cloud.token, expected, now), "believed");
    let elsewhere = TrustDomain::parse("elsewhere.test").unwrap();
    let other = Thumbprint::of_spki(&SimHost::new(&fleet, &maker, "x").spki()).unwrap();
    for (expected, now, code) in [
        (Expected { audience: MODEL, ..expected }, now, "result.jwt_svid.audience"),
        (Expected { issuer: "https://elsewhere.test", ..expected }, now, "result.jwt_svid.issuer"),
        (Expected { trust_domain: &elsewhere, ..expected }, now, "result.jwt_svid.issuer"),
        (Expected { holder: &other, ..expected }, now, "result.jwt_svid.holder"),
        (expected, issued.not_after, "result.jwt_svid.expired"),
        (expected, UnixMillis(now.0 - 60_000), "result.jwt_svid.not_yet_issued"),
    ] {
        assert_eq!(judge(&cloud.token, expected, now), code);
    }
    // An EAR of the same key and decision is no token for a service, and a token is no EAR.
    assert_eq!(judge(&issued.ear, expected, now), "result.token.payload");
}

#[test]
fn audiences_are_few_named_and_printable() {
    let (folder, maker) = (TempDir::new().unwrap(), SimManufacturer::new());
    let fleet = Fleet::start(&[anchor(&maker, folder.path())]);
    register_golden(&fleet, "golden");
    let mut host = SimHost::enrolled(&fleet, &maker, "host-a");
    for audiences in
        [vec![String::new()], vec!["a b".into()], vec!["\u{e4}".into()], vec!["a".repeat(257)], vec!["a".into(); 9]]
    {
        host.audiences = audiences.clone();
        let answer = host.attest(&fleet);
        let code = answer.problem().code;
        assert_eq!((answer.status, code.as_str()), (400, "credential.audience"), "{audiences:?}");
    }
    host.audiences = (0..8).map(|n| format!("{n}{}", "a".repeat(255))).collect();
    assert_eq!(credential(host.attest_ok(&fleet)).jwt_svids.len(), 8);
}

/// PyJWT and zlib, which know nothing of us: the attestation result, and what the list that it names says of it.
const READER: &str = r#"
import base64, json, sys, zlib
import jwt
keys = {key["kid"]: jwt.PyJWK(key).key for key in json.load(open(sys.argv[1]))["keys"]}
def read(path, typ):
    token = open(path).read().strip()
    header = jwt.get_unverified_header(token)
    assert header["typ"] == typ, header
    return jwt.decode(token, keys[header["kid"]], algorithms=["ES256"], options={"require": ["iat", "exp"]})
ear, claims = read(sys.argv[2], "JWT"), read(sys.argv[3], "statuslist+jwt")
named = ear["status"]["status_list"]
assert claims["sub"] == named["uri"], claims["sub"]
bits, packed = claims["status_list"]["bits"], claims["status_list"]["lst"]
raw = zlib.decompress(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
per_byte = 8 // bits
status = raw[named["idx"] // per_byte] >> (named["idx"] % per_byte * bits) & ((1 << bits) - 1)
print(ear["eat_profile"], ear["sub"], ear["submods"]["tpm"]["ear_status"], status)
"#;

#[test]
fn another_implementation_reads_the_attestation_result_and_its_status() {
    let Some(python) = crate::workload_api::python() else { return };
    let (folder, maker) = (TempDir::new().unwrap(), SimManufacturer::new());
    let fleet = Fleet::start(&[anchor(&maker, folder.path())]);
    register_golden(&fleet, "golden");
    let mut host = SimHost::enrolled(&fleet, &maker, "host-a");
    let issued = credential(host.attest_ok(&fleet));
    let (ear, list) = (folder.path().join("ear.jwt"), folder.path().join("list.jwt"));
    std::fs::write(&ear, &issued.ear).unwrap();
    let read = || {
        // The list is there from the first pulse on that knows a credential.
        wait_until("there is a list", || {
            let answer = fleet.as_anyone().send("GET", "/v1/status-lists/0", None);
            std::fs::write(&list, answer.text()).unwrap();
            answer.status == 200
        });
        let mut reader = std::process::Command::new(&python);
        reader.args(["-c", READER]).arg(fleet.data().join("public/jwks.json")).args([&ear, &list]);
        succeed(&mut reader).trim().to_owned()
    };
    let said = format!("tag:ietf.org,2026:rats/ear#04 spiffe://{TRUST_DOMAIN}/host/host-a warning");
    wait_until("the list says VALID", || read() == format!("{said} 0"));
    fleet.operator_ok(&["hosts", "revoke", "host-a"]);
    wait_until("the list says INVALID", || read() == format!("{said} 1"));
}
