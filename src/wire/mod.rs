//! The wire format: every message, with its limits.
//!
//! Integers are QUIC variable-length integers (RFC 9000, 16) unless a width is given; fixed widths are
//! big-endian. `bytes` is a length followed by that many bytes. A peer is not trusted: every length and
//! count is checked against its limit before anything is allocated.
//!
//! A client opens a bidirectional stream for each thing that it wants, and says first what that is: a [`Request`].
//! Then both ends say what their role there lets them say: [`ToReceiver`] and [`ToSender`] where data moves, whoever
//! of the two is the client, and [`Question`] and [`Answer`] where none does. A transfer has such a stream on each of
//! its connections. Stripes of [`Record`]s go over a unidirectional stream each, and padding in datagrams that hold
//! nothing of meaning.
//!
//! Who refuses a request or ends a transfer closes the connection with one of the `CLOSE` codes, and says why in the
//! reason phrase (RFC 9000, 19.19).

mod blocks;
mod close;
mod compare;
mod extra;
mod ids;
mod kept;
mod list;
mod look;
mod message;
mod meta;
mod path;
mod piece;
mod plan;
mod pull;
mod query;
mod request;
mod select;
mod stripe;
mod survey;
mod sweep;
mod to_receiver;
mod to_sender;

pub use blocks::{
    BLOCK_BYTES_MIN, BLOCK_HASHES_MAX, BLOCK_QUESTIONS_MAX, BLOCKS_MAX, block_bytes, one_block,
};
pub use close::{
    CLOSE_ABORTED, CLOSE_BUSY, CLOSE_CONDEMNED, CLOSE_CROWDED, CLOSE_DENIED, CLOSE_DONE,
    CLOSE_PROTOCOL, CLOSE_REFUSED, CLOSE_STOPPING, CLOSE_UNKNOWN, CLOSE_VERSION,
};
pub use compare::{Content, Subject, Verdict};
pub use extra::{
    Extra, Extras, OWNER_NAME_BYTES_MAX, Owner, XATTR_NAME_BYTES_MAX, XATTRS_BYTES_MAX, XATTRS_MAX,
    Xattr, XattrsDigest,
};
pub(crate) use ids::half;
pub use ids::{
    FileKey, HostNumber, PushNumber, SourceBasis, SourceState, SourceVersion, TransferSecret,
};
pub use kept::{KEPT_MAX, KeptFile, KeptPiece};
pub use list::{ListRequest, Listed, ListedKind};
pub use look::{
    Candidate, Claim, LOOK_BYTES_MAX, LOOK_FILES_MAX, LOOKS_MAX, Likeness, Skip, There, fitting,
};
pub use message::{Message, MessageBuffer};
pub use meta::Meta;
pub use path::{NAME_BYTES_MAX, is_path_safe, path_fault};
pub use piece::{Piece, RUNS_MAX, Run, SourceId};
pub use plan::Expected;
pub use pull::{
    LineDoes, LineGivenUp, LinePrimed, PRIME_ENDS, PULL_SOURCES_BYTES_MAX, PULL_SOURCES_MAX,
    PullRequest, ROLES, Sending, Sent, Unsendable, VERDICTS, Wish,
};
pub use query::{Answer, Question};
pub use request::{Compares, Keep, Packing, PushRequest, Request, Right, VerifyRequest};
pub use select::{NAMES_BYTES_MAX, PATTERNS_BYTES_MAX, RULES_MAX, Rule, Select};
pub use stripe::{CONTENT_BYTES_MAX, Header, RECORDS_MAX, Record, Special, TABLE_BYTES_MAX};
pub use survey::SurveyRequest;
pub use sweep::{AtSource, Named, SCOPES_MAX, SweepRequest, SweptKind};
pub use to_receiver::ToReceiver;
pub use to_sender::{Destination, ToSender, Unkept, What};

use bytes::{Buf, BufMut};

/// The version of everything in this module.
pub const VERSION: u64 = 2;
/// A message's length at most, in bytes.
pub const CONTROL_BYTES_MAX: usize = 8 << 10;
/// The same of a request, which may say what of its sources is wanted.
pub const REQUEST_BYTES_MAX: usize = 40 << 10;
/// A path's length at most, in bytes (`PATH_MAX` on Linux).
pub const PATH_BYTES_MAX: usize = 4_096;
/// Comparisons that a client may have asked for and not heard of, at most.
pub const COMPARES_MAX: usize = 1_024;
/// A message to a person, in bytes at most.
pub const TEXT_BYTES_MAX: usize = 2_048;

