//! Permissions and times of what arrives, and what else of metadata is asked for.
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

use super::object::Object;
use super::xattrs::Kinds;
use super::{owners, reason, shown};
use crate::mutex::lock;
use crate::text::printable;
use crate::wire::{Claim, Extra, Extras, Keep, Meta, Owner, Unkept, What, XattrsDigest};

const NOT_ROOT: &str = "only root can give files to others, or have them run as others, and this receiver does not \
                        run as root: have root receive them, or leave -o and -g out";
const NOT_ALLOWED: &str =
    "the server does not let its clients do that: start it with --super, or leave -o and -g out";

/// Gives metadata as far as it is wanted, and remembers what could not be kept.
#[derive(Debug, Default)]
pub(super) struct Metas {
    keep: OnceLock<Keep>,
    more: OnceLock<More>,
    unkept: Mutex<[Option<Unkept>; What::ALL.len()]>,
}

/// What is kept beyond modes and times.
#[derive(Clone, Copy, Debug, Default)]
struct More {
    extras: Extras,
    /// What root can do is done.
    is_privileged: bool,
}

impl Metas {
    /// Only this is wanted. Comes before everything else.
    pub(super) fn keep(&self, keep: Keep) {
        self.keep.get_or_init(|| keep);
    }

    /// This is wanted as well; what root can do is done if it `is_allowed` and this is root. Comes before
    /// everything else.
    pub(super) fn keep_more(&self, extras: Extras, is_allowed: bool) {
        self.more.get_or_init(|| More { extras, is_privileged: is_allowed && geteuid().is_root() });
    }

    fn wanted(&self) -> Keep {
        self.keep.get().copied().unwrap_or_default()
    }

    fn more(&self) -> More {
        self.more.get().copied().unwrap_or_default()
    }

    /// What is wanted beyond modes and times.
    pub(super) fn extras(&self) -> Extras {
        self.more().extras
    }

    /// Whether what root can do is done.
    pub(super) fn is_privileged(&self) -> bool {
        self.more().is_privileged
    }

    /// Which bits of modes are kept.
    fn bits(&self) -> u32 {
        let More { extras, is_privileged } = self.more();
        if extras.owner && is_privileged { 0o7777 } else { 0o777 }
    }

    fn kinds(&self) -> Kinds {
        let More { extras, is_privileged } = self.more();
        Kinds::new(extras, is_privileged)
    }

    /// Whether times are those of the source.
    pub(super) fn keeps_times(&self) -> bool {
        self.wanted().times
    }

    /// Whether modes are those of the source.
    pub(super) fn keeps_modes(&self) -> bool {
        self.wanted().modes
    }

    /// Gives a file its mode and time. Where modes are not kept, one that replaces another has its mode,
    /// `replaced`, and a new one what the system's mask leaves of the source's.
    pub(super) fn give_file(
        &self,
        path: &[u8],
        file: &File,
        meta: Meta,
        replaced: Option<u32>,
        extra: Option<&Extra>,
    ) {
        let object = Object::open(file);
        self.give_owner(path, &object, extra);
        let mode = if self.wanted().modes {
            meta.mode
        } else {
            replaced.unwrap_or_else(|| meta.mode & default_mode())
        };
        self.give_mode(path, &object, mode);
        self.give_xattrs(path, &object, extra);
        if self.wanted().times {
            self.note_time(path, object.set_times(&timestamps(meta)));
        }
    }

    /// Gives something whose it is. Comes before its mode, of which a change of owners takes bits.
    pub(super) fn give_owner(&self, path: &[u8], object: &Object<'_>, extra: Option<&Extra>) {
        if let Some(owner) = extra.and_then(|extra| extra.owner.as_ref())
            && let Err(error) = self.change_owner(object, owner)
        {
            self.note(What::Owners, path, &error);
        }
    }

    /// Gives something its extended attributes. Comes after its mode, which an ACL is more than.
    pub(super) fn give_xattrs(&self, path: &[u8], object: &Object<'_>, extra: Option<&Extra>) {
        if let Some(xattrs) = extra.and_then(|extra| extra.xattrs.as_ref()) {
            self.kinds().give(object, xattrs, |what, error| self.note(what, path, error));
        }
    }

    fn change_owner(&self, object: &Object<'_>, owner: &Owner) -> io::Result<()> {
        let found = object.stat()?;
        let (uid, gid) = self.owner_here(owner, (found.st_uid, found.st_gid));
        if uid.is_none() && gid.is_none() {
            return Ok(());
        }
        if self.is_privileged() {
            return object.chown(uid, gid);
        }
        if geteuid().is_root() {
            return Err(io::Error::other(NOT_ALLOWED));
        }
        // Whose a file is can give it to a group that it is in.
        let given = gid.is_none() || object.chown(None, gid).is_ok();
        if given && uid.is_none() { Ok(()) } else { Err(io::Error::other(NOT_ROOT)) }
    }

