//! Where a file has content. What is between are holes: they read as zeros, and need not be read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::buffers::Buffers;
use crate::hashtree::{hash_parts, piece_hash};
use crate::wire::Run;

/// What is read at a time, in bytes.
const BLOCK_BYTES: u64 = 256 << 10;
/// Of a hole, this much is read, in bytes: there are file systems that tell of holes where content is.
const PROBE_BYTES: usize = 4 << 10;

/// The first range with content that begins at `at` or behind it, and before `end`.
///
/// A file system that cannot tell has content everywhere.
pub(super) fn next_data(file: &File, at: u64, end: u64) -> io::Result<Option<Range<u64>>> {
    let Some(start) = next_start(file, at, end)? else { return Ok(None) };
    if start.is_doubtful {
        return Ok(Some(start.at..end));
    }
    let start = start.at;
    // Where it ends takes some file systems as long as it is long: tmpfs looks at each page.
    let stop = seek(file, SeekFrom::Hole(start)).unwrap_or(end);
    Ok(Some(start..if stop > start { stop.min(end) } else { end }))
}

/// Where content begins.
struct Start {
    at: u64,
    /// The file system tells of holes where content is.
    is_doubtful: bool,
}

fn next_start(file: &File, at: u64, end: u64) -> io::Result<Option<Start>> {
    if at >= end {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start.clamp(at, end),
        Err(Errno::NXIO) => end,
        Err(_) => at,
    };
    if start > at && !is_hole(file, at..start)? {
        return Ok(Some(Start { at, is_doubtful: true }));
    }
    Ok((start < end).then_some(Start { at: start, is_doubtful: false }))
}

/// The same as [`next_data`] for who is to look at many parts of a file: it takes no time in proportion to the file, and
/// returns no more than `step` bytes at a time, in which there may be holes.
pub(super) fn next_data_step(
    file: &File,
    at: u64,
    end: u64,
    step: u64,
) -> io::Result<Option<Range<u64>>> {
    let start = next_start(file, at, end)?;
    Ok(start.map(|start| start.at..end.min(start.at.saturating_add(step))))
}

/// Whether what is said to be a hole begins as one.
fn is_hole(file: &File, range: Range<u64>) -> io::Result<bool> {
    let mut probe = [0; PROBE_BYTES];
    let len = (range.end - range.start).min(PROBE_BYTES as u64) as usize;
    let read = file.read_at(&mut probe[..len], range.start)?;
    Ok(probe[..read].iter().all(|&byte| byte == 0))
}

/// Calls `each` with all that `range` holds, in order, holes as zeros, until it returns false. Says
/// whether it was called with everything.
pub(super) fn read(
    file: &File,
    range: Range<u64>,
    each: impl FnMut(&[u8]) -> bool,
) -> io::Result<bool> {
    Extents::until(range.end).read(file, range, each)
}

/// What is known of where a file has content, while it is read from its start to its end: each part of that is
/// looked for once, however small the ranges are that are read.
#[derive(Debug)]
pub(super) struct Extents {
    end: u64,
    /// The part that was found last. What is before it and was not read are holes.
    data: Range<u64>,
}

impl Extents {
    /// Of a file that is read up to `end`.
    pub(super) fn until(end: u64) -> Self {
        Self { end, data: 0..0 }
    }

    /// See [`read`]. Ranges are to follow one another.
    pub(super) fn read(
        &mut self,
        file: &File,
        range: Range<u64>,
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> io::Result<bool> {
        let block_bytes = (range.end - range.start).min(BLOCK_BYTES);
        let mut buffer = Buffers::default().take(block_bytes as usize);
        let mut at = range.start;
        while at < range.end {
            if at >= self.data.end {
                self.data = next_data(file, at, self.end)?.unwrap_or(self.end..self.end);
            }
            let start = self.data.start.clamp(at, range.end);
            if !zeros(start - at).all(&mut each) {
                return Ok(false);
            }
            at = start;
            let end = self.data.end.min(range.end);
            while at < end {
                let len = (end - at).min(BLOCK_BYTES) as usize;
                let block = &mut buffer.as_mut()[..len];
                file.read_exact_at(block, at)?;
                if !each(block) {
                    return Ok(false);
                }
                at += len as u64;
            }
        }
        Ok(true)
    }
}

/// A hole, in parts. A peer may say how large holes are: they must cost no memory.
pub(super) fn zeros<'a>(bytes: u64) -> impl Iterator<Item = &'a [u8]> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let step = ZEROS.len();
    (0..bytes).step_by(step).map(move |at| &ZEROS[..(bytes - at).min(step as u64) as usize])
}

/// The [`piece_hash`] of a piece of which `content` holds the runs, and holes are zeros.
pub(super) fn hash_runs(
    offset: u64,
    len: u64,
    runs: &[Run],
    content: &[u8],
    file_bytes: u64,
) -> [u8; 32] {
    if content.len() as u64 == len {
        return piece_hash(offset, content, file_bytes);
    }
    let (mut rest, mut end) = (content, 0);
    let mut parts: Vec<&[u8]> = Vec::with_capacity(2 * runs.len() + 1);
    for run in runs {
        let (bytes, after) = rest.split_at(run.len as usize);
        parts.extend(zeros(run.offset - end));
        parts.push(bytes);
        (rest, end) = (after, run.offset + run.len);
    }
    parts.extend(zeros(len - end));
    hash_parts(offset, len, parts.into_iter(), file_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_content_come_in_order_and_can_be_stopped() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(b"first", 1 << 20).unwrap();
        file.write_all_at(&vec![7; 1 << 20], 5 << 20).unwrap();
        file.write_all_at(b"last", (10 << 20) - 4).unwrap();
        let whole = std::fs::read(format!("/proc/self/fd/{}", {
            use std::os::fd::AsRawFd;
            file.as_raw_fd()
        }))
        .unwrap();
        for range in [0..10 << 20, 3..(5 << 20) + 77, 1 << 20..(1 << 20) + 5, 7..7] {
            let mut found = Vec::new();
            let all = read(&file, range.clone(), |part| {
                found.extend_from_slice(part);
                true
            });
            assert!(all.unwrap());
            assert_eq!(found, whole[range.start as usize..range.end as usize]);
        }
        let mut calls = 0;
        let all = read(&file, 0..10 << 20, |_| {
            calls += 1;
            calls < 3
        });
        assert!(!all.unwrap());
        assert_eq!(calls, 3);
        assert!(read(&file, 0..11 << 20, |_| true).is_ok(), "what is behind the end is a hole");
    }

    #[test]
    fn holes_are_hashed_as_zeros() {
        let runs = [Run { offset: 70_000, len: 1_000 }, Run { offset: 200_000, len: 10 }];
        let mut piece = vec![0; 262_144];
        piece[70_000..71_000].fill(1);
        piece[200_000..200_010].fill(2);
        let content = [vec![1; 1_000], vec![2; 10]].concat();
        for (offset, file_bytes) in [(0, 262_144), (262_144, 1_000_000)] {
            let hash = hash_runs(offset, 262_144, &runs, &content, file_bytes);
            assert_eq!(hash, piece_hash(offset, &piece, file_bytes));
        }
    }
}
