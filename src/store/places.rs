//! Where a transfer has put things: that each is where its path leads, and that none has taken the place
//! of another.
//!
//! Paths that differ may lead to the same place: where a file system ignores case or the form of letters,
//! or where links lead to one folder by two ways. And a path may lead elsewhere at the end than it did
//! before, if somebody moves a folder and makes another.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use cap_std::fs::Dir;
use rustix::io::Errno;

use super::alike::{Sent, other_form, same_name};
use super::append::{Own, rename_new, taken, trace};
use super::file::FileId;
use super::journal::{Entry, JournalReader};
use super::ration::{Kept as Memory, Ration};
use super::root::{open_folder, open_step};
use super::{folder_of, name_of, shown};
use crate::mutex::lock;

/// What folders that are looked after may take in memory, in bytes.
const FOLDERS_BYTES_MAX: usize = 64 << 20;
/// What one takes beside its path, about.
const FOLDER_BYTES: usize = 200;
/// Why what was put into a folder is not there.
const MOVED: &str =
    "its folder was moved or replaced on the server before all was there: push again";

/// The places of one transfer.
#[derive(Debug)]
pub(super) struct Places {
    known: Mutex<Known>,
    ration: Arc<Ration>,
    /// What earlier runs have put there.
    earlier: Option<JournalReader>,
    /// What was put where names fall together. Held while something is.
    sent: Mutex<Option<Sent>>,
    /// Nothing is replaced: what this push has put there.
    appending: OnceLock<Own>,
    /// What the store makes of a name: in tests, one that makes the same of several.
    stored: fn(&OsStr) -> OsString,
}

#[derive(Debug)]
struct Known {
    folders: HashMap<Arc<[u8]>, Folder>,
    paths: HashMap<FileId, Arc<[u8]>>,
    bytes: usize,
    memory: Memory,
}

#[derive(Debug)]
struct Folder {
    id: FileId,
    /// What this run has put there.
    put: Put,
    ignores_case: Option<bool>,
    ignores_form: Option<bool>,
}

/// What was put into a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Put {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) others: u64,
}

/// Something that is about to get its name.
pub(super) struct Placing<'a> {
    pub(super) parent: &'a Dir,
    /// What it is called until then.
    pub(super) temp_name: &'a str,
    /// Its path below the root.
    pub(super) path: &'a [u8],
    pub(super) id: FileId,
    /// How much it is, if it is a file.
    pub(super) file_bytes: Option<u64>,
    /// Of its content, or of what it says if it is a link.
    pub(super) hash: &'a [u8; 32],
}

/// What became of something that was to get its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// It has it.
    Now,
    /// Nothing is replaced, and an earlier run of the same push has put the same there: that stays.
    Before,
}

impl Places {
    /// None yet below `root`, but those of earlier runs.
    pub(super) fn new(
        root: &Dir,
        earlier: Option<JournalReader>,
        ration: &Arc<Ration>,
    ) -> io::Result<Self> {
        let known = Known {
            folders: HashMap::new(),
            paths: HashMap::new(),
            bytes: 0,
            memory: Memory::none(ration),
        };
        let places = Self {
            known: Mutex::new(known),
            ration: Arc::clone(ration),
            earlier,
            sent: Mutex::default(),
            appending: OnceLock::new(),
            stored: OsStr::to_owned,
        };
        lock(&places.known).add(b"", FileId::of(root)?)?;
        Ok(places)
    }

    /// From now on, nothing that is there is replaced.
    pub(super) fn append_only(&self) {
        self.appending.get_or_init(|| Own::new(&self.ration));
    }

    /// Whether nothing that is there is replaced.
    pub(super) fn is_append_only(&self) -> bool {
        self.appending.get().is_some()
    }

    /// Whether a folder, or what is called `name` in it, may be given other metadata, or a file that is about
    /// to be sent the place: always, unless nothing is replaced and it is not this push's own.
    pub(super) fn is_free(&self, path: &[u8], inode: u64) -> bool {
        let own = self.appending.get();
        own.is_none_or(|own| own.has_made(self.earlier.as_ref(), path, inode))
    }

