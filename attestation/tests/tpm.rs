//! TPM evidence of a software TPM: what must pass, and each departure with its code (attacks A1 to A9 and A23).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use aws_lc_rs::signature::{RSA_PKCS1_SHA384, RSA_PSS_SHA256};
use countersign_attestation::anchor::Assurance;
use countersign_attestation::binder::{Binder, ChannelBinding, Role};
use countersign_attestation::claims::{
    HexBytes, KeyAuthorization, PcrHash, Presented, TpmClaims, TpmIdentity, TpmKeyClaims,
};
use countersign_attestation::endorsement::tpm::verify_ek;
use countersign_attestation::evidence::bundle::Bundle;
use countersign_attestation::evidence::tpm::algorithm::TpmHash;
use countersign_attestation::evidence::tpm::attest::BankSelection;
use countersign_attestation::evidence::tpm::creation::policy_pcr;
use countersign_attestation::evidence::tpm::public::Public;
use countersign_attestation::evidence::tpm::quote::{
    RecordedKey, RecordedSignature, RecordedValues, check_same_key, verify_recorded,
};
use countersign_attestation::evidence::tpm::{
    self, ActivationSecret, AttestationKey, EndorsementKey, EnrolledTpm, make_credential,
};
use countersign_attestation::protocol::PcrSelection;
use countersign_attestation::{Rejection, UnixMillis};

#[path = "../../tests/sim/tpm.rs"]
mod sim;

use sim::{AK_ATTRIBUTES, AkKind, CredentialKey, SimManufacturer, SimTpm, tpm2b};

static RSA: LazyLock<SimTpm> = LazyLock::new(|| SimTpm::new(AkKind::Rsa2048));
static P256: LazyLock<SimTpm> = LazyLock::new(|| SimTpm::new(AkKind::P256));
static KEY: LazyLock<CredentialKey> = LazyLock::new(CredentialKey::new);

/// 2026-11-23.
const NOW: UnixMillis = UnixMillis(1_795_392_000_000);

fn selection() -> Vec<PcrSelection> {
    vec![
        PcrSelection { bank: PcrHash::Sha256, pcrs: (0..24).collect() },
        PcrSelection { bank: PcrHash::Sha384, pcrs: vec![0, 7] },
    ]
}

fn binder() -> Binder {
    Binder::new(Role::Host, &[7; 32], &KEY.spki(), &ChannelBinding([1; 32]))
}

fn identity() -> TpmIdentity {
    TpmIdentity::from_attributes("id:00001014", "swtpm", "id:20240125")
}

fn enrolled(tpm: &SimTpm) -> EnrolledTpm {
    let ak = AttestationKey::from_public(tpm.ak_public()).unwrap();
    let ek = EndorsementKey::from_public(tpm.ek_public()).unwrap().id();
    EnrolledTpm::new(ak, ek, Assurance::Simulated, identity())
}

fn bundle(tpm: &SimTpm) -> Bundle {
    let qualifying_data = binder().qualifying_data();
    let (tpm_quote, tpm_pcrs) = tpm.quote(&selection(), &qualifying_data);
    let tpm_certify = tpm.certify(&KEY, &qualifying_data);
    Bundle { tpm_quote, tpm_pcrs, tpm_certify, event_log: None, ima: None, snp: None, tdx: None, paravisor: None }
}

fn judge(tpm: &SimTpm, bundle: &Bundle) -> Result<TpmClaims, Rejection> {
    tpm::verify(bundle, &enrolled(tpm), &selection(), &binder(), &KEY.spki())
}

fn code(tpm: &SimTpm, bundle: &Bundle) -> &'static str {
    judge(tpm, bundle).map_or_else(|rejection| rejection.code(), |_| "accepted")
}

/// The verdict on a quote whose attest structure was changed and then signed by the AK again.
fn resigned(tpm: &SimTpm, change: impl FnOnce(&mut Vec<u8>)) -> &'static str {
    let mut attest = tpm.quote_attest(&selection(), &binder().qualifying_data());
    change(&mut attest);
    code(tpm, &Bundle { tpm_quote: tpm.signed(&attest), ..bundle(tpm) })
}

/// The verdict on a quote over `quoted` with its own values, where [`selection`] was requested.
fn quoted(quoted: &[PcrSelection]) -> &'static str {
    let (tpm_quote, tpm_pcrs) = P256.quote(quoted, &binder().qualifying_data());
    code(&P256, &Bundle { tpm_quote, tpm_pcrs, ..bundle(&P256) })
}

/// Offset of TPML_PCR_SELECTION: magic, type, signer's Name of 34, extraData of 32, clock info, firmware version.
const SELECTION_AT: usize = 4 + 2 + 36 + 34 + 17 + 8;

#[test]
fn a_quote_and_a_certification_by_the_enrolled_key_become_claims() {
    for tpm in [&*RSA, &*P256] {
        let claims = judge(tpm, &bundle(tpm)).unwrap();
        assert_eq!(claims.ak_name.0, tpm.ak_name());
        assert_eq!(claims.clock, tpm.clock);
        assert_eq!(claims.firmware_version, tpm.firmware_version);
        assert_eq!(claims.assurance, Assurance::Simulated);
        assert_eq!(claims.pcrs[&PcrHash::Sha256].len(), 24);
        assert_eq!(claims.pcrs[&PcrHash::Sha384][&7].0, tpm.pcr(PcrHash::Sha384, 7));
    }
}

#[test]
fn a1_only_the_requested_selection_is_accepted() {
    let [first, second] = selection().try_into().unwrap();
    assert_eq!(quoted(&[first.clone(), second.clone()]), "accepted");
    assert_eq!(quoted(&[]), "tpm.quote.selection.empty");
    assert_eq!(quoted(&[first.clone(), PcrSelection { pcrs: vec![], ..second.clone() }]), "tpm.quote.selection.empty");
    assert_eq!(quoted(&[PcrSelection { pcrs: vec![0], ..first.clone() }]), "tpm.quote.selection");
    assert_eq!(quoted(core::slice::from_ref(&first)), "tpm.quote.selection");
    assert_eq!(quoted(&[first.clone(), PcrSelection { pcrs: vec![0, 7, 8], ..second }]), "tpm.quote.selection");
}