    /// Whom something is to belong to that belongs to others, as far as that is asked for.
    fn owner_here(&self, owner: &Owner, found: (u32, u32)) -> (Option<u32>, Option<u32>) {
        let extras = self.extras();
        let (uid, gid) = owners::here(owner);
        let is_other = |wanted: bool, id: u32, found: u32| (wanted && id != found).then_some(id);
        (is_other(extras.owner, uid, found.0), is_other(extras.group, gid, found.1))
    }

    /// Whether something has other metadata than a file at the source is said to have.
    pub(super) fn differs(
        &self,
        object: &Object<'_>,
        meta: Meta,
        claim: &Claim,
    ) -> io::Result<bool> {
        let found = object.stat()?;
        let owner = claim.owner.as_ref();
        let is_others = owner.is_some_and(|owner| {
            self.owner_here(owner, (found.st_uid, found.st_gid)) != (None, None)
        });
        let has_other_mode =
            self.wanted().modes && (found.st_mode ^ meta.mode) & self.bits() & 0o7777 != 0;
        let has_other_xattrs = match claim.xattrs {
            Some(digest) => {
                let found = self.kinds().read(object);
                found.map_or(true, |found| XattrsDigest::of(&found) != digest)
            }
            None => false,
        };
        Ok(is_others || has_other_mode || has_other_xattrs)
    }

    /// Gives a file that is there already all of its metadata.
    pub(super) fn give_all(
        &self,
        path: &[u8],
        object: &Object<'_>,
        meta: Meta,
        extra: Option<&Extra>,
    ) {
        self.give_owner(path, object, extra);
        if self.wanted().modes {
            self.give_mode(path, object, meta.mode);
        }
        self.give_xattrs(path, object, extra);
        if self.wanted().times {
            self.note_time(path, object.set_times(&timestamps(meta)));
        }
    }

    /// Gives a file that is there already its mode, and its time if that is not the same.
    pub(super) fn replace(&self, file: &File, meta: Meta, with_time: bool) -> io::Result<()> {
        let object = Object::open(file);
        if self.wanted().modes {
            set_mode(&object, meta.mode, self.bits())?;
        }
        let gives_time = with_time && self.wanted().times;
        if gives_time { object.set_times(&timestamps(meta)) } else { Ok(()) }
    }

    /// Gives something its mode.
    pub(super) fn give_mode(&self, path: &[u8], object: &Object<'_>, mode: u32) {
        let bits = self.bits();
        if let Err(error) = set_mode(object, mode, bits)
            && self.wanted().modes
        {
            self.note(What::Modes, path, &error);
        }
        if self.extras().owner && self.wanted().modes && mode & 0o7000 & !bits != 0 {
            let why = if geteuid().is_root() { NOT_ALLOWED } else { NOT_ROOT };
            self.note(What::SpecialBits, path, &io::Error::other(why));
        }
    }

    /// Gives a folder its time.
    pub(super) fn give_folder_time(&self, path: &[u8], folder: &Object<'_>, meta: Meta) {
        if self.wanted().times && self.wanted().folder_times {
            self.note_time(path, folder.set_times(&timestamps(meta)));
        }
    }

    /// Gives a link whose it is, its attributes, and its time.
    pub(super) fn give_link(
        &self,
        path: &[u8],
        (parent, name): (&Dir, &str),
        meta: Meta,
        extra: Option<&Extra>,
    ) {
        if extra.is_some() {
            match Object::at(parent, name.as_bytes()) {
                Ok(link) => {
                    self.give_owner(path, &link, extra);
                    self.give_xattrs(path, &link, extra);
                }
                Err(error) => self.note(What::Owners, path, &error),
            }
        }
        if self.wanted().times {
            let times = timestamps(meta);
            let given = rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW);
            self.note_time(path, given.map_err(io::Error::from));
        }
    }

    fn note_time(&self, path: &[u8], given: io::Result<()>) {
        if let Err(error) = given {
            self.note(What::Times, path, &error);
        }
    }

    /// Something of what is at `path` could not be kept.
    pub(super) fn note(&self, what: What, path: &[u8], error: &io::Error) {
        tracing::debug!(path = printable(&shown(path)), %error, ?what, "cannot be kept");
        let first =
            || Unkept { what, count: 0, path: path.to_vec(), reason: reason(error).into_bytes() };
        lock(&self.unkept)[what as usize].get_or_insert_with(first).count += 1;
    }

    /// What could not be kept.
    pub(super) fn unkept(&self) -> Vec<Unkept> {
        lock(&self.unkept).iter().flatten().cloned().collect()
    }
}

/// These bits only: without leave, set-user-id, set-group-id and sticky are the receiver's to give, and stay.
fn set_mode(object: &Object<'_>, mode: u32, bits: u32) -> io::Result<()> {
    let (found, mode) = (object.stat()?.st_mode, mode & bits);
    if found & bits == mode {
        return Ok(());
    }
    object.chmod(found & 0o7777 & !bits | mode)?;
    // Some say yes and change nothing.
    let is_kept = object.stat()?.st_mode & bits == mode;
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
            metas.give_file(b"file", &file, meta, replaced, None);
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
