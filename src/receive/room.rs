//! Room for what is being received. A receiver asks for it before it takes anything in; whose memory it is,
//! and what others have of it, is the owner's matter.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use crate::buffers::Buffer;

/// The memory that one receiver may ask for. One stripe always fits.
pub(crate) trait Account: fmt::Debug + Send + Sync {
    /// Waits for room for a stripe.
    fn room(self: Arc<Self>, bytes: usize) -> Asked<Box<dyn Room>>;

    /// Waits for room for what has come of a stripe before its header.
    fn early_room(self: Arc<Self>, bytes: usize) -> Asked<EarlyRoom>;

    /// Memory for a stripe that has its room.
    fn buffer(&self, bytes: usize) -> Buffer;

    /// The receiver is done: what it still asks for is little.
    fn over(&self);
}

/// What is waited for; `None` if there will be none.
pub(crate) type Asked<T> = Pin<Box<dyn Future<Output = Option<T>> + Send>>;

/// Room that a stripe takes, until it is dropped.
pub(crate) trait Room: Send + Sync {
    /// Whether others wait for it: then it must be used.
    fn is_wanted(&self) -> bool;
}

/// Room that the start of a stripe takes, until it is dropped.
pub(crate) type EarlyRoom = Box<dyn Send>;
