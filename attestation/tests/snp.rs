//! SEV-SNP, with reports and chains of simulated AMD hardware: every field, bit and relation in turn.
#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "test code: offsets are the specification's")]

use core::slice::from_ref;
use std::sync::LazyLock;

use countersign_attestation::anchor::{AmdProduct, Assurance};
use countersign_attestation::claims::{Presented, Revocation, SnpClaims, SnpSigningKey};
use countersign_attestation::endorsement::amd;
use countersign_attestation::endorsement::tpm::EndorsementPath;
use countersign_attestation::evidence::bundle::SnpEvidence;
use countersign_attestation::evidence::snp::kds::vcek_path;
use countersign_attestation::evidence::snp::{ReportDataExpectation, SnpReason, verify, verify_report};
use countersign_attestation::x509::{Certificate, verify_path};
use countersign_attestation::{JudgedAt, UnixMillis};

#[path = "../../tests/sim/amd.rs"]
mod sim;
use sim::{AmdSimulator, SIGNED_BYTES, TCB, arc, tcb_version};

static MILAN: LazyLock<AmdSimulator> = LazyLock::new(|| AmdSimulator::new(AmdProduct::Milan));
static GENOA: LazyLock<AmdSimulator> = LazyLock::new(|| AmdSimulator::new(AmdProduct::Genoa));
static TURIN: LazyLock<AmdSimulator> = LazyLock::new(|| AmdSimulator::new(AmdProduct::Turin));

/// 2026-06-01T00:00:00Z.
const NOW: UnixMillis = UnixMillis(1_780_272_000_000);

type Signed = [u8; SIGNED_BYTES];

/// The code, or "accepted".
fn code<T>(verdict: Result<T, countersign_attestation::Rejection>) -> &'static str {
    verdict.map_or_else(|rejection| rejection.code(), |_| "accepted")
}

fn judge(simulator: &AmdSimulator, evidence: &SnpEvidence, crls: &[&[u8]]) -> &'static str {
    code(verify(evidence, &[simulator.anchor()], crls, ReportDataExpectation::Recorded, NOW))
}

/// The verdict on the simulated chip's report after a change to its signed bytes.
fn changed(simulator: &AmdSimulator, change: impl FnOnce(&mut Signed)) -> &'static str {
    judge(simulator, &simulator.evidence_with(change), &[])
}

