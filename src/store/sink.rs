//! Writing what arrives: verified before it is written, under a temporary name until it is whole.
//!
//! A client is not trusted. Every path is opened relative to the root's descriptor and cannot lead out
//! of it, neither by its name nor by a link on the way.

mod based;
mod linked;
mod made;
mod partial;
mod pieces;
mod shown;
mod table;

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};

use cap_std::fs::Dir;

use self::partial::Partials;
use self::table::{decode, split};
use super::commit::{Committed, Committer, Complete, GROUP, GROUP_BYTES};
use super::descriptors::{Share, Shed};
use super::folders::Folders;
use super::holes::hash_runs;
use super::journal::{Entry, Journal};
use super::kept::{Kept, Remnant};
use super::links::Links;
use super::meta::Metas;
use super::own::OwnNames;
use super::places::moved_reason;
use super::pour::{Outlet, Pour, PourError};
use super::root::Root;
use super::systems::Systems;
use super::tally::{Delivered, Failed, Outcome, Tally, Teller};
use super::{beneath, folder_of, is_full, join, reason, shown};
use crate::mutex::lock;
use crate::wire::{Compares, Extra, Extras, Header, Keep, Packing, Record, Skip, WireError};

/// So many files of earlier runs are named where their folder was moved; others are counted.
const EARLIER_MAX: usize = 1 << 16;

/// Why something is not begun any more.
const ENDED: &str = "the transfer has ended";

/// What became of a stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was as announced, and all that could be written of it was.
    Written,
    /// It was as announced, and waits for what comes before it.
    Held,
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

