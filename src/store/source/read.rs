//! Reading files that may change meanwhile.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, fstat};

use super::super::compare::StillWanted;
use super::super::holes::{self, Extents, hash_runs};
use super::super::kind::{FileInfo, Kind};
use super::super::source_root::SourcePath;
use super::super::unreadable::Unreadable;
use super::{
    CONFIRM_TRIES, GROWN_BYTES_MAX, MADE_UP_BYTES_MAX, Part, ReadOptions, Sealed, SourceKind, TRIES,
};
use crate::buffers::{Buffer, Buffers};
use crate::hashtree::PieceHasher;
use crate::mutex::lock;
use crate::wire::{RUNS_MAX, Run};

/// A stripe's content as it is read.
pub(super) struct Content<'a> {
    pub(super) buffers: &'a Buffers,
    pub(super) buffer: Buffer,
    pub(super) filled: usize,
    /// What is still to come of other parts, in bytes.
    pub(super) owed: usize,
}

impl Content<'_> {
    pub(super) fn read(&mut self, file: &File, offset: u64, len: u64) -> io::Result<()> {
        let end = self.filled + len as usize;
        file.read_exact_at(&mut self.buffer.as_mut()[self.filled..end], offset)?;
        self.filled = end;
        Ok(())
    }

    /// Appends what no room was made for.
    pub(super) fn append(&mut self, bytes: &[u8]) {
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

    pub(super) fn since(&self, start: usize) -> &[u8] {
        &self.buffer.as_ref()[start..self.filled]
    }

    /// Of what was appended since `start`, nothing but these runs stays.
    pub(super) fn keep_runs(&mut self, start: usize, runs: &[Run]) {
        let mut end = start;
        for run in runs {
            let from = start + run.offset as usize;
            self.buffer.as_mut().copy_within(from..from + run.len as usize, end);
            end += run.len as usize;
        }
        self.filled = end;
    }
}

/// What was read.
pub(super) struct Read {
    /// What the file was then.
    pub(super) info: FileInfo,
    pub(super) runs: Vec<Run>,
    pub(super) hash: [u8; 32],
    /// Of the rest there is as much at the receiver.
    pub(super) is_based: bool,
}

/// Reads a piece of a file. It may have changed since other pieces were read, but not while this one was.
pub(super) fn read_piece(
    part: &Part,
    info: &FileInfo,
    content: &mut Content<'_>,
    options: ReadOptions,
) -> Result<Read, Unreadable> {
    let file = part.item.local.open()?;
    let start = content.filled;
    let mut before = lock(&part.item.reading).latest.unwrap_or(*info);
    for _ in 0..TRIES {
        content.filled = start;
        let base = part.item.base.as_deref().filter(|base| base.has_some_at(part.offset));
        // Of what is compared all is read, holes as well.
        let sparse = info.sparse && base.is_none();
        let read = read_runs(&file, part.offset, part.len, sparse, content);
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
            let runs = match base {
                Some(base) => base.leave_out(&file, (part.offset, part.len), content, start)?,
                None => runs,
            };
            return Ok(Read { info, runs, hash, is_based: base.is_some() });
        }
        before = now;
    }
    Err(Unreadable::changed())
}

/// A file that has grown, as it was when it was found.
pub(super) fn as_found(info: &FileInfo, now: &FileInfo) -> FileInfo {
    now.with_bytes(info.bytes).with_meta(info.meta)
}

/// What a file is and holds whose size may not be what it is said to be: it is read in one go.
pub fn read_small(local: &SourcePath, info: &FileInfo) -> Result<(FileInfo, [u8; 32]), Unreadable> {
    let (buffers, owed) = (&Buffers::default(), 0);
    let mut content =
        Content { buffers, buffer: buffers.take(info.bytes as usize), filled: 0, owed };
    let Read { info, hash, .. } = read_whole(local, info, &mut content, ReadOptions::default())?;
    Ok((info, hash))
}

/// Reads a file in one go, as it is now: it may have changed since it was found, but not while it was
/// read. No more is taken than it had when it was found, unless its size is made up.
pub(super) fn read_whole(
    local: &SourcePath,
    found: &FileInfo,
    content: &mut Content<'_>,
    options: ReadOptions,
) -> Result<Read, Unreadable> {
    let file = local.open()?;
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
            return Ok(Read { info, runs, hash, is_based: false });
        }
        (before, hash_before) = (now, Some(hash));
    }
    Err(Unreadable::changed())
}

