//! Room for a file.

use std::fs::File;
use std::io;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// Room for the whole file, so that a full disk is known at once and the file is in one place.
pub(super) fn allocate(file: &File, bytes: u64, sparse: bool) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    if sparse {
        return file.set_len(bytes);
    }
    if is_in_memory(file) {
        check_space(file, bytes)?;
    } else {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => check_space(file, bytes)?,
            Err(error) => return Err(error.into()),
        }
    }
    file.set_len(bytes)
}

/// tmpfs allocates page by page, with the file locked meanwhile, and there is no disk to be in order on.
fn is_in_memory(file: &File) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    rustix::fs::fstatfs(file).is_ok_and(|system| system.f_type as u64 == TMPFS_MAGIC)
}

/// For file systems that reserve nothing.
fn check_space(file: &File, bytes: u64) -> io::Result<()> {
    let system = rustix::fs::fstatvfs(file)?;
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    if free < bytes { Err(Errno::NOSPC.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_larger_than_what_is_free_is_refused_where_nothing_is_reserved() {
        let file = tempfile::tempfile().unwrap();
        assert!(check_space(&file, 1).is_ok());
        let error = check_space(&file, 1 << 60).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    }
}
