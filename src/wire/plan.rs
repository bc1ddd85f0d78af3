//! What would be sent, and is compared with what is there without its content.
//!
//! An [`Expected`] is coded against the one before it: how many bytes of the path they share, the rest of the path
//! (bytes), and a [`Subject`]. It is answered by a [`There`](super::There).

use super::look::{get_next_path, put_next_path};
use super::{LOOK_FILES_MAX, Subject, WireError, get_varint, put_varint, within};

/// What should be at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Where it goes.
    pub path: Vec<u8>,
    /// What it is at the source.
    pub subject: Subject,
}

pub(super) fn put_expected(out: &mut Vec<u8>, all: &[Expected]) {
    put_varint(out, all.len() as u64);
    let mut before: &[u8] = b"";
    for Expected { path, subject } in all {
        put_next_path(out, before, path);
        subject.encode(out);
        before = path;
    }
}

pub(super) fn get_expected(input: &mut &[u8]) -> Result<Vec<Expected>, WireError> {
    let count = within("number of paths", get_varint(input)?, LOOK_FILES_MAX)?;
    let mut all: Vec<Expected> = Vec::new();
    for _ in 0..count {
        let before = all.last().map_or(&b""[..], |before| &before.path);
        let path = get_next_path(input, before)?;
        all.push(Expected { path, subject: Subject::decode(input)? });
    }
    Ok(all)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::compare::tests::subject;
    use super::super::path::tests::path;
    use super::*;

    pub(in super::super) fn expected() -> impl Strategy<Value = Vec<Expected>> {
        let one = (path(), subject()).prop_map(|(path, subject)| Expected { path, subject });
        proptest::collection::vec(one, 0..20)
    }

    #[test]
    fn paths_that_lead_out_are_not_looked_for() {
        for path in ["..", "a/../b", "/etc/passwd", ""] {
            let mut out = Vec::new();
            put_expected(&mut out, &[Expected { path: path.into(), subject: Subject::Folder }]);
            assert!(matches!(get_expected(&mut &*out), Err(WireError::UnsafePath(_))), "{path:?}");
        }
    }
}
