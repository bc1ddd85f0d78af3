//! Files and folders that are told from others by what they are, and not by their names.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::descriptors::patiently;
use super::meta::insist;

/// What a name leads to, whatever else may take that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// That of an open file or folder.
    pub(super) fn of(file: &impl AsFd) -> io::Result<Self> {
        Ok(rustix::fs::fstat(file)?.into())
    }

    /// That of what is called `name` in `parent`, be it a link.
    pub(super) fn at(parent: &Dir, name: &OsStr) -> io::Result<Self> {
        Ok(rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?.into())
    }

    /// The device that it is on.
    pub(super) fn device(&self) -> u64 {
        self.device
    }

    /// Its inode.
    pub(super) fn inode(&self) -> u64 {
        self.inode
    }

    /// An error if `name` leads to something else.
    pub(super) fn check(&self, parent: &Dir, name: impl AsRef<OsStr>) -> io::Result<()> {
        if Self::at(parent, name.as_ref())? == *self {
            return Ok(());
        }
        Err(replaced())
    }

    /// Removes `name`, unless it leads to something else.
    pub(super) fn remove(&self, parent: &Dir, name: impl AsRef<OsStr>) -> io::Result<()> {
        self.check(parent, name.as_ref())?;
        insist(parent, || parent.remove_file(Path::new(name.as_ref())))
    }
}

impl From<Stat> for FileId {
    fn from(stat: Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// Why what was written is given up.
pub(super) fn replaced() -> io::Error {
    io::Error::other("what was written was replaced on the server before it had its name")
}

/// Opens a file of the server's own for reading and writing, once there is a descriptor for it.
pub(super) fn open(parent: &Dir, name: &str, flags: OFlags) -> Result<File, Errno> {
    let flags = flags | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = patiently(|| Ok(rustix::fs::openat(parent, name, flags, mode)?));
    file.map(File::from).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