#[test]
fn a2_a_selection_is_canonical_and_in_order() {
    let [first, second] = selection().try_into().unwrap();
    assert_eq!(quoted(&[second.clone(), first.clone()]), "tpm.quote.selection");
    assert_eq!(quoted(&[first.clone(), first.clone()]), "tpm.quote.selection.form");
    // The same PCRs of other banks, with their own values.
    let of = |bank| PcrSelection { bank, pcrs: vec![0, 7] };
    let (sha256, sha384) = (of(PcrHash::Sha256), of(PcrHash::Sha384));
    let ak = AttestationKey::from_public(P256.ak_public()).unwrap();
    for banks in [vec![sha256.clone()], vec![sha256, sha384]] {
        let other: Vec<_> = [of(PcrHash::Sha384), of(PcrHash::Sha256)].into_iter().take(banks.len()).collect();
        let (quote, pcrs) = P256.quote(&other, &[9; 32]);
        let judged = tpm::quote::verify(&quote, &pcrs, &ak, &banks, &[9; 32]);
        assert_eq!(judged.map(drop).map_err(|rejection| rejection.code()), Err("tpm.quote.selection"));
    }
    assert_eq!(resigned(&P256, |attest| attest[SELECTION_AT + 3] = 5), "tpm.quote.selection.form");
    assert_eq!(resigned(&P256, |attest| attest[SELECTION_AT] = 0xff), "tpm.quote.selection.form");
    assert_eq!(resigned(&P256, |attest| attest[SELECTION_AT + 6] = 2), "tpm.quote.selection.form");
    // SM3.
    assert_eq!(resigned(&P256, |attest| attest[SELECTION_AT + 5] = 0x12), "tpm.quote.bank");
    // A fourth select byte that selects nothing is another form of the same selection; one that selects is not.
    let fourth = |value: u8| {
        resigned(&P256, |attest| {
            attest[SELECTION_AT + 6] = 4;
            attest.insert(SELECTION_AT + 10, value);
        })
    };
    assert_eq!(fourth(0), "accepted");
    assert_eq!(fourth(1), "tpm.quote.selection");
}

#[test]
fn a3_pcr_values_are_the_ones_that_were_quoted() {
    let good = bundle(&P256);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bundle = good.clone();
        change(&mut bundle.tpm_pcrs);
        code(&P256, &bundle)
    };
    assert_eq!(changed(&|_| {}), "accepted");
    assert_eq!(changed(&|pcrs| pcrs[2] ^= 1), "tpm.quote.pcr_digest");
    // Values exchanged between two PCRs.
    let exchanged = |pcrs: &mut Vec<u8>| {
        let value = pcrs.splice(..34, []).collect::<Vec<_>>();
        pcrs.splice(34 * 22..34 * 22, value);
    };
    assert_eq!(changed(&exchanged), "tpm.quote.pcr_digest");
    assert_eq!(changed(&|pcrs| pcrs.truncate(pcrs.len() - 1)), "tpm.quote.pcr_values");
    assert_eq!(changed(&|pcrs| pcrs.truncate(34 * 24)), "tpm.quote.pcr_values");
    assert_eq!(changed(&|pcrs| pcrs.extend(tpm2b(&[0; 32]))), "tpm.quote.pcr_values");
    assert_eq!(changed(&Vec::clear), "tpm.quote.pcr_values");
    // The same bytes, cut at another place: the digest alone would not notice.
    let shifted = |pcrs: &mut Vec<u8>| {
        let (first, second) = (pcrs[2..34].to_vec(), pcrs[36..68].to_vec());
        let both = [first, second].concat();
        pcrs.splice(..68, [tpm2b(&both[..31]), tpm2b(&both[31..])].concat());
    };
    assert_eq!(changed(&shifted), "tpm.quote.pcr_values");
}

#[test]
fn a4_magic_type_and_trailing_bytes_are_refused() {
    for tpm in [&*RSA, &*P256] {
        assert_eq!(resigned(tpm, |_| {}), "accepted");
        assert_eq!(resigned(tpm, |attest| attest[0] = 0xfe), "tpm.attest.magic");
        assert_eq!(resigned(tpm, |attest| attest[5] = 0x19), "tpm.attest.type");
        assert_eq!(resigned(tpm, |attest| attest.push(0)), "tpm.malformed");
        assert_eq!(resigned(tpm, |attest| attest.truncate(attest.len() - 1)), "tpm.malformed");
        // TPMI_YES_NO.
        assert_eq!(resigned(tpm, |attest| attest[SELECTION_AT - 9] = 2), "tpm.malformed");
        // An empty pcrDigest.
        let empty = |attest: &mut Vec<u8>| {
            attest.truncate(attest.len() - 34);
            attest.extend([0, 0]);
        };
        assert_eq!(resigned(tpm, empty), "tpm.quote.pcr_digest");
    }
    let good = bundle(&P256);
    // Each statement in the other's place: same key, same binder, valid signatures.
    let certification = P256.certify_attest(&sim::name(&KEY.public), &binder().qualifying_data());
    let swapped = Bundle { tpm_quote: P256.signed(&certification), ..good.clone() };
    assert_eq!(code(&P256, &swapped), "tpm.attest.type");
    let quote = P256.quote_attest(&selection(), &binder().qualifying_data());
    let swapped = Bundle { tpm_certify: [P256.signed(&quote), tpm2b(&KEY.public)].concat(), ..good.clone() };
    assert_eq!(code(&P256, &swapped), "tpm.attest.type");
    for record in [|b: &mut Bundle| b.tpm_quote.push(0), |b: &mut Bundle| b.tpm_certify.push(0)] {
        let mut trailing = good.clone();
        record(&mut trailing);
        assert_eq!(code(&P256, &trailing), "tpm.malformed");
    }
}

