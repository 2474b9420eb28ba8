//! `countersign log` and `countersign replay`: what an auditor runs, offline, on a broker's data directory or a copy.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::checkpoint::{Checkpoint, NoteKey};
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::lineage::proof::Proof;
use countersign_attestation::lineage::tree::{inclusion_proof, leaf_hash};
use countersign_policies::decision::Decision;

use crate::broker::decision_bundle::{BUNDLE_BYTES_MAX, DecisionBundle, Proven};
use crate::broker::judge::{Inputs, judge};
use crate::cli::Output;
use crate::cli::log_search::{self, Search, Tail};
use crate::collateral::anchors::{read_certificates, shipped_digests};
use crate::config::{DataDir, read_bounded, write_new};
use crate::lineage::archive::Archive;
use crate::lineage::audit;
use crate::references::Governance;

/// Check the lineage log offline, or show an entry.
#[derive(Debug, clap::Subcommand)]
pub enum LogCommand {
    /// Checks a whole log: every entry, the tree, the signed checkpoint, and that each host's story is one.
    Verify {
        /// Data directory of the broker, or a copy of it.
        #[arg(long, env = "COUNTERSIGN_DATA_DIR", default_value = "countersign-data")]
        data_dir: PathBuf,
        /// The log's verifier key; the data directory's own is no proof to a stranger [default:
        /// DATA_DIR/public/log.vkey].
        #[arg(long)]
        vkey: Option<String>,
        /// An older checkpoint of this log, which it must extend.
        #[arg(long)]
        older: Option<PathBuf>,
    },
    /// Packs one decision for somebody who has neither log nor archive: the entry, its proof, and all it was made of.
    /// `countersign replay --bundle` proves it again.
    Bundle {
        /// Data directory of the broker, or a copy of it.
        #[arg(long, env = "COUNTERSIGN_DATA_DIR", default_value = "countersign-data")]
        data_dir: PathBuf,
        /// Index of the decision's entry.
        #[arg(long)]
        entry: u64,
        /// New file.
        #[arg(long, short)]
        out: PathBuf,
    },
    /// Prints the proof that an entry is in the log, which travels by itself (C2SP tlog-proof).
    Prove {
        /// Data directory of the broker, or a copy of it.
        #[arg(long, env = "COUNTERSIGN_DATA_DIR", default_value = "countersign-data")]
        data_dir: PathBuf,
        /// Index of the entry.
        #[arg(long)]
        entry: u64,
    },
    /// Prints the entries that meet every condition, newest last.
    #[command(alias = "show")]
    Search(Search),
    /// Prints the newest of them.
    Tail(Tail),
}

/// Make a recorded decision again from its archived inputs, offline, and compare it bit for bit.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// Data directory of the broker, or a copy of it.
    #[arg(long, env = "COUNTERSIGN_DATA_DIR", default_value = "countersign-data")]
    pub data_dir: PathBuf,
    /// Index of the decision's entry.
    #[arg(long, required_unless_present = "bundle", conflicts_with = "bundle")]
    pub entry: Option<u64>,
    /// A file of `countersign log bundle` instead, which needs no data directory.
    #[arg(long, requires = "vkey")]
    pub bundle: Option<PathBuf>,
    /// The verifier key of the log that the bundle is of.
    #[arg(long)]
    pub vkey: Option<String>,
    /// A root that is trusted beside the vendors' own, DER or PEM: of a simulated fleet, or of a private cloud.
    #[arg(long = "root", requires = "bundle")]
    pub roots: Vec<PathBuf>,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

/// Runs `countersign log`; tells whether the log is whole.
///
/// # Errors
/// A log that cannot be read, or the first thing in it that is not as it has to be.
pub fn run(command: &LogCommand) -> anyhow::Result<bool> {
    match command {
        LogCommand::Verify { data_dir, vkey, older } => {
            let data = DataDir::at(data_dir);
            let vkey = match vkey {
                Some(vkey) => vkey.clone(),
                None => read(&data.public().join("log.vkey"))?,
            };
            let older = older.as_deref().map(read).transpose()?;
            let report = audit::audit(&data.log(), vkey.trim(), older.as_deref())?;
            println!("{report}");
            Ok(true)
        }
        LogCommand::Prove { data_dir, entry } => {
            let Published { key, checkpoint, entries } = Published::read(&DataDir::at(data_dir))?;
            let head = Checkpoint::verify(&checkpoint, &key, key.name()).map_err(anyhow::Error::msg)?.head();
            let covered = usize::try_from(head.size).ok().and_then(|size| entries.get(..size));
            let leaves: Vec<_> = covered.context("the log is cut")?.iter().map(|entry| leaf_hash(entry)).collect();
            let hashes = inclusion_proof(leaves.as_slice(), *entry, head.size);
            let hashes = hashes.with_context(|| format!("the checkpoint covers {} entries", head.size))?;
            print!("{}", Proof { extra: None, index: *entry, hashes, checkpoint }.encode());
            Ok(true)
        }
        LogCommand::Bundle { data_dir, entry, out } => {
            let data = DataDir::at(data_dir);
            let Published { key, checkpoint, entries } = Published::read(&data)?;
            let archive = Archive::open(&data.archive())?;
            let bundle = DecisionBundle::make(*entry, &entries, &checkpoint, &key, &archive)?.encode()?;
            write_new(out, &bundle)?;
            println!("{}", serde_json::json!({ "entry": entry, "bundle": out, "bytes": bundle.len() }));
            Ok(true)
        }
        LogCommand::Search(search) => log_search::search(search).map(|()| true),
        LogCommand::Tail(tail) => log_search::tail(tail).map(|()| true),
    }
}

