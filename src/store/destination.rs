//! What is where a transfer is to go.

use std::io;
use std::path::Path;
use std::sync::Arc;

use cap_std::fs::Dir;
use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;

use super::meta::is_ours;
use super::own::OwnNames;
use super::temp::TempFile;
use crate::wire::Destination;

/// Looks at a destination before a transfer: what is there, and whether it can be written.
pub fn inspect(root: &Dir, names: &OwnNames, destination: &Path) -> io::Result<Destination> {
    checked(root, destination, |folder| try_access(folder, names))
}

/// The same without changing anything: where the system cannot be asked whether it can be written, that is taken for
/// granted.
pub fn inspect_untouched(root: &Dir, destination: &Path) -> io::Result<Destination> {
    checked(root, destination, |_| Ok(()))
}

fn checked(
    root: &Dir,
    destination: &Path,
    attempt: impl FnOnce(&Dir) -> io::Result<()>,
) -> io::Result<Destination> {
    let mut below = destination;
    let kind = kind_at(root, destination)?;
    if kind != Destination::Folder {
        below = below.parent().unwrap_or(Path::new(""));
    }
    let folder = loop {
        if below.as_os_str().is_empty() {
            break root.try_clone()?;
        }
        match root.open_dir(below) {
            Ok(folder) => break folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                below = below.parent().unwrap_or(Path::new(""));
            }
            Err(error) => return Err(error),
        }
    };
    match check_access(&folder, attempt) {
        // A folder of ours is opened up while there is something to be made in it; not the root, which is
        // as who serves it wants it.
        Err(error)
            if error.kind() == io::ErrorKind::PermissionDenied
                && !below.as_os_str().is_empty()
                && is_ours(&folder) => {}
        checked => checked?,
    }
    Ok(kind)
}

/// Whether names can be made in a folder. The system is asked; where it cannot be asked (some sandboxes
/// of containers let nobody), there is the `attempt`.
fn check_access(folder: &Dir, attempt: impl FnOnce(&Dir) -> io::Result<()>) -> io::Result<()> {
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    let asked = rustix::fs::accessat(folder, ".", wanted, AtFlags::EACCESS);
    decide(asked, || attempt(folder))
}

fn decide(asked: Result<(), Errno>, attempt: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    match asked {
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => attempt(),
        answer => Ok(answer?),
    }
}

fn try_access(folder: &Dir, names: &OwnNames) -> io::Result<()> {
    let name = names.part("try", rand::random::<u64>());
    TempFile::create(Arc::new(folder.try_clone()?), name).map(drop)
}

/// What is at a destination.
pub fn kind_at(root: &Dir, destination: &Path) -> io::Result<Destination> {
    if destination.as_os_str().is_empty() {
        return Ok(Destination::Folder);
    }
    match root.metadata(destination) {
        Ok(found) if found.is_dir() => Ok(Destination::Folder),
        Ok(_) => Ok(Destination::File),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Destination::Missing),
        // A link that leads out, or nowhere in particular, is something to replace as a whole.
        Err(error) => match root.symlink_metadata(destination) {
            Ok(found) if found.is_symlink() => Ok(Destination::File),
            Ok(_) | Err(_) => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use cap_std::ambient_authority;

    use super::*;

    #[test]
    fn where_the_system_cannot_be_asked_it_is_tried() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
        let names = OwnNames::new([1; 32]);
        for errno in [Errno::NOSYS, Errno::PERM, Errno::INVAL] {
            assert!(decide(Err(errno), || try_access(&folder, &names)).is_ok(), "{errno:?}");
            let refused = decide(Err(errno), || Err(Errno::ROFS.into()));
            assert_eq!(refused.unwrap_err().raw_os_error(), Some(Errno::ROFS.raw_os_error()));
        }
        for errno in [Errno::ACCESS, Errno::ROFS] {
            assert!(decide(Err(errno), || panic!("it has answered")).is_err());
        }
        assert!(folder.entries().unwrap().next().is_none(), "nothing is left of it");
    }
}
