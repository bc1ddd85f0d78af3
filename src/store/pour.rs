//! One file that is written in order to a pipe, as its stripes come: what has come before its turn waits in memory.
//!
//! Each stripe was verified by itself before. What was written is hashed again as it goes out, and the whole is right
//! only if that is the file's hash: whatever went wrong on the way, and over however many attempts.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Mutex};

use super::{reason, shown};
use crate::mutex::lock;
use crate::wire::{Piece, Record, Run};

/// Why nothing more is written.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum PourError {
    /// The sender does not keep to the protocol.
    #[error("{0}")]
    Protocol(String),
    /// What is sent, or who reads, does not let it be.
    #[error("{0}")]
    Disk(String),
}

/// Zeros that holes are written as, at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Where it is written to, over however many attempts.
#[derive(Clone)]
pub struct Outlet(Arc<Mutex<Poured>>);

struct Poured {
    writer: Box<dyn Write + Send>,
    /// How much was written, in bytes.
    bytes: u64,
    hasher: blake3::Hasher,
}

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlet").finish_non_exhaustive()
    }
}

impl Outlet {
    /// Writes to `writer`.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        let (bytes, hasher) = (0, blake3::Hasher::new());
        Self(Arc::new(Mutex::new(Poured { writer: Box::new(writer), bytes, hasher })))
    }
}

impl Poured {
    /// Writes what is at `offset`, but for what an earlier attempt has written of it.
    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let known = usize::try_from(self.bytes - offset.min(self.bytes)).unwrap_or(usize::MAX);
        let Some(new) = data.get(known..) else { return Ok(()) };
        self.writer.write_all(new)?;
        self.hasher.update(new);
        self.bytes += new.len() as u64;
        Ok(())
    }

    fn write_zeros(&mut self, mut offset: u64, end: u64) -> io::Result<()> {
        while offset < end {
            let len = (end - offset).min(ZEROS.len() as u64);
            self.write(offset, &ZEROS[..len as usize])?;
            offset += len;
        }
        Ok(())
    }

    fn write_piece(&mut self, offset: u64, held: &Held) -> io::Result<()> {
        let (mut at, mut content) = (offset, held.content.as_slice());
        for run in &held.runs {
            self.write_zeros(at, offset + run.offset)?;
            let (data, rest) = content.split_at(run.len as usize);
            self.write(offset + run.offset, data)?;
            (at, content) = (offset + run.offset + run.len, rest);
        }
        self.write_zeros(at, offset + held.len)
    }
}

/// One attempt at it.
#[derive(Debug)]
pub(super) struct Pour {
    outlet: Outlet,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    item: Option<u64>,
    /// All before that was written.
    next: u64,
    /// What waits for its turn, by its offset.
    held: BTreeMap<u64, Held>,
    file_bytes: Option<u64>,
    seal: Option<[u8; 32]>,
    /// Stripes that have waited and are written, and that nobody has asked for yet.
    poured: Vec<u64>,
}

#[derive(Debug)]
struct Held {
    stripe: u64,
    len: u64,
    runs: Vec<Run>,
    content: Vec<u8>,
}

impl Pour {
    pub(super) fn new(outlet: Outlet) -> Self {
        Self { outlet, state: Mutex::default() }
    }

    /// Takes the records of a stripe, which was verified. False if something of it waits for its turn.
    pub(super) fn take<'a>(
        &self,
        stripe: u64,
        records: impl Iterator<Item = (&'a Record, &'a [u8])>,
    ) -> Result<bool, PourError> {
        let mut state = lock(&self.state);
        for (record, content) in records {
            match record.plain() {
                Record::Piece(piece) => self.take_piece(&mut state, stripe, piece, content)?,
                Record::Seal { hash, .. } => state.seal = Some(*hash),
                Record::Discard { .. } => {
                    return Err(disk("it vanished or was changed while it was read"));
                }
                Record::Folder { .. } => {
                    return Err(disk("it is a folder: only a file can go to a pipe"));
                }
                Record::Symlink { target, .. } => {
                    let target = shown(target);
                    return Err(disk(&format!(
                        "it is a link to {target:?}: only a file can go to a pipe"
                    )));
                }
                _ => return Err(disk("it is no file: only a file can go to a pipe")),
            }
        }
        Ok(!state.held.values().any(|held| held.stripe == stripe))
    }

    fn take_piece(
        &self,
        state: &mut State,
        stripe: u64,
        piece: &Piece,
        content: &[u8],
    ) -> Result<(), PourError> {
        let broken = |what: &str| PourError::Protocol(what.into());
        if *state.item.get_or_insert(piece.item) != piece.item {
            // It was read anew, since it had changed.
            return Err(disk("it was changed while it was read"));
        }
        if *state.file_bytes.get_or_insert(piece.file_bytes) != piece.file_bytes {
            return Err(broken("one item is two files"));
        }
        if piece.len == piece.file_bytes {
            state.seal = Some(piece.hash);
        }
        if piece.len == 0 {
            return Ok(());
        }
        let overlaps = state.held.range(..piece.offset + piece.len).next_back();
        let overlaps = overlaps.is_some_and(|(at, held)| at + held.len > piece.offset);
        if piece.offset < state.next || overlaps {
            return Err(broken("the pieces of a file do not fit together"));
        }
        let (runs, content) = (piece.runs.clone(), content.to_vec());
        state.held.insert(piece.offset, Held { stripe, len: piece.len, runs, content });
        while let Some(held) = state.held.remove(&state.next) {
            let mut out = lock(&self.outlet.0);
            out.write_piece(state.next, &held).map_err(|error| unwritten(&error))?;
            state.next += held.len;
            let is_over = !state.held.values().any(|other| other.stripe == held.stripe);
            if held.stripe != stripe && is_over {
                state.poured.push(held.stripe);
            }
        }
        Ok(())
    }

    /// Stripes that have waited and are written by now; each is told once.
    pub(super) fn poured(&self) -> Vec<u64> {
        std::mem::take(&mut lock(&self.state).poured)
    }

    /// How much it is, once all of it is written and right.
    pub(super) fn finish(&self) -> Result<u64, PourError> {
        let state = lock(&self.state);
        let mut out = lock(&self.outlet.0);
        let (Some(bytes), Some(seal)) = (state.file_bytes, state.seal) else {
            return Err(disk("there is no such file, or not all of it arrived"));
        };
        if state.next != bytes || out.bytes != bytes {
            return Err(disk("not all of it arrived"));
        }
        if *out.hasher.finalize().as_bytes() != seal {
            return Err(disk(
                "what was written does not match the file's hash: it was changed meanwhile",
            ));
        }
        out.writer.flush().map_err(|error| unwritten(&error))?;
        Ok(bytes)
    }
}

