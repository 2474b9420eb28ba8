//! A million tracked hosts, and a change: a manifest goes that one in a hundred of them stands on, or everybody is
//! looked at under another policy.
//!
//! Every host's archived inputs are real ones, judged in full by the real verifier: one simulated machine's, under the
//! name of each host that stands on the manifest. The other hosts name those same inputs, and stand on another
//! manifest.

use core::time::Duration;

use anyhow::Context as _;
use countersign::broker::judge::Inputs;
use countersign::broker::reappraise::JUDGED_BY;
use countersign::clock::monotonic;
use countersign::config::DataDir;
use countersign::lineage::archive::Archive;
use countersign::references::Proposal;
use countersign::store::{Store, Table, Write};
use countersign::trust::grounds::Grounds;
use countersign::trust::state::{HostTrust, split_index};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::HostId;
use countersign_attestation::status_list::Status;
use countersign_policies::policy::SHIPPED;
use serde_json::json;

use crate::house::{Host, House, manifest, opened, operator};

/// Hosts.
const HOSTS: u64 = 1_000_000;
/// One in so many stands on the manifest that goes.
const ONE_IN: u64 = 100;
/// Records that become durable at a time.
const AT_A_TIME: u64 = 4000;

/// Everything measured here.
pub(crate) struct Retirement {
    /// Hosts that stand on the manifest, each of which was revoked.
    pub(crate) touched: u64,
    /// From the question to the preview of the retirement.
    pub(crate) preview: Duration,
    /// From the order to the pulse that has the last of them.
    pub(crate) in_pulse: Duration,
    /// From the question to the preview of other policies, for all hosts.
    pub(crate) everyone: Duration,
    /// How often that told of its progress.
    pub(crate) reports: u64,
    /// Resident memory at the end.
    pub(crate) bytes: u64,
}

pub(crate) async fn measure() -> anyhow::Result<Retirement> {
    let mut house = House::new();
    let mut host = Host::enrolled(&house, "gpu-x").await;
    let other = json!({ "id": "staying", "tpm": { "pcrs": { "sha256": { "0": ["ab".repeat(32)] } } } });
    for manifest in [manifest(&host, &json!({ "id": "retiring" })), other] {
        house.register_reference(&manifest).await.map_err(refused)?;
    }
    host.attest(&house).await.map_err(|code| anyhow::anyhow!(code))?;
    let record = house.broker().trust.host(&host.id).map_err(refused)?.context("the host's record")?;
    let judged_by = serde_json::to_vec(&house.broker().references.current().digests)?;
    let clock = house.clock.clone();
    let mut filled = Ok(());
    house.restart_after(|data| filled = fill(data, &opened(data, &clock), &record, &judged_by));
    filled?;
    let broker = house.broker();

    let started = monotonic();
    let proposal = Proposal::WithdrawReference("retiring".to_owned());
    let previewed = tokio::task::block_in_place(|| broker.what_if(proposal, &|_, _| {})).map_err(refused)?;
    let preview = started.elapsed();

    let texts = SHIPPED.iter().filter(|(name, _)| matches!(*name, "baseline" | "simulated"));
    let texts = texts.map(|(name, text)| ((*name).to_owned(), format!("{text}\n// anew\n"))).collect();
    let reports = std::sync::atomic::AtomicU64::new(0);
    let started = monotonic();
    let counted = |_, _| {
        reports.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    };
    let all = tokio::task::block_in_place(|| broker.what_if(Proposal::ActivatePolicies(texts), &counted));
    let all = all.map_err(refused)?;
    let everyone = started.elapsed();
    // The machine itself, and a million of its name.
    anyhow::ensure!(all.unaffected == HOSTS + 1, "{all:?}");

    let mut pulses = broker.pulse.watch();
    let started = monotonic();
    let revoked = broker.withdraw_reference(&operator(), "retiring", previewed.change).await.map_err(refused)?;
    let (list, within) = split_index(HOSTS - ONE_IN);
    let list = usize::try_from(list)?;
    while pulses.borrow_and_update().as_ref().and_then(|newest| newest.lists.get(list)?.list.get(within).ok())
        != Some(Status::Invalid)
    {
        pulses.changed().await?;
    }
    let in_pulse = started.elapsed();
    anyhow::ensure!(revoked == HOSTS / ONE_IN + 1, "{revoked} revoked");
    let reports = reports.into_inner();
    Ok(Retirement { touched: revoked, preview, in_pulse, everyone, reports, bytes: crate::memory::resident()? })
}

fn refused(problem: countersign::problem::Problem) -> anyhow::Error {
    anyhow::anyhow!("{problem}")
}

/// A fleet after one attestation of each host, as the store and the archive hold it.
fn fill(data: &DataDir, store: &Store, record: &HostTrust, judged_by: &[u8]) -> anyhow::Result<()> {
    let archive = Archive::open(&data.archive())?;
    let inputs = archive.get(record.inputs.context("the host's inputs")?)?;
    let inputs: Inputs = serde_json::from_slice(&inputs)?;
    let mut named: Vec<Sha256Digest> = Vec::new();
    for first in (0..HOSTS).step_by(usize::try_from(AT_A_TIME)?) {
        let mut writes = Vec::new();
        for number in first..first + AT_A_TIME {
            let id = HostId::parse(&format!("gpu-{number:07}")).context("a host id")?;
            let retiring = number % ONE_IN == 0;
            if retiring {
                let inputs = Inputs { host: id.clone(), ..inputs.clone() };
                named.push(archive.put(&serde_json::to_vec(&inputs)?)?);
            }
            let manifest = if retiring { "retiring" } else { "staying" }.to_owned();
            let host = HostTrust {
                inputs: named.last().copied(),
                status_index: Some(number),
                grounds: Some(Grounds { manifest, waivers: Vec::new() }),
                ..record.clone()
            };
            writes.push(Write::put(Table::Trust, id.as_str(), serde_json::to_vec(&host)?));
        }
        store.commit(&writes)?;
    }
    store.commit(&[Write::put(Table::Meta, JUDGED_BY, judged_by.to_vec())])?;
    Ok(())
}