fn set_u64(bytes: &mut Signed, offset: usize, value: u64) {
    bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

/// A report signed by `vek` after `change`.
fn under(simulator: &AmdSimulator, vek: &sim::Vek, change: impl FnOnce(&mut Signed)) -> SnpEvidence {
    let mut signed = sim::report(simulator.product);
    change(&mut signed);
    SnpEvidence { report: vek.sign(&signed), vek: vek.der.clone() }
}

const POLICY: usize = 0x08;
const PLATFORM_INFO: usize = 0x40;
const KEY_INFO: usize = 0x48;
const GOOD_POLICY: u64 = 0x3_0000;
const GOOD_PLATFORM: u64 = 0x25;

#[test]
fn good_reports_of_every_product_and_version_become_claims() {
    for simulator in [&*MILAN, &*GENOA, &*TURIN] {
        for version in 3..=5_u8 {
            let evidence = simulator.evidence_with(|bytes| bytes[0] = version);
            let claims = verify(&evidence, &[simulator.anchor()], &[], ReportDataExpectation::Recorded, NOW)
                .expect("a good report");
            assert_eq!((claims.product, claims.version), (simulator.product, u32::from(version)));
            assert_eq!((claims.assurance, claims.signing_key), (Assurance::Simulated, SnpSigningKey::Vcek));
            assert_eq!(claims.revocation, Revocation::NotPresented);
            assert_eq!(claims.reported_tcb.microcode, TCB[4]);
            assert_eq!(claims.reported_tcb.fmc.is_some(), simulator.product == AmdProduct::Turin);
            assert_eq!(claims.mitigation_vectors.len(), if version == 5 { 2 } else { 0 });
            assert!(matches!(claims.chip_id, Presented::Verified(_)));
            assert_eq!(claims.policy_abi, "0.0");
        }
        let second = changed(simulator, |bytes| {
            bytes[0] = 2;
            bytes[0x188..0x18b].fill(0);
        });
        assert_eq!(second, "accepted", "version 2 has no CPUID");
    }
    assert_eq!(changed(&GENOA, |bytes| bytes[0x189] = 0xa0), "accepted", "Bergamo and Siena are under Genoa's root");
    assert_eq!(changed(&MILAN, |bytes| bytes[0x30] = 1), "accepted", "VMPL 1 is the policy's to judge");
    let vectors = |bytes: &mut Signed| {
        bytes[0] = 5;
        bytes[0x1f8] = 1;
        bytes[0x200] = 0x0b;
    };
    let evidence = GENOA.evidence_with(vectors);
    let claims = verify(&evidence, &[GENOA.anchor()], &[], ReportDataExpectation::Recorded, NOW).expect("version 5");
    assert_eq!(claims.mitigation_vectors.into_iter().collect::<Vec<_>>(), [("current", 0x0b), ("launch", 1)]);
}

#[test]
fn report_versions_and_reserved_bytes_are_closed() {
    for version in [0, 1, 6, 255] {
        assert_eq!(changed(&MILAN, |bytes| bytes[0] = version), "snp.report.version");
    }
    assert_eq!(changed(&MILAN, |bytes| bytes[1] = 1), "snp.report.version", "version 259");
    assert_eq!(changed(&MILAN, |bytes| bytes[0x34] = 2), "snp.report.signature_algo");
    let reserved = (0x4c..0x50).chain(0x18b..0x1a0).chain([0x1eb, 0x1ef]).chain(0x1f8..0x2a0);
    for offset in reserved {
        assert_eq!(changed(&MILAN, |bytes| bytes[offset] = 1), "snp.report.reserved", "offset {offset:#x}");
    }
    assert_eq!(changed(&MILAN, |bytes| bytes[0] = 2), "snp.report.reserved", "CPUID in version 2");
    let fifth = |offset: usize| {
        move |bytes: &mut Signed| {
            bytes[0] = 5;
            bytes[offset] = 1;
        }
    };
    assert_eq!(changed(&MILAN, fifth(0x1f8)), "accepted");
    assert_eq!(changed(&MILAN, fifth(0x208)), "snp.report.reserved");
}

#[test]
fn b1_policy_demands_of_the_platform_hold_in_every_combination() {
    // (POLICY bit, the state that demands, PLATFORM_INFO bit, the state demanded)
    let demands = [(16, false, 0, false), (23, true, 3, true), (24, true, 4, true)];
    for (policy_bit, demanding, platform_bit, demanded) in demands {
        for policy_set in [false, true] {
            for platform_set in [false, true] {
                let with = |value: u64, bit: u32, set: bool| if set { value | 1 << bit } else { value & !(1 << bit) };
                let verdict = changed(&MILAN, |bytes| {
                    set_u64(bytes, POLICY, with(GOOD_POLICY, policy_bit, policy_set));
                    set_u64(bytes, PLATFORM_INFO, with(GOOD_PLATFORM, platform_bit, platform_set));
                });
                let denied = policy_set == demanding && platform_set != demanded;
                let expected = if denied { "snp.policy.platform" } else { "accepted" };
                assert_eq!(verdict, expected, "POLICY {policy_bit} {policy_set}, PLATFORM_INFO {platform_set}");
            }
        }
    }
}

#[test]
fn b1_known_bits_become_claims_and_unknown_bits_deny() {
    let platform = ["smt_en", "tsme_en", "ecc_en", "rapl_dis", "ciphertext_hiding_dram_en", "alias_check_complete"];
    for (bit, name) in platform.iter().enumerate().chain([(7, &"tio_en")]) {
        for set in [0_u64, 1] {
            let evidence = MILAN.evidence_with(|bytes| set_u64(bytes, PLATFORM_INFO, set << bit));
            let claims =
                verify(&evidence, &[MILAN.anchor()], &[], ReportDataExpectation::Recorded, NOW).expect("a known bit");
            assert_eq!(claims.platform_info.get(name), Some(&(set == 1)), "{name}");
            assert_eq!(claims.platform_info.len(), 7);
        }
    }
    for bit in (8..64).chain([6]) {
        let verdict = changed(&MILAN, |bytes| set_u64(bytes, PLATFORM_INFO, GOOD_PLATFORM | 1 << bit));
        assert_eq!(verdict, "snp.platform_info.unknown", "bit {bit}");
    }
    assert_eq!(changed(&TURIN, |bytes| set_u64(bytes, PLATFORM_INFO, 0x67)), "accepted", "Turin sets bit 6");
    assert_eq!(changed(&GENOA, |bytes| set_u64(bytes, PLATFORM_INFO, 0x67)), "snp.platform_info.unknown");
    let policy = [(20, "single_socket"), (21, "cxl_allow"), (22, "mem_aes_256_xts"), (25, "page_swap_disable")];
    for (bit, name) in policy {
        let evidence = MILAN.evidence_with(|bytes| set_u64(bytes, POLICY, GOOD_POLICY | 1 << bit));
        let claims =
            verify(&evidence, &[MILAN.anchor()], &[], ReportDataExpectation::Recorded, NOW).expect("a known bit");
        assert_eq!(claims.policy_bits.get(name), Some(&true), "{name}");
    }
    for bit in 26..64 {
        let verdict = changed(&MILAN, |bytes| set_u64(bytes, POLICY, GOOD_POLICY | 1 << bit));
        assert_eq!(verdict, "snp.policy.reserved", "bit {bit}");
    }
    assert_eq!(changed(&MILAN, |bytes| set_u64(bytes, POLICY, 0x1_0000)), "snp.policy.reserved", "bit 17 is one");
}

#[test]
fn b2_tcbs_are_compared_component_by_component() {
    for simulator in [&*MILAN, &*TURIN] {
        let first = if simulator.product == AmdProduct::Turin { 0 } else { 1 };
        for component in first..TCB.len() {
            let mut higher = TCB;
            higher[component] += 1;
            let put = |bytes: &mut Signed, offset: usize, tcb| {
                bytes[offset..offset + 8].copy_from_slice(&tcb_version(simulator.product, tcb));
            };
            // Higher in one component than the current TCB, whatever the others are.
            assert_eq!(changed(simulator, |bytes| put(bytes, 0x1e0, higher)), "snp.tcb.committed");
            assert_eq!(changed(simulator, |bytes| put(bytes, 0x1f0, higher)), "snp.tcb.rollback");
            // The current TCB may be above all others.
            assert_eq!(changed(simulator, |bytes| put(bytes, 0x38, higher)), "accepted");
            // Microcode up, another component down: larger as an integer, and still below the floor.
            let mut mixed = TCB;
            mixed[4] += 1;
            mixed[component] = TCB[component] - 1;
            let verdict = changed(simulator, |bytes| put(bytes, 0x38, mixed));
            assert_eq!(verdict, "snp.tcb.committed", "component {component}");
        }
    }
    for (simulator, reserved) in [(&*MILAN, 2..6), (&*GENOA, 2..6), (&*TURIN, 4..7)] {
        for byte in reserved {
            for offset in [0x38, 0x180, 0x1e0, 0x1f0] {
                assert_eq!(changed(simulator, |bytes| bytes[offset + byte] = 1), "snp.tcb.reserved");
            }
        }
    }
}

#[test]
fn b3_the_reported_tcb_and_the_chip_are_the_certificates() {
    for simulator in [&*MILAN, &*GENOA, &*TURIN] {
        let first = if simulator.product == AmdProduct::Turin { 0 } else { 1 };
        for component in first..TCB.len() {
            for delta in [-1_i8, 1] {
                let mut other = TCB;
                other[component] = other[component].checked_add_signed(delta).expect("in range");
                let verdict = changed(simulator, |bytes| {
                    bytes[0x180..0x188].copy_from_slice(&tcb_version(simulator.product, other));
                });
                assert_eq!(verdict, "snp.tcb.reported", "component {component}");
            }
        }
        for byte in 0..64 {
            let verdict = changed(simulator, |bytes| bytes[0x1a0 + byte] ^= 0x80);
            assert_eq!(verdict, "snp.chip_id.mismatch", "byte {byte}");
        }
    }
}

#[test]
fn b4_lists_are_verified_current_and_of_the_chains_own_root() {
    let good = MILAN.evidence(&[9; 64]);
    let list = |crl: Vec<u8>| judge(&MILAN, &good, &[&crl]);
    assert_eq!(list(MILAN.crl(&[])), "accepted");
    assert_eq!(list(MILAN.crl(&[&[9], &[1, 0, 9]])), "accepted", "others are revoked");
    assert_eq!(list(MILAN.crl(&[&[1, 0, 1]])), "snp.vek.intermediate_revoked", "the ASK");
    assert_eq!(list(MILAN.crl(&[&[1, 0, 2]])), "accepted", "the ASVK is not of this chain");
    assert_eq!(list(MILAN.crl(&[&[1, 0, 0]])), "snp.vek.intermediate_revoked", "the ARK itself");
    // Every VEK has the serial number 0: an entry 0 takes all of them, in any encoding.
    assert_eq!(list(MILAN.crl(&[&[0]])), "snp.vek.revoked");
    assert_eq!(list(MILAN.crl(&[&[0, 0]])), "snp.vek.revoked");
    assert_eq!(list(MILAN.ark.revoke(&[], "250101000000Z", "260601000000Z")), "x509.crl.expired", "now is nextUpdate");
    assert_eq!(list(MILAN.ark.revoke(&[], "250101000000Z", "260601000001Z")), "accepted");
    assert_eq!(list(MILAN.ark.revoke(&[], "260601000001Z", "270101000000Z")), "x509.crl.not_yet_valid");
    assert_eq!(list(MILAN.ark.revoke(&[], "260601000000Z", "270101000000Z")), "accepted");
    assert_eq!(list(MILAN.ark.revoke(&[], "250101000000Z", "")), "x509.crl.expired", "no nextUpdate");
    let expired_and_revoked = MILAN.ark.revoke(&[&[0]], "250101000000Z", "250201000000Z");
    assert_eq!(judge(&MILAN, &good, &[&MILAN.crl(&[]), &expired_and_revoked]), "snp.vek.revoked");
    assert_eq!(list(GENOA.crl(&[])), "snp.crl.product");
    assert_eq!(judge(&MILAN, &good, &[&GENOA.crl(&[]), &MILAN.crl(&[])]), "accepted", "one list per product");
    // The root's name, another key: a forged list in a cache.
    let forger = sim::Authority::new("ARK-Milan");
    let forged = forger.revoke(&[], sim::NOT_BEFORE, sim::NOT_AFTER);
    assert_eq!(list(forged.clone()), "x509.signature");
    assert_eq!(judge(&MILAN, &good, &[&forged, &MILAN.crl(&[&[0]])]), "snp.vek.revoked");
    let mut garbled = MILAN.crl(&[]);
    garbled.push(0);
    assert_eq!(list(garbled), "x509.crl.malformed");
    let revoked = |evidence: &SnpEvidence, serial: &[u8]| judge(&MILAN, evidence, &[&MILAN.crl(&[serial])]);
    let vlek = under(&MILAN, &MILAN.vlek, |bytes| bytes[KEY_INFO] = 4);
    assert_eq!(revoked(&vlek, &[1, 0, 2]), "snp.vek.intermediate_revoked", "the ASVK");
    assert_eq!(revoked(&vlek, &[1, 0, 1]), "accepted", "the ASK is not of this chain");
    let numbered = MILAN.vcek_with(|profile| profile.serial = vec![0x12, 0x34]);
    let numbered = under(&MILAN, &numbered, |_| {});
    assert_eq!(revoked(&numbered, &[0x12, 0x34]), "snp.vek.revoked");
    assert_eq!(revoked(&numbered, &[0x12, 0x35]), "accepted");
}

#[test]
fn b5_chains_lead_to_the_pinned_root_of_the_reports_product() {
    let good = MILAN.evidence(&[9; 64]);
    let judge_under = |anchors: &[_], evidence: &SnpEvidence| {
        code(verify(evidence, anchors, &[], ReportDataExpectation::Recorded, NOW))
    };
    assert_eq!(judge_under(&[], &good), "snp.vek.anchor");
    assert_eq!(judge_under(&[GENOA.anchor()], &good), "snp.vek.issuer");
    assert_eq!(judge_under(&[GENOA.anchor(), TURIN.anchor(), MILAN.anchor()], &good), "accepted");
    // The same names under another root: the signature tells.
    let mut impostor = MILAN.anchor();
    impostor.ark = sim::Authority::new("ARK-Milan").issue(&root_profile("ARK-Milan"));
    assert_eq!(judge_under(from_ref(&impostor), &good), "x509.signature");
    assert_eq!(judge_under(&[impostor, MILAN.anchor()], &good), "accepted", "a second root of the product");
    let mut mislabelled = MILAN.anchor();
    mislabelled.ark.clone_from(&GENOA.ark_der);
    assert_eq!(judge_under(&[mislabelled], &good), "snp.vek.anchor");
    let mut bare = MILAN.anchor();
    bare.intermediates.clear();
    assert_eq!(judge_under(&[bare], &good), "x509.path.none");
    // CPUID against the chain: Milan's hardware cannot speak for Genoa's.
    for (family, model) in [(0x19, 0x11), (0x1a, 0x02), (0x19, 0xa0), (0x19, 0x20), (0x17, 0x01), (0, 0)] {
        let verdict = changed(&MILAN, |bytes| bytes[0x188..0x18a].copy_from_slice(&[family, model]));
        assert_eq!(verdict, "snp.product", "{family:#x} {model:#x}");
    }
    // Kinds of key under the wrong intermediate.
    let crossed = sim::issue_vek(&MILAN.asvk, "SEV-VCEK", sim::vcek_extensions(MILAN.product, TCB), |_| {});
    assert_eq!(judge(&MILAN, &under(&MILAN, &crossed, |_| {}), &[]), "snp.vek.issuer");
    let crossed = sim::issue_vek(&MILAN.ask, "SEV-VLEK", sim::vlek_extensions(MILAN.product, TCB), |_| {});
    assert_eq!(judge(&MILAN, &under(&MILAN, &crossed, |bytes| bytes[KEY_INFO] = 4), &[]), "snp.vek.issuer");
    let named = sim::issue_vek(&MILAN.ask, "SEV-Milan", sim::vcek_extensions(MILAN.product, TCB), |_| {});
    assert_eq!(judge(&MILAN, &under(&MILAN, &named, |_| {}), &[]), "snp.vek.kind");
}

fn root_profile(common_name: &str) -> sim::Profile {
    sim::Profile {
        serial: vec![1],
        subject: sim::name(common_name),
        not_before: sim::NOT_BEFORE.to_owned(),
        not_after: sim::NOT_AFTER.to_owned(),
        spki: sim::Authority::new(common_name).spki(),
        extensions: sim::authority_extensions(None, sim::ROOT_USAGE),
    }
}

#[test]
fn b6_debug_migration_and_unprivileged_layers_are_refused() {
    assert_eq!(changed(&MILAN, |bytes| set_u64(bytes, POLICY, GOOD_POLICY | 1 << 19)), "snp.policy.debug");
    assert_eq!(changed(&MILAN, |bytes| set_u64(bytes, POLICY, GOOD_POLICY | 1 << 18)), "snp.policy.migrate_ma");
    for vmpl in [2, 3, 4] {
        assert_eq!(changed(&MILAN, |bytes| bytes[0x30] = vmpl), "snp.vmpl.unprivileged");
    }
    assert_eq!(changed(&MILAN, |bytes| bytes[0x30..0x34].fill(0xff)), "snp.vmpl.host");
    let first = MILAN.evidence_with(|bytes| bytes[0x30] = 1);
    let claims = verify(&first, &[MILAN.anchor()], &[], ReportDataExpectation::Recorded, NOW).expect("VMPL 1");
    assert_eq!(claims.vmpl, 1, "a claim, for the policy to demand 0");
}

#[test]
fn b8_committed_and_launch_firmware_are_claims_and_never_above_the_current() {
    let older = [TCB[0], TCB[1], TCB[2], TCB[3] - 1, TCB[4]];
    let evidence = MILAN.evidence_with(|bytes| {
        for offset in [0x1e0, 0x1f0] {
            bytes[offset..offset + 8].copy_from_slice(&tcb_version(AmdProduct::Milan, older));
        }
    });
    let claims =
        verify(&evidence, &[MILAN.anchor()], &[], ReportDataExpectation::Recorded, NOW).expect("provisional firmware");
    assert_eq!((claims.committed_tcb.snp, claims.launch_tcb.snp, claims.current_tcb.snp), (23, 23, 24));
    assert_eq!(changed(&MILAN, |bytes| bytes[0x1ec] = 30), "snp.firmware.rollback", "committed build");
    assert_eq!(changed(&MILAN, |bytes| bytes[0x1ed] = 56), "snp.firmware.rollback", "committed minor");
    assert_eq!(changed(&MILAN, |bytes| bytes[0x1ee] = 2), "snp.firmware.rollback", "committed major");
    assert_eq!(changed(&MILAN, |bytes| bytes[0x1e8] = 30), "accepted", "current build above the committed");
    assert_eq!(changed(&MILAN, |bytes| set_u64(bytes, POLICY, GOOD_POLICY | 0x0137)), "accepted", "ABI 1.55");
    assert_eq!(changed(&MILAN, |bytes| set_u64(bytes, POLICY, GOOD_POLICY | 0x0138)), "snp.policy.abi", "ABI 1.56");
}

#[test]
fn b11_masks_are_not_matches_and_keys_are_named() {
    assert_eq!(changed(&MILAN, |bytes| bytes[0x1a0..0x1e0].fill(0)), "snp.chip_id.masked");
    assert_eq!(changed(&TURIN, |bytes| bytes[0x1a0..0x1e0].fill(0)), "snp.chip_id.masked");
    let expected = ["accepted", "snp.key_info.mismatch"].into_iter().chain(["snp.key_info.reserved"; 5]);
    for (signing_key, expected) in (0..7_u8).zip(expected).chain([(7, "snp.key_info.none")]) {
        assert_eq!(changed(&MILAN, |bytes| bytes[KEY_INFO] = signing_key << 2), expected, "{signing_key}");
    }
    for bit in 5..8 {
        assert_eq!(changed(&MILAN, |bytes| bytes[KEY_INFO] = 1 << bit), "snp.key_info.reserved");
    }
    assert_eq!(changed(&MILAN, |bytes| bytes[KEY_INFO + 3] = 0x80), "snp.key_info.reserved");
    assert_eq!(changed(&MILAN, |bytes| bytes[KEY_INFO] = 2), "snp.key_info.mask_chip_key");
    // VLEK: reports with and without a chip id, which it says nothing about.
    for masked in [false, true] {
        for version in [2, 3] {
            let evidence = under(&MILAN, &MILAN.vlek, |bytes| {
                bytes[0] = version;
                bytes[KEY_INFO] = 4;
                if version == 2 {
                    bytes[0x188..0x18b].fill(0);
                }
                if masked {
                    bytes[0x1a0..0x1e0].fill(0);
                }
            });
            let claims = verify(&evidence, &[MILAN.anchor()], &[], ReportDataExpectation::Recorded, NOW)
                .expect("a report under a VLEK");
            assert_eq!((claims.signing_key, claims.chip_id), (SnpSigningKey::Vlek, Presented::NotPresented));
        }
    }
    assert_eq!(judge(&MILAN, &under(&MILAN, &MILAN.vlek, |_| {}), &[]), "snp.key_info.mismatch");
    // The author key, its digest and the ID key's.
    let author = |enabled: u8, author: u8, id: u8| {
        changed(&MILAN, |bytes| {
            bytes[KEY_INFO] = enabled;
            bytes[0x110] = author;
            bytes[0xe0] = id;
        })
    };
    assert_eq!(author(1, 1, 1), "accepted");
    assert_eq!(author(0, 0, 1), "accepted", "an ID key without an author");
    assert_eq!(author(0, 1, 1), "snp.author_key");
    assert_eq!(author(1, 0, 1), "snp.author_key");
    assert_eq!(author(1, 1, 0), "snp.author_key");
}

#[test]
fn certificates_say_what_they_stand_for_in_the_specified_form() {
    let with = |simulator: &AmdSimulator, arc: &[u8], value: Option<Vec<u8>>| {
        let (oid, _, _) = sim::amd_extension(arc, Vec::new());
        let vek = simulator.vcek_with(|profile| {
            profile.extensions.retain(|(known, _, _)| *known != oid);
            profile.extensions.extend(value.map(|value| (oid, false, value)));
        });
        judge(simulator, &under(simulator, &vek, |_| {}), &[])
    };
    let common = [arc::STRUCT_VERSION, arc::PRODUCT_NAME, arc::BL_SPL, arc::TEE_SPL, arc::SNP_SPL, arc::UCODE_SPL];
    for arc in common.into_iter().chain([arc::HWID]) {
        assert_eq!(with(&MILAN, arc, None), "snp.vek.extension.missing", "{arc:?}");
        assert_eq!(with(&MILAN, arc, Some(vec![2, 2, 1])), "snp.vek.extension.malformed", "{arc:?}");
    }
    assert_eq!(with(&TURIN, arc::FMC_SPL, None), "snp.vek.extension.missing");
    assert_eq!(with(&MILAN, arc::FMC_SPL, Some(sim::integer(0))), "snp.vek.extension.malformed");
    assert_eq!(with(&MILAN, arc::SPL_4, Some(sim::integer(1))), "snp.vek.extension.malformed");
    assert_eq!(with(&MILAN, arc::UCODE_SPL, Some(vec![2, 2, 1, 0])), "snp.vek.extension.malformed", "256");
    assert_eq!(with(&MILAN, arc::UCODE_SPL, Some(vec![2, 1, 219])), "snp.vek.extension.malformed", "negative");
    assert_eq!(with(&MILAN, arc::STRUCT_VERSION, Some(sim::integer(1))), "snp.vek.extension.malformed");
    assert_eq!(with(&MILAN, arc::CSP_ID, Some(sim::tlv(0x16, b"x"))), "snp.vek.extension.malformed");
    assert_eq!(with(&MILAN, arc::HWID, Some(vec![0; 64])), "snp.vek.extension.malformed", "a zero hwID");
    assert_eq!(with(&MILAN, arc::HWID, Some(vec![7; 8])), "snp.vek.extension.malformed");
    assert_eq!(with(&TURIN, arc::HWID, Some(vec![7; 64])), "snp.vek.extension.malformed");
    assert_eq!(with(&MILAN, arc::PRODUCT_NAME, Some(sim::tlv(0x16, b"Genoa"))), "snp.vek.product");
    assert_eq!(with(&MILAN, arc::PRODUCT_NAME, Some(sim::tlv(0x16, b"Milan"))), "accepted");
    let vlek = MILAN.vlek_with(|profile| drop(profile.extensions.pop()));
    let evidence = under(&MILAN, &vlek, |bytes| bytes[KEY_INFO] = 4);
    assert_eq!(judge(&MILAN, &evidence, &[]), "snp.vek.extension.missing", "cspID");
}

#[test]
fn chains_are_walked_as_rfc_5280_says() {
    let vek = |change: &dyn Fn(&mut sim::Profile)| {
        let vek = MILAN.vcek_with(change);
        judge(&MILAN, &under(&MILAN, &vek, |_| {}), &[])
    };
    assert_eq!(vek(&|_| {}), "accepted");
    assert_eq!(vek(&|profile| profile.not_after = "260531235959Z".to_owned()), "x509.expired");
    assert_eq!(vek(&|profile| profile.not_after = "260601000000Z".to_owned()), "accepted", "notAfter is inclusive");
    assert_eq!(vek(&|profile| profile.not_before = "260601000001Z".to_owned()), "x509.not_yet_valid");
    assert_eq!(vek(&|profile| profile.not_before = "2606010000Z".to_owned()), "x509.malformed", "no seconds");
    let twice = |profile: &mut sim::Profile| profile.extensions.push(sim::amd_extension(arc::HWID, vec![1; 64]));
    assert_eq!(vek(&twice), "x509.extension.duplicate");
    let critical = |profile: &mut sim::Profile| profile.extensions.push((vec![0x2a, 3], true, vec![5, 0]));
    assert_eq!(vek(&critical), "x509.extension.critical");
    let constrained = |profile: &mut sim::Profile| {
        profile.extensions.push((vec![0x55, 0x1d, 30], false, vec![0x30, 0]));
    };
    assert_eq!(vek(&constrained), "x509.extension.critical", "nameConstraints that nobody processes");
    assert_eq!(vek(&|profile| profile.spki = MILAN.ask.spki()), "x509.key.unsupported", "an RSA VEK");
    assert_eq!(vek(&|profile| profile.serial = vec![0x80; 21]), "accepted", "negative and long serial numbers");
    assert_eq!(vek(&|profile| profile.serial = Vec::new()), "x509.malformed");
    // An ASK that the ARK issued with other constraints.
    let ask = |extensions: Vec<sim::Extension>, not_after: &str| {
        let mut anchor = MILAN.anchor();
        anchor.intermediates = vec![MILAN.ark.issue(&sim::Profile {
            serial: vec![1, 0, 1],
            subject: MILAN.ask.name().to_vec(),
            not_before: sim::NOT_BEFORE.to_owned(),
            not_after: not_after.to_owned(),
            spki: MILAN.ask.spki(),
            extensions,
        })];
        let evidence = MILAN.evidence(&[1; 64]);
        code(verify(&evidence, &[anchor], &[], ReportDataExpectation::Recorded, NOW))
    };
    let usual = || sim::authority_extensions(Some(0), sim::INTERMEDIATE_USAGE);
    assert_eq!(ask(usual(), sim::NOT_AFTER), "accepted");
    assert_eq!(ask(usual(), "260101000000Z"), "x509.expired");
    assert_eq!(ask(Vec::new(), sim::NOT_AFTER), "x509.issuer.not_ca");
    assert_eq!(ask(sim::authority_extensions(Some(0), [1, 2]), sim::NOT_AFTER), "x509.issuer.key_usage");
}

fn parse(der: &[u8]) -> Certificate<'_> {
    Certificate::parse(der).expect("a certificate")
}

