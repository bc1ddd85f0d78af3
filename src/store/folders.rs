//! The folders that a transfer's files are in.
//!
//! Every path is opened relative to the root's descriptor and cannot lead out of it. Folders are made
//! when something is to be in them, and get their modes and times at the end. Until then we may do
//! everything in those that are ours, whatever their modes say.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::Errno;

use super::commit::Committer;
use super::descriptors::{Held, Share};
use super::file::FileId;
use super::journal::{Entry, Trace};
use super::meta::{Metas, open_up};
use super::object::Object;
use super::own::{OwnNames, RESERVED, has_reserved};
use super::root::{open_folder, open_step};
use super::spill::{Left, Spill};
use super::systems::{Systems, readable};
use super::tally::Tally;
use super::unfinished::{FOLDER_BYTES, Unfinished};
use super::{folder_of, name_of, os, reason};
use crate::mutex::lock;
use crate::wire::{Extra, Meta};

/// What folders may take in memory, in bytes, while their modes and times wait for the end; the others wait on
/// the disk.
const FOLDERS_BYTES_MAX: usize = 48 << 20;
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
    metas: Arc<Metas>,
    names: OwnNames,
    /// Those that were used last.
    open: Mutex<HashMap<Vec<u8>, OpenFolder>>,
    unfinished: Mutex<Unfinished>,
    /// What the root itself is to have, where that is not its owner's to say but the sender's.
    root_left: OnceLock<Mutex<Option<Left>>>,
    /// Held while one is made where what is there may not be changed.
    making: Mutex<()>,
}

/// A folder that is open, and counted.
type OpenFolder = (Arc<Dir>, Held);

impl Folders {
    /// None yet below `root`. `committer` makes the names of new ones durable; `tally` is told of what
    /// fails. What is not to be known by its name yet is called by `names`.
    pub(super) fn new(
        root: Arc<Dir>,
        names: OwnNames,
        systems: Arc<Systems>,
        committer: Arc<Committer>,
        tally: Arc<Tally>,
        share: Arc<Share>,
        metas: Arc<Metas>,
    ) -> Self {
        let unfinished = Mutex::new(Unfinished::new(FOLDERS_BYTES_MAX, share.ration()));
        let open = Mutex::default();
        let (making, root_left) = (Mutex::default(), OnceLock::new());
        Self {
            root,
            systems,
            committer,
            tally,
            share,
            metas,
            names,
            open,
            unfinished,
            root_left,
            making,
        }
    }

    /// The root is to have what is sent for it.
    pub(super) fn with_root(&self) {
        self.root_left.get_or_init(Mutex::default);
    }

    /// Closes those that are kept for the next file.
    pub(super) fn close(&self) {
        lock(&self.open).clear();
    }

