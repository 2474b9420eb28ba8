//! What must hold between the fields of a signed report and the certificate of its key, before they become claims.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};
use core::fmt::{self, Write as _};

use super::SnpReason;
use super::report::{MitigationVectors, RawTcb, Report};
use crate::anchor::AmdProduct;
use crate::claims::{HexBytes, Presented, SnpClaims, SnpCpuid, SnpSigningKey, SnpTcb};
use crate::endorsement::amd::VerifiedVek;
use crate::rejection::Rejection;
use crate::time::UnixMillis;
use crate::verified::Verified;

// POLICY (ABI, table "Guest Policy Structure").
const POLICY_RESERVED_ONE: u64 = 1 << 17;
const POLICY_MIGRATE_MA: u64 = 1 << 18;
const POLICY_DEBUG: u64 = 1 << 19;

/// The POLICY bits that become claims.
const POLICY_BITS: [(u64, &str); 7] = [
    (1 << 16, "smt"),
    (1 << 20, "single_socket"),
    (1 << 21, "cxl_allow"),
    (1 << 22, "mem_aes_256_xts"),
    (1 << 23, "rapl_dis"),
    (1 << 24, "ciphertext_hiding"),
    (1 << 25, "page_swap_disable"),
];

/// PLATFORM_INFO (ABI, table "PLATFORM_INFO Field").
const PLATFORM_BITS: [(u64, &str); 7] = [
    (PLATFORM_SMT_EN, "smt_en"),
    (1 << 1, "tsme_en"),
    (1 << 2, "ecc_en"),
    (PLATFORM_RAPL_DIS, "rapl_dis"),
    (PLATFORM_CIPHERTEXT_HIDING, "ciphertext_hiding_dram_en"),
    (1 << 5, "alias_check_complete"),
    (1 << 7, "tio_en"),
];
const PLATFORM_SMT_EN: u64 = 1;
const PLATFORM_RAPL_DIS: u64 = 1 << 3;
const PLATFORM_CIPHERTEXT_HIDING: u64 = 1 << 4;

/// Bit 6 is reserved in the ABI, yet Turin's firmware sets it. It is let pass there alone, and is no claim.
const PLATFORM_TURIN_RESERVED: u64 = 1 << 6;

/// What a guest's POLICY demands of its platform: (POLICY bit, its state, PLATFORM_INFO bit, the state it demands).
/// SNP_LAUNCH_START refuses a guest where this does not hold, so a report that says otherwise is not believed.
const POLICY_DEMANDS: [(u64, bool, u64, bool); 3] = [
    // SMT clear forbids simultaneous multithreading; SMT set allows it, and demands nothing.
    (1 << 16, false, PLATFORM_SMT_EN, false),
    (1 << 23, true, PLATFORM_RAPL_DIS, true),
    (1 << 24, true, PLATFORM_CIPHERTEXT_HIDING, true),
];

// KEY_INFO: AUTHOR_KEY_EN, MASK_CHIP_KEY, SIGNING_KEY in bits 4:2, the rest reserved.
const KEY_INFO_AUTHOR_KEY_EN: u32 = 1;
const KEY_INFO_MASK_CHIP_KEY: u32 = 1 << 1;
const KEY_INFO_KNOWN: u32 = 0x1f;

/// VMPL of a report that the hypervisor asked for (SNP_HV_REPORT_REQ).
const VMPL_HOST: u32 = u32::MAX;

/// The least privileged layer that is believed: a guest kernel under a paravisor in VMPL 0. A policy may demand 0.
const VMPL_MAX: u32 = 1;

/// SIGNING_KEY, as the report says it.
pub(super) const fn is_signed_by_vcek(report: &Report) -> bool {
    (report.key_info >> 2) & 7 == 0
}

