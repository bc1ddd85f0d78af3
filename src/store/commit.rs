//! Giving files their names, durably and in batches.
//!
//! A file gets its name only after its content is on the disk, and the transfer is done only after the
//! name is as well. One thread does this for a transfer, so that many small files cost one flush
//! together and not one each. The same thread flushes what is there of files that are not whole, and
//! keeps the journal of all that is durable.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cap_std::fs::Dir;

use super::file::FileId;
use super::journal::{Entry, Journal, JournalReader, Notes, Stamp, Trace};
use super::merge::{merged, state_of};
use super::places::Places;
use super::ration::Ration;
use super::root::open_folder;
use super::systems::{SYNCFS_FROM, Systems, readable};
use super::temp::{Opened, TempFile};
use super::{copy, folder_of, is_full};
use crate::wire::{Meta, SourceId};

/// Complete files that are handed over together at most: to hand over each by itself costs more than to
/// give it its name.
pub const GROUP: usize = 32;
/// Or if their paths take so much, in bytes.
pub const GROUP_BYTES: usize = 16 << 10;
/// What waits for the thread at most; then writers wait as well.
const QUEUE: usize = 32;
/// Files that are flushed together at most.
const BATCH: usize = 256;
/// After the first of them it is waited for others, so as not to be woken for each group.
const GATHER_TIME: Duration = Duration::from_millis(2);
/// Folders whose new names are not flushed yet, at most.
const FOLDERS_MAX: usize = 256;
/// Pieces that are flushed together at most.
const PIECES_MAX: usize = 4_096;
/// Or if their paths take so much, in bytes.
const PIECES_BYTES_MAX: usize = 1 << 20;
/// Pieces are flushed this often at most, and so that it takes one part in `CHECKPOINT_SHARE` of the
/// time.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(5);
const CHECKPOINT_SHARE: u32 = 5;
/// However long flushing takes, it is begun again after so long.
const CHECKPOINT_INTERVAL_MAX: Duration = Duration::from_millis(250);
/// How often pieces are noted that are nothing but holes.
const HOLES_INTERVAL: Duration = Duration::from_secs(1);
/// How often the journal itself is flushed.
const JOURNAL_INTERVAL: Duration = Duration::from_secs(1);

/// A complete and verified file.
#[derive(Debug)]
pub struct Complete {
    /// The file.
    pub temp: Arc<TempFile>,
    /// It stays open until it has its name.
    pub opened: Arc<Opened>,
    /// Its size, in bytes.
    pub bytes: u64,
    /// Its path below the root.
    pub path: Vec<u8>,
    /// What the client knows its content by.
    pub source: SourceId,
    /// Its BLAKE3 hash.
    pub hash: [u8; 32],
    /// The mode and time that it was sent with.
    pub meta: Meta,
    /// Others are to be linked to it.
    pub is_linked: bool,
}

enum Job {
    Files(Vec<Complete>),
    /// A piece, and how much content it has, in bytes.
    Piece(Written, Entry, u64),
    /// None is kept open for what was made in it.
    Folder(FileId, Vec<u8>),
    Flush(SyncSender<()>),
    /// Others wait for what pieces keep open.
    Hurry,
    /// What the journal has is wanted.
    Noted(SyncSender<Option<JournalReader>>),
    /// It is time for a checkpoint.
    Wake,
    Close,
}

/// A file that is not whole, and was written to: open until that is flushed.
type Written = (Arc<TempFile>, Arc<Opened>);

