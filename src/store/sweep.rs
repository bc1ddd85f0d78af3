//! Finding what is in some folders and not at a source, and removing it.
//!
//! What is held of it is bounded, however much there is: names as a [`Listing`] holds them, and what is to be removed
//! waits in a file without a name. Everything is found, opened and removed relative to a folder that is held, and no link
//! is followed. What was changed after it was found stays.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FileType, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::beneath;
use super::list::{Found, Listing, Seen, list};
use super::spill::nameless;
use super::{join, last_of, reason};
use crate::wire::{Listed, ListedKind};

/// What one step removes.
const STEP: usize = 256;
/// What a record has beside its path: what it is, kind, size, time, and the length of the path.
const HEAD_BYTES: usize = 1 + 1 + 8 + 8 + 4;
const TAIL_BYTES: usize = 4;
/// A record of what is to be removed, and of what stays.
const REMOVED: u8 = 0;
const STAYS: u8 = 1;
/// What is read back at a time.
const BLOCK_BYTES: usize = 64 << 10;

/// A search for what is in some folders.
#[derive(Debug)]
pub struct Sweep {
    root: Arc<Dir>,
    /// Folders that were not looked through yet.
    scopes: Vec<Vec<u8>>,
    listing: Option<Listing>,
    /// The one that is being looked through, and the folder in it that what comes next is in.
    scope: Vec<u8>,
    folder: Vec<u8>,
    /// The folders above what was settled last that are to be removed, and whether they cannot be.
    above: Vec<(Vec<u8>, bool)>,
    file: File,
    file_bytes: u64,
    unwritten: Vec<u8>,
    count: u64,
    stays: u64,
}

/// Something that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its path below the root.
    pub path: Vec<u8>,
    listed: Listed,
}

impl Item {
    /// Whether it is a folder.
    pub fn is_folder(&self) -> bool {
        self.listed.kind == ListedKind::Folder
    }
}

/// What a look has brought.
#[derive(Debug, Default)]
pub struct Looked {
    /// What is there, each folder before what is in it.
    pub items: Vec<Item>,
    /// What could not be looked at or into, and why.
    pub failed: Vec<(Vec<u8>, String)>,
}

/// What was removed, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Its path below the root.
    pub path: Vec<u8>,
    /// What it was.
    pub kind: RemovedKind,
}

/// What something was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovedKind {
    /// A regular file.
    File {
        /// Its size, in bytes.
        bytes: u64,
    },
    /// A folder.
    Folder,
    /// A link, a device, a socket or a pipe.
    Other,
}

impl Sweep {
    /// Looks through the folders `scopes` below `root`; an empty one is the root itself.
    pub fn new(root: Arc<Dir>, mut scopes: Vec<Vec<u8>>) -> io::Result<Self> {
        scopes.sort_unstable();
        scopes.dedup();
        // What is in another one is looked at once.
        let is_inner = |scope: &Vec<u8>, all: &[Vec<u8>]| {
            let is_in = |outer: &Vec<u8>| outer != scope && super::below(outer, scope).is_some();
            all.iter().any(is_in)
        };
        let mut outer: Vec<_> =
            scopes.iter().filter(|scope| !is_inner(scope, &scopes)).cloned().collect();
        outer.reverse();
        Ok(Self {
            file: nameless(&root)?,
            root,
            scopes: outer,
            listing: None,
            scope: Vec::new(),
            folder: Vec::new(),
            above: Vec::new(),
            file_bytes: 0,
            unwritten: Vec::new(),
            count: 0,
            stays: 0,
        })
    }

    /// What comes next, a bounded amount of it; `None` if that was all.
    pub fn look(&mut self) -> Option<Looked> {
        let Some(listing) = &mut self.listing else {
            let scope = self.scopes.pop()?;
            let mut looked = Looked::default();
            match list(Arc::clone(&self.root), &scope, true) {
                Ok(Found::Folder(listing)) => self.listing = Some(listing),
                // It was not made, since nothing was sent to it.
                Ok(Found::Missing) => {}
                Ok(Found::Single(_)) => {
                    let why =
                        "nothing is removed there: it is no folder, and links are not followed";
                    looked.failed.push((scope.clone(), why.into()));
                }
                Err(error) => looked.failed.push((scope.clone(), reason(&error))),
            }
            (self.scope, self.folder) = (scope, Vec::new());
            return Some(looked);
        };
        let mut looked = Looked::default();
        match listing.look() {
            None => self.listing = None,
            Some(seen) => {
                for seen in seen {
                    match seen {
                        Seen::Folder(path) => self.folder = path,
                        Seen::Entry(listed) => {
                            let folder = join(&self.scope, &self.folder);
                            looked.items.push(Item { path: join(&folder, &listed.name), listed });
                        }
                        Seen::Unreadable { path, reason } => {
                            looked.failed.push((join(&self.scope, &path), reason));
                        }
                    }
                }
            }
        }
        Some(looked)
    }

