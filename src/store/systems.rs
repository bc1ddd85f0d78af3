//! Making files durable, many at a time.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use cap_std::fs::Dir;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::descriptors::patiently;
use crate::mutex::lock;

/// From so many files on, flushing the whole file system costs less than flushing each.
pub(super) const SYNCFS_FROM: usize = 8;

/// The file systems that a transfer writes to.
///
/// `syncfs` tells of what was lost since its descriptor was opened, so each file system has one from
/// before the first write.
#[derive(Debug)]
pub struct Systems {
    /// By device.
    watched: Mutex<HashMap<u64, Arc<File>>>,
    /// Whether `syncfs` tells of what was lost at all.
    tells: bool,
}

impl Systems {
    /// Watches the file system that `root` is on.
    pub fn of(root: &Dir) -> Self {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let systems = Self { watched: Mutex::default(), tells: tells(&release) };
        systems.watch(root);
        systems
    }

    /// To be called before anything is written in `folder`. One that cannot be read is not watched:
    /// errors from before a file in it was opened may be missed then.
    pub fn watch(&self, folder: &Dir) {
        let Ok(stat) = rustix::fs::fstat(folder) else { return };
        let mut watched = lock(&self.watched);
        if !watched.contains_key(&stat.st_dev)
            && let Ok(folder) = readable(folder)
        {
            watched.insert(stat.st_dev, Arc::new(folder));
        }
    }

    /// Makes files durable; says for each whether it is.
    pub fn sync(&self, files: &[&File]) -> Vec<io::Result<()>> {
        if files.len() < SYNCFS_FROM || !self.tells {
            return files.iter().map(|file| sync_one(file)).collect();
        }
        let mut results: HashMap<u64, Result<(), Errno>> = HashMap::new();
        let mut sync = |file: &&File| {
            let device = rustix::fs::fstat(file)?.st_dev;
            let result = results.entry(device).or_insert_with(|| match self.watched(device) {
                Some(system) => rustix::fs::syncfs(&*system),
                None => rustix::fs::syncfs(file),
            });
            match *result {
                // Where all cannot be flushed together, each is.
                Err(Errno::NOSYS | Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) => sync_one(file),
                result => Ok(result?),
            }
        };
        files.iter().map(&mut sync).collect()
    }

    /// Flushes all of a file system. False if that is not possible, or does not tell of errors.
    pub(super) fn sync_device(&self, device: u64) -> bool {
        let system = self.watched(device);
        self.tells && system.is_some_and(|system| rustix::fs::syncfs(&*system).is_ok())
    }

    fn watched(&self, device: u64) -> Option<Arc<File>> {
        lock(&self.watched).get(&device).cloned()
    }
}

/// Makes a file or folder durable. What cannot be flushed by itself (folders, on some network file
/// systems) is as durable as it gets.
fn sync_one(file: &File) -> io::Result<()> {
    match rustix::fs::fsync(file) {
        Err(Errno::INTR) => sync_one(file),
        synced => is_synced(synced, || file.metadata().is_ok_and(|found| found.is_dir())),
    }
}

fn is_synced(synced: Result<(), Errno>, is_folder: impl Fn() -> bool) -> io::Result<()> {
    match synced {
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) if is_folder() => Ok(()),
        synced => Ok(synced?),
    }
}

/// A folder's descriptor that can be flushed and have its mode changed.
pub fn readable(folder: &Dir) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    patiently(|| {
        let fd: OwnedFd = rustix::fs::openat(folder, ".", flags, Mode::empty())?;
        Ok(fd.into())
    })
}

/// Whether a kernel's `syncfs` tells of errors, as all do from 5.8 on.
fn tells(release: &str) -> bool {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (5, 8),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_flushed_is_as_durable_as_it_gets() {
        assert!(is_synced(Err(Errno::INVAL), || true).is_ok());
        assert!(is_synced(Err(Errno::INVAL), || false).is_err(), "a file must be");
        assert!(is_synced(Err(Errno::IO), || true).is_err(), "the disk is broken");
    }

    #[test]
    fn kernels_whose_syncfs_is_silent_are_known() {
        for release in ["5.8.0", "5.15.0-91-generic", "6.1.0", "10.0"] {
            assert!(tells(release), "{release}");
        }
        for release in ["5.7.19", "4.18.0-513.el8", "3.10.0", "", "new"] {
            assert!(!tells(release), "{release}");
        }
    }
}
