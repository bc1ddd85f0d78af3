//! The disk, at both ends. Everything here blocks: call it from threads that may.

pub mod clean;
pub mod commit;
pub mod compare;
pub mod paths;
pub mod scan;
pub mod sink;
pub mod source;
pub mod systems;

use std::io;

/// What went wrong, in words for a person: without the number that [`io::Error`] adds.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// A path's bytes as a person reads them.
pub fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
