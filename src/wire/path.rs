//! Paths as both ends call them: relative to a root, and never out of it.

use super::{PATH_BYTES_MAX, WireError, get_bytes};

/// A path component's length at most, in bytes (`NAME_MAX` on Linux).
pub const NAME_BYTES_MAX: usize = 255;
/// So much of a name that is too long is shown, in bytes.
const NAME_SHOWN: usize = 20;

/// Whether `path` stays below the folder it is relative to and can be a path on Unix.
pub fn is_path_safe(path: &[u8]) -> bool {
    path.len() <= PATH_BYTES_MAX
        && path.split(|&byte| byte == b'/').all(|name| {
            !matches!(name, b"" | b"." | b"..")
                && name.len() <= NAME_BYTES_MAX
                && !name.contains(&0)
        })
}

/// Why a path is too long for any server, if it is.
pub fn path_fault(path: &[u8]) -> Option<String> {
    if path.len() > PATH_BYTES_MAX {
        return Some(format!("it is {} bytes long; {PATH_BYTES_MAX} are possible", path.len()));
    }
    let name = path.split(|&byte| byte == b'/').find(|name| name.len() > NAME_BYTES_MAX)?;
    let start = String::from_utf8_lossy(&name[..NAME_SHOWN]);
    let len = name.len();
    Some(format!("the name {start:?}... in it is {len} bytes long; {NAME_BYTES_MAX} are possible"))
}

/// Takes a path that leads nowhere else from the front of `input`.
pub(super) fn get_path(input: &mut &[u8], may_be_empty: bool) -> Result<Vec<u8>, WireError> {
    let path = get_bytes("path", input, PATH_BYTES_MAX)?;
    if (may_be_empty && path.is_empty()) || is_path_safe(&path) {
        Ok(path)
    } else {
        Err(WireError::UnsafePath(String::from_utf8_lossy(&path).into_owned()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn path() -> impl Strategy<Value = Vec<u8>> {
        let name = "[^/\0.][^/\0]{0,20}";
        proptest::collection::vec(name, 1..5).prop_map(|names| names.join("/").into_bytes())
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["", "/etc/passwd", "..", "a/../b", "a/..", "a//b", "a/", "./a", "a/.", "a\0b"]
        {
            assert!(!is_path_safe(path.as_bytes()), "{path:?}");
        }
        assert!(!is_path_safe(&[b'a'; 256]));
        assert!(!is_path_safe("a/".repeat(2_048).as_bytes()));
        for path in ["a", "a/b", "..a", "...", ".hidden/x", "\u{fc}/\n"] {
            assert!(is_path_safe(path.as_bytes()), "{path:?}");
        }
        assert!(is_path_safe(b"\xff\xfe"));
    }
}
