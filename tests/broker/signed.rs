//! Reference manifests: who signed them, which version, and what ends by itself.

use countersign::clock::Clock;
use countersign::config::DataDir;
use countersign::keys::listed::{listing, operator_file};
use countersign::keys::operator::OperatorKey;
use countersign::references::Proposal;
use countersign::store::{Table, Write};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::checkpoint::NoteKey;
use countersign_attestation::protocol::HostId;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::house::{Host, House, manifest, opened, operator};

const SIGNATURES: &str = "reference.manifest.signatures";

/// Another operator, listed by name; the folder of the key.
fn second(house: &House, name: &str) -> (TempDir, OperatorKey) {
    let folder = tempfile::tempdir().unwrap();
    let public = OperatorKey::generate(folder.path(), &format!("fleet.example/countersign/operator/{name}")).unwrap();
    let file = operator_file(&house.data(), &HostId::parse(name).unwrap());
    std::fs::write(file, listing(Sha256Digest::of(&[name.as_bytes()]), &public)).unwrap();
    let key = OperatorKey::load(folder.path()).unwrap();
    (folder, key)
}

fn two_must_sign(data: &DataDir) {
    let config = std::fs::read_to_string(data.config()).unwrap();
    assert!(config.contains("reference_signatures = 1"), "{config}");
    std::fs::write(data.config(), config.replace("reference_signatures = 1", "reference_signatures = 2")).unwrap();
}

/// As the broker does every second by itself, which may be faster.
async fn review(house: &House) {
    house.broker().review_references().await.unwrap();
}

async fn register(house: &House, note: &str) -> Result<u64, String> {
    let registered = house.broker().register_reference(&operator(), note, None).await;
    registered.map(|(_, revoked)| revoked).map_err(|problem| problem.code().to_owned())
}

/// Registers a higher version, as previewed before it was signed.
async fn replace(house: &House, manifest: &Value) -> u64 {
    let proposal = Proposal::RegisterReference(to_raw_value(manifest).unwrap());
    let preview = tokio::task::block_in_place(|| house.broker().what_if(proposal, &|_, _| {})).unwrap();
    let note = house.signing_key().sign(&manifest.to_string()).unwrap();
    let (_, revoked) = house.broker().register_reference(&operator(), &note, Some(preview.change)).await.unwrap();
    assert_eq!(revoked, preview.losses.iter().map(|group| group.count).sum::<u64>(), "{preview:?}");
    revoked
}

