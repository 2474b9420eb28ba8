//! What the broker knows of a host's boot: it follows from the inputs of the host's last verified decision, so the log
//! and the archive restore it after a restart, and memory only saves the work.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::bundle::{IMA_ENTRIES_BYTES_MAX, Logs};
use countersign_attestation::evidence::ima::ImaState;
use countersign_attestation::evidence::logs::BootCounts;
use countersign_attestation::protocol::{HostId, KnownBoot};
use countersign_policies::ima::ImaTally;
use serde::{Deserialize, Serialize};

use crate::broker::judge::NewEntries;
use crate::broker::recent::Recent;
use crate::lineage::archive::{Archive, Blobs};

/// Pieces of one IMA list in the archive before they are joined: a host whose list grows with every attestation would
/// otherwise be judged again from thousands of files when its rules change.
const PIECES_MAX: usize = 64;

/// The boot that a host's last verified quote was of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Which boot.
    pub boot: BootCounts,
    /// Its event log, in the archive.
    pub event_log: Option<Sha256Digest>,
    /// Its IMA list, as far as it was verified.
    pub ima: Option<KnownIma>,
    /// The log behind its RTMRs, in the archive.
    #[serde(default)]
    pub ccel: Option<Sha256Digest>,
}

/// Verified entries of one boot's IMA list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownIma {
    /// The running PCR values after them.
    pub state: ImaState,
    /// What rules say of them, by the rules' digest.
    pub tallies: BTreeMap<Sha256Digest, ImaTally>,
    /// The entries themselves in the archive, in order: for rules that have not judged them.
    pub pieces: Vec<Piece>,
}

/// Consecutive entries of an IMA list in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// SHA-256 of the bytes.
    pub sha256: Sha256Digest,
    /// How many bytes.
    pub bytes: u64,
}

impl Piece {
    /// These bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { sha256: Sha256Digest::of(&[bytes]), bytes: bytes.len() as u64 }
    }
}

impl KnownIma {
    /// Before the first entry.
    #[must_use]
    pub fn start() -> Self {
        Self { state: ImaState::start(), tallies: BTreeMap::new(), pieces: Vec::new() }
    }
}

impl Known {
    /// What a challenge says of it.
    #[must_use]
    pub fn to_challenge(&self) -> KnownBoot {
        KnownBoot {
            reset_count: self.boot.reset_count,
            restart_count: self.boot.restart_count,
            ima_entries: self.ima.as_ref().map_or(0, |ima| ima.state.entries),
        }
    }
}

/// The logs of one attestation, not archived yet.
#[derive(Debug)]
pub struct Fresh<'a> {
    archive: &'a Archive,
    event_log: Option<(Sha256Digest, &'a [u8])>,
    ima: Option<(NewEntries, &'a [u8])>,
    ccel: Option<(Sha256Digest, &'a [u8])>,
}

impl<'a> Fresh<'a> {
    /// These logs, and the archive for all others.
    #[must_use]
    pub fn new(archive: &'a Archive, logs: &'a Logs) -> Self {
        let named = |log: &'a Option<Vec<u8>>| log.as_deref().map(|log| (Sha256Digest::of(&[log]), log));
        let (event_log, ccel) = (named(&logs.event_log), named(&logs.ccel));
        let ima = logs.ima.as_ref().map(|ima| (NewEntries { from: ima.from, list: Piece::of(&ima.list) }, &*ima.list));
        Self { archive, event_log, ima, ccel }
    }

    /// The event log.
    #[must_use]
    pub fn event_log(&self) -> Option<Sha256Digest> {
        self.event_log.map(|(digest, _)| digest)
    }

    /// The log behind the RTMRs.
    #[must_use]
    pub fn ccel(&self) -> Option<Sha256Digest> {
        self.ccel.map(|(digest, _)| digest)
    }

    /// The IMA entries.
    #[must_use]
    pub fn ima(&self) -> Option<NewEntries> {
        self.ima.map(|(entries, _)| entries)
    }

    /// How long they are together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let boot = self.boot_logs().map(|(_, log)| log.len()).sum::<usize>();
        boot.saturating_add(self.ima.map_or(0, |(_, list)| list.len()))
    }

    /// The logs of the boot, and so many bytes of the IMA entries.
    pub fn logs(&self, ima_bytes: usize) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let ima = self.ima.and_then(|(_, list)| list.get(..ima_bytes));
        self.boot_logs().map(|(_, log)| log).chain(ima.filter(|list| !list.is_empty()))
    }

    fn boot_logs(&self) -> impl Iterator<Item = (Sha256Digest, &'a [u8])> + use<'a> {
        self.event_log.into_iter().chain(self.ccel)
    }
}

impl Blobs for Fresh<'_> {
    fn blob(&self, digest: Sha256Digest) -> Option<Cow<'_, [u8]>> {
        let mut fresh = self.boot_logs().chain(self.ima.map(|(ima, list)| (ima.list.sha256, list)));
        let fresh = fresh.find(|(of, _)| *of == digest);
        fresh.map(|(_, bytes)| Cow::Borrowed(bytes)).or_else(|| self.archive.blob(digest))
    }
}

