//! What a receiver has kept of an earlier run.

use bytes::BufMut;

use super::ids::{FileKey, SourceState};
use super::{WireError, get_array, get_varint, put_all, put_varint, within};

/// Entries of one message about what is kept, at most.
pub const KEPT_MAX: usize = 120;

/// A file that is there as a whole: 16, 16 and 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptFile {
    /// Which.
    pub file: FileKey,
    /// How its source was when it was read: see [`SourceId`](super::SourceId).
    pub state: SourceState,
    /// Its BLAKE3 hash.
    pub hash: [u8; 32],
}

/// A node of a file's hash tree of which all content is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptPiece {
    /// Where it starts in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes; all of the file, if all is there.
    pub len: u64,
    /// Its [`piece_hash`](crate::hashtree::piece_hash).
    pub hash: [u8; 32],
}

pub(super) fn put_kept_files(body: &mut Vec<u8>, files: &[KeptFile]) {
    put_varint(body, files.len() as u64);
    for KeptFile { file, state, hash } in files {
        file.encode(body);
        state.encode(body);
        body.put_slice(hash);
    }
}

pub(super) fn get_kept_files(body: &mut &[u8]) -> Result<Vec<KeptFile>, WireError> {
    let file = |body: &mut &[u8]| {
        let (file, state) = (FileKey::decode(body)?, SourceState::decode(body)?);
        Ok(KeptFile { file, state, hash: get_array(body)? })
    };
    let count = within("number of files", get_varint(body)?, KEPT_MAX)?;
    (0..count).map(|_| file(body)).collect()
}

pub(super) fn put_kept_pieces(body: &mut Vec<u8>, pieces: &[KeptPiece]) {
    put_varint(body, pieces.len() as u64);
    for KeptPiece { offset, len, hash } in pieces {
        put_all(body, &[*offset, *len]);
        body.put_slice(hash);
    }
}

pub(super) fn get_kept_pieces(body: &mut &[u8]) -> Result<Vec<KeptPiece>, WireError> {
    let piece = |body: &mut &[u8]| {
        let (offset, len) = (get_varint(body)?, get_varint(body)?);
        Ok(KeptPiece { offset, len, hash: get_array(body)? })
    };
    let count = within("number of pieces", get_varint(body)?, KEPT_MAX)?;
    (0..count).map(|_| piece(body)).collect()
}
