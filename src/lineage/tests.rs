use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Mutex};

use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::checkpoint::{Checkpoint, NoteKey};
use countersign_attestation::lineage::entry::{Entry, Event, HostRevision};
use countersign_attestation::lineage::tree::{Frontier, TreeHead, leaf_hash};
use countersign_attestation::protocol::HostId;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use tempfile::TempDir;

use super::archive::{Archive, BLOB_BYTES_MAX};
use super::audit::{Fault, audit};
use super::segment::{push_frame, segment_path};
use super::{Effect, Lineage, LineageError, LogKey, OpenLog};

const ORIGIN: &str = "broker.example/log";
const AT: UnixMillis = UnixMillis(1_795_408_496_007);
/// Small, so that a few entries fill several.
const SEGMENT: u64 = 1024;

struct Log {
    dir: TempDir,
}

impl Log {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        LogKey::generate(&dir.path().join("log.key"), ORIGIN).unwrap();
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn key(&self) -> LogKey {
        LogKey::load(&self.dir.path().join("log.key"), ORIGIN).unwrap()
    }

    fn open(&self, floor: Option<TreeHead>) -> Result<OpenLog, LineageError> {
        Lineage::open_sized(&self.path(), ORIGIN, self.key(), floor, SEGMENT)
    }

    fn start(&self) -> Lineage {
        self.open(None).unwrap().start(|_, _| Effect::Nothing).unwrap()
    }

    /// Records so many entries and stops; nothing is published.
    fn filled(count: u64) -> Self {
        let log = Self::new();
        let lineage = log.start();
        for n in 0..count {
            lineage.append_blocking(entry(n)).unwrap();
        }
        lineage.stop();
        fs::remove_file(log.path().join("checkpoint")).unwrap();
        log
    }

    fn entries(&self, floor: Option<TreeHead>) -> Result<Vec<Entry>, LineageError> {
        let open = self.open(floor)?;
        let mut entries = Vec::new();
        while let Some(entry) = open.entry(entries.len() as u64)? {
            entries.push(entry);
        }
        assert_eq!(open.head(), head_of(&entries));
        Ok(entries)
    }

    fn audit(&self) -> Result<super::audit::Report, Fault> {
        audit(&self.path(), &self.key().vkey(), None)
    }
}

fn entry(n: u64) -> Entry {
    Entry::broker_started(AT, &format!("0.1.{n}"))
}

fn entries(count: u64) -> Vec<Entry> {
    (0..count).map(entry).collect()
}

fn head_of(entries: &[Entry]) -> TreeHead {
    let mut frontier = Frontier::new();
    entries.iter().for_each(|entry| frontier.push(leaf_hash(&entry.encode().unwrap())));
    frontier.head()
}

fn on(generation: u64, revision: u64, parent: u64) -> HostRevision {
    HostRevision { host: HostId::parse("gpu-17").unwrap(), generation, revision, parent }
}

fn frame(index: u64) -> Vec<u8> {
    let mut frame = Vec::new();
    push_frame(&mut frame, index, index, &entry(index).encode().unwrap());
    frame
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for found in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(found.file_name());
        if found.path().is_dir() {
            copy_dir(&found.path(), &target)
        } else {
            fs::copy(found.path(), target).unwrap();
        }
    }
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path))
        } else {
            drop(found.insert(path.clone(), fs::read(path).unwrap()))
        }
    }
    found
}

