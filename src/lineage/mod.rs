//! The lineage log: every decision becomes an entry here before anything comes of it.
//!
//! One thread owns the files. It takes whatever waits, writes it as one batch, syncs once, applies each entry in order,
//! and only then answers. After a failed write or sync nobody knows what is on the disk, so the log is *poisoned*: it
//! takes no more entries, and a restart reads what is really there.

pub mod archive;
pub mod audit;
pub mod disk;
pub mod key;
mod publish;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use countersign_attestation::Rejection;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::checkpoint::Checkpoint;
use countersign_attestation::lineage::entry::{Entry, Event};
use countersign_attestation::lineage::tree::{Frontier, leaf_hash};
use rustix::fs::{FlockOperation, flock};
use tokio::sync::oneshot;

pub use countersign_attestation::lineage::tree::TreeHead;
pub use key::LogKey;

use crate::config::{ConfigError, create_private_dir};
use disk::{Directory, Disk};
use publish::Publisher;
use segment::{BATCH_BYTES_MAX, BATCH_MAX, SEGMENT_BYTES, Segments, Writer, Written, frame_bytes};

/// Entries that may wait. At one sync for each batch this is seconds of work: who comes later is told at once.
const QUEUE_MAX: usize = 16_384;
/// Time between two publications while entries come.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// The log cannot be opened, or did not take an entry.
#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory or a key file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another process has the log open.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// An entry that was durable is damaged.
    #[error("{path}: entry {index} is damaged: restore the log from its copy, and never start without it")]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// The entry.
        index: u64,
    },
    /// An entry's bytes are no entry.
    #[error("entry {index}: {rejection}")]
    Entry {
        /// The entry.
        index: u64,
        /// Why.
        rejection: Rejection,
    },
    /// A file of the log is not there, although later ones are.
    #[error("{0} is missing")]
    Missing(PathBuf),
    /// The log is shorter than it is known to have been.
    #[error("the log has {found} entries, and had {expected}: it was cut")]
    Cut {
        /// Entries it had.
        expected: u64,
        /// Entries it has.
        found: u64,
    },
    /// The log is not the one it is known to have been.
    #[error("the first {size} entries of the log have the root {found}, and had {expected}: it was rewritten")]
    Rewritten {
        /// Entries.
        size: u64,
        /// Their root.
        expected: Sha256Digest,
        /// Their root now.
        found: Sha256Digest,
    },
    /// The entry cannot be encoded; nothing was recorded.
    #[error("not an entry: {0}")]
    Refused(Rejection),
    /// Too many entries wait; nothing was recorded.
    #[error("too many entries wait")]
    Overloaded,
    /// A write, a sync or applying an entry failed, now or before. Whether this entry is durable is not known.
    #[error("the log has failed and takes no more entries")]
    Poisoned,
    /// The log's copy could not be written.
    #[error("the log could not be published")]
    Unpublished,
    /// A key could not be made, read or used.
    #[error("log key: {0}")]
    Key(&'static str),
    /// An archived blob is absent.
    #[error("{0} is not in the archive")]
    Absent(Sha256Digest),
    /// An archived blob is not what its name says, or too large.
    #[error("{path}: expected {expected}, found {found}")]
    Blob {
        /// Where.
        path: PathBuf,
        /// What would be accepted.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl LineageError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

/// An entry that is durable and applied. Only the log makes one.
///
/// ```compile_fail
/// let forged = countersign::lineage::Recorded { index: 0, leaf_hash: todo!(), entry: todo!(), effect: todo!() };
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    index: u64,
    leaf_hash: Sha256Digest,
    entry: Entry,
    effect: Effect,
}

/// What an entry did to the state that follows the log, when its turn came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It changed the state of the host it names.
    Changed,
    /// It changed nothing: it is only a record, or was made on a state that was no longer the host's.
    Nothing,
}

impl Recorded {
    /// The entry's index.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// The entry's leaf hash: the decision's id.
    #[must_use]
    pub const fn leaf_hash(&self) -> Sha256Digest {
        self.leaf_hash
    }

    /// The entry.
    #[must_use]
    pub const fn entry(&self) -> &Entry {
        &self.entry
    }

    /// What the entry did, whatever has come after it.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        self.effect
    }
}

/// A log that was read to its end and checked, before it takes entries.
#[derive(Debug)]
pub struct OpenLog {
    dir: PathBuf,
    key: LogKey,
    lock: File,
    segments: Segments,
    frontier: Frontier,
    registered: BTreeSet<Sha256Digest>,
}

