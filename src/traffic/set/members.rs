//! Which connections there are: opened, replaced, retired, and sent out as scouts.

use std::time::{Duration, Instant};

use super::super::{ConnId, Output};
use super::Set;
use super::conn::{Conn, Role, State};
use super::tuner::Load;
use super::verdict::Verdict;

/// Nothing is heard on any connection for at least this long, and the network counts as gone.
const DARK_TIME: Duration = Duration::from_secs(1);
/// Then a new connection is tried this often, and this many at a time.
const SCOUT_INTERVAL: Duration = Duration::from_secs(1);
const SCOUTS_MAX: usize = 16;
/// Once a connection was lost that was up, the set needs so long to be what it was.
const MENDING_TIME: Duration = Duration::from_secs(3);

impl Set {
    /// N as it is now.
    fn wanted(&self) -> usize {
        self.config.connections + self.tuner.active() - self.config.active
    }

    /// Looks whether more connections, or fewer, would do better.
    pub(super) fn tune(&mut self, now: Instant) {
        let active: Vec<&Conn> = self.conns.values().filter(|conn| conn.is_active()).collect();
        let full = active
            .iter()
            .filter(|conn| conn.sample.in_flight_bytes * 2 >= conn.sample.window_bytes)
            .count();
        let queued = active.iter().filter(|conn| conn.sample.has_queue()).count();
        let delivered: u64 = self.conns.values().map(|conn| conn.sample.delivered_bytes).sum();
        let load = Load {
            delivered_bytes: self.delivered_by_gone + delivered,
            is_limited: self.jobs.have_waiting() && full * 2 > active.len() && !self.is_torn(now),
            is_full: queued * 2 > active.len(),
            rtt: active.iter().map(|conn| conn.sample.rtt).max().unwrap_or_default(),
        };
        self.tuner.on_load(load, now);
        self.retire_surplus(now);
    }

    /// Fewer connections are wanted: the emptiest active ones become reserves, and idle reserves go.
    fn retire_surplus(&mut self, now: Instant) {
        while self.count(Role::Active) > self.tuner.active() {
            let active = self.active_ids();
            let Some(&id) = active.iter().min_by_key(|id| self.conns[id].flying_bytes) else {
                return;
            };
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.state = State::Reserve;
                conn.used_at = now;
            }
            self.reserve.push_back(id);
        }
        while self.conns.len() > self.wanted() {
            let idle = self.reserve.iter().find(|id| self.conns[id].stripes.is_empty());
            let Some(&id) = idle else { return };
            self.condemn(id, Verdict::Surplus, now);
        }
    }

    /// Whether there are more than wanted, and one of them could go.
    pub(super) fn has_idle_surplus(&self) -> bool {
        self.conns.len() > self.wanted()
            && self.reserve.iter().any(|id| self.conns[id].stripes.is_empty())
    }

    /// Opens what is missing to N, once lost ones may be opened again.
    pub(super) fn open_missing(&mut self, now: Instant) {
        while self.reopens_at().is_some_and(|at| now >= at) {
            self.open(now);
        }
    }

    /// From when on what is missing to N may be opened.
    pub(super) fn reopens_at(&self) -> Option<Instant> {
        // Once all is confirmed, one connection is enough to hear that it is durable.
        let wanted = if self.jobs.are_done() { 1 } else { self.wanted() };
        (self.conns.len() < wanted).then_some(self.reopen_at)
    }

    fn open(&mut self, now: Instant) {
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        self.stats.opened += 1;
        self.conns.insert(id, Conn::new(now));
        self.outputs.push_back(Output::Open { conn: id });
    }

    /// While the network is gone, connections wait longer and longer before they try again (RFC 9002,
    /// 6.2.1). New ones notice at once that it is back, and then the old ones are silent beside them.
    pub(super) fn scout(&mut self, now: Instant) {
        if self.is_dark(now)
            && now - self.scouted_at >= SCOUT_INTERVAL
            && self.count(Role::Opening) < SCOUTS_MAX
        {
            self.scouted_at = now;
            self.open(now);
        }
    }

    /// From when on the network counts as gone for want of any connection, and one more is tried.
    pub(super) fn scouts_at(&self) -> Option<Instant> {
        let is_bare = self.conns.values().all(Conn::is_opening);
        let may_scout = is_bare && self.jobs.are_awaited() && self.conns.len() < SCOUTS_MAX;
        may_scout.then(|| (self.alive_at + DARK_TIME).max(self.scouted_at + SCOUT_INTERVAL))
    }

    /// Whether connections are silent, or were just replaced because they were: what the set does is a
    /// matter of how soon it is whole again, not of how many there are.
    fn is_torn(&self, now: Instant) -> bool {
        let is_silent = |conn: &Conn| {
            conn.is_active() && !conn.stripes.is_empty() && conn.meter.quiet_time(now) >= DARK_TIME
        };
        self.torn_at.is_some_and(|at| now - at < MENDING_TIME) || self.conns.values().any(is_silent)
    }

    /// Whether the whole network seems to be gone.
    pub fn is_dark(&self, now: Instant) -> bool {
        if !self.jobs.are_awaited() {
            return false;
        }
        let up = || self.conns.values().filter(|conn| !conn.is_opening());
        if up().next().is_none() {
            return now - self.alive_at >= DARK_TIME;
        }
        let patience = |conn: &Conn| DARK_TIME.max(2 * conn.meter.silence_max());
        let mut waiting = up()
            .filter(|conn| !conn.stripes.is_empty() && conn.sample.in_flight_bytes > 0)
            .peekable();
        let is_heard = |conn: &Conn| conn.meter.acked_at().is_some_and(|at| now - at < DARK_TIME);
        waiting.peek().is_some()
            && waiting.all(|conn| conn.meter.quiet_time(now) >= patience(conn))
            && !up().any(is_heard)
    }
}
