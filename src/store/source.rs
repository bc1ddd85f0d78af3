//! Reading the source: what a stripe holds, ready to be sent.
//!
//! Sources are in use while they are read. What counts is their content: a file whose size and time of
//! modification hold, and whose other properties change under way (its permissions, or the links to it),
//! is read once more when all of it has been sent, and is sealed only if it still has the same hash.

mod base;
mod extra;
mod read;

use std::ops::AddAssign;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

pub use self::base::Base;
pub use self::extra::reread;
use self::extra::{of_file, of_other};
use self::read::{Content, Read, read_piece, read_whole, whole};
pub use self::read::{Held, Holding, confirm, read_small};
use super::kind::{FileInfo, Kind};
use super::pack::pack;
use super::source_root::SourcePath;
use super::unreadable::Unreadable;
use crate::buffers::Buffers;
use crate::event::Failure;
use crate::hashtree::{FILE_BYTES_MAX, HashTree, piece_hash};
use crate::mutex::lock;
use crate::wire::{
    CONTENT_BYTES_MAX, Extra, Extras, Header, Meta, Packing, Piece, Record, SourceBasis, SourceId,
    SourceState, SourceVersion, XATTRS_BYTES_MAX,
};

/// A file whose size is not known before it is read may have this much, in bytes: it is read at once.
pub const MADE_UP_BYTES_MAX: usize = 1 << 20;
/// Content that a stripe may have in the end, because of such files, in bytes.
const GROWN_BYTES_MAX: usize = CONTENT_BYTES_MAX as usize / 2;
/// How often something is read that is changed while it is read.
const TRIES: usize = 8;
/// How often a whole file is read again to see whether it is still what was sent.
const CONFIRM_TRIES: usize = 3;

/// Something to send, under the name that it gets at the destination.
#[derive(Debug)]
pub struct SourceItem {
    /// Its number.
    pub id: u64,
    /// Where it is.
    pub local: SourcePath,
    /// Its path below the server's root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: SourceKind,
    /// It was tried before, and had vanished or changed.
    pub is_last_try: bool,
    /// What its extended attributes may take, in bytes.
    pub xattr_bytes_max: usize,
    /// Others are linked to it.
    pub is_linked: bool,
    /// What is there of it by another version: of its pieces only what differs is sent.
    base: Option<Arc<Base>>,
    reading: Mutex<Reading>,
    failed: AtomicBool,
}

/// What an item is: something that was found, or the last word on a file that was cut.
#[derive(Debug)]
pub enum SourceKind {
    /// What was found.
    Found(Kind),
    /// A file's hash, once all of it has been read.
    Seal {
        /// The file's item.
        of: u64,
        /// Its BLAKE3 hash.
        hash: [u8; 32],
        /// Metadata that goes with it.
        extra: Option<Box<Extra>>,
    },
    /// A part of what comes from a pipe.
    Chunk(Chunk),
    /// A file that is there already, and is to have other metadata.
    Adopt(FileInfo),
    /// A file that has another name, by which it is sent.
    Link {
        /// How it was found.
        info: FileInfo,
        /// The path that it has there by that name.
        of: Vec<u8>,
    },
    /// A file that the receiver has already, which is named and not sent.
    Kept {
        /// How it was found.
        info: FileInfo,
        /// Its BLAKE3 hash.
        hash: [u8; 32],
    },
    /// A file all of which was sent, and which turned out to have changed.
    TakeBack {
        /// The file's item.
        of: u64,
    },
}

/// A part of what comes from a pipe.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// What is known of all of it by now.
    pub tree: Arc<Mutex<HashTree>>,
    /// Where it starts, in bytes.
    pub offset: u64,
    /// What it holds.
    pub data: Bytes,
    /// How much it is in all, if this is the last one.
    pub total: Option<u64>,
    /// What the file is to have.
    pub meta: Meta,
}

/// What is known of a file that is read in pieces.
#[derive(Debug)]
struct Reading {
    /// The pieces that have been read so far.
    tree: HashTree,
    /// The state in which the first of those was read that the receiver has kept.
    basis: Option<SourceBasis>,
    /// How it was when the first of them was read.
    first: Option<FileInfo>,
    /// How it was when the latest was.
    latest: Option<FileInfo>,
    /// Something about it has changed between pieces: they may not be of the same version.
    is_unsure: bool,
}

impl SourceItem {
    /// An item that has not been read.
    pub fn new(id: u64, local: SourcePath, path: Vec<u8>, kind: SourceKind) -> Self {
        let bytes = if let SourceKind::Found(Kind::File(info)) = &kind { info.bytes } else { 0 };
        let reading = Reading {
            tree: HashTree::new(bytes),
            basis: None,
            first: None,
            latest: None,
            is_unsure: false,
        };
        let (reading, failed) = (Mutex::new(reading), AtomicBool::new(false));
        let (is_last_try, is_linked) = (false, false);
        let xattr_bytes_max = XATTRS_BYTES_MAX;
        let base = None;
        Self {
            id,
            local,
            path,
            kind,
            is_last_try,
            xattr_bytes_max,
            is_linked,
            base,
            reading,
            failed,
        }
    }