#[test]
fn a5_a_valid_structure_needs_a_valid_signature() {
    for tpm in [&*RSA, &*P256] {
        let other = SimTpm::new(AkKind::P256);
        let stranger = if core::ptr::eq(tpm, &raw const *RSA) { &*P256 } else { &other };
        let attest = tpm.quote_attest(&selection(), &binder().qualifying_data());
        let mut signature = tpm.sign(&attest);
        *signature.last_mut().unwrap() ^= 1;
        let random = Bundle { tpm_quote: [tpm2b(&attest), signature].concat(), ..bundle(tpm) };
        assert_eq!(code(tpm, &random), "tpm.signature.invalid");
        let foreign = Bundle { tpm_quote: [tpm2b(&attest), stranger.sign(&attest)].concat(), ..bundle(tpm) };
        assert!(["tpm.signature.invalid", "tpm.signature.scheme"].contains(&code(tpm, &foreign)));
        let certify = tpm.certify_attest(&sim::name(&KEY.public), &binder().qualifying_data());
        let forged = [tpm2b(&certify), stranger.sign(&certify), tpm2b(&KEY.public)].concat();
        assert!(code(tpm, &Bundle { tpm_certify: forged, ..bundle(tpm) }).starts_with("tpm.signature."));
    }
}

#[test]
fn a6_evidence_without_a_quote_is_refused() {
    assert_eq!(code(&P256, &Bundle { tpm_quote: Vec::new(), ..bundle(&P256) }), "tpm.malformed");
    assert_eq!(code(&P256, &Bundle { tpm_certify: Vec::new(), ..bundle(&P256) }), "tpm.malformed");
    // TPM_ALG_NULL: the form of a signature that is none.
    let attest = P256.quote_attest(&selection(), &binder().qualifying_data());
    let unsigned = Bundle { tpm_quote: [tpm2b(&attest), vec![0, 0x10]].concat(), ..bundle(&P256) };
    assert_eq!(code(&P256, &unsigned), "tpm.algorithm.unsupported");
}

#[test]
fn a7_a_key_that_may_sign_anything_or_live_elsewhere_is_no_attestation_key() {
    let attributes = |attributes: u32| {
        let tpm = SimTpm::new(AkKind::P256).with_ak_attributes(AkKind::P256, attributes);
        AttestationKey::from_public(tpm.ak_public()).map_or_else(|rejection| rejection.code(), |_| "accepted")
    };
    assert_eq!(attributes(AK_ATTRIBUTES), "accepted");
    assert_eq!(attributes(AK_ATTRIBUTES ^ 1 << 6), "accepted", "userWithAuth says nothing");
    for (bit, what) in [
        (1, "fixedTPM"),
        (4, "fixedParent"),
        (5, "sensitiveDataOrigin"),
        (16, "restricted"),
        (17, "decrypt"),
        (18, "sign"),
    ] {
        assert_eq!(attributes(AK_ATTRIBUTES ^ 1 << bit), "tpm.ak.attributes", "{what}");
    }
    assert_eq!(attributes(AK_ATTRIBUTES ^ 1 << 31), "tpm.malformed", "a reserved bit");
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut public = P256.ak_public().to_vec();
        change(&mut public);
        AttestationKey::from_public(&public).map_or_else(|rejection| rejection.code(), |_| "accepted")
    };
    assert_eq!(changed(&|public| drop(public.splice(12..16, [0, 0x10]))), "tpm.signature.scheme", "scheme NULL");
    assert_eq!(changed(&|public| public[15] = 4), "tpm.signature.sha1");
    assert_eq!(changed(&|public| public[3] = 4), "tpm.signature.sha1", "the Name");
    assert_eq!(changed(&|public| public[13] = 0x19), "tpm.signature.scheme", "ECDH");
    assert_eq!(changed(&|public| public[17] = 5), "tpm.signature.scheme", "P-521 signs no SHA-256");
    assert_eq!(changed(&|public| public[17] = 0x10), "tpm.algorithm.unsupported", "BN P-256");
    assert_eq!(changed(&|public| *public.last_mut().unwrap() ^= 1), "tpm.malformed", "a point beside the curve");
    assert_eq!(changed(&|public| public.push(0)), "tpm.malformed");
    assert_eq!(changed(&|public| drop(public.splice(10..12, [0, 6, 0, 128, 0, 0x43]))), "tpm.ak.attributes", "AES");
    let rsa = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut public = RSA.ak_public().to_vec();
        change(&mut public);
        AttestationKey::from_public(&public).map_or_else(|rejection| rejection.code(), |_| "accepted")
    };
    assert_eq!(rsa(&|public| public[21] = 3), "tpm.algorithm.unsupported", "exponent 3");
    assert_eq!(rsa(&|public| drop(public.splice(18..22, [0, 1, 0, 1]))), "accepted", "exponent 65537 spelled out");
    assert_eq!(rsa(&|public| public[16] = 4), "tpm.algorithm.unsupported", "RSA-1024");
    assert_eq!(rsa(&|public| public[24] = 0x7f), "tpm.malformed", "a modulus of 2047 bits");
}

