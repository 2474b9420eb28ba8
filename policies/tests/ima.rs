//! Rules over lists that a quote covers: what is listed, signed, left aside, and what denies.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA512,
    RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_attestation::claims::{HexBytes, PcrBank, PcrHash};
use countersign_attestation::evidence::ima::{ImaState, verify};
use countersign_policies::ima::{ImaRules, ImaTally, OffenceKind};
use serde_json::json;

#[path = "../../tests/sim/ima.rs"]
mod sim;

use sim::{KernelExtends, Measured, d_ng, d_ngv2, list, n_ng, replay};

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().unwrap()
}

/// `sha256:hex` of a file with this content.
fn listed(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha256(content)))
}

fn file(path: &str, content: &[u8]) -> Measured {
    Measured::ng(path, &sha256(content))
}

fn quoted(entries: &[Measured], extends: KernelExtends) -> BTreeMap<PcrHash, PcrBank> {
    let values = replay(entries, &digest::SHA256, extends).into_iter();
    let bank = values.map(|(pcr, value)| (u8::try_from(pcr).unwrap(), HexBytes(value))).collect();
    BTreeMap::from([(PcrHash::Sha256, bank)])
}

fn tally_as(rules: &ImaRules, entries: &[Measured], extends: KernelExtends) -> ImaTally {
    let bytes = list(entries);
    let verified = verify(&bytes, &ImaState::start(), &quoted(entries, extends)).unwrap();
    rules.tally(&verified, &ImaTally::start())
}

fn tally(rules: &ImaRules, entries: &[Measured]) -> ImaTally {
    tally_as(rules, entries, KernelExtends::Own)
}

fn codes(tally: &ImaTally) -> Vec<&'static str> {
    tally.findings().iter().map(|finding| finding.code).collect()
}

fn rules(json: &serde_json::Value) -> ImaRules {
    ImaRules::parse(json.to_string().as_bytes()).unwrap()
}

fn refusal(json: &serde_json::Value) -> &'static str {
    ImaRules::parse(json.to_string().as_bytes()).unwrap_err().code
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}

/// `struct signature_v2_hdr`; `key` is the public key as it is hashed into its id.
fn signature(head: [u8; 3], key: &[u8], signature: &[u8]) -> Vec<u8> {
    let id = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, key);
    let size = u16::try_from(signature.len()).unwrap().to_be_bytes();
    [&head[..], &id.as_ref()[16..], &size, signature].concat()
}

struct Signer {
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
}

impl Signer {
    fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let spki = spki.as_ref().to_vec();
        Self { pair, spki }
    }

    fn sign(&self, head: [u8; 3], message: &[u8]) -> Vec<u8> {
        let signed = self.pair.sign(&SystemRandom::new(), message).unwrap();
        signature(head, self.pair.public_key().as_ref(), signed.as_ref())
    }
}

#[test]
fn listed_files_pass_and_others_deny() {
    let rules = rules(&json!({
        "files": {
            "boot_aggregate": [listed(b"boot")],
            "/usr/bin/bash": [listed(b"bash"), listed(b"new bash")],
            "/opt/engine/": [listed(b"engine")],
        },
        "excludes": ["/tmp/"],
        "buffers": { ".ima": [listed(b"key")] },
    }));
    let good = [
        file("boot_aggregate", b"boot"),
        file("/usr/bin/bash", b"new bash"),
        file("/opt/engine/bin/run", b"engine"),
        file("/tmp/x", b"anything"),
        Measured::buf(".ima", b"key"),
    ];
    let passed = tally(&rules, &good);
    assert_eq!(codes(&passed), Vec::<&str>::new());
    assert_eq!((passed.entries, passed.listed, passed.excluded, passed.buffers), (5, 3, 1, 1));
    for (bad, code) in [
        (file("/usr/bin/evil", b"bash"), "ima.file.unlisted"),
        (file("/usr/bin/bash", b"evil"), "ima.file.digest"),
        (file("/opt/engine/bin/run", b"evil"), "ima.file.unlisted"),
        (Measured::buf(".ima", b"other key"), "ima.buffer.unlisted"),
        (Measured::buf("/usr/bin/bash", b"bash"), "ima.buffer.unlisted"),
        (Measured::violation("/usr/bin/bash"), "ima.violation"),
        (Measured::of(10, "sig", &[vec![3, 2]]), "ima.entry.unjudged"),
        (Measured::of(10, "d-ng", &[d_ng("sha256", &sha256(b"bash"))]), "ima.entry.unjudged"),
        (Measured::of(10, "ima-ng", &[d_ng("sm3", &sha256(b"bash")), n_ng("/usr/bin/bash")]), "ima.file.digest"),
        (
            Measured::of(10, "ima-ngv2", &[d_ngv2("verity", "sha256", &sha256(b"bash")), n_ng("/usr/bin/bash")]),
            "ima.file.digest",
        ),
    ] {
        let mut entries = good.to_vec();
        entries.insert(2, bad);
        let denied = tally(&rules, &entries);
        assert_eq!(codes(&denied), [code]);
        assert_eq!((denied.sample.len(), denied.sample[0].index), (1, 2));
    }
}

