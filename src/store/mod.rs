//! The embedded store: one redb file. It keeps bytes under keys and knows no domain rule; whoever calls it encodes.
//!
//! Every commit is one fsynced transaction, and its start is the [`Basis`] of what is signed after it: a write that is
//! known durable cannot outlive a partition the way a read can.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use countersign_attestation::UnixMillis;
use redb::backends::FileBackend;
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase as _, ReadableTable as _, StorageBackend, TableDefinition,
};

use crate::clock::Clock;

/// How much is read and written at a time when the store is opened.
const WRITE_AGAIN_BYTES: usize = 1024 * 1024;

/// Pages that stay in memory, beside those the kernel keeps.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// What the store keeps, by kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Registered hosts and their enrolments, by host id.
    Hosts,
    /// Trust records, by host id.
    Trust,
    /// Reference manifests, by manifest id.
    References,
    /// Waivers, in force and ended, by waiver id.
    Waivers,
    /// Denied pieces of hardware, by the denial's id.
    Denials,
    /// Newest documents of collateral, by subject.
    Collateral,
    /// Single values: epoch, tree head, applied index.
    Meta,
}

impl Table {
    const ALL: [Self; 7] =
        [Self::Hosts, Self::Trust, Self::References, Self::Waivers, Self::Denials, Self::Collateral, Self::Meta];

    const fn definition(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(match self {
            Self::Hosts => "hosts",
            Self::Trust => "trust",
            Self::References => "references",
            Self::Waivers => "waivers",
            Self::Denials => "denials",
            Self::Collateral => "collateral",
            Self::Meta => "meta",
        })
    }
}

/// One change of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put(Table, Vec<u8>, Vec<u8>),
    /// Removes a key; absent keys are no error.
    Delete(Table, Vec<u8>),
}

impl Write {
    /// Sets `key` to `value`.
    pub fn put(table: Table, key: impl AsRef<[u8]>, value: Vec<u8>) -> Self {
        Self::Put(table, key.as_ref().to_vec(), value)
    }
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// The start of a commit that is durable. Only the store makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Basis(UnixMillis);

/// A commit that has started and holds nothing yet.
#[derive(Debug)]
pub struct Started(UnixMillis);

impl Basis {
    /// When the commit started.
    #[must_use]
    pub const fn at(self) -> UnixMillis {
        self.0
    }
}

/// The store failed. After a failed commit nothing of it is visible and the caller must not act on it.
#[derive(Debug, thiserror::Error)]
#[error("the store failed to {doing}: {source}")]
pub struct StoreError {
    doing: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The embedded store. Clones share one database.
#[derive(Clone)]
pub struct Store {
    database: Arc<Database>,
    committed: Arc<Committed>,
    clock: Clock,
}

/// What is committed, for readers: a new reader would wait for the disk with whoever commits.
struct Committed {
    newest: ArcSwap<ReadTransaction>,
    /// Held from looking at the database on: what is looked at last is the newest.
    renewing: Mutex<()>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database file, creating it if it is not there. One process at a time can hold it.
    ///
    /// # Errors
    /// [`StoreError`] when the file is held by another process, damaged, or cannot be written.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, StoreError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(failed("open"))?;
        // Held until the database is closed: what follows writes.
        file.try_lock().map_err(failed("open"))?;
        Self::open_on(FileBackend::new(file).map_err(failed("open"))?, clock)
    }

