//! What is told of a listing.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Serialize, Serializer};

/// What happens during a listing.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ListEvent {
    /// The server lists for as many as it can: this listing begins when it is its turn.
    ListWaiting {
        /// What the server has so much of.
        reason: String,
    },
    /// Something that is there.
    Entry(ListEntry),
    /// Something that the server cannot look at, or not look into; all else is listed.
    NotListed(NotListed),
    /// That was all.
    ListSummary(ListSummary),
}

/// Something that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// Its path below what is listed; the name alone if that is no folder.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Its permission bits, special ones included.
    pub mode: u32,
    /// When it was modified, in seconds since 1970.
    pub mtime_s: i64,
    /// The rest of that, in nanoseconds.
    pub mtime_ns: u32,
}

/// What something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Its size, in bytes.
        bytes: u64,
    },
    /// A folder.
    Folder,
    /// A symbolic link.
    Link {
        /// What it says.
        target: Vec<u8>,
    },
    /// A device, a socket or a pipe.
    Other,
}

/// Something that the server cannot look at, or not look into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotListed {
    /// Its path below what is listed.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// What a listing has found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ListSummary {
    /// Regular files.
    pub files: u64,
    /// Their size, in bytes.
    pub bytes: u64,
    /// Folders.
    pub folders: u64,
    /// Links, and what is none of all these.
    pub others: u64,
    /// What could not be listed.
    pub not_listed: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A [`ListEntry`] as a line of JSON has it.
#[derive(Serialize)]
struct Line<'a> {
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_base64: Option<String>,
    mode: String,
    mtime_s: i64,
    mtime_ns: u32,
}

impl Serialize for ListEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (kind, bytes, target) = match &self.kind {
            EntryKind::File { bytes } => ("file", Some(*bytes), None),
            EntryKind::Folder => ("folder", None, None),
            EntryKind::Link { target } => ("link", None, Some(target.as_slice())),
            EntryKind::Other => ("other", None, None),
        };
        let line = Line {
            path: String::from_utf8_lossy(&self.path),
            path_base64: base64(&self.path),
            kind,
            bytes,
            target: target.map(String::from_utf8_lossy),
            target_base64: target.and_then(base64),
            mode: format!("{:04o}", self.mode),
            mtime_s: self.mtime_s,
            mtime_ns: self.mtime_ns,
        };
        line.serialize(serializer)
    }
}

/// The bytes of what is no text.
pub(super) fn base64(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).is_err().then(|| BASE64_STANDARD.encode(bytes))
}
