//! Reading the source: what a stripe holds, ready to be sent.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use super::scan::{FileInfo, Kind};
use super::{reason, shown};
use crate::buffers::{Buffer, Buffers};
use crate::event::Failure;
use crate::hashtree::{HashTree, hash_parts, piece_hash};
use crate::mutex::lock;
use crate::wire::{Header, Piece, RUNS_MAX, Record, Run};

/// Something to send, under the name that it gets at the destination.
#[derive(Debug)]
pub struct SourceItem {
    /// Its number.
    pub id: u64,
    /// Where it is.
    pub local: PathBuf,
    /// Its path below the server's root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: SourceKind,
    /// The file's pieces that have been read so far.
    tree: Mutex<Option<HashTree>>,
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
    },
}

impl SourceItem {
    /// An item that has not been read.
    pub fn new(id: u64, local: PathBuf, path: Vec<u8>, kind: SourceKind) -> Self {
        let tree = match &kind {
            SourceKind::Found(Kind::File(info)) => Some(HashTree::new(info.bytes)),
            _ => None,
        };
        Self { id, local, path, kind, tree: Mutex::new(tree), failed: AtomicBool::new(false) }
    }

    /// A file of which the receiver has kept something.
    #[must_use]
    pub fn with_tree(self, tree: HashTree) -> Self {
        Self { tree: Mutex::new(Some(tree)), ..self }
    }
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
            SourceKind::Found(_) | SourceKind::Seal { .. } => true,
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

/// What reading a stripe brought to light.
#[derive(Debug)]
pub struct Outcome {
    /// The stripe.
    pub prepared: Prepared,
    /// Files of one piece, with their hash.
    pub whole: Vec<(Arc<SourceItem>, [u8; 32])>,
    /// Files of several pieces whose last piece this was, with their hash.
    pub sealed: Vec<(Arc<SourceItem>, [u8; 32])>,
    /// What could not be read.
    pub failures: Vec<Failure>,
}

/// Reads and hashes `parts`, and puts them together as a stripe.
///
/// What cannot be read, or changed since it was found, is told and left out: the receiver is asked to
/// forget what it has of it.
pub fn prepare(stripe: u64, parts: &[Part], buffers: &Buffers) -> Outcome {
    let bytes: u64 = parts.iter().map(|part| part.len).sum();
    let mut content = Content { buffer: buffers.take(bytes as usize), filled: 0 };
    let mut table = Vec::new();
    let (mut whole, mut sealed, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        let start = content.filled;
        match record(part, &mut content) {
            Ok((record, root)) => {
                record.encode(&mut table);
                if let Record::Piece(Piece { len, file_bytes, hash, .. }) = record
                    && len == file_bytes
                {
                    whole.push((Arc::clone(&part.item), hash));
                }
                sealed.extend(root.map(|root| (Arc::clone(&part.item), root)));
            }
            Err(reason) => {
                content.filled = start;
                Record::Discard { item: part.item.id }.encode(&mut table);
                // A file of many pieces is told once.
                if !part.item.failed.swap(true, Relaxed) {
                    failures.push(Failure { path: shown(part.item.local_bytes()), reason });
                }
            }
        }
    }
    let header = Header {
        stripe,
        table_bytes: table.len() as u32,
        content_bytes: content.filled as u32,
        table_hash: *blake3::hash(&table).as_bytes(),
    };
    let mut head = Vec::with_capacity(Header::BYTES + table.len());
    header.encode(&mut head);
    head.extend_from_slice(&table);
    content.buffer.truncate(content.filled);
    let prepared = Prepared { head: head.into(), content: Bytes::from_owner(content.buffer) };
    Outcome { prepared, whole, sealed, failures }
}

/// A stripe's content as it is read.
struct Content {
    buffer: Buffer,
    filled: usize,
}

impl Content {
    fn read(&mut self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        let end = self.filled + len as usize;
        file.read_exact_at(&mut self.buffer.as_mut()[self.filled..end], offset)?;
        self.filled = end;
        Ok(())
    }
}

impl SourceItem {
    fn local_bytes(&self) -> &[u8] {
        self.local.as_os_str().as_bytes()
    }
}

/// The record for `part`, whose content is appended to `content`, and the file's hash if this was its
/// last piece of several.
fn record(part: &Part, content: &mut Content) -> Result<(Record, Option<[u8; 32]>), String> {
    let (item, path) = (part.item.id, part.item.path.clone());
    Ok(match &part.item.kind {
        SourceKind::Found(Kind::Folder(meta)) => (Record::Folder { item, path, meta: *meta }, None),
        SourceKind::Found(Kind::Symlink { meta, target }) => {
            (Record::Symlink { item, path, meta: *meta, target: target.clone() }, None)
        }
        SourceKind::Seal { of, hash } => (Record::Seal { item: *of, hash: *hash }, None),
        SourceKind::Found(Kind::File(info)) => {
            let (runs, hash) = read_piece(part, info, content)?;
            let piece = Piece {
                item,
                path,
                meta: info.meta,
                source: info.source_id(),
                file_bytes: info.bytes,
                sparse: info.sparse,
                offset: part.offset,
                len: part.len,
                runs,
                hash,
            };
            (Record::Piece(piece), add_piece(part, info, hash)?)
        }
    })
}

/// Adds a piece's hash to its file's. A file of one piece needs no seal.
fn add_piece(part: &Part, info: &FileInfo, hash: [u8; 32]) -> Result<Option<[u8; 32]>, String> {
    if part.len == info.bytes {
        return Ok(None);
    }
    let mut tree = lock(&part.item.tree);
    let tree = tree.as_mut().ok_or("not a file")?;
    // All of the file may be kept at the receiver, and only its hash be missing.
    if part.len > 0 && !tree.add(part.offset, part.len, hash) {
        return Err("its pieces do not fit together".into());
    }
    Ok(tree.root().map(|root| *root.as_bytes()))
}

fn read_piece(
    part: &Part,
    info: &FileInfo,
    content: &mut Content,
) -> Result<(Vec<Run>, [u8; 32]), String> {
    const CHANGED: &str = "it changed after it was found";
    if part.item.failed.load(Relaxed) {
        return Err(CHANGED.into());
    }
    let told = |error: io::Error| reason(&error);
    let file = open(&part.item.local).map_err(told)?;
    let runs = if info.sparse { data_runs(&file, part) } else { whole(part) };
    let start = content.filled;
    for run in &runs {
        content
            .read(&file, part.offset + run.offset, run.len)
            .map_err(|error| if is_short(&error) { CHANGED.into() } else { told(error) })?;
    }
    // What is open is what was found, and has stayed so while it was read.
    if !info.is_unchanged(&FileInfo::of(&file.metadata().map_err(told)?)) {
        return Err(CHANGED.into());
    }
    if part.len == 0 && info.bytes > 0 {
        return Ok((runs, [0; 32]));
    }
    let hash = hash_runs(
        part.offset,
        part.len,
        &runs,
        &content.buffer.as_ref()[start..content.filled],
        info.bytes,
    );
    Ok((runs, hash))
}

/// Opens a file without being led elsewhere by a link that has taken its place, and without waiting
/// if it has become a pipe.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

fn whole(part: &Part) -> Vec<Run> {
    if part.len == 0 { Vec::new() } else { vec![Run { offset: 0, len: part.len }] }
}

/// Where the part has content. Too many runs to tell are told as one.
fn data_runs(file: &File, part: &Part) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut at = part.offset;
    let end = part.offset + part.len;
    while let Some(data) = next_data(file, at, end) {
        if runs.len() == RUNS_MAX {
            return whole(part);
        }
        runs.push(Run { offset: data.start - part.offset, len: data.end - data.start });
        at = data.end;
    }
    runs
}

