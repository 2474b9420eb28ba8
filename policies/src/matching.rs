//! Claims against reference values: which manifest matches wholly, or what differs from each.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt;

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::claims::{
    BootClaims, Claims, HexBytes, PcrBank, PcrHash, Presented, SnpClaims, TpmClaims,
};
use countersign_attestation::digest::Sha256Digest;

use crate::boot::{BootDifference, BootReference};
use crate::finding::{Finding, PolicyReason};
use crate::ima::{ImaRules, ImaTally};
use crate::mitigation::{self, MitigationDifference};
use crate::paravisor::ParavisorDifference;
use crate::reference::{InForce, MinTcb, ReferenceManifest, ReferenceSet, SnpReference, TpmReference, Values};
use crate::tdx::TdxDifference;
use crate::waiver::Accepted;

/// Accepted values that an explanation lists; the rest is counted.
const LISTED_MAX: usize = 4;
/// Manifests beside the closest that an explanation names.
const OTHERS_MAX: usize = 8;

/// What comparing one host's claims with every manifest gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReferenceMatch<'a> {
    /// Every value that this manifest names was presented and is one of those it lists.
    Matched(&'a ReferenceManifest),
    /// No manifest matches; what differs, the closest manifest's values first. Never empty.
    NotMatched(Mismatch),
}

/// Why no manifest matches: at least one finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub(crate) first: Finding,
    pub(crate) more: Vec<Finding>,
}

impl Mismatch {
    /// What differs, the closest manifest's values first.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        core::iter::once(&self.first).chain(&self.more)
    }

    pub(crate) fn into_findings(self) -> impl Iterator<Item = Finding> {
        core::iter::once(self.first).chain(self.more)
    }
}

/// What rules for the IMA list say of a host's list, by the digest of the rules.
pub type ImaTallies = BTreeMap<Sha256Digest, ImaTally>;

impl ReferenceSet {
    /// Whether the quoted PCRs and the report match some manifest at `now`, whatever the logs say.
    #[must_use]
    pub fn matches_quote(&self, claims: &Claims, accepted: &Accepted<'_>, now: UnixMillis) -> bool {
        let mut live = self.at(now).filter(|in_force| in_force.ended.is_none());
        live.any(|in_force| in_force.manifest.compare_quote(claims, accepted).differences.is_empty())
    }

    /// The rules that the host's IMA list must pass for some manifest to match: those of every manifest that all else
    /// matches. Each once.
    #[must_use]
    pub fn ima_rules(&self, claims: &Claims, accepted: &Accepted<'_>, now: UnixMillis) -> Vec<&ImaRules> {
        let mut rules: Vec<&ImaRules> = Vec::new();
        for InForce { manifest, .. } in self.at(now).filter(|in_force| in_force.ended.is_none()) {
            let Some(ima) = &manifest.ima else { continue };
            let named = rules.iter().any(|rules| rules.digest() == ima.rules.digest());
            if !named && manifest.compare_boot(claims, accepted).differences.is_empty() {
                rules.push(&ima.rules);
            }
        }
        rules
    }

    /// Compares `claims`, and what `tallies` say of its IMA list, with every manifest as it is at `now`, but for what
    /// waivers accept. Of several that match, the first by id is named.
    #[must_use]
    pub fn match_claims(
        &self,
        claims: &Claims,
        tallies: &ImaTallies,
        accepted: &Accepted<'_>,
        now: UnixMillis,
    ) -> ReferenceMatch<'_> {
        let mut differing = Vec::new();
        for in_force in self.at(now) {
            let manifest = in_force.manifest;
            let mut comparison = manifest.compare(claims, tallies, accepted);
            if let Some(until) = in_force.ended {
                comparison.differences.insert(0, Difference::Ended { until });
            }
            if comparison.differences.is_empty() {
                return ReferenceMatch::Matched(manifest);
            }
            // What an ended artifact had is the reason, and comes before what follows from it.
            let before = in_force.before.map(|before| before.compare(claims, tallies, accepted).differences.len());
            if before.is_some_and(|before| before < comparison.differences.len()) {
                let artifacts = manifest.ended_artifacts(now);
                comparison.differences.insert(0, Difference::Artifacts { artifacts });
            }
            differing.push((manifest.id(), comparison));
        }
        // Closest first: fewest differences, then most values that match, then by id: the sort is stable.
        differing.sort_by_key(|(_, comparison)| (comparison.differences.len(), Reverse(comparison.matched)));
        let mut differing = differing.iter();
        let closest = differing.next().into_iter();
        let mut findings = closest
            .flat_map(|(id, comparison)| comparison.differences.iter().flat_map(|difference| difference.explain(id)));
        let Some(first) = findings.next() else {
            let first = PolicyReason::ReferencesNone.because("at least one reference manifest", "none");
            return ReferenceMatch::NotMatched(Mismatch { first, more: Vec::new() });
        };
        let others = differing.take(OTHERS_MAX).map(|(id, comparison)| {
            let differing = comparison.differences.len();
            let total = comparison.matched.saturating_add(differing);
            let expected = format_args!("all {total} values of manifest {id}");
            PolicyReason::NoMatch.because(expected, format_args!("{differing} of {total} differ"))
        });
        ReferenceMatch::NotMatched(Mismatch { first, more: findings.chain(others).collect() })
    }
}

