//! Looking what a transfer would find where it goes: one look at each path, nothing is read and nothing is changed.
//!
//! As for a transfer, a link to a folder below the root is one, and a link at a path's end is not followed.

use std::io;

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FileType, Stat};

use super::descriptors::patiently;
use super::own::has_reserved;
use super::{folder_of, name_of, os};
use crate::wire::{Candidate, Expected, Likeness, Meta, Subject, There};

/// What is there of `all`, which are called by their paths below `root`.
pub fn foresee(root: &Dir, all: &[Expected], likeness: Likeness) -> Vec<There> {
    // Those that follow each other are mostly in one folder.
    let mut at: Option<(&[u8], Result<Dir, There>)> = None;
    let mut found = Vec::with_capacity(all.len());
    for expected in all {
        let path = folder_of(&expected.path);
        if at.as_ref().is_none_or(|(folder, _)| *folder != path) {
            at = Some((path, open(root, path)));
        }
        let there = match at.as_ref().map(|(_, folder)| folder) {
            _ if has_reserved(&expected.path) => There::BLOCKED,
            Some(Ok(folder)) => look(root, folder, expected, likeness),
            Some(Err(there)) => *there,
            None => There::NOTHING,
        };
        found.push(there);
    }
    found
}

/// The folder at `path`; what is in it if it cannot be opened.
fn open(root: &Dir, path: &[u8]) -> Result<Dir, There> {
    let opened = match path {
        b"" => patiently(|| root.try_clone()),
        path => patiently(|| root.open_dir(os(path))),
    };
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if can_be_made(root, path) => There::NOTHING,
        _ => There::BLOCKED,
    })
}

/// Whether the nearest of the folders at and above `path` that is there is one.
fn can_be_made(root: &Dir, mut path: &[u8]) -> bool {
    while !path.is_empty() {
        match root.symlink_metadata(os(path)) {
            Ok(found) if found.is_symlink() => {
                return root.metadata(os(path)).is_ok_and(|found| found.is_dir());
            }
            Ok(found) => return found.is_dir(),
            Err(_) => path = folder_of(path),
        }
    }
    true
}

fn look(root: &Dir, folder: &Dir, expected: &Expected, likeness: Likeness) -> There {
    let name = name_of(&expected.path);
    let stat = match rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOENT) => return There::NOTHING,
        Err(_) => return There::BLOCKED,
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    let other = if kind.is_dir() { There::OTHER_KIND.as_folder() } else { There::OTHER_KIND };
    match &expected.subject {
        Subject::Folder if kind.is_dir() => There::other(true).as_folder(),
        Subject::Folder if kind.is_symlink() => {
            let is_folder = root.metadata(os(&expected.path)).is_ok_and(|found| found.is_dir());
            if is_folder { There::other(true).as_folder() } else { other }
        }
        Subject::File { bytes, meta } if kind.is_file() => {
            file(expected, *bytes, *meta, &stat, likeness)
        }
        Subject::Symlink { target_hash } if kind.is_symlink() => {
            let target = rustix::fs::readlinkat(folder, &name, Vec::new());
            There::other(target.is_ok_and(|target| blake3::hash(target.as_bytes()) == *target_hash))
        }
        _ => other,
    }
}

fn file(expected: &Expected, bytes: u64, meta: Meta, stat: &Stat, likeness: Likeness) -> There {
    let candidate =
        Candidate { path: expected.path.clone(), bytes: Some(bytes), meta, claim: None };
    let there_bytes = u64::try_from(stat.st_size).unwrap_or_default();
    let mtime = (stat.st_mtime, stat.st_mtime_nsec as u32);
    let there = There::file(&candidate, there_bytes, mtime, likeness);
    let is_other = (stat.st_mode ^ meta.mode) & 0o777 != 0
        || likeness.size_only && mtime != (meta.mtime_s, meta.mtime_ns);
    if is_other { there.with_other_meta() } else { there }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use cap_std::ambient_authority;

    use super::*;

    #[test]
    fn what_is_in_the_way_is_told_from_what_is_replaced_and_from_what_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join("root").join(name);
        fs::create_dir_all(at("folder")).unwrap();
        fs::write(at("file"), "data").unwrap();
        fs::write(dir.path().join("outside"), "data").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("none", at("dangling")).unwrap();
        symlink("folder", at("way")).unwrap();
        symlink("..", at("up")).unwrap();
        let root = Dir::open_ambient_dir(at(""), ambient_authority()).unwrap();
        let meta = Meta { mode: 0o640, mtime_s: 1, mtime_ns: 0 };
        let file = Subject::File { bytes: 4, meta };
        let link = |says: &str| Subject::Symlink {
            target_hash: *blake3::hash(says.as_bytes()).as_bytes(),
        };
        let (new, blocked, other) = (There::NOTHING, There::BLOCKED, There::OTHER_KIND);
        let is_folder = There::other(true).as_folder();
        for (path, subject, want) in [
            ("folder", Subject::Folder, is_folder),
            ("way", Subject::Folder, is_folder),
            ("new", Subject::Folder, new),
            ("file", Subject::Folder, other),
            ("dangling", Subject::Folder, other),
            ("up", Subject::Folder, other),
            ("folder", file, other.as_folder()),
            ("link", file, other),
            ("new", file, new),
            ("new/deep/er", file, new),
            ("folder/new/er", file, new),
            ("way/new/er", file, new),
            ("file/new", file, blocked),
            ("file/new/er", file, blocked),
            ("dangling/new", file, blocked),
            ("up/outside", file, blocked),
            ("link", link("file"), There::other(true)),
            ("link", link("else"), There::other(false)),
            ("folder", link("file"), other.as_folder()),
            ("file", link("file"), other),
            ("a/.qbulk-x.part", file, blocked),
        ] {
            let all = [Expected { path: path.into(), subject }];
            assert_eq!(foresee(&root, &all, Likeness::default()), [want], "{path}, {subject:?}");
        }
        let all = [Expected { path: b"file".to_vec(), subject: file }];
        let found = foresee(&root, &all, Likeness::default())[0];
        assert!(found.is_same_size() && !found.is_same_time() && found.has_other_meta());
    }
}
