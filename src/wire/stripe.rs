//! A stripe: a [`Header`], a table of [`Record`]s, and the content that they speak of.
//!
//! Stripes may arrive in any order and by any connection, so each record says all that is needed to
//! act on it. Layout: header, table, then the records' content one after the other.
//!
//! | header field | width | |
//! |---|---|---|
//! | stripe | 8 | its number; a stripe that is sent again is the same, byte for byte |
//! | table length | 4 | at most [`TABLE_BYTES_MAX`] |
//! | content length | 4 | at most [`CONTENT_BYTES_MAX`] |
//! | table hash | 32 | BLAKE3 of the table, which in turn holds the hashes of the content |
//!
//! | type | record | fields |
//! |---|---|---|
//! | 1 | [`Record::Folder`] | item, path, meta |
//! | 2 | [`Record::Symlink`] | item, path, meta, target (bytes) |
//! | 3 | [`Record::Piece`] | item, path, meta, source (3 times 16 bytes: see [`SourceId`]), file size, sparse (0, 1), offset, length, runs, hash (32 bytes) |
//! | 4 | [`Record::Seal`] | item, hash (32 bytes) |
//! | 5 | [`Record::Discard`] | item |
//! | 6 | [`Record::Kept`] | item, path, meta, file size, hash (32 bytes) |
//! | 7 | [`Record::With`] | [`Extra`], and then a record of type 1, 2, 3, 4, 8 or 10 |
//! | 8 | [`Record::Special`] | item, path, meta, what (0 pipe, 1 socket, 2 character device, 3 block device), major, minor |
//! | 9 | [`Record::Link`] | item, path, path of the other, meta, file size |
//! | 10 | [`Record::Adopt`] | item, path, meta, file size |
//!
//! From 7 on they are only of transfers that ask for what they bring.
//!
//! `path` is relative to the server's root: components that are not empty, `.` or `..`, joined by `/`.
//! `meta` is mode, seconds (zigzag) and nanoseconds of the modification time. `runs` is a count, then
//! for each run of content the hole before it and its length, which is not zero; what no run covers
//! reads as zeros. A piece of no bytes, of a file that has some, only names the file: all of it is kept
//! from an earlier run. A table holds at most [`RECORDS_MAX`] records, and its pieces cover at most
//! [`CONTENT_BYTES_MAX`] bytes of their files, holes included.

use bytes::{Buf, BufMut};

use super::extra::Extra;
use super::ids::{SourceBasis, SourceState, SourceVersion};
use super::{
    PATH_BYTES_MAX, WireError, get_array, get_bytes, get_u32, get_varint, put_all, put_bytes,
    put_varint,
};
use crate::hashtree::{FILE_BYTES_MAX, PIECE_MIN};

/// A table's length at most, in bytes.
pub const TABLE_BYTES_MAX: u32 = 16 << 20;
/// The content of a stripe at most, in bytes.
pub const CONTENT_BYTES_MAX: u32 = 16 << 20;
/// Records in one table at most.
pub const RECORDS_MAX: usize = 1_024;
/// Runs of content in one piece at most.
pub const RUNS_MAX: usize = 4_096;
/// A path component's length at most, in bytes (`NAME_MAX` on Linux).
pub const NAME_BYTES_MAX: usize = 255;
/// So much of a name that is too long is shown, in bytes.
const NAME_SHOWN: usize = 20;

/// What a stripe begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The stripe's number.
    pub stripe: u64,
    /// The table's length, in bytes.
    pub table_bytes: u32,
    /// The content's length, in bytes.
    pub content_bytes: u32,
    /// BLAKE3 of the table.
    pub table_hash: [u8; 32],
}

impl Header {
    /// Its length on the wire, in bytes.
    pub const BYTES: usize = 48;

    /// Appends the header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.stripe);
        out.put_u32(self.table_bytes);
        out.put_u32(self.content_bytes);
        out.put_slice(&self.table_hash);
    }

    /// Reads a header from the front of `input`.
    pub fn decode(mut input: &[u8]) -> Result<Self, WireError> {
        if input.len() < Self::BYTES {
            return Err(WireError::Short);
        }
        let mut header = Self {
            stripe: input.get_u64(),
            table_bytes: input.get_u32(),
            content_bytes: input.get_u32(),
            table_hash: [0; 32],
        };
        input.copy_to_slice(&mut header.table_hash);
        limit("table", header.table_bytes.into(), TABLE_BYTES_MAX.into())?;
        limit("content", header.content_bytes.into(), CONTENT_BYTES_MAX.into())?;
        Ok(header)
    }
}

