//! The Merkle tree over the log's entries (RFC 6962, 2.1), and proofs about it (RFC 9162, 2.1.3 and 2.1.4).

use alloc::vec::Vec;

use crate::digest::Sha256Digest;
use crate::lineage::LineageReason;
use crate::rejection::Rejection;

/// The hash of a leaf: domain-separated from nodes, so that no node can pass for an entry (RFC 6962, 2.1).
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Sha256Digest {
    Sha256Digest::of(&[&[0], entry])
}

/// The hash of an inner node.
#[must_use]
pub fn node_hash(left: Sha256Digest, right: Sha256Digest) -> Sha256Digest {
    Sha256Digest::of(&[&[1], &left.0, &right.0])
}

/// The root of a tree and how many leaves it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeHead {
    /// Leaves.
    pub size: u64,
    /// The root's hash.
    pub root: Sha256Digest,
}

/// The right edge of a growing tree: the roots of its perfect subtrees, largest first. Enough to append and to know
/// the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Sha256Digest>,
}

impl Frontier {
    /// The frontier of the empty tree.
    #[must_use]
    pub const fn new() -> Self {
        Self { size: 0, peaks: Vec::new() }
    }

    /// Appends a leaf. Each set bit at the low end of the size is a subtree that it completes.
    pub fn push(&mut self, leaf: Sha256Digest) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = node_hash(left, hash);
            }
        }
        self.peaks.push(hash);
        self.size = self.size.saturating_add(1);
    }

    /// Leaves so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Size and root.
    #[must_use]
    pub fn head(&self) -> TreeHead {
        let mut peaks = self.peaks.iter().rev();
        let root = match peaks.next() {
            // RFC 6962, 2.1: the root of the empty tree is the hash of nothing.
            None => Sha256Digest::of(&[]),
            Some(smallest) => peaks.fold(*smallest, |right, left| node_hash(*left, right)),
        };
        TreeHead { size: self.size, root }
    }
}

