//! ID blocks of SEV-SNP guests: signed here as an owner signs them, and as another tool did.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "test code: offsets are the specification's")]

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA384, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::claims::{HexBytes, Presented, SnpClaims};
use countersign_attestation::evidence::snp::id_block::{VerifiedIdBlock, verify_id_block};
use countersign_attestation::evidence::snp::{ReportDataExpectation, verify};

#[path = "../../tests/sim/amd.rs"]
mod sim;

static MILAN: LazyLock<sim::AmdSimulator> = LazyLock::new(|| sim::AmdSimulator::new(AmdProduct::Milan));

const NOW: UnixMillis = UnixMillis(1_780_272_000_000);

const POLICY: u64 = 0x3_0000;

/// An owner's ID key and author key.
struct Owner {
    id: EcdsaKeyPair,
    author: EcdsaKeyPair,
}

fn key() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a P-384 key")
}

/// CURVE, QX, QY and zeros.
fn public(key: &EcdsaKeyPair) -> Vec<u8> {
    let point = &key.public_key().as_ref()[1..];
    let mut public = 2_u32.to_le_bytes().to_vec();
    for coordinate in [&point[..48], &point[48..]] {
        public.extend(coordinate.iter().rev());
        public.extend([0; 24]);
    }
    public.resize(0x404, 0);
    public
}

fn sign(key: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    let signature = key.sign(&SystemRandom::new(), message).expect("a signature");
    let mut field = Vec::new();
    for scalar in [&signature.as_ref()[..48], &signature.as_ref()[48..]] {
        field.extend(scalar.iter().rev());
        field.extend([0; 24]);
    }
    field.resize(512, 0);
    field
}

fn id_block(measurement: &[u8; 48]) -> Vec<u8> {
    let mut block = measurement.to_vec();
    block.extend([0x11; 16]);
    block.extend([0x22; 16]);
    block.extend(1_u32.to_le_bytes());
    block.extend(7_u32.to_le_bytes());
    block.extend(POLICY.to_le_bytes());
    block
}

impl Owner {
    fn new() -> Self {
        Self { id: key(), author: key() }
    }

    /// ID authentication information for a block, with or without an author.
    fn auth(&self, block: &[u8], author: bool) -> Vec<u8> {
        let mut auth = vec![0; 4096];
        auth[0] = 1;
        auth[0x40..0x240].copy_from_slice(&sign(&self.id, block));
        auth[0x240..0x644].copy_from_slice(&public(&self.id));
        if author {
            auth[4] = 1;
            auth[0x680..0x880].copy_from_slice(&sign(&self.author, &public(&self.id)));
            auth[0x880..0xc84].copy_from_slice(&public(&self.author));
        }
        auth
    }
}

fn code<T>(verdict: Result<T, countersign_attestation::Rejection>) -> &'static str {
    verdict.map_or_else(|rejection| rejection.code(), |_| "accepted")
}

fn sha384(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA384, bytes).as_ref().to_vec()
}

/// Claims of a guest that was launched with `block`, after `change` to the report's bytes.
fn launched(block: &VerifiedIdBlock, change: impl FnOnce(&mut [u8; sim::SIGNED_BYTES])) -> SnpClaims {
    let evidence = MILAN.evidence_with(|bytes| {
        bytes[4..8].copy_from_slice(&7_u32.to_le_bytes());
        bytes[0x08..0x10].copy_from_slice(&POLICY.to_le_bytes());
        bytes[0x10..0x20].fill(0x11);
        bytes[0x20..0x30].fill(0x22);
        bytes[0x90..0xc0].copy_from_slice(&block.launch_digest());
        bytes[0xe0..0x110].copy_from_slice(&block.id_key_digest());
        if let Presented::Verified(HexBytes(digest)) = block.author_key_digest() {
            bytes[0x48] = 1;
            bytes[0x110..0x140].copy_from_slice(digest);
        }
        change(bytes);
    });
    verify(&evidence, &[MILAN.anchor()], &[], ReportDataExpectation::Recorded, NOW).expect("a good report")
}

