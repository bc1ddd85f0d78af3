//! What something at the source is, as it was when it was found.

use rustix::fs::{FileType, Stat, major, minor};

use crate::wire::{Meta, SourceState, SourceVersion, Special, XattrsDigest, half};

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File(FileInfo),
    /// A folder; its contents are entries of their own and come before it.
    Folder(Meta),
    /// A symbolic link, sent as such.
    Symlink {
        /// Its time.
        meta: Meta,
        /// What it says.
        target: Vec<u8>,
    },
    /// A device, a pipe or a socket, where that is asked for.
    Special {
        /// Mode and time.
        meta: Meta,
        /// What it is.
        what: Special,
    },
}

/// What was found beside that, where it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// What its extended attributes are known by, and how many bytes they have.
    pub xattrs: Option<(XattrsDigest, u32)>,
}

/// A regular file as it was when it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its size, in bytes.
    pub bytes: u64,
    /// Mode and time.
    pub meta: Meta,
    /// It occupies less than its size: it has holes.
    pub sparse: bool,
    /// It occupies nothing. That is so for files of holes alone, for some small ones, and for those that
    /// are made up as they are read, whose size may be anything.
    pub is_hollow: bool,
    /// The user whose it is.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// How many names it has.
    pub links: u32,
    device: u64,
    inode: u64,
    /// When it was last changed in any way, in seconds and nanoseconds: nobody can set this back.
    ctime: (i64, u32),
}

impl FileInfo {
    /// What `stat` says about a file. Two that are equal mean that the file did not change.
    pub fn of(stat: &Stat) -> Self {
        let (bytes, blocks) = (stat.st_size as u64, stat.st_blocks as u64);
        Self {
            bytes,
            meta: meta(stat),
            sparse: blocks.saturating_mul(512) < bytes,
            is_hollow: blocks == 0,
            uid: stat.st_uid,
            gid: stat.st_gid,
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            device: stat.st_dev,
            inode: stat.st_ino,
            ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
        }
    }

    /// Its size and time of modification, for the receiver to know the content by from one run to the
    /// next: another one means other content.
    pub fn version(&self) -> SourceVersion {
        let meta = self.meta;
        SourceVersion(digest(&[self.bytes, meta.mtime_s.cast_unsigned(), meta.mtime_ns.into()]))
    }

    /// Its inode and the time of its last change, which nobody can set back. Device numbers are left out,
    /// as they may change at every boot.
    pub fn state(&self) -> SourceState {
        let (seconds, nanoseconds) = self.ctime;
        SourceState(digest(&[self.inode, seconds.cast_unsigned(), nanoseconds.into()]))
    }

    /// Device and inode.
    pub fn id(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether `later` is the same file with the same content, as far as the system tells.
    pub fn is_unchanged(&self, later: &Self) -> bool {
        let told = |info: &Self| (info.device, info.inode, info.ctime);
        self.has_same_version(later) && told(self) == told(later)
    }

    /// Whether `later` is the same file, of which nothing has changed, be its size made up.
    pub fn has_same_state(&self, later: &Self) -> bool {
        let told = |info: &Self| (info.device, info.inode, info.ctime);
        told(self) == told(later)
    }

    /// Whether `later` has the same size and time of modification. Both can be put back, so that this
    /// alone does not mean that the content is the same; but a file of which only the rest changes most
    /// likely has the same content, under another name or with other permissions.
    pub fn has_same_version(&self, later: &Self) -> bool {
        let told = |info: &Self| (info.bytes, info.meta.mtime_s, info.meta.mtime_ns);
        told(self) == told(later)
    }

    /// The same file with another size.
    #[must_use]
    pub fn with_bytes(self, bytes: u64) -> Self {
        Self { bytes, ..self }
    }

    /// The same file with another mode and time.
    #[must_use]
    pub fn with_meta(self, meta: Meta) -> Self {
        Self { meta, ..self }
    }

    /// Whether `later` may be the same file, to which only something was appended.
    pub fn has_grown_into(&self, later: &Self) -> bool {
        let told = |info: &Self| (info.device, info.inode);
        told(self) == told(later) && later.bytes >= self.bytes
    }
}

/// What something is that is neither a file, a folder nor a link; `None` if it is none of what there is.
pub(super) fn special(stat: &Stat) -> Option<Special> {
    let device = (major(stat.st_rdev), minor(stat.st_rdev));
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => Some(Special::Fifo),
        FileType::Socket => Some(Special::Socket),
        FileType::CharacterDevice => Some(Special::CharDevice(device.0, device.1)),
        FileType::BlockDevice => Some(Special::BlockDevice(device.0, device.1)),
        _ => None,
    }
}

/// Mode and time.
pub(super) fn meta(stat: &Stat) -> Meta {
    Meta {
        mode: stat.st_mode & 0o7777,
        mtime_s: stat.st_mtime,
        mtime_ns: stat.st_mtime_nsec as u32,
    }
}

fn digest(numbers: &[u64]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for number in numbers {
        hasher.update(&number.to_be_bytes());
    }
    half(&hasher)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_change_shows_even_if_the_files_time_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"old").unwrap();
        let before = FileInfo::of(&rustix::fs::stat(&path).unwrap());
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        // The clock that files are stamped with moves in steps of some milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(50));
        fs::write(&path, b"new").unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        let after = FileInfo::of(&rustix::fs::stat(&path).unwrap());
        assert_eq!(after.meta, before.meta);
        assert!(!before.is_unchanged(&after));
        assert!(after.is_unchanged(&FileInfo::of(&rustix::fs::stat(&path).unwrap())));
    }
}
