//! Whole bundles: what a VEK that was endorsed before may save, and what it may not change.

use countersign_attestation::anchor::{AmdProduct, Assurance, TrustAnchors};
use countersign_attestation::binder::{Binder, ChannelBinding, Role};
use countersign_attestation::claims::{Claims, PcrHash, TpmIdentity};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::amd::{self, VerifiedVek};
use countersign_attestation::evidence::bundle::{Bundle, SnpEvidence};
use countersign_attestation::evidence::tpm::{AttestationKey, EnrolledTpm};
use countersign_attestation::evidence::{Endorsements, Expected, verify};
use countersign_attestation::protocol::PcrSelection;
use countersign_attestation::{Rejection, UnixMillis};

#[path = "../../tests/sim/amd.rs"]
mod sim_amd;
#[path = "../../tests/sim/tpm.rs"]
mod sim_tpm;
use sim_amd::AmdSimulator;
use sim_tpm::{AkKind, CredentialKey, SimTpm};

/// 2026-06-01T00:00:00Z.
const NOW: UnixMillis = UnixMillis(1_780_272_000_000);
/// 2026-07-01T00:00:00Z, when the first list ends.
const JULY: UnixMillis = UnixMillis(1_782_864_000_000);

fn with<'a>(anchors: &'a TrustAnchors, crls: &'a [Vec<u8>]) -> Endorsements<'a> {
    Endorsements { anchors, crls, endorsed: None, intel: None, quoting_enclave: None }
}

#[test]
fn a_vek_endorsed_before_saves_work_and_changes_no_verdict() {
    let amd = AmdSimulator::new(AmdProduct::Milan);
    let other = amd.vcek_with(|_| {});
    let anchors = TrustAnchors { amd: vec![amd.anchor()], ..TrustAnchors::default() };
    let lists = |lists: &[(&str, &str)]| -> Vec<Vec<u8>> {
        lists.iter().map(|(from, to)| amd.ark.revoke(&[], from, to)).collect()
    };
    let (first, both) = (("260301000000Z", "260701000000Z"), ("260601000000Z", "261001000000Z"));
    let (first, both) = (lists(&[first]), lists(&[first, both]));
    let endorsed =
        |der: &[u8]| -> VerifiedVek { amd::endorse(der, &anchors.amd, &[&first[0]], NOW).expect("a current chain") };
    let (kept, kept_other) = (endorsed(&amd.vcek.der), endorsed(&other.der));

    let tpm = SimTpm::new(AkKind::P256);
    let key = CredentialKey::new();
    let selection = [PcrSelection { bank: PcrHash::Sha256, pcrs: (0..8).collect() }];
    let binder = Binder::new(Role::Host, &[7; 32], &key.spki(), &ChannelBinding([1; 32]));
    let (tpm_quote, tpm_pcrs) = tpm.quote(&selection, &binder.qualifying_data());
    let tpm_certify = tpm.certify(&key, &binder.qualifying_data());
    let ak = AttestationKey::from_public(tpm.ak_public()).expect("an AK");
    let identity = TpmIdentity::from_attributes("id:00001014", "swtpm", "id:20240125");
    let enrolled = EnrolledTpm::new(ak, Sha256Digest([0; 32]), Assurance::Simulated, identity);
    let spki = key.spki();
    let expected = Expected { binder: &binder, credential_key: &spki, tpm: &enrolled, pcr_selection: &selection };
    let judge = |snp: SnpEvidence, crls: &[Vec<u8>], endorsed, now| -> Result<Claims, Rejection> {
        let (tpm_quote, tpm_pcrs, tpm_certify) = (tpm_quote.clone(), tpm_pcrs.clone(), tpm_certify.clone());
        let bundle = Bundle {
            tpm_quote,
            tpm_pcrs,
            tpm_certify,
            event_log: None,
            ima: None,
            snp: Some(snp),
            tdx: None,
            paravisor: None,
        };
        verify(&bundle, &expected, &Endorsements { endorsed, ..with(&anchors, crls) }, now)
    };
    let code = |verdict: Result<Claims, Rejection>| verdict.map(drop).map_err(|rejection| rejection.code());

    let good = || amd.evidence(binder.report_data());
    let cold = judge(good(), &first, None, NOW).expect("a good bundle");
    assert_eq!(judge(good(), &first, Some(&kept), NOW), Ok(cold.clone()));
    // It saved the work: without the anchors nothing else could have endorsed it.
    let nothing = TrustAnchors::default();
    let bundle = Bundle {
        tpm_quote: tpm_quote.clone(),
        tpm_pcrs: tpm_pcrs.clone(),
        tpm_certify: tpm_certify.clone(),
        event_log: None,
        ima: None,
        snp: Some(good()),
        tdx: None,
        paravisor: None,
    };
    let endorsements = Endorsements { endorsed: Some(&kept), ..with(&nothing, &[]) };
    assert_eq!(verify(&bundle, &expected, &endorsements, NOW), Ok(cold.clone()));
    // Of another certificate: as if there were none.
    assert_eq!(judge(good(), &first, Some(&kept_other), NOW), Ok(cold));
    let mixed = SnpEvidence { vek: other.der.clone(), ..good() };
    assert_eq!(code(judge(mixed.clone(), &first, None, NOW)), Err("snp.signature.invalid"));
    assert_eq!(code(judge(mixed, &first, Some(&kept), NOW)), Err("snp.signature.invalid"));
    // Its list ended: endorsed anew, by the newer list or not at all.
    assert_eq!(code(judge(good(), &first, Some(&kept), JULY)), Err("x509.crl.expired"));
    assert_eq!(code(judge(good(), &both, Some(&kept), JULY)), Ok(()));
    assert_eq!(judge(good(), &both, Some(&kept), JULY), judge(good(), &both, None, JULY));
    // Every other check of the report is made.
    let stale = amd.evidence(&[8; 64]);
    assert_eq!(code(judge(stale, &first, Some(&kept), NOW)), Err("binding.report_data"));
    let mut changed = good();
    changed.report[0x90] ^= 1;
    assert_eq!(code(judge(changed, &first, Some(&kept), NOW)), Err("snp.signature.invalid"));
}
