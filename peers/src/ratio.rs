//! What something costs beside something else, in one run on one machine: alternating blocks of thread CPU time,
//! compared block by block, so that what else the machine does falls on both.

use core::hint::black_box;
use core::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Two median costs, and the median of what one is to the other.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// The first one's.
    pub one: Duration,
    /// The second one's.
    pub other: Duration,
    /// First by second.
    pub ratio: f64,
}

/// Runs both `size` times in each of `blocks` blocks. Neither may fail.
pub fn compare(
    blocks: usize,
    size: u32,
    one: &dyn Fn() -> anyhow::Result<()>,
    other: &dyn Fn() -> anyhow::Result<()>,
) -> anyhow::Result<Ratio> {
    let (mut ones, mut others, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..blocks {
        // Whoever goes first finds colder caches; each does it every other time.
        let (first, second) = if round % 2 == 0 {
            let first = block(size, one)?;
            (first, block(size, other)?)
        } else {
            let second = block(size, other)?;
            (block(size, one)?, second)
        };
        ones.push(first);
        others.push(second);
        ratios.push(first.as_secs_f64() / second.as_secs_f64());
    }
    ones.sort_unstable();
    others.sort_unstable();
    ratios.sort_unstable_by(f64::total_cmp);
    let middle = blocks / 2;
    Ok(Ratio { one: ones[middle], other: others[middle], ratio: ratios[middle] })
}

fn block(size: u32, run: &dyn Fn() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let start = thread_cpu()?;
    for _ in 0..size {
        black_box(run())?;
    }
    Ok(thread_cpu()?.saturating_sub(start) / size)
}

fn thread_cpu() -> anyhow::Result<Duration> {
    Ok(Duration::try_from(clock_gettime(ClockId::ThreadCPUTime))?)
}
