//! Evidence speaks for one machine, one challenge and one key: what is genuine elsewhere is nothing here.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_attestation::evidence::bundle::TPM_QUOTE;
use countersign_attestation::protocol::Base64Bytes;
use serde_json::json;

use crate::house::{CHANNEL, Host, House, manifest};
use crate::tpm::CredentialKey;

/// Two machines of the same image are two machines: neither speaks for the other, though both are trusted.
#[tokio::test(flavor = "multi_thread")]
async fn e2_the_same_image_on_another_machine_is_another_host() {
    let house = House::new();
    let (mut a, mut b) = (Host::enrolled(&house, "host-a").await, Host::enrolled(&house, "host-b").await);
    house.register_reference(&manifest(&a, &json!({}))).await.unwrap();
    assert_eq!((a.pcr(0), a.pcr(4)), (b.pcr(0), b.pcr(4)), "the same image");

    let challenge = house.broker().challenge(&a.id).unwrap();
    let logs = b.logs(&challenge);
    let diverted = b.evidence(&challenge, logs);
    let refused = house.broker().attest(&a.id, CHANNEL, diverted).await.unwrap_err();
    assert_eq!(refused.code(), "tpm.signature.invalid");
    assert_eq!(house.standing(&a), "enrolled");

    let id = |granted: &countersign_attestation::protocol::AttestationResponse| {
        granted.credential.as_ref().unwrap().serial.clone()
    };
    let (first, second) = (a.attest(&house).await.unwrap(), b.attest(&house).await.unwrap());
    assert_ne!((first.decision, id(&first)), (second.decision, id(&second)));
}

/// What a machine proved for one key is no proof for another, and what it proved for one challenge none for the next.
#[tokio::test(flavor = "multi_thread")]
async fn e3_evidence_that_is_reflected_for_another_key_or_challenge_is_refused() {
    let house = House::new();
    let mut host = Host::enrolled(&house, "host-a").await;
    house.register_reference(&manifest(&host, &json!({}))).await.unwrap();
    let challenge = house.broker().challenge(&host.id).unwrap();
    let logs = host.logs(&challenge);
    let mut stolen = host.evidence(&challenge, logs.clone());
    stolen.credential_key = Base64Bytes(CredentialKey::new().spki());
    let refused = house.broker().attest(&host.id, CHANNEL, stolen).await.unwrap_err();
    assert_eq!(refused.code(), "binding.qualifying_data");

    let (first, second) = (house.broker().challenge(&host.id).unwrap(), house.broker().challenge(&host.id).unwrap());
    let mut reflected = host.evidence(&first, logs);
    reflected.challenge = second.challenge;
    let refused = house.broker().attest(&host.id, CHANNEL, reflected).await.unwrap_err();
    assert_eq!(refused.code(), "binding.qualifying_data");
    assert_eq!(house.standing(&host), "enrolled");
}

/// Evidence that is bound to nothing is no evidence: there is no way on without a binder.
#[tokio::test(flavor = "multi_thread")]
async fn e4_evidence_without_a_binder_is_refused() {
    let house = House::new();
    let mut host = Host::enrolled(&house, "host-a").await;
    house.register_reference(&manifest(&host, &json!({}))).await.unwrap();
    for nothing in [&[][..], &[0; 32], &[0; 64]] {
        let challenge = house.broker().challenge(&host.id).unwrap();
        let logs = host.logs(&challenge);
        let mut unbound = host.evidence(&challenge, logs);
        let (quote, _) = host.tpm.quote(&challenge.pcr_selection, nothing);
        unbound.evidence.records.get_mut(TPM_QUOTE).unwrap().1 = URL_SAFE_NO_PAD.encode(quote);
        let refused = house.broker().attest(&host.id, CHANNEL, unbound).await.unwrap_err();
        assert_eq!(refused.code(), "binding.qualifying_data", "{nothing:?}");
    }
    assert_eq!(house.standing(&host), "enrolled");
}
