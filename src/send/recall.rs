//! What the receiver has kept of earlier runs of the same push: asked for before anything is sent.

use std::collections::HashMap;

use crate::traffic::ConnId;
use crate::wire::{
    Destination, FileKey, KeptFile, KeptPiece, SourceBasis, SourceState, ToReceiver,
};

/// What is taken from a server may take so much memory, in bytes; what is above that is sent again. That is
/// enough for two million files.
const KEPT_BYTES_MAX: usize = 160 << 20;
/// What a file takes, be there anything of it or not, and what a piece of one.
const FILE_BYTES: usize = 80;
const PIECE_BYTES: usize = size_of::<KeptPiece>();
/// Room is made for so many pieces of a file at first, and later for twice as many as there are.
const PIECES_AT_FIRST: usize = 4;

/// What the receiver has of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// All of it.
    Whole {
        /// How the source was then.
        state: SourceState,
        /// Its BLAKE3 hash.
        hash: [u8; 32],
    },
    /// Nodes of its hash tree.
    Pieces {
        /// How the source was when the first of them was read.
        basis: SourceBasis,
        /// How it was when all of them were its.
        state: SourceState,
        pieces: Vec<KeptPiece>,
    },
}

impl Kept {
    /// How the source was.
    pub(super) fn state(&self) -> &SourceState {
        match self {
            Self::Whole { state, .. } | Self::Pieces { state, .. } => state,
        }
    }
}

/// By file.
pub(super) type KeptFiles = HashMap<FileKey, Kept>;

/// The question and its answer, which may have to be asked again over another connection.
#[derive(Debug, Default)]
pub(super) struct Recall {
    /// What was at the destination; there while the answer is awaited.
    destination: Option<Destination>,
    /// Where the question is under way.
    asked: Option<ConnId>,
    kept: KeptFiles,
    /// About what that takes.
    kept_bytes: usize,
}

impl Recall {
    /// The server has kept something: it is to be asked for it.
    pub(super) fn begin(&mut self, destination: Destination) {
        self.destination = Some(destination);
    }

    /// What to say over `conn`, over which the server has welcomed us.
    pub(super) fn ask(&mut self, conn: ConnId) -> Option<ToReceiver> {
        if self.destination.is_none() || self.asked.is_some() {
            return None;
        }
        self.asked = Some(conn);
        self.kept.clear();
        self.kept_bytes = 0;
        Some(ToReceiver::Recall)
    }

    /// `conn` is lost. True if another one must be asked.
    pub(super) fn lost(&mut self, conn: ConnId) -> bool {
        let was_asked = self.asked == Some(conn);
        if was_asked {
            self.asked = None;
        }
        was_asked && self.destination.is_some()
    }

    /// Takes a part of the answer that came over `conn`.
    pub(super) fn hear_files(&mut self, conn: ConnId, files: Vec<KeptFile>) {
        if self.asked == Some(conn) && self.has_room(files.len() * FILE_BYTES) {
            let whole = |KeptFile { file, state, hash }| (file, Kept::Whole { state, hash });
            self.kept.extend(files.into_iter().map(whole));
        }
    }

    /// Takes a part of the answer that came over `conn`.
    pub(super) fn hear_pieces(
        &mut self,
        conn: ConnId,
        file: FileKey,
        (basis, state): (SourceBasis, SourceState),
        pieces: Vec<KeptPiece>,
    ) {
        let bytes = FILE_BYTES + pieces.len().max(PIECES_AT_FIRST) * PIECE_BYTES;
        if self.asked == Some(conn) && self.has_room(bytes) {
            let none = Kept::Pieces { basis, state, pieces: Vec::new() };
            let known = self.kept.entry(file).or_insert(none);
            if let Kept::Pieces { basis: of, pieces: known, .. } = known
                && *of == basis
            {
                known.extend(pieces);
            }
        }
    }

    /// The answer over `conn` is complete. Returns what was at the destination, and what is kept.
    pub(super) fn end(&mut self, conn: ConnId) -> Option<(Destination, KeptFiles)> {
        if self.asked != Some(conn) {
            return None;
        }
        Some((self.destination.take()?, std::mem::take(&mut self.kept)))
    }

    fn has_room(&mut self, bytes: usize) -> bool {
        if self.kept_bytes + bytes > KEPT_BYTES_MAX {
            return false;
        }
        self.kept_bytes += bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnId = ConnId(0);
    const B: ConnId = ConnId(1);

    #[test]
    fn an_answer_that_breaks_off_is_asked_for_again_from_its_start() {
        let mut recall = Recall::default();
        assert_eq!(recall.ask(A), None, "nothing is kept");
        recall.begin(Destination::Folder);
        assert_eq!(recall.ask(A), Some(ToReceiver::Recall));
        assert_eq!(recall.ask(B), None, "one is enough");
        recall.hear_files(
            A,
            vec![KeptFile { file: FileKey([1; 16]), state: SourceState([1; 16]), hash: [1; 32] }],
        );
        assert!(!recall.lost(B));
        assert!(recall.lost(A));
        assert_eq!(recall.ask(B), Some(ToReceiver::Recall));
        recall.hear_files(
            B,
            vec![KeptFile { file: FileKey([2; 16]), state: SourceState([2; 16]), hash: [2; 32] }],
        );
        recall.hear_files(
            A,
            vec![KeptFile { file: FileKey([3; 16]), state: SourceState([3; 16]), hash: [3; 32] }],
        );
        assert_eq!(recall.end(A), None);
        let kept = KeptFiles::from([(
            FileKey([2; 16]),
            Kept::Whole { state: SourceState([2; 16]), hash: [2; 32] },
        )]);
        assert_eq!(recall.end(B), Some((Destination::Folder, kept)));
        assert_eq!(recall.ask(A), None);
    }

    #[test]
    fn an_answer_without_an_end_takes_bounded_memory_even_if_there_is_nothing_in_it() {
        let mut recall = Recall::default();
        recall.begin(Destination::Folder);
        recall.ask(A);
        let of = (SourceBasis([1; 16]), SourceState([1; 16]));
        for number in 0..3_000_000_u128 {
            recall.hear_pieces(A, FileKey(number.to_be_bytes()), of, Vec::new());
        }
        assert!(recall.kept.len() * (FILE_BYTES + PIECES_AT_FIRST * PIECE_BYTES) <= KEPT_BYTES_MAX);
    }
}