#[test]
fn a20_another_challenge_or_key_is_refused() {
    let mut good = bundle(&P256);
    let other = Binder::new(Role::Host, &[8; 32], &KEY.spki(), &ChannelBinding([1; 32]));
    let judged = tpm::verify(&good, &enrolled(&P256), &selection(), &other, &KEY.spki());
    assert_eq!(judged.unwrap_err().code(), "binding.qualifying_data");
    let (quote, pcrs) = P256.quote(&selection(), &binder().qualifying_data()[..31]);
    let prefix = Bundle { tpm_quote: quote, tpm_pcrs: pcrs, ..good.clone() };
    assert_eq!(code(&P256, &prefix), "binding.qualifying_data");
    let (quote, pcrs) = P256.quote(&selection(), &[]);
    let empty = Bundle { tpm_quote: quote, tpm_pcrs: pcrs, ..good.clone() };
    assert_eq!(code(&P256, &empty), "binding.qualifying_data");
    good.tpm_certify = P256.certify(&KEY, &other.qualifying_data());
    assert_eq!(code(&P256, &good), "binding.qualifying_data");
    let another = CredentialKey::new();
    good.tpm_certify = P256.certify(&another, &binder().qualifying_data());
    assert_eq!(code(&P256, &good), "binding.credential_key");
}

#[test]
fn the_certified_key_is_a_signing_key_of_this_tpm() {
    let certified = |attributes: u32| {
        let key = CredentialKey::with_attributes(attributes);
        let binder = Binder::new(Role::Host, &[7; 32], &key.spki(), &ChannelBinding([1; 32]));
        let (tpm_quote, tpm_pcrs) = P256.quote(&selection(), &binder.qualifying_data());
        let tpm_certify = P256.certify(&key, &binder.qualifying_data());
        let bundle = Bundle {
            tpm_quote,
            tpm_pcrs,
            tpm_certify,
            event_log: None,
            ima: None,
            snp: None,
            tdx: None,
            paravisor: None,
        };
        let judged = tpm::verify(&bundle, &enrolled(&P256), &selection(), &binder, &key.spki());
        judged.map_or_else(|rejection| rejection.code(), |_| "accepted")
    };
    assert_eq!(certified(sim::SIGNING_KEY_ATTRIBUTES), "accepted");
    for bit in [1, 4, 5, 16, 17, 18] {
        assert_eq!(certified(sim::SIGNING_KEY_ATTRIBUTES ^ 1 << bit), "tpm.certify.attributes", "bit {bit}");
    }
    // The Name covers the attributes: a public area that says more than the TPM certified is another object.
    let weak = CredentialKey::with_attributes(0x0004_0040);
    let attest = P256.certify_attest(&sim::name(&weak.public), &binder().qualifying_data());
    let relabelled = Bundle { tpm_certify: [P256.signed(&attest), tpm2b(&KEY.public)].concat(), ..bundle(&P256) };
    assert_eq!(code(&P256, &relabelled), "tpm.certify.name");
    // An RSA key, certified as it should be.
    let mut public = RSA.ak_public().to_vec();
    public[4..8].copy_from_slice(&sim::SIGNING_KEY_ATTRIBUTES.to_be_bytes());
    let attest = P256.certify_attest(&sim::name(&public), &binder().qualifying_data());
    let rsa = Bundle { tpm_certify: [P256.signed(&attest), tpm2b(&public)].concat(), ..bundle(&P256) };
    assert_eq!(code(&P256, &rsa), "tpm.certify.attributes");
}

/// What a software TPM of libtpms noted about a key whose policy is [`POLICY`]: PCR 16 and 23, both zero.
const CREATION_DATA: &str = "00000001000b030000810020f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b01000b\
    0022000b461009ca8a43e8a7b831d3deeae89486b5f624b30035029f5d8676b02460259d0022000ba88a5dfe0c80bf6b531b5e3e\
    bf685ca7a923bc93ac91f93d54c3b543884486800003616263";
/// The digest of it that the TPM gave.
const CREATION_HASH: &str = "93bbaad048b851c87b28f2aabfe44cbef878e5ffa4a8e62e2363ba402a9e33ed";
/// `tpm2_createpolicy --policy-pcr -l sha256:16,23+sha384:16`, all zero.
const POLICY: &str = "4f06888ff0498bcc625c6c87f734aad36c7122ac69871681f968e91ccfcdb537";

/// The claims about `public` under a certification of its creation, with `data` beside it.
fn created(public: &[u8], hash: &[u8], data: &[u8]) -> Result<TpmKeyClaims, &'static str> {
    let ak = AttestationKey::from_public(P256.ak_public()).unwrap();
    let attest = P256.creation_attest(&sim::name(public), hash, &[9; 32]);
    let record = [P256.signed(&attest), tpm2b(public), data.to_vec()].concat();
    let spki = Public::read(public).unwrap().spki();
    tpm::certify::verify(&record, &ak, &[9; 32], &spki).map_err(|rejection| rejection.code())
}

#[test]
fn a_certified_creation_says_what_was_noted_when_the_key_was_made() {
    let (data, hash) = (hex::decode(CREATION_DATA).unwrap(), hex::decode(CREATION_HASH).unwrap());
    let claims = created(&KEY.public, &hash, &tpm2b(&data)).unwrap();
    assert_eq!(claims.authorization, KeyAuthorization::Password);
    let Presented::Verified(creation) = claims.creation else { panic!("creation data was certified") };
    assert_eq!(creation.pcr_select, BTreeMap::from([(PcrHash::Sha256, vec![16, 23])]));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &[0; 64]);
    assert_eq!(creation.pcr_digest.0, digest.as_ref());
    assert_eq!((creation.locality, creation.outside_info.0.as_slice()), (1, &b"abc"[..]));
    for at in 0..data.len() {
        let mut changed = data.clone();
        changed[at] ^= 1;
        assert_eq!(created(&KEY.public, &hash, &tpm2b(&changed)), Err("tpm.certify.creation_data"), "octet {at}");
    }
    assert_eq!(created(&KEY.public, &hash, &[]), Err("tpm.malformed"), "no creation data");
    let two = [tpm2b(&data), vec![0]].concat();
    assert_eq!(created(&KEY.public, &hash, &two), Err("tpm.malformed"), "and more");
    // Signed garbage is garbage.
    for wrong in [&data[..data.len() - 1], &[&data[..], &[0]].concat(), &[0; 9]] {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, wrong);
        assert_eq!(created(&KEY.public, hash.as_ref(), &tpm2b(wrong)), Err("tpm.malformed"));
    }
    // A plain certification has no creation data, and is not one of a creation.
    let ak = AttestationKey::from_public(P256.ak_public()).unwrap();
    let record = [P256.certify(&KEY, &[9; 32]), tpm2b(&data)].concat();
    let plain = tpm::certify::verify(&record, &ak, &[9; 32], &KEY.spki());
    assert_eq!(plain.map_err(|rejection| rejection.code()), Err("tpm.malformed"));
    let creation = P256.creation_attest(&sim::name(&KEY.public), &hash, &binder().qualifying_data());
    let quote = Bundle { tpm_quote: P256.signed(&creation), ..bundle(&P256) };
    assert_eq!(code(&P256, &quote), "tpm.attest.type");
}

