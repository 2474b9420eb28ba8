//! Properties of the TPM readers: no input panics, and what they accept, an independent reader (tpm2-protocol) reads
//! the same. Ours is the stricter one by design: canonical selections, known algorithms, nothing trailing.
#![expect(clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::sync::LazyLock;

use countersign_attestation::claims::PcrHash;
use countersign_attestation::endorsement::tpm::{verify_certificate, verify_ek};
use countersign_attestation::evidence::tpm::attest::{Attest, Attested, TpmSignature};
use countersign_attestation::evidence::tpm::public::{Key, Public};
use countersign_attestation::evidence::tpm::quote::{self, RecordedKey, RecordedSignature, RecordedValues};
use countersign_attestation::evidence::tpm::{AttestationKey, EndorsementKey, certify};
use countersign_attestation::protocol::PcrSelection;
use countersign_attestation::time::UnixMillis;
use proptest::prelude::*;
use tpm2_protocol::TpmUnmarshal as _;
use tpm2_protocol::data::{TpmsAttest, TpmtPublic, TpmtSignature, TpmuAttest, TpmuPublicId, TpmuSignature};

#[path = "../../tests/sim/tpm.rs"]
mod sim;

use sim::{AkKind, CredentialKey, SimManufacturer, SimTpm};

static TPMS: LazyLock<[SimTpm; 2]> = LazyLock::new(|| [AkKind::Rsa2048, AkKind::P256].map(SimTpm::new));
static KEY: LazyLock<CredentialKey> = LazyLock::new(CredentialKey::new);
static CERTIFICATE: LazyLock<(SimManufacturer, Vec<u8>)> = LazyLock::new(|| {
    let manufacturer = SimManufacturer::new();
    let certificate = manufacturer.ek_certificate(&TPMS[0]);
    (manufacturer, certificate)
});

fn selections() -> impl Strategy<Value = Vec<PcrSelection>> {
    let pcrs = || proptest::collection::btree_set(0..24_u8, 1..24).prop_map(|pcrs| pcrs.into_iter().collect());
    let one = |bank| pcrs().prop_map(move |pcrs| PcrSelection { bank, pcrs });
    let both = (one(PcrHash::Sha256), one(PcrHash::Sha384));
    (both, 0..4_u8).prop_map(|((first, second), shape)| match shape {
        0 => vec![first],
        1 => vec![second],
        2 => vec![first, second],
        _ => vec![second, first],
    })
}

/// A structure with up to three bytes changed, and then cut or extended.
fn damaged(bytes: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let length = prop_oneof![8 => Just(0_isize), 1 => -8..0_isize, 1 => 0..8_isize];
    (changes, length).prop_map(move |(changes, length)| {
        let mut damaged = bytes.clone();
        for (index, value) in changes {
            let at = index.index(damaged.len());
            damaged[at] = value;
        }
        damaged.resize(damaged.len().saturating_add_signed(length), 0);
        damaged
    })
}

