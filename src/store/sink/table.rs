//! The table of a stripe, and the content that goes with each of its records.

use super::super::{below, shown};
use super::SinkError;
use crate::wire::{CONTENT_BYTES_MAX, Piece, RECORDS_MAX, Record};

/// Runs of content in all pieces of one table, at most: each costs a write of its own, however short it is. A
/// file system's blocks are not so small that an honest sender finds more.
const TABLE_RUNS_MAX: usize = 1 << 15;

/// The records of a table, with their paths below the root, which is called `root_name` in them: only such as
/// are `within` that path. Small tables must not stand for much work.
pub(super) fn decode(
    mut table: &[u8],
    root_name: &[u8],
    within: &[u8],
) -> Result<Vec<Record>, SinkError> {
    let mut records = Vec::new();
    let (mut bytes, mut runs) = (0, 0);
    while !table.is_empty() {
        let mut record = Record::decode(&mut table)?;
        below_root(&mut record, root_name, within)?;
        if let Record::Piece(piece) = record.plain() {
            bytes += piece.len;
            runs += piece.runs.len();
        }
        records.push(record);
        if records.len() > RECORDS_MAX || bytes > CONTENT_BYTES_MAX.into() || runs > TABLE_RUNS_MAX
        {
            return Err(SinkError::Protocol("a stripe holds too much".into()));
        }
    }
    Ok(records)
}

fn below_root(record: &mut Record, root_name: &[u8], within: &[u8]) -> Result<(), SinkError> {
    let (path, may_be_root) = match record {
        Record::With { record, .. } => return below_root(record, root_name, within),
        Record::Folder { path, .. } => (path, true),
        Record::Symlink { path, .. }
        | Record::Kept { path, .. }
        | Record::Special { path, .. }
        | Record::Adopt { path, .. } => (path, false),
        Record::Link { path, of, .. } => {
            strip(of, false, root_name, within)?;
            (path, false)
        }
        Record::Piece(piece) => (&mut piece.path, false),
        Record::Seal { .. } | Record::Discard { .. } => return Ok(()),
    };
    strip(path, may_be_root, root_name, within)
}

/// Takes the name of the root off a path, which has to be `within` that path.
pub(super) fn strip(
    path: &mut Vec<u8>,
    may_be_root: bool,
    root_name: &[u8],
    within: &[u8],
) -> Result<(), SinkError> {
    let below_it = below(root_name, path).filter(|below| may_be_root || !below.is_empty());
    let Some(below_it) = below_it else {
        return Err(SinkError::Protocol("a path leads to another root".into()));
    };
    // A sender that was asked for something has no business beside it.
    if below(within, below_it).is_none() {
        return Err(SinkError::Protocol(format!("nobody has asked for {:?}", shown(path))));
    }
    if !root_name.is_empty() {
        *path = below_it.to_vec();
    }
    Ok(())
}

/// The part of `content` that belongs to each record.
pub(super) fn split<'a>(
    records: &[Record],
    mut content: &'a [u8],
) -> Result<Vec<&'a [u8]>, SinkError> {
    let mut parts = Vec::with_capacity(records.len());
    for record in records {
        let piece = if let Record::Piece(piece) = record.plain() { Some(piece) } else { None };
        let bytes = piece.map_or(0, Piece::content_bytes);
        let (part, rest) = usize::try_from(bytes)
            .ok()
            .and_then(|bytes| content.split_at_checked(bytes))
            .ok_or_else(|| SinkError::Protocol("a stripe's content is too short".into()))?;
        parts.push(part);
        content = rest;
    }
    if content.is_empty() {
        Ok(parts)
    } else {
        Err(SinkError::Protocol("a stripe's content is too long".into()))
    }
}