/// Why no path leads from `leaf` to `anchor`.
fn reason<'a>(leaf: &'a [u8], intermediates: &[Certificate<'a>], anchor: &'a [u8]) -> Option<&'static str> {
    verify_path(&parse(leaf), intermediates, &parse(anchor), NOW, &[]).map_err(|rejection| rejection.code()).err()
}

#[test]
fn paths_are_bounded_in_depth_length_and_work() {
    let authority = sim::Authority::new("A");
    let other = sim::Authority::new("B");
    let issue = |issuer: &sim::Authority, subject: &sim::Authority, serial: u8, path_length| {
        issuer.issue(&sim::Profile {
            serial: vec![serial],
            subject: subject.name().to_vec(),
            not_before: sim::NOT_BEFORE.to_owned(),
            not_after: sim::NOT_AFTER.to_owned(),
            spki: subject.spki(),
            extensions: sim::authority_extensions(path_length, sim::ROOT_USAGE),
        })
    };
    let root = issue(&authority, &authority, 1, Some(0));
    let below = issue(&authority, &other, 2, None);
    let leaf = issue(&other, &sim::Authority::new("C"), 3, None);
    assert_eq!(reason(&leaf, &[parse(&below)], &root), Some("x509.issuer.path_length"));
    let roomy = issue(&authority, &authority, 1, Some(1));
    assert_eq!(reason(&leaf, &[parse(&below)], &roomy), None);
    assert_eq!(reason(&leaf, &[], &roomy), Some("x509.path.none"));
    // Many candidates of the right name whose key is another's.
    let impostor = sim::Authority::new("B");
    let impostors: Vec<_> = (0..40).map(|serial| issue(&authority, &impostor, serial, None)).collect();
    let impostors: Vec<_> = impostors.iter().map(|der| parse(der)).collect();
    assert_eq!(reason(&leaf, &impostors, &roomy), Some("x509.path.budget"));
    let many = vec![parse(&below); 257];
    assert_eq!(reason(&leaf, &many, &roomy), Some("x509.path.budget"));
    // Two authorities that certified each other are a loop, not a path.
    let loop_one = issue(&other, &authority, 4, None);
    let loop_two = issue(&authority, &other, 5, None);
    let stranger = sim::Authority::new("D");
    let anchor = issue(&stranger, &stranger, 6, None);
    assert_eq!(reason(&leaf, &[parse(&loop_one), parse(&loop_two)], &anchor), Some("x509.path.none"));
}