    /// Whether a later run has to know what this push has put there.
    pub(super) fn has_own(&self) -> bool {
        self.appending.get().is_some_and(|own| !own.is_empty(self.earlier.as_ref()))
    }

    /// A folder was made.
    pub(super) fn has_made(&self, path: &[u8], inode: u64) {
        if let Some(own) = self.appending.get() {
            own.add(path, inode);
        }
    }

    /// Something is to be put into `folder`, to which `path` leads. An error if the path of another folder
    /// leads there as well, or this one has led elsewhere.
    pub(super) fn enter(&self, root: &Arc<Dir>, path: &[u8], folder: &Dir) -> io::Result<()> {
        let id = FileId::of(folder)?;
        let mut above = folder_of(path);
        let mut unknown = Vec::new();
        {
            let known = lock(&self.known);
            while !above.is_empty() && !known.folders.contains_key(above) {
                unknown.push(above);
                above = folder_of(above);
            }
        }
        if !unknown.is_empty() {
            // Step by step: a way may be long.
            let mut parent = open_folder(root, above)?;
            lock(&self.known).add(above, FileId::of(&*parent)?)?;
            for above in unknown.into_iter().rev() {
                parent = open_step(root, &parent, above)?;
                lock(&self.known).add(above, FileId::of(&*parent)?)?;
            }
        }
        lock(&self.known).add(path, id)
    }

    /// Gives something its name, unless that is the name of what was put there before.
    pub(super) fn place(&self, placing: &Placing<'_>) -> io::Result<Placed> {
        let Placing { parent, temp_name, path, id, file_bytes, .. } = *placing;
        let (folder, name) = (folder_of(path), name_of(path));
        let stored = (self.stored)(&name);
        let rename = || {
            id.check(parent, temp_name)?;
            let Some(own) = self.appending.get() else {
                rustix::fs::renameat(parent, temp_name, parent, stored.as_os_str())?;
                return Ok::<_, io::Error>(Placed::Now);
            };
            match rename_new(parent, temp_name, &stored) {
                Ok(()) => {
                    if file_bytes.is_none() {
                        own.add(path, id.inode());
                    }
                    Ok(Placed::Now)
                }
                Err(Errno::EXIST) => {
                    let (earlier, found) = (self.earlier.as_ref(), trace(parent, &stored)?);
                    let is_own = own.has_put(earlier, path, placing.hash, found);
                    if is_own { Ok(Placed::Before) } else { Err(taken()) }
                }
                Err(error) => Err(error.into()),
            }
        };
        let placed;
        if self.falls_together(parent, folder, temp_name) {
            let mut sent = lock(&self.sent);
            let sent = self.sent(&mut sent);
            if let Ok(there) = FileId::at(parent, &stored) {
                sent.check(folder, &name, there, || name_at(parent, there))?;
            }
            placed = rename()?;
            sent.add(folder, &name, id);
        } else {
            placed = rename()?;
            self.look_for_forms(parent, folder, &name, id);
        }
        if let Some(known) = lock(&self.known).folders.get_mut(folder) {
            match file_bytes {
                Some(bytes) => {
                    known.put.files += 1;
                    known.put.bytes += bytes;
                }
                None => known.put.others += 1,
            }
        }
        Ok(placed)
    }

    /// The folders to whose paths others lead now, and what was put into those that were there. Looks at
    /// each.
    pub(super) fn moved(&self, root: &Arc<Dir>) -> HashMap<Arc<[u8]>, Put> {
        let known = std::mem::take(&mut lock(&self.known).folders);
        let is_there = |path: &[u8], id: FileId| {
            let found = open_folder(root, path).and_then(|folder| FileId::of(&*folder));
            // One that cannot be looked at now has not moved for that.
            found.map_or_else(|error| !is_gone(&error), |found| found == id)
        };
        let moved = known.into_iter().filter(|(path, folder)| !is_there(path, folder.id));
        moved.map(|(path, folder)| (path, folder.put)).collect()
    }

