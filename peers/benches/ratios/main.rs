//! What we cost beside bare signature checks, and beside other verifiers of the same evidence, in one run on one
//! machine: `make bench`. Nothing here fails for being slow; it is read, not asserted.

#[path = "../../../tests/sim/intel.rs"]
mod sim_intel;
mod tdx;

use std::time::Duration;

use countersign_peers::ratio::Ratio;

fn main() -> anyhow::Result<()> {
    println!("peers                                      ours      other    ratio   aim");
    tdx::measure()
}

/// One line: what we cost by what the other does.
fn row(name: &str, ratio: Ratio, aim: &str) {
    println!("{name:36} {:8.1} us {:8.1} us {:8.3}   {aim}", micros(ratio.one), micros(ratio.other), ratio.ratio);
}

/// One line: how many times faster we are.
fn faster(name: &str, ratio: Ratio, aim: &str) {
    let times = 1.0 / ratio.ratio;
    println!("{name:36} {:8.1} us {:8.1} us {times:7.1}x   {aim}", micros(ratio.one), micros(ratio.other));
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
