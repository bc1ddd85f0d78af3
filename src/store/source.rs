//! Reading the source: what a stripe holds, ready to be sent.
//!
//! Sources are in use while they are read. What counts is their content: a file whose size and time of
//! modification hold, and whose other properties change under way (its permissions, or the links to it),
//! is read once more when all of it has been sent, and is sealed only if it still has the same hash.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::compare::StillWanted;
use super::descriptors::patiently;
use super::scan::{FileInfo, Kind};
use super::{holes, reason, shown};
use crate::buffers::{Buffer, Buffers};
use crate::event::{Failure, FailureKind};
use crate::hashtree::{HashTree, PieceHasher, hash_parts, piece_hash};
use crate::mutex::lock;
use crate::wire::{CONTENT_BYTES_MAX, Header, Piece, RUNS_MAX, Record, Run, SourceId};

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
    pub local: PathBuf,
    /// Its path below the server's root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: SourceKind,
    /// It was tried before, and had vanished or changed.
    pub is_last_try: bool,
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
    },
    /// A file all of which was sent, and which turned out to have changed.
    TakeBack {
        /// The file's item.
        of: u64,
    },
}

/// What is known of a file that is read in pieces.
#[derive(Debug)]
struct Reading {
    /// The pieces that have been read so far.
    tree: HashTree,
    /// The state in which the first of those was read that the receiver has kept.
    basis: Option<[u8; 16]>,
    /// How it was when the first of them was read.
    first: Option<FileInfo>,
    /// How it was when the latest was.
    latest: Option<FileInfo>,
    /// Something about it has changed between pieces: they may not be of the same version.
    is_unsure: bool,
}

impl SourceItem {
    /// An item that has not been read.
    pub fn new(id: u64, local: PathBuf, path: Vec<u8>, kind: SourceKind) -> Self {
        let bytes = if let SourceKind::Found(Kind::File(info)) = &kind { info.bytes } else { 0 };
        let reading = Reading {
            tree: HashTree::new(bytes),
            basis: None,
            first: None,
            latest: None,
            is_unsure: false,
        };
        let (reading, failed) = (Mutex::new(reading), AtomicBool::new(false));
        Self { id, local, path, kind, is_last_try: false, reading, failed }
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
    pub fn with_tree(self, tree: HashTree, basis: [u8; 16]) -> Self {
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
        let mut basis = lock(&self.reading).basis.unwrap_or(state);
        // The receiver may still hold what it has of the first try.
        basis[0] ^= u8::from(self.is_last_try);
        SourceId { version: first.version(), state, basis }
    }

    /// The failure of this item.
    pub fn failure(&self, unreadable: Unreadable) -> Failure {
        let Unreadable { kind, reason } = unreadable;
        Failure { kind, path: shown(self.local.as_os_str().as_bytes()), reason }
    }
}

/// Why something cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Whether it may be otherwise at another attempt.
    pub kind: FailureKind,
    /// Why, for a person.
    pub reason: String,
}

impl Unreadable {
    pub(crate) fn changed() -> Self {
        Self { kind: FailureKind::Changed, reason: "it was changed while it was read".into() }
    }

    pub(super) fn replaced() -> Self {
        let reason = "something else has taken its place".into();
        Self { kind: FailureKind::Changed, reason }
    }

    fn too_short(info: &FileInfo) -> Self {
        Self::source(format!("its size is said to be {}, and it has less", info.bytes))
    }

    pub(super) fn source(reason: impl Into<String>) -> Self {
        Self { kind: FailureKind::Source, reason: reason.into() }
    }
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR) => Self {
                kind: FailureKind::Vanished,
                reason: "it vanished while the source was read".into(),
            },
            // It is a link, a folder or a socket now.
            Some(Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::SPIPE) => Self::replaced(),
            // Network file systems say so of what was replaced or removed elsewhere.
            Some(Errno::STALE) => Self::changed(),
            _ => Self::source(reason(&error)),
        }
    }
}

