//! What a measurement costs: `cargo run --release -p countersign-policies --example ima_cost`.

#![expect(clippy::unwrap_used, reason = "a stopwatch")]

use core::hint::black_box;
use core::time::Duration;
use std::collections::BTreeMap;
use std::time::Instant;

use aws_lc_rs::digest;
use countersign_attestation::claims::{HexBytes, PcrHash};
use countersign_attestation::evidence::ima::{ImaState, verify};
use countersign_policies::ima::{ImaRules, ImaTally};

#[path = "../../tests/sim/ima.rs"]
mod sim;

use sim::{KernelExtends, Measured, list, replay};

const ENTRIES: u32 = 50_000;
const ROUNDS: u32 = 20;

fn main() {
    let file = |n: u32| {
        let digest = digest::digest(&digest::SHA256, &n.to_le_bytes());
        let path = format!("/usr/lib/x86_64-linux-gnu/package-{}/lib{n}.so.{}", n % 300, n % 9);
        (path, <[u8; 32]>::try_from(digest.as_ref()).unwrap())
    };
    let entries: Vec<Measured> = (0..ENTRIES).map(|n| Measured::ng(&file(n).0, &file(n).1)).collect();
    let files: BTreeMap<String, [String; 1]> =
        (0..50_000).map(file).map(|(path, digest)| (path, [format!("sha256:{}", hex::encode(digest))])).collect();
    let rules = serde_json::to_vec(&BTreeMap::from([("files", files)])).unwrap();
    let bytes = list(&entries);
    let value = replay(&entries, &digest::SHA256, KernelExtends::Own).remove(&10).unwrap();
    let quoted = BTreeMap::from([(PcrHash::Sha256, BTreeMap::from([(10, HexBytes(value))]))]);
    let start = stopwatch();
    let rules = ImaRules::parse(&rules).unwrap();
    println!("rules of 50000 files read in {:?}", start.elapsed());
    let bare = each(|| {
        let mut value = [0_u8; 64];
        for entry in &entries {
            black_box(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &entry.hashed));
            let own = digest::digest(&digest::SHA256, &entry.hashed);
            value[32..].copy_from_slice(own.as_ref());
            let next = digest::digest(&digest::SHA256, &value);
            value[..32].copy_from_slice(next.as_ref());
        }
        black_box(value);
    });
    let replayed = each(|| {
        black_box(verify(&bytes, &ImaState::start(), &quoted).unwrap());
    });
    let judged = each(|| {
        let verified = verify(&bytes, &ImaState::start(), &quoted).unwrap();
        assert_eq!(black_box(rules.tally(&verified, &ImaTally::start())).listed, u64::from(ENTRIES));
    });
    println!("bare hashing     {:>6.0} ns an entry", nanos(bare));
    println!("replay           {:>6.0} ns, {:.2} times", nanos(replayed), nanos(replayed) / nanos(bare));
    println!("replay and rules {:>6.0} ns, {:.2} times", nanos(judged), nanos(judged) / nanos(bare));
}

fn nanos(all: Duration) -> f64 {
    all.as_secs_f64() * 1e9 / f64::from(ENTRIES)
}

#[expect(clippy::disallowed_methods, reason = "a stopwatch")]
fn stopwatch() -> Instant {
    Instant::now()
}

/// The fastest of several rounds: other work on the machine only ever adds.
fn each(run: impl Fn()) -> Duration {
    let round = || {
        let start = stopwatch();
        run();
        start.elapsed()
    };
    (0..ROUNDS).map(|_| round()).min().unwrap_or_default()
}
