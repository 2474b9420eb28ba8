//! Quotes of simulated hardware: what is believed of them, what is not, and how many signatures it takes.

use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};

use crate::anchor::Assurance;
use crate::endorsement::intel::{TcbStatus, VerifiedCollateral, VerifiedPck};
use crate::evidence::snp::ReportDataExpectation::{Binder, Recorded};
use crate::evidence::tdx::{self, BodyKind, Quote, SgxClaims, TdxClaims, VerifiedQe, sgx};
use crate::rejection::Rejection;
use crate::signature::{Scheme, count};
use crate::sim_intel::{
    COMPONENTS, Collateral, CollateralProfile, IntelSimulator, PCE_SVN, QuoteKind, QuoteProfile, pem, sgx_extension,
};
use crate::time::{JudgedAt, UnixMillis};

/// 2026-11-23.
const NOW: UnixMillis = UnixMillis(1_795_392_000_000);
/// The last millisecond before 2045-01-01, when everything simulated ends: a list holds until before its nextUpdate.
const END: UnixMillis = UnixMillis(2_366_841_599_999);

/// Offsets in a TD report.
const SEAM_SIGNER: usize = 64;
const SEAM_ATTRIBUTES: usize = 112;
const TD_ATTRIBUTES: usize = 120;
const SERVICE_TD: usize = 600;

type Code = Result<(), &'static str>;

fn code<T>(result: Result<T, Rejection>) -> Code {
    result.map(drop).map_err(|rejection| rejection.code())
}

fn endorse(intel: &IntelSimulator, collateral: &Collateral) -> Result<VerifiedCollateral, Rejection> {
    VerifiedCollateral::endorse(&collateral.parts(), &[intel.anchor()], NOW)
}

fn current(intel: &IntelSimulator) -> VerifiedCollateral {
    endorse(intel, &intel.collateral()).expect("collateral")
}

fn judge(collateral: &VerifiedCollateral, quote: &[u8]) -> Result<TdxClaims, Rejection> {
    tdx::verify(quote, collateral, Recorded, NOW)
}

/// The verdict on a quote that was changed before it was signed.
fn quoted(
    intel: &IntelSimulator,
    kind: QuoteKind,
    change: impl FnOnce(&mut QuoteProfile),
) -> Result<TdxClaims, Rejection> {
    judge(&current(intel), &intel.quote_with(kind, change))
}

/// The verdict on a good quote under collateral that was changed before it was signed.
fn under(intel: &IntelSimulator, change: impl FnOnce(&mut CollateralProfile)) -> Result<TdxClaims, Rejection> {
    let collateral = endorse(intel, &intel.collateral_with(change))?;
    judge(&collateral, &intel.quote(QuoteKind::Td4, &[7; 64]))
}

fn replace(text: &mut String, from: &str, to: &str) {
    assert!(text.contains(from), "{from} is in {text}");
    *text = text.replacen(from, to, 1);
}

fn pck_of(collateral: &VerifiedCollateral, quote: &[u8]) -> VerifiedPck {
    let chain = Quote::parse(quote).expect("a quote").pck_chain().expect("a chain");
    collateral.endorse_pck(chain, NOW).expect("a PCK")
}

#[test]
fn every_td_quote_becomes_claims() {
    let intel = IntelSimulator::new();
    let collateral = current(&intel);
    for (kind, version, body) in [
        (QuoteKind::Td4, 4, BodyKind::Td10),
        (QuoteKind::Td10In5, 5, BodyKind::Td10),
        (QuoteKind::Td15In5, 5, BodyKind::Td15),
        (QuoteKind::Td15ExIn5, 5, BodyKind::Td15Ex),
    ] {
        let binder = [0x42; 64];
        let quote = intel.quote(kind, &binder);
        let claims = tdx::verify(&quote, &collateral, Binder(&binder), NOW).expect("claims");
        assert_eq!((claims.version, claims.body, claims.assurance), (version, body, Assurance::Simulated));
        assert_eq!((claims.tcb.status, claims.qe.status), (TcbStatus::UpToDate, TcbStatus::UpToDate));
        assert_eq!((claims.report_data.0.as_slice(), claims.mr_td.0.as_slice()), (&binder[..], &[0x7d; 48][..]));
        assert_eq!(claims.rtmrs.each_ref().map(|rtmr| rtmr.0[0]), [0xa0, 0xa1, 0xa2, 0]);
        assert_eq!(
            (claims.mr_service_td.is_some(), claims.extended.is_some()),
            (body >= BodyKind::Td15, body == BodyKind::Td15Ex)
        );
        assert_eq!((claims.module.id.as_str(), claims.module.isv_svn), ("TDX_01", 6));
        assert_eq!((claims.qe.isv_svn, claims.qe.auth_data_bytes), (8, 32));
        assert_eq!((claims.platform.pce_svn, claims.valid_until), (u16::from(PCE_SVN), END));
        assert_eq!(claims.collateral, collateral.digest());
        assert_eq!(code(claims.check_strict()), Ok(()));
        let other = [0x43; 64];
        assert_eq!(code(tdx::verify(&quote, &collateral, Binder(&other), NOW)), Err("binding.report_data"));
    }
}

#[test]
fn sgx_quotes_become_claims_by_the_same_machinery() {
    let intel = IntelSimulator::new();
    let collateral = endorse(&intel, &intel.sgx_collateral_with(|_| {})).expect("collateral");
    for (kind, version) in [(QuoteKind::Sgx3, 3), (QuoteKind::Sgx4, 4)] {
        let binder = [0x42; 64];
        let quote = intel.quote(kind, &binder);
        let claims: SgxClaims = sgx::verify(&quote, &collateral, Binder(&binder), NOW).expect("claims");
        assert_eq!((claims.version, claims.tcb.status), (version, TcbStatus::UpToDate));
        assert_eq!((claims.mr_enclave.0.as_slice(), claims.mr_signer.0.as_slice()), (&[0x64; 32][..], &[0x80; 32][..]));
        assert_eq!(code(sgx::verify(&quote, &collateral, Binder(&[0; 64]), NOW)), Err("binding.report_data"));
        assert_eq!(code(judge(&collateral, &quote)), Err("tdx.tee"));
        let debug = intel.quote_with(kind, |profile| profile.body[48] |= 2);
        assert_eq!(code(sgx::verify(&debug, &collateral, Recorded, NOW)), Err("tdx.debug"));
    }
    let td = intel.quote(QuoteKind::Td4, &[7; 64]);
    assert_eq!(code(sgx::verify(&td, &current(&intel), Recorded, NOW)), Err("tdx.tee"));
    assert_eq!(code(judge(&collateral, &td)), Err("intel.kind"), "collateral of SGX for a trust domain");
    let info_of_sgx = |profile: &mut CollateralProfile| profile.tcb_info = crate::sim_intel::tcb_info(false);
    let identity_of_sgx = |profile: &mut CollateralProfile| profile.qe_identity = crate::sim_intel::qe_identity(false);
    assert_eq!(code(under(&intel, info_of_sgx)), Err("intel.kind"));
    assert_eq!(code(under(&intel, identity_of_sgx)), Err("intel.kind"));
    let enclave = intel.quote(QuoteKind::Sgx4, &[7; 64]);
    assert_eq!(code(sgx::verify(&enclave, &current(&intel), Recorded, NOW)), Err("intel.kind"));
}

