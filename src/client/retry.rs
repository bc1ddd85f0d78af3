//! Going on after an interruption that may pass.

use std::time::{Duration, Instant};

use crate::error::Error;

/// The waits between attempts: the first, which is doubled, and the longest.
const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(1);
/// How long an attempt may take to reach the server again.
pub(super) const REACH_TIME: Duration = Duration::from_secs(3);

/// Decides whether a push that was interrupted is tried again.
#[derive(Debug)]
pub(super) struct Retry {
    patience: Duration,
    /// When the transfer was last under way.
    interrupted_at: Option<Instant>,
    wait: Duration,
}

impl Retry {
    /// Tries for `patience` after each interruption.
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, interrupted_at: None, wait: WAIT_MIN }
    }

    /// An attempt has failed; if the server had accepted the transfer, it had a connection until
    /// `alive_at`. How long to wait before the next; `None` if there is to be none.
    ///
    /// Only a transfer that was under way is worth patience, or one that the server asks to have some: a
    /// wrong address or a server that refuses are told at once.
    pub(super) fn wait_after(
        &mut self,
        error: &Error,
        alive_at: Option<Instant>,
        now: Instant,
    ) -> Option<Duration> {
        if alive_at.is_some() {
            self.interrupted_at = alive_at;
            self.wait = WAIT_MIN;
        }
        if error.asks_for_patience() {
            self.interrupted_at.get_or_insert(now);
        }
        let since = self.interrupted_at?;
        if !error.may_pass() || now - since >= self.patience {
            return None;
        }
        let wait = self.wait;
        self.wait = (2 * wait).min(WAIT_MAX);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_under_way_and_may_pass_is_tried_again() {
        let now = Instant::now();
        let lost = Error::Connect("lost".into());
        let mut retry = Retry::new(Duration::from_secs(10));
        assert_eq!(retry.wait_after(&lost, None, now), None, "never reached");
        assert_eq!(retry.wait_after(&lost, Some(now), now), Some(WAIT_MIN));
        let later = now + Duration::from_secs(9);
        assert_eq!(retry.wait_after(&lost, None, later), Some(2 * WAIT_MIN));
        assert_eq!(retry.wait_after(&lost, Some(later), later), Some(WAIT_MIN), "it had been back");
        assert_eq!(retry.wait_after(&Error::Peer("no".into()), None, later), None);
        assert_eq!(retry.wait_after(&lost, None, later + Duration::from_secs(10)), None);
        let busy = Error::Busy("wait".into());
        let mut asked = Retry::new(Duration::from_secs(10));
        assert_eq!(asked.wait_after(&busy, None, now), Some(WAIT_MIN), "the server asks for it");
        assert_eq!(asked.wait_after(&busy, None, later), Some(2 * WAIT_MIN));
        assert_eq!(asked.wait_after(&busy, None, later + Duration::from_secs(1)), None);
        let mut never = Retry::new(Duration::ZERO);
        assert_eq!(never.wait_after(&lost, Some(now), now), None);
    }
}
