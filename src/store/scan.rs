//! Looking through the source: which files, folders and links there are, and what they are called at
//! the destination.

use rustix::fs::{FileType, Stat};

use super::own::{RESERVED, has_reserved};
use super::source::Unreadable;
use super::source_root::SourcePath;
use super::start::Start;
use super::walk::{TOO_LONG, Walk};
use crate::event::Failure;
use crate::wire::{Meta, SourceState, SourceVersion, half, is_path_safe};

/// Something to move.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it is.
    pub local: SourcePath,
    /// Its path below the destination; empty for the contents of a source as a whole.
    pub remote: Vec<u8>,
    /// What it is.
    pub kind: Kind,
}

/// What an entry is.
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

fn digest(numbers: &[u64]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for number in numbers {
        hasher.update(&number.to_be_bytes());
    }
    half(&hasher)
}

/// What was there and cannot be looked at.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Where it is.
    pub local: SourcePath,
    /// Its path below the destination.
    pub remote: Vec<u8>,
    /// Why.
    pub why: Unreadable,
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        let Lost { local, why: Unreadable { kind, reason }, .. } = lost;
        Self { kind, path: local.to_string(), reason }
    }
}

/// Walks the sources in order and hands out what is there, until `emit` says that it has had enough.
pub fn scan(starts: &[Start], mut emit: impl FnMut(Result<Entry, Lost>) -> bool) {
    for start in starts {
        for (path, found) in Walk::new(start.root(), start.name()) {
            let local = start.at(path.clone());
            if !emit(entry(local, path, found)) {
                return;
            }
        }
    }
}

fn entry(
    local: SourcePath,
    remote: Vec<u8>,
    found: Result<Kind, Unreadable>,
) -> Result<Entry, Lost> {
    let found = found.and_then(|kind| {
        if !remote.is_empty() && !is_path_safe(&remote) {
            return Err(Unreadable::source(TOO_LONG));
        }
        if has_reserved(&remote) { Err(Unreadable::source(RESERVED)) } else { Ok(kind) }
    });
    match found {
        Ok(kind) => Ok(Entry { local, remote, kind }),
        Err(why) => Err(Lost { local, remote, why }),
    }
}

/// Looks once more at something that had vanished or changed. Only a file can take its place: what is in
/// a folder was found at its time.
pub fn look_again(local: SourcePath, remote: Vec<u8>) -> Result<Entry, Lost> {
    match local.stat() {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => {
            Ok(Entry { local, remote, kind: Kind::File(FileInfo::of(&stat)) })
        }
        Ok(_) => Err(Lost { local, remote, why: Unreadable::replaced() }),
        Err(error) => Err(Lost { local, remote, why: error.into() }),
    }
}

/// Two relative paths, one below the other; each may be empty.
pub fn join(parent: &[u8], child: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if parent.is_empty() || child.is_empty() { b"" } else { b"/" };
    [parent, slash, child].concat()
}

pub(super) fn meta(stat: &Stat) -> Meta {
    Meta {
        mode: stat.st_mode & 0o7777,
        mtime_s: stat.st_mtime,
        mtime_ns: stat.st_mtime_nsec as u32,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn names(typed: &Path) -> Vec<String> {
        let start = Start::new(typed).expect("there");
        let mut names = Vec::new();
        scan(&[start], |entry| {
            names.push(String::from_utf8(entry.expect("readable").remote).expect("UTF-8"));
            true
        });
        names.sort();
        names
    }

    #[test]
    fn a_trailing_slash_means_the_contents() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::write(tree.join("sub/file"), b"x").unwrap();
        assert_eq!(names(&tree), ["tree", "tree/sub", "tree/sub/file"]);
        assert_eq!(names(&tree.join("")), ["", "sub", "sub/file"]);
        assert_eq!(names(&tree.join(".")), ["", "sub", "sub/file"]);
        assert_eq!(names(&tree.join("sub/file")), ["file"]);
        assert!(Start::new(&tree.join("sub/file/")).is_err());
    }

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

    #[test]
    fn links_are_links_unless_a_slash_follows_the_one_that_was_typed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        fs::write(dir.path().join("real/file"), b"x").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("real", &link).unwrap();
        assert_eq!(names(&link), ["link"]);
        assert_eq!(names(&link.join("")), ["", "file"]);
    }
}
