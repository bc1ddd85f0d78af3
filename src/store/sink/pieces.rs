//! Files as they arrive, in one piece or in many, until they are whole or given up.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use cap_std::fs::{Dir, MetadataExt};
use rustix::io::Errno;

use super::super::append::taken;
use super::super::commit::Complete;
use super::super::journal::Entry;
use super::super::kept::{PARTIAL_MAX, part_name};
use super::super::space::allocate;
use super::super::temp::{Home, TempFile};
use super::super::{folder_of, is_full, name_of, reason};
use super::based::is_based;
use super::partial::{Partial, Partials, Seal};
use super::{Sink, SinkError};
use crate::hashtree::FILE_BYTES_MAX;
use crate::mutex::lock;
use crate::wire::{Extra, Piece};

/// Files that failed or were taken back, at most.
const DISCARDED_MAX: usize = 1 << 20;

impl Sink {
    pub(super) fn write_piece(
        &self,
        piece: &Piece,
        content: &[u8],
        extra: Option<&Extra>,
    ) -> Result<Option<Complete>, SinkError> {
        let whole = piece.len == piece.file_bytes;
        let partial = if whole {
            Arc::new(Partial::new(piece, self.share.ration()))
        } else {
            let Some(partial) = self.partial(piece)? else { return Ok(None) };
            partial
        };
        let temp = match partial.temp.get_or_init(|| self.create(&partial, piece)) {
            Ok(temp) => temp,
            Err(reason) => return self.give_up(piece.item, &partial, reason.clone()),
        };
        if partial.is_unwanted.load(SeqCst) {
            // It was given up before the temporary file was there to be told.
            temp.discard();
            return Ok(None);
        }
        let is_based = is_based(piece);
        let written = match () {
            () if self.discards => Ok(()),
            () if is_based => {
                write_runs(temp, piece, content).and_then(|()| self.write_base(temp, piece))
            }
            () => write_runs(temp, piece, content),
        };
        if let Err(error) = temp.spoilt().and(written) {
            self.tally.note_fatal(&partial.path, &error);
            self.check_disk()?;
            return if is_full(&error) {
                self.put_off(piece.item, &partial, reason(&error))
            } else {
                self.give_up(piece.item, &partial, reason(&error))
            };
        }
        let is_done = {
            let mut progress = lock(&partial.progress);
            let has_length = self.streams && piece.file_bytes != FILE_BYTES_MAX;
            if !whole && has_length && !progress.tree.set_length(piece.file_bytes) {
                return Err(SinkError::Protocol("a file has more than one length".into()));
            }
            let adds = piece.len > 0;
            if adds && !progress.tree.add(piece.offset, piece.len, piece.hash) {
                return Err(SinkError::Protocol("the pieces of a file do not fit together".into()));
            }
            if !whole && !progress.count(&partial.path) {
                return Err(too_much());
            }
            // What is whole was verified as a whole.
            whole || progress.seal.is_some() && progress.tree.root().is_some()
        };
        if is_done {
            return self.complete(piece.item, &partial, extra);
        }
        if self.push_tag.is_some() && !piece.is_name_only() {
            match temp.open() {
                Ok(opened) => {
                    let bytes = if is_based { piece.len } else { piece.content_bytes() };
                    self.committer.piece(Arc::clone(temp), opened, entry(piece), bytes);
                }
                Err(error) => return self.give_up(piece.item, &partial, reason(&error)),
            }
        }
        Ok(None)
    }

    /// The file that a piece belongs to, unless it is not wanted any more.
    fn partial(&self, piece: &Piece) -> Result<Option<Arc<Partial>>, SinkError> {
        let mut partials = lock(&self.open.partials);
        let Partials { files, early_seals, discarded, .. } = &mut *partials;
        if discarded.contains(&piece.item) {
            return Ok(None);
        }
        if files.len() >= PARTIAL_MAX && !files.contains_key(&piece.item) {
            return Err(too_many());
        }
        let partial = files.entry(piece.item).or_insert_with(|| {
            let kept = self.kept.take(&piece.path, &piece.source);
            if kept.is_some() {
                // Its folder must be open for its name. If it cannot be, the file fails by that.
                drop(self.open.folders.parent(&piece.path));
            }
            let partial = Partial::new(piece, self.share.ration()).with(kept);
            lock(&partial.progress).seal = early_seals.remove(&piece.item);
            Arc::new(partial)
        });
        let is_one = self.streams || partial.bytes == piece.file_bytes;
        if !is_one || partial.path != piece.path {
            return Err(SinkError::Protocol("one item is two files".into()));
        }
        Ok(Some(Arc::clone(partial)))
    }

