//! Buffers that are used again: fresh memory has to be mapped and zeroed page by page, which for a
//! stripe costs about as much as encrypting it.
//!
//! They begin with a page. Some processors (AMD Zen 3 and 4) copy at a quarter of their speed where a
//! target lies a few bytes further into its page than its source: files are read from whole pages, and
//! what an allocator hands out is 16 bytes into one.

use std::sync::{Arc, Mutex};

use crate::mutex::lock;

/// Buffers that wait to be used again take this much at most, in bytes.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// What they are aligned to, in bytes.
const PAGE_BYTES: usize = 4_096;

/// Smaller ones, of which there may be very many, are as the allocator makes them, and are not kept: they
/// must not take several times what is in them.
const LARGE_BYTES: usize = 4 * PAGE_BYTES;

/// Where buffers come from and go back to. Clones share the same buffers.
#[derive(Clone, Debug)]
pub struct Buffers {
    kept_bytes_max: usize,
    free: Arc<Mutex<Free>>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self::keeping(KEPT_BYTES_MAX)
    }
}

#[derive(Debug, Default)]
struct Free {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

/// A buffer with something in it, if only what it held before. Goes back when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// Where its first page begins.
    start: usize,
    len: usize,
    home: Buffers,
}

impl Buffers {
    /// Those that wait to be used again take so many bytes at most.
    pub fn keeping(kept_bytes_max: usize) -> Self {
        Self { kept_bytes_max, free: Arc::default() }
    }

    /// Gives up what waits to be used again.
    pub fn clear(&self) {
        *lock(&self.free) = Free::default();
    }

    /// A buffer of `len` bytes, which are to be overwritten.
    pub fn take(&self, len: usize) -> Buffer {
        if len < LARGE_BYTES {
            return Buffer { bytes: vec![0; len], start: 0, len, home: self.clone() };
        }
        let reused = {
            let mut free = lock(&self.free);
            let reused = free.buffers.pop();
            free.bytes -= reused.as_ref().map_or(0, Vec::len);
            reused
        };
        let bytes = reused
            .filter(|bytes| bytes.len() - first_page(bytes) >= len)
            .unwrap_or_else(|| vec![0; len.next_multiple_of(PAGE_BYTES) + PAGE_BYTES]);
        Buffer { start: first_page(&bytes), bytes, len, home: self.clone() }
    }
}

fn first_page(bytes: &[u8]) -> usize {
    bytes.as_ptr().align_offset(PAGE_BYTES)
}

impl Buffer {
    /// Shortens it.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..][..self.len]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.len() < LARGE_BYTES {
            return;
        }
        let mut free = lock(&self.home.free);
        if free.bytes + bytes.len() <= self.home.kept_bytes_max {
            free.bytes += bytes.len();
            free.buffers.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_no_more_are_kept_than_may_be() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(20_000);
        buffer.as_mut().fill(7);
        buffer.truncate(10);
        assert_eq!(buffer.as_ref(), [7; 10]);
        let at = buffer.bytes.as_ptr();
        drop(buffer);
        assert_eq!(buffers.take(19_500).bytes.as_ptr(), at, "the same again");
        let larger = buffers.take(50_000);
        assert_eq!(larger.as_ref().len(), 50_000);
        assert_eq!(larger.as_ref().as_ptr().align_offset(PAGE_BYTES), 0);
        let small = buffers.take(7);
        assert_eq!((small.as_ref().len(), small.bytes.capacity()), (7, 7));

        let many: Vec<_> = (0..100).map(|_| buffers.take(1 << 20)).collect();
        drop(many);
        let free = buffers.free.lock().unwrap();
        let bytes: usize = free.buffers.iter().map(Vec::len).sum();
        assert_eq!(bytes, free.bytes);
        assert!((KEPT_BYTES_MAX - (2 << 20)..=KEPT_BYTES_MAX).contains(&bytes), "{bytes}");
        drop(free);
        buffers.clear();
        assert_eq!(lock(&buffers.free).bytes, 0);
    }
}