/// Looks whether a file has more than its size says, and reads that as well. Returns its runs and its
/// size.
pub(super) fn read_behind(
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
pub(super) fn read_made_up(
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

pub(super) fn read_runs(
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
        let file = sealed.item.local.open()?;
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

/// Looks whether a file that was found still has some pieces, in steps: whoever reads for others lets them have their
/// turns in between.
#[derive(Debug)]
pub struct Holding {
    file: File,
    found: FileInfo,
    /// How it was when this pass began.
    before: FileInfo,
    /// Each an offset, a length and a hash, in the order of their offsets.
    pieces: Vec<(u64, u64, [u8; 32])>,
    /// The piece that is under way, and what of it was read.
    at: (usize, u64),
    hasher: Option<PieceHasher>,
    extents: Extents,
    passes: usize,
}

impl Holding {
    /// Of a file as it was `found`. `None` if it is another one.
    pub fn new(
        local: &SourcePath,
        found: &FileInfo,
        pieces: Vec<(u64, u64, [u8; 32])>,
    ) -> Option<Self> {
        let file = local.open().ok()?;
        let before = state(&file).ok()?;
        let (at, hasher, extents) = ((0, 0), None, Extents::until(found.bytes));
        Some(Self { file, found: *found, before, pieces, at, hasher, extents, passes: 0 })
    }

    /// Reads up to `bytes` more, while that is `wanted`.
    pub fn step(&mut self, bytes: u64, wanted: &StillWanted) -> Held {
        self.read_on(bytes, wanted).unwrap_or(Held::Not)
    }

    /// `None` if it has not all of the pieces.
    fn read_on(&mut self, bytes: u64, wanted: &StillWanted) -> Option<Held> {
        if self.passes == CONFIRM_TRIES || !self.found.has_same_version(&self.before) {
            return None;
        }
        let mut left = bytes;
        while let Some(&(offset, len, hash)) = self.pieces.get(self.at.0) {
            if left == 0 {
                return Some(Held::SoFar);
            }
            let new = || PieceHasher::new(offset, len, self.found.bytes);
            let hasher = self.hasher.get_or_insert_with(new);
            let start = offset + self.at.1;
            let more = (len - self.at.1).min(left);
            let end = start.checked_add(more).filter(|&end| end <= self.found.bytes)?;
            let read = self.extents.read(&self.file, start..end, |part| {
                hasher.update(part);
                wanted.get()
            });
            if !read.is_ok_and(|all| all) {
                return None;
            }
            left -= more;
            self.at.1 += more;
            if self.at.1 == len {
                if self.hasher.take()?.finish() != hash {
                    return None;
                }
                self.at = (self.at.0 + 1, 0);
            }
        }
        let after = state(&self.file).ok()?;
        if after.is_unchanged(&self.before) {
            return Some(Held::All(after.with_meta(self.found.meta)));
        }
        (self.before, self.at, self.passes) = (after, (0, 0), self.passes + 1);
        self.extents = Extents::until(self.found.bytes);
        Some(Held::SoFar)
    }
}

/// What of its pieces a file still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Those that were read by now.
    SoFar,
    /// All of them, and how it was when they were read.
    All(FileInfo),
    /// Not all, or it does not hold still.
    Not,
}

/// How an open file is, if it still is one.
pub(super) fn state(file: &File) -> Result<FileInfo, Unreadable> {
    let stat = fstat(file).map_err(io::Error::from)?;
    let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
    if is_file { Ok(FileInfo::of(&stat)) } else { Err(Unreadable::replaced()) }
}

pub(super) fn whole(len: u64) -> Vec<Run> {
    if len == 0 { Vec::new() } else { vec![Run { offset: 0, len }] }
}

/// Where `len` bytes from `offset` on have content. Too many runs to tell are told as one.
pub(super) fn data_runs(file: &File, offset: u64, len: u64) -> io::Result<Vec<Run>> {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::compare::Wanted;
    use super::super::super::source_root::SourceRoot;
    use super::*;
    use crate::hashtree::piece_hash;

    #[test]
    fn a_file_holds_what_it_has_in_whatever_steps_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(dir.path().join("file"), &content).unwrap();
        let root = Arc::new(SourceRoot::open(dir.path().as_os_str().as_encoded_bytes()).unwrap());
        let local = SourcePath::new(root, b"file".to_vec());
        let info = FileInfo::of(&rustix::fs::stat(dir.path().join("file")).unwrap());
        let piece = |offset: u64, len: u64| {
            let part = &content[offset as usize..(offset + len) as usize];
            (offset, len, piece_hash(offset, part, 200_000))
        };
        let wanted = Wanted::default();
        let holds = |pieces: Vec<_>, bytes| {
            let mut holding = Holding::new(&local, &info, pieces).unwrap();
            loop {
                match holding.step(bytes, &wanted.watch()) {
                    Held::SoFar => {}
                    held => return held != Held::Not,
                }
            }
        };
        let other = (0, 65_536, [1; 32]);
        for step in [1_000, 65_536, u64::MAX] {
            assert!(holds(vec![piece(0, 65_536), piece(131_072, 65_536)], step));
            assert!(holds(vec![piece(0, 200_000)], step) && holds(vec![], step));
            assert!(!holds(vec![other, piece(131_072, 65_536)], step));
            assert!(!holds(vec![piece(0, 65_536), (131_072, 131_072, [1; 32])], step), "beyond it");
        }
        wanted.stop();
        assert!(!holds(vec![piece(0, 200_000)], 1_000));
    }
}
