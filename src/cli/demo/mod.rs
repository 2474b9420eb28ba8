//! `countersign demo`: the main job, end to end, on one machine: a host attests, gets a credential, drifts, and is
//! denied. Every part is the real one; where hardware is missing, a software TPM speaks its bytes and says so.

pub(in crate::cli) mod firmware;
mod snp;
pub(in crate::cli) mod stage;
mod story;
pub(in crate::cli) mod swtpm;

use std::path::PathBuf;
use std::time::Duration;

use crate::clock::monotonic;

/// Show the main job end to end.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Leave everything running, and say how to look at it.
    #[arg(long)]
    keep: bool,
    /// Folder to work in, absent or empty [default: a new one under the system's temporary folder].
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Runs the demo; tells whether everything was as told.
///
/// # Errors
/// The first step that was not as told, and why.
pub fn run(args: &DemoArgs) -> anyhow::Result<bool> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("countersign-demo-{}", std::process::id())),
    };
    crate::config::create_private_dir(&dir)?;
    let dir = dir.canonicalize()?;
    let started = monotonic();
    let mut narrator = Narrator::default();
    let ended = story::tell(&dir, &mut narrator).and_then(|stage| {
        snp::tell(&mut narrator)?;
        Ok(stage)
    });
    let mut stage = match ended {
        Ok(stage) => stage,
        Err(error) => {
            eprintln!("\nNot as told: {error:#}\nThe logs are in {}", dir.display());
            return Ok(false);
        }
    };
    println!("\nEverything was as told, in {:.1} s.", started.elapsed().as_secs_f64());
    narrator.summary();
    if args.keep {
        stage.keep();
    } else {
        drop(stage);
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(true)
}

/// Prints the story, and remembers what was measured.
#[derive(Debug, Default)]
struct Narrator {
    step: u32,
    measured: Vec<(String, Duration)>,
}

impl Narrator {
    /// A new step.
    fn step(&mut self, title: &str) {
        self.step = self.step.saturating_add(1);
        println!("\n{:>2}. {title}", self.step);
    }

    /// Something to see.
    fn show(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("      {line}");
        }
    }

    /// Something measured.
    fn measured(&mut self, what: &str, took: Duration) {
        println!("      {:>8.1} ms  {what}", took.as_secs_f64() * 1000.0);
        self.measured.push((what.to_owned(), took));
    }

    fn summary(&self) {
        for (what, took) in &self.measured {
            println!("{:>10.1} ms  {what}", took.as_secs_f64() * 1000.0);
        }
    }
}
