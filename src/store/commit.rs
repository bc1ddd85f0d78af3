//! Giving files their names, durably and in batches.
//!
//! A file gets its name only after its content is on the disk, and the transfer is done only after the
//! name is as well. One thread does this for a transfer, so that many small files cost one flush
//! together and not one each.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use cap_std::fs::Dir;
use rustix::fs::{FlockOperation, Mode, OFlags};

use super::systems::{Systems, readable};

/// Complete files that wait for their names at most; then writers wait as well.
const QUEUE: usize = 512;
/// Files that are flushed together at most.
const BATCH: usize = 256;
/// Folders whose new names are not flushed yet, at most.
const FOLDERS_MAX: usize = 256;

/// What the names of temporary files begin and end with.
pub const TEMP_PREFIX: &str = ".qbulk-";
/// See [`TEMP_PREFIX`].
pub const TEMP_SUFFIX: &str = ".part";

/// The name under which an item is made; `tag` tells transfers apart.
pub fn temp_name(tag: &str, item: u64) -> String {
    format!("{TEMP_PREFIX}{tag}-{item}{TEMP_SUFFIX}")
}

/// A file under a temporary name, which goes with it unless the file is published. It is locked, so
/// that it can be told from what a killed process has left behind.
#[derive(Debug)]
pub struct TempFile {
    parent: Arc<Dir>,
    temp_name: String,
    file: File,
    published: AtomicBool,
}

impl TempFile {
    /// Creates an empty file that only its owner can read.
    pub fn create(parent: Arc<Dir>, tag: &str, item: u64) -> io::Result<Self> {
        let temp_name = temp_name(tag, item);
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = rustix::fs::openat(&*parent, temp_name.as_str(), flags, mode)?;
        if let Err(error) = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            tracing::debug!(file = temp_name, %error, "not locked");
        }
        Ok(Self { parent, temp_name, file: fd.into(), published: AtomicBool::new(false) })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    fn publish(&self, name: &OsString) -> io::Result<Arc<Dir>> {
        self.parent.rename(&self.temp_name, &self.parent, name)?;
        self.published.store(true, Relaxed);
        Ok(Arc::clone(&self.parent))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.published.load(Relaxed)
            && let Err(error) = self.parent.remove_file(&self.temp_name)
        {
            tracing::warn!(file = self.temp_name, %error, "cannot remove a temporary file");
        }
    }
}

/// A complete and verified file.
#[derive(Debug)]
pub struct Complete {
    /// The file.
    pub temp: Arc<TempFile>,
    /// Its name in its folder.
    pub name: OsString,
    /// Its path, for messages.
    pub path: Vec<u8>,
}

enum Job {
    File(Complete),
    Folder(Arc<Dir>, Vec<u8>),
    Flush(SyncSender<()>),
}

/// What was committed, by its path.
#[derive(Clone, Copy, Debug)]
pub enum Committed<'a> {
    /// A file got its name.
    File(&'a [u8]),
    /// The names in a folder were made durable.
    Folder(&'a [u8]),
}

/// Whether that worked.
pub type CommitResult = io::Result<()>;

/// The thread that gives names, and its queue.
#[derive(Debug)]
pub struct Committer {
    queue: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread. `on_commit` is called on it for each file, and each folder that failed.
    pub fn start(
        systems: Arc<Systems>,
        on_commit: impl FnMut(Committed<'_>, CommitResult) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let thread = thread::Builder::new().name("qbulk-commit".into()).spawn(move || {
            Worker { on_commit, systems, touched: HashMap::new() }.run(&jobs);
        })?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Queues a file; waits while the queue is full.
    pub fn commit(&self, file: Complete) {
        self.send(Job::File(file));
    }

    /// Notes that something was made in `folder`, which is at `path`, whose name must last too.
    pub fn touched(&self, folder: Arc<Dir>, path: &[u8]) {
        self.send(Job::Folder(folder, path.to_vec()));
    }

    /// Waits until everything that was queued has its name and is durable.
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
    systems: Arc<Systems>,
    /// Folders whose entries are not durable yet, and their paths, by device and inode.
    touched: HashMap<(u64, u64), (Arc<Dir>, Vec<u8>)>,
}

impl<F: FnMut(Committed<'_>, CommitResult)> Worker<F> {
    fn run(&mut self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut files = Vec::new();
            let mut flush = None;
            let mut next = Some(first);
            while let Some(job) = next.take() {
                match job {
                    Job::File(file) => files.push(file),
                    Job::Folder(folder, path) => self.touch(folder, path),
                    Job::Flush(done) => flush = Some(done),
                }
                if flush.is_none() && files.len() < BATCH {
                    next = jobs.try_recv().ok();
                }
            }
            self.commit(files);
            if flush.is_some() || self.touched.len() > FOLDERS_MAX {
                self.sync_folders();
            }
            if let Some(done) = flush
                && done.send(()).is_err()
            {
                tracing::debug!("nobody waits for the flush any more");
            }
        }
        self.sync_folders();
    }

    fn commit(&mut self, files: Vec<Complete>) {
        let opened: Vec<&File> = files.iter().map(|file| file.temp.file()).collect();
        let synced = self.systems.sync(&opened);
        for (file, synced) in files.into_iter().zip(synced) {
            let Complete { temp, name, path } = file;
            let published = synced.and_then(|()| temp.publish(&name));
            let result = published.map(|parent| self.touch(parent, folder_of(&path).to_vec()));
            (self.on_commit)(Committed::File(&path), result);
        }
    }

    fn touch(&mut self, folder: Arc<Dir>, path: Vec<u8>) {
        match rustix::fs::fstat(&*folder) {
            Ok(stat) => {
                self.touched.insert((stat.st_dev, stat.st_ino), (folder, path));
            }
            Err(error) => (self.on_commit)(Committed::Folder(&path), Err(error.into())),
        }
    }

    fn sync_folders(&mut self) {
        let (mut folders, mut paths) = (Vec::new(), Vec::new());
        for (folder, path) in std::mem::take(&mut self.touched).into_values() {
            match readable(&folder) {
                Ok(folder) => {
                    folders.push(folder);
                    paths.push(path);
                }
                Err(_) if self.systems.sync_around(&folder) => {}
                Err(error) => (self.on_commit)(Committed::Folder(&path), Err(error)),
            }
        }
        let synced = self.systems.sync(&folders.iter().collect::<Vec<_>>());
        for (path, result) in paths.iter().zip(synced) {
            if result.is_err() {
                (self.on_commit)(Committed::Folder(path), result);
            }
        }
    }
}

/// The path of the folder that `path` is in.
pub fn folder_of(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|&byte| byte == b'/').unwrap_or(0)]
}
