//! What one appraisal costs: `cargo run --release -p countersign-policies --example appraisal_cost`.

use core::hint::black_box;
use core::time::Duration;
use std::collections::BTreeMap;
use std::time::Instant;

use countersign_attestation::protocol::HostId;
use countersign_policies::decision::{HostFacts, Standards, Terms, appraise, claims_digest};
use countersign_policies::instance::DenialSet;
use countersign_policies::matching::ImaTallies;
use countersign_policies::policy::{PolicySet, SHIPPED};
use countersign_policies::reference::{ReferenceManifest, ReferenceSet};
use countersign_policies::waiver::{Accepted, WaiverSet};

#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../tests/judge/claims.rs"]
mod claims;

const ROUNDS: u32 = 2000;

fn main() -> Result<(), Box<dyn core::error::Error>> {
    let mut manifests = Vec::new();
    for wanted in 0..100u8 {
        let pcrs: Vec<String> =
            (0..8u8).map(|pcr| format!(r#""{pcr}":["{}"]"#, claims::digest(0x10 + pcr + (99 - wanted)))).collect();
        let text = format!(r#"{{"id":"m{wanted:03}","tpm":{{"pcrs":{{"sha256":{{{}}}}}}}}}"#, pcrs.join(","));
        manifests.push(ReferenceManifest::parse(text.as_bytes())?);
    }
    let references = ReferenceSet::new(manifests);
    let texts: Vec<_> = SHIPPED.iter().filter(|(name, _)| !name.starts_with("confidential-")).copied().collect();
    let policy = PolicySet::parse(&texts)?;
    let id = HostId::parse("gpu-17").ok_or("id")?;
    let labels = BTreeMap::from([("pool".to_owned(), "confidential".to_owned())]);
    let host = HostFacts { id: &id, trust_domain: "fleet.example", labels: &labels, generation: 1 };
    let terms = Terms { credential_ttl_ms: 300_000, lease_ms: 45_000 };
    for (name, claims) in [("TPM", claims::tpm_claims()), ("TPM and SEV-SNP", claims::both_claims())] {
        let tallies = ImaTallies::new();
        let (waivers, denials) = (WaiverSet::new([]), DenialSet::new([]));
        let standards = Standards { references: &references, policy: &policy, waivers: &waivers, denials: &denials };
        let decide = || appraise(&claims, &tallies, &host, standards, terms, claims::NOW);
        if decide().grant().is_none() {
            return Err(format!("{:?}", decide().findings()).into());
        }
        println!("{name}, 100 manifests, {} policy texts:", texts.len());
        println!("  appraise        {:>9.1?}", each(&decide));
        println!("  canonical bytes {:>9.1?}", each(&|| decide().canonical_bytes()).saturating_sub(each(&decide)));
        println!(
            "  matching        {:>9.1?}",
            each(&|| references.match_claims(&claims, &tallies, &Accepted::nothing(), claims::NOW))
        );
        println!("  claims digest   {:>9.1?}", each(&|| claims_digest(&claims)));
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a stopwatch")]
fn each<T>(run: &impl Fn() -> T) -> Duration {
    let start = Instant::now();
    for _ in 0..ROUNDS {
        black_box(run());
    }
    start.elapsed() / ROUNDS
}