#[test]
fn entries_are_applied_in_order_before_anyone_is_answered() {
    let log = Log::new();
    let applied = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&applied);
    let lineage = log.open(None).unwrap().start(move |index, entry| {
        sink.lock().unwrap().push((index, entry.clone()));
        Effect::Nothing
    });
    let lineage = lineage.unwrap();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let (lineage, applied) = (lineage.clone(), Arc::clone(&applied));
            std::thread::spawn(move || {
                for n in 0..50 {
                    let recorded = lineage.append_blocking(entry(thread * 100 + n)).unwrap();
                    let at = usize::try_from(recorded.index()).unwrap();
                    let seen = applied.lock().unwrap().get(at).cloned();
                    assert_eq!(seen, Some((recorded.index(), recorded.entry().clone())));
                    assert!(recorded.index() < lineage.head().size);
                    assert_eq!(recorded.leaf_hash(), leaf_hash(&recorded.entry().encode().unwrap()));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let applied: Vec<_> = std::mem::take(&mut *applied.lock().unwrap());
    assert!(applied.iter().enumerate().all(|(at, (index, _))| at as u64 == *index));
    let applied: Vec<_> = applied.into_iter().map(|(_, entry)| entry).collect();
    assert_eq!(lineage.head(), head_of(&applied));
    for index in [0, 1, 15, 16, 17, 199] {
        let bytes = applied[usize::try_from(index).unwrap()].encode().unwrap();
        assert_eq!(lineage.read(index).unwrap(), Some(bytes));
    }
    assert_eq!(lineage.read(200).unwrap(), None);
    lineage.stop();
    assert_eq!(log.entries(None).unwrap(), applied);
}

#[test]
fn what_waits_together_is_one_batch_and_head_moves_after_the_sink() {
    let log = Log::new();
    let (entered, enter) = channel();
    let (release, released) = channel::<()>();
    let sink = move |index, _: &Entry| {
        entered.send(index).unwrap();
        released.recv().unwrap();
        Effect::Nothing
    };
    let lineage = log.open(None).unwrap().start(sink).unwrap();
    let (answered, answers) = channel();
    for n in 0..3 {
        let answered = answered.clone();
        let answer =
            Box::new(move |result: Result<super::Recorded, _>| answered.send(result.unwrap().index()).unwrap());
        lineage.send(entry(n), answer).unwrap();
    }
    for index in 0..3 {
        assert_eq!(enter.recv().unwrap(), index);
        // The batch of this entry is not through, so neither it nor the ones after are visible or answered.
        assert!(lineage.head().size <= index && lineage.read(index).unwrap().is_none());
        assert!(answers.try_iter().all(|answered| answered < index));
        release.send(()).unwrap();
    }
    lineage.stop();
    assert_eq!(lineage.head().size, 3);
}

#[tokio::test]
async fn appending_waits_without_blocking_and_giving_up_takes_nothing_back() {
    let log = Log::new();
    let lineage = log.start();
    drop(lineage.append(entry(0)));
    tokio::select! {
        biased;
        recorded = lineage.append(entry(1)) => drop(recorded.unwrap()),
        () = std::future::ready(()) => {}
    }
    let recorded = lineage.append(entry(2)).await.unwrap();
    assert_eq!(recorded.index(), 1, "a future that was never polled appends nothing; one that was, does");
    lineage.stop();
    assert!(matches!(lineage.append(entry(3)).await, Err(LineageError::Poisoned)));
}

#[test]
fn an_entry_that_cannot_be_encoded_is_refused_and_harms_nothing() {
    let log = Log::new();
    let lineage = log.start();
    let bad = Entry::broker_started(AT, &"x".repeat(1000));
    assert!(matches!(lineage.append_blocking(bad), Err(LineageError::Refused(_))));
    assert_eq!(lineage.append_blocking(entry(0)).unwrap().index(), 0);
}

#[test]
fn a_full_queue_is_an_answer() {
    let log = Log::new();
    let (release, released) = channel::<()>();
    let lineage = log
        .open(None)
        .unwrap()
        .start(move |_, _| {
            assert!(released.recv().is_err());
            Effect::Nothing
        })
        .unwrap();
    let refused =
        (0..=super::QUEUE_MAX + super::BATCH_MAX + 1).find_map(|_| lineage.send(entry(0), Box::new(|_| {})).err());
    assert!(matches!(refused, Some(LineageError::Overloaded)), "{refused:?}");
    drop(release);
}

#[test]
fn one_process_at_a_time() {
    let log = Log::new();
    let lineage = log.start();
    assert!(matches!(log.open(None), Err(LineageError::InUse(_))));
    lineage.stop();
    assert!(log.open(None).is_ok());
}

#[test]
fn a13_kill_and_restart_lose_nothing() {
    let log = Log::new();
    let lineage = log.start();
    for n in 0..40 {
        lineage.append_blocking(entry(n)).unwrap();
        // What a killed process leaves is what the files hold at any moment after an answer.
        let left = Log::new();
        copy_dir(&log.path().join("segments"), &left.path().join("segments"));
        assert_eq!(left.entries(Some(lineage.head())).unwrap(), entries(n + 1));
        let again = left.start();
        assert_eq!(again.append_blocking(entry(n + 1)).unwrap().index(), n + 1);
        again.stop();
        assert_eq!(left.entries(None).unwrap(), entries(n + 2));
    }
}

#[test]
fn a13_a_panic_in_the_sink_closes_the_log_and_a_restart_has_the_entry() {
    let log = Log::new();
    let sink = |index, _: &Entry| {
        assert_ne!(index, 2, "as planned");
        Effect::Nothing
    };
    let lineage = log.open(None).unwrap().start(sink).unwrap();
    lineage.append_blocking(entry(0)).unwrap();
    lineage.append_blocking(entry(1)).unwrap();
    assert!(matches!(lineage.append_blocking(entry(2)), Err(LineageError::Poisoned)));
    assert!(lineage.is_poisoned());
    assert!(matches!(lineage.append_blocking(entry(3)), Err(LineageError::Poisoned)));
    assert!(matches!(lineage.checkpoint(), Err(LineageError::Poisoned)));
    assert_eq!(lineage.head().size, 2, "the head covers what was applied");
    assert_eq!(lineage.read(2).unwrap(), None);
    lineage.stop();
    // Done, but reported lost: the restart applies it.
    assert_eq!(log.entries(None).unwrap(), entries(3));
}

#[test]
fn a_failed_write_closes_the_log() {
    let log = Log::new();
    let lineage = log.start();
    let mut recorded = 0;
    // The next segment cannot be created where its name is taken.
    fs::create_dir(segment_path(&log.path(), 1)).unwrap();
    let failed = loop {
        match lineage.append_blocking(entry(recorded)) {
            Ok(_) => recorded += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(failed, LineageError::Poisoned) && lineage.is_poisoned() && 10 < recorded);
    assert!(matches!(lineage.append_blocking(entry(0)), Err(LineageError::Poisoned)));
    assert_eq!(lineage.head().size, recorded);
    lineage.stop();
    fs::remove_dir(segment_path(&log.path(), 1)).unwrap();
    assert_eq!(log.entries(None).unwrap(), entries(recorded), "lost, and reported as not known");
    let lineage = log.start();
    assert_eq!(lineage.append_blocking(entry(recorded)).unwrap().index(), recorded);
}

/// The content of the only segment of a log of three entries, and where its last frame is.
fn three() -> (Log, Vec<u8>, std::ops::Range<usize>) {
    let log = Log::filled(3);
    let content = fs::read(segment_path(&log.path(), 0)).unwrap();
    assert_eq!(content.len() as u64, SEGMENT);
    let start = frame(0).len() + frame(1).len();
    let last = start..start + frame(2).len();
    assert_eq!(content[last.clone()], frame(2));
    assert!(content[last.end..].iter().all(|byte| *byte == 0));
    (log, content, last)
}

#[test]
fn a_torn_last_frame_is_cut_unless_it_is_known_durable() {
    let (log, content, last) = three();
    let path = segment_path(&log.path(), 0);
    let floor = |count| Some(head_of(&entries(count)));
    for place in last.clone() {
        for damage in ["flip", "zeros", "short"] {
            let mut torn = content.clone();
            match damage {
                "flip" => torn[place] ^= 0x41,
                "zeros" => torn[place..].fill(0),
                _ => torn.truncate(place),
            }
            fs::write(&path, &torn).unwrap();
            assert!(log.open(floor(3)).is_err(), "{damage} at {place}: the third was durable");
            let kept = fs::read(&path).unwrap();
            assert_eq!(kept[..torn.len()], torn, "what was durable is never cut");
            assert_eq!(log.entries(floor(2)).unwrap(), entries(2), "{damage} at {place}");
            let healed = fs::read(&path).unwrap();
            assert!(healed[last.start..].iter().all(|byte| *byte == 0) && healed.len() as u64 == SEGMENT);
            assert_eq!(healed[..last.start], content[..last.start]);
        }
    }
}

#[test]
fn damage_before_the_last_frame_refuses_to_open() {
    let (log, content, last) = three();
    let path = segment_path(&log.path(), 0);
    for place in 0..last.start {
        let mut damaged = content.clone();
        damaged[place] ^= 0x41;
        fs::write(&path, &damaged).unwrap();
        let index = u64::from(frame(0).len() <= place);
        match log.open(None) {
            Err(LineageError::Damaged { index: found, .. }) => assert_eq!(found, index, "byte {place}"),
            other => panic!("byte {place}: {other:?}"),
        }
        assert_eq!(fs::read(&path).unwrap(), damaged, "nothing is cut");
    }
    let mut hole = content.clone();
    hole[frame(0).len()..last.start].fill(0);
    fs::write(&path, &hole).unwrap();
    assert!(matches!(log.open(None), Err(LineageError::Damaged { index: 1, .. })), "an entry follows the zeros");
    // Garbage that is longer than a batch can be is no torn write.
    let far = Lineage::open_sized(&log.path(), ORIGIN, log.key(), None, 1 << 20);
    assert!(matches!(far, Err(LineageError::Damaged { .. })), "{far:?}");
    let mut garbage = content.clone();
    garbage.resize(1 << 20, 0);
    garbage[last.end + (256 << 10)] = 1;
    fs::write(&path, &garbage).unwrap();
    let far = Lineage::open_sized(&log.path(), ORIGIN, log.key(), None, 1 << 20);
    assert!(matches!(far, Err(LineageError::Damaged { index: 3, .. })), "{far:?}");
}

#[test]
fn each_write_lost_or_done_but_reported_lost() {
    // Reported lost, in fact done: the entry is there after the restart, at its index.
    let (log, mut content, last) = three();
    let path = segment_path(&log.path(), 0);
    let next = frame(3);
    content[last.end..last.end + next.len()].copy_from_slice(&next);
    fs::write(&path, &content).unwrap();
    assert_eq!(log.entries(Some(head_of(&entries(3)))).unwrap(), entries(4));
    // Lost: the index is used again, and the log is one story.
    content[last.end..].fill(0);
    fs::write(&path, &content).unwrap();
    let lineage = log.start();
    assert_eq!(lineage.append_blocking(entry(9)).unwrap().index(), 3);
    lineage.stop();
    assert_eq!(log.entries(None).unwrap().last(), Some(&entry(9)));
    // A segment whose creation was interrupted: created, filled in part, or filled and not yet written to.
    for length in [0, 1, SEGMENT - 1, SEGMENT] {
        let log = Log::filled(3);
        fs::write(segment_path(&log.path(), 1), vec![0; usize::try_from(length).unwrap()]).unwrap();
        assert_eq!(log.entries(None).unwrap(), entries(3));
        assert_eq!(fs::metadata(segment_path(&log.path(), 1)).unwrap().len(), SEGMENT);
        let lineage = log.start();
        lineage.append_blocking(entry(3)).unwrap();
        lineage.stop();
        assert_eq!(log.entries(None).unwrap(), entries(4), "{length}");
    }
}

/// The frames of entries 3 to before 3 + `count` behind three others, as one batch or each its own.
fn behind_three(count: u64, one_batch: bool) -> (Log, Vec<u8>, Vec<std::ops::Range<usize>>) {
    let (log, mut content, last) = three();
    let mut end = last.end;
    let mut places = Vec::new();
    for index in 3..3 + count {
        let mut frame = Vec::new();
        push_frame(&mut frame, index, if one_batch { 3 } else { index }, &entry(index).encode().unwrap());
        content[end..end + frame.len()].copy_from_slice(&frame);
        places.push(end..end + frame.len());
        end += frame.len();
    }
    (log, content, places)
}

#[test]
fn pages_of_an_unsynced_batch_may_be_lost_in_any_order() {
    for lost in 0..8 {
        let (log, mut content, places) = behind_three(8, true);
        content[places[lost].clone()].fill(0);
        fs::write(segment_path(&log.path(), 0), &content).unwrap();
        // Nobody was told of any of them; what is whole before the hole stays, and nothing behind it does.
        assert_eq!(log.entries(None).unwrap(), entries(3 + lost as u64), "{lost}");
    }
}

#[test]
fn a_later_batch_proves_that_damaged_entries_were_durable() {
    for damaged in 1..8 {
        let (log, mut content, places) = behind_three(8, false);
        content[places[0].start..places[damaged - 1].end].fill(0xff);
        fs::write(segment_path(&log.path(), 0), &content).unwrap();
        let found = log.open(None);
        assert!(matches!(found, Err(LineageError::Damaged { index: 3, .. })), "{damaged}: {found:?}");
    }
}

#[test]
fn an_entry_in_another_place_is_damaged() {
    let log = Log::filled(0);
    let mut content = [frame(1), frame(0)].concat();
    content.resize(usize::try_from(SEGMENT).unwrap(), 0);
    fs::write(segment_path(&log.path(), 0), &content).unwrap();
    assert!(matches!(log.open(Some(head_of(&entries(2)))), Err(LineageError::Damaged { index: 0, .. })));
}

#[test]
fn whole_frames_that_are_no_entries_refuse_to_open() {
    let log = Log::filled(0);
    let mut content = Vec::new();
    push_frame(&mut content, 0, 0, b"no entry");
    content.resize(usize::try_from(SEGMENT).unwrap(), 0);
    fs::write(segment_path(&log.path(), 0), &content).unwrap();
    assert!(matches!(log.open(None), Err(LineageError::Entry { index: 0, .. })));
}

#[test]
fn a_log_that_was_cut_or_rewritten_is_refused() {
    let log = Log::filled(40);
    let floor = |count| Some(head_of(&entries(count)));
    for count in [0, 1, 39, 40] {
        assert_eq!(log.entries(floor(count)).unwrap(), entries(40), "{count}");
    }
    assert!(matches!(log.open(floor(41)), Err(LineageError::Cut { expected: 41, found: 40 })));
    for size in [0, 1, 39, 40] {
        let rewritten = Some(TreeHead { size, root: Sha256Digest([0; 32]) });
        assert!(matches!(log.open(rewritten), Err(LineageError::Rewritten { .. })), "{size}");
    }
    let path = segment_path(&log.path(), 0);
    let kept = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(matches!(log.open(None), Err(LineageError::Missing(missing)) if missing == path));
    fs::write(&path, &kept[..100]).unwrap();
    assert!(matches!(log.open(None), Err(LineageError::Damaged { .. })), "only the last segment can be short");
}

#[test]
fn the_log_is_held_to_the_checkpoint_it_published() {
    let log = Log::filled(3);
    let lineage = log.start();
    lineage.publish().unwrap();
    lineage.stop();
    fs::remove_dir_all(log.path().join("segments")).unwrap();
    assert!(matches!(log.open(None), Err(LineageError::Cut { expected: 3, found: 0 })));
}

#[test]
fn only_the_logs_own_key_and_origin_open_it() {
    let log = Log::new();
    let other = LogKey::generate(&log.dir.path().join("other.key"), "other.example").unwrap();
    assert!(matches!(Lineage::open(&log.path(), ORIGIN, other, None), Err(LineageError::Key(_))));
    let path = log.dir.path().join("log.key");
    assert!(LogKey::generate(&path, ORIGIN).is_err(), "keys are not replaced");
    assert!(LogKey::load(&path, "two words").is_err());
    assert!(!format!("{:?}", log.key()).contains(&hex::encode(fs::read(&path).unwrap())));
    for length in [0, 31, 33] {
        fs::write(&path, vec![1; length]).unwrap();
        assert!(LogKey::load(&path, ORIGIN).is_err());
    }
}

#[test]
fn files_and_directories_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let log = Log::new();
    let lineage = log.start();
    lineage.append_blocking(entry(0)).unwrap();
    lineage.publish().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&log.dir.path().join("log.key")), 0o600);
    for path in files(&log.path()).into_keys() {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        assert_eq!(mode(path.parent().unwrap()), 0o700, "{}", path.display());
    }
}