#[test]
fn a_warm_quote_costs_two_signatures_and_a_hot_one_costs_one() {
    let intel = IntelSimulator::new();
    let collateral = current(&intel);
    for kind in [QuoteKind::Td4, QuoteKind::Td15In5] {
        let quote = intel.quote(kind, &[7; 64]);
        let (cold, signatures) = count::during(|| judge(&collateral, &quote));
        let of_chain = [Scheme::EcdsaP256Sha256Der; 2];
        assert_eq!(signatures, [&of_chain[..], &[Scheme::EcdsaP256Sha256; 2]].concat());
        let pck = pck_of(&collateral, &quote);
        let (warm, signatures) = count::during(|| tdx::verify_warm(&quote, &pck, &collateral, Recorded, NOW));
        assert_eq!(signatures, [Scheme::EcdsaP256Sha256; 2]);
        let parsed = Quote::parse(&quote).expect("a quote");
        let (qe, signatures) = count::during(|| VerifiedQe::endorse(&parsed, &pck, &collateral, NOW));
        assert_eq!(signatures, [Scheme::EcdsaP256Sha256]);
        let qe = qe.expect("a quoting enclave");
        let (hot, signatures) = count::during(|| tdx::verify_hot(&quote, &qe, &collateral, Recorded, NOW));
        assert_eq!(signatures, [Scheme::EcdsaP256Sha256]);
        let cold = cold.expect("claims");
        assert_eq!((warm.as_ref(), hot.as_ref()), (Ok(&cold), Ok(&cold)), "kept work changes no claim");
    }
}

#[test]
fn what_is_kept_counts_for_the_very_bytes_and_collateral_it_was_made_from() {
    let intel = IntelSimulator::new();
    let collateral = current(&intel);
    let quote = intel.quote(QuoteKind::Td4, &[7; 64]);
    let pck = pck_of(&collateral, &quote);
    let qe = VerifiedQe::endorse(&Quote::parse(&quote).expect("a quote"), &pck, &collateral, NOW).expect("a QE");
    let warm = |quote: &[u8], collateral: &_, now| code(tdx::verify_warm(quote, &pck, collateral, Recorded, now));
    let hot = |quote: &[u8], collateral: &_, now| code(tdx::verify_hot(quote, &qe, collateral, Recorded, now));
    assert_eq!((warm(&quote, &collateral, NOW), hot(&quote, &collateral, NOW)), (Ok(()), Ok(())));
    // The same chain in other bytes, and a QE that authenticates something else.
    let chain = |profile: &mut QuoteProfile| profile.chain.insert(0, b'\n');
    let other = intel.quote_with(QuoteKind::Td4, chain);
    assert_eq!(code(judge(&collateral, &other)), Ok(()));
    assert_eq!(
        (warm(&other, &collateral, NOW), hot(&other, &collateral, NOW)),
        (Err("tdx.pck.other"), Err("tdx.qe.other"))
    );
    let signature = intel.quote(QuoteKind::Td4, &[7; 64]);
    assert_ne!(quote, signature, "the QE's report is signed anew");
    assert_eq!((warm(&signature, &collateral, NOW), hot(&signature, &collateral, NOW)), (Ok(()), Err("tdx.qe.other")));
    // Newer lists, with the PCK on one of them.
    let newer = intel.collateral_with(|profile| profile.revoked_pcks.push(vec![1, 0, 9]));
    let newer = endorse(&intel, &newer).expect("collateral");
    assert_eq!((warm(&quote, &newer, NOW), hot(&quote, &newer, NOW)), (Err("tdx.pck.other"), Err("tdx.qe.other")));
    assert_eq!(code(judge(&newer, &quote)), Err("intel.pck.revoked"));
    // Both end with what they rest on.
    assert_eq!((pck.valid_until(), qe.valid_until()), (END, END));
    assert_eq!((warm(&quote, &collateral, END), hot(&quote, &collateral, END)), (Ok(()), Ok(())));
    let after = UnixMillis(END.0 + 1);
    assert_eq!(warm(&quote, &collateral, after), Err("intel.expired"));
    assert_eq!(hot(&quote, &collateral, after), Err("intel.expired"));
    let before = UnixMillis(1_735_689_599_999);
    assert_eq!(hot(&quote, &collateral, before), Err("intel.not_yet_valid"));
}

#[test]
fn a_pck_kept_of_a_shorter_life_ends_the_hot_path_too() {
    let intel = IntelSimulator::new();
    let collateral = current(&intel);
    // To 2027-01-01.
    let short = intel.pck_with(&intel.platform_ca, |profile| profile.not_after = "270101000000Z".into());
    let chain = pem(&[&short, &intel.platform_ca_der, &intel.root_der]);
    let quote = intel.quote_with(QuoteKind::Td4, |profile| profile.chain = chain.into_bytes());
    let qe =
        VerifiedQe::endorse(&Quote::parse(&quote).expect("a quote"), &pck_of(&collateral, &quote), &collateral, NOW);
    let qe = qe.expect("a QE");
    let end = UnixMillis(1_798_761_600_000);
    assert_eq!(qe.valid_until(), end);
    let at = |now| code(tdx::verify_hot(&quote, &qe, &collateral, Recorded, now));
    assert_eq!((at(end), at(UnixMillis(end.0 + 1))), (Ok(()), Err("intel.expired")));
    let pck = pck_of(&collateral, &quote);
    let warm = |now| code(tdx::verify_warm(&quote, &pck, &collateral, Recorded, now));
    assert_eq!((warm(end), warm(UnixMillis(end.0 + 1))), (Ok(()), Err("intel.expired")));
}

