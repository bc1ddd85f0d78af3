//! A stripe: a [`Header`], a table of [`Record`]s, and the content that they speak of.
//!
//! Stripes may arrive in any order and by any connection, so each record says all that is needed to
//! act on it. Layout: header, table, then the records' content one after the other.
//!
//! | header field | width | |
//! |---|---|---|
//! | stripe | 8 | its number; a stripe that is sent again is the same, byte for byte |
//! | table length | 4 | at most [`TABLE_BYTES_MAX`] |
//! | content length | 4 | at most [`CONTENT_BYTES_MAX`], in the lower 26 bits; the others are 0, or, of content that is packed (Zstandard, RFC 8878), the binary logarithm of a power of two that is at least what it unpacks to |
//! | table hash | 32 | BLAKE3 of the table, which in turn holds the hashes of the content |
//!
//! | type | record | fields |
//! |---|---|---|
//! | 1 | [`Record::Folder`] | item, path, meta |
//! | 2 | [`Record::Symlink`] | item, path, meta, target (bytes) |
//! | 3 | [`Record::Piece`] | item, path, meta, source (3 times 16 bytes: see [`SourceId`](super::SourceId)), file size, sparse (0, 1), offset, length, runs, hash (32 bytes) |
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
//! For `meta` see [`Meta`], and for `runs` see [`Piece`]. A piece of no bytes, of a file that has some, only names the file: all of it is kept
//! from an earlier run. A table holds at most [`RECORDS_MAX`] records, and its pieces cover at most
//! [`CONTENT_BYTES_MAX`] bytes of their files, holes included.

use bytes::{Buf, BufMut};

use super::extra::Extra;
use super::meta::{get_meta, put_meta};
use super::path::get_path;
use super::{
    Meta, PATH_BYTES_MAX, Piece, WireError, get_array, get_bytes, get_u32, get_varint, limit,
    put_all, put_bytes, put_varint,
};
use crate::hashtree::FILE_BYTES_MAX;

/// A table's length at most, in bytes.
pub const TABLE_BYTES_MAX: u32 = 16 << 20;
/// The content of a stripe at most, in bytes.
pub const CONTENT_BYTES_MAX: u32 = 16 << 20;
/// Bits of the field that has the content's length, and of that length.
const CONTENT_BITS: u32 = 26;
/// Records in one table at most.
pub const RECORDS_MAX: usize = 1_024;
/// What a stripe begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The stripe's number.
    pub stripe: u64,
    /// The table's length, in bytes.
    pub table_bytes: u32,
    /// The content's length, in bytes.
    pub content_bytes: u32,
    /// What it unpacks to at most, a power of two, in bytes; 0 if it is as it is.
    pub unpacked_bytes_max: u32,
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
        let shift = self.unpacked_bytes_max.checked_ilog2().unwrap_or_default();
        out.put_u32(shift << CONTENT_BITS | self.content_bytes);
        out.put_slice(&self.table_hash);
    }

    /// Reads a header from the front of `input`.
    pub fn decode(mut input: &[u8]) -> Result<Self, WireError> {
        if input.len() < Self::BYTES {
            return Err(WireError::Short);
        }
        let (stripe, table_bytes, content) = (input.get_u64(), input.get_u32(), input.get_u32());
        let (shift, content_bytes) = (content >> CONTENT_BITS, content & ((1 << CONTENT_BITS) - 1));
        limit("unpacked content", shift.into(), CONTENT_BYTES_MAX.ilog2().into())?;
        let unpacked_bytes_max = if shift == 0 { 0 } else { 1 << shift };
        let table_hash = [0; 32];
        let mut header =
            Self { stripe, table_bytes, content_bytes, unpacked_bytes_max, table_hash };
        input.copy_to_slice(&mut header.table_hash);
        limit("table", header.table_bytes.into(), TABLE_BYTES_MAX.into())?;
        limit("content", header.content_bytes.into(), CONTENT_BYTES_MAX.into())?;
        Ok(header)
    }
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
                put_varint(out, 3);
                piece.encode(out);
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
            3 => Self::Piece(Piece::decode(input)?),
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::extra::tests::extra;
    use super::super::is_path_safe;
    use super::super::meta::tests::meta;
    use super::super::path::tests::path;
    use super::super::piece::tests::piece;
    use super::*;

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
        prop_oneof![
            (item.clone(), path(), meta()).prop_map(|(item, path, meta)| Record::Folder {
                item,
                path,
                meta
            }),
            (item.clone(), path(), meta(), text).prop_map(|(item, path, meta, target)| {
                Record::Symlink { item, path, meta, target }
            }),
            piece().prop_map(Record::Piece),
            (item.clone(), any::<[u8; 32]>()).prop_map(|(item, hash)| Record::Seal { item, hash }),
            item.prop_map(|item| Record::Discard { item }),
        ]
    }

    #[test]
    fn a_header_above_its_limits_is_refused() {
        let header = Header {
            stripe: 7,
            table_bytes: 1,
            content_bytes: 2,
            unpacked_bytes_max: 0,
            table_hash: [3; 32],
        };
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
