//! Padding that comes over a connection: counted and thrown away.

use std::mem::replace;
use std::sync::{Arc, Mutex};

use quinn::Connection;
use tokio::task::AbortHandle;

use super::receiver::Receiver;
use crate::mutex::lock;

/// Takes padding off a connection, until this is dropped. It does so from the start: what nobody takes is kept, and of
/// connections that wait for something there may be many.
#[derive(Debug)]
pub(crate) struct Padding {
    counts: Arc<Mutex<Counts>>,
    task: AbortHandle,
}

#[derive(Debug)]
enum Counts {
    /// It is not known yet whose it is.
    Early(u64),
    For(Arc<Receiver>),
}

impl Padding {
    /// Begins to count.
    pub(crate) fn count(connection: Connection) -> Self {
        let counts = Arc::new(Mutex::new(Counts::Early(0)));
        let counting = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            while let Ok(datagram) = connection.read_datagram().await {
                match &mut *lock(&counting) {
                    Counts::Early(bytes) => *bytes += datagram.len() as u64,
                    Counts::For(receiver) => receiver.add_padding(datagram.len() as u64),
                }
            }
        });
        Self { counts, task: task.abort_handle() }
    }

    /// It is of a job.
    pub(super) fn belongs_to(&self, receiver: &Arc<Receiver>) {
        let before = replace(&mut *lock(&self.counts), Counts::For(Arc::clone(receiver)));
        if let Counts::Early(bytes) = before {
            receiver.add_padding(bytes);
        }
    }
}

impl Drop for Padding {
    fn drop(&mut self) {
        self.task.abort();
    }
}
