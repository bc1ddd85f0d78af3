//! Room for what is being received. A receiver asks for it before it takes anything in; whose memory it is,
//! and what others have of it, is the owner's matter.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::buffers::{Buffer, Buffers};

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
pub(crate) trait Room: fmt::Debug + Send + Sync {
    /// Whether others wait for it: then it must be used.
    fn is_wanted(&self) -> bool;
}

/// Room that the start of a stripe takes, until it is dropped.
pub(crate) type EarlyRoom = Box<dyn Send>;

/// Room that one receiver shares with nobody.
#[derive(Debug)]
pub(crate) struct Bounded {
    stripes: Bound,
    early: Bound,
    buffers: Buffers,
}

impl Bounded {
    /// So much for stripes, and so much for what comes of them before their headers.
    pub(crate) fn new(stripe_bytes: usize, early_bytes: usize) -> Arc<Self> {
        let [stripes, early] = [stripe_bytes, early_bytes].map(Bound::new);
        Arc::new(Self { stripes, early, buffers: Buffers::keeping(stripe_bytes / 4) })
    }
}

impl Account for Bounded {
    fn room(self: Arc<Self>, bytes: usize) -> Asked<Box<dyn Room>> {
        Box::pin(async move {
            let room = self.stripes.take(bytes).await?;
            Some(Box::new(room) as Box<dyn Room>)
        })
    }

    fn early_room(self: Arc<Self>, bytes: usize) -> Asked<EarlyRoom> {
        Box::pin(async move {
            let room = self.early.take(bytes).await?;
            Some(Box::new(room) as EarlyRoom)
        })
    }

    fn buffer(&self, bytes: usize) -> Buffer {
        self.buffers.take(bytes)
    }

    fn over(&self) {}
}

impl Room for OwnedSemaphorePermit {
    fn is_wanted(&self) -> bool {
        false
    }
}

/// So many bytes; who asks for more gets all of them.
#[derive(Debug)]
struct Bound {
    bytes_max: usize,
    left: Arc<Semaphore>,
}

impl Bound {
    fn new(bytes_max: usize) -> Self {
        Self { bytes_max, left: Arc::new(Semaphore::new(bytes_max)) }
    }

    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX);
        Arc::clone(&self.left).acquire_many_owned(permits).await.ok()
    }
}
