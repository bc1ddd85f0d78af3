//! What the receiver has of a file, and what of it is missing there.

use std::sync::Arc;

use super::recall::Kept;
use crate::hashtree::HashTree;
use crate::store::kind::FileInfo;
use crate::store::source::Base;
use crate::store::source_root::SourcePath;
use crate::wire::{Claim, KeptPiece};

/// A file of which the receiver has something: either its size and time of modification are the same as when that was
/// sent, and something else about it is not (its inode, its permissions, or the links to it), or the receiver has a file
/// of the same size, and its content decides.
pub(super) struct Check {
    pub(super) local: SourcePath,
    pub(super) path: Vec<u8>,
    pub(super) info: FileInfo,
    pub(super) claim: Option<Claim>,
    pub(super) xattr_bytes_max: usize,
    pub(super) there: There,
}

/// What the receiver has of a file.
pub(super) enum There {
    /// What an earlier run has left.
    Kept(Kept),
    /// A file of the same size.
    Other(Arc<Base>),
}

impl Check {
    /// The file, and what the receiver has of it, if that can be all that there is.
    pub(super) fn expected(&self) -> (SourcePath, FileInfo, Option<Nodes>) {
        let bytes = self.info.bytes;
        let pieces = match &self.there {
            There::Kept(Kept::Whole { hash, .. }) => Some(vec![(0, bytes, *hash)]),
            // Those that do not fit a file of this size are left out.
            There::Kept(Kept::Pieces { pieces, .. }) => Some(tree(bytes, pieces).pieces()),
            There::Other(base) => base.whole(),
        };
        (self.local.clone(), self.info, pieces)
    }
}

/// Nodes of a file's hash tree: where each is, its length and its hash.
type Nodes = Vec<(u64, u64, [u8; 32])>;

/// The hash tree of a file of which these pieces are kept. Those that do not fit are left out.
pub(super) fn tree(bytes: u64, pieces: &[KeptPiece]) -> HashTree {
    let mut tree = HashTree::new(bytes);
    for piece in pieces {
        tree.add(piece.offset, piece.len, piece.hash);
    }
    tree
}

/// The ranges of a file that are not in its tree: where each starts, and its length.
pub(super) fn missing(tree: &HashTree, bytes: u64) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    let mut at = 0;
    for (offset, len) in
        tree.pieces().into_iter().map(|(offset, len, _)| (offset, len)).chain([(bytes, 0)])
    {
        if offset > at {
            ranges.push((at, offset - at));
        }
        at = offset + len;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hashtree::piece_hash;
    use crate::traffic::{ConnId, Item, ItemId, Plan};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_missing_and_what_is_kept_make_the_file(
            bytes in 70_000_usize..700_000,
            shifts in proptest::collection::vec(14_u32..18, 1..6),
            kept in proptest::collection::vec(any::<bool>(), 50),
        ) {
            let data: Vec<u8> = (0..bytes).map(|index| (index % 251) as u8).collect();
            let hash = |offset: u64, len: u64| {
                let range = offset as usize..(offset + len) as usize;
                piece_hash(offset, &data[range], bytes as u64)
            };
            let pieces = |items: Vec<Item>| {
                let mut plan = Plan::default();
                for item in items {
                    plan.offer(item);
                }
                let (mut turn, shifts) = (0, &shifts);
                std::iter::from_fn(move || {
                    turn += 1;
                    Some(plan.next(ConnId(0), 1 << shifts[turn % shifts.len()])?.0.extents[0])
                })
                .collect::<Vec<_>>()
            };
            let first = pieces(vec![Item::split(ItemId(0), bytes as u64)]);
            let there: Vec<_> = first
                .iter()
                .zip(kept.iter().chain(std::iter::repeat(&true)))
                .filter(|&(_, &kept)| kept)
                .map(|(piece, _)| (piece.offset, piece.len, hash(piece.offset, piece.len)))
                .map(|(offset, len, hash)| KeptPiece { offset, len, hash })
                .collect();
            let mut tree = tree(bytes as u64, &there);
            let items = missing(&tree, bytes as u64)
                .into_iter()
                .map(|(offset, len)| Item::range(ItemId(0), offset, len, offset + len < bytes as u64))
                .collect();
            let rest = pieces(items);
            let sum = |lens: Vec<u64>| lens.into_iter().sum::<u64>();
            let there_bytes = sum(there.iter().map(|piece| piece.len).collect());
            prop_assert_eq!(there_bytes + sum(rest.iter().map(|piece| piece.len).collect()), bytes as u64);
            for piece in rest {
                prop_assert!(tree.add(piece.offset, piece.len, hash(piece.offset, piece.len)));
            }
            prop_assert_eq!(tree.root(), Some(blake3::hash(&data)));
        }
    }
}
