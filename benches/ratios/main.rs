//! What the broker costs beside what its cryptography alone costs, in one run on one machine: `make bench`.
//!
//! Both sides of a ratio are measured in alternating blocks of thread CPU time and compared block by block, so that
//! what else the machine does falls on both. Nothing here fails for being slow; it is read, not asserted.
//! With the argument `retire`, only what a change costs a fleet of a million.

mod authorize;
mod engine;
mod fleet;
mod gate;
#[expect(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the tests use the rest, and end where one cannot go on"
)]
#[path = "../../tests/broker/house.rs"]
mod house;
mod issue;
mod lists;
#[expect(dead_code, clippy::unwrap_used, clippy::indexing_slicing, reason = "likewise")]
#[path = "../../tests/broker/measured.rs"]
mod measured;
mod memory;
mod pulses;
mod retire;
#[path = "../../tests/sim/amd.rs"]
mod sim_amd;
#[path = "../../tests/sim/issuer.rs"]
mod sim_issuer;
#[path = "../../tests/sim/logs.rs"]
mod sim_logs;
#[path = "../../tests/sim/tpm.rs"]
mod sim_tpm;

use sim_amd as amd;
use sim_tpm as tpm;

use engine::{Ratio, Verification};
use fleet::{Fleet, Load};

/// Attestations of one measurement.
const ATTESTATIONS: u32 = 2000;
/// Handshakes of one measurement.
const HANDSHAKES: u32 = 300;

fn main() -> anyhow::Result<()> {
    println!("{}", machine());
    println!();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if std::env::args().any(|argument| argument == "retire") {
        return ended(runtime, retired());
    }
    let costs = engine::measure()?;
    println!("verification, warm                         ours        raw    ratio   aim");
    row("SNP report / ECDSA P-384", costs.snp, "<= 1.05");
    row("TPM quote, 24 PCRs / RSA-2048", costs.quote_rsa, "<= 1.15");
    row("TPM quote, 24 PCRs / ECDSA P-256", costs.quote_p256, "<= 1.05");
    let lists = lists::measure()?;
    row("event log, 200 events / two banks", lists.replayed, "<= 2");
    row("event log with claims / one bank", lists.verified, "<= 2");
    row("IMA, 50,000 entries, allow-list", lists.ima, "<= 1.3");
    row("IMA, 10 new entries of 50,000", lists.ima_new, "");
    row("gate, 20 policies / P-256 verified", authorize::measure()?, "<= 1");
    row("certificate / P-256 signature and encoding", issue::measure()?, "<= 2");
    println!("one P-256 signature {:31.1} us", micros(costs.sign));
    println!();
    let gate = gate::measure()?;
    println!(
        "gate decision, 100,000 statuses loaded, 20,000 callers: seen before   p50 {:5.1} us   p99 {:5.1} us   <= 20 us",
        micros(gate.p50),
        micros(gate.p99)
    );
    println!("  a caller's first: chain and dates as well {:32.1} us", micros(gate.first));
    let million = memory::million()?;
    let mib = million.bytes / (1024 * 1024);
    println!("1,000,000 tracked hosts: {mib} MiB   <= 300 MiB   ({} MiB in the store)", million.stored >> 20);
    println!(
        "  lookup {:.2} us   <= 1 us   (a whole record, from the store {:.1} us)",
        micros(million.lookup),
        micros(million.record)
    );
    println!(
        "  the {} whose lease ends in a second {:.0} us   <= 500 us   (with what their entries name {:.0} us)",
        million.due_hosts,
        micros(million.due),
        micros(million.due_rows)
    );
    println!();
    runtime.block_on(broker(&costs))?;
    println!();
    ended(runtime, retired())
}

/// Runs a measurement whose broker is in this process: its tasks are not waited for.
fn ended(runtime: tokio::runtime::Runtime, run: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let result = runtime.block_on(run);
    runtime.shutdown_background();
    result
}