#[test]
fn an_id_block_is_what_its_keys_signed() {
    let owner = Owner::new();
    let block = id_block(&[0x4d; 48]);
    for author in [false, true] {
        let verified = verify_id_block(&block, &owner.auth(&block, author)).expect("a signed block");
        assert_eq!((verified.launch_digest(), verified.guest_svn(), verified.policy()), ([0x4d; 48], 7, POLICY));
        assert_eq!(verified.id_key_digest()[..], sha384(&public(&owner.id)));
        let expected = if author {
            Presented::Verified(HexBytes(sha384(&public(&owner.author))))
        } else {
            Presented::NotPresented
        };
        assert_eq!(*verified.author_key_digest(), expected);
    }
    for byte in 0..block.len() {
        let mut other = block.clone();
        other[byte] ^= 1;
        assert_eq!(code(verify_id_block(&other, &owner.auth(&block, true))), "snp.id_block.signature", "byte {byte}");
    }
    let version = |number| {
        let mut other = block.clone();
        other[0x50] = number;
        code(verify_id_block(&other, &owner.auth(&other, true)))
    };
    assert_eq!([version(0), version(1), version(2)], ["snp.id_block.form", "accepted", "snp.id_block.form"]);
    assert_eq!(code(verify_id_block(&block[..95], &owner.auth(&block, true))), "snp.id_block.form");
    assert_eq!(code(verify_id_block(&block, &owner.auth(&block, true)[..4095])), "snp.id_block.form");
}

#[test]
fn no_byte_of_authentication_information_can_change() {
    let owner = Owner::new();
    let block = id_block(&[0x4d; 48]);
    let auth = owner.auth(&block, true);
    let (forms, signatures) = ("snp.id_block.form", "snp.id_block.signature");
    for byte in 0..auth.len() {
        let mut other = auth.clone();
        other[byte] ^= 1;
        let expected = match byte {
            // r and s of both signatures, x and y of both keys; the rest is closed.
            0x40..0x70 | 0x88..0xb8 | 0x680..0x6b0 | 0x6c8..0x6f8 => signatures,
            0x244..0x274 | 0x28c..0x2bc | 0x884..0x8b4 | 0x8cc..0x8fc => signatures,
            _ => forms,
        };
        assert_eq!(code(verify_id_block(&block, &other)), expected, "byte {byte:#x}");
    }
    // An author's key without its signature, a signature without the key, and both without their algorithm.
    let without = |range: core::ops::Range<usize>| {
        let mut other = auth.clone();
        other[range].fill(0);
        code(verify_id_block(&block, &other))
    };
    assert_eq!(without(0x680..0x880), signatures);
    assert_eq!(without(0x880..0xc84), forms);
    assert_eq!(without(4..8), forms);
    let mut unsigned = owner.auth(&block, false);
    unsigned[4] = 1;
    assert_eq!(code(verify_id_block(&block, &unsigned)), forms);
    // Another owner's author key vouches for another ID key.
    let mut mixed = auth.clone();
    mixed[0x680..0xc84].copy_from_slice(&Owner::new().auth(&block, true)[0x680..0xc84]);
    assert_eq!(code(verify_id_block(&block, &mixed)), signatures);
}

#[test]
fn b10_b11_a_report_is_of_the_guest_its_id_block_launched() {
    let owner = Owner::new();
    let bytes = id_block(&[0x4d; 48]);
    for author in [false, true] {
        let block = verify_id_block(&bytes, &owner.auth(&bytes, author)).expect("a signed block");
        assert_eq!(block.check_launched(&launched(&block, |_| {})), Ok(()));
        for (name, offset) in [
            ("GUEST_SVN", 0x04),
            ("POLICY", 0x0a),
            ("FAMILY_ID", 0x10),
            ("IMAGE_ID", 0x2f),
            ("MEASUREMENT", 0x90),
            ("ID_KEY_DIGEST", 0xe0),
        ] {
            let claims = launched(&block, |bytes| bytes[offset] ^= if name == "POLICY" { 0x10 } else { 1 });
            assert_eq!(code(block.check_launched(&claims)), "snp.id_block.mismatch", "{name}");
        }
    }
    let (with, without) = (owner.auth(&bytes, true), owner.auth(&bytes, false));
    let with = verify_id_block(&bytes, &with).expect("a signed block");
    let without = verify_id_block(&bytes, &without).expect("a signed block");
    assert_eq!(code(with.check_launched(&launched(&without, |_| {}))), "snp.id_block.mismatch", "no author");
    assert_eq!(code(without.check_launched(&launched(&with, |_| {}))), "snp.id_block.mismatch", "an author");
    // The claims alone, where the digests are right and the bit is not: no report says that, and it is refused too.
    let claims = SnpClaims { author_key_en: false, ..launched(&with, |_| {}) };
    assert_eq!(code(with.check_launched(&claims)), "snp.id_block.mismatch");
}