#[test]
fn a21_violations_deny_unless_the_rules_admit_them() {
    let of = |violations: &str| rules(&json!({"files": {"/a": [listed(b"a")]}, "violations": violations}));
    let entries = [file("/a", b"a"), Measured::violation("/var/log/x"), Measured::violation("/a")];
    let refused = tally(&of("refused"), &entries);
    assert_eq!((codes(&refused), refused.violations), (vec!["ima.violation"], 2));
    let admitted = tally(&of("admitted"), &entries);
    assert_eq!((codes(&admitted), admitted.violations), (vec![], 2), "counted all the same");
    assert_eq!(codes(&tally(&rules(&json!({"files": {"/a": [listed(b"a")]}})), &entries)), ["ima.violation"]);
}

#[test]
fn a21_a_tally_goes_on_only_where_the_last_one_ended() {
    let rules_a = rules(&json!({"files": {"/a": [listed(b"a")]}}));
    let rules_b = rules(&json!({"files": {"/a": [listed(b"a"), listed(b"b")]}}));
    let entries = [file("/a", b"a"), file("/a", b"b"), file("/a", b"a"), file("/a", b"a")];
    let first = list(&entries[..2]);
    let first = verify(&first, &ImaState::start(), &quoted(&entries[..2], KernelExtends::Own)).unwrap();
    let before = rules_a.tally(&first, &ImaTally::start());
    assert_eq!(codes(&before), ["ima.file.digest"]);
    let rest = list(&entries[2..]);
    let rest = verify(&rest, first.state(), &quoted(&entries, KernelExtends::Own)).unwrap();
    let after = rules_a.tally(&rest, &before);
    assert_eq!((after.entries, after.listed, after.next), (4, 3, 4));
    assert_eq!(after, tally(&rules_a, &entries), "the same as at once");
    assert_eq!(codes(&after), ["ima.file.digest"], "an offence stays for the boot");
    let kept: ImaTally = serde_json::from_str(&serde_json::to_string(&after).unwrap()).unwrap();
    assert_eq!(kept, after);
    for (rules, prior) in [
        (&rules_a, ImaTally::start()),
        (&rules_b, before.clone()),
        (&rules_a, after.clone()),
        (&rules_a, ImaTally { next: 1, ..before.clone() }),
    ] {
        assert!(rules.tally(&rest, &prior).offences.contains_key(&OffenceKind::Gap));
    }
    // The whole list again, on top of what was counted.
    let whole = list(&entries);
    let whole = verify(&whole, &ImaState::start(), &quoted(&entries, KernelExtends::Own)).unwrap();
    assert!(codes(&rules_a.tally(&whole, &after)).contains(&"ima.tally.gap"));
}

