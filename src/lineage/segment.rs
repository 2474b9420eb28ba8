//! Append-only segment files: what a decision is durable in. The published tiles are a copy of this.
//!
//! A segment is preallocated with zeros, so that appending never changes the file's size and `fdatasync` is enough. A
//! frame is a length, the index of the first entry of its batch, the entry's bytes, and eight bytes of SHA-256 over the
//! entry's index, that of its batch, and the bytes: an entry in the wrong place is as damaged as a changed one. A
//! length of zero ends a segment.
//!
//! A batch is what one sync made durable, and the next is written only after it. So a whole frame of a batch proves
//! that everything before that batch was durable, and a damaged frame with nothing behind it but frames of its own
//! batch, or none, is one that nobody was told of.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::BYTES_MAX;

use crate::config::list_dir;
use crate::lineage::LineageError;
use crate::lineage::disk::{Disk, SegmentFile, read_full};

/// Large enough that creating one is rare, small enough to read at once.
pub(super) const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;
const LENGTH_BYTES: usize = 4;
const BATCH_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 8;
/// One write and one sync at most; whatever a crash tears is within the last so many bytes.
pub(super) const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Positions are kept of every so many entries; the ones between are found by their lengths.
const STRIDE: u64 = 16;
/// Entries of one batch at most.
pub(super) const BATCH_MAX: usize = 1024;

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    segment: u64,
    offset: u64,
}

/// The end of the last frame, and where some of the frames start.
#[derive(Clone, Debug)]
pub(super) struct Segments {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    starts: Vec<Position>,
    entries: u64,
    end: Position,
}

/// What follows at a place where a frame may start.
enum Found {
    Entry { bytes: Vec<u8>, frame_bytes: u64 },
    End,
    Damaged,
}

/// Bytes of the frame of an entry of `length` bytes.
pub(super) const fn frame_bytes(length: usize) -> usize {
    LENGTH_BYTES.saturating_add(BATCH_BYTES).saturating_add(length).saturating_add(CHECKSUM_BYTES)
}

fn checksum(index: u64, batch: u64, bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let [a, b, c, d, e, f, g, h, ..] = Sha256Digest::of(&[&index.to_be_bytes(), &batch.to_be_bytes(), bytes]).0;
    [a, b, c, d, e, f, g, h]
}

/// Appends the frame of one entry.
pub(super) fn push_frame(frames: &mut Vec<u8>, index: u64, batch: u64, bytes: &[u8]) {
    // Entries are at most 8 KiB; a length that did not fit would be refused when read.
    frames.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    frames.extend_from_slice(&batch.to_be_bytes());
    frames.extend_from_slice(bytes);
    frames.extend_from_slice(&checksum(index, batch, bytes));
}

/// Reads the frame of entry `index` at `offset` of a segment's content. Bytes that a short file lacks are zeros.
fn read_frame(content: &[u8], offset: usize, index: u64) -> Found {
    let at = |start: usize, length: usize| content.get(start..start.checked_add(length)?);
    let header = at(offset, LENGTH_BYTES).and_then(|bytes| <[u8; LENGTH_BYTES]>::try_from(bytes).ok());
    let Some(header) = header else {
        let zeros = content.get(offset..).unwrap_or_default().iter().all(|byte| *byte == 0);
        return if zeros { Found::End } else { Found::Damaged };
    };
    let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
    if length == 0 {
        return Found::End;
    }
    let frame = (length <= BYTES_MAX).then(|| at(offset, frame_bytes(length))).flatten();
    let frame = frame.and_then(|frame| frame.split_first_chunk::<LENGTH_BYTES>());
    let frame = frame.and_then(|(_, frame)| frame.split_first_chunk::<BATCH_BYTES>());
    let Some((batch, frame)) = frame else { return Found::Damaged };
    let Some((bytes, sum)) = frame.split_last_chunk::<CHECKSUM_BYTES>() else { return Found::Damaged };
    let batch = u64::from_be_bytes(*batch);
    if *sum != checksum(index, batch, bytes) {
        return Found::Damaged;
    }
    Found::Entry { bytes: bytes.to_vec(), frame_bytes: frame_bytes(length) as u64 }
}

/// The segment files of a log directory, by number. A gap means that one was taken away.
pub(super) fn segment_paths(dir: &Path) -> Result<Vec<PathBuf>, LineageError> {
    let paths = list_dir(&dir.join("segments"))?;
    for (number, path) in paths.iter().enumerate() {
        if *path != segment_path(dir, number as u64) {
            return Err(LineageError::Missing(segment_path(dir, number as u64)));
        }
    }
    Ok(paths)
}

pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join("segments").join(format!("{number:08}.seg"))
}

/// How far a scan came, index and offset, and what `entry` refused; nothing where the frame itself is damaged.
pub(super) type Stopped = (u64, u64, Option<LineageError>);

/// Hands the entries of a segment's content from `index` on to `entry`, with their offsets, up to its end.
///
/// # Errors
/// [`Stopped`] at the first frame that is damaged or refused.
pub(super) fn scan(
    content: &[u8],
    index: u64,
    mut entry: impl FnMut(u64, u64, Vec<u8>) -> Result<(), LineageError>,
) -> Result<(u64, u64), Stopped> {
    let (mut index, mut offset) = (index, 0_u64);
    loop {
        match read_frame(content, usize::try_from(offset).unwrap_or(usize::MAX), index) {
            Found::End => return Ok((index, offset)),
            Found::Damaged => return Err((index, offset, None)),
            Found::Entry { bytes, frame_bytes } => {
                entry(index, offset, bytes).map_err(|error| (index, offset, Some(error)))?;
                index = index.saturating_add(1);
                offset = offset.saturating_add(frame_bytes);
            }
        }
    }
}

impl Segments {
    /// Reads all segments and hands every entry to `entry`. A torn frame at the very end is cut, provided that it is
    /// not one of the first `floor` entries, which are known to have been durable.
    ///
    /// # Errors
    /// [`LineageError`] when anything else is damaged, or what `entry` refuses.
    pub(super) fn open(
        dir: &Path,
        disk: Arc<dyn Disk>,
        floor: u64,
        mut entry: impl FnMut(u64, &[u8]) -> Result<(), LineageError>,
    ) -> Result<Self, LineageError> {
        let end = Position { segment: 0, offset: 0 };
        let (dir, segment_bytes, count) = (dir.to_owned(), disk.segment_bytes(), disk.count()?);
        let mut segments = Self { dir, disk, segment_bytes, starts: Vec::new(), entries: 0, end };
        if count == 0 {
            segments.create(0)?;
            return Ok(segments);
        }
        let last = count.saturating_sub(1);
        for segment in 0..count {
            let path = &segment_path(&segments.dir, segment);
            let content = segments.content(segment)?;
            let whole = content.len() as u64 == segment_bytes;
            if segment_bytes < content.len() as u64 || (segment != last && !whole) {
                return Err(LineageError::Damaged { path: path.clone(), index: segments.entries });
            }
            let starts = &mut segments.starts;
            let scanned = scan(&content, segments.entries, |index, offset, bytes| {
                if index.is_multiple_of(STRIDE) {
                    starts.push(Position { segment, offset });
                }
                entry(index, &bytes)
            });
            let (index, offset, torn) = match scanned {
                Ok((index, offset)) => (index, offset, false),
                Err((_, _, Some(error))) => return Err(error),
                Err((index, offset, None)) => (index, offset, true),
            };
            segments.entries = index;
            segments.end = Position { segment, offset };
            let left = content.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
            if torn || left.iter().any(|byte| *byte != 0) {
                if segment != last || index < floor || !is_torn_tail(left, index) {
                    return Err(LineageError::Damaged { path: path.clone(), index });
                }
                tracing::warn!(
                    index,
                    "a torn entry at the end of the log is cut; nobody was told that it was recorded"
                );
                segments.zero_from_end(left.len() as u64)?;
            }
            if segment == last {
                segments.sync_again(&content)?;
            }
            if !whole {
                // Creating the segment was interrupted.
                let file = segments.file(segment)?;
                file.set_size(segment_bytes).and_then(|()| file.sync_all()).map_err(LineageError::file(path))?;
            }
        }
        Ok(segments)
    }

    /// Entries in all segments.
    pub(super) const fn entries(&self) -> u64 {
        self.entries
    }

    /// Preallocates a segment; file and directory are durable when it returns.
    fn create(&self, number: u64) -> Result<(), LineageError> {
        let path = segment_path(&self.dir, number);
        let make = || -> io::Result<()> {
            let file = self.disk.create(number)?;
            let zeros = vec![0; 64 * 1024];
            let mut left = self.segment_bytes;
            let mut offset = 0;
            while let Some(count) = usize::try_from(left.min(zeros.len() as u64)).ok().filter(|count| *count != 0) {
                file.write_all_at(zeros.get(..count).unwrap_or_default(), offset)?;
                left = left.saturating_sub(count as u64);
                offset = offset.saturating_add(count as u64);
            }
            file.sync_all()?;
            self.disk.sync_names()
        };
        make().map_err(LineageError::file(&path))
    }

