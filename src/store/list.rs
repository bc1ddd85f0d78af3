//! Looking at what is below a folder that is held open, for somebody who takes it at their own pace.
//!
//! What is held of it is bounded, however much there is and however deep: a part of the names of each folder on
//! the way down, and where the rest of them begin. Nothing is open between two looks. No link is followed, and
//! a folder in whose place there is something else meanwhile is left.
//!
//! The names of a folder come in their order if they fit into what is held, and else as the file system has
//! them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::vec::IntoIter;

use cap_std::fs::Dir;
use rustix::fs::{FileType, OFlags, Stat};

use super::beneath;
use super::descriptors::patiently;
use super::file::FileId;
use super::kind::meta;
use super::own::is_reserved;
use super::{folder_of, join, last_of, reason};
use crate::wire::{Listed, ListedKind, PATH_BYTES_MAX};

/// Names that are held, in bytes: a folder's take half of what those above it leave.
const HELD_BYTES: usize = 512 << 10;
/// What a name takes beside its bytes.
const NAME_OVERHEAD: usize = 48;
/// Names that are read from a folder at a time, at most, be they of interest or not.
const READ_MAX: usize = 32 << 10;
/// Names that one look is about.
const LOOK_MAX: usize = 256;

/// What is at a path.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Missing,
    /// Something that is no folder.
    Single(Listed),
    /// A folder.
    Folder(Listing),
}

/// Something that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// What follows is in this folder, relative to where the listing began.
    Folder(Vec<u8>),
    /// Something in that folder.
    Entry(Listed),
    /// Something that cannot be looked at, or not be looked into.
    Unreadable {
        /// Its path, relative to where the listing began.
        path: Vec<u8>,
        /// Why.
        reason: String,
    },
}

/// A folder that is being listed.
#[derive(Debug)]
pub struct Listing {
    root: Arc<Dir>,
    /// Where it begins, below the root.
    start: Vec<u8>,
    /// What is in front of the paths that are told.
    called: Vec<u8>,
    is_recursive: bool,
    /// The folder that is being read, below `start`.
    path: Vec<u8>,
    /// It was told that what follows is in it.
    is_path_told: bool,
    /// The folders that are being read, each in the one before.
    levels: Vec<Level>,
    /// What their names take.
    held_bytes: usize,
}

/// A folder that is being read.
#[derive(Debug)]
struct Level {
    id: FileId,
    /// How much of the path is that of the folder above.
    parent_len: usize,
    names: Names,
}

/// Some of the names in a folder.
#[derive(Debug)]
struct Names {
    left: IntoIter<Vec<u8>>,
    bytes: usize,
    /// Where the next ones begin, unless these were the last.
    rest: Option<i64>,
}

/// Looks at what is at `path` below `root`; an empty one is the root itself.
pub fn list(root: Arc<Dir>, path: &[u8], is_recursive: bool) -> io::Result<Found> {
    let stat = match beneath::stat(&root, path) {
        Err(error) if is_missing(&error) => return Ok(Found::Missing),
        stat => stat?,
    };
    if !FileType::from_raw_mode(stat.st_mode).is_dir() {
        let folder = beneath::open(&root, folder_of(path), beneath::PASSED)?;
        return Ok(Found::Single(listed(&folder, last_of(path), &stat)?));
    }
    let mut listing = Listing {
        root,
        start: path.to_vec(),
        called: Vec::new(),
        is_recursive,
        path: Vec::new(),
        is_path_told: true,
        levels: Vec::new(),
        held_bytes: 0,
    };
    let folder = beneath::open(&listing.root, path, READ)?;
    listing.push(0, &folder)?;
    Ok(Found::Folder(listing))
}

/// What `root` itself is, as something that is called `name`.
pub fn folder_as(root: &Dir, name: &[u8]) -> io::Result<Listed> {
    Ok(Listed {
        name: name.to_vec(),
        meta: meta(&beneath::stat(root, b"")?),
        kind: ListedKind::Folder,
    })
}

/// How folders are opened whose names are read.
const READ: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NONBLOCK);

impl Listing {
    /// Paths are told with `name` in front of them, as one of the folders that are listed.
    #[must_use]
    pub fn called(self, name: Vec<u8>) -> Self {
        Self { called: name, is_path_told: false, ..self }
    }

    /// What comes next, a bounded amount of it; `None` if that was all.
    pub fn look(&mut self) -> Option<Vec<Seen>> {
        let mut seen = Vec::new();
        // The folder that is being read, once it is open.
        let mut open: Option<OwnedFd> = None;
        for _ in 0..LOOK_MAX {
            let Some(level) = self.levels.last_mut() else {
                return if seen.is_empty() { None } else { Some(seen) };
            };
            let name = level.names.left.next();
            if name.is_none() && level.names.rest.is_none() {
                self.pop();
                open = None;
                continue;
            }
            let folder = match open.take().map_or_else(|| self.reopen(), Ok) {
                Ok(folder) => folder,
                Err(error) => {
                    seen.push(unreadable(self.told(&self.path), &error));
                    self.pop();
                    continue;
                }
            };
            let Some(name) = name else {
                if let Err(error) = self.read_on(&folder) {
                    seen.push(unreadable(self.told(&self.path), &error));
                    self.pop();
                } else {
                    open = Some(folder);
                }
                continue;
            };
            open = self.visit(&folder, &name, &mut seen).or(Some(folder));
        }
        Some(seen)
    }

