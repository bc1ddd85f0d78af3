//! The receiver's journal: what of a transfer is durable, so that a later run can go on from there.
//!
//! A file in the root folder, next to the files that it speaks of, and only ever appended to. Each
//! entry stands for itself and has a checksum, so that damage costs the entries that it hits and no
//! other: reading goes on at the next mark. An entry is written only after what it tells of is on the
//! disk; one that is lost means that its content is sent again.
//!
//! | field | width | |
//! |---|---|---|
//! | mark | 4 | `QJ`, the format's version, 0xa7 |
//! | length | 2 | of the entry |
//! | entry | | see [`Entry`] |
//! | check | 16 | BLAKE3 of length and entry, keyed by whose push it is |

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Buf, BufMut};
use cap_std::fs::Dir;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::lock::{Lock, lock_file};
use super::own::OwnNames;
use super::temp::{self, FileId};
use crate::wire::{
    PATH_BYTES_MAX, SourceId, WireError, get_array, get_bytes, get_varint, is_path_safe, put_all,
    put_bytes, put_varint,
};

/// The format's version.
const VERSION: u8 = 1;
const MARK: [u8; 4] = [b'Q', b'J', VERSION, 0xa7];
const HEAD_BYTES: usize = MARK.len() + 2;
const CHECK_BYTES: usize = 16;
/// The fields of an entry beside its path take less than this, in bytes.
const ENTRY_BYTES_MAX: usize = PATH_BYTES_MAX + 160;
/// How often to look whether an earlier run of the same push has let go of its journal.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);
/// Journals of one push that there may be at a time, of runs that know nothing of each other.
const GENERATIONS_MAX: u32 = 8;

/// What names on the disk have of an owner.
pub(super) const TAG_CHARS: usize = 16;

/// Whose push a journal is about: the client, and which of its pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner([u8; 32]);

impl Owner {
    /// The one with this secret: see [`OwnNames::owner`].
    pub(super) fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// What names on the disk have of it.
    pub fn tag(&self) -> String {
        blake3::hash(&self.0).to_hex()[..TAG_CHARS].to_owned()
    }
}

/// Something that is durable at the receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A piece of a file that is not whole yet.
    ///
    /// Type 1, then path (bytes), source (48 bytes), file size, offset, length, hash (32 bytes).
    Piece {
        /// The path that the file will have, below the root.
        path: Vec<u8>,
        /// What the client knows its content by.
        source: SourceId,
        /// The file's size, in bytes.
        file_bytes: u64,
        /// Where the piece starts, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        len: u64,
        /// Its [`piece_hash`](crate::hashtree::piece_hash).
        hash: [u8; 32],
    },
    /// A file that has its name.
    ///
    /// Type 2, then path (bytes), source (48 bytes), hash (32 bytes), inode, seconds, nanoseconds (8
    /// bytes each).
    File {
        /// Its path below the root.
        path: Vec<u8>,
        /// What the client knows its content by.
        source: SourceId,
        /// Its BLAKE3 hash.
        hash: [u8; 32],
        /// How it was left.
        stamp: Stamp,
    },
}

/// Tells whether a file is still as it was left: nobody can change it and keep both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Its inode.
    pub inode: u64,
    /// When it was last changed in any way: seconds and nanoseconds since 1970.
    pub ctime: (i64, i64),
}

impl Stamp {
    /// The stamp of an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        let stat = rustix::fs::fstat(file)?;
        Ok(Self { inode: stat.st_ino, ctime: (stat.st_ctime, stat.st_ctime_nsec.cast_signed()) })
    }

    /// The stamp of what is at `path`; not of what a link there leads to.
    pub fn at(root: &Dir, path: &Path) -> io::Result<Self> {
        use cap_std::fs::MetadataExt;
        let found = root.symlink_metadata(path)?;
        Ok(Self { inode: found.ino(), ctime: (found.ctime(), found.ctime_nsec()) })
    }
}

