//! Files under temporary names, until they are whole.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FileType, OFlags, copy_file_range};
use rustix::io::Errno;

use super::descriptors::{Held, Share};
use super::file::{FileId, open, replaced};
use super::lock::{Lock, lock_file};
use super::places::{Placed, Places, Placing};
use super::root::open_folder;
use crate::mutex::lock;

/// What is copied at a time where the system cannot do it, in bytes.
const COPIED_BYTES: u64 = 256 << 10;

/// A file under a temporary name, which goes with it unless the file is published or kept. It is
/// locked, so that it can be told from what a killed process has left behind.
///
/// Where many are open, one that is not written to at the moment may be closed, and is opened again when it
/// is: see `TempFile::close`.
#[derive(Debug)]
pub struct TempFile {
    temp_name: String,
    opened: Mutex<Option<Arc<Opened>>>,
    home: Option<Home>,
    /// Something was written that was not flushed since.
    is_dirty: AtomicBool,
    /// Tells it from what others may have put under its name.
    id: FileId,
    writing: Mutex<()>,
    published: AtomicBool,
    kept: AtomicBool,
    unwanted: AtomicBool,
    /// Why some of what was written to it may be lost.
    spoilt: OnceLock<io::Error>,
}

/// A temporary file that is open, and its folder.
#[derive(Debug)]
pub struct Opened {
    parent: Arc<Dir>,
    file: File,
    /// Counts them.
    held: Option<Held>,
}

impl Opened {
    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The permissions of the file that it replaces under `name`, if there is one.
    pub(super) fn replaced_mode(&self, name: &OsStr) -> Option<u32> {
        let found = rustix::fs::statat(&*self.parent, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        FileType::from_raw_mode(found.st_mode).is_file().then_some(found.st_mode & 0o777)
    }
}

/// Where a file is that may be closed, and who counts it while it is open.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) root: Arc<Dir>,
    /// The path of its folder.
    pub(super) folder: Vec<u8>,
    pub(super) share: Arc<Share>,
}

impl Home {
    /// Counts a file and its folder.
    fn hold(&self) -> Held {
        self.share.hold(2)
    }
}

impl TempFile {
    /// Creates an empty file that only its owner can read. A file that an earlier process has left under
    /// the same name is removed.
    pub fn create(parent: Arc<Dir>, temp_name: String) -> io::Result<Self> {
        let flags = OFlags::CREATE | OFlags::EXCL;
        let file = match open(&parent, &temp_name, flags) {
            Err(Errno::EXIST) => {
                remove_left(&parent, &temp_name)?;
                open(&parent, &temp_name, flags)?
            }
            opened => opened?,
        };
        lock_file(&file);
        Self::of(parent, temp_name, file)
    }

    /// Opens what an earlier process has left of a file of `bytes` bytes. `None` if that is not there,
    /// not of that size, or somebody else's.
    pub fn reopen(parent: Arc<Dir>, temp_name: String, bytes: u64) -> Option<Self> {
        let file = open(&parent, &temp_name, OFlags::empty()).ok()?;
        let found = file.metadata().ok()?;
        let is_usable = found.is_file() && found.len() == bytes && lock_file(&file) != Lock::Busy;
        if is_usable { Self::of(parent, temp_name, file).ok() } else { None }
    }

    fn of(parent: Arc<Dir>, temp_name: String, file: File) -> io::Result<Self> {
        Ok(Self {
            id: FileId::of(&file)?,
            temp_name,
            opened: Mutex::new(Some(Arc::new(Opened { parent, file, held: None }))),
            home: None,
            is_dirty: AtomicBool::new(false),
            writing: Mutex::default(),
            published: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            unwanted: AtomicBool::new(false),
            spoilt: OnceLock::new(),
        })
    }

    /// It is counted while it is open, and may be closed.
    #[must_use]
    pub(super) fn at(mut self, home: Home) -> Self {
        let opened = self.opened.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = opened.as_mut().and_then(Arc::get_mut) {
            opened.held = Some(home.hold());
        }
        self.home = Some(home);
        self
    }