/// The actor of what no operator brought about.
pub const BY_BROKER: &str = "broker";

/// What an entry says of the manifests that are registered. What the broker itself takes out of force, for its signers,
/// stays registered: it is compared with the list of operators wherever it is read.
fn follow_registrations(registered: &mut BTreeSet<Sha256Digest>, entry: &Entry) {
    let Some(subject) = entry.subject() else { return };
    if entry.event() == Event::ReferenceRegistered {
        registered.insert(subject);
    } else if entry.event() == Event::ReferenceWithdrawn && entry.actor() != Some(BY_BROKER) {
        registered.remove(&subject);
    }
}

/// The running log. Clones share it; when the last is dropped, the thread ends.
#[derive(Clone)]
pub struct Lineage {
    queue: SyncSender<Command>,
    shared: Arc<Shared>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl std::fmt::Debug for Lineage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lineage").field("key", &self.shared.key).finish_non_exhaustive()
    }
}

/// What readers see.
#[derive(Debug)]
struct Shared {
    key: LogKey,
    segments: RwLock<Segments>,
    head: Mutex<TreeHead>,
    signed: Mutex<Option<(TreeHead, String)>>,
    poisoned: AtomicBool,
}

type Answer = Box<dyn FnOnce(Result<Recorded, LineageError>) + Send>;

/// An entry that nobody has begun to write.
struct Waiting {
    entry: Entry,
    bytes: Vec<u8>,
    answer: Answer,
}

enum Command {
    Append(Box<Waiting>),
    Publish(SyncSender<Result<(), LineageError>>),
    Stop,
}

impl Lineage {
    /// Opens the log in `dir`, creating it if there is none, and reads it to its end. `floor` is a head that is known
    /// to have been durable: a log that is shorter, or has another root at that size, is refused. So is one that
    /// contradicts the checkpoint it published itself.
    ///
    /// # Errors
    /// [`LineageError`].
    pub fn open(dir: &Path, origin: &str, key: LogKey, floor: Option<TreeHead>) -> Result<OpenLog, LineageError> {
        Self::open_sized(dir, origin, key, floor, SEGMENT_BYTES)
    }

    fn open_sized(
        dir: &Path,
        origin: &str,
        key: LogKey,
        floor: Option<TreeHead>,
        segment_bytes: u64,
    ) -> Result<OpenLog, LineageError> {
        create_private_dir(dir)?;
        Self::open_on(dir, origin, key, floor, Arc::new(Directory::open(dir.to_owned(), segment_bytes)?))
    }

