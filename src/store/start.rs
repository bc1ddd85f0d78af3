//! Where sources start: what was typed, looked at and held.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::beneath;
use super::source_root::{SourcePath, SourceRoot};
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
