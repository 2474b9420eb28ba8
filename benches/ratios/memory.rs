//! What a million tracked hosts take of the broker's memory, and what it takes to find one, and those whose lease ends
//! in the next second.

use core::hint::black_box;
use core::time::Duration;

use anyhow::Context as _;
use countersign::broker::instances::Instances;
use countersign::clock::{Clock, monotonic};
use countersign::store::{Store, Table, Write};
use countersign::trust::Trust;
use countersign::trust::hosts::{Enrolled, Host, Hosts, unknown_tpm};
use countersign::trust::state::HostTrust;
use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::Assurance;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::{CredentialRecord, DecisionRecord, Entry};
use countersign_attestation::protocol::{Base64Bytes, HostId};

/// Hosts.
const HOSTS: u64 = 1_000_000;
/// How many become durable at a time.
const AT_A_TIME: u64 = 4000;
/// The lease, over which their ends are spread.
const LEASE_MS: u64 = 45_000;
const START: UnixMillis = UnixMillis(1_795_392_000_000);

/// Everything measured here.
pub(crate) struct Million {
    /// Resident memory that came with the hosts: identities, trust, instances, status lists, the store's pages.
    pub(crate) bytes: u64,
    /// Bytes of the store's file.
    pub(crate) stored: u64,
    /// Where one host stands.
    pub(crate) lookup: Duration,
    /// One host's whole record, from the store.
    pub(crate) record: Duration,
    /// Picking the hosts whose lease ends within one second.
    pub(crate) due: Duration,
    /// Likewise, with what the entries that record it name.
    pub(crate) due_rows: Duration,
    /// How many those are.
    pub(crate) due_hosts: usize,
}

pub(crate) fn million() -> anyhow::Result<Million> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("store");
    let before = resident()?;
    let store = Store::open(&path, Clock::manual(START))?;
    let trust = Trust::restore(&store, |_| Ok(None))?;
    let instances = Instances::default();
    for first in (0..HOSTS).step_by(usize::try_from(AT_A_TIME)?) {
        let mut writes = Vec::new();
        for number in first..first + AT_A_TIME {
            let host = enrolled(number)?;
            writes.push(Write::put(Table::Hosts, host.id.as_str(), serde_json::to_vec(&host)?));
            grant(&trust, &instances, number)?;
        }
        writes.extend(problem(trust.snapshot())?.writes);
        store.commit(&writes)?;
        problem(trust.committed())?;
    }
    let hosts = Hosts::load(store).map_err(|error| anyhow::anyhow!(error))?;
    let bytes = resident()?.saturating_sub(before);
    let asked: Vec<HostId> = (0..10_000).map(|step| id(step * 7919 % HOSTS)).collect::<Result<_, _>>()?;
    let started = monotonic();
    for id in &asked {
        black_box(problem(trust.standings(|standings| standings.get(id).map(|row| row.standing)))?);
    }
    let lookup = started.elapsed() / 10_000;
    let started = monotonic();
    for id in &asked {
        black_box(problem(trust.host(id))?);
    }
    let record = started.elapsed() / 10_000;
    anyhow::ensure!(problem(hosts.find(&id(7)?))?.id == id(7)?);
    let (now, longest) = (START.plus(LEASE_MS + 1000), START.plus(4 * LEASE_MS));
    let started = monotonic();
    let picked = problem(trust.standings(|standings| black_box(standings.due(now, longest))))?;
    let due = started.elapsed();
    let started = monotonic();
    let rows = black_box(problem(trust.due(now, 4 * LEASE_MS))?);
    let due_rows = started.elapsed();
    anyhow::ensure!(rows.len() == picked.len());
    let stored = std::fs::metadata(&path)?.len();
    Ok(Million { bytes, stored, lookup, record, due, due_rows, due_hosts: picked.len() })
}

fn problem<T>(result: Result<T, countersign::problem::Problem>) -> anyhow::Result<T> {
    result.map_err(|problem| anyhow::anyhow!("{problem}"))
}

fn id(number: u64) -> anyhow::Result<HostId> {
    HostId::parse(&format!("gpu-{number:07}")).context("a host id")
}

fn digest(tag: u8, number: u64) -> Sha256Digest {
    Sha256Digest::of(&[&[tag], &number.to_be_bytes()])
}

fn enrolled(number: u64) -> anyhow::Result<Host> {
    let enrolled = Enrolled {
        ak_public: Base64Bytes(vec![7; 90]),
        assurance: Assurance::Simulated,
        identity: unknown_tpm(),
        path: Some(digest(6, number)),
        endorsed_by: countersign::trust::hosts::EndorsedBy::EndorsementKey,
        channel_key: digest(7, number),
        at: START,
    };
    Ok(Host {
        id: id(number)?,
        ek_sha256: digest(8, number),
        labels: [("rack".to_owned(), format!("r{}", number % 1000))].into(),
        registered_at: START,
        registered_by: "operator".to_owned(),
        enrolled: Some(enrolled),
    })
}

fn grant(trust: &Trust, instances: &Instances, number: u64) -> anyhow::Result<()> {
    let host = id(number)?;
    let digest = |tag: u8| digest(tag, number);
    let entry = number * 3;
    let on = || -> anyhow::Result<_> {
        Ok(problem(trust.host(&host))?.unwrap_or_else(HostTrust::new).revision_of(host.clone()))
    };
    trust.apply(entry, &Entry::host_registered(START, host.clone(), "operator", digest(0)));
    trust.apply(entry + 1, &Entry::enrolled(START, on()?, digest(1)));
    let until = START.plus(LEASE_MS + number % LEASE_MS);
    let claimed = trust.standings(|standings| instances.claim(&[digest(9)], &host, until, START, standings));
    anyhow::ensure!(problem(claimed)?.is_ok(), "an instance of another host");
    let decision =
        DecisionRecord { inputs: Some(digest(2)), claims: Some(digest(3)), decision: digest(4), reasons: Vec::new() };
    let credential = CredentialRecord {
        serial: vec![7; 16],
        key: digest(5),
        status_index: number,
        not_after: START.plus(300_000),
        workload: None,
    };
    trust.apply(entry + 2, &Entry::granted(START, on()?, decision, until, Some(credential)));
    Ok(())
}

/// VmRSS (proc(5)).
pub(crate) fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib.saturating_mul(1024))
}
