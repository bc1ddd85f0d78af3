//! Hashes of blocks of a file that is at the destination: asked for where its content is compared.
//!
//! Each is the block's [`piece_hash`](crate::hashtree::piece_hash) in a file as long as the one at the source; only
//! blocks that are there as long as they are in that file have one, so all are from the file's start on.

use bytes::BufMut;

use super::{WireError, get_array, get_varint, put_varint, within};
use crate::hashtree::FILE_BYTES_MAX;

/// The smallest block, in bytes.
pub const BLOCK_BYTES_MIN: u64 = 64 << 10;
/// Blocks of one file, at most: larger files have larger blocks.
pub const BLOCKS_MAX: u64 = 1 << 20;
/// Questions for blocks that a sender may have asked over one connection and not heard all of, at most.
pub const BLOCK_QUESTIONS_MAX: usize = 32;
/// Hashes in one message, at most.
pub const BLOCK_HASHES_MAX: usize = 240;

/// How large the blocks of a file of `bytes` bytes are that is compared block by block.
pub fn block_bytes(bytes: u64) -> u64 {
    bytes.min(FILE_BYTES_MAX).div_ceil(BLOCKS_MAX).next_power_of_two().max(BLOCK_BYTES_MIN)
}

/// The one block that a file of `bytes` bytes is.
pub fn one_block(bytes: u64) -> u64 {
    bytes.min(FILE_BYTES_MAX).next_power_of_two().max(BLOCK_BYTES_MIN)
}

/// How many blocks a file has, if it may have as many.
pub(super) fn get_block_bytes(input: &mut &[u8], file_bytes: u64) -> Result<u64, WireError> {
    let bytes = get_varint(input)?;
    let is_size = bytes.is_power_of_two() && (BLOCK_BYTES_MIN..=FILE_BYTES_MAX).contains(&bytes);
    if is_size && file_bytes.div_ceil(bytes) <= BLOCKS_MAX {
        Ok(bytes)
    } else {
        Err(WireError::Unknown { what: "size of blocks", value: bytes })
    }
}

pub(super) fn put_hashes(out: &mut Vec<u8>, hashes: &[[u8; 32]]) {
    put_varint(out, hashes.len() as u64);
    for hash in hashes {
        out.put_slice(hash);
    }
}

pub(super) fn get_hashes(input: &mut &[u8]) -> Result<Vec<[u8; 32]>, WireError> {
    let count = within("number of hashes", get_varint(input)?, BLOCK_HASHES_MAX)?;
    (0..count).map(|_| get_array(input)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_has_more_blocks_than_it_may_have() {
        for bytes in [0, 1, 65_536, 1 << 36, (1 << 36) + 1, FILE_BYTES_MAX] {
            for block in [block_bytes(bytes), one_block(bytes)] {
                let mut out = Vec::new();
                put_varint(&mut out, block);
                assert_eq!(get_block_bytes(&mut &*out, bytes), Ok(block), "{bytes}");
            }
            assert!(one_block(bytes) >= bytes);
        }
        assert_eq!((block_bytes(1 << 36), block_bytes((1 << 36) + 1)), (64 << 10, 128 << 10));
        for (block, bytes) in [(0, 1), (32 << 10, 1), (65_537, 1), (64 << 10, (1 << 36) + 1)] {
            let mut out = Vec::new();
            put_varint(&mut out, block);
            assert!(get_block_bytes(&mut &*out, bytes).is_err(), "{block}, {bytes}");
        }
    }
}
