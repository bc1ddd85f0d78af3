//! What is noted in a journal: each entry by itself, so that damage costs those that it hits.
//!
//! | field | width | |
//! |---|---|---|
//! | mark | 4 | `QJ`, the format's version, 0xa7 |
//! | length | 2 | of the entry |
//! | entry | | see [`Entry`] |
//! | check | 16 | BLAKE3 of length and entry, keyed by whose push it is |

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bytes::{Buf, BufMut};
use cap_std::fs::Dir;
use rustix::fs::Stat;

use super::super::own::Owner;
use super::super::shown;

use crate::wire::{
    PATH_BYTES_MAX, SourceId, WireError, get_array, get_bytes, get_varint, is_path_safe, put_all,
    put_bytes, put_varint,
};

/// The format's version.
pub(in crate::store) const VERSION: u8 = 1;
pub(in crate::store) const MARK: [u8; 4] = [b'Q', b'J', VERSION, 0xa7];
pub(in crate::store) const HEAD_BYTES: usize = MARK.len() + 2;
pub(in crate::store) const CHECK_BYTES: usize = 16;
/// The fields of an entry beside its path take less than this, in bytes.
pub(in crate::store) const ENTRY_BYTES_MAX: usize = PATH_BYTES_MAX + 160;

/// Something that is durable at the receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A piece of a file that is not whole yet.
    ///
    /// Type 1, then path (bytes), source (48 bytes), file size, offset, length, hash (32 bytes).
    Piece {
        /// The path that the file will have, below the root.
        path: Vec<u8>,
        /// What the client knows its content by.
        source: SourceId,
        /// The file's size, in bytes.
        file_bytes: u64,
        /// Where the piece starts, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        len: u64,
        /// Its [`piece_hash`](crate::hashtree::piece_hash).
        hash: [u8; 32],
    },
    /// A file that has its name.
    ///
    /// Type 2, then path (bytes), source (48 bytes), hash (32 bytes), inode, seconds, nanoseconds (8
    /// bytes each).
    File {
        /// Its path below the root.
        path: Vec<u8>,
        /// What the client knows its content by.
        source: SourceId,
        /// Its BLAKE3 hash.
        hash: [u8; 32],
        /// How it was left.
        stamp: Stamp,
    },
    /// Something that is about to get its name, where nothing may be replaced: a later run knows by that
    /// what is in its way as its own.
    ///
    /// Type 3, then path (bytes), hash (32 bytes), inode, seconds, nanoseconds (8 bytes each).
    Placing {
        /// Its path below the root.
        path: Vec<u8>,
        /// The BLAKE3 hash of its content, or of what a link says; zeros for a folder.
        hash: [u8; 32],
        /// How it is told from others.
        trace: Trace,
    },
}

/// Tells whether something has what it was given: whoever writes to it changes that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Its inode.
    pub inode: u64,
    /// When it was modified: seconds and nanoseconds since 1970. That is told of files and links.
    pub mtime: (i64, i64),
}

impl Trace {
    pub(in crate::store) fn of(stat: &Stat) -> Self {
        Self { inode: stat.st_ino, mtime: (stat.st_mtime, stat.st_mtime_nsec.cast_signed()) }
    }
}

/// Tells whether a file is still as it was left: nobody can change it and keep both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Its inode.
    pub inode: u64,
    /// When it was last changed in any way: seconds and nanoseconds since 1970.
    pub ctime: (i64, i64),
}

impl Stamp {
    /// The stamp of an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        let stat = rustix::fs::fstat(file)?;
        Ok(Self { inode: stat.st_ino, ctime: (stat.st_ctime, stat.st_ctime_nsec.cast_signed()) })
    }

    /// The stamp of what is at `path`; not of what a link there leads to.
    pub fn at(root: &Dir, path: &Path) -> io::Result<Self> {
        use cap_std::fs::MetadataExt;
        let found = root.symlink_metadata(path)?;
        Ok(Self { inode: found.ino(), ctime: (found.ctime(), found.ctime_nsec()) })
    }
}

