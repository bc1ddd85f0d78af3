//! The receiver's journal: what of a transfer is durable, so that a later run can go on from there.
//!
//! A file in the root folder, next to the files that it speaks of, and only ever appended to. Each
//! entry stands for itself and has a checksum, so that damage costs the entries that it hits and no
//! other: reading goes on at the next mark. An entry is written only after what it tells of is on the
//! disk; one that is lost means that its content is sent again.

mod entry;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use cap_std::fs::Dir;
use rustix::fs::OFlags;
use rustix::io::Errno;

pub use self::entry::{Entry, Stamp, Trace, read_entries};
use super::file::{self, FileId};
use super::lock::{Lock, lock_file};
use super::own::{OwnNames, Owner};

/// How often to look whether an earlier run of the same push has let go of its journal.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);
/// What a journal may take beside files that are there, in bytes: of what costs its sender nothing, such as holes
/// and names that are taken, there may be more than anybody goes on with.
const UNEARNED_BYTES_MAX: u64 = 64 << 20;
/// For each byte of content, so many parts of one may be noted.
const EARNED_SHARE: u64 = 64;
/// Journals of one push that there may be at a time, of runs that know nothing of each other.
const GENERATIONS_MAX: u32 = 8;

/// An open journal, which belongs to this process alone.
#[derive(Debug)]
pub struct Journal {
    owner: Owner,
    root: Arc<Dir>,
    names: OwnNames,
    generation: u32,
    name: String,
    file: Arc<File>,
    /// Its length when it was opened: what earlier runs have left.
    kept_bytes: u64,
    /// When an earlier run last wrote to it.
    kept_at: SystemTime,
    buffer: Vec<u8>,
    /// What may still be noted, in bytes.
    left: Arc<AtomicU64>,
}

/// What becomes of a run whose push has a journal that somebody still writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It waits for so long, and is then refused with [`io::ErrorKind::WouldBlock`].
    Wait(Duration),
    /// It has a journal of its own.
    Beside,
}

/// What is under a journal's name.
enum Place {
    Free,
    /// A journal that nobody writes to, which is this process's now.
    Left(Journal),
    /// A journal of a run that has not ended.
    Held,
    /// Nothing that this server has put there, or can use.
    Taken(io::Error),
}

impl Journal {
    /// Opens the journal of `owner` in `root`, or makes one. Where something else has its name, there is
    /// another.
    pub fn open(
        root: &Arc<Dir>,
        names: &OwnNames,
        owner: Owner,
        patience: Patience,
    ) -> io::Result<Self> {
        let began = Instant::now();
        loop {
            let mut is_held = false;
            let (mut left, mut free, mut taken) = (None::<Self>, None, None);
            for generation in 0..GENERATIONS_MAX {
                match Self::look(root, names, owner, generation) {
                    Place::Free => free = free.or(Some(generation)),
                    // One that holds something is better than an earlier one that does not.
                    Place::Left(journal)
                        if left.as_ref().is_none_or(|left| left.kept_bytes == 0) =>
                    {
                        left = Some(journal);
                    }
                    Place::Left(_) => {}
                    Place::Held => is_held = true,
                    Place::Taken(error) => taken = Some(error),
                }
            }
            if let (true, Patience::Wait(time)) = (is_held, patience) {
                if began.elapsed() >= time {
                    return Err(Errno::AGAIN.into());
                }
                drop(left);
                thread::sleep(LOCK_INTERVAL);
                continue;
            }
            if let Some(error) = &taken {
                tracing::warn!(%error, "a journal's name is taken by something else");
            }
            if let Some(journal) = left {
                return Ok(journal);
            }
            let Some(generation) = free else {
                return Err(taken.unwrap_or_else(|| io::Error::other("too many runs side by side")));
            };
            // Somebody else may be quicker.
            if let Some(journal) = Self::create(root, names, owner, generation)? {
                return Ok(journal);
            }
        }
    }