    /// Whether names that differ may be the same in a folder, in which something is called `temp_name`.
    fn falls_together(&self, parent: &Dir, folder: &[u8], temp_name: &str) -> bool {
        let known = |known: &Folder| (known.ignores_case, known.ignores_form == Some(true));
        let known = lock(&self.known).folders.get(folder).map_or((None, false), known);
        if let (Some(ignores_case), ignores_form) = known {
            return ignores_case || ignores_form;
        }
        let other = (self.stored)(OsStr::new(&temp_name.to_uppercase()));
        let ignores_case = FileId::at(parent, &other).is_ok();
        if let Some(known) = lock(&self.known).folders.get_mut(folder) {
            known.ignores_case = Some(ignores_case);
        }
        ignores_case
    }

    /// The first thing whose name can be written in another form tells whether that makes another name.
    fn look_for_forms(&self, parent: &Dir, folder: &[u8], name: &OsStr, id: FileId) {
        let Some(other) = name.to_str().filter(|name| !name.is_ascii()).and_then(other_form) else {
            return;
        };
        let is_known = |known: &Folder| known.ignores_form.is_some();
        if lock(&self.known).folders.get(folder).is_none_or(is_known) {
            return;
        }
        let other = (self.stored)(OsStr::new(&other));
        let ignores_form = FileId::at(parent, &other).is_ok_and(|found| found == id);
        if let Some(known) = lock(&self.known).folders.get_mut(folder) {
            known.ignores_form = Some(ignores_form);
        }
        if ignores_form {
            self.sent(&mut lock(&self.sent)).add(folder, name, id);
        }
    }

    /// What was put where names fall together; with what earlier runs have put there, once there is such a
    /// place.
    fn sent<'a>(&self, sent: &'a mut Option<Sent>) -> &'a mut Sent {
        sent.get_or_insert_with(|| {
            let mut sent = Sent::new(&self.ration);
            let add = |entry| {
                if let Entry::File { path, stamp, .. } = entry {
                    sent.add_inode(folder_of(&path), &name_of(&path), stamp.inode);
                }
            };
            if let Some(earlier) = &self.earlier
                && let Err(error) = earlier.read(add)
            {
                tracing::warn!(%error, "a journal cannot be read: names of an earlier run are not known");
            }
            sent
        })
    }
}

impl Known {
    fn add(&mut self, path: &[u8], id: FileId) -> io::Result<()> {
        if let Some(known) = self.folders.get(path) {
            return if known.id == id { Ok(()) } else { Err(io::Error::other(MOVED)) };
        }
        if let Some(other) = self.paths.get(&id) {
            return Err(same_name(&shown(path), &shown(other)));
        }
        let bytes = FOLDER_BYTES + path.len();
        if self.bytes + bytes <= FOLDERS_BYTES_MAX && self.memory.add(bytes) {
            self.bytes += bytes;
            let path: Arc<[u8]> = path.into();
            self.paths.insert(id, Arc::clone(&path));
            let put = Put::default();
            let folder = Folder { id, put, ignores_case: None, ignores_form: None };
            self.folders.insert(path, folder);
        }
        Ok(())
    }
}

/// What is said of files in a folder that has moved.
pub(super) fn moved_reason() -> String {
    MOVED.into()
}

