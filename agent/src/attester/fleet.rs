//! A fleet whose broker is gone for an hour, by the attesters' own pauses.

use std::collections::BTreeMap;

use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::AttestationResponse;

use super::{Granted, Outcome, Pause, RETRY_MAX_MS};
use crate::clock::Now;
use crate::error::AgentError;
use crate::trust::Lease;

const HOSTS: usize = 1_000;
const HOUR_MS: u64 = 3_600_000;
const INTERVAL_MS: u64 = 15_000;
const LEASE_MS: u64 = 45_000;

/// splitmix64: what the operating system's numbers are in production.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn now(at: u64) -> Now {
    Now { wall: UnixMillis(1_800_000_000_000 + at), boot_ms: at }
}

fn granted(at: u64) -> Outcome {
    let lease_until = now(at).wall.plus(LEASE_MS);
    let (decision, attest_again_in_ms) = (Sha256Digest([0; 32]), INTERVAL_MS);
    let response = AttestationResponse { decision, log_index: 0, lease_until, attest_again_in_ms, credential: None };
    let lease = Lease::new(lease_until, now(at));
    Outcome::Granted(Box::new(Granted { response, lease, credential: None, workload_key: None }))
}

fn failed() -> Outcome {
    Outcome::Failed(AgentError::Grant("the broker cannot be reached"))
}

/// Attempts of a fleet by time: who, and whether it was granted.
#[derive(Default)]
struct Attempts(Vec<(u64, usize, bool)>);

impl Attempts {
    /// Most attempts within 100 ms.
    fn densest(&self, from: u64, until: u64) -> usize {
        let mut counts = BTreeMap::<u64, usize>::new();
        for (at, ..) in self.0.iter().filter(|(at, ..)| (from..until).contains(at)) {
            *counts.entry(at / 100).or_default() += 1;
        }
        counts.into_values().max().unwrap_or(0)
    }

    /// When each host was granted first from `from` on.
    fn first_grants(&self, from: u64) -> Vec<u64> {
        let mut first = [None; HOSTS];
        for (at, host, granted) in &self.0 {
            if *granted && from <= *at {
                first[*host].get_or_insert(*at);
            }
        }
        first.into_iter().map(Option::unwrap).collect()
    }
}

/// Runs a fleet until `until`, all of which attest first at 0. `serve` says when the broker answers an attempt of now
/// and whether with a grant.
fn fleet(until: u64, mut serve: impl FnMut(u64) -> (u64, bool)) -> Attempts {
    let mut random = Random(1);
    let mut pauses: Vec<Pause> = (0..HOSTS).map(|_| Pause::default()).collect();
    let mut next: BTreeMap<(u64, usize), ()> = (0..HOSTS).map(|host| ((0, host), ())).collect();
    let mut attempts = Attempts::default();
    while let Some(((at, host), ())) = next.pop_first() {
        if until <= at {
            break;
        }
        let (answered, grant) = serve(at);
        attempts.0.push((at, host, grant));
        let outcome = if grant { granted(answered) } else { failed() };
        let wait = pauses[host].after(&outcome, None, now(answered), random.next());
        next.insert((answered + wait, host), ());
    }
    attempts
}

#[test]
fn a_thousand_agents_that_lost_the_broker_for_an_hour_come_back_spread_and_at_once() {
    let back = HOUR_MS;
    let attempts = fleet(back + 120_000, |at| (at, back <= at));
    // In the hour nobody hammers, although all lost it in the same millisecond.
    let settled = attempts.densest(60_000, back);
    assert!(settled <= 160, "{settled} attempts within 100 ms while the broker is gone");
    let reconnecting = attempts.densest(back, back + RETRY_MAX_MS);
    assert!(reconnecting <= 160, "{reconnecting} attempts within 100 ms when it is back");
    let grants = attempts.first_grants(back);
    assert!(grants.iter().all(|at| *at <= back + RETRY_MAX_MS), "the last at {:?}", grants.iter().max());
    // They came together, and do not stay together: from the next attestation on the fleet is spread.
    let later = attempts.densest(back + RETRY_MAX_MS, back + 120_000);
    assert!(later <= 30, "{later} attestations within 100 ms afterwards");
}

#[test]
fn a_broker_that_is_slower_than_its_fleet_starves_nobody() {
    // One attestation at a time, 8 ms each: a thousand at once take eight seconds, and a request is given up after
    // five, while the broker still works on it.
    let (back, mut free) = (HOUR_MS, HOUR_MS);
    let attempts = fleet(back + 60_000, |at| {
        if at < back {
            return (at, false);
        }
        free = free.max(at) + 8;
        if free - at <= 5_000 { (free, true) } else { (at + 5_000, false) }
    });
    let grants = attempts.first_grants(back);
    let last = grants.iter().max().unwrap() - back;
    assert!(last < LEASE_MS / 2, "the last host is granted {last} ms after the broker is back");
}
