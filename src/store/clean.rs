//! Removing what a server that was killed has left behind.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use cap_std::fs::Dir;
use rustix::fs::{FlockOperation, Mode, OFlags};

use super::commit::{TEMP_PREFIX, TEMP_SUFFIX};

/// Removes temporary files from `root` and all folders below, as long as `stop` is not set. A file
/// that somebody still writes to is locked and stays; so does one that was written to less than
/// `age_min` ago, as its file system may not know locks. Returns how many were removed.
pub fn clean(root: &Dir, age_min: Duration, stop: &AtomicBool) -> u64 {
    let mut removed = 0;
    let mut folders = vec![PathBuf::from(".")];
    while let Some(path) = folders.pop() {
        // What cannot be read is left as it is.
        let Ok(folder) = root.open_dir(&path) else { continue };
        let Ok(entries) = folder.entries() else { continue };
        for entry in entries.flatten() {
            if stop.load(Relaxed) {
                return removed;
            }
            let (name, kind) = (entry.file_name(), entry.file_type());
            if kind.is_ok_and(|kind| kind.is_dir()) {
                folders.push(path.join(name));
            } else if is_temp_name(&name)
                && let Some(_locked) = lock_deserted(&folder, &name, age_min)
                && folder.remove_file(&name).is_ok()
            {
                removed += 1;
            }
        }
    }
    removed
}

fn is_temp_name(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(TEMP_PREFIX.as_bytes()) && name.ends_with(TEMP_SUFFIX.as_bytes())
}

/// The file, locked, if it is old and nobody else has it locked.
fn lock_deserted(folder: &Dir, name: &OsStr, age_min: Duration) -> Option<File> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = rustix::fs::openat(folder, name, flags, Mode::empty()).ok()?.into();
    let found = file.metadata().ok()?;
    let age = found.modified().ok()?.elapsed().ok()?;
    let is_locked = || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    (found.is_file() && age >= age_min && is_locked()).then_some(file)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::time::SystemTime;

    use cap_std::ambient_authority;

    use super::*;
    use crate::store::commit::TempFile;

    #[test]
    fn what_nobody_writes_any_more_is_removed() {
        const AGE: Duration = Duration::from_secs(1_000);
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let root = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
        let old = |file: &File| file.set_modified(SystemTime::now() - 2 * AGE).unwrap();
        fs::create_dir_all(path("a/b")).unwrap();
        for name in [".qbulk-0-1.part", "a/b/.qbulk-0-2.part", "a/file.part", "a/.qbulk-0"] {
            old(&File::create(path(name)).unwrap());
        }
        File::create(path("a/.qbulk-0-3.part")).unwrap();
        let parent = Arc::new(root.open_dir("a").unwrap());
        let written = TempFile::create(parent, "0", 4).unwrap();
        old(written.file());

        assert_eq!(clean(&root, AGE, &AtomicBool::new(true)), 0);
        assert_eq!(clean(&root, AGE, &AtomicBool::new(false)), 2);
        for name in ["a/file.part", "a/.qbulk-0", "a/.qbulk-0-3.part", "a/.qbulk-0-4.part"] {
            assert!(path(name).exists(), "{name}");
        }
        assert!(!path(".qbulk-0-1.part").exists() && !path("a/b/.qbulk-0-2.part").exists());
    }
}