#[test]
fn checkpoints_cover_what_is_durable() {
    let log = Log::new();
    let lineage = log.start();
    let key = NoteKey::parse(&lineage.vkey()).unwrap();
    let read = |note: &str| Checkpoint::verify(note, &key, ORIGIN).unwrap().head();
    assert_eq!(read(&lineage.checkpoint().unwrap()), head_of(&[]));
    lineage.append_blocking(entry(0)).unwrap();
    let note = lineage.checkpoint().unwrap();
    assert_eq!((read(&note), read(&note)), (lineage.head(), head_of(&entries(1))));
    assert_eq!(lineage.checkpoint().unwrap(), note);
}

/// A published log with hosts and with full and partial tiles at two levels.
fn published() -> (Log, TreeHead) {
    let log = Log::new();
    let lineage = log.start();
    let host = HostId::parse("gpu-17").unwrap();
    lineage.append_blocking(Entry::host_registered(AT, host, "admin", Sha256Digest([1; 32]))).unwrap();
    lineage.append_blocking(Entry::enrolled(AT, on(0, 0, 0), Sha256Digest([2; 32]))).unwrap();
    for revision in 1..270 {
        lineage.append_blocking(Entry::renewed(AT, on(1, revision, revision), AT.plus(1), None)).unwrap();
    }
    let head = lineage.head();
    lineage.stop();
    // On a slow machine the log has published before its end as well; this leaves one publication.
    fs::remove_dir_all(log.path().join("tile")).unwrap();
    let lineage = log.start();
    lineage.publish().unwrap();
    lineage.stop();
    (log, head)
}

