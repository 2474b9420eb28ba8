//! Known answers. The files are not part of the repository; without them these tests say so and pass.

extern crate std;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use std::path::PathBuf;
use std::println;

use serde::Deserialize;

use super::{
    ActivationSecret, EndorsementKey, IDENTITY, Public, TpmHash, kdfa, kdfe, make_credential, protect, share_seed,
};

#[expect(clippy::disallowed_methods, reason = "a test reads its environment")]
fn vectors<T: serde::de::DeserializeOwned>(path: &str) -> Option<T> {
    let folder = std::env::var("COUNTERSIGN_VECTORS")
        .map_or_else(|_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors")), PathBuf::from);
    if !folder.is_dir() {
        println!("no vectors at {}: skipped", folder.display());
        return None;
    }
    Some(serde_json::from_slice(&std::fs::read(folder.join(path)).unwrap()).unwrap())
}

fn unhex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Derivation {
    name: String,
    hash_alg: u16,
    #[serde(alias = "Z")]
    key: String,
    label: String,
    context_u: String,
    context_v: String,
    bits: u32,
    result: String,
}

#[test]
fn kdfa_and_kdfe_give_the_known_answers() {
    for (file, is_kdfa) in [("kdfa", true), ("kdfe", false)] {
        let Some(cases) = vectors::<Vec<Derivation>>(&format!("tpm/kat-{file}-visible/vectors.json")) else { return };
        assert!(50 <= cases.len(), "{} cases of {file}", cases.len());
        for case in cases {
            let hash = TpmHash::from_id(case.hash_alg).unwrap();
            let (key, u, v) = (unhex(&case.key), unhex(&case.context_u), unhex(&case.context_v));
            let derived = if is_kdfa {
                kdfa(hash, &key, case.label.as_bytes(), &u, &v, case.bits)
            } else {
                kdfe(hash, &key, format!("{}\0", case.label).as_bytes(), &u, &v, case.bits)
            };
            assert_eq!(hex::encode(&*derived), case.result, "{file} {}", case.name);
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Encapsulation {
    name: String,
    label: String,
    ephemeral_private: String,
    public_key: String,
    secret: String,
    ciphertext: String,
}

#[test]
fn seeds_shared_with_ecc_keys_are_the_known_ones() {
    let Some(cases) = vectors::<Vec<Encapsulation>>("tpm/kat-ecc_labeled_encaps-visible/vectors.json") else { return };
    let mut judged = 0;
    for case in cases {
        let public = unhex(&case.public_key);
        let public = Public::read(&public).unwrap();
        let ephemeral = unhex(&case.ephemeral_private);
        let label = format!("{}\0", case.label);
        let shared = share_seed(&public, label.as_bytes(), &mut |scalar| {
            let at = scalar.len() - ephemeral.len();
            scalar.fill(0);
            scalar[at..].copy_from_slice(&ephemeral);
        });
        let (seed, point) = shared.unwrap();
        assert_eq!(hex::encode(&*seed), case.secret, "{}", case.name);
        assert_eq!(hex::encode(point), case.ciphertext, "{}", case.name);
        judged += 1;
    }
    assert!(60 <= judged, "{judged} cases judged");
}

#[derive(Deserialize)]
struct Made {
    ak_name: String,
    credential_blob_first_80: String,
    ek_tpm2b_public: String,
    secret: String,
    seed_hex: String,
}

#[test]
fn a_made_credential_is_the_known_one() {
    let Some(case) = vectors::<Made>("tpm/makecredential-keylime-rsa/vector.json") else { return };
    let public = unhex(&case.ek_tpm2b_public);
    let ek = EndorsementKey::from_public(&public[2..]).unwrap();
    let (name, seed) = (unhex(&case.ak_name), unhex(&case.seed_hex));
    let secret = ActivationSecret::new(unhex(&case.secret).try_into().unwrap());
    let made = make_credential(&ek, &name, &secret, &mut |bytes| bytes.copy_from_slice(&seed)).unwrap();
    // Magic, version, TPM2B_ID_OBJECT, size of TPM2B_ENCRYPTED_SECRET; what follows is padded at random.
    let blob = &made.credential_blob;
    let sized = [&[0, u8::try_from(blob.len()).unwrap()], &blob[..], &[1, 0]].concat();
    assert_eq!(format!("badcc0de00000001{}", hex::encode(sized)), case.credential_blob_first_80);
    assert_eq!(made.encrypted_secret.len(), 256);
}

#[test]
fn a_broken_source_of_ephemeral_keys_ends_in_a_rejection() {
    // P-256 generator: any point on the curve does.
    let x = "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296";
    let y = "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
    let public = unhex(&format!("0023000b000300720000000600800043001000030010{}{x}{}{y}", "0020", "0020"));
    let ek = EndorsementKey::from_public(&public).unwrap();
    for fill in [0x00, 0xff] {
        let made = make_credential(&ek, &[0; 34], &ActivationSecret::new([1; 32]), &mut |bytes| bytes.fill(fill));
        assert_eq!(made.unwrap_err().code(), "tpm.credential");
    }
    let (seed, _) = share_seed(ek.public(), IDENTITY, &mut |bytes| bytes.fill(1)).unwrap();
    assert_eq!(seed.len(), 32);
    assert!(protect(ek.public(), &seed, &[0; 34], &[2; 32]).is_some());
}
