//! Room for a file.

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, StatFs};
use rustix::io::Errno;

/// How `statfs` says tmpfs, which allocates page by page, with the file locked meanwhile, and has no disk
/// for files to be in order on.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Room for the whole file, so that a full disk is known at once and the file is in one place.
pub(super) fn allocate(file: &File, bytes: u64, sparse: bool) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    if sparse {
        return file.set_len(bytes);
    }
    let system = rustix::fs::fstatfs(file)?;
    if system.f_type as u64 == TMPFS_MAGIC {
        check_space(&system, bytes)?;
    } else {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => check_space(&system, bytes)?,
            Err(error) => return Err(error.into()),
        }
    }
    file.set_len(bytes)
}

/// For file systems that reserve nothing.
fn check_space(system: &StatFs, bytes: u64) -> io::Result<()> {
    // Blocks are counted in fragments, where there are such.
    let unit = if system.f_frsize > 0 { system.f_frsize } else { system.f_bsize };
    let free = system.f_bavail.saturating_mul(unit as u64);
    if free < bytes { Err(Errno::NOSPC.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_larger_than_what_is_free_is_refused_where_nothing_is_reserved() {
        let file = tempfile::tempfile().unwrap();
        let system = rustix::fs::fstatfs(&file).unwrap();
        assert!(check_space(&system, 1).is_ok());
        let error = check_space(&system, 1 << 60).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    }
}