/// The name of a compared value.
#[derive(Clone, Copy)]
enum Name {
    Pcr(PcrHash, u8),
    Field(&'static str),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pcr(bank, index) => write!(f, "{} PCR {index}", bank.name()),
            Self::Field(name) => f.write_str(name),
        }
    }
}

/// One thing that differs. It becomes text for the closest manifest only: an appraisal compares with all of them.
enum Difference<'a> {
    Ended { until: UnixMillis },
    Artifacts { artifacts: String },
    Value { reason: PolicyReason, name: Name, accepted: &'a Values, found: &'a HexBytes },
    Boot(BootDifference<'a>),
    NoLog,
    NoList,
    List(&'a ImaTally),
    NotQuoted { name: Name, accepted: &'a Values },
    Tdx(TdxDifference<'a>),
    Paravisor(ParavisorDifference<'a>),
    Mitigation(MitigationDifference<'a>),
    NoReport,
    Product { named: &'a BTreeMap<AmdProduct, MinTcb>, found: AmdProduct },
    Tcb { tcb: &'static str, component: &'static str, least: u8, found: Option<u8> },
}

impl Difference<'_> {
    fn explain(&self, manifest: &str) -> Vec<Finding> {
        Vec::from([match self {
            Self::List(tally) => return tally.findings(),
            Self::Ended { until } => PolicyReason::ManifestEnded
                .because(format_args!("manifest {manifest} in force"), format_args!("until {until}")),
            Self::Artifacts { artifacts } => PolicyReason::ArtifactEnded
                .because(format_args!("artifacts in force of manifest {manifest}"), artifacts),
            Self::NoLog => {
                let expected = format!("an event log (manifest {manifest})");
                PolicyReason::BootNotPresented.because(expected, "not presented")
            }
            Self::NoList => {
                let expected = format!("an IMA list (manifest {manifest})");
                PolicyReason::ImaNotPresented.because(expected, "not presented")
            }
            Self::Boot(difference) => difference.explain(manifest),
            Self::Tdx(difference) => difference.explain(manifest),
            Self::Paravisor(difference) => difference.explain(manifest),
            Self::Mitigation(difference) => difference.explain(manifest),
            Self::Value { reason, name, accepted, found } => {
                let expected = format!("{name} {} (manifest {manifest})", one_of(accepted));
                reason.because(expected, format_args!("{name} {found}"))
            }
            Self::NotQuoted { name, accepted } => {
                let expected = format!("{name} {} (manifest {manifest})", one_of(accepted));
                PolicyReason::PcrNotPresented.because(expected, format_args!("{name} not quoted"))
            }
            Self::NoReport => {
                let expected = format!("an SEV-SNP report (manifest {manifest})");
                PolicyReason::SnpNotPresented.because(expected, "not presented")
            }
            Self::Product { named, found } => {
                let named: Vec<String> = named.keys().map(ToString::to_string).collect();
                PolicyReason::SnpProduct
                    .because(format_args!("{} in min_tcb (manifest {manifest})", named.join(" or ")), found)
            }
            Self::Tcb { tcb, component, least, found } => {
                let expected = format!("{tcb} {component} at least {least} (manifest {manifest})");
                match found {
                    Some(found) => {
                        let found = format_args!("{tcb} {component} {found}");
                        PolicyReason::TcbBelowReference.because(expected, found)
                    }
                    None => {
                        PolicyReason::TcbComponentMissing.because(expected, format_args!("{tcb} without {component}"))
                    }
                }
            }
        }])
    }
}

/// Collects what differs from one manifest, and counts what does not.
#[derive(Default)]
struct Comparison<'a> {
    matched: usize,
    differences: Vec<Difference<'a>>,
}

impl ReferenceManifest {
    fn compare<'a>(&'a self, claims: &'a Claims, tallies: &'a ImaTallies, accepted: &Accepted<'_>) -> Comparison<'a> {
        let mut comparison = self.compare_boot(claims, accepted);
        if self.ima.is_some() {
            match (&claims.ima, self.ima_tally(tallies)) {
                (Presented::Verified(_), Some(tally)) if tally.findings().is_empty() => comparison.same(),
                (Presented::Verified(_), Some(tally)) => comparison.differences.push(Difference::List(tally)),
                // A list that these rules did not judge is as good as none.
                (Presented::Verified(_), None) | (Presented::NotPresented, _) => {
                    comparison.differences.push(Difference::NoList);
                }
            }
        }
        comparison
    }

    /// What this manifest's rules say of the host's IMA list.
    pub(crate) fn ima_tally<'a>(&self, tallies: &'a ImaTallies) -> Option<&'a ImaTally> {
        tallies.get(&self.ima.as_ref()?.rules.digest())
    }

    /// All but the IMA list.
    fn compare_boot<'a>(&'a self, claims: &'a Claims, accepted: &Accepted<'_>) -> Comparison<'a> {
        let mut comparison = self.compare_quote(claims, accepted);
        if let Some(boot) = &self.boot {
            comparison.boot(boot, &claims.boot);
        }
        if let Some(tdx) = &self.tdx {
            let (same, differences) = tdx.compare_log(&claims.rtmr);
            comparison.add(same, differences.into_iter().map(Difference::Tdx));
        }
        comparison
    }

    /// All but the logs.
    fn compare_quote<'a>(&'a self, claims: &'a Claims, accepted: &Accepted<'_>) -> Comparison<'a> {
        let mut comparison = Comparison::default();
        if let Some(tpm) = &self.tpm {
            comparison.tpm(tpm, &claims.tpm);
        }
        if let Some(snp) = &self.snp {
            match &claims.snp {
                Presented::Verified(found) => comparison.snp(snp, found, accepted),
                Presented::NotPresented => comparison.differences.push(Difference::NoReport),
            }
        }
        if let Some(tdx) = &self.tdx {
            let (same, differences) = tdx.compare(&claims.tdx);
            comparison.add(same, differences.into_iter().map(Difference::Tdx));
        }
        if let Some(paravisor) = &self.paravisor {
            let (same, differences) = paravisor.compare(&claims.paravisor);
            comparison.add(same, differences.into_iter().map(Difference::Paravisor));
        }
        comparison
    }

    /// Quoted PCRs that the manifest does not name, as `bank:index`.
    pub(crate) fn unjudged_pcrs(&self, claims: &TpmClaims) -> Vec<String> {
        let named = |bank: PcrHash, index: u8| {
            self.tpm.as_ref().and_then(|tpm| tpm.pcrs.get(&bank)).is_some_and(|pcrs| pcrs.contains_key(&index))
        };
        let quoted = claims.pcrs.iter().flat_map(|(bank, pcrs)| pcrs.keys().map(|index| (*bank, *index)));
        quoted
            .filter(|(bank, index)| !named(*bank, *index))
            .map(|(bank, index)| format!("{}:{index}", bank.name()))
            .collect()
    }
}