#[test]
fn amds_chains_have_three_certificates() {
    // An authority between ARK and ASK: every signature holds, and AMD builds no such chain.
    let between = sim::Authority::new("SEV-Between");
    let profile = |authority: &sim::Authority, path_length| sim::Profile {
        serial: vec![9],
        subject: authority.name().to_vec(),
        not_before: sim::NOT_BEFORE.to_owned(),
        not_after: sim::NOT_AFTER.to_owned(),
        spki: authority.spki(),
        extensions: sim::authority_extensions(Some(path_length), sim::INTERMEDIATE_USAGE),
    };
    let mut anchor = MILAN.anchor();
    anchor.intermediates = vec![MILAN.ark.issue(&profile(&between, 1)), between.issue(&profile(&MILAN.ask, 0))];
    let evidence = MILAN.evidence(&[1; 64]);
    let verdict = verify(&evidence, from_ref(&anchor), &[], ReportDataExpectation::Recorded, NOW);
    assert_eq!(code(verdict), "snp.vek.chain");
    let alone = |der: &[u8]| {
        amd::endorse_intermediate(der, &[MILAN.anchor()], &[], NOW)
            .map_or_else(|rejection| rejection.code(), |_| "accepted")
    };
    assert_eq!(alone(&MILAN.ask_der), "accepted");
    assert_eq!(alone(&MILAN.asvk_der), "accepted");
    assert_eq!(alone(&MILAN.ark_der), "snp.vek.issuer");
    assert_eq!(alone(&MILAN.vcek.der), "snp.vek.issuer");
    assert_eq!(alone(&between.issue(&profile(&MILAN.ask, 0))), "x509.path.none");
    let powerless = sim::Profile { extensions: Vec::new(), ..profile(&MILAN.ask, 0) };
    assert_eq!(alone(&MILAN.ark.issue(&powerless)), "x509.issuer.not_ca");
}

