//! Walking a tree at the source: what is in a folder first, and then the folder, as it is by then.
//!
//! A folder is opened relative to the one that it was found in, and what is in it is looked at relative to
//! it: wherever its path leads by then, the walk stays in its tree. Few folders are open at a time, however
//! deep the tree is. The uppermost are closed once their names are read, and what is left to look at in them
//! is found again by its path below the root.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, OFlags};

use super::beneath::{self, PASSED};
use super::kind::{Beside, FileInfo, Kind, meta, special};
use super::object::Object;
use super::source_root::SourceRoot;
use super::unreadable::Unreadable;
use super::xattrs::Kinds;
use super::{join, last_of};
use crate::filter::Filter;
use crate::wire::{Extras, PATH_BYTES_MAX, XattrsDigest};

/// Folders that are open at the same time.
const OPEN_MAX: usize = 16;
/// Why a path cannot be sent that is too long for any server.
pub(super) const TOO_LONG: &str = "its path is too long to be sent";

/// What there is at a path below a root, and below that: path by path, as they are needed.
pub(super) struct Walk<'a> {
    root: &'a SourceRoot,
    /// Where to begin.
    first: Option<Vec<u8>>,
    /// The folders that are being read, each in the one before.
    levels: Vec<Level>,
    /// So many of them are closed.
    closed: usize,
    filter: &'a Filter,
    /// The file system that it began on, where it is to stay there.
    device: Option<u64>,
    extras: Extras,
    kinds: Kinds,
    beside: Beside,
}

/// A folder that is being read.
struct Level {
    path: Vec<u8>,
    /// What was read ahead.
    ahead: VecDeque<Result<Name, Unreadable>>,
    open: Option<Open>,
}

enum Open {
    /// There may be more names in it.
    Reading(Dir),
    /// All names were read.
    Read(OwnedFd),
}

struct Name {
    name: Vec<u8>,
    is_folder: bool,
}

impl<'a> Walk<'a> {
    /// Walks what is at `path` below `root`: a single name, or nothing for the root itself. What `filter` does not
    /// take is neither told of nor entered.
    pub(super) fn new(root: &'a SourceRoot, path: &[u8], filter: &'a Filter) -> Self {
        let first = Some(path.to_vec());
        Self {
            root,
            first,
            levels: Vec::new(),
            closed: 0,
            filter,
            device: None,
            extras: Extras::default(),
            kinds: Kinds::default(),
            beside: Beside::default(),
        }
    }

    /// Looks as well at this.
    pub(super) fn with(self, extras: Extras, is_privileged: bool) -> Self {
        Self { extras, kinds: Kinds::new(extras, is_privileged), ..self }
    }

    /// What was found beside what was told last.
    pub(super) fn beside(&self) -> Beside {
        self.beside
    }
}

impl Iterator for Walk<'_> {
    type Item = (Vec<u8>, Result<Kind, Unreadable>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (path, is_folder) = match self.levels.last_mut() {
                None => (self.first.take()?, false),
                Some(level) => match level.next() {
                    Some(Ok(Name { name, is_folder })) => (join(&level.path, &name), is_folder),
                    Some(Err(why)) => return Some((level.path.clone(), Err(why))),
                    None => return self.leave(),
                },
            };
            let found = if is_folder { None } else { Some(self.look(&path)) };
            let is_folder = matches!(found, None | Some(Ok(Kind::Folder(_))));
            let is_too_large = match &found {
                Some(Ok(Kind::File(info))) => !self.filter.takes_bytes(info.bytes),
                _ => false,
            };
            if is_too_large || !self.filter.takes(&path, is_folder) {
                continue;
            }
            match found {
                None | Some(Ok(Kind::Folder(_))) if path.len() > PATH_BYTES_MAX => {
                    return Some((path, Err(Unreadable::source(TOO_LONG))));
                }
                None | Some(Ok(Kind::Folder(_))) => self.enter(path),
                Some(found) => return Some((path, found)),
            }
        }
    }
}

