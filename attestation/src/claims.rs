//! Claims: what verified evidence says about a host. Only [`crate::evidence::verify`] and the technologies' own
//! verifiers make them; they serialize for policies, logs and people, and never deserialize.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Serialize, Serializer};

use crate::anchor::{AmdProduct, Assurance};
use crate::digest::Sha256Digest;
pub use crate::endorsement::tpm::{TpmIdentity, TpmKind};
pub use crate::evidence::eventlog::BootClaims;
use crate::evidence::ima::ImaState;
pub use crate::evidence::paravisor::ParavisorClaims;
pub use crate::evidence::tdx::claims::{
    IntelPlatform, QeClaims, SgxClaims, TdxClaims, TdxExtendedClaims, TdxModuleClaims,
};
pub use crate::evidence::tdx::rtmr::RtmrClaims;
use crate::evidence::tpm::TpmReason;
use crate::rejection::Rejection;
use crate::time::UnixMillis;
use crate::x509::ListValidity;

/// Bytes that serialize as lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HexBytes(pub Vec<u8>);

impl Serialize for HexBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> serde::Deserialize<'de> for HexBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(&text).map(Self).map_err(|_| serde::de::Error::custom("expected hex digits"))
    }
}

impl core::fmt::Display for HexBytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

/// Evidence of one technology: there and verified, or not there. Absence is a value that policies must name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "evidence", content = "claims")]
pub enum Presented<T> {
    /// The bundle holds no such evidence.
    NotPresented,
    /// The bundle holds it, and every check passed.
    Verified(T),
}

impl<T> Presented<T> {
    /// The claims, where there are some.
    pub const fn verified(&self) -> Option<&T> {
        match self {
            Self::NotPresented => None,
            Self::Verified(claims) => Some(claims),
        }
    }
}

impl<T> From<Option<T>> for Presented<T> {
    fn from(claims: Option<T>) -> Self {
        claims.map_or(Self::NotPresented, Self::Verified)
    }
}

/// What is known of a host after every signature, chain and binding in its bundle held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claims {
    /// The weakest class among the anchors that the bundle's evidence leads to.
    pub assurance: Assurance,
    /// The TPM that quoted and that holds the credential key.
    pub tpm: TpmClaims,
    /// SHA-256 of the credential key's `SubjectPublicKeyInfo`, certified by the TPM's AK.
    pub credential_key: Sha256Digest,
    /// What the firmware measured, by an event log that replays to the quoted PCRs.
    pub boot: Presented<BootClaims>,
    /// What the kernel measured since, by a list that replays to the quoted PCR.
    pub ima: Presented<ImaClaims>,
    /// The confidential VM the host runs in, if it is one of SEV-SNP.
    pub snp: Presented<SnpClaims>,
    /// The trust domain the host runs in, if it is one of TDX.
    pub tdx: Presented<TdxClaims>,
    /// What that trust domain's firmware measured, by a log that replays to its RTMRs.
    pub rtmr: Presented<RtmrClaims>,
    /// The paravisor that the TPM is of, where the hardware's report is the paravisor's.
    pub paravisor: Presented<ParavisorClaims>,
}

impl Claims {
    /// The earliest end of the collateral under the claims; none where they rest on nothing that ends.
    #[must_use]
    pub fn valid_until(&self) -> Option<UnixMillis> {
        let snp = self.snp.verified().map(|snp| snp.valid_until);
        let tdx = self.tdx.verified().map(|tdx| tdx.valid_until);
        snp.into_iter().chain(tdx).chain(self.tpm.lists_until).min()
    }

    /// The claims without what is new in every attestation: nonces, the key, and time that just passes. Two appraisals
    /// of an unchanged host are equal in this form.
    #[must_use]
    pub fn without_moment(&self) -> Self {
        let mut claims = self.clone();
        claims.credential_key = Sha256Digest([0; 32]);
        claims.tpm.clock.clock = 0;
        if let Presented::Verified(creation) = &mut claims.tpm.credential_key.creation {
            creation.outside_info = HexBytes(Vec::new());
        }
        if let Presented::Verified(snp) = &mut claims.snp {
            snp.report_data = HexBytes(Vec::new());
        }
        if let Presented::Verified(tdx) = &mut claims.tdx {
            tdx.report_data = HexBytes(Vec::new());
        }
        claims
    }
}