    /// One whose extended attributes take no more than this, and which others are linked to, or not.
    #[must_use]
    pub fn beside(self, xattr_bytes_max: usize, is_linked: bool) -> Self {
        Self { xattr_bytes_max, is_linked, ..self }
    }

    /// One of which this is there, by another version.
    #[must_use]
    pub fn based_on(self, base: Arc<Base>) -> Self {
        Self { base: Some(base), ..self }
    }

    /// One that was tried before.
    #[must_use]
    pub fn for_last_try(self) -> Self {
        Self { is_last_try: true, ..self }
    }

    /// Nothing more of it is to be read, and nothing more told of it.
    pub fn cancel(&self) {
        self.failed.store(true, Relaxed);
    }

    /// A file of which the receiver has kept these pieces: `basis` is the state in which the first of them
    /// was read. They are those of the file as it was found.
    #[must_use]
    pub fn with_tree(self, tree: HashTree, basis: SourceBasis) -> Self {
        {
            let mut reading = lock(&self.reading);
            reading.tree = tree;
            reading.basis = Some(basis);
            if let SourceKind::Found(Kind::File(info)) = &self.kind {
                reading.first = Some(*info);
            }
        }
        self
    }

    /// What the receiver knows the content by of a file that was so at first.
    fn source_id(&self, first: &FileInfo) -> SourceId {
        let state = first.state();
        let mut basis = lock(&self.reading).basis.unwrap_or_else(|| state.into());
        // The receiver may still hold what it has of the first try.
        basis.0[0] ^= u8::from(self.is_last_try);
        SourceId { version: first.version(), state, basis }
    }

    /// The failure of this item.
    pub fn failure(&self, unreadable: Unreadable) -> Failure {
        let Unreadable { kind, reason } = unreadable;
        Failure { kind, path: self.local.to_string(), reason }
    }
}

/// How sources are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// A file that has grown since it was found is sent as long as it was then.
    pub growing_ok: bool,
    /// What of metadata is read beyond permissions and times.
    pub extras: Extras,
    /// Attributes that are root's are read as well.
    pub is_privileged: bool,
    /// Whether content is packed.
    pub packing: Packing,
}

/// A part of an item, to be read.
#[derive(Clone, Debug)]
pub struct Part {
    /// The item.
    pub item: Arc<SourceItem>,
    /// Where the part starts, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
}

impl Part {
    /// Whether the item is whole with it, once others of it have arrived before.
    pub fn ends_item(&self) -> bool {
        match &self.item.kind {
            SourceKind::Found(Kind::File(info)) => self.len == info.bytes,
            SourceKind::Found(_)
            | SourceKind::Seal { .. }
            | SourceKind::Adopt(_)
            | SourceKind::Link { .. }
            | SourceKind::Kept { .. } => true,
            SourceKind::Chunk(chunk) => chunk.total == Some(self.len),
            SourceKind::TakeBack { .. } => false,
        }
    }
}

/// A stripe, ready to be sent as often as it takes.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Header and table.
    pub head: Bytes,
    /// Content.
    pub content: Bytes,
}

/// A file that was read in one go.
#[derive(Clone, Debug)]
pub struct Whole {
    /// Its item.
    pub item: Arc<SourceItem>,
    /// What it was then.
    pub info: FileInfo,
    /// Its BLAKE3 hash.
    pub hash: [u8; 32],
}

/// A file of several pieces all of which have been read.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Its item.
    pub item: Arc<SourceItem>,
    /// Its BLAKE3 hash.
    pub hash: [u8; 32],
    /// Something about the file has changed under way: it must be [confirmed](confirm) before the
    /// receiver may give it its name.
    pub is_unsure: bool,
    /// Metadata that goes with it.
    pub extra: Option<Box<Extra>>,
}

/// What reading a stripe brought to light.
#[derive(Debug)]
pub struct Outcome {
    /// The stripe.
    pub prepared: Prepared,
    /// Files of one piece.
    pub whole: Vec<Whole>,
    /// Files of several pieces whose last piece this was.
    pub sealed: Vec<Sealed>,
    /// What has come from a pipe and is all in one piece, with its BLAKE3 hash.
    pub streamed: Option<(Arc<SourceItem>, [u8; 32])>,
    /// What of its files it covers, holes included, in bytes.
    pub covered_bytes: u64,
    /// What of that does not go over the wire.
    pub left_out: LeftOut,
    /// What could not be read; a file of many pieces is told once.
    pub failures: Vec<(Arc<SourceItem>, Unreadable)>,
}