#[test]
fn a_key_under_a_policy_says_which() {
    let zeros = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &[0; 32 + 32 + 48]);
    let selection = [
        BankSelection { bank: TpmHash::Sha256, pcrs: 1 << 16 | 1 << 23 },
        BankSelection { bank: TpmHash::Sha384, pcrs: 1 << 16 },
    ];
    let policy = policy_pcr(TpmHash::Sha256, &selection, zeros.as_ref());
    assert_eq!(hex::encode(&policy), POLICY, "as tpm2-tools and libtpms compute it");
    let key = |attributes: u32, policy: &[u8]| {
        let mut public = CredentialKey::with_attributes(attributes).public;
        public.splice(8..10, tpm2b(policy));
        public
    };
    let (data, hash) = (hex::decode(CREATION_DATA).unwrap(), hex::decode(CREATION_HASH).unwrap());
    let claims = |public: &[u8]| created(public, &hash, &tpm2b(&data)).map(|claims| claims.authorization);
    const WITHOUT_AUTH: u32 = sim::SIGNING_KEY_ATTRIBUTES & !(1 << 6);
    assert_eq!(claims(&key(WITHOUT_AUTH, &policy)), Ok(KeyAuthorization::Policy(HexBytes(policy.clone()))));
    // A password beside the policy is all that anyone needs.
    assert_eq!(claims(&key(sim::SIGNING_KEY_ATTRIBUTES, &policy)), Ok(KeyAuthorization::Password));
    assert_eq!(claims(&key(WITHOUT_AUTH, &[])), Err("tpm.certify.attributes"));
}

#[test]
fn a14_a_bank_the_firmware_never_extended_is_refused() {
    let mut tpm = SimTpm::new(AkKind::P256);
    for index in 0..8 {
        tpm.reset_pcr(PcrHash::Sha256, index);
    }
    assert_eq!(code(&tpm, &bundle(&tpm)), "tpm.quote.bank_unused");
    tpm.extend(PcrHash::Sha256, 7, b"one of them");
    assert_eq!(code(&tpm, &bundle(&tpm)), "accepted");
    let some = |pcrs: Vec<u8>| {
        let selection = [PcrSelection { bank: PcrHash::Sha256, pcrs }];
        let (quote, pcrs) = tpm.quote(&selection, &[9; 32]);
        let ak = AttestationKey::from_public(tpm.ak_public()).unwrap();
        tpm::quote::verify(&quote, &pcrs, &ak, &selection, &[9; 32]).map(drop).map_err(|rejection| rejection.code())
    };
    assert_eq!(some(vec![0, 4]), Err("tpm.quote.bank_unused"));
    assert_eq!(some(vec![0, 7]), Ok(()));
    assert_eq!(some(vec![10, 14]), Ok(()), "none that the firmware measures into");
}

#[test]
fn a23_the_scheme_is_the_keys_and_not_the_signatures() {
    let attest = RSA.quote_attest(&selection(), &binder().qualifying_data());
    let signed = |head: [u8; 4], signature: Vec<u8>| {
        let tpm_quote = [tpm2b(&attest), head.to_vec(), tpm2b(&signature)].concat();
        code(&RSA, &Bundle { tpm_quote, ..bundle(&RSA) })
    };
    assert_eq!(signed([0, 0x16, 0, 0x0b], RSA.sign_rsa(&RSA_PSS_SHA256, &attest)), "tpm.signature.scheme");
    assert_eq!(signed([0, 0x14, 0, 0x0c], RSA.sign_rsa(&RSA_PKCS1_SHA384, &attest)), "tpm.signature.scheme");
    // Labelled as the key's scheme, made with another.
    assert_eq!(signed([0, 0x14, 0, 0x0b], RSA.sign_rsa(&RSA_PSS_SHA256, &attest)), "tpm.signature.invalid");
    assert_eq!(signed([0, 0x14, 0, 0x04], RSA.sign_rsa(&RSA_PKCS1_SHA384, &attest)), "tpm.signature.scheme");
}

#[test]
fn a23_every_scheme_attests_and_none_passes_for_another() {
    let kinds = [AkKind::RsaPss3072, AkKind::Rsa4096, AkKind::P384, AkKind::P521];
    let tpms = kinds.map(SimTpm::new);
    for tpm in &tpms {
        let good = bundle(tpm);
        let claims = judge(tpm, &good).unwrap();
        assert_eq!(claims.pcrs[&PcrHash::Sha384][&7].0, tpm.pcr(PcrHash::Sha384, 7));
        // The scheme and the hash that the signature names, one after the other.
        let head = tpm.sign(b"it")[..4].to_vec();
        let at = good.tpm_quote.len() - tpm.sign(&tpm.quote_attest(&selection(), &binder().qualifying_data())).len();
        assert_eq!(good.tpm_quote[at..at + 4], head);
        for (offset, ids) in [(1, [0x14, 0x16, 0x18]), (3, [0x0b, 0x0c, 0x0d])] {
            for id in ids.into_iter().filter(|id| *id != head[offset]) {
                let mut named = good.clone();
                named.tpm_quote[at + offset] = id;
                let code = code(tpm, &named);
                assert!(["tpm.signature.scheme", "tpm.malformed"].contains(&code), "{head:?} as {id:#x}: {code}");
            }
        }
        let mut changed = good.clone();
        *changed.tpm_quote.last_mut().unwrap() ^= 1;
        assert_eq!(code(tpm, &changed), "tpm.signature.invalid");
        // pcrDigest is made with the scheme's hash, whatever the banks are.
        let mut digest = tpm.quote_attest(&selection(), &binder().qualifying_data());
        *digest.last_mut().unwrap() ^= 1;
        assert_eq!(code(tpm, &Bundle { tpm_quote: tpm.signed(&digest), ..good }), "tpm.quote.pcr_digest");
    }
}

