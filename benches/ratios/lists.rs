//! Event logs and IMA lists: verified beside the bare hashing of the same bytes by the same engine.
//!
//! Bare hashing is what nobody can do without: for an event, extending its digest in each bank, and hashing its data
//! where the log is verified; for an IMA entry, its template hash (SHA-1, which the list carries), its digest in the
//! quoted bank, and the extend.

use core::hint::black_box;
use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow, bail};
use aws_lc_rs::digest::{self, Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use countersign_attestation::claims::{HexBytes, PcrBank, PcrHash};
use countersign_attestation::evidence::eventlog::{self, EventLog};
use countersign_attestation::evidence::ima::{self, ImaState, VerifiedIma};
use countersign_attestation::evidence::tpm::algorithm::TpmHash;
use countersign_policies::ima::{ImaRules, ImaTally};

use crate::engine::{Ratio, compare, compare_blocks, rejected};
use crate::sim_logs::{LogWriter, event, ima_ng};

/// Entries of a busy host's list.
const ENTRIES: usize = 50_000;
/// Entries since the last attestation.
const NEW: usize = 10;
/// Events of a log with GRUB's commands in it.
const EVENTS: usize = 200;

/// Everything measured here.
pub(crate) struct Lists {
    /// A log parsed and replayed to both its banks.
    pub(crate) replayed: Ratio,
    /// A log verified against quoted values, with its claims.
    pub(crate) verified: Ratio,
    /// A list replayed to a quoted PCR.
    pub(crate) ima: Ratio,
    /// The last few entries of it, from the state before them.
    pub(crate) ima_new: Ratio,
}

pub(crate) fn measure() -> anyhow::Result<Lists> {
    let log = boot_log();
    let (replayed, verified) = (replay_log(&log)?, verify_log(&log)?);
    let (list, template_data) = ima_list();
    let fixture = ImaFixture { list, template_data, rules: rules()? };
    let (ima, ima_new) = (replay_ima(&fixture)?, renew_ima(&fixture)?);
    Ok(Lists { replayed, verified, ima, ima_new })
}

/// A boot: the firmware's events, and as many of GRUB's as make the number full.
fn boot_log() -> LogWriter {
    let mut log = LogWriter::new();
    log.variable(7, event::VARIABLE_DRIVER_CONFIG, crate::sim_logs::GLOBAL, "SecureBoot", &[1]).separators();
    for number in 10..EVENTS {
        let command = format!("set variable_{number}=of an ordinary length, about as long as these are");
        log.event(8, event::IPL, command.as_bytes(), format!("grub_cmd: {command}\0").as_bytes());
    }
    log
}

/// PCR 0 to 7 and 8, as the log gives them.
fn quoted(log: &LogWriter) -> anyhow::Result<BTreeMap<PcrHash, PcrBank>> {
    let replay = EventLog::parse(log.bytes()).map_err(rejected)?.replay();
    let bank = replay.bank(TpmHash::Sha256).context("a SHA-256 bank")?;
    let values = bank.extended().map(|(index, value)| (index, HexBytes(value.to_vec()))).collect();
    Ok(BTreeMap::from([(PcrHash::Sha256, values)]))
}

fn replay_log(log: &LogWriter) -> anyhow::Result<Ratio> {
    let ours = || {
        black_box(EventLog::parse(log.bytes()).map_err(rejected)?.replay());
        Ok(())
    };
    compare(8, &ours, &|| {
        for _ in 0..EVENTS {
            extend(&SHA1_FOR_LEGACY_USE_ONLY, &[7; 20]);
            extend(&SHA256, &[7; 32]);
        }
        Ok(())
    })
}

fn verify_log(log: &LogWriter) -> anyhow::Result<Ratio> {
    let pcrs = quoted(log)?;
    let parsed = EventLog::parse(log.bytes()).map_err(rejected)?;
    let data: Vec<&[u8]> = parsed.events().map(|event| event.data).collect();
    let ours = || {
        black_box(eventlog::verify(log.bytes(), &pcrs).map_err(rejected)?.claims());
        Ok(())
    };
    compare(8, &ours, &|| {
        for data in &data {
            black_box(digest::digest(&SHA256, data));
            extend(&SHA256, &[7; 32]);
        }
        Ok(())
    })
}

/// The list, and each entry's template data.
fn ima_list() -> (Vec<u8>, Vec<Vec<u8>>) {
    let entries = (0..ENTRIES).map(|number| ima_ng(&path(number), &number.to_le_bytes()));
    let entries: Vec<Vec<u8>> = entries.collect();
    // PCR, template hash, name of `ima-ng` and two lengths.
    let data = |entry: &Vec<u8>| entry.get(4 + 20 + 4 + 6 + 4..).unwrap_or_default().to_vec();
    (entries.concat(), entries.iter().map(data).collect())
}

fn path(number: usize) -> String {
    format!("/usr/lib/python3/dist-packages/package{}/module{number}.py", number % 100)
}

/// All entries' digests, by path.
fn rules() -> anyhow::Result<ImaRules> {
    let listed = |number: usize| {
        let digest = hex::encode(digest::digest(&SHA256, &number.to_le_bytes()));
        (path(number), vec![format!("sha256:{digest}")])
    };
    let files: BTreeMap<String, Vec<String>> = (0..ENTRIES).map(listed).collect();
    let json = serde_json::to_vec(&BTreeMap::from([("files", files)]))?;
    ImaRules::parse(&json).map_err(|finding| anyhow!("{finding:?}"))
}

/// PCR 10 after these entries.
fn pcr_10(template_data: &[Vec<u8>]) -> BTreeMap<PcrHash, PcrBank> {
    let mut value = [0; 32];
    for data in template_data {
        let measured = digest::digest(&SHA256, data);
        let mut both = [0; 64];
        both[..32].copy_from_slice(&value);
        both[32..].copy_from_slice(measured.as_ref());
        value.copy_from_slice(digest::digest(&SHA256, &both).as_ref());
    }
    BTreeMap::from([(PcrHash::Sha256, BTreeMap::from([(10, HexBytes(value.to_vec()))]))])
}

/// The same bytes: each extend is of the value before it.
fn bare(template_data: &[Vec<u8>]) {
    let mut both = [0; 64];
    for data in template_data {
        black_box(digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, data));
        both[32..].copy_from_slice(digest::digest(&SHA256, data).as_ref());
        let next = digest::digest(&SHA256, &both);
        both[..32].copy_from_slice(next.as_ref());
    }
    black_box(both);
}