#[test]
fn publishing_and_auditing_round_trip() {
    let (log, head) = published();
    let report = log.audit().unwrap();
    assert_eq!((report.head, report.uncovered, report.hosts, report.superseded), (head, 0, 1, 0));
    assert_eq!(report.events[&Event::Renewed], 269);
    assert_eq!(report.events.values().sum::<u64>(), head.size);
    let names: Vec<_> = files(&log.path().join("tile")).into_keys().collect();
    let names: Vec<_> = names.iter().map(|path| path.strip_prefix(log.path()).unwrap().to_str().unwrap()).collect();
    let expected = ["tile/0/000", "tile/0/001.p/15", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/15"];
    assert_eq!(names, expected);
}

#[test]
fn the_audit_finds_every_flipped_byte() {
    let (log, _) = published();
    let vkey = log.key().vkey();
    let originals = files(&log.path());
    for (path, original) in &originals {
        if path.ends_with("lock") {
            continue;
        }
        let last = original.iter().rposition(|byte| *byte != 0).unwrap();
        // Every byte of the small files, and a sample of the large ones.
        for place in (0..=last).step_by(1 + last / 60).chain([last]) {
            let mut flipped = original.clone();
            flipped[place] ^= 1;
            fs::write(path, &flipped).unwrap();
            assert!(audit(&log.path(), &vkey, None).is_err(), "{} byte {place}", path.display());
        }
        // Behind the last entry of the segments a broker may be writing; nothing may be behind anything else.
        if !path.starts_with(log.path().join("segments")) {
            fs::write(path, [&original[..], &[1]].concat()).unwrap();
            assert!(audit(&log.path(), &vkey, None).is_err(), "{} with a byte more", path.display());
        }
        fs::remove_file(path).unwrap();
        assert!(audit(&log.path(), &vkey, None).is_err(), "{} removed", path.display());
        fs::write(path, original).unwrap();
    }
    assert!(log.audit().is_ok());
}

#[test]
fn the_copy_heals_after_a_crash() {
    let (log, head) = published();
    let originals = files(&log.path().join("tile"));
    let names = ["tile/0/000", "tile/entries/001.p/15"];
    fs::write(log.path().join(names[0]), b"torn").unwrap();
    fs::remove_file(log.path().join(names[1])).unwrap();
    let lineage = log.start();
    lineage.publish().unwrap();
    lineage.stop();
    assert_eq!(files(&log.path().join("tile")), originals);
    assert_eq!(log.audit().unwrap().head, head);
}

#[test]
fn full_tiles_replace_their_partial_versions() {
    let log = Log::filled(250);
    let lineage = log.start();
    lineage.publish().unwrap();
    assert!(log.path().join("tile/0/000.p/250").exists());
    let older = lineage.checkpoint().unwrap();
    for n in 250..260 {
        lineage.append_blocking(entry(n)).unwrap();
    }
    lineage.publish().unwrap();
    assert!(!log.path().join("tile/0/000.p").exists() && log.path().join("tile/0/000").exists());
    assert!(audit(&log.path(), &lineage.vkey(), Some(&older)).is_ok());
    // A checkpoint from before the tiles filled is still covered by them.
    fs::write(log.path().join("checkpoint"), &older).unwrap();
    let report = audit(&log.path(), &lineage.vkey(), None).unwrap();
    assert_eq!((report.head.size, report.uncovered), (250, 10));
}

#[test]
fn a_failed_publication_is_reported_and_the_log_goes_on() {
    let log = Log::new();
    let lineage = log.start();
    fs::write(log.path().join("tile"), b"in the way").unwrap();
    lineage.append_blocking(entry(0)).unwrap();
    assert!(matches!(lineage.publish(), Err(LineageError::Unpublished)));
    lineage.append_blocking(entry(1)).unwrap();
    fs::remove_file(log.path().join("tile")).unwrap();
    lineage.publish().unwrap();
    assert_eq!(log.audit().unwrap().head, head_of(&entries(2)));
}

#[test]
fn the_audit_finds_damage_that_no_checkpoint_covers() {
    let log = Log::new();
    let lineage = log.start();
    lineage.append_blocking(entry(0)).unwrap();
    lineage.publish().unwrap();
    let covered = fs::read(log.path().join("checkpoint")).unwrap();
    for n in 1..9 {
        lineage.append_blocking(entry(n)).unwrap();
    }
    lineage.stop();
    fs::write(log.path().join("checkpoint"), covered).unwrap();
    assert_eq!(log.audit().unwrap().uncovered, 8);
    // One bit in an entry above the checkpoint, with durable entries behind it: no torn tail.
    let segment = files(&log.path().join("segments")).into_keys().next().unwrap();
    let segment = log.path().join("segments").join(segment);
    let mut content = fs::read(&segment).unwrap();
    let at = (0..3).map(|index| frame(index).len()).sum::<usize>() + frame(3).len() / 2;
    content[at] ^= 1;
    fs::write(&segment, content).unwrap();
    assert!(matches!(log.audit(), Err(Fault::Segments(_))));
}

#[test]
fn the_audit_works_while_a_broker_appends() {
    let log = Log::new();
    let lineage = log.start();
    let (stop, stopped) = sync_channel::<()>(0);
    let writer = {
        let lineage = lineage.clone();
        std::thread::spawn(move || {
            let mut n = 0;
            while stopped.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
                lineage.append_blocking(entry(n)).unwrap();
                n += 1;
                if n % 7 == 0 {
                    lineage.publish().unwrap();
                }
            }
        })
    };
    lineage.publish().unwrap();
    let mut older = lineage.checkpoint().unwrap();
    for _ in 0..20 {
        lineage.publish().unwrap();
        audit(&log.path(), &lineage.vkey(), Some(&older)).unwrap();
        older = fs::read_to_string(log.path().join("checkpoint")).unwrap();
    }
    drop(stop);
    writer.join().unwrap();
}