#[test]
fn report_data_is_compared_whole() {
    let binder = [7; 64];
    let evidence = MILAN.evidence(&binder);
    let expecting =
        |binder: &[u8; 64]| code(verify(&evidence, &[MILAN.anchor()], &[], ReportDataExpectation::Binder(binder), NOW));
    assert_eq!(expecting(&binder), "accepted");
    for byte in [0, 31, 32, 63] {
        let mut other = binder;
        other[byte] ^= 1;
        assert_eq!(expecting(&other), "binding.report_data", "byte {byte}");
    }
}

#[test]
fn a_kept_vek_is_judged_again_at_every_use() {
    let evidence = MILAN.evidence(&[7; 64]);
    // 2026-03-01 to 2026-07-01 by its list, 2025-06-01 to 2026-08-01 by its certificate.
    let vek = MILAN.vcek_with(|profile| {
        profile.not_before = "250601000000Z".to_owned();
        profile.not_after = "260801000000Z".to_owned();
    });
    let list = MILAN.ark.revoke(&[], "260301000000Z", "260701000000Z");
    let report = under(&MILAN, &vek, |_| {}).report;
    let at = |kept: &amd::VerifiedVek, now| code(verify_report(&report, kept, ReportDataExpectation::Recorded, now));
    let listed = amd::endorse(&vek.der, &[MILAN.anchor()], &[&list], NOW).expect("a current chain");
    let unlisted = amd::endorse(&vek.der, &[MILAN.anchor()], &[], NOW).expect("a current chain");
    let (march, july, august) = (UnixMillis(1_772_323_200_000), UnixMillis(1_782_864_000_000), 1_785_542_400_000);
    assert_eq!(at(&listed, NOW), "accepted");
    assert_eq!(at(&listed, march), "accepted");
    assert_eq!(at(&listed, UnixMillis(march.0 - 1)), "x509.crl.not_yet_valid");
    assert_eq!(at(&listed, UnixMillis(july.0 - 1)), "accepted");
    assert_eq!(at(&listed, july), "x509.crl.expired");
    assert_eq!(at(&unlisted, july), "accepted");
    assert_eq!(at(&unlisted, UnixMillis(august)), "accepted");
    assert_eq!(at(&unlisted, UnixMillis(august + 1)), "x509.expired");
    assert_eq!(at(&unlisted, UnixMillis(1_748_736_000_000 - 1)), "x509.not_yet_valid");
    assert_eq!((listed.valid_until(), unlisted.valid_until()), (july, UnixMillis(august)));
    assert_eq!(listed.revocation(NOW), Revocation::NotRevoked { next_update: july });
    // Another chip's report under the kept key.
    assert_eq!(
        code(verify_report(&evidence.report, &listed, ReportDataExpectation::Recorded, NOW)),
        "snp.signature.invalid"
    );
}

