//! What is where a transfer is to go.

use std::io;
use std::path::Path;

use cap_std::fs::Dir;
use rustix::fs::{Access, AtFlags};

use crate::wire::Destination;

/// Looks at a destination before a transfer: what is there, and whether it can be written.
pub fn inspect(root: &Dir, destination: &Path) -> io::Result<Destination> {
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
    rustix::fs::accessat(&folder, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?;
    Ok(kind)
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
        Err(error) => Err(error),
    }
}
