//! A part of a file: where it is, what of it is content, and its hash.
//!
//! `runs` is a count, then for each run of content the hole before it and its length, which is not zero. What no run
//! covers reads as zeros, or, of a piece that is based on the file that is there, as it reads in that.

use bytes::BufMut;

use super::ids::{SourceBasis, SourceState, SourceVersion};
use super::meta::{get_meta, put_meta};
use super::path::get_path;
use super::stripe::CONTENT_BYTES_MAX;
use super::{Meta, WireError, get_array, get_varint, limit, put_all, put_bytes, put_varint};
use crate::hashtree::{FILE_BYTES_MAX, PIECE_MIN};

/// Runs of content in one piece at most.
pub const RUNS_MAX: usize = 4_096;
/// A run of content within a piece; around it are holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where it starts, in bytes from the piece's start.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
}

/// What a client knows the content of a file by, from one run of a push to the next. The receiver keeps it
/// with what it has of the file, and takes no other for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceId {
    /// Of its size and time of modification. Others mean other content; the same do not mean the same
    /// content, as they can be put back.
    pub version: SourceVersion,
    /// Of its inode and the time of its last change of any kind, when it was read. If these are the same
    /// as well, so is the content. Others may only mean another link or other permissions: then what is
    /// kept counts if the source still has the same hashes.
    pub state: SourceState,
    /// The state in which its first piece was read: the same for all that is kept of it together.
    pub basis: SourceBasis,
}

impl SourceId {
    /// Appends it.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.version.encode(out);
        self.state.encode(out);
        self.basis.encode(out);
    }

    /// Takes one from the front of `input`.
    pub(crate) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        let (version, state) = (SourceVersion::decode(input)?, SourceState::decode(input)?);
        Ok(Self { version, state, basis: SourceBasis::decode(input)? })
    }
}

/// A part of a file. One that is all of its file needs no seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The item.
    pub item: u64,
    /// Where.
    pub path: Vec<u8>,
    /// Mode and time that the file gets with its name.
    pub meta: Meta,
    /// What the client knows its content by.
    pub source: SourceId,
    /// The file's size, in bytes.
    pub file_bytes: u64,
    /// The file has holes: what no run covers is not to be allocated.
    pub sparse: bool,
    /// Where the piece starts in the file, in bytes.
    pub offset: u64,
    /// How much of the file it covers, holes included, in bytes.
    pub len: u64,
    /// What no run covers is as in the file that has this path at the receiver.
    pub is_based: bool,
    /// What of it is content.
    pub runs: Vec<Run>,
    /// Its [`piece_hash`](crate::hashtree::piece_hash), with holes as zeros.
    pub hash: [u8; 32],
}

impl Piece {
    /// Whether it has no content and only names a file, of which all is kept from an earlier run.
    pub fn is_name_only(&self) -> bool {
        self.len == 0 && self.file_bytes > 0
    }

    /// Bytes of content, holes left out.
    pub fn content_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.len).sum()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.item);
        put_bytes(out, &self.path);
        put_meta(out, self.meta);
        self.source.encode(out);
        let flags = u64::from(self.sparse) + 2 * u64::from(self.is_based);
        put_all(out, &[self.file_bytes, flags, self.offset, self.len]);
        put_runs(out, &self.runs);
        out.put_slice(&self.hash);
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        let item = get_varint(input)?;
        let path = get_path(input, false)?;
        let meta = get_meta(input)?;
        let source = SourceId::decode(input)?;
        let file_bytes = limit("file size", get_varint(input)?, FILE_BYTES_MAX)?;
        let flags = limit("flags of a piece", get_varint(input)?, 3)?;
        let (sparse, is_based) = (flags & 1 != 0, flags & 2 != 0);
        let offset = limit("piece offset", get_varint(input)?, file_bytes)?;
        let len_max = (file_bytes - offset).min(CONTENT_BYTES_MAX.into());
        let len = limit("piece length", get_varint(input)?, len_max)?;
        let span = len.next_power_of_two().max(PIECE_MIN);
        let names_only = len == 0 && offset == 0;
        let is_node =
            len > 0 && offset.is_multiple_of(span) && (len == span || offset + len == file_bytes);
        if len != file_bytes && !names_only && !is_node {
            return Err(WireError::Misplaced { offset, len });
        }
        let runs = get_runs(input, len)?;
        let hash = get_array(input)?;
        Ok(Self { item, path, meta, source, file_bytes, sparse, offset, len, is_based, runs, hash })
    }
}