impl From<PourError> for SinkError {
    fn from(error: PourError) -> Self {
        match error {
            PourError::Protocol(why) => Self::Protocol(why),
            PourError::Disk(why) => Self::Disk(why),
        }
    }
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
    links: Arc<Links>,
    tally: Arc<Tally>,
    is_distrusted: AtomicBool,
    committer: Arc<Committer>,
    /// What is sent goes to a pipe.
    pour: Option<Pour>,
    /// How long a file is is known with its last pieces.
    streams: bool,
    /// Content is verified and not written.
    discards: bool,
    /// The sender may know what is there.
    shows: bool,
    /// What content that is there it may ask for.
    compares: Compares,
    /// The sender has said that content may be packed.
    unpacks: bool,
    /// What was taken of files that are there, in bytes.
    matched_bytes: AtomicU64,
    /// What is told of as skipped.
    skip: Option<Skip>,
    /// What the root is served as.
    served: Option<Arc<Root>>,
    /// Nothing is written but this and what is below it; empty for the root.
    within: Vec<u8>,
    /// What the client's paths have in front of those below the root.
    root_name: Vec<u8>,
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
        let tally = Arc::new(Tally::new(Arc::clone(&root), share.ration()));
        let told = Arc::clone(&tally);
        let links = Arc::new(Links::new(share.ration()));
        let linked = Arc::clone(&links);
        let systems = Arc::new(Systems::of(&root));
        let committer = Committer::start(
            Arc::clone(&root),
            Arc::clone(&systems),
            journal,
            share.ration(),
            move |committed, result| match (committed, result) {
                (Committed::File(file), Ok(())) => {
                    told.add_file(file);
                    if file.is_linked && file.temp.is_published() {
                        linked.has_put(file);
                    }
                }
                (Committed::Folder(_) | Committed::Piece(_), Ok(())) => {}
                // The file fails with its next piece, or when it is to get its name.
                (Committed::Piece(path), Err(error)) => told.note_fatal(path, &error),
                (Committed::File(file), Err(error)) => {
                    told.note_fatal(&file.path, &error);
                    told.note_file(None, &file.path, reason(&error));
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
            names.clone(),
            systems,
            Arc::clone(&committer),
            Arc::clone(&tally),
            Arc::clone(&share),
            Arc::clone(&metas),
        );
        let partials = Mutex::new(Partials::new(share.ration()));
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
            links,
            tally,
            is_distrusted: AtomicBool::new(false),
            committer,
            pour: None,
            streams: false,
            discards: false,
            shows: false,
            compares: Compares::default(),
            unpacks: false,
            matched_bytes: AtomicU64::new(0),
            skip: None,
            served: None,
            within: Vec::new(),
            root_name: Vec::new(),
        })
    }

    /// The root is the one that is served as `root`, which is looked at again at the end.
    #[must_use]
    pub fn served_at(mut self, root: Arc<Root>) -> Self {
        self.served = Some(root);
        self
    }

    /// The sender's paths begin with the name of the root, if it has one.
    #[must_use]
    pub fn called(mut self, root_name: Vec<u8>) -> Self {
        self.root_name = root_name;
        self
    }

    /// Nothing that is there is replaced or changed: what would be fails.
    #[must_use]
    pub fn appending(self) -> Self {
        self.committer.places().append_only();
        self
    }

    /// Takes nothing but what is at `path` or below it.
    #[must_use]
    pub fn only_at(mut self, path: Vec<u8>) -> Self {
        self.within = path;
        self
    }

    /// Keeps only this of the metadata.
    #[must_use]
    pub fn keeping(self, keep: Keep) -> Self {
        self.metas.keep(keep);
        self
    }

    /// Keeps this of the metadata as well; what root can do is done if it `is_allowed` and this is root.
    #[must_use]
    pub fn keeping_more(mut self, extras: Extras, is_allowed: bool) -> Self {
        self.metas.keep_more(extras, is_allowed);
        if extras.hard_links {
            self.kept.list_paths();
        }
        self
    }

    /// The root itself is to have the mode and time that are sent for it.
    #[must_use]
    pub fn with_root(self) -> Self {
        self.open.folders.with_root();
        self
    }

    /// Tells `teller` of all that is delivered, and of what fails.
    #[must_use]
    pub fn telling(mut self, teller: Teller) -> Self {
        self.tally.tell_to(teller);
        self.kept.list();
        self
    }

    /// Verifies contents and throws them away: files stay empty.
    #[must_use]
    pub fn discarding(mut self) -> Self {
        self.discards = true;
        self
    }

    /// Writes the one file that is sent to `outlet`, in order, and nothing to the disk.
    #[must_use]
    pub fn pouring(mut self, outlet: Outlet) -> Self {
        self.pour = Some(Pour::new(outlet));
        self
    }

    /// Stripes that were held and are written by now; each is told once.
    pub fn poured(&self) -> Vec<u64> {
        self.pour.as_ref().map_or(Vec::new(), Pour::poured)
    }

    /// What is sent comes from a pipe: how long it is is known with its last pieces.
    #[must_use]
    pub fn streaming(mut self) -> Self {
        self.streams = true;
        self
    }

    /// The sender may know what is there.
    #[must_use]
    pub fn showing(mut self) -> Self {
        self.shows = true;
        self
    }

    /// The sender has said that it asks for content that is there.
    #[must_use]
    pub fn comparing(mut self, compares: Compares) -> Self {
        self.compares = compares;
        self
    }

    /// The sender has said whether content may be packed.
    #[must_use]
    pub fn unpacking(mut self, packing: Packing) -> Self {
        self.unpacks = packing != Packing::None;
        self
    }

    /// Whether content may be packed.
    pub fn unpacks(&self) -> bool {
        self.unpacks
    }

    /// Tells of what is skipped by this, as the sender skips it.
    #[must_use]
    pub fn skipping(mut self, skip: Skip) -> Self {
        self.skip = Some(skip);
        self
    }

    /// Whether it may.
    pub fn shows(&self) -> bool {
        self.shows
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
        let records = decode(table, &self.root_name, &self.within)?;
        let contents = split(&records, content)?;
        self.check_based(&records)?;
        let intact = records.iter().zip(&contents).all(|(record, content)| match record.plain() {
            Record::Piece(piece) => {
                let (offset, len) = (piece.offset, piece.len);
                // What is based on a file that is there is verified with that.
                piece.is_name_only()
                    || based::is_based(piece)
                    || hash_runs(offset, len, &piece.runs, content, piece.file_bytes) == piece.hash
            }
            _ => true,
        });
        if !intact {
            return Ok(Applied::Damaged);
        }
        if let Some(pour) = &self.pour {
            let is_written = pour.take(header.stripe, records.iter().zip(contents))?;
            return Ok(if is_written { Applied::Written } else { Applied::Held });
        }
        let mut complete = Vec::new();
        let acted = records.iter().zip(contents).try_for_each(|(record, content)| {
            if self.tally.has_ended() {
                return Err(SinkError::Disk(ENDED.into()));
            }
            let _room = self.share.enter(|| self.committer.commit(std::mem::take(&mut complete)));
            complete.extend(self.act(record, content)?);
            let bytes: usize = complete.iter().map(|complete: &Complete| complete.path.len()).sum();
            if complete.len() >= GROUP || bytes >= GROUP_BYTES {
                self.committer.commit(std::mem::take(&mut complete));
            }
            Ok::<_, SinkError>(())
        });
        self.committer.commit(complete);
        acted?;
        self.check_disk()?;
        Ok(Applied::Written)
    }

    /// Whether the sender did not keep to the protocol.
    pub fn is_distrusted(&self) -> bool {
        self.is_distrusted.load(Relaxed)
    }

    /// The transfer has ended: what is still under way need not be done to its end.
    pub fn end(&self) {
        self.tally.end();
    }

    /// The client does not keep to the protocol: what it has not completed goes with the transfer.
    pub fn distrust(&self) {
        self.is_distrusted.store(true, Relaxed);
    }

    /// Up to `max` of what could not be written and nobody has heard of, with numbers from `from` on.
    pub fn unheard(&self, from: u64, max: usize) -> Vec<Failed> {
        let unheard = self.tally.unheard(from, max);
        unheard.into_iter().map(|failed| self.as_sent(failed)).collect()
    }

    /// A failure with its path as the client says it.
    fn as_sent(&self, failed: Failed) -> Failed {
        Failed { path: join(&self.root_name, &failed.path), ..failed }
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
        self.kept.tell(&self.root, &self.root_name, self.committer.places(), goes_on, say);
    }

    /// Makes everything durable and gives folders their modes and times. Files that are not whole by
    /// now are removed.
    pub fn finish(&self) -> Result<Outcome, SinkError> {
        if let Some(pour) = &self.pour {
            return Ok(Outcome { files: 1, bytes: pour.finish()?, ..Outcome::default() });
        }
        let partials = std::mem::take(&mut lock(&self.open.partials).files);
        for partial in partials.into_values() {
            self.tally.note_file(None, &partial.path, "not all of it arrived".into());
            partial.discard();
        }
        self.committer.flush();
        self.check_disk()?;
        self.check_root()?;
        self.make_links();
        self.committer.flush();
        self.look_for_moved();
        // Before folders get their times.
        self.kept.remove();
        self.open.folders.finish();
        self.check_disk()?;
        self.check_root()?;
        if !self.tally.has_put_off() {
            self.committer.close();
        }
        self.open.folders.finish_root();
        let mut unkept = self.metas.unkept();
        for unkept in &mut unkept {
            unkept.path = join(&self.root_name, &unkept.path);
        }
        let outcome = self.tally.outcome();
        let failures = outcome.failures.into_iter().map(|failed| self.as_sent(failed)).collect();
        Ok(Outcome { failures, unkept, ..outcome })
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
        let extra = record.extra();
        if extra.is_some_and(|extra| !self.has_asked_for(extra)) {
            return Err(SinkError::Protocol("it sends metadata that nobody has asked for".into()));
        }
        match record.plain() {
            Record::Folder { path, meta, .. } => match self.open.folders.make(path, *meta, extra) {
                Ok(()) => self.tally.tell(&Delivered::Folder { path, meta: *meta }),
                Err(error) => self.tally.fail(path, &error),
            },
            Record::Symlink { item, path, meta, target } => {
                match self.make_symlink(*item, path, (*meta, extra), target) {
                    Ok(()) => self.tally.tell(&Delivered::Symlink { path, target }),
                    Err(error) => self.tally.fail(path, &error),
                }
            }
            Record::Piece(piece) => return self.write_piece(piece, content, extra),
            Record::Seal { item, hash } => return self.seal(*item, *hash, extra),
            Record::Discard { item } => self.discard(*item)?,
            &Record::Kept { ref path, meta, file_bytes, hash, .. } => {
                // Nobody is believed that something is here which was not told of.
                if !self.kept.was_told(path, &hash) {
                    let path = shown(path);
                    return Err(SinkError::Protocol(format!("nothing is kept of {path:?}")));
                }
                let found = beneath::stat(&self.root, path);
                self.tally.tell(&if found.is_ok_and(|found| found.st_size as u64 == file_bytes) {
                    Delivered::File { path, bytes: file_bytes, hash, meta, is_kept: true }
                } else {
                    Delivered::Failed { path, reason: "it has changed since" }
                });
            }
            Record::Special { item, path, meta, what } => {
                match self.make_special(*item, path, (*meta, extra), *what) {
                    Ok(()) => self.tally.tell(&Delivered::Special { path }),
                    Err(error) => self.tally.fail(path, &error),
                }
            }
            Record::Adopt { path, meta, file_bytes, .. } => {
                if let Err(error) = self.adopt(path, *meta, *file_bytes, extra)? {
                    self.tally.fail(path, &error);
                }
            }
            link @ Record::Link { path, .. } if self.metas.extras().hard_links => {
                if !self.discards
                    && let Err(error) = self.links.add(&self.root, link)
                {
                    self.tally.fail(path, &error);
                }
            }
            Record::With { .. } | Record::Link { .. } => {
                return Err(SinkError::Protocol("a record is where none can be".into()));
            }
        }
        Ok(None)
    }

    fn has_asked_for(&self, extra: &Extra) -> bool {
        let asked = self.metas.extras();
        (extra.owner.is_none() || asked.has_owners())
            && (extra.xattrs.is_none() || asked.has_xattrs())
            && (!extra.is_linked || asked.hard_links)
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
        let is_kept = is_kept || self.tally.has_put_off() || self.committer.places().has_own();
        if !is_kept && self.kept.is_empty() && !self.tally.has_files() {
            self.committer.close();
        }
    }
}