/// The kernel's measurement list (IMA), as far as the quote covers it. What its entries are worth is for rules to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImaClaims {
    /// How many entries, and the PCR values they come to.
    #[serde(flatten)]
    pub state: ImaState,
}

/// One PCR bank: the values of the quoted PCRs by index.
pub type PcrBank = BTreeMap<u8, HexBytes>;

/// What a TPM 2.0 quote under an enrolled AK says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TpmClaims {
    /// What the anchor of the EK certificate is worth.
    pub assurance: Assurance,
    /// Name of the AK (TPM 2.0 Part 1, 16): nameAlg || H(TPMT_PUBLIC).
    pub ak_name: HexBytes,
    /// SHA-256 of the EK's `SubjectPublicKeyInfo`: the identity of the TPM.
    pub ek: Sha256Digest,
    /// Which TPM that is, by its certificate.
    pub identity: TpmIdentity,
    /// Quoted PCR values by bank (`sha256`, `sha384`). Each was hashed into the signed pcrDigest.
    pub pcrs: BTreeMap<PcrHash, PcrBank>,
    /// TPMS_ATTEST.firmwareVersion.
    pub firmware_version: u64,
    /// TPMS_CLOCK_INFO of the quote.
    pub clock: ClockInfo,
    /// Who may have the credential key used, and what was noted when it was made.
    pub credential_key: TpmKeyClaims,
    /// Whether the certificates that endorse this TPM were compared with the lists of who issued them. Lists are not
    /// the quote's: whoever judges it later compares them, see [`TpmClaims::compared`].
    pub revocation: Revocation,
    /// When these lists end, with their grace.
    pub lists_until: Option<UnixMillis>,
}

impl TpmClaims {
    /// The same, its endorsement compared with lists at `now`: see
    /// [`EndorsementPath::check_not_revoked`](crate::endorsement::tpm::EndorsementPath::check_not_revoked).
    #[must_use]
    pub fn compared(self, list: Option<ListValidity>, now: UnixMillis) -> Self {
        let revocation = list.map_or(Revocation::NotPresented, |list| list.revocation(now));
        Self { revocation, lists_until: list.map(ListValidity::until), ..self }
    }
}

/// What the certification of a key that lives in a TPM says, beside that it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TpmKeyClaims {
    /// Who may have it used.
    pub authorization: KeyAuthorization,
    /// TPMS_CREATION_DATA, where TPM2_CertifyCreation certified it.
    pub creation: Presented<CreationClaims>,
}

/// Who may have a key in a TPM used (TPM 2.0 Part 2, 8.3.3.7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "by", content = "policy")]
pub enum KeyAuthorization {
    /// userWithAuth: whoever has its password, which may be empty.
    Password,
    /// Only who satisfies this authPolicy, a digest of the key's nameAlg. Of a policy of PCRs it is
    /// [`policy_pcr`](crate::evidence::tpm::creation::policy_pcr).
    Policy(HexBytes),
}

/// What a TPM noted when it made a key (TPM 2.0 Part 2, 15.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CreationClaims {
    /// The PCRs of trusted banks whose state was noted.
    pub pcr_select: BTreeMap<PcrHash, Vec<u8>>,
    /// Digest of all noted PCRs with the key's nameAlg.
    pub pcr_digest: HexBytes,
    /// TPMA_LOCALITY of the command.
    pub locality: u8,
    /// Name of the key's parent, or its handle.
    pub parent_name: HexBytes,
    /// What the maker of the key had noted along.
    pub outside_info: HexBytes,
}

