//! Permissions and times of what arrives.
//!
//! Not every file system can keep them, and not every folder is its writer's: content gets its name all the
//! same, and what could not be kept is told once for all.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, OnceLock};

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps};
use rustix::process::geteuid;

use super::{reason, shown};
use crate::mutex::lock;
use crate::text::printable;
use crate::wire::{Keep, Meta, Unkept, What};

/// Gives metadata as far as it is wanted, and remembers what could not be kept.
#[derive(Debug, Default)]
pub(super) struct Metas {
    keep: OnceLock<Keep>,
    modes: Mutex<Option<Unkept>>,
    times: Mutex<Option<Unkept>>,
}

impl Metas {
    /// Only this is wanted. Comes before everything else.
    pub(super) fn keep(&self, keep: Keep) {
        self.keep.get_or_init(|| keep);
    }

    fn wanted(&self) -> Keep {
        self.keep.get().copied().unwrap_or_default()
    }

    /// Whether modes are those of the source.
    pub(super) fn keeps_modes(&self) -> bool {
        self.wanted().modes
    }

    /// Gives a file its mode and time. Where modes are not kept, one that replaces another has its mode,
    /// `replaced`, and a new one what the system's mask leaves of the source's.
    pub(super) fn give_file(&self, path: &[u8], file: &File, meta: Meta, replaced: Option<u32>) {
        let mode = if self.wanted().modes {
            meta.mode
        } else {
            replaced.unwrap_or_else(|| meta.mode & default_mode())
        };
        self.give_mode(path, file, mode);
        if self.wanted().times {
            self.note_time(path, set_times(file, meta));
        }
    }

    /// Gives a file that is there already its mode, and its time if that is not the same.
    pub(super) fn replace(&self, file: &File, meta: Meta, with_time: bool) -> io::Result<()> {
        if self.wanted().modes {
            set_mode(file, meta.mode)?;
        }
        if with_time && self.wanted().times { set_times(file, meta) } else { Ok(()) }
    }

    /// Gives a folder its mode.
    pub(super) fn give_mode(&self, path: &[u8], file: &File, mode: u32) {
        if let Err(error) = set_mode(file, mode)
            && self.wanted().modes
        {
            note(&self.modes, What::Modes, path, &error);
        }
    }

    /// Gives a folder its time.
    pub(super) fn give_folder_time(&self, path: &[u8], folder: &File, meta: Meta) {
        if self.wanted().times && self.wanted().folder_times {
            self.note_time(path, set_times(folder, meta));
        }
    }

    /// Gives a link its time.
    pub(super) fn give_link(&self, path: &[u8], parent: &Dir, name: &str, meta: Meta) {
        if self.wanted().times {
            let times = timestamps(meta);
            let given = rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW);
            self.note_time(path, given.map_err(io::Error::from));
        }
    }

    fn note_time(&self, path: &[u8], given: io::Result<()>) {
        if let Err(error) = given {
            note(&self.times, What::Times, path, &error);
        }
    }

    /// What could not be kept.
    pub(super) fn unkept(&self) -> Vec<Unkept> {
        [&self.modes, &self.times].into_iter().filter_map(|unkept| lock(unkept).clone()).collect()
    }
}

fn note(unkept: &Mutex<Option<Unkept>>, what: What, path: &[u8], error: &io::Error) {
    tracing::debug!(path = printable(&shown(path)), %error, ?what, "cannot be kept");
    let first =
        || Unkept { what, count: 0, path: path.to_vec(), reason: reason(error).into_bytes() };
    lock(unkept).get_or_insert_with(first).count += 1;
}

fn set_times(file: &File, meta: Meta) -> io::Result<()> {
    Ok(rustix::fs::futimens(file, &timestamps(meta))?)
}

/// Permission bits only: set-user-id, set-group-id and sticky are the receiver's to give, and stay.
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    let (found, mode) = (rustix::fs::fstat(file)?.st_mode, mode & 0o777);
    if found & 0o777 == mode {
        return Ok(());
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(found & 0o7000 | mode))?;
    // Some say yes and change nothing.
    let is_kept = rustix::fs::fstat(file)?.st_mode & 0o777 == mode;
    if is_kept { Ok(()) } else { Err(io::Error::other("the file system keeps others")) }
}

