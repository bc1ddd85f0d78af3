//! Attempts at a transfer: what has interrupted one may pass.

use std::time::{Duration, Instant};

use super::retry::{REACH_TIME, Retry};
use crate::clock;
use crate::error::Error;
use crate::event::{PushEvent, PushReporter, Summary};
use crate::send::together;

/// What has come of the attempts so far.
pub(super) struct Attempts {
    retry: Retry,
    report: PushReporter,
    interruptions: u64,
    earlier: Summary,
    /// For an earlier run to end: it is asked for again and again, and told once.
    is_waiting: bool,
}

/// An attempt that has failed.
pub(super) struct Failed {
    pub(super) error: Error,
    /// When there was a connection last, if the server had accepted it.
    pub(super) alive_at: Option<Instant>,
    /// What it did.
    pub(super) summary: Summary,
}

impl From<Error> for Failed {
    /// It did not get as far as the server.
    fn from(error: Error) -> Self {
        Self { error, alive_at: None, summary: Summary::default() }
    }
}

impl Attempts {
    /// Is patient for `retry_for` after each interruption.
    pub(super) fn new(retry_for: Duration, report: PushReporter) -> Self {
        Self {
            retry: Retry::new(retry_for),
            report,
            interruptions: 0,
            earlier: Summary::default(),
            is_waiting: false,
        }
    }

    /// How long the next one may take to reach the server, where the first one may take `timeout`.
    pub(super) fn reach_time(&self, timeout: Duration) -> Duration {
        if self.interruptions > 0 { timeout.min(REACH_TIME) } else { timeout }
    }

    /// One has failed. How long to wait before the next, or the error if there is to be none.
    pub(super) fn failed(&mut self, failed: Failed) -> Result<Duration, Error> {
        let Failed { error, alive_at, summary } = failed;
        self.earlier = together(std::mem::take(&mut self.earlier), summary);
        let was_accepted = alive_at.is_some();
        let Some(wait) = self.retry.wait_after(&error, alive_at, clock::now()) else {
            return Err(error);
        };
        self.interruptions += u64::from(was_accepted);
        let reason = error.to_string();
        let was_waiting = std::mem::replace(&mut self.is_waiting, error.asks_for_patience());
        match (self.is_waiting, was_waiting && !was_accepted) {
            (true, true) => {}
            (true, false) => (self.report)(PushEvent::Waiting { reason }),
            (false, _) => {
                let retry_in_s = wait.as_secs_f64();
                (self.report)(PushEvent::Interrupted { reason, retry_in_s });
            }
        }
        Ok(wait)
    }

    /// One is done. What all of them did.
    pub(super) fn done(&mut self, last: Summary) -> Summary {
        let earlier = std::mem::take(&mut self.earlier);
        Summary { interruptions: self.interruptions, ..together(earlier, last) }
    }
}