/// How sources are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// A file that has grown since it was found is sent as long as it was then.
    pub growing_ok: bool,
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
    /// What of its files it covers, holes included, in bytes.
    pub covered_bytes: u64,
    /// What could not be read; a file of many pieces is told once.
    pub failures: Vec<(Arc<SourceItem>, Unreadable)>,
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
    for part in parts {
        let start = content.filled;
        content.owed -= part.len as usize;
        let item = Arc::clone(&part.item);
        match record(part, &mut content, options) {
            Ok((record, Done::Whole(info, hash))) => {
                record.encode(&mut table);
                covered_bytes += info.bytes;
                whole.push(Whole { item, info, hash });
            }
            Ok((record, Done::Sealed { hash, is_unsure })) => {
                record.encode(&mut table);
                covered_bytes += part.len;
                sealed.push(Sealed { item, hash, is_unsure });
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
    Outcome { prepared, whole, sealed, covered_bytes, failures }
}

/// A stripe's content as it is read.
struct Content<'a> {
    buffers: &'a Buffers,
    buffer: Buffer,
    filled: usize,
    /// What is still to come of other parts, in bytes.
    owed: usize,
}

impl Content<'_> {
    fn read(&mut self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        let end = self.filled + len as usize;
        file.read_exact_at(&mut self.buffer.as_mut()[self.filled..end], offset)?;
        self.filled = end;
        Ok(())
    }

    /// Appends what no room was made for.
    fn append(&mut self, bytes: &[u8]) {
        let end = self.filled + bytes.len();
        let want = end + self.owed;
        if want > self.buffer.as_ref().len() {
            let mut larger = self.buffers.take(want);
            larger.as_mut()[..self.filled].copy_from_slice(&self.buffer.as_ref()[..self.filled]);
            self.buffer = larger;
        }
        self.buffer.as_mut()[self.filled..end].copy_from_slice(bytes);
        self.filled = end;
    }

    fn since(&self, start: usize) -> &[u8] {
        &self.buffer.as_ref()[start..self.filled]
    }
}

/// What a part brings to an end.
enum Done {
    Nothing,
    Whole(FileInfo, [u8; 32]),
    Sealed { hash: [u8; 32], is_unsure: bool },
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
            return Ok((Record::Folder { item, path, meta: *meta }, Done::Nothing));
        }
        SourceKind::Found(Kind::Symlink { meta, target }) => {
            let (meta, target) = (*meta, target.clone());
            return Ok((Record::Symlink { item, path, meta, target }, Done::Nothing));
        }
        SourceKind::Seal { of, hash } => {
            return Ok((Record::Seal { item: *of, hash: *hash }, Done::Nothing));
        }
        SourceKind::TakeBack { of } => return Ok((Record::Discard { item: *of }, Done::Nothing)),
    };
    if part.item.failed.load(Relaxed) {
        return Err(Unreadable::changed());
    }
    let is_whole = part.len == info.bytes;
    let Read { info, runs, hash } = if is_whole {
        read_whole(&part.item.local, info, content, options)?
    } else {
        read_piece(part, info, content, options)?
    };
    let (first, done) =
        if is_whole { (info, Done::Whole(info, hash)) } else { add_piece(part, info, hash)? };
    let piece = Piece {
        item,
        path,
        meta: info.meta,
        source: part.item.source_id(&first),
        file_bytes: info.bytes,
        sparse: info.sparse,
        offset: part.offset,
        len: if is_whole { info.bytes } else { part.len },
        runs,
        hash,
    };
    Ok((Record::Piece(piece), done))
}

/// What was read.
struct Read {
    /// What the file was then.
    info: FileInfo,
    runs: Vec<Run>,
    hash: [u8; 32],
}

/// Adds a piece's hash to its file's. Returns how the file was at first as well. A file of one piece
/// needs no seal.
fn add_piece(part: &Part, now: FileInfo, hash: [u8; 32]) -> Result<(FileInfo, Done), Unreadable> {
    let mut reading = lock(&part.item.reading);
    let first = *reading.first.get_or_insert(now);
    reading.latest = Some(now);
    reading.is_unsure |= !now.is_unchanged(&first);
    // All of the file may be kept at the receiver, and only its hash be missing.
    if part.len > 0 && !reading.tree.add(part.offset, part.len, hash) {
        return Err(Unreadable::source("its pieces do not fit together"));
    }
    let is_unsure = reading.is_unsure;
    let sealed = |root: blake3::Hash| Done::Sealed { hash: *root.as_bytes(), is_unsure };
    Ok((first, reading.tree.root().map_or(Done::Nothing, sealed)))
}

