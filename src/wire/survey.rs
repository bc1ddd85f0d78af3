//! What a pull would send, asked without one.

use super::{
    PATH_BYTES_MAX, PULL_SOURCES_MAX, WireError, get_bytes, get_varint, put_bytes, put_varint,
    within,
};

/// A client wants to know what a pull of these sources would find: their count, and the path of each (bytes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SurveyRequest {
    /// Paths below the server's root; a trailing slash means a folder's contents.
    pub sources: Vec<Vec<u8>>,
}

impl SurveyRequest {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.sources.len() as u64);
        for source in &self.sources {
            put_bytes(out, source);
        }
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        let count = within("number of sources", get_varint(input)?, PULL_SOURCES_MAX)?;
        let source = |_| get_bytes("path", input, PATH_BYTES_MAX);
        Ok(Self { sources: (0..count).map(source).collect::<Result<_, _>>()? })
    }
}
