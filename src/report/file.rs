//! The page that `--report` writes when a transfer is over.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use qbulk::error::Error;
use qbulk::event::PushEvent;
use qbulk::store::reason;
use rustix::fs::{Access, access};

use super::json::{elapsed_s, now};
use super::page::page;
use super::story::Story;

/// Collects what happens, and writes it.
pub(crate) struct Page {
    path: PathBuf,
    story: Mutex<Story>,
}

impl Page {
    /// A page at `path`. That it can be written is looked at now, before anything is moved.
    pub(crate) fn at(path: &Path) -> Result<Self, Error> {
        let folder = folder(path);
        let cannot = |why: &str| Error::Disk(format!("cannot write {}: {why}", path.display()));
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(cannot("it is a folder")),
            Ok(found) if !found.is_file() => {}
            _ => access(folder, Access::WRITE_OK | Access::EXEC_OK)
                .map_err(|error| cannot(&reason(&error.into())))?,
        }
        Ok(Self { path: path.into(), story: Mutex::new(Story::new()) })
    }

    /// Takes an event.
    pub(super) fn note(&self, event: &PushEvent) {
        if let Ok(event) = serde_json::to_value(event) {
            self.take(event);
        }
    }

    /// The transfer has failed as a whole.
    pub(super) fn fail(&self, message: &str) {
        self.take(serde_json::json!({ "event": "error", "message": message }));
    }

    fn take(&self, mut event: serde_json::Value) {
        event["time"] = now().into();
        let mut story = self.story.lock().unwrap_or_else(PoisonError::into_inner);
        story.note(&event, elapsed_s());
    }

    /// Writes it: whole, or not at all. What is no file is written to.
    pub(crate) fn write(&self) -> Result<(), Error> {
        let page = page(&self.story.lock().unwrap_or_else(PoisonError::into_inner));
        self.put(page.as_bytes())
    }

    /// Writes what is a page already.
    pub(crate) fn put(&self, page: &[u8]) -> Result<(), Error> {
        self.try_put(page).map_err(|error| {
            Error::Disk(format!("cannot write {}: {}", self.path.display(), reason(&error)))
        })
    }

    fn try_put(&self, page: &[u8]) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|found| !found.is_file()) {
            return File::options().write(true).open(&self.path)?.write_all(page);
        }
        // A link stays, and leads to the page.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let mut temp = tempfile::Builder::new();
        let mut temp =
            temp.permissions(Permissions::from_mode(0o666)).tempfile_in(folder(&path))?;
        temp.write_all(page)?;
        temp.as_file().sync_all()?;
        temp.persist(path)?;
        Ok(())
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
