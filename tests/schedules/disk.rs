//! A machine's disk, in memory: what a process wrote, what of it is durable, and what goes wrong.
//!
//! A process that is killed leaves the page cache behind, and the next one reads it. When the power fails, what was
//! not synced is kept, lost or torn sector by sector, in any order. After a sync that failed, what it was to make
//! durable stays in the cache, no later sync writes it again, and only a power failure shows what became of it: all of
//! it, nothing, or some sectors.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use countersign::lineage::LineageError;
use countersign::lineage::disk::{Disk, SegmentFile};
use redb::StorageBackend;

use crate::dice::Dice;

const SECTOR: usize = 512;
/// Small, so that a schedule fills several.
pub(crate) const SEGMENT_BYTES: u64 = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Segment(u64),
    Store,
}

/// Which of the two that write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Room {
    Log,
    Store,
}

/// What goes wrong at the next sync of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Not everything was made durable. The number says what was.
    Lost(u64),
    /// All of it was, and the answer says that it was not.
    DoneButReportedLost,
    /// The power fails before the answer.
    PowerFails,
}

#[derive(Debug, Default)]
struct Content {
    /// As processes see it.
    seen: Vec<u8>,
    /// As it is on the platter.
    durable: Vec<u8>,
    /// Written since the last sync.
    cached: Vec<Change>,
    /// Whether a power failure leaves the name.
    named: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Size(u64),
}

type Meanwhile = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    files: BTreeMap<Name, Content>,
    /// Counts the processes that had the disk; those before the current one are dead.
    session: u64,
    alive: bool,
    powered_off: bool,
    faults: BTreeMap<Room, Fault>,
    full: bool,
    /// Syncs of the log wait.
    stalled: bool,
    /// One of them does.
    waiting: bool,
    /// What happens while the store syncs.
    meanwhile: Option<Meanwhile>,
}

/// The disk of the broker's machine.
#[derive(Clone, Default)]
pub(crate) struct Platter(Arc<(Mutex<State>, Condvar)>);

impl std::fmt::Debug for Platter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Platter")
    }
}

impl Content {
    fn do_now(content: &mut Vec<u8>, change: &Change) {
        match change {
            Change::Write(offset, bytes) => {
                let offset = usize::try_from(*offset).unwrap();
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[offset..end].copy_from_slice(bytes);
            }
            Change::Size(size) => content.resize(usize::try_from(*size).unwrap(), 0),
        }
    }

    fn change(&mut self, change: Change) {
        Self::do_now(&mut self.seen, &change);
        self.cached.push(change);
    }

    fn sync(&mut self) {
        for change in self.cached.drain(..) {
            Self::do_now(&mut self.durable, &change);
        }
    }

    /// What a power failure leaves.
    fn power_failed(&mut self, dice: &mut Dice) {
        self.sync_some(dice);
        self.seen.clone_from(&self.durable);
    }

    /// All, nothing, or some sectors.
    fn sync_some(&mut self, dice: &mut Dice) {
        let kept = dice.below(3);
        for change in self.cached.drain(..) {
            match (kept, change) {
                (0, _) => {}
                (1, change) => Self::do_now(&mut self.durable, &change),
                (_, Change::Size(size)) => {
                    if dice.one_in(2) {
                        Self::do_now(&mut self.durable, &Change::Size(size));
                    }
                }
                (_, Change::Write(offset, bytes)) => {
                    let mut at = offset;
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let within = SECTOR - usize::try_from(at % SECTOR as u64).unwrap();
                        let (sector, after) = rest.split_at(within.min(rest.len()));
                        if dice.one_in(2) {
                            Self::do_now(&mut self.durable, &Change::Write(at, sector.to_vec()));
                        }
                        at += sector.len() as u64;
                        rest = after;
                    }
                }
            }
        }
    }
}

impl Platter {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    /// A process starts: it alone has the disk.
    pub(crate) fn mount(&self) -> Mount {
        let mut state = self.lock();
        state.session += 1;
        (state.alive, state.powered_off) = (true, false);
        Mount { platter: self.clone(), session: state.session }
    }

    /// The process is no more.
    pub(crate) fn kill(&self) {
        let mut state = self.lock();
        (state.alive, state.stalled, state.meanwhile) = (false, false, None);
        self.0.1.notify_all();
    }

    /// The machine's power fails, and comes back.
    pub(crate) fn power_fails(&self, dice: &mut Dice) {
        self.kill();
        let mut state = self.lock();
        state.files.retain(|_, content| content.named || dice.one_in(2));
        for content in state.files.values_mut() {
            content.named = true;
            content.power_failed(dice);
        }
    }

    /// Whether the power failed while the process was at work.
    pub(crate) fn is_off(&self) -> bool {
        self.lock().powered_off
    }

    pub(crate) fn fault(&self, room: Room, fault: Fault) {
        self.lock().faults.insert(room, fault);
    }