/// What something is called in a folder.
fn name_at(parent: &Dir, id: FileId) -> Option<OsString> {
    let mut names = parent.entries().ok()?.flatten().map(|entry| entry.file_name());
    names.find(|name| FileId::at(parent, name).is_ok_and(|found| found == id))
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use cap_std::ambient_authority;
    use icu_normalizer::DecomposingNormalizerBorrowed;

    use super::super::temp::TempFile;
    use super::*;
    use crate::store::descriptors::Share;

    struct Store {
        dir: tempfile::TempDir,
        root: Arc<Dir>,
        places: Places,
    }

    impl Store {
        fn new(stored: fn(&OsStr) -> OsString) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = Arc::new(Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap());
            let places =
                Places { stored, ..Places::new(&root, None, Share::alone().ration()).unwrap() };
            Self { dir, root, places }
        }

        /// Puts a file that holds its path there.
        fn put(&self, path: &str) -> Result<(), String> {
            let folder = folder_of(path.as_bytes());
            let parent = open_folder(&self.root, folder).map_err(|error| error.to_string())?;
            self.places.enter(&self.root, folder, &parent).map_err(|error| error.to_string())?;
            let temp = TempFile::create(parent, "temp".into()).unwrap();
            temp.write_all_at(path.as_bytes(), 0).unwrap();
            let placed = temp.publish(&self.places, path.as_bytes(), 3, &[0; 32]);
            placed.map(drop).map_err(|error| error.to_string())
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.dir.path().join(path)).unwrap()
        }
    }

    fn lower(name: &OsStr) -> OsString {
        name.to_ascii_lowercase()
    }

    fn apart(name: &OsStr) -> OsString {
        let name = name.to_str().unwrap();
        DecomposingNormalizerBorrowed::new_nfd().normalize(name).into_owned().into()
    }

    #[test]
    fn what_was_sent_is_not_replaced_by_what_has_the_same_name_there() {
        let store = Store::new(lower);
        fs::write(store.dir.path().join("old"), b"old").unwrap();
        assert_eq!(store.put("README"), Ok(()));
        let error = store.put("readme").unwrap_err();
        assert_eq!(error, "\"readme\" has the same name there as \"readme\", which was sent");
        assert_eq!(store.read("readme"), "README");
        assert_eq!(store.put("OLD"), Ok(()), "what was there before is replaced");
        assert_eq!(store.put("other"), Ok(()));
        store.put("old").unwrap_err();
        assert_eq!(store.read("old"), "OLD");
        let mut names: Vec<_> = fs::read_dir(store.dir.path()).unwrap().collect();
        names.sort_by_key(|entry| entry.as_ref().unwrap().file_name());
        assert_eq!(names.len(), 3, "nothing unfinished is left: {names:?}");
    }

    #[test]
    fn letters_in_another_form_are_the_same_name_only_where_that_is_so() {
        let (one, other) = ("caf\u{e9}", "cafe\u{301}");
        let store = Store::new(apart);
        assert_eq!(store.put("plain"), Ok(()));
        assert_eq!(store.put(one), Ok(()));
        assert!(store.put(other).unwrap_err().contains("same name there"));
        assert_eq!(store.read(other), one);
        assert_eq!(store.put("PLAIN"), Ok(()), "case makes a difference");

        let store = Store::new(OsStr::to_owned);
        for name in [one, other, "README", "readme", "readme"] {
            assert_eq!(store.put(name), Ok(()));
        }
        assert_eq!((store.read(one).as_str(), store.read(other).as_str()), (one, other));
    }

    #[test]
    fn two_paths_to_one_folder_are_not_mixed() {
        let store = Store::new(OsStr::to_owned);
        fs::create_dir_all(store.dir.path().join("Dir/sub")).unwrap();
        std::os::unix::fs::symlink("Dir", store.dir.path().join("dir")).unwrap();
        assert_eq!(store.put("Dir/sub/file"), Ok(()));
        let want = "\"dir\" has the same name there as \"Dir\", which was sent";
        assert_eq!(store.put("dir/file").unwrap_err(), want);
        assert_eq!(store.put("dir/sub/file").unwrap_err(), want);
        assert_eq!(store.put("Dir/file"), Ok(()));
        assert_eq!(store.read("Dir/sub/file"), "Dir/sub/file");
    }

    #[test]
    fn a_folder_that_has_moved_is_found_with_what_was_put_there() {
        let store = Store::new(OsStr::to_owned);
        let path = |name: &str| store.dir.path().join(name);
        for name in ["a/b", "kept"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        for name in ["a/one", "a/b/two", "a/b/three", "kept/four"] {
            store.put(name).unwrap();
        }
        fs::rename(path("a"), path("away")).unwrap();
        fs::create_dir(path("a")).unwrap();
        assert_eq!(store.put("a/five").unwrap_err(), MOVED);
        let moved = store.places.moved(&store.root);
        let put = |files, bytes| Put { files, bytes, others: 0 };
        let want = [(b"a".as_slice().into(), put(1, 3)), (b"a/b".as_slice().into(), put(2, 6))];
        assert_eq!(moved, want.into());
    }
}
