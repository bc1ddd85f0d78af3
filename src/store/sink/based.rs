//! Pieces of which only what differs has come: the rest is taken from the file that is there.

use std::fs::File;
use std::io;
use std::sync::atomic::Ordering::Relaxed;

use super::super::blocks::open_file;
use super::super::holes;
use super::super::temp::TempFile;
use super::{Sink, SinkError};
use crate::hashtree::PieceHasher;
use crate::wire::{CONTENT_BYTES_MAX, Piece, Record};

/// Whether some of `piece` is to be taken from the file that is there.
pub(super) fn is_based(piece: &Piece) -> bool {
    piece.is_based && piece.content_bytes() < piece.len
}

impl Sink {
    /// What was taken of files that are there and not sent, in bytes.
    pub fn matched_bytes(&self) -> u64 {
        self.matched_bytes.load(Relaxed)
    }

    /// Whether the sender may base pieces on what is there, and does not have more made of a stripe than it may hold.
    pub(super) fn check_based(&self, records: &[Record]) -> Result<(), SinkError> {
        let based = records.iter().filter_map(|record| match record.plain() {
            Record::Piece(piece) if piece.is_based => Some(piece.len),
            _ => None,
        });
        let based_bytes: u64 = based.sum();
        let may_be = self.shows && self.compares.delta && !self.streams && self.pour.is_none();
        let why = match based_bytes {
            0 => return Ok(()),
            bytes if may_be && bytes <= u64::from(CONTENT_BYTES_MAX) => return Ok(()),
            _ if may_be => "a stripe asks for more of what is there than it may hold",
            _ => "nobody has asked for pieces that are based on what is there",
        };
        Err(SinkError::Protocol(why.into()))
    }

    /// Puts what no run of `piece` covers into `temp`, where the runs are already, and verifies it.
    pub(super) fn write_base(&self, temp: &TempFile, piece: &Piece) -> io::Result<()> {
        let base = open_file(&self.root, &piece.path)?;
        let (mut at, end) = (piece.offset, piece.offset + piece.len);
        for run in &piece.runs {
            copy(&base, temp, at, piece.offset + run.offset)?;
            at = piece.offset + run.offset + run.len;
        }
        copy(&base, temp, at, end)?;
        // As it is now in the new file: whatever is done to the other one, this stays.
        let opened = temp.open()?;
        let mut hasher = PieceHasher::new(piece.offset, piece.len, piece.file_bytes);
        holes::read(opened.file(), piece.offset..end, |part| {
            hasher.update(part);
            true
        })?;
        if hasher.finish() == piece.hash {
            self.matched_bytes.fetch_add(piece.len - piece.content_bytes(), Relaxed);
            return Ok(());
        }
        Err(io::Error::other("the file that is there was changed while it was compared: try again"))
    }
}

/// Copies what is content of `from`; what are holes there are holes in a new file as well.
fn copy(from: &File, to: &TempFile, mut at: u64, end: u64) -> io::Result<()> {
    while let Some(data) = holes::next_data(from, at, end)? {
        to.copy_at(from, data.clone())?;
        at = data.end;
    }
    Ok(())
}
