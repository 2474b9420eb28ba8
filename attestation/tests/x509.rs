//! X.509: genuine certificates are read and walked, departures from RFC 5280 have their code.
#![expect(clippy::expect_used, reason = "test code")]

use std::path::PathBuf;

use base64::Engine as _;
use countersign_attestation::x509::{BasicConstraints, Certificate, Crl, Oid, oid, verify_path};
use countersign_attestation::{Rejection, UnixMillis};
use proptest::prelude::*;

#[path = "../../tests/sim/amd.rs"]
mod sim;
use sim::{integer, sequence, tlv};

/// 2023-06-01T00:00:00Z.
const NOW: UnixMillis = UnixMillis(1_685_577_600_000);

#[expect(clippy::disallowed_methods, reason = "a test reads its environment")]
fn vectors() -> Option<PathBuf> {
    let folder = std::env::var("COUNTERSIGN_VECTORS")
        .map_or_else(|_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors")), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("no vectors at {}: skipped", folder.display());
    None
}

/// The certificates in PEM.
fn pem(text: &str) -> Vec<Vec<u8>> {
    let blocks = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    blocks
        .map(|block| {
            let body = block.split("-----END").next().expect("an end");
            let body: String = body.chars().filter(|character| !character.is_whitespace()).collect();
            base64::engine::general_purpose::STANDARD.decode(body).expect("base64")
        })
        .collect()
}

fn code<T>(result: Result<T, Rejection>) -> &'static str {
    result.map_or_else(|rejection| rejection.code(), |_| "accepted")
}

#[test]
fn every_vendor_certificate_is_read() {
    let Some(folder) = vectors() else { return };
    let text = std::fs::read_to_string(folder.join("tpm/vendor-ca-collection/vendor-ca-all.pem")).expect("PEM");
    let certificates = pem(&text);
    assert!(400 < certificates.len());
    let refused: Vec<_> = certificates
        .iter()
        .filter_map(|der| Certificate::parse(der).err().map(|rejection| (rejection.code(), der.len())))
        .collect();
    // Two of the collection are followed by other bytes inside their PEM.
    assert!(refused.len() <= 2, "{refused:?}");
}

#[test]
fn genuine_endorsement_key_chains_lead_to_their_roots() {
    let Some(folder) = vectors() else { return };
    let cases = [
        "ek-ifx-slb9670-rsa-ca007",
        "ek-ifx-slb9670-ecc-ca035",
        "ek-stm-st33-rsa-ca05",
        "ek-stm-st33-rsa-ca06-a",
        "ek-ntc-npct6xx-1110",
        "ek-ntc-npct75x-2111-b",
        "ek-intel-ptt-spth",
        "ek-gce-ecc-2021",
    ];
    let understood = [oid::SUBJECT_ALT_NAME, oid::CERTIFICATE_POLICIES, oid::EXTENDED_KEY_USAGE];
    for case in cases {
        let folder = folder.join("tpm/ek").join(case);
        let ek = std::fs::read(folder.join("ek.der")).expect("an EK certificate");
        let root = pem(&std::fs::read_to_string(folder.join("root.pem")).expect("a root"));
        let intermediates = std::fs::read_to_string(folder.join("intermediates.pem")).unwrap_or_default();
        let intermediates = pem(&intermediates);
        let parse = Certificate::parse;
        let candidates: Vec<_> = intermediates.iter().map(|der| parse(der).expect("an intermediate")).collect();
        let (ek, root) = (parse(&ek).expect("an EK"), parse(&root[0]).expect("a root"));
        assert_eq!(code(verify_path(&ek, &candidates, &root, NOW, &understood)), "accepted", "{case}");
        assert_eq!(code(verify_path(&ek, &candidates, &root, UnixMillis(0), &understood)), "x509.not_yet_valid");
        assert_eq!(ek.basic_constraints(), BasicConstraints::EndEntity, "{case}");
    }
}