    /// As [`Lineage::open`], with the segments on another disk; `dir` has the lock and the public copy.
    ///
    /// # Errors
    /// [`LineageError`].
    pub fn open_on(
        dir: &Path,
        origin: &str,
        key: LogKey,
        floor: Option<TreeHead>,
        disk: Arc<dyn Disk>,
    ) -> Result<OpenLog, LineageError> {
        if key.origin() != origin {
            return Err(LineageError::Key("it signs for another origin"));
        }
        create_private_dir(dir)?;
        let lock_path = dir.join("lock");
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = options.map_err(LineageError::file(&lock_path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| LineageError::InUse(dir.to_owned()))?;
        let floors: Vec<TreeHead> = floor.into_iter().chain(published_head(dir, &key)).collect();
        let durable = floors.iter().map(|floor| floor.size).max().unwrap_or(0);
        let (mut frontier, mut registered) = (Frontier::new(), BTreeSet::new());
        let mut heads = floors.iter().filter(|floor| floor.size == 0).map(|_| frontier.head()).collect::<Vec<_>>();
        let segments = Segments::open(dir, disk, durable, |index, bytes| {
            let entry = Entry::decode(bytes).map_err(|rejection| LineageError::Entry { index, rejection })?;
            follow_registrations(&mut registered, &entry);
            frontier.push(leaf_hash(bytes));
            if floors.iter().any(|floor| floor.size == frontier.size()) {
                heads.push(frontier.head());
            }
            Ok(())
        })?;
        for floor in floors {
            let Some(head) = heads.iter().find(|head| head.size == floor.size) else {
                return Err(LineageError::Cut { expected: floor.size, found: segments.entries() });
            };
            if *head != floor {
                let (expected, found) = (floor.root, head.root);
                return Err(LineageError::Rewritten { size: floor.size, expected, found });
            }
        }
        Ok(OpenLog { dir: dir.to_owned(), key, lock, segments, frontier, registered })
    }

    /// Records an entry: durable and applied when this returns. Whoever stops waiting does not take the entry back.
    ///
    /// # Errors
    /// [`LineageError::Refused`] and [`LineageError::Overloaded`] when nothing was recorded;
    /// [`LineageError::Poisoned`] when that is not known.
    pub async fn append(&self, entry: Entry) -> Result<Recorded, LineageError> {
        let (answer, answered) = oneshot::channel();
        // Nobody waits any more: the entry stays recorded.
        self.send(entry, Box::new(move |result| drop(answer.send(result))))?;
        answered.await.map_err(|_| LineageError::Poisoned)?
    }

    /// As [`Lineage::append`], for threads.
    ///
    /// # Errors
    /// As [`Lineage::append`].
    pub fn append_blocking(&self, entry: Entry) -> Result<Recorded, LineageError> {
        self.submit(entry)?.recv().map_err(|_| LineageError::Poisoned)?
    }

    /// As [`Lineage::append_blocking`], for many: entries wait for the disk together, not one after the other.
    ///
    /// # Errors
    /// As [`Lineage::append`], of the first that failed; those before it are recorded, and of those after it some may
    /// be.
    pub fn append_all_blocking(&self, entries: impl IntoIterator<Item = Entry>) -> Result<Vec<Recorded>, LineageError> {
        let mut entries = entries.into_iter().peekable();
        let mut recorded = Vec::new();
        while entries.peek().is_some() {
            let batch = entries.by_ref().take(BATCH_MAX);
            let waiting = batch.map(|entry| self.submit(entry)).collect::<Result<Vec<_>, _>>()?;
            for answered in waiting {
                recorded.push(answered.recv().map_err(|_| LineageError::Poisoned)??);
            }
        }
        Ok(recorded)
    }

    /// Hands an entry over; what became of it comes later.
    fn submit(&self, entry: Entry) -> Result<Receiver<Result<Recorded, LineageError>>, LineageError> {
        let (answer, answered) = sync_channel(1);
        self.send(entry, Box::new(move |result| drop(answer.send(result))))?;
        Ok(answered)
    }

    fn send(&self, entry: Entry, answer: Answer) -> Result<(), LineageError> {
        let bytes = entry.encode().map_err(LineageError::Refused)?;
        if self.is_poisoned() {
            return Err(LineageError::Poisoned);
        }
        self.queue.try_send(Command::Append(Box::new(Waiting { entry, bytes, answer }))).map_err(|error| match error {
            std::sync::mpsc::TrySendError::Full(_) => LineageError::Overloaded,
            std::sync::mpsc::TrySendError::Disconnected(_) => LineageError::Poisoned,
        })
    }

    /// The head over every entry that is durable and applied.
    #[must_use]
    pub fn head(&self) -> TreeHead {
        *lock(&self.shared.head)
    }

    /// The signed checkpoint of [`Lineage::head`].
    ///
    /// # Errors
    /// [`LineageError::Poisoned`].
    pub fn checkpoint(&self) -> Result<String, LineageError> {
        if self.is_poisoned() {
            return Err(LineageError::Poisoned);
        }
        let head = self.head();
        let mut signed = lock(&self.shared.signed);
        if let Some((_, note)) = signed.as_ref().filter(|(of, _)| *of == head) {
            return Ok(note.clone());
        }
        let note = self.shared.key.checkpoint(head);
        *signed = Some((head, note.clone()));
        Ok(note)
    }

    /// The bytes of an entry; none beyond the head.
    ///
    /// # Errors
    /// [`LineageError`] when it cannot be read.
    pub fn read(&self, index: u64) -> Result<Option<Vec<u8>>, LineageError> {
        self.shared.segments.read().map_err(|_| LineageError::Poisoned)?.read(index)
    }

    /// Writes the log's public copy now and waits for it: checkpoint, tiles and bundles. It is also written about
    /// every second while entries come.
    ///
    /// # Errors
    /// [`LineageError::Unpublished`]; the log itself goes on.
    pub fn publish(&self) -> Result<(), LineageError> {
        let (answer, answered) = sync_channel(1);
        self.queue.send(Command::Publish(answer)).map_err(|_| LineageError::Poisoned)?;
        answered.recv().map_err(|_| LineageError::Poisoned)?
    }

    /// Whether the log has failed.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.shared.poisoned.load(Ordering::SeqCst)
    }

