//! What a transfer has left behind so far.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::{fmt, io};

use cap_std::fs::Dir;

use super::commit::Complete;
use super::ration::{Kept as Memory, Ration};
use super::space::is_system_full;
use super::{named, reason};
use crate::mutex::lock;
use crate::wire::{Meta, Unkept};

/// What failures may take, in bytes, that whoever sends has not heard of; more are only counted.
const UNHEARD_BYTES_MAX: usize = 4 << 20;
/// What one takes beside its path and reason, roughly.
const FAILED_BYTES: usize = 128;

/// Something that could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its number among all failures.
    pub number: u64,
    /// The item, if more of it may be to come.
    pub item: Option<u64>,
    /// Its path.
    pub path: Vec<u8>,
    /// Why.
    pub reason: String,
}

/// Something that was delivered, or could not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered<'a> {
    /// A file has its name, and its content is durable.
    File {
        /// Its path.
        path: &'a [u8],
        /// Its size, in bytes.
        bytes: u64,
        /// Its BLAKE3 hash.
        hash: [u8; 32],
        /// The mode and time that it was sent with.
        meta: Meta,
        /// An earlier run has delivered it.
        is_kept: bool,
    },
    /// A file is not sent because of what is there.
    Skipped {
        /// Its path.
        path: &'a [u8],
        /// Its size at the source, in bytes.
        bytes: u64,
        /// Its mode and time there.
        meta: Meta,
    },
    /// A folder is there.
    Folder {
        /// Its path.
        path: &'a [u8],
        /// The mode and time that it was sent with.
        meta: Meta,
    },
    /// A link is there.
    Symlink {
        /// Its path.
        path: &'a [u8],
        /// What it says.
        target: &'a [u8],
    },
    /// A device, a pipe or a socket is there.
    Special {
        /// Its path.
        path: &'a [u8],
    },
    /// Something failed: what was told of it before, or of what is below it, does not hold.
    Failed {
        /// Its path.
        path: &'a [u8],
        /// Why.
        reason: &'a str,
    },
}

/// Is told what becomes of all that is sent; it must not block for long.
pub type Teller = Box<dyn Fn(&Delivered<'_>) + Send + Sync>;

/// What a transfer left behind.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Files that have their name.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// What could not be written, as far as nobody has heard of it.
    pub failures: Vec<Failed>,
    /// How many files could not be written.
    pub failed_files: u64,
    /// How many files were taken back by the sender.
    pub discarded_files: u64,
    /// How many folders and links could not be made.
    pub failed_others: u64,
    /// Metadata that could not be kept.
    pub unkept: Vec<Unkept>,
}

/// Counts what becomes of files, folders and links.
#[derive(Debug)]
pub(super) struct Tally {
    root: Arc<Dir>,
    files: AtomicU64,
    bytes: AtomicU64,
    failed_files: AtomicU64,
    discarded_files: AtomicU64,
    failures: Mutex<Failures>,
    /// Why nothing more can be written.
    fatal: OnceLock<String>,
    has_put_off: AtomicBool,
    has_ended: AtomicBool,
    teller: OnceLock<Told>,
}

/// Who is told.
struct Told(Teller);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").finish_non_exhaustive()
    }
}

/// What has failed.
#[derive(Debug)]
struct Failures {
    /// How many there are.
    count: u64,
    /// Those that nobody has heard of, by their numbers.
    unheard: BTreeMap<u64, Failed>,
    bytes: usize,
    memory: Memory,
}

impl Failed {
    fn bytes(&self) -> usize {
        FAILED_BYTES + self.path.len() + self.reason.len()
    }
}

impl Tally {
    /// Of a transfer to what is below `root`.
    pub(super) fn new(root: Arc<Dir>, ration: &Arc<Ration>) -> Self {
        let memory = Memory::none(ration);
        let failures = Failures { count: 0, unheard: BTreeMap::new(), bytes: 0, memory };
        Self {
            root,
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failed_files: AtomicU64::new(0),
            discarded_files: AtomicU64::new(0),
            failures: Mutex::new(failures),
            fatal: OnceLock::new(),
            has_put_off: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            teller: OnceLock::new(),
        }
    }

    /// Has `teller` told.
    pub(super) fn tell_to(&self, teller: Teller) {
        self.teller.get_or_init(|| Told(teller));
    }

    /// Tells something.
    pub(super) fn tell(&self, delivered: &Delivered<'_>) {
        if let Some(Told(teller)) = self.teller.get() {
            teller(delivered);
        }
    }

