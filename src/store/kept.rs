//! What earlier runs of a push have left at the receiver.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cap_std::fs::Dir;

use super::commit::folder_of;
use super::journal::{Entry, Journal, JournalReader, Stamp};
use super::os;
use super::sink::PARTIAL_MAX;
use super::temp::{TempFile, temp_name};
use crate::hashtree::HashTree;
use crate::wire::{Control, FileKey, KEPT_MAX, KeptFile, KeptPiece, file_key};

/// The temporary name of a file that a later run can go on with.
pub(super) fn part_name(push_tag: &str, file: &FileKey) -> String {
    temp_name(push_tag, format!("{:032x}", u128::from_be_bytes(*file)))
}

/// Files that earlier runs have left, whole or in part.
#[derive(Debug, Default)]
pub(super) struct Kept {
    parts: Mutex<HashMap<FileKey, Part>>,
    /// Where the whole ones are listed, if there are any.
    files: Option<JournalReader>,
}

/// What there is of a file.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) temp: Arc<TempFile>,
    pub(super) tree: HashTree,
}

impl Kept {
    /// What `journal` tells of, as far as it is there.
    pub(super) fn of(root: &Dir, journal: &Journal) -> Self {
        let mut known = HashMap::new();
        let mut has_files = false;
        let read = journal.reader().read(|entry| match entry {
            Entry::File { .. } => has_files = true,
            Entry::Piece { path, source, file_bytes, offset, len, hash } => {
                let file = file_key(&path, &source);
                if known.len() < PARTIAL_MAX || known.contains_key(&file) {
                    let known = known.entry(file);
                    let (_, bytes, tree) =
                        known.or_insert_with(|| (path, file_bytes, HashTree::new(file_bytes)));
                    if *bytes == file_bytes {
                        tree.add(offset, len, hash);
                    }
                }
            }
        });
        if let Err(error) = read {
            tracing::warn!(%error, "a journal cannot be read: less is kept of an earlier run");
        }
        let tag = journal.owner().tag();
        let part = |(file, (path, bytes, tree)): (FileKey, (Vec<u8>, u64, HashTree))| {
            let folder = folder_of(&path);
            let parent = match folder {
                b"" => root.try_clone(),
                folder => root.open_dir(os(folder)),
            };
            let temp = TempFile::reopen(Arc::new(parent.ok()?), part_name(&tag, &file), bytes)?;
            temp.keep();
            Some((file, Part { temp: Arc::new(temp), tree }))
        };
        let parts = known.into_iter().filter_map(part).collect();
        Self { parts: Mutex::new(parts), files: has_files.then(|| journal.reader()) }
    }

    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.parts).is_empty() && self.files.is_none()
    }

    /// What there is of a file, for whoever goes on with it.
    pub(super) fn take(&self, path: &[u8], source: &[u8; 16]) -> Option<Part> {
        let mut parts = lock(&self.parts);
        if parts.is_empty() { None } else { parts.remove(&file_key(path, source)) }
    }

    /// Removes what nobody goes on with.
    pub(super) fn remove(&self) {
        for part in std::mem::take(&mut *lock(&self.parts)).into_values() {
            part.temp.discard();
        }
    }

    /// Tells what there is, until `say` is false. Files that were changed since are left out.
    pub(super) fn tell(&self, root: &Dir, mut say: impl FnMut(Control) -> bool) {
        let pieces = |part: &Part| -> Vec<KeptPiece> {
            let pieces = part.tree.pieces().into_iter();
            pieces.map(|(offset, len, hash)| KeptPiece { offset, len, hash }).collect()
        };
        let parts: Vec<(FileKey, Vec<KeptPiece>)> =
            lock(&self.parts).iter().map(|(&file, part)| (file, pieces(part))).collect();
        for (file, pieces) in parts {
            for pieces in pieces.chunks(KEPT_MAX) {
                if !say(Control::KeptPieces { file, pieces: pieces.to_vec() }) {
                    return;
                }
            }
        }
        let mut batch = Vec::new();
        let mut goes_on = true;
        let each = |entry| {
            let Entry::File { path, source, hash, stamp } = entry else { return };
            let is_there = |path: &Path| Stamp::at(root, path).is_ok_and(|found| found == stamp);
            if goes_on && is_there(os(&path)) {
                batch.push(KeptFile { file: file_key(&path, &source), hash });
            }
            if batch.len() == KEPT_MAX {
                goes_on &= say(Control::KeptFiles(std::mem::take(&mut batch)));
            }
        };
        if let Some(files) = &self.files
            && let Err(error) = files.read(each)
        {
            tracing::warn!(%error, "a journal cannot be read: less is kept of an earlier run");
        }
        if goes_on && (batch.is_empty() || say(Control::KeptFiles(batch))) {
            say(Control::KeptEnd);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
