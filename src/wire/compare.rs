//! What is compared with what is at a path of the server, and how it compares.
//!
//! | kind | [`Subject`] | fields |
//! |---|---|---|
//! | 0 | [`Subject::Folder`] | |
//! | 1 | [`Subject::File`] | size, meta as in [`Record`](super::Record) |
//! | 2 | [`Subject::Symlink`] | BLAKE3 of the target (32 bytes) |
//!
//! A [`Verdict`] is a [`Content`] by its number, and a sum of 1 if the permission bits differ and 2 if
//! the modification times do.

use bytes::BufMut;

use super::limit;
use super::meta::{get_meta, put_meta};
use super::{Meta, WireError, get_array, get_varint, put_all, put_varint};
use crate::hashtree::FILE_BYTES_MAX;

/// What the client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A folder; what is in it is compared by itself.
    Folder,
    /// A regular file, whose hash follows.
    File {
        /// Its size, in bytes.
        bytes: u64,
        /// Mode and time.
        meta: Meta,
    },
    /// A symbolic link.
    Symlink {
        /// BLAKE3 of what it says.
        target_hash: [u8; 32],
    },
}

impl Subject {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Folder => put_varint(out, 0),
            Self::File { bytes, meta } => {
                put_all(out, &[1, *bytes]);
                put_meta(out, *meta);
            }
            Self::Symlink { target_hash } => {
                put_varint(out, 2);
                out.put_slice(target_hash);
            }
        }
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        Ok(match get_varint(input)? {
            0 => Self::Folder,
            1 => Self::File {
                bytes: limit("file size", get_varint(input)?, FILE_BYTES_MAX)?,
                meta: get_meta(input)?,
            },
            2 => Self::Symlink { target_hash: get_array(input)? },
            value => return Err(WireError::Unknown { what: "subject", value }),
        })
    }
}

/// How what is at a path compares, its metadata aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// It is the same.
    Same,
    /// A file with another content, or a link with another target.
    Different,
    /// A file of another size.
    OtherSize,
    /// Nothing is there.
    Missing,
    /// Something of another kind is there, as a link where a file should be.
    OtherKind,
    /// It is there and cannot be read.
    Unreadable,
}

impl Content {
    const ALL: [Self; 6] = [
        Self::Same,
        Self::Different,
        Self::OtherSize,
        Self::Missing,
        Self::OtherKind,
        Self::Unreadable,
    ];
}

/// How what is at a path compares. Only of regular files are mode and time compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its content.
    pub content: Content,
    /// The permission bits are others.
    pub mode_differs: bool,
    /// The modification time is another.
    pub mtime_differs: bool,
}

impl Verdict {
    /// A verdict in which mode and time play no part.
    pub const fn of(content: Content) -> Self {
        Self { content, mode_differs: false, mtime_differs: false }
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        let meta = u64::from(self.mode_differs) | u64::from(self.mtime_differs) << 1;
        put_all(out, &[self.content as u64, meta]);
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        let value = get_varint(input)?;
        let content = usize::try_from(value).ok().and_then(|value| Content::ALL.get(value));
        let content = *content.ok_or(WireError::Unknown { what: "verdict", value })?;
        let meta = limit("differences of metadata", get_varint(input)?, 3)?;
        Ok(Self { content, mode_differs: meta & 1 != 0, mtime_differs: meta & 2 != 0 })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::meta::tests::meta;
    use super::*;
    use proptest::prelude::*;

    pub(in super::super) fn subject() -> impl Strategy<Value = Subject> {
        prop_oneof![
            Just(Subject::Folder),
            (0..=FILE_BYTES_MAX, meta()).prop_map(|(bytes, meta)| Subject::File { bytes, meta }),
            any::<[u8; 32]>().prop_map(|target_hash| Subject::Symlink { target_hash }),
        ]
    }

    pub(in super::super) fn verdict() -> impl Strategy<Value = Verdict> {
        let content = proptest::sample::select(Content::ALL.to_vec());
        (content, any::<bool>(), any::<bool>()).prop_map(
            |(content, mode_differs, mtime_differs)| Verdict {
                content,
                mode_differs,
                mtime_differs,
            },
        )
    }

    #[test]
    fn a_contents_number_is_its_place() {
        for (place, content) in Content::ALL.into_iter().enumerate() {
            assert_eq!(content as usize, place);
        }
    }
}