/// What is kept of a file, folder or link beside its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits.
    pub mode: u32,
    /// Modification time, in whole seconds since 1970.
    pub mtime_s: i64,
    /// The rest of it, in nanoseconds.
    pub mtime_ns: u32,
}

/// A run of content within a piece; around it are holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where it starts, in bytes from the piece's start.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
}

/// One thing to do at the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Make a folder and give it its final mode and time.
    Folder {
        /// The item.
        item: u64,
        /// Where; empty for the root itself.
        path: Vec<u8>,
        /// Mode and time.
        meta: Meta,
    },
    /// Make a symbolic link.
    Symlink {
        /// The item.
        item: u64,
        /// Where.
        path: Vec<u8>,
        /// Its time; links have no mode.
        meta: Meta,
        /// What it says, which may be any bytes.
        target: Vec<u8>,
    },
    /// Write a part of a file, or all of it.
    Piece(Piece),
    /// All pieces of the file were sent, and this is the file's BLAKE3 hash: give it its name.
    Seal {
        /// The item.
        item: u64,
        /// The hash of the whole file.
        hash: [u8; 32],
    },
    /// The source changed while it was read: forget the file.
    Discard {
        /// The item.
        item: u64,
    },
    /// The receiver has said that it has all of this file: it is one of those that are sent. Only where that is
    /// asked for.
    Kept {
        /// The item.
        item: u64,
        /// Where.
        path: Vec<u8>,
        /// Mode and time that it has at the source.
        meta: Meta,
        /// Its size, in bytes.
        file_bytes: u64,
        /// Its BLAKE3 hash.
        hash: [u8; 32],
    },
    /// A record with metadata beside that of all. A file's comes with its only piece, or its seal.
    With {
        /// That.
        extra: Box<Extra>,
        /// The record.
        record: Box<Self>,
    },
    /// Make a device, a pipe or a socket.
    Special {
        /// The item.
        item: u64,
        /// Where.
        path: Vec<u8>,
        /// Mode and time.
        meta: Meta,
        /// What to make.
        what: Special,
    },
    /// Make another name for a file that is sent as well, or is there already: when all else is done.
    Link {
        /// The item.
        item: u64,
        /// Where.
        path: Vec<u8>,
        /// The file.
        of: Vec<u8>,
        /// Mode and time of the file.
        meta: Meta,
        /// Its size, in bytes.
        file_bytes: u64,
    },
    /// A file that is there already, with this size and time, gets its other metadata.
    Adopt {
        /// The item.
        item: u64,
        /// Where.
        path: Vec<u8>,
        /// Mode and time that it is to have.
        meta: Meta,
        /// Its size, in bytes.
        file_bytes: u64,
    },
}

/// What is neither a file, a folder nor a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device, by its major and minor number.
    CharDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
}

impl Special {
    /// Whether it is a device.
    pub fn is_device(self) -> bool {
        matches!(self, Self::CharDevice(..) | Self::BlockDevice(..))
    }

    fn encode(self, out: &mut Vec<u8>) {
        let (kind, major, minor) = match self {
            Self::Fifo => (0, 0, 0),
            Self::Socket => (1, 0, 0),
            Self::CharDevice(major, minor) => (2, major, minor),
            Self::BlockDevice(major, minor) => (3, major, minor),
        };
        put_all(out, &[kind, major.into(), minor.into()]);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        let kind = get_varint(input)?;
        let (major, minor) = (get_u32("major number", input)?, get_u32("minor number", input)?);
        Ok(match kind {
            0 => Self::Fifo,
            1 => Self::Socket,
            2 => Self::CharDevice(major, minor),
            3 => Self::BlockDevice(major, minor),
            value => return Err(WireError::Unknown { what: "special file", value }),
        })
    }
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
}