    /// The file, which stays open as long as this is there. It is opened again if it was closed.
    pub fn open(&self) -> io::Result<Arc<Opened>> {
        let mut slot = lock(&self.opened);
        if let Some(opened) = &*slot {
            return Ok(Arc::clone(opened));
        }
        self.spoilt()?;
        let Some(home) = &self.home else { return Err(io::ErrorKind::NotFound.into()) };
        let parent = open_folder(&home.root, &home.folder)?;
        let file = open(&parent, &self.temp_name, OFlags::empty())?;
        if FileId::of(&file)? != self.id {
            return Err(replaced());
        }
        lock_file(&file);
        let opened = Arc::new(Opened { parent, file, held: Some(home.hold()) });
        *slot = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// Closes the file, if nobody works with it. What was written is flushed before: once it is closed, an
    /// error in that might go unnoticed.
    pub(super) fn close(&self) {
        let mut slot = lock(&self.opened);
        let Some(opened) = &*slot else { return };
        if self.home.is_none() || Arc::strong_count(opened) > 1 {
            return;
        }
        if self.is_dirty.swap(false, Relaxed)
            && let Err(error) = opened.file.sync_data()
        {
            self.spoil(error);
        }
        *slot = None;
    }

    /// What was written so far is about to be flushed.
    pub(super) fn flushing(&self) {
        self.is_dirty.store(false, Relaxed);
    }

    /// Writes all of `bytes` at `offset`. The system has a file written to by one thread at a time, and
    /// lets the others spin: here they sleep, which leaves their cores to who has something to do.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let opened = self.open()?;
        let _turn = lock(&self.writing);
        let written = opened.file.write_all_at(bytes, offset);
        self.is_dirty.store(true, Relaxed);
        written
    }

    /// Copies a range of another file to where it is there: without copying it where the file system can share it.
    pub(super) fn copy_at(&self, from: &File, range: Range<u64>) -> io::Result<()> {
        let opened = self.open()?;
        let _turn = lock(&self.writing);
        self.is_dirty.store(true, Relaxed);
        let mut at = range.start;
        while at < range.end {
            let (mut read_at, mut write_at) = (at, at);
            let len = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let (from, to) = (from, opened.file());
            let copied = copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), len);
            match copied {
                Ok(copied) if copied > 0 => at += copied as u64,
                // Not all file systems can, and not from each other; what is wrong otherwise shows here as well.
                _ => return copy_by_hand(from, to, at..range.end),
            }
        }
        Ok(())
    }

    /// The file stays under its temporary name after this process, for a later run to go on with.
    pub fn keep(&self) {
        self.kept.store(true, Relaxed);
    }

    /// Nobody is to go on with the file, whatever is said of it later.
    pub fn discard(&self) {
        self.unwanted.store(true, Relaxed);
    }

    /// Some of what was written to it may be lost, and the system tells so only once: it gets no name.
    pub fn spoil(&self, error: io::Error) {
        self.spoilt.get_or_init(|| error);
    }

    /// Why some of what was written to it may be lost, if that is so.
    pub fn spoilt(&self) -> io::Result<()> {
        self.spoilt.get().map_or(Ok(()), |error| Err(super::copy(error)))
    }

    /// Whether the file stays under its temporary name.
    pub fn is_kept(&self) -> bool {
        self.kept.load(Relaxed) && !self.unwanted.load(Relaxed) && !self.is_published()
    }

    /// Whether the file has its name.
    pub fn is_published(&self) -> bool {
        self.published.load(Relaxed)
    }

    /// Gives the file, of `bytes` bytes and with this hash, its path, unless it is there already. Returns
    /// the folder that it is in.
    pub(super) fn publish(
        &self,
        places: &Places,
        path: &[u8],
        bytes: u64,
        hash: &[u8; 32],
    ) -> io::Result<Arc<Dir>> {
        self.spoilt()?;
        let opened = self.open()?;
        let parent = &opened.parent;
        let (temp_name, id) = (self.temp_name.as_str(), self.id);
        let placing = Placing { parent, temp_name, path, id, file_bytes: Some(bytes), hash };
        match places.place(&placing)? {
            Placed::Now => self.published.store(true, Relaxed),
            Placed::Before => self.discard(),
        }
        Ok(Arc::clone(parent))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if self.is_published() || self.is_kept() {
            return;
        }
        let opened = lock(&self.opened).take();
        let parent = match (opened, &self.home) {
            (Some(opened), _) => Ok(Arc::clone(&opened.parent)),
            (None, Some(home)) => open_folder(&home.root, &home.folder),
            (None, None) => return,
        };
        let removed = parent.and_then(|parent| self.id.remove(&parent, &self.temp_name));
        if let Err(error) = removed {
            tracing::warn!(file = self.temp_name, %error, "cannot remove a temporary file");
        }
    }
}