/// A certificate whose signature is 256 zero bytes, with these algorithms inside and outside.
fn certificate(inner: &[u8], outer: &[u8], spki: &[u8], issuer: &str, subject: &str) -> Vec<u8> {
    let validity = sequence(&[&tlv(0x17, b"200101000000Z"), &tlv(0x18, b"99991231235959Z")]);
    let constraints = sequence(&[&tlv(6, &[0x55, 0x1d, 19]), &tlv(4, &sequence(&[&tlv(1, &[0xff])]))]);
    let tbs = sequence(&[
        &tlv(0xa0, &integer(2)),
        &integer(1),
        inner,
        &sim::name(issuer),
        &validity,
        &sim::name(subject),
        spki,
        &tlv(0xa3, &tlv(0x30, &constraints)),
    ]);
    sequence(&[&tbs, outer, &tlv(3, &[0; 257])])
}

fn algorithm(oid: Oid, parameters: &[u8]) -> Vec<u8> {
    sequence(&[&tlv(6, oid.octets()), parameters])
}

fn pss(hash: Oid, mgf_hash: Oid, salt: u8, trailer: Option<u8>) -> Vec<u8> {
    pss_with(oid::MGF1, hash, mgf_hash, salt, trailer)
}

fn pss_with(mgf: Oid, hash: Oid, mgf_hash: Oid, salt: u8, trailer: Option<u8>) -> Vec<u8> {
    let hash = algorithm(hash, &[5, 0]);
    let mgf1 = sequence(&[&tlv(6, mgf.octets()), &algorithm(mgf_hash, &[5, 0])]);
    let trailer = trailer.map(|trailer| tlv(0xa3, &integer(trailer))).unwrap_or_default();
    let parameters = sequence(&[&tlv(0xa0, &hash), &tlv(0xa1, &mgf1), &tlv(0xa2, &integer(salt)), &trailer]);
    algorithm(oid::RSASSA_PSS, &parameters)
}

fn rsa_spki() -> Vec<u8> {
    sim::Authority::new("key").spki()
}

fn p256_spki() -> Vec<u8> {
    let curve = tlv(6, oid::P256.octets());
    sequence(&[&algorithm(oid::EC_PUBLIC_KEY, &curve), &tlv(3, &[&[0, 4][..], &[7; 64]].concat())])
}

