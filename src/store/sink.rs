//! Writing what arrives: verified before it is written, under a temporary name until it is whole.
//!
//! A client is not trusted. Every path is opened relative to the root's descriptor and cannot lead out
//! of it, neither by its name nor by a link on the way.

mod partial;
mod table;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};

use cap_std::fs::Dir;
use rustix::io::Errno;

use self::partial::{Partial, Partials};
use self::table::{decode, split};
use super::commit::{Committed, Committer, Complete, GROUP};
use super::descriptors::{Share, Shed};
use super::file::FileId;
use super::folders::Folders;
use super::holes::hash_runs;
use super::journal::{Entry, Journal};
use super::kept::{Kept, PARTIAL_MAX, Remnant, part_name};
use super::meta::Metas;
use super::own::OwnNames;
use super::places::{Placing, moved_reason};
use super::root::Root;
use super::space::allocate;
use super::systems::Systems;
use super::tally::{Failed, Outcome, Tally};
use super::temp::{Home, TempFile};
use super::{folder_of, is_full, name_of, os, reason};
use crate::mutex::lock;
use crate::wire::{Header, Keep, Meta, Piece, Record, WireError};

/// Files that failed or were taken back, at most.
const DISCARDED_MAX: usize = 1 << 20;
/// So many files of earlier runs are named where their folder was moved; others are counted.
const EARLIER_MAX: usize = 1 << 16;

/// What became of a stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was as announced, and all that could be written of it was.
    Written,
    /// It does not match its hashes: nothing of it was written.
    Damaged,
}

/// What ends a transfer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SinkError {
    /// The client does not keep to the protocol.
    #[error("the client broke the protocol: {0}")]
    Protocol(String),
    /// Nothing more can be written.
    #[error("{0}")]
    Disk(String),
}

impl From<WireError> for SinkError {
    fn from(error: WireError) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// One transfer's view of the disk.
#[derive(Debug)]
pub struct Sink {
    root: Arc<Dir>,
    names: OwnNames,
    tag: String,
    /// Names what later runs of the same push may go on with; `None` if they cannot.
    push_tag: Option<String>,
    /// How much it may have open.
    share: Arc<Share>,
    kept: Kept,
    open: Arc<Open>,
    metas: Arc<Metas>,
    tally: Arc<Tally>,
    is_distrusted: AtomicBool,
    committer: Arc<Committer>,
    /// Content is verified and not written.
    discards: bool,
    /// What the root is served as.
    served: Option<Arc<Root>>,
}

/// What has files and folders open that can be closed, and opened again.
#[derive(Debug)]
struct Open {
    partials: Mutex<Partials>,
    folders: Folders,
    committer: Arc<Committer>,
}

impl Shed for Open {
    fn shed(&self) {
        self.committer.hurry();
        self.folders.close();
        let partials: Vec<_> = lock(&self.partials).files.values().cloned().collect();
        for partial in partials {
            if let Some(Ok(temp)) = partial.temp.get() {
                temp.close();
            }
        }
    }
}

impl Sink {
    /// Writes below `root`. What is under way is called by `names`, and `tag` tells it from other
    /// transfers'. Goes on with what the journal knows of earlier runs.
    pub fn new(
        root: Arc<Dir>,
        names: OwnNames,
        tag: String,
        journal: Option<Journal>,
    ) -> io::Result<Self> {
        Self::within(Share::alone(), root, names, tag, journal)
    }