/// Checks that `leaf` is the leaf at `index` of the tree (RFC 9162, 2.1.3.2).
///
/// # Errors
/// [`LineageReason::ProofInclusion`].
pub fn verify_inclusion(
    head: TreeHead,
    index: u64,
    leaf: Sha256Digest,
    proof: &[Sha256Digest],
) -> Result<(), Rejection> {
    let refused = |found: &str| Err(LineageReason::ProofInclusion.because(head.root, found));
    if head.size <= index {
        return refused("an index outside the tree");
    }
    let mut node = index;
    let mut last = head.size.saturating_sub(1);
    let mut root = leaf;
    for sibling in proof {
        if last == 0 {
            return refused("more hashes than the tree is high");
        }
        if node & 1 == 1 || node == last {
            root = node_hash(*sibling, root);
            (node, last) = skip_absent(node, last);
        } else {
            root = node_hash(root, *sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return refused("fewer hashes than the tree is high");
    }
    if root != head.root {
        return Err(LineageReason::ProofInclusion.because(head.root, root));
    }
    Ok(())
}

/// At the right edge, levels without a sibling have no hash in the proof.
const fn skip_absent(mut node: u64, mut last: u64) -> (u64, u64) {
    while node & 1 == 0 && node != 0 {
        node >>= 1;
        last >>= 1;
    }
    (node, last)
}

/// Checks that the tree of `newer` begins with all of the tree of `older` (RFC 9162, 2.1.4.2). The empty tree is a
/// prefix of every tree, which proves nothing: it is refused.
///
/// # Errors
/// [`LineageReason::ProofConsistency`].
pub fn verify_consistency(older: TreeHead, newer: TreeHead, proof: &[Sha256Digest]) -> Result<(), Rejection> {
    let refused = |found: &str| Err(LineageReason::ProofConsistency.because(newer.root, found));
    if older.size == 0 || newer.size < older.size {
        return refused("no tree before this one");
    }
    if older.size == newer.size {
        if older.root != newer.root {
            return refused("two trees of one size");
        }
        return if proof.is_empty() { Ok(()) } else { refused("hashes where none are needed") };
    }
    let mut node = older.size.saturating_sub(1);
    let mut last = newer.size.saturating_sub(1);
    while node & 1 == 1 {
        (node, last) = (node >> 1, last >> 1);
    }
    // A perfect older tree is a node of the newer one, and the proof leaves it out.
    let (start, rest) = match proof.split_first() {
        _ if older.size.is_power_of_two() => (older.root, proof),
        Some((first, rest)) => (*first, rest),
        None => return refused("no hashes"),
    };
    let (mut old_root, mut new_root) = (start, start);
    for hash in rest {
        if last == 0 {
            return refused("more hashes than the tree is high");
        }
        if node & 1 == 1 || node == last {
            old_root = node_hash(*hash, old_root);
            new_root = node_hash(*hash, new_root);
            (node, last) = skip_absent(node, last);
        } else {
            new_root = node_hash(new_root, *hash);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return refused("fewer hashes than the tree is high");
    }
    if old_root != older.root {
        return Err(LineageReason::ProofConsistency.because(older.root, old_root));
    }
    if new_root != newer.root {
        return Err(LineageReason::ProofConsistency.because(newer.root, new_root));
    }
    Ok(())
}

/// Where hashes of perfect subtrees come from: `(level, index)` is the subtree over the leaves from `index << level`,
/// `1 << level` of them. `None` when it is not there.
pub trait Subtrees {
    /// The hash of one perfect subtree.
    fn hash(&self, level: u32, index: u64) -> Option<Sha256Digest>;
}

impl<F: Fn(u32, u64) -> Option<Sha256Digest>> Subtrees for F {
    fn hash(&self, level: u32, index: u64) -> Option<Sha256Digest> {
        self(level, index)
    }
}

/// Leaf hashes in order.
impl Subtrees for [Sha256Digest] {
    fn hash(&self, level: u32, index: u64) -> Option<Sha256Digest> {
        let width = 1_u64.checked_shl(level)?;
        let start = index.checked_mul(width)?;
        let end = usize::try_from(start.checked_add(width)?).ok()?;
        let mut frontier = Frontier::new();
        for leaf in self.get(usize::try_from(start).ok()?..end)? {
            frontier.push(*leaf);
        }
        Some(frontier.head().root)
    }
}

/// The inclusion proof of the leaf at `index` in the tree of `size` leaves (RFC 6962, 2.1.1). `None` when the leaf is
/// outside the tree or a hash is not there.
pub fn inclusion_proof<S: Subtrees + ?Sized>(hashes: &S, index: u64, size: u64) -> Option<Vec<Sha256Digest>> {
    if size <= index {
        return None;
    }
    let (mut low, mut high) = (0_u64, size);
    let mut proof = Vec::new();
    while 1 < high.saturating_sub(low) {
        let middle = low.checked_add(split(high.checked_sub(low)?))?;
        if index < middle {
            proof.push(range_root(hashes, middle, high)?);
            high = middle;
        } else {
            proof.push(range_root(hashes, low, middle)?);
            low = middle;
        }
    }
    proof.reverse();
    Some(proof)
}

/// The consistency proof between the trees of `older` and `newer` leaves (RFC 6962, 2.1.2). `None` when there is none
/// or a hash is not there.
pub fn consistency_proof<S: Subtrees + ?Sized>(hashes: &S, older: u64, newer: u64) -> Option<Vec<Sha256Digest>> {
    if older == 0 || newer < older {
        return None;
    }
    let (mut low, mut high) = (0_u64, newer);
    let mut proof = Vec::new();
    let mut whole = true;
    while older < high {
        let middle = low.checked_add(split(high.checked_sub(low)?))?;
        if older <= middle {
            proof.push(range_root(hashes, middle, high)?);
            high = middle;
        } else {
            proof.push(range_root(hashes, low, middle)?);
            low = middle;
            whole = false;
        }
    }
    if !whole {
        proof.push(range_root(hashes, low, high)?);
    }
    proof.reverse();
    Some(proof)
}

/// The largest power of two below `width`, which is at least 2.
const fn split(width: u64) -> u64 {
    match width.saturating_sub(1).checked_ilog2() {
        Some(log) => 1 << log,
        None => 0,
    }
}

/// The root over the leaves from `low` to before `high`, where `low` is a multiple of the largest subtree in between.
fn range_root<S: Subtrees + ?Sized>(hashes: &S, low: u64, high: u64) -> Option<Sha256Digest> {
    let mut low = low;
    let mut peaks = Vec::new();
    while low < high {
        let level = high.checked_sub(low)?.checked_ilog2()?;
        peaks.push(hashes.hash(level, low.checked_shr(level)?)?);
        low = low.checked_add(1_u64.checked_shl(level)?)?;
    }
    let mut peaks = peaks.into_iter().rev();
    let smallest = peaks.next()?;
    Some(peaks.fold(smallest, |right, left| node_hash(left, right)))
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec::Vec;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, proptest};
    use serde_json::Value;

    use super::{
        Frontier, Subtrees as _, TreeHead, consistency_proof, inclusion_proof, leaf_hash, node_hash,
        verify_consistency, verify_inclusion,
    };
    use crate::digest::Sha256Digest;
    use crate::lineage::vectors;

    fn leaves(count: u64) -> Vec<Sha256Digest> {
        (0..count).map(|index| leaf_hash(&index.to_be_bytes())).collect()
    }

    fn head(leaves: &[Sha256Digest]) -> TreeHead {
        let mut frontier = Frontier::new();
        leaves.iter().for_each(|leaf| frontier.push(*leaf));
        frontier.head()
    }

    /// RFC 6962, 2.1, as it is written there.
    fn definition(leaves: &[Sha256Digest]) -> Sha256Digest {
        match leaves {
            [] => Sha256Digest::of(&[]),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(definition(left), definition(right))
            }
        }
    }

    fn digest(value: &Value) -> Option<Sha256Digest> {
        STANDARD.decode(value.as_str()?).ok()?.try_into().ok().map(Sha256Digest)
    }

    fn proof(value: &Value) -> Option<Vec<Sha256Digest>> {
        value.as_array().map_or(Some(Vec::new()), |hashes| hashes.iter().map(digest).collect())
    }

    #[test]
    fn the_frontier_has_the_root_of_the_definition() {
        let all = leaves(70);
        for count in 0..=70 {
            assert_eq!(head(&all[..count]).root, definition(&all[..count]), "{count}");
            assert_eq!(usize::try_from(head(&all[..count]).size), Ok(count));
        }
    }

    #[test]
    fn inclusion_vectors() {
        for (_, _, row) in vectors::of_kind("rfc6962-inclusion") {
            let all: Vec<Value> = serde_json::from_slice(&vectors::bytes(&row, "vectors")).unwrap();
            assert_eq!(all.len(), 59);
            for vector in all {
                let id = vector["id"].as_str().unwrap();
                let size = vector["treeSize"].as_u64().unwrap();
                let index = vector["leafIdx"].as_u64().unwrap();
                // A hash of another length is no hash; such a vector cannot even be asked about.
                let verdict = (|| {
                    let head = TreeHead { size, root: digest(&vector["root"])? };
                    let leaf = digest(&vector["leafHash"])?;
                    verify_inclusion(head, index, leaf, &proof(&vector["proof"])?).ok()
                })();
                assert_eq!(verdict.is_none(), vector["wantErr"], "{id}");
            }
        }
    }

    #[test]
    fn consistency_vectors() {
        for (_, _, row) in vectors::of_kind("rfc6962-consistency") {
            let all: Vec<Value> = serde_json::from_slice(&vectors::bytes(&row, "vectors")).unwrap();
            assert_eq!(all.len(), 56);
            let mut accepted = 0;
            for vector in all {
                let id = vector["id"].as_str().unwrap();
                let tree = |size: &str, root: &str| {
                    Some(TreeHead { size: vector[size].as_u64()?, root: digest(&vector[root])? })
                };
                let verdict = (|| {
                    let (older, newer) = (tree("size1", "root1")?, tree("size2", "root2")?);
                    verify_consistency(older, newer, &proof(&vector["proof"])?).ok()
                })();
                // One vector calls two equal trees consistent whose roots are no SHA-256 hashes.
                let unasked = digest(&vector["root1"]).is_none();
                assert!(verdict.is_none() == (vector["wantErr"] == true) || unasked, "{id}");
                accepted += usize::from(verdict.is_some());
            }
            assert_eq!(accepted, 2);
        }
    }

    #[test]
    fn a_proof_between_trees_of_the_same_size_is_empty() {
        let one = head(&leaves(1));
        let other = TreeHead { root: Sha256Digest([0; 32]), ..one };
        assert!(verify_consistency(one, one, &[]).is_ok());
        let refused = |older, newer, proof: &[_]| -> String {
            verify_consistency(older, newer, proof).unwrap_err().code().into()
        };
        assert_eq!(refused(one, other, &[]), "lineage.proof.consistency");
        assert_eq!(refused(one, one, &[one.root]), "lineage.proof.consistency");
        assert_eq!(refused(head(&[]), one, &[]), "lineage.proof.consistency");
        assert_eq!(refused(head(&leaves(2)), one, &[]), "lineage.proof.consistency");
    }

    #[test]
    fn subtrees_end_where_the_leaves_do() {
        let all = leaves(5);
        assert_eq!(all.hash(2, 0), Some(definition(&all[..4])));
        assert_eq!(all.hash(2, 1), None);
        assert_eq!(all.hash(64, 0), None);
        assert_eq!(inclusion_proof(&all[..], 5, 5), None);
        assert_eq!(inclusion_proof(&all[..], 4, 6), None);
        assert_eq!(consistency_proof(&all[..], 0, 5), None);
        assert_eq!(consistency_proof(&all[..], 5, 4), None);
    }

    /// A size, and a number below it.
    fn tree_and_leaf() -> impl Strategy<Value = (u64, u64)> {
        (1_u64..600).prop_flat_map(|size| (Just(size), 0..size))
    }

    proptest! {
        #[test]
        fn every_leaf_is_included_and_no_other((size, index) in tree_and_leaf(), bit in 0_usize..256) {
            let all = leaves(size);
            let leaf = all[usize::try_from(index).unwrap()];
            let proof = inclusion_proof(&all[..], index, size).unwrap();
            let head = head(&all);
            prop_assert!(verify_inclusion(head, index, leaf, &proof).is_ok());
            let wrong = [index ^ 1, index.wrapping_add(1), size, u64::MAX];
            for wrong in wrong.into_iter().filter(|wrong| *wrong != index) {
                prop_assert!(verify_inclusion(head, wrong, leaf, &proof).is_err());
            }
            let mut flipped = leaf;
            flipped.0[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(verify_inclusion(head, index, flipped, &proof).unwrap_err().code(),
                "lineage.proof.inclusion");
            let longer = [&proof[..], &[leaf]].concat();
            prop_assert!(verify_inclusion(head, index, leaf, &longer).is_err());
            if let Some((_, shorter)) = proof.split_last() {
                prop_assert!(verify_inclusion(head, index, leaf, shorter).is_err());
            }
        }

        #[test]
        fn every_tree_begins_with_every_smaller_one((newer, below) in tree_and_leaf(), bit in 0_usize..256) {
            let all = leaves(newer);
            let older = below.saturating_add(1);
            let old_head = head(&all[..usize::try_from(older).unwrap()]);
            let new_head = head(&all);
            let proof = consistency_proof(&all[..], older, newer).unwrap();
            prop_assert!(verify_consistency(old_head, new_head, &proof).is_ok());
            let mut other = old_head;
            other.root.0[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(verify_consistency(other, new_head, &proof).is_err());
            let mut other = new_head;
            other.root.0[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(verify_consistency(old_head, other, &proof).is_err());
            let longer = [&proof[..], &[old_head.root]].concat();
            prop_assert!(verify_consistency(old_head, new_head, &longer).is_err());
            if let Some((_, shorter)) = proof.split_last() {
                prop_assert!(verify_consistency(old_head, new_head, shorter).is_err());
            }
        }
    }
}
