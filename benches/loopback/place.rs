//! Where the files are, and whether there is room.

use std::fs;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use rustix::fs::{StatVfs, statfs, statvfs};
use tempfile::TempDir;

use crate::Result;

/// How `statfs` says tmpfs.
const TMPFS_MAGIC: u32 = 0x0102_1994;
/// What the processes of both ends take, in bytes, generously.
const PROCESS_BYTES: u64 = 1 << 30;

/// A folder of the benchmark's own, removed at the end.
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) is_tmpfs: bool,
}

impl Place {
    /// In `dir`, else in the first tmpfs that has room for `bytes`, else where temporary files go.
    pub(crate) fn find(dir: Option<&Path>, bytes: u64) -> Result<Self> {
        let place = |parent: &Path| -> Result<Self> {
            let folder = tempfile::Builder::new().prefix("qbulk-bench-").tempdir_in(parent);
            let folder =
                folder.map_err(|error| format!("cannot use {}: {error}", parent.display()))?;
            let is_tmpfs = statfs(folder.path())?.f_type as u32 == TMPFS_MAGIC;
            let place = Self { folder, is_tmpfs };
            place.check(bytes)?;
            Ok(place)
        };
        if let Some(dir) = dir {
            return place(dir);
        }
        let temp = std::env::temp_dir();
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let memory = [Some("/dev/shm".into()), runtime, Some(temp.clone())].into_iter().flatten();
        for parent in memory {
            match place(&parent) {
                Ok(place) if place.is_tmpfs => return Ok(place),
                Ok(_) => {}
                Err(error) => eprintln!("not in {}: {error}", parent.display()),
            }
        }
        place(&temp)
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The folder that it is in.
    pub(crate) fn parent(&self) -> &Path {
        self.path().parent().unwrap_or(self.path())
    }

    pub(crate) fn kind(&self) -> &'static str {
        if self.is_tmpfs { "tmpfs" } else { "not tmpfs" }
    }

    /// Files in tmpfs are memory as well.
    fn check(&self, bytes: u64) -> Result<()> {
        let StatVfs { f_bavail, f_frsize, .. } = statvfs(self.path())?;
        let room = f_bavail * f_frsize;
        if room < bytes {
            let (bytes, room) = (ByteSize(bytes).display().iec(), ByteSize(room).display().iec());
            return Err(format!(
                "this needs room for {bytes}, and there are {room}: choose another folder with --dir, or less with --size or --trees"
            )
            .into());
        }
        let needed = PROCESS_BYTES + if self.is_tmpfs { bytes } else { 0 };
        match available_memory() {
            Some(memory) if memory < needed => {
                let needed = ByteSize(needed).display().iec();
                let memory = ByteSize(memory).display().iec();
                Err(format!(
                    "this needs {needed} of memory, and there are {memory}: choose less with --size or --trees, or a folder on a disk with --dir"
                )
                .into())
            }
            _ => Ok(()),
        }
    }
}

/// In bytes; unknown where the system does not say.
fn available_memory() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}