fn copy_by_hand(from: &File, to: &File, range: Range<u64>) -> io::Result<()> {
    let mut at = range.start;
    let mut block = vec![0; (range.end - at).min(COPIED_BYTES) as usize];
    while at < range.end {
        let block = &mut block[..(range.end - at).min(COPIED_BYTES) as usize];
        from.read_exact_at(block, at)?;
        to.write_all_at(block, at)?;
        at += block.len() as u64;
    }
    Ok(())
}

/// Removes what an earlier process has left under a name that is this server's own. It was a file.
fn remove_left(parent: &Dir, name: &str) -> io::Result<()> {
    let left = match open(parent, name, OFlags::empty()) {
        Err(Errno::LOOP) => return Err(Errno::EXIST.into()),
        opened => opened?,
    };
    if !left.metadata()?.is_file() {
        return Err(Errno::EXIST.into());
    }
    if lock_file(&left) == Lock::Busy {
        return Err(Errno::TXTBSY.into());
    }
    FileId::of(&left)?.remove(parent, name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use cap_std::ambient_authority;

    use super::*;

    fn folder() -> (tempfile::TempDir, Arc<Dir>) {
        let dir = tempfile::tempdir().unwrap();
        let opened = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
        (dir, Arc::new(opened))
    }

    #[test]
    fn what_took_a_files_place_neither_gets_its_name_nor_is_removed() {
        let (dir, parent) = folder();
        let places = Places::new(&parent, None, Share::alone().ration()).unwrap();
        let temp = TempFile::create(parent, "temp".into()).unwrap();
        fs::rename(dir.path().join("temp"), dir.path().join("away")).unwrap();
        fs::write(dir.path().join("temp"), b"theirs").unwrap();
        let error = temp.publish(&places, b"name", 0, &[0; 32]).unwrap_err().to_string();
        assert!(error.contains("replaced"), "{error}");
        drop(temp);
        assert_eq!(fs::read(dir.path().join("temp")).unwrap(), b"theirs");
        assert!(!dir.path().join("name").exists());
    }

    #[test]
    fn only_a_file_that_was_left_makes_room_for_another() {
        let (dir, parent) = folder();
        let create = |name: &str| TempFile::create(Arc::clone(&parent), name.into());
        fs::write(dir.path().join("left"), b"left").unwrap();
        let left = create("left").unwrap().open().unwrap();
        assert_eq!(left.file().metadata().unwrap().len(), 0);
        fs::create_dir(dir.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("folder", dir.path().join("link")).unwrap();
        create("folder").unwrap_err();
        create("link").unwrap_err();
        assert!(dir.path().join("folder").is_dir() && dir.path().join("link").is_symlink());
        let held = create("held").unwrap();
        create("held").unwrap_err();
        held.publish(
            &Places::new(&parent, None, Share::alone().ration()).unwrap(),
            b"name",
            0,
            &[0; 32],
        )
        .unwrap();
    }

    #[test]
    fn a_file_that_was_closed_is_opened_again_unless_it_is_another() {
        let (dir, root) = folder();
        fs::create_dir(dir.path().join("a")).unwrap();
        let places = Places::new(&root, None, Share::alone().ration()).unwrap();
        let make = |name: &str| {
            let parent = open_folder(&root, b"a").unwrap();
            let home =
                Home { root: Arc::clone(&root), folder: b"a".to_vec(), share: Share::alone() };
            TempFile::create(parent, name.into()).unwrap().at(home)
        };
        let file = make("one");
        file.write_all_at(b"one", 0).unwrap();
        let opened = file.open().unwrap();
        file.close();
        assert!(lock(&file.opened).is_some(), "somebody works with it");
        drop(opened);
        file.close();
        assert!(lock(&file.opened).is_none());
        file.write_all_at(b"two", 3).unwrap();
        file.close();
        file.publish(&places, b"a/name", 0, &[0; 32]).unwrap();
        assert_eq!(fs::read(dir.path().join("a/name")).unwrap(), b"onetwo");

        let other = make("other");
        other.close();
        let path = dir.path().join("a/other");
        fs::rename(&path, dir.path().join("moved")).unwrap();
        fs::write(&path, b"somebody else's").unwrap();
        assert!(other.write_all_at(b"two", 0).is_err());
        assert!(other.publish(&places, b"name", 0, &[0; 32]).is_err());
        let closed = make("closed");
        closed.close();
        drop(closed);
        assert!(!dir.path().join("a/closed").exists());
    }
}
