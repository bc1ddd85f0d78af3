//! Where nothing that is there may be replaced: names are taken only if they are free, and what is in the way
//! is known as a transfer's own if an earlier run of the same push has put it there.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::journal::{Entry, JournalReader, Trace};
use super::os;
use super::ration::{Kept as Memory, Ration};
use crate::mutex::lock;

/// What is remembered of what was put there, at most.
const OWN_MAX: usize = 4 << 20;
/// What each takes in memory, about.
const OWN_BYTES: usize = 18;
/// Why something is not put there.
const TAKEN: &str = "the name is taken there, and nothing that is there may be replaced";

/// What this push has put where nothing is replaced. It may be asked only of what it would otherwise have
/// replaced: so nothing is learned by it of what others have put there.
#[derive(Debug)]
pub(super) struct Own {
    /// What earlier runs have put there, once that is wanted, and the folders and links that this one has
    /// made.
    known: Mutex<HashSet<u64>>,
    has_read: OnceLock<()>,
    /// What that takes.
    memory: Mutex<Memory>,
}

impl Own {
    /// Nothing yet.
    pub(super) fn new(ration: &Arc<Ration>) -> Self {
        let memory = Mutex::new(Memory::none(ration));
        Self { known: Mutex::default(), has_read: OnceLock::new(), memory }
    }

    /// Whether an earlier run has put this very content under `path`, and nobody has touched it since.
    pub(super) fn has_put(
        &self,
        earlier: Option<&JournalReader>,
        path: &[u8],
        hash: &[u8; 32],
        found: Trace,
    ) -> bool {
        self.read(earlier);
        lock(&self.known).contains(&content_key(path, hash, found))
    }

    /// Whether this run or an earlier one has made what is at `path`.
    pub(super) fn has_made(
        &self,
        earlier: Option<&JournalReader>,
        path: &[u8],
        inode: u64,
    ) -> bool {
        self.read(earlier);
        lock(&self.known).contains(&place_key(path, inode))
    }

    /// Whether no run has put anything there that is known.
    pub(super) fn is_empty(&self, earlier: Option<&JournalReader>) -> bool {
        self.read(earlier);
        lock(&self.known).is_empty()
    }

    /// This run has made a folder or a link.
    pub(super) fn add(&self, path: &[u8], inode: u64) {
        let mut known = lock(&self.known);
        if known.len() < OWN_MAX && lock(&self.memory).add(OWN_BYTES) {
            known.insert(place_key(path, inode));
        }
    }

    fn read(&self, earlier: Option<&JournalReader>) {
        self.has_read.get_or_init(|| {
            let mut known = lock(&self.known);
            let add = |entry| {
                if let Entry::Placing { path, hash, trace } = entry
                    && known.len() < OWN_MAX
                    && lock(&self.memory).add(2 * OWN_BYTES)
                {
                    known.insert(content_key(&path, &hash, trace));
                    known.insert(place_key(&path, trace.inode));
                }
            };
            if let Some(earlier) = earlier
                && let Err(error) = earlier.read(add)
            {
                tracing::warn!(%error, "a journal cannot be read: what an earlier run has made is not known");
            }
        });
    }
}

fn content_key(path: &[u8], hash: &[u8; 32], trace: Trace) -> u64 {
    let mut rest = hash.to_vec();
    rest.extend(trace.inode.to_be_bytes());
    rest.extend(trace.mtime.0.to_be_bytes());
    rest.extend(trace.mtime.1.to_be_bytes());
    key(path, &rest)
}

fn place_key(path: &[u8], inode: u64) -> u64 {
    key(path, &inode.to_be_bytes())
}

pub(super) fn key(folder: &[u8], rest: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(folder.len() as u64).to_be_bytes()).update(folder).update(rest);
    let hash = hasher.finalize();
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// What is called `name` in `parent`: not what a link leads to.
pub(super) fn trace(parent: &Dir, name: &OsStr) -> io::Result<Trace> {
    Ok(Trace::of(&rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?))
}

/// Why something is not put where something is.
pub(super) fn taken() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, TAKEN)
}

