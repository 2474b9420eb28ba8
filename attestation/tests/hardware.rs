//! Bundles of trust domains, and of hosts whose TPM is a paravisor's: what binds the parts to each other.

#![expect(clippy::expect_used, reason = "helpers of tests")]

use countersign_attestation::anchor::{AmdProduct, Assurance, TrustAnchors};
use countersign_attestation::binder::{Binder, ChannelBinding, Role};
use countersign_attestation::claims::{Claims, PcrHash, TpmIdentity};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::intel::VerifiedCollateral;
use countersign_attestation::evidence::bundle::{Bundle, ParavisorEvidence, SnpEvidence, TdxEvidence};
use countersign_attestation::evidence::paravisor::HardwareKind;
use countersign_attestation::evidence::tdx::{Quote, VerifiedQe};
use countersign_attestation::evidence::tpm::{AttestationKey, EnrolledTpm};
use countersign_attestation::evidence::{Endorsements, Expected, verify};
use countersign_attestation::protocol::PcrSelection;
use countersign_attestation::{Rejection, UnixMillis};

#[path = "../../tests/sim/amd.rs"]
mod sim_amd;
#[path = "../../tests/sim/hcl.rs"]
mod sim_hcl;
#[path = "../../tests/sim/intel.rs"]
mod sim_intel;
#[path = "../../tests/sim/tpm.rs"]
mod sim_tpm;
use sim_amd::AmdSimulator;
use sim_intel::{IntelSimulator, QuoteKind};
use sim_tpm::{AkKind, CredentialKey, SimTpm};

/// 2026-11-23T00:00:00Z.
const NOW: UnixMillis = UnixMillis(1_795_392_000_000);

/// A host, and a challenge for it.
struct Rig {
    tpm: SimTpm,
    enrolled: EnrolledTpm,
    key: CredentialKey,
    binder: Binder,
    selection: [PcrSelection; 1],
    anchors: TrustAnchors,
    crls: Vec<Vec<u8>>,
    intel: Option<VerifiedCollateral>,
}

impl Rig {
    fn new(anchors: TrustAnchors, crls: Vec<Vec<u8>>, intel: Option<VerifiedCollateral>) -> Self {
        // As Azure's virtual TPM has it.
        let tpm = SimTpm::new(AkKind::Rsa2048);
        let key = CredentialKey::new();
        let binder = Binder::new(Role::Host, &[7; 32], &key.spki(), &ChannelBinding([1; 32]));
        let ak = AttestationKey::from_public(tpm.ak_public()).expect("an AK");
        let identity = TpmIdentity::from_attributes("id:4D534654", "vTPM", "id:20200312");
        let enrolled = EnrolledTpm::new(ak, Sha256Digest([0; 32]), Assurance::Hardware, identity);
        let selection = [PcrSelection { bank: PcrHash::Sha256, pcrs: (0..8).collect() }];
        Self { tpm, enrolled, key, binder, selection, anchors, crls, intel }
    }

    fn bundle(&self) -> Bundle {
        let data = self.binder.qualifying_data();
        let (tpm_quote, tpm_pcrs) = self.tpm.quote(&self.selection, &data);
        let tpm_certify = self.tpm.certify(&self.key, &data);
        Bundle { tpm_quote, tpm_pcrs, tpm_certify, event_log: None, ima: None, snp: None, tdx: None, paravisor: None }
    }

    fn judge_kept(&self, bundle: &Bundle, quoting_enclave: Option<&VerifiedQe>) -> Result<Claims, Rejection> {
        let spki = self.key.spki();
        let expected = Expected {
            binder: &self.binder,
            credential_key: &spki,
            tpm: &self.enrolled,
            pcr_selection: &self.selection,
        };
        let endorsements = Endorsements {
            anchors: &self.anchors,
            crls: &self.crls,
            endorsed: None,
            intel: self.intel.as_ref(),
            quoting_enclave,
        };
        verify(bundle, &expected, &endorsements, NOW)
    }

    fn judge(&self, bundle: &Bundle) -> Result<Claims, Rejection> {
        self.judge_kept(bundle, None)
    }

    fn code(&self, bundle: &Bundle) -> &'static str {
        self.judge(bundle).expect_err("refused").code()
    }
}

fn with_quote(bundle: Bundle, quote: Vec<u8>) -> Bundle {
    Bundle { tdx: Some(TdxEvidence { quote, ccel: None }), ..bundle }
}

fn collateral(intel: &IntelSimulator) -> VerifiedCollateral {
    VerifiedCollateral::endorse(&intel.collateral().parts(), &[intel.anchor()], NOW).expect("collateral")
}

#[test]
fn a_trust_domain_quotes_the_binder() {
    let intel = IntelSimulator::new();
    let rig = Rig::new(TrustAnchors::default(), Vec::new(), Some(collateral(&intel)));
    let quote = |data: &[u8; 64]| intel.quote(QuoteKind::Td15In5, data);
    let good = with_quote(rig.bundle(), quote(rig.binder.report_data()));
    let claims = rig.judge(&good).expect("claims");
    assert_eq!(claims.assurance, Assurance::Simulated, "the weaker of both roots");
    let tdx = claims.tdx.verified().expect("claims of the TD");
    assert_eq!(tdx.report_data.0, rig.binder.report_data());
    assert!(claims.paravisor.verified().is_none());
    // Of another moment, another host, another platform.
    assert_eq!(rig.code(&with_quote(rig.bundle(), quote(&[8; 64]))), "binding.report_data");
    let other = IntelSimulator::new().quote(QuoteKind::Td4, rig.binder.report_data());
    assert_eq!(rig.code(&with_quote(rig.bundle(), other)), "intel.root");
    let alone = Rig { intel: None, ..Rig::new(TrustAnchors::default(), Vec::new(), None) };
    let unendorsed = with_quote(alone.bundle(), quote(alone.binder.report_data()));
    assert_eq!(alone.code(&unendorsed), "tdx.collateral.missing");
}

