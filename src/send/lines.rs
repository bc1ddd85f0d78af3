//! Where a sender's lines come from.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::event::Summary;
use crate::net::line::{LineError, LineReport};
use crate::net::route::Siblings;
use crate::traffic::ConnId;
use crate::wire::{CLOSE_ABORTED, ToReceiver};

/// What a sender waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaits {
    /// That stripes are taken which were sent.
    Confirmation,
    /// What the receiver has, or that all is durable.
    Answer,
}

/// Brings a sender its lines, and knows what it means when they are lost: a client dials them.
pub(crate) trait Lines {
    /// Who is at the other end, for messages.
    fn peer(&self) -> &str;

    /// A line is wanted, while the others are as `siblings` says.
    fn open(&mut self, conn: ConnId, siblings: Siblings, report: LineReport);

    /// A line is up.
    fn up(&mut self, now: Instant);

    /// The receiver has accepted the job.
    fn accepted(&mut self);

    /// The receiver will accept the job when it is its turn. True if that is new.
    fn waits(&mut self) -> bool;

    /// A line, of `opened` so far, is lost, and none is heard of any more if it `is_dark`. An error if others
    /// cannot make up for it.
    fn lost(
        &mut self,
        error: LineError,
        opened: u64,
        is_dark: bool,
        now: Instant,
    ) -> Result<(), Error>;

    /// When the receiver will have been waited for long enough; `None` if it has answered.
    fn due_at(&self) -> Option<Instant>;

    /// Looked at now and then, and when it is due, with whether no line is heard of any more. An error if the
    /// receiver has been waited for long enough.
    fn check(&mut self, is_dark: bool, now: Instant) -> Result<(), Error>;

    /// How much may be sent and not confirmed from now on, in bytes; `None` leaves it as it was set up.
    fn flying_bytes_max(&self) -> Option<u64> {
        None
    }

    /// The receiver, which is up, has been waited for so long without any progress. An error if that is long
    /// enough.
    fn stalled(&mut self, _on: Awaits, _time: Duration) -> Result<(), Error> {
        Ok(())
    }

    /// What is to be said to the receiver now, over any line.
    fn news(&mut self) -> Vec<ToReceiver> {
        Vec::new()
    }

    /// What is to be said over a line before the receiver hears how many stripes there are.
    fn last_words(&self) -> Vec<ToReceiver> {
        Vec::new()
    }

    /// What the receiver is told when all is done; it closes the lines then.
    fn farewell(&self, _summary: &Summary) -> Option<ToReceiver> {
        None
    }

    /// The code that lines are closed with when the job has failed, and why.
    fn closing(&self, _error: &Error) -> (u32, String) {
        (CLOSE_ABORTED, String::new())
    }

    /// Why the receiver is not reached any more.
    fn unreachable(&self, what: &str) -> Error;

    /// Ends whatever still opens or holds lines.
    fn end(&mut self) -> impl Future<Output = ()> + Send;
}