    /// Looks at something in the folder that is being read. Returns it if it is a folder that is read from
    /// now on.
    fn visit(&mut self, folder: &OwnedFd, name: &[u8], seen: &mut Vec<Seen>) -> Option<OwnedFd> {
        let found = beneath::stat(folder, name).and_then(|stat| listed(folder, name, &stat));
        let entry = match found {
            Ok(entry) => entry,
            Err(error) if is_missing(&error) => return None,
            Err(error) => {
                seen.push(self.unreadable_below(name, &error));
                return None;
            }
        };
        if !std::mem::replace(&mut self.is_path_told, true) {
            seen.push(Seen::Folder(self.told(&self.path)));
        }
        let is_entered = self.is_recursive && entry.kind == ListedKind::Folder;
        seen.push(Seen::Entry(entry));
        if !is_entered {
            return None;
        }
        let entered = self.enter(folder, name);
        entered.map_err(|error| seen.push(self.unreadable_below(name, &error))).ok()
    }

    fn enter(&mut self, folder: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
        let path = join(&self.path, name);
        if self.told(&path).len() > PATH_BYTES_MAX {
            return Err(io::Error::other(TOO_LONG));
        }
        let inner = beneath::open(folder, name, READ)?;
        let parent_len = self.path.len();
        self.push(parent_len, &inner)?;
        (self.path, self.is_path_told) = (path, false);
        Ok(inner)
    }

    fn push(&mut self, parent_len: usize, folder: &OwnedFd) -> io::Result<()> {
        let names = Names::read(folder, 0, self.room())?;
        self.held_bytes += names.bytes;
        self.levels.push(Level { id: FileId::of(folder)?, parent_len, names });
        Ok(())
    }

    fn pop(&mut self) {
        if let Some(Level { parent_len, names, .. }) = self.levels.pop() {
            self.held_bytes -= names.bytes;
            self.path.truncate(parent_len);
            self.is_path_told = false;
        }
    }

    /// Reads more of the names in `folder`, which is the one that is being read.
    fn read_on(&mut self, folder: &OwnedFd) -> io::Result<()> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let Some(rest) = level.names.rest else { return Ok(()) };
        self.held_bytes -= std::mem::take(&mut level.names.bytes);
        let names = Names::read(folder, rest, self.room())?;
        self.held_bytes += names.bytes;
        if let Some(level) = self.levels.last_mut() {
            level.names = names;
        }
        Ok(())
    }

    /// What the names of one more folder may take.
    fn room(&self) -> usize {
        HELD_BYTES.saturating_sub(self.held_bytes) / 2
    }

    /// The folder that is being read.
    fn reopen(&self) -> io::Result<OwnedFd> {
        let folder = beneath::open(&self.root, &join(&self.start, &self.path), READ)?;
        match self.levels.last() {
            Some(level) if FileId::of(&folder)? != level.id => {
                Err(io::Error::other("something else has taken its place"))
            }
            _ => Ok(folder),
        }
    }

    fn unreadable_below(&self, name: &[u8], error: &io::Error) -> Seen {
        let path = self.told(&join(&self.path, name));
        // The path of what has too long a one is not told either.
        let path = if path.len() > PATH_BYTES_MAX { self.told(&self.path) } else { path };
        unreadable(path, error)
    }

    /// A path as it is told.
    fn told(&self, path: &[u8]) -> Vec<u8> {
        join(&self.called, path)
    }
}

/// Why a folder is not looked into whose path is too long for any request.
const TOO_LONG: &str = "a path in it is longer than can be told";

impl Names {
    /// Reads names that take up to `room` bytes, and in any case one, beginning at `at`.
    fn read(folder: &OwnedFd, at: i64, room: usize) -> io::Result<Self> {
        let mut entries = patiently(|| Ok(rustix::fs::Dir::read_from(folder)?))?;
        entries.seek(at)?;
        let (mut names, mut bytes, mut next, mut read) = (Vec::new(), 0, at, 0);
        let rest = loop {
            let Some(entry) = entries.read() else { break None };
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            read += 1;
            if !matches!(name, b"." | b"..") && !is_reserved(name) {
                let more = name.len() + NAME_OVERHEAD;
                if bytes > 0 && bytes + more > room {
                    break Some(next);
                }
                bytes += more;
                names.push(name.to_vec());
            }
            next = entry.offset();
            if read >= READ_MAX {
                break Some(next);
            }
        };
        if at == 0 && rest.is_none() {
            names.sort_unstable();
        }
        Ok(Self { left: names.into_iter(), bytes, rest })
    }
}

/// What is called `name` in `folder`.
fn listed(folder: impl AsFd, name: &[u8], stat: &Stat) -> io::Result<Listed> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => ListedKind::File { bytes: stat.st_size as u64 },
        FileType::Directory => ListedKind::Folder,
        FileType::Symlink => ListedKind::Symlink { target: beneath::link_target(folder, name)? },
        _ => ListedKind::Other,
    };
    Ok(Listed { name: name.to_vec(), meta: meta(stat), kind })
}

