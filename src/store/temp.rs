//! Files under temporary names, until they are whole.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::lock::{Lock, lock_file};
use crate::mutex::lock;

/// A file under a temporary name, which goes with it unless the file is published or kept. It is
/// locked, so that it can be told from what a killed process has left behind.
#[derive(Debug)]
pub struct TempFile {
    parent: Arc<Dir>,
    temp_name: String,
    file: File,
    /// Tells it from what others may have put under its name.
    id: FileId,
    writing: Mutex<()>,
    published: AtomicBool,
    kept: AtomicBool,
    unwanted: AtomicBool,
    /// Why some of what was written to it may be lost.
    spoilt: OnceLock<io::Error>,
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
            parent,
            temp_name,
            file,
            writing: Mutex::default(),
            published: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            unwanted: AtomicBool::new(false),
            spoilt: OnceLock::new(),
        })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes all of `bytes` at `offset`. The system has a file written to by one thread at a time, and
    /// lets the others spin: here they sleep, which leaves their cores to who has something to do.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let _turn = lock(&self.writing);
        self.file.write_all_at(bytes, offset)
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

    /// Gives the file its name. Returns the folder that it is in.
    pub fn publish(&self, name: &OsStr) -> io::Result<Arc<Dir>> {
        self.spoilt()?;
        self.id.check(&self.parent, &self.temp_name)?;
        self.parent.rename(&self.temp_name, &self.parent, name)?;
        self.published.store(true, Relaxed);
        Ok(Arc::clone(&self.parent))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.is_published()
            && !self.is_kept()
            && let Err(error) = self.id.remove(&self.parent, &self.temp_name)
        {
            tracing::warn!(file = self.temp_name, %error, "cannot remove a temporary file");
        }
    }
}

/// What a name leads to, whatever else may take that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// That of an open file or folder.
    pub fn of(file: &impl AsFd) -> io::Result<Self> {
        Ok(rustix::fs::fstat(file)?.into())
    }

    /// That of what is called `name` in `parent`, be it a link.
    pub fn at(parent: &Dir, name: &OsStr) -> io::Result<Self> {
        Ok(rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?.into())
    }

    /// An error if `name` leads to something else.
    pub fn check(&self, parent: &Dir, name: impl AsRef<OsStr>) -> io::Result<()> {
        if Self::at(parent, name.as_ref())? == *self {
            return Ok(());
        }
        Err(io::Error::other("what was written was replaced on the server before it had its name"))
    }

    /// Removes `name`, unless it leads to something else.
    pub fn remove(&self, parent: &Dir, name: impl AsRef<OsStr>) -> io::Result<()> {
        self.check(parent, name.as_ref())?;
        parent.remove_file(Path::new(name.as_ref()))
    }
}

impl From<Stat> for FileId {
    fn from(stat: Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
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

fn open(parent: &Dir, name: &str, flags: OFlags) -> Result<File, Errno> {
    let flags = flags | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
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
        let temp = TempFile::create(parent, "temp".into()).unwrap();
        fs::rename(dir.path().join("temp"), dir.path().join("away")).unwrap();
        fs::write(dir.path().join("temp"), b"theirs").unwrap();
        let error = temp.publish(OsStr::new("name")).unwrap_err().to_string();
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
        assert_eq!(create("left").unwrap().file().metadata().unwrap().len(), 0);
        fs::create_dir(dir.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("folder", dir.path().join("link")).unwrap();
        create("folder").unwrap_err();
        create("link").unwrap_err();
        assert!(dir.path().join("folder").is_dir() && dir.path().join("link").is_symlink());
        let held = create("held").unwrap();
        create("held").unwrap_err();
        held.publish(OsStr::new("name")).unwrap();
    }
}