impl<'a> Comparison<'a> {
    const fn same(&mut self) {
        self.matched = self.matched.saturating_add(1);
    }

    fn add(&mut self, same: usize, differences: impl Iterator<Item = Difference<'a>>) {
        self.matched = self.matched.saturating_add(same);
        self.differences.extend(differences);
    }

    fn value(&mut self, reason: PolicyReason, name: Name, accepted: &'a Values, found: &'a HexBytes) {
        if accepted.contains(found) {
            self.matched = self.matched.saturating_add(1);
        } else {
            self.differences.push(Difference::Value { reason, name, accepted, found });
        }
    }

    fn tpm(&mut self, reference: &'a TpmReference, claims: &'a TpmClaims) {
        for (bank, pcrs) in &reference.pcrs {
            let quoted = claims.pcrs.get(bank);
            for (index, accepted) in pcrs {
                let name = Name::Pcr(*bank, *index);
                match quoted.and_then(|quoted| quoted.get(index)) {
                    Some(found) => self.value(PolicyReason::PcrMismatch, name, accepted, found),
                    None => self.differences.push(Difference::NotQuoted { name, accepted }),
                }
            }
        }
    }

    fn boot(&mut self, reference: &'a BootReference, claims: &'a Presented<BootClaims>) {
        match claims {
            Presented::NotPresented => self.differences.push(Difference::NoLog),
            Presented::Verified(boot) => {
                let (same, differences) = reference.compare(boot);
                self.add(same, differences.into_iter().map(Difference::Boot));
            }
        }
    }