#[test]
fn the_audit_counts_and_reads_entries_no_checkpoint_covers() {
    let (log, head) = published();
    let checkpoint = fs::read(log.path().join("checkpoint")).unwrap();
    let lineage = log.start();
    lineage.append_blocking(Entry::renewed(AT, on(1, 270, 270), AT.plus(1), None)).unwrap();
    lineage.stop();
    fs::write(log.path().join("checkpoint"), &checkpoint).unwrap();
    let report = log.audit().unwrap();
    assert_eq!((report.head, report.uncovered, report.events[&Event::Renewed]), (head, 1, 270));
    // Their semantics count as well.
    let lineage = log.start();
    lineage.append_blocking(Entry::renewed(AT, on(1, 400, 270), AT.plus(1), None)).unwrap();
    lineage.stop();
    let fault = log.audit().unwrap_err();
    assert!(fault.index() == Some(272) && fault.to_string().contains("lineage.history.revision"), "{fault}");
}

#[test]
fn the_audit_finds_another_history() {
    let (log, _) = published();
    let (other, _) = published();
    let vkey = log.key().vkey();
    assert!(matches!(audit(&log.path(), &other.key().vkey(), None), Err(Fault::Checkpoint(_))));
    assert!(matches!(audit(&log.path(), "no key", None), Err(Fault::Checkpoint(_))));
    let root = Sha256Digest([7; 32]);
    let rewritten = log.key().checkpoint(TreeHead { size: 100, root });
    assert!(matches!(audit(&log.path(), &vkey, Some(&rewritten)), Err(Fault::Root { size: 100, .. })));
    let longer = log.key().checkpoint(TreeHead { size: 1000, root });
    assert!(matches!(audit(&log.path(), &vkey, Some(&longer)), Err(Fault::Shrunk { older: 1000, published: 271 })));
    let empty = log.key().checkpoint(TreeHead { size: 0, root });
    assert!(matches!(audit(&log.path(), &vkey, Some(&empty)), Err(Fault::Root { size: 0, .. })));
    // Segments of another story under the same signature: same length, other entries.
    fs::remove_dir_all(log.path().join("segments")).unwrap();
    copy_dir(&Log::filled(300).path().join("segments"), &log.path().join("segments"));
    assert!(matches!(log.audit(), Err(Fault::Differs { index: 0 })));
    fs::remove_dir_all(log.path().join("segments")).unwrap();
    assert!(matches!(log.audit(), Err(Fault::Short { found: 0, published: 271 })));
}

