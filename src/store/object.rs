//! One thing on the disk, by its descriptor: whatever takes its name meanwhile, what is done is done to it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use cap_std::fs::Dir;
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Stat, Timestamps, Uid, XattrFlags, fgetxattr, flistxattr,
    fremovexattr, fsetxattr, getxattr, listxattr, removexattr, setxattr,
};
use rustix::io::Errno;

use super::beneath;

/// What lists of attributes, and values, are read into at first, and at most.
const BUFFER_BYTES: usize = 1 << 10;
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Something that is held.
#[derive(Debug)]
pub(super) enum Object<'a> {
    /// It is open, to be read or written.
    Open(BorrowedFd<'a>),
    /// It is only pointed at, as a link or a device is, which nobody opens.
    Pointed(OwnedFd),
}

impl<'a> Object<'a> {
    /// What is open.
    pub(super) fn open(fd: &'a impl AsFd) -> Self {
        Self::Open(fd.as_fd())
    }

    /// What is called `name` in `parent`, be it a link.
    pub(super) fn at(parent: &Dir, name: &[u8]) -> io::Result<Self> {
        Ok(Self::Pointed(beneath::open(parent, name, OFlags::PATH | OFlags::NOFOLLOW)?))
    }

    pub(super) fn stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(self.fd())?)
    }

    pub(super) fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        let done = match self {
            Self::Open(fd) => rustix::fs::fchown(fd, uid, gid),
            Self::Pointed(fd) => rustix::fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH),
        };
        Ok(done?)
    }

    pub(super) fn chmod(&self, mode: u32) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        let done = match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, mode),
            Self::Pointed(fd) => rustix::fs::chmodat(CWD, path(fd), mode, AtFlags::empty()),
        };
        Ok(done?)
    }

    pub(super) fn set_times(&self, times: &Timestamps) -> io::Result<()> {
        let done = match self {
            Self::Open(fd) => rustix::fs::futimens(fd, times),
            Self::Pointed(fd) => rustix::fs::utimensat(CWD, path(fd), times, AtFlags::empty()),
        };
        Ok(done?)
    }

    /// The names of its extended attributes; none where there cannot be any.
    pub(super) fn xattr_names(&self) -> io::Result<Vec<Vec<u8>>> {
        let list = read(|buffer| match self {
            Self::Open(fd) => flistxattr(fd, buffer),
            Self::Pointed(fd) => listxattr(path(fd), buffer),
        });
        let list = match list {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Vec::new(),
            list => list?,
        };
        let names = list.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    /// The value of one; `None` if it has none of that name.
    pub(super) fn xattr(&self, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let value = read(|buffer| match self {
            Self::Open(fd) => fgetxattr(fd, name, buffer),
            Self::Pointed(fd) => getxattr(path(fd), name, buffer),
        });
        match value {
            Err(Errno::NODATA) => Ok(None),
            value => Ok(Some(value?)),
        }
    }

    pub(super) fn set_xattr(&self, name: &[u8], value: &[u8]) -> io::Result<()> {
        let flags = XattrFlags::empty();
        let done = match self {
            Self::Open(fd) => fsetxattr(fd, name, value, flags),
            Self::Pointed(fd) => setxattr(path(fd), name, value, flags),
        };
        Ok(done?)
    }

    pub(super) fn remove_xattr(&self, name: &[u8]) -> io::Result<()> {
        let removed = match self {
            Self::Open(fd) => fremovexattr(fd, name),
            Self::Pointed(fd) => removexattr(path(fd), name),
        };
        match removed {
            Err(Errno::NODATA) => Ok(()),
            removed => Ok(removed?),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Open(fd) => *fd,
            Self::Pointed(fd) => fd.as_fd(),
        }
    }
}

/// Leads to what a descriptor points at and to nothing else, be it a link.
fn path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn read(get: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match get(&mut buffer) {
            Err(Errno::RANGE) if buffer.len() < BUFFER_BYTES_MAX => {
                buffer.resize(BUFFER_BYTES_MAX, 0);
            }
            got => {
                buffer.truncate(got?);
                return Ok(buffer);
            }
        }
    }
}