/// Until its grace ends a list that nobody renewed counts, and says so; after it nothing under it is believed.
#[test]
fn b4_a_list_past_its_grace_denies_and_one_within_it_says_so() {
    let july = UnixMillis(1_782_864_000_000);
    let (grace_ms, list) = (3_600_000, MILAN.ark.revoke(&[], "260101000000Z", "260701000000Z"));
    let judged = |now: UnixMillis, grace_ms| {
        amd::endorse(&MILAN.vcek.der, &[MILAN.anchor()], &[&list], JudgedAt { now, grace_ms })
    };
    let (last, end) = (UnixMillis(july.plus(grace_ms).0 - 1), july.plus(grace_ms));
    let current = judged(NOW, grace_ms).expect("a current list");
    assert_eq!(current.revocation(NOW), Revocation::NotRevoked { next_update: july });
    assert_eq!(current.valid_until(), end, "what is issued before nextUpdate need not end with it");
    let overdue = Revocation::Overdue { next_update: july, until: end };
    for vek in [&current, &judged(july, grace_ms).expect("grace"), &judged(last, grace_ms).expect("grace")] {
        assert_eq!((vek.revocation(july), vek.revocation(last)), (overdue, overdue));
        assert!(vek.check_current(last).is_ok());
        assert_eq!(vek.check_current(end).map_err(|rejection| rejection.code()), Err("x509.crl.expired"));
    }
    assert_eq!(code(judged(july, 0)), "x509.crl.expired");
    assert_eq!(code(judged(end, grace_ms)), "x509.crl.expired");
    // A list that names the ASK gets no grace out of being late, and certificates get none at all.
    let revoked = MILAN.ark.revoke(&[&[1, 0, 1]], "260101000000Z", "260701000000Z");
    let at = JudgedAt { now: last, grace_ms };
    assert_eq!(code(amd::endorse(&MILAN.vcek.der, &[MILAN.anchor()], &[&revoked], at)), "snp.vek.intermediate_revoked");
    let short = MILAN.vcek_with(|profile| profile.not_after = "260601000000Z".to_owned());
    assert_eq!(code(amd::endorse(&short.der, &[MILAN.anchor()], &[&list], at)), "x509.expired");
}