#[test]
fn blobs_come_back_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(dir.path()).unwrap();
    let digest = archive.put(b"evidence").unwrap();
    assert_eq!(digest, Sha256Digest::of(&[b"evidence"]));
    assert_eq!(archive.put(b"evidence").unwrap(), digest);
    assert_eq!(Archive::open(dir.path()).unwrap().get(digest).unwrap(), b"evidence");
    let name = digest.to_hex();
    let path = dir.path().join(name.get(..2).unwrap()).join(&name);
    assert!(matches!(archive.get(Sha256Digest([0; 32])), Err(LineageError::Absent(_))));
    fs::write(&path, b"evidencE").unwrap();
    assert!(matches!(archive.get(digest), Err(LineageError::Blob { .. })));
    fs::write(&path, b"evid").unwrap();
    assert_eq!(archive.put(b"evidence").unwrap(), digest);
    assert_eq!(archive.get(digest).unwrap(), b"evidence", "what is not whole is written again");
    let most = vec![1; usize::try_from(BLOB_BYTES_MAX).unwrap()];
    let digest = archive.put(&most).unwrap();
    assert_eq!(archive.get(digest).unwrap(), most);
    assert!(matches!(archive.put(&[&most[..], &[1]].concat()), Err(LineageError::Blob { .. })));
    assert_eq!(files(dir.path()).len(), 2, "nothing temporary is left");
}

