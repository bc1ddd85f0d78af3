//! What earlier runs of a push have left at the receiver.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cap_std::fs::Dir;

use super::append::key;
use super::descriptors::Share;
use super::journal::{Entry, Journal, JournalReader, Stamp};
use super::own::OwnNames;
use super::places::Places;
use super::ration::Kept as Memory;
use super::root::open_folder;
use super::temp::{Home, TempFile};
use super::{folder_of, holes, join, os};
use crate::hashtree::{HashTree, NODE_BYTES, PieceHasher};
use crate::mutex::lock;
use crate::wire::{FileKey, KeptFile, KeptPiece, SourceId, half};

/// Files that are partly there, at most. A client's window of unconfirmed stripes is far below that.
pub(super) const PARTIAL_MAX: usize = 4_096;
/// What one of them takes in memory beside its path and the nodes of its hash tree, about.
pub(super) const PARTIAL_BYTES: usize = 512;
/// Whole files that are told of, at most: senders take no more.
const TOLD_MAX: usize = 4 << 20;
/// After its last entry in the journal, a run that is killed may have written for so long.
const GRACE: Duration = Duration::from_millis(100);

/// The temporary name of a file that a later run can go on with.
pub(super) fn part_name(
    names: &OwnNames,
    push_tag: &str,
    path: &[u8],
    source: &SourceId,
) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&source.basis.0).update(&FileKey::new(path, &source.version).0);
    names.part(push_tag, format!("{:032x}", u128::from_be_bytes(half(&hasher))))
}

/// Files that earlier runs have left, whole or in part.
#[derive(Debug, Default)]
pub(super) struct Kept {
    parts: Mutex<HashMap<FileKey, Part>>,
    /// Where the whole ones are listed, if there are any.
    files: Option<JournalReader>,
    /// Those that were told of, if that is asked for later.
    told: Option<Mutex<HashSet<u64>>>,
    /// The paths of these, if others are to be linked to them.
    told_paths: Option<Mutex<HashSet<u64>>>,
}

/// What there is of a file, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remnant {
    /// Pieces of one that is not whole.
    Pieces {
        /// Which one.
        file: FileKey,
        /// What the client knew its content by, when it last added to it.
        source: SourceId,
        /// What there is.
        pieces: Vec<KeptPiece>,
    },
    /// All of one.
    Whole(KeptFile),
}

/// What there is of a file.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) temp: Arc<TempFile>,
    pub(super) tree: HashTree,
    /// What it takes in memory.
    pub(super) memory: Memory,
    path: Vec<u8>,
    /// What the client knew its content by, when it last added to it.
    source: SourceId,
    /// The size of the whole file, in bytes.
    bytes: u64,
    /// Somebody may have changed it since.
    is_suspect: bool,
}

/// What a journal says of a file.
struct Noted {
    path: Vec<u8>,
    source: SourceId,
    tree: HashTree,
    file_bytes: u64,
    memory: Memory,
}

impl Kept {
    /// What `journal` tells of, as far as it is there.
    pub(super) fn of(root: &Arc<Dir>, journal: &Journal, share: &Arc<Share>) -> Self {
        let mut known: HashMap<FileKey, Noted> = HashMap::new();
        let mut has_files = false;
        let read = journal.reader().read(|entry| match entry {
            Entry::File { .. } => has_files = true,
            Entry::Placing { .. } => {}
            Entry::Piece { path, source, file_bytes, offset, len, hash } => {
                let file = FileKey::new(&path, &source.version);
                if known.len() < PARTIAL_MAX || known.contains_key(&file) {
                    let new = || Noted {
                        path: path.clone(),
                        source,
                        tree: HashTree::new(file_bytes),
                        file_bytes,
                        memory: Memory::none(share.ration()),
                    };
                    let known = known.entry(file).or_insert_with(new);
                    if known.source.basis != source.basis {
                        // What was there was not what the source has: it was begun anew.
                        *known = new();
                    }
                    // What there is no memory for is sent again.
                    let bytes = PARTIAL_BYTES + path.len() + (known.tree.nodes() + 1) * NODE_BYTES;
                    if known.file_bytes == file_bytes && known.memory.set(bytes) {
                        known.source = source;
                        known.tree.add(offset, len, hash);
                    }
                }
            }
        });
        if let Err(error) = read {
            tracing::warn!(%error, "a journal cannot be read: less is kept of an earlier run");
        }
        let (names, tag) = (journal.names(), journal.tag());
        let part = |(file, noted): (FileKey, Noted)| {
            let Noted { path, source, tree, file_bytes: bytes, memory } = noted;
            let _room = share.enter(|| ());
            let folder = folder_of(&path).to_vec();
            let parent = open_folder(root, &folder).ok()?;
            let home = Home { root: Arc::clone(root), folder, share: Arc::clone(share) };
            let name = part_name(names, &tag, &path, &source);
            let temp = TempFile::reopen(parent, name, bytes)?.at(home);
            temp.keep();
            let opened = temp.open().ok()?;
            let is_suspect = journal.is_changed_since(opened.file(), GRACE).unwrap_or(true);
            drop(opened);
            temp.close();
            let temp = Arc::new(temp);
            Some((file, Part { temp, tree, memory, path, source, bytes, is_suspect }))
        };
        let parts = known.into_iter().filter_map(part).collect();
        let files = has_files.then(|| journal.reader());
        Self { parts: Mutex::new(parts), files, told: None, told_paths: None }
    }

    /// From now on it is known which whole files were told of.
    pub(super) fn list(&mut self) {
        self.told = Some(Mutex::default());
    }

