//! TPM structures.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use countersign_attestation::claims::PcrHash;
use countersign_attestation::evidence::tpm::attest::{Attest, Attested, TpmSignature};
use countersign_attestation::evidence::tpm::public::Public;
use countersign_attestation::evidence::tpm::quote::{self, RecordedKey, RecordedSignature, RecordedValues};
use countersign_attestation::evidence::tpm::{
    ActivationSecret, AttestationKey, EndorsementKey, certify, make_credential,
};
use countersign_attestation::protocol::PcrSelection;

/// The point G of P-256 as an attestation key; its private key is 1.
const AK: &str = "0023000b00050072000000100018000b00030010\
    00206b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
    00204fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";

static KEY: LazyLock<AttestationKey> =
    LazyLock::new(|| AttestationKey::from_public(&public()).expect("an attestation key"));

static PAIR: LazyLock<EcdsaKeyPair> = LazyLock::new(|| {
    let mut one = [0; 32];
    one[31] = 1;
    let public = public();
    let (_, coordinates) = public.split_at(public.len() - 68);
    let point = [&[4], &coordinates[2..34], &coordinates[36..]].concat();
    EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_FIXED_SIGNING, &one, &point).expect("a key")
});

/// TPM2B_ATTEST and TPMT_SIGNATURE of any bytes, which a real restricted key would refuse to sign.
fn signed(attest: &[u8]) -> Vec<u8> {
    let signature = PAIR.sign(&SystemRandom::new(), attest).expect("a signature");
    let (r, s) = signature.as_ref().split_at(32);
    let size = u16::try_from(attest.len()).unwrap_or_default().to_be_bytes();
    [&size, attest, &[0, 0x18, 0, 0x0b, 0, 32], r, &[0, 32], s].concat()
}

fn public() -> Vec<u8> {
    let digits: Vec<u8> = AK.bytes().filter(u8::is_ascii_hexdigit).collect();
    let nibble = |digit: u8| u8::try_from(char::from(digit).to_digit(16).unwrap_or_default()).unwrap_or_default();
    digits.chunks(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])).collect()
}

/// TPMS_ATTEST, and what its signature would have to cover.
pub fn tpm_attest(bytes: &[u8]) {
    if let Ok(attest) = Attest::read(bytes) {
        assert!(bytes.starts_with(b"\xffTCG"));
        assert!(attest.extra_data.len() <= 66 && attest.qualified_signer.len() <= 66);
        if let Attested::Quote { selection, .. } = &attest.attested {
            assert!(!selection.is_empty() && selection.iter().all(|entry| entry.indexes().next().is_some()));
        }
        // One form only: whatever follows makes it another structure.
        assert!(Attest::read(&[bytes, &[0]].concat()).is_err());
    }
    let requested = [PcrSelection { bank: PcrHash::Sha384, pcrs: vec![0, 7] }];
    let record = signed(bytes);
    drop(quote::verify(&record, &[0; 100], &KEY, &requested, &[]));
    drop(certify::verify(&record, &KEY, &[], &[]));
    for cut in [0, bytes.len() / 2, bytes.len()] {
        let (attest, signature) = bytes.split_at(cut);
        for signature in [RecordedSignature::Tpmt(signature), RecordedSignature::Raw(signature)] {
            for key in [RecordedKey::Enrolled(&KEY), RecordedKey::Spki(signature_key(bytes))] {
                drop(quote::verify_recorded(attest, signature, key, &RecordedValues::new(), &[]));
            }
        }
    }
}

fn signature_key(bytes: &[u8]) -> &[u8] {
    bytes.get(..91).unwrap_or(bytes)
}

/// TPMT_PUBLIC, as any key, as an attestation key and as an endorsement key.
pub fn tpm_public(bytes: &[u8]) {
    if let Ok(public) = Public::read(bytes) {
        assert_eq!(public.bytes(), bytes);
        assert_eq!(public.name().len(), 2 + public.name_alg().size());
        assert!(public.spki().len() > public.engine_key().len());
        assert!(Public::read(&[bytes, &[0]].concat()).is_err());
    }
    let ak = AttestationKey::from_public(bytes);
    if let Ok(ak) = &ak {
        assert_eq!(ak.public(), bytes);
    }
    if let Ok(ek) = EndorsementKey::from_public(bytes) {
        assert!(ak.is_err(), "a key that signs and decrypts");
        let secret = ActivationSecret::new([1; 32]);
        drop(make_credential(&ek, &[2; 34], &secret, &mut |random| random.fill(3)));
    }
}

/// TPMT_SIGNATURE.
pub fn tpm_signature(bytes: &[u8]) {
    if let Ok(signature) = TpmSignature::read(bytes) {
        let longest = match signature {
            TpmSignature::RsaSsa { signature, .. } | TpmSignature::RsaPss { signature, .. } => signature.len(),
            TpmSignature::Ecdsa { r, s, .. } => r.len().max(s.len()),
        };
        assert!(longest < bytes.len());
        assert!(TpmSignature::read(&[bytes, &[0]].concat()).is_err());
        assert!(
            quote::verify_recorded(
                b"not attested",
                RecordedSignature::Tpmt(bytes),
                RecordedKey::Enrolled(&KEY),
                &RecordedValues::new(),
                &[]
            )
            .is_err()
        );
    }
}

/// A bundle's quote and certification records, under an enrolled key that signed neither.
pub fn tpm_certify(bytes: &[u8]) {
    assert!(certify::verify(bytes, &KEY, &[0; 32], bytes).is_err());
    let (quote, pcrs) = bytes.split_at(bytes.len() / 2);
    assert!(quote::verify(quote, pcrs, &KEY, &[], &[0; 32]).is_err());
}
