//! Claims to judge: plain values, since only the verifier makes them from evidence. The crate's own tests include this
//! file too, and it has no prelude.

use std::collections::BTreeMap;
use std::vec;

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::{AmdProduct, Assurance};
use countersign_attestation::claims::{
    BootClaims, Claims, ClockInfo, CreationClaims, HexBytes, ImaClaims, IntelPlatform, KeyAuthorization,
    ParavisorClaims, PcrHash, Presented, QeClaims, Revocation, RtmrClaims, SnpClaims, SnpCpuid, SnpFirmware,
    SnpSigningKey, SnpTcb, TdxClaims, TdxModuleClaims, TpmClaims, TpmIdentity, TpmKeyClaims,
};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::intel::{TcbEvaluation, TcbStatus};
use countersign_attestation::evidence::eventlog::claims::{
    Authority, BootImage, ExitBootServices, ImageKind, Labelled, Measured, SecureBoot, Separator, SignatureDatabase,
    UkiSection,
};
use countersign_attestation::evidence::ima::ImaState;
use countersign_attestation::evidence::paravisor::{HardwareKind, Setting};
use countersign_attestation::evidence::tdx::BodyKind;
use countersign_attestation::evidence::tdx::rtmr::LogForm;

pub(crate) const NOW: UnixMillis = UnixMillis(1_795_408_496_007);

pub(crate) fn digest(of: u8) -> HexBytes {
    HexBytes(vec![of; 32])
}

/// A hardware TPM whose sha256 PCRs 0 to 7 hold 0x10 to 0x17, repeated.
pub(crate) fn tpm_claims() -> Claims {
    let bank = (0..8).map(|index| (index, digest(0x10 | index))).collect();
    Claims {
        assurance: Assurance::Hardware,
        tpm: TpmClaims {
            assurance: Assurance::Hardware,
            ak_name: HexBytes(vec![0, 0x0b, 1, 2, 3]),
            ek: Sha256Digest([0xe0; 32]),
            identity: TpmIdentity::from_attributes("id:49465800", "SLB 9672", "id:0F15"),
            pcrs: BTreeMap::from([(PcrHash::Sha256, bank)]),
            firmware_version: 0xffff_fffe_0000_0007,
            clock: ClockInfo { clock: u64::MAX, reset_count: 3, restart_count: 1, safe: true },
            credential_key: TpmKeyClaims {
                authorization: KeyAuthorization::Password,
                creation: Presented::NotPresented,
            },
            revocation: Revocation::NotPresented,
            lists_until: None,
        },
        credential_key: Sha256Digest([0xc0; 32]),
        boot: Presented::NotPresented,
        ima: Presented::NotPresented,
        snp: Presented::NotPresented,
        tdx: Presented::NotPresented,
        rtmr: Presented::NotPresented,
        paravisor: Presented::NotPresented,
    }
}

/// A boot with Secure Boot on: one image, one file, one command line, all 0x51 and 0x52.
pub(crate) fn boot_claims() -> BootClaims {
    let by_bank = |of: u8| BTreeMap::from([(PcrHash::Sha256, digest(of))]);
    let database =
        |of: u8| Measured::Measured(SignatureDatabase { digest: Sha256Digest([of; 32]), contents: Measured::Unknown });
    let labelled =
        |pcr: u8, of: u8| Measured::Measured(vec![Labelled { pcr, label: "whatever".into(), digest: by_bank(of) }]);
    BootClaims {
        banks: [PcrHash::Sha256].into(),
        replayed: (0..10).collect(),
        unexplained: [11].into(),
        secure_boot: SecureBoot::On,
        pk: database(0x41),
        kek: database(0x42),
        db: database(0x43),
        dbx: database(0x44),
        authorities: Measured::Measured(vec![Authority { variable: "db".into(), digest: Sha256Digest([0x45; 32]) }]),
        sbat_level: Measured::Measured("sbat,1".into()),
        mok: labelled(14, 0x46),
        images: Measured::Measured(vec![BootImage { pcr: 4, kind: ImageKind::Application, digest: by_bank(0x51) }]),
        files: labelled(9, 0x52),
        initrds: labelled(9, 0x53),
        command_lines: Measured::Measured(vec!["ro quiet".into()]),
        uki: Measured::Measured(vec![UkiSection { name: ".linux".into(), digest: by_bank(0x54) }]),
        exit_boot_services: ExitBootServices::Reached,
        separators: (0..8).map(|index| (index, Separator::Present)).collect(),
        extended_after_separator: [].into(),
        hcrtm: false,
        drtm_logged: false,
    }
}

