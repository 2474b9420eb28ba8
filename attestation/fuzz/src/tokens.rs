//! What the broker signs: tokens as they come from outside, and any bytes as the payload that the key did sign.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use countersign_attestation::UnixMillis;
use countersign_attestation::pulse::{self, Pulse};
use countersign_attestation::result::ear::{self, Ear};
use countersign_attestation::result::jws::{self, Jwk, JwkSet, Kind, Thumbprint};
use countersign_attestation::result::svid::{CredentialExtension, ExecutionCredential, SpiffeId, TrustDomain};
use countersign_attestation::status_delta::StatusDelta;
use countersign_attestation::status_list::{self, StatusList, StatusListToken};

/// 2026-11-23.
const NOW: UnixMillis = UnixMillis(1_795_392_000_000);

/// P-256 with the private key 1: its public key is G.
const POINT: [u8; 65] = {
    let mut point = [4; 65];
    let g = *b"\x6b\x17\xd1\xf2\xe1\x2c\x42\x47\xf8\xbc\xe6\xe5\x63\xa4\x40\xf2\x77\x03\x7d\x81\x2d\xeb\x33\xa0\
        \xf4\xa1\x39\x45\xd8\x98\xc2\x96\x4f\xe3\x42\xe2\xfe\x1a\x7f\x9b\x8e\xe7\xeb\x4a\x7c\x0f\x9e\x16\
        \x2b\xce\x33\x57\x6b\x31\x5e\xce\xcb\xb6\x40\x68\x37\xbf\x51\xf5";
    let mut at = 0;
    while at < g.len() {
        point[at + 1] = g[at];
        at += 1;
    }
    point
};

static KEY: LazyLock<(EcdsaKeyPair, JwkSet, String)> = LazyLock::new(|| {
    let mut one = [0; 32];
    one[31] = 1;
    let pair = EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_FIXED_SIGNING, &one, &POINT);
    let pair = pair.expect("a key");
    let jwk = Jwk::from_point(pair.public_key().as_ref()).expect("a point");
    let kid = jwk.kid().to_owned();
    (pair, JwkSet::new([jwk]), kid)
});

fn signed(kind: Kind, payload: &[u8]) -> String {
    let (pair, _, kid) = &*KEY;
    let input = jws::signing_input(kind, kid, payload);
    let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).expect("a signature");
    jws::compact(&input, signature.as_ref().try_into().expect("r and s"))
}

fn domain() -> TrustDomain {
    TrustDomain::parse("fleet.example").expect("a trust domain")
}

fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).unwrap_or_default()
}

/// A pulse.
pub fn pulse(bytes: &[u8]) {
    let keys = &KEY.1;
    assert!(Pulse::verify(text(bytes), keys, &domain(), NOW).is_err(), "nobody has the key");
    if let Ok(pulse) = Pulse::verify(&signed(pulse::KIND, bytes), keys, &domain(), NOW) {
        assert!(NOW < pulse.exp && pulse.check_unexpired(pulse.exp).is_err());
        let again = signed(pulse::KIND, &pulse.to_payload());
        assert_eq!(Pulse::verify(&again, keys, &domain(), NOW).as_deref(), Ok(&*pulse));
    }
}

/// A status list token.
pub fn status_list(bytes: &[u8]) {
    let keys = &KEY.1;
    assert!(StatusListToken::verify(text(bytes), keys, NOW).is_err(), "nobody has the key");
    if let Ok((_, list)) = StatusListToken::verify(&signed(status_list::KIND, bytes), keys, NOW) {
        assert_eq!(StatusList::decode(&list.encode()), Ok(list.clone()));
        assert!(list.get(u64::try_from(list.size()).unwrap_or(u64::MAX)).is_err());
    }
}

/// Changes of a status list: one text each, and they lead where they say or nowhere.
pub fn status_delta(bytes: &[u8]) {
    let Ok(delta) = StatusDelta::parse(text(bytes)) else { return };
    assert_eq!(delta.encode().as_bytes(), bytes);
    let list = StatusList::new();
    if let Ok(next) = delta.apply(&list) {
        assert_eq!((list.sha256(), next.sha256()), (delta.from(), delta.to()));
        let shortest = StatusDelta::between(delta.n(), &list, &next);
        assert!(shortest.is_some_and(|shortest| shortest.apply(&list) == Ok(next)));
    }
}

/// An attestation result.
pub fn ear(bytes: &[u8]) {
    let keys = &KEY.1;
    let holder = Thumbprint::of_point(&POINT).expect("a point");
    assert!(Ear::verify(text(bytes), keys, &domain(), &holder, NOW).is_err(), "nobody has the key");
    if let Ok(ear) = Ear::verify(&signed(ear::KIND, bytes), keys, &domain(), &holder, NOW) {
        assert_eq!(ear.cnf.jkt, holder.to_string());
    }
}

/// A key set.
pub fn jwks(bytes: &[u8]) {
    if let Ok(keys) = JwkSet::parse(bytes) {
        assert!(JwkSet::parse(keys.to_json().as_bytes()).is_ok());
    }
}

/// The extension of an X.509-SVID, and names in one.
pub fn credential_extension(bytes: &[u8]) {
    if let Ok(extension) = CredentialExtension::decode(bytes) {
        assert_eq!(extension.encode(), bytes);
    }
    if let Some(id) = SpiffeId::parse(text(bytes)) {
        assert_eq!(id.to_string().as_bytes(), bytes);
    }
    let _ = Thumbprint::of_spki(bytes);
    assert!(ExecutionCredential::verify(&[bytes], &[bytes.to_vec()], &domain(), NOW).is_err());
}
