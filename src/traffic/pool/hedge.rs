//! Stripes that go out over a second connection as well, because the one that has them is late.

use std::time::{Duration, Instant};

use super::super::{ConnId, Output, Stripe, StripeId};
use super::{Carried, Conn, Pool, State};

/// A stripe is late when it has taken twice as long as predicted, and this much more.
const LATE_MARGIN: Duration = Duration::from_millis(50);
const LATE_MAX: Duration = Duration::from_secs(5);
/// At this share of its average rate a path is busy.
const BUSY_SHARE: f64 = 0.5;

impl Pool {
    /// `id` is silent, and so may be the whole path: no sibling has had anything to send. Its oldest
    /// stripe goes out over an idle connection too, which either brings the stripe or tells them apart.
    pub(super) fn probe(&mut self, id: ConnId, now: Instant) {
        let busy_and_well = |conn: &Conn| !conn.stripes.is_empty() && !conn.meter.is_quiet(now);
        if self.conns.values().any(busy_and_well) {
            return;
        }
        let Some((&stripe, _)) = self.conns[&id].stripes.first_key_value() else { return };
        self.double(stripe, now);
    }

    /// At the end, what waits for the slowest connection decides how long all of it takes: stripes that
    /// are late go out over idle connections as well.
    pub(super) fn hedge(&mut self, now: Instant) {
        if !self.source_done || self.plan.has_waiting() || self.is_path_busy(now) {
            return;
        }
        let late = |conn: &Conn| -> Vec<StripeId> {
            // What is not under way waits for a disk, and a second copy would wait as well.
            let stripes = conn.stripes.iter().filter(|_| conn.sample.in_flight_bytes > 0);
            stripes.filter(|(_, carried)| now > carried.due_at).map(|(&id, _)| id).collect()
        };
        let late: Vec<StripeId> = self.conns.values().flat_map(late).collect();
        for stripe in late {
            if self.plan.holders(stripe) == 1 && !self.double(stripe, now) {
                return;
            }
        }
    }

    /// Whether those that still have something to send use much of what the path has given so far: a second
    /// copy would only take from the first.
    fn is_path_busy(&self, now: Instant) -> bool {
        let Some(accepted_at) = self.accepted_at else { return false };
        let confirmed_bytes = self.plan.confirmed_bytes();
        let average = confirmed_bytes as f64 / (now - accepted_at).as_secs_f64().max(1e-3);
        let busy = self.conns.values().filter(|conn| !conn.stripes.is_empty());
        let rate: f64 = busy.map(|conn| conn.meter.goodput()).sum();
        confirmed_bytes > 0 && rate >= BUSY_SHARE * average
    }

    /// Sends a stripe over an idle connection as well. False if none is idle.
    fn double(&mut self, stripe: StripeId, now: Instant) -> bool {
        let is_idle = |conn: &Conn| {
            conn.stripes.is_empty() && !matches!(conn.state, State::Opening | State::Priming(_))
        };
        let Some((&idle, _)) = self.conns.iter().find(|(_, conn)| is_idle(conn)) else {
            return false;
        };
        if let Some(stripe) = self.plan.double(stripe, idle)
            && let Some(conn) = self.conns.get_mut(&idle)
        {
            conn.carry(&stripe, now);
            self.stats.stripes_again += 1;
            self.outputs.push_back(Output::Send { conn: idle, stripe, again: true });
        }
        true
    }
}

impl Conn {
    pub(super) fn carry(&mut self, stripe: &Stripe, now: Instant) {
        if self.stripes.is_empty() {
            self.meter.resume(now);
        }
        self.flying_bytes += stripe.bytes;
        let goodput = self.meter.goodput();
        let sending = if goodput > 0.0 { self.flying_bytes as f64 / goodput } else { 0.0 };
        // Far too long is no longer a prediction.
        let sending = Duration::from_secs_f64(sending.min(LATE_MAX.as_secs_f64()));
        let due_at = now + (sending + self.sample.rtt) * 2 + LATE_MARGIN;
        self.stripes.insert(stripe.id, Carried { bytes: stripe.bytes, due_at });
    }
}
