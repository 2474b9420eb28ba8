//! Subtrees of a log, and proofs about them (draft-ietf-plants-merkle-tree-certs, 4): a range of leaves that is a whole
//! subtree of every tree which holds it.

use super::LineageReason;
use super::tree::{TreeHead, node_hash, verify_inclusion};
use crate::digest::Sha256Digest;
use crate::rejection::Rejection;

/// The leaves from `start` up to and without `end`, and the hash of the tree over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subtree {
    start: u64,
    end: u64,
    hash: Sha256Digest,
}

impl Subtree {
    /// The subtree of a range.
    ///
    /// # Errors
    /// [`LineageReason::Subtree`] unless `start` is a multiple of the smallest power of two that is not below the
    /// size, which makes it one subtree and not parts of several. That of an empty range is the empty tree.
    pub fn new(start: u64, end: u64, hash: Sha256Digest) -> Result<Self, Rejection> {
        let size = end.checked_sub(start);
        let is_subtree = match size {
            None => false,
            // Of no leaves there is one tree, wherever.
            Some(0) => hash == Sha256Digest::of(&[]),
            Some(size) => size.checked_next_power_of_two().and_then(|width| start.checked_rem(width)) == Some(0),
        };
        if !is_subtree {
            return Err(LineageReason::Subtree.because("an aligned range", alloc::format!("{start}..{end}")));
        }
        Ok(Self { start, end, hash })
    }

    /// Checks that the leaf at `index` of the log is in the subtree.
    ///
    /// # Errors
    /// [`LineageReason::ProofInclusion`].
    pub fn verify_inclusion(&self, index: u64, leaf: Sha256Digest, proof: &[Sha256Digest]) -> Result<(), Rejection> {
        let outside = || LineageReason::ProofInclusion.because(alloc::format!("{}..{}", self.start, self.end), index);
        let within = index.checked_sub(self.start).ok_or_else(outside)?;
        let head = TreeHead { size: self.end.saturating_sub(self.start), root: self.hash };
        verify_inclusion(head, within, leaf, proof)
    }

    /// Checks that the subtree is one of the tree `head`.
    ///
    /// # Errors
    /// [`LineageReason::ProofConsistency`].
    pub fn verify_consistency(&self, head: TreeHead, proof: &[Sha256Digest]) -> Result<(), Rejection> {
        let refused = |found: &str| LineageReason::ProofConsistency.because(head.root, found);
        if head.size < self.end {
            return Err(refused("a subtree beyond the tree"));
        }
        if self.start == self.end {
            return if proof.is_empty() { Ok(()) } else { Err(refused("hashes about no leaves")) };
        }
        // First and last leaf of the subtree, and last of the tree, level by level.
        let (mut first, mut last, mut end) = (self.start, self.end.saturating_sub(1), head.size.saturating_sub(1));
        let at_edge = last == end;
        while first != last && (at_edge || last & 1 == 1) {
            (first, last, end) = (first >> 1, last >> 1, end >> 1);
        }
        let mut proof = proof.iter();
        let start = if first == last { Some(&self.hash) } else { proof.next() };
        let start = *start.ok_or_else(|| refused("no hashes"))?;
        let (mut subtree, mut tree) = (start, start);
        for sibling in proof {
            if end == 0 {
                return Err(refused("more hashes than the tree is high"));
            }
            if last & 1 == 1 || last == end {
                if first < last {
                    subtree = node_hash(*sibling, subtree);
                }
                tree = node_hash(*sibling, tree);
                while last & 1 == 0 && last != 0 {
                    (first, last, end) = (first >> 1, last >> 1, end >> 1);
                }
            } else {
                tree = node_hash(tree, *sibling);
            }
            (first, last, end) = (first >> 1, last >> 1, end >> 1);
        }
        match (end, subtree == self.hash, tree == head.root) {
            (0, true, true) => Ok(()),
            (0, _, _) => Err(refused("hashes that lead elsewhere")),
            (_, _, _) => Err(refused("fewer hashes than the tree is high")),
        }
    }
}