async fn retired() -> anyhow::Result<()> {
    let all = retire::measure().await?;
    println!("1,000,000 hosts, each judged from real archived inputs, {} MiB resident at the end", all.bytes >> 20);
    println!("  a manifest goes that {} stand on: preview {:.2} s", all.touched, all.preview.as_secs_f64());
    println!("  judged, revoked, recorded and in the pulse {:.2} s   < 2 s", all.in_pulse.as_secs_f64());
    println!("  what if, of all: {:.1} s   < 30 s   ({} reports of progress)", all.everyone.as_secs_f64(), all.reports);
    Ok(())
}

async fn broker(costs: &engine::Costs) -> anyhow::Result<()> {
    let mut fleet = Fleet::start().await?;
    println!("broker CPU of one attestation: challenge and attestation request, TLS 1.3 keep-alive, durable log");
    println!("  (of it: the attestation request alone; share: verification and, where one is issued, signature)");
    println!("                                             CPU    attest   share   aim      1/s     p50     p99");
    let tpm = costs.tpm_rsa;
    let snp = costs.tpm_rsa.checked_add(costs.snp.ours).unwrap_or_default();
    for (name, is_snp, aim, verification) in
        [("TPM RSA-2048", false, ">= 30 %", tpm), ("TPM RSA-2048 and SNP", true, ">= 60 %", snp)]
    {
        let challenges = fleet.challenges(is_snp, ATTESTATIONS).await?;
        let renewal = fleet.attest(is_snp, ATTESTATIONS, false).await?;
        load(&format!("{name}, lease renewed"), &renewal, &challenges, verification, "");
        let issued = fleet.attest(is_snp, ATTESTATIONS, true).await?;
        let with_signature = verification.saturating_add(costs.sign);
        load(&format!("{name}, credential issued"), &issued, &challenges, with_signature, aim);
        let aimed = 100.0 * with_signature.as_secs_f64() / renewal.cpu().as_secs_f64();
        println!("  {:38} {aimed:24.0} %   {aim}", "renewal, counting one signature");
    }
    println!();
    let last = pulses::gates(&mut fleet).await?;
    println!("revocation to the last of 100 gates      {}   p99 < 100 ms", spread(&last));
    let last = pulses::subscribers(&mut fleet).await?;
    println!("  to the last of {} of one relay      {}   < 500 ms", pulses::SUBSCRIBERS, spread(&last));
    let handshake = fleet.handshakes(HANDSHAKES).await?;
    let of_snp = handshake.cpu().as_secs_f64() / costs.snp.ours.as_secs_f64();
    println!();
    println!("fresh mTLS handshake {:30.1} us = {of_snp:.2} SNP report verifications", micros(handshake.cpu()));
    Ok(())
}

fn row(name: &str, ratio: Ratio, aim: &str) {
    let Ratio { ours, raw, ratio } = ratio;
    println!("{name:36} {:8.1} us {:7.1} us {ratio:8.3}   {aim}", micros(ours), micros(raw));
}

fn load(name: &str, load: &Load, challenges: &Load, useful: Verification, aim: &str) {
    let cpu = load.cpu();
    let alone = cpu.saturating_sub(challenges.cpu());
    let share = 100.0 * useful.as_secs_f64() / cpu.as_secs_f64();
    let (p50, p99) = (micros(load.quantile(50)), micros(load.quantile(99)));
    let rate = load.per_second();
    println!(
        "{name:38} {:7.1} us {:5.1} us {share:5.0} %   {aim:8} {rate:4.0} {p50:5.0} us {p99:5.0} us",
        micros(cpu),
        micros(alone)
    );
}

fn spread(last: &pulses::Last) -> String {
    let shown = |percent| format!("{:.1} ms", last.quantile(percent).as_secs_f64() * 1000.0);
    format!("p50 {}   p90 {}   p99 {}", shown(50), shown(90), shown(99))
}

fn micros(time: core::time::Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The processor and how busy it is: a figure without its machine says nothing.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model).to_owned();
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    format!("{model}, {count} processors, load {}", load.split(' ').take(3).collect::<Vec<_>>().join(" "))
}
