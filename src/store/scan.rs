//! Looking through the source: which files, folders and links there are, and what they are called at
//! the destination.

use rustix::fs::FileType;

use super::kind::{Beside, FileInfo, Kind};
use super::own::{RESERVED, has_reserved};
use super::reason;
use super::source_root::SourcePath;
use super::start::Start;
use super::unreadable::Unreadable;
use super::walk::{TOO_LONG, Walk};
use crate::event::Failure;
use crate::filter::Filter;
use crate::wire::{Extras, is_path_safe};

/// Something to move.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it is.
    pub local: SourcePath,
    /// Its path below the destination; empty for the contents of a source as a whole.
    pub remote: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// What else is asked for.
    pub beside: Beside,
}

/// What is looked at beside what things are.
#[derive(Clone, Copy, Debug, Default)]
pub struct LookFor {
    /// Metadata, and what is neither file, folder nor link.
    pub extras: Extras,
    /// Attributes that are root's as well.
    pub is_privileged: bool,
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

/// Walks the sources in order and hands out what is there and `filter` takes, until `emit` says that it has had
/// enough. What is listed there and is not found is lost.
pub fn scan(starts: &[Start], filter: &Filter, emit: impl FnMut(Result<Entry, Lost>) -> bool) {
    scan_for(starts, filter, LookFor::default(), emit);
}

/// The same, with what else is looked for.
pub fn scan_for(
    starts: &[Start],
    filter: &Filter,
    LookFor { extras, is_privileged }: LookFor,
    mut emit: impl FnMut(Result<Entry, Lost>) -> bool,
) {
    for start in starts {
        let walk = Walk::new(start.root(), start.name(), filter);
        let mut walk = walk.with(extras, is_privileged);
        while let Some((path, found)) = walk.next() {
            let local = start.at(path.clone());
            if !emit(entry(local, path, found, walk.beside())) {
                return;
            }
        }
        for path in filter.wanted() {
            let local = start.at(path.to_vec());
            // Whatever else keeps it from being sent was asked for.
            if let Err(error) = local.stat() {
                let why = Unreadable::source(reason(&error));
                if !emit(Err(Lost { local, remote: path.to_vec(), why })) {
                    return;
                }
            }
        }
    }
}

fn entry(
    local: SourcePath,
    remote: Vec<u8>,
    found: Result<Kind, Unreadable>,
    beside: Beside,
) -> Result<Entry, Lost> {
    let found = found.and_then(|kind| {
        if !remote.is_empty() && !is_path_safe(&remote) {
            return Err(Unreadable::source(TOO_LONG));
        }
        if has_reserved(&remote) { Err(Unreadable::source(RESERVED)) } else { Ok(kind) }
    });
    match found {
        Ok(kind) => Ok(Entry { local, remote, kind, beside }),
        Err(why) => Err(Lost { local, remote, why }),
    }
}

/// Looks once more at something that had vanished or changed. Only a file can take its place: what is in
/// a folder was found at its time.
pub fn look_again(local: SourcePath, remote: Vec<u8>) -> Result<Entry, Lost> {
    match local.stat() {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => {
            let kind = Kind::File(FileInfo::of(&stat));
            Ok(Entry { local, remote, kind, beside: Beside::default() })
        }
        Ok(_) => Err(Lost { local, remote, why: Unreadable::replaced() }),
        Err(error) => Err(Lost { local, remote, why: error.into() }),
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
        scan(&[start], &Filter::default(), |entry| {
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
