//! What ends a command, and the exit code that scripts tell it by.

use std::io;

use crate::identity::IdentityError;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was typed cannot be done.
    #[error("{0}")]
    Usage(String),
    /// The server cannot be reached, or every connection to it was lost.
    #[error("{0}")]
    Connect(String),
    /// One side does not accept the other's key.
    #[error("{0}")]
    Auth(String),
    /// The other side refused or did not keep to the protocol.
    #[error("{0}")]
    Peer(String),
    /// The other side cannot take it on yet, and may be able to soon.
    #[error("{0}")]
    Busy(String),
    /// A file or folder of this host cannot be used.
    #[error("{0}")]
    Disk(String),
    /// Stopped by the user.
    #[error("interrupted")]
    Interrupted,
    /// Keys, certificates and trust files.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// The exit code of a push that moved all but some files, and of a verification that found a difference.
pub const EXIT_SOME_FAILED: u8 = 1;

/// The exit code of a push that moved all but what vanished or was changed at the source while it was
/// read. It is that of rsync.
pub const EXIT_SOME_CHANGED: u8 = 24;

/// The exit code of a transfer that has moved everything and removed nothing, since that would have been more than is
/// allowed. It is that of rsync.
pub const EXIT_MAX_DELETE: u8 = 25;

impl Error {
    /// Whether the same may do better a moment later though nobody has done anything about it: what was under
    /// way is worth some patience then.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Busy(_) => true,
            Self::Usage(_)
            | Self::Auth(_)
            | Self::Peer(_)
            | Self::Disk(_)
            | Self::Interrupted
            | Self::Identity(_) => false,
        }
    }

    /// Whether the other side itself asks to come again.
    pub fn asks_for_patience(&self) -> bool {
        matches!(self, Self::Busy(_))
    }

    /// The exit code: 2 usage, 3 connect, 4 authentication, 5 peer, 6 local disk, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_)
            | Self::Identity(IdentityError::BadFingerprint(_) | IdentityError::BadName { .. }) => 2,
            Self::Connect(_) => 3,
            Self::Peer(_) | Self::Busy(_) => 5,
            Self::Disk(_) => 6,
            Self::Interrupted => 130,
            Self::Auth(_) | Self::Identity(_) => 4,
        }
    }
}

/// What went wrong, in words for a person: without the number that [`io::Error`] adds.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
