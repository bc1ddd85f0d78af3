//! Mode and time: the mode, seconds (zigzag) and nanoseconds of the modification time.

use super::{WireError, get_u32, get_varint, limit, put_all};

/// What is kept of a file, folder or link beside its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits.
    pub mode: u32,
    /// Modification time, in whole seconds since 1970.
    pub mtime_s: i64,
    /// The rest of it, in nanoseconds.
    pub mtime_ns: u32,
}

pub(super) fn put_meta(out: &mut Vec<u8>, meta: Meta) {
    let zigzag = ((meta.mtime_s << 1) ^ (meta.mtime_s >> 63)).cast_unsigned();
    put_all(out, &[meta.mode.into(), zigzag, meta.mtime_ns.into()]);
}

pub(super) fn get_meta(input: &mut &[u8]) -> Result<Meta, WireError> {
    let mode = get_u32("mode", input)?;
    let zigzag = get_varint(input)?;
    let mtime_s = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
    let mtime_ns = limit("nanoseconds", get_varint(input)?, 999_999_999)? as u32;
    Ok(Meta { mode, mtime_s, mtime_ns })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn meta() -> impl Strategy<Value = Meta> {
        let seconds = -(1_i64 << 59)..(1 << 59);
        (any::<u32>(), seconds, 0..1_000_000_000_u32).prop_map(|(mode, mtime_s, mtime_ns)| Meta {
            mode,
            mtime_s,
            mtime_ns,
        })
    }
}