    /// Something could not be written because of `error`.
    pub(super) fn fail(&self, path: &[u8], error: &io::Error) {
        self.note_fatal(path, error);
        self.note(path, reason(error));
    }

    /// A file could not be written; `item` is given if more of it may be to come.
    pub(super) fn note_file(&self, item: Option<u64>, path: &[u8], reason: String) {
        self.failed_files.fetch_add(1, Relaxed);
        self.add(item, path, reason);
    }

    /// Something could not be written.
    pub(super) fn note(&self, path: &[u8], reason: String) {
        self.add(None, path, reason);
    }

    fn add(&self, item: Option<u64>, path: &[u8], reason: String) {
        self.tell(&Delivered::Failed { path, reason: &reason });
        let mut failures = lock(&self.failures);
        let failed = Failed { number: failures.count, item, path: path.to_vec(), reason };
        failures.count += 1;
        if failures.bytes + failed.bytes() <= UNHEARD_BYTES_MAX
            && failures.memory.add(failed.bytes())
        {
            failures.bytes += failed.bytes();
            failures.unheard.insert(failed.number, failed);
        }
    }

    /// Up to `max` failures that nobody has heard of, with numbers from `from` on.
    pub(super) fn unheard(&self, from: u64, max: usize) -> Vec<Failed> {
        let failures = lock(&self.failures);
        failures.unheard.range(from..).take(max).map(|(_, failed)| failed.clone()).collect()
    }

    /// Whoever sends has heard of a failure.
    pub(super) fn heard(&self, number: u64) {
        let mut failures = lock(&self.failures);
        if let Some(failed) = failures.unheard.remove(&number) {
            failures.bytes -= failed.bytes();
            failures.memory.less(failed.bytes());
        }
    }

    /// What fails one file is the failure of what lies there: a quota, a mount, a broken block. Only where
    /// the root as a whole is full nothing more can come of the transfer.
    pub(super) fn note_fatal(&self, path: &[u8], error: &io::Error) {
        if error.kind() == io::ErrorKind::StorageFull && is_system_full(&self.root) {
            self.fatal.get_or_init(|| format!("cannot write {}: {}", named(path), reason(error)));
        }
    }

    /// The transfer has ended: nothing more is begun for it.
    pub(super) fn end(&self) {
        self.has_ended.store(true, Relaxed);
    }

    /// Whether it has.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Relaxed)
    }

    /// There was no room for a file: a later run is to go on with what is there, whatever becomes of this
    /// one.
    pub(super) fn put_off(&self) {
        self.has_put_off.store(true, Relaxed);
    }

    /// Whether there was a file for which there was no room.
    pub(super) fn has_put_off(&self) -> bool {
        self.has_put_off.load(Relaxed)
    }

    /// Why nothing more can be written, if that is so.
    pub(super) fn fatal(&self) -> Option<&str> {
        self.fatal.get().map(String::as_str)
    }

    /// A file has its name.
    pub(super) fn add_file(&self, file: &Complete) {
        let &Complete { ref path, bytes, hash, meta, .. } = file;
        self.files.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.tell(&Delivered::File { path, bytes, hash, meta, is_kept: false });
    }

    /// A file that has its name, of `bytes` bytes, is not where it should be.
    pub(super) fn take_back(&self, path: &[u8], files: u64, bytes: u64, reason: &str) {
        self.files.fetch_sub(files, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
        self.failed_files.fetch_add(files, Relaxed);
        self.note_many(path, files, reason);
    }

    /// So many things could not be written, or are not where they should be.
    pub(super) fn note_many(&self, path: &[u8], count: u64, reason: &str) {
        if count > 0 {
            self.note(path, reason.into());
            lock(&self.failures).count += count - 1;
        }
    }

    /// Whether any file has its name.
    pub(super) fn has_files(&self) -> bool {
        self.files.load(Relaxed) > 0
    }

    /// The sender has taken a file back.
    pub(super) fn add_discarded(&self) {
        self.discarded_files.fetch_add(1, Relaxed);
    }

    /// All of it.
    pub(super) fn outcome(&self) -> Outcome {
        let failures = self.unheard(0, usize::MAX);
        let failed = lock(&self.failures).count;
        let failed_files = self.failed_files.load(Relaxed);
        Outcome {
            files: self.files.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            failures,
            failed_files,
            discarded_files: self.discarded_files.load(Relaxed),
            failed_others: failed.saturating_sub(failed_files),
            unkept: Vec::new(),
        }
    }
}
