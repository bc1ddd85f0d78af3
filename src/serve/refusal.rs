//! Why a request is not served, and the code that its client is told it by.

use super::drain::DRAINING;
use crate::wire::{
    CLOSE_BUSY, CLOSE_DENIED, CLOSE_REFUSED, CLOSE_STOPPING, CLOSE_UNKNOWN, CLOSE_VERSION, VERSION,
    WireError,
};

/// Why a request is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// Trying again changes nothing.
    #[error("{0}")]
    Final(String),
    /// The client's key may not do it.
    #[error("{0}")]
    Denied(String),
    /// It passes.
    #[error("{0}")]
    ForNow(String),
    /// It passes when the server is there again.
    #[error("{DRAINING}")]
    Stopping,
    /// The client is of another version.
    #[error("this server speaks version {VERSION} of the protocol, the client version {0}")]
    Version(u64),
    /// The client's version knows more.
    #[error("{0}")]
    Unknown(String),
}

impl Refusal {
    /// What the connection is closed with.
    pub(super) fn code(&self) -> u32 {
        match self {
            Self::Final(_) => CLOSE_REFUSED,
            Self::Denied(_) => CLOSE_DENIED,
            Self::ForNow(_) => CLOSE_BUSY,
            Self::Stopping => CLOSE_STOPPING,
            Self::Version(_) => CLOSE_VERSION,
            Self::Unknown(_) => CLOSE_UNKNOWN,
        }
    }

    /// Why a request is not understood, if nobody has broken the protocol by it.
    pub(super) fn of(error: &WireError) -> Option<Self> {
        match error {
            WireError::Version(version) => Some(Self::Version(*version)),
            WireError::Unasked { .. } => Some(Self::Unknown(error.to_string())),
            _ => None,
        }
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::Final(reason)
    }
}
