//! Why a transfer does not begin, and the code that its client is told it by.

use super::drain::DRAINING;
use crate::wire::{CLOSE_BUSY, CLOSE_REFUSED, CLOSE_STOPPING};

/// Why a transfer does not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// Trying again changes nothing.
    #[error("{0}")]
    Final(String),
    /// It passes.
    #[error("{0}")]
    ForNow(String),
    /// It passes when the server is there again.
    #[error("{DRAINING}")]
    Stopping,
}

impl Refusal {
    /// What the connection is closed with.
    pub(super) fn code(&self) -> u32 {
        match self {
            Self::Final(_) => CLOSE_REFUSED,
            Self::ForNow(_) => CLOSE_BUSY,
            Self::Stopping => CLOSE_STOPPING,
        }
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::Final(reason)
    }
}
