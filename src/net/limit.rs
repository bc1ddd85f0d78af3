//! The user's limit on the rate of sending.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::mutex::lock;

/// What may be sent at once after a pause, as time at the limit.
const BURST: Duration = Duration::from_millis(20);
/// How much is handed to the transport at a time: as much as may be sent at once, within these bounds.
const SLICE_BYTES_MIN: u64 = 1 << 10;
const SLICE_BYTES_MAX: u64 = 16 << 10;

/// A limit in bytes per second that all connections of a transfer share.
///
/// Data waits for data only. Padding takes what neither has used, and waits without holding anything back: the two
/// together never are more than the limit for longer than a burst.
#[derive(Debug)]
pub struct Limit {
    bytes_per_s: u64,
    /// Whose turn it is: data passes in the order in which it came.
    turn: tokio::sync::Mutex<()>,
    paid: Mutex<Paid>,
}

/// When what was let through so far has been sent at the limit.
#[derive(Debug)]
struct Paid {
    /// The data alone.
    data_until: Instant,
    /// Data and padding.
    all_until: Instant,
}

impl Limit {
    /// Lets `bytes_per_s` through.
    pub fn new(bytes_per_s: u64) -> Self {
        let now = Instant::now();
        Self {
            bytes_per_s: bytes_per_s.max(1),
            turn: tokio::sync::Mutex::default(),
            paid: Mutex::new(Paid { data_until: now, all_until: now }),
        }
    }

    /// In pieces of how many bytes data should come.
    pub fn slice_bytes(&self) -> usize {
        let bytes = (self.bytes_per_s as f64 * BURST.as_secs_f64()) as u64;
        bytes.clamp(SLICE_BYTES_MIN, SLICE_BYTES_MAX) as usize
    }

    /// Waits until `bytes` more of data may be sent. Who is dropped meanwhile has taken nothing.
    pub async fn pass(&self, bytes: usize) {
        let _turn = self.turn.lock().await;
        let due = lock(&self.paid).data_until;
        sleep_until(due).await;
        let (now, time) = (Instant::now(), self.time(bytes));
        let mut paid = lock(&self.paid);
        paid.data_until = after_burst(paid.data_until, now) + time;
        paid.all_until = after_burst(paid.all_until, now) + time;
    }

    /// Waits until there is room for `bytes` of padding beside the data.
    pub async fn pass_padding(&self, bytes: usize) {
        loop {
            let due = {
                let (mut paid, now) = (lock(&self.paid), Instant::now());
                if paid.all_until <= now {
                    paid.all_until = after_burst(paid.all_until, now) + self.time(bytes);
                    return;
                }
                paid.all_until
            };
            sleep_until(due).await;
        }
    }

    /// How long `bytes` take.
    fn time(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64)
    }
}

/// What was saved up in a longer pause than a burst's is gone.
fn after_burst(until: Instant, now: Instant) -> Instant {
    until.max(now.checked_sub(BURST).unwrap_or(now))
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

    #[tokio::test(start_paused = true)]
    async fn data_waits_neither_for_padding_nor_for_what_was_called_off() {
        let limit = Limit::new(10_000);
        let start = Instant::now();
        // A second's worth of each is given up while it waits.
        limit.pass(100).await;
        let padding =
            async { tokio::join!(limit.pass_padding(10_000), limit.pass_padding(10_000)) };
        let data = async {
            limit.pass(100).await;
            limit.pass(10_000).await;
            limit.pass(10_000).await;
        };
        let wait = Duration::from_millis(15);
        let given_up = tokio::time::timeout(wait, async { tokio::join!(padding, data) }).await;
        assert!(given_up.is_err());
        limit.pass(2).await;
        assert!(start.elapsed() < Duration::from_millis(50), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn padding_takes_what_data_leaves_and_no_more() {
        let limit = Limit::new(100_000);
        let start = Instant::now();
        let pad = async {
            for count in 1_u32.. {
                limit.pass_padding(1_000).await;
                if start.elapsed() >= Duration::from_secs(2) {
                    return count;
                }
            }
            0
        };
        let send = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            for _ in 0..100 {
                limit.pass(1_000).await;
            }
            start.elapsed()
        };
        let (padded, sent_after) = tokio::join!(pad, send);
        assert!(sent_after <= Duration::from_secs(2), "{sent_after:?}");
        assert!((95..=110).contains(&padded), "{padded} beside nothing, and then nothing more");
    }
}
