//! Why something at the source cannot be sent.

use std::io;

use rustix::io::Errno;

use super::kind::FileInfo;
use super::reason;
use crate::event::FailureKind;

/// Why something cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Whether it may be otherwise at another attempt.
    pub kind: FailureKind,
    /// Why, for a person.
    pub reason: String,
}

impl Unreadable {
    pub(crate) fn changed() -> Self {
        Self { kind: FailureKind::Changed, reason: "it was changed while it was read".into() }
    }

    pub(super) fn replaced() -> Self {
        let reason = "something else has taken its place".into();
        Self { kind: FailureKind::Changed, reason }
    }

    pub(super) fn too_short(info: &FileInfo) -> Self {
        Self::source(format!("its size is said to be {}, and it has less", info.bytes))
    }

    pub(super) fn source(reason: impl Into<String>) -> Self {
        Self { kind: FailureKind::Source, reason: reason.into() }
    }
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR) => Self {
                kind: FailureKind::Vanished,
                reason: "it vanished while the source was read".into(),
            },
            // It is a link, a folder or a socket now.
            Some(Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::SPIPE | Errno::XDEV) => {
                Self::replaced()
            }
            // Network file systems say so of what was replaced or removed elsewhere.
            Some(Errno::STALE) => Self::changed(),
            _ => Self::source(reason(&error)),
        }
    }
}
