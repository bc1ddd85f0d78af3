//! Where things at the source are: at a path below a folder that is held open.
//!
//! Sources are in use while they are read, and anything may become a link meanwhile, a folder on the way to
//! a file as well. So whatever is found below a root is opened and looked at relative to it, and no link is
//! followed: nobody who can write there can have something else sent.

use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use rustix::fs::{OFlags, Stat};

use super::descriptors::patiently;
use super::object::Object;
use super::{beneath, join, last_of, shown};

/// A folder that is held open, and what people call it.
#[derive(Debug)]
pub struct SourceRoot {
    folder: Dir,
    /// Empty for the current folder.
    name: Vec<u8>,
}

impl SourceRoot {
    /// Opens the folder that somebody calls `name`, as they mean it: links in it are followed.
    pub fn open(name: &[u8]) -> io::Result<Self> {
        let path =
            if name.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(name)) };
        let folder = patiently(|| Dir::open_ambient_dir(path, ambient_authority()))?;
        Ok(Self { folder, name: name.to_vec() })
    }

    /// The folder at `path` below `folder`, which is called `called`, with no link followed.
    pub fn below(folder: &Dir, path: &[u8], called: &[u8]) -> io::Result<Self> {
        let opened = beneath::open(folder, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(Self { folder: Dir::from_std_file(opened.into()), name: join(called, path) })
    }

    /// What it is called.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Dir {
        &self.folder
    }
}

/// A path below a root; empty for the root itself.
#[derive(Clone, Debug)]
pub struct SourcePath {
    root: Arc<SourceRoot>,
    below: Vec<u8>,
}

impl SourcePath {
    /// What is at `below` below `root`.
    pub fn new(root: Arc<SourceRoot>, below: Vec<u8>) -> Self {
        Self { root, below }
    }

    /// What stands for standard input, which is nowhere.
    pub fn of_pipe() -> io::Result<Self> {
        Ok(Self { root: Arc::new(SourceRoot::open(b"")?), below: b"-".to_vec() })
    }

    /// What it ends with.
    pub fn name(&self) -> &OsStr {
        OsStr::from_bytes(last_of(&self.below))
    }

    /// Opens a file, without waiting if it has become a pipe.
    pub fn open(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(beneath::open(&self.root.folder, &self.below, flags)?.into())
    }

    /// Points at it, be it a link.
    pub(super) fn point(&self) -> io::Result<Object<'static>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        Ok(Object::Pointed(beneath::open(&self.root.folder, &self.below, flags)?))
    }

    /// How it is, be it a link.
    pub(super) fn stat(&self) -> io::Result<Stat> {
        beneath::stat(&self.root.folder, &self.below)
    }
}

/// As the user would write it.
impl Display for SourcePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { root, below } = self;
        let needs_slash = !matches!(*root.name, [] | [.., b'/']) && !below.is_empty();
        let slash: &[u8] = if needs_slash { b"/" } else { b"" };
        f.write_str(&shown(&[&root.name, slash, below].concat()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::buffers::Buffers;
    use crate::event::FailureKind;
    use crate::filter::Filter;
    use crate::store::compare::Wanted;
    use crate::store::kind::Kind;
    use crate::store::scan::{Entry, look_again, scan};
    use crate::store::source::{
        Holding, Part, ReadOptions, Sealed, SourceItem, SourceKind, confirm, prepare, read_small,
    };
    use crate::store::start::Start;

    /// A file in a folder, as it was found.
    fn found(typed: &Path) -> Entry {
        let mut found = Vec::new();
        scan(&[Start::new(typed).unwrap()], &Filter::default(), |entry| {
            found.push(entry.unwrap());
            true
        });
        found.into_iter().find(|entry| matches!(entry.kind, Kind::File(_))).unwrap()
    }

    #[test]
    fn what_has_become_a_link_after_it_was_found_is_not_read_through_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in ["outside/file", "one/in/file", "two/in/file"] {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), vec![7; 100]).unwrap();
        }
        let entries = [found(&at("one")), found(&at("two/"))];
        fs::rename(at("one/in"), at("away")).unwrap();
        symlink(at("outside"), at("one/in")).unwrap();
        fs::remove_file(at("two/in/file")).unwrap();
        symlink(at("outside/file"), at("two/in/file")).unwrap();
        let options = ReadOptions::default();
        for Entry { local, kind, .. } in entries {
            let Kind::File(info) = kind else { panic!("{kind:?}") };
            let changed = |kind: FailureKind| assert_eq!(kind, FailureKind::Changed, "{local}");
            let item = SourceItem::new(1, local.clone(), b"file".to_vec(), SourceKind::Found(kind));
            let item = Arc::new(item);
            for len in [info.bytes, info.bytes / 2] {
                let part = Part { item: Arc::clone(&item), offset: 0, len };
                let read = prepare(1, &[part], &Buffers::default(), options);
                assert!(read.prepared.content.is_empty() && read.whole.is_empty());
                read.failures.into_iter().for_each(|(_, why)| changed(why.kind));
            }
            let hash = *blake3::hash(&[7; 100]).as_bytes();
            let wanted = Wanted::default();
            assert!(Holding::new(&local, &info, vec![(0, info.bytes, hash)]).is_none());
            changed(read_small(&local, &info).unwrap_err().kind);
            let sealed = Sealed { item, hash, is_unsure: true, extra: None };
            changed(confirm(&sealed, options, &wanted.watch()).unwrap_err().kind);
            changed(look_again(local.clone(), b"file".to_vec()).unwrap_err().why.kind);
        }
    }

    #[test]
    fn a_source_stays_where_it_was_when_it_was_typed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("real/in")).unwrap();
        fs::write(at("real/in/file"), b"inside").unwrap();
        fs::create_dir_all(at("outside/in")).unwrap();
        fs::write(at("outside/in/file"), b"outside").unwrap();
        symlink("real", at("link")).unwrap();
        let entries = ["link/", "link/in", "link/in/file"].map(|typed| found(&at(typed)));
        fs::remove_file(at("link")).unwrap();
        symlink("outside", at("link")).unwrap();
        for Entry { local, .. } in entries {
            assert_eq!(io::read_to_string(local.open().unwrap()).unwrap(), "inside");
            assert_eq!(local.to_string(), at("link/in/file").to_str().unwrap());
        }
    }

    #[test]
    fn paths_are_told_as_they_were_typed() {
        for (typed, below, shown) in [
            ("", "tree/file", "tree/file"),
            ("./", "tree/file", "./tree/file"),
            ("a//", "tree", "a//tree"),
            (".", "file", "./file"),
            ("..", "file", "../file"),
            ("/", "etc", "/etc"),
            ("/tmp/.", "file", "/tmp/./file"),
            ("/tmp", "", "/tmp"),
        ] {
            let root = Dir::open_ambient_dir("/", ambient_authority()).unwrap();
            let root = Arc::new(SourceRoot { folder: root, name: typed.into() });
            assert_eq!(SourcePath::new(root, below.into()).to_string(), shown);
        }
    }
}
