//! A file's BLAKE3 hash from the hashes of its pieces, in whatever order they come.
//!
//! BLAKE3 is a binary tree over chunks of 1 KiB (BLAKE3 paper, 2.1), and a piece that is a node of it
//! has a chaining value of its own. Each piece is hashed once, when it is read or received, and serves
//! both as the piece's check and as a part of the file's hash. The result is what `b3sum` prints.

use std::collections::BTreeMap;

use blake3::Hash;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};

/// The smallest piece, but for a file's last: one chunk.
pub const PIECE_MIN: u64 = blake3::CHUNK_LEN as u64;

/// The largest file, so that no sum of offsets and spans can overflow: 1 EiB.
pub const FILE_BYTES_MAX: u64 = 1 << 60;

/// The hash of one piece.
///
/// For a piece that is all of its file that is the file's hash, otherwise its node's chaining value.
/// `offset` must be a multiple of the length's power of two.
pub fn piece_hash(offset: u64, piece: &[u8], file_bytes: u64) -> [u8; 32] {
    hash_parts(offset, piece.len() as u64, std::iter::once(piece), file_bytes)
}

/// The [`piece_hash`] of a piece of `len` bytes that is given in parts.
pub fn hash_parts<'a>(
    offset: u64,
    len: u64,
    parts: impl Iterator<Item = &'a [u8]>,
    file_bytes: u64,
) -> [u8; 32] {
    let mut hasher = PieceHasher::new(offset, len, file_bytes);
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

/// The [`piece_hash`] of a piece that comes bit by bit.
#[derive(Debug)]
pub struct PieceHasher {
    hasher: blake3::Hasher,
    is_whole: bool,
}

impl PieceHasher {
    /// Of a piece of `len` bytes.
    pub fn new(offset: u64, len: u64, file_bytes: u64) -> Self {
        let is_whole = len == file_bytes;
        let mut hasher = blake3::Hasher::new();
        if !is_whole {
            hasher.set_input_offset(offset);
        }
        Self { hasher, is_whole }
    }

    /// Takes in what comes next.
    pub fn update(&mut self, part: &[u8]) {
        self.hasher.update(part);
    }

    /// The hash, once all has come.
    pub fn finish(&self) -> [u8; 32] {
        if self.is_whole {
            *self.hasher.finalize().as_bytes()
        } else {
            self.hasher.finalize_non_root()
        }
    }
}

/// What a node of a [`HashTree`] takes in memory, in bytes, about.
pub const NODE_BYTES: usize = 72;

/// Collects a file's pieces. Keeps only what is not merged yet: a few nodes for each gap.
#[derive(Clone, Debug)]
pub struct HashTree {
    file_bytes: u64,
    nodes: BTreeMap<u64, Node>,
    root: Option<Hash>,
}

/// Covers `span` bytes from its offset on, or what the file has of them.
#[derive(Clone, Copy, Debug)]
struct Node {
    span: u64,
    value: ChainingValue,
}

impl HashTree {
    /// A file of `file_bytes` bytes of which nothing is known yet.
    pub fn new(file_bytes: u64) -> Self {
        let root = (file_bytes == 0).then(|| blake3::hash(&[]));
        Self { file_bytes, nodes: BTreeMap::new(), root }
    }

    /// Adds a piece by its [`piece_hash`]. False if it cannot be a piece of this file, or overlaps one
    /// that is known already.
    pub fn add(&mut self, offset: u64, len: u64, hash: [u8; 32]) -> bool {
        let Some(end) = offset.checked_add(len) else { return false };
        if self.file_bytes > FILE_BYTES_MAX
            || len == 0
            || end > self.file_bytes
            || self.root.is_some()
            || self.overlaps(offset, end)
        {
            return false;
        }
        if len == self.file_bytes {
            self.root = Some(Hash::from_bytes(hash));
            return true;
        }
        let span = len.next_power_of_two().max(PIECE_MIN);
        let is_last = end == self.file_bytes;
        if !offset.is_multiple_of(span) || (len != span && !is_last) {
            return false;
        }
        self.merge(offset, Node { span, value: hash });
        true
    }

    /// How long the file is said to be.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// A file that was said to be as long as none is, since that was not known, has `bytes` bytes. False if that
    /// cannot be.
    pub fn set_length(&mut self, bytes: u64) -> bool {
        if self.file_bytes == bytes {
            return true;
        }
        if self.file_bytes != FILE_BYTES_MAX || bytes == 0 {
            return false;
        }
        let mut known = Self::new(bytes);
        let fits = self.pieces().into_iter().all(|(offset, len, hash)| {
            // A node is all of its file only by another hash.
            len < bytes && known.add(offset, len, hash)
        });
        if fits {
            *self = known;
        }
        fits
    }

    /// The file's hash, once all pieces are there.
    pub fn root(&self) -> Option<Hash> {
        self.root
    }

    /// What is known: as few pieces as possible, in order, which make the same tree when they are added
    /// to an empty one. Each is an offset, a length and a hash.
    pub fn pieces(&self) -> Vec<(u64, u64, [u8; 32])> {
        if let Some(root) = self.root.filter(|_| self.file_bytes > 0) {
            return vec![(0, self.file_bytes, *root.as_bytes())];
        }
        let piece = |(&offset, node): (&u64, &Node)| {
            (offset, node.span.min(self.file_bytes - offset), node.value)
        };
        self.nodes.iter().map(piece).collect()
    }

    /// How many nodes it keeps.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    fn overlaps(&self, offset: u64, end: u64) -> bool {
        let before = self.nodes.range(..end).next_back();
        before.is_some_and(|(&at, node)| at + node.span > offset)
    }

    fn merge(&mut self, mut offset: u64, mut node: Node) {
        loop {
            // A last node without a right sibling stands for its parent as well.
            while offset.is_multiple_of(node.span * 2) && offset + node.span >= self.file_bytes {
                node.span *= 2;
            }
            let sibling_at = offset ^ node.span;
            let sibling = match self.nodes.get(&sibling_at) {
                Some(sibling) if sibling.span == node.span => *sibling,
                _ => break,
            };
            self.nodes.remove(&sibling_at);
            let (left, right) = if offset < sibling_at {
                (node.value, sibling.value)
            } else {
                (sibling.value, node.value)
            };
            offset = offset.min(sibling_at);
            node.span *= 2;
            if offset == 0 && node.span >= self.file_bytes {
                self.root = Some(merge_subtrees_root(&left, &right, Mode::Hash));
                return;
            }
            node.value = merge_subtrees_non_root(&left, &right, Mode::Hash);
        }
        self.nodes.insert(offset, node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::{ConnId, Item, ItemId, Plan};
    use proptest::prelude::*;

    #[test]
    fn a_length_that_is_learned_at_the_end_makes_the_same_hash_in_whatever_order() {
        let chunk = 4 * PIECE_MIN as usize;
        for (count, rest) in [(1, 7), (2, chunk), (3, 1), (4, chunk), (5, 1_500)] {
            let bytes = count * chunk + rest;
            let data: Vec<u8> = (0..bytes).map(|at| (at * 13 / 5) as u8).collect();
            let total = bytes as u64;
            for first in 0..=count {
                let mut tree = HashTree::new(FILE_BYTES_MAX);
                let mut parts: Vec<usize> = (0..=count).collect();
                parts.rotate_left(first);
                for part in parts {
                    let start = part * chunk;
                    let piece = &data[start..bytes.min(start + chunk)];
                    let is_last = part == count;
                    assert!(!is_last || tree.set_length(total));
                    let said = if is_last { total } else { FILE_BYTES_MAX };
                    let hash = piece_hash(start as u64, piece, said);
                    assert!(tree.add(start as u64, piece.len() as u64, hash), "{count} {first}");
                }
                assert_eq!(tree.root(), Some(blake3::hash(&data)), "{count} {first}");
                assert!(tree.set_length(total) && !tree.set_length(total + 1));
            }
        }
        let mut tree = HashTree::new(FILE_BYTES_MAX);
        assert!(tree.add(PIECE_MIN, PIECE_MIN, [7; 32]));
        assert!(!tree.set_length(PIECE_MIN + 5), "more is there already");
    }

    #[test]
    fn pieces_that_do_not_fit_are_refused() {
        let mut tree = HashTree::new(10 << 10);
        assert!(!tree.add(0, 0, [0; 32]));
        assert!(!tree.add(1, 1024, [0; 32]), "not aligned");
        assert!(!tree.add(0, 1500, [0; 32]), "not a power of two");
        assert!(!tree.add(u64::MAX, 1024, [0; 32]), "past the end");
        assert!(tree.add(0, 2048, [0; 32]));
        assert!(!tree.add(1024, 1024, [0; 32]), "known already");
    }

    proptest! {
        #[test]
        fn the_root_is_what_blake3_says_however_the_file_is_cut_and_mixed(
            bytes in prop_oneof![0_usize..5_000, 60_000_usize..700_000],
            shifts in proptest::collection::vec(10_u32..19, 1..6),
            seed in any::<u64>(),
        ) {
            let data: Vec<u8> = (0..bytes).map(|index| ((index as u64).wrapping_mul(seed) >> 7) as u8).collect();
            let mut plan = Plan::default();
            if bytes > 0 {
                plan.offer(Item::split(ItemId(0), bytes as u64));
            }
            let mut pieces = Vec::new();
            while let Some((stripe, _)) = plan.next(ConnId(0), 1 << shifts[pieces.len() % shifts.len()]) {
                pieces.push(stripe.extents[0]);
            }
            pieces.sort_by_key(|piece| piece.offset.wrapping_mul(seed | 1));
            let mut tree = HashTree::new(bytes as u64);
            for piece in pieces {
                prop_assert_eq!(tree.root(), None);
                let range = piece.offset as usize..(piece.offset + piece.len) as usize;
                let hash = piece_hash(piece.offset, &data[range], bytes as u64);
                prop_assert!(tree.add(piece.offset, piece.len, hash));
                // A tree can be put away and made again at any point.
                let mut again = HashTree::new(bytes as u64);
                for (offset, len, hash) in tree.pieces() {
                    prop_assert!(again.add(offset, len, hash));
                }
                tree = again;
            }
            prop_assert_eq!(tree.root(), Some(blake3::hash(&data)));
        }
    }
}
