//! References and policies to judge by.

use std::collections::BTreeMap;

use countersign_attestation::UnixMillis;
use countersign_attestation::claims::Claims;
use countersign_attestation::protocol::HostId;
use countersign_policies::decision::{Decision, HostFacts, Standards, Terms, appraise};
use countersign_policies::instance::DenialSet;
use countersign_policies::matching::ImaTallies;
use countersign_policies::policy::{PolicySet, SHIPPED};
use countersign_policies::reference::{ReferenceManifest, ReferenceSet};
use countersign_policies::waiver::WaiverSet;

pub(crate) use crate::claims::*;

pub(crate) const TERMS: Terms = Terms { credential_ttl_ms: 300_000, lease_ms: 45_000 };

/// JSON of `tpm` for the claims above.
pub(crate) fn golden_tpm() -> serde_json::Value {
    let pcrs: serde_json::Map<_, _> =
        (0..8u8).map(|index| (index.to_string(), serde_json::json!([digest(0x10 + index).to_string()]))).collect();
    serde_json::json!({ "pcrs": { "sha256": pcrs } })
}

/// JSON of `snp` for the claims above.
pub(crate) fn golden_snp() -> serde_json::Value {
    serde_json::json!({
        "measurement": ["4d".repeat(48)],
        "host_data": ["4e".repeat(32)],
        "id_key_digest": ["4f".repeat(48)],
        "min_tcb": { "genoa": { "bootloader": 9, "tee": 0, "snp": 21, "microcode": 72 },
                     "milan": { "bootloader": 4, "tee": 0, "snp": 20, "microcode": 200 } },
    })
}

pub(crate) fn manifest(value: &serde_json::Value) -> ReferenceManifest {
    ReferenceManifest::parse(value.to_string().as_bytes()).unwrap()
}

pub(crate) fn golden_both() -> ReferenceSet {
    let both = serde_json::json!({ "id": "both", "tpm": golden_tpm(), "snp": golden_snp(), "acpi": "measured" });
    ReferenceSet::new([manifest(&both)])
}

/// JSON of `tdx` for the claims above.
pub(crate) fn golden_tdx() -> serde_json::Value {
    serde_json::json!({
        "mr_td": ["7d".repeat(48)],
        "rtmr0": ["70".repeat(48)], "rtmr1": ["71".repeat(48)], "rtmr2": ["72".repeat(48)], "rtmr3": ["00".repeat(48)],
        "min_module_svn": { "TDX_01": 5, "TDX_03": 3 },
    })
}

pub(crate) fn golden_domain() -> ReferenceSet {
    let domain = serde_json::json!({ "id": "domain", "tpm": golden_tpm(), "tdx": golden_tdx(), "acpi": "measured" });
    ReferenceSet::new([manifest(&domain)])
}

pub(crate) fn golden_tpm_only() -> ReferenceSet {
    ReferenceSet::new([manifest(&serde_json::json!({ "id": "tpm-only", "tpm": golden_tpm() }))])
}

/// Shipped policies by name, and further texts.
pub(crate) fn policies(shipped: &[&str], own: &[(&str, &str)]) -> PolicySet {
    let mut texts: Vec<(&str, &str)> = own.to_vec();
    for name in shipped {
        texts.push(*SHIPPED.iter().find(|(shipped, _)| shipped == name).unwrap());
    }
    PolicySet::parse(&texts).unwrap_or_else(|finding| panic!("{finding}"))
}

pub(crate) fn judge(claims: &Claims, references: &ReferenceSet, policy: &PolicySet) -> Decision {
    judge_at(claims, references, policy, NOW)
}

pub(crate) fn judge_at(claims: &Claims, references: &ReferenceSet, policy: &PolicySet, now: UnixMillis) -> Decision {
    let id = HostId::parse("gpu-17").unwrap();
    let labels = BTreeMap::from([("pool".to_owned(), "confidential".to_owned())]);
    let host = HostFacts { id: &id, trust_domain: "fleet.example", labels: &labels, generation: 2 };
    judge_host(claims, &host, references, policy, TERMS, now)
}

/// Without waivers and denials.
pub(crate) fn judge_host(
    claims: &Claims,
    host: &HostFacts<'_>,
    references: &ReferenceSet,
    policy: &PolicySet,
    terms: Terms,
    now: UnixMillis,
) -> Decision {
    let (waivers, denials) = (WaiverSet::new([]), DenialSet::new([]));
    let standards = Standards { references, policy, waivers: &waivers, denials: &denials };
    appraise(claims, &ImaTallies::new(), host, standards, terms, now)
}

pub(crate) fn codes(decision: &Decision) -> Vec<&'static str> {
    decision.findings().iter().map(|finding| finding.code).collect()
}