impl Walk<'_> {
    fn enter(&mut self, path: Vec<u8>) {
        if self.levels.len() - self.closed >= OPEN_MAX {
            self.levels[self.closed].close();
            self.closed += 1;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let opened = self
            .folder()
            .and_then(|folder| beneath::open(folder, last_of(&path), flags))
            .and_then(|folder| {
                let is_entered = self.is_on_its_device(&folder)?;
                Ok(is_entered.then(|| Dir::new(folder)).transpose()?)
            });
        let (ahead, open) = match opened {
            Ok(folder) => (VecDeque::new(), folder.map(Open::Reading)),
            Err(error) => (VecDeque::from([Err(error.into())]), None),
        };
        self.levels.push(Level { path, ahead, open });
    }

    /// Whether what is in a folder is asked for, as far as file systems go.
    fn is_on_its_device(&mut self, folder: &OwnedFd) -> io::Result<bool> {
        if !self.filter.bounds.one_file_system {
            return Ok(true);
        }
        let device = rustix::fs::fstat(folder)?.st_dev;
        Ok(device == *self.device.get_or_insert(device))
    }

    /// All that is in a folder was seen: now comes the folder itself.
    fn leave(&mut self) -> Option<<Self as Iterator>::Item> {
        let Level { path, .. } = self.levels.pop()?;
        self.closed = self.closed.min(self.levels.len());
        let found = match self.look(&path) {
            Ok(Kind::File(_) | Kind::Symlink { .. } | Kind::Special { .. }) => {
                Err(Unreadable::replaced())
            }
            found => found,
        };
        Some((path, found))
    }

    /// Looks at something in the folder that is being read.
    fn look(&mut self, path: &[u8]) -> Result<Kind, Unreadable> {
        let (extras, kinds) = (self.extras, self.kinds);
        let (folder, name) = (self.folder()?, last_of(path));
        let stat = beneath::stat(folder, name)?;
        let mut beside = Beside::default();
        if kinds.is_any() {
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let xattrs = kinds.read(&Object::Pointed(beneath::open(folder, name, flags)?))?;
            let bytes: usize = xattrs.iter().map(|it| it.name.len() + it.value.len() + 16).sum();
            beside.xattrs = Some((XattrsDigest::of(&xattrs), bytes as u32));
        }
        let found = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Kind::File(FileInfo::of(&stat))),
            FileType::Directory => Ok(Kind::Folder(meta(&stat))),
            FileType::Symlink => {
                let target = beneath::link_target(folder, name)?;
                Ok(Kind::Symlink { meta: meta(&stat), target })
            }
            _ => match special(&stat) {
                Some(what) if if what.is_device() { extras.devices } else { extras.specials } => {
                    Ok(Kind::Special { meta: meta(&stat), what })
                }
                _ => Err(Unreadable::source("neither a file, a folder nor a link: skipped")),
            },
        };
        self.beside = beside;
        found
    }

    /// The folder that is being read; the root before there is one.
    fn folder(&mut self) -> io::Result<BorrowedFd<'_>> {
        let above = self.levels.len().saturating_sub(1);
        let Some(level) = self.levels.last_mut() else { return Ok(self.root.folder().as_fd()) };
        let open = match &mut level.open {
            Some(open) => open,
            closed @ None => {
                self.closed = self.closed.min(above);
                closed.insert(Open::Read(beneath::open(self.root.folder(), &level.path, PASSED)?))
            }
        };
        match &*open {
            Open::Reading(folder) => Ok(folder.fd()?),
            Open::Read(folder) => Ok(folder.as_fd()),
        }
    }
}

impl Level {
    fn next(&mut self) -> Option<Result<Name, Unreadable>> {
        let ahead = self.ahead.pop_front();
        ahead.or_else(|| match &mut self.open {
            Some(Open::Reading(folder)) => next_name(folder),
            Some(Open::Read(_)) | None => None,
        })
    }

    fn close(&mut self) {
        if let Some(Open::Reading(mut folder)) = self.open.take() {
            self.ahead.extend(std::iter::from_fn(|| next_name(&mut folder)));
        }
    }
}

