//! One request at a gate under an operator's policies, beside the one signature that a new caller's certificate costs.

use core::hint::black_box;

use anyhow::{Context as _, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, ParsedPublicKey,
};
use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::Assurance;
use countersign_attestation::protocol::HostId;
use countersign_policies::authorize::{Action, Asked, AuthorizationSet, Caller, Resource};

use crate::engine::{Ratio, compare};

/// Policies of a service with a few groups of paths: as many permits as forbids.
const PAIRS: usize = 10;

/// The path is read from the request line, as each request's is.
pub(crate) fn measure() -> anyhow::Result<Ratio> {
    let mut text = String::new();
    for number in 0..PAIRS {
        text.push_str(&format!(
            "@id(\"p{number}\") permit (principal, action == Action::\"http:GET\", resource in Path::\"/v{number}\")
             when {{ context has host && context.host == \"models.example\" }};
             @id(\"f{number}\") forbid (principal, action, resource in Path::\"/v{number}/admin\")
             unless {{ principal.waivers.isEmpty() && principal.generation < 3 }};\n"
        ));
    }
    let set = AuthorizationSet::parse(&[("bench", &text)]).map_err(|finding| anyhow!("{finding}"))?;
    let host = HostId::parse("gpu-17").context("a host id")?;
    let caller = Caller { host: &host, assurance: Assurance::Hardware, generation: 1, waivers: &[] };
    let ours = || {
        let resource = Resource::parse("/v7/models/llama?stream=true").map_err(|finding| anyhow!("{finding}"))?;
        let asked = Asked { action: Action::Get, resource, host: Some("models.example".to_owned()), peer: None };
        let permit = set.authorize(&caller, &asked, UnixMillis(1_790_000_000_000));
        black_box(permit.map_err(|finding| anyhow!("{finding}"))?);
        Ok(())
    };
    let (key, message) = (EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?, b"a certificate's body");
    let signature = key.sign(&SystemRandom::new(), message)?;
    let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref())
        .map_err(|error| anyhow!("{error}"))?;
    compare(8, &ours, &|| public.verify_sig(message, signature.as_ref()).map_err(|error| anyhow!("{error}")))
}
