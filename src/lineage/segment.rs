//! The log on disk: segment files of frames, preallocated and filled with zeros, so that appending never changes a
//! file's size and one fdatasync makes a batch durable.
//!
//! A frame is a 32-bit big-endian length, the entry, and the first eight bytes of SHA-256(index || entry). The first
//! zero length ends the log. Only the last frame can be torn, and only by a crash before its fdatasync returned: no one
//! was told of it, so recovery cuts it. Anything else that does not fit is damage, and damage refuses to open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::BYTES_MAX;

use super::LineageError;

/// Size of a segment file.
const SEGMENT_BYTES: u64 = 8 << 20;
const LENGTH_BYTES: usize = 4;
const CHECKSUM_BYTES: usize = 8;

/// Where an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// The open segments of a log.
#[derive(Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    current: File,
    number: u32,
    end: u64,
    _lock: File,
}

/// A log as it was found.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) segments: Segments,
    pub(super) places: Vec<Place>,
    pub(super) entries: Vec<Vec<u8>>,
}

impl Segments {
    /// Opens a log directory for writing, alone, and reads every entry. A torn frame is cut when at least `floor`
    /// entries come before it.
    pub(super) fn open(dir: &Path, floor: u64) -> Result<Recovered, LineageError> {
        crate::config::create_private_dir(dir).map_err(|error| LineageError::damaged(dir, "a directory", error))?;
        let lock = open_private(&dir.join("lock"), true)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| LineageError::damaged(dir, "a log no other process holds", error))?;
        let mut number = 0;
        let mut places = Vec::new();
        let mut entries = Vec::new();
        loop {
            let path = segment_path(dir, number);
            let found = read_segment(&path, number, &mut places, &mut entries)?;
            let next = number.checked_add(1).filter(|next| segment_path(dir, *next).exists());
            match (found, next) {
                (Found::End { .. }, Some(next)) => number = next,
                (Found::Torn { offset }, Some(_)) => {
                    return Err(LineageError::damaged(&path, "whole frames", format!("a torn one at {offset}")));
                }
                (Found::Torn { offset }, None) => {
                    if (entries.len() as u64) < floor {
                        return Err(LineageError::damaged(&path, format!("{floor} entries"), entries.len()));
                    }
                    let current = open_private(&path, false)?;
                    cut(&current, offset).map_err(LineageError::file(&path))?;
                    let segments = Self { dir: dir.to_owned(), current, number, end: offset, _lock: lock };
                    return Ok(Recovered { segments, places, entries });
                }
                (Found::End { offset }, None) => {
                    let current = open_private(&path, false)?;
                    let segments = Self { dir: dir.to_owned(), current, number, end: offset, _lock: lock };
                    return Ok(Recovered { segments, places, entries });
                }
                (Found::Absent, _) => {
                    let current = create_segment(dir, number)?;
                    let segments = Self { dir: dir.to_owned(), current, number, end: 0, _lock: lock };
                    return Ok(Recovered { segments, places, entries });
                }
            }
        }
    }

    /// Writes entries from index `first` on and makes them durable with one fdatasync for each segment touched.
    pub(super) fn append(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<Vec<Place>, LineageError> {
        let mut places = Vec::with_capacity(entries.len());
        let mut batch = Vec::new();
        let mut start = self.end;
        for (index, entry) in (first..).zip(entries) {
            let frame = frame(index, entry);
            // One length of zeros must follow the last frame.
            let reserve = frame.len() as u64 + LENGTH_BYTES as u64;
            if SEGMENT_BYTES < self.end + reserve {
                self.write(start, &batch)?;
                batch.clear();
                self.number += 1;
                self.current = create_segment(&self.dir, self.number)?;
                self.end = 0;
                start = 0;
            }
            let offset = u32::try_from(self.end).unwrap_or(u32::MAX);
            let length = u32::try_from(entry.len()).unwrap_or(u32::MAX);
            places.push(Place { segment: self.number, offset, length });
            self.end += frame.len() as u64;
            batch.extend_from_slice(&frame);
        }
        self.write(start, &batch)?;
        Ok(places)
    }

    fn write(&self, offset: u64, batch: &[u8]) -> Result<(), LineageError> {
        let path = segment_path(&self.dir, self.number);
        self.current.write_all_at(batch, offset).map_err(LineageError::file(&path))?;
        self.current.sync_data().map_err(LineageError::file(&path))
    }
}

