//! Waivers and denied hardware, through the broker.

use std::sync::Arc;

use countersign::broker::order::Order;
use countersign::keys::operator::OperatorKey;
use countersign::problem::Problem;
use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::protocol::{AttestationResponse, HostId};
use countersign_attestation::result::svid::{CredentialExtension, EXTENSION_OID};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::amd::AmdSimulator;
use crate::house::{Host, House, manifest, operator};

/// A Genoa whose SNP firmware is one below what its manifest asks for.
struct Fleet {
    house: House,
    host: Host,
}

impl Fleet {
    async fn new() -> Self {
        let amd = Arc::new(AmdSimulator::new(AmdProduct::Genoa));
        let house = House::with_processors(&[&amd]);
        let mut host = Host::enrolled(&house, "gpu-1").await;
        host.processor = Some(amd);
        let snp = json!({
            "measurement": ["3e".repeat(48)],
            "min_tcb": { "genoa": { "bootloader": 4, "tee": 2, "snp": 25, "microcode": 219 } },
        });
        house.register_reference(&manifest(&host, &json!({ "snp": snp }))).await.unwrap();
        Self { house, host }
    }

    /// A waiver of that firmware for this host, `life` milliseconds from now, rounded down to seconds.
    fn waiver(&self, id: &str, life: u64) -> Value {
        json!({
            "id": id, "trust_domain": "fleet.example", "scope": { "hosts": ["gpu-1"] },
            "accepts": [{ "snp_min_tcb": { "genoa": { "bootloader": 4, "tee": 2, "snp": 24, "microcode": 219 } } }],
            "until": self.house.moment(life),
            "reason": "firmware comes on Thursday",
        })
    }

    async fn add(&self, waiver: &Value) -> Result<String, Problem> {
        let key = self.house.signing_key();
        let note = key.sign(&serde_json::to_string_pretty(waiver).unwrap()).unwrap();
        self.house.broker().add_waiver(&operator(), &note).await
    }

    async fn attest(&mut self) -> Result<AttestationResponse, String> {
        self.host.renew();
        self.host.attest(&self.house).await
    }

    fn standing(&self) -> String {
        self.house.standing(&self.host)
    }

    fn events(&self) -> Vec<&'static str> {
        let lineage = &self.house.broker().lineage;
        let entries = (0..lineage.head().size).map(|index| lineage.read(index).unwrap().unwrap());
        entries.map(|bytes| Entry::decode(&bytes).unwrap().event().name()).collect()
    }
}

