//! The kernel's measurement list (IMA), read in whole entries from where the broker knows it on. Only the frame of an
//! entry is looked at; what it says is the broker's to judge.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read as _, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use countersign_attestation::evidence::bundle::{IMA_ENTRIES_BYTES_MAX, ImaEntries};

use crate::files::{At as _, FileError};

/// The template whose fields have no length before them (Linux security/integrity/ima/ima_fs.c,
/// `ima_measurements_show`).
const TEMPLATE_IMA: &[u8] = b"ima";
/// SHA-1 of the file in an entry of the template `ima`.
const SHA1_BYTES: u64 = 20;
/// Longest name of a template: the kernel's own have some ten characters, and a format on its command line may stand
/// in for a name.
const TEMPLATE_NAME_BYTES_MAX: u32 = 1024;
/// The kernel's count of entries, beside the list.
const COUNT_FILE: &str = "runtime_measurements_count";

/// The list of this host, and where its entries were found.
#[derive(Clone, Debug)]
pub struct ImaList {
    path: PathBuf,
    count: PathBuf,
    position: Position,
}

/// Where an entry starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    /// Index of the entry.
    entry: u64,
    /// Offset of its first byte.
    offset: u64,
}

impl ImaList {
    /// The list at `path`: `binary_runtime_measurements`.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        let count = path.with_file_name(COUNT_FILE);
        Self { path: path.to_path_buf(), count, position: Position::default() }
    }

    /// How long the list is, without reading it: in entries by the kernel's count, where there is one, otherwise in
    /// bytes. It serves to notice growth. `None` where there is no list.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        match fs::read_to_string(&self.count) {
            Ok(count) => count.trim().parse().ok(),
            Err(_) => fs::metadata(&self.path).ok().map(|list| list.len()),
        }
    }

    /// The PCR that the list extends, by its first entry; `None` without a list or an entry.
    ///
    /// # Errors
    /// [`FileError`] when the list is there and cannot be read.
    pub fn pcr(&self) -> Result<Option<u32>, FileError> {
        let Some(mut file) = self.open()? else { return Ok(None) };
        let mut pcr = [0; 4];
        match file.read_exact(&mut pcr) {
            Ok(()) => Ok(Some(u32::from_le_bytes(pcr))),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error).at("read", &self.path),
        }
    }

    /// The entries from index `from` on, as many as one bundle carries; all of them when the list is shorter than that.
    /// `None` where there is no list.
    ///
    /// # Errors
    /// [`FileError`] when the list is there and cannot be read.
    pub fn read(&mut self, from: u64) -> Result<Option<ImaEntries>, FileError> {
        let Some(file) = self.open()? else { return Ok(None) };
        let mut reader = BufReader::with_capacity(64 * 1024, file);
        let entries = self.position.read(&mut reader, from);
        entries.map(Some).at("read", &self.path)
    }

    fn open(&self) -> Result<Option<File>, FileError> {
        match File::open(&self.path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("open", &self.path),
        }
    }
}

impl Position {
    /// Reads on from the nearest known start of an entry, and remembers the last one before `from`: finding that entry
    /// again next time shows that the list is still the same one, as far as it can be shown here.
    fn read(&mut self, reader: &mut (impl BufRead + Seek), from: u64) -> io::Result<ImaEntries> {
        let remembered = self.offset;
        let found = match self.seek(reader, from) {
            // No entry starts where one did.
            Err(error) if error.kind() == ErrorKind::InvalidData && remembered != 0 => false,
            found => found?,
        };
        if !found {
            // Not the list that the broker knows: the whole one is what there is to show.
            *self = Self::default();
            reader.rewind()?;
            return Ok(ImaEntries { from: 0, list: entries(reader)? });
        }
        Ok(ImaEntries { from, list: entries(reader)? })
    }

