//! Work is given out: who carries data, for how long, and how much of it at a time.

use std::time::{Duration, Instant};

use super::super::{ConnId, Output};
use super::conn::{Conn, Role, State};
use super::prime::PrimeEnd;
use super::{Set, SetConfig};

/// A stripe should keep a connection busy for about this long, or a round trip.
const STRIPE_TIME: Duration = Duration::from_millis(20);
/// A connection of which nothing is known is given no more than this at a time, in bytes.
const UNKNOWN_BYTES_MAX: u64 = 256 << 10;
/// A stripe is not given to a connection that has others to send for longer than this.
const WAIT_MAX: Duration = Duration::from_secs(2);

impl Set {
    /// Fills the active subset and gives out stripes.
    pub(super) fn assign(&mut self, now: Instant) {
        self.outputs.extend(self.jobs.newly_drained().into_iter().map(Output::Drained));
        while self.jobs.have_waiting() && self.missing_active() > 0 {
            if !self.activate_next(now) {
                break;
            }
        }
        if !self.jobs.have_waiting() {
            return;
        }
        // The emptiest goes first, and each gets one stripe at a time, so that what there is spreads evenly.
        while let Some(id) = self.hungriest() {
            if !self.feed(id, now) {
                return;
            }
        }
    }

    /// How many more should carry data where some waits.
    pub(super) fn missing_active(&self) -> usize {
        self.crowd.fits(self.tuner.active()).saturating_sub(self.count(Role::Active))
    }

    /// Of those that should be given more, the one that has the least.
    fn hungriest(&self) -> Option<ConnId> {
        let share = self.config.flying_bytes_max / self.tuner.active().max(1) as u64;
        let hungry = self.conns.iter().filter(|(_, conn)| {
            conn.is_active() && conn.flying_bytes < flying_target(&self.config, conn, share)
        });
        hungry.min_by_key(|(_, conn)| conn.flying_bytes).map(|(&id, _)| id)
    }

    pub(super) fn active_ids(&self) -> Vec<ConnId> {
        let active = self.conns.iter().filter(|(_, conn)| conn.is_active());
        active.map(|(&id, _)| id).collect()
    }

    /// Makes the best reserve active; without one, a connection that is still being primed: data has the right of
    /// way. False if there is neither.
    fn activate_next(&mut self, now: Instant) -> bool {
        if self.reserve.is_empty() {
            let priming =
                self.conns.iter().find(|(_, conn)| matches!(conn.state, State::Priming(_)));
            let Some((&id, _)) = priming else { return false };
            self.end_priming(id, PrimeEnd::Data, now);
        }
        let Some(id) = self.best_reserve(now).and_then(|at| self.reserve.remove(at)) else {
            return false;
        };
        let Some(conn) = self.conns.get_mut(&id) else { return false };
        conn.state = State::Active;
        conn.is_opened_up = true;
        conn.turn_bytes = 0;
        conn.used_at = now;
        self.stats.turns += 1;
        true
    }

    /// Where among the reserves the next one is: before others, those go of which something was heard since their
    /// handshakes, then those whose windows have not closed since, and then those that have waited longest.
    fn best_reserve(&self, now: Instant) -> Option<usize> {
        let rank = |&at: &usize| {
            let conn = &self.conns[&self.reserve[at]];
            (!conn.is_heard, self.is_unused(conn, now))
        };
        (0..self.reserve.len()).min_by_key(rank)
    }

    /// Gives `id` a stripe. False if there is none to be had.
    fn feed(&mut self, id: ConnId, now: Instant) -> bool {
        let Some(conn) = self.conns.get(&id) else { return false };
        let stripe_len = stripe_len(&self.config, conn);
        let flying_total: u64 = self.conns.values().map(|conn| conn.flying_bytes).sum();
        if flying_total + stripe_len > self.config.flying_bytes_max {
            return false;
        }
        let Some((job, stripe, again)) = self.jobs.next(id, stripe_len) else { return false };
        let Some(conn) = self.conns.get_mut(&id) else { return false };
        conn.carry(job, &stripe, now);
        conn.turn_bytes += stripe.bytes;
        self.stats.stripes_again += u64::from(again);
        let turn_over = conn.turn_bytes >= self.config.turn_stripes * stripe_len;
        self.outputs.push_back(Output::Send { conn: id, job, stripe, again });
        if turn_over && self.jobs.have_waiting() {
            self.rotate(id, now);
        }
        true
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
        self.activate_next(now);
    }
}

/// What a connection delivers in a round trip, or in `STRIPE_TIME` where the round trip is shorter; what its window
/// holds where nothing is known yet. In bytes.
fn step_bytes(config: &SetConfig, conn: &Conn) -> u64 {
    let bytes = conn.meter.pace() * conn.sample.rtt.max(STRIPE_TIME).as_secs_f64();
    match conn.sample.window_bytes {
        _ if bytes > 0.0 => bytes as u64,
        0 => config.stripe_bytes_min,
        window_bytes => window_bytes.min(UNKNOWN_BYTES_MAX),
    }
}

/// A predetermined amount that fits the connection's window.
fn stripe_len(config: &SetConfig, conn: &Conn) -> u64 {
    let power = step_bytes(config, conn).max(1).next_power_of_two();
    power.clamp(config.stripe_bytes_min, config.stripe_bytes_max)
}

/// How much a connection may have unconfirmed, so that it neither runs dry nor hoards: what it delivers in two
/// steps and two windows, but never on the word of a window alone that is not used, and no more than its share.
fn flying_target(config: &SetConfig, conn: &Conn, share: u64) -> u64 {
    let per_round = (conn.meter.pace() * conn.sample.rtt.as_secs_f64()) as u64;
    let window = conn.sample.window_bytes;
    let is_used = conn.sample.in_flight_bytes * 2 >= window;
    let window = if is_used { window } else { window.min(per_round * 3) }.max(per_round);
    let stripe = stripe_len(config, conn);
    let rounds = 2 * (step_bytes(config, conn) + window);
    let pace = conn.meter.pace();
    let target = if pace == 0.0 {
        // Nothing is known: only what fits, as all of it may have to wait for very long.
        (rounds / stripe * stripe).max(1)
    } else if (stripe as f64) < pace * WAIT_MAX.as_secs_f64() {
        // One that waits behind the one that is sent, where that does not wait for long.
        rounds.max(2 * stripe)
    } else {
        rounds
    };
    target.min(share.max(stripe))
}
