//! The folders that a transfer's files are in.
//!
//! Every path is opened relative to the root's descriptor and cannot lead out of it. Folders are made
//! when something is to be in them, and get their modes and times at the end.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Mutex};

use cap_std::fs::Dir;
use rustix::fs::Mode;
use rustix::io::Errno;

use super::commit::Committer;
use super::descriptors::{Held, Share};
use super::meta::{default_folder_mode, set_meta, set_mode};
use super::own::{RESERVED, has_reserved};
use super::systems::{Systems, readable};
use super::tally::Tally;
use super::temp::open_folder;
use super::{folder_of, name_of, os};
use crate::mutex::lock;
use crate::wire::Meta;

/// What the folders' paths may take, in bytes, while their modes and times wait for the end.
const FOLDER_BYTES_MAX: usize = 64 << 20;
/// Open folders that are kept for the next file.
const OPEN_MAX: usize = 128;

/// The folders below a root, as far as a transfer needs them.
#[derive(Debug)]
pub(super) struct Folders {
    root: Arc<Dir>,
    systems: Arc<Systems>,
    committer: Arc<Committer>,
    tally: Arc<Tally>,
    share: Arc<Share>,
    /// Those that were used last.
    open: Mutex<HashMap<Vec<u8>, OpenFolder>>,
    unfinished: Mutex<Unfinished>,
}

/// A folder that is open, and counted.
type OpenFolder = (Arc<Dir>, Held);

/// Folders whose modes are not final yet. Those without a [`Meta`] were made for what is in them.
#[derive(Debug, Default)]
struct Unfinished {
    metas: HashMap<Vec<u8>, Option<Meta>>,
    path_bytes: usize,
    is_full: bool,
}

impl Folders {
    /// None yet below `root`. `committer` makes the names of new ones durable; `tally` is told of what
    /// fails.
    pub(super) fn new(
        root: Arc<Dir>,
        systems: Arc<Systems>,
        committer: Arc<Committer>,
        tally: Arc<Tally>,
        share: Arc<Share>,
    ) -> Self {
        let (open, unfinished) = (Mutex::default(), Mutex::default());
        Self { root, systems, committer, tally, share, open, unfinished }
    }

    /// Closes those that are kept for the next file.
    pub(super) fn close(&self) {
        lock(&self.open).clear();
    }

    /// Makes a folder that is to have `meta` at the end.
    pub(super) fn make(&self, path: &[u8], meta: Meta) -> io::Result<()> {
        if path.is_empty() {
            return Ok(()); // the root is the server's own
        }
        not_reserved(path)?;
        self.folder(path)?;
        self.remember(path, Some(meta));
        Ok(())
    }

    /// Notes a folder whose mode and time are set at the end.
    fn remember(&self, path: &[u8], meta: Option<Meta>) {
        let mut unfinished = lock(&self.unfinished);
        if let Some(known) = unfinished.metas.get_mut(path) {
            *known = meta.or(*known);
        } else if unfinished.path_bytes + path.len() <= FOLDER_BYTES_MAX {
            unfinished.path_bytes += path.len();
            unfinished.metas.insert(path.to_vec(), meta);
        } else if !std::mem::replace(&mut unfinished.is_full, true) {
            let reason =
                "too many folders: this one and others keep the mode and time that they have";
            self.tally.note(path, reason.into());
        }
    }

    /// Modes and times come last, deepest first: what is made in a folder changes its time, and its
    /// mode may forbid making anything.
    pub(super) fn finish(&self) {
        let metas = std::mem::take(&mut *lock(&self.unfinished)).metas;
        let mut metas: Vec<_> = metas.into_iter().collect();
        let default_mode = default_folder_mode();
        let depth = |path: &[u8]| os(path).components().count();
        metas.sort_by_key(|(path, _)| std::cmp::Reverse(depth(path)));
        self.close();
        let mut left = metas.as_slice();
        while !left.is_empty() {
            let room = self.share.enter_with(OPEN_MAX, || ());
            let (batch, rest) = left.split_at(left.len().min(room.count() - 1));
            left = rest;
            let (mut done, mut paths) = (Vec::new(), Vec::new());
            for (path, meta) in batch {
                let result = open_folder(&self.root, path).and_then(|folder| {
                    let folder = readable(&folder)?;
                    match meta {
                        Some(meta) => set_meta(&folder, *meta)?,
                        None => set_mode(&folder, default_mode)?,
                    }
                    Ok(folder)
                });
                match result {
                    Ok(folder) => {
                        done.push(folder);
                        paths.push(path);
                    }
                    Err(error) => self.tally.fail(path, &error),
                }
            }
            let synced = self.systems.sync(&done.iter().collect::<Vec<_>>());
            for (path, result) in paths.iter().zip(synced) {
                if let Err(error) = result {
                    self.tally.fail(path, &error);
                }
            }
        }
    }

    /// The folder that `path` is in, made if it is missing, and the name within it.
    pub(super) fn parent(&self, path: &[u8]) -> io::Result<(Arc<Dir>, OsString)> {
        not_reserved(path)?;
        Ok((self.folder(folder_of(path))?, name_of(path)))
    }

    fn folder(&self, path: &[u8]) -> io::Result<Arc<Dir>> {
        if path.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        if let Some((folder, _)) = lock(&self.open).get(path) {
            return Ok(Arc::clone(folder));
        }
        let folder = match open_folder(&self.root, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create_folders(path)?,
            opened => opened?,
        };
        self.systems.watch(&folder);
        let mut open = lock(&self.open);
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        open.insert(path.to_vec(), (Arc::clone(&folder), self.share.hold(1)));
        Ok(folder)
    }

    /// Makes a folder, and those that it is in. Only the owner can look into them until they get their
    /// modes at the end.
    fn create_folders(&self, path: &[u8]) -> io::Result<Arc<Dir>> {
        let mut found = folder_of(path);
        let mut folder = loop {
            if found.is_empty() {
                break Arc::clone(&self.root);
            }
            match open_folder(&self.root, found) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => found = folder_of(found),
                opened => break opened?,
            }
        };
        let ends = (found.len() + 1..path.len()).filter(|&at| path[at] == b'/');
        for end in ends.chain([path.len()]) {
            let path = &path[..end];
            match rustix::fs::mkdirat(&*folder, name_of(path), Mode::RWXU) {
                Ok(()) => {
                    self.remember(path, None);
                    self.committer.touched(&folder, folder_of(path))?;
                }
                Err(Errno::EXIST) => {} // another thread was quicker
                Err(error) => return Err(error.into()),
            }
            folder = open_folder(&self.root, path)?;
        }
        Ok(folder)
    }
}

/// Clients cannot have the names that the server needs for itself.
fn not_reserved(path: &[u8]) -> io::Result<()> {
    if has_reserved(path) { Err(io::Error::other(RESERVED)) } else { Ok(()) }
}