impl Entry {
    /// The path of its file below the root.
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Piece { path, .. } | Self::File { path, .. } => path,
        }
    }

    /// Appends the entry as it is in the file of `owner`.
    pub fn encode(&self, owner: &Owner, out: &mut Vec<u8>) {
        out.put_slice(&MARK);
        let start = out.len();
        out.put_u16(0);
        match self {
            Self::Piece { path, source, file_bytes, offset, len, hash } => {
                put_varint(out, 1);
                put_bytes(out, path);
                source.encode(out);
                put_all(out, &[*file_bytes, *offset, *len]);
                out.put_slice(hash);
            }
            Self::File { path, source, hash, stamp } => {
                put_varint(out, 2);
                put_bytes(out, path);
                source.encode(out);
                out.put_slice(hash);
                out.put_u64(stamp.inode);
                out.put_i64(stamp.ctime.0);
                out.put_i64(stamp.ctime.1);
            }
        }
        let len = (out.len() - start - 2) as u16;
        out[start..start + 2].copy_from_slice(&len.to_be_bytes());
        let check = check(owner, &out[start..]);
        out.put_slice(&check);
    }

    fn decode(mut input: &[u8]) -> Result<Self, WireError> {
        let kind = get_varint(&mut input)?;
        let path = get_bytes("path", &mut input, PATH_BYTES_MAX)?;
        if !is_path_safe(&path) {
            return Err(WireError::UnsafePath(super::shown(&path)));
        }
        let source = SourceId::decode(&mut input)?;
        let entry = match kind {
            1 => Self::Piece {
                path,
                source,
                file_bytes: get_varint(&mut input)?,
                offset: get_varint(&mut input)?,
                len: get_varint(&mut input)?,
                hash: get_array(&mut input)?,
            },
            2 => {
                let hash = get_array(&mut input)?;
                let mut number = || get_array(&mut input).map(u64::from_be_bytes);
                let inode = number()?;
                let ctime = (number()?.cast_signed(), number()?.cast_signed());
                Self::File { path, source, hash, stamp: Stamp { inode, ctime } }
            }
            value => return Err(WireError::Unknown { what: "entry type", value }),
        };
        if input.has_remaining() { Err(WireError::LeftOver(input.len())) } else { Ok(entry) }
    }
}

fn check(owner: &Owner, bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&blake3::keyed_hash(&owner.0, bytes).as_bytes()[..CHECK_BYTES]);
    check
}

/// What is at the front of a journal's bytes.
enum Front {
    /// An entry, and how many bytes it takes.
    Entry(Entry, usize),
    /// Nothing for so many bytes.
    Nothing(usize),
    /// That cannot be told without more bytes.
    Short,
}

fn front(owner: &Owner, bytes: &[u8]) -> Front {
    let Some(mark) = bytes.first_chunk::<4>() else { return Front::Short };
    if *mark != MARK {
        let next = bytes[1..].iter().position(|&byte| byte == MARK[0]);
        return Front::Nothing(next.map_or(bytes.len(), |at| at + 1));
    }
    let Some(head) = bytes.get(..HEAD_BYTES) else { return Front::Short };
    let len = usize::from(u16::from_be_bytes([head[4], head[5]]));
    if len > ENTRY_BYTES_MAX {
        return Front::Nothing(1);
    }
    let end = HEAD_BYTES + len;
    let Some(checked) = bytes.get(MARK.len()..end) else { return Front::Short };
    let Some(found) = bytes.get(end..end + CHECK_BYTES) else { return Front::Short };
    if *found != check(owner, checked) {
        return Front::Nothing(1);
    }
    match Entry::decode(&bytes[HEAD_BYTES..end]) {
        Ok(entry) => Front::Entry(entry, end + CHECK_BYTES),
        Err(_) => Front::Nothing(end + CHECK_BYTES),
    }
}

/// Calls `each` with every entry of `owner` that can be read; what is damaged is passed over.
pub fn read_entries(
    owner: &Owner,
    mut input: impl Read,
    mut each: impl FnMut(Entry),
) -> io::Result<()> {
    const CHUNK_BYTES: usize = 256 << 10;
    let mut buffer = Vec::new();
    let mut ended = false;
    while !ended {
        let before = buffer.len();
        input.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut buffer)?;
        ended = buffer.len() == before;
        let mut at = 0;
        while at < buffer.len() {
            match front(owner, &buffer[at..]) {
                Front::Entry(entry, bytes) => {
                    each(entry);
                    at += bytes;
                }
                Front::Nothing(bytes) => at += bytes,
                // What is cut short at the end may hold others.
                Front::Short if ended => at += 1,
                Front::Short => break,
            }
        }
        buffer.drain(..at.min(buffer.len()));
    }
    Ok(())
}

/// An open journal, which belongs to this process alone.
#[derive(Debug)]
pub struct Journal {
    owner: Owner,
    root: Arc<Dir>,
    names: OwnNames,
    generation: u32,
    name: String,
    file: File,
    /// Its length when it was opened: what earlier runs have left.
    kept_bytes: u64,
    /// When an earlier run last wrote to it.
    kept_at: SystemTime,
    buffer: Vec<u8>,
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