    /// Makes the file under its temporary name, with all the room that it will need. One that is
    /// written at once, and in full, finds out by that.
    fn create(&self, partial: &Partial, piece: &Piece) -> Result<Arc<TempFile>, String> {
        let create = || {
            let (parent, file_name) = self.open.folders.parent(&partial.path)?;
            if piece.len < piece.file_bytes {
                self.check_name(&parent, &partial.path, &file_name)?;
            }
            let temp = match &self.push_tag {
                Some(tag) if piece.len < piece.file_bytes => {
                    let name = part_name(&self.names, tag, &piece.path, &piece.source);
                    let temp = TempFile::create(Arc::clone(&parent), name);
                    temp.or_else(|error| self.create_unnamed(parent, piece.item, error))?
                }
                _ => TempFile::create(parent, self.names.part(&self.tag, piece.item))?,
            };
            let home = Home {
                root: Arc::clone(&self.root),
                folder: folder_of(&partial.path).to_vec(),
                share: Arc::clone(&self.share),
            };
            let temp = temp.at(home);
            if !self.discards && !self.streams && piece.content_bytes() < partial.bytes {
                // Of what is there a file system may share the blocks.
                let sparse = piece.sparse || piece.is_based;
                allocate(temp.open()?.file(), partial.bytes, sparse)?;
            }
            Ok(Arc::new(temp))
        };
        create().map_err(|error: io::Error| {
            self.tally.note_fatal(&partial.path, &error);
            reason(&error)
        })
    }

