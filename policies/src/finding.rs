//! Findings: why a host was denied, or a manifest or policy refused. The set of reasons is closed; a code is API: never
//! renamed, the metric's label and the name under which a test exists.

use alloc::borrow::Cow;
use alloc::string::{String, ToString};
use core::fmt;

use countersign_attestation::Rejection;
use serde::Serialize;

/// Longest `expected` or `found` text kept: findings end up in logs, problem documents and the lineage.
const TEXT_BYTES_MAX: usize = 1024;

macro_rules! reasons {
    ($(#[$enum_doc:meta])* $room:ident {
        $($(#[$doc:meta])* $variant:ident($whose:ident) = $code:literal, $sentence:literal, $remedy:literal;)+
    }) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $room { $($(#[$doc])* #[doc = concat!("Code `", $code, "`: ", $sentence, ".")] $variant,)+ }

        impl $room {
            /// Every reason, in the order of its definition.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable code.
            #[must_use]
            pub const fn code(self) -> &'static str { match self { $(Self::$variant => $code,)+ } }

            /// What is wrong, as one sentence without a full stop.
            #[must_use]
            pub const fn sentence(self) -> &'static str { match self { $(Self::$variant => $sentence,)+ } }

            /// What to do about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str { match self { $(Self::$variant => $remedy,)+ } }

            /// Who may read what was found.
            const fn found_is_for(self) -> Audience { match self { $(Self::$variant => Audience::$whose,)+ } }
        }
    };
}

reasons! {
    /// Why the judge denies, or refuses to load what it would judge by.
    PolicyReason {
        /// Load: the text is not what serde expects.
        ManifestSyntax(Operator) = "reference.manifest.syntax", "the reference manifest is not well-formed",
            "correct the manifest; unknown and repeated members are refused so that a typo never loosens a check";
        /// Load.
        ManifestSize(Operator) = "reference.manifest.size", "the reference manifest is larger than accepted",
            "split the manifest, one per golden state";
        /// Load.
        ManifestId(Operator) = "reference.manifest.id", "the reference manifest's id is not acceptable",
            "name the manifest with letters, digits, '-', '_' and '.', starting with a letter or digit";
        /// Load: a manifest that names nothing would match every host.
        ManifestEmpty(Operator) = "reference.manifest.empty", "the reference manifest names nothing to compare",
            "name at least one PCR or one launch measurement; an empty manifest would match every host";
        /// Load.
        ManifestVersion(Operator) = "reference.manifest.version", "the reference manifest's version is not acceptable",
            "count versions from 1, each one higher than any before it of this id";
        /// Load, or registration after its end.
        ManifestUntil(Operator) = "reference.manifest.until", "an end in the reference manifest is no moment, or past",
            "write the end in UTC to the second, with a Z, and after now";
        /// Load: an artifact that lists nothing of the manifest would end nothing.
        ManifestArtifact(Operator) = "reference.manifest.artifact", "an artifact of the reference manifest is not acceptable",
            "list in each artifact values that the manifest lists, and let replaced_by name another artifact of it";
        /// Load.
        ManifestProvenance(Operator) = "reference.manifest.provenance", "the manifest's provenance is not acceptable",
            "name the artifacts that values were computed from, with their SHA-256, and the build in one line";
        /// Load: how many must sign is a setting of whoever verifies, never of what is verified.
        ManifestSignatures(Operator) = "reference.manifest.signatures",
            "the reference manifest is not signed by enough operators of this broker",
            "let more operators sign it with `countersign refs sign`; each counts once, by the key on the broker's list";
        /// Load: an empty list can never match, which nobody means.
        ValueListEmpty(Operator) = "reference.values.empty", "a list of reference values is empty",
            "list at least one value, or leave the member out";
        /// Load.
        ValueListSize(Operator) = "reference.values.size", "a list of reference values is longer than accepted",
            "split the manifest, one per golden state";
        /// Load.
        BankUnknown(Operator) = "reference.bank.unknown", "the PCR bank is not one that is judged",
            "use sha256, sha384 or sha512";
        /// Load.
        BankSha1(Operator) = "reference.bank.sha1", "SHA-1 PCR values are not evidence",
            "register values of the sha256 or sha384 bank; collisions of SHA-1 are practical";
        /// Load.
        PcrIndex(Operator) = "reference.pcr.index", "the PCR index does not exist",
            "use 0 to 23, written in decimal without leading zeros";
        /// Load: PC Client Platform TPM Profile 1.05, 4.6: PCR 16 and 23 reset from locality 0.
        PcrResettable(Operator) = "reference.pcr.resettable", "the PCR can be reset by the host's own software",
            "name PCRs that only a restart resets; 16 and 23 prove nothing about a running system";
        /// Load.
        ValueMalformed(Operator) = "reference.value.malformed", "a reference value is not a digest of its kind",
            "write the value in hexadecimal at the full length of its hash";
        /// Load: firmware extends at least a separator into PCR 0 to 7 (PC Client Platform Firmware Profile 1.06, 3.3).
        ValueZero(Operator) = "reference.value.zero", "an all-zero value is the mark of something never measured",
            "register values of a host whose firmware measures into this bank";
        /// Load: AMD SNP ABI, TCB_VERSION: only Turin and later have an FMC component.
        MinTcbFmc(Operator) = "reference.min_tcb.fmc", "the minimum TCB's fmc does not suit the product",
            "name fmc for turin and leave it out for milan and genoa";
        /// Load: the vectors have 64 bits.
        MitigationBit(Operator) = "reference.mitigation.bit", "a mitigation's bit does not exist or is named twice",
            "name bits 0 to 63 of the mitigation vector, each once";

        /// Load: whoever controls the kernel writes its list.
        ImaUnanchored(Operator) = "reference.ima.unanchored", "IMA rules stand alone: nothing vouches for the kernel",
            "name the boot beside them, by `tpm` PCRs or `boot` values";
        /// Load.
        BootCommandLine(Operator) = "reference.boot.command_line", "a kernel command line is not acceptable",
            "write the whole command line as it was measured, without control characters";

        /// Load: what becomes of ACPI tables is a closed set.
        ManifestAcpi(Operator) = "reference.acpi", "the manifest's `acpi` is not one of those there are",
            "write measured, igvm or sandboxed, or leave it out";

        /// Load.
        WaiverSyntax(Operator) = "waiver.syntax", "the waiver is not well-formed",
            "correct the waiver; unknown and repeated members are refused so that a typo never widens it";
        /// Load.
        WaiverSize(Operator) = "waiver.size", "the waiver is larger than accepted", "split the waiver";
        /// Load: the exact bytes, by the operator who registers it.
        WaiverSignature(Operator) = "waiver.signature", "the waiver is not signed by this operator",
            "sign it with `countersign waiver add` and the operator's own signing key";
        /// Load.
        WaiverId(Operator) = "waiver.id", "the waiver's id is not acceptable",
            "name the waiver with letters, digits, '-', '_' and '.', starting with a letter or digit";
        /// Load: a waiver of the test fleet is none of the production fleet.
        WaiverDomain(Operator) = "waiver.trust_domain", "the waiver is for another trust domain",
            "write and sign one for this trust domain";
        /// Load: a waiver that is about everyone is a policy.
        WaiverScope(Operator) = "waiver.scope", "the waiver's scope is empty or names nothing that can be",
            "name the hosts, labels, instances or generations it is about";
        /// Load.
        WaiverWildcard(Operator) = "waiver.scope.wildcard", "the waiver's scope is a pattern, or everything by name",
            "name each host in full, or group hosts by a label";
        /// Load.
        WaiverAccepts(Operator) = "waiver.accepts", "what the waiver accepts is empty or not one of what can be waived",
            "name TCB statuses, advisories, lower SNP floors, SNP mitigations or generations; nothing else can be waived";
        /// Load: without an end, a waiver is a switch.
        WaiverUntil(Operator) = "waiver.until", "the waiver's end is no moment, past, or too far ahead",
            "name an end within 92 days, in UTC: 2026-12-24T00:00:00Z";
        /// Load.
        WaiverReason(Operator) = "waiver.reason", "the waiver does not say why",
            "write one line: why this is accepted, and what will end it";
        /// Load.
        WaiverCount(Operator) = "waiver.count", "there are more waivers than can be in force",
            "end those that are done; what a whole fleet needs is a policy";
        /// Decision.
        WaiverTooMany(Operator) = "waiver.too_many", "the host would stand on more waivers than a credential names",
            "mend the host: what needs this many exceptions is not one";
        /// Load.
        InstanceId(Operator) = "instance.id", "the hardware's id cannot be one",
            "write the id that `countersign hosts show` prints, in hexadecimal";
        /// Load.
        DenialSyntax(Operator) = "instance.denial.syntax", "the denial is not well-formed",
            "name one instance and a reason";
        /// Load.
        DenialCount(Operator) = "instance.denial.count", "there are more denials than accepted",
            "deny the generation by policy instead";
        /// Decision: whatever its vendor still signs.
        InstanceDenied(Host) = "instance.denied", "an operator no longer believes this piece of hardware",
            "move the workload to other hardware; this piece's keys may be anybody's";

        /// Decision.
        ReferencesNone(Operator) = "reference.none", "no reference values are registered",
            "register a reference manifest; until then no host is trusted";
        /// Decision.
        NoMatch(Operator) = "reference.no_match", "the host does not match this manifest either",
            "compare with the closest manifest, named first";
        /// Decision.
        ManifestEnded(Operator) = "reference.ended", "the manifest has ended",
            "register its next version, or move the host to what another manifest lists";
        /// Decision.
        ArtifactEnded(Host) = "reference.artifact.ended", "the host stands on an artifact whose time is over",
            "move the host to the artifact that replaced it, or register a version of the manifest that ends it later";
        /// Decision.
        PcrMismatch(Host) = "reference.pcr_mismatch", "a PCR does not hold a registered value",
            "restore the measured software, or register the new state if the change was intended";
        /// Decision.
        PcrNotPresented(Host) = "reference.pcr_not_presented", "a PCR that the manifest names was not quoted",
            "quote the selection of the challenge; a bank the TPM does not have cannot match";
        /// Decision: CVE-2021-42299. An active bank the firmware does not extend can be filled by anyone.
        PcrBankUnextended(Host) = "reference.pcr_bank_unextended",
            "the firmware measured nothing into PCR 0 to 7 of a quoted bank",
            "activate only PCR banks that the firmware extends, and reference those";
        /// Note on a grant, never a denial.
        PcrUnjudged(Host) = "reference.pcr_unjudged", "quoted PCRs that the matching manifest does not name",
            "add them to the manifest if they should count";
        /// Decision.
        SnpNotPresented(Host) = "reference.snp.not_presented", "the manifest names SEV-SNP values and none were presented",
            "attest from the confidential VM, with its report in the bundle";
        /// Decision.
        SnpMeasurement(Host) = "reference.snp.measurement", "the launch measurement is not registered",
            "start the registered image, or register this one if the change was intended";
        /// Decision.
        SnpHostData(Host) = "reference.snp.host_data", "HOST_DATA is not registered",
            "start the VM with the registered HOST_DATA";
        /// Decision.
        SnpIdKeyDigest(Host) = "reference.snp.id_key_digest", "the launch was not signed by a registered ID key",
            "start the VM with an ID block of a registered key";
        /// Decision.
        SnpProduct(Host) = "reference.snp.product", "the manifest names no minimum for this product",
            "add the product to min_tcb and min_mitigations where the manifest has them, or move the host to a product it names";
        /// Decision.
        BootNotPresented(Host) = "reference.boot.not_presented",
            "the manifest names boot values and no event log was presented",
            "send the firmware's event log: the agent reads it from securityfs";
        /// Decision: the log is there and says nothing of it, or the PCR it would be in was not quoted.
        BootNotMeasured(Host) = "reference.boot.not_measured",
            "the boot did not measure what the manifest names",
            "boot with a loader that measures it, or leave it out of the manifest";
        /// Decision.
        SecureBoot(Host) = "reference.boot.secure_boot", "UEFI Secure Boot is not in the registered state",
            "turn Secure Boot on in the firmware's settings";
        /// Decision.
        BootMismatch(Host) = "reference.boot.mismatch", "the boot measured something that is not registered",
            "restore the registered boot, or register the new state if the change was intended";
        /// Decision.
        ImaNotPresented(Host) = "reference.ima.not_presented", "the manifest names IMA rules and no list was presented",
            "boot the kernel with an IMA policy and let the agent send the list";

        /// Decision.
        TdxNotPresented(Host) = "reference.tdx.not_presented", "the manifest names TDX values and none were presented",
            "attest from the trust domain, with its quote in the bundle";
        /// Decision.
        TdxMeasurement(Host) = "reference.tdx.mr_td", "the trust domain's initial memory is not registered",
            "start the registered image, or register this one if the change was intended";
        /// Decision.
        TdxRtmr(Host) = "reference.tdx.rtmr", "a runtime measurement register does not hold a registered value",
            "restore the measured software, or register the new state if the change was intended";
        /// Decision.
        TdxModule(Host) = "reference.tdx.module", "the TDX module is not a registered one",
            "run the TD on a platform with a registered module";
        /// Decision: CVE-2025-30513.
        TdxModuleSvn(Host) = "reference.tdx.module_svn", "the TDX module is older than the manifest's minimum",
            "update the TDX module and relaunch the TD";
        /// Decision.
        TdxConfiguration(Host) = "reference.tdx.configuration",
            "MRCONFIGID, MROWNER or MROWNERCONFIG is not registered",
            "start the TD with the registered configuration and owner";
        /// Decision.
        TdxServiceTd(Host) = "reference.tdx.service_td", "the service TDs bound to the TD are not registered",
            "bind the registered service TDs or none, with a quote that reports them";
        /// Decision.
        TdxAttributes(Host) = "reference.tdx.attributes", "TDATTRIBUTES or XFAM is not registered",
            "start the TD with the registered attributes";
        /// Decision.
        TdxLogNotPresented(Host) = "reference.tdx.log_not_presented",
            "the manifest names boot values of the trust domain and its event log was not presented",
            "send the CCEL: the agent reads it from the ACPI tables";
        /// Decision.
        ParavisorNotPresented(Host) = "reference.paravisor.not_presented",
            "the manifest names a paravisor and no report of one was presented",
            "send what NV index 0x01400001 of the virtual TPM holds";
        /// Decision.
        ParavisorHardware(Host) = "reference.paravisor.hardware", "the paravisor stands on other hardware",
            "move the virtual machine to the hardware the manifest names";
        /// Decision.
        ParavisorVm(Host) = "reference.paravisor.vm", "the virtual machine is not a registered one",
            "register its vmUniqueId, or use the registered virtual machine";
        /// Decision.
        ParavisorSetting(Host) = "reference.paravisor.setting", "the virtual machine is configured otherwise",
            "change the virtual machine's configuration, or register this one";

        /// Decision.
        TcbBelowReference(Host) = "snp.tcb.below_reference", "a TCB component is below the registered minimum",
            "update and commit the platform's SEV firmware and microcode, then restart the guest";
        /// Decision.
        TcbComponentMissing(Host) = "snp.tcb.component_missing", "the report lacks a TCB component that a minimum names",
            "use a platform whose reports carry the component";
        /// Decision: reports have mitigation vectors since version 5.
        MitigationNotPresented(Host) = "snp.mitigation.not_presented",
            "the report says nothing of mitigations, and the manifest names some",
            "update the platform's SEV firmware to one that makes reports of version 5";
        /// Decision.
        MitigationMissing(Host) = "snp.mitigation.missing", "a mitigation that the manifest names is not in force",
            "update the platform's firmware, have it verify its mitigations, then launch the guest again";

        /// Decision: archived claims outlive the collateral they were verified with.
        ClaimsExpired(Host) = "policy.claims_expired", "the collateral under the claims has expired",
            "attest again with current certificates and revocation list";
        /// Decision: rule 7 of the design, whatever the policies say.
        SimulatedNotNamed(Host) = "policy.simulated_not_named",
            "the host stands on simulated hardware and no policy that permits it names that class",
            "use real hardware, or install a policy that names Assurance::\"simulated\"";
        /// Decision.
        NoPermit(Operator) = "policy.no_permit", "no policy permits this host", "meet the conditions of a permit policy";
        /// Decision.
        Forbidden(Operator) = "policy.forbidden", "a policy forbids this host", "change what the policy forbids";
        /// Decision: Cedar skips a policy that fails to evaluate, so an erroring forbid would permit.
        EvaluationError(Operator) = "policy.evaluation_error", "a policy could not be evaluated",
            "correct the policy; until then it denies every host it cannot be evaluated for";

        /// Load.
        ImaRulesSyntax(Operator) = "ima.rules.syntax", "the IMA rules are not well-formed",
            "correct the rules; unknown and repeated members are refused so that a typo never loosens a check";
        /// Load.
        ImaRulesSize(Operator) = "ima.rules.size", "the IMA rules are larger than accepted",
            "list directories instead of single files, or sign files";
        /// Load: rules that list nothing could only deny, which nobody means.
        ImaRulesEmpty(Operator) = "ima.rules.empty", "the IMA rules list no file and no signature key",
            "list the files that may run, or register the key they are signed with";
        /// Load.
        ImaRulesName(Operator) = "ima.rules.name", "a name in the IMA rules can match nothing",
            "write absolute paths as the kernel writes them; a directory ends with a slash";
        /// Load.
        ImaRulesDigest(Operator) = "ima.rules.digest", "a digest in the IMA rules is not acceptable",
            "list sha256, sha384 or sha512 digests; collisions of SHA-1 are practical, so admit it by name or not at all";
        /// Load.
        ImaRulesKey(Operator) = "ima.rules.key", "a signature key in the IMA rules is not acceptable",
            "register RSA keys of 2048 bits or more, or ECDSA keys, each as one PEM block";
        /// Load.
        ImaRulesPcr(Operator) = "ima.rules.pcr", "the IMA rules name a PCR that IMA does not measure into",
            "name PCR 10, and those that `pcr=` of the kernel's IMA policy names";
        /// Load.
        ImaRulesKeylime(Operator) = "ima.rules.keylime", "the Keylime runtime policy cannot be read as IMA rules",
            "correct the policy, or write it as IMA rules";
        /// Load: what is excluded can run anything.
        ImaExclude(Operator) = "ima.rules.exclude", "an exclude is not a path, or takes in where programs live",
            "exclude single files, or directories that hold no programs of the system";

        /// Decision: the kernel measures at least the boot aggregate.
        ImaNothingMeasured(Host) = "ima.nothing_measured", "the host's kernel measured nothing",
            "boot a kernel with an IMA policy, for instance ima_policy=tcb";
        /// Decision.
        ImaFileUnlisted(Host) = "ima.file.unlisted", "a measured file is not listed",
            "list the file with its digest, sign it with a registered key, or remove it and restart";
        /// Decision.
        ImaFileDigest(Host) = "ima.file.digest", "a measured file has another digest than those listed",
            "restore the listed file and restart, or list its digest if the change was intended";
        /// Decision.
        ImaFileSignature(Host) = "ima.file.signature", "a measured file's signature is not of a registered key",
            "register the key, list the file's digest, or sign it with a registered key";
        /// Decision.
        ImaBufferUnlisted(Host) = "ima.buffer.unlisted", "what the kernel measured from memory is not listed",
            "list the buffer's digest under its name, for instance that of a key under its keyring";
        /// Decision: the entry has no digest or no name.
        ImaEntryUnjudged(Host) = "ima.entry.unjudged", "an entry's template says too little to judge it",
            "measure with a template that has a digest and a name, for instance ima-ng or ima-sig";
        /// Decision: what was measured may not be what was used.
        ImaViolation(Host) = "ima.violation", "a file was written while it was measured or in use",
            "do not measure files that are written to, for instance logs, and restart";
        /// Decision: collisions of SHA-1 are practical.
        ImaPaddedSha1(Host) = "ima.padded_sha1", "the host's kernel extends SHA-1 digests",
            "use a kernel of 5.8 or later, that hashes for each bank";
        /// Decision.
        ImaPcrUnattested(Host) = "ima.pcr_unattested", "a PCR that the IMA rules name was not quoted with measurements",
            "quote each PCR that the rules name, and measure into it";
        /// Decision: the counts would be of nobody's list.
        ImaTallyGap(Operator) = "ima.tally.gap", "the count does not continue the one before it",
            "judge the list from its first entry, with the rules of now";

        /// Load.
        PolicySyntax(Operator) = "policy.load.syntax", "the policy text does not parse", "correct the policy text";
        /// Load.
        PolicySize(Operator) = "policy.load.size", "the policies are larger than accepted", "shorten the policies";
        /// Load.
        PolicyName(Operator) = "policy.load.name", "a policy's name is not acceptable or is used twice",
            "give each file and each @id its own name of letters, digits, '-', '_' and '.'";
        /// Load.
        PolicyEmpty(Operator) = "policy.load.empty", "a policy text holds no policy",
            "remove the text, or add the policies it should hold";
        /// Load.
        PolicyNoPermit(Operator) = "policy.load.no_permit", "nothing in the policy set permits anything",
            "install a permit policy, for instance the shipped baseline";
        /// Load: whoever answers for a part of a fleet may ask for more, never for less.
        PolicyOverlay(Operator) = "policy.load.overlay", "an overlay permits something",
            "let overlays only forbid; what permits belongs into the policies they lie over";
        /// Load.
        PolicyInvalid(Operator) = "policy.load.invalid", "the policy does not agree with the schema",
            "use only what the schema declares, and guard every optional attribute with `has`";
        /// Load: the tree of a deep text exhausts the stack, which no caller can catch.
        PolicyNesting(Operator) = "policy.load.nesting", "the policy text nests deeper than accepted",
            "split the policy, or compare with a set: [\"a\", \"b\"].contains(...) instead of a chain of ||";
        /// Load.
        PolicyUnconditional(Operator) = "policy.load.unconditional", "a permit admits a host that proved nothing",
            "say in a `when` clause what must be proven, for instance context.reference.matched";
        /// Load.
        PolicyTemplate(Operator) = "policy.load.template", "policy templates are not supported",
            "write the policy without slots";
        /// Load: PC Client Platform TPM Profile 1.05, 4.6.
        PolicyPcrResettable(Operator) = "policy.load.pcr_resettable",
            "a policy names a PCR that the host's own software can reset",
            "name PCRs that only a restart resets; 16 and 23 prove nothing about a running system";
        /// Load.
        PolicyWildcard(Operator) = "policy.load.wildcard", "a policy identifies something by a wildcard",
            "name identities in full, or group hosts by a label and compare that with ==";
        /// Load: it would never match.
        PolicyPath(Operator) = "policy.load.path", "a policy names a path that no request has",
            "write the decoded path with one slash before each segment and none at the end: /v1/models";

        /// A request at a gate: a closed set.
        AuthorizeAction(Host) = "authorize.action", "the method is not one that a policy can permit",
            "use DELETE, GET, HEAD, OPTIONS, PATCH, POST or PUT";
        /// A request at a gate: who judges it and who serves it must read the same path.
        AuthorizeResource(Host) = "authorize.resource", "the path can be read in more than one way",
            "send a path without empty or dot segments, and percent-encode only what must be";
        /// A request at a gate.
        AuthorizeForbidden(Operator) = "authorize.forbidden", "an operator's policy forbids this request",
            "ask the operator of this gate what the policy demands";
        /// A request at a gate.
        AuthorizeNoPermit(Operator) = "authorize.no_permit", "no operator's policy permits this request",
            "ask the operator of this gate to permit it";
        /// A request at a gate: rule 7 of the design.
        AuthorizeSimulated(Host) = "authorize.simulated_not_named",
            "the caller stands on simulated hardware and no policy that permits the request names that class",
            "use real hardware, or a policy that names Assurance::\"simulated\"";
        /// A request at a gate: Cedar skips a policy that fails to evaluate, so an erroring forbid would permit.
        AuthorizeError(Operator) = "authorize.evaluation_error", "a policy could not be evaluated for this request",
            "correct the policy; until then it denies every request it cannot be evaluated for";
    }
}

/// Who may read a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// The host too: it is the host's own value.
    Host,
    /// Operators only.
    Operator,
}

/// One reason with what was expected and what was found, for operators. Hosts see [`Finding::for_host`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The stable code.
    pub code: &'static str,
    /// What is wrong, as one sentence without a full stop.
    pub sentence: &'static str,
    /// What would have been accepted.
    pub expected: String,
    /// What was there instead.
    pub found: String,
    /// What to do about it.
    pub remedy: Cow<'static, str>,
    #[serde(skip)]
    found_is_for: Audience,
}

/// A finding as the host may read it: its own value, but never the reference values or policies it is judged by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostFinding<'a> {
    /// The stable code.
    pub code: &'static str,
    /// What is wrong.
    pub sentence: &'static str,
    /// The host's own value, where the finding is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<&'a str>,
    /// What to do about it.
    pub remedy: &'a str,
}

impl PolicyReason {
    /// The finding for this reason.
    #[must_use]
    pub fn because(self, expected: impl fmt::Display, found: impl fmt::Display) -> Finding {
        Finding {
            code: self.code(),
            sentence: self.sentence(),
            expected: printable(&expected.to_string()),
            found: printable(&found.to_string()),
            remedy: Cow::Borrowed(self.remedy()),
            found_is_for: self.found_is_for(),
        }
    }
}

impl Finding {
    /// The same finding with the remedy that a policy's author wrote.
    pub(crate) fn with_remedy(mut self, remedy: Option<&str>) -> Self {
        if let Some(remedy) = remedy {
            self.remedy = Cow::Owned(printable(remedy));
        }
        self
    }

    /// What the host may know.
    #[must_use]
    pub fn for_host(&self) -> HostFinding<'_> {
        let found = match self.found_is_for {
            Audience::Host => Some(self.found.as_str()),
            Audience::Operator => None,
        };
        HostFinding { code: self.code, sentence: self.sentence, found, remedy: &self.remedy }
    }
}

