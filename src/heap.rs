//! Memory that was freed: how much of it is held, and giving it back to the system.

/// Has few heaps. The C library has up to eight for each processor, and what was freed in one is of no use to another: many
/// threads that each do now and then what takes much memory would hold it many times. Where somebody has said how many
/// (`MALLOC_ARENA_MAX`), that counts.
pub(crate) fn have_few() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        let processors: usize = std::thread::available_parallelism().map_or(1, Into::into);
        // As many as are enough for one not to wait for another.
        let heaps = if processors > 4 { 8 } else { 4 };
        #[expect(
            unsafe_code,
            reason = "foreign; takes no pointers, and any thread may call it at any time"
        )]
        let is_set = unsafe { libc::mallopt(libc::M_ARENA_MAX, heaps) } == 1;
        tracing::debug!(heaps, is_set, "heaps");
    }
}

/// Gives back what was freed and is still held for the next who needs some. The C library does not do it by
/// itself for what lies between other things, of which there is the more the longer a process runs.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(
        unsafe_code,
        reason = "foreign; takes no pointers, and any thread may call it at any time"
    )]
    unsafe {
        libc::malloc_trim(0);
    }
}
