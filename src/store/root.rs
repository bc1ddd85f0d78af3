//! The folder that a server serves, by its path.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::beneath::PASSED;
use super::descriptors::patiently;
use super::file::FileId;
use super::{name_of, os, reason};
use crate::mutex::lock;
use crate::text::logged;

/// A folder that is held open, and known by its path as well: what is there may be replaced, mounted over
/// or removed while it is served, and nobody would find what is written into the one that was there.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    held: Mutex<Arc<Dir>>,
}

/// Why a root cannot be used now, for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RootError(String);

impl Root {
    /// Opens the folder at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        // The folder to start from may itself be moved.
        let path = std::path::absolute(path)?;
        let held = Dir::open_ambient_dir(&path, ambient_authority())?;
        Ok(Self { path, held: Mutex::new(Arc::new(held)) })
    }

    /// The folder that is at its path now: the one that was there before or, if that has been replaced,
    /// the new one. Touches the disk.
    pub fn current(&self) -> Result<Arc<Dir>, RootError> {
        let mut held = lock(&self.held);
        let unusable = |error: io::Error| {
            let root = self.path.display();
            RootError(format!("the root folder {root} cannot be used any more: {}", reason(&error)))
        };
        let open = || Dir::open_ambient_dir(&self.path, ambient_authority());
        let found = patiently(open).map_err(unusable)?;
        let before = FileId::of(&*held).map_err(unusable)?;
        if FileId::of(&found).map_err(unusable)? == before {
            return Ok(Arc::clone(&held));
        }
        // A folder that was mounted and is not any more has another one below it, which is not meant.
        let was_mounted = is_mount(&held).map_err(unusable)?;
        if was_mounted && !is_mount(&found).map_err(unusable)? {
            return Err(RootError(format!(
                "what was mounted at the root folder {} is not there any more: mount it again, or start the \
                 server again to use the folder as it is",
                self.path.display()
            )));
        }
        tracing::warn!(
            root = logged(&self.path),
            "the root folder is another one now, which is used"
        );
        *held = Arc::new(found);
        Ok(Arc::clone(&held))
    }

    /// Whether the folder at its path is `folder`.
    pub fn is(&self, folder: &Dir) -> bool {
        let found = rustix::fs::stat(&self.path).map(FileId::from);
        matches!((found, FileId::of(folder)), (Ok(found), Ok(held)) if found == held)
    }
}

/// Whether a folder is the uppermost of something that is mounted, or was. Old kernels do not tell.
fn is_mount(folder: &Dir) -> io::Result<bool> {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
    let found = rustix::fs::statx(folder, "", AtFlags::EMPTY_PATH, StatxFlags::empty());
    match found {
        Ok(found) if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        _ => {
            // Then it is on another device than the folder that it is in, or is in none.
            let own = FileId::of(folder)?;
            let above = FileId::from(rustix::fs::statat(folder, "..", AtFlags::empty())?);
            Ok(own == above || own.device() != above.device())
        }
    }
}

/// The folder at `path` below `root`.
pub(super) fn open_folder(root: &Arc<Dir>, path: &[u8]) -> io::Result<Arc<Dir>> {
    if path.is_empty() {
        return Ok(Arc::clone(root));
    }
    patiently(|| root.open_dir(os(path))).map(Arc::new)
}

/// The folder at `path` below `root`, which is in `parent`: opened there, so that a long way costs a step and
/// not all of it. Only a link is followed from the root.
pub(super) fn open_step(root: &Arc<Dir>, parent: &Dir, path: &[u8]) -> io::Result<Arc<Dir>> {
    let flags = PASSED | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || Ok(rustix::fs::openat(parent, name_of(path), flags, Mode::empty())?);
    match patiently(open) {
        Ok(folder) => Ok(Arc::new(Dir::from_std_file(folder.into()))),
        // A link, or no folder.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOTDIR | Errno::LOOP)) => {
            open_folder(root, path)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_at_the_path_counts_whatever_was_there_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root");
        fs::create_dir(&path).unwrap();
        let root = Root::open(&path).unwrap();
        let first = root.current().unwrap();
        assert!(Arc::ptr_eq(&first, &root.current().unwrap()));
        assert!(root.is(&first));

        fs::rename(&path, dir.path().join("moved")).unwrap();
        let error = root.current().unwrap_err().to_string();
        assert!(error.contains("No such file") && error.contains("root"), "{error}");
        assert!(!root.is(&first));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("new"), b"").unwrap();
        let second = root.current().unwrap();
        assert!(second.exists("new") && root.is(&second) && !root.is(&first));

        fs::remove_dir_all(&path).unwrap();
        fs::rename(dir.path().join("moved"), &path).unwrap();
        assert!(!root.current().unwrap().exists("new"));
    }
}