impl Record {
    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Folder { item, path, meta } => {
                put_all(out, &[1, *item]);
                put_bytes(out, path);
                put_meta(out, *meta);
            }
            Self::Symlink { item, path, meta, target } => {
                put_all(out, &[2, *item]);
                put_bytes(out, path);
                put_meta(out, *meta);
                put_bytes(out, target);
            }
            Self::Piece(piece) => {
                put_all(out, &[3, piece.item]);
                put_bytes(out, &piece.path);
                put_meta(out, piece.meta);
                piece.source.encode(out);
                put_all(out, &[piece.file_bytes, piece.sparse.into(), piece.offset, piece.len]);
                put_runs(out, &piece.runs);
                out.put_slice(&piece.hash);
            }
            Self::Seal { item, hash } => {
                put_all(out, &[4, *item]);
                out.put_slice(hash);
            }
            Self::Discard { item } => put_all(out, &[5, *item]),
            Self::Kept { item, path, meta, file_bytes, hash } => {
                put_all(out, &[6, *item]);
                put_bytes(out, path);
                put_meta(out, *meta);
                put_varint(out, *file_bytes);
                out.put_slice(hash);
            }
            Self::With { extra, record } => {
                put_varint(out, 7);
                extra.encode(out);
                record.encode(out);
            }
            Self::Special { item, path, meta, what } => {
                put_all(out, &[8, *item]);
                put_bytes(out, path);
                put_meta(out, *meta);
                what.encode(out);
            }
            Self::Link { item, path, of, meta, file_bytes } => {
                put_all(out, &[9, *item]);
                put_bytes(out, path);
                put_bytes(out, of);
                put_meta(out, *meta);
                put_varint(out, *file_bytes);
            }
            Self::Adopt { item, path, meta, file_bytes } => {
                put_all(out, &[10, *item]);
                put_bytes(out, path);
                put_meta(out, *meta);
                put_varint(out, *file_bytes);
            }
        }
    }

    /// The record with what goes with it, if that is something.
    #[must_use]
    pub fn with(self, extra: Option<Extra>) -> Self {
        match extra {
            Some(extra) => Self::With { extra: Box::new(extra), record: Box::new(self) },
            None => self,
        }
    }

    /// The record by itself.
    pub fn plain(&self) -> &Self {
        if let Self::With { record, .. } = self { record } else { self }
    }

    /// What goes with it.
    pub fn extra(&self) -> Option<&Extra> {
        if let Self::With { extra, .. } = self { Some(extra) } else { None }
    }

    /// Takes one record from the front of `input`. Paths are checked: they cannot lead out of the
    /// destination by name.
    pub fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        let kind = get_varint(input)?;
        if kind != 7 {
            return Self::decode_plain(kind, input);
        }
        let extra = Box::new(Extra::decode(input)?);
        match get_varint(input)? {
            kind @ (1..=4 | 8 | 10) => {
                let record = Box::new(Self::decode_plain(kind, input)?);
                Ok(Self::With { extra, record })
            }
            value => Err(WireError::Unknown { what: "record type", value }),
        }
    }

    fn decode_plain(kind: u64, input: &mut &[u8]) -> Result<Self, WireError> {
        Ok(match kind {
            1 => Self::Folder {
                item: get_varint(input)?,
                path: get_path(input, true)?,
                meta: get_meta(input)?,
            },
            2 => Self::Symlink {
                item: get_varint(input)?,
                path: get_path(input, false)?,
                meta: get_meta(input)?,
                target: get_bytes("link target", input, PATH_BYTES_MAX)?,
            },
            3 => Self::Piece(get_piece(input)?),
            4 => Self::Seal { item: get_varint(input)?, hash: get_array(input)? },
            5 => Self::Discard { item: get_varint(input)? },
            6 => Self::Kept {
                item: get_varint(input)?,
                path: get_path(input, false)?,
                meta: get_meta(input)?,
                file_bytes: limit("file size", get_varint(input)?, FILE_BYTES_MAX)?,
                hash: get_array(input)?,
            },
            8 => Self::Special {
                item: get_varint(input)?,
                path: get_path(input, false)?,
                meta: get_meta(input)?,
                what: Special::decode(input)?,
            },
            9 => Self::Link {
                item: get_varint(input)?,
                path: get_path(input, false)?,
                of: get_path(input, false)?,
                meta: get_meta(input)?,
                file_bytes: limit("file size", get_varint(input)?, FILE_BYTES_MAX)?,
            },
            10 => Self::Adopt {
                item: get_varint(input)?,
                path: get_path(input, false)?,
                meta: get_meta(input)?,
                file_bytes: limit("file size", get_varint(input)?, FILE_BYTES_MAX)?,
            },
            value => return Err(WireError::Unknown { what: "record type", value }),
        })
    }
}

