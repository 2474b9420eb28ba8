//! The durable log. One thread writes it: it takes what waits, makes it durable with one fdatasync, applies it in order,
//! and only then lets those who wait go on. After any failure it stops for good: nothing unrecorded takes effect.

pub mod archive;
pub mod audit;
pub mod key;
mod segment;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::lineage::tree::{Frontier, TreeHead, leaf_hash};
use countersign_attestation::rejection::Rejection;
use tokio::sync::oneshot;

pub use key::LogKey;
use segment::{Place, Segments};

/// Entries that share one fdatasync.
const BATCH_MAX: usize = 256;

/// The log failed.
#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is on disk is not the log it has to be.
    #[error("{path}: expected {expected}, found {found}")]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What has to be there.
        expected: String,
        /// What is.
        found: String,
    },
    /// An entry cannot be encoded or decoded.
    #[error(transparent)]
    Entry(#[from] Rejection),
    /// A write failed before; the log takes nothing any more until the process starts anew.
    #[error("the log stopped after a failure")]
    Poisoned,
    /// The log's key.
    #[error("log key: {0}")]
    Key(String),
}

impl LineageError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    fn damaged(path: &Path, expected: impl ToString, found: impl ToString) -> Self {
        Self::Damaged { path: path.to_owned(), expected: expected.to_string(), found: found.to_string() }
    }
}

/// An entry that is durable and applied. Only the log makes one, so whoever holds one may act on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    index: u64,
    leaf_hash: Sha256Digest,
    entry: Entry,
}

impl Recorded {
    /// Its index.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// Its leaf hash: the decision id.
    #[must_use]
    pub const fn leaf_hash(&self) -> Sha256Digest {
        self.leaf_hash
    }

    /// The entry.
    #[must_use]
    pub const fn entry(&self) -> &Entry {
        &self.entry
    }
}

/// The log. Clones share it.
#[derive(Clone)]
pub struct Lineage {
    queue: Sender<Waiting>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Lineage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lineage").field("head", &self.head()).finish_non_exhaustive()
    }
}

struct Waiting {
    entry: Entry,
    bytes: Vec<u8>,
    reply: Reply,
}

/// Who waits.
enum Reply {
    Task(oneshot::Sender<Recorded>),
    Thread(SyncSender<Recorded>),
}

impl Reply {
    /// When nobody waits any more, it is recorded and applied all the same.
    fn send(self, recorded: Recorded) {
        match self {
            Self::Task(reply) => drop(reply.send(recorded)),
            Self::Thread(reply) => drop(reply.send(recorded)),
        }
    }
}

/// What readers see: only what is durable and applied.
struct Shared {
    dir: PathBuf,
    key: LogKey,
    readable: Mutex<Readable>,
}

struct Readable {
    head: TreeHead,
    places: Vec<Place>,
    note: Option<(u64, String)>,
}

/// A log that was found whole and waits to be started.
#[derive(Debug)]
pub struct OpenLog {
    dir: PathBuf,
    key: LogKey,
    segments: Segments,
    places: Vec<Place>,
    entries: Vec<Vec<u8>>,
    frontier: Frontier,
}

impl OpenLog {
    /// An entry, for recovery.
    ///
    /// # Errors
    /// [`LineageError::Entry`] when it does not decode.
    pub fn entry(&self, index: u64) -> Result<Option<Entry>, LineageError> {
        let bytes = usize::try_from(index).ok().and_then(|index| self.entries.get(index));
        Ok(bytes.map(|bytes| Entry::decode(bytes)).transpose()?)
    }

    /// Starts the writing thread. `apply` gets every entry in order, once it is durable and before anyone learns so.
    ///
    /// # Errors
    /// [`LineageError::File`] when there is no thread to be had.
    pub fn start(self, apply: impl FnMut(u64, &Entry) + Send + 'static) -> Result<Lineage, LineageError> {
        let readable = Readable { head: self.frontier.head(), places: self.places, note: None };
        let shared = Arc::new(Shared { dir: self.dir, key: self.key, readable: Mutex::new(readable) });
        let (queue, waiting) = channel();
        let writer =
            Writer { segments: self.segments, frontier: self.frontier, shared: Arc::clone(&shared), apply };
        std::thread::Builder::new()
            .name("lineage".to_owned())
            .spawn(move || writer.run(&waiting))
            .map_err(LineageError::file(&shared.dir))?;
        Ok(Lineage { queue, shared })
    }
}