    fn snp(&mut self, reference: &'a SnpReference, claims: &'a SnpClaims, accepted: &Accepted<'_>) {
        let measurement = Name::Field("MEASUREMENT");
        self.value(PolicyReason::SnpMeasurement, measurement, &reference.measurement, &claims.measurement);
        if let Some(accepted) = &reference.host_data {
            self.value(PolicyReason::SnpHostData, Name::Field("HOST_DATA"), accepted, &claims.host_data);
        }
        if let Some(accepted) = &reference.id_key_digest {
            self.value(PolicyReason::SnpIdKeyDigest, Name::Field("ID_KEY_DIGEST"), accepted, &claims.id_key_digest);
        }
        if let Some(minimum) = &reference.min_mitigations {
            let (same, differences) = mitigation::compare(minimum, claims, accepted);
            self.add(same, differences.into_iter().map(Difference::Mitigation));
        }
        let Some(minimums) = &reference.min_tcb else { return };
        // A generation that the manifest does not list has no floor but the one that a waiver names.
        let waived = || accepted.snp_floors(claims.product).next();
        match minimums.get(&claims.product).copied().or_else(waived) {
            Some(minimum) => self.tcb(minimum, claims, accepted),
            None => self.differences.push(Difference::Product { named: minimums, found: claims.product }),
        }
    }

    /// COMMITTED: the firmware cannot be rolled back below it later. LAUNCH: what the guest was measured under.
    /// REPORTED: what the signing key vouches for. CURRENT is left out on purpose: a provisional update raises it and
    /// can be rolled back (SNP ABI, SNP_COMMIT). Component by component: as one integer, a new microcode would outweigh
    /// an old SNP firmware.
    fn tcb(&mut self, minimum: MinTcb, claims: &SnpClaims, accepted: &Accepted<'_>) {
        let tcbs = [
            ("REPORTED_TCB", claims.reported_tcb),
            ("COMMITTED_TCB", claims.committed_tcb),
            ("LAUNCH_TCB", claims.launch_tcb),
        ];
        for (tcb, components) in tcbs {
            for (component, least, found) in minimum.components(components) {
                let waived = || accepted.snp_floors(claims.product).any(|floor| floor.admits(component, found));
                if found.is_some_and(|found| least <= found) || waived() {
                    self.matched = self.matched.saturating_add(1);
                } else {
                    self.differences.push(Difference::Tcb { tcb, component, least, found });
                }
            }
        }
    }
}

/// Banks whose quoted firmware PCRs are all zero: active, never extended, and free to be filled by whoever boots.
pub(crate) fn unextended_banks(pcrs: &BTreeMap<PcrHash, PcrBank>) -> BTreeSet<PcrHash> {
    let unextended = |bank: &PcrBank| {
        let mut firmware = bank.range(0..=7).map(|(_, value)| value.0.iter().all(|byte| *byte == 0)).peekable();
        firmware.peek().is_some() && firmware.all(|zero| zero)
    };
    pcrs.iter().filter(|(_, bank)| unextended(bank)).map(|(hash, _)| *hash).collect()
}

pub(crate) fn one_of(accepted: &Values) -> String {
    if accepted.is_empty() {
        return "nothing any more".to_string();
    }
    let listed: Vec<String> = accepted.iter().take(LISTED_MAX).map(ToString::to_string).collect();
    let listed = listed.join(" or ");
    match accepted.len().saturating_sub(LISTED_MAX) {
        0 => listed,
        rest => format!("{listed} or one of {rest} more"),
    }
}
