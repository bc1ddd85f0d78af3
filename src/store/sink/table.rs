//! The table of a stripe, and the content that goes with each of its records.

use super::SinkError;
use crate::wire::{CONTENT_BYTES_MAX, RECORDS_MAX, Record};

/// Small tables must not stand for much work.
pub(super) fn decode(mut table: &[u8]) -> Result<Vec<Record>, SinkError> {
    let mut records = Vec::new();
    let mut bytes = 0;
    while !table.is_empty() {
        let record = Record::decode(&mut table)?;
        if let Record::Piece(piece) = &record {
            bytes += piece.len;
        }
        records.push(record);
        if records.len() > RECORDS_MAX || bytes > CONTENT_BYTES_MAX.into() {
            return Err(SinkError::Protocol("a stripe holds too much".into()));
        }
    }
    Ok(records)
}

/// The part of `content` that belongs to each record.
pub(super) fn split<'a>(
    records: &[Record],
    mut content: &'a [u8],
) -> Result<Vec<&'a [u8]>, SinkError> {
    let mut parts = Vec::with_capacity(records.len());
    for record in records {
        let bytes = if let Record::Piece(piece) = record { piece.content_bytes() } else { 0 };
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