fn disk(why: &str) -> PourError {
    PourError::Disk(why.to_owned())
}

fn unwritten(error: &io::Error) -> PourError {
    match error.kind() {
        ErrorKind::BrokenPipe => disk("nobody takes what is written to the pipe"),
        _ => disk(&format!("cannot write to the pipe: {}", reason(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hashtree::piece_hash;
    use crate::wire::{Meta, SourceBasis, SourceId, SourceState, SourceVersion};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>, Option<usize>);

    impl Write for Sink {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            if self.1.is_some_and(|max| lock(&self.0).len() >= max) {
                return Err(ErrorKind::BrokenPipe.into());
            }
            lock(&self.0).extend(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn piece(item: u64, offset: usize, data: &[u8], all: u64) -> Record {
        let len = data.len() as u64;
        Record::Piece(Piece {
            item,
            path: b"-".to_vec(),
            meta: Meta { mode: 0o644, mtime_s: 0, mtime_ns: 0 },
            source: SourceId {
                version: SourceVersion([1; 16]),
                state: SourceState([1; 16]),
                basis: SourceBasis([1; 16]),
            },
            file_bytes: all,
            sparse: false,
            is_based: false,
            offset: offset as u64,
            len,
            runs: vec![Run { offset: 0, len }],
            hash: piece_hash(offset as u64, data, all),
        })
    }

    #[test]
    fn pieces_go_out_in_order_and_once_over_two_attempts() {
        let data: Vec<u8> = (0..4_096_u32).map(|at| (at * 7 / 3) as u8).collect();
        let (out, all) = (Sink::default(), data.len() as u64);
        let outlet = Outlet::new(out.clone());
        let part = |at: usize| &data[at * 1_024..(at + 1) * 1_024];
        let take = |pour: &Pour, item, at: usize| {
            let record = piece(item, at * 1_024, part(at), all);
            pour.take(at as u64, [(&record, part(at))].into_iter())
        };
        let first = Pour::new(outlet.clone());
        assert!(!take(&first, 1, 1).unwrap() && lock(&out.0).is_empty());
        assert!(take(&first, 1, 0).unwrap());
        assert_eq!((first.poured(), first.poured()), (vec![1], vec![]));
        assert!(!take(&first, 1, 3).unwrap());
        assert_eq!(lock(&out.0).len(), 2_048);
        assert!(first.finish().is_err() && take(&first, 2, 2).is_err(), "it was read anew");

        // Another attempt begins at the start.
        let again = Pour::new(outlet);
        for at in [2, 0, 1, 3] {
            take(&again, 5, at).unwrap();
        }
        assert!(again.finish().is_err(), "the hash of all is missing");
        let seal = Record::Seal { item: 5, hash: *blake3::hash(&data).as_bytes() };
        again.take(9, [(&seal, &b""[..])].into_iter()).unwrap();
        assert_eq!(again.finish().unwrap(), all);
        assert_eq!(*lock(&out.0), data);
        assert!(take(&again, 5, 0).is_err(), "what was written does not come twice");
    }

    #[test]
    fn what_is_no_file_or_not_right_as_a_whole_or_read_by_nobody_fails() {
        let data = [7; 100];
        let take = |pour: &Pour, record: &Record| pour.take(0, [(record, &data[..])].into_iter());
        let meta = Meta { mode: 0o755, mtime_s: 0, mtime_ns: 0 };
        let folder = Record::Folder { item: 1, path: b"-".to_vec(), meta };
        assert!(take(&Pour::new(Outlet::new(Sink::default())), &folder).is_err());
        let changed = Outlet::new(Sink::default());
        let first = Pour::new(changed.clone());
        take(&first, &piece(1, 0, &data, 100)).unwrap();
        let again = Pour::new(changed);
        let other = piece(1, 0, &[8; 100], 100);
        take(&again, &other).unwrap();
        assert!(again.finish().unwrap_err().to_string().contains("changed"));
        let closed = Pour::new(Outlet::new(Sink(Arc::default(), Some(0))));
        let error = take(&closed, &piece(1, 0, &data, 100)).unwrap_err();
        assert!(error.to_string().contains("nobody takes"), "{error}");
    }
}
