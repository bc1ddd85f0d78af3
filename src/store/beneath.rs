//! Opening what is below a folder that is held open, without being led elsewhere: no link is followed,
//! neither on the way nor at the end, whatever others put there meanwhile.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::descriptors::patiently;
use super::{folder_of, last_of};

/// A folder that is only passed through: it need not be readable.
pub(super) const PASSED: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// Opens what is at `path` below `folder`, which an empty one is itself. Where a link is in the way, the
/// error is `ELOOP`.
pub(super) fn open(folder: impl AsFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    patiently(|| Ok(open_at_once(folder.as_fd(), path, flags | OFlags::CLOEXEC)?))
}

/// How what is at `path` below `folder` is, be it a link.
pub(super) fn stat(folder: impl AsFd, path: &[u8]) -> io::Result<Stat> {
    let at = |folder: BorrowedFd<'_>| {
        Ok(rustix::fs::statat(folder, last_of(path), AtFlags::SYMLINK_NOFOLLOW)?)
    };
    match folder_of(path) {
        _ if path.is_empty() => Ok(rustix::fs::fstat(folder)?),
        b"" => at(folder.as_fd()),
        parent => at(open(folder, parent, PASSED)?.as_fd()),
    }
}

/// What the link called `name` in `folder` says.
pub(super) fn link_target(folder: impl AsFd, name: &[u8]) -> io::Result<Vec<u8>> {
    match rustix::fs::readlinkat(folder, name, Vec::new()) {
        // It is none any more.
        Err(Errno::INVAL) => Err(Errno::LOOP.into()),
        target => Ok(target?.into_bytes()),
    }
}

fn open_at_once(folder: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(folder, path, flags, Mode::empty(), resolve) {
        // Old kernels do not have it, some sandboxes do not allow it, and it takes no longer paths.
        Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => open_by_steps(folder, path, flags),
        opened => opened,
    }
}

fn open_by_steps(folder: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let passed = PASSED | OFlags::CLOEXEC;
    let mut names = path.split(|&byte| byte == b'/');
    let mut name = names.next().unwrap_or_default();
    let mut reached: Option<OwnedFd> = None;
    for next in names {
        let parent = reached.as_ref().map_or(folder, AsFd::as_fd);
        reached = Some(open_name(parent, name, passed)?);
        name = next;
    }
    open_name(reached.as_ref().map_or(folder, AsFd::as_fd), name, flags)
}

fn open_name(folder: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    if name == b".." {
        return Err(Errno::XDEV);
    }
    let is_link = || {
        let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_symlink())
    };
    match rustix::fs::openat(folder, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
        // Where a folder is wanted, a link is none.
        Err(Errno::NOTDIR) if is_link() => Err(Errno::LOOP),
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use cap_std::ambient_authority;
    use cap_std::fs::Dir;

    use super::*;

    type Open = fn(BorrowedFd<'_>, &[u8], OFlags) -> Result<OwnedFd, Errno>;

    /// With the one call, where there is one, and without.
    const WAYS: [Open; 2] = [open_at_once, open_by_steps];

    #[test]
    fn what_is_below_is_opened_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), b"in").unwrap();
        fs::write(dir.path().join("file"), b"outside").unwrap();
        symlink("a/b", root.join("inside")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("file", root.join("a/b/link")).unwrap();
        symlink(dir.path(), root.join("a/absolute")).unwrap();
        let held = Dir::open_ambient_dir(&root, ambient_authority()).unwrap();
        for open in WAYS {
            let open = |path: &str, flags| open(held.as_fd(), path.as_bytes(), flags);
            let mut text = String::new();
            File::from(open("a/b/file", OFlags::RDONLY).unwrap())
                .read_to_string(&mut text)
                .unwrap();
            assert_eq!(text, "in");
            open("a/b", PASSED).unwrap();
            for path in
                ["inside/file", "up/file", "a/b/link", "a/absolute/file", "up/root/a/b/file"]
            {
                assert_eq!(open(path, OFlags::RDONLY).unwrap_err(), Errno::LOOP, "{path}");
            }
            for path in ["inside", "up", "a/absolute"] {
                assert_eq!(open(path, PASSED).unwrap_err(), Errno::LOOP, "{path}");
            }
            assert_eq!(open("../file", OFlags::RDONLY).unwrap_err(), Errno::XDEV);
            assert_eq!(open("a/b/file/x", OFlags::RDONLY).unwrap_err(), Errno::NOTDIR);
            assert_eq!(open("a/none", OFlags::RDONLY).unwrap_err(), Errno::NOENT);
        }
        let is_link = |path: &[u8]| {
            stat(&held, path).map(|found| FileType::from_raw_mode(found.st_mode).is_symlink())
        };
        assert!(is_link(b"up").unwrap() && is_link(b"a/b/link").unwrap());
        assert!(!is_link(b"").unwrap() && !is_link(b"a/b").unwrap());
        assert_eq!(is_link(b"inside/file").unwrap_err().raw_os_error(), Some(40), "ELOOP");
    }

    #[test]
    fn paths_may_be_longer_than_the_system_takes() {
        let dir = tempfile::tempdir().unwrap();
        let held = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
        let name = "n".repeat(250);
        let mut folder = open(&held, b"", PASSED).unwrap();
        for _ in 0..20 {
            rustix::fs::mkdirat(&folder, &*name, Mode::RWXU).unwrap();
            folder = open(&folder, name.as_bytes(), PASSED).unwrap();
        }
        let path = vec![name.as_bytes(); 20].join(&b'/');
        assert_eq!(rustix::fs::fstat(&folder).unwrap().st_ino, stat(&held, &path).unwrap().st_ino);
    }
}