#[test]
fn many_writers_of_one_blob() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::open(dir.path()).unwrap();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let archive = archive.clone();
            std::thread::spawn(move || archive.put(b"one").unwrap())
        })
        .collect();
    for thread in threads {
        assert_eq!(archive.get(thread.join().unwrap()).unwrap(), b"one");
    }
    assert_eq!(files(dir.path()).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_entries_survive_reopening_at_any_point(
        sizes in proptest::collection::vec(0_usize..128, 1..80),
        stop in any::<usize>(),
    ) {
        let all: Vec<_> = sizes.iter().map(|size| Entry::broker_started(AT, &"v".repeat(*size))).collect();
        let log = Log::new();
        let (first, second) = all.split_at(stop % all.len());
        for part in [first, second] {
            let lineage = log.start();
            for entry in part {
                lineage.append_blocking(entry.clone()).unwrap();
            }
            lineage.stop();
        }
        let open = log.open(Some(head_of(&all))).unwrap();
        let mut walked = Vec::new();
        let from = stop % all.len();
        open.segments.walk(from as u64, all.len() as u64, |_, bytes| { walked.push(bytes.to_vec()); Ok(()) }).unwrap();
        let expected: Vec<_> = second.iter().map(|entry| entry.encode().unwrap()).collect();
        prop_assert_eq!(walked, expected);
        for (index, entry) in all.iter().enumerate() {
            let found = open.entry(index as u64).unwrap();
            prop_assert_eq!(found.as_ref(), Some(entry));
        }
        drop(open);
        prop_assert!(log.audit().is_ok());
    }
}
