//! `countersign chaos`: a test deployment of the real binaries on this machine, broken in every way that is promised to
//! end in denial. For each fault: how soon the gate denies, beside the bound, and whatever it accepted after that.

mod deployment;
mod fault;
mod wire;

use core::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::cli::Output;
use crate::clock::monotonic;

use deployment::Deployment;
use fault::{FAULTS, Fault, Injected};

/// How often the gate is asked.
const POLL: Duration = Duration::from_millis(5);
/// How long the gate is watched beyond the bound, for what it must not accept.
const BEYOND: Duration = Duration::from_millis(1500);
/// A deployment that is whole again is trusted again within this time.
const RECOVERY: Duration = Duration::from_secs(30);

/// Break a test deployment and measure.
#[derive(Debug, clap::Args)]
pub struct ChaosArgs {
    /// Inject only the fault with this name; may be given more than once.
    #[arg(long = "fault", value_name = "NAME")]
    faults: Vec<String>,
    /// Folder to work in, absent or empty [default: a new one under the system's temporary folder].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// What one fault came to.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    fault: &'static str,
    /// What is promised: the fault's own delay and W.
    bound_ms: u64,
    /// From the injection to the first denial; none where the gate did not deny.
    denied_ms: Option<u64>,
    /// Requests accepted later than the bound, and old credentials that came back.
    wrongly_accepted: u32,
    /// From the mending to the first request that is accepted again.
    recovered_ms: Option<u64>,
    /// Why it was not injected.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
    /// What else is to be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl Measured {
    fn is_as_promised(&self) -> bool {
        let in_time = self.denied_ms.is_some_and(|denied| denied <= self.bound_ms) || self.note.is_some();
        self.skipped.is_some() || (in_time && self.wrongly_accepted == 0 && self.recovered_ms.is_some())
    }
}

impl Measured {
    fn remark(&self) -> String {
        match (&self.skipped, &self.note, self.is_as_promised()) {
            (Some(why), _, _) => format!("skipped: {why}"),
            (None, Some(note), true) => note.clone(),
            (None, None, true) => "as promised".to_owned(),
            (None, _, false) => "NOT AS PROMISED".to_owned(),
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "denied after {}, trusted again after {}: ", after(self.denied_ms), after(self.recovered_ms))?;
        f.write_str(&self.remark())
    }
}

fn after(time: Option<u64>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{time} ms"))
}

/// Injects the faults one after the other; tells whether each ended as promised.
///
/// # Errors
/// The deployment does not come up, or does not come back.
pub fn run(args: &ChaosArgs) -> anyhow::Result<bool> {
    if let Some(unknown) = args.faults.iter().find(|name| !FAULTS.iter().any(|fault| fault.name == name.as_str())) {
        let names: Vec<_> = FAULTS.iter().map(|fault| fault.name).collect();
        anyhow::bail!("there is no fault {unknown}; expected one of {}", names.join(", "));
    }
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("countersign-chaos-{}", std::process::id())),
    };
    crate::config::create_private_dir(&dir)?;
    let mut deployment = Deployment::start(&dir.canonicalize()?)?;
    let mut all = Vec::new();
    for fault in
        FAULTS.iter().filter(|fault| args.faults.is_empty() || args.faults.iter().any(|name| name == fault.name))
    {
        eprintln!("{}", fault.about);
        let measured = measure(fault, &mut deployment)?;
        eprintln!("    {measured}");
        all.push(measured);
    }
    print(&all, args.output)?;
    drop(deployment);
    std::fs::remove_dir_all(&dir)?;
    Ok(all.iter().all(Measured::is_as_promised))
}

fn measure(fault: &Fault, deployment: &mut Deployment) -> anyhow::Result<Measured> {
    let (bound, name) = ((fault.bound)(deployment), fault.name);
    let mut measured = Measured {
        fault: name,
        bound_ms: milliseconds(bound),
        denied_ms: None,
        wrongly_accepted: 0,
        recovered_ms: None,
        skipped: None,
        note: None,
    };
    deployment.wait_until_accepted(RECOVERY)?;
    let held = deployment.certificate()?;
    let started = monotonic();
    match (fault.inject)(deployment)? {
        Injected::Now => {}
        Injected::Skipped(why) => return Ok(Measured { skipped: Some(why), ..measured }),
        Injected::Refused(why) => measured.note = Some(why),
    }
    let until = bound.saturating_add(BEYOND);
    while started.elapsed() < until {
        let asked = started.elapsed();
        let accepted = deployment.accepts(&held)?;
        let elapsed = started.elapsed();
        if !accepted && measured.denied_ms.is_none() {
            measured.denied_ms = Some(milliseconds(elapsed));
        }
        // What was decided in time may be heard late on a busy machine: the question's beginning counts.
        if accepted && bound < asked && measured.note.is_none() {
            measured.wrongly_accepted = measured.wrongly_accepted.saturating_add(1);
        }
        std::thread::sleep(POLL);
    }
    let started = monotonic();
    (fault.mend)(deployment)?;
    deployment.wait_until_accepted(RECOVERY)?;
    measured.recovered_ms = Some(milliseconds(started.elapsed()));
    // A credential of before a revocation stays dead, whatever came after.
    if fault.revokes && deployment.accepts(&held)? {
        measured.wrongly_accepted = measured.wrongly_accepted.saturating_add(1);
    }
    Ok(measured)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn print(all: &[Measured], output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        println!("{}", serde_json::to_string_pretty(all)?);
        return Ok(());
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["FAULT", "DENIED AFTER", "BOUND", "WRONGLY ACCEPTED", "TRUSTED AGAIN AFTER", ""]);
    for measured in all {
        table.add_row([
            measured.fault.to_owned(),
            after(measured.denied_ms),
            format!("{} ms", measured.bound_ms),
            measured.wrongly_accepted.to_string(),
            after(measured.recovered_ms),
            measured.remark(),
        ]);
    }
    println!("{table}");
    Ok(())
}