#[test]
fn signed_files_need_no_digest() {
    let (ours, theirs) = (Signer::new(), Signer::new());
    let rules = rules(&json!({"signature_keys": [pem(&ours.spki)], "files": {"/listed": [listed(b"listed")]}}));
    let signed = |path: &str, content: &[u8], signature: &[u8]| Measured::sig(path, &sha256(content), signature);
    let good = ours.sign([3, 2, 4], b"program");
    let passed = tally(&rules, &[signed("/any/path", b"program", &good), signed("/listed", b"listed", b"rubbish")]);
    assert_eq!((codes(&passed), passed.signed, passed.listed), (vec![], 1, 1));
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut relabelled = theirs.sign([3, 2, 4], b"program");
    relabelled[3..7].copy_from_slice(&good[3..7]);
    let mut long = good.clone();
    long.push(0);
    for bad in [
        flipped,
        relabelled,
        long,
        good[..good.len() - 1].to_vec(),
        good[..9].to_vec(),
        theirs.sign([3, 2, 4], b"program"),
        ours.sign([3, 2, 4], b"another program"),
        ours.sign([3, 1, 4], b"program"),
        ours.sign([3, 3, 4], b"program"),
        ours.sign([5, 2, 4], b"program"),
        ours.sign([6, 3, 4], b"program"),
        ours.sign([3, 2, 2], b"program"),
        ours.sign([3, 2, 5], b"program"),
    ] {
        assert_eq!(codes(&tally(&rules, &[signed("/p", b"program", &bad)])), ["ima.file.signature"], "{bad:02x?}");
    }
    assert_eq!(codes(&tally(&rules, &[signed("/p", b"program", &[])])), ["ima.file.unlisted"]);
    let sm3 = Measured::of(10, "ima-sig", &[d_ng("sm3", &sha256(b"program")), n_ng("/p"), good]);
    assert_eq!(codes(&tally(&rules, &[sm3])), ["ima.file.signature"], "the same bytes, of another hash");
    let sha1 = Measured::of(10, "ima-sig", &[d_ng("sha1", &[1; 20]), n_ng("/p"), ours.sign([3, 2, 2], b"x")]);
    assert_eq!(codes(&tally(&rules, &[sha1])), ["ima.file.signature"]);
}

#[test]
fn rsa_p384_and_verity_signatures_count_too() {
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
    let p256 = Signer::new();
    let rsa_spki: PublicKeyX509Der<'_> = rsa.public_key().as_der().unwrap();
    let p384_spki: PublicKeyX509Der<'_> = p384.public_key().as_der().unwrap();
    let keys = [pem(rsa_spki.as_ref()), pem(p384_spki.as_ref()), pem(&p256.spki)];
    let rules = rules(&json!({"signature_keys": keys}));
    let mut signed = vec![0; 256];
    rsa.sign(&RSA_PKCS1_SHA512, &SystemRandom::new(), b"rsa", &mut signed).unwrap();
    let of_rsa = signature([3, 2, 6], rsa.public_key().as_ref(), &signed);
    let of_p384 = p384.sign(&SystemRandom::new(), b"p384").unwrap();
    let of_p384 = signature([3, 2, 5], p384.public_key().as_ref(), of_p384.as_ref());
    let root = sha256(b"fs-verity");
    let of_verity = p256.sign([6, 3, 4], &[&[6, 4][..], &root].concat());
    let wrong_id = p256.sign([6, 3, 4], &[&[3, 4][..], &root].concat());
    let sig =
        |digest: Vec<u8>, signature: &[u8]| Measured::of(10, "ima-sigv2", &[digest, n_ng("/p"), signature.to_vec()]);
    let sha512 = digest::digest(&digest::SHA512, b"rsa");
    let sha384 = digest::digest(&digest::SHA384, b"p384");
    let passed = tally(
        &rules,
        &[
            sig(d_ngv2("ima", "sha512", sha512.as_ref()), &of_rsa),
            sig(d_ngv2("ima", "sha384", sha384.as_ref()), &of_p384),
            sig(d_ngv2("verity", "sha256", &root), &of_verity),
        ],
    );
    assert_eq!((codes(&passed), passed.signed), (vec![], 3));
    for (kind, signature) in
        [("ima", &of_verity), ("verity", &wrong_id), ("verity", &p256.sign([3, 2, 4], b"fs-verity"))]
    {
        let denied = tally(&rules, &[sig(d_ngv2(kind, "sha256", &root), signature)]);
        assert_eq!(codes(&denied), ["ima.file.signature"]);
    }
}