    pub(crate) fn no_faults(&self) {
        let mut state = self.lock();
        state.faults.clear();
        state.full = false;
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    pub(crate) fn stall(&self) {
        self.lock().stalled = true;
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.lock().stalled
    }

    /// Syncs go on.
    pub(crate) fn resume(&self) {
        self.lock().stalled = false;
        self.0.1.notify_all();
    }

    /// Returns once a sync of the log waits, or none ever will.
    pub(crate) fn wait_until_waiting(&self) {
        let state = self.lock();
        drop(self.0.1.wait_while(state, |state| state.stalled && !state.waiting).unwrap());
    }

    /// What happens while the store's next commit is synced.
    pub(crate) fn meanwhile(&self, meanwhile: Meanwhile) {
        self.lock().meanwhile = Some(meanwhile);
    }

    /// No commit comes for it to happen in.
    pub(crate) fn nothing_meanwhile(&self) {
        self.lock().meanwhile = None;
    }

    /// The bytes of an entry as the platter has them, read by the format's description: a length, eight bytes of the
    /// batch, the entry, eight bytes of its checksum.
    pub(crate) fn durable_entry(&self, index: u64) -> Option<Vec<u8>> {
        let state = self.lock();
        let mut at = 0;
        for number in 0.. {
            let content = &state.files.get(&Name::Segment(number))?.durable;
            let mut offset = 0;
            while let Some(header) = content.get(offset..offset + 4) {
                let length = usize::try_from(u32::from_be_bytes(header.try_into().unwrap())).unwrap();
                if length == 0 {
                    break;
                }
                if at == index {
                    return content.get(offset + 12..offset + 12 + length).map(<[u8]>::to_vec);
                }
                at += 1;
                offset += 20 + length;
            }
        }
        None
    }
}

/// One process's view of the disk.
#[derive(Clone, Debug)]
pub(crate) struct Mount {
    platter: Platter,
    session: u64,
}

fn gone() -> io::Error {
    io::Error::other("the process is dead")
}

impl Mount {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.platter.lock();
        if state.alive && state.session == self.session { Ok(state) } else { Err(gone()) }
    }

    fn file(&self, name: Name) -> File {
        File { mount: self.clone(), name }
    }

    pub(crate) fn store(&self) -> File {
        self.platter.lock().files.entry(Name::Store).or_insert_with(|| Content { named: true, ..Content::default() });
        self.file(Name::Store)
    }
}

#[derive(Debug)]
pub(crate) struct File {
    mount: Mount,
    name: Name,
}

impl File {
    fn room(&self) -> Room {
        match self.name {
            Name::Segment(_) => Room::Log,
            Name::Store => Room::Store,
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Content) -> T) -> io::Result<T> {
        let mut state = self.mount.state()?;
        Ok(act(state.files.get_mut(&self.name).ok_or(io::ErrorKind::NotFound)?))
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.mount.state()?;
        let full = state.full;
        let content = state.files.get_mut(&self.name).ok_or(io::ErrorKind::NotFound)?;
        let end = match &change {
            Change::Write(offset, bytes) => offset + bytes.len() as u64,
            Change::Size(size) => *size,
        };
        // What a file has it keeps: only more is refused.
        if full && (content.seen.len() as u64) < end {
            return Err(io::ErrorKind::StorageFull.into());
        }
        content.change(change);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let meanwhile = if self.room() == Room::Store { self.mount.state()?.meanwhile.take() } else { None };
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        let mut state = self.mount.state()?;
        if self.room() == Room::Log && state.stalled {
            state.waiting = true;
            self.mount.platter.0.1.notify_all();
            state = self.mount.platter.0.1.wait_while(state, |state| state.stalled).unwrap();
            state.waiting = false;
            if !state.alive || state.session != self.mount.session {
                return Err(gone());
            }
        }
        let fault = state.faults.remove(&self.room());
        if fault == Some(Fault::PowerFails) {
            (state.alive, state.powered_off) = (false, true);
            return Err(gone());
        }
        let content = state.files.get_mut(&self.name).ok_or(io::ErrorKind::NotFound)?;
        match fault {
            None => {
                content.sync();
                return Ok(());
            }
            Some(Fault::Lost(number)) => content.sync_some(&mut Dice::of(number)),
            Some(Fault::DoneButReportedLost | Fault::PowerFails) => content.sync(),
        }
        Err(io::Error::other("the sync failed"))
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|content| {
            let offset = usize::try_from(offset).unwrap().min(content.seen.len());
            let count = bytes.len().min(content.seen.len() - offset);
            bytes[..count].copy_from_slice(&content.seen[offset..offset + count]);
            count
        })
    }

    fn length(&self) -> io::Result<u64> {
        self.with(|content| content.seen.len() as u64)
    }
}

impl Disk for Mount {
    fn segment_bytes(&self) -> u64 {
        SEGMENT_BYTES
    }

    fn count(&self) -> Result<u64, LineageError> {
        let segments = |name: &&Name| matches!(name, Name::Segment(_));
        Ok(self.platter.lock().files.keys().filter(segments).count() as u64)
    }

    fn create(&self, number: u64) -> io::Result<Box<dyn SegmentFile>> {
        let mut state = self.state()?;
        if state.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        assert!(state.files.insert(Name::Segment(number), Content::default()).is_none(), "segment {number} is there");
        Ok(Box::new(self.file(Name::Segment(number))))
    }

    fn open(&self, number: u64) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(self.file(Name::Segment(number))))
    }

    fn sync_names(&self) -> io::Result<()> {
        for content in self.state()?.files.values_mut() {
            content.named = true;
        }
        Ok(())
    }
}

impl SegmentFile for File {
    fn size(&self) -> io::Result<u64> {
        self.length()
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read(bytes, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Write(offset, bytes.to_vec()))
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.change(Change::Size(bytes))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }
}

impl StorageBackend for File {
    fn len(&self) -> io::Result<u64> {
        self.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let count = Self::read(self, out, offset)?;
        if count < out.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Size(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset, data.to_vec()))
    }
}