/// What padding datagrams hold: nothing. Where packets are larger, several share one.
pub static DATAGRAM_PADDING: [u8; 8 << 10] = [0; 8 << 10];

/// What a decoder found wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The message ends before its fields do.
    #[error("the message is cut short")]
    Short,
    /// A length or count is beyond its limit.
    #[error("{what} of {value} is above the limit of {limit}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// What the peer said.
        value: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A field has a value that means nothing.
    #[error("unknown {what} {value}")]
    Unknown {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A request of another version of the protocol.
    #[error("this side speaks version {VERSION} of the protocol, the other side version {0}")]
    Version(u64),
    /// A request, or something in it, that only a later version of the program knows.
    #[error(
        "there is no {what} {value} in this version of the program: is the other side's newer?"
    )]
    Unasked {
        /// What.
        what: &'static str,
        /// Its number.
        value: u64,
    },
    /// A piece that is no node of its file's hash tree.
    #[error("a piece of {len} bytes cannot be at {offset}")]
    Misplaced {
        /// Where it starts, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        len: u64,
    },
    /// A path that would lead out of the destination, or that no file can have.
    #[error("the path {0:?} is not allowed")]
    UnsafePath(String),
    /// Bytes are left after the last field.
    #[error("{0} bytes are left over")]
    LeftOver(usize),
}

/// Values up to here have an encoding (RFC 9000, 16).
pub const VARINT_MAX: u64 = (1 << 62) - 1;

/// Appends a variable-length integer. Values above [`VARINT_MAX`] never occur: they are cut to it.
pub fn put_varint(out: &mut Vec<u8>, value: u64) {
    let value = value.min(VARINT_MAX);
    match value {
        0..0x40 => out.put_u8(value as u8),
        0x40..0x4000 => out.put_u16(0x4000 | value as u16),
        0x4000..0x4000_0000 => out.put_u32(0x8000_0000 | value as u32),
        _ => out.put_u64(0xc000_0000_0000_0000 | value),
    }
}

/// Takes a variable-length integer from the front of `input`.
pub fn get_varint(input: &mut &[u8]) -> Result<u64, WireError> {
    let first = *input.first().ok_or(WireError::Short)?;
    let len = 1_usize << (first >> 6);
    let (head, rest) = input.split_at_checked(len).ok_or(WireError::Short)?;
    *input = rest;
    let first = u64::from(first & 0x3f);
    Ok(head[1..].iter().fold(first, |value, &byte| value << 8 | u64::from(byte)))
}

pub(crate) fn put_all(out: &mut Vec<u8>, values: &[u64]) {
    for &value in values {
        put_varint(out, value);
    }
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

pub(crate) fn get_bytes(
    what: &'static str,
    input: &mut &[u8],
    limit: usize,
) -> Result<Vec<u8>, WireError> {
    let len = within(what, get_varint(input)?, limit)?;
    let (head, rest) = input.split_at_checked(len).ok_or(WireError::Short)?;
    *input = rest;
    Ok(head.to_vec())
}

pub(crate) fn get_array<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], WireError> {
    let mut array = [0; N];
    input.try_copy_to_slice(&mut array).map_err(|_| WireError::Short)?;
    Ok(array)
}

pub(crate) fn get_u32(what: &'static str, input: &mut &[u8]) -> Result<u32, WireError> {
    let value = get_varint(input)?;
    u32::try_from(value).map_err(|_| WireError::Limit { what, value, limit: u32::MAX.into() })
}

pub(crate) fn limit(what: &'static str, value: u64, limit: u64) -> Result<u64, WireError> {
    if value > limit { Err(WireError::Limit { what, value, limit }) } else { Ok(value) }
}

pub(crate) fn within(what: &'static str, value: u64, limit: usize) -> Result<usize, WireError> {
    let limit = limit as u64;
    if value > limit { Err(WireError::Limit { what, value, limit }) } else { Ok(value as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_those_of_rfc_9000() {
        // RFC 9000, appendix A.1.
        for (value, bytes) in [
            (151_288_809_941_952_652, &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..]),
            (494_878_333, &[0x9d, 0x7f, 0x3e, 0x7d]),
            (15_293, &[0x7b, 0xbd]),
            (37, &[0x25]),
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(get_varint(&mut &*out), Ok(value));
        }
    }
}