/// Reads a piece of a file. It may have changed since other pieces were read, but not while this one was.
fn read_piece(
    part: &Part,
    info: &FileInfo,
    content: &mut Content<'_>,
    options: ReadOptions,
) -> Result<Read, Unreadable> {
    let file = open(&part.item.local)?;
    let start = content.filled;
    let mut before = lock(&part.item.reading).latest.unwrap_or(*info);
    for _ in 0..TRIES {
        content.filled = start;
        let read = read_runs(&file, part.offset, part.len, info.sparse, content);
        let now = state(&file)?;
        let has_grown =
            options.growing_ok && info.has_grown_into(&now) && !info.has_same_version(&now);
        if !has_grown && !info.has_same_version(&now) {
            return Err(Unreadable::changed());
        }
        let runs = read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Unreadable::too_short(&now),
            _ => error.into(),
        })?;
        if has_grown || now.is_unchanged(&before) {
            let info = if has_grown { as_found(info, &now) } else { now.with_meta(info.meta) };
            let hash = if part.len == 0 {
                [0; 32]
            } else {
                hash_runs(part.offset, part.len, &runs, content.since(start), info.bytes)
            };
            return Ok(Read { info, runs, hash });
        }
        before = now;
    }
    Err(Unreadable::changed())
}

/// A file that has grown, as it was when it was found.
fn as_found(info: &FileInfo, now: &FileInfo) -> FileInfo {
    now.with_bytes(info.bytes).with_meta(info.meta)
}

/// What a file is and holds whose size may not be what it is said to be: it is read in one go.
pub fn read_small(local: &Path, info: &FileInfo) -> Result<(FileInfo, [u8; 32]), Unreadable> {
    let (buffers, owed) = (&Buffers::default(), 0);
    let mut content =
        Content { buffers, buffer: buffers.take(info.bytes as usize), filled: 0, owed };
    let Read { info, hash, .. } = read_whole(local, info, &mut content, ReadOptions::default())?;
    Ok((info, hash))
}

/// Reads a file in one go, as it is now: it may have changed since it was found, but not while it was
/// read. No more is taken than it had when it was found, unless its size is made up.
fn read_whole(
    local: &Path,
    found: &FileInfo,
    content: &mut Content<'_>,
    options: ReadOptions,
) -> Result<Read, Unreadable> {
    let file = open(local)?;
    let start = content.filled;
    let (mut before, mut hash_before) = (*found, None);
    for _ in 0..TRIES {
        content.filled = start;
        let was_longer = before.bytes > found.bytes;
        if was_longer && !(options.growing_ok && found.has_grown_into(&before)) {
            return Err(Unreadable::changed());
        }
        let len = before.bytes.min(found.bytes);
        let read = read_runs(&file, 0, len, before.sparse, content);
        let now = state(&file)?;
        let is_settled = now.is_unchanged(&before);
        let (runs, bytes) = match read {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            Err(_) if !is_settled => {
                (before, hash_before) = (now, None);
                continue;
            }
            Err(_) if now.is_hollow => read_made_up(&file, start, content)?,
            Err(_) => return Err(Unreadable::too_short(&now)),
            // Where it has blocks, or nothing but holes, its size is what it has.
            Ok(runs)
                if is_settled && !was_longer && now.is_hollow && !(len > 0 && runs.is_empty()) =>
            {
                read_behind(&file, runs, len, start, content)?
            }
            Ok(runs) => (runs, len),
        };
        let hash = hash_runs(0, bytes, &runs, content.since(start), bytes);
        let is_longer = now.bytes > found.bytes;
        let is_prefix = is_longer && options.growing_ok && found.has_grown_into(&now);
        if is_settled || is_prefix && hash_before == Some(hash) {
            let info = if is_prefix { as_found(found, &now) } else { now.with_bytes(bytes) };
            return Ok(Read { info, runs, hash });
        }
        (before, hash_before) = (now, Some(hash));
    }
    Err(Unreadable::changed())
}

/// Looks whether a file has more than its size says, and reads that as well. Returns its runs and its
/// size.
fn read_behind(
    file: &File,
    runs: Vec<Run>,
    len: u64,
    start: usize,
    content: &mut Content<'_>,
) -> Result<(Vec<Run>, u64), Unreadable> {
    let mut probe = [0; 512];
    match file.read_at(&mut probe, len) {
        Err(error) if len == 0 => Err(error.into()),
        // What cannot be read behind its end has one.
        Ok(0) | Err(_) => Ok((runs, len)),
        Ok(_) => read_made_up(file, start, content),
    }
}

