//! Removing what transfers that were not finished have left behind.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::file::FileId;
use super::lock::{Lock, lock_file};
use super::own::{OwnNames, is_reserved_name};
use super::temp::TempFile;

/// Where there are no locks, a file that was not written to for so long counts as left behind.
const UNLOCKED_AGE_MIN: Duration = Duration::from_secs(3_600);

/// A folder that is being made has its name within this time.
pub(super) const FOLDER_AGE_MIN: Duration = Duration::from_secs(60);

/// Something that was left behind.
#[derive(Debug)]
pub struct Left<'a> {
    /// Its path below the root.
    pub path: &'a Path,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// On how much `decide` was asked, less what could not be removed.
    pub found: u64,
    /// What is called like something unfinished, and was not made by this server: it stays.
    pub foreign: u64,
}

/// Removes unfinished files and journals that have one of `names` from `root` and all folders below it,
/// unless `decide` says otherwise; `failed` is told what cannot be removed. What a running transfer writes
/// to is locked and stays, and so does what it has closed for a while, by its journal's lock; so does what
/// was written to less than `age_min` ago.
pub fn clean(
    root: &Dir,
    names: &OwnNames,
    age_min: Duration,
    mut decide: impl FnMut(&Left<'_>) -> bool,
    mut failed: impl FnMut(&Left<'_>, io::Error),
) -> Cleaned {
    let mut cleaned = Cleaned::default();
    let now = Now::of(root, names, age_min);
    let mut folders = vec![PathBuf::new()];
    while let Some(path) = folders.pop() {
        let is_root = path.as_os_str().is_empty();
        let folder = if is_root { root.try_clone() } else { root.open_dir(&path) };
        // What cannot be read is left as it is.
        let Ok(folder) = folder else { continue };
        let Ok(entries) = folder.entries() else { continue };
        for entry in entries.flatten() {
            let (name, kind) = (entry.file_name(), entry.file_type());
            let path = path.join(&name);
            if kind.is_ok_and(|kind| kind.is_dir()) {
                if names.is_own(&name) && now.is_old(&folder, &name, age_min.max(FOLDER_AGE_MIN)) {
                    cleaned.found += remove_folder(&folder, &name, &path, &mut decide);
                } else {
                    folders.push(path);
                }
            } else if is_reserved_name(&name) && !names.is_own(&name) {
                cleaned.foreign += 1;
            } else if names.is_own(&name)
                && now.is_old(&folder, &name, age_min)
                && let Some(_quiet) = Quiet::lock(root, names, &name, &now)
                && let Ok(deserted) = Deserted::lock(&folder, &name, &now)
            {
                let left = Left { path: &path };
                match decide(&left).then(|| deserted.remove(&folder, &name)) {
                    Some(Err(error)) => failed(&left, error),
                    Some(Ok(())) | None => cleaned.found += 1,
                }
            }
        }
    }
    cleaned
}

/// Removes a folder that was made and has not got its name, if it is empty. Returns how much was found.
fn remove_folder(
    folder: &Dir,
    name: &OsStr,
    path: &Path,
    decide: &mut impl FnMut(&Left<'_>) -> bool,
) -> u64 {
    let is_empty = folder.read_dir(name).is_ok_and(|mut entries| entries.next().is_none());
    if !is_empty {
        return 0;
    }
    if decide(&Left { path })
        && let Err(error) = rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)
    {
        tracing::debug!(%error, "a folder stays");
        return 0;
    }
    1
}

/// What time it is: for this host and, as the two may differ, for the file system, which says when files
/// were written to.
struct Now {
    host: SystemTime,
    system: Option<SystemTime>,
}

impl Now {
    fn of(root: &Dir, names: &OwnNames, age_min: Duration) -> Self {
        let touched = || {
            let name = names.part("now", format!("{:016x}", rand::random::<u64>()));
            let file = TempFile::create(Arc::new(root.try_clone()?), name)?;
            file.open()?.file().metadata()?.modified()
        };
        // Nothing is too young then, and a folder that is only looked at is left as it is.
        let system = if age_min.is_zero() { None } else { touched().ok() };
        Self { host: SystemTime::now(), system }
    }

    /// Whether a file is old by whatever clock.
    fn is_old(&self, folder: &Dir, name: &OsStr, age_min: Duration) -> bool {
        let modified = folder.symlink_metadata(name).and_then(|found| found.modified());
        modified.is_ok_and(|at| {
            // What is from the future is as young as can be.
            let age = |now: SystemTime| now.duration_since(at.into_std()).unwrap_or_default();
            age(self.host) >= age_min && self.system.is_none_or(|now| age(now) >= age_min)
        })
    }
}

/// A transfer that is not under way, and cannot go on as long as this is held. A running one has closed
/// some of its unfinished files where descriptors are short: nothing but its journal's lock speaks for them.
struct Quiet {
    _journal: Option<Deserted>,
}

impl Quiet {
    /// The transfer that `name` belongs to; `None` if it runs.
    fn lock(root: &Dir, names: &OwnNames, name: &OsStr, now: &Now) -> Option<Self> {
        let Some(journal) = names.journal_of(name) else { return Some(Self { _journal: None }) };
        match Deserted::lock(root, OsStr::new(&journal), now) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // None is there, or something that is no journal.
            journal => Some(Self { _journal: journal.ok() }),
        }
    }
}

/// A file or link that nobody works on.
struct Deserted {
    id: FileId,
    /// A link has no lock, and is on its way to its name for no time.
    _locked: Option<File>,
}

impl Deserted {
    fn lock(folder: &Dir, name: &OsStr, now: &Now) -> io::Result<Self> {
        let open = |access| {
            let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(folder, name, flags, Mode::empty())
        };
        // Some systems lock only what can be written to; and what is complete may be read-only by then.
        let opened = match open(OFlags::WRONLY) {
            Err(Errno::ACCESS) => open(OFlags::RDONLY),
            opened => opened,
        };
        let file = match opened {
            Err(Errno::LOOP) => {
                return Ok(Self { id: FileId::at(folder, name)?, _locked: None });
            }
            opened => File::from(opened?),
        };
        match lock_file(&file) {
            Lock::Taken => {}
            Lock::Unknown if now.is_old(folder, name, UNLOCKED_AGE_MIN) => {}
            Lock::Busy | Lock::Unknown => return Err(Errno::WOULDBLOCK.into()),
        }
        Ok(Self { id: FileId::of(&file)?, _locked: Some(file) })
    }

    fn remove(&self, folder: &Dir, name: &OsStr) -> io::Result<()> {
        self.id.remove(folder, name)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use cap_std::ambient_authority;

    use super::*;
    use crate::store::journal::{Journal, Patience};
    use crate::wire::PushNumber;

    const AGE: Duration = Duration::from_secs(1_000);

    fn names() -> OwnNames {
        OwnNames::new([1; 32])
    }

    fn left(path: &Path, at: SystemTime) {
        File::create(path).unwrap().set_modified(at).unwrap();
    }

    fn removed(root: &Dir, remove: bool) -> Cleaned {
        clean(root, &names(), AGE, |_| remove, |left, _| panic!("{left:?}"))
    }

    #[test]
    fn what_nobody_writes_any_more_is_removed_if_this_server_has_made_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let root = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
        let old = SystemTime::now() - 2 * AGE;
        fs::create_dir_all(path("a/b")).unwrap();
        let (names, others) = (names(), OwnNames::new([2; 32]));
        let owner = names.owner(&[1; 32], &PushNumber([2; 16]));
        let own =
            [names.part("0", 1), names.journal(&owner, 0), format!("a/b/{}", names.part("0", 2))];
        let foreign = [
            others.part("0", 1),
            format!("a/{}", others.journal(&owner, 0)),
            "a/.qbulk-0-1.part".into(),
            "a/b/.qbulk-mine.journal".into(),
        ];
        let data = ["a/file.part".to_owned(), "a/.qbulk-0".to_owned()];
        for name in own.iter().chain(&foreign).chain(&data) {
            left(&path(name), old);
        }
        let young = format!("a/{}", names.part("0", 3));
        File::create(path(&young)).unwrap();
        let parent = Arc::new(root.open_dir("a").unwrap());
        let written = TempFile::create(parent, names.part("0", 4)).unwrap();
        written.open().unwrap().file().set_modified(old).unwrap();

        let all = Cleaned { found: 3, foreign: 4 };
        assert_eq!(removed(&root, false), all);
        assert!(path(&own[0]).exists());
        assert_eq!(removed(&root, true), all);
        assert_eq!(removed(&root, true), Cleaned { found: 0, foreign: 4 });
        assert!(own.iter().all(|name| !path(name).exists()));
        assert!(foreign.iter().chain(&data).chain([&young]).all(|name| path(name).exists()));
        assert!(path(&format!("a/{}", names.part("0", 4))).exists());
    }

    #[test]
    fn what_a_running_transfer_has_closed_for_a_while_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap());
        let names = names();
        let old = SystemTime::now() - 2 * AGE;
        fs::create_dir(dir.path().join("a")).unwrap();
        let runs = || {
            let owner = names.owner(&[1; 32], &PushNumber([2; 16]));
            Journal::open(&root, &names, owner, Patience::Beside).unwrap()
        };
        let (first, second) = (runs(), runs());
        assert_ne!(first.tag(), second.tag());
        let file = |journal: &Journal| dir.path().join("a").join(names.part(&journal.tag(), 7));
        let (ours, theirs) = (file(&first), file(&second));
        left(&ours, old);
        left(&theirs, old);
        second.remove().unwrap();
        drop(second);
        assert_eq!(removed(&root, true), Cleaned { found: 1, foreign: 0 });
        assert!(ours.exists() && !theirs.exists());
        drop(first);
        assert_eq!(removed(&root, true), Cleaned { found: 1, foreign: 0 });
        assert!(!ours.exists(), "nobody goes on with it");
    }

    #[test]
    fn what_is_old_by_one_clock_only_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
        let name = names().part("0", 1);
        let real = SystemTime::now();
        left(&dir.path().join(&name), real);
        let is_old = |host, system| Now { host, system }.is_old(&root, OsStr::new(&name), AGE);
        let (ahead, behind) = (real + 2 * AGE, real - 2 * AGE);
        assert!(is_old(ahead, Some(ahead)) && is_old(ahead, None));
        assert!(!is_old(ahead, Some(real)), "this host's clock is ahead");
        assert!(!is_old(real, Some(ahead)), "the file system's is");
        assert!(!is_old(behind, Some(behind)) && !is_old(ahead, Some(behind)));
        let now = Now::of(&root, &names(), AGE);
        assert!(now.system.is_some());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "it was only touched");
    }
}