    /// The same, with no more open than is its share.
    pub fn within(
        share: Arc<Share>,
        root: Arc<Dir>,
        names: OwnNames,
        tag: String,
        journal: Option<Journal>,
    ) -> io::Result<Self> {
        let push_tag = journal.as_ref().map(Journal::tag);
        let kept = journal.as_ref();
        let kept = kept.map_or_else(Kept::default, |journal| Kept::of(&root, journal, &share));
        let tally = Arc::new(Tally::new(Arc::clone(&root)));
        let told = Arc::clone(&tally);
        let systems = Arc::new(Systems::of(&root));
        let committer = Committer::start(
            Arc::clone(&root),
            Arc::clone(&systems),
            journal,
            move |committed, result| match (committed, result) {
                (Committed::File(_, bytes), Ok(())) => told.add_file(bytes),
                (Committed::Folder(_) | Committed::Piece(_), Ok(())) => {}
                // The file fails with its next piece, or when it is to get its name.
                (Committed::Piece(path), Err(error)) => told.note_fatal(path, &error),
                (Committed::File(path, _), Err(error)) => {
                    told.note_fatal(path, &error);
                    told.note_file(None, path, reason(&error));
                    if is_full(&error) {
                        told.put_off();
                    }
                }
                (Committed::Folder(path), Err(error)) => told.fail(path, &error),
            },
        )?;
        let committer = Arc::new(committer);
        let metas = Arc::new(Metas::default());
        let folders = Folders::new(
            Arc::clone(&root),
            systems,
            Arc::clone(&committer),
            Arc::clone(&tally),
            Arc::clone(&share),
            Arc::clone(&metas),
        );
        let partials = Mutex::default();
        let open = Arc::new(Open { partials, folders, committer: Arc::clone(&committer) });
        let shed: Weak<dyn Shed> = Arc::<Open>::downgrade(&open);
        share.sheds(shed);
        Ok(Self {
            root,
            names,
            tag,
            push_tag,
            share,
            kept,
            open,
            metas,
            tally,
            is_distrusted: AtomicBool::new(false),
            committer,
            discards: false,
            served: None,
        })
    }

    /// The root is the one that is served as `root`, which is looked at again at the end.
    #[must_use]
    pub fn served_at(mut self, root: Arc<Root>) -> Self {
        self.served = Some(root);
        self
    }

    /// Keeps only this of the metadata.
    #[must_use]
    pub fn keeping(self, keep: Keep) -> Self {
        self.metas.keep(keep);
        self
    }

    /// Verifies contents and throws them away: files stay empty.
    #[must_use]
    pub fn discarding(mut self) -> Self {
        self.discards = true;
        self
    }

    /// Verifies a stripe and writes what it holds.
    pub fn apply(
        &self,
        header: &Header,
        table: &[u8],
        content: &[u8],
    ) -> Result<Applied, SinkError> {
        self.check_disk()?;
        if *blake3::hash(table).as_bytes() != header.table_hash {
            return Ok(Applied::Damaged);
        }
        let records = decode(table)?;
        let contents = split(&records, content)?;
        let intact = records.iter().zip(&contents).all(|(record, content)| match record {
            Record::Piece(piece) => {
                let (offset, len) = (piece.offset, piece.len);
                piece.is_name_only()
                    || hash_runs(offset, len, &piece.runs, content, piece.file_bytes) == piece.hash
            }
            _ => true,
        });
        if !intact {
            return Ok(Applied::Damaged);
        }
        let mut complete = Vec::new();
        let acted = records.iter().zip(contents).try_for_each(|(record, content)| {
            let _room = self.share.enter(|| self.committer.commit(std::mem::take(&mut complete)));
            complete.extend(self.act(record, content)?);
            if complete.len() >= GROUP {
                self.committer.commit(std::mem::take(&mut complete));
            }
            Ok::<_, SinkError>(())
        });
        self.committer.commit(complete);
        acted?;
        self.check_disk()?;
        Ok(Applied::Written)
    }

    /// The client does not keep to the protocol: what it has not completed goes with the transfer.
    pub fn distrust(&self) {
        self.is_distrusted.store(true, Relaxed);
    }

    /// Up to `max` of what could not be written and nobody has heard of, with numbers from `from` on.
    pub fn unheard(&self, from: u64, max: usize) -> Vec<Failed> {
        self.tally.unheard(from, max)
    }

    /// Whoever sends has heard of a failure.
    pub fn heard(&self, number: u64) {
        self.tally.heard(number);
    }

    /// Whether there is something of an earlier run.
    pub fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Tells what there is of earlier runs, and still is what it was, until `say` is false or `goes_on`
    /// is. Reads what may have been changed.
    pub fn recall(&self, goes_on: impl Fn() -> bool, say: impl FnMut(Remnant) -> bool) {
        self.kept.tell(&self.root, self.committer.places(), goes_on, say);
    }

    /// Makes everything durable and gives folders their modes and times. Files that are not whole by
    /// now are removed.
    pub fn finish(&self) -> Result<Outcome, SinkError> {
        let partials = std::mem::take(&mut *lock(&self.open.partials));
        for partial in partials.files.into_values() {
            self.tally.note_file(None, &partial.path, "not all of it arrived".into());
            partial.discard();
        }
        self.committer.flush();
        self.check_disk()?;
        self.check_root()?;
        self.look_for_moved();
        // Before folders get their times.
        self.kept.remove();
        self.open.folders.finish();
        self.check_disk()?;
        self.check_root()?;
        if !self.tally.has_put_off() {
            self.committer.close();
        }
        Ok(Outcome { unkept: self.metas.unkept(), ..self.tally.outcome() })
    }