/// Reads a file to its end, whatever its size is said to be. Returns its runs and its size.
fn read_made_up(
    file: &File,
    start: usize,
    content: &mut Content<'_>,
) -> Result<(Vec<Run>, u64), Unreadable> {
    let mut block = vec![0; 64 << 10];
    let mut bytes = 0;
    content.filled = start;
    loop {
        let read = match file.read_at(&mut block, bytes as u64) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            break;
        }
        bytes += read;
        if bytes > MADE_UP_BYTES_MAX {
            return Err(Unreadable::source(format!(
                "its size cannot be told, and it has more than {MADE_UP_BYTES_MAX} bytes"
            )));
        }
        if content.filled + read + content.owed > GROWN_BYTES_MAX {
            // At another attempt it has a stripe of its own.
            return Err(Unreadable::changed());
        }
        content.append(&block[..read]);
    }
    Ok((whole(bytes as u64), bytes as u64))
}

fn read_runs(
    file: &File,
    offset: u64,
    len: u64,
    sparse: bool,
    content: &mut Content<'_>,
) -> io::Result<Vec<Run>> {
    let runs = if sparse { data_runs(file, offset, len)? } else { whole(len) };
    for run in &runs {
        content.read(file, offset + run.offset, run.len)?;
    }
    Ok(runs)
}

/// Reads a file of which all was sent, and tells whether it still is what was sent.
pub fn confirm(
    sealed: &Sealed,
    options: ReadOptions,
    wanted: &StillWanted,
) -> Result<(), Unreadable> {
    let SourceKind::Found(Kind::File(info)) = &sealed.item.kind else { return Ok(()) };
    let holds = |now: &FileInfo| {
        info.has_same_version(now) || options.growing_ok && info.has_grown_into(now)
    };
    for _ in 0..CONFIRM_TRIES {
        let file = open(&sealed.item.local)?;
        let before = state(&file)?;
        if !holds(&before) {
            break;
        }
        let mut hasher = blake3::Hasher::new();
        let all = holes::read(&file, 0..info.bytes, |part| {
            hasher.update(part);
            wanted.get()
        });
        match all {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            all => drop(all?),
        }
        let after = state(&file)?;
        if !holds(&after) || *hasher.finalize().as_bytes() != sealed.hash {
            break;
        }
        if !info.has_same_version(&after) || after.is_unchanged(&before) {
            return Ok(());
        }
    }
    Err(Unreadable::changed())
}

/// Whether a file that was found still has `pieces`, each an offset, a length and a hash. Returns how it was
/// when all of them were read.
pub fn holds(
    local: &Path,
    found: &FileInfo,
    pieces: &[(u64, u64, [u8; 32])],
    wanted: &StillWanted,
) -> Option<FileInfo> {
    let file = open(local).ok()?;
    let mut before = state(&file).ok()?;
    for _ in 0..CONFIRM_TRIES {
        if !found.has_same_version(&before) {
            return None;
        }
        for &(offset, len, hash) in pieces {
            let mut hasher = PieceHasher::new(offset, len, found.bytes);
            let read = holes::read(&file, offset..offset.checked_add(len)?, |part| {
                hasher.update(part);
                wanted.get()
            });
            if !read.is_ok_and(|all| all) || hasher.finish() != hash {
                return None;
            }
        }
        let after = state(&file).ok()?;
        if after.is_unchanged(&before) {
            return Some(after.with_meta(found.meta));
        }
        before = after;
    }
    None
}

/// Opens a file without being led elsewhere by a link that has taken its place, and without waiting
/// if it has become a pipe.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let flags = flags.bits().cast_signed();
    patiently(|| File::options().read(true).custom_flags(flags).open(path))
}

/// How an open file is, if it still is one.
fn state(file: &File) -> Result<FileInfo, Unreadable> {
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok(FileInfo::of(&metadata)) } else { Err(Unreadable::replaced()) }
}

fn whole(len: u64) -> Vec<Run> {
    if len == 0 { Vec::new() } else { vec![Run { offset: 0, len }] }
}

/// Where `len` bytes from `offset` on have content. Too many runs to tell are told as one.
fn data_runs(file: &File, offset: u64, len: u64) -> io::Result<Vec<Run>> {
    let mut runs = Vec::new();
    let mut at = offset;
    let end = offset + len;
    while let Some(data) = holes::next_data(file, at, end)? {
        if runs.len() == RUNS_MAX {
            return Ok(whole(len));
        }
        runs.push(Run { offset: data.start - offset, len: data.end - data.start });
        at = data.end;
    }
    Ok(runs)
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
        parts.extend(holes::zeros(run.offset - end));
        parts.push(bytes);
        (rest, end) = (after, run.offset + run.len);
    }
    parts.extend(holes::zeros(len - end));
    hash_parts(offset, len, parts.into_iter(), file_bytes)
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
