//! Giving files their names, durably and in batches.
//!
//! A file gets its name only after its content is on the disk, and the transfer is done only after the
//! name is as well. One thread does this for a transfer, so that many small files cost one flush
//! together and not one each.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use cap_std::fs::Dir;
use rustix::fs::{Mode, OFlags};

/// Complete files that wait for their names at most; then writers wait as well.
const QUEUE: usize = 512;
/// Files that are flushed together at most.
const BATCH: usize = 256;
/// From so many files on, flushing the whole file system costs less than flushing each.
const SYNCFS_FROM: usize = 8;
/// Folders whose new names are not flushed yet, at most.
const FOLDERS_MAX: usize = 256;

/// A file under a temporary name, which goes with it unless the file is published.
#[derive(Debug)]
pub struct TempFile {
    parent: Arc<Dir>,
    temp_name: String,
    file: File,
    published: AtomicBool,
}

impl TempFile {
    /// Creates an empty file that only its owner can read.
    pub fn create(parent: Arc<Dir>, temp_name: String) -> io::Result<Self> {
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = rustix::fs::openat(&*parent, temp_name.as_str(), flags, mode)?;
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
    Folder(Arc<Dir>),
    Flush(SyncSender<()>),
}

/// What became of a file.
pub type CommitResult = io::Result<()>;

/// The thread that gives names, and its queue.
#[derive(Debug)]
pub struct Committer {
    queue: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread. `on_commit` is called on it with the path of each file.
    pub fn start(on_commit: impl FnMut(&[u8], CommitResult) + Send + 'static) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let thread = thread::Builder::new().name("qbulk-commit".into()).spawn(move || {
            Worker { on_commit, touched: HashMap::new(), whole: false }.run(&jobs);
        })?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Queues a file; waits while the queue is full.
    pub fn commit(&self, file: Complete) {
        self.send(Job::File(file));
    }

    /// Notes that folders were made in `folder`, whose names must last too.
    pub fn touched(&self, folder: Arc<Dir>) {
        self.send(Job::Folder(folder));
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
    /// Folders whose entries are not durable yet, by device and inode.
    touched: HashMap<(u64, u64), Arc<Dir>>,
    /// Folders were made: their parents, and theirs, are not all in `touched`.
    whole: bool,
}

impl<F: FnMut(&[u8], CommitResult)> Worker<F> {
    fn run(&mut self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut files = Vec::new();
            let mut flush = None;
            let mut next = Some(first);
            while let Some(job) = next.take() {
                match job {
                    Job::File(file) => files.push(file),
                    Job::Folder(folder) => {
                        self.whole = true;
                        self.touch(folder);
                    }
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
        let synced = sync_files(files.iter().map(|file| file.temp.file()));
        for (file, synced) in files.into_iter().zip(synced) {
            let Complete { temp, name, path } = file;
            let result = synced.and_then(|()| temp.publish(&name)).map(|parent| self.touch(parent));
            (self.on_commit)(&path, result);
        }
    }

    fn touch(&mut self, folder: Arc<Dir>) {
        if let Ok(stat) = rustix::fs::fstat(&*folder) {
            self.touched.insert((stat.st_dev, stat.st_ino), folder);
        }
    }

    fn sync_folders(&mut self) {
        let folders: Vec<File> =
            self.touched.drain().filter_map(|(_, folder)| readable(&folder).ok()).collect();
        let whole = std::mem::take(&mut self.whole);
        let results = if whole { sync_systems(&folders) } else { sync_files(folders.iter()) };
        for error in results.into_iter().filter_map(Result::err) {
            (self.on_commit)(b"", Err(error));
        }
    }
}

/// Makes files durable; says for each whether it is.
pub fn sync_files<'a>(files: impl ExactSizeIterator<Item = &'a File>) -> Vec<io::Result<()>> {
    if files.len() < SYNCFS_FROM {
        return files.map(File::sync_all).collect();
    }
    let files: Vec<&File> = files.collect();
    sync_systems(&files)
}

/// Flushes the file systems that `files` are on, each once.
fn sync_systems<Fd: AsFd>(files: &[Fd]) -> Vec<io::Result<()>> {
    let mut systems: HashMap<u64, Result<(), rustix::io::Errno>> = HashMap::new();
    let mut sync = |file: &Fd| {
        let device = rustix::fs::fstat(file)?.st_dev;
        let result = systems.entry(device).or_insert_with(|| rustix::fs::syncfs(file));
        Ok((*result)?)
    };
    files.iter().map(&mut sync).collect()
}

/// A folder's descriptor that can be flushed and have its mode changed.
pub fn readable(folder: &Dir) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd: OwnedFd = rustix::fs::openat(folder, ".", flags, Mode::empty())?;
    Ok(fd.into())
}
