//! Keys of workloads: certified beside the credential key where the operator said so, and never otherwise.

use countersign::config::{Config, WorkloadKeys};
use countersign_attestation::cmw::{Cmw, ContentType};
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::protocol::{AttestationResponse, Base64Bytes, IssuedCredential, WorkloadKey};
use countersign_attestation::result::ear;
use countersign_attestation::result::svid::{ExecutionCredential, KeyProtection, TrustDomain};
use countersign_attestation::workload_key::message;
use countersign_attestation::x509::Certificate;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;

use crate::house::{CHANNEL, Host, House, manifest};
use crate::tpm::CredentialKey;

fn house(keys: WorkloadKeys) -> House {
    let mut house = House::new();
    let path = house.data().config();
    let config = Config { workload_keys: keys, ..Config::load(&path).unwrap() };
    std::fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
    house.restart();
    house
}

/// Attests with an offer that `change` may spoil.
async fn offer(
    house: &House,
    host: &mut Host,
    key: &CredentialKey,
    change: impl FnOnce(&mut WorkloadKey),
) -> Result<AttestationResponse, String> {
    let challenge = house.broker().challenge(&host.id).unwrap();
    let logs = host.logs(&challenge);
    let mut request = host.evidence(&challenge, logs);
    let nonce = challenge.nonce.0.clone().try_into().unwrap();
    let said = message(&nonce, &host.key.spki(), &key.spki());
    let mut offered = WorkloadKey {
        key: Base64Bytes(key.spki()),
        endorsement: Base64Bytes(host.key.sign(&said)),
        possession: Base64Bytes(key.sign(&said)),
    };
    change(&mut offered);
    request.workload_key = Some(offered);
    house.broker().attest(&host.id, CHANNEL, request).await.map_err(|problem| problem.code().to_owned())
}

fn read(credential: &IssuedCredential, chain: &str, house: &House) -> ExecutionCredential {
    let all = |pem: &str| -> Vec<Vec<u8>> {
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| der.unwrap().to_vec()).collect()
    };
    let chain = all(chain);
    let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
    let domain = TrustDomain::parse("fleet.example").unwrap();
    ExecutionCredential::verify(&chain, &all(&credential.trust_bundle), &domain, house.clock.now()).unwrap()
}

async fn trusted(house: &House) -> Host {
    let host = Host::enrolled(house, "host-a").await;
    house.register_reference(&manifest(&host, &json!({}))).await.unwrap();
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workloads_key_shares_the_decision_and_says_where_it_lives() {
    let house = house(WorkloadKeys::Issue);
    let mut host = trusted(&house).await;
    let key = CredentialKey::new();
    let granted = offer(&house, &mut host, &key, |_| {}).await.unwrap();
    let credential = granted.credential.unwrap();
    let main = read(&credential, &credential.certificate_chain, &house);
    let workload = read(&credential, credential.workload_chain.as_deref().unwrap(), &house);
    assert_eq!((main.key_protection(), workload.key_protection()), (KeyProtection::Tpm, KeyProtection::Memory));
    assert_eq!(main.spiffe_id(), workload.spiffe_id());
    assert_eq!(
        (main.decision(), main.status_list(), main.status_index(), main.generation(), main.not_after()),
        (
            workload.decision(),
            workload.status_list(),
            workload.status_index(),
            workload.generation(),
            workload.not_after()
        ),
    );
    assert_ne!(main.serial(), workload.serial());

    // It is in the log before it is anywhere else.
    let entry = house.broker().lineage.read(granted.log_index).unwrap().unwrap();
    let recorded = Entry::decode(&entry).unwrap().credential().unwrap().workload.unwrap();
    assert_eq!((recorded.key, &recorded.serial), (workload.key(), &workload.serial().0));

    // Another with each credential.
    host.renew();
    assert_eq!(offer(&house, &mut host, &key, |_| {}).await.unwrap_err(), "credential.key.reused");
    let next = offer(&house, &mut host, &CredentialKey::new(), |_| {}).await.unwrap();
    assert!(next.credential.unwrap().workload_chain.is_some());
    host.renew();
    assert_eq!(offer(&house, &mut host, &key, |_| {}).await.unwrap_err(), "credential.key.reused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_vouched_for_or_not_held_gets_nothing() {
    let house = house(WorkloadKeys::Issue);
    let mut host = trusted(&house).await;
    let (key, other) = (CredentialKey::new(), CredentialKey::new());
    let refused = offer(&house, &mut host, &key, |offered| offered.key = Base64Bytes(other.spki())).await;
    assert_eq!(refused.unwrap_err(), "workload_key.endorsement");
    let refused = offer(&house, &mut host, &key, |offered| offered.possession = offered.endorsement.clone()).await;
    assert_eq!(refused.unwrap_err(), "workload_key.possession");
    let refused = offer(&house, &mut host, &key, |offered| offered.key = Base64Bytes(vec![])).await;
    assert_eq!(refused.unwrap_err(), "workload_key.unusable");
    assert_eq!(house.standing(&host), "enrolled", "nothing was granted");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_operators_word_only_keys_in_the_tpm_are_certified() {
    let house = house(WorkloadKeys::Refuse);
    let mut host = trusted(&house).await;
    let granted = offer(&house, &mut host, &CredentialKey::new(), |_| {}).await.unwrap();
    let credential = granted.credential.unwrap();
    assert_eq!(credential.workload_chain, None);
    assert_eq!(read(&credential, &credential.certificate_chain, &house).key_protection(), KeyProtection::Tpm);
}

/// RFC 9999, 6.1: whoever has the certificate has the attestation result.
#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_carries_its_attestation_result() {
    let house = house(WorkloadKeys::Refuse);
    let mut host = trusted(&house).await;
    let credential = host.attest(&house).await.unwrap().credential.unwrap();
    let leaf = CertificateDer::from_pem_slice(credential.certificate_chain.as_bytes()).unwrap();
    let Cmw::Record(record) = Cmw::of_certificate(&Certificate::parse(&leaf).unwrap()).unwrap() else {
        panic!("a record")
    };
    assert_eq!(record.content, ContentType::MediaType(ear::MEDIA_TYPE.to_owned()));
    assert_eq!((String::from_utf8(record.value).unwrap(), record.indicator), (credential.ear, Some(8)));
}