    /// The key that relying parties verify checkpoints with.
    #[must_use]
    pub fn vkey(&self) -> String {
        self.shared.key.vkey()
    }

    /// Stops the log: what waits is recorded, the copy is published, the directory is free when this returns.
    pub fn stop(&self) {
        // An error means that the thread has ended already.
        let _ended = self.queue.send(Command::Stop);
        if let Some(thread) = lock(&self.thread).take() {
            // A panic has been reported by the panic hook, and poisoned the log.
            let _ended = thread.join();
        }
    }
}

/// The head of the checkpoint that this log published, if it can be verified. It was durable when it was signed.
fn published_head(dir: &Path, key: &LogKey) -> Option<TreeHead> {
    let note = std::fs::read_to_string(dir.join("checkpoint")).ok()?;
    match Checkpoint::verify(&note, key.public(), key.origin()) {
        Ok(checkpoint) => Some(checkpoint.head()),
        Err(rejection) => {
            tracing::warn!(%rejection, "the published checkpoint is damaged and will be written anew");
            None
        }
    }
}

/// A lock whose holders do not leave anything half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl OpenLog {
    /// Digests of the reference manifests that operators registered and have not withdrawn, by all entries there are.
    #[must_use]
    pub const fn registered(&self) -> &BTreeSet<Sha256Digest> {
        &self.registered
    }

    /// An entry, for folding the log into state.
    ///
    /// # Errors
    /// [`LineageError`] when it cannot be read.
    pub fn entry(&self, index: u64) -> Result<Option<Entry>, LineageError> {
        let Some(bytes) = self.segments.read(index)? else { return Ok(None) };
        Entry::decode(&bytes).map(Some).map_err(|rejection| LineageError::Entry { index, rejection })
    }

    /// Size and root.
    #[must_use]
    pub fn head(&self) -> TreeHead {
        self.frontier.head()
    }

    /// Starts taking entries. `sink` is called with each, in order, once it is durable and before anyone who waits for
    /// it goes on.
    ///
    /// # Errors
    /// [`LineageError`] when the last segment cannot be opened or no thread be started.
    pub fn start(self, sink: impl FnMut(u64, &Entry) -> Effect + Send + 'static) -> Result<Lineage, LineageError> {
        let (queue, commands) = sync_channel(QUEUE_MAX);
        let writer = Writer::new(&self.segments)?;
        let publisher = Publisher::new(&self.dir);
        let shared = Arc::new(Shared {
            key: self.key,
            segments: RwLock::new(self.segments),
            head: Mutex::new(self.frontier.head()),
            signed: Mutex::new(None),
            poisoned: AtomicBool::new(false),
        });
        let committer = Committer {
            _lock: self.lock,
            shared: Arc::clone(&shared),
            writer,
            frontier: self.frontier,
            sink,
            publisher,
            fuse: Fuse(Arc::clone(&shared)),
        };
        let path = self.dir;
        let thread = std::thread::Builder::new().name("lineage".to_owned());
        let thread = thread.spawn(move || committer.run(&commands)).map_err(LineageError::file(&path))?;
        Ok(Lineage { queue, shared, thread: Arc::new(Mutex::new(Some(thread))) })
    }
}

/// Poisons the log however the thread ends: by an error, by a panic, or because it was stopped.
struct Fuse(Arc<Shared>);

impl Drop for Fuse {
    fn drop(&mut self) {
        self.0.poisoned.store(true, Ordering::SeqCst);
    }
}

/// The thread's own.
struct Committer<S> {
    shared: Arc<Shared>,
    writer: Writer,
    frontier: Frontier,
    sink: S,
    publisher: Publisher,
    fuse: Fuse,
    /// Held as long as the thread lives.
    _lock: File,
}

#[derive(Default)]
struct Batch {
    bytes: Vec<Vec<u8>>,
    entries: Vec<(Entry, Answer)>,
    size: usize,
    publish: Vec<SyncSender<Result<(), LineageError>>>,
    stop: bool,
}

impl Batch {
    fn add(&mut self, command: Command) {
        match command {
            Command::Append(waiting) => {
                let Waiting { entry, bytes, answer } = *waiting;
                self.size = self.size.saturating_add(frame_bytes(bytes.len()));
                self.bytes.push(bytes);
                self.entries.push((entry, answer));
            }
            Command::Publish(answer) => self.publish.push(answer),
            Command::Stop => self.stop = true,
        }
    }

