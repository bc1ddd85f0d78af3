//! Looking through the source: which files, folders and links there are, and what they are called at
//! the destination.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::own::{RESERVED, has_reserved};
use super::source::Unreadable;
use crate::event::Failure;
use crate::wire::{Meta, is_path_safe};

/// Something to move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub local: PathBuf,
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
    ctime: (i64, i64),
}

impl FileInfo {
    /// What `metadata` says about a file. Two that are equal mean that the file did not change.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            bytes: metadata.len(),
            meta: meta(metadata),
            sparse: metadata.blocks().saturating_mul(512) < metadata.len(),
            is_hollow: metadata.blocks() == 0,
            device: metadata.dev(),
            inode: metadata.ino(),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Its size and time of modification, for the receiver to know the content by from one run to the
    /// next: another one means other content.
    pub fn version(&self) -> [u8; 16] {
        let meta = self.meta;
        digest(&[self.bytes, meta.mtime_s.cast_unsigned(), meta.mtime_ns.into()])
    }

    /// Its inode and the time of its last change, which nobody can set back. Device numbers are left out,
    /// as they may change at every boot.
    pub fn state(&self) -> [u8; 16] {
        let (seconds, nanoseconds) = self.ctime;
        digest(&[self.inode, seconds.cast_unsigned(), nanoseconds.cast_unsigned()])
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
    let mut digest = [0; 16];
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    digest
}

/// Where one source starts, and how it was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    path: PathBuf,
    /// Empty if the contents are meant: a trailing slash, `.`, `..` or `/`.
    name: Vec<u8>,
    /// A single thing, not a folder.
    pub is_leaf: bool,
}

impl Start {
    /// Looks at what was typed. A trailing slash means a folder's contents, and follows a link.
    pub fn new(typed: &Path) -> io::Result<Self> {
        let contents = typed.as_os_str().as_bytes().ends_with(b"/");
        let metadata = if contents { fs::metadata(typed) } else { fs::symlink_metadata(typed) }?;
        let is_leaf = !metadata.is_dir();
        if contents && is_leaf {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let ends_in_dot = matches!(typed.as_os_str().as_bytes(), [.., b'/', b'.'] | b".");
        let name = match typed.file_name() {
            Some(name) if !contents && !ends_in_dot => name.as_bytes().to_vec(),
            _ => Vec::new(),
        };
        Ok(Self { path: typed.to_owned(), name, is_leaf })
    }

    /// Where it is, however it was spelt: a link that is sent as such is not followed.
    pub fn place(&self) -> PathBuf {
        let resolved = match self.path.file_name() {
            Some(name) if !self.name.is_empty() => {
                fs::canonicalize(super::parent(&self.path)).map(|parent| parent.join(name))
            }
            _ => fs::canonicalize(&self.path),
        };
        // What cannot be resolved may still be read.
        resolved.or_else(|_| std::path::absolute(&self.path)).unwrap_or_else(|_| self.path.clone())
    }

    /// Its name below the destination; empty for a folder's contents.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// What something below it is called below the destination.
    fn remote(&self, path: &Path) -> Vec<u8> {
        let below = path.strip_prefix(&self.path).unwrap_or(Path::new(""));
        join(&self.name, below.as_os_str().as_bytes())
    }
}

/// What was there and cannot be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Where it is.
    pub local: PathBuf,
    /// Its path below the destination.
    pub remote: Vec<u8>,
    /// Why.
    pub why: Unreadable,
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        let Lost { local, why: Unreadable { kind, reason }, .. } = lost;
        Self { kind, path: local.to_string_lossy().into_owned(), reason }
    }
}

/// Walks the sources in order and hands out what is there, until `emit` says that it has had enough.
pub fn scan(starts: &[Start], mut emit: impl FnMut(Result<Entry, Lost>) -> bool) {
    for start in starts {
        // The folder that a trailing slash means may be a link; links further down are sent as links.
        let walk = WalkDir::new(&start.path)
            .contents_first(true)
            .follow_links(false)
            .follow_root_links(start.name.is_empty());
        for found in walk {
            let found = match found {
                Ok(found) => entry(start, found.path(), found.path_is_symlink()),
                Err(error) => Err(walk_failure(start, &error)),
            };
            if !emit(found) {
                return;
            }
        }
    }
}

fn entry(start: &Start, path: &Path, is_symlink: bool) -> Result<Entry, Lost> {
    let remote = start.remote(path);
    let follow = path == start.path && start.name.is_empty();
    let found = kind(path, follow, is_symlink).and_then(|kind| {
        if !remote.is_empty() && !is_path_safe(&remote) {
            return Err(Unreadable::source("its path is too long to be sent"));
        }
        if has_reserved(&remote) { Err(Unreadable::source(RESERVED)) } else { Ok(kind) }
    });
    match found {
        Ok(kind) => Ok(Entry { local: path.to_owned(), remote, kind }),
        Err(why) => Err(Lost { local: path.to_owned(), remote, why }),
    }
}

fn kind(path: &Path, follow: bool, is_symlink: bool) -> Result<Kind, Unreadable> {
    let metadata = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) }?;
    Ok(if metadata.is_file() {
        Kind::File(FileInfo::of(&metadata))
    } else if metadata.is_dir() {
        Kind::Folder(meta(&metadata))
    } else if is_symlink && !follow {
        let target = fs::read_link(path)?;
        Kind::Symlink { meta: meta(&metadata), target: target.into_os_string().into_vec() }
    } else {
        return Err(Unreadable::source("neither a file, a folder nor a link: skipped"));
    })
}

/// Looks once more at something that had vanished or changed. Only a file can take its place: what is in
/// a folder was found at its time.
pub fn look_again(local: PathBuf, remote: Vec<u8>) -> Result<Entry, Lost> {
    match fs::symlink_metadata(&local) {
        Ok(metadata) if metadata.is_file() => {
            Ok(Entry { local, remote, kind: Kind::File(FileInfo::of(&metadata)) })
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

fn meta(metadata: &Metadata) -> Meta {
    Meta {
        mode: metadata.mode() & 0o7777,
        mtime_s: metadata.mtime(),
        mtime_ns: metadata.mtime_nsec() as u32,
    }
}

fn walk_failure(start: &Start, error: &walkdir::Error) -> Lost {
    let local = error.path().unwrap_or(&start.path).to_owned();
    let why = match error.io_error() {
        // The error itself is walkdir's.
        Some(error) => match error.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number).into(),
            None => Unreadable::source(super::reason(error)),
        },
        None => Unreadable::source(error.to_string()),
    };
    Lost { remote: start.remote(&local), local, why }
}

#[cfg(test)]
mod tests {
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
        let before = FileInfo::of(&fs::metadata(&path).unwrap());
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        // The clock that files are stamped with moves in steps of some milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(50));
        fs::write(&path, b"new").unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        let after = FileInfo::of(&fs::metadata(&path).unwrap());
        assert_eq!(after.meta, before.meta);
        assert!(!before.is_unchanged(&after));
        assert!(after.is_unchanged(&FileInfo::of(&fs::metadata(&path).unwrap())));
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
