//! Work is given out: who carries data, for how long, and how much of it at a time.

use std::time::{Duration, Instant};

use super::super::{ConnId, Output};
use super::conn::{Conn, Role, State};
use super::prime::PrimeEnd;
use super::{Set, SetConfig};

/// A stripe should keep a connection busy for about this long, or a round trip.
const STRIPE_TIME: Duration = Duration::from_millis(20);

impl Set {
    /// Fills the active subset and gives out stripes.
    pub(super) fn assign(&mut self, now: Instant) {
        self.outputs.extend(self.jobs.newly_drained().into_iter().map(Output::Drained));
        while self.jobs.have_waiting() && self.count(Role::Active) < self.tuner.active() {
            if !self.activate_next(now) {
                break;
            }
        }
        if !self.jobs.have_waiting() {
            return;
        }
        let mut ids = self.active_ids();
        // The emptiest goes first, so that what is left spreads evenly.
        ids.sort_by_key(|id| self.conns[id].flying_bytes);
        for id in ids {
            self.feed(id, now);
        }
    }

    pub(super) fn active_ids(&self) -> Vec<ConnId> {
        let active = self.conns.iter().filter(|(_, conn)| conn.is_active());
        active.map(|(&id, _)| id).collect()
    }

    /// Makes the reserve that has waited longest active; without one, a connection that is still being
    /// primed: data has the right of way. False if there is neither.
    fn activate_next(&mut self, now: Instant) -> bool {
        if self.reserve.is_empty() {
            let priming =
                self.conns.iter().find(|(_, conn)| matches!(conn.state, State::Priming(_)));
            let Some((&id, _)) = priming else { return false };
            self.end_priming(id, PrimeEnd::Data, now);
        }
        let Some(id) = self.reserve.pop_front() else { return false };
        let Some(conn) = self.conns.get_mut(&id) else { return false };
        conn.state = State::Active;
        conn.turn_bytes = 0;
        conn.used_at = now;
        self.stats.turns += 1;
        true
    }

    fn feed(&mut self, id: ConnId, now: Instant) {
        loop {
            let Some(conn) = self.conns.get(&id) else { return };
            // Feeding another one may have ended its turn.
            if !conn.is_active() {
                return;
            }
            let stripe_len = stripe_len(&self.config, conn);
            let share = self.config.flying_bytes_max / self.tuner.active().max(1) as u64;
            if conn.flying_bytes >= flying_target(conn, stripe_len, share) {
                return;
            }
            let flying_total: u64 = self.conns.values().map(|conn| conn.flying_bytes).sum();
            if flying_total + stripe_len > self.config.flying_bytes_max {
                return;
            }
            let Some((job, stripe, again)) = self.jobs.next(id, stripe_len) else { return };
            let Some(conn) = self.conns.get_mut(&id) else { return };
            conn.carry(job, &stripe, now);
            conn.turn_bytes += stripe.bytes;
            self.stats.stripes_again += u64::from(again);
            let turn_over = conn.turn_bytes >= self.config.turn_stripes * stripe_len;
            self.outputs.push_back(Output::Send { conn: id, job, stripe, again });
            if turn_over && self.jobs.have_waiting() {
                self.rotate(id, now);
                return;
            }
        }
    }

    /// `id` has had its turn: the next reserve becomes active in its place.
    fn rotate(&mut self, id: ConnId, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.turn_bytes = 0;
        if self.reserve.is_empty() {
            self.stats.turns += 1;
            return;
        }
        conn.state = State::Reserve;
        self.reserve.push_back(id);
        if self.activate_next(now) {
            let newest = self.active_ids().into_iter().find(|id| self.conns[id].turn_bytes == 0);
            if let Some(newest) = newest {
                self.feed(newest, now);
            }
        }
    }
}

/// A predetermined amount that fits the connection's window: what it delivers in a round trip, or in
/// `STRIPE_TIME` where the round trip is shorter.
fn stripe_len(config: &SetConfig, conn: &Conn) -> u64 {
    let goodput = conn.meter.goodput();
    if goodput == 0.0 {
        return (256 << 10_u64).clamp(config.stripe_bytes_min, config.stripe_bytes_max);
    }
    let bytes = goodput * conn.sample.rtt.max(STRIPE_TIME).as_secs_f64();
    let power = (bytes as u64).max(1).next_power_of_two();
    power.clamp(config.stripe_bytes_min, config.stripe_bytes_max)
}

/// How much a connection may have unconfirmed, so that it neither runs dry nor hoards: two windows, but
/// never on the word of a window alone that was not used, and no more than its share.
fn flying_target(conn: &Conn, stripe_len: u64, share: u64) -> u64 {
    let per_round = conn.meter.goodput() * conn.sample.rtt.as_secs_f64();
    let window = (conn.sample.window_bytes as f64).min(per_round * 3.0).max(per_round);
    (2 * stripe_len + 2 * window as u64).min(share.max(stripe_len))
}