/// What was committed, by its path.
#[derive(Clone, Copy, Debug)]
pub enum Committed<'a> {
    /// A file got its name.
    File(&'a Complete),
    /// The names in a folder were made durable.
    Folder(&'a [u8]),
    /// A piece of a file was made durable.
    Piece(&'a [u8]),
}

/// Whether that worked.
pub type CommitResult = io::Result<()>;

/// The thread that gives names, and its queue.
#[derive(Debug)]
pub struct Committer {
    places: Arc<Places>,
    notes: Option<Notes>,
    queue: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread. `on_commit` is called on it for each file, and each folder or piece that
    /// failed. Without a journal, nothing is kept for a later run.
    pub fn start(
        root: Arc<Dir>,
        systems: Arc<Systems>,
        journal: Option<Journal>,
        ration: &Arc<Ration>,
        on_commit: impl FnMut(Committed<'_>, CommitResult) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let earlier = journal.as_ref().map(Journal::reader);
        let places = Arc::new(Places::new(&root, earlier, ration)?);
        let notes = journal.as_ref().map(Journal::notes);
        let told = Arc::clone(&places);
        let thread = thread::Builder::new().name("qbulk-commit".into()).spawn(move || {
            let now = Instant::now();
            let worker = Worker {
                on_commit,
                places: told,
                root,
                systems,
                journal,
                pieces: Vec::new(),
                pieces_bytes: 0,
                has_content: false,
                checkpoint_at: now,
                holes_at: now,
                journal_at: now + JOURNAL_INTERVAL,
                touched: HashMap::new(),
            };
            worker.run(&jobs);
        })?;
        Ok(Self { places, notes, queue: Some(queue), thread: Some(thread) })
    }

    /// Where things were put.
    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// What is noted in the journal by now, of this run and others; `None` if that is nothing.
    pub(super) fn noted(&self) -> Option<JournalReader> {
        let (sender, noted) = sync_channel(1);
        self.send(Job::Noted(sender));
        noted.recv().ok().flatten()
    }

    /// Queues files; waits while the queue is full.
    pub fn commit(&self, files: Vec<Complete>) {
        if !files.is_empty() {
            self.send(Job::Files(files));
        }
    }

    /// Queues a piece of a file that is not whole, which was written, with `bytes` of content.
    pub fn piece(&self, temp: Arc<TempFile>, opened: Arc<Opened>, piece: Entry, bytes: u64) {
        self.send(Job::Piece((temp, opened), piece, bytes));
    }

    /// Notes what is about to get a name that it may take from nothing else, or has just got it. What cannot
    /// be noted is in the way of a later run: that is no reason to end this one.
    pub(super) fn announce(&self, entry: &Entry) {
        if let Some(notes) = &self.notes
            && let Err(error) = notes.write(entry)
        {
            tracing::warn!(%error, "the journal cannot be written: less is kept for a later run");
        }
    }

    /// Pieces are flushed at once, and their files need not stay open.
    pub fn hurry(&self) {
        self.send(Job::Hurry);
    }

    /// Notes that something was made in `folder`, which is at `path`, whose name must last too.
    pub fn touched(&self, folder: &Dir, path: &[u8]) -> io::Result<()> {
        self.send(Job::Folder(FileId::of(folder)?, path.to_vec()));
        Ok(())
    }

    /// Removes the journal: there is nothing to go on with.
    pub fn close(&self) {
        self.send(Job::Close);
        self.flush();
    }

    /// Waits until everything that was queued is durable, and what is whole has its name.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        self.send(Job::Flush(done));
        if wait.recv().is_err() {
            tracing::error!("the thread that gives files their names has ended");
        }
    }

    fn send(&self, job: Job) {
        if let Some(queue) = &self.queue
            && queue.send(job).is_err()
        {
            tracing::error!("the thread that gives files their names has ended");
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that gives files their names has panicked");
        }
    }
}

struct Worker<F> {
    on_commit: F,
    places: Arc<Places>,
    root: Arc<Dir>,
    systems: Arc<Systems>,
    journal: Option<Journal>,
    /// Pieces that are written and not flushed yet.
    pieces: Vec<(Written, Entry)>,
    /// What their paths take.
    pieces_bytes: usize,
    /// Any of them has content, and not only holes.
    has_content: bool,
    checkpoint_at: Instant,
    holes_at: Instant,
    journal_at: Instant,
    /// The paths of folders whose entries are not durable yet.
    touched: HashMap<FileId, Vec<u8>>,
}

impl<F: FnMut(Committed<'_>, CommitResult)> Worker<F> {
    fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = self.next(jobs) {
            let mut files = Vec::new();
            let (mut flush, mut hurry) = (None, false);
            let mut next = Some(job);
            while let Some(job) = next.take() {
                match job {
                    Job::Files(group) => files.extend(group),
                    Job::Piece(written, piece, bytes) => {
                        self.has_content |= bytes > 0;
                        self.pieces_bytes += piece.path().len();
                        if let Some(journal) = &mut self.journal {
                            journal.earn(bytes);
                        }
                        self.pieces.push((written, piece));
                    }
                    Job::Folder(folder, path) => {
                        self.touched.insert(folder, path);
                    }
                    Job::Flush(done) => flush = Some(done),
                    Job::Hurry => hurry = true,
                    Job::Noted(wanted) => {
                        let noted = self.journal.as_ref().and_then(|journal| journal.all().ok());
                        if wanted.send(noted).is_err() {
                            tracing::debug!("nobody wants to know any more");
                        }
                    }
                    Job::Wake => {}
                    Job::Close => self.close(),
                }
                if flush.is_none() && files.len() < BATCH && !self.has_many_pieces() {
                    next = jobs.try_recv().ok();
                }
            }
            self.commit(files);
            let is_due = Instant::now() >= self.due_at() || self.has_many_pieces();
            if is_due || hurry || flush.is_some() {
                self.checkpoint();
            }
            if flush.is_some() || self.touched.len() > FOLDERS_MAX {
                self.sync_folders();
            }
            if let Some(done) = flush
                && done.send(()).is_err()
            {
                tracing::debug!("nobody waits for the flush any more");
            }
        }
        self.checkpoint();
        self.sync_folders();
    }

    fn has_many_pieces(&self) -> bool {
        self.pieces.len() >= PIECES_MAX || self.pieces_bytes >= PIECES_BYTES_MAX
    }

    /// When there is to be a checkpoint. Holes alone can wait: little is lost with them, and of many there
    /// is less to note.
    fn due_at(&self) -> Instant {
        if self.has_content { self.checkpoint_at } else { self.checkpoint_at.max(self.holes_at) }
    }

    /// Waits for a job, or for the time of the next checkpoint.
    fn next(&self, jobs: &Receiver<Job>) -> Result<Job, RecvError> {
        if let Ok(job) = jobs.try_recv() {
            return Ok(job);
        }
        if self.pieces.is_empty() {
            let job = jobs.recv()?;
            if matches!(job, Job::Files(_)) {
                thread::sleep(GATHER_TIME);
            }
            return Ok(job);
        }
        let wait = self.due_at().saturating_duration_since(Instant::now());
        match jobs.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => Ok(Job::Wake),
            Err(RecvTimeoutError::Disconnected) => Err(RecvError),
            Ok(job) => Ok(job),
        }
    }

    fn commit(&mut self, files: Vec<Complete>) {
        self.announce(&files);
        let opened: Vec<&File> = files.iter().map(|file| file.opened.file()).collect();
        let synced = self.systems.sync(&opened);
        for (file, synced) in files.into_iter().zip(synced) {
            let published = synced
                .and_then(|()| file.temp.publish(&self.places, &file.path, file.bytes, &file.hash));
            if published.as_ref().is_err_and(|error| !is_full(error)) {
                file.temp.discard();
            }
            let result = published.and_then(|parent| self.touch_around(&parent, &file.path));
            (self.on_commit)(Committed::File(&file), result);
            self.note_file(file);
        }
        self.write_journal();
    }

    /// Notes files that are about to get names that they may not take from anything else, so that a run that
    /// is killed in between does not find itself in its way.
    fn announce(&mut self, files: &[Complete]) {
        let (true, Some(journal)) = (self.places.is_append_only(), &mut self.journal) else {
            return;
        };
        for Complete { opened, path, hash, .. } in files {
            if let Ok(found) = rustix::fs::fstat(opened.file()) {
                let (path, hash, trace) = (path.clone(), *hash, Trace::of(&found));
                journal.add(&Entry::Placing { path, hash, trace });
            }
        }
        self.write_journal();
    }

    fn note_file(&mut self, file: Complete) {
        let Complete { temp, opened, path, source, hash, .. } = file;
        if let (Some(journal), true) = (&mut self.journal, temp.is_published())
            && let Ok(stamp) = Stamp::of(opened.file())
        {
            journal.add(&Entry::File { path, source, hash, stamp });
        }
    }

    /// Flushes the pieces that were written of unfinished files, and notes them in the journal: a later
    /// run can go on from there.
    fn checkpoint(&mut self) {
        let mut pieces = std::mem::take(&mut self.pieces);
        self.pieces_bytes = 0;
        self.has_content = false;
        self.holes_at = Instant::now() + HOLES_INTERVAL;
        pieces.retain(|((temp, _), _)| !temp.is_published());
        if pieces.is_empty() || self.journal.is_none() {
            return;
        }
        let began = Instant::now();
        let mut files: Vec<&Written> = pieces.iter().map(|(written, _)| written).collect();
        files.sort_by_key(|(temp, _)| Arc::as_ptr(temp));
        files.dedup_by(|a, b| Arc::ptr_eq(&a.0, &b.0));
        for (temp, _) in &files {
            temp.flushing();
        }
        let opened: Vec<_> = files.iter().map(|(_, opened)| opened.file()).collect();
        let synced = self.systems.sync(&opened);
        let failed: HashMap<_, _> = files
            .into_iter()
            .zip(synced)
            .filter_map(|((temp, _), result)| Some((Arc::as_ptr(temp), result.err()?)))
            .collect();
        let mut durable: HashMap<_, Vec<&Entry>> = HashMap::new();
        for ((temp, _), piece) in &pieces {
            match (failed.get(&Arc::as_ptr(temp)), &mut self.journal) {
                (Some(error), _) => {
                    temp.spoil(copy(error));
                    (self.on_commit)(Committed::Piece(piece.path()), Err(copy(error)));
                }
                (None, Some(_)) => {
                    durable.entry((Arc::as_ptr(temp), state_of(piece))).or_default().push(piece);
                    temp.keep();
                }
                (None, None) => {}
            }
        }
        if let Some(journal) = &mut self.journal {
            for piece in durable.into_values().flat_map(|pieces| merged(&pieces)) {
                journal.add(&piece);
            }
        }
        self.write_journal();
        let pause = began.elapsed() * (CHECKPOINT_SHARE - 1);
        self.checkpoint_at =
            Instant::now() + pause.clamp(CHECKPOINT_INTERVAL, CHECKPOINT_INTERVAL_MAX);
    }

    /// What cannot be noted is sent again by a later run: that is no reason to end this one.
    fn write_journal(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        let mut written = journal.write();
        let now = Instant::now();
        if written.is_ok() && now >= self.journal_at {
            written = journal.sync();
            self.journal_at = now + JOURNAL_INTERVAL;
        }
        if let Err(error) = written {
            tracing::warn!(%error, "the journal cannot be written: less is kept for a later run");
        }
    }

    fn close(&mut self) {
        if let Some(journal) = self.journal.take()
            && let Err(error) = journal.remove()
        {
            tracing::debug!(%error, "a journal is left behind");
        }
    }

    /// Something at `path` has got its name in `folder`.
    fn touch_around(&mut self, folder: &Dir, path: &[u8]) -> io::Result<()> {
        let id = FileId::of(folder)?;
        self.touched.entry(id).or_insert_with(|| folder_of(path).to_vec());
        Ok(())
    }

    /// Flushes the names in all folders that something was made in: many by flushing their file system,
    /// as well as one that is not at its path any more, or cannot be read.
    fn sync_folders(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        let is_many = touched.len() >= SYNCFS_FROM;
        let mut flushed = HashMap::new();
        for (folder, path) in touched {
            let device = folder.device();
            let mut flush =
                || *flushed.entry(device).or_insert_with(|| self.systems.sync_device(device));
            let is_flushed = is_many && flush();
            if !is_flushed
                && let Err(error) = self.sync_folder(folder, &path)
                && !flush()
            {
                (self.on_commit)(Committed::Folder(&path), Err(error));
            }
        }
    }

    fn sync_folder(&self, folder: FileId, path: &[u8]) -> io::Result<()> {
        let found = open_folder(&self.root, path)?;
        if FileId::of(&found)? != folder {
            return Err(io::Error::other("the folder is not at its path any more"));
        }
        readable(&found)?.sync_all()
    }
}