impl Entry {
    /// The path of its file below the root.
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Piece { path, .. } | Self::File { path, .. } | Self::Placing { path, .. } => path,
        }
    }

    /// Appends the entry as it is in the file of `owner`.
    pub fn encode(&self, owner: &Owner, out: &mut Vec<u8>) {
        out.put_slice(&MARK);
        let start = out.len();
        out.put_u16(0);
        match self {
            Self::Piece { path, source, file_bytes, offset, len, hash } => {
                put_varint(out, 1);
                put_bytes(out, path);
                source.encode(out);
                put_all(out, &[*file_bytes, *offset, *len]);
                out.put_slice(hash);
            }
            Self::File { path, source, hash, stamp } => {
                put_varint(out, 2);
                put_bytes(out, path);
                source.encode(out);
                out.put_slice(hash);
                out.put_u64(stamp.inode);
                out.put_i64(stamp.ctime.0);
                out.put_i64(stamp.ctime.1);
            }
            Self::Placing { path, hash, trace } => {
                put_varint(out, 3);
                put_bytes(out, path);
                out.put_slice(hash);
                out.put_u64(trace.inode);
                out.put_i64(trace.mtime.0);
                out.put_i64(trace.mtime.1);
            }
        }
        let len = (out.len() - start - 2) as u16;
        out[start..start + 2].copy_from_slice(&len.to_be_bytes());
        let check = check(owner, &out[start..]);
        out.put_slice(&check);
    }

    pub(in crate::store) fn decode(mut input: &[u8]) -> Result<Self, WireError> {
        let kind = get_varint(&mut input)?;
        let path = get_bytes("path", &mut input, PATH_BYTES_MAX)?;
        if !is_path_safe(&path) {
            return Err(WireError::UnsafePath(shown(&path)));
        }
        let entry = match kind {
            1 => Self::Piece {
                path,
                source: SourceId::decode(&mut input)?,
                file_bytes: get_varint(&mut input)?,
                offset: get_varint(&mut input)?,
                len: get_varint(&mut input)?,
                hash: get_array(&mut input)?,
            },
            2 => {
                let source = SourceId::decode(&mut input)?;
                let hash = get_array(&mut input)?;
                let (inode, ctime) = get_inode_and_time(&mut input)?;
                Self::File { path, source, hash, stamp: Stamp { inode, ctime } }
            }
            3 => {
                let hash = get_array(&mut input)?;
                let (inode, mtime) = get_inode_and_time(&mut input)?;
                Self::Placing { path, hash, trace: Trace { inode, mtime } }
            }
            value => return Err(WireError::Unknown { what: "entry type", value }),
        };
        if input.has_remaining() { Err(WireError::LeftOver(input.len())) } else { Ok(entry) }
    }
}

fn get_inode_and_time(input: &mut &[u8]) -> Result<(u64, (i64, i64)), WireError> {
    let mut number = || get_array(input).map(u64::from_be_bytes);
    Ok((number()?, (number()?.cast_signed(), number()?.cast_signed())))
}

pub(in crate::store) fn check(owner: &Owner, bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::keyed_hash(&owner.0, bytes).as_bytes()[..CHECK_BYTES]);
    check
}

/// What is at the front of a journal's bytes.
pub(in crate::store) enum Front {
    /// An entry, and how many bytes it takes.
    Entry(Entry, usize),
    /// Nothing for so many bytes.
    Nothing(usize),
    /// That cannot be told without more bytes.
    Short,
}

pub(in crate::store) fn front(owner: &Owner, bytes: &[u8]) -> Front {
    let Some(mark) = bytes.first_chunk::<4>() else { return Front::Short };
    if *mark != MARK {
        let next = bytes[1..].iter().position(|&byte| byte == MARK[0]);
        return Front::Nothing(next.map_or(bytes.len(), |at| at + 1));
    }
    let Some(head) = bytes.get(..HEAD_BYTES) else { return Front::Short };
    let len = usize::from(u16::from_be_bytes([head[4], head[5]]));
    if len > ENTRY_BYTES_MAX {
        return Front::Nothing(1);
    }
    let end = HEAD_BYTES + len;
    let Some(checked) = bytes.get(MARK.len()..end) else { return Front::Short };
    let Some(found) = bytes.get(end..end + CHECK_BYTES) else { return Front::Short };
    if *found != check(owner, checked) {
        return Front::Nothing(1);
    }
    match Entry::decode(&bytes[HEAD_BYTES..end]) {
        Ok(entry) => Front::Entry(entry, end + CHECK_BYTES),
        Err(_) => Front::Nothing(end + CHECK_BYTES),
    }
}

