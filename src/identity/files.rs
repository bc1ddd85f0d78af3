//! Reading and writing files that hold secrets or decide who is trusted.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use super::IdentityError;

/// Reads a whole file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(failed("read", path))
}

/// Reads a file with a private key, which nobody but its owner may have access to.
pub(crate) fn read_private(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let mut file = File::open(path).map_err(failed("read", path))?;
    // Asks the open file rather than its name, which could lead to another file by now.
    let mode = file.metadata().map_err(failed("read", path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::KeyTooOpen { path: path.to_owned(), mode });
    }
    let mut contents = Vec::new();
    file.read_to_end(&mut contents).map_err(failed("read", path))?;
    Ok(contents)
}

/// Writes a file that must not exist yet, and waits until it is safely on disk.
pub(crate) fn write_new(path: &Path, mode: u32, contents: &str) -> Result<(), IdentityError> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                IdentityError::Exists { path: path.to_owned() }
            } else {
                failed("create", path)(error)
            }
        })?;
    file.write_all(contents.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed("write", path))
}

/// Makes a folder for the user alone, with its parents; one that exists is left as it is.
pub(crate) fn create_private_dir(dir: &Path) -> Result<(), IdentityError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create", dir))
}

/// For `map_err`: says what could not be done to which file.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    move |source| IdentityError::Io { action, path: path.to_owned(), source }
}