/// The same host with that boot, and a list of seven entries.
pub(crate) fn measured_claims() -> Claims {
    let state = ImaState { entries: 7, ..ImaState::start() };
    Claims { boot: Presented::Verified(boot_claims()), ima: Presented::Verified(ImaClaims { state }), ..tpm_claims() }
}

/// The same claims with the boot changed.
pub(crate) fn with_boot(change: impl FnOnce(&mut BootClaims)) -> Claims {
    let mut boot = boot_claims();
    change(&mut boot);
    Claims { boot: Presented::Verified(boot), ..measured_claims() }
}

pub(crate) fn tcb(bootloader: u8, tee: u8, snp: u8, microcode: u8) -> SnpTcb {
    SnpTcb { fmc: None, bootloader, tee, snp, microcode }
}

pub(crate) fn snp_claims() -> SnpClaims {
    let on = |names: &[&'static str]| names.iter().map(|name| (*name, true)).collect::<BTreeMap<_, _>>();
    SnpClaims {
        assurance: Assurance::Hardware,
        product: AmdProduct::Genoa,
        version: 5,
        cpuid: Presented::Verified(SnpCpuid { family: 0x19, model: 0x11, stepping: 1 }),
        signing_key: SnpSigningKey::Vcek,
        csp_id: Presented::NotPresented,
        guest_svn: 4,
        policy: HexBytes(vec![0; 8]),
        policy_bits: on(&[
            "smt",
            "single_socket",
            "cxl_allow",
            "mem_aes_256_xts",
            "rapl_dis",
            "ciphertext_hiding",
            "page_swap_disable",
        ]),
        policy_abi: "1.55".into(),
        family_id: HexBytes(vec![1; 16]),
        image_id: HexBytes(vec![2; 16]),
        vmpl: 0,
        platform_info: on(&[
            "smt_en",
            "tsme_en",
            "ecc_en",
            "rapl_dis",
            "ciphertext_hiding_dram_en",
            "alias_check_complete",
            "tio_en",
        ]),
        platform_info_raw: HexBytes(vec![0, 0, 0, 0, 0, 0, 0, 0xbf]),
        measurement: HexBytes(vec![0x4d; 48]),
        host_data: HexBytes(vec![0x4e; 32]),
        id_key_digest: HexBytes(vec![0x4f; 48]),
        author_key_en: false,
        author_key_digest: HexBytes(vec![0; 48]),
        report_data: HexBytes(vec![7; 64]),
        report_id: HexBytes(vec![8; 32]),
        chip_id: Presented::Verified(HexBytes(vec![0xc1; 64])),
        current_tcb: tcb(9, 0, 21, 72),
        reported_tcb: tcb(9, 0, 21, 72),
        committed_tcb: tcb(9, 0, 21, 72),
        launch_tcb: tcb(9, 0, 21, 72),
        current_version: SnpFirmware { major: 1, minor: 55, build: 40 },
        committed_version: SnpFirmware { major: 1, minor: 55, build: 40 },
        mitigation_vectors: BTreeMap::new(),
        revocation: Revocation::NotRevoked { next_update: NOW.plus(86_400_000) },
        valid_until: NOW.plus(86_400_000),
    }
}

/// A key that was made while PCRs 0 to 7 held what they should.
pub(crate) fn creation_claims() -> CreationClaims {
    CreationClaims {
        pcr_select: BTreeMap::from([(PcrHash::Sha256, (0..8).collect())]),
        pcr_digest: digest(0x3c),
        locality: 1,
        parent_name: HexBytes(vec![0x40, 0, 0, 1]),
        outside_info: HexBytes(vec![5; 32]),
    }
}

/// A TD of TDX 1.5 on an up to date platform, by a quote of version 5.
pub(crate) fn tdx_claims() -> TdxClaims {
    let names = [
        "debug",
        "hgs_plus_prof",
        "perf_prof",
        "pmt_prof",
        "icssd",
        "servtd_ext",
        "lass",
        "migratable",
        "pks",
        "kl",
        "tpa",
        "perfmon",
        "reserved",
    ];
    let attributes = names.into_iter().map(|name| (name, false)).chain([("sept_ve_disable", true)]).collect();
    let hash = |of: u8| HexBytes(vec![of; 48]);
    TdxClaims {
        assurance: Assurance::Hardware,
        version: 5,
        body: BodyKind::Td15,
        tee_tcb_svn: HexBytes(vec![5; 16]),
        mr_seam: hash(0x5e),
        mr_signer_seam: hash(0),
        seam_attributes: HexBytes(vec![0; 8]),
        td_attributes: HexBytes(vec![0, 0, 0, 0x10, 0, 0, 0, 0]),
        attributes,
        xfam: HexBytes(vec![0xe7, 2, 6, 0, 0, 0, 0, 0]),
        mr_td: hash(0x7d),
        mr_config_id: hash(0),
        mr_owner: hash(0),
        mr_owner_config: hash(0),
        rtmrs: [hash(0x70), hash(0x71), hash(0x72), hash(0)],
        report_data: HexBytes(vec![7; 64]),
        tee_tcb_svn2: Some(HexBytes(vec![5; 16])),
        mr_service_td: Some(hash(0)),
        extended: None,
        platform: IntelPlatform {
            fmspc: HexBytes(vec![0, 0x80, 0x6f, 5, 0, 0]),
            ppid: HexBytes(vec![0x99; 16]),
            pce_id: HexBytes(vec![0; 2]),
            cpu_svn: HexBytes(vec![1; 16]),
            pce_svn: 13,
            platform_instance_id: Some(HexBytes(vec![0x98; 16])),
        },
        qe: QeClaims { isv_svn: 8, auth_data_bytes: 32, status: TcbStatus::UpToDate },
        tcb: TcbEvaluation {
            status: TcbStatus::UpToDate,
            platform: TcbStatus::UpToDate,
            qe: TcbStatus::UpToDate,
            advisory_ids: vec![],
            tcb_date: NOW,
            evaluation_data_number: 18,
            qe_evaluation_data_number: 17,
        },
        module: TdxModuleClaims { id: "TDX_01".into(), isv_svn: 5 },
        collateral: Sha256Digest([0xcc; 32]),
        collateral_overdue: None,
        valid_until: NOW.plus(86_400_000),
    }
}

/// That TD beside a hardware TPM.
pub(crate) fn domain_claims() -> Claims {
    Claims { tdx: Presented::Verified(tdx_claims()), ..tpm_claims() }
}

/// The same claims with the quote changed.
pub(crate) fn with_tdx(change: impl FnOnce(&mut TdxClaims)) -> Claims {
    let mut tdx = tdx_claims();
    change(&mut tdx);
    Claims { tdx: Presented::Verified(tdx), ..tpm_claims() }
}

/// What that TD's firmware measured.
pub(crate) fn rtmr_claims() -> RtmrClaims {
    RtmrClaims {
        form: LogForm::Ccel,
        replayed: (0..3).collect(),
        unexplained: [].into(),
        boot: boot_claims(),
        command_lines: vec!["ro quiet".into()],
        runtime: vec![],
    }
}

/// Azure's paravisor on SEV-SNP.
pub(crate) fn paravisor_claims() -> ParavisorClaims {
    ParavisorClaims {
        assurance: Assurance::Hardware,
        hardware: HardwareKind::Snp,
        hcl_version: 2,
        ak: Sha256Digest([0xa1; 32]),
        ek: Presented::Verified(Sha256Digest([0xe0; 32])),
        vm_id: Presented::Verified("8C2F0B1E".into()),
        vm_configuration: BTreeMap::from([
            ("secure-boot".into(), Setting::Flag(true)),
            ("console-enabled".into(), Setting::Flag(false)),
            ("filtered-vpci-devices-allowed".into(), Setting::Unset),
            ("cores".into(), Setting::Number(4)),
        ]),
        user_data: HexBytes(vec![0; 64]),
    }
}

pub(crate) fn both_claims() -> Claims {
    Claims { snp: Presented::Verified(snp_claims()), ..tpm_claims() }
}

/// The same claims with the report changed.
pub(crate) fn with_snp(change: impl FnOnce(&mut SnpClaims)) -> Claims {
    let mut snp = snp_claims();
    change(&mut snp);
    Claims { snp: Presented::Verified(snp), ..tpm_claims() }
}