/// A path of certificates is compared with the lists of those who issued them, and with nobody else's. AMD's chain is
/// one like any other.
#[test]
fn a_path_is_compared_with_the_lists_of_its_own_authorities() {
    let path = |certificates: &[&[u8]]| -> EndorsementPath {
        let hex: Vec<String> = certificates.iter().map(hex::encode).collect();
        serde_json::from_value(hex.into()).expect("a path")
    };
    let judged = |path: &EndorsementPath, list: Vec<u8>| {
        let at = JudgedAt { now: NOW, grace_ms: 0 };
        let covered = path.check_not_revoked(&[list], at).map(|list| list.is_some());
        covered.map_err(|rejection| rejection.code())
    };
    let (whole, ask) =
        (path(&[&MILAN.vcek.der, &MILAN.ask_der, &MILAN.ark_der]), path(&[&MILAN.ask_der, &MILAN.ark_der]));
    let stranger = AmdSimulator::new(AmdProduct::Milan);
    assert_eq!(judged(&ask, MILAN.crl(&[])), Ok(true));
    assert_eq!(judged(&whole, MILAN.crl(&[])), Ok(false), "nothing is known of the leaf: its authority has no list");
    for path in [&whole, &ask] {
        assert_eq!(judged(path, MILAN.crl(&[&[1, 0, 1]])), Err("tpm.endorsement.revoked"));
        assert_eq!(judged(path, stranger.crl(&[&[1, 0, 1]])), Ok(false), "of the same name, by another key");
        assert_eq!(judged(path, GENOA.crl(&[&[1, 0, 1]])), Ok(false));
        let expired = MILAN.ark.revoke(&[], "250101000000Z", "260101000000Z");
        assert_eq!(judged(path, expired), Err("x509.crl.expired"));
    }
}

/// What AMD's service is asked for is what the certificate that it answers is for.
#[test]
fn the_service_is_asked_for_the_certificate_of_the_reported_tcb() {
    let tcb = "blSPL=04&teeSPL=02&snpSPL=24&ucodeSPL=219";
    for (simulator, query) in [(&*MILAN, tcb), (&*GENOA, tcb), (&*TURIN, &*format!("fmcSPL=01&{tcb}"))] {
        let evidence = simulator.evidence(&[7; 64]);
        let hwid = hex::encode(sim::hwid(simulator.product));
        let expected = format!("vcek/v1/{}/{hwid}?{query}", simulator.product);
        assert_eq!(vcek_path(&evidence.report, None).expect("a path"), expected);
        // What the report says counts more than what somebody says of it.
        assert_eq!(vcek_path(&evidence.report, Some(AmdProduct::Milan)).expect("a path"), expected);
        let vek = amd::endorse(&evidence.vek, &[simulator.anchor()], &[], NOW).expect("a VCEK");
        assert_eq!(hex::encode(&vek.hwid().verified().expect("hwID").0), hwid);
    }
    let mut report = MILAN.evidence(&[7; 64]).report;
    let asked = |report: &[u8], product| vcek_path(report, product).map_err(|rejection| rejection.code());
    assert_eq!(asked(&report[1..], None), Err("snp.report.length"));
    let version_2 = |report: &mut Vec<u8>| {
        report[0] = 2;
        report[0x188..0x18b].fill(0);
    };
    version_2(&mut report);
    assert_eq!(asked(&report, None), Err("snp.product"));
    assert!(asked(&report, Some(AmdProduct::Genoa)).expect("a path").starts_with("vcek/v1/Genoa/"));
    report[0x1a0..0x1e0].fill(0);
    assert_eq!(asked(&report, Some(AmdProduct::Milan)), Err("snp.chip_id.masked"));
    report[0x48] = 1 << 2;
    assert_eq!(asked(&report, Some(AmdProduct::Milan)), Err("snp.vek.kind"));
}

#[test]
fn signatures_have_one_form() {
    let report = MILAN.evidence(&[7; 64]).report;
    let after = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut report = report.clone();
        change(&mut report);
        judge(&MILAN, &SnpEvidence { report, vek: MILAN.vcek.der.clone() }, &[])
    };
    assert_eq!(after(&|_| {}), "accepted");
    for offset in (0x2d0..0x2e8).chain(0x318..0x4a0) {
        assert_eq!(after(&|report| report[offset] = 1), "snp.signature.form", "offset {offset:#x}");
    }
    assert_eq!(after(&|report| report[0x2a0..].fill(0)), "snp.signature.absent");
    assert_eq!(after(&|report| report[0x2a0..0x2d0].fill(0)), "snp.signature.invalid", "r = 0");
    assert_eq!(after(&|report| report[0x2e8..0x318].fill(0)), "snp.signature.invalid", "s = 0");
    assert_eq!(after(&|report| report[0x2a0..0x2d0].fill(0xff)), "snp.signature.invalid", "r above the order");
    assert_eq!(after(&|report| report[0x2a0..0x2d0].reverse()), "snp.signature.invalid", "big-endian");
    assert_eq!(after(&|report| report.truncate(1183)), "snp.report.length");
    assert_eq!(after(&|report| report.push(0)), "snp.report.length");
    assert_eq!(after(&|report| report.clear()), "snp.report.length");
}

/// The verdict on a VEK under a kept intermediate.
fn issued(vek: &[u8], intermediate: &amd::VerifiedIntermediate, now: UnixMillis) -> &'static str {
    amd::endorse_issued(vek, intermediate, now).map_or_else(|rejection| rejection.code(), |_| "accepted")
}

#[test]
fn a_kept_intermediate_endorses_what_a_whole_chain_does() {
    let keep = |der: &[u8], crls: &[&[u8]]| {
        amd::endorse_intermediate(der, &[MILAN.anchor()], crls, NOW).expect("an intermediate")
    };
    let list = MILAN.crl(&[&[9], &[0x12, 0x34]]);
    for crls in [&[][..], &[list.as_slice()]] {
        let (ask, asvk) = (keep(&MILAN.ask_der, crls), keep(&MILAN.asvk_der, crls));
        for (vek, kept) in [(&MILAN.vcek, &ask), (&MILAN.vlek, &asvk)] {
            let whole = amd::endorse(&vek.der, &[MILAN.anchor()], crls, NOW).expect("a chain");
            assert_eq!(amd::endorse_issued(&vek.der, kept, NOW), Ok(whole));
        }
        assert_eq!(issued(&MILAN.vcek.der, &asvk, NOW), "snp.vek.issuer", "a VCEK under the ASVK");
        assert_eq!(issued(&MILAN.vlek.der, &ask, NOW), "snp.vek.issuer", "a VLEK under the ASK");
        assert_eq!(issued(&GENOA.vcek.der, &ask, NOW), "snp.vek.issuer", "another product's");
        assert_eq!(issued(&MILAN.ask_der, &ask, NOW), "snp.vek.kind");
    }
    let (ask, asvk) = (keep(&MILAN.ask_der, &[&list]), keep(&MILAN.asvk_der, &[&list]));
    assert_eq!((ask.digest() == asvk.digest(), ask.serial(), asvk.serial()), (false, "010001", "010002"));
    // The names are right, the key is another's.
    let forger = sim::Authority::new("SEV-Milan");
    let forged = sim::issue_vek(&forger, "SEV-VCEK", sim::vcek_extensions(MILAN.product, TCB), |_| {});
    assert_eq!(issued(&forged.der, &ask, NOW), "x509.signature");
    // What the ASVK issued under the ASK's name, and the other way round.
    let crossed = sim::issue_vek(&MILAN.ask, "SEV-VLEK", sim::vlek_extensions(MILAN.product, TCB), |_| {});
    assert_eq!(issued(&crossed.der, &ask, NOW), "snp.vek.issuer");
    // The lists the intermediate was endorsed with count for what it issued.
    let numbered = MILAN.vcek_with(|profile| profile.serial = vec![0, 0x12, 0x34]);
    assert_eq!(issued(&numbered.der, &ask, NOW), "snp.vek.revoked");
    assert_eq!(issued(&numbered.der, &keep(&MILAN.ask_der, &[]), NOW), "accepted");
    let zero = keep(&MILAN.ask_der, &[&MILAN.crl(&[&[0]])]);
    assert_eq!(issued(&MILAN.vcek.der, &zero, NOW), "snp.vek.revoked", "an entry 0 names every VEK");
    // Each end of validity holds: the list's, the intermediate's, the VEK's.
    let short = MILAN.vcek_with(|profile| profile.not_after = "260601000000Z".to_owned());
    assert_eq!(issued(&short.der, &ask, NOW), "accepted");
    assert_eq!(issued(&short.der, &ask, UnixMillis(NOW.0 + 1000)), "x509.expired");
    let listed = keep(&MILAN.ask_der, &[&MILAN.ark.revoke(&[], "260101000000Z", "260701000000Z")]);
    let july = UnixMillis(1_782_864_000_000);
    assert_eq!(issued(&MILAN.vcek.der, &listed, UnixMillis(july.0 - 1)), "accepted");
    assert_eq!(issued(&MILAN.vcek.der, &listed, july), "x509.crl.expired");
    let vek = amd::endorse_issued(&MILAN.vcek.der, &listed, NOW).expect("a VCEK");
    assert_eq!((vek.valid_until(), listed.valid_until()), (july, july));
    assert_eq!(vek.revocation(NOW), Revocation::NotRevoked { next_update: july });
}