#[test]
fn what_is_weak_must_be_admitted_by_name() {
    let of = |more: serde_json::Value| {
        let mut all = json!({"files": {"/a": [listed(b"a")]}});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rules(&all)
    };
    let entries = [file("/a", b"a")];
    let padded = KernelExtends::PaddedSha1;
    assert_eq!(codes(&tally_as(&of(json!({})), &entries, padded)), ["ima.padded_sha1"]);
    assert_eq!(codes(&tally_as(&of(json!({"padded_sha1": "admitted"})), &entries, padded)), Vec::<&str>::new());
    let sha1 = json!({"files": {"/a": [format!("sha1:{}", "01".repeat(20))]}});
    assert_eq!(refusal(&sha1), "ima.rules.digest");
    let admitting = json!({"files": {"/a": [format!("sha1:{}", "01".repeat(20))]}, "sha1_digests": "admitted"});
    let passed = tally(&rules(&admitting), &[Measured::legacy("/a", &[1; 20])]);
    assert_eq!((codes(&passed), passed.listed_sha1), (vec![], 1));
    assert_eq!(codes(&tally(&of(json!({"pcrs": [10, 11]})), &entries)), ["ima.pcr_unattested"]);
    let both = [file("/a", b"a"), file("/a", b"a").in_pcr(11)];
    assert_eq!(codes(&tally(&of(json!({"pcrs": [10, 11]})), &both)), Vec::<&str>::new());
    assert_eq!(codes(&ImaTally::start()), ["ima.nothing_measured"]);
}

#[test]
fn entries_of_a_pcr_that_was_not_quoted_count_for_nothing() {
    let rules = rules(&json!({"files": {"/a": [listed(b"a")]}}));
    let entries = [file("/a", b"a"), file("/a", b"a").in_pcr(12), file("/b", b"b").in_pcr(12), file("/a", b"a")];
    let bytes = list(&entries);
    let mut quoted = quoted(&entries, KernelExtends::Own);
    quoted.get_mut(&PcrHash::Sha256).unwrap().remove(&12);
    let verified = verify(&bytes, &ImaState::start(), &quoted).unwrap();
    let tally = rules.tally(&verified, &ImaTally::start());
    assert_eq!((tally.entries, tally.listed, tally.next, codes(&tally)), (2, 2, 4, vec![]));
}

#[test]
fn every_bank_is_judged_alike() {
    let rules = rules(&json!({"files": {"/a": [listed(b"a")]}}));
    let entries = [file("/a", b"a"), file("/b", b"b"), file("/a", b"b"), file("/a", b"a")];
    let value = replay(&entries, &digest::SHA384, KernelExtends::Own).remove(&10).unwrap();
    let sha384 = BTreeMap::from([(PcrHash::Sha384, BTreeMap::from([(10, HexBytes(value))]))]);
    let bytes = list(&entries);
    let verified = verify(&bytes, &ImaState::start(), &sha384).unwrap();
    assert_eq!(rules.tally(&verified, &ImaTally::start()), tally(&rules, &entries), "with and without SHA-256 hashes");
}

#[test]
fn the_boot_aggregate_of_the_quoted_boot_is_listed_by_itself() {
    let rules = rules(&json!({"files": {"/a": [listed(b"a")]}}));
    let firmware: Vec<u8> = (0..10_u8).flat_map(|pcr| [pcr + 1; 32]).collect();
    let judge = |aggregate: &[u8; 32]| {
        let entries = [Measured::ng("boot_aggregate", aggregate)];
        let mut quoted = quoted(&entries, KernelExtends::Own);
        let bank = quoted.get_mut(&PcrHash::Sha256).unwrap();
        bank.extend((0..10_u8).map(|pcr| (pcr, HexBytes(vec![pcr + 1; 32]))));
        let bytes = list(&entries);
        let verified = verify(&bytes, &ImaState::start(), &quoted).unwrap();
        codes(&rules.tally(&verified, &ImaTally::start()))
    };
    assert_eq!(judge(&sha256(&firmware)), Vec::<&str>::new());
    assert_eq!(judge(&sha256(b"another boot")), ["ima.file.unlisted"]);
}

