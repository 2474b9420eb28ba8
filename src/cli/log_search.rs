//! `countersign log search` and `tail`: the log's entries by what they say, offline.

use std::collections::VecDeque;
use std::path::PathBuf;

use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::{Entry, Event};
use countersign_attestation::lineage::tree::leaf_hash;
use serde::Serialize;

use crate::cli::Output;
use crate::config::DataDir;
use crate::lineage::audit;

/// Which entries: those that meet every condition.
#[derive(Clone, Debug, clap::Args)]
pub struct Search {
    /// Data directory of the broker, or a copy of it.
    #[arg(long, env = "COUNTERSIGN_DATA_DIR", default_value = "countersign-data")]
    data_dir: PathBuf,
    /// About this host.
    #[arg(long)]
    host: Option<String>,
    /// Of this event, as granted or reference_registered.
    #[arg(long, value_parser = event)]
    event: Option<Event>,
    /// With a reason that starts so, as reference. or tdx.tcb.revoked.
    #[arg(long)]
    reason: Option<String>,
    /// Brought about by this operator.
    #[arg(long)]
    actor: Option<String>,
    /// About the document with this SHA-256: a manifest, policy set, waiver or decision.
    #[arg(long, value_parser = crate::cli::digest)]
    subject: Option<Sha256Digest>,
    /// From this index on.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// The newest entries.
#[derive(Clone, Debug, clap::Args)]
pub struct Tail {
    #[command(flatten)]
    search: Search,
    /// How many.
    #[arg(long, short = 'n', default_value_t = 20)]
    lines: usize,
}

/// An entry as it is printed.
#[derive(Debug, Serialize)]
struct Found<'a> {
    index: u64,
    leaf_hash: Sha256Digest,
    at: UnixMillis,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Sha256Digest>,
    reasons: &'a [String],
}

fn event(name: &str) -> Result<Event, String> {
    let named = Event::ALL.iter().find(|event| event.name() == name).copied();
    named.ok_or_else(|| format!("one of {}", Event::ALL.map(Event::name).join(", ")))
}

impl Search {
    fn finds(&self, index: u64, entry: &Entry) -> bool {
        let Self { host, event, reason, actor, subject, from, .. } = self;
        *from <= index
            && host.as_deref().is_none_or(|host| entry.host().is_some_and(|of| of.as_str() == host))
            && event.is_none_or(|event| entry.event() == event)
            && reason.as_ref().is_none_or(|start| entry.reasons().iter().any(|reason| reason.starts_with(start)))
            && actor.as_deref().is_none_or(|actor| entry.actor() == Some(actor))
            && subject.is_none_or(|subject| entry.subject() == Some(subject))
    }

    fn each(&self, mut tell: impl FnMut(String)) -> anyhow::Result<()> {
        for (index, bytes) in (0_u64..).zip(audit::entries(&DataDir::at(&self.data_dir).log())?) {
            let entry = Entry::decode(&bytes)?;
            if self.finds(index, &entry) {
                tell(self.printed(index, &bytes, &entry)?);
            }
        }
        Ok(())
    }

    fn printed(&self, index: u64, bytes: &[u8], entry: &Entry) -> anyhow::Result<String> {
        let (at, event, host) = (entry.at(), entry.event().name(), entry.host().map(|host| host.as_str()));
        let (actor, reasons) = (entry.actor(), entry.reasons());
        Ok(match self.output {
            Output::Json => {
                let (leaf_hash, subject) = (leaf_hash(bytes), entry.subject());
                serde_json::to_string(&Found { index, leaf_hash, at, event, host, actor, subject, reasons })?
            }
            Output::Table => {
                let who = host.or(actor).unwrap_or_default();
                format!("{index:>8}  {at}  {event:<20}  {who:<20}  {}", reasons.join(" ")).trim_end().to_owned()
            }
        })
    }
}

/// Prints what is found, newest last.
///
/// # Errors
/// A log that cannot be read, or an entry that is none.
pub fn search(search: &Search) -> anyhow::Result<()> {
    search.each(|line| println!("{line}"))
}

/// Prints the newest of what is found, newest last.
///
/// # Errors
/// As [`search`].
pub fn tail(Tail { search, lines }: &Tail) -> anyhow::Result<()> {
    let mut newest = VecDeque::new();
    search.each(|line| {
        newest.push_back(line);
        if *lines < newest.len() {
            newest.pop_front();
        }
    })?;
    newest.into_iter().for_each(|line| println!("{line}"));
    Ok(())
}