    /// Whether there is something in `root` under the name of a journal of `owner`.
    pub fn is_left(root: &Dir, names: &OwnNames, owner: &Owner) -> bool {
        (0..GENERATIONS_MAX)
            .any(|generation| root.symlink_metadata(names.journal(owner, generation)).is_ok())
    }

    fn look(root: &Arc<Dir>, names: &OwnNames, owner: Owner, generation: u32) -> Place {
        let name = names.journal(&owner, generation);
        let file = match file::open(root, &name, OFlags::APPEND) {
            Err(Errno::NOENT) => return Place::Free,
            Err(error) => return Place::Taken(error.into()),
            Ok(file) => file,
        };
        if lock_file(&file) == Lock::Busy {
            return Place::Held;
        }
        match Self::of(Arc::clone(root), names.clone(), owner, generation, file) {
            // Whoever had it before may have removed it meanwhile.
            Ok(None) => Place::Free,
            Ok(Some(journal)) => Place::Left(journal),
            Err(error) => Place::Taken(error),
        }
    }

    fn create(
        root: &Arc<Dir>,
        names: &OwnNames,
        owner: Owner,
        generation: u32,
    ) -> io::Result<Option<Self>> {
        let name = names.journal(&owner, generation);
        let file = match file::open(root, &name, OFlags::APPEND | OFlags::CREATE | OFlags::EXCL) {
            Err(Errno::EXIST) => return Ok(None),
            opened => opened?,
        };
        if lock_file(&file) == Lock::Busy {
            return Ok(None);
        }
        Self::of(Arc::clone(root), names.clone(), owner, generation, file)
    }

    /// A file that is locked, if it still has its name.
    fn of(
        root: Arc<Dir>,
        names: OwnNames,
        owner: Owner,
        generation: u32,
        file: File,
    ) -> io::Result<Option<Self>> {
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        if found.nlink() == 0 {
            return Ok(None);
        }
        let name = names.journal(&owner, generation);
        let (kept_bytes, kept_at) = (found.len(), found.modified()?);
        let buffer = Vec::new();
        let file = Arc::new(file);
        let left = Arc::new(AtomicU64::new(UNEARNED_BYTES_MAX.saturating_sub(kept_bytes)));
        Ok(Some(Self {
            owner,
            root,
            names,
            generation,
            name,
            file,
            kept_bytes,
            kept_at,
            buffer,
            left,
        }))
    }

    /// What the names of its unfinished files have of it.
    pub fn tag(&self) -> String {
        format!("{}{:x}", self.owner.tag(), self.generation)
    }

    /// What makes these names.
    pub fn names(&self) -> &OwnNames {
        &self.names
    }

    /// Whether a file was changed in any way after the last of an earlier run's entries was written.
    /// The run itself goes on writing until its next entry, for less than `grace`.
    pub fn is_changed_since(&self, file: &File, grace: Duration) -> io::Result<bool> {
        let (seconds, nanoseconds) = Stamp::of(file)?.ctime;
        let changed = Duration::new(seconds.max(0).cast_unsigned(), nanoseconds as u32);
        let kept = self.kept_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(changed > kept + grace)
    }

    /// What earlier runs have left.
    pub fn reader(&self) -> JournalReader {
        let (root, name) = (Arc::clone(&self.root), self.name.clone());
        let bytes = self.kept_bytes;
        JournalReader { owner: self.owner, root, name, kept_bytes: bytes, bytes }
    }

    /// For whoever has something to note at once.
    pub(super) fn notes(&self) -> Notes {
        let (file, left) = (Arc::clone(&self.file), Arc::clone(&self.left));
        Notes { owner: self.owner, file, left }
    }

    /// What is written by now, by this run as well.
    pub fn all(&self) -> io::Result<JournalReader> {
        Ok(JournalReader { bytes: self.file.metadata()?.len(), ..self.reader() })
    }