fn put_runs(out: &mut Vec<u8>, runs: &[Run]) {
    put_varint(out, runs.len() as u64);
    let mut end = 0;
    for run in runs {
        put_all(out, &[run.offset - end, run.len]);
        end = run.offset + run.len;
    }
}

fn get_runs(input: &mut &[u8], piece_bytes: u64) -> Result<Vec<Run>, WireError> {
    let count = limit("number of runs", get_varint(input)?, RUNS_MAX as u64)?;
    let mut end = 0;
    (0..count)
        .map(|_| {
            let offset = end + limit("hole", get_varint(input)?, piece_bytes - end)?;
            let len = limit("run", get_varint(input)?, piece_bytes - offset)?;
            end = offset + len;
            if len == 0 {
                return Err(WireError::Unknown { what: "run", value: len });
            }
            Ok(Run { offset, len })
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::meta::tests::meta;
    use super::super::path::tests::path;
    use super::*;

    /// A piece of some file, with the runs that it has.
    pub(in super::super) fn piece() -> impl Strategy<Value = Piece> {
        let runs = proptest::collection::vec((0..5_000_u64, 1..5_000_u64), 0..6);
        let item = 0..1_u64 << 60;
        let flags = any::<[bool; 2]>();
        (item, path(), meta(), flags, 0..1_u64 << 20, runs, any::<[u8; 32]>()).prop_map(
            |(item, path, meta, [sparse, is_based], before, gaps, hash)| {
                let mut end = 0;
                let mut runs = Vec::new();
                for (hole, len) in gaps {
                    runs.push(Run { offset: end + hole, len });
                    end += hole + len;
                }
                let len = end;
                let span = len.next_power_of_two().max(PIECE_MIN);
                let offset = if len == 0 { 0 } else { before * span };
                let file_bytes = offset + len;
                let source = source();
                Piece {
                    item,
                    path,
                    meta,
                    source,
                    file_bytes,
                    sparse,
                    offset,
                    len,
                    is_based,
                    runs,
                    hash,
                }
            },
        )
    }

    fn source() -> SourceId {
        SourceId {
            version: SourceVersion([7; 16]),
            state: SourceState([8; 16]),
            basis: SourceBasis([9; 16]),
        }
    }

    #[test]
    fn a_piece_is_a_node_of_its_files_hash_tree() {
        let decode = |offset, len, file_bytes| {
            let piece = Piece {
                item: 1,
                path: b"a".to_vec(),
                meta: Meta { mode: 0o644, mtime_s: 0, mtime_ns: 0 },
                source: source(),
                file_bytes,
                sparse: true,
                offset,
                len,
                is_based: false,
                runs: vec![],
                hash: [0; 32],
            };
            let mut out = Vec::new();
            piece.encode(&mut out);
            Piece::decode(&mut &*out).map(drop)
        };
        for (offset, len, file_bytes) in
            [(0, 0, 0), (0, 0, 5), (0, 5, 5), (0, 1_024, 9_000), (8_192, 8, 8_200)]
        {
            assert_eq!(decode(offset, len, file_bytes), Ok(()));
        }
        for (offset, len, file_bytes) in [
            (1_024, 0, 5_000),
            (5, 0, 5),
            (1, 1_024, 9_000),
            (1_024, 2_048, 9_000),
            (0, 1_500, 9_000),
        ] {
            assert_eq!(decode(offset, len, file_bytes), Err(WireError::Misplaced { offset, len }));
        }
    }
}
