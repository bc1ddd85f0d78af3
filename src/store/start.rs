//! Where sources start: what was typed, looked at and held.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::fs::Dir;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::source_root::{SourcePath, SourceRoot};
use super::{beneath, folder_of, last_of};
use crate::folder::parent;

/// Where one source starts, and how it was meant.
#[derive(Clone, Debug)]
pub struct Start {
    typed: PathBuf,
    /// The folder whose contents are meant, or the one that the source is in.
    root: Arc<SourceRoot>,
    /// Empty if the contents are meant: a trailing slash, `.`, `..` or `/`.
    name: Vec<u8>,
    /// A single thing, not a folder.
    pub is_leaf: bool,
}

impl Start {
    /// Looks at what was typed. A trailing slash means a folder's contents, and follows a link.
    pub fn new(typed: &Path) -> io::Result<Self> {
        Self::beside(&[], typed)
    }

    /// The same, for one more of several: those in the same folder hold it together.
    pub fn beside(others: &[Self], typed: &Path) -> io::Result<Self> {
        let bytes = typed.as_os_str().as_bytes();
        let is_contents = matches!(bytes, [.., b'/'] | [.., b'/', b'.'] | b".");
        let name = match typed.file_name() {
            Some(name) if !is_contents => name.as_bytes(),
            _ => b"",
        };
        let folder = &bytes[..bytes.len() - name.len()];
        if name.is_empty() && folder.is_empty() {
            return Err(Errno::NOENT.into());
        }
        let held = others.iter().rev().find(|other| other.root.name() == folder);
        let root = match held {
            Some(other) => Arc::clone(&other.root),
            None => Arc::new(SourceRoot::open(folder)?),
        };
        let found = beneath::stat(root.folder(), name)?;
        let is_leaf = !FileType::from_raw_mode(found.st_mode).is_dir();
        Ok(Self { typed: typed.to_owned(), root, name: name.to_vec(), is_leaf })
    }

    /// What is at `path` below `folder`, with no link followed. A trailing slash, and an empty path, mean a
    /// folder's contents. People call the folder `called`; empty for a path that begins below it.
    pub fn below(folder: &Dir, path: &[u8], called: &[u8]) -> io::Result<Self> {
        let trimmed = without_slashes(path);
        let is_contents = trimmed.len() < path.len() || path.is_empty();
        let (parent, name): (&[u8], &[u8]) =
            if is_contents { (trimmed, b"") } else { (folder_of(trimmed), last_of(trimmed)) };
        let root = Arc::new(SourceRoot::below(folder, parent, called)?);
        let found = beneath::stat(root.folder(), name)?;
        let is_leaf = !FileType::from_raw_mode(found.st_mode).is_dir();
        let typed = Path::new(OsStr::from_bytes(path)).to_owned();
        Ok(Self { typed, root, name: name.to_vec(), is_leaf })
    }

    /// Where it is, however it was spelt: a link that is sent as such is not followed.
    pub fn place(&self) -> PathBuf {
        let resolved = match self.typed.file_name() {
            Some(name) if !self.name.is_empty() => {
                std::fs::canonicalize(parent(&self.typed)).map(|parent| parent.join(name))
            }
            _ => std::fs::canonicalize(&self.typed),
        };
        // What cannot be resolved may still be read.
        resolved
            .or_else(|_| std::path::absolute(&self.typed))
            .unwrap_or_else(|_| self.typed.clone())
    }

    /// Its name below the destination; empty for a folder's contents.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The folder that it is below.
    pub(super) fn root(&self) -> &Arc<SourceRoot> {
        &self.root
    }

    /// What is called `path` below the destination.
    pub(super) fn at(&self, path: Vec<u8>) -> SourcePath {
        SourcePath::new(Arc::clone(&self.root), path)
    }
}

/// A path without the slashes that it ends with.
pub fn without_slashes(path: &[u8]) -> &[u8] {
    let slashes = path.iter().rev().take_while(|&&byte| byte == b'/').count();
    &path[..path.len() - slashes]
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use cap_std::ambient_authority;

    use super::*;

    #[test]
    fn what_is_below_a_folder_starts_there_and_no_link_leads_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root/a/b")).unwrap();
        fs::write(dir.path().join("root/a/file"), b"x").unwrap();
        fs::write(dir.path().join("file"), b"x").unwrap();
        symlink("..", dir.path().join("root/out")).unwrap();
        let root = Dir::open_ambient_dir(dir.path().join("root"), ambient_authority()).unwrap();
        for (path, name, is_leaf) in [
            ("", "", false),
            ("a", "a", false),
            ("a/", "", false),
            ("a/b", "b", false),
            ("a/file", "file", true),
            ("out", "out", true),
        ] {
            let start = Start::below(&root, path.as_bytes(), b"media").unwrap();
            assert_eq!((start.name(), start.is_leaf), (name.as_bytes(), is_leaf), "{path}");
            let whole = format!("media/{path}");
            let told = start.at(start.name().to_vec()).to_string();
            assert_eq!(told, whole.trim_end_matches('/'), "what fails is told as it was asked for");
        }
        for path in ["out/file", "out/", "a/file/", "none", "a/none/b", "../file"] {
            assert!(Start::below(&root, path.as_bytes(), b"").is_err(), "{path}");
        }
    }
}
