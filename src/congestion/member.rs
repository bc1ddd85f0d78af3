//! One connection of a budget: what its own path gives.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::filter::{MaxFilter, MinFilter};
use super::loss::{Baseline, Epoch, Ledger};
use super::rate::{Delivery, Stamp};
use super::round::{RATE_ROUNDS, RTT_FLOOR, RTT_MIN_SPAN, Round};

/// What a new connection may send before anything is known, in packets: somewhat more than the ten of
/// RFC 9002, 7.2, since it is paced over the round trip that the handshake has measured.
const INITIAL_PACKETS: u64 = 16;
/// How much a single connection may grow in a round, within the budget.
const MEMBER_GAIN: f64 = 4.0;
/// What congestion leaves of a bound, and how fast one that it has left behind is lifted.
pub(super) const CUT: f64 = 0.85;
pub(super) const LIFT: f64 = 1.03;

/// What the budget knows of a connection.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) window: Arc<AtomicU64>,
    pub(super) mtu: u64,
    pub(super) delivery: Delivery,
    pub(super) sent: VecDeque<Sent>,
    pub(super) newest_acked: Option<Instant>,
    pub(super) in_flight_bytes: u64,
    pub(super) app_limited: bool,
    pub(super) rate: MaxFilter,
    pub(super) rtt: Duration,
    pub(super) rtt_min: MinFilter,
    pub(super) round: Round,
    pub(super) epoch: Epoch,
    /// Its part of what all have delivered and lost.
    pub(super) ledger: Ledger,
    pub(super) bound_bytes: Option<f64>,
}

/// Packets that were sent at one time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) at: Instant,
    pub(super) own: Stamp,
    pub(super) all: Stamp,
    pub(super) app_limited: bool,
}

impl Member {
    pub(super) fn new(mtu: u16, now: Instant) -> Self {
        let mtu = u64::from(mtu);
        Self {
            window: Arc::new(AtomicU64::new(INITIAL_PACKETS * mtu)),
            mtu,
            delivery: Delivery::new(now),
            sent: VecDeque::new(),
            newest_acked: None,
            in_flight_bytes: 0,
            app_limited: false,
            rate: MaxFilter::new(RATE_ROUNDS),
            rtt: Duration::ZERO,
            rtt_min: MinFilter::new(RTT_MIN_SPAN),
            round: Round::new(0, now, 0),
            epoch: Epoch::default(),
            ledger: Ledger::default(),
            bound_bytes: None,
        }
    }

    pub(super) fn initial_bytes(&self) -> u64 {
        INITIAL_PACKETS * self.mtu
    }

    pub(super) fn on_rtt(&mut self, rtt: Duration, now: Instant) {
        self.rtt_min.add(now, rtt);
        self.rtt = if self.rtt.is_zero() { rtt } else { (self.rtt * 7 + rtt) / 8 };
    }

    /// What its own path allows, in bytes: some times what it has delivered in a round trip. That is
    /// more than the budget's own growth, so that a connection that is late catches up.
    pub(super) fn ceiling_bytes(&self, jump_bytes: u64) -> u64 {
        // A queue of its own does not give it more.
        let rtt_max = self.rtt_min.min().unwrap_or(self.rtt) * 2;
        let per_round = self.rate.max() * self.rtt.min(rtt_max).max(RTT_FLOOR).as_secs_f64();
        let ceiling = ((MEMBER_GAIN * per_round) as u64).max(self.initial_bytes()).max(jump_bytes);
        self.bound_bytes.map_or(ceiling, |bound| ceiling.min(bound as u64))
    }

    /// What it would use of the budget, in bytes.
    pub(super) fn demand_bytes(&self, jump_bytes: u64) -> u64 {
        let ceiling = self.ceiling_bytes(jump_bytes);
        if self.app_limited || self.in_flight_bytes == 0 {
            self.in_flight_bytes.min(ceiling)
        } else {
            ceiling
        }
    }

    /// A path that loses much more than the others is bounded by itself.
    pub(super) fn end_round(&mut self, baseline: &Baseline, now: Instant) {
        let round = self.round;
        self.round = Round::new(round.number + 1, now, self.delivery.bytes());
        let Some(verdict) = self.epoch.judge(self.mtu, baseline) else { return };
        self.epoch = Epoch::default();
        let delivered = (self.delivery.bytes() - round.delivered_before) as f64;
        let time = (now - round.since).as_secs_f64().max(1e-3);
        let per_round = delivered / time * self.rtt.as_secs_f64();
        let window = self.window.load(Relaxed) as f64;
        if verdict.excess {
            self.bound_bytes = Some((CUT * window).max(0.9 * per_round));
        } else {
            self.bound_bytes = self.bound_bytes.map(|bound| bound * LIFT);
            if self.bound_bytes.is_some_and(|bound| bound > 3.0 * per_round && bound > window) {
                self.bound_bytes = None;
            }
        }
    }
}
