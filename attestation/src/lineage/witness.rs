//! A witness: it cosigns a log's checkpoint only when it continues the one it cosigned before, so that nobody can show
//! two trees to two parties (C2SP tlog-witness, add-checkpoint). No I/O here: whoever serves it makes the new head
//! durable before the cosignature leaves.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::checkpoint::{Checkpoint, NOTE_BYTES_MAX, NoteKey};
use super::tree::{TreeHead, verify_consistency};
use crate::digest::Sha256Digest;

/// C2SP tlog-witness: at most so many hashes.
const HASHES_MAX: usize = 63;
/// Largest request that is read.
pub const REQUEST_BYTES_MAX: usize = NOTE_BYTES_MAX + HASHES_MAX * 45 + 64;

/// The logs that a witness knows, and what it cosigned of each.
#[derive(Clone, Debug, Default)]
pub struct Witness {
    logs: BTreeMap<String, Log>,
}

#[derive(Clone, Debug)]
struct Log {
    key: NoteKey,
    head: TreeHead,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// HTTP 200: cosign this text, once `head` is durable for `origin`.
    Cosign {
        /// The log.
        origin: String,
        /// What it comes to.
        head: TreeHead,
        /// The checkpoint's text, which the cosignature covers.
        text: String,
    },
    /// HTTP 400: not a request.
    Malformed(&'static str),
    /// HTTP 403: a log that is not known, or not its signature.
    Forbidden(&'static str),
    /// HTTP 409: the newest size that was cosigned, in decimal and on a line.
    Conflict(u64),
    /// HTTP 422: the proof does not connect the two.
    Unprocessable(&'static str),
}

impl Witness {
    /// Makes a log known, at the head that was cosigned last; the empty tree for a new one.
    pub fn add_log(&mut self, origin: &str, key: NoteKey, head: TreeHead) {
        self.logs.insert(origin.to_owned(), Log { key, head });
    }

    /// What a witness says to the body of an add-checkpoint request.
    #[must_use]
    pub fn answer(&self, body: &str) -> Answer {
        let Some((old, proof, note)) = read(body) else {
            return Answer::Malformed("expected: old SIZE, hashes, a blank line, a signed checkpoint");
        };
        let origin = note.split('\n').next().unwrap_or_default();
        let Some(log) = self.logs.get(origin) else { return Answer::Forbidden("unknown log") };
        let Ok(checkpoint) = Checkpoint::verify(note, &log.key, origin) else {
            return Answer::Forbidden("invalid signature");
        };
        let head = checkpoint.head();
        if head.size < old {
            return Answer::Malformed("the old size is larger than the checkpoint's");
        }
        if old != log.head.size || (old == head.size && old != 0 && log.head.root != head.root) {
            return Answer::Conflict(log.head.size);
        }
        let continues = match (old, proof.is_empty()) {
            // Everything begins with the empty tree, and what is the same needs no proof.
            (0, empty) => empty,
            (_, true) => old == head.size,
            (_, false) => verify_consistency(log.head, head, &proof).is_ok(),
        };
        if !continues {
            return Answer::Unprocessable("invalid consistency proof");
        }
        let (text, _) = note.rsplit_once("\n\n").unwrap_or_default();
        Answer::Cosign { origin: origin.to_owned(), head, text: format!("{text}\n") }
    }

    /// Remembers what was cosigned, once it is durable.
    pub fn cosigned(&mut self, origin: &str, head: TreeHead) {
        if let Some(log) = self.logs.get_mut(origin) {
            log.head = head;
        }
    }
}

/// Old size, hashes, and the note.
fn read(body: &str) -> Option<(u64, Vec<Sha256Digest>, &str)> {
    if REQUEST_BYTES_MAX < body.len() {
        return None;
    }
    let (head, note) = body.split_once("\n\n")?;
    let mut lines = head.split('\n');
    let decimal = lines.next()?.strip_prefix("old ")?;
    let old = decimal.parse::<u64>().ok().filter(|old| format!("{old}") == decimal)?;
    let hash = |line: &str| STANDARD.decode(line).ok()?.try_into().ok().map(Sha256Digest);
    let proof = lines.map(hash).collect::<Option<Vec<_>>>()?;
    (proof.len() <= HASHES_MAX).then_some((old, proof, note))
}