    fn look(root: &Arc<Dir>, names: &OwnNames, owner: Owner, generation: u32) -> Place {
        let name = names.journal(&owner, generation);
        let file = match temp::open(root, &name, OFlags::APPEND) {
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
        let file = match temp::open(root, &name, OFlags::APPEND | OFlags::CREATE | OFlags::EXCL) {
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
        Ok(Some(Self { owner, root, names, generation, name, file, kept_bytes, kept_at, buffer }))
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

    /// What is written by now, by this run as well.
    pub fn all(&self) -> io::Result<JournalReader> {
        Ok(JournalReader { bytes: self.file.metadata()?.len(), ..self.reader() })
    }

    /// Adds an entry to those that the next [`Journal::write`] writes.
    pub fn add(&mut self, entry: &Entry) {
        entry.encode(&self.owner, &mut self.buffer);
    }

    /// Writes what was added. If that fails, what was added may be lost, and nothing else.
    pub fn write(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.buffer);
        self.buffer.clear();
        written
    }

    /// Makes durable what was written.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The transfer is complete, or nothing is kept of it.
    pub fn remove(&self) -> io::Result<()> {
        FileId::of(&self.file)?.remove(&self.root, &self.name)
    }
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
        Ok(temp::open(&self.root, &self.name, OFlags::empty())?)
    }
}

#[cfg(test)]
mod tests {
    use cap_std::ambient_authority;
    use proptest::prelude::*;

    use super::*;

    const OWNER: Owner = Owner([3; 32]);

    fn piece(offset: u64, hash: u8) -> Entry {
        Entry::Piece {
            path: b"a/b".to_vec(),
            source: SourceId { version: [5; 16], state: [6; 16], basis: [7; 16] },
            file_bytes: 1 << 30,
            offset,
            len: 1 << 20,
            hash: [hash; 32],
        }
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let path = "[a-z]{1,20}(/[QJ\u{1}]{1,9}){0,2}".prop_map(String::into_bytes);
        let numbers = proptest::array::uniform3(0..1_u64 << 60);
        let entry = (any::<bool>(), path, any::<[[u8; 16]; 3]>(), any::<[u8; 32]>(), numbers)
            .prop_map(|(is_piece, path, [version, state, basis], hash, [a, b, c])| {
                let source = SourceId { version, state, basis };
                if is_piece {
                    Entry::Piece { path, source, file_bytes: a, offset: b, len: c, hash }
                } else {
                    let stamp = Stamp { inode: a, ctime: (b.cast_signed(), -c.cast_signed()) };
                    Entry::File { path, source, hash, stamp }
                }
            });
        proptest::collection::vec(entry, 1..12)
    }

    fn encoded(entries: &[Entry]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in entries {
            entry.encode(&OWNER, &mut bytes);
        }
        bytes
    }

    fn decoded(owner: &Owner, bytes: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        read_entries(owner, bytes, |entry| entries.push(entry)).unwrap();
        entries
    }

    /// Whether `left` is `all` but for at most one entry.
    fn lacks_at_most_one(all: &[Entry], left: &[Entry]) -> bool {
        (0..all.len()).any(|lost| [&all[..lost], &all[lost + 1..]].concat() == left) || all == left
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_by_its_owner_alone(entries in entries()) {
            let bytes = encoded(&entries);
            prop_assert_eq!(decoded(&OWNER, &bytes), entries);
            prop_assert!(decoded(&Owner([4; 32]), &bytes).is_empty());
        }

        #[test]
        fn damage_costs_the_entry_that_it_hits(
            entries in entries(),
            at in any::<prop::sample::Index>(),
            damage in 1..=255_u8,
        ) {
            let mut bytes = encoded(&entries);
            let at = at.index(bytes.len());
            bytes[at] ^= damage;
            let left = decoded(&OWNER, &bytes);
            prop_assert!(left.len() + 1 >= entries.len() && lacks_at_most_one(&entries, &left));
        }

        #[test]
        fn a_cut_costs_what_is_cut_and_what_is_appended_behind_it_is_read(
            entries in entries(),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = encoded(&entries);
            let at = cut.index(bytes.len());
            let whole = (0..=entries.len())
                .rfind(|&count| encoded(&entries[..count]).len() <= at)
                .unwrap_or(0);
            let mut bytes = bytes[..at].to_vec();
            prop_assert_eq!(decoded(&OWNER, &bytes), &entries[..whole]);
            bytes.extend(encoded(&entries));
            prop_assert_eq!(decoded(&OWNER, &bytes), [&entries[..whole], &entries].concat());
        }

        #[test]
        fn no_bytes_are_an_entry_by_chance(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(decoded(&OWNER, &bytes).is_empty());
        }
    }

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
