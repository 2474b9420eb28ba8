//! AMD SEV-SNP: a report, the VCEK or VLEK that signed it, and everything that must hold between the two (SEV-SNP
//! Firmware ABI, AMD 56860 rev. 1.58).

use crate::anchor::AmdAnchor;
use crate::binder::BindingReason;
use crate::claims::SnpClaims;
use crate::endorsement::amd::{self, VerifiedVek};
use crate::evidence::bundle::SnpEvidence;
use crate::rejection::{Rejection, reasons};
use crate::time::{JudgedAt, UnixMillis};
use crate::verified::Verified;

use self::report::{REPORT_BYTES, Report, SIGNED_BYTES};

mod appraise;
pub mod id_block;
pub mod kds;
mod report;

reasons! {
    /// Why an SEV-SNP report or the certificate of its key is rejected.
    SnpReason {
        /// ABI, table "ATTESTATION_REPORT Structure".
        Length = "snp.report.length",
            "the report has another length than an attestation report",
            "send the 1184 bytes of MSG_REPORT_RSP alone, without header or padding";
        /// VERSION.
        Version = "snp.report.version",
            "the report has a version whose layout is not known",
            "use SNP firmware whose reports have a version listed as expected, or a newer verifier";
        /// SIGNATURE_ALGO.
        SignatureAlgorithm = "snp.report.signature_algo",
            "the report is signed with an unknown algorithm",
            "use SNP firmware that signs with ECDSA P-384 and SHA-384";
        /// Reserved bytes of the signed part.
        Reserved = "snp.report.reserved",
            "reserved bytes of the report are not zero",
            "use a verifier that knows this report version";
        /// The 512 bytes at 2A0h.
        SignatureForm = "snp.signature.form",
            "unsigned bytes around the signature are not zero",
            "send the report as the firmware wrote it";
        /// KEY_INFO.SIGNING_KEY none, or redacted.
        SignatureAbsent = "snp.signature.absent",
            "the report is not signed",
            "clear MASK_CHIP_KEY in the platform's SNP_CONFIG and ask for a new report";
        /// ECDSA P-384 with SHA-384 over bytes 0 to 29Fh.
        Signature = "snp.signature.invalid",
            "the VEK did not sign this report",
            "send the report unchanged, with the VCEK for this chip and its reported TCB, or the VLEK it was signed with";
        /// KEY_INFO.SIGNING_KEY = 7.
        SigningKeyNone = "snp.key_info.none",
            "the report says that no key signed it",
            "clear MASK_CHIP_KEY in the platform's SNP_CONFIG and ask for a new report";
        /// KEY_INFO.
        KeyInfoReserved = "snp.key_info.reserved",
            "KEY_INFO has a value that is not defined",
            "use a verifier that knows this report version";
        /// KEY_INFO.SIGNING_KEY.
        SigningKeyMismatch = "snp.key_info.mismatch",
            "the report names another kind of key than the certificate",
            "send the VCEK for a report signed by a VCEK, the VLEK for one signed by a VLEK";
        /// KEY_INFO.MASK_CHIP_KEY.
        MaskChipKey = "snp.key_info.mask_chip_key",
            "the platform does not let its chip key sign",
            "clear MASK_CHIP_KEY in the platform's SNP_CONFIG and ask for a new report";
        /// KEY_INFO.AUTHOR_KEY_EN.
        AuthorKey = "snp.author_key",
            "AUTHOR_KEY_EN and the key digests contradict each other",
            "launch the guest with a complete ID block, or with none";
        /// POLICY bit 17 and the bits above the known ones.
        PolicyReserved = "snp.policy.reserved",
            "the guest policy has reserved bits in a state that is not defined",
            "launch the guest with a policy of this ABI: bit 17 set, unknown bits clear";
        /// POLICY.DEBUG.
        Debug = "snp.policy.debug",
            "the host may read and write the guest's memory",
            "launch the guest with DEBUG (POLICY bit 19) clear";
        /// POLICY.MIGRATE_MA.
        MigrateMa = "snp.policy.migrate_ma",
            "a migration agent may move the guest elsewhere",
            "launch the guest with MIGRATE_MA (POLICY bit 18) clear";
        /// POLICY.ABI_MAJOR and ABI_MINOR.
        PolicyAbi = "snp.policy.abi",
            "the guest demands a newer ABI than the firmware has",
            "do not trust this platform: its firmware should have refused the guest";
        /// POLICY against PLATFORM_INFO.
        PolicyPlatform = "snp.policy.platform",
            "the platform runs in a way that the guest's policy forbids",
            "do not trust this platform: its firmware should have refused the guest";
        /// PLATFORM_INFO.
        PlatformUnknown = "snp.platform_info.unknown",
            "PLATFORM_INFO has a bit set whose meaning is not known",
            "use a verifier that knows this firmware";
        /// VMPL FFFFFFFFh: SNP_HV_REPORT_REQ.
        VmplHost = "snp.vmpl.host",
            "the host asked for the report, not the guest",
            "ask for the report from inside the guest";
        /// VMPL.
        VmplUnprivileged = "snp.vmpl.unprivileged",
            "an unprivileged layer of the guest asked for the report",
            "ask for the report from VMPL 0, or from VMPL 1 under a paravisor";
        /// CPUID_FAM_ID and CPUID_MOD_ID.
        Product = "snp.product",
            "the report comes from another product line than its certificate chain",
            "send the VEK of this chip's product line";
        /// ABI, 2.2.
        TcbReserved = "snp.tcb.reserved",
            "reserved bytes of a TCB version are not zero",
            "use a verifier that knows this product line";
        /// REPORTED_TCB.
        TcbReported = "snp.tcb.reported",
            "the reported TCB is not the one the certificate was issued for",
            "fetch the VCEK for this chip and the TCB that the report reports";
        /// COMMITTED_TCB.
        TcbCommitted = "snp.tcb.committed",
            "the committed TCB is above the current one",
            "do not trust this platform: committed firmware cannot be rolled back";
        /// REPORTED_TCB and LAUNCH_TCB.
        TcbRollback = "snp.tcb.rollback",
            "a TCB in the report is above the current one",
            "commit the platform's firmware and start the guest again";
        /// CURRENT_MAJOR, CURRENT_MINOR, CURRENT_BUILD.
        FirmwareRollback = "snp.firmware.rollback",
            "the committed firmware is newer than the current one",
            "do not trust this platform: committed firmware cannot be rolled back";
        /// CHIP_ID.
        ChipId = "snp.chip_id.mismatch",
            "the report comes from another chip than the certificate",
            "send the VCEK of the chip that made the report";
        /// CHIP_ID is zero: a mask, not a match.
        ChipIdMasked = "snp.chip_id.masked",
            "the platform masks its chip id, so the report names no chip",
            "clear MASK_CHIP_ID in the platform's SNP_CONFIG and ask for a new report";
        /// Structures of SNP_LAUNCH_FINISH.
        IdBlock = "snp.id_block.form",
            "the ID block or its authentication information has a form that is not defined",
            "give the ID block of 96 bytes and the ID authentication information of 4096 that the guest is launched with";
        /// ID_BLOCK_SIG and ID_KEY_SIG.
        IdBlockSignature = "snp.id_block.signature",
            "a signature of the ID block does not verify",
            "sign the ID block with the ID key, and the ID key with the author key";
        /// What an ID block puts into a report.
        IdBlockOther = "snp.id_block.mismatch",
            "the guest was launched with another ID block",
            "give the ID block that this guest was launched with";
        /// Subject.
        VekKind = "snp.vek.kind",
            "the certificate is neither a VCEK nor a VLEK",
            "send the VCEK or VLEK certificate as AMD issued it";
        /// Issuer.
        VekIssuer = "snp.vek.issuer",
            "the certificate names an issuer that does not issue this kind of key",
            "send a VCEK issued by SEV-<product> or a VLEK issued by SEV-VLEK-<product>, and pin that product's root";
        /// No root, or one that is not an ARK of its product.
        VekAnchor = "snp.vek.anchor",
            "no pinned AMD root speaks for this certificate",
            "pin the ARK of this product line";
        /// VEK, intermediate, root.
        VekChain = "snp.vek.chain",
            "the chain does not have the shape of AMD's",
            "send the VEK with the ASK or ASVK that issued it";
        /// AMD 57230, custom extensions.
        VekExtensionMissing = "snp.vek.extension.missing",
            "the certificate lacks an extension that says what the key stands for",
            "fetch the certificate from AMD's key distribution service again";
        /// AMD 57230, custom extensions.
        VekExtensionMalformed = "snp.vek.extension.malformed",
            "an extension of the certificate does not have the form it is specified with",
            "fetch the certificate from AMD's key distribution service again";
        /// productName.
        VekProduct = "snp.vek.product",
            "the certificate is for another product line than the root that issued it",
            "send the VEK of this chip's product line";
        /// On the ARK's list.
        VekRevoked = "snp.vek.revoked",
            "AMD revoked the certificate of the signing key",
            "replace the chip or its VLEK; AMD no longer stands by this key";
        /// On the ARK's list.
        IntermediateRevoked = "snp.vek.intermediate_revoked",
            "AMD revoked the intermediate that issued the certificate",
            "fetch the certificate and its intermediate from AMD's key distribution service again";
        /// Lists were presented, and none is this root's.
        CrlProduct = "snp.crl.product",
            "none of the revocation lists is of the chain's own root",
            "fetch the list of this product line from AMD's key distribution service";
    }
}