impl Lineage {
    /// Opens the log of a directory and checks it against the last head that is known durable.
    ///
    /// # Errors
    /// [`LineageError`] for a log that is damaged, shorter than `floor`, another one than `floor`'s, or held.
    pub fn open(
        dir: &Path,
        key: LogKey,
        floor: Option<TreeHead>,
    ) -> Result<OpenLog, LineageError> {
        let recovered = Segments::open(dir, floor.map_or(0, |floor| floor.size))?;
        let mut frontier = Frontier::new();
        let mut at_floor = frontier.head();
        for entry in &recovered.entries {
            frontier.push(leaf_hash(entry));
            if floor.is_some_and(|floor| floor.size == frontier.head().size) {
                at_floor = frontier.head();
            }
        }
        if let Some(floor) = floor
            && at_floor != floor
        {
            let shown = |head: TreeHead| format!("{} entries with root {}", head.size, head.root);
            return Err(LineageError::damaged(dir, shown(floor), shown(at_floor)));
        }
        let segment::Recovered { segments, places, entries } = recovered;
        Ok(OpenLog { dir: dir.to_owned(), key, segments, places, entries, frontier })
    }

    /// Makes an entry durable and applied.
    ///
    /// # Errors
    /// [`LineageError`]; after [`LineageError::Poisoned`] nothing is known to have been recorded.
    pub async fn append(&self, entry: Entry) -> Result<Recorded, LineageError> {
        let bytes = entry.encode()?;
        let (reply, receiver) = oneshot::channel();
        let reply = Reply::Task(reply);
        self.queue.send(Waiting { entry, bytes, reply }).map_err(|_| LineageError::Poisoned)?;
        receiver.await.map_err(|_| LineageError::Poisoned)
    }

    /// [`Lineage::append`] for threads that may block.
    ///
    /// # Errors
    /// As [`Lineage::append`].
    pub fn append_blocking(&self, entry: Entry) -> Result<Recorded, LineageError> {
        let bytes = entry.encode()?;
        let (reply, receiver) = sync_channel(1);
        let reply = Reply::Thread(reply);
        self.queue.send(Waiting { entry, bytes, reply }).map_err(|_| LineageError::Poisoned)?;
        receiver.recv().map_err(|_| LineageError::Poisoned)
    }

    /// Size and root of what is durable and applied.
    #[must_use]
    pub fn head(&self) -> TreeHead {
        self.readable().head
    }

    /// A signed checkpoint (C2SP tlog-checkpoint) of [`Lineage::head`].
    ///
    /// # Errors
    /// [`LineageError::Key`].
    pub fn checkpoint(&self) -> Result<String, LineageError> {
        let mut readable = self.readable();
        let head = readable.head;
        match &readable.note {
            Some((size, note)) if *size == head.size => Ok(note.clone()),
            Some(_) | None => {
                let note = self.shared.key.sign_checkpoint(head)?;
                readable.note = Some((head.size, note.clone()));
                Ok(note)
            }
        }
    }

    /// The bytes of an entry, checked.
    ///
    /// # Errors
    /// [`LineageError`] when the file is unreadable or damaged.
    pub fn read(&self, index: u64) -> Result<Option<Vec<u8>>, LineageError> {
        let place = usize::try_from(index).ok().and_then(|at| self.readable().places.get(at).copied());
        place.map(|place| segment::read_at(&self.shared.dir, index, place)).transpose()
    }

    fn readable(&self) -> std::sync::MutexGuard<'_, Readable> {
        // Every critical section below assigns whole values: a panic cannot leave half of one.
        self.shared.readable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Writer<A> {
    segments: Segments,
    frontier: Frontier,
    shared: Arc<Shared>,
    apply: A,
}

impl<A: FnMut(u64, &Entry)> Writer<A> {
    /// Ends, and with it the log, at the first failure, or when no handle is left.
    fn run(mut self, waiting: &Receiver<Waiting>) {
        while let Ok(first) = waiting.recv() {
            let mut batch = vec![first];
            batch.extend(waiting.try_iter().take(BATCH_MAX - 1));
            if let Err(error) = self.write(batch) {
                tracing::error!(%error, "the log stops; nothing is issued or revoked until the broker starts anew");
                return;
            }
        }
    }

    fn write(&mut self, batch: Vec<Waiting>) -> Result<(), LineageError> {
        let first = self.frontier.head().size;
        let (entries, waiting): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|waiting| (waiting.bytes, (waiting.entry, waiting.reply))).unzip();
        // A crash in here leaves entries that nobody was told of: recovery applies those that are whole.
        let places = self.segments.append(first, &entries)?;
        let mut recorded = Vec::with_capacity(waiting.len());
        for ((index, bytes), (entry, reply)) in (first..).zip(&entries).zip(waiting) {
            let leaf_hash = leaf_hash(bytes);
            self.frontier.push(leaf_hash);
            (self.apply)(index, &entry);
            recorded.push((Recorded { index, leaf_hash, entry }, reply));
        }
        {
            let mut readable = self.shared.readable.lock().unwrap_or_else(PoisonError::into_inner);
            readable.head = self.frontier.head();
            readable.places.extend(places);
        }
        for (recorded, reply) in recorded {
            reply.send(recorded);
        }
        Ok(())
    }
}
