//! What a pull would send, asked without one.

use super::pull::{SELECT, select_option};
use super::{
    PATH_BYTES_MAX, PULL_SOURCES_MAX, Select, WireError, get_bytes, get_varint, put_bytes,
    put_varint, within,
};

/// A client wants to know what a pull of these sources would find: their count, and the path of each (bytes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SurveyRequest {
    /// Paths below the server's root; a trailing slash means a folder's contents.
    pub sources: Vec<Vec<u8>>,
    /// What of them is wanted.
    pub select: Select,
    /// The client asks about names, and is not told what there is.
    pub is_about_names: bool,
}

/// The option that says that it asks about names.
const NAMES: u64 = 4;

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
        let sources = (0..count).map(source).collect::<Result<_, _>>()?;
        Ok(Self { sources, select: Select::default(), is_about_names: false })
    }

    /// What follows the fields, by number.
    pub(super) fn options(&self) -> Vec<(u64, Vec<u8>)> {
        let names = self.is_about_names.then(|| (NAMES, Vec::new()));
        select_option(&self.select).into_iter().chain(names).collect()
    }

    /// Takes the option `number`. False if there is none.
    pub(super) fn take_option(&mut self, number: u64, mut value: &[u8]) -> Result<bool, WireError> {
        match number {
            SELECT => self.select = Select::decode(&mut value)?,
            NAMES => self.is_about_names = true,
            _ => return Ok(false),
        }
        if value.is_empty() { Ok(true) } else { Err(WireError::LeftOver(value.len())) }
    }
}