    /// What comes next of what was found is to be removed, or stays. In the order in which it was found, and what
    /// failed with it.
    pub fn settle(&mut self, item: &Item, is_removed: bool) -> io::Result<()> {
        self.leave(&item.path);
        if is_removed {
            self.count += 1;
            self.write(REMOVED, &item.path, &item.listed)?;
            if item.is_folder() {
                self.above.push((item.path.clone(), false));
            }
            return Ok(());
        }
        self.stay(&item.path)
    }

    /// Something could not be looked at: it stays, and what it is in.
    pub fn keep(&mut self, path: &[u8]) -> io::Result<()> {
        self.leave(path);
        self.stay(path)
    }

    /// Forgets the folders that `path` is not in.
    fn leave(&mut self, path: &[u8]) {
        while self.above.last().is_some_and(|(folder, _)| super::below(folder, path).is_none()) {
            self.above.pop();
        }
    }

    fn stay(&mut self, path: &[u8]) -> io::Result<()> {
        if self.above.is_empty() {
            return Ok(());
        }
        for (_, stays) in &mut self.above {
            if !std::mem::replace(stays, true) {
                self.count -= 1;
            }
        }
        let meta = crate::wire::Meta { mode: 0, mtime_s: 0, mtime_ns: 0 };
        let listed = Listed { name: Vec::new(), meta, kind: ListedKind::Other };
        self.stays += 1;
        self.write(STAYS, path, &listed)
    }

    fn write(&mut self, what: u8, path: &[u8], listed: &Listed) -> io::Result<()> {
        let out = &mut self.unwritten;
        let (kind, bytes) = match listed.kind {
            ListedKind::File { bytes } => (0, bytes),
            ListedKind::Folder => (1, 0),
            ListedKind::Symlink { .. } | ListedKind::Other => (2, 0),
        };
        out.put_u8(what);
        out.put_u8(kind);
        out.put_u64_le(bytes);
        out.put_i64_le(listed.meta.mtime_s);
        out.put_u32_le(listed.meta.mtime_ns);
        out.put_slice(path);
        out.put_u32_le(path.len() as u32);
        if out.len() >= BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.unwritten, self.file_bytes)?;
        self.file_bytes += self.unwritten.len() as u64;
        self.unwritten.clear();
        Ok(())
    }

    /// How much is to be removed.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Begins to remove it, or to tell what would be if `acts` is false.
    pub fn removal(mut self, acts: bool) -> io::Result<Removal> {
        self.flush()?;
        let records = Backward { file: self.file, at: self.file_bytes, block: Vec::new() };
        Ok(Removal {
            root: self.root,
            acts,
            records,
            stays: None,
            parent: None,
            devices: BTreeMap::new(),
        })
    }
}

/// What was found is being removed: what is in a folder before that.
#[derive(Debug)]
pub struct Removal {
    root: Arc<Dir>,
    acts: bool,
    records: Backward,
    /// What stays, of what was looked at last.
    stays: Option<Vec<u8>>,
    /// The folder that is open.
    parent: Option<Parent>,
    /// File systems that something was removed from.
    devices: BTreeMap<u64, File>,
}

/// A folder that something is removed from.
#[derive(Debug)]
struct Parent {
    path: Vec<u8>,
    folder: OwnedFd,
    /// When it was modified: what is removed from it is not to show there.
    mtime: Timespec,
    is_changed: bool,
}

impl Drop for Parent {
    fn drop(&mut self) {
        if self.is_changed {
            let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
            let times = Timestamps { last_access: omit, last_modification: self.mtime };
            // Where it is not ours to set, it shows.
            rustix::fs::futimens(&self.folder, &times).ok();
        }
    }
}

/// What one step has done.
#[derive(Debug, Default)]
pub struct Stepped {
    /// What was removed, or would be.
    pub removed: Vec<Removed>,
    /// What could not be, and why.
    pub failed: Vec<(Vec<u8>, String)>,
}

/// Something to remove, as it was found.
struct Record {
    what: u8,
    kind: RemovedKind,
    mtime: (i64, u32),
    path: Vec<u8>,
}

impl Removal {
    /// Removes some more, but for what is `held` by others; `None` once all is removed, and durably.
    pub fn step(&mut self, held: impl Fn(&[u8]) -> bool) -> io::Result<Option<Stepped>> {
        let mut stepped = Stepped::default();
        for _ in 0..STEP {
            let Some(record) = self.records.next()? else {
                if stepped.removed.is_empty() && stepped.failed.is_empty() {
                    self.sync()?;
                    return Ok(None);
                }
                break;
            };
            let Record { what, kind, path, .. } = &record;
            let holds =
                self.stays.as_ref().is_some_and(|stays| super::below(path, stays).is_some());
            if *what == STAYS || holds {
                self.stays = Some(path.clone());
                continue;
            }
            match self.remove(&record, &held) {
                Ok(true) => stepped.removed.push(Removed { path: path.clone(), kind: *kind }),
                Ok(false) => {}
                Err(error) => {
                    stepped.failed.push((path.clone(), reason(&error)));
                    self.stays = Some(path.clone());
                }
            }
        }
        Ok(Some(stepped))
    }