/// What does not go over the wire of what a stripe covers, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeftOut {
    /// It is at the receiver.
    pub matched_bytes: u64,
    /// The content was packed.
    pub saved_bytes: u64,
}

impl AddAssign for LeftOut {
    fn add_assign(&mut self, more: Self) {
        self.matched_bytes += more.matched_bytes;
        self.saved_bytes += more.saved_bytes;
    }
}

/// Reads and hashes `parts`, and puts them together as a stripe.
///
/// What cannot be read, or changed since it was found, is told and left out: the receiver is asked to
/// forget what it has of it.
pub fn prepare(stripe: u64, parts: &[Part], buffers: &Buffers, options: ReadOptions) -> Outcome {
    let bytes: u64 = parts.iter().map(|part| part.len).sum();
    let buffer = buffers.take(bytes as usize);
    let mut content = Content { buffers, buffer, filled: 0, owed: bytes as usize };
    let (mut table, mut covered_bytes) = (Vec::new(), 0);
    let (mut whole, mut sealed, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    let (mut streamed, mut matched_bytes) = (None, 0);
    for part in parts {
        let start = content.filled;
        content.owed -= part.len as usize;
        let item = Arc::clone(&part.item);
        let record = record(part, &mut content, options);
        if let Ok((record, _)) = &record
            && let Record::Piece(piece) = record.plain()
            && piece.is_based
        {
            matched_bytes += piece.len - piece.content_bytes();
        }
        match record {
            Ok((record, Done::Whole(info, hash))) => {
                record.encode(&mut table);
                covered_bytes += info.bytes;
                whole.push(Whole { item, info, hash });
            }
            Ok((record, Done::Sealed { hash, is_unsure, extra })) => {
                record.encode(&mut table);
                covered_bytes += part.len;
                sealed.push(Sealed { item, hash, is_unsure, extra });
            }
            Ok((record, Done::Streamed(hash))) => {
                record.encode(&mut table);
                covered_bytes += part.len;
                streamed = Some((item, hash));
            }
            Ok((record, Done::Nothing)) => {
                record.encode(&mut table);
                covered_bytes += part.len;
            }
            Err(unreadable) => {
                content.filled = start;
                Record::Discard { item: part.item.id }.encode(&mut table);
                if !part.item.failed.swap(true, Relaxed) {
                    failures.push((item, unreadable));
                }
            }
        }
    }
    let packed = if options.packing == Packing::Always { pack(content.since(0)) } else { None };
    let saved_bytes = packed.as_ref().map_or(0, |packed| content.filled - packed.len()) as u64;
    // Of content that shrinks there is some.
    let unpacked_bytes_max =
        packed.as_ref().map_or(0, |_| content.filled.next_power_of_two()) as u32;
    let header = Header {
        stripe,
        table_bytes: table.len() as u32,
        content_bytes: packed.as_ref().map_or(content.filled, Vec::len) as u32,
        unpacked_bytes_max,
        table_hash: *blake3::hash(&table).as_bytes(),
    };
    let mut head = Vec::with_capacity(Header::BYTES + table.len());
    header.encode(&mut head);
    head.extend_from_slice(&table);
    let content = if let Some(packed) = packed {
        packed.into()
    } else {
        content.buffer.truncate(content.filled);
        Bytes::from_owner(content.buffer)
    };
    let prepared = Prepared { head: head.into(), content };
    let left_out = LeftOut { matched_bytes, saved_bytes };
    Outcome { prepared, whole, sealed, streamed, covered_bytes, left_out, failures }
}

/// What a part brings to an end.
enum Done {
    Nothing,
    Whole(FileInfo, [u8; 32]),
    Streamed([u8; 32]),
    Sealed { hash: [u8; 32], is_unsure: bool, extra: Option<Box<Extra>> },
}

/// The record for `part`, whose content is appended to `content`.
fn record(
    part: &Part,
    content: &mut Content<'_>,
    options: ReadOptions,
) -> Result<(Record, Done), Unreadable> {
    let (item, path) = (part.item.id, part.item.path.clone());
    let info = match &part.item.kind {
        SourceKind::Found(Kind::File(info)) => info,
        SourceKind::Found(Kind::Folder(meta)) => {
            let record = Record::Folder { item, path, meta: *meta };
            return Ok((record.with(of_other(&part.item, options)?), Done::Nothing));
        }
        SourceKind::Found(Kind::Symlink { meta, target }) => {
            let (meta, target) = (*meta, target.clone());
            let record = Record::Symlink { item, path, meta, target };
            return Ok((record.with(of_other(&part.item, options)?), Done::Nothing));
        }
        SourceKind::Found(Kind::Special { meta, what }) => {
            let record = Record::Special { item, path, meta: *meta, what: *what };
            return Ok((record.with(of_other(&part.item, options)?), Done::Nothing));
        }
        SourceKind::Seal { of, hash, extra } => {
            let record = Record::Seal { item: *of, hash: *hash };
            return Ok((record.with(extra.as_deref().cloned()), Done::Nothing));
        }
        SourceKind::Chunk(chunk) => return chunk_record(part, chunk, content),
        SourceKind::Adopt(info) => {
            let record = Record::Adopt { item, path, meta: info.meta, file_bytes: info.bytes };
            return Ok((record.with(of_file(&part.item, info, options)?), Done::Nothing));
        }
        SourceKind::Link { info, of } => {
            let (of, meta, file_bytes) = (of.clone(), info.meta, info.bytes);
            return Ok((Record::Link { item, path, of, meta, file_bytes }, Done::Nothing));
        }
        SourceKind::Kept { info, hash } => {
            let (meta, file_bytes, hash) = (info.meta, info.bytes, *hash);
            return Ok((Record::Kept { item, path, meta, file_bytes, hash }, Done::Nothing));
        }
        SourceKind::TakeBack { of } => return Ok((Record::Discard { item: *of }, Done::Nothing)),
    };
    if part.item.failed.load(Relaxed) {
        return Err(Unreadable::changed());
    }
    let is_whole = part.len == info.bytes;
    let Read { info, runs, hash, is_based } = if is_whole {
        read_whole(&part.item.local, info, content, options)?
    } else {
        read_piece(part, info, content, options)?
    };
    let (first, done) = if is_whole {
        (info, Done::Whole(info, hash))
    } else {
        add_piece(part, info, hash, options)?
    };
    let extra = if is_whole { of_file(&part.item, &info, options)? } else { None };
    let piece = Piece {
        item,
        path,
        meta: info.meta,
        source: part.item.source_id(&first),
        file_bytes: info.bytes,
        sparse: info.sparse,
        offset: part.offset,
        len: if is_whole { info.bytes } else { part.len },
        is_based,
        runs,
        hash,
    };
    Ok((Record::Piece(piece).with(extra), done))
}

/// The record for a part of what comes from a pipe.
fn chunk_record(
    part: &Part,
    chunk: &Chunk,
    content: &mut Content<'_>,
) -> Result<(Record, Done), Unreadable> {
    let start = (part.offset - chunk.offset) as usize;
    let data = &chunk.data[start..start + part.len as usize];
    content.append(data);
    let file_bytes = chunk.total.unwrap_or(FILE_BYTES_MAX);
    let hash = piece_hash(part.offset, data, file_bytes);
    let none = [0; 16];
    let piece = Piece {
        item: part.item.id,
        path: part.item.path.clone(),
        meta: chunk.meta,
        source: SourceId {
            version: SourceVersion(none),
            state: SourceState(none),
            basis: SourceBasis(none),
        },
        file_bytes,
        sparse: false,
        offset: part.offset,
        len: part.len,
        is_based: false,
        runs: whole(part.len),
        hash,
    };
    if part.len == file_bytes {
        return Ok((Record::Piece(piece), Done::Streamed(hash)));
    }
    let mut tree = lock(&chunk.tree);
    let fits = chunk.total.is_none_or(|total| tree.set_length(total));
    if !fits || !tree.add(part.offset, part.len, hash) {
        return Err(Unreadable::source("its pieces do not fit together"));
    }
    let sealed =
        |root: blake3::Hash| Done::Sealed { hash: *root.as_bytes(), is_unsure: false, extra: None };
    Ok((Record::Piece(piece), tree.root().map_or(Done::Nothing, sealed)))
}

/// Adds a piece's hash to its file's. Returns how the file was at first as well. A file of one piece
/// needs no seal.
fn add_piece(
    part: &Part,
    now: FileInfo,
    hash: [u8; 32],
    options: ReadOptions,
) -> Result<(FileInfo, Done), Unreadable> {
    let mut reading = lock(&part.item.reading);
    let first = *reading.first.get_or_insert(now);
    reading.latest = Some(now);
    reading.is_unsure |= !now.is_unchanged(&first);
    // All of the file may be kept at the receiver, and only its hash be missing.
    if part.len > 0 && !reading.tree.add(part.offset, part.len, hash) {
        return Err(Unreadable::source("its pieces do not fit together"));
    }
    let is_unsure = reading.is_unsure;
    let Some(root) = reading.tree.root() else { return Ok((first, Done::Nothing)) };
    drop(reading);
    let extra = of_file(&part.item, &now, options)?.map(Box::new);
    Ok((first, Done::Sealed { hash: *root.as_bytes(), is_unsure, extra }))
}