/// Checks a report under the VEK that signed it.
pub(super) fn claims(report: Verified<Report>, vek: &VerifiedVek, now: UnixMillis) -> Result<SnpClaims, Rejection> {
    // Table "ATTESTATION_REPORT Structure": 1 is ECDSA P-384 with SHA-384.
    if report.signature_algo != 1 {
        return Err(SnpReason::SignatureAlgorithm.because(1, report.signature_algo));
    }
    check_key_info(&report, vek.kind())?;
    check_policy(report.policy)?;
    check_vmpl(report.vmpl)?;
    let product = vek.product();
    check_product(report.cpuid, product)?;
    check_platform(&report, product)?;
    let tcb = check_tcb(&report, vek)?;
    check_firmware(&report)?;
    let chip_id = check_chip_id(&report, vek)?;
    Ok(SnpClaims {
        assurance: vek.assurance(),
        product,
        version: report.version.number(),
        cpuid: report.cpuid.map_or(Presented::NotPresented, Presented::Verified),
        signing_key: vek.kind(),
        csp_id: vek.csp_id().clone(),
        guest_svn: report.guest_svn,
        policy: HexBytes(report.policy.to_be_bytes().to_vec()),
        policy_bits: named(report.policy, &POLICY_BITS),
        policy_abi: abi(report.policy),
        family_id: HexBytes(report.family_id.to_vec()),
        image_id: HexBytes(report.image_id.to_vec()),
        vmpl: report.vmpl,
        platform_info: named(report.platform_info, &PLATFORM_BITS),
        platform_info_raw: HexBytes(report.platform_info.to_be_bytes().to_vec()),
        measurement: HexBytes(report.measurement.to_vec()),
        host_data: HexBytes(report.host_data.to_vec()),
        id_key_digest: HexBytes(report.id_key_digest.to_vec()),
        author_key_en: report.key_info & KEY_INFO_AUTHOR_KEY_EN != 0,
        author_key_digest: HexBytes(report.author_key_digest.to_vec()),
        report_data: HexBytes(report.report_data.to_vec()),
        report_id: HexBytes(report.report_id.to_vec()),
        chip_id,
        current_tcb: tcb.current,
        reported_tcb: tcb.reported,
        committed_tcb: tcb.committed,
        launch_tcb: tcb.launch,
        current_version: report.current_firmware,
        committed_version: report.committed_firmware,
        mitigation_vectors: mitigations(report.mitigation_vectors),
        revocation: vek.revocation(now),
        valid_until: vek.valid_until(),
    })
}

// These maps are filled one by one: collecting makes a sorted list first, and nothing but the claims is allocated here.