    /// Makes a folder that is to have `meta` at the end.
    pub(super) fn make(&self, path: &[u8], meta: Meta, extra: Option<&Extra>) -> io::Result<()> {
        let extra = extra.map(|extra| Arc::new(extra.clone()));
        let left = Left { meta: Some(meta), extra, ..Left::default() };
        if path.is_empty() {
            // Elsewhere the root is the server's own.
            if let Some(root_left) = self.root_left.get() {
                lock(root_left).replace(left);
            }
            return Ok(());
        }
        not_reserved(path)?;
        let folder = match self.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.folder(path)?,
            opened => {
                let opened = opened?;
                // Two that are sent are not one that is there.
                self.committer.places().enter(&self.root, path, &opened)?;
                opened
            }
        };
        if !self.may_change(path, &folder) {
            return Ok(()); // it stays as it is
        }
        self.remember(path, left);
        Ok(())
    }

    /// Notes a folder whose mode and time are set at the end.
    fn remember(&self, path: &[u8], left: Left) {
        let mut unfinished = lock(&self.unfinished);
        let grows =
            unfinished.left.get(path).map(|known| left.bytes().saturating_sub(known.bytes()));
        let may_grow = grows.is_some_and(|bytes| bytes == 0 || unfinished.has_room(bytes));
        if let Some(known) = unfinished.left.get_mut(path).filter(|_| may_grow) {
            *known = std::mem::take(known).and(left);
        } else if grows.is_none() && unfinished.has_room(FOLDER_BYTES + path.len() + left.bytes()) {
            unfinished.left.insert(path.to_vec(), left);
        } else if let Err(error) = unfinished.spill(&self.root, path, &left) {
            let reason = format!("it keeps the mode and time that it has: {}", reason(&error));
            self.tally.note(path, reason);
        }
    }

    /// Modes and times come last, deepest first: what is made in a folder changes its time, and its
    /// mode may forbid making anything.
    pub(super) fn finish(&self) {
        self.settle(|left| left);
    }

    /// The root comes last of all, when nothing is made or removed in it any more.
    pub(super) fn finish_root(&self) {
        let left = self.root_left.get().and_then(|left| lock(left).take());
        if let Some(left) = left {
            self.give(&[(Vec::new(), left)]);
        }
    }

    /// Folders that were opened up get back the modes that they had.
    fn put_back(&self) {
        self.settle(|left| Left { opened: left.opened, ..Left::default() });
    }

    /// Does for each folder what `is_due` says of what is left for it.
    fn settle(&self, is_due: impl Fn(Left) -> Left) {
        let (left, spill, bytes_max, _memory) = {
            let mut unfinished = lock(&self.unfinished);
            let bytes_max = unfinished.bytes_max;
            let none = Unfinished::new(bytes_max, self.share.ration());
            let Unfinished { left, spill, memory, .. } = std::mem::replace(&mut *unfinished, none);
            (left, spill, bytes_max, memory)
        };
        self.close();
        let mut left: Vec<_> = left.into_iter().collect();
        if let Some(spill) = spill {
            self.settle_spilled(spill, &is_due, bytes_max, &mut left);
        }
        let depth = |path: &[u8]| os(path).components().count();
        left.sort_by_cached_key(|(path, _)| std::cmp::Reverse(depth(path)));
        for (_, left) in &mut left {
            *left = is_due(std::mem::take(left));
        }
        self.give(&left);
    }

    /// Those that wait on the disk come in the order in which they were found: what is found last counts.
    /// Those that cannot be entered any more then wait with those that are in memory.
    fn settle_spilled(
        &self,
        mut spill: Spill,
        is_due: &impl Fn(Left) -> Left,
        bytes_max: usize,
        later: &mut Vec<(Vec<u8>, Left)>,
    ) {
        let mut later_bytes = 0;
        // What was made for its content first: that may be noted after what it is to have.
        for has_meta in [false, true] {
            let mut batch = Vec::new();
            let read = spill.read(|path, left| {
                if left.meta.is_some() != has_meta {
                    return;
                }
                let mode = is_due(left.clone()).mode(self.metas.keeps_modes());
                if mode.is_some_and(|mode| mode & 0o100 == 0) {
                    let bytes = FOLDER_BYTES + path.len() + left.bytes();
                    if later_bytes + bytes > bytes_max {
                        let reason = "too many folders that cannot be entered: it stays as it is";
                        return self.tally.note(&path, reason.into());
                    }
                    later_bytes += bytes;
                    return later.push((path, left));
                }
                batch.push((path, is_due(left)));
                if batch.len() == OPEN_MAX {
                    self.give(&std::mem::take(&mut batch));
                }
            });
            if let Err(error) = read {
                let reason = format!("some folders keep the mode and time that they have: {error}");
                self.tally.note(b"", reason);
            }
            self.give(&batch);
        }
    }

    /// Gives folders what they are to have, and makes it durable; as many at a time as may be open.
    fn give(&self, mut left: &[(Vec<u8>, Left)]) {
        while !left.is_empty() {
            let room = self.share.enter_with(OPEN_MAX, || ());
            let (batch, rest) = left.split_at(left.len().min(room.count() - 1));
            self.give_batch(batch);
            left = rest;
        }
    }

    fn give_batch(&self, batch: &[(Vec<u8>, Left)]) {
        let (mut done, mut paths) = (Vec::new(), Vec::new());
        for (path, left) in batch.iter().filter(|(_, left)| *left != Left::default()) {
            let result = open_folder(&self.root, path).and_then(|folder| {
                if !path.is_empty() && self.is_root(&folder) {
                    return Err(io::Error::other(
                        "it leads to the root folder, which stays as it is",
                    ));
                }
                let opened = open_up(&folder);
                let folder = readable(&folder)?;
                let (object, extra) = (Object::open(&folder), left.extra.as_deref());
                self.metas.give_owner(path, &object, extra);
                if let Some(mode) = left.mode(self.metas.keeps_modes()).or(opened) {
                    self.metas.give_mode(path, &object, mode);
                }
                self.metas.give_xattrs(path, &object, extra);
                if let Some(meta) = left.meta {
                    self.metas.give_folder_time(path, &object, meta);
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
        let folder = match self.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.create_folders(path)?,
            opened => opened?,
        };
        self.committer.places().enter(&self.root, path, &folder)?;
        self.open_up(path, &folder);
        self.systems.watch(&folder);
        let mut open = lock(&self.open);
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        open.insert(path.to_vec(), (Arc::clone(&folder), self.share.hold(1)));
        Ok(folder)
    }

    /// Opens a folder, and those that it is in and that are ours but cannot be entered.
    fn open(&self, path: &[u8]) -> io::Result<Arc<Dir>> {
        let refused = match open_folder(&self.root, path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
            opened => return opened,
        };
        for end in (1..path.len()).filter(|&at| path[at] == b'/') {
            let Ok(folder) = open_folder(&self.root, &path[..end]) else { return Err(refused) };
            self.open_up(&path[..end], &folder);
        }
        open_folder(&self.root, path)
    }

    /// The folder at `path`, which is in `parent`.
    fn step(&self, parent: &Dir, path: &[u8]) -> io::Result<Arc<Dir>> {
        match open_step(&self.root, parent, path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.open(path),
            opened => opened,
        }
    }

    /// Lets us do everything in a folder that is ours, until its mode is put back or set.
    fn open_up(&self, path: &[u8], folder: &Dir) {
        // The root is as who serves it wants it, by whatever way somebody gets there.
        if !path.is_empty()
            && !self.is_root(folder)
            && self.may_change(path, folder)
            && let Some(mode) = open_up(folder)
        {
            self.remember(path, Left { opened: Some(mode), ..Left::default() });
        }
    }

    /// Whether a folder is the root: a link may lead there. What cannot be told is not changed.
    fn is_root(&self, folder: &Dir) -> bool {
        let ids = (FileId::of(folder), FileId::of(&*self.root));
        !matches!(ids, (Ok(folder), Ok(root)) if folder != root)
    }

    /// Whether a folder may be given other metadata.
    fn may_change(&self, path: &[u8], folder: &Dir) -> bool {
        let places = self.committer.places();
        if !places.is_append_only() {
            return true;
        }
        // One that is just being made is known when it is.
        let _making = lock(&self.making);
        FileId::of(folder).is_ok_and(|found| places.is_free(path, found.inode()))
    }

    /// Makes a folder where nothing may be changed. It is known as this push's before it has its name, so that a
    /// later run goes on with it, whenever this one is killed.
    fn make_noted(&self, parent: &Dir, path: &[u8]) -> Result<(), Errno> {
        let name = name_of(path);
        if rustix::fs::statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(Errno::EXIST);
        }
        let temp_name = self.make_unnamed(parent, path)?;
        let named = match rename_folder(parent, &temp_name, &name) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => None,
            renamed => Some(renamed),
        };
        if named == Some(Ok(())) {
            return Ok(());
        }
        if let Err(error) = rustix::fs::unlinkat(parent, &*temp_name, AtFlags::REMOVEDIR) {
            tracing::warn!(folder = temp_name, %error, "cannot remove a temporary folder");
        }
        // Where that cannot be done, it is noted as soon as it is made.
        named.unwrap_or_else(|| {
            rustix::fs::mkdirat(parent, &name, Mode::RWXU)?;
            self.note(parent, &name, path)
        })
    }

    /// Makes what is to be the folder at `path`, under a name of its own in `parent`.
    fn make_unnamed(&self, parent: &Dir, path: &[u8]) -> Result<String, Errno> {
        let temp_name = self.names.part("folder", format!("{:016x}", rand::random::<u64>()));
        rustix::fs::mkdirat(parent, &*temp_name, Mode::RWXU)?;
        self.note(parent, OsStr::new(&temp_name), path)?;
        Ok(temp_name)
    }

    /// Notes a folder that was made for `path`, and is called `name`.
    fn note(&self, parent: &Dir, name: &OsStr, path: &[u8]) -> Result<(), Errno> {
        let inode = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
        self.committer.places().has_made(path, inode);
        let (path, trace) = (path.to_vec(), Trace { inode, mtime: (0, 0) });
        self.committer.announce(&Entry::Placing { path, hash: [0; 32], trace });
        Ok(())
    }

    /// Makes a folder, and those that it is in. Only the owner can look into them until they get their
    /// modes at the end.
    fn create_folders(&self, path: &[u8]) -> io::Result<Arc<Dir>> {
        let (mut folder, mut found) = (Arc::clone(&self.root), &path[..0]);
        for end in (1..path.len()).filter(|&at| path[at] == b'/') {
            folder = match self.step(&folder, &path[..end]) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                opened => opened?,
            };
            found = &path[..end];
        }
        self.open_up(found, &folder);
        // Nothing is made in one that is there by another name.
        self.committer.places().enter(&self.root, found, &folder)?;
        let ends = (found.len() + 1..path.len()).filter(|&at| path[at] == b'/');
        for end in ends.chain([path.len()]) {
            if self.tally.has_ended() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let path = &path[..end];
            let is_append_only = self.committer.places().is_append_only();
            let _making = is_append_only.then(|| lock(&self.making));
            let made = if is_append_only {
                self.make_noted(&folder, path)
            } else {
                rustix::fs::mkdirat(&*folder, name_of(path), Mode::RWXU)
            };
            let parent = folder;
            folder = match made {
                // Or another thread was quicker.
                Ok(()) | Err(Errno::EXIST) => self.step(&parent, path)?,
                Err(error) => return Err(error.into()),
            };
            if made.is_ok() {
                self.remember(path, Left { is_made: true, ..Left::default() });
                self.committer.touched(&parent, folder_of(path))?;
            }
        }
        Ok(folder)
    }
}

