//! Pieces of which only what differs has come: the rest is taken from the file that is there.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Relaxed;

use super::super::blocks::open_file;
use super::super::holes;
use super::super::temp::TempFile;
use super::{Sink, SinkError};
use crate::buffers::Buffers;
use crate::hashtree::PieceHasher;
use crate::wire::{Piece, Record};

/// So much is copied, looked at and hashed at a time, in bytes.
const STEP_BYTES: u64 = 256 << 10;

/// Whether some of `piece` is to be taken from the file that is there.
pub(super) fn is_based(piece: &Piece) -> bool {
    piece.is_based && piece.content_bytes() < piece.len
}

impl Sink {
    /// What was taken of files that are there and not sent, in bytes.
    pub fn matched_bytes(&self) -> u64 {
        self.matched_bytes.load(Relaxed)
    }

    /// The sender may base pieces on what is there only if it has said so, and may read that.
    pub(super) fn check_based(&self, records: &[Record]) -> Result<(), SinkError> {
        let is_based = |record: &Record| matches!(record.plain(), Record::Piece(it) if it.is_based);
        let may_be = self.shows && self.compares.delta && !self.streams && self.pour.is_none();
        if may_be || !records.iter().any(is_based) {
            return Ok(());
        }
        let why = "nobody has asked for pieces that are based on what is there";
        Err(SinkError::Protocol(why.into()))
    }

    /// Puts what no run of `piece` covers into `temp`, where the runs are already, and verifies it.
    pub(super) fn write_base(&self, temp: &TempFile, piece: &Piece) -> io::Result<()> {
        let end = piece.offset + piece.len;
        self.copy_base(temp, piece).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => changed(),
            _ => error,
        })?;
        // As it is now in the new file: whatever is done to the other one, this stays.
        let opened = temp.open()?;
        let mut hasher = PieceHasher::new(piece.offset, piece.len, piece.file_bytes);
        let mut block = Buffers::default().take(piece.len.min(STEP_BYTES) as usize);
        for at in (piece.offset..end).step_by(STEP_BYTES as usize) {
            let block = &mut block.as_mut()[..(end - at).min(STEP_BYTES) as usize];
            opened.file().read_exact_at(block, at)?;
            hasher.update(block);
        }
        if hasher.finish() == piece.hash {
            self.matched_bytes.fetch_add(piece.len - piece.content_bytes(), Relaxed);
            return Ok(());
        }
        Err(changed())
    }

    fn copy_base(&self, temp: &TempFile, piece: &Piece) -> io::Result<()> {
        let base = open_file(&self.root, &piece.path)?;
        let mut at = piece.offset;
        for run in &piece.runs {
            copy(&base, temp, at, piece.offset + run.offset)?;
            at = piece.offset + run.offset + run.len;
        }
        copy(&base, temp, at, piece.offset + piece.len)
    }
}

fn changed() -> io::Error {
    io::Error::other("the file that is there was changed while it was compared: try again")
}

/// Copies what is content of `from`; what are holes there are holes in a new file as well.
fn copy(from: &File, to: &TempFile, mut at: u64, end: u64) -> io::Result<()> {
    while at < end {
        let data = holes::next_data_step(from, at, end, STEP_BYTES)?.unwrap_or(end..end);
        clear(to, at..data.start)?;
        to.copy_at(from, data.clone())?;
        at = data.end;
    }
    Ok(())
}

/// Where an earlier run has written something that nobody knows to be there, it is overwritten with zeros.
fn clear(file: &TempFile, mut hole: Range<u64>) -> io::Result<()> {
    let opened = file.open()?;
    while let Some(left) = holes::next_data_step(opened.file(), hole.start, hole.end, STEP_BYTES)? {
        let mut at = left.start;
        for zeros in holes::zeros(left.end - left.start) {
            file.write_all_at(zeros, at)?;
            at += zeros.len() as u64;
        }
        hole.start = left.end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cap_std::ambient_authority;
    use cap_std::fs::Dir;

    use super::*;

    #[test]
    fn holes_of_what_is_copied_leave_nothing_of_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let opened = Arc::new(Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap());
        let temp = TempFile::create(opened, "temp".into()).unwrap();
        temp.write_all_at(&vec![7; 1 << 20], 0).unwrap();
        let from = tempfile::tempfile().unwrap();
        from.set_len(1 << 20).unwrap();
        from.write_all_at(&vec![8; 100_000], 300_000).unwrap();
        copy(&from, &temp, 1_000, 900_000).unwrap();
        let found = std::fs::read(dir.path().join("temp")).unwrap();
        let mut want = vec![0; 1 << 20];
        want[..1_000].fill(7);
        want[300_000..400_000].fill(8);
        want[900_000..].fill(7);
        assert!(found == want);
    }
}