fn write(data: &DataDir, clock: &Clock, write: Write) {
    opened(data, clock).commit(&[write]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn e16_how_many_must_sign_is_the_verifiers_setting_and_each_operator_counts_once() {
    let mut house = House::new();
    house.restart_after(two_must_sign);
    let mut host = Host::enrolled(&house, "gpu-1").await;
    let text = manifest(&host, &json!({})).to_string();
    let (one, (_folder, other)) = (house.signing_key(), second(&house, "bob"));
    let note = one.sign(&text).unwrap();
    assert_eq!(register(&house, &note).await.unwrap_err(), SIGNATURES, "one of two");
    let line = note.rsplit_once("\n\n").unwrap().1;
    assert_eq!(register(&house, &format!("{note}{line}")).await.unwrap_err(), SIGNATURES, "the same one twice");
    // The same key under another name is the same signer.
    let twin = operator_file(&house.data(), &HostId::parse("alias").unwrap());
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(house.data().path().join("operator/signing.key"), folder.path().join("signing.key")).unwrap();
    let vkey = std::fs::read_to_string(house.data().path().join("operator/signing.vkey")).unwrap();
    let public = NoteKey::parse(vkey.trim()).unwrap();
    let alias: &[u8; 32] = public.public().try_into().unwrap();
    let alias = NoteKey::ed25519("fleet.example/countersign/operator/alias", alias).unwrap();
    std::fs::write(&twin, listing(Sha256Digest([7; 32]), &alias)).unwrap();
    std::fs::write(folder.path().join("signing.vkey"), alias.vkey()).unwrap();
    let twice = OperatorKey::load(folder.path()).unwrap().cosign(&note, 65_536).unwrap();
    assert_eq!(register(&house, &twice).await.unwrap_err(), SIGNATURES, "one key under two names");
    let stranger = tempfile::tempdir().unwrap();
    OperatorKey::generate(stranger.path(), "fleet.example/countersign/operator/eve").unwrap();
    let strange = OperatorKey::load(stranger.path()).unwrap().cosign(&note, 65_536).unwrap();
    assert_eq!(register(&house, &strange).await.unwrap_err(), SIGNATURES, "a key that is on no list");
    // What the record says of it means nothing.
    let mut saying = manifest(&host, &json!({}));
    saying["signatures_required"] = json!(1);
    let saying = other.cosign(&one.sign(&saying.to_string()).unwrap(), 65_536).unwrap();
    assert_eq!(register(&house, &saying).await.unwrap_err(), "reference.manifest.syntax");
    assert_eq!(register(&house, &text).await.unwrap_err(), SIGNATURES, "no signature");
    assert!(house.broker().references.current().manifests.is_empty());

    // Nor does whoever writes the database add a value.
    let clock = house.clock.clone();
    let rows = [
        json!({ "version": 1, "note": note }),
        json!({ "version": 1, "note": text }),
        json!({ "version": 1, "note": twice, }),
        json!({ "version": 2, "note": other.cosign(&note, 65_536).unwrap() }),
    ];
    for row in rows {
        let row_write = Write::put(Table::References, "image-1", row.to_string().into_bytes());
        house.restart_after(|data| write(data, &clock, row_write));
        assert!(house.broker().references.current().manifests.is_empty(), "{row}");
        assert_eq!(host.attest(&house).await.unwrap_err(), "reference.none");
        host.renew();
    }
    house.restart_after(|data| write(data, &clock, Write::Delete(Table::References, b"image-1".to_vec())));
    let both = other.cosign(&note, 65_536).unwrap();
    assert_eq!(register(&house, &both).await.unwrap(), 0);
    host.attest(&house).await.unwrap();
    let signers = house.broker().references.current().manifests[0].signers().to_vec();
    assert_eq!(signers.len(), 2, "{signers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn e16_what_a_removed_operator_signed_ends_with_the_removal_and_replays_all_the_same() {
    let mut house = House::new();
    let mut host = Host::enrolled(&house, "gpu-1").await;
    let (_folder, bob) = second(&house, "bob");
    let note = bob.sign(&manifest(&host, &json!({})).to_string()).unwrap();
    register(&house, &note).await.unwrap();
    host.attest(&house).await.unwrap();
    review(&house).await;
    assert_eq!(house.standing(&host), "trusted", "nothing has changed");
    let file = operator_file(&house.data(), &HostId::parse("bob").unwrap());
    let listed = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    review(&house).await;
    assert_eq!(house.standing(&host), "revoked");
    house.restart();
    assert!(house.broker().references.current().manifests.is_empty(), "not after a restart either");
    assert!(house.replay_all().contains(&"granted"));
    std::fs::write(&file, listed).unwrap();
    review(&house).await;
    assert_eq!(house.broker().references.current().manifests.len(), 1, "listed again");
}

#[tokio::test(flavor = "multi_thread")]
async fn e17_an_older_version_never_comes_back_whoever_signed_it() {
    let mut house = House::new();
    let mut host = Host::enrolled(&house, "gpu-1").await;
    let (first, second, third) = (
        manifest(&host, &json!({})),
        manifest(&host, &json!({ "version": 2, "tpm": { "pcrs": { "sha256": { "0": ["ab".repeat(32)] } } } })),
        manifest(&host, &json!({ "version": 3 })),
    );
    let sign = |manifest: &Value| house.signing_key().sign(&manifest.to_string()).unwrap();
    let [first_note, second_note, third_note] = [&first, &second, &third].map(sign);
    register(&house, &first_note).await.unwrap();
    host.attest(&house).await.unwrap();
    assert_eq!(register(&house, &first_note).await.unwrap_err(), "reference.exists");
    assert_eq!(register(&house, &second_note).await.unwrap_err(), "preview.missing", "it takes another's place");
    let stale = house.broker().register_reference(&operator(), &second_note, Some(Sha256Digest([1; 32]))).await;
    assert_eq!(stale.unwrap_err().code(), "preview.stale");
    assert_eq!(replace(&house, &second).await, 1);
    assert_eq!(house.standing(&host), "revoked");
    assert_eq!(register(&house, &first_note).await.unwrap_err(), "reference.older");
    house.withdraw("image-1").await;
    house.restart();
    for note in [&first_note, &second_note] {
        assert_eq!(register(&house, note).await.unwrap_err(), "reference.older", "retired");
    }
    // Nor does whoever puts it back into the database, signed as it is: the log has its retirement.
    let clock = house.clock.clone();
    for (version, note) in [(1, &first_note), (2, &second_note)] {
        let row = json!({ "version": version, "note": note }).to_string().into_bytes();
        house.restart_after(|data| write(data, &clock, Write::put(Table::References, "image-1", row)));
        assert!(house.broker().references.current().manifests.is_empty(), "version {version}");
    }
    assert_eq!(register(&house, &third_note).await.unwrap(), 0);
    house.restart();
    assert_eq!(house.broker().references.current().manifests.len(), 1);
    assert!(house.replay_all().contains(&"granted"));
}

#[test]
fn e18_the_very_bytes_are_signed_and_no_canonical_form() {
    let folder = tempfile::tempdir().unwrap();
    let public = OperatorKey::generate(folder.path(), "fleet.example/countersign/operator/admin").unwrap();
    let key = OperatorKey::load(folder.path()).unwrap();
    let signers = countersign_policies::signed::Signers::new(std::num::NonZero::<u8>::MIN, [public]);
    // What makers of canonical JSON disagree about: other scripts, keys beyond the BMP, escapes, spaces, order.
    let values = format!("\"{}\", \"{}\"", "CD".repeat(32), "ab".repeat(32));
    let text = format!("{{ \"tpm\": {{\"pcrs\":{{\"sha256\":{{\"4\":[{values}]}}}}}},\n  \"id\" : \"image-1\" }}");
    let described = text.replacen('{', "{ \"description\": \"\u{20ac} \u{1f600} \\ud83d\\ude00 \u{fb33}\",", 1);
    let note = key.sign(&described).unwrap();
    let signed = signers.open(&note).unwrap();
    assert!(signed.note().starts_with(&described), "as it was written");
    let canonical = String::from_utf8(signed.manifest().to_json()).unwrap();
    let rewritten = note.replace(&described, &canonical);
    assert!(rewritten != note && signers.open(&rewritten).is_err(), "the same manifest in other bytes is unsigned");
    for number in ["1e21", "-0", "1.0", "4294967296"] {
        let odd = key.sign(&text.replacen('{', &format!("{{ \"version\": {number},"), 1)).unwrap();
        assert!(signers.open(&odd).is_err(), "{number} is no version, however it is spelt");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_allows_the_old_kernel_until_its_date_and_then_retires_it_by_itself() {
    let house = House::new();
    let mut hosts = [Host::enrolled(&house, "new").await, Host::enrolled(&house, "old").await];
    hosts[0].reboot(crate::measured::Boot::secure(false));
    let [new, old] = [hosts[0].pcr(7), hosts[1].pcr(7)];
    let until = house.moment(20_000);
    let image = |until: &str, replaced_by: &str| {
        manifest(
            &hosts[0],
            &json!({
                "tpm": { "pcrs": { "sha256": { "7": [new, old] } } },
                "artifacts": {
                    "kernel-28": { "kind": "kernel", "values": [old], "until": until, "replaced_by": replaced_by },
                    "kernel-31": { "kind": "kernel", "values": [new] },
                },
                "provenance": { "build": "pipeline 4711", "sources": { "vmlinuz-31": "ab".repeat(32) } },
            }),
        )
    };
    for (until, replaced_by) in [("tomorrow", "kernel-31"), (until.as_str(), "kernel-32"), (&until, "kernel-28")] {
        let refused = house.register_reference(&image(until, replaced_by)).await.unwrap_err();
        assert!(refused.code().starts_with("reference.manifest."), "{refused:?}");
    }
    house.register_reference(&image(&until, "kernel-31")).await.unwrap();
    for host in &mut hosts {
        let granted = host.attest(&house).await.unwrap().credential.unwrap();
        assert!(granted.not_after.to_string() <= until.replace('Z', ".000Z"), "no grant outlives what it stands on");
    }
    house.clock.advance(10_000);
    review(&house).await;
    assert_eq!([&hosts[0], &hosts[1]].map(|host| house.standing(host)), ["trusted", "trusted"]);
    house.clock.advance(10_000);
    review(&house).await;
    assert_eq!(house.standing(&hosts[1]), "revoked", "the date has passed");
    assert_ne!(house.standing(&hosts[0]), "revoked");
    for (host, expected) in hosts.iter_mut().zip([None, Some("trust.revoked")]) {
        host.renew();
        let mut said = host.attest(&house).await.err();
        if said.as_deref() == Some("trust.superseded") {
            // Its lease ended with the artifact as well, just now.
            said = host.attest(&house).await.err();
        }
        assert_eq!(said.as_deref(), expected, "{}", host.id);
    }
    let explained = house.broker().explain_host(&hosts[1].id).unwrap();
    let first = &explained.judged.unwrap().findings[0];
    assert_eq!(first.code, "reference.artifact.ended");
    assert!(first.found.contains("kernel-28") && first.found.contains("replaced by kernel-31"), "{first:?}");
    assert!(house.replay_all().contains(&"granted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_ends_by_its_date_as_a_whole() {
    let house = House::new();
    let mut host = Host::enrolled(&house, "gpu-1").await;
    let past = manifest(&host, &json!({ "until": house.moment(0) }));
    assert_eq!(house.register_reference(&past).await.unwrap_err().code(), "reference.manifest.until");
    house.register_reference(&manifest(&host, &json!({ "until": house.moment(5_000) }))).await.unwrap();
    host.attest(&house).await.unwrap();
    house.clock.advance(5_000);
    review(&house).await;
    assert_eq!(house.standing(&host), "revoked");
    let mut other = Host::enrolled(&house, "gpu-2").await;
    assert_eq!(other.attest(&house).await.unwrap_err(), "reference.ended");
}
