//! The user's limit on the rate of sending.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::mutex::lock;

/// What may be sent at once after a pause, as time at the limit.
const BURST: Duration = Duration::from_millis(20);
/// How much is handed to the transport at a time.
pub const SLICE_BYTES: usize = 16 << 10;

/// A limit in bytes per second that all connections of a transfer share.
#[derive(Debug)]
pub struct Limit {
    bytes_per_s: u64,
    /// When all that was let through so far has been sent at the limit.
    paid_until: Mutex<Instant>,
}

impl Limit {
    /// Lets `bytes_per_s` through.
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1), paid_until: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` more may be sent.
    pub async fn pass(&self, bytes: usize) {
        let time = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        let due = {
            let mut paid_until = lock(&self.paid_until);
            let now = Instant::now();
            *paid_until = (*paid_until).max(now.checked_sub(BURST).unwrap_or(now)) + time;
            *paid_until
        };
        sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_who_share_a_limit_keep_it_together() {
        let limit = Limit::new(1_000_000);
        let start = Instant::now();
        let one = async {
            for _ in 0..100 {
                limit.pass(10_000).await;
            }
        };
        let other = async {
            for _ in 0..100 {
                limit.pass(10_000).await;
            }
        };
        tokio::join!(one, other);
        let seconds = start.elapsed().as_secs_f64();
        assert!((1.9..2.1).contains(&seconds), "{seconds}");
    }
}