fn replay_ima(lists: &ImaFixture) -> anyhow::Result<Ratio> {
    let pcrs = pcr_10(&lists.template_data);
    let ours = || {
        let verified = ima::verify(&lists.list, &ImaState::start(), &pcrs).map_err(rejected)?;
        lists.tally(&verified, &ImaTally::start()).map(drop)
    };
    compare_blocks(40, 1, &ours, &|| {
        bare(&lists.template_data);
        Ok(())
    })
}

fn renew_ima(lists: &ImaFixture) -> anyhow::Result<Ratio> {
    let known = ENTRIES.saturating_sub(NEW);
    let (before, new) = lists.template_data.split_at_checked(known).context("new entries")?;
    let known_bytes: usize = before.iter().map(|data| data.len() + 38).sum();
    let (first, rest) = lists.list.split_at_checked(known_bytes).context("new entries")?;
    let (then, now) = (pcr_10(before), pcr_10(&lists.template_data));
    let seen = ima::verify(first, &ImaState::start(), &then).map_err(rejected)?;
    let tally = lists.tally(&seen, &ImaTally::start())?;
    let state = seen.state().clone();
    let ours = || {
        let verified = ima::verify(rest, &state, &now).map_err(rejected)?;
        lists.tally(&verified, &tally).map(drop)
    };
    compare(64, &ours, &|| {
        bare(new);
        Ok(())
    })
}

struct ImaFixture {
    list: Vec<u8>,
    template_data: Vec<Vec<u8>>,
    rules: ImaRules,
}

impl ImaFixture {
    fn tally(&self, verified: &VerifiedIma<'_>, prior: &ImaTally) -> anyhow::Result<ImaTally> {
        let tally = self.rules.tally(verified, prior);
        if tally.unlisted != 0 {
            bail!("every entry is listed: {:?}", tally.findings());
        }
        Ok(tally)
    }
}

/// Hashing of a PCR's old value and a digest.
fn extend(bank: &'static Algorithm, measured: &[u8]) {
    let mut both = [0; 128];
    if let Some(end) = both.get_mut(bank.output_len()..bank.output_len() + measured.len()) {
        end.copy_from_slice(measured);
    }
    black_box(digest::digest(bank, both.get(..2 * bank.output_len()).unwrap_or_default()));
}