/// TPMS_CLOCK_INFO (TPM 2.0 Part 2, 10.11.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockInfo {
    /// Milliseconds the TPM was powered.
    pub clock: u64,
    /// Power cycles since TPM2_Clear.
    pub reset_count: u32,
    /// Suspends and hibernations since the last reset.
    pub restart_count: u32,
    /// Whether no higher `clock` was ever reported: `NO` after an unorderly shutdown.
    pub safe: bool,
}

impl ClockInfo {
    /// Whether this clock can come after `last` on one TPM: resetCount, then restartCount, then clock only ever grow
    /// (TPM 2.0 Part 1, 36).
    ///
    /// # Errors
    /// [`TpmReason::ClockBackwards`] when it cannot: an older quote, or another TPM with the same keys.
    pub fn check_follows(&self, last: &Self) -> Result<(), Rejection> {
        let order = |clock: &Self| (clock.reset_count, clock.restart_count, clock.clock);
        if order(self) < order(last) {
            let shown = |(reset, restart, clock)| alloc::format!("reset {reset}, restart {restart}, clock {clock} ms");
            let expected = alloc::format!("at least {}", shown(order(last)));
            return Err(TpmReason::ClockBackwards.because(expected, shown(order(self))));
        }
        Ok(())
    }
}

/// Hash of a PCR bank. SHA-1 banks are readable but never trusted, so claims cannot name one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PcrHash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl PcrHash {
    /// Bytes in a value of this bank.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The bank's name as people and tpm2-tools write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }
}

/// Key that signed an SNP report (KEY_INFO.SIGNING_KEY).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SnpSigningKey {
    /// Versioned Chip Endorsement Key: names one chip.
    Vcek,
    /// Versioned Loaded Endorsement Key: names a cloud provider, not a chip.
    Vlek,
}

/// TCB_VERSION (SNP ABI, section 2.2), component by component; never compared as one integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SnpTcb {
    /// Firmware mailbox controller; Turin and later only.
    pub fmc: Option<u8>,
    /// Bootloader SPL.
    pub bootloader: u8,
    /// PSP operating system SPL.
    pub tee: u8,
    /// SNP firmware SPL.
    pub snp: u8,
    /// Microcode SPL.
    pub microcode: u8,
}

/// CPUID_FAM_ID, CPUID_MOD_ID and CPUID_STEP of a report: family and model combined with their extended parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SnpCpuid {
    /// Family.
    pub family: u8,
    /// Model.
    pub model: u8,
    /// Stepping.
    pub stepping: u8,
}

/// Version of SNP firmware. Ordered as the firmware orders it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SnpFirmware {
    /// MAJOR of the ABI it implements.
    pub major: u8,
    /// MINOR of the ABI it implements.
    pub minor: u8,
    /// BUILD.
    pub build: u8,
}

impl core::fmt::Display for SnpFirmware {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.build)
    }
}

/// Whether a revocation list was there to check against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Revocation {
    /// No list was presented. Nothing is known; a policy must name this to admit it.
    NotPresented,
    /// A current list signed by the root names none of the chain's certificates.
    NotRevoked {
        /// `nextUpdate` of the list.
        next_update: UnixMillis,
    },
    /// A list signed by the root names none of them, and a newer one should be there: its grace lasts.
    Overdue {
        /// `nextUpdate` of the list: past.
        next_update: UnixMillis,
        /// When the grace ends that an operator states for such a time.
        until: UnixMillis,
    },
}

