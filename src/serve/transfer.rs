//! One transfer at the server: whose it is, and what takes it in.

use std::sync::Arc;

use tokio::time::Instant;

use super::counts::Run;
use crate::receive::Receiver;
use crate::store::start::without_slashes;
use crate::wire::{Destination, HostNumber, PushNumber, PushRequest, ToSender, VARINT_MAX};

/// A transfer that has begun.
#[derive(Debug)]
pub(super) struct Transfer {
    /// Its public name.
    pub(super) name: String,
    /// Which of its client's pushes it is a run of.
    pub(super) push: PushNumber,
    /// Where its client runs.
    pub(super) host: HostNumber,
    pub(super) began: Instant,
    /// Where it writes, with the name of its root in front if that has one.
    pub(super) destination: Vec<u8>,
    pub(super) receiver: Arc<Receiver>,
    /// Counts it.
    pub(super) run: Run,
    /// Tells it from one of the same name that this server, or one before it, has forgotten.
    instance: u64,
    /// What was at its destination.
    found: Destination,
    /// An earlier run of the same push has left something.
    kept: bool,
}

impl Transfer {
    pub(super) fn new(
        hello: &PushRequest,
        found: Destination,
        receiver: Receiver,
        run: Run,
    ) -> Self {
        Self {
            name: hello.transfer.name(),
            push: hello.push,
            host: hello.host,
            destination: without_slashes(&hello.destination).to_vec(),
            began: Instant::now(),
            kept: receiver.has_kept(),
            receiver: Arc::new(receiver),
            run,
            instance: rand::random::<u64>() & VARINT_MAX,
            found,
        }
    }

    /// What each of its connections is told first.
    pub(super) fn welcome(&self) -> ToSender {
        let (destination, instance, kept) = (self.found, self.instance, self.kept);
        ToSender::Welcome { destination, instance, kept, looks: self.receiver.shows() }
    }
}