#[test]
fn a_quoting_enclave_kept_saves_work_and_changes_no_verdict() {
    let intel = IntelSimulator::new();
    let rig = Rig::new(TrustAnchors::default(), Vec::new(), Some(collateral(&intel)));
    let kept = |intel: &IntelSimulator| {
        let quote = intel.quote(QuoteKind::Td4, &[1; 64]);
        let (quote, collateral) = (Quote::parse(&quote).expect("a quote"), collateral(intel));
        let pck = collateral.endorse_pck(quote.pck_chain().expect("a chain"), NOW).expect("a PCK");
        VerifiedQe::endorse(&quote, &pck, &collateral, NOW).expect("a quoting enclave")
    };
    let (own, other) = (kept(&intel), kept(&IntelSimulator::new()));
    for data in [rig.binder.report_data(), &[8; 64]] {
        let bundle = with_quote(rig.bundle(), intel.quote(QuoteKind::Td4, data));
        let cold = rig.judge(&bundle);
        assert_eq!(cold.is_ok(), data == rig.binder.report_data());
        for kept in [&own, &other] {
            assert_eq!(rig.judge_kept(&bundle, Some(kept)), cold);
        }
    }
    let mut forged = intel.quote(QuoteKind::Td4, rig.binder.report_data());
    forged[48 + 136] ^= 1;
    let forged = with_quote(rig.bundle(), forged);
    assert_eq!(rig.judge_kept(&forged, Some(&own)).map_err(|rejection| rejection.code()), Err("tdx.signature"));
}

#[test]
fn b13_a_paravisors_report_counts_for_the_very_key_that_is_enrolled() {
    let amd = AmdSimulator::new(AmdProduct::Milan);
    let anchors = || TrustAnchors { amd: vec![amd.anchor()], ..TrustAnchors::default() };
    let rig = Rig::new(anchors(), vec![amd.crl(&[])], None);
    let azure = |rig: &Rig| {
        let runtime = sim_hcl::runtime(rig.tpm.ak_public(), rig.tpm.ak_public());
        let SnpEvidence { report, vek } = amd.evidence(&sim_hcl::report_data(&runtime));
        let hcl_report = sim_hcl::snp_nv(&report, &runtime);
        Bundle { paravisor: Some(ParavisorEvidence { hcl_report, vek: Some(vek) }), ..rig.bundle() }
    };
    let good = azure(&rig);
    let claims = rig.judge(&good).expect("claims");
    let paravisor = claims.paravisor.verified().expect("claims of the paravisor");
    assert_eq!((paravisor.hardware, claims.assurance), (HardwareKind::Snp, Assurance::Simulated));
    assert_eq!(claims.snp.verified().expect("of the chip").vmpl, 0);
    // Parts of different hosts do not compose: each has its own key.
    let other = Rig::new(anchors(), vec![amd.crl(&[])], None);
    let composed = Bundle { paravisor: azure(&other).paravisor, ..rig.bundle() };
    assert_eq!(rig.code(&composed), "hcl.ak.key");
    // A report of the VM itself vouches for no key of a TPM.
    let own = amd.evidence(rig.binder.report_data());
    let runtime = sim_hcl::runtime(rig.tpm.ak_public(), rig.tpm.ak_public());
    let hcl_report = sim_hcl::snp_nv(&own.report, &runtime);
    let unbound = ParavisorEvidence { hcl_report, vek: Some(own.vek) };
    assert_eq!(rig.code(&Bundle { paravisor: Some(unbound), ..rig.bundle() }), "hcl.runtime.binding");
    let paravisor = good.paravisor.clone().map(|paravisor| ParavisorEvidence { vek: None, ..paravisor });
    assert_eq!(rig.code(&Bundle { paravisor, ..rig.bundle() }), "bundle.record.missing");
    let quote = IntelSimulator::new().quote(QuoteKind::Td4, rig.binder.report_data());
    assert_eq!(rig.code(&with_quote(azure(&rig), quote)), "bundle.record.conflict");
}

#[test]
fn c8_a_tdreport_counts_with_the_quote_that_was_made_of_it() {
    let intel = IntelSimulator::new();
    let rig = Rig::new(TrustAnchors::default(), Vec::new(), Some(collateral(&intel)));
    let runtime = sim_hcl::runtime(rig.tpm.ak_public(), rig.tpm.ak_public());
    let data = sim_hcl::report_data(&runtime);
    let quote = intel.quote(QuoteKind::Td4, &data);
    let hcl_report = sim_hcl::tdx_nv(&sim_hcl::tdreport(&quote[48..48 + 584]), &runtime);
    let paravisor = || Some(ParavisorEvidence { hcl_report: hcl_report.clone(), vek: None });
    let claims = rig.judge(&with_quote(Bundle { paravisor: paravisor(), ..rig.bundle() }, quote)).expect("claims");
    assert_eq!(claims.paravisor.verified().expect("claims").hardware, HardwareKind::Tdx);
    assert_eq!(claims.tdx.verified().expect("claims").report_data.0, data);
    // Alone it is the host's word, and a quote of another TD is about that one.
    assert_eq!(rig.code(&Bundle { paravisor: paravisor(), ..rig.bundle() }), "bundle.record.missing");
    let other = intel.quote_with(QuoteKind::Td4, |profile| {
        profile.body[520..][..64].copy_from_slice(&data);
        profile.body[136] ^= 1;
    });
    assert_eq!(rig.code(&with_quote(Bundle { paravisor: paravisor(), ..rig.bundle() }, other)), "hcl.tdreport.quote");
}
