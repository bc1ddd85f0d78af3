//! Permissions and times of what arrives.

use std::fs::File;
use std::io;

use rustix::fs::{Mode, Timespec, Timestamps};

use crate::wire::Meta;

/// Gives a file or folder its permissions and times.
pub(super) fn set_meta(file: &File, meta: Meta) -> io::Result<()> {
    set_mode(file, meta.mode)?;
    rustix::fs::futimens(file, &timestamps(meta))?;
    Ok(())
}

/// Permission bits only: set-user-id, set-group-id and sticky are the receiver's to give, and stay.
pub(super) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    let special = rustix::fs::fstat(file)?.st_mode & 0o7000;
    rustix::fs::fchmod(file, Mode::from_raw_mode(special | mode & 0o777))?;
    Ok(())
}

/// What a new folder gets from the system. The mask is read from where reading does not change it for
/// other threads; if it is unknown, folders are their owner's alone.
pub(super) fn default_folder_mode() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let mask = mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok());
    0o777 & !mask.unwrap_or(0o077)
}

pub(super) fn timestamps(meta: Meta) -> Timestamps {
    let modified = Timespec { tv_sec: meta.mtime_s, tv_nsec: meta.mtime_ns.into() };
    let unchanged = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    Timestamps { last_access: unchanged, last_modification: modified }
}
