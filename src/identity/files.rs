//! Reading and writing files that hold secrets or decide who is trusted.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use tempfile::TempPath;

use super::{IdentityError, guard};
use crate::folder::parent;

/// Reads a whole file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(failed("read", path))
}

/// Reads a file with a private key, which nobody but its user may have access to.
pub(crate) fn read_private(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let mut file = File::open(path).map_err(failed("read", path))?;
    // Asks the open file rather than its name, which could lead to another file by now.
    let found = file.metadata().map_err(failed("read", path))?;
    guard::check_key(path, found.uid(), found.mode() & 0o7777)?;
    let mut contents = Vec::new();
    file.read_to_end(&mut contents).map_err(failed("read", path))?;
    Ok(contents)
}

/// Files that must not exist yet, written as a whole, all of them or none: each lies on disk under a
/// temporary name before the first gets its own. What has no name of its own goes with this.
#[derive(Default)]
pub(crate) struct NewFiles(Vec<NewFile>);

struct NewFile {
    path: PathBuf,
    mode: u32,
    contents: String,
    temp: TempPath,
}

impl NewFiles {
    /// Writes a file, and waits until it is safely on disk.
    pub(crate) fn write(
        &mut self,
        path: &Path,
        mode: u32,
        contents: String,
    ) -> Result<(), IdentityError> {
        let temp = parent(path).join(format!(".qbulk-new-{:016x}", rand::random::<u64>()));
        let file = create_new(&temp, mode).map_err(failed("create", path))?;
        let temp = TempPath::try_from_path(temp).map_err(failed("create", path))?;
        write_all(&file, &contents).map_err(failed("write", path))?;
        self.0.push(NewFile { path: path.to_owned(), mode, contents, temp });
        Ok(())
    }

    /// Gives all of them their names.
    pub(crate) fn publish(self) -> Result<(), IdentityError> {
        let mut published: Vec<PathBuf> = Vec::new();
        for file in self.0 {
            let path = file.path.clone();
            if let Err(error) = file.publish() {
                for path in published {
                    fs::remove_file(&path).map_err(failed("remove", &path))?;
                }
                return Err(error);
            }
            published.push(path);
        }
        for path in published {
            let synced = File::open(parent(&path)).and_then(|folder| folder.sync_all());
            synced.map_err(failed("write", &path))?;
        }
        Ok(())
    }
}

impl NewFile {
    /// Never replaces a file: of several processes that get here at once, one wins.
    fn publish(self) -> Result<(), IdentityError> {
        let Self { path, mode, contents, temp } = self;
        let published = match temp.persist_noclobber(&path).map_err(|failed| failed.error) {
            // A file system that can neither link nor rename without replacing.
            Err(error) if is_unsupported(&error) => create_new(&path, mode).and_then(|file| {
                write_all(&file, &contents).or_else(|error| fs::remove_file(&path).and(Err(error)))
            }),
            published => published,
        };
        published.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => IdentityError::Exists { path },
            _ => failed("create", &path)(error),
        })
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    let not_permitted = rustix::io::Errno::PERM.raw_os_error();
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(not_permitted)
}

fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

fn write_all(mut file: &File, contents: &str) -> io::Result<()> {
    file.write_all(contents.as_bytes())?;
    file.sync_all()
}

/// Whether there is no such file.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Makes a folder for the user alone, with its parents; one that exists is left as it is.
pub(crate) fn create_private_dir(dir: &Path) -> Result<(), IdentityError> {
    make_private_dir(dir).map_err(failed("create", dir))
}

/// The same, for what decides nothing about trust.
pub(crate) fn make_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// For `map_err`: says what could not be done to which file.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    move |source| IdentityError::Io { action, path: path.to_owned(), source }
}