fn next_data(file: &File, at: u64, end: u64) -> Option<Range<u64>> {
    if at >= end {
        return None;
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) if start < end => start,
        Ok(_) | Err(Errno::NXIO) => return None,
        // What cannot tell its holes has none.
        Err(_) => return Some(at..end),
    };
    let stop = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(end);
    Some(start..stop.clamp(start + 1, end))
}

fn is_short(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

/// The [`piece_hash`] of a piece of which `content` holds the runs, and holes are zeros.
pub fn hash_runs(offset: u64, len: u64, runs: &[Run], content: &[u8], file_bytes: u64) -> [u8; 32] {
    if content.len() as u64 == len {
        return piece_hash(offset, content, file_bytes);
    }
    let (mut rest, mut end) = (content, 0);
    let mut parts: Vec<&[u8]> = Vec::with_capacity(2 * runs.len() + 1);
    for run in runs {
        let (bytes, after) = rest.split_at(run.len as usize);
        parts.extend(zeros(run.offset - end));
        parts.push(bytes);
        (rest, end) = (after, run.offset + run.len);
    }
    parts.extend(zeros(len - end));
    hash_parts(offset, len, parts.into_iter(), file_bytes)
}

/// A hole, in parts. The peer says how large holes are: they must cost no memory.
fn zeros<'a>(bytes: u64) -> impl Iterator<Item = &'a [u8]> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let step = ZEROS.len();
    (0..bytes).step_by(step).map(move |at| &ZEROS[..(bytes - at).min(step as u64) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_hashed_as_zeros() {
        let runs = [Run { offset: 70_000, len: 1_000 }, Run { offset: 200_000, len: 10 }];
        let mut piece = vec![0; 262_144];
        piece[70_000..71_000].fill(1);
        piece[200_000..200_010].fill(2);
        let content = [vec![1; 1_000], vec![2; 10]].concat();
        for (offset, file_bytes) in [(0, 262_144), (262_144, 1_000_000)] {
            let hash = hash_runs(offset, 262_144, &runs, &content, file_bytes);
            assert_eq!(hash, piece_hash(offset, &piece, file_bytes));
        }
    }
}