    fn file(&self, number: u64) -> Result<Box<dyn SegmentFile>, LineageError> {
        self.disk.open(number).map_err(LineageError::file(&segment_path(&self.dir, number)))
    }

    /// All of a segment, and no more than one too long to be one.
    fn content(&self, number: u64) -> Result<Vec<u8>, LineageError> {
        let file = self.file(number)?;
        let read = || -> io::Result<Vec<u8>> {
            let size = file.size()?.min(self.segment_bytes.saturating_add(1));
            let mut content = vec![0; usize::try_from(size).unwrap_or_default()];
            let filled = read_full(file.as_ref(), &mut content, 0)?;
            content.truncate(filled);
            Ok(content)
        };
        read().map_err(LineageError::file(&segment_path(&self.dir, number)))
    }

    fn zero_from_end(&self, count: u64) -> Result<(), LineageError> {
        let path = segment_path(&self.dir, self.end.segment);
        let zeros = vec![0; usize::try_from(count).unwrap_or_default()];
        let file = self.file(self.end.segment)?;
        file.write_all_at(&zeros, self.end.offset).and_then(|()| file.sync_all()).map_err(LineageError::file(&path))
    }

    /// Writes what may be the last batch once more and syncs it. A process that died, or whose sync failed, may have
    /// left entries that only the page cache holds, and after a failed sync it no longer knows that it has to write
    /// them. A batch before the last one was synced before the last was written.
    fn sync_again(&self, content: &[u8]) -> Result<(), LineageError> {
        let end = usize::try_from(self.end.offset).unwrap_or_default();
        let start = end.saturating_sub(BATCH_BYTES_MAX);
        let path = segment_path(&self.dir, self.end.segment);
        let file = self.file(self.end.segment)?;
        let bytes = content.get(start..end).unwrap_or_default();
        file.write_all_at(bytes, start as u64).and_then(|()| file.sync_all()).map_err(LineageError::file(&path))
    }

    /// The entry's bytes, if it is there.
    pub(super) fn read(&self, index: u64) -> Result<Option<Vec<u8>>, LineageError> {
        if self.entries <= index {
            return Ok(None);
        }
        let start = usize::try_from(index / STRIDE).ok().and_then(|start| self.starts.get(start)).copied();
        let Some(mut position) = start else { return Ok(None) };
        let mut file = self.file(position.segment)?;
        let mut at = index - index % STRIDE;
        loop {
            match read_frame_at(file.as_ref(), position.offset, at, self.segment_bytes)
                .map_err(LineageError::file(&segment_path(&self.dir, position.segment)))?
            {
                Found::Entry { bytes, .. } if at == index => return Ok(Some(bytes)),
                Found::Entry { frame_bytes, .. } => {
                    at = at.saturating_add(1);
                    position.offset = position.offset.saturating_add(frame_bytes);
                }
                Found::End if position.segment < self.end.segment => {
                    position = Position { segment: position.segment.saturating_add(1), offset: 0 };
                    file = self.file(position.segment)?;
                }
                Found::End | Found::Damaged => {
                    let path = segment_path(&self.dir, position.segment);
                    return Err(LineageError::Damaged { path, index: at });
                }
            }
        }
    }

    /// Hands the entries from `from` to before `until` to `entry`, reading each segment once.
    pub(super) fn walk(
        &self,
        from: u64,
        until: u64,
        mut entry: impl FnMut(u64, &[u8]) -> Result<(), LineageError>,
    ) -> Result<(), LineageError> {
        let until = until.min(self.entries);
        if until <= from {
            return Ok(());
        }
        let stride = from / STRIDE;
        let start = usize::try_from(stride).ok().and_then(|stride| self.starts.get(stride));
        let Position { mut segment, mut offset } = *start.ok_or(LineageError::Cut { expected: until, found: from })?;
        let mut at = stride.saturating_mul(STRIDE);
        while at < until {
            let path = segment_path(&self.dir, segment);
            if self.end.segment < segment {
                return Err(LineageError::Damaged { path, index: at });
            }
            let end = if segment == self.end.segment { self.end.offset } else { self.segment_bytes };
            let mut content = vec![0; usize::try_from(end.saturating_sub(offset)).unwrap_or_default()];
            let file = self.file(segment)?;
            let filled = read_full(file.as_ref(), &mut content, offset).map_err(LineageError::file(&path))?;
            content.truncate(filled);
            let scanned =
                scan(
                    &content,
                    at,
                    |index, _, bytes| {
                        if (from..until).contains(&index) { entry(index, &bytes) } else { Ok(()) }
                    },
                );
            at = match scanned {
                Ok((index, _)) => index,
                Err((index, _, error)) => return Err(error.unwrap_or(LineageError::Damaged { path, index })),
            };
            segment = segment.saturating_add(1);
            offset = 0;
        }
        Ok(())
    }
}