    /// From now on it is known at which paths there are whole files that were told of.
    pub(super) fn list_paths(&mut self) {
        self.told_paths = Some(Mutex::default());
    }

    /// Whether it was told that all of the file at this path is there.
    pub(super) fn was_told_path(&self, path: &[u8]) -> bool {
        self.told_paths.as_ref().is_some_and(|told| lock(told).contains(&key(path, b"")))
    }

    /// Whether it was told that all of this file is there.
    pub(super) fn was_told(&self, path: &[u8], hash: &[u8; 32]) -> bool {
        self.told.as_ref().is_some_and(|told| lock(told).contains(&key(path, hash)))
    }

    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.parts).is_empty() && self.files.is_none()
    }

    /// What there is of a file, for whoever goes on with it. What the source has changed since is given up.
    pub(super) fn take(&self, path: &[u8], source: &SourceId) -> Option<Part> {
        let mut parts = lock(&self.parts);
        if parts.is_empty() {
            return None;
        }
        let part = parts.remove(&FileKey::new(path, &source.version))?;
        if part.source.basis == source.basis {
            return Some(part);
        }
        part.temp.discard();
        None
    }

    /// Removes what nobody goes on with.
    pub(super) fn remove(&self) {
        for part in std::mem::take(&mut *lock(&self.parts)).into_values() {
            part.temp.discard();
        }
    }

    /// Tells what there is, until `say` is false or `goes_on` is. Files that were changed since, and
    /// pieces that are not as they were written, are left out. Whoever sends has `root_name` in front of its
    /// paths.
    pub(super) fn tell(
        &self,
        root: &Arc<Dir>,
        root_name: &[u8],
        places: &Places,
        goes_on: impl Fn() -> bool,
        mut say: impl FnMut(Remnant) -> bool,
    ) {
        let files: Vec<FileKey> = lock(&self.parts).keys().copied().collect();
        for file in files {
            let Some((path, source, pieces)) = self.intact(&file, &goes_on) else { continue };
            let file = FileKey::new(&join(root_name, &path), &source.version);
            if !goes_on() || !say(Remnant::Pieces { file, source, pieces }) {
                return;
            }
        }
        let (mut goes_on, mut last_folder) = (true, None::<Vec<u8>>);
        let each = |entry| {
            let Entry::File { path, source, hash, stamp } = entry else { return };
            let is_there = |path: &Path| Stamp::at(root, path).is_ok_and(|found| found == stamp);
            let folder = folder_of(&path);
            // What is said to be there is looked for at the end, as all else.
            let is_entered = || {
                let entered = open_folder(root, folder)
                    .and_then(|opened| places.enter(root, folder, &opened));
                entered.is_ok()
            };
            if goes_on
                && is_there(os(&path))
                && (last_folder.as_deref() == Some(folder) || is_entered())
            {
                last_folder = Some(folder.to_vec());
                let tell = |told: &Option<Mutex<HashSet<u64>>>, key| {
                    let told = told.as_ref().map(lock);
                    told.filter(|told| told.len() < TOLD_MAX).map(|mut told| told.insert(key));
                };
                tell(&self.told, key(&path, &hash));
                tell(&self.told_paths, key(&path, b""));
                let file = FileKey::new(&join(root_name, &path), &source.version);
                goes_on = say(Remnant::Whole(KeptFile { file, state: source.state, hash }));
            }
        };
        if let Some(files) = &self.files
            && let Err(error) = files.read(each)
        {
            tracing::warn!(%error, "a journal cannot be read: less is kept of an earlier run");
        }
    }

    /// The pieces of a file that are still what they were; the others are forgotten. Only what was
    /// changed since the journal was last written to is read: a large half would take long.
    fn intact(
        &self,
        file: &FileKey,
        goes_on: impl Fn() -> bool,
    ) -> Option<(Vec<u8>, SourceId, Vec<KeptPiece>)> {
        let piece = |(offset, len, hash)| KeptPiece { offset, len, hash };
        let (temp, path, source, bytes, pieces) = {
            let parts = lock(&self.parts);
            let part = parts.get(file)?;
            let pieces = part.tree.pieces();
            let path = part.path.clone();
            if !part.is_suspect {
                return Some((path, part.source, pieces.into_iter().map(piece).collect()));
            }
            (Arc::clone(&part.temp), path, part.source, part.bytes, pieces)
        };
        let mut tree = HashTree::new(bytes);
        let mut is_damaged = false;
        for &(offset, len, hash) in &pieces {
            let found =
                temp.open().and_then(|opened| hash_of(opened.file(), offset, len, bytes, &goes_on));
            if found.is_ok_and(|found| found == hash) {
                tree.add(offset, len, hash);
            } else {
                is_damaged = true;
            }
        }
        temp.close();
        let intact = tree.pieces();
        if is_damaged && goes_on() {
            tracing::warn!("what was kept of a file has changed since: some of it is sent again");
            if let Some(part) = lock(&self.parts).get_mut(file) {
                part.tree = tree;
            }
        }
        Some((path, source, intact.into_iter().map(piece).collect()))
    }
}

/// The hash of a piece as it is in the file.
fn hash_of(
    file: &File,
    offset: u64,
    len: u64,
    file_bytes: u64,
    goes_on: impl Fn() -> bool,
) -> io::Result<[u8; 32]> {
    let mut hasher = PieceHasher::new(offset, len, file_bytes);
    let all = holes::read(file, offset..offset + len, |part| {
        hasher.update(part);
        goes_on()
    });
    if all? { Ok(hasher.finish()) } else { Err(io::ErrorKind::Interrupted.into()) }
}
