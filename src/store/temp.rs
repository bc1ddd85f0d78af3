//! Files under temporary names, until they are whole.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use cap_std::fs::Dir;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::lock::{Lock, lock_file};
use crate::mutex::lock;

/// What the names of temporary files begin and end with.
pub const TEMP_PREFIX: &str = ".qbulk-";
/// See [`TEMP_PREFIX`].
pub const TEMP_SUFFIX: &str = ".part";

/// The name under which something is made; `tag` tells transfers apart, and `item` what they make.
pub fn temp_name(tag: &str, item: impl std::fmt::Display) -> String {
    format!("{TEMP_PREFIX}{tag}-{item}{TEMP_SUFFIX}")
}

/// A file under a temporary name, which goes with it unless the file is published or kept. It is
/// locked, so that it can be told from what a killed process has left behind.
#[derive(Debug)]
pub struct TempFile {
    parent: Arc<Dir>,
    temp_name: String,
    file: File,
    writing: Mutex<()>,
    published: AtomicBool,
    kept: AtomicBool,
    unwanted: AtomicBool,
    /// Why some of what was written to it may be lost.
    spoilt: OnceLock<io::Error>,
}

impl TempFile {
    /// Creates an empty file that only its owner can read. What an earlier process has left under the
    /// same name is removed.
    pub fn create(parent: Arc<Dir>, temp_name: String) -> io::Result<Self> {
        let flags = OFlags::CREATE | OFlags::EXCL;
        let file = match open(&parent, &temp_name, flags) {
            Err(Errno::EXIST) => {
                let left = open(&parent, &temp_name, OFlags::empty());
                if left.is_ok_and(|left| lock_file(&left) == Lock::Busy) {
                    return Err(Errno::TXTBSY.into());
                }
                parent.remove_file(&temp_name)?;
                open(&parent, &temp_name, flags)?
            }
            opened => opened?,
        };
        lock_file(&file);
        Ok(Self::of(parent, temp_name, file))
    }

    /// Opens what an earlier process has left of a file of `bytes` bytes. `None` if that is not there,
    /// not of that size, or somebody else's.
    pub fn reopen(parent: Arc<Dir>, temp_name: String, bytes: u64) -> Option<Self> {
        let file = open(&parent, &temp_name, OFlags::empty()).ok()?;
        let found = file.metadata().ok()?;
        let is_usable = found.is_file() && found.len() == bytes && lock_file(&file) != Lock::Busy;
        is_usable.then(|| Self::of(parent, temp_name, file))
    }

    fn of(parent: Arc<Dir>, temp_name: String, file: File) -> Self {
        Self {
            parent,
            temp_name,
            file,
            writing: Mutex::default(),
            published: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            unwanted: AtomicBool::new(false),
            spoilt: OnceLock::new(),
        }
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
        self.parent.rename(&self.temp_name, &self.parent, name)?;
        self.published.store(true, Relaxed);
        Ok(Arc::clone(&self.parent))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.is_published()
            && !self.is_kept()
            && let Err(error) = self.parent.remove_file(&self.temp_name)
        {
            tracing::warn!(file = self.temp_name, %error, "cannot remove a temporary file");
        }
    }
}

fn open(parent: &Dir, name: &str, flags: OFlags) -> Result<File, Errno> {
    let flags = flags | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}