    /// As [`Store::open`], on a disk that is no file.
    ///
    /// # Errors
    /// [`StoreError`] when the disk's content is damaged, or cannot be written.
    pub fn open_on(disk: impl StorageBackend, clock: Clock) -> Result<Self, StoreError> {
        write_again(&disk).map_err(failed("open"))?;
        let database =
            Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(disk).map_err(failed("open"))?;
        let transaction = database.begin_write().map_err(failed("open"))?;
        for table in Table::ALL {
            transaction.open_table(table.definition()).map_err(failed("open"))?;
        }
        transaction.commit().map_err(failed("open"))?;
        let newest = ArcSwap::from_pointee(database.begin_read().map_err(failed("open"))?);
        let committed = Arc::new(Committed { newest, renewing: Mutex::new(()) });
        Ok(Self { database: Arc::new(database), committed, clock })
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub fn get(&self, table: Table, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, StoreError> {
        let rows = self.committed.newest.load().open_table(table.definition()).map_err(failed("read"))?;
        let value = rows.get(key.as_ref()).map_err(failed("read"))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    /// Shows every key and value of a table to `show`, in key order, up to its first error.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub fn each<E>(
        &self,
        table: Table,
        mut show: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, StoreError> {
        let rows = self.committed.newest.load().open_table(table.definition()).map_err(failed("read"))?;
        for row in rows.iter().map_err(failed("read"))? {
            let (key, value) = row.map_err(failed("read"))?;
            if let Err(error) = show(key.value(), value.value()) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Every key and value of a table, in key order.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub fn scan(&self, table: Table) -> Result<Vec<Row>, StoreError> {
        let mut found = Vec::new();
        let Ok(()) = self.each(table, |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            Ok::<(), std::convert::Infallible>(())
        })?;
        Ok(found)
    }

    /// Makes all of `writes` durable together, or none.
    ///
    /// # Errors
    /// [`StoreError`] when the transaction did not become durable.
    pub fn commit(&self, writes: &[Write]) -> Result<Basis, StoreError> {
        self.commit_started(Started(self.clock.now()), writes)
    }

    /// Starts a commit whose content is yet to be collected: whatever is collected after this is at least as new as
    /// the basis.
    #[must_use]
    pub fn start(&self) -> Started {
        Started(self.clock.now())
    }

    /// Makes all of `writes` durable together, or none; the basis is when the commit was started.
    ///
    /// # Errors
    /// [`StoreError`] when the transaction did not become durable.
    pub fn commit_started(&self, started: Started, writes: &[Write]) -> Result<Basis, StoreError> {
        let basis = Basis(started.0);
        let mut transaction = self.database.begin_write().map_err(failed("commit"))?;
        transaction.set_durability(Durability::Immediate).map_err(failed("commit"))?;
        for write in writes {
            let table = match write {
                Write::Put(table, ..) | Write::Delete(table, _) => *table,
            };
            let mut rows = transaction.open_table(table.definition()).map_err(failed("commit"))?;
            match write {
                Write::Put(_, key, value) => drop(rows.insert(&key[..], &value[..]).map_err(failed("commit"))?),
                Write::Delete(_, key) => drop(rows.remove(&key[..]).map_err(failed("commit"))?),
            }
        }
        transaction.commit().map_err(failed("commit"))?;
        let _renewing = self.committed.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        self.committed.newest.store(Arc::new(self.database.begin_read().map_err(failed("commit"))?));
        Ok(basis)
    }
}

/// Writes all of the disk's content once more and syncs it. After a sync that failed, what it was to make durable may
/// be in the page cache only, and no later sync would write it: the database would build on it, and a power failure
/// would take it away from below.
fn write_again(disk: &impl StorageBackend) -> std::io::Result<()> {
    let length = disk.len()?;
    let mut bytes = vec![0; WRITE_AGAIN_BYTES];
    let mut offset = 0;
    while let Some(left) = length.checked_sub(offset).filter(|left| *left != 0) {
        let count = usize::try_from(left).unwrap_or(WRITE_AGAIN_BYTES).min(WRITE_AGAIN_BYTES);
        let Some(bytes) = bytes.get_mut(..count) else { break };
        disk.read(offset, bytes)?;
        disk.write(offset, bytes)?;
        offset = offset.saturating_add(count as u64);
    }
    if length == 0 { Ok(()) } else { disk.sync_data() }
}

fn failed<E: std::error::Error + Send + Sync + 'static>(doing: &'static str) -> impl Fn(E) -> StoreError {
    move |source| StoreError { doing, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use countersign_attestation::UnixMillis;
    use redb::StorageBackend;

    use super::{Store, Table, Write};
    use crate::clock::Clock;

    /// A file in memory, and what was done to it.
    #[derive(Clone, Debug, Default)]
    struct Watched(Arc<Mutex<(Vec<u8>, Vec<Done>)>>);

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Done {
        Wrote { from: u64, bytes: u64 },
        Synced,
    }

    impl StorageBackend for Watched {
        fn len(&self) -> io::Result<u64> {
            Ok(self.0.lock().unwrap().0.len() as u64)
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let offset = usize::try_from(offset).unwrap();
            out.copy_from_slice(&self.0.lock().unwrap().0[offset..offset + out.len()]);
            Ok(())
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.lock().unwrap().0.resize(usize::try_from(len).unwrap(), 0);
            Ok(())
        }

        fn sync_data(&self) -> io::Result<()> {
            self.0.lock().unwrap().1.push(Done::Synced);
            Ok(())
        }

        fn write(&self, from: u64, data: &[u8]) -> io::Result<()> {
            let mut file = self.0.lock().unwrap();
            let offset = usize::try_from(from).unwrap();
            file.0[offset..offset + data.len()].copy_from_slice(data);
            file.1.push(Done::Wrote { from, bytes: data.len() as u64 });
            Ok(())
        }
    }

    #[test]
    fn what_a_failed_sync_may_have_left_in_the_cache_is_written_and_synced_at_the_next_start() {
        let (disk, clock) = (Watched::default(), Clock::manual(UnixMillis(77)));
        let store = Store::open_on(disk.clone(), clock.clone()).unwrap();
        store.commit(&[Write::put(Table::Meta, "a", vec![7; 2_000_000])]).unwrap();
        drop(store);
        let length = disk.len().unwrap();
        disk.0.lock().unwrap().1.clear();
        let store = Store::open_on(disk.clone(), clock).unwrap();
        let done = disk.0.lock().unwrap().1.clone();
        let mut end = 0;
        let before = done.iter().position(|done| *done == Done::Synced).unwrap();
        for done in &done[..before] {
            let Done::Wrote { from, bytes } = done else { panic!("{done:?}") };
            assert_eq!(*from, end);
            end += bytes;
        }
        assert_eq!(end, length, "all of it, before anything is built on it");
        assert_eq!(store.get(Table::Meta, "a").unwrap(), Some(vec![7; 2_000_000]));
    }

    #[test]
    fn commits_survive_reopening_and_the_basis_is_their_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let clock = Clock::manual(UnixMillis(77));
        let store = Store::open(&path, clock.clone()).unwrap();
        let basis = store.commit(&[Write::put(Table::Meta, "a", b"1".to_vec())]).unwrap();
        assert_eq!(basis.at(), UnixMillis(77));
        assert!(Store::open(&path, clock.clone()).is_err(), "one process at a time");
        drop(store);
        let store = Store::open(&path, clock).unwrap();
        assert_eq!(store.get(Table::Meta, "a").unwrap(), Some(b"1".to_vec()));
        store.commit(&[Write::Delete(Table::Meta, b"a".to_vec()), Write::put(Table::Meta, "b", vec![])]).unwrap();
        assert_eq!(store.scan(Table::Meta).unwrap(), [(b"b".to_vec(), vec![])]);
        assert_eq!(store.scan(Table::Hosts).unwrap(), []);
    }
}