#[test]
fn a23_numbers_of_larger_curves_may_carry_or_lack_leading_zeros() {
    // A P-521 number starts with seven zero bits, so that one in two starts with a zero octet, one in 512 with two.
    for (kind, size) in [(AkKind::P384, 48), (AkKind::P521, 66)] {
        let tpm = SimTpm::new(kind);
        let attest = tpm.quote_attest(&selection(), &binder().qualifying_data());
        let head = tpm.sign(&attest)[..4].to_vec();
        let signed = |r: &[u8], s: &[u8]| {
            let tpm_quote = [tpm2b(&attest), head.clone(), tpm2b(r), tpm2b(s)].concat();
            code(&tpm, &Bundle { tpm_quote, ..bundle(&tpm) })
        };
        let (r, s) = (0..10_000)
            .map(|_| tpm.sign(&attest))
            .map(|signature| (signature[6..6 + size].to_vec(), signature[8 + size..].to_vec()))
            .find(|(r, s)| r[0] == 0 || s[0] == 0)
            .unwrap();
        let trim = |number: &[u8]| number[number.iter().position(|byte| *byte != 0).unwrap()..].to_vec();
        assert_eq!(signed(&r, &s), "accepted");
        assert_eq!(signed(&trim(&r), &trim(&s)), "accepted");
        assert_eq!(signed(&[&[0, 0], &r[..]].concat(), &[&[0], &s[..]].concat()), "accepted");
        assert_eq!(signed(&[&[1], &r[..]].concat(), &s), "tpm.signature.invalid");
        assert_eq!(signed(&s, &r), "tpm.signature.invalid");
        assert_eq!(signed(&[], &s), "tpm.signature.invalid");
    }
}

#[test]
fn a23_a_name_made_with_sha1_names_nothing() {
    let mut public = KEY.public.clone();
    public[3] = 4;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &public);
    let name = [&[0, 4], digest.as_ref()].concat();
    let attest = P256.certify_attest(&name, &binder().qualifying_data());
    let certified = Bundle { tpm_certify: [P256.signed(&attest), tpm2b(&public)].concat(), ..bundle(&P256) };
    assert_eq!(code(&P256, &certified), "tpm.signature.sha1");
}

#[test]
fn a23_ecdsa_numbers_may_carry_or_lack_leading_zeros() {
    let attest = P256.quote_attest(&selection(), &binder().qualifying_data());
    let signed = |r: &[u8], s: &[u8]| {
        let tpm_quote = [tpm2b(&attest), vec![0, 0x18, 0, 0x0b], tpm2b(r), tpm2b(s)].concat();
        code(&P256, &Bundle { tpm_quote, ..bundle(&P256) })
    };
    // One signature in 128 has a number that starts with a zero.
    let (r, s) = (0..10_000)
        .map(|_| P256.sign(&attest))
        .map(|signature| (signature[6..38].to_vec(), signature[40..].to_vec()))
        .find(|(r, s)| r[0] == 0 || s[0] == 0)
        .unwrap();
    let trim = |number: &[u8]| number[number.iter().position(|byte| *byte != 0).unwrap()..].to_vec();
    assert_eq!(signed(&r, &s), "accepted");
    assert_eq!(signed(&trim(&r), &trim(&s)), "accepted");
    assert_eq!(signed(&[&[0, 0], &r[..]].concat(), &[&[0], &s[..]].concat()), "accepted");
    assert_eq!(signed(&[&[1], &r[..]].concat(), &s), "tpm.signature.invalid");
    assert_eq!(signed(&[], &s), "tpm.signature.invalid");
    assert_eq!(signed(&r, &[0; 32]), "tpm.signature.invalid");
}

#[test]
fn every_bit_of_a_quote_and_a_certification_counts() {
    let good = bundle(&P256);
    let ak = enrolled(&P256);
    let spki = KEY.spki();
    for pick in [0, 1, 2] {
        let length = [&good.tpm_quote, &good.tpm_pcrs, &good.tpm_certify][pick].len();
        for bit in 0..length * 8 {
            let mut flipped = good.clone();
            let record = [&mut flipped.tpm_quote, &mut flipped.tpm_pcrs, &mut flipped.tpm_certify];
            record.into_iter().nth(pick).unwrap()[bit / 8] ^= 1 << (bit % 8);
            let judged = tpm::verify(&flipped, &ak, &selection(), &binder(), &spki);
            assert!(judged.is_err(), "record {pick}, bit {bit}");
        }
    }
}

fn secret() -> ActivationSecret {
    ActivationSecret::new(*b"0123456789abcdef0123456789abcdef")
}