fn next_name(folder: &mut Dir) -> Option<Result<Name, Unreadable>> {
    loop {
        let entry = match folder.read()? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(io::Error::from(error).into())),
        };
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            let is_folder = entry.file_type() == FileType::Directory;
            return Some(Ok(Name { name: name.to_vec(), is_folder }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use rustix::fs::{AtFlags, Mode};

    use super::*;

    fn root(path: &Path) -> SourceRoot {
        SourceRoot::open(path.as_os_str().as_encoded_bytes()).unwrap()
    }

    /// How many descriptors of folders below `path` this process has.
    fn open_below(path: &Path) -> usize {
        let fds = fs::read_dir("/proc/self/fd").unwrap();
        fds.filter(|fd| {
            let target = fs::read_link(fd.as_ref().unwrap().path());
            target.is_ok_and(|target| target.starts_with(path) && target != path)
        })
        .count()
    }

    #[test]
    fn a_tree_of_any_depth_is_walked_with_few_folders_open() {
        const DEPTH: usize = 2_000;
        let dir = tempfile::tempdir().unwrap();
        let (held, all) = (root(dir.path()), Filter::default());
        let mut path = Vec::new();
        for _ in 0..DEPTH {
            let folder = beneath::open(held.folder(), &path, PASSED).unwrap();
            for name in ["a", "d", "z"] {
                rustix::fs::mkdirat(&folder, name, Mode::RWXU).unwrap();
            }
            path = join(&path, b"d");
        }
        let (mut found, mut open_max) = (Vec::new(), 0);
        for (path, kind) in Walk::new(&held, b"", &all) {
            assert!(matches!(kind, Ok(Kind::Folder(_))), "{kind:?}");
            found.push(path);
            if found.len() % 100 == 0 {
                open_max = open_max.max(open_below(dir.path()));
            }
        }
        assert_eq!(found.len(), 1 + 3 * DEPTH);
        assert!(open_max > 1 && open_max <= OPEN_MAX, "{open_max}");
        // Contents come first: so they can be removed in this order.
        let root = found.pop();
        assert_eq!(root, Some(Vec::new()));
        for path in found {
            rustix::fs::unlinkat(held.folder(), path, AtFlags::REMOVEDIR).unwrap();
        }
    }

    #[test]
    fn what_is_too_deep_to_be_sent_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let (held, all) = (root(dir.path()), Filter::default());
        let name = "n".repeat(250);
        let mut folder = beneath::open(held.folder(), b"", PASSED).unwrap();
        for _ in 0..20 {
            rustix::fs::mkdirat(&folder, &*name, Mode::RWXU).unwrap();
            folder = beneath::open(&folder, name.as_bytes(), PASSED).unwrap();
        }
        let (sent, told): (Vec<_>, Vec<_>) =
            Walk::new(&held, name.as_bytes(), &all).partition(|(_, found)| found.is_ok());
        assert_eq!((sent.len(), told.len()), (16, 1));
        assert_eq!(told[0].1, Err(Unreadable::source(TOO_LONG)));
    }

    #[test]
    fn a_walk_stays_in_its_tree_whatever_becomes_of_its_folders() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for folder in ["outside", "tree/1/2", "tree/3", "tree/4"] {
            fs::create_dir_all(at(folder)).unwrap();
            fs::write(at(folder).join("file"), b"").unwrap();
        }
        fs::write(at("outside/secret"), b"").unwrap();
        let (held, all) = (root(dir.path()), Filter::default());
        let mut walk = Walk::new(&held, b"tree", &all);
        let first = walk.next().unwrap();
        for folder in ["tree/1", "tree/3", "tree/4"] {
            fs::rename(at(folder), at(folder).with_extension("away")).unwrap();
        }
        for folder in ["tree/1", "tree/3"] {
            symlink(at("outside"), at(folder)).unwrap();
        }
        fs::write(at("tree/4"), b"").unwrap();
        let found: Vec<_> = [first].into_iter().chain(walk).collect();
        for folder in ["tree/1", "tree/3", "tree/4"] {
            let told: Vec<_> = found.iter().filter(|(path, _)| path == folder.as_bytes()).collect();
            let is_told = |found: &Result<Kind, Unreadable>| {
                found.as_ref().is_err_and(|why| why.kind.is_live())
            };
            assert!(!told.is_empty() && told.iter().all(|(_, found)| is_told(found)), "{told:?}");
        }
        assert!(found.iter().all(|(path, _)| !path.ends_with(b"secret")), "{found:?}");
        assert!(matches!(found.last(), Some((path, Ok(_))) if path == b"tree"), "{found:?}");
    }
}