    fn check_root(&self) -> Result<(), SinkError> {
        if self.served.as_ref().is_some_and(|served| !served.is(&self.root)) {
            let reason =
                "the root folder was moved or replaced under way: nothing is where it should be";
            return Err(SinkError::Disk(reason.into()));
        }
        Ok(())
    }

    /// What was put into folders that were moved or replaced meanwhile is not where it was sent to.
    fn look_for_moved(&self) {
        let mut moved = self.committer.places().moved(&self.root);
        if moved.is_empty() {
            return;
        }
        let reason = moved_reason();
        let mut earlier = HashSet::new();
        if let Some(noted) = self.committer.noted() {
            let kept = noted.read_with_place(|is_earlier, entry| {
                let Entry::File { path, .. } = entry else { return };
                let Some(put) = moved.get_mut(folder_of(&path)) else { return };
                if is_earlier && earlier.len() == EARLIER_MAX {
                    put.others += 1;
                } else if is_earlier {
                    earlier.insert(path);
                } else if put.files > 0 {
                    put.files -= 1;
                    earlier.remove(&path);
                    self.tally.take_back(&path, 1, 0, &reason);
                }
            });
            if let Err(error) = kept {
                tracing::warn!(%error, "a journal cannot be read: not every file can be named");
            }
        }
        for path in earlier {
            self.tally.note(&path, reason.clone());
        }
        for (path, put) in moved {
            self.tally.take_back(&path, put.files, put.bytes, &reason);
            self.tally.note_many(&path, put.others, &reason);
        }
    }

    fn check_disk(&self) -> Result<(), SinkError> {
        match self.tally.fatal() {
            Some(reason) => Err(SinkError::Disk(reason.to_owned())),
            None => Ok(()),
        }
    }

    /// Does what a record says. Returns the file that is complete with it, if there is one.
    fn act(&self, record: &Record, content: &[u8]) -> Result<Option<Complete>, SinkError> {
        match record {
            Record::Folder { path, meta, .. } => {
                if let Err(error) = self.open.folders.make(path, *meta) {
                    self.tally.fail(path, &error);
                }
            }
            Record::Symlink { item, path, meta, target } => {
                if let Err(error) = self.make_symlink(*item, path, *meta, target) {
                    self.tally.fail(path, &error);
                }
            }
            Record::Piece(piece) => return self.write_piece(piece, content),
            Record::Seal { item, hash } => return self.seal(*item, *hash),
            Record::Discard { item } => self.discard(*item)?,
        }
        Ok(None)
    }

    fn write_piece(&self, piece: &Piece, content: &[u8]) -> Result<Option<Complete>, SinkError> {
        let whole = piece.len == piece.file_bytes;
        let partial = if whole {
            Arc::new(Partial::new(piece))
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
        let written = if self.discards { Ok(()) } else { write_runs(temp, piece, content) };
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
            let adds = piece.len > 0;
            if adds && !progress.tree.add(piece.offset, piece.len, piece.hash) {
                return Err(SinkError::Protocol("the pieces of a file do not fit together".into()));
            }
            // What is whole was verified as a whole.
            whole || progress.seal.is_some() && progress.tree.root().is_some()
        };
        if is_done {
            return self.complete(piece.item, &partial);
        }
        if self.push_tag.is_some() && !piece.is_name_only() {
            match temp.open() {
                Ok(opened) => {
                    let has_content = piece.content_bytes() > 0;
                    self.committer.piece(Arc::clone(temp), opened, entry(piece), has_content);
                }
                Err(error) => return self.give_up(piece.item, &partial, reason(&error)),
            }
        }
        Ok(None)
    }

    /// The file that a piece belongs to, unless it is not wanted any more.
    fn partial(&self, piece: &Piece) -> Result<Option<Arc<Partial>>, SinkError> {
        let mut partials = lock(&self.open.partials);
        let Partials { files, early_seals, discarded } = &mut *partials;
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
            let partial = Partial::new(piece).with(kept);
            lock(&partial.progress).seal = early_seals.remove(&piece.item);
            Arc::new(partial)
        });
        if partial.bytes != piece.file_bytes || partial.path != piece.path {
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
                check_name(&parent, &file_name)?;
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
            if !self.discards && piece.content_bytes() < partial.bytes {
                allocate(temp.open()?.file(), partial.bytes, piece.sparse)?;
            }
            Ok(Arc::new(temp))
        };
        create().map_err(|error: io::Error| {
            self.tally.note_fatal(&partial.path, &error);
            reason(&error)
        })
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

