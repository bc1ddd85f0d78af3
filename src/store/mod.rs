//! The disk, at both ends. Everything here blocks: call it from threads that may.

mod alike;
mod append;
mod beneath;
pub mod blocks;
pub mod clean;
pub mod commit;
pub mod compare;
pub mod descriptors;
pub mod destination;
mod file;
mod folders;
pub mod foresee;
pub mod fresh;
mod holes;
pub mod journal;
pub mod kept;
pub mod kind;
mod links;
pub mod list;
mod lock;
mod look;
mod merge;
mod meta;
mod object;
pub mod own;
pub mod owners;
pub mod pack;
mod places;
pub mod pour;
pub mod probe;
mod ration;
pub mod root;
pub mod scan;
pub mod sink;
pub mod source;
pub mod source_root;
mod space;
mod spill;
pub mod start;
pub mod sweep;
pub mod systems;
pub mod tally;
pub mod target;
pub mod temp;
mod unfinished;
pub mod unreadable;
mod walk;
mod xattrs;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub use crate::error::reason;
pub use crate::text::shown;

fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// There is no room, and there may be another time: what is durable of a file is worth keeping.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// The same in a sentence.
pub fn named(path: &[u8]) -> String {
    if path.is_empty() { "the root folder".into() } else { format!("{:?}", shown(path)) }
}

/// A path below a folder, from its bytes.
fn os(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// The path of the folder that `path` is in.
pub fn folder_of(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|&byte| byte == b'/').unwrap_or(0)]
}

/// Two relative paths, one below the other; each may be empty.
pub fn join(parent: &[u8], child: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if parent.is_empty() || child.is_empty() { b"" } else { b"/" };
    [parent, slash, child].concat()
}

/// The path below `parent` of what is there, or of `parent` itself, if `path` leads there.
pub fn below<'a>(parent: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    if parent.is_empty() {
        return Some(path);
    }
    match path.strip_prefix(parent)? {
        [] => Some(&[]),
        [b'/', below @ ..] => Some(below),
        _ => None,
    }
}

/// What `path` ends with.
pub fn last_of(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// The same as a name of the system.
fn name_of(path: &[u8]) -> OsString {
    OsStr::from_bytes(last_of(path)).to_owned()
}