fn named(bits: u64, names: &[(u64, &'static str)]) -> BTreeMap<&'static str, bool> {
    let mut named = BTreeMap::new();
    for (bit, name) in names {
        named.insert(*name, bits & bit != 0);
    }
    named
}

fn mitigations(vectors: Option<MitigationVectors>) -> BTreeMap<&'static str, u64> {
    let mut named = BTreeMap::new();
    if let Some(MitigationVectors { launch, current }) = vectors {
        named.insert("launch", launch);
        named.insert("current", current);
    }
    named
}

/// ABI_MAJOR and ABI_MINOR.
fn abi(policy: u64) -> String {
    let [minor, major, ..] = policy.to_le_bytes();
    let mut abi = String::with_capacity("255.255".len());
    // Writing to a string does not fail.
    let _written = write!(abi, "{major}.{minor}");
    abi
}

fn known(names: &[(u64, &str)]) -> u64 {
    names.iter().fold(0, |known, (bit, _)| known | bit)
}

/// Table "ATTESTATION_REPORT Structure", offset 48h.
fn check_key_info(report: &Report, kind: SnpSigningKey) -> Result<(), Rejection> {
    let key_info = report.key_info;
    if key_info & !KEY_INFO_KNOWN != 0 {
        return Err(SnpReason::KeyInfoReserved.because("bits 31:5 clear", format_args!("{key_info:#x}")));
    }
    let signing_key = match key_info >> 2 & 7 {
        0 => SnpSigningKey::Vcek,
        1 => SnpSigningKey::Vlek,
        7 => return Err(SnpReason::SigningKeyNone.because("SIGNING_KEY VCEK (0) or VLEK (1)", "none (7)")),
        reserved => return Err(SnpReason::KeyInfoReserved.because("SIGNING_KEY VCEK (0) or VLEK (1)", reserved)),
    };
    if signing_key != kind {
        return Err(SnpReason::SigningKeyMismatch.because(format_args!("{kind:?}"), format_args!("{signing_key:?}")));
    }
    if key_info & KEY_INFO_MASK_CHIP_KEY != 0 {
        return Err(SnpReason::MaskChipKey.because("MASK_CHIP_KEY clear", "set"));
    }
    let zero = |digest: &[u8]| digest.iter().all(|byte| *byte == 0);
    let author_key_en = key_info & KEY_INFO_AUTHOR_KEY_EN != 0;
    match (author_key_en, zero(&report.author_key_digest), zero(&report.id_key_digest)) {
        // The author signs the ID key, so there is none without the other.
        (false, true, _) | (true, false, false) => Ok(()),
        (true, _, _) => Err(SnpReason::AuthorKey.because("both key digests with AUTHOR_KEY_EN", "one is zero")),
        (false, false, _) => Err(SnpReason::AuthorKey.because("no author key digest without AUTHOR_KEY_EN", "one")),
    }
}

/// Table "Guest Policy Structure".
fn check_policy(policy: u64) -> Result<(), Rejection> {
    let found = Hex(policy);
    if policy & POLICY_DEBUG != 0 {
        return Err(SnpReason::Debug.because("DEBUG clear", found));
    }
    if policy & POLICY_MIGRATE_MA != 0 {
        return Err(SnpReason::MigrateMa.because("MIGRATE_MA clear", found));
    }
    if policy & POLICY_RESERVED_ONE == 0 {
        return Err(SnpReason::PolicyReserved.because("bit 17 set", found));
    }
    // ABI_MINOR and ABI_MAJOR are the low 16 bits.
    let known = 0xffff | POLICY_RESERVED_ONE | POLICY_MIGRATE_MA | POLICY_DEBUG | known(&POLICY_BITS);
    if policy & !known != 0 {
        return Err(SnpReason::PolicyReserved.because("bits 63:26 clear", found));
    }
    Ok(())
}

/// A word as the specification writes it.
struct Hex(u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

fn check_vmpl(vmpl: u32) -> Result<(), Rejection> {
    match vmpl {
        0..=VMPL_MAX => Ok(()),
        VMPL_HOST => Err(SnpReason::VmplHost.because("VMPL 0 or 1", "FFFFFFFFh")),
        _ => Err(SnpReason::VmplUnprivileged.because("VMPL 0 or 1", vmpl)),
    }
}

/// The product line of a CPUID family and model (AMD 57230, 3.1).
pub(super) const fn product_of(cpuid: SnpCpuid) -> Option<AmdProduct> {
    match (cpuid.family, cpuid.model) {
        (0x19, 0x00..=0x0f) => Some(AmdProduct::Milan),
        // A0h to AFh is Bergamo and Siena, under Genoa's root.
        (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(AmdProduct::Genoa),
        (0x1a, 0x00..=0x1f) => Some(AmdProduct::Turin),
        _ => None,
    }
}

/// A report of version 2 does not say what it comes from; there the chain alone does.
fn check_product(cpuid: Option<SnpCpuid>, product: AmdProduct) -> Result<(), Rejection> {
    let Some(cpuid) = cpuid else { return Ok(()) };
    if product_of(cpuid) == Some(product) {
        return Ok(());
    }
    let SnpCpuid { family, model, stepping } = cpuid;
    let found = format_args!("family {family:#x}, model {model:#x}, stepping {stepping:#x}");
    Err(SnpReason::Product.because(product, found))
}

/// Bits we do not know deny: a new one may say that something is broken.
fn check_platform(report: &Report, product: AmdProduct) -> Result<(), Rejection> {
    let platform_info = report.platform_info;
    let tolerated = match product {
        AmdProduct::Turin => PLATFORM_TURIN_RESERVED,
        AmdProduct::Milan | AmdProduct::Genoa => 0,
    };
    let unknown = platform_info & !(known(&PLATFORM_BITS) | tolerated);
    if unknown != 0 {
        return Err(SnpReason::PlatformUnknown.because("known bits alone", format_args!("{unknown:#x}")));
    }
    for (policy_bit, demanding, platform_bit, demanded) in POLICY_DEMANDS {
        let demands = (report.policy & policy_bit != 0) == demanding;
        let holds = (platform_info & platform_bit != 0) == demanded;
        if demands && !holds {
            let expected = format_args!("PLATFORM_INFO bit {platform_bit:#x} {}", state(demanded)).to_string();
            return Err(SnpReason::PolicyPlatform.because(expected, state(!demanded)));
        }
    }
    Ok(())
}

const fn state(set: bool) -> &'static str {
    if set { "set" } else { "clear" }
}

struct Tcbs {
    current: SnpTcb,
    reported: SnpTcb,
    committed: SnpTcb,
    launch: SnpTcb,
}

/// Component by component: as one integer, a newer microcode would outweigh an older SNP firmware.
fn check_tcb(report: &Report, vek: &VerifiedVek) -> Result<Tcbs, Rejection> {
    let decode = |raw: RawTcb| raw.decode(vek.product());
    let tcb = Tcbs {
        current: decode(report.current_tcb)?,
        reported: decode(report.reported_tcb)?,
        committed: decode(report.committed_tcb)?,
        launch: decode(report.launch_tcb)?,
    };
    // The key is derived from the chip's secret and the reported TCB; AMD certified that derivation (AMD 57230, 1.3).
    if tcb.reported != vek.tcb() {
        return Err(SnpReason::TcbReported.because(Components(vek.tcb()), Components(tcb.reported)));
    }
    // COMMITTED_TCB is the floor of CURRENT_TCB (ABI, 3.3).
    if !at_most(tcb.committed, tcb.current) {
        return Err(SnpReason::TcbCommitted
            .because(format_args!("at most {}", Components(tcb.current)), Components(tcb.committed)));
    }
    // Above the current TCB means that provisional firmware was rolled back under the guest.
    for (name, found) in [("REPORTED_TCB", tcb.reported), ("LAUNCH_TCB", tcb.launch)] {
        if !at_most(found, tcb.current) {
            let expected = format_args!("{name} at most {}", Components(tcb.current)).to_string();
            return Err(SnpReason::TcbRollback.because(expected, Components(found)));
        }
    }
    Ok(tcb)
}

fn at_most(lower: SnpTcb, upper: SnpTcb) -> bool {
    // Both are of one product line, so either both have an FMC or neither has; None is below everything.
    lower.fmc <= upper.fmc
        && lower.bootloader <= upper.bootloader
        && lower.tee <= upper.tee
        && lower.snp <= upper.snp
        && lower.microcode <= upper.microcode
}

/// A TCB as people compare it.
struct Components(SnpTcb);

impl fmt::Display for Components {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SnpTcb { fmc, bootloader, tee, snp, microcode } = self.0;
        if let Some(fmc) = fmc {
            write!(f, "fmc {fmc} ")?;
        }
        write!(f, "bootloader {bootloader} tee {tee} snp {snp} microcode {microcode}")
    }
}

fn check_firmware(report: &Report) -> Result<(), Rejection> {
    let (current, committed) = (report.current_firmware, report.committed_firmware);
    if current < committed {
        return Err(SnpReason::FirmwareRollback.because(format_args!("at most {current}"), committed));
    }
    let [minor, major, ..] = report.policy.to_le_bytes();
    if (current.major, current.minor) < (major, minor) {
        return Err(SnpReason::PolicyAbi.because(format_args!("at most {current}"), format_args!("{major}.{minor}")));
    }
    Ok(())
}

/// CHIP_ID is the chip's under a VCEK, and zero where the platform masks it. Zero matches nothing.
fn check_chip_id(report: &Report, vek: &VerifiedVek) -> Result<Presented<HexBytes>, Rejection> {
    let masked = report.chip_id.iter().all(|byte| *byte == 0);
    match vek.hwid() {
        Presented::Verified(_) if masked => Err(SnpReason::ChipIdMasked.because("a chip id", "64 zero bytes")),
        Presented::Verified(HexBytes(hwid)) => {
            // A shorter hwID is followed by zeros in CHIP_ID.
            let matches = report.chip_id.strip_prefix(hwid.as_slice());
            if matches.is_some_and(|rest| rest.iter().all(|byte| *byte == 0)) {
                Ok(Presented::Verified(HexBytes(report.chip_id.to_vec())))
            } else {
                Err(SnpReason::ChipId.because(hex::encode(hwid), hex::encode(report.chip_id)))
            }
        }
        // A VLEK is the provider's, not a chip's: whatever stands there, no certificate says that it is true.
        Presented::NotPresented => Ok(Presented::NotPresented),
    }
}
