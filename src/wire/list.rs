//! What a client wants listed, and what is there.
//!
//! A [`ListRequest`] is a path (bytes), and 1 if what is in folders is wanted as well,
//! however deep, else 0. A [`Listed`] is a name (bytes), meta as in [`Record`](super::Record), and a kind:
//!
//! | kind | [`ListedKind`] | fields |
//! |---|---|---|
//! | 0 | [`ListedKind::File`] | size |
//! | 1 | [`ListedKind::Folder`] | |
//! | 2 | [`ListedKind::Symlink`] | target (bytes) |
//! | 3 | [`ListedKind::Other`] | |

use super::meta::{get_meta, put_meta};
use super::path::is_path_safe;
use super::{
    Meta, NAME_BYTES_MAX, PATH_BYTES_MAX, WireError, get_bytes, get_varint, put_all, put_bytes,
    put_varint, within,
};

/// What a client wants listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRequest {
    /// What to list, relative to the server's root: of a folder, what is in it. With a trailing slash it has
    /// to be one.
    pub path: Vec<u8>,
    /// What is in the folders that are found is wanted as well, and so on.
    pub recursive: bool,
}

/// Something that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the folder that was named last by [`Answer::ListFolder`](super::Answer::ListFolder).
    pub name: Vec<u8>,
    /// Mode and time.
    pub meta: Meta,
    /// What it is.
    pub kind: ListedKind,
}

/// What something is that is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListedKind {
    /// A regular file.
    File {
        /// Its size, in bytes.
        bytes: u64,
    },
    /// A folder.
    Folder,
    /// A symbolic link.
    Symlink {
        /// What it says.
        target: Vec<u8>,
    },
    /// A device, a socket or a pipe.
    Other,
}

impl ListRequest {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, &self.path);
        put_varint(out, u64::from(self.recursive));
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        Ok(Self {
            path: get_bytes("path", input, PATH_BYTES_MAX)?,
            recursive: within("recursive flag", get_varint(input)?, 1)? == 1,
        })
    }
}

impl Listed {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, &self.name);
        put_meta(out, self.meta);
        match &self.kind {
            ListedKind::File { bytes } => put_all(out, &[0, *bytes]),
            ListedKind::Folder => put_varint(out, 1),
            ListedKind::Symlink { target } => {
                put_varint(out, 2);
                put_bytes(out, target);
            }
            ListedKind::Other => put_varint(out, 3),
        }
    }

    pub(super) fn decode(input: &mut &[u8]) -> Result<Self, WireError> {
        let name = get_bytes("name", input, NAME_BYTES_MAX)?;
        if !is_path_safe(&name) || name.contains(&b'/') {
            return Err(WireError::UnsafePath(String::from_utf8_lossy(&name).into_owned()));
        }
        let meta = get_meta(input)?;
        let kind = match get_varint(input)? {
            0 => ListedKind::File { bytes: get_varint(input)? },
            1 => ListedKind::Folder,
            2 => ListedKind::Symlink { target: get_bytes("link", input, PATH_BYTES_MAX)? },
            3 => ListedKind::Other,
            value => return Err(WireError::Unknown { what: "kind", value }),
        };
        Ok(Self { name, meta, kind })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::meta::tests::meta;
    use super::super::{Answer, Message, VARINT_MAX};
    use super::*;
    use proptest::prelude::*;

    pub(in super::super) fn listed() -> impl Strategy<Value = Listed> {
        let name = "[^/\0.][^/\0]{0,60}".prop_map(String::into_bytes);
        let kind = prop_oneof![
            (0..=VARINT_MAX).prop_map(|bytes| ListedKind::File { bytes }),
            Just(ListedKind::Folder),
            proptest::collection::vec(any::<u8>(), 0..300)
                .prop_map(|target| ListedKind::Symlink { target }),
            Just(ListedKind::Other),
        ];
        (name, meta(), kind).prop_map(|(name, meta, kind)| Listed { name, meta, kind })
    }

    #[test]
    fn a_name_that_is_a_path_is_refused_and_the_longest_entry_fits() {
        let meta = Meta { mode: u32::MAX, mtime_s: i64::MIN, mtime_ns: 999_999_999 };
        let encoded = |name: &[u8]| {
            let kind = ListedKind::Symlink { target: vec![7; PATH_BYTES_MAX] };
            let mut out = Vec::new();
            Answer::Listed(Listed { name: name.to_vec(), meta, kind }).encode(&mut out);
            Answer::decode(&out)
        };
        assert!(matches!(encoded(&[b'n'; NAME_BYTES_MAX]), Ok(Some(_))));
        for name in [b"" as &[u8], b".", b"..", b"a/b", b"/a", b"a\0"] {
            assert!(matches!(encoded(name), Err(WireError::UnsafePath(_))), "{name:?}");
        }
    }
}