fn unreadable(path: Vec<u8>, error: &io::Error) -> Seen {
    Seen::Unreadable { path, reason: reason(error) }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use cap_std::ambient_authority;
    use rustix::fs::Mode;

    use super::*;

    fn listing(dir: &Path, path: &str, is_recursive: bool) -> Listing {
        let root = Dir::open_ambient_dir(dir, ambient_authority()).unwrap();
        match list(Arc::new(root), path.as_bytes(), is_recursive).unwrap() {
            Found::Folder(listing) => listing,
            found => panic!("{found:?}"),
        }
    }

    /// Everything that a listing sees, by its path, and the most that it has held.
    fn all(mut listing: Listing) -> (Vec<Vec<u8>>, Vec<Seen>, usize) {
        let (mut paths, mut unreadable, mut held_max) = (Vec::new(), Vec::new(), 0);
        let mut folder = Vec::new();
        while let Some(seen) = listing.look() {
            held_max = held_max.max(listing.held_bytes);
            for seen in seen {
                match seen {
                    Seen::Folder(path) => folder = path,
                    Seen::Entry(entry) => paths.push(join(&folder, &entry.name)),
                    unread @ Seen::Unreadable { .. } => unreadable.push(unread),
                }
            }
        }
        (paths, unreadable, held_max)
    }

    #[test]
    fn what_is_held_is_bounded_however_many_names_there_are_and_all_are_seen_once() {
        let dir = tempfile::tempdir().unwrap();
        // As many as take all that may be held, of which a folder gets half; some are folders, so that the reading is resumed.
        let padding = "x".repeat(150);
        let mut want = BTreeSet::new();
        for number in 0..HELD_BYTES / 200 {
            let name = format!("{number}-{padding}");
            if number % 100 == 0 {
                fs::create_dir_all(dir.path().join(&name).join("in")).unwrap();
                want.insert(format!("{name}/in").into_bytes());
            } else {
                fs::write(dir.path().join(&name), b"").unwrap();
            }
            want.insert(name.into_bytes());
        }
        let (paths, unreadable, held_max) = all(listing(dir.path(), "", true));
        assert!(held_max > HELD_BYTES / 4 && held_max <= HELD_BYTES, "{held_max}");
        assert_eq!((paths.len(), unreadable.len()), (want.len(), 0));
        assert_eq!(paths.into_iter().collect::<BTreeSet<_>>(), want);
    }

    #[test]
    fn a_tree_of_any_depth_is_listed_and_what_is_in_few_names_is_in_their_order() {
        const DEPTH: usize = 200;
        let dir = tempfile::tempdir().unwrap();
        let root = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
        let mut folder = beneath::open(&root, b"", beneath::PASSED).unwrap();
        for _ in 0..DEPTH {
            for name in ["z", "a", "d"] {
                rustix::fs::mkdirat(&folder, name, Mode::RWXU).unwrap();
            }
            folder = beneath::open(&folder, b"d", beneath::PASSED).unwrap();
        }
        let (paths, unreadable, held_max) = all(listing(dir.path(), "", true));
        assert_eq!((paths.len(), unreadable), (3 * DEPTH, vec![]));
        assert!(held_max <= HELD_BYTES + DEPTH * (1 + NAME_OVERHEAD), "{held_max}");
        let first: Vec<_> = paths.iter().take(4).map(Vec::as_slice).collect();
        assert_eq!(first, [b"a" as &[u8], b"d", b"d/a", b"d/d"]);
        assert_eq!(paths.last().map(Vec::as_slice), Some(&b"z"[..]));
        let (paths, ..) = all(listing(dir.path(), "d/d", false));
        assert_eq!(paths, [b"a", b"d", b"z"]);
    }

    #[test]
    fn a_listing_stays_where_it_began_whatever_becomes_of_its_folders() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in ["outside/secret", "tree/one/file", "tree/one/two/file", "tree/three/file"] {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), b"").unwrap();
        }
        let mut walk = listing(&at("tree"), "", true);
        // It has read what is in `one`, and has not gone on yet.
        let folder = walk.reopen().unwrap();
        let one = walk.levels[0].names.left.next().unwrap();
        assert_eq!(one, b"one");
        assert!(walk.visit(&folder, &one, &mut Vec::new()).is_some());
        fs::rename(at("tree/one"), at("away")).unwrap();
        symlink("../outside", at("tree/one")).unwrap();
        fs::rename(at("tree/three"), at("three")).unwrap();
        symlink("../outside", at("tree/three")).unwrap();
        let (paths, unreadable, _) = all(walk);
        assert_eq!(paths, [b"three"]);
        let [Seen::Unreadable { path, .. }] = unreadable.as_slice() else {
            panic!("{unreadable:?}")
        };
        assert_eq!(path, b"one");
        let root = Dir::open_ambient_dir(at("tree"), ambient_authority()).unwrap();
        let error = list(Arc::new(root), b"three/secret", false).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(40), "ELOOP");
    }
}