/// Renames `from` to `to` in `parent` if nothing is called so: whoever else is about to take that name, only
/// one gets it. Fails with `EEXIST`.
pub(super) fn rename_new(parent: &Dir, from: &str, to: &OsStr) -> Result<(), Errno> {
    let renamed = rustix::fs::renameat_with(parent, from, parent, to, RenameFlags::NOREPLACE);
    match renamed {
        // Not every file system can, and not every sandbox lets one.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
            link_new(parent, from, to)
        }
        renamed => renamed,
    }
}

/// The same with a second name for a moment.
fn link_new(parent: &Dir, from: &str, to: &OsStr) -> Result<(), Errno> {
    rustix::fs::linkat(parent, from, parent, to, AtFlags::empty())?;
    if let Err(error) = parent.remove_file(os(from.as_bytes())) {
        tracing::warn!(file = from, %error, "cannot remove a temporary name");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use std::sync::Arc;

    use cap_std::ambient_authority;

    use super::super::journal::{Journal, Patience};
    use super::super::own::OwnNames;
    use super::super::places::Places;
    use super::super::temp::TempFile;
    use super::*;
    use crate::store::descriptors::Share;
    use crate::wire::PushNumber;

    /// A run that is killed after a file has its name, and before that is noted, has noted before that it was
    /// about to give it.
    #[test]
    fn what_an_earlier_run_has_put_there_is_not_in_the_way_of_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let root = Arc::new(Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap());
        let names = OwnNames::new([1; 32]);
        let owner = names.owner(&[2; 32], &PushNumber([3; 16]));
        let open = || Journal::open(&root, &names, owner, Patience::Beside).unwrap();
        let mut journal = open();
        for name in ["same", "touched", "replaced"] {
            fs::write(at(name), name).unwrap();
            let trace = trace(&root, OsStr::new(name)).unwrap();
            journal.add(&Entry::Placing { path: name.into(), hash: [1; 32], trace });
        }
        journal.write().unwrap();
        drop(journal);
        fs::write(at("others"), b"others").unwrap();
        let touched = fs::File::options().write(true).open(at("touched")).unwrap();
        touched.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        fs::write(at("copy"), b"replaced").unwrap();
        fs::rename(at("copy"), at("replaced")).unwrap();

        let places = Places::new(&root, Some(open().reader()), Share::alone().ration()).unwrap();
        places.append_only();
        let put = |name: &str, hash| {
            let temp = TempFile::create(Arc::clone(&root), "temp".into()).unwrap();
            temp.write_all_at(b"new", 0).unwrap();
            temp.publish(&places, name.as_bytes(), 3, &[hash; 32]).is_ok()
        };
        for (name, hash, is_done) in [
            ("same", 1, true),
            ("same", 2, false),
            ("touched", 1, false),
            ("replaced", 1, false),
            ("others", 1, false),
        ] {
            assert_eq!(put(name, hash), is_done, "{name}, {hash}");
            assert_eq!(fs::read_to_string(at(name)).unwrap(), name);
        }
        assert!(put("new", 1) && !at("temp").exists());
        assert!(!put("new", 1), "not even by the same run");
    }

    #[test]
    fn a_name_is_taken_only_if_it_is_free() {
        for take in [rename_new, link_new] {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            let folder = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
            fs::write(at("file"), b"old").unwrap();
            fs::create_dir(at("folder")).unwrap();
            symlink("nowhere", at("link")).unwrap();
            for taken in ["file", "folder", "link"] {
                fs::write(at("temp"), b"new").unwrap();
                assert_eq!(take(&folder, "temp", OsStr::new(taken)), Err(Errno::EXIST), "{taken}");
                assert_eq!(fs::read(at("temp")).unwrap(), b"new");
            }
            assert_eq!(fs::read(at("file")).unwrap(), b"old");
            assert_eq!(fs::read_link(at("link")).unwrap(), std::path::Path::new("nowhere"));
            assert_eq!(take(&folder, "temp", OsStr::new("free")), Ok(()));
            symlink("somewhere", at("temp")).unwrap();
            assert_eq!(take(&folder, "temp", OsStr::new("free link")), Ok(()));
            assert_eq!(fs::read(at("free")).unwrap(), b"new");
            assert!(at("free link").is_symlink() && !at("temp").is_symlink());
        }
    }
}