    /// Adds an entry to those that the next [`Journal::write`] writes, unless there is no room for it: then less
    /// is kept for a later run. For a file that is there, there always is.
    pub fn add(&mut self, entry: &Entry) {
        let start = self.buffer.len();
        entry.encode(&self.owner, &mut self.buffer);
        let bytes = (self.buffer.len() - start) as u64;
        match entry {
            // What was announced of it as well.
            Entry::File { .. } => {
                self.left.fetch_add(bytes, Relaxed);
            }
            Entry::Piece { .. } | Entry::Placing { .. } => {
                if !spend(&self.left, bytes) {
                    self.buffer.truncate(start);
                }
            }
        }
    }

    /// So many bytes of content were written: there is room to note them.
    pub(super) fn earn(&self, content_bytes: u64) {
        self.left.fetch_add(content_bytes / EARNED_SHARE, Relaxed);
    }

    /// Writes what was added. If that fails, what was added may be lost, and nothing else.
    pub fn write(&mut self) -> io::Result<()> {
        let written = (&*self.file).write_all(&self.buffer);
        self.buffer.clear();
        written
    }

    /// Makes durable what was written.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The transfer is complete, or nothing is kept of it.
    pub fn remove(&self) -> io::Result<()> {
        FileId::of(&*self.file)?.remove(&self.root, &self.name)
    }
}

/// Notes in a journal what cannot wait for the others.
#[derive(Debug)]
pub(super) struct Notes {
    owner: Owner,
    file: Arc<File>,
    left: Arc<AtomicU64>,
}

impl Notes {
    /// Notes an entry, if there is room for it. It goes to the end of the file in one piece, whoever else writes.
    pub(super) fn write(&self, entry: &Entry) -> io::Result<()> {
        let mut bytes = Vec::new();
        entry.encode(&self.owner, &mut bytes);
        if !spend(&self.left, bytes.len() as u64) {
            return Err(io::Error::other("it is as large as it may be"));
        }
        (&*self.file).write_all(&bytes)
    }
}

/// Takes so much of what is left, if it is.
fn spend(left: &AtomicU64, bytes: u64) -> bool {
    left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).is_ok()
}

/// What earlier runs have left in a journal.
#[derive(Debug)]
pub struct JournalReader {
    owner: Owner,
    root: Arc<Dir>,
    name: String,
    /// What earlier runs have left ends here.
    kept_bytes: u64,
    bytes: u64,
}

impl JournalReader {
    /// Calls `each` with every entry.
    pub fn read(&self, each: impl FnMut(Entry)) -> io::Result<()> {
        read_entries(&self.owner, self.open()?.take(self.bytes), each)
    }

    /// Calls `each` with every entry, and whether it is an earlier run's.
    pub(super) fn read_with_place(&self, mut each: impl FnMut(bool, Entry)) -> io::Result<()> {
        let mut file = self.open()?;
        read_entries(&self.owner, (&file).take(self.kept_bytes), |entry| each(true, entry))?;
        file.seek(SeekFrom::Start(self.kept_bytes))?;
        let own = self.bytes.saturating_sub(self.kept_bytes);
        read_entries(&self.owner, file.take(own), |entry| each(false, entry))
    }

    fn open(&self) -> io::Result<File> {
        Ok(file::open(&self.root, &self.name, OFlags::empty())?)
    }
}

#[cfg(test)]
mod tests {
    use cap_std::ambient_authority;

    use super::entry::tests::{OWNER, piece};
    use super::*;