/// The boots of the hosts that came by most recently.
#[derive(Debug, Default)]
pub struct Boots(Mutex<Recent<Kept>>);

#[derive(Clone, Debug)]
struct Kept {
    /// Of the trust record: a readmitted or newly enrolled host starts over.
    generation: u64,
    known: Arc<Known>,
    wanted: Wanted,
}

/// What the next challenge asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    News,
    /// The last logs did not go on from what is known: ask for all of them.
    Everything,
}

impl Boots {
    /// What is known of this generation's boot.
    #[must_use]
    pub fn known(&self, host: &HostId, generation: u64) -> Option<Arc<Known>> {
        let mut boots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        boots.get(host).filter(|kept| kept.generation == generation).map(|kept| Arc::clone(&kept.known))
    }

    /// Whether the next challenge asks for whole logs.
    #[must_use]
    pub fn wants_everything(&self, host: &HostId) -> bool {
        let mut boots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        boots.get(host).is_some_and(|kept| kept.wanted == Wanted::Everything)
    }

    /// Keeps what a verified decision came to, unless something newer is kept: of two decisions at one time, the one
    /// on the longer list goes on.
    pub fn saw(&self, host: &HostId, generation: u64, known: Arc<Known>) {
        let age = |known: &Known| {
            let entries = known.ima.as_ref().map_or(0, |ima| ima.state.entries);
            (known.boot.reset_count, known.boot.restart_count, entries)
        };
        let mut boots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = boots.get(host).filter(|kept| kept.generation == generation && age(&known) < age(&kept.known));
        if newer.is_none() {
            boots.insert(host.clone(), Kept { generation, known, wanted: Wanted::News });
        }
    }

    /// The logs of a host did not verify: the next challenge asks for whole ones, if one bundle can carry them.
    pub fn distrust(&self, host: &HostId) {
        let mut boots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = boots.get_mut(host) {
            let pieces = kept.known.ima.iter().flat_map(|ima| &ima.pieces);
            let bytes = pieces.fold(0_u64, |sum, piece| sum.saturating_add(piece.bytes));
            if bytes < IMA_ENTRIES_BYTES_MAX as u64 {
                kept.wanted = Wanted::Everything;
            }
        }
    }

    /// Forgets a removed host.
    pub fn forget(&self, host: &HostId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }
}

/// Joins the pieces of a list that has many. The old ones stay in the archive, for the decisions that name them. When
/// something cannot be read or written, the pieces stay as they are, and the next growth tries again.
#[must_use]
pub fn joined(mut known: Known, archive: &Archive) -> Known {
    let Some(ima) = &mut known.ima else { return known };
    if ima.pieces.len() <= PIECES_MAX {
        return known;
    }
    if let Some(pieces) = join(&ima.pieces, archive) {
        ima.pieces = pieces;
    }
    known
}