/// A log with its newest published checkpoint.
struct Published {
    key: NoteKey,
    checkpoint: String,
    entries: Vec<Vec<u8>>,
}

impl Published {
    fn read(data: &DataDir) -> anyhow::Result<Self> {
        let vkey = read(&data.public().join("log.vkey"))?;
        let key = NoteKey::parse(vkey.trim()).map_err(|rejection| anyhow::anyhow!("log.vkey: {rejection}"))?;
        // The checkpoint first: all that it covers was there before it.
        let checkpoint = read(&data.log().join("checkpoint"))?;
        Ok(Self { key, checkpoint, entries: audit::entries(&data.log())? })
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// A replayed decision.
#[derive(Debug, serde::Serialize)]
struct Replayed {
    entry: u64,
    event: &'static str,
    at: UnixMillis,
    recorded: Sha256Digest,
    replayed: Sha256Digest,
    identical: bool,
    reasons: Vec<String>,
}

/// Runs `countersign replay`; tells whether the decision is the recorded one.
///
/// # Errors
/// An entry that records no decision, or inputs that are missing or damaged.
pub fn replay(args: &ReplayArgs, out: &mut dyn Write) -> anyhow::Result<bool> {
    let index = match (&args.bundle, args.entry) {
        (Some(bundle), _) => return prove(bundle, args, out),
        (None, Some(index)) => index,
        (None, None) => bail!("name a decision: --entry or --bundle"),
    };
    let data = DataDir::at(&args.data_dir);
    let entries = audit::entries(&data.log())?;
    let bytes = usize::try_from(index).ok().and_then(|index| entries.get(index));
    let bytes = bytes.with_context(|| format!("the log has {} entries", entries.len()))?;
    let entry = Entry::decode(bytes)?;
    let (Some(digest), Some(recorded)) = (entry.inputs(), entry.subject()) else {
        bail!("entry {index} is of event {}, which keeps no inputs", entry.event());
    };
    let archive = Archive::open(&data.archive())?;
    let inputs: Inputs = serde_json::from_slice(&archive.get(digest)?).context("archived inputs")?;
    let governance = Governance::from_archive(&archive, inputs.governance)
        .map_err(|error| anyhow::anyhow!("archived references, policy or collateral: {error}"))?;
    let judged = judge(&inputs, &governance, &archive);
    let replayed = Sha256Digest::of(&[&judged.decision.canonical_bytes()]);
    let reasons = judged.codes();
    // The decision's digest covers outcome, reasons and time; the entry says the reasons once more for readers.
    let identical = replayed == recorded && reasons == entry.reasons();
    let (event, at) = (entry.event().name(), inputs.at);
    let told = Replayed { entry: index, event, at, recorded, replayed, identical, reasons };
    told.print(&judged.decision, args.output, out)?;
    Ok(identical)
}

/// Proves the decision in a bundle; what is not as it must be is the error.
fn prove(bundle: &Path, args: &ReplayArgs, out: &mut dyn Write) -> anyhow::Result<bool> {
    let vkey = args.vkey.as_deref().context("name the log's verifier key: --vkey")?;
    let vkey = if Path::new(vkey).is_file() { read(Path::new(vkey))? } else { vkey.to_owned() };
    let key = NoteKey::parse(vkey.trim()).map_err(|rejection| anyhow::anyhow!("--vkey: {rejection}"))?;
    let mut roots = BTreeSet::new();
    for path in &args.roots {
        roots.extend(read_certificates(path)?.iter().map(|root| Sha256Digest::of(&[root])));
    }
    let bytes = read_bounded(bundle, BUNDLE_BYTES_MAX)?;
    let proven = DecisionBundle::prove(&bytes, &key, &shipped_digests(), &roots)?;
    let Proven { index, entry, head, inputs, decision } = proven;
    let digest = Sha256Digest::of(&[&decision.canonical_bytes()]);
    let (event, reasons) = (entry.event().name(), entry.reasons().to_vec());
    let (recorded, replayed) = (digest, digest);
    let told = Replayed { entry: index, event, at: inputs.at, recorded, replayed, identical: true, reasons };
    if args.output == Output::Table {
        writeln!(out, "in the log {} of {} entries, root {}", key.name(), head.size, head.root)?;
    }
    told.print(&decision, args.output, out)?;
    Ok(true)
}

impl Replayed {
    fn print(&self, decision: &Decision, output: Output, out: &mut dyn Write) -> anyhow::Result<()> {
        let Self { entry, event, at, recorded, replayed, identical, .. } = self;
        match output {
            Output::Json => writeln!(out, "{}", serde_json::to_string(self)?)?,
            Output::Table => {
                writeln!(out, "entry {entry}: {event} at {at}")?;
                writeln!(out, "recorded {recorded}\nreplayed {replayed}")?;
                for finding in decision.findings() {
                    writeln!(out, "{}: expected {}, found {}", finding.code, finding.expected, finding.found)?;
                }
                writeln!(out, "{}", if *identical { "identical" } else { "NOT identical" })?;
            }
        }
        Ok(())
    }
}