/// The waivers in both halves of a credential, which are equal.
fn waivers(response: &AttestationResponse) -> Vec<String> {
    let credential = response.credential.as_ref().unwrap();
    let leaf = CertificateDer::pem_slice_iter(credential.certificate_chain.as_bytes()).next().unwrap().unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let ours = leaf.extensions().iter().find(|extension| extension.oid.iter().unwrap().eq(EXTENSION_OID)).unwrap();
    let svid = CredentialExtension::decode(ours.value).unwrap().waivers;
    let payload = credential.ear.split('.').nth(1).unwrap();
    let payload = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, payload).unwrap();
    let ear: Value = serde_json::from_slice(&payload).unwrap();
    let in_ear: Vec<String> =
        ear.get("countersign.waivers").map(|list| serde_json::from_value(list.clone()).unwrap()).unwrap_or_default();
    assert_eq!(svid, in_ear);
    // Neither half outlives it, and what is waived is worth a warning.
    assert!(ear["exp"].as_u64().unwrap() <= credential.not_after.seconds());
    assert_eq!(ear["submods"]["snp"]["ear_status"], "warning");
    svid
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiver_is_recorded_shown_and_ended_by_an_operator() {
    let mut fleet = Fleet::new().await;
    assert_eq!(fleet.attest().await.unwrap_err(), "snp.tcb.below_reference");
    assert_eq!(fleet.add(&fleet.waiver("psp", 120_000)).await.unwrap(), "psp");
    let granted = fleet.attest().await.unwrap();
    assert_eq!(waivers(&granted), ["psp"]);
    let until = fleet.house.broker().references.current().waivers.get("psp").unwrap().until();
    assert_eq!(granted.credential.as_ref().unwrap().not_after, until, "earlier than the five minutes of a credential");
    assert!(granted.lease_until <= until);
    let latest = fleet.house.broker().latest(&fleet.host.id).unwrap().unwrap();
    let shown: Vec<_> = latest.waivers.iter().map(|used| (used.id.as_str(), used.until)).collect();
    assert_eq!(shown, [("psp", until)]);
    let events = fleet.events();
    let at = |name: &str| events.iter().rposition(|event| *event == name).unwrap();
    assert!(at("denied") < at("waiver_registered") && at("waiver_registered") < at("granted"), "{events:?}");
    // A restart knows it still.
    fleet.house.restart();
    assert_eq!(waivers(&fleet.attest().await.unwrap()), ["psp"]);
    // Ended, it takes along who needed it, and never comes back.
    assert_eq!(fleet.house.broker().end_waiver(&operator(), "psp").await.unwrap(), 1);
    assert_eq!(fleet.standing(), "revoked");
    assert_eq!(fleet.events().last(), Some(&"revoked"));
    for _ in 0..2 {
        assert_eq!(fleet.add(&fleet.waiver("psp", 120_000)).await.unwrap_err().code(), "waiver.exists");
        fleet.house.restart();
    }
    let unknown = fleet.house.broker().end_waiver(&operator(), "psp").await.unwrap_err();
    assert_eq!(unknown.code(), "waiver.unknown");
    assert_eq!(fleet.house.replay_all(), ["denied", "granted", "revoked"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiver_ends_closed_at_its_date() {
    let mut fleet = Fleet::new().await;
    // Within a lease, which would end in between.
    fleet.add(&fleet.waiver("psp", 30_000)).await.unwrap();
    fleet.attest().await.unwrap();
    let until = fleet.house.broker().references.current().waivers.get("psp").unwrap().until();
    fleet.house.clock.advance(until.since(fleet.house.clock.now()) - 1);
    let last = fleet.attest().await.unwrap();
    assert_eq!((last.lease_until, last.credential.unwrap().not_after), (until, until), "not a millisecond longer");
    fleet.house.clock.advance(1);
    // Whoever comes first, the watch or this: afterwards the host is revoked and the end is in the log.
    fleet.house.broker().end_past_waivers().await.unwrap();
    assert_eq!(fleet.standing(), "revoked");
    assert!(fleet.events().contains(&"waiver_ended"));
    assert!(fleet.house.broker().references.current().waivers.get("psp").is_none());
    assert_eq!(fleet.house.replay_all().last(), Some(&"revoked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiver_whose_date_passed_while_the_broker_was_down_counts_for_nothing() {
    let mut fleet = Fleet::new().await;
    fleet.add(&fleet.waiver("psp", 10_000)).await.unwrap();
    fleet.attest().await.unwrap();
    fleet.house.clock.advance(11_000);
    fleet.house.restart();
    // Whoever comes first, the start's own re-appraisal or this.
    fleet.house.broker().reappraise().await.unwrap();
    assert_eq!(fleet.standing(), "revoked");
    assert_eq!(fleet.attest().await.unwrap_err(), "trust.revoked");
    assert_eq!(fleet.house.replay_all().last(), Some(&"revoked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_need_a_waiver_keeps_its_trust_when_it_ends() {
    let mut fleet = Fleet::new().await;
    let mut sound = Host::enrolled(&fleet.house, "gpu-2").await;
    sound.processor.clone_from(&fleet.host.processor);
    let snp = json!({ "measurement": ["3e".repeat(48)] });
    let mut other = manifest(&sound, &json!({ "snp": snp }));
    other["id"] = "without-minimum".into();
    let mut waiver = fleet.waiver("all", 120_000);
    waiver["scope"] = json!({ "amd_products": ["genoa"] });
    fleet.add(&waiver).await.unwrap();
    assert_eq!(waivers(&fleet.attest().await.unwrap()), ["all"]);
    fleet.house.register_reference(&other).await.unwrap();
    sound.attest(&fleet.house).await.unwrap();
    assert!(fleet.house.broker().latest(&sound.id).unwrap().unwrap().waivers.is_empty());
    assert_eq!(fleet.house.broker().end_waiver(&operator(), "all").await.unwrap(), 0, "both pass by the new manifest");
    assert_eq!((fleet.standing(), fleet.house.standing(&sound)), ("trusted".into(), "trusted".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_listed_operators_own_signature_registers_a_waiver() {
    let fleet = Fleet::new().await;
    let text = fleet.waiver("psp", 120_000).to_string();
    let own = fleet.house.signing_key();
    let add = async |operator: &str, note: &str| {
        let operator = HostId::parse(operator).unwrap();
        fleet.house.broker().add_waiver(&operator, note).await.map_err(|problem| problem.code().to_owned())
    };
    let stranger = tempfile::tempdir().unwrap();
    OperatorKey::generate(stranger.path(), "fleet.example/countersign/operator/admin").unwrap();
    let forged = OperatorKey::load(stranger.path()).unwrap().sign(&text).unwrap();
    assert_eq!(add("admin", &forged).await.unwrap_err(), "waiver.signature");
    let note = own.sign(&text).unwrap();
    assert_eq!(add("admin", &note.replace("gpu-1", "gpu-2")).await.unwrap_err(), "waiver.signature");
    assert_eq!(add("bob", &note).await.unwrap_err(), "operator.signing_key", "not on the list");
    let listed = fleet.house.data().operators().join("admin");
    let both = std::fs::read_to_string(&listed).unwrap();
    std::fs::write(&listed, both.lines().next().unwrap()).unwrap();
    assert_eq!(add("admin", &note).await.unwrap_err(), "operator.signing_key", "listed without a key");
    std::fs::write(&listed, &both).unwrap();
    let mut long = fleet.waiver("psp", 120_000);
    long["until"] = "2126-01-01T00:00:00Z".into();
    assert_eq!(add("admin", &own.sign(&long.to_string()).unwrap()).await.unwrap_err(), "waiver.until");
    assert!(fleet.house.broker().references.current().waivers.waivers().next().is_none());
    assert!(!fleet.events().contains(&"waiver_registered"), "nothing of it is recorded");
    assert_eq!(add("admin", &note).await.unwrap(), "psp");
}

#[tokio::test(flavor = "multi_thread")]
async fn b7_a_leaked_chip_is_revoked_at_once_and_stays_out() {
    let mut fleet = Fleet::new().await;
    fleet.add(&fleet.waiver("psp", 120_000)).await.unwrap();
    fleet.attest().await.unwrap();
    let chip = hex::encode(crate::amd::hwid(AmdProduct::Genoa));
    let denial = json!({ "instance": { "chip_id": chip }, "reason": "its keys were published" }).to_string();
    let (id, revoked) = fleet.house.broker().deny_instance(&operator(), denial.as_bytes()).await.unwrap();
    assert_eq!((revoked, fleet.standing()), (1, "revoked".into()));
    let trust = fleet.house.broker().trust.host(&fleet.host.id).unwrap().unwrap();
    assert_eq!(trust.reasons, ["instance.denied"]);
    fleet.house.restart();
    fleet.house.broker().readmit(&operator(), &fleet.host.id).await.unwrap();
    assert_eq!(fleet.attest().await.unwrap_err(), "instance.denied");
    let malformed = fleet.house.broker().deny_instance(&operator(), b"{}").await.unwrap_err();
    assert_eq!(malformed.code(), "instance.denial.syntax");
    fleet.house.broker().withdraw_denial(&operator(), id).await.unwrap();
    let unknown = fleet.house.broker().withdraw_denial(&operator(), id).await.unwrap_err();
    assert_eq!(unknown.code(), "instance.denial.unknown");
    assert_eq!(waivers(&fleet.attest().await.unwrap()), ["psp"]);
    let events = fleet.events();
    assert!(events.contains(&"instance_denied") && events.contains(&"denial_withdrawn"));
    assert!(fleet.house.replay_all().contains(&"revoked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_only_so_many_waivers() {
    let fleet = Fleet::new().await;
    for number in 0..256 {
        fleet.add(&fleet.waiver(&format!("w{number}"), 120_000)).await.unwrap();
    }
    assert_eq!(fleet.add(&fleet.waiver("more", 120_000)).await.unwrap_err().code(), "waiver.count");
    fleet.house.broker().end_waiver(&operator(), "w7").await.unwrap();
    fleet.add(&fleet.waiver("more", 120_000)).await.unwrap();
    let past = fleet.house.broker().references.waivers_past(UnixMillis(u64::MAX));
    assert_eq!(past.len(), 256);
}

/// One guest under two names: its report names the launch, whichever TPM comes beside it.
#[tokio::test(flavor = "multi_thread")]
async fn one_guest_under_two_names_is_denied_under_both() {
    let mut fleet = Fleet::new().await;
    fleet.add(&fleet.waiver("psp", 120_000)).await.unwrap();
    let mut copy = Host::enrolled(&fleet.house, "gpu-2").await;
    (copy.processor, copy.guest) = (fleet.host.processor.clone(), fleet.host.guest);
    let waiver = |id: &str| {
        let mut waiver = fleet.waiver(id, 120_000);
        waiver["scope"] = json!({ "hosts": ["gpu-2"] });
        waiver
    };
    fleet.add(&waiver("psp-2")).await.unwrap();
    fleet.attest().await.unwrap();
    fleet.attest().await.unwrap();
    assert_eq!(copy.attest(&fleet.house).await.unwrap_err(), "instance.cloned");
    for host in [&fleet.host, &copy] {
        let trust = fleet.house.broker().trust.host(&host.id).unwrap().unwrap();
        assert_eq!(
            (fleet.house.standing(host).as_str(), trust.reasons),
            ("revoked", vec!["instance.cloned".to_owned()])
        );
    }
    assert_eq!(fleet.attest().await.unwrap_err(), "trust.revoked");
    // The copy is out of service; the original is readmitted, and stands alone.
    fleet.house.broker().remove(&operator(), &copy.id).await.unwrap();
    fleet.house.broker().readmit(&operator(), &fleet.host.id).await.unwrap();
    fleet.attest().await.unwrap();
    // A machine whose trust ended may come back under another name.
    let moved = Host::enrolled(&fleet.house, "gpu-3").await;
    let mut moved = Host { processor: fleet.host.processor.clone(), guest: fleet.host.guest, ..moved };
    let mut third = fleet.waiver("psp-3", 120_000);
    third["scope"] = json!({ "hosts": ["gpu-3"] });
    fleet.add(&third).await.unwrap();
    fleet.house.broker().revoke(&operator(), &fleet.host.id).await.unwrap();
    moved.attest(&fleet.house).await.unwrap();
}

/// What hosts have in common takes their trust away together; who has it not stays.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_revokes_what_it_selects_and_nothing_else() {
    let mut fleet = Fleet::new().await;
    fleet.add(&fleet.waiver("psp", 120_000)).await.unwrap();
    fleet.attest().await.unwrap();
    let mut bystander = Host::enrolled(&fleet.house, "tpm-only").await;
    let mut reference = manifest(&bystander, &json!({}));
    reference["id"] = json!("tpm-only");
    fleet.house.register_reference(&reference).await.unwrap();
    bystander.attest(&fleet.house).await.unwrap();
    let broker = Arc::clone(fleet.house.broker());
    let order = |select: Value, dry_run: bool| {
        let order = json!({ "select": select, "reason": "fix comes on Friday", "dry_run": dry_run });
        serde_json::from_value::<Order>(order).unwrap()
    };
    let AmdSimulator { product, .. } = **fleet.host.processor.as_ref().unwrap();
    assert_eq!(product, AmdProduct::Genoa);
    let chip = hex::encode(crate::amd::hwid(product));
    for (select, hosts) in [
        (json!({ "amd_product": "genoa" }), 1),
        (json!({ "amd_product": "milan" }), 0),
        (json!({ "chip_id": chip }), 1),
        (json!({ "chip_id": "00".repeat(64) }), 0),
        (json!({ "ppid": "00" }), 0),
        (json!({ "fmspc": "00" }), 0),
        (json!({ "reference": "tpm-only" }), 1),
        (json!({ "reference": "another" }), 0),
        (json!({ "policy": "nobodys" }), 0),
    ] {
        let found = broker.revoke_selected(&operator(), order(select.clone(), true)).await.unwrap();
        assert_eq!((found.hosts, found.dry_run), (hosts, true), "{select}");
    }
    for silent in ["", " ", "a\nb"] {
        let empty = Order { reason: silent.into(), ..order(json!({ "amd_product": "genoa" }), false) };
        assert_eq!(broker.revoke_selected(&operator(), empty).await.unwrap_err().code(), "request.malformed");
    }
    assert_eq!((fleet.standing().as_str(), &*fleet.house.standing(&bystander)), ("trusted", "trusted"), "dry runs");
    let done = broker.revoke_selected(&operator(), order(json!({ "amd_product": "genoa" }), false)).await.unwrap();
    assert_eq!((done.hosts, done.named), (1, vec![fleet.host.id.clone()]));
    assert_eq!((fleet.standing().as_str(), &*fleet.house.standing(&bystander)), ("revoked", "trusted"));
    let newest =
        (0..broker.lineage.head().size).rev().take(4).map(|index| broker.lineage.read(index).unwrap().unwrap());
    let ordered =
        newest.map(|bytes| Entry::decode(&bytes).unwrap()).find(|entry| entry.event().name() == "revocation_ordered");
    assert_eq!(ordered.unwrap().subject(), Some(done.order), "the log names the order");
    let ak = hex::encode(broker.latest(&bystander.id).unwrap().unwrap().claims.unwrap().tpm.ak_name.0.clone());
    let done = broker.revoke_selected(&operator(), order(json!({ "ak_name": ak }), false)).await.unwrap();
    assert_eq!(done.named, [bystander.id.clone()]);
    assert_eq!(fleet.house.standing(&bystander), "revoked");
}