    fn seal(&self, item: u64, hash: [u8; 32]) -> Result<Option<Complete>, SinkError> {
        let partial = {
            let mut partials = lock(&self.open.partials);
            let Some(partial) = partials.files.get(&item).cloned() else {
                if partials.discarded.contains(&item) {
                    return Ok(None);
                }
                if partials.early_seals.len() >= PARTIAL_MAX {
                    return Err(too_many());
                }
                partials.early_seals.insert(item, hash);
                return Ok(None);
            };
            partial
        };
        let is_done = {
            let mut progress = lock(&partial.progress);
            progress.seal = Some(hash);
            progress.tree.root().is_some()
        };
        if is_done { self.complete(item, &partial) } else { Ok(None) }
    }

    /// All of a file is there: it gets its mode and time, and is ready for its name. Only whoever added
    /// the last of its pieces and its seal gets here.
    fn complete(&self, item: u64, partial: &Partial) -> Result<Option<Complete>, SinkError> {
        let path = &partial.path;
        let Some(Ok(temp)) = partial.temp.get() else { return Ok(None) };
        let temp = Arc::clone(temp);
        let (root, seal) = {
            let progress = lock(&partial.progress);
            (progress.tree.root().map(|root| *root.as_bytes()), progress.seal)
        };
        let Some(hash) = root.filter(|root| seal.is_none_or(|seal| seal == *root)) else {
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
        self.metas.give_file(path, opened.file(), partial.meta, replaced);
        lock(&self.open.partials).files.remove(&item);
        let (path, source, bytes) = (path.clone(), partial.source, partial.bytes);
        Ok(Some(Complete { temp, opened, bytes, path, source, hash }))
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

    fn discard(&self, item: u64) -> Result<(), SinkError> {
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
        Ok(first)
    }

    fn make_symlink(&self, item: u64, path: &[u8], meta: Meta, target: &[u8]) -> io::Result<()> {
        let (parent, _) = self.open.folders.parent(path)?;
        let temp_name = self.names.part(&self.tag, item);
        parent.symlink_contents(os(target), &temp_name)?;
        let made = FileId::at(&parent, OsStr::new(&temp_name))?;
        self.metas.give_link(path, &parent, &temp_name, meta);
        let placed = made.check(&parent, &temp_name).and_then(|()| {
            let (parent, temp_name, id) = (&*parent, temp_name.as_str(), made);
            let placing = Placing { parent, temp_name, path, id, file_bytes: None };
            self.committer.places().place(&placing)
        });
        if placed.is_err() {
            made.remove(&parent, &temp_name)?;
        }
        self.committer.touched(&parent, folder_of(path))?;
        placed
    }
}

/// What is durable of an unfinished transfer stays for a later run; if that is nothing, so is its
/// journal.
impl Drop for Sink {
    fn drop(&mut self) {
        self.committer.flush();
        let partials = std::mem::take(&mut lock(&self.open.partials).files);
        if self.is_distrusted.load(Relaxed) {
            for partial in partials.values() {
                partial.discard();
            }
        }
        let is_kept = partials.values().any(|partial| partial.is_kept());
        let is_kept = is_kept || self.tally.has_put_off();
        if !is_kept && self.kept.is_empty() && !self.tally.has_files() {
            self.committer.close();
        }
    }
}

/// What the journal notes of a piece.
fn entry(piece: &Piece) -> Entry {
    let &Piece { source, file_bytes, offset, len, hash, .. } = piece;
    Entry::Piece { path: piece.path.clone(), source, file_bytes, offset, len, hash }
}

/// A file of many pieces whose name is taken by a folder, or cannot be a name here, fails before they are
/// sent.
fn check_name(parent: &Dir, name: &OsStr) -> io::Result<()> {
    match parent.symlink_metadata(name) {
        Ok(found) if found.is_dir() => Err(Errno::ISDIR.into()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Whether a file could not be made because of what is there under its name.
fn is_taken(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::EXIST | Errno::ISDIR | Errno::TXTBSY | Errno::PERM | Errno::ACCESS))
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