    #[test]
    fn one_process_at_a_time_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap());
        let patience = Patience::Wait(Duration::from_secs(60));
        let open =
            move |root| Journal::open(&root, &OwnNames::new([1; 32]), OWNER, patience).unwrap();
        let mut first = open(Arc::clone(&root));
        assert_eq!(first.kept_bytes, 0);
        first.add(&piece(0, 1));
        first.write().unwrap();
        let second = thread::spawn({
            let root = Arc::clone(&root);
            move || open(root)
        });
        thread::sleep(3 * LOCK_INTERVAL);
        assert!(!second.is_finished());
        first.add(&piece(1 << 20, 2));
        first.write().unwrap();
        drop(first);
        let second = second.join().unwrap();
        let mut entries = Vec::new();
        second.reader().read(|entry| entries.push(entry)).unwrap();
        assert_eq!(entries, [piece(0, 1), piece(1 << 20, 2)]);

        let third = thread::spawn(move || open(root));
        thread::sleep(3 * LOCK_INTERVAL);
        second.remove().unwrap();
        drop(second);
        assert_eq!(third.join().unwrap().kept_bytes, 0, "a new one");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// The journals of one push in a folder of its own.
    struct Place {
        dir: tempfile::TempDir,
        root: Arc<Dir>,
        names: OwnNames,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = Arc::new(Dir::open_ambient_dir(&dir, ambient_authority()).unwrap());
            Self { dir, root, names: OwnNames::new([1; 32]) }
        }

        fn path(&self, generation: u32) -> std::path::PathBuf {
            self.dir.path().join(self.names.journal(&OWNER, generation))
        }

        fn open(&self) -> Journal {
            Journal::open(&self.root, &self.names, OWNER, Patience::Beside).unwrap()
        }
    }

    #[test]
    fn what_costs_its_sender_nothing_does_not_fill_a_journal() {
        let place = Place::new();
        let mut journal = place.open();
        let bytes = |journal: &mut Journal| {
            journal.write().unwrap();
            std::fs::metadata(place.path(0)).unwrap().len()
        };
        journal.left.store(1_000, Relaxed);
        for number in 0..100 {
            journal.add(&piece(number << 20, 1));
        }
        let full = bytes(&mut journal);
        assert!((800..=1_000).contains(&full), "{full}");
        assert!(journal.notes().write(&piece(0, 1)).is_err());
        // What has content may be noted, whatever there was before.
        journal.earn(64 << 10);
        journal.add(&piece(1 << 30, 1));
        assert!(bytes(&mut journal) > full);
    }

    #[test]
    fn a_name_that_is_taken_by_something_else_costs_nothing() {
        use std::os::unix::fs::symlink;
        let place = Place::new();
        std::fs::write(place.dir.path().join("precious"), b"precious").unwrap();
        std::fs::create_dir(place.path(0)).unwrap();
        symlink("precious", place.path(1)).unwrap();
        let mut journal = place.open();
        assert_eq!(journal.generation, 2);
        journal.add(&piece(0, 1));
        journal.write().unwrap();
        drop(journal);
        let again = place.open();
        assert_eq!((again.generation, again.kept_bytes > 0), (2, true), "and it is found again");
        again.remove().unwrap();
        assert_eq!(std::fs::read(place.dir.path().join("precious")).unwrap(), b"precious");
        assert!(place.path(0).is_dir() && place.path(1).is_symlink());
    }

    #[test]
    fn runs_side_by_side_have_journals_and_unfinished_files_of_their_own() {
        let place = Place::new();
        let first = place.open();
        let wait = Patience::Wait(Duration::ZERO);
        let refused = Journal::open(&place.root, &place.names, OWNER, wait).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        let mut second = place.open();
        assert_ne!(first.tag(), second.tag());
        second.add(&piece(0, 1));
        second.write().unwrap();
        let tag = second.tag();
        drop((first, second));
        assert_eq!(place.open().tag(), tag, "what holds something is gone on with");
    }

    #[test]
    fn a_journal_whose_name_another_has_now_is_not_removed() {
        let place = Place::new();
        let journal = place.open();
        std::fs::remove_file(place.path(0)).unwrap();
        std::fs::write(place.path(0), b"theirs").unwrap();
        journal.remove().unwrap_err();
        assert_eq!(std::fs::read(place.path(0)).unwrap(), b"theirs");
    }
}