    /// Leaves `reader` at entry `from` and tells whether the list is as long.
    fn seek(&mut self, reader: &mut (impl BufRead + Seek), from: u64) -> io::Result<bool> {
        if from <= self.entry {
            *self = Self::default();
        }
        reader.seek(SeekFrom::Start(self.offset))?;
        let mut at = *self;
        let mut skipped = Vec::new();
        while at.entry < from {
            *self = at;
            skipped.clear();
            if !read_entry(reader, &mut skipped)? {
                return Ok(false);
            }
            at.entry = at.entry.saturating_add(1);
            at.offset = at.offset.saturating_add(skipped.len() as u64);
        }
        Ok(true)
    }
}

/// Whole entries until the list ends or a bundle is full.
fn entries(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut list = Vec::new();
    loop {
        let whole = list.len();
        let complete = read_entry(reader, &mut list)?;
        if !complete || IMA_ENTRIES_BYTES_MAX < list.len() {
            list.truncate(whole);
            return Ok(list);
        }
    }
}

/// Appends the next entry to `out`: PCR index, SHA-1 of the template data, the template's name and its data with their
/// lengths before them. Tells whether there was a whole one; one that is being written does not count yet.
fn read_entry(reader: &mut impl BufRead, out: &mut Vec<u8>) -> io::Result<bool> {
    if !take(reader, 4 + SHA1_BYTES, out)? {
        return Ok(false);
    }
    let Some(name_length) = take_length(reader, out)? else { return Ok(false) };
    if TEMPLATE_NAME_BYTES_MAX < name_length {
        return Err(not_a_list(format!("a template name of {name_length} bytes")));
    }
    let name_at = out.len();
    if !take(reader, name_length.into(), out)? {
        return Ok(false);
    }
    if out.get(name_at..) == Some(TEMPLATE_IMA) && !take(reader, SHA1_BYTES, out)? {
        return Ok(false);
    }
    let Some(length) = take_length(reader, out)? else { return Ok(false) };
    // Larger than any bundle carries; refused before it is read.
    if usize::try_from(length).is_ok_and(|length| length <= IMA_ENTRIES_BYTES_MAX) {
        take(reader, length.into(), out)
    } else {
        Err(not_a_list(format!("an entry of {length} bytes")))
    }
}

/// Lengths are little-endian on the machines this agent runs on.
fn take_length(reader: &mut impl BufRead, out: &mut Vec<u8>) -> io::Result<Option<u32>> {
    let at = out.len();
    if !take(reader, 4, out)? {
        return Ok(None);
    }
    Ok(out.get(at..).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes))
}

/// Appends exactly so many bytes; memory grows with what is there, not with what a length says.
fn take(reader: &mut impl BufRead, length: u64, out: &mut Vec<u8>) -> io::Result<bool> {
    let read = reader.by_ref().take(length).read_to_end(out)?;
    Ok(read as u64 == length)
}