/// Whether `path` stays below the folder it is relative to and can be a path on Unix.
pub fn is_path_safe(path: &[u8]) -> bool {
    path.len() <= PATH_BYTES_MAX
        && path.split(|&byte| byte == b'/').all(|name| {
            !matches!(name, b"" | b"." | b"..")
                && name.len() <= NAME_BYTES_MAX
                && !name.contains(&0)
        })
}

/// Why a path is too long for any server, if it is.
pub fn path_fault(path: &[u8]) -> Option<String> {
    if path.len() > PATH_BYTES_MAX {
        return Some(format!("it is {} bytes long; {PATH_BYTES_MAX} are possible", path.len()));
    }
    let name = path.split(|&byte| byte == b'/').find(|name| name.len() > NAME_BYTES_MAX)?;
    let start = String::from_utf8_lossy(&name[..NAME_SHOWN]);
    let len = name.len();
    Some(format!("the name {start:?}... in it is {len} bytes long; {NAME_BYTES_MAX} are possible"))
}

fn get_piece(input: &mut &[u8]) -> Result<Piece, WireError> {
    let item = get_varint(input)?;
    let path = get_path(input, false)?;
    let meta = get_meta(input)?;
    let source = SourceId::decode(input)?;
    let file_bytes = limit("file size", get_varint(input)?, FILE_BYTES_MAX)?;
    let sparse = limit("sparse flag", get_varint(input)?, 1)? == 1;
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
    Ok(Piece { item, path, meta, source, file_bytes, sparse, offset, len, runs, hash })
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

pub(super) fn put_meta(out: &mut Vec<u8>, meta: Meta) {
    let zigzag = ((meta.mtime_s << 1) ^ (meta.mtime_s >> 63)).cast_unsigned();
    put_all(out, &[meta.mode.into(), zigzag, meta.mtime_ns.into()]);
}

pub(super) fn get_meta(input: &mut &[u8]) -> Result<Meta, WireError> {
    let mode = get_u32("mode", input)?;
    let zigzag = get_varint(input)?;
    let mtime_s = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
    let mtime_ns = limit("nanoseconds", get_varint(input)?, 999_999_999)? as u32;
    Ok(Meta { mode, mtime_s, mtime_ns })
}

pub(super) fn get_path(input: &mut &[u8], may_be_empty: bool) -> Result<Vec<u8>, WireError> {
    let path = get_bytes("path", input, PATH_BYTES_MAX)?;
    if (may_be_empty && path.is_empty()) || is_path_safe(&path) {
        Ok(path)
    } else {
        Err(WireError::UnsafePath(String::from_utf8_lossy(&path).into_owned()))
    }
}

pub(super) fn limit(what: &'static str, value: u64, limit: u64) -> Result<u64, WireError> {
    if value > limit { Err(WireError::Limit { what, value, limit }) } else { Ok(value) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::extra::tests::extra;
    use super::*;
    use proptest::prelude::*;

    pub(in super::super) fn meta() -> impl Strategy<Value = Meta> {
        let seconds = -(1_i64 << 59)..(1 << 59);
        (any::<u32>(), seconds, 0..1_000_000_000_u32).prop_map(|(mode, mtime_s, mtime_ns)| Meta {
            mode,
            mtime_s,
            mtime_ns,
        })
    }

    pub(in super::super) fn path() -> impl Strategy<Value = Vec<u8>> {
        let name = "[^/\0.][^/\0]{0,20}";
        proptest::collection::vec(name, 1..5).prop_map(|names| names.join("/").into_bytes())
    }

    fn special() -> impl Strategy<Value = Special> {
        prop_oneof![
            Just(Special::Fifo),
            Just(Special::Socket),
            any::<[u32; 2]>().prop_map(|[major, minor]| Special::CharDevice(major, minor)),
            any::<[u32; 2]>().prop_map(|[major, minor]| Special::BlockDevice(major, minor)),
        ]
    }

    fn record() -> impl Strategy<Value = Record> {
        let item = || 0..1_u64 << 60;
        let bytes = 0..1_u64 << 40;
        let plain = prop_oneof![
            plain_record(),
            (item(), path(), meta(), special())
                .prop_map(|(item, path, meta, what)| Record::Special { item, path, meta, what }),
            (item(), path(), meta(), bytes.clone()).prop_map(|(item, path, meta, file_bytes)| {
                Record::Adopt { item, path, meta, file_bytes }
            }),
        ];
        let takes_extra = |record: &Record| !matches!(record, Record::Discard { .. });
        prop_oneof![
            3 => plain_record(),
            2 => (proptest::option::of(extra()), plain.prop_filter("takes more", takes_extra))
                .prop_map(|(extra, record)| record.with(extra)),
            1 => (item(), path(), path(), meta(), bytes).prop_map(|(item, path, of, meta, file_bytes)| {
                Record::Link { item, path, of, meta, file_bytes }
            }),
        ]
    }

    fn plain_record() -> impl Strategy<Value = Record> {
        let item = 0..1_u64 << 60;
        let text = proptest::collection::vec(any::<u8>(), 0..100);
        let runs = proptest::collection::vec((0..5_000_u64, 1..5_000_u64), 0..6);
        prop_oneof![
            (item.clone(), path(), meta()).prop_map(|(item, path, meta)| Record::Folder {
                item,
                path,
                meta
            }),
            (item.clone(), path(), meta(), text).prop_map(|(item, path, meta, target)| {
                Record::Symlink { item, path, meta, target }
            }),
            (item.clone(), path(), meta(), any::<bool>(), 0..1_u64 << 20, runs, any::<[u8; 32]>())
                .prop_map(|(item, path, meta, sparse, before, gaps, hash)| {
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
                    Record::Piece(Piece {
                        item,
                        path,
                        meta,
                        source: SourceId {
                            version: SourceVersion([7; 16]),
                            state: SourceState([8; 16]),
                            basis: SourceBasis([9; 16]),
                        },
                        file_bytes,
                        sparse,
                        offset,
                        len,
                        runs,
                        hash,
                    })
                }),
            (item.clone(), any::<[u8; 32]>()).prop_map(|(item, hash)| Record::Seal { item, hash }),
            item.prop_map(|item| Record::Discard { item }),
        ]
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["", "/etc/passwd", "..", "a/../b", "a/..", "a//b", "a/", "./a", "a/.", "a\0b"]
        {
            assert!(!is_path_safe(path.as_bytes()), "{path:?}");
        }
        assert!(!is_path_safe(&[b'a'; 256]));
        assert!(!is_path_safe("a/".repeat(2_048).as_bytes()));
        for path in ["a", "a/b", "..a", "...", ".hidden/x", "\u{fc}/\n"] {
            assert!(is_path_safe(path.as_bytes()), "{path:?}");
        }
        assert!(is_path_safe(b"\xff\xfe"));
    }

    #[test]
    fn a_piece_is_a_node_of_its_files_hash_tree() {
        let decode = |offset, len, file_bytes| {
            let piece = Piece {
                item: 1,
                path: b"a".to_vec(),
                meta: Meta { mode: 0o644, mtime_s: 0, mtime_ns: 0 },
                source: SourceId {
                    version: SourceVersion([7; 16]),
                    state: SourceState([8; 16]),
                    basis: SourceBasis([9; 16]),
                },
                file_bytes,
                sparse: true,
                offset,
                len,
                runs: vec![],
                hash: [0; 32],
            };
            let mut out = Vec::new();
            Record::Piece(piece).encode(&mut out);
            Record::decode(&mut &*out).map(drop)
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

    #[test]
    fn a_header_above_its_limits_is_refused() {
        let header = Header { stripe: 7, table_bytes: 1, content_bytes: 2, table_hash: [3; 32] };
        let mut out = Vec::new();
        header.encode(&mut out);
        assert_eq!(out.len(), Header::BYTES);
        assert_eq!(Header::decode(&out), Ok(header));
        out[8] = 0xff;
        assert!(matches!(Header::decode(&out), Err(WireError::Limit { what: "table", .. })));
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(records in proptest::collection::vec(record(), 0..8)) {
            let mut out = Vec::new();
            for record in &records {
                record.encode(&mut out);
            }
            let mut input = &*out;
            for record in &records {
                prop_assert_eq!(&Record::decode(&mut input)?, record);
            }
            prop_assert!(input.is_empty());
        }

        #[test]
        fn no_input_makes_the_decoder_panic_or_yields_an_unsafe_path(
            mut input in proptest::collection::vec(any::<u8>(), 0..300),
            kind in 1..11_u8,
        ) {
            input.insert(0, kind);
            if let Ok(Record::Piece(piece)) = Record::decode(&mut &*input) {
                prop_assert!(is_path_safe(&piece.path));
                prop_assert!(piece.content_bytes() <= piece.len);
            }
        }
    }
}