#[test]
fn every_signed_byte_counts() {
    let intel = IntelSimulator::new();
    let collateral = current(&intel);
    let quote = intel.quote(QuoteKind::Td15In5, &[7; 64]);
    let parsed = Quote::parse(&quote).expect("a quote");
    let signed = parsed.signed_bytes.len();
    let flipped = |at: usize| {
        let mut changed = quote.clone();
        changed[at] ^= 1;
        judge(&collateral, &changed).expect_err("a changed quote").code()
    };
    for at in (8..12).chain(28..48).chain(54..signed).step_by(7) {
        assert_eq!(flipped(at), "tdx.signature", "byte {at}");
    }
    let (signature, key) = (signed + 4, signed + 4 + 64);
    for at in [signature, signature + 63] {
        assert_eq!(flipped(at), "tdx.signature");
    }
    assert_eq!(flipped(key), "tdx.qe.report_data", "another attestation key");
    let report = key + 64 + 6;
    for at in [report, report + 48, report + 128, report + 320, report + 384, report + 384 + 63] {
        assert_eq!(flipped(at), "tdx.qe.signature", "byte {at}");
    }
    assert_eq!(flipped(report + 384 + 64 + 2), "tdx.qe.report_data", "authentication data");
}

#[test]
fn a_quoting_enclave_says_which_key_it_has_and_nothing_else() {
    let intel = IntelSimulator::new();
    let of = |change: &dyn Fn(&mut QuoteProfile)| code(quoted(&intel, QuoteKind::Td4, change));
    assert_eq!(of(&|profile| profile.qe_report[320] ^= 1), Err("tdx.qe.report_data"));
    assert_eq!(of(&|profile| profile.auth_data.push(0)), Err("tdx.qe.report_data"));
    assert_eq!(of(&|profile| profile.qe_report[48] |= 2), Err("tdx.qe.debug"));
}

#[test]
fn d8_the_upper_half_of_the_qes_report_data_is_zero_and_perfmon_is_a_claim() {
    let intel = IntelSimulator::new();
    let upper = |at: usize| code(quoted(&intel, QuoteKind::Td4, |profile| profile.qe_report[at] = 1));
    assert_eq!((upper(352), upper(383)), (Err("tdx.qe.report_data_upper"), Err("tdx.qe.report_data_upper")));
    let perfmon = quoted(&intel, QuoteKind::Td4, |profile| profile.body[TD_ATTRIBUTES + 7] |= 0x80).expect("claims");
    assert!(perfmon.attributes["perfmon"]);
    assert_eq!(code(perfmon.check_strict()), Ok(()));
}

#[test]
fn d3_any_length_of_authentication_data_is_a_claim() {
    let intel = IntelSimulator::new();
    for length in [0, 31, 33, 200] {
        let claims = quoted(&intel, QuoteKind::Td4, |profile| {
            let point = key_of(&intel);
            profile.auth_data = vec![3; length];
            let bound = crate::digest::Sha256Digest::of(&[&point, &profile.auth_data]);
            profile.qe_report[320..352].copy_from_slice(&bound.0);
        });
        assert_eq!(usize::from(claims.expect("claims").qe.auth_data_bytes), length);
    }
}

/// The attestation key of the simulated QE.
fn key_of(intel: &IntelSimulator) -> [u8; 64] {
    *Quote::parse(&intel.quote(QuoteKind::Td4, &[0; 64])).expect("a quote").attestation_key
}

#[test]
fn c1_a_quoting_enclave_is_intels_in_every_field() {
    let intel = IntelSimulator::new();
    for kind in [QuoteKind::Td4, QuoteKind::Td15In5] {
        let of = |at: usize, value: u8| code(quoted(&intel, kind, |profile| profile.qe_report[at] = value));
        assert_eq!(of(16, 1), Err("intel.qe.misc_select"));
        assert_eq!(of(48, 0x10), Err("intel.qe.attributes"), "not initialised");
        assert_eq!(of(48, 0x15), Ok(()), "MODE64BIT is not in the mask");
        assert_eq!(of(48, 0x19), Err("intel.qe.attributes"));
        assert_eq!(of(56, 0xff), Ok(()), "XFRM is not in the mask");
        assert_eq!(of(159, 0xdd), Err("intel.qe.mr_signer"));
        assert_eq!(of(256, 1), Err("intel.qe.isv_prod_id"), "the QE of SGX");
        assert_eq!(of(256, 3), Err("intel.qe.isv_prod_id"));
        assert_eq!((of(258, 7), of(258, 6)), (Ok(()), Ok(())), "out of date, which is a claim");
        assert_eq!(of(258, 5), Err("intel.tcb.none"));
    }
    // Identity and TCB info by a key of one's own.
    let other = IntelSimulator::new();
    let quote = intel.quote(QuoteKind::Td4, &[7; 64]);
    let genuine = intel.collateral();
    let own = other.collateral_with(|profile| replace(&mut profile.qe_identity, "DCDC", "EEEE"));
    let mixed = [
        Collateral { qe_identity: own.qe_identity.clone(), ..genuine.clone() },
        Collateral {
            qe_identity: own.qe_identity.clone(),
            qe_identity_signature: own.qe_identity_signature.clone(),
            ..genuine.clone()
        },
    ];
    for collateral in mixed {
        assert_eq!(code(endorse(&intel, &collateral)), Err("intel.signature"));
    }
    let with_chain = Collateral {
        qe_identity: own.qe_identity,
        qe_identity_signature: own.qe_identity_signature,
        qe_identity_issuer_chain: own.qe_identity_issuer_chain,
        ..genuine
    };
    assert_eq!(code(endorse(&intel, &with_chain)), Err("intel.root"));
    assert_eq!(code(judge(&current(&other), &quote)), Err("intel.root"), "a platform of another root");
}