/// Reads the entry at `place`, checking its frame.
pub(super) fn read_at(dir: &Path, index: u64, place: Place) -> Result<Vec<u8>, LineageError> {
    let path = segment_path(dir, place.segment);
    let file = File::open(&path).map_err(LineageError::file(&path))?;
    let length = usize::try_from(place.length).unwrap_or(usize::MAX).min(BYTES_MAX);
    let mut bytes = vec![0; LENGTH_BYTES + length + CHECKSUM_BYTES];
    file.read_exact_at(&mut bytes, u64::from(place.offset)).map_err(LineageError::file(&path))?;
    let entry = bytes.get(LENGTH_BYTES..LENGTH_BYTES + length).unwrap_or_default().to_vec();
    if frame(index, &entry) != bytes {
        return Err(LineageError::damaged(&path, format!("entry {index}"), "another frame"));
    }
    Ok(entry)
}

/// The entries of a log directory as they are now, for auditors: reads only, and stops at a frame being written.
pub(super) fn read_all(dir: &Path) -> Result<Vec<Vec<u8>>, LineageError> {
    let (mut places, mut entries) = (Vec::new(), Vec::new());
    let mut number = 0;
    loop {
        match read_segment(&segment_path(dir, number), number, &mut places, &mut entries)? {
            Found::End { .. } => number += 1,
            Found::Torn { .. } | Found::Absent => return Ok(entries),
        }
    }
}

enum Found {
    /// No such file.
    Absent,
    /// Whole frames up to here, then zeros.
    End { offset: u64 },
    /// Whole frames up to here, then something that is no frame.
    Torn { offset: u64 },
}

fn read_segment(
    path: &Path,
    number: u32,
    places: &mut Vec<Place>,
    entries: &mut Vec<Vec<u8>>,
) -> Result<Found, LineageError> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut file) => drop(file.read_to_end(&mut bytes).map_err(LineageError::file(path))?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
        Err(error) => return Err(LineageError::file(path)(error)),
    }
    let mut offset = 0;
    loop {
        let rest = bytes.get(offset..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(Found::End { offset: offset as u64 });
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length == 0 {
            // A frame that was cut short before its length was written leaves nothing but zeros.
            let zeros = rest.iter().all(|byte| *byte == 0);
            let offset = offset as u64;
            return Ok(if zeros { Found::End { offset } } else { Found::Torn { offset } });
        }
        let whole = rest.get(..length).filter(|_| length <= BYTES_MAX).filter(|entry| {
            let stored = rest.get(length..length + CHECKSUM_BYTES);
            stored == Some(&checksum(entries.len() as u64, entry))
        });
        let Some(entry) = whole else { return Ok(Found::Torn { offset: offset as u64 }) };
        let place_offset = u32::try_from(offset).unwrap_or(u32::MAX);
        places.push(Place { segment: number, offset: place_offset, length: u32::try_from(length).unwrap_or(0) });
        entries.push(entry.to_vec());
        offset += LENGTH_BYTES + length + CHECKSUM_BYTES;
    }
}

fn frame(index: u64, entry: &[u8]) -> Vec<u8> {
    let length = u32::try_from(entry.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], entry, &checksum(index, entry)].concat()
}

fn checksum(index: u64, entry: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256Digest::of(&[&index.to_be_bytes(), entry]);
    digest.0.first_chunk().copied().unwrap_or_default()
}

fn segment_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("segment-{number:08}"))
}

fn open_private(path: &Path, create: bool) -> Result<File, LineageError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(LineageError::file(path))
}

fn create_segment(dir: &Path, number: u32) -> Result<File, LineageError> {
    let path = segment_path(dir, number);
    let fill = || {
        // Filled under another name: a segment that is there is a whole one.
        let partial = path.with_extension("new");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        let zeros = vec![0; 1 << 20];
        for chunk in 0..SEGMENT_BYTES >> 20 {
            file.write_all_at(&zeros, chunk << 20)?;
        }
        file.sync_all()?;
        fs::rename(&partial, &path)?;
        File::open(dir)?.sync_all()?;
        Ok(file)
    };
    fill().map_err(LineageError::file(&path))
}

/// Fills with zeros from `offset` on.
fn cut(file: &File, offset: u64) -> io::Result<()> {
    let size = file.metadata()?.len();
    let zeros = vec![0; usize::try_from(size.saturating_sub(offset)).unwrap_or(0)];
    file.write_all_at(&zeros, offset)?;
    file.sync_all()
}