fn attests() -> impl Strategy<Value = Vec<u8>> {
    let data = proptest::collection::vec(any::<u8>(), 0..64);
    let quote = (selections(), data.clone()).prop_map(|(selection, data)| TPMS[1].quote_attest(&selection, &data));
    let certification = data.clone().prop_map(|data| TPMS[1].certify_attest(&sim::name(&KEY.public), &data));
    let creation = data.prop_map(|data| TPMS[1].creation_attest(&sim::name(&KEY.public), &[7; 32], &data));
    prop_oneof![quote, certification, creation].prop_flat_map(damaged)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn an_attestation_reads_as_an_independent_reader_reads_it(bytes in attests()) {
        let Ok(ours) = Attest::read(&bytes) else { return Ok(()) };
        let (theirs, rest) = TpmsAttest::unmarshal(&bytes).unwrap();
        prop_assert!(rest.is_empty());
        prop_assert_eq!(ours.qualified_signer, &*theirs.qualified_signer);
        prop_assert_eq!(ours.extra_data, &*theirs.extra_data);
        prop_assert_eq!(ours.firmware_version, theirs.firmware_version.value());
        prop_assert_eq!(ours.clock.clock, theirs.clock_info.clock.value());
        prop_assert_eq!(ours.clock.reset_count, theirs.clock_info.reset_count.value());
        prop_assert_eq!(ours.clock.restart_count, theirs.clock_info.restart_count.value());
        match (ours.attested, theirs.attested) {
            (Attested::Quote { selection, pcr_digest }, TpmuAttest::Quote(theirs)) => {
                prop_assert_eq!(pcr_digest, &*theirs.pcr_digest);
                prop_assert_eq!(selection.len(), theirs.pcr_select.len());
                for (ours, theirs) in selection.iter().zip(theirs.pcr_select.iter()) {
                    prop_assert_eq!(ours.bank.id(), theirs.hash as u16);
                    let bits: Vec<u8> = (0..32)
                        .filter(|index| {
                            theirs.pcr_select.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
                        })
                        .map(|index| u8::try_from(index).unwrap())
                        .collect();
                    prop_assert_eq!(ours.indexes().collect::<Vec<_>>(), bits);
                }
            }
            (Attested::Certify { name, qualified_name }, TpmuAttest::Certify(theirs)) => {
                prop_assert_eq!(name, &*theirs.name);
                prop_assert_eq!(qualified_name, &*theirs.qualified_name);
            }
            (Attested::Creation { name, creation_hash }, TpmuAttest::Creation(theirs)) => {
                prop_assert_eq!(name, &*theirs.object_name);
                prop_assert_eq!(creation_hash, &*theirs.creation_hash);
            }
            (ours, theirs) => prop_assert!(false, "{:?} and {:?}", ours, theirs),
        }
    }

    #[test]
    fn a_public_area_reads_as_an_independent_reader_reads_it(
        bytes in prop_oneof![
            Just(TPMS[0].ak_public().to_vec()),
            Just(TPMS[1].ak_public().to_vec()),
            Just(TPMS[0].ek_public().to_vec()),
            Just(KEY.public.clone()),
        ].prop_flat_map(damaged)
    ) {
        let Ok(ours) = Public::read(&bytes) else { return Ok(()) };
        prop_assert_eq!(ours.bytes(), &bytes[..]);
        let Ok((theirs, rest)) = TpmtPublic::unmarshal(&bytes) else {
            // They know fewer attributes than the newest revision defines.
            prop_assert!(ours.attributes().bits() & 0x0008_0300 != 0);
            return Ok(());
        };
        prop_assert!(rest.is_empty());
        prop_assert_eq!(ours.name_alg().id(), theirs.name_alg as u16);
        prop_assert_eq!(ours.attributes().bits(), theirs.object_attributes.bits());
        match (ours.key(), theirs.unique) {
            (Key::Rsa { modulus }, TpmuPublicId::Rsa(theirs)) => prop_assert_eq!(modulus, &*theirs),
            (Key::Ecc { x, y, .. }, TpmuPublicId::Ecc(theirs)) => {
                prop_assert_eq!(x, &*theirs.x);
                prop_assert_eq!(y, &*theirs.y);
            }
            (ours, theirs) => prop_assert!(false, "{:?} and {:?}", ours, theirs),
        }
    }

    #[test]
    fn a_signature_reads_as_an_independent_reader_reads_it(
        bytes in prop_oneof![Just(TPMS[0].sign(b"it")), Just(TPMS[1].sign(b"it"))].prop_flat_map(damaged)
    ) {
        let Ok(ours) = TpmSignature::read(&bytes) else { return Ok(()) };
        let (theirs, rest) = TpmtSignature::unmarshal(&bytes).unwrap();
        prop_assert!(rest.is_empty());
        match (ours, theirs.signature) {
            (TpmSignature::RsaSsa { hash, signature }, TpmuSignature::Rsassa(theirs))
            | (TpmSignature::RsaPss { hash, signature }, TpmuSignature::Rsapss(theirs)) => {
                prop_assert_eq!(hash.id(), theirs.hash as u16);
                prop_assert_eq!(signature, &*theirs.sig);
            }
            (TpmSignature::Ecdsa { hash, r, s }, TpmuSignature::Ecdsa(theirs)) => {
                prop_assert_eq!(hash.id(), theirs.hash as u16);
                prop_assert_eq!(r, &*theirs.signature_r);
                prop_assert_eq!(s, &*theirs.signature_s);
            }
            (ours, theirs) => prop_assert!(false, "{:?} and {:?}", ours, theirs),
        }
    }

    #[test]
    fn any_selection_quoted_as_requested_is_accepted_and_claimed(selection in selections(), which in 0..2_usize) {
        let tpm = &TPMS[which];
        let ak = AttestationKey::from_public(tpm.ak_public()).unwrap();
        let (quote, pcrs) = tpm.quote(&selection, &[3; 32]);
        let verified = quote::verify(&quote, &pcrs, &ak, &selection, &[3; 32]).unwrap();
        let claimed = verified.pcrs();
        prop_assert_eq!(claimed.len(), selection.len());
        for entry in &selection {
            let indexes: Vec<u8> = claimed[&entry.bank].keys().copied().collect();
            prop_assert_eq!(&indexes, &entry.pcrs);
            for index in &entry.pcrs {
                prop_assert_eq!(&claimed[&entry.bank][index].0[..], tpm.pcr(entry.bank, *index));
            }
        }
    }

    #[test]
    fn no_bytes_panic_and_none_are_accepted(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        cut in 0..400_usize,
    ) {
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        prop_assert!(Attest::read(&bytes).is_err());
        prop_assert!(AttestationKey::from_public(&bytes).is_err());
        prop_assert!(EndorsementKey::from_public(&bytes).is_err());
        prop_assert!(verify_certificate(&bytes, &[], &[], UnixMillis(0)).is_err());
        let ak = AttestationKey::from_public(TPMS[1].ak_public()).unwrap();
        prop_assert!(quote::verify(first, second, &ak, &[], &[]).is_err());
        prop_assert!(certify::verify(&bytes, &ak, &[], second).is_err());
        for key in [RecordedKey::Enrolled(&ak), RecordedKey::Spki(second)] {
            for signature in [RecordedSignature::Tpmt(second), RecordedSignature::Raw(second)] {
                prop_assert!(quote::verify_recorded(first, signature, key, &RecordedValues::new(), &[]).is_err());
            }
        }
    }

    #[test]
    fn no_damaged_ek_certificate_is_accepted(damaged in Just(CERTIFICATE.1.clone()).prop_flat_map(damaged)) {
        let now = UnixMillis(1_795_392_000_000);
        let judged = verify_ek(&damaged, TPMS[0].ek_public(), &[], &[CERTIFICATE.0.anchor()], now);
        prop_assert_eq!(judged.is_ok(), damaged == CERTIFICATE.1);
    }
}

#[test]
fn every_bit_of_an_rsa_quote_counts() {
    let selection = [PcrSelection { bank: PcrHash::Sha256, pcrs: (0..24).collect() }];
    let ak = AttestationKey::from_public(TPMS[0].ak_public()).unwrap();
    let (good, pcrs) = TPMS[0].quote(&selection, &[3; 32]);
    assert!(quote::verify(&good, &pcrs, &ak, &selection, &[3; 32]).is_ok());
    for bit in 0..good.len() * 8 {
        let mut flipped = good.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(quote::verify(&flipped, &pcrs, &ak, &selection, &[3; 32]).is_err(), "bit {bit}");
    }
}