    /// A file of many pieces whose name is taken by a folder, or by anything where nothing is replaced, or
    /// cannot be a name here, fails before they are sent.
    fn check_name(&self, parent: &Dir, path: &[u8], name: &OsStr) -> io::Result<()> {
        match parent.symlink_metadata(name) {
            Ok(found) if !self.committer.places().is_free(path, found.ino()) => Err(taken()),
            Ok(found) if found.is_dir() => Err(Errno::ISDIR.into()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Makes a file that no later run goes on with, as the name by which one would is taken by something
    /// that this server has not put there.
    fn create_unnamed(
        &self,
        parent: Arc<Dir>,
        item: u64,
        error: io::Error,
    ) -> io::Result<TempFile> {
        if !is_taken(&error) {
            return Err(error);
        }
        let temp = TempFile::create(parent, self.names.part(&self.tag, item))?;
        temp.discard();
        Ok(temp)
    }

    pub(super) fn seal(
        &self,
        item: u64,
        hash: [u8; 32],
        extra: Option<&Extra>,
    ) -> Result<Option<Complete>, SinkError> {
        let seal = Seal { hash, extra: extra.map(|extra| Arc::new(extra.clone())) };
        let partial = {
            let mut partials = lock(&self.open.partials);
            let Some(partial) = partials.files.get(&item).cloned() else {
                if partials.discarded.contains(&item) {
                    return Ok(None);
                }
                if partials.early_seals.len() >= PARTIAL_MAX {
                    return Err(too_many());
                }
                partials.early_seals.insert(item, seal);
                return if partials.count() { Ok(None) } else { Err(too_much()) };
            };
            partial
        };
        let is_done = {
            let mut progress = lock(&partial.progress);
            progress.seal = Some(seal);
            progress.tree.root().is_some()
        };
        if is_done { self.complete(item, &partial, None) } else { Ok(None) }
    }

    /// All of a file is there: it gets its mode and time, and is ready for its name. Only whoever added
    /// the last of its pieces and its seal gets here.
    fn complete(
        &self,
        item: u64,
        partial: &Partial,
        extra: Option<&Extra>,
    ) -> Result<Option<Complete>, SinkError> {
        let path = &partial.path;
        let Some(Ok(temp)) = partial.temp.get() else { return Ok(None) };
        let temp = Arc::clone(temp);
        let (root, seal, tree_bytes) = {
            let progress = lock(&partial.progress);
            (
                progress.tree.root().map(|root| *root.as_bytes()),
                progress.seal.clone(),
                progress.tree.file_bytes(),
            )
        };
        let is_sealed = |root: &[u8; 32]| seal.as_ref().is_none_or(|seal| seal.hash == *root);
        let Some(hash) = root.filter(is_sealed) else {
            let reason = "what arrived does not match the file's hash";
            return self.give_up(item, partial, reason.into());
        };
        let opened = match temp.open() {
            Ok(opened) => opened,
            Err(error) => {
                self.tally.note_fatal(path, &error);
                return self.give_up(item, partial, reason(&error));
            }
        };
        let name = name_of(path);
        let replaced = if self.metas.keeps_modes() { None } else { opened.replaced_mode(&name) };
        // What goes with a file comes with its last word.
        let sealed = seal.as_ref().and_then(|seal| seal.extra.as_deref());
        let extra = sealed.or(extra);
        self.metas.give_file(path, opened.file(), partial.meta, replaced, extra);
        let is_linked = extra.is_some_and(|extra| extra.is_linked);
        lock(&self.open.partials).files.remove(&item);
        let (path, source, bytes) = (path.clone(), partial.source, tree_bytes);
        let meta = partial.meta;
        Ok(Some(Complete { temp, opened, bytes, path, source, hash, meta, is_linked }))
    }

    /// There is no room for more of a file. What is durable of it stays for when there is.
    fn put_off(
        &self,
        item: u64,
        partial: &Partial,
        reason: String,
    ) -> Result<Option<Complete>, SinkError> {
        self.tally.put_off();
        if partial.is_whole || self.forget(item, |_| ())? {
            let item = (!partial.is_whole).then_some(item);
            self.tally.note_file(item, &partial.path, reason);
        }
        Ok(None)
    }

    /// A file fails, and will not be complete; it is told once, however many of its pieces fail.
    fn give_up(
        &self,
        item: u64,
        partial: &Partial,
        reason: String,
    ) -> Result<Option<Complete>, SinkError> {
        if partial.is_whole || self.forget(item, Partial::discard)? {
            let item = (!partial.is_whole).then_some(item);
            self.tally.note_file(item, &partial.path, reason);
        }
        Ok(None)
    }

    pub(super) fn discard(&self, item: u64) -> Result<(), SinkError> {
        if self.forget(item, Partial::discard)? {
            self.tally.add_discarded();
        }
        Ok(())
    }

    /// Forgets a file and whatever of it is still to come. False if it was forgotten before.
    fn forget(&self, item: u64, leave: impl Fn(&Partial)) -> Result<bool, SinkError> {
        let mut partials = lock(&self.open.partials);
        if let Some(partial) = partials.files.remove(&item) {
            leave(&partial);
        }
        partials.early_seals.remove(&item);
        let first = partials.discarded.insert(item);
        if partials.discarded.len() > DISCARDED_MAX {
            return Err(SinkError::Protocol("too many files failed or were taken back".into()));
        }
        if first && !partials.count() {
            return Err(too_much());
        }
        Ok(first)
    }
}

/// What the journal notes of a piece.
fn entry(piece: &Piece) -> Entry {
    let &Piece { source, file_bytes, offset, len, hash, .. } = piece;
    Entry::Piece { path: piece.path.clone(), source, file_bytes, offset, len, hash }
}

/// Whether a file could not be made because of what is there under its name.
fn is_taken(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::EXIST | Errno::ISDIR | Errno::TXTBSY | Errno::PERM | Errno::ACCESS))
}

/// An honest client's pieces come nearly in order, and make few nodes.
fn too_much() -> SinkError {
    SinkError::Disk("there is no memory for more of what is unfinished: try again with less".into())
}

fn too_many() -> SinkError {
    SinkError::Protocol(format!("more than {PARTIAL_MAX} unfinished files"))
}

fn write_runs(temp: &TempFile, piece: &Piece, mut content: &[u8]) -> io::Result<()> {
    for run in &piece.runs {
        let (bytes, rest) = content.split_at(run.len as usize);
        temp.write_all_at(bytes, piece.offset + run.offset)?;
        content = rest;
    }
    Ok(())
}