/// What REPORT_DATA must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportDataExpectation<'a> {
    /// The binder of this challenge and credential key: all 64 bytes.
    Binder(&'a [u8; 64]),
    /// Whatever was recorded: evidence that is judged offline, after its challenge. It proves no freshness, and its
    /// REPORT_DATA is a claim to compare elsewhere.
    Recorded,
}

/// Verifies a report with its VEK: the chain to one of `anchors`, revocation by `crls` (see [`amd::endorse`]), and the
/// report itself as in [`verify_report`].
///
/// # Errors
/// The first reason why the evidence is not believed.
pub fn verify(
    evidence: &SnpEvidence,
    anchors: &[AmdAnchor],
    crls: &[&[u8]],
    report_data: ReportDataExpectation<'_>,
    at: impl Into<JudgedAt>,
) -> Result<SnpClaims, Rejection> {
    let at = at.into();
    let vek = amd::endorse(&evidence.vek, anchors, crls, at)?;
    verify_report(&evidence.report, &vek, report_data, at.now)
}

/// Verifies a report under a VEK whose chain was checked before and still holds at `now`: one signature.
///
/// # Errors
/// The first reason why the report is not believed.
pub fn verify_report(
    report: &[u8],
    vek: &VerifiedVek,
    report_data: ReportDataExpectation<'_>,
    now: UnixMillis,
) -> Result<SnpClaims, Rejection> {
    vek.check_current(now)?;
    if report.len() != REPORT_BYTES {
        return Err(SnpReason::Length.because(REPORT_BYTES, report.len()));
    }
    let (signed, signature) = report.split_at(SIGNED_BYTES);
    let signature = report::read_signature(signature)?;
    let signed = vek
        .key()
        .verify(signed, &signature)
        .map_err(|_| SnpReason::Signature.because("a signature by the VEK over bytes 0 to 29Fh", "another"))?;
    let report = Verified::read(signed, Report::read)?;
    if let ReportDataExpectation::Binder(binder) = report_data
        && report.report_data != *binder
    {
        return Err(BindingReason::ReportData.because(hex::encode(binder), hex::encode(report.report_data)));
    }
    appraise::claims(report, vek, now)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::{ReportDataExpectation, verify, verify_report};
    use crate::anchor::{AmdAnchor, AmdProduct, Assurance};
    use crate::endorsement::amd;
    use crate::evidence::bundle::SnpEvidence;
    use crate::signature::{Scheme, count};
    use crate::time::UnixMillis;

    macro_rules! shipped {
        ($path:literal) => {
            include_bytes!(concat!("../../../../firmware-refs/", $path))
        };
    }

    const ARK: &[u8] = shipped!("anchors/amd/milan/ark.der");
    const ASK: &[u8] = shipped!("anchors/amd/milan/ask.der");
    const REPORT: &[u8] = shipped!("evidence/amd/milan/report.bin");
    const VCEK: &[u8] = shipped!("evidence/amd/milan/vcek.der");

    /// 2026-06-01T00:00:00Z.
    const NOW: UnixMillis = UnixMillis(1_780_272_000_000);

    #[test]
    fn a_report_costs_one_signature_and_a_new_vcek_one_more() {
        let anchors = [AmdAnchor {
            product: AmdProduct::Milan,
            assurance: Assurance::Hardware,
            ark: ARK.to_vec(),
            intermediates: Vec::from([ASK.to_vec()]),
        }];
        let data = ReportDataExpectation::Recorded;
        let (ask, checked) = count::during(|| amd::endorse_intermediate(ASK, &anchors, &[], NOW).unwrap());
        assert_eq!(checked, [Scheme::RsaPssSha384], "the ARK signed the ASK");
        // With a new VCEK: the ASK's signature, once.
        let (vek, checked) = count::during(|| amd::endorse_issued(VCEK, &ask, NOW).unwrap());
        assert_eq!(checked, [Scheme::RsaPssSha384], "the ASK signed the VCEK");
        // Warm: the report's.
        let (warm, checked) = count::during(|| verify_report(REPORT, &vek, data, NOW).unwrap());
        assert_eq!(checked, [Scheme::EcdsaP384Sha384], "the VCEK signed the report");
        // Cold: all three, and nothing differs.
        let evidence = SnpEvidence { report: REPORT.to_vec(), vek: VCEK.to_vec() };
        let (cold, checked) = count::during(|| verify(&evidence, &anchors, &[], data, NOW).unwrap());
        assert_eq!(checked, [Scheme::RsaPssSha384, Scheme::RsaPssSha384, Scheme::EcdsaP384Sha384]);
        assert_eq!((warm, &vek), (cold, &amd::endorse(VCEK, &anchors, &[], NOW).unwrap()));
    }
}