#[test]
fn rules_that_say_too_little_or_too_much_do_not_load() {
    let ok = listed(b"a");
    let zero = format!("sha256:{}", "00".repeat(32));
    for (json, code) in [
        (json!({}), "ima.rules.empty"),
        (json!({"files": {}}), "ima.rules.empty"),
        (json!({"excludes": ["/tmp/"]}), "ima.rules.empty"),
        (json!({"files": {"/a": []}}), "ima.rules.digest"),
        (json!({"files": {"/a": ["sha256:00"]}}), "ima.rules.digest"),
        (json!({"files": {"/a": [zero]}}), "ima.rules.digest"),
        (json!({"files": {"/a": ["*"]}}), "ima.rules.digest"),
        (json!({"files": {"/a": [ok.replace("sha256", "sm3")]}}), "ima.rules.digest"),
        (json!({"files": {"": [ok]}}), "ima.rules.name"),
        (json!({"files": {"/": [ok]}}), "ima.rules.name"),
        (json!({"files": {"a/b": [ok]}}), "ima.rules.name"),
        (json!({"files": {"/a//b": [ok]}}), "ima.rules.name"),
        (json!({"files": {"/a": [ok]}, "excludes": ["/"]}), "ima.rules.exclude"),
        (json!({"files": {"/a": [ok]}, "exclude": []}), "ima.rules.syntax"),
        (json!({"files": {"/a": [ok]}, "violations": true}), "ima.rules.syntax"),
        (json!({"files": {"/a": [ok]}, "pcrs": [11]}), "ima.rules.pcr"),
        (json!({"files": {"/a": [ok]}, "pcrs": [10, 16]}), "ima.rules.pcr"),
        (json!({"signature_keys": ["no key"]}), "ima.rules.key"),
        (json!({"signature_keys": [pem(b"no key")]}), "ima.rules.key"),
        (json!({"signature_keys": [pem(&Signer::new().spki) + "more"]}), "ima.rules.key"),
        (json!({"signature_keys": vec![pem(&Signer::new().spki); 65]}), "ima.rules.key"),
    ] {
        assert_eq!(refusal(&json), code, "{json}");
    }
    let twice = br#"{"files": {"/a": ["sha256:01"], "/a": []}}"#;
    assert_eq!(ImaRules::parse(twice).unwrap_err().code, "ima.rules.syntax");
    assert_eq!(ImaRules::parse(&vec![b' '; 64 * 1024 * 1024 + 1]).unwrap_err().code, "ima.rules.size");
    let (one, other) = (json!({"files": {"/a": [ok]}}), json!({"files": {"/b": [ok]}}));
    assert_eq!(rules(&one).digest(), rules(&one).digest());
    assert_ne!(rules(&one).digest(), rules(&other).digest());
}

/// A Keylime runtime policy, with these members changed.
fn keylime(changed: serde_json::Value) -> serde_json::Value {
    let mut policy = json!({
        "meta": {"version": 1, "generator": 0, "timestamp": "2026-01-01"},
        "release": 0,
        "digests": {"/a": [hex::encode(sha256(b"a"))]},
        "excludes": ["/var/tmp/.*"],
        "keyrings": {".ima": [hex::encode(sha256(b"key"))]},
        "ima": {"ignored_keyrings": ["_evm"], "log_hash_alg": "sha1", "dm_policy": null},
        "ima-buf": {"critical": [hex::encode(sha256(b"data"))]},
        "verification-keys": "",
    });
    policy.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
    policy
}