/// Gives a folder its name, if nothing is called so.
fn rename_folder(parent: &Dir, from: &str, to: &OsStr) -> Result<(), Errno> {
    rustix::fs::renameat_with(parent, from, parent, to, RenameFlags::NOREPLACE)
}

/// A transfer that ends early leaves folders as open or closed as they were.
impl Drop for Folders {
    fn drop(&mut self) {
        self.put_back();
    }
}

/// Clients cannot have the names that the server needs for itself.
fn not_reserved(path: &[u8]) -> io::Result<()> {
    if has_reserved(path) { Err(io::Error::other(RESERVED)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::PathBuf;

    use cap_std::ambient_authority;

    use super::super::clean;
    use super::super::journal::{Journal, Patience};
    use super::super::meta::default_mode;
    use super::*;
    use crate::wire::PushNumber;

    /// Folders below a new root that keep so much in memory.
    fn folders(bytes_max: usize) -> (tempfile::TempDir, Folders) {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap());
        let (systems, share) = (Arc::new(Systems::of(&root)), Share::alone());
        let committer = Committer::start(
            Arc::clone(&root),
            Arc::clone(&systems),
            None,
            share.ration(),
            |_, _| (),
        )
        .unwrap();
        let tally = Arc::new(Tally::new(Arc::clone(&root), share.ration()));
        let metas = Arc::default();
        let names = OwnNames::new([1; 32]);
        let folders = Folders::new(root, names, systems, Arc::new(committer), tally, share, metas);
        lock(&folders.unfinished).bytes_max = bytes_max;
        (dir, folders)
    }

    /// The folders of a run of a push to where nothing is changed.
    fn appending(dir: &tempfile::TempDir) -> Folders {
        let root = Arc::new(Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap());
        let names = OwnNames::new([1; 32]);
        let owner = names.owner(&[2; 32], &PushNumber([3; 16]));
        let journal = Journal::open(&root, &names, owner, Patience::Beside).unwrap();
        let systems = Arc::new(Systems::of(&root));
        let (own, journal) = (Arc::clone(&systems), Some(journal));
        let share = Share::alone();
        let committer =
            Committer::start(Arc::clone(&root), own, journal, share.ration(), |_, _| ()).unwrap();
        committer.places().append_only();
        let tally = Arc::new(Tally::new(Arc::clone(&root), share.ration()));
        Folders::new(root, names, systems, Arc::new(committer), tally, share, Arc::default())
    }

    fn mode(path: PathBuf) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    fn meta(mode: u32) -> Meta {
        Meta { mode, mtime_s: 1_000_000_000, mtime_ns: 0 }
    }

    #[test]
    fn folders_that_are_too_many_for_memory_get_their_modes_and_times_as_well() {
        let (dir, folders) = folders(4 * (FOLDER_BYTES + 12));
        // Deeper ones first, as they are sent, and what is in them before that.
        let modes = [0o750, 0o500, 0o070, 0o711, 0o600, 0o755];
        let mut sent = Vec::new();
        for (number, mode) in modes.into_iter().enumerate() {
            for path in [format!("top{number}/in/deep"), format!("top{number}/in")] {
                folders.parent(format!("{path}/file").as_bytes()).unwrap();
                folders.make(path.as_bytes(), meta(mode), None).unwrap();
                sent.push((path, mode));
            }
            folders.parent(format!("made{number}/file").as_bytes()).unwrap();
        }
        folders.finish();
        assert!(folders.tally.outcome().failures.is_empty(), "{:?}", folders.tally.outcome());
        // From the top, so that they can be looked into.
        sent.sort();
        for (path, wanted) in sent {
            let found = fs::metadata(dir.path().join(&path)).unwrap();
            assert_eq!(found.mode() & 0o777, wanted, "{path}");
            assert_eq!(found.mtime(), 1_000_000_000, "{path}");
            fs::set_permissions(dir.path().join(&path), Permissions::from_mode(0o755)).unwrap();
        }
        for number in 0..modes.len() {
            assert_eq!(mode(dir.path().join(format!("made{number}"))), default_mode());
        }
    }

    #[test]
    fn a_folder_is_not_made_where_another_of_the_transfer_is() {
        let (dir, folders) = folders(4_000);
        fs::create_dir(dir.path().join("Dir")).unwrap();
        std::os::unix::fs::symlink("Dir", dir.path().join("dir")).unwrap();
        for _ in 0..2 {
            folders.make(b"Dir", meta(0o700), None).unwrap();
            let error = folders.make(b"dir", meta(0o755), None).unwrap_err().to_string();
            assert_eq!(error, "\"dir\" has the same name there as \"Dir\", which was sent");
        }
        folders.finish();
        assert_eq!(mode(dir.path().join("Dir")), 0o700);
    }

    #[test]
    fn a_folder_that_was_opened_up_is_closed_again_when_the_transfer_ends_early() {
        for bytes_max in [0, 4_000] {
            let (dir, folders) = folders(bytes_max);
            fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
            for (path, mode) in [("a/b/c", 0o555), ("a/b", 0o500), ("a", 0o055)] {
                fs::set_permissions(dir.path().join(path), Permissions::from_mode(mode)).unwrap();
            }
            folders.parent(b"a/b/c/file").unwrap();
            folders.parent(b"a/b/new/file").unwrap();
            assert_eq!(mode(dir.path().join("a/b/c")), 0o755);
            drop(folders);
            assert_eq!(mode(dir.path().join("a/b/c")), 0o555);
            assert_eq!(mode(dir.path().join("a/b")), 0o500);
        }
    }

    #[test]
    fn where_nothing_is_changed_a_run_that_is_killed_leaves_no_folder_that_nobody_knows() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("theirs")).unwrap();
        fs::set_permissions(at("theirs"), Permissions::from_mode(0o751)).unwrap();
        // Killed before the folder has its name, and after that.
        let killed = appending(&dir);
        let root = Arc::clone(&killed.root);
        let left = killed.make_unnamed(&root, b"before").unwrap();
        assert!(at(&left).is_dir() && !at("before").exists());
        killed.make_noted(&root, b"after").unwrap();
        assert_eq!(killed.make_noted(&root, b"theirs"), Err(Errno::EXIST));
        assert_eq!(mode(at("after")), 0o700);
        drop(killed);

        let again = appending(&dir);
        for name in ["before", "after", "theirs", "new"] {
            again.parent(format!("{name}/file").as_bytes()).unwrap();
            again.make(name.as_bytes(), meta(0o755), None).unwrap();
        }
        again.finish();
        assert_eq!(
            ["before", "after", "theirs", "new"].map(|name| mode(at(name))),
            [0o755, 0o755, 0o751, 0o755]
        );
        // What has no name is removed some time, and nothing of the same name that has something in it.
        let names = OwnNames::new([1; 32]);
        let full = names.part("folder", 1);
        fs::create_dir_all(at(&full).join("in")).unwrap();
        let old = std::time::SystemTime::now() - 2 * clean::FOLDER_AGE_MIN;
        for name in [&left, &full] {
            fs::File::open(at(name)).unwrap().set_modified(old).unwrap();
        }
        clean::clean(&root, &names, std::time::Duration::ZERO, |_| true, |_, _| ());
        assert!(!at(&left).exists() && at(&full).exists());
    }
}
