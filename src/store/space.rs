//! Room for a file.

use std::fs::File;
use std::io;

use cap_std::fs::Dir;
use rustix::fs::{FallocateFlags, StatFs};
use rustix::io::Errno;

/// How `statfs` says tmpfs, which allocates page by page, with the file locked meanwhile, and has no disk
/// for files to be in order on.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// A file system with less free than this is full.
const FULL_BYTES: u64 = 1 << 20;

/// Room for the whole file, so that a full disk is known at once and the file is in one place.
pub(super) fn allocate(file: &File, bytes: u64, sparse: bool) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    if sparse {
        return file.set_len(bytes);
    }
    let system = rustix::fs::fstatfs(file).ok();
    let is_tmpfs = system.is_some_and(|system| system.f_type as u64 == TMPFS_MAGIC);
    if !is_tmpfs && reserve(file, bytes)? {
        return Ok(());
    }
    if let Some(system) = system {
        check_space(&system, bytes)?;
    }
    file.set_len(bytes)
}

/// False where nothing can be reserved.
fn reserve(file: &File, bytes: u64) -> io::Result<bool> {
    loop {
        let reserved = rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes);
        if reserved != Err(Errno::INTR) {
            return is_reserved(reserved);
        }
    }
}

/// That there is no room, or that no file may be so large, holds however it is written; other refusals
/// are of the call itself, which some systems do not have or do not let anybody use.
fn is_reserved(reserved: Result<(), Errno>) -> io::Result<bool> {
    match reserved {
        Ok(()) => Ok(true),
        Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::IO | Errno::ROFS)) => {
            Err(error.into())
        }
        Err(_) => Ok(false),
    }
}

/// Whether the file system that a folder is on has next to no room for anything. Where that cannot be told
/// it counts as full: somebody was told so.
pub(super) fn is_system_full(folder: &Dir) -> bool {
    rustix::fs::fstatvfs(folder).map_or(true, |system| {
        let free = system.f_bavail.saturating_mul(system.f_frsize);
        // Some make inodes as they go, and count none.
        free < FULL_BYTES || system.f_files > 0 && system.f_favail == 0
    })
}

/// For file systems that reserve nothing.
fn check_space(system: &StatFs, bytes: u64) -> io::Result<()> {
    // Some that live in user space or far away do not know how large they are.
    if system.f_blocks == 0 {
        return Ok(());
    }
    // Blocks are counted in fragments, where there are such.
    let unit = if system.f_frsize > 0 { system.f_frsize } else { system.f_bsize };
    let free = system.f_bavail.saturating_mul(unit as u64);
    if free < bytes { Err(Errno::NOSPC.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_that_cannot_reserve_is_not_full() {
        for errno in [Errno::OPNOTSUPP, Errno::NOSYS, Errno::PERM, Errno::INVAL, Errno::NODEV] {
            assert!(!is_reserved(Err(errno)).unwrap(), "{errno:?}");
        }
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
            assert!(is_reserved(Err(errno)).is_err(), "{errno:?}");
        }
    }

    #[test]
    fn a_file_that_is_larger_than_what_is_free_is_refused_where_nothing_is_reserved() {
        let file = tempfile::tempfile().unwrap();
        let system = rustix::fs::fstatfs(&file).unwrap();
        assert!(check_space(&system, 1).is_ok());
        let error = check_space(&system, 1 << 60).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    }
}
