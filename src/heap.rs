//! Giving memory back to the system.

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