#[test]
fn c2_a_tcb_has_sixteen_components() {
    let intel = IntelSimulator::new();
    for list in ["sgxtcbcomponents", "tdxtcbcomponents"] {
        let start = format!(r#""{list}":[{{"svn":5}},"#);
        let fewer = format!(r#""{list}":["#);
        assert_eq!(code(under(&intel, |profile| replace(&mut profile.tcb_info, &start, &fewer))), Err("intel.schema"));
        let more = format!(r#"{start}{{"svn":5}},"#);
        assert_eq!(code(under(&intel, |profile| replace(&mut profile.tcb_info, &start, &more))), Err("intel.schema"));
    }
    // Every component of both lists counts.
    for at in 0..16 {
        let mut components = COMPONENTS;
        components[at] = components[at].wrapping_sub(1);
        let lower = |profile: &mut crate::sim_intel::Profile| {
            let last = profile.extensions.len() - 1;
            profile.extensions[last] = sgx_extension(components, PCE_SVN);
        };
        let pck = intel.pck_with(&intel.platform_ca, lower);
        let chain = pem(&[&pck, &intel.platform_ca_der, &intel.root_der]).into_bytes();
        let verdict = quoted(&intel, QuoteKind::Td4, |profile| profile.chain = chain).map(|claims| claims.tcb.status);
        match at {
            0 => assert_eq!(verdict, Ok(TcbStatus::OutOfDate)),
            _ if COMPONENTS[at] == 0 => assert_eq!(verdict, Ok(TcbStatus::UpToDate), "255 is more than enough"),
            _ => assert_eq!(code(verdict), Err("intel.tcb.none"), "component {at}"),
        }
    }
    for (pce_svn, expected) in [(11, Ok(())), (10, Err("intel.tcb.revoked")), (4, Err("intel.tcb.none"))] {
        let pck = intel.pck_with(&intel.platform_ca, |profile| {
            let last = profile.extensions.len() - 1;
            profile.extensions[last] = sgx_extension(COMPONENTS, pce_svn);
        });
        let chain = pem(&[&pck, &intel.platform_ca_der, &intel.root_der]).into_bytes();
        assert_eq!(code(quoted(&intel, QuoteKind::Td4, |profile| profile.chain = chain)), expected, "PCESVN {pce_svn}");
    }
}

#[test]
fn c3_the_tdx_module_is_one_that_intel_lists() {
    let intel = IntelSimulator::new();
    let of = |at: usize, value: u8| code(quoted(&intel, QuoteKind::Td4, |profile| profile.body[at] = value));
    assert_eq!(of(1, 2), Err("intel.module.unknown"), "no identity of version 2");
    assert_eq!(of(SEAM_SIGNER, 1), Err("tdx.module.signer"));
    assert_eq!(of(SEAM_SIGNER + 47, 1), Err("tdx.module.signer"));
    assert_eq!(of(SEAM_ATTRIBUTES, 1), Err("tdx.module.attributes"));
    assert_eq!(of(SEAM_ATTRIBUTES + 7, 0x80), Err("tdx.module.attributes"));
    // Where the mask leaves bits open they are still zero.
    let open = |profile: &mut CollateralProfile| {
        profile.tcb_info = profile.tcb_info.replace("FFFFFFFFFFFFFFFF", "00FFFFFFFFFFFFFF")
    };
    let open = endorse(&intel, &intel.collateral_with(open)).expect("collateral");
    let set = intel.quote_with(QuoteKind::Td4, |profile| profile.body[SEAM_ATTRIBUTES] = 1);
    assert_eq!(code(judge(&open, &set)), Err("tdx.module.attributes"));
    // Version 0 has no identity of its own: all its components count.
    let first = quoted(&intel, QuoteKind::Td4, |profile| profile.body[1] = 0).expect("claims");
    assert_eq!((first.module.id.as_str(), first.tcb.status), ("tdxModule", TcbStatus::UpToDate));
    let old = |profile: &mut QuoteProfile| profile.body[..2].copy_from_slice(&[4, 0]);
    assert_eq!(code(quoted(&intel, QuoteKind::Td4, old)), Err("intel.tcb.revoked"), "the lowest level alone");
    // What is not understood in security collateral is not skipped.
    let unknown = |profile: &mut CollateralProfile| {
        replace(&mut profile.tcb_info, r#""tdxModule":"#, r#""tdxModuleDenyList":[],"tdxModule":"#);
    };
    assert_eq!(code(under(&intel, unknown)), Err("intel.schema"));
    let without = |profile: &mut CollateralProfile| {
        let start = profile.tcb_info.find(r#""tdxModuleIdentities""#).expect("identities");
        let end = profile.tcb_info.find(r#""tcbLevels":[{"tcb":{"sgx"#).expect("levels");
        profile.tcb_info.replace_range(start..end, "");
    };
    assert_eq!(code(under(&intel, without)), Err("intel.module.unknown"));
}

#[test]
fn c5_a_trust_domain_that_its_host_looks_into_is_refused() {
    let intel = IntelSimulator::new();
    for kind in [QuoteKind::Td4, QuoteKind::Td10In5, QuoteKind::Td15In5, QuoteKind::Td15ExIn5] {
        let with = |attributes: u64| {
            quoted(&intel, kind, |profile| {
                profile.body[TD_ATTRIBUTES..][..8].copy_from_slice(&attributes.to_le_bytes());
            })
        };
        let sept_ve = 1_u64 << 28;
        assert_eq!(code(with(sept_ve | 1)), Err("tdx.debug"), "there are no claims at all");
        // The library says what is so; a strict policy says what may be.
        for (attributes, name, strict) in [
            (0, "debug", Err("tdx.attributes.sept_ve")),
            (sept_ve | 1 << 29, "migratable", Err("tdx.attributes.migratable")),
            (sept_ve | 1 << 4, "hgs_plus_prof", Err("tdx.attributes.profiling")),
            (sept_ve | 1 << 5, "perf_prof", Err("tdx.attributes.profiling")),
            (sept_ve | 1 << 6, "pmt_prof", Err("tdx.attributes.profiling")),
            (sept_ve | 1 << 17, "servtd_ext", Err("tdx.service_td")),
            (sept_ve | 1 << 1, "reserved", Err("tdx.attributes.reserved")),
            (sept_ve | 1 << 18, "reserved", Err("tdx.attributes.reserved")),
            (sept_ve | 1 << 40, "reserved", Err("tdx.attributes.reserved")),
            (sept_ve | 1 << 16, "icssd", Ok(())),
            (sept_ve | 1 << 27, "lass", Ok(())),
            (sept_ve | 1 << 30, "pks", Ok(())),
            (sept_ve | 1 << 31, "kl", Ok(())),
            (sept_ve | 1 << 62, "tpa", Ok(())),
            (sept_ve | 1 << 63, "perfmon", Ok(())),
        ] {
            let claims = with(attributes).expect("claims");
            assert_eq!(claims.attributes["sept_ve_disable"], attributes & sept_ve != 0);
            assert_eq!(claims.attributes[name], attributes & !sept_ve != 0, "{name}");
            let set = claims.attributes.values().filter(|set| **set).count();
            assert_eq!(set, usize::try_from(attributes.count_ones()).expect("few"), "{name} and no other");
            assert_eq!(code(claims.check_strict()), strict, "{name}");
        }
    }
}

#[test]
fn c6_a_status_is_one_of_a_closed_set_and_revoked_is_refused() {
    let intel = IntelSimulator::new();
    for (from, to, verdict) in [
        (r#""tcbStatus":"UpToDate""#, r#""tcbStatus":"Revoked""#, Err("intel.tcb.revoked")),
        (r#""tcbStatus":"UpToDate""#, r#""tcbStatus":"revoked""#, Err("intel.tcb_status")),
        (r#""tcbStatus":"UpToDate""#, r#""tcbStatus":"UPTODATE""#, Err("intel.tcb_status")),
        (r#""tcbStatus":"UpToDate""#, r#""tcbStatus":"SuperUpToDate""#, Err("intel.tcb_status")),
        (r#""tcbStatus":"UpToDate""#, r#""tcbStatus":"""#, Err("intel.tcb_status")),
        (r#""tcbStatus":"UpToDate""#, r#""tcbStatus":null"#, Err("intel.schema")),
        // A level that nobody reaches is read as strictly.
        (r#""tcbStatus":"OutOfDate""#, r#""tcbStatus":"Outofdate""#, Err("intel.tcb_status")),
        (r#""tcbStatus":"UpToDate""#, r#""tcbStatus":"TDRelaunchAdvised""#, Err("intel.tcb_status")),
    ] {
        for what in ["module", "platform", "qe"] {
            let verdict_here = under(&intel, |profile| {
                let (text, at) = match what {
                    "module" => (&mut profile.tcb_info, "tdxModuleIdentities"),
                    "platform" => (&mut profile.tcb_info, r#""tcbLevels":[{"tcb":{"sgx"#),
                    _ => (&mut profile.qe_identity, "tcbLevels"),
                };
                let start = text.find(at).expect("a part");
                let mut rest = text.split_off(start);
                replace(&mut rest, from, to);
                text.push_str(&rest);
            });
            assert_eq!(code(verdict_here), verdict, "{what}: {to}");
        }
    }
}

#[test]
fn c7_collateral_without_levels_says_nothing() {
    let intel = IntelSimulator::new();
    let platform = |profile: &mut CollateralProfile| {
        let start = profile.tcb_info.find(r#""tcbLevels":[{"tcb":{"sgx"#).expect("levels");
        profile.tcb_info.replace_range(start.., r#""tcbLevels":[]}"#);
    };
    assert_eq!(code(under(&intel, platform)), Err("intel.schema"));
    let identity = |profile: &mut CollateralProfile| {
        let start = profile.qe_identity.find(r#""tcbLevels""#).expect("levels");
        profile.qe_identity.replace_range(start.., r#""tcbLevels":[]}"#);
    };
    assert_eq!(code(under(&intel, identity)), Err("intel.schema"));
    let module = |profile: &mut CollateralProfile| {
        let start = profile.tcb_info.find(r#"{"tcb":{"isvsvn""#).expect("levels");
        let end = profile.tcb_info.find(r#"]}],"tcbLevels""#).expect("an end of them");
        profile.tcb_info.replace_range(start..end, "");
    };
    assert_eq!(code(under(&intel, module)), Err("intel.schema"));
}

#[test]
fn c9_an_old_tdx_module_and_a_service_td_are_told() {
    let intel = IntelSimulator::new();
    let at = |isv_svn: u8| quoted(&intel, QuoteKind::Td4, |profile| profile.body[0] = isv_svn);
    let claims = at(3).expect("claims");
    assert_eq!((claims.module.isv_svn, claims.tcb.status), (3, TcbStatus::OutOfDate));
    assert_eq!(claims.tcb.advisory_ids, ["INTEL-SA-01036"]);
    assert_eq!(code(at(1)), Err("intel.tcb.none"));
    for (kind, at) in [
        (QuoteKind::Td15In5, SERVICE_TD),
        (QuoteKind::Td15In5, SERVICE_TD + 47),
        (QuoteKind::Td15ExIn5, SERVICE_TD),
        (QuoteKind::Td15ExIn5, 729),
        (QuoteKind::Td15ExIn5, 829),
    ] {
        let claims = quoted(&intel, kind, |profile| profile.body[at] = 1).expect("claims");
        assert_eq!(code(claims.check_strict()), Err("tdx.service_td"), "{kind:?} byte {at}");
    }
}

#[test]
fn a_relaunch_is_advised_where_the_module_was_updated_since() {
    let intel = IntelSimulator::new();
    let of = |launch: u8, now: u8| {
        quoted(&intel, QuoteKind::Td15In5, |profile| {
            profile.body[0] = launch;
            profile.body[584] = now;
        })
    };
    let status = |launch, now| of(launch, now).map(|claims| (claims.tcb.status, claims.tcb.platform));
    let (fine, out) = (TcbStatus::UpToDate, TcbStatus::OutOfDate);
    assert_eq!(status(6, 6), Ok((fine, fine)));
    assert_eq!(status(3, 6), Ok((TcbStatus::TDRelaunchAdvised, out)));
    assert_eq!(status(3, 3), Ok((out, out)));
    assert_eq!(status(6, 3), Ok((fine, fine)), "of the TD it is the launch that counts");
    assert_eq!(code(of(6, 1)), Err("intel.tcb.none"), "and what runs now is known as well");
}

#[test]
fn d2_laxities_of_others_are_none_of_ours() {
    let intel = IntelSimulator::new();
    let pce =
        |profile: &mut CollateralProfile| replace(&mut profile.tcb_info, r#""pceId":"0000""#, r#""pceId":"0001""#);
    assert_eq!(code(under(&intel, pce)), Err("intel.platform"));
    let family = |profile: &mut CollateralProfile| replace(&mut profile.tcb_info, "50806F00AA00", "50806F00AB00");
    assert_eq!(code(under(&intel, family)), Err("intel.platform"));
    let version = |profile: &mut CollateralProfile| replace(&mut profile.tcb_info, r#""version":3"#, r#""version":4"#);
    assert_eq!(code(under(&intel, version)), Err("intel.schema"));
    let future = |profile: &mut CollateralProfile| profile.this_update = "270101000000Z".into();
    assert_eq!(code(under(&intel, future)), Err("x509.crl.not_yet_valid"));
    let chained = |chain: &[&[u8]]| {
        let chain = pem(chain).into_bytes();
        code(quoted(&intel, QuoteKind::Td4, |profile| profile.chain = chain))
    };
    let by_root = intel.pck_with(&intel.root, |_| {});
    assert_eq!(chained(&[&by_root, &intel.root_der]), Err("intel.chain"), "issued by the root itself");
    // The root's key in another certificate, as Intel once issued it; garbage; none; two.
    let again = {
        let mut profile = intel.root_profile();
        profile.not_before = "240101000000Z".into();
        intel.root.issue(&profile)
    };
    let (pck, ca, root) = (&intel.pck.der[..], &intel.platform_ca_der[..], &intel.root_der[..]);
    assert_eq!(chained(&[pck, ca, &again]), Err("intel.root"));
    assert_eq!(chained(&[pck, ca, &IntelSimulator::new().root_der]), Err("intel.root"));
    assert_eq!(chained(&[pck, ca, &root[1..]]), Err("x509.malformed"));
    assert_eq!(chained(&[pck, ca]), Err("intel.chain"));
    assert_eq!(chained(&[pck, ca, root, root]), Err("intel.chain"));
    // Any order, and nothing beside it.
    for chain in [[pck, ca, root], [pck, root, ca], [root, ca, pck], [ca, pck, root]] {
        assert_eq!(chained(&chain), Ok(()));
    }
    assert_eq!(chained(&[pck, ca, root, &intel.processor_ca_der]), Err("intel.chain"));
    assert_eq!(chained(&[&intel.signer.der, ca, root]), Err("intel.chain"), "no PCK");
    let by_processor = intel.pck_with(&intel.processor_ca, |_| {});
    assert_eq!(chained(&[&by_processor, &intel.processor_ca_der, root]), Err("intel.crl.issuer"));
}

#[test]
fn d9_a_pck_that_is_only_named_is_not_looked_for() {
    let intel = IntelSimulator::new();
    for kind in 1..=4 {
        let verdict = quoted(&intel, QuoteKind::Td4, |profile| profile.certification_type = kind);
        assert_eq!(code(verdict), Err("tdx.certification.type"));
    }
}

#[test]
fn revoked_expired_and_foreign_certificates_are_refused() {
    let intel = IntelSimulator::new();
    let pck = |profile: &mut CollateralProfile| profile.revoked_pcks.push(vec![1, 0, 9]);
    assert_eq!(code(under(&intel, pck)), Err("intel.pck.revoked"));
    let other: &dyn Fn(&mut CollateralProfile) = &|profile| profile.revoked_pcks.push(vec![1, 0, 8]);
    assert_eq!(code(under(&intel, other)), Ok(()));
    for serial in [0, 1, 3] {
        let authority = |profile: &mut CollateralProfile| profile.revoked_authorities.push(vec![1, 0, serial]);
        assert_eq!(code(under(&intel, authority)), Err("intel.ca.revoked"), "root, platform CA, signer");
    }
    // Another certificate of the CA's key, which a quote still carries.
    let earlier = {
        let mut profile = intel.platform_ca_profile();
        profile.serial = vec![1, 0, 7];
        intel.root.issue(&profile)
    };
    let chain = pem(&[&intel.pck.der, &earlier, &intel.root_der]).into_bytes();
    let quote = intel.quote_with(QuoteKind::Td4, |profile| profile.chain = chain);
    let on_list = |profile: &mut CollateralProfile| profile.revoked_authorities.push(vec![1, 0, 7]);
    let on_list = endorse(&intel, &intel.collateral_with(on_list)).expect("collateral");
    assert_eq!(code(judge(&current(&intel), &quote)), Ok(()));
    assert_eq!(code(judge(&on_list, &quote)), Err("intel.ca.revoked"));
    let expired = |profile: &mut CollateralProfile| profile.next_update = "260101000000Z".into();
    assert_eq!(code(under(&intel, expired)), Err("x509.crl.expired"));
    type Change = &'static dyn Fn(&mut crate::sim_intel::Profile);
    let cases: [(Change, &str); 5] = [
        (&|profile| profile.not_after = "260101000000Z".into(), "x509.expired"),
        (&|profile| profile.not_before = "270101000000Z".into(), "x509.not_yet_valid"),
        (&|profile| drop(profile.extensions.pop()), "intel.pck.extensions"),
        (&|profile| profile.subject = crate::sim_intel::name("Intel SGX TCB Signing"), "intel.signer"),
        (&|profile| profile.extensions[2].2[1] ^= 1, "intel.pck.extensions"),
    ];
    for (change, expected) in cases {
        let leaf = intel.pck_with(&intel.platform_ca, change);
        let chain = pem(&[&leaf, &intel.platform_ca_der, &intel.root_der]).into_bytes();
        assert_eq!(code(quoted(&intel, QuoteKind::Td4, |profile| profile.chain = chain)), Err(expected));
    }
}

#[test]
fn c10_collateral_is_verified_as_it_came_and_read_strictly() {
    let intel = IntelSimulator::new();
    for (from, to) in [
        (r#""tcbLevels":[{"tcb":{"sgx"#, r#""tcbLevels":[],"tcbLevels":[{"tcb":{"sgx"#),
        (r#""version":3"#, r#""version":3,"version":3"#),
        (r#""version":3"#, r#""version":NaN"#),
        (r#""version":3"#, r#""version":3.0"#),
        (r#""version":3"#, r#""version":"3""#),
        (r#""pcesvn":11"#, r#""pcesvn":-1"#),
        (r#""pcesvn":11"#, r#""pcesvn":65536"#),
        (r#"{"svn":5}"#, r#"{"svn":256}"#),
        (r#"{"id""#, "\u{feff}{\"id\""),
        (r#""fmspc":"50806F00AA00""#, r#""fmspc":"50806F00AA""#),
        (r#""fmspc":"50806F00AA00""#, r#""fmspc":"50806F00AAZZ""#),
        (r#""issueDate":"2025-01-01T00:00:00Z""#, r#""issueDate":"2025-01-01""#),
        // What there is none of is left out.
        (r#""pceId":"0000""#, r#""pceId":null"#),
        (r#""id":"TDX""#, r#""id":null"#),
        (r#""tcbStatus":"UpToDate"}"#, r#""tcbStatus":"UpToDate","advisoryIDs":null}"#),
        (r#""tdxModuleIdentities":["#, r#""tdxModuleIdentities":null,"x":["#),
        (r#"{"svn":5}"#, r#"{"svn":5,"category":null}"#),
    ] {
        let verdict = under(&intel, |profile| replace(&mut profile.tcb_info, from, to));
        assert_eq!(code(verdict), Err("intel.schema"), "{to}");
    }
    let trailing = |profile: &mut CollateralProfile| profile.tcb_info.push('x');
    assert_eq!(code(under(&intel, trailing)), Err("intel.schema"));
    let deep = |profile: &mut CollateralProfile| {
        replace(&mut profile.tcb_info, r#""tcbType":0"#, &format!(r#""tcbType":{}"#, "[".repeat(10_000)));
    };
    assert_eq!(code(under(&intel, deep)), Err("intel.schema"));
    let hex = |profile: &mut CollateralProfile| replace(&mut profile.tcb_info, "50806F00AA00", "50806f00aa00");
    assert_eq!(code(under(&intel, hex)), Ok(()), "Intel writes hex in either case");
    // Signed bytes, not what they mean.
    let mut spaced = intel.collateral();
    replace(&mut spaced.tcb_info, r#"{"id""#, r#"{ "id""#);
    assert_eq!(code(endorse(&intel, &spaced)), Err("intel.signature"));
    let mut changed = intel.collateral();
    changed.tcb_info_signature[0] ^= 1;
    assert_eq!(code(endorse(&intel, &changed)), Err("intel.signature"));
    let mut swapped = intel.collateral();
    core::mem::swap(&mut swapped.root_ca_crl, &mut swapped.pck_crl);
    assert_eq!(code(endorse(&intel, &swapped)), Err("x509.issuer.name"));
    let mut by_ca = intel.collateral();
    by_ca.tcb_info_issuer_chain = by_ca.pck_crl_issuer_chain.clone();
    assert_eq!(code(endorse(&intel, &by_ca)), Err("intel.signer"));
    let nobody = VerifiedCollateral::endorse(&intel.collateral().parts(), &[], NOW);
    assert_eq!(code(nobody), Err("intel.root"));
}

#[test]
fn collateral_holds_from_its_issue_to_its_update() {
    let intel = IntelSimulator::new();
    for (from, to, expected) in [
        ("2025-01-01T00:00:00Z", "2026-11-23T00:00:00Z", Ok(())),
        ("2025-01-01T00:00:00Z", "2026-11-23T00:00:01Z", Err("intel.not_yet_valid")),
        ("2045-01-01T00:00:00Z", "2026-11-23T00:00:00Z", Ok(())),
        ("2045-01-01T00:00:00Z", "2026-11-22T23:59:59Z", Err("intel.expired")),
    ] {
        let of_info = under(&intel, |profile| replace(&mut profile.tcb_info, from, to));
        let of_identity = under(&intel, |profile| replace(&mut profile.qe_identity, from, to));
        assert_eq!((code(of_info), code(of_identity)), (expected, expected), "{to}");
        let info = intel.collateral_with(|profile| replace(&mut profile.tcb_info, from, to));
        let identity = intel.collateral_with(|profile| replace(&mut profile.qe_identity, from, to));
        let endorsed = (code(endorse(&intel, &info)), code(endorse(&intel, &identity)));
        assert_eq!(endorsed, (expected, expected), "{to}: before there is a quote");
    }
    let collateral = current(&intel);
    assert_eq!(collateral.valid_until(), END);
    let quote = intel.quote(QuoteKind::Td4, &[7; 64]);
    let late = tdx::verify(&quote, &collateral, Recorded, UnixMillis(END.0 + 1));
    assert_eq!(code(late), Err("intel.expired"), "kept collateral ends as well");
}

/// C13: the earliest nextUpdate of all parts, with the grace an operator states, is the end; certificates get none.
#[test]
fn c13_collateral_past_its_update_holds_for_the_stated_grace_and_says_so() {
    let intel = IntelSimulator::new();
    let due = UnixMillis(1_798_761_600_000);
    let collateral = intel.collateral_with(|profile| replace(&mut profile.tcb_info, "2045-01-01", "2027-01-01"));
    let endorsed = |now: UnixMillis, grace_ms| {
        VerifiedCollateral::endorse(&collateral.parts(), &[intel.anchor()], JudgedAt { now, grace_ms })
    };
    let grace_ms = 86_400_000;
    let end = due.plus(grace_ms);
    let kept = endorsed(NOW, grace_ms).expect("collateral");
    assert_eq!((kept.valid_until(), kept.overdue(due), kept.overdue(due.plus(1))), (end, None, Some(due)));
    let quote = intel.quote(QuoteKind::Td4, &[7; 64]);
    for (now, overdue) in [(NOW, None), (due, None), (due.plus(1), Some(due)), (end, Some(due))] {
        for collateral in [&kept, &endorsed(now, grace_ms).expect("collateral")] {
            let claims = tdx::verify(&quote, collateral, Recorded, now).expect("claims");
            assert_eq!((claims.collateral_overdue, claims.valid_until), (overdue, end), "{now}");
        }
    }
    assert_eq!(code(endorsed(due.plus(1), 0)), Err("intel.expired"));
    assert_eq!(code(endorsed(end.plus(1), grace_ms)), Err("intel.expired"));
    assert_eq!(code(tdx::verify(&quote, &kept, Recorded, end.plus(1))), Err("intel.expired"));
    // Lists likewise; and a year of grace is not a day more for certificates, which end with 2044.
    let lists = intel.collateral();
    let late = JudgedAt { now: UnixMillis(END.0 + 1001), grace_ms: 365 * 86_400_000 };
    let ended = VerifiedCollateral::endorse(&lists.parts(), &[intel.anchor()], late);
    assert_eq!(code(ended), Err("x509.expired"));
}

#[test]
fn collateral_digests_tell_parts_apart() {
    let intel = IntelSimulator::new();
    let one = intel.collateral();
    let mut digests: Vec<_> = vec![one.parts().digest()];
    let mut moved = one.clone();
    let first = moved.pck_crl.remove(0);
    moved.root_ca_crl.push(first);
    digests.push(moved.parts().digest());
    let mut longer = one;
    longer.tcb_info.push(' ');
    digests.push(longer.parts().digest());
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 3);
}

/// Genuine answers of one day differ in it.
#[test]
fn evaluation_data_numbers_of_tcb_info_and_identity_may_differ() {
    let intel = IntelSimulator::new();
    let number = r#""tcbEvaluationDataNumber":17"#;
    let claims = under(&intel, |profile| {
        replace(&mut profile.qe_identity, number, r#""tcbEvaluationDataNumber":16"#);
    });
    assert_eq!(claims.expect("claims").tcb.status, TcbStatus::UpToDate);
}

/// Two certificates of one key are both in use, since Intel renewed its own, and each is revoked by itself; one that
/// an authority below the root issued is none, whoever else takes it (d4).
#[test]
fn d4_the_signer_of_tcbs_is_issued_by_the_root_itself_and_may_have_two_certificates() {
    let intel = IntelSimulator::new();
    let renewed = intel.signer_by(&intel.root, 9);
    let first = crate::x509::Certificate::parse(&intel.signer.der).expect("a certificate").serial().to_vec();
    let by_ca = intel.signer_by(&intel.platform_ca, 9);
    let chains = [
        (pem(&[&intel.signer.der, &intel.root_der]), Ok(()), Err("intel.ca.revoked")),
        (pem(&[&renewed, &intel.root_der]), Ok(()), Ok(())),
        (pem(&[&by_ca, &intel.platform_ca_der, &intel.root_der]), Err("intel.chain"), Err("intel.chain")),
        (pem(&[&by_ca, &intel.root_der]), Err("x509.path.none"), Err("x509.path.none")),
    ];
    for (chain, expected, revoked) in chains {
        for (serials, expected) in [(vec![], expected), (vec![first.clone()], revoked)] {
            let mut collateral = intel.collateral_with(|profile| profile.revoked_authorities = serials);
            // The identity under the certificate that stands.
            collateral.qe_identity_issuer_chain = pem(&[&renewed, &intel.root_der]);
            collateral.tcb_info_issuer_chain = chain.clone();
            assert_eq!(code(endorse(&intel, &collateral)), expected);
        }
    }
}

/// Closed: a type that is not specified may protect memory as nobody knows.
#[test]
fn the_sgx_type_of_a_pck_is_a_specified_one() {
    let intel = IntelSimulator::new();
    let collateral = current(&intel);
    for (kind, expected) in [(0, Ok(())), (1, Ok(())), (2, Ok(())), (3, Err("intel.pck.extensions"))] {
        let pck = intel.pck_with(&intel.platform_ca, |profile| {
            let (_, _, value) =
                profile.extensions.iter_mut().find(|(id, ..)| id.ends_with(&[0x4d, 1, 13, 1])).expect("SGX");
            let place = value.windows(3).position(|bytes| bytes == [10, 1, 1]).expect("an ENUMERATED");
            value[place + 2] = kind;
        });
        let chain = pem(&[&pck, &intel.platform_ca_der, &intel.root_der]);
        assert_eq!(code(collateral.endorse_pck(chain.as_bytes(), NOW)), expected, "{kind}");
    }
}

#[test]
fn c10_a_document_is_measured_before_it_is_read() {
    let intel = IntelSimulator::new();
    let long = |text: &mut String| text.extend(core::iter::repeat_n(' ', 256 * 1024));
    assert_eq!(code(under(&intel, |profile| long(&mut profile.tcb_info))), Err("intel.schema"));
    assert_eq!(code(under(&intel, |profile| long(&mut profile.qe_identity))), Err("intel.schema"));
    // White space alone is no fault.
    assert_eq!(code(under(&intel, |profile| profile.tcb_info.push(' '))), Ok(()));
}

/// Version 2 names the components one by one, and its first documents no PCEID: those fit no platform.
#[test]
fn tcb_info_of_version_2_is_for_sgx_and_of_its_own_form() {
    let intel = IntelSimulator::new();
    let sgx =
        |change: &dyn Fn(&mut String)| -> Code {
            let mut text = sgx_tcb_info_v2();
            change(&mut text);
            let collateral = endorse(&intel, &intel.sgx_collateral_with(|profile| profile.tcb_info = text));
            code(collateral.and_then(|collateral| {
                sgx::verify(&intel.quote(QuoteKind::Sgx3, &[7; 64]), &collateral, Recorded, NOW)
            }))
        };
    assert_eq!(sgx(&|_| {}), Ok(()));
    assert_eq!(sgx(&|text| replace(text, r#""pceId":"0000","#, "")), Err("intel.platform"));
    assert_eq!(sgx(&|text| replace(text, r#""version":2"#, r#""version":3"#)), Err("intel.schema"));
    assert_eq!(sgx(&|text| replace(text, r#""version":2"#, r#""id":"SGX","version":2"#)), Err("intel.schema"));
    assert_eq!(sgx(&|text| replace(text, r#""sgxtcbcomp16svn":0,"#, "")), Err("intel.schema"));
    assert_eq!(sgx(&|text| replace(text, r#""pcesvn":11"#, r#""pcesvn":255"#)), Err("intel.tcb.none"));
}

fn sgx_tcb_info_v2() -> String {
    let named = |(number, svn): (u8, &u8)| format!(r#""sgxtcbcomp{number:02}svn":{svn},"#);
    let components: String = (1..).zip(&COMPONENTS).map(named).collect();
    let dates = r#""issueDate":"2026-11-01T00:00:00Z","nextUpdate":"2026-12-01T00:00:00Z""#;
    let level =
        format!(r#"{{"tcb":{{{components}"pcesvn":11}},"tcbDate":"2024-03-13T00:00:00Z","tcbStatus":"UpToDate"}}"#);
    format!(
        r#"{{"version":2,{dates},"fmspc":"50806F00AA00","pceId":"0000","tcbType":0,"tcbEvaluationDataNumber":17,"tcbLevels":[{level}]}}"#
    )
}
