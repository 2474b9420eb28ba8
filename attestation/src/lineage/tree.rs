//! The Merkle tree over the entries: RFC 6962 hashing, as C2SP tlog-tiles and every transparency log use it.

use alloc::vec::Vec;

use crate::digest::Sha256Digest;

/// Size and root of the tree over the first `size` entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeHead {
    /// Entries.
    pub size: u64,
    /// Root; of no entries, the hash of nothing (RFC 6962, 2.1).
    pub root: Sha256Digest,
}

/// Hash of an entry: SHA-256(0x00 || entry).
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Sha256Digest {
    Sha256Digest::of(&[&[0], entry])
}

/// Hash of two subtrees: SHA-256(0x01 || left || right).
#[must_use]
pub fn node_hash(left: &Sha256Digest, right: &Sha256Digest) -> Sha256Digest {
    Sha256Digest::of(&[&[1], &left.0, &right.0])
}

/// The roots of the perfect subtrees that a tree consists of, largest first: all that appending needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    subtrees: Vec<Sha256Digest>,
}

impl Frontier {
    /// The frontier of no entries.
    #[must_use]
    pub const fn new() -> Self {
        Self { size: 0, subtrees: Vec::new() }
    }

    /// Appends an entry by its leaf hash.
    pub fn push(&mut self, leaf: Sha256Digest) {
        let mut node = leaf;
        // Each one bit at the low end of the size is a subtree as large as the one being added.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.subtrees.pop() {
                node = node_hash(&left, &node);
            }
        }
        self.subtrees.push(node);
        self.size = self.size.saturating_add(1);
    }

    /// Size and root.
    #[must_use]
    pub fn head(&self) -> TreeHead {
        let mut subtrees = self.subtrees.iter().rev();
        let root = match subtrees.next() {
            None => Sha256Digest::of(&[]),
            Some(smallest) => subtrees.fold(*smallest, |right, left| node_hash(left, &right)),
        };
        TreeHead { size: self.size, root }
    }
}