/// Calls `each` with every entry of `owner` that can be read; what is damaged is passed over.
pub fn read_entries(
    owner: &Owner,
    mut input: impl Read,
    mut each: impl FnMut(Entry),
) -> io::Result<()> {
    const CHUNK_BYTES: usize = 256 << 10;
    let mut buffer = Vec::new();
    let mut ended = false;
    while !ended {
        let before = buffer.len();
        input.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut buffer)?;
        ended = buffer.len() == before;
        let mut at = 0;
        while at < buffer.len() {
            match front(owner, &buffer[at..]) {
                Front::Entry(entry, bytes) => {
                    each(entry);
                    at += bytes;
                }
                Front::Nothing(bytes) => at += bytes,
                // What is cut short at the end may hold others.
                Front::Short if ended => at += 1,
                Front::Short => break,
            }
        }
        buffer.drain(..at.min(buffer.len()));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{SourceBasis, SourceState, SourceVersion};

    pub(in crate::store) const OWNER: Owner = Owner([3; 32]);

    pub(in crate::store) fn piece(offset: u64, hash: u8) -> Entry {
        Entry::Piece {
            path: b"a/b".to_vec(),
            source: SourceId {
                version: SourceVersion([5; 16]),
                state: SourceState([6; 16]),
                basis: SourceBasis([7; 16]),
            },
            file_bytes: 1 << 30,
            offset,
            len: 1 << 20,
            hash: [hash; 32],
        }
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let path = "[a-z]{1,20}(/[QJ\u{1}]{1,9}){0,2}".prop_map(String::into_bytes);
        let numbers = proptest::array::uniform3(0..1_u64 << 60);
        let entry = (0..3, path, any::<[[u8; 16]; 3]>(), any::<[u8; 32]>(), numbers).prop_map(
            |(kind, path, [version, state, basis], hash, [a, b, c])| {
                let source = SourceId {
                    version: SourceVersion(version),
                    state: SourceState(state),
                    basis: SourceBasis(basis),
                };
                let (inode, time) = (a, (b.cast_signed(), -c.cast_signed()));
                match kind {
                    0 => Entry::Piece { path, source, file_bytes: a, offset: b, len: c, hash },
                    1 => Entry::File { path, source, hash, stamp: Stamp { inode, ctime: time } },
                    _ => Entry::Placing { path, hash, trace: Trace { inode, mtime: time } },
                }
            },
        );
        proptest::collection::vec(entry, 1..12)
    }

    fn encoded(entries: &[Entry]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in entries {
            entry.encode(&OWNER, &mut bytes);
        }
        bytes
    }

    fn decoded(owner: &Owner, bytes: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        read_entries(owner, bytes, |entry| entries.push(entry)).unwrap();
        entries
    }

    /// Whether `left` is `all` but for at most one entry.
    fn lacks_at_most_one(all: &[Entry], left: &[Entry]) -> bool {
        (0..all.len()).any(|lost| [&all[..lost], &all[lost + 1..]].concat() == left) || all == left
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_by_its_owner_alone(entries in entries()) {
            let bytes = encoded(&entries);
            prop_assert_eq!(decoded(&OWNER, &bytes), entries);
            prop_assert!(decoded(&Owner([4; 32]), &bytes).is_empty());
        }

        #[test]
        fn damage_costs_the_entry_that_it_hits(
            entries in entries(),
            at in any::<prop::sample::Index>(),
            damage in 1..=255_u8,
        ) {
            let mut bytes = encoded(&entries);
            let at = at.index(bytes.len());
            bytes[at] ^= damage;
            let left = decoded(&OWNER, &bytes);
            prop_assert!(left.len() + 1 >= entries.len() && lacks_at_most_one(&entries, &left));
        }

        #[test]
        fn a_cut_costs_what_is_cut_and_what_is_appended_behind_it_is_read(
            entries in entries(),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = encoded(&entries);
            let at = cut.index(bytes.len());
            let whole = (0..=entries.len())
                .rfind(|&count| encoded(&entries[..count]).len() <= at)
                .unwrap_or(0);
            // What is appended may begin with just what was cut: then the entry is whole, and nothing tells that.
            let hit = encoded(&entries[..(whole + 1).min(entries.len())]).len().max(at);
            prop_assume!(hit == at || !bytes.starts_with(&bytes[at..hit]));
            let mut bytes = bytes[..at].to_vec();
            prop_assert_eq!(decoded(&OWNER, &bytes), &entries[..whole]);
            bytes.extend(encoded(&entries));
            prop_assert_eq!(decoded(&OWNER, &bytes), [&entries[..whole], &entries].concat());
        }

        #[test]
        fn no_bytes_are_an_entry_by_chance(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(decoded(&OWNER, &bytes).is_empty());
        }
    }
}