#[test]
fn keylime_runtime_policies_are_read() {
    let parse =
        |policy: &serde_json::Value, keys: &[&[u8]]| ImaRules::parse_keylime(Some(policy.to_string().as_bytes()), keys);
    let rules = parse(&keylime(json!({})), &[]).unwrap();
    let passed = tally(
        &rules,
        &[
            file("/a", b"a"),
            file("/var/tmp/x", b"x"),
            Measured::buf(".ima", b"key"),
            Measured::buf("critical", b"data"),
            Measured::buf("_evm", b"any key"),
        ],
    );
    assert_eq!((codes(&passed), passed.listed, passed.buffers, passed.excluded), (vec![], 1, 3, 1));
    for (bad, code) in [
        (file("/b", b"a"), "ima.file.unlisted"),
        (file("/a", b"b"), "ima.file.digest"),
        (Measured::buf(".ima", b"other"), "ima.buffer.unlisted"),
        (Measured::buf("device_resume", b"other"), "ima.buffer.unlisted"),
        (Measured::violation("/a"), "ima.violation"),
    ] {
        assert_eq!(codes(&tally(&rules, &[bad])), [code]);
    }
    let signer = Signer::new();
    let keyring = json!({"pubkeys": [STANDARD.encode(&signer.spki)], "keyids": [0x0102_0304]}).to_string();
    let by_keyring = parse(&keylime(json!({"digests": {}, "verification-keys": keyring})), &[]).unwrap();
    let mut signed = signer.sign([3, 2, 4], b"p");
    let by_own_id = Measured::sig("/p", &sha256(b"p"), &signed);
    signed[3..7].copy_from_slice(&[1, 2, 3, 4]);
    assert_eq!(tally(&by_keyring, &[Measured::sig("/p", &sha256(b"p"), &signed)]).signed, 1, "the id it is listed by");
    let beside = ImaRules::parse_keylime(None, &[pem(&signer.spki).as_bytes()]).unwrap();
    assert_eq!(codes(&tally(&beside, &[by_own_id])), Vec::<&str>::new());
    assert_eq!(codes(&tally(&beside, &[file("/p", b"p")])), ["ima.file.unlisted"]);
    for (policy, code) in [
        (keylime(json!({"digests": {}})), "ima.rules.empty"),
        (keylime(json!({"digests": {"/a": []}})), "ima.rules.empty"),
        (keylime(json!({"digests": {"/a": ["0102"]}})), "ima.rules.digest"),
        (keylime(json!({"excludes": [".*"]})), "ima.rules.exclude"),
        (keylime(json!({"excludes": ["/usr/(bin|lib)/.*"]})), "ima.rules.exclude"),
        (keylime(json!({"ima": {"ignored_keyrings": ["*"], "dm_policy": null}})), "ima.rules.exclude"),
        (keylime(json!({"ima": {"dm_policy": {"match_on": "uuid"}}})), "ima.rules.keylime"),
        (keylime(json!({"meta": {"version": 2}})), "ima.rules.keylime"),
        (keylime(json!({"allow": []})), "ima.rules.keylime"),
        (keylime(json!({"verification-keys": "[1]"})), "ima.rules.key"),
    ] {
        assert_eq!(parse(&policy, &[]).unwrap_err().code, code, "{policy}");
    }
    assert_eq!(ImaRules::parse_keylime(None, &[]).unwrap_err().code, "ima.rules.empty");
}

#[test]
fn the_sample_is_bounded_and_has_one_of_each_kind() {
    let rules = rules(&json!({"files": {"/a": [listed(b"a")]}}));
    let mut entries: Vec<Measured> = (0..100).map(|n| file(&format!("/{n}/{}", "x".repeat(400)), b"x")).collect();
    entries.push(Measured::violation("/v"));
    entries.push(file("/a", b"b"));
    let tally = tally(&rules, &entries);
    assert_eq!(
        tally.offences,
        BTreeMap::from([(OffenceKind::Unlisted, 100), (OffenceKind::Digest, 1), (OffenceKind::Violation, 1),])
    );
    assert_eq!(tally.sample.len(), 18);
    assert!(tally.sample.iter().all(|offence| offence.name.len() <= 256));
    assert_eq!(codes(&tally), ["ima.file.unlisted", "ima.file.digest", "ima.violation"]);
}