impl From<&Rejection> for Finding {
    /// A rejection is about the host's own evidence.
    fn from(rejection: &Rejection) -> Self {
        let reason = rejection.reason();
        Self {
            code: reason.code(),
            sentence: reason.sentence(),
            expected: rejection.expected().to_string(),
            found: rejection.found().to_string(),
            remedy: Cow::Borrowed(reason.remedy()),
            found_is_for: Audience::Host,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; expected {}, found {}", self.code, self.sentence, self.expected, self.found)
    }
}

impl core::error::Error for Finding {}

fn printable(text: &str) -> String {
    let mut kept = String::new();
    for character in text.chars().map(|character| if character == '\n' { ' ' } else { character }) {
        if TEXT_BYTES_MAX < kept.len().saturating_add(character.len_utf8()) {
            kept.push('…');
            break;
        }
        if !character.is_control() {
            kept.push(character);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::string::String;

    use countersign_attestation::Reason;

    use super::{PolicyReason, TEXT_BYTES_MAX, printable};

    #[test]
    fn every_code_is_unique_and_well_formed() {
        let mut codes: BTreeSet<_> = Reason::all().map(Reason::code).collect();
        for reason in PolicyReason::ALL {
            let code = reason.code();
            assert!(codes.insert(code), "{code} is used twice");
            assert!((2..=4).contains(&code.split('.').count()), "{code}: room.thing[.fault]");
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
            assert!(code.chars().all(plain), "{code}: lower case, digits, _ and . only");
            assert!(!reason.sentence().ends_with('.'), "{code}: no full stop");
            assert!(!reason.remedy().is_empty(), "{code}: a remedy");
        }
    }

    #[test]
    fn text_is_cut_and_has_no_control_characters() {
        assert_eq!(printable("a\u{1b}[31m\nb"), "a[31m b");
        assert!(
            printable(&String::from_iter(core::iter::repeat_n('é', 2000))).len() <= TEXT_BYTES_MAX + '…'.len_utf8()
        );
    }

    #[test]
    fn a_host_never_learns_what_was_expected() {
        let finding = PolicyReason::PcrMismatch.because("golden-secret", "own-value");
        let seen = serde_json::to_string(&finding.for_host()).unwrap();
        assert!(seen.contains("own-value") && !seen.contains("golden-secret"), "{seen}");
        let finding = PolicyReason::NoMatch.because("golden-secret", "other-manifest");
        let seen = serde_json::to_string(&finding.for_host()).unwrap();
        assert!(!seen.contains("other-manifest") && !seen.contains("golden-secret"), "{seen}");
    }
}
