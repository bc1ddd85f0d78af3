//! Pieces of one file that are noted together, as few as tell the same.

use super::journal::Entry;
use crate::hashtree::HashTree;
use crate::wire::SourceState;

/// In which state the source of a piece was: only what was read in the same one is noted as one.
pub(super) fn state_of(piece: &Entry) -> Option<SourceState> {
    match piece {
        Entry::Piece { source, .. } | Entry::File { source, .. } => Some(source.state),
        Entry::Placing { .. } => None,
    }
}

/// As few pieces of one file, from one state of its source, as tell the same.
pub(super) fn merged(pieces: &[&Entry]) -> Vec<Entry> {
    let Some(Entry::Piece { path, source, file_bytes, .. }) = pieces.first().copied() else {
        return Vec::new();
    };
    let mut tree = HashTree::new(*file_bytes);
    for piece in pieces {
        if let Entry::Piece { offset, len, hash, .. } = piece {
            tree.add(*offset, *len, *hash);
        }
    }
    let entry = |(offset, len, hash)| Entry::Piece {
        path: path.clone(),
        source: *source,
        file_bytes: *file_bytes,
        offset,
        len,
        hash,
    };
    tree.pieces().into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hashtree::piece_hash;
    use crate::wire::{SourceBasis, SourceId, SourceVersion};

    #[test]
    fn pieces_that_are_noted_together_are_noted_as_few() {
        const PIECE: u64 = 64 << 10;
        let data = vec![0_u8; 13 * PIECE as usize + 7];
        let file_bytes = data.len() as u64;
        let piece = |number: u64| {
            let (offset, end) = (number * PIECE, ((number + 1) * PIECE).min(file_bytes));
            let hash = piece_hash(offset, &data[offset as usize..end as usize], file_bytes);
            let source = SourceId {
                version: SourceVersion([1; 16]),
                state: SourceState([2; 16]),
                basis: SourceBasis([3; 16]),
            };
            let len = end - offset;
            Entry::Piece { path: b"a/b".to_vec(), source, file_bytes, offset, len, hash }
        };
        let pieces: Vec<_> = (0..13).chain([13]).map(piece).collect();
        // In any order, and with one that is missing.
        let some: Vec<_> = pieces.iter().rev().filter(|&entry| *entry != pieces[5]).collect();
        let noted = merged(&some);
        assert!(noted.len() <= 5, "{noted:?}");
        let mut tree = HashTree::new(file_bytes);
        for entry in noted.iter().chain([&pieces[5]]) {
            let Entry::Piece { offset, len, hash, .. } = entry else { panic!("a piece") };
            assert!(tree.add(*offset, *len, *hash), "{entry:?}");
        }
        assert_eq!(tree.root(), Some(blake3::hash(&data)));
        assert_eq!(merged(&pieces.iter().collect::<Vec<_>>()).len(), 1, "all of it");
    }
}