/// What an SEV-SNP attestation report says (SNP ABI, table ATTESTATION_REPORT). Field names are the specification's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnpClaims {
    /// What the ARK is worth.
    pub assurance: Assurance,
    /// Product line: of the chain, and of the report where its version carries CPUID.
    pub product: AmdProduct,
    /// VERSION of the report: 2 to 5.
    pub version: u32,
    /// CPUID of the chip: reports of version 2 have none.
    pub cpuid: Presented<SnpCpuid>,
    /// Which key signed.
    pub signing_key: SnpSigningKey,
    /// cspID of the VLEK that signed, as it stands in the certificate: AWS writes `CN=` in front. A VCEK has none.
    pub csp_id: Presented<String>,
    /// GUEST_SVN.
    pub guest_svn: u32,
    /// POLICY, raw.
    pub policy: HexBytes,
    /// Decoded POLICY bits by name: `smt`, `single_socket`, `cxl_allow`, `mem_aes_256_xts`, `rapl_dis`,
    /// `ciphertext_hiding`, `page_swap_disable`. DEBUG and MIGRATE_MA reject before there are claims.
    pub policy_bits: BTreeMap<&'static str, bool>,
    /// Minimum ABI version of POLICY, `major.minor`.
    pub policy_abi: String,
    /// FAMILY_ID.
    pub family_id: HexBytes,
    /// IMAGE_ID.
    pub image_id: HexBytes,
    /// VMPL that asked for the report.
    pub vmpl: u32,
    /// PLATFORM_INFO bits by name: `smt_en`, `tsme_en`, `ecc_en`, `rapl_dis`, `ciphertext_hiding_dram_en`,
    /// `alias_check_complete`, `tio_en`.
    pub platform_info: BTreeMap<&'static str, bool>,
    /// PLATFORM_INFO, raw.
    pub platform_info_raw: HexBytes,
    /// MEASUREMENT: launch digest, SHA-384.
    pub measurement: HexBytes,
    /// HOST_DATA.
    pub host_data: HexBytes,
    /// ID_KEY_DIGEST.
    pub id_key_digest: HexBytes,
    /// KEY_INFO.AUTHOR_KEY_EN: the guest was launched with an ID block whose ID key an author key signed.
    pub author_key_en: bool,
    /// AUTHOR_KEY_DIGEST; all zero when AUTHOR_KEY_EN is clear.
    pub author_key_digest: HexBytes,
    /// REPORT_DATA.
    pub report_data: HexBytes,
    /// REPORT_ID.
    pub report_id: HexBytes,
    /// CHIP_ID under a VCEK. A VLEK does not name the chip.
    pub chip_id: Presented<HexBytes>,
    /// CURRENT_TCB.
    pub current_tcb: SnpTcb,
    /// REPORTED_TCB: equal to the signing key's certificate.
    pub reported_tcb: SnpTcb,
    /// COMMITTED_TCB: the floor below which the firmware can never be rolled back.
    pub committed_tcb: SnpTcb,
    /// LAUNCH_TCB: the TCB when the guest was started or imported.
    pub launch_tcb: SnpTcb,
    /// CURRENT_MAJOR, CURRENT_MINOR, CURRENT_BUILD: the firmware that runs.
    pub current_version: SnpFirmware,
    /// COMMITTED_MAJOR, COMMITTED_MINOR, COMMITTED_BUILD: the firmware below which it is never rolled back.
    pub committed_version: SnpFirmware,
    /// Mitigation vectors of report version 5: `launch`, `current`.
    pub mitigation_vectors: BTreeMap<&'static str, u64>,
    /// Whether the chain was checked against a revocation list.
    pub revocation: Revocation,
    /// Earliest `notAfter` of the chain, and of the revocation list where one was presented.
    pub valid_until: UnixMillis,
}

#[cfg(test)]
mod tests {
    use super::ClockInfo;

    #[test]
    fn a16_a_tpm_clock_never_goes_back() {
        let at = |reset_count, restart_count, clock| ClockInfo { clock, reset_count, restart_count, safe: true };
        let last = at(3, 2, 1000);
        for follows in [last, at(3, 2, 1001), at(3, 3, 0), at(4, 0, 0)] {
            assert_eq!(follows.check_follows(&last), Ok(()));
        }
        for back in [at(3, 2, 999), at(3, 1, 5000), at(2, 9, 5000)] {
            assert_eq!(back.check_follows(&last).map_err(|r| r.code()), Err("tpm.clock.backwards"));
        }
    }
}
