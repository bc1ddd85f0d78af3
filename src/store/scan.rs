//! Looking through the source: which files, folders and links there are, and what they are called at
//! the destination.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::own::{RESERVED, has_reserved};
use super::reason;
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
            sparse: metadata.blocks() * 512 < metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// What the receiver knows the content by, from one run to the next: another number means another
    /// file, or that this one was changed. Device numbers are left out, as they may change at every
    /// boot.
    pub fn source_id(&self) -> [u8; 16] {
        let (meta, ctime) = (self.meta, self.ctime);
        let numbers = [self.bytes, self.inode, meta.mtime_ns.into()]
            .into_iter()
            .chain([meta.mtime_s, ctime.0, ctime.1].map(i64::cast_unsigned));
        let mut hasher = blake3::Hasher::new();
        for number in numbers {
            hasher.update(&number.to_be_bytes());
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        id
    }

    /// Whether `later` is the same file with the same content, as far as the system tells.
    pub fn is_unchanged(&self, later: &Self) -> bool {
        let told = |info: &Self| {
            let mtime = (info.meta.mtime_s, info.meta.mtime_ns);
            (info.bytes, info.device, info.inode, mtime, info.ctime)
        };
        told(self) == told(later)
    }
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

    /// Its name below the destination; empty for a folder's contents.
    pub fn name(&self) -> &[u8] {
        &self.name
    }
}

/// Walks the sources in order and hands out what is there, until `emit` says that it has had enough.
pub fn scan(starts: &[Start], mut emit: impl FnMut(Result<Entry, Failure>) -> bool) {
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

fn entry(start: &Start, path: &Path, is_symlink: bool) -> Result<Entry, Failure> {
    let fail = |reason: String| Failure { path: path.to_string_lossy().into_owned(), reason };
    let is_root = path == start.path;
    let follow = is_root && start.name.is_empty();
    let metadata = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
    let metadata = metadata.map_err(|error| fail(reason(&error)))?;
    let kind = if metadata.is_file() {
        Kind::File(FileInfo::of(&metadata))
    } else if metadata.is_dir() {
        Kind::Folder(meta(&metadata))
    } else if is_symlink && !follow {
        let target = fs::read_link(path).map_err(|error| fail(reason(&error)))?;
        Kind::Symlink { meta: meta(&metadata), target: target.into_os_string().into_vec() }
    } else {
        return Err(fail("neither a file, a folder nor a link: skipped".into()));
    };
    let below = path.strip_prefix(&start.path).unwrap_or(Path::new(""));
    let remote = join(&start.name, below.as_os_str().as_bytes());
    if !remote.is_empty() && !is_path_safe(&remote) {
        return Err(fail("its path is too long to be sent".into()));
    }
    if has_reserved(&remote) {
        return Err(fail(RESERVED.into()));
    }
    Ok(Entry { local: path.to_owned(), remote, kind })
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

fn walk_failure(start: &Start, error: &walkdir::Error) -> Failure {
    let path = error.path().unwrap_or(&start.path).to_string_lossy().into_owned();
    let reason = match error.io_error() {
        Some(error) => reason(error),
        None => error.to_string(),
    };
    Failure { path, reason }
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
