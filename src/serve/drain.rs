//! A server that is being stopped takes on nothing new: who waits for a turn is told so.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::Notify;

/// What clients are told then.
pub(super) const DRAINING: &str =
    "the server is being stopped, and takes no new transfers: try again later";

/// What clients are told when it is, whose transfers have not ended by then.
pub(super) const STOPPED: &str = "the server is being stopped";

/// Whether a server is being stopped.
#[derive(Debug, Default)]
pub(super) struct Drain {
    is_on: AtomicBool,
    /// Told then.
    begun: Notify,
}

impl Drain {
    /// Nothing new is taken on from now on.
    pub(super) fn begin(&self) {
        self.is_on.store(true, Relaxed);
        self.begun.notify_waiters();
    }

    /// Whether that is so.
    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// Waits until it is so.
    pub(super) async fn begun(&self) {
        let mut begun = pin!(self.begun.notified());
        begun.as_mut().enable();
        if !self.is_on() {
            begun.await;
        }
    }
}
