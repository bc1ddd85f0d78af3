//! Looking what of a sender's is here already: one look at each, and nothing is read.
//!
//! As for a push, a link to a folder below the root is one, and a link at a path's end is not followed.

use std::fs::File;
use std::io;

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::descriptors::patiently;
use super::meta::Metas;
use super::object::Object;
use super::own::has_reserved;
use super::{folder_of, name_of, os};
use crate::wire::{Candidate, Likeness, There};

/// What is there of `files`, which are called by their paths below `root`. Those that are the same get their mode
/// and time by `metas`, if that is given; one that cannot be given them counts as not the same.
pub(super) fn look(
    root: &Dir,
    files: &[Candidate],
    likeness: Likeness,
    metas: Option<&Metas>,
) -> Vec<There> {
    // Those that follow each other are mostly in one folder.
    let mut at: Option<(&[u8], Option<Dir>)> = None;
    let look = |file: &'_ Candidate, folder: Option<&Dir>| match folder {
        Some(folder) if !has_reserved(&file.path) => {
            look_in(folder, file, likeness, metas).unwrap_or(There::NOTHING)
        }
        _ => There::NOTHING,
    };
    let mut there = Vec::with_capacity(files.len());
    for file in files {
        let path = folder_of(&file.path);
        if at.as_ref().is_none_or(|(folder, _)| *folder != path) {
            let opened = match path {
                b"" => patiently(|| root.try_clone()),
                folder => patiently(|| root.open_dir(os(folder))),
            };
            at = Some((path, opened.ok()));
        }
        let folder = at.as_ref().and_then(|(_, folder)| folder.as_ref());
        there.push(look(file, folder));
    }
    there
}

fn look_in(
    folder: &Dir,
    file: &Candidate,
    likeness: Likeness,
    metas: Option<&Metas>,
) -> io::Result<There> {
    if file.path.is_empty() {
        return Ok(There::OTHER_KIND); // the root
    }
    let name = name_of(&file.path);
    let stat = rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)?;
    if file.bytes.is_none() || !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Ok(There::OTHER_KIND);
    }
    let bytes = u64::try_from(stat.st_size).unwrap_or_default();
    let mtime = (stat.st_mtime, stat.st_mtime_nsec as u32);
    let there = There::file(file, bytes, mtime, likeness);
    if likeness.has_claims {
        let (Some(metas), Some(claim), true) = (metas, &file.claim, there.is_same()) else {
            return Ok(there);
        };
        // What cannot be looked at is to be sent: that tells why.
        let object = Object::at(folder, name.as_encoded_bytes())?;
        let differs = metas.differs(&object, file.meta, claim)?
            || likeness.size_only && mtime != (file.meta.mtime_s, file.meta.mtime_ns);
        return Ok(if differs { there.with_other_meta() } else { there });
    }
    let is_other = (stat.st_mode ^ file.meta.mode) & 0o777 != 0
        || likeness.size_only && mtime != (file.meta.mtime_s, file.meta.mtime_ns);
    match metas.filter(|_| there.is_same() && is_other) {
        None => Ok(there),
        Some(metas) => match adopt(folder, file, likeness, metas) {
            Ok(()) => Ok(there),
            // Then it is sent, and what stands in the way is told.
            Err(_) => Ok(there.with_other_time()),
        },
    }
}

fn adopt(folder: &Dir, file: &Candidate, likeness: Likeness, metas: &Metas) -> io::Result<()> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let name = name_of(&file.path);
    let open = || Ok(rustix::fs::openat(folder, &name, flags, Mode::empty())?);
    let opened: File = patiently(open)?.into();
    metas.replace(&opened, file.meta, likeness.size_only)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use cap_std::ambient_authority;

    use super::*;
    use crate::wire::{Meta, Skip};

    fn candidate(path: &str) -> Candidate {
        let meta = Meta { mode: 0o640, mtime_s: 1_000, mtime_ns: 5 };
        Candidate { path: path.into(), bytes: Some(4), meta, claim: None }
    }

    fn put(path: &Path, mtime: (u64, u32)) {
        fs::write(path, "data").unwrap();
        let file = File::options().write(true).open(path).unwrap();
        let at = SystemTime::UNIX_EPOCH + Duration::new(mtime.0, mtime.1);
        file.set_modified(at).unwrap();
    }

    #[test]
    fn each_file_is_found_as_it_is_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join("root").join(name);
        fs::create_dir_all(at("folder/deep")).unwrap();
        put(&dir.path().join("outside"), (1_000, 5));
        put(&at("same"), (1_000, 5));
        put(&at("folder/same"), (1_000, 5));
        put(&at("folder/deep/later"), (1_001, 0));
        symlink("same", at("link")).unwrap();
        symlink("folder", at("way")).unwrap();
        symlink("../outside", at("out")).unwrap();
        symlink("..", at("up")).unwrap();
        let root = Dir::open_ambient_dir(at(""), ambient_authority()).unwrap();
        let files: Vec<_> = [
            "same",
            "folder/same",
            "folder/none",
            "folder/deep/later",
            "folder/deep",
            "way/same",
            "none/same",
            "same/below",
            "link",
            "out",
            "up/outside",
        ]
        .map(candidate)
        .into();
        let plain = Likeness::default();
        let later = There::file(&candidate(""), 4, (1_001, 0), plain);
        let same = There::file(&candidate(""), 4, (1_000, 5), plain);
        let (kind, none) = (There::OTHER_KIND, There::NOTHING);
        let found = look(&root, &files, Likeness::default(), None);
        assert_eq!(found, [same, same, none, later, kind, same, none, none, kind, kind, none]);
        assert!(Skip { update: true, ..Skip::NOTHING }.skips(later, plain));
        let others: Vec<_> =
            files.into_iter().map(|file| Candidate { bytes: None, ..file }).collect();
        let is_there = look(&root, &others, Likeness::default(), None);
        let as_other = |there| if there == none { none } else { kind };
        assert_eq!(is_there, found.into_iter().map(as_other).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_the_same_gets_its_mode_and_else_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mtime) in [("same", (1_000, 5)), ("other", (999, 0))] {
            put(&dir.path().join(name), mtime);
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o604)).unwrap();
        }
        let root = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
        let files = ["same", "other"].map(candidate);
        let mode =
            |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o7777;
        look(&root, &files, Likeness::default(), None);
        assert_eq!([mode("same"), mode("other")], [0o604, 0o604]);
        let found = look(&root, &files, Likeness::default(), Some(&Metas::default()));
        assert_eq!(found.iter().map(|there| there.is_same()).collect::<Vec<_>>(), [true, false]);
        assert_eq!([mode("same"), mode("other")], [0o640, 0o604]);
    }
}