#[test]
fn certificates_reissued_for_one_key_verify_the_same_reports() {
    // AMD's service issues a VCEK again with another validity: the key and what it stands for are the same.
    let first = MILAN.vcek_with(|_| {});
    let again = first.reissue(&MILAN.ask, MILAN.product, |profile| {
        profile.not_before = "260101000000Z".to_owned();
        profile.not_after = "330101000000Z".to_owned();
    });
    assert_ne!(first.der, again);
    let report = under(&MILAN, &first, |_| {}).report;
    let claims = |vek: &[u8]| {
        let evidence = SnpEvidence { report: report.clone(), vek: vek.to_vec() };
        verify(&evidence, &[MILAN.anchor()], &[], ReportDataExpectation::Recorded, NOW).expect("either certificate")
    };
    let (one, other) = (claims(&first.der), claims(&again));
    assert_ne!(one.valid_until, other.valid_until, "each ends when its own certificate does");
    assert_eq!(SnpClaims { valid_until: other.valid_until, ..one }, other);
}

#[test]
fn a_provider_is_named_as_the_vlek_names_it() {
    let claims = |vek: &sim::Vek, key_info| {
        let evidence = under(&MILAN, vek, |bytes| bytes[KEY_INFO] = key_info);
        verify(&evidence, &[MILAN.anchor()], &[], ReportDataExpectation::Recorded, NOW).expect("a report")
    };
    // As AWS has it: CN= is part of the value, and not an attribute to take apart.
    let aws = MILAN.vlek_with(|profile| {
        profile.extensions.pop();
        profile.extensions.push(sim::amd_extension(arc::CSP_ID, sim::tlv(0x16, b"CN=cc-us-east-2.amazonaws.com")));
    });
    assert_eq!(claims(&aws, 4).csp_id, Presented::Verified("CN=cc-us-east-2.amazonaws.com".to_owned()));
    assert_eq!(claims(&MILAN.vcek, 0).csp_id, Presented::NotPresented);
}

#[test]
fn a_turin_hwid_is_the_chip_ids_first_eight_bytes_and_nothing_follows() {
    let id = |change: &dyn Fn(&mut Signed)| changed(&TURIN, change);
    assert_eq!(id(&|_| {}), "accepted");
    for byte in 8..64 {
        assert_eq!(id(&|bytes| bytes[0x1a0 + byte] = 1), "snp.chip_id.mismatch", "byte {byte}");
    }
    let evidence = TURIN.evidence_with(|_| {});
    let claims = verify(&evidence, &[TURIN.anchor()], &[], ReportDataExpectation::Recorded, NOW).expect("a report");
    let Presented::Verified(chip_id) = claims.chip_id else { panic!("a VCEK names its chip") };
    assert_eq!((chip_id.0.len(), chip_id.0[8..].iter().any(|byte| *byte != 0)), (64, false));
    // The bytes of TCB_VERSION that Turin moved: FMC in front, SNP where Milan has reserved bytes.
    assert_eq!(claims.reported_tcb.fmc, Some(TCB[0]));
    assert_eq!(evidence.report[0x180..0x188], [TCB[0], TCB[1], TCB[2], TCB[3], 0, 0, 0, TCB[4]]);
}

#[test]
fn b10_what_the_host_gave_at_launch_is_a_claim_and_zero_stays_zero() {
    for host_data in [[0; 32], [0xa5; 32]] {
        let evidence = MILAN.evidence_with(|bytes| bytes[0xc0..0xe0].copy_from_slice(&host_data));
        let claims =
            verify(&evidence, &[MILAN.anchor()], &[], ReportDataExpectation::Recorded, NOW).expect("a good report");
        assert_eq!(claims.host_data.0, host_data, "32 bytes: absence does not exist, and zero is no wildcard");
    }
}

#[test]
fn b12_mitigation_vectors_are_claims_and_what_version_4_lacks_is_absent_not_zero() {
    let vectors = |version: u8, launch: u64, current: u64| {
        let evidence = GENOA.evidence_with(|bytes| {
            bytes[0] = version;
            set_u64(bytes, 0x1f8, launch);
            set_u64(bytes, 0x200, current);
        });
        let anchors = [GENOA.anchor()];
        let claims = verify(&evidence, &anchors, &[], ReportDataExpectation::Recorded, NOW).expect("a good report");
        claims.mitigation_vectors
    };
    // Genoa has 1, model A0h 0Bh, Turin 0: each is itself, and all 64 bits of each are kept apart.
    for (launch, current) in [(1, 1), (0x0b, 0x0b), (0, 0), (0, u64::MAX), (1 << 63, 1)] {
        let found = vectors(5, launch, current);
        assert_eq!((found.get("launch"), found.get("current")), (Some(&launch), Some(&current)));
    }
    for version in [3, 4] {
        assert!(vectors(version, 0, 0).is_empty(), "version {version} says nothing of mitigations");
    }
}

#[test]
fn every_reason_names_what_to_do() {
    for reason in SnpReason::ALL {
        assert!(20 < reason.remedy().len() && !reason.remedy().ends_with('.'), "{}: a remedy", reason.code());
    }
}