#[test]
fn signature_algorithms_are_a_closed_list() {
    let rsa = rsa_spki();
    let judge = |algorithm: &[u8], spki: &[u8]| {
        let subject = certificate(algorithm, algorithm, spki, "issuer", "subject");
        let issuer = certificate(algorithm, algorithm, spki, "issuer", "issuer");
        let (subject, issuer) = (Certificate::parse(&subject), Certificate::parse(&issuer));
        code(subject.expect("a subject").check_issued_by(&issuer.expect("an issuer")))
    };
    let null = [5, 0];
    let sha1_with_rsa = Oid::new(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5], "sha1WithRSAEncryption");
    let sha1 = Oid::new(&[0x2b, 0x0e, 3, 2, 0x1a], "id-sha1");
    let (known, unsupported) = ("x509.signature", "x509.algorithm.unsupported");
    for oid in [oid::SHA256_WITH_RSA, oid::SHA384_WITH_RSA, oid::SHA512_WITH_RSA] {
        assert_eq!(judge(&algorithm(oid, &null), &rsa), known, "{oid}");
        assert_eq!(judge(&algorithm(oid, &integer(1)), &rsa), unsupported, "{oid} with parameters");
        assert_eq!(judge(&algorithm(oid, &null), &p256_spki()), unsupported, "{oid} with an EC key");
    }
    assert_eq!(judge(&algorithm(sha1_with_rsa, &null), &rsa), unsupported);
    for (hash, size) in [(oid::SHA256, 32), (oid::SHA384, 48), (oid::SHA512, 64)] {
        assert_eq!(judge(&pss(hash, hash, size, None), &rsa), known, "{hash}");
        assert_eq!(judge(&pss(hash, hash, size, Some(1)), &rsa), known, "{hash}, trailer encoded");
        assert_eq!(judge(&pss(hash, hash, size, Some(2)), &rsa), unsupported, "{hash}, another trailer");
        assert_eq!(judge(&pss(hash, hash, 20, None), &rsa), unsupported, "{hash}, short salt");
        assert_eq!(judge(&pss(hash, hash, size, None), &p256_spki()), unsupported, "{hash}, EC key");
    }
    assert_eq!(judge(&pss(oid::SHA384, oid::SHA256, 48, None), &rsa), unsupported, "two hashes");
    let other_mgf = pss_with(oid::SHA384, oid::SHA384, oid::SHA384, 48, None);
    assert_eq!(judge(&other_mgf, &rsa), unsupported, "a mask that is not MGF1");
    assert_eq!(judge(&pss(sha1, sha1, 20, None), &rsa), unsupported);
    assert_eq!(judge(&algorithm(oid::RSASSA_PSS, &sequence(&[])), &rsa), unsupported, "all defaults are SHA-1");
    assert_eq!(judge(&algorithm(oid::RSASSA_PSS, &[]), &rsa), unsupported);
    assert_eq!(judge(&algorithm(oid::ECDSA_WITH_SHA256, &[]), &p256_spki()), known);
    assert_eq!(judge(&algorithm(oid::ECDSA_WITH_SHA384, &[]), &p256_spki()), known);
    assert_eq!(judge(&algorithm(oid::ECDSA_WITH_SHA256, &null), &p256_spki()), known, "NULL, as Intel writes it");
    assert_eq!(judge(&algorithm(oid::ECDSA_WITH_SHA256, &integer(1)), &p256_spki()), unsupported);
    assert_eq!(judge(&algorithm(oid::ECDSA_WITH_SHA512, &[]), &p256_spki()), unsupported, "a hash beyond the curve");
    let p521 = sequence(&[
        &algorithm(oid::EC_PUBLIC_KEY, &tlv(6, oid::P521.octets())),
        &tlv(3, &[&[0, 4][..], &[7; 132]].concat()),
    ]);
    for (oid, expected) in [
        (oid::ECDSA_WITH_SHA256, unsupported),
        (oid::ECDSA_WITH_SHA384, known),
        (oid::ECDSA_WITH_SHA512, known),
        (oid::SHA512_WITH_RSA, unsupported),
    ] {
        assert_eq!(judge(&algorithm(oid, &[]), &p521), expected, "{oid} on P-521");
    }
    let oaep = sequence(&[&algorithm(oid::RSAES_OAEP, &null), &tlv(3, &[&[0][..], &[7; 270]].concat())]);
    for oid in [oid::SHA256_WITH_RSA, oid::ECDSA_WITH_SHA256] {
        assert_eq!(judge(&algorithm(oid, &[]), &oaep), unsupported, "{oid}: a key that only encrypts signs nothing");
    }
    assert_eq!(judge(&algorithm(oid::ECDSA_WITH_SHA256, &[]), &rsa), unsupported);
    let compressed = sequence(&[
        &algorithm(oid::EC_PUBLIC_KEY, &tlv(6, oid::P256.octets())),
        &tlv(3, &[&[0, 2][..], &[7; 32]].concat()),
    ]);
    assert_eq!(judge(&algorithm(oid::ECDSA_WITH_SHA256, &[]), &compressed), "x509.key.unsupported");
}