fn not_a_list(found: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("not a measurement list of the kernel: {found}"))
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};

    use countersign_attestation::evidence::bundle::IMA_ENTRIES_BYTES_MAX;

    use super::{ImaList, Position};

    fn entry(template: &str, data: &[u8]) -> Vec<u8> {
        let mut entry = 10_u32.to_le_bytes().to_vec();
        entry.extend_from_slice(&[7; 20]);
        let length = |bytes: usize| u32::try_from(bytes).unwrap().to_le_bytes();
        entry.extend_from_slice(&length(template.len()));
        entry.extend_from_slice(template.as_bytes());
        if template == "ima" {
            entry.extend_from_slice(&[8; 20]);
        }
        entry.extend_from_slice(&length(data.len()));
        entry.extend_from_slice(data);
        entry
    }

    fn list(entries: u8) -> Vec<u8> {
        let one = |n: u8| entry(if n.is_multiple_of(3) { "ima" } else { "ima-ng" }, &vec![n; usize::from(n)]);
        (0..entries).flat_map(one).collect()
    }

    /// Counts the bytes that are read, as the kernel would have to make them.
    struct Counted<'a> {
        list: Cursor<Vec<u8>>,
        read: &'a mut usize,
    }

    impl Read for Counted<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let read = self.list.read(out)?;
            *self.read += read;
            Ok(read)
        }
    }

    impl Seek for Counted<'_> {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            self.list.seek(to)
        }
    }

    fn read(position: &mut Position, list: &[u8], from: u64) -> (u64, Vec<u8>, usize) {
        let mut bytes = 0;
        let counted = Counted { list: Cursor::new(list.to_vec()), read: &mut bytes };
        let entries = position.read(&mut BufReader::new(counted), from).unwrap();
        (entries.from, entries.list, bytes)
    }

    #[test]
    fn entries_come_from_the_asked_one_on_and_what_is_known_is_not_read_again() {
        let (three, five) = (list(3), list(5));
        let mut position = Position::default();
        assert_eq!(read(&mut position, &three, 0), (0, three.clone(), three.len()));
        let (from, new, first) = read(&mut position, &five, 3);
        assert_eq!((from, new.as_slice()), (3, &five[three.len()..]));
        assert_eq!(first, five.len(), "a new agent looks for the third entry from the beginning");
        let (from, new, bytes) = read(&mut position, &five, 3);
        assert_eq!((from, new.as_slice()), (3, &five[three.len()..]));
        assert_eq!(bytes, five.len() - list(2).len(), "one entry before the new ones is read again");
        let (from, new, bytes) = read(&mut position, &five, 5);
        assert_eq!((from, new), (5, Vec::new()));
        assert_eq!(bytes, five.len() - list(2).len());
        let (from, whole, _) = read(&mut position, &five, 0);
        assert_eq!((from, whole), (0, five), "another boot, or a broker that asks for everything");
    }

    #[test]
    fn a_list_that_became_shorter_is_shown_whole() {
        let mut position = Position::default();
        let five = list(5);
        read(&mut position, &five, 5);
        for shorter in [4, 1, 0] {
            let (from, whole, _) = read(&mut position.clone(), &list(shorter), 5);
            assert_eq!((from, whole), (0, list(shorter)), "{shorter} entries");
        }
        let other = entry("ima-sig", &[0xff; 400]).repeat(6);
        let (from, whole, _) = read(&mut position, &other, 5);
        assert_eq!((from, whole), (0, other), "no entry where one was");
    }

    #[test]
    fn an_entry_that_is_being_written_is_not_there_yet() {
        let (two, three) = (list(2), list(3));
        for cut in two.len()..three.len() {
            let (from, list, _) = read(&mut Position::default(), &three[..cut], 0);
            assert_eq!((from, list.as_slice()), (0, two.as_slice()), "{cut} bytes");
        }
    }

    #[test]
    fn a_bundle_is_filled_with_whole_entries_and_no_length_is_believed() {
        let large = entry("ima-ng", &vec![1; IMA_ENTRIES_BYTES_MAX / 2]);
        let (_, list, _) = read(&mut Position::default(), &large.repeat(3), 0);
        assert_eq!(list, large);
        let mut lies = entry("ima-ng", &[]);
        let at = lies.len() - 4;
        lies[at..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Position::default().read(&mut Cursor::new(lies), 0).is_err());
        let mut lies = entry("ima-ng", &[]);
        lies[24..28].copy_from_slice(&2000_u32.to_le_bytes());
        assert!(Position::default().read(&mut Cursor::new(lies), 0).is_err());
    }

    #[test]
    fn the_length_is_the_kernels_count_or_the_files_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("binary_runtime_measurements");
        let mut ima = ImaList::at(&path);
        assert_eq!((ima.length(), ima.pcr().unwrap(), ima.read(0).unwrap()), (None, None, None));
        std::fs::write(&path, []).unwrap();
        assert_eq!((ima.length(), ima.pcr().unwrap()), (Some(0), None));
        std::fs::write(&path, list(2)).unwrap();
        assert_eq!(ima.length(), Some(list(2).len() as u64));
        std::fs::write(folder.path().join("runtime_measurements_count"), "2\n").unwrap();
        assert_eq!((ima.length(), ima.pcr().unwrap()), (Some(2), Some(10)));
        assert_eq!(ima.read(1).unwrap().unwrap().list, list(2)[list(1).len()..]);
    }
}
