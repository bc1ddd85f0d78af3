//! A round: from the sending of a packet to its acknowledgement, and the times that all is measured by.

use std::time::{Duration, Instant};

/// A round lasts this long at least, so that what is measured on a local network is not noise.
const ROUND_MIN: Duration = Duration::from_millis(10);
/// A round trip is taken to last this long at least: what hosts need to wake up and to answer.
pub(super) const RTT_FLOOR: Duration = Duration::from_millis(4);
/// Rounds that a delivery rate is remembered for.
pub(super) const RATE_ROUNDS: u64 = 10;
/// How long the least round-trip time is believed (draft-ietf-ccwg-bbr, 2.8).
pub(super) const RTT_MIN_SPAN: Duration = Duration::from_secs(10);

/// From the sending of a packet to its acknowledgement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    pub(super) number: u64,
    pub(super) since: Instant,
    pub(super) rtt_min: Duration,
    pub(super) acks: u32,
    pub(super) app_limited_acks: u32,
    pub(super) in_flight_max: u64,
    pub(super) delivered_before: u64,
}

impl Round {
    pub(super) fn new(number: u64, now: Instant, delivered_before: u64) -> Self {
        Self {
            number,
            since: now,
            rtt_min: Duration::MAX,
            acks: 0,
            app_limited_acks: 0,
            in_flight_max: 0,
            delivered_before,
        }
    }

    pub(super) fn is_over(&self, sent_at: Instant, now: Instant) -> bool {
        sent_at >= self.since && now.saturating_duration_since(self.since) >= ROUND_MIN
    }
}