/// Makes a folder of ours one in which we can do everything. Returns the permissions that it had, if they
/// did not allow that.
pub(super) fn open_up(folder: &Dir) -> Option<u32> {
    let found = rustix::fs::fstat(folder).ok()?;
    let mode = found.st_mode & 0o777;
    if found.st_uid != geteuid().as_raw() || mode & 0o700 == 0o700 {
        return None;
    }
    set_folder_mode(folder, mode | 0o700).is_ok().then_some(mode)
}

/// Whether [`open_up`] could let us write to a folder.
pub(super) fn is_ours(folder: &Dir) -> bool {
    rustix::fs::fstat(folder).is_ok_and(|found| found.st_uid == geteuid().as_raw())
}

/// Does something in a folder even if its mode forbids it, and then puts the mode back.
pub(super) fn insist<T>(folder: &Dir, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let refused = match act() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
        done => return done,
    };
    let mode = open_up(folder).ok_or(refused)?;
    let done = act();
    if let Err(error) = set_folder_mode(folder, mode) {
        tracing::warn!(%error, "a folder's mode cannot be put back");
    }
    done
}

/// Sets the permission bits of a folder that may not be open for reading.
fn set_folder_mode(folder: &Dir, mode: u32) -> io::Result<()> {
    let special = rustix::fs::fstat(folder)?.st_mode & 0o7000;
    let mode = Mode::from_raw_mode(special | mode);
    let set = rustix::fs::chmodat(folder, ".", mode, AtFlags::empty());
    // Who cannot enter it cannot name it so either.
    Ok(set.or_else(|_| {
        let path = format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd());
        rustix::fs::chmodat(CWD, path, mode, AtFlags::empty())
    })?)
}

/// The permissions that the system's mask leaves. It is read from where reading does not change it for
/// other threads; if it is unknown, what is new is its owner's alone.
pub(super) fn default_mode() -> u32 {
    static MODE: OnceLock<u32> = OnceLock::new();
    *MODE.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        let mask = mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok());
        0o777 & !mask.unwrap_or(0o077)
    })
}

fn timestamps(meta: Meta) -> Timestamps {
    let modified = Timespec { tv_sec: meta.mtime_s, tv_nsec: meta.mtime_ns.into() };
    let unchanged = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    Timestamps { last_access: unchanged, last_modification: modified }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use cap_std::ambient_authority;

    use super::*;

    #[test]
    fn what_cannot_be_kept_is_told_once_with_how_often() {
        let metas = Metas::default();
        for path in ["a", "b", "c"] {
            metas.note_time(path.as_bytes(), Err(io::Error::from_raw_os_error(95)));
        }
        let unkept = metas.unkept();
        assert_eq!(unkept.len(), 1);
        assert_eq!((unkept[0].what, unkept[0].count), (What::Times, 3));
        assert_eq!(unkept[0].path, b"a");
    }

    #[test]
    fn a_file_has_the_mode_and_time_that_are_wanted_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let meta = Meta { mode: 0o4641, mtime_s: 1_000_000_000, mtime_ns: 5 };
        let (all, none) = (Keep::default(), Keep { modes: false, times: false, ..Keep::default() });
        for (keep, replaced, mode) in [
            (all, None, 0o641),
            (all, Some(0o604), 0o641),
            (none, None, 0o641 & default_mode()),
            (none, Some(0o604), 0o604),
        ] {
            let file = File::create(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            let metas = Metas::default();
            metas.keep(keep);
            metas.give_file(b"file", &file, meta, replaced);
            assert!(metas.unkept().is_empty());
            let found = file.metadata().unwrap();
            let mtime = if keep.times { (1_000_000_000, 5) } else { (0, 0) };
            assert_eq!((found.mode() & 0o7777, (found.mtime(), found.mtime_nsec())), (mode, mtime));
        }
    }

    #[test]
    fn a_folder_of_ours_can_be_opened_up_whatever_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        fs::create_dir(&path).unwrap();
        let parent = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
        for mode in [0o555, 0o333, 0o000, 0o640] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let folder = parent.open_dir("folder").unwrap();
            assert_eq!(open_up(&folder), Some(mode), "{mode:o}");
            let found = fs::metadata(&path).unwrap().mode() & 0o777;
            assert_eq!(found, mode | 0o700, "{mode:o}");
            assert_eq!(open_up(&folder), None);
        }
    }
}
