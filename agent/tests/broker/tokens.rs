//! What the broker signs: status lists and pulses over one index.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use countersign_agent::clock;
use countersign_attestation::anchor::Assurance;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::pulse::{self, ListDigest, Pulse, PulseCheckpoint};
use countersign_attestation::result::jws::{self, Jwk, JwkSet, Kind};
use countersign_attestation::result::svid::{CredentialExtension, EXTENSION_OID, KeyProtection, TrustDomain};
use countersign_attestation::status_list::{self, Status, StatusList, StatusListToken};
use rcgen::CustomExtension;

const INDEX: u64 = 7;

/// The extension of every credential.
pub(super) fn extension() -> CustomExtension {
    let extension = CredentialExtension {
        status_list: 0,
        status_index: INDEX,
        generation: 1,
        decision: Sha256Digest([1; 32]),
        log_index: 0,
        assurance: Assurance::Simulated,
        waivers: Vec::new(),
        key_protection: KeyProtection::Tpm,
    };
    CustomExtension::from_oid_content(&EXTENSION_OID, extension.encode())
}

/// The token key.
pub(super) struct Tokens(EcdsaKeyPair, Jwk);

impl Tokens {
    pub(super) fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let jwk = Jwk::from_point(key.public_key().as_ref()).unwrap();
        Self(key, jwk)
    }

    pub(super) fn jwks(&self) -> String {
        JwkSet::new([self.1.clone()]).to_json()
    }

    /// The events of one pulse.
    pub(super) fn events(&self, valid: bool, seq: u64) -> String {
        let now = clock::wall();
        let mut list = StatusList::new();
        list.set(INDEX, if valid { Status::Valid } else { Status::Invalid }).unwrap();
        let (iat, exp) = (now.seconds(), now.seconds() + 60);
        let token = StatusListToken { sub: "x".to_owned(), iat, exp, ttl: 1, status_list: list.encode() };
        let pulse = Pulse {
            iss: TrustDomain::parse("a.example").unwrap(),
            epoch: 1,
            seq,
            basis: now,
            iat: now,
            exp: now.plus(5_000),
            lists: vec![ListDigest { n: 0, size: 65_536, sha256: list.sha256() }],
            checkpoint: PulseCheckpoint { origin: "o".to_owned(), size: 0, root: Sha256Digest([0; 32]) },
        };
        let list = self.sign(status_list::KIND, &token.to_payload());
        let pulse = self.sign(pulse::KIND, &pulse.to_payload());
        format!("event: status-list\ndata: {list}\n\nevent: pulse\ndata: {pulse}\n\n")
    }

    fn sign(&self, kind: Kind, payload: &[u8]) -> String {
        let input = jws::signing_input(kind, self.1.kid(), payload);
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        jws::compact(&input, signature.as_ref().try_into().unwrap())
    }
}