fn join(pieces: &[Piece], archive: &Archive) -> Option<Vec<Piece>> {
    let mut joined = Vec::new();
    let mut bytes = Vec::new();
    let mut finish = |bytes: &mut Vec<u8>| -> Option<()> {
        let piece = Piece { sha256: archive.put(bytes).ok()?, bytes: bytes.len() as u64 };
        joined.push(piece);
        bytes.clear();
        Some(())
    };
    for piece in pieces {
        if IMA_ENTRIES_BYTES_MAX < bytes.len().saturating_add(usize::try_from(piece.bytes).ok()?) {
            finish(&mut bytes)?;
        }
        bytes.extend_from_slice(&archive.get(piece.sha256).ok()?);
    }
    finish(&mut bytes)?;
    Some(joined)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use countersign_attestation::evidence::ima::ImaState;
    use countersign_attestation::evidence::logs::BootCounts;
    use countersign_attestation::protocol::HostId;

    use super::{Boots, Known, KnownIma, PIECES_MAX, Piece, joined};
    use crate::lineage::archive::{Archive, Blobs};

    fn known(entries: u64, reset_count: u32, pieces: Vec<Piece>) -> Known {
        let state = ImaState { entries, ..ImaState::start() };
        let ima = Some(KnownIma { state, tallies: BTreeMap::new(), pieces });
        Known { boot: BootCounts { reset_count, restart_count: 0 }, event_log: None, ima, ccel: None }
    }

    #[test]
    fn many_pieces_become_one_of_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(folder.path()).unwrap();
        let bytes: Vec<Vec<u8>> = (0..=PIECES_MAX).map(|n| vec![u8::try_from(n).unwrap(); n]).collect();
        let pieces: Vec<Piece> = bytes.iter().map(|bytes| Piece::of(bytes)).collect();
        for bytes in &bytes {
            archive.put(bytes).unwrap();
        }
        let few = known(1, 1, pieces[1..].to_vec());
        assert_eq!(joined(few.clone(), &archive), few);
        let ima = joined(known(1, 1, pieces), &archive).ima.unwrap();
        assert_eq!(ima.pieces, [Piece::of(&bytes.concat())]);
        assert_eq!(archive.blob(ima.pieces[0].sha256).unwrap(), bytes.concat());
        // What cannot be read stays in its pieces.
        let gone = known(1, 1, vec![Piece::of(b"gone"); PIECES_MAX + 1]);
        assert_eq!(joined(gone.clone(), &archive), gone);
    }

    #[test]
    fn the_newest_boot_and_the_longest_list_of_a_generation_are_kept() {
        let (boots, host) = (Boots::default(), HostId::parse("a").unwrap());
        let saw = |generation, entries, reset| boots.saw(&host, generation, Arc::new(known(entries, reset, vec![])));
        let kept = |generation| {
            boots
                .known(&host, generation)
                .map(|known| (known.boot.reset_count, known.ima.as_ref().unwrap().state.entries))
        };
        assert_eq!(kept(1), None);
        saw(1, 5, 7);
        saw(1, 4, 7);
        saw(1, 9, 6);
        assert_eq!(kept(1), Some((7, 5)));
        saw(1, 0, 8);
        assert_eq!(kept(1), Some((8, 0)));
        assert_eq!(kept(2), None, "a readmitted host starts over");
        saw(2, 1, 1);
        assert_eq!((kept(1), kept(2)), (None, Some((1, 1))));
        assert!(!boots.wants_everything(&host));
        boots.distrust(&host);
        assert!(boots.wants_everything(&host));
        saw(2, 1, 1);
        assert!(!boots.wants_everything(&host));
        boots.forget(&host);
        assert_eq!(kept(2), None);
    }

    #[test]
    fn a_list_that_no_bundle_can_carry_is_not_asked_for() {
        let (boots, host) = (Boots::default(), HostId::parse("a").unwrap());
        let long = Piece { bytes: 8 * 1024 * 1024, ..Piece::of(b"") };
        boots.saw(&host, 1, Arc::new(known(1, 1, vec![long])));
        boots.distrust(&host);
        assert!(!boots.wants_everything(&host));
    }
}
