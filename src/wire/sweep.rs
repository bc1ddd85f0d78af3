//! What is at the destination and not at the source, and is to be removed.
//!
//! Whoever receives looks through the folders that were sent, and asks whoever has sent them what of it is at the
//! source: neither has to hold the names of a folder for that.
//!
//! A [`Named`] is coded against the one before it: how many bytes of the path they share, the rest of the path (bytes),
//! and 1 for a folder, else 0. An [`AtSource`] is one byte, its number.

use bytes::{Buf, BufMut};

use super::look::{get_next_path, put_next_path};
use super::path::get_path;
use super::{
    LOOK_FILES_MAX, PATH_BYTES_MAX, WireError, get_bytes, get_varint, put_bytes, put_varint, within,
};

/// Folders that one request is about, at most.
pub const SCOPES_MAX: usize = 1_024;

/// A client wants to have removed what is in these folders and not at its source: the destination of its push (bytes),
/// their count, and the path of each (bytes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepRequest {
    /// Where it has pushed to, relative to the server's root.
    pub destination: Vec<u8>,
    /// The folders, there or below.
    pub scopes: Vec<Vec<u8>>,
}

/// Something that is at the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its path.
    pub path: Vec<u8>,
    /// Whether it is a folder.
    pub is_folder: bool,
}

/// Whether something is at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtSource {
    /// It is not.
    Gone,
    /// It is, and is sent.
    Present,
    /// A rule leaves it out, whether it is there or not.
    Excluded,
    /// It is, and is not sent.
    Unsent,
}

/// What something was that was removed, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweptKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A link, a device, a socket or a pipe.
    Other,
}

impl SweptKind {
    pub(super) fn of_number(value: u64) -> Result<Self, WireError> {
        Ok(match value {
            0 => Self::File,
            1 => Self::Folder,
            2 => Self::Other,
            value => return Err(WireError::Unknown { what: "kind", value }),
        })
    }
}

impl AtSource {
    const ALL: [Self; 4] = [Self::Gone, Self::Present, Self::Excluded, Self::Unsent];
}

impl SweepRequest {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, &self.destination);
        put_varint(out, self.scopes.len() as u64);
        for scope in &self.scopes {
            put_bytes(out, scope);
        }
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        let destination = get_bytes("path", input, PATH_BYTES_MAX)?;
        let count = within("number of folders", get_varint(input)?, SCOPES_MAX)?;
        let scopes = (0..count).map(|_| get_path(input, true)).collect::<Result<_, _>>()?;
        Ok(Self { destination, scopes })
    }
}

pub(super) fn put_named(out: &mut Vec<u8>, all: &[Named]) {
    put_varint(out, all.len() as u64);
    let mut before: &[u8] = b"";
    for Named { path, is_folder } in all {
        put_next_path(out, before, path);
        put_varint(out, u64::from(*is_folder));
        before = path;
    }
}

pub(super) fn get_named(input: &mut &[u8]) -> Result<Vec<Named>, WireError> {
    let count = within("number of paths", get_varint(input)?, LOOK_FILES_MAX)?;
    let mut all: Vec<Named> = Vec::new();
    for _ in 0..count {
        let before = all.last().map_or(&b""[..], |before| &before.path);
        let path = get_next_path(input, before)?;
        all.push(Named { path, is_folder: within("kind", get_varint(input)?, 1)? == 1 });
    }
    Ok(all)
}

pub(super) fn put_states(out: &mut Vec<u8>, states: &[AtSource]) {
    put_varint(out, states.len() as u64);
    for state in states {
        out.put_u8(*state as u8);
    }
}

pub(super) fn get_states(input: &mut &[u8]) -> Result<Vec<AtSource>, WireError> {
    let count = within("number of paths", get_varint(input)?, LOOK_FILES_MAX)?;
    let one = |_| {
        let value = input.try_get_u8().map_err(|_| WireError::Short)?;
        let unknown = WireError::Unknown { what: "state", value: value.into() };
        AtSource::ALL.get(usize::from(value)).copied().ok_or(unknown)
    };
    (0..count).map(one).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::path::tests::path;
    use super::*;

    pub(in super::super) fn named() -> impl Strategy<Value = Vec<Named>> {
        let one = (path(), any::<bool>()).prop_map(|(path, is_folder)| Named { path, is_folder });
        proptest::collection::vec(one, 0..20)
    }

    pub(in super::super) fn states() -> impl Strategy<Value = Vec<AtSource>> {
        proptest::collection::vec(proptest::sample::select(AtSource::ALL.to_vec()), 0..40)
    }

    #[test]
    fn a_states_number_is_its_place_and_paths_lead_nowhere_else() {
        for (place, state) in AtSource::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, place);
        }
        for path in ["..", "a/../b", "/etc", ""] {
            let mut out = Vec::new();
            put_named(&mut out, &[Named { path: path.into(), is_folder: true }]);
            assert!(matches!(get_named(&mut &*out), Err(WireError::UnsafePath(_))), "{path:?}");
        }
    }
}
