//! What of a file is at the receiver already, by the hashes of its blocks: only what differs is sent.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::read::Content;
use crate::buffers::Buffers;
use crate::hashtree::PieceHasher;
use crate::wire::Run;

/// What the blocks of the file that is there hash to.
#[derive(Debug)]
pub struct Base {
    /// How long the file is at the source, in bytes.
    bytes: u64,
    block_bytes: u64,
    /// Those of its first blocks.
    hashes: Vec<[u8; 32]>,
}

impl Base {
    /// Nothing is known yet of what is there of a file of `bytes` bytes. The size of its blocks is a power of two.
    pub fn none(bytes: u64, block_bytes: u64) -> Self {
        Self { bytes, block_bytes, hashes: Vec::new() }
    }

    /// Adds the hashes of the blocks that follow. False if the file has not as many.
    pub fn add(&mut self, hashes: &[[u8; 32]]) -> bool {
        self.hashes.extend_from_slice(hashes);
        self.hashes.len() as u64 <= self.blocks()
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    fn blocks(&self) -> u64 {
        self.bytes.div_ceil(self.block_bytes)
    }

    /// Whether something is there at `offset` that it could be compared with.
    pub(super) fn has_some_at(&self, offset: u64) -> bool {
        offset / self.block_bytes < self.hashes.len() as u64
    }

    /// What the hashes of all blocks take, in bytes.
    pub fn full_bytes(&self) -> usize {
        self.blocks() as usize * size_of::<[u8; 32]>()
    }

    /// Where each block is, its length and its hash, if all of them are there.
    pub fn whole(&self) -> Option<Vec<(u64, u64, [u8; 32])>> {
        let block = |(at, hash): (usize, &[u8; 32])| {
            let (offset, len) = self.block(at as u64);
            (offset, len, *hash)
        };
        let is_whole = self.hashes.len() as u64 == self.blocks();
        is_whole.then(|| self.hashes.iter().enumerate().map(block).collect())
    }

    /// Where a block starts, and how long it is.
    fn block(&self, at: u64) -> (u64, u64) {
        let offset = at * self.block_bytes;
        (offset, self.block_bytes.min(self.bytes - offset))
    }

    /// Leaves out of `content` what is there, and returns where the rest is. Since `start` it has all of the file that
    /// `len` bytes from `offset` on are.
    pub(super) fn leave_out(
        &self,
        file: &File,
        (offset, len): (u64, u64),
        content: &mut Content<'_>,
        start: usize,
    ) -> io::Result<Vec<Run>> {
        let mut runs: Vec<Run> = Vec::new();
        let (first, end) = (offset / self.block_bytes, (offset + len).div_ceil(self.block_bytes));
        for at in first..end {
            let (block, block_len) = self.block(at);
            // What of it is in this piece.
            let from = block.max(offset) - offset;
            let to = (block + block_len).min(offset + len) - offset;
            let there = usize::try_from(at).ok().and_then(|at| self.hashes.get(at));
            let is_same = match there {
                None => false,
                Some(hash) => {
                    let mut hasher = PieceHasher::new(block, block_len, self.bytes);
                    if to - from == block_len {
                        hasher.update(&content.since(start)[from as usize..to as usize]);
                    } else {
                        hash_plainly(file, block..block + block_len, &mut hasher)?;
                    }
                    hasher.finish() == *hash
                }
            };
            match runs.last_mut() {
                _ if is_same => {}
                Some(run) if run.offset + run.len == from => run.len = to - run.offset,
                _ => runs.push(Run { offset: from, len: to - from }),
            }
        }
        content.keep_runs(start, &runs);
        Ok(runs)
    }
}

/// Of a block that is larger than the piece: its holes are not looked for, as that takes time for each.
fn hash_plainly(file: &File, range: Range<u64>, hasher: &mut PieceHasher) -> io::Result<()> {
    const STEP_BYTES: u64 = 256 << 10;
    let mut buffer = Buffers::default().take(STEP_BYTES as usize);
    for at in range.clone().step_by(STEP_BYTES as usize) {
        let block = &mut buffer.as_mut()[..(range.end - at).min(STEP_BYTES) as usize];
        file.read_exact_at(block, at)?;
        hasher.update(block);
    }
    Ok(())
}
