//! A gate's decision in process, with the status of a hundred thousand credentials loaded.

use core::hint::black_box;
use core::time::Duration;

use anyhow::{Context as _, bail};
use countersign::clock::monotonic;
use countersign_attestation::UnixMillis;
use countersign_attestation::pulse::{ListDigest, Pulse};
use countersign_attestation::result::svid::{CredentialExtension, KeyProtection};
use countersign_attestation::status_list::{ENTRIES, Status, StatusList};
use countersign_clock::{ClockSync, Keeper};
use countersign_gate::clock::{Clock as _, Moment, SystemClock};
use countersign_gate::decide::{Decision, Trust};
use countersign_gate::state::GateState;

use crate::fleet::quantile;
use crate::sim_issuer::{Issuer, Order, extension};

/// Credentials whose status is loaded, and those that call.
const LOADED: u64 = 100_000;
const CALLERS: u64 = 20_000;
const DECISIONS: usize = 200_000;

/// One decision about a caller that was seen before, and about one that was not.
pub(crate) struct Decisions {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) first: Duration,
}

pub(crate) fn measure() -> anyhow::Result<Decisions> {
    let issuer = Issuer::new("bench.example");
    let trust = Trust {
        trust_domain: issuer.trust_domain.clone(),
        roots: vec![issuer.authority.der()],
        keys: KeyProtection::Tpm,
    };
    let gate = GateState::new(trust, issuer.keys());
    let clock = SystemClock::new(Keeper::new(ClockSync::Asserted, 100));
    let moment = clock.now();
    let per_list = u64::try_from(ENTRIES)?;
    let mut lists = vec![StatusList::new(); usize::try_from(LOADED.div_ceil(per_list))?];
    for index in 0..LOADED {
        let list = lists.get_mut(usize::try_from(index / per_list)?).context("a list")?;
        list.set(index % per_list, Status::Valid).map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    let chains: Vec<Vec<Vec<u8>>> = (0..CALLERS)
        .map(|index| {
            // Over all lists.
            let index = index * (LOADED / CALLERS);
            let said = extension(index % per_list);
            let said = CredentialExtension { status_list: index / per_list, ..said };
            let order = Order::new("bench.example", &format!("gpu-{index}"), &said, moment.wall);
            vec![issuer.authority.issue(&order).der]
        })
        .collect();
    let said = |gate: &GateState, now: Moment, seq: u64| -> anyhow::Result<()> {
        for list in &lists {
            gate.offer_list(&issuer.list_token(list, now.wall), now).map_err(|error| anyhow::anyhow!("{error}"))?;
        }
        let first = lists.first().context("a list")?;
        let digest = |(n, list): (usize, &StatusList)| -> anyhow::Result<ListDigest> {
            Ok(ListDigest { n: u64::try_from(n)?, size: u64::try_from(list.size())?, sha256: list.sha256() })
        };
        let named = lists.iter().enumerate().map(digest).collect::<Result<_, _>>()?;
        let pulse = issuer.pulse_token(&Pulse { lists: named, ..issuer.pulse(seq, now.wall, first) });
        gate.offer_pulse(&pulse, now).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(())
    };
    said(&gate, clock.now(), 1)?;
    let now = clock.now();
    let started = monotonic();
    for chain in &chains {
        if !matches!(gate.decide(chain, now), Decision::Allow(_)) {
            bail!("a caller is denied");
        }
    }
    let first = started.elapsed() / u32::try_from(chains.len())?;
    let mut times = Vec::with_capacity(DECISIONS);
    for step in 0..DECISIONS {
        let chain = chains.get(step * 7919 % chains.len()).context("a chain")?;
        let started = monotonic();
        black_box(gate.decide(chain, now));
        times.push(started.elapsed());
    }
    times.sort_unstable();
    let _at: UnixMillis = now.wall;
    Ok(Decisions { p50: quantile(&times, 50), p99: quantile(&times, 99), first })
}
