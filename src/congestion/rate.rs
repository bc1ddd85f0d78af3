//! Delivery rate, as draft-ietf-ccwg-bbr, 4.1.1 measures it: what was acknowledged between the sending
//! of a packet and its acknowledgement, over the longer of the times that sending and acknowledging it
//! took. That acknowledgements came in a burst does not make it higher.

use std::time::{Duration, Instant};

/// What has been delivered so far, by one connection or by all of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    bytes: u64,
    at: Instant,
    /// When the packet that was acknowledged last had been sent.
    sent_at: Instant,
}

/// How things stood when a packet was sent.
#[derive(Clone, Copy, Debug)]
pub struct Stamp(Delivery);

impl Delivery {
    /// Nothing is delivered yet.
    pub fn new(now: Instant) -> Self {
        Self { bytes: 0, at: now, sent_at: now }
    }

    /// Bytes delivered so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Nothing is in flight: time that passed unused does not count.
    pub fn restart(&mut self, now: Instant) {
        self.at = now;
        self.sent_at = now;
    }

    /// To be kept with a packet that is sent.
    pub fn stamp(&self) -> Stamp {
        Stamp(*self)
    }

    /// A packet that was sent at `sent` is acknowledged.
    pub fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.bytes += bytes;
        self.at = now;
        self.sent_at = self.sent_at.max(sent);
    }

    /// Bytes per second since `stamp` was taken, by a packet that was sent at `sent` and has just been
    /// acknowledged. Measured over `least` at least: less would be a burst's rate and not the path's.
    pub fn rate(&self, stamp: Stamp, sent: Instant, least: Duration) -> f64 {
        let Stamp(before) = stamp;
        let acking = self.at.saturating_duration_since(before.at);
        let sending = sent.saturating_duration_since(before.sent_at);
        let time = acking.max(sending).max(least);
        (self.bytes - before.bytes) as f64 / time.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_that_come_in_a_burst_do_not_raise_the_rate() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut delivery = Delivery::new(start);
        let mut stamps = Vec::new();
        for packet in 0..100 {
            stamps.push((start + ms(packet), delivery.stamp()));
        }
        // All acknowledgements come at once, 10 ms after the last packet was sent.
        for &(sent, _) in &stamps {
            delivery.on_ack(start + ms(110), sent, 1_000);
        }
        let (sent, stamp) = stamps[99];
        let rate = delivery.rate(stamp, sent, ms(1));
        assert!(rate < 1_000_000.0, "{rate}");
        assert!(rate > 900_000.0, "{rate}");
    }
}
