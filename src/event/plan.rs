//! What is told of a dry run.

use std::borrow::Cow;

use serde::{Serialize, Serializer};

use super::Failure;
use super::list::base64;

/// What happens during a dry run.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum PlanEvent {
    /// The server answers as many as it can: this dry run begins when it is its turn.
    PlanWaiting {
        /// What the server has so much of.
        reason: String,
    },
    /// What would be done at a path.
    Planned(Planned),
    /// Something that could not be moved; the others could.
    Failed(Failure),
    /// Nothing would be removed though that is asked for.
    NotDeleted {
        /// Why, for programs: `failures`, `max_delete` or `source_changed`.
        why: &'static str,
        /// Why.
        reason: String,
    },
    /// That was all.
    PlanSummary(PlanSummary),
}

/// What would be done at a path of the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The path.
    pub path: Vec<u8>,
    /// What is sent to it.
    pub kind: PlannedKind,
    /// Why.
    pub why: Why,
}

/// What would be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlannedKind {
    /// A regular file.
    File {
        /// Its size, in bytes.
        bytes: u64,
    },
    /// A folder.
    Folder,
    /// A symbolic link; of what would be removed, a device, a socket or a pipe as well.
    Link,
}

impl PlannedKind {
    /// What programs know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Folder => "folder",
            Self::Link => "link",
        }
    }
}

/// Why something would be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Nothing is there.
    New,
    /// Something of another kind is there, which would be replaced.
    Kind,
    /// A file of another size is there.
    Size,
    /// A file of another modification time is there.
    Time,
    /// A file of the same size and other content is there.
    Content,
    /// A file that looks the same is there, and that is not to count.
    Forced,
    /// A link that says something else is there.
    Target,
    /// The same file is there with other permissions, or with another time where that does not count: it would get
    /// those, and not be sent.
    Metadata,
    /// It is not at the source, and would be removed.
    Delete,
}

/// What would be done in all.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PlanSummary {
    /// Files that would be sent.
    pub files: u64,
    /// Their size, in bytes.
    pub bytes: u64,
    /// Folders that would be made.
    pub folders: u64,
    /// Links that would be made or replaced.
    pub links: u64,
    /// Files that would get other permissions or another time.
    pub changed: u64,
    /// Files that would be skipped for what is there, those that are changed included.
    pub skipped_files: u64,
    /// Their size, in bytes.
    pub skipped_bytes: u64,
    /// Files, folders and others that would be removed.
    pub deleted: u64,
    /// Why nothing would be removed though that is asked for.
    pub delete_refused: Option<&'static str>,
    /// What could not be moved.
    pub failed: u64,
    /// How many of them have vanished at the source.
    pub vanished: u64,
    /// How many of them were changed at the source meanwhile.
    pub changed_source: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A [`Planned`] as a line of JSON has it.
#[derive(Serialize)]
struct Line<'a> {
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    why: Why,
}

impl Serialize for Planned {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (kind, bytes) = match self.kind {
            kind @ PlannedKind::File { bytes } => (kind.name(), Some(bytes)),
            other => (other.name(), None),
        };
        let (path, why) = (String::from_utf8_lossy(&self.path), self.why);
        Line { path, path_base64: base64(&self.path), kind, bytes, why }.serialize(serializer)
    }
}
