//! What a million tracked hosts take, and what it takes to find one, and those whose lease ends in the next second.

use core::hint::black_box;
use core::time::Duration;

use anyhow::Context as _;
use countersign::clock::monotonic;
use countersign::trust::state::{HostTrust, TrustState};
use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::{CredentialRecord, DecisionRecord, Entry};
use countersign_attestation::protocol::HostId;

/// Hosts.
const HOSTS: u64 = 1_000_000;
/// The lease, over which their ends are spread.
const LEASE_MS: u64 = 45_000;
const START: UnixMillis = UnixMillis(1_795_392_000_000);

/// Everything measured here.
pub(crate) struct Million {
    /// Resident memory that came with the hosts.
    pub(crate) bytes: u64,
    /// One lookup.
    pub(crate) lookup: Duration,
    /// Picking the hosts whose lease ends within one second.
    pub(crate) due: Duration,
    /// How many those are.
    pub(crate) due_hosts: usize,
}

pub(crate) fn million() -> anyhow::Result<Million> {
    let before = resident()?;
    let mut state = TrustState::default();
    for number in 0..HOSTS {
        grant(&mut state, number)?;
    }
    drop(state.take_changed());
    let bytes = resident()?.saturating_sub(before);
    let asked: Vec<HostId> = (0..10_000).map(|step| id(step * 7919 % HOSTS)).collect::<Result<_, _>>()?;
    let started = monotonic();
    for id in &asked {
        black_box(state.host(id));
    }
    let lookup = started.elapsed() / 10_000;
    let started = monotonic();
    let due = black_box(state.due(START.plus(LEASE_MS + 1000), 2 * LEASE_MS));
    Ok(Million { bytes, lookup, due: started.elapsed(), due_hosts: due.len() })
}

fn id(number: u64) -> anyhow::Result<HostId> {
    HostId::parse(&format!("gpu-{number:07}")).context("a host id")
}

fn grant(state: &mut TrustState, number: u64) -> anyhow::Result<()> {
    let host = id(number)?;
    let digest = |tag: u8| Sha256Digest::of(&[&[tag], &number.to_be_bytes()]);
    let entry = number * 3;
    let on = |state: &TrustState| state.host(&host).map_or_else(HostTrust::new, Clone::clone).revision_of(host.clone());
    state.apply(entry, &Entry::host_registered(START, host.clone(), "operator", digest(0)));
    state.apply(entry + 1, &Entry::enrolled(START, on(state), digest(1)));
    let decision =
        DecisionRecord { inputs: Some(digest(2)), claims: Some(digest(3)), decision: digest(4), reasons: Vec::new() };
    let credential = CredentialRecord {
        serial: vec![7; 16],
        key: digest(5),
        status_index: number,
        not_after: START.plus(300_000),
        workload: None,
    };
    let until = START.plus(LEASE_MS + number % LEASE_MS);
    state.apply(entry + 2, &Entry::granted(START, on(state), decision, until, Some(credential)));
    Ok(())
}

/// VmRSS (proc(5)).
fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib.saturating_mul(1024))
}
