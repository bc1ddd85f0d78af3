//! Removing what transfers that were not finished have left behind.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cap_std::fs::Dir;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::journal::JOURNAL_SUFFIX;
use super::lock::{Lock, lock_file};
use super::temp::{TEMP_PREFIX, TEMP_SUFFIX};

/// Where there are no locks, a file that was not written to for so long counts as left behind.
const UNLOCKED_AGE_MIN: Duration = Duration::from_secs(3_600);

/// Something that was left behind.
#[derive(Debug)]
pub struct Left<'a> {
    /// Its path below the root.
    pub path: &'a Path,
}

/// Removes unfinished files and journals from `root` and all folders below it, unless `decide` says
/// otherwise; `failed` is told what cannot be removed. What a running transfer writes to is locked and
/// stays; so does what was written to less than `age_min` ago. Returns on how many `decide` was asked,
/// less what could not be removed.
pub fn clean(
    root: &Dir,
    age_min: Duration,
    mut decide: impl FnMut(&Left<'_>) -> bool,
    mut failed: impl FnMut(&Left<'_>, io::Error),
) -> u64 {
    let mut found = 0;
    let mut folders = vec![PathBuf::new()];
    while let Some(path) = folders.pop() {
        let is_root = path.as_os_str().is_empty();
        let folder = if is_root { root.try_clone() } else { root.open_dir(&path) };
        // What cannot be read is left as it is.
        let Ok(folder) = folder else { continue };
        let Ok(entries) = folder.entries() else { continue };
        for entry in entries.flatten() {
            let (name, kind) = (entry.file_name(), entry.file_type());
            let path = path.join(&name);
            if kind.is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if is_temp_name(&name)
                && is_old(&folder, &name, age_min)
                && let Ok(_locked) = lock_deserted(&folder, &name)
            {
                let left = Left { path: &path };
                match decide(&left).then(|| folder.remove_file(&name)) {
                    Some(Err(error)) => failed(&left, error),
                    Some(Ok(())) | None => found += 1,
                }
            }
        }
    }
    found
}

fn is_temp_name(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(TEMP_PREFIX.as_bytes())
        && [TEMP_SUFFIX, JOURNAL_SUFFIX].iter().any(|suffix| name.ends_with(suffix.as_bytes()))
}

fn is_old(folder: &Dir, name: &OsStr, age_min: Duration) -> bool {
    let modified = folder.symlink_metadata(name).and_then(|found| found.modified());
    // What is from the future is as old as can be told.
    modified.is_ok_and(|at| at.into_std().elapsed().unwrap_or_default() >= age_min)
}

/// Locks a file that nobody works on. A link has no lock and is on its way to its name for no time.
fn lock_deserted(folder: &Dir, name: &OsStr) -> Result<Option<File>, Errno> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Err(Errno::LOOP) => return Ok(None),
        opened => File::from(opened?),
    };
    match lock_file(&file) {
        Lock::Taken => Ok(Some(file)),
        Lock::Unknown if is_old(folder, name, UNLOCKED_AGE_MIN) => Ok(Some(file)),
        Lock::Busy | Lock::Unknown => Err(Errno::WOULDBLOCK),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::time::SystemTime;

    use cap_std::ambient_authority;

    use super::*;
    use crate::store::temp::{TempFile, temp_name};

    #[test]
    fn what_nobody_writes_any_more_is_removed() {
        const AGE: Duration = Duration::from_secs(1_000);
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let root = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
        let old = |file: &File| file.set_modified(SystemTime::now() - 2 * AGE).unwrap();
        fs::create_dir_all(path("a/b")).unwrap();
        for name in [
            ".qbulk-0-1.part",
            ".qbulk-0.journal",
            "a/b/.qbulk-0-2.part",
            "a/file.part",
            "a/.qbulk-0",
        ] {
            old(&File::create(path(name)).unwrap());
        }
        File::create(path("a/.qbulk-0-3.part")).unwrap();
        let parent = Arc::new(root.open_dir("a").unwrap());
        let written = TempFile::create(parent, temp_name("0", 4)).unwrap();
        old(written.file());

        let removed = |remove: bool| clean(&root, AGE, |_| remove, |left, _| panic!("{left:?}"));
        assert_eq!(removed(false), 3);
        assert!(path(".qbulk-0-1.part").exists());
        assert_eq!(removed(true), 3);
        assert_eq!(removed(true), 0);
        for name in ["a/file.part", "a/.qbulk-0", "a/.qbulk-0-3.part", "a/.qbulk-0-4.part"] {
            assert!(path(name).exists(), "{name}");
        }
        assert!(!path(".qbulk-0-1.part").exists() && !path("a/b/.qbulk-0-2.part").exists());
    }
}