#[test]
fn a8_a_credential_opens_for_its_ek_and_ak_only() {
    let made = |ek: &SimTpm, ak_name: &[u8]| {
        let ek = EndorsementKey::from_public(ek.ek_public()).unwrap();
        make_credential(&ek, ak_name, &secret(), &mut |bytes| bytes.fill(0x5a)).unwrap()
    };
    let credential = made(&P256, &P256.ak_name());
    let opened = P256.activate(&credential.credential_blob, &credential.encrypted_secret);
    assert_eq!(opened.as_deref(), Some(&secret().expose()[..]));
    assert_eq!(RSA.activate(&credential.credential_blob, &credential.encrypted_secret), None, "another EK");
    let other_ak = made(&P256, &RSA.ak_name());
    assert_eq!(P256.activate(&other_ak.credential_blob, &other_ak.encrypted_secret), None, "another AK");
    for byte in 0..credential.credential_blob.len() {
        let mut changed = credential.credential_blob.clone();
        changed[byte] ^= 1;
        assert_eq!(P256.activate(&changed, &credential.encrypted_secret), None, "byte {byte}");
    }
}

#[test]
fn a9_secrets_are_not_printed() {
    assert_eq!(format!("{:?}", secret()), "ActivationSecret");
}

#[test]
fn an_ek_certificate_leads_to_the_pinned_root_and_speaks_for_the_key() {
    let manufacturer = SimManufacturer::new();
    let stranger = SimManufacturer::new();
    let certificate = manufacturer.ek_certificate(&P256);
    let endorsed =
        verify_ek(&certificate, P256.ek_public(), &[], &[stranger.anchor(), manufacturer.anchor()], NOW).unwrap();
    assert_eq!(endorsed.assurance(), Assurance::Simulated);
    assert_eq!(endorsed.ek(), EndorsementKey::from_public(P256.ek_public()).unwrap().id());
    assert_eq!(endorsed.valid_until(), UnixMillis(2_524_608_000_000));

    let anchors = [manufacturer.anchor()];
    let code = |certificate: &[u8], public: &[u8], now: UnixMillis| {
        verify_ek(certificate, public, &[], &anchors, now).map_or_else(|rejection| rejection.code(), |_| "accepted")
    };
    assert_eq!(code(&certificate, RSA.ek_public(), NOW), "tpm.ek.key");
    assert_eq!(code(&certificate, P256.ek_public(), UnixMillis(0)), "x509.not_yet_valid");
    assert_eq!(code(&certificate, P256.ek_public(), UnixMillis(2_524_608_001_000)), "x509.expired");
    assert_eq!(code(&certificate, P256.ak_public(), NOW), "tpm.ek.attributes");
    assert_eq!(code(&certificate, RSA.ak_public(), NOW), "tpm.ek.attributes");
    assert_eq!(
        verify_ek(&certificate, P256.ek_public(), &[], &[], NOW).map(drop).unwrap_err().code(),
        "x509.path.none"
    );
    assert!(verify_ek(&certificate, P256.ek_public(), &[], &[stranger.anchor()], NOW).is_err());

    let spki = countersign_attestation::evidence::tpm::public::Public::read(P256.ek_public()).unwrap().spki();
    let variant = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        code(&manufacturer.certificate(&spki, change), P256.ek_public(), NOW)
    };
    assert_eq!(variant(&|_| {}), "accepted");
    let aik = rcgen::ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 3]);
    assert_eq!(variant(&|params| params.extended_key_usages = vec![aik.clone()]), "tpm.ek.certificate");
    assert_eq!(variant(&|params| params.extended_key_usages.clear()), "tpm.ek.certificate");
    assert_eq!(variant(&|params| params.key_usages.clear()), "tpm.ek.certificate");
    let sign = rcgen::KeyUsagePurpose::DigitalSignature;
    assert_eq!(variant(&|params| params.key_usages.push(sign)), "tpm.ek.certificate");
    assert_eq!(variant(&|params| params.custom_extensions.clear()), "tpm.ek.certificate");
    assert_eq!(variant(&|params| params.custom_extensions = vec![sim::subject_alt_name("")]), "tpm.ek.certificate");
    let authority = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    assert_eq!(variant(&|params| params.is_ca = authority), "tpm.ek.certificate");
}

#[test]
fn a_public_area_has_one_form() {
    let rsa = |change: &dyn Fn(&mut Vec<u8>)| read_changed(RSA.ek_public(), change);
    // Head of 8, policy of 34, AES-128-CFB of 6, scheme NULL of 2, keyBits, exponent, modulus of 2 + 256.
    assert_eq!(rsa(&|_| {}), "accepted");
    assert_eq!(rsa(&|public| drop(public.splice(8..42, [0, 1, 7]))), "tpm.malformed", "a policy of another size");
    assert_eq!(rsa(&|public| public[43] = 0x26), "tpm.algorithm.unsupported", "Camellia");
    assert_eq!(rsa(&|public| public[45] = 0xc0), "tpm.algorithm.unsupported", "AES-192");
    assert_eq!(rsa(&|public| public[47] = 0x42), "tpm.algorithm.unsupported", "CBC");
    assert_eq!(rsa(&|public| public[50] = 12), "tpm.malformed", "keyBits of 3072");
    assert_eq!(rsa(&|public| public[58] &= 0x7f), "tpm.malformed", "a modulus of 2047 bits");
    assert_eq!(rsa(&|public| public[1] = 8), "tpm.algorithm.unsupported", "a keyed hash");
    assert_eq!(rsa(&|public| public[3] = 0x12), "tpm.algorithm.unsupported", "SM3");
    let ecc = |change: &dyn Fn(&mut Vec<u8>)| read_changed(P256.ak_public(), change);
    // Head of 8, no policy, NULL, ECDSA with SHA-256, curve, KDF NULL, x at 20, y at 54.
    assert_eq!(ecc(&|_| {}), "accepted");
    assert_eq!(ecc(&|public| public[13] = 0x1a), "tpm.algorithm.unsupported", "ECDAA");
    assert_eq!(ecc(&|public| public[19] = 0x11), "tpm.algorithm.unsupported", "an unknown KDF");
    assert_eq!(ecc(&|public| drop(public.splice(20..54, [0, 0]))), "tpm.malformed", "no x");
    assert_eq!(ecc(&|public| drop(public.splice(54..56, [0, 33, 0]))), "tpm.malformed", "a y wider than the field");
    assert_eq!(ecc(&|public| drop(public.splice(18..20, [0, 0x20, 0, 0x0b]))), "accepted", "a KDF");
}

