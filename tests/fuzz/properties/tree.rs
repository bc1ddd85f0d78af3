//! Files in pieces.

use qbulk::hashtree::{HashTree, piece_hash};

/// Files of this many bytes at most are hashed for real.
const REAL_BYTES_MAX: u64 = 1 << 16;

/// Whatever pieces come in whatever order, none is taken that overlaps another, and the root is there
/// when all are, and is what BLAKE3 says of the file.
pub fn hash_tree(data: &[u8]) {
    let mut numbers =
        data.chunks_exact(4).map(|four| u32::from_le_bytes([0, 1, 2, 3].map(|at| four[at])));
    let Some(size) = numbers.next() else { return };
    // A size as it is, or far larger: with the same shift for the pieces.
    let shift = size >> 27;
    let file_bytes = u64::from(size & 0x07ff_ffff) << shift;
    let is_real = file_bytes <= REAL_BYTES_MAX;
    let content: Vec<u8> =
        if is_real { (0..file_bytes).map(|at| (at >> 3) as u8).collect() } else { Vec::new() };
    let mut tree = HashTree::new(file_bytes);
    let mut taken: Vec<(u64, u64)> = Vec::new();
    while let (Some(at), Some(len)) = (numbers.next(), numbers.next()) {
        let unit = 1024 << shift;
        // Mostly what may fit: multiples, and powers of two; now and then anything.
        let offset =
            if at & 1 == 0 { u64::from(at >> 1).saturating_mul(unit) } else { u64::from(at >> 1) };
        let len = match len & 3 {
            0 => unit.checked_shl(len >> 2 & 0x1f).unwrap_or(u64::MAX),
            1 => file_bytes.saturating_sub(offset),
            _ => u64::from(len >> 2),
        };
        let end = offset.saturating_add(len);
        let overlaps = taken.iter().any(|&(from, to)| offset < to && from < end);
        let hash = if is_real && end <= file_bytes && may_be_piece(offset, len, file_bytes) {
            piece_hash(offset, &content[offset as usize..end as usize], file_bytes)
        } else {
            [0; 32]
        };
        let was_whole = tree.root().is_some();
        if tree.add(offset, len, hash) {
            assert!(!was_whole && !overlaps && len > 0 && end <= file_bytes);
            taken.push((offset, end));
        }
    }
    let covered: u64 = taken.iter().map(|(from, to)| to - from).sum();
    assert_eq!(tree.root().is_some(), covered == file_bytes, "{covered} of {file_bytes} bytes");
    if is_real && let Some(root) = tree.root() {
        assert_eq!(root, blake3::hash(&content));
    }
}

/// What BLAKE3 can hash as a part of a file.
fn may_be_piece(offset: u64, len: u64, file_bytes: u64) -> bool {
    len > 0 && (len == file_bytes || offset.is_multiple_of(len.next_power_of_two().max(1024)))
}