#[test]
fn certificates_have_one_form() {
    let rsa = rsa_spki();
    let sha256 = algorithm(oid::SHA256_WITH_RSA, &[5, 0]);
    let good = certificate(&sha256, &sha256, &rsa, "issuer", "subject");
    assert_eq!(code(Certificate::parse(&good)), "accepted");
    let trailing = [&good[..], &[0]].concat();
    assert_eq!(code(Certificate::parse(&trailing)), "x509.malformed");
    for length in 0..good.len() {
        assert_eq!(code(Certificate::parse(&good[..length])), "x509.malformed", "{length} bytes");
    }
    assert_eq!(code(Certificate::parse(&vec![0x30; 16 * 1024 + 1])), "x509.too_large");
    let other = algorithm(oid::SHA384_WITH_RSA, &[5, 0]);
    let mixed = certificate(&sha256, &other, &rsa, "issuer", "subject");
    assert_eq!(code(Certificate::parse(&mixed)), "x509.algorithm.mismatch");
    let parsed = Certificate::parse(&good).expect("a certificate");
    let stranger = certificate(&sha256, &sha256, &rsa, "issuer", "stranger");
    let stranger = Certificate::parse(&stranger).expect("a certificate");
    assert_eq!(code(parsed.check_issued_by(&stranger)), "x509.issuer.name");
    assert_eq!(parsed.subject_common_name(), Some("subject"));
    assert_eq!(parsed.not_after(), UnixMillis(253_402_300_799_000), "9999-12-31T23:59:59Z");
    assert_eq!(code(parsed.check_valid_at(parsed.not_before())), "accepted");
    assert_eq!(code(parsed.check_valid_at(UnixMillis(parsed.not_before().0 - 1))), "x509.not_yet_valid");
    assert_eq!(code(parsed.check_valid_at(parsed.not_after())), "accepted");
    assert_eq!(code(parsed.check_valid_at(parsed.not_after().plus(1))), "x509.expired");
    assert_eq!(parsed.extension(oid::BASIC_CONSTRAINTS).map(|extension| extension.critical), Some(false));
}

#[test]
fn revocation_lists_have_one_form_and_signer() {
    let root = sim::Authority::new("root");
    let certified = |usage: [u8; 2]| {
        root.issue(&sim::Profile {
            serial: vec![1],
            subject: root.name().to_vec(),
            not_before: sim::NOT_BEFORE.to_owned(),
            not_after: sim::NOT_AFTER.to_owned(),
            spki: root.spki(),
            extensions: sim::authority_extensions(None, usage),
        })
    };
    let list = root.revoke(&[&[0, 0x80], &[5]], sim::NOT_BEFORE, sim::NOT_AFTER);
    let crl = Crl::parse(&list).expect("a list");
    let signed_by = |der: &[u8]| code(crl.check_signed_by(&Certificate::parse(der).expect("a certificate")));
    assert_eq!(signed_by(&certified(sim::ROOT_USAGE)), "accepted");
    assert_eq!(signed_by(&certified(sim::INTERMEDIATE_USAGE)), "x509.issuer.key_usage", "no cRLSign");
    assert!(crl.revokes(&[5]) && crl.revokes(&[0, 0x80]) && crl.revokes(&[0, 5]));
    assert_eq!(crl.number(), Some(&[1][..]));
    assert!(!crl.revokes(&[6]) && !crl.revokes(&[0]) && !crl.revokes(&[5, 5]));
    for length in 0..list.len() {
        assert_eq!(code(Crl::parse(&list[..length])), "x509.crl.malformed", "{length} bytes");
    }
    assert_eq!(code(Crl::parse(&vec![0; 2 * 1024 * 1024 + 1])), "x509.too_large");
    // issuingDistributionPoint: a list that covers only some certificates.
    let partial = sequence(&[&tlv(6, &[0x55, 0x1d, 28]), &tlv(1, &[0xff]), &tlv(4, &sequence(&[]))]);
    let tbs = sequence(&[
        &integer(1),
        &sim::pss_sha384(),
        root.name(),
        &tlv(0x17, sim::NOT_BEFORE.as_bytes()),
        &tlv(0x17, sim::NOT_AFTER.as_bytes()),
        &tlv(0xa0, &tlv(0x30, &partial)),
    ]);
    assert_eq!(code(Crl::parse(&root.sign(&tbs))), "x509.crl.critical");
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Certificate::parse(&bytes);
        let _ = Crl::parse(&bytes);
        let wrapped = sequence(&[&tlv(0x30, &bytes), &tlv(0x30, &bytes), &tlv(3, &bytes)]);
        let _ = Certificate::parse(&wrapped);
        let _ = Crl::parse(&wrapped);
    }
}