fn read_changed(public: &[u8], change: &dyn Fn(&mut Vec<u8>)) -> &'static str {
    let mut public = public.to_vec();
    change(&mut public);
    tpm::public::Public::read(&public).map_or_else(|rejection| rejection.code(), |_| "accepted")
}

#[test]
fn coordinates_without_leading_zeros_are_the_same_key() {
    // One key in 128 has a coordinate that starts with a zero.
    let key = (0..10_000).map(|_| CredentialKey::new()).find(|key| key.public[22] == 0 || key.public[56] == 0).unwrap();
    let (x, y) = (&key.public[22..54], &key.public[56..]);
    let trim = |number: &[u8]| number[number.iter().position(|byte| *byte != 0).unwrap()..].to_vec();
    let short = [&key.public[..20], &tpm2b(&trim(x)), &tpm2b(&trim(y))].concat();
    let public = tpm::public::Public::read(&short).unwrap();
    assert_eq!(public.spki(), key.spki());
    assert_eq!(public.name(), sim::name(&short));
}

#[test]
fn an_endorsement_key_receives_secrets_of_its_tpm_alone() {
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut public = P256.ek_public().to_vec();
        change(&mut public);
        EndorsementKey::from_public(&public).map_or_else(|rejection| rejection.code(), |_| "accepted")
    };
    assert_eq!(changed(&|_| {}), "accepted");
    for bit in [1, 4, 5, 16, 17, 18] {
        let flip = |public: &mut Vec<u8>| {
            let attributes = sim::EK_ATTRIBUTES ^ 1 << bit;
            public[4..8].copy_from_slice(&attributes.to_be_bytes());
        };
        assert_eq!(changed(&flip), "tpm.ek.attributes", "bit {bit}");
    }
    assert_eq!(changed(&|public| drop(public.splice(42..48, [0, 0x10]))), "tpm.ek.attributes", "no AES");
    assert_eq!(changed(&|public| drop(public.splice(48..50, [0, 0x15]))), "tpm.ek.attributes", "RSAES");
    let sha1 = |public: &mut Vec<u8>| {
        public[3] = 4;
        public.splice(8..42, [0, 0]);
    };
    assert_eq!(changed(&sha1), "tpm.signature.sha1");
}

#[test]
fn names_and_data_longer_than_a_digest_are_refused() {
    assert_eq!(resigned(&P256, |attest| drop(attest.splice(42..44, [0, 67]))), "tpm.malformed");
    let (longest, longer) = ([5; 66], [5; 67]);
    let read = |data: &[u8]| tpm::attest::Attest::read(&P256.quote_attest(&selection(), data)).map(drop);
    assert_eq!(read(&longest), Ok(()));
    assert_eq!(read(&longer).map_err(|rejection| rejection.code()), Err("tpm.malformed"));
}

#[test]
fn a23_an_ecdsa_signature_names_the_hash_of_its_key() {
    let attest = P256.quote_attest(&selection(), &binder().qualifying_data());
    for hash in [4, 0x0c, 0x0d] {
        let mut signature = P256.sign(&attest);
        signature[3] = hash;
        let bundle = Bundle { tpm_quote: [tpm2b(&attest), signature].concat(), ..bundle(&P256) };
        assert_eq!(code(&P256, &bundle), "tpm.signature.scheme", "{hash:#x}");
    }
}

#[test]
fn a_recorded_quote_has_exactly_the_values_it_selects() {
    let [first, _] = <[PcrSelection; 2]>::try_from(selection()).unwrap();
    let attest = P256.quote_attest(&[first], &[3; 8]);
    let tpmt = P256.sign(&attest);
    let raw = [&tpmt[6..38], &tpmt[40..]].concat();
    let ak = AttestationKey::from_public(P256.ak_public()).unwrap();
    let spki = tpm::public::Public::read(P256.ak_public()).unwrap().spki();
    let bank: BTreeMap<u8, Vec<u8>> = (0..24).map(|i| (i, P256.pcr(PcrHash::Sha256, i).to_vec())).collect();
    let good = RecordedValues::from([(TpmHash::Sha256, bank)]);
    let judge = |signature, key, values: &RecordedValues| {
        verify_recorded(&attest, signature, key, values, &[3; 8]).map(drop).map_err(|rejection| rejection.code())
    };
    for key in [RecordedKey::Enrolled(&ak), RecordedKey::Spki(&spki)] {
        for signature in [RecordedSignature::Tpmt(&tpmt), RecordedSignature::Raw(&raw)] {
            assert_eq!(judge(signature, key, &good), Ok(()));
        }
        assert_eq!(judge(RecordedSignature::Raw(&raw[1..]), key, &good), Err("tpm.signature.invalid"));
        let signature = RecordedSignature::Tpmt(&tpmt);
        let mut more = good.clone();
        more.entry(TpmHash::Sha1).or_default().insert(0, vec![0; 20]);
        assert_eq!(judge(signature, key, &more), Err("tpm.quote.pcr_values"));
        let mut fewer = good.clone();
        fewer.entry(TpmHash::Sha256).or_default().remove(&23);
        assert_eq!(judge(signature, key, &fewer), Err("tpm.quote.pcr_values"));
    }
    let rsa = tpm::public::Public::read(RSA.ak_public()).unwrap().spki();
    assert_eq!(judge(RecordedSignature::Tpmt(&tpmt), RecordedKey::Spki(&rsa), &good), Err("x509.key.unsupported"));
    assert!(check_same_key(&ak, &spki).is_ok());
    assert_eq!(check_same_key(&ak, &rsa).map_err(|rejection| rejection.code()), Err("x509.key.unsupported"));
}
