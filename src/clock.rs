//! The time that transfers go by: the runtime's, which tests can halt and turn.

use std::time::Instant;

/// The time now.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