/// Whether what is left from a damaged frame on can be a batch that was never synced: short enough, and with no whole
/// frame of a later batch behind it, which would have been written only after this one was durable.
pub(super) fn is_torn_tail(left: &[u8], index: u64) -> bool {
    let used = left.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
    used <= BATCH_BYTES_MAX && !(1..used).any(|offset| is_of_later_batch(left, offset, index))
}

/// Whether a whole frame of a batch that begins after entry `index` is at `offset`.
fn is_of_later_batch(left: &[u8], offset: usize, index: u64) -> bool {
    let header = offset.checked_add(LENGTH_BYTES).and_then(|start| left.get(start..)?.first_chunk::<BATCH_BYTES>());
    let Some(batch) = header.map(|batch| u64::from_be_bytes(*batch)) else { return false };
    // What is left is no longer than a batch may be, and so are the entries in it: most offsets are ruled out here,
    // before anything is hashed.
    let reach = BATCH_BYTES_MAX as u64 / frame_bytes(0) as u64;
    if batch <= index || index.saturating_add(reach) < batch {
        return false;
    }
    let mut members = batch..batch.saturating_add(BATCH_MAX as u64);
    members.any(|member| matches!(read_frame(left, offset, member), Found::Entry { .. }))
}

fn read_frame_at(file: &dyn SegmentFile, offset: u64, index: u64, segment_bytes: u64) -> io::Result<Found> {
    let left = usize::try_from(segment_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut content = vec![0; frame_bytes(BYTES_MAX).min(left)];
    // What a short file lacks is zeros.
    read_full(file, &mut content, offset)?;
    Ok(read_frame(&content, 0, index))
}

/// Writes at the end of the segments. One at a time, behind the log's lock.
#[derive(Debug)]
pub(super) struct Writer {
    file: Box<dyn SegmentFile>,
    end: Position,
    entries: u64,
}

/// What a batch added, to be made visible once it is durable and applied.
#[derive(Debug)]
pub(super) struct Written {
    starts: Vec<Position>,
    end: Position,
    entries: u64,
}

impl Writer {
    pub(super) fn new(segments: &Segments) -> Result<Self, LineageError> {
        let file = segments.file(segments.end.segment)?;
        Ok(Self { file, end: segments.end, entries: segments.entries })
    }

    /// Writes and syncs a batch of at most [`BATCH_BYTES_MAX`]. After an error nothing is known about it.
    pub(super) fn write(&mut self, segments: &Segments, batch: &[Vec<u8>]) -> Result<Written, LineageError> {
        let mut starts = Vec::new();
        let mut frames = Vec::new();
        let mut offset = self.end.offset;
        let mut first = self.entries;
        for bytes in batch {
            let needed = frame_bytes(bytes.len()) as u64;
            let end = offset.saturating_add(frames.len() as u64).saturating_add(needed);
            if segments.segment_bytes < end {
                self.flush(segments, offset, &frames)?;
                frames.clear();
                let next = self.end.segment.saturating_add(1);
                segments.create(next)?;
                self.file = segments.file(next)?;
                self.end = Position { segment: next, offset: 0 };
                offset = 0;
                // What came before is synced: the rest is a batch of its own.
                first = self.entries;
            }
            if self.entries.is_multiple_of(STRIDE) {
                let offset = offset.saturating_add(frames.len() as u64);
                starts.push(Position { segment: self.end.segment, offset });
            }
            push_frame(&mut frames, self.entries, first, bytes);
            self.entries = self.entries.saturating_add(1);
        }
        self.flush(segments, offset, &frames)?;
        Ok(Written { starts, end: self.end, entries: self.entries })
    }

    fn flush(&mut self, segments: &Segments, offset: u64, frames: &[u8]) -> Result<(), LineageError> {
        if frames.is_empty() {
            return Ok(());
        }
        let path = segment_path(&segments.dir, self.end.segment);
        self.file
            .write_all_at(frames, offset)
            .and_then(|()| self.file.sync_data())
            .map_err(LineageError::file(&path))?;
        self.end.offset = offset.saturating_add(frames.len() as u64);
        Ok(())
    }
}

impl Segments {
    /// Makes a written batch visible to readers.
    pub(super) fn advance(&mut self, written: Written) {
        self.starts.extend(written.starts);
        self.end = written.end;
        self.entries = written.entries;
    }
}