    /// The next entry could be as large as an entry can be.
    fn is_full(&self) -> bool {
        let room = frame_bytes(countersign_attestation::lineage::entry::BYTES_MAX);
        self.stop || BATCH_MAX <= self.entries.len() || BATCH_BYTES_MAX < self.size.saturating_add(room)
    }
}

impl<S: FnMut(u64, &Entry) -> Effect> Committer<S> {
    fn run(mut self, commands: &Receiver<Command>) {
        let mut published = crate::clock::monotonic();
        loop {
            let mut batch = Batch::default();
            match commands.recv_timeout(PUBLISH_EVERY) {
                Ok(command) => batch.add(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => batch.stop = true,
            }
            while !batch.is_full() {
                let Ok(command) = commands.try_recv() else { break };
                batch.add(command);
            }
            let Batch { bytes, entries, publish, stop, .. } = batch;
            if let Err(error) = self.commit(&bytes, entries) {
                tracing::error!(%error, "the log failed and is closed: a restart reads what was recorded");
                return;
            }
            let due = PUBLISH_EVERY <= crate::clock::monotonic().duration_since(published);
            if stop || due || !publish.is_empty() {
                let result = self.publish();
                published = crate::clock::monotonic();
                for waiter in publish {
                    // Nobody waits any more: published all the same.
                    let _gone = waiter.try_send(result.map_err(|()| LineageError::Unpublished));
                }
            }
            if stop {
                drop(self.fuse);
                return;
            }
        }
    }

    /// Durable, applied, visible, answered: in this order. A crash before the sync ends leaves nothing that anyone was
    /// told of; a crash after it leaves entries that the next start applies from the log.
    fn commit(&mut self, bytes: &[Vec<u8>], entries: Vec<(Entry, Answer)>) -> Result<(), LineageError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut answers = Vec::with_capacity(entries.len());
        let written = self.write_and_apply(bytes, entries, &mut answers).inspect_err(|_| {
            // Before the answers are dropped: whoever waits must find the log closed.
            self.shared.poisoned.store(true, Ordering::SeqCst);
        })?;
        self.shared.segments.write().map_err(|_| LineageError::Poisoned)?.advance(written);
        *lock(&self.shared.head) = self.frontier.head();
        for (answer, result) in answers {
            answer(result);
        }
        Ok(())
    }

    fn write_and_apply(
        &mut self,
        bytes: &[Vec<u8>],
        entries: Vec<(Entry, Answer)>,
        answers: &mut Vec<(Answer, Result<Recorded, LineageError>)>,
    ) -> Result<Written, LineageError> {
        let shared = Arc::clone(&self.shared);
        // From here until all are applied, an error leaves every answer of the batch as it is: not known.
        let mut applied = Vec::with_capacity(entries.len());
        let written = shared.segments.read().map_err(|_| LineageError::Poisoned);
        let written = written.and_then(|segments| self.writer.write(&segments, bytes));
        let mut failed = written.is_err();
        for ((entry, answer), bytes) in entries.into_iter().zip(bytes) {
            let (index, leaf_hash) = (self.frontier.size(), leaf_hash(bytes));
            let sink = &mut self.sink;
            let effect = (!failed).then(|| catch_unwind(AssertUnwindSafe(|| sink(index, &entry))).ok()).flatten();
            failed = effect.is_none();
            self.frontier.push(leaf_hash);
            applied.push(Recorded { index, leaf_hash, entry, effect: effect.unwrap_or(Effect::Nothing) });
            answers.push((answer, Err(LineageError::Poisoned)));
        }
        if failed {
            return Err(written.err().unwrap_or(LineageError::Poisoned));
        }
        for ((_, answer), recorded) in answers.iter_mut().zip(applied) {
            *answer = Ok(recorded);
        }
        written
    }

    /// The copy can fail without harm to the log; it is tried again.
    fn publish(&mut self) -> Result<(), ()> {
        let head = self.frontier.head();
        let segments = self.shared.segments.read().map_err(drop)?;
        self.publisher.publish(&segments, head, || self.shared.key.checkpoint(head)).map_err(|error| {
            tracing::error!(%error, "the log's copy was not published");
        })
    }
}