    /// False if it is gone already.
    fn remove(&mut self, record: &Record, held: impl Fn(&[u8]) -> bool) -> io::Result<bool> {
        let Record { kind, mtime, path, .. } = record;
        if held(path) {
            return Err(io::Error::other("another transfer writes there: it stays"));
        }
        if !self.acts {
            return Ok(true);
        }
        let folder = super::folder_of(path);
        if self.parent.as_ref().is_none_or(|open| open.path != folder) {
            // The time of the one before is set back before another one is looked at.
            self.parent = None;
            self.parent = match open_parent(&self.root, folder) {
                Ok(opened) => Some(opened),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            };
        }
        let Some(open) = &mut self.parent else { return Ok(false) };
        let (parent, name) = (&open.folder, last_of(path));
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            stat => stat?,
        };
        if !is_as_found(&stat, *kind, *mtime) {
            return Err(io::Error::other("it was changed after it was found: it stays"));
        }
        let flags =
            if *kind == RemovedKind::Folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match rustix::fs::unlinkat(parent, name, flags) {
            Err(Errno::NOENT) => return Ok(false),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                return Err(io::Error::other("something has come into it: it stays"));
            }
            removed => removed?,
        }
        open.is_changed = true;
        let device = rustix::fs::fstat(parent)?.st_dev;
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.devices.entry(device) {
            vacant.insert(parent.try_clone()?.into());
        }
        Ok(true)
    }

    /// Makes it durable.
    fn sync(&mut self) -> io::Result<()> {
        self.parent = None;
        for file in std::mem::take(&mut self.devices).into_values() {
            match rustix::fs::syncfs(&file) {
                Err(Errno::NOSYS | Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) => {
                    rustix::fs::sync();
                }
                synced => synced.map_err(|error| {
                    let why = reason(&error.into());
                    io::Error::other(format!("what was removed may come back after a crash: {why}"))
                })?,
            }
        }
        Ok(())
    }
}

fn open_parent(root: &Dir, path: &[u8]) -> io::Result<Parent> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
    let folder = beneath::open(root, path, flags)?;
    let stat = rustix::fs::fstat(&folder)?;
    let mtime = Timespec { tv_sec: stat.st_mtime, tv_nsec: (stat.st_mtime_nsec as u32).into() };
    Ok(Parent { path: path.to_vec(), folder, mtime, is_changed: false })
}

/// Whether something is as it was when it was found. What is in a folder has changed that.
fn is_as_found(stat: &Stat, kind: RemovedKind, mtime: (i64, u32)) -> bool {
    let is_same_time = (stat.st_mtime, stat.st_mtime_nsec as u32) == mtime;
    let found = FileType::from_raw_mode(stat.st_mode);
    match kind {
        RemovedKind::Folder => found.is_dir(),
        RemovedKind::File { bytes } => {
            found.is_file() && is_same_time && u64::try_from(stat.st_size) == Ok(bytes)
        }
        RemovedKind::Other => !found.is_file() && !found.is_dir() && is_same_time,
    }
}

/// Records, the last one first.
#[derive(Debug)]
struct Backward {
    file: File,
    /// Where the block begins; what is before it is to be read.
    at: u64,
    block: Vec<u8>,
}

impl Backward {
    fn next(&mut self) -> io::Result<Option<Record>> {
        if self.at == 0 && self.block.is_empty() {
            return Ok(None);
        }
        let tail = self.take(TAIL_BYTES)?;
        let path_bytes = tail.as_slice().get_u32_le() as usize;
        let path = self.take(path_bytes)?;
        let head = self.take(HEAD_BYTES)?;
        let mut head = head.as_slice();
        let (what, kind, bytes) = (head.get_u8(), head.get_u8(), head.get_u64_le());
        let kind = match kind {
            0 => RemovedKind::File { bytes },
            1 => RemovedKind::Folder,
            _ => RemovedKind::Other,
        };
        Ok(Some(Record { what, kind, mtime: (head.get_i64_le(), head.get_u32_le()), path }))
    }

    /// The last bytes that were not taken yet.
    fn take(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        if self.block.len() < bytes {
            let more = (BLOCK_BYTES.max(bytes) as u64).min(self.at) as usize;
            let mut block = vec![0; more];
            self.at -= more as u64;
            self.file.read_exact_at(&mut block, self.at)?;
            block.append(&mut self.block);
            self.block = block;
        }
        let start = self.block.len().checked_sub(bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(self.block.split_off(start))
    }
}
